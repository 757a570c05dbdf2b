"""Standing approval: a person approves a rule, and the database approves the runs it covers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import TEST_CLOCK, DatabaseClock
from tests.kit.outsider import UNHURRIED, Outsider
from tests.kit.songs import UNKEYED, as_owner, declare, opened, songs, songs_db
from tests.test_preconditions import Db

__all__ = ["songs", "songs_db"]  # fixtures of another module

UNTIL = "2025-10-31"


def rule(project: Project, *, is_approved: bool = True, **asked: Any) -> dict[str, Any]:
    """Propose a standing approval in the SQL editor, and approve it. Returns what it is then."""
    asked = {"until": UNTIL, "max_sessions": 100, **asked}
    named = ", ".join(f"{name} => %s" for name in asked)
    told: dict[str, Any] = project.value(
        f"select public.backfill_propose_standing({named})", *asked.values()
    )
    if is_approved:
        told = project.value(
            "select public.backfill_approve(%s, %s, 'Ada')", told["standing_id"], told["digest"]
        )
    return told


def planned(api: Outsider, **request: Any) -> dict[str, Any]:
    """Plan through the API. Returns what sealing answered."""
    run = api.rpc("backfill_open", p_request={**UNHURRIED, **request})
    assert isinstance(run, str), run
    while api.rpc("backfill_collect", p_run_id=run) is not True:
        pass
    sealed: dict[str, Any] = api.rpc("backfill_seal", p_run_id=run)
    return sealed


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def set_clock(project: Project, at: str) -> None:
    project.db.execute("update public.test_clock set now_at = %s", (at,))


def test_a_run_that_a_rule_covers_is_approved_by_it(project: Project, clock: DatabaseClock) -> None:
    """With the person who approved the rule, and until the rule ends at most."""
    told = rule(project, until="2025-09-18", throttle=60)
    assert (told["state"], told["why"], told["approved_by"]) == ("approved", None, "Ada")
    sealed = planned(Outsider(project), throttle_per_minute=60)
    assert (sealed["state"], sealed["approved_via"], sealed["approved_by"]) == (
        "approved", "standing", "Ada",
    )  # fmt: skip
    assert moment(sealed["approved_until"]) == moment("2025-09-19T00:00:00+00:00")
    assert sealed["standing"] == {
        "standing_id": told["standing_id"], "covers": True, "reason": None,
    }  # fmt: skip


# What is covered ----------------------------------------------------------------------------------

WAITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "more sessions": ({"max_sessions": 38}, {}, "the run has 39 sessions, it allows 38"),
    "more calls": ({"max_calls": 10}, {}, "calls, it allows 10"),
    "a higher throttle": (
        {"throttle": 20}, {"throttle_per_minute": 21}, "the run starts 21 per minute, it allows 20",
    ),
    "no throttle": ({"throttle": 20}, {}, "the run starts any number per minute, it allows 20"),
    "more than are left of the day": (
        {"max_per_day": 38}, {}, "the run has 39 sessions, 38 of its 38 per day are left",
    ),
    "another version": ({}, {"engine_version": "v9"}, "the run asks for its own engine_version"),
    "another parameter": (
        {}, {"parameters": {"min_responses": 2}}, "the run asks for its own min_responses",
    ),
    "a mark that is not ok": ({"marks": ["approval policy"]}, {}, "approval policy is warn"),
    "not every mark ok": ({"marks": ["all"]}, {}, "approval policy is warn"),
    "a mark that this plan has not": (
        {"marks": ["rehearsal: undo"]}, {}, "the plan has no mark rehearsal: undo",
    ),
    "outside the hours": ({"hours": "01-05"}, {}, "it is for 01:00 to 05:00 UTC, and it is 08:00"),
    "outside the hours of a night": ({"hours": "22-08"}, {}, "it is for 22:00 to 08:00 UTC"),
    "another weekday": ({"weekdays": "thu-tue"}, {}, "it is for Mon, Tue, Thu, Fri, Sat, Sun, and"),
}  # fmt: skip


@pytest.mark.parametrize("what", WAITS)
def test_what_a_rule_does_not_cover_waits_for_a_person(
    project: Project, clock: DatabaseClock, what: str
) -> None:
    """And the reason is told: by sealing, and where the run stands."""
    asked, request, why = WAITS[what]
    rule(project, **asked)
    sealed = planned(Outsider(project), **request)
    assert sealed["state"] == "awaiting_approval"
    assert sealed["approved_via"] is None
    assert why in sealed["standing"]["reason"]
    shown = project.rows("select standing, approved_via from public.backfill_run_progress")
    assert shown == [{"standing": sealed["standing"], "approved_via": None}]
    assert project.value("select count(*) from public.backfill_approvals") == 0


COVERED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "exactly as many sessions": ({"max_sessions": 39, "max_per_day": 39}, {}),
    "exactly this throttle": ({"throttle": 20}, {"throttle_per_minute": 20}),
    "the declared versions by name": ({}, {"engine_version": "v1.2.1", "fc_version": "v1.2"}),
    "within the hours": ({"hours": "8-9"}, {}),
    "within the hours of a night": ({"hours": "22:00-09:00"}, {}),
    "from midnight to midnight": ({"hours": "00-24"}, {}),
    "on its weekday": ({"weekdays": "Wed"}, {}),
    "over the week's end": ({"weekdays": "sat-mon, wed"}, {}),
    "marks that are ok": ({"marks": ["receipts", "responses", "rows of assessment_sessions"]}, {}),
    "its environment by name": ({"environment": "Staging"}, {}),
}


@pytest.mark.parametrize("what", COVERED)
def test_what_a_rule_covers_to_its_bounds(
    project: Project, clock: DatabaseClock, what: str
) -> None:
    """A bound includes itself."""
    asked, request = COVERED[what]
    rule(project, **asked)
    assert planned(Outsider(project), **request)["state"] == "approved"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no end": ({"until": None}, "a standing approval needs an end"),
    "an empty end": ({"until": " "}, "a standing approval needs an end"),
    "an end without end": ({"until": "infinity"}, "until is no date: infinity"),
    "an end that is none": ({"until": "soon"}, "until is no date: soon"),
    "an end that is over": ({"until": "2025-09-16"}, "until 2025-09-16 is over"),
    "no sessions": ({"max_sessions": None}, "takes 1 to 1000000 sessions, not null"),
    "no session": ({"max_sessions": 0}, "takes 1 to 1000000 sessions, not 0"),
    "a day of none": ({"max_per_day": 0}, "a day of standing approval takes 1 to"),
    "calls below one": ({"max_calls": -1}, "a run by standing approval takes 1 to 1000000 calls"),
    "a throttle of none": ({"throttle": 0}, "the throttle of a standing approval takes 1 to"),
    "more than the project allows": (
        {"max_sessions": 501},
        "max_sessions 501 is above the 500 per plan that this project allows",
    ),
    "a throttle above the project's": (
        {"throttle": 601},
        "throttle 601 is above the 600 per minute that this project allows",
    ),
    "a mark that no plan has": ({"marks": ["luck"]}, "no plan of prism has a mark luck"),
    "a mark that is empty": ({"marks": [""]}, "no plan of prism has a mark "),
    "hours that are none": ({"hours": "25-26"}, "not 25-26"),
    "hours of no length": ({"hours": "05-05"}, "two different hours of the day"),
    "hours in words": ({"hours": "at night"}, "not at night"),
    "empty hours": ({"hours": ""}, "hours are two different hours"),
    "weekdays that are none": ({"weekdays": "mon-funday"}, "not mon-funday"),
    "empty weekdays": ({"weekdays": ""}, "weekdays are names such as mon-fri"),
    "a target that is not there": ({"target": "songs"}, "no target is named songs"),
    "another environment": ({"environment": "production"}, "this project is staging"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_rule_that_makes_no_sense_is_refused_in_a_sentence(
    shared_project: Project, nothing_changes: None, what: str
) -> None:
    """And leaves nothing behind."""
    asked, why = BAD[what]
    bounds = "update public.backfill_settings set max_sessions = 500, max_throttle_per_minute = 600"
    with shared_project.db.transaction(force_rollback=True):
        shared_project.db.execute(f"{bounds} where only_row".encode())
        shared_project.db.execute(TEST_CLOCK)
        with pytest.raises(psycopg.Error) as refused:
            rule(shared_project, **asked)
    assert refused.value.sqlstate in {"OB013", "OB008"}
    assert why in str(refused.value)


def test_of_overlapping_rules_the_narrowest_counts(project: Project, clock: DatabaseClock) -> None:
    """What it does not cover waits, though a wider one would. Each says that the other is there."""
    wide = rule(project, max_sessions=100)
    narrow = rule(project, max_sessions=30)
    assert narrow["overlaps"] == [wide["standing_id"]]
    sealed = planned(Outsider(project))
    assert sealed["state"] == "awaiting_approval"
    assert sealed["standing"]["standing_id"] == narrow["standing_id"]
    assert (
        "the narrowest of 2: the run has 39 sessions, it allows 30"
        in (sealed["standing"]["reason"])
    )
    few = planned(Outsider(project), until="2025-08-10")
    assert few["standing"]["standing_id"] == narrow["standing_id"]
    assert few["state"] == "approved"
    revoke(project, narrow)
    asked = Outsider(project).rpc("backfill_ask_standing", run=sealed["run_id"])
    assert (asked["state"], asked["standing"]["standing_id"]) == ("approved", wide["standing_id"])


def revoke(project: Project, told: dict[str, Any], reason: str = "no longer needed") -> Any:
    return project.value(
        "select public.backfill_revoke_standing(%s, %s)", told["standing_id"], reason
    )


# Days, hours, ends --------------------------------------------------------------------------------


def test_a_days_sessions_count_over_all_runs_and_start_anew_the_next_day(
    project: Project, clock: DatabaseClock
) -> None:
    """By UTC days, whichever rule of the target approved them."""
    rule(project, max_per_day=40)
    api = Outsider(project)
    first = planned(api, since="2025-09-01")
    assert first["state"] == "approved"
    used = project.value("select count(*) from public.backfill_items")
    second = planned(api)
    assert f"{40 - used} of its 40 per day are left" in second["standing"]["reason"]
    set_clock(project, "2025-09-17T23:59:59Z")
    assert api.rpc("backfill_ask_standing", run=second["run_id"])["state"] == "awaiting_approval"
    set_clock(project, "2025-09-18T00:00:00Z")
    assert api.rpc("backfill_ask_standing", run=second["run_id"])["state"] == "approved"


def test_a_run_that_waits_is_approved_once_the_hours_begin(
    project: Project, clock: DatabaseClock
) -> None:
    """Asked again, not planned again. The hours' last moment is not among them."""
    rule(project, hours="22-04")
    api = Outsider(project)
    run = planned(api)["run_id"]
    for at, state in (
        ("2025-09-17T21:59:59Z", "awaiting_approval"),
        ("2025-09-18T04:00:00Z", "awaiting_approval"),
        ("2025-09-18T22:00:00Z", "approved"),
    ):
        set_clock(project, at)
        assert api.rpc("backfill_ask_standing", run=run)["state"] == state


def test_a_clock_that_was_set_back_approves_nothing(project: Project, clock: DatabaseClock) -> None:
    """Or yesterday's sessions could be had again."""
    rule(project, max_per_day=39)
    api = Outsider(project)
    assert planned(api)["state"] == "approved"
    set_clock(project, "2025-09-16T08:00:00Z")
    sealed = planned(api)
    assert sealed["state"] == "awaiting_approval"
    assert "the clock was set back" in sealed["standing"]["reason"]


CHANGES = {
    "a scoring function": (
        "alter function public.score_prism(uuid, text) cost 7",
        "what it was approved for has changed: public.score_prism(uuid,text)",
    ),
    "the target": (
        "update public.backfill_targets set version = 'v2' where component = 'profile'",
        "what it was approved for has changed: backfill_targets",
    ),
    "what selects its rows": (
        "update backfill_private.sources set filters = '[]'",
        "what it was approved for has changed: source",
    ),
    "the environment": (
        "update public.backfill_settings set environment = 'production' where only_row",
        "it is for staging, and this project is production",
    ),
    "the policy": (
        "update public.backfill_settings set approval_policy = 'postgres_only' where only_row;"
        "alter table public.backfill_standing disable trigger all;"
        "update public.backfill_standing set approved_via = 'auth';"
        "alter table public.backfill_standing enable trigger all",
        "it was approved by auth, which the policy postgres_only does not take",
    ),
    "the rule itself": (
        "alter table public.backfill_standing disable trigger all;"
        "update public.backfill_standing set max_sessions = 1000;"
        "alter table public.backfill_standing enable trigger all",
        "its rule is not the one that was proposed",
    ),
    "the server": (
        "alter table public.backfill_standing disable trigger all;"
        "update public.backfill_standing set server = 'elsewhere';"
        "alter table public.backfill_standing enable trigger all",
        "it is for another server and database",
    ),
    "the settings' row": ("delete from public.backfill_settings", "backfill_settings is gone"),
    "its end": (
        "update public.test_clock set now_at = '2025-11-01T00:00:00Z'",
        "it ended at 2025-11-01 00:00 UTC",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_rule_ends_when_what_it_was_approved_for_changes(
    project: Project, clock: DatabaseClock, what: str
) -> None:
    """A run that waited is not approved by it, and is told so."""
    told = rule(project, hours="09-24")
    api = Outsider(project)
    run = planned(api)["run_id"]
    clock.advance(3600)
    change, why = CHANGES[what]
    project.admin.execute(change.encode())
    asked = api.rpc("backfill_ask_standing", run=run)
    assert asked["state"] == "awaiting_approval", asked
    assert why in asked["standing"]["reason"]
    [listed] = api.rpc("backfill_standings")
    assert why in listed["why"]
    assert listed["standing_id"] == told["standing_id"]


def test_a_target_that_is_gone_ends_its_rules(project: Project, clock: DatabaseClock) -> None:
    """It stands in the list with that reason."""
    rule(project)
    project.admin.execute(
        b"delete from public.backfill_targets; delete from backfill_private.sources"
    )
    [listed] = Outsider(project).rpc("backfill_standings")
    assert (listed["state"], listed["why"]) == ("ended", "target prism is not installed any more")


@pytest.mark.parametrize("replace", [False, True])
def test_rows_are_replaced_only_if_the_rule_says_so(songs: Db, replace: bool) -> None:
    """A row of another version in the place of the wanted one would be."""
    songs.execute(f"{UNKEYED} alter table public.covers add primary key (song_id)".encode())
    declare(songs, 'key = ["song_id", "ink", "size"]', 'key = ["song_id"]')
    songs.execute("insert into public.covers values (1, 'red'), (2, 'red')")
    proposed = verbs.call(
        songs,
        "backfill_propose_standing",
        until="9999-12-31",
        max_sessions=3,
        replace=replace,
        environment="test",
    )
    as_owner(songs)
    approving = "select public.backfill_approve(%s, %s, 'Ada')"
    songs.execute(approving, (proposed["standing_id"], proposed["digest"]))
    run_id = opened(songs)
    while not verbs.call(songs, "backfill_collect", p_run_id=run_id):
        pass
    sealed = verbs.call(songs, "backfill_seal", p_run_id=run_id)
    assert sealed["state"] == ("approved" if replace else "awaiting_approval")
    if not replace:
        assert sealed["standing"]["reason"].endswith(
            "the run replaces rows of 2 sessions, it allows new rows only"
        )


# The run that it allowed --------------------------------------------------------------------------


def test_a_run_by_standing_approval_is_applied_verified_and_undone_as_ever(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Under the same gate: receipts for all, each use in the chain, an undo of all of it."""
    told = rule(project, throttle=60)
    plan = timed.plan(**{**UNHURRIED, "throttle_per_minute": 60})
    assert plan.state == "approved"
    assert f"(by standing approval {told['standing_id'][:8]})" in plan.markdown()
    assert plan.as_dict()["approved_via"] == "standing"
    outcome = timed.apply(plan.run_id)
    assert outcome.is_complete
    assert (outcome.status.approved_via, outcome.status.approved_by) == ("standing", "Ada")
    assert timed.verify(plan.run_id).verdict == "pass"
    [event] = project.rows("select details from public.backfill_events where kind = 'approved'")
    assert event["details"]["standing"] == told["standing_id"]
    assert event["details"]["standing_digest"] == told["digest"]
    undone = timed.rollback(plan.run_id).confirm(reason="to see")
    assert not undone.conflicts
    assert timed.status(plan.run_id).state == "rolled_back"


def test_no_rule_covers_what_was_undone_since_it_was_approved(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """One session of many is enough. A rule that is newer than the undo covers it."""
    older = rule(project)
    first = timed.plan(**UNHURRIED)
    timed.apply(first.run_id)
    some = [first.sessions[0].session_id]
    timed.rollback(first.run_id, sessions=some).confirm(reason="it is wrong")
    waits = timed.plan(**UNHURRIED)
    assert waits.state == "awaiting_approval"
    assert "1 session undone since it was approved" in str(waits.standing)
    timed.revoke_standing(older["standing_id"], reason="a newer one comes")
    clock.advance(1)
    rule(project)
    assert timed.ask_standing(waits.run_id).state == "approved"


@pytest.mark.parametrize("mode", ["direct", "bulk"])
def test_a_revoked_rule_stops_its_runs_at_once(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock, mode: str
) -> None:
    """No session starts any more, and no resume passes it."""
    told = rule(project)
    plan = timed.plan(**{**UNHURRIED, "throttle_per_minute": 10, "mode": mode, "batch_size": 5})
    seen: list[str] = []

    def stop(event: backfill.Event) -> None:
        if event.kind in ("batch_settled", "bulk_settled") and not seen:
            seen.append(event.kind)
            revoke(project, told, "the scorers are wrong")

    with pytest.raises(backfill.Paused) as paused:
        timed.apply(plan.run_id, on_event=stop)
    assert "was revoked by postgres:postgres: the scorers are wrong" in str(paused.value)
    assert timed.status(plan.run_id).counts["done"] == 5
    with pytest.raises(backfill.PlanChanged, match="was revoked"):
        timed.resume(plan.run_id)
    assert timed.verify(plan.run_id).as_dict()["buckets"]["as_planned"]


def test_a_rule_that_is_revoked_before_its_run_starts_lets_nothing_start(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """The run is approved and scores nothing."""
    told = rule(project)
    plan = timed.plan(**UNHURRIED)
    revoke(project, told)
    with pytest.raises(backfill.Paused):
        timed.apply(plan.run_id)
    assert project.value("select count(*) from public.backfill_receipts") == 0


@pytest.mark.parametrize("mode", ["direct", "bulk"])
def test_outside_its_hours_a_run_waits_and_goes_on_by_itself(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock, mode: str
) -> None:
    """Nobody resumes it: the wait ends with the next night."""
    rule(project, hours="08-09")
    plan = timed.plan(**{**UNHURRIED, "throttle_per_minute": 20, "mode": mode})
    set_clock(project, "2025-09-17T08:59:00Z")
    waited: list[backfill.Event] = []

    def hear(event: backfill.Event) -> None:
        if event.kind == "waiting" and event.details["wait_for"] == "hours":
            waited.append(event)
            if len(waited) > 1:
                return
            shown = project.value("select waits_for from public.backfill_run_progress")
            assert shown.startswith("hours: until 2025-09-18 08:00 UTC"), shown
            set_clock(project, "2025-09-18T07:59:58Z")  # it looks again every five seconds

    assert timed.apply(plan.run_id, on_event=hear).is_complete
    assert waited[0].details["why"].endswith("is for 08:00 to 09:00 UTC")
    starts = project.rows(
        "select distinct extract(hour from at at time zone 'UTC') as hour"
        " from public.backfill_events where kind in ('batch_granted', 'batch_settled')"
    )
    assert starts == [{"hour": 8}]


def test_no_session_starts_after_the_rule_has_ended(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Its end bounds the approval, whatever the project's approvals last."""
    rule(project, until="2025-09-17T09:00:00Z")
    plan = timed.plan(**UNHURRIED)
    clock.advance(3601)
    with pytest.raises(backfill.ApprovalExpired):
        timed.apply(plan.run_id)
    assert timed.status(plan.run_id).state == "expired"


FORGED = {
    "the decision's rule": (
        "update public.backfill_approvals set standing_id = null",
        "the standing approval that it tells is not the one of the decision",
    ),
    "the decision's approver": (
        "update public.backfill_approvals set approver = 'Eve'",
        "the standing approval is not the one by which the run was allowed",
    ),
    "the rule's approver": (
        "update public.backfill_standing set approved_by = 'Eve'",
        "the standing approval is not the one by which the run was allowed",
    ),
    "the rule": (
        "update public.backfill_standing set max_sessions = 1000",
        "the standing approval is not the one by which the run was allowed",
    ),
    "the rule and its digest": (
        "update public.backfill_standing set max_sessions = 1000;"
        "update public.backfill_standing as s set digest = backfill_private.standing_digest(s)",
        "the standing approval is not the one by which the run was allowed",
    ),
    "when it was revoked": (
        "update public.backfill_standing set revoked_at = approved_at - interval '1 day',"
        " revoked_by = 'Eve', revoked_reason = 'none'",
        "the standing approval did not hold when the run was allowed",
    ),
    "how the run was approved": (
        "update public.backfill_runs set approved_via = 'sql'",
        "the run says another way of its approval",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_a_superuser_does_to_a_use_shows(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock, what: str
) -> None:
    """Verify holds the rule, the decision and the chain against each other."""
    rule(project)
    plan = timed.plan(**{**UNHURRIED, "until": "2025-08-05"})
    timed.apply(plan.run_id)
    assert timed.verify(plan.run_id).verdict == "pass"
    change, fault = FORGED[what]
    project.admin.execute(f"set session_replication_role = replica; {change}".encode())
    found = timed.verify(plan.run_id)
    assert found.verdict == "fail"
    assert any(fault in critical for critical in found.critical), found.critical


def test_sealing_that_is_repeated_after_a_lost_answer_has_the_same_answer(
    project: Project, clock: DatabaseClock
) -> None:
    """The day's sessions are taken once."""
    rule(project)
    api = Outsider(project)
    sealed = planned(api)
    assert api.rpc("backfill_seal", p_run_id=sealed["run_id"]) == sealed
    assert api.rpc("backfill_ask_standing", run=sealed["run_id"]) == sealed
    assert project.value("select sessions from backfill_private.standing_days") == 39


def test_without_any_rule_nothing_is_said(project: Project, bf: backfill.Backfill) -> None:
    """A project that never heard of it sees no difference."""
    plan = bf.plan(**UNHURRIED)
    assert (plan.state, plan.standing, bf.status(plan.run_id).standing) == (
        "awaiting_approval", None, None,
    )  # fmt: skip
