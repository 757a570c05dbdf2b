"""What a shell offers to complete: the runs and targets that the project has, states and modes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, get_args

import anyio
import typer

from backfill.api import keys
from backfill.api.gateway import Gateway
from backfill.api.queries import load_runs, load_targets
from backfill.cli.from_files import environ
from backfill.errors import BackfillError
from backfill.results.run import Mode, RunState

LONGEST_S = 2.0  # a person waits at the prompt
MOST_RUNS = 50

T = TypeVar("T")


def run_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The newest runs, with target and state."""
    del ctx  # Typer tells by the type that the other one is the text
    runs = _answered(lambda gateway: load_runs(gateway, limit=MOST_RUNS))
    return [
        (r.run_id, f"{r.target}, {r.state.replace('_', ' ')}")
        for r in runs or ()
        if r.run_id.startswith(incomplete)
    ]


def target_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The installed targets."""
    del ctx
    return [name for name in _answered(load_targets) or () if name.startswith(incomplete)]


def states(incomplete: str) -> list[str]:
    """The states that a run can be in."""
    return [state for state in get_args(RunState) if state.startswith(incomplete)]


def modes(incomplete: str) -> list[str]:
    """How a plan can be scored."""
    return [mode for mode in get_args(Mode) if mode.startswith(incomplete)]


def _answered(ask: Callable[[Gateway], Awaitable[T]]) -> T | None:
    """The project's answer, None if it gives none soon: a prompt is no place for an error."""

    async def answer() -> T | None:
        gateway = Gateway(*keys.from_environment(environ()), connections=1)
        try:
            with anyio.move_on_after(LONGEST_S):
                return await ask(gateway)
            return None
        finally:
            await gateway.close()

    try:
        return anyio.run(answer)
    except BackfillError:
        return None
