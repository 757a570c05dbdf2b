-- What a standing approval covers: why it is not in force now, and why it does not cover a run.

-- A rule's name in a sentence.
create function backfill_private.standing_name(p_standing_id uuid)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'standing approval ' || left(p_standing_id::text, 8)
$$;

-- The hours and weekdays of a rule, in words. Null: any time.
create function backfill_private.times_in_words(p_rule public.backfill_standing)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select nullif(concat_ws(' on ',
    lpad(p_rule.from_hour::text, 2, '0') || ':00 to ' || lpad(p_rule.to_hour::text, 2, '0') || ':00 UTC',
    (
      select string_agg((array['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'])[d], ', ' order by d)
      from unnest(p_rule.weekdays) as d
    )), '')
$$;

-- Whether a moment is within a rule's hours and weekdays. Those of a night belong to the day on which each hour is.
create function backfill_private.is_open(p_rule public.backfill_standing, p_at timestamptz)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
      when p_rule.from_hour is null then true
      when p_rule.from_hour < p_rule.to_hour then t.hour >= p_rule.from_hour and t.hour < p_rule.to_hour
      else t.hour >= p_rule.from_hour or t.hour < p_rule.to_hour
    end
    and (p_rule.weekdays is null or t.weekday = any (p_rule.weekdays))
  from (
    select
      extract(hour from p_at at time zone 'UTC')::integer as hour,
      extract(isodow from p_at at time zone 'UTC')::integer as weekday
  ) as t
$$;

-- The next full hour that is within a rule's hours and weekdays.
create function backfill_private.opens_at(p_rule public.backfill_standing, p_after timestamptz)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select date_trunc('hour', p_after, 'UTC') + h * interval '1 hour'
  from generate_series(1, 8 * 24) as h
  where backfill_private.is_open(p_rule, date_trunc('hour', p_after, 'UTC') + h * interval '1 hour')
  order by h
  limit 1
$$;

-- What is no longer as it was when a rule was proposed, by name.
create function backfill_private.rule_changed(p_rule public.backfill_standing)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(key, ', ' order by key)
  from jsonb_each_text(backfill_private.standing_definitions(p_rule.target)) as now
  full join jsonb_each_text(p_rule.fingerprint) as was using (key)
  where now.value is distinct from was.value
$$;

-- Whether a decision that was made so would be possible under this policy too. Null for a policy that is not there.
create function backfill_private.policy_takes(p_policy text, p_via text)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select p_via = any (case p_policy
    when 'postgres_only' then array['sql']
    when 'second_person' then array['sql', 'auth']
    when 'any' then array['sql', 'auth', 'service_key']
  end)
$$;

-- Where a rule stands.
--
-- state  proposed, approved, ended or revoked
-- why    why it is not in force now. Null: it is
create function backfill_private.standing_state(p_rule public.backfill_standing, out state text, out why text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_settings public.backfill_settings;
  v_last timestamptz;
  -- Of a rule that is over nobody asks.
  v_changed text := case
    when p_rule.revoked_at is null and p_rule.valid_until > v_now then backfill_private.rule_changed(p_rule) end;
begin
  select * into v_settings from public.backfill_settings;
  select greatest(p_rule.approved_at, max(d.last_at)) into v_last
  from backfill_private.standing_days as d
  where d.target = p_rule.target;
  state := case
    when p_rule.revoked_at is not null then 'revoked'
    when v_changed is not null
      or p_rule.valid_until <= v_now
      or p_rule.server <> backfill_private.server_identity()
      or p_rule.digest <> backfill_private.standing_digest(p_rule) then 'ended'
    when p_rule.approved_at is null then 'proposed'
    else 'approved'
  end;
  why := case
    when state = 'revoked' then format('%s revoked it: %s', p_rule.revoked_by, p_rule.revoked_reason)
    when p_rule.server <> backfill_private.server_identity() then 'it is for another server and database'
    when p_rule.valid_until <= v_now
      then to_char(p_rule.valid_until at time zone 'UTC', '"it ended at "YYYY-MM-DD HH24:MI" UTC"')
    when not exists (select from public.backfill_targets as t where t.target = p_rule.target)
      then format('target %s is not installed any more', p_rule.target)
    when v_changed is not null then format('it ended, since what it was approved for has changed: %s', v_changed)
    when p_rule.digest <> backfill_private.standing_digest(p_rule) then 'its rule is not the one that was proposed'
    when state = 'proposed' then 'nobody has approved it yet'
    when v_settings.only_row is null then 'the row of backfill_settings is gone'
    when lower(p_rule.environment) is distinct from lower(coalesce(v_settings.environment, p_rule.environment))
      then format('it is for %s, and this project is %s',
        coalesce(p_rule.environment, 'a project without a name'), v_settings.environment)
    when backfill_private.policy_takes(v_settings.approval_policy, p_rule.approved_via) is not true
      then format('it was approved by %s, which the policy %s does not take',
        p_rule.approved_via, v_settings.approval_policy)
    when v_now < v_last
      then to_char(v_last at time zone 'UTC', '"the clock was set back: it is before its last use, at "YYYY-MM-DD '
        'HH24:MI:SS" UTC"')
    when not backfill_private.is_open(p_rule, v_now)
      then format('it is for %s, and it is %s UTC', backfill_private.times_in_words(p_rule),
        to_char(v_now at time zone 'UTC', 'HH24:MI" on "Dy'))
  end;
end
$$;

-- How many sessions of a target standing approvals have approved on this UTC day.
create function backfill_private.approved_today(p_target text)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select d.sessions
    from backfill_private.standing_days as d
    where d.target = p_target
      and d.day >= (backfill_private.clock() at time zone 'UTC')::date), 0)
$$;

-- What a run asks for beyond its target's own versions and parameters: the name of one. A rule covers these alone, for
-- it was approved for what the target declares. Null: nothing.
create function backfill_private.asks_beyond(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(distinct d.name, ', ' order by d.name)
  from (
    select t.version_parameter as name, min(t.version) over (partition by t.version_parameter) as declared
    from public.backfill_targets as t
    where t.target = p_run.target and t.version_parameter is not null
    union all
    select e.key, e.value
    from backfill_private.sources as s
    cross join jsonb_each_text(s.defaults) as e
    where s.target = p_run.target and e.key not in (
      select t.version_parameter
      from public.backfill_targets as t
      where t.target = s.target and t.version_parameter is not null)
  ) as d
  where p_run.request ->> d.name is distinct from d.declared
$$;

-- Why the marks of a plan are not as a rule wants them. Null: they are.
create function backfill_private.marks_fault(p_marks text[], p_checks jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select 'a mark of the plan failed: ' || min(concat_ws(': ', c.mark ->> 'name', c.mark ->> 'detail'))
      from jsonb_array_elements(p_checks) as c (mark)
      where c.mark ->> 'status' not in ('ok', 'warn')
      having count(*) > 0
    ),
    (
      select format('mark %s is %s', min(c.mark ->> 'name'), min(c.mark ->> 'status'))
      from jsonb_array_elements(p_checks) as c (mark)
      join unnest(p_marks) as m (named) on backfill_private.names_mark(m.named, c.mark ->> 'name')
      where c.mark ->> 'status' <> 'ok'
      having count(*) > 0
    ),
    (
      select 'the plan has no mark ' || min(m.named)
      from unnest(p_marks) as m (named)
      where not exists (
        select from jsonb_array_elements(p_checks) as c (mark)
        where backfill_private.names_mark(m.named, c.mark ->> 'name'))
      having count(*) > 0
    ))
$$;

-- The sessions of a target of which anything was taken back by an undo since then.
create function backfill_private.undone_since(p_target text, p_since timestamptz)
returns table (session_id text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select distinct w.session_id
  from public.backfill_runs as r
  join public.backfill_receipts as w using (run_id)
  where r.target = p_target
    and w.undone_at >= p_since
    and exists (
      select from backfill_private.undos as u
      where u.run_id = r.run_id
        and u.confirmed_at is not null)
$$;

-- That a run would score again what somebody has undone since a rule was approved. Null: it would not.
create function backfill_private.undone_fault(p_rule public.backfill_standing, p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('the run has %s undone since it was approved', backfill_private.called_in(p_run.run_id, count(*)))
  from backfill_private.undone_since(p_run.target, p_rule.approved_at) as u
  join public.backfill_items as i using (session_id)
  where i.run_id = p_run.run_id
  having count(*) > 0
$$;

-- Why a rule does not cover a run now, in a sentence. Null: it does.
create function backfill_private.standing_fault(p_rule public.backfill_standing, p_run public.backfill_runs)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sessions integer := (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run.run_id);
  v_calls bigint := (p_run.plan #>> '{expected_calls,total}')::bigint;
  v_throttle integer := (p_run.request ->> 'throttle_per_minute')::integer;
  v_replaced bigint := (
    select count(*)
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.replaces <> '{}');
  v_beyond text := backfill_private.asks_beyond(p_run);
  v_today bigint := backfill_private.approved_today(p_run.target);
begin
  return coalesce((backfill_private.standing_state(p_rule)).why, case
    when p_rule.target is distinct from p_run.target then format('it is for target %s', p_rule.target)
    when p_rule.server is distinct from p_run.server then 'the plan was made on another server and database'
    when lower(p_rule.environment) is distinct from lower(p_run.environment)
      then format('the plan is for %s', coalesce(p_run.environment, 'a project without a name'))
    when p_rule.fingerprint @> p_run.fingerprint is not true
      then 'a definition has changed since the plan was made'
    when p_run.requested_by = p_rule.approver_id
      and (select s.approval_policy <> 'any' from public.backfill_settings as s)
      then format('%s approved it and asked for this run, which takes a second person', p_rule.approved_by)
    when v_beyond is not null then format('the run asks for its own %s', v_beyond)
    when v_sessions <= p_rule.max_sessions is not true
      then format('the run has %s sessions, it allows %s', v_sessions, p_rule.max_sessions)
    when p_rule.max_calls is not null and v_calls <= p_rule.max_calls is not true
      then format('the run makes %s calls, it allows %s', v_calls, p_rule.max_calls)
    when p_rule.throttle_per_minute is not null and v_throttle <= p_rule.throttle_per_minute is not true
      then format('the run starts %s per minute, it allows %s',
        coalesce(v_throttle::text, 'any number'), p_rule.throttle_per_minute)
    when not p_rule.replaces and v_replaced > 0
      then format('the run replaces rows of %s, it allows new rows only',
        backfill_private.called_in(p_run.run_id, v_replaced))
    when p_rule.max_per_day is not null and v_today + v_sessions > p_rule.max_per_day
      then format('the run has %s sessions, %s of its %s per day are left',
        v_sessions, greatest(p_rule.max_per_day - v_today, 0), p_rule.max_per_day)
    else coalesce(
      backfill_private.undone_fault(p_rule, p_run),
      backfill_private.marks_fault(p_rule.marks, p_run.plan -> 'checks'))
  end);
end
$$;

-- How wide a rule is, to be compared: by sessions per run and per day, calls, throttle, replaced rows, hours, weekdays,
-- marks, end. No two are equal.
create function backfill_private.breadth(p_rule public.backfill_standing)
returns numeric[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select array[
    p_rule.max_sessions,
    coalesce(p_rule.max_per_day::numeric, 'infinity'),
    coalesce(p_rule.max_calls::numeric, 'infinity'),
    coalesce(p_rule.throttle_per_minute::numeric, 'infinity'),
    p_rule.replaces::integer,
    coalesce((p_rule.to_hour - p_rule.from_hour + 23) % 24 + 1, 24),
    coalesce(cardinality(p_rule.weekdays), 7),
    -cardinality(p_rule.marks),
    extract(epoch from p_rule.valid_until),
    extract(epoch from p_rule.proposed_at),
    hashtext(p_rule.standing_id::text)]
$$;

-- The rules of a target that are approved and not over, the narrowest first. Those that are over stay in the table.
create function backfill_private.rules_of(p_target text)
returns setof public.backfill_standing
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select s.*
  from public.backfill_standing as s
  where s.target = p_target
    and s.approved_at is not null
    and s.revoked_at is null
    and s.valid_until > backfill_private.clock()
  order by backfill_private.breadth(s)
$$;

-- The rule of a target that counts now: of those that are in force, the narrowest. Null if none is.
create function backfill_private.rule_that_counts(p_target text)
returns public.backfill_standing
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  for v_rule in select r.* from backfill_private.rules_of(p_target) as r loop
    if (backfill_private.standing_state(v_rule)).why is null then
      return v_rule;
    end if;
  end loop;
  return null;
end
$$;
