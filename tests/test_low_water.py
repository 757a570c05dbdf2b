"""Where the open work of a run begins: nobody walks over what is done, and nothing is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from backfill.local.servers import PostgresServer
from tests.bench import snapshot
from tests.bench.undo import SOURCE
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock

SESSIONS = 600
Db = psycopg.Connection[Any]


def started(db: Db, sessions: int = SESSIONS, **request: Any) -> str:
    """A run over so many sessions without a throttle. Returns its id."""
    db.execute(SOURCE.encode(), {"sessions": sessions})
    asked = {"since": "2030-01-01", "throttle_per_minute": "none", "rehearse": 0, **request}
    return str(verbs.started(db, **asked))


def released(db: Db, run_id: str, claim_id: str, grants: list[dict[str, Any]]) -> None:
    """Give sessions back that were not called."""
    outcomes = [{"ordinal": grant["ordinal"], "outcome": "released"} for grant in grants]
    verbs.settle(db, run_id, claim_id, outcomes)


@pytest.mark.parametrize(("mode", "batch"), [("direct", 50), ("bulk", 50)])
def test_beside_a_held_snapshot_a_late_claim_looks_at_no_more_than_an_early_one(
    project_db: Db, postgres_server: PostgresServer, clock: DatabaseClock, mode: str, batch: int
) -> None:
    """A backup or an idle tab keeps every dead row. Counted in pages, so whatever the machine."""
    asked = {"batch_size": batch} if mode == "direct" else {}
    run_id = started(project_db, mode=mode, **asked)
    with snapshot.snapshot_held(postgres_server.dsn(project_db.info.dbname), True):
        curves = snapshot.worked(project_db, run_id, mode, looks=4, bulk_sessions=batch)
    claims = curves["claim"].pages
    assert len(claims) == 4
    assert claims[-1] <= 1.5 * claims[1], claims


# Looks of each claim and settle, by what they look for.
LOOKS = {
    "leases that ran out": "select backfill_private.release_expired()",
    "what was granted before": "select backfill_private.granted_before(%(run)s, gen_random_uuid())",
    "what is to be settled": """
select backfill_private.settle(
  %(run)s, gen_random_uuid(), '[{"ordinal": 2900, "outcome": "released"}]')
""",
    "what none of its sessions have come to": """
select count(*) from backfill_private.effects(%(run)s, '{}')
""",
    "which none of its sessions have a row": """
select count(*) from backfill_private.standing_of(backfill_private.run_now(%(run)s), '{}', true)
""",
    "which none of its sessions are selected": """
select count(*) from backfill_private.unselected(backfill_private.run_now(%(run)s), '{}')
""",
    "what is leased of it": """
select backfill_private.held_items(
  %(run)s, '[{"ordinal": 2900, "outcome": "released"}]')
""",
}


def pages(db: Db, look: str, run_id: str) -> int:
    """How many pages a look looks at. What it does is rolled back."""
    with db.transaction(force_rollback=True):
        row = db.execute(
            f"explain (analyze, buffers, format json) {look}".encode(), {"run": run_id}
        ).fetchone()
    assert row is not None
    [explained] = row["QUERY PLAN"]
    plan = explained["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize("look", LOOKS)
def test_beside_a_held_snapshot_leases_that_were_settled_are_not_walked_over(
    project_db: Db, postgres_server: PostgresServer, clock: DatabaseClock, look: str
) -> None:
    """Once a look for those that ran out has passed them. Their entries in the index stay.

    The run is large enough for PostgreSQL not to read all of it.
    """
    run_id = started(project_db, 5 * SESSIONS, batch_size=100)
    project_db.execute("analyze")
    with snapshot.snapshot_held(postgres_server.dsn(project_db.info.dbname), True):
        pages(project_db, LOOKS[look], run_id)
        early = pages(project_db, LOOKS[look], run_id)
        for _ in range(6):
            some = verbs.claim(project_db, run_id, claim_id := snapshot.new_claim())
            released(project_db, run_id, claim_id, some["granted"])
        clock.advance(120)
        verbs.claim(project_db, run_id)
        clock.advance(2)
        project_db.execute("analyze")  # as it comes to pass by itself, and finds hardly any lease
        pages(project_db, LOOKS[look], run_id)
        late = pages(project_db, LOOKS[look], run_id)
    assert late <= 1.5 * early + 5, (early, late)


@pytest.mark.parametrize("look", [look for look in LOOKS if "none of" in look])
def test_for_no_sessions_nothing_is_looked_up(project_db: Db, look: str) -> None:
    """Not even whether the tables are there. To an empty list every index seems as good."""
    run_id = started(project_db, batch_size=100)
    project_db.execute("drop table public.assessment_sessions, public.profiles cascade")
    assert project_db.execute(LOOKS[look].encode(), {"run": run_id}).fetchone() == {"count": 0}


# Looks at the run itself, which every batch changes.
AT_THE_RUN = {
    "the run": "select backfill_private.run_now(%(run)s)",
    "its row": "select from public.backfill_runs where run_id = %(run)s",
    "where it stands": "select to_json(p) from public.backfill_run_progress as p",
    "its starts": "select backfill_private.count_starts(backfill_private.run_now(%(run)s), 1)",
}


@pytest.mark.parametrize("look", AT_THE_RUN)
def test_beside_a_held_snapshot_batches_that_are_over_are_not_walked_over(
    project_db: Db, postgres_server: PostgresServer, clock: DatabaseClock, look: str
) -> None:
    """Sixty small batches, each noted twice in the chain and counted by throttle and breaker."""
    run_id = started(project_db, throttle_per_minute=60, batch_size=1)
    project_db.execute("analyze")

    def work(batches: int) -> None:
        for _ in range(batches):
            some = verbs.claim(project_db, run_id, claim_id := snapshot.new_claim())
            done = [verbs.score_all(project_db, run_id, grant) for grant in some["granted"]]
            verbs.settle(project_db, run_id, claim_id, done)
            assert len(done) == 1
            clock.advance(60)

    with snapshot.snapshot_held(postgres_server.dsn(project_db.info.dbname), True):
        work(5)
        pages(project_db, AT_THE_RUN[look], run_id)
        early = pages(project_db, AT_THE_RUN[look], run_id)
        work(60)
        late = pages(project_db, AT_THE_RUN[look], run_id)
    assert late <= 1.5 * early + 5, (early, late)


def test_a_run_that_is_over_leaves_no_marks(project_db: Db, clock: DatabaseClock) -> None:
    """Its row says all of it again, and nothing is left of what was kept beside."""
    run_id = started(project_db, batch_size=300)
    for _ in range(2):
        some = verbs.claim(project_db, run_id, claim_id := snapshot.new_claim())
        done = [verbs.score_all(project_db, run_id, grant) for grant in some["granted"]]
        verbs.settle(project_db, run_id, claim_id, done)
    beside = (
        "select (select count(*) from backfill_private.tallies) as tallies,"
        " (select count(*) from backfill_private.low_water) as marks,"
        " r.audit_count = e.n and r.settled_since = 600 and r.batches_granted = 2 as is_kept"
        " from public.backfill_runs as r,"
        " (select count(*) as n from public.backfill_events) as e"
    )
    now = project_db.execute(beside.encode()).fetchone()
    assert now is not None
    assert (now["tallies"] > 0, now["marks"] > 0, now["is_kept"]) == (True, True, False)
    assert verbs.claim(project_db, run_id)["state"] == "completed"
    now = project_db.execute(beside.encode()).fetchone()
    assert now == {"tallies": 0, "marks": 0, "is_kept": True}


def test_what_is_given_back_comes_next(project_db: Db, clock: DatabaseClock) -> None:
    """The mark is far beyond these sessions by then."""
    run_id = started(project_db, batch_size=100)
    first = verbs.claim(project_db, run_id, claim_id := snapshot.new_claim())
    for _ in range(3):
        some = verbs.claim(project_db, run_id, other := snapshot.new_claim())
        done = [verbs.score_all(project_db, run_id, grant) for grant in some["granted"]]
        verbs.settle(project_db, run_id, other, done)
    marks = project_db.execute("select ordinal from backfill_private.low_water").fetchall()
    assert max(mark["ordinal"] for mark in marks) > 100
    released(project_db, run_id, claim_id, first["granted"])
    again = verbs.claim(project_db, run_id)
    assert [g["ordinal"] for g in again["granted"]] == [g["ordinal"] for g in first["granted"]]


def test_what_failed_and_is_tried_again_comes_next(project_db: Db, clock: DatabaseClock) -> None:
    run_id = started(project_db, batch_size=100)
    first = verbs.claim(project_db, run_id, claim_id := snapshot.new_claim())
    outcomes = [verbs.score_all(project_db, run_id, grant) for grant in first["granted"][1:]]
    failed = {"ordinal": 1, "outcome": "failed", "step": "profiles", "code": "P0001"}
    verbs.settle(project_db, run_id, claim_id, [*outcomes, failed])
    some = verbs.claim(project_db, run_id, other := snapshot.new_claim())
    verbs.call(project_db, "backfill_retry", p_run_id=run_id)
    released(project_db, run_id, other, some["granted"])
    assert verbs.claim(project_db, run_id)["granted"][0]["ordinal"] == 1


@contextmanager
def held(dsn: str, run_id: str) -> Iterator[None]:
    """The row of a run, locked by somebody else."""
    with psycopg.connect(dsn) as other:
        other.execute("select from public.backfill_runs where run_id = %s for update", (run_id,))
        yield


def test_a_lease_that_ran_out_while_its_run_was_held_is_not_forgotten(
    project_db: Db, postgres_server: PostgresServer, clock: DatabaseClock
) -> None:
    """The claim of another run passes it over, and the next one settles it."""
    left = verbs.started(project_db, batch_size=1)
    verbs.claim(project_db, left)
    clock.advance(1)
    run_id = started(project_db, batch_size=1)
    leased = (
        "select count(*) as n from public.backfill_items where run_id = %s and state = 'leased'"
    )
    clock.advance(120)
    with held(postgres_server.dsn(project_db.info.dbname), left):
        verbs.claim(project_db, run_id)
    clock.advance(2)
    assert project_db.execute(leased.encode(), (left,)).fetchone() == {"n": 1}
    verbs.claim(project_db, run_id)
    assert project_db.execute(leased.encode(), (left,)).fetchone() == {"n": 0}


def test_a_lease_that_was_committed_after_it_ran_out_is_not_forgotten(
    project_db: Db, clock: DatabaseClock
) -> None:
    """Somebody claimed in a transaction of minutes, and is gone. Meanwhile others looked."""
    run_id = verbs.started(project_db, throttle_per_minute=6000, batch_size=20, priority=[])
    assert verbs.claim(project_db, run_id)["granted"]
    project_db.execute(
        "insert into backfill_private.lease_looks (until)"
        " select max(lease_until) + interval '1 s' from public.backfill_items"
    )
    clock.advance(300)
    verbs.work(project_db, run_id, clock)
    states = project_db.execute(
        "select distinct state from public.backfill_items where run_id = %s", (run_id,)
    ).fetchall()
    assert states == [{"state": "done"}]


def test_what_the_claim_of_another_run_gives_back_is_not_passed_by(
    project_db: Db, postgres_server: PostgresServer, clock: DatabaseClock
) -> None:
    """A call in bulk raises the mark just then, and does not see yet what is given back."""
    other = verbs.started(project_db, throttle_per_minute=20, batch_size=1)
    run_id = started(project_db, mode="bulk", batch_size=150)
    asked = {"p_run_id": run_id, "p_worker": "w"}
    held = verbs.call(project_db, "backfill_claim_apart", p_claim_id=snapshot.new_claim(), **asked)
    assert len(held["granted"]) == 150
    clock.advance(59)
    verbs.claim(project_db, other)
    clock.advance(1.5)
    with (
        psycopg.connect(
            postgres_server.dsn(project_db.info.dbname), row_factory=dict_row
        ) as beside,
        beside.transaction(),
    ):
        assert verbs.claim(beside, other)["wait_for"] == "throttle"
        verbs.call(project_db, "backfill_bulk", p_sessions=50, **asked)
    again = verbs.call(project_db, "backfill_claim_apart", p_claim_id=snapshot.new_claim(), **asked)
    assert again["granted"][0]["ordinal"] == 1


def test_looks_of_before_go(project_db: Db, clock: DatabaseClock) -> None:
    run_id = started(project_db, batch_size=1)
    project_db.execute(
        "insert into backfill_private.lease_looks (until)"
        " select backfill_private.clock() - interval '1 h' from generate_series(1, 150)"
    )
    verbs.claim(project_db, run_id)
    kept = project_db.execute("select count(*) as n from backfill_private.lease_looks").fetchone()
    assert kept == {"n": 100}


def test_a_lease_is_found_after_the_clock_was_set_back(
    project_db: Db, clock: DatabaseClock
) -> None:
    """It runs out before the moment up to which leases had been looked for."""
    run_id = started(project_db, batch_size=1)
    clock.advance(7200)
    verbs.claim(project_db, run_id)
    clock.advance(-3600)
    verbs.claim(project_db, run_id, lost := snapshot.new_claim())
    clock.advance(120)
    verbs.claim(project_db, run_id)
    still = project_db.execute(
        "select count(*) as n from public.backfill_items where claim_id = %s", (lost,)
    ).fetchone()
    assert still == {"n": 0}


def test_a_claim_that_is_told_again_is_found_whatever_was_done_since(project: Project) -> None:
    """Its sessions come under new fences, with no new start."""
    run_id = started(project.db, batch_size=5)
    first = verbs.claim(project.db, run_id, claim_id := snapshot.new_claim())
    for _ in range(3):
        verbs.claim(project.db, run_id)
    again = verbs.claim(project.db, run_id, claim_id)
    assert [g["ordinal"] for g in again["granted"]] == [g["ordinal"] for g in first["granted"]]
    assert {g["attempt"] for g in again["granted"]} == {1}
