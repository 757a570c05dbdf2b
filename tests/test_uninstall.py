"""The uninstall script takes away all of ours; the user's project stays as it was."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from backfill.targets import migrations
from tests.kit.catalog import differences, snapshot

Db = psycopg.Connection[Any]

REQUEST = {
    "since": "2025-08-01",
    "throttle_per_minute": 20,
    "batch_size": 5,
    "priority": ["618c5ea6", "070d9bf2"],
}
# What a user may have who likes our prefix.
OF_THE_USER = """
create function public.backfill_mine() returns integer language sql as 'select 1';
create function public.backfill_pause(seconds integer) returns integer language sql as 'select 1';
create table public.backfill_notes (id integer primary key, note text);
create view public.backfill_latest_note as select max(id) as id from public.backfill_notes;
create index backfill_notes_note on public.backfill_notes (note);
create function public.backfill_stamp() returns trigger language plpgsql as
  'begin new.note := upper(new.note); return new; end';
create trigger backfill_stamp before insert on public.backfill_notes
  for each row execute function public.backfill_stamp();
alter table public.backfill_notes enable row level security;
create policy "mine" on public.backfill_notes for select to anon using (true);
grant select on public.backfill_notes to anon;
insert into public.backfill_notes values (1, 'keep me');
"""


def install(db: Db) -> None:
    """Apply our migrations as the library does."""
    for file in migrations.our_files():
        script = file.read_text(encoding="utf-8")
        if migrations.builds_index_concurrently(script):
            for statement in migrations.statements(script):
                db.execute(statement.encode())
        else:
            with db.transaction():
                db.execute(script.encode())


def uninstall(db: Db) -> None:
    """Run the script in one transaction, as the SQL editor does."""
    with db.transaction():
        db.execute(migrations.uninstall_file().read_bytes())


def one(db: Db, query: str, *values: object) -> Any:
    """The one value of a query."""
    row = db.execute(query.encode(), values).fetchone()
    assert row is not None
    return row[0]


def live(db: Db) -> int:
    """Plan, approve, start, claim and score a batch; returns how many receipts that left."""
    run = one(db, "select public.backfill_open(%s::jsonb)", json.dumps(REQUEST))
    while not one(db, "select public.backfill_collect(%s)", run):
        pass
    assert one(db, "select public.backfill_seal(%s)", run)["state"] == "awaiting_approval"
    digest = one(db, "select digest from public.backfill_runs where run_id = %s", run)
    db.execute("select public.backfill_approve(%s, %s, 'Ada')", (run, digest))
    db.execute("select public.backfill_start(%s, 'worker')", (run,))
    claim = one(db, "select public.backfill_claim(%s, %s, 'worker')", run, uuid4())
    for item in claim["granted"]:
        headers = {"x-backfill-run": str(run), "x-backfill-fence": item["fence"]}
        with db.transaction():
            db.execute("select set_config('request.headers', %s, true)", (json.dumps(headers),))
            for step in item["steps"]:
                score(db, step["function"], step["arguments"])
    receipts: int = one(db, "select count(*) from public.backfill_receipts")
    return receipts


def score(db: Db, function: str, arguments: dict[str, str]) -> None:
    """Call a scoring function by name, its arguments too."""
    named = ", ".join(f"{name} => %({name})s" for name in arguments)
    db.execute(f"select public.{function}({named})".encode(), arguments)


def rows(db: Db) -> dict[str, list[str]]:
    """Every row of the user's tables, those that are ours left out."""
    tables = db.execute(
        "select c.oid::regclass::text from pg_class as c"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'"
        " and (c.relname !~ '^backfill_' or c.relname = 'backfill_notes')"
    ).fetchall()
    return {
        table: [
            row[0] for row in db.execute(f"select t::text from {table} as t order by 1".encode())
        ]
        for (table,) in tables
    }


def test_the_catalog_is_as_before_the_installation(sample_db: Db) -> None:
    """Triggers, indexes, rights, policies: after a life of ours nothing of us is left."""
    before = snapshot(sample_db)
    install(sample_db)
    assert differences(before, snapshot(sample_db)), "the installation shows in the catalog"
    assert live(sample_db) > 0
    uninstall(sample_db)
    assert differences(before, snapshot(sample_db)) == []


def test_the_rows_that_a_run_wrote_stay(sample_db: Db) -> None:
    """Uninstalling is no undo: every row of the user's tables is what it was a moment before."""
    untouched = rows(sample_db)
    install(sample_db)
    live(sample_db)
    before = rows(sample_db)
    assert before != untouched
    uninstall(sample_db)
    assert rows(sample_db) == before


def test_what_the_user_calls_backfill_stays(sample_db: Db) -> None:
    """A name that begins like ours makes nothing ours, not even beside a function of that name."""
    sample_db.execute(OF_THE_USER.encode())
    before, notes = snapshot(sample_db), rows(sample_db)["backfill_notes"]
    assert notes == ['(1,"KEEP ME")']
    install(sample_db)
    uninstall(sample_db)
    assert differences(before, snapshot(sample_db)) == []
    assert rows(sample_db)["backfill_notes"] == notes


def test_what_the_user_made_after_us_stays_too(sample_db: Db) -> None:
    """The order of installing and naming does not matter."""
    install(sample_db)
    sample_db.execute(OF_THE_USER.encode())
    uninstall(sample_db)
    assert one(sample_db, "select public.backfill_mine()") == 1
    assert rows(sample_db)["backfill_notes"] == ['(1,"KEEP ME")']


def test_everything_of_ours_in_public_is_named_in_the_script(sample_db: Db) -> None:
    """A new function or relation of ours that nobody added to the script is shown by its name."""
    ours = (
        "select p.oid::regprocedure::text from pg_proc as p"
        " where p.pronamespace = 'public'::regnamespace"
        " union all select c.relname::text from pg_class as c"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'm')"
    )
    before = {row[0] for row in sample_db.execute(ours.encode())}
    install(sample_db)
    added = {row[0] for row in sample_db.execute(ours.encode())} - before
    script = re.sub(r"(?<=[(,])\s+", "", migrations.uninstall_file().read_text())
    # The views of a target are found by its declaration.
    views = {
        row[0] for row in sample_db.execute("select unnest(views) from backfill_private.sources")
    }
    named = [
        name
        for name in added
        if f"public.{name}," in script or f"public.{name};" in script or f"public.{name}" in views
    ]
    assert len(added) > 30
    assert sorted(added - set(named)) == []


def test_a_second_run_of_the_script_changes_nothing(sample_db: Db) -> None:
    """Who is not sure that it ran may run it again."""
    install(sample_db)
    uninstall(sample_db)
    before = snapshot(sample_db)
    uninstall(sample_db)
    assert differences(before, snapshot(sample_db)) == []


def test_the_script_does_no_harm_where_we_never_were(sample_db: Db) -> None:
    """A project without us stays as it is."""
    before = snapshot(sample_db)
    uninstall(sample_db)
    assert differences(before, snapshot(sample_db)) == []


def test_installing_again_afterwards_works(sample_db: Db) -> None:
    """The second installation is the first one's equal, and lives."""
    install(sample_db)
    first = snapshot(sample_db)
    uninstall(sample_db)
    install(sample_db)
    assert differences(first, snapshot(sample_db)) == []
    assert live(sample_db) > 0


@pytest.mark.parametrize(
    "standing",
    [
        "create view public.mine as select * from public.backfill_run_progress",
        "create view public.mine as select * from public.backfill_runs",
        "create view public.mine as select * from backfill_private.prism_gaps",
        "create view public.mine as select backfill_private.batch_spacing_s('{}')",
        "create table public.mine (at timestamptz default backfill_private.clock())",
        "create table public.mine (run_id uuid references public.backfill_runs)",
        "create table backfill_private.mine ()",
        "alter table public.profiles add column seen timestamptz default backfill_private.clock()",
        "create policy \"mine\" on public.profiles using (backfill_private.may('read'))",
    ],
)
def test_what_the_user_built_on_ours_is_named_and_stops_the_script(
    sample_db: Db, standing: str
) -> None:
    """Nothing cascades into the user's objects: the script ends and has changed nothing."""
    install(sample_db)
    sample_db.execute(standing.encode())
    before = snapshot(sample_db)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match=r"mine|seen"):
        uninstall(sample_db)
    assert differences(before, snapshot(sample_db)) == []


def test_a_trigger_of_ours_on_another_table_goes_too(sample_db: Db) -> None:
    """Triggers on the table of a target of the user's own are found by their function."""
    before = snapshot(sample_db)
    install(sample_db)
    sample_db.execute(
        "create trigger backfill_receipt_of_mine after insert on public.fc_blocks"
        " for each row execute function backfill_private.keep_receipt('mine', 'blocks')"
    )
    uninstall(sample_db)
    assert differences(before, snapshot(sample_db)) == []
