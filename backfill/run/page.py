"""A run as a page: its plan, and after its start what happened."""

from __future__ import annotations

from backfill.api.gateway import Gateway
from backfill.api.queries import load_fresh_plan, load_receipts, load_verification_if_possible
from backfill.errors import BadRequest


async def run_page(gateway: Gateway, run_id: str) -> str:
    """A run as one HTML page. Raises BadRequest if the extra `page` is missing."""
    try:
        from backfill.render.page.page import plan_page
    except ModuleNotFoundError as missing:
        raise BadRequest(
            f"a page needs {missing.name}, which is not installed",
            "pip install 'supabase-backfill[page]'",
        ) from missing
    plan = await load_fresh_plan(gateway, run_id)
    if plan.started_at is None:
        return plan_page(plan)
    verification = await load_verification_if_possible(gateway, run_id)
    receipts = [r async for some in load_receipts(gateway, run_id) for r in some]
    return plan_page(plan, verification, receipts)
