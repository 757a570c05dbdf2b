-- Keys: does a key name one row, always? Asked when a target is declared, checked, planned, claimed and read.

-- A statement about an index of a table that does not block writers, if the table is not partitioned: PostgreSQL has
-- none then. It is put together here, since a tool that finds such a statement in a file may refuse to run the file in
-- a transaction.
create function backfill_private.beside_writers(p_table text, p_command text, p_rest text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(' ',
    p_command,
    case
      when not exists (select from pg_class as c where c.oid = to_regclass(p_table) and c.relkind = 'p')
      then 'concurrently'
    end,
    p_rest) || ';'
$$;

-- Why a relation cannot hold the rows of a source or of a component. Null if it can.
create function backfill_private.table_fault(p_table text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  if to_regclass(p_table) is null then
    return 'it does not exist';
  end if;
  return (
    select case c.relkind
        when 'r' then (
          select format('%s inherits from it, and an index of a table does not cover its children',
            string_agg(i.inhrelid::regclass::text, ', ' order by i.inhrelid::regclass::text))
          from pg_inherits as i
          where i.inhparent = c.oid
          having count(*) > 0
        )
        when 'p' then null
        when 'v' then 'it is a view, and rows are written into a table. Only a source may be a view'
        when 'm' then 'it is a materialized view, which a refresh writes anew. Only a source may be one'
        when 'f' then 'it is a foreign table, and no index here covers its rows'
      end
    from pg_class as c
    where c.oid = to_regclass(p_table));
end
$$;

-- Why a relation cannot hold the rows of a source. Null if it can. A view can: its rows themselves say whether its key
-- names one, see below. A materialized view has none to read before it is filled.
create function backfill_private.source_fault(p_table text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case
      when not backfill_private.is_view(p_table) then backfill_private.table_fault(p_table)
      when not (select c.relispopulated from pg_class as c where c.oid = to_regclass(p_table))
      then 'it was never filled. Refresh it first'
      else backfill_private.view_owner_fault(p_table)
    end);
end
$$;

-- Why a view cannot be read with the owner's rights: it, or a view that it reads, belongs to a role of the API, which
-- could put code of its own in it. Null if none does.
create function backfill_private.view_owner_fault(p_view text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive reads as (
    select to_regclass(p_view)::oid as oid
    union
    select d.refobjid
    from reads as r
    join pg_rewrite as w on w.ev_class = r.oid
    join pg_depend as d
      on d.classid = 'pg_rewrite'::regclass
      and d.objid = w.oid
      and d.refclassid = 'pg_class'::regclass
    join pg_class as b on b.oid = d.refobjid and b.relkind in ('v', 'm')
  )
  select format('%1$s belongs to %2$s, a role of the API, whose code an owner does not run. Let %3$I own it',
    c.oid::regclass, c.relowner::regrole, current_user)
  from reads as r
  join pg_class as c on c.oid = r.oid
  where exists (
    select from pg_roles as a
    where a.rolname in ('anon', 'authenticated', 'service_role', 'authenticator')
      and not a.rolsuper
      and pg_has_role(a.oid, c.relowner, 'member')
      and not pg_has_role(a.oid, current_user, 'member'))
  order by c.oid
  limit 1
$$;

create function backfill_private.is_view(p_table text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select exists (select from pg_class as c where c.oid = to_regclass(p_table) and c.relkind in ('v', 'm')));
end
$$;

-- Why a column is no key of a view's rows. Null if it is: each has a value of its own. A view has no index that would
-- promise it, so all rows are read, unless a materialized view has one. What keeps the view from being read is told,
-- too: the functions that it calls run with our path, under which a name without a schema is not found.
create function backfill_private.view_key_fault(p_view text, p_column text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := backfill_private.value_type(p_view, p_column);
  v_is_null boolean;
  v_is_twice boolean;
begin
  if v_type is null or backfill_private.source_fault(p_view) is not null then
    return null;  -- told elsewhere
  end if;
  execute format('select exists (select from %s as s where s.%I is null)', to_regclass(p_view), p_column)
  into v_is_null;
  if v_is_null then
    return 'a row of the view has none';
  elsif backfill_private.unique_fault(p_view, array[p_column]) is null then
    return null;
  end if;
  execute format(
    'select exists (select from %s as s group by s.%I having count(*) > 1)', to_regclass(p_view), p_column)
  into v_is_twice;
  return case when v_is_twice then 'several rows of the view have the same' end;
exception when syntax_error_or_access_rule_violation then
  return format('reading the view ends with: %s. A function that it calls needs a search_path of its own, or a right',
    sqlerrm);
end
$$;

-- Why no unique index makes columns the key of a table. Null if one does: whole, valid, checked at once, on no
-- expression, with the equality that conditions use.
create function backfill_private.unique_fault(p_table text, p_columns text[])
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan  -- asked at each claim: planning takes longer than looking
as $$
declare
  v_has_one boolean;
  v_why text;
begin
  select
    bool_or(u.why is null),
    string_agg(format('%s %s', u.name, u.why), ', ' order by u.name)
  into v_has_one, v_why
  from (
    select
      (select n.relname from pg_class as n where n.oid = x.indexrelid) as name,
      case
        when not (x.indisvalid and x.indisready) then 'is not valid'
        when x.indexprs is not null then 'is on an expression'
        when not k.columns <@ p_columns then 'is on ' || array_to_string(k.columns, ', ')
        when x.indpred is not null
          then 'covers only rows where ' || btrim(pg_get_expr(x.indpred, x.indrelid), '()')
        when not x.indimmediate then 'is deferrable, so two rows may share a key until the end of a transaction'
        when not k.is_equality then 'compares otherwise than = does'
      end as why
    from pg_index as x
    cross join lateral (
      select
        array_agg(a.attname::text order by i.place) as columns,
        bool_and(
          -- The usual order of the column's own type needs no closer look.
          (c.opcdefault and c.opcintype = a.atttypid and m.amname = 'btree'
            or exists (
              select from pg_amop as o
              where o.amopfamily = c.opcfamily
                and o.amoplefttype = c.opcintype
                and o.amoprighttype = c.opcintype
                and o.amopstrategy = 3
                and m.amname = 'btree'
                and o.amopopr = (
                  select backfill_private.equality(backfill_private.value_type(p_table, a.attname)))))
          and (i.indcollation = a.attcollation or l.collisdeterministic is not false)) as is_equality
      from unnest(x.indkey::smallint[], x.indclass::oid[], x.indcollation::oid[])
        with ordinality as i (attnum, opclass, indcollation, place)
      join pg_attribute as a
        on a.attrelid = x.indrelid
        and a.attnum = i.attnum
      join pg_opclass as c on c.oid = i.opclass
      join pg_am as m on m.oid = c.opcmethod
      left join pg_collation as l on l.oid = a.attcollation
      where i.place <= x.indnkeyatts
    ) as k
    where x.indrelid = to_regclass(p_table)
      and x.indisunique
      and (k.columns && p_columns or x.indexprs is not null)
  ) as u;
  return case when v_has_one is not true then 'no unique index covers it' || coalesce(', ' || v_why, '') end;
end
$$;

-- The keys of a target, the source's at place 0, each with what keeps it from naming one row.
--
-- p_is_read  if the source is a view, read all its rows. Not at each claim: the plan has seen to that
-- fault  null if nothing does
-- cure   what to do about it
create function backfill_private.key_standings(p_target text, p_is_read boolean default true)
returns table (place integer, table_name text, key_columns text[], fault text, cure text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
  -- Materialized, so that each is looked at once.
  with looked_at as materialized (
    select
      named.*,
      case when named.place = 0 then backfill_private.source_fault(named.name)
        else backfill_private.table_fault(named.name) end as table_fault,
      case when kind.is_view and p_is_read
        then backfill_private.view_key_fault(named.name, named.columns[1]) end as view_fault,
      case when not kind.is_view
        then backfill_private.unique_fault(named.name, named.columns) end as unique_fault,
      case when not kind.is_view then (
        select a.attname::text
        from pg_attribute as a
        where a.attrelid = to_regclass(named.name)
          and a.attname = any (named.columns)
          -- No session equals null, so such a row of a component belongs to none.
          and a.attname is distinct from named.session_column
          and not a.attnotnull
        order by a.attnum
        limit 1
      ) end as null_column
    from (
      select 0 as place, s.source_table as name, array[s.key_column] as columns, null as session_column
      from backfill_private.sources as s
      where s.target = p_target
      union all
      select t.position, t.table_name, t.key_columns, t.session_column
      from public.backfill_targets as t
      where t.target = p_target
    ) as named
    cross join lateral (
      select named.place = 0 and backfill_private.is_view(named.name) as is_view
    ) as kind
  )
  select
    k.place,
    k.name,
    k.columns,
    coalesce(k.table_fault, k.view_fault, k.unique_fault, k.null_column || ' may be null'),
    case
      when k.view_fault is not null then 'correct the view, or declare another column.'
      when k.table_fault is not null then 'declare another table, then: backfill install --target FILE.'
      when k.unique_fault is not null
      then backfill_private.beside_writers(k.name, 'create unique index', format('on %s (%s)', to_regclass(k.name), (
        select string_agg(quote_ident(c), ', ')
        from unnest(k.columns) as c)))
      when k.null_column is not null
      then format('alter table %s alter column %I set not null;', to_regclass(k.name), k.null_column)
    end
  from looked_at as k
  order by k.place;
end
$$;

-- What keeps a key of a target from naming one row, in words. Null if each names one.
--
-- p_is_read  as above
create function backfill_private.key_fault(p_target text, p_is_read boolean default true)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select format('%s is no key of %s: %s', array_to_string(k.key_columns, ', '), k.table_name, k.fault)
    from backfill_private.key_standings(p_target, p_is_read) as k
    where k.fault is not null
    order by k.place
    limit 1);
end
$$;

-- True while each key of a target names one row. The view that detects asks it once per query: a session of two rows
-- would be counted twice, by us and by anyone who reads the view. A query that serves a planned request does not read a
-- view as the source for that: the plan has.
--
-- raises  OB013 a key does not
create function backfill_private.keys_hold(p_target text)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fault text := backfill_private.key_fault(
    p_target, coalesce(current_setting('backfill.request', true), '') = '');
begin
  if v_fault is not null then
    perform backfill_private.refuse('OB013', v_fault, 'backfill check');
  end if;
  return true;
end
$$;
