-- Heal: the run that `backfill heal` works on, one per target. Two heals at once, or one after a crash, get the same.

-- The newest run that heal asked for, by target. The run stands in backfill_runs once it is opened.
create table backfill_private.heals (
  target text primary key,
  run_id uuid not null default gen_random_uuid(),
  request jsonb not null
);

-- The size of a run that the standing approval which counts can cover: of its sessions a run, of what is left of the
-- day, of its calls. If the day is used up, a whole run waits for the next. Null: no standing approval counts.
create function backfill_private.heal_limit(p_rule public.backfill_standing)
returns integer
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case when p_rule.standing_id is not null then
    greatest(1, least(
      p_rule.max_sessions,
      nullif(greatest(p_rule.max_per_day - backfill_private.approved_today(p_rule.target), 0), 0),
      p_rule.max_calls / (
        select count(*) from public.backfill_targets as t where t.target = p_rule.target)))::integer end
$$;

-- What heal asks for: everything from the oldest day on that lacked something at the last look, or whose sessions still
-- have time, as far and as fast as the standing approval that counts allows. To wait until their time is over would be
-- to miss the level each time. Null: there is no such day.
create function backfill_private.heal_request(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'target', p_target,
    'since', w.since,
    'limit', backfill_private.heal_limit(r),
    'throttle_per_minute', coalesce(r.throttle_per_minute, 20),
    'batch_size', least(r.throttle_per_minute, 5))
  from (
    select min(h.day)::text as since
    from public.backfill_coverage_history as h
    where h.target = p_target
      and (h.missing > 0 or h.not_due > 0)
  ) as w
  cross join backfill_private.rule_that_counts(p_target) as r
  where w.since is not null
$$;

-- How long a plan stands whose marks failed, or of sessions that were undone, so that a person can decide on it: half
-- of the time that the service level gives, and never less than an hour. So scorers that are well again are seen in
-- time, after few plans.
create function backfill_private.heal_patience(p_target text)
returns interval
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select greatest(coalesce(max(w.within), interval '6 hours') / 2, interval '1 hour')
  from public.backfill_watches as w
  where w.target = p_target
$$;

-- Why a run of heal that waits for a person is to be planned anew. Null: it is not.
--
-- Nobody can approve what is no longer as it was planned. A rule that a person approved meanwhile may cover a smaller
-- run. Marks are measured, and another plan may find scorers well again. After one of sessions that were undone,
-- another may find others.
create function backfill_private.heal_anew(p_run public.backfill_runs)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing := backfill_private.rule_that_counts(p_run.target);
begin
  return case
    when backfill_private.compute_digest(p_run.run_id) <> p_run.digest then backfill_private.what_changed(p_run)
    when v_rule.standing_id is null then null
    when v_rule.approved_at > p_run.created_at and backfill_private.standing_fault(v_rule, p_run) is not null
      then format('%s was approved since', backfill_private.standing_name(v_rule.standing_id))
    when p_run.sealed_at <= backfill_private.clock() - backfill_private.heal_patience(p_run.target)
      then coalesce(
        backfill_private.marks_fault(v_rule.marks, p_run.plan -> 'checks'),
        backfill_private.undone_fault(v_rule, p_run))
  end;
end
$$;

-- Is a run of heal over, so that the next one is asked for?
create function backfill_private.heal_is_over(p_run public.backfill_runs)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_anew text := case p_run.state when 'awaiting_approval' then backfill_private.heal_anew(p_run) end;
begin
  if v_anew is not null then
    perform backfill_private.halt('cancel', p_run.run_id, left('planned anew: ' || v_anew, 500));
    return true;
  end if;
  return p_run.state not in ('planning', 'awaiting_approval', 'approved', 'running', 'paused');
end
$$;

-- The sessions that heal leaves to others for now, with the reason.
create function backfill_private.not_for_heal(p_target text)
returns table (session_id text, reason text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with recent as (
    select r.run_id
    from public.backfill_runs as r
    where r.target = p_target
      and r.created_at > backfill_private.clock() - interval '1 day'
  ), failed as (
    select i.run_id, i.session_id
    from recent
    join public.backfill_items as i using (run_id)
    where i.state = 'failed'
    union
    select s.run_id, s.session_id
    from recent
    join backfill_private.rehearsals as s using (run_id)
    where s.seen ->> 'error' is not null
  )
  select f.session_id, 'it failed twice within a day, and is tried again after that'
  from failed as f
  group by f.session_id
  having count(*) > 1
  union all
  select u.session_id, format('it was undone since %s was approved, so a person decides on it',
    backfill_private.standing_name(r.standing_id))
  from backfill_private.rule_that_counts(p_target) as r
  cross join backfill_private.undone_since(p_target, r.approved_at) as u
$$;

-- Leave these out of a run of heal, if there is anything else to score. Else sessions that always fail would take
-- the places of others in each run, and fail each rehearsal. One that was undone would let all others wait for a
-- person.
create function backfill_private.leave_to_others(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_reasons jsonb;
begin
  if not exists (select from backfill_private.heals as h where h.run_id = p_run.run_id) then
    return;
  end if;
  select coalesce(jsonb_object_agg(n.session_id, n.reason), '{}') into v_reasons
  from backfill_private.not_for_heal(p_run.target) as n;
  update backfill_private.findings as f
  set excluded = v_reasons ->> f.session_id
  where f.run_id = p_run.run_id
    and f.excluded is null
    and f.components <> '{}'
    and v_reasons ? f.session_id
    and exists (
      select from backfill_private.findings as other
      where other.run_id = p_run.run_id
        and other.excluded is null
        and other.components <> '{}'
        and not v_reasons ? other.session_id);
end
$$;

-- The run that heal works on.
--
-- returns  {target, run_id, state, request}. state null: it is to be opened with this request. run_id null: nothing is
--          missing
-- raises   OB010 not allowed, OB013 no such target
create function backfill_private.heal_next(p_target text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := backfill_private.check_target(p_target);
  v_request jsonb;
  v_heal backfill_private.heals;
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('plan');
  v_request := backfill_private.heal_request(v_target);
  insert into backfill_private.heals (target, request)
  values (v_target, coalesce(v_request, '{}'))
  on conflict (target) do nothing;
  select * into v_heal from backfill_private.heals as h where h.target = v_target for update;
  select * into v_run from public.backfill_runs as r where r.run_id = v_heal.run_id;
  if found then
    v_run := backfill_private.caught_up_run(v_heal.run_id);
    if not backfill_private.heal_is_over(v_run) then
      return jsonb_build_object(
        'target', v_target, 'run_id', v_run.run_id, 'state', v_run.state, 'request', v_heal.request);
    end if;
    v_heal.run_id := gen_random_uuid();
  end if;
  update backfill_private.heals
  set run_id = v_heal.run_id,
      request = coalesce(v_request, '{}')
  where target = v_target;
  return jsonb_build_object(
    'target', v_target,
    'run_id', case when v_request is not null then v_heal.run_id end,
    'state', null,
    'request', coalesce(v_request, '{}'));
end
$$;
