"""Bulk under faults: a batch has happened or it has not, whatever becomes of its answer."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.processes import applying, kill_at
from tests.faults.proxy import (
    Call,
    Fault,
    Nth,
    Strike,
    cut,
    does,
    half_a_body,
    late,
    numbered,
    says,
)
from tests.faults.scenario import BATCH_SESSIONS, CONCURRENCY, SESSIONS, Scene, wait_until
from tests.faults.stack import Stack
from tests.faults.subjects import IN_SQL

pytestmark = [pytest.mark.usefixtures("at_once"), IN_SQL]

BULK = ("backfill_bulk",)
UNTHROTTLED: dict[str, Any] = {"mode": "bulk", "throttle_per_minute": "none"}
PAGE = "<html><title>Bad gateway</title></html>"
ANSWERS: dict[str, list[Fault]] = {
    "reply dropped after commit": [cut(forwards=True)],
    "cut before it arrives": [cut(forwards=False)],
    "pages and half a body": [says(502, PAGE), says(504, PAGE, forwards=True), half_a_body()],
}


def every_third(turn: int, turns: int) -> Callable[[Call], bool]:
    """Calls in bulk name no session: their number tells. Of every third, each `turns`-th."""

    def picks(call: Call) -> bool:
        return call.function in BULK and call.nth % 3 == 1 and call.nth // 3 % turns == turn

    return picks


@pytest.mark.parametrize("case", ANSWERS)
def test_a_lost_answer_is_asked_again_and_nothing_is_done_twice(scene: Scene, case: str) -> None:
    """The call is made again and takes the next sessions: those of the lost one are done or not."""
    faults = ANSWERS[case]
    scene.proxy.strikes = [
        Strike(fault, every_third(turn, len(faults))) for turn, fault in enumerate(faults)
    ]
    run_id = scene.planned(**UNTHROTTLED)
    assert scene.go_on(run_id).is_complete
    assert len(scene.proxy.hits) >= len(faults)
    scene.ends_as_undisturbed(f"bulk: {case}", run_id, paced=False)


def test_killed_workers_leave_nothing_leased(scene: Scene) -> None:
    """SIGKILL before a call arrives, and after it committed; the next worker goes on at once."""
    run_id = scene.planned(**UNTHROTTLED)
    for name, forwards in (("before", False), ("after", True)):
        with applying(scene, run_id, name) as worker:
            scene.proxy.strikes = [kill_at(worker, Nth(BULK, 2), forwards=forwards)]
            assert worker.ended() == -signal.SIGKILL
            scene.proxy.calls.clear()
    scene.proxy.strikes = []
    wait_until(lambda: _quiet(scene))
    leased = "select count(*) from public.backfill_items where state = 'leased'"
    assert scene.project.value(leased) == 0
    assert scene.apply(run_id).is_complete
    scene.ends_as_undisturbed("bulk: SIGKILL twice", run_id, paced=False)


def _quiet(scene: Scene) -> bool:
    """No call of a killed worker is under way any more."""
    running = scene.project.value(
        "select count(*) from pg_stat_activity where state <> 'idle'"
        " and query like '%%bulk%%' and pid <> pg_backend_pid()"
    )
    return bool(running == 0)


def test_a_restart_of_postgrest_is_gone_through(scene: Scene, stack: Stack) -> None:
    """Killed with calls in bulk under way, back after a moment."""
    run_id = scene.planned(**UNTHROTTLED)

    def die() -> None:
        stack.kill_rest()
        scene.struck()

    scene.proxy.strikes = [Strike(does(die, forwards=False), Nth(BULK, 3))]
    with scene.beside(run_id, keeps_at_it=True) as applied:
        wait_until(lambda: scene.struck_at)
        stack.start_rest()
        assert applied.result().is_complete
    scene.ends_as_undisturbed("bulk: PostgREST killed and restarted", run_id, paced=False)


# The scoring of one session waits for whoever holds a lock.
STUCK = """
create function public.wait_for_test() returns trigger language plpgsql as $$ begin
  if new.session_id = '{session}' then perform pg_advisory_xact_lock_shared(42); end if;
  return new; end $$;
create trigger wait_for_test before insert on public.fc_scores
  for each row execute function public.wait_for_test();
"""
WAITING = """
select count(*) from pg_locks as l join pg_database as d on d.oid = l.database
where d.datname = current_database() and not l.granted and l.locktype = 'advisory' and l.mode = %s
"""


def test_no_caller_ends_while_sessions_are_open(scene: Scene) -> None:
    """The first call holds the rest of `recent` for long: the others go on with `historical`.

    Then nothing is free. When the first call ends after all, it gives back what it has not begun.
    Its answer is not heard, so the others have to do that, too.
    """
    db = scene.project.db
    newest = scene.project.value(
        "select session_id::text from public.backfill_candidates order by created_at desc limit 1"
    )
    db.execute(STUCK.format(session=newest).encode())
    run_id = scene.planned(**UNTHROTTLED, priority=[])
    phases = "select phase, count(*) as n from public.backfill_items group by 1 order by 1"
    recent = {row["phase"]: row["n"] for row in scene.project.rows(phases)}["recent"]
    first = "select backfill_private.first_in_bulk(r) from public.backfill_runs as r"
    held = min(recent, BATCH_SESSIONS, scene.project.value(first))
    assert 1 < held < SESSIONS
    done = "select count(*) from public.backfill_items where state = 'done'"

    def is_waiting(mode: str, others: int) -> bool:
        return bool(scene.project.value(WAITING, mode)) and scene.project.value(done) == others

    def is_held() -> None:
        wait_until(lambda: is_waiting("ShareLock", 0))

    def is_heard() -> None:
        wait_until(scene.proxy.healed.is_set)

    db.execute("select pg_advisory_lock(42)")
    others = range(2, CONCURRENCY + 1)
    scene.proxy.strikes = [
        Strike(late(is_heard, forwards=True), numbered(*BULK, 1)),
        Strike(late(is_held, forwards=False), numbered(*BULK, *others)),
    ]
    with scene.beside(run_id) as applied:
        wait_until(lambda: is_waiting("ExclusiveLock", SESSIONS - held))
        db.execute("update public.test_clock set now_at = now_at + interval '1 s'")
        db.execute("select pg_advisory_unlock(42)")
        wait_until(lambda: scene.project.value(done) == SESSIONS)
        scene.proxy.heal()
        assert applied.result().is_complete
    scene.ends_as_undisturbed("bulk: one call is long under way", run_id, paced=False)


def test_three_processes_share_a_run(scene: Scene) -> None:
    """Side by side, one answer lost, each session once."""
    scene.proxy.strikes = [Strike(cut(forwards=True), Nth(BULK, 4))]
    run_id = scene.planned(**UNTHROTTLED)
    with (
        applying(scene, run_id, "one") as one,
        applying(scene, run_id, "two") as two,
        applying(scene, run_id, "three") as three,
    ):
        assert [w.ended() for w in (one, two, three)] == [0, 0, 0]
    scene.ends_as_undisturbed("bulk: three workers", run_id, paced=False)
