"""The real pg_cron drives runs: on time, beside a worker, and after its processes were killed."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest

import backfill
from backfill.local.servers import PostgresServer, RestServer
from backfill.targets import migrations
from tests.conftest import behind_gateway
from tests.kit import verbs
from tests.kit.cron import Db, connected, cron_project
from tests.kit.seed import SEED
from tests.kit.throttling import Start, most_in_a_minute
from tests.kit.whole import NIGHTLY

LOOK_S = 0.2
# Debian's pg_cron begins a job at the next full minute. A lease lives as long.
MINUTES = 6
SESSIONS = 2000
FASTEST: dict[str, Any] = {**SEED, "throttle_per_minute": 1800, "batch_size": 30}
KILLED_AT = (300, 900, 1500)
DONE = "select (select count(*) from backfill_items where state = 'done')"
SCORED_TWICE = """
select session_id from public.backfill_receipts where kind = 'score'
group by session_id, component having count(*) > 1
"""


def ask(db: Db, query: str) -> Any:
    """The one value of a query. None if the server is just starting again."""
    row = db.execute(query.encode()).fetchone()
    return None if row is None else next(iter(row.values()))


def wait_until(server: PostgresServer, query: str, holds: Callable[[Any], object]) -> Any:
    """Look until the answer is as wanted, over as many connections as it takes."""
    deadline = time.monotonic() + MINUTES * 60
    while time.monotonic() < deadline:
        with suppress(psycopg.OperationalError), connected(server) as db:
            while time.monotonic() < deadline:
                answer = ask(db, query)
                if holds(answer):
                    return answer
                time.sleep(LOOK_S)
        time.sleep(LOOK_S)
    raise AssertionError(f"{query}: not within {MINUTES} minutes")


def approved(db: Db, **request: Any) -> str:
    run_id = verbs.planned(db, **request)
    verbs.approve(db, run_id)
    return run_id


@pytest.mark.timeout(600)
def test_pg_cron_drives_a_run_to_its_end() -> None:
    """Two jobs share it, each a worker with a name. Its own job goes with it, ours with us."""
    with cron_project("seed") as server, connected(server) as db:
        run_id = approved(db, **{**SEED, "throttle_per_minute": 600, "batch_size": 3})
        db.execute("select backfill_drive(%s)", (run_id,))
        db.execute("select backfill_drive_every('1 minute')")
        jobs = "select array_agg(jobname::text order by jobid) from cron.job"
        assert ask(db, jobs) == [f"backfill_drive {run_id}", "backfill_drive"]
        wait_until(server, "select state from backfill_runs", lambda state: state == "completed")
        assert verbs.verdict(db, run_id) == "pass"
        wait_until(server, jobs, lambda left: left == ["backfill_drive"])
        ended = "select count(*) from cron.job_run_details where status = 'succeeded'"
        wait_until(server, ended, lambda jobs: jobs >= 2)
        pids = {row["job_pid"] for row in db.execute("select job_pid from cron.job_run_details")}
        workers = db.execute(
            "select distinct details ->> 'worker' as name from backfill_events"
            " where kind = 'batch_granted'"
        ).fetchall()
        assert {w["name"] for w in workers} <= {f"driver:{pid}" for pid in pids}
        db.execute(migrations.uninstall_file().read_bytes())
        assert ask(db, jobs) is None


@pytest.fixture(params=["alone", "beside a worker"])
def company(request: pytest.FixtureRequest) -> bool:
    """Whether a worker in Python is at the run too."""
    return str(request.param) != "alone"


@pytest.fixture
def large() -> Iterator[PostgresServer]:
    """A project with a large run."""
    with cron_project(SESSIONS) as server:
        yield server


def keeps_applying(stack: ExitStack, server: PostgresServer, run_id: str) -> None:
    """Apply again and again until the run is over, as an operator does."""
    jwt_secret = secrets.token_urlsafe(48)
    rest = RestServer.start(server.authenticator_dsn(), jwt_secret)
    stack.callback(rest.stop)
    db = stack.enter_context(connected(server))
    project = stack.enter_context(behind_gateway(rest, jwt_secret, db, db))
    bf = stack.enter_context(project.connect())

    def work() -> None:
        while True:
            with suppress(backfill.BackfillError):
                if bf.apply(run_id).state == "completed":
                    return

    pool = stack.enter_context(ThreadPoolExecutor(1))
    stack.callback(pool.submit(work).result)


@NIGHTLY
@pytest.mark.timeout(1800)
def test_a_large_run_survives_three_kills(large: PostgresServer, company: bool) -> None:
    """SIGKILL of the process that scores, which restarts the server: nothing lost or twice."""
    with connected(large) as db:
        run_id = approved(db, **FASTEST)
        db.execute("select backfill_drive_every('10 seconds')")
    with ExitStack() as stack:
        if company:
            keeps_applying(stack, large, run_id)
        for done in KILLED_AT:
            wait_until(large, f"{DONE} >= {done}", bool)
            driver = wait_until(
                large,
                "select min(worker) from backfill_items"
                " where state = 'leased' and worker like 'driver:%%'",
                lambda name: name is not None,
            )
            with suppress(ProcessLookupError):
                os.kill(int(driver.split(":")[1]), signal.SIGKILL)
        wait_until(large, "select state from backfill_runs", lambda state: state == "completed")
    with connected(large) as db:
        assert ask(db, DONE) == SESSIONS
        assert not db.execute(SCORED_TWICE.encode()).rowcount
        assert verbs.verdict(db, run_id) == "pass"
        granted = db.execute(
            "select at, (details ->> 'sessions')::int as sessions from backfill_events"
            " where kind = 'batch_granted' order by seq"
        ).fetchall()
        starts = [Start(row["at"], row["sessions"]) for row in granted]
        assert most_in_a_minute(starts) <= FASTEST["throttle_per_minute"]
