"""No minute of a project holds more starts than it allows, whoever runs, pauses or rehearses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from backfill.local.servers import PostgresServer
from tests.kit import verbs
from tests.kit.at_once import at_once, more_connections
from tests.kit.clocks import DatabaseClock
from tests.kit.throttling import Start, most_in_a_minute

Db = psycopg.Connection[Any]
PACE = {"throttle_per_minute": 20, "batch_size": 5}
UP = {"throttle_per_minute": 20, "batch_size": 20, "recent_since": "2025-08-01"}
WAITS_FOR = "20 starts per minute of all runs and rehearsals of this project"
ALL_TAKEN = "all 20 starts per minute that this project allows"


@pytest.fixture
def db(project_db: Db) -> Db:
    """The project as its owner sees it."""
    return project_db


@pytest.fixture
def still(clock: DatabaseClock) -> DatabaseClock:
    """A clock that moves only when a test moves it."""
    return clock


def allow(db: Db, starts_per_minute: int | None) -> None:
    """Set what the project allows in a minute, as its owner does."""
    db.execute(
        "update public.backfill_settings set max_throttle_per_minute = %s where only_row",
        (starts_per_minute,),
    )


def approved(db: Db, **request: Any) -> str:
    """A run that anyone with the key may start. Its id."""
    run_id = verbs.planned(db, **request)
    verbs.approve(db, run_id)
    return run_id


def pause(db: Db, run_id: str) -> None:
    """Give the run's share back."""
    verbs.call(db, "backfill_pause", run=run_id, reason="another one now")


def cancel(db: Db, run_id: str) -> None:
    """Give the run's share back for good."""
    verbs.call(db, "backfill_cancel", run=run_id, reason="another one now")


def sample(db: Db, sessions: int) -> tuple[str, list[str]]:
    """Open a plan. Its run and the sessions to rehearse."""
    run_id = verbs.collected(db, **PACE, rehearse=sessions)
    return run_id, verbs.call(db, "backfill_rehearsal", p_run_id=run_id)


def rehearse(db: Db, run_id: str, session: str) -> dict[str, Any]:
    """Rehearse a session. What was seen of it."""
    seen: dict[str, Any] = verbs.call(
        db, "backfill_rehearse", p_run_id=run_id, p_session_id=session
    )
    return seen


def calls_made(seen: dict[str, Any]) -> int:
    """How often a rehearsal has scored a session, at least: it, again, another before it."""
    return 2 * ("calls" in seen) + 2 * ("beside" in seen)


@pytest.mark.parametrize("give_back", [pause, cancel])
def test_a_share_that_is_given_back_frees_no_start(
    db: Db, still: DatabaseClock, give_back: Callable[[Db, str], None]
) -> None:
    """Of two approved runs the second waits until the first one's starts are a minute old."""
    allow(db, 20)
    first, second = approved(db, **UP), approved(db, **UP)
    verbs.start(db, first)
    assert len(verbs.claim(db, first)["granted"]) == 20
    give_back(db, first)
    still.advance(10)
    verbs.start(db, second)
    answer = verbs.claim(db, second)
    assert (answer["granted"], answer["wait_for"]) == ([], "throttle")
    assert (answer["wait_s"], answer["why"]) == (50, WAITS_FOR)
    waits_for = db.execute(
        "select waits_for from public.backfill_run_progress where run_id = %s", (second,)
    ).fetchone()
    assert waits_for == {"waits_for": f"throttle: {ALL_TAKEN} are taken until 08:01:00 UTC"}
    still.advance(49.999)
    assert verbs.claim(db, second)["wait_s"] == 0.001
    still.advance(0.001)
    assert len(verbs.claim(db, second)["granted"]) == 20


def test_a_rehearsal_takes_its_starts(db: Db, still: DatabaseClock) -> None:
    """It says until when there is none, makes no call then, and a run waits for its calls."""
    allow(db, 20)
    run_id = approved(db, **UP)
    verbs.start(db, run_id)
    claim_id = str(uuid4())
    granted = verbs.claim(db, run_id, claim_id)["granted"]
    outcomes = [{"ordinal": g["ordinal"], "outcome": "released"} for g in granted]
    verbs.settle(db, run_id, claim_id, outcomes)
    pause(db, run_id)
    still.advance(30)
    planned, (none, some, *_) = sample(db, 2)
    seen = rehearse(db, planned, none)
    assert (calls_made(seen), seen["why"]) == (
        0,
        f"{ALL_TAKEN} are taken until 08:01:00 UTC",
    )
    still.advance(30)
    assert calls_made(rehearse(db, planned, some)) > 0
    verbs.call(db, "backfill_resume", run=run_id)
    assert verbs.claim(db, run_id)["wait_s"] == 60


def test_runs_and_rehearsals_at_the_same_moment_share_the_bound(
    postgres_server: PostgresServer, db: Db, still: DatabaseClock
) -> None:
    """Over thirty moments the fullest minute is as full as allowed, and no fuller."""
    allow(db, 12)
    runs = [approved(db, throttle_per_minute=6, batch_size=2) for _ in range(2)]
    for run_id in runs:
        verbs.start(db, run_id)
    planned, sessions = verbs.collected(db, **{**PACE, "throttle_per_minute": 12}, rehearse=6), []
    allow(db, 24)
    sessions = verbs.call(db, "backfill_rehearsal", p_run_id=planned)
    allow(db, 12)
    starts: list[Start] = []

    def go(connection: Db, place: int) -> int:
        if place < 2:
            return len(verbs.claim(connection, runs[place])["granted"])
        return calls_made(rehearse(connection, planned, sessions.pop())) if sessions else 0

    with more_connections(postgres_server.dsn(db.info.dbname), 3) as connections:
        for _ in range(20):
            made = at_once(connections, go)
            starts.extend(Start(still.now(), n) for n in made)
            still.advance(5)
    assert not sessions
    assert 6 < most_in_a_minute(starts) <= 12


def test_a_bound_holds_from_the_moment_that_it_is_set(db: Db, still: DatabaseClock) -> None:
    """Starts from before count. A higher bound gives way at once, a lower forgets no start."""
    run_id = approved(db, throttle_per_minute=4, batch_size=4)
    verbs.start(db, run_id)
    assert len(verbs.claim(db, run_id)["granted"]) == 4
    pause(db, run_id)
    allow(db, 6)
    other = approved(db, throttle_per_minute=6, batch_size=1)
    verbs.start(db, other)
    for wait_s in (0, 10, 10):
        still.advance(wait_s)
        answer = verbs.claim(db, other)
    assert (answer["granted"], answer["wait_s"]) == ([], 40)
    allow(db, 7)
    assert len(verbs.claim(db, other)["granted"]) == 1
    allow(db, 3)
    assert taken(db) == [0, 10, 20]
    allow(db, None)
    assert taken(db) == []


def test_a_run_without_a_throttle_keeps_a_bound_that_was_set_later(
    db: Db, still: DatabaseClock
) -> None:
    """It starts as many as the project allows, one by one and in bulk, and no more."""
    for mode in ("direct", "bulk"):
        allow(db, None)
        run_id = approved(db, throttle_per_minute="none", batch_size=10, mode=mode)
        verbs.start(db, run_id)
        allow(db, 5)
        starts = [begin(db, run_id) for _ in range(2)]
        assert starts == [5, 0]
        assert verbs.claim(db, run_id)["wait_s"] == 60
        cancel(db, run_id)
        still.advance(60)


def begin(db: Db, run_id: str) -> int:
    """Begin what may begin of a run, in bulk if it is one. How many sessions that is."""
    answer = verbs.claim(db, run_id)
    if answer.get("bulk"):
        answer = verbs.call(db, "backfill_bulk", p_run_id=run_id, p_worker="test", p_sessions=100)
        return int(answer.get("sessions", 0))
    return len(answer["granted"])


def taken(db: Db) -> list[float]:
    """How many seconds ago the starts were that the project keeps in mind."""
    kept = db.execute(
        "select extract(epoch from backfill_private.clock() - used_at) as s"
        " from backfill_private.slots order by 1"
    )
    return [float(row["s"]) for row in kept.fetchall()]
