-- Left behind: rows that the undos of a run could not take back, and those that a preview says it will not.

-- Keep the rows that an undo leaves.
--
-- p_is_left    false: as its look sees it. True: as it came
-- p_conflicts  see backfill_private.undo_effect
create function backfill_private.keep_conflicts(p_undo_id bigint, p_is_left boolean, p_conflicts jsonb)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into backfill_private.conflicts (undo_id, is_left, session_id, table_name, row_key, reason)
  select p_undo_id, p_is_left, c.value ->> 'session_id', c.value ->> 'table', c.value -> 'row', c.value ->> 'reason'
  from jsonb_array_elements(p_conflicts) with ordinality as c (value, place)
  order by c.place
$$;

-- The next rows that an undo leaves, in the order of the plan: of a preview as its look saw it, of a confirmed one as
-- it came.
--
-- p_after  see after. 0: from the first
-- returns  {conflicts: [{session_id, table, row, reason}], at most 1,000, after: where the next begin, null at the end}
create function backfill_private.conflicts_after(p_undo backfill_private.undos, p_after bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'conflicts', coalesce(jsonb_agg(jsonb_build_object(
      'session_id', c.session_id, 'table', c.table_name, 'row', c.row_key, 'reason', c.reason)
      order by c.conflict_id), '[]'),
    'after', case when count(*) = 1000 then max(c.conflict_id) end)
  from (
    select f.*
    from backfill_private.conflicts as f
    where f.undo_id = p_undo.undo_id
      and f.is_left = (p_undo.state <> 'previewed')
      and f.conflict_id > p_after
    order by f.conflict_id
    limit 1000) as c
$$;

-- The same of a run's undo, for the client.
--
-- raises  OB010 the caller may not preview, OB013 the run has no such undo
create function backfill_private.undo_conflicts_part(p_run_id uuid, p_undo_id bigint, p_after bigint)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
begin
  perform backfill_private.authorize('preview');
  select * into v_undo from backfill_private.undos as u where u.undo_id = p_undo_id and u.run_id = p_run_id;
  if not found then
    perform backfill_private.refuse('OB013', format('run %s has no undo %s', p_run_id, p_undo_id),
      format('backfill rollback %s', p_run_id));
  end if;
  return backfill_private.conflicts_after(v_undo, coalesce(p_after, 0));
end
$$;

-- The rows that an undo left, which still are what no later undo took back, each with the newest reason.
create function backfill_private.left_behind(p_run_id uuid)
returns table (session_id text, table_name text, row_key jsonb, reason text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select l.session_id, l.table_name, l.row_key, l.reason
  from (
    select distinct on (c.session_id, c.table_name, c.row_key) c.session_id, c.table_name, c.row_key, c.reason
    from backfill_private.undos as u
    join backfill_private.conflicts as c using (undo_id)
    where u.run_id = p_run_id
      and c.is_left
    order by c.session_id, c.table_name, c.row_key, c.conflict_id desc
  ) as l
  where exists (
    select from public.backfill_items as i
    join public.backfill_receipts as r using (run_id, ordinal)
    where i.run_id = p_run_id
      and i.session_id = l.session_id
      and r.kind = 'score'
      and r.undone_at is null
      and r.table_name = l.table_name
      and r.row_key = l.row_key)
  order by l.session_id, l.table_name, l.row_key
$$;

-- How many rows the undos of a run left behind. Null if the caller may not read.
create function backfill_private.left_behind_count(p_run_id uuid)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select case when backfill_private.may('read') then (select count(*) from backfill_private.left_behind(p_run_id)) end
$$;

-- The same rows for the client, 1,000 at most: [{session_id, table, row, reason}].
--
-- raises  OB010 the caller may not read
create function backfill_private.left_behind_rows(p_run_id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'session_id', l.session_id, 'table', l.table_name, 'row', l.row_key, 'reason', l.reason)), '[]')
    from (select b.* from backfill_private.left_behind(p_run_id) as b limit 1000) as l);
end
$$;
