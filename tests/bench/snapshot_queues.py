"""What taking the next work costs two queues while somebody holds a snapshot: see snapshot.py.

By the SQL that their own clients send. pgmq gives a batch of messages, Procrastinate one job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg

from tests.bench.alternatives import QUEUE, renew, renew_pgmq

Db = psycopg.Connection[Any]
# One statement each: take the next, and tell that these are done.
Taken = Callable[[Db], list[int]]
Done = Callable[[Db, list[int]], object]


def pgmq(dsn: str, messages: int, batch: int) -> tuple[Taken, Done]:
    """A queue with so many messages; it is read in batches, and what was read is deleted."""
    renew_pgmq(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("select pgmq.create(%s)", (QUEUE,))
        db.execute(
            "select pgmq.send_batch(%s, array(select '{}'::jsonb from generate_series(1, %s)))",
            (QUEUE, messages),
        )

    def take(db: Db) -> list[int]:
        read = "select msg_id from pgmq.read(%s, 3600, %s)"
        return [row["msg_id"] for row in db.execute(read, (QUEUE, batch))]

    def done(db: Db, taken: list[int]) -> object:
        return db.execute("select pgmq.delete(%s, %s::bigint[])", (QUEUE, taken))

    return take, done


def procrastinate(dsn: str, jobs: int, batch: int) -> tuple[Taken, Done]:
    """A queue with so many jobs, and one worker. What is done is kept, as it is by default."""
    renew(dsn, "procrastinate", empty=True)
    worker = asyncio.run(_deferred(dsn, jobs))

    def take(db: Db) -> list[int]:
        fetch = "select id from procrastinate.procrastinate_fetch_job_v2(null, %s)"
        return [row["id"] for row in db.execute(fetch, (worker,)) if row["id"] is not None]

    def done(db: Db, taken: list[int]) -> object:
        finish = "select procrastinate.procrastinate_finish_job_v1(%s, 'succeeded', false)"
        return db.execute(finish, (taken[0],))

    return take, done


async def _deferred(dsn: str, jobs: int) -> int:
    """Its schema with so many jobs; the id of a worker."""
    from procrastinate import App, PsycopgConnector

    options = {"options": "-c search_path=procrastinate"}
    app = App(connector=PsycopgConnector(conninfo=dsn, kwargs=options))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await app.task(name="score")(print).batch_defer_async(*({"place": n} for n in range(jobs)))
        worker: int = await app.job_manager.register_worker()
        return worker


QUEUES = {"pgmq": pgmq, "procrastinate": procrastinate}
