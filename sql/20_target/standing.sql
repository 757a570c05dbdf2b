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

-- Why a session cannot be scored, as SQL: the first need of which it has fewer rows than scoring reads. Null for one
-- that lacks nothing, which keeps the counting to the others.
create function backfill_private.excluded_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case when s.needs = '[]' then 'null::text' else format(e'case\n    when %s then null%s\n  end',
    (
      select string_agg(format('not c%s.%I is null', t.position, t.session_column), ' and ' order by t.position)
      from public.backfill_targets as t
      where t.target = s.target
    ),
    (
      select string_agg(
        format($sql$
    when %1$s(
        select count(*)
        from (
          select 1 as one
          from %2$s as n
          where n.%3$I = s.%4$I
          limit (select backfill_private.parameter(%5$L, %6$L))::bigint
        ) as enough
      ) < (select backfill_private.parameter(%5$L, %6$L))::bigint
    then format(
      %7$L,
      (select count(*) from %2$s as n where n.%3$I = s.%4$I),
      (select backfill_private.parameter(%5$L, %6$L)))$sql$,
          (
            select format('c%s.%I is null and ', t.position, t.session_column)
            from public.backfill_targets as t
            where t.target = s.target and t.component = n.need ->> 'component'
          ),
          n.need ->> 'table',
          n.need ->> 'column',
          s.key_column,
          s.target,
          n.need ->> 'parameter',
          format('%%s %s, at least %%s needed', replace(n.need ->> 'name', '%', '%%'))),
        '' order by n.place)
      from jsonb_array_elements(s.needs) with ordinality as n (need, place)
    )) end
  from backfill_private.sources as s
  where s.target = p_target
$$;

-- The statement that creates the view of a target. Run it under our path, so that each operator is ours.
create function backfill_private.standing_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$create view %s with (security_invoker = true) as
select
  s.%I as id,
  %s::timestamptz as created_at,
  %s,
  %s as excluded
from %s as s
%s
where %s$sql$,
    backfill_private.standing_view(s.target),
    s.key_column,
    backfill_private.moment(s.source_table, s.date_column, format('s.%I', s.date_column)),
    string_agg(
      format('c%s.%I is null as %I', t.position, t.session_column, 'missing_' || t.component),
      e',\n  ' order by t.position),
    backfill_private.excluded_sql(s.target),
    s.source_table,
    string_agg(backfill_private.present_join(t), e'\n' order by t.position),
    array_to_string(
      array(select f.condition from backfill_private.filter_conditions(s.target, 's.') as f)
        || format('(select backfill_private.keys_hold(%L))', s.target),
      e'\n  and '))
  from backfill_private.sources as s
  join public.backfill_targets as t on t.target = s.target
  where s.target = p_target
  group by s.target
$$;
