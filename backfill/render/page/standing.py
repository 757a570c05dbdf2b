"""The standing approvals as one HTML file that needs nothing else. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backfill.render.markdown import counted
from backfill.render.page.markup import html_of
from backfill.render.page.sheet import sheet
from backfill.render.standing import standings_markdown

if TYPE_CHECKING:
    from backfill.results.standing import StandingApproval


def standing_page(found: Sequence[StandingApproval]) -> str:
    """The page of all standing approvals. Its title says how many are in force."""
    in_force = sum(one.is_in_force for one in found)
    title = f"{counted(in_force, 'standing approval')} in force · backfill"
    return sheet(title, f"<main><section>{html_of(standings_markdown(found))}</section></main>")
