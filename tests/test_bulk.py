"""Bulk: a batch in one call and one transaction, with everything that direct mode keeps."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.edge import declare, prism_over_edge
from tests.kit.scorers import misbehave
from tests.kit.seed import CANDIDATES, REHEARSED, SEED
from tests.kit.throttling import Start, most_in_a_minute

BULK: dict[str, Any] = {**SEED, "throttle_per_minute": "none", "batch_size": 20, "mode": "bulk"}


def test_the_whole_way(project: Project, bf: backfill.Backfill) -> None:
    """The canary first, call by call; then batches in bulk; verified, undone, done again."""
    plan = bf.plan(**BULK)
    project.approve(plan)
    heard: list[backfill.Event] = []
    outcome = bf.apply(plan.run_id, on_event=heard.append)
    assert outcome.status.counts["done"] == 39
    canary = {s.session_id for s in plan.sessions if s.phase == "priority"}
    assert {e.details["session_id"] for e in heard if e.kind == "call"} == canary
    assert sum(e.details["done"] for e in heard if e.kind == "bulk_settled") == 37
    seen = bf.verify(plan.run_id)
    assert seen.verdict == "pass", seen.as_dict()
    undo = bf.rollback(plan.run_id, until="2025-08-31")
    assert undo.confirm(reason="a test").deletes == {"fc_scores": 32, "profiles": 10}
    assert bf.verify(plan.run_id).verdict == "pass"


def bulk_plan(
    project: Project, bf: backfill.Backfill, how: dict[str, list[str]], **request: Any
) -> backfill.Plan:
    """A plan in bulk with scorers that misbehave, approved."""
    misbehave(project.db, how)
    plan = bf.plan(**{**BULK, **request})
    project.approve(plan)
    return plan


def test_one_failure_is_one_failure(project: Project, timed: backfill.Backfill) -> None:
    """Its neighbours in the batch are scored; what its first call wrote goes with its second."""
    five = [r["session_id"] for r in project.rows(CANDIDATES)][:5]
    plan = bulk_plan(project, timed, {"fail": five[:3], "nothing": five[3:]})
    outcome = timed.apply(plan.run_id)
    causes = {f.session_id: f.error_code for f in outcome.failures}
    assert causes == {**dict.fromkeys(five[:3], "P0001"), **dict.fromkeys(five[3:], "OB017")}
    assert outcome.status.counts["done"] == 34
    assert timed.verify(plan.run_id).verdict == "partial"
    project.db.execute("delete from public.misbehaviour")
    assert timed.retry(plan.run_id).is_complete
    assert timed.verify(plan.run_id).verdict == "pass"


@pytest.mark.parametrize(
    ("how", "code"), [("tenant", "42P01"), ("right", "42501"), ("quota", "PT429")]
)
def test_what_may_hit_every_session_and_hits_one(
    project: Project, timed: backfill.Backfill, how: str, code: str
) -> None:
    """It is set aside while the others are scored, and has failed once these are done."""
    bad = [r["session_id"] for r in project.rows(CANDIDATES)][:10:3]
    plan = bulk_plan(project, timed, {how: bad})
    outcome = timed.apply(plan.run_id)
    assert {f.session_id: f.error_code for f in outcome.failures} == dict.fromkeys(bad, code)
    assert outcome.status.counts["done"] == 35
    chain = project.rows("select * from backfill_private.chain_faults(%s)", plan.run_id)
    assert chain == []
    project.db.execute("delete from public.misbehaviour")
    assert timed.retry(plan.run_id).is_complete
    assert timed.verify(plan.run_id).verdict == "pass"


def test_a_failure_takes_back_what_the_session_had_written(
    project: Project, timed: backfill.Backfill
) -> None:
    """In bulk a session is scored as a whole or not at all."""
    both = project.value(
        "select session_id::text from public.backfill_candidates"
        " where category = 'profile+fc_scores'"
        " and created_at >= '2025-08-01' order by created_at limit 1"
    )
    project.db.execute(
        "create function public.refuse() returns trigger language plpgsql as"
        f" $$ begin if new.session_id = '{both}' then raise 'not this one'; end if;"
        " return new; end $$;"
        "create trigger refuse before insert on public.profiles"
        " for each row execute function public.refuse()"
    )
    plan = timed.plan(**BULK)
    project.approve(plan)
    outcome = timed.apply(plan.run_id)
    assert [(f.session_id, f.failed_step) for f in outcome.failures] == [(both, "profile")]
    kept = "select count(*) from public.fc_scores where session_id = %s and version = 'v1.2'"
    assert project.value(kept, both) == 0
    assert timed.verify(plan.run_id).verdict == "partial"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("right", "every call would fail: 42501"),
        ("foreign", "critical: session"),
        ("fail", "circuit breaker"),
    ],
)
def test_what_pauses_a_run_pauses_one_in_bulk(
    project: Project, timed: backfill.Backfill, how: str, reason: str
) -> None:
    """A right that is gone, a write that the gate refuses, more failures than successes."""
    every = [r["session_id"] for r in project.rows(CANDIDATES)]
    plan = bulk_plan(project, timed, {how: every}, priority=[])
    with pytest.raises(backfill.Paused, match=reason):
        timed.apply(plan.run_id)
    chain = project.rows("select * from backfill_private.chain_faults(%s)", plan.run_id)
    assert chain == []


def test_a_scorer_that_is_too_slow_in_bulk_is_called_one_by_one(
    project: Project, timed: backfill.Backfill
) -> None:
    """Batches shrink at the limit of a statement; a session that is too slow alone has failed."""
    slow = project.rows(CANDIDATES)[0]["session_id"]
    project.db.execute("alter role service_role set statement_timeout = '400ms'")
    project.db.execute(
        "create table public.slow (session_id uuid); grant select on public.slow to service_role;"
        "create function public.wait() returns trigger language plpgsql as $$ begin"
        " if exists (select from public.slow as s where s.session_id = new.session_id)"
        " then perform pg_sleep(2); end if; return new; end $$;"
        "create trigger wait before insert on public.fc_scores"
        " for each row execute function public.wait()"
    )
    project.reload()
    plan = timed.plan(**BULK)
    project.approve(plan)
    project.db.execute("insert into public.slow values (%s)", (slow,))
    try:
        outcome = timed.apply(plan.run_id)
    finally:
        project.db.execute("alter role service_role reset statement_timeout")
    assert [(f.session_id, f.error_code) for f in outcome.failures] == [(slow, "57014")]
    assert outcome.status.counts["done"] == 38


def test_the_throttle_holds_in_bulk(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Starts are counted under the lock of the run: never more in a minute than approved."""
    plan = timed.plan(**{**BULK, "throttle_per_minute": 20, "batch_size": 5})
    project.approve(plan)
    began = clock.now()
    assert timed.apply(plan.run_id).is_complete
    assert (clock.now() - began).total_seconds() == pytest.approx(120, abs=15)
    starts = project.rows(
        "select started_at, sessions from backfill_private.starts where run_id = %s", plan.run_id
    )
    seen = [Start(s["started_at"], s["sessions"]) for s in starts]
    assert most_in_a_minute(seen) <= 20
    assert sum(s.sessions for s in seen) == 39


@pytest.mark.parametrize("other", ["bulk", "direct"])
def test_two_runs_over_the_same_sessions_score_each_once(
    project: Project, bf: backfill.Backfill, other: str
) -> None:
    """Whoever comes second looks again under the lease, and skips; so does one in direct mode."""
    plans = [bf.plan(**{**BULK, "mode": mode}) for mode in ("bulk", other)]
    for plan in plans:
        project.approve(plan)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda p: _applied(project, p.run_id), plans))
    done = sum(o.status.counts["done"] for o in outcomes)
    skipped = sum(o.status.counts["skipped"] for o in outcomes)
    assert (done, skipped) == (39, 39)
    assert project.value("select count(*) from public.backfill_receipts") == 52
    assert {bf.verify(p.run_id).verdict for p in plans} == {"pass"}


def _applied(project: Project, run_id: str) -> backfill.Outcome:
    with project.connect() as bf:
        return bf.apply(run_id)


def test_a_pause_waits_for_the_calls_under_way_and_no_other(
    project: Project, bf: backfill.Backfill
) -> None:
    """While calls in bulk go on a pause gets its turn; after it nothing is written."""
    plan = bf.plan(**BULK)
    project.approve(plan)
    heard: list[str] = []

    def pause(event: backfill.Event) -> None:
        heard.append(event.kind)
        if event.kind == "bulk_settled":
            _pause(project, plan.run_id)

    with pytest.raises(backfill.Paused, match="peak hours"):
        bf.apply(plan.run_id, on_event=pause, wait=False, concurrency=1)
    assert heard.count("bulk_settled") == 1
    status = bf.status(plan.run_id)
    assert status.counts["pending"] > 0
    assert status.counts["leased"] == 0
    undone = bf.rollback(plan.run_id)
    assert undone.confirm(reason="a test").sessions == status.counts["done"]


def _pause(project: Project, run_id: str) -> None:
    project.db.execute("select public.backfill_pause(%s, 'peak hours')", (run_id,))


def test_what_an_earlier_attempt_has_written_is_not_scored_again(project: Project) -> None:
    """Called one by one, a session's first step was done and its second failed; then a retry."""
    db = project.db
    run_id = verbs.started(db, **{**BULK, "priority": []})
    claim = verbs.call(
        db, "backfill_claim_apart", p_run_id=run_id, p_claim_id=str(uuid4()), p_worker="test"
    )
    assert claim["granted"]
    grant = next(g for g in claim["granted"] if len(g["steps"]) == 2)
    verbs.score(db, run_id, grant["fence"], grant["steps"][0])
    ended = {"outcome": "failed", "answered": ["fc_scores"], "step": "profile", "code": "57014"}
    claim_id = project.value(
        "select claim_id from public.backfill_items where claim_id is not null"
    )
    verbs.settle(db, run_id, claim_id, [{"ordinal": grant["ordinal"], **ended}])
    released = [
        {"ordinal": g["ordinal"], "outcome": "released"} for g in claim["granted"] if g != grant
    ]
    verbs.settle(db, run_id, claim_id, released)
    failed = "select state from public.backfill_items where run_id = %s and ordinal = %s"
    assert project.value(failed, run_id, grant["ordinal"]) == "failed"
    project.db.execute("update public.backfill_items set state = 'pending' where state = 'failed'")
    while not _bulk(project, run_id).get("look"):
        pass
    kept = project.rows(
        "select component, count(*) as n from public.backfill_receipts where ordinal = %s"
        " group by 1 order by 1",
        grant["ordinal"],
    )
    assert kept == [{"component": "fc_scores", "n": 1}, {"component": "profile", "n": 1}]
    assert project.value(failed, run_id, grant["ordinal"]) == "done"


# What the next verb finds -------------------------------------------------------------------------


def started_in_bulk(project: Project, how: dict[str, list[str]]) -> str:
    """A started run in bulk without a canary, whose scorers misbehave."""
    misbehave(project.db, how)
    return verbs.started(project.db, **{**BULK, "priority": []})


def kinds_of(project: Project, run_id: str) -> list[str]:
    """What the chain tells since the run was started."""
    assert project.rows("select * from backfill_private.chain_faults(%s)", run_id) == []
    events = project.rows(
        "select kind from public.backfill_events where run_id = %s order by seq", run_id
    )
    kinds = [event["kind"] for event in events]
    return kinds[kinds.index("running") + 1 :]


def test_batches_in_bulk_stand_in_the_chain_before_what_the_next_verb_does(
    project: Project,
) -> None:
    run_id = started_in_bulk(project, {})
    for _ in range(2):
        assert _bulk(project, run_id)["done"] > 0
    assert kinds_of(project, run_id) == []
    assert verbs.claim(project.db, run_id)["batch"] == 2
    _bulk(project, run_id)
    _pause(project, run_id)
    batch = ["batch_granted", "batch_settled"]
    assert kinds_of(project, run_id) == [*batch, *batch, "canary", *batch, "paused"]
    numbers = project.rows(
        "select details ->> 'number' as number from public.backfill_events"
        " where run_id = %s and kind = 'batch_granted' order by seq",
        run_id,
    )
    assert [row["number"] for row in numbers] == ["1", "2", "3"]
    assert project.value("select count(*) from backfill_private.unnoted") == 0


FIRST = "(select min(receipt_id) from public.backfill_receipts)"
NOTED_LATER = {
    "a receipt changed": (
        f"update public.backfill_receipts set after_hash = '\\x00' where receipt_id = {FIRST}",
        "claim {claim}: the receipts of this batch are not those that were settled",
    ),
    "a receipt gone": (
        f"delete from public.backfill_receipts where receipt_id = {FIRST}",
        "claim {claim}: the receipts of this batch are not those that were settled",
    ),
    "the note's hash changed": (
        "update backfill_private.unnoted set details = jsonb_set(details, '{receipts}', '\"0\"')",
        "claim {claim}: the receipts of this batch are not those that were settled",
    ),
    "the note gone": (
        "delete from backfill_private.unnoted",
        "{session}: it has a receipt that no settled batch tells of",
    ),
    "the note and the receipts gone": (
        "delete from backfill_private.unnoted; delete from public.backfill_receipts",
        "{session}: it was settled, and no batch tells of it",
    ),
}


@pytest.mark.parametrize("what", NOTED_LATER)
def test_what_a_superuser_does_to_a_batch_that_is_not_yet_in_the_chain_shows(
    project: Project, what: str
) -> None:
    """A batch in bulk is held against its own note until the chain has it."""
    run_id = started_in_bulk(project, {})
    assert _bulk(project, run_id)["done"] > 0
    claim = project.value("select details ->> 'claim' from backfill_private.unnoted")
    session = project.value("select session_id from public.backfill_receipts order by 1 limit 1")
    with project.connect() as bf:
        assert bf.verify(run_id).critical == ()
        statement, told = NOTED_LATER[what]
        project.admin.execute(statement.encode())
        verification = bf.verify(run_id)
    assert verification.verdict == "fail"
    assert told.format(claim=claim, session=session) in verification.critical


@pytest.mark.parametrize("verb", ["claim", "pause", "cancel", "start"])
def test_what_is_critical_in_bulk_is_seen_by_the_next_verb(project: Project, verb: str) -> None:
    """Whichever it is: the run is paused for it, and the chain tells so."""
    run_id = started_in_bulk(
        project, {"foreign": [r["session_id"] for r in project.rows(CANDIDATES)]}
    )
    _bulk(project, run_id)
    if verb == "claim":
        verbs.claim(project.db, run_id)
    elif verb == "start":
        verbs.start(project.db, run_id)
    else:
        project.db.execute(f"select public.backfill_{verb}(%s, 'peak hours')".encode(), (run_id,))
    batches = ["batch_granted", "batch_settled", "critical", "paused"]
    assert kinds_of(project, run_id) == [*batches, *(["cancelled"] if verb == "cancel" else [])]
    reason = "select details ->> 'reason' from public.backfill_events where kind = 'paused'"
    assert project.value(reason).startswith("critical: session")


def test_failures_in_bulk_before_a_resume_are_not_counted_after_it(project: Project) -> None:
    """The breaker looks when somebody pauses the run; what was looked at is settled with that."""
    every = [r["session_id"] for r in project.rows(CANDIDATES)]
    misbehave(project.db, {"fail": every})
    of_one_phase = {"priority": [], "recent_since": "2025-01-01", "batch_size": 25}
    run_id = verbs.started(project.db, **{**BULK, **of_one_phase})
    failed = _bulk(project, run_id, 25)["failed"]
    assert 20 < failed < len(every)
    _pause(project, run_id)
    reason = project.value("select reason from public.backfill_runs where run_id = %s", run_id)
    assert reason.startswith(f"circuit breaker: {failed} of {failed} sessions failed")
    project.db.execute("select public.backfill_resume(%s)", (run_id,))
    assert verbs.claim(project.db, run_id)["bulk"] is True


# What may not be asked for ------------------------------------------------------------------------


def test_a_call_in_bulk_meets_the_same_gate(project: Project, bf: backfill.Backfill) -> None:
    """Before the approval, in direct mode, after the function has changed: nothing is written."""
    direct = bf.plan(**{**BULK, "mode": "direct"})
    plan = bf.plan(**BULK)
    for run_id in (direct.run_id, plan.run_id):
        assert _bulk(project, run_id) == {"look": True}
    project.approve(plan)
    assert _bulk(project, plan.run_id) == {"look": True}
    assert verbs.start(project.db, plan.run_id)["state"] == "running"
    assert _bulk(project, plan.run_id) == {"look": True}  # the canary is not judged
    project.db.execute("update public.backfill_runs set canary = 'passed'")
    assert _bulk(project, plan.run_id)["done"] == 2
    project.db.execute("alter function public.score_prism(uuid, text) cost 7")
    assert _bulk(project, plan.run_id) == {"look": True}
    assert project.value("select count(*) from public.backfill_receipts") > 0


def _bulk(project: Project, run_id: str, sessions: int = 5) -> Any:
    return verbs.call(
        project.db, "backfill_bulk", p_run_id=run_id, p_worker="test", p_sessions=sessions
    )


@pytest.mark.parametrize("sessions", [0, 501])
def test_a_call_takes_one_to_five_hundred_sessions(project: Project, sessions: int) -> None:
    """More would cost PostgreSQL more than they save."""
    with pytest.raises(psycopg.Error, match="a call in bulk takes 1 to 500 sessions") as refused:
        _bulk(project, "00000000-0000-0000-0000-000000000000", sessions)
    assert refused.value.sqlstate == "OB013"


def test_a_mode_is_direct_or_bulk(project: Project, bf: backfill.Backfill) -> None:
    """And an Edge Function is called, not executed inside the database."""
    with pytest.raises(backfill.BadRequest, match="mode is direct or bulk, not fast"):
        bf.plan(**{**BULK, "mode": "fast"})
    declare(project, prism_over_edge())
    with pytest.raises(backfill.BadRequest, match="bulk calls only SQL functions"):
        bf.plan(**BULK)


def test_a_plan_says_what_each_mode_would_take(bf: backfill.Backfill) -> None:
    """Both times are from what the rehearsal measured; with a throttle neither is the clock."""
    direct = bf.plan(**{**BULK, "mode": "direct", "rehearse": None})
    found = {c.name: c.detail for c in direct.checks}
    said = (
        r"direct: about ([\d.]+) s call by call, ([\d.]+) s in bulk, of which one call is made at"
    )
    told = re.match(said, found["mode"])
    assert told
    would_matter = float(told[2]) * 2 < float(told[1])
    command = f"backfill plan --like {direct.run_id} --mode bulk --batch-size 500"
    assert (command in found["mode"]) == would_matter
    assert "mode" not in {c.name for c in bf.plan(**REHEARSED).checks}


def test_a_batch_in_bulk_is_a_call_so_that_it_is_large_without_a_throttle(
    bf: backfill.Backfill,
) -> None:
    """500 sessions unless asked for otherwise; with a throttle as ever."""
    asked = {name: value for name, value in BULK.items() if name != "batch_size"}
    assert bf.plan(**asked).request["batch_size"] == 500
    paced = {**asked, "throttle_per_minute": 20}
    assert bf.plan(**paced).request["batch_size"] == 5


def test_the_mode_is_part_of_the_digest(bf: backfill.Backfill) -> None:
    """Who approves a plan approves how it is scored; a plan like it is scored alike."""
    plan = bf.plan(**BULK)
    assert bf.plan(**{**BULK, "mode": "direct"}).digest != plan.digest
    assert bf.plan(like=plan.run_id).request["mode"] == "bulk"


# A client that only ever calls backfill_bulk ------------------------------------------------------

GONE_TRIGGER = 'drop trigger "000_backfill_receipt" on public.fc_scores'
SETTING = "update public.backfill_settings set "
# What a claim would have met, and the cause that it then says.
IN_THE_WAY = {
    "the bound was lowered": (SETTING + "max_throttle_per_minute = 6", "throttle"),
    "the environment was renamed": (SETTING + "environment = 'qa'", "environment"),
    "the settings are gone": ("delete from public.backfill_settings", "settings"),
    "a version column was renamed": (
        "alter table public.profiles rename column results_version to results",
        "gone",
    ),
    "a receipt trigger is gone": (GONE_TRIGGER, "receipt_triggers"),
    "a key is gone": (
        "alter table public.fc_scores drop constraint fc_scores_pkey cascade",
        "key",
    ),
    "a function was replaced": (
        "alter function public.score_prism(uuid, text) cost 7",
        "definition",
    ),
    "the view is gone": (
        "alter view backfill_private.prism_standing rename to moved_away",
        "view_gone",
    ),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_bulk_alone_meets_what_a_claim_looks_at(project: Project, what: str) -> None:
    """No session is scored, however often it is called. A claim then says why."""
    statement, cause = IN_THE_WAY[what]
    pace = {"throttle_per_minute": 7, "batch_size": 1, "priority": []}
    run_id = verbs.started(project.db, **{**BULK, **pace})
    project.db.execute(statement.encode())
    assert [_bulk(project, run_id) for _ in range(2)] == [{"look": True}] * 2
    assert project.value("select count(*) from public.backfill_receipts") == 0
    assert verbs.claim(project.db, run_id)["state"] == "paused"
    said = project.value("select cause from public.backfill_runs where run_id = %s", run_id)
    assert said == cause


def test_bulk_alone_stops_once_sessions_have_failed(project: Project) -> None:
    """Every one fails: the first call is the last, until a claim has asked the breaker."""
    every = [r["session_id"] for r in project.rows(CANDIDATES)]
    run_id = started_in_bulk(project, {"fail": every})
    assert _bulk(project, run_id)["failed"] == 5
    assert [_bulk(project, run_id) for _ in range(8)] == [{"look": True}] * 8
    failed = "select count(*) from public.backfill_items where state = 'failed'"
    assert project.value(failed) == 5
    assert verbs.claim(project.db, run_id)["bulk"] is True  # five are too few for the breaker
    assert _bulk(project, run_id)["failed"] == 2  # the rest of the phase


def test_bulk_alone_stops_when_too_many_batches_wait_for_the_chain(project: Project) -> None:
    """Else nobody could claim any more: the claim writes all of them into the chain."""
    run_id = verbs.started(project.db, **{**BULK, "priority": []})
    project.db.execute(
        "create or replace function backfill_private.most_unnoted() returns integer"
        " language sql immutable set search_path = pg_catalog, pg_temp as 'select 2'"
    )
    assert [_bulk(project, run_id, 1).get("done") for _ in range(3)] == [1, 1, None]
    assert verbs.claim(project.db, run_id)["bulk"] is True
    assert _bulk(project, run_id, 1)["done"] == 1


def test_bulk_alone_writes_nothing_after_the_approval_ran_out(project: Project) -> None:
    """Not even if it ran out while the call was under way."""
    run_id = verbs.started(project.db, **{**BULK, "priority": []})
    project.db.execute(
        "create function public.run_out() returns trigger language plpgsql security definer as $$"
        " begin update public.backfill_runs set approved_until = now() - interval '1 minute';"
        " return new; end $$;"
        "create trigger run_out before insert on public.fc_scores"
        " for each row execute function public.run_out()"
    )
    assert _bulk(project, run_id, 1).get("done", 0) == 0
    assert project.value("select count(*) from public.backfill_receipts") == 0
    project.db.execute("drop trigger run_out on public.fc_scores")
    project.db.execute("update public.backfill_runs set approved_until = now()")
    assert _bulk(project, run_id) == {"look": True}
    assert project.value("select count(*) from public.backfill_receipts") == 0


# A clock that rows move on by a second each, even those that are rolled back.
TICKING = """
create sequence public.ticks minvalue 0 start 0;
grant usage on public.ticks to service_role;
select setval('public.ticks', 0);
create or replace function backfill_private.clock() returns timestamptz
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as
$$ begin return '2025-09-17T08:00:00Z'::timestamptz
  + (select last_value from public.ticks) * interval '0.1 seconds'; end $$;
create function public.tick() returns trigger language plpgsql as
$$ begin perform nextval('public.ticks'); return new; end $$;
create trigger tick before insert on public.fc_scores
  for each row execute function public.tick();
"""


@pytest.mark.parametrize(("failing", "done"), [(0, 0), (1, 4)])
def test_a_call_in_bulk_scores_no_session_after_the_approval_ran_out(
    project: Project, failing: int, done: int
) -> None:
    """What it has kept until then is done. Those under way together are rolled back, pending."""
    project.db.execute(TICKING.encode())
    scores = project.value("select count(*) from public.fc_scores")
    names = [r["session_id"] for r in project.rows(CANDIDATES + " desc")]
    misbehave(project.db, {"fail": names[1 : 1 + failing]})
    run_id = verbs.started(project.db, **{**BULK, "priority": [], "recent_since": "2025-08-01"})
    project.db.execute(
        "update public.backfill_runs"
        " set approved_until = backfill_private.clock() + interval '0.6 s'"
    )
    asked = {"p_run_id": run_id, "p_worker": "test", "p_sessions": 20, "p_budget_ms": 1000}
    assert verbs.call(project.db, "backfill_bulk", **asked)["sessions"] == (done and done + 2)
    assert project.value("select last_value from public.ticks") == 6
    states = project.rows(
        "select state, count(*)::integer as sessions, count(r.ordinal)::integer as with_receipt"
        " from public.backfill_items"
        " left join (select distinct ordinal from public.backfill_receipts) as r using (ordinal)"
        " group by state order by state"
    )
    assert [tuple(s.values()) for s in states] == [
        *([("done", done, done)] if done else []),
        ("pending", 39 - done, 0),
    ]
    assert project.value("select count(*) from public.fc_scores") == scores + done
    assert verbs.claim(project.db, run_id)["state"] == "expired"
    assert project.rows("select * from backfill_private.chain_faults(%s)", run_id) == []
