"""In bulk too a receipt says what the gate saw, whatever the function that is called does."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock

BULK: dict[str, Any] = {
    "mode": "bulk",
    "throttle_per_minute": "none",
    "batch_size": 20,
    "priority": [],
}
# It writes its own row, and then says of another one, which it did not write, what it was before.
FORGER = r"""
create or replace function public.score_fc_session(session_id uuid, version text, basis text)
returns jsonb language plpgsql as $score$
begin
  insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
  values ($1, $2, $3, '{}', 6);
  perform set_config('backfill.bulk', concat(current_setting('backfill.bulk'),
    e'\nprism\tprofile\tUPDATE\t', v_row, e'\t', v_row, e'\t', 'public.profiles'::regclass::oid,
    e'\t"(forged)"\t\\x00'), true)
  from (select jsonb_build_object('session_id', $1)::text as v_row) as forged;
  return '{}';
end $score$;
"""
NEWEST = """
select session_id::text from public.backfill_candidates
where created_at >= '2025-08-01' order by created_at desc
"""
RECEIPTS = "select component, operation, before from public.backfill_receipts where run_id = %s"


def bulk(project: Project, run_id: str, sessions: int = 1) -> dict[str, Any]:
    """Make one call in bulk."""
    answer: dict[str, Any] = verbs.call(
        project.db, "backfill_bulk", p_run_id=run_id, p_worker="test", p_sessions=sessions
    )
    return answer


def test_a_function_in_bulk_writes_no_receipt_by_hand(project: Project) -> None:
    """One who could would have an undo put back what they like."""
    project.db.execute(FORGER.encode())
    run_id = verbs.started(project.db, **BULK)
    assert bulk(project, run_id)["done"] == 1
    kept = {"component": "fc_scores", "operation": "insert", "before": None}
    assert kept in (seen := project.rows(RECEIPTS, run_id))
    assert [row for row in seen if row["before"]] == []


# What a function may try from within a call in bulk: to begin one of its own, whose rows it keeps.
WITHIN = {
    "a call": "perform public.backfill_bulk(run_id, 'me', 1)",
    "a beginning": "perform backfill_private.bulk_begin(run_id, 1)",
}


@pytest.mark.parametrize("how", WITHIN)
def test_no_call_in_bulk_begins_within_another(project: Project, how: str) -> None:
    project.db.execute(
        "create or replace function public.score_fc_session("
        "session_id uuid, version text, basis text) returns jsonb language plpgsql as"
        f" $$ begin {WITHIN[how]} from public.backfill_runs where state = 'running';"
        " return '{}'; end $$".encode()
    )
    run_id = verbs.started(project.db, **BULK)
    assert bulk(project, run_id)["pending"] == 1
    row = project.rows("select error_message from public.backfill_items where error_code = 'OB011'")
    assert [r["error_message"] for r in row] == ["a call in bulk is under way here already"]


@pytest.mark.parametrize("table", ["bulk_claims", "bulk_rows"])
@pytest.mark.parametrize("role", ["service_role", "authenticated", "anon"])
def test_no_role_of_the_api_reads_or_writes_what_a_call_in_bulk_keeps(
    project: Project, table: str, role: str
) -> None:
    rights = project.rows(
        "select r from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) as r"
        " where has_table_privilege(%s, %s, r)",
        role,
        f"backfill_private.{table}",
    )
    assert rights == []


FORGED = """
select set_config('backfill.bulk', '1', true);
insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
select session_id::uuid, 'v9', 'functions', '{}', 6 from public.backfill_items limit 1
"""


def test_the_setting_means_nothing_outside_of_a_call(project: Project) -> None:
    """Whoever sets it writes as anyone does who sends a run's header without a fence."""
    run_id = verbs.started(project.db, **BULK)
    headers = {"x-backfill-run": run_id}
    with (
        pytest.raises(psycopg.Error, match="the fence is stale"),
        verbs.as_service(project.db, headers),
    ):
        project.db.execute(FORGED.encode())


# Each call takes 300 ms of the clock that the test sets.
SLOW = """
create or replace function public.score_fc_session(session_id uuid, version text, basis text)
returns jsonb language plpgsql security definer as $$
begin
  update public.test_clock set now_at = now_at + interval '300 ms';
  if $1 = any ({bad}::uuid[]) then
    raise 'not this one';
  end if;
  insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
  values ($1, $2, $3, '{{}}', 6);
  return '{{}}';
end $$;
"""


@pytest.mark.parametrize(("bad", "held", "pending"), [(None, 3, 0), (1, 4, 1)])
def test_no_session_begins_once_rows_are_locked_for_long(
    project: Project, clock: DatabaseClock, bad: int | None, held: int, pending: int
) -> None:
    """Somebody may want to write one of them: a call ends in the midst of its fifty.

    If one fails, its fifty are rolled back and lock nothing, so those that come one by one have
    the whole time. Of the one that fails not even its time is left here.
    """
    every = [r["session_id"] for r in project.rows(NEWEST)]
    said = "{" + ("" if bad is None else every[bad]) + "}"
    project.db.execute(sql.SQL(SLOW).format(bad=sql.Literal(said)).as_bytes())
    run_id = verbs.started(project.db, **BULK)
    answer = bulk(project, run_id, 20)
    assert (answer["sessions"], answer.get("pending", 0)) == (held, pending)
