"""A target's rows are called as its people call them, in the plan, on the page, on the terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from backfill.cli import answers, terminal
from backfill.render.markdown import Called
from backfill.render.page.page import plan_page
from backfill.render.plan import plan_markdown
from backfill.render.reports import summary_markdown
from backfill.results.coverage import DayCoverage, Missing
from backfill.results.plan import Plan
from backfill.results.run import FailedSession
from backfill.results.undo import UndoEffect
from tests.kit import songs, verbs
from tests.kit.songs import songs as songs_of_a_test
from tests.kit.songs import songs_db
from tests.test_rendering import FIGURES, REQUEST, STATUS, STEPS, VERIFICATION, seed_plan
from tests.test_terminal import screen

__all__ = ["songs_db", "songs_of_a_test"]  # fixtures of another module

Db = psycopg.Connection[Any]
ORDER = Called("order", "orders")
# Neither an option (--session), nor part of a name (session_id, session-01).
SESSION = re.compile(r"(?<![-\w])sessions?(?![-\w])", re.IGNORECASE)


def plan_of_orders(**changes: Any) -> Plan:
    """The seed's plan with the rows of another target."""
    figures = {**FIGURES, "steps": STEPS, "called": ["order", "orders"]}
    return replace(seed_plan(figures=figures, checks=()), **changes)


STATES: dict[str, dict[str, Any]] = {
    "halted": {},
    "empty": {"state": "empty"},
    "unthrottled": {"request": {**REQUEST, "throttle_per_minute": None}},
    **{
        state: {"state": state}
        for state in ("approved", "running", "paused", "completed", "rolled_back")
    },
}


@pytest.mark.parametrize("state", STATES)
def test_a_plan_and_its_page_call_the_rows_as_declared(state: str) -> None:
    """In every state, and nowhere by our own word."""
    plan = plan_of_orders(**STATES[state])
    for text in (plan_markdown(plan), plan_page(plan)):
        assert "order" in text
        assert SESSION.findall(text) == []
    assert plan.as_dict()["called"] == ["order", "orders"]


def test_a_plan_without_a_word_of_its_own_has_sessions() -> None:
    """PRISM's, and whoever says nothing."""
    assert seed_plan().called == ("session", "sessions")
    assert "**Total candidates**: 39 sessions" in plan_markdown(seed_plan())


def test_the_summary_calls_them_so() -> None:
    """The file that stays of a run."""
    failed = FailedSession("7", "score", "P0001", "refused")
    verification = replace(VERIFICATION, new_candidates=("8",), new_candidates_total=1)
    text = summary_markdown(replace(STATUS, called=ORDER), verification, [failed])
    assert "## Failed orders" in text
    assert "1 order in the plan's range" in text
    assert SESSION.findall(text) == []


def test_the_terminal_calls_them_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage, status, failures, an undo."""
    console, shown = screen(200)
    monkeypatch.setattr(terminal, "out", console)
    day = DayCoverage("2025-08-01", 3, 1, {"invoice": 2}, 2, 0, 0.3333)
    found = Missing((day,), ("invoice",), 2, "paid_at", ORDER)
    answers.print_missing(found)
    answers.print_missing(replace(found, days=()))
    answers.print_status(replace(STATUS, state="running", called=ORDER, unselected=1))
    answers.print_failures([FailedSession("7", "invoice", "P0001", "refused")], ORDER)
    answers.print_undo(UndoEffect("r", "d", {"invoices": 1}, {}, (), sessions=1, called=ORDER))
    text = shown.getvalue()
    for said in (
        "of 3 orders that can be scored", "no order that can",
        "1 order skipped", "orders/min", "failed order", "orders: 1",
    ):  # fmt: skip
        assert said in text
    assert SESSION.findall(text) == []


def test_the_database_keeps_the_words_beside_what_an_approval_binds(
    songs_of_a_test: Db,
) -> None:
    """Coverage, plan and progress tell them. Other words are no other plan."""
    db = songs_of_a_test
    sealed: list[Any] = []
    for words in ("", '\ncalled = ["song", "songs"]'):
        songs.as_owner(db)
        songs.declare(db, 'date = "cut_at"', f'date = "cut_at"{words}')
        run_id = songs.opened(db)
        while not verbs.call(db, "backfill_collect", p_run_id=run_id):
            pass
        verbs.call(db, "backfill_seal", p_run_id=run_id)
        sealed += db.execute(
            "select p.called, r.plan -> 'called' as planned, r.digest, r.plan::text as plan"
            " from public.backfill_run_progress as p join public.backfill_runs as r"
            " using (run_id) where run_id = %s",
            (run_id,),
        ).fetchall()
    assert [row["called"] for row in sealed] == [["session", "sessions"], ["song", "songs"]]
    assert [row["planned"] for row in sealed] == [row["called"] for row in sealed]
    assert sealed[0]["digest"] == sealed[1]["digest"]
    assert "3 of 3 songs have enough" in sealed[1]["plan"]
    coverage = verbs.call(db, "backfill_coverage", p_target="songs")
    assert coverage["called"] == ["song", "songs"]
