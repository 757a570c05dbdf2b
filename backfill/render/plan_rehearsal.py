"""What the rehearsal saw as Markdown: its marks, rows before and after, time, sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from backfill.render.markdown import MARKS, NONE, Called, code, duration, escaped, section, table
from backfill.render.state import error_text

if TYPE_CHECKING:
    from backfill.results.check import Check
    from backfill.results.plan import Plan
    from backfill.results.rehearsal import RehearsedSession

MARKED = "rehearsal: "  # the names of its marks begin so
# Of Edge Functions, which cannot be rehearsed.
NOT_MEASURED = "not measured"
NOT_REHEARSED = "not rehearsed"
AT_A_TIME = 4  # the sessions that `apply` scores at once by default
ONLY_TWICE = (
    "scored twice and undone in a transaction that was rolled back: nothing of it stays, but "
    "numbers drawn from sequences and calls out of the database."
)


def rehearsal(plan: Plan) -> str:
    """What happened when a few sessions were scored and everything was rolled back."""
    seen = plan.rehearsal
    if seen is None:
        return section("Rehearsal", _not_rehearsed(plan))
    sample = f"{len(seen.sessions)} of {plan.called.counted(len(plan.sessions))}"
    return section(
        "Rehearsal",
        f"{sample}, {ONLY_TWICE}",
        table(
            ("", "Looked at", "Seen"),
            ((MARKS[c.status], escaped(_name(c)), escaped(c.detail)) for c in marks(plan)),
        ),
        _rows(seen.rows, plan.called),
        _sessions(seen.sessions, plan.called),
    )


def marks(plan: Plan) -> list[Check]:
    """Those of the plan's checks that the rehearsal made."""
    return [c for c in plan.checks if c.name.startswith(MARKED)]


def estimate(plan: Plan) -> str:
    """How long the run takes by its rehearsal. Empty if that was not measured."""
    if plan.rehearsal is None or plan.rehearsal.runtime_s is None:
        return ""
    at_once = plan.called.counted(AT_A_TIME)
    return f"about {duration(plan.rehearsal.runtime_s)} to the last row, {at_once} at a time"


def _not_rehearsed(plan: Plan) -> str:
    why, many = next((c.detail for c in marks(plan)), NOT_REHEARSED), plan.called.many
    way = (
        ""
        if why.startswith(NOT_MEASURED)
        else f" `backfill plan … --rehearse 5` scores five {many} and rolls them back."
    )
    return f"{escaped(why[:1].upper() + why[1:])}. No scoring call was made for this plan.{way}"


def _name(check: Check) -> str:
    return check.name.removeprefix(MARKED)


def _rows(rows: Mapping[str, Mapping[str, int]], called: Called) -> str:
    return table(
        (f"Rows of these {called.many} in", "Before", "After", "New", "Changed", "Deleted"),
        (
            (code(name), n["before"], n["after"], n["inserted"], n["updated"], n["deleted"])
            for name, n in rows.items()
        ),
    )


def _sessions(sessions: Sequence[RehearsedSession], called: Called) -> str:
    return table(
        (called.one_title, "Phase", "Lacks", "Calls took", "Error"),
        (
            (
                code(s.session_id),
                s.phase,
                code(s.category),
                NONE if s.took_ms is None else f"{s.took_ms} ms",
                error_text(s.failure) if s.failure else NONE,
            )
            for s in sessions
        ),
    )
