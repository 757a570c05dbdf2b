-- Left behind: rows that the undos of a run could not take back.

-- The rows that an undo left, which still are what no later undo took back, each with the newest reason.
create function backfill_private.left_behind(p_run_id uuid)
returns table (session_id text, table_name text, row_key jsonb, reason text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select l.session_id, l.table_name, l.row_key, l.reason
  from (
    select distinct on (c.value -> 'session_id', c.value -> 'table', c.value -> 'row')
      c.value ->> 'session_id' as session_id,
      c.value ->> 'table' as table_name,
      c.value -> 'row' as row_key,
      c.value ->> 'reason' as reason
    from backfill_private.undos as u
    cross join lateral jsonb_array_elements(u.conflicts) as c
    where u.run_id = p_run_id
    order by c.value -> 'session_id', c.value -> 'table', c.value -> 'row', u.undo_id desc
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
