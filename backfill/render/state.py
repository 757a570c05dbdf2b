"""Where a run and its sessions stand, as Markdown: state, counts, errors, the next command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from backfill.render.markdown import NONE, Called, escaped, fenced, table

if TYPE_CHECKING:
    from backfill.results.run import FailedSession
    from backfill.results.sessions import PlannedSession

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
_NEXT = {
    "approved": "backfill apply {run}",
    "running": "backfill status {run}",
    "paused": "backfill resume {run}",
    "completed": "backfill verify {run}",
    "rejected": "backfill plan --like {run}",
    "cancelled": "backfill plan --like {run}",
    "expired": "backfill plan --like {run}",
}


NO_HEADERS = "wrote without our headers"
HAND_ON = (
    "hand them on with supabase/functions/_shared/backfill.ts, which backfill install --functions "
    'adds, and declare the new function_version, or declare receipts = "inferred". '
    "Then: backfill plan --like {run}"
)


def resume_command(run_id: str, reason: str | None) -> str:
    """What lifts a pause. What was critical wants an answer with it.

    A run whose functions write without our headers is not resumed: they or their target change.
    """
    if NO_HEADERS in (reason or ""):
        return HAND_ON.format(run=run_id)
    is_critical = (reason or "").startswith("critical:")
    return f"backfill resume {run_id}" + (' --because "…"' if is_critical else "")


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


def counts_by_state(counts: Mapping[str, int], called: Called) -> str:
    """A table of the states that have sessions."""
    rows = ((state.replace("_", " "), count) for state, count in counts.items() if count)
    return table((called.title, "Count"), rows)


def error_text(failed: PlannedSession | FailedSession) -> str:
    """step: code: message, as far as they are known."""
    parts = (failed.failed_step, failed.error_code, failed.error_message)
    return ": ".join(escaped(part) for part in parts if part) or NONE


def next_commands(run_id: str, state: str, failed: int, reason: str | None) -> str:
    """The commands that a run in this state is waiting for. Empty if there are none.

    failed: how many of its sessions failed. reason: of the state.
    """
    commands = [_NEXT[state].format(run=run_id)] if state in _NEXT else []
    if state == "paused" and NO_HEADERS in (reason or ""):
        commands = ["backfill install --functions", f"backfill plan --like {run_id}"]
    if state == "completed" and failed:
        commands.append(f"backfill retry {run_id}")
    return "\n\n".join(["Next:", fenced("sh", "\n".join(commands))]) if commands else ""
