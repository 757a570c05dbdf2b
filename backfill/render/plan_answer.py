"""How a plan begins: what it writes, how risky that is, what speaks against it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backfill.moments import moment
from backfill.render.markdown import (
    MARKS,
    NONE,
    bullets,
    counted,
    duration,
    escaped,
    fenced,
    section,
    utc,
)
from backfill.render.plan_writes import new_and_replaced
from backfill.render.state import counts_by_state, next_step, rate_line, reason_line, state_line

if TYPE_CHECKING:
    from backfill.results.plan import Plan

NAMED_REASONS = 4  # with these the whole stays within 25 lines
RULE = "high if a check failed or an undo would not be exact, medium for any other reason"


def answer(plan: Plan, approver: str | None) -> str:
    """The first section of a sealed plan. approver: who reads it, for the SQL line, or None."""
    return _halted(plan, approver) if plan.state == "awaiting_approval" else _became_of(plan)


def _halted(plan: Plan, approver: str | None) -> str:
    return section(
        "Status",
        "**HALTED FOR APPROVAL**. Nothing has been written.",
        bullets(_lines(plan)),
        "\n".join(
            (
                "An approver accepts exactly this plan:",
                fenced("sh", f"backfill approve {plan.run_id} --digest {plan.digest}"),
                f"or, in the SQL editor{f' as {escaped(approver)}' if approver else ''}:",
                fenced("sql", plan.approval_sql_by(approver) if approver else plan.approval_sql),
            )
        ),
    )


def _became_of(plan: Plan) -> str:
    return section(
        "Status",
        state_line(plan.state, plan.called),
        reason_line(plan.reason),
        counts_by_state(plan.sessions.states(), plan.called),
        bullets(_lines(plan)),
        _rate(plan),
        _approval(plan),
        next_step(plan.next_step),
    )


def _lines(plan: Plan) -> Iterator[str]:
    yield f"**Writes**: {new_and_replaced(plan)}"
    yield f"**For**: {_sessions(plan)}"
    yield from _risk(plan)
    yield f"**Against it**: {_against(plan)}"
    if plan.standing and plan.state == "awaiting_approval":
        yield f"**Standing approval**: {_standing(plan)}"
    if plan.freshness is not None and not plan.freshness.is_fresh:
        yield f"{MARKS['warn']} **Changed since it was sealed**: see the next sections"


def _standing(plan: Plan) -> str:
    told = plan.standing or {}
    if told["reason"]:
        return escaped(told["reason"])
    return f"{str(told['standing_id'])[:8]} covers it now: `backfill standing ask {plan.run_id}`"


def _sessions(plan: Plan) -> str:
    pace = plan.expected_runtime_s
    last = f", the last batch starts after {duration(pace)}" if pace else ""
    return f"{plan.called.counted(plan.candidates['total'])}, {span(plan)}{last}"


def span(plan: Plan) -> str:
    """From the oldest to the newest date of the planned sessions."""
    ends = (plan.figures.get(end) for end in ("oldest", "newest"))
    return "from {} to {}".format(*(utc(moment(end)) if end else NONE for end in ends))


def _risk(plan: Plan) -> Iterator[str]:
    if plan.risk is None:
        return
    reasons = plan.risk.reasons
    shown = reasons[:NAMED_REASONS]
    rule = f" ({RULE})" if reasons else ": no check warns, nothing is replaced, nothing fires"
    more = len(reasons) - len(shown)
    named = [escaped(reason) for reason in shown]
    named += [f"{more} more: `backfill show {plan.run_id} --json`"] if more else []
    yield "\n".join([f"**Risk**: **{plan.risk.grade}**{rule}", *(f"  - {n}" for n in named)])


def _against(plan: Plan) -> str:
    failed = [escaped(c.name) for c in plan.checks if c.status == "fail"]
    if not failed:
        return "nothing that was looked at failed"
    return (
        f"{MARKS['fail']} {counted(len(failed), 'check')} failed: {', '.join(failed)}. "
        "The section Risks says what to do."
    )


def _rate(plan: Plan) -> str:
    """How fast a run goes, with the line that changes it. Empty unless it is under way."""
    if plan.state not in ("running", "paused"):
        return ""
    pace = plan.pace_per_minute
    line = f"select public.backfill_pace('{plan.run_id}', {pace or 'null'});"
    rate = rate_line(pace, plan.request.get("throttle_per_minute"))
    return f"**Rate**: {rate}. To change it, in the SQL editor:\n\n{fenced('sql', line)}"


def _approval(plan: Plan) -> str:
    given = plan.approval
    if given is None:
        return "Never approved."
    via = f"via {escaped(given.via)}"
    if given.via == "standing" and plan.standing:
        via = f"by standing approval {str(plan.standing['standing_id'])[:8]}"
    return (
        f"Approved by {escaped(given.approver)} ({via}) "
        f"at {utc(given.at)}, valid until {utc(given.until)}.{_unlike(plan)}"
    )


def _unlike(plan: Plan) -> str:
    if plan.unlike_approved is None:
        return ""
    return f" {MARKS['fail']} **Do not trust this page**: {plan.unlike_approved}."
