"""What `target new` drafts lives through a whole run and back, over tables of every kind."""

# ruff: noqa: E501 - the table of cases is read across.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from backfill.targets.catalog import catalog_of
from tests.kit import verbs
from tests.kit.kinds import declare_text, lived
from tests.kit.songs import Db, as_owner, songs, songs_db
from tests.test_target_new import SCHEMAS, drafted

__all__ = ["songs", "songs_db"]  # fixtures of another module

DAYS = "from generate_series(1, 3) as n"
AT = "timestamptz '2025-08-01 12:00+00' + n * interval '1 day'"
UUIDS = "('00000000-0000-0000-0000-00000000000' || n)::uuid"
# The rows of each schema's source, and of what its functions read: three of each.
ROWS = {
    "uuid": f"insert into trips select {UUIDS}, 'x', {AT} {DAYS}; insert into pings select id from trips",
    "bigint": f"insert into sales (status, created_at) select 'paid', {AT} {DAYS}",
    "text": f"insert into books select 'isbn ' || n, ({AT})::date {DAYS}",
    "composite": f"insert into scans select n, ({AT})::timestamp {DAYS}",
    "enum": f"insert into parcels select {UUIDS}, 'new', {AT} {DAYS}",
    "quoted": f"""insert into "Order" select {UUIDS}, {AT} {DAYS}""",
    "another schema": f"insert into lab.samples select n, {AT} {DAYS}",
    "partitioned": f"insert into events select n, {AT} {DAYS}",
    "one function for two tables": f"insert into visits select {UUIDS}, {AT} {DAYS}",
    "one function for two kinds": f"insert into people select {UUIDS}, ({AT})::date {DAYS}",
    "one function for a version and none": f"insert into staff select {UUIDS}, {AT} {DAYS}",
    "edge": f"insert into essays select {UUIDS}, {AT} {DAYS}; insert into paragraphs select id from essays",
    "view": f"insert into calls select {UUIDS}, {AT}, true {DAYS}",
    "no version": f"insert into photos select {UUIDS}, {AT} {DAYS}",
}


def written_without_headers(db: Db, run_id: str, grant: Mapping[str, Any]) -> dict[str, Any]:
    """What an Edge Function as it is does: it writes its row in a request of its own."""
    (step,) = grant["steps"]
    with verbs.as_service(db):
        db.execute("insert into public.grades values (%(essay_id)s, 'g7')", step["arguments"])
    return {"ordinal": grant["ordinal"], "outcome": "answered", "answered": step["components"]}


def prepared(db: Db, name: str) -> dict[str, int]:
    """The schema with its rows, declared by its draft. Returns how many rows each table lacks."""
    schema = SCHEMAS[name]
    db.execute(f"set local search_path = public; {schema.sql}; {ROWS[name]}".encode())
    catalog = catalog_of(verbs.call(db, "backfill_catalog"))
    as_owner(db)
    tables = [table for table in catalog.relations if table.schema != "auth"]
    for table in tables:
        db.execute(f"grant select, insert, update, delete on {table.sql} to service_role".encode())
    text = drafted(db, schema).text
    as_owner(db)
    declare_text(db, text)
    names = {name.rpartition(".")[2].strip('"') for name in schema.derived}
    return {table.sql: 3 for table in tables if table.name in names}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_draft_lives_through_a_run(name: str, songs: Db) -> None:
    """Three rows of each table are planned, written, verified and taken back."""
    lacking = prepared(songs, name)
    more = {"inferred": "mine"} if name == "edge" else {}
    score = written_without_headers if name == "edge" else verbs.score_all
    run = lived(songs, "mine", score, **more)
    assert run.plan["expected_writes"]["total"] == 3 * len(lacking)
    assert (run.states, run.verdict) == ({"done": 3}, "pass")
    assert sorted(run.undone["deletes"].values()) == [3] * len(lacking)
    left = {t: songs.execute(f"select from {t}".encode()).rowcount for t in lacking}
    assert left == dict.fromkeys(lacking, 0)
