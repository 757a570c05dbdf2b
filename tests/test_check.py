"""Is this project ready: every defect has its line, which names it and says what to do."""

from __future__ import annotations

import json
from typing import Any

import anyio
import psycopg
import pytest

import backfill
from backfill.api.gateway import Gateway
from backfill.api.rows import check_of
from backfill.cli import exit_codes
from backfill.cli.exit_codes import ExitCode
from backfill.errors import CannotConnect
from backfill.results.check import Check
from backfill.run.check import check_project
from tests.conftest import Project

Db = psycopg.Connection[Any]

INDEX = "public.backfill_completed_sessions"
SCORES = "public.fc_scores"

# claim: what is done to the project, then the line, its status, what it names, what to do
DEFECTS = {
    "the source is renamed": (
        "alter table public.assessment_sessions rename to sessions_of_old",
        ("table public.assessment_sessions", "fail", "does not exist", "set source_table"),
    ),
    "a target table is renamed": (
        "alter table public.profiles rename to profiles_of_old",
        ("table public.profiles", "fail", "does not exist", "set table_name"),
    ),
    "a version column is renamed": (
        "alter table public.profiles rename column results_version to results",
        ("table public.profiles", "fail", "results_version", "set version_column"),
    ),
    "a matched column is renamed": (
        "alter table public.fc_scores rename column fc_kind to kind",
        ("table public.fc_scores", "fail", "fc_kind", "set key_columns"),
    ),
    "a column is dropped": (
        "alter table public.fc_scores drop column version cascade",
        ("table public.fc_scores", "fail", "version", "set version_column"),
    ),
    "dates have no time zone": (
        "update backfill_private.sources set date_column = 'status'",
        ("dates of public.assessment_sessions", "fail", "status is text", "declare a column"),
    ),
    "the key is not unique": (
        "alter table public.fc_scores drop constraint fc_scores_pkey",
        ("key of public.fc_scores", "fail", "session_id, version, fc_kind", "unique index"),
    ),
    "the key is unique only in part": (
        "alter table public.profiles drop constraint profiles_pkey;"
        "create unique index on public.profiles (session_id) where type_code <> ''",
        ("key of public.profiles", "fail", "no unique index", "(session_id)"),
    ),
    "the session is of another type": (
        "update public.backfill_targets set session_column = 'type_code'"
        " where component = 'profile'",
        ("session of public.profiles", "fail", "type_code of public.profiles is text", "type uuid"),
    ),
    "service_role may not read what a component needs": (
        "revoke select on public.fc_responses from service_role",
        ("rights on public.fc_responses", "fail", "service_role lacks select", "grant select on"),
    ),
    "service_role may not use a schema": (
        "create schema locked; alter table public.fc_responses set schema locked;"
        "update backfill_private.sources set needs = replace(needs::text, 'public.fc_responses',"
        " 'locked.fc_responses')::jsonb",
        (
            "rights on locked.fc_responses",
            "fail",
            "service_role may not use the schema locked",
            "grant usage on schema locked to service_role",
        ),
    ),
    "a date may be null, and one is": (
        "alter table public.assessment_sessions alter column created_at drop not null;"
        "update public.assessment_sessions set created_at = null"
        " where id = (select min(id::text)::uuid from public.assessment_sessions"
        " where status = 'completed')",
        (
            "dates of public.assessment_sessions",
            "warn",
            "1 session has no created_at",
            "give each a",
        ),
    ),
    "no row has the value that selects": (
        "update backfill_private.sources set filters ="
        """ '[{"column": "status", "values": ["Completed"]}]'""",
        (
            "where status",
            "warn",
            "rows of assessment_sessions has status Completed; the nearest is completed",
            "correct the declaration",
        ),
    ),
    "everything was granted to the service": (
        "grant all on all tables in schema public to service_role",
        (
            "rights on our tables",
            "fail",
            "service_role may write public.backfill_runs",
            "revoke all on public.backfill_receipts from public, service_role; grant select",
        ),
    ),
    "everything may be read by everyone": (
        "grant select on all tables in schema public to anon, authenticated, service_role",
        (
            "rights on our tables",
            "fail",
            "service_role may read public.backfill_items.fence_hash",
            "revoke all on public.backfill_items from public, service_role; grant select",
        ),
    ),
    "no index begins with the session": (
        "alter table public.profiles drop constraint profiles_pkey",
        ("index on public.profiles (session_id)", "warn", "slower", "create index concurrently"),
    ),
    "a scoring function is gone": (
        "drop function public.score_prism(uuid, text)",
        ("function score_prism", "fail", "does not exist", "set function_signature"),
    ),
    "an argument is renamed": (
        "drop function public.score_prism(uuid, text);"
        "create function public.score_prism(session uuid, engine_version text) returns jsonb"
        " language sql return '{}'::jsonb;"
        "grant execute on function public.score_prism to service_role",
        ("function score_prism", "fail", "session_id", "set arguments"),
    ),
    "service_role may not call": (
        "revoke execute on function public.score_fc_session(uuid, text, text) from service_role",
        ("function score_fc_session", "fail", "service_role", "grant execute on function"),
    ),
    "a helper is gone": (
        "update public.backfill_targets set helpers = '{public.fc_type(jsonb),public.gone(uuid)}'"
        " where component = 'fc_scores'",
        ("helpers of fc_scores", "fail", "public.gone(uuid)", "set helpers"),
    ),
    "service_role may not write": (
        "revoke insert on public.fc_scores from service_role",
        (f"service_role writes {SCORES}", "fail", "insert not granted", "grant select, insert"),
    ),
    "service_role may not read": (
        "revoke select on public.assessment_sessions from service_role",
        ("rights on public.assessment_sessions", "fail", "service_role", "grant select on"),
    ),
    "an undo could not delete": (
        "revoke delete on public.fc_scores from postgres, service_role",
        (f"rights on {SCORES}", "fail", "postgres lacks delete", "grant delete on"),
    ),
    "a target table is open": (
        "alter table public.fc_scores disable row level security",
        (f"row level security of {SCORES}", "warn", "off", "enable row level security"),
    ),
    "one of our tables is open": (
        "alter table backfill_private.starts disable row level security",
        ("row level security of our tables", "fail", "backfill_private.starts", "enable row level"),
    ),
    "a receipt trigger is disabled": (
        'alter table public.fc_scores disable trigger "000_backfill_receipt"',
        (f"receipts of {SCORES}", "fail", "not always enabled", "enable always trigger"),
    ),
    "a receipt trigger is enabled as origin alone": (
        'alter table public.profiles enable trigger "000_backfill_receipt"',
        ("receipts of public.profiles", "fail", "not always enabled", "enable always trigger"),
    ),
    "a receipt trigger is gone": (
        "drop trigger backfill_no_truncate on public.profiles",
        ("receipts of public.profiles", "fail", "missing", "create or replace trigger"),
    ),
    "a guard of ours is disabled": (
        "alter table public.backfill_items disable trigger backfill_items_guard",
        ("guards of our tables", "fail", "backfill_items_guard", "enable trigger"),
    ),
    "anon may read runs": (
        "grant select on public.backfill_runs to anon",
        ("rights on our tables", "fail", "anon may read public.backfill_runs", "revoke all on"),
    ),
    "the service may write items": (
        "grant update (state) on public.backfill_items to service_role",
        ("rights on our tables", "fail", "service_role may write", "revoke all on"),
    ),
    "the service may not read items": (
        "revoke select on public.backfill_items from service_role",
        ("rights on our tables", "fail", "may not read public.backfill_items", "grant select"),
    ),
    "row contents are readable": (
        "grant select (before) on public.backfill_receipts to authenticated",
        ("rights on our tables", "fail", "public.backfill_receipts.before", "revoke all on"),
    ),
    "approvers may not hand in decisions": (
        "revoke insert on public.backfill_approvals from authenticated",
        ("rights on our tables", "fail", "authenticated may not hand in", "grant insert (run_id"),
    ),
    "everybody may call a function of ours": (
        "grant execute on function backfill_private.seal(uuid, numeric, jsonb) to public",
        ("rights on our functions", "fail", "anon may call backfill_private.seal", "revoke all on"),
    ),
    "the service may schedule a driver": (
        "grant execute on function public.backfill_drive(uuid) to service_role",
        ("rights on our functions", "fail", "backfill_drive(uuid)", "revoke all on routine"),
    ),
    "the service may not call a door": (
        "revoke execute on function public.backfill_claim(uuid, uuid, text) from service_role",
        ("rights on our functions", "fail", "backfill_claim(uuid,uuid,text)", "grant execute"),
    ),
    "the service may not call what a door names": (
        "revoke execute on function backfill_private.claim(uuid, uuid, text) from service_role",
        ("rights on our functions", "fail", "backfill_private.claim", "grant execute"),
    ),
    "the detection of a target is gone": (
        "drop view backfill_private.prism_gaps cascade",
        ("detection of prism", "fail", "backfill_private.prism_gaps", "create it again"),
    ),
    "no target is installed": (
        "delete from public.backfill_targets",
        ("targets", "fail", "no target", "backfill install"),
    ),
    "the detection index is dropped": (
        f"drop index {INDEX}",
        ("index backfill_completed_sessions", "warn", "not there", "create index concurrently"),
    ),
    "the detection index is another one": (
        f"drop index {INDEX};"
        "create index backfill_completed_sessions on public.assessment_sessions (user_id)",
        ("index backfill_completed_sessions", "warn", "not the one", "drop index concurrently"),
    ),
    "the answers have no index": (
        "alter table public.assessment_responses"
        " drop constraint assessment_responses_one_answer_a_question",
        ("index on public.assessment_responses (session_id)", "warn", "slower", "create index"),
    ),
    "the answers are renamed": (
        "alter table public.fc_responses rename to answers",
        ("column public.fc_responses.session_id", "fail", "does not exist", "back its name"),
    ),
    "no environment is set": (
        "update public.backfill_settings set environment = null where only_row",
        ("environment", "warn", "not set", "update public.backfill_settings set environment"),
    ),
    "the service may approve": (
        "update public.backfill_settings set approval_policy = 'any' where only_row",
        ("approval policy", "warn", "any", "set approval_policy = 'second_person'"),
    ),
    "the settings are gone": (
        "delete from public.backfill_settings",
        ("settings", "fail", "row is gone", "insert into public.backfill_settings"),
    ),
}


def lines_of(db: Db) -> dict[str, Check]:
    """The database's lines by name."""
    row = db.execute("select public.backfill_check() as lines").fetchone()
    assert row is not None
    checks = [check_of(line) for line in row["lines"]]
    assert len({c.name for c in checks}) == len(checks), "two lines have one name"
    return {c.name: c for c in checks}


def test_the_sample_project_is_ready(project_db: Db) -> None:
    """Nothing fails; what warns is the local stack's policy alone."""
    lines = lines_of(project_db)
    assert {name: c.status for name, c in lines.items() if c.status != "ok"} == {
        "approval policy": "warn"
    }
    assert all(c.detail for c in lines.values())
    assert [c.name for c in lines.values() if c.status == "ok" and c.next_step] == []


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_has_its_line(project_db: Db, defect: str) -> None:
    """The right line fails or warns, names what is wrong and says what to do."""
    statement, (name, status, named, to_do) = DEFECTS[defect]
    project_db.execute(statement.encode())
    line = lines_of(project_db)[name]
    assert line.status == status
    assert named in line.detail
    assert to_do in line.next_step


CURED = (
    "a receipt trigger is disabled",
    "a receipt trigger is enabled as origin alone",
    "a receipt trigger is gone",
    "one of our tables is open",
    "a target table is open",
    "a guard of ours is disabled",
    "service_role may not call",
    "service_role may not write",
    "service_role may not read",
    "service_role may not read what a component needs",
    "service_role may not use a schema",
    "everything was granted to the service",
    "everything may be read by everyone",
    "an undo could not delete",
    "the key is not unique",
    "the detection index is dropped",
    "anon may read runs",
    "the service may not read items",
    "approvers may not hand in decisions",
    "everybody may call a function of ours",
    "the service may schedule a driver",
    "the service may not call a door",
    "the service may not call what a door names",
    "no environment is set",
    "the settings are gone",
)


@pytest.mark.parametrize("defect", CURED)
def test_the_next_step_cures_the_defect(project_db: Db, defect: str) -> None:
    """Pasted into the SQL editor, statement by statement, it makes the line ok."""
    statement, (name, *_) = DEFECTS[defect]
    project_db.execute(statement.encode())
    for step in lines_of(project_db)[name].next_step.split(";"):
        if step.strip():
            project_db.execute(step.encode())
    line = lines_of(project_db).get(name)
    assert line is None or line.status == "ok", line


def test_an_index_that_was_cut_off_is_seen(project_db: Db, project_admin: Db) -> None:
    """`create index concurrently` leaves an invalid index behind when it fails."""
    project_admin.execute(
        f"update pg_index set indisvalid = false where indexrelid = '{INDEX}'::regclass".encode()
    )
    line = lines_of(project_db)["index backfill_completed_sessions"]
    assert (line.status, "not valid" in line.detail) == ("warn", True)
    assert line.next_step.startswith(f"drop index concurrently {INDEX}; create index concurrently")


def test_an_empty_database_but_ours_is_checked_to_the_end(project_db: Db) -> None:
    """Nothing of the user's is left, and every line is still there to say so."""
    for table in ("profiles", "fc_scores", "fc_responses", "assessment_responses"):
        project_db.execute(f"drop table public.{table} cascade".encode())
    project_db.execute(b"drop table public.assessment_sessions cascade")
    failed = {name for name, c in lines_of(project_db).items() if c.status == "fail"}
    assert {f"table public.{t}" for t in ("assessment_sessions", "fc_scores", "profiles")} <= failed
    assert "detection of prism" in failed


def test_a_bound_that_is_not_set_is_ok(project_db: Db) -> None:
    """No bound on the throttle is a choice."""
    assert lines_of(project_db)["limits"].status == "ok"


def test_an_ordinary_user_may_not_check(project_db: Db) -> None:
    """The right is that of reading runs; a viewer has it."""
    user = {"role": "authenticated", "sub": "8d1d6ad6-2dd3-4a4c-8ab8-2f9ba7e0a1b5"}
    claims = (json.dumps(user),)
    project_db.execute("select set_config('request.jwt.claims', %s, false)", claims)
    project_db.execute(b"set role authenticated")
    with pytest.raises(psycopg.DatabaseError) as refusal:
        lines_of(project_db)
    assert refusal.value.sqlstate == "OB010"
    project_db.execute(b"reset role")
    project_db.execute(
        "insert into auth.users (id, email, raw_app_meta_data)"
        """ values (%s, 'v@example.org', '{"backfill_role": "viewer"}')""",
        (user["sub"],),
    )
    project_db.execute(b"set role authenticated")
    assert exit_codes.of_check([*lines_of(project_db).values()]) is ExitCode.DONE


def test_anon_may_not_even_call_it(project_db: Db) -> None:
    """anon has nothing."""
    project_db.execute(b"set role anon")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        lines_of(project_db)


def looked_up(url: str, key: str) -> tuple[Check, ...]:
    """What `check` says about the project at a URL."""

    async def look() -> tuple[Check, ...]:
        gateway = Gateway(url, key)
        try:
            return await check_project(gateway)
        finally:
            await gateway.close()

    return anyio.run(look)


def test_over_the_api_the_connection_comes_first(project: Project) -> None:
    """Reachable, key, migrations, then what the database says."""
    checks = looked_up(project.url, project.keys.secret)
    assert [(c.name, c.status) for c in checks[:4]] == [
        ("reachable", "ok"),
        ("key", "ok"),
        ("migrations", "ok"),
        ("targets", "ok"),
    ]
    assert checks[0].detail.removesuffix(" answers") in project.url
    assert exit_codes.of_check(checks) is ExitCode.DONE


def test_a_legacy_key_warns(project: Project) -> None:
    """It still works, and will not for long."""
    checks = {c.name: c for c in looked_up(project.url, project.keys.service_role)}
    assert (checks["key"].status, "2026" in checks["key"].detail) == ("warn", True)
    assert "SUPABASE_SECRET_KEY" in checks["key"].next_step
    assert exit_codes.of_check([*checks.values()]) is ExitCode.DONE


def test_missing_migrations_are_a_line_that_fails(project: Project) -> None:
    """What to do is to install them."""
    project.db.execute(b"drop function public.backfill_check(jsonb)")
    project.reload()
    checks = looked_up(project.url, project.keys.secret)
    assert [(c.name, c.status) for c in checks[-1:]] == [("migrations", "fail")]
    assert checks[-1].next_step.startswith("backfill install")
    assert exit_codes.of_check(checks) is ExitCode.UNREACHABLE


def test_a_project_that_cannot_be_reached_is_raised() -> None:
    """There is nothing to show a line about."""
    with pytest.raises(CannotConnect):
        looked_up("http://127.0.0.1:1", "sb_secret_of_nobody")


def test_a_refused_key_is_raised(project: Project) -> None:
    """Neither is there behind a key that the project does not know."""
    with pytest.raises(CannotConnect):
        looked_up(project.url, "sb_secret_of_nobody")


def test_a_plan_and_a_check_say_the_same_of_what_both_look_at(
    project: Project, bf: backfill.Backfill
) -> None:
    """One function says each such mark: alike in name, status, detail and what to do about it."""
    project.db.execute(
        "update public.backfill_settings set approval_policy = 'any', environment = null"
    )
    project.db.execute("alter table public.fc_scores disable row level security")
    project.db.execute('alter table public.profiles disable trigger "000_backfill_receipt"')
    project.db.execute(
        "revoke execute on function public.score_fc_session(uuid, text, text) from service_role"
    )
    checked = {c.name: c for c in bf.check()}
    planned = {c.name: c for c in bf.plan(since="2025-08-01", rehearse=0).checks}
    both = checked.keys() & planned.keys()
    assert {name: checked[name] for name in both} == {name: planned[name] for name in both}
    assert {name for name in both if checked[name].next_step} == {
        "environment",
        "approval policy",
        "row level security of public.fc_scores",
        "receipts of public.profiles",
        "function score_fc_session",
    }


def test_the_first_thing_that_is_wrong_with_a_function_is_what_is_put_right(
    project_db: Db,
) -> None:
    """Of a function with other arguments that nobody may call: the mark and its cure agree."""
    project_db.execute(
        "drop function public.score_prism(uuid, text);"
        "create function public.score_prism(session uuid, engine_version text) returns jsonb"
        " language sql return '{}'::jsonb;"
        "revoke execute on function public.score_prism from public, service_role"
    )
    line = lines_of(project_db)["function score_prism"]
    assert "the calls name" in line.detail
    assert "set arguments" in line.next_step
