"""An event: what `on_event` hears."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from backfill.results.run import Json

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
    "coverage_breached",
    "coverage_restored",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run or a target: what `on_event` hears and the logger writes.

    Kinds and the keys of their details are stable. A key may be added. The details are ids, counts
    and reasons, never a row's contents. The logger `backfill` names an event `backfill.<kind>`.

    awaiting_approval: digest, environment, sessions_total, expected_runtime_s, approval_sql
    run_started: state
    freshness: filled_total, unselected_total, replacing_total, new_candidates_total, changes,
    digest_matches, approval_left_s
    batch_started: batch, phase, sessions
    call: session_id, component, function, attempt, outcome, code, error, took_ms
    batch_settled: batch, claim, settled, took_ms
    bulk_settled: sessions, done, failed, pending, skipped, took_ms
    waiting: wait_s, wait_for, why
    run_completed: reason
    run_paused: reason
    run_cancelled: reason
    run_expired: reason
    coverage_breached: target, coverage, min_coverage, within_s, wanted, missing, short_by,
    oldest_missing_at, alert_id, is_new
    coverage_restored: target, coverage, min_coverage, within_s, wanted, missing

    sessions of batch_started is a list of ids. settled is a list of {ordinal, session_id, state,
    failed_step, error_code, error_message}. outcome is `answered` or the kind of the fault.
    run_paused comes when `apply` ends with Paused. A pause that is waited out is `waiting`.
    coverage_breached and coverage_restored are about a target, so their run_id is empty. The first
    is told by each look that finds a breach, with is_new if that look opened the alert. The second
    is told by the look that closed it.
    freshness comes once, before the first batch, with the fields of Freshness. changes is a list of
    {kind, name, was, now}.
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


OnEvent = Callable[[Event], None]


# Called with (done, total) after each of several calls.
OnProgress = Callable[[int, int], None]


def ignore(*_: object) -> None:
    """Do nothing about an event, progress or a wait."""
