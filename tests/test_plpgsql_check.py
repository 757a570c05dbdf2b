"""plpgsql_check finds nothing in our functions but what is written down here with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.kit.debian import running_project

# A trigger function is checked once for every table that it hangs on.
FINDINGS = """
select p.proname, c.level, c.sqlstate, c.message, c.lineno
from pg_proc as p
join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
left join lateral (
  select distinct g.tgrelid from pg_trigger as g where g.tgfoid = p.oid) as hung on true
cross join lateral extensions.plpgsql_check_function_tb(
  p.oid, coalesce(hung.tgrelid, 0),
  fatal_errors => false, extra_warnings => true, other_warnings => true,
  performance_warnings => true, security_warnings => true, compatibility_warnings => true) as c
where p.pronamespace = 'backfill_private'::regnamespace
  or p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\\_%'
order by p.proname, c.lineno
"""
UNHUNG = """
select p.oid::regprocedure::text as name from pg_proc as p
where p.pronamespace = 'backfill_private'::regnamespace and p.prorettype = 'trigger'::regtype
  and not exists (select from pg_trigger as g where g.tgfoid = p.oid)
"""

NAMES_COME_QUOTED = (
    "names come from backfill_targets and backfill_private.sources, which no API role can write,"
    " and enter the text through %I, regclass or regproc, values through %L or using;"
    " the checker cannot see that far"
)
OUT_BY_QUERY = "the columns are filled by return query execute, which the checker does not follow"
CRON_MAY_BE_ABSENT = "pg_cron may be absent, and is asked only where it is there"
# (function, what is found) -> why it is meant to be so.
LOCKS_ROWS = "it locks the rows that it selects"
BY_DESIGN = {
    ("check_deferred", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("rehearse_pass", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("session_name", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("held_fault", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("unselected", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("unselected", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("named_in_source", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("open_run", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("effects", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("date_marks", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("view_key_fault", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("is_same", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("unmatched_values", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("data_marks", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("withdraw", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("guard", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("rows_of", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("rows_of", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("standing", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("strangers", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("referencing", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("canary_scores", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("canary_scores", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("effects", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("standing", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("strangers", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("unplanned", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("unplanned", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("place_items", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("replaced_meanwhile", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("cron_effects", 'relation "cron.job" does not exist'): CRON_MAY_BE_ABSENT,
    ("drive_jobs", 'relation "cron.job" does not exist'): CRON_MAY_BE_ABSENT,
    ("drive_jobs", 'unmodified OUT variable "…"'): OUT_BY_QUERY,
    ("schedule_driver", 'schema "…" does not exist'): CRON_MAY_BE_ABSENT,
    ("stop_drivers", 'schema "…" does not exist'): CRON_MAY_BE_ABSENT,
    ("fresh_items", "routine is marked as VOLATILE, should be STABLE"): LOCKS_ROWS,
    ("granted_before", "routine is marked as VOLATILE, should be STABLE"): LOCKS_ROWS,
    ("stop_drivers", "routine is marked as VOLATILE, should be STABLE"): (
        "what it has pg_cron do writes"
    ),
    ("refuse", "routine is marked as VOLATILE, should be IMMUTABLE"): (
        "it always raises: called for its effect, never to be computed ahead of time"
    ),
    ("remove_index", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("history", 'relation "supabase_migrations.schema_migrations" does not exist'): (
        "the Supabase CLI makes it, and it is asked only where it is there"
    ),
    ("bulk_check", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("counted_days", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("standing_of", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("standing_of", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("guard_new_items", 'relation "…" does not exist'): (
        "a transition table of its trigger, of which the checker is not told"
    ),
    ("lossy_columns", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("column_hash", "text type variable is not sanitized"): (
        "the type's name comes from the catalog, quoted, when the shape was noted"
    ),
    ("refusal_to_undo", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("rows_replaced", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("undo_is_as_seen", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("undo_write", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("undo_write", 'OUT variable "…" is maybe unmodified'): OUT_BY_QUERY,
    ("undo_conflicts", "text type variable is not sanitized"): NAMES_COME_QUOTED,
    ("undo_conflicts", "routine is marked as VOLATILE, should be STABLE"): (
        "the dynamic statement locks the rows where p_lock says so"
    ),
}


@pytest.fixture(scope="module")
def checked_db() -> Iterator[psycopg.Connection[Any]]:
    """The project on Debian's PostgreSQL 15, as the superuser that has plpgsql_check."""
    with (
        running_project() as server,
        psycopg.connect(
            server.superuser_dsn(), autocommit=True, row_factory=namedtuple_row
        ) as connection,
    ):
        yield connection


def _findings(connection: psycopg.Connection[Any]) -> set[tuple[str, str]]:
    found = connection.execute(FINDINGS.encode()).fetchall()
    return {(f.proname, re.sub(r'"\w+"', '"…"', f.message)) for f in found}


def test_plpgsql_check_finds_nothing_that_is_not_by_design(
    checked_db: psycopg.Connection[Any],
) -> None:
    """No error, no warning, on performance and security neither; the list has no dead entry."""
    assert _findings(checked_db) == set(BY_DESIGN)


def test_every_trigger_function_hangs_on_a_table(checked_db: psycopg.Connection[Any]) -> None:
    """One that hangs nowhere would be checked against no table."""
    assert [row.name for row in checked_db.execute(UNHUNG.encode())] == []


def test_a_fault_in_a_trigger_function_is_found(checked_db: psycopg.Connection[Any]) -> None:
    """A field that its table does not have: only the check with the relation sees it."""
    with checked_db.transaction(force_rollback=True):
        checked_db.execute(
            """
            create function backfill_private.faulty() returns trigger language plpgsql
            set search_path = '' as $$ begin new.no_such_column := 1; return new; end $$;
            create trigger faulty before update on public.backfill_runs
              for each row execute function backfill_private.faulty()
            """
        )
        assert ("faulty", 'record "…" has no field "…"') in _findings(checked_db)
