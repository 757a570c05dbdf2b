"""What each of our own functions answers: the one place that reads it.

An answer of another shape is none. Somebody on the way gave it, so the call is asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, ValidationError

from backfill.api.rows import adapter, another_form, differs_in
from backfill.results.run import Json

T = TypeVar("T")


class OddAnswer(Exception):
    """No function of ours answers so. It says what came instead."""


class Shape(Generic[T]):
    """The type of an answer."""

    def __init__(self, kind: Any, *keys: str) -> None:
        """keys: of an object. An answer without one of them is none of ours."""
        self._kind = kind
        self._keys = {*keys, *(f.name for f in fields(kind))} if is_dataclass(kind) else {*keys}

    def read(self, answer: Json) -> T:
        """The answer as that type. Raises OddAnswer, or NotInstalled for one of another version.

        That one has some of the fields that this version reads.
        """
        known = self._keys & answer.keys() if isinstance(answer, Mapping) else set()
        if self._keys and not known:
            raise OddAnswer(_in_words(answer))
        try:
            read: T = adapter(self._kind).validate_python(answer)
        except ValidationError as error:
            if not known:
                raise OddAnswer(_in_words(answer)) from None  # it may hold contents of rows
            raise another_form(differs_in(self._kind.__name__, error)) from None
        return read


def _in_words(answer: Json) -> str:
    """What kind of an answer it is. Nothing of what it says, which may be anything."""
    if isinstance(answer, str):
        return "a text"
    if isinstance(answer, list | dict):
        kind = "list" if isinstance(answer, list) else "object"
        return f"another {kind}" if answer else f"an empty {kind}"
    return "nothing" if answer is None else f"{type(answer).__name__}"


@dataclass(frozen=True, slots=True)
class HealNext:
    """The run that a heal works on. run_id: None if nothing is missing. state: None before it is
    opened with this request."""

    target: str
    run_id: str | None
    state: str | None
    request: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Started:
    """Of backfill_start: where the run stands now."""

    state: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """A scoring call to make. transport: rpc or edge. components: what it fills."""

    component: str
    components: list[str]
    function: str
    arguments: dict[str, Json]
    transport: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A session of a granted batch, and the fence under which it may be written."""

    ordinal: int
    session_id: str
    phase: str
    attempt: int
    fence: str
    steps: list[Step]


@dataclass(frozen=True, slots=True)
class Claim:
    """Of backfill_claim: the next batch, or why there is none. See sql/60_apply/claim.sql.

    bulk: make calls in bulk. sessions: how many the first of them asks for.
    """

    granted: list[Grant]
    state: str
    reason: str | None
    held_by: str | None
    batch: int
    ahead: bool
    lease_s: float
    bulk: bool = False
    sessions: int = 1
    wait_s: float = 0.0
    wait_for: str = ""
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """Of backfill_settle: what became of each session."""

    settled: list[dict[str, Json]]


@dataclass(frozen=True, slots=True)
class Looked:
    """Of backfill_bulk if a claim has to look first."""

    look: bool


@dataclass(frozen=True, slots=True)
class InBulk:
    """Of backfill_bulk: how many sessions came to what."""

    sessions: int
    took_ms: float
    alone: bool
    done: int = 0
    failed: int = 0
    pending: int = 0
    skipped: int = 0


_OBJECT = dict[str, Any]
STARTED: Shape[Started] = Shape(Started)
CLAIM: Shape[Claim] = Shape(Claim)
HEAL: Shape[HealNext] = Shape(HealNext)
SETTLED: Shape[Settled] = Shape(Settled)
BULK: Shape[Looked | InBulk] = Shape(Looked | InBulk)
RUN: Shape[dict[str, Json]] = Shape(_OBJECT, "run_id")
STANDING: Shape[dict[str, Json]] = Shape(_OBJECT, "standing_id")
RETRIED: Shape[dict[str, Json]] = Shape(_OBJECT, "sessions")
SEALED: Shape[dict[str, Json]] = Shape(_OBJECT, "state")
REHEARSED: Shape[dict[str, Json]] = Shape(_OBJECT, "took_ms")
PART: Shape[dict[str, Json]] = Shape(_OBJECT, "verification")
PREVIEW: Shape[dict[str, Json]] = Shape(_OBJECT, "undo_id")
UNDONE: Shape[dict[str, Json]] = Shape(_OBJECT, "remaining")
CONFLICTS: Shape[dict[str, Json]] = Shape(_OBJECT, "after")
COVERAGE: Shape[dict[str, Json]] = Shape(_OBJECT, "components")
FRESHNESS: Shape[dict[str, Json] | None] = Shape(_OBJECT | None)
WATCHED: Shape[dict[str, Json]] = Shape(_OBJECT, "targets")
HISTORY: Shape[dict[str, Json]] = Shape(_OBJECT, "applied")
CATALOG: Shape[dict[str, Json]] = Shape(_OBJECT, "relations")
RUN_ID: Shape[str] = Shape(
    Annotated[str, Field(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
)
IS_DONE: Shape[bool] = Shape(Annotated[bool, Field(strict=True)])
COUNT: Shape[int] = Shape(Annotated[int, Field(strict=True)])
NAMES: Shape[list[str]] = Shape(list[str])
LISTS: Shape[list[list[Json]]] = Shape(list[list[Any]])
ROWS: Shape[list[dict[str, Json]]] = Shape(list[_OBJECT])
