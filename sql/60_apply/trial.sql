-- Trials: is an error one session's, or every session's?
--
-- A table that is missing, a right, a function, a refusal: what a call met may be met by every other, or by its session
-- alone. So the session is set aside, and another, the witness, is tried alone. If the witness meets the same error the
-- run is paused with the cause, and no session has failed. If the witness is done, those that were set aside have
-- failed, each with its own error, and the run goes on. One that was not well in bulk while others beside it were is no
-- witness against all. A session's part in this stands in backfill_items.trial.

-- Is any session of this run set aside? Asked at every claim, so by the index of those on trial: offset 0 keeps the
-- state from leading to all that are pending.
create function backfill_private.is_on_trial(p_run_id uuid)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return exists (
    select from (
      select i.state
      from public.backfill_items as i
      where i.run_id = p_run_id and i.trial in ('aside', 'agreed')
      offset 0
    ) as i
    where i.state = 'pending');
end
$$;

-- How many witnesses have to meet the same error before a run is paused for it. If no session was done since the run
-- was started or resumed, one is enough. Else there is reason to think that it is not every session's: then it is
-- three, and one more for each time that it was not.
create function backfill_private.witnesses_needed(p_run public.backfill_runs)
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when p_run.settled_since > p_run.failed_since then least(3 + p_run.trials, 10) else 1 end
$$;

-- The next witness: a session that is ready and, if possible, has met no trouble. Neighbours in the plan may share a
-- cause, such as a tenant. So the first is the last of the phase, the second from the middle, and so on.
--
-- returns  its ordinal, locked. Null if no session is ready
create function backfill_private.next_witness(p_run_id uuid, p_phase text)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_agreed integer := (
    select count(*)::integer
    from public.backfill_items as i
    where i.run_id = p_run_id and i.trial = 'agreed');
  v_last integer := (
    select min(i.ordinal) + ((max(i.ordinal) - min(i.ordinal)) / power(2, least(v_agreed, 30)))::integer
    from public.backfill_items as i
    where i.run_id = p_run_id and i.state = 'pending' and i.phase = p_phase and i.trial is null);
begin
  return coalesce(
    (
      select array_agg(w.ordinal)
      from (
        select i.ordinal
        from public.backfill_items as i
        where i.run_id = p_run_id
          and i.state = 'pending'
          and i.phase = p_phase
          and i.ordinal <= v_last
          and i.trial is null
          and i.not_before is null
          and not backfill_private.is_leased(i.source, i.session_id)
        order by i.ordinal desc
        limit 1
        for update of i skip locked) as w),
    backfill_private.next_items(p_run_id, p_phase, 1));
end
$$;

-- The phase of a session that may be a witness, now or once it has backed off. The canary judges itself. Null if no
-- other session is left.
create function backfill_private.witness_phase(p_run_id uuid, p_phase text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select i.phase
  from public.backfill_items as i
  where i.run_id = p_run_id
    and i.state = 'pending'
    and coalesce(i.trial, 'resumed') = 'resumed'
    and (i.phase = p_phase or p_phase <> 'priority')
  order by i.phase <> p_phase, i.ordinal
  limit 1
$$;

-- Call the next witness, once nothing else of the run is under way. If no other session is left, judge without one.
--
-- p_phase  of the next batch, see backfill_private.pending_phase
-- p_wait   the answer if nothing may start now. Else null
-- returns  see backfill_private.claim_batch
create function backfill_private.call_witness(
  p_run public.backfill_runs, p_phase text, p_claim_id uuid, p_worker text, p_wait jsonb
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.witness_phase(p_run.run_id, p_phase);
  v_grants jsonb := '[]'::jsonb;
begin
  if exists (select from public.backfill_items as i where i.run_id = p_run.run_id and i.state = 'leased') then
    return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run.run_id));
  elsif v_phase is not null and p_wait is not null then
    return p_wait;
  elsif v_phase is not null then
    v_grants := backfill_private.grant_batch(p_run, p_claim_id, p_worker, 1, true);
    v_phase := backfill_private.witness_phase(p_run.run_id, p_phase);
  end if;
  if v_grants <> '[]' then
    return jsonb_build_object('granted', v_grants);
  elsif v_phase is not null then
    return backfill_private.wait_for_ready(p_run.run_id, v_phase);
  end if;
  perform backfill_private.judge_trial(p_run.run_id, null);
  return backfill_private.claim_batch(p_run.run_id, p_claim_id, p_worker, false);
end
$$;

-- Judge the sessions that are set aside.
--
-- p_settled  the batch that was just settled, see backfill_private.decide_outcomes. Null: no witness is left
-- returns    the ordinals of the sessions that have failed by this
create function backfill_private.judge_trial(p_run_id uuid, p_settled jsonb)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_same record;
begin
  if not backfill_private.is_on_trial(p_run_id) then
    return array[]::integer[];
  end if;
  v_run := backfill_private.run_now(p_run_id);
  select
    i.error_code as code,
    (array_agg(i.error_message order by i.ordinal))[1] as message,
    count(*) filter (where i.trial = 'agreed') as agreed
  into v_same
  from public.backfill_items as i
  where i.run_id = p_run_id and i.state = 'pending' and i.trial in ('aside', 'agreed')
  group by i.error_code
  having count(*) > 1
  order by agreed desc, count(*) desc, i.error_code
  limit 1;
  if found and (v_same.agreed >= backfill_private.witnesses_needed(v_run)
    or p_settled is null and v_run.settled_since = v_run.failed_since)
  then
    perform backfill_private.hold(p_run_id, 'call:' || v_same.code,
      concat_ws('. ',
        concat_ws(' ', 'every call would fail:', v_same.code, v_same.message),
        backfill_private.call_cause(v_run.target, v_same.code, v_same.message)));
  elsif p_settled is null or exists (
    select from public.backfill_items as i
    join jsonb_to_recordset(p_settled) as s (ordinal integer, state text) using (ordinal)
    where i.run_id = p_run_id and i.trial = 'called' and s.state = 'done'
  ) then
    return backfill_private.fail_set_aside(p_run_id);
  end if;
  return array[]::integer[];
end
$$;

-- The sessions that are set aside have failed, each with the error that it met.
--
-- returns  their ordinals
create function backfill_private.fail_set_aside(p_run_id uuid)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_settled jsonb;
begin
  with failed as (
    update public.backfill_items as i
    set state = 'failed', trial = null, settled_at = backfill_private.clock()
    where i.run_id = p_run_id and i.state = 'pending' and i.trial in ('aside', 'agreed')
    returning i.ordinal, i.session_id, i.state, i.failed_step, i.error_code, i.error_message, false as is_critical
  )
  select jsonb_agg(to_jsonb(f) order by f.ordinal) into v_settled from failed as f;
  update public.backfill_runs set trials = trials + 1 where run_id = p_run_id;
  perform backfill_private.record_batch(p_run_id, null, v_settled);
  perform backfill_private.break_circuit(p_run_id, v_settled);
  return array(select (s ->> 'ordinal')::integer from jsonb_array_elements(v_settled) as s);
end
$$;
