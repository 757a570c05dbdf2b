"""Targets of every kind that a declaration can say: declared, planned, scored, verified, undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb

from backfill.targets.declaration import parse
from backfill.targets.views import target_sql
from tests.kit import verbs
from tests.kit.songs import Db, as_owner

Score = Callable[[Db, str, Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Lived:
    """What a run came to. plan: its figures. states: sessions by what became of them."""

    run_id: str
    plan: dict[str, Any]
    states: dict[str, int]
    verdict: str
    calls: int
    undone: dict[str, Any]


def declare_text(db: Db, text: str) -> None:
    """Declare a target, as its migration does."""
    db.execute(target_sql(parse(text)).encode())


def planned(db: Db, target: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """A sealed plan, or what an empty one says with '' for its run."""
    request = {"since": "2025-08-01", "target": target, "environment": "test", **more}
    run_id = str(verbs.call(db, "backfill_open", p_request=Jsonb(request)))
    while not verbs.call(db, "backfill_collect", p_run_id=run_id):
        pass
    sealed = verbs.call(db, "backfill_seal", p_run_id=run_id)
    as_owner(db)
    if sealed["state"] == "empty":
        return "", sealed["plan"]
    row = db.execute(
        "select plan from public.backfill_runs where run_id = %s", (run_id,)
    ).fetchone()
    assert row is not None
    return run_id, row["plan"]


def lived(db: Db, target: str, score: Score = verbs.score_all, **more: Any) -> Lived:
    """Plan, approve, apply, verify and undo a target of which every row is missing.

    score: makes the calls of a grant, unless they are made in bulk.
    """
    run_id, plan = planned(db, target, **more)
    verbs.approve(db, run_id)
    assert verbs.start(db, run_id)["state"] == "running"
    calls = in_bulk(db, run_id) if more.get("mode") == "bulk" else one_by_one(db, run_id, score)
    row = db.execute(
        "select jsonb_object_agg(state, n) as states from (select state, count(*) as n"
        " from public.backfill_items where run_id = %s group by 1) as s",
        (run_id,),
    ).fetchone()
    assert row is not None
    verdict = verbs.verdict(db, run_id)
    as_owner(db)
    preview = verbs.call(db, "backfill_preview_undo", p_run_id=run_id)
    undone = verbs.call(
        db, "backfill_confirm_undo", p_run_id=run_id, p_digest=preview["digest"], p_reason="a test"
    )
    as_owner(db)
    return Lived(run_id, plan, row["states"], verdict, calls, undone)


def one_by_one(db: Db, run_id: str, score: Score = verbs.score_all) -> int:
    """Apply by one worker. Returns how many calls it made."""
    calls = 0
    while True:
        claim_id = str(uuid4())
        answer = verbs.claim(db, run_id, claim_id)
        if not answer["granted"]:
            as_owner(db)
            return calls
        calls += sum(len(grant["steps"]) for grant in answer["granted"])
        outcomes = [score(db, run_id, grant) for grant in answer["granted"]]
        verbs.settle(db, run_id, claim_id, outcomes)


def in_bulk(db: Db, run_id: str) -> int:
    """Apply in bulk. Returns 0: nobody counts the calls."""
    while True:
        verbs.claim(db, run_id)
        asked = {"p_run_id": run_id, "p_worker": "test", "p_sessions": 10}
        if verbs.call(db, "backfill_bulk", **asked).get("look"):
            as_owner(db)
            return 0
