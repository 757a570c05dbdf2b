-- Use of standing approvals: a run that one covers is approved by it. What stops such a run, and what proves its use.

-- Reserve sessions of a target for today, one run after the other.
create function backfill_private.reserve_today(p_target text, p_sessions bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into backfill_private.standing_days as d (target, day, sessions, last_at)
  values (
    p_target, (backfill_private.clock() at time zone 'UTC')::date, p_sessions, backfill_private.clock())
  on conflict (target) do update
  set sessions = case when d.day >= excluded.day then d.sessions else 0 end + excluded.sessions,
      day = greatest(d.day, excluded.day),
      last_at = greatest(d.last_at, excluded.last_at)
$$;

-- Lock what the standing approvals of a target have approved today, and the rule that counts then.
--
-- returns  the rule. Null if none is in force
create function backfill_private.locked_rule(p_target text)
returns public.backfill_standing
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  perform backfill_private.reserve_today(p_target, 0);
  perform from public.backfill_standing as s
  where s.target = p_target and s.revoked_at is null
  order by s.standing_id
  for share;
  v_rule := backfill_private.rule_that_counts(p_target);
  return v_rule;
end
$$;

-- Decide by standing approval. Whoever inserts such a decision, it counts only if the named rule is the one that counts
-- now and covers the run. All else is filled in here, and the day's sessions are taken.
--
-- raises  OB002 nothing to decide, OB003 it does not cover the run, OB007, OB008 as backfill_private.decide
create function backfill_private.decide_by_standing()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.locked_run(new.run_id, array['awaiting_approval']);
  v_rule public.backfill_standing := backfill_private.locked_rule(v_run.target);
  v_fault text := backfill_private.standing_fault(v_rule, v_run);
begin
  if v_rule.standing_id is distinct from new.standing_id or new.decision is distinct from 'approved' then
    v_fault := 'it is not the one that counts now';
  end if;
  if v_fault is not null then
    perform backfill_private.refuse('OB003',
      format('%s does not cover run %s: %s', backfill_private.standing_name(new.standing_id), new.run_id, v_fault),
      backfill_private.hint(v_run));
  end if;
  perform backfill_private.check_environment(coalesce(v_run.environment, 'unnamed'));
  perform backfill_private.check_digest(v_run, v_run.digest);
  perform backfill_private.reserve_today(v_run.target, (
    select max(i.ordinal) from public.backfill_items as i where i.run_id = new.run_id));
  new.approver := v_rule.approved_by;
  new.approver_id := v_rule.approver_id;
  new.via := 'standing';
  new.note := 'by ' || backfill_private.standing_name(v_rule.standing_id);
  return backfill_private.carried_out(new, v_run, v_rule.valid_until, jsonb_build_object(
    'standing', v_rule.standing_id,
    'standing_digest', v_rule.digest));
end
$$;

create trigger backfill_approvals_decide_by_standing before insert on public.backfill_approvals
  for each row when (new.standing_id is not null) execute function backfill_private.decide_by_standing();

-- Why a run waits for a person, in words: what the rule that counts does not cover, or why none is in force.
--
-- p_rule   the rule that counts. Null: none
-- p_fault  why it does not cover the run
create function backfill_private.why_not_covered(
  p_run public.backfill_runs, p_rule public.backfill_standing, p_fault text
)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_rule.standing_id is not null then format('%s%s: %s',
      backfill_private.standing_name(p_rule.standing_id),
      (
        select ', the narrowest of ' || count(*)
        from backfill_private.rules_of(p_run.target) as r
        where (backfill_private.standing_state(r)).why is null
        having count(*) > 1
      ),
      p_fault)
    else (
      select string_agg(
        format('%s: %s', backfill_private.standing_name((f.rule).standing_id),
          (backfill_private.standing_state(f.rule)).why),
        '; ' order by (f.rule).proposed_at desc)
      from (
        select s as rule
        from public.backfill_standing as s
        where s.target = p_run.target
        order by s.revoked_at is not null, s.approved_at is null, s.proposed_at desc
        limit 3
      ) as f)
  end
$$;

-- What standing approvals say of a run: the one that approved it, or why none covers it. Null: nothing, or the caller
-- may not read.
--
-- returns  {standing_id, covers, reason}
create function backfill_private.standing_of_run(p_run_id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_rule public.backfill_standing;
  v_fault text;
begin
  if not backfill_private.may('read') then
    return null;
  end if;
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if v_run.approved_via = 'standing' then
    return (
      select jsonb_build_object('standing_id', a.standing_id, 'covers', true, 'reason', null)
      from public.backfill_approvals as a
      where a.run_id = p_run_id);
  elsif v_run.state is distinct from 'awaiting_approval'
    or not exists (select from public.backfill_standing as s where s.target = v_run.target)
  then
    return null;
  end if;
  v_rule := backfill_private.rule_that_counts(v_run.target);
  v_fault := case
    when v_rule.standing_id is null then 'none is in force'
    else backfill_private.standing_fault(v_rule, v_run)
  end;
  return jsonb_build_object(
    'standing_id', v_rule.standing_id,
    'covers', v_fault is null,
    'reason', case when v_fault is not null then backfill_private.why_not_covered(v_run, v_rule, v_fault) end);
end
$$;

-- Ask whether a standing approval covers a run. If so, the run is approved by it. Else it waits for a person, and may
-- ask again.
--
-- returns  {run_id, state, digest, approved_by, approved_via, approved_until, standing: see standing_of_run}
-- raises   OB001 no such run, OB007 what was planned is no longer what stands there, OB010 not allowed
create function backfill_private.ask_standing(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_told jsonb;
begin
  perform backfill_private.authorize('plan');
  if not exists (select from public.backfill_runs as r where r.run_id = p_run_id) then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  end if;
  v_told := backfill_private.standing_of_run(p_run_id);
  if (v_told -> 'covers')::boolean
    and (select r.state = 'awaiting_approval' from public.backfill_runs as r where r.run_id = p_run_id)
  then
    begin
      insert into public.backfill_approvals (run_id, digest, decision, standing_id)
      values (p_run_id, '', 'approved', (v_told ->> 'standing_id')::uuid);
    exception when sqlstate 'OB002' or sqlstate 'OB003' then
      null;  -- Somebody else was first: decided on the run, took the day's sessions, or revoked the rule.
    end;
  end if;
  return (
    select jsonb_build_object(
      'run_id', r.run_id,
      'state', r.state,
      'digest', r.digest,
      'approved_by', r.approved_by,
      'approved_via', r.approved_via,
      'approved_until', r.approved_until,
      'standing', backfill_private.standing_of_run(r.run_id))
    from public.backfill_runs as r
    where r.run_id = p_run_id);
end
$$;

-- The rule by which a run was approved. No row if a person approved it.
create function backfill_private.rule_of_run(p_run public.backfill_runs)
returns setof public.backfill_standing
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select s.*
  from public.backfill_approvals as a
  join public.backfill_standing as s using (standing_id)
  where p_run.approved_via = 'standing'
    and a.run_id = p_run.run_id
$$;

-- Why a run that a standing approval allowed may go on no more. Null: it may, or a person approved it.
create function backfill_private.standing_revoked(p_run public.backfill_runs)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_run.approved_via is distinct from 'standing' then
    return null;
  end if;
  return coalesce(
    (
      select case
        when s.revoked_at is not null
        then format('%s, which allowed this run, was revoked by %s: %s',
          backfill_private.standing_name(s.standing_id), s.revoked_by, s.revoked_reason)
        else ''
      end
      from backfill_private.rule_of_run(p_run) as s
    ),
    'the standing approval that allowed this run is gone');
end
$$;

-- When a run may start sessions again, if it is outside the hours of its standing approval. Null: it may now.
--
-- why  its hours, in words
create function backfill_private.standing_wait(p_run public.backfill_runs, out until timestamptz, out why text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  if p_run.approved_via = 'standing' then
    select * into v_rule from backfill_private.rule_of_run(p_run);
    if not backfill_private.is_open(v_rule, backfill_private.clock()) then
      until := backfill_private.opens_at(v_rule, backfill_private.clock());
      why := format('%s is for %s',
        backfill_private.standing_name(v_rule.standing_id), backfill_private.times_in_words(v_rule));
    end if;
  end if;
end
$$;

-- That a run waits for the hours of its standing approval, in words. Null: it does not, or the caller may not read.
create function backfill_private.waits_for_hours(p_run_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select format('hours: until %s UTC, %s', to_char(w.until at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), w.why)
  from public.backfill_runs as r
  cross join lateral backfill_private.standing_wait(r) as w
  where r.run_id = p_run_id
    and w.until is not null
    and backfill_private.may('read')
$$;

-- What no longer proves that a standing approval allowed a run. No row if all does.
create function backfill_private.standing_use_faults(p_run_id uuid)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with used as (
    select
      r.approved_via as run_via,
      a.via,
      a.standing_id,
      a.approver,
      a.approver_id,
      a.decided_at,
      e.seq,
      e.details
    from public.backfill_runs as r
    join public.backfill_approvals as a using (run_id)
    join public.backfill_events as e on e.run_id = r.run_id and e.kind = 'approved'
    where r.run_id = p_run_id
      and a.decision = 'approved'
  )
  select format('audit event %s: %s', u.seq, f.fault)
  from used as u
  left join public.backfill_standing as s using (standing_id)
  cross join lateral (values
    (u.run_via is distinct from u.via, 'the run says another way of its approval'),
    ((u.via = 'standing') <> (u.standing_id is not null)
        or u.standing_id::text is distinct from u.details ->> 'standing',
      'the standing approval that it tells is not the one of the decision'),
    (u.standing_id is not null and (
        u.details ->> 'standing_digest' is distinct from s.digest
        or s.digest is distinct from backfill_private.standing_digest(s)
        or (u.approver, u.approver_id) is distinct from (s.approved_by, s.approver_id)),
      'the standing approval is not the one by which the run was allowed'),
    (u.standing_id is not null and (
        u.decided_at >= s.approved_at and u.decided_at < s.valid_until
        and (s.revoked_at is null or u.decided_at <= s.revoked_at)) is not true,
      'the standing approval did not hold when the run was allowed')
  ) as f (is_so, fault)
  where f.is_so
$$;
