"""Code of ours with its owner's rights never meets what its caller made in place of what we mean.

PostgreSQL looks for types and relations in pg_temp first unless a path names it last, and anyone
may make types, tables and functions there. So each such function of ours is called in a session
whose pg_temp holds a trap under the name of every type and table of the system.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

import backfill
from tests.conftest import Project
from tests.kit.outsider import Outsider, running
from tests.kit.seed import SEED
from tests.kit.verbs import started

# A domain's check runs the caller's function, with the rights of whatever assigns a value to it.
TRAPS = """
create function pg_temp.spring(p_name pg_catalog.text) returns pg_catalog.bool
language plpgsql set search_path = pg_catalog as $f$
begin
  if current_user = 'postgres' then
    perform set_config('trap.sprung', p_name, false);
  end if;
  return true;
end $f$;
do $do$
declare
  v_name pg_catalog.text;
begin
  for v_name in
    select t.typname from pg_catalog.pg_type as t
    where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype = 'b' and t.typelem = 0
      and t.typisdefined and t.typname !~ '^(_|pg_)'
  loop
    execute format('create domain pg_temp.%1$I as pg_catalog.%1$I'
      ' check (pg_temp.spring(%1$L))', v_name);
  end loop;
  for v_name in
    select c.relname from pg_catalog.pg_class as c
    where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind in ('r', 'v')
      and not exists (select from pg_catalog.pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0
          and a.atttypid in ('pg_catalog.anyarray'::regtype, 'pg_catalog._pg_statistic'::regtype))
  loop
    execute format('create view pg_temp.%1$I as select * from pg_catalog.%1$I'
      ' where pg_temp.spring(%1$L)', v_name);
  end loop;
end $do$;
select set_config('trap.sprung', '', false);
"""


OWNERS_RIGHTS = """
select p.oid::regprocedure::text as name, p.proname as bare,
  array(select format_type(t, null) from unnest(p.proargtypes) as t) as types
from pg_proc as p
where p.pronamespace = 'backfill_private'::regnamespace and p.prosecdef
  and p.prorettype <> 'trigger'::regtype
order by 1
"""
# Something of each type, so that a body is entered; {run} is a run that runs.
GIVEN = {
    "uuid": "'{run}'",
    "text": "'read'",
    "text[]": "'{{fc_scores}}'",
    "jsonb": "'[]'",
    "integer": "1",
    "bigint": "1",
    "numeric": "1",
    "integer[]": "'{{1}}'",
}
SERVICE = json.dumps({"role": "service_role"})


def calls(types: list[str], run_id: str) -> list[str]:
    """The arguments of two calls: all null, and something of each type."""
    return [
        ", ".join(f"null::pg_catalog.{t}" if "." not in t else f"null::{t}" for t in types),
        ", ".join(
            f"{GIVEN[t].format(run=run_id)}::pg_catalog.{t}" if t in GIVEN else f"null::{t}"
            for t in types
        ),
    ]


def sprung(db: psycopg.Connection[Any], call: str) -> str:
    """The trap that a call as service_role walks into with the owner's rights; '' if none."""
    db.execute(b"select set_config('trap.sprung', '', false)")
    try:
        with db.transaction():
            db.execute(
                "select set_config('role', 'service_role', true),"
                " set_config('request.jwt.claims', %s, true)",
                (SERVICE,),
            )
            db.execute(call.encode())
    except psycopg.Error:
        pass  # refused: what counts is what it met on the way
    row = db.execute("select current_setting('trap.sprung') as trap").fetchone()
    return str(row["trap"]) if row else ""


def caught(db: psycopg.Connection[Any], run_id: str) -> dict[str, str]:
    """Function of ours with its owner's rights -> the trap that it walks into."""
    functions = db.execute(OWNERS_RIGHTS.encode()).fetchall()
    assert len(functions) > 25
    db.execute(b"grant execute on all functions in schema backfill_private to service_role")
    db.execute(TRAPS.encode())
    found = {}
    for function in functions:
        for arguments in calls(function["types"], run_id):
            trap = sprung(db, f"select backfill_private.{function['bare']}({arguments})")
            if trap:
                found[function["name"]] = trap
    return found


def test_no_function_with_its_owners_rights_meets_a_callers_type_or_table(
    project: Project,
) -> None:
    """Each of them, called with nothing and with something, by a run that is under way."""
    run_id = started(project.db)
    assert caught(project.db, run_id) == {}


def test_an_empty_path_would_meet_them(project: Project) -> None:
    """Without this the test above would pass whatever the traps are good for."""
    run_id = started(project.db)
    for function in project.rows(OWNERS_RIGHTS):
        project.db.execute(
            sql.SQL("alter function {} set search_path = ''").format(sql.SQL(function["name"]))
        )
    assert len(caught(project.db, run_id)) > 10


RUN_SQL = """
create function public.run_sql(q text) returns void language plpgsql as $$ begin execute q; end $$;
grant execute on function public.run_sql(text) to service_role, authenticated;
"""
# The policy falls if code of the caller's runs as the owner.
TAKE_OVER = """
create function pg_temp.taken(t pg_catalog.text) returns pg_catalog.bool language plpgsql as $f$
begin
  if current_user = 'postgres' then
    update public.backfill_settings set approval_policy = 'any' where only_row;
  end if;
  return true;
end $f$;
create domain pg_temp.text as pg_catalog.text check (pg_temp.taken(value::pg_catalog.text));
create domain pg_temp.jsonb as pg_catalog.jsonb check (pg_temp.taken(value::pg_catalog.text));
create domain pg_temp.uuid as pg_catalog.uuid check (pg_temp.taken(value::pg_catalog.text));
"""


def policy(project: Project) -> Any:
    return project.value("select approval_policy from public.backfill_settings")


@pytest.fixture(autouse=True)
def second_person(project: Project) -> None:
    """The policy that the service key would like to be rid of."""
    project.db.execute(b"update public.backfill_settings set approval_policy = 'second_person'")


@pytest.mark.parametrize("who", ["the service", "a user without a role"])
def test_a_project_that_runs_its_callers_sql_gives_nobody_the_owners_rights(
    project: Project, who: str
) -> None:
    """Many projects have such a function, with its caller's rights."""
    project.db.execute(RUN_SQL.encode())
    project.reload()
    outsider = Outsider(project, None if who == "the service" else project.user(None))
    said = outsider.rpc("run_sql", q=f"{TAKE_OVER} select backfill_private.may('read')")
    assert said is None, said  # it ran, without effect
    assert policy(project) == "second_person"


FORGED = json.dumps(
    {"x-backfill-run": "00000000-0000-0000-0000-000000000000", "x-backfill-fence": "made up"}
)
# The trigger is entered and lets the row be: what it met on the way is not rolled back.
NOT_OURS = json.dumps({"x-backfill-other": "1"})
CLERK = """
create role clerk login password 'clerk';
grant insert on public.fc_scores to clerk;
create policy clerks on public.fc_scores for insert to clerk with check (true);
"""
NO_CLERK = "drop policy clerks on public.fc_scores; drop owned by clerk; drop role clerk"
INSERT = """
insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
values (%s, 'v9', 'functions', '{}', 6)
"""


def test_a_login_that_may_insert_into_a_target_gets_nothing_more(project: Project) -> None:
    """The trigger of the receipts has its owner's rights, and its caller's session."""
    session = project.value("select id from public.assessment_sessions limit 1")
    project.admin.execute(CLERK.encode())
    try:
        where = project.db.info.dsn
        with psycopg.connect(where, user="clerk", password="clerk", autocommit=True) as clerk:
            clerk.execute(TAKE_OVER.encode())
            clerk.execute(b"select set_config('request.headers', %s, false)", (FORGED,))
            with pytest.raises(psycopg.Error, match="the fence is stale"):
                clerk.execute(INSERT.encode(), (session,))
            clerk.execute(b"select set_config('request.headers', %s, false)", (NOT_OURS,))
            clerk.execute(INSERT.encode(), (session,))
        assert policy(project) == "second_person"
    finally:
        project.admin.execute(NO_CLERK.encode())


def test_a_login_with_the_services_rights_is_not_taken_for_postgres(
    project: Project, bf: backfill.Backfill
) -> None:
    """It says no claims, as the SQL editor does. Where we decide, current_user is the owner's."""
    plan = bf.plan(**SEED)
    project.admin.execute(f"{CLERK}; grant service_role to clerk".encode())
    try:
        where = project.db.info.dsn
        with (
            psycopg.connect(where, user="clerk", password="clerk", autocommit=True) as clerk,
            pytest.raises(psycopg.Error) as refused,
        ):
            clerk.execute("select public.backfill_approve(%s, %s)", (plan.run_id, plan.digest))
        assert refused.value.sqlstate == "OB005"
    finally:
        project.admin.execute(NO_CLERK.encode())


def test_an_undo_runs_no_trigger_of_the_callers_session(
    project: Project, bf: backfill.Backfill
) -> None:
    """Who has the right TRIGGER on a table may put a function of pg_temp there, for one session.

    An undo writes with its owner's rights: that trigger would run with them.
    """
    run_id = running(project, bf)
    bf.apply(run_id)
    undo = bf.rollback(run_id, sessions=[bf.get(run_id).sessions[0].session_id])
    project.db.execute(RUN_SQL.encode())
    project.db.execute(b"grant trigger on public.profiles to service_role")
    project.reload()
    said = Outsider(project).rpc(
        "run_sql",
        q="create function pg_temp.spring() returns trigger language plpgsql as $f$ begin"
        " update public.backfill_settings set approval_policy = 'any' where only_row;"
        " return null; end $f$;"
        " create trigger theirs after delete on public.profiles for each row"
        " execute function pg_temp.spring();"
        f" select public.backfill_confirm_undo('{run_id}', '{undo.digest}', 'because')",
    )
    assert policy(project) == "second_person", said
    assert said["code"] == "OB010", said
    assert "trigger theirs on public.profiles runs a function of service_role" in said["message"]


# A log as most people write it, and a table of the caller's in its place: its default would run
# with the rights of what writes to it.
LOG = """
create table public.change_log (what text);
create function public.log_change() returns trigger language plpgsql as
$$ begin insert into change_log (what) values (tg_op); return null; end $$;
create trigger log_change after delete on public.profiles for each row
execute function public.log_change();
"""
TRAP = """
create function pg_temp.spring() returns pg_catalog.text language plpgsql as $f$ begin
  if current_user = 'postgres' then
    update public.backfill_settings set approval_policy = 'any' where only_row;
  end if;
  return 'sprung';
end $f$;
create temporary table change_log (
  what pg_catalog.text, also pg_catalog.text default pg_temp.spring());
grant all on change_log to public;
"""


@pytest.mark.parametrize("path", [None, "pg_temp, public", "pg_temp", ""])
def test_a_path_that_a_caller_gives_to_an_undo_leads_to_nothing_of_theirs(
    project: Project, bf: backfill.Backfill, path: str | None
) -> None:
    """The trigger of the owner's finds its own table, or none, never one in pg_temp."""
    run_id = running(project, bf)
    bf.apply(run_id)
    project.db.execute((LOG + RUN_SQL).encode())
    project.reload()
    undo = bf.rollback(run_id, sessions=[bf.get(run_id).sessions[0].session_id])
    first = "" if path is None else f"select pg_catalog.set_config('search_path', '{path}', true);"
    said = Outsider(project).rpc(
        "run_sql",
        q=f"{TRAP} {first} select public.backfill_confirm_undo('{run_id}', '{undo.digest}',"
        " 'because')",
    )
    assert said is None, said
    assert policy(project) == "second_person"
    logged = project.value("select count(*) from public.change_log")
    assert logged == (1 if path in {None, "pg_temp, public"} else 0)


def test_no_call_through_the_api_gives_the_path_of_the_users_code(project: Project) -> None:
    """It is that of the API itself, so no call makes a function find other tables."""
    doors: dict[str, dict[str, Any]] = {
        "backfill_rehearse": {"p_session_id": "x"},
        "backfill_bulk": {"p_worker": "w", "p_sessions": 1},
        "backfill_confirm_undo": {"p_digest": "x", "p_reason": "x"},
    }
    known: dict[str, Any] = {"p_run_id": str(uuid4())}
    for door, given in doors.items():
        assert Outsider(project).rpc(door, **known, **given)["code"] in ("OB001", "OB014"), door
        for name in ("p_search_path", "search_path", ""):
            said = Outsider(project).rpc(door, **{**known, **given, name: "pg_temp"})
            assert said["code"] in ("PGRST202", "42601"), (door, name)


@pytest.mark.parametrize(("kept", "approves"), [("second_person", True), ("postgres_only", False)])
def test_only_the_sql_editor_withstands_somebody_who_says_anyones_claims(
    project: Project, bf: backfill.Backfill, kept: str, approves: bool
) -> None:
    """A function that runs its caller's SQL lets the service key take any Auth user's claims.

    PostgreSQL cannot tell them from those of a token. `postgres_only` asks for the login.
    """
    project.db.execute(b"update public.backfill_settings set approval_policy = %s", (kept,))
    plan = bf.plan(**SEED)
    project.user("approver")
    ada = project.value("select id from auth.users where email like 'approver-%%'")
    project.db.execute(RUN_SQL.encode())
    project.reload()
    claims = json.dumps({"role": "authenticated", "sub": str(ada)})
    said = Outsider(project).rpc(
        "run_sql",
        q=f"select set_config('request.jwt.claims', '{claims}', true);"
        " set local role authenticated;"
        f" select public.backfill_approve('{plan.run_id}', '{plan.digest}', 'Ada')",
    )
    assert (bf.get(plan.run_id).state == "approved") is approves, said
