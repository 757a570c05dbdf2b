"""`backfill watch` and `bf.watch()`: what they say, how they end, what a job hears."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.seed import SEED

FIRST_DAY = datetime(2025, 6, 1, tzinfo=UTC)
PROMISED = {
    "target", "status", "coverage", "min_coverage", "within_s", "oldest_missing_at", "looked_at",
}  # fmt: skip
DONE = """
select public.score_fc_session(session_id, 'v1.2', 'functions')
from public.backfill_candidates where missing_fc_scores;
select public.score_prism(session_id, 'v1.2.1')
from public.backfill_candidates where missing_profile;
"""


def fill(project: Project) -> None:
    """Write what is missing, as a job of the user's does."""
    project.db.execute(DONE.encode())


def test_a_breach_ends_with_4_and_says_what_to_plan(shell: Shell) -> None:
    """For people in lines, for machines by the promised names."""
    ran = shell("watch")
    assert (ran.code, ran.err) == (4, "")
    assert "prism is breached: 20.33%, at least 99.00%" in ran.out
    assert "47 of 59 lack something, since 20" in ran.out
    assert "Next: backfill plan --target prism --since 2025-06-01" in ran.out
    told = shell("watch", "--target", "prism", "--full", "--json")
    (found,) = told.json["targets"]
    assert (told.code, found.keys() >= PROMISED) == (4, True)
    assert (found["target"], found["status"], found["within_s"]) == ("prism", "breached", 21_600)
    assert (found["coverage"], found["min_coverage"]) == (0.2033, 0.99)
    assert datetime.fromisoformat(found["oldest_missing_at"]) == FIRST_DAY
    assert datetime.fromisoformat(found["looked_at"]).tzinfo is not None


def test_a_level_that_is_kept_ends_with_0(project: Project, shell: Shell) -> None:
    """And one that is not known, which is no breach."""
    fill(project)
    kept = shell("watch")
    assert (kept.code, kept.out) == (0, "ok: prism is ok: 100.00%, at least 99.00%\n")
    project.db.execute("update public.backfill_watches set min_coverage = null, within = null")
    unknown = shell("watch", "--json")
    (found,) = unknown.json["targets"]
    assert (unknown.code, found["status"], found["min_coverage"]) == (0, "unknown", None)
    assert "no service level is declared" in shell("watch").out


def test_a_target_that_is_not_installed_is_a_usage_error(shell: Shell) -> None:
    """With those that are, and as JSON too."""
    ran = shell("watch", "--target", "orders")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == "no target is named orders"
    assert "prism" in ran.err
    told = shell("watch", "--target", "orders", "--json")
    assert (told.code, told.json["error"]["code"]) == (2, "OB013")


def test_a_job_hears_of_a_breach_and_of_its_end(project: Project) -> None:
    """At each look that finds it, and once that it is over. The dashboard says the same."""
    heard: list[backfill.Event] = []
    with project.connect(on_event=heard.append) as bf:
        assert bf.watch().is_breached
        assert bf.watch("prism").is_breached
        fill(project)
        assert not bf.watch().is_breached
        assert not bf.watch().is_breached
    assert [(e.kind, e.run_id, e.details.get("is_new")) for e in heard] == [
        ("coverage_breached", "", True),
        ("coverage_breached", "", False),
        ("coverage_restored", "", None),
    ]
    json.dumps([e.as_dict() for e in heard])
    assert project.value("select status from public.backfill_watch_status") == "ok"


def test_a_listener_that_raises_loses_no_alert(project: Project) -> None:
    """Its exception comes when the look is over, with a note."""

    def hear(_: backfill.Event) -> None:
        raise RuntimeError("no network")

    raises = pytest.raises(RuntimeError, match="no network")
    with project.connect(on_event=hear) as bf, raises as raised:
        bf.watch()
    assert raised.value.__notes__ == ["the look is over, and its alerts are kept"]
    assert project.value("select count(*) from public.backfill_alerts") == 1


def test_the_awaited_face_watches_too(project: Project) -> None:
    """With the same types."""

    async def look() -> backfill.Watch:
        async with backfill.connect_async(project.url, project.keys.service_role) as bf:
            return await bf.watch()

    (found,) = anyio.run(look).targets
    assert isinstance(found, backfill.TargetWatch)
    assert (found.status, found.oldest_missing_at) == ("breached", FIRST_DAY)


SLOW = """
create or replace function backfill_private.keep_days(
  p_target text, p_look bigint, p_from date, p_below date, p_due timestamptz)
returns bigint language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update public.test_clock set now_at = now_at + interval '30 s';
  return kept.days(p_target, p_look, p_from, p_below, p_due);
end
$$
"""


def test_a_full_count_goes_on_until_it_is_whole(project: Project, clock: DatabaseClock) -> None:
    """Each call makes one part where counting is slow. The answer is that of the last."""
    project.db.execute("create schema kept")
    definition = project.value(
        "select pg_get_functiondef('backfill_private.keep_days'::regproc)"
    ).replace("backfill_private.keep_days", "kept.days")
    project.db.execute(f"{definition};{SLOW}".encode())
    began = clock.now()
    with project.connect(clock=clock) as bf:
        (found,) = bf.watch(full=True).targets
    assert (found.status, found.missing) == ("breached", 47)
    # In one call a part begins only within 20 s.
    assert (clock.now() - began).total_seconds() >= 4 * 30


def test_what_a_run_writes_closes_the_alert(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Plan, approve, apply, look: the loop that a job makes."""
    assert timed.watch().is_breached
    plan = timed.plan(**{**SEED, "since": "2025-01-01", "rehearse": 0})
    project.approve(plan)
    timed.apply(plan.run_id)
    (found,) = timed.watch().targets
    assert (found.status, found.missing) == ("ok", 0)


def rows(project: Project, role: str, what: str) -> Any:
    """What a role reads through the API."""
    import httpx

    headers = {"apikey": project.keys.anon, "Authorization": f"Bearer {project.user(role)}"}
    return httpx.get(f"{project.url}/rest/v1/{what}", headers=headers).json()


def test_a_viewer_reads_what_the_dashboard_shows(project: Project, shell: Shell) -> None:
    """Counts, and no session."""
    shell("watch")
    (status,) = rows(project, "viewer", "backfill_watch_status")
    assert (status["status"], status["short_by"]) == ("breached", 47)
    (alert,) = rows(project, "viewer", "backfill_alerts")
    assert (alert["missing"], alert["closed_at"]) == (47, None)
    history = rows(project, "viewer", "backfill_coverage_history?order=day")
    assert history[0]["lacks"] == {"profile": 1, "fc_scores": 1}
    sessions = {str(r["id"]) for r in project.rows("select id from public.assessment_sessions")}
    assert not [one for one in sessions if one in json.dumps([history, alert, status])]
