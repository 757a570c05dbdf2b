"""An approval binds the plan, the server and the functions: the digest says so."""

from __future__ import annotations

import pytest

import backfill
from tests.conftest import Project
from tests.kit.seed import SEED

CHANGES = {
    "a scoring function": "alter function public.score_prism(uuid, text) cost 7",
    "a right on a scoring function":
        "grant execute on function public.score_prism(uuid, text) to authenticated",
    "a row of backfill_targets":
        "update public.backfill_targets set version = 'v9' where component = 'profile'",
    "a helper that backfill_targets names":
        "update public.backfill_targets set helpers = '{public.fc_type(jsonb)}'"
        " where component = 'profile'",
}  # fmt: skip


def test_the_same_request_on_the_same_state_gives_the_same_digest(bf: backfill.Backfill) -> None:
    """No time, no run id, no measurement goes in."""
    first, second = bf.plan(**SEED), bf.plan(**SEED)
    assert first.run_id != second.run_id
    assert first.digest == second.digest


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 4}, {"throttle_per_minute": 21}, {"priority": []}, {"since": "2025-08-02"},
     {"recent_since": "2025-09-05"}, {"fc_version": "v1.3"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_another_request_gives_another_digest(
    bf: backfill.Backfill, change: dict[str, object]
) -> None:
    """Every parameter goes in."""
    assert bf.plan(**SEED).digest != bf.plan(**{**SEED, **change}).digest


def test_another_state_gives_another_digest(project: Project, bf: backfill.Backfill) -> None:
    """Every session goes in, with its category."""
    first = bf.plan(**SEED)
    project.db.execute(
        "select public.score_fc_session(%s, 'v1.2', 'functions')", (first.sessions[5].session_id,)
    )
    assert bf.plan(**SEED).digest != first.digest


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_since_sealing_is_not_approved(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """The digest is computed again at approval, and by a new plan."""
    plan = bf.plan(**SEED)
    project.db.execute(CHANGES[what].encode())
    with pytest.raises(backfill.PlanChanged, match="no longer what stands there"):
        bf.approve(plan.run_id, digest=plan.digest)
    assert bf.plan(**{**SEED, "engine_version": "v1.2.1"}).digest != plan.digest


def test_another_database_gives_another_digest(project: Project, bf: backfill.Backfill) -> None:
    """The database's name and the cluster's identifier are part of the plan."""
    row = project.rows("select backfill_private.server_identity() as here")[0]
    assert project.db.info.dbname in row["here"]
    plan = bf.plan(**SEED)
    project.db.execute(
        "create or replace function backfill_private.server_identity() returns text"
        " language sql as $$ select 'somewhere else' $$"
    )
    assert bf.plan(**SEED).digest != plan.digest


@pytest.mark.parametrize("change", ["phase = 'recent'", "session_at = session_at + '1 us'"])
def test_a_sealed_plan_changed_by_a_superuser_is_not_approved(
    project: Project, bf: backfill.Backfill, change: str
) -> None:
    """Guards hold everybody else off; the recomputed digest catches whoever disables them."""
    plan = bf.plan(**SEED)
    project.admin.execute(
        "alter table public.backfill_items disable trigger backfill_items_guard;"
        f"update public.backfill_items set {change} where ordinal = 39".encode()
    )
    with pytest.raises(backfill.PlanChanged):
        bf.approve(plan.run_id, digest=plan.digest)
