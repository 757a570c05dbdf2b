"""Without a throttle batches are claimed ahead: two or more are under way when something dies."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.faults.processes import applying, kill_at
from tests.faults.proxy import (
    SCORING,
    Fault,
    Nth,
    Strike,
    cut,
    first_call_of_every,
    in_turn,
    numbered,
    says,
)
from tests.faults.scenario import LATE, SESSIONS, Scene
from tests.kit.whole import together

FREE: dict[str, Any] = {"throttle_per_minute": "none"}
SETTLE = ("backfill_settle",)
LOST: dict[str, list[Fault]] = {
    "reply dropped after commit": [cut(forwards=True)],
    "connection cut before the request is forwarded": [cut(forwards=False)],
    "504 after the call committed": [says(504, "", forwards=True)],
}
CASES = together("lost in every way", LOST)

pytestmark = pytest.mark.parametrize("scoring", ["rpc", "edge"], indirect=True)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("case", CASES)
def test_an_answer_that_is_lost_in_one_batch_is_looked_up(scene: Scene, case: str) -> None:
    """Of every second session the first call, and of settling every call's first answer."""
    faults = CASES[case]
    scene.proxy.strikes = [
        *in_turn(faults, first_call_of_every(2)),
        *in_turn(faults, numbered("backfill_settle", 2, 3, 4)),
    ]
    run_id = scene.planned(**FREE)
    assert scene.go_on(run_id).is_complete
    assert len(scene.proxy.hits) > SESSIONS // 3
    scene.ends_as_undisturbed(f"claimed ahead: {case}", run_id, paced=False)


def test_a_killed_worker_s_batches_are_all_taken_up(scene: Scene) -> None:
    """SIGKILL in the middle of a run, once at a scoring call and once at a settling."""
    run_id = scene.planned(**FREE)
    for name, functions, number in (("scoring", SCORING, LATE), ("settling", SETTLE, 2)):
        with applying(scene, run_id, name) as worker:
            scene.proxy.strikes = [kill_at(worker, Nth(functions, number), forwards=True)]
            assert worker.ended() == -signal.SIGKILL
    scene.proxy.strikes = []
    assert scene.apply(run_id).is_complete
    scene.ends_as_undisturbed("claimed ahead: SIGKILL twice", run_id, paced=False)


@pytest.mark.usefixtures("at_once")
def test_too_many_requests_end_every_batch_under_way(scene: Scene) -> None:
    """429 is no failure, and what was claimed ahead does not knock on the same door."""
    scene.proxy.strikes = [
        Strike(says(429, {"message": "Too many requests"}, Retry_After="1"), Nth(SCORING, 50, 51))
    ]
    run_id = scene.planned(**FREE)
    assert scene.go_on(run_id).is_complete
    assert (scene.outcomes()["session"], scene.outcomes()["unknown"]) == (0, 0)
    scene.ends_as_undisturbed("claimed ahead: 429", run_id, paced=False)
