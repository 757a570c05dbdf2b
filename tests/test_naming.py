"""A session is named by its whole id, a run and a uuid by their first eight characters too."""

from __future__ import annotations

from typing import Any

import pytest

import backfill
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.jars import PLAN, jars, labelled
from tests.kit.seed import CANARY, SEED

AGREES = {"bigint": ("2", "23", "3", "31"), "text": ("a", "ab", "A", " a")}


def applied(project: Project, bf: backfill.Backfill, **request: Any) -> str:
    """A completed run of the jars."""
    plan = bf.plan(**{**PLAN, **request})
    project.approve(plan)
    assert bf.apply(plan.run_id).is_complete
    return plan.run_id


@pytest.mark.parametrize("key", AGREES)
def test_an_id_is_never_taken_for_the_beginning_of_another(
    project: Project, bf: backfill.Backfill, shell: Shell, key: str
) -> None:
    """The first is no session of the run, though the second begins so: nothing is undone."""
    named, longer, *others = AGREES[key]
    jars(project, longer, *others, key=key)
    project.db.execute("insert into public.jars values (%s, null, '2025-07-01')", (named,))
    run = applied(project, bf)
    ran = shell("rollback", run, "--session", named)
    assert (ran.code, ran.out) == (2, "")
    assert f"run {run} has no session {named}" in ran.err
    assert f"Next: backfill show {run}" in ran.err
    for anything in (longer.upper() + "x", longer[:-1] + "_", ""):
        with pytest.raises(backfill.UnknownSession):
            bf.rollback(run, sessions=[anything])
    undo = bf.rollback(run, sessions=[longer])
    assert undo.as_dict()["session_ids"] == [longer]
    undo.confirm(reason="t")
    assert labelled(project) == set(others)


@pytest.mark.parametrize("key", AGREES)
def test_a_priority_is_a_whole_id_too(project: Project, bf: backfill.Backfill, key: str) -> None:
    """2 is not 23, and it does go first where it is a session."""
    named, longer, *others = AGREES[key]
    jars(project, longer, *others, key=key)
    with pytest.raises(backfill.UnknownSession, match=f"no session is named {named}"):
        bf.plan(**PLAN, priority=[named])
    project.db.execute("insert into public.jars values (%s, null, '2025-08-01')", (named,))
    plan = bf.plan(**PLAN, priority=[named, others[0]])
    assert {s.session_id for s in plan.sessions.in_phase("priority")} == {named, others[0]}


def test_the_beginning_of_a_uuid_has_eight_characters(
    shared_project: Project, nothing_changes: None
) -> None:
    """Fewer name none, and the sentence says how many it takes."""
    with shared_project.connect() as bf:
        for short in (CANARY[:7], "6", "6-"):
            with pytest.raises(backfill.UnknownSession) as refused:
                bf.plan(**SEED | {"priority": [short]})
            assert refused.value.message == (
                f"{short} names no session: give its id, or at least 8 characters of its beginning"
            )


def test_a_preview_names_its_sessions(
    bf: backfill.Backfill, shell: Shell, project: Project
) -> None:
    """The first hundred in the order of the plan, and how many there are."""
    jars(project, *range(1, 121))
    run = applied(project, bf, batch_size=120)
    shown = shell("rollback", run, "--json").json
    assert shown["sessions"] == 120
    assert shown["session_ids"] == [str(n) for n in range(120, 20, -1)]
    said = shell("rollback", run).out
    assert "sessions: 120\n" in said
    assert "\n  120, 119, 118," in said
    assert said.rstrip().splitlines()[-2].endswith("22, 21 and 20 more")
    two = shell("rollback", run, "--session", "7", "--session", "11").out
    assert "sessions: 2\n  11, 7\n" in two


def test_sessions_with_nothing_to_take_back_are_not_named(
    bf: backfill.Backfill, project: Project
) -> None:
    """Of two sessions one has a row that somebody changed."""
    jars(project, 1, 2)
    run = applied(project, bf)
    project.db.execute("update public.labels set words = 'plum' where jar_id = 1")
    shown = bf.rollback(run).as_dict()
    assert (shown["sessions"], shown["session_ids"]) == (1, ["2"])
    assert [c["session_id"] for c in shown["conflicts"]] == ["1"]


def test_a_run_is_named_by_at_least_eight_characters(
    project: Project, shell: Shell, bf: backfill.Backfill
) -> None:
    """As a session is. A shorter one names none, however few runs there are."""
    run = bf.plan(**SEED).run_id
    assert shell("status", f" {run[:8].upper()} ").code == 0
    ran = shell("status", run[:7])
    assert (ran.code, ran.out) == (2, "")
    assert f"{run[:7]} names no run: give its id, or at least 8 characters of it" in ran.err
    assert "Next: backfill runs" in ran.err
