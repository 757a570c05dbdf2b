-- Bulk: claim, score and settle a batch in one call of the API and one transaction, as the caller's role.
--
-- State, receipts and rows commit together, so a lost reply or a killed worker leaves nothing to look up. Many such
-- calls run side by side, which the lock of the run would not allow. They share an advisory lock that every verb takes
-- exclusively, and leave a note in a table. The next one to hold the run writes the note into the audit chain, see
-- backfill_private.note_batches. The next verb looks at what went wrong, see backfill_private.look_at_bulk.

-- How many batches may wait to be noted. A claim notes them all, and has eight seconds.
create function backfill_private.most_unnoted()
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 500
$$;

-- May this run's sessions be scored in bulk now? If not, a claim finds out why and says so. After a batch in bulk in
-- which a session did not end well, a claim has to look first: at the circuit breaker, at trouble, at critical faults.
create function backfill_private.may_bulk(p_run public.backfill_runs)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p_run.request ->> 'mode' = 'bulk'
    and backfill_private.may_score(p_run)
    and coalesce(backfill_private.waits_until(p_run) <= backfill_private.clock(), true)
    and not backfill_private.is_on_trial(p_run.run_id)
    and not exists (
      select from backfill_private.unnoted as u where u.run_id = p_run.run_id and not u.is_well)
    and (
      select count(*)
      from (
        select from backfill_private.unnoted as u
        where u.run_id = p_run.run_id
        limit backfill_private.most_unnoted()
      ) as waiting
    ) < backfill_private.most_unnoted()
    and (p_run.canary in ('passed', 'overridden') or not exists (
      select from public.backfill_items as i where i.run_id = p_run.run_id and i.ordinal = 1 and i.phase = 'priority'))
$$;

-- Write the receipts of the rows that a call in bulk has written since the last ones. What the gate kept says which.
--
-- p_step   the step, if one step of one session was made. It is refused while a row that it needs first is missing
-- returns  the components that were written, each as its session's place in the plan and its name
-- raises   OB011 no such call is under way in this transaction
--          OB012 the approval ran out meanwhile
--          OB018 a row is another session's or target's
--          OB020 as keep_receipt
create function backfill_private.bulk_keep(p_claim_id uuid, p_step text)
returns text[]
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_mergejoin = off
as $$
declare
  v_call backfill_private.bulk_claims := backfill_private.bulk_call(p_claim_id);
  v_now timestamptz := backfill_private.clock();
  v_seen record;
begin
  if exists (select from public.backfill_runs as r where r.run_id = v_call.run_id and r.approved_until <= v_now) then
    perform backfill_private.refuse_write('expired', v_call.run_id, null, null);
  end if;
  with kept as materialized (
    delete from backfill_private.bulk_rows as k where k.xid = v_call.xid
    returning k.*, case when k.turn ~ '^[0-9]{1,9}$' then k.turn::integer end as place
  ), found as materialized (
    select k.*, i.ordinal, i.session_id, i.attempts + 1 as attempt,
      t.table_name, t.key_columns, t.session_column, coalesce(k.after, k.before) as contents
    from kept as k
    left join public.backfill_items as i
      on i.run_id = v_call.run_id and i.ordinal = k.place and k.place = any (v_call.ordinals)
    left join public.backfill_targets as t
      on t.target = i.source and t.target = k.target and t.component = k.component
  ), shaped as materialized (
    select f.relation, backfill_private.shape_of(f.relation) as shape from found as f group by f.relation
  ), written as (
    insert into public.backfill_receipts (
      run_id, ordinal, session_id, component, kind, operation, table_name,
      row_key, shape, before, before_hash, after_hash, after_columns, attempt, at)
    select v_call.run_id, f.ordinal, f.session_id, f.component, 'score', f.operation, f.table_name,
      backfill_private.row_key(f.contents, f.key_columns), s.shape, f.image,
      sha256(convert_to(f.image, 'UTF8')), f.after_hash,
      nullif(array(select hashtextextended(jsonb_path_query(f.after, '$.*')::text, 0)), '{}'), f.attempt, v_now
    from found as f join shaped as s using (relation)
    where f.table_name is not null
    order by f.nth
  )
  select
    array_agg(distinct concat_ws(' ', f.ordinal, f.component)) filter (where f.operation <> 'delete') as components,
    min(coalesce(f.session_id, f.turn)) filter (where f.table_name is null
      or f.contents ->> f.session_column is distinct from f.session_id
      or f.before is not null and f.before ->> f.session_column is distinct from f.session_id) as foreigner,
    min(f.ordinal) as ordinal
  into v_seen
  from found as f;
  if v_seen.foreigner is not null then
    perform backfill_private.refuse('OB018',
      format('this attempt holds session %s and writes a row of another', v_seen.foreigner),
      'let the function write rows of the session that it is called for alone');
  elsif p_step is not null then
    perform backfill_private.check_order(v_call.run_id, v_seen.ordinal, p_step, (
      select t.needs_first
      from public.backfill_targets as t
      join public.backfill_runs as r on r.run_id = v_call.run_id and r.target = t.target
      where t.component = p_step));
  end if;
  return coalesce(v_seen.components, '{}');
end
$$;

-- The call in bulk that is under way in this transaction.
--
-- raises  OB011 it is not this one
create function backfill_private.bulk_call(p_claim_id uuid)
returns backfill_private.bulk_claims
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_call backfill_private.bulk_claims;
begin
  select * into v_call
  from backfill_private.bulk_claims as b
  where b.xid = pg_current_xact_id()
    and b.claim_id = p_claim_id;
  if not found then
    perform backfill_private.refuse('OB011', 'no call in bulk is under way here', 'stop; claim again');
  end if;
  return v_call;
end
$$;

-- The next sessions for a call in bulk, of one phase, locked. A phase whose rest is all under way is followed by the
-- next. What it gives back after all comes before what is left of that one.
create function backfill_private.next_in_bulk(p_run_id uuid, p_limit integer)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run_id);
  v_next integer[] := backfill_private.next_items(p_run_id, v_phase, p_limit);
begin
  if v_next is null and v_phase = 'recent' then
    v_next := backfill_private.next_items(p_run_id, 'historical', p_limit);
  end if;
  return v_next;
end
$$;

-- Take the next sessions for a call in bulk. Their items are locked until it ends, and so is each session's name: of
-- two runs one gets the session, and the other takes it up later. What somebody has filled by then, or the target no
-- longer selects, is skipped. If other calls hold them all, this one waits for the first.
--
-- A session that was not well beside others in one transaction is taken alone. So is each session of a run whose
-- rehearsal saw that this matters.
--
-- p_limit  at most so many
-- returns  [{ordinal, session_id, attempt, todo: [component]}]
create function backfill_private.bulk_take(p_run public.backfill_runs, p_limit integer)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_secret text := (select s.secret from backfill_private.lock_secret as s);
  v_next integer[];
  v_taken integer[];
begin
  perform backfill_private.take_target_lock(p_run.target, true);
  v_next := backfill_private.next_in_bulk(p_run.run_id,
    case when p_run.plan #>> '{rehearsal,alone}' = 'true' then 1 else p_limit end);
  v_next := v_next[1:(
    select greatest(coalesce(min(n.place) - 1, p_limit), 1)
    from unnest(v_next) with ordinality as n (ordinal, place)
    join public.backfill_items as i on i.run_id = p_run.run_id and i.ordinal = n.ordinal
    where i.is_alone)];
  v_taken := array(
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run.run_id
      and i.ordinal = any (v_next)
      and pg_try_advisory_xact_lock(
        backfill_private.lock_key_with(v_secret, 'session', i.source || '/' || i.session_id)));
  if v_taken = '{}' and v_next is not null then
    perform backfill_private.take_lock(
      backfill_private.lock_key('session', i.source || '/' || i.session_id), false, 'session ' || i.session_id)
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = v_next[1];
    v_taken := v_next[1:1];
  end if;
  perform backfill_private.skip_filled(p_run, v_taken);
  perform backfill_private.skip_unselected(p_run, v_taken);
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
        'ordinal', i.ordinal, 'session_id', i.session_id, 'attempt', i.attempts + 1,
        -- What an earlier attempt has written, when its calls were made one by one, is not scored again.
        'todo', (
          select coalesce(jsonb_agg(c), '[]')
          from unnest(i.components) as c
          where c <> all (i.filled)
            and (i.attempts = 0 or not exists (
              select from public.backfill_receipts as r
              where r.run_id = i.run_id and r.ordinal = i.ordinal and r.component = c
                and r.kind = 'score'
                and r.operation <> 'delete'
                and r.undone_at is null)))) order by i.ordinal), '[]')
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = any (v_taken) and i.state = 'pending');
end
$$;

-- Begin a call in bulk: take its sessions.
--
-- returns  {claim, sessions, until: when the approval runs out, calls: {component: SQL, all of them under ''},
--          settings: see loose_settings, checks: see checks_now}, or {look: true} if a claim has to look first
-- raises   OB001 no such run, OB010 not allowed, OB011 within such a call, OB013 more than 500 sessions
create function backfill_private.bulk_begin(p_run_id uuid, p_sessions integer)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_claim_id uuid := gen_random_uuid();
  v_sessions jsonb := '[]'::jsonb;
  v_pace record;
  v_may boolean := true;
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_bounds(jsonb_build_object('a call in bulk, sessions', p_sessions));
  if exists (select from backfill_private.bulk_claims as b where b.xid = pg_current_xact_id_if_assigned()) then
    perform backfill_private.refuse('OB011', 'a call in bulk is under way here already',
      'let the scoring function call no function of backfill');
  end if;
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if backfill_private.rate_of(v_run) is null then
    perform backfill_private.take_run_lock(p_run_id, true);
    select * into v_run from public.backfill_runs where run_id = p_run_id;
    v_may := backfill_private.rate_of(v_run) is null;  -- given one in between, it takes the whole lock to count
  else
    v_run := backfill_private.caught_up_run(p_run_id);
  end if;
  if not found then
    perform backfill_private.refuse('OB001', format('there is no run %s', p_run_id), 'backfill runs');
  elsif v_may and backfill_private.may_bulk(v_run) then
    v_pace := backfill_private.allowance(v_run);
    if v_pace.wait_s = 0 then
      v_sessions := backfill_private.bulk_take(v_run, least(p_sessions, v_pace.sessions));
    end if;
  end if;
  if v_sessions = '[]' then
    return '{"look": true}'::jsonb;
  elsif backfill_private.rate_of(v_run) is not null then
    perform backfill_private.count_starts(v_run, jsonb_array_length(v_sessions));
  else
    perform backfill_private.take_slots(jsonb_array_length(v_sessions));
  end if;
  insert into backfill_private.bulk_claims (xid, claim_id, run_id, ordinals)
  values (pg_current_xact_id(), v_claim_id, p_run_id,
    array(select (s ->> 'ordinal')::integer from jsonb_array_elements(v_sessions) as s));
  return jsonb_build_object('claim', v_claim_id, 'sessions', v_sessions, 'until', v_run.approved_until,
    'calls', backfill_private.bulk_calls(v_run),
    'settings', v_run.loose_settings, 'checks', backfill_private.checks_now());
end
$$;

-- Settle what a call in bulk has scored well, each row with its receipt. A session whose rows are of the wanted version
-- is done.
--
-- returns  the ordinals of the others
create function backfill_private.bulk_done(p_run_id uuid, p_ordinals integer[], p_started_at timestamptz)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_mergejoin = off
as $$
declare
  v_run public.backfill_runs;
  v_lacking integer[];
  v_now timestamptz := backfill_private.clock();
begin
  select * into strict v_run from public.backfill_runs where run_id = p_run_id;
  v_lacking := array(
    select owed.ordinal from (
      select i.ordinal, c.component
      from public.backfill_items as i
      cross join unnest(i.components) as c (component)
      where i.run_id = p_run_id and i.ordinal = any (p_ordinals) and c.component <> all (i.filled)
      except
      select s.ordinal, s.component from backfill_private.standing_of(v_run, p_ordinals, true) as s) as owed);
  update public.backfill_items as i
  set state = 'done', attempts = i.attempts + 1, started_at = p_started_at, settled_at = v_now,
      failed_step = null, error_code = null, error_message = null, not_before = null
  where i.run_id = p_run_id and i.ordinal = any (p_ordinals) and i.ordinal <> all (v_lacking);
  return v_lacking;
end
$$;

-- Settle the other sessions of a call in bulk like any batch: leased for this moment, decided by their receipts.
--
-- p_outcomes, returns  see backfill_private.decide_outcomes
create function backfill_private.bulk_troubled(
  p_run_id uuid, p_claim_id uuid, p_outcomes jsonb, p_started_at timestamptz
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_outcomes = '[]' then
    return p_outcomes;
  end if;
  update public.backfill_items as i
  set state = 'leased', lease_kind = 'score', attempts = i.attempts + 1, started_at = p_started_at,
      claim_id = p_claim_id, lease_until = p_started_at + backfill_private.lease_ttl()
  from jsonb_to_recordset(p_outcomes) as o (ordinal integer)
  where i.run_id = p_run_id and i.ordinal = o.ordinal and i.state = 'pending';
  return backfill_private.decide_outcomes(p_run_id, p_outcomes);
end
$$;

-- Settle a call in bulk. The audit chain hears of it later. What is told of sessions that the call has not taken is
-- passed over.
--
-- p_answered  ordinals of its sessions whose calls came back well
-- p_outcomes  of those that failed
-- returns     {state: how many}
-- raises      OB011 no such call is under way in this transaction, OB013 outcomes of another form
create function backfill_private.bulk_settle(
  p_claim_id uuid, p_worker text, p_answered integer[], p_outcomes jsonb
)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_call backfill_private.bulk_claims := backfill_private.bulk_call(p_claim_id);
  v_answered integer[] := array(
    select distinct a from unnest(p_answered) as a where a = any (v_call.ordinals) order by a);
  v_outcomes jsonb := coalesce((
    select jsonb_agg(o)
    from jsonb_array_elements(p_outcomes) as o
    where (o ->> 'ordinal')::integer = any (v_call.ordinals)
      and (o ->> 'ordinal')::integer <> all (v_answered)), '[]');
  v_lacking integer[];
  v_settled jsonb;
  v_details jsonb;
  -- Those that wait for a transaction of their own are well.
  v_beside integer[] := array(
    select o.ordinal from jsonb_to_recordset(v_outcomes) as o (ordinal integer, outcome text)
    where o.outcome = 'beside');
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_outcomes(p_outcomes);
  delete from backfill_private.bulk_claims where xid = v_call.xid;
  v_lacking := backfill_private.bulk_done(v_call.run_id, v_answered, v_call.started_at);
  v_settled := backfill_private.bulk_troubled(v_call.run_id, p_claim_id, v_outcomes || coalesce((
      select jsonb_agg(jsonb_build_object('ordinal', i.ordinal, 'outcome', 'answered', 'answered', i.components))
      from public.backfill_items as i
      where i.run_id = v_call.run_id and i.ordinal = any (v_lacking)), '[]'), v_call.started_at)
    || coalesce((
      select jsonb_agg(jsonb_build_object('ordinal', o, 'state', 'done'))
      from unnest(v_answered) as o
      where o <> all (v_lacking)), '[]');
  v_details := backfill_private.settled_details(v_call.run_id, p_claim_id, v_settled);
  insert into backfill_private.unnoted (run_id, granted, trouble, settled, is_well, details)
  select
    v_call.run_id,
    jsonb_build_object('claim', p_claim_id, 'worker', left(p_worker, 200), 'phase', i.phase, 'mode', 'bulk',
      'sessions', jsonb_array_length(v_settled), 'ordinals', v_details -> 'ordinals',
      'started_at', v_call.started_at),
    v_outcomes, v_settled,
    not exists (
      select from jsonb_to_recordset(v_settled) as s (ordinal integer, state text)
      where s.state <> 'done' and s.ordinal <> all (v_beside)),
    v_details
  from public.backfill_items as i
  where i.run_id = v_call.run_id and i.ordinal = (v_settled -> 0 ->> 'ordinal')::integer;
  return coalesce(nullif(v_details -> 'states', 'null'), '{}');
end
$$;
