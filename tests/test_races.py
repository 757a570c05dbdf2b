"""Races between a write in flight and whoever decides about it: real connections, step by step.

Each of the three that the gate's lock is there for is shown twice: with the lock as it should be,
and without it as it would go wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

import backfill
from backfill.local.servers import PostgresServer
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.outsider import Attempt, Outsider, running
from tests.kit.verbs import started

LOCK = "for key share of i nowait"


class Racers:
    """A project, and as many connections as a race needs."""

    def __init__(self, project: Project, server: PostgresServer) -> None:
        self.project = project
        self.api = Outsider(project)
        self._dsn = server.dsn(project.db.info.dbname)

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in a transaction of its own."""
        with psycopg.connect(self._dsn, row_factory=dict_row) as connection:
            yield connection

    @contextmanager
    def in_flight(self, attempt: Attempt) -> Iterator[psycopg.Connection[Any]]:
        """A scoring call that has written and not yet committed."""
        with self.connection() as scorer:
            _say_headers(scorer, attempt)
            for step in attempt.steps:
                _score(scorer, step)
            yield scorer

    @contextmanager
    def meanwhile(self, statement: str, *values: object) -> Iterator[Future[Any]]:
        """A statement in another session that has to wait; its one value, or its error."""
        with self.connection() as other, ThreadPoolExecutor(1) as pool:
            pid = other.info.backend_pid
            answer = pool.submit(_value, other, statement, values)
            self._wait_until_blocked(pid, answer)
            yield answer

    def _wait_until_blocked(self, pid: int, answer: Future[Any]) -> None:
        while not answer.done():
            if self.project.value("select cardinality(pg_blocking_pids(%s))", pid):
                return

    def without_the_lock(self) -> None:
        """The gate as it would be if it looked at the item without locking it."""
        definition = self.project.value(
            "select pg_get_functiondef('backfill_private.keep_receipt()'::regprocedure)"
        )
        assert LOCK in definition
        self.project.db.execute(definition.replace(LOCK, "").encode())

    def item(self, attempt: Attempt) -> dict[str, Any]:
        """The session as its run records it."""
        return self.project.rows(
            "select state, attempts from public.backfill_items where run_id = %s and ordinal = %s",
            attempt.run_id,
            attempt.ordinal,
        )[0]

    def receipts(self, attempt: Attempt) -> list[int]:
        """The attempts that wrote the session, in the order of the writes."""
        return [
            row["attempt"]
            for row in self.project.rows(
                "select attempt from public.backfill_receipts where run_id = %s and ordinal = %s"
                " order by receipt_id",
                attempt.run_id,
                attempt.ordinal,
            )
        ]


def _say_headers(connection: psycopg.Connection[Any], attempt: Attempt) -> None:
    connection.execute(
        "select set_config('request.headers', %s, true)", (json.dumps(attempt.headers),)
    )


def _score(connection: psycopg.Connection[Any], step: dict[str, Any]) -> None:
    names = ", ".join(f"{name} => %({name})s" for name in step["arguments"])
    connection.execute(f"select public.{step['function']}({names})".encode(), step["arguments"])


def _value(
    connection: psycopg.Connection[Any],
    statement: str,
    values: tuple[object, ...],
    *,
    commit: bool = True,
) -> Any:
    row = connection.execute(statement.encode(), values).fetchone()
    if commit:
        connection.commit()
    return next(iter(row.values())) if row else None


@pytest.fixture
def racers(project: Project, postgres_server: PostgresServer, clock: DatabaseClock) -> Racers:
    """On a clock that stands still."""
    return Racers(project, postgres_server)


def outcome(attempt: Attempt, told: str = "unknown") -> tuple[str, str, str]:
    """The arguments of a settling."""
    told_of = [{"ordinal": attempt.ordinal, "outcome": told, "code": "57014", "message": "timeout"}]
    return attempt.run_id, attempt.claim_id, json.dumps(told_of)


SETTLE = "select public.backfill_settle(%s, %s, %s)"
CLAIM = "select public.backfill_claim(%s, %s, 'other')"
CONFIRM = "select public.backfill_confirm_undo(%s, %s, 'race')"
BULK = "select public.backfill_bulk(%s, 'race', 2)"
PAUSE = "select public.backfill_pause(%s, 'race')"


# A stale worker commits beside the new one --------------------------------------------------------


def test_a_session_is_not_leased_anew_while_the_stale_attempt_can_still_commit(
    racers: Racers, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """The lease ran out with a write in flight: others pass it over, and its receipt decides."""
    stale = racers.api.claim(running(racers.project, timed))[0]
    with racers.in_flight(stale) as scorer:
        clock.advance(61)
        taken = racers.api.claim(stale.run_id)
        assert stale.ordinal not in [a.ordinal for a in taken]
        scorer.commit()
    clock.advance(61)
    racers.api.claim(stale.run_id)
    assert racers.item(stale) == {"state": "done", "attempts": 1}
    assert racers.receipts(stale) == [1] * len(stale.steps)


def test_without_the_lock_a_stale_worker_commits_beside_the_new_one(
    racers: Racers, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """What the lock prevents: the second attempt holds the session, the first still writes it."""
    stale = racers.api.claim(running(racers.project, timed))[0]
    racers.without_the_lock()
    with racers.in_flight(stale) as scorer:
        clock.advance(61)
        new = racers.api.claim(stale.run_id)[0]
        assert (new.session_id, racers.item(stale)) == (
            stale.session_id,
            {"state": "leased", "attempts": 2},
        )
        scorer.commit()
    assert racers.receipts(stale) == [1] * len(stale.steps)


def test_a_stale_attempt_that_wakes_up_is_refused_at_its_write(
    racers: Racers, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """A worker froze before its call; when it wakes up, another has taken the session over."""
    frozen = racers.api.claim(running(racers.project, timed))[0]
    clock.advance(61)
    new = racers.api.claim(frozen.run_id)[0]
    assert new.session_id == frozen.session_id
    assert racers.api.score(frozen)["code"] == "OB011"
    assert racers.api.score(new)["status"] == "ok"
    assert racers.receipts(new) == [2]


# A retry under the old fence ----------------------------------------------------------------------


def test_an_outcome_waits_for_the_write_in_flight(racers: Racers, timed: backfill.Backfill) -> None:
    """The client gave up on a call that then committed: settling waits, and the session is done."""
    attempt = racers.api.claim(running(racers.project, timed))[0]
    with (
        racers.in_flight(attempt) as scorer,
        racers.meanwhile(SETTLE, *outcome(attempt, "failed")) as settled,
    ):
        assert not settled.done()
        scorer.commit()
        assert settled.result()["settled"][0]["state"] == "done"
    retried = racers.api.rpc("backfill_retry", p_run_id=attempt.run_id)
    assert retried["sessions"] == 0


def test_without_the_lock_a_session_is_retried_while_its_old_attempt_still_commits(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """What the lock prevents: failed, given out again, and then the old row arrives."""
    attempt = racers.api.claim(running(racers.project, timed))[0]
    racers.without_the_lock()
    with (
        racers.in_flight(attempt) as scorer,
        racers.meanwhile(SETTLE, *outcome(attempt, "failed")) as settled,
    ):
        assert settled.result()["settled"][0]["state"] == "failed"
        assert racers.api.rpc("backfill_retry", p_run_id=attempt.run_id)["sessions"] == 1
        again = racers.api.claim(attempt.run_id)[0]
        assert again.session_id == attempt.session_id
        scorer.commit()
    assert racers.receipts(attempt) == [1] * len(attempt.steps)


def test_a_retry_is_not_written_under_the_old_fence(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """Each attempt has its own fence: the old one stays shut after the retry."""
    attempt = racers.api.claim(running(racers.project, timed))[0]
    racers.api.settle(attempt, outcome="failed", code="P0001")
    racers.api.rpc("backfill_retry", p_run_id=attempt.run_id)
    again = racers.api.claim(attempt.run_id)[0]
    assert again.session_id == attempt.session_id
    assert racers.api.score(attempt)["code"] == "OB011"
    assert racers.api.score(again)["status"] == "ok"


def test_a_write_does_not_wait_for_who_decides(racers: Racers, timed: backfill.Backfill) -> None:
    """Whoever holds the item is about to change its fence, so the write fails at once."""
    attempt = racers.api.claim(running(racers.project, timed))[0]
    with racers.connection() as decider:
        decider.execute(SETTLE, outcome(attempt))
        assert racers.api.score(attempt)["code"] == "55P03"
        decider.rollback()
    assert racers.api.score(attempt)["status"] == "ok"


def test_a_claim_asked_again_waits_for_the_write_in_flight_and_knows_of_it(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """The same claim again: the steps that it hands out leave out what has just been committed."""
    attempt = racers.api.claim(running(racers.project, timed))[0]
    with (
        racers.in_flight(attempt) as scorer,
        racers.meanwhile(CLAIM, attempt.run_id, attempt.claim_id) as claimed,
    ):
        scorer.commit()
        granted = claimed.result()["granted"]
    assert [g["steps"] for g in granted if g["ordinal"] == attempt.ordinal] == [[]]


def test_a_renewal_and_a_write_do_not_disturb_each_other(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """Neither waits for the other, whichever came first; renewing changes no fence."""
    attempt, other = racers.api.claim(running(racers.project, timed))[:2]
    run, claim = attempt.run_id, attempt.claim_id
    with racers.in_flight(attempt) as scorer:
        assert racers.api.rpc("backfill_renew", p_run_id=run, p_claim_id=claim) == 5
        scorer.commit()
    with racers.connection() as renewer:
        renewer.execute("select public.backfill_renew(%s, %s)", (run, claim))
        assert racers.api.score(other)["status"] == "ok"
        renewer.commit()


# A call in bulk against a verb --------------------------------------------------------------------


def test_a_pause_waits_for_the_call_in_bulk_under_way(racers: Racers) -> None:
    """Its sessions have no lease that others see. So the verb waits, and the chain has them."""
    run_id = started(racers.project.db, mode="bulk", throttle_per_minute="none", priority=[])
    with racers.connection() as scorer:
        scorer.execute(BULK.encode(), (run_id,))
        with racers.meanwhile(PAUSE, run_id) as paused:
            assert not paused.done()
            scorer.commit()
            assert paused.result()["state"] == "paused"
    events = "select kind from public.backfill_events where run_id = %s order by seq desc limit 3"
    told = [row["kind"] for row in racers.project.rows(events, run_id)]
    assert told == ["paused", "batch_settled", "batch_granted"]


def test_a_phase_whose_rest_is_under_way_is_followed_by_the_next(racers: Racers) -> None:
    """One call holds all that is left of `recent`. The next begins `historical`, and no third."""
    run_id = started(racers.project.db, mode="bulk", throttle_per_minute="none", priority=[])
    with racers.connection() as first, racers.connection() as second:
        first.execute(BULK.replace("2)", "20)").encode(), (run_id,))
        second.execute(BULK.replace("2)", "500)").encode(), (run_id,))
        assert racers.project.value(BULK, run_id) == {"look": True}
    phases = (
        "select phase, count(*) as sessions, count(distinct started_at) as calls"
        " from public.backfill_items where run_id = %s and state = 'done' group by 1 order by 1"
    )
    assert [tuple(row.values()) for row in racers.project.rows(phases, run_id)] == [
        ("historical", 32, 1),
        ("recent", 7, 1),
    ]


def test_a_canary_under_way_is_followed_by_nothing(racers: Racers) -> None:
    """However much else is open: it is looked at before the rest."""
    named = racers.project.value(
        "select session_id::text from public.backfill_candidates order by created_at desc limit 1"
    )
    run_id = started(racers.project.db, mode="bulk", throttle_per_minute="none", priority=[named])
    assert racers.project.value(BULK, run_id) == {"look": True}
    with racers.connection() as other:
        other.execute(
            b"select from public.backfill_items"
            b" where run_id = %s and phase = 'priority' for update",
            (run_id,),
        )
        assert racers.project.value(BULK, run_id) == {"look": True}


# Scorer against undo ------------------------------------------------------------------------------


def undoable(racers: Racers, bf: backfill.Backfill) -> tuple[Attempt, Attempt]:
    """A run with a written session, and another one leased."""
    written, leased = racers.api.claim(running(racers.project, bf))[:2]
    for step in range(len(written.steps)):
        assert racers.api.score(written, step)["status"] == "ok"
    racers.api.settle(written)
    return written, leased


def standing(racers: Racers, attempt: Attempt) -> int:
    count: int = racers.project.value(
        "select count(*) from public.fc_scores where session_id = %s and version = 'v1.2'",
        attempt.session_id,
    )
    return count


def test_an_undo_waits_for_the_write_in_flight_and_does_not_miss_its_row(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """The preview did not see the row, so its digest no longer holds; the next takes it back."""
    _, leased = undoable(racers, timed)
    with racers.in_flight(leased) as scorer:
        timed.cancel(leased.run_id, reason="race")
        effect = timed.rollback(leased.run_id).effect
        with racers.meanwhile(CONFIRM, leased.run_id, effect.digest) as confirmed:
            assert not confirmed.done()
            scorer.commit()
            with pytest.raises(psycopg.errors.DatabaseError) as refused:
                confirmed.result()
    assert refused.value.sqlstate == "OB019"
    assert timed.rollback(leased.run_id).confirm(reason="race").state == "rolled_back"
    assert (racers.item(leased)["state"], standing(racers, leased)) == ("rolled_back", 0)


def test_without_the_lock_a_row_arrives_after_its_run_was_rolled_back(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """What the lock prevents: the undo is over, the run closed, and the row comes all the same."""
    _, leased = undoable(racers, timed)
    racers.without_the_lock()
    with racers.in_flight(leased) as scorer:
        timed.cancel(leased.run_id, reason="race")
        assert timed.rollback(leased.run_id).confirm(reason="race").state == "rolled_back"
        scorer.commit()
    assert standing(racers, leased) == 1


def test_an_undo_shuts_the_gate_for_leases_that_were_still_open(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """A worker that has not yet called is refused afterwards; no session is left leased."""
    _, leased = undoable(racers, timed)
    timed.pause(leased.run_id, reason="race")
    timed.rollback(leased.run_id).confirm(reason="race")
    assert racers.item(leased)["state"] == "pending"
    timed.resume(leased.run_id)
    assert racers.api.score(leased)["code"] == "OB011"


def test_an_undo_waits_for_who_is_changing_a_row_and_leaves_it(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """Without a lock the look would find the row as it was, and the change would be gone."""
    written, _ = undoable(racers, timed)
    timed.cancel(written.run_id, reason="race")
    undo = timed.rollback(written.run_id)
    with racers.connection() as person:
        person.execute(
            "update public.fc_scores set blocks_answered = 5 where session_id = %s",
            (written.session_id,),
        )
        with racers.meanwhile(CONFIRM, written.run_id, undo.digest) as confirmed:
            assert not confirmed.done()
            person.commit()
            [conflict] = confirmed.result()["conflicts"]
    assert conflict["reason"] == "the row was changed since"
    assert standing(racers, written) == 1


# Two runs, one session ----------------------------------------------------------------------------


def test_two_runs_that_claim_at_once_do_not_lease_a_session_twice(
    racers: Racers, timed: backfill.Backfill
) -> None:
    """The second claim waits for the first and passes over what that one has leased."""
    first, second = running(racers.project, timed), running(racers.project, timed)
    with racers.connection() as one:
        ours = _value(one, CLAIM, (first, str(uuid4())), commit=False)["granted"]
        with racers.meanwhile(CLAIM, second, str(uuid4())) as other:
            assert not other.done()
            one.commit()
            theirs = other.result()["granted"]
    sessions = [{g["session_id"] for g in granted} for granted in (ours, theirs)]
    assert all(sessions)
    assert not sessions[0] & sessions[1]


def test_two_runs_over_the_same_sessions_both_end_and_score_each_session_once(
    racers: Racers, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Worked on at the same time, each session is done in one run and skipped in the other."""
    runs = [running(racers.project, timed) for _ in range(2)]

    def apply(run: str) -> backfill.Outcome:
        with racers.project.connect(clock=clock) as bf:
            return bf.apply(run)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(apply, runs))
    counts = [o.status.counts for o in outcomes]
    assert [c["failed"] for c in counts] == [0, 0]
    assert sum(c["done"] for c in counts) == sum(c["skipped"] for c in counts) == 39


def test_renewing_locks_items_in_the_order_in_which_settling_does(racers: Racers) -> None:
    """Or the two would wait for each other, wherever the rows lie."""
    with racers.project.connect() as bf:
        run_id = running(racers.project, bf)
    attempts = racers.api.claim(run_id)
    # Its new version lies behind the others'.
    racers.project.db.execute(
        "update public.backfill_items set worker = worker where run_id = %s and ordinal = %s",
        (run_id, attempts[0].ordinal),
    )
    lock = "select from public.backfill_items where run_id = %s and ordinal = %s for update nowait"
    with racers.connection() as settling:
        settling.execute(lock, (run_id, attempts[0].ordinal))
        renewing = "select public.backfill_renew(%s, %s)"
        with racers.meanwhile(renewing, run_id, attempts[0].claim_id) as renewed:
            settling.execute(lock, (run_id, attempts[1].ordinal))
            settling.commit()
            assert renewed.result() == len(attempts)
