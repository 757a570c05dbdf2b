"""One apply on many processes: a shard each, nothing lost and nothing twice, whoever dies."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

import backfill
from backfill.local.servers import free_port
from tests.conftest import Project
from tests.faults.processes import ROOT
from tests.kit.clocks import DatabaseClock
from tests.kit.readme import claim
from tests.kit.seed import SEED
from tests.kit.whole import examples

BY = "tests/test_spreading.py"
ON_DASK = claim("On many machines", "client = Client", BY)
CLUSTER = claim("On many machines", "dask scheduler", BY)
SHARDS = examples(3, at_a_push=2)
SHARED = {**SEED, "throttle_per_minute": "none", "batch_size": 3, "priority": []}


@pytest.fixture
def spread(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that the environment names, with scorers that take a moment."""
    monkeypatch.setenv("SUPABASE_URL", project.url)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", project.keys.service_role)
    project.db.execute(
        "create function public.moment() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.05); return new; end $$;"
        "create trigger moment before insert on public.fc_scores"
        " for each row execute function public.moment()"
    )
    return project


def approved(project: Project, bf: backfill.Backfill) -> str:
    """A run to share."""
    plan = bf.plan(**SHARED)
    project.approve(plan)
    return plan.run_id


def workers_of(project: Project, run_id: str) -> int:
    """How many processes were granted a batch."""
    found: int = project.value(
        "select count(distinct details ->> 'worker') from public.backfill_events"
        " where run_id = %s and kind = 'batch_granted'",
        run_id,
    )
    return found


def test_processes_share_a_run(spread: Project, bf: backfill.Backfill) -> None:
    """Each takes batches; all of it is done once."""
    run_id = approved(spread, bf)
    with ProcessPoolExecutor(SHARDS, mp_context=get_context("spawn")) as executor:
        outcome = bf.apply(run_id, executor=executor, shards=SHARDS, concurrency=1)
    assert outcome.status.counts["done"] == 39
    assert workers_of(spread, run_id) == SHARDS
    assert spread.value("select count(*) from public.backfill_receipts") == 52
    assert bf.verify(run_id).verdict == "pass"


def test_what_a_shard_raises_is_raised(spread: Project, bf: backfill.Backfill) -> None:
    """A run that nobody approved is refused on every worker; the first refusal is raised."""
    plan = bf.plan(**SHARED)
    with ThreadPoolExecutor(2) as executor, pytest.raises(backfill.ApprovalNeeded):
        bf.apply(plan.run_id, executor=executor, shards=2)


def test_a_worker_of_another_project_is_refused(
    spread: Project, bf: backfill.Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment names another host than the run's."""
    run_id = approved(spread, bf)
    monkeypatch.setenv("SUPABASE_URL", "https://elsewhere.example")
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(backfill.WrongServer, match=r"SUPABASE_URL is elsewhere\.example"),
    ):
        bf.apply(run_id, executor=executor, shards=1)


def test_a_dask_cluster_goes_on_without_a_killed_worker(
    spread: Project, bf: backfill.Backfill, clock: DatabaseClock
) -> None:
    """SIGKILL of a worker process midway: its sessions are done by the others, once."""
    run_id = approved(spread, bf)
    info = spread.db.info
    dsn = f"postgresql://{info.user}:{info.password}@{info.host}:{info.port}/{info.dbname}"
    ran = subprocess.run(
        [sys.executable, "-m", "tests.services.on_dask", run_id, str(SHARDS)],
        env={**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.stdout.splitlines()[-2:] == ["killed", "completed 39"], ran.stderr[-2000:]
    assert spread.value("select count(*) from public.backfill_receipts") == 52
    assert bf.verify(run_id).verdict == "pass"


def test_the_page_s_cluster_is_a_real_one(
    spread: Project, bf: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Its two commands start a scheduler and a worker; its lines apply a run on them."""
    run_id, port = approved(spread, bf), free_port()
    scheduler, worker = (
        line.partition("#")[0].replace("8786", str(port)).split()
        for line in CLUSTER.strip().splitlines()
    )
    assert worker[:2] == ["SUPABASE_URL=…", "SUPABASE_SECRET_KEY=…"]  # here from the environment
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [
        subprocess.Popen([sys.executable, "-m", "dask", *words], **quiet)  # type: ignore[call-overload]
        for words in (
            [*scheduler[1:], "--no-dashboard"],
            [
                *(w.replace("tcp://scheduler", "tcp://127.0.0.1") for w in worker[3:]),
                "--no-dashboard",
            ],
        )
    ]
    try:
        program = "\n".join(
            [
                "import os, backfill",
                "from dask.distributed import Client",
                f"run, bf = {run_id!r}, backfill.connect()",
                ON_DASK.replace('len(client.scheduler_info()["workers"])', "1"),
                "print(outcome.state)",
            ]
        )
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "DASK_SCHEDULER": address},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert ran.stdout.strip() == "completed", ran.stderr[-2000:]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)
