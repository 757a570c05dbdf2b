"""PRISM scored by Edge Functions: the whole way, with headers handed on and without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import backfill
from backfill.declaring import Receipts
from tests.conftest import Project
from tests.edge import SILENT, declare, prism_over_edge, served
from tests.seed import SEED


@pytest.fixture(params=["exact", "inferred"])
def receipts(request: pytest.FixtureRequest) -> Receipts:
    """How the receipts come about."""
    kind: Receipts = request.param
    return kind


@pytest.fixture
def asked(receipts: Receipts) -> dict[str, Any]:
    """What a plan has to accept by name."""
    return {"inferred": "prism"} if receipts == "inferred" else {}


@pytest.fixture
def over_edge(project: Project, receipts: Receipts) -> Iterator[Project]:
    """A project whose functions are Edge Functions."""
    declare(project, prism_over_edge(receipts))
    with served(project, SILENT if receipts == "inferred" else None):
        yield project


def marks(plan: backfill.Plan) -> dict[str, tuple[str, str]]:
    """Name: status and detail of a plan's checks."""
    return {c.name: (c.status, c.detail) for c in plan.checks}


def test_the_whole_way(
    over_edge: Project, timed: backfill.Backfill, receipts: Receipts, asked: dict[str, Any]
) -> None:
    """39 sessions, 52 rows with receipts, verified, undone in part, done again."""
    plan = timed.plan(**SEED, **asked)
    assert plan.expected_calls == {"score_fc_session": 39, "score_prism": 13, "total": 52}
    over_edge.approve(plan)
    assert timed.apply(plan.run_id).is_complete
    kept = over_edge.rows(
        "select is_inferred, count(*) as n from public.backfill_receipts group by 1"
    )
    assert kept == [{"is_inferred": receipts == "inferred", "n": 52}]
    seen = timed.verify(plan.run_id)
    assert (seen.verdict, seen.inferred) == ("pass", 52 if receipts == "inferred" else 0)
    undo = timed.rollback(plan.run_id, until="2025-08-31")
    assert undo.effect.inferred == (sum(undo.deletes.values()) if receipts == "inferred" else 0)
    assert undo.confirm(reason="a test").deletes == {"fc_scores": 32, "profiles": 10}
    assert timed.verify(plan.run_id).verdict == "pass"
    again = timed.plan(like=plan.run_id)
    over_edge.approve(again)
    assert timed.apply(again.run_id).status.counts["done"] == 32
