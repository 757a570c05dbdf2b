"""One process's part in a run: how it asks the database, and whom it tells."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from backfill.api.answers import Shape
from backfill.api.gateway import Gateway
from backfill.api.retries import LASTING_S, LASTING_WAIT_S, Patience
from backfill.errors import BackfillError, TakesNoWrites, TookTooLong
from backfill.results.event import Event, EventKind
from backfill.results.run import Json
from backfill.run.clock import Clock
from backfill.run.listeners import Listeners

T = TypeVar("T")

DEFAULT_CONCURRENCY = 4  # over a quarter of a small project's pool, so more only on request
# A call of ours that met its time limit waited for somebody's lock: it is short otherwise.
OUTLASTED = (TookTooLong, TakesNoWrites)


def own_name() -> str:
    """The name of a worker in this process: host:pid."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}"


@dataclass(slots=True)
class Worker:
    """One process's part in a run."""

    gateway: Gateway
    run_id: str
    name: str
    clock: Clock
    concurrency: int
    waits: bool
    listeners: Listeners
    should_stop: Callable[[], bool]
    patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        self.patience = Patience(
            LASTING_S, LASTING_WAIT_S, self._tell_trouble, self.should_stop, OUTLASTED
        )

    async def ask(
        self,
        function: str,
        arguments: Mapping[str, Json],
        shape: Shape[T],
        outlasts: tuple[type[BackfillError], ...] = OUTLASTED,
    ) -> T:
        """Call one of our functions, and retry for as long as a project takes to restart.

        outlasts: what else is waited out, such as somebody's lock on a table.
        """
        asked = {"p_run_id": self.run_id, **arguments}
        patience = replace(self.patience, outlasts=outlasts)
        return await self.gateway.call(function, asked, shape, patience=patience)

    def _tell_trouble(self, error: BackfillError, wait_s: float) -> None:
        self.tell("waiting", wait_s=round(wait_s, 3), wait_for="connection", why=error.message)

    def is_ending(self) -> bool:
        """Whether no more sessions start: someone asked to stop, or a listener raised."""
        return self.listeners.raised is not None or self.should_stop()

    def tell(self, kind: EventKind, **details: Json) -> None:
        """Log an event and hand it to the listeners."""
        self.listeners.tell(Event(kind, self.run_id, self.clock.now(), details))
