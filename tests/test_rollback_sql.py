"""rollback.sql: what a run wrote, without contents, and two calls that take it back at the gate."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

import backfill
from backfill.files.rollback_sql import Listing
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock

RUN = "22dc9d26-0e85-4a2c-9bdc-1b92db031930"
KEY = {"session_id": "618c5ea6", "version": "v1.2", "fc_kind": "functions"}
SEVEN: dict[str, Any] = {"since": "2025-09-01", "throttle_per_minute": 20, "batch_size": 7}
Db = psycopg.Connection[dict[str, Any]]


def receipt(receipt_id: int, **changes: Any) -> dict[str, Any]:
    """A receipt of an inserted row."""
    return {
        "receipt_id": receipt_id,
        "session_id": "618c5ea6",
        "table_name": "public.fc_scores",
        "row_key": KEY,
        "operation": "insert",
        "before_hash": None,
        "after_hash": f"\\x{receipt_id:064x}",
        **changes,
    }


def rollback_sql(run: str, receipts: list[dict[str, Any]]) -> str:
    """The file, of receipts that come all at once."""
    listing = Listing(run)
    return listing.beginning() + listing.of(receipts) + listing.end()


def rows(*receipts: dict[str, Any]) -> list[str]:
    """The lines of the list."""
    text = Listing(RUN).of(list(receipts))
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def test_the_header_names_the_run_and_the_command() -> None:
    text = rollback_sql(RUN, [])
    assert text.startswith(f"-- What run {RUN} wrote")
    assert f"backfill rollback {RUN}\n" in text
    assert "\n-- 0 rows\n" in text


def test_a_run_id_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="badly formed"):
        rollback_sql("x\n; drop table profiles", [])


def test_a_row_is_named_by_table_key_operation_and_session() -> None:
    (line,) = rows(receipt(7))
    assert line == f"-- insert public.fc_scores {json.dumps(KEY, sort_keys=True)} 618c5ea6"


@pytest.mark.parametrize("operation", ["update", "delete"])
def test_what_the_run_did_is_told(operation: str) -> None:
    left = None if operation == "delete" else "\\x02"
    (line,) = rows(receipt(7, operation=operation, before_hash="\\x01", after_hash=left))
    assert line.startswith(f"-- {operation} public.fc_scores ")


def test_the_newest_row_comes_first() -> None:
    keys = [{**KEY, "session_id": name} for name in ("a", "b", "c")]
    lines = rows(*(receipt(n, row_key=key) for n, key in enumerate(keys, start=1)))
    assert [json.loads(line.split(" ", 3)[3][:-9])["session_id"] for line in lines] == [*"cba"]


def test_several_receipts_of_a_row_are_one_line() -> None:
    (line,) = rows(receipt(9, operation="update", before_hash="\\x01"), receipt(4))
    assert line.startswith("-- insert ")


def test_a_row_that_the_run_made_and_removed_is_not_listed() -> None:
    assert rows(receipt(4), receipt(9, operation="delete", after_hash=None)) == []


ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_row_is_one_comment_whatever_its_names_hold(key: str, table: str, session: str) -> None:
    """Nothing in it ends the line, and nothing in it turns the letters around."""
    (line,) = rows(receipt(1, row_key={"id": key}, table_name=table, session_id=session))
    assert line.startswith("-- insert ")
    assert line.isascii()
    assert line.isprintable()


# On a real database ------------------------------------------------------------------------------


@pytest.fixture
def done(project_db: Db, clock: DatabaseClock) -> tuple[str, dict[str, Any]]:
    """A run over seven sessions that is done, and what stood in the tables before it."""
    before = contents(project_db)
    run_id = verbs.started(project_db, **SEVEN)
    verbs.work(project_db, run_id, clock)
    assert contents(project_db) != before
    return run_id, before


def written(db: Db, run_id: str) -> str:
    """The file of a run, of its receipts as the API answers them."""
    found = db.execute(
        "select to_jsonb(r) - 'before' as receipt from public.backfill_receipts as r"
        " where run_id = %s and kind = 'score' and undone_at is null",
        (run_id,),
    )
    return rollback_sql(run_id, [row["receipt"] for row in found])


def contents(db: Db) -> dict[str, Any]:
    """All rows of both target tables, but for the stamp that the sample's own trigger sets."""
    query = (
        "select coalesce(jsonb_agg(c.row order by c.row::text), '[]') as found"
        " from (select to_jsonb(t) - 'updated_at' as row from public.{} as t) as c"
    )
    found = {t: db.execute(query.format(t).encode()) for t in ("fc_scores", "profiles")}
    return {table: answer.fetchall()[0]["found"] for table, answer in found.items()}


def statements(text: str) -> list[str]:
    """The statements of the file, as somebody marks and runs them one by one."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    return [statement for statement in code.split(";") if statement.strip()]


def answer_to(db: Db, statement: str) -> dict[str, Any]:
    """The one row that the SQL editor shows."""
    (row,) = db.execute(statement.encode()).fetchall()
    return row


def filled_in(confirm: str, digest: str, at_once: int = 5000) -> str:
    """The second call with a digest and a reason."""
    return (
        confirm.replace("p_digest => ''", f"p_digest => '{digest}'")
        .replace("p_reason => ''", "p_reason => 'a test'")
        .replace("p_sessions => 5000", f"p_sessions => {at_once}")
    )


@pytest.mark.parametrize("at_once", [3, 5000])
def test_its_two_calls_take_everything_back(
    project_db: Db, done: tuple[str, dict[str, Any]], at_once: int
) -> None:
    """Through the gate: each row has an undo receipt, the chain tells of it, the run is closed."""
    run_id, before = done
    text = written(project_db, run_id)
    preview, confirm = statements(text)
    shown = answer_to(project_db, preview)
    assert sum(shown["deletes"].values()) == text.count("\n-- insert ")
    remaining: list[int] = []
    while not remaining or remaining[-1]:
        said = answer_to(project_db, filled_in(confirm, shown["digest"], at_once))
        remaining.append(said["remaining"])
    assert remaining == ([4, 1, 0] if at_once == 3 else [0])
    assert said["state"] == "rolled_back"
    assert said["deletes"] == shown["deletes"]
    assert contents(project_db) == before
    counted = project_db.execute(
        "select kind, count(*) as n from public.backfill_receipts where run_id = %s group by 1",
        (run_id,),
    )
    assert len({row["n"] for row in counted}) == 1
    kinds = project_db.execute(
        "select kind from public.backfill_events where run_id = %s order by seq", (run_id,)
    )
    told = [row["kind"] for row in kinds]
    begun = told.index("undo_confirmed")
    assert set(told[begun + 1 : -2]) == {"undo_settled"}
    assert told[-2:] == ["undo_finished", "rolled_back"]
    assert "\n-- 0 rows\n" in written(project_db, run_id)


def test_a_row_that_was_changed_since_is_shown_and_left(
    project_db: Db, done: tuple[str, dict[str, Any]]
) -> None:
    run_id, _ = done
    project_db.execute("update public.fc_scores set blocks_answered = 1 where version = 'v1.2'")
    changed = contents(project_db)
    preview, confirm = statements(written(project_db, run_id))
    shown = answer_to(project_db, preview)
    assert {c["reason"] for c in shown["conflicts"]} == {"the row was changed since"}
    answer_to(project_db, filled_in(confirm, shown["digest"]))
    assert contents(project_db)["fc_scores"] == changed["fc_scores"]
    assert contents(project_db)["profiles"] != changed["profiles"]


def test_a_file_that_is_run_as_it_is_does_nothing(
    project_db: Db, done: tuple[str, dict[str, Any]]
) -> None:
    """Neither without a digest and a reason nor with a reason alone."""
    run_id, _ = done
    after = contents(project_db)
    text = written(project_db, run_id)
    for run_at_once in (text, text.replace("p_reason => ''", "p_reason => 'a test'")):
        with pytest.raises(psycopg.Error, match=r"needs a reason|not the digest"):
            project_db.execute(run_at_once.encode())
    assert contents(project_db) == after


def test_the_file_that_a_run_leaves_takes_it_back(
    project: Project, bf: backfill.Backfill, tmp_path: Any
) -> None:
    """What `backfill logs` writes, run as it stands but for the digest and the reason."""
    plan = bf.plan(since="2025-09-01", throttle_per_minute="none", rehearse=0)
    project.approve(plan)
    assert bf.apply(plan.run_id).is_complete
    text = (bf.write_logs(plan.run_id, tmp_path) / "rollback.sql").read_text()
    preview, confirm = statements(text)
    with psycopg.connect(project.db.info.dsn, password=project.db.info.password) as editor:
        (digest,) = editor.execute(preview.encode()).fetchall()[0][:1]
        editor.execute(filled_in(confirm, digest).encode())
    assert bf.status(plan.run_id).state == "rolled_back"
