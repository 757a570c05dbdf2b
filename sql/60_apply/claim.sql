-- Claims: the next batch for a worker, or why it has to wait.

-- Look at what the noted batches of calls in bulk ran into: critical faults, trouble, the circuit breaker. This may
-- pause the run. The caller has locked its row.
--
-- returns  whether there was any such batch
create function backfill_private.look_at_bulk(p_run_id uuid)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch record;
  v_is_any boolean := false;
  v_well bigint;
begin
  for v_batch in
    with looked_at as (
      delete from backfill_private.unnoted as u
      where u.run_id = p_run_id and u.is_noted
      returning u.unnoted_id, u.is_well, u.trouble, u.settled, u.details
    )
    select l.is_well, l.trouble, l.settled, coalesce((l.details #>> '{states,done}')::bigint, 0) as done
    from looked_at as l
    order by l.unnoted_id
  loop
    v_is_any := true;
    if v_batch.is_well then
      v_well := coalesce(v_well, 0) + v_batch.done;
    else
      perform backfill_private.note_well(p_run_id, v_well);
      v_well := null;
      perform backfill_private.record_critical(p_run_id, null, v_batch.settled);
      perform backfill_private.note_trouble(p_run_id, v_batch.trouble, v_batch.settled);
      perform backfill_private.break_circuit(p_run_id, v_batch.settled);
    end if;
  end loop;
  perform backfill_private.note_well(p_run_id, v_well);
  return v_is_any;
end
$$;

-- A run, locked as by backfill_private.locked_run, after a look at what its calls in bulk ran into. A claim takes it,
-- and so does every other verb of a run that may have been running, so that none misses what would have paused the run.
--
-- raises  OB001 no such run, OB002 its state is none of the given
create function backfill_private.caught_up_run(p_run_id uuid, p_states text[] default null)
returns public.backfill_runs
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.locked_run(p_run_id);
begin
  if backfill_private.look_at_bulk(p_run_id) or p_states is not null then
    v_run := backfill_private.locked_run(p_run_id, p_states);
  end if;
  return v_run;
end
$$;

-- Check what must hold whenever a run takes a lease. If it does not hold, the run is paused or expired with the reason.
-- A run whose approval ran out while it was paused is over too.
create function backfill_private.hold_if_changed(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_held record;
begin
  if p_run.approved_until <= backfill_private.clock() then
    perform backfill_private.move(p_run.run_id, 'expired', 'the approval ran out');
  elsif p_run.state = 'running' then
    v_held := backfill_private.in_the_way(p_run);
    if v_held.cause is not null then
      perform backfill_private.move(p_run.run_id, 'paused', v_held.reason, p_cause => v_held.cause);
    end if;
  end if;
end
$$;

-- The sessions that were granted under a claim and are leased under it still, locked. Null: none. What was granted is
-- asked of the chain. An item names its claim only while it is leased. It is not asked for its state, or an index of
-- all leases would seem as good, in which those of before may still stand: see low_water.sql.
create function backfill_private.granted_before(p_run_id uuid, p_claim_id uuid)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_granted integer[] := array(
    select unnest(backfill_private.told_ordinals(e.details))
    from public.backfill_events as e
    where e.run_id = p_run_id
      and e.kind = 'batch_granted'
      and e.details ->> 'claim' = p_claim_id::text);
  v_again integer[];
begin
  if v_granted = '{}' then
    return null;
  end if;
  select array_agg(a.ordinal) into v_again
  from (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.ordinal = any (v_granted)
      and i.claim_id = p_claim_id
    order by i.ordinal
    for update
  ) as a;
  return v_again;
end
$$;

-- Claim the next batch.
--
-- p_apart     also of a run in bulk. Otherwise the answer for such a run says to call backfill_bulk
-- p_claim_id  made by the worker. If the reply of a claim was lost, the worker asks again under the same id. It gets
--             the same items under new fences, and these are no new starts
-- returns     {state, reason, held_by, granted: […], ahead, bulk, sessions, batch, wait_s, wait_for, why, lease_s}
--             ahead: no throttle and no canary decides when, so the next batch may be claimed while this one is scored
--             sessions: beside bulk, how many a first call asks for
--             wait_for: throttle | health | back-off | canary | leases | hours, and why in words
--             a run that is not running grants nothing
-- raises      OB001 no such run, OB010 not allowed, OB013 no claim id
create function backfill_private.claim_batch(p_run_id uuid, p_claim_id uuid, p_worker text, p_apart boolean)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_again integer[];
  v_phase text;
  v_answer jsonb := '{"granted": []}'::jsonb;
  v_hours record;
  v_pace record;
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_bounds(jsonb_build_object('the name of the worker', p_worker));
  if p_claim_id is null then
    perform backfill_private.refuse('OB013', 'a claim needs an id, made by the worker',
      format('backfill apply %s', p_run_id));
  end if;
  v_run := backfill_private.caught_up_run(p_run_id);
  perform backfill_private.release_expired();
  if v_run.state in ('running', 'paused') then
    perform backfill_private.hold_if_changed(v_run);
  end if;
  v_run := backfill_private.run_now(p_run_id);
  v_again := backfill_private.granted_before(p_run_id, p_claim_id);
  v_phase := backfill_private.pending_phase(p_run_id);
  v_hours := backfill_private.standing_wait(v_run);
  if v_run.state <> 'running' then
    null;
  elsif v_again is not null then
    v_answer := jsonb_build_object('granted', backfill_private.grant_fences(v_run, v_again, p_claim_id, p_worker));
    perform backfill_private.stop_unselected(v_run, v_again);
  elsif v_phase is null then
    v_answer := backfill_private.finish_or_wait(v_run);
  elsif v_run.back_off_until > backfill_private.clock() then
    v_answer := backfill_private.wait_until(v_run.back_off_until, 'back-off', v_run.back_off_reason);
  elsif v_hours.until is not null then
    v_answer := backfill_private.wait_until(v_hours.until, 'hours', v_hours.why);
  elsif v_phase <> 'priority' and backfill_private.judge_canary(v_run) <> 'passed' then
    v_answer := backfill_private.wait_for('canary', 1, 'the canary is being scored');
  else
    v_pace := backfill_private.allowance(v_run);
    v_answer := case
      when backfill_private.is_on_trial(p_run_id)
        then backfill_private.call_witness(
          v_run, v_phase, p_claim_id, p_worker,
          case when v_pace.wait_s > 0
            then backfill_private.wait_for(v_pace.wait_for, v_pace.wait_s, v_pace.why) end)
      when not p_apart and v_phase <> 'priority' and v_pace.wait_s = 0 and v_run.request ->> 'mode' = 'bulk'
        and backfill_private.next_in_bulk(p_run_id, 1) is not null
        then jsonb_build_object('granted', '[]'::jsonb, 'bulk', true, 'sessions', backfill_private.first_in_bulk(v_run))
      when v_pace.wait_s > 0
        then backfill_private.wait_for(v_pace.wait_for, v_pace.wait_s, v_pace.why)
      else backfill_private.grant_or_wait(v_run, p_claim_id, p_worker, v_pace.sessions) end;
  end if;
  return v_answer || (
    select jsonb_build_object(
      'state', r.state,
      'reason', r.reason,
      'held_by', r.held_by,
      'batch', r.batches_granted,
      'ahead', backfill_private.rate_of(r) is null and v_phase is distinct from 'priority',
      'lease_s', extract(epoch from backfill_private.lease_ttl()))
    from backfill_private.run_now(p_run_id) as r);
end
$$;

-- Claim the next batch.
create function backfill_private.claim(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.claim_batch(p_run_id, p_claim_id, p_worker, false)
$$;

-- Claim the next batch of a run in bulk, for calls that are made one by one. After a call in bulk has failed, each
-- session then counts its own attempts.
create function backfill_private.claim_apart(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.claim_batch(p_run_id, p_claim_id, p_worker, true)
$$;

-- The answer to a claim that grants nothing: what to wait for, for how many seconds, and why.
create function backfill_private.wait_for(p_what text, p_seconds numeric, p_why text)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('granted', '[]'::jsonb, 'wait_s', p_seconds, 'wait_for', p_what, 'why', p_why)
$$;

-- The same, until a moment.
create function backfill_private.wait_until(p_until timestamptz, p_what text, p_why text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.wait_for(
    p_what, greatest(extract(epoch from p_until - backfill_private.clock()), 0.001), p_why)
$$;

-- Grant a batch. A session that has to be called alone waits until nothing else of the run is under way, and all others
-- wait for it. If all pending sessions of the phase back off, or are leased by other runs, wait for them. If all
-- turned out to be filled or no longer selected, look again: the next phase has a gate of its own.
create function backfill_private.grant_or_wait(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run.run_id);
  v_alone text := backfill_private.session_alone(p_run);
  v_grants jsonb;
begin
  if v_alone is not null and exists (
    select from public.backfill_items as i where i.run_id = p_run.run_id and i.state = 'leased'
  ) then
    return backfill_private.wait_for('leases', 1, format(
      'session %s met a conflict on a table that is no component''s and is tried once more alone. With '
      'apply --concurrency 1 each is', v_alone));
  end if;
  v_grants := backfill_private.grant_batch(p_run, p_claim_id, p_worker, p_limit);
  if jsonb_array_length(v_grants) > 0 then
    return jsonb_build_object('granted', v_grants);
  elsif backfill_private.pending_phase(p_run.run_id) is distinct from v_phase then
    return backfill_private.claim_batch(p_run.run_id, p_claim_id, p_worker, true);
  end if;
  return backfill_private.wait_for_ready(p_run.run_id, v_phase);
end
$$;

-- No pending session of a phase is ready: wait until the first has backed off, or until other runs give theirs back.
create function backfill_private.wait_for_ready(p_run_id uuid, p_phase text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tired record;
begin
  select i.not_before, i.session_id, i.error_code, i.error_message into v_tired
  from public.backfill_items as i
  where i.run_id = p_run_id
    and i.state = 'pending'
    and i.phase = p_phase
    and coalesce(i.trial, 'resumed') = 'resumed'
  order by i.not_before nulls first
  limit 1;
  if v_tired.not_before > backfill_private.clock() then
    return backfill_private.wait_until(v_tired.not_before, 'back-off',
      concat_ws(' ', 'session', v_tired.session_id, 'met', v_tired.error_code, v_tired.error_message));
  end if;
  perform backfill_private.look_for_late_leases();
  return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run_id));
end
$$;

-- Nothing is pending: complete the run, or wait for the sessions that are under way.
create function backfill_private.finish_or_wait(p_run public.backfill_runs)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from public.backfill_items as i where i.run_id = p_run.run_id and i.state = 'leased') then
    perform backfill_private.look_for_late_leases();
    return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run.run_id));
  end if;
  if exists (select from public.backfill_items as i where i.run_id = p_run.run_id and i.phase = 'priority')
    and backfill_private.judge_canary(p_run) = 'failed'
  then
    return '{"granted": []}'::jsonb;
  end if;
  perform backfill_private.move(p_run.run_id, 'completed', null, (
    select jsonb_object_agg(s.state, s.n)
    from (
      select i.state, count(*) as n
      from public.backfill_items as i
      where i.run_id = p_run.run_id
      group by 1) as s));
  return '{"granted": []}'::jsonb;
end
$$;
