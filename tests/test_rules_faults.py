"""How errors are sorted and repeated, as tables. Pure: no project, no clock.

`python -m tests.mutants` changes these rules one operator at a time, and these must notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from backfill.api import retries
from backfill.api.faults import (
    Fault,
    fault_of_api,
    fault_of_edge,
    fault_of_transport,
    is_of_ours_missing,
    said_in,
)
from backfill.api.retries import BRIEF, Patience
from backfill.errors import BackfillError, OutcomeUnknown, UnknownRun

MIDNIGHT = datetime(2025, 8, 1, tzinfo=UTC)


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
        ("25P02", 500, "again"),
        ("42501", 403, "stop"),
        ("42883", 404, "stop"),
        ("42P01", 404, "stop"),
        ("42703", 400, "session"),
        ("PGRST000", 503, "unknown"),
        ("PGRST003", 504, "unknown"),
        ("PGRST102", 400, "session"),
        ("PGRST106", 406, "stop"),
        ("PGRST121", 500, "session"),
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
        ("NOT_FOUND", 404, "session"),
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


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": "none here"}, "session"),
        ({"error": {"message": "none here"}}, "session"),
        ({"code": "NOT_FOUND", "message": "no text"}, "session"),
        ({"code": "NOT_FOUND", "message": "Requested function was not found"}, "stop"),
        ({"message": "no Route matched with those values"}, "stop"),
        ({"msg": "no Route matched with those values"}, "stop"),
        ({"code": "42501", "message": "permission denied"}, "stop"),
        ("<html>not found</html>", "stop"),
        ("", "stop"),
        ([], "stop"),
    ],
)
def test_a_json_body_of_a_function_s_own_is_about_its_session(
    body: object, kind: str, status: int
) -> None:
    """What the platform, a gateway or the database says may be every session's."""
    assert fault_of_edge(body, status).kind == kind


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
        ("<HTML><BODY>a row</BODY></HTML>", (None, None)),
        ({"error": {"error": {"message": "none here"}}}, (None, "none here")),
        ({"error": {"error": {"error": {"message": "too deep"}}}}, (None, None)),
        ([[["none here"]]], (None, "none here")),
        ([[[["too deep"]]]], (None, None)),
        (None, (None, None)),
        (7, (None, None)),
    ],
)
def test_an_error_is_read_in_every_form_that_functions_answer_in(
    body: object, said: tuple[str | None, str | None]
) -> None:
    assert said_in(body) == said


@pytest.mark.parametrize(
    ("code", "message", "is_ours"),
    [
        ("PGRST202", "", True),
        ("PGRST205", "", True),
        ("PGRST203", "", False),
        ("42P01", 'relation "public.backfill_runs" does not exist', True),
        ("42P01", 'relation "public.orders" does not exist', False),
        ("42P01", 'relation "backfill_runs" does not exist', False),
        ("42883", "function backfill_private.clock() does not exist", True),
        ("3F000", 'schema "backfill_private" does not exist', True),
        ("42501", "permission denied for table public.backfill_runs", False),
    ],
)
def test_something_of_ours_is_missing(code: str, message: str, is_ours: bool) -> None:
    """Not what the user's code misses, which has names of its own."""
    assert is_of_ours_missing(code, message) is is_ours


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
async def test_who_gives_up_during_a_wait_hears_the_newest_error() -> None:
    """The wait ends, and no other call is made."""
    raised = OutcomeUnknown("lost")
    asked: list[bool] = []

    def gives_up() -> bool:
        asked.append(len(asked) >= 3)  # that often before the wait
        return asked[-1]

    async def ask() -> None:
        raise raised

    with pytest.raises(OutcomeUnknown) as ended:
        await retries.ask_patiently(ask, Patience(60.0, 60.0, gives_up=gives_up), lambda: False)
    assert ended.value is raised
    assert asked[:4] == [False, False, False, True]
    assert all(asked[4:]), "a slow machine asks again, and hears the same"


@pytest.mark.anyio
async def test_the_wait_that_was_asked_for_is_told() -> None:
    waits: list[float] = []
    raised = [busy_for(0.031)]

    async def ask() -> str:
        if raised:
            raise raised.pop()
        return "answer"

    patient = Patience(5.0, 0.01, lambda _, wait_s: waits.append(wait_s))
    assert await retries.ask_patiently(ask, patient, lambda: False) == "answer"
    assert waits == [0.031]


@pytest.mark.anyio
async def test_an_error_that_knows_no_wait_can_be_outlasted() -> None:
    raised = [UnknownRun("no")]

    async def ask() -> str:
        if raised:
            raise raised.pop()
        return "answer"

    patient = Patience(5.0, 0.01, outlasts=(UnknownRun,))
    assert await retries.ask_patiently(ask, patient, lambda: False) == "answer"


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
