"""Standing approvals as Markdown: what each allows, where it stands, how to approve it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from backfill.render.markdown import (
    MARKS,
    NONE,
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

if TYPE_CHECKING:
    from backfill.results.standing import StandingApproval

NOTHING = "There is no standing approval. `backfill standing new` proposes one."


def standings_markdown(found: Sequence[StandingApproval]) -> str:
    """All of them, after a table of what each is now."""
    if not found:
        return joined("# Standing approvals", NOTHING)
    rows = [
        (_mark(s), code(s.standing_id[:8]), code(s.target), s.state, utc(s.until), s.runs,
         s.sessions)
        for s in found
    ]  # fmt: skip
    header = ("", "Id", "Target", "State", "Until", "Runs", "Sessions")
    return joined("# Standing approvals", table(header, rows), *map(standing_section, found))


def standing_section(one: StandingApproval) -> str:
    """One of them: what it allows, who decided, what to type next."""
    return section(
        f"Standing approval {one.standing_id[:8]}",
        _stands(one),
        bullets([*_allows(one), *_decided(one)]),
        _to_approve(one) if one.state == "proposed" else "",
    )


def _mark(one: StandingApproval) -> str:
    if one.is_in_force:
        return MARKS["ok"]
    return MARKS["warn" if one.state in ("proposed", "approved") else "fail"]


def _stands(one: StandingApproval) -> str:
    says = "in force" if one.is_in_force else f"not in force: {escaped(one.why)}"
    return f"**{one.state.upper()}**, {says}."


def _allows(one: StandingApproval) -> Iterator[str]:
    yield f"**Id**: {code(one.standing_id)}"
    yield f"**Runs of**: target {code(one.target)} with its own versions and parameters"
    where = escaped(one.environment) if one.environment else "without a name"
    yield f"**In**: the project {where}, on the server and database where it was proposed"
    yield f"**A run**: {', '.join(_of_a_run(one))}"
    most = one.max_per_day
    day = "any number of sessions" if most is None else f"at most {counted(most, 'session')}"
    yield f"**A UTC day**: {day} of the target, by all its standing approvals together"
    yield f"**When**: {_when(one)}"
    rows = "new rows, and rows that are replaced" if one.replace else "new rows only"
    yield f"**Writes**: {rows}"
    named = ", ".join(map(code, one.marks))
    yield f"**Marks**: none failed{f', and ok are {named}' if named else ''}"
    yield f"**Ends**: {utc(one.until)}, or when a definition of the target changes"
    if one.overlaps:
        others = ", ".join(code(other[:8]) for other in one.overlaps)
        yield f"**Overlaps**: {others}. Of those in force the narrowest counts"


def _of_a_run(one: StandingApproval) -> Iterator[str]:
    yield f"at most {counted(one.max_sessions, 'session')}"
    if one.max_calls is not None:
        yield f"at most {counted(one.max_calls, 'call')}"
    most = "any throttle" if one.throttle is None else f"at most {one.throttle:,} starts per minute"
    yield most


def _when(one: StandingApproval) -> str:
    hours = f"UTC hours {one.hours}" if one.hours else "at any hour"
    days = f"on {one.weekdays.replace(',', ', ')}" if one.weekdays else "on every day"
    return f"{hours}, {days}"


def _decided(one: StandingApproval) -> Iterator[str]:
    yield f"Proposed via {escaped(one.proposed_via)} at {utc(one.proposed_at)}"
    if one.approved_by:
        note = f": {escaped(one.note)}" if one.note else ""
        via = escaped(one.approved_via or NONE)
        yield f"Approved by {escaped(one.approved_by)} (via {via}) at {utc(one.approved_at)}{note}"
    if one.revoked_by:
        why = escaped(one.revoked_reason)
        yield f"Revoked by {escaped(one.revoked_by)} at {utc(one.revoked_at)}: {why}"
    used = f"{counted(one.runs, 'run')} and {counted(one.sessions, 'session')}"
    yield f"It has approved {used}. Today {counted(one.today, 'session')} of the target"


def _to_approve(one: StandingApproval) -> str:
    typed = f"backfill approve {one.standing_id} --digest {one.digest}"
    return "\n".join(
        (
            "An approver accepts exactly this rule:",
            fenced("sh", typed),
            "or, in the SQL editor:",
            fenced("sql", one.approval_sql),
        )
    )
