"""The parameters of a plan, each checked before anything is sent.

A wrong type gets a clear message here, not an error deep inside. Only types and emptiness are
checked. Bounds and names are for the database to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_type_hints

from backfill.errors import BadRequest

if TYPE_CHECKING:
    from backfill.results.run import Json

Day = str | date | datetime
# Other forms of ISO 8601 (20250831, 2025-W35) would be read as a moment and lose the last day.
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
FORMS = "give a day such as 2025-08-01, or a timestamp with an offset"
TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}")

Throttle = int | Literal["none"]  # session starts in any 60 s. No limit takes a word


def as_text(name: str, value: Day | None) -> str | None:
    """A day as `2025-08-01`, a moment with its offset, None as None.

    A moment without an offset is in UTC, as days are, in any time zone of this machine.
    Raises BadRequest if it is no date.
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
    """A whole number. True is none. Raises BadRequest."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(
            f"{name} is a whole number, not {_shown(value)}", f"give {name} as a number such as 5"
        )
    if least is not None and value < least:
        raise BadRequest(f"{name} is at least {least}, not {value}", f"give {name} as {least}")
    return value


def checked_throttle(name: str, value: Json) -> Throttle:
    """A whole number, or none by its name. Raises BadRequest."""
    if isinstance(value, str) and value != "none":
        raise BadRequest(f'{name} is a whole number or "none", not {_shown(value)}', f"{name}=20")
    return "none" if isinstance(value, str) else checked_number(name, value)


def checked_ids(name: str, ids: Json) -> list[str] | None:
    """Ids as a list. A single text is one id, not a list of letters. Raises BadRequest."""
    if ids is None or isinstance(ids, str):
        return None if ids is None else [ids]
    listed = list(ids) if isinstance(ids, Iterable) else [ids]
    for one in listed:
        if not isinstance(one, str):
            raise BadRequest(
                f"{name} is a list of ids, not of {_shown(one)}", "give each id as a text"
            )
    return listed


def checked_versions(_: str, want: Json) -> dict[str, str]:
    """Versions by component. Raises BadRequest."""
    if not isinstance(want, Mapping):
        raise BadRequest(
            f"want is a version by component, not {_shown(want)}", 'want={"invoice": "v3"}'
        )
    return {c: checked_text(f"the wanted version of {c}", version) for c, version in want.items()}


def checked_values(_: str, parameters: Json) -> dict[str, str | int]:
    """Texts and whole numbers by name. Raises BadRequest."""
    if not isinstance(parameters, Mapping):
        raise BadRequest(
            f"parameters are values by name, not {_shown(parameters)}",
            'parameters={"min_words": 5}',
        )
    return {name: _value(name, value) for name, value in parameters.items()}


def _value(name: str, value: Json) -> str | int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number else checked_text(name, value)


def checked_text(name: str, value: Json) -> str:
    """A text that is not empty: an unset shell variable must not turn a guard off.

    Raises BadRequest.
    """
    if not isinstance(value, str):
        raise BadRequest(f"{name} is a text, not {_shown(value)}", "put it in quotes")
    if not value.strip():
        raise BadRequest(f"{name} is empty", "leave it out, or give a value")
    return value


def _shown(value: object) -> str:
    """A value of a wrong type, for a message: its type and first characters."""
    return f"the {type(value).__name__} {str(value)[:40]!r}"


class Parameter(NamedTuple):
    """All about a parameter but its type.

    check: (name, value) to the value that is sent. Raises BadRequest.
    of: `request` has the same row in backfill_private.request_parameters. `target` belongs to the
    one target that has it. `client` is not sent.
    is_kept: a plan like another takes it over.
    default: sent if nothing is given.
    title: its name in a list of parameters. None if it is shown elsewhere.
    """

    check: Callable[[str, Any], Any]
    of: Literal["request", "target", "client"] = "request"
    is_kept: bool = False
    default: Any = None
    title: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The parameters of a plan. AsyncBackfill.plan says what each means.

    A field's name is its key in the JSON that is sent. None means not given. A plan lists its
    parameters in this order.
    """

    since: Annotated[Day | None, Parameter(as_text, is_kept=True)] = None
    until: Annotated[Day | None, Parameter(as_text, is_kept=True)] = None
    recent_since: Annotated[Day | None, Parameter(as_text)] = None
    engine_version: Annotated[
        str | None, Parameter(checked_text, "target", title="Engine version")
    ] = None
    fc_version: Annotated[str | None, Parameter(checked_text, "target", title="FC version")] = None
    basis: Annotated[str | None, Parameter(checked_text, "target", title="Basis")] = None
    throttle_per_minute: Annotated[
        Throttle | None, Parameter(checked_throttle, is_kept=True, default=20)
    ] = None
    batch_size: Annotated[int | None, Parameter(checked_number, is_kept=True)] = None
    priority: Annotated[Sequence[str] | None, Parameter(checked_ids, is_kept=True)] = None
    ids: Annotated[Sequence[str] | None, Parameter(checked_ids, is_kept=True)] = None
    limit: Annotated[int | None, Parameter(checked_number, is_kept=True, title="Limit")] = None
    environment: Annotated[str | None, Parameter(checked_text, is_kept=True)] = None
    target: Annotated[str | None, Parameter(checked_text, is_kept=True, title="Target")] = None
    want: Annotated[Mapping[str, str] | None, Parameter(checked_versions)] = None
    parameters: Annotated[Mapping[str, str | int] | None, Parameter(checked_values)] = None
    min_responses: Annotated[
        int | None, Parameter(checked_number, "target", title="Minimum responses")
    ] = None
    min_fc_responses: Annotated[
        int | None, Parameter(checked_number, "target", title="Minimum FC responses")
    ] = None
    inferred: Annotated[
        str | None, Parameter(checked_text, is_kept=True, title="Accepted with inferred receipts")
    ] = None
    mode: Annotated[str | None, Parameter(checked_text, is_kept=True, title="Mode")] = None
    rehearse: Annotated[int | None, Parameter(checked_number)] = None
    like: Annotated[str | None, Parameter(checked_text, "client")] = None
    resume: Annotated[str | None, Parameter(checked_text, "client")] = None

    def given(self) -> dict[str, Json]:
        """The parameters that were given, as they are sent.

        Raises BadRequest if one has a wrong type or is empty.
        """
        values = ((n, p, getattr(self, n)) for n, p in PARAMETERS.items())
        return {name: p.check(name, value) for name, p, value in values if value is not None}

    def sent(self, like: Mapping[str, Json]) -> dict[str, Json]:
        """The request as JSON: what was given wins over `like`, and that over the defaults.

        like: of like_request, or {}. Raises as given() does.
        """
        given = {n: v for n, v in self.given().items() if PARAMETERS[n].of != "client"}
        parameters = {**like.get("parameters", {}), **given.get("parameters", {})}
        return {**DEFAULTS, **like, **given, "parameters": parameters}


PARAMETERS: Mapping[str, Parameter] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Request, include_extras=True).items()
}
DEFAULTS = {name: p.default for name, p in PARAMETERS.items() if p.default is not None}
# What the database adds to a request.
DERIVED = ("since_at", "until_before")
# The names of the request itself. All others are parameters of its target.
OWN = frozenset({*DERIVED, *(name for name, p in PARAMETERS.items() if p.of != "target")})


def like_request(request: Mapping[str, Json], replaced: Iterable[str]) -> dict[str, Json]:
    """What another plan takes over from a run's request.

    replaced: parameters of the target that the other plan sets anew.
    """
    kept = {n: v for n, v in request.items() if n in OWN and n in PARAMETERS}
    others = request.keys() - OWN - {*replaced}
    return {n: v for n, v in kept.items() if PARAMETERS[n].is_kept} | {
        "parameters": {n: request[n] for n in others}
    }
