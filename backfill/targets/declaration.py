"""Declared targets: a TOML file that says what a session is and what it may lack, read and checked.

Each table of the file is a class that pydantic reads. Only the file's own form is checked here. The
database looks the names up when the migration is applied. The whole format on one page, with what
each key is and what it may hold, is target.schema.json, made from these classes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from backfill.errors import BadRequest
from backfill.results.run import Json
from backfill.targets.declaration_faults import contradictions, faults
from backfill.targets.declaration_values import (
    NAME,
    TAKEN,
    Column,
    Columns,
    Filters,
    Flag,
    Name,
    Parameter,
    ParameterName,
    Range,
    Setting,
    Share,
    Span,
    TableName,
    Text,
    Texts,
    Version,
    ViewName,
    Words,
    is_one_of,
)
from backfill.targets.filters import SpelledFloat

Transport = Literal["rpc", "edge"]
Receipts = Literal["exact", "inferred"]

PRISM = "prism"
# The targets that the package brings, by the names that install takes.
SHIPPED = {PRISM: "prism.toml", "prism-edge": "prism_edge.toml"}

# Unknown keys are refused.
STRICT = ConfigDict(extra="forbid")


# The tables of the file -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Need:
    """Rows that scoring reads, by the session's key. at_least: the parameter with their minimum."""

    __pydantic_config__ = STRICT

    name: Text
    table: TableName
    column: Column
    at_least: Name

    def as_dict(self, component: str | None) -> dict[str, Json]:
        """{name, schema, table, column, parameter, component: None if all need it}."""
        return {
            "name": self.name,
            **self.table.as_dict(),
            "column": self.column,
            "parameter": self.at_least,
            "component": component,
        }


@dataclass(frozen=True, slots=True)
class Source:
    """Where the sessions are, and which of them count. called: one of them, and several."""

    __pydantic_config__ = STRICT

    table: TableName
    key: Column
    date: Column
    index: Column | None = None
    where: Filters = ()
    needs: tuple[Need, ...] = ()
    called: Words = ("session", "sessions")


@dataclass(frozen=True, slots=True)
class Views:
    """The names of the views that are about all components."""

    __pydantic_config__ = STRICT

    candidates: ViewName
    coverage: ViewName


@dataclass(frozen=True, slots=True)
class Watch:
    """The service level: which share of the sessions has its rows, and how long after its date.

    within: seconds. over: only sessions of so many last seconds are judged, None for all dates.
    """

    __pydantic_config__ = STRICT

    min_coverage: Share
    within: Span
    over: Span | None = None

    def __post_init__(self) -> None:
        if self.over is not None and self.over <= self.within:
            raise ValueError("judges no session: over is no longer than within")

    def as_dict(self) -> dict[str, Json]:
        """{min_coverage, within_s, over_s}."""
        return {
            "min_coverage": self.min_coverage,
            "within_s": self.within,
            "over_s": self.over,
        }


@dataclass(frozen=True, slots=True)
class Component:
    """A derived thing that a session may lack: its table, and the function that writes it."""

    __pydantic_config__ = STRICT

    name: Name
    table: TableName
    session: Column
    key: Columns
    function: Text
    view: ViewName
    version_column: Column | None = None
    version: Version | None = None
    version_parameter: Name | None = None
    any_version_counts: Flag = False
    matches: dict[str, Parameter] = field(default_factory=dict)
    transport: Annotated[Transport, BeforeValidator(is_one_of(Transport))] = "rpc"
    function_version: Text | None = None
    receipts: Annotated[Receipts, BeforeValidator(is_one_of(Receipts))] = "exact"
    arguments: dict[str, Parameter] = field(default_factory=dict)
    helpers: Texts = ()
    after: Texts = ()
    fills: Texts = ()
    score_ranges: dict[str, Range] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()

    @property
    def bare_function(self) -> str:
        """The function's name without schema and arguments, as an Edge Function is named."""
        return self.function.partition("(")[0].rpartition(".")[2]

    def as_dict(self) -> dict[str, Json]:
        """As backfill_private.declare_target takes it."""
        return {
            "component": self.name,
            **self.table.as_dict(),
            "session": self.session,
            "key": list(self.key),
            "version_column": self.version_column,
            "version": self.version,
            "version_parameter": self.version_parameter,
            "any_version_counts": self.any_version_counts,
            "matches": dict(self.matches),
            "transport": self.transport,
            "function": self.function,
            "function_version": self.function_version,
            "receipts": self.receipts,
            "arguments": dict(self.arguments),
            "helpers": list(self.helpers),
            "needs_first": list(self.after),
            "score_ranges": {column: list(r) for column, r in self.score_ranges.items()},
        }


@dataclass(frozen=True, slots=True)
class Declaration:
    """A target: its sessions, and what they may lack, in order."""

    __pydantic_config__ = STRICT

    target: Name
    source: Source
    views: Views
    components: Annotated[tuple[Component, ...], Field(alias="component", min_length=1)]
    parameters: dict[ParameterName, Setting] = field(default_factory=dict)
    watch: Watch | None = None

    def as_dict(self) -> dict[str, Json]:
        """As backfill_private.declare_target takes it, without the names of the views."""
        return {
            "target": self.target,
            "source": {
                **self.source.table.as_dict(),
                "key": self.source.key,
                "date": self.source.date,
                "filters": [f.as_dict() for f in self.source.where],
                "needs": [n.as_dict(component) for component, n in self.needs],
                "index": self.index_name,
                "called": list(self.source.called),
                "builds_index": self.source.index is not None,
            },
            "defaults": dict(self.parameters),
            "components": [c.as_dict() for c in self.components],
            **({} if self.watch is None else {"watch": self.watch.as_dict()}),
        }

    @property
    def index_name(self) -> str:
        """Of the index that helps detection. Only one that is declared becomes a migration."""
        return self.source.index or f"backfill_{self.target}_sessions"

    @property
    def needs(self) -> list[tuple[str | None, Need]]:
        """Every need with the component that has it, None if every session has it."""
        own = [(c.name, n) for c in self.components for n in c.needs]
        return [*((None, n) for n in self.source.needs), *own]


FILE = TypeAdapter(Declaration)
TABLES = {
    "source": Source,
    "views": Views,
    "component": Component,
    "needs": Need,
    "watch": Watch,
}
# The keys of each kind of table. "" is the file itself.
KEYS = {kind: [f.name for f in fields(table)] for kind, table in TABLES.items()}
KEYS[""] = ["target", "source", "views", "component", "parameters", "watch"]


# Reading ----------------------------------------------------------------------------------------


def declared(given: str) -> Declaration:
    """The target of a file, or one of SHIPPED. Raises BadRequest with the line to correct."""
    if given in SHIPPED:
        return parse((files("backfill.targets") / SHIPPED[given]).read_text(encoding="utf-8"))
    return parse(text_of(given))


def text_of(given: str) -> str:
    """The text of a file. Raises BadRequest if it cannot be read."""
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadRequest(
            f"{given} cannot be read: {why}",
            f"backfill install --target FILE.toml, or one of {', '.join(SHIPPED)}",
        ) from error


def over_edge_functions(
    declared: Declaration, version: str, receipts: Receipts = "exact"
) -> Declaration:
    """The same target, scored by Edge Functions named like its SQL functions.

    version: the function_version that every component declares.
    """
    return replace(
        declared,
        components=tuple(
            replace(
                c,
                transport="edge",
                function=c.bare_function,
                function_version=version,
                receipts=receipts,
            )
            for c in declared.components
        ),
    )


def parse(text: str) -> Declaration:
    """A declaration from TOML. Raises BadRequest for the first of its faults."""
    try:
        return read(tomllib.loads(text, parse_float=SpelledFloat))
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"the declaration is not TOML: {error}", "correct it") from error


def read(file: Mapping[str, Json]) -> Declaration:
    """The same from the tables of the file."""
    given = with_names(file)
    try:
        made = FILE.validate_python(given)
    except ValidationError as error:
        raise next(faults(error, given, KEYS)) from error
    for contradiction in contradictions(made, TAKEN):
        raise contradiction
    return made


def with_names(given: Mapping[str, Json]) -> dict[str, Json]:
    """The file, completed with the names that are made from others if it does not give them."""
    target = _known(given, "target")
    views = {
        "candidates": f"backfill_{target}_candidates",
        "coverage": f"backfill_{target}_daily_coverage",
    }
    filled = {"component": [], **given, "views": _filled(given.get("views", {}), views)}
    if isinstance(filled["component"], list):
        components = _with_shared_calls(filled["component"])
        filled["component"] = [_component_with_names(c, target) for c in components]
    return filled


# What a component takes from the one whose call fills it, if it does not say it itself.
SHARED = ("function", "transport", "function_version", "receipts", "arguments", "helpers")


def _with_shared_calls(given: list[Json]) -> list[Json]:
    """The components, each completed with the call of the one that fills it."""
    filled_by = {
        name: c
        for c in given
        if isinstance(c, dict) and isinstance(c.get("fills"), list)
        for name in c["fills"]
        if isinstance(name, str) and name != c.get("name")
    }
    return [
        _filled(c, _shared(filled_by[c["name"]], c))
        if isinstance(c, dict) and isinstance(c.get("name"), str) and c["name"] in filled_by
        else c
        for c in given
    ]


def _shared(filler: Mapping[str, Json], own: Mapping[str, Json]) -> dict[str, Json]:
    """The call, and the version that it is made with unless this component has another."""
    call = {key: filler[key] for key in SHARED if key in filler}
    if "version" not in filler or own.get("version", filler["version"]) != filler["version"]:
        return call
    parameter = filler.get("version_parameter", f"{filler.get('name')}_version")
    return {**call, "version": filler["version"], "version_parameter": parameter}


def _component_with_names(given: Json, target: str) -> Json:
    name = _known(given, "name")
    view = f"backfill_{target}_missing_{name}"
    is_versioned = isinstance(given, dict) and "version" in given
    version = {"version_parameter": f"{name}_version"} if is_versioned else {}
    return _filled(given, {**version, "view": view})


def _filled(given: Json, names: Mapping[str, str]) -> Json:
    return {**names, **given} if isinstance(given, dict) else given


def _known(given: Json, key: str) -> str:
    """A name that others are made from. If it is no valid name, only that fault is reported."""
    name = given.get(key) if isinstance(given, dict) else None
    return name if isinstance(name, str) and NAME.fullmatch(name) else "x"
