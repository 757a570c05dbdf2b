"""Asking again: for how long, how often, who hears of it. For calls that can be repeated."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import stamina

from backfill.errors import BackfillError, OutcomeUnknown
from backfill.results.event import ignore

Answer = TypeVar("Answer")

# Without a handler the retries' warnings would go to stderr in programs that set up no logging.
logging.getLogger("stamina").addHandler(logging.NullHandler())


def never() -> bool:
    """Go on: nobody asked to stop."""
    return False


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a call is repeated while no answer comes.

    timeout_s: from the first try. longest_wait_s: between two tries, but for what a 429 asks for.
    on_wait: hears of every failed try and about how long the next one waits. gives_up: when true,
    the next failure is the last.
    """

    timeout_s: float
    longest_wait_s: float
    on_wait: Callable[[BackfillError, float], None] = ignore
    gives_up: Callable[[], bool] = never


BRIEF = Patience(timeout_s=30.0, longest_wait_s=8.0)  # somebody waits for the answer
LASTING_S = 300.0  # a worker: longer than a project takes to restart
LASTING_WAIT_S = 30.0


def asked_wait(retry_after_s: float | None, patience: Patience) -> bool | float:
    """Whether to ask again, or after how many seconds: what the API asked for, if it is not long.

    retry_after_s: None or 0 where it did not ask; the back-off then tells.
    """
    asked_s = retry_after_s or 0.0
    return asked_s <= patience.timeout_s and (asked_s or True)


async def ask_patiently(
    ask: Callable[[], Awaitable[Answer]],
    patience: Patience,
    is_hopeless: Callable[[], bool],
) -> Answer:
    """The answer to a question that can be asked again, after back-off with jitter.

    is_hopeless: asked after each failure; true where asking again is of no use.
    Raises OutcomeUnknown, the newest, when patience ends.
    """

    def next_try(error: Exception) -> bool | float:
        if not isinstance(error, OutcomeUnknown) or is_hopeless() or patience.gives_up():
            return False
        return asked_wait(error.retry_after_s, patience)

    async for attempt in stamina.retry_context(
        on=next_try,
        attempts=None,
        timeout=patience.timeout_s,
        wait_max=patience.longest_wait_s,
    ):
        with attempt:
            try:
                return await ask()
            except OutcomeUnknown as error:
                if next_try(error):
                    patience.on_wait(error, error.retry_after_s or float(attempt.next_wait))
                raise
    raise AssertionError("the retry loop returns or raises")
