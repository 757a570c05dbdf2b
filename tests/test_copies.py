"""What a test leaves behind does not reach the next one, although both may have one database."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from backfill.local.servers import PostgresServer
from tests.kit import verbs
from tests.kit.copies import Copies, Copy
from tests.kit.moments import once

TABLES = """
select format('%I.%I', table_schema, table_name)
from information_schema.tables
where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')
order by 1
"""
ROWS = "select md5(string_agg(t::text, e'\\n' order by t::text)) from {} as t"
NEXT_KEYS = "select schemaname, sequencename, last_value from pg_sequences order by 1, 2"
DEFINITIONS = (
    "select oid, relname, relkind, relacl, relchecks from pg_class order by oid",
    "select oid, prosrc, proacl, proowner, proconfig from pg_proc order by oid",
    "select oid, tgname, tgenabled from pg_trigger order by oid",
    "select oid, conname, conrelid from pg_constraint order by oid",
    "select attrelid, attname, attnum, attnotnull from pg_attribute order by 1, 3",
    "select oid, typname from pg_type order by oid",
    "select oid, polname from pg_policy order by oid",
    "select oid, nspname from pg_namespace where nspname !~ 'temp' order by oid",
)
# What a test may do to the catalog, and a copy gets over.
TAKEN_BACK = {
    "a new table": "create table public.left_behind (id int primary key)",
    "a new view": "create view public.left_behind as select * from public.profiles",
    "a new function": "create function public.left_behind() returns int language sql as 'select 1'",
    "a new type": "create type public.left_behind as (id int); create domain public.d as int",
    "a new schema": "create schema left_behind create table t (id int)",
    "another body": "create or replace function backfill_private.clock() returns timestamptz"
    " language sql as 'select now()'",
    "a trigger that is off": "alter table public.profiles disable trigger user",
    "a trigger of its own": "create function public.f() returns trigger language plpgsql as"
    " 'begin return new; end'; create trigger left_behind before insert on public.profiles"
    " for each row execute function public.f()",
    "a constraint": "alter table public.profiles add check (payload is not null)",
    "a policy": "create policy left_behind on public.profiles using (true)",
}
# What it does not get over.
SPOILT = {
    "a right": "revoke execute on function public.backfill_pause from service_role",
    "a right on PostgreSQL's own": "revoke execute on function pg_catalog.now from public",
    "a comment": "comment on table public.profiles is 'left behind'",
    "a default": "alter table public.profiles alter column created_at drop default",
    "a column": "alter table public.profiles add column left_behind int",
    "a role's setting": "alter role authenticator in database {} set statement_timeout = '1s'",
    "a dropped table": "drop table public.backfill_settings cascade",
    "a dropped function": "drop function public.backfill_pause",
    "a definition that PostgREST knows": "create function public.left_behind() returns int"
    " language sql as 'select 1'; notify pgrst, 'reload schema'",
}


@pytest.fixture
def copies(postgres_server: PostgresServer, project_template: SimpleNamespace) -> Iterator[Copies]:
    """Of the test's own."""
    made = Copies(postgres_server, project_template.template_dbname)
    yield made
    made.close()


def content(copy: Copy) -> list[object]:
    """Every row and definition, and what every sequence gives next."""
    tables = [name for (name,) in copy.keeper.execute(TABLES.encode())]
    queries = [*(ROWS.format(name) for name in tables), NEXT_KEYS, *DEFINITIONS]
    return [tables, *(copy.keeper.execute(query.encode()).fetchall() for query in queries)]


def test_rows_are_as_in_the_template_in_the_next_test(copies: Copies) -> None:
    """Those that were added, changed and deleted; and keys are given from the start again."""
    with copies.lent() as first:
        before = content(first)
        with psycopg.connect(first.server.dsn(first.name), autocommit=True) as db:
            db.execute("update public.profiles set type_code = 'XXXX'")
            db.execute("delete from public.fc_scores")
        with psycopg.connect(
            first.server.dsn(first.name), autocommit=True, row_factory=psycopg.rows.dict_row
        ) as db:
            verbs.claim(db, verbs.started(db))
        assert content(first) != before
    with copies.lent() as second:
        assert second.name == first.name
        assert content(second) == before


@pytest.mark.parametrize("what", TAKEN_BACK)
def test_definitions_are_as_in_the_template_in_the_next_test(
    project_copies: Copies, what: str
) -> None:
    """The database is the same, and nothing of what the test defined is left in it."""
    with project_copies.lent() as first:
        before = content(first)
        with first.connected(first.server.dsn) as db:
            db.execute(TAKEN_BACK[what].encode())
        assert content(first) != before
    with project_copies.lent() as second:
        assert second.name == first.name
        assert content(second) == before


@pytest.mark.parametrize("what", SPOILT)
def test_a_database_whose_catalog_a_test_changed_is_not_used_again(
    copies: Copies, what: str
) -> None:
    """Nothing is put back there: the next test gets a new copy."""
    with copies.lent() as first:
        first.keeper.execute(SPOILT[what].replace("{}", f'"{first.name}"').encode())
    with copies.lent() as second:
        assert second.name != first.name


def test_whoever_is_still_connected_does_not_reach_the_next_test(copies: Copies) -> None:
    """A transaction that a test left open ends with the test."""
    with copies.lent() as first:
        forgotten = psycopg.connect(first.server.dsn(first.name))
        forgotten.execute("delete from public.profiles")
    with copies.lent(), pytest.raises(psycopg.OperationalError):
        forgotten.execute("select 1")
    forgotten.close()


LEFT_IN_A_SESSION = """
set role authenticated; set search_path = nowhere; set backfill.fence = 'x'; listen left_behind;
create temporary table left_behind (id int); select pg_advisory_lock(1); prepare p as select 1
"""
STATE_OF_A_SESSION = """
select current_user, session_user, current_setting('search_path'),
  coalesce(current_setting('backfill.fence', true), ''), to_regclass('pg_temp.left_behind'),
  (select count(*) from pg_listening_channels()), (select count(*) from pg_prepared_statements),
  (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
"""


def test_a_session_is_as_good_as_new_in_the_next_test(copies: Copies) -> None:
    """Its role, settings, temporary tables, locks; a transaction left open ends the session."""
    with copies.lent() as copy, copy.connected(copy.server.dsn) as first:
        process = first.info.backend_pid
        new = first.execute(STATE_OF_A_SESSION.encode()).fetchall()
        first.execute(LEFT_IN_A_SESSION.encode())
        assert first.execute(STATE_OF_A_SESSION.encode()).fetchall() != new
        first.row_factory = psycopg.rows.dict_row
    with copies.lent() as copy, copy.connected(copy.server.dsn) as second:
        assert second.info.backend_pid == process
        assert second.execute(STATE_OF_A_SESSION.encode()).fetchall() == new
        second.execute("begin")
    with copies.lent() as copy, copy.connected(copy.server.dsn) as third:
        assert third.info.backend_pid != process


def test_a_change_shows_to_those_who_asked_for_none(copies: Copies) -> None:
    """An update of one row is a change of its table, and reading is none of any."""
    with copies.lent() as copy:
        before = copy.marked()
        copy.keeper.execute("select count(*) from public.profiles")
        assert copy.changed(before) == set()
        copy.keeper.execute("update public.backfill_settings set environment = environment")
        assert copy.changed(before) == {"backfill_settings"}


def test_steps_happen_once_per_database_and_leave_the_same(copies: Copies) -> None:
    """The rows, but for when the plan was sealed; and never what happened after other changes."""
    happened = []

    @once
    def claimed(db: psycopg.Connection[Any]) -> str:
        happened.append("claimed")
        db.row_factory = psycopg.rows.dict_row
        run_id = verbs.started(db)
        verbs.claim(db, run_id)
        return run_id

    def run(before: str = "select 1") -> tuple[str, list[object]]:
        with copies.lent() as copy, copy.connected(copy.server.dsn) as db:
            db.execute(before.encode())
            run_id = claimed(db)
            copy.keeper.execute("update public.backfill_runs set sealed_snapshot = null")
            return run_id, content(copy)

    assert run() == (first := run())
    assert happened == ["claimed"]
    assert run("delete from public.fc_scores")[0] != first[0]
    assert happened == ["claimed", "claimed"]
