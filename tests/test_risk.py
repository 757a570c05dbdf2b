"""The risk of a plan: a grade made of what was measured, which the digest covers."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.commands import Shell
from tests.kit.seed import SEED

Db = psycopg.Connection[Any]
PLAN: dict[str, Any] = {
    "checks": [{"name": "throttle", "status": "ok", "detail": "20"}],
    "blast_radius": [],
    "expected_writes": {"replaced": {"profiles": 0, "fc_scores": 0}},
}


def check(name: str, status: str, detail: str = "seen") -> dict[str, Any]:
    return {"checks": [{"name": name, "status": status, "detail": detail}]}


def effect(kind: str, *names: str, events: int | None = 3) -> dict[str, Any]:
    return {"blast_radius": [{"kind": kind, "name": n, "events": events} for n in names]}


@pytest.mark.parametrize(
    ("seen", "environment", "grade", "reasons"),
    [
        ({}, "staging", "low", []),
        (check("responses", "fail"), "staging", "high", ["1 check failed: responses"]),
        (check("approval policy", "warn"), "staging", "medium", ["1 check warns: approval policy"]),
        (
            check("before-images of public.profiles", "fail"), "staging", "high",
            ["an undo would not be exact: before-images of public.profiles"],
        ),
        (
            check("before-images of public.profiles", "warn"), "staging", "medium",
            ["1 check warns: before-images of public.profiles"],
        ),
        (
            check("rehearsal: undo", "warn", "it leaves a row"), "staging", "high",
            ["an undo would not be exact: rehearsal: undo"],
        ),
        (
            check("rehearsal: undo", "warn", "not rehearsed: the time limit came first"), "staging",
            "medium", ["1 check warns: rehearsal: undo"],
        ),
        (
            check("receipts of public.fc_scores", "warn"), "staging", "high",
            ["an undo would not be exact: the receipts of public.fc_scores are inferred from the"
             " rows before and after"],
        ),
        (
            {"expected_writes": {"replaced": {"profiles": 1, "fc_scores": 2}}}, "staging", "medium",
            ["3 rows are replaced"],
        ),
        ({"expected_writes": {"replaced": {"profiles": 1}}}, "qa", "medium", ["1 row is replaced"]),
        (effect("trigger", "audit"), "staging", "medium", ["1 trigger fires: audit"]),
        (effect("webhook", "b", "a", "a"), "staging", "medium", ["2 webhooks fire: a, b"]),
        (effect("trigger", "audit", events=0), "staging", "low", []),
        (effect("foreign key", "profiles_session_id_fkey"), "staging", "low", []),
        ({}, "production", "medium", ["the environment is production"]),
        (check("environment", "warn"), None, "medium", ["no environment is set"]),
    ],
)  # fmt: skip
def test_the_grade_is_that_of_the_gravest_reason(
    project_db: Db, seen: dict[str, Any], environment: str | None, grade: str, reasons: list[str]
) -> None:
    """High: a check failed, or an undo is not exact. Medium: anything else. Low: nothing."""
    row = project_db.execute(
        "select backfill_private.risk(jsonb_populate_record(null::public.backfill_runs, %s), %s)"
        " as risk",
        (Jsonb({"environment": environment}), Jsonb({**PLAN, **seen})),
    ).fetchone()
    assert row is not None
    assert row["risk"] == {"grade": grade, "reasons": reasons}


def test_the_gravest_reason_comes_first(project_db: Db) -> None:
    """Of several, in one order, so that the digest is the same."""
    checks = [check("throttle", "warn"), check("b", "fail"), check("a", "fail")]
    seen = {"checks": [one for c in checks for one in c["checks"]], **effect("trigger", "audit")}
    row = project_db.execute(
        "select backfill_private.risk(jsonb_populate_record(null::public.backfill_runs, %s), %s)"
        " -> 'reasons' as reasons",
        (Jsonb({"environment": "staging"}), Jsonb({**PLAN, **seen})),
    ).fetchone()
    assert row is not None
    assert row["reasons"] == [
        "2 checks failed: a, b",
        "1 trigger fires: audit",
        "1 check warns: throttle",
    ]


def test_the_digest_covers_the_risk(project_db: Db, project_admin: Db) -> None:
    """A superuser who makes a plan look harmless has made another plan."""
    run_id = verbs.planned(project_db, limit=1)
    project_admin.execute(
        "begin; set local session_replication_role = replica;"
        'update public.backfill_runs set plan = plan || \'{"risk": {"grade": "low"}}\';'
        "commit"
    )
    with pytest.raises(psycopg.Error) as refused:
        verbs.approve(project_db, run_id)
    assert refused.value.sqlstate == "OB007"


def test_a_plan_says_its_risk_first_and_the_summary_is_that_part_alone(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """In Python, as JSON and as text; what fires and what is replaced among the reasons."""
    project.db.execute(
        "create function public.note() returns trigger language plpgsql as"
        " 'begin return new; end'; create trigger note_scores after insert on public.fc_scores"
        " for each row execute function public.note()"
    )
    plan = bf.plan(**{**SEED, "limit": 2, "priority": []})
    assert plan.risk is not None
    assert plan.risk.grade == "medium"
    assert "1 trigger fires: note_scores" in plan.risk.reasons
    shown = shell("show", plan.run_id, "--summary")
    assert len(shown.out.strip().splitlines()) <= 25
    assert plan.markdown().startswith(shown.out.strip())
    assert "  - 1 trigger fires: note_scores" in shown.out
    told = shell("show", plan.run_id, "--json").json["risk"]
    assert told == {"grade": "medium", "reasons": list(plan.risk.reasons)}
