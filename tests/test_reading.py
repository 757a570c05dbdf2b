"""Rows and answers become results; one of another form is one error that says where it differs."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import backfill
from backfill.api import answers, rows
from backfill.api.answers import Shape
from backfill.results.sessions import PlannedSessions

SECRET = "row-contents-secret"
AT = "2025-08-01T10:00:00.5+00:00"
MOMENT = datetime(2025, 8, 1, 10, 0, 0, 500_000, tzinfo=UTC)
RUN: dict[str, Any] = {
    "run_id": "4f2c", "state": "approved", "reason": None, "environment": "staging",
    "created_at": AT, "request": {"since": "2025-08-01"}, "digest": "9c1e", "project_host": "h",
    "plan": {"oldest": AT, "checks": [{"name": "mode", "status": "ok", "detail": "direct"}]},
    "approved_by": "me", "approved_via": "postgres", "approved_at": AT, "approved_until": AT,
    "started_at": None,
}  # fmt: skip
PROGRESS: dict[str, Any] = {
    "run_id": "4f2c", "state": "running", "reason": None, "environment": None, "total": 3,
    "pending": 1, "leased": 0, "done": 2, "failed": 0, "skipped": 0, "rolled_back": 0,
    "rate_per_minute": 1.5, "eta_s": 30, "waits_for": None, "approved_by": None,
    "approved_until": AT, "created_at": AT, "audit_count": 4, "audit_head": "h",
}  # fmt: skip
PACKED = [1, "s", AT, "profile", ["profile"], "recent", 1, "done", 1, None, None, None, AT, None]
SESSIONS = PlannedSessions()


def plan(row: Any) -> object:
    return rows.plan_of(row, SESSIONS)


def sessions(page: Any) -> object:
    return list(rows.sessions_of(page))


OTHERS: list[tuple[Callable[[Any], object], Any, str]] = [
    (plan, {}, "Plan"),
    (plan, {**RUN, "state": None}, "Plan.state: Input should be "),
    (plan, {**RUN, "created_at": "today"}, "Plan.created_at: "),
    (plan, {**RUN, "approved_until": None}, "Approval"),
    (plan, {**RUN, "plan": {"checks": [{"name": "n"}]}}, "Check.status: Field required"),
    (sessions, [PACKED[:-1]], "PlannedSession"),
    (sessions, [[1, "s", 5, *PACKED[3:]]], "PlannedSession"),
    (rows.status_of, {}, "Status.run_id: Field required"),
    (rows.status_of, PROGRESS | {"pending": None}, "Status.counts.pending: "),
    (rows.status_of, PROGRESS | {"audit_count": SECRET}, "Status.audit_count: "),
    (rows.status_of, PROGRESS | {"approved_until": 5}, "Status"),
    (rows.summary_of, [], "RunSummary"),
    (rows.failure_of, {"session_id": [SECRET]}, "FailedSession.session_id: "),
    (rows.check_of, SECRET, "Check"),
    (rows.check_of, {"name": "n", "status": "good", "detail": ""}, "Check.status: "),
    (rows.freshness_of, {"filled": SECRET}, "Freshness.run_id: Field required"),
    (rows.undo_of, {"run_id": "r", "digest": "d", "deletes": []}, "UndoEffect.deletes: "),
    (rows.missing_of, {}, "Missing"),
    (rows.missing_of, {"components": ["a"], "days": [{"missing_a": 1}]}, "DayCoverage.day: "),
]


@pytest.mark.parametrize(("read", "answer", "where"), OTHERS)
def test_an_answer_of_another_form_is_one_error(
    read: Callable[[Any], object], answer: Any, where: str
) -> None:
    """It says where the difference is and what to do, and nothing of what was answered."""
    with pytest.raises(backfill.NotInstalled) as refused:
        read(answer)
    assert refused.value.message.startswith(
        f"the project's answer is not of the form that this version reads ({where}"
    )
    assert refused.value.next_step
    assert SECRET not in "".join(traceback.format_exception(refused.value))


ODD: tuple[Any, ...] = ("", "text", "{", None, [], {}, [None], {"x": 1}, 5.5)
EMPTY: tuple[Any, ...] = ([],)  # what a list may be
SHAPES: dict[str, tuple[Shape[Any], tuple[Any, ...]]] = {
    name: (shape, EMPTY if name in ("NAMES", "LISTS", "ROWS") else ())
    for name, shape in vars(answers).items()
    if isinstance(shape, Shape)
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_what_none_of_our_functions_answers_is_odd(name: str) -> None:
    """And is said in words that hold nothing of it."""
    shape, usual = SHAPES[name]
    if name == "FRESHNESS":  # null is that of a run that is over, and any object may be one
        usual = (None, {}, {"x": 1})
    for odd in ODD:
        if odd in usual:
            assert shape.read(odd) == odd
            continue
        with pytest.raises(answers.OddAnswer) as said:
            shape.read(odd)
        assert "text" not in str(said.value).replace("a text", "")


def test_an_answer_with_some_of_our_fields_is_of_another_version() -> None:
    """Nobody on the way makes these up, so asking again is of no use."""
    with pytest.raises(backfill.NotInstalled, match=r"\(Claim.granted: Field required"):
        answers.CLAIM.read({"state": "running"})


def test_a_verification_of_another_form_is_the_same_error() -> None:
    """Its parts come from elsewhere."""
    with pytest.raises(backfill.NotInstalled, match="Verification"):
        rows.verification_of({"run_id": "r"}, [], {}, {})


def test_what_this_version_does_not_know_is_left_out() -> None:
    """A newer database may say more."""
    assert rows.status_of(PROGRESS | {"new": 1}) == rows.status_of(PROGRESS)


def test_what_is_read_is_what_was_answered() -> None:
    """Moments in a zone that any process knows; a whole number of seconds stays one."""
    status, read = rows.status_of(PROGRESS), rows.plan_of(RUN, SESSIONS)
    assert status.approved_until == MOMENT
    assert read.approval == backfill.Approval("me", "postgres", MOMENT, MOMENT)
    assert read.created_at is not None
    assert read.created_at.tzinfo is UTC
    assert repr(status.eta_s) == "30"
    assert pickle.loads(pickle.dumps((status, read))) == (status, read)  # noqa: S301
    assert read.checks == (backfill.Check("mode", "ok", "direct"),)
    assert "checks" not in read.figures
    assert "checks" in RUN["plan"]


def test_an_empty_plan_has_no_run() -> None:
    """The database says what was asked for, and what it looked at."""
    answer: dict[str, Any] = {
        "state": "empty",
        "environment": None,
        "request": {},
        "plan": {"checks": []},
    }
    read = rows.empty_plan_of(answer)
    assert (read.run_id, read.digest, read.created_at, read.approval) == ("", "", None, None)
    assert read.is_empty


def test_the_sessions_of_a_plan_are_not_copied() -> None:
    """There may be a quarter of a million."""
    assert rows.plan_of(RUN, SESSIONS).sessions is SESSIONS
    (one,) = rows.sessions_of([PACKED])
    assert (one.session_at, one.started_at, one.settled_at) == (MOMENT, MOMENT, None)
