"""Bulk: one call claims, scores and settles a batch in the database. How large it may be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio

from backfill.api.answers import BULK, Looked
from backfill.errors import BackfillError, TakesNoWrites, TookTooLong
from backfill.run.worker import Worker

MOST_SESSIONS = 500  # 50 per subtransaction, and PostgreSQL keeps 64 of them cheaply
FIRST_SESSIONS = 10
GROWTH = 1.3  # far gentler than the halving after a call that took too long
AIM_MS = 2000.0  # calls grow as long as the next should take less than this
# Every call checks the gate. Only a claim, which waits for all calls, checks the breaker. It comes
# after this time, after this many calls per caller, or after a session failed.
LOOK_EVERY = timedelta(seconds=5)
LOOK_EVERY_CALLS = 50
TOLD = ("sessions", "done", "failed", "pending", "skipped", "took_ms")


@dataclass(slots=True)
class Bulk:
    """How many sessions a call may hold, as a worker has learned from the run so far."""

    sessions: int = FIRST_SESSIONS
    has_failed: bool = False  # a session has failed, or met trouble, since the last claim
    is_alone: bool = False  # no session is well after another in one transaction
    is_tired: bool = False  # a call of one session took too long: score the next ones singly

    async def score(self, worker: Worker) -> None:
        """Make calls side by side until a claim should check the run again."""
        until = worker.clock.now() + LOOK_EVERY
        self.has_failed = False
        failed: list[BackfillError] = []

        async def call_until() -> None:
            # A task group raises an exception group. Callers expect one of our errors.
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
        """Make one call. False if a claim has to come first, or no session was done."""
        asked = 1 if self.is_alone else self.sessions
        try:
            # A call that met its limit is made again with less work.
            sized = {"p_worker": worker.name, "p_sessions": asked}
            answer = await worker.ask("backfill_bulk", sized, BULK, outlasts=(TakesNoWrites,))
        except TookTooLong:
            # The whole call was rolled back, so nothing was done.
            self.sessions = max(asked // 2, 1)
            self.is_tired = asked == 1
            return not self.is_tired
        if isinstance(answer, Looked):
            return False
        if asked == self.sessions:  # no parallel call has changed it meanwhile
            self.sessions = next_sessions(asked, held=answer.sessions, took_ms=answer.took_ms)
        self.is_alone = self.is_alone or answer.alone
        worker.tell("bulk_settled", **{name: getattr(answer, name) for name in TOLD})
        self.has_failed = self.has_failed or bool(answer.failed or answer.pending)
        return bool(answer.done)


def next_sessions(asked: int, *, held: int, took_ms: float) -> int:
    """How many sessions the next call asks for, after a call that held `held` in `took_ms`."""
    is_quick = took_ms * GROWTH < AIM_MS
    return min(round(asked * GROWTH) + 1, MOST_SESSIONS) if is_quick and held == asked else asked
