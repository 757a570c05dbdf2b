-- Lifecycle: start, pause, resume, cancel, retry, prune.

-- Start a run or go on with it: every apply calls this first.
--
-- returns  {state, reason}. A run that holds comes back paused or expired with the reason
-- raises   OB001 no such run, OB002 its state has no way to running, OB003 not approved, OB015 no share left
create function backfill_private.start(p_run_id uuid, p_worker text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_held record;
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_bounds(jsonb_build_object('the name of the worker', p_worker));
  v_run := backfill_private.caught_up_run(p_run_id);
  if v_run.state in ('planning', 'awaiting_approval') then
    perform backfill_private.refuse('OB003',
      format('run %s is %s (digest %s)',
        p_run_id, replace(v_run.state, '_', ' '), coalesce(v_run.digest, 'not yet made')),
      backfill_private.hint(v_run));
  elsif v_run.state not in ('approved', 'running', 'paused', 'completed') then
    perform backfill_private.refuse('OB002', format('run %s is %s: it does not run again', p_run_id, v_run.state),
      backfill_private.hint(v_run));
  elsif v_run.state in ('approved', 'running', 'paused') and v_run.approved_until <= backfill_private.clock() then
    perform backfill_private.move(p_run_id, 'expired', 'the approval ran out');
  elsif v_run.state in ('approved', 'running') then
    v_held := backfill_private.no_longer_approved(v_run);
    if v_held.cause is not null then
      perform backfill_private.move(p_run_id, 'paused', v_held.reason, p_cause => v_held.cause);
    elsif v_run.state = 'approved' then
      perform backfill_private.check_share(v_run);
      perform backfill_private.move(p_run_id, 'running', null, jsonb_build_object('worker', p_worker));
    end if;
    if v_run.request ->> 'mode' = 'bulk' then
      update public.backfill_runs set loose_settings = backfill_private.loose_settings() where run_id = p_run_id;
    end if;
    -- Else the first calls would note them, and the others wait for their commit.
    perform backfill_private.note_shapes(v_run.target);
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'reason', r.reason)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Pause or cancel, as an operator asks, with a reason. If the run is already so, it stays so and keeps its reason: what
-- stopped a run first is what somebody has to look at.
create function backfill_private.halt(p_verb text, p_run_id uuid, p_reason text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_wanted text := case p_verb when 'pause' then 'paused' else 'cancelled' end;
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize(p_verb);
  perform backfill_private.check_bounds(jsonb_build_object('the reason', p_reason));
  if backfill_private.said(p_reason) is null then
    perform backfill_private.refuse('OB013', format('%s needs a reason', p_verb),
      format('backfill %s %s --reason "…"', p_verb, p_run_id));
  end if;
  v_run := backfill_private.caught_up_run(p_run_id);
  if v_run.state <> v_wanted then
    perform backfill_private.move(p_run_id, v_wanted, p_reason,
      jsonb_build_object('by', (select label from backfill_private.caller())),
      case p_verb when 'pause' then 'asked' end);
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'reason', r.reason)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Answer the critical events of a run that nobody has answered yet: somebody has looked at them. Verify then tells them
-- with their answer, and they no longer fail its verdict. What else it finds does.
--
-- p_because  why they are no cause for alarm
-- returns    how many
-- raises     OB013 no reason
create function backfill_private.answer_critical(p_run_id uuid, p_because text)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_open bigint[] := array(select c.seq from backfill_private.critical_events(p_run_id) as c where c.answered is null);
begin
  if backfill_private.said(p_because) is null then
    perform backfill_private.refuse('OB013', 'an answer needs a reason',
      format('backfill resume %s --because "…"', p_run_id));
  elsif v_open <> '{}' then
    perform backfill_private.record(p_run_id, 'answered',
      jsonb_build_object('because', btrim(p_because), 'events', to_jsonb(v_open)));
  end if;
  return cardinality(v_open);
end
$$;

-- Lift a pause. Everything must still be as it was approved. With a reason, answer the run's critical events too. These
-- can be answered in any state, and then a run that is not paused stays as it is.
--
-- p_because  see backfill_private.answer_critical. Null: they stay unanswered
-- returns    {run_id, state, was: the reason of the pause, answered: how many critical events}
-- raises     OB002 not paused and nothing to answer, or Edge Functions write without our headers, OB006 the approval
--            ran out, OB007 something stands in its way, see refuse_if_held, OB013 an empty reason, OB015 no share left
create function backfill_private.resume(p_run_id uuid, p_because text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_answered integer := 0;
begin
  perform backfill_private.authorize('resume');
  perform backfill_private.check_bounds(jsonb_build_object('the reason', p_because));
  v_run := backfill_private.caught_up_run(p_run_id);
  if p_because is not null then
    v_answered := backfill_private.answer_critical(p_run_id, p_because);
  end if;
  if v_run.state = 'paused' or v_answered = 0 then
    v_run := backfill_private.locked_run(p_run_id, array['paused']);
    perform backfill_private.refuse_without_headers(v_run);
    perform backfill_private.refuse_if_held(v_run);
    perform backfill_private.check_share(v_run);
    update public.backfill_runs set canary = 'overridden' where run_id = p_run_id and canary = 'failed';
    update public.backfill_items set trial = 'resumed' where run_id = p_run_id and trial in ('aside', 'agreed');
    perform backfill_private.move(p_run_id, 'running');
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'was', v_run.reason, 'answered', v_answered)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Score the failed sessions again, under the same approval.
--
-- returns  {run_id, state, sessions}. sessions: how many are pending again, each with fresh budgets for trouble
-- raises   OB002 not completed, paused or running, or Edge Functions write without our headers, OB006 the approval ran
--          out, OB007 something stands in its way, see refuse_if_held
create function backfill_private.retry(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_sessions integer;
begin
  perform backfill_private.authorize('apply');
  v_run := backfill_private.caught_up_run(p_run_id, array['completed', 'paused', 'running']);
  perform backfill_private.refuse_if_removed(v_run.target);
  perform backfill_private.refuse_without_headers(v_run);
  perform backfill_private.refuse_if_held(v_run);
  update public.backfill_items
  set state = 'pending',
      settled_at = null,
      failed_step = null,
      error_code = null,
      error_message = null,
      crowded_out = 0,
      unknown_outcomes = 0,
      not_before = null,
      trial = null
  where run_id = p_run_id and state = 'failed';
  get diagnostics v_sessions = row_count;
  perform backfill_private.lower_low_water(p_run_id);
  if v_sessions > 0 and v_run.state = 'completed' then
    perform backfill_private.check_share(v_run);
    perform backfill_private.move(p_run_id, 'running', null, jsonb_build_object('retried', v_sessions));
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'sessions', v_sessions)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Empty the before-images of a run that is over. The rows that it updated can then no longer be restored.
create function backfill_private.prune(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_emptied integer;
begin
  perform backfill_private.authorize('prune');
  perform backfill_private.caught_up_run(p_run_id,
    array['completed', 'rejected', 'cancelled', 'expired', 'rolled_back']);
  update public.backfill_receipts set before = null where run_id = p_run_id and before is not null;
  get diagnostics v_emptied = row_count;
  perform backfill_private.record(p_run_id, 'pruned', jsonb_build_object('receipts', v_emptied));
  return jsonb_build_object('run_id', p_run_id, 'emptied', v_emptied);
end
$$;
