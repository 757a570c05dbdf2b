"""What the watch counted of a target's last days, in plans: blocks, a table, a chart."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from backfill.api.rows import trend_of
from backfill.render.page.page import plan_page
from backfill.render.plan_trend import TREND, blocks
from backfill.results.watch import DayTrend
from tests.conftest import Project
from tests.test_rendering import section_of, seed_plan, tables_of

FIRST = date(2025, 8, 1)


def days(*there: int, wanted: int = 100) -> tuple[DayTrend, ...]:
    """Days one after another, of which so many sessions are there."""
    return tuple(
        DayTrend(FIRST + timedelta(n), wanted, count, wanted - count)
        for n, count in enumerate(there)
    )


def test_only_a_day_that_lacks_nothing_has_the_highest_block() -> None:
    """And only one that has nearly nothing the lowest."""
    assert blocks(days(100, 99, 50, 1, 0)) == "█▇▄▁▁"


def test_a_plan_names_the_newest_days_that_lack_something() -> None:
    """The others are counted. What is not whole does not look so."""
    text = section_of(seed_plan(trend=days(*[99] * 8, 100, 9_999 // 100)).markdown(), TREND)
    assert text.startswith("\nFrom 2025-08-01 to 2025-08-10")
    (table,) = tables_of(text)
    assert table[1] == ["2025-08-10", "100", "99", "1", "99.0 %"]
    assert len(table) == 1 + 7
    assert "2 older days lack something too." in text
    thousand = section_of(seed_plan(trend=days(9_999, wanted=10_000)).markdown(), TREND)
    assert tables_of(thousand)[0][1][-1] == "99.9 %"


def test_days_that_all_lack_nothing_need_no_table() -> None:
    """A line is enough."""
    text = section_of(seed_plan(trend=days(100, 100)).markdown(), TREND)
    assert (tables_of(text), "`██`" in text) == ([], True)


def test_without_a_look_nothing_is_said() -> None:
    """In no form of the plan."""
    plan = seed_plan()
    assert TREND not in plan.markdown()
    assert TREND not in plan_page(plan)
    assert "trend" not in plan.as_dict()


def test_the_page_draws_the_days() -> None:
    """A bar per day, and none of a single one."""
    page = plan_page(seed_plan(trend=days(100, 50)))
    assert 'id="chart-trend"' in page
    assert "as the watch counted them" in page
    assert 'id="chart-trend"' not in plan_page(seed_plan(trend=days(50)))


def test_a_day_without_a_judged_session_is_no_part_of_it() -> None:
    """It has no share."""
    counted = {"day": "2025-08-01", "wanted": 2, "there": 1, "missing": 1}
    waiting = {"day": "2025-08-02", "wanted": 0, "there": 0, "missing": 0}
    assert trend_of([waiting, counted]) == (DayTrend(FIRST, 2, 1, 1),)


def test_a_plan_shows_what_was_looked_at(project: Project) -> None:
    """Before the first look nothing, after it the same in `show` and as JSON."""
    with project.connect() as bf:
        plan = bf.plan(since="2025-08-01", rehearse=0)
        assert (plan.trend, bf.get(plan.run_id).trend) == ((), ())
        bf.watch()
        seen = bf.get(plan.run_id)
        page = bf.page(plan.run_id)
    assert sum(day.missing for day in seen.trend) == 47
    assert TREND in seen.markdown()
    assert 'id="chart-trend"' in page
    assert seen.as_dict()["trend"][0] == {
        "day": "2025-06-01",
        "wanted": 1,
        "there": 0,
        "missing": 1,
    }
    assert replace(seen, trend=()).digest == plan.digest
