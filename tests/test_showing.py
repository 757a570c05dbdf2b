"""`show --json`: the plan by the contract's names, and once it runs what became of it."""

from __future__ import annotations

from typing import Any

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.commands import Shell
from tests.kit.scorers import misbehave
from tests.kit.seed import CANDIDATES, REHEARSED

PLANNED = {
    "run_id", "state", "digest", "environment", "created_at", "request", "called", "candidates",
    "categories", "phases", "expected_calls", "expected_writes", "replaced_versions", "batches",
    "batch_spacing_s", "expected_runtime_s", "excluded", "excluded_total", "undated", "not_wanted",
    "rehearsal",
    "blast_radius", "checks", "freshness",
    "freshness_unknown", "unlike_approved", "approved_by", "approved_via", "standing",
    "next",
    "risk",
}  # fmt: skip
APPROVAL = {"approved_by", "approved_via"}
BECAME = {"started_at", "counts", "failures", "left_behind", "sessions", "pace_per_minute"}
COUNTS = dict.fromkeys(["pending", "leased", "done", "failed", "skipped", "rolled_back"], 0)
EMPTY = ("plan", "--since", "2026-01-01", "--environment", "staging")


def shown(shell: Shell, run_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = shell("show", run_id, "--json").json
    return answer


def test_a_run_that_has_not_started_shows_its_plan_alone(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """Approved or not: no session can have become anything."""
    plan = bf.plan(**REHEARSED)
    answer = shown(shell, plan.run_id)
    assert answer == {**plan.as_dict(), "freshness": answer["freshness"]}
    assert answer["freshness"]["digest_matches"]
    project.approve(plan)
    assert set(shown(shell, plan.run_id)) == PLANNED


def test_a_started_run_shows_what_became_of_every_session(
    project: Project, timed: backfill.Backfill, shell: Shell
) -> None:
    """Counts by state, the failed with their cause, every session with its state."""
    victim = project.rows(CANDIDATES)[0]["session_id"]
    misbehave(project.db, {"fail": [victim]})
    plan = timed.plan(**REHEARSED)
    project.approve(plan)
    timed.apply(plan.run_id)
    answer = shown(shell, plan.run_id)
    assert set(answer) == PLANNED | BECAME
    planned = {name: answer[name] for name in PLANNED - {"state", "next", *APPROVAL}}
    assert planned == {name: plan.as_dict()[name] for name in planned}
    assert [answer[name] for name in sorted(APPROVAL)] == ["Ada", "sql"]
    assert answer["next"]["causes"] == ["completed", "failed"]
    assert answer["counts"] == {**COUNTS, "done": 38, "failed": 1}
    assert answer["counts"] == shell("status", plan.run_id, "--json").json["counts"]
    assert answer["failures"] == [
        {
            "session_id": victim,
            "failed_step": "fc_scores",
            "error_code": "P0001",
            "error_message": "no score for this one",
        }
    ]
    states = {s["session_id"]: (s["state"], s["attempts"]) for s in answer["sessions"]}
    assert states.pop(victim) == ("failed", 1)
    assert set(states.values()) == {("done", 1)}
    assert len(states) == 38


def test_a_plan_that_is_not_sealed_is_shown_as_far_as_it_goes(
    project: Project, shell: Shell
) -> None:
    """Nothing is measured yet, and nothing breaks."""
    answer = shown(shell, verbs.collected(project.db))
    assert set(answer) == PLANNED
    assert (answer["state"], answer["digest"], answer["batches"]) == ("planning", None, [])
    assert answer["candidates"]["total"] == 0


def test_an_empty_plan_has_every_name_that_a_plan_has(project: Project, shell: Shell) -> None:
    """Zeros and empty lists, and the checks as they were measured; there is no run."""
    answer = shell(*EMPTY, "--json").json
    assert set(answer) == PLANNED
    assert (answer["state"], answer["run_id"], answer["digest"]) == ("empty", None, None)
    assert answer["environment"] == "staging"
    assert answer["request"]["since"] == "2026-01-01"
    assert answer["candidates"] == {
        "total": 0,
        "missing": {"fc_scores": 0, "profile": 0},
        "missing_fc_scores": 0,
        "missing_profile": 0,
        "missing_both": 0,
    }
    assert answer["categories"] == {"profile+fc_scores": 0, "fc_scores": 0, "profile": 0}
    assert answer["expected_calls"] == {"score_fc_session": 0, "score_prism": 0, "total": 0}
    none = {"fc_scores": 0, "profiles": 0}
    assert answer["expected_writes"] == {**none, "total": 0, "new": none, "replaced": none}
    assert (answer["batches"], answer["excluded"]) == ([], [])
    assert "0 of 0 sessions have enough" in [c["detail"] for c in answer["checks"]]
    assert project.value("select count(*) from public.backfill_runs") == 0


def test_an_empty_plan_says_which_sessions_it_left_out(project: Project, shell: Shell) -> None:
    """Too few responses, or named and nothing missing: why there is nothing to do."""
    complete = project.value(
        "select s.id::text from public.assessment_sessions as s"
        " join public.fc_scores as f on f.session_id = s.id limit 1"
    )
    lacking = project.value(
        "insert into public.assessment_sessions (status, created_at)"
        " values ('completed', '2026-02-01') returning id::text"
    )
    excluded = shell(*EMPTY, "--priority", complete, "--json").json["excluded"]
    reasons = {e["session_id"]: e["reason"] for e in excluded}
    assert reasons[lacking] == "0 responses, at least 1 needed"
    assert "nothing is missing" in reasons[complete]
    text = shell(*EMPTY).out
    assert "Nothing to do" in text
    assert lacking in text


def test_a_run_that_has_not_started_has_no_rate(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """Nothing was measured: no rate of 0 and no time left; once it runs there is one."""
    plan = bf.plan(**REHEARSED)
    project.approve(plan)
    assert "sessions/min" not in shell("status", plan.run_id).out
    project.value("select public.backfill_start(%s, 'w')", plan.run_id)
    assert "sessions/min" in shell("status", plan.run_id).out
