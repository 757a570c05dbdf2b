-- Declare a target. The declaration is compared with the catalog before it is kept. The migration of a target calls
-- this first. A file may be checked the same way before any migration of it exists. A refusal's message has the next
-- step too: the Supabase CLI shows no hint of an error in a migration.

-- Keep the rows of a declaration. A new declaration of a target replaces the old one.
create function backfill_private.keep_declaration(p_declaration jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := p_declaration ->> 'target';
  v_source jsonb := p_declaration -> 'source';
begin
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
  perform backfill_private.keep_level(v_target, p_declaration -> 'watch');
end
$$;

-- Keep a declaration: its rows, our triggers on its tables, and the view with its conditions. A new declaration of a
-- target replaces the old one and drops its views. The migration then makes the others again.
--
-- p_declaration  {target, defaults, views, source: {schema, table, key, date, filters, needs, index,
--                builds_index: a migration of its own follows, called}, components: [{component, schema, table,
--                session, key, version_column, version, version_parameter, any_version_counts, matches, transport,
--                function, function_version, receipts, arguments, helpers, needs_first, score_ranges}], watch:
--                {min_coverage, within_s, over_s}, or none}, components in the order of scoring
-- raises         OB013 it names what the database does not have, its tables do not meet what has to be true of them, or
--                it drops a component that a run has planned
create function backfill_private.keep_target(p_declaration jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := p_declaration ->> 'target';
begin
  perform backfill_private.refuse_names(p_declaration);
  perform backfill_private.withdraw(v_target);
  perform backfill_private.keep_declaration(p_declaration);
  update backfill_private.sources set installed_at = backfill_private.clock() where target = v_target;
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

-- Every fault of a declaration, with nothing kept of it: the names, then what has to be true of its tables. For the
-- second the rows are kept, looked at and taken back.
--
-- returns  [{place: [step], message, next, warns}]. A place is the way to a value, see backfill_private.declared_parts
--          warns: it can be declared, and is hardly meant. Only told if there is no fault
-- raises   OB010 the caller may not read, OB013 it is of another form
create function backfill_private.declaration_faults(p_declaration jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
set lock_timeout = '3s'
as $$
declare
  v_names jsonb;
  v_others jsonb;
begin
  perform backfill_private.authorize('read');
  perform backfill_private.check_bounds(jsonb_build_object('the declaration', p_declaration));
  begin
    v_names := (
      select coalesce(
        jsonb_agg(jsonb_build_object('place', f.place, 'message', f.fault, 'next', f.cure) order by f.part, f.rank),
        '[]')
      from backfill_private.name_faults(p_declaration) as f);
  exception when others then  -- JSON of another form may fail anywhere
    perform backfill_private.refuse('OB013', 'this is no declaration', 'backfill target check FILE');
  end;
  if exists (
    select from backfill_private.declared_parts(p_declaration) as p
    where backfill_private.is_callers_own(to_regclass(p.name))
  ) then
    return v_names;
  end if;
  begin
    perform backfill_private.keep_declaration(p_declaration);
    v_others := (
      select coalesce(jsonb_agg(jsonb_build_object('place', f.place, 'message', f.fault, 'next', f.cure)), '[]')
      from backfill_private.standing_faults(p_declaration, v_names) as f);
    if v_names || v_others = '[]' then
      v_others := backfill_private.declared_in_vain(p_declaration ->> 'target');
    end if;
    raise exception 'everything is taken back';
  exception when others then
    if v_others is null then
      v_others := jsonb_build_array(jsonb_build_object('place', array[]::text[], 'message', sqlerrm, 'next', ''));
    end if;
  end;
  return v_names || v_others;
end
$$;

-- What of a kept declaration selects nothing, see backfill_private.declaration_faults. Only of columns that the caller
-- may read: the sentence may hold a value of a row. Of the others it says that nobody looked.
create function backfill_private.declared_in_vain(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with caller as (
    select
      s.source_table,
      s.filters,
      coalesce(nullif(current_setting('role'), 'none'), session_user::text) as role
    from backfill_private.sources as s
    where s.target = p_target
  ), told as (
    select u.column_name, u.detail, '' as cure
    from caller as c
    cross join backfill_private.unmatched_values(p_target) as u
    where has_column_privilege(c.role, c.source_table, u.column_name, 'select')
    union
    select
      f.filter ->> 'column',
      format('%s may not read %s, so nobody looked whether a row has such a value', c.role, c.source_table),
      format('grant select on %s to %I;', to_regclass(c.source_table), c.role)
    from caller as c
    cross join backfill_private.column_filters(c.filters) as f
    where f.filter ? 'values'
      and not has_column_privilege(c.role, c.source_table, f.filter ->> 'column', 'select')
  )
  select coalesce(
    jsonb_agg(jsonb_build_object(
      'place', array['source', 'where', t.column_name],
      'message', t.detail,
      'next', t.cure,
      'warns', true)),
    '[]')
  from told as t
$$;

-- What of a kept declaration's preconditions does not hold, each at its place in the declaration. What a wrong name
-- brings with it is left out: p_names has the faults of names.
create function backfill_private.standing_faults(p_declaration jsonb, p_names jsonb)
returns table (place text[], fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select o.place, o.fault, o.cure
  from (
    select
      case
        when p.kind = 'date' then array['source', 'date']
        when p.kind = 'column' and p.place > 1000
        then array['needs', (p.place - 1001)::text, 'column']
        when p.kind = 'column'
        then array['source', 'where', (
            select f.filter ->> 'column'
            from backfill_private.column_filters(p_declaration #> '{source,filters}') as f
            where f.place = p.place)]
        when p.place = 0 then array['source', 'key']
        else array['component', (p.place - 1)::text]
          || case p.kind
            when 'value' then case
              when starts_with(p.fault, quote_ident(p_declaration
                #>> array['components', (p.place - 1)::text, 'version_column']) || ' of ') then 'version'
              else 'matches'
            end
            else p.kind
          end
      end as place,
      p.fault,
      p.cure
    from backfill_private.preconditions(p_declaration ->> 'target') as p
    where p.fault is not null
  ) as o
  where not exists (
    select from jsonb_array_elements(p_names) as n
    cross join lateral (
      select array(select jsonb_array_elements_text(n -> 'place')) as place
    ) as named
    where named.place = o.place
      or starts_with(n ->> 'message', o.fault)
      or named.place[cardinality(named.place)] = 'table'
      and named.place[:cardinality(named.place) - 1] = o.place[:cardinality(named.place) - 1]
  )
$$;
