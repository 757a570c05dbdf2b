"""What the command line's verbs share: their common options, the project, how they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

import backfill
from backfill.cli.exit_codes import ExitCode

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or at least 8 characters of it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why. Kept with the run.")]
Because = Annotated[
    str | None, typer.Option("--because", help="Answers critical events: why they are harmless.")
]
Since = Annotated[str | None, typer.Option("--since", metavar="D", help="First UTC day.")]
Until = Annotated[str | None, typer.Option("--until", metavar="D", help="Last UTC day.")]


@contextmanager
def connected() -> Iterator[backfill.Backfill]:
    """The project that the environment names."""
    with backfill.connect() as bf:
        yield bf


def end(code: ExitCode) -> None:
    """End a verb with this exit code."""
    if code is not ExitCode.DONE:
        raise typer.Exit(code)
