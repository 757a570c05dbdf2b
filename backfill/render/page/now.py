"""What a run is now, in a sentence and in a few figures: the top of its page. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfill.render.markdown import duration
from backfill.render.state import OVER, rate_line

if TYPE_CHECKING:
    from backfill.results.plan import Plan
    from backfill.results.verification import Verification

_SAID = {
    "empty": "Nothing to do",
    "planning": "Not sealed yet",
    "awaiting_approval": "Waits for approval",
    "approved": "Approved, not started",
    "running": "Running",
    "paused": "Paused",
    "completed": "Completed",
    "rejected": "Rejected",
    "cancelled": "Cancelled",
    "expired": "Expired",
    "rolled_back": "Undone",
}
_STATES = {
    "done": "done",
    "leased": "in work",
    "pending": "to do",
    "skipped": "skipped",
    "rolled_back": "undone",
}
_VERDICTS = {"pass": "ok", "partial": "warn", "fail": "fail"}
Tile = tuple[str, str, str]


def headline(plan: Plan) -> str:
    """Completed: 36 of 39 sessions done, 3 failed."""
    said = _SAID[plan.state]
    if not plan.figures:
        return said
    total = plan.called.counted(plan.candidates["total"])
    if plan.started_at is None:
        return f"{said}: {total}, {plan.expected_writes['total']:,} rows"
    counts = plan.counts
    undone, failed = counts["rolled_back"], counts["failed"]
    parts = [
        *([f"{undone:,} of {total} undone"] if undone else []),
        *([f"{counts['done']:,} of {total} done"] if not undone else []),
        *([f"{failed:,} failed"] if failed else []),
    ]
    return f"{said}: {', '.join(parts)}"


def tiles(plan: Plan, verification: Verification | None) -> list[Tile]:
    """(name, value, kind) of the figures that say how it stands.

    kind: ok, warn or fail if the figure needs a mark, else empty.
    """
    if not plan.figures:
        return []
    return _planned(plan) if plan.started_at is None else _became(plan, verification)


def _planned(plan: Plan) -> list[Tile]:
    throttle = plan.request.get("throttle_per_minute")
    return [
        (plan.called.many, f"{plan.candidates['total']:,}", ""),
        ("calls", f"{plan.expected_calls['total']:,}", ""),
        ("rows", f"{plan.expected_writes['total']:,}", ""),
        ("batches", f"{len(plan.batches):,}", ""),
        ("starts per minute", f"{throttle:,}", "") if throttle else ("throttle", "none", ""),
        _expected(plan),
    ]


def _expected(plan: Plan) -> Tile:
    rehearsed = plan.rehearsal.runtime_s if plan.rehearsal else None
    longest_s = plan.expected_runtime_s if rehearsed is None else rehearsed
    return ("expected", "not measured" if longest_s is None else duration(longest_s), "")


def _became(plan: Plan, verification: Verification | None) -> list[Tile]:
    """The states that have sessions, the time, and once the run is over the verdict."""
    is_over, counts = plan.state in OVER, plan.counts
    verdict = verification.verdict if verification and is_over else None
    return [
        (plan.called.many, f"{len(plan.sessions):,}", ""),
        *((name, f"{counts[state]:,}", "") for state, name in _STATES.items() if counts[state]),
        *([("failed", f"{counts['failed']:,}", "fail")] if counts["failed"] else []),
        ("took", duration(_took_s(plan)), "") if is_over else _expected(plan),
        *([] if is_over else [_rate(plan)]),
        *([("verdict", verdict, _VERDICTS[verdict])] if verdict else []),
    ]


def _rate(plan: Plan) -> Tile:
    """The starts per minute in force. Marked if somebody has lowered them."""
    approved = plan.request.get("throttle_per_minute")
    is_lowered = plan.pace_per_minute != approved
    return ("rate", rate_line(plan.pace_per_minute, approved), "warn" if is_lowered else "")


def _took_s(plan: Plan) -> float:
    """From the start to the last session that was settled."""
    settled = [s.settled_at for s in plan.sessions if s.settled_at]
    if plan.started_at is None or not settled:
        return 0.0
    return round((max(settled) - plan.started_at).total_seconds(), 1)
