"""A run as a page: its plan, and after its start what happened."""

from __future__ import annotations

from array import array

from backfill.api.gateway import Gateway
from backfill.api.queries import load_fresh_plan, load_receipts, load_verification_if_possible
from backfill.errors import BadRequest


async def run_page(gateway: Gateway, run_id: str) -> str:
    """A run as one HTML page. Raises BadRequest if the extra `page` is missing."""
    try:
        from backfill.render.page.figures import latencies_s
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
    took_s = array("d")
    async for receipts in load_receipts(gateway, run_id):  # those of a session come together
        took_s.extend(latencies_s(plan, receipts))
    return plan_page(plan, verification, sorted(took_s))
