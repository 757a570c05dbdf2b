"""A rehearsal: what was seen when a few sessions were scored and rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from backfill.results.run import FailedSession, Json


@dataclass(frozen=True, slots=True)
class RehearsedSession:
    """A session that was scored and rolled back while planning. took_ms: of its calls, or None."""

    session_id: str
    category: str
    phase: str
    took_ms: float | None
    failure: FailedSession | None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was seen when a few sessions were scored and rolled back.

    rows: {table: {before, after, inserted, updated, deleted}}, over these sessions. p50_ms, p95_ms:
    time of a session's calls in the database, without the first session. None if all failed.
    round_trip_ms: time of a call outside the database. runtime_s: expected time until the run's
    last row, from these times and the throttle, with four sessions at a time. alone: in bulk each
    session needs a transaction of its own.
    """

    sessions: tuple[RehearsedSession, ...]
    rows: Mapping[str, Mapping[str, int]]
    p50_ms: float | None
    p95_ms: float | None
    round_trip_ms: float | None
    runtime_s: float | None
    alone: bool

    def as_dict(self) -> dict[str, Json]:
        """The fields by name. A session's failure is {session_id, failed_step, …} or None."""
        return {**asdict(self), "sessions": [asdict(s) for s in self.sessions]}


def rehearsal_of(seen: Mapping[str, Json]) -> Rehearsal:
    """A rehearsal as the database keeps it: sql/40_plan/rehearsal_marks.sql."""
    took_ms = seen["took_ms"] or {}
    return Rehearsal(
        sessions=tuple(_rehearsed(s) for s in seen["sessions"]),
        rows=seen["rows"] or {},
        p50_ms=took_ms.get("p50"),
        p95_ms=took_ms.get("p95"),
        round_trip_ms=seen["round_trip_ms"],
        runtime_s=seen["runtime_s"],
        alone=seen["alone"],
    )


def _rehearsed(seen: Mapping[str, Json]) -> RehearsedSession:
    session_id, error = seen["session_id"], seen["error"]
    return RehearsedSession(
        session_id=session_id,
        category=seen["category"],
        phase=seen["phase"],
        took_ms=seen["took_ms"],
        failure=error and FailedSession(session_id, error["step"], error["code"], error["message"]),
    )
