"""Retries of calls that can be repeated: for how long, how often, and who hears of them.

A session's back-off is the database's: sql/60_apply/backoff_and_breaker.sql.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
import stamina

from backfill.errors import BackfillError, Busy, OutcomeUnknown
from backfill.results.event import ignore

Answer = TypeVar("Answer")

# Without a handler the retries' warnings would go to stderr in programs that set up no logging.
logging.getLogger("stamina").addHandler(logging.NullHandler())


def never() -> bool:
    """False: nobody asked to stop."""
    return False


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call is repeated while no answer comes, or somebody else holds a lock.

    timeout_s: from the first try. longest_wait_s: between two tries, unless a 429 asks for more.
    on_wait: hears of every failed try and of the wait before the next one, in seconds, roughly.
    gives_up: if true, the next failure is the last.
    outlasts: errors beside a missing answer after which a call is repeated too.
    """

    timeout_s: float
    longest_wait_s: float
    on_wait: Callable[[BackfillError, float], None] = ignore
    gives_up: Callable[[], bool] = never
    outlasts: tuple[type[BackfillError], ...] = ()

    def waits_after(self, error: Exception) -> bool:
        """Whether the same call may succeed after this error."""
        return isinstance(error, (OutcomeUnknown, Busy, *self.outlasts)) and not self.gives_up()


BRIEF = Patience(timeout_s=30.0, longest_wait_s=8.0)  # someone waits for the answer
LASTING_S = 300.0  # a worker: longer than a project takes to restart
LASTING_WAIT_S = 30.0
LOOK_S = 0.2  # a wait ends so soon after someone asked to stop


def asked_wait(retry_after_s: float | None, patience: Patience) -> bool | float:
    """Whether to ask again, or after how many seconds, if the API asked for a bearable wait.

    retry_after_s: None or 0 if it did not ask. Then the back-off decides.
    """
    asked_s = retry_after_s or 0.0
    return asked_s <= patience.timeout_s and (asked_s or True)


async def ask_patiently(
    ask: Callable[[], Awaitable[Answer]],
    patience: Patience,
    is_hopeless: Callable[[], bool],
) -> Answer:
    """Ask until an answer comes, with back-off and jitter.

    is_hopeless: asked after each failure, true if asking again is of no use.
    Raises the newest error when patience ends.
    """

    def next_try(error: Exception) -> bool | float:
        if is_hopeless() or not patience.waits_after(error):
            return False
        return asked_wait(getattr(error, "retry_after_s", None), patience)

    tries = aiter(
        stamina.retry_context(
            on=next_try,
            attempts=None,
            timeout=patience.timeout_s,
            wait_max=patience.longest_wait_s,
        )
    )
    answers: list[Answer] = []
    failed: list[BackfillError] = []
    attempt: stamina.Attempt | None = await anext(tries)
    while attempt is not None:
        with attempt:
            try:
                answers.append(await ask())
            except BackfillError as error:
                failed.append(error)
                if asked_s := next_try(error):
                    wait_s = float(attempt.next_wait) if asked_s is True else asked_s
                    patience.on_wait(error, wait_s)
                raise
        if answers:
            return answers[0]
        attempt = await _next(tries, patience.gives_up)
    raise failed[-1]


async def _next(
    tries: AsyncIterator[stamina.Attempt], gives_up: Callable[[], bool]
) -> stamina.Attempt | None:
    """The next try, after its wait. None if meanwhile nobody wants it any more.

    Raises the newest error if there is none.
    """
    found: list[stamina.Attempt] = []
    raised: list[BackfillError] = []

    async def wait(scope: anyio.CancelScope) -> None:
        try:
            found.append(await anext(tries))
        except BackfillError as error:
            raised.append(error)  # a task group would raise a group of errors
        scope.cancel()

    async with anyio.create_task_group() as waiting:
        waiting.start_soon(wait, waiting.cancel_scope)
        while not gives_up():  # noqa: ASYNC110 - a signal's handler cannot set an event of a loop
            await anyio.sleep(LOOK_S)
        waiting.cancel_scope.cancel()
    if raised:
        raise raised[0]
    return found[0] if found else None
