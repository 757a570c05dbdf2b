"""Pieces of Markdown: escaped text, code, tables, times, counts. Pure: data in, text out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

MARKS = {"ok": "✅", "warn": "⚠️", "fail": "❌", "pass": "✅", "partial": "⚠️"}
NONE = "-"

_MINUTE_S = 60
_SPECIAL = re.compile(r"[\\`*<\[\]|~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")


def escaped(value: object) -> str:
    """One line of text that Markdown, HTML and terminals all take as plain text."""
    line = "".join(c if c.isprintable() else " " for c in str(value))
    return _SPECIAL.sub(r"\\\g<0>", " ".join(line.split()))


def code(value: object) -> str:
    """A code span, or plain text if a code span in a table could not hold the value."""
    text = str(value)
    fits = text.isprintable() and re.fullmatch(r"[^`|\s]([^`|]*[^`|\s])?", text)
    return f"`{text}`" if fits else escaped(text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of cells that are already Markdown. Columns of numbers are right-aligned."""
    body = [list(row) for row in rows]
    rules = [_rule([row[place] for row in body]) for place in range(len(header))]
    lines = [header, rules, *body]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _rule(column: Sequence[object]) -> str:
    return "---:" if column and all(isinstance(cell, int) for cell in column) else "---"


def bullets(lines: Iterable[str]) -> str:
    """A list, one line each."""
    return "\n".join(f"- {line}" for line in lines)


def section(title: str, *parts: str) -> str:
    """A section of the second level without its empty parts."""
    return "\n\n".join([f"## {title}", *filter(None, parts)])


def joined(*parts: str) -> str:
    """A document of these parts without the empty ones."""
    return "".join(document(parts))


def document(parts: Iterable[str]) -> Iterator[str]:
    """The same, piece by piece."""
    between = ""
    for part in filter(None, parts):
        yield between
        yield part
        between = "\n\n"
    yield "\n"


def fenced(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def mm_ss(seconds: float) -> str:
    """75 as 01:15, 3725 as 1:02:05. Tenths are shown unless they are zero: 00:08.6."""
    whole, tenths = divmod(round(seconds * 10), 10)
    minutes, rest = divmod(whole, 60)
    hours, left = divmod(minutes, 60)
    shown = f"{hours}:{left:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
    return f"{shown}.{tenths}" if tenths else shown


def duration(seconds: float) -> str:
    """15 as "15 s", 8.571429 as "8.571 s", 120 as "2 min", 3725 as "1 h 2 min 5 s"."""
    if seconds < _MINUTE_S:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    named = ((hours, "h"), (left, "min"), (rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in named if count)


def counted(count: int, noun: str) -> str:
    """1 session, 1,200 sessions, 2 batches."""
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def agreed(count: int, one: str, many: str) -> str:
    """The form of a verb or a pronoun that agrees with a count: lacks, lack."""
    return one if count == 1 else many


class Called(NamedTuple):
    """How the rows of a target's source are called: one of them, and several."""

    one: str = "session"
    many: str = "sessions"

    def counted(self, count: int, kind: str = "") -> str:
        """1 session, 1,200 sessions. kind: a word and a space before the noun."""
        return f"{count:,} {kind}{self.one if count == 1 else self.many}"

    @property
    def title(self) -> str:
        """Several, as a heading begins."""
        return self.many[:1].upper() + self.many[1:]

    @property
    def one_title(self) -> str:
        """One of them, as a heading begins."""
        return self.one[:1].upper() + self.one[1:]


SESSION = Called()


def utc(moment: datetime | None) -> str:
    """A moment in UTC, to the second."""
    if moment is None:
        return NONE
    # strftime writes the year 1 with one digit.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def day(text: Any) -> str:
    """The text of a moment, without its time if that is the start of a UTC day."""
    return str(text).removesuffix("T00:00:00+00:00") if text else NONE
