"""A run moves along the arrows of one view, whoever moves it, and along no other."""

from __future__ import annotations

import json
import re
from typing import Any, get_args
from uuid import UUID, uuid4

import psycopg
import pytest

from backfill.results.run import RunState

Db = psycopg.Connection[Any]

STATES = (
    "planning",
    "awaiting_approval",
    "approved",
    "running",
    "paused",
    "completed",
    "rejected",
    "cancelled",
    "expired",
    "rolled_back",
)
ENDS = {"rejected", "rolled_back"}


def arrows(db: Db) -> dict[tuple[str, str], str]:
    """(from, to) -> reason, as the database says."""
    rows = db.execute("select from_state, to_state, reason from public.backfill_transitions")
    return {(row["from_state"], row["to_state"]): row["reason"] for row in rows}


def run_in(db: Db, state: str) -> UUID:
    """A run that is in the state, written there by the owner."""
    run = uuid4()
    db.execute(
        "insert into public.backfill_runs (run_id, state, target, request, requested_via)"
        " values (%s, %s, 'prism', %s, 'postgres')",
        (run, state, json.dumps({})),
    )
    return run


def move(db: Db, run: UUID, state: str) -> None:
    """Write the state into the row, past every verb."""
    db.execute("update public.backfill_runs set state = %s where run_id = %s", (state, run))


def state_of(db: Db, run: UUID) -> str:
    row = db.execute("select state from public.backfill_runs where run_id = %s", (run,)).fetchone()
    assert row is not None
    return str(row["state"])


def test_every_arrow_is_accepted(project_db: Db) -> None:
    """Each pair of the view, on a run of its own."""
    for was, wanted in arrows(project_db):
        run = run_in(project_db, was)
        move(project_db, run, wanted)
        assert state_of(project_db, run) == wanted


@pytest.mark.parametrize("superuser", [False, True], ids=["postgres", "superuser"])
def test_every_other_pair_is_refused(project_db: Db, project_admin: Db, superuser: bool) -> None:
    """By the table itself: the owner's and a superuser's own UPDATE is refused like a verb's."""
    legal = arrows(project_db)
    others = [(a, b) for a in STATES for b in STATES if a != b and (a, b) not in legal]
    assert len(others) == len(STATES) * (len(STATES) - 1) - len(legal)
    for was, wanted in others:
        run = run_in(project_db, was)
        with pytest.raises(psycopg.DatabaseError) as refused:
            move(project_admin if superuser else project_db, run, wanted)
        assert refused.value.sqlstate == "OB002", (was, wanted)
        assert state_of(project_db, run) == was


def test_a_refusal_names_the_run_and_the_states_that_are_allowed(project_db: Db) -> None:
    """Who reads it knows where the run stands and where it may go."""
    legal = arrows(project_db)
    for was in STATES:
        run = run_in(project_db, was)
        allowed = [to for (start, to) in legal if start == was]
        wanted = next(s for s in STATES if s != was and s not in allowed)
        with pytest.raises(psycopg.DatabaseError) as refused:
            move(project_db, run, wanted)
        said = refused.value.diag.message_primary or ""
        head, _, names = said.partition(f". Allowed from {was}: ")
        assert head == f"run {run} cannot go from {was} to {wanted}"
        assert sorted(names.split(", ")) == sorted(allowed or ["nothing"])


def test_a_state_that_is_none_is_refused(project_db: Db) -> None:
    """Neither the check nor the view knows it."""
    with pytest.raises(psycopg.errors.CheckViolation):
        run_in(project_db, "asleep")


def test_staying_where_one_is_needs_no_arrow(project_db: Db) -> None:
    """Other columns of a run change in every state."""
    for state in STATES:
        run = run_in(project_db, state)
        project_db.execute(
            "update public.backfill_runs set reason = 'seen', state = state where run_id = %s",
            (run,),
        )
        assert state_of(project_db, run) == state


def test_the_view_and_the_check_name_the_same_states(project_db: Db) -> None:
    """A state that no arrow touches could be neither reached nor left."""
    row = project_db.execute(
        "select pg_get_constraintdef(oid) as check from pg_constraint"
        " where conname = 'backfill_runs_state_check'"
    ).fetchone()
    assert row is not None
    checked = set(re.findall(r"'(\w+)'", row["check"]))
    assert checked == set(STATES) == set(get_args(RunState))
    assert {state for arrow in arrows(project_db) for state in arrow} == checked


def test_only_a_rejected_and_an_undone_run_go_nowhere(project_db: Db) -> None:
    """Every other state is left by some arrow, and every state but the first is reached."""
    legal = arrows(project_db)
    assert set(STATES) - {was for was, _ in legal} == ENDS
    assert set(STATES) - {wanted for _, wanted in legal} == {"planning"}


def test_every_arrow_has_a_reason(project_db: Db) -> None:
    """And an event, so that the audit can name it."""
    rows = project_db.execute("select * from public.backfill_transitions").fetchall()
    assert [row for row in rows if len(row["reason"].split()) < 3 or not row["event"]] == []


def test_an_arrow_stands_in_the_view_once(project_db: Db) -> None:
    """Two reasons for one move would leave open which of them holds."""
    row = project_db.execute(
        "select count(*) as rows, count(distinct (from_state, to_state)) as arrows"
        " from public.backfill_transitions"
    ).fetchone()
    assert row is not None
    assert row["rows"] == row["arrows"] > 0


def test_no_role_changes_the_arrows(project_admin: Db) -> None:
    """A view over VALUES takes no UPDATE, a superuser's neither."""
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        project_admin.execute("update public.backfill_transitions set to_state = 'running'")
