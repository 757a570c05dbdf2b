"""One clock for client and database. It moves only when someone sleeps."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import anyio.to_thread
import psycopg

# The clock's whole body: with this in place nothing in the database reads the real time.
TEST_CLOCK = b"""
create table public.test_clock (now_at timestamptz not null);
insert into public.test_clock values ('2025-09-17T08:00:00Z');
create or replace function backfill_private.clock() returns timestamptz
language sql volatile security definer set search_path = ''
as 'select now_at from public.test_clock';
"""


class DatabaseClock:
    """Reads and moves the clock of one test's database."""

    def __init__(self, db: psycopg.Connection[Any]) -> None:
        """Install the clock unless the database has it already."""
        self._db = db
        if not db.execute("select from pg_class where relname = 'test_clock'").rowcount:
            db.execute(TEST_CLOCK)

    def now(self) -> datetime:
        """The moment that the database sees."""
        row = self._db.execute("select now_at from public.test_clock").fetchone()
        assert row is not None
        moment: datetime = row["now_at"]
        return moment

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._db.execute(
            "update public.test_clock set now_at = now_at + make_interval(secs => %s)", (seconds,)
        )

    async def sleep(self, seconds: float) -> None:
        """Let time pass, as a worker that waits does."""
        await anyio.to_thread.run_sync(self.advance, seconds)
