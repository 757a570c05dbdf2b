"""A project whose scorers are Edge Functions as they are, with clients of the module."""

from __future__ import annotations

from typing import Any

import pytest

import backfill
from tests.conftest import Project
from tests.kit import lessons
from tests.kit.edge import served


def letters(project: Project) -> list[dict[str, Any]]:
    """The letters as they stand."""
    return project.rows("select lesson_id, edition, said from public.letters order by lesson_id")


def test_untouched_functions_go_the_whole_way(project: Project, timed: backfill.Backfill) -> None:
    """With inferred receipts, to the undo that brings back what was overwritten."""
    lessons.install(project, "inferred")
    before = letters(project)
    plan = timed.plan(**lessons.ASKED, inferred="lessons")
    assert plan.expected_calls == {"mark_lesson": 3, "write_letter": 3, "total": 6}
    project.approve(plan)
    with served(project, lessons.FUNCTIONS):
        assert timed.apply(plan.run_id).is_complete
    seen = timed.verify(plan.run_id)
    assert (seen.verdict, seen.inferred, seen.without_headers) == ("pass", 6, None)
    undone = timed.rollback(plan.run_id).confirm(reason="a test")
    assert (undone.deletes, undone.restores) == (
        {"marks": 3, "letters": 2},
        {"marks": 0, "letters": 1},
    )
    assert letters(project) == before
    assert project.value("select count(*) from public.marks") == 0


def test_the_first_writes_of_a_function_without_headers_can_be_undone(
    project: Project, timed: backfill.Backfill
) -> None:
    """Declared exact, and it hands none on: the run ends there, and every row comes back."""
    lessons.install(project, "exact")
    before = letters(project)
    plan = timed.plan(**lessons.ASKED, priority=["1"])
    project.approve(plan)
    with (
        served(project, lessons.FUNCTIONS),
        pytest.raises(backfill.Paused, match="mark_lesson, write_letter wrote without") as paused,
    ):
        timed.apply(plan.run_id)
    assert "_shared/backfill.ts" in paused.value.next_step
    assert {f.error_code for f in timed.outcome(plan.run_id).failures} == {"OB016"}
    assert letters(project) != before
    seen = timed.verify(plan.run_id)
    assert (seen.verdict, seen.without_headers) == ("fail", "mark_lesson, write_letter")
    for goes_on in (timed.resume, timed.retry):
        with pytest.raises(backfill.IllegalMove, match="cannot go on: mark_lesson") as refused:
            goes_on(plan.run_id)
        assert refused.value.next_step.endswith(f"backfill plan --like {plan.run_id}")
    with pytest.raises(backfill.IllegalMove):
        timed.resume(plan.run_id, because="somebody else wrote it")
    undo = timed.rollback(plan.run_id)
    assert undo.effect.inferred == 2
    assert undo.confirm(reason="a test").restores == {"marks": 0, "letters": 1}
    assert letters(project) == before
    with pytest.raises(backfill.IllegalMove, match="cannot go on"):
        timed.resume(plan.run_id)
