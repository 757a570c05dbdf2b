"""PRISM scored by Edge Functions: the whole way, with headers handed on and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

import backfill
from backfill.targets.declaration import Receipts
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.edge import SILENT, TROUBLED, declare, prism_over_edge, served
from tests.kit.seed import REHEARSED, SEED


@pytest.fixture(params=["exact", "inferred"])
def receipts(request: pytest.FixtureRequest) -> Receipts:
    """How the receipts come about."""
    kind: Receipts = request.param
    return kind


@pytest.fixture
def asked(receipts: Receipts) -> dict[str, Any]:
    """What a plan has to accept by name."""
    return {"inferred": "prism"} if receipts == "inferred" else {}


@pytest.fixture
def over_edge(project: Project, receipts: Receipts) -> Iterator[Project]:
    """A project whose functions are Edge Functions."""
    declare(project, prism_over_edge(receipts))
    with served(project, SILENT if receipts == "inferred" else None):
        yield project


def marks(plan: backfill.Plan) -> dict[str, tuple[str, str]]:
    """Name: status and detail of a plan's checks."""
    return {c.name: (c.status, c.detail) for c in plan.checks}


def test_the_whole_way(
    over_edge: Project, timed: backfill.Backfill, receipts: Receipts, asked: dict[str, Any]
) -> None:
    """39 sessions, 52 rows with receipts, verified, undone in part, done again."""
    plan = timed.plan(**SEED, **asked)
    assert plan.expected_calls == {"score_fc_session": 39, "score_prism": 13, "total": 52}
    over_edge.approve(plan)
    assert timed.apply(plan.run_id).is_complete
    kept = over_edge.rows(
        "select is_inferred, count(*) as n from public.backfill_receipts group by 1"
    )
    assert kept == [{"is_inferred": receipts == "inferred", "n": 52}]
    seen = timed.verify(plan.run_id)
    assert (seen.verdict, seen.inferred) == ("pass", 52 if receipts == "inferred" else 0)
    undo = timed.rollback(plan.run_id, until="2025-08-31")
    assert undo.effect.inferred == (sum(undo.deletes.values()) if receipts == "inferred" else 0)
    assert undo.confirm(reason="a test").deletes == {"fc_scores": 32, "profiles": 10}
    assert timed.verify(plan.run_id).verdict == "pass"
    again = timed.plan(like=plan.run_id)
    over_edge.approve(again)
    assert timed.apply(again.run_id).status.counts["done"] == 32


# What a plan says -------------------------------------------------------------------------------


def test_a_plan_says_what_nobody_could_measure(
    over_edge: Project, bf: backfill.Backfill, receipts: Receipts, asked: dict[str, Any]
) -> None:
    """A function outside the database has no definition in it, and no rehearsal."""
    plan = bf.plan(**REHEARSED, **asked)
    seen = marks(plan)
    assert seen["Edge Function score_prism"] == (
        "warn",
        "version 1, as declared: not measured, the database does not hold it; it is deployed and"
        " answers",
    )  # fmt: skip
    assert seen["rehearsal: scoring calls"] == (
        "warn", "not measured: score_fc_session, score_prism, which no transaction takes back",
    )  # fmt: skip
    kind, detail = seen["receipts of public.profiles"]
    assert kind == ("warn" if receipts == "inferred" else "ok")
    assert ("inferred from the rows" in detail) == (receipts == "inferred")
    shown = plan.markdown()
    assert "Edge Function score_prism(engine_version='v1.2.1', session_id)" in shown
    assert ("Receipts of an Edge Function" in shown) == (receipts == "inferred")
    assert "--rehearse 5" not in shown  # it would not help


@pytest.mark.parametrize("receipts", ["inferred"], indirect=True)
def test_inferred_receipts_have_to_be_accepted_by_name(
    over_edge: Project, bf: backfill.Backfill
) -> None:
    """Else there is no plan; another name is no acceptance."""
    for given in (None, "documents"):
        with pytest.raises(
            backfill.BadRequest, match="only inferred: fc_scores, profile"
        ) as refused:
            bf.plan(**SEED, inferred=given)
        assert refused.value.next_step.endswith("backfill plan … --inferred prism")
    accepted = bf.plan(**SEED, inferred="prism")
    assert bf.plan(like=accepted.run_id).digest == accepted.digest


@pytest.mark.parametrize("receipts", ["exact"], indirect=True)
def test_accepting_what_is_not_there_changes_nothing(
    over_edge: Project, bf: backfill.Backfill
) -> None:
    """A plan whose receipts are exact does not say that they are inferred."""
    accepted = bf.plan(**SEED, inferred="prism")
    assert accepted.digest == bf.plan(**SEED).digest
    assert "inferred" not in accepted.markdown()


@pytest.mark.parametrize("receipts", ["exact"], indirect=True)
def test_a_version_that_is_declared_anew_is_another_plan(
    over_edge: Project, bf: backfill.Backfill
) -> None:
    """Whoever deploys a function says so; what was approved before then holds."""
    plan = bf.plan(**SEED)
    over_edge.approve(plan)
    declare(over_edge, prism_over_edge(version="2"))
    with pytest.raises(backfill.Paused, match="no longer what stands there"):
        bf.apply(plan.run_id)
    assert bf.plan(**SEED).digest != plan.digest


# Trouble ----------------------------------------------------------------------------------------

FEW: dict[str, Any] = {"since": "2025-09-01", "throttle_per_minute": "none", "batch_size": 5}


def troubled_run(
    project: Project, bf: backfill.Backfill, trouble: str, wall_clock_s: float = 30.0
) -> tuple[str, backfill.Outcome]:
    """A run of seven sessions over functions that misbehave at first; what became of it."""
    receipts: Receipts = "inferred" if trouble.startswith("silent") else "exact"
    declare(project, prism_over_edge(receipts))
    plan = bf.plan(**FEW, inferred="prism" if receipts == "inferred" else None)
    assert len(plan.sessions) == 7
    project.approve(plan)
    with served(project, TROUBLED, wall_clock_s=wall_clock_s, TROUBLE=trouble):
        return plan.run_id, bf.apply(plan.run_id)


def calls_committed(project: Project, run_id: str) -> int:
    """The rows that a run wrote, by their receipts."""
    found: int = project.value(
        "select count(*) from public.backfill_receipts where run_id = %s", run_id
    )
    return found


@pytest.mark.parametrize("trouble", ["546", "504", "a page", "slow"])
def test_what_the_platform_says_is_looked_up(
    project: Project, timed: backfill.Backfill, trouble: str
) -> None:
    """Ended by the platform, late, or no JSON: the receipts say which calls were made."""
    run_id, outcome = troubled_run(project, timed, trouble, 0.35 if trouble == "slow" else 30.0)
    assert outcome.is_complete
    assert calls_committed(project, run_id) == timed.get(run_id).expected_calls["total"]
    # A row that is there is not written again: its session needed one attempt.
    attempts = {s.attempts for s in timed.get(run_id).sessions if len(s.components) == 1}
    if trouble != "slow":  # a machine may be slow as well, before the write
        assert attempts == ({1} if trouble == "a page" else {2})
    assert timed.verify(run_id).verdict == "pass"


def test_a_write_after_the_wall_clock_is_refused(
    project: Project, timed: backfill.Backfill
) -> None:
    """The platform gave the call up; when it comes to write, its fence is stale."""
    run_id, outcome = troubled_run(project, timed, "late", 0.3)
    assert outcome.is_complete
    assert calls_committed(project, run_id) == timed.get(run_id).expected_calls["total"]
    assert timed.verify(run_id).verdict == "pass"


def test_without_headers_a_late_write_is_somebody_else_s(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Nothing can refuse it: it has no receipt, an undo leaves it, and verify says so.

    It may come before the call that is made again, or change the row that this one wrote.
    """
    run_id, outcome = troubled_run(project, timed, "silent late", 0.3)
    assert outcome.status.counts["failed"] == 0
    seen = timed.verify(run_id)
    assert seen.verdict == "pass"
    ours = len(seen.buckets["as_planned"]) + len(seen.buckets["changed_since"])
    somebody_else_s = len(seen.buckets["filled_elsewhere"])
    assert ours + somebody_else_s == timed.get(run_id).expected_calls["total"]
    assert seen.inferred == ours


def test_an_answer_without_a_row_is_no_effect(project: Project, timed: backfill.Backfill) -> None:
    """200 and nothing written: each session fails, and says at which step."""
    run_id, outcome = troubled_run(project, timed, "writes nothing")
    assert outcome.status.counts["failed"] == 7
    assert {f.error_code for f in outcome.failures} == {"OB017"}
    assert timed.verify(run_id).verdict == "partial"


@pytest.mark.parametrize(
    ("trouble", "said"), [("throws", "Internal Server Error"), ("refuses", "not now")]
)
def test_what_a_function_itself_refuses_is_that_session_s_failure(
    project: Project, timed: backfill.Backfill, trouble: str, said: str
) -> None:
    """Its own words are kept, a crash's are not; retry makes the calls again."""
    run_id, outcome = troubled_run(project, timed, trouble)
    assert {(f.error_code, f.error_message) for f in outcome.failures} == {
        ("500" if trouble == "throws" else "422", said)
    }
    with served(project):
        assert timed.retry(run_id).is_complete
    assert timed.verify(run_id).verdict == "pass"


NESTED = '{"error": {"code": "too_large", "message": "45000 of 30000 tokens"}}'
SLOWED = "asked to wait 6 times while others were not: 45000 of 30000 tokens"
ABOUT_ONE = {
    "no text": (404, '{"code": "NOT_FOUND", "message": "no text"}', "NOT_FOUND", "no text"),
    "not agreed": (403, '{"error": "has not agreed"}', "403", "has not agreed"),
    "too large": (429, NESTED, "too_large", SLOWED),
}


@pytest.mark.parametrize("what", ABOUT_ONE)
def test_what_a_function_says_of_one_session_fails_that_session(
    project: Project, timed: backfill.Backfill, what: str
) -> None:
    """With its code and message, whatever form they have; the others are done."""
    status, body, code, message = ABOUT_ONE[what]
    declare(project, prism_over_edge())
    plan = timed.plan(**FEW)
    project.approve(plan)
    one = plan.sessions[2].session_id
    trouble = json.dumps({"session": one, "status": status, "body": body})
    with served(project, TROUBLED, TROUBLE=f"one {trouble}"):
        outcome = timed.apply(plan.run_id)
    assert [(f.session_id, f.error_code, f.error_message) for f in outcome.failures] == [
        (one, code, message)
    ]
    assert outcome.status.counts["done"] == 6


def test_what_a_function_says_of_most_sessions_pauses_nothing(
    project: Project, timed: backfill.Backfill
) -> None:
    """A 404 with a JSON body is the deployed function's own, however many sessions get it."""
    declare(project, prism_over_edge())
    plan = timed.plan(**FEW, priority=[])
    project.approve(plan)
    some = [s.session_id for s in plan.sessions[1:5]]
    trouble = json.dumps({"session": some, "status": 404, "body": '{"error": "no text"}'})
    with served(project, TROUBLED, TROUBLE=f"one {trouble}"):
        outcome = timed.apply(plan.run_id)
    assert {f.session_id for f in outcome.failures} == set(some)
    assert outcome.status.counts["done"] == 3


def test_a_function_that_is_not_deployed_stops_the_run(
    project: Project, timed: backfill.Backfill
) -> None:
    """Every call would fail alike: nobody is marked failed for it."""
    declare(project, prism_over_edge())
    plan = timed.plan(**FEW)
    project.approve(plan)
    with (
        served(project, TROUBLED / "score_prism", TROUBLE="none"),
        pytest.raises(backfill.Paused, match="NOT_FOUND Requested function was not found"),
    ):
        timed.apply(plan.run_id)
    assert timed.status(plan.run_id).counts["failed"] == 0


def test_exact_receipts_that_do_not_come_are_critical(
    project: Project, timed: backfill.Backfill
) -> None:
    """Declared to hand the headers on, and it does not: the first batch pauses the run."""
    declare(project, prism_over_edge())
    plan = timed.plan(**FEW)
    project.approve(plan)
    with (
        served(project, SILENT),
        pytest.raises(backfill.Paused, match="a written row has no receipt"),
    ):
        timed.apply(plan.run_id)
    failures = timed.outcome(plan.run_id).failures
    assert {f.error_code for f in failures} == {"OB016"}
    assert "does not hand our headers on" in str(failures[0].error_message)


# The gateway ------------------------------------------------------------------------------------


def test_a_function_is_called_with_a_jwt_of_the_project(project: Project) -> None:
    """The secret key of the new style stands for one; no key and a foreign token are refused."""
    address = f"{project.url}/functions/v1/score_prism"
    body = {"session_id": "00000000-0000-0000-0000-000000000000", "engine_version": "v"}
    with served(project):
        for authorization, status in (
            (f"Bearer {project.keys.secret}", 200),
            (f"Bearer {project.keys.service_role}", 200),
            ("Bearer eyJhbGciOiJIUzI1NiJ9.e30.AAAA", 401),
            ("nothing", 401),
        ):
            headers = {"apikey": project.keys.secret, "Authorization": authorization}
            assert httpx.post(address, headers=headers, json=body).status_code == status
        missing = f"{project.url}/functions/v1/none"
        headers = {"apikey": project.keys.secret, "Authorization": f"Bearer {project.keys.secret}"}
        assert httpx.post(missing, headers=headers, json=body).json()["code"] == "NOT_FOUND"


def test_a_row_that_came_before_the_look_is_nobody_s(project: Project) -> None:
    """A late write between claim and look: the call changes nothing, and that is not critical."""
    declare(project, prism_over_edge("inferred"))
    run_id = verbs.started(project.db, inferred="prism", throttle_per_minute="none", priority=[])
    claim_id = str(uuid4())
    grant, *_ = verbs.claim(project.db, run_id, claim_id)["granted"]
    for step in grant["steps"]:
        named = ", ".join(f"{name} => %({name})s" for name in step["arguments"])
        call = f"select public.{step['function']}({named})"
        project.db.execute(call.encode(), step["arguments"])
    project.db.execute(
        "select backfill_private.look_before(r, array[%s]) from public.backfill_runs as r"
        " where run_id = %s",
        (grant["ordinal"], run_id),
    )
    answered = [step["component"] for step in grant["steps"]]
    outcome = {"ordinal": grant["ordinal"], "outcome": "answered", "answered": answered}
    settled = verbs.settle(project.db, run_id, claim_id, [outcome])
    assert (settled["state"], settled["settled"][0]["state"]) == ("running", "done")
    assert project.value("select count(*) from public.backfill_receipts") == 0
