"""Standing approvals in Python, on the command line and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.outsider import UNHURRIED
from tests.kit.readme import claim
from tests.test_readme_commands import words_of

WAY = claim("Approve a rule once", "backfill standing new", "executed")
RULE = ("standing", "new", "--until", "2999-12-31", "--max-sessions", "50")


def proposed(bf: backfill.Backfill, **asked: Any) -> backfill.StandingApproval:
    return bf.propose_standing(**{"until": "2999-12-31", "max_sessions": 50, **asked})


def test_a_rule_is_proposed_approved_used_and_revoked(
    project: Project, bf: backfill.Backfill
) -> None:
    """Each verb returns what it is then."""
    rule = proposed(bf, hours="00-24", weekdays="sun-sat", marks=["receipts"], max_calls=100)
    assert (rule.state, rule.why, rule.is_in_force) == (
        "proposed", "nobody has approved it yet", False,
    )  # fmt: skip
    assert (rule.hours, rule.weekdays) == ("00-24", "mon,tue,wed,thu,fri,sat,sun")
    token = project.user("approver", "ada@example.org")
    approved = bf.approve_standing(rule.standing_id[:8], digest=rule.digest, access_token=token)
    assert (approved.state, approved.approved_by, approved.is_in_force) == (
        "approved", "ada@example.org", True,
    )  # fmt: skip
    plan = bf.plan(**UNHURRIED)
    assert plan.approval is not None
    assert (plan.state, plan.approval.via, plan.approval.approver) == (
        "approved", "standing", "ada@example.org",
    )  # fmt: skip
    [used] = bf.standings()
    assert (used.runs, used.sessions, used.today) == (1, 39, 39)
    revoked = bf.revoke_standing(rule.standing_id, reason="enough")
    assert (revoked.state, revoked.revoked_by, revoked.revoked_reason) == (
        "revoked", "service_role", "enough",
    )  # fmt: skip
    assert bf.standing(rule.standing_id) == revoked


def test_a_plan_that_is_covered_is_not_told_as_one_that_awaits(project: Project) -> None:
    """A job that asks people by that event would ask for nothing."""
    heard: list[str] = []
    with project.connect(on_event=lambda event: heard.append(event.kind)) as bf:
        rule = proposed(bf)
        bf.approve_standing(rule.standing_id, digest=rule.digest)
        assert bf.plan(**UNHURRIED).state == "approved"
        bf.revoke_standing(rule.standing_id, reason="enough")
        assert bf.plan(**UNHURRIED).state == "awaiting_approval"
    assert heard == ["awaiting_approval"]


def test_the_verbs_refuse_in_a_sentence(bf: backfill.Backfill) -> None:
    """Before anything is sent, where that can be."""
    with pytest.raises(backfill.BadRequest, match="max_sessions is a whole number, not"):
        proposed(bf, max_sessions="50")
    with pytest.raises(backfill.BadRequest, match="marks is a list of names"):
        proposed(bf, marks="receipts")
    with pytest.raises(backfill.UnknownRun, match="names no standing approval"):
        bf.revoke_standing("00000000", reason="none")
    rule = proposed(bf)
    with pytest.raises(backfill.BadRequest, match="needs a reason"):
        bf.revoke_standing(rule.standing_id, reason="…")
    with pytest.raises(backfill.DigestMismatch):
        bf.approve_standing(rule.standing_id, digest="0" * 64)


def test_the_key_needs_a_person_to_approve(project: Project, bf: backfill.Backfill) -> None:
    """With the line for the SQL editor, as for a plan."""
    rule = proposed(bf)
    project.db.execute(
        "update public.backfill_settings set approval_policy = 'second_person' where only_row"
    )
    with pytest.raises(backfill.ApprovalNeeded) as needed:
        bf.approve_standing(rule.standing_id, digest=rule.digest, approver="Ada")
    line = next(ln for ln in needed.value.next_step.splitlines() if ln.startswith("select"))
    assert project.value(line)["state"] == "approved"


def test_asked_again_a_run_is_approved(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """As once the hours have begun. Until then the status says why not."""
    rule = proposed(timed, hours="22-23")
    timed.approve_standing(rule.standing_id, digest=rule.digest)
    run = timed.plan(**UNHURRIED).run_id
    waiting = timed.ask_standing(run)
    assert waiting.state == "awaiting_approval"
    assert waiting.standing is not None
    assert "it is for 22:00 to 23:00 UTC" in str(waiting.standing["reason"])
    assert "it is for 22:00 to 23:00 UTC" in timed.get(run).markdown()
    clock.advance(14 * 3600)
    assert "covers it now" in timed.get(run).markdown()
    assert timed.ask_standing(run[:8]).approved_via == "standing"


# The command line --------------------------------------------------------------------------------


def test_the_command_line_goes_the_whole_way(project: Project, shell: Shell) -> None:
    """new, approve, plan, list, revoke: each as JSON too."""
    new = shell(*RULE, "--marks", "receipts,responses", "--json").json
    assert (new["state"], new["marks"]) == ("proposed", ["receipts", "responses"])
    approved = shell("approve", new["standing_id"], "--digest", new["digest"], "--json")
    assert (approved.code, approved.json["state"]) == (0, "approved")
    planned = shell("plan", "--since", "2025-08-01", "--json")
    plan = planned.json
    assert (planned.code, plan["state"], plan["approved_via"]) == (0, "approved", "standing")
    assert plan["standing"]["standing_id"] == new["standing_id"]
    assert shell("status", plan["run_id"], "--json").json["approved_via"] == "standing"
    told = shell("status", plan["run_id"]).out
    assert f"approved by standing approval {new['standing_id'][:8]}" in told
    listed = shell("standing", "list", "--json").json
    assert [one["standing_id"] for one in listed] == [new["standing_id"]]
    assert new["standing_id"][:8] in shell("standing", "list").out
    revoking = ("standing", "revoke", new["standing_id"][:8], "--reason", "enough")
    revoked = shell(*revoking, "--json")
    assert (revoked.code, revoked.json["state"]) == (0, "revoked")
    again = shell(*revoking)
    assert (again.code, "is revoked already" in again.err) == (3, True)


def test_the_command_line_says_how_to_approve(project: Project, shell: Shell) -> None:
    """And its refusals are sentences with their exit code."""
    new = shell(*RULE)
    assert new.code == 0
    assert "nobody has approved it yet" in new.out
    assert "select public.backfill_approve(" in new.out
    for words, exit_code, said in (
        (("standing", "new", "--max-sessions", "5"), 2, "a standing approval needs an end"),
        ((*RULE, "--hours", "05-05"), 2, "two different hours"),
        ((*RULE, "--marks", "luck"), 2, "has a mark luck"),
        ((*RULE, "--environment", "production"), 3, "this project is staging"),
        (("standing", "revoke", "12345678", "--reason", "x"), 2, "names no standing approval"),
        (("approve", "12345678", "--digest", "d"), 2, "there is no run 12345678"),
    ):
        ran = shell(*words)
        assert (ran.code, said in " ".join(ran.err.split())) == (exit_code, True), (words, ran)


def test_the_readme_s_lines_go_as_written(project: Project, shell: Shell) -> None:
    """On the sample's target and dates, at any hour."""
    here = {"orders": "prism", "2026-10-01": "2025-08-01", "2026-12-31": "2999-12-31"}
    here["01-05"] = "00-24"
    new, approve, plan, revoke = words_of(WAY)
    told = shell(*[here.get(word, word) for word in new], "--json").json
    here |= {"STANDING": told["standing_id"], "DIGEST": told["digest"]}
    assert shell(*[here.get(word, word) for word in approve]).code == 0
    planned = shell(*[here.get(word, word) for word in plan], "--json").json
    assert (planned["state"], planned["approved_via"]) == ("approved", "standing")
    assert shell(*[here.get(word, word) for word in revoke]).code == 0
    stopped = shell("apply", planned["run_id"])
    assert (stopped.code, "new tax rate" in stopped.err) == (3, True)


def test_the_page_holds_the_text_of_others_safely(
    project: Project, bf: backfill.Backfill, shell: Shell, tmp_path: Path
) -> None:
    """Names and reasons are text there, whatever they say."""
    evil = "<script>alert(1)</script>"
    rule = proposed(bf)
    project.value(
        "select public.backfill_approve(%s, %s, %s, %s)",
        rule.standing_id, rule.digest, f"Ada {evil}", f"note {evil}",
    )  # fmt: skip
    bf.revoke_standing(rule.standing_id, reason=f"[x](javascript:alert(1)) {evil}")
    written = shell("standing", "list", "--html", "standing.html", "--json")
    assert (written.code, written.json) == (0, {"file": "standing.html"})
    page = (tmp_path / "standing.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert 'href="javascript' not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert rule.standing_id in page
