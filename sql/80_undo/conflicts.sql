-- Conflicts of an undo: written rows that are no longer what the run wrote, or to which other rows refer.

-- The written rows of some sessions, the newest first.
create function backfill_private.undo_rows(p_run_id uuid, p_ordinals integer[])
returns setof backfill_private.undoable
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
as $$
begin
  return query
  with written as (
    select
      r.ordinal,
      min(r.session_id) as session_id,
      min(r.component) as component,
      r.table_name,
      r.row_key,
      array_agg(r.receipt_id order by r.receipt_id) as receipts,
      bool_or(r.is_inferred) as is_inferred,
      max(r.attempt) as attempt
    from public.backfill_receipts as r
    where r.run_id = p_run_id
      and r.kind = 'score'
      and r.undone_at is null
      and r.ordinal = any (p_ordinals)
    group by r.ordinal, r.table_name, r.row_key
  ), ended as (
    select w.*, f.before, f.before_hash, f.shape as before_shape, l.receipt_id, l.shape, l.after_hash, l.after_columns
    from written as w
    join public.backfill_receipts as f on f.receipt_id = w.receipts[1]
    join public.backfill_receipts as l on l.receipt_id = w.receipts[cardinality(w.receipts)]
  ), fits as materialized (
    select s.table_name, s.before_shape, i.names, i.places
    from (select distinct e.table_name, e.before_shape from ended as e where e.before is not null) as s
    cross join lateral backfill_private.image_fit(s.table_name::regclass, s.before_shape) as i
  )
  select
    e.ordinal,
    e.session_id,
    e.component,
    e.table_name,
    e.row_key,
    case when e.before is not null then backfill_private.refitted_image(e.before, f.places) end,
    f.names,
    e.before_hash is not null,
    e.before is not null and e.before_hash is distinct from sha256(convert_to(e.before, 'UTF8')),
    e.shape,
    e.after_hash,
    e.after_columns,
    e.receipts,
    e.receipt_id,
    e.is_inferred,
    e.attempt
  from ended as e
  left join fits as f
    on f.table_name = e.table_name
    and f.before_shape = e.before_shape
    and e.before is not null
  order by e.receipt_id desc;
end
$$;

-- The tables of written rows, by key columns. Names are quoted, values are literals. Tables written last come first, so
-- that rows which refer to others go before those others.
create function backfill_private.undo_tables(p_rows backfill_private.undoable[])
returns setof backfill_private.undo_table
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    g.table_name::regclass,
    g.shape,
    format('u.table_name = %L and u.row_key ?& %L::text[] and u.shape = %L', g.table_name, g.keys, g.shape),
    backfill_private.key_condition(g.table_name, g.keys, 'u.row_key', array(
      select c.name
      from unnest(g.keys) with ordinality as k (name, place)
      left join backfill_private.shape_columns(g.table_name::regclass, g.shape) as c on c.old_name = k.name
      order by k.place)),
    backfill_private.as_left_sql(g.table_name::regclass, array[g.shape])
  from (
    select
      u.table_name,
      array(select jsonb_object_keys(u.row_key)) as keys,
      u.shape,
      max(u.last_receipt) as newest
    from unnest(p_rows) as u
    group by 1, 2, 3
  ) as g
  order by g.newest desc
$$;

-- Was t put in place of the row that u was before, as SQL? Then it has another number in a column that is always
-- generated as identity, and no update can give it the former one.
--
-- The number is read out of the image's text. A cast of the image would run the checks of the user's domains, and a
-- preview would end with what one of them raises.
create function backfill_private.replaced_sql(p_table regclass)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when count(*) = 0 then 'false'
    else format('(u.has_before and u.after_hash is not null and (%s))', string_agg(
      format('backfill_private.refitted_image(u.first_before, array[%s]) is distinct from row(t.%I)::text',
        c.place, c.attname),
      ' or '))
  end
  from (
    select a.attname, a.attidentity, row_number() over (order by a.attnum) as place
    from pg_attribute as a
    where a.attrelid = p_table
      and a.attnum > 0
      and not a.attisdropped
  ) as c
  where c.attidentity = 'a'
$$;

-- Which written rows of a table cannot be undone, and why: {newest receipt: reason}. Locks the rows if p_lock.
--
-- Whether a row is as the run left it is asked as verify asks it (as_left_sql in 30_run/receipts.sql): the hash of the
-- whole row against the one in its newest receipt. If the table has other columns since, a hash per column that is
-- left.
--
-- One statement looks at the rows. One per foreign key looks for rows that refer to them, with any ON DELETE.
create function backfill_private.undo_conflicts(
  p_table backfill_private.undo_table, p_rows backfill_private.undoable[], p_lock boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
declare
  v_found jsonb;
  v_free bigint[];
  v_standing jsonb[];
begin
  -- Each row is found by its key. The lateral subquery keeps the planner from joining the whole table.
  execute format(
    'with looked_at as materialized (
       select
         u.last_receipt,
         not u.has_before or standing.is_replaced as goes,
         standing.row,
         case
           when u.is_forged then ''its before-image is not the one that the run kept''
           when u.has_before and u.first_before is null then ''its before-image was pruned''
           -- Its unique index is gone, too. Which of them the run wrote cannot be told.
           when count(standing.is_there) over (partition by u.last_receipt) > 1 then ''several rows have its key''
           when standing.is_there is null and u.after_hash is not null then ''the row is gone''
           when standing.is_there and u.after_hash is null then ''a row has come where the run had deleted one''
           when not standing.is_as_left then ''the row was changed since''
           when standing.is_there and standing.is_as_left is null
             then ''a column has another type now, and what the run wrote cannot be compared with it''
         end as reason
       from unnest($1) as u
       cross join lateral (select u.shape, u.after_hash, u.after_columns) as x
       left join lateral (
         select true as is_there, %s as is_as_left, %s as is_replaced,
            case when $2 then backfill_private.row_json(t) end as row
         from %s as t
         where %s %s) as standing on true
       where %s)
     select
       coalesce(jsonb_object_agg(l.last_receipt, l.reason) filter (where l.reason is not null), ''{}''),
       array_agg(l.last_receipt) filter (where $2 and l.reason is null and l.goes),
       array_agg(l.row) filter (where $2 and l.reason is null and l.goes)
     from looked_at as l',
    p_table.is_as_left,
    backfill_private.replaced_sql(p_table.tab),
    p_table.tab,
    p_table.joins,
    case when p_lock then 'for update of t' else 'offset 0' end,
    p_table.picks)
  into v_found, v_free, v_standing
  using p_rows, exists (select from backfill_private.keys_to(p_table.tab));
  return v_found || backfill_private.referencing(p_table.tab, v_free, v_standing);
end
$$;

-- The foreign keys that refer to a table, or to one of its partitions or children alone.
create function backfill_private.keys_to(p_table regclass)
returns setof oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  with recursive tree as (
    select p_table::oid as oid
    union
    select i.inhrelid
    from tree
    join pg_inherits as i on i.inhparent = tree.oid
  )
  select distinct c.oid
  from tree as r
  -- A foreign key puts triggers on the table that it refers to. An index finds these.
  join pg_trigger as g
    on g.tgrelid = r.oid
    and g.tgisinternal
  join pg_constraint as c
    on c.oid = g.tgconstraint
    and c.contype = 'f'
    and c.confrelid = r.oid
    and c.conparentid = 0;
end
$$;

-- Which of these rows of a table are referred to by other rows: {id: a sentence on the first such foreign key}.
create function backfill_private.referencing(p_table regclass, p_ids bigint[], p_rows jsonb[])
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key record;
  v_found jsonb;
  v_all jsonb := '{}'::jsonb;
begin
  for v_key in
    select
      c.conname,
      c.conrelid::regclass as child,
      (
        select string_agg(
          -- As the foreign key itself compares them: its types may differ, and have an equality of their own.
          format('(it.standing ->> %L)::%s operator(%I.%s) child.%I',
            p.attname, backfill_private.base_type(p.atttypid, p.atttypmod), n.nspname, o.oprname, a.attname),
          ' and ')
        from unnest(c.conkey, c.confkey, c.conpfeqop) as k (child_column, parent_column, equality)
        join pg_operator as o on o.oid = k.equality
        join pg_namespace as n on n.oid = o.oprnamespace
        join pg_attribute as a
          on a.attrelid = c.conrelid
          and a.attnum = k.child_column
        join pg_attribute as p
          on p.attrelid = c.confrelid
          and p.attnum = k.parent_column
      ) as condition
    from backfill_private.keys_to(p_table) as g (oid)
    join pg_constraint as c on c.oid = g.oid
    where p_ids is not null
    order by c.conrelid::regclass::text, c.conname
  loop
    execute format(
      'select jsonb_object_agg(it.id, %L::text)
       from unnest($1, $2) as it (id, standing)
       where exists (select from %s as child where %s)',
      format('a row of %s refers to it (%s)', v_key.child, v_key.conname),
      v_key.child,
      v_key.condition)
    into v_found using p_ids, p_rows;
    v_all := coalesce(v_found, '{}') || v_all;
  end loop;
  return v_all;
end
$$;

-- Does the age of some sessions' rows prove that they are as a preview without conflicts saw them? If not, the rows
-- themselves must be looked at. Always null if other tables refer to the target's tables, or a key column has another
-- name now.
create function backfill_private.undo_is_as_seen(p_undo backfill_private.undos, p_ordinals integer[])
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_target public.backfill_targets;
  v_differs boolean;
begin
  for v_target in
    select t.*
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_undo.run_id
  loop
    if exists (
      select from backfill_private.keys_to(v_target.table_name::regclass)
    ) or exists (
      select from unnest(v_target.key_columns) as k
      where backfill_private.column_type(v_target.table_name, k) is null
    ) then
      return null;
    end if;
    execute format(
      'select exists (
         select from public.backfill_receipts as r
         left join lateral (select t.xmin as born from %s as t where %s offset 0) as standing on true
         where r.run_id = $1
           and r.ordinal = any ($2)
           and r.kind = ''score''
           and r.undone_at is null
           and r.component = %L
           and (r.table_name <> %L
             or r.after_hash is null
             or standing.born is null
             or backfill_private.came_after(standing.born, $3)))',
      v_target.table_name::regclass,
      backfill_private.key_condition(v_target.table_name, v_target.key_columns, 'r.row_key'),
      v_target.component,
      v_target.table_name)
    into v_differs using p_undo.run_id, p_ordinals, p_undo.seen;
    if v_differs then
      return false;
    end if;
  end loop;
  return true;
end
$$;
