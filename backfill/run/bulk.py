"""Bulk: a call claims, scores and settles a batch in the database; how large, and when not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio

from backfill.errors import BackfillError, TookTooLong
from backfill.results.run import Json
from backfill.run.worker import Worker

MOST_SESSIONS = 500  # fifty in a subtransaction, and the database keeps 64 cheaply
FIRST_SESSIONS = 10
GROWTH = 1.3  # far less than the halving after a call that was too long
AIM_MS = 2000.0  # a call may hold more while it would then still take less
# Every call looks at the gate. A claim, which waits for all of them, looks at the breaker too:
# after so long, so many calls of each caller, or a session that failed.
LOOK_EVERY = timedelta(seconds=5)
LOOK_EVERY_CALLS = 50


@dataclass(slots=True)
class Bulk:
    """What a worker has learned of a run's sessions: how many a call may hold."""

    sessions: int = FIRST_SESSIONS
    has_failed: bool = False  # a session has, since a claim looked at the run
    is_tired: bool = False  # a call of one session was too slow: score the next ones one by one

    async def score(self, worker: Worker) -> None:
        """Calls side by side until a claim should look at the run again."""
        until = worker.clock.now() + LOOK_EVERY
        self.has_failed = False
        failed: list[BackfillError] = []

        async def call_until() -> None:
            # What a task group raises is a group of errors; a caller expects one of ours.
            try:
                await self._call_until(worker, until)
            except BackfillError as error:
                failed.append(error)

        async with anyio.create_task_group() as calls:
            for _ in range(worker.concurrency):
                calls.start_soon(call_until)
        if failed:
            raise failed[0]

    async def _call_until(self, worker: Worker, until: datetime) -> None:
        for _ in range(LOOK_EVERY_CALLS):
            if worker.is_ending() or self.is_tired or self.has_failed:
                return
            if worker.clock.now() >= until:
                return
            if not await self._call(worker):
                return

    async def _call(self, worker: Worker) -> bool:
        """One call. False where a claim has to look first, or nothing came to its end."""
        asked = self.sessions
        try:
            answer = await worker.ask(
                "backfill_bulk", {"p_worker": worker.name, "p_sessions": asked}
            )
        except TookTooLong:
            # All of it is rolled back: nothing was done, by nobody.
            self.sessions = max(asked // 2, 1)
            self.is_tired = asked == 1
            return not self.is_tired
        if answer.get("look"):
            return False
        if asked == self.sessions:  # a call beside this one has not changed it meanwhile
            self.sessions = next_sessions(asked, held=answer["sessions"], took_ms=answer["took_ms"])
        told = _told(answer)
        worker.tell("bulk_settled", **told)
        self.has_failed = self.has_failed or bool(told["failed"])
        return bool(told["done"])


def next_sessions(asked: int, *, held: int, took_ms: float) -> int:
    """How many sessions the next call asks for, after one that held so many and took so long."""
    is_quick = took_ms * GROWTH < AIM_MS
    return min(round(asked * GROWTH) + 1, MOST_SESSIONS) if is_quick and held == asked else asked


def _told(answer: Mapping[str, Json]) -> dict[str, Json]:
    names = ("sessions", "done", "failed", "pending", "skipped", "took_ms")
    return {name: answer.get(name, 0) for name in names}
