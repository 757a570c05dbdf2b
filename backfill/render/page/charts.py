"""The charts of a page: which there are, and how they are drawn, as SVG. Needs the extra `page`.

The numbers behind them are in figures.py. The colours are the page's own, so light, dark and paper
all fit. The only module that draws. Pure: the same numbers give the same text.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from backfill.render.markdown import duration
from backfill.render.page import figures
from backfill.render.page.drawn import Style, pygal
from backfill.render.page.markup import html_of
from backfill.render.plan_trend import TREND

if TYPE_CHECKING:
    from backfill.results.plan import Plan

Points = Sequence[tuple[float, float]]

HEIGHT, WIDTH = 300, 820
MOST_LABELS = 16
FINE_BELOW = 10  # smaller numbers on an axis of time have a second digit
UPRIGHT_LABELS = 8
SERIES = tuple(f"var(--series-{number})" for number in range(1, 8))
_LOOK = {
    "background": "transparent",
    "plot_background": "transparent",
    "foreground": "var(--ink)",
    "foreground_strong": "var(--ink)",
    "foreground_subtle": "var(--soft)",
    "guide_stroke_color": "var(--rule)",
    "major_guide_stroke_color": "var(--rule)",
    "opacity": "1",
    "opacity_hover": ".8",
    "stroke_opacity": "1",
    "transition": "0s",
    "stroke_width": "2.5",
    "title_font_size": 13,
    "font_family": "inherit",
    "label_font_size": 12,
    "major_label_font_size": 12,
    "legend_font_size": 13,
    "value_font_size": 12,
}


# Which there are --------------------------------------------------------------------------------


def of_sections(plan: Plan) -> dict[str, str]:
    """Title of a section of the plan -> its chart, for the sections that have one.

    A chart is drawn where it says more than the table below it: not of a single day or batch.
    """
    if not plan.sessions:
        return {}
    return {
        "Candidate analysis": _candidates(plan),
        TREND: _trend(plan),
        "Batching strategy": _timeline(plan),
    }


def _candidates(plan: Plan) -> str:
    unit, labels, series = figures.candidates_by_day(plan)
    if len(labels) == 1:
        return ""
    caption = f"{plan.called.title} by the UTC {unit} of their creation, by what they lack"
    return _figure(caption, stacked_bars("candidates", caption, labels, series))


def _trend(plan: Plan) -> str:
    if len(plan.trend) < 2:
        return ""
    caption = f"{plan.called.title} by the UTC day of their creation, as the watch counted them"
    labels = [day.day.isoformat() for day in plan.trend]
    series = {
        "there": [day.there for day in plan.trend],
        "missing": [day.missing for day in plan.trend],
    }
    return _figure(caption, stacked_bars("trend", caption, labels, series))


def _timeline(plan: Plan) -> str:
    throttle = plan.request.get("throttle_per_minute")
    if not throttle:
        return ""
    planned = figures.in_the_window(figures.planned_starts(plan))
    seen = figures.in_the_window(figures.seen_starts(plan))
    if len(plan.batches) == 1:
        return ""
    told = {"planned": planned, "as it happened": seen} if seen else {"planned": planned}
    carried = figures.carried_to_the_end(told)
    last = max(x for points in told.values() for x, _ in points)
    series: dict[str, Points] = {
        f"throttle: {throttle}": [(0.0, float(throttle)), (last, float(throttle))],
        **{name: steps(points) for name, points in carried.items()},
    }
    first = f" (the first {figures.MOST_STARTS} batches)"
    caption = f"{plan.called.title} started in the last 60 s, against the throttle" + (
        first if len(plan.batches) > figures.MOST_STARTS else ""
    )
    x_title = "seconds after the first batch"
    return _figure(caption, lines("timeline", caption, x_title, series))


def done(plan: Plan) -> str:
    """How many sessions were done by when. Empty if none was, or all at once."""
    return _over_time(plan, "progress", "done")


def failed(plan: Plan) -> str:
    """How many had failed by when: on an axis of its own, since few fail among many."""
    return _over_time(plan, "failed", "failed", colours=("var(--fail)",))


def _over_time(plan: Plan, name: str, what: str, colours: Sequence[str] = SERIES) -> str:
    points = figures.carried_to_the_end(figures.settled_over_time(plan))[what]
    if not points or points[-1][0] == 0:
        return ""
    caption = f"{plan.called.title} {what}, by seconds since the run was started"
    line = {what: steps(figures.held(points))}
    return _figure(caption, lines(name, caption, "seconds", line, colours))


def latencies(plan: Plan, found_s: Sequence[float]) -> str:
    """How long the sessions took: bars, or a sentence if all took about as long. Empty of none."""
    if not found_s:
        return ""
    half, most = (duration(figures.share_below(found_s, share)) for share in (0.5, 0.95))
    labels, counts = figures.latency_bars(found_s)
    called = plan.called
    caption = f"From the lease of each {called.one} to its last row: p50 {half}, p95 {most}"
    if len(labels) == 1:
        return html_of(f"{caption}.")
    return _figure(caption, bars("latencies", caption, labels, {called.many: counts}))


def _figure(caption: str, svg: str) -> str:
    said = html.escape(caption)
    return (
        f"<figure><figcaption>{said}</figcaption>"
        f'<p class="sign" aria-hidden="true">scroll sideways →</p>'
        f'<div class="wide" tabindex="0" role="group" aria-label="{said}">{svg}</div></figure>'
    )


# How they are drawn -----------------------------------------------------------------------------


def stacked_bars(
    name: str, said: str, labels: Sequence[str], series: Mapping[str, Sequence[int]]
) -> str:
    """One bar per label, the series stacked.

    name: the chart's id on its page. said: its text for screen readers.
    """
    chart = pygal.StackedBar(**_options(len(series), labels), show_minor_x_labels=False)
    return _bars(chart, name, said, labels, series)


def bars(name: str, said: str, labels: Sequence[str], series: Mapping[str, Sequence[int]]) -> str:
    """One bar per label and series, side by side, each under its number."""
    options = _options(len(series), labels)
    chart = pygal.Bar(**options, print_values=True, print_values_position="top")
    return _bars(chart, name, said, labels, series)


def _bars(
    chart: Any, name: str, said: str, labels: Sequence[str], series: Mapping[str, Sequence[int]]
) -> str:
    chart.x_labels = list(labels)
    chart.x_labels_major_every = label_every(len(labels))
    for title, values in series.items():
        chart.add(title, list(values))
    return _drawn(chart, name, said)


def lines(
    name: str,
    said: str,
    x_title: str,
    series: Mapping[str, Points],
    colours: Sequence[str] = SERIES,
) -> str:
    """One line per series through its points, from zero up."""
    chart = pygal.XY(
        **_options(len(series), colours=colours),
        x_title=x_title,
        show_dots=False,
        include_x_axis=True,
    )
    for title, points in series.items():
        chart.add(title, list(points))
    return _drawn(chart, name, said)


def steps(points: Points) -> list[tuple[float, float]]:
    """The corners of a line that holds each value until the next: for `lines`."""
    corners: list[tuple[float, float]] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def on_axis_of_time(value: float) -> str:
    """A number on an axis of time, with a second digit if whole numbers would repeat."""
    return f"{value:,.0f}" if value >= FINE_BELOW else f"{value:.2g}"


def label_every(labels: int) -> int:
    """Write every n-th of this many labels, so that at most MOST_LABELS are. Returns n."""
    return max(1, -(-labels // MOST_LABELS))


def _options(
    series: int, labels: Sequence[str] = (), colours: Sequence[str] = SERIES
) -> dict[str, Any]:
    """Of a chart of so many series.

    Colours are given for each, and for the numbers above its bars: pygal would derive them from
    colours that it cannot read.
    """
    given = tuple(islice(cycle(colours), series))
    return {
        "style": Style(**_LOOK, colors=given, value_colors=("var(--ink)",) * series),
        "show_legend": series > 1,
        # pygal draws the legend below what it counts as the chart.
        "margin_bottom": 36 if series > 1 else 8,
        "js": (),
        "explicit_size": False,
        "height": HEIGHT,
        "width": WIDTH,
        "margin": 8,
        "legend_at_bottom": True,
        "legend_at_bottom_columns": 3,
        "truncate_legend": -1,
        "truncate_label": -1,
        "x_label_rotation": 35 if len(labels) > UPRIGHT_LABELS else 0,
        "order_min": 0,
        "min_scale": 2,
        "max_scale": 8,
        "value_formatter": lambda value: f"{value:,.0f}",
        "x_value_formatter": on_axis_of_time,
    }


def _drawn(chart: Any, name: str, said: str) -> str:
    chart.uuid = name
    chart.add_xml_filter(lambda root: _plain(root, said))
    text: str = chart.render(is_unicode=True, disable_xml_declaration=True)
    return text


def _plain(root: Element, said: str) -> Element:
    """Without scripts and comments, with a text for screen readers."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.endswith("script"):
                parent.remove(child)
            else:
                child.attrib.pop("id", None)  # every chart uses the same ones
    root.set("role", "img")
    root.set("aria-label", said)
    return root
