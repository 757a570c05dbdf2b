"""What cannot be meant is refused with a sentence before it is sent."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from inspect import signature
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

import backfill
from backfill.cli.plan import plan as planned_by_command
from backfill.client import AsyncBackfill
from backfill.request import (
    DERIVED,
    PARAMETERS,
    Request,
    as_text,
    checked_ids,
    checked_number,
    checked_text,
    checked_throttle,
    checked_values,
    checked_versions,
)
from tests.conftest import Project
from tests.kit import verbs

NO_PROJECT = ("http://127.0.0.1:9", "sb_secret_x")
WRONG = [
    ({"since": 5}, "since is a date, not the int '5'"),
    ({"until": True}, "until is a date, not the bool 'True'"),
    (
        {"throttle_per_minute": "20"},
        "throttle_per_minute is a whole number or \"none\", not the str '20'",
    ),
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
    asked = Request(since=date(2025, 8, 1), until=None, priority="abc", want=None)
    assert asked.given() == {"since": "2025-08-01", "priority": ["abc"]}


LIKE = {"since": "2025-08-01", "throttle_per_minute": None, "parameters": {"basis": "x", "a": 1}}


@pytest.mark.parametrize(
    ("asked", "like", "sent"),
    [
        (Request(), {}, {"throttle_per_minute": 20, "parameters": {}}),
        (
            Request(throttle_per_minute="none"),
            {},
            {"throttle_per_minute": "none", "parameters": {}},
        ),
        (Request(like="4f2c"), LIKE, LIKE),
        (Request(like="4f2c", throttle_per_minute=7), LIKE, LIKE | {"throttle_per_minute": 7}),
        (
            Request(since="2025-09-01", parameters={"a": 2}),
            LIKE,
            LIKE | {"since": "2025-09-01", "parameters": {"basis": "x", "a": 2}},
        ),
    ],
)
def test_what_is_given_goes_before_what_is_taken_over_and_that_before_defaults(
    asked: Request, like: dict[str, Any], sent: dict[str, Any]
) -> None:
    """Whose run it is like is the client's to know."""
    assert asked.sent(like) == sent


def test_a_throttle_of_none_is_given_too() -> None:
    """A plan that is resumed takes nothing else. None is not given, as for any other parameter."""
    assert Request(throttle_per_minute=None).given() == {}
    assert Request(throttle_per_minute="none").given() == {"throttle_per_minute": "none"}
    with (
        backfill.connect(*NO_PROJECT) as bf,
        pytest.raises(backfill.BadRequest, match="throttle_per_minute is not taken"),
    ):
        bf.plan(resume="4f2c", throttle_per_minute="none")


CHECKS = {
    "moment": as_text,
    "number": checked_number,
    "text": checked_text,
    "ids": checked_ids,
    "versions": checked_versions,
    "values": checked_values,
}
LISTED = """
select name, kind, usual, is_digested, is_kept
from backfill_private.request_parameters
"""


def test_the_parameters_are_the_same_in_sql_and_python(project_db: psycopg.Connection[Any]) -> None:
    """Names, kinds, what a plan like another takes over; no default in both places."""
    rows = {row["name"]: row for row in project_db.execute(LISTED)}
    derived = {name for name, row in rows.items() if row["kind"] == "derived"}
    own = {name: p for name, p in PARAMETERS.items() if p.of == "request"}
    assert derived == {*DERIVED}
    checks = {n: CHECKS[rows[n]["kind"]] for n in rows.keys() - derived}
    checks["throttle_per_minute"] = checked_throttle  # which has a word for none
    assert {n: (check, rows[n]["is_kept"]) for n, check in checks.items()} == {
        n: (p.check, p.is_kept) for n, p in own.items()
    }
    assert not [n for n, p in own.items() if p.default is not None and rows[n]["usual"] is not None]


def test_the_named_parameters_of_a_target_are_those_of_prism(
    project_db: psycopg.Connection[Any],
) -> None:
    """Other targets' are given under `parameters`."""
    rows = project_db.execute(
        "select jsonb_object_keys(defaults) as name from backfill_private.sources"
        " union select version_parameter from public.backfill_targets"
    )
    ours = {name for name, p in PARAMETERS.items() if p.of == "target"}
    assert {row["name"] for row in rows} == ours


def test_a_plan_takes_every_parameter(project: Project, bf: backfill.Backfill) -> None:
    """In the library; but two of them by name on the command line; and what is listed is kept."""
    taken = signature(AsyncBackfill.plan).parameters.keys() - {"self"}
    assert taken == PARAMETERS.keys()
    options = signature(planned_by_command).parameters.keys() - {
        "ctx",
        "strict",
        "notify",
        "as_json",
    }
    assert options | {"min_responses", "min_fc_responses"} == {
        n.replace("throttle_per_minute", "throttle") for n in taken
    }
    target = {name for name, p in PARAMETERS.items() if p.of == "target"}
    digested = {row["name"] for row in project.db.execute(LISTED) if row["is_digested"]}
    assert bf.plan(since="2025-08-01").request.keys() == digested | target


OUT_OF_BOUNDS: list[tuple[dict[str, Any], str]] = [
    ({"throttle_per_minute": 0}, "throttle_per_minute is a whole number from 1 to 999999999, not"),
    ({"batch_size": 0}, "batch_size is a whole number from 1 to 1000, not 0"),
    ({"rehearse": -1}, "rehearse is a whole number from 0 to 999999999, not -1"),
    ({"min_responses": -1}, "min_responses is a whole number from 0 to 999999999, not -1"),
    ({"priority": ["a"] * 101}, "priority is a list of at most 100 ids"),
    ({"ids": ["a"] * 1001}, "ids is a list of at most 1000 ids"),
    ({"limit": 0}, "limit is a whole number from 1 to 999999999, not 0"),
]


def test_what_is_out_of_bounds_is_refused(project_db: psycopg.Connection[Any]) -> None:
    """The bounds stand in the list of the parameters; a target's numbers start from 0."""
    for asked, sentence in OUT_OF_BOUNDS:
        with pytest.raises(psycopg.errors.Error, match=sentence):
            verbs.call(project_db, "backfill_open", p_request=Jsonb(verbs.REQUEST | asked))
