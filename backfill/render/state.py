"""Where a run and its sessions stand, as Markdown: state, counts, errors, the next command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from backfill.render.markdown import (
    NONE,
    Called,
    code,
    counted,
    escaped,
    fenced,
    section,
    table,
)

if TYPE_CHECKING:
    from backfill.results.run import FailedSession, NextStep
    from backfill.results.sessions import PlannedSession

NAMED_ROWS = 20
# The states in which a run does no more, but for a retry of what failed.
OVER = ("completed", "rejected", "cancelled", "expired", "rolled_back")
_MEANINGS = {
    "approved": "The plan is approved. No {one} has started.",
    "running": "{many} are being scored, or wait for a worker.",
    "paused": "No {one} starts until the run is resumed.",
    "completed": "Every {one} is settled.",
    "rejected": "An approver refused the plan. It cannot be applied.",
    "cancelled": "The run was stopped for good. What it wrote stays.",
    "expired": "The approval ran out. What the run wrote stays.",
    "rolled_back": "No {one} is left done: what the run wrote was taken back.",
}


def state_line(state: str, called: Called) -> str:
    """The state in bold, and its meaning if that takes a sentence."""
    meaning = _MEANINGS.get(state, "").format(one=called.one, many=called.title)
    return f"{state_title(state)}. {meaning}".rstrip()


def state_title(state: str) -> str:
    """**ROLLED BACK**."""
    return f"**{state.upper().replace('_', ' ')}**"


def reason_line(reason: str | None) -> str:
    """The reason for a state. Empty if nobody gave one."""
    return f"Reason: {escaped(reason)}" if reason else ""


def rate_line(pace: int | None, approved: int | None) -> str:
    """The starts per minute in force, and those that were approved if these are others."""
    per_minute = "no throttle" if pace is None else f"{pace:,}/min"
    if pace == approved:
        return f"{per_minute}, as approved"
    return f"{per_minute} of approved {'no throttle' if approved is None else f'{approved:,}/min'}"


def counts_by_state(counts: Mapping[str, int], called: Called) -> str:
    """A table of the states that have sessions."""
    rows = ((state.replace("_", " "), count) for state, count in counts.items() if count)
    return table((called.title, "Count"), rows)


def error_text(failed: PlannedSession | FailedSession) -> str:
    """step: code: message, as far as they are known."""
    parts = (failed.failed_step, failed.error_code, failed.error_message)
    return ": ".join(escaped(part) for part in parts if part) or NONE


def next_step(step: NextStep | None) -> str:
    """What helps, with the lines to copy in blocks of their own. Empty if there is nothing."""
    if step is None:
        return ""
    says = f"Next: {escaped(step.says)}" if step.says else "Next:"
    blocks = (fenced(language, "\n".join(lines)) for language, lines in _runs_of(step.lines))
    return "\n\n".join([says, *blocks])


def _runs_of(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Lines for the shell and lines for the SQL editor, in their order."""
    for language, group in groupby(lines, lambda line: "sql" if line.endswith(";") else "sh"):
        yield language, list(group)


def left_behind(rows: Sequence[Mapping[str, Any]], called: Called) -> str:
    """The rows that an undo could not take back, each with the reason. Empty if there are none."""
    if not rows:
        return ""
    named = rows[:NAMED_ROWS]
    more = [("", "", f"{len(rows) - NAMED_ROWS:,} more", "")] if len(rows) > NAMED_ROWS else []
    return section(
        "Left behind",
        f"{counted(len(rows), 'row')} could not be undone.",
        table(
            (called.one_title, "Table", "Row", "Why"),
            [
                *(
                    (
                        code(r["session_id"]),
                        code(r["table"]),
                        code(_key(r["row"])),
                        escaped(r["reason"]),
                    )
                    for r in named
                ),
                *more,
            ],
        ),
    )


def _key(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} {value}" for column, value in row.items())
