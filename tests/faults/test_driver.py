"""The process that drives a run dies in the middle: the next one goes on, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any

import anyio
import psycopg
import pytest

from tests.faults.clock import CommonClock
from tests.faults.scenario import LOOK_S, PATIENCE_S, Scene
from tests.faults.stack import Stack
from tests.faults.subjects import IN_SQL
from tests.kit.whole import examples

STEP = "call public.backfill_drive_step(%s, '0.01 seconds')"
MOST_STEPS = 2000
# Nobody writes a profile meanwhile: a step waits inside a scoring call.
HOLD = "lock table public.profiles in share mode"
WAITS = (
    "select pid from pg_stat_activity"
    " where wait_event_type = 'Lock' and query like '%backfill_drive_step%'"
)


def keeps_driving(dsn: str, run_id: str) -> None:
    """Step once a second, each over a connection of its own, as pg_cron does."""
    with CommonClock(dsn, "driver") as clock:
        for _ in range(MOST_STEPS):
            with (
                suppress(psycopg.OperationalError),
                closing(psycopg.connect(dsn, autocommit=True)) as db,
            ):
                db.execute(STEP.encode(), (run_id,))
                if db.execute("select from backfill_runs where state = 'completed'").rowcount:
                    return
            anyio.run(clock.sleep, 1.0)
    raise AssertionError(f"run {run_id} did not end in {MOST_STEPS} steps")


def held(stack: Stack) -> psycopg.Connection[Any] | None:
    """A connection that keeps profiles from being written. None while the server is down."""
    with suppress(psycopg.OperationalError):
        db = stack.connected()
        db.autocommit = False
        db.execute(HOLD)
        return db
    return None


def waiting(stack: Stack) -> list[int]:
    """The process of a step that waits for it; none while the server is down."""
    with suppress(psycopg.OperationalError), stack.connected() as db:
        return [row["pid"] for row in db.execute(WAITS).fetchall()]
    return []


@contextmanager
def held_at_a_write(stack: Stack) -> Iterator[int]:
    """The process of a step that waits to write in the middle of a session."""
    deadline = time.monotonic() + PATIENCE_S
    # PostgreSQL may still be noticing that it has to recover from the last kill.
    while time.monotonic() < deadline:
        db = held(stack)
        while db is not None and is_alive(db):
            if pids := waiting(stack):
                with closing(db):
                    yield pids[0]
                return
            time.sleep(LOOK_S)
    raise AssertionError("no step waited")


def is_alive(db: psycopg.Connection[Any]) -> bool:
    with suppress(psycopg.OperationalError):
        db.execute("select")
        return True
    return False


def kill_twice_and_restart(scene: Scene, stack: Stack) -> None:
    """The process that scores, which makes PostgreSQL recover, then all of PostgreSQL."""
    for _ in range(2):
        with held_at_a_write(stack) as pid:
            os.kill(pid, signal.SIGKILL)
            scene.struck()
    with held_at_a_write(stack):
        stack.kill_postgres()
        scene.struck()
    stack.start_postgres()


@IN_SQL
@pytest.mark.parametrize("mode", examples(["direct", "bulk"], at_a_push=["bulk"]))
def test_a_driven_run_survives_kills_and_a_restart(mortal: tuple[Scene, Stack], mode: str) -> None:
    """What was committed counts, the leases run out, and the next step goes on."""
    scene, stack = mortal
    run_id = scene.planned(mode=mode)
    with ThreadPoolExecutor(1) as pool:
        driven = pool.submit(keeps_driving, stack.dsn, run_id)
        kill_twice_and_restart(scene, stack)
        driven.result()
    with stack.connected() as db:
        scene.project.db = db
        case = f"the driver of a run killed, PostgreSQL restarted ({mode})"
        scene.ends_as_undisturbed(case, run_id, paced=mode == "direct")


@IN_SQL
def test_a_driver_is_killed_beside_a_worker(mortal: tuple[Scene, Stack]) -> None:
    """Both share the run and its throttle. The worker asks again, the driver comes again."""
    scene, stack = mortal
    run_id = scene.planned()
    with ThreadPoolExecutor(1) as pool, scene.beside(run_id, keeps_at_it=True) as applied:
        driven = pool.submit(keeps_driving, stack.dsn, run_id)
        with held_at_a_write(stack) as pid:
            os.kill(pid, signal.SIGKILL)
            scene.struck()
        driven.result()
        assert applied.result().is_complete
    with stack.connected() as db:
        scene.project.db = db
        scene.ends_as_undisturbed("the driver of a run killed beside a worker", run_id)
