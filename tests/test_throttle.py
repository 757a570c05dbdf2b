"""No window of 60 s holds more starts than approved, whatever workers do and however time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill.local.servers import PostgresServer
from tests.kit import verbs
from tests.kit.at_once import at_once, more_connections
from tests.kit.clocks import DatabaseClock
from tests.kit.seed import SEED
from tests.kit.throttling import MINUTE, Start, closest_batches, most_in_a_minute
from tests.kit.whole import examples

LEASE = timedelta(seconds=60)
A_MICROSECOND = timedelta(microseconds=1)
# Since when sessions lack something, the canary's among them, and how many.
SINCE, SESSIONS = examples(("2025-08-01", 39), at_a_push=("2025-09-01", 7))

# What a well-meaning author writes first: wait in proportion to the batch that was granted last.
NAIVE_ALLOWANCE = b"""
create or replace function backfill_private.allowance(
  p_run public.backfill_runs,
  out wait_s numeric, out sessions integer, out why text, out wait_for text
)
language sql
set search_path = ''
as $$
  select greatest(coalesce((
      select extract(epoch from s.started_at - backfill_private.clock())
        + 60.0 * s.sessions / (p_run.request ->> 'throttle_per_minute')::integer
      from backfill_private.starts as s where s.run_id = p_run.run_id
      order by s.started_at desc limit 1), 0), 0),
    (p_run.request ->> 'batch_size')::integer,
    'the last batch',
    'throttle'
$$;
"""


@dataclass
class Crew:
    """Workers on one run, some of whom vanish; remembers every start as the answers tell it."""

    db: psycopg.Connection[Any]
    clock: DatabaseClock
    run_id: str
    starts: list[Start] = field(default_factory=list)
    held: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    lease_ends: dict[str, datetime] = field(default_factory=dict)
    waits_s: float = 0.0

    def claim(self, claim_id: str | None = None) -> Any:
        """Ask for a batch; what is granted anew is a start, a live lease told again is none."""
        claim_id = claim_id or str(uuid4())
        now = self.clock.now()
        answer = verbs.claim(self.db, self.run_id, claim_id)
        granted = answer["granted"]
        is_told_again = claim_id in self.held and now < self.lease_ends[claim_id]
        if granted:
            if not is_told_again:
                self.starts.append(Start(now, len(granted)))
            self.held[claim_id] = granted
            self.lease_ends[claim_id] = now + LEASE
        self.waits_s = float(answer.get("wait_s") or 0)
        return answer

    def settle(self, claim_id: str, outcome: str) -> None:
        """Tell the same outcome of every session of a claim."""
        outcomes = [
            {"ordinal": g["ordinal"], "outcome": outcome, "step": "fc_scores", "code": "P0001"}
            for g in self.held.pop(claim_id)
        ]
        verbs.settle(self.db, self.run_id, claim_id, outcomes)

    def score_and_settle(self, claim_id: str) -> None:
        """Do a claim's work."""
        outcomes = [verbs.score_all(self.db, self.run_id, g) for g in self.held.pop(claim_id)]
        verbs.settle(self.db, self.run_id, claim_id, outcomes)

    def renew(self, claim_id: str) -> None:
        """Renew a claim's leases; one that ran out stays so."""
        now = self.clock.now()
        verbs.call(self.db, "backfill_renew", p_run_id=self.run_id, p_claim_id=claim_id)
        if now < self.lease_ends[claim_id]:
            self.lease_ends[claim_id] = now + LEASE

    def pause_and_resume(self) -> None:
        """Somebody pauses the run and lifts the pause at once."""
        if self.state() == "running":
            verbs.call(self.db, "backfill_pause", run=self.run_id, reason="a look at it")
        if self.state() == "paused":
            verbs.call(self.db, "backfill_resume", run=self.run_id)

    def retry(self) -> None:
        """The failed sessions again."""
        if self.state() in ("completed", "running", "paused"):
            verbs.call(self.db, "backfill_retry", p_run_id=self.run_id)

    def state(self) -> str:
        """Where the run stands."""
        row = self.db.execute(
            "select state from public.backfill_runs where run_id = %s", (self.run_id,)
        ).fetchone()
        assert row is not None
        return str(row["state"])


def act(crew: Crew, action: str, pick: int, span: timedelta) -> None:
    """One thing that some worker, or time, does."""
    claims = sorted(crew.held)
    if action in CREW_ACTIONS:
        CREW_ACTIONS[action](crew, span)
    elif claims:
        CLAIM_ACTIONS[action](crew, claims[pick % len(claims)])


CREW_ACTIONS: dict[str, Callable[[Crew, timedelta], object]] = {
    "claim": lambda crew, _: crew.claim(),
    "time passes": lambda crew, span: crew.clock.advance(span.total_seconds()),
    "wait as told": lambda crew, _: crew.clock.advance(crew.waits_s),
    "pause and resume": lambda crew, _: crew.pause_and_resume(),
    "retry": lambda crew, _: crew.retry(),
    "restart": lambda crew, _: verbs.start(crew.db, crew.run_id),
}
CLAIM_ACTIONS: dict[str, Callable[[Crew, str], object]] = {
    "the reply was lost": lambda crew, claim_id: crew.claim(claim_id),
    "vanish": lambda crew, claim_id: crew.held.pop(claim_id),
    "renew": lambda crew, claim_id: crew.renew(claim_id),
    "failed": lambda crew, claim_id: crew.settle(claim_id, "failed"),
    "released": lambda crew, claim_id: crew.settle(claim_id, "released"),
    "unknown": lambda crew, claim_id: crew.settle(claim_id, "unknown"),
}
OFTEN = ["claim"] * 4 + ["wait as told"] * 2 + ["time passes"]
ACTIONS = (*OFTEN, *CREW_ACTIONS, *CLAIM_ACTIONS)
SPANS = st.one_of(
    st.just(A_MICROSECOND),
    st.just(MINUTE),
    st.just(MINUTE - A_MICROSECOND),
    st.timedeltas(timedelta(0), timedelta(seconds=1)),
    st.timedeltas(timedelta(0), timedelta(minutes=3)),
)
PACES = st.integers(1, 12).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t)))
EXAMPLES = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def db(project_db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The project as its owner sees it."""
    return project_db


@pytest.fixture
def still(clock: DatabaseClock) -> DatabaseClock:
    """A clock that moves only when a test moves it."""
    return clock


@pytest.fixture
def slate(project_admin: psycopg.Connection[Any], still: DatabaseClock) -> verbs.Slate:
    """Wipes the database between examples."""
    return verbs.Slate(project_admin)


@settings(EXAMPLES, max_examples=examples(60, at_a_push=20))
@given(
    pace=PACES,
    with_canary=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9), SPANS), min_size=15, max_size=60
    ),
)
def test_no_window_holds_more_starts_than_approved(
    db: psycopg.Connection[Any],
    still: DatabaseClock,
    slate: verbs.Slate,
    pace: tuple[int, int],
    with_canary: bool,
    steps: list[tuple[str, int, timedelta]],
) -> None:
    """Over any pace, crash, lost reply, retry, pause, clock; and who waits as told goes on."""
    throttle, batch = pace
    slate.wipe()
    run_id = verbs.started(
        db,
        throttle_per_minute=throttle,
        batch_size=batch,
        priority=SEED["priority"] if with_canary else [],
    )
    crew = Crew(db, still, run_id)
    for step in steps:
        act(crew, *step)
    crew.pause_and_resume()
    if crew.claim().get("wait_for") == "throttle":
        still.advance(crew.waits_s)
        assert crew.claim().get("wait_for") != "throttle"
    assert most_in_a_minute(crew.starts) <= throttle
    assert closest_batches(crew.starts) * (throttle // batch) >= MINUTE


@settings(EXAMPLES, max_examples=examples(12, at_a_push=8))
@given(pace=PACES, with_canary=st.booleans(), workers=st.integers(1, 3))
def test_an_eager_crew_starts_every_session_within_the_planned_time(
    db: psycopg.Connection[Any],
    still: DatabaseClock,
    slate: verbs.Slate,
    pace: tuple[int, int],
    with_canary: bool,
    workers: int,
) -> None:
    """The throttle is not kept by refusing: all start, the last no later than the plan says."""
    throttle, batch = pace
    slate.wipe()
    began = still.now()
    run_id = verbs.started(
        db,
        since=SINCE,
        throttle_per_minute=throttle,
        batch_size=batch,
        priority=SEED["priority"] if with_canary else [],
    )
    crew = Crew(db, still, run_id)
    expected_s = plan_of(db, run_id)["expected_runtime_s"]
    while crew.state() == "running":
        answers = [crew.claim() for _ in range(workers)]
        for claim_id in list(crew.held):
            crew.score_and_settle(claim_id)
        if not any(a["granted"] for a in answers) and crew.state() == "running":
            assert crew.waits_s > 0
            still.advance(crew.waits_s)
    assert sum(s.sessions for s in crew.starts) == SESSIONS
    assert crew.starts[-1].at - began <= timedelta(seconds=float(expected_s))
    assert most_in_a_minute(crew.starts) <= throttle


def plan_of(db: psycopg.Connection[Any], run_id: str) -> Any:
    """The figures of a run's plan."""
    row = db.execute(
        "select plan from public.backfill_runs where run_id = %s", (run_id,)
    ).fetchone()
    assert row is not None
    return row["plan"]


def worked_through(crew: Crew) -> list[float]:
    """One worker does a run to its end, waiting as told; seconds from the first grant to each."""
    while crew.state() == "running":
        if crew.claim()["granted"]:
            crew.score_and_settle(next(iter(crew.held)))
        elif crew.state() == "running":
            crew.clock.advance(crew.waits_s)
    assert crew.state() == "completed"
    return [(s.at - crew.starts[0].at).total_seconds() for s in crew.starts]


def seed_crew(db: psycopg.Connection[Any], clock: DatabaseClock) -> Crew:
    """A crew on the seed's run: phases of 2, 5 and 32 sessions at 20 a minute in batches of 5."""
    pace = {k: SEED[k] for k in ("throttle_per_minute", "batch_size", "priority")}
    return Crew(db, clock, verbs.started(db, **pace))


def test_the_seed_starts_nine_batches_fifteen_seconds_apart(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """At 0, 15, … 120 s, the short batch of the canary too."""
    crew = seed_crew(db, still)
    assert worked_through(crew) == [15.0 * n for n in range(9)]
    assert [s.sessions for s in crew.starts] == [2, 5, 5, 5, 5, 5, 5, 5, 2]


def test_the_oracle_sees_pacing_by_the_last_batch_break_the_throttle(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """With a naive allowance the seed's run puts 22 starts into a window of 20."""
    db.execute(NAIVE_ALLOWANCE)
    crew = seed_crew(db, still)
    worked_through(crew)
    assert most_in_a_minute(crew.starts) == 22


@pytest.fixture
def connections(
    postgres_server: PostgresServer, db: psycopg.Connection[Any]
) -> Iterator[list[psycopg.Connection[Any]]]:
    """Four more connections of their own."""
    with more_connections(postgres_server.dsn(db.info.dbname), 4) as opened:
        yield opened


def test_workers_that_claim_at_the_same_moment_get_one_batch(
    db: psycopg.Connection[Any],
    still: DatabaseClock,
    connections: list[psycopg.Connection[Any]],
) -> None:
    """Over twelve such moments of four connections no window of 60 s exceeds the throttle."""
    run_id = verbs.started(db, throttle_per_minute=6, batch_size=2)
    starts: list[Start] = []
    for _ in range(12):
        answers = at_once(connections, lambda c, _: verbs.claim(c, run_id))
        granted = [len(a["granted"]) for a in answers if a["granted"]]
        assert granted == [2]
        starts.append(Start(still.now(), 2))
        assert {a["wait_s"] for a in answers if not a["granted"]} == {20}
        still.advance(20)
    assert most_in_a_minute(starts) == 6


def bound(db: psycopg.Connection[Any], sessions_per_minute: int | None) -> None:
    """Set what all running runs together may start."""
    db.execute(
        "update public.backfill_settings set max_throttle_per_minute = %s", (sessions_per_minute,)
    )


def sqlstate(verb: Any, *arguments: Any, **named: Any) -> str | None:
    """The SQLSTATE that a verb is refused with; None where it is not."""
    try:
        verb(*arguments, **named)
    except psycopg.Error as refused:
        return refused.sqlstate
    return None


def test_running_runs_share_the_projects_bound(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """Start, resume and retry are each refused while another run takes the share."""
    bound(db, 20)
    first = verbs.started(db, throttle_per_minute=12, batch_size=3)
    second = verbs.planned(db, throttle_per_minute=12, batch_size=3)
    verbs.approve(db, second)
    assert sqlstate(verbs.start, db, second) == "OB015"
    verbs.call(db, "backfill_pause", run=first, reason="let the other go")
    assert sqlstate(verbs.start, db, second) is None
    assert sqlstate(verbs.call, db, "backfill_resume", run=first) == "OB015"
    crew = Crew(db, still, second)
    assert crew.claim()["granted"]
    crew.settle(next(iter(crew.held)), "failed")
    verbs.work(db, second, still)
    assert crew.state() == "completed"
    assert sqlstate(verbs.call, db, "backfill_resume", run=first) is None
    assert sqlstate(verbs.call, db, "backfill_retry", p_run_id=second) == "OB015"
    verbs.call(db, "backfill_cancel", run=first, reason="done with it")
    assert sqlstate(verbs.call, db, "backfill_retry", p_run_id=second) is None
    assert crew.state() == "running"


def test_runs_that_start_at_the_same_moment_share_the_bound(
    db: psycopg.Connection[Any],
    still: DatabaseClock,
    connections: list[psycopg.Connection[Any]],
) -> None:
    """Of four runs that want half of the bound each, two start."""
    bound(db, 10)
    runs = [verbs.planned(db, throttle_per_minute=5, batch_size=5) for _ in connections]
    for run_id in runs:
        verbs.approve(db, run_id)
    answers = at_once(connections, lambda c, place: verbs.start(c, runs[place]))
    assert sorted(getattr(a, "sqlstate", None) or a["state"] for a in answers) == [
        "OB015",
        "OB015",
        "running",
        "running",
    ]


def test_a_run_without_a_throttle_starts_every_batch_at_once(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """Where the project has no bound no claim waits; the plan warns and names no runtime."""
    crew = Crew(db, still, verbs.started(db, throttle_per_minute="none", batch_size=13))
    assert worked_through(crew) == [0.0, 0.0, 0.0, 0.0]
    plan = plan_of(db, crew.run_id)
    assert plan["expected_runtime_s"] is None
    assert [c["status"] for c in plan["checks"] if c["name"] == "throttle"] == ["warn"]


def test_a_project_with_a_bound_plans_nothing_above_it(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """No throttle at all, a higher one, and a batch above the throttle are refused."""
    bound(db, 20)
    assert sqlstate(verbs.planned, db, throttle_per_minute="none") == "OB013"
    assert sqlstate(verbs.planned, db, throttle_per_minute=21) == "OB013"
    assert sqlstate(verbs.planned, db, throttle_per_minute=4, batch_size=5) == "OB013"
    assert sqlstate(verbs.planned, db, throttle_per_minute=20, batch_size=20) is None


def test_a_run_without_a_throttle_leaves_no_share_of_a_later_bound(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """A bound that is set while such a run runs is taken up by it whole."""
    verbs.started(db, throttle_per_minute="none")
    later = verbs.planned(db, throttle_per_minute=5)
    verbs.approve(db, later)
    bound(db, 20)
    assert sqlstate(verbs.start, db, later) == "OB015"


def test_a_bound_that_was_lowered_holds_what_runs(
    db: psycopg.Connection[Any], still: DatabaseClock
) -> None:
    """The next claim pauses it and says what the project allows now; raised again, it goes on."""
    run_id = verbs.started(db, throttle_per_minute=20, batch_size=5)
    bound(db, 10)
    answer = verbs.claim(db, run_id)
    assert (answer["state"], answer["granted"]) == ("paused", [])
    assert "20 of the 10 starts per minute" in answer["reason"]
    assert sqlstate(verbs.call, db, "backfill_resume", run=run_id) == "OB015"
    bound(db, 20)
    assert sqlstate(verbs.call, db, "backfill_resume", run=run_id) is None
    assert verbs.claim(db, run_id)["granted"]
