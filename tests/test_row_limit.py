"""A project whose API answers fewer rows at a time than hosted projects do unless told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import backfill
from tests.conftest import Project

MOST = 7


@pytest.fixture
def curt(project: Project) -> Iterator[backfill.Backfill]:
    """The sample's backfills, at most seven rows an answer."""
    name = project.db.info.dbname
    project.admin.execute(
        f"alter role authenticator in database {name} set pgrst.db_max_rows = '{MOST}'".encode()
    )
    project.db.execute("notify pgrst, 'reload config'")
    headers = {"Authorization": f"Bearer {project.keys.service_role}"}
    with httpx.Client(base_url=project.rest_url, headers=headers) as http:
        while len(http.get("/assessment_sessions?select=id").json()) > MOST:
            pass
    with project.connect() as connected:
        yield connected


def test_no_limit_hides_a_row(curt: backfill.Backfill, project: Project, tmp_path: Path) -> None:
    """Sessions of the plan, its files, receipts and chain are read to their end."""
    plan = curt.plan(since="2025-08-01", throttle_per_minute="none", batch_size=5, rehearse=0)
    assert [s.ordinal for s in plan.sessions] == list(range(1, 40))
    for _ in range(MOST + 2):
        curt.plan(since="2025-09-01", rehearse=0)
    assert [len(curt.runs(limit=limit)) for limit in (3, MOST + 1, 50)] == [3, MOST + 1, MOST + 3]
    project.approve(plan)
    outcome = curt.apply(plan.run_id, logs_dir=tmp_path)
    assert outcome.is_complete
    (calls,) = tmp_path.rglob("calls.jsonl")
    made = [json.loads(line) for line in calls.read_text().splitlines()]
    assert len(made) == plan.expected_calls["total"] > 39
    (undo,) = tmp_path.rglob("rollback.sql")
    assert all(s.session_id in undo.read_text() for s in plan.sessions)
    assert [s.state for s in curt.get(plan.run_id).sessions] == ["done"] * 39
    assert curt.verify(plan.run_id).verdict == "pass"
