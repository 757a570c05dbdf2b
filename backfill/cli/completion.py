"""Completion for shells: a script for each, and the runs and targets that the project has."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar, get_args

import anyio
import typer
from typer import completion as of_typer

from backfill.api import keys
from backfill.api.gateway import Gateway
from backfill.api.queries import load_runs, load_targets
from backfill.cli import terminal
from backfill.cli.from_files import environ
from backfill.errors import BackfillError, BadRequest
from backfill.results.run import Mode, RunState

PROGRAM = "backfill"
ASKED_BY = "_BACKFILL_COMPLETE"  # the variable in which a shell's script says what it wants
SHELLS = ("bash", "zsh", "fish")
LONGEST_S = 2.0  # a person waits at the prompt
MOST_RUNS = 50

T = TypeVar("T")


def make_ready() -> None:
    """If a shell asks for completions, let Typer answer in the form of that shell."""
    if ASKED_BY in os.environ:
        # Typer's module has it from another one, and no public name for it.
        of_typer.completion_init()  # type: ignore[attr-defined]


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


def shells(incomplete: str) -> list[str]:
    """The shells that there is a script for."""
    return [shell for shell in SHELLS if shell.startswith(incomplete)]


def _answered(ask: Callable[[Gateway], Awaitable[T]]) -> T | None:
    """The project's answer, None if it gives none soon: a prompt is no place for an error."""

    async def answer() -> T | None:
        gateway = Gateway(*keys.from_environment(environ()))
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


def completion(
    shell: Annotated[
        str, typer.Argument(metavar="bash|zsh|fish", help="Which shell.", autocompletion=shells)
    ],
) -> None:
    """Print the script that completes verbs, options, runs and targets in a shell."""
    if shell not in SHELLS:
        raise BadRequest(
            f"there is no completion for {shell[:40]}", f"backfill completion {' | '.join(SHELLS)}"
        )
    script: str = of_typer.get_completion_script(  # type: ignore[attr-defined]
        prog_name=PROGRAM, complete_var=ASKED_BY, shell=shell
    )
    terminal.write(script)


def add_to(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog="Example: backfill completion bash")(completion)
