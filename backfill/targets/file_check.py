"""All faults of a file that declares a target: of its form, and those that a database finds.

The first fault does not hide the others. What cannot be read is replaced, and what follows from
that is not told.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any

from pydantic import ValidationError

from backfill.errors import BadRequest
from backfill.results.run import Json
from backfill.results.target import FileFault
from backfill.targets.declaration import FILE, KEYS, Declaration, with_names
from backfill.targets.declaration_faults import CORRECT, contradictions, faults, nearest
from backfill.targets.declaration_values import TAKEN
from backfill.targets.lines import Place, line_of, lines_of

# Each round repairs what the last one laid open: a table, its keys, their values.
ROUNDS = 8
# What is wrong with the first may be a consequence of the others.
CONSEQUENCES = {
    "key": ("session", "version_column", "matches"),
    "version": ("version_column",),
    "function": ("transport",),
    "arguments": ("function", "transport"),
}
INSTEAD = "left_out_"


@dataclass(frozen=True)
class Form:
    """A file as far as it can be read. made: None if it is no TOML, or of another form altogether.

    replaced: the places whose value is none of the file's.
    """

    made: Declaration | None
    errors: tuple[FileFault, ...]
    lines: dict[Place, int]
    replaced: frozenset[Place] = frozenset()

    def fault(self, place: Place, message: str, next_step: str = "") -> FileFault:
        """A fault with its line."""
        return FileFault(line_of(self.lines, place), where_of(place), message, next_step)

    def found(self, answers: Sequence[Mapping[str, Json]]) -> tuple[FileFault, ...]:
        """The faults that a database found, without those that a replaced value brought."""
        needs = [] if self.made is None else _places_of_needs(self.made)
        placed = [(_place_in_file(answer["place"], needs), answer) for answer in answers]
        return tuple(
            self.fault(place, answer["message"], _better(answer["next"] or ""))
            for place, answer in placed
            # What has no place follows from what the file contradicts.
            if not self._follows(place) and (place or not self.errors)
        )

    def with_folder(self, functions: Sequence[str]) -> tuple[FileFault, ...]:
        """The Edge Functions that the working folder does not have, though it has a near name."""
        if self.made is None or not functions:
            return ()
        return tuple(
            self.fault(
                ("component", n, "function"),
                f"there is no Edge Function {c.function} in the folder of functions{near}",
            )
            for n, c in enumerate(self.made.components)
            if c.transport == "edge" and c.function not in functions
            if (near := nearest(c.function, functions))
        )

    def _follows(self, place: Place) -> bool:
        causes = {place[:n] for n in range(1, len(place) + 1)}
        for n, step in enumerate(place):
            causes |= {(*place[:n], other) for other in CONSEQUENCES.get(str(step), ())}
        return bool(causes & self.replaced)


def form_of(text: str) -> Form:
    """Read a file, with every fault of its form."""
    try:
        file = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        return Form(None, (FileFault(line, "", f"the file is not TOML: {error}"),), {})
    given = with_names(deepcopy(file))
    told, replaced = _repaired(given)
    try:
        made = FILE.validate_python(given)
    except ValidationError:
        made = None
    form = Form(made, (), lines_of(text), frozenset(replaced))
    if made is not None:
        told += [
            (place, fault)
            for fault in contradictions(made, TAKEN)
            if INSTEAD not in str(fault) and not form._follows(place := _named_in(fault, file))
        ]
    errors = tuple(form.fault(place, f.message, _better(f.next_step)) for place, f in told)
    return Form(made, errors, form.lines, form.replaced)


def where_of(place: Place) -> str:
    """A place as a person writes it: component[0].key."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return "".join(steps).removeprefix(".")


def in_order(errors: Sequence[FileFault]) -> tuple[FileFault, ...]:
    """By line, each once."""
    return tuple(sorted(dict.fromkeys(errors), key=lambda e: (e.line, e.where)))


def _better(next_step: str) -> str:
    """What is to be done, if that is more than to correct the file."""
    return "" if next_step.startswith(CORRECT) else next_step


# What cannot be read ----------------------------------------------------------------------------


def _repaired(given: dict[str, Any]) -> tuple[list[tuple[Place, BadRequest]], set[Place]]:
    """The faults of the form, and the places that were then replaced. Changes the file."""
    told = [(_without_mark(place), fault) for place, _, fault in _faults_of(given)]
    replaced: set[Place] = set()
    numbers = count(1)
    for _ in range(ROUNDS):
        for place, kind, _ in list(_faults_of(given)):
            _replace(given, place, kind, next(numbers))
            replaced.add(_without_mark(place))
    return told, replaced


def _faults_of(given: Mapping[str, Any]) -> Iterator[tuple[Place, str, BadRequest]]:
    """Place, kind and sentence of each fault of the form."""
    try:
        FILE.validate_python(given)
    except ValidationError as error:
        found = [(one["loc"], one["type"]) for one in error.errors()]
        for (place, kind), fault in zip(found, faults(error, given, KEYS), strict=True):
            # A list is called too short if none of its items can be read.
            is_told = any(p != place and p[: len(place)] == place for p, _ in found)
            if kind != "too_short" or not is_told:
                yield place, kind, fault


def _without_mark(place: Place) -> Place:
    """pydantic marks the place of a key. The place of its value is meant."""
    return place[:-1] if place[-1] == "[key]" else place


def _replace(given: dict[str, Any], place: Place, kind: str, number: int) -> None:
    """Put something that can be read in the place of what cannot, or leave an own key out."""
    holder: Any = given
    *around, last = _without_mark(place)
    for step in around:
        holder = holder[step]
    if kind == "unexpected_keyword_argument" or place[-1] == "[key]":
        del holder[last]
        return
    is_own_key = isinstance(last, str) and last in {key for keys in KEYS.values() for key in keys}
    if is_own_key and last in holder:
        del holder[last]  # its default may do
        return
    text = f"{INSTEAD}{number}"
    values: tuple[Any, ...] = (1, text, f"backfill_{text}", {}, [text], [{}])
    for instead in values:
        holder[last] = instead
        if place not in {other for other, _, _ in _faults_of(given)}:
            return


# Where a fault stands ---------------------------------------------------------------------------


def _places_of_needs(made: Declaration) -> list[Place]:
    """The place of each need, in the order in which the database counts them."""
    own: list[Place] = [
        ("component", n, "needs", place)
        for n, component in enumerate(made.components)
        for place in range(len(component.needs))
    ]
    return [*(("source", "needs", place) for place in range(len(made.source.needs))), *own]


def _place_in_file(place: Sequence[str], needs: Sequence[Place]) -> Place:
    """A place that the database told, as the file has it."""
    if place[:1] == ["needs"]:
        return (*needs[int(place[1])], *place[2:])
    return tuple(int(step) if n == 1 and step.isdigit() else step for n, step in enumerate(place))


def _named_in(fault: BadRequest, file: Mapping[str, Json]) -> Place:
    """The place of a contradiction, by the component and the key that its sentence names."""
    components = [c if isinstance(c, dict) else {} for c in file.get("component", [])]
    twice = re.match(r"two components have the (\w+) (.*)", fault.message)
    for n, component in reversed([*enumerate(components)]):
        if twice and twice[2] in str(component.get(twice[1], "")):
            return ("component", n, twice[1])
        if fault.message.startswith(f"component {component.get('name')}"):
            return ("component", n, *_key_in(fault.message, component))
    return next((p for p in _texts(file) if _is_named(fault.message, str(_at(file, p)))), ())


def _key_in(message: str, component: Mapping[str, Json]) -> Place:
    dotted = re.search(r": (\w+)\.(\w+)", message)
    if dotted:
        return (dotted[1], dotted[2])
    return next(((key,) for key in component if key != "name" and _is_named(message, key)), ())


def _is_named(message: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message) is not None


def _texts(value: Json, place: Place = ()) -> Iterator[Place]:
    """The places of all texts of a file."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, (*place, key))


def _at(value: Any, place: Place) -> Json:
    for step in place:
        value = value[step]
    return value
