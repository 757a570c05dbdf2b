"""rollback.sql: reviewable, without row contents, and true to what the run wrote."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from sqlglot import exp

from backfill.rollback_sql import Undo, built

RUN = "22dc9d26-0e85-4a2c-9bdc-1b92db031930"
KEY = {"session_id": "618c5ea6", "version": "v1.2", "fc_kind": "functions"}
REQUEST = {
    "since": "2025-08-01",
    "throttle_per_minute": 20,
    "batch_size": 5,
    "priority": ["618c5ea6", "070d9bf2"],
    "environment": "staging",
}
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
    undo = Undo(run)
    return undo.beginning() + undo.of(receipts) + undo.end()


def statements(receipts: list[dict[str, Any]]) -> list[exp.Expr]:
    """The statements that undo rows: what stands between the settings and commit."""
    parsed = [s for s in sqlglot.parse(rollback_sql(RUN, receipts), dialect="postgres") if s]
    assert isinstance(parsed[0], exp.Transaction)
    assert isinstance(parsed[-1], exp.Commit)
    return [s for s in parsed[1:-1] if not isinstance(s, exp.Set)]


def test_the_header_names_the_run_and_the_right_way() -> None:
    text = rollback_sql(RUN, [])
    assert text.startswith(f"-- Undo of run {RUN}, the newest rows first.\n")
    assert text.endswith("-- 0 rows\nCOMMIT;\n")
    assert f"-- The right way is: backfill rollback {RUN}\n" in text


def test_a_run_id_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="badly formed"):
        rollback_sql("x\n; drop table profiles", [])


def test_the_settings_that_a_hash_depends_on_are_pinned_first() -> None:
    text = rollback_sql(RUN, [receipt(1)])
    pinned = text.split("BEGIN;\n")[1].split("DELETE")[0].splitlines()
    assert pinned == [
        "SET LOCAL timezone = 'UTC';",
        "SET LOCAL datestyle = 'ISO, YMD';",
        "SET LOCAL intervalstyle = 'iso_8601';",
        "SET LOCAL extra_float_digits = 1;",
        "SET LOCAL bytea_output = 'hex';",
    ]


def test_an_inserted_row_is_deleted_by_its_key_and_hash() -> None:
    (delete,) = statements([receipt(7)])
    assert isinstance(delete, exp.Delete)
    text = delete.sql("postgres")
    assert """DELETE FROM "public"."fc_scores" AS "t" WHERE""" in text
    assert """"t"."session_id" = '618c5ea6'""" in text
    assert f"CAST('\\x{7:064x}' AS BYTEA)" in text


def test_an_updated_row_comes_back_from_its_receipt_not_from_the_file() -> None:
    (restored,) = statements([receipt(7, operation="update", before_hash="\\x01")])
    text = restored.sql("postgres")
    assert "undo_row" in text
    assert """"r"."receipt_id" = 7""" in text
    assert f"CAST('\\x{7:064x}' AS BYTEA)" in text


def test_a_deleted_row_comes_back_only_where_no_other_has_come() -> None:
    (restored,) = statements([receipt(7, operation="delete", before_hash="\\x01", after_hash=None)])
    assert "NOT EXISTS(" in restored.sql("postgres")


def test_the_newest_row_is_undone_first() -> None:
    keys = [{**KEY, "session_id": name} for name in ("a", "b", "c")]
    undoing = statements([receipt(n, row_key=key) for n, key in enumerate(keys, start=1)])
    found = [
        name for s in undoing for name in ("a", "b", "c") if f"= '{name}'" in s.sql("postgres")
    ]
    assert found == ["c", "b", "a"]


def test_several_receipts_of_a_row_go_back_to_before_the_first() -> None:
    (restored,) = statements(
        [
            receipt(9, operation="update", before_hash="\\x02"),
            receipt(4, operation="update", before_hash="\\x01"),
        ]
    )
    text = restored.sql("postgres")
    assert """"r"."receipt_id" = 4""" in text
    assert f"CAST('\\x{9:064x}' AS BYTEA)" in text


def test_a_row_that_was_inserted_and_updated_is_deleted_if_it_is_what_the_update_left() -> None:
    (delete,) = statements([receipt(4), receipt(9, operation="update", before_hash="\\x01")])
    assert isinstance(delete, exp.Delete)
    assert f"CAST('\\x{9:064x}' AS BYTEA)" in delete.sql("postgres")


def test_a_row_that_the_run_made_and_removed_needs_nothing() -> None:
    assert statements([receipt(4), receipt(9, operation="delete", after_hash=None)]) == []


def test_a_table_name_is_read_as_postgresql_reads_it_and_quoted() -> None:
    (folded,) = statements([receipt(1, table_name="public.FC_Scores")])
    (kept,) = statements([receipt(1, table_name='app."My ""Scores"')])
    assert '"public"."fc_scores" AS "t"' in folded.sql("postgres")
    assert '"app"."My ""Scores" AS "t"' in kept.sql("postgres")


def test_a_hash_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no hash"):
        rollback_sql(RUN, [receipt(1, after_hash="'; drop table profiles")])


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_key_is_a_literal_whatever_it_holds(value: str) -> None:
    (delete,) = statements([receipt(1, row_key={"id": value})])
    literals = {node.this for node in delete.find_all(exp.Literal)}
    assert value in literals


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=3))
def test_rows_of_a_shape_differ_in_their_values_alone(ids: list[str]) -> None:
    """What is built once and filled in many times is what would be built for each."""
    for operation, before_hash in (("insert", None), ("update", "\\x01"), ("delete", "\\x01")):
        rows = [
            receipt(
                number,
                row_key={"id": name, "place": number, "is_new": number > 2},
                operation=operation,
                before_hash=before_hash,
                after_hash=None if operation == "delete" else f"\\x{number:064X}",
            )
            for number, name in enumerate(ids)
        ]
        assert undo_of(*rows) == "".join(f"{built(RUN, row, row)};\n" for row in reversed(rows))


def undo_of(*receipts: dict[str, Any]) -> str:
    """The statements alone, as text."""
    _, _, rest = rollback_sql(RUN, list(receipts)).partition("bytea_output = 'hex';\n")
    return rest.rpartition("-- ")[0]


# On a real database ------------------------------------------------------------------------------


def _start(db: Db) -> tuple[str, list[dict[str, Any]]]:
    """A run with its canary leased; returns its id and the grants."""
    run = _value(db, "select public.backfill_open(%s)", Jsonb(REQUEST))
    while not _value(db, "select public.backfill_collect(%s)", run):
        pass
    db.execute("select public.backfill_seal(%s)", (run,))
    digest = _value(db, "select digest from public.backfill_runs where run_id = %s", run)
    db.execute("select public.backfill_approve(%s, %s, 'Ada')", (run, digest))
    db.execute("select public.backfill_start(%s, 'w1')", (run,))
    claim = _value(db, "select public.backfill_claim(%s, gen_random_uuid(), 'w1')", run)
    return str(run), claim["granted"]


def _value(db: Db, query: str, *values: object) -> Any:
    row = db.execute(query.encode(), values).fetchone()
    assert row is not None
    return next(iter(row.values()))


def _under(db: Db, run: str, grant: dict[str, Any]) -> None:
    headers = {"x-backfill-run": run, "x-backfill-fence": grant["fence"]}
    db.execute("select set_config('request.headers', %s, true)", (json.dumps(headers),))


def _score(db: Db, run: str, grant: dict[str, Any]) -> None:
    """Make a session's calls as a worker does: one transaction each, under its headers."""
    for step in grant["steps"]:
        named = ", ".join(f"{name} => %s" for name in step["arguments"])
        with db.transaction():
            _under(db, run, grant)
            db.execute(
                f"select public.{step['function']}({named})".encode(),
                tuple(step["arguments"].values()),
            )


def _receipts(db: Db, run: str) -> list[dict[str, Any]]:
    """The receipts as the API answers them: bytes in hex."""
    found = db.execute(
        "select to_jsonb(r) - 'before' as receipt from public.backfill_receipts as r"
        " where run_id = %s and kind = 'score' and undone_at is null",
        (run,),
    ).fetchall()
    return [row["receipt"] for row in found]


def _contents(db: Db) -> dict[str, Any]:
    """All rows of both target tables, but for the stamp that the sample's own trigger sets."""
    query = (
        "select coalesce(jsonb_agg(c.row order by c.row::text), '[]')"
        " from (select to_jsonb(t) - 'updated_at' as row from public.{} as t) as c"
    )
    return {table: _value(db, query.format(table)) for table in ("fc_scores", "profiles")}


def test_it_takes_back_every_row_of_a_scored_session(project_db: Db) -> None:
    before = _contents(project_db)
    run, grants = _start(project_db)
    for grant in grants:
        _score(project_db, run, grant)
    receipts = _receipts(project_db, run)
    assert [r["operation"] for r in receipts] == ["insert"] * 3
    project_db.execute(rollback_sql(run, receipts).encode())
    assert _contents(project_db) == before


def test_it_recognises_the_rows_whatever_the_settings_of_its_session(project_db: Db) -> None:
    before = _contents(project_db)
    run, (grant, *_) = _start(project_db)
    _score(project_db, run, grant)
    undo = rollback_sql(run, _receipts(project_db, run))
    project_db.execute("set timezone = 'Asia/Kolkata'")
    project_db.execute(undo.encode())
    project_db.execute("reset timezone")
    assert _contents(project_db) == before


def test_it_leaves_a_row_that_was_changed_since(project_db: Db) -> None:
    run, grants = _start(project_db)
    for grant in grants:
        _score(project_db, run, grant)
    project_db.execute("update public.fc_scores set blocks_answered = 1 where version = 'v1.2'")
    after = _contents(project_db)
    project_db.execute(rollback_sql(run, _receipts(project_db, run)).encode())
    assert _contents(project_db)["fc_scores"] == after["fc_scores"]
    assert _contents(project_db)["profiles"] != after["profiles"]


def test_it_puts_a_row_that_was_updated_twice_back(project_db: Db) -> None:
    run, (grant, *_) = _start(project_db)
    session = grant["session_id"]  # 070d9bf2 has a profile
    before = _contents(project_db)
    changes = (
        "update public.profiles set payload = '{}' where session_id = %s",
        "update public.profiles set type_code = 'ESFP' where session_id = %s",
    )
    _score(project_db, run, grant)
    for change in changes:
        with project_db.transaction():
            _under(project_db, run, grant)
            project_db.execute(change.encode(), (session,))
    project_db.execute(rollback_sql(run, _receipts(project_db, run)).encode())
    assert _contents(project_db) == before


def test_it_puts_a_deleted_row_back(project_db: Db) -> None:
    run, (grant, *_) = _start(project_db)
    before = _contents(project_db)
    _score(project_db, run, grant)
    with project_db.transaction():
        _under(project_db, run, grant)
        project_db.execute(
            "delete from public.profiles where session_id = %s", (grant["session_id"],)
        )
    project_db.execute(rollback_sql(run, _receipts(project_db, run)).encode())
    assert _contents(project_db) == before


def test_it_does_not_delete_where_the_before_image_was_pruned(project_db: Db) -> None:
    run, (grant, *_) = _start(project_db)
    _score(project_db, run, grant)
    with project_db.transaction():
        _under(project_db, run, grant)
        project_db.execute(
            "update public.profiles set payload = '{}' where session_id = %s",
            (grant["session_id"],),
        )
    after = _contents(project_db)
    project_db.execute("update public.backfill_receipts set before = null")
    project_db.execute(rollback_sql(run, _receipts(project_db, run)).encode())
    assert _contents(project_db)["profiles"] == after["profiles"]


def test_it_does_not_delete_a_row_that_another_refers_to(project_db: Db) -> None:
    before = _contents(project_db)
    run, grants = _start(project_db)
    for grant in grants:
        _score(project_db, run, grant)
    project_db.execute(
        "create table public.notes (session_id uuid references public.profiles on delete cascade)"
    )
    scored = grants[1]["session_id"]  # 618c5ea6 had no profile
    project_db.execute("insert into public.notes values (%s)", (scored,))
    project_db.execute(rollback_sql(run, _receipts(project_db, run)).encode())
    assert _value(project_db, "select count(*) from public.notes") == 1
    assert len(_contents(project_db)["profiles"]) == len(before["profiles"]) + 1
    assert _contents(project_db)["fc_scores"] == before["fc_scores"]
