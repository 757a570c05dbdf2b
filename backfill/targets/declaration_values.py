"""The values of a declaration as types for pydantic, each with the text of its fault."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import sqlglot
from pydantic import AfterValidator, BeforeValidator, TypeAdapter
from sqlglot import exp
from sqlglot.errors import SqlglotError

from backfill.results.run import Json
from backfill.targets.filters import SCALAR, AnyOf, Filter, about, spelled

NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
VIEW = re.compile(r"backfill_[a-z0-9_]{1,50}")
WORD = re.compile(r"(?=.{1,30}$)[^\W\d_]+(?:[ -][^\W\d_]+)*")
SPAN = re.compile(r"([1-9]\d{0,4})([mhd])")
SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
MOST_SPAN_S = 3_660 * SECONDS["d"]  # no more than ten years
NAME_BYTES = 63  # what PostgreSQL keeps of a name
# A request's own names. No parameter of a target may have them.
TAKEN = frozenset(
    {
        "target", "since", "until", "recent_since", "since_at", "until_before", "environment",
        "throttle_per_minute", "batch_size", "priority", "want", "parameters", "inferred",
        "rehearse", "like", "mode", "session_id", "ids", "limit",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name, as the database has it."""

    schema: str
    name: str

    def as_dict(self) -> dict[str, Json]:
        """{schema, table}."""
        return {"schema": self.schema, "table": self.name}


def _is(so: Callable[[Any], object], what: str) -> Callable[[Any], Any]:
    """A check of a value. what: the sentence after its key, with {} for the value."""

    def checked(value: Any) -> Any:
        if not so(value):
            raise ValueError(what.replace("{}", str(value)[:40]))
        return value

    return checked


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, str) and v and "\0" not in v for v in value
    )


def _are_words(value: Any) -> bool:
    return _are_texts(value) and len(value) == 2 and all(map(WORD.fullmatch, value))


def _is_short(name: str) -> bool:
    return len(name.encode()) <= NAME_BYTES


def _setting(value: object) -> object:
    """A number of rows stays one. Anything else is what a column is compared with, as a version."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, SCALAR) or value == "":
        raise ValueError("is a text, a number, true, false, a day or a moment")
    return spelled(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: Any) -> bool:
    is_pair = isinstance(value, list) and [_is_number(b) for b in value] == [True] * 2
    # Neither inf nor nan, nor a whole number that no float holds.
    is_finite = is_pair and all(abs(b) <= sys.float_info.max for b in value)
    return bool(is_finite and value[0] <= value[1])


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


def _span_s(value: object) -> int:
    """A length of time such as 90m, 6h or 2d, in seconds."""
    found = SPAN.fullmatch(value) if isinstance(value, str) else None
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < seconds <= MOST_SPAN_S:
        raise ValueError(
            f'is minutes, hours or days such as "90m", "6h" or "2d", at most ten years, '
            f"not {str(value)[:40]}"
        )
    return seconds


def is_one_of(kind: object) -> Callable[[Any], Any]:
    """A check of a Literal's choices."""
    choice = _is(lambda v: v in get_args(kind), f"is {' or '.join(get_args(kind))}, not {{}}")
    return lambda value: choice(_text(value))


_text = _is(_is_text, "is a text")
_column = _is(_is_short, f"is longer than the {NAME_BYTES} bytes of a name: {{}}")


def _free(name: str) -> str:
    if not NAME.fullmatch(name) or name in TAKEN:
        others = "None of a request's own: " + ", ".join(sorted(TAKEN))
        raise ValueError(
            "cannot be the name of a parameter", f"small letters, digits and _. {others}"
        )
    return name


def _columns(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("is a list of columns")
    return tuple(_column(name) for name in names)


def _table(value: object) -> object:
    """A table as SQL writes it: schema.table, quoted if it must be. The schema may be left out."""
    text = str(_text(value))
    try:
        found = sqlglot.parse_one(text, into=exp.Table, dialect="postgres")
    except SqlglotError:
        found = None
    is_table = isinstance(found, exp.Table) and isinstance(found.this, exp.Identifier)
    if found is None or not is_table or found.catalog:
        raise ValueError(f"is schema.table, as SQL writes it, not {text[:60]}")
    schema = found.args.get("db")
    return Table(_folded(schema) if schema else "public", _folded(found.this))


def _folded(name: exp.Identifier) -> str:
    """A name as PostgreSQL reads it: in lower case unless it is quoted."""
    return str(name.this) if name.args.get("quoted") else str(name.this).lower()


def _about(said: tuple[str, Any]) -> object:
    return tuple(about(*said))


def _filters(where: object) -> object:
    """Filters, each key of the file by itself, so that each of several faults is told."""
    named = {key: (key, said) for key, said in where.items()} if isinstance(where, dict) else where
    return tuple(one for found in WHERE.validate_python(named).values() for one in found)


def _version(value: object) -> object:
    """A version as the file spells it. Its column's type decides how it is compared."""
    return _text(spelled(value) if isinstance(value, SCALAR) else value)


Text = Annotated[str, BeforeValidator(_text)]
Version = Annotated[str, BeforeValidator(_version)]
Name = Annotated[
    Text, AfterValidator(_is(NAME.fullmatch, "is small letters, digits and _, at most 31, not {}"))
]
ViewName = Annotated[
    Text,
    AfterValidator(_is(VIEW.fullmatch, "begins with backfill_, then small letters, digits and _")),
]
Column = Annotated[Text, AfterValidator(_column)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_is(_are_texts, "is a list of texts"))]
Columns = Annotated[Texts, AfterValidator(_columns)]
Words = Annotated[
    tuple[str, ...],
    BeforeValidator(_is(_are_words, 'is two words, one and several: ["order", "orders"]')),
]
Flag = Annotated[bool, BeforeValidator(_is(lambda v: isinstance(v, bool), "is true or false"))]
Range = Annotated[
    tuple[int | float, int | float], BeforeValidator(_is(_is_range, "is [lowest, highest]"))
]
Share = Annotated[
    float,
    BeforeValidator(_is(_is_share, "is a share, over 0 and up to 1, such as 0.99, not {}")),
    AfterValidator(float),
]
Span = Annotated[int, BeforeValidator(_span_s)]
Parameter = Annotated[
    str, BeforeValidator(_is(lambda v: isinstance(v, str) and v, "is the name of a parameter"))
]
ParameterName = Annotated[str, AfterValidator(_free)]
Setting = Annotated[str | int, BeforeValidator(_setting)]
TableName = Annotated[Table, BeforeValidator(_table)]
WHERE = TypeAdapter(dict[str, Annotated[Any, BeforeValidator(_about)]])
Filters = Annotated[tuple[Filter | AnyOf, ...], BeforeValidator(_filters)]
