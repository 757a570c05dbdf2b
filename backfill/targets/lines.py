"""The line of each value of a TOML file, which the parser of the standard library does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Place = tuple[str | int, ...]

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""+|\'\'\'.*?\'\'\'+|"(?:\\.|[^"\\])*"|\'[^\']*\''
    r"|#[^\n]*|[ \t\r]+|[\n\[\]{}=,.]|[^\s\[\]{}=,.#\"']+",
    re.DOTALL,
)


def lines_of(text: str) -> dict[Place, int]:
    """The line, from 1, of each key, table and list item of a file that is TOML."""
    return _Reader(text).read()


def line_of(lines: dict[Place, int], place: Place) -> int:
    """The line of a place, or of the nearest around it that the file has."""
    return next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), 1)


class _Reader:
    """A walk over the tokens. The file has been read before, so nothing is checked."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._lines: dict[Place, int] = {}
        self._items: dict[Place, int] = {}  # a list of tables -> its last item

    def read(self) -> dict[Place, int]:
        table: Place = ()
        while self._at < len(self._tokens):
            if self._now == "\n":
                self._at += 1
            elif self._now == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    @property
    def _now(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else "\n"

    def _next(self) -> str:
        found = self._now
        self._at += 1
        return found

    def _note(self, place: Place) -> None:
        self._lines.setdefault(place, self._tokens[self._at][1])

    def _header(self) -> Place:
        begins = self._at
        self._at += 1
        is_list = self._now == "["
        self._at += is_list
        *outer, last = self._key("]")
        self._at += is_list
        place: Place = ()
        for step in outer:
            place = self._within((*place, step))
        place = (*place, last)
        if is_list:
            self._items[place] = self._items.get(place, -1) + 1
        self._lines.setdefault(place, self._tokens[begins][1])
        place = self._within(place)
        self._lines.setdefault(place, self._tokens[begins][1])
        return place

    def _within(self, place: Place) -> Place:
        """The last item of a list of tables, else the table itself."""
        return (*place, self._items[place]) if place in self._items else place

    def _key(self, end: str) -> list[str]:
        """The parts of a dotted key, up to and including its end."""
        parts = []
        while (part := self._next()) != end:
            if part != ".":
                parts.append(_plain(part))
        return parts

    def _pair(self, table: Place) -> None:
        begins = self._at
        place = table
        for part in self._key("="):
            place = (*place, part)
            self._lines.setdefault(place, self._tokens[begins][1])
        self._value(place)

    def _value(self, place: Place) -> None:
        opening = self._now
        if opening not in ("[", "{"):
            while self._now not in (",", "\n", "]", "}"):
                self._at += 1
            return
        self._at += 1
        item = 0
        while self._now not in ("]", "}"):
            if self._now in (",", "\n"):
                self._at += 1
            elif opening == "{":
                self._pair(place)
            else:
                self._note((*place, item))
                self._value((*place, item))
                item += 1
        self._at += 1


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Each token with its line, without blanks and comments."""
    line = 1
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token[0] not in "# \t\r":
            yield token, line
        line += token.count("\n")


def _plain(key: str) -> str:
    """A key without its quotes."""
    return next(iter(tomllib.loads(f"{key} = 1"))) if key[0] in "\"'" else key
