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
        path, test = s.test.split("::")
        name, _, case = test.removesuffix("]").partition("[")
        said = name.removeprefix("test_").replace("_", " ")
        page = PurePosixPath(path).relative_to("tests")
        yield f"| {s.name} | `sql/{s.file}` | [{said}]({page}){case and ': ' + case} |"


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
        "triggers enabled always",
        "20_target/guards.sql",
        'alter table %1$s enable always trigger "000_backfill_receipt",'
        " enable always trigger backfill_no_truncate;\n",
        "",
        "tests/test_receipts.py::test_session_replication_role_does_not_get_around_the_receipts",
    ),
    Safeguard(
        "a written row asked for its receipt",
        "60_apply/outcome.sql",
        "elsif p_lacks_receipt then",
        "elsif false then",
        "tests/test_receipts.py::test_a_scorer_that_hides_its_header_pauses_the_run",
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
        "where i.ordinal = any (v_told) and i.claim_id = p_claim_id;",
        "where i.ordinal = any (v_told) and i.state = 'leased';",
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
        "look for what is pending again",
        "60_apply/outcome.sql",
        "perform backfill_private.lower_low_water(p_run_id, v_ordinals);",
        "null;",
        "tests/test_low_water.py::test_what_is_given_back_comes_next",
    ),
    Safeguard(
        "lock on the run while its low water rises",
        "60_apply/low_water.sql",
        " for share skip locked;",
        ";",
        "tests/test_low_water.py::test_what_the_claim_of_another_run_gives_back_is_not_passed_by",
    ),
    Safeguard(
        "look for leases that were passed over",
        "60_apply/settle.sql",
        "and not exists (\n    select from public.backfill_items as i\n"
        "    where i.lease_until > v_from and i.lease_until <= v_until)",
        "",
        "tests/test_low_water.py::test_a_lease_that_ran_out_while_its_run_was_held_is_not_forgotten",
    ),
    Safeguard(
        "may_score at renewal",
        "60_apply/lease.sql",
        "      and v_may_score\n",
        "",
        ("tests/test_leases.py::test_a_lease_is_not_renewed_once_its_run_may_not_be_scored"),
    ),
    Safeguard(
        "look at other runs' leases",
        "60_apply/next_sessions.sql",
        "and i.session_id = p_session_id\n      and i.state = 'leased'",
        "and i.session_id = p_session_id\n      and false",
        "tests/test_races.py::test_two_runs_that_claim_at_once_do_not_lease_a_session_twice",
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
        "circuit breaker",
        "60_apply/backoff_and_breaker.sql",
        "elsif v_run.settled_since >= 20 and v_run.failed_since * 2 > v_run.settled_since then",
        "elsif false then",
        "tests/test_trouble.py::test_more_than_half_failed_after_twenty_pauses_the_run",
    ),
    Safeguard(
        "may_score in bulk",
        "60_apply/bulk.sql",
        "    and backfill_private.may_score(p_run)\n",
        "",
        (
            "tests/test_bulk.py::test_bulk_alone_meets_what_a_claim_looks_at[a receipt "
            "trigger is gone]"
        ),
    ),
    Safeguard(
        "look by a claim once bulk has failed",
        "60_apply/bulk.sql",
        "where u.run_id = p_run.run_id and not u.is_well)",
        "where false)",
        "tests/test_bulk.py::test_bulk_alone_stops_once_sessions_have_failed",
    ),
    Safeguard(
        "approval expiry in bulk, at the end of each session",
        "60_apply/bulk.sql",
        (
            "if exists (select from public.backfill_runs as r where r.run_id = v_call.run_"
            "id and r.approved_until <= v_now) then"
        ),
        "if false then",
        ("tests/test_bulk.py::test_bulk_alone_writes_nothing_after_the_approval_ran_out"),
    ),
    Safeguard(
        "a call in bulk known by its transaction",
        "60_apply/fence_gate.sql",
        ("from backfill_private.bulk_claims as b where b.xid = pg_current_xact_id();"),
        "from (select pg_current_xact_id() as xid) as b;",
        ("tests/test_bulk_receipts.py::test_the_setting_means_nothing_outside_of_a_call"),
    ),
    Safeguard(
        "commit of a rehearsal or a call in bulk refused",
        "30_run/transient.sql",
        "if v_stack !~ '\\n' or v_stack ~ ' COMMIT(\\n|$)' then",
        "if false then",
        "tests/test_transient.py::test_what_passes_with_its_transaction_is_not_committed"
        "[a rehearsal-checked before, by itself]",
    ),
    Safeguard(
        "sessions of a call in bulk held against what it took",
        "60_apply/bulk.sql",
        "where a = any (v_call.ordinals)",
        "where true",
        "tests/test_transient.py::"
        "test_a_call_in_bulk_settles_no_session_that_it_has_not_taken[answered]",
    ),
    Safeguard(
        "session of the row compared in bulk",
        "60_apply/bulk.sql",
        (
            "      or f.contents ->> f.session_column is distinct from f.session_id\n"
            "      or f.before is not null and f.before ->> f.session_column is distinct "
            "from f.session_id)"
        ),
        "      or false)",
        (
            "tests/test_bulk.py::test_what_pauses_a_run_pauses_one_in_"
            "bulk[foreign-critical: session]"
        ),
    ),
    Safeguard(
        "time budget of a call in bulk",
        "60_apply/bulk_calls.sql",
        "where backfill_private.clock() < $3) as turn",
        "where true) as turn",
        ("tests/test_bulk_receipts.py::test_no_session_begins_once_rows_are_locked_for_long"),
    ),
    Safeguard(
        "fingerprint of a scoring function",
        "30_run/digest.sql",
        "pg_get_functiondef(p.oid),",
        "'',",
        "tests/test_approval.py::test_what_changed_since_the_approval_is_not_started",
    ),
    Safeguard(
        "owner and rights in the fingerprint",
        "30_run/digest.sql",
        (
            "      p.proowner::regrole,\n"
            "      (select string_agg(acl::text, ',' order by acl::text) from unnest("
            "p.proacl) as acl)))\n"
        ),
        "      ''))\n",
        ("tests/test_approval.py::test_what_changed_since_the_approval_is_not_started[its rights]"),
    ),
    Safeguard(
        "dates of the sessions in the digest",
        "30_run/digest.sql",
        "i.source, i.session_id, i.session_at)::text",
        "i.source, i.session_id)::text",
        (
            "tests/test_digest.py::test_a_sealed_plan_changed_by_a_superuser_is_not_"
            "approved[session_at = session_at + '1 us']"
        ),
    ),
    Safeguard(
        "digest computed anew at start",
        "60_apply/in_the_way.sql",
        "elsif backfill_private.compute_digest(p_run.run_id) <> p_run.digest then",
        "elsif false then",
        (
            "tests/test_approval.py::test_what_changed_since_the_approval_is_not_started[a "
            "session taken out]"
        ),
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
        "figures held against their hash at approval",
        "50_approve/approval.sql",
        "elsif backfill_private.figures_hash(p_run.plan) <> (\n",
        "elsif false and backfill_private.figures_hash(p_run.plan) <> (\n",
        ("tests/test_audit.py::test_figures_that_changed_before_the_approval_are_not_approved"),
    ),
    Safeguard(
        "figures held against the approval",
        "50_approve/approval.sql",
        ("and a.figures_hash is distinct from backfill_private.figures_hash(r.plan)"),
        "and false",
        ("tests/test_audit.py::test_what_a_superuser_does_to_an_approved_plan_shows[a figure]"),
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
        "second factor",
        "50_approve/approval.sql",
        "elsif v_needs_aal2\n",
        "elsif false\n",
        "tests/test_second_person.py::test_an_approver_with_a_second_factor_approves",
    ),
    Safeguard(
        "role read live from auth.users",
        "10_ground/identity.sql",
        "select u.raw_app_meta_data ->> 'backfill_role'\n",
        "select backfill_private.claims() #>> '{app_metadata,backfill_role}'\n",
        "tests/test_approval.py::test_the_role_is_read_when_deciding_not_when_the_token_was_made",
    ),
    Safeguard(
        "login, not current user, in the SQL editor",
        "10_ground/identity.sql",
        "and pg_has_role(session_user, 'postgres', 'member')\n",
        "and pg_has_role(current_user, 'postgres', 'member')\n",
        "tests/test_callers_names.py::test_a_login_with_the_services_rights_is_not_taken_for_postgres",
    ),
    Safeguard(
        "a role taken in the SQL editor is not the login",
        "10_ground/identity.sql",
        "(case when v_role = 'none' then true else pg_has_role(v_role, 'postgres', 'member') end)",
        "true",
        "tests/test_drive.py::test_user_code_in_a_postgres_session_is_not_postgres",
    ),
    Safeguard(
        "environment at a claim",
        "30_run/environment.sql",
        "select lower(s.environment) is distinct from lower(p_run.environment)",
        "select false",
        "tests/test_approval.py::test_a_run_of_another_environment_takes_no_lease",
    ),
    Safeguard(
        "server compared whenever a run is scored",
        "60_apply/in_the_way.sql",
        (
            "  end if;\n"
            "  if p_run.server is distinct from backfill_private.server_identity() then\n"
            "    cause := 'server';"
        ),
        "  end if;\n  if false then\n    cause := 'server';",
        (
            "tests/test_leases.py::test_a_copy_of_the_database_scores_nothing_for_a_run_"
            "that_was_running[direct]"
        ),
    ),
    Safeguard(
        "settings asked for whenever a run is scored",
        "60_apply/in_the_way.sql",
        "elsif not v_has_settings then",
        "elsif false then",
        ("tests/test_bulk.py::test_bulk_alone_meets_what_a_claim_looks_at[the settings are gone]"),
    ),
    Safeguard(
        "functions compared whenever a run is scored",
        "60_apply/in_the_way.sql",
        (
            "  elsif p_run.fingerprint is distinct from backfill_private.definitions(p_"
            "run.target) then\n"
            "    cause := 'definition';\n"
            "    reason := 'a scoring"
        ),
        "  elsif false then\n    cause := 'definition';\n    reason := 'a scoring",
        (
            "tests/test_bulk.py::test_bulk_alone_meets_what_a_claim_looks_at[a function "
            "was replaced]"
        ),
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
        "create trigger backfill_items_guard\n"
        "  before delete or update of\n"
        "    run_id, ordinal, source, session_id, session_at, components, replaces, category,"
        " phase, batch\n"
        "  on public.backfill_items\n"
        "  for each row execute function backfill_private.guard_item();",
        "",
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
        "perform pg_advisory_xact_lock(p_key);",
        "null;",
        "tests/test_races.py::test_a_pause_waits_for_the_call_in_bulk_under_way",
    ),
    Safeguard(
        "count of starts in the last 60 s",
        "30_run/throttle.sql",
        "if v_started + v_batch > v_throttle then",
        "if false then",
        (
            "tests/test_rules_sql.py::test_a_rule_says_what_its_table_says[when the next "
            "batch may start]"
        ),
    ),
    Safeguard(
        "spacing of batches",
        "30_run/throttle.sql",
        "+ backfill_private.batch_spacing_s(backfill_private.paced("
        "v_run.request, v_run.pace_per_minute))"
        "\n      * interval '1 second'",
        "",
        "tests/test_throttle.py::test_the_seed_starts_nine_batches_fifteen_seconds_apart",
    ),
    Safeguard(
        "look at the database's load before a grant",
        "30_run/throttle.sql",
        "    v_unwell := backfill_private.unwell(p_run);",
        "    null;",
        "tests/test_health.py::test_a_call_in_bulk_waits_for_the_same",
    ),
    Safeguard(
        "rate that the approval covers",
        "60_apply/pace.sql",
        "  perform backfill_private.check_rate(v_run, p_per_minute);\n",
        "",
        "tests/test_pace.py::test_every_start_keeps_the_rate_then_in_force",
    ),
    Safeguard(
        "the project's bound on running runs",
        "30_run/throttle.sql",
        "if v_taken + coalesce(backfill_private.rate_of(p_run), v_most + 1) > v_most then",
        "if false then",
        "tests/test_throttle.py::test_running_runs_share_the_projects_bound",
    ),
    Safeguard(
        "slots that are free again after 60 s",
        "30_run/throttle.sql",
        "where s.used_at <= backfill_private.clock() - interval '60 seconds'\n",
        "",
        "tests/test_bound.py::test_a_share_that_is_given_back_frees_no_start",
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
        "join pg_inherits as i on i.inhparent = tree.oid",
        "join pg_inherits as i on false",
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
        "receipts of an undo",
        "80_undo/write.sql",
        "    join unnest(v_rows) as u using (last_receipt);\n",
        ("    join unnest(v_rows) as u using (last_receipt)\n    where w.last_receipt is null;\n"),
        (
            "tests/test_undo_sets.py::test_overwritten_rows_are_restored_with_what_the_"
            "table_computes_left_to_it"
        ),
    ),
    Safeguard(
        "before-image held against its hash at undo",
        "80_undo/conflicts.sql",
        "e.before_hash is distinct from sha256(convert_to(e.before, 'UTF8')),",
        "false,",
        "tests/test_undo_sets.py::test_an_image_that_was_changed_since_is_not_written_back",
    ),
    Safeguard(
        "time budget of a piece of an undo",
        "80_undo/confirm.sql",
        "p_terms.ends_at := backfill_private.clock() + interval '0.8 s';",
        "",
        "tests/test_undo.py::test_no_session_is_undone_once_rows_are_locked_for_long",
    ),
    Safeguard(
        "second look before an undo",
        "80_undo/confirm.sql",
        "if backfill_private.undo_digest(p_undo) <> p_undo.digest then",
        "if false then",
        (
            "tests/test_races.py::test_an_undo_waits_for_the_write_in_flight_and_does_not_"
            "miss_its_row"
        ),
    ),
    Safeguard(
        "approval of a large undo",
        "80_undo/approval.sql",
        "elsif backfill_private.needs_approval(p_undo) then",
        "elsif false then",
        "tests/test_second_person.py::test_a_large_undo_needs_an_approver_who_did_not_ask",
    ),
    Safeguard(
        "undone sessions left out of standing approvals",
        "55_standing/fault.sql",
        "w.undone_at >= p_since",
        "false",
        "tests/test_standing.py::test_no_rule_covers_what_was_undone_since_it_was_approved",
    ),
    Safeguard(
        "triggers of the caller's refused at undo",
        "80_undo/callers_path.sql",
        "perform backfill_private.refuse_callers_triggers();",
        "null;",
        "tests/test_callers_names.py::test_an_undo_runs_no_trigger_of_the_callers_session",
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
        (
            "tests/test_audit.py::test_what_a_superuser_does_to_the_chain_shows[an event "
            "gone and the count with it]"
        ),
    ),
    Safeguard(
        "count and head that the run remembers",
        "30_run/audit.sql",
        "where (r.audit_count, r.audit_head) <> (ends.events, ends.head)",
        "where false",
        "tests/test_audit.py::test_what_a_superuser_does_to_the_chain_shows[the tail gone]",
    ),
    Safeguard(
        "receipts of a batch held against the chain",
        "30_run/proof.sql",
        "and e.details ->> 'receipts' <> backfill_private.batch_hash(",
        "and false and e.details ->> 'receipts' <> backfill_private.batch_hash(",
        "tests/test_audit.py::test_what_a_superuser_does_to_the_receipts_shows[another hash]",
    ),
    Safeguard(
        "receipts of an undo held against the chain",
        "30_run/proof.sql",
        "and (e.details @> backfill_private.undo_trace(",
        "and false and (e.details @> backfill_private.undo_trace(",
        "tests/test_audit.py::test_what_a_superuser_does_to_an_undos_receipts_shows"
        "[one of the undo gone]",
    ),
    Safeguard(
        "undos that the chain does not tell of",
        "30_run/proof.sql",
        "and u.undo_id is null",
        "and false",
        "tests/test_audit.py::test_what_a_superuser_does_to_an_undos_receipts_shows"
        "[taken back by nobody]",
    ),
    Safeguard(
        "a batch in bulk held against its note",
        "30_run/proof.sql",
        "and u.details ->> 'receipts' <> backfill_private.batch_hash(",
        "and false and u.details ->> 'receipts' <> backfill_private.batch_hash(",
        "tests/test_bulk.py::test_what_a_superuser_does_to_a_batch_that_is_not_yet_in_the_chain_shows"
        "[a receipt changed]",
    ),
    Safeguard(
        "receipts that no batch tells of",
        "30_run/proof.sql",
        "and (r.receipt_id <= t.newest) is not true",
        "and false",
        "tests/test_bulk.py::test_what_a_superuser_does_to_a_batch_that_is_not_yet_in_the_chain_shows"
        "[the note gone]",
    ),
    Safeguard(
        "outcomes that no batch tells of",
        "30_run/proof.sql",
        "and t.ordinal is null",
        "and false",
        "tests/test_bulk.py::test_what_a_superuser_does_to_a_batch_that_is_not_yet_in_the_chain_shows"
        "[the note and the receipts gone]",
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
        "revoke all on all routines in schema backfill_private"
        " from public, anon, authenticated, service_role;\n",
        "",
        "tests/test_house_rules.py::test_every_object_of_ours_keeps_the_house_rules",
    ),
    Safeguard(
        "revoke of our private tables",
        "99_access/rights.sql",
        (
            "revoke all on all tables in schema backfill_private from public, anon, "
            "authenticated, service_role;\n"
        ),
        "grant all on all tables in schema backfill_private to service_role;\n",
        (
            "tests/test_bulk_receipts.py::test_no_role_of_the_api_reads_or_writes_what_a_"
            "call_in_bulk_keeps"
        ),
    ),
    Safeguard(
        "revoke of our doors",
        "99_access/rights.sql",
        "revoke all on function\n  public.backfill_check(jsonb),\n  public.backfill_calls(uuid),\n",
        "revoke all on function\n  public.backfill_calls(uuid),\n",
        "tests/test_house_rules.py::test_the_rules_hold_where_new_objects_are_open_to_the_api",
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
