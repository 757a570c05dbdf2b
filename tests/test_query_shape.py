"""Finding what is missing stays cheap in a large project: an index, two joins, few counts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from pytest_postgresql import factories

from backfill.local.servers import PostgresServer
from tests.conftest import SERVER, _load_project
from tests.kit import verbs

Db = psycopg.Connection[Any]
Node = dict[str, Any]

# 100,000 sessions, one every ten minutes; of 500 in a row 50 are under way, 10 lack both, 10 FC
# scores, 10 a profile. One of the first ten and one of the second have too few answers.
CROWD = """
truncate public.assessment_sessions cascade;
create temporary table crowd as
select n, md5('crowd ' || n)::uuid as id,
  '2024-01-01T00:00:00Z'::timestamptz + n * interval '10 minutes' as at,
  n % 10 <> 0 as is_completed,
  n % 50 in (1, 3) as lacks_profile, n % 50 in (1, 2) as lacks_fc,
  n % 500 <> 1 as has_response, n % 500 <> 2 as has_fc_response
from generate_series(1, 100000) as n;
insert into public.assessment_sessions (id, status, created_at)
select id, case when is_completed then 'completed' else 'in_progress' end, at from crowd;
insert into public.assessment_responses (session_id, question_id, answer_value)
select id, 1, 3 from crowd where has_response;
insert into public.fc_responses (session_id, block_id, option_id)
select id, 1, 1 from crowd where has_fc_response;
insert into public.profiles (session_id, results_version, type_code)
select id, 'v1.2.1', 'INTP' from crowd where is_completed and not lacks_profile;
insert into public.fc_scores (session_id, version, scores_json, blocks_answered)
select id, 'v1.2', '{}', 1 from crowd where is_completed and not lacks_fc;
drop table crowd;
analyze;
"""
EXPECTED = {
    "backfill_candidates": 5600,
    "backfill_missing_profiles": 3800,
    "backfill_missing_fc_scores": 3600,
}
REQUEST = {
    "since": "2024-01-01",
    "throttle_per_minute": 6000,
    "batch_size": 100,
    "environment": "staging",
}
WINDOW = ("2024-06-03T00:00:00Z", "2024-06-10T00:00:00Z")
GAPS_IN_WINDOW = 60
SINCE_EVER = ("2024-01-01T00:00:00Z", "infinity")


def _load_crowd(*, dbname: str, **_: Any) -> None:
    with psycopg.connect(SERVER["it"].superuser_dsn(dbname), autocommit=True) as connection:
        connection.execute(CROWD.encode())


crowded_template = factories.postgresql_noproc(
    depends_on="cluster", dbname="crowded", load=[_load_project, _load_crowd]
)


@pytest.fixture
def crowded_db(postgres_server: PostgresServer, crowded_template: SimpleNamespace) -> Iterator[Db]:
    """A project of 100,000 sessions with ours, as role postgres. What a test does is taken back."""
    dsn = postgres_server.dsn(crowded_template.template_dbname)
    with (
        psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection,
        connection.transaction(force_rollback=True),
    ):
        yield connection


def open_run(db: Db) -> Any:
    row = db.execute("select public.backfill_open(%s) as id", (json.dumps(REQUEST),)).fetchone()
    assert row is not None
    return row["id"]


def plan_of_a_window(db: Db) -> list[Node]:
    """Every node of the plan that a window is collected with, as it went."""
    run = open_run(db)
    with db.transaction():
        db.execute(
            "select set_config('backfill.request', request::text, true)"
            " from public.backfill_runs where run_id = %s",
            (run,),
        )
        return explained(db, collecting(db))


def explained(db: Db, query: str) -> list[Node]:
    """Every node of a query's plan, as it went."""
    row = db.execute(f"explain (analyze, timing off, format json) {query}".encode()).fetchone()
    assert row is not None
    return list(nodes(row["QUERY PLAN"][0]["Plan"]))


def detecting(db: Db) -> list[str]:
    """The statements that detect, out of their function: in a window, and of dates out of reach."""
    row = db.execute("select prosrc from pg_proc where proname = 'detected'").fetchone()
    assert row is not None
    return re.findall(r"execute format\(\s*'(.*?)',", row["prosrc"], re.DOTALL)


def collecting(db: Db) -> str:
    """The statement that detects in a window, with its values."""
    return filled(detecting(db)[0], *WINDOW)


def filled(query: str, *values: str) -> str:
    """A statement over PRISM's view with its values."""
    query = query.replace("%s", "backfill_private.prism_gaps")
    for place, value in enumerate(values, start=1):
        query = query.replace(f"${place}", f"'{value}'")
    return query


def nodes(node: Node) -> Iterator[Node]:
    """The node and everything below it, each with how it hangs on what stands above."""
    yield node
    for child in node.get("Plans", []):
        part = "SubPlan" if node.get("part") == "SubPlan" else child["Parent Relationship"]
        yield from nodes(child | {"part": part})


def scans_of(plan: list[Node], table: str) -> list[Node]:
    return [node for node in plan if node.get("Relation Name") == table]


def counts(db: Db) -> dict[str, int]:
    """The rows of each view, as the service key sees them, without any argument."""
    with db.transaction():
        db.execute("set local role service_role")
        return {
            view: db.execute(f"select count(*) as n from public.{view}".encode()).fetchall()[0]["n"]
            for view in EXPECTED
        }


def found(db: Db) -> list[tuple[Any, ...]]:
    """What planning finds in the whole project: every session with what it lacks."""
    run = open_run(db)
    collect = "select public.backfill_collect(%s) as is_done"
    while not db.execute(collect, (run,)).fetchall()[0]["is_done"]:
        pass
    rows = db.execute(
        "select session_id, components, excluded from backfill_private.findings"
        " where run_id = %s order by 1",
        (run,),
    )
    return [tuple(row.values()) for row in rows]


# -- the plan


def test_a_window_is_read_through_the_partial_index(crowded_db: Db) -> None:
    """The dates of the window bound the index; the other sessions are not looked at."""
    plan = plan_of_a_window(crowded_db)
    used = [n for n in plan if n.get("Index Name") == "backfill_completed_sessions"]
    assert len(used) == 1
    assert used[0]["Index Cond"].count("created_at") == 2
    scans = scans_of(plan, "assessment_sessions")
    assert {n["Node Type"] for n in scans} <= {"Index Scan", "Bitmap Heap Scan"}
    assert [n for n in scans if "Filter" in n] == [], "the status is the index's own condition"


def test_dates_out_of_reach_are_looked_up(crowded_db: Db) -> None:
    """Without a date, before all moments, after them: three looks into the partial index."""
    query = filled(detecting(crowded_db)[1], "0001-01-01Z", "10000-01-01Z", "created_at")
    scans = scans_of(explained(crowded_db, query), "assessment_sessions")
    assert [scan["Node Type"] for scan in scans] == ["Bitmap Heap Scan"]
    assert scans[0]["Actual Rows"] == 0


def test_the_next_session_is_looked_up(crowded_db: Db) -> None:
    """One row of the partial index. From PostgreSQL 16 on, joins nobody asks about are left out."""
    query = (
        "select g.created_at from backfill_private.prism_standing as g"
        " where g.created_at >= '2025-01-01' and g.created_at < '2026-01-01'"
        " order by g.created_at limit 1"
    )
    plan = explained(crowded_db, query)
    read = {node["Relation Name"] for node in plan if "Relation Name" in node}
    assert read == {"assessment_sessions"} or crowded_db.info.server_version < 160000
    (scan,) = scans_of(plan, "assessment_sessions")
    assert scan["Node Type"] in ("Index Scan", "Index Only Scan")
    assert scan["Actual Rows"] == 1


def test_a_claim_looks_up_its_sessions(crowded_db: Db) -> None:
    """Nothing is read from end to end, whatever a session needs."""
    run = open_run(crowded_db)
    crowded_db.execute(
        "insert into public.backfill_items (run_id, ordinal, source, session_id, session_at,"
        " components, category, phase, batch)"
        " select %s, row_number() over (), 'prism', session_id, session_at, components, 'c',"
        " 'recent', 1 from backfill_private.prism_gaps"
        " where excluded is null and components <> '{}' limit 500",
        (run,),
    )
    before = read_from_end_to_end(crowded_db)
    row = crowded_db.execute(
        "select backfill_private.skip_unselected(r, array[1, 2, 3, 4, 5]) as skipped"
        " from public.backfill_runs as r where run_id = %s",
        (run,),
    ).fetchone()
    assert row == {"skipped": 0}
    assert read_from_end_to_end(crowded_db) == before


def read_from_end_to_end(db: Db) -> dict[str, int]:
    """Rows that sequential scans of this transaction have read, by table of the sample."""
    rows = db.execute(
        "select c.relname, pg_stat_get_xact_tuples_returned(c.oid) as read from pg_class as c"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'"
        " and c.relname in ('assessment_sessions', 'assessment_responses', 'fc_responses',"
        " 'fc_scores', 'profiles')"
    )
    return {row["relname"]: row["read"] for row in rows}


def test_what_is_missing_is_found_by_two_outer_joins(crowded_db: Db) -> None:
    """An OR of two NOT EXISTS would ask both tables anew for every session."""
    plan = plan_of_a_window(crowded_db)
    joins = [node["Join Type"] for node in plan if "Join Type" in node]
    assert len(joins) == 2
    assert set(joins) <= {"Left", "Right"}


@pytest.mark.parametrize("table", ["profiles", "fc_scores"])
def test_a_derived_table_is_scanned_once_and_in_no_subplan(crowded_db: Db, table: str) -> None:
    """A subplan runs once a session, hidden from the planner's choice of a join."""
    scans = scans_of(plan_of_a_window(crowded_db), table)
    assert [scan["part"] == "SubPlan" for scan in scans] == [False]


@pytest.mark.parametrize("table", ["assessment_responses", "fc_responses"])
def test_the_answers_are_never_read_as_a_whole(crowded_db: Db, table: str) -> None:
    """They are the largest tables of the project."""
    scans = scans_of(plan_of_a_window(crowded_db), table)
    assert scans
    assert [scan for scan in scans if scan["Node Type"] == "Seq Scan"] == []


def test_answers_are_counted_for_what_lacks_something_alone(crowded_db: Db) -> None:
    """Of the window's 907 completed sessions 60 lack something: no more than 60 counts."""
    plan = plan_of_a_window(crowded_db)
    inserted = next(node for node in plan if node.get("part") == "Outer")
    assert inserted["Actual Rows"] == GAPS_IN_WINDOW
    looked = [scan["Actual Loops"] for scan in scans_of(plan, "assessment_responses")]
    assert 0 < max(looked) <= GAPS_IN_WINDOW


def test_coverage_counts_answers_for_what_lacks_something_alone(crowded_db: Db) -> None:
    """Of 90,000 completed sessions 6,000 lack something: the others' answers are not looked for."""
    plan = explained(crowded_db, "select * from public.backfill_daily_coverage")
    looked = [scan["Actual Loops"] for scan in scans_of(plan, "assessment_responses")]
    assert 0 < max(looked) <= 6000


def plan_of_new_candidates(db: Db) -> list[Node]:
    """Every node of the plan that verify looks for new candidates with, 100 of them, as it went."""
    run = open_run(db)
    while not db.execute("select public.backfill_collect(%s) as it", (run,)).fetchall()[0]["it"]:
        pass
    db.execute("select public.backfill_seal(%s)", (run,))
    db.execute(
        "with gone as (delete from public.fc_scores where session_id in (select id"
        " from public.assessment_sessions where status = 'completed'"
        " order by created_at desc limit 200) returning session_id)"
        " select count(*) from gone"
    )
    row = db.execute(
        "select substring(prosrc from"
        " $$execute format\\(\\s*'(.*?)',\\s*backfill_private.gaps_view$$) as query"
        " from pg_proc where oid ="
        " 'backfill_private.new_candidates(public.backfill_runs)'::regprocedure"
    ).fetchone()
    assert row is not None
    query: str = row["query"].replace("''", "'").replace("%s", "backfill_private.prism_gaps")
    for place, value in enumerate((run, "prism", *SINCE_EVER, None, None), start=1):
        query = query.replace(f"${place}", "null::text[]" if value is None else f"'{value}'")
    query = query.replace("beyond.excluded = null::text[]", "beyond.excluded = null")
    with db.transaction():
        db.execute("select set_config('backfill.request', %s, true)", (json.dumps(REQUEST),))
        return explained(db, query)


def test_new_candidates_are_found_by_one_anti_join(crowded_db: Db) -> None:
    """The plan's sessions are read once or by key; answers are counted for what is left alone."""
    plan = plan_of_new_candidates(crowded_db)
    joins = [node["Join Type"] for node in plan if "Join Type" in node]
    assert joins.count("Anti") + joins.count("Right Anti") == 1
    [items] = scans_of(plan, "backfill_items")
    assert items["Actual Loops"] == 1 or "Index" in items["Node Type"]
    looked = [scan["Actual Loops"] for scan in scans_of(plan, "assessment_responses")]
    assert max(looked) <= 1000


# -- the answers


def test_the_views_answer_without_arguments(crowded_db: Db) -> None:
    """Pasted in an editor they show all of the project, by the versions of backfill_targets."""
    assert counts(crowded_db) == EXPECTED


def test_coverage_adds_up_over_all_days(crowded_db: Db) -> None:
    """Each completed session stands in one day, and once: complete, lacking, or excluded.

    200 have a profile and no answers for FC scores: these are not wanted of them.
    """
    with crowded_db.transaction(), crowded_db.cursor(row_factory=dict_row) as cursor:
        cursor.execute("set local role service_role")
        cursor.execute(
            "select count(*)::int as days, sum(completed)::int as completed,"
            " sum(complete)::int as complete, sum(missing_profile)::int as missing_profile,"
            " sum(missing_fc_scores)::int as missing_fc_scores,"
            " sum(missing_both)::int as missing_both, sum(excluded)::int as excluded,"
            " sum(not_wanted_fc_scores)::int as not_wanted_fc_scores"
            " from public.backfill_daily_coverage"
        )
        assert cursor.fetchone() == {
            "days": 695,
            "completed": 90000,
            "complete": 84200,
            "missing_profile": 3800,
            "missing_fc_scores": 3600,
            "missing_both": 1800,
            "excluded": 200,
            "not_wanted_fc_scores": 200,
        }


def test_planning_finds_what_the_views_show(crowded_db: Db) -> None:
    """Collected window by window: 5,600 candidates, 200 excluded, 200 that want nothing more."""
    findings = found(crowded_db)
    assert len(findings) == 6000
    candidates = [lacks for _, lacks, excluded in findings if excluded is None and lacks]
    assert len(candidates) == EXPECTED["backfill_candidates"]
    assert sum(excluded is not None for *_, excluded in findings) == 200


def test_without_the_index_the_same_is_found(crowded_db: Db) -> None:
    """The index is a matter of speed alone."""
    before = found(crowded_db)
    crowded_db.execute("drop index public.backfill_completed_sessions")
    assert found(crowded_db) == before
    assert counts(crowded_db) == EXPECTED


# -- a run that PostgreSQL knows nothing of yet


def test_what_no_batch_tells_of_is_found_without_a_loop_in_a_loop(project_db: Db) -> None:
    """Statistics know nothing of a run that has just ended, and a loop takes it for a few rows."""
    run_id = verbs.started(project_db)
    found = project_db.execute(
        "select prosrc, proconfig from pg_proc where oid = 'backfill_private.untold'::regproc"
    ).fetchone()
    assert found is not None
    with project_db.transaction(force_rollback=True):
        for setting in found["proconfig"] or []:
            name, _, value = setting.partition("=")
            project_db.execute("select set_config(%s, %s, true)", (name, value))
        plan = explained(project_db, found["prosrc"].replace("p_run_id", f"'{run_id}'"))
    assert "CTE Scan" in {node["Node Type"] for node in plan}
    loops = [node["Plans"] for node in plan if node["Node Type"] == "Nested Loop"]
    assert all("Function Scan" in {below["Node Type"] for below in parts} for parts in loops)
