"""A drafted target: the questions on a terminal, the likeliest answer first, and its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backfill.atomic_file import AS_ANY, replace_file
from backfill.cli import terminal
from backfill.cli.plain import one_line
from backfill.errors import BadRequest
from backfill.results.target import TargetDraft
from backfill.targets.draft_parts import Question
from backfill.targets.schema import SCHEMA_FILE, SHIPPED

SHOWN = 15  # options: of more, the rest is typed by name


def refuse_or_replace(file: Path, asks: bool) -> None:
    """Ask whether a file is replaced. Raises BadRequest if nobody can be asked, Abort if not."""
    if not asks:
        raise BadRequest(f"{file} is there already", "--output FILE, or --yes to replace it")
    terminal.confirm(f"Replace {file}?")


def ask(question: Question) -> Sequence[str]:
    """The answer of a person: a number, a name, several with commas. Nothing means the first."""
    say = terminal.err.print
    say(one_line(question.text))
    for number, option in enumerate(question.options[:SHOWN], 1):
        say(f"  {number}  {one_line(option)}")
    if len(question.options) > SHOWN:
        say(f"  … and {len(question.options) - SHOWN} more, by name")
    names = "a value" if question.takes_any and len(question.options) < 2 else "a name"
    prompt = f"a number or {names}" if question.options else names
    if question.takes_many:
        prompt = f"{prompt}, several with commas"
    while True:
        given = terminal.ask(prompt, default="1" if question.options else None)
        answers = [_meant(question, one.strip()) for one in given.split(",")]
        if None not in answers and (question.takes_many or len(answers) == 1):
            return [answer for answer in answers if answer is not None]
        say("  that is none of them")


def _meant(question: Question, given: str) -> str | None:
    if given.isdigit() and 0 < int(given) <= len(question.options):
        return question.options[int(given) - 1]
    return given if given in question.options or (question.takes_any and given) else None


def write(file: Path, draft: TargetDraft) -> None:
    """Write a draft, and beside it the schema that its first line names, each whole or not at all.

    Raises BadRequest if the folder cannot be written.
    """
    try:
        replace_file(file.with_name(SCHEMA_FILE), [SHIPPED.read_text(encoding="utf-8")], AS_ANY)
        replace_file(file, [draft.text], AS_ANY)
    except OSError as failed:
        raise BadRequest(
            f"{file} could not be written: {failed.strerror}", "--output FILE"
        ) from failed
