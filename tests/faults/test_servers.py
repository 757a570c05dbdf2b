"""A server dies and comes back: the run ends as one that nobody disturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from backfill.local.servers import PostgresServer
from tests.faults.conftest import Prepared
from tests.faults.proxy import SCORING, Nth, Strike, does
from tests.faults.scenario import MIDWAY, SESSIONS, Scene, wait_until
from tests.faults.stack import Stack, make_template, scene_on
from tests.faults.subjects import Scoring, subject
from tests.kit.copies import HOSTED, Copies
from tests.kit.folders import server_folder


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


@pytest.fixture
def mortal(prepared: Prepared, scoring: Scoring) -> Iterator[tuple[Scene, Stack]]:
    """A scene whose PostgreSQL may die: the other tests have another."""
    folder = server_folder()
    with ExitStack() as owned:
        owned.callback(shutil.rmtree, folder, ignore_errors=True)
        server = PostgresServer.start(folder / "data")
        owned.callback(server.stop)
        copies = Copies(server, make_template(server, SESSIONS, subject(scoring)), HOSTED)
        undisturbed = prepared.undisturbed(scoring, SESSIONS)
        with scene_on(copies, subject(scoring), undisturbed) as (scene, stack):
            owned.callback(lambda: stack.server.stop())
            owned.callback(copies.close)
            yield scene, stack


def test_a_run_survives_a_restart_of_postgresql(mortal: tuple[Scene, Stack]) -> None:
    """Stopped at once with writes under way, recovered: what was committed counts, nothing else."""
    scene, stack = mortal
    run_id = dies_and_comes_back(scene, stack.kill_postgres, stack.start_postgres)
    with stack.connected() as db:
        scene.project.db = db
        scene.ends_as_undisturbed("PostgreSQL stopped at once and restarted", run_id)
