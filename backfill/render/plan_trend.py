"""The part of a plan on its target's last days, as the watch counted them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backfill.render.markdown import agreed, section, table

if TYPE_CHECKING:
    from backfill.results.plan import Plan
    from backfill.results.watch import DayTrend

TREND = "Coverage by day"
BLOCKS = "▁▂▃▄▅▆▇█"
MOST_ROWS = 7


def trend(plan: Plan) -> str:
    """A line of blocks, and the newest days that lack something. Nothing if nobody looked."""
    days = plan.trend
    if not days:
        return ""
    lacking = [day for day in reversed(days) if day.missing]
    return section(
        TREND,
        f"From {days[0].day} to {days[-1].day}, as `backfill watch` last counted: `{blocks(days)}`",
        table(
            ("Day", "Wanted", "There", "Missing", "Coverage"),
            ((d.day, d.wanted, d.there, d.missing, _share(d)) for d in lacking[:MOST_ROWS]),
        )
        if lacking
        else "",
        _left_out(len(lacking)),
    )


def blocks(days: Sequence[DayTrend]) -> str:
    """A block per day, as high as its coverage. Only a day that lacks nothing has the highest."""
    return "".join(BLOCKS[int(day.coverage * (len(BLOCKS) - 1))] for day in days)


def _share(day: DayTrend) -> str:
    """Rounded down: what is not whole does not look so."""
    return f"{day.there * 1000 // day.wanted / 10:.1f} %"


def _left_out(lacking: int) -> str:
    more = max(lacking - MOST_ROWS, 0)
    return f"{more} older {agreed(more, 'day lacks', 'days lack')} something too." if more else ""
