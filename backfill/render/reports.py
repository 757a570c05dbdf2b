"""A run's summary and its verification as Markdown for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from backfill.render.markdown import (
    MARKS,
    NONE,
    SESSION,
    Called,
    agreed,
    bullets,
    code,
    counted,
    escaped,
    fenced,
    joined,
    section,
    table,
    utc,
)
from backfill.render.state import (
    counts_by_state,
    error_text,
    left_behind,
    next_step,
    rate_line,
    reason_line,
    state_title,
)

if TYPE_CHECKING:
    from backfill.results.run import FailedSession, Json, Status
    from backfill.results.verification import Verification

NAMED_SESSIONS = 20  # of the new candidates; --json has more


def summary_markdown(
    status: Status, verification: Verification | None, failures: Sequence[FailedSession]
) -> str:
    """How a run ended: its counts, its failed sessions, and the verdict if it was verified."""
    called = status.called
    verified = _verified(verification, called) if verification else "Not verified."
    return joined(
        f"# Backfill run {code(status.run_id)}",
        state_title(status.state),
        reason_line(status.reason),
        f"Waits for: {escaped(status.waits_for)}" if status.waits_for else "",
        _rate(status),
        counts_by_state({**status.counts, "total": status.total}, called),
        _approved(status),
        section(f"Failed {called.many}", _failures(failures, called)),
        verified,
        left_behind(verification.left_behind, called) if verification else "",
        _new_candidates(verification, called) if verification else "",
        section("Audit", _audit(status.audit_count, status.audit_head)),
        next_step(status.next_step),
    )


def _rate(status: Status) -> str:
    pace, approved = status.pace_per_minute, status.throttle_per_minute
    return "" if pace == approved else f"Rate: {rate_line(pace, approved)}."


def _approved(status: Status) -> str:
    if not status.approved_by:
        return ""
    return f"Approved by {escaped(status.approved_by)}, valid until {utc(status.approved_until)}."


def _failures(failures: Sequence[FailedSession], called: Called) -> str:
    rows = ((code(f.session_id), error_text(f)) for f in failures)
    return table((called.one_title, "Error"), rows) if failures else "None."


def _audit(count: int, head: str) -> str:
    return (
        f"{counted(count, 'event')}, head {code(head or NONE)}. "
        "Keep the head outside the database: a chain computed anew shows against it."
    )


def verification_markdown(verification: Verification, called: Called = SESSION) -> str:
    """The rows in the tables compared with the plan."""
    return joined(
        f"# Verification of run {code(verification.run_id)}",
        _verified(verification, called),
        left_behind(verification.left_behind, called),
        _new_candidates(verification, called),
        section("Audit", _audit(verification.audit_count, verification.audit_head)),
    )


def _verified(verification: Verification, called: Called) -> str:
    verdict = verification.verdict
    rows = (
        (MARKS[c.status], code(c.name), c.expected, c.actual, _shares(c.inserted, c.updated))
        for c in verification.criteria
    )
    critical = bullets(f"{MARKS['fail']} {escaped(what)}" for what in verification.critical)
    answered = bullets(escaped(str(answer)) for answer in verification.answered)
    return "\n\n".join(
        part
        for part in (
            f"## Verdict: {MARKS[verdict]} {verdict.upper()}",
            table(("", "Criterion", "Expected", "Counted", "Of these"), rows),
            f"**Critical**\n\n{critical}" if critical else "",
            f"**Answered**\n\n{answered}" if answered else "",
            _buckets(verification.buckets, called),
        )
        if part
    )


def _new_candidates(verification: Verification, called: Called) -> str:
    """The sessions that lack something and are not in the plan. Empty if there are none."""
    total, named = verification.new_candidates_total, verification.new_candidates[:NAMED_SESSIONS]
    if not total:
        return ""
    more = total - len(named)
    return section(
        "New candidates",
        f"{called.counted(total)} in the plan's range {agreed(total, 'lacks', 'lack')} "
        f"something now and {agreed(total, 'is', 'are')} not in the plan. "
        f"This run does not score {agreed(total, 'it', 'them')}.",
        bullets([*map(code, named), *([f"{more:,} more"] if more else [])]),
        "Next:",
        fenced("sh", f"backfill plan --like {verification.run_id}"),
    )


def _shares(inserted: int | None, updated: int | None) -> str:
    return "" if inserted is None else f"{inserted:,} new, {updated or 0:,} updated"


def _buckets(buckets: Mapping[str, Sequence[Mapping[str, Json]]], called: Called) -> str:
    """The count of each bucket, and the rows that are not as planned."""
    counts = table(
        ("Rows", "Count"), ((n.replace("_", " "), len(rows)) for n, rows in buckets.items())
    )
    besides = buckets.get("unplanned", ())
    odd = [
        (name.replace("_", " "), code(row["session_id"]), code(row["component"]))
        for name, rows in buckets.items()
        if name not in ("as_planned", "unplanned")
        for row in rows
    ]
    written = [
        (code(row["session_id"]), code(row["component"]), escaped(unplanned_in_words(row)))
        for row in besides
    ]
    listed = table(("Rows", called.one_title, "Component"), odd) if odd else ""
    told = (
        table((called.one_title, "Component", "Written besides the plan"), written)
        if written
        else ""
    )
    return "\n\n".join(filter(None, (counts, listed, told)))


def unplanned_in_words(row: Mapping[str, Json]) -> str:
    """What the run did to a row that its plan does not say: update, receipt 7, because why."""
    return f"{row['operation']}, receipt {row['receipt']}: {row['why']}"
