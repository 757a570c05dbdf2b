-- Alone: a session that met a conflict on a table that is no component's is called once more while no other of its run
-- is.
--
-- Two sessions may write the same row of such a table: a day's total, a customer. What one of them met at the same time
-- as the other tells nothing about it. If it meets the conflict alone too, that is its failure.

-- Is this an error about a unique key of a table that is no component's? An Edge Function may pass on the message
-- alone.
create function backfill_private.is_conflict_elsewhere(p_target text, p_code text, p_message text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select (p_code = '23505' or strpos(p_message, 'duplicate key value violates unique constraint') > 0)
    and not exists (
      select from public.backfill_targets as t
      left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
      join pg_index as x on x.indrelid = coalesce(part.relid, to_regclass(t.table_name))
      join pg_class as c on c.oid = x.indexrelid
      where t.target = p_target and c.relname = substring(p_message from 'unique constraint "([^"]+)"'))
$$;

-- Doubt a failure that is such a conflict: its session is called once more alone.
--
-- returns  the outcomes as they are decided
create function backfill_private.doubt_conflicts(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from jsonb_array_elements(p_outcomes) as o where o ->> 'outcome' = 'failed') then
    return p_outcomes;
  end if;
  return (
    select jsonb_agg(
      case
        when o ->> 'outcome' = 'failed'
          and r.request ->> 'mode' is distinct from 'bulk'
          and backfill_private.is_conflict_elsewhere(r.target, o ->> 'code', o ->> 'message')
          and not (
            select i.is_alone
            from public.backfill_items as i
            where i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer)
        then o || jsonb_build_object('outcome', 'beside', 'message', left(o ->> 'message', 300)
          || ': it is tried once more alone. With apply --concurrency 1 each is')
        else o
      end)
    from jsonb_array_elements(p_outcomes) as o
    join public.backfill_runs as r on r.run_id = p_run_id);
end
$$;

-- The places of a run's sessions that were not well beside others. Asked at every claim, so by their index. None in
-- bulk, where a call decides this.
create function backfill_private.places_alone(p_run public.backfill_runs)
returns integer[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return array(
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.is_alone and p_run.request ->> 'mode' is distinct from 'bulk');
end
$$;

-- The session that has to be called alone, or is being called so. Null if there is none.
create function backfill_private.session_alone(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select i.session_id
  from public.backfill_items as i
  where i.run_id = p_run.run_id
    and i.ordinal = any (backfill_private.places_alone(p_run))
    and i.state in ('pending', 'leased')
  order by i.state, i.ordinal
  limit 1
$$;

-- The place of the next session that has to be called alone, locked. Null if none is ready.
create function backfill_private.next_alone(p_run public.backfill_runs)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ordinal integer;
begin
  select i.ordinal into v_ordinal
  from public.backfill_items as i
  where i.run_id = p_run.run_id
    and i.ordinal = any (backfill_private.places_alone(p_run))
    and i.state = 'pending'
    and not backfill_private.is_leased(i.source, i.session_id)
  order by i.ordinal
  limit 1
  for update of i skip locked;
  return case when v_ordinal is not null then array[v_ordinal] end;
end
$$;
