-- Targets: their parameters, functions and conditions, as their rows say.

-- A parameter: the planned request's own if it has one, else the target's default.
create function backfill_private.parameter(p_target text, p_name text)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(
    nullif(current_setting('backfill.request', true), '')::jsonb ->> p_name,
    (
      -- Components with one call may share it.
      select min(t.version)
      from public.backfill_targets as t
      where t.target = p_target and t.version_parameter = p_name
    ),
    (select s.defaults ->> p_name from backfill_private.sources as s where s.target = p_target)
  );
end
$$;

-- The view of a target that planning reads: one row per source row that lacks something.
create function backfill_private.gaps_view(p_target text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('backfill_private.%I', p_target || '_gaps')
$$;

-- The scoring functions of a target: how people name them, and where the database has them.
create function backfill_private.scoring_functions(p_target text)
returns table (component text, "position" integer, transport text, signature text, name text, oid oid)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  return query
  select
    t.component,
    t.position,
    t.transport,
    t.function_signature,
    coalesce(p.proname::text, case t.transport
      when 'rpc' then regexp_replace(split_part(t.function_signature, '(', 1), '^.*\.', '')
      else t.function_signature
    end),
    p.oid
  from public.backfill_targets as t
  -- In a case: before PostgreSQL 16 to_regprocedure() raises an error for an Edge Function's bare name.
  left join pg_proc as p
    on p.oid = case t.transport when 'rpc' then to_regprocedure(t.function_signature) end
  where t.target = p_target;
end
$$;

-- The scoring calls of a target under a request. Components whose calls would be the same share one: it is made once
-- and fills them all.
--
-- call  the first component of those that share a call with this one, itself if none comes before it
create function backfill_private.calls_of(p_target text, p_request jsonb)
returns table (component text, "position" integer, call text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  return query
  select
    t.component,
    t.position,
    first_value(t.component) over (
      partition by t.transport, coalesce(f.oid::text, t.function_signature), a.given
      order by t.position)
  from public.backfill_targets as t
  join backfill_private.scoring_functions(p_target) as f on f.component = t.component
  cross join lateral (
    -- A list stands for the session's key, which is no value of a request.
    select jsonb_object_agg(a.key, case when a.value = 'session_id' then '[]' else p_request -> a.value end) as given
    from jsonb_each_text(t.arguments) as a
  ) as a
  where t.target = p_target;
end
$$;

-- The name of a type. Of a domain, that of the type below: a cast to a domain would run its checks, which are the
-- user's code.
create function backfill_private.base_type(p_type oid, p_typmod integer)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    with recursive below as (
      select t.oid, p_typmod as typmod, t.typtype, t.typbasetype, t.typtypmod
      from pg_type as t
      where t.oid = p_type
      union all
      select t.oid, b.typtypmod, t.typtype, t.typbasetype, t.typtypmod
      from below as b
      join pg_type as t on t.oid = b.typbasetype
      where b.typtype = 'd'
    )
    select format_type(b.oid, b.typmod) from below as b where b.typtype <> 'd');
end
$$;

-- The SQL type of a column, for casts that still let an index serve.
create function backfill_private.column_type(p_table text, p_column text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select backfill_private.base_type(a.atttypid, a.atttypmod)
    from pg_attribute as a
    where a.attrelid = to_regclass(p_table)
      and a.attname = p_column
      and not a.attisdropped);
end
$$;

-- What to do while no target is installed. The names are those of the targets that the package brings.
create function backfill_private.first_target()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'backfill target new, or backfill install --target prism (prism-edge if its scorers are Edge Functions)'
$$;

-- The target meant: the one named, or the only one installed.
--
-- raises  OB013 unknown, none is installed, or none is named and there are several
create function backfill_private.check_target(p_name text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_known text[] := (select array_agg(distinct target order by target) from public.backfill_targets);
begin
  if p_name = any (v_known) then
    return p_name;
  elsif p_name is null and cardinality(v_known) = 1 then
    return v_known[1];
  elsif v_known is null then
    perform backfill_private.refuse('OB013', 'no target is installed', backfill_private.first_target());
  end if;
  perform backfill_private.refuse('OB013',
    case
      when p_name is null then 'several targets are installed'
      else format('no target is named %s', left(p_name, 80))
    end,
    format('backfill plan … --target …, one of: %s', array_to_string(v_known, ', ')));
  return null;
end
$$;

-- The parameters of a target, which a request may set: those with a default, and the versions of its components.
create function backfill_private.parameter_names(p_target text)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select jsonb_object_keys(s.defaults) from backfill_private.sources as s where s.target = p_target
    union
    select t.version_parameter
    from public.backfill_targets as t
    where t.target = p_target and t.version_parameter is not null)
$$;

-- The index that makes detection fast, by the name that the declaration gives it. Is it there, valid, and over the
-- selected sessions by date? No row if none is declared or the source is gone.
--
-- standing  its qualified name, null if it is not there
-- fault     what is wrong with it, null if nothing is
create function backfill_private.detection_index(p_target text)
returns table (standing text, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    case when x.indexrelid is not null then format('%I.%I', n.nspname, s.index_name) end,
    case
      when x.indexrelid is null then 'not there'
      when not x.indisvalid then 'not valid, its creation was cut off'
      when x.indrelid <> c.oid
        or a.attname is distinct from s.date_column
        or (x.indpred is null) <> not exists (
          select from jsonb_array_elements(s.filters) as f where backfill_private.is_plain(f)
        )
        or exists (
          select from jsonb_array_elements(s.filters) as f
          where backfill_private.is_plain(f)
            and strpos(coalesce(pg_get_expr(x.indpred, x.indrelid), ''), f ->> 'column') = 0
        )
        then 'not the one that is meant'
    end
  from backfill_private.sources as s
  join pg_class as c on c.oid = to_regclass(s.source_table)
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_index as x on x.indexrelid = to_regclass(format('%I.%I', n.nspname, s.index_name))
  left join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
  where s.target = p_target
    and s.index_name is not null
    and c.relkind in ('r', 'p')  -- a view has none
$$;

-- The last part of a qualified name, unquoted.
create function backfill_private.bare_name(p_name text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select (parse_ident(p_name))[cardinality(parse_ident(p_name))]
$$;

-- The relations of a target table on which a receipt trigger is missing, is not ours or is not always enabled: the
-- table itself, and its partitions. PostgreSQL clones row triggers to a new partition, but not the guard against
-- truncate, and a truncate of one partition runs no trigger of its parents.
--
-- returns  the names, the table first. Empty if every trigger stands
create function backfill_private.unguarded(p_table text)
returns setof text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
begin
  return query
  with standing as (
    select g.tgrelid
    from pg_trigger as g
    where g.tgenabled = 'A'
      and g.tgattr::text = ''
      -- 29: after insert, update or delete, for each row; 34: before truncate.
      and (g.tgname, g.tgtype, g.tgfoid) in (
        ('000_backfill_receipt', 29, to_regprocedure('backfill_private.keep_receipt()')),
        ('backfill_no_truncate', 34, to_regprocedure('backfill_private.refuse_truncate()')))
      and strpos(
        pg_get_triggerdef(g.oid),
        $when$ WHEN ((NULLIF(current_setting('request.headers'::text, true), ''::text) ~~ '%x-backfill-%'::text)) $when$
      ) > 0
  ), relations as (
    select p_table as name, to_regclass(p_table) as oid, 0 as level
    union all
    select part.relid::text, part.relid, part.level
    from pg_partition_tree(to_regclass(p_table)) as part
    where part.level > 0
  )
  select r.name
  from relations as r
  where (select count(*) from standing as s where s.tgrelid = r.oid) < 2
  order by r.level, r.name;
end
$$;

-- The function that a signature names. Null if there is none. Before PostgreSQL 16 to_regprocedure() raises an error
-- for a text that is no signature.
create function backfill_private.function_named(p_signature text)
returns regprocedure
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return to_regprocedure(p_signature);
exception when syntax_error or invalid_text_representation or undefined_object then
  return null;  -- a text that is not a signature names no function
end
$$;

-- The SQL of a scoring call as the API would make it: arguments by name, each of the type that the function declares.
create function backfill_private.call_sql(p_signature text, p_arguments jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('select %I.%I(%s)', n.nspname, p.proname, (
    select string_agg(
      format('%I => %L::%s', a.key, a.value,
        format_type(p.proargtypes[array_position(p.proargnames, a.key) - 1], null)),
      ', ')
    from jsonb_each_text(p_arguments) as a
  ))
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
  where p.oid = to_regprocedure(p_signature)
$$;

-- Refuse what needs a run's target if that was removed.
--
-- raises  OB013
create function backfill_private.refuse_if_removed(p_target text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from backfill_private.sources as s where s.target = p_target) then
    perform backfill_private.refuse('OB013',
      format('target %s is not installed any more, so its runs can be neither verified nor undone', p_target),
      'backfill install --target FILE, apply the migration, then try again');
  end if;
end
$$;

-- The names of a function's input arguments, and of those without which no call of it is complete.
create function backfill_private.input_names(p_function oid, out names text[], out required text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    coalesce(array_agg(a.name order by a.place) filter (where a.place is not null), '{}'),
    coalesce(array_agg(a.name order by a.place) filter (where a.place <= p.pronargs - p.pronargdefaults), '{}')
  from pg_proc as p
  left join lateral (
    select x.name, row_number() over (order by x.place) as place
    from unnest(p.proargnames, p.proargmodes) with ordinality as x (name, mode, place)
    where coalesce(x.mode, 'i') in ('i', 'b', 'v')
  ) as a on true
  where p.oid = p_function
  group by p.oid
$$;

-- The functions that a call with these arguments fits, besides a function itself. The API chooses by the names of
-- arguments, never by their types, and refuses to choose between two (PGRST203).
create function backfill_private.confused_with(p_function oid, p_arguments text[])
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(other.oid::regprocedure::text, ', ' order by other.oid::regprocedure::text)
  from pg_proc as p
  join pg_proc as other
    on other.proname = p.proname
    and other.pronamespace = p.pronamespace
    and other.oid <> p.oid
    and other.prokind <> 'p'
  cross join lateral backfill_private.input_names(other.oid) as i
  where p.oid = p_function
    and p_arguments <@ i.names
    and i.required <@ p_arguments
$$;
