-- Counting days: how many sessions of a day have their rows. What a session is and what it lacks, the view of standing
-- says. See 20_target/standing.sql.

-- By what a target is counted, as a hash: its source and its components. If that changes, what was counted before says
-- nothing any more.
create function backfill_private.counted_as(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(concat_ws(
    e'\n',
    (
      select to_jsonb(s) - array['called', 'installed_at', 'views', 'index_name']
      from backfill_private.sources as s
      where s.target = p_target
    ),
    (
      select jsonb_agg(to_jsonb(t) order by t.position)
      from public.backfill_targets as t
      where t.target = p_target
    )))
$$;

-- The sessions of a target in a range of dates, in groups that lack the same, as SQL.
--
-- $1, $2  the range, $3 the last date whose time is over
-- gives   day, is_due, lacks, not_wanted: {component: reason}, excluded, sessions, oldest_at
create function backfill_private.standing_groups_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$select
      (s.created_at at time zone 'UTC')::date as day,
      s.created_at <= $3 as is_due,
      s.lacks,
      s.not_wanted,
      s.excluded,
      count(*) as sessions,
      min(s.created_at) as oldest_at
    from (
      -- offset 0: what a session lacks is worked out once, though it is read several times.
      select
        i.created_at,
        i.excluded,
        array_remove(array[%s]::text[], null) as lacks,
        case when i.is_incomplete then nullif(jsonb_strip_nulls(jsonb_build_object(%s)), '{}') end as not_wanted
      from (
        select g.* from %s as g where g.created_at >= $1 and g.created_at < $2 offset 0
      ) as i
    ) as s
    group by 1, 2, 3, 4, 5$sql$,
    string_agg(format('case when i.%I then %L end', 'missing_' || t.component, t.component), ', ' order by t.position),
    (
      select string_agg(format('%L, i.%I', c.component, c.not_wanted), ', ' order by c.position)
      from backfill_private.conditional_components(p_target) as c
    ),
    backfill_private.standing_view(p_target)::regclass)
  from public.backfill_targets as t
  where t.target = p_target
$$;

-- The statement that counts the days of a range of dates. $1 to $3: see standing_groups_sql.
--
-- gives  one value: [{day, selected, wanted, there, missing, not_due, lacks, left_out, oldest_missing_at}]
create function backfill_private.days_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$
    with groups as materialized (
      select
        g.*,
        g.excluded is null and g.is_due as is_wanted,
        g.excluded is null and g.is_due and g.lacks <> '{}' as is_missing
      from (%s) as g
    ), days as (
      select
        g.day,
        sum(g.sessions) as selected,
        coalesce(sum(g.sessions) filter (where g.is_wanted), 0) as wanted,
        coalesce(sum(g.sessions) filter (where g.is_wanted and not g.is_missing), 0) as there,
        coalesce(sum(g.sessions) filter (where g.is_missing), 0) as missing,
        coalesce(sum(g.sessions) filter (where g.excluded is null and not g.is_due), 0) as not_due,
        min(g.oldest_at) filter (where g.is_missing) as oldest_missing_at
      from groups as g
      group by g.day
    ), lacking as (
      select c.day, jsonb_object_agg(c.component, c.sessions) as lacks
      from (
        select g.day, l.component, sum(g.sessions) as sessions
        from groups as g
        cross join unnest(g.lacks) as l (component)
        where g.is_missing
        group by 1, 2
      ) as c
      group by c.day
    ), unwanted as (
      select
        r.day,
        jsonb_agg(to_jsonb(r) - 'day' order by r.component nulls first, r.reason) as left_out
      from (
        select g.day, why.component, why.reason, sum(g.sessions) as sessions
        from groups as g
        cross join lateral (
          select null as component, g.excluded as reason
          where g.excluded is not null
          union all
          select n.key, n.value
          from jsonb_each_text(g.not_wanted) as n
          where g.excluded is null
        ) as why
        group by 1, 2, 3
      ) as r
      group by r.day
    )
    select coalesce(
      jsonb_agg(to_jsonb(d) || jsonb_build_object(
        'lacks', coalesce(l.lacks, '{}'),
        'left_out', coalesce(u.left_out, '[]'))),
      '[]')
    from days as d
    left join lacking as l using (day)
    left join unwanted as u using (day)$sql$,
    backfill_private.standing_groups_sql(p_target))
$$;

-- The days of a range of dates, counted, in a subtransaction that PostgreSQL keeps from writing: see
-- backfill_private.detected. A day without sessions is not among them.
--
-- p_due    sessions up to this date are judged
-- returns  see days_sql
-- raises   25006 the view, or a function that it calls, tries to write
create function backfill_private.counted_days(
  p_target text, p_from timestamptz, p_until timestamptz, p_due timestamptz
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set timezone = 'UTC'
as $$
declare
  v_days jsonb;
begin
  begin
    set local transaction_read_only = on;
    execute backfill_private.days_sql(p_target) into v_days using p_from, p_until, p_due;
  exception when read_only_sql_transaction then
    raise exception using
      errcode = 'read_only_sql_transaction',
      message = format(
        '%s writes while it is counted (%s). Take the write out of the view and of what it calls',
        backfill_private.standing_view(p_target), sqlerrm),
      hint = 'backfill watch after that';
  end;
  return v_days;
end
$$;

-- Keep what was counted of a range of days, in place of what was known of them.
--
-- p_from, p_below  the first day, and the first that is too late
-- returns          how many sessions they have
create function backfill_private.keep_days(
  p_target text, p_look bigint, p_from date, p_below date, p_due timestamptz
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_days jsonb := backfill_private.counted_days(
    p_target,
    greatest(p_from::timestamptz, backfill_private.first_moment()),
    least(p_below::timestamptz, backfill_private.after_all_moments()),
    p_due);
begin
  delete from public.backfill_coverage_history
  where target = p_target
    and day >= p_from
    and day < p_below;
  insert into public.backfill_coverage_history (
    target, day, wanted, there, missing, not_due, lacks, left_out, oldest_missing_at, looked_at, look)
  select
    p_target, d.day, d.wanted, d.there, d.missing, d.not_due, d.lacks, d.left_out, d.oldest_missing_at,
    backfill_private.clock(), p_look
  from jsonb_to_recordset(v_days) as d (
    day date, wanted bigint, there bigint, missing bigint, not_due bigint, lacks jsonb, left_out jsonb,
    oldest_missing_at timestamptz);
  return (select coalesce(sum((d ->> 'selected')::bigint), 0)::bigint from jsonb_array_elements(v_days) as d);
end
$$;

-- The sessions that lack something and have a date that no plan takes. No level judges them: nobody could reach it.
--
-- returns  [{reason, sessions}]
create function backfill_private.counted_undated(p_target text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object('reason', r.reason, 'sessions', r.sessions) order by r.reason), '[]')
  from (
    select d.excluded as reason, count(*) as sessions
    from unnest(backfill_private.detected(p_target, null, null)) as d
    group by d.excluded
  ) as r
$$;
