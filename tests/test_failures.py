"""A run goes on past failed sessions, names each, and never takes one for a success."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.scorers import misbehave
from tests.kit.seed import CANARY, CANDIDATES, SEED


def oldest(project: Project, count: int) -> list[str]:
    """Candidates of the historical phase."""
    return [r["session_id"] for r in project.rows(CANDIDATES)][:count]


def planned(project: Project, bf: backfill.Backfill, how: dict[str, list[str]]) -> backfill.Plan:
    """The seed's plan with scorers that misbehave, approved."""
    misbehave(project.db, how)
    plan = bf.plan(**SEED)
    project.approve(plan)
    return plan


@pytest.fixture
def partly_failed(
    project: Project, timed: backfill.Backfill
) -> tuple[backfill.Plan, backfill.Outcome, dict[str, list[str]]]:
    """Three sessions raise, two answer well without a row."""
    five = oldest(project, 5)
    how = {"fail": five[:3], "nothing": five[3:]}
    plan = planned(project, timed, how)
    return plan, timed.apply(plan.run_id), how


def test_failed_sessions_are_named_with_their_cause_and_the_rest_is_done(
    timed: backfill.Backfill,
    partly_failed: tuple[backfill.Plan, backfill.Outcome, dict[str, list[str]]],
) -> None:
    """34 done; three with the scorer's message, two without effect; verify says partial."""
    plan, outcome, how = partly_failed
    assert outcome.status.counts["done"] == 34
    causes = {f.session_id: (f.error_code, f.error_message) for f in outcome.failures}
    assert {s: causes[s][0] for s in how["fail"]} == dict.fromkeys(how["fail"], "P0001")
    assert all("no score for this one" in (causes[s][1] or "") for s in how["fail"])
    assert {s: causes[s][0] for s in how["nothing"]} == dict.fromkeys(how["nothing"], "OB017")
    assert len(causes) == 5
    assert not outcome.is_complete
    assert timed.verify(plan.run_id).verdict == "partial"


def test_a_profile_is_not_scored_after_its_fc_score_failed(
    project: Project, timed: backfill.Backfill
) -> None:
    """The step after a failed or effectless step leaves no row, even where the answer was a 200."""
    both = [
        r["session_id"]
        for r in project.rows(
            "select session_id::text from public.backfill_candidates"
            " where category = 'profile+fc_scores' and created_at >= '2025-08-01'"
            " and session_id <> %s order by created_at limit 2",
            CANARY,
        )
    ]
    plan = planned(project, timed, {"fail": both[:1], "nothing": both[1:]})
    outcome = timed.apply(plan.run_id)
    assert {f.session_id: f.failed_step for f in outcome.failures} == dict.fromkeys(
        both, "fc_scores"
    )
    assert (
        project.value(
            "select count(*) from public.profiles where session_id = any (%s::uuid[])", both
        )
        == 0
    )


def test_retry_scores_the_failed_sessions_again_under_the_same_approval(
    project: Project,
    timed: backfill.Backfill,
    partly_failed: tuple[backfill.Plan, backfill.Outcome, dict[str, list[str]]],
) -> None:
    """Once the cause is gone, retry ends the run verified."""
    plan, _, _ = partly_failed
    project.db.execute("delete from public.misbehaviour")
    outcome = timed.retry(plan.run_id)
    assert outcome.is_complete
    assert outcome.status.counts["done"] == 39
    assert timed.verify(plan.run_id).verdict == "pass"


def test_a_failed_canary_pauses_the_run_before_the_next_phase(
    project: Project, timed: backfill.Backfill
) -> None:
    """Only the priority sessions were tried; the reason names the one that failed."""
    plan = planned(project, timed, {"fail": [CANARY]})
    with pytest.raises(backfill.Paused, match="canary"):
        timed.apply(plan.run_id)
    status = timed.status(plan.run_id)
    assert status.state == "paused"
    assert CANARY in (status.reason or "")
    assert status.counts["pending"] == 37
    timed.resume(plan.run_id)
    outcome = timed.apply(plan.run_id)
    assert outcome.status.counts == {**outcome.status.counts, "done": 38, "failed": 1}


def test_what_would_hit_every_session_pauses_the_run_at_once(
    project: Project, timed: backfill.Backfill
) -> None:
    """A missing right is no session's failure: the run is paused with the cause."""
    everyone = [r["session_id"] for r in project.rows(CANDIDATES)]
    plan = planned(project, timed, {"right": everyone})
    with pytest.raises(backfill.Paused, match="42501"):
        timed.apply(plan.run_id)
    assert timed.status(plan.run_id).counts["failed"] == 0


ABSENT = 'relation "tenant_new.visits" does not exist'


@pytest.mark.parametrize("concurrency", [1, 4])
def test_one_tenant_without_a_schema_is_that_tenant_s_failure(
    project: Project, timed: backfill.Backfill, concurrency: int
) -> None:
    """Two sessions of 39 meet 42P01: they are named with the message, all others are done."""
    bad = oldest(project, 9)[::8]
    plan = planned(project, timed, {"tenant": bad})
    outcome = timed.apply(plan.run_id, concurrency=concurrency)
    assert {f.session_id: f.error_code for f in outcome.failures} == dict.fromkeys(bad, "42P01")
    assert {f.error_message for f in outcome.failures} == {ABSENT}
    assert outcome.status.counts["done"] == 37
    assert timed.verify(plan.run_id).verdict == "partial"


def test_several_workers_agree_whose_error_it_is(project: Project, bf: backfill.Backfill) -> None:
    """Three at once over one run, unthrottled: none of them pauses it."""
    bad = oldest(project, 30)[::10]
    misbehave(project.db, {"tenant": bad})
    plan = bf.plan(**{**SEED, "throttle_per_minute": "none"})
    project.approve(plan)

    def work(_: int) -> str:
        with project.connect() as other:
            return other.apply(plan.run_id, concurrency=2).state

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(work, range(3))) == {"completed"}
    outcome = bf.outcome(plan.run_id)
    assert {f.session_id: f.error_code for f in outcome.failures} == dict.fromkeys(bad, "42P01")
    assert outcome.status.counts["done"] == 36


def test_a_session_over_its_quota_gives_way(project: Project, timed: backfill.Backfill) -> None:
    """Answered 429 each time through the API: it fails after six, and the others are done."""
    [bad] = oldest(project, 1)
    plan = planned(project, timed, {"quota": [bad]})
    outcome = timed.apply(plan.run_id)
    [failed] = outcome.failures
    assert (failed.session_id, failed.error_code) == (bad, "PT429")
    assert "asked to wait 6 times while others were not" in (failed.error_message or "")
    assert outcome.status.counts["done"] == 38


def test_a_scorer_that_writes_another_session_is_refused_and_pauses_the_run(
    project: Project, timed: backfill.Backfill
) -> None:
    """The gate lets a call write its own session alone; the attempt is critical."""
    victim = oldest(project, 1)
    plan = planned(project, timed, {"foreign": victim})
    with pytest.raises(backfill.Paused, match="critical"):
        timed.apply(plan.run_id)
    assert timed.verify(plan.run_id).verdict == "fail"
    strangers = "component not in ('fc_scores', 'profile') or session_id <> all (%s)"
    planned_ids = [session.session_id for session in plan.sessions]
    assert not project.rows(
        f"select 1 from public.backfill_receipts where {strangers}", planned_ids
    )


def applied(project: Project, bf: backfill.Backfill) -> backfill.Plan:
    """The seed's run, completed."""
    plan = bf.plan(**SEED)
    project.approve(plan)
    assert bf.apply(plan.run_id).is_complete
    assert bf.verify(plan.run_id).verdict == "pass"
    return plan


TAMPERED = {
    "a deleted row": (
        "delete from public.fc_scores where version = 'v1.2' and session_id = %s",
        "missing",
        "fc_scores",
    ),
    "a changed version": (
        "update public.fc_scores set version = 'v0.9' where version = 'v1.2' and session_id = %s",
        "missing",
        "fc_scores",
    ),
    "a changed profile version": (
        "update public.profiles set results_version = 'v0.9' where session_id = %s",
        "changed_since",
        "profile",
    ),
    "a row of another version added": (
        "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
        " values (%s, 'v0.9', 'functions', '{}', 6)",
        "extra",
        "fc_scores",
    ),
    "a row of another kind added": (
        "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
        " values (%s, 'v1.2', 'by hand', '{}', 6)",
        "extra",
        "fc_scores",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_verify_names_the_session_that_was_tampered_with(
    project: Project, timed: backfill.Backfill, what: str
) -> None:
    """After each change verify is not pass and its bucket names the session."""
    plan = applied(project, timed)
    statement, bucket, component = TAMPERED[what]
    project.db.execute(statement.encode(), (CANARY,))
    verification = timed.verify(plan.run_id)
    assert verification.verdict == "fail"
    assert {"session_id": CANARY, "component": component} in [
        {k: row[k] for k in ("session_id", "component")} for row in verification.buckets[bucket]
    ]


@pytest.mark.parametrize("status", ["in_progress", "completed"])
def test_a_row_added_by_hand_for_a_session_nobody_planned_is_named(
    project: Project, timed: backfill.Backfill, status: str
) -> None:
    """The session did not change since the plan, so this is no live traffic."""
    plan = applied(project, timed)
    stranger = project.value(
        "select s.id::text from public.assessment_sessions as s"
        " left join public.fc_scores as f on f.session_id = s.id"
        " where f.session_id is null and s.status = %s limit 1",
        status,
    )
    project.db.execute(
        "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
        " values (%s, 'v1.2', 'functions', '{}', 6)",
        (stranger,),
    )
    verification = timed.verify(plan.run_id)
    assert verification.verdict == "fail"
    assert stranger in [row["session_id"] for row in verification.buckets["extra"]]


def test_live_traffic_since_the_plan_is_no_difference(
    project: Project, timed: backfill.Backfill
) -> None:
    """A session completed and scored after sealing is nobody's fault."""
    plan = applied(project, timed)
    session: dict[str, Any] = project.rows(
        "update public.assessment_sessions set status = 'completed'"
        " where id = (select min(id::text)::uuid from public.assessment_sessions"
        " where status = 'in_progress')"
        " returning id"
    )[0]
    project.db.execute(
        "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
        " values (%s, 'v1.2', 'functions', '{}', 6)",
        (session["id"],),
    )
    assert timed.verify(plan.run_id).verdict == "pass"


def test_a_session_filled_since_the_plan_is_skipped_and_told_apart(
    project: Project, timed: backfill.Backfill
) -> None:
    """Nobody scores it again; verify counts it as filled elsewhere and still passes."""
    plan = timed.plan(**SEED)
    project.approve(plan)
    filled = plan.sessions[-1].session_id
    project.db.execute("select public.score_fc_session(%s, 'v1.2', 'functions')", (filled,))
    project.db.execute("select public.score_prism(%s, 'v1.2.1')", (filled,))
    outcome = timed.apply(plan.run_id)
    assert outcome.status.counts["skipped"] == 1
    verification = timed.verify(plan.run_id)
    assert verification.verdict == "pass"
    assert [r["session_id"] for r in verification.buckets["filled_elsewhere"]] == [filled] * len(
        plan.sessions[-1].components
    )


def test_a_changed_scoring_function_pauses_the_run_at_its_next_claim(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """The reason names the function and both fingerprints."""
    plan = timed.plan(**SEED)
    project.approve(plan)

    def change_once(event: backfill.Event) -> None:
        if event.kind == "batch_settled" and event.details["batch"] == 2:
            project.db.execute("alter function public.score_prism(uuid, text) cost 7")

    with pytest.raises(backfill.Paused, match=r"score_prism\(uuid,text\) was [0-9a-f]{12}"):
        timed.apply(plan.run_id, on_event=change_once)
    assert timed.status(plan.run_id).counts["done"] == 7
    with pytest.raises(backfill.PlanChanged):
        timed.resume(plan.run_id)
