"""What else keeps a list of work in PostgreSQL: Procrastinate, DBOS, pgmq, and Celery on top of it.

Each in a schema of its own beside the project's tables. A queue is filled before the clock starts;
who takes from it scores through the API, over the same transport as bare calls and with as many
sessions at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from threading import Event

import psycopg

from tests.bench.clients import bare_calls
from tests.bench.timing import Task, Work

CONCURRENCY = 16
QUEUE = "sessions"
READERS = 4
INVISIBLE_S = 60


def renew(dsn: str, schema: str, *, empty: bool = False) -> None:
    """Drop what the last round left. empty: make the schema again."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"drop schema if exists {schema} cascade".encode())
        if empty:
            db.execute(f"create schema {schema}".encode())


async def procrastinate(task: Task, owned: AsyncExitStack) -> Work:
    """A task a session, done by the real worker."""
    from procrastinate import App, PsycopgConnector

    renew(task.dsn, "procrastinate", empty=True)
    options = {"options": "-c search_path=procrastinate"}
    app = App(connector=PsycopgConnector(conninfo=task.dsn, kwargs=options))
    await owned.enter_async_context(app.open_async())
    await app.schema_manager.apply_schema_async()
    score = app.task(name="score")(await bare_calls(task, owned, concurrency=CONCURRENCY))
    await score.batch_defer_async(*({"session_id": session_id} for session_id in task.sessions))

    async def work() -> None:
        await app.run_worker_async(
            wait=False, concurrency=CONCURRENCY, install_signal_handlers=False
        )

    return work


async def dbos(task: Task, owned: AsyncExitStack, *, step_sessions: int) -> Work:
    """A durable workflow over all sessions, so many of them a step."""
    from dbos import DBOS

    renew(task.dsn, "dbos")
    DBOS(config={"name": "bench", "system_database_url": task.dsn, "log_level": "ERROR"})
    score = await bare_calls(task, owned, concurrency=CONCURRENCY)

    async def score_some(sessions: list[str]) -> None:
        await asyncio.gather(*map(score, sessions))

    step = DBOS.step()(score_some)

    async def score_all(sessions: list[str]) -> None:
        chunks = (sessions[i : i + step_sessions] for i in range(0, len(sessions), step_sessions))
        await asyncio.gather(*map(step, chunks))

    workflow = DBOS.workflow()(score_all)
    DBOS.launch()
    owned.callback(DBOS.destroy)

    async def work() -> None:
        await workflow(list(task.sessions))

    return work


def renew_pgmq(dsn: str) -> None:
    """Install it anew, from the SQL that its Python package brings: no extension is needed."""
    from pgmq.install import install_pgmq_from_sql

    renew(dsn, "pgmq")
    install_pgmq_from_sql(dsn=dsn)


async def pgmq(task: Task, owned: AsyncExitStack) -> Work:
    """A message a session; it is deleted once its session is scored."""
    from pgmq import SyncPGMQueue

    renew_pgmq(task.dsn)
    queue = SyncPGMQueue(conn_string=task.dsn, pool_size=READERS, init_extension=False)
    owned.callback(queue.close)
    queue.create_queue(QUEUE)
    queue.send_batch(QUEUE, [{"session_id": session_id} for session_id in task.sessions])
    score = await bare_calls(task, owned, concurrency=CONCURRENCY)

    async def read() -> None:
        while messages := await asyncio.to_thread(
            queue.read_batch, QUEUE, vt=INVISIBLE_S, batch_size=CONCURRENCY
        ):
            await asyncio.gather(*(score(each.message["session_id"]) for each in messages))
            await asyncio.to_thread(queue.delete_batch, QUEUE, [each.msg_id for each in messages])

    async def work() -> None:
        await asyncio.gather(*(read() for _ in range(READERS)))

    return work


async def celery(task: Task, owned: AsyncExitStack) -> Work:
    """A task a session, over the transport that keeps its messages in pgmq; still an alpha.

    Its worker, with threads, is up and holds its first tasks before the clock starts.
    """
    from celery import Celery
    from celery.contrib.testing.worker import start_worker

    renew_pgmq(task.dsn)
    app = Celery("bench", broker_url=task.dsn, broker_transport="kombu_pgmq.transport:Transport")
    app.conf.broker_transport_options = {
        "check_extension": False,
        "visibility_timeout": INVISIBLE_S,
    }
    app.conf.task_ignore_result = True
    calls = await bare_calls(task, owned, concurrency=CONCURRENCY)
    clients_loop, started, left = asyncio.get_running_loop(), Event(), Left(len(task.sessions))

    def score(session_id: str) -> None:
        started.wait()
        asyncio.run_coroutine_threadsafe(left.after(calls(session_id)), clients_loop).result()

    named = app.task(name="score")(score)
    for session_id in task.sessions:
        named.delay(session_id)
    worker = start_worker(app, pool="threads", concurrency=CONCURRENCY, perform_ping_check=False)
    await asyncio.to_thread(worker.__enter__)
    owned.push_async_callback(asyncio.to_thread, worker.__exit__, None, None, None)

    async def work() -> None:
        started.set()
        await left.none.wait()

    return work


class Left:
    """How many sessions are still to be scored: a worker does not end when its queue is empty."""

    def __init__(self, sessions: int) -> None:
        self._sessions = sessions
        self.none = asyncio.Event()

    async def after(self, scoring: Awaitable[None]) -> None:
        """One fewer, once it is scored."""
        await scoring
        self._sessions -= 1
        if not self._sessions:
            self.none.set()
