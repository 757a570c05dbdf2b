"""Somebody on the way answers our calls in another shape than the project: they are asked again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

import backfill
from tests.faults.proxy import Call, Fault, Strike, says, says_json
from tests.faults.scenario import PACED, Scene
from tests.faults.subjects import IN_SQL

ODD: list[Fault] = [
    says(200, ""),
    says_json(200, ""),
    says_json(204, "", forwards=True),
    says_json(200, "{}", forwards=True),
    says_json(200, "null"),
    says_json(200, '{"state": "run', forwards=True),
    says_json(200, "[]"),
]
# An empty list is an answer of these, and null of the last.
MAY_BE_EMPTY = (
    "backfill_find_runs", "backfill_plan_sessions", "backfill_rehearsal", "backfill_calls",
    "backfill_check", "backfill_installed", "backfill_left_behind", "backfill_targets",
    "backfill_run_failures", "backfill_events", "backfill_written", "backfill_freshness",
)  # fmt: skip
# Asked for more than once: what it says decides what is asked next.
NULL_IS_ONE = ("backfill_freshness",)


@pytest.fixture
def patient() -> Iterator[None]:
    """Our own calls are made again at once, more often than there are odd answers."""
    stamina.set_testing(True, attempts=len(ODD) + 1, cap=True)
    yield
    stamina.set_testing(False)


def strikes() -> list[Strike]:
    """Each of our own calls is answered in every odd way before the project's answer comes."""

    def picks(nth: int, fault: Fault) -> Strike:
        def is_it(call: Call) -> bool:
            if not call.function.startswith("backfill_") or call.nth != nth:
                return False
            return not (fault is ODD[-1] and call.function in MAY_BE_EMPTY) and not (
                fault is ODD[4] and call.function in NULL_IS_ONE
            )

        return Strike(fault, is_it)

    return [picks(nth, fault) for nth, fault in enumerate(ODD, 1)]


@IN_SQL
@pytest.mark.usefixtures("patient")
def test_an_answer_of_another_shape_is_a_lost_answer(scene: Scene) -> None:
    """Every call of ours from plan to undo, in every shape: nothing but the real answer counts."""
    key = scene.project.keys.service_role
    with backfill.connect(scene.proxy.url, key) as bf:
        assert bf.runs() == ()  # a project that was never reached is not asked again
        scene.proxy.calls.clear()
        scene.proxy.strikes = strikes()
        plan = bf.plan(**{**scene.subject.request, **PACED})
        assert bf.approve(plan.run_id, digest=plan.digest).state == "approved"
        scene.takes(plan)
        assert not scene.apply(plan.run_id, wait=False).is_complete
        assert bf.pause(plan.run_id, reason="a test").state == "paused"
        assert bf.resume(plan.run_id).state == "running"
        assert scene.apply(plan.run_id).is_complete
        assert bf.status(plan.run_id).state == "completed"
        assert bf.verify(plan.run_id).verdict == "pass"
        assert all(check.status != "fail" for check in bf.check())
        assert [one.target for one in bf.targets()] == ["prism"]
        assert bf.rollback(plan.run_id).conflicts == ()
    struck = {hit.call.function for hit in scene.proxy.hits}
    assert struck == {function for function, _ in scene.proxy.calls if "backfill" in function}
    assert len(struck) > 20, struck
    scene.ends_as_undisturbed("answers of another shape to every call of ours", plan.run_id)
