-- Names: what a declaration names, and what of it the database does not have. To declare refuses the first such fault.
-- To check a file tells all of them.

-- The last part of a name or a signature, without arguments.
create function backfill_private.last_part(p_name text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select regexp_replace(split_part(p_name, '(', 1), '^.*\.', '')
$$;

-- The end of a sentence that names what may have been meant. Nothing if no name is near: of its last part two of five
-- letters differ at most, or one holds the other. Functions are compared by name, then by arguments.
create function backfill_private.nearest(p_wanted text, p_known text[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select '; the nearest is ' || k
    from unnest(p_known) as k
    cross join lateral (
      select backfill_private.last_part(p_wanted) as wanted, backfill_private.last_part(k) as known
    ) as part
    where backfill_private.farness(part.wanted, part.known) <= 0.4
      or strpos(lower(part.known), lower(part.wanted)) > 0
      or strpos(lower(part.wanted), lower(part.known)) > 0
    order by
      backfill_private.farness(split_part(p_wanted, '(', 1), split_part(k, '(', 1)),
      backfill_private.farness(p_wanted, k),
      k
    limit 1
  ), '')
$$;

-- A table that a declaration names, quoted for SQL.
--
-- p_part  {schema, table}
create function backfill_private.declared_table(p_part jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
  select format('%I.%I', p_part ->> 'schema', p_part ->> 'table')
$$;

-- The tables that a declaration names.
--
-- part  the way to it: {source}, {needs,N} or {component,N}, from 0. Needs count in the order of the declaration
create function backfill_private.declared_parts(p_declaration jsonb)
returns table (part text[], place integer, name text, given jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select array['source'], 0, backfill_private.declared_table(p_declaration -> 'source'), p_declaration -> 'source'
  union all
  select array['needs', (n.place - 1)::text], n.place::integer, backfill_private.declared_table(n.need), n.need
  from jsonb_array_elements(p_declaration -> 'source' -> 'needs') with ordinality as n (need, place)
  union all
  select array['component', (c.place - 1)::text], 1000 + c.place::integer, backfill_private.declared_table(c.d), c.d
  from jsonb_array_elements(p_declaration -> 'components') with ordinality as c (d, place)
$$;

-- The columns that a part of a declaration names, each with the way to it.
create function backfill_private.declared_columns(p_part text[], p_given jsonb)
returns table (place text[], name text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p_part || c.step, c.name
  from (
    select array[f.name] as step, p_given ->> f.name as name
    from unnest(array['key', 'date', 'column', 'session', 'version_column']) as f (name)
    where jsonb_typeof(p_given -> f.name) = 'string'
    union all
    select array['where', f.filter ->> 'column'], n.name
    from backfill_private.column_filters(p_given -> 'filters') as f
    cross join lateral unnest(array[f.filter ->> 'column', f.filter ->> 'other']) as n (name)
    where n.name is not null
    union all
    select array['key'], k
    from jsonb_array_elements_text(case jsonb_typeof(p_given -> 'key') when 'array' then p_given -> 'key' end) as k
    union all
    select array[f.name, k], k
    from unnest(array['matches', 'score_ranges']) as f (name)
    cross join lateral jsonb_object_keys(p_given -> f.name) as k
  ) as c
$$;

-- The sentence that there is no such function. If none has its name, a scoring function may be an Edge Function.
create function backfill_private.no_function(p_signature text, p_scores boolean)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat(
    format('there is no function %s', p_signature),
    backfill_private.nearest(p_signature, k.names),
    case
      when p_scores and not backfill_private.last_part(p_signature) = any (
        select backfill_private.last_part(name) from unnest(k.names) as name
      ) then '. Is it an Edge Function? transport = "edge"'
    end)
  from (
    select array(
      select p.oid::regprocedure::text
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
      where n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'backfill_private')
        and not starts_with(p.proname, 'backfill_')
        and p.prokind = 'f') as names
  ) as k
$$;

-- What is wrong with a component's scoring function and its helpers.
create function backfill_private.call_faults(p_component jsonb)
returns table (place text[], fault text, cure text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_signature text := p_component ->> 'function';
  v_function regprocedure := backfill_private.function_named(v_signature);
begin
  return query
  select array['helpers'], backfill_private.no_function(h, false), null
  from jsonb_array_elements_text(p_component -> 'helpers') as h
  where backfill_private.function_named(h) is null;
  if p_component ->> 'transport' <> 'rpc' then
    return;
  elsif v_function is null then
    return query select array['function'], backfill_private.no_function(v_signature, true), null;
    return;
  end if;
  return query
  select
    array['arguments', a],
    format('%s has no argument %s', v_function, quote_ident(a))
      || backfill_private.nearest(a, i.names),
    null
  from jsonb_object_keys(p_component -> 'arguments') as a
  cross join backfill_private.input_names(v_function) as i
  where a <> all (array_remove(i.names, null));
  return query
  select array['arguments'], format('%s needs the argument %s', v_function, quote_ident(r)),
    format('arguments = { …, %s = … }, or give it a default in the function', r)
  from backfill_private.input_names(v_function) as i
  cross join lateral unnest(i.required) as r
  where not (p_component -> 'arguments') ? r;
  return query
  select array['function'], format('%s is not in the schema public, where the API calls functions', v_function),
    'a function in public that calls it'
  from pg_proc as p
  where p.oid = v_function
    and p.pronamespace <> 'public'::regnamespace;
end
$$;

-- Is a relation the caller's own, and the caller not the owner's equal? Reading it would run their code with the
-- owner's rights: what a view or a policy calls, what compares a column's type. Tables of a session's own count for
-- anybody.
create function backfill_private.is_callers_own(p_relation regclass)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select not pg_has_role(session_user, current_user, 'member') and exists (
    select from pg_class as c
    where c.oid = p_relation
      and (c.relpersistence = 't' or pg_has_role(session_user, c.relowner, 'member')))
$$;

-- The tables and columns that a declaration names and the database does not have, or that cannot hold its rows.
--
-- rank  the order of the faults of one part
create function backfill_private.table_faults(p_declaration jsonb)
returns table (part integer, rank integer, place text[], fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with parts as (
    select
      p.*,
      c.oid is not null and not backfill_private.is_callers_own(c.oid) as is_there,
      backfill_private.is_callers_own(c.oid) as is_callers_own
    from backfill_private.declared_parts(p_declaration) as p
    left join pg_class as c
      on c.oid = to_regclass(p.name)
      and c.relkind in ('r', 'p', 'v', 'm', 'f')
  )
  select
    p.place,
    1,
    p.part || 'table'::text,
    format('there is no table %s', p.name) || backfill_private.nearest(p.name, array(
      select format('%I.%I', n.nspname, c.relname)
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'v', 'm')
        and n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'backfill_private')
        and not (n.nspname = 'public' and starts_with(c.relname, 'backfill_')))),
    null
  from parts as p
  where not p.is_there and p.is_callers_own is not true
  union all
  select p.place, 1, p.part || 'table'::text,
    format('%s belongs to a role of the API, so only an owner of the project may declare it', p.name), null
  from parts as p
  where p.is_callers_own
  union all
  select p.place, 2, p.part || 'table'::text, format('%s cannot be declared: %s', p.name, t.fault), null
  from parts as p
  cross join lateral (
    select case p.part[1]
      when 'source' then coalesce(
        backfill_private.source_fault(p.name),
        case
          when (p.given ->> 'builds_index')::boolean is not true then null
          when backfill_private.is_view(p.name) then 'it is a view, and no index of ours can be on it. Leave index out'
          when (select c.relkind = 'p' from pg_class as c where c.oid = to_regclass(p.name))
          then 'it is partitioned, and no index of all its parts is built beside writers. Leave index out'
        end)
      else backfill_private.table_fault(p.name)
    end as fault
  ) as t
  where p.is_there
    and p.part[1] <> 'needs'
    and t.fault is not null
  union all
  select
    p.place,
    3,
    c.place,
    format('%s has no column %s', p.name, quote_ident(c.name)) || backfill_private.nearest(c.name, array(
      select a.attname::text
      from pg_attribute as a
      where a.attrelid = to_regclass(p.name)
        and a.attnum > 0
        and not a.attisdropped)),
    null
  from parts as p
  cross join lateral backfill_private.declared_columns(p.part, p.given) as c
  where p.is_there
    and backfill_private.column_type(p.name, c.name) is null
$$;

-- What of a component contradicts its key, other targets, or runs that were planned.
create function backfill_private.component_faults(p_declaration jsonb)
returns table (part integer, rank integer, place text[], fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    p.place,
    4,
    p.part || 'key'::text,
    format('the key of %s has columns that are neither session, version nor matched: %s',
      p.name, string_agg(k, ', ')),
    'a component has one row per session: match the column to a parameter, or leave it out of the key'
  from backfill_private.declared_parts(p_declaration) as p
  cross join lateral jsonb_array_elements_text(p.given -> 'key') as k
  where p.part[1] = 'component'
    and k is distinct from p.given ->> 'session'
    and k is distinct from p.given ->> 'version_column'
    and not (p.given -> 'matches') ? k
    -- A misspelt column of the session is told by itself.
    and not exists (
      select from backfill_private.declared_columns(p.part, p.given) as c
      where c.place[3] <> 'key'
        and backfill_private.column_type(p.name, c.name) is null
    )
  group by p.place, p.part, p.name
  union all
  select p.place, 6, p.part || 'table'::text,
    format('%s holds the rows of %s of target %s already', p.name, t.component, t.target),
    'one component per table'
  from backfill_private.declared_parts(p_declaration) as p
  join public.backfill_targets as t
    on to_regclass(t.table_name) = to_regclass(p.name)
    and t.target <> p_declaration ->> 'target'
  where p.part[1] = 'component'
  union all
  select 2000, 7, array['component'],
    format('runs of target %s have planned %s, which this declaration drops', d.target, d.component),
    'keep it, or declare a target of another name'
  from (
    -- Also if the target was removed since: an undo of its runs goes by what stands here.
    select distinct i.source as target, c.component
    from public.backfill_items as i
    cross join unnest(i.components) as c (component)
    where i.source = p_declaration ->> 'target'
  ) as d
  where d.component not in (select c ->> 'component' from jsonb_array_elements(p_declaration -> 'components') as c)
$$;

-- Every fault of the names in a declaration, in the order of the declaration by part and rank.
--
-- place  the way to the value, see declared_parts
create function backfill_private.name_faults(p_declaration jsonb)
returns table (part integer, rank integer, place text[], fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select f.part, f.rank, f.place, f.fault,
    coalesce(f.cure, 'correct the declaration, then: backfill install --target FILE')
  from (
    select * from backfill_private.table_faults(p_declaration)
    union all
    select * from backfill_private.component_faults(p_declaration)
    union all
    select p.place, 5, p.part || c.place, c.fault, c.cure
    from backfill_private.declared_parts(p_declaration) as p
    cross join lateral backfill_private.call_faults(p.given) as c
    where p.part[1] = 'component'
  ) as f
$$;

-- Refuse a declaration that names what the database does not have.
--
-- raises  OB013 the first fault
create function backfill_private.refuse_names(p_declaration jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
  v_fault record;
begin
  select f.fault, f.cure into v_fault
  from backfill_private.name_faults(p_declaration) as f
  order by f.part, f.rank
  limit 1;
  if found then
    perform backfill_private.refuse('OB013', v_fault.fault, v_fault.cure);
  end if;
end
$$;
