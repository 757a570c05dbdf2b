"""Every change of one operator, word or constant of a SQL text.

sqlglot's tokenizer says where they stand. The rest of the text stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from sqlglot import Token, TokenType
from sqlglot.dialects.postgres import Postgres

OPERATORS = {
    "<": ("<=", ">"),
    "<=": ("<", ">="),
    ">": (">=", "<"),
    ">=": (">", "<="),
    "=": ("<>",),
    "<>": ("=",),
    "+": ("-",),
    "-": ("+",),
    "*": ("/",),
    "/": ("*",),
    "and": ("or",),
    "or": ("and",),
    "true": ("false",),
    "false": ("true",),
    "least": ("greatest",),
    "greatest": ("least",),
    "min": ("max",),
    "max": ("min",),
    "bool_or": ("bool_and",),
    "bool_and": ("bool_or",),
    "any": ("all",),
    "all": ("any",),
    "desc": ("asc",),
    "exists": ("not exists",),
    "in": ("not in",),
    "~": ("!~",),
    "~*": ("!~*",),
    "!~": ("~",),
}
# Words that stand for each other: one of them in the place of another is still meant seriously.
VOCABULARIES = (
    ("pending", "leased", "done", "failed", "skipped", "rolled_back"),
    ("answered", "failed", "again", "slow", "unknown", "lost", "stop", "released"),
    ("running", "paused", "completed", "cancelled"),
    ("passed", "failed", "overridden", "waiting"),
    ("priority", "recent", "historical"),
    ("insert", "update", "delete"),
    ("as_planned", "missing", "filled_elsewhere", "changed_since", "no_longer_selected", "extra"),
    ("pass", "partial", "fail"),
    ("postgres", "service_role", "user", "nobody"),
    ("viewer", "operator", "approver"),
    ("sqlstate", "postgrest", "http"),
)
STRINGS = (TokenType.STRING, TokenType.BYTE_STRING)


class _Tokenizer(Postgres.Tokenizer):
    # `declare` and `execute` would make the rest of their statement one token.
    COMMANDS: ClassVar[set[TokenType]] = set()


@dataclass(frozen=True)
class Change:
    """Characters start..end of a text become `new`."""

    start: int
    end: int
    new: str

    def of(self, text: str) -> str:
        """The changed text."""
        return text[: self.start] + self.new + text[self.end :]

    def lines(self, text: str) -> tuple[str, str]:
        """The line that changes, before and after."""
        first = text.rfind("\n", 0, self.start) + 1
        last = text.find("\n", self.end)
        line = text[first : None if last < 0 else last]
        moved = Change(self.start - first, self.end - first, self.new)
        return line.strip(), moved.of(line).strip()


def changes(text: str) -> Iterator[Change]:
    """Every change of a SQL text; of SQL inside its strings too."""
    tokens = _Tokenizer().tokenize(text)
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else None
        yield from _of_token(text, token, before, tokens[place + 1 : place + 3])


def _of_token(
    text: str, token: Token, before: Token | None, after: list[Token]
) -> Iterator[Change]:
    start, end = token.start, token.end + 1
    said = text[start:end].lower()
    follows = [t.text.lower() for t in after]
    if token.token_type in STRINGS:
        yield from _of_string(text, start, end)
    elif text[start - 2 : start] == text[end : end + 2] == "''":
        yield from (Change(start, end, word) for word in _other_words(text[start:end]))
    elif token.token_type == TokenType.NUMBER and text[start - 1] != "$":
        yield from (Change(start, end, new) for new in _numbers(said))
    elif said == "is" and follows[:1] == ["not"]:
        yield Change(after[0].start, after[0].end + 2, "")
    elif said == "is":
        yield Change(start, end, "is not")
    elif said == "not" and (before is None or before.text.lower() != "is"):
        yield Change(start, end, "")
    elif said in ("exists", "in") and before is not None and before.text.lower() == "not":
        return  # the same as leaving out the `not`
    else:
        yield from (Change(start, end, new) for new in OPERATORS.get(said, ()))


def _numbers(said: str) -> list[str]:
    if "." in said:
        return [str(float(said) * 2)]
    return [str(int(said) + 1)] + ([str(int(said) - 1)] if int(said) > 0 else [])


def _other_words(said: str) -> list[str]:
    return sorted({w for words in VOCABULARIES if said in words for w in words} - {said})


def _of_string(text: str, start: int, end: int) -> Iterator[Change]:
    """Another word, another number, other SQL inside; else another text."""
    open_quote = text.index("'", start)
    inside = text[open_quote + 1 : end - 1]
    if re.search(r"\bselect\b", inside):
        for change in changes(inside):
            yield Change(open_quote + 1 + change.start, open_quote + 1 + change.end, change.new)
        return
    others = _other_words(inside)
    if others:
        yield from (Change(open_quote + 1, end - 1, word) for word in others)
    elif re.match(r"\d+ \w+$", inside):
        number = int(inside.split()[0])
        for new in (number + 1, number - 1):
            yield Change(open_quote + 1, end - 1, inside.replace(str(number), str(new)))
    elif inside:
        yield Change(open_quote + 1, end - 1, inside + "x")
