"""A table or a column of the target gets another name while a run is under way."""

from __future__ import annotations

import pytest

import backfill
from tests.conftest import Project
from tests.kit.seed import SEED

TABLE = "alter table public.{} rename to {}"
COLUMN = "alter table public.{} rename column {} to {}"
# What gets a new name, the way back, and what is said of it.
RENAMED = {
    "a table": (
        TABLE.format("profiles", "people"),
        TABLE.format("people", "profiles"),
        "public.profiles does not exist",
    ),
    "a version column": (
        COLUMN.format("profiles", "results_version", "results"),
        COLUMN.format("profiles", "results", "results_version"),
        "public.profiles has no column results_version",
    ),
    "a version column of a key": (
        COLUMN.format("fc_scores", "version", "edition"),
        COLUMN.format("fc_scores", "edition", "version"),
        "public.fc_scores has no column version",
    ),
}


@pytest.mark.parametrize("what", RENAMED)
def test_the_run_pauses_with_what_is_gone_and_goes_on_once_it_is_back(
    what: str, project: Project, timed: backfill.Backfill
) -> None:
    """Whoever asks is told the same, with what to do, and never that nothing is installed."""
    rename, back, gone = RENAMED[what]
    plan = timed.plan(**SEED)
    project.approve(plan)

    def once(event: backfill.Event) -> None:
        if event.kind == "batch_settled" and event.details["batch"] == 2:
            project.db.execute(rename.encode())

    with pytest.raises(backfill.Paused, match=gone) as paused:
        timed.apply(plan.run_id, on_event=once)
    assert "Give it back the name that the target declares" in paused.value.next_step
    status = timed.status(plan.run_id)
    assert (status.state, status.reason) == ("paused", gone)
    assert (status.counts["done"], status.counts["failed"]) == (7, 0)
    for verb in (timed.verify, timed.page, timed.resume):
        with pytest.raises(backfill.PlanChanged, match=gone) as refused:
            verb(plan.run_id)
        assert "Give it back the name that the target declares" in refused.value.next_step
    project.db.execute(back.encode())
    timed.resume(plan.run_id)
    assert timed.apply(plan.run_id).is_complete
    assert timed.verify(plan.run_id).verdict == "pass"


def test_an_undo_of_a_table_that_is_gone_says_where_to_look(
    project: Project, timed: backfill.Backfill
) -> None:
    """PostgreSQL's own words, and the check, which names the table of the target."""
    plan = timed.plan(**SEED)
    project.approve(plan)
    timed.apply(plan.run_id)
    project.db.execute(RENAMED["a table"][0].encode())
    with pytest.raises(backfill.BackfillError, match="profiles") as refused:
        timed.rollback(plan.run_id)
    assert not isinstance(refused.value, backfill.NotInstalled)
    assert refused.value.next_step == "backfill check"
