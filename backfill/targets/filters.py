"""What `where` of a declaration may say about the rows of a source, read into filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time

from backfill.results.run import Json
from backfill.targets.declaration_faults import nearest

SCALAR = str | bool | int | float | datetime | date | time
OPERATORS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
NULLS = {"null": True, "not null": False}
KEYS = ("is", "not", *OPERATORS, "column")
FORMS = (
    'is a value, a list of values, { is = "null" }, { not = … }, { gt = … } or ge, lt, le, or '
    '{ column = "…" }'
)
ANY = "any"


@dataclass(frozen=True, slots=True)
class Filter:
    """What is asked of one column.

    op: =, not, >, >=, < or <=. values: of these one, after = and not also several. is_null: whether
    it is null, instead of values. other: a column of the same row, instead of values.
    """

    column: str
    values: tuple[str, ...] = ()
    is_null: bool | None = None
    op: str = "="
    other: str | None = None

    def as_dict(self) -> dict[str, Json]:
        """As sql/20_target/filters.sql has it."""
        if self.is_null is not None:
            return {"column": self.column, "is_null": self.is_null}
        compared = {"other": self.other} if self.other is not None else {"values": [*self.values]}
        op = {"op": self.op} if not self.is_plain else {}
        return {"column": self.column, **op, **compared}

    @property
    def is_plain(self) -> bool:
        """Whether an index may have it as its condition: a value, a list of values or null."""
        return self.op == "=" and self.other is None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return (self.column,) if self.other is None else (self.column, self.other)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Several lists of filters. A row meets all of one of them."""

    choices: tuple[tuple[Filter | AnyOf, ...], ...]
    is_plain = False

    def as_dict(self) -> dict[str, Json]:
        """{any: [[filter, …], …]}."""
        return {ANY: [[f.as_dict() for f in choice] for choice in self.choices]}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return tuple(name for choice in self.choices for f in choice for name in f.columns)


class SpelledFloat(float):
    """A number with a point that keeps how the file writes it: as texts 1.20 and 1.2 differ."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("_", "")


def spelled(value: str | float | date | time) -> str:
    """A value of the file as PostgreSQL reads it. A moment without an offset is in UTC."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, SpelledFloat):
        return value.text
    return value.isoformat() if isinstance(value, date | time) else str(value)


def filters_of(where: Mapping[str, Json]) -> Iterator[Filter | AnyOf]:
    """The filters of a table of the file, columns as keys. Raises ValueError with a sentence."""
    for column, said in where.items():
        try:
            yield from about(column, said)
        except ValueError as error:
            raise ValueError(f"{column} {error}") from error


def about(column: str, said: Json) -> Iterator[Filter | AnyOf]:
    """The filters of one key. Raises ValueError with the sentence after the key."""
    if isinstance(said, list) and said and all(isinstance(one, dict) for one in said):
        if column != ANY:
            raise ValueError(f"{FORMS}. Tables stand in a list only under {ANY}")
        if not all(said):
            raise ValueError("is a list of tables, and each says something")
        try:
            yield AnyOf(tuple(tuple(filters_of(one)) for one in said))
        except ValueError as error:
            raise ValueError(f"has a choice in which {error}") from error
    elif isinstance(said, dict):
        yield from _operators(column, said)
    else:
        yield Filter(column, _values(said))


def _values(said: Json) -> tuple[str, ...]:
    values = said if isinstance(said, list) else [said]
    if not values or not all(isinstance(v, SCALAR) for v in values):
        raise ValueError(FORMS)
    if any("\0" in v for v in values if isinstance(v, str)):
        raise ValueError("holds a character that PostgreSQL does not have")
    return tuple(map(spelled, values))


def _operators(column: str, said: Mapping[str, Json]) -> Iterator[Filter]:
    if not said:
        raise ValueError(FORMS)
    for key, value in said.items():
        if key == "is":
            if value not in ("null", "not null"):
                raise ValueError('is { is = "null" } or { is = "not null" }')
            yield Filter(column, is_null=NULLS[value])
        elif key == "column":
            yield Filter(column, other=_column(value))
        elif key == "not" or key in OPERATORS:
            yield _compared(column, key, value)
        else:
            raise ValueError(f"has {key}, which is none of {', '.join(KEYS)}{nearest(key, KEYS)}")


def _compared(column: str, key: str, value: Json) -> Filter:
    op = OPERATORS.get(key, key)
    if isinstance(value, dict):
        if value.keys() != {"column"}:
            raise ValueError(f'{key} takes a value, or {{ column = "…" }}')
        return Filter(column, op=op, other=_column(value["column"]))
    if op != "not" and isinstance(value, list | bool):
        raise ValueError(f"{key} takes one value that has an order")
    return Filter(column, _values(value), op=op)


def _column(value: Json) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("names another column by a text")
    return value
