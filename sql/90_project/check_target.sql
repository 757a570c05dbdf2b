-- Check of a target: what its declaration names against what the database has. One line per difference, with what to do
-- about it.

-- Lines on the tables: does each exist, with the columns that the target's rows name?
create function backfill_private.table_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line('table ' || w.table_name,
    case when to_regclass(w.table_name) is null or w.gone is not null then 'fail' else 'ok' end,
    case
      when to_regclass(w.table_name) is null then w.table_name || ' does not exist'
      else coalesce('has no column ' || w.gone, w.present)
    end,
    case
      when to_regclass(w.table_name) is not null then w.correct
      when w.place = 0 then
        format('update backfill_private.sources set source_table = ''…'' where target = %L;', p_target)
      else
        format('update public.backfill_targets set table_name = ''…'' where target = %L and position = %s;',
          p_target, w.place)
    end)
  from (
    select
      n.place,
      n.table_name,
      string_agg(distinct n.column_name, ', ') filter (where n.type is null) as gone,
      string_agg(distinct n.column_name || ' ' || n.type, ', ') as present,
      string_agg(distinct n.correct, ' ') filter (where n.type is null) as correct
    from (
      select c.*, backfill_private.column_type(c.table_name, c.column_name) as type
      from backfill_private.wanted_columns(p_target) as c
    ) as n
    group by n.place, n.table_name
  ) as w
  order by w.place
$$;

-- Does a valid index, not a partial one, begin with this column?
create function backfill_private.leads_an_index(p_table regclass, p_column text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_index as x
    join pg_attribute as a
      on a.attrelid = x.indrelid
      and a.attnum = x.indkey[0]
    where x.indrelid = p_table
      and a.attname = p_column
      and x.indisvalid
      and x.indpred is null
  )
$$;

-- The line on an index that begins with a column. Without it everything works, but slower. No line if the column is
-- missing.
create function backfill_private.index_line(p_table text, p_column text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(format('index on %s (%s)', p_table, p_column),
    case when i.leads then 'ok' else 'warn' end,
    case when i.leads then 'there' else format('no index begins with %s: all works, slower', p_column) end,
    backfill_private.beside_writers(p_table, 'create index', format('on %s (%I)', to_regclass(p_table), p_column)))
  from (select backfill_private.leads_an_index(to_regclass(p_table), p_column) as leads) as i
  where backfill_private.column_type(p_table, p_column) is not null
$$;

-- The lines of the preconditions of a kind, of those that hold something to tell.
create function backfill_private.precondition_lines(p_held backfill_private.precondition[], p_kind text)
returns table (place integer, line jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    p.place,
    backfill_private.line(
      p.name,
      case when p.fault is null then 'ok' else 'fail' end,
      coalesce(p.fault, p.detail),
      p.cure)
  from unnest(p_held) as p
  where p.kind = p_kind
    and (p.fault is not null or p.detail is not null)
$$;

-- Lines on the keys of the tables that exist: unique, of one kind, indexed by session. A line on versions and kinds
-- only if a column cannot be compared with one.
create function backfill_private.key_lines(p_target text, p_held backfill_private.precondition[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select l.line
  from (
    select p.place, 1 as rank, p.line from backfill_private.precondition_lines(p_held, 'key') as p
    union all
    select p.place, 2, p.line from backfill_private.precondition_lines(p_held, 'session') as p
    union all
    select p.place, 3, p.line from backfill_private.precondition_lines(p_held, 'value') as p
    union all
    select t.position, 4, i.line
    from public.backfill_targets as t
    cross join lateral backfill_private.index_line(t.table_name, t.session_column) as i (line)
    where t.target = p_target
  ) as l
  order by l.place, l.rank
$$;

-- Further lines on the source: its dates, rows that have none, and the views that find candidates.
create function backfill_private.source_lines(p_target text, p_held backfill_private.precondition[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p.line || case
    when backfill_private.source_is_well(p_held)
    then coalesce((select mark - 'name' from backfill_private.date_marks(s) as mark), '{}')
    else '{}'
  end
  from backfill_private.precondition_lines(p_held, 'date') as p
  join backfill_private.sources as s on s.target = p_target
  union all
  select backfill_private.line('detection of ' || s.target,
    case when o.gone is null then 'ok' else 'fail' end,
    coalesce(o.gone || ' does not exist', o.present),
    format('create it again as the migration of target %s has it: %s', s.target, o.gone))
  from backfill_private.sources as s
  cross join lateral (
    select string_agg(n.name, ', ') filter (where not n.is_there) as gone, string_agg(n.name, ', ') as present
    from (select v, to_regclass(v) is not null from unnest(s.views) as v) as n (name, is_there)
  ) as o
  where s.target = p_target
$$;

-- A relation, and if it is a view, what it reads by the rights of whoever reads it (security_invoker), down to the
-- tables.
create function backfill_private.read_by_caller(p_table text)
returns setof regclass
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive reads as (
    select to_regclass(p_table)::oid as oid
    union
    select b.oid
    from reads as r
    join pg_class as c
      on c.oid = r.oid
      and c.relkind = 'v'
      and exists (
        select from pg_options_to_table(c.reloptions) as o
        where o.option_name = 'security_invoker' and o.option_value::boolean)
    join pg_rewrite as w on w.ev_class = c.oid
    join pg_depend as d
      on d.classid = 'pg_rewrite'::regclass
      and d.objid = w.oid
      and d.refclassid = 'pg_class'::regclass
    join pg_class as b
      on b.oid = d.refobjid
      and b.relkind in ('r', 'p', 'v', 'm', 'f')
  )
  select r.oid::regclass from reads as r where r.oid is not null
$$;

-- Lines on rights that no mark covers: may service_role read the source, the components and what they need, and may an
-- undo write.
create function backfill_private.rights_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line('rights on ' || n.name,
    case when r.missing is null then 'ok' else 'fail' end,
    coalesce(r.missing, format('service_role reads, %s %s', current_user, n.verbs)),
    r.cure)
  from (
    select 0 as place, s.source_table as name, 'reads' as verbs, array['select'] as privileges
    from backfill_private.sources as s
    where s.target = p_target
    union all
    select t.position, t.table_name, 'undoes', array['select', 'insert', 'update', 'delete']
    from public.backfill_targets as t
    where t.target = p_target
      and backfill_private.leads_table(t)
    union all
    select distinct 1000, c.table_name, 'reads', array['select']
    from backfill_private.session_columns(p_target) as c
    where c.kind = 'column'
      and not exists (
        select from public.backfill_targets as t where t.target = p_target and t.table_name = c.table_name)
  ) as n
  cross join lateral (
    select
      string_agg(w.fault, '; ' order by w.place) as missing,
      string_agg(w.cure, ' ' order by w.place) as cure
    from (
      select
        1 as place,
        format('%s may not use the schema %s', u.role, s.nspname) as fault,
        format('grant usage on schema %I to %I;', s.nspname, u.role) as cure
      from pg_class as c
      join pg_namespace as s on s.oid = c.relnamespace
      cross join unnest(array['service_role', current_user]) as u (role)
      where c.oid = to_regclass(n.name)
        and not has_schema_privilege(u.role, s.oid, 'usage')
      union all
      select
        2,
        concat(format('%s lacks %s', p.role, p.privilege), case
          when o.relation <> to_regclass(n.name)
          then format(' on %s, which it reads by the rights of its caller', o.relation)
        end),
        format('grant %s on %s to %I;', p.privilege, o.relation, p.role)
      from (
        select 'service_role' as role, 'select' as privilege
        union all select current_user, unnest(n.privileges)
      ) as p
      cross join backfill_private.read_by_caller(n.name) as o (relation)
      where not has_table_privilege(p.role, o.relation, p.privilege)
    ) as w
  ) as r
  where to_regclass(n.name) is not null
  order by n.place
$$;

-- One line per component that has helpers.
create function backfill_private.helper_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line('helpers of ' || t.component,
    case when h.gone is null then 'ok' else 'fail' end,
    coalesce(h.gone || ' does not exist', h.present),
    format('create it, or: update public.backfill_targets set helpers = ''{…}'' where target = %L and component = %L;',
      t.target, t.component))
  from public.backfill_targets as t
  cross join lateral (
    select
      string_agg(n, ', ') filter (where backfill_private.function_named(n) is null) as gone,
      string_agg(n, ', ') as present
    from unnest(t.helpers) as n
  ) as h
  where t.target = p_target
    and cardinality(t.helpers) > 0
$$;

-- Lines on the columns of a target's filters and needs: does each exist, can it be compared, has any row such a value,
-- is a need's indexed?
create function backfill_private.need_lines(p_target text, p_held backfill_private.precondition[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p.line
  from backfill_private.precondition_lines(p_held, 'column') as p
  union all
  select u
  from backfill_private.unmatched_marks(p_target, p_held) as u
  union all
  select i.line
  from backfill_private.sources as s
  cross join lateral jsonb_array_elements(s.needs) as n
  cross join lateral backfill_private.index_line(n ->> 'table', n ->> 'column') as i (line)
  where s.target = p_target
$$;

-- The line on the index that makes detection fast, under the name that the declaration gives it.
create function backfill_private.detection_index_line(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line('index ' || s.index_name,
    case when i.fault is null then 'ok' else 'warn' end,
    coalesce(i.fault || ': detection works, slower', 'there and valid'),
    case
      when i.standing is null then ''
      else backfill_private.beside_writers(s.source_table, 'drop index', i.standing) || ' '
    end
      || backfill_private.beside_writers(s.source_table, 'create index', format('%I on %s (%I)%s',
        s.index_name,
        to_regclass(s.source_table),
        s.date_column,
        (
          select ' where ' || string_agg(f.condition, ' and ')
          from backfill_private.filter_conditions(p_target, '') as f
          where f.is_plain
        ))))
  from backfill_private.sources as s
  cross join lateral backfill_private.detection_index(p_target) as i
  where s.target = p_target
$$;
