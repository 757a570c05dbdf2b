-- Uninstall: removes all of ours and leaves the user's tables as they were. Run it as postgres, in the SQL editor or:
--   psql "$DATABASE_URL" -1 -f sql/uninstall.sql
-- Plans, receipts and audit go with it; export what you need first (backfill logs RUN).

set local lock_timeout = '3s';

-- Everything that hangs on user tables: our triggers, found by their function, and the index of detection.
do $$
declare
  v_trigger record;
begin
  for v_trigger in
    select g.tgname, g.tgrelid::regclass as on_table
    from pg_trigger as g
    join pg_proc as p on p.oid = g.tgfoid
    where p.pronamespace = to_regnamespace('backfill_private')
      and g.tgparentid = 0
      and not exists (select from pg_class as c where c.oid = g.tgrelid and c.relname like 'backfill\_%')
  loop
    execute format('drop trigger %I on %s', v_trigger.tgname, v_trigger.on_table);
  end loop;
end
$$;
drop index if exists public.backfill_completed_sessions;

drop view if exists
  public.backfill_missing_profiles, public.backfill_missing_fc_scores, public.backfill_candidates,
  public.backfill_daily_coverage, public.backfill_run_progress, public.backfill_run_failures,
  public.backfill_transitions;

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_proc as p
    where p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\_%'
      and not exists (select from pg_depend as d where d.objid = p.oid and d.deptype = 'e')
  loop
    execute format('drop function %s', v_function);
  end loop;
end
$$;

drop schema if exists backfill_private cascade;
drop table if exists
  public.backfill_approvals, public.backfill_events, public.backfill_receipts, public.backfill_items,
  public.backfill_runs, public.backfill_targets, public.backfill_settings;

notify pgrst, 'reload schema';
