"""What changed since a plan was sealed: show says it, apply says it before the first batch."""

from __future__ import annotations

import re

import pytest

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.seed import SEED

SCORE = "select public.score_prism(%s, 'v1.2.1')"
SCORE_FC = "select public.score_fc_session(%s, 'v1.2', 'functions')"
COMPLETE = "update public.assessment_sessions set status = 'completed' where id = %s"
UNFINISHED = """
select s.id::text from public.assessment_sessions as s
where s.status <> 'completed' and s.created_at >= '2025-08-01'
  and exists (select from public.assessment_responses as r where r.session_id = s.id)
  and exists (select from public.fc_responses as r where r.session_id = s.id)
order by s.id limit 1
"""
UNTELLABLE = """
create or replace function backfill_private.new_candidates(p_run public.backfill_runs)
returns jsonb language plpgsql set search_path = '' as $$
begin
  raise exception 'no' using errcode = 'CODE';
end
$$
"""
FAST = {**SEED, "throttle_per_minute": 60_000, "batch_size": 20}


def fill(project: Project, plan: backfill.Plan, number: int) -> list[str]:
    """Score some of the plan's sessions as somebody else would. Returns their ids."""
    chosen = [s.session_id for s in plan.sessions[-number:]]
    for session_id in chosen:
        project.value(SCORE_FC, session_id)
        project.value(SCORE, session_id)
    return chosen


def change_scorer(project: Project) -> None:
    """Another definition of score_prism, which does the same."""
    text = project.value("select pg_get_functiondef('public.score_prism(uuid,text)'::regprocedure)")
    project.db.execute(re.sub(r"(?i)\bbegin\b", "begin -- changed\n", text, count=1).encode())


def seen_of(bf: backfill.Backfill, plan: backfill.Plan) -> backfill.Freshness:
    seen = bf.freshness(plan.run_id)
    assert seen is not None
    return seen


def test_nothing_changed(bf: backfill.Backfill) -> None:
    """Just sealed: fresh, and the plan that is shown says so."""
    plan = bf.plan(**SEED)
    assert plan.freshness is None
    seen = seen_of(bf, plan)
    assert (seen.is_fresh, seen.state, seen.approved_until) == (True, "awaiting_approval", None)
    assert "Nothing changed: the same candidates" in bf.get(plan.run_id).markdown()


def test_what_somebody_else_filled_is_named(project: Project, bf: backfill.Backfill) -> None:
    """A session counts where all that it lacked is there now; half of it is not enough."""
    plan = bf.plan(**SEED)
    filled = fill(project, plan, 2)
    half = next(s for s in plan.sessions if len(s.components) == 2 and s.session_id not in filled)
    project.value(SCORE_FC, half.session_id)
    seen = seen_of(bf, plan)
    assert (set(seen.filled), seen.filled_total) == (set(filled), 2)
    assert (seen.new_candidates_total, seen.changes, seen.is_fresh) == (0, (), False)
    section = bf.get(plan.run_id).markdown().split("## Candidate")[0]
    assert "2 sessions filled meanwhile: they will be skipped" in section
    assert all(f"`{session_id}`" in section for session_id in filled)


def test_new_candidates_are_named_and_not_scored(project: Project, bf: backfill.Backfill) -> None:
    """A session that was completed later lacks its rows; the plan does not grow by it."""
    plan = bf.plan(**FAST)
    late = project.value(UNFINISHED)
    project.db.execute(COMPLETE, (late,))
    seen = seen_of(bf, plan)
    assert (seen.new_candidates, seen.new_candidates_total) == ((late,), 1)
    project.approve(plan)
    assert bf.apply(plan.run_id).status.counts["done"] == 39


def test_a_changed_definition_and_a_changed_setting_are_named(
    project: Project, bf: backfill.Backfill
) -> None:
    """With what they were and are; the digest of a changed definition no longer matches."""
    plan = bf.plan(**SEED)
    project.db.execute("update public.backfill_settings set max_sessions = 40")
    seen = seen_of(bf, plan)
    changed = [(c.kind, c.name, c.was, c.now) for c in seen.changes]
    assert changed == [("setting", "max_sessions", None, "40")]
    assert seen.digest_matches
    change_scorer(project)
    seen = seen_of(bf, plan)
    assert [c.name for c in seen.changes] == ["public.score_prism(uuid,text)", "max_sessions"]
    assert seen.changes[0].was != seen.changes[0].now
    assert not seen.digest_matches
    text = bf.get(plan.run_id).markdown()
    assert "was not set, is 40" in text
    assert "nothing will be scored" in text


def test_the_life_of_an_approval_is_told(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Seven days at first, none in the end; then the plan is not fresh."""
    plan = timed.plan(**SEED)
    project.approve(plan)
    seen = seen_of(timed, plan)
    assert (seen.approval_left_s, seen.is_fresh) == (7 * 86_400, True)
    project.db.execute("update public.test_clock set now_at = now_at + interval '8 days'")
    seen = seen_of(timed, plan)
    assert (seen.approval_left_s, seen.is_fresh) == (0, False)
    assert "The approval ran out at" in timed.get(plan.run_id).markdown()


def test_of_a_finished_run_nothing_is_told(project: Project, bf: backfill.Backfill) -> None:
    """Nothing is to come of it: verify says how it stands."""
    plan = bf.plan(**FAST)
    project.approve(plan)
    bf.apply(plan.run_id)
    assert bf.freshness(plan.run_id) is None
    assert "Since the plan was sealed" not in bf.get(plan.run_id).markdown()
    with pytest.raises(backfill.UnknownRun):
        bf.freshness("00000000-0000-0000-0000-000000000000")


def test_what_this_run_wrote_is_not_filled_meanwhile(
    project: Project, bf: backfill.Backfill
) -> None:
    """Between two applies only others' rows count."""
    plan = bf.plan(**FAST)
    project.approve(plan)
    heard: list[backfill.Event] = []
    bf.apply(plan.run_id, on_event=heard.append, should_stop=lambda: len(heard) > 6)
    seen = seen_of(bf, plan)
    assert seen.state == "running"
    assert bf.status(plan.run_id).counts["done"] > 0
    assert (seen.filled_total, seen.new_candidates_total) == (0, 0)


def test_apply_says_it_before_the_first_batch(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """An event with the counts, and a line each on stderr."""
    plan = bf.plan(**FAST)
    fill(project, plan, 3)
    project.approve(plan)
    heard: list[backfill.Event] = []
    bf.apply(plan.run_id, on_event=heard.append, should_stop=lambda: len(heard) > 1)
    assert [(e.kind, e.details.get("filled_total")) for e in heard] == [
        ("run_started", None),
        ("freshness", 3),
    ]
    said = shell("apply", plan.run_id)
    line = "changed since the plan was sealed: 3 sessions filled meanwhile: they will be skipped"
    assert said.err.index(line) < said.err.index("batch 1")


@pytest.mark.parametrize("code", ["57014", "42703"], ids=["too slow", "a view that broke"])
def test_where_it_cannot_be_told_nothing_else_is_held_up(
    project: Project, bf: backfill.Backfill, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    """It takes as long as detection does; the plan is shown, and applied, without it."""
    plan = bf.plan(**FAST)
    project.approve(plan)
    project.db.execute(UNTELLABLE.replace("CODE", code).encode())
    with pytest.raises(backfill.BackfillError):
        bf.freshness(plan.run_id)
    text = bf.get(plan.run_id).markdown()
    assert "## Since the plan was sealed\n\nThis could not be told: " in text
    assert bf.apply(plan.run_id).is_complete
    assert "backfill.freshness_unknown" in [record.getMessage() for record in caplog.records]
