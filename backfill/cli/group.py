"""The verbs, each loaded when it is called, and what each has without saying so.

That is `--env-file`, and defaults from files.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from backfill.cli.from_files import SETTINGS, read_files
from backfill.cli.verbs import VERBS, Listed

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


class Verb(TyperCommand):
    """A verb in the list. Its module is loaded once somebody calls it or asks for its help."""

    def __init__(self, name: str, listed: Listed) -> None:
        super().__init__(name, help=listed.says)
        self._module = f"backfill.cli.{listed.module}"

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """The context in which the parser goes on: that of the verb itself."""
        return self.loaded.make_context(info_name, args, parent, **extra)

    @cached_property
    def loaded(self) -> Any:
        """The verb itself, with the options that all share."""
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.add_typer(import_module(self._module).verbs)
        group: Any = typer.main.get_command(app)
        verb = group.commands[self.name]
        for command in _walked(verb):
            command.params += _options()
        return verb


class Verbs(TyperGroup):
    """The command line: every verb that is listed."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.params += _options()
        self.commands = {name: Verb(name, listed) for name, listed in VERBS.items()}


def _walked(command: Any) -> Iterator[Any]:
    """A command, and if it is a group all that it holds."""
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from _walked(child)
