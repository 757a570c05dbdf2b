"""TOML read table by table: a wrong value gets a sentence, an unknown key its nearest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from backfill.errors import BadRequest
from backfill.results.run import Json

NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
VIEW = re.compile(r"backfill_[a-z0-9_]{1,50}")
NAME_BYTES = 63  # what PostgreSQL keeps of a name


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name, as the database has it."""

    schema: str
    name: str

    def as_dict(self) -> dict[str, Json]:
        """{schema, table}."""
        return {"schema": self.schema, "table": self.name}


class Part:
    """A table of the file, read key by key; what nobody read is refused."""

    def __init__(self, called: str, given: Mapping[str, Json]) -> None:
        self.called = called
        self.given = given
        self._read: set[str] = set()

    def wrong(self, key: str, what: str) -> BadRequest:
        """The error that a value has another form."""
        return BadRequest(f"{self.called}: {key} {what}", "correct the declaration")

    def refuse_unknown(self) -> None:
        """Raises BadRequest for a key that means nothing here."""
        for key in self.given.keys() - self._read:
            raise BadRequest(
                f"{self.called} has no {key}{nearest(key, sorted(self._read))}",
                "correct the declaration",
            )

    def _value(self, key: str, default: Json = None) -> Json:
        self._read.add(key)
        value = self.given.get(key, default)
        if value is None:
            raise BadRequest(f"{self.called} needs {key}", f"{key} = …")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = self._value(key, default)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise self.wrong(key, "is a text")
        return value

    def name(self, key: str, default: str | None = None) -> str:
        """A name of ours: small letters, digits, _."""
        value = self.text(key, default)
        if not NAME.fullmatch(value):
            raise self.wrong(key, f"is small letters, digits and _, at most 31, not {value[:40]}")
        return value

    def view(self, key: str, default: str) -> str:
        """The name of a view of ours."""
        value = self.text(key, default)
        if not VIEW.fullmatch(value):
            raise self.wrong(key, "begins with backfill_, then small letters, digits and _")
        return value

    def identifier(self, key: str, default: str | None = None) -> str:
        """A column or an index, named as it is called: without SQL's quotes."""
        return self._named(key, self.text(key, default))

    def identifiers(self, key: str) -> tuple[str, ...]:
        """Columns."""
        found = self.texts(key)
        if not found:
            raise self.wrong(key, "is a list of columns")
        return tuple(self._named(key, one) for one in found)

    def _named(self, key: str, value: str) -> str:
        if len(value.encode()) > NAME_BYTES:
            raise self.wrong(key, f"is longer than the {NAME_BYTES} bytes of a name: {value[:40]}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty unless given."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(
            isinstance(v, str) and v and "\0" not in v for v in value
        ):
            raise self.wrong(key, "is a list of texts")
        return tuple(value)

    def names(self, key: str) -> dict[str, str]:
        """{column or argument: parameter}; empty unless given."""
        given = self.part(key, {}).given
        if not all(isinstance(v, str) and v for v in given.values()):
            raise self.wrong(key, 'is { name = "parameter" }')
        return dict(given)

    def flag(self, key: str) -> bool:
        """true or false; false unless given."""
        value = self._value(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "is true or false")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """One of these."""
        value = self.text(key, default)
        if value not in choices:
            raise self.wrong(key, f"is {' or '.join(choices)}, not {value[:40]}")
        return value

    def table(self, key: str) -> Table:
        """A table as SQL writes it: schema.table, quoted where it must be; public unless said."""
        text = self.text(key)
        try:
            found = sqlglot.parse_one(text, into=exp.Table, dialect="postgres")
        except sqlglot.ParseError:
            found = None
        if (
            not isinstance(found, exp.Table)
            or found.catalog
            or not isinstance(found.this, exp.Identifier)
        ):
            raise self.wrong(key, f"is schema.table, as SQL writes it, not {text[:60]}")
        schema, name = found.args.get("db"), found.this
        return Table(_folded(schema) if schema else "public", _folded(name))

    def part(self, key: str, default: Json = None) -> Part:
        """A table within."""
        value = self._value(key, default)
        if not isinstance(value, dict):
            raise self.wrong(key, "is a table of its own")
        return Part(key, value)

    def parts(self, key: str, least: int = 1) -> list[Part]:
        """Tables within, in order."""
        value = self._value(key, [])
        if (
            not isinstance(value, list)
            or len(value) < least
            or not all(isinstance(v, dict) for v in value)
        ):
            raise self.wrong(key, "is a list of tables")
        return [Part(f"{self.called}, {key} {place}", v) for place, v in enumerate(value, 1)]


def _folded(name: exp.Identifier) -> str:
    """A name as PostgreSQL takes it: small letters unless it is quoted."""
    return str(name.this) if name.args.get("quoted") else str(name.this).lower()


def nearest(name: str, known: Iterable[str]) -> str:
    """In words, what may have been meant."""
    found = difflib.get_close_matches(name, list(known), 1, 0.0)
    return f"; the nearest is {found[0]}" if found else ""
