"""What passes is waited out: a lock on a target, a database that takes no writes for a while."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from tests.faults.proxy import SCORING, Fault, Nth, Strike, does, numbered, says
from tests.faults.scenario import MIDWAY, Scene, hits_of, wait_until
from tests.faults.subjects import IN_SQL
from tests.kit.whole import NIGHTLY

LIMIT = "canceling statement due to statement timeout"
READ_ONLY = "cannot execute UPDATE in a read-only transaction"
PASSING: dict[str, Fault] = {
    "57014": says(500, {"code": "57014", "message": LIMIT, "details": None, "hint": None}),
    "25006": says(405, {"code": "25006", "message": READ_ONLY, "details": None, "hint": None}),
}


@IN_SQL
@pytest.mark.usefixtures("at_once")
def test_a_call_of_ours_is_repeated_after_what_passes(scene: Scene) -> None:
    """A time limit and a database without writes, several times in a row, while it starts,
    claims and settles: no failure of any session, and no end of the apply."""
    limit, read_only = PASSING.values()
    scene.proxy.strikes = [
        Strike(limit, numbered("backfill_start", 1, 2)),
        Strike(read_only, numbered("backfill_start", 3, 4)),
        Strike(limit, numbered("backfill_claim", 2, 3, 4)),
        Strike(read_only, numbered("backfill_claim", 6, 7, 8)),
        Strike(limit, numbered("backfill_settle", 1, 2, 3)),
        Strike(read_only, numbered("backfill_settle", 5, 6, 7)),
    ]
    run_id = scene.planned()
    assert scene.apply(run_id).is_complete
    assert hits_of(scene.proxy.hits, "backfill_start", "backfill_claim", "backfill_settle") == 16
    waits = {e.details["why"] for e in scene.events if e.kind == "waiting"}
    assert {f"127.0.0.1 takes no writes: 25006 {READ_ONLY}"} <= waits
    scene.ends_as_undisturbed("time limits and read-only answers to calls of ours", run_id)


@NIGHTLY
@IN_SQL
@pytest.mark.parametrize("seconds", [5, 12, 60])
def test_a_lock_on_a_target_is_waited_out(scene: Scene, seconds: int) -> None:
    """As `alter table` takes it, longer than any statement lasts: apply goes on by itself."""
    run_id = scene.planned()

    def lock() -> None:
        scene.struck()
        threading.Thread(target=hold, daemon=True).start()
        wait_until(lambda: held)

    held: list[float] = []

    def hold() -> None:
        with psycopg.connect(scene.dsn) as db:
            db.execute("lock table public.fc_scores in access exclusive mode")
            held.append(time.monotonic())
            time.sleep(seconds)

    scene.proxy.strikes = [Strike(does(lock, forwards=False), Nth(SCORING, MIDWAY))]
    outcome = scene.apply(run_id)
    # A scoring call that met its limit behind the lock is its session's failure, and named.
    assert {failure.error_code for failure in outcome.failures} <= {"57014"}
    if outcome.failures:
        with scene.project.connect() as bf:
            assert bf.retry(run_id, wait=False).retried
        assert scene.go_on(run_id).is_complete
    scene.ends_as_undisturbed(f"a target locked for {seconds} s", run_id)
