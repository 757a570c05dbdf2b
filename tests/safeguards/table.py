"""The table of safeguards: what is taken out, of which file, and the test that misses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Safeguard:
    """One safeguard in the field's words, and how to take it out.

    file: under `sql/`. text: stands there exactly once. instead: what takes its place.
    test: the node id of what fails then.
    """

    name: str
    file: str
    text: str
    instead: str
    test: str


def taken_out(safeguard: Safeguard, sql: str) -> str:
    """The text of its file without it. Raises ValueError if it is not found exactly once."""
    found = sql.count(safeguard.text)
    if found != 1:
        raise ValueError(f"{safeguard.name}: found {found} times in {safeguard.file}")
    return sql.replace(safeguard.text, safeguard.instead)


def table(safeguards: Iterable[Safeguard]) -> str:
    """The table as tests/README.md shows it."""
    return "\n".join(_lines(safeguards))


def _lines(safeguards: Iterable[Safeguard]) -> Iterator[str]:
    yield "| Taken out | Of | Test that misses it |"
    yield "|---|---|---|"
    for s in safeguards:
        path, name = s.test.split("::")
        page = PurePosixPath(path).relative_to("tests")
        said = name.partition("[")[0].removeprefix("test_").replace("_", " ")
        yield f"| {s.name} | `{s.file}` | [{said}]({page}) |"


SAFEGUARDS = (
    Safeguard(
        "fence compare at the write",
        "60_apply/fence_gate.sql",
        "i.fence_hash = sha256(convert_to(v_headers ->> 'x-backfill-fence', 'UTF8'))",
        "i.session_id = coalesce(v_before, v_after) ->> 'session_id'",
        "tests/test_gate.py::test_no_role_writes_under_forged_headers"
        "[the right run with a wrong fence]",
    ),
    Safeguard(
        "fence and run compared together",
        "60_apply/fence_gate.sql",
        "and i.run_id::text = v_headers ->> 'x-backfill-run'\n",
        "",
        "tests/test_gate.py::test_the_fence_of_one_run_opens_no_other",
    ),
    Safeguard(
        "share lock on the session at the write",
        "60_apply/fence_gate.sql",
        "for key share of i nowait;",
        ";",
        "tests/test_races.py::test_an_outcome_waits_for_the_write_in_flight",
    ),
    Safeguard(
        "no wait for that lock",
        "60_apply/fence_gate.sql",
        "for key share of i nowait;",
        "for key share of i;",
        "tests/test_races.py::test_a_write_does_not_wait_for_who_decides",
    ),
    Safeguard(
        "lease expiry at the write",
        "60_apply/fence_gate.sql",
        "when v_held.lease_until <= v_now then 'late'",
        "",
        "tests/test_gate.py::test_no_role_writes_under_forged_headers[a lease that ran out]",
    ),
    Safeguard(
        "run state at the write",
        "60_apply/fence_gate.sql",
        "when v_held.lease_kind = 'score' and v_held.run_state <> 'running' then 'halted'",
        "",
        "tests/test_gate.py::test_no_role_writes_under_forged_headers[a paused run]",
    ),
    Safeguard(
        "approval expiry at the write",
        "60_apply/fence_gate.sql",
        "when v_held.lease_kind = 'score' and v_held.approved_until <= v_now then 'expired'",
        "",
        "tests/test_gate.py::test_no_role_writes_under_forged_headers[an approval that ran out]",
    ),
    Safeguard(
        "session of the row compared at the write",
        "60_apply/fence_gate.sql",
        "is distinct from v_held.session_id then 'foreign' end;",
        "is distinct from v_held.session_id then null end;",
        "tests/test_gate.py::test_the_fence_of_one_session_opens_no_other",
    ),
    Safeguard(
        "truncate refused under a run's header",
        "60_apply/fence_gate.sql",
        "if backfill_private.run_headers() ? 'x-backfill-run'\n",
        "if false\n",
        "tests/test_receipts.py::test_a_scorer_that_reaches_beyond_its_session_is_refused_and_"
        "pauses_the_run[truncates a target]",
    ),
    Safeguard(
        "triggers enabled always",
        "20_target/guards.sql",
        'alter table %1$s enable always trigger "000_backfill_receipt",'
        " enable always trigger backfill_no_truncate;\n",
        "",
        "tests/test_receipts.py::test_session_replication_role_does_not_get_around_the_receipts",
    ),
    Safeguard(
        "look at the triggers before a claim",
        "20_target/targets.sql",
        "where g.tgenabled = 'A'",
        "where true",
        "tests/test_receipts.py::test_a_trigger_that_does_not_stand_pauses_the_run_at_its_next_"
        "claim[disabled]",
    ),
    Safeguard(
        "a written row asked for its receipt",
        "60_apply/outcome.sql",
        "elsif p_lacks_receipt then",
        "elsif false then",
        "tests/test_receipts.py::test_a_scorer_that_hides_its_header_pauses_the_run",
    ),
    Safeguard(
        "fence changed before receipts are looked for",
        "60_apply/outcome.sql",
        "update public.backfill_items as i\n  set fence_hash = null\n"
        "  where i.run_id = p_run_id and i.ordinal = any (v_ordinals);",
        "",
        "tests/test_gate.py::test_no_role_writes_under_forged_headers[a settled attempt]",
    ),
    Safeguard(
        "row lock of the sessions at settling",
        "60_apply/outcome.sql",
        "for update of i) as l;",
        ") as l;",
        "tests/test_races.py::test_an_outcome_waits_for_the_write_in_flight",
    ),
    Safeguard(
        "outcome decided by rows and receipts",
        "60_apply/outcome.sql",
        "if p_is_complete then",
        "if p_is_complete or p_outcome = 'answered' then",
        "tests/test_service_key.py::test_no_invented_outcome_makes_an_unwritten_session_done"
        "[answered]",
    ),
    Safeguard(
        "claim compared at settling",
        "60_apply/settle.sql",
        "where i.claim_id = p_claim_id and i.state = 'leased';",
        "where i.state = 'leased';",
        "tests/test_service_key.py::test_outcomes_of_sessions_that_are_not_of_the_claim_are_"
        "passed_over",
    ),
    Safeguard(
        "bound on leases that one call takes back",
        "60_apply/settle.sql",
        "limit v_left\n",
        "",
        "tests/test_leases.py::test_a_claim_takes_no_more_leases_back_than_it_can",
    ),
    Safeguard(
        "lease expiry at renewal",
        "60_apply/lease.sql",
        "and i.lease_until > backfill_private.clock()\n",
        "",
        "tests/test_service_key.py::test_a_lease_that_ran_out_is_not_renewed",
    ),
    Safeguard(
        "look at other runs' leases",
        "60_apply/lease.sql",
        "and other.session_id = i.session_id and other.state = 'leased')",
        "and other.session_id = i.session_id and other.state = 'nobody''s')",
        "tests/test_races.py::test_two_runs_that_claim_at_once_do_not_lease_a_session_twice",
    ),
    Safeguard(
        "lock of the target at a claim",
        "60_apply/lease.sql",
        "perform pg_advisory_xact_lock(backfill_private.target_lock(p_run.target));",
        "",
        "tests/test_leases.py::test_two_runs_that_claim_at_the_same_moment_lease_different_sessions",
    ),
    Safeguard(
        "look for rows that others filled",
        "60_apply/lease.sql",
        "v_skipped := backfill_private.skip_filled(p_run, v_ordinals)\n      + ",
        "v_skipped := ",
        "tests/test_drift.py::test_a_plan_that_only_shrank_keeps_its_digest_and_runs",
    ),
    Safeguard(
        "claim id",
        "60_apply/claim.sql",
        "where i.run_id = p_run_id and i.claim_id = p_claim_id and i.state = 'leased'",
        "where false",
        "tests/test_leases.py::test_a_claim_told_again_is_no_new_start",
    ),
    Safeguard(
        "approval expiry at a claim",
        "60_apply/claim.sql",
        "if p_run.approved_until <= backfill_private.clock() then",
        "if false then",
        "tests/test_service_key.py::test_a_run_takes_no_lease_when[its approval ran out]",
    ),
    Safeguard(
        "run state at a claim",
        "60_apply/claim.sql",
        "if v_run.state <> 'running' then\n    null;",
        "if false then\n    null;",
        "tests/test_service_key.py::test_a_run_takes_no_lease_when[nobody approved it]",
    ),
    Safeguard(
        "canary",
        "60_apply/claim.sql",
        "elsif v_phase <> 'priority' and backfill_private.judge_canary(v_run) <> 'passed' then",
        "elsif false then",
        "tests/test_leases.py::test_no_session_of_the_next_phase_starts_while_the_canary_is_under_way",
    ),
    Safeguard(
        "scores of the canary held against their range",
        "60_apply/canary.sql",
        "from backfill_private.canary_scores(p_run) as s",
        "from backfill_private.canary_scores(p_run) as s where false",
        "tests/test_canary.py::test_a_column_of_numbers_is_looked_at_too",
    ),
    Safeguard(
        "circuit breaker",
        "60_apply/backoff_and_breaker.sql",
        "elsif v_run.settled_since >= 20 and v_run.failed_since * 2 > v_run.settled_since then",
        "elsif false then",
        "tests/test_trouble.py::test_more_than_half_failed_after_twenty_pauses_the_run",
    ),
    Safeguard(
        "fingerprint of a scoring function",
        "30_run/digest.sql",
        "pg_get_functiondef(p.oid),",
        "'',",
        "tests/test_approval.py::test_what_changed_since_the_approval_is_not_started",
    ),
    Safeguard(
        "owner of a function in its fingerprint",
        "30_run/digest.sql",
        "p.proowner::regrole,",
        "",
        "tests/test_approval.py::test_what_changed_since_the_approval_is_not_started",
    ),
    Safeguard(
        "server in the digest",
        "30_run/digest.sql",
        "    backfill_private.server_identity(),\n    coalesce(",
        "    coalesce(",
        "tests/test_digest.py::test_another_database_gives_another_digest",
    ),
    Safeguard(
        "digest computed anew at start",
        "60_apply/in_the_way.sql",
        "elsif backfill_private.compute_digest(p_run.run_id) <> p_run.digest then",
        "elsif false then",
        "tests/test_approval.py::test_a_copy_of_the_database_does_not_run_what_was_approved_in_"
        "the_original",
    ),
    Safeguard(
        "digest named by the approval",
        "50_approve/approval.sql",
        "if p_digest is distinct from p_run.digest then",
        "if false then",
        "tests/test_approval.py::test_an_approval_names_the_digest_of_its_plan",
    ),
    Safeguard(
        "digest computed anew at approval",
        "50_approve/approval.sql",
        "elsif backfill_private.compute_digest(p_run.run_id) <> p_run.digest then",
        "elsif false then",
        "tests/test_digest.py::test_a_sealed_plan_changed_by_a_superuser_is_not_approved",
    ),
    Safeguard(
        "approver is not the service key",
        "50_approve/approval.sql",
        "elsif v_caller.kind = 'service_role' and p_policy is distinct from 'any' then",
        "elsif false then",
        "tests/test_service_key.py::test_the_service_key_is_refused_and_changes_nothing[approve]",
    ),
    Safeguard(
        "approver has the role",
        "50_approve/approval.sql",
        "elsif v_caller.kind = 'user' and coalesce(v_caller.backfill_role, '') <> 'approver' then",
        "elsif false then",
        "tests/test_approval.py::test_who_may_approve_under_which_policy",
    ),
    Safeguard(
        "second person",
        "50_approve/approval.sql",
        "and v_caller.user_id = any (p_asked_by) then",
        "and false then",
        "tests/test_approval.py::test_who_may_approve_under_which_policy",
    ),
    Safeguard(
        "policy postgres_only",
        "50_approve/approval.sql",
        "elsif p_policy = 'postgres_only' then",
        "elsif false then",
        "tests/test_approval.py::test_who_may_approve_under_which_policy",
    ),
    Safeguard(
        "second factor",
        "50_approve/approval.sql",
        "elsif v_needs_aal2\n",
        "elsif false\n",
        "tests/test_second_person.py::test_an_approver_with_a_second_factor_approves",
    ),
    Safeguard(
        "one decision per run",
        "50_approve/approval.sql",
        "perform backfill_private.locked_run(new.run_id, array['awaiting_approval']);",
        "",
        "tests/test_approval.py::test_a_plan_is_approved_once",
    ),
    Safeguard(
        "role read live from auth.users",
        "10_ground/identity.sql",
        "select u.raw_app_meta_data ->> 'backfill_role'\n",
        "select backfill_private.claims() #>> '{app_metadata,backfill_role}'\n",
        "tests/test_approval.py::test_the_role_is_read_when_deciding_not_when_the_token_was_made",
    ),
    Safeguard(
        "barred users",
        "10_ground/identity.sql",
        "and u.deleted_at is null\n"
        "    and (u.banned_until is null or u.banned_until <= backfill_private.clock())\n",
        "",
        "tests/test_rights.py::test_a_barred_user_has_no_role",
    ),
    Safeguard(
        "login, not current user, in the SQL editor",
        "10_ground/identity.sql",
        "and pg_has_role(session_user, 'postgres', 'member') then",
        "and pg_has_role(current_user, 'postgres', 'member') then",
        "tests/test_callers_names.py::test_a_login_with_the_services_rights_is_not_taken_for_postgres",
    ),
    Safeguard(
        "environment at a claim",
        "30_run/environment.sql",
        "select lower(s.environment) is distinct from lower(p_run.environment)",
        "select false",
        "tests/test_approval.py::test_a_run_of_another_environment_takes_no_lease",
    ),
    Safeguard(
        "environment at planning",
        "30_run/environment.sql",
        "if lower(p_wanted) <> lower(v_here) then",
        "if false then",
        "tests/test_approval.py::test_a_plan_for_another_environment_is_refused",
    ),
    Safeguard(
        "guard of a sealed plan",
        "30_run/states.sql",
        "if old.sealed_at is not null and (\n",
        "if false and (\n",
        "tests/test_rights.py::test_what_postgres_cannot_do_to_a_sealed_plan",
    ),
    Safeguard(
        "guard of the planned sessions",
        "30_run/states.sql",
        "create trigger backfill_items_guard before update or delete on public.backfill_items\n"
        "  for each row execute function backfill_private.guard_item();",
        "",
        "tests/test_rights.py::test_what_postgres_cannot_do_to_a_sealed_plan",
    ),
    Safeguard(
        "guard against later sessions",
        "30_run/states.sql",
        "where r.sealed_at is not null;\n  if found then",
        "where r.sealed_at is not null;\n  if false then",
        "tests/test_rights.py::test_what_postgres_cannot_do_to_a_sealed_plan",
    ),
    Safeguard(
        "table of legal moves",
        "30_run/states.sql",
        "if new.state <> old.state and not exists (",
        "if false and not exists (",
        "tests/test_transitions.py::test_every_other_pair_is_refused",
    ),
    Safeguard(
        "lock of the run",
        "30_run/lock.sql",
        "perform pg_advisory_xact_lock(backfill_private.run_lock(p_run_id));\n",
        "",
        "tests/test_throttle.py::test_workers_that_claim_at_the_same_moment_get_one_batch",
    ),
    Safeguard(
        "count of starts in the last 60 s",
        "30_run/throttle.sql",
        "if v_started + v_batch > v_throttle then",
        "if false then",
        "tests/test_throttle.py::test_no_window_holds_more_starts_than_approved",
    ),
    Safeguard(
        "spacing of batches",
        "30_run/throttle.sql",
        "+ backfill_private.batch_spacing_s(request) * interval '1 second'",
        "",
        "tests/test_throttle.py::test_the_seed_starts_nine_batches_fifteen_seconds_apart",
    ),
    Safeguard(
        "the project's bound on running runs",
        "30_run/throttle.sql",
        "if v_taken + coalesce((p_run.request ->> 'throttle_per_minute')::integer, v_most + 1)"
        " > v_most then",
        "if false then",
        "tests/test_throttle.py::test_running_runs_share_the_projects_bound",
    ),
    Safeguard(
        "hash compare at undo",
        "80_undo/conflicts.sql",
        "when not standing.is_as_left then ''the row was changed since''\n",
        "",
        "tests/test_undo.py::test_a_session_whose_rows_are_all_in_conflict_stays_done",
    ),
    Safeguard(
        "look at foreign keys at undo",
        "80_undo/conflicts.sql",
        "return v_found || backfill_private.referencing(p_table.tab, v_free, v_standing);",
        "return v_found;",
        "tests/test_undo_sets.py::test_a_row_that_any_foreign_key_refers_to_is_left_and_the_key_"
        "is_named",
    ),
    Safeguard(
        "partition look for foreign keys",
        "80_undo/conflicts.sql",
        "select part.relid from pg_partition_tree(p_table) as part",
        "select p_table::oid",
        "tests/test_partitions.py::test_an_undo_leaves_a_row_that_another_table_refers_to_in_its_"
        "partition",
    ),
    Safeguard(
        "one run's receipts only at undo",
        "80_undo/conflicts.sql",
        "where r.run_id = p_run_id\n      and r.kind = 'score'",
        "where r.kind = 'score'",
        "tests/test_undo.py::test_an_undo_takes_back_nothing_of_another_run",
    ),
    Safeguard(
        "lock of written rows at undo",
        "80_undo/conflicts.sql",
        "case when p_lock then 'for update of t' else 'offset 0' end,",
        "'offset 0',",
        "tests/test_races.py::test_an_undo_waits_for_who_is_changing_a_row_and_leaves_it",
    ),
    Safeguard(
        "leases taken back before an undo",
        "80_undo/confirm.sql",
        "v_has_leases := not backfill_private.take_leases_back(p_run_id);",
        "v_has_leases := false;",
        "tests/test_races.py::test_an_undo_shuts_the_gate_for_leases_that_were_still_open",
    ),
    Safeguard(
        "second look before an undo",
        "80_undo/confirm.sql",
        "if backfill_private.undo_digest(p_undo) <> p_undo.digest then",
        "if false then",
        "tests/test_undo.py::test_an_undo_does_not_go_on_to_rows_that_its_preview_never_showed",
    ),
    Safeguard(
        "digest of the preview at undo",
        "80_undo/approval.sql",
        "if v_undo.undo_id is null or v_undo.digest is distinct from p_digest then",
        "if v_undo.undo_id is null then",
        "tests/test_undo_command.py::test_a_digest_that_is_like_the_previews_is_shown_in_full",
    ),
    Safeguard(
        "approval of a large undo",
        "80_undo/approval.sql",
        "elsif backfill_private.needs_approval(p_undo) then",
        "elsif false then",
        "tests/test_second_person.py::test_a_large_undo_needs_an_approver_who_did_not_ask",
    ),
    Safeguard(
        "parts of an undo counted together",
        "80_undo/approval.sql",
        "and p_undo.rows_at_stake + backfill_private.rows_unapproved(p_undo) > s.undo_policy_rows",
        "and p_undo.rows_at_stake > s.undo_policy_rows",
        "tests/test_second_person.py::test_the_parts_of_one_run_count_together_for_ever",
    ),
    Safeguard(
        "triggers of the caller's refused at undo",
        "80_undo/callers_path.sql",
        "perform backfill_private.refuse_callers_triggers();",
        "null;",
        "tests/test_callers_names.py::test_an_undo_runs_no_trigger_of_the_callers_session",
    ),
    Safeguard(
        "schemas of the caller's left out at undo",
        "80_undo/callers_path.sql",
        "      discard temp;\n",
        "      null;\n",
        "tests/test_callers_names.py::test_a_path_that_a_caller_gives_to_an_undo_leads_to_nothing_"
        "of_theirs",
    ),
    Safeguard(
        "search path of the receipts' trigger",
        "60_apply/fence_gate.sql",
        "security definer\nset search_path = pg_catalog, pg_temp\nset timezone = 'UTC'",
        "security definer\nset search_path = ''\nset timezone = 'UTC'",
        "tests/test_callers_names.py::test_a_login_that_may_insert_into_a_target_gets_nothing_more",
    ),
    Safeguard(
        "hash of each event",
        "30_run/audit.sql",
        "where c.hash <> backfill_private.event_hash(",
        "where false and c.hash <> backfill_private.event_hash(",
        "tests/test_audit.py::test_what_a_superuser_does_to_the_chain_shows[who did it]",
    ),
    Safeguard(
        "link of each event to the one before",
        "30_run/audit.sql",
        "where c.prev_hash <> c.hash_before or c.seq <> c.place",
        "where false",
        "tests/test_audit.py::test_what_a_superuser_does_to_the_chain_shows[an event gone]",
    ),
    Safeguard(
        "count and head in the run's row",
        "30_run/audit.sql",
        "and (r.audit_count, r.audit_head) <> (ends.events, ends.head)",
        "and false",
        "tests/test_audit.py::test_what_a_superuser_does_to_the_chain_shows[the tail gone]",
    ),
    Safeguard(
        "receipts of a batch held against the chain",
        "30_run/receipts.sql",
        "and e.details ->> 'receipts' <> backfill_private.receipts_hash(",
        "and false and e.details ->> 'receipts' <> backfill_private.receipts_hash(",
        "tests/test_audit.py::test_what_a_superuser_does_to_the_receipts_shows[another hash]",
    ),
    Safeguard(
        "revoke of truncate",
        "99_access/rights.sql",
        "create trigger backfill_events_no_truncate before truncate on public.backfill_events\n"
        "  for each statement execute function backfill_private.guard_truncate();",
        "",
        "tests/test_audit.py::test_nobody_truncates_what_the_audit_stands_on",
    ),
    Safeguard(
        "revoke of the rows before",
        "99_access/rights.sql",
        "before_hash, after_hash, attempt, is_inferred, at, undone_at) on public.backfill_receipts",
        "before, before_hash, after_hash, attempt, is_inferred, at, undone_at)"
        " on public.backfill_receipts",
        "tests/test_personal_data.py::test_no_api_role_reads_before",
    ),
    Safeguard(
        "revoke of the fences' hashes",
        "99_access/rights.sql",
        "claim_id, lease_kind, lease_until)\non public.backfill_items",
        "claim_id, lease_kind, lease_until, fence_hash)\non public.backfill_items",
        "tests/test_service_key.py::test_the_service_key_is_refused_and_changes_nothing"
        "[read the hashes of the fences]",
    ),
    Safeguard(
        "revoke of our private functions",
        "99_access/rights.sql",
        "revoke all on all functions in schema backfill_private"
        " from public, anon, authenticated, service_role;\n",
        "",
        "tests/test_house_rules.py::test_every_object_of_ours_keeps_the_house_rules",
    ),
    Safeguard(
        "revoke of our tables",
        "99_access/rights.sql",
        "revoke all on\n  public.backfill_settings,\n",
        "revoke all on\n",
        "tests/test_rights.py::test_no_role_updates_anything",
    ),
    Safeguard(
        "revoke of our doors",
        "99_access/rights.sql",
        "revoke all on function\n  public.backfill_check(jsonb),\n  public.backfill_calls(uuid),\n",
        "revoke all on function\n  public.backfill_calls(uuid),\n",
        "tests/test_rights.py::test_what_a_role_calls",
    ),
    Safeguard(
        "row level security",
        "99_access/policies.sql",
        'create policy "everybody with a backfill role reads runs" on public.backfill_runs\n'
        "  for select to authenticated using ((select backfill_private.may('read')));",
        'create policy "everybody with a backfill role reads runs" on public.backfill_runs\n'
        "  for select to authenticated using (true);",
        "tests/test_rights.py::test_what_a_role_reads",
    ),
    Safeguard(
        "right asked by each verb",
        "60_apply/lifecycle.sql",
        "perform backfill_private.authorize(p_verb);",
        "null;",
        "tests/test_rights.py::test_what_a_role_calls",
    ),
)
