-- Shared tables: several components of a target in one table, told apart by columns that they match to parameters.

-- The components of a target in the table of one of them, itself among them, in their order.
create function backfill_private.in_table_of(p_target text, p_component text)
returns setof public.backfill_targets
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select t.*
  from public.backfill_targets as t
  join public.backfill_targets as mine
    on mine.target = t.target
    and mine.table_name = t.table_name
  where mine.target = p_target
    and mine.component = p_component
  order by t.position
$$;

-- Is a component the first of those in its table? What is said of a table is said once.
create function backfill_private.leads_table(p_target public.backfill_targets)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select from public.backfill_targets as t
    where t.target = p_target.target
      and t.table_name = p_target.table_name
      and t.position < p_target.position)
$$;

-- What a criterion about a component's rows is called after: its table, and itself if it shares that table.
create function backfill_private.rows_name(p_target public.backfill_targets)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.bare_name(p_target.table_name)
    || case when count(*) > 1 then '_' || p_target.component else '' end
  from backfill_private.in_table_of(p_target.target, p_target.component)
$$;

-- The condition under which a row of a component's table is of no other component, as SQL. A row that has nobody's
-- values is of the first.
--
-- p_alias  of the table
create function backfill_private.own_rows_sql(p_target public.backfill_targets, p_alias text, p_request jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when backfill_private.leads_table(p_target)
    then coalesce(string_agg(format('(%s) is not true', k.condition), ' and ')
      filter (where k.component <> p_target.component), 'true')
    else string_agg(k.condition, ' and ') filter (where k.component = p_target.component)
  end
  from (
    select t.component, string_agg(
      format('%s.%I %s %s',
        p_alias,
        m.key,
        coalesce(backfill_private.equals(c.type), '='),
        backfill_private.value_sql(t.target, m.value, c.type, p_request)),
      ' and ' order by m.key) as condition
    from backfill_private.in_table_of(p_target.target, p_target.component) as t
    cross join lateral jsonb_each_text(t.matches) as m
    cross join lateral (select backfill_private.value_type(t.table_name, m.key) as type) as c
    group by t.component
  ) as k
$$;

-- Two components in one table that a request does not tell apart, in words. Null if there are none. A column outside of
-- the key tells nothing: a session could then have the row of one of them only.
--
-- p_request  null: what the target's parameters are by themselves
create function backfill_private.mixed_fault(p_target text, p_request jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s and %s are both in %s, and no column of their keys tells them apart',
    t.component, o.component, t.table_name)
  from public.backfill_targets as t
  join public.backfill_targets as o
    on o.target = t.target
    and o.table_name = t.table_name
    and o.position > t.position
  join backfill_private.sources as s on s.target = t.target
  where t.target = p_target
    and not exists (
      select from jsonb_each_text(t.matches) as m
      join jsonb_each_text(o.matches) as n on n.key = m.key
      where m.key = any (t.key_columns)
        and m.key = any (o.key_columns)
        and backfill_private.is_same(
          backfill_private.value_type(t.table_name, m.key),
          coalesce(p_request, s.defaults) ->> m.value,
          coalesce(p_request, s.defaults) ->> n.value) is false)
  order by t.position, o.position
  limit 1
$$;
