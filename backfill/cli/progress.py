"""The progress of apply, verify and undo: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Self

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from backfill.cli import terminal
from backfill.cli.plain import of_others
from backfill.errors import BackfillError
from backfill.render.plan_surroundings import changes_in_words
from backfill.results.event import Event
from backfill.results.run import Status

ALONE = "tried once more alone"  # how the database says it, see sql/60_apply/alone.sql
NOT_KNOWN = "not known"
LOOK_EVERY_S = 3.0
LONGEST_LOOK_S = 5.0
SHOW_AFTER_S = 1.0  # what is over sooner needs no bar
LINE_EVERY_S = 5.0

Look = Callable[[], Status]


def time_left(eta_s: float | None, *, seconds_ago: float) -> str:
    """What is left of an estimate that was made so many seconds ago: 0:01:15, or not known."""
    if eta_s is None:
        return NOT_KNOWN
    return str(timedelta(seconds=round(max(eta_s - seconds_ago, 0))))


def settled_states(batch: Event) -> list[str]:
    """The states of the sessions that a settled batch finished."""
    states = [s["state"] for s in batch.details["settled"]]
    return [state for state in states if state not in ("pending", "leased")]


def _giving_way() -> BarColumn:
    """A bar as long as what stands beside it lets it be."""
    return BarColumn(bar_width=None, table_column=Column(ratio=1))


class _TwoLines(Progress):
    """The bar, and on lines of its own what happens or is waited for, never cut."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar's line, then the note of each task."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield terminal.wrapped(f"  {task.fields['note']}")


class _Figures(ProgressColumn):
    """Counts, rate and time left, whole at any width: the bar gives way.

    The time left is the database's estimate, which knows throttle and rate. It runs down between
    two looks.
    """

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        seen = task.fields
        ago_s = time.monotonic() - seen["estimated_at"]
        failed = f"{seen['failed']} failed  " if seen["failed"] else ""
        return Text(
            f"{task.completed:.0f}/{task.total:.0f}  {failed}{seen['rate']:.0f}/min  "
            f"left {time_left(seen['eta_s'], seconds_ago=ago_s)}"
        )


class ApplyProgress:
    """A bar with rate, time left and what the run waits for. Plain lines without a terminal."""

    def __init__(self, status: Status, look: Look | None = None) -> None:
        """look: returns the run's status. Called every few seconds, from another thread."""
        self._bar = _TwoLines(
            TextColumn("{task.description}", markup=False),
            _giving_way(),
            _Figures(),
            console=terminal.err,
            transient=True,
            expand=True,
        )
        over = status.total - status.counts["pending"] - status.counts["leased"]
        self._settled_sessions, self._total = over, status.total
        self._failed_sessions = status.counts["failed"]
        fields: dict[str, Any] = {
            "note": "",
            "failed": self._failed_sessions,
            "rate": status.rate_per_minute,
            "eta_s": status.eta_s,
            "estimated_at": time.monotonic(),
        }
        self._task = self._bar.add_task("apply", total=status.total, completed=over, **fields)
        self._look = look
        self._called = status.called
        self._ended = threading.Event()
        self._looking: threading.Thread | None = None
        self._last = ""
        self._bulk_done = 0

    def __enter__(self) -> Self:
        if terminal.err.is_terminal:
            self._bar.start()
            self._looking = threading.Thread(target=self._look_on, daemon=True)
            self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._looking:
            self._looking.join(LONGEST_LOOK_S)
        self._bar.stop()

    def stop(self) -> None:
        """Take the bar away. Safe in a signal's handler."""
        self._bar.stop()

    def renderable(self) -> RenderableType:
        """The bar as it is now."""
        return self._bar.get_renderable()

    def so_far(self) -> str:
        """How many sessions are settled, in words. Safe to ask in a signal's handler."""
        total = self._called.counted(self._total)
        return f"{self._settled_sessions:,} of {total} are settled"

    def hear(self, event: Event) -> None:
        """Show an event."""
        event = of_others(event)
        if event.kind == "batch_settled":
            self._settled(event)
        elif event.kind == "bulk_settled":
            self._settled_in_bulk(event)
        elif event.kind == "freshness":
            for line in changes_in_words(event.details, self._called) or ["nothing"]:
                terminal.err.print(f"changed since the plan was sealed: {line}")
        elif event.kind == "waiting":
            self._waiting(event)

    def _look_on(self) -> None:
        while self._look and not self._ended.wait(LOOK_EVERY_S):
            try:
                status = self._look()
            except BackfillError:
                continue  # the apply itself says what is wrong
            self._failed_sessions = status.counts["failed"]
            self._bar.update(
                self._task,
                failed=self._failed_sessions,
                rate=status.rate_per_minute,
                eta_s=status.eta_s,
                estimated_at=time.monotonic(),
            )

    def _settled(self, event: Event) -> None:
        states = settled_states(event)
        failed = states.count("failed")
        self._advance(len(states), failed)
        self._note(f"batch {event.details['batch']}: {len(states) - failed} done, {failed} failed")
        for told in event.details["settled"]:
            if told["state"] == "pending" and ALONE in (told["error_message"] or ""):
                self._note(f"session {told['session_id']}: {told['error_message']}")

    def _settled_in_bulk(self, event: Event) -> None:
        told = event.details
        self._advance(told["done"] + told["failed"] + told["skipped"], told["failed"])
        self._bulk_done += told["done"]
        self._bar.update(self._task, note=f"in bulk: {self._bulk_done} done")

    def _advance(self, sessions: int, failed: int) -> None:
        self._settled_sessions += sessions
        self._failed_sessions += failed
        self._bar.update(self._task, advance=sessions, failed=self._failed_sessions)

    def _waiting(self, event: Event) -> None:
        reason = f"waits for {event.details['wait_for']}: {event.details['why']}"
        self._bar.update(self._task, note=f"{reason}, {event.details['wait_s']:.0f} s")
        if not terminal.err.is_terminal and reason != self._last:
            terminal.err.print(reason)
            self._last = reason

    def _note(self, line: str) -> None:
        self._bar.update(self._task, note=line)
        self._last = ""
        if not terminal.err.is_terminal:
            terminal.err.print(line)


class StepProgress:
    """How many sessions of all are done. Shows nothing if it takes less than a second."""

    def __init__(self, what: str) -> None:
        """what: a word or two, shown before the bar."""
        self._what = what
        self._bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            _giving_way(),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("sessions", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            console=terminal.err,
            transient=True,
            expand=True,
        )
        self._began = self._told = time.monotonic()
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def hear(self, done: int, total: int) -> None:
        """Show that `done` of `total` sessions are done."""
        now = time.monotonic()
        if now - self._began < SHOW_AFTER_S:
            return
        if terminal.err.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task(self._what)
                self._bar.start()
            self._bar.update(self._task, completed=done, total=total)
        elif self._told == self._began or now - self._told >= LINE_EVERY_S:
            self._told = now
            terminal.err.print(f"{self._what}: {done} of {total} sessions")
