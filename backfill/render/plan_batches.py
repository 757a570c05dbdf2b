"""The batches of a plan as Markdown: their pace, their order, their sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backfill.render.markdown import (
    Called,
    bullets,
    code,
    counted,
    day,
    duration,
    escaped,
    mm_ss,
    section,
    table,
    utc,
)
from backfill.render.plan_rehearsal import estimate
from backfill.render.state import error_text

if TYPE_CHECKING:
    from backfill.results.plan import Plan
    from backfill.results.sessions import Phase, PlannedSession

WINDOW_S = 60  # the throttle counts the starts of any 60 seconds


def batching(plan: Plan) -> str:
    """How large the batches are, when each starts, and why not faster."""
    size, throttle = plan.request["batch_size"], plan.request.get("throttle_per_minute")
    called = plan.called
    lines = [
        f"**Batch size**: at most {called.counted(size)} of one phase",
        *(_pace(throttle, size, plan.batch_spacing_s, called) if throttle else _no_pace()),
        f"**Runtime**: {_runtime(plan)}",
        f"**{called.title} that fail** are recorded with their errors. The others go on",
    ]
    batches = table(
        ("Batch", "Phase", "Starts", called.title),
        (
            (number, phase, mm_ss(plan.starts_at_s(number)), len(places))
            for number, phase, places in plan.sessions.batches()
        ),
    )
    return section("Batching strategy", bullets(lines), batches)


def _no_pace() -> list[str]:
    return ["**Throttle**: none. A batch starts as soon as a worker asks for it"]


def _pace(throttle: int, size: int, spacing_s: float, called: Called) -> list[str]:
    """What the throttle allows, and the spacing that follows."""
    room = counted(throttle // size, "batch")
    return [
        f"**Throttle**: at most {called.counted(throttle)} started in any {WINDOW_S} s, "
        "over all workers, retries counted",
        f"**Spacing**: a window holds {room} of {size}, so batches start "
        f"{duration(spacing_s)} apart",
    ]


def _runtime(plan: Plan) -> str:
    runtime_s = plan.figures.get("expected_runtime_s")
    rehearsed = estimate(plan)
    if runtime_s is None:
        return f"{rehearsed}, as rehearsed" if rehearsed else "not predicted without a throttle"
    return (
        f"{duration(runtime_s)} from the first batch to the start of the last, at the earliest, "
        f"for {plan.called.counted(plan.figures['candidates']['total'])}. "
        + (f"As rehearsed {rehearsed}" if rehearsed else "How long the calls take was not measured")
        + f". The throttle sets this pace: {code('plan --throttle N')} plans another"
    )


def order(plan: Plan) -> str:
    """The phases in the order in which they run."""
    what = {
        "priority": "the canary: verified before the next phase starts. "
        "If a row is missing, the run pauses",
        "recent": f"{plan.called.many} dated on or after {day(plan.request.get('recent_since'))}",
        "historical": "the rest",
    }
    by_phase: Counter[Phase] = Counter()
    for (_, _, phase), count in plan.sessions.kinds().items():
        by_phase[phase] += count
    lines = [
        f"{place}. **{phase}** ({plan.called.counted(count)}): {escaped(what[phase])}"
        for place, (phase, count) in enumerate(by_phase.items(), start=1)
    ]
    named = [s.session_id for s in plan.sessions.in_phase("priority")]
    canary = f"Priority {plan.called.many}: {', '.join(map(code, named))}." if named else ""
    return section(
        "Execution order",
        "\n".join(lines),
        canary,
        f"Inside a phase the newest {plan.called.one} is first.",
    )


def sessions(plan: Plan) -> Iterator[str]:
    """Every session in its batch, and what became of it once the run has started, in pieces."""
    yield section(plan.called.title)
    started = plan.sessions.have_begun()
    header = [
        "#",
        plan.called.one_title,
        "Lacks",
        "Date",
        *(["State", "Error"] if started else []),
    ]
    for number, phase, places in plan.sessions.batches():
        yield f"### Batch {number} ({phase}, starts at {mm_ss(plan.starts_at_s(number))})"
        members = plan.sessions[places.start : places.stop]
        yield table(header, ([*_planned(s), *(_became(s) if started else [])] for s in members))


def _planned(session: PlannedSession) -> list[object]:
    date = utc(session.session_at)
    return [session.ordinal, code(session.session_id), code(session.category), date]


def _became(session: PlannedSession) -> list[object]:
    state = session.state.replace("_", " ")
    again = f", attempt {session.attempts}" if session.attempts > 1 else ""
    if session.state == "failed":
        return [state + again, error_text(session)]
    return [state + again, escaped(session.error_message or "") if state == "skipped" else ""]
