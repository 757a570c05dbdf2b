"""The house: each thing in the folder of its moment, no call ahead, no file too long to read.

The folders of `sql/` load in order, by the life of a run. What PostgreSQL would accept in any order
is held here, by what the functions' bodies call.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

import backfill
from backfill.targets.migrations import SQL, declared_files

MOST_LINES = 400
# The doors are one page on purpose.
LONGER = {SQL / "95_face" / "functions.sql"}
CREATES = re.compile(r"^create (?:or replace )?(?:function|procedure) (\w+\.\w+)", re.MULTILINE)
# A name that is told to a person, looked up in the catalog or given to a trigger is no call.
NO_CALL = re.compile(
    r"--[^\n]*|to_regproc(?:edure)?\('[^']*'\)|: select public\.\w+\(|execute function \S+\("
)
CALLS = re.compile(r"\b((?:backfill_private|public)\.\w+)\s*\(")
BODIES = """
select p.pronamespace::regnamespace || '.' || p.proname as name,
  pg_get_functiondef(p.oid) as definition
from pg_proc as p
where p.pronamespace = 'backfill_private'::regnamespace
  or p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\\_%'
"""


def folder_of() -> dict[str, str]:
    """Function -> the folder of `sql/` that makes it."""
    return {
        name: file.parent.name
        for file in declared_files()
        for name in CREATES.findall(file.read_text())
    }


def calls(definition: str) -> set[str]:
    """The functions of ours that a definition calls."""
    return set(CALLS.findall(NO_CALL.sub("", definition)))


def calls_ahead(db: psycopg.Connection[Any], folders: dict[str, str]) -> list[str]:
    """Each call from a function into a folder that loads after its own."""
    return [
        f"{row['name']} of {folders[row['name']]} calls {called} of {folders[called]}"
        for row in db.execute(BODIES.encode())
        for called in sorted(calls(row["definition"]))
        if called in folders and folders[called] > folders[row["name"]]
    ]


def test_no_function_calls_into_a_folder_that_loads_later(
    project_db: psycopg.Connection[Any],
) -> None:
    """The order of the folders is the order in which one may read them."""
    folders = folder_of()
    assert len(folders) > 250
    assert calls_ahead(project_db, folders) == []


def test_a_call_ahead_is_seen(project_db: psycopg.Connection[Any]) -> None:
    """Without this the test above could read nothing and pass."""
    folders = folder_of()
    ahead = {**folders, "backfill_private.clock": "98_moved"}
    assert len(calls_ahead(project_db, ahead)) > 20


def test_every_body_is_one_that_postgresql_accepts(project_db: psycopg.Connection[Any]) -> None:
    """The migration turns the check off, so that a file may stand where it is looked for."""
    project_db.execute(b"set check_function_bodies = on")
    definitions = project_db.execute(BODIES.encode()).fetchall()
    for row in definitions:
        project_db.execute(row["definition"].encode())
    assert len(definitions) > 250


def test_a_body_that_names_nothing_is_not_accepted(project_db: psycopg.Connection[Any]) -> None:
    """What the test above would see."""
    with pytest.raises(psycopg.errors.UndefinedFunction):
        project_db.execute(
            b"create function backfill_private.stray() returns integer language sql"
            b" as 'select backfill_private.nothing()'"
        )


@pytest.mark.parametrize(
    ("begins", "page"),
    [
        ("create policy", "policies.sql"),
        (r"alter table \S+ enable row level security", "policies.sql"),
        ("grant", "rights.sql"),
        ("revoke", "rights.sql"),
    ],
)
def test_policies_and_rights_stand_on_one_page_each(begins: str, page: str) -> None:
    """Who sees which rows is one look, who may call what another."""
    statement = re.compile(rf"^{begins}\b", re.MULTILINE)
    assert {f.name for f in declared_files() if statement.search(f.read_text())} == {page}


def test_no_file_is_too_long_to_read() -> None:
    """Python and SQL alike, but for the page of the doors."""
    package = Path(backfill.__file__).parent
    files = [*package.rglob("*.py"), *package.rglob("local/*.sql"), *declared_files()]
    lines = {f: len(f.read_text().splitlines()) for f in files if f not in LONGER}
    assert {f.name: n for f, n in lines.items() if n > MOST_LINES} == {}
    assert len(files) > 120


def test_no_line_of_sql_is_too_wide_to_read() -> None:
    """One clause a line, and comments wrapped."""
    wide = [
        f"{file.name}:{number}"
        for file in declared_files()
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if len(line) > 120
    ]
    assert wide == []
