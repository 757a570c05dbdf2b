"""One worker process of an alternative: `python -m tests.bench.chaos.worker NAME`.

Each is used as its documentation tells a careful user to. It scores by the same calls through the
API as in `tests.bench`, takes nothing back, and looks at nothing that it did not write itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from typing import Any

from tests.bench.clients import Score, bare_calls
from tests.bench.timing import Task

CONCURRENCY = 4
QUEUE = "sessions"
INVISIBLE_S = 30
EMPTY_S = 0.5
STALLED_S = 30


def procrastinate_app(dsn: str) -> Any:
    """Its app, without tasks."""
    from procrastinate import App, PsycopgConnector

    options = {"options": "-c search_path=procrastinate"}
    return App(connector=PsycopgConnector(conninfo=dsn, kwargs=options))


def procrastinate_tasks(app: Any, score: Score) -> Any:
    """The task that scores, retried, and the documented recipe for stalled jobs, more often."""
    from procrastinate import RetryStrategy

    async def retry_stalled(_context: object, timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_S):
            await app.job_manager.retry_job(job)

    named = app.task(name="retry_stalled", queueing_lock="retry_stalled", pass_context=True)
    app.periodic(cron="* * * * * */10")(named(retry_stalled))
    retry = RetryStrategy(max_attempts=10, wait=1, linear_wait=1)
    return app.task(name="score", retry=retry)(score)


async def procrastinate(task: Task, owned: AsyncExitStack) -> None:
    """Its own worker, until it is ended."""
    app = procrastinate_app(task.dsn)
    procrastinate_tasks(app, await bare_calls(task, owned, concurrency=CONCURRENCY))
    await owned.enter_async_context(app.open_async())
    await app.run_worker_async(concurrency=CONCURRENCY)


async def pgmq(task: Task, owned: AsyncExitStack) -> None:
    """Read, score, delete; what could not be scored is seen again when its timeout is over."""
    from pgmq import SyncPGMQueue

    queue = SyncPGMQueue(conn_string=task.dsn, pool_size=CONCURRENCY, init_extension=False)
    owned.callback(queue.close)
    score = await bare_calls(task, owned, concurrency=CONCURRENCY)

    async def work(message: Any) -> None:
        await score(message.message["session_id"])
        await asyncio.to_thread(queue.delete, QUEUE, message.msg_id)

    while True:
        messages = await asyncio.to_thread(
            queue.read_batch, QUEUE, vt=INVISIBLE_S, batch_size=CONCURRENCY
        )
        await asyncio.gather(*map(work, messages or ()), return_exceptions=True)
        if not messages:
            await asyncio.sleep(EMPTY_S)


async def main(name: str) -> None:
    """Work until somebody ends this process."""
    task = Task(
        os.environ["SUPABASE_URL"],
        os.environ["SUPABASE_SERVICE_ROLE_KEY"],
        os.environ["DATABASE_URL"],
        (),
    )
    async with AsyncExitStack() as owned:
        await {"procrastinate": procrastinate, "pgmq": pgmq}[name](task, owned)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
