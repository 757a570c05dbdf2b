"""The command line explains itself: every verb, every option, an example each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer

from backfill.cli import app as cli
from backfill.cli.verbs import VERBS as LISTED
from tests.kit.commands import Shell

ROOT: Any = typer.main.get_command(cli.app)  # Typer carries its own Click


def verbs(command: Any = ROOT, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every verb of the command line, by the words that call it."""
    command = getattr(command, "loaded", command)
    if not hasattr(command, "commands"):
        yield " ".join(words), command
        return
    for name, child in command.commands.items():
        yield from verbs(child, (*words, name))


VERBS = dict(verbs())


@pytest.mark.parametrize("name", ROOT.commands)
def test_the_list_of_verbs_says_what_each_says_itself(name: str) -> None:
    """The line that `--help` has without loading the verb is the first sentence of its own help."""
    listed = ROOT.commands[name]
    assert listed.get_short_help_str(200) == listed.loaded.get_short_help_str(200)


@pytest.mark.parametrize("module", sorted({listed.module for listed in LISTED.values()}))
def test_every_verb_of_a_module_is_listed(module: str) -> None:
    """Without its line nobody could call it."""
    app = typer.Typer()
    app.add_typer(import_module(f"backfill.cli.{module}").verbs)
    group: Any = typer.main.get_command(app)
    assert {*group.commands} == {n for n, listed in LISTED.items() if listed.module == module}


def options(verb: str) -> set[str]:
    """The options that a verb takes."""
    return {option for parameter in VERBS[verb].params for option in parameter.opts}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_has_a_help_text(verb: str) -> None:
    """`--help` leaves nothing to guess."""
    command = VERBS[verb]
    assert command.help
    assert [p.name for p in command.params if not p.help] == []


def test_what_only_prism_has_stands_under_prism(plain_shell: Shell) -> None:
    """Whoever has orders meets none of its words among the options of a plan."""
    general, _, prism = plain_shell("plan", "--help").out.partition("PRISM alone:\n")
    own = {"--engine-version", "--fc-version", "--basis"}
    assert set(re.findall(r"^  (--[\w-]+)", prism, re.MULTILINE)) == own
    assert not own & set(re.findall(r"--[\w-]+", general))
    assert "--want COMPONENT=V" in general


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_ends_its_help_with_an_example_that_parses(verb: str) -> None:
    """The example names the verb itself, and its words are taken."""
    found = re.fullmatch(r"Example: backfill (.+)", VERBS[verb].epilog or "")
    assert found is not None
    words = shlex.split(found.group(1))
    own = verb.split()
    assert words[: len(own)] == own
    VERBS[verb].make_context(verb, words[len(own) :]).close()
