"""Bulk calls user code as if each session had its transaction to itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Project
from tests.kit import verbs
from tests.kit.seed import SEED

WRITE = (
    "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
    " values ($1, $2, $3, '{}', v_blocks) on conflict do nothing"
)
BULK: dict[str, Any] = {"mode": "bulk", "throttle_per_minute": "none", "batch_size": 20}

# What a function does before and after it writes six blocks, and whether that works beside
# others in one transaction.
TRANSACTION_CODE = {
    "a temporary table": ("create temp table parts on commit drop as select 6 as n", "", False),
    "a temporary table, kept if it is there": (
        "create temp table if not exists parts (n integer) on commit drop;"
        " insert into parts values (6); v_blocks := (select sum(n) from parts)",
        "",
        False,
    ),
    "a setting as a flag": (
        "if current_setting('app.seen', true) = 'yes' then return '{}'; end if",
        "perform set_config('app.seen', 'yes', true)",
        True,
    ),
    "another path": (
        "if current_setting('search_path') = 'nowhere' then raise 'it leaked'; end if",
        "set local search_path = nowhere",
        True,
    ),
    "another role": (
        "if current_user <> 'service_role' then raise 'it leaked'; end if",
        "set local role anon",
        True,
    ),
    "another zone": (
        "if current_setting('timezone') = 'Asia/Tokyo' then raise 'it leaked'; end if",
        "set local time zone 'Asia/Tokyo'",
        True,
    ),
    "a setting that nobody names": (
        "v_blocks := 6 + coalesce(nullif(current_setting('app.' || 'n', true), '')::integer, 0)",
        "perform set_config('app.' || 'n', '1', true)",
        None,
    ),
    "a cursor with a name": ("open v_cursor for select 6; fetch v_cursor into v_blocks", "", False),
    "one row per transaction": ("insert into public.once values (txid_current())", "", False),
    "a row before its parent": (
        "insert into public.children values ($1); insert into public.parents values ($1)",
        "",
        True,
    ),
    "constraints at once": (
        "insert into public.children values ($1); insert into public.parents values ($1)",
        "set constraints all immediate",
        True,
    ),
}
SET_UP = (
    "create table public.once (id bigint primary key);"
    "create table public.parents (id uuid primary key);"
    "create table public.children (id uuid references public.parents (id)"
    " deferrable initially deferred);"
    "grant all on public.once, public.parents, public.children to service_role, anon;"
)


def scorer(project: Project, before: str, after: str) -> None:
    """Another scoring function, which writes six blocks if all is as in its own transaction."""
    project.db.execute(SET_UP.encode())
    project.db.execute(
        "create or replace function public.score_fc_session("
        "session_id uuid, version text, basis text) returns jsonb language plpgsql as $score$"
        " declare v_blocks integer := 6; v_cursor refcursor := 'c';"
        f" begin {before}; {WRITE}; {after or 'null'}; return '{{}}'; end $score$".encode()
    )


def bulk(project: Project, run_id: str, sessions: int) -> dict[str, Any]:
    """Make one call in bulk."""
    answer: dict[str, Any] = verbs.call(
        project.db, "backfill_bulk", p_run_id=run_id, p_worker="test", p_sessions=sessions
    )
    return answer


@pytest.mark.parametrize("code", TRANSACTION_CODE)
def test_a_rehearsal_sees_what_holds_in_one_transaction(project: Project, code: str) -> None:
    """Then bulk is not recommended, and a run in bulk takes a transaction for each session."""
    before, after, works_beside = TRANSACTION_CODE[code]
    scorer(project, before, after)
    with project.connect() as bf:
        plan = bf.plan(**{**SEED, **BULK, "priority": [], "rehearse": 1})
    assert plan.rehearsal is not None
    assert plan.rehearsal.alone == (not works_beside)
    marks = {c.name: c for c in plan.checks}
    assert (marks["rehearsal: one transaction"].status == "ok") == bool(works_beside)
    said = "much the same in bulk: each in a transaction of its own"
    assert (said in marks["mode"].detail) == (not works_beside)
    assert "parts" not in marks["rehearsal: other tables"].detail
    project.approve(plan)
    verbs.start(project.db, plan.run_id)
    assert bulk(project, plan.run_id, 20)["sessions"] == (7 if works_beside else 1)


@pytest.mark.parametrize(
    "code", [c for c in TRANSACTION_CODE if TRANSACTION_CODE[c][2] is not None]
)
def test_a_run_in_bulk_scores_what_holds_in_one_transaction(project: Project, code: str) -> None:
    """Every session is done, as if it were alone. It is alone if nothing else works."""
    before, after, works_beside = TRANSACTION_CODE[code]
    scorer(project, before, after)
    run_id = verbs.started(project.db, **BULK)
    answers = [bulk(project, run_id, 20)]
    while not answers[-1].get("look"):
        answers.append(bulk(project, run_id, 1 if answers[-1]["alone"] else 20))
    assert [a for a in answers if a.get("failed")] == []
    assert any(a.get("alone") for a in answers) != works_beside
    assert (len(answers) < 5) == works_beside
    states = project.rows(
        "select state, count(*) as n from public.backfill_items where run_id = %s group by 1",
        run_id,
    )
    assert states == [{"state": "done", "n": 39}]
    rows = project.rows(
        "select distinct s.blocks_answered as n from public.fc_scores as s"
        " join public.backfill_items as i on i.run_id = %s and i.session_id = s.session_id::text"
        " where s.version = 'v1.2'",
        run_id,
    )
    assert rows == [{"n": 6}]
