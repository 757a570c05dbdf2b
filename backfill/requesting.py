"""What a caller asks for, looked at before anything is sent.

A wrong type gets a sentence here, not an error deep inside. Bounds and names
are the database's to judge; this sees to types and emptiness alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

from backfill.errors import BadRequest
from backfill.models import Json

Day = str | date | datetime
# Other forms of ISO 8601 (20250831, 2025-W35) would be read as a moment, and the last day be lost.
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
FORMS = "give a day such as 2025-08-01, or a timestamp with an offset"
TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}")
DATES = ("since", "until", "recent_since")
NUMBERS = ("throttle_per_minute", "batch_size", "min_responses", "min_fc_responses", "rehearse")
TEXTS = (
    "engine_version",
    "fc_version",
    "basis",
    "environment",
    "target",
    "inferred",
    "mode",
    "like",
    "resume",
)


def checked_request(given: Mapping[str, Json]) -> dict[str, Json]:
    """The parameters that were given, in the form in which they are sent; None was not given.

    Raises BadRequest where one has a type that it cannot have, or is empty.
    """
    request = {name: value for name, value in given.items() if value is not None}
    for name in request.keys() & {*DATES}:
        request[name] = as_text(name, request[name])
    for name in request.keys() & {*NUMBERS}:
        checked_number(name, request[name])
    for name in request.keys() & {*TEXTS}:
        _check_text(name, request[name])
    if "priority" in request:
        request["priority"] = checked_ids("priority", request["priority"])
    if "want" in request:
        _check_want(request["want"])
    if "parameters" in request:
        _check_parameters(request["parameters"])
    return request


def as_text(name: str, value: Day | None) -> str | None:
    """A day as `2025-08-01`, a moment with its offset; None stays None.

    A moment without an offset is in UTC, as the days are, whatever zone this machine is in.
    Raises BadRequest where it is no date.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        return _aware(value).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return _parsed(name, value.strip())
    raise BadRequest(f"{name} is a date, not the {type(value).__name__} {str(value)[:40]!r}", FORMS)


def _parsed(name: str, text: str) -> str:
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text).isoformat()
        moment = datetime.fromisoformat(text if TIMESTAMP.match(text) else "")
        return _aware(moment).isoformat()
    except ValueError:
        raise BadRequest(
            f"{name} is no date: {text[:40]}",
            FORMS,
        ) from None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def checked_number(name: str, value: Json, *, least: int | None = None) -> int:
    """A whole number; True is none. Raises BadRequest."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(
            f"{name} is a whole number, not {_shown(value)}", f"give {name} as a number such as 5"
        )
    if least is not None and value < least:
        raise BadRequest(f"{name} is at least {least}, not {value}", f"give {name} as {least}")
    return value


def checked_ids(name: str, ids: Json) -> list[str] | None:
    """Ids as a list; one id alone is not a list of letters. Raises BadRequest."""
    if ids is None or isinstance(ids, str):
        return None if ids is None else [ids]
    listed = list(ids) if isinstance(ids, Iterable) else [ids]
    for one in listed:
        if not isinstance(one, str):
            raise BadRequest(
                f"{name} is a list of ids, not of {_shown(one)}", "give each id as a text"
            )
    return listed


def _check_want(want: Json) -> None:
    if not isinstance(want, Mapping):
        raise BadRequest(
            f"want is a version by component, not {_shown(want)}", 'want={"fc_scores": "v1.2"}'
        )
    for component, version in want.items():
        _check_text(f"the wanted version of {component}", version)


def _check_parameters(parameters: Json) -> None:
    if not isinstance(parameters, Mapping):
        raise BadRequest(
            f"parameters are values by name, not {_shown(parameters)}",
            'parameters={"min_words": 5}',
        )
    for name, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, int):
            _check_text(name, value)


def _check_text(name: str, value: Json) -> None:
    """An unset shell variable must not turn a guard off."""
    if not isinstance(value, str):
        raise BadRequest(f"{name} is a text, not {_shown(value)}", "put it in quotes")
    if not value.strip():
        raise BadRequest(f"{name} is empty", "leave it out, or give a value")


def _shown(value: object) -> str:
    """A value of a wrong type for a message: its type and the beginning of it."""
    return f"the {type(value).__name__} {str(value)[:40]!r}"
