"""A run's page: what it needs is loaded, then drawn; without the extra `page` it says so."""

from __future__ import annotations

from backfill.errors import BadRequest
from backfill.gateway import Gateway
from backfill.loading import load_fresh_plan, load_receipts, load_verification


async def page_of(gateway: Gateway, run_id: str) -> str:
    """The page of a run. Raises BadRequest where the extra is not installed, UnknownRun."""
    try:
        from backfill.rendering_page import plan_page
    except ModuleNotFoundError as missing:
        raise BadRequest(
            f"a page needs {missing.name}, which is not installed",
            "pip install 'supabase-backfill[page]'",
        ) from missing
    plan = await load_fresh_plan(gateway, run_id)
    if plan.started_at is None:
        return plan_page(plan)
    verification = await load_verification(gateway, run_id)
    receipts = [r async for some in load_receipts(gateway, run_id) for r in some]
    return plan_page(plan, verification, receipts)
