"""What changes between a plan and its run: less to do is skipped, more is named, never scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import backfill
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.moments import once
from tests.kit.seed import SEED

IN_RANGE = "2025-08-20T12:00:00Z"


@once
def approved(project: Project, bf: backfill.Backfill, **request: Any) -> backfill.Plan:
    plan = bf.plan(**SEED | request)
    project.approve(plan)
    return plan


def fill(project: Project, sessions: Sequence[backfill.PlannedSession]) -> None:
    """Score sessions as somebody else does: without a run's header."""
    for session in sessions:
        key = session.session_id
        if "fc_scores" in session.components:
            project.db.execute("select public.score_fc_session(%s, 'v1.2', 'functions')", (key,))
        if "profile" in session.components:
            project.db.execute("select public.score_prism(%s, 'v1.2.1')", (key,))


def complete_a_session(
    project: Project, at: str = IN_RANGE, *, responses: int = 1, fc_responses: int = 1
) -> str:
    """A completed session without any score; its id."""
    session_id: str = project.value(
        "insert into public.assessment_sessions (status, created_at)"
        " values ('completed', %s) returning id::text",
        at,
    )
    answer(project, session_id, responses, fc_responses)
    return session_id


def answer(project: Project, session_id: str, responses: int, fc_responses: int) -> None:
    project.db.execute(
        "insert into public.assessment_responses (session_id, question_id, answer_value)"
        " select %s, n, 3 from generate_series(1, %s) as n on conflict do nothing",
        (session_id, responses),
    )
    project.db.execute(
        "insert into public.fc_responses (session_id, block_id, option_id)"
        " select %s, n, 1 from generate_series(1, %s) as n on conflict do nothing",
        (session_id, fc_responses),
    )


# -- less than was planned


def test_what_was_filled_since_is_counted_alike_by_verify_summary_and_status(
    project: Project, timed: backfill.Backfill, shell: Shell, tmp_path: Path
) -> None:
    """Three sessions skipped; their rows are filled elsewhere, and the verdict is pass."""
    plan = approved(project, timed)
    filled = plan.sessions[-3:]
    fill(project, filled)
    timed.apply(plan.run_id, logs_dir=tmp_path)
    rows = sum(len(session.components) for session in filled)
    verification = timed.verify(plan.run_id)
    assert verification.verdict == "pass"
    elsewhere = verification.buckets["filled_elsewhere"]
    assert {row["session_id"] for row in elsewhere} == {s.session_id for s in filled}
    assert len(elsewhere) == rows
    assert timed.status(plan.run_id).counts["skipped"] == 3
    assert shell("status", plan.run_id, "--json").json["counts"]["skipped"] == 3
    assert "3 skipped" in shell("status", plan.run_id).out
    assert f"filled_elsewhere: {rows}\n" in shell("verify", plan.run_id).out
    summary = (tmp_path / plan.run_id / "summary.md").read_text()
    assert "| skipped | 3 |" in summary
    assert f"| filled elsewhere | {rows} |" in summary
    assert all(session.session_id in summary for session in filled)


def test_a_plan_that_only_shrank_keeps_its_digest_and_runs(
    project: Project, timed: backfill.Backfill
) -> None:
    """Filled before the approval, and between approval and start: it does less, no more is asked.

    All of the priority phase is among it: there is no canary left to look at.
    """
    plan = timed.plan(**SEED)
    priority = [s for s in plan.sessions if s.phase == "priority"]
    fill(project, priority)
    project.approve(plan)
    fill(project, plan.sessions[-10:])
    outcome = timed.apply(plan.run_id)
    assert outcome.is_complete
    assert (outcome.status.counts["skipped"], outcome.status.counts["done"]) == (12, 27)
    assert timed.get(plan.run_id).digest == plan.digest
    assert timed.verify(plan.run_id).verdict == "pass"


def test_a_plan_of_which_nothing_is_left_completes_without_a_call(
    project: Project, timed: backfill.Backfill
) -> None:
    """Every session was filled elsewhere: all are skipped, no receipt is written."""
    plan = approved(project, timed)
    fill(project, plan.sessions)
    outcome = timed.apply(plan.run_id)
    assert (outcome.state, outcome.status.counts["skipped"]) == ("completed", 39)
    assert project.value("select count(*) from public.backfill_receipts") == 0
    assert timed.verify(plan.run_id).verdict == "pass"


# -- more than was planned


def test_a_new_candidate_is_named_and_neither_scored_nor_judged(
    project: Project, timed: backfill.Backfill
) -> None:
    """The verdict, the criteria and the buckets are those of a run without it."""
    plan = approved(project, timed)
    without = timed.verify(plan.run_id)
    assert (without.new_candidates, without.new_candidates_total) == ((), 0)
    came = complete_a_session(project)
    assert timed.apply(plan.run_id).is_complete
    verification = timed.verify(plan.run_id)
    assert (verification.new_candidates, verification.new_candidates_total) == ((came,), 1)
    assert verification.verdict == "pass"
    assert [c.name for c in verification.criteria] == [c.name for c in without.criteria]
    assert not [r for rows in verification.buckets.values() for r in rows if came in str(r)]
    assert project.value("select count(*) from public.fc_scores where session_id = %s", came) == 0


def test_new_candidates_come_newest_first_whatever_made_them_so(
    project: Project, timed: backfill.Backfill
) -> None:
    """Completed since, answered enough since, or a score that was deleted since."""
    unfinished, complete = (
        project.value(
            "select s.id::text from public.assessment_sessions as s"
            " left join public.fc_scores as f on f.session_id = s.id and f.version = 'v1.2'"
            " where s.created_at >= '2025-08-01' and s.status = %s"
            " and (f.session_id is null) = (s.status <> 'completed') limit 1",
            status,
        )
        for status in ("in_progress", "completed")
    )
    few = complete_a_session(project, "2025-08-30T00:00:00Z", responses=0)
    plan = approved(project, timed)
    answer(project, few, 1, 0)
    answer(project, unfinished, 1, 1)
    project.db.execute(
        "update public.assessment_sessions set status = 'completed',"
        " created_at = '2025-08-29' where id = %s",
        (unfinished,),
    )
    project.db.execute("delete from public.fc_scores where session_id = %s", (complete,))
    project.db.execute(
        "update public.assessment_sessions set created_at = '2025-08-28' where id = %s",
        (complete,),
    )
    assert timed.verify(plan.run_id).new_candidates == (few, unfinished, complete)


def test_new_candidates_are_those_of_the_runs_own_request(
    project: Project, timed: backfill.Backfill
) -> None:
    """Outside its dates, of other versions, with too few responses for it: nobody new."""
    request = {"since": "2025-08-10", "until": "2025-08-20", "min_responses": 3}
    plan = approved(project, timed, **request, priority=[])
    for at in ("2025-08-09T23:59:59Z", "2025-08-21T00:00:00Z"):
        complete_a_session(project, at, responses=3)
    complete_a_session(project, responses=2)
    last = complete_a_session(project, "2025-08-20T23:59:59Z", responses=3)
    project.db.execute("update public.backfill_targets set version = 'v9'")
    assert timed.verify(plan.run_id).new_candidates == (last,)


def test_what_a_run_has_planned_is_never_new(project: Project, timed: backfill.Backfill) -> None:
    """Not what is pending, nor what an undo took back: its plan names them."""
    plan = approved(project, timed)
    assert timed.verify(plan.run_id).new_candidates_total == 0
    timed.apply(plan.run_id)
    timed.rollback(plan.run_id, until="2025-08-10").confirm(reason="a test")
    assert timed.verify(plan.run_id).new_candidates_total == 0


def test_a_plan_like_it_takes_the_new_candidates(
    project: Project, timed: backfill.Backfill
) -> None:
    """Same request; those and no others, since the rest is done."""
    plan = approved(project, timed)
    came = {complete_a_session(project), complete_a_session(project, "2025-09-30T00:00:00Z")}
    timed.apply(plan.run_id)
    assert set(timed.verify(plan.run_id).new_candidates) == came
    again = timed.plan(like=plan.run_id)
    assert {session.session_id for session in again.sessions} == came
    project.approve(again)
    assert timed.apply(again.run_id).is_complete
    assert timed.verify(plan.run_id).new_candidates == ()


def test_every_answer_names_them_with_the_next_command(
    project: Project, timed: backfill.Backfill, shell: Shell, tmp_path: Path
) -> None:
    """JSON, terminal and summary.md; where there are none, not a word."""
    plan = approved(project, timed)
    timed.apply(plan.run_id, logs_dir=tmp_path)
    quiet = shell("verify", plan.run_id)
    assert (quiet.code, "new candidate" in quiet.out) == (0, False)
    assert "New candidates" not in (tmp_path / plan.run_id / "summary.md").read_text()
    came = complete_a_session(project)
    ran = shell("verify", plan.run_id, "--json")
    assert (ran.code, ran.json["new_candidates"]) == (0, [came])
    assert ran.json["new_candidates_total"] == 1
    summary = (timed.write_logs(plan.run_id, tmp_path) / "summary.md").read_text()
    for text in (shell("verify", plan.run_id).out, summary):
        assert came in text
        assert f"backfill plan --like {plan.run_id}" in text


@pytest.mark.parametrize(("count", "listed"), [(1000, 1000), (1001, 1000)])
def test_a_thousand_new_candidates_are_listed_and_all_are_counted(
    project: Project, timed: backfill.Backfill, count: int, listed: int
) -> None:
    """The list is cut where an answer of the API would be."""
    plan = approved(project, timed)
    project.db.execute(
        "with come as (insert into public.assessment_sessions (status, created_at)"
        " select 'completed', '2025-10-01T00:00:00Z'::timestamptz + n * interval '1 second'"
        " from generate_series(1, %s) as n returning id), answered as ("
        " insert into public.assessment_responses (session_id, question_id, answer_value)"
        " select id, 1, 3 from come)"
        " insert into public.fc_responses (session_id, block_id, option_id)"
        " select id, 1, 1 from come",
        (count,),
    )
    verification = timed.verify(plan.run_id)
    assert len(set(verification.new_candidates)) == listed
    assert verification.new_candidates_total == count
