"""A plan, and what became of it, as one HTML file that needs nothing else. Pure.

The text is the Markdown's, so that both say the same. The page's own policy forbids scripts and
everything from outside: sections fold without one. Needs the extra `page`.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from backfill.render.markdown import table
from backfill.render.page import charts, figures
from backfill.render.page.markup import html_of, mark
from backfill.render.page.now import Tile, headline, tiles
from backfill.render.page.sheet import sheet
from backfill.render.plan import plan_pieces
from backfill.render.reports import verification_markdown
from backfill.render.state import OVER, error_text

if TYPE_CHECKING:
    from backfill.results.plan import Plan
    from backfill.results.verification import Verification

MOST_CHARS = 200_000  # per section: a longer one is cut at a line, and says so


def plan_page(
    plan: Plan,
    verification: Verification | None = None,
    latencies_s: Sequence[float] = (),
) -> str:
    """The page of a plan. Once the run has started it also shows what happened.

    latencies_s: seconds from each session's lease to its last receipt, ascending.
    """
    opening, *parts = _parts(plan_pieces(plan))
    drawings = charts.of_sections(plan)
    sections = [_section(plan, text, drawings.get(_title(text), "")) for text in parts]
    # How it stands comes first, though the Markdown ends with it.
    sections.sort(key=lambda section: section.name != "status")
    if plan.started_at is not None:
        sections.insert(1, _happened(plan, verification, latencies_s))
    body = [
        _header(plan, opening, verification),
        _contents(sections),
        f"<main>{_linked(sections)}</main>",
    ]
    return sheet(f"{headline(plan)} · backfill {plan.run_id[:8]}", "\n".join(body))


def _parts(pieces: Iterable[str]) -> list[str]:
    """What comes before the first section, then each section, hardly longer than is shown."""
    parts = [""]
    for piece in pieces:
        first, *more = re.split(r"^(?=## )", piece, flags=re.M)
        if len(parts[-1]) <= MOST_CHARS:
            parts[-1] += first
        parts += more
    return parts


class _Section(NamedTuple):
    """A part of the page. name: its anchor."""

    name: str
    title: str
    html: str


def _header(plan: Plan, opening: str, verification: Verification | None) -> str:
    """Which run it is, how it stands, in figures, and what it was asked for."""
    kind = "plan" if plan.started_at is None else "run"
    asked = html_of(re.sub("^# .*", "", opening))
    facts = f'<div class="facts">{asked}</div>' if asked else ""
    return (
        f"<header><h1>Backfill {kind} <code>{html.escape(plan.run_id)}</code></h1>"
        f'<p class="now">{html.escape(headline(plan))}</p>'
        f'<dl class="figures">{"".join(map(_tile, tiles(plan, verification)))}</dl>'
        f"{facts}</header>"
    )


def _tile(tile: Tile) -> str:
    name, value, kind = tile
    shown = mark(kind, value) if kind else html.escape(value)
    return f"<div><dt>{html.escape(name)}</dt><dd>{shown}</dd></div>"


def _contents(sections: Sequence[_Section]) -> str:
    links = (f'<li><a href="#{s.name}">{html.escape(s.title)}</a></li>' for s in sections)
    return (
        '<nav aria-labelledby="contents"><h2 id="contents">Contents</h2>'
        f"<ul>{''.join(links)}</ul></nav>"
    )


def _linked(sections: Sequence[_Section]) -> str:
    """The sections. Where one names another, that is a link to it."""
    names = {html.escape(s.title): s.name for s in sections}
    named = re.compile(rf"(?<=[Tt]he section )({'|'.join(map(re.escape, names))})")
    shown = "".join(s.html for s in sections)
    return named.sub(lambda found: f'<a href="#{names[found[1]]}">{found[1]}</a>', shown)


def _title(markdown: str) -> str:
    return markdown.partition("\n")[0].removeprefix("## ").strip()


def _section(plan: Plan, markdown: str, drawing: str = "") -> _Section:
    """A section of the Markdown. The list of all sessions is folded until somebody opens it."""
    title = _title(markdown)
    text = html_of(_cut(markdown.partition("\n")[2]), one_title=plan.called.one_title)
    return _folding(title, drawing + text, is_open=title != plan.called.title)


def _folding(title: str, inner: str, *, is_open: bool = True) -> _Section:
    """The anchor stands inside, so that a link to a folded section opens it."""
    name = re.sub(r"\W+", "-", title.lower()).strip("-")
    heading = html_of(f"## {title}").strip()
    shown = (
        f"<section><details{' open' if is_open else ''}><summary>{heading}</summary>"
        f'<div id="{name}">{inner}</div></details></section>'
    )
    return _Section(name, title, shown)


def _cut(markdown: str) -> str:
    if len(markdown) <= MOST_CHARS:
        return markdown
    kept = markdown[: markdown.rindex("\n", 0, MOST_CHARS)]
    return f"{kept}\n\nCut here, to keep the page small: `backfill show RUN` names all.\n"


# What happened ---------------------------------------------------------------------------------


def _happened(
    plan: Plan, verification: Verification | None, latencies_s: Sequence[float]
) -> _Section:
    parts = [
        _progress(plan),
        _failures(plan),
        charts.latencies(plan, latencies_s),
        _verified(plan, verification) if verification else "",
    ]
    return _folding("What happened", "".join(parts))


def _progress(plan: Plan) -> str:
    if not any(figures.settled_over_time(plan).values()):
        return html_of(f"No {plan.called.one} is settled.")
    return charts.done(plan)


def _failures(plan: Plan) -> str:
    """When sessions failed, and why."""
    rows = Counter(error_text(s) for s in plan.sessions.in_state("failed")).most_common()
    if not rows:
        return html_of("### Failures\n\nNone.\n")
    return charts.failed(plan) + html_of(
        f"### Failures\n\n{table(('Error', plan.called.title), rows)}\n"
    )


def _verified(plan: Plan, verification: Verification) -> str:
    text = verification_markdown(verification, plan.called).partition("\n")[2]
    unfinished = "The run is not over: what was not scored yet counts as missing.\n\n"
    shown = ("" if plan.state in OVER else unfinished) + text.replace("\n## ", "\n### ")
    return html_of(_cut(shown), one_title=plan.called.one_title)
