"""Progress and charts, as tables. Pure: no project, no clock.

`python -m tests.mutants` changes these rules one operator at a time, and these must notice.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from backfill.cli import progress
from backfill.render.page import charts, figures
from backfill.results.event import Event
from backfill.results.plan import Plan
from backfill.results.sessions import PlannedSession, PlannedSessions

MIDNIGHT = datetime(2025, 8, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("eta_s", "ago_s", "said"),
    [(None, 0, "not known"), (75, 0, "0:01:15"), (75, 5.4, "0:01:10"), (75, 80, "0:00:00")],
)
def test_the_time_left_runs_down(eta_s: float | None, ago_s: float, said: str) -> None:
    assert progress.time_left(eta_s, seconds_ago=ago_s) == said


def test_a_settled_batch_tells_what_it_finished() -> None:
    """A session that has to be tried again is not finished."""
    states = ("done", "pending", "failed", "leased", "skipped", "done")
    details = {"settled": [{"ordinal": n, "state": s} for n, s in enumerate(states)]}
    batch = Event("batch_settled", "r", MIDNIGHT, details)
    assert progress.settled_states(batch) == ["done", "failed", "skipped", "done"]


# -- the axes of charts


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.05, "0.05"), (9.94, "9.9"), (10, "10"), (1234.6, "1,235")],
)
def test_an_axis_of_time_has_two_digits(value: float, said: str) -> None:
    assert charts.on_axis_of_time(value) == said


@pytest.mark.parametrize(("labels", "every"), [(0, 1), (1, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_no_more_than_sixteen_labels_are_written(labels: int, every: int) -> None:
    assert charts.label_every(labels) == every


def test_a_line_holds_each_value_until_the_next() -> None:
    assert charts.steps([(0, 1), (2, 5)]) == [(0, 1), (2, 1), (2, 5)]
    assert charts.steps([]) == []


def sessions(*given: dict[str, Any]) -> PlannedSessions:
    """Sessions of a plan, each with what is given."""
    usual = {"category": "profile", "components": ("profiles",), "phase": "recent", "batch": 1}
    usual |= {"session_at": MIDNIGHT, "state": "done", "attempts": 1}
    none = dict.fromkeys(("failed_step", "error_code", "error_message", "started_at", "settled_at"))
    found = PlannedSessions()
    found.extend(
        PlannedSession(**{"ordinal": n, "session_id": f"s{n}", **usual, **none, **some})
        for n, some in enumerate(given, 1)
    )
    return found


def plan(*given: dict[str, Any], **fields: Any) -> Plan:
    """A plan of such sessions."""
    return Plan(
        run_id="r",
        state="running",
        digest="d",
        environment=None,
        created_at=MIDNIGHT,
        request={"batch_size": 5},
        figures={"batch_spacing_s": 15},
        sessions=sessions(*given),
        **fields,
    )


@pytest.mark.parametrize(
    ("days", "unit", "labels", "first"),
    [
        (1, "day", ["2025-08-01"], 1),
        (3, "day", ["2025-08-01", "2025-08-02", "2025-08-03"], 1),
        (62, "day", None, 1),
        (63, "week", None, 1),
        (434, "week", None, 1),
        (435, "month", None, 1),
        (440, "month", None, 1),
        (1922, "month", None, 1),
        (1923, "year", None, 1),
        (22_692, "year", None, 1),
        (22_693, "century", ["2000"], 1),
        (60_000, "century", ["2000", "2100"], 1),
    ],
)
def test_a_bar_is_a_day_a_week_a_month_a_year_or_a_century(
    days: int, unit: str, labels: list[str] | None, first: int
) -> None:
    """The fewest that fit; each bar that lies between is there, with none in it."""
    newest = MIDNIGHT + timedelta(days=days - 1)
    given = [{}] if days == 1 else [{"session_at": newest, "category": "b"}, {}]
    found, bars, series = figures.candidates_by_day(plan(*given))
    assert found == unit
    assert labels in (None, bars)
    oldest = {"day": "2025-08-01", "week": "2025-07-28", "month": "2025-08"}
    assert bars[0] == {**oldest, "year": "2025", "century": "2000"}[unit]
    years, months = newest.year - 2025, newest.month - 8
    between = {"day": days, "week": (days + 3) // 7 + 1, "month": 12 * years + months + 1}
    between |= {"year": years + 1, "century": newest.year // 100 - 19}
    assert len(bars) == between[unit]
    assert bars == sorted(set(bars))
    assert series["profile"] == [first] + [0] * (len(bars) - 1)
    assert days == 1 or series["b"] == [0] * (len(bars) - 1) + [1]


def test_the_first_century_begins_with_the_year_1() -> None:
    """There is no year 0. The last that a date can have is 9999."""
    given = [{"session_at": datetime(year, 5, 5, tzinfo=UTC)} for year in (50, 9999, 150)]
    unit, bars, series = figures.candidates_by_day(plan(*given))
    assert (unit, bars[:3], bars[-1]) == ("century", ["0001", "0100", "0200"], "9900")
    assert series == {"profile": [1, 1] + [0] * 97 + [1]}


def test_a_day_is_one_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever zone this machine is, and the database's answer."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    early = datetime(2025, 8, 2, 1, tzinfo=timezone(timedelta(hours=5)))
    found = figures.candidates_by_day(plan({"session_at": early}))
    monkeypatch.undo()
    time.tzset()
    assert found == ("day", ["2025-08-01"], {"profile": [1]})


def test_the_window_holds_the_starts_of_the_last_minute() -> None:
    starts = [(0.0, 5), (30.0, 5), (60.0, 2)]
    assert figures.in_the_window(starts) == [
        (0.0, 5.0),
        (30.0, 10.0),
        (60.0, 7.0),
        (90.0, 2.0),
        (120.0, 0.0),
    ]


def at(seconds: float) -> datetime:
    """So many seconds after midnight."""
    return MIDNIGHT + timedelta(seconds=seconds)


def test_starts_are_counted_from_the_first() -> None:
    """At most as many as the timeline shows."""
    assert figures.seen_starts(plan({"started_at": None})) == []
    seen = plan({"started_at": at(40)}, {"started_at": at(10)}, {"started_at": at(40)})
    assert figures.seen_starts(seen) == [(0.0, 1), (30.0, 2)]
    many = plan(*({"started_at": at(n)} for n in range(121)))
    assert figures.seen_starts(many)[-1] == (119.0, 1)
    planned = plan(*({"batch": n} for n in range(1, 122)))
    assert figures.planned_starts(planned)[-1] == (119 * 15.0, 1)
    assert figures.planned_starts(planned)[0] == (0.0, 1)


def test_sessions_are_settled_over_time() -> None:
    """Two of one moment are one point; what is not settled is none."""
    shown = plan(
        {"settled_at": at(20)},
        {"settled_at": at(10), "state": "rolled_back"},
        {"settled_at": at(20)},
        {"settled_at": at(15), "state": "failed"},
        {"state": "pending"},
        {"state": "done"},
        started_at=at(5),
    )
    assert figures.settled_over_time(shown) == {
        "done": [(0.0, 0.0), (5.0, 1.0), (15.0, 3.0)],
        "failed": [(0.0, 0.0), (10.0, 1.0)],
    }
    carried = figures.carried_to_the_end(figures.settled_over_time(shown))
    assert carried["failed"] == [(0.0, 0.0), (10.0, 1.0), (15.0, 1.0)]
    assert carried["done"] == figures.settled_over_time(shown)["done"]
    late = figures.carried_to_the_end(
        {"done": carried["done"], "failed": [(0.0, 0.0), (20.0, 1.0)]}
    )
    assert late["done"] == [*carried["done"], (20.0, 3.0)]
    assert figures.carried_to_the_end({"done": [], "failed": []}) == {"done": [], "failed": []}
    nothing: dict[str, list[Any]] = {"done": [], "failed": []}
    assert figures.settled_over_time(plan({"settled_at": at(1)})) == nothing
    assert figures.settled_over_time(plan({}, started_at=at(0))) == nothing


def test_a_line_is_held_beyond_its_end() -> None:
    """A step at the end is a step, not only a rise."""
    line = [(0.0, 0.0), (20.0, 1.0), (50.0, 3.0)]
    assert figures.held(line) == [*line, (51.0, 3.0)]


def test_a_latency_is_from_the_last_lease_to_the_last_row() -> None:
    """Of that attempt alone; of a session that never started or before its lease there is none."""
    shown = plan(
        {"started_at": at(10), "attempts": 2}, {"started_at": None}, {"started_at": at(9)}, {}
    )

    def receipt(ordinal: int, attempt: int, seconds: float) -> dict[str, Any]:
        return {"ordinal": ordinal, "attempt": attempt, "at": at(seconds).isoformat()}

    receipts = [
        receipt(1, 2, 12),
        receipt(1, 2, 13),
        receipt(1, 2, 11),
        receipt(1, 1, 99),
        receipt(2, 1, 5),
        receipt(3, 1, 9),
        receipt(7, 1, 9),
    ]
    assert figures.latencies_s(shown, receipts) == [0.0, 3.0]
    assert figures.latencies_s(shown, [receipt(3, 1, 8)]) == []


def test_latencies_are_bars_from_the_fastest_to_the_slowest() -> None:
    labels, counts = figures.latency_bars([0.02, 0.021, 0.15, 0.2])
    assert labels == ["≤ 20 ms", "≤ 50 ms", "≤ 100 ms", "≤ 200 ms"]
    assert counts == [1, 1, 0, 2]
    assert figures.latency_bars([61.0]) == (["≤ more"], [1])


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.74, 3), (0.75, 4), (1.0, 4)])
def test_a_share_of_the_values_does_not_exceed(share: float, value: float) -> None:
    assert figures.share_below([1, 2, 3, 4], share) == value
