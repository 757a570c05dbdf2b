-- The rehearsal's rows: before, between and after the calls.

-- Keep the rows that a scratch run's session has in the target tables at this moment. Each column stands as its type
-- writes it.
create function backfill_private.keep_rows(p_scratch uuid, p_moment text)
returns void
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
  v_target public.backfill_targets;
  v_columns text[];
begin
  for v_target in
    select t.*
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_scratch
    order by t.position
  loop
    v_columns := array(
      select a.attname::text
      from pg_attribute as a
      where a.attrelid = v_target.table_name::regclass
        and a.attnum > 0
        and not a.attisdropped);
    execute format(
      'insert into backfill_private.rehearsal_rows (scratch, moment, table_name, row_key, contents)
       select $1, $2, %L, backfill_private.row_key(backfill_private.row_json(t), $3), jsonb_object($4, array[%s])
       from %s as t
       join public.backfill_items as item
         on item.run_id = $1
         and t.%I = %s
       on conflict do nothing',
      backfill_private.bare_name(v_target.table_name),
      (select string_agg(format('row(t.%I)::text', c.name), ', ' order by c.place)
        from unnest(v_columns) with ordinality as c (name, place)),
      v_target.table_name::regclass,
      v_target.session_column,
      backfill_private.session_key(v_target.target))
    using p_scratch, p_moment, v_target.key_columns, v_columns;
  end loop;
end
$$;

-- What this transaction has written so far to tables that are neither the target's nor ours.
--
-- returns  {table: {inserted, updated, deleted}}, as PostgreSQL counts them. Rolled back writes count too
create function backfill_private.writes_elsewhere(p_target text)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  -- The view's counters are volatile, so without a step of its own each table of the project would be looked up.
  with written as materialized (
    select w.relid, w.n_tup_ins, w.n_tup_upd, w.n_tup_del
    from pg_stat_xact_user_tables as w
    where w.n_tup_ins + w.n_tup_upd + w.n_tup_del > 0
  )
  select coalesce(jsonb_object_agg(w.relid::regclass::text, jsonb_build_object(
      'inserted', w.n_tup_ins, 'updated', w.n_tup_upd, 'deleted', w.n_tup_del)), '{}')
  from written as w
  where backfill_private.is_unwatched(p_target, w.relid)
$$;

-- How a session's rows differ between two moments, per table.
--
-- returns  {table: {before, after, inserted, updated, deleted, columns: that differ in an updated row}}
create function backfill_private.rows_between(p_scratch uuid, p_from text, p_to text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with pairs as (
    select coalesce(a.table_name, b.table_name) as table_name, b.contents as was, a.contents as becomes
    from (
      select *
      from backfill_private.rehearsal_rows as r
      where r.scratch = p_scratch
        and r.moment = p_from
    ) as b
    full join (
      select *
      from backfill_private.rehearsal_rows as r
      where r.scratch = p_scratch
        and r.moment = p_to
    ) as a
      on a.table_name = b.table_name
      and a.row_key = b.row_key
  ), columns as (
    select p.table_name, jsonb_agg(distinct c.key order by c.key) as names
    from pairs as p
    cross join lateral jsonb_each(p.becomes) as c
    where p.was is not null
      and p.was -> c.key is distinct from c.value
    group by p.table_name
  ), counted as (
    select
      p.table_name,
      count(p.was) as before,
      count(p.becomes) as after,
      count(*) filter (where p.was is null) as inserted,
      count(*) filter (where p.was <> p.becomes) as updated,
      count(*) filter (where p.becomes is null) as deleted
    from pairs as p
    group by p.table_name
  )
  select coalesce(jsonb_object_agg(c.table_name, to_jsonb(c) - 'table_name'
    || jsonb_build_object('columns', coalesce(n.names, '[]'))), '{}')
  from counted as c
  left join columns as n using (table_name)
$$;

-- The columns of rows that the first pass wrote with the time of the transaction: {table: [column]}. Whether a second
-- call sets such a column again cannot be told within one transaction.
create function backfill_private.columns_of_now(p_scratch uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
as $$
  select coalesce(jsonb_object_agg(n.table_name, n.columns), '{}') from (
    select r.table_name, jsonb_agg(distinct c.key order by c.key) as columns
    from backfill_private.rehearsal_rows as r
    cross join lateral jsonb_each(r.contents) as c
    where r.scratch = p_scratch
      and r.moment = 'first'
      and c.value #>> '{}' in (row(now())::text, row(localtimestamp)::text)
    group by r.table_name
  ) as n
$$;

-- The target of a scratch run. Only such a run's rows may be kept, since they never outlive its transaction.
--
-- raises  OB001 it is not a scratch run
create function backfill_private.scratch_target(p_scratch uuid)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text;
begin
  select r.target into v_target
  from public.backfill_runs as r
  where r.run_id = p_scratch
    and r.requested_via = 'rehearsal';
  if not found then
    perform backfill_private.refuse('OB001', format('there is no rehearsal %s', p_scratch),
      'backfill plan … --rehearse 5');
  end if;
  return v_target;
end
$$;

-- What the first pass left: rows, writes elsewhere, columns with the transaction's time, a component without its row.
create function backfill_private.seen_first(p_scratch uuid, p_writes_before jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := backfill_private.scratch_target(p_scratch);
begin
  perform backfill_private.keep_rows(p_scratch, 'first');
  return jsonb_build_object(
    'tables', backfill_private.rows_between(p_scratch, 'before', 'first'),
    'undecidable', backfill_private.columns_of_now(p_scratch),
    'receipts', (
      select coalesce(jsonb_agg(e.component), '[]')
      from backfill_private.effects(p_scratch) as e
      where e.has_receipt),
    'without_effect', (
      select e.component
      from backfill_private.effects(p_scratch) as e
      where not e.is_wanted
      limit 1),
    'elsewhere', (
      select coalesce(jsonb_object_agg(w.key, backfill_private.counts_since(p_writes_before -> w.key, w.value)), '{}')
      from jsonb_each(backfill_private.writes_elsewhere(v_target)) as w
      where w.value is distinct from p_writes_before -> w.key));
end
$$;

-- How much each count has grown.
create function backfill_private.counts_since(p_before jsonb, p_now jsonb)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_object_agg(n.key, n.value::bigint - coalesce((p_before ->> n.key)::bigint, 0))
  from jsonb_each_text(p_now) as n
$$;

-- What the second pass changed in the rows of the first.
create function backfill_private.seen_second(p_scratch uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.scratch_target(p_scratch);
  perform backfill_private.keep_rows(p_scratch, 'second');
  return jsonb_build_object('tables', backfill_private.rows_between(p_scratch, 'first', 'second'));
end
$$;

-- Undo the scratch run's rows as a real undo does, and compare with before.
--
-- returns  {conflicts: [reason], tables: see backfill_private.rows_between}
create function backfill_private.seen_undone(p_scratch uuid, p_search_path text, p_limit_at timestamptz)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_terms backfill_private.undo_terms;
  v_conflicts jsonb;
begin
  v_terms.limit_at := p_limit_at;
  perform backfill_private.scratch_target(p_scratch);
  v_terms.path := backfill_private.undo_path(p_search_path);
  select coalesce(jsonb_agg(distinct c.value ->> 'reason'), '[]') into v_conflicts
  from jsonb_array_elements(backfill_private.undo_item(p_scratch, 1, v_terms) -> 'conflicts') as c;
  perform backfill_private.keep_rows(p_scratch, 'undone');
  return jsonb_build_object(
    'conflicts', v_conflicts,
    'tables', backfill_private.rows_between(p_scratch, 'before', 'undone'));
end
$$;

-- What was seen of a session until an error ended its rehearsal. It is the error of what came next: the rows that the
-- calls left, the second call, or the undo. A time limit that came after the first call says nothing against those.
create function backfill_private.seen_until(p_seen jsonb, p_code text, p_message text, p_limit_at timestamptz)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_seen ->> 'error' is not null then p_seen
    when not p_seen ? 'tables' then p_seen || jsonb_build_object('error', e.error)
    when backfill_private.is_cancel(p_code, p_message, p_limit_at) then p_seen
    when not p_seen ? 'second' then p_seen || jsonb_build_object('second', jsonb_build_object('error', e.error))
    else p_seen || jsonb_build_object('undone', jsonb_build_object(
      'tables', '{}'::jsonb,
      'conflicts', jsonb_build_array(format('the undo ends with %s %s', p_code, e.error ->> 'message'))))
  end
  from (
    select jsonb_build_object(
      'step', 'what the calls left',
      'code', p_code,
      'message', backfill_private.kept_message(p_code, p_message)) as error
  ) as e
$$;
