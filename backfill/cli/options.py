"""What the command line's verbs share: their common options, the project, how they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from backfill.api import keys
from backfill.api.gateway import Gateway
from backfill.blocking import Backfill
from backfill.cli.exit_codes import ExitCode
from backfill.cli.from_files import environ
from backfill.cli.offers import run_ids, target_names
from backfill.client import AsyncBackfill
from backfill.errors import BadRequest
from backfill.request import Throttle
from backfill.results.event import OnEvent, ignore

DEFAULT_LOGS = Path("backfill_logs")

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's id, or at least 8 characters of it.", autocompletion=run_ids
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why. Kept with the run.")]
Because = Annotated[
    str | None, typer.Option("--because", help="Answers critical events: why they are harmless.")
]
Since = Annotated[str | None, typer.Option("--since", metavar="D", help="First UTC day.")]
Until = Annotated[str | None, typer.Option("--until", metavar="D", help="Last UTC day.")]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        envvar="BACKFILL_TARGET",
        help="Which, if several are installed.",
        autocompletion=target_names,
    ),
]
LogsDir = Annotated[
    Path, typer.Option(envvar="BACKFILL_LOGS_DIR", help="Where the run's folder of files goes.")
]


def throttle_of(name: str, text: str, example: str) -> Throttle:
    """A rate as typed: a whole number or none. Raises BadRequest."""
    if text.lower() == "none":
        return "none"
    try:
        return int(text)
    except ValueError:
        said = f"{name} is a whole number or none, not {text[:40]}"
        raise BadRequest(said, example) from None


@contextmanager
def connected(connections: int = 1, *, on_event: OnEvent = ignore) -> Iterator[Backfill]:
    """The project that the environment names, or an env file. Raises BadKey, CannotConnect.

    connections: of a verb that makes calls side by side. Any other asks one thing at a time.
    on_event: hears what the connection's work tells.
    """
    url, key = keys.from_environment(environ())
    with Backfill(
        lambda: AsyncBackfill(Gateway(url, key, connections=connections), on_event=on_event)
    ) as bf:
        yield bf


def end(code: ExitCode) -> None:
    """End a verb with this exit code."""
    if code is not ExitCode.DONE:
        raise typer.Exit(code)
