"""What calls.jsonl and the batch files hold, from events or from the database. Pure."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import pairwise
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from backfill.api.faults import fault_of_api, fault_of_transport
from backfill.api.rows import adapter
from backfill.results.event import Event, EventKind
from backfill.results.run import Json
from backfill.results.sessions import PlannedSession, in_place

# What a record of a kind always holds. Null means unknown: the database keeps no durations.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "call": (
        "session_id", "component", "function", "attempt", "outcome", "code", "error", "took_ms",
    ),
    "batch_settled": ("batch", "claim", "settled", "took_ms"),
}  # fmt: skip
CALL_KEY = ("session_id", "component", "attempt")  # an attempt calls a component at most once
NO_EFFECT = "OB017"  # the call itself came back well
SORTED_CALLS = 50_000

EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)

Row = Mapping[str, Json]
T = TypeVar("T")


def record_of(event: Event) -> dict[str, Json]:
    """A line of calls.jsonl or a batch file, from an event that was seen or rebuilt."""
    told = event.as_dict()
    heading = {name: told[name] for name in ("kind", "run_id", "at")}
    return heading | dict.fromkeys(FIELDS[event.kind]) | told


def call_key(call: Row) -> tuple[Json, ...]:
    """The key of a call within its run."""
    return tuple(call.get(name) for name in CALL_KEY)


class Answered(NamedTuple):
    """A call that was made, since it left a receipt, undone or not. ordinal: of its session."""

    ordinal: int
    component: str
    attempt: int
    at: datetime


class AnsweredCalls:
    """The calls that left receipts, in columns: a large run has hundreds of thousands."""

    def __init__(self) -> None:
        self._ordinals, self._attempts, self._components = (array("i") for _ in range(3))
        self._ats_us = array("q")
        self._names: list[str] = []

    def add(self, receipts: Iterable[Row]) -> None:
        """Add the calls of some sessions, with all receipts of each. The last receipt counts."""
        calls = {(r["ordinal"], r["component"], r["attempt"]): r["at"] for r in receipts}
        for (ordinal, component, attempt), at in calls.items():
            if component not in self._names:
                self._names.append(component)
            self._ordinals.append(ordinal)
            self._components.append(self._names.index(component))
            self._attempts.append(attempt)
            self._ats_us.append((datetime.fromisoformat(at) - EPOCH) // MICROSECOND)

    def __iter__(self) -> Iterator[Answered]:
        """By time. Some are sorted at a time: sorting makes objects of all that it sorts."""
        cuts = sorted(self._ats_us[::SORTED_CALLS])
        for since, until in pairwise((-sys.maxsize, *cuts, sys.maxsize)):
            places = (p for p, at in enumerate(self._ats_us) if since <= at < until)
            for place in sorted(places, key=self._ats_us.__getitem__):
                yield Answered(
                    self._ordinals[place],
                    self._names[self._components[place]],
                    self._attempts[place],
                    EPOCH + self._ats_us[place] * MICROSECOND,
                )


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the database knows about a run's calls and batches.

    functions: scoring functions by component. answered: by time.
    """

    run_id: str
    functions: Mapping[str, str]
    sessions: Sequence[PlannedSession]
    answered: Iterable[Answered]

    def event(self, kind: EventKind, at: datetime, **details: Json) -> Event:
        """The event that a worker would have sent, as far as the database knows it."""
        return Event(kind, self.run_id, at, {**details, "rebuilt": True})

    def session(self, ordinal: int) -> PlannedSession:
        """The session in a place of the plan that is known to be there."""
        return self.sessions[ordinal - 1]


class Attempt(NamedTuple):
    """A session in a granted batch, and how that settled it."""

    ordinal: int
    number: int
    is_last: bool
    settled_at: str
    has_failed: bool
    step: str | None
    code: str | None

    def state(self, session: PlannedSession) -> str:
        """The state that settling gave the session."""
        if self.has_failed:
            return "failed"
        # A session that is done is never granted again nor pending. Any other was given back.
        is_done = self.is_last and session.state in ("done", "rolled_back")
        return "done" if is_done else "pending"

    def message(self, session: PlannedSession) -> str | None:
        """The error's message. The database keeps only that of a session's last failure."""
        return session.error_message if self.has_failed and self.is_last else None


class GrantedBatch(NamedTuple):
    """A batch as it was granted: its sessions, the number of each one's attempt.

    settled: which event settled each, 0 for none.
    """

    number: int
    claim: str
    ordinals: array[int]
    attempts: array[int]
    settled: array[int]


@dataclass(frozen=True, slots=True)
class _Granted:
    """What a batch_granted event tells."""

    number: int
    claim: str
    ordinals: list[Json]


@dataclass(frozen=True, slots=True)
class _Settled:
    """What a batch_settled event tells. failed: [session, step, code] each."""

    ordinals: list[Json]
    failed: list[tuple[str, str | None, str | None]] | None = None


def _read(kind: type[T], details: Json) -> T | None:
    try:
        told: T = adapter(kind).validate_python(details)
    except ValidationError:
        return None
    return told


class GrantedBatches:
    """Every batch in the chain, with what became of its sessions in it.

    In columns: a large run has hundreds of thousands. Events of another form than ours and sessions
    that do not exist, as in a forged chain, are skipped.
    """

    def __init__(self, sessions: Sequence[PlannedSession]) -> None:
        self._sessions = sessions
        self._batches: list[GrantedBatch] = []
        self._moments = [""]  # of the events that settled some
        self._failed: dict[tuple[int, int], tuple[str | None, str | None]] = {}
        # By ordinal, of the newest attempt: its number, its batch, its place there.
        self._attempts, self._newest, self._places = (
            array("I", bytes(array("I").itemsize * (len(sessions) + 1))) for _ in range(3)
        )

    def add(self, event: Row) -> None:
        """Add the next event {at, kind, details} of the chain."""
        if event["kind"] == "batch_granted":
            granted = _read(_Granted, event["details"])
            if granted is not None:
                self._grant(granted)
        elif event["kind"] == "batch_settled":
            settled = _read(_Settled, event["details"])
            if settled is not None:
                self._settle(event["at"], settled)

    def _planned(self, ordinals: Iterable[Json]) -> Iterator[int]:
        return (o for o in ordinals if isinstance(o, int) and 1 <= o <= len(self._sessions))

    def _grant(self, told: _Granted) -> None:
        batch = GrantedBatch(told.number, told.claim, *(array("I") for _ in range(3)))
        for ordinal in self._planned(told.ordinals):
            self._attempts[ordinal] += 1
            self._newest[ordinal], self._places[ordinal] = len(self._batches), len(batch.ordinals)
            batch.ordinals.append(ordinal)
            batch.attempts.append(self._attempts[ordinal])
            batch.settled.append(0)
        self._batches.append(batch)

    def _settle(self, at: str, told: _Settled) -> None:
        failed = {session_id: (step, code) for session_id, step, code in told.failed or ()}
        self._moments.append(at)
        for ordinal in self._planned(told.ordinals):
            if self._attempts[ordinal]:
                batch = self._batches[self._newest[ordinal]]
                batch.settled[self._places[ordinal]] = len(self._moments) - 1
                session_id = self._sessions[ordinal - 1].session_id if failed else ""
                if session_id in failed:
                    self._failed[ordinal, self._attempts[ordinal]] = failed[session_id]

    def __iter__(self) -> Iterator[tuple[GrantedBatch, list[Attempt]]]:
        """By number: each batch with those of its attempts that were settled."""
        for batch in self._batches:
            yield (
                batch,
                [
                    self._attempt(ordinal, number, settled)
                    for ordinal, number, settled in zip(
                        batch.ordinals, batch.attempts, batch.settled, strict=True
                    )
                    if settled
                ],
            )

    def _attempt(self, ordinal: int, number: int, settled: int) -> Attempt:
        step, code = self._failed.get((ordinal, number), (None, None))
        return Attempt(
            ordinal,
            number,
            number == self._attempts[ordinal],
            self._moments[settled],
            (ordinal, number) in self._failed,
            step,
            code,
        )


def rebuilt_calls(known: Evidence, batches: GrantedBatches) -> Iterator[Event]:
    """The calls that left a receipt, and those that failed their session, by time."""
    failed = {
        (attempt.ordinal, attempt.step, attempt.number): attempt
        for _, attempts in batches
        for attempt in attempts
        if attempt.step
    }
    for answered in known.answered if failed else ():
        # A row says more than a call without an answer.
        failed.pop((answered.ordinal, answered.component, answered.attempt), None)
    by_time = sorted((_failed_call(known, a) for a in failed.values()), key=_moment)
    by_receipt = (
        _answered_call(known, session, answered)
        for answered in known.answered
        if (session := in_place(known.sessions, answered.ordinal)) is not None
    )
    return merge(by_time, by_receipt, key=_moment)


def _moment(event: Event) -> datetime:
    return event.at


def rebuilt_batches(known: Evidence, batches: GrantedBatches) -> Iterator[Event]:
    """The granted batches by number, with those of their sessions that were settled."""
    for batch, attempts in batches:
        if attempts:
            yield known.event(
                "batch_settled",
                datetime.fromisoformat(attempts[-1].settled_at),
                batch=batch.number,
                claim=batch.claim,
                settled=[_settled(known, attempt) for attempt in attempts],
            )


def _settled(known: Evidence, attempt: Attempt) -> dict[str, Json]:
    session = known.session(attempt.ordinal)
    return {
        "ordinal": session.ordinal,
        "session_id": session.session_id,
        "state": attempt.state(session),
        "failed_step": attempt.step,
        "error_code": attempt.code,
        "error_message": attempt.message(session),
    }


def _failed_call(known: Evidence, attempt: Attempt) -> Event:
    session = known.session(attempt.ordinal)
    return known.event(
        "call",
        datetime.fromisoformat(attempt.settled_at),
        session_id=session.session_id,
        component=attempt.step,
        function=known.functions.get(attempt.step or ""),
        attempt=attempt.number,
        outcome=_outcome(attempt.code),
        code=attempt.code,
        error=attempt.message(session),
    )


def _outcome(code: str | None) -> str:
    """The outcome that a worker would have recorded for a call that failed with this code."""
    if code == NO_EFFECT:
        return "answered"
    fault = fault_of_transport("") if code == "transport" else fault_of_api(code, None, None)
    # A fault that would hit every session never fails one, so the code came from someone else.
    return "session" if fault.kind == "stop" else fault.kind


def _answered_call(known: Evidence, session: PlannedSession, answered: Answered) -> Event:
    return known.event(
        "call",
        answered.at,
        session_id=session.session_id,
        component=answered.component,
        function=known.functions.get(answered.component),
        attempt=answered.attempt,
        outcome="answered",
    )
