"""A plan, and what became of it, as one HTML file that needs nothing else. Pure.

The text is the Markdown's, so that both say the same. markdown-it escapes it. The page's own
policy forbids scripts and everything from outside. Needs the extra `page`.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from backfill.render.markdown import Called, duration, table
from backfill.render.page import charts, figures
from backfill.render.page.style import STYLE
from backfill.render.plan import plan_markdown
from backfill.render.reports import verification_markdown
from backfill.render.state import error_text

if TYPE_CHECKING:
    from backfill.results.plan import Plan
    from backfill.results.run import Json
    from backfill.results.verification import Verification

MOST_CHARS = 200_000  # per section: a longer one is cut at a line, and says so
_SHOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def plan_page(
    plan: Plan,
    verification: Verification | None = None,
    receipts: Sequence[Mapping[str, Json]] = (),
) -> str:
    """The page of a plan. Once the run has started it also shows what happened."""
    facts, *sections = re.split(r"^(?=## )", plan_markdown(plan), flags=re.M)
    ending = [s for s in sections if s.startswith("## Status")]
    others = [s for s in sections if not s.startswith("## Status")]
    body = [f"<header>{_shown(facts)}</header>", _figures(plan), *map(_section, ending)]
    if plan.started_at is not None:
        body.append(_happened(plan, verification, receipts))
    drawings = _drawings(plan)
    body += [_section(text, drawings.get(_title(text), "")) for text in others]
    title = html.escape(f"Backfill plan {plan.run_id[:8]}")
    return _PAGE.format(title=title, style=STYLE, body="\n".join(body))


def _shown(markdown: str) -> str:
    """Markdown as HTML. On a narrow page a table scrolls by itself."""
    text: str = _SHOWN.render(markdown)
    text = text.replace("<table>", '<div class="wide"><table>')
    return text.replace("</table>", "</table></div>")


def _title(markdown: str) -> str:
    return markdown.partition("\n")[0].removeprefix("## ").strip()


def _section(markdown: str, drawing: str = "") -> str:
    title, _, text = markdown.partition("\n")
    name = re.sub(r"[^a-z]+", "-", _title(markdown).lower()).strip("-")
    return f'<section id="{name}">{_shown(title)}{drawing}{_shown(_cut(text))}</section>'


def _cut(markdown: str) -> str:
    if len(markdown) <= MOST_CHARS:
        return markdown
    kept = markdown[: markdown.rindex("\n", 0, MOST_CHARS)]
    return f"{kept}\n\nCut here, to keep the page small: `backfill show RUN` names all.\n"


def _figure(caption: str, svg: str) -> str:
    said = html.escape(caption)
    return f'<figure><figcaption>{said}</figcaption><div class="wide">{svg}</div></figure>'


def _figures(plan: Plan) -> str:
    """The plan at a glance."""
    if not plan.figures:
        return ""
    throttle, runtime_s = plan.request.get("throttle_per_minute"), plan.expected_runtime_s
    rehearsed = plan.rehearsal.runtime_s if plan.rehearsal else None
    longest_s = rehearsed if rehearsed is not None else runtime_s
    shown = {
        plan.called.many: f"{plan.candidates['total']:,}",
        "calls": f"{plan.expected_calls['total']:,}",
        "rows": f"{plan.expected_writes['total']:,}",
        "batches": f"{len(plan.batches):,}",
        **({"starts per minute": f"{throttle:,}"} if throttle else {"throttle": "none"}),
        "expected": duration(longest_s) if longest_s is not None else "not measured",
    }
    pairs = (
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in shown.items()
    )
    return f'<dl class="figures">{"".join(pairs)}</dl>'


def _drawings(plan: Plan) -> dict[str, str]:
    """Section -> its chart, for the sections that have one."""
    if not plan.sessions:
        return {}
    return {
        "Candidate analysis": _candidates(plan),
        "Batching strategy": _timeline(plan),
        "Rehearsal": _rehearsed(plan),
    }


def _candidates(plan: Plan) -> str:
    unit, labels, series = figures.candidates_by_day(plan)
    caption = f"{plan.called.title} by the UTC {unit} of their creation, by what they lack"
    return _figure(caption, charts.stacked_bars("candidates", caption, labels, series))


def _timeline(plan: Plan) -> str:
    throttle = plan.request.get("throttle_per_minute")
    if not throttle:
        return ""
    planned = figures.in_the_window(figures.planned_starts(plan))
    seen = figures.in_the_window(figures.seen_starts(plan))
    told = {"planned": planned, "as it happened": seen} if seen else {"planned": planned}
    carried = figures.carried_to_the_end(told)
    last = max(x for points in told.values() for x, _ in points)
    series: dict[str, charts.Points] = {
        f"throttle: {throttle}": [(0.0, float(throttle)), (last, float(throttle))],
        **{name: charts.steps(points) for name, points in carried.items()},
    }
    first = f" (the first {figures.MOST_STARTS} batches)"
    caption = f"{plan.called.title} started in the last 60 s, against the throttle" + (
        first if len(plan.batches) > figures.MOST_STARTS else ""
    )
    x_title = "seconds after the first batch"
    return _figure(caption, charts.lines("timeline", caption, x_title, series))


def _rehearsed(plan: Plan) -> str:
    if plan.rehearsal is None or not plan.rehearsal.rows:
        return ""
    rows = plan.rehearsal.rows
    many = plan.called.many
    caption = f"Rows of the rehearsed {many} before and after their calls, rolled back since"
    series = {moment: [rows[name][moment] for name in rows] for moment in ("before", "after")}
    return _figure(caption, charts.grouped_bars("rehearsal-rows", caption, list(rows), series))


# What happened ---------------------------------------------------------------------------------


def _happened(
    plan: Plan, verification: Verification | None, receipts: Sequence[Mapping[str, Json]]
) -> str:
    parts = [
        _shown("## What happened"),
        _progress(plan),
        _latencies(plan, receipts),
        _shown(_failures(plan)),
        _verified(verification, plan.called) if verification else "",
    ]
    return f'<section id="what-happened">{"".join(parts)}</section>'


def _progress(plan: Plan) -> str:
    settled = figures.carried_to_the_end(figures.settled_over_time(plan))
    series = {name: charts.steps(points) for name, points in settled.items() if points}
    if not series:
        return _shown(f"No {plan.called.one} is settled.")
    caption = f"{plan.called.title} settled over time"
    x_title = "seconds since the run was started"
    return _figure(caption, charts.lines("progress", caption, x_title, series))


def _latencies(plan: Plan, receipts: Sequence[Mapping[str, Json]]) -> str:
    found_s = figures.latencies_s(plan, receipts)
    if not found_s:
        return ""
    half, most = (duration(figures.share_below(found_s, share)) for share in (0.5, 0.95))
    labels, counts = figures.latency_bars(found_s)
    called = plan.called
    caption = f"From the lease of each {called.one} to its last row: p50 {half}, p95 {most}"
    bars = {called.many: counts}
    return _figure(caption, charts.grouped_bars("latencies", caption, labels, bars))


def _failures(plan: Plan) -> str:
    rows = Counter(error_text(s) for s in plan.sessions.in_state("failed")).most_common()
    if not rows:
        return "### Failures\n\nNone.\n"
    return f"### Failures\n\n{table(('Error', plan.called.title), rows)}\n"


def _verified(verification: Verification, called: Called) -> str:
    buckets = {n.replace("_", " "): len(rows) for n, rows in verification.buckets.items()}
    caption = "Planned rows against the rows that stand there"
    drawn = charts.grouped_bars("buckets", caption, list(buckets), {"rows": list(buckets.values())})
    text = verification_markdown(verification, called).partition("\n")[2].replace("\n## ", "\n### ")
    return _figure(caption, drawn) + _shown(_cut(text))
