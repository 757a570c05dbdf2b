-- The catalog, as a declaration is drafted from it: relations, keys, functions. Only catalogs are read, never a row.

-- The columns of a relation: [{name, type, base_type, not_null, default, labels: of an enum}].
create function backfill_private.catalog_columns(p_relation oid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'name', a.attname,
    'type', format_type(a.atttypid, a.atttypmod),
    'base_type', case t.typtype
      when 'd' then backfill_private.base_type(a.atttypid, -1)
      else format_type(a.atttypid, -1)
    end,
    'not_null', a.attnotnull,
    'default', pg_get_expr(d.adbin, d.adrelid),
    'labels', (select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_enum as e where e.enumtypid = t.oid)
  ) order by a.attnum), '[]')
  from pg_attribute as a
  join pg_type as t on t.oid = a.atttypid
  left join pg_attrdef as d
    on d.adrelid = a.attrelid
    and d.adnum = a.attnum
  where a.attrelid = p_relation
    and a.attnum > 0
    and not a.attisdropped
$$;

-- What names one row of a relation, always: [{columns, is_primary}], the primary key first.
create function backfill_private.catalog_keys(p_relation oid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object('columns', k.columns, 'is_primary', x.indisprimary)
    order by x.indisprimary desc, cardinality(k.columns), k.columns), '[]')
  from pg_index as x
  cross join lateral (
    select array_agg(a.attname::text order by i.place) as columns
    from unnest(x.indkey::smallint[]) with ordinality as i (attnum, place)
    join pg_attribute as a
      on a.attrelid = x.indrelid
      and a.attnum = i.attnum
    where i.place <= x.indnkeyatts
  ) as k
  where x.indrelid = p_relation
    and x.indisunique
    and x.indisvalid
    and x.indimmediate
    and x.indexprs is null
    and x.indpred is null
$$;

-- The foreign keys of a relation: [{columns, schema, table, to_columns}].
create function backfill_private.catalog_references(p_relation oid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'columns', (
      select jsonb_agg(a.attname order by i.place)
      from unnest(f.conkey) with ordinality as i (attnum, place)
      join pg_attribute as a
        on a.attrelid = f.conrelid
        and a.attnum = i.attnum
    ),
    'schema', other_schema.nspname,
    'table', other.relname,
    'to_columns', (
      select jsonb_agg(a.attname order by i.place)
      from unnest(f.confkey) with ordinality as i (attnum, place)
      join pg_attribute as a
        on a.attrelid = f.confrelid
        and a.attnum = i.attnum
    )
  ) order by f.conname), '[]')
  from pg_constraint as f
  join pg_class as other on other.oid = f.confrelid
  join pg_namespace as other_schema on other_schema.oid = other.relnamespace
  where f.conrelid = p_relation
    and f.contype = 'f'
$$;

-- The relations that a declaration may name, each with its columns, keys, foreign keys and checks.
--
-- returns  {schema, name, kind, columns, keys, foreign_keys, checks: [text], indexed: the columns that an index begins
--          with, null if none can be built there beside writers}
create function backfill_private.catalog_relations()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'schema', n.nspname,
    'name', c.relname,
    'kind', case c.relkind when 'v' then 'view' when 'm' then 'materialized view' else 'table' end,
    'columns', backfill_private.catalog_columns(c.oid),
    'keys', backfill_private.catalog_keys(c.oid),
    'foreign_keys', backfill_private.catalog_references(c.oid),
    'checks', (
      select coalesce(jsonb_agg(pg_get_constraintdef(f.oid) order by f.conname), '[]')
      from pg_constraint as f
      where f.conrelid = c.oid
        and f.contype = 'c'
    ),
    'indexed', case when c.relkind = 'r' then (
      select coalesce(jsonb_agg(a.attname order by a.attnum), '[]')
      from pg_attribute as a
      where a.attrelid = c.oid
        and a.attnum > 0
        and not a.attisdropped
        and backfill_private.leads_an_index(c.oid, a.attname)
    ) end
  )
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm')
    and not c.relispartition
    and n.nspname !~ '^pg_'
    and n.nspname not in ('information_schema', 'backfill_private')
    and not (n.nspname = 'public' and starts_with(c.relname, 'backfill_'))
    and not backfill_private.is_of_an_extension('pg_class', c.oid)
  order by n.nspname, c.relname
$$;

-- Does an extension own this object?
create function backfill_private.is_of_an_extension(p_catalog regclass, p_object oid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_depend as d
    where d.classid = p_catalog
      and d.objid = p_object
      and d.deptype = 'e'
  )
$$;

-- The functions in SQL and PL/pgSQL, each with what a call of it has to say.
--
-- returns  {schema, name, signature, arguments: [{name, type, default: null if required}], is_trigger, language, body}
create function backfill_private.catalog_functions()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'schema', n.nspname,
    'name', p.proname,
    'signature', format('%I.%I(%s)', n.nspname, p.proname, (
      select string_agg(format_type(i.type, null), ',' order by i.place)
      from unnest(p.proargtypes::oid[]) with ordinality as i (type, place)
    )),
    'arguments', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'name', a.name,
        'type', format_type(a.type, null),
        'default', case when a.nth > p.pronargs - p.pronargdefaults
          then pg_get_function_arg_default(p.oid, a.place::integer)
        end
      ) order by a.place), '[]')
      from (
        select i.name, i.type, i.place, row_number() over (order by i.place) as nth
        from unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes)
          with ordinality as i (name, type, mode, place)
        where coalesce(i.mode, 'i') in ('i', 'b', 'v')
      ) as a
    ),
    'is_trigger', p.prorettype in ('trigger'::regtype, 'event_trigger'::regtype),
    'language', l.lanname,
    'body', coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)
  )
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
  join pg_language as l on l.oid = p.prolang
  where p.prokind = 'f'
    and l.lanname in ('sql', 'plpgsql')
    and n.nspname !~ '^pg_'
    and n.nspname not in ('information_schema', 'backfill_private')
    and not (n.nspname = 'public' and starts_with(p.proname, 'backfill_'))
    and not backfill_private.is_of_an_extension('pg_proc', p.oid)
  order by n.nspname, p.proname, p.oid
$$;
