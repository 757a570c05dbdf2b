"""`show --html`: one file, read in a real browser: light, dark, on a phone, on paper.

At five moments of a run, everything on it can be read. axe-core finds nothing serious.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

import backfill
from backfill.render.markdown import MARKS
from backfill.render.page import charts, figures
from backfill.render.page.markup import LONG_ROWS, html_of
from backfill.render.page.page import plan_page
from backfill.results.check import Check
from backfill.results.sessions import PlannedSessions
from tests.conftest import Project
from tests.kit.browser import running_browser
from tests.kit.commands import Shell
from tests.kit.contrast import too_faint
from tests.kit.npm import installed
from tests.kit.pages import pages_of_a_run
from tests.kit.scorers import misbehave
from tests.kit.seed import CANDIDATES, REHEARSED, SEED
from tests.test_rendering import REQUEST, seed_plan

FAST: dict[str, Any] = {**SEED, "throttle_per_minute": 600, "batch_size": 5}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \"'&lt; `</code><b>bold</b>`"
PHONE = ViewportSize(width=375, height=800)
DESK = {"width": 1100, "height": 900}
CHARTS = ("candidates", "timeline")
AFTERWARDS = ("progress", "failed")
AXE = "axe-core@4.14.1"
# Contrast is measured below, of every chart's text too, and in a tenth of the time.
SERIOUS = """axe.run({
  resultTypes: ['violations'],
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'],
  rules: { 'color-contrast': { enabled: false } },
}).then((found) => found.violations
  .filter((v) => ['serious', 'critical'].includes(v.impact))
  .map((v) => [v.id, v.nodes.map((node) => node.html)]))"""
VIEWS: tuple[tuple[int, Any, Any], ...] = (
    (375, "screen", "light"),
    (1100, "screen", "dark"),
    (800, "print", "dark"),
)
NOW = {
    "waiting": "Waits for approval: 7 sessions, 10 rows",
    "running": "Running: 2 of 7 sessions done",
    "paused": "Paused: 2 of 7 sessions done",
    "completed": "Completed: 5 of 7 sessions done, 2 failed",
    "undone": "Undone: 5 of 7 sessions undone, 2 failed",
}
TILES = {
    "waiting": ["sessions 7", "calls 10", "rows 10", "batches 4", "starts per minute 600"],
    "running": ["sessions 7", "done 2", "to do 5"],
    "paused": ["sessions 7", "done 2", "to do 5"],
    "completed": ["sessions 7", "done 5", "failed 2"],
    "undone": ["sessions 7", "undone 5", "failed 2"],
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Without the tabs of other tests, which go on to be drawn."""
    yield chromium
    for context in chromium.contexts:
        context.close()


def opened(browser: Browser, file: Path, **context: Any) -> Page:
    """The page in a tab of its own."""
    tab = browser.new_context(**{"viewport": DESK, **context}).new_page()
    load(tab, file)
    return tab


def load(tab: Page, file: Path) -> None:
    """Show a page. Fails on any request for something else, and on any error."""
    asked: list[str] = []
    said: list[str] = []
    hears: dict[Any, Callable[[Any], None]] = {
        "request": lambda request: asked.append(request.url),
        "console": lambda message: said.append(message.text),
        "pageerror": lambda error: said.append(str(error)),
    }
    for event, hear in hears.items():
        tab.on(event, hear)
    tab.goto(file.as_uri())
    assert (asked, said) == ([file.as_uri()], [])
    for event, hear in hears.items():
        tab.remove_listener(event, hear)


def colour(tab: Page, selector: str, name: str) -> str:
    value = tab.eval_on_selector(selector, f"e => getComputedStyle(e)['{name}']")
    return str(value)


def drawn(tab: Page, name: str, shape: str) -> int:
    """How many marks of a chart have a size."""
    return int(
        tab.eval_on_selector_all(
            f"#chart-{name} .plot .series {shape}",
            "all => all.map(e => e.getBBox()).filter(b => b.width * b.height > 0).length",
        )
    )


def is_wider_than_the_screen(tab: Page) -> bool:
    return bool(tab.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


def edge_of_the_verdict(tab: Page) -> float:
    """Where the figures of the verdict end at the right, in pixels. 0 without a verdict."""
    return float(
        tab.eval_on_selector_all(
            "#what-happened .cards td",
            "all => Math.max(0, ...all.map(e => e.getBoundingClientRect().right))",
        )
    )


@pytest.fixture
def waiting(project: Project, shell: Shell, tmp_path: Path) -> tuple[Path, backfill.Plan]:
    """The page of a plan that waits for approval, as the command line writes it."""
    with project.connect() as bf:
        plan = bf.plan(**REHEARSED)
    file = tmp_path / "plan.html"
    assert shell("show", plan.run_id, "--html", str(file)).out.strip() == str(file)
    return file, plan


def test_a_waiting_plan_is_one_page_that_says_what_to_approve(
    browser: Browser, waiting: tuple[Path, backfill.Plan]
) -> None:
    """Figures, charts, every session, the digest and both ways to approve; nothing from outside."""
    file, plan = waiting
    tab = opened(browser, file)
    assert plan.run_id in tab.inner_text("h1")
    assert tab.inner_text(".figures").split("\n")[:2] == ["sessions", "39"]
    assert not tab.locator("#sessions").is_visible()
    tab.click("nav a[href='#sessions']")
    text = tab.inner_text("body")
    assert all(s.session_id in text for s in plan.sessions)
    assert f"backfill approve {plan.run_id} --digest {plan.digest}" in text
    assert plan.approval_sql in text
    assert [tab.locator(f"#chart-{name}").is_visible() for name in CHARTS] == [True] * 2
    assert [tab.locator(f"#chart-{name}").count() for name in AFTERWARDS] == [0] * 2
    days = {(s.category, s.session_at.date()) for s in plan.sessions}
    assert drawn(tab, "candidates", "rect") == len(days)
    for section in ("rehearsal", "risks", "success-criteria", "since-the-plan-was-sealed"):
        assert tab.locator(f"#{section}").is_visible()
        assert tab.locator(f"nav a[href='#{section}']").is_visible()


def test_it_is_light_and_dark_as_the_reader_has_it(
    browser: Browser, waiting: tuple[Path, backfill.Plan]
) -> None:
    """The charts' text too; on paper always dark on white."""
    light = opened(browser, waiting[0], color_scheme="light")
    dark = opened(browser, waiting[0], color_scheme="dark")
    axis = "#chart-candidates .axis.y text"
    assert colour(light, "body", "background-color") == "rgb(255, 255, 255)"
    assert colour(light, axis, "fill") == colour(light, "body", "color")
    assert colour(dark, "body", "background-color") == "rgb(21, 24, 27)"
    assert colour(dark, axis, "fill") == colour(dark, "body", "color") == "rgb(230, 233, 236)"
    dark.emulate_media(media="print")
    assert colour(dark, "body", "background-color") == "rgb(255, 255, 255)"
    assert colour(dark, axis, "fill") == "rgb(28, 32, 36)"
    assert dark.pdf(format="A4").startswith(b"%PDF")
    assert not is_wider_than_the_screen(dark)


def test_it_fits_a_phone(browser: Browser, waiting: tuple[Path, backfill.Plan]) -> None:
    """The page does not scroll sideways; a wide table and a chart scroll in their own place."""
    tab = opened(browser, waiting[0], viewport=PHONE, is_mobile=True, device_scale_factor=2)
    assert not is_wider_than_the_screen(tab)
    box = tab.locator("#chart-candidates").bounding_box()
    assert box is not None
    assert box["width"] > 600
    assert tab.locator("figure:has(#chart-candidates) >> text=scroll sideways").is_visible()


def test_afterwards_it_shows_what_happened(
    browser: Browser, project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """Progress, latencies, failures by cause, the five buckets."""
    victims = [row["session_id"] for row in project.rows(CANDIDATES)[:3]]
    misbehave(project.db, {"fail": victims[:2], "nothing": victims[2:]})
    plan = timed.plan(**FAST)
    project.approve(plan)
    timed.apply(plan.run_id)
    file = tmp_path / "run.html"
    file.write_text(timed.page(plan.run_id), encoding="utf-8")
    tab = opened(browser, file)
    assert [tab.locator(f"#chart-{name}").is_visible() for name in AFTERWARDS] == [True] * 2
    assert drawn(tab, "progress", "path") == drawn(tab, "failed", "path") == 1
    assert colour(tab, "#chart-failed .series path", "stroke") == "rgb(192, 39, 45)"
    happened = tab.inner_text("#what-happened")
    assert "fc_scores: P0001: no score for this one\t2" in happened
    assert "PARTIAL" in happened
    for bucket in ("as planned", "missing", "extra", "filled elsewhere", "changed since"):
        assert bucket in happened
    assert "its last row: p50 0 s, p95 0 s." in happened  # on this clock no call takes time
    assert "as it happened" in tab.inner_text("#batching-strategy")
    assert "not rehearsed" in tab.inner_text("#rehearsal").lower()


def test_at_every_moment_all_can_be_read(
    browser: Browser, project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """It says what the run is now, has contrast everywhere, fits a phone, and prints whole."""
    axe = (installed(AXE) / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    tab = browser.new_context(viewport=PHONE, is_mobile=True).new_page()
    for moment, file in pages_of_a_run(project, timed, tmp_path).items():
        tab.set_viewport_size(PHONE)
        tab.emulate_media(media="screen", color_scheme="light")
        load(tab, file)
        assert tab.title().startswith(f"{NOW[moment]} · backfill ")
        assert tab.inner_text(".now") == NOW[moment]
        tiles = [" ".join(tile.split()) for tile in tab.locator(".figures div").all_inner_texts()]
        assert tiles[: len(TILES[moment])] == TILES[moment]
        assert not any(emoji in file.read_text(encoding="utf-8") for emoji in MARKS.values())
        tab.evaluate(axe)
        assert tab.evaluate(SERIOUS) == []
        assert (moment != "waiting") <= edge_of_the_verdict(tab) <= PHONE["width"]
        for width, media, scheme in VIEWS:
            tab.set_viewport_size({"width": width, "height": 800})
            tab.emulate_media(media=media, color_scheme=scheme)
            assert too_faint(tab) == [], (moment, width, media, scheme)
            assert not is_wider_than_the_screen(tab)
            assert tab.locator("#sessions").is_visible() is (media == "print")


def test_nobody_gets_markup_into_the_page(
    browser: Browser, project: Project, tmp_path: Path
) -> None:
    """Names, reasons, errors and versions are text, in the charts too."""
    with project.connect() as bf:
        plan = bf.plan(**REHEARSED)
        full = bf.get(plan.run_id)
    rows = {"before": 1, "after": 2, "inserted": 1, "updated": 0, "deleted": 0}
    spoiled = replace(
        full,
        environment=HOSTILE,
        reason=HOSTILE,
        state="paused",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        request={**full.request, "engine_version": HOSTILE, HOSTILE: HOSTILE},
        checks=tuple(replace(c, detail=HOSTILE, name=f"{c.name}{HOSTILE}") for c in full.checks),
        sessions=PlannedSessions(
            replace(s, category=f"{s.category}{HOSTILE}", state="failed", error_message=HOSTILE)
            for s in full.sessions
        ),
        figures={
            **full.figures,
            "rehearsal": {
                **full.figures["rehearsal"],
                "rows": {HOSTILE: rows},
            },
        },
    )
    file = tmp_path / "hostile.html"
    file.write_text(plan_page(spoiled), encoding="utf-8")
    tab = opened(browser, file)
    assert tab.locator("script, img, iframe, object, link, b, [onerror]").count() == 0
    assert tab.inner_text("body").count("<script>alert(1)</script>") > 10
    assert "<script>alert(1)" in (
        tab.locator("#chart-candidates .legends").first.text_content() or ""
    )


def test_a_file_that_cannot_be_written_says_so(
    project: Project, shell: Shell, tmp_path: Path
) -> None:
    """Whole or not at all; the sentence names the file."""
    with project.connect() as bf:
        plan = bf.plan(**SEED)
    refused = shell("show", plan.run_id, "--html", str(tmp_path / "none" / "plan.html"))
    assert refused.code == 2
    assert "plan.html could not be written: No such file" in refused.err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder").mkdir()
    refused = shell("show", plan.run_id, "--html", str(tmp_path / "folder"))
    assert refused.code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


PAGE_MODULES = [f"backfill.render.page.{name}" for name in ("page", "charts", "drawn")]


def test_without_the_extra_it_says_how_to_get_it(
    bf: backfill.Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else works without the drawing library."""
    plan = bf.plan(**SEED)
    for name in (*PAGE_MODULES, "pygal"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("backfill.render.page.charts")
    monkeypatch.setitem(sys.modules, "pygal", None)
    with pytest.raises(backfill.BadRequest, match="pip install 'supabase-backfill"):
        bf.page(plan.run_id)


def test_a_mark_is_drawn_and_has_a_word() -> None:
    """Unless what follows it says the same."""
    shown = html_of(
        f"## Verdict: {MARKS['pass']} PASS\n\n"
        f"| | Seen |\n| --- | --- |\n| {MARKS['fail']} | none |\n\n"
        f"- {MARKS['warn']} **a**\n\n{MARKS['fail']} 2 checks failed: a, b."
    )
    assert not any(emoji in shown for emoji in MARKS.values())
    assert re.findall("</svg>(.*?)</span>", shown) == ["", "fail", "warn", ""]


def test_a_long_list_of_sessions_is_folded() -> None:
    """Not one of anything else, and not a short one."""
    rows = "| one | a |\n" * (LONG_ROWS + 1)
    listed = f"| Order | Error |\n| --- | --- |\n{rows}"
    assert "<summary>21 rows</summary>" in html_of(listed, one_title="Order")
    assert "<summary>" not in html_of(listed, one_title="Session")
    assert "<summary>" not in html_of(listed.rsplit("|", 3)[0], one_title="Order")


@pytest.mark.parametrize("rows", ["orders", "Übungen", "заказы"])
def test_the_list_of_rows_has_an_anchor_by_any_name(rows: str) -> None:
    """The rows are called as their target calls them, in letters of any language."""
    plan = seed_plan()
    page = plan_page(replace(plan, figures={**plan.figures, "called": ["row", rows]}))
    name = rows.lower()
    assert f'<a href="#{name}">{rows.capitalize()}</a>' in page
    assert f'<div id="{name}">' in page


def test_what_failed_is_linked() -> None:
    """A sentence that names a section leads to it."""
    failed = Check("scoring calls", "fail", "all failed")
    assert 'The section <a href="#risks">Risks</a> says' in plan_page(seed_plan(checks=(failed,)))


def sessions_on(*days: str) -> PlannedSessions:
    noons = [datetime.fromisoformat(f"{day}T12:00:00Z") for day in days]
    return PlannedSessions(
        backfill.PlannedSession(number, str(number), noon, "c", ("c",), "recent", 1)
        for number, noon in enumerate(noons, start=1)
    )


@pytest.mark.parametrize(
    ("days", "unit", "labels", "counts"),
    [
        (("2025-08-03",), "day", ["2025-08-03"], [1]),
        (("2025-08-01", "2025-08-03", "2025-08-03"), "day", None, [1, 0, 2]),
        (("2025-01-01", "2025-03-10"), "week", None, [1, *[0] * 9, 1]),
        (("2023-11-30", "2025-01-31"), "week", None, None),
        (("2023-11-30", "2025-02-28"), "month", None, [1, *[0] * 14, 1]),
    ],
)
def test_a_bar_is_a_day_a_week_or_a_month(
    days: tuple[str, ...], unit: str, labels: list[str] | None, counts: list[int] | None
) -> None:
    """As many as can be read, without a gap, and none is lost."""
    plan = backfill.Plan("r", "approved", "d", None, None, {}, sessions=sessions_on(*days))
    found, names, series = figures.candidates_by_day(plan)
    (values,) = series.values()
    assert found == unit
    assert labels in (None, names)
    assert counts in (None, values)
    assert (len(values), sum(values)) == (len(names), len(days))
    assert len(names) <= figures.MOST_BARS + 1


def test_the_window_holds_what_started_in_the_last_minute() -> None:
    """A start leaves the window 60 s later."""
    starts = [(0.0, 5), (15.0, 5), (60.0, 5)]
    assert figures.in_the_window(starts) == [
        (0.0, 5.0), (15.0, 10.0), (60.0, 10.0), (75.0, 5.0), (120.0, 0.0),
    ]  # fmt: skip


def test_an_axis_of_less_than_a_second_has_two_ends() -> None:
    """A run in bulk may be over in a third of one: rounded, it would begin and end at 0."""
    drawn = charts.lines("progress", "said", "seconds", {"done": [(0.0, 0.0), (0.34, 39.0)]})
    assert ">0.34<" in drawn
    assert ">0<" in drawn


def test_a_chart_has_a_colour_for_each_of_many_series() -> None:
    """Also of more than have a colour of their own: four components make fifteen categories."""
    many = {f"lacks {number}": [1, 2] for number in range(15)}
    drawn = charts.stacked_bars("candidates", "said", ["2025-08-01", "2025-08-02"], many)
    assert all(f">{name}<" in drawn for name in many)
    assert "white" not in drawn


def test_latencies_are_of_the_last_attempt() -> None:
    """From the lease to the last row; a receipt of an earlier attempt is passed over."""
    leased = datetime(2026, 1, 1, tzinfo=UTC)
    session = replace(sessions_on("2025-08-01")[0], started_at=leased, attempts=2)
    plan = backfill.Plan("r", "running", "d", None, None, {}, sessions=PlannedSessions([session]))
    receipts = [
        {"ordinal": 1, "attempt": attempt, "at": (leased + timedelta(seconds=s)).isoformat()}
        for attempt, s in ((1, -30), (2, 0.25), (2, 1.5))
    ]
    assert figures.latencies_s(plan, receipts) == [1.5]
    assert figures.latency_bars([0.004, 0.3, 1.5]) == (
        ["≤ 10 ms", "≤ 20 ms", "≤ 50 ms", "≤ 100 ms", "≤ 200 ms", "≤ 500 ms", "≤ 1 s", "≤ 2 s"],
        [1, 0, 0, 0, 0, 1, 0, 1],
    )


def test_a_run_without_a_throttle_has_a_tile_that_says_so() -> None:
    """Not a number of starts that is none."""
    paced, free = (
        plan_page(seed_plan(request={**REQUEST, "throttle_per_minute": n})) for n in (20, None)
    )
    assert "<dt>starts per minute</dt><dd>20</dd>" in paced
    assert "<dt>throttle</dt><dd>none</dd>" in free
    assert "<dt>starts per minute</dt>" not in free


ASKED_BESIDE_PYGAL = """
import subprocess
import sys

class Asked:
    names = set()
    def find_spec(self, name, *_):
        if any(type(finder).__name__ == "PluginImportFixer" for finder in sys.meta_path):
            self.names.add(name.partition(".")[0])

sys.meta_path.insert(0, Asked())
import backfill.render.page.page
print(*(name for name in Asked.names if name not in sys.stdlib_module_names))
assert not any(type(finder).__name__ == "PluginImportFixer" for finder in sys.meta_path)
"""


def test_nothing_is_imported_while_pygals_finder_is_there() -> None:
    """Before Python 3.12 what is not installed would warn of it, and that may be an error."""
    ran = subprocess.run(
        [sys.executable, "-c", ASKED_BESIDE_PYGAL], check=True, capture_output=True, text=True
    )
    assert {*ran.stdout.split()} <= {"pygal", "importlib_metadata", "lxml"}
