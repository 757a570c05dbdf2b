-- Receipts: how rows are hashed and named. The gate is the trigger that writes them.

-- The columns that relations have now, in a text that costs little: the gate asks for it with every row.
create view backfill_private.stamps with (security_invoker = true) as
select
  a.attrelid as relation,
  string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), e'\n' order by a.attnum)
    as stamp
from pg_attribute as a
where a.attnum > 0
  and not a.attisdropped
group by a.attrelid;

-- The columns that a relation's rows have now, as a shape. A new one is noted, so that a receipt can name it.
--
-- A shape is known for good: it lets a row be compared and restored when a migration has changed the table since.
create function backfill_private.shape_of(p_relation oid)
returns bytea
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_shape bytea;
begin
  select s.shape into v_shape
  from backfill_private.stamps as now
  join backfill_private.shapes as s using (relation, stamp)
  where now.relation = p_relation;
  if not found then
    insert into backfill_private.shapes (shape, relation, stamp, columns)
    select
      sha256(convert_to(now.relation::text || e'\n' || now.stamp, 'UTF8')),
      now.relation,
      now.stamp,
      (
        select jsonb_agg(
          jsonb_build_array(a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated)
          order by a.attnum)
        from pg_attribute as a
        where a.attrelid = p_relation
          and a.attnum > 0
          and not a.attisdropped
      )
    from backfill_private.stamps as now
    where now.relation = p_relation
    on conflict (shape) do update set shape = excluded.shape
    returning shape into v_shape;
  end if;
  return v_shape;
end
$$;

-- Note the shapes of a target's tables and of their partitions.
create function backfill_private.note_shapes(p_target text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select count(backfill_private.shape_of(coalesce(part.relid, to_regclass(t.table_name))))
  from public.backfill_targets as t
  left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
  where t.target = p_target
$$;

-- The columns of a shape, and what became of each in a table.
--
-- p_table  a table of that shape, or the partitioned table that the shape's relation is a partition of
-- returns  place: in the shape. name: the column's name now, null if it was dropped. was: its type then
--          is_same: it has that type still. is_computed: it is computed when it is read, so no row keeps it
create function backfill_private.shape_columns(p_table regclass, p_shape bytea)
returns table (place integer, old_name text, name text, was text, is_same boolean, is_computed boolean)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    c.place::integer,
    c.kept ->> 1,
    a.attname::text,
    c.kept ->> 2,
    format_type(a.atttypid, a.atttypmod) = c.kept ->> 2,
    a.attgenerated = 'v'
  from backfill_private.shapes as s
  cross join lateral jsonb_array_elements(s.columns) with ordinality as c (kept, place)
  left join pg_class as r on r.oid = s.relation
  left join pg_attribute as n
    on n.attrelid = r.oid
    and n.attnum = (c.kept ->> 0)::integer
    and not n.attisdropped
  left join pg_attribute as a
    on a.attrelid = p_table
    and a.attname = case when r.oid is null then c.kept ->> 1 else n.attname end
    and a.attnum > 0
    and not a.attisdropped
  where s.shape = p_shape
$$;

-- The hash of a row: over its image, the row as text. In an image every column stands as its type writes it, for its
-- type to read it back exactly. No cast of the user's and, with these settings, none of the session's has a part in it.
create function backfill_private.row_hash(p_row record)
returns bytea
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
begin
  return sha256(convert_to(p_row::text, 'UTF8'));
end
$$;

-- A row as JSON, for its key and to compare its columns. What JSON cannot hold, such as a NUL that the type json keeps,
-- stands there as a hash.
create function backfill_private.row_json(p_row anyelement)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_json jsonb := '{}'::jsonb;
  v_column text;
  v_value jsonb;
begin
  return to_jsonb(p_row);
exception when assert_failure or others then
  for v_column in
    select a.attname::text
    from pg_attribute as a
    join pg_type as t on t.typrelid = a.attrelid
    where t.oid = pg_typeof(p_row)
      and a.attnum > 0
      and not a.attisdropped
  loop
    execute format('select backfill_private.value_json(($1).%I)', v_column) into v_value using p_row;
    v_json := v_json || jsonb_build_object(v_column, v_value);
  end loop;
  return v_json;
end
$$;

-- A value as JSON. If JSON cannot hold it, a hash of what its type writes.
create function backfill_private.value_json(p_value anyelement)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(to_jsonb(p_value), 'null');
exception when assert_failure or others then
  return to_jsonb(backfill_private.sha256_hex(format('%s', p_value)));
end
$$;

-- A short hash per column of a row, in the order that jsonb gives their names. When a column is gone, the others can
-- still be compared.
create function backfill_private.column_hashes(p_row jsonb)
returns bigint[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select nullif(array(select hashtextextended(jsonb_path_query(p_row, '$.*')::text, 0)), '{}')
$$;

-- The short hash of one column. p_type: a type that the value had before. Null if it does not convert back.
create function backfill_private.column_hash(p_value anyelement, p_type text default null)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hash bigint;
begin
  if p_type is null then
    return hashtextextended(backfill_private.value_json(p_value)::text, 0);
  end if;
  execute format('select backfill_private.column_hash($1::%s)', p_type) into v_hash using p_value;
  return v_hash;
exception when assert_failure or others then
  return null;
end
$$;

-- The condition under which a row t of a table is as a receipt x left it, as SQL. It is null if that cannot be told: a
-- column has another type since, and its value does not convert back.
--
-- p_shapes  the shapes of the receipts. They have the columns shape, after_hash and after_columns
create function backfill_private.as_left_sql(p_table regclass, p_shapes bytea[])
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('case x.shape %s end', coalesce(string_agg(format('when %L then %s', s.shape, case
    when s.is_same then format('sha256(convert_to(row(%s)::text, ''UTF8'')) = x.after_hash', s.row)
    else s.columns end), ' '), 'when null then null::boolean'))
  from (
    select
      wanted.shape,
      bool_and(coalesce(c.is_same, false)) as is_same,
      string_agg(case when c.is_computed or c.name is null then 'null' else format('t.%I', c.name) end,
        ', ' order by c.place) as row,
      coalesce(string_agg(
        case
          when c.is_same then format('backfill_private.column_hash(t.%I) = x.after_columns[%s]', c.name, j.place)
          else format(
            'nullif(x.after_columns[%2$s] in (backfill_private.column_hash(t.%1$I),'
            ' backfill_private.column_hash(t.%1$I, %3$L)), false)',
            c.name, j.place, c.was)
        end, ' and ') filter (where c.name is not null and not c.is_computed), 'true') as columns
    from unnest(p_shapes) as wanted (shape)
    cross join lateral backfill_private.shape_columns(p_table, wanted.shape) as c
    -- Where jsonb has the column's name among the others.
    join lateral (
      select k.place
      from jsonb_object_keys((
        select jsonb_object_agg(o.kept ->> 1, 0)
        from backfill_private.shapes as of_all
        cross join lateral jsonb_array_elements(of_all.columns) as o (kept)
        where of_all.shape = wanted.shape)) with ordinality as k (name, place)
      where k.name = c.old_name
    ) as j on true
    group by wanted.shape
  ) as s
$$;

-- How the image of a row fits a table: names of its columns now, and if it is not of the table's own shape, for each
-- column of the table its place in the image, null if it has none there.
create function backfill_private.image_fit(p_table regclass, p_shape bytea, out names text[], out places integer[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with kept as materialized (
    select * from backfill_private.shape_columns(p_table, p_shape)
  ), standing as (
    select a.attname::text as name, row_number() over (order by a.attnum) as place
    from pg_attribute as a
    where a.attrelid = p_table
      and a.attnum > 0
      and not a.attisdropped
  )
  select
    array_agg(s.name order by s.place) filter (where k.place is not null),
    case when count(*) <> (select count(*) from kept) or bool_or(k.place is distinct from s.place)
      then array_agg(k.place order by s.place) end
  from standing as s
  left join kept as k using (name)
$$;

-- The image of a row, with its columns put where a table has them now.
--
-- A column of an image is either quoted, with quotes and backslashes doubled, or has none of either and no comma.
-- p_places  see backfill_private.image_fit
create function backfill_private.refitted_image(p_image text, p_places integer[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  with columns as materialized (
    select array_agg(m.part[1] order by m.place) as parts
    from regexp_matches(substr(p_image, 2, length(p_image) - 2) || ',',
      '("(?:[^"\\]|""|\\\\)*"|[^,"]*),', 'g') with ordinality as m (part, place)
  )
  select case
    when p_places is null then p_image
    else (
      select format('(%s)', string_agg(coalesce(c.parts[p.place], ''), ',' order by p.nth))
      from columns as c
      cross join unnest(p_places) with ordinality as p (place, nth))
  end
$$;

-- The columns of a row that are its key. A loop, because an aggregate would cost one query per row.
create function backfill_private.row_key(p_row jsonb, p_columns text[])
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key jsonb := '{}'::jsonb;
  v_column text;
begin
  foreach v_column in array p_columns loop
    v_key := v_key || jsonb_build_object(v_column, p_row -> v_column);
  end loop;
  return v_key;
end
$$;
