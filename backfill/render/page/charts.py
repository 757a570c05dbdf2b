"""Numbers as SVG for a page. The colours are the page's own, so light, dark and paper all fit.

The only module that draws. Pure: the same numbers give the same text. Needs the extra `page`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any
from xml.etree.ElementTree import Element

import pygal
from pygal.style import Style

# pygal leaves a finder for its plugins behind, of a kind that Python 3.12 no longer asks. In older
# versions every later import in the program would warn of it.
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "PluginImportFixer"]

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
