"""Whatever dies in the middle, a run ends as one that nobody disturbed."""

from __future__ import annotations

import signal

import pytest

from tests.faults.processes import applying, kill_at
from tests.faults.proxy import OWN, SCORING, Nth, Strike, cut, deaf, held
from tests.faults.scenario import CONCURRENCY, MIDWAY, SESSIONS, Scene, wait_until
from tests.faults.subjects import IN_SQL

START, CLAIM, SETTLE = ((name,) for name in OWN)
KILLS = {
    "before a call arrives": (SCORING, 31, False),
    "after a call committed": (SCORING, 31, True),
    "before a claim arrives": (CLAIM, 2, False),
    "after a claim committed": (CLAIM, 2, True),
    "before a batch is settled": (SETTLE, 1, False),
    "after a batch was settled": (SETTLE, 1, True),
}


def leased(scene: Scene) -> int:
    """How many sessions somebody holds."""
    held_now: int = scene.project.value(
        "select count(*) from public.backfill_items where state = 'leased'"
    )
    return held_now


def test_a_killed_worker_s_run_is_ended_by_the_next(scene: Scene) -> None:
    """Six workers, one after the other, each killed elsewhere; a seventh ends the run."""
    run_id = scene.planned()
    for where, (functions, number, forwards) in KILLS.items():
        with applying(scene, run_id, where) as worker:
            scene.proxy.strikes = [kill_at(worker, Nth(functions, number), forwards=forwards)]
            assert worker.ended() == -signal.SIGKILL
    assert len(scene.proxy.hits) == len(KILLS)
    scene.proxy.strikes = []
    assert scene.apply(run_id).is_complete
    scene.ends_as_undisturbed(f"SIGKILL, {len(KILLS)} times", run_id)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_finishes_what_is_in_flight_and_gives_the_rest_back(
    scene: Scene, number: signal.Signals
) -> None:
    """The worker ends by itself, no session stays leased, and nothing has to run out."""
    run_id = scene.planned()
    scene.proxy.strikes = [Strike(held(), Nth(SCORING, MIDWAY, SESSIONS))]
    with applying(scene, run_id, "told") as worker:
        wait_until(lambda: len(scene.proxy.hits) == CONCURRENCY)
        worker.sent(number)
        wait_until(lambda: "finishing" in worker.said())
        scene.proxy.strikes = []
        scene.proxy.heal()
        assert worker.ended() == 1
    assert leased(scene) == 0
    assert 0 < scene.project.value("select count(*) from public.test_scorings") < SESSIONS
    assert scene.apply(run_id).is_complete
    scene.ends_as_undisturbed(f"{number.name}, finishing what is in flight", run_id)


@IN_SQL
def test_a_closed_terminal_is_a_signal_like_others(scene: Scene) -> None:
    """SIGHUP, while the API is away: ended soon with the next command, nothing lost or leased."""
    run_id = scene.planned()
    scene.proxy.strikes = [
        Strike(held(), Nth(SCORING, MIDWAY, SESSIONS)),
        Strike(cut(forwards=False), lambda call: call.function in SETTLE),
    ]
    with applying(scene, run_id, "hung up") as worker:
        wait_until(lambda: len(scene.proxy.hits) >= CONCURRENCY)
        worker.sent(signal.SIGHUP)
        wait_until(lambda: "finishing" in worker.said())
        scene.proxy.strikes.pop(0)
        scene.proxy.heal()
        assert worker.ended() == 5
        assert worker.said().endswith(f"  Next: backfill apply {run_id}\n")
    scene.proxy.strikes = []
    assert scene.apply(run_id).is_complete
    scene.ends_as_undisturbed("SIGHUP while the API is away", run_id)


def test_ctrl_c_twice_ends_at_once(scene: Scene) -> None:
    """The second does not wait for calls without an answer; their leases run out instead."""
    run_id = scene.planned()
    scene.proxy.strikes = [Strike(deaf(), Nth(SCORING, MIDWAY, SESSIONS))]
    with applying(scene, run_id, "told twice") as worker:
        wait_until(lambda: len(scene.proxy.hits) == CONCURRENCY)
        worker.sent(signal.SIGINT)
        wait_until(lambda: "finishing" in worker.said())
        worker.sent(signal.SIGINT)
        assert worker.ended() == -signal.SIGINT
        with scene.project.connect() as bf:
            all_of_them = bf.status(run_id).called.counted(SESSIONS)
        assert f"of {all_of_them} are settled" in worker.said()
        assert "An apply elsewhere goes on. If there is none, take the run up" in worker.said()
        assert f"Next: backfill apply {run_id}" in worker.said()
    assert leased(scene) >= CONCURRENCY
    scene.proxy.strikes = []
    assert scene.apply(run_id).is_complete
    scene.ends_as_undisturbed("SIGINT twice, at once", run_id)
