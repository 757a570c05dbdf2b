"""What is scored is still selected: a plan may be days old, and people delete what is theirs."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.commands import Shell
from tests.kit.jars import PLAN, jars, labelled

THROWN_AWAY = "update public.jars set thrown_away_at = now() where id = any(%s)"
BROKEN = "delete from public.jars where id = any(%s)"
GONE = "gone from jars"
UNSELECTED = "the target no longer selects it"


def approved(project: Project, bf: backfill.Backfill, **request: Any) -> backfill.Plan:
    plan = bf.plan(**{**PLAN, **request})
    project.approve(plan)
    return plan


def skipped(project: Project) -> dict[str, str]:
    """The skipped sessions and why."""
    return {
        row["session_id"]: row["unselected"]
        for row in project.rows("select * from public.backfill_items where state = 'skipped'")
    }


@pytest.mark.parametrize("mode", ["direct", "bulk"])
def test_nothing_is_derived_of_what_was_deleted_since(
    project: Project, bf: backfill.Backfill, shell: Shell, mode: str
) -> None:
    """Marked as deleted or gone: skipped with the reason, which every verb tells."""
    jars(project, *range(1, 9))
    plan = approved(project, bf, mode=mode, batch_size=3, priority=["2"])
    project.db.execute(THROWN_AWAY, ([2, 5],))
    project.db.execute(BROKEN, ([4],))
    seen = bf.freshness(plan.run_id)
    assert seen is not None
    assert not seen.is_fresh
    assert (seen.unselected_total, seen.new_candidates_total) == (3, 0)
    assert {u["session_id"]: u["reason"] for u in seen.unselected} == {
        "2": UNSELECTED, "4": GONE, "5": UNSELECTED,
    }  # fmt: skip
    shown = shell("show", plan.run_id).out.split("## Candidate")[0]
    assert "- 3 sessions no longer selected: they will be skipped" in shown
    assert f"No longer selected: `2`, `5` ({UNSELECTED}); `4` ({GONE})." in shown
    said = shell("apply", plan.run_id)
    assert "changed since the plan was sealed: 3 sessions no longer selected" in said.err
    assert "5 done, 3 skipped\n  3 sessions skipped: no longer selected\n" in said.out
    assert labelled(project) == {"1", "3", "6", "7", "8"}
    assert skipped(project) == {"2": UNSELECTED, "4": GONE, "5": UNSELECTED}
    verified = bf.verify(plan.run_id)
    assert verified.verdict == "pass"
    assert sorted(r["session_id"] for r in verified.buckets["no_longer_selected"]) == [*"245"]
    assert "      no_longer_selected: 3\n" in shell("verify", plan.run_id).out
    assert (
        f"| 2 | `4` | `label` | 2025-08-02T10:03:00Z | skipped | {GONE} |"
        in (shell("show", plan.run_id).out.replace("| 6 |", "| 2 |"))
        or f"skipped | {GONE} |" in shell("show", plan.run_id).out
    )
    assert project.value("select count(*) from public.backfill_receipts") == 5


def test_a_session_that_lost_what_it_needs_is_skipped(
    project: Project, bf: backfill.Backfill
) -> None:
    """With the reason that a plan would give."""
    jars(project, 1, 2, 3, needs=True)
    project.db.execute("insert into public.spoons select id from public.jars")
    plan = approved(project, bf)
    project.db.execute("delete from public.spoons where jar_id = 2")
    assert bf.apply(plan.run_id).is_complete
    assert labelled(project) == {"1", "3"}
    assert skipped(project) == {"2": "0 spoons, at least 1 needed"}


def test_a_plans_own_parameters_decide(project: Project, bf: backfill.Backfill) -> None:
    """Not the defaults of the target."""
    jars(project, 1, 2, needs=True)
    plan = approved(project, bf, parameters={"min_spoons": 0})
    assert bf.apply(plan.run_id).is_complete
    assert (labelled(project), skipped(project)) == ({"1", "2"}, {})


def test_a_retried_session_is_asked_about_again(project: Project, bf: backfill.Backfill) -> None:
    """It failed, its jar was thrown away, and then somebody retries."""
    jars(project, 1, 2)
    project.db.execute("alter table public.labels add constraint no_two check (jar_id <> 2)")
    plan = approved(project, bf)
    assert [f.session_id for f in bf.apply(plan.run_id).failures] == ["2"]
    project.db.execute("alter table public.labels drop constraint no_two")
    project.db.execute(THROWN_AWAY, ([2],))
    outcome = bf.retry(plan.run_id)
    assert outcome.is_complete
    assert (outcome.status.counts["skipped"], outcome.status.unselected) == (1, 1)
    assert labelled(project) == {"1"}
    assert bf.verify(plan.run_id).verdict == "pass"


def test_between_a_pause_and_its_resume_too(project: Project, bf: backfill.Backfill) -> None:
    """What was not claimed yet is asked about when it is."""
    jars(project, *range(1, 7))
    plan = approved(project, bf, batch_size=2)
    heard: list[backfill.Event] = []
    bf.apply(plan.run_id, on_event=heard.append, should_stop=lambda: len(heard) > 3)
    done = labelled(project)
    bf.pause(plan.run_id, reason="t")
    project.db.execute(THROWN_AWAY, ([*range(1, 7)],))
    bf.resume(plan.run_id)
    assert bf.apply(plan.run_id).is_complete
    assert labelled(project) == done
    assert len(skipped(project)) == 6 - len(done)


def test_a_session_that_was_filled_and_then_deleted_counts_as_filled(
    project: Project, bf: backfill.Backfill
) -> None:
    """The row is there, whoever wrote it."""
    jars(project, 1, 2)
    plan = approved(project, bf)
    project.value("select public.label_jar(1, 'ink')")
    project.db.execute(THROWN_AWAY, ([1],))
    bf.apply(plan.run_id)
    verified = bf.verify(plan.run_id)
    assert verified.verdict == "pass"
    assert [r["session_id"] for r in verified.buckets["filled_elsewhere"]] == ["1"]
    assert len(verified.buckets["no_longer_selected"]) == 0


def test_a_row_that_goes_with_its_session_is_not_lost(
    project: Project, bf: backfill.Backfill
) -> None:
    """A person is deleted after the run, and what refers to them with them. A row alone is lost."""
    jars(project, 1, 2, labels="references public.jars on delete cascade")
    plan = approved(project, bf)
    bf.apply(plan.run_id)
    project.db.execute(BROKEN, ([2],))
    verified = bf.verify(plan.run_id)
    assert (verified.verdict, verified.critical) == ("pass", ())
    assert [r["session_id"] for r in verified.buckets["no_longer_selected"]] == ["2"]
    project.db.execute("delete from public.labels")
    verified = bf.verify(plan.run_id)
    assert (verified.verdict, verified.critical) == ("fail", ("1: a written row is gone",))


@pytest.mark.parametrize("mode", ["direct", "bulk"])
def test_without_the_view_that_selects_the_run_pauses(
    project: Project, bf: backfill.Backfill, mode: str
) -> None:
    """Nothing is scored while nobody can say whether it should be."""
    jars(project, 1, 2)
    plan = approved(project, bf, mode=mode)
    project.db.execute("drop view backfill_private.jars_standing cascade")
    with pytest.raises(backfill.Paused, match=r"backfill_private\.jars_standing is gone"):
        bf.apply(plan.run_id)
    assert labelled(project) == set()


@pytest.mark.parametrize("again", ["renewed", "claimed again"])
def test_a_session_that_is_deleted_while_it_is_leased_writes_no_more(
    project: Project, bf: backfill.Backfill, again: str
) -> None:
    """A renewal looks again, a repeated claim too, and the gate refuses what is under way."""
    db = project.db
    jars(project, 1, 2)
    plan = approved(project, bf)
    verbs.start(db, plan.run_id)
    claim_id = str(uuid4())
    claim = verbs.claim(db, plan.run_id, claim_id)
    db.execute(THROWN_AWAY, ([2],))
    if again == "renewed":
        renewed = verbs.call(db, "backfill_renew", p_run_id=plan.run_id, p_claim_id=claim_id)
        assert renewed == 2
    else:
        claim = verbs.claim(db, plan.run_id, claim_id)
    two, one = claim["granted"]
    with pytest.raises(psycopg.DatabaseError) as refused:
        verbs.score(db, plan.run_id, two["fence"], two["steps"][0])
    assert refused.value.sqlstate == "OB011"
    released = {"ordinal": two["ordinal"], "outcome": "released"}
    outcomes = [released, verbs.score_all(db, plan.run_id, one)]
    settled = verbs.settle(db, plan.run_id, claim_id, outcomes)["settled"]
    assert {s["session_id"]: s["state"] for s in settled} == {"1": "done", "2": "pending"}
    assert verbs.claim(db, plan.run_id)["state"] == "completed"
    assert labelled(project) == {"1"}
    assert skipped(project) == {"2": UNSELECTED}
    assert bf.verify(plan.run_id).verdict == "pass"
