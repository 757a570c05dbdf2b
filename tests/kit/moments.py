"""What many tests begin with happens once per database: the next ones find its rows put back.

    @once
    def completed(project: Project, bf: backfill.Backfill) -> backfill.Plan: ...

The first test plans, approves and applies for real. For later ones in the same database the rows
that this left are written, which takes hundredths of a second. That is for steps that are not the
test's subject, and that need nothing but the database and plain arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import psycopg

from tests.kit.copies import Copy, Sequence, read_rows, sequences, write_rows

P = ParamSpec("P")
T = TypeVar("T")

# PostgreSQL's binary form of rows: this, then each row, then the end.
HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
END = b"\xff\xff"
PLAIN = (str, int, float, bool, type(None), list, tuple, dict)
# In these a row of the template's may have changed. Of any other table it shall stay as it is:
# verify and undo ask whether a row is older than the plan.
OURS = ("backfill_", "test_clock")
# The rows of the run are newer than its plan, and the template's are older.
SEALED = "update public.backfill_runs set sealed_snapshot = pg_current_snapshot()::text"


@dataclass(frozen=True)
class Moment:
    """What steps returned, and left: rows by table, added to the template's or in their place."""

    returned: Any
    added: dict[str, bytes]
    replaced: dict[str, bytes]
    sequences: list[Sequence]

    @classmethod
    def after(cls, copy: Copy, returned: Any) -> Moment | None:
        """This moment, if it can be put back."""
        added, replaced = {}, {}
        template = copy.content.rows
        for table in copy.changed(copy.fresh):
            if table not in template:
                return None
            rows = read_rows(copy.keeper, table)
            before, now = set(_split(template[table])), _split(rows)
            if before <= set(now):
                added[table] = HEADER + b"".join(r for r in now if r not in before) + END
            elif table.startswith(OURS):
                replaced[table] = rows
            else:
                return None
        return cls(returned, added, replaced, sequences(copy.keeper))

    def put_back(self, copy: Copy) -> None:
        """Write it into a copy that equals the template."""
        with copy.keeper.transaction():
            copy.keeper.execute("set local session_replication_role = replica")
            for table, rows in self.replaced.items():
                copy.keeper.execute(f"delete from {table}".encode())
                write_rows(copy.keeper, table, rows)
            for table, rows in self.added.items():
                write_rows(copy.keeper, table, rows)
            for sequence in self.sequences:
                copy.keeper.execute("select setval(%s, %s, %s)", sequence)
            copy.keeper.execute(SEALED)


def once(steps: Callable[P, T]) -> Callable[P, T]:
    """Steps on a project or a database, their first argument, before which nothing happened in it.

    They happen for real if anything did, definitions included.
    """

    @wraps(steps)
    def put_back_or_done(*args: P.args, **kwargs: P.kwargs) -> T:
        on: Any = args[0]
        db = on if isinstance(on, psycopg.Connection) else on.db
        copy = Copy.lent.get(db.info.dbname)
        if copy is None or copy.changed(copy.fresh):
            return steps(*args, **kwargs)
        plain = [value for value in args if isinstance(value, PLAIN)]
        key = f"{steps.__module__}.{steps.__qualname__} {plain} {sorted(kwargs.items())}"
        found = copy.moments.get(key)
        if isinstance(found, Moment):
            found.put_back(copy)
            return found.returned  # type: ignore[no-any-return]  # the key names the steps
        returned = steps(*args, **kwargs)
        copy.moments[key] = Moment.after(copy, returned)
        return returned

    return put_back_or_done


def _split(rows: bytes) -> list[bytes]:
    """The rows of PostgreSQL's binary form, each as bytes."""
    found, start = [], len(HEADER)
    while (fields := struct.unpack_from("!h", rows, start)[0]) >= 0:
        end = start + 2
        for _ in range(fields):
            length = struct.unpack_from("!i", rows, end)[0]
            end += 4 + max(length, 0)
        found.append(rows[start:end])
        start = end
    return found
