"""A core without a target: every verb says just that, and what to do about it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.commands import Shell

SAID = "no target is installed"
NEXT = "backfill target new, or backfill install --target prism"
RUN = str(UUID(int=7))

COMMANDS = [
    "missing",
    "watch",
    "heal",
    "plan --environment staging",
    f"plan --since 2025-08-01 --like {RUN}",
    "runs",
    "runs --state running",
    f"show {RUN}",
    f"approve {RUN} --digest d",
    f"reject {RUN} --reason r",
    f"apply {RUN}",
    f"retry {RUN}",
    f"pace {RUN} 5",
    f"pause {RUN} --reason r",
    f"resume {RUN}",
    f"cancel {RUN} --reason r",
    f"status {RUN}",
    f"verify {RUN}",
    f"rollback {RUN}",
    f"logs {RUN}",
]
DOORS: dict[str, dict[str, Any]] = {
    "backfill_coverage": {},
    "backfill_watch": {},
    "backfill_heal_next": {},
    "backfill_open": {"p_request": "{}"},
    "backfill_find_runs": {"p_prefix": RUN},
    "backfill_pace": {"run": RUN, "per_minute": 5},
    "backfill_pause": {"run": RUN, "reason": "r"},
    "backfill_reject": {"run": RUN, "reason": "r", "approver": "Ada"},
    "backfill_approve": {"run": RUN, "digest": "d", "approver": "Ada"},
    "backfill_freshness": {"p_run_id": RUN},
    "backfill_verify_part": {"p_run_id": RUN},
    "backfill_preview_undo": {"p_run_id": RUN},
}


@pytest.fixture
def untargeted(project_db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The core, and nothing declared."""
    project_db.execute("delete from public.backfill_targets; delete from backfill_private.sources")
    return project_db


def test_every_verb_says_that_there_is_no_target(
    untargeted: psycopg.Connection[Any], shell: Shell
) -> None:
    """Not several, not an unknown run: the one thing that is to be done, as a usage error."""
    for words in COMMANDS:
        answer = shell(*words.split())
        assert (answer.code, answer.out) == (2, ""), words
        assert answer.err.strip().splitlines()[0] == SAID, words
        assert answer.err.strip().splitlines()[1].startswith(f"  Next: {NEXT}"), words


def test_check_says_it_among_its_lines(bf: backfill.Backfill, project: Project) -> None:
    """Once, with the same next step, and nothing about tables."""
    project.db.execute("delete from public.backfill_targets; delete from backfill_private.sources")
    lines = [c for c in bf.check() if c.status == "fail"]
    assert [(c.name, c.detail) for c in lines if c.name == "targets"] == [("targets", SAID)]
    assert next(c.next_step for c in lines if c.name == "targets").startswith(NEXT)


@pytest.mark.parametrize("door", DOORS)
def test_the_doors_of_the_sql_editor_say_it(untargeted: psycopg.Connection[Any], door: str) -> None:
    """As the owner calls them."""
    with pytest.raises(psycopg.Error, match=SAID) as refused:
        verbs.call(untargeted, door, **DOORS[door])
    assert refused.value.sqlstate == "OB013"
    assert str(refused.value.diag.message_hint).startswith(NEXT)


def test_runs_of_a_target_that_is_gone_are_still_told(
    project: Project, shell: Shell, bf: backfill.Backfill
) -> None:
    """What was done stays to be read."""
    plan = bf.plan(since="2025-08-01", rehearse=0)
    project.db.execute("delete from public.backfill_targets; delete from backfill_private.sources")
    assert plan.run_id[:8] in shell("runs").out
    unknown = shell("status", RUN)
    assert (unknown.code, unknown.err.splitlines()[0]) == (2, f"there is no run {RUN}")


RECORD = """
create schema supabase_migrations;
create table supabase_migrations.schema_migrations (version text primary key);
insert into supabase_migrations.schema_migrations values ('20260101000000'), ('20260102000000');
"""


def test_a_project_says_which_migrations_it_has_applied(
    untargeted: psycopg.Connection[Any],
) -> None:
    """Of those that it is asked for, and null if it keeps no record at all."""
    asked = {"p_versions": ["20260102000000", "20260103000000"]}
    told = verbs.call(untargeted, "backfill_history", **asked)
    assert told == {"applied": None, "targets": []}
    untargeted.execute(RECORD)
    told = verbs.call(untargeted, "backfill_history", **asked)
    assert told == {"applied": ["20260102000000"], "targets": []}
