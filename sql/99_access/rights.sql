-- Rights: everything is revoked, then granted by name. Row level security is in policies.sql.

-- The private schema. Only the owner may call its functions, unless they are granted below.
revoke all on schema backfill_private from public, anon, authenticated, service_role;
revoke all on all routines in schema backfill_private from public, anon, authenticated, service_role;
revoke all on all tables in schema backfill_private from public, anon, authenticated, service_role;
grant usage on schema backfill_private to authenticated, service_role;

-- Tables and views that people see. Older projects grant everything on new objects in public, so all rights are revoked
-- first.
revoke all on
  public.backfill_settings,
  public.backfill_targets,
  public.backfill_runs,
  public.backfill_items,
  public.backfill_transitions,
  public.backfill_events,
  public.backfill_approvals,
  public.backfill_standing,
  public.backfill_receipts,
  public.backfill_run_progress,
  public.backfill_run_failures,
  public.backfill_watches,
  public.backfill_coverage_history,
  public.backfill_alerts,
  public.backfill_watch_status
from public, anon, authenticated, service_role;
revoke all on sequence
  public.backfill_alerts_alert_id_seq,
  public.backfill_approvals_approval_id_seq,
  public.backfill_receipts_receipt_id_seq
from public, anon, authenticated, service_role;

-- The doors.
revoke all on function
  public.backfill_check(jsonb),
  public.backfill_calls(uuid),
  public.backfill_coverage(text, text, text),
  public.backfill_heal_next(text),
  public.backfill_watch(text, boolean, integer),
  public.backfill_catalog(),
  public.backfill_check_target(jsonb),
  public.backfill_installed(),
  public.backfill_open(jsonb, text, uuid),
  public.backfill_collect(uuid),
  public.backfill_rehearsal(uuid),
  public.backfill_rehearse(uuid, text, text),
  public.backfill_seal(uuid, numeric, jsonb),
  public.backfill_plan_sessions(uuid, integer, integer),
  public.backfill_freshness(uuid),
  public.backfill_find_runs(text),
  public.backfill_history(text[]),
  public.backfill_approve(uuid, text, text, text),
  public.backfill_reject(uuid, text, text),
  public.backfill_propose_standing(
    text, text, integer, integer, integer, integer, text, text, text[], boolean, text, uuid),
  public.backfill_standings(),
  public.backfill_revoke_standing(uuid, text),
  public.backfill_ask_standing(uuid),
  public.backfill_start(uuid, text),
  public.backfill_pace(uuid, numeric),
  public.backfill_pause(uuid, text),
  public.backfill_resume(uuid, text),
  public.backfill_cancel(uuid, text),
  public.backfill_retry(uuid),
  public.backfill_claim(uuid, uuid, text),
  public.backfill_claim_apart(uuid, uuid, text),
  public.backfill_bulk(uuid, text, integer, integer, text),
  public.backfill_renew(uuid, uuid),
  public.backfill_settle(uuid, uuid, jsonb),
  public.backfill_drive(uuid),
  public.backfill_drive_every(text),
  public.backfill_drive_every(interval),
  public.backfill_drive_stop(),
  public.backfill_verify_part(uuid, jsonb, integer),
  public.backfill_written(uuid, integer, integer),
  public.backfill_left_behind(uuid),
  public.backfill_undo_conflicts(uuid, bigint, bigint),
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_approve_undo(uuid, text, text, text),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb, text),
  public.backfill_prune(uuid)
from public, anon, authenticated, service_role;
revoke all on procedure public.backfill_drive_step(uuid, interval, interval)
from public, anon, authenticated, service_role;

-- Everything here is read under row level security.
grant select on
  public.backfill_settings,
  public.backfill_targets,
  public.backfill_runs,
  public.backfill_transitions,
  public.backfill_events,
  public.backfill_approvals,
  public.backfill_standing,
  public.backfill_run_progress,
  public.backfill_run_failures,
  public.backfill_watches,
  public.backfill_coverage_history,
  public.backfill_alerts,
  public.backfill_watch_status
to authenticated, service_role;

-- All columns but the fence's hash, which only the gate needs.
grant select (run_id, ordinal, source, session_id, session_at, components, replaces, category, phase, batch, state,
  attempts, crowded_out, unknown_outcomes, is_alone, not_before, trial, started_at, settled_at, failed_step, error_code,
  error_message, filled, unselected, worker, claim_id, lease_kind, lease_until)
on public.backfill_items to authenticated, service_role;

-- What a decision says. Its trigger decides whether it counts.
grant insert (run_id, digest, decision, approver, note) on public.backfill_approvals to authenticated, service_role;

-- All columns but the row before and the hashes of single columns, which only undo and verify need.
grant select (receipt_id, run_id, ordinal, session_id, component, kind, operation, table_name, row_key, shape,
  undo_id,
  before_hash, after_hash, attempt, is_inferred, at, undone_at) on public.backfill_receipts
to authenticated, service_role;

grant select on backfill_private.faults to service_role;

-- Doors of the service and of users with a backfill role. The function checks the role.
grant execute on function
  public.backfill_check(jsonb),
  public.backfill_calls(uuid),
  public.backfill_open(jsonb, text, uuid),
  public.backfill_collect(uuid),
  public.backfill_seal(uuid, numeric, jsonb),
  public.backfill_plan_sessions(uuid, integer, integer),
  public.backfill_freshness(uuid),
  public.backfill_find_runs(text),
  public.backfill_approve(uuid, text, text, text),
  public.backfill_reject(uuid, text, text),
  public.backfill_propose_standing(
    text, text, integer, integer, integer, integer, text, text, text[], boolean, text, uuid),
  public.backfill_standings(),
  public.backfill_revoke_standing(uuid, text),
  public.backfill_ask_standing(uuid),
  public.backfill_pace(uuid, numeric),
  public.backfill_pause(uuid, text),
  public.backfill_resume(uuid, text),
  public.backfill_cancel(uuid, text),
  public.backfill_verify_part(uuid, jsonb, integer),
  public.backfill_written(uuid, integer, integer),
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_approve_undo(uuid, text, text, text),
  public.backfill_left_behind(uuid),
  public.backfill_undo_conflicts(uuid, bigint, bigint)
to authenticated, service_role;

-- Doors of the service only.
grant execute on function
  public.backfill_coverage(text, text, text),
  public.backfill_heal_next(text),
  public.backfill_watch(text, boolean, integer),
  public.backfill_history(text[]),
  public.backfill_catalog(),
  public.backfill_check_target(jsonb),
  public.backfill_installed(),
  public.backfill_rehearsal(uuid),
  public.backfill_rehearse(uuid, text, text),
  public.backfill_start(uuid, text),
  public.backfill_retry(uuid),
  public.backfill_claim(uuid, uuid, text),
  public.backfill_claim_apart(uuid, uuid, text),
  public.backfill_bulk(uuid, text, integer, integer, text),
  public.backfill_renew(uuid, uuid),
  public.backfill_settle(uuid, uuid, jsonb),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb, text),
  public.backfill_prune(uuid)
to service_role;

-- What the doors of users, their policies and their views call.
grant execute on function
  backfill_private.approve_standing(uuid, text, text, text),
  backfill_private.approve_undo(uuid, text, text, text),
  backfill_private.ask_standing(uuid),
  backfill_private.batch_spacing_s(jsonb),
  backfill_private.calls_to_probe(uuid),
  backfill_private.check_project(jsonb),
  backfill_private.clock(),
  backfill_private.collect_window(uuid),
  backfill_private.driven_by(uuid),
  backfill_private.freshness(uuid),
  backfill_private.halt(text, uuid, text),
  backfill_private.lease_holders(uuid),
  backfill_private.left_behind_count(uuid),
  backfill_private.left_behind_rows(uuid),
  backfill_private.undo_conflicts_part(uuid, bigint, bigint),
  backfill_private.may(text),
  backfill_private.newest_tally(uuid),
  backfill_private.next_step(uuid, bigint, boolean),
  backfill_private.open_run(jsonb, text, uuid),
  backfill_private.pace(uuid, numeric),
  backfill_private.paced(jsonb, integer),
  backfill_private.preview_undo(uuid, text[], text, text, integer, bigint),
  backfill_private.propose_standing(uuid, jsonb),
  backfill_private.rate_of(public.backfill_runs),
  backfill_private.refuse_untargeted(),
  backfill_private.resume(uuid, text),
  backfill_private.revoke_standing(uuid, text),
  backfill_private.seal(uuid, numeric, jsonb),
  backfill_private.share(bigint, bigint),
  backfill_private.short_by(numeric, bigint, bigint),
  backfill_private.slots_taken(bigint),
  backfill_private.standing_of_run(uuid),
  backfill_private.standings_told(),
  backfill_private.unlike_approved(uuid),
  backfill_private.unwell_lately(uuid),
  backfill_private.verify_part(uuid, jsonb, integer),
  backfill_private.waits_for_hours(uuid)
to authenticated, service_role;

-- What the doors of the service call.
grant execute on function
  backfill_private.base_type(oid, integer),
  backfill_private.beside_session(uuid, text),
  backfill_private.bulk_begin(uuid, integer),
  backfill_private.bulk_check(jsonb, jsonb, text),
  backfill_private.bulk_keep(uuid, text),
  backfill_private.bulk_one(jsonb, jsonb, jsonb, text, boolean),
  backfill_private.bulk_outcome(text),
  backfill_private.bulk_owed(jsonb, integer),
  backfill_private.bulk_settle(uuid, text, integer[], jsonb),
  backfill_private.bulk_some(jsonb, jsonb, jsonb, text, boolean, timestamptz),
  backfill_private.catalog_columns(oid),
  backfill_private.catalog_functions(),
  backfill_private.catalog_keys(oid),
  backfill_private.catalog_references(oid),
  backfill_private.catalog_relations(),
  backfill_private.check_bounds(jsonb),
  backfill_private.checks_now(),
  backfill_private.claim(uuid, uuid, text),
  backfill_private.claim_apart(uuid, uuid, text),
  backfill_private.columns_apart(jsonb, jsonb),
  backfill_private.confirm_undo(uuid, text, text, integer, jsonb, text),
  backfill_private.count_rehearsal(integer),
  backfill_private.coverage_of(text, text, text),
  backfill_private.declaration_faults(jsonb),
  backfill_private.drive_call(uuid, jsonb, jsonb, jsonb, text, timestamptz),
  backfill_private.drive_claim(uuid, uuid, text, boolean),
  backfill_private.fault(text),
  backfill_private.gives_way(timestamptz),
  backfill_private.heal_next(text),
  backfill_private.history(text[]),
  backfill_private.installed_targets(),
  backfill_private.is_cancel(text, text, timestamptz),
  backfill_private.is_of_an_extension(regclass, oid),
  backfill_private.is_written_here(xid),
  backfill_private.keep_rehearsal(uuid, text, jsonb),
  backfill_private.keys_hold(text),
  backfill_private.kept_message(text, text),
  backfill_private.leads_an_index(regclass, text),
  backfill_private.leaves_behind(),
  backfill_private.limit_at(),
  backfill_private.loose_settings(),
  backfill_private.no_plan_takes(text[], text, bigint, bigint),
  backfill_private.parameter(text, text),
  backfill_private.prune(uuid),
  backfill_private.rehearsal_lease(uuid, text),
  backfill_private.rehearsal_sample(uuid),
  backfill_private.rehearsal_waits(integer),
  backfill_private.take_rehearsal_lock(uuid),
  backfill_private.rehearse_again(uuid, text, text, boolean),
  backfill_private.rehearse_pass(jsonb, text, timestamptz),
  backfill_private.renew(uuid, uuid),
  backfill_private.retry(uuid),
  backfill_private.row_hashes(uuid),
  backfill_private.runs_to_drive(uuid),
  backfill_private.seen_beside(uuid, text, text, jsonb),
  backfill_private.seen_first(uuid, jsonb),
  backfill_private.seen_second(uuid),
  backfill_private.seen_undone(uuid, text, timestamptz),
  backfill_private.seen_until(jsonb, text, text, timestamptz),
  backfill_private.settings_kept(text[], text),
  backfill_private.settle(uuid, uuid, jsonb),
  backfill_private.spelled(oid, text),
  backfill_private.start(uuid, text),
  backfill_private.too_few(text, text),
  backfill_private.watch(text, boolean, integer)
to service_role;
grant execute on procedure
  backfill_private.drive_batch(uuid, uuid, jsonb, timestamptz, timestamptz),
  backfill_private.drive_in_bulk(uuid, text, integer, timestamptz),
  backfill_private.drive_turn(uuid, text, boolean, timestamptz, timestamptz, jsonb),
  backfill_private.next_transaction(text, text)
to service_role;

-- Nothing of ours truncates these tables, so nobody may.
create trigger backfill_runs_no_truncate before truncate on public.backfill_runs
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_items_no_truncate before truncate on public.backfill_items
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_events_no_truncate before truncate on public.backfill_events
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_approvals_no_truncate before truncate on public.backfill_approvals
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_standing_no_truncate before truncate on public.backfill_standing
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_receipts_no_truncate before truncate on public.backfill_receipts
  for each statement execute function backfill_private.guard_truncate();
