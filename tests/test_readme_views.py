"""The queries about runs that the README shows, asked of a project that has runs."""

from __future__ import annotations

import base64
import re

import pytest

import backfill
from tests.conftest import Project
from tests.kit.readme import claim
from tests.kit.scorers import misbehave
from tests.kit.seed import CANDIDATES, SEED

SHOWN = claim("The views", "postgres=> select state, total", "executed")
# Query, and the table under it as psql prints it. Its further lines begin with postgres->.
QUERIES = re.findall(
    r"postgres=> (.+;)\n(?: +(.+)\n-.+\n((?: .*\n)+))", SHOWN.replace("\npostgres-> ", " ")
)


@pytest.fixture
def with_runs(project: Project, timed: backfill.Backfill) -> Project:
    """One run is completed with a failed session, one paused, one rejected, one awaits approval."""
    misbehave(project.db, {"fail": [project.rows(CANDIDATES)[0]["session_id"]]})
    paused, rejected = timed.plan(**SEED), timed.plan(**SEED)
    completed = timed.plan(**SEED | {"throttle_per_minute": "none"})
    call = "select public.backfill_{}".format
    project.approve(paused)
    project.value(call("start(%s, 'w')"), paused.run_id)
    project.value(call("pause(%s, 'the database is busy')"), paused.run_id)
    project.value(call("reject(%s, 'too many at once', 'Grace')"), rejected.run_id)
    project.approve(completed)
    timed.apply(completed.run_id)
    timed.plan(since="2025-06-01", until="2025-07-31")
    return project


def answered(project: Project, query: str) -> list[list[str]]:
    """The header and the rows, as text."""
    answer = project.db.execute(query.encode())
    assert answer.description is not None
    assert answer.pgresult is not None
    header = [column.name for column in answer.description]
    places = range(answer.pgresult.nfields)
    values = [
        [(answer.pgresult.get_value(row, at) or b"").decode() for at in places]
        for row in range(answer.pgresult.ntuples)
    ]
    return [header, *values]


def cells(lines: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in lines.splitlines()]


def test_each_query_about_runs_answers_as_shown(with_runs: Project) -> None:
    """In the SQL editor: the very rows, but for ids and moments, which are told by dots."""
    assert len(QUERIES) == SHOWN.count("postgres=>") >= 5
    for query, header, rows in QUERIES:
        assert without_moments(answered(with_runs, query)) == without_moments(
            cells(f"{header}\n{rows}")
        ), query


@pytest.mark.parametrize("role", ["viewer", None])
def test_a_viewer_gets_the_same_answers(with_runs: Project, role: str | None) -> None:
    """Whoever has a backfill role sees the runs; other users see none."""
    payload = with_runs.user(role).split(".")[1]
    claims = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
    about_runs = [q for q, _, _ in QUERIES if "backfill_daily_coverage" not in q]
    expected = [answered(with_runs, query) for query in about_runs]
    with with_runs.db.transaction():
        with_runs.value("select set_config('request.jwt.claims', %s, true)", claims)
        with_runs.db.execute("set local role authenticated")
        seen = [answered(with_runs, query) for query in about_runs]
    assert seen == (expected if role else [rows[:1] for rows in expected])


def without_moments(rows: list[list[str]]) -> list[list[str]]:
    """Moments and ids of runs differ from time to time."""
    moment = r"(?<=of digest )[0-9a-f]+|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]*\+00"
    return [[re.sub(moment, "…", value) for value in row] for row in rows]
