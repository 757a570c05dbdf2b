"""The promises hold for whatever is scored, and whoever scores it.

Throttle, leases and receipts are part of the end of every scenario beside this; here are the
others. What a single write is refused for is in test_gate, and for Edge Functions in test_edge.
"""

from __future__ import annotations

import json

import psycopg
import pytest

import backfill
from tests.faults.proxy import SCORING
from tests.faults.scenario import SESSIONS, Scene
from tests.faults.subjects import AT_THE_WRITE

PLANNED = {"throttle_per_minute": "none"}
CHANGED = "what was approved is no longer what stands there"


def plan_of(scene: Scene, bf: backfill.Backfill) -> backfill.Plan:
    """A sealed plan that nobody has approved."""
    return bf.plan(**{**scene.subject.request, **PLANNED})


def was_left_alone(scene: Scene) -> bool:
    """Nobody called a function, and no row of the target was written."""
    called = any(function in SCORING for function, _ in scene.proxy.calls)
    return not called and scene.content() == scene.before


def test_nothing_is_scored_before_the_approval(scene: Scene) -> None:
    """Gate and approver: planned, it waits; the service key does not approve its own plan."""
    with scene.project.connect() as bf:
        plan = plan_of(scene, bf)
        assert len(plan.sessions) == SESSIONS
        with pytest.raises(backfill.ApprovalNeeded):
            scene.apply(plan.run_id)
        scene.project.db.execute(
            "update public.backfill_settings set approval_policy = 'second_person'"
        )
        with pytest.raises(backfill.ApprovalNeeded):
            bf.approve(plan.run_id, digest=plan.digest)
        assert bf.status(plan.run_id).state == "awaiting_approval"
    assert was_left_alone(scene)


def test_a_rejected_plan_stays_rejected(scene: Scene) -> None:
    """A decision is final: no apply, no approval afterwards."""
    with scene.project.connect() as bf:
        plan = plan_of(scene, bf)
        scene.project.db.execute(
            "select public.backfill_reject(%s, 'a test', 'Ada')", (plan.run_id,)
        )
        with pytest.raises(backfill.Refused):
            scene.apply(plan.run_id)
        assert bf.status(plan.run_id).state == "rejected"
    assert was_left_alone(scene)


def test_an_approved_plan_that_somebody_changed_is_not_applied(scene: Scene) -> None:
    """Plan: the digest is computed again at the start of every apply."""
    with scene.project.connect() as bf:
        plan = plan_of(scene, bf)
        scene.project.approve(plan)
        scene.project.admin.execute(
            "alter table public.backfill_items disable trigger backfill_items_guard;"
            f"update public.backfill_items set ordinal = {SESSIONS + 1}"
            f" where ordinal = {SESSIONS} and run_id = '{plan.run_id}'".encode()
        )
        with pytest.raises(backfill.Paused, match=CHANGED):
            scene.apply(plan.run_id)
    assert was_left_alone(scene)


def test_a_target_that_is_declared_anew_is_not_applied(scene: Scene) -> None:
    """Plan: what a component is belongs to what was approved."""
    with scene.project.connect() as bf:
        plan = plan_of(scene, bf)
        scene.project.approve(plan)
        scene.project.db.execute(
            "update public.backfill_targets set version = version || '.9'"
            " where component = any (%s)",
            (list(scene.subject.writers),),
        )
        with pytest.raises(backfill.Paused, match=CHANGED):
            scene.apply(plan.run_id)
    assert was_left_alone(scene)


def forged(scene: Scene, run_id: str, table: str) -> None:
    """A request with a run's header and a fence of its own making deletes everything."""
    headers = json.dumps({"x-backfill-run": run_id, "x-backfill-fence": "forged"})
    db = scene.project.db
    with db.transaction():
        db.execute("select set_config('request.headers', %s, true)", (headers,))
        db.execute(f"delete from {table}".encode())


@AT_THE_WRITE
def test_a_fence_that_nobody_holds_writes_nothing(scene: Scene) -> None:
    """Gate at the write: the header of an approved run is not enough, for any of its tables."""
    run_id = scene.planned()
    for table in scene.subject.tables:
        with pytest.raises(psycopg.Error) as refused:
            forged(scene, run_id, table)
        assert str(refused.value.sqlstate).startswith("OB0")
    assert was_left_alone(scene)


def test_an_undo_takes_the_digest_just_previewed_and_no_other(scene: Scene) -> None:
    """Undo: what is confirmed is what was shown, and what others wrote is never touched."""
    run_id = scene.planned(**PLANNED)
    with scene.project.connect() as bf:
        assert scene.apply(run_id).is_complete
        old = bf.rollback(run_id, sessions=[min(session for session, _ in scene.owed)])
        new = bf.rollback(run_id)
        with pytest.raises(backfill.Refused, match="newest preview"):
            bf.confirm_rollback(run_id, digest=old.digest, reason="a test")
        assert scene.content() == scene.after
        assert new.confirm(reason="a test").conflicts == ()
    assert scene.content() == scene.before


def test_an_audit_that_somebody_cut_shows(scene: Scene) -> None:
    """Audit: the chain of a run's events is looked at by every verify."""
    run_id = scene.planned(**PLANNED)
    assert scene.apply(run_id).is_complete
    scene.project.admin.execute(
        "alter table public.backfill_events disable trigger user;"
        "delete from public.backfill_events where kind = 'batch_granted'"
    )
    with scene.project.connect() as bf:
        seen = bf.verify(run_id)
    assert {c.name: c.status for c in seen.criteria}["audit_complete"] == "fail"
    assert seen.verdict == "fail"
