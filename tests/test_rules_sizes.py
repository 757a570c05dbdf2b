"""How large a call is, and how far an undo, as tables. Pure: no project, no clock.

`python -m tests.mutants` changes these rules one operator at a time, and these must notice.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from backfill.errors import BadRequest
from backfill.run import bulk, undo

MIDNIGHT = datetime(2025, 8, 1, tzinfo=UTC)


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
        (200, 0.8, 10_000, 200),
        (200, 0.4, 10_000, 400),
        (200, 0.1, 10_000, 400),
        (200, 0.0, 10_000, 400),
        (1, 0.0005, 10_000, 2),
        (200, 1.6, 10_000, 100),
        (3, 1.6, 10_000, 1),
        (1, 60.0, 10_000, 1),
        (200, 0.4, 300, 300),
        (1, 0.1, 1, 1),
    ],
)
def test_a_piece_of_an_undo_takes_under_a_second(
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


def test_no_sessions_are_not_all_of_them() -> None:
    with pytest.raises(BadRequest) as refused:
        undo.undo_scope([], None, None)
    assert refused.value.message == "sessions is empty"
    assert refused.value.next_step == "name sessions, or leave it out for the whole run"
