"""What else a plan's writes set off, as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfill.markdown import NONE, code, escaped, section, table

if TYPE_CHECKING:
    from backfill.plans import Plan


def blast_radius(plan: Plan) -> str:
    """Everything on the written tables that fires, listens or refers to them."""
    if not plan.effects:
        return section(
            "Blast radius",
            "Nothing else on these tables fires, listens or refers to them.",
        )
    rows = (
        (
            e.kind,
            code(e.name),
            code(e.table) if e.table else NONE,
            escaped(e.detail),
            NONE if e.events is None else e.events,
        )
        for e in plan.effects
    )
    return section(
        "Blast radius",
        "What else happens when these rows are written, as the catalogs say.",
        table(("Kind", "Name", "Table", "What it does", "Events"), rows),
    )
