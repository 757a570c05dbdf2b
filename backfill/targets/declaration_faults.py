"""The faults of a declaration: one sentence per fault, with its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from backfill.errors import BadRequest
from backfill.results.run import Json

if TYPE_CHECKING:
    from backfill.targets.declaration import Component, Declaration

Place = tuple[str | int, ...]
EDGE_FUNCTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
CORRECT = "correct the declaration"
NEAR = 0.5  # the least share of two names that is the same: a name further away was not meant
# Tables that a message names by themselves. Others are named by their key in the table around them.
SINGLE = ("source", "views", "where", "parameters", "watch")
# Sentences for shapes that pydantic refuses. For a value, its check gives the sentence.
SHAPES = {
    "dataclass_type": "is a table of its own",
    "dict_type": "is a table of its own",
    "tuple_type": "is a list of tables",
    "too_short": "is a list of tables",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that names what may have been meant. "" if nothing is near."""
    found = difflib.get_close_matches(name, list(known), 1, NEAR)
    return f"; the nearest is {found[0]}" if found else ""


# Each by itself ---------------------------------------------------------------------------------


def faults(
    error: ValidationError, given: Json, keys: Mapping[str, Sequence[str]]
) -> Iterator[BadRequest]:
    """Each fault that pydantic found, in the order of the classes.

    given: the file. keys: of each kind of table, "" for the file itself.
    """
    found = error.errors()
    names = _names({one["loc"] for one in found}, given)
    for one in found:
        yield _fault(one["type"], one["loc"], one.get("ctx", {}), names, keys)


def _names(places: Collection[Place], given: Json) -> dict[Place, str]:
    """The place of a component -> its name, unless that has a fault."""
    return {
        place[:2]: given["component"][place[1]]["name"]
        for place in places
        if place[0] == "component" and len(place) > 2 and (*place[:2], "name") not in places
    }


def _fault(
    kind: str,
    place: Place,
    context: Mapping[str, Any],
    names: Mapping[Place, str],
    keys: Mapping[str, Sequence[str]],
) -> BadRequest:
    if isinstance(place[-1], int):
        kind, place = "tuple_type", place[:-1]
    if place[-1] == "[key]":
        what, advice = context["error"].args
        return BadRequest(f"{place[-2]} {what}", advice)
    table, called, key = _told(place, names)
    if kind == "missing":
        return BadRequest(f"{called} needs {key}", f"{key} = …")
    if kind == "unexpected_keyword_argument":
        return BadRequest(f"{called} has no {key}{nearest(key, sorted(keys[table]))}", CORRECT)
    return BadRequest(
        f"{called}: {key} {context.get('error') or SHAPES.get(kind, 'has another form')}", CORRECT
    )


def _told(place: Place, names: Mapping[Place, str]) -> tuple[str, str, str]:
    """The kind of table that holds a value, this table's name in messages, the value's key."""
    table, called, key = "", "the declaration", ""
    for at, step in enumerate(place[:-1]):
        if isinstance(step, int):
            table = str(place[at - 1])
            named = names.get(place[: at + 1])
            called = f"component {named}" if named else f"{called}, {table} {step + 1}"
        elif step in SINGLE:
            table = called = step
        elif not isinstance(place[at + 1], int):
            key = f"{step}."
    return table, called, f"{key}{place[-1]}"


# One against another ----------------------------------------------------------------------------


def contradictions(made: Declaration, taken: Collection[str]) -> Iterator[BadRequest]:
    """The contradictions between parts of a declaration.

    taken: names that no parameter may have.
    """
    names = [c.name for c in made.components]
    versions = [c.version_parameter for c in made.components if c.version_parameter is not None]
    yield from _twice("component", names)
    yield from _of_tables(made)
    yield from _of_calls(made.components, names)
    yield from _twice("version_parameter", _version_parameters(made.components))
    views = (made.views.candidates, made.views.coverage, *(c.view for c in made.components))
    yield from _twice("view", views)
    for version in versions:
        if version in taken or version in made.parameters:
            yield BadRequest(
                f"{version} is a parameter already", "choose another version_parameter"
            )
    for _, need in made.needs:
        if not isinstance(made.parameters.get(need.at_least), int):
            yield BadRequest(
                f"needs {need.name}: {need.at_least} is no number of [parameters]"
                + nearest(need.at_least, made.parameters),
                f"[parameters] {need.at_least} = 1",
            )
    known = [*made.parameters, *versions]
    for place, component in enumerate(made.components):
        yield from _of_component(component, known, names[:place], made.source.key)


def _of_component(
    component: Component, known: Sequence[str], earlier: Sequence[str], source_key: str
) -> Iterator[BadRequest]:
    called = f"component {component.name}"
    yield from _of_transport(component, called)
    yield from _of_version(component, called)
    # What people call the version and the session's key, if they do not know our names.
    ours: dict[str | None, str | None] = {
        **(
            dict.fromkeys(("version", component.version_column), component.version_parameter)
            if component.version_parameter
            else {}
        ),
        **dict.fromkeys(("id", "session", "key", component.session, source_key), "session_id"),
    }
    for table, given in (("matches", component.matches), ("arguments", component.arguments)):
        for name, parameter in given.items():
            if parameter not in known and parameter != "session_id":
                meant, to_do = nearest(parameter, known), "name it under [parameters]"
                if parameter in ours:
                    meant = f"; it is called {ours[parameter]} here"
                    to_do = f'{table} = {{ {name} = "{ours[parameter]}" }}'
                yield BadRequest(
                    f"{called}: {table}.{name}: there is no parameter {parameter}{meant}", to_do
                )
    given_now = [
        p if p in (*known, "session_id") else ours.get(p, p) for p in component.arguments.values()
    ]
    if "session_id" not in given_now:
        yield BadRequest(
            f"{called}: no argument takes the session_id", 'arguments = { … = "session_id" }'
        )
    for other in component.after:
        if other not in earlier:
            yield BadRequest(
                f"{called} comes after {other}, which is not declared before it"
                + nearest(other, earlier),
                "put the components into the order in which they are scored",
            )


def _of_tables(made: Declaration) -> Iterator[BadRequest]:
    """Two components in one table that no column of their keys tells apart."""
    for one, other in combinations(made.components, 2):
        matched = one.matches.keys() & other.matches.keys() & {*one.key} & {*other.key}
        values = made.parameters
        if one.table == other.table and not any(
            values.get(one.matches[c]) != values.get(other.matches[c]) for c in matched
        ):
            yield BadRequest(
                f"components {one.name} and {other.name} are both in {one.table.schema}."
                f"{one.table.name}, and no column of their keys tells them apart",
                "matches = { COLUMN = … } in both, each with a parameter of another value",
            )


def _call_of(component: Component) -> tuple[object, ...]:
    """What two components have in common if one call fills both."""
    return component.transport, component.function, tuple(sorted(component.arguments.items()))


def _version_parameters(components: Sequence[Component]) -> list[str]:
    """Their names. One that components with the same call and version share comes once."""
    shared = {
        (c.version_parameter, c.version, *_call_of(c)): c.version_parameter for c in components
    }
    return [name for name in shared.values() if name is not None]


def _of_calls(components: Sequence[Component], names: Sequence[str]) -> Iterator[BadRequest]:
    """The faults of components that share a call."""
    for component in components:
        called = f"component {component.name}"
        for name in component.fills:
            if name not in names:
                yield BadRequest(
                    f"{called} fills {name}, which is no component{nearest(name, names)}", CORRECT
                )
                continue
            other = components[names.index(name)]
            if _call_of(other) != _call_of(component):
                yield BadRequest(
                    f"{called} fills {name}, which has another function or other arguments",
                    f"leave function and arguments of {name} out",
                )
    for place, component in enumerate(components):
        first = next(n for n, c in enumerate(components) if _call_of(c) == _call_of(component))
        for earlier in component.after:
            is_between = earlier in names[first:place]
            if is_between and _call_of(components[names.index(earlier)]) != _call_of(component):
                yield BadRequest(
                    f"component {component.name} comes after {earlier}, but the call of "
                    f"{names[first]} fills it, and that is made first",
                    f"leave {earlier} out of its after",
                )


def _of_version(component: Component, called: str) -> Iterator[BadRequest]:
    if component.version is not None:
        return
    if component.version_column is not None:
        yield BadRequest(f"{called} needs version", "version = …, or leave version_column out")
    if component.version_parameter is not None:
        yield BadRequest(f"{called} has a version_parameter and no version", "version = …")


def _of_transport(component: Component, called: str) -> Iterator[BadRequest]:
    if component.transport == "edge":
        if component.function_version is None:
            yield BadRequest(f"{called} needs function_version", "function_version = …")
        if not EDGE_FUNCTION.fullmatch(component.function):
            yield BadRequest(
                f"{called}: {component.function} is no name of an Edge Function",
                "its folder's name",
            )
        return
    if component.function_version is not None:
        yield BadRequest(f"{called} has no function_version", 'leave it out, or transport = "edge"')
    if component.receipts == "inferred":
        yield BadRequest(f"{called}: receipts of rpc are exact", "leave receipts out")


def _twice(what: str, names: Sequence[str]) -> Iterator[BadRequest]:
    for place, name in enumerate(names):
        if name in names[:place]:
            yield BadRequest(f"two components have the {what} {name}", "one for each")
