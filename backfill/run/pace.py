"""The verb that lowers the rate of a run and raises it again."""

from __future__ import annotations

from backfill.api.gateway import Gateway
from backfill.api.queries import full_run_id
from backfill.request import Throttle, checked_throttle
from backfill.results.run import Status
from backfill.run.move import move


class PaceVerbs:
    """What a connection can do about the rate of a run."""

    _gateway: Gateway

    async def pace(self, run: str, *, per_minute: Throttle) -> Status:
        """Lower the rate of a run, or raise it again up to what was approved.

        per_minute: session starts in any 60 s, or "none" if the run was approved without a
        throttle. It holds from the next batch on, for every worker.
        Raises ApprovalNeeded for more than approved, IllegalMove, ThrottleTaken, BadRequest.
        """
        asked = checked_throttle("per_minute", per_minute)
        run_id = await full_run_id(self._gateway, run)
        given = {"per_minute": None if asked == "none" else asked}
        return await move(self._gateway, "backfill_pace", run_id, given)
