"""The rules that decide, as tables: what goes in, what comes out. Pure: no project, no clock.

`python -m tests.mutants` changes these rules one operator at a time, and these tests must notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from backfill.api import retries
from backfill.api.faults import Fault, fault_of_api, fault_of_edge, fault_of_transport, said_in
from backfill.api.retries import BRIEF, Patience
from backfill.cli import exit_codes, progress
from backfill.cli.exit_codes import ExitCode
from backfill.errors import BackfillError, BadRequest, OutcomeUnknown, Paused, UnknownRun
from backfill.render.page import charts, figures
from backfill.request import as_text, checked_ids, checked_number
from backfill.results.check import Check, MarkStatus
from backfill.results.coverage import DayCoverage, Missing, all_missing_name
from backfill.results.plan import Plan
from backfill.results.run import ITEM_STATES, FailedSession, Outcome, Status
from backfill.results.sessions import PlannedSession, PlannedSessions
from backfill.results.undo import UndoEffect
from backfill.results.verification import CHUNK_SESSIONS, Bucket, Verdict, Verification, packed
from backfill.run import bulk, undo

MIDNIGHT = datetime(2025, 8, 1, tzinfo=UTC)

# -- faults


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("40001", 500, "again"),
        ("40P01", 500, "again"),
        ("55P03", 500, "again"),
        ("OB011", 400, "refused"),
        ("OB012", 400, "refused"),
        ("OB018", 400, "session"),
        ("08006", 503, "unknown"),
        ("53300", 503, "unknown"),
        ("57P01", 503, "unknown"),
        ("57014", 500, "session"),
        ("P0001", 400, "session"),
        ("23505", 409, "session"),
        ("XX000", 500, "session"),
        ("25006", 405, "stop"),
        ("42501", 403, "stop"),
        ("42883", 404, "stop"),
        ("42P01", 404, "stop"),
        ("42703", 400, "session"),
        ("PGRST000", 503, "unknown"),
        ("PGRST003", 504, "unknown"),
        ("PGRST102", 400, "session"),
        ("PGRST106", 406, "stop"),
        ("PGRST202", 404, "stop"),
        ("PGRST301", 401, "stop"),
        ("40001", 429, "slow"),
        ("PGRST102", 429, "slow"),
        ("P0001", 301, "stop"),
        ("PGRST102", 300, "stop"),
        ("PGRST102", 399, "stop"),
        (None, 299, "unknown"),
        ("PGRST102", 299, "session"),
        ("PGRST102", 502, "unknown"),
        ("PGRST102", None, "unknown"),
        ("P0001", 502, "session"),
        ("P0001", None, "session"),
        (None, 401, "stop"),
        (None, 403, "stop"),
        (None, 404, "stop"),
        (None, 429, "slow"),
        ("PT429", 429, "slow"),
        (None, 408, "unknown"),
        (None, 502, "unknown"),
        (None, 540, "stop"),
        (None, 400, "unknown"),
        ("", 400, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_an_error_of_the_api_is_of_a_kind(code: str | None, status: int | None, kind: str) -> None:
    assert fault_of_api(code, "it failed", status).kind == kind


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("P0001", 500, "session"),
        ("40001", 500, "again"),
        ("PGRST000", 500, "unknown"),
        ("08006", 500, "unknown"),
        (None, 500, "session"),
        ("boom", 500, "session"),
        (None, 502, "unknown"),
        (None, 503, "unknown"),
        (None, 504, "unknown"),
        (None, 546, "unknown"),
        (None, 408, "unknown"),
        (None, 400, "session"),
        (None, 404, "stop"),
        ("PGRST202", 404, "stop"),
        ("42P01", 404, "stop"),
        ("NOT_FOUND", 404, "stop"),
        ("NOT_FOUND", 400, "session"),
        ("no_text", 404, "session"),
        ("not_agreed", 403, "session"),
        ("UNAUTHORIZED_INVALID_JWT_FORMAT", 401, "stop"),
        ("P0001", 401, "session"),
        ("rate_limit_exceeded", 429, "slow"),
        ("", 400, "unknown"),
        ("", 429, "slow"),
        ("", 404, "unknown"),
        (7, 400, "session"),
        (None, 401, "stop"),
        (None, 429, "slow"),
        ("429", 400, "session"),  # a code of the function's own, which only looks like a status
        ("3", 400, "session"),
    ],
)
def test_an_error_of_an_edge_function_is_of_a_kind(code: object, status: int, kind: str) -> None:
    assert fault_of_edge({"code": code, "message": "it failed"}, status).kind == kind


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"code": "no_text", "message": "none here"}, ("no_text", "none here")),
        ({"error": {"code": "no_text", "message": "none here"}}, ("no_text", "none here")),
        ({"error": {"message": "none here"}, "code": "no_text"}, ("no_text", "none here")),
        ({"code": "outer", "error": {"code": "inner", "message": "m"}}, ("outer", "m")),
        ({"error": "none here"}, (None, "none here")),
        ({"error": "Bad Request", "message": "none here"}, (None, "none here")),
        ({"message": "none here", "statusCode": 404}, (None, "none here")),
        ({"msg": "none here"}, (None, "none here")),
        ({"detail": "none here"}, (None, "none here")),
        ({"errors": [{"code": "no_text", "message": "none here"}]}, ("no_text", "none here")),
        ({"errors": ["none here"]}, (None, "none here")),
        ({"errors": []}, (None, None)),
        ([{"message": "none here"}], (None, "none here")),
        ({"error": {}}, (None, None)),
        ({"error": True, "code": 7}, (None, None)),
        ("none\n  here ", (None, "none here")),
        (" ", (None, None)),
        ("<html><head><TITLE>None &amp; here</TITLE></head>a row</html>", (None, "None & here")),
        ("<!doctype html><p>a row</p>", (None, None)),
        (None, (None, None)),
        (7, (None, None)),
    ],
)
def test_an_error_is_read_in_every_form_that_functions_answer_in(
    body: object, said: tuple[str | None, str | None]
) -> None:
    assert said_in(body) == said


HELD = "it may hold contents"


@pytest.mark.parametrize(
    ("read", "given", "code", "message"),
    [
        (fault_of_api, ("P0001", "no words", 400), "P0001", "no words"),
        (fault_of_api, ("P0001", "m" * 600, 400), "P0001", "m" * 500),
        (fault_of_api, ("P0001", None, 400), "P0001", "no message"),
        (fault_of_api, ("P0001", "", 400), "P0001", "no message"),
        (fault_of_api, (None, None, 502), "502", "no message"),
        (fault_of_api, (None, None, None), "no code", "no message"),
        (fault_of_api, ("c" * 30, "m", 400), "c" * 20, "m"),
        (fault_of_api, ("P0001", "a\0b\ud800", 400), "P0001", "a\N{REPLACEMENT CHARACTER}b?"),
        (fault_of_api, ("P\x001", "m", 400), "P\N{REPLACEMENT CHARACTER}1", "m"),
        (
            fault_of_api,
            ("42501", "permission denied for t", 403),
            "42501",
            "permission denied for t",
        ),
        (fault_of_api, ("22222x", "m", 400), "22222x", "m"),
        (fault_of_edge, ({"message": "said"}, 400), "400", "said"),
        (fault_of_edge, ({}, 400), "400", "HTTP 400"),
        (fault_of_edge, ({"code": "", "message": ""}, 400), "400", "HTTP 400"),
        (fault_of_edge, ({"code": 7, "message": 8}, 400), "400", "HTTP 400"),
        (
            fault_of_edge,
            ({"code": "c" * 30, "message": "m\0"}, 400),
            "c" * 20,
            "m\N{REPLACEMENT CHARACTER}",
        ),
        (
            fault_of_edge,
            ({"code": "c\0", "message": "m"}, 400),
            "c\N{REPLACEMENT CHARACTER}",
            "m",
        ),
        (fault_of_transport, ("n" * 600,), "transport", "n" * 500),
    ],
)
def test_a_fault_has_its_code_and_a_message_cut_short(
    read: Callable[..., Fault], given: tuple[Any, ...], code: str, message: str
) -> None:
    fault = read(*given)
    assert (fault.code, fault.message) == (code, message)


def test_a_message_that_may_hold_contents_is_withheld() -> None:
    body = {"error": {"code": "22P02", "message": "the row"}}
    for fault in (fault_of_api("22P02", "the row", 400), fault_of_edge(body, 500)):
        assert fault.message.startswith("data exception; ")
        assert fault.message.endswith(HELD)


def test_a_fault_keeps_what_the_api_asked_to_wait() -> None:
    assert fault_of_api(None, None, 429, 7.0).retry_after_s == 7.0
    assert fault_of_edge(None, 429, 7.0).retry_after_s == 7.0
    assert fault_of_transport("ReadTimeout") == Fault("unknown", "transport", "ReadTimeout")


# -- patience


@pytest.mark.parametrize(
    ("retry_after_s", "again"),
    [(None, True), (0.0, True), (0.5, 0.5), (30.0, 30.0), (30.5, False)],
)
def test_what_the_api_asks_to_wait_is_waited_if_it_is_not_too_long(
    retry_after_s: float | None, again: bool | float
) -> None:
    found = retries.asked_wait(retry_after_s, BRIEF)
    assert (found, type(found)) == (again, type(again))


def busy_for(seconds: float) -> OutcomeUnknown:
    """What an API says that asks to wait so long."""
    busy = OutcomeUnknown("busy")
    busy.retry_after_s = seconds
    return busy


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("raised", "is_hopeless", "gives_up", "tries"),
    [
        ([], False, False, 1),
        ([OutcomeUnknown("lost"), OutcomeUnknown("lost")], False, False, 3),
        ([OutcomeUnknown("lost")], True, False, 1),
        ([OutcomeUnknown("lost")], False, True, 1),
        ([UnknownRun("no")], False, False, 1),
        ([OutcomeUnknown("lost"), UnknownRun("no")], False, False, 2),
        ([OutcomeUnknown("lost")] * 11, False, False, 12),
        ([busy_for(6.0)], False, False, 1),
    ],
)
async def test_a_call_is_made_again_while_no_answer_comes(
    raised: Sequence[BackfillError], is_hopeless: bool, gives_up: bool, tries: int
) -> None:
    waits: list[tuple[BackfillError, float]] = []
    seen = []

    async def ask() -> str:
        seen.append("asked")
        if len(seen) <= len(raised):
            raise raised[len(seen) - 1]
        return "answer"

    patient = Patience(5.0, 0.01, lambda *told: waits.append(told), lambda: gives_up)
    if tries > len(raised):
        assert await retries.ask_patiently(ask, patient, lambda: is_hopeless) == "answer"
    else:
        with pytest.raises(type(raised[-1])):
            await retries.ask_patiently(ask, patient, lambda: is_hopeless)
    assert len(seen) == tries
    assert [error for error, _ in waits] == list(raised[: tries - 1])
    assert all(0 < wait_s <= 0.01 for _, wait_s in waits)


@pytest.mark.anyio
async def test_patience_ends() -> None:
    """With the newest of what was raised."""
    tried: list[OutcomeUnknown] = []

    async def ask() -> None:
        tried.append(OutcomeUnknown(f"lost {len(tried)}"))
        raise tried[-1]

    began = time.monotonic()
    with pytest.raises(OutcomeUnknown) as ended:
        await retries.ask_patiently(ask, Patience(0.2, 0.02), lambda: False)
    assert ended.value is tried[-1]
    assert len(tried) > 1
    assert time.monotonic() - began < 10


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# -- the size of a call


@pytest.mark.parametrize(
    ("asked", "held", "took_ms", "following"),
    [
        (10, 10, 100.0, 14),
        (10, 10, 1538.0, 14),
        (10, 10, 2000 / 1.3, 10),
        (10, 10, 1539.0, 10),
        (10, 9, 100.0, 10),
        (400, 400, 100.0, 500),
        (500, 500, 100.0, 500),
        (1, 1, 0.0, 2),
    ],
)
def test_a_call_in_bulk_grows_while_it_is_full_and_quick(
    asked: int, held: int, took_ms: float, following: int
) -> None:
    assert bulk.next_sessions(asked, held=held, took_ms=took_ms) == following


@pytest.mark.parametrize(
    ("sessions", "took_s", "most", "following"),
    [
        (200, 2.0, 10_000, 200),
        (200, 1.0, 10_000, 400),
        (200, 0.1, 10_000, 400),
        (200, 0.0, 10_000, 400),
        (1, 0.0005, 10_000, 2),
        (200, 4.0, 10_000, 100),
        (3, 4.0, 10_000, 1),
        (1, 60.0, 10_000, 1),
        (200, 1.0, 300, 300),
        (1, 0.1, 1, 1),
    ],
)
def test_a_piece_of_an_undo_takes_about_two_seconds(
    sessions: int, took_s: float, most: int, following: int
) -> None:
    assert undo.next_piece(sessions, took_s=took_s, most=most) == following


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"checked": 3, "to_check": 9, "sessions_total": 9, "remaining": 9}, (3, 9)),
        ({"checked": 0, "to_check": 0, "sessions_total": 9, "remaining": 9}, (0, 0)),
        ({"checked": None, "to_check": None, "sessions_total": 9, "remaining": 4}, (5, 9)),
    ],
)
def test_how_far_an_undo_is(answer: dict[str, Any], told: tuple[int, int]) -> None:
    assert undo._how_far(answer) == told


@pytest.mark.parametrize(
    ("asked", "scope"),
    [
        ((None, None, None), {}),
        (([], None, None), {}),
        (("a", None, None), {"sessions": ["a"]}),
        ((["a"], "2025-08-01", None), {"sessions": ["a"], "since": "2025-08-01"}),
        ((None, None, date(2025, 8, 1)), {"until": "2025-08-01"}),
    ],
)
def test_the_scope_of_an_undo_holds_what_was_given(asked: Any, scope: dict[str, Any]) -> None:
    assert undo.undo_scope(*asked) == scope


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ((4, None, None), "sessions is a list of ids, not of the int '4'"),
        ((None, 4, None), "since is a date, not the int '4'"),
        ((None, None, 4), "until is a date, not the int '4'"),
    ],
)
def test_a_scope_that_cannot_be_meant_is_refused(asked: Any, sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        undo.undo_scope(*asked)
    assert refused.value.message == sentence


# -- how the command line ends


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


FAILURE = FailedSession("s1", "profiles", "P0001", "no words")


@pytest.mark.parametrize(
    ("state", "failures", "code"),
    [
        ("completed", (), ExitCode.DONE),
        ("completed", (FAILURE,), ExitCode.FAILED),
        ("running", (), ExitCode.FAILED),
    ],
)
def test_apply_ends(state: str, failures: tuple[FailedSession, ...], code: ExitCode) -> None:
    status = Status("r", state, None, dict.fromkeys(ITEM_STATES, 0), 0.0, None, 0, "", None)
    assert exit_codes.of_apply(Outcome(status, failures)) is code


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


# -- what a caller asks for

FORMS = "give a day such as 2025-08-01, or a timestamp with an offset"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, None),
        ("2025-08-01", "2025-08-01"),
        (" 2025-08-01 ", "2025-08-01"),
        ("2025-08-01T10", "2025-08-01T10:00:00+00:00"),
        ("2025-08-01 10:30", "2025-08-01T10:30:00+00:00"),
        ("2025-08-01T10:30:00+02:00", "2025-08-01T10:30:00+02:00"),
        (date(2025, 8, 1), "2025-08-01"),
        (datetime(2025, 8, 1, 10), "2025-08-01T10:00:00+00:00"),  # noqa: DTZ001 - the case
        (datetime(2025, 8, 1, tzinfo=timezone(timedelta(hours=2))), "2025-08-01T00:00:00+02:00"),
    ],
)
def test_a_date_is_a_day_or_a_moment_with_an_offset(given: Any, text: str | None) -> None:
    assert as_text("since", given) == text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("20250831", "since is no date: 20250831"),
        ("2025-W35", "since is no date: 2025-W35"),
        ("2025-02-30", "since is no date: 2025-02-30"),
        ("2025-08-01T25", "since is no date: 2025-08-01T25"),
        ("2025-08-01x10", "since is no date: 2025-08-01x10"),
        ("x" * 50, f"since is no date: {'x' * 40}"),
        (5, "since is a date, not the int '5'"),
        (["x" * 50], f"since is a date, not the list {str(['x' * 50])[:40]!r}"),
    ],
)
def test_what_is_no_date_is_refused(given: Any, sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        as_text("since", given)
    assert (refused.value.message, refused.value.next_step) == (sentence, FORMS)


@pytest.mark.parametrize(("given", "least"), [(5, None), (-5, None), (1, 1), (2, 1), (0, 0)])
def test_a_number_is_a_whole_one(given: int, least: int | None) -> None:
    assert checked_number("n", given, least=least) == given


@pytest.mark.parametrize(
    ("given", "least", "sentence", "next_step"),
    [
        (True, None, "n is a whole number, not the bool 'True'", "give n as a number such as 5"),
        (5.0, None, "n is a whole number, not the float '5.0'", "give n as a number such as 5"),
        ("5", 1, "n is a whole number, not the str '5'", "give n as a number such as 5"),
        ("5" * 50, 1, f"n is a whole number, not the str {'5' * 40!r}", None),
        (0, 1, "n is at least 1, not 0", "give n as 1"),
        (-1, 0, "n is at least 0, not -1", "give n as 0"),
    ],
)
def test_what_is_no_number_is_refused(
    given: Any, least: int | None, sentence: str, next_step: str | None
) -> None:
    with pytest.raises(BadRequest) as refused:
        checked_number("n", given, least=least)
    assert refused.value.message == sentence
    assert next_step in (None, refused.value.next_step)


@pytest.mark.parametrize(
    ("given", "ids"), [(None, None), ("ab", ["ab"]), ([], []), (("a", "b"), ["a", "b"])]
)
def test_ids_are_a_list(given: Any, ids: list[str] | None) -> None:
    assert checked_ids("priority", given) == ids


@pytest.mark.parametrize("given", [4, ["a", 4]])
def test_what_are_no_ids_is_refused(given: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        checked_ids("priority", given)
    assert refused.value.message == "priority is a list of ids, not of the int '4'"
    assert refused.value.next_step == "give each id as a text"


# -- coverage


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
        "coverage": 0.7273,
        "completed": 14,
        "missing_a": 3,
        "missing_b": 3,
        "missing_both": 5,
        "excluded": 3,
        "undated": 0,
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


# -- progress


@pytest.mark.parametrize(
    ("eta_s", "ago_s", "said"),
    [(None, 0, "-:--:--"), (75, 0, "0:01:15"), (75, 5.4, "0:01:10"), (75, 80, "0:00:00")],
)
def test_the_time_left_runs_down(eta_s: float | None, ago_s: float, said: str) -> None:
    assert progress.time_left(eta_s, seconds_ago=ago_s) == said


# -- the axes of charts


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.05, "0.05"), (9.94, "9.9"), (10, "10"), (1234.6, "1,235")],
)
def test_an_axis_of_time_has_two_digits(value: float, said: str) -> None:
    assert charts.on_axis_of_time(value) == said


@pytest.mark.parametrize(("labels", "every"), [(0, 1), (1, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_no_more_than_sixteen_labels_are_written(labels: int, every: int) -> None:
    assert charts.label_every(labels) == every


def test_a_line_holds_each_value_until_the_next() -> None:
    assert charts.steps([(0, 1), (2, 5)]) == [(0, 1), (2, 1), (2, 5)]
    assert charts.steps([]) == []


def sessions(*given: dict[str, Any]) -> PlannedSessions:
    """Sessions of a plan, each with what is given."""
    usual = {"category": "profile", "components": ("profiles",), "phase": "recent", "batch": 1}
    usual |= {"session_at": MIDNIGHT, "state": "done", "attempts": 1}
    none = dict.fromkeys(("failed_step", "error_code", "error_message", "started_at", "settled_at"))
    found = PlannedSessions()
    found.extend(
        PlannedSession(**{"ordinal": n, "session_id": f"s{n}", **usual, **none, **some})
        for n, some in enumerate(given, 1)
    )
    return found


def plan(*given: dict[str, Any], **fields: Any) -> Plan:
    """A plan of such sessions."""
    return Plan(
        run_id="r",
        state="running",
        digest="d",
        environment=None,
        created_at=MIDNIGHT,
        request={"batch_size": 5},
        figures={"batch_spacing_s": 15},
        sessions=sessions(*given),
        **fields,
    )


@pytest.mark.parametrize(
    ("days", "unit", "labels", "first"),
    [
        (1, "day", ["2025-08-01"], 1),
        (3, "day", ["2025-08-01", "2025-08-02", "2025-08-03"], 1),
        (62, "day", None, 1),
        (63, "week", None, 1),
        (434, "week", None, 1),
        (435, "month", None, 1),
        (440, "month", None, 1),
    ],
)
def test_a_bar_is_a_day_a_week_or_a_month(
    days: int, unit: str, labels: list[str] | None, first: int
) -> None:
    """The fewest that fit; each bar that lies between is there, with none in it."""
    newest = MIDNIGHT + timedelta(days=days - 1)
    given = [{}] if days == 1 else [{"session_at": newest, "category": "b"}, {}]
    found, bars, series = figures.candidates_by_day(plan(*given))
    assert found == unit
    assert labels in (None, bars)
    assert bars[0] == {"day": "2025-08-01", "week": "2025-07-28", "month": "2025-08"}[unit]
    between = {"day": days, "week": (days + 3) // 7 + 1, "month": 15}[unit]
    assert len(bars) == between
    assert bars == sorted(set(bars))
    assert series["profile"] == [first] + [0] * (len(bars) - 1)
    assert days == 1 or series["b"] == [0] * (len(bars) - 1) + [1]


def test_a_day_is_one_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever zone this machine is, and the database's answer."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    early = datetime(2025, 8, 2, 1, tzinfo=timezone(timedelta(hours=5)))
    found = figures.candidates_by_day(plan({"session_at": early}))
    monkeypatch.undo()
    time.tzset()
    assert found == ("day", ["2025-08-01"], {"profile": [1]})


def test_the_window_holds_the_starts_of_the_last_minute() -> None:
    starts = [(0.0, 5), (30.0, 5), (60.0, 2)]
    assert figures.in_the_window(starts) == [
        (0.0, 5.0),
        (30.0, 10.0),
        (60.0, 7.0),
        (90.0, 2.0),
        (120.0, 0.0),
    ]


def at(seconds: float) -> datetime:
    """So many seconds after midnight."""
    return MIDNIGHT + timedelta(seconds=seconds)


def test_starts_are_counted_from_the_first() -> None:
    """At most as many as the timeline shows."""
    assert figures.seen_starts(plan({"started_at": None})) == []
    seen = plan({"started_at": at(40)}, {"started_at": at(10)}, {"started_at": at(40)})
    assert figures.seen_starts(seen) == [(0.0, 1), (30.0, 2)]
    many = plan(*({"started_at": at(n)} for n in range(121)))
    assert figures.seen_starts(many)[-1] == (119.0, 1)
    planned = plan(*({"batch": n} for n in range(1, 122)))
    assert figures.planned_starts(planned)[-1] == (119 * 15.0, 1)
    assert figures.planned_starts(planned)[0] == (0.0, 1)


def test_sessions_are_settled_over_time() -> None:
    """Two of one moment are one point; what is not settled is none."""
    shown = plan(
        {"settled_at": at(20)},
        {"settled_at": at(10), "state": "rolled_back"},
        {"settled_at": at(20)},
        {"settled_at": at(15), "state": "failed"},
        {"state": "pending"},
        {"state": "done"},
        started_at=at(5),
    )
    assert figures.settled_over_time(shown) == {
        "done": [(0.0, 0.0), (5.0, 1.0), (15.0, 3.0)],
        "failed": [(0.0, 0.0), (10.0, 1.0)],
    }
    nothing: dict[str, list[Any]] = {"done": [], "failed": []}
    assert figures.settled_over_time(plan({"settled_at": at(1)})) == nothing
    assert figures.settled_over_time(plan({}, started_at=at(0))) == nothing


def test_a_latency_is_from_the_last_lease_to_the_last_row() -> None:
    """Of that attempt alone; of a session that never started or before its lease there is none."""
    shown = plan(
        {"started_at": at(10), "attempts": 2}, {"started_at": None}, {"started_at": at(9)}, {}
    )

    def receipt(ordinal: int, attempt: int, seconds: float) -> dict[str, Any]:
        return {"ordinal": ordinal, "attempt": attempt, "at": at(seconds).isoformat()}

    receipts = [
        receipt(1, 2, 12),
        receipt(1, 2, 13),
        receipt(1, 2, 11),
        receipt(1, 1, 99),
        receipt(2, 1, 5),
        receipt(3, 1, 9),
        receipt(7, 1, 9),
    ]
    assert figures.latencies_s(shown, receipts) == [0.0, 3.0]
    assert figures.latencies_s(shown, [receipt(3, 1, 8)]) == []


def test_latencies_are_bars_from_the_fastest_to_the_slowest() -> None:
    labels, counts = figures.latency_bars([0.02, 0.021, 0.15, 0.2])
    assert labels == ["≤ 20 ms", "≤ 50 ms", "≤ 100 ms", "≤ 200 ms"]
    assert counts == [1, 1, 0, 2]
    assert figures.latency_bars([61.0]) == (["≤ more"], [1])


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.74, 3), (0.75, 4), (1.0, 4)])
def test_a_share_of_the_values_does_not_exceed(share: float, value: float) -> None:
    assert figures.share_below([1, 2, 3, 4], share) == value
