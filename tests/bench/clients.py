"""Client-side ways of scoring: what one would write without ours, and ours.

Each imports what it needs by itself, since the memory of its process is measured.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.timing import Task, Work

PGBENCH = """
\\set n :n + 1
\\set place :client_id * :share + :n
select public.score_fc_session(b.id, 'v1.2', 'functions')
from bench.sessions as b where b.place = :place;
select public.score_prism(b.id, 'v1.2.1') from bench.sessions as b where b.place = :place;
"""
Score = Callable[[str], Awaitable[None]]


def calls_of(session_id: str) -> list[tuple[str, dict[str, str]]]:
    """The two scoring calls of a session."""
    return [
        (
            "score_fc_session",
            {"session_id": session_id, "version": "v1.2", "basis": "functions"},
        ),
        ("score_prism", {"session_id": session_id, "engine_version": "v1.2.1"}),
    ]


async def loop(task: Task, owned: AsyncExitStack) -> Work:
    """The blocking client in a loop, as a script would do it."""
    from supabase import create_client

    client = create_client(task.url, task.key)

    async def work() -> None:
        for session_id in task.sessions:
            for function, arguments in calls_of(session_id):
                client.rpc(function, arguments).execute()

    return work


async def bare_calls(task: Task, owned: AsyncExitStack, *, concurrency: int) -> Score:
    """Score one session: the real async client over our own transport, the fastest we know.

    No more than so many sessions at a time, however many tasks ask. The alternatives get it too,
    so that what differs is what they keep.
    """
    from backfill.api.gateway import Gateway

    gateway = Gateway(task.url, task.key, connections=concurrency)
    owned.push_async_callback(gateway.close)
    limiter = asyncio.Semaphore(concurrency)

    async def score(session_id: str) -> None:
        async with limiter:
            for function, arguments in calls_of(session_id):
                await gateway.score(function, arguments, {})

    return score


async def gathered(task: Task, owned: AsyncExitStack, *, concurrency: int) -> Work:
    """Bare calls, so many sessions at a time; nothing is kept."""
    score = await bare_calls(task, owned, concurrency=concurrency)

    async def work() -> None:
        await asyncio.gather(*map(score, task.sessions))

    return work


async def apply(task: Task, owned: AsyncExitStack, *, concurrency: int) -> Work:
    """`apply` with everything it keeps, on a run without a throttle, direct or in bulk."""
    import backfill

    bf = await owned.enter_async_context(backfill.connect_async(task.url, task.key))
    run_id = task.run_id
    assert run_id is not None

    async def work() -> None:
        outcome = await bf.apply(run_id, concurrency=concurrency)
        if not outcome.is_complete:
            raise RuntimeError(f"the run ended {outcome.state}: {outcome.failures[:1]}")

    return work


async def pgbench(task: Task, owned: AsyncExitStack, *, clients: int) -> Work:
    """The limit: the same two functions on prepared statements, no API, nothing kept."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    from backfill.local.parts import find_postgres

    program = find_postgres() / "pgbench"
    with psycopg.connect(task.dsn) as db:
        db.execute("drop schema if exists bench cascade")
        db.execute("create schema bench")
        db.execute("create table bench.sessions (place int primary key, id uuid not null)")
        with db.cursor().copy("copy bench.sessions from stdin") as rows:
            for place, session_id in enumerate(task.sessions, 1):
                rows.write_row((place, session_id))
    script = Path(owned.enter_context(tempfile.TemporaryDirectory())) / "score.sql"
    script.write_text(PGBENCH)
    # A whole share a client; the places of the last share that nobody has find no row.
    share = -(-len(task.sessions) // clients)
    command = [str(program), "-n", "-M", "prepared", "-f", str(script), "-c", str(clients)]
    command += ["-j", str(clients), "-t", str(share), "-D", "n=0", "-D", f"share={share}"]
    named = conninfo_to_dict(task.dsn)
    login = {"PGPASSWORD": str(named.pop("password"))}
    command.append(make_conninfo("", **named))

    async def work() -> None:
        await asyncio.to_thread(
            subprocess.run, command, env=os.environ | login, check=True, capture_output=True
        )

    return work
