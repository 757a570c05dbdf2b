"""Completion for shells: a script for each."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from typer import completion as of_typer

from backfill.cli import terminal
from backfill.errors import BadRequest

verbs = typer.Typer()

PROGRAM = "backfill"
ASKED_BY = "_BACKFILL_COMPLETE"  # the variable in which a shell's script says what it wants
SHELLS = ("bash", "zsh", "fish")


def make_ready() -> None:
    """If a shell asks for completions, let Typer answer in the form of that shell."""
    if ASKED_BY in os.environ:
        # Typer's module has it from another one, and no public name for it.
        of_typer.completion_init()  # type: ignore[attr-defined]


def shells(incomplete: str) -> list[str]:
    """The shells that there is a script for."""
    return [shell for shell in SHELLS if shell.startswith(incomplete)]


@verbs.command(epilog="Example: backfill completion bash")
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
