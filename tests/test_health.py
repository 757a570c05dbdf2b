"""Nothing starts while the database has enough to do, as far as it sees and is asked to look."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.at_once import more_connections
from tests.kit.clocks import DatabaseClock
from tests.kit.copies import Copy
from tests.test_bulk import BULK

Db = psycopg.Connection[Any]
WAITS = "select waits_for from public.backfill_run_progress where run_id = %s"


@pytest.fixture
def others(project_copy: Copy, project_db: Db) -> Iterator[list[Db]]:
    """Two more sessions of the owner."""
    with more_connections(project_copy.server.dsn(project_db.info.dbname), 2) as opened:
        yield opened


def allow(db: Db, **thresholds: object) -> None:
    """Set thresholds, as the owner does."""
    values = ", ".join(f"{name} = %({name})s" for name in thresholds)
    db.execute(f"update public.backfill_settings set {values}".encode(), thresholds)


@contextmanager
def somebody_waits(others: list[Db], first: str, second: str) -> Iterator[None]:
    """One holds a lock in its transaction, and the other waits for it until this ends."""
    holder, waiter = others
    with ThreadPoolExecutor(1) as pool, holder.transaction():
        holder.execute(first.encode())
        pool.submit(waiter.execute, f"begin; {second}; commit".encode())
        waits = "select count(*) as n from pg_locks where not granted and pid = %s"
        while holder.execute(waits, (waiter.info.backend_pid,)).fetchall() == [{"n": 0}]:
            pass
        yield


# Readers pass it, and so do those who come after who waits for it.
EXCLUSIVE = "lock table public.{} in exclusive mode"
ROW = "update public.profiles set session_id = session_id"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (EXCLUSIVE.format("fc_scores"), EXCLUSIVE.format("fc_scores")),
        (EXCLUSIVE.format("assessment_sessions"), EXCLUSIVE.format("assessment_sessions")),
        (ROW, ROW),
    ],
    ids=["a table", "the source", "a row"],
)
def test_a_claim_waits_while_others_wait_for_locks_on_the_tables(
    project_db: Db, clock: DatabaseClock, others: list[Db], first: str, second: str
) -> None:
    """It says so, and so does progress. The look counts for a second; then the run goes on."""
    run_id = verbs.started(project_db)
    allow(project_db, max_waiting_locks=0)
    said = "1 connection waits for locks on its tables, at most 0 may"
    with somebody_waits(others, first, second):
        answer = verbs.claim(project_db, run_id)
        assert (answer["state"], answer["granted"], answer["wait_s"]) == ("running", [], 2)
        assert (answer["wait_for"], answer["why"]) == ("health", said)
        row = project_db.execute(WAITS, (run_id,)).fetchone()
        assert row == {"waits_for": f"health: {said}"}
    assert verbs.claim(project_db, run_id)["wait_for"] == "health"
    clock.advance(answer["wait_s"])
    assert verbs.claim(project_db, run_id)["granted"]


def test_locks_elsewhere_are_no_reason(
    project_db: Db, clock: DatabaseClock, others: list[Db]
) -> None:
    """A wait for another table, or for an advisory lock, holds nothing up."""
    run_id = verbs.started(project_db)
    allow(project_db, max_waiting_locks=0)
    project_db.execute("create table public.elsewhere (n integer)")
    lock = EXCLUSIVE.format("elsewhere")
    with somebody_waits(others, lock, lock):
        assert verbs.claim(project_db, run_id)["granted"]
    clock.advance(60)
    advisory = "select pg_advisory_xact_lock(7)"
    with somebody_waits(others, advisory, advisory):
        assert verbs.claim(project_db, run_id)["granted"]


@pytest.mark.parametrize(
    ("threshold", "value", "said"),
    [
        ("max_transaction_age", "1 microsecond", "a transaction has been open for"),
        ("max_connections_percent", 1, "% of the connections are in use, at most 1 % may be"),
    ],
)
@pytest.mark.parametrize("mode", ["direct", "bulk"])
def test_a_call_in_bulk_waits_for_the_same(
    project_db: Db, others: list[Db], mode: str, threshold: str, value: object, said: str
) -> None:
    """A call in bulk begins nothing, and a claim says why."""
    run_id = verbs.started(project_db, **{**BULK, "mode": mode, "priority": []})
    allow(project_db, **{threshold: value})
    with others[0].transaction():
        others[0].execute("select pg_current_xact_id()")
        if mode == "bulk":
            bulk = {"p_run_id": run_id, "p_worker": "test", "p_sessions": 5}
            assert verbs.call(project_db, "backfill_bulk", **bulk) == {"look": True}
        answer = verbs.claim(project_db, run_id)
        assert (answer["granted"], answer["wait_for"]) == ([], "health")
        assert said in answer["why"]
    allow(project_db, **{threshold: None})
    answer = verbs.claim(project_db, run_id)
    assert answer["granted"] or answer["bulk"]


def test_without_a_replica_no_lag_is_too_long(project_db: Db) -> None:
    """Nothing replicates here, so there is nothing to wait for."""
    run_id = verbs.started(project_db)
    allow(project_db, max_replication_lag="1 microsecond")
    assert verbs.claim(project_db, run_id)["granted"]


def test_a_lock_of_others_does_not_hold_the_look_up(project_db: Db, others: list[Db]) -> None:
    """Whoever looks at this moment is not waited for, and what was said before counts."""
    run_id = verbs.started(project_db)
    allow(project_db, max_waiting_locks=0)
    project_db.execute(
        "insert into backfill_private.health values (%s, '-infinity', 'as it was')", (run_id,)
    )
    with others[0].transaction():
        others[0].execute("select from backfill_private.health for update")
        assert verbs.claim(project_db, run_id)["why"] == "as it was"


def test_apply_waits_and_tells_why(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Until the database is well again. Then it scores all of it."""
    plan = timed.plan(**BULK)
    project.approve(plan)
    allow(project.db, max_waiting_locks=0)
    project.db.execute(
        "insert into backfill_private.health values (%s, %s, 'busy')", (plan.run_id, clock.now())
    )
    heard: list[backfill.Event] = []
    assert timed.apply(plan.run_id, on_event=heard.append).status.counts["done"] == 39
    (waited,) = [e.details for e in heard if e.kind == "waiting"]
    assert waited == {"wait_s": 2, "wait_for": "health", "why": "busy"}
