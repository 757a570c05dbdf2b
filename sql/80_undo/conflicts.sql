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
  select
    r.ordinal,
    min(r.session_id),
    min(r.component),
    r.table_name,
    r.row_key,
    (array_agg(r.before order by r.receipt_id))[1],
    (array_agg(r.before_hash order by r.receipt_id))[1] is not null,
    (array_agg(r.after_hash order by r.receipt_id))[count(*)],
    array_agg(r.receipt_id order by r.receipt_id),
    max(r.receipt_id),
    bool_or(r.is_inferred),
    max(r.attempt)
  from public.backfill_receipts as r
  where r.run_id = p_run_id
    and r.kind = 'score'
    and r.undone_at is null
    and r.ordinal = any (p_ordinals)
  group by r.ordinal, r.table_name, r.row_key
  order by max(r.receipt_id) desc;
end
$$;

-- The tables of written rows, by key columns, as SQL conditions over u, a row of unnest($1), and t, a row of the table.
-- Names are quoted, values are literals. Tables written last come first, so that rows which refer to others go before
-- those others.
--
-- picks  is u a row of this table
-- joins  is t the row that u names
create function backfill_private.undo_tables(p_rows backfill_private.undoable[])
returns table (tab regclass, picks text, joins text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    g.table_name::regclass,
    format('u.table_name = %L and u.row_key ?& %L::text[]', g.table_name, g.keys),
    backfill_private.key_condition(g.table_name, g.keys, 'u.row_key')
  from (
    select
      u.table_name,
      array(select jsonb_object_keys(u.row_key)) as keys,
      max(u.last_receipt) as newest
    from unnest(p_rows) as u
    group by 1, 2
  ) as g
  order by g.newest desc
$$;

-- Which written rows of a table cannot be undone, and why: {newest receipt: reason}. Locks the rows if p_lock.
--
-- One statement looks at the rows. One per foreign key looks for rows that refer to them, with any ON DELETE.
-- p_picks, p_joins  see backfill_private.undo_tables
create function backfill_private.undo_conflicts(
  p_table regclass, p_picks text, p_joins text, p_rows backfill_private.undoable[], p_lock boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
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
         u.has_before,
         standing.row,
         case
           when u.has_before and u.first_before is null then ''its before-image was pruned''
           -- Its unique index is gone, too. Which of them the run wrote cannot be told.
           when count(standing.row) over (partition by u.last_receipt) > 1 then ''several rows have its key''
           when standing.row is null and u.last_hash is not null then ''the row is gone''
           when standing.row is not null and u.last_hash is null then ''a row has come where the run had deleted one''
           when sha256(convert_to(standing.row::text, ''UTF8'')) is distinct from u.last_hash
             then ''the row was changed since''
         end as reason
       from unnest($1) as u
       left join lateral (select to_jsonb(t.*) as row from %s as t where %s %s) as standing on true
       where %s)
     select
       coalesce(jsonb_object_agg(l.last_receipt, l.reason) filter (where l.reason is not null), ''{}''),
       array_agg(l.last_receipt) filter (where $2 and l.reason is null and not l.has_before),
       array_agg(l.row) filter (where $2 and l.reason is null and not l.has_before)
     from looked_at as l',
    p_table, p_joins, case when p_lock then 'for update of t' else 'offset 0' end, p_picks)
  into v_found, v_free, v_standing
  using p_rows, exists (select from pg_constraint as c where c.contype = 'f' and c.confrelid = p_table);
  return v_found || backfill_private.referencing(p_table, v_free, v_standing);
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
            p.attname, format_type(p.atttypid, p.atttypmod), n.nspname, o.oprname, a.attname),
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
    from (
      -- A foreign key puts triggers on the table that it refers to. An index finds these.
      select distinct g.tgconstraint
      from pg_trigger as g
      where g.tgrelid = p_table
        and g.tgisinternal
    ) as g
    join pg_constraint as c on c.oid = g.tgconstraint
    where c.contype = 'f'
      and c.confrelid = p_table
      and c.conparentid = 0
      and p_ids is not null
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
-- themselves must be looked at. Always null if other tables refer to the target's tables.
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
      select from pg_constraint as c
      where c.contype = 'f'
        and c.confrelid = v_target.table_name::regclass
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

-- Undo one written row, if the database allows it.
--
-- returns  null, or why not: a constraint, deferred or not, or a trigger of the user's refused it
create function backfill_private.refusal_to_undo(
  p_table regclass, p_picks text, p_joins text, p_row backfill_private.undoable
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.undo_write(p_table, p_picks, p_joins, array[p_row], '{}');
  set constraints all immediate;
  return null;
exception when integrity_constraint_violation or data_exception or insufficient_privilege or raise_exception then
  return format('the database refuses it: %s %s', sqlstate, backfill_private.kept_message(sqlstate, sqlerrm));
end
$$;
