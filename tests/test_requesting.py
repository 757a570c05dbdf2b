"""What cannot be meant is refused with a sentence before it is sent."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

import backfill
from backfill.requesting import as_text, checked_request
from tests.conftest import Project

NO_PROJECT = ("http://127.0.0.1:9", "sb_secret_x")
WRONG = [
    ({"since": 5}, "since is a date, not the int '5'"),
    ({"until": True}, "until is a date, not the bool 'True'"),
    ({"throttle_per_minute": "20"}, "throttle_per_minute is a whole number, not the str '20'"),
    ({"batch_size": True}, "batch_size is a whole number, not the bool 'True'"),
    ({"batch_size": 5.0}, "batch_size is a whole number, not the float '5.0'"),
    ({"min_responses": "many"}, "min_responses is a whole number, not the str 'many'"),
    ({"engine_version": 1.2}, "engine_version is a text, not the float '1.2'"),
    ({"like": 4}, "like is a text, not the int '4'"),
    ({"priority": 4}, "priority is a list of ids, not of the int '4'"),
    ({"priority": ["a", 4]}, "priority is a list of ids, not of the int '4'"),
    ({"want": "fc_scores=v1"}, "want is a version by component, not the str 'fc_scores=v1'"),
    ({"want": {"fc_scores": ""}}, "the wanted version of fc_scores is empty"),
    ({"environment": " "}, "environment is empty"),
]


@pytest.mark.parametrize(("asked", "sentence"), WRONG)
def test_a_plan_with_a_wrong_type_is_a_bad_request(asked: dict[str, Any], sentence: str) -> None:
    """Nothing is sent: nobody answers at this address."""
    with (
        backfill.connect(*NO_PROJECT) as bf,
        pytest.raises(backfill.BadRequest) as refused,
    ):
        bf.plan(**{"since": "2025-08-01", **asked})
    assert refused.value.message == sentence
    assert refused.value.next_step


def test_other_verbs_look_at_their_types_too() -> None:
    """A scope, a number of calls at a time, a first day."""
    anything: Any = 7
    with backfill.connect(*NO_PROJECT) as bf:
        for verb in (
            lambda: bf.rollback("1", sessions=anything),
            lambda: bf.rollback("1", since=anything),
            lambda: bf.confirm_rollback("1", digest="", reason="", until=anything),
            lambda: bf.missing(since=anything),
            lambda: bf.apply("1", concurrency=0),
        ):
            with pytest.raises(backfill.BadRequest):
                verb()


def test_a_moment_without_an_offset_is_in_utc() -> None:
    """As the days are, whatever zone this machine is in; one with an offset is taken as it is."""
    east = timezone(timedelta(hours=2))
    assert as_text("since", datetime(2025, 8, 1, 10)) == "2025-08-01T10:00:00+00:00"  # noqa: DTZ001 - the claim
    assert as_text("since", "2025-08-01 10:00") == "2025-08-01T10:00:00+00:00"
    assert as_text("since", datetime(2025, 8, 1, 10, tzinfo=east)) == "2025-08-01T10:00:00+02:00"
    assert as_text("since", date(2025, 8, 1)) == "2025-08-01"


def test_what_was_not_given_is_not_sent() -> None:
    """One id alone is no list of letters."""
    given = {"since": date(2025, 8, 1), "until": None, "priority": "abc", "want": None}
    assert checked_request(given) == {"since": "2025-08-01", "priority": ["abc"]}


def test_want_takes_the_place_of_the_version_of_the_run_it_is_like(
    bf: backfill.Backfill, project: Project
) -> None:
    """The other run's version is no second wish."""
    first = bf.plan(since="2025-08-01", fc_version="v1.3", engine_version="v1.2.1")
    like = bf.plan(like=first.run_id, want={"fc_scores": "v1.4"})
    assert like.request["fc_version"] == "v1.4"
    assert like.request["engine_version"] == "v1.2.1"


def test_a_kind_that_no_row_has_is_a_warning_of_the_plan(
    bf: backfill.Backfill, project: Project
) -> None:
    """Perhaps it is new, perhaps misspelt: who approves sees it. The default needs no mark."""
    marks = {c.name: c for c in bf.plan(since="2025-08-01", basis="function").checks}
    assert marks["basis"].status == "warn"
    assert "no row of fc_scores has fc_kind function" in marks["basis"].detail
    assert "basis" not in {c.name for c in bf.plan(since="2025-08-01").checks}
    project.db.execute("update public.fc_scores set fc_kind = 'function'")
    marks = {c.name: c for c in bf.plan(since="2025-08-01", basis="function").checks}
    assert marks["basis"].status == "ok"
