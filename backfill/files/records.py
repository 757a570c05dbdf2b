"""What calls.jsonl and the batch files hold, from events or from the database. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from backfill.api.faults import fault_of_api, fault_of_transport
from backfill.results.event import Event, EventKind
from backfill.results.run import Json
from backfill.results.sessions import PlannedSession

# What a record of a kind always holds. Null means unknown: the database keeps no durations.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "call": (
        "session_id", "component", "function", "attempt", "outcome", "code", "error", "took_ms",
    ),
    "batch_settled": ("batch", "claim", "settled", "took_ms"),
}  # fmt: skip
CALL_KEY = ("session_id", "component", "attempt")  # an attempt calls a component at most once
NO_EFFECT = "OB017"  # the call itself came back well

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
    """A call that was made, since it left a receipt, undone or not."""

    session_id: str
    component: str
    attempt: int
    at: str

    @classmethod
    def by(cls, receipt: Row) -> Answered:
        """The call that left a receipt."""
        return cls(*(receipt[name] for name in cls._fields))


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the database knows about a run's calls and batches.

    functions: scoring functions by component. chain: the events {at, kind, details} by seq.
    """

    run_id: str
    functions: Mapping[str, str]
    sessions: Sequence[PlannedSession]
    chain: Sequence[Row]
    answered: Sequence[Answered]

    def event(self, kind: EventKind, at: str, **details: Json) -> Event:
        """The event that a worker would have sent, as far as the database knows it."""
        return Event(kind, self.run_id, datetime.fromisoformat(at), {**details, "rebuilt": True})


@dataclass(slots=True)
class Attempt:
    """A session in a granted batch. settled_at: None until it is settled."""

    session: PlannedSession
    number: int
    is_last: bool = True
    settled_at: str | None = None
    has_failed: bool = False
    step: str | None = None
    code: str | None = None

    @property
    def state(self) -> str:
        """The state that settling gave the session."""
        if self.has_failed:
            return "failed"
        # A session that is done is never granted again nor pending. Any other was given back.
        is_done = self.is_last and self.session.state in ("done", "rolled_back")
        return "done" if is_done else "pending"

    @property
    def message(self) -> str | None:
        """The error's message. The database keeps only that of a session's last failure."""
        return self.session.error_message if self.has_failed and self.is_last else None


@dataclass(frozen=True, slots=True)
class GrantedBatch:
    """A batch as it was granted, with what became of its sessions in it."""

    number: int
    claim: str
    attempts: Sequence[Attempt]


def granted_batches(known: Evidence) -> list[GrantedBatch]:
    """Every batch in the chain. Sessions that do not exist, as in a forged one, are skipped."""
    by_ordinal = {session.ordinal: session for session in known.sessions}
    by_id = {session.session_id: session.ordinal for session in known.sessions}
    numbers: Counter[int] = Counter()
    newest: dict[int, Attempt] = {}
    batches = []
    for event in known.chain:
        told = event["details"]
        if event["kind"] == "batch_granted":
            ordinals = [ordinal for ordinal in told["ordinals"] if ordinal in by_ordinal]
            for ordinal in ordinals:
                if ordinal in newest:
                    newest[ordinal].is_last = False
                numbers[ordinal] += 1
                newest[ordinal] = Attempt(by_ordinal[ordinal], numbers[ordinal])
            granted = tuple(newest[ordinal] for ordinal in ordinals)
            batches.append(GrantedBatch(told["number"], told["claim"], granted))
        elif event["kind"] == "batch_settled":
            for attempt in (newest.get(ordinal) for ordinal in told["ordinals"]):
                if attempt is not None:
                    attempt.settled_at = event["at"]
            for session_id, step, code in told["failed"] or ():
                attempt = newest.get(by_id.get(session_id, 0))  # ordinals begin at 1
                if attempt is not None:
                    attempt.has_failed, attempt.step, attempt.code = True, step, code
    return batches


def rebuilt_calls(known: Evidence) -> list[Event]:
    """The calls that left a receipt, and those that failed their session, by time."""
    calls = {}
    for attempt in (a for batch in granted_batches(known) for a in batch.attempts):
        if attempt.settled_at and attempt.step:
            call = _failed_call(known, attempt, attempt.settled_at)
            calls[call_key(call.details)] = call
    for answered in known.answered:  # a row says more than a call without an answer
        call = _answered_call(known, answered)
        calls[call_key(call.details)] = call
    return sorted(calls.values(), key=lambda call: call.at)


def rebuilt_batches(known: Evidence) -> Iterator[Event]:
    """The granted batches by number, with those of their sessions that were settled."""
    for batch in granted_batches(known):
        moments = [a.settled_at for a in batch.attempts if a.settled_at]
        if moments:
            yield known.event(
                "batch_settled",
                moments[-1],
                batch=batch.number,
                claim=batch.claim,
                settled=[_settled(a) for a in batch.attempts if a.settled_at],
            )


def _settled(attempt: Attempt) -> dict[str, Json]:
    return {
        "ordinal": attempt.session.ordinal,
        "session_id": attempt.session.session_id,
        "state": attempt.state,
        "failed_step": attempt.step,
        "error_code": attempt.code,
        "error_message": attempt.message,
    }


def _failed_call(known: Evidence, attempt: Attempt, at: str) -> Event:
    return known.event(
        "call",
        at,
        session_id=attempt.session.session_id,
        component=attempt.step,
        function=known.functions.get(attempt.step or ""),
        attempt=attempt.number,
        outcome=_outcome(attempt.code),
        code=attempt.code,
        error=attempt.message,
    )


def _outcome(code: str | None) -> str:
    """The outcome that a worker would have recorded for a call that failed with this code."""
    if code == NO_EFFECT:
        return "answered"
    fault = fault_of_transport("") if code == "transport" else fault_of_api(code, None, None)
    # A fault that would hit every session never fails one, so the code came from someone else.
    return "session" if fault.kind == "stop" else fault.kind


def _answered_call(known: Evidence, answered: Answered) -> Event:
    return known.event(
        "call",
        answered.at,
        session_id=answered.session_id,
        component=answered.component,
        function=known.functions.get(answered.component),
        attempt=answered.attempt,
        outcome="answered",
    )
