"""What calls.jsonl and the batch files hold, from events or from the database. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import merge
from typing import NamedTuple

from backfill.api.faults import fault_of_api, fault_of_transport
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

EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)

Row = Mapping[str, Json]


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
        self._ordinals, self._attempts, self._components = (array("q") for _ in range(3))
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
        """By time."""
        for place in sorted(range(len(self._ats_us)), key=self._ats_us.__getitem__):
            yield Answered(
                self._ordinals[place],
                self._names[self._components[place]],
                self._attempts[place],
                EPOCH + self._ats_us[place] * MICROSECOND,
            )


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the database knows about a run's calls and batches.

    functions: scoring functions by component. chain: the events {at, kind, details} by seq.
    answered: by time.
    """

    run_id: str
    functions: Mapping[str, str]
    sessions: Sequence[PlannedSession]
    chain: Sequence[Row]
    answered: Iterable[Answered]

    def event(self, kind: EventKind, at: datetime, **details: Json) -> Event:
        """The event that a worker would have sent, as far as the database knows it."""
        return Event(kind, self.run_id, at, {**details, "rebuilt": True})

    def session(self, ordinal: int) -> PlannedSession:
        """The session in a place of the plan that is known to be there."""
        return self.sessions[ordinal - 1]


@dataclass(slots=True)
class Attempt:
    """A session in a granted batch. settled_at: None until it is settled."""

    ordinal: int
    number: int
    is_last: bool = True
    settled_at: str | None = None
    has_failed: bool = False
    step: str | None = None
    code: str | None = None

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


@dataclass(frozen=True, slots=True)
class GrantedBatch:
    """A batch as it was granted, with what became of its sessions in it."""

    number: int
    claim: str
    attempts: Sequence[Attempt]


def granted_batches(known: Evidence) -> list[GrantedBatch]:
    """Every batch in the chain. Sessions that do not exist, as in a forged one, are skipped."""
    failed = _places_of_failed(known)
    newest: dict[int, Attempt] = {}
    batches = []
    for event in known.chain:
        told = event["details"]
        if event["kind"] == "batch_granted":
            there = [o for o in told["ordinals"] if _is_planned(known, o)]
            granted = tuple(_granted(newest, ordinal) for ordinal in there)
            batches.append(GrantedBatch(told["number"], told["claim"], granted))
        elif event["kind"] == "batch_settled":
            for attempt in (newest.get(ordinal) for ordinal in told["ordinals"]):
                if attempt is not None:
                    attempt.settled_at = event["at"]
            for session_id, step, code in told["failed"] or ():
                attempt = newest.get(failed.get(session_id, 0))  # ordinals begin at 1
                if attempt is not None:
                    attempt.has_failed, attempt.step, attempt.code = True, step, code
    return batches


def _is_planned(known: Evidence, ordinal: Json) -> bool:
    """Whether a place that the chain names is one of the plan. A forged event may hold anything."""
    return isinstance(ordinal, int) and in_place(known.sessions, ordinal) is not None


def _granted(newest: dict[int, Attempt], ordinal: int) -> Attempt:
    """The next attempt of a session, which is the newest from now on."""
    before = newest.get(ordinal)
    if before is not None:
        before.is_last = False
    newest[ordinal] = Attempt(ordinal, before.number + 1 if before is not None else 1)
    return newest[ordinal]


def _places_of_failed(known: Evidence) -> dict[str, int]:
    """The ordinals of the sessions that the chain says failed, by their ids: few of many."""
    named = {
        session_id
        for event in known.chain
        if event["kind"] == "batch_settled"
        for session_id, *_ in event["details"]["failed"] or ()
    }
    return {s.session_id: s.ordinal for s in known.sessions if s.session_id in named}


def rebuilt_calls(known: Evidence, batches: Iterable[GrantedBatch]) -> Iterator[Event]:
    """The calls that left a receipt, and those that failed their session, by time."""
    failed = {
        (attempt.ordinal, attempt.step, attempt.number): attempt
        for batch in batches
        for attempt in batch.attempts
        if attempt.settled_at and attempt.step
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


def rebuilt_batches(known: Evidence, batches: Iterable[GrantedBatch]) -> Iterator[Event]:
    """The granted batches by number, with those of their sessions that were settled."""
    for batch in batches:
        moments = [a.settled_at for a in batch.attempts if a.settled_at]
        if moments:
            yield known.event(
                "batch_settled",
                datetime.fromisoformat(moments[-1]),
                batch=batch.number,
                claim=batch.claim,
                settled=[_settled(known, a) for a in batch.attempts if a.settled_at],
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
        datetime.fromisoformat(str(attempt.settled_at)),
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
