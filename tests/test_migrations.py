"""The migrations are what `sql/` says, and a database made from them is the one `sql/` declares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backfill.targets import migrations
from backfill.targets.migrations import (
    MIGRATIONS,
    RELOAD,
    SQL,
    UNCHECKED,
    built,
    declared_files,
    generated,
)
from tests.kit.catalog import differences, snapshot

OURS = [file.name for file in migrations.our_files()]


def run_script(connection: psycopg.Connection[Any], script: str) -> None:
    """Execute a script statement by statement, each in a transaction of its own."""
    for statement in migrations.statements(script):
        connection.execute(statement.encode())


# -- the files


@pytest.mark.parametrize("name", built())
def test_a_migration_is_what_the_declared_state_makes(name: str) -> None:
    """Whoever edits sql/ makes the migrations anew: poe migrations."""
    assert (MIGRATIONS / name).read_text() == built()[name]


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_the_sql_of_prism_is_what_its_declaration_makes(path: Path) -> None:
    """PRISM is a declared target as any other: the same generator, the same command."""
    assert path.read_text() == generated()[path]


def test_no_migration_of_ours_is_made_from_nothing() -> None:
    """The folder holds exactly the migrations that sql/ makes, beside the sample's own."""
    assert sorted(built()) == sorted(OURS)


def test_every_file_stands_in_exactly_one_migration() -> None:
    """A new file of sql/ that no migration takes would be declared and never applied."""
    texts = built().values()
    files = [f for f in SQL.rglob("*.sql") if f.name != "uninstall.sql"]
    places = {f"{f}": sum(f.read_text() in t for t in texts) for f in files}
    assert {name: count for name, count in places.items() if count != 1} == {}
    assert len(places) > 50


@pytest.mark.parametrize("name", OURS)
def test_a_migration_ends_by_telling_the_api(name: str) -> None:
    """Without it PostgREST goes on with the schema that it knows."""
    assert (MIGRATIONS / name).read_text().endswith(f"\n{RELOAD}")


def test_the_sample_project_comes_before_ours() -> None:
    """Our triggers hang on its tables."""
    names = [file.name for file in migrations.all_files()]
    assert names == ["20250101000000_sample_project.sql", *sorted(OURS)]


# -- the databases


def test_the_migrations_make_the_declared_database(
    project_db: psycopg.Connection[Any], bare_db: psycopg.Connection[Any]
) -> None:
    """Relations, columns, constraints, indexes, triggers, policies, functions, rights: by name."""
    run_script(bare_db, migrations.all_files()[0].read_text())
    run_script(bare_db, UNCHECKED)
    for file in [*declared_files(), *generated()]:
        run_script(bare_db, file.read_text())
    assert differences(snapshot(project_db), snapshot(bare_db)) == []


def test_the_migrations_apply_statement_by_statement(
    sample_db: psycopg.Connection[Any], project_db: psycopg.Connection[Any]
) -> None:
    """psql sends a file so; outside of a transaction `set local` warns, no more."""
    for file in migrations.our_files():
        run_script(sample_db, file.read_text())
    assert differences(snapshot(project_db), snapshot(sample_db)) == []


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("revoke select on public.backfill_runs from authenticated", "right on relation"),
        (
            "revoke insert (note) on public.backfill_approvals from service_role",
            "right on column public.backfill_approvals.note",
        ),
        (
            "revoke execute on function backfill_private.clock() from authenticated",
            "right on function backfill_private.clock()",
        ),
        ("grant usage on schema backfill_private to anon", "right on schema backfill_private"),
        ('drop policy "the service reads runs" on public.backfill_runs', "policy"),
        (
            'alter policy "the service reads runs" on public.backfill_runs to anon',
            "policy",
        ),
        ('alter table public.profiles enable trigger "000_backfill_receipt"', "trigger"),
        ("drop index public.backfill_items_pending", "index"),
        (
            "alter table public.backfill_items drop constraint backfill_items_state_check",
            "constraint",
        ),
        ("alter table public.backfill_items alter column attempts set default 1", "column"),
        ("alter view public.backfill_candidates reset (security_invoker)", "relation"),
        ("alter table backfill_private.starts disable row level security", "relation"),
        ("alter function backfill_private.clock() stable", "function"),
        ("comment on table public.backfill_runs is null", "comment"),
        (
            "alter default privileges in schema public grant select on tables to anon",
            "right on default privileges",
        ),
    ],
)
def test_one_change_makes_the_catalogs_differ(
    project_db: psycopg.Connection[Any], change: str, shown: str
) -> None:
    """One grant, one policy, one trigger's state: the comparison shows each of them."""
    before = snapshot(project_db)
    project_db.execute(change.encode())
    lines = differences(before, snapshot(project_db))
    assert lines
    assert all(line[2:].startswith(shown) for line in lines), lines


def test_the_core_names_no_target() -> None:
    """What PRISM needs is apart, so that another target needs no change of the core.

    One sentence, of a project without a target, names those that the package brings.
    """
    core = declared_files()
    sentence = "--target prism (prism-edge if"
    texts = {path: path.read_text().replace(sentence, "") for path in core}
    named = [p.name for p in core if re.search("prism|fc_scores|profile", texts[p])]
    assert len(core) > 40
    assert named == []
