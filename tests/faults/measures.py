"""What a disturbed run left, counted inside the database and compared with an undisturbed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.faults.clock import COMMON_CLOCK
from tests.faults.subjects import Subject

Db = psycopg.Connection[Any]
Content = dict[str, frozenset[str]]

CALLS = b"""
create table public.test_scorings (
  session_id text not null, function text not null, run_id uuid,
  at double precision not null default extract(epoch from clock_timestamp()),
  clock_at timestamptz not null default backfill_private.clock());
grant insert on public.test_scorings to service_role;
"""

# The real scorer stands beside; this one notes the call in the same transaction, so that exactly
# the committed calls of a run are counted, however often their row was there already.
COUNTING = """
create or replace function public.{name}({arguments}) returns {returns}
language sql set search_path = '' as $$
  insert into public.test_scorings (session_id, function, run_id)
  select $1, '{name}', called.run_id::uuid
  from (select nullif(current_setting('request.headers', true), '')::json
    ->> 'x-backfill-run' as run_id) as called
  where {counts};
  select public.{name}_real({values});
$$;
"""


def prepare(db: Db, subject: Subject) -> None:
    """Put the common clock and the counting scorers into a project, before any plan.

    Where functions hand no header on, calls without one are counted too.
    """
    counts = "called.run_id is not null" if subject.hands_on else "true"
    db.execute(COMMON_CLOCK)
    db.execute(CALLS)
    for name, (arguments, values) in subject.arguments.items():
        row = db.execute(
            "select pg_get_functiondef(p.oid) as text, p.prorettype::regtype::text as returns"
            " from pg_proc as p where p.oid = %s::regproc",
            (f"public.{name}",),
        ).fetchone()
        assert row is not None
        db.execute(row["text"].replace(name, f"{name}_real").encode())
        counting = COUNTING.format(
            name=name, arguments=arguments, values=values, counts=counts, returns=row["returns"]
        )
        db.execute(counting.encode())


def content(db: Db, tables: Sequence[str]) -> Content:
    """Every row of the target tables, but for its timestamps."""
    return {
        table: frozenset(
            row["text"]
            for row in db.execute(
                f"select (to_jsonb(t) - '{{created_at,updated_at}}'::text[])::text as text"
                f" from {table} as t".encode()
            )
        )
        for table in tables
    }


def missing_from(wanted: Content, found: Content) -> list[str]:
    """The rows that should be there and are not."""
    return sorted(row for table in wanted for row in wanted[table] - found[table])


def scored_twice(db: Db) -> list[tuple[str, str]]:
    """(session, function) of which more than one call was committed."""
    rows = db.execute(
        "select session_id, function from public.test_scorings"
        " group by 1, 2 having count(*) > 1 order by 1, 2"
    )
    return [(row["session_id"], row["function"]) for row in rows]


def receipts_without_row(db: Db, subject: Subject, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The receipts of live writes whose row is not exactly what was written."""
    written = " union all ".join(
        f"select '{table}' as table_name, t.{subject.key}::text as session_id,"
        f" to_jsonb(t) as content, backfill_private.row_hash(t) as hash from {table} as t"
        for table in subject.tables
    )
    return db.execute(
        f"with written as ({written})"
        " select r.receipt_id, r.session_id from public.backfill_receipts as r"
        " left join written as w on w.table_name = r.table_name"
        "   and w.session_id = r.session_id and w.content @> r.row_key"
        " where r.run_id = any (%s::uuid[]) and r.kind = 'score' and r.undone_at is null"
        "   and w.hash is distinct from r.after_hash".encode(),
        (list(run_ids),),
    ).fetchall()


def receipted_rows(db: Db, run_ids: Sequence[str]) -> list[tuple[str, str]]:
    """(table, key) of every receipt of a live write, one entry a receipt."""
    rows = db.execute(
        "select table_name, row_key::text as key from public.backfill_receipts"
        " where run_id = any (%s::uuid[]) and kind = 'score' and undone_at is null",
        (list(run_ids),),
    )
    return [(row["table_name"], row["key"]) for row in rows]


@dataclass(frozen=True)
class Scoring:
    """A committed call: when by the machine's clock, and when by the project's, in seconds."""

    at: float
    clock_s: float


def scorings(db: Db) -> list[Scoring]:
    """Every committed call, in order."""
    rows = db.execute(
        "select at, extract(epoch from clock_at)::float as clock_s"
        " from public.test_scorings order by at"
    )
    return [Scoring(row["at"], row["clock_s"]) for row in rows]


def seconds_to_go_on(
    fault_at: float, calls: Sequence[Scoring], *, spacing_s: float
) -> float | None:
    """From a fault to the next committed call, beyond what the throttle waits between batches.

    fault_at: by the machine's clock. calls: in order. What was waited on the project's clock
    counts as if it had passed. None where no call came after.
    """
    later = [call for call in calls if call.at > fault_at]
    earlier = [call for call in calls if call.at <= fault_at]
    if not later:
        return None
    waited_s = later[0].clock_s - earlier[-1].clock_s if earlier else 0.0
    return later[0].at - fault_at + max(waited_s - spacing_s, 0.0)


def longest_to_go_on(
    faults: Sequence[float], calls: Sequence[Scoring], *, spacing_s: float
) -> float | None:
    """After the worst of the faults; None where none was followed by a call."""
    took = [seconds_to_go_on(fault_at, calls, spacing_s=spacing_s) for fault_at in faults]
    return max((round(seconds, 1) for seconds in took if seconds is not None), default=None)


@dataclass(frozen=True)
class Measured:
    """One line of the table."""

    case: str
    sessions: int
    faults: int
    lost: int
    twice: int
    go_on_s: float | None
