"""What a SQL function writes and reads, from the words of its body.

PL/pgSQL is no SQL that a parser takes, so the tokens are read: they are told apart from comments
and texts. A function that only calls another writes what that one writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from sqlglot import TokenType
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError

from backfill.targets.catalog import Catalog, Relation, SqlFunction

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

STATEMENT = re.compile(r"\b(insert\s+into|update|merge\s+into)\b", re.IGNORECASE)
STRINGS = (TokenType.STRING, TokenType.HEREDOC_STRING, TokenType.RAW_STRING)
MOST_DEEP = 5


@dataclass(frozen=True, slots=True)
class Touched:
    """The relations that a function writes and reads, in the order of its body."""

    writes: tuple[Relation, ...]
    reads: tuple[Relation, ...]


def touched(function: SqlFunction, catalog: Catalog) -> Touched:
    """What a function touches, by itself and by the functions that it calls."""
    bodies = [_tokens(f.body) for f in _called(function, catalog)]
    writes = [r for tokens in bodies for r in _relations(_written(tokens), catalog)]
    reads = [r for tokens in bodies for r in _relations(_read(tokens), catalog)]
    return Touched(tuple(dict.fromkeys(writes)), tuple(dict.fromkeys(reads)))


def _called(function: SqlFunction, catalog: Catalog) -> list[SqlFunction]:
    """The function and those that it calls, and so on."""
    found, new = [function], [function]
    for _ in range(MOST_DEEP):
        words = {w for f in new for w in re.findall(r'(\w+)"?\s*\(', f.body)}
        new = [f for f in catalog.functions if f.name in words and f not in found]
        found += new
    return found


def _tokens(body: str) -> list[Token]:
    """The tokens of a body. A text that holds a statement, for `execute`, is read too."""
    try:
        tokens = Postgres().tokenize(body)
    except SqlglotError:
        return []
    inner = [t.text for t in tokens if t.token_type in STRINGS and STATEMENT.search(t.text)]
    return [*tokens, *(token for text in inner for token in _tokens(text))]


def _written(tokens: Sequence[Token]) -> Iterator[tuple[str | None, str]]:
    """The names after `insert into`, `merge into` and `update … set`."""
    words = [t.text.lower() for t in tokens]
    for at, (one, other) in enumerate(pairwise(words)):
        if one in ("insert", "merge") and other == "into":
            yield from _name(tokens, at + 2)
        elif one == "update" and words[at - 1 : at] not in (["do"], ["for"], ["or"]):
            start = at + 2 if other == "only" else at + 1
            if "set" in words[start : start + 6]:
                yield from _name(tokens, start)


def _read(tokens: Sequence[Token]) -> Iterator[tuple[str | None, str]]:
    """The names after `from` and `join`, without those that a row is deleted from."""
    words = [t.text.lower() for t in tokens]
    for at, word in enumerate(words):
        is_delete = words[at - 1 : at] == ["delete"]
        if word in ("from", "join", "using") and not is_delete:
            yield from _name(tokens, at + 1)


def _name(tokens: Sequence[Token], at: int) -> Iterator[tuple[str | None, str]]:
    """The name that begins here, with its schema if it has one."""
    parts = [_folded(t) for t in tokens[at : at + 3]]
    if len(parts) == 3 and parts[1] == ".":
        yield parts[0], parts[2]
    elif parts:
        yield None, parts[0]


def _folded(token: Token) -> str:
    is_quoted = token.token_type is TokenType.IDENTIFIER
    return token.text if is_quoted else token.text.lower()


def _relations(names: Iterator[tuple[str | None, str]], catalog: Catalog) -> Iterator[Relation]:
    for schema, name in names:
        found = catalog.meant(schema, name)
        if found is not None:
            yield found
