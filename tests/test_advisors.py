"""Supabase's advisors find nothing in our objects after a run has gone its whole way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

import backfill
from backfill.local.servers import PostgresServer
from tests.conftest import Project
from tests.kit.seed import REHEARSED
from tests.kit.supabase_cli import run_cli

Connection = psycopg.Connection[Any]

# Indexes that a small project does not use, and the query that needs each in a large one.
NEEDED_BY = {
    # backfill_private.rules_of, at every sealing: the rules of one target, whose old ones stay
    "backfill_standing_target": """
        select from public.backfill_standing where target = 'prism'
    """,
    # backfill_private.standing_told: the runs that a rule has approved
    "backfill_approvals_by_standing": """
        select run_id from public.backfill_approvals where standing_id = gen_random_uuid()
    """,
    # backfill_private.fresh_items: the next batch among a million items
    "backfill_items_pending": """
        select ordinal from public.backfill_items
        where run_id = gen_random_uuid() and state = 'pending' order by ordinal limit 5
    """,
    # backfill_private.rested_items and pending_phase: those that met trouble
    "backfill_items_tired": """
        select ordinal from public.backfill_items
        where run_id = gen_random_uuid() and state = 'pending'
          and (not_before is not null or trial is not null)
        order by ordinal limit 5
    """,
    # backfill_private.release_expired, at every claim: the leases that ran out since the last
    "backfill_items_lease_end": """
        select from public.backfill_items where lease_until > now() and lease_until <= now()
    """,
    # backfill_private.granted_before, at every claim: what was granted under it
    "backfill_events_claims": """
        select from public.backfill_events
        where run_id = gen_random_uuid() and kind = 'batch_granted' and details ->> 'claim' = 'x'
    """,
    # backfill_private.is_on_trial, at every claim: the sessions that are set aside
    "backfill_items_trial": """
        select from public.backfill_items
        where run_id = gen_random_uuid() and trial in ('aside', 'agreed')
    """,
    # backfill_private.places_alone, at every claim: the sessions that are called alone
    "backfill_items_alone": """
        select ordinal from public.backfill_items where run_id = gen_random_uuid() and is_alone
    """,
    # backfill_private.shape_of, at every receipt: the shapes of one table
    "backfill_shapes_relations": """
        select from backfill_private.shapes where relation = 'public.profiles'::regclass
    """,
    # backfill_private.effects, at every claim and settlement: what this run wrote for an item
    "backfill_receipts_items": """
        select from public.backfill_receipts where run_id = gen_random_uuid() and ordinal = 1
    """,
    # backfill_private.confirmed_undo: the newest preview of a run
    "backfill_undos_runs": """
        select undo_id from backfill_private.undos
        where run_id = gen_random_uuid() order by undo_id desc limit 1
    """,
    # backfill_private.conflicts_after: the next rows that an undo leaves
    "backfill_conflicts_undos": """
        select from backfill_private.conflicts
        where undo_id = 1 and is_left and conflict_id > 0 order by conflict_id limit 1000
    """,
    # backfill_private.note_batches, whenever the run is locked: what calls in bulk have settled
    "backfill_unnoted_runs": """
        select from backfill_private.unnoted
        where run_id = gen_random_uuid() order by unnoted_id
    """,
    # backfill_private.may_bulk, at each call in bulk: batches in which a session did not end well
    "backfill_unnoted_troubled": """
        select from backfill_private.unnoted where run_id = gen_random_uuid() and not is_well
    """,
    # backfill_private.prism_standing: the completed sessions of a range of days
    "backfill_completed_sessions": """
        select id from public.assessment_sessions
        where status = 'completed' and created_at >= '2025-08-01' and created_at < '2025-08-02'
    """,
}

# What lints 0028 and 0029 of the advisors ask, which the CLI does not know yet.
OWNERS_RIGHTS_FOR_CALLERS = """
select r.role || ': ' || p.oid::regprocedure as found
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
cross join unnest(array['anon', 'authenticated']) as r (role)
where p.prosecdef
  and n.nspname in ('public', 'graphql_public')
  and has_schema_privilege(r.role, n.oid, 'usage')
  and has_function_privilege(r.role, p.oid, 'execute')
order by 1
"""


def advise(script: Path, environment: dict[str, str], dsn: str) -> list[dict[str, Any]]:
    """What the advisors find in a database, from level info on."""
    answer = run_cli(
        script,
        environment,
        "db",
        "advisors",
        f"--remote={dsn}",
        "--level",
        "info",
        "--output-format",
        "json",
    )
    results: list[dict[str, Any]] = json.loads(answer)["results"]
    return results


def _is_ours(finding: dict[str, Any]) -> bool:
    return "backfill_" in finding["detail"] or "backfill_" in json.dumps(finding["metadata"])


@pytest.fixture
def worked(project: Project, bf: backfill.Backfill) -> Project:
    """A project after a plan, an approval, the work, a verification and an undo."""
    plan = bf.plan(**{**REHEARSED, "throttle_per_minute": 6000})
    project.approve(plan)
    assert bf.apply(plan.run_id).is_complete
    assert bf.verify(plan.run_id).verdict == "pass"
    bf.rollback(plan.run_id, until="2025-08-31").confirm(reason="test")
    bf.missing(since="2025-08-01")
    bf.check()
    return project


# What the advisors would find, by the lint that finds it.
BREACHES = {
    "policy_exists_rls_disabled": "alter table public.backfill_runs disable row level security",
    "rls_enabled_no_policy": """
        drop policy "the owner alone" on backfill_private.starts;
        drop policy "the service reads events" on public.backfill_events;
        drop policy "everybody with a backfill role reads events" on public.backfill_events
    """,
    "security_definer_view": "alter view public.backfill_run_failures reset (security_invoker)",
    "unindexed_foreign_keys": "drop index backfill_private.backfill_undos_runs",
    "function_search_path_mutable": ("alter function backfill_private.may(text) reset search_path"),
    "multiple_permissive_policies": """
        create policy "twice" on public.backfill_items for select to authenticated using (true)
    """,
}


# PostgreSQL refuses COMMIT under a clause `set`. These set the path in each of their transactions:
# test_house_rules.py holds that.
COMMITTING = {
    ("function_search_path_mutable", f"Function `{name}` has a role mutable search_path")
    for name in (
        "public.backfill_drive_step",
        "backfill_private.drive_batch",
        "backfill_private.drive_in_bulk",
        "backfill_private.drive_turn",
        "backfill_private.next_transaction",
    )
}


def test_the_advisors_find_nothing_of_ours(
    worked: Project,
    postgres_server: PostgresServer,
    cli_script: Path,
    cli_home: dict[str, str],
) -> None:
    """At level info; an index that a small project does not use is in the list above.

    So is what commits, and can have no path of its own.

    Advisors that saw none of our objects would find nothing for ever: what is wrong they find.
    """
    run_cli(cli_script, cli_home, "telemetry", "disable")
    dsn = postgres_server.dsn(worked.db.info.dbname)
    ours = [finding for finding in advise(cli_script, cli_home, dsn) if _is_ours(finding)]
    others = [
        (finding["name"], finding["detail"])
        for finding in ours
        if not (
            finding["name"] == "unused_index"
            and any(f"`{index}`" in finding["detail"] for index in NEEDED_BY)
        )
    ]
    assert sorted(others) == sorted(COMMITTING)
    for breach in BREACHES.values():
        worked.db.execute(breach.encode())
    before = {(finding["name"], finding["detail"]) for finding in ours}
    found = [finding for finding in advise(cli_script, cli_home, dsn) if _is_ours(finding)]
    assert {f["name"] for f in found if (f["name"], f["detail"]) not in before} >= BREACHES.keys()


def test_the_list_names_every_index_that_no_constraint_needs(project_db: Connection) -> None:
    """A new index is listed with its query before it lands."""
    found = project_db.execute("""
        select c.relname from pg_index as x
        join pg_class as c on c.oid = x.indexrelid
        where c.relname like 'backfill\\_%' and not x.indisunique
    """)
    assert {row["relname"] for row in found.fetchall()} == set(NEEDED_BY)


@pytest.mark.parametrize("index", NEEDED_BY)
def test_the_query_that_needs_an_index_uses_it(project_db: Connection, index: str) -> None:
    """As it does where the table is large: here reading the whole table is put out of the way."""
    project_db.execute("set enable_seqscan = off")
    plan = project_db.execute(f"explain {NEEDED_BY[index]}".encode()).fetchall()
    assert any(
        f"using {index}" in line or f"on {index}" in line for row in plan for line in row.values()
    )


def test_no_caller_borrows_the_owners_rights(project_db: Connection) -> None:
    """Nothing in an exposed schema is SECURITY DEFINER and anon's or a user's to call."""
    assert project_db.execute(OWNERS_RIGHTS_FOR_CALLERS).fetchall() == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_a_borrowed_right_is_seen(project_db: Connection, role: str) -> None:
    """The question above finds such a function."""
    project_db.execute(
        f"""
        create function public.lent() returns integer language sql security definer
        set search_path = '' as 'select 1';
        revoke all on function public.lent() from public;
        grant execute on function public.lent() to {role}
        """.encode()
    )
    assert project_db.execute(OWNERS_RIGHTS_FOR_CALLERS).fetchall() == [
        {"found": f"{role}: lent()"}
    ]
