"""Who is granted what: one lease a session over all runs, phase after phase."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from backfill.local.servers import PostgresServer
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.seed import SEED


@pytest.fixture
def db(project_db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The project as its owner sees it."""
    return project_db


@pytest.fixture
def still(clock: DatabaseClock) -> DatabaseClock:
    """A clock that moves only when a test moves it."""
    return clock


def pending_priority(db: psycopg.Connection[Any], run_id: str) -> list[str]:
    """The sessions of the canary that nobody has started."""
    return [
        row["session_id"]
        for row in db.execute(
            "select session_id from public.backfill_items"
            " where run_id = %s and phase = 'priority' and state = 'pending'",
            (run_id,),
        )
    ]


def fill(db: psycopg.Connection[Any], session_id: str) -> None:
    """What ordinary traffic does: both scorers, no header."""
    db.execute("select public.score_fc_session(%s, 'v1.2', 'functions')", (session_id,))
    db.execute("select public.score_prism(%s, 'v1.2.1')", (session_id,))


def test_no_session_of_the_next_phase_starts_while_the_canary_is_under_way(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """Also where somebody else fills the last that waits: the claim waits for the other."""
    run_id = verbs.started(db, throttle_per_minute=20, batch_size=1, priority=SEED["priority"])
    first = verbs.claim(db, run_id)
    (waiting,) = pending_priority(db, run_id)
    fill(db, waiting)
    still.advance(30)
    second = verbs.claim(db, run_id)
    assert [g["phase"] for g in first["granted"]] == ["priority"]
    assert (second["granted"], second["wait_for"]) == ([], "canary")


def test_a_claim_goes_on_to_the_next_phase_where_others_filled_the_canary(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """One claim skips the filled sessions, passes the canary and grants the next batch."""
    run_id = verbs.started(db, throttle_per_minute=20, batch_size=5, priority=SEED["priority"])
    for session_id in pending_priority(db, run_id):
        fill(db, session_id)
    granted = verbs.claim(db, run_id)["granted"]
    assert {g["phase"] for g in granted} == {"recent"}


def test_a_claim_told_again_is_no_new_start(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """The same sessions under new fences; the items keep the moment at which they started."""
    run_id = verbs.started(db, throttle_per_minute=20, batch_size=5)
    claim_id = str(uuid4())
    granted = verbs.claim(db, run_id, claim_id)["granted"]
    began = still.now()
    still.advance(20)
    again = verbs.claim(db, run_id, claim_id)["granted"]
    assert [g["ordinal"] for g in again] == [g["ordinal"] for g in granted]
    assert {g["fence"] for g in again}.isdisjoint(g["fence"] for g in granted)
    rows = db.execute(
        "select distinct started_at, attempts from public.backfill_items"
        " where run_id = %s and state = 'leased'",
        (run_id,),
    ).fetchall()
    assert [(r["started_at"], r["attempts"]) for r in rows] == [(began, 1)]


def test_two_runs_that_claim_at_the_same_moment_lease_different_sessions(
    postgres_server: PostgresServer, db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """The second waits for the first to commit, then passes over what that has leased."""
    first, second = (verbs.started(db, throttle_per_minute=20, batch_size=3) for _ in range(2))
    dsn = postgres_server.dsn(db.info.dbname)
    with (
        psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        with db.transaction():
            mine = verbs.claim(db, first)["granted"]
            claiming = pool.submit(verbs.claim, other, second)
            while not claiming.done() and not is_waiting(db, other):
                pass
        theirs = claiming.result()["granted"]
    assert len(mine) == len(theirs) == 3
    assert {g["session_id"] for g in mine}.isdisjoint(g["session_id"] for g in theirs)


def is_waiting(db: psycopg.Connection[Any], other: psycopg.Connection[Any]) -> bool:
    """Whether a connection waits for a lock of this one's."""
    row = db.execute(
        "select %s::integer = any (pg_blocking_pids(%s)) as waits",
        (db.info.backend_pid, other.info.backend_pid),
    ).fetchone()
    assert row is not None
    return bool(row["waits"])
