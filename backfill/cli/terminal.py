"""What a person sees: answers on stdout, progress on stderr, no colour when piped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backfill.errors import BackfillError, UsageError
from backfill.results.run import Json, NextStep

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
MARKS |= {"pass": "[green]pass[/]", "partial": "[yellow]partial[/]"}
NEVER_CUT = ("run", "failed ", "day")

PIPE_COLUMNS = 250  # a pipe has no width, and nothing may be cut there
RENDERED_LINES = 1_000
# A block of lines to copy.
_BLOCK = re.compile(r"^ *```\w+\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def _console(*, stderr: bool) -> Console:
    shown = Console(stderr=stderr, soft_wrap=True, highlight=False)
    if not shown.is_terminal:
        shown.width = PIPE_COLUMNS
    return shown


out = _console(stderr=False)
err = _console(stderr=True)


def wrapped(text: str) -> Text:
    """Text in a bar or in place that is wrapped between words, at any width."""
    return Text(text, overflow="fold", no_wrap=False)


def print_prose(console: Console, text: str, mark: str = "") -> None:
    """Sentences, wrapped between words on a terminal and whole in a pipe.

    Not for what people copy: a command stays whole. mark: one of MARKS, before the text.
    """
    console.print(Text.from_markup(mark).append(text), soft_wrap=not console.is_terminal)


def print_json(answer: Json) -> None:
    """An answer for machines, on stdout."""
    print(json.dumps(answer, indent=2, ensure_ascii=False, default=str))


def told(error: BackfillError | typer.TyperException | typer.Abort) -> Json:
    """An error for machines: {error: {code, message, next}}.

    code: the SQLSTATE, or the error's name where it has none. A command line that makes no sense
    is a UsageError.
    """
    if isinstance(error, BackfillError):
        return error.as_dict()
    if isinstance(error, typer.Abort):
        return {"error": {"code": "Abort", "message": "aborted by a person", "next": ""}}
    usage = UsageError(error.format_message(), f"{_verb_of(error)} --help")
    return usage.as_dict()


def _verb_of(error: typer.TyperException) -> str:
    ctx = getattr(error, "ctx", None)
    return ctx.command_path if ctx else "backfill"


def print_refusal(
    error: BackfillError | typer.TyperException | typer.Abort, *, is_refused: bool
) -> None:
    """An error for people, on stderr. is_refused: a gate refused."""
    if isinstance(error, BackfillError):
        prefix = "Refused: " if is_refused else ""
        notes = getattr(error, "__notes__", ())
        err.print(f"{prefix}{error.typed()}", *notes, sep="\n", markup=False)
    elif isinstance(error, typer.Abort):
        err.print("Aborted!")
    else:
        cast(Any, error).show()  # every error of Typer's parser has it


def print_markdown(pieces: Iterable[str]) -> None:
    """Print Markdown piece by piece, rendered on a terminal, as it is in a pipe.

    Rendering takes a millisecond per line, so tables after the first thousand lines stay text.
    """
    lines = 0
    for piece in pieces:
        if not out.is_terminal:
            print(piece, end="")
        elif not piece.strip():
            out.print("\n" * (piece.count("\n") - 1), end="")
        elif lines > RENDERED_LINES and piece.startswith(("|", "### ")):
            out.print(piece, markup=False)
        else:
            _print_rendered(piece)
            lines += piece.count("\n") + 1
    print()


def _print_rendered(piece: str) -> None:
    """Print Markdown in the terminal's width, but for lines to copy: these stay whole.

    A line that Rich wraps has a real end where the window ends, and is copied in two.
    """
    from rich.markdown import Markdown

    for place, part in enumerate(_BLOCK.split(piece)):
        if place % 2:
            out.print(f"\n{part}", markup=False, soft_wrap=True)
        elif part.strip():
            out.print(Markdown(part), soft_wrap=False)


def print_next(step: str) -> None:
    """What to type now. Of several lines the first is a sentence, and the others are to copy."""
    # A line to copy is never wrapped: the terminal breaks it, and copies it whole.
    indented = step.replace("\n", "\n    ")
    out.print(f"  Next: {indented}", markup=False, soft_wrap=True)


def print_next_step(step: NextStep | None) -> None:
    """What helps a run now. Nothing if nothing does."""
    if step is not None and step.lines:
        print_next(step.text)


def table(*headers: str, rows: Iterable[Sequence[object]]) -> Table:
    """Rows below their headers, None as nothing."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        made.add_column(header, no_wrap=header.startswith(NEVER_CUT))
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    return made
