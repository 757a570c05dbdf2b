"""What a person sees: answers on stdout, progress on stderr, no colour when piped."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from backfill.cli import plain
from backfill.errors import BackfillError, UsageError

if TYPE_CHECKING:
    from backfill.results.run import Json, NextStep

COLOURS = {"ok": "green", "pass": "green", "warn": "yellow", "partial": "yellow"}
COLOURS |= {"fail": "red", "critical": "red"}
NEVER_CUT = ("run", "failed ", "day")

PIPE_COLUMNS = 250  # a pipe has no width, and nothing may be cut there
RENDERED_LINES = 1_000
# A block of lines to copy.
_BLOCK = re.compile(r"^ *```\w+\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class PlainConsole(Console):
    """A console on which text is text: no markup, no emoji code, no control character."""

    def __init__(self, **given: Any) -> None:
        super().__init__(soft_wrap=True, highlight=False, markup=False, emoji=False, **given)

    def render_str(self, text: str, **given: Any) -> Text:
        """Text to lay out. What cannot be printed is an escape, and takes its place in a line."""
        return super().render_str(plain.lines(text), **given)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The pieces of whatever is shown. Only Rich's own may move the cursor."""
        for piece in super().render(renderable, options):
            if piece.control or piece.text.isprintable():
                yield piece
            else:
                yield Segment(plain.lines(piece.text), piece.style)


def _console(*, stderr: bool) -> Console:
    shown = PlainConsole(stderr=stderr)
    if not shown.is_terminal:
        shown.width = PIPE_COLUMNS
    return shown


out = _console(stderr=False)
err = _console(stderr=True)


def mark(name: str) -> Text:
    """One of COLOURS in its colour."""
    return Text(name, COLOURS[name])


def wrapped(text: str) -> Text:
    """Text in a bar or in place that is wrapped between words, at any width."""
    return Text(plain.lines(text), overflow="fold", no_wrap=False)


def print_marked(name: str, text: str) -> None:
    """A line of the answer after one of COLOURS."""
    out.print(mark(name).append(plain.lines(text)))


def print_prose(console: Console, text: str, marked: str | None = None) -> None:
    """Sentences, wrapped between words on a terminal and whole in a pipe.

    Not for what people copy: a command stays whole. marked: one of COLOURS, before the text.
    """
    before = mark(marked) if marked else Text()
    console.print(before.append(plain.lines(text)), soft_wrap=not console.is_terminal)


def write(text: str, *, end: str = "\n") -> None:
    """Text on stdout, at once and without any layout: for shells, pipes and whoever copies it."""
    print(plain.lines(text), end=end, flush=True)


def print_json(answer: Json, *, indent: int | None = 2) -> None:
    """An answer for machines, on stdout. None: in one line."""
    text = json.dumps(answer, indent=indent, ensure_ascii=False, default=str)
    print(plain.json_text(text), flush=True)


def ask(what: str, *, default: str | None = None, is_hidden: bool = False) -> str:
    """What a person types. default: taken if nothing is. Raises Abort."""
    asked = plain.one_line(what if default is None else f"{what} [{default}]")
    return str(
        typer.prompt(asked, default=default, show_default=False, hide_input=is_hidden, err=True)
    )


def confirm(question: str) -> None:
    """Go on if a person says yes. Raises Abort if not."""
    typer.confirm(plain.one_line(question), abort=True, err=True)


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
        err.print(f"{prefix}{plain.error_text(error)}")
    elif isinstance(error, typer.Abort):
        err.print("Aborted!")
    else:
        said = io.StringIO()
        cast(Any, error).show(said)  # every error of Typer's parser has it
        err.print(said.getvalue(), end="")


def print_markdown(pieces: Iterable[str]) -> None:
    """Print Markdown piece by piece, rendered on a terminal, as it is in a pipe.

    Rendering takes a millisecond per line, so tables after the first thousand lines stay text.
    """
    lines = 0
    for piece in pieces:
        if not out.is_terminal:
            write(piece, end="")
        elif not piece.strip():
            out.print("\n" * (piece.count("\n") - 1), end="")
        elif lines > RENDERED_LINES and piece.startswith(("|", "### ")):
            out.print(piece)
        else:
            _print_rendered(piece)
            lines += piece.count("\n") + 1
    write("")


def _print_rendered(piece: str) -> None:
    """Print Markdown in the terminal's width, but for lines to copy: these stay whole.

    A line that Rich wraps has a real end where the window ends, and is copied in two.
    """
    from rich.markdown import Markdown

    for place, part in enumerate(_BLOCK.split(piece)):
        if place % 2:
            out.print(f"\n{part}", soft_wrap=True)
        elif part.strip():
            out.print(Markdown(part, hyperlinks=False), soft_wrap=False)


def print_next(step: str) -> None:
    """What to type now. Of several lines the first is a sentence, and the others are to copy."""
    # A line to copy is never wrapped: the terminal breaks it, and copies it whole.
    indented = step.replace("\n", "\n    ")
    out.print(f"  Next: {indented}", soft_wrap=True)


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
        made.add_row(*("" if cell is None else plain.one_line(str(cell)) for cell in row))
    return made
