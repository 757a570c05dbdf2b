"""Without a throttle a worker claims the next batch while it scores one; else one by one."""

from __future__ import annotations

from typing import Any

import pytest

import backfill
from tests.conftest import Project
from tests.kit.scorers import misbehave
from tests.kit.seed import CANARY, CANDIDATES, SEED

FREE: dict[str, Any] = {**SEED, "throttle_per_minute": "none", "batch_size": 5}


def applied(project: Project, bf: backfill.Backfill, **request: Any) -> list[tuple[str, int]]:
    """What was told of the batches of a run that completes: kind and number, in order."""
    plan = bf.plan(**{**FREE, **request})
    project.approve(plan)
    heard: list[backfill.Event] = []
    assert bf.apply(plan.run_id, on_event=heard.append).is_complete
    assert bf.verify(plan.run_id).verdict == "pass"
    return [(e.kind, e.details["batch"]) for e in heard if e.kind.startswith("batch_")]


def ahead(told: list[tuple[str, int]]) -> set[int]:
    """The batches that were started while one before them was not settled."""
    begun = {n: place for place, (kind, n) in enumerate(told) if kind == "batch_started"}
    settled = {n: place for place, (kind, n) in enumerate(told) if kind == "batch_settled"}
    return {n for n in begun if n - 1 in begun and begun[n] < settled[n - 1]}


def test_without_a_throttle_the_next_batch_is_claimed_ahead(
    project: Project, bf: backfill.Backfill
) -> None:
    """It is scored while the one before it is settled; every batch is settled once."""
    told = applied(project, bf, priority=[])
    assert ahead(told)
    settled = [n for kind, n in told if kind == "batch_settled"]
    assert sorted(settled) == [*range(1, 10)]  # 7 recent sessions, 32 historical ones


def test_nothing_is_claimed_ahead_of_the_canary(project: Project, bf: backfill.Backfill) -> None:
    """The priority sessions are settled and looked at before anything else starts."""
    assert 2 not in ahead(applied(project, bf))


def test_with_a_throttle_a_batch_is_settled_before_the_next(
    project: Project, timed: backfill.Backfill
) -> None:
    """The throttle is the clock: what was claimed early would only be held longer."""
    assert not ahead(applied(project, timed, throttle_per_minute=60_000))


def test_a_cause_that_hits_every_session_ends_all_batches_under_way(
    project: Project, bf: backfill.Backfill
) -> None:
    """What has not begun is given back, and nobody has failed."""
    misbehave(project.db, {"right": [r["session_id"] for r in project.rows(CANDIDATES)]})
    plan = bf.plan(**{**FREE, "priority": []})
    project.approve(plan)
    with pytest.raises(backfill.Paused, match="42501"):
        bf.apply(plan.run_id)
    counts = bf.status(plan.run_id).counts
    assert (counts["pending"], counts["leased"], counts["failed"]) == (39, 0, 0)
    tried = project.rows("select sum(attempts) as n from public.backfill_items")[0]["n"]
    assert tried <= 3 * FREE["batch_size"]


def test_a_failed_session_does_not_hold_up_the_batches_behind_it(
    project: Project, bf: backfill.Backfill
) -> None:
    """One failure is one failure."""
    failing = next(r["session_id"] for r in project.rows(CANDIDATES) if r["session_id"] != CANARY)
    misbehave(project.db, {"fail": [failing]})
    plan = bf.plan(**{**FREE, "priority": []})
    project.approve(plan)
    outcome = bf.apply(plan.run_id)
    assert [f.session_id for f in outcome.failures] == [failing]
    assert outcome.status.counts["done"] == 38
