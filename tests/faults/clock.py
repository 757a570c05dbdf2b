"""One clock for the database and every worker, in whatever process: it moves when all wait.

A worker that scores holds time still, so that nobody's lease runs out because the machine is slow.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
from psycopg.rows import tuple_row

from tests.kit.clocks import TEST_CLOCK

POLL_S = 0.003  # between two looks at whether the others wait too

# `rest` moves the clock to the next waking when nobody is awake, and says whether the asker's came.
COMMON_CLOCK = (
    TEST_CLOCK
    + b"""
create table public.test_sleepers (worker text primary key, wakes_at timestamptz);
create function public.test_rest(p_worker text) returns boolean
language plpgsql set search_path = '' as $$
begin
  perform from public.test_clock for update;
  if not exists (select from public.test_sleepers where wakes_at is null) then
    update public.test_clock
    set now_at = greatest(now_at, (select min(wakes_at) from public.test_sleepers));
  end if;
  update public.test_sleepers set wakes_at = null
  where worker = p_worker and wakes_at <= (select now_at from public.test_clock);
  return found;
end
$$;
"""
)


NOW = "select now_at from public.test_clock"
REST = "select public.test_rest(%s)"
LIE_DOWN = (
    "insert into public.test_sleepers (worker, wakes_at) values (%s, %s)"
    " on conflict (worker) do update set wakes_at = excluded.wakes_at returning worker"
)


class CommonClock:
    """A worker's way to the clock: counted among those that are awake until it is closed."""

    def __init__(self, dsn: str, worker: str, *, wrong_by_s: float = 0.0) -> None:
        """wrong_by_s: what this worker's own clock adds to the time, as a machine's may."""
        self._connect = partial(psycopg.connect, dsn, autocommit=True, row_factory=tuple_row)
        self._db: psycopg.Connection[Any] = self._connect()
        self._worker = worker
        self._wrong_by = timedelta(seconds=wrong_by_s)
        self._ask(LIE_DOWN, worker, None)
        self._now: datetime = self._ask(NOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        forget(self._db, self._worker)
        self._db.close()

    def now(self) -> datetime:
        """The moment, by this worker's clock; the last that was seen while the server is down."""
        with contextlib.suppress(psycopg.OperationalError):
            self._now = self._ask(NOW)
        return self._now + self._wrong_by

    async def sleep(self, seconds: float) -> None:
        """Wait until everybody waits and this worker's moment is the next."""
        wakes_at = self.now() - self._wrong_by + timedelta(seconds=seconds)
        await self._patiently(LIE_DOWN, self._worker, wakes_at)
        while not await self._patiently(REST, self._worker):
            await anyio.lowlevel.checkpoint()

    async def _patiently(self, query: str, *values: object) -> Any:
        """Ask until the server answers."""
        while True:
            await anyio.sleep(POLL_S)
            with contextlib.suppress(psycopg.OperationalError):
                return await anyio.to_thread.run_sync(self._ask, query, *values)

    def _ask(self, query: str, *values: object) -> Any:
        if self._db.closed:
            self._db.close()
            self._db = self._connect()
        row = self._db.execute(query.encode(), values).fetchone()
        assert row is not None
        return row[0]


def forget(db: psycopg.Connection[Any], worker: str) -> None:
    """Wait for this worker no longer: it ended, or somebody killed it."""
    db.execute("delete from public.test_sleepers where worker = %s", (worker,))


def wake_next(db: psycopg.Connection[Any]) -> None:
    """Move the clock to the next waking though others are held in a call."""
    db.execute(
        "update public.test_clock set now_at ="
        " greatest(now_at, (select min(wakes_at) from public.test_sleepers))"
    )
