"""Whoever holds the secret key may send anything: it is refused with a sentence, or harmless."""

from __future__ import annotations

from typing import Any

import pytest

import backfill
from tests.conftest import Project
from tests.kit.moments import once
from tests.kit.outsider import Outsider, running
from tests.kit.seed import SEED


@once
def completed(project: Project, timed: backfill.Backfill) -> str:
    """The seed's run."""
    plan = timed.plan(**SEED)
    project.approve(plan)
    timed.apply(plan.run_id)
    return plan.run_id


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize("moment", ["-infinity", "infinity", "294276-12-31", "4000-01-01 BC"])
def test_a_date_beyond_the_calendar_is_no_date(project: Project, name: str, moment: str) -> None:
    """Planning would walk from it window by window, and never arrive."""
    request = {**SEED, name: moment}
    answer = Outsider(project).rpc("backfill_open", p_request=request)
    assert answer["code"] == "OB013"
    assert answer["message"] == f"{name} is no date: {moment}"


@pytest.mark.parametrize(
    ("arguments", "sqlstate"),
    [
        ({"p_digest": None, "p_reason": "x"}, "OB019"),
        ({"p_digest": "", "p_reason": "x"}, "OB019"),
        ({"p_digest": "x", "p_reason": None}, "OB013"),
        ({"p_digest": "x", "p_reason": "x", "p_sessions": 0}, "OB013"),
        ({"p_digest": "x", "p_reason": "x", "p_sessions": -1}, "OB013"),
    ],
)
def test_an_undo_that_was_never_previewed_is_not_confirmed(
    project: Project, timed: backfill.Backfill, arguments: dict[str, Any], sqlstate: str
) -> None:
    """Without a digest neither: there is nothing that it could be the digest of."""
    run_id = completed(project, timed)
    answer = Outsider(project).rpc("backfill_confirm_undo", p_run_id=run_id, **arguments)
    assert answer["code"] == sqlstate


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"priority": "618c5ea6"}, "priority is a list of at most 100 ids"),
        ({"priority": [None]}, "priority is a list of at most 100 ids"),
        ({"priority": ["618c5ea6"] * 101}, "priority is a list of at most 100 ids"),
        ({"want": 5}, "want is versions by component"),
        ({"want": {"fc_scores": []}}, "want is versions by component"),
        ({"batch_size": [5]}, "batch_size is a single value"),
        ({"basis": {"a": 1}}, "basis is a single value"),
        ({"environment": "e" * 201}, "environment is a text of at most 200 characters"),
        ({"since": "2025-08-01T00:00:00-2147483648"}, "since is no date"),
        (None, "a request is an object of parameters by name"),
        ([], "a request is an object of parameters by name"),
    ],
)
def test_a_request_of_another_form_is_refused_with_a_sentence(
    project: Project, given: Any, says: str
) -> None:
    """Not with PostgreSQL's own words about JSON; and no run is left."""
    request = {**SEED, **given} if isinstance(given, dict) else given
    answer = Outsider(project).rpc("backfill_open", p_request=request)
    assert (answer["code"], says in answer["message"]) == ("OB013", True), answer
    assert project.value("select count(*) from public.backfill_runs") == 0


@pytest.mark.parametrize(
    "outcomes",
    [
        None, {}, 5, [5], [{}], [{"ordinal": "1"}], [{"ordinal": 1.5}],
        [{"ordinal": 1, "answered": 5}], [{"ordinal": 1, "answered": [{}]}],
        [{"ordinal": 1, "retry_after_s": "soon"}], [{"ordinal": 1, "retry_after_s": 1e300}],
        [{"ordinal": 1, "outcome": "answered"}, {"ordinal": 1, "outcome": "failed"}],
    ],
)  # fmt: skip
def test_outcomes_of_another_form_settle_nothing(project: Project, outcomes: Any) -> None:
    """Nor do two that contradict each other; the batch stays leased and can be settled right."""
    with project.connect() as bf:
        run_id = running(project, bf)
    outsider = Outsider(project)
    attempts = outsider.claim(run_id)
    answer = outsider.rpc(
        "backfill_settle",
        p_run_id=run_id,
        p_claim_id=attempts[0].claim_id,
        p_outcomes=outcomes,
    )
    assert answer["code"] == "OB013", answer
    settled = outsider.settle(*attempts, outcome="released")["settled"]
    assert [s["state"] for s in settled] == ["pending"] * len(attempts)


def test_an_undo_names_so_many_sessions_at_most(project: Project, timed: backfill.Backfill) -> None:
    """Each is looked up; more of them are a range of dates."""
    plan = timed.plan(since="2025-06-01", until="2025-07-31")
    project.approve(plan)
    timed.apply(plan.run_id)
    answer = Outsider(project).rpc(
        "backfill_preview_undo", p_run_id=plan.run_id, p_sessions=["x"] * 1001
    )
    assert answer["code"] == "OB013"


def test_an_empty_list_of_sessions_is_not_the_whole_run(
    project: Project, timed: backfill.Backfill
) -> None:
    """A filter that found nothing must not have everything taken back."""
    plan = timed.plan(since="2025-06-01", until="2025-07-31")
    project.approve(plan)
    timed.apply(plan.run_id)
    with pytest.raises(backfill.BadRequest, match="sessions is empty"):
        timed.rollback(plan.run_id, sessions=[])
    outsider = Outsider(project)
    answer = outsider.rpc("backfill_preview_undo", p_run_id=plan.run_id, p_sessions=[])
    assert (answer["code"], answer["message"]) == ("OB013", "the list of sessions is empty")
    undo = timed.rollback(plan.run_id)
    given: dict[str, Any] = {"p_run_id": plan.run_id, "p_digest": undo.digest, "p_reason": "why"}
    wrong: list[Any] = ["x", {"a": 1}, []]
    scopes: list[Any] = [[1], "x", 1, *({"sessions": said} for said in wrong)]
    for scope in scopes:
        refused = outsider.rpc("backfill_confirm_undo", **given, p_scope=scope)
        assert refused["code"] == "OB013", (scope, refused)
    assert outsider.rpc("backfill_confirm_undo", **given, p_scope={"sessions": None})["deletes"]


NO_DECLARATIONS = [5, "x", [], [1], {"source": 5, "components": 5}, {"components": [[]]}]


@pytest.mark.parametrize("given", NO_DECLARATIONS)
def test_what_is_no_declaration_is_refused(project: Project, given: Any) -> None:
    """With a sentence, or with faults. Nothing of it stays."""
    before = project.rows("select * from public.backfill_targets")
    answer = Outsider(project).rpc("backfill_check_target", p_declaration=given)
    faults = answer if isinstance(answer, list) else [answer]
    assert all(fault["message"] for fault in faults)
    assert faults
    assert project.rows("select * from public.backfill_targets") == before
