"""The numbers behind a page's charts: of a plan, and of what became of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from backfill.render.plan_batches import WINDOW_S

if TYPE_CHECKING:
    from backfill.results.plan import Plan
    from backfill.results.run import Json

Points = list[tuple[float, float]]

MOST_BARS = 62
# The longest that each unit of a bar can be, in days, and the characters of its label.
_DAYS = {"day": 1, "week": 7, "month": 31, "year": 366, "century": 36_525}
_LABELS = {"day": 10, "week": 10, "month": 7, "year": 4, "century": 4}
HELD_SHARE = 0.02  # of a line, beyond its last point
MOST_STARTS = 120  # batches in the timeline
# Upper bounds of the latencies' bars in seconds, and their labels.
LATENCIES = (
    (0.01, "10 ms"), (0.02, "20 ms"), (0.05, "50 ms"), (0.1, "100 ms"), (0.2, "200 ms"),
    (0.5, "500 ms"), (1.0, "1 s"), (2.0, "2 s"), (5.0, "5 s"), (10.0, "10 s"), (30.0, "30 s"),
    (60.0, "60 s"), (float("inf"), "more"),
)  # fmt: skip


def candidates_by_day(plan: Plan) -> tuple[str, list[str], dict[str, list[int]]]:
    """The unit of a bar (day to century), labels from the oldest on, counts by category."""
    by_day = Counter((s.category, s.session_at.astimezone(UTC).date()) for s in plan.sessions)
    days = [day for _, day in by_day]
    unit = _unit(min(days), max(days))
    bars = _bars(unit, min(days), max(days))
    found: Counter[tuple[str, date]] = Counter()
    for (category, day), count in by_day.items():
        found[category, _first_of(unit, day)] += count
    categories = sorted({category for category, _ in by_day})
    labels = [bar.isoformat()[: _LABELS[unit]] for bar in bars]
    return unit, labels, {c: [found[c, bar] for bar in bars] for c in categories}


def _unit(oldest: date, newest: date) -> str:
    days = (newest - oldest).days + 1
    return next((unit for unit, length in _DAYS.items() if days <= MOST_BARS * length), "century")


def _first_of(unit: str, day: date) -> date:
    if unit == "century":
        return date(max(day.year // 100 * 100, 1), 1, 1)
    if unit == "year":
        return day.replace(month=1, day=1)
    if unit == "month":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if unit == "week" else day


def _bars(unit: str, oldest: date, newest: date) -> list[date]:
    within_the_next = timedelta(days=_DAYS[unit])
    bars = [_first_of(unit, oldest)]
    while bars[-1] < _first_of(unit, newest):
        bars.append(_first_of(unit, bars[-1] + within_the_next))
    return bars


def planned_starts(plan: Plan) -> list[tuple[float, int]]:
    """(seconds after the first batch, sessions) of the first batches of a throttled plan."""
    return [(b.starts_at_s, len(b.sessions)) for b in plan.batches[:MOST_STARTS]]


def seen_starts(plan: Plan) -> list[tuple[float, int]]:
    """The same as it happened. A session that was tried again counts at its last start."""
    moments = Counter(s.started_at for s in plan.sessions if s.started_at)
    if not moments:
        return []
    first = min(moments)
    ordered = sorted(moments.items())[:MOST_STARTS]
    return [((moment - first).total_seconds(), count) for moment, count in ordered]


def in_the_window(starts: Sequence[tuple[float, int]]) -> Points:
    """How many sessions started in the last 60 s, at each moment when that changes."""
    changes: Counter[float] = Counter()
    for moment, sessions in starts:
        changes[moment] += sessions
        changes[moment + WINDOW_S] -= sessions
    points, running = [], 0
    for moment, change in sorted(changes.items()):
        running += change
        points.append((moment, float(running)))
    return points


def carried_to_the_end(series: Mapping[str, Points]) -> dict[str, Points]:
    """The same lines, each as long as the longest: what no longer changes still holds."""
    last = max((points[-1][0] for points in series.values() if points), default=0.0)
    return {
        name: [*points, (last, points[-1][1])] if points and points[-1][0] < last else points
        for name, points in series.items()
    }


def held(points: Points) -> Points:
    """The same line and a little more, so that a step at its end can be seen."""
    last, value = points[-1]
    return [*points, (last * (1 + HELD_SHARE), value)]


def settled_over_time(plan: Plan) -> dict[str, Points]:
    """Sessions done, and failed, by seconds since the run was started."""
    began = plan.started_at
    return {
        state: _counted_up((s.settled_at for s in plan.sessions if s.state in states), began)
        for state, states in (("done", ("done", "rolled_back")), ("failed", ("failed",)))
    }


def _counted_up(moments: Iterable[datetime | None], began: datetime | None) -> Points:
    settled = sorted(m for m in moments if m is not None)
    if not settled or began is None:
        return []
    numbers = {m: number for number, m in enumerate(settled, start=1)}
    later = [((m - began).total_seconds(), float(number)) for m, number in numbers.items()]
    return [(0.0, 0.0), *later]


def latencies_s(plan: Plan, receipts: Iterable[Mapping[str, Json]]) -> list[float]:
    """Seconds from each session's lease to that attempt's last receipt, ascending."""
    found_s: dict[int, float] = {}
    for receipt in receipts:
        if not 1 <= receipt["ordinal"] <= len(plan.sessions):
            continue
        session = plan.sessions[receipt["ordinal"] - 1]
        if session.started_at is None or session.attempts != receipt["attempt"]:
            continue
        took = datetime.fromisoformat(receipt["at"]) - session.started_at
        found_s[session.ordinal] = max(
            took.total_seconds(), found_s.get(session.ordinal, took.total_seconds())
        )
    return sorted(took_s for took_s in found_s.values() if took_s >= 0)


def latency_bars(found_s: Sequence[float]) -> tuple[list[str], list[int]]:
    """Labels and counts of the bars, from the fastest session's to the slowest's."""
    counts = Counter(
        next(place for place, (most, _) in enumerate(LATENCIES) if s <= most) for s in found_s
    )
    shown = range(min(counts), max(counts) + 1)
    return [f"≤ {LATENCIES[p][1]}" for p in shown], [counts[p] for p in shown]


def share_below(found_s: Sequence[float], share: float) -> float:
    """The value that this share of ascending values does not exceed."""
    return found_s[min(int(share * len(found_s)), len(found_s) - 1)]
