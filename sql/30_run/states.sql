-- Transitions: every legal move of a run, with its reason, and the trigger that refuses the others.

create view public.backfill_transitions with (security_invoker = true) as
select * from (values
  ('planning',          'awaiting_approval', 'seal',     'the plan is complete and carries its digest'),
  ('planning',          'cancelled',         'cancel',   'somebody gave the plan up'),
  ('awaiting_approval', 'approved',          'approve',  'an approver accepted exactly this digest'),
  ('awaiting_approval', 'rejected',          'reject',   'an approver refused it'),
  ('awaiting_approval', 'cancelled',         'cancel',   'somebody withdrew it'),
  ('approved',          'running',           'apply',    'the first worker started'),
  ('approved',          'paused',            'pause',
    'what was approved is no longer what stands there, or somebody asked'),
  ('approved',          'cancelled',         'cancel',   'somebody withdrew it'),
  ('approved',          'expired',           'expire',   'the approval ran out before the run started'),
  ('running',           'paused',            'pause',    'somebody asked, or the database saw a reason'),
  ('running',           'completed',         'complete', 'every session is settled'),
  ('running',           'cancelled',         'cancel',   'somebody stopped it for good'),
  ('running',           'expired',           'expire',   'the approval ran out'),
  ('paused',            'running',           'resume',   'somebody looked and lifted the pause'),
  ('paused',            'cancelled',         'cancel',   'somebody stopped it for good'),
  ('paused',            'expired',           'expire',   'the approval ran out'),
  ('completed',         'running',           'retry',    'the failed sessions again, under the same approval'),
  ('completed',         'rolled_back',       'undo',     'no session is left done'),
  ('cancelled',         'rolled_back',       'undo',     'no session is left done'),
  ('expired',           'rolled_back',       'undo',     'no session is left done')
) as move (from_state, to_state, event, reason);

comment on view public.backfill_transitions is 'Every legal move of a run. What is not here is refused.';
comment on column public.backfill_transitions.from_state is 'The state before.';
comment on column public.backfill_transitions.to_state is 'The state after.';
comment on column public.backfill_transitions.event is 'What makes the move.';
comment on column public.backfill_transitions.reason is 'Why this move is legal.';

-- Guard a run's row: only legal moves, and a sealed plan does not change.
--
-- raises  OB002 the move is not in backfill_transitions
--         OB007 the sealed plan would change
create function backfill_private.guard_run()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if new.state <> old.state and not exists (
    select from public.backfill_transitions as m
    where m.from_state = old.state and m.to_state = new.state
  ) then
    perform backfill_private.refuse('OB002',
      format('run %s cannot go from %s to %s. Allowed from %s: %s',
        old.run_id,
        old.state,
        new.state,
        old.state,
        (
          select coalesce(string_agg(m.to_state, ', '), 'nothing')
          from public.backfill_transitions as m
          where m.from_state = old.state
        )),
      backfill_private.hint(old));
  end if;
  if old.sealed_at is not null and (
    (new.run_id, new.target, new.environment, new.request, new.plan, new.digest, new.fingerprint, new.server,
      new.sealed_at)
    is distinct from
    (old.run_id, old.target, old.environment, old.request, old.plan, old.digest, old.fingerprint, old.server,
      old.sealed_at)
  ) then
    perform backfill_private.refuse('OB007',
      format('run %s is sealed, its plan does not change', old.run_id),
      format('backfill plan --like %s', old.run_id));
  end if;
  return new;
end
$$;

create trigger backfill_runs_guard
  before update of run_id, state, target, environment, request, plan, digest, fingerprint, server, sealed_at
  on public.backfill_runs
  for each row execute function backfill_private.guard_run();

-- Guard the items: planned columns stay as sealed, and no row is deleted.
--
-- raises  OB007 the sealed plan would change
create function backfill_private.guard_item()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'UPDATE'
    and (
      new.run_id, new.ordinal, new.source, new.session_id, new.session_at,
      new.components, new.replaces, new.category, new.phase, new.batch
    )
    is not distinct from (
      old.run_id, old.ordinal, old.source, old.session_id, old.session_at,
      old.components, old.replaces, old.category, old.phase, old.batch
    )
  then
    return new;
  end if;
  perform backfill_private.refuse('OB007',
    format('run %s is sealed, its plan does not change', old.run_id),
    format('backfill plan --like %s', old.run_id));
  return null;
end
$$;

create trigger backfill_items_guard
  before delete or update of
    run_id, ordinal, source, session_id, session_at, components, replaces, category, phase, batch
  on public.backfill_items
  for each row execute function backfill_private.guard_item();

-- Guard the items: no row is added after sealing. Asked once per statement: a large plan places its sessions in few.
--
-- raises  OB007 the sealed plan would change
create function backfill_private.guard_new_items()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sealed uuid;
begin
  select r.run_id into v_sealed
  from (select distinct n.run_id from new_items as n) as came
  join public.backfill_runs as r on r.run_id = came.run_id
  where r.sealed_at is not null;
  if found then
    perform backfill_private.refuse('OB007',
      format('run %s is sealed, its plan does not change', v_sealed),
      format('backfill plan --like %s', v_sealed));
  end if;
  return null;
end
$$;

create trigger backfill_items_no_more after insert on public.backfill_items
  referencing new table as new_items
  for each statement execute function backfill_private.guard_new_items();

-- Refuse to truncate a table of ours. No verb needs it.
create function backfill_private.guard_truncate()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.refuse('OB007', format('%s is never truncated', tg_table_name),
    'prune a run that is over instead');
  return null;
end
$$;

-- Move a run to another state and say so in its chain.
--
-- p_cause  what kind of reason this is: see backfill_private.causes. Only a pause has one
-- raises  OB002 the move is not in backfill_transitions
create function backfill_private.move(
  p_run_id uuid, p_to text, p_reason text default null, p_details jsonb default '{}', p_cause text default null
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from text := (select state from public.backfill_runs where run_id = p_run_id for no key update);
  v_now timestamptz := backfill_private.clock();
  v_is_over boolean := p_to in ('completed', 'rejected', 'cancelled', 'expired', 'rolled_back');
begin
  update public.backfill_runs
  set state = p_to,
      reason = left(p_reason, 500),
      cause = p_cause,
      held_by = case when p_to = 'paused' then p_details ->> 'by' end,
      started_at = case when p_to = 'running' then coalesce(started_at, v_now) else started_at end,
      resumed_at = case when p_to = 'running' then v_now else resumed_at end,
      settled_since = case when p_to = 'running' then 0 else settled_since end,
      failed_since = case when p_to = 'running' then 0 else failed_since end,
      failed_in_row = case when p_to = 'running' then 0 else failed_in_row end,
      troubled_batches = case when p_to = 'running' then 0 else troubled_batches end,
      trials = case when p_to = 'running' then 0 else trials end,
      back_off_until = case when p_to = 'running' then null else back_off_until end,
      finished_at = case when v_is_over then v_now end
  where run_id = p_run_id;
  if v_is_over then
    delete from backfill_private.low_water where run_id = p_run_id;
    delete from backfill_private.starts where run_id = p_run_id and started_at < v_now - interval '10 minutes';
  end if;
  perform backfill_private.record(p_run_id, p_to,
    p_details || jsonb_strip_nulls(jsonb_build_object('from', v_from, 'reason', left(p_reason, 500))));
end
$$;

-- Pause a running run, for a reason that the database saw.
--
-- p_cause  see backfill_private.causes
create function backfill_private.hold(p_run_id uuid, p_cause text, p_reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.state from public.backfill_runs as r where r.run_id = p_run_id) = 'running' then
    perform backfill_private.move(p_run_id, 'paused', p_reason, p_cause => p_cause);
  end if;
end
$$;
