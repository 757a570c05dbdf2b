"""Bulk: one call claims, scores and settles a batch in the database. How large it may be."""

from __future__ import annotations

from datetime import timedelta

from anyio.abc import TaskGroup

from backfill.api.answers import BULK, Looked
from backfill.errors import TakesNoWrites, TookTooLong
from backfill.run.crew import Crew
from backfill.run.worker import Worker

MOST_SESSIONS = 500  # 50 per subtransaction, and PostgreSQL keeps 64 of them cheaply
GROWTH = 1.3  # far gentler than the halving after a call that took too long
AIM_MS = 2000.0  # calls grow as long as the next should take less than this
# Every call checks the gate. Only a claim, which waits for all calls, checks the breaker. It comes
# after this time, after this many calls per caller, once a session failed, or if nothing is free.
LOOK_EVERY = timedelta(seconds=5)
LOOK_EVERY_CALLS = 50
TOLD = ("sessions", "done", "failed", "pending", "skipped", "took_ms")


class Bulk:
    """The callers of one worker in bulk, and how many sessions a call may hold.

    A caller ends when a claim has to look at the run before its next call. The others go on
    meanwhile, and it begins again once the claim has said so.
    is_tired: a call of one session took too long, so the next ones are scored singly.
    """

    def __init__(self, worker: Worker, tasks: TaskGroup) -> None:
        self.is_tired = False
        self._worker = worker
        self._crew = Crew(tasks)
        self._sessions = 0  # not known yet
        self._is_alone = False  # no session is well after another in one transaction
        self._looks = 0
        self._look_at = worker.clock.now()
        self._calls = 0  # since the last look
        self._wants_look = False
        self._is_over = False

    async def score(self, sessions: int) -> None:
        """Make calls side by side until a claim should look at the run again.

        sessions: how many the first call asks for. Raises what a call raised.
        """
        self._sessions = self._sessions or sessions
        self._looks += 1
        self._look_at = self._worker.clock.now() + LOOK_EVERY
        self._calls = 0
        self._wants_look = False
        while self._crew.size < self._worker.concurrency:
            self._crew.start(self._make_calls)
        await self._crew.until(lambda: self._wants_look)

    async def land(self) -> None:
        """Wait for the calls under way. None follows. Raises what a call raised."""
        self._is_over = True
        await self._crew.land()
        self._is_over = False

    def end(self) -> None:
        """Let no call follow those under way."""
        self._is_over = True

    async def _make_calls(self) -> None:
        while not (self._worker.is_ending() or self.is_tired or self._is_over):
            looks = self._looks
            if not await self._call() and looks == self._looks:
                break
            self._calls += 1
            if (
                self._calls >= LOOK_EVERY_CALLS * self._worker.concurrency
                or self._worker.clock.now() >= self._look_at
            ):
                self._wants_look = True
                self._crew.look()
        self._wants_look = True

    async def _call(self) -> bool:
        """Make one call. False if a claim has to come first."""
        asked = 1 if self._is_alone else self._sessions
        try:
            # A call that met its limit is made again with less work.
            sized = {"p_worker": self._worker.name, "p_sessions": asked}
            answer = await self._worker.ask("backfill_bulk", sized, BULK, outlasts=(TakesNoWrites,))
        except TookTooLong:
            # The whole call was rolled back, so nothing was done.
            self._sessions = max(asked // 2, 1)
            self.is_tired = self.is_tired or asked == 1
            return not self.is_tired
        if isinstance(answer, Looked):
            return False
        if asked == self._sessions:  # no parallel call has changed it meanwhile
            self._sessions = next_sessions(asked, held=answer.sessions, took_ms=answer.took_ms)
        self._is_alone = self._is_alone or answer.alone
        self._worker.tell("bulk_settled", **{name: getattr(answer, name) for name in TOLD})
        return bool(answer.done) and not (answer.failed or answer.pending)


def next_sessions(asked: int, *, held: int, took_ms: float) -> int:
    """How many sessions the next call asks for, after a call that held `held` in `took_ms`."""
    is_quick = took_ms * GROWTH < AIM_MS
    return min(round(asked * GROWTH) + 1, MOST_SESSIONS) if is_quick and held == asked else asked
