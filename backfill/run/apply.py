"""Apply: claim a batch, score it, settle it, until nothing is left. The database decides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio

from backfill.api.answers import CLAIM, STARTED, Claim
from backfill.api.failures import TRY_AGAIN
from backfill.api.gateway import Gateway
from backfill.api.queries import load_freshness, load_run, load_standing
from backfill.api.retries import BRIEF
from backfill.errors import (
    ApprovalExpired,
    BackfillError,
    Busy,
    CannotConnect,
    Paused,
    TakesNoWrites,
    TookTooLong,
    WrongServer,
)
from backfill.files import keeper
from backfill.results.event import EventKind
from backfill.run.batch import Batches
from backfill.run.bulk import Bulk
from backfill.run.worker import Worker

logger = logging.getLogger("backfill")

# After these the same apply goes on where it stopped, with whatever key or right was missing.
PASSING = (Busy, CannotConnect, TookTooLong, TakesNoWrites)
LONGEST_WAIT_S = 5.0  # a pause, a resume and a Ctrl-C are noticed within this
FRESHNESS_TOLD = (
    "filled_total", "unselected_total", "replacing_total", "new_candidates_total", "changes",
    "digest_matches", "approval_left_s",
)  # fmt: skip
ENDINGS: Mapping[str, EventKind] = {"completed": "run_completed", "cancelled": "run_cancelled"}


async def refuse_other_host(gateway: Gateway, run_id: str) -> None:
    """Raises WrongServer if the run was planned on another project."""
    planned = (await load_run(gateway, run_id))["project_host"]
    if planned and planned != gateway.host:
        raise WrongServer(
            f"run {run_id} was planned on {planned}, this is {gateway.host}",
            "connect to the project that was planned, or plan here",
        )


async def work_and_keep(worker: Worker, logs_dir: Path | None) -> str | None:
    """Work on a run and keep its files in a folder. Returns why a file could not be written."""
    async with keeper.kept(logs_dir, worker.gateway, worker.run_id) as log:
        worker.listeners.callbacks.insert(0, partial(keeper.write_down, log))
        try:
            await work(worker)
        except PASSING as trouble:
            taken_up = f"backfill apply {worker.run_id}"
            first = trouble.next_step.removesuffix(TRY_AGAIN)
            trouble.next_step = f"{first}, then: {taken_up}" if first else taken_up
            raise
    return log.failed


async def work(worker: Worker) -> None:
    """Work on a run until it needs nothing more from this worker.

    Raises Paused, ApprovalNeeded, ApprovalExpired, and the exception of a listener once every
    batch in flight is settled.
    """
    started = await worker.ask("backfill_start", {"p_worker": worker.name}, STARTED)
    if started.state == "paused":
        raise await _paused(worker, started.reason)
    if started.state == "expired":
        raise await _expired(worker, started.reason)
    worker.tell("run_started", state=started.state)
    if started.state == "running":
        await _tell_freshness(worker)
    ended_by: BackfillError | None = None  # a task group would raise a group of errors
    async with anyio.create_task_group() as tasks:
        bulk, batches = Bulk(worker, tasks), Batches(worker, tasks)
        try:
            while not worker.is_ending() and await _one_turn(worker, bulk, batches):
                pass
            await bulk.land()
            await batches.land()
        except BackfillError as error:
            bulk.end()
            ended_by = error
    if ended_by is not None:
        raise ended_by
    worker.listeners.raise_what_they_raised(f"run {worker.run_id} is settled so far. Apply again.")


async def _tell_freshness(worker: Worker) -> None:
    """Tell what changed since the plan was sealed. If that is unknown the run still goes on."""
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


async def _one_turn(worker: Worker, bulk: Bulk, batches: Batches) -> bool:
    """Claim and start a batch, or wait for one. False when there is nothing more to do.

    If the claim allows it, the next batch is claimed before this one is settled.
    """
    await batches.room()
    claim_id = str(uuid4())
    door = "backfill_claim_apart" if bulk.is_tired else "backfill_claim"
    asked = {"p_claim_id": claim_id, "p_worker": worker.name}
    claim = await worker.ask(door, asked, CLAIM)
    if not claim.bulk:
        await bulk.land()
    if claim.granted:
        bulk.is_tired = False
        batches.start(claim_id, claim)
        if not claim.ahead:
            await batches.land()
        return True
    if await batches.land():
        return True  # settling may have changed the answer
    if claim.bulk:
        await bulk.score(claim.sessions)
        return True
    if claim.state == "paused":
        return await _hold(worker, claim)
    if claim.state == "expired":
        raise await _expired(worker, claim.reason)
    if claim.state != "running":
        if claim.state in ENDINGS:
            worker.tell(ENDINGS[claim.state], reason=claim.reason)
        return False
    return await _wait(worker, claim.wait_s, claim.wait_for, claim.why)


async def _hold(worker: Worker, claim: Claim) -> bool:
    """Wait out a pause by a person. A pause by the database ends the work."""
    if not worker.waits or not claim.held_by:
        raise await _paused(worker, claim.reason)
    why = f"{claim.held_by} paused the run: {claim.reason}"
    return await _wait(worker, LONGEST_WAIT_S, "pause", why)


async def _wait(worker: Worker, seconds: float, wait_for: str, why: str | None) -> bool:
    worker.tell("waiting", wait_s=round(seconds, 3), wait_for=wait_for, why=why)
    if not worker.waits:
        return False
    await worker.clock.sleep(min(seconds, LONGEST_WAIT_S))
    return True


async def _paused(worker: Worker, reason: str | None) -> Paused:
    worker.tell("run_paused", reason=reason)
    said = f"run {worker.run_id} is paused: {reason or 'no reason given'}"
    return Paused(said, await _next_step(worker))


async def _expired(worker: Worker, reason: str | None) -> ApprovalExpired:
    worker.tell("run_expired", reason=reason)
    return ApprovalExpired(f"the approval of run {worker.run_id} ran out", await _next_step(worker))


async def _next_step(worker: Worker) -> str:
    step = (await load_standing(worker.gateway, worker.run_id)).next_step
    return step.text if step else ""
