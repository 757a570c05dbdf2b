"""The plan says what else its writes set off, as the catalogs have it."""

from __future__ import annotations

import pytest

import backfill
from tests.conftest import Project
from tests.kit.seed import SEED

ROWS, PROFILES = 39, 13
NOTE = "create function public.note() returns trigger language plpgsql as 'begin return new; end';"
WEBHOOK = """
create schema supabase_functions;
create function supabase_functions.http_request() returns trigger language plpgsql
as 'begin return new; end';
create trigger tell_crm after insert on public.fc_scores for each row
execute function supabase_functions.http_request(
  'https://crm.example.org/hook', 'POST', '{"Authorization": "Bearer hidden-in-a-header"}');
"""
# What a project has: (SQL, kind, name, table, what the detail says, events).
PROJECTS: dict[str, tuple[str, str, str, str | None, str, int | None]] = {
    "a trigger for each row": (
        NOTE + "create trigger noted after insert on public.fc_scores"
        " for each row execute function public.note();",
        "trigger", "noted", "public.fc_scores",
        "after insert for each row, enabled; calls public.note", ROWS,
    ),
    "a trigger for deletes": (
        NOTE + 'create trigger "On Delete" before delete on public.profiles'
        " for each row when (old.type_code <> 'x') execute function public.note();",
        "trigger", "On Delete", "public.profiles",
        "before delete (an undo) for each row, enabled; calls public.note, under a condition", 0,
    ),
    "a webhook": (
        WEBHOOK, "webhook", "tell_crm", "public.fc_scores", "http_request at crm.example.org", ROWS,
    ),
    "a function that calls out": (
        "create schema net; create function public.shout() returns trigger language plpgsql as"
        " 'begin perform net.http_post(new.session_id); return new; end';"
        "create trigger shouted after insert on public.profiles"
        " for each row execute function public.shout();",
        "webhook", "shouted", "public.profiles", "calls public.shout", PROFILES,
    ),
    "realtime": (
        "create publication supabase_realtime for table public.fc_scores;",
        "publication", "supabase_realtime", "public.fc_scores", "realtime", ROWS,
    ),
    "a foreign key that cascades": (
        "create table public.shared"
        " (session_id uuid references public.profiles on delete cascade);",
        "foreign key", "shared_session_id_fkey", "public.profiles",
        "public.shared refers to these rows, on delete cascade", None,
    ),
    "a materialized view": (
        "create materialized view public.totals as select count(*) from public.fc_scores;",
        "materialized view", "public.totals", "public.fc_scores",
        "when it was refreshed last", None,
    ),
    "a generated column": (
        "alter table public.profiles add column code_length int"
        " generated always as (length(type_code)) stored;",
        "generated column", "code_length", "public.profiles", "computed by the table", PROFILES,
    ),
    "a sequence": (
        "alter table public.profiles add column number bigint generated always as identity;",
        "sequence", "public.profiles_number_seq", "public.profiles",
        "draws number for each row", PROFILES,
    ),
    "forced row level security": (
        "alter table public.profiles force row level security;",
        "policy", "people read their own profiles", "public.profiles", "forced", None,
    ),
    # There is no pg_cron here: a table of its form.
    "a cron job": (
        "create schema cron; create table cron.job (jobid bigint, jobname text, schedule text,"
        " command text, active boolean); insert into cron.job values"
        " (1, 'sweep', '5 * * * *', 'delete from PROFILES where stale', true);",
        "cron job", "sweep", "public.profiles", "runs at 5 * * * *", None,
    ),
    "a helper of a helper": (
        "create schema inner_;"
        " create function inner_.weight() returns int language sql as 'select 1';"
        " create or replace function public.fc_type(scores jsonb, out type_code text,"
        " out top_functions jsonb) language plpgsql as"
        " 'begin -- not_called() \n perform inner_.weight(); end';",
        "function", "inner_.weight()", None, "no digest covers it", None,
    ),
    "SQL built while it runs": (
        "create or replace function public.prism_profile(session_id uuid) returns table"
        " (type_code text, payload jsonb) language plpgsql as 'begin execute ''select 1''; end';",
        "function", "public.prism_profile(uuid)", None, "cannot be told", None,
    ),
}  # fmt: skip


def effects(bf: backfill.Backfill) -> dict[tuple[str, str], backfill.Effect]:
    """By kind and name."""
    return {(e.kind, e.name): e for e in bf.plan(**SEED).effects}


@pytest.mark.parametrize("what", PROJECTS)
def test_what_a_project_has_is_in_the_plan(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """By name, with how often this plan causes it; and it was not there before."""
    before = effects(bf)
    sql, kind, name, table, detail, events = PROJECTS[what]
    project.admin.execute(sql.encode())
    found = effects(bf)
    added = found[kind, name]
    assert before.get((kind, name)) != added
    assert (added.table, added.events) == (table, events)
    assert detail in added.detail


def test_the_sample_has_functions_that_no_digest_covers_and_nothing_else(
    project: Project, bf: backfill.Backfill
) -> None:
    """And a trigger that keeps updated_at; helpers that are listed are covered."""
    found = effects(bf)
    assert {kind for kind, _ in found} == {"function", "trigger"}
    assert {name for kind, name in found if kind == "trigger"} == {"profiles_updated_at"}
    assert {name for kind, name in found if kind == "function"} == {
        "public.fc_function_scores(uuid)",
        "public.fc_type(jsonb)",
        "public.prism_profile(uuid)",
    }
    project.db.execute(
        "update public.backfill_targets set helpers = %s where component = 'profile'",
        (["public.prism_profile(uuid)", "public.fc_type(jsonb)"],),
    )
    assert ("function", "public.prism_profile(uuid)") not in effects(bf)
    assert ("function", "public.fc_function_scores(uuid)") in effects(bf)


def test_a_trigger_that_does_not_fire_is_not_told(project: Project, bf: backfill.Backfill) -> None:
    """Disabled, or for a replica alone."""
    for state in ("disable", "enable replica"):
        project.db.execute(
            f"alter table public.profiles {state} trigger profiles_updated_at".encode()
        )
        assert ("trigger", "profiles_updated_at") not in effects(bf)


def test_the_headers_of_a_webhook_are_nowhere(project: Project, bf: backfill.Backfill) -> None:
    """Its arguments may hold a key: the host is all that the plan says of them."""
    project.admin.execute(WEBHOOK.encode())
    plan = bf.plan(**SEED)
    kept = project.value("select plan::text from public.backfill_runs")
    assert "crm.example.org" in kept
    assert "hidden-in-a-header" not in kept + plan.markdown()


def test_the_approver_reads_it(project: Project, bf: backfill.Backfill) -> None:
    """In the Markdown, with a name that Markdown would take for something else."""
    project.db.execute(
        (
            NOTE + 'create trigger "a|b" after insert on public.fc_scores'
            " for each row execute function public.note();"
        ).encode()
    )
    shown = bf.plan(**SEED).markdown()
    assert "## Blast radius" in shown
    assert r"| trigger | a\|b | `public.fc_scores` | after insert for each row" in shown


def test_the_digest_does_not_know_of_it(project: Project, bf: backfill.Backfill) -> None:
    """It is a measurement."""
    first = bf.plan(**SEED).digest
    project.db.execute(b"create publication supabase_realtime for table public.profiles")
    assert bf.plan(**SEED).digest == first
