"""Whoever holds the secret key may send anything: it is refused with a sentence, or harmless."""

from __future__ import annotations

from typing import Any

import pytest

import backfill
from tests.conftest import Project
from tests.outsider import Outsider
from tests.seed import SEED


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
    plan = timed.plan(**SEED)
    project.approve(plan)
    timed.apply(plan.run_id)
    answer = Outsider(project).rpc("backfill_confirm_undo", p_run_id=plan.run_id, **arguments)
    assert answer["code"] == sqlstate
