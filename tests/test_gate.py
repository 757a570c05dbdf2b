"""The gate at the write: under a header only a live attempt writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.outsider import Attempt, Outsider, code_of, running
from tests.kit.receipts import receipts


def open_to_everybody(project: Project) -> dict[str, Outsider]:
    """Every API role may write scores, so that nothing but the gate stops it."""
    project.db.execute(
        "grant insert on public.fc_scores to anon, authenticated;"
        "create policy everybody on public.fc_scores for insert to anon, authenticated"
        " with check (true)"
    )
    return {
        "anon": Outsider(project, project.keys.anon),
        "authenticated": Outsider(project, project.user(None)),
        "service_role": Outsider(project),
    }


def expired_lease(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
    clock.advance(61)
    return attempt.headers


def expired_approval(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
    project.db.execute(
        "update public.backfill_runs set approved_until = backfill_private.clock()"
        " where run_id = %s",
        (attempt.run_id,),
    )
    return attempt.headers


def in_state(function: str) -> Callable[[Project, DatabaseClock, Attempt], dict[str, str]]:
    def move(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
        Outsider(project).rpc(function, run=attempt.run_id, reason="forgery")
        return attempt.headers

    return move


def settled(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
    Outsider(project).settle(attempt, outcome="released")
    return attempt.headers


def taken_over(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
    """The same claim asked again hands out new fences."""
    Outsider(project).claim(attempt.run_id, attempt.claim_id)
    return attempt.headers


# what is forged: the headers, and what the gate says to them
FORGED: dict[str, tuple[Callable[[Project, DatabaseClock, Attempt], dict[str, str]], str]] = {
    "an unknown run": (lambda p, c, a: {**a.headers, "x-backfill-run": str(uuid4())}, "OB011"),
    "a run that is no id": (lambda p, c, a: {**a.headers, "x-backfill-run": "'"}, "OB011"),
    "an empty run": (lambda p, c, a: {**a.headers, "x-backfill-run": ""}, "OB011"),
    "the right run with a wrong fence": (
        lambda p, c, a: {**a.headers, "x-backfill-fence": "0" * 64},
        "OB011",
    ),
    "the right run without a fence": (lambda p, c, a: {"x-backfill-run": a.run_id}, "OB011"),
    "the hash in the place of the fence": (
        lambda p, c, a: {
            **a.headers,
            "x-backfill-fence": p.value(
                "select encode(fence_hash, 'hex') from public.backfill_items"
                " where run_id = %s and ordinal = %s",
                a.run_id,
                a.ordinal,
            ),
        },
        "OB011",
    ),
    "a lease that ran out": (expired_lease, "OB011"),
    "a settled attempt": (settled, "OB011"),
    "an attempt that was taken over": (taken_over, "OB011"),
    "a paused run": (in_state("backfill_pause"), "OB012"),
    "a cancelled run": (in_state("backfill_cancel"), "OB012"),
    "an approval that ran out": (expired_approval, "OB012"),
}


@pytest.mark.parametrize("what", FORGED)
def test_no_role_writes_under_forged_headers(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock, what: str
) -> None:
    """Every API role is refused alike, and neither row nor receipt is left."""
    everybody = open_to_everybody(project)
    attempt = Outsider(project).claim(running(project, timed))[0]
    forge, code = FORGED[what]
    headers = forge(project, clock, attempt)
    answers = {
        role: code_of(api.write(attempt.session_id, headers)) for role, api in everybody.items()
    }
    assert answers == dict.fromkeys(everybody, code)
    assert receipts(project) == []
    assert (
        project.value(
            "select count(*) from public.fc_scores where session_id = %s and version = 'v1.2'",
            attempt.session_id,
        )
        == 0
    )


def test_a_live_fence_lets_its_holder_write_whatever_the_role(
    project: Project, timed: backfill.Backfill
) -> None:
    """The refusals of the other tests are the gate's: the right headers open it."""
    everybody = open_to_everybody(project)
    attempts = Outsider(project).claim(running(project, timed))
    for api, attempt in zip(everybody.values(), attempts, strict=False):
        assert api.write(attempt.session_id, attempt.headers).status_code == 201
        assert receipts(project)[-1] == ("insert", attempt.session_id, "fc_scores")


def test_the_fence_of_one_run_opens_no_other(project: Project, timed: backfill.Backfill) -> None:
    """Run and fence belong together, even where both are live."""
    first, second = running(project, timed), running(project, timed)
    api = Outsider(project)
    mine, theirs = api.claim(first)[0], api.claim(second)[0]
    crossed = {"x-backfill-run": mine.run_id, "x-backfill-fence": theirs.fence}
    assert [code_of(api.write(a.session_id, crossed)) for a in (mine, theirs)] == ["OB011"] * 2
    assert receipts(project) == []


def test_the_fence_of_one_session_opens_no_other(
    project: Project, timed: backfill.Backfill
) -> None:
    """An attempt writes its own session alone, by insert, update and delete."""
    api = Outsider(project)
    mine, other = api.claim(running(project, timed))[:2]
    assert code_of(api.write(other.session_id, mine.headers)) == "OB018"
    assert api.score(other)["status"] == "ok"
    row = f"/fc_scores?session_id=eq.{other.session_id}&version=eq.v1.2"
    assert code_of(api.send("PATCH", row, {"blocks_answered": 1}, mine.headers)) == "OB018"
    assert code_of(api.send("DELETE", row, None, mine.headers)) == "OB018"
    moved = {"session_id": mine.session_id}
    assert code_of(api.send("PATCH", row, moved, mine.headers)) == "OB018"
    assert code_of(api.send("PATCH", row, moved, other.headers)) == "OB018"
    assert receipts(project) == [("insert", other.session_id, "fc_scores")]


ORDINARY = {
    "empty": "",
    "an empty object": "{}",
    "null": "null",
    "another header": '{"x-client-info": "x"}',
    "a header whose name goes on": '{"x-backfill-run-of-mine": "1"}',
    "our name in a value": '{"user-agent": "x-backfill-run"}',
    "our name as a text": '"x-backfill-run"',
    "our name in a list": '["x-backfill-run"]',
    "our name deeper": '{"a": {"x-backfill-run": 1}}',
    "no JSON": "x-backfill-run",
    "JSON cut off": '{"x-backfill-run": "',
    "no character of a text": '{"a": "\\u0000", "b": "x-backfill-run"}',
    "a number too large": '{"a": 1e999999, "b": "x-backfill-run"}',
    "nested too deep": "[" * 50_000 + '"x-backfill-run"',
}


@pytest.mark.parametrize("what", ORDINARY)
def test_an_ordinary_write_never_fails_for_us_and_leaves_no_receipt(
    project_db: psycopg.Connection[Any], what: str
) -> None:
    """Whatever stands in request.headers: without our header every statement on a target passes."""
    run = project_db.execute
    run("select set_config('request.headers', %s, false)", (ORDINARY[what],))
    session = run(
        "insert into public.assessment_sessions (status) values ('completed') returning id"
    ).fetchone()
    assert session is not None
    key = {"id": session["id"]}
    run(
        "insert into public.fc_scores (session_id, version, scores_json, blocks_answered)"
        " values (%(id)s, 'v1.2', '{}', 1)",
        key,
    )
    assert (
        run(
            "update public.fc_scores set blocks_answered = 2 where session_id = %(id)s", key
        ).rowcount
        == 1
    )
    assert run("delete from public.fc_scores where session_id = %(id)s", key).rowcount == 1
    run("truncate public.fc_scores, public.profiles")
    left = run("select count(*) as receipts from public.backfill_receipts").fetchone()
    assert left == {"receipts": 0}


def test_a_write_without_request_headers_at_all_is_ordinary(
    project_db: psycopg.Connection[Any],
) -> None:
    """A connection that never heard of the setting writes as it always did."""
    project_db.execute("update public.profiles set type_code = type_code")
    row = project_db.execute("select count(*) as receipts from public.backfill_receipts").fetchone()
    assert row == {"receipts": 0}


def test_the_gate_asks_about_calls_only_if_a_receipt_lacks(
    project_admin: psycopg.Connection[Any],
) -> None:
    """A profile needs FC scores first, and these have a receipt: there is nothing else to ask."""
    project_admin.row_factory = dict_row
    run_id = verbs.started(project_admin, throttle_per_minute="none")
    grant = verbs.claim(project_admin, run_id)["granted"][0]
    assert [step["component"] for step in grant["steps"]] == ["fc_scores", "profile"]
    with project_admin.transaction():
        project_admin.execute("set local track_functions = 'all'")
        for step in grant["steps"]:
            verbs.score(project_admin, run_id, grant["fence"], step)
        called = "select pg_stat_get_xact_function_calls(%s::regprocedure) as times"
        times = [
            project_admin.execute(called, (f"backfill_private.{function}",)).fetchone()
            for function in ("keep_receipt()", "calls_of(text, jsonb)")
        ]
    assert times == [{"times": 2}, {"times": None}]
