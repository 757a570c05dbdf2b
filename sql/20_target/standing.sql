-- Standing: the view on which all detection of a target stands, put together from its rows. No other view of a target
-- and no function has conditions of its own.

-- The view of a target with every selected session: what it lacks of the wanted versions, and why it cannot be scored.
create function backfill_private.standing_view(p_target text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('backfill_private.%I', p_target || '_standing')
$$;

-- A component's rows, joined to the sessions s as SQL: those that count as present.
create function backfill_private.present_join(p_target public.backfill_targets)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    -- Several rows of a session may count. A plain join would then return the session several times.
    when p_target.any_version_counts and p_target.version_column = any (p_target.key_columns)
    then format(
      e'left join (\n  select distinct r.%1$I\n  from %2$s as r%3$s\n) as c%4$s\n  on c%4$s.%1$I = s.%5$I',
      p_target.session_column,
      p_target.table_name,
      e'\n  where ' || nullif(array_to_string(
        backfill_private.kind_conditions(p_target, 'r', null, false), e'\n    and '), ''),
      p_target.position,
      s.key_column)
    else format(
      e'left join %s as c%s\n  on %s',
      p_target.table_name,
      p_target.position,
      array_to_string(
        format('c%s.%I = s.%I', p_target.position, p_target.session_column, s.key_column)
          || backfill_private.kind_conditions(p_target, 'c' || p_target.position, null, false),
        e'\n  and '))
  end
  from backfill_private.sources as s
  where s.target = p_target.target
$$;

-- Whether a session has fewer rows of a need than scoring reads, as SQL.
--
-- p_key  SQL: the session's key
create function backfill_private.lacks_sql(p_target text, p_need jsonb, p_key text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$(
        select true
        from %1$s as n
        where n.%2$I = %3$s
        offset greatest((select backfill_private.parameter(%4$L, %5$L))::bigint - 1, 0)
        limit 1
      ) is null and (select backfill_private.parameter(%4$L, %5$L))::bigint > 0$sql$,
    p_need ->> 'table',
    p_need ->> 'column',
    p_key,
    p_target,
    p_need ->> 'parameter')
$$;

-- Too few rows of a need, in words.
create function backfill_private.too_few(p_name text, p_least text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case p_least when '1' then 'no ' || p_name else format('fewer than %s %s', p_least, p_name) end
$$;

-- The needs of a component, in their order. Null: those that every session has.
create function backfill_private.needs_of(p_target text, p_component text)
returns table (place bigint, need jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select n.place, n.need
  from backfill_private.sources as s
  cross join lateral jsonb_array_elements(s.needs) with ordinality as n (need, place)
  where s.target = p_target
    and n.need ->> 'component' is not distinct from p_component
$$;

-- The components of a target that need something, with the column of its view that says why one is not wanted.
create function backfill_private.conditional_components(p_target text)
returns table ("position" integer, component text, not_wanted text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select t.position, t.component, 'not_wanted_' || t.component
  from public.backfill_targets as t
  where t.target = p_target
    and exists (select from backfill_private.needs_of(t.target, t.component))
$$;

-- The reasons for which a component may not be wanted now, in words: {component: reason}.
create function backfill_private.not_wanted_reasons(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_object_agg(c.component, (
    select string_agg(
      backfill_private.too_few(
        n.need ->> 'name', backfill_private.parameter(p_target, n.need ->> 'parameter')),
      ', or ' order by n.place)
    from backfill_private.needs_of(p_target, c.component) as n)), '{}')
  from backfill_private.conditional_components(p_target) as c
$$;

-- Why a component is not wanted of a session, as SQL: the first of its needs of which the session has too few rows.
-- Null for a component that is there, which keeps the counting to the others. No SQL if the component needs nothing.
create function backfill_private.not_wanted_sql(p_target public.backfill_targets, p_key text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(e'case\n      when not c%s.%I is null then null%s\n    end',
    p_target.position,
    p_target.session_column,
    string_agg(
      format(
        e'\n      when %s\n      then backfill_private.too_few(%L, (select backfill_private.parameter(%L, %L)))',
        backfill_private.lacks_sql(p_target.target, n.need, p_key),
        n.need ->> 'name',
        p_target.target,
        n.need ->> 'parameter'),
      '' order by n.place))
  from backfill_private.needs_of(p_target.target, p_target.component) as n
  having count(*) > 0
$$;

-- Why a session cannot be scored, as SQL: the first need of the source of which it has too few rows, or that none of
-- its components is wanted. Null for one that lacks nothing, which keeps the counting to the others.
create function backfill_private.excluded_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case when needed.cases is null then 'null::text' else format(e'case\n    when not (%s) then null%s\n  end',
    (
      select string_agg('s.absent_' || t.position, ' or ' order by t.position)
      from public.backfill_targets as t
      where t.target = p_target
    ),
    needed.cases) end
  from (
    select string_agg(c.branch, '' order by c.place) as cases
    from (
      select n.place, format(
        $sql$
    when %1$s
    then format(
      %2$L,
      (select count(*) from %3$s as n where n.%4$I = s.id),
      (select backfill_private.parameter(%5$L, %6$L)))$sql$,
        backfill_private.lacks_sql(p_target, n.need, 's.id'),
        format('%%s %s, at least %%s needed', replace(n.need ->> 'name', '%', '%%')),
        n.need ->> 'table',
        n.need ->> 'column',
        p_target,
        n.need ->> 'parameter') as branch
      from backfill_private.needs_of(p_target, null) as n
      union all
      select null, format(
        e'\n    when %s\n    then concat_ws(''; '', %s)',
        string_agg(format('not s.%I is null', c.not_wanted), ' and ' order by c.position),
        string_agg(format('s.%I', c.not_wanted), ', ' order by c.position))
      from backfill_private.conditional_components(p_target) as c
      having count(*) = (select count(*) from public.backfill_targets as t where t.target = p_target)
    ) as c
  ) as needed
$$;

-- The statement that creates the view of a target. Run it under our path, so that each operator is ours.
--
-- A session lacks a component if it has no row of it and the component is wanted of it.
create function backfill_private.standing_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$create view %s with (security_invoker = true) as
select
  s.id,
  s.created_at,
  %s as is_incomplete,
  %s,
  %s as excluded
from (
  select
    s.%I as id,
    %s::timestamptz as created_at,
    %s
  from %s as s
  %s
  where %s
) as s$sql$,
    backfill_private.standing_view(s.target),
    string_agg('s.absent_' || t.position, ' or ' order by t.position),
    string_agg(
      format('s.absent_%s%s as %I%s',
        t.position,
        ' and s.' || quote_ident(c.not_wanted) || ' is null',
        'missing_' || t.component,
        e',\n  s.' || quote_ident(c.not_wanted)),
      e',\n  ' order by t.position),
    backfill_private.excluded_sql(s.target),
    s.key_column,
    backfill_private.moment(s.source_table, s.date_column, format('s.%I', s.date_column)),
    string_agg(
      format('c%1$s.%2$I is null as absent_%1$s%3$s',
        t.position,
        t.session_column,
        e',\n    ' || backfill_private.not_wanted_sql(t, format('s.%I', s.key_column))
          || ' as ' || quote_ident(c.not_wanted)),
      e',\n    ' order by t.position),
    s.source_table,
    string_agg(backfill_private.present_join(t), e'\n  ' order by t.position),
    array_to_string(
      array(select f.condition from backfill_private.filter_conditions(s.target, 's.') as f)
        || format('(select backfill_private.keys_hold(%L))', s.target),
      e'\n    and '))
  from backfill_private.sources as s
  join public.backfill_targets as t on t.target = s.target
  left join backfill_private.conditional_components(s.target) as c on c.component = t.component
  where s.target = p_target
  group by s.target
$$;
