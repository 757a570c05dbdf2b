"""The rate of a run may be lowered and raised again, never beyond what was approved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.at_once import more_connections
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.throttling import MINUTE, Start
from tests.kit.whole import examples
from tests.test_bulk import BULK
from tests.test_throttle import EXAMPLES, PACES, SPANS, Crew, act, sqlstate

OFTEN = ["claim"] * 4 + ["wait as told"] * 3 + ["pace"] * 2
ACTIONS = (*OFTEN, "time passes", "pause and resume", "restart", "vanish", "failed", "released")
GRANTED = """
select coalesce((e.details ->> 'started_at')::timestamptz, e.at) as at,
  (e.details ->> 'sessions')::integer as sessions
from public.backfill_events as e
where e.run_id = %s and e.kind = 'batch_granted'
order by 1
"""


def set_rate(db: psycopg.Connection[Any], run_id: str, per_minute: int | None) -> Any:
    """Set the rate of a run with the secret key."""
    return verbs.call(db, "backfill_pace", run=run_id, per_minute=per_minute)


def before(starts: list[Start], now: datetime) -> int:
    """How many sessions started in the 60 s up to a moment, and at it."""
    return sum(s.sessions for s in starts if now - MINUTE < s.at <= now)


@settings(EXAMPLES, max_examples=examples(40, at_a_push=15))
@given(
    approved=PACES,
    has_throttle=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.integers(0, 14), SPANS), min_size=20, max_size=60
    ),
)
def test_every_start_keeps_the_rate_then_in_force(
    project_db: psycopg.Connection[Any],
    clock: DatabaseClock,
    slate: verbs.Slate,
    approved: tuple[int, int],
    has_throttle: bool,
    steps: list[tuple[str, int, timedelta]],
) -> None:
    """And the distance of batches, whoever lowers and raises it between, pauses or vanishes."""
    throttle, batch = approved
    slate.wipe()
    most = throttle if has_throttle else None
    asked = {"throttle_per_minute": throttle if has_throttle else "none", "batch_size": batch}
    crew = Crew(project_db, clock, verbs.started(project_db, **asked))
    rate = most
    for action, pick, span in steps:
        if action == "pace":
            wanted = pick or most
            if most and wanted and wanted > most:
                assert sqlstate(set_rate, project_db, crew.run_id, wanted) == "OB003"
            elif crew.state() in ("running", "paused"):
                set_rate(project_db, crew.run_id, wanted)
                rate = wanted
            continue
        known = len(crew.starts)
        act(crew, action, pick, span)
        for place in range(known, len(crew.starts)):
            start = crew.starts[place]
            if rate is not None:
                assert start.sessions <= min(batch, rate)
                assert before(crew.starts, start.at) <= rate
                if place:
                    assert (start.at - crew.starts[place - 1].at) * (rate // min(batch, rate)) >= (
                        MINUTE
                    )


@pytest.fixture
def slate(project_admin: psycopg.Connection[Any], clock: DatabaseClock) -> verbs.Slate:
    """Wipes the database between examples."""
    return verbs.Slate(project_admin)


def test_a_lower_rate_is_kept_and_told_and_leaves_the_digest(
    project_db: psycopg.Connection[Any], clock: DatabaseClock
) -> None:
    """Through a pause, a resume and a retry, until somebody raises it again; verify passes."""
    run_id = verbs.started(project_db, throttle_per_minute=20, batch_size=5)
    digest = digest_of(project_db, run_id)
    assert len(verbs.claim(project_db, run_id)["granted"]) == 5
    assert set_rate(project_db, run_id, 3) == {
        "run_id": run_id, "state": "running", "was": 20, "per_minute": 3, "approved": 20,
    }  # fmt: skip
    assert verbs.claim(project_db, run_id)["wait_s"] == 60
    verbs.call(project_db, "backfill_pause", run=run_id, reason="a look at it")
    verbs.call(project_db, "backfill_resume", run=run_id)
    clock.advance(60)
    answer = verbs.claim(project_db, run_id)
    assert len(answer["granted"]) == 3
    assert (answer := verbs.claim(project_db, run_id))["wait_s"] == 60
    assert answer["why"] == "3 starts per minute"
    set_rate(project_db, run_id, 20)
    assert verbs.claim(project_db, run_id)["wait_s"] == 15
    verbs.work(project_db, run_id, clock)
    assert verbs.verdict(project_db, run_id) == "pass"
    assert digest_of(project_db, run_id) == digest
    told = project_db.execute(
        "select actor, details from public.backfill_events where kind = 'paced' order by seq"
    ).fetchall()
    rates = [(20, 3), (3, 20)]
    assert told == [
        {"actor": "service_role", "details": {"from": a, "to": b, "approved": 20}} for a, b in rates
    ]
    assert sqlstate(set_rate, project_db, run_id, 10) == "OB002"


def digest_of(db: psycopg.Connection[Any], run_id: str) -> str:
    """The digest, computed anew."""
    row = db.execute("select backfill_private.compute_digest(%s) as digest", (run_id,)).fetchone()
    assert row is not None
    return str(row["digest"])


def test_a_run_in_bulk_without_a_throttle_is_given_one(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """What started before counts. Taken back, nothing waits any more."""
    plan = timed.plan(**{**BULK, "batch_size": 5, "priority": [], "recent_since": "2025-01-01"})
    project.approve(plan)
    rates: list[datetime] = []

    def set_rates(event: backfill.Event) -> None:
        if event.kind == "bulk_settled" and len(rates) < 2:
            wanted = None if rates else 6
            project.db.execute("select public.backfill_pace(%s, %s)", (plan.run_id, wanted))
            rates.append(clock.now())

    timed.apply(plan.run_id, concurrency=1, on_event=set_rates)
    starts = [Start(r["at"], r["sessions"]) for r in project.rows(GRANTED, plan.run_id)]
    lowered, freed = rates
    assert freed - lowered == MINUTE
    assert [s.at for s in starts[:2]] == [lowered, freed]
    # A call may end before it has scored all that it took.
    assert 3 < starts[0].sessions <= 5
    assert {s.at for s in starts[2:]} == {freed}
    assert timed.verify(plan.run_id).verdict == "pass"


@pytest.fixture
def other(project: Project) -> Iterator[psycopg.Connection[Any]]:
    """Another session of the SQL editor."""
    with more_connections(project.db.info.dsn + " password=" + project.db.info.password, 1) as (c,):
        yield c


def test_a_call_in_bulk_that_meets_a_new_rate_begins_nothing(
    project: Project, other: psycopg.Connection[Any]
) -> None:
    """It came before the rate was set and went on after: it shares the lock, and counts nothing."""
    run_id = verbs.started(project.db, **{**BULK, "priority": []})
    asked = {"p_run_id": run_id, "p_worker": "test", "p_sessions": 5}
    with ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute("select public.backfill_pace(%s, 5)", (run_id,))
            call = pool.submit(verbs.call, project.db, "backfill_bulk", **asked)
            waits = "select count(*) as n from pg_locks where locktype = 'advisory' and not granted"
            while other.execute(waits).fetchall() == [{"n": 0}]:
                pass
        assert call.result() == {"look": True}
    assert verbs.call(project.db, "backfill_bulk", **asked)["sessions"] == 5
    assert verbs.call(project.db, "backfill_bulk", **asked) == {"look": True}
    assert verbs.claim(project.db, run_id)["wait_for"] == "throttle"


def test_the_command_line_lowers_and_raises(
    project: Project, shell: Shell, bf: backfill.Backfill
) -> None:
    """And says what is in force of what was approved: status, show, the page, progress."""
    run_id = verbs.started(project.db, throttle_per_minute=20, batch_size=5)
    paced = json.loads(shell("pace", run_id, "10", "--json").out)
    assert (paced["pace_per_minute"], paced["throttle_per_minute"]) == (10, 20)
    assert "rate 10/min of approved 20/min" in shell("status", run_id).out
    shown = shell("show", run_id).out
    assert "10/min of approved 20/min" in shown
    assert f"select public.backfill_pace('{run_id}', 10);" in shown
    assert json.loads(shell("show", run_id, "--json").out)["pace_per_minute"] == 10
    page = bf.page(run_id)
    assert "10/min of approved 20/min" in page
    assert f"select public.backfill_pace('{run_id}', 10);" in page
    assert "rate " not in shell("pace", run_id, "20").out
    assert bf.pace(run_id, per_minute=7).pace_per_minute == 7


@pytest.mark.parametrize(
    ("rate", "code", "said"),
    [
        ("21", 3, "is approved for 20 starts per minute, and 21 is more"),
        ("none", 3, "is approved for 20 starts per minute, and no throttle is more"),
        ("0", 2, "a rate is a whole number of starts per minute from 1 to 999999999, not 0"),
        ("fast", 2, "the rate is a whole number or none, not fast"),
        ("9" * 30, 2, "from 1 to 999999999, not 999"),
    ],
)
def test_a_rate_that_is_none_or_not_approved_is_refused(
    project: Project, shell: Shell, rate: str, code: int, said: str
) -> None:
    """One sentence, what to type now, and nothing is changed."""
    run_id = verbs.started(project.db, throttle_per_minute=20, batch_size=5)
    refused = shell("pace", run_id, rate)
    assert (refused.code, refused.out) == (code, "")
    assert said in refused.err
    assert "Next: " in refused.err
    assert project.value("select pace_per_minute from public.backfill_runs") is None


def test_what_is_over_has_no_rate(project: Project, shell: Shell) -> None:
    """A plan that nobody approved has none either."""
    run_id = verbs.planned(project.db)
    refused = shell("pace", run_id, "5")
    assert refused.code == 3
    assert "is awaiting_approval; this needs it to be approved or running or paused" in refused.err
    with pytest.raises(backfill.BadRequest, match='a whole number or "none"'):
        project.connect().pace(run_id, per_minute="fast")  # type: ignore[arg-type]
