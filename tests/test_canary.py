"""The canary looks at the scores too: null, no number, out of the range that is declared."""

from __future__ import annotations

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit.seed import CANARY, SEED

FAST = {**SEED, "throttle_per_minute": 60_000, "batch_size": 20}
# The sample's scorer is copied aside; the new one spoils the scores of one session.
SPOILED = """
create or replace function public.score_fc_session(session_id uuid, version text, basis text)
returns jsonb language plpgsql set search_path = '' as $$
declare
  v_answer jsonb := public.score_fc_session_real($1, $2, $3);
begin
  update public.fc_scores as f set scores_json = {spoiled}
  where f.session_id = $1 and f.version = $2 and $1 = '{session}';
  return v_answer;
end
$$;
"""


def spoil(project: Project, spoiled: str) -> None:
    """Let the scorer spoil one session's scores: an SQL expression over the row f."""
    real = project.value(
        "select pg_get_functiondef('public.score_fc_session(uuid,text,text)'::regprocedure)"
    )
    project.db.execute(real.replace("score_fc_session", "score_fc_session_real").encode())
    project.db.execute(SPOILED.format(spoiled=spoiled, session=CANARY).encode())


def approved(project: Project, bf: backfill.Backfill) -> str:
    plan = bf.plan(**FAST)
    project.approve(plan)
    return plan.run_id


def declare(project: Project, ranges: str) -> None:
    """Declare the ranges of the scores of fc_scores."""
    project.db.execute(
        "update public.backfill_targets set score_ranges = %s where component = 'fc_scores'",
        (ranges,),
    )


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        ("""f.scores_json || '{"Te": 100.5}'""", "holds a number outside 0 to 100"),
        ("""f.scores_json || '{"Te": -1}'""", "holds a number outside 0 to 100"),
        ("""f.scores_json || '{"more": {"raw": 7e9}}'""", "holds a number outside 0 to 100"),
        ("""f.scores_json || '{"Te": null}'""", "holds a null"),
        ("""f.scores_json || '{"Te": "NaN"}'""", "holds NaN or infinity"),
        ("f.scores_json || jsonb_build_object('Te', '-Infinity'::float8)", "holds NaN or infinity"),
        ("'null'", "is null"),
    ],
)
def test_a_score_out_of_range_fails_the_canary(
    project: Project, bf: backfill.Backfill, spoiled: str, why: str
) -> None:
    """The run pauses; the reason says which session and column and what is wrong, not the value."""
    spoil(project, spoiled)
    run_id = approved(project, bf)
    with pytest.raises(backfill.Paused, match="canary"):
        bf.apply(run_id)
    status = bf.status(run_id)
    assert status.reason == f"the canary failed: session {CANARY}: fc_scores.scores_json {why}"
    assert (status.counts["done"], status.counts["pending"]) == (2, 37)
    bf.resume(run_id)
    assert bf.apply(run_id).state == "completed"


def test_a_column_of_numbers_is_looked_at_too(project: Project, bf: backfill.Backfill) -> None:
    """NaN is a number to PostgreSQL, and greater than all others."""
    project.db.execute("alter table public.fc_scores add column total numeric default 5")
    declare(project, '{"total": [0, 10]}')
    spoil(project, "f.scores_json, total = 'NaN'")
    run_id = approved(project, bf)
    with pytest.raises(backfill.Paused) as caught:
        bf.apply(run_id)
    assert f"the canary failed: session {CANARY}: fc_scores.total holds NaN or infinity" in str(
        caught.value
    )


def test_scores_in_range_are_no_matter(project: Project, bf: backfill.Backfill) -> None:
    """The bounds belong to the range; text beside the scores is no score."""
    spoil(project, """f.scores_json || '{"Te": 0, "more": [100, 12.5], "note": "none"}'""")
    assert bf.apply(approved(project, bf)).is_complete


def test_a_range_is_part_of_what_is_approved(project: Project, bf: backfill.Backfill) -> None:
    """A range that is widened after the approval makes it another plan."""
    run_id = approved(project, bf)
    declare(project, '{"scores_json": [0, 1000]}')
    with pytest.raises(backfill.Paused, match="backfill_targets"):
        bf.apply(run_id)


@pytest.mark.parametrize(
    "ranges", ["[]", '{"a": 1}', '{"a": [2, 1]}', '{"a": [1]}', '{"a": ["0", "1"]}', "null"]
)
def test_what_is_no_range_is_refused(project: Project, ranges: str) -> None:
    """By the table itself, whoever writes it."""
    with pytest.raises(psycopg.errors.CheckViolation):
        declare(project, ranges)


def test_check_names_a_score_column_that_is_not_there(
    project: Project, bf: backfill.Backfill
) -> None:
    """With the statement that corrects it."""
    declare(project, '{"scores": [0, 100]}')
    line = next(c for c in bf.check() if c.name == "table public.fc_scores")
    assert (line.status, "has no column scores" in line.detail) == ("fail", True)
    assert "score_ranges" in line.next_step
