"""Several sessions of one database that do something at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

Db = psycopg.Connection[Any]


@contextmanager
def more_connections(dsn: str, count: int) -> Iterator[list[Db]]:
    """So many connections more, each of its own."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(psycopg.connect(dsn, autocommit=True, row_factory=dict_row))
            for _ in range(count)
        ]


def is_waiting(db: Db, other: Db) -> bool:
    """Whether a connection waits for a lock of this one's."""
    row = db.execute(
        "select %s::integer = any (pg_blocking_pids(%s)) as waits",
        (db.info.backend_pid, other.info.backend_pid),
    ).fetchone()
    assert row is not None
    return bool(row["waits"])


def at_once(connections: Sequence[Db], verb: Callable[[Db, int], Any]) -> list[Any]:
    """What each connection's verb answers or raises, all let go at the same moment."""
    gate = threading.Barrier(len(connections))

    def go(place: int) -> Any:
        gate.wait()
        try:
            return verb(connections[place], place)
        except psycopg.Error as refused:
            return refused

    with ThreadPoolExecutor(len(connections)) as pool:
        return list(pool.map(go, range(len(connections))))
