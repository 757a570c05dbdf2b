-- Replaced: which planned rows take the place of a row that stands, told apart from new ones before anybody approves.

-- The condition under which a row t of a component's table has the key of the row that is planned for item.session_id,
-- as SQL. A table has one row per value of a unique index, so every index counts whose columns a plan knows: session,
-- version and kind. The declared key is one of them, or wider.
--
-- returns  null if a plan knows the columns of no unique index
create function backfill_private.same_key_condition(p_target public.backfill_targets, p_request jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with known as (
    select
      c.name,
      format('t.%I %s %s', c.name, coalesce(backfill_private.equals(v.type), '='), case
        when c.parameter is null then backfill_private.session_key(p_target.target)
        else backfill_private.value_sql(p_target.target, c.parameter, v.type, p_request)
      end) as condition
    from (
      select p_target.session_column as name, null as parameter
      union all
      select p_target.version_column, p_target.version_parameter
      union all
      select m.key, m.value
      from jsonb_each_text(p_target.matches) as m
    ) as c
    cross join lateral (select backfill_private.value_type(p_target.table_name, c.name) as type) as v
    where v.type is not null
  ), of_indexes as (
    select (
      select string_agg(k.condition, ' and ' order by i.place)
      from unnest(x.indkey::smallint[]) with ordinality as i (attnum, place)
      join pg_attribute as a
        on a.attrelid = x.indrelid
        and a.attnum = i.attnum
      join known as k on k.name = a.attname
      where i.place <= x.indnkeyatts
      having count(*) = x.indnkeyatts
        and bool_or(a.attname = p_target.session_column)
    ) as condition
    from pg_index as x
    where x.indrelid = to_regclass(p_target.table_name)
      and x.indisunique
      and x.indisvalid
      and x.indpred is null
  )
  select string_agg(distinct format('(%s)', o.condition), ' or ')
  from of_indexes as o
  where o.condition is not null
$$;

-- For the sessions item of a plan: a join that finds the version of the row which each component's row will replace,
-- and its column, as SQL. A target of which no row can be replaced has none.
create function backfill_private.replaced_joins(p_run public.backfill_runs)
returns table (component text, version_sql text, join_sql text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    t.component,
    format('r%s.version', t.position),
    format(
      'left join lateral (
         select %s as version
         from %s as t
         where (%s)
           and (%s) is not true
         limit 1
       ) as r%s on %L = any (item.components)',
      backfill_private.version_text(t),
      t.table_name::regclass,
      c.condition,
      -- A row that counts as present is left, and never replaced.
      coalesce(
        nullif(array_to_string(backfill_private.kind_conditions(t, 't', p_run.request, false), ' and '), ''),
        'true'),
      t.position,
      t.component)
  from public.backfill_targets as t
  cross join lateral (select backfill_private.same_key_condition(t, p_run.request) as condition) as c
  where t.target = p_run.target
    and c.condition is not null
  order by t.position
$$;

-- How many rows of each table a run plans as new, and how many rows it replaces, by their version.
create function backfill_private.planned_rows(p_run_id uuid)
returns table (place integer, table_name text, new bigint, replaced bigint, versions jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with counted as (
    select p.component, i.replaces ->> p.component as version, count(*) as planned
    from public.backfill_items as i
    cross join lateral unnest(i.components) as p (component)
    where i.run_id = p_run_id
    group by 1, 2
  ), of_tables as (
    select t.position, t.table_name, c.version, c.planned
    from public.backfill_runs as r
    join public.backfill_targets as t on t.target = r.target
    left join counted as c on c.component = t.component
    where r.run_id = p_run_id
  )
  select
    min(o.position),
    o.table_name,
    coalesce(sum(o.planned) filter (where o.version is null), 0)::bigint,
    coalesce(sum(o.planned) filter (where o.version is not null), 0)::bigint,
    coalesce((
      select jsonb_object_agg(v.version, v.planned)
      from (
        select x.version, sum(x.planned) as planned
        from of_tables as x
        where x.table_name = o.table_name
          and x.version is not null
        group by x.version
      ) as v
    ), '{}')
  from of_tables as o
  group by o.table_name
$$;
