"""Watching a run from outside: its status, whenever that changes, until the run is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rich.live import Live

from backfill.cli import answers, terminal
from backfill.cli.plain import one_line
from backfill.errors import OutcomeUnknown
from backfill.render.state import OVER
from backfill.results.run import Status

LOOK_EVERY_S = 3.0

Look = Callable[[], Status]


def show_changes(look: Look, as_json: bool, wait: Callable[[], None] | None = None) -> None:
    """Show a run's status until it is over: in place on a terminal, else each change below.

    look: asks for the status. as_json: a line of JSON per change. wait: before the next look, by
    default some seconds. Ctrl-C ends it, and changes nothing.
    """
    changes = _changes(look, wait or _wait)
    try:
        if as_json:
            for status in changes:
                terminal.print_json(status.as_dict(), indent=None)
        elif terminal.out.is_terminal:
            with Live(console=terminal.out, auto_refresh=False) as live:
                for status in changes:
                    live.update(terminal.wrapped(answers.status_text(status)), refresh=True)
        else:
            for status in changes:
                answers.print_status(status)
    except KeyboardInterrupt:
        terminal.err.print("no longer watched: the run itself goes on as before")


def _changes(look: Look, wait: Callable[[], None]) -> Iterator[Status]:
    """Each status that is not the one before. A run that is over ends it.

    Raises what the first look raises. Later a project that does not answer is asked again.
    """
    seen = look()
    yield seen
    while seen.state not in OVER:
        wait()
        try:
            now = look()
        except OutcomeUnknown as silent:
            terminal.err.print(f"{one_line(silent.message)}. Asked again")
            continue
        if now != seen:
            seen = now
            yield seen


def _wait() -> None:
    time.sleep(LOOK_EVERY_S)
