"""A run as the verbs return it: in a list, how it stands, how an apply ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SkipValidation

from backfill.calls import python_calls
from backfill.moments import moment
from backfill.render.markdown import SESSION, Called

Json = Any

Moment = Annotated[datetime, BeforeValidator(moment)]

RunState = Literal[
    "planning", "awaiting_approval", "approved", "running", "paused", "completed", "rejected",
    "cancelled", "expired", "rolled_back",
]  # fmt: skip
# How sessions are scored: a call per step, or per batch inside the database.
Mode = Literal["direct", "bulk"]
ITEM_STATES = ("pending", "leased", "done", "failed", "skipped", "rolled_back")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list."""

    run_id: str
    target: str
    state: RunState
    environment: str | None
    created_at: Moment
    total: int
    done: int
    failed: int
    reason: str | None = None
    approved_by: str | None = None

    def as_dict(self) -> dict[str, Json]:
        """All fields. Times are in ISO 8601."""
        return {**asdict(self), "created_at": self.created_at.isoformat()}


@dataclass(frozen=True, slots=True)
class NextStep:
    """What helps a run now: sql/30_run/causes.sql, in the words of the run.

    causes: that of the run's state first. decides: a person has to look or decide first. Otherwise
    what follows helps by itself. says: what helps, in sentences, or None. lines: to copy, commands
    and SQL for the SQL editor.
    """

    causes: tuple[str, ...]
    decides: bool
    says: str | None
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences, then the lines."""
        return "\n".join(filter(None, (self.says, *self.lines)))

    @property
    def calls(self) -> tuple[str, ...]:
        """The commands among the lines as Python calls of a connection `bf`."""
        return python_calls("\n".join(self.lines))

    def as_dict(self) -> dict[str, Json]:
        """{causes, decides, says, lines, calls}."""
        told = {"causes": list(self.causes), "decides": self.decides, "says": self.says}
        return told | {"lines": list(self.lines), "calls": list(self.calls)}


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands.

    counts: sessions by state. rate_per_minute: sessions per minute. eta_s: seconds to the end, None
    if that is unknown. audit_head: hash of the newest of audit_count events. unselected: skipped
    sessions that the target no longer selected. called: how its rows are called, one and several.
    cause: what kind of reason a pause has, as a code. left_behind: rows that an undo could not take
    back. next_step: what helps now. approved_via: sql, auth, service_key or standing. standing:
    {standing_id, covers, reason}: the standing approval that approved it, or why none covers it.
    pace_per_minute: starts per minute in force, None without a throttle. throttle_per_minute: those
    approved.
    """

    run_id: str
    state: RunState
    reason: str | None
    counts: Mapping[str, int]
    rate_per_minute: float
    eta_s: SkipValidation[float | None]  # a whole number stays one
    audit_count: int
    audit_head: str
    waits_for: str | None = None
    approved_by: str | None = None
    approved_until: Moment | None = None
    unselected: int = 0
    called: Called = SESSION
    cause: str | None = None
    left_behind: int = 0
    next_step: NextStep | None = None
    approved_via: str | None = None
    standing: Mapping[str, object] | None = None
    pace_per_minute: int | None = None
    throttle_per_minute: int | None = None

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
            "cause": self.cause,
            "called": list(self.called),
            "counts": dict(self.counts),
            "unselected": self.unselected,
            "rate_per_minute": self.rate_per_minute,
            "pace_per_minute": self.pace_per_minute,
            "throttle_per_minute": self.throttle_per_minute,
            "eta_s": self.eta_s,
            "waits_for": self.waits_for,
            "approved_by": self.approved_by,
            "approved_via": self.approved_via,
            "standing": dict(self.standing) if self.standing else None,
            "approved_until": self.approved_until.isoformat() if self.approved_until else None,
            "left_behind": self.left_behind,
            "audit": self.audit,
            "next": self.next_step.as_dict() if self.next_step else None,
        }


@dataclass(frozen=True, slots=True)
class FailedSession:
    """A session that failed, and why."""

    session_id: str
    failed_step: str | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an apply ended: the run's status then, and its failed sessions.

    retried: how many sessions a retry scored again, None after an apply.
    logs_failed: the first file that could not be written and why, None if all were.
    """

    status: Status
    failures: tuple[FailedSession, ...]
    retried: int | None = None
    logs_failed: str | None = None

    @property
    def state(self) -> RunState:
        """The run's state."""
        return self.status.state

    @property
    def is_complete(self) -> bool:
        """Whether the run completed and no session failed."""
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
