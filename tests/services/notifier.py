"""A service's notifier: says in a chat what a person has to know of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import backfill


class Chat(Protocol):
    """Where the lines go."""

    def post(self, line: str) -> None:
        """Post a line."""
        ...


def line_of(event: backfill.Event) -> str | None:
    """What to say of an event; None where nobody has to know."""
    match event.kind:
        case "awaiting_approval":
            sessions: int = event.details["sessions_total"]
            approval_sql: str = event.details["approval_sql"]
            return f"{sessions} sessions await approval: {approval_sql}"
        case "run_paused" | "run_cancelled" | "run_expired":
            return f"{event.kind}: {event.details['reason']}"
        case "run_completed":
            return f"run {event.run_id} completed"
        case _:
            return None


@dataclass(frozen=True)
class Notifier:
    """An `on_event` with a chat."""

    chat: Chat

    def __call__(self, event: backfill.Event) -> None:
        """Post what there is to say."""
        line = line_of(event)
        if line is not None:
            self.chat.post(line)


def connect(chat: Chat) -> backfill.Backfill:
    """A project's backfills, of which the chat hears."""
    on_event: backfill.OnEvent = Notifier(chat)
    return backfill.connect(on_event=on_event)


def failed_sessions(bf: backfill.Backfill, run: str) -> list[str]:
    """Apply, and name the sessions that failed."""
    outcome: backfill.Outcome = bf.apply(run)
    return [failure.session_id for failure in outcome.failures]
