"""How much one call may be given: every argument of every door has a bound, told in a sentence."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from backfill.api import queries
from backfill.run import bulk, undo
from tests.conftest import Project
from tests.kit.outsider import Outsider

DOORS = """
select p.proname as door, a.name, format_type(a.type, null) as type
from pg_proc as p
cross join lateral unnest(p.proargtypes::oid[], p.proargnames[:p.pronargs]) as a (type, name)
where p.pronamespace = 'public'::regnamespace
  and starts_with(p.proname, 'backfill_')
  and p.prokind = 'f'  -- the API calls no procedure
  and a.name <> ''  -- it gives arguments by their names
order by p.proname, a.name
"""
USUAL: dict[str, Any] = {
    "text": "x", "text[]": ["x"], "integer": 1, "numeric": 1, "bigint": 1, "jsonb": Jsonb({}),
    "boolean": True, "interval": "10 s",
}  # fmt: skip
BEYOND: dict[str, Any] = {
    "text": "x" * 5000,
    "text[]": ["x"] * 10_001,
    "integer": 2**31 - 1,
    "numeric": 10**9,
    "jsonb": Jsonb({"x": "y" * 1_000_000}),
    "interval": "1000 years",
}
# Their lists are bounded, and nothing else of them is read.
LISTS = {"p_scope": Jsonb({"sessions": ["x"] * 1001}), "p_outcomes": Jsonb([{}] * 1001)}
# A number that is too large there means as many as a page has, or a place behind the last one.
CUT = {
    ("backfill_plan_sessions", "p_after"),
    ("backfill_plan_sessions", "p_sessions"),
    ("backfill_written", "p_before"),
    ("backfill_written", "p_sessions"),
    ("backfill_find_runs", "p_prefix"),
}
# Read once the run is found.
LATER = {
    ("backfill_pace", "per_minute"),
    ("backfill_preview_undo", "p_since"),
    ("backfill_preview_undo", "p_until"),
}


def said(db: psycopg.Connection[Any], door: str, given: dict[str, Any]) -> tuple[str, str]:
    """SQLSTATE and the whole answer of a call, rolled back."""
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in given
    )
    call = sql.SQL("select public.{}({})").format(sql.Identifier(door), arguments)
    try:
        with db.transaction(force_rollback=True):
            return "", str(db.execute(call, given).fetchall())
    except psycopg.Error as refused:
        words = f"{refused.diag.message_primary} {refused.diag.message_hint}"
        return refused.sqlstate or "", words


def test_no_argument_of_a_door_is_without_a_bound(shared_project: Project) -> None:
    """What is too much is refused before a run is looked for, in a sentence of its own length."""
    db = shared_project.db
    doors: dict[str, dict[str, str]] = {}
    for row in db.execute(DOORS).fetchall():
        doors.setdefault(row["door"], {})[row["name"]] = row["type"]
    unbounded, endless = {}, {}
    for door, types in doors.items():
        usual = {n: uuid4() if t == "uuid" else USUAL[t] for n, t in types.items()}
        for name, kind in types.items():
            if kind in ("uuid", "bigint", "boolean"):
                continue
            code, words = said(db, door, {**usual, name: LISTS.get(name, BEYOND[kind])})
            wanted = "" if (door, name) in CUT else "OB001" if (door, name) in LATER else "OB013"
            if code != wanted:
                unbounded[door, name] = (code, words[:200])
            if len(words) > 600:
                endless[door, name] = words[:200]
    assert (unbounded, endless) == ({}, {})
    assert len(doors) > 30


def test_a_bound_is_what_may_just_be_given(shared_project: Project) -> None:
    """One more is refused. Of a number, one less than the least too, and none."""
    db = shared_project.db
    check = "select backfill_private.check_bounds(%s)"
    for row in db.execute("select * from backfill_private.bounds").fetchall():
        most = row["most"]
        ends: list[Any] = {
            "characters": ["ä" * most, "ä" * (most + 1)],
            "bytes": ["x" * (most - 2), "x" * (most - 1)],
            "entries": [[1] * most, [1] * (most + 1)],
        }.get(row["kind"], [most, most + 1, row["least"] - 1, None])
        key = f"{row['what']}, {row['kind']}"
        db.execute(check, (Jsonb({key: ends[0]}),))
        for beyond in ends[1:]:
            with pytest.raises(psycopg.Error, match=row["what"]) as refused, db.transaction():
                db.execute(check, (Jsonb({key: beyond}),))
            assert refused.value.sqlstate == "OB013"


@pytest.mark.parametrize(
    "given",
    [
        {"a look": queries.LOOK_MS},
        {"a look": undo.LOOK_MS},
        {"a call in bulk, sessions": bulk.MOST_SESSIONS},
        {"a part of an undo": undo.MOST_SESSIONS},
    ],
)
def test_what_the_client_asks_for_may_be_given(
    shared_project: Project, given: dict[str, int]
) -> None:
    """At its most."""
    shared_project.db.execute("select backfill_private.check_bounds(%s)", (Jsonb(given),))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"the reason": "x" * 501}, "the reason has at most 500 characters, not 501"),
        ({"the list of sessions": 5}, "the list of sessions has at most 1000 entries"),
        ({"a look": 20_001}, "a look takes 0 to 20000 milliseconds, not 20001"),
        ({"a look": "NaN"}, "a look takes 0 to 20000 milliseconds, not null"),
    ],
)
def test_what_is_out_of_bounds_is_told_in_a_sentence(
    shared_project: Project, given: dict[str, Any], says: str
) -> None:
    """With the bound, and with what was given."""
    with pytest.raises(psycopg.Error) as refused, shared_project.db.transaction():
        shared_project.db.execute("select backfill_private.check_bounds(%s)", (Jsonb(given),))
    assert refused.value.diag.message_primary == says


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ({"approver": "A" * 201}, "the approver's name has at most 200 characters, not 201"),
        ({"note": "n" * 501}, "the note has at most 500 characters, not 501"),
        ({"decision": "maybe"}, "a decision is approved or rejected, not maybe"),
        ({"decision": None}, "a decision is approved or rejected, not null"),
    ],
)
def test_a_decision_that_no_row_can_hold_is_refused_with_a_sentence(
    shared_project: Project, decision: dict[str, Any], says: str
) -> None:
    """Also where it comes as a row, past the function: no constraint answers in its own words."""
    row = {"run_id": str(uuid4()), "digest": "d", "decision": "approved", **decision}
    answer = Outsider(shared_project).send("POST", "/backfill_approvals", row).json()
    assert (answer["code"], answer["message"]) == ("OB013", says)
