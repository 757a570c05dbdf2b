"""The promises hold for a view as the source, and for one call that fills two components."""

from __future__ import annotations

import signal

from tests.faults.processes import applying, kill_at
from tests.faults.proxy import Nth, Strike, cut, says
from tests.faults.scenario import Scene
from tests.faults.subjects import OF_KINDS

CALL = ("write_letters",)
PAGE = "<html><title>Bad gateway</title></html>"


@OF_KINDS
def test_a_call_whose_answer_is_lost_is_not_made_again(scene: Scene) -> None:
    """Both of its rows have their receipts, so nothing is owed. Killed in the middle besides."""
    run_id = scene.planned()
    with applying(scene, run_id, "killed") as worker:
        scene.proxy.strikes = [kill_at(worker, Nth(CALL, 31), forwards=True)]
        assert worker.ended() == -signal.SIGKILL
    # Seven calls are not sent on: should they all be one session's, an eighth would fail it.
    scene.proxy.strikes = [
        Strike(cut(forwards=True), Nth(CALL, 5, 14)),
        Strike(cut(forwards=False), Nth(CALL, 15, 21)),
        Strike(says(504, PAGE, forwards=True), Nth(CALL, 22, 30)),
    ]
    assert scene.apply(run_id).is_complete
    scene.ends_as_undisturbed("lost answers of a call for two components", run_id)
