-- The mark on what the API would call again without end. See also 60_apply/repetition.sql.

-- Does a function raise what the API answers by calling it again? Null if none was seen to.
create function backfill_private.repetition_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(
    'rehearsal: calls that the API repeats',
    'fail',
    format('%s raised %s. PostgREST before version 16 calls such a function again without end: direct mode is not safe '
      'here. backfill plan --like %s --mode bulk, without priority sessions, scores inside the database',
      min(r.error ->> 'step'), string_agg(distinct r.error ->> 'code', ' and '), p_run_id))
  from backfill_private.rehearsed(p_run_id) as r
  where r.error ->> 'code' in ('40001', '40P01')
    and exists (
      select from public.backfill_runs as run
      where run.run_id = p_run_id
        and (run.request ->> 'mode' is distinct from 'bulk' or jsonb_array_length(run.request -> 'priority') > 0))
  having count(*) > 0
$$;
