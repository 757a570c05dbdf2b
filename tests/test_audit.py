"""The audit chain: whole after a run, and whatever a superuser does to it shows in verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.moments import once
from tests.kit.outsider import Outsider, code_of
from tests.kit.seed import SEED


@once
def completed_and_undone(project: Project, timed: backfill.Backfill) -> backfill.Plan:
    """The seed's run: paused once, completed, one session undone."""
    plan = timed.plan(**SEED)
    project.approve(plan)
    timed.pause(plan.run_id, reason="lunch")
    timed.resume(plan.run_id)
    assert timed.apply(plan.run_id).is_complete
    timed.rollback(plan.run_id, sessions=[plan.sessions[-1].session_id]).confirm(reason="a test")
    return plan


@pytest.fixture
def over(project: Project, timed: backfill.Backfill) -> backfill.Plan:
    """A run of which the audit tells everything."""
    return completed_and_undone(project, timed)


def audit_of(bf: backfill.Backfill, run: str) -> tuple[str, str, int, int, tuple[str, ...]]:
    """The verdict, and of audit_complete the status, what was expected and what was found."""
    verification = bf.verify(run)
    [criterion] = [c for c in verification.criteria if c.name == "audit_complete"]
    return (
        verification.verdict,
        criterion.status,
        criterion.expected,
        criterion.actual,
        verification.critical,
    )


def test_the_chain_of_a_run_is_whole_and_tells_every_move_claim_and_batch(
    project: Project, timed: backfill.Backfill, over: backfill.Plan
) -> None:
    """An event per move, per batch granted and settled, in order, without a gap."""
    verdict, status, expected, actual, critical = audit_of(timed, over.run_id)
    events = project.rows("select seq, kind from public.backfill_events order by seq")
    assert (verdict, status, critical) == ("pass", "pass", ())
    assert expected == actual == len(events) == timed.status(over.run_id).audit_count
    kinds = [e["kind"] for e in events]
    assert kinds[:5] == ["awaiting_approval", "approved", "paused", "running", "batch_granted"]
    assert kinds[-4:] == ["completed", "undo_confirmed", "undo_settled", "undo_finished"]
    assert kinds.count("batch_granted") == kinds.count("batch_settled") == 9


def test_the_head_is_told_wherever_a_run_is_told(
    project: Project, timed: backfill.Backfill, over: backfill.Plan
) -> None:
    """Status, verify and the run's row name the same count and head."""
    status, verification = timed.status(over.run_id), timed.verify(over.run_id)
    told = {
        (status.audit_count, status.audit_head),
        (verification.audit_count, verification.audit_head),
    }
    row = project.rows("select audit_count, audit_head from public.backfill_runs")[0]
    assert told == {(row["audit_count"], row["audit_head"])}
    assert row["audit_head"] == project.value(
        "select hash from public.backfill_events order by seq desc limit 1"
    )


# An event that is well formed and follows on the newest.
FORGE = """
insert into public.backfill_events
select e.run_id, e.seq + 1, e.at, 'approved', 'user:x', '{}', e.hash,
  backfill_private.event_hash(e.hash, e.run_id, e.seq + 1, e.at, 'approved', 'user:x', '{}')
from public.backfill_events as e order by e.seq desc limit 1
"""
SWAP = """
update public.backfill_events set seq = -seq where seq in (6, 7);
update public.backfill_events set seq = 13 + seq where seq < 0
"""
TAMPERED = {
    "its details": (
        "update public.backfill_events set details = '{\"sessions\": 1}' where seq = 5"
    ),
    "who did it": "update public.backfill_events set actor = 'user:x' where seq = 2",
    "what was done": "update public.backfill_events set kind = 'running' where seq = 3",
    "when": "update public.backfill_events set at = at + interval '1 us' where seq = 3",
    "its hash": "update public.backfill_events set hash = repeat('0', 64) where seq = 4",
    "the hash before": (
        "update public.backfill_events set prev_hash = repeat('0', 64) where seq = 4"
    ),
    "an event gone": "delete from public.backfill_events where seq = 6",
    "an event gone and the count with it": (
        "delete from public.backfill_events where seq = 6;"
        "update public.backfill_runs set audit_count = audit_count - 1"
    ),
    "the first gone": "delete from public.backfill_events where seq = 1",
    "the newest gone": "delete from public.backfill_events where kind = 'undo_finished'",
    "the tail gone": "delete from public.backfill_events where seq > 10",
    "all gone": "delete from public.backfill_events",
    "two swapped": SWAP,
    "one more at the end": FORGE,
    "one more and one less": FORGE + "; delete from public.backfill_events where seq = 3",
    "one before the first": (
        "insert into public.backfill_events select run_id, 0, at, kind, actor, details, '', hash"
        " from public.backfill_events where seq = 1"
    ),
    "the count remembered": "update public.backfill_runs set audit_count = audit_count - 1",
    "the head remembered": "update public.backfill_runs set audit_head = repeat('0', 64)",
    "the tail gone and the count with it": (
        "delete from public.backfill_events where seq > 10;"
        "update public.backfill_runs set audit_count = 10"
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_a_superuser_does_to_the_chain_shows(
    project: Project, timed: backfill.Backfill, over: backfill.Plan, what: str
) -> None:
    """audit_complete fails, it is critical, and the verdict is fail."""
    project.admin.execute(TAMPERED[what].encode())
    verdict, status, expected, actual, critical = audit_of(timed, over.run_id)
    assert (verdict, status) == ("fail", "fail")
    assert expected != actual
    assert any("audit event" in c for c in critical)


# What no verb of ours writes. Each names what verify reads.
FORGED = [
    ("batch_settled", '{"ordinals": ["x"], "receipts": "x"}'),
    ("batch_settled", '{"ordinals": {"x": 1}, "receipts": "x"}'),
    ("batch_settled", '{"ordinals": [1e30, 1.5, -1, null, [1]], "receipts": "x"}'),
    ("batch_settled", '{"ordinals": [1], "newest_receipt": "x", "receipts": "x"}'),
    ("batch_settled", '{"ordinals": [1], "newest_receipt": 1e30, "receipts": "x"}'),
    ("batch_settled", '{"ordinals": [1], "failed": "x", "states": 1}'),
    ("batch_granted", '{"ordinals": "x", "claim": 1}'),
    ("undo_settled", '{"undo": "x", "after": 0, "until": 1}'),
    ("undo_settled", '{"undo": 1, "after": "x", "until": 1e30}'),
    ("critical", '{"sessions": "x"}'),
    ("critical", '{"sessions": [[1], "x", {}]}'),
    ("answered", '{"events": "x", "because": [1]}'),
    ("batch_settled", "[1]"),
    ("undo_settled", '"x"'),
    ("critical", "null"),
]


@pytest.mark.parametrize(("kind", "details"), FORGED)
def test_whatever_a_forged_event_holds_verify_says_that_it_is_forged(
    project: Project,
    timed: backfill.Backfill,
    over: backfill.Plan,
    tmp_path: Path,
    kind: str,
    details: str,
) -> None:
    """Its files and its page are written too."""
    project.admin.execute(
        "insert into public.backfill_events"
        " select run_id, seq + 1, at, %s, actor, %s::jsonb, hash, repeat('0', 64)"
        " from public.backfill_events order by seq desc limit 1",
        (kind, details),
    )
    verdict, status, _, _, critical = audit_of(timed, over.run_id)
    assert (verdict, status) == ("fail", "fail")
    assert any("audit event" in c for c in critical)
    assert timed.status(over.run_id).state == "completed"
    assert (timed.write_logs(over.run_id, tmp_path) / "summary.md").is_file()
    assert over.run_id in timed.page(over.run_id)


# What a running run remembers between its batches stands beside its row.
TAMPERED_BETWEEN = {
    "the tail gone": "delete from public.backfill_events where seq > 3",
    "the tail gone and what is remembered beside": (
        "delete from public.backfill_events where seq > 3; delete from backfill_private.tallies"
    ),
    "what is remembered beside gone": "delete from backfill_private.tallies",
    "the count remembered": ("update backfill_private.tallies set audit_count = audit_count + 1"),
    "the head remembered": "update backfill_private.tallies set audit_head = repeat('0', 64)",
}


@pytest.mark.parametrize("what", TAMPERED_BETWEEN)
def test_what_a_superuser_does_to_the_chain_of_a_running_run_shows(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """And is told while it still runs."""
    run_id = verbs.started(project.db)
    some = verbs.claim(project.db, run_id, claim_id := str(uuid4()))
    done = [verbs.score_all(project.db, run_id, grant) for grant in some["granted"]]
    verbs.settle(project.db, run_id, claim_id, done)
    told = bf.status(run_id)
    assert (told.state, told.audit_count) == (
        "running",
        project.value("select count(*) from public.backfill_events"),
    )
    assert audit_of(bf, run_id)[1] == "pass"
    project.admin.execute(TAMPERED_BETWEEN[what].encode())
    _, status, expected, actual, critical = audit_of(bf, run_id)
    assert status == "fail"
    assert expected != actual or "the head" in what
    assert any("audit event" in c for c in critical)


RECEIPTS = {
    "gone": "delete from public.backfill_receipts where receipt_id = {third}",
    "another hash": (
        "update public.backfill_receipts set after_hash = '\\x00' where receipt_id = {third}"
    ),
    "another key": "update public.backfill_receipts set row_key = '{}' where receipt_id = {third}",
    "another kind": "update public.backfill_receipts set kind = 'undo' where receipt_id = {third}",
    "moved to another session": (
        "update public.backfill_receipts set ordinal = 30 where receipt_id = {third}"
    ),
}


@pytest.mark.parametrize("what", RECEIPTS)
def test_what_a_superuser_does_to_the_receipts_shows(
    project: Project, timed: backfill.Backfill, over: backfill.Plan, what: str
) -> None:
    """Each batch's event holds a hash over its receipts, which verify computes again."""
    third = "(select min(receipt_id) + 2 from public.backfill_receipts)"
    project.admin.execute(RECEIPTS[what].replace("{third}", third).encode())
    verification = timed.verify(over.run_id)
    assert verification.verdict == "fail"
    assert any("receipts" in c for c in verification.critical)


ADD = """
insert into public.backfill_receipts (
  run_id, ordinal, session_id, component, kind, operation, table_name, row_key, shape, after_hash,
  attempt, at)
select
  r.run_id, {ordinal}, {session}, r.component, 'score', 'update', r.table_name, r.row_key, r.shape,
  r.after_hash, r.attempt, r.at
from public.backfill_receipts as r order by r.receipt_id limit 1
"""
LATER = {
    "of a session that is done": ("r.ordinal", "r.session_id"),
    "of a session that the plan does not have": ("9999", "'nobody'"),
}


@pytest.mark.parametrize("what", LATER)
def test_a_receipt_added_after_the_settling_is_told_with_its_session(
    project: Project, timed: backfill.Backfill, over: backfill.Plan, what: str
) -> None:
    """An undo would take it for a write of the run; no settled batch knows it."""
    ordinal, session = LATER[what]
    first = "select session_id from public.backfill_receipts order by receipt_id limit 1"
    named = "nobody" if ordinal == "9999" else project.value(first)
    project.admin.execute(ADD.format(ordinal=ordinal, session=session).encode())
    verification = timed.verify(over.run_id)
    told = f"{named}: it has a receipt that no settled batch tells of"
    assert (verification.verdict, verification.critical) == ("fail", (told,))


UNDONE = "(select min(receipt_id) from public.backfill_receipts where undone_at is not null)"
STANDING = "(select min(receipt_id) from public.backfill_receipts where undone_at is null)"
OF_THE_UNDO = "(select min(receipt_id) from public.backfill_receipts where kind = 'undo')"
ADD_UNDONE = """
insert into public.backfill_receipts (
  run_id, ordinal, session_id, component, kind, operation, table_name, row_key, shape, before_hash,
  attempt, at, undo_id)
select
  r.run_id, r.ordinal, r.session_id, r.component, 'undo', r.operation, r.table_name, r.row_key,
  r.shape, r.before_hash, r.attempt, r.at, {undo}
from public.backfill_receipts as r where r.receipt_id = {undone}
"""
BY_EVENT = "the receipts of this part of an undo are not those that it left"
BY_NAME = "an undo of it is noted that the chain does not tell of"
UNDOS = {
    "one of the undo gone": (
        "delete from public.backfill_receipts where receipt_id = {of_the_undo}", BY_EVENT,
    ),
    "one of the undo added": (ADD_UNDONE.replace("{undo}", "1"), BY_EVENT),
    "one of no undo added": (ADD_UNDONE.replace("{undo}", "null"), BY_NAME),
    "one of an undo that never was": (ADD_UNDONE.replace("{undo}", "99"), BY_NAME),
    "taken back at another time": (
        "update public.backfill_receipts set undone_at = undone_at + interval '1 us'"
        " where receipt_id = {undone}", BY_EVENT,
    ),
    "never taken back": (
        "update public.backfill_receipts set undone_at = null where receipt_id = {undone}",
        BY_EVENT,
    ),
    "taken back by nobody": (
        "update public.backfill_receipts set undone_at = now() where receipt_id = {standing}",
        BY_NAME,
    ),
    "taken back by the same": (
        "update public.backfill_receipts set undone_at = now(), undo_id = 1"
        " where receipt_id = {standing}", BY_EVENT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNDOS)
def test_what_a_superuser_does_to_an_undos_receipts_shows(
    project: Project, timed: backfill.Backfill, over: backfill.Plan, what: str
) -> None:
    """Each part of an undo tells a hash over what it took back and what it wrote."""
    statement, told = UNDOS[what]
    places = {"undone": UNDONE, "standing": STANDING, "of_the_undo": OF_THE_UNDO}
    session = project.value(
        f"select session_id from public.backfill_receipts where receipt_id = "
        f"{STANDING if 'by' in what else UNDONE}"
    )
    seq = project.value("select seq from public.backfill_events where kind = 'undo_settled'")
    project.admin.execute(statement.format(**places).encode())
    verification = timed.verify(over.run_id)
    who = session if told == BY_NAME else f"audit event {seq}"
    assert verification.verdict == "fail"
    assert f"{who}: {told}" in verification.critical


RECHAIN = """
do $$
declare
  v_event public.backfill_events;
  v_head text := '';
begin
  for v_event in select * from public.backfill_events order by seq loop
    update public.backfill_events
    set prev_hash = v_head, hash = backfill_private.event_hash(
      v_head, run_id, seq, at, kind, actor, details)
    where run_id = v_event.run_id and seq = v_event.seq
    returning hash into v_head;
  end loop;
  update public.backfill_runs set audit_head = v_head;
end
$$
"""


def test_a_chain_computed_anew_shows_against_a_head_kept_outside(
    project: Project, timed: backfill.Backfill, over: backfill.Plan
) -> None:
    """Who rewrites everything passes verify, and cannot rewrite what was printed and filed."""
    kept = timed.status(over.run_id)
    project.admin.execute(b"update public.backfill_events set actor = 'user:x' where seq = 2")
    project.admin.execute(RECHAIN.encode())
    assert audit_of(timed, over.run_id)[:2] == ("pass", "pass")
    now = timed.status(over.run_id)
    assert (now.audit_count, now.audit_head != kept.audit_head) == (kept.audit_count, True)


EVENTS = "/backfill_events?seq=gt.0"
WAYS: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "update": ("PATCH", EVENTS, {"actor": "x"}, {}),
    "delete": ("DELETE", EVENTS, None, {}),
    "insert": ("POST", "/backfill_events", {"seq": 99, "kind": "approved"}, {}),
    "upsert": (
        "POST",
        "/backfill_events?on_conflict=run_id,seq",
        {"seq": 1, "kind": "approved"},
        {"Prefer": "resolution=merge-duplicates"},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_api_role_writes_events(project: Project, over: backfill.Plan, way: str) -> None:
    """Not anon, not a user of any role, not the service key."""
    roles = {role: Outsider(project, project.user(role)) for role in ("operator", "approver", None)}
    callers = {
        **roles,
        "anon": Outsider(project, project.keys.anon),
        "service": Outsider(project),
    }
    before = project.rows("select * from public.backfill_events order by seq")
    answers = {who: code_of(api.send(*WAYS[way])) for who, api in callers.items()}
    assert answers == dict.fromkeys(callers, "42501")
    assert project.rows("select * from public.backfill_events order by seq") == before


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "postgres"])
@pytest.mark.parametrize(
    "table", ["backfill_events", "backfill_receipts", "backfill_runs", "backfill_approvals"]
)
def test_nobody_truncates_what_the_audit_stands_on(
    project_db: psycopg.Connection[Any], role: str, table: str
) -> None:
    """The API roles lack the right; the owner is refused by a trigger."""
    project_db.execute(f"set role {role}".encode())
    with pytest.raises(psycopg.Error) as refused:
        project_db.execute(f"truncate public.{table} cascade".encode())
    assert refused.value.sqlstate == ("OB007" if role == "postgres" else "42501")


PLANS = {
    "a figure": (
        "update public.backfill_runs set plan = jsonb_set(plan, '{candidates,total}', '7')",
        "the plan: the figures or marks of this plan are not those that were approved",
    ),
    "a mark": (
        "update public.backfill_runs set plan = jsonb_set(plan, '{checks,0,detail}', '\"fine\"')",
        "the plan: the figures or marks of this plan are not those that were approved",
    ),
    "a date": (
        "update public.backfill_items set session_at = session_at + '1 day' where ordinal = 9",
        "the plan: its sessions or their dates are not those that were approved",
    ),
    "who approved": (
        "update public.backfill_approvals set approver = 'Grace'",
        "audit event 2: the decision that it tells is not the one in backfill_approvals",
    ),
    "the approval and its hash": (
        "update public.backfill_runs set plan = '{}';"
        "update public.backfill_approvals set figures_hash = backfill_private.figures_hash('{}')",
        "audit event 2: the decision that it tells is not the one in backfill_approvals",
    ),
    "the approval gone": (
        "delete from public.backfill_approvals",
        "audit event 2: the decision that it tells is not the one in backfill_approvals",
    ),
}


@once
def approved(project: Project, timed: backfill.Backfill) -> backfill.Plan:
    """The seed's plan."""
    plan = timed.plan(**SEED)
    project.approve(plan)
    return plan


@pytest.mark.parametrize("what", PLANS)
def test_what_a_superuser_does_to_an_approved_plan_shows(
    project: Project, timed: backfill.Backfill, what: str
) -> None:
    """The approval keeps hashes of the plan, which verify computes again; so does the chain."""
    plan = approved(project, timed)
    statements, told = PLANS[what]
    # Before anything is scored nothing else is critical.
    assert timed.verify(plan.run_id).critical == ()
    project.admin.execute(f"set session_replication_role = replica; {statements}".encode())
    verification = timed.verify(plan.run_id)
    assert (verification.verdict, verification.critical) == ("fail", (told,))
    unlike = timed.get(plan.run_id).unlike_approved
    assert (unlike is None) == ("figures or marks" not in told)


def test_figures_that_changed_before_the_approval_are_not_approved(
    project: Project, timed: backfill.Backfill
) -> None:
    """The chain has their hash from the sealing, and what the approver reads is held against it."""
    plan = timed.plan(**SEED)
    project.admin.execute(f"set session_replication_role = replica; {PLANS['a mark'][0]}".encode())
    with pytest.raises(backfill.PlanChanged, match="not those that were measured"):
        timed.approve(plan.run_id, digest=plan.digest)


def test_show_says_that_a_plan_is_not_the_one_that_was_approved(
    project: Project, timed: backfill.Backfill
) -> None:
    """In a sentence beside the approver's name, and in the JSON."""
    plan = timed.plan(**SEED)
    project.approve(plan)
    assert "Do not trust" not in timed.get(plan.run_id).markdown()
    statements, _ = PLANS["a figure"]
    project.admin.execute(f"set session_replication_role = replica; {statements}".encode())
    shown = timed.get(plan.run_id)
    told = "the figures or marks of this plan are not those that were approved"
    assert f"**Do not trust this page**: {told}." in shown.markdown()
    assert shown.as_dict()["unlike_approved"] == told
