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
    run = verbs.started(db, throttle_per_minute=None, batch_size=5)
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
    assert "back-off until" in crew.progress()["waits_for"]
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


def test_what_would_hit_every_session_holds_the_run_at_its_first_settling(crew: Crew) -> None:
    """The database pauses it, nobody's session fails, and the cause is the reason."""
    denied = {
        "outcome": "stop",
        "code": "42501",
        "message": "permission denied for table fc_scores",
    }
    ended = crew.batch(only(1, denied))
    assert ended["state"] == "paused"
    assert ended["reason"] == ("every call would fail: 42501 permission denied for table fc_scores")
    assert crew.states() == {"pending": 35, "done": 4}
    assert verbs.claim(crew.db, crew.run_id)["held_by"] is None


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
        f"paused by the database: circuit breaker: {states['failed']} of {settled} sessions failed"
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
    run_id = verbs.started(db, throttle_per_minute=None, batch_size=3, priority=canary)
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
    assert crew.progress()["waits_for"] == (
        "canary: 2 sessions are leased by test until 08:01:03 UTC"
    )
    assert len(granted) == len(second) == 1
    verbs.call(db, "backfill_pause", run=run_id, reason="lunch")
    assert crew.progress()["waits_for"] == "paused by service_role: lunch"
