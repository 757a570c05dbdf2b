"""Who keeps the list of work: how it is filled, who works on it, and what it says is not done."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from tests.bench.alternatives import renew, renew_pgmq
from tests.bench.chaos.stand import Stand
from tests.bench.chaos.worker import CONCURRENCY, QUEUE, procrastinate_app, procrastinate_tasks
from tests.kit import verbs

PLAN = {"mode": "direct", "batch_size": 50, "throttle_per_minute": "none", "priority": []}


@dataclass(frozen=True)
class System:
    """A list of work and its workers. Queries name sessions as `id`.

    fill: puts every session on the list; returns a worker's command.
    open_work: what is not done, as the system itself says. under_way: what a worker holds now.
    waits_for_a_person: how many it will not take up again by itself.
    """

    name: str
    says: str
    fill: Callable[[Stand], list[str]]
    open_work: str
    under_way: str
    waits_for_a_person: str
    package: str = "backfill"


def _ours(stand: Stand) -> list[str]:
    with psycopg.connect(stand.dsn, autocommit=True, row_factory=dict_row) as db:
        run_id = verbs.planned(db, since="2020-01-01", **PLAN)
        verbs.approve(db, run_id)
    command = ["-m", "backfill", "apply", run_id, "--concurrency", str(CONCURRENCY)]
    return [sys.executable, *command]


def _procrastinate(stand: Stand) -> list[str]:
    async def never(session_id: str) -> None:
        raise AssertionError("who fills the list does not score")

    async def fill() -> None:
        app = procrastinate_app(stand.dsn)
        score = procrastinate_tasks(app, never)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            await score.batch_defer_async(*({"session_id": each} for each in stand.sessions))

    renew(stand.dsn, "procrastinate", empty=True)
    asyncio.run(fill())
    return [sys.executable, "-m", "tests.bench.chaos.worker", "procrastinate"]


def _pgmq(stand: Stand) -> list[str]:
    from pgmq import SyncPGMQueue

    renew_pgmq(stand.dsn)
    queue = SyncPGMQueue(conn_string=stand.dsn, pool_size=1, init_extension=False)
    queue.create_queue(QUEUE)
    queue.send_batch(QUEUE, [{"session_id": each} for each in stand.sessions])
    queue.close()
    return [sys.executable, "-m", "tests.bench.chaos.worker", "pgmq"]


OF_OUR_RUN = (
    "from public.backfill_items as i join public.backfill_runs as r on r.run_id = i.run_id"
    " where r.run_id = (select run_id from public.backfill_runs order by created_at desc limit 1)"
)
OF_JOBS = "from procrastinate.procrastinate_jobs where task_name = 'score'"
OF_MESSAGES = f"from pgmq.q_{QUEUE}"
SYSTEMS = [
    System(
        "ours",
        "`apply`",
        _ours,
        f"select i.session_id as id {OF_OUR_RUN} and i.state in ('pending', 'leased', 'failed')",
        f"select i.session_id as id {OF_OUR_RUN} and i.state = 'leased'",
        f"select count(*) {OF_OUR_RUN} and (i.state = 'failed' or r.state <> 'running'"
        " and i.state in ('pending', 'leased') and r.state <> 'approved')",
    ),
    System(
        "procrastinate",
        "Procrastinate",
        _procrastinate,
        f"select args ->> 'session_id' as id {OF_JOBS} and status <> 'succeeded'",
        f"select args ->> 'session_id' as id {OF_JOBS} and status = 'doing'",
        f"select count(*) {OF_JOBS} and status in ('failed', 'cancelled', 'aborted')",
        package="procrastinate",
    ),
    System(
        "pgmq",
        "pgmq",
        _pgmq,
        f"select message ->> 'session_id' as id {OF_MESSAGES}",
        f"select message ->> 'session_id' as id {OF_MESSAGES} where vt > clock_timestamp()",
        "select 0 as none",
        package="pgmq",
    ),
]
