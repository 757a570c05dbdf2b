-- Uninstall: remove all of ours and leave the user's tables as they were. Run as postgres, in the SQL editor or with:
--   psql "$DATABASE_URL" -1 -f sql/uninstall.sql
-- Plans, receipts and audit are lost. Export what you need first (backfill logs RUN).
--
-- Only what is named here and the schema backfill_private are removed. Other objects named backfill_… stay. Nothing
-- cascades: if an object of the user's depends on ours, PostgreSQL names it, and the whole script changes nothing.

set local lock_timeout = '3s';

-- Objects on the user's tables: our triggers, found by their functions. Then the views of the targets and the indexes
-- of detection, as the declarations name them.
do $$
declare
  v_trigger record;
  v_target record;
  v_view text;
begin
  for v_trigger in
    select g.tgname, g.tgrelid::regclass as on_table
    from pg_trigger as g
    join pg_proc as p on p.oid = g.tgfoid
    where p.pronamespace = to_regnamespace('backfill_private')
      and g.tgparentid = 0
  loop
    execute format('drop trigger %I on %s', v_trigger.tgname, v_trigger.on_table);
  end loop;
  if to_regclass('backfill_private.sources') is null then
    return;
  end if;
  for v_target in
    select s.views, s.index_name, n.nspname
    from backfill_private.sources as s
    left join pg_class as c on c.oid = to_regclass(s.source_table)
    left join pg_namespace as n on n.oid = c.relnamespace
  loop
    for v_view in
      select v
      from unnest(v_target.views) with ordinality as named (v, place)
      order by place desc
    loop
      execute format('drop view if exists %s', v_view);
    end loop;
    if v_target.index_name is not null and v_target.nspname is not null then
      execute format('drop index if exists %I.%I', v_target.nspname, v_target.index_name);
    end if;
  end loop;
end
$$;

-- The jobs that drive runs.
do $$
declare
  v_job bigint;
begin
  if exists (
    select from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where (n.nspname, c.relname) = ('cron', 'job')
      and has_schema_privilege(n.oid, 'usage')
      and has_table_privilege(c.oid, 'select')
  ) then
    for v_job in
      execute 'select j.jobid from cron.job as j where j.database = current_database()
        and j.jobname ~ ''^backfill_drive( [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$'''
    loop
      execute 'select cron.unschedule($1)' using v_job;
    end loop;
  end if;
end
$$;

drop procedure if exists public.backfill_drive_step(uuid, interval, interval);

drop function if exists
  public.backfill_drive(uuid),
  public.backfill_drive_every(text),
  public.backfill_drive_every(interval),
  public.backfill_drive_stop(),
  public.backfill_ask_standing(uuid),
  public.backfill_propose_standing(text,text,integer,integer,integer,integer,text,text,text[],boolean,text,uuid),
  public.backfill_revoke_standing(uuid, text),
  public.backfill_standings(),
  public.backfill_approve_undo(uuid, text, text, text),
  public.backfill_approve(uuid, text, text, text),
  public.backfill_bulk(uuid, text, integer, integer, text),
  public.backfill_cancel(uuid, text),
  public.backfill_calls(uuid),
  public.backfill_catalog(),
  public.backfill_check(jsonb),
  public.backfill_check_target(jsonb),
  public.backfill_claim(uuid, uuid, text),
  public.backfill_claim_apart(uuid, uuid, text),
  public.backfill_collect(uuid),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb, text),
  public.backfill_coverage(text, text, text),
  public.backfill_find_runs(text),
  public.backfill_history(text[]),
  public.backfill_installed(),
  public.backfill_left_behind(uuid),
  public.backfill_undo_conflicts(uuid, bigint, bigint),
  public.backfill_plan_sessions(uuid, integer, integer),
  public.backfill_written(uuid, integer, integer),
  public.backfill_open(jsonb, text, uuid),
  public.backfill_pace(uuid, numeric),
  public.backfill_pause(uuid, text),
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_prune(uuid),
  public.backfill_reject(uuid, text, text),
  public.backfill_renew(uuid, uuid),
  public.backfill_resume(uuid, text),
  public.backfill_retry(uuid),
  public.backfill_freshness(uuid),
  public.backfill_rehearsal(uuid),
  public.backfill_rehearse(uuid, text, text),
  public.backfill_seal(uuid, numeric, jsonb),
  public.backfill_settle(uuid, uuid, jsonb),
  public.backfill_start(uuid, text),
  public.backfill_verify_part(uuid, jsonb, integer),
  public.backfill_watch(text, boolean, integer),
  public.backfill_heal_next(text);

drop view if exists
  public.backfill_run_progress,
  public.backfill_run_failures,
  public.backfill_transitions,
  public.backfill_watch_status,
  backfill_private.rights,
  backfill_private.request_parameters;

-- Functions go before the tables whose row types they take. The two that policies and defaults of the tables call stay.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid
    from pg_proc as p
    where p.pronamespace = to_regnamespace('backfill_private')
      and p.proname not in ('may', 'clock')
  loop
    execute format('drop routine %s', v_function);
  end loop;
end
$$;

drop table if exists
  public.backfill_alerts,
  public.backfill_approvals,
  public.backfill_coverage_history,
  public.backfill_standing,
  backfill_private.standing_days,
  backfill_private.heals,
  public.backfill_events,
  public.backfill_receipts,
  public.backfill_items,
  public.backfill_runs,
  public.backfill_targets,
  public.backfill_settings,
  public.backfill_watches,
  backfill_private.findings,
  backfill_private.looks,
  backfill_private.elsewhere,
  backfill_private.shapes,
  backfill_private.rehearsals,
  backfill_private.rehearsal_rows,
  backfill_private.starts,
  backfill_private.health,
  backfill_private.slots,
  backfill_private.conflicts,
  backfill_private.undos,
  backfill_private.unnoted,
  backfill_private.low_water,
  backfill_private.tallies,
  backfill_private.lease_looks,
  backfill_private.bulk_claims,
  backfill_private.bulk_rows,
  backfill_private.lock_secret,
  backfill_private.sources;

drop view if exists
  backfill_private.bounds, backfill_private.causes, backfill_private.faults, backfill_private.stamps;
drop type if exists
  backfill_private.precondition, backfill_private.written_table,
  backfill_private.undoable, backfill_private.undo_table, backfill_private.undo_terms;
drop function if exists backfill_private.may(text), backfill_private.clock();
drop schema if exists backfill_private;

notify pgrst, 'reload schema';
