-- Tally: what each batch changes of a run, kept beside its row.
--
-- Each version of a row is walked over by every look at it for as long as somebody holds a snapshot: a backup, a
-- replica, an analyst's open tab. In sixteen hours at 20 starts per minute a run has thousands of batches. So while it
-- runs, the figures that a batch changes are appended here, and the newest counts: it is found at the end of its index,
-- whatever lies before it. Whatever else happens to a run writes them into its row, and then no tally is left.

-- The newest tally of a run. Null: its row says all.
create function backfill_private.newest_tally(p_run_id uuid)
returns backfill_private.tallies
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return (
    select t
    from backfill_private.tallies as t
    where t.run_id = p_run_id
    order by t.tally_id desc
    limit 1);
end
$$;

-- A run as its row and its newest tally say. Whoever asks for what a batch changes asks this.
create function backfill_private.run_now(p_run_id uuid)
returns public.backfill_runs
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_tally backfill_private.tallies := backfill_private.newest_tally(p_run_id);
begin
  select * into v_run from public.backfill_runs as r where r.run_id = p_run_id;
  if v_tally.run_id is not null then
    v_run.audit_count := v_tally.audit_count;
    v_run.audit_head := v_tally.audit_head;
    v_run.batches_granted := v_tally.batches_granted;
    v_run.next_batch_at := v_tally.next_batch_at;
    v_run.settled_since := v_tally.settled_since;
    v_run.failed_since := v_tally.failed_since;
    v_run.failed_in_row := v_tally.failed_in_row;
  end if;
  return v_run;
end
$$;

-- Keep what has changed of a run. The caller holds its row, and has asked run_now() since.
--
-- p_is_batch  a batch has changed it, and nothing else
create function backfill_private.keep_run(p_run public.backfill_runs, p_is_batch boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  if p_is_batch and p_run.state = 'running' then
    insert into backfill_private.tallies (
      run_id, audit_count, audit_head, batches_granted, next_batch_at, settled_since, failed_since, failed_in_row)
    values (p_run.run_id, p_run.audit_count, p_run.audit_head, p_run.batches_granted, p_run.next_batch_at,
      p_run.settled_since, p_run.failed_since, p_run.failed_in_row);
  else
    update public.backfill_runs
    set audit_count = p_run.audit_count,
        audit_head = p_run.audit_head,
        batches_granted = p_run.batches_granted,
        next_batch_at = p_run.next_batch_at,
        settled_since = p_run.settled_since,
        failed_since = p_run.failed_since,
        failed_in_row = p_run.failed_in_row
    where run_id = p_run.run_id;
    delete from backfill_private.tallies as t where t.run_id = p_run.run_id;
  end if;
end
$$;
