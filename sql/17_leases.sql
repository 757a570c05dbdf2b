-- Leases: the database grants batches, one at a time, never more than approved.

-- How long a lease lives without being renewed.
create function backfill_private.lease_ttl()
returns interval
language sql
immutable
set search_path = ''
as $$
  select interval '60 seconds'
$$;

-- A new fence: 244 random bits, hex.
create function backfill_private.new_fence()
returns text
language sql
volatile
set search_path = ''
as $$
  select replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')
$$;

-- Seconds until the next batch may start, and how many sessions it may hold.
--
-- Exact over every half-open window of 60 s: batches keep their distance, and the starts of the last 60 s are counted.
create function backfill_private.allowance(
  p_run public.backfill_runs, out wait_s numeric, out sessions integer
)
language plpgsql
set search_path = ''
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_batch integer := (p_run.request ->> 'batch_size')::integer;
  v_throttle integer := (p_run.request ->> 'throttle_per_minute')::integer;
  v_started bigint;
  v_oldest timestamptz;
begin
  wait_s := greatest(extract(epoch from p_run.next_batch_at - v_now), 0);
  sessions := v_batch;
  if v_throttle is null or wait_s > 0 then
    return;
  end if;
  select coalesce(sum(s.sessions), 0), min(s.started_at) into v_started, v_oldest
  from backfill_private.starts as s
  where s.run_id = p_run.run_id and s.started_at > v_now - interval '60 seconds';
  if v_started + v_batch > v_throttle then
    wait_s := greatest(extract(epoch from v_oldest + interval '60 seconds' - v_now), 0.001);
  end if;
end
$$;

-- Skip the pending items among these that somebody else has filled; note which components are filled in the others. Hardly
-- ever is one there: what else there is to ask about it is asked of those alone that have a row.
create function backfill_private.skip_filled(p_run public.backfill_runs, p_ordinals integer[])
returns integer
language plpgsql
set search_path = ''
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_skipped integer;
  v_touched integer[] := array(
    select s.ordinal from backfill_private.standing_of(p_run, p_ordinals, false) as s
    union
    select i.ordinal from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = any (p_ordinals) and i.filled <> '{}');
begin
  if v_touched = '{}' then
    return 0;
  end if;
  with found as (
    select e.ordinal, array_agg(e.component order by e.component) filter (where e.is_present and not e.has_receipt) as filled
    from backfill_private.effects(p_run.run_id, v_touched) as e
    group by e.ordinal
  ), noted as (
    update public.backfill_items as i
    set filled = coalesce(f.filled, '{}'),
        state = case when f.filled @> i.components then 'skipped' else i.state end,
        settled_at = case when f.filled @> i.components then backfill_private.clock() end
    from found as f
    where i.run_id = p_run.run_id and i.ordinal = f.ordinal and (f.filled is not null or i.filled <> '{}')
    returning i.state
  )
  select count(*) filter (where n.state = 'skipped')::integer into v_skipped from noted as n;
  return v_skipped;
end
$$;

-- What is locked of a target while sessions of it are leased: a claim takes it alone, calls in bulk share it.
create function backfill_private.target_lock(p_target text)
returns bigint
language sql
immutable
set search_path = ''
as $$
  select hashtextextended(p_target, 20251102)
$$;

-- Lease the next items of one phase.
--
-- p_limit  at most so many
-- returns  the leased items' grants: [{ordinal, session_id, phase, batch, fence, steps}]
create function backfill_private.lease_items(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer
)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run.run_id);
  v_ordinals integer[];
  v_skipped integer;
begin
  -- Claims of two runs may want the same session: one at a time, so that the later sees what the earlier leased, and none
  -- beside calls in bulk, whose leases nobody sees.
  perform pg_advisory_xact_lock(backfill_private.target_lock(p_run.target));
  loop
    v_ordinals := backfill_private.next_items(p_run.run_id, v_phase, p_limit);
    exit when v_ordinals is null;
    v_skipped := backfill_private.skip_filled(p_run, v_ordinals);
    exit when v_skipped = 0;
  end loop;
  perform backfill_private.look_before(p_run, v_ordinals);
  return backfill_private.grant_fences(p_run, v_ordinals, p_claim_id, p_worker);
end
$$;

-- The phase of the next batch; null where no session is pending. The canary comes first whatever it waits for; after it
-- a session that backs off holds nobody up.
create function backfill_private.pending_phase(p_run_id uuid)
returns text
language sql
stable
set search_path = ''
as $$
  with first as (
    select i.phase from public.backfill_items as i
    where i.run_id = p_run_id and i.state = 'pending' order by i.ordinal limit 1
  ), ready as (
    select i.phase from public.backfill_items as i
    where i.run_id = p_run_id and i.state = 'pending' and (i.not_before is null or i.not_before <= backfill_private.clock())
    order by i.ordinal limit 1
  )
  select case when f.phase = 'priority' then f.phase else coalesce((select r.phase from ready as r), f.phase) end
  from first as f
$$;

-- The next pending items of a phase, locked; those leased by another run, and those that back off, are passed over.
create function backfill_private.next_items(p_run_id uuid, p_phase text, p_limit integer)
returns integer[]
language sql
set search_path = ''
as $$
  select array_agg(n.ordinal order by n.ordinal) from (
    select i.ordinal from public.backfill_items as i
    where i.run_id = p_run_id and i.state = 'pending' and i.phase = p_phase
      and (i.not_before is null or i.not_before <= backfill_private.clock())
      and not exists (select from public.backfill_items as other
                      where other.source = i.source and other.session_id = i.session_id and other.state = 'leased')
    order by i.ordinal
    limit p_limit
    for update of i skip locked
  ) as n
$$;

-- Lease these items under new fences. The fences leave the database here and nowhere else.
create function backfill_private.grant_fences(
  p_run public.backfill_runs, p_ordinals integer[], p_claim_id uuid, p_worker text
)
returns jsonb
language sql
set search_path = ''
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  with fences as materialized (
    select o as ordinal, backfill_private.new_fence() as fence from unnest(p_ordinals) as o
  ), leased as (
    update public.backfill_items as i
    set state = 'leased', lease_kind = 'score', attempts = i.attempts + (i.claim_id is distinct from p_claim_id)::integer,
        fence_hash = sha256(convert_to(f.fence, 'UTF8')),
        lease_until = backfill_private.clock() + backfill_private.lease_ttl(),
        started_at = case when i.claim_id = p_claim_id then i.started_at else backfill_private.clock() end, worker = left(p_worker, 200), claim_id = p_claim_id
    from fences as f
    where i.run_id = p_run.run_id and i.ordinal = f.ordinal
    returning i, f.fence
  )
  select coalesce(jsonb_agg(jsonb_build_object(
      'ordinal', (l.i).ordinal, 'session_id', (l.i).session_id, 'phase', (l.i).phase, 'batch', (l.i).batch,
      'attempt', (l.i).attempts, 'fence', l.fence, 'steps', coalesce(s.steps, '[]'))
    order by (l.i).ordinal), '[]')
  from leased as l
  left join backfill_private.steps(p_run, p_ordinals) as s on s.ordinal = (l.i).ordinal
$$;

-- Count starts, and set when the next batch may start.
create function backfill_private.count_starts(p_run public.backfill_runs, p_sessions integer)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now timestamptz := backfill_private.clock();
begin
  insert into backfill_private.starts (run_id, started_at, sessions)
  values (p_run.run_id, v_now, p_sessions)
  on conflict (run_id, started_at) do update set sessions = backfill_private.starts.sessions + excluded.sessions;
  delete from backfill_private.starts where run_id = p_run.run_id and started_at < v_now - interval '10 minutes';
  update public.backfill_runs
  set next_batch_at = v_now + backfill_private.batch_spacing_s(request) * interval '1 second'
  where run_id = p_run.run_id;
end
$$;

-- Grant a batch: count its starts, set when the next may start, say so in the chain.
create function backfill_private.grant_batch(p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_grants jsonb := backfill_private.lease_items(p_run, p_claim_id, p_worker, p_limit);
begin
  if jsonb_array_length(v_grants) = 0 then
    return v_grants;
  end if;
  perform backfill_private.count_starts(p_run, jsonb_array_length(v_grants));
  update public.backfill_runs set batches_granted = batches_granted + 1 where run_id = p_run.run_id;
  perform backfill_private.record(p_run.run_id, 'batch_granted', jsonb_build_object(
    'number', p_run.batches_granted + 1, 'claim', p_claim_id, 'worker', left(p_worker, 200),
    'phase', v_grants -> 0 ->> 'phase', 'sessions', jsonb_array_length(v_grants),
    'ordinals', (select jsonb_agg(g -> 'ordinal') from jsonb_array_elements(v_grants) as g)));
  return v_grants;
end
$$;

-- Is this project another one than the run was planned for? Where the project has no name, nobody can tell.
create function backfill_private.is_elsewhere(p_run public.backfill_runs)
returns boolean
language sql
stable
set search_path = ''
as $$
  select coalesce((select lower(s.environment) is distinct from lower(p_run.environment)
    from public.backfill_settings as s where s.environment is not null), false)
$$;

-- How many starts a minute the running runs take together, but for the one named. A run without a throttle, older than
-- the project's bound, takes all of it.
create function backfill_private.share_taken(p_but uuid)
returns bigint
language sql
stable
set search_path = ''
as $$
  select coalesce(sum(coalesce((r.request ->> 'throttle_per_minute')::integer, s.max_throttle_per_minute)), 0)
  from public.backfill_runs as r cross join public.backfill_settings as s
  where r.state = 'running' and r.run_id is distinct from p_but
$$;

-- What must hold whenever a run takes a lease; where it does not, the run is paused or expired with the reason. A run
-- whose approval ran out while it was paused is over too.
create function backfill_private.hold_if_changed(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_bare text := (
    select u.name from public.backfill_targets as t, backfill_private.unguarded(t.table_name) as u (name)
    where t.target = p_run.target limit 1);
begin
  if p_run.approved_until <= backfill_private.clock() then
    perform backfill_private.move(p_run.run_id, 'expired', 'the approval ran out');
  elsif p_run.state <> 'running' then
    return;
  elsif p_run.fingerprint is distinct from backfill_private.definitions(p_run.target) then
    perform backfill_private.move(p_run.run_id, 'paused',
      'a scoring function is not the one that was approved: ' || backfill_private.what_changed(p_run));
  elsif v_bare is not null then
    perform backfill_private.move(p_run.run_id, 'paused',
      format('the receipt triggers of %s are missing or not always enabled; backfill check says the SQL', v_bare));
  elsif backfill_private.is_elsewhere(p_run) then
    perform backfill_private.move(p_run.run_id, 'paused', 'this project''s environment is no longer the plan''s');
  elsif backfill_private.share_taken(null) > (select max_throttle_per_minute from public.backfill_settings) then
    perform backfill_private.move(p_run.run_id, 'paused', format('running runs take %s of the %s starts a minute that this project allows',
      backfill_private.share_taken(null), (select max_throttle_per_minute from public.backfill_settings)));
  end if;
end
$$;

-- Claim the next batch.
--
-- p_apart     also of a run in bulk; else its answer says to call backfill_bulk
-- p_claim_id  made by the worker; a claim whose reply was lost is asked again under the same id and gets the same
--             items under new fences, not new starts
-- returns     {state, reason, held_by, granted: […], ahead, bulk, batch, wait_s, wait_for, why, lease_s}
--             ahead: the next batch may be claimed while this one is scored: no throttle and no canary tells when
--             wait_for: throttle | back-off | canary | leases, and in words why
--             a run that is not running grants nothing
-- raises      OB001 no such run, OB010 not allowed, OB013 no claim id
create function backfill_private.claim_batch(p_run_id uuid, p_claim_id uuid, p_worker text, p_apart boolean)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_run public.backfill_runs;
  v_again integer[];
  v_phase text;
  v_answer jsonb := '{"granted": []}'::jsonb;
  v_pace record;
begin
  perform backfill_private.authorize('apply');
  if p_claim_id is null then
    perform backfill_private.refuse('OB013', 'a claim needs an id, made by the worker');
  end if;
  v_run := backfill_private.locked_run(p_run_id);
  perform backfill_private.release_expired();
  if v_run.state in ('running', 'paused') then
    perform backfill_private.hold_if_changed(v_run);
  end if;
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  select array_agg(a.ordinal) into v_again from (
    select i.ordinal from public.backfill_items as i
    where i.run_id = p_run_id and i.claim_id = p_claim_id and i.state = 'leased'
    order by i.ordinal for update) as a;
  v_phase := backfill_private.pending_phase(p_run_id);
  if v_run.state <> 'running' then
    null;
  elsif v_again is not null then
    v_answer := jsonb_build_object('granted', backfill_private.grant_fences(v_run, v_again, p_claim_id, p_worker));
  elsif v_phase is null then
    v_answer := backfill_private.finish_or_wait(v_run);
  elsif v_run.back_off_until > backfill_private.clock() then
    v_answer := backfill_private.wait_until(v_run.back_off_until, 'back-off', v_run.back_off_reason);
  elsif v_phase <> 'priority' and backfill_private.judge_canary(v_run) <> 'passed' then
    v_answer := backfill_private.wait_for('canary', 1, 'the priority sessions are being scored');
  else
    v_pace := backfill_private.allowance(v_run);
    v_answer := case
      when not p_apart and v_phase <> 'priority' and v_pace.wait_s = 0 and v_run.request ->> 'mode' = 'bulk'
        and backfill_private.next_items(p_run_id, v_phase, 1) is not null then '{"granted": [], "bulk": true}'
      when v_pace.wait_s > 0 then backfill_private.wait_for('throttle', v_pace.wait_s, format('%s starts a minute', v_run.request ->> 'throttle_per_minute'))
      else backfill_private.grant_or_wait(v_run, p_claim_id, p_worker, v_pace.sessions) end;
  end if;
  return v_answer || (select jsonb_build_object('state', r.state, 'reason', r.reason, 'held_by', r.held_by,
      'batch', r.batches_granted, 'ahead', r.request ->> 'throttle_per_minute' is null and v_phase is distinct from 'priority',
      'lease_s', extract(epoch from backfill_private.lease_ttl()))
    from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Claim the next batch.
create function backfill_private.claim(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
security definer
set search_path = ''
as $$
  select backfill_private.claim_batch(p_run_id, p_claim_id, p_worker, false)
$$;

-- Claim the next batch of a run in bulk for calls that are made one by one: where a call in bulk has failed, each session
-- then counts its own attempts.
create function backfill_private.claim_apart(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
security definer
set search_path = ''
as $$
  select backfill_private.claim_batch(p_run_id, p_claim_id, p_worker, true)
$$;

-- The answer to a claim that grants nothing: for what to wait, for how many seconds, and why.
create function backfill_private.wait_for(p_what text, p_seconds numeric, p_why text)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select jsonb_build_object('granted', '[]'::jsonb, 'wait_s', p_seconds, 'wait_for', p_what, 'why', p_why)
$$;

-- The same, until a moment.
create function backfill_private.wait_until(p_until timestamptz, p_what text, p_why text)
returns jsonb
language sql
set search_path = ''
as $$
  select backfill_private.wait_for(p_what, greatest(extract(epoch from p_until - backfill_private.clock()), 0.001), p_why)
$$;

-- Who else holds the sessions that this run waits for: its own leases, and those of others on its pending sessions.
create function backfill_private.lease_holders(p_run_id uuid)
returns text
language sql
stable
set search_path = ''
as $$
  select format('%s sessions are leased by %s until %s UTC', count(*),
    string_agg(distinct coalesce(held.worker, 'an undo')
      || case when held.run_id <> p_run_id then ' for run ' || held.run_id else '' end, ', '),
    to_char(max(held.lease_until) at time zone 'UTC', 'HH24:MI:SS'))
  from public.backfill_items as held
  where held.state = 'leased' and (held.run_id = p_run_id or exists (
    select from public.backfill_items as mine
    where mine.run_id = p_run_id and mine.state = 'pending'
      and mine.source = held.source and mine.session_id = held.session_id))
  having count(*) > 0
$$;

-- Grant a batch; where all pending sessions of the phase back off, or are leased by other runs, wait for them; where
-- all turned out to be filled, look again: the next phase has a gate of its own.
create function backfill_private.grant_or_wait(p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run.run_id);
  v_grants jsonb := backfill_private.grant_batch(p_run, p_claim_id, p_worker, p_limit);
  v_tired record;
begin
  if jsonb_array_length(v_grants) > 0 then
    return jsonb_build_object('granted', v_grants);
  elsif backfill_private.pending_phase(p_run.run_id) is distinct from v_phase then
    return backfill_private.claim_batch(p_run.run_id, p_claim_id, p_worker, true);
  end if;
  select i.not_before, i.session_id, i.error_code, i.error_message into v_tired from public.backfill_items as i
  where i.run_id = p_run.run_id and i.state = 'pending' and i.phase = v_phase
  order by i.not_before nulls first limit 1;
  if v_tired.not_before > backfill_private.clock() then
    return backfill_private.wait_until(v_tired.not_before, 'back-off',
      concat_ws(' ', 'session', v_tired.session_id, 'met', v_tired.error_code, v_tired.error_message));
  end if;
  return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run.run_id));
end
$$;

-- Nothing is pending: complete the run, or wait for the sessions that are under way.
create function backfill_private.finish_or_wait(p_run public.backfill_runs)
returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  if exists (select from public.backfill_items as i where i.run_id = p_run.run_id and i.state = 'leased') then
    return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run.run_id));
  end if;
  if exists (select from public.backfill_items as i where i.run_id = p_run.run_id and i.phase = 'priority')
    and backfill_private.judge_canary(p_run) = 'failed' then
    return '{"granted": []}'::jsonb;
  end if;
  perform backfill_private.move(p_run.run_id, 'completed', null, (
    select jsonb_object_agg(s.state, s.n)
    from (select i.state, count(*) as n from public.backfill_items as i where i.run_id = p_run.run_id group by 1) as s));
  return '{"granted": []}'::jsonb;
end
$$;

-- Renew the leases of a claim that is still under way.
--
-- returns  how many are still ours; fewer than expected: stop calling for the others at once
create function backfill_private.renew(p_run_id uuid, p_claim_id uuid)
returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_renewed integer;
begin
  perform backfill_private.authorize('apply');
  with mine as (
    -- In the order in which settling locks them, or the two would wait for each other.
    select i.ordinal from public.backfill_items as i
    where i.run_id = p_run_id and i.claim_id = p_claim_id and i.state = 'leased'
      and i.lease_until > backfill_private.clock()
    order by i.ordinal for no key update
  )
  update public.backfill_items as i
  set lease_until = backfill_private.clock() + backfill_private.lease_ttl()
  from mine where i.run_id = p_run_id and i.ordinal = mine.ordinal;
  get diagnostics v_renewed = row_count;
  return v_renewed;
end
$$;

revoke all on function
  backfill_private.lease_ttl(),
  backfill_private.new_fence(),
  backfill_private.allowance(public.backfill_runs),
  backfill_private.skip_filled(public.backfill_runs, integer[]),
  backfill_private.target_lock(text),
  backfill_private.lease_items(public.backfill_runs, uuid, text, integer),
  backfill_private.pending_phase(uuid),
  backfill_private.next_items(uuid, text, integer),
  backfill_private.grant_fences(public.backfill_runs, integer[], uuid, text),
  backfill_private.grant_batch(public.backfill_runs, uuid, text, integer),
  backfill_private.is_elsewhere(public.backfill_runs),
  backfill_private.share_taken(uuid),
  backfill_private.hold_if_changed(public.backfill_runs),
  backfill_private.wait_for(text, numeric, text),
  backfill_private.wait_until(timestamptz, text, text),
  backfill_private.lease_holders(uuid),
  backfill_private.claim_batch(uuid, uuid, text, boolean),
  backfill_private.claim(uuid, uuid, text),
  backfill_private.claim_apart(uuid, uuid, text),
  backfill_private.count_starts(public.backfill_runs, integer),
  backfill_private.grant_or_wait(public.backfill_runs, uuid, text, integer),
  backfill_private.finish_or_wait(public.backfill_runs),
  backfill_private.renew(uuid, uuid)
from public;
grant execute on function
  backfill_private.claim(uuid, uuid, text), backfill_private.claim_apart(uuid, uuid, text), backfill_private.renew(uuid, uuid)
to service_role;

create function public.backfill_claim(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
set search_path = ''
as $$
  select backfill_private.claim(p_run_id, p_claim_id, p_worker)
$$;

create function public.backfill_claim_apart(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
set search_path = ''
as $$
  select backfill_private.claim_apart(p_run_id, p_claim_id, p_worker)
$$;

create function public.backfill_renew(p_run_id uuid, p_claim_id uuid)
returns integer
language sql
set search_path = ''
as $$
  select backfill_private.renew(p_run_id, p_claim_id)
$$;

revoke all on function
  public.backfill_claim(uuid, uuid, text), public.backfill_claim_apart(uuid, uuid, text), public.backfill_renew(uuid, uuid)
from public, anon, authenticated, service_role;
grant execute on function
  public.backfill_claim(uuid, uuid, text), public.backfill_claim_apart(uuid, uuid, text), public.backfill_renew(uuid, uuid)
to service_role;

comment on function public.backfill_claim(uuid, uuid, text) is
  'Claim the next batch of a run, with a fence for each session. For the client.';
comment on function public.backfill_claim_apart(uuid, uuid, text) is
  'Claim a batch of a run in bulk to score it session by session, after a call in bulk has failed. For the client.';
comment on function public.backfill_renew(uuid, uuid) is
  'Renew the leases of a claim. For the client.';
