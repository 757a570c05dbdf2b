"""Move a run as a person asks. A move whose answer was lost has happened all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from backfill.api.answers import RUN
from backfill.api.gateway import Gateway
from backfill.api.queries import load_status
from backfill.api.retries import BRIEF
from backfill.errors import BackfillError, IllegalMove
from backfill.results.run import Json, Status

# What a run is afterwards. From there none of these moves is legal once more, but pause and cancel,
# which leave a run as it is.
BECOMES = {
    "backfill_approve": "approved",
    "backfill_reject": "rejected",
    "backfill_pause": "paused",
    "backfill_resume": "running",
    "backfill_cancel": "cancelled",
}


async def move(
    gateway: Gateway,
    function: str,
    run_id: str,
    given: Mapping[str, Json],
    access_token: str | None = None,
) -> Status:
    """Move a run. Returns its status then. Raises IllegalMove, and what the database refuses."""
    lost: list[BackfillError] = []
    patience = replace(BRIEF, on_wait=lambda error, _: lost.append(error))
    asked = {"run": run_id, **given}
    try:
        await gateway.call(function, asked, RUN, access_token=access_token, patience=patience)
    except IllegalMove:
        status = await load_status(gateway, run_id)
        if not lost or status.state != BECOMES.get(function):
            raise
        return status
    return await load_status(gateway, run_id)
