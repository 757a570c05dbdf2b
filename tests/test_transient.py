"""What must not outlive its transaction cannot be committed: a rehearsal's run, a call in bulk.

Anyone who can send SQL may call what the doors call, and commit where a door would go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Project
from tests.kit import verbs
from tests.kit.outsider import Outsider

Db = psycopg.Connection[Any]
BULK: dict[str, Any] = {"mode": "bulk", "throttle_per_minute": "none", "batch_size": 20}


def sampled(db: Db) -> str:
    """A plan under way, with sessions to rehearse. Returns the SQL that leases one of them."""
    run_id = verbs.collected(db, rehearse=1)
    (session,) = verbs.call(db, "backfill_rehearsal", p_run_id=run_id)
    return f"perform backfill_private.rehearsal_lease('{run_id}', '{session}')"


def begun(db: Db) -> str:
    """A run in bulk. Returns the SQL that begins a call."""
    run_id = verbs.started(db, **BULK)
    return f"perform backfill_private.bulk_begin('{run_id}', 1)"


BEGUN: dict[str, Callable[[Db], str]] = {"a rehearsal": sampled, "a call in bulk": begun}
EARLY = "set constraints all immediate"
# How it is committed: SQL around what begins it.
WAYS = {
    "at once": "do $$ begin {begin}; end $$",
    "checked before, by itself": "do $$ begin {begin}; end $$; " + EARLY,
    "checked before, in a block": "do $$ begin {begin}; " + EARLY + "; end $$",
    "checked before, as we check": "do $$ begin {begin};"
    " perform backfill_private.bulk_check('{{\"checks\": [\"" + EARLY + '"]}}\', null, null);'
    " end $$",
    "checked twice": "do $$ begin {begin}; " + EARLY + "; " + EARLY + "; end $$",
    "always checked at once": EARLY + "; do $$ begin {begin}; end $$",
    "from within a block that is left": "do $$ begin begin {begin}; exception when others then"
    " null; end; end $$",
}  # fmt: skip
LEFT = """
select (select count(*) from public.backfill_runs where requested_via = 'rehearsal')
  + (select count(*) from backfill_private.bulk_claims)
"""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", BEGUN)
def test_what_passes_with_its_transaction_is_not_committed(
    project: Project, what: str, way: str
) -> None:
    statement = WAYS[way].format(begin=BEGUN[what](project.db))
    with pytest.raises(psycopg.Error) as refused, verbs.as_service(project.db):
        project.db.execute(statement.encode())
    assert refused.value.sqlstate == "OB011", refused.value
    assert project.value(LEFT) == 0


@pytest.mark.parametrize("what", BEGUN)
def test_a_block_that_commits_does_not_either(project: Project, what: str) -> None:
    """There the commit is one of the calls on the stack."""
    begin = BEGUN[what](project.db)
    project.db.execute(b"set role service_role")
    project.db.execute("select set_config('request.jwt.claims', %s, false)", (verbs.CLAIMS,))
    try:
        with pytest.raises(psycopg.Error) as refused:
            project.db.execute(f"do $$ begin {begin}; commit; end $$".encode())
    finally:
        project.db.execute(b"reset role; reset request.jwt.claims")
    assert refused.value.sqlstate == "OB011"
    assert project.value(LEFT) == 0


def test_nothing_is_scored_under_a_rehearsals_fence(project: Project) -> None:
    """Over the API: a project's own function that runs its caller's SQL leases and scores."""
    lease = sampled(project.db).replace("perform", "select")
    project.db.execute(
        b"create function public.run_sql(q text) returns text language plpgsql as"
        b" $$ declare said text; begin execute q into said; return said; end $$;"
        b" grant execute on function public.run_sql(text) to service_role"
    )
    project.reload()
    assert Outsider(project).rpc("run_sql", q=f"{lease} as lease")["code"] == "OB011"
    assert project.value(LEFT) == 0


@pytest.mark.parametrize("told", ["answered", "failed", "answered and failed", "twice"])
def test_a_call_in_bulk_settles_no_session_that_it_has_not_taken(
    project: Project, told: str
) -> None:
    """Nor does it choose when it began: that is what the throttle counts by."""
    run_id = verbs.started(project.db, **BULK)
    failed = {"outcome": "failed", "step": "profile", "code": "P0001", "message": "made up"}
    answered, outcomes = {
        "answered": ([7, 8], []),
        "failed": ([], [{"ordinal": o, **failed} for o in (7, 8)]),
        "answered and failed": ([7], [{"ordinal": 7, **failed}]),
        "twice": ([7, 7], [{"ordinal": 8, **failed}]),
    }[told]
    with verbs.as_service(project.db):
        begun = project.value(f"select backfill_private.bulk_begin('{run_id}', 2) ->> 'claim'")
        settled = project.value(
            "select backfill_private.bulk_settle(%s, 'me', %s, %s)",
            begun,
            answered,
            Jsonb(outcomes),
        )
    assert settled == {}
    assert project.rows(
        "select ordinal from public.backfill_items where run_id = %s"
        " and (state <> 'pending' or attempts > 0 or started_at is not null)",
        run_id,
    ) == []  # fmt: skip
