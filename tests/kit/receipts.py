"""The receipts of a project, as its owner reads them."""

from __future__ import annotations

from typing import Any

from tests.conftest import Project


def receipts(project: Project, *columns: str) -> list[tuple[Any, ...]]:
    """The receipts in the order of the writes."""
    wanted = columns or ("operation", "session_id", "component")
    rows = project.rows(
        f"select {', '.join(wanted)} from public.backfill_receipts order by receipt_id"
    )
    return [tuple(row.values()) for row in rows]
