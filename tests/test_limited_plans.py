"""Plans over the first so many sessions, or over some named ones, within what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import backfill
from backfill.cli.exit_codes import ExitCode
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.seed import SEED

ASKED: dict[str, Any] = {**SEED, "throttle_per_minute": 60_000, "rehearse": 0}
BEYOND = "it comes after the first {}, to which the plan is limited"


@pytest.fixture(scope="module")
def planner(shared_project: Project) -> Iterator[backfill.Backfill]:
    """The backfills of a project on which plans are made and nothing else."""
    with shared_project.connect() as bf:
        yield bf


@pytest.fixture(scope="module")
def whole(planner: backfill.Backfill) -> backfill.Plan:
    """The plan over all that is missing."""
    return planner.plan(**ASKED)


def ids_of(plan: backfill.Plan) -> list[str]:
    return [session.session_id for session in plan.sessions]


@pytest.mark.parametrize("limit", [1, 3, 38, 39, 40])
def test_a_limit_takes_the_first_of_the_plan(
    planner: backfill.Backfill, whole: backfill.Plan, limit: int
) -> None:
    """In its order, the priority sessions too. The others are left out and say why."""
    plan = planner.plan(**ASKED, limit=limit)
    assert ids_of(plan) == ids_of(whole)[:limit]
    assert plan.candidates["total"] == len(plan.sessions)
    beyond = [e["session_id"] for e in plan.excluded if e["reason"] == BEYOND.format(limit)]
    assert set(beyond) == set(ids_of(whole)[limit:])
    assert plan.request["limit"] == limit
    assert plan.digest != whole.digest
    fresh = planner.freshness(plan.run_id)
    assert fresh is not None
    assert (fresh.is_fresh, fresh.new_candidates) == (True, ())
    assert f"**Limit**: `{limit}`" in plan.markdown()


def test_ids_take_these_sessions_only(planner: backfill.Backfill, whole: backfill.Plan) -> None:
    """Named anyhow, in the plan's order, each once. What lacks nothing says so."""
    named = [ids_of(whole)[n] for n in (20, 5, 11)]
    plan = planner.plan(**{**ASKED, "priority": []}, ids=[*named, named[0][:8].upper()])
    assert set(ids_of(plan)) == set(named)
    assert plan.request["ids"] == named
    assert plan.excluded == ()
    fresh = planner.freshness(plan.run_id)
    assert fresh is not None
    assert fresh.new_candidates == ()
    assert "**Limited to**: 3 named" in plan.markdown()


def test_a_limit_counts_within_the_ids(planner: backfill.Backfill, whole: backfill.Plan) -> None:
    """And a priority session that is not among them is not in the plan."""
    canary = ids_of(whole)[0]
    named = ids_of(whole)[10:14]
    plan = planner.plan(**{**ASKED, "priority": [canary]}, ids=named, limit=2)
    assert ids_of(plan) == named[:2]
    reasons = {e["session_id"]: e["reason"] for e in plan.excluded}
    assert reasons == {
        canary: "named as priority, but not among the sessions to which the plan is limited",
        **dict.fromkeys(named[2:], BEYOND.format(2)),
    }


def test_a_plan_like_a_limited_one_has_its_limits(
    planner: backfill.Backfill, whole: backfill.Plan
) -> None:
    """Unless another is given."""
    named = ids_of(whole)[3:6]
    first = planner.plan(**{**ASKED, "priority": []}, ids=named, limit=2)
    again = planner.plan(like=first.run_id, rehearse=0)
    assert ids_of(again) == ids_of(first)
    more = planner.plan(like=first.run_id, limit=3, rehearse=0)
    assert set(ids_of(more)) == set(named)


def test_no_ids_are_no_sessions_and_not_all(planner: backfill.Backfill) -> None:
    assert planner.plan(**{**ASKED, "priority": []}, ids=[]).is_empty


def test_a_file_names_sessions(
    shared_project: Project,
    whole: backfill.Plan,
    plain_shell: Shell,
    tmp_path: Path,
) -> None:
    """One a line. What it names has to be there, and a file without names is none."""
    plain_shell.environment["SUPABASE_URL"] = shared_project.url
    plain_shell.environment["SUPABASE_SERVICE_ROLE_KEY"] = shared_project.keys.service_role
    file = tmp_path / "ids.txt"

    def planned(text: str) -> Any:
        file.write_text(text)
        words = ("--since", "2025-08-01", "--rehearse", "0", "--ids", str(file), "--json")
        return plain_shell("plan", *words)

    named = ids_of(whole)[7:9]
    ran = planned(f"\ufeff{named[0]}\r\n\n{named[1]}\n")
    assert (ran.code, ran.json["request"]["ids"]) == (ExitCode.DONE, named)
    for text, said in {
        "\n \n": f"{file} names no session",
        "ffffffff-0000-4000-8000-000000000000\n": "no session is named ffffffff",
        "x\n": "no session is named x",
    }.items():
        ran = planned(text)
        assert ran.code == ExitCode.USAGE
        assert ran.json["error"]["message"].startswith(said)
    ran = plain_shell("plan", "--since", "2025-08-01", "--ids", str(tmp_path))
    assert ran.err.startswith(f"{tmp_path} cannot be read: Is a directory\n")
