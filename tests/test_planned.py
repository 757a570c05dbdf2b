"""The sessions of a plan are a sequence like any other, in a fraction of the memory."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.results.sessions import PlannedSession, PlannedSessions

MOMENTS = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5, minutes=-30))]))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
NUMBERS = st.integers(0, 2**31 - 1)
SESSIONS = st.builds(
    PlannedSession,
    ordinal=NUMBERS,
    session_id=TEXTS,
    session_at=MOMENTS,
    category=TEXTS,
    components=st.lists(TEXTS, max_size=3).map(tuple),
    phase=st.sampled_from(["priority", "recent", "historical"]),
    batch=NUMBERS,
    state=TEXTS,
    attempts=NUMBERS,
    failed_step=st.none() | TEXTS,
    error_code=st.none() | TEXTS,
    error_message=st.none() | TEXTS,
    started_at=st.none() | MOMENTS,
    settled_at=st.none() | MOMENTS,
)
NOON = datetime(2025, 8, 1, 12, tzinfo=UTC)
FIRST = PlannedSession(1, "a", NOON, "fc_scores", ("fc_scores",), "recent", 1)
THREE = (
    FIRST,
    replace(FIRST, ordinal=2, session_id="bb", state="failed", attempts=2, error_code="XX000"),
    replace(
        FIRST,
        ordinal=3,
        session_id="",
        started_at=NOON,
        settled_at=datetime.max.replace(tzinfo=UTC),
    ),
)


@given(st.lists(SESSIONS, max_size=20))
def test_what_goes_in_comes_out(sessions: list[PlannedSession]) -> None:
    """Every field of every session, whatever it holds."""
    held = PlannedSessions(sessions)
    assert list(held) == sessions
    assert (held == sessions, held == tuple(sessions), len(held)) == (True, True, len(sessions))


@pytest.mark.parametrize(
    "place",
    [
        0,
        2,
        -1,
        -3,
        slice(None),
        slice(1, None),
        slice(-2, None),
        slice(None, None, -1),
        slice(9, 9),
    ],
    ids=str,
)
def test_it_is_indexed_like_a_tuple(place: Any) -> None:
    """From either end, and in slices."""
    held: Sequence[PlannedSession] = PlannedSessions(THREE)
    assert held[place] == THREE[place]


@pytest.mark.parametrize("place", [3, -4])
def test_beyond_its_ends_is_nothing(place: int) -> None:
    """As a sequence says it."""
    with pytest.raises(IndexError):
        PlannedSessions(THREE)[place]


@pytest.mark.parametrize(
    "other",
    [(), THREE[:2], THREE[::-1], (*THREE[:2], replace(THREE[2], batch=2)), 3, None],
    ids=repr,
)
def test_it_equals_nothing_else(other: object) -> None:
    """Another number, order or field, and what is no sequence at all."""
    assert PlannedSessions(THREE) != other


def test_pages_are_added_in_their_order() -> None:
    """What a page shares with an earlier one is kept once."""
    held = PlannedSessions(THREE[:1])
    held.extend(THREE[1:])
    assert held == THREE
    assert not PlannedSessions()
    assert pickle.loads(pickle.dumps(held)) == held  # noqa: S301


def test_a_session_takes_a_hundred_bytes() -> None:
    """Not the six hundred of an object with its own text and moment."""
    many = 20_000
    tracemalloc.start()
    held = PlannedSessions(
        replace(FIRST, ordinal=n, session_id=f"{n:036}", session_at=NOON + timedelta(minutes=n))
        for n in range(many)
    )
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == many
    assert size / many < 120
