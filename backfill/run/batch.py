"""A granted batch: its scoring calls, several sessions at a time, and its settling."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime

import anyio
from anyio.abc import TaskGroup

from backfill.api import answers
from backfill.api.answers import Claim, Grant, Step
from backfill.api.faults import OUTCOMES, Fault
from backfill.api.gateway import CallFailed
from backfill.errors import BackfillError
from backfill.results.run import Json
from backfill.run.crew import Crew
from backfill.run.worker import Worker

logger = logging.getLogger("backfill")

RUN_HEADER = "x-backfill-run"
FENCE_HEADER = "x-backfill-fence"
# After these every other call may fail too, or the API wants fewer. The database decides.
ENDS_THE_BATCH = frozenset({"stop", "slow"})


class Batches:
    """The batches that one worker has under way. One is settled while the next is scored.

    is_over: a call failed in a way that others would too. Sessions not yet begun are released.
    """

    def __init__(self, worker: Worker, tasks: TaskGroup) -> None:
        self.worker = worker
        self.limiter = anyio.CapacityLimiter(worker.concurrency)
        self.is_over = False
        self._crew = Crew(tasks)
        self._waiting = 0  # sessions granted and not begun

    def start(self, claim_id: str, claim: Claim) -> None:
        """Score and settle a granted batch."""
        self._waiting += len(claim.granted)
        self._crew.start(_Batch(self, claim_id, claim).do)

    async def room(self) -> None:
        """Wait until at most `concurrency` granted sessions have not begun.

        If the batches are over, wait until all are settled, so that the database knows before the
        next claim. Raises what settling raised.
        """
        await self._crew.until(lambda: self._waiting <= self.worker.concurrency)
        if self.is_over:
            await self.land()

    async def land(self) -> bool:
        """Wait until no batch is under way. Returns if one was. Raises what settling raised."""
        was_under_way = await self._crew.land()
        self.is_over = self.is_over and not was_under_way
        return was_under_way

    def begun(self) -> None:
        """Count a session as begun: it is scored now or never."""
        self._waiting -= 1
        self._crew.look()


@dataclass(slots=True)
class _Batch:
    """A granted batch. It is settled even if its work is cancelled midway."""

    batches: Batches
    claim_id: str
    claim: Claim
    worker: Worker = field(init=False)
    outcomes: dict[int, dict[str, Json]] = field(init=False)

    def __post_init__(self) -> None:
        self.worker = self.batches.worker
        self.outcomes = {g.ordinal: _outcome(g, "released") for g in self.claim.granted}

    async def do(self) -> None:
        """Score and settle."""
        worker, granted = self.worker, self.claim.granted
        began = worker.clock.now()
        try:
            worker.tell(
                "batch_started",
                batch=self.claim.batch,
                phase=granted[0].phase,
                sessions=[g.session_id for g in granted],
            )
            await self._score()
        finally:
            with anyio.CancelScope(shield=True):
                settled = await worker.ask(
                    "backfill_settle",
                    {"p_claim_id": self.claim_id, "p_outcomes": list(self.outcomes.values())},
                    answers.SETTLED,
                )
        worker.tell(
            "batch_settled",
            batch=self.claim.batch,
            claim=self.claim_id,
            settled=settled.settled,
            took_ms=_since_ms(worker, began),
        )

    async def _score(self) -> None:
        async def score_one(grant: Grant) -> None:
            async with self.batches.limiter:
                self.batches.begun()
                if not self.worker.is_ending() and not self.batches.is_over:
                    self.outcomes[grant.ordinal] = _outcome(grant, "unknown")
                    self.outcomes[grant.ordinal] = await self._score_session(grant)

        async with anyio.create_task_group() as renewing:
            renewing.start_soon(self._keep_leases)
            async with anyio.create_task_group() as scoring:
                for grant in self.claim.granted:
                    scoring.start_soon(score_one, grant)
            renewing.cancel_scope.cancel()

    async def _score_session(self, grant: Grant) -> dict[str, Json]:
        """Make a session's scoring calls in order, up to the first that fails."""
        answered: list[str] = []
        for step in grant.steps:
            began = self.worker.clock.now()
            fault = await self._call(grant, step)
            _tell_call(self.worker, grant, step, fault, began)
            if fault is not None:
                if fault.kind in ENDS_THE_BATCH or fault.code == "OB012":
                    self.batches.is_over = True
                return _outcome(
                    grant,
                    OUTCOMES[fault.kind],
                    answered=answered,
                    step=step.component,
                    code=fault.code,
                    message=fault.message,
                    retry_after_s=fault.retry_after_s,
                )
            answered += step.components
        return _outcome(grant, "answered", answered=answered)

    async def _call(self, grant: Grant, step: Step) -> Fault | None:
        """Make one scoring call without retries. Returns its fault, None if there was none."""
        headers = {RUN_HEADER: self.worker.run_id, FENCE_HEADER: grant.fence}
        gateway = self.worker.gateway
        call = gateway.invoke if step.transport == "edge" else gateway.score
        try:
            await call(step.function, step.arguments, headers)
        except CallFailed as failed:
            return failed.fault
        return None

    async def _keep_leases(self) -> None:
        """Renew the leases while the batch is under way. The gate refuses an expired lease."""
        while True:
            await anyio.sleep(self.claim.lease_s / 3)
            try:
                await self.worker.gateway.call(
                    "backfill_renew",
                    {"p_run_id": self.worker.run_id, "p_claim_id": self.claim_id},
                    answers.COUNT,
                )
            except BackfillError as error:
                details = {"run": self.worker.run_id, "code": error.code}
                logger.warning("backfill.renew_failed", extra=details)


def _outcome(grant: Grant, outcome: str, **details: Json) -> dict[str, Json]:
    return {"ordinal": grant.ordinal, "outcome": outcome, **details}


def _since_ms(worker: Worker, began: datetime) -> float:
    return round((worker.clock.now() - began).total_seconds() * 1000, 1)


def _tell_call(
    worker: Worker,
    grant: Grant,
    step: Step,
    fault: Fault | None,
    began: datetime,
) -> None:
    worker.tell(
        "call",
        session_id=grant.session_id,
        component=step.component,
        function=step.function,
        attempt=grant.attempt,
        outcome=fault.kind if fault else "answered",
        code=fault.code if fault else None,
        error=fault.message if fault else None,
        took_ms=_since_ms(worker, began),
    )
