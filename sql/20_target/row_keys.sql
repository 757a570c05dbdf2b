-- Row keys: a row of a component's table by the key that a receipt has, and its version as a text.

-- A column's value in a receipt's key, in the column's type, as SQL. Null if there is no such column.
--
-- p_key       SQL: the key, {column: value}
-- p_old_name  what the key calls the column
create function backfill_private.key_value(p_table text, p_column text, p_key text, p_old_name text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    -- What JSON holds as more than a text.
    when t.oid = 'jsonb'::regtype then format('(%s -> %L)', p_key, p_old_name)
    when t.typcategory in ('A', 'C')
    then format('(jsonb_populate_record(null::%s, jsonb_build_object(%L, %s -> %L))).%I',
      to_regclass(p_table), p_column, p_key, p_old_name, p_column)
    else format('(%s ->> %L)::%s', p_key, p_old_name, format_type(t.oid, -1))
  end
  from pg_type as t
  where t.oid = backfill_private.value_type(p_table, p_column)
$$;

-- The condition under which t, a row of a table, is the row that a receipt's key names.
--
-- p_key    SQL: the key, {column: value}
-- p_names  what the table calls these columns now. Null for one that is gone: then no row is meant
create function backfill_private.key_condition(
  p_table text, p_columns text[], p_key text, p_names text[] default null
)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select string_agg(
      coalesce(
        format('t.%I %s ', c.name, backfill_private.equals(backfill_private.value_type(p_table, c.name)))
          || backfill_private.key_value(p_table, c.name, p_key, c.old_name),
        'false'),
      ' and ' order by c.old_name)
    from unnest(p_columns, coalesce(p_names, p_columns)) as c (old_name, name));
end
$$;

-- The version of a row t of a component, as a text, as SQL. Empty if it has none.
create function backfill_private.version_text(p_target public.backfill_targets)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_target.version_column is null then ''''''
    else format('coalesce(t.%I::text, '''')', p_target.version_column)
  end
$$;

-- Are two texts one version of a component, whose column may spell it in several ways?
create function backfill_private.is_one_version(p_target public.backfill_targets, p_one text, p_other text)
returns boolean
language plpgsql
stable
strict
set search_path = pg_catalog, pg_temp
as $$
begin
  return p_one = p_other or backfill_private.is_same(
    backfill_private.value_type(p_target.table_name, p_target.version_column), p_one, p_other);
exception when others then  -- a type's input may raise anything, and what it refuses is no other spelling
  return false;
end
$$;
