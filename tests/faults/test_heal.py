"""Heals that die: the next one goes on with the same run, and it ends as an undisturbed one."""

from __future__ import annotations

import signal
from typing import Any

from tests.faults.processes import kill_at, worker
from tests.faults.proxy import Nth
from tests.faults.scenario import MIDWAY, Scene
from tests.faults.subjects import IN_SQL

RULE: dict[str, Any] = {"until": "2999-12-31", "max_sessions": 1000, "throttle": 6000}
# Where it plans, then where it scores. The call, which of its kind, and whether it is committed.
KILLS = {
    "before it looks": ("backfill_watch", 1, False),
    "after it opened a run": ("backfill_open", 1, True),
    "while it collects": ("backfill_collect", 1, True),
    "while it rehearses": ("backfill_rehearse", 1, True),
    "after it sealed": ("backfill_seal", 1, True),
    "before it starts": ("backfill_start", 1, False),
    "in a scoring call": ("score_fc_session", MIDWAY, True),
    "after a batch was settled": ("backfill_settle", 1, True),
}
# The sample's sessions before its first day, which no undisturbed run of the suite scores.
EARLIER = "delete from public.assessment_sessions where created_at < '2025-08-01'"


def left_to_heal(scene: Scene) -> None:
    """A standing approval covers what there is."""
    scene.project.db.execute(EARLIER)
    with scene.project.connect() as bf:
        proposed = bf.propose_standing(**RULE)
        bf.approve_standing(proposed.standing_id, digest=proposed.digest, approver="Ada")


def healed_run(scene: Scene) -> str:
    """The only run that there is."""
    (row,) = scene.project.rows("select run_id::text, state, approved_via from backfill_runs")
    assert (row["state"], row["approved_via"]) == ("completed", "standing")
    with scene.project.connect() as bf:
        return scene.takes(bf.get(row["run_id"]))


@IN_SQL
def test_a_killed_heal_is_gone_on_with_by_the_next(scene: Scene) -> None:
    """Eight heals, one after the other, each killed elsewhere. A ninth ends their run."""
    left_to_heal(scene)
    for where, (function, number, forwards) in KILLS.items():
        with worker(scene, "heal", name=where) as started:
            scene.proxy.strikes = [kill_at(started, Nth((function,), number), forwards=forwards)]
            assert started.ended() == -signal.SIGKILL, (where, started.said())
    scene.proxy.strikes = []
    with worker(scene, "heal", name="the last") as last:
        assert last.ended() == 0, last.said()
    run_id = healed_run(scene)
    scene.ends_as_undisturbed(f"heal killed, {len(KILLS)} times", run_id, paced=False)


@IN_SQL
def test_of_two_heals_at_once_one_is_killed(scene: Scene) -> None:
    """Both plan and score the same run. The other one ends it."""
    left_to_heal(scene)
    with worker(scene, "heal", name="one") as one, worker(scene, "heal", name="other") as other:
        scene.proxy.strikes = [kill_at(one, Nth(("score_fc_session",), MIDWAY), forwards=True)]
        assert one.ended() == -signal.SIGKILL, one.said()
        scene.proxy.strikes = []
        assert other.ended() == 0, other.said()
    scene.ends_as_undisturbed("one of two heals killed", healed_run(scene), paced=False)
