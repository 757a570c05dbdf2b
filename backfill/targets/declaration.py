"""Declared targets: a TOML file that says what a session is and what it may lack, read and checked.

Names are looked up by the database when the migration is applied; here the file's own form is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Literal, cast, get_args

from backfill.errors import BadRequest
from backfill.request import OWN
from backfill.results.run import Json
from backfill.targets.toml_parts import NAME, Part, Table, nearest

Transport = Literal["rpc", "edge"]
Receipts = Literal["exact", "inferred"]

PRISM = "prism"
EDGE_FUNCTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
# Of a request itself: no parameter of a target can have these names.
TAKEN = OWN | {"session_id"}


@dataclass(frozen=True, slots=True)
class Filter:
    """A column with the values that select a row, or whether it is null."""

    column: str
    values: tuple[str, ...] = ()
    is_null: bool | None = None

    def as_dict(self) -> dict[str, Json]:
        """{column, values} or {column, is_null}."""
        if self.is_null is not None:
            return {"column": self.column, "is_null": self.is_null}
        return {"column": self.column, "values": list(self.values)}


@dataclass(frozen=True, slots=True)
class Need:
    """Rows that scoring reads, by the session's key; the parameter says how many it takes."""

    name: str
    table: Table
    column: str
    parameter: str

    def as_dict(self, component: str | None) -> dict[str, Json]:
        """{name, schema, table, column, parameter, component: None where all need it}."""
        return {
            "name": self.name,
            **self.table.as_dict(),
            "column": self.column,
            "parameter": self.parameter,
            "component": component,
        }


@dataclass(frozen=True, slots=True)
class Component:
    """A derived thing that a session may lack: its table, and the function that writes it."""

    name: str
    table: Table
    session: str
    key: tuple[str, ...]
    version_column: str
    version: str
    version_parameter: str
    any_version_counts: bool
    matches: Mapping[str, str]
    transport: Transport
    function: str
    function_version: str | None
    receipts: Receipts
    arguments: Mapping[str, str]
    helpers: tuple[str, ...]
    after: tuple[str, ...]
    score_ranges: Mapping[str, tuple[float, float]]
    view: str
    needs: tuple[Need, ...]

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
    """A target: where its sessions are, which of them count, and what they may lack, in order."""

    target: str
    table: Table
    key: str
    date: str
    filters: tuple[Filter, ...]
    needs: tuple[Need, ...]
    index: str
    parameters: Mapping[str, str | int]
    candidates_view: str
    coverage_view: str
    components: tuple[Component, ...]

    def as_dict(self) -> dict[str, Json]:
        """As backfill_private.declare_target takes it, but for the names of the views."""
        return {
            "target": self.target,
            "source": {
                **self.table.as_dict(),
                "key": self.key,
                "date": self.date,
                "filters": [f.as_dict() for f in self.filters],
                "needs": [n.as_dict(component) for component, n in self.all_needs],
                "index": self.index,
            },
            "defaults": dict(self.parameters),
            "components": [c.as_dict() for c in self.components],
        }

    @property
    def all_needs(self) -> list[tuple[str | None, Need]]:
        """Every need, with the component that has it; None where every session does."""
        own = [(c.name, n) for c in self.components for n in c.needs]
        return [*((None, n) for n in self.needs), *own]


def declared(given: str) -> Declaration:
    """The target of a file, or PRISM by its name. Raises BadRequest with the line to correct."""
    if given == PRISM:
        return parse((files("backfill.targets") / "prism.toml").read_text(encoding="utf-8"))
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise BadRequest(
            f"{given} cannot be read: {why}", "backfill install --target FILE.toml"
        ) from error
    return parse(text)


def over_edge_functions(
    declared: Declaration, version: str, receipts: Receipts = "exact"
) -> Declaration:
    """The same target, scored by Edge Functions that are called as its SQL functions are."""
    return replace(
        declared,
        components=tuple(
            replace(
                c,
                transport="edge",
                function=c.function.partition("(")[0].rpartition(".")[2],
                function_version=version,
                receipts=receipts,
            )
            for c in declared.components
        ),
    )


def parse(text: str) -> Declaration:
    """A declaration out of TOML. Raises BadRequest."""
    try:
        root = Part("the declaration", tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"the declaration is no TOML: {error}", "correct it") from error
    target = root.name("target")
    source, views = root.part("source"), root.part("views", {})
    parameters = _parameters(root.part("parameters", {}))
    made = Declaration(
        target=target,
        table=source.table("table"),
        key=source.identifier("key"),
        date=source.identifier("date"),
        filters=_filters(source.part("where", {})),
        needs=_needs(source),
        index=source.identifier("index", f"backfill_{target}_sessions"),
        parameters=parameters,
        candidates_view=views.view("candidates", f"backfill_{target}_candidates"),
        coverage_view=views.view("coverage", f"backfill_{target}_daily_coverage"),
        components=tuple(_component(part, target) for part in root.parts("component")),
    )
    for part in (root, source, views):
        part.refuse_unknown()
    _check(made)
    return made


def _component(part: Part, target: str) -> Component:
    name = part.name("name")
    part.called = f"component {name}"
    transport = part.choice("transport", get_args(Transport), "rpc")
    made = Component(
        name=name,
        table=part.table("table"),
        session=part.identifier("session"),
        key=part.identifiers("key"),
        version_column=part.identifier("version_column"),
        version=part.text("version"),
        version_parameter=part.name("version_parameter", f"{name}_version"),
        any_version_counts=part.flag("any_version_counts"),
        matches=part.names("matches"),
        transport=cast(Transport, transport),
        function=part.text("function"),
        function_version=part.text("function_version") if transport == "edge" else None,
        receipts=cast(Receipts, part.choice("receipts", get_args(Receipts), "exact")),
        arguments=part.names("arguments"),
        helpers=part.texts("helpers"),
        after=part.texts("after"),
        score_ranges=_ranges(part),
        view=part.view("view", f"backfill_{target}_missing_{name}"),
        needs=_needs(part),
    )
    part.refuse_unknown()
    return made


def _needs(part: Part) -> tuple[Need, ...]:
    made = []
    for need in part.parts("needs", least=0):
        made.append(
            Need(
                need.text("name"),
                need.table("table"),
                need.identifier("column"),
                need.name("at_least"),
            )
        )
        need.refuse_unknown()
    return tuple(made)


def _filters(part: Part) -> tuple[Filter, ...]:
    return tuple(_filter(part, column, value) for column, value in part.given.items())


def _filter(part: Part, column: str, value: Json) -> Filter:
    if isinstance(value, dict) and value.keys() == {"is"} and value["is"] in ("null", "not null"):
        return Filter(column, is_null=value["is"] == "null")
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, str | bool | int) for v in values):
        raise part.wrong(column, 'is a value, a list of values, or { is = "null" }')
    return Filter(column, tuple(str(v).lower() if isinstance(v, bool) else str(v) for v in values))


def _parameters(part: Part) -> dict[str, str | int]:
    for name, value in part.given.items():
        if not NAME.fullmatch(name) or name in TAKEN:
            raise BadRequest(
                f"{name} cannot be the name of a parameter",
                "small letters, digits and _; none of a request's own: " + ", ".join(sorted(TAKEN)),
            )
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not is_number and not (isinstance(value, str) and value):
            raise part.wrong(name, "is a text, or a whole number from 0 on")
    return dict(part.given)


def _ranges(part: Part) -> dict[str, tuple[float, float]]:
    ranges = {}
    for column, bounds in part.part("score_ranges", {}).given.items():
        is_pair = (
            isinstance(bounds, list) and [type(b) in (int, float) for b in bounds] == [True] * 2
        )
        if not is_pair or not all(map(isfinite, bounds)) or bounds[0] > bounds[1]:
            raise part.wrong(f"score_ranges.{column}", "is [lowest, highest]")
        ranges[column] = (bounds[0], bounds[1])
    return ranges


def _check(made: Declaration) -> None:
    """What one part of a declaration says about another. Raises BadRequest."""
    names = [c.name for c in made.components]
    versions = [c.version_parameter for c in made.components]
    _refuse_twice("component", names)
    _refuse_twice("table", [c.table.name for c in made.components])
    _refuse_twice("version_parameter", versions)
    _refuse_twice(
        "view", [made.candidates_view, made.coverage_view, *(c.view for c in made.components)]
    )
    known = [*made.parameters, *versions]
    for version in versions:
        if version in TAKEN or version in made.parameters:
            raise BadRequest(
                f"{version} is a parameter already", "choose another version_parameter"
            )
    for need in (*made.needs, *(n for c in made.components for n in c.needs)):
        if not isinstance(made.parameters.get(need.parameter), int):
            raise BadRequest(
                f"needs {need.name}: {need.parameter} is no number of [parameters]"
                + nearest(need.parameter, made.parameters),
                f"[parameters] {need.parameter} = 1",
            )
    for place, component in enumerate(made.components):
        _check_component(component, known, names[:place])


def _check_component(component: Component, known: list[str], earlier: list[str]) -> None:
    called = f"component {component.name}"
    for parameter in (*component.matches.values(), *component.arguments.values()):
        if parameter not in known and parameter != "session_id":
            raise BadRequest(
                f"{called}: there is no parameter {parameter}" + nearest(parameter, known),
                "name it under [parameters]",
            )
    if "session_id" not in component.arguments.values():
        raise BadRequest(
            f"{called}: no argument takes the session_id", 'arguments = { … = "session_id" }'
        )
    for other in component.after:
        if other not in earlier:
            raise BadRequest(
                f"{called} comes after {other}, which is none before it" + nearest(other, earlier),
                "put the components into the order in which they are scored",
            )
    if component.transport == "edge" and not EDGE_FUNCTION.fullmatch(component.function):
        raise BadRequest(
            f"{called}: {component.function} is no name of an Edge Function", "its folder's name"
        )
    if component.transport == "rpc" and component.receipts == "inferred":
        raise BadRequest(f"{called}: receipts of rpc are exact", "leave receipts out")


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadRequest(f"two components have the {what} {name}", "one for each")
        seen.add(name)
