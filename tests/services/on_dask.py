"""Apply a run on a Dask cluster of this machine, and kill one of its workers midway.

python -m tests.services.on_dask RUN SHARDS
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import psycopg
from dask.distributed import Client, LocalCluster

import backfill


def kill_one_midway(client: Client) -> None:
    """SIGKILL a worker when some sessions are done; its leases then run out.

    A claim that was on its way may be granted after the clock was moved. So it is moved again.
    """
    pids = list(client.run(os.getpid).values())
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
        done = "select count(*) from public.backfill_items where state = 'done'"
        while (row := db.execute(done).fetchone()) is None or row[0] < 8:
            time.sleep(0.02)
        os.kill(pids[0], signal.SIGKILL)
        print("killed", flush=True)
        while (
            db.execute("select from public.backfill_runs where state = 'running'").fetchone()
            is not None
        ):
            db.execute("update public.test_clock set now_at = now_at + interval '61 seconds'")
            time.sleep(2)


def main(run_id: str, shards: int) -> None:
    """The page's lines, and a murderer beside them."""
    with (
        LocalCluster(n_workers=shards, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        backfill.connect() as bf,
    ):
        murderer = threading.Thread(target=kill_one_midway, args=(client,))
        murderer.start()
        executor = client.get_executor(pure=False)
        outcome = bf.apply(run_id, executor=executor, shards=shards, concurrency=1)
        murderer.join()
        print(outcome.state, outcome.status.counts["done"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
