"""Events are logged under their stable names and handed to the listeners."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from backfill.results.event import Event, OnEvent

logger = logging.getLogger("backfill")


@dataclass(slots=True)
class Listeners:
    """The listeners, called in this order. One that raises is not called again.

    raised: the first exception of a listener. The work ends in order, then it is raised.
    """

    callbacks: list[OnEvent]
    raised: Exception | None = field(default=None, init=False)

    def tell(self, event: Event) -> None:
        """Log an event and hand it to each listener."""
        logger.info("backfill.%s", event.kind, extra={"run": event.run_id, **event.details})
        for callback in tuple(self.callbacks):
            try:
                callback(event)
            except Exception as error:
                self.callbacks.remove(callback)
                self.raised = self.raised or error
                details = {"run": event.run_id, "kind": event.kind}
                logger.warning("backfill.on_event_failed", exc_info=True, extra=details)

    def raise_what_they_raised(self, note: str) -> None:
        """Raise the first exception of a listener, with a note on how the work stands."""
        if self.raised is not None:
            self.raised.add_note(note)
            raise self.raised
