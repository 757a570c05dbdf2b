"""Apply: claim a batch, score it, settle it, until nothing is left. The database decides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio

from backfill.clock import Clock
from backfill.errors import ApprovalExpired, BackfillError, Paused
from backfill.faults import Fault
from backfill.gateway import CallFailed, Gateway
from backfill.models import Event, Json

logger = logging.getLogger("backfill")

RUN_HEADER = "x-backfill-run"
FENCE_HEADER = "x-backfill-fence"
LONGEST_WAIT_S = 5.0  # a pause, a resume and a Ctrl-C are noticed within this
OnEvent = Callable[[Event], None]


@dataclass(slots=True)
class Worker:
    """One process's part in a run."""

    gateway: Gateway
    run_id: str
    name: str
    clock: Clock
    concurrency: int
    waits: bool
    on_event: OnEvent
    should_stop: Callable[[], bool]
    stopping_fault: Fault | None = field(default=None)

    def tell(self, kind: str, **details: Json) -> None:
        """Log an event and hand it to the callback."""
        logger.info("backfill.%s", kind, extra={"run": self.run_id, **details})
        self.on_event(Event(kind, self.run_id, self.clock.now(), details))


async def work(worker: Worker) -> None:
    """Work on a run until it needs nothing more from this worker.

    Raises Paused where it holds, ApprovalNeeded where nobody approved it.
    """
    started = await worker.gateway.call(
        "backfill_start", {"p_run_id": worker.run_id, "p_worker": worker.name}
    )
    if started["state"] == "paused":
        raise _paused(worker.run_id, started["reason"])
    if started["state"] == "expired":
        raise ApprovalExpired(
            f"the approval of run {worker.run_id} ran out", f"backfill plan --like {worker.run_id}"
        )
    worker.tell("run_started", state=started["state"])
    while not worker.should_stop() and await _one_turn(worker):
        pass


async def _one_turn(worker: Worker) -> bool:
    """Claim and do a batch, or wait for one. False where there is nothing more to do."""
    claim_id = str(uuid4())
    claim = await worker.gateway.call(
        "backfill_claim",
        {"p_run_id": worker.run_id, "p_claim_id": claim_id, "p_worker": worker.name},
    )
    if claim["granted"]:
        await _do_batch(worker, claim_id, claim)
        return True
    if claim["state"] == "paused":
        return await _hold(worker, claim)
    if claim["state"] != "running":
        worker.tell(f"run_{claim['state']}", reason=claim["reason"])
        return False
    return await _wait(worker, float(claim["wait_s"]), claim["wait_for"])


async def _hold(worker: Worker, claim: Mapping[str, Json]) -> bool:
    """A pause that the database made ends the work; one that a person made is waited out."""
    if not worker.waits or not claim["held_by"]:
        raise _paused(worker.run_id, claim["reason"])
    return await _wait(worker, LONGEST_WAIT_S, f"paused: {claim['reason']}")


async def _wait(worker: Worker, seconds: float, reason: str) -> bool:
    worker.tell("waiting", wait_s=round(seconds, 3), wait_for=reason)
    if not worker.waits:
        return False
    await worker.clock.sleep(min(seconds, LONGEST_WAIT_S))
    return True


async def _do_batch(worker: Worker, claim_id: str, claim: Mapping[str, Json]) -> None:
    """Score a granted batch and settle it, even when this work is cancelled in the middle."""
    granted: list[dict[str, Json]] = claim["granted"]
    worker.tell(
        "batch_started",
        batch=claim["batch"],
        phase=granted[0]["phase"],
        sessions=[g["session_id"] for g in granted],
    )
    outcomes: dict[int, dict[str, Json]] = {
        g["ordinal"]: {"ordinal": g["ordinal"], "outcome": "released"} for g in granted
    }
    began = worker.clock.now()
    try:
        await _score_batch(worker, claim_id, float(claim["lease_s"]), granted, outcomes)
    finally:
        with anyio.CancelScope(shield=True):
            settled = await _settle(worker, claim_id, list(outcomes.values()))
    worker.tell(
        "batch_settled",
        batch=claim["batch"],
        claim=claim_id,
        settled=settled["settled"],
        took_ms=round((worker.clock.now() - began).total_seconds() * 1000),
    )
    if worker.stopping_fault is not None:
        await _pause_for(worker, worker.stopping_fault)


async def _score_batch(
    worker: Worker,
    claim_id: str,
    lease_s: float,
    granted: list[dict[str, Json]],
    outcomes: dict[int, dict[str, Json]],
) -> None:
    limiter = anyio.CapacityLimiter(worker.concurrency)

    async def score_one(grant: dict[str, Json]) -> None:
        async with limiter:
            if not worker.should_stop() and worker.stopping_fault is None:
                outcomes[grant["ordinal"]] = {"ordinal": grant["ordinal"], "outcome": "unknown"}
                outcomes[grant["ordinal"]] = await _score_session(worker, grant)

    async with anyio.create_task_group() as renewing:
        renewing.start_soon(_keep_leases, worker, claim_id, lease_s)
        async with anyio.create_task_group() as scoring:
            for grant in granted:
                scoring.start_soon(score_one, grant)
        renewing.cancel_scope.cancel()


async def _score_session(worker: Worker, grant: Mapping[str, Json]) -> dict[str, Json]:
    """Make a session's scoring calls in order; the first that fails ends it."""
    headers = {RUN_HEADER: worker.run_id, FENCE_HEADER: grant["fence"]}
    answered: list[str] = []
    for step in grant["steps"]:
        began = worker.clock.now()
        fault: Fault | None = None
        try:
            await worker.gateway.score(step["function"], step["arguments"], headers)
        except CallFailed as failed:
            fault = failed.fault
        _tell_call(worker, grant, step, fault, began)
        if fault is not None:
            return _failed(worker, grant, step, fault, answered)
        answered.append(step["component"])
    return {"ordinal": grant["ordinal"], "outcome": "answered", "answered": answered}


def _failed(
    worker: Worker,
    grant: Mapping[str, Json],
    step: Mapping[str, Json],
    fault: Fault,
    answered: list[str],
) -> dict[str, Json]:
    if fault.kind == "stop":
        worker.stopping_fault = fault
    outcome = {"session": "failed", "unknown": "unknown", "stop": "released"}[fault.kind]
    return {
        "ordinal": grant["ordinal"],
        "outcome": outcome,
        "answered": answered,
        "step": step["component"],
        "code": fault.code,
        "message": fault.message,
    }


def _tell_call(
    worker: Worker,
    grant: Mapping[str, Json],
    step: Mapping[str, Json],
    fault: Fault | None,
    began: Any,
) -> None:
    worker.tell(
        "call",
        session_id=grant["session_id"],
        component=step["component"],
        function=step["function"],
        attempt=grant["attempt"],
        outcome=fault.kind if fault else "answered",
        code=fault.code if fault else None,
        error=fault.message if fault else None,
        took_ms=round((worker.clock.now() - began).total_seconds() * 1000, 1),
    )


async def _keep_leases(worker: Worker, claim_id: str, lease_s: float) -> None:
    """Renew while a batch is under way; the gate refuses a lease that could not be renewed."""
    while True:
        await anyio.sleep(lease_s / 3)
        try:
            await worker.gateway.call(
                "backfill_renew", {"p_run_id": worker.run_id, "p_claim_id": claim_id}, expect=int
            )
        except BackfillError as error:
            logger.warning(
                "backfill.renew_failed", extra={"run": worker.run_id, "code": error.code}
            )


async def _settle(
    worker: Worker, claim_id: str, outcomes: list[dict[str, Json]]
) -> dict[str, Json]:
    answer: dict[str, Json] = await worker.gateway.call(
        "backfill_settle",
        {"p_run_id": worker.run_id, "p_claim_id": claim_id, "p_outcomes": outcomes},
    )
    return answer


async def _pause_for(worker: Worker, fault: Fault) -> None:
    """Pause the run for a fault that would hit every session."""
    reason = f"every call would fail: {fault.code} {fault.message}"
    with anyio.CancelScope(shield=True):
        await worker.gateway.call("backfill_pause", {"run": worker.run_id, "reason": reason[:500]})
    raise _paused(worker.run_id, reason)


def _paused(run_id: str, reason: str | None) -> Paused:
    return Paused(
        f"run {run_id} is paused: {reason or 'no reason given'}", f"backfill resume {run_id}"
    )
