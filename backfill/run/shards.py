"""Spreading: one apply on many processes or machines, one shard on each. The database coordinates.

A shard is a whole worker, never a session: a task that is run again after a crash applies again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from importlib import import_module

import anyio
from anyio.to_thread import run_sync

from backfill.api.gateway import Gateway
from backfill.api.queries import load_outcome
from backfill.errors import BackfillError, WrongServer
from backfill.results.run import Outcome


async def spread(
    executor: Executor, shards: int, gateway: Gateway, run_id: str, concurrency: int, wait: bool
) -> Outcome:
    """Run this many shards on an executor until all have ended. Returns how the run stands then.

    Each worker's own environment has to name the project and its key: no secret is sent.
    Raises what a shard raised once all have ended, and BackfillError if workers were lost and the
    run is still running.
    """
    host = gateway.host
    lost = await _ended(
        [executor.submit(apply_shard, run_id, host, concurrency, wait) for _ in range(shards)]
    )
    outcome = await load_outcome(gateway, run_id)
    if lost and outcome.state == "running":
        raise BackfillError(
            f"workers lost: {lost} of {shards}. Run {run_id} is settled so far",
            "apply again: it goes on where it stopped",
        )
    return outcome


async def _ended(futures: Sequence[Future[str]]) -> int:
    """Wait until all have ended. Returns how many were lost. Raises what a shard raised."""
    raised: list[BackfillError] = []
    lost = 0
    for future in futures:
        try:
            with anyio.CancelScope(shield=True):
                await run_sync(future.result)
        except BackfillError as error:
            raised.append(error)
        except Exception:
            lost += 1
    if raised:
        raise raised[0]
    return lost


def apply_shard(run_id: str, host: str, concurrency: int, wait: bool) -> str:
    """One worker's part, in its process. Returns the run's state. Raises what apply does."""
    # Imported by name: the face is a layer above this module, and its verbs use this module.
    with import_module("backfill").connect() as bf:
        if bf.host != host:
            raise WrongServer(
                f"this worker's SUPABASE_URL is {bf.host}, the run is of {host}",
                "set SUPABASE_URL on every worker",
            )
        state: str = bf.apply(run_id, concurrency=concurrency, wait=wait).state
        return state
