-- Bulk: claim, score and settle a batch in one call of the API and one transaction, as the caller's role.
--
-- State, receipts and rows commit together, so a lost reply or a killed worker leaves nothing to look up: a batch has
-- happened or it has not. Many such calls go on side by side, which they could not under the lock of the run: they share
-- an advisory lock that every verb takes alone, and leave their word for the audit chain in a table; whoever holds the
-- run next writes it into the chain.

create table backfill_private.unnoted (
  unnoted_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  granted jsonb not null,
  trouble jsonb not null,
  settled jsonb not null,
  details jsonb not null
);

create index backfill_unnoted_runs on backfill_private.unnoted (run_id, unnoted_id);
alter table backfill_private.unnoted enable row level security;
revoke all on backfill_private.unnoted from public, anon, authenticated, service_role;
create policy "the owner alone" on backfill_private.unnoted for select to service_role using (false);

-- The mark on how a run is scored; where bulk would matter, with what each would take. No mark where nothing was measured
-- or the throttle is the clock.
--
-- p_figures  see backfill_private.rehearsal_figures
create function backfill_private.mode_marks(p_run_id uuid, p_figures jsonb)
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.mark('mode', 'ok', case r.request ->> 'mode' when 'bulk' then 'bulk' else 'direct' end
    || format(': about %s s call by call', p_figures ->> 'runtime_s')
    || case when t.is_edge then '' else format(', %s s in bulk, of which one call is made at a time', timed.bulk_s) end
    || case when not t.is_edge and r.request ->> 'mode' = 'direct' and timed.bulk_s * 2 < (p_figures ->> 'runtime_s')::numeric
         then format('; backfill plan --like %s --mode bulk', r.run_id) else '' end)
  from public.backfill_runs as r
  cross join lateral (select bool_or(x.transport = 'edge') as is_edge from public.backfill_targets as x where x.target = r.target) as t
  cross join lateral (
    select round(count(*) * (p_figures #>> '{took_ms,p50}')::numeric / 1000, 1) as bulk_s
    from public.backfill_items as i where i.run_id = r.run_id) as timed
  where r.run_id = p_run_id and r.request ->> 'throttle_per_minute' is null
    and p_figures ->> 'runtime_s' is not null and timed.bulk_s is not null
$$;

-- Write into the chain what calls in bulk have settled since; pause the run where that is called for. Under its lock.
create function backfill_private.note_bulk(p_run_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_batch record;
  v_number integer;
begin
  for v_batch in
    with gone as (delete from backfill_private.unnoted as u where u.run_id = p_run_id returning u.*)
    select g.granted, g.trouble, g.settled, g.details from gone as g order by g.unnoted_id
  loop
    update public.backfill_runs set batches_granted = batches_granted + 1 where run_id = p_run_id returning batches_granted into v_number;
    perform backfill_private.record(p_run_id, 'batch_granted', v_batch.granted || jsonb_build_object('number', v_number));
    perform backfill_private.record(p_run_id, 'batch_settled', v_batch.details);
    perform backfill_private.record_critical(p_run_id, null, v_batch.settled);
    perform backfill_private.note_trouble(p_run_id, v_batch.trouble, v_batch.settled);
    perform backfill_private.break_circuit(p_run_id, v_batch.settled);
  end loop;
end
$$;

-- May this run's sessions be scored in bulk now? Whatever speaks against it, a claim looks at and says.
create function backfill_private.may_bulk(p_run public.backfill_runs)
returns boolean
language sql
stable
set search_path = ''
as $$
  select p_run.state = 'running' and p_run.request ->> 'mode' = 'bulk'
    and p_run.approved_until > backfill_private.clock()
    and coalesce(p_run.back_off_until <= backfill_private.clock(), true)
    and not backfill_private.is_elsewhere(p_run)
    and p_run.fingerprint is not distinct from backfill_private.definitions(p_run.target)
    and (p_run.canary in ('passed', 'overridden') or not exists (
      select from public.backfill_items as i where i.run_id = p_run.run_id and i.ordinal = 1 and i.phase = 'priority'))
$$;

-- Lease the next sessions for a call in bulk, at most so many. A session that another run scores in bulk right now is
-- waited for, by the index that lets nobody lease it twice; what somebody else has filled by then is skipped.
--
-- returns  [{ordinal, session_id, fence, todo: [component]}]
create function backfill_private.bulk_lease(p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer)
returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_fences jsonb;
  v_ordinals integer[];
  v_now timestamptz := backfill_private.clock();
begin
  perform pg_advisory_xact_lock_shared(backfill_private.target_lock(p_run.target));
  with chosen as materialized (
    select n.ordinal, backfill_private.new_fence() as fence
    from unnest(backfill_private.next_items(p_run.run_id, backfill_private.pending_phase(p_run.run_id), p_limit)) as n (ordinal)
  ), leased as (
    update public.backfill_items as i
    set state = 'leased', lease_kind = 'score', attempts = i.attempts + 1, fence_hash = sha256(convert_to(c.fence, 'UTF8')),
      lease_until = v_now + backfill_private.lease_ttl(), started_at = v_now, worker = left(p_worker, 200), claim_id = p_claim_id
    from chosen as c
    where i.run_id = p_run.run_id and i.ordinal = c.ordinal
    returning i.ordinal, i.session_id, c.fence
  )
  select jsonb_object_agg(l.ordinal, jsonb_build_object('ordinal', l.ordinal, 'session_id', l.session_id, 'fence', l.fence)),
    array_agg(l.ordinal) into v_fences, v_ordinals
  from leased as l;
  if v_ordinals is null then
    return '[]'::jsonb;
  end if;
  perform backfill_private.skip_filled(p_run.run_id, v_ordinals);
  return (
    select coalesce(jsonb_agg(v_fences -> i.ordinal::text || jsonb_build_object('todo', (
        select array_agg(c) from unnest(i.components) as c where c <> all (i.filled))) order by i.ordinal), '[]')
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = any (v_ordinals) and i.state = 'leased');
end
$$;

-- The statements that score sessions one after the other, each under its own fence: {component: the one that makes its
-- calls}, and under '' the one that makes all, each only where its row is missing.
--
-- $1  [{session_id, fence, todo}]; $2 the headers of the call
create function backfill_private.bulk_calls(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = ''
as $$
  with parts as (
    select t.position, t.component, format(', case when %L = any (x.todo) then (select count(*) from %I.%I(%s)) end',
      t.component, n.nspname, p.proname, (
        select string_agg(format('%I => %s::%s', a.key,
            case a.value when 'session_id' then 'x.session_id' else quote_nullable(p_run.request ->> a.value) end,
            format_type(p.proargtypes[array_position(p.proargnames, a.key) - 1], null)), ', ')
        from jsonb_each_text(t.arguments) as a)) as call
    from public.backfill_targets as t
    join backfill_private.scoring_functions(p_run.target) as f on f.component = t.component
    join pg_proc as p on p.oid = f.oid
    join pg_namespace as n on n.oid = p.pronamespace
    where t.target = p_run.target
  ), named as (
    select p.component as name, p.call from parts as p
    union all
    select '', string_agg(p.call, '' order by p.position) from parts as p
  )
  select jsonb_object_agg(n.name, format(
    'select set_config(''request.headers'', ($2 || jsonb_build_object(''x-backfill-fence'', x.fence))::text, true)%s
     from jsonb_to_recordset($1) as x (session_id text, fence text, todo text[])', n.call))
  from named as n
$$;

-- Begin a call in bulk: lease its sessions.
--
-- returns  {claim, sessions, calls: {component: SQL, all of them under ''}}; {look: true} where a claim has to look first, or nothing is left
-- raises   OB001 no such run, OB010 not allowed, OB013 more than 50 sessions
create function backfill_private.bulk_begin(p_run_id uuid, p_worker text, p_sessions integer)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_run public.backfill_runs;
  v_claim_id uuid := gen_random_uuid();
  v_sessions jsonb := '[]'::jsonb;
  v_pace record;
begin
  perform backfill_private.authorize('apply');
  if p_sessions is null or p_sessions not between 1 and 50 then
    perform backfill_private.refuse('OB013', format('a call in bulk takes 1 to 50 sessions, not %s', p_sessions));
  end if;
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if v_run.request ->> 'throttle_per_minute' is null then
    perform pg_advisory_xact_lock_shared(backfill_private.run_lock(p_run_id));
    select * into v_run from public.backfill_runs where run_id = p_run_id;
  else
    v_run := backfill_private.locked_run(p_run_id);
  end if;
  if not found then
    perform backfill_private.refuse('OB001', format('there is no run %s', p_run_id), 'backfill runs');
  elsif backfill_private.may_bulk(v_run) then
    v_pace := backfill_private.allowance(v_run);
    if v_pace.wait_s = 0 then
      v_sessions := backfill_private.bulk_lease(v_run, v_claim_id, p_worker, least(p_sessions, v_pace.sessions));
    end if;
  end if;
  if v_sessions = '[]' then
    return '{"look": true}'::jsonb;
  elsif v_run.request ->> 'throttle_per_minute' is not null then
    perform backfill_private.count_starts(v_run, jsonb_array_length(v_sessions));
  end if;
  return jsonb_build_object('claim', v_claim_id, 'sessions', v_sessions, 'calls', backfill_private.bulk_calls(v_run));
end
$$;

-- Settle a call in bulk: decided as any batch; the chain hears of it later.
--
-- returns  {done, failed, pending, skipped}: how many
create function backfill_private.bulk_settle(p_run_id uuid, p_claim_id uuid, p_worker text, p_outcomes jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_settled jsonb;
  v_details jsonb;
begin
  perform backfill_private.authorize('apply');
  v_settled := backfill_private.decide_outcomes(p_run_id, p_outcomes);
  v_details := backfill_private.settled_details(p_run_id, p_claim_id, v_settled);
  insert into backfill_private.unnoted (run_id, granted, trouble, settled, details)
  select p_run_id, jsonb_build_object('claim', p_claim_id, 'worker', left(p_worker, 200), 'phase', i.phase, 'mode', 'bulk',
    'sessions', jsonb_array_length(v_settled), 'ordinals', v_details -> 'ordinals', 'started_at', i.started_at),
    (select coalesce(jsonb_agg(o), '[]') from jsonb_array_elements(p_outcomes) as o where o ->> 'outcome' <> 'answered'),
    v_settled, v_details
  from public.backfill_items as i where i.run_id = p_run_id and i.ordinal = (v_settled -> 0 ->> 'ordinal')::integer;
  return (select jsonb_object_agg(s.state, s.n) from (
    select x ->> 'state' as state, count(*) as n from jsonb_array_elements(v_settled) as x group by 1) as s);
end
$$;

-- What the failure of a session's calls means for it: see backfill/faults.py.
create function backfill_private.bulk_outcome(p_code text)
returns text
language sql
immutable
set search_path = ''
as $$
  select case
    when p_code in ('OB011', 'OB012') then 'released'
    when p_code in ('40001', '40P01', '55P03') or p_code ~ '^(08|53|57P)' then 'again'
    when p_code in ('42501', '42883', '42P01', '25006') then 'stop'
    else 'failed' end
$$;

-- Score one session of a call in bulk, in a subtransaction of its own.
--
-- p_calls  see backfill_private.bulk_calls
-- returns  its outcome, see backfill_private.decide_outcomes
create function backfill_private.bulk_one(p_calls jsonb, p_session jsonb, p_headers jsonb, p_search_path text)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_step text;
  v_answered jsonb := '[]'::jsonb;
  v_code text;
begin
  perform set_config('search_path', p_search_path, true);
  foreach v_step in array array(select jsonb_array_elements_text(p_session -> 'todo')) loop
    execute p_calls ->> v_step using jsonb_build_array(p_session), p_headers;
    set constraints all immediate;
    v_answered := v_answered || to_jsonb(v_step);
  end loop;
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', 'answered', 'answered', v_answered);
exception when others then
  v_code := sqlstate;
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', backfill_private.bulk_outcome(v_code), 'step', v_step,
    'code', v_code, 'message', sqlerrm);
end
$$;

revoke all on function
  backfill_private.bulk_one(jsonb, jsonb, jsonb, text),
  backfill_private.mode_marks(uuid, jsonb),
  backfill_private.note_bulk(uuid),
  backfill_private.may_bulk(public.backfill_runs),
  backfill_private.bulk_lease(public.backfill_runs, uuid, text, integer),
  backfill_private.bulk_calls(public.backfill_runs),
  backfill_private.bulk_begin(uuid, text, integer),
  backfill_private.bulk_settle(uuid, uuid, text, jsonb),
  backfill_private.bulk_outcome(text)
from public;
grant execute on function
  backfill_private.bulk_begin(uuid, text, integer), backfill_private.bulk_settle(uuid, uuid, text, jsonb),
  backfill_private.bulk_outcome(text), backfill_private.bulk_one(jsonb, jsonb, jsonb, text)
to service_role;

-- Score a batch in bulk: all of it in one go; where something fails, one after the other, each in a subtransaction of its
-- own, so that one failure is one failure.
--
-- p_sessions     at most so many, 50 at most: PostgreSQL keeps 64 subtransactions cheaply
-- p_budget_ms    after which no further session is begun where they go one after the other
-- p_search_path  left out, it is the caller's: a default is evaluated before this function's own path is set
-- returns        {look: true} where a claim has to look first; else {sessions, done, failed, pending, took_ms}
create function public.backfill_bulk(
  p_run_id uuid, p_worker text, p_sessions integer, p_budget_ms integer default 4000,
  p_search_path text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_began timestamptz := backfill_private.clock();
  v_batch jsonb := backfill_private.bulk_begin(p_run_id, p_worker, p_sessions);
  v_headers jsonb := coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb
    || jsonb_build_object('x-backfill-run', p_run_id);
  v_session jsonb;
  v_outcomes jsonb := '[]'::jsonb;
begin
  if v_batch ? 'look' then
    return v_batch;
  end if;
  perform set_config('search_path', p_search_path, true);
  begin
    execute v_batch -> 'calls' ->> '' using v_batch -> 'sessions', v_headers;
    set constraints all immediate;
    select jsonb_agg(jsonb_build_object('ordinal', s -> 'ordinal', 'outcome', 'answered', 'answered', s -> 'todo')) into v_outcomes
    from jsonb_array_elements(v_batch -> 'sessions') as s;
  exception when others then
    for v_session in select s from jsonb_array_elements(v_batch -> 'sessions') as s loop
      v_outcomes := v_outcomes || case
        when extract(epoch from backfill_private.clock() - v_began) * 1000 < p_budget_ms
          then backfill_private.bulk_one(v_batch -> 'calls', v_session, v_headers, p_search_path)
        else jsonb_build_object('ordinal', v_session -> 'ordinal', 'outcome', 'released') end;
    end loop;
  end;
  return backfill_private.bulk_settle(p_run_id, (v_batch ->> 'claim')::uuid, p_worker, v_outcomes) || jsonb_build_object(
    'sessions', jsonb_array_length(v_batch -> 'sessions'),
    'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
end
$$;

revoke all on function public.backfill_bulk(uuid, text, integer, integer, text)
from public, anon, authenticated, service_role;
grant execute on function public.backfill_bulk(uuid, text, integer, integer, text) to service_role;

comment on function public.backfill_bulk(uuid, text, integer, integer, text) is
  'Claim, score and settle a batch of a run in bulk, in one transaction. For the client.';
