"""Heal: watch, plan, standing approval or halt, apply, verify, in one go for a scheduler."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from psycopg.types.json import Jsonb

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.scorers import misbehave

HOUR_S = 3600
# No rehearsal scores it: a standing approval covers no plan whose rehearsal failed.
UNSEEN = (
    "select session_id::text from public.backfill_candidates order by created_at desc"
    " offset 20 limit 1"
)
NEWEST = "select session_id::text from public.backfill_candidates order by created_at desc limit 1"
LEFT_OUT = "it failed twice within a day, and is tried again after that"
NOTHING = {
    "state": "empty", "run_id": None, "standing": None, "verdict": None, "target": "prism",
    "failed": 0, "reason": None, "next": None, "logs_failed": None,
}  # fmt: skip


def allow(bf: backfill.Backfill, **rule: Any) -> str:
    """A standing approval that is in force. Returns its id."""
    asked = {"until": "2999-12-31", "max_sessions": 100, "throttle": 6000, **rule}
    proposed = bf.propose_standing(**asked)
    bf.approve_standing(proposed.standing_id, digest=proposed.digest, approver="Ada")
    return proposed.standing_id


def runs(project: Project) -> list[str]:
    """The states of all runs, the oldest first."""
    rows = project.rows("select state from public.backfill_runs order by created_at, state")
    return [row["state"] for row in rows]


def test_what_a_standing_approval_covers_is_scored(
    project: Project, timed: backfill.Backfill
) -> None:
    """The second time there is nothing to do, and no run."""
    standing = allow(timed)
    healed = timed.heal()
    assert (healed.state, healed.verdict, healed.standing) == ("completed", "pass", standing)
    assert (healed.is_healed, healed.is_halted, healed.next_step) == (True, False, None)
    assert project.value("select approved_by from public.backfill_runs") == "Ada"
    assert timed.heal().as_dict() == NOTHING
    assert runs(project) == ["completed"]


def test_without_one_it_halts_until_a_person_has_decided(
    project: Project, clock: DatabaseClock
) -> None:
    """Each heal tells that the same run waits. Once it is approved the next one scores it."""
    heard: list[backfill.Event] = []
    with project.connect(clock=clock, on_event=heard.append) as bf:
        halted = [bf.heal() for _ in range(2)]
        assert {(h.state, h.is_halted, h.verdict) for h in halted} == {
            ("awaiting_approval", True, None)
        }
        told = [event.run_id for event in heard if event.kind == "awaiting_approval"]
        assert told == [h.run_id for h in halted] == [halted[0].run_id] * 2
        assert "approve" in str(halted[0].next_step)
        project.approve(bf.get(told[0]))
        healed = bf.heal()
    assert (healed.run_id, healed.standing, healed.verdict) == (told[0], None, "pass")


def test_a_day_that_is_used_up_halts_until_the_next(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """A run is as large as the standing approval can cover: of a run, of what is left today."""
    allow(timed, max_sessions=20, max_per_day=30)
    assert [timed.heal().is_healed for _ in range(2)] == [True, True]
    done = "select count(*) from public.backfill_items where state = 'done'"
    assert project.value(done) == 30
    halted = timed.heal()
    assert halted.is_halted
    assert "30" in str(halted.reason)
    clock.advance(24 * HOUR_S)
    assert timed.heal().run_id == halted.run_id
    assert project.value(done) == 47
    assert timed.heal().state == "empty"


def test_a_plan_that_nobody_can_approve_any_more_is_made_anew(
    project: Project, timed: backfill.Backfill
) -> None:
    """What it planned by has changed, so it is cancelled with that reason."""
    first = timed.heal()
    project.db.execute("alter function public.score_prism(uuid, text) set work_mem = '8MB'")
    second = timed.heal()
    assert second.run_id != first.run_id
    assert sorted(runs(project)) == ["awaiting_approval", "cancelled"]
    reason = project.value("select reason from public.backfill_runs where state = 'cancelled'")
    assert reason.startswith("planned anew: ")
    assert "score_prism" in reason


def test_a_definition_that_changed_halts_it(project: Project, timed: backfill.Backfill) -> None:
    """The standing approval was for another one."""
    allow(timed)
    project.db.execute("alter function public.score_prism(uuid, text) set work_mem = '8MB'")
    halted = timed.heal()
    assert halted.is_halted
    assert "changed" in str(halted.reason)


def test_a_pause_and_the_hours_are_not_waited_out(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """The scheduler's next heal goes on."""
    allow(timed, hours="08-09")
    run_id = timed.plan(since="2025-08-01", throttle_per_minute=6000).run_id
    project.db.execute(
        "insert into backfill_private.heals values ('prism', %s, '{}')"
        " on conflict (target) do update set run_id = excluded.run_id",
        (run_id,),
    )
    clock.advance(2 * HOUR_S)
    waiting = timed.heal()
    assert (waiting.state, waiting.is_halted) == ("running", True)
    assert "08:00 to 09:00" in str(waiting.reason)
    timed.pause(run_id, reason="a look first")
    clock.advance(22 * HOUR_S)
    paused = timed.heal()
    assert (paused.state, paused.is_halted) == ("paused", True)
    assert "a look first" in str(paused.reason)
    timed.resume(run_id)
    assert timed.heal().is_healed


def test_sessions_are_scored_before_their_time_is_over(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """To wait until then would be to miss the service level each time."""
    allow(timed)
    assert timed.heal().is_healed
    project.db.execute(
        "with late as (delete from public.profiles where session_id ="
        " (select i.session_id::uuid from backfill_items as i limit 1) returning session_id)"
        " update public.assessment_sessions set created_at = %s from late where id = session_id",
        (clock.now(),),
    )
    assert timed.heal().verdict == "pass"
    assert timed.heal().state == "empty"


def test_a_plan_whose_rehearsal_failed_is_made_anew_once_its_time_is_over(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """A person has half of the level's time to decide on it. By then scorers may be well."""
    misbehave(project.db, {"fail": [project.value(NEWEST)]})
    allow(timed)
    halted = timed.heal()
    assert "rehearsal: scoring calls" in str(halted.reason)
    assert "no score for this one" in str(halted.reason)
    clock.advance(2 * HOUR_S)
    assert timed.heal().run_id == halted.run_id
    clock.advance(HOUR_S)
    again = timed.heal()
    assert again.is_halted
    assert again.run_id != halted.run_id
    project.db.execute("delete from public.misbehaviour")
    clock.advance(3 * HOUR_S)
    assert timed.heal().is_healed
    assert runs(project) == ["cancelled", "cancelled", "completed"]


def test_a_rule_that_is_newer_than_the_plan_has_its_own(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """The plan that waits is larger than the rule allows. So it would wait for ever."""
    waiting = timed.heal()
    clock.advance(1)
    allow(timed, max_sessions=20)
    healed = timed.heal()
    assert (healed.run_id == waiting.run_id, healed.verdict) == (False, "pass")
    reason = project.value("select reason from public.backfill_runs where state = 'cancelled'")
    assert "was approved since" in reason


def test_failed_sessions_are_told_and_tried_by_the_next_heal(
    project: Project, timed: backfill.Backfill
) -> None:
    """In a run of their own."""
    misbehave(project.db, {"fail": [project.value(UNSEEN)]})
    standing = allow(timed)
    found = timed.heal()
    assert (found.verdict, found.failed, found.is_healed) == ("partial", 1, False)
    project.db.execute("delete from public.misbehaviour")
    again = timed.heal()
    assert (again.is_healed, again.standing) == (True, standing)


def test_sessions_that_always_fail_take_no_place_from_others(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """The newest fails each rehearsal of a run of one. It is left out until a day has passed."""
    poison = project.value(NEWEST)
    misbehave(project.db, {"fail": [poison]})
    allow(timed, max_sessions=1)
    for _ in range(2):
        assert timed.heal().is_halted
        clock.advance(3 * HOUR_S)
    healed = timed.heal()
    assert healed.verdict == "pass"
    assert {"session_id": poison, "reason": LEFT_OUT} in project.value(
        "select plan -> 'excluded' from public.backfill_runs where run_id = %s", healed.run_id
    )
    project.db.execute("delete from public.misbehaviour")
    clock.advance(24 * HOUR_S)
    again = timed.heal()
    assert again.run_id is not None
    assert [s.session_id for s in timed.get(again.run_id).sessions] == [poison]


def test_what_was_undone_is_left_to_a_person(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Until somebody approves it, or a rule that is newer than the undo. Others are scored."""
    standing = allow(timed)
    healed = timed.heal()
    assert healed.run_id is not None
    undone = [s.session_id for s in timed.get(healed.run_id).sessions[:2]]
    timed.rollback(healed.run_id, sessions=undone).confirm(reason="they are wrong")
    halted = timed.heal()
    assert (halted.is_halted, halted.state) == (True, "awaiting_approval")
    assert "2 sessions undone since it was approved" in str(halted.reason)
    [other] = [s.session_id for s in timed.get(healed.run_id).sessions[2:3]]
    project.db.execute("delete from public.profiles where session_id::text = %s", (other,))
    clock.advance(3 * HOUR_S)
    again = timed.heal()
    assert (again.verdict, again.standing) == ("pass", standing)
    assert again.run_id is not None
    assert [s.session_id for s in timed.get(again.run_id).sessions] == [other]
    excluded = project.value(
        "select plan -> 'excluded' from public.backfill_runs where run_id = %s", again.run_id
    )
    assert {left_out["session_id"] for left_out in excluded} == set(undone)
    assert "was approved, so a person decides on it" in excluded[0]["reason"]
    timed.revoke_standing(standing, reason="a newer one")
    clock.advance(1)
    newer = allow(timed)
    clock.advance(3 * HOUR_S)
    last = timed.heal()
    assert (last.is_healed, last.standing) == (True, newer)


def test_two_at_once_share_a_run(project: Project, clock: DatabaseClock) -> None:
    """Whoever comes first opens it, and both score it."""
    with project.connect(clock=clock) as bf:
        allow(bf)
    found: list[backfill.Healed] = []

    def heal() -> None:
        with project.connect(clock=clock) as bf:
            found.append(bf.heal())

    both = [threading.Thread(target=heal) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.is_healed for one in found] == [True, True]
    assert runs(project) == ["completed"]


def test_one_that_died_while_it_planned_is_gone_on_with(
    project: Project, timed: backfill.Backfill
) -> None:
    """By the next heal, with the run that the first had opened."""
    allow(timed)
    timed.watch()
    asked = project.value("select public.backfill_heal_next()")
    project.value(
        "select public.backfill_open(%s, null, %s)", Jsonb(asked["request"]), asked["run_id"]
    )
    assert runs(project) == ["planning"]
    healed = timed.heal()
    assert (healed.run_id, healed.is_healed) == (asked["run_id"], True)


def test_several_targets_need_a_name(project: Project, timed: backfill.Backfill) -> None:
    """As for a plan."""
    with pytest.raises(backfill.BadRequest):
        timed.heal("nothing")


def test_the_command_line_ends_as_the_run_does(project: Project, shell: Shell) -> None:
    """3 if it halts, 1 if sessions failed, 0 if all is there or nothing is missing."""
    halted = shell("heal", "--json")
    assert (halted.code, halted.json["state"], halted.json["verdict"]) == (
        3, "awaiting_approval", None,
    )  # fmt: skip
    told = shell("heal")
    assert told.code == 3
    assert f"run {halted.json['run_id']} is awaiting_approval" in told.out
    assert "Next: " in told.out
    misbehave(project.db, {"fail": [project.value(UNSEEN)]})  # the plan that waits goes stale
    with project.connect() as bf:
        standing = allow(bf)
    failed = shell("heal", "--target", "prism", "--json")
    assert (failed.code, failed.json["verdict"], failed.json["failed"]) == (1, "partial", 1)
    assert failed.json["standing"] == standing
    project.db.execute("delete from public.misbehaviour")
    assert shell("heal").code == 0
    nothing = shell("heal", "--json")
    assert (nothing.code, nothing.json) == (0, NOTHING)
    assert "nothing is missing of prism" in shell("heal").out
    unknown = shell("heal", "--target", "nothing", "--json")
    assert (unknown.code, unknown.json["error"]["code"]) == (2, "OB013")
