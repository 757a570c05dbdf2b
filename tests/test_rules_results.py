"""What is counted, and how the command line ends by it, as tables. Pure: no project, no clock.

`python -m tests.mutants` changes these rules one operator at a time, and these must notice.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from backfill.cli import exit_codes
from backfill.cli.exit_codes import ExitCode
from backfill.errors import BackfillError, OutcomeUnknown, Paused, UnknownRun
from backfill.results.check import Check, MarkStatus
from backfill.results.coverage import DayCoverage, Missing, all_missing_name
from backfill.results.heal import Healed
from backfill.results.run import ITEM_STATES, FailedSession, Outcome, RunState, Status
from backfill.results.target import FileFault, TargetCheck
from backfill.results.undo import UndoEffect
from backfill.results.verification import CHUNK_SESSIONS, Bucket, Verdict, Verification, packed
from backfill.results.watch import TargetWatch, Watch, WatchState

MIDNIGHT = datetime(2025, 8, 1, tzinfo=UTC)


def day(**given: Any) -> DayCoverage:
    """A day on which nothing happened, but for what is given."""
    nothing = {"completed": 0, "complete": 0, "missing_all": 0, "excluded": 0}
    return DayCoverage(**{"day": "2025-08-01", "missing": {}, "coverage": None, **nothing, **given})


TWO_DAYS = Missing(
    (
        day(completed=10, complete=5, excluded=2, missing={"a": 3, "b": 1}, missing_all=1),
        day(completed=4, complete=3, excluded=1, missing={"a": 0, "b": 2}, missing_all=4),
    ),
    ("a", "b"),
)


def test_the_days_of_a_coverage_add_up() -> None:
    told = TWO_DAYS.as_dict()
    days = told.pop("days")
    assert told == {
        "called": ["session", "sessions"],
        "coverage": 0.7273,
        "completed": 14,
        "missing_a": 3,
        "missing_b": 3,
        "missing_both": 5,
        "not_wanted": [],
        "excluded": 3,
        "undated": 0,
        "notes": [],
    }
    assert (TWO_DAYS.scorable, TWO_DAYS.coverage) == (11, 8 / 11)
    assert days[0] == {
        "day": "2025-08-01",
        "completed": 10,
        "complete": 5,
        "missing_a": 3,
        "missing_b": 1,
        "missing_both": 1,
        "excluded": 2,
        "coverage": None,
    }


def test_what_cannot_be_scored_has_no_coverage() -> None:
    """Neither without a day nor where each session is excluded."""
    for days in ((), (day(completed=2, excluded=2),)):
        assert Missing(days).coverage is None
        assert Missing(days).as_dict()["coverage"] is None
    assert Missing((day(completed=1),)).coverage == 0


@pytest.mark.parametrize(
    ("components", "name"), [(1, "missing_all"), (2, "missing_both"), (3, "missing_all")]
)
def test_those_that_lack_every_component_have_a_name(components: int, name: str) -> None:
    assert all_missing_name(components) == name


# -- the buckets of a verification

IDS = [f"s{n}" for n in range(CHUNK_SESSIONS + 2)]


def test_a_bucket_gives_back_each_row() -> None:
    """Over the edge of a piece, of a component, and from the end."""
    assert [piece.count("\0") + 1 for piece in packed(IDS)] == [CHUNK_SESSIONS, 2]
    bucket = Bucket({"a": packed(IDS), "b": packed(["x"])})
    rows = [{"session_id": s, "component": "a"} for s in IDS]
    rows.append({"session_id": "x", "component": "b"})
    assert (len(bucket), list(bucket), bucket[:]) == (len(rows), rows, rows)
    for place in (0, 1, CHUNK_SESSIONS - 1, CHUNK_SESSIONS, len(IDS), -1, -len(rows)):
        assert bucket[place] == rows[place]
    for place in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError) as beyond:
            bucket[place]
        assert beyond.value.args == (place,)
    assert (packed([]), len(Bucket({})), list(Bucket({}))) == ([], 0, [])


def test_a_bucket_is_equal_to_the_rows_that_it_holds() -> None:
    row = {"session_id": "x", "component": "a"}
    bucket = Bucket({"a": ["x"]})
    assert bucket == [row]
    assert bucket != [{**row, "component": "b"}]
    assert bucket != [row, row]
    assert bucket != {"x"}
    assert repr(bucket) == "Bucket of 1"


MIDNIGHT = datetime(2025, 8, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownRun, ExitCode.USAGE),
        (Paused, ExitCode.REFUSED),
        (OutcomeUnknown, ExitCode.UNREACHABLE),
        (BackfillError, ExitCode.FAILED),
    ],
)
def test_an_error_ends_as_its_kind_does(error: type[BackfillError], code: ExitCode) -> None:
    assert exit_codes.of_error(error) is code


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([], ExitCode.DONE),
        ([("migrations", "ok"), ("key", "warn")], ExitCode.DONE),
        ([("migrations", "warn")], ExitCode.DONE),
        ([("key", "fail"), ("migrations", "ok")], ExitCode.DIFFERENCE),
        ([("key", "fail"), ("migrations", "fail")], ExitCode.UNREACHABLE),
    ],
)
def test_check_ends(checks: list[tuple[str, MarkStatus]], code: ExitCode) -> None:
    assert exit_codes.of_check([Check(name, status, "") for name, status in checks]) is code


@pytest.mark.parametrize(
    ("statuses", "is_strict", "code"),
    [
        (("ok", "warn"), True, ExitCode.DONE),
        (("ok", "fail"), True, ExitCode.DIFFERENCE),
        (("ok", "fail"), False, ExitCode.DONE),
    ],
)
def test_plan_ends(statuses: tuple[MarkStatus, ...], is_strict: bool, code: ExitCode) -> None:
    checks = [Check(f"mark {status}", status, "") for status in statuses]
    assert exit_codes.of_plan(checks, is_strict=is_strict) is code


def test_a_check_of_a_file_ends() -> None:
    fault = FileFault(3, "table", "there is no such table")
    assert exit_codes.of_target_check(TargetCheck("t", (), (fault,))) is ExitCode.DONE
    assert exit_codes.of_target_check(TargetCheck("t", (fault,))) is ExitCode.DIFFERENCE


def test_a_signal_ends_as_shells_have_it() -> None:
    assert exit_codes.of_signal(15) == 143


@pytest.mark.parametrize(
    ("complete", "completed", "least", "code"),
    [
        (9, 10, None, ExitCode.DONE),
        (9, 10, 0.9, ExitCode.DONE),
        (9, 10, 0.95, ExitCode.DIFFERENCE),
        (0, 0, 0.95, ExitCode.DONE),
        (0, 10, 0.0, ExitCode.DONE),
        (0, 10, None, ExitCode.DONE),
    ],
)
def test_missing_ends(complete: int, completed: int, least: float | None, code: ExitCode) -> None:
    found = Missing((day(complete=complete, completed=completed),))
    assert exit_codes.of_missing(found, least) is code


@pytest.mark.parametrize(("least", "code"), [(0.9, ExitCode.DIFFERENCE), (None, ExitCode.DONE)])
def test_missing_ends_where_no_row_has_a_value(least: float | None, code: ExitCode) -> None:
    """It selects nothing, and a gate would be green for ever."""
    found = Missing((), notes=("none of the 3 rows of orders has status Paid",))
    assert exit_codes.of_missing(found, least) is code
    assert exit_codes.of_missing(Missing(()), least) is ExitCode.DONE


FAILURE = FailedSession("s1", "profiles", "P0001", "no words")


@pytest.mark.parametrize(
    ("state", "failures", "code"),
    [
        ("completed", (), ExitCode.DONE),
        ("completed", (FAILURE,), ExitCode.FAILED),
        ("running", (), ExitCode.FAILED),
    ],
)
def test_apply_ends(state: RunState, failures: tuple[FailedSession, ...], code: ExitCode) -> None:
    status = Status("r", state, None, dict.fromkeys(ITEM_STATES, 0), 0.0, None, 0, "", None)
    assert exit_codes.of_apply(Outcome(status, failures)) is code


@pytest.mark.parametrize(
    ("state", "verdict", "code"),
    [
        ("empty", None, ExitCode.DONE),
        ("completed", "pass", ExitCode.DONE),
        ("completed", "partial", ExitCode.FAILED),
        ("completed", "fail", ExitCode.DIFFERENCE),
        ("awaiting_approval", None, ExitCode.REFUSED),
        ("paused", None, ExitCode.REFUSED),
    ],
)
def test_heal_ends(state: str, verdict: Verdict | None, code: ExitCode) -> None:
    assert exit_codes.of_heal(Healed("t", state, verdict=verdict)) is code


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((), ExitCode.DONE),
        (("ok", "unknown"), ExitCode.DONE),
        (("ok", "breached"), ExitCode.DIFFERENCE),
    ],
)
def test_watch_ends(states: tuple[WatchState, ...], code: ExitCode) -> None:
    found = Watch(tuple(TargetWatch("t", state, *[None] * 5) for state in states))
    assert exit_codes.of_watch(found) is code


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        ("pass", ExitCode.DONE),
        ("partial", ExitCode.DIFFERENCE),
        ("fail", ExitCode.DIFFERENCE),
    ],
)
def test_verify_ends(verdict: Verdict, code: ExitCode) -> None:
    seen = Verification("r", "completed", verdict, (), {}, (), 0, "")
    assert exit_codes.of_verify(seen) is code


@pytest.mark.parametrize(
    ("conflicts", "is_confirmed", "code"),
    [
        ((), False, ExitCode.DONE),
        ((), True, ExitCode.DONE),
        (({"row": 1},), False, ExitCode.DONE),
        (({"row": 1},), True, ExitCode.DIFFERENCE),
    ],
)
def test_rollback_ends(conflicts: Any, is_confirmed: bool, code: ExitCode) -> None:
    effect = UndoEffect("r", "d", {}, {}, conflicts, 1)
    assert exit_codes.of_rollback(effect, is_confirmed=is_confirmed) is code
