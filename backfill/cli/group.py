"""What each verb has without saying so: `--env-file`, and defaults from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from backfill.cli.from_files import SETTINGS, read_files

GIVEN = "backfill.env_file"  # before the verb, in the context's notes


def _take_from_files(ctx: typer.Context, env_file: Path | None) -> None:
    """Read the files of a verb. Options that a variable may set default to what they say."""
    if hasattr(ctx.command, "commands"):
        ctx.meta[GIVEN] = env_file
        return
    said = read_files(env_file or ctx.meta.get(GIVEN))
    options = {variable: option for option in ctx.command.params if (variable := option.envvar)}
    ctx.default_map = {
        options[variable].name: said[variable]
        for variable in SETTINGS.values()
        if variable in options and variable in said
    }


def _shared_options(
    _: Annotated[
        Path | None,
        typer.Option(
            "--env-file",
            metavar="FILE",
            help="Take our variables from this file, not from .env.",
            is_eager=True,
            expose_value=False,
            callback=_take_from_files,
        ),
    ] = None,
) -> None:
    pass


def _options() -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.command()(_shared_options)
    return [option for option in typer.main.get_command(app).params if option.name != "help"]


class Verbs(TyperGroup):
    """The command line. Every verb in it gets the options that all share."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for command in _walked(self):
            command.params += _options()


def _walked(command: Any) -> Iterator[Any]:
    """A command, and if it is a group all that it holds."""
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from _walked(child)
