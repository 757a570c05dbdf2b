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
from tests.kit.at_once import is_waiting
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


FEW = (
    b"create or replace function backfill_private.most_taken_back() returns integer"
    b" language sql immutable set search_path = pg_catalog, pg_temp as 'select 2'"
)
LEASED = (
    "select count(*) as leased from public.backfill_items where run_id = %s and state = 'leased'"
)


def leased(db: psycopg.Connection[Any], run_id: str) -> int:
    """How many sessions are leased."""
    row = db.execute(LEASED, (run_id,)).fetchone()
    assert row is not None
    return int(row["leased"])


def test_a_claim_takes_no_more_leases_back_than_it_can(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """Dead workers may have left any number, in any run: each claim of any run takes some back."""
    dead, alive = (verbs.started(db, throttle_per_minute=20, batch_size=5) for _ in range(2))
    assert len(verbs.claim(db, dead)["granted"]) == 5
    db.execute(FEW)
    still.advance(61)
    left = []
    for _ in range(3):
        verbs.claim(db, alive)
        left.append(leased(db, dead))
    assert left == [3, 1, 0]


def test_an_undo_takes_the_leases_back_before_its_first_row(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """Some per call, and every row is undone by the end."""
    run_id = verbs.started(db, throttle_per_minute=20, batch_size=5)
    granted = verbs.claim(db, run_id)["granted"]
    written = sum(len(verbs.score_all(db, run_id, grant)["answered"]) for grant in granted[:2])
    db.execute("select public.backfill_cancel(%s, 'a test')", (run_id,))
    digest = verbs.call(db, "backfill_preview_undo", p_run_id=run_id)["digest"]
    db.execute(FEW)
    answers: list[dict[str, Any]] = []
    while not answers or answers[-1]["remaining"]:
        answers.append(
            verbs.call(
                db,
                "backfill_confirm_undo",
                p_run_id=run_id,
                p_digest=digest,
                p_reason="a test",
                p_sessions=5,
            )
        )
    assert len(answers) == 3
    assert leased(db, run_id) == 0
    assert sum(answers[-1]["deletes"].values()) == written


ELSEWHERE = (
    "create or replace function backfill_private.server_identity() returns text"
    " language sql stable set search_path = pg_catalog, pg_temp as $$ select 'restored' $$"
)


@pytest.mark.parametrize("mode", ["direct", "bulk"])
def test_a_copy_of_the_database_scores_nothing_for_a_run_that_was_running(
    db: psycopg.Connection[Any], still: DatabaseClock, mode: str
) -> None:
    """No new lease, no longer lease, no call in bulk, no resume, no retry: plan anew."""
    request = {"throttle_per_minute": "none", "batch_size": 20, "mode": mode}
    run_id = verbs.started(db, **request)
    claim_id = str(uuid4())
    taken = verbs.call(
        db, "backfill_claim_apart", p_run_id=run_id, p_claim_id=claim_id, p_worker="before"
    )
    assert taken["granted"]
    renew = {"p_run_id": run_id, "p_claim_id": claim_id}
    assert verbs.call(db, "backfill_renew", **renew) == len(taken["granted"])
    db.execute(ELSEWHERE.encode())
    assert verbs.call(db, "backfill_renew", **renew) == 0
    bulk = {"p_run_id": run_id, "p_worker": "w", "p_sessions": 5}
    assert verbs.call(db, "backfill_bulk", **bulk) == {"look": True}
    answer = verbs.claim(db, run_id)
    assert (answer["state"], answer["granted"]) == ("paused", [])
    assert answer["reason"] == "this is not the server and database that the plan was made on"
    for door, name in (("backfill_resume", "run"), ("backfill_retry", "p_run_id")):
        with pytest.raises(psycopg.Error) as refused:
            verbs.call(db, door, **{name: run_id})
        assert refused.value.sqlstate == "OB007"
        assert f"backfill plan --like {run_id}" in (refused.value.diag.message_hint or "")


@pytest.mark.parametrize(
    "ends",
    [
        "update public.backfill_runs set approved_until = created_at",
        "select public.backfill_pause(run_id, 'lunch') from public.backfill_runs",
        "alter function public.score_prism(uuid, text) cost 7",
    ],
)
def test_a_lease_is_not_renewed_once_its_run_may_not_be_scored(
    db: psycopg.Connection[Any], still: DatabaseClock, ends: str
) -> None:
    """Its approval ran out, it is paused, a function is another: the lease runs out by itself."""
    run_id, claim_id = verbs.started(db, throttle_per_minute="none"), str(uuid4())
    assert verbs.claim(db, run_id, claim_id)["granted"]
    db.execute(ends.encode())
    assert verbs.call(db, "backfill_renew", p_run_id=run_id, p_claim_id=claim_id) == 0
