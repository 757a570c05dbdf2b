"""Unknown outcomes are settled, not guessed; the run backs off, holds with the cause, goes on."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.seed import SEED

Connection = psycopg.Connection[Any]


@pytest.fixture
def db(project_db: Connection) -> Connection:
    """The project as its owner sees it."""
    return project_db


@pytest.fixture
def still(clock: DatabaseClock) -> DatabaseClock:
    """A clock that moves only when a test moves it."""
    return clock


class Crew:
    """One worker that tells of every session what a test wants told."""

    def __init__(self, db: Connection, clock: DatabaseClock, run_id: str) -> None:
        self.db, self.clock, self.run_id = db, clock, run_id

    def batch(self, tell: Any) -> Any:
        """Wait for the next batch and tell of it; what settle or the last claim answered.

        tell: an outcome for all, or a function of a grant that gives the outcome's fields; the
        session is really scored where it gives None.
        """
        while True:
            claim_id = str(uuid4())
            answer = verbs.claim(self.db, self.run_id, claim_id)
            if answer["granted"]:
                told = [self._told(grant, tell) for grant in answer["granted"]]
                return verbs.settle(self.db, self.run_id, claim_id, told)
            if answer["state"] != "running":
                return answer
            self.clock.advance(answer["wait_s"])

    def _told(self, grant: Any, tell: Any) -> dict[str, Any]:
        fields = tell(grant) if callable(tell) else tell
        if fields is None:
            return verbs.score_all(self.db, self.run_id, grant)
        step = grant["steps"][0]["component"]
        return {"ordinal": grant["ordinal"], "answered": [], "step": step, **fields}

    def to_its_end(self, tell: Any) -> Any:
        """Batch after batch until the run does not run."""
        while (answer := self.batch(tell))["state"] == "running":
            pass
        return answer

    def item(self, ordinal: int) -> dict[str, Any]:
        """A session's row."""
        row: dict[str, Any] | None = self.db.execute(
            "select * from public.backfill_items where run_id = %s and ordinal = %s",
            (self.run_id, ordinal),
        ).fetchone()
        assert row is not None
        return row

    def states(self) -> dict[str, int]:
        """How many items in each state."""
        rows = self.db.execute(
            "select state, count(*) as n from public.backfill_items where run_id = %s group by 1",
            (self.run_id,),
        )
        return {row["state"]: row["n"] for row in rows}

    def progress(self) -> dict[str, Any]:
        """The run's row of backfill_run_progress, as the secret key sees it."""
        with verbs.as_service(self.db):
            row: dict[str, Any] | None = self.db.execute(
                "select * from public.backfill_run_progress where run_id = %s", (self.run_id,)
            ).fetchone()
        assert row is not None
        return row


@pytest.fixture
def crew(db: Connection, still: DatabaseClock) -> Crew:
    """On a run over the sample's 39 sessions, without a canary and without a throttle."""
    run = verbs.started(db, throttle_per_minute="none", batch_size=5)
    return Crew(db, still, run)


TIMEOUT = {"outcome": "unknown", "code": "transport", "message": "ReadTimeout"}
FAILED = {"outcome": "failed", "code": "P0001", "message": "no score for this one"}


def only(ordinal: int, outcome: dict[str, Any]) -> Any:
    """Tell this of one session; score all others."""
    return lambda grant: outcome if grant["ordinal"] == ordinal else None


def test_a_written_row_decides_what_nobody_heard(crew: Crew) -> None:
    """The reply was lost after the commit: the session is done, and never called again."""

    def lost_reply(grant: Any) -> dict[str, Any]:
        verbs.score_all(crew.db, crew.run_id, grant)
        return TIMEOUT

    crew.to_its_end(lost_reply)
    assert crew.states() == {"done": 39}
    assert {crew.item(n)["attempts"] for n in range(1, 40)} == {1}


def test_an_unknown_outcome_backs_its_session_off_and_no_other(crew: Crew) -> None:
    """The other sessions go on; the session comes back once its time has come."""
    crew.batch(only(1, TIMEOUT))
    first = crew.item(1)
    assert (first["state"], first["unknown_outcomes"], first["crowded_out"]) == ("pending", 1, 0)
    assert first["not_before"] > crew.clock.now()
    granted = verbs.claim(crew.db, crew.run_id)["granted"]
    assert [g["ordinal"] for g in granted] == [6, 7]
    granted = verbs.claim(crew.db, crew.run_id)["granted"]
    assert {g["phase"] for g in granted} == {"historical"}


@pytest.mark.parametrize("word", ["well done", "", None])
def test_an_outcome_in_a_word_that_nobody_knows_is_unknown(crew: Crew, word: str | None) -> None:
    """Whoever holds the key may tell anything: it backs off like any other, and is counted."""
    crew.batch(only(1, {**TIMEOUT, "outcome": word}))
    first = crew.item(1)
    assert (first["state"], first["unknown_outcomes"]) == ("pending", 1)
    assert first["not_before"] > crew.clock.now()


def test_a_session_whose_outcome_stays_unknown_fails_while_the_others_are_done(
    crew: Crew,
) -> None:
    """Eight times, with back-off in between; it is named with what was met."""
    assert crew.to_its_end(only(3, TIMEOUT))["state"] == "completed"
    assert crew.states() == {"done": 38, "failed": 1}
    poisonous = crew.item(3)
    assert poisonous["unknown_outcomes"] == 8
    assert poisonous["error_message"] == "the outcome stayed unknown 8 times: ReadTimeout"


def test_a_project_that_never_answers_pauses_the_run_and_fails_no_session(crew: Crew) -> None:
    """After eight batches, each waited for longer, the database holds the run with the cause."""
    began = crew.clock.now()
    assert crew.to_its_end(TIMEOUT)["state"] == "paused"
    assert crew.states() == {"pending": 39}
    assert (
        "no known outcome in 8 batches in a row, the last: transport ReadTimeout"
        in (crew.progress()["waits_for"])
    )
    waited = (crew.clock.now() - began).total_seconds()
    assert 63 <= waited <= 127


def test_a_run_paused_for_silence_finishes_once_the_project_answers(crew: Crew) -> None:
    """Resume forgets the trouble; every session is still there."""
    crew.to_its_end(TIMEOUT)
    verbs.call(crew.db, "backfill_resume", run=crew.run_id)
    crew.to_its_end(lambda _: None)
    assert crew.states() == {"done": 39}


def test_too_many_requests_slow_the_run_down_and_fail_nothing(crew: Crew) -> None:
    """The run waits at least as long as it was told, and says after what."""
    slow = {"outcome": "slow", "code": "429", "message": "slow down", "retry_after_s": 17}
    crew.batch(only(2, slow))
    answer = verbs.claim(crew.db, crew.run_id)
    assert (answer["granted"], answer["wait_for"], answer["wait_s"]) == ([], "back-off", 17)
    assert "429 slow down" in answer["why"]
    assert "back-off: until" in crew.progress()["waits_for"]
    for _ in range(12):
        crew.batch(slow)
    assert crew.to_its_end(lambda _: None)["state"] == "completed"
    assert crew.states() == {"done": 39}
    assert crew.item(2)["unknown_outcomes"] == 0


def test_a_call_that_was_crowded_out_is_made_again_and_fails_the_fifth_time(crew: Crew) -> None:
    """A deadlock's victim may succeed; its budget is not that of the transport."""
    deadlock = {"outcome": "again", "code": "40P01", "message": "deadlock detected"}
    crew.to_its_end(only(4, deadlock))
    victim = crew.item(4)
    assert (victim["state"], victim["crowded_out"], victim["unknown_outcomes"]) == ("failed", 5, 0)
    assert victim["error_code"] == "40P01"


# Whose error is it? -------------------------------------------------------------------------------

DENIED = {
    "outcome": "stop",
    "code": "42501",
    "message": "permission denied for table fc_scores",
}
ABSENT = {"outcome": "stop", "code": "42P01", "message": 'relation "t_new.visits" does not exist'}
EVERY = "every call would fail: 42501 permission denied for table fc_scores"


def those(ordinals: set[int], outcome: dict[str, Any]) -> Any:
    """Tell this of some sessions; score all others."""
    return lambda grant: outcome if grant["ordinal"] in ordinals else None


def failures(crew: Crew) -> dict[int, str]:
    """The code of every failed session."""
    rows = crew.db.execute(
        "select ordinal, error_code from public.backfill_items"
        " where run_id = %s and state = 'failed'",
        (crew.run_id,),
    )
    return {row["ordinal"]: row["error_code"] for row in rows}


def test_one_session_s_error_is_one_session_s(crew: Crew) -> None:
    """Another, tried alone, is done: the first has failed, with its own message."""
    crew.batch(only(3, ABSENT))
    assert crew.states() == {"done": 4, "pending": 35}
    [witness] = verbs.claim(crew.db, crew.run_id, claim_id := str(uuid4()))["granted"]
    assert verbs.claim(crew.db, crew.run_id)["wait_for"] == "leases"
    waits_for = crew.progress()["waits_for"]
    assert waits_for.startswith("trial: whether an error is that of all sessions, ")
    told = verbs.score_all(crew.db, crew.run_id, witness)
    settled = verbs.settle(crew.db, crew.run_id, claim_id, [told])
    assert [(s["ordinal"], s["state"]) for s in settled["settled"]] == [
        (3, "failed"),
        (witness["ordinal"], "done"),
    ]
    failed = crew.item(3)
    assert (failed["error_code"], failed["error_message"]) == ("42P01", ABSENT["message"])
    assert failed["attempts"] == 1
    assert crew.to_its_end(lambda _: None)["state"] == "completed"
    assert crew.states() == {"done": 38, "failed": 1}


def test_what_hits_every_session_holds_the_run_and_fails_none(crew: Crew) -> None:
    """No session was done yet, so one witness is enough; the cause is the reason."""
    assert crew.batch(lambda g: DENIED if g["ordinal"] == 1 else {"outcome": "released"})
    ended = crew.batch(DENIED)
    assert (ended["state"], ended["reason"]) == ("paused", EVERY)
    assert crew.states() == {"pending": 39}
    assert verbs.claim(crew.db, crew.run_id)["held_by"] is None


def test_what_hits_every_session_midway_holds_the_run_after_three_witnesses(crew: Crew) -> None:
    """Sessions were done: so it may be one session's, until three others met the same."""
    crew.batch(only(5, DENIED))
    assert [crew.batch(DENIED)["state"] for _ in range(3)] == ["running", "running", "paused"]
    assert crew.states() == {"pending": 35, "done": 4}
    assert crew.progress()["reason"] == EVERY


def test_neighbours_with_the_same_cause_fail_and_no_other(crew: Crew) -> None:
    """A tenant's three sessions stand together in the plan; the witness is from elsewhere."""
    assert crew.to_its_end(those({3, 4, 5}, ABSENT))["state"] == "completed"
    assert failures(crew) == dict.fromkeys((3, 4, 5), "42P01")


def test_the_last_sessions_are_judged_by_each_other(crew: Crew) -> None:
    """Two at the very end hold the run once; after a resume they fail, and it completes."""
    last_two = those({38, 39}, ABSENT)
    assert crew.to_its_end(last_two)["state"] == "completed"
    assert failures(crew) == {38: "42P01", 39: "42P01"}


def test_a_last_session_fails_by_itself(crew: Crew) -> None:
    assert crew.to_its_end(only(39, DENIED))["state"] == "completed"
    assert failures(crew) == {39: "42501"}


def test_a_session_that_is_alone_in_its_run_has_failed(crew: Crew) -> None:
    """There is nobody to compare it with: it is named, and can be retried."""
    crew.db.execute("update public.backfill_items set state = 'skipped' where ordinal > 1")
    assert crew.to_its_end(DENIED)["state"] == "completed"
    assert failures(crew) == {1: "42501"}
    assert verbs.call(crew.db, "backfill_retry", p_run_id=crew.run_id)["sessions"] == 1
    crew.to_its_end(lambda _: None)
    assert crew.item(1)["state"] == "done"


def test_a_resume_does_not_go_round_in_a_circle(crew: Crew) -> None:
    """A cause that nobody mended: each resume gets on, and all that can be done is done."""
    bad = {1, 2, 3, 6, 10, 20, 30, 38, 39}
    tell = those(bad, ABSENT)
    states = []
    for _ in range(5):
        states.append(crew.to_its_end(tell)["state"])
        if states[-1] == "completed":
            break
        verbs.call(crew.db, "backfill_resume", run=crew.run_id)
    assert states[-1] == "completed"
    assert set(failures(crew)) == bad


def test_a_mended_cause_lets_every_session_be_done(crew: Crew) -> None:
    crew.batch(lambda g: DENIED if g["ordinal"] == 1 else {"outcome": "released"})
    assert crew.batch(DENIED)["state"] == "paused"
    verbs.call(crew.db, "backfill_resume", run=crew.run_id)
    assert crew.to_its_end(lambda _: None)["state"] == "completed"
    assert crew.states() == {"done": 39}


def test_a_witness_that_fails_otherwise_tells_nothing(crew: Crew) -> None:
    """It did not come to where the error is: the next is called."""
    crew.batch(only(3, ABSENT))
    crew.batch(FAILED)
    assert failures(crew).keys() == {7}
    crew.batch(TIMEOUT)
    assert failures(crew).keys() == {7}
    crew.batch(lambda _: None)
    assert failures(crew).keys() == {3, 7}


def test_a_witness_whose_worker_is_gone_is_followed_by_another(
    crew: Crew, still: DatabaseClock
) -> None:
    crew.batch(only(3, ABSENT))
    assert len(verbs.claim(crew.db, crew.run_id)["granted"]) == 1
    still.advance(61)
    assert crew.to_its_end(lambda _: None)["state"] == "completed"
    assert failures(crew) == {3: "42P01"}


def test_a_session_that_is_asked_to_wait_gives_way_and_fails_the_sixth_time(crew: Crew) -> None:
    """Others are answered meanwhile; the run waits for it once, then it waits by itself."""
    slow = {"outcome": "slow", "code": "PT429", "message": "the sender is over its quota"}
    assert crew.to_its_end(only(3, slow))["state"] == "completed"
    assert crew.states() == {"done": 38, "failed": 1}
    third = crew.item(3)
    assert (third["attempts"], third["crowded_out"]) == (6, 6)
    assert third["error_message"] == (
        "asked to wait 6 times while others were not: the sender is over its quota"
    )


def test_two_sessions_with_a_limit_of_their_own_fail_both(crew: Crew) -> None:
    slow = {"outcome": "slow", "code": "429", "message": "too large"}
    assert crew.to_its_end(those({3, 4}, slow))["state"] == "completed"
    assert set(failures(crew)) == {3, 4}


def test_a_session_s_own_limit_holds_up_no_other(crew: Crew) -> None:
    """The second time it is asked to wait an hour, the others do not wait for it."""
    slow = {"outcome": "slow", "code": "429", "message": "too large", "retry_after_s": 3600}
    crew.batch(only(3, slow))
    assert verbs.claim(crew.db, crew.run_id)["wait_s"] == 3600
    began = crew.clock.now()
    crew.to_its_end(only(3, slow))
    rows = crew.db.execute(
        "select max(settled_at) as at from public.backfill_items"
        " where run_id = %s and state = 'done'",
        (crew.run_id,),
    ).fetchone()
    assert rows is not None
    assert (rows["at"] - began).total_seconds() < 3700


# The circuit breaker ------------------------------------------------------------------------------


def alternating(share: float) -> Any:
    """Fail this share of the sessions, spread evenly."""
    return lambda grant: FAILED if (grant["ordinal"] * share) % 1 < share else None


def test_more_than_half_failed_after_twenty_pauses_the_run(crew: Crew) -> None:
    """Not before the twentieth, and with the figures and the most frequent code."""
    assert crew.to_its_end(alternating(0.6))["state"] == "paused"
    states = crew.states()
    settled = states["done"] + states["failed"]
    assert 20 <= settled < 25
    waits_for = crew.progress()["waits_for"]
    assert waits_for.startswith(
        "resume: paused by the database: circuit breaker:"
        f" {states['failed']} of {settled} sessions failed"
    )
    assert waits_for.endswith("most with P0001")


def test_half_failed_does_not_break_the_circuit(crew: Crew) -> None:
    """One in two is not more than half: the run completes and names them all."""
    assert crew.to_its_end(alternating(0.5))["state"] == "completed"


def test_the_breaker_counts_since_the_last_resume(crew: Crew) -> None:
    """Once repaired and resumed, the run finishes; the failed sessions can be retried."""
    crew.to_its_end(FAILED)
    assert crew.states() == {"failed": 22, "pending": 17}
    verbs.call(crew.db, "backfill_resume", run=crew.run_id)
    assert crew.to_its_end(lambda _: None)["state"] == "completed"
    assert verbs.call(crew.db, "backfill_retry", p_run_id=crew.run_id)["sessions"] == 22
    crew.to_its_end(lambda _: None)
    assert crew.states() == {"done": 39}


def test_five_failed_in_a_row_in_the_canary_pause_the_run(
    db: Connection, still: DatabaseClock
) -> None:
    """The rest of a long canary is not scored."""
    everyone = db.execute(
        "select session_id::text from public.backfill_candidates"
        " where created_at >= '2025-08-01' order by 1 limit 12"
    ).fetchall()
    canary = [row["session_id"] for row in everyone]
    run_id = verbs.started(db, throttle_per_minute="none", batch_size=3, priority=canary)
    crew = Crew(db, still, run_id)
    crew.batch(only(3, FAILED))
    assert crew.to_its_end(FAILED)["state"] == "paused"
    assert crew.states() == {"done": 2, "failed": 7, "pending": 30}
    assert "canary sessions failed in a row" in crew.progress()["waits_for"]


def test_every_wait_has_a_reason(db: Connection, still: DatabaseClock) -> None:
    """Throttle, canary, another worker's lease, a person's pause: who, why and until when."""
    run_id = verbs.started(db, throttle_per_minute=20, batch_size=1, priority=SEED["priority"])
    crew = Crew(db, still, run_id)
    first = str(uuid4())
    granted = verbs.claim(db, run_id, first)["granted"]
    assert crew.progress()["waits_for"].startswith("throttle: the next batch starts at 08:00:03")
    assert verbs.claim(db, run_id)["why"] == "20 starts per minute"
    still.advance(3)
    second = verbs.claim(db, run_id)["granted"]
    still.advance(3)
    answer = verbs.claim(db, run_id)
    assert answer["wait_for"] == "canary"
    assert crew.progress()["waits_for"] == ("canary: 2 are leased by test until 08:01:03 UTC")
    assert len(granted) == len(second) == 1
    verbs.call(db, "backfill_pause", run=run_id, reason="lunch")
    assert crew.progress()["waits_for"] == "resume: paused by service_role: lunch"


def test_nobody_knows_how_long_a_run_takes_that_nobody_works_on(
    db: Connection, still: DatabaseClock
) -> None:
    """None asks for the next batch, or the leases of the last have run out: not 0 s, but null."""
    run_id = verbs.started(db, throttle_per_minute=20, batch_size=5)
    crew = Crew(db, still, run_id)
    crew.batch(lambda _: None)
    assert crew.progress()["eta_s"] == 7 * 15
    still.advance(15)
    idle = crew.progress()
    assert (idle["eta_s"], idle["waits_for"]) == (
        None,
        f"worker: none asks for the next batch. If none is alive: backfill apply {run_id}",
    )
    verbs.claim(db, run_id)
    assert crew.progress()["eta_s"] == 7 * 15
    still.advance(61)
    dead = crew.progress()
    assert (dead["eta_s"], dead["waits_for"]) == (
        None,
        "worker: none renews the leases that ran out by 08:01:15 UTC."
        f" If none is alive: backfill apply {run_id}",
    )
