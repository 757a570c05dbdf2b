-- Declare a target. The declaration is compared with the catalog before it is kept. The migration of a target calls
-- this first. A name that the database does not have is refused, and the message has the nearest name that exists.
-- The message has the next step too: the Supabase CLI shows no hint of an error in a migration.

-- A table that a declaration names.
--
-- p_part   {schema, table}
-- returns  its name, quoted for SQL
-- raises   OB013 there is no such table or view
create function backfill_private.declared_table(p_part jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
  v_name text := format('%I.%I', p_part ->> 'schema', p_part ->> 'table');
begin
  if not exists (
    select from pg_class as c
    where c.oid = to_regclass(v_name)
      and c.relkind in ('r', 'p', 'v', 'm', 'f')
  ) then
    perform backfill_private.refuse_name(format('there is no table %s', v_name), v_name, array(
      select format('%I.%I', n.nspname, c.relname)
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p')
        and n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'backfill_private')
        and not (n.nspname = 'public' and starts_with(c.relname, 'backfill_'))));
  end if;
  return v_name;
end
$$;

-- Refuse a table in which no key can hold.
--
-- raises  OB013
create function backfill_private.check_table(p_table text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fault text := backfill_private.table_fault(p_table);
begin
  if v_fault is not null then
    perform backfill_private.refuse('OB013',
      format('%s cannot be declared: %s', p_table, v_fault),
      'correct the declaration, then: backfill install --target FILE');
  end if;
end
$$;

-- Refuse columns that a table does not have.
--
-- raises  OB013 the first of them
create function backfill_private.check_columns(p_table text, p_columns text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_gone text := (
    select c
    from unnest(p_columns) with ordinality as named (c, place)
    where backfill_private.column_type(p_table, c) is null
    order by place
    limit 1);
begin
  if v_gone is not null then
    perform backfill_private.refuse_name(format('%s has no column %s', p_table, quote_ident(v_gone)), v_gone, array(
      select a.attname::text
      from pg_attribute as a
      where a.attrelid = p_table::regclass
        and a.attnum > 0
        and not a.attisdropped));
  end if;
end
$$;

-- Refuse a scoring function or a helper that does not exist, or that lacks one of the arguments.
--
-- p_arguments  names of arguments. Null: do not check them
-- raises       OB013
create function backfill_private.check_function(p_signature text, p_arguments text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
  v_bare text := regexp_replace(split_part(p_signature, '(', 1), '^.*\.', '');
  v_names text[];
  v_gone text;
begin
  begin
    v_function := to_regprocedure(p_signature);
  exception when syntax_error or invalid_text_representation or undefined_object then
    null;  -- a text that is not a signature names no function
  end;
  if v_function is null then
    v_names := array(
      select p.oid::regprocedure::text
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
      where n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'backfill_private')
        and not starts_with(p.proname, 'backfill_')
        and p.prokind = 'f');
    perform backfill_private.refuse_name(format('there is no function %s', p_signature), p_signature, v_names,
      case when p_arguments is not null and not v_bare = any (
        select regexp_replace(split_part(known, '(', 1), '^.*\.', '') from unnest(v_names) as known
      ) then 'Is it an Edge Function? transport = "edge"' end);
  end if;
  select p.proargnames into v_names from pg_proc as p where p.oid = v_function;
  v_gone := (select a from unnest(p_arguments) as a where a <> all (coalesce(v_names, '{}')) limit 1);
  if v_gone is not null then
    perform backfill_private.refuse_name(
      format('%s has no argument %s', v_function, quote_ident(v_gone)), v_gone, v_names);
  elsif p_arguments is not null and not exists (
    select from pg_proc as p
    where p.oid = v_function
      and p.pronamespace = 'public'::regnamespace
  ) then
    perform backfill_private.refuse('OB013',
      format('%s is not in the schema public, where the API calls functions', v_function),
      'a function in public that calls it');
  end if;
end
$$;

-- Refuse a source that names what does not exist.
create function backfill_private.check_source(p_source jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text := backfill_private.declared_table(p_source);
  v_need jsonb;
begin
  perform backfill_private.check_table(v_table);
  perform backfill_private.check_columns(v_table, array[p_source ->> 'key', p_source ->> 'date']
    || array(select f ->> 'column' from jsonb_array_elements(p_source -> 'filters') as f));
  for v_need in select n from jsonb_array_elements(p_source -> 'needs') as n loop
    perform backfill_private.check_columns(backfill_private.declared_table(v_need), array[v_need ->> 'column']);
  end loop;
end
$$;

-- Refuse a component that names what does not exist, or that could have several rows per session.
create function backfill_private.check_component(p_target text, p_component jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text := backfill_private.declared_table(p_component);
  v_told text[] := array[p_component ->> 'session', p_component ->> 'version_column']
    || array(select jsonb_object_keys(p_component -> 'matches'));
  v_key text[] := array(select jsonb_array_elements_text(p_component -> 'key'));
  v_other record;
begin
  perform backfill_private.check_table(v_table);
  perform backfill_private.check_columns(v_table,
    v_told || v_key || array(select jsonb_object_keys(p_component -> 'score_ranges')));
  if not v_key <@ v_told then
    perform backfill_private.refuse('OB013',
      format('the key of %s has columns that are neither session, version nor matched: %s',
        v_table, (select string_agg(k, ', ') from unnest(v_key) as k where k <> all (v_told))),
      'a component has one row per session: match the column to a parameter, or leave it out of the key');
  end if;
  if p_component ->> 'transport' = 'rpc' then
    perform backfill_private.check_function(p_component ->> 'function',
      array(select jsonb_object_keys(p_component -> 'arguments')));
  end if;
  perform backfill_private.check_function(h, null) from jsonb_array_elements_text(p_component -> 'helpers') as h;
  select t.target, t.component into v_other
  from public.backfill_targets as t
  where to_regclass(t.table_name) = v_table::regclass
    and t.target <> p_target
  limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      format('%s holds the rows of %s of target %s already', v_table, v_other.component, v_other.target),
      'one component per table');
  end if;
end
$$;

-- Keep a declaration: its rows, our triggers on its tables, and the view with its conditions. A new declaration of a
-- target replaces the old one and drops its views. The migration then makes the others again.
--
-- p_declaration  {target, defaults, views, source: {schema, table, key, date, filters, needs, index, called},
--                components: [{component, schema, table, session, key, version_column, version, version_parameter,
--                any_version_counts, matches, transport, function, function_version, receipts, arguments, helpers,
--                needs_first, score_ranges}]}, components in the order of scoring
-- raises         OB013 it names what the database does not have, its tables do not meet what has to be true of them, or
--                it drops a component that a run has planned
create function backfill_private.keep_target(p_declaration jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := p_declaration ->> 'target';
  v_source jsonb := p_declaration -> 'source';
  v_dropped text;
begin
  perform backfill_private.check_source(v_source);
  perform backfill_private.check_component(v_target, c) from jsonb_array_elements(p_declaration -> 'components') as c;
  select t.component into v_dropped
  from public.backfill_targets as t
  where t.target = v_target
    and t.component <> all (
      array(select c ->> 'component' from jsonb_array_elements(p_declaration -> 'components') as c))
    and exists (select from public.backfill_items as i where i.source = v_target and t.component = any (i.components));
  if found then
    perform backfill_private.refuse('OB013',
      format('runs of target %s have planned %s, which this declaration drops', v_target, v_dropped),
      'keep it, or declare a target of another name');
  end if;
  perform backfill_private.withdraw(v_target);
  insert into backfill_private.sources (
    target, source_table, key_column, date_column, filters, needs, views, index_name, defaults, called)
  values (
    v_target,
    backfill_private.declared_table(v_source),
    v_source ->> 'key',
    v_source ->> 'date',
    v_source -> 'filters',
    (select coalesce(jsonb_agg(n - 'schema' || jsonb_build_object('table', backfill_private.declared_table(n))), '[]')
     from jsonb_array_elements(v_source -> 'needs') as n),
    array(select jsonb_array_elements_text(p_declaration -> 'views')),
    v_source ->> 'index',
    p_declaration -> 'defaults',
    array(select jsonb_array_elements_text(v_source -> 'called')))
  on conflict (target) do update
  set (source_table, key_column, date_column, filters, needs, views, index_name, defaults, called)
    = (excluded.source_table, excluded.key_column, excluded.date_column, excluded.filters, excluded.needs,
       excluded.views, excluded.index_name, excluded.defaults, excluded.called);
  delete from public.backfill_targets where target = v_target;
  insert into public.backfill_targets (
    target, component, position, table_name,
    session_column, key_columns, version_column, version, version_parameter, any_version_counts,
    matches, function_signature, arguments,
    helpers, needs_first,
    score_ranges, transport, function_version, receipts)
  select
    v_target, c.d ->> 'component', c.place, backfill_private.declared_table(c.d),
    c.d ->> 'session',
    array(select jsonb_array_elements_text(c.d -> 'key')),
    c.d ->> 'version_column', c.d ->> 'version', c.d ->> 'version_parameter', (c.d ->> 'any_version_counts')::boolean,
    c.d -> 'matches', c.d ->> 'function', c.d -> 'arguments',
    array(select jsonb_array_elements_text(c.d -> 'helpers')),
    array(select jsonb_array_elements_text(c.d -> 'needs_first')),
    c.d -> 'score_ranges', c.d ->> 'transport', c.d ->> 'function_version', c.d ->> 'receipts'
  from jsonb_array_elements(p_declaration -> 'components') with ordinality as c (d, place);
  perform backfill_private.refuse_faults(v_target, null);
  perform backfill_private.guard(v_target);
  execute backfill_private.standing_sql(v_target);
end
$$;

-- An error as a migration has to say it: all in the message.
--
-- p_detail, p_hint  of the error. PostgreSQL's own advice to cascade would drop what is not ours
create function backfill_private.told_in_one(p_state text, p_message text, p_detail text, p_hint text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select concat(
    rtrim(p_message, '.'),
    '. ' || rtrim(replace(nullif(p_detail, ''), E'\n', '; '), '.'),
    '. Next: ' || case p_state
      when '55P03' then 'wait until the other session has ended, then apply this migration again'
      when '2BP01' then 'drop what depends on it, apply this migration again, then create that again'
      when '42501' then 'apply this migration as a role that owns the tables, such as postgres'
      else nullif(p_hint, '')
    end)
$$;

-- Declare a target, as its migration does: see keep_target. An error has all that a person must read in its message.
create function backfill_private.declare_target(p_declaration jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
declare
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  perform backfill_private.keep_target(p_declaration);
exception when others then
  get stacked diagnostics
    v_state = returned_sqlstate,
    v_message = message_text,
    v_detail = pg_exception_detail,
    v_hint = pg_exception_hint;
  raise exception using
    errcode = v_state,
    message = backfill_private.told_in_one(v_state, v_message, v_detail, v_hint);
end
$$;
