"""Apply: claim a batch, score it, settle it, until nothing is left. The database decides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import uuid4

import anyio

from backfill.bulk import Bulk
from backfill.errors import ApprovalExpired, BackfillError, Paused
from backfill.faults import Fault
from backfill.gateway import CallFailed
from backfill.loading import load_freshness
from backfill.models import EventKind, Json
from backfill.patience import BRIEF
from backfill.working import Worker

logger = logging.getLogger("backfill")

RUN_HEADER = "x-backfill-run"
FENCE_HEADER = "x-backfill-fence"
LONGEST_WAIT_S = 5.0  # a pause, a resume and a Ctrl-C are noticed within this
# What a fault of a scoring call is called when the batch is settled: sql/15_settling.sql.
OUTCOMES = {
    "session": "failed",
    "again": "again",
    "unknown": "unknown",
    "slow": "slow",
    "refused": "released",
    "stop": "stop",
}
FRESHNESS_TOLD = (
    "filled_total", "new_candidates_total", "changes", "digest_matches", "approval_left_s",
)  # fmt: skip
ENDINGS: Mapping[str, EventKind] = {"completed": "run_completed", "cancelled": "run_cancelled"}
# After these no other call of the batch has a chance: the run holds, or the API wants fewer calls.
ENDS_THE_BATCH = frozenset({"stop", "slow"})


async def work(worker: Worker) -> None:
    """Work on a run until it needs nothing more from this worker.

    Raises Paused where it holds, ApprovalNeeded where nobody approved it, and what a listener
    raised, once what was in flight is settled.
    """
    started = await worker.ask("backfill_start", {"p_worker": worker.name})
    if started["state"] == "paused":
        raise _paused(worker, started["reason"])
    if started["state"] == "expired":
        raise _expired(worker, started["reason"])
    worker.tell("run_started", state=started["state"])
    if started["state"] == "running":
        await _tell_freshness(worker)
    bulk = Bulk()
    while not worker.is_ending() and await _one_turn(worker, bulk):
        pass
    worker.listeners.raise_what_they_raised(f"run {worker.run_id} is settled so far; apply again")


async def _tell_freshness(worker: Worker) -> None:
    """What changed since the plan was sealed; where it cannot be told the run goes on without."""
    patience = replace(BRIEF, gives_up=worker.is_ending)
    try:
        seen = await load_freshness(worker.gateway, worker.run_id, patience)
    except BackfillError as error:
        logger.warning(
            "backfill.freshness_unknown", extra={"run": worker.run_id, "why": error.message}
        )
        return
    if seen is not None:
        told = seen.as_dict()
        worker.tell("freshness", **{name: told[name] for name in FRESHNESS_TOLD})


async def _one_turn(worker: Worker, bulk: Bulk) -> bool:
    """Claim and do a batch, or wait for one. False where there is nothing more to do."""
    claim_id = str(uuid4())
    door = "backfill_claim_apart" if bulk.is_tired else "backfill_claim"
    claim = await worker.ask(door, {"p_claim_id": claim_id, "p_worker": worker.name})
    if claim["granted"]:
        bulk.is_tired = False
        await _Batch(worker, claim_id, claim).do()
        return True
    if claim.get("bulk"):
        await bulk.score(worker)
        return True
    if claim["state"] == "paused":
        return await _hold(worker, claim)
    if claim["state"] == "expired":
        raise _expired(worker, claim["reason"])
    if claim["state"] != "running":
        if claim["state"] in ENDINGS:
            worker.tell(ENDINGS[claim["state"]], reason=claim["reason"])
        return False
    return await _wait(worker, float(claim["wait_s"]), claim["wait_for"], claim["why"])


async def _hold(worker: Worker, claim: Mapping[str, Json]) -> bool:
    """A pause that the database made ends the work; one that a person made is waited out."""
    if not worker.waits or not claim["held_by"]:
        raise _paused(worker, claim["reason"])
    why = f"{claim['held_by']} paused the run: {claim['reason']}"
    return await _wait(worker, LONGEST_WAIT_S, "pause", why)


async def _wait(worker: Worker, seconds: float, wait_for: str, why: str | None) -> bool:
    worker.tell("waiting", wait_s=round(seconds, 3), wait_for=wait_for, why=why)
    if not worker.waits:
        return False
    await worker.clock.sleep(min(seconds, LONGEST_WAIT_S))
    return True


@dataclass(slots=True)
class _Batch:
    """A granted batch: score its sessions, settle it, even when this work is cancelled midway."""

    worker: Worker
    claim_id: str
    claim: Mapping[str, Json]
    outcomes: dict[int, dict[str, Json]] = field(init=False)
    is_over: bool = False

    def __post_init__(self) -> None:
        self.outcomes = {g["ordinal"]: _outcome(g, "released") for g in self.claim["granted"]}

    async def do(self) -> None:
        """Score and settle."""
        worker, granted = self.worker, self.claim["granted"]
        began = worker.clock.now()
        try:
            worker.tell(
                "batch_started",
                batch=self.claim["batch"],
                phase=granted[0]["phase"],
                sessions=[g["session_id"] for g in granted],
            )
            await self._score()
        finally:
            with anyio.CancelScope(shield=True):
                settled = await worker.ask(
                    "backfill_settle",
                    {"p_claim_id": self.claim_id, "p_outcomes": list(self.outcomes.values())},
                )
        worker.tell(
            "batch_settled",
            batch=self.claim["batch"],
            claim=self.claim_id,
            settled=settled["settled"],
            took_ms=_since_ms(worker, began),
        )

    async def _score(self) -> None:
        limiter = anyio.CapacityLimiter(self.worker.concurrency)

        async def score_one(grant: dict[str, Json]) -> None:
            async with limiter:
                if not self.worker.is_ending() and not self.is_over:
                    self.outcomes[grant["ordinal"]] = _outcome(grant, "unknown")
                    self.outcomes[grant["ordinal"]] = await self._score_session(grant)

        async with anyio.create_task_group() as renewing:
            renewing.start_soon(self._keep_leases)
            async with anyio.create_task_group() as scoring:
                for grant in self.claim["granted"]:
                    scoring.start_soon(score_one, grant)
            renewing.cancel_scope.cancel()

    async def _score_session(self, grant: Mapping[str, Json]) -> dict[str, Json]:
        """Make a session's scoring calls in order; the first that fails ends it."""
        answered: list[str] = []
        for step in grant["steps"]:
            began = self.worker.clock.now()
            fault = await self._call(grant, step)
            _tell_call(self.worker, grant, step, fault, began)
            if fault is not None:
                self.is_over = self.is_over or fault.kind in ENDS_THE_BATCH or fault.code == "OB012"
                return _outcome(
                    grant,
                    OUTCOMES[fault.kind],
                    answered=answered,
                    step=step["component"],
                    code=fault.code,
                    message=fault.message,
                    retry_after_s=fault.retry_after_s,
                )
            answered.append(step["component"])
        return _outcome(grant, "answered", answered=answered)

    async def _call(self, grant: Mapping[str, Json], step: Mapping[str, Json]) -> Fault | None:
        """Make one scoring call, once; what was wrong with it."""
        headers = {RUN_HEADER: self.worker.run_id, FENCE_HEADER: grant["fence"]}
        gateway = self.worker.gateway
        call = gateway.invoke if step["transport"] == "edge" else gateway.score
        try:
            await call(step["function"], step["arguments"], headers)
        except CallFailed as failed:
            return failed.fault
        return None

    async def _keep_leases(self) -> None:
        """Renew while the batch is under way; the gate refuses a lease that ran out."""
        while True:
            await anyio.sleep(float(self.claim["lease_s"]) / 3)
            try:
                await self.worker.gateway.call(
                    "backfill_renew",
                    {"p_run_id": self.worker.run_id, "p_claim_id": self.claim_id},
                    expect=int,
                )
            except BackfillError as error:
                details = {"run": self.worker.run_id, "code": error.code}
                logger.warning("backfill.renew_failed", extra=details)


def _outcome(grant: Mapping[str, Json], outcome: str, **details: Json) -> dict[str, Json]:
    return {"ordinal": grant["ordinal"], "outcome": outcome, **details}


def _since_ms(worker: Worker, began: datetime) -> float:
    return round((worker.clock.now() - began).total_seconds() * 1000, 1)


def _tell_call(
    worker: Worker,
    grant: Mapping[str, Json],
    step: Mapping[str, Json],
    fault: Fault | None,
    began: datetime,
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
        took_ms=_since_ms(worker, began),
    )


def _paused(worker: Worker, reason: str | None) -> Paused:
    worker.tell("run_paused", reason=reason)
    run_id = worker.run_id
    return Paused(
        f"run {run_id} is paused: {reason or 'no reason given'}", f"backfill resume {run_id}"
    )


def _expired(worker: Worker, reason: str | None) -> ApprovalExpired:
    worker.tell("run_expired", reason=reason)
    run_id = worker.run_id
    return ApprovalExpired(
        f"the approval of run {run_id} ran out", f"backfill plan --like {run_id}"
    )
