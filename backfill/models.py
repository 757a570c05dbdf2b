"""What the verbs return: frozen, typed, each with `as_dict()` in the shape that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import SkipValidation

from backfill.dates import Moment

Json = Any
MarkStatus = Literal["ok", "warn", "fail"]
Verdict = Literal["pass", "partial", "fail"]
EventKind = Literal[
    "awaiting_approval",
    "run_started",
    "freshness",
    "batch_started",
    "call",
    "batch_settled",
    "bulk_settled",
    "waiting",
    "run_completed",
    "run_paused",
    "run_cancelled",
    "run_expired",
]

ITEM_STATES = ("pending", "leased", "done", "failed", "skipped", "rolled_back")


@dataclass(frozen=True, slots=True)
class Check:
    """One mark: what was looked at, how it stands, what was seen, what to do about it."""

    name: str
    status: MarkStatus
    detail: str
    next_step: str = ""

    def as_dict(self) -> dict[str, Json]:
        """{name, status, detail} and next where there is something to do."""
        shown = {"name": self.name, "status": self.status, "detail": self.detail}
        return {**shown, "next": self.next_step} if self.next_step else shown


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list."""

    run_id: str
    state: str
    environment: str | None
    created_at: Moment
    total: int
    done: int
    failed: int
    reason: str | None = None
    approved_by: str | None = None

    def as_dict(self) -> dict[str, Json]:
        """All fields; times in ISO 8601."""
        return {**asdict(self), "created_at": self.created_at.isoformat()}


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands. counts by item state; rate in sessions a minute; eta in seconds."""

    run_id: str
    state: str
    reason: str | None
    counts: Mapping[str, int]
    rate_per_minute: float
    eta_s: SkipValidation[float | None]  # a whole number stays one
    audit_count: int
    audit_head: str
    waits_for: str | None = None
    approved_by: str | None = None
    approved_until: Moment | None = None

    @property
    def total(self) -> int:
        """All planned sessions."""
        return sum(self.counts.values())

    @property
    def audit(self) -> Mapping[str, Json]:
        """{count, head} of the audit chain."""
        return {"count": self.audit_count, "head": self.audit_head}

    def as_dict(self) -> dict[str, Json]:
        """The shape of `backfill status --json`."""
        return {
            "run_id": self.run_id,
            "state": self.state,
            "reason": self.reason,
            "counts": dict(self.counts),
            "rate_per_minute": self.rate_per_minute,
            "eta_s": self.eta_s,
            "waits_for": self.waits_for,
            "approved_by": self.approved_by,
            "approved_until": self.approved_until.isoformat() if self.approved_until else None,
            "audit": self.audit,
        }


@dataclass(frozen=True, slots=True)
class FailedSession:
    """A session that failed, and why."""

    session_id: str
    failed_step: str | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Effect:
    """Something else that a plan's writes set off, or that refers to the rows.

    kind: trigger, webhook, publication, foreign key, materialized view, generated column, sequence,
    policy, cron job or function. events: how often this plan causes it; None: cannot be told.
    """

    kind: str
    name: str
    table: str | None
    detail: str
    events: int | None


@dataclass(frozen=True, slots=True)
class RehearsedSession:
    """A session that was scored and rolled back while planning; took_ms of its calls."""

    session_id: str
    category: str
    phase: str
    took_ms: float | None
    failure: FailedSession | None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was seen when a few sessions were scored and rolled back.

    rows: {table: {before, after, inserted, updated, deleted}}, over these sessions. p50_ms, p95_ms:
    of a session's calls in the database, the first session left out; None where all failed.
    round_trip_ms: what a call takes beside the database. runtime_s: what the run will take to its
    last row, from all these and the throttle, four sessions at a time.
    """

    sessions: tuple[RehearsedSession, ...]
    rows: Mapping[str, Mapping[str, int]]
    p50_ms: float | None
    p95_ms: float | None
    round_trip_ms: float | None
    runtime_s: float | None

    def as_dict(self) -> dict[str, Json]:
        """The fields by name; a session's failure is {session_id, failed_step, …} or None."""
        return {**asdict(self), "sessions": [asdict(s) for s in self.sessions]}


@dataclass(frozen=True, slots=True)
class Change:
    """A definition or a setting that is not what it was when the plan was sealed.

    kind: definition or setting. was, now: a definition's fingerprint, a setting's value; None where
    there was or is none.
    """

    kind: str
    name: str
    was: str | None
    now: str | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """What changed since a plan was sealed.

    filled: pending sessions that somebody else has filled; they will be skipped. new_candidates:
    sessions in the plan's range that lack something now and are in no plan of this run. Of both
    1,000 at most are named. approval_left_s: until the approval runs out; None without one.
    """

    run_id: str
    state: str
    filled: tuple[str, ...]
    filled_total: int
    new_candidates: tuple[str, ...]
    new_candidates_total: int
    changes: tuple[Change, ...]
    digest_matches: bool
    approved_until: Moment | None
    approval_left_s: float | None

    @property
    def is_fresh(self) -> bool:
        """Nothing changed, and the approval, where there is one, has not run out."""
        changed = self.filled_total or self.new_candidates_total or self.changes
        return not changed and self.digest_matches and self.approval_left_s != 0

    def as_dict(self) -> dict[str, Json]:
        """The fields by name; times in ISO 8601."""
        until = self.approved_until
        return {**asdict(self), "approved_until": until.isoformat() if until else None}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an apply ended: the run's status then, and its failed sessions.

    retried: how many sessions a retry scored again; None after an apply.
    logs_failed: the first file that could not be written, and why; None where all were.
    """

    status: Status
    failures: tuple[FailedSession, ...]
    retried: int | None = None
    logs_failed: str | None = None

    @property
    def state(self) -> str:
        """The run's state."""
        return self.status.state

    @property
    def is_complete(self) -> bool:
        """Completed, and no session failed."""
        return self.state == "completed" and not self.failures

    def as_dict(self) -> dict[str, Json]:
        """The status, failures: [{session_id, failed_step, …}], logs_failed, retried."""
        retried = {} if self.retried is None else {"retried": self.retried}
        return {
            **self.status.as_dict(),
            "failures": [asdict(f) for f in self.failures],
            "logs_failed": self.logs_failed,
            **retried,
        }


@dataclass(frozen=True, slots=True)
class Criterion:
    """Expected against counted."""

    name: str
    expected: int
    actual: int
    status: Literal["pass", "fail"]
    inserted: int | None = None
    updated: int | None = None

    def as_dict(self) -> dict[str, Json]:
        """{name, expected, actual, status}, and inserted and updated where rows are counted."""
        return {k: v for k, v in asdict(self).items() if v is not None}


@dataclass(frozen=True, slots=True)
class Verification:
    """What stands in the tables against what was planned.

    buckets: as_planned, missing, extra, filled_elsewhere, changed_since; each a sequence of
    {session_id, component}, made as it is read. new_candidates: sessions in the plan's range that
    lack something now and are not in the plan, the newest first, 1,000 at most; they do not touch
    the verdict.
    inferred: rows whose receipts nobody saw written: they differed when the session was settled.
    """

    run_id: str
    state: str
    verdict: Verdict
    criteria: tuple[Criterion, ...]
    buckets: Mapping[str, Sequence[Mapping[str, Json]]]
    critical: tuple[str, ...]
    audit_count: int
    audit_head: str
    new_candidates: tuple[str, ...] = ()
    new_candidates_total: int = 0
    inferred: int = 0

    def as_dict(self) -> dict[str, Json]:
        """The shape of `backfill verify --json`."""
        return {
            "run_id": self.run_id,
            "state": self.state,
            "verdict": self.verdict,
            "criteria": [c.as_dict() for c in self.criteria],
            "buckets": {name: list(rows) for name, rows in self.buckets.items()},
            "critical": list(self.critical),
            "audit": {"count": self.audit_count, "head": self.audit_head},
            "new_candidates": list(self.new_candidates),
            "new_candidates_total": self.new_candidates_total,
            "inferred": self.inferred,
        }


@dataclass(frozen=True, slots=True)
class UndoEffect:
    """What an undo would do, or did: rows by table, and the rows in conflict that are left.

    sessions: those that lose a row. inferred: rows, in a preview, whose receipts are inferred.
    was_finished: it had been carried out before it was confirmed this time, by whom and when
    `confirmed_by` and `finished_at` say.
    """

    run_id: str
    digest: str
    deletes: Mapping[str, int]
    restores: Mapping[str, int]
    conflicts: tuple[Mapping[str, Json], ...]
    sessions: int = 0
    state: str = "previewed"
    confirmed_by: str | None = None
    finished_at: Moment | None = None
    was_finished: bool = False
    inferred: int = 0

    @property
    def is_preview(self) -> bool:
        """Nothing has been done."""
        return self.state == "previewed"

    @property
    def is_empty(self) -> bool:
        """No row that could be taken back."""
        return not any((*self.deletes.values(), *self.restores.values()))

    @property
    def confirming(self) -> str | None:
        """The command that carries this preview out; None where there is nothing to undo."""
        if not self.is_preview or self.is_empty:
            return None
        return f'backfill rollback {self.run_id} --confirm {self.digest} --reason "…"'

    def as_dict(self) -> dict[str, Json]:
        """The shape of `backfill rollback --json`: a preview's `next` confirms it, if anything."""
        carried_out = {
            "was_finished": self.was_finished,
            "confirmed_by": self.confirmed_by,
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
        }
        return {
            "run_id": self.run_id,
            "state": self.state,
            "digest": self.digest,
            "sessions": self.sessions,
            "deletes": dict(self.deletes),
            "restores": dict(self.restores),
            "inferred": self.inferred,
            "conflicts": [dict(c) for c in self.conflicts],
            **({"next": self.confirming} if self.is_preview else carried_out),
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run: what `on_event` hears and the logger writes.

    Kinds and the keys of their details are stable; a key may be added. Ids, counts and reasons,
    never a row's contents. `backfill.<kind>` is the name in the log, under the logger `backfill`.

    awaiting_approval: digest, environment, sessions_total, expected_runtime_s, approval_sql
    run_started: state
    freshness: filled_total, new_candidates_total, changes, digest_matches, approval_left_s
    batch_started: batch, phase, sessions
    call: session_id, component, function, attempt, outcome, code, error, took_ms
    batch_settled: batch, claim, settled, took_ms
    bulk_settled: sessions, done, failed, pending, skipped, took_ms
    waiting: wait_s, wait_for, why
    run_completed: reason
    run_paused: reason
    run_cancelled: reason
    run_expired: reason

    sessions and settled are lists: of ids, and of {ordinal, session_id, state, failed_step,
    error_code, error_message}. outcome: `answered`, or the kind of the fault. run_paused comes
    where `apply` ends with Paused; a pause that is waited out is `waiting`. freshness comes once,
    before the first batch: what Freshness says; changes is a list of {kind, name, was, now}.
    """

    kind: EventKind
    run_id: str
    at: datetime
    details: Mapping[str, Json]

    def as_dict(self) -> dict[str, Json]:
        """{kind, run_id, at, …details}."""
        return {
            "kind": self.kind,
            "run_id": self.run_id,
            "at": self.at.isoformat(),
            **self.details,
        }
