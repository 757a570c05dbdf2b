"""One process's part in a run: how it asks the database, and whom it tells."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backfill.api.gateway import Gateway
from backfill.api.retries import LASTING_S, LASTING_WAIT_S, Patience
from backfill.errors import BackfillError
from backfill.results.event import Event, EventKind
from backfill.results.run import Json
from backfill.run.clock import Clock
from backfill.run.listeners import Listeners


def own_name() -> str:
    """The name of a worker in this process: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


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
        self.patience = Patience(LASTING_S, LASTING_WAIT_S, self._tell_trouble, self.should_stop)

    async def ask(self, function: str, arguments: Mapping[str, Json]) -> dict[str, Json]:
        """Call one of our functions, and retry for as long as a project takes to restart."""
        answer: dict[str, Json] = await self.gateway.call(
            function, {"p_run_id": self.run_id, **arguments}, patience=self.patience
        )
        return answer

    def _tell_trouble(self, error: BackfillError, wait_s: float) -> None:
        self.tell("waiting", wait_s=round(wait_s, 3), wait_for="connection", why=error.message)

    def is_ending(self) -> bool:
        """Whether no more sessions start: someone asked to stop, or a listener raised."""
        return self.listeners.raised is not None or self.should_stop()

    def tell(self, kind: EventKind, **details: Json) -> None:
        """Log an event and hand it to the listeners."""
        self.listeners.tell(Event(kind, self.run_id, self.clock.now(), details))
