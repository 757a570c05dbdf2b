"""The JSON Schema of a target's file, for editors, and the table of its keys for the page.

Both are made from the classes that read the file: python -m backfill.targets.schema
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from backfill.results.run import Json
from backfill.targets import declaration as form
from backfill.targets import declaration_values as values
from backfill.targets.filters import ANY, NULLS, OPERATORS
from backfill.targets.keys_told import TOLD, Told

SCHEMA_FILE = "backfill-target.schema.json"  # beside a target's file
SHIPPED = Path(__file__).with_name("target.schema.json")
PAGE = Path(__file__).parents[2] / "supabase" / "README.md"  # of a checkout
BEGINS, ENDS = "<!-- keys: python -m backfill.targets.schema -->\n", "<!-- end of keys -->"
TEXT: dict[str, Json] = {"type": "string", "minLength": 1}
SPAN: dict[str, Json] = {"type": "string", "pattern": "^[1-9][0-9]{0,4}[mhd]$"}
# A day or a moment is a text to an editor.
VALUE: dict[str, Json] = {"type": ["string", "boolean", "number"]}
VALUES: dict[str, Json] = {"anyOf": [VALUE, {"type": "array", "items": VALUE, "minItems": 1}]}
OTHER: dict[str, Json] = {
    "type": "object",
    "properties": {"column": TEXT},
    "required": ["column"],
    "additionalProperties": False,
}
CONDITION: dict[str, Json] = {
    "anyOf": [
        *VALUES["anyOf"],
        {
            "type": "object",
            "properties": {
                "is": {"enum": [*NULLS]},
                "not": {"anyOf": [*VALUES["anyOf"], OTHER]},
                **{op: {"anyOf": [VALUE, OTHER]} for op in OPERATORS},
                "column": TEXT,
            },
            "minProperties": 1,
            "additionalProperties": False,
        },
    ]
}
WHERE: dict[str, Json] = {
    "type": "object",
    "properties": {
        ANY: {
            "type": "array",
            "items": {"allOf": [{"$ref": "#/$defs/where"}, {"minProperties": 1}]},
            "minItems": 1,
        }
    },
    "additionalProperties": CONDITION,
}


def _table(of: dict[str, Json]) -> dict[str, Json]:
    return {"type": "object", "additionalProperties": of}


def _list(of: dict[str, Json], least: int = 0) -> dict[str, Json]:
    return {"type": "array", "items": of, **({"minItems": least} if least else {})}


# How a value looks in the file: its type in words, and as JSON Schema. By the type that reads it.
SHAPES: list[tuple[Any, str, dict[str, Json]]] = [
    (values.Name, "name", {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,30}$"}),
    (values.Column, "column", TEXT),
    (values.Columns, "list of columns", _list(TEXT, 1)),
    (values.Text, "text", TEXT),
    (values.Texts, "list of texts", _list(TEXT)),
    (values.TableName, "table, as SQL writes it", TEXT),
    (values.ViewName, "name", {"type": "string", "pattern": "^backfill_[a-z0-9_]{1,50}$"}),
    (values.Flag, "true or false", {"type": "boolean"}),
    (values.Filters, "table: column = condition", {"$ref": "#/$defs/where"}),
    (values.Version, "text, number, true or false, or a day", VALUE),
    (values.Words, "list of two words", _list(TEXT, 2)),
    (values.Share, "number", {"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    (
        values.Span,
        "minutes, hours or days",
        {"type": "string", "pattern": "^[1-9][0-9]{0,4}[mhd]$"},
    ),
    (dict[str, values.Parameter], "table: name = parameter", _table(TEXT)),
    (
        dict[str, values.Range],
        "table: column = [lowest, highest]",
        _table({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
    ),
    (
        dict[values.ParameterName, values.Setting],
        "table: parameter = text, number, true or false, or a day",
        _table(VALUE),
    ),
    (form.Source, "table", {"$ref": "#/$defs/source"}),
    (form.Views, "table", {"$ref": "#/$defs/views"}),
    (form.Watch, "table", {"$ref": "#/$defs/watch"}),
    (tuple[form.Need, ...], "list of tables", _list({"$ref": "#/$defs/needs"})),
    (tuple[form.Component, ...], "list of tables", _list({"$ref": "#/$defs/component"}, 1)),
]


TABLES = {"": form.Declaration, **form.TABLES}


@dataclass(frozen=True, slots=True)
class KeyTold:
    """A key of the file. kind: of the table that it stands in, "" for the file itself."""

    kind: str
    name: str
    type: str
    shape: dict[str, Json]
    is_required: bool
    default: str
    told: Told


def keys_told() -> list[KeyTold]:
    """Every key, in the order of the classes."""
    return [one for kind in TOLD for one in _keys_of(kind)]


def _keys_of(kind: str) -> list[KeyTold]:
    types = get_type_hints(TABLES[kind], include_extras=True)
    found = []
    for one in fields(TABLES[kind]):
        name = "component" if one.name == "components" else one.name
        if name not in TOLD[kind]:
            raise LookupError(f"keys_told.py says nothing of the key {name} of [{kind}]")
        told = TOLD[kind][name]
        words, shape = _shape(types[one.name])
        is_open = one.default is MISSING and one.default_factory is MISSING
        default = told.default or ("" if one.default is MISSING else f"`{json.dumps(one.default)}`")
        is_required = is_open and told.default is None
        if name == "parameters":
            default = "none"
        found.append(KeyTold(kind, name, words, shape, is_required, default, told))
    return found


def _shape(kind: Any) -> tuple[str, dict[str, Json]]:
    """The words and the schema of a type. Raises LookupError for one that SHAPES does not have."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    for known, words, shape in SHAPES:
        if known == kind:
            return words, shape
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    for known, words, shape in SHAPES:
        if known == inner:
            return words, shape
    choices = get_args(inner)
    if choices and all(isinstance(c, str) for c in choices):
        return " or ".join(f"`{c}`" for c in choices), {"enum": list(choices)}
    raise LookupError(f"SHAPES does not say how {kind} looks in a file")


# What is made -----------------------------------------------------------------------------------


def schema() -> dict[str, Json]:
    """The JSON Schema."""
    kinds = {kind: _schema_of(kind) for kind in TOLD}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A target of backfill",
        **kinds.pop(""),
        "$defs": {**kinds, "where": WHERE},
    }


def _schema_of(kind: str) -> dict[str, Json]:
    keys = _keys_of(kind)
    return {
        "type": "object",
        "properties": {k.name: {"description": k.told.what, **k.shape} for k in keys},
        "required": [k.name for k in keys if k.is_required],
        "additionalProperties": False,
    }


def schema_text() -> str:
    """The file that is shipped."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def keys_table() -> str:
    """The table of `PAGE`."""
    rows = [
        f"| {_path(k)} | {k.told.what} | {k.type} | {'yes' if k.is_required else 'no'}"
        f" | {k.default} | `{k.told.example}` |".replace("`see `needs``", "see `needs`")
        for k in keys_told()
    ]
    head = "| key | what it is | type | required | default | example |"
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- |", *rows]) + "\n"


def _path(key: KeyTold) -> str:
    return f"`{key.kind}.{key.name}`" if key.kind else f"`{key.name}`"


def with_table(page: str) -> str:
    """The page with this table between its two comments."""
    head, _, rest = page.partition(BEGINS)
    _, _, tail = rest.partition(ENDS)
    return f"{head}{BEGINS}{keys_table()}{ENDS}{tail}"


def make() -> None:
    """Write both in a checkout."""
    SHIPPED.write_text(schema_text(), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    make()
