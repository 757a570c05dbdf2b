"""The whole way: plan, halt, approve, apply, verify, undo."""

from __future__ import annotations

import pytest

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.seed import REHEARSED


def test_the_seed_plan_is_measured_from_the_database(bf: backfill.Backfill) -> None:
    """39 / 13 / 39 / 13, categories 13 and 26, 52 writes, nine batches 15 s apart."""
    shown = bf.plan(**REHEARSED).as_dict()
    candidates = shown["candidates"]
    assert (
        candidates["total"],
        candidates["missing_profile"],
        candidates["missing_fc_scores"],
        candidates["missing_both"],
    ) == (39, 13, 39, 13)
    assert shown["categories"] == {"profile+fc_scores": 13, "fc_scores": 26, "profile": 0}
    assert shown["expected_calls"] == {"score_fc_session": 39, "score_prism": 13, "total": 52}
    assert shown["expected_writes"] == {
        "fc_scores": 39, "profiles": 13, "total": 52,
        "new": {"fc_scores": 39, "profiles": 13},
        "replaced": {"fc_scores": 0, "profiles": 0},
    }  # fmt: skip
    assert [b["starts_at_s"] for b in shown["batches"]] == [15.0 * n for n in range(9)]
    assert shown["expected_runtime_s"] == 120


def test_the_whole_way_keeps_the_throttle_and_ends_verified(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """At 20 a minute the seed takes 120 s on the clock and writes its 52 rows."""
    plan = timed.plan(**REHEARSED)
    project.approve(plan)
    began = clock.now()
    outcome = timed.apply(plan.run_id)
    assert outcome.is_complete
    assert outcome.status.counts["done"] == 39
    assert (clock.now() - began).total_seconds() == pytest.approx(120, abs=5)
    verification = timed.verify(plan.run_id)
    assert verification.verdict == "pass", verification.as_dict()
    undo = timed.rollback(plan.run_id, until="2025-08-31")
    assert undo.effect.deletes["fc_scores"] == 32
    done = undo.confirm(reason="test")
    assert done.deletes == undo.effect.deletes
    assert timed.verify(plan.run_id).verdict == "pass"
    assert project.value("select count(*) from public.fc_scores where version = 'v1.2'") == 17


def test_apply_before_approval_writes_nothing(project: Project, bf: backfill.Backfill) -> None:
    """The run halts until somebody approves it."""
    plan = bf.plan(**REHEARSED)
    before = project.value("select count(*) from public.fc_scores")
    with pytest.raises(backfill.ApprovalNeeded, match="awaiting approval"):
        bf.apply(plan.run_id)
    assert project.value("select count(*) from public.fc_scores") == before
    assert project.value("select count(*) from public.backfill_receipts") == 0


def test_an_approval_that_ran_out_is_not_used(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """A plan approved long ago may no longer be wanted: the run expires."""
    plan = timed.plan(**REHEARSED)
    project.approve(plan)
    clock.advance(7 * 24 * 3600)
    with pytest.raises(backfill.ApprovalExpired):
        timed.apply(plan.run_id)
    assert timed.status(plan.run_id).state == "expired"
    assert project.value("select count(*) from public.backfill_receipts") == 0
