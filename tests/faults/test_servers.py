"""A server dies and comes back: the run ends as one that nobody disturbed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import psycopg

import backfill
from tests.faults.proxy import SCORING, Nth, Strike, does, meanwhile, numbered
from tests.faults.scenario import MIDWAY, Scene, wait_until
from tests.faults.stack import Stack
from tests.faults.subjects import IN_SQL
from tests.kit.whole import NIGHTLY


def dies_and_comes_back(scene: Scene, kill: Callable[[], None], start: Callable[[], None]) -> str:
    """A run under which a server dies in the middle of a batch; the run's id."""
    run_id = scene.planned()

    def die() -> None:
        kill()
        scene.struck()

    scene.proxy.strikes = [Strike(does(die, forwards=False), Nth(SCORING, MIDWAY))]
    with scene.beside(run_id, keeps_at_it=True) as applied:
        wait_until(lambda: scene.struck_at)
        start()
        assert applied.result().is_complete
    assert scene.outcomes()["unknown"] > 0
    return run_id


def test_a_run_survives_a_restart_of_postgrest(scene: Scene, stack: Stack) -> None:
    """Killed with calls under way, gone for a moment, back with an empty schema cache."""
    run_id = dies_and_comes_back(scene, stack.kill_rest, stack.start_rest)
    scene.ends_as_undisturbed("PostgREST killed and restarted", run_id)


def test_a_run_survives_a_restart_of_postgresql(mortal: tuple[Scene, Stack]) -> None:
    """Stopped at once with writes under way, recovered: what was committed counts, nothing else."""
    scene, stack = mortal
    run_id = dies_and_comes_back(scene, stack.kill_postgres, stack.start_postgres)
    with stack.connected() as db:
        scene.project.db = db
        scene.ends_as_undisturbed("PostgreSQL stopped at once and restarted", run_id)


@NIGHTLY
@IN_SQL
def test_a_run_survives_an_orderly_restart_while_the_api_is_away(
    mortal: tuple[Scene, Stack],
) -> None:
    """As in an upgrade: the API goes first, PostgreSQL ends in order, then both come back."""
    scene, stack = mortal

    def ends() -> None:
        stack.kill_rest()
        stack.end_postgres()

    def comes_back() -> None:
        stack.start_postgres()
        stack.start_rest()

    run_id = dies_and_comes_back(scene, ends, comes_back)
    with stack.connected() as db:
        scene.project.db = db
        scene.ends_as_undisturbed("API and PostgreSQL restarted in order", run_id)


HOLD = "select from public.profiles order by created_at desc limit 1 for update"
WAITS = (
    "select pid from pg_stat_activity where wait_event_type = 'Lock'"
    " and query like '%backfill_confirm_undo%'"
)


def waiting(stack: Stack, *others: int) -> list[int]:
    """The processes that wait inside a piece of an undo; none while the server is down."""
    with suppress(psycopg.OperationalError), stack.connected() as db:
        pids = [row["pid"] for row in db.execute(WAITS).fetchall()]
        return [pid for pid in pids if pid not in others]
    return []


@IN_SQL
def test_an_undo_survives_postgresql_killed_inside_a_piece(mortal: tuple[Scene, Stack]) -> None:
    """The process that carries it out, then the first of all: it goes on by itself."""
    scene, stack = mortal
    run_id = scene.planned(throttle_per_minute="none", mode="bulk")
    assert scene.apply(run_id, url=scene.project.url).is_complete
    holding = ExitStack()

    def hold() -> None:
        wait_until(stack.server.answers)
        db = holding.enter_context(closing(stack.connected()))
        db.autocommit = False
        db.execute(HOLD)

    scene.proxy.strikes = [Strike(meanwhile(hold), numbered("backfill_confirm_undo", 1, 2))]
    key = scene.project.keys.service_role
    with holding, backfill.connect(scene.proxy.url, key) as bf, ThreadPoolExecutor(1) as pool:
        confirmed = pool.submit(bf.rollback(run_id).confirm, reason="a test")
        wait_until(lambda: waiting(stack))
        [first] = waiting(stack)
        os.kill(first, signal.SIGKILL)
        scene.struck()
        wait_until(lambda: waiting(stack, first))
        stack.kill_postmaster()
        scene.struck()
        stack.start_postgres()
        effect = confirmed.result()
        assert (effect.conflicts, effect.state) == ((), "rolled_back")
        assert bf.verify(run_id).verdict == "pass"
    with stack.connected() as db:
        scene.project.db = db
        assert scene.content() == scene.before
        assert scene.recorded("undo, PostgreSQL killed twice", scene.before).lost == 0
