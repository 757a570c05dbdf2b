"""What an error code means stands in one view. The client mirrors it, the database asks it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from backfill.api.faults import (
    MEANINGS,
    OUTCOMES,
    fault_of_api,
    fault_of_edge,
    is_of_ours_missing,
)
from tests.kit import verbs

Db = psycopg.Connection[Any]
Row = dict[str, Any]

# What a session is after an outcome of its first call that left no row.
STATES = {
    "failed": "failed",
    "again": "pending",
    "unknown": "pending",
    "slow": "pending",
    "released": "pending",
    "stop": "pending",
}


@pytest.fixture
def rows(project_db: Db) -> list[Row]:
    """The view."""
    return project_db.execute("select * from backfill_private.faults").fetchall()


def example(row: Row) -> str:
    """A code that the row tells of."""
    return str(row["class"]).ljust({"sqlstate": 5, "postgrest": 8, "http": 3}[row["of"]], "0")


def value(db: Db, query: str, *values: object) -> Any:
    """The one value of a query."""
    row = db.execute(query.encode(), values).fetchone()
    assert row is not None
    return next(iter(row.values()))


def test_client_and_database_have_the_same_table(rows: list[Row]) -> None:
    """Row by row, but for what the database alone asks and says: bulk, why."""
    assert [(row["of"], row["class"], row["direct"], row["kept"]) for row in rows] == [
        (m.of, m.starts, OUTCOMES[m.kind], m.kept) for m in MEANINGS
    ]


def test_a_class_stands_in_the_table_once_and_has_a_reason(rows: list[Row]) -> None:
    """Two rows for one code would leave open which of them holds."""
    assert len({(row["of"], row["class"]) for row in rows}) == len(rows) > 50
    assert [row for row in rows if len(row["why"].split()) < 4] == []
    assert {row["direct"] for row in rows} == set(OUTCOMES.values())


def test_direct_and_bulk_differ_for_the_reason_that_the_row_gives(rows: list[Row]) -> None:
    """Through the API a commit may be behind the error; a subtransaction is rolled back.

    In bulk the gate has looked before, so only the user's code says that it refuses.
    """
    differ = [row for row in rows if row["bulk"] not in (None, row["direct"])]
    assert {row["class"]: (row["direct"], row["bulk"]) for row in differ} == {
        **dict.fromkeys(("08", "53", "57P"), ("unknown", "again")),
        **dict.fromkeys(("OB011", "OB012"), ("released", "again")),
        "25P02": ("again", "failed"),
    }
    for row in differ:
        if row["class"].startswith(("OB", "25P02")):
            assert "In bulk only the user's own code raises it" in row["why"]
        else:
            assert "Through the API" in row["why"]
            assert "Inside the database the subtransaction was rolled back" in row["why"]
    assert {row["of"] for row in rows if row["bulk"] is not None} == {"sqlstate"}
    assert all(row["bulk"] for row in rows if row["of"] == "sqlstate")


def test_the_client_takes_each_row_at_its_word(rows: list[Row]) -> None:
    """A SQLSTATE whatever the HTTP status, an HTTP status where no code came with it."""
    for row in rows:
        code = example(row)
        if row["of"] == "http":
            faults = [fault_of_api(None, "a message", int(code))]
        else:
            faults = [fault_of_api(code, "a message", status) for status in (400, 403, 500, 503)]
            faults.append(fault_of_edge({"code": code, "message": "a message"}, 500))
        for fault in faults:
            assert (OUTCOMES[fault.kind], fault.code) == (row["direct"], code)
            assert ("a message" in fault.message) == (row["kept"] is None)


def test_bulk_takes_each_row_at_its_word(project_db: Db, rows: list[Row]) -> None:
    """Every SQLSTATE that a subtransaction can end with."""
    for row in rows:
        found = value(project_db, "select backfill_private.bulk_outcome(%s)", example(row))
        assert found == row["bulk"]


def test_what_is_kept_of_a_message_is_what_the_row_says(project_db: Db, rows: list[Row]) -> None:
    """The message, cut, or what stands for it; the client keeps the same."""
    message = "a message " * 60
    for row in rows:
        code = example(row)
        kept = value(project_db, "select backfill_private.kept_message(%s, %s)", code, message)
        assert kept == fault_of_api(code, message, 400).message
        meaning = f"{row['kept']}; the message stays in the database's log, it may hold contents"
        assert kept == (message[:500] if row["kept"] is None else meaning)


def test_settling_makes_of_each_row_what_its_outcome_says(project_db: Db, rows: list[Row]) -> None:
    """Of a session without a row, at its first trouble, whichever mode it was scored in."""
    for row in rows:
        if row["class"] == "OB020":  # settled as OB017: the step before had no effect
            continue
        for told in {row["direct"], row["bulk"]} - {None}:
            settled = project_db.execute(
                "select * from backfill_private.outcome(false, false, 'fc_scores', %s, 'profile',"
                " %s, 'a message', 1, 1)",
                (told, example(row)),
            ).fetchone()
            assert settled is not None
            assert (settled["state"], settled["is_critical"]) == (
                STATES[told],
                row["class"] == "OB018",
            )
            is_kept = told != "released"
            assert settled["code"] == (example(row) if is_kept else None)


def test_a_fence_that_is_no_longer_ours_gives_the_session_back(project_db: Db) -> None:
    """Whatever a client takes the error for, unless the database doubts it."""
    for code in ("OB011", "OB012"):
        for told in ("failed", "unknown", "lost"):
            state = value(
                project_db,
                "select state from backfill_private.outcome("
                "false, false, null, %s, 'profile', %s, 'a message', 9, 9)",
                told,
                code,
            )
            assert state == "pending"


@pytest.mark.parametrize(
    ("code", "message", "is_ours"),
    [
        ("PGRST202", "Could not find the function public.backfill_check in the cache", True),
        ("PGRST205", "Could not find the table 'public.backfill_runs' in the schema cache", True),
        ("42P01", 'relation "public.backfill_runs" does not exist', True),
        ("42883", "function backfill_private.clock() does not exist", True),
        ("3F000", 'schema "backfill_private" does not exist', True),
        ("42P01", 'relation "change_log" does not exist', False),
        ("42P01", 'relation "public.backfill_log" does not exist', False),
        ("42883", "function public.my_backfill_private(integer) does not exist", False),
        ("3F000", 'schema "audit" does not exist', False),
        ("42703", 'column "backfill_private" does not exist', False),
    ],
)
def test_not_installed_is_said_only_if_something_of_ours_is_missing(
    code: str, message: str, is_ours: bool
) -> None:
    """PostgreSQL says the same codes about names in the user's own code."""
    assert is_of_ours_missing(code, message) is is_ours


@pytest.mark.parametrize(
    ("change", "code", "decided"),
    [
        ("select", "OB011", "again"),
        ("select", "OB012", "again"),
        ("select", "P0001", "released"),
        ("select", "OB020", "released"),
        ("update public.backfill_items set lease_until = now()", "OB011", "released"),
        ("update public.backfill_runs set approved_until = now()", "OB012", "released"),
        ("update public.backfill_runs set state = 'paused'", "OB012", "released"),
    ],
)
def test_a_refusal_is_doubted_while_the_gate_has_no_reason_for_it(
    project_db: Db, project_admin: psycopg.Connection[Any], change: str, code: str, decided: str
) -> None:
    """Only the user's code says so while the lease lives and the run may write."""
    run_id = verbs.started(project_db)
    ordinal = verbs.claim(project_db, run_id)["granted"][0]["ordinal"]
    project_admin.execute(
        b"set session_replication_role = replica; " + change.encode() + b"; reset all"
    )
    told = Jsonb([{"ordinal": ordinal, "outcome": "released", "code": code}])
    doubted = value(
        project_db, "select backfill_private.doubt_refusals(%s, %s) #>> '{0,outcome}'", run_id, told
    )
    assert doubted == decided
