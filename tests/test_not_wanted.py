"""A component whose own needs are not met: not wanted of that session, and said so everywhere."""

from __future__ import annotations

import re

import backfill
from backfill.targets.declaration import parse
from backfill.targets.views import target_sql
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.seed import CANDIDATES, SEED
from tests.kit.songs import DECLARED, Db, as_owner, opened, songs, songs_db

__all__ = ["songs", "songs_db"]  # fixtures of another module

FORGET = (
    "delete from public.fc_responses where session_id in ("
    "select s::uuid from unnest(%s::text[]) as s)"
)
NO_FC = "no forced-choice responses"
NEED = (
    'needs = [{ name = "credits", table = "public.credits", column = "song_id", at_least = "two" }]'
)
NEEDY = DECLARED.replace("least = 0", "two = 2").replace(
    '"cover"\ntable', f'"cover"\n{NEED}\ntable'
)
NEEDY = re.sub('needs = .*"least".*\n', "", NEEDY)


def unanswered(project: Project, kept: int) -> list[str]:
    """Take their forced-choice answers from all candidates but these many. Returns those kept."""
    candidates = [row["session_id"] for row in project.db.execute(CANDIDATES).fetchall()]
    assert len(candidates) == 39
    project.db.execute(FORGET, (candidates[kept:],))
    return candidates[:kept]


def test_sessions_without_answers_are_planned_for_what_they_can_have(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock, shell: Shell
) -> None:
    """37 of 39 have no forced-choice answers: 13 profiles and 2 FC scores, to the end and back."""
    kept = unanswered(project, 2)
    # Of the two that the seed leaves out for the same reason only the FC scores are missing, too.
    plan = timed.plan(**SEED | {"priority": []})
    assert plan.candidates["missing"] == {"fc_scores": 2, "profile": 13}
    assert plan.expected_writes["new"] == {"fc_scores": 2, "profiles": 13}
    lacking_fc = {s.session_id for s in plan.sessions if "fc_scores" in s.components}
    assert lacking_fc == set(kept)
    assert plan.not_wanted == ({"component": "fc_scores", "sessions": 39, "reason": NO_FC},)
    assert [e["reason"] for e in plan.excluded] == ["0 responses, at least 1 needed"] * 2
    assert f"| `fc_scores` | 39 | {NO_FC} |" in plan.markdown()
    project.approve(plan)
    outcome = timed.apply(plan.run_id)
    assert outcome.status.counts["done"] == plan.candidates["total"]
    assert timed.verify(plan.run_id).verdict == "pass"
    found = shell("missing", "--since", "2025-08-01", "--json").json
    assert (found["coverage"], found["missing_fc_scores"]) == (1.0, 0)
    assert found["not_wanted"] == list(plan.not_wanted)
    said = shell("missing", "--since", "2025-08-01").out
    assert f"no fc_scores is wanted of 39 sessions: {NO_FC}" in said
    timed.rollback(plan.run_id).confirm(reason="a test")
    assert project.value("select count(*) from public.backfill_candidates") >= 13


def test_a_component_that_is_no_longer_wanted_is_not_scored(
    project: Project, timed: backfill.Backfill
) -> None:
    """Its answers were deleted after the approval: the session is left to the next plan."""
    plan = timed.plan(**SEED | {"priority": [], "until": "2025-08-05"})
    project.approve(plan)
    project.db.execute("delete from public.fc_responses")
    outcome = timed.apply(plan.run_id)
    assert outcome.status.counts["skipped"] == plan.candidates["total"]
    reasons = project.value("select array_agg(distinct unselected) from public.backfill_items")
    assert reasons == [f"fc_scores is no longer wanted of it: {NO_FC}"]


def test_a_session_of_which_nothing_is_wanted_is_excluded_as_a_whole(songs: Db) -> None:
    """So that the coverage is not of sessions that cannot have anything."""
    songs.execute(target_sql(parse(NEEDY)).encode())
    songs.execute("insert into public.credits values (1), (1), (2)")
    run_id = opened(songs)
    while not verbs.call(songs, "backfill_collect", p_run_id=run_id):
        pass
    verbs.call(songs, "backfill_seal", p_run_id=run_id)
    as_owner(songs)
    row = songs.execute("select plan from public.backfill_runs").fetchone()
    assert row is not None
    plan = row["plan"]
    assert (plan["candidates"]["total"], plan["not_wanted"]) == (1, [])
    assert {e["session_id"]: e["reason"] for e in plan["excluded"]} == {
        "2": "fewer than 2 credits",
        "3": "fewer than 2 credits",
    }
    covered = verbs.call(songs, "backfill_coverage", p_target="songs")
    assert [(d["complete"], d["excluded"]) for d in covered["days"]] == [(0, 0), (0, 1), (0, 1)]
    assert covered["not_wanted"] == {"cover": "fewer than 2 credits"}
