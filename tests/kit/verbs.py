"""The RPC surface through SQL: one transaction per call, with PostgREST's role and claims."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from backfill.targets.sql import name_of
from tests.kit.clocks import DatabaseClock
from tests.kit.moments import once

CLAIMS = json.dumps({"role": "service_role"})
REQUEST: dict[str, Any] = {
    "since": "2025-08-01",
    "engine_version": "v1.2.1",
    "fc_version": "v1.2",
    "environment": "staging",
}


@contextmanager
def as_service(
    db: psycopg.Connection[Any], headers: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A request with the secret key: a transaction with its role, its claims and its headers."""
    with db.transaction():
        db.execute(
            "select set_config('role', 'service_role', true),"
            " set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true)",
            (CLAIMS, json.dumps(dict(headers or {}))),
        )
        yield


def call(db: psycopg.Connection[Any], function: str, **arguments: Any) -> Any:
    """Call a function by named arguments with the secret key. Returns its one value."""
    named = ", ".join(f"{name} => %({name})s" for name in arguments)
    with as_service(db):
        row = db.execute(
            f"select public.{function}({named}) as answer".encode(), arguments
        ).fetchone()
    assert row is not None
    return row["answer"]


def collected(db: psycopg.Connection[Any], **request: Any) -> str:
    """Collect what the sample lacks. Returns the run's id."""
    run_id = str(call(db, "backfill_open", p_request=Jsonb({**REQUEST, **request})))
    while not call(db, "backfill_collect", p_run_id=run_id):
        pass
    return run_id


def planned(db: psycopg.Connection[Any], **request: Any) -> str:
    """Seal a plan over the sample. Returns the run's id."""
    run_id = collected(db, **request)
    while (state := call(db, "backfill_seal", p_run_id=run_id)["state"]) == "planning":
        pass  # a large plan is sealed in parts
    assert state == "awaiting_approval"
    return run_id


def approve(db: psycopg.Connection[Any], run_id: str) -> None:
    """Approve as a person does in the SQL editor."""
    db.execute(
        "select public.backfill_approve(run_id, digest, 'Ada')"
        " from public.backfill_runs where run_id = %s",
        (run_id,),
    )


def reject(db: psycopg.Connection[Any], run_id: str) -> None:
    """Reject as a person does in the SQL editor."""
    db.execute("select public.backfill_reject(%s, 'not now', 'Ada')", (run_id,))


@once
def started(db: psycopg.Connection[Any], **request: Any) -> str:
    """Plan, approve and start a run. Returns its id."""
    run_id = planned(db, **request)
    approve(db, run_id)
    assert start(db, run_id)["state"] == "running"
    return run_id


def start(db: psycopg.Connection[Any], run_id: str) -> Any:
    """Make the call that every apply makes first."""
    return call(db, "backfill_start", p_run_id=run_id, p_worker="test")


def claim(db: psycopg.Connection[Any], run_id: str, claim_id: str | None = None) -> Any:
    """Ask for a batch, under a new claim id if none is given."""
    return call(
        db,
        "backfill_claim",
        p_run_id=run_id,
        p_claim_id=claim_id or str(uuid4()),
        p_worker="test",
    )


def settle(
    db: psycopg.Connection[Any], run_id: str, claim_id: str, outcomes: list[dict[str, Any]]
) -> Any:
    """Tell what became of a batch."""
    return call(
        db, "backfill_settle", p_run_id=run_id, p_claim_id=claim_id, p_outcomes=Jsonb(outcomes)
    )


def score(db: psycopg.Connection[Any], run_id: str, fence: str, step: Mapping[str, Any]) -> Any:
    """Make one scoring call under a run's header and a fence."""
    arguments = step["arguments"]
    named = ", ".join(f"{name_of(name)} => %({name})s" for name in arguments)
    with as_service(db, {"x-backfill-run": run_id, "x-backfill-fence": fence}):
        row = db.execute(
            f"select {name_of('public', step['function'])}({named}) as answer".encode(), arguments
        ).fetchone()
    assert row is not None
    return row["answer"]


def score_all(db: psycopg.Connection[Any], run_id: str, grant: Mapping[str, Any]) -> dict[str, Any]:
    """Make every scoring call of a grant. Returns the outcome to settle it with."""
    for step in grant["steps"]:
        score(db, run_id, grant["fence"], step)
    return {
        "ordinal": grant["ordinal"],
        "outcome": "answered",
        "answered": [name for step in grant["steps"] for name in step["components"]],
    }


def work(db: psycopg.Connection[Any], run_id: str, clock: DatabaseClock) -> None:
    """Do a run to its end as one worker, waiting as told."""
    while True:
        claim_id = str(uuid4())
        answer = claim(db, run_id, claim_id)
        if answer["granted"]:
            outcomes = [score_all(db, run_id, grant) for grant in answer["granted"]]
            settle(db, run_id, claim_id, outcomes)
        elif answer["state"] == "running":
            clock.advance(answer["wait_s"])
        else:
            return


def verdict(db: psycopg.Connection[Any], run_id: str) -> str:
    """The verdict of a run's verification, asked for in one part."""
    part = call(db, "backfill_verify_part", p_run_id=run_id, p_budget_ms=20_000)
    return str(part["verification"]["verdict"])


class Slate:
    """Brings a database back to this moment again and again, cheaper than a copy of it."""

    def __init__(self, admin: psycopg.Connection[Any]) -> None:
        self._admin = admin
        admin.execute(
            "create table public.kept_fc_scores as table public.fc_scores;"
            "create table public.kept_profiles as table public.profiles;"
            "create table public.kept_settings as table public.backfill_settings"
        )

    def wipe(self) -> None:
        """Forget every run, put the rows back. Only a superuser can switch our guards off."""
        self._admin.execute(
            "begin; set local session_replication_role = replica;"
            "delete from public.backfill_receipts; delete from public.backfill_events;"
            "delete from public.backfill_approvals; delete from public.backfill_items;"
            "delete from backfill_private.undos; delete from backfill_private.starts;"
            "delete from backfill_private.findings; delete from public.backfill_runs;"
            "delete from public.backfill_settings; delete from public.fc_scores;"
            "delete from public.profiles;"
            "insert into public.fc_scores table public.kept_fc_scores;"
            "insert into public.profiles table public.kept_profiles;"
            "insert into public.backfill_settings table public.kept_settings;"
            "alter function public.score_prism(uuid, text) cost 100; commit"
        )
