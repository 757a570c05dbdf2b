"""Spreading: one apply on many processes or machines, a shard each; the database coordinates them.

A shard is a whole worker, never a session: a task that is run again after a crash applies again.
"""

from __future__ import annotations

from concurrent.futures import Executor
from importlib import import_module

import anyio
from anyio.to_thread import run_sync

from backfill.errors import BackfillError, WrongServer


async def spread(
    executor: Executor, shards: int, run_id: str, host: str, concurrency: int, wait: bool
) -> int:
    """Run so many shards on an executor until all have ended. Returns how many were lost.

    host: of the project, which each worker's own environment has to name, with its key: no secret
    is sent to a worker. Raises what a shard raised, once all have ended.
    """
    futures = [executor.submit(apply_shard, run_id, host, concurrency, wait) for _ in range(shards)]
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
    # By name: the face that a worker uses stands above this module, which its own verbs use.
    with import_module("backfill").connect() as bf:
        if bf.host != host:
            raise WrongServer(
                f"this worker's SUPABASE_URL is {bf.host}, the run is of {host}",
                "set SUPABASE_URL on every worker",
            )
        state: str = bf.apply(run_id, concurrency=concurrency, wait=wait).state
        return state
