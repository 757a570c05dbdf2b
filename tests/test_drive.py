"""Runs without a client: the database drives them, step by step, under every promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import backfill
from backfill.local import sample
from backfill.targets import migrations
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.at_once import at_once, more_connections
from tests.kit.clocks import DatabaseClock
from tests.kit.copies import Copy
from tests.kit.edge import prism_over_edge
from tests.kit.readme import claim
from tests.kit.scorers import misbehave
from tests.kit.seed import CANDIDATES, SEED
from tests.kit.throttling import Start, most_in_a_minute

Db = psycopg.Connection[Any]
# It claims until the tests' clock moves. Its time is less than any wait: a driver that still has
# time would sleep until a clock that stands still goes on.
STEP = b"call public.backfill_drive_step(%s, '0.0001 seconds')"
MOST_STEPS = 200
QUICK: dict[str, Any] = {"throttle_per_minute": "none", "batch_size": 20}
LINES = claim("Without a client", "create extension", "executed")
MODES = pytest.mark.parametrize("mode", ["direct", "bulk"])


def approved(db: Db, **request: Any) -> str:
    """A run over the sample that somebody has approved; its id."""
    run_id = verbs.planned(db, **{**SEED, **request})
    verbs.approve(db, run_id)
    return run_id


def value(db: Db, query: str, *values: object) -> Any:
    """The one value of a query."""
    row = db.execute(query.encode(), values).fetchone()
    return None if row is None else next(iter(row.values()))


def state(db: Db, run_id: str) -> str:
    return str(value(db, "select state from public.backfill_runs where run_id = %s", run_id))


def counts(db: Db, run_id: str) -> dict[str, int]:
    """How many sessions are in each state."""
    rows = db.execute(
        "select state, count(*) as n from public.backfill_items where run_id = %s group by 1",
        (run_id,),
    )
    return {row["state"]: row["n"] for row in rows}


def failures(db: Db, run_id: str) -> dict[str, str]:
    """What failed, with its code."""
    rows = db.execute(
        "select session_id, error_code from public.backfill_run_failures where run_id = %s",
        (run_id,),
    )
    return {row["session_id"]: row["error_code"] for row in rows}


def drive(db: Db, clock: DatabaseClock, run_id: str, *, names_it: bool = True) -> None:
    """Step until the run needs no more steps, as psql does in a loop."""
    for _ in range(MOST_STEPS):
        db.execute(STEP, (run_id if names_it else None,))
        if state(db, run_id) not in ("approved", "running"):
            return
        clock.advance(1)
    raise AssertionError(f"{counts(db, run_id)} after {MOST_STEPS} steps")


def sessions(db: Db, number: int) -> list[str]:
    """The first candidates."""
    return [row["session_id"] for row in db.execute(CANDIDATES.encode()).fetchall()[:number]]


@MODES
def test_a_run_is_driven_to_its_end(project_db: Db, clock: DatabaseClock, mode: str) -> None:
    """By the throttle, the canary first, each row with its receipt, the chain whole."""
    run_id = approved(project_db, mode=mode)
    drive(project_db, clock, run_id, names_it=mode == "bulk")
    assert state(project_db, run_id) == "completed"
    assert counts(project_db, run_id) == {"done": 39}
    assert verbs.verdict(project_db, run_id) == "pass"
    assert not project_db.execute(
        "select from backfill_private.chain_faults(%s)", (run_id,)
    ).rowcount
    starts = [
        Start(row["at"], row["n"])
        for row in project_db.execute(
            "select started_at as at, count(*) as n from public.backfill_items group by 1"
        )
    ]
    assert most_in_a_minute(starts) == 20
    workers = project_db.execute(
        "select distinct details ->> 'worker' as name from public.backfill_events"
        " where details ? 'worker'"
    ).fetchall()
    assert [w["name"] for w in workers] == [f"driver:{project_db.info.backend_pid}"]


@MODES
def test_what_fails_is_one_sessions_failure(
    project_db: Db, clock: DatabaseClock, mode: str
) -> None:
    """As with a worker: its own error, others go on, a retry scores it."""
    bad = sessions(project_db, 8)
    misbehave(
        project_db,
        {
            "fail": bad[:2],
            "nothing": bad[2:4],
            "tenant": bad[4:5],
            "right": bad[5:6],
            "quota": bad[6:],
        },
    )
    run_id = approved(project_db, mode=mode, **QUICK)
    drive(project_db, clock, run_id)
    codes = ["P0001", "P0001", "OB017", "OB017", "42P01", "42501", "PT429", "PT429"]
    assert failures(project_db, run_id) == dict(zip(bad, codes, strict=True))
    assert counts(project_db, run_id) == {"done": 31, "failed": 8}
    assert verbs.verdict(project_db, run_id) == "partial"
    project_db.execute("delete from public.misbehaviour")
    verbs.call(project_db, "backfill_retry", p_run_id=run_id)
    drive(project_db, clock, run_id)
    assert verbs.verdict(project_db, run_id) == "pass"


@MODES
def test_a_write_of_another_sessions_row_pauses_the_run(
    project_db: Db, clock: DatabaseClock, mode: str
) -> None:
    misbehave(project_db, {"foreign": sessions(project_db, 1)})
    project_db.execute(
        "insert into public.fc_scores select * from jsonb_populate_record(null::public.fc_scores,"
        " (select to_jsonb(f) || jsonb_build_object('version', 'old')"
        "  from public.fc_scores as f limit 1))"
    )
    run_id = approved(project_db, mode=mode, **QUICK)
    drive(project_db, clock, run_id)
    assert state(project_db, run_id) == "paused"
    assert failures(project_db, run_id)[sessions(project_db, 1)[0]] == "OB018"


def test_a_pause_stops_it_and_a_resume_lets_it_go_on(project_db: Db, clock: DatabaseClock) -> None:
    run_id = approved(project_db)
    project_db.execute(STEP, (run_id,))
    verbs.call(project_db, "backfill_pause", run=run_id, reason="lunch")
    before = counts(project_db, run_id)
    clock.advance(600)
    project_db.execute(STEP, (run_id,))
    assert (state(project_db, run_id), counts(project_db, run_id)) == ("paused", before)
    verbs.call(project_db, "backfill_resume", run=run_id)
    project_db.execute(STEP, (None,))
    assert counts(project_db, run_id) != before
    verbs.call(project_db, "backfill_cancel", run=run_id, reason="enough")
    clock.advance(600)
    done = counts(project_db, run_id)
    project_db.execute(STEP, (run_id,))
    assert (state(project_db, run_id), counts(project_db, run_id)) == ("cancelled", done)


def test_a_definition_that_changed_pauses_the_run(project_db: Db, clock: DatabaseClock) -> None:
    """A step starts a run as an apply does: everything that was approved is compared."""
    run_id = approved(project_db)
    misbehave(project_db, {})
    drive(project_db, clock, run_id)
    assert state(project_db, run_id) == "paused"
    assert counts(project_db, run_id) == {"pending": 39}


def test_a_run_that_is_refused_its_start_keeps_no_other_waiting(
    project_db: Db, clock: DatabaseClock
) -> None:
    """What refused it is raised when the others have had their turns."""
    project_db.execute("update public.backfill_settings set max_throttle_per_minute = 20")
    first = approved(project_db, throttle_per_minute=10)
    second = approved(project_db, throttle_per_minute=15)
    project_db.execute(STEP, (second,))
    with pytest.raises(psycopg.errors.DatabaseError) as refused:
        project_db.execute(STEP, (None,))
    assert refused.value.sqlstate == "OB015"
    clock.advance(60)
    before = counts(project_db, second)["done"]
    with pytest.raises(psycopg.errors.DatabaseError):
        project_db.execute(STEP, (None,))
    assert counts(project_db, second)["done"] > before
    assert state(project_db, first) == "approved"


WATCHED = """
create table public.seen (as_role text, claims text, path text, headers jsonb, login text);
grant insert on public.seen to service_role;
create function public.watch() returns trigger language plpgsql as $$
begin
  insert into public.seen values (current_user, auth.role(), current_setting('search_path'),
    current_setting('request.headers')::jsonb, session_user);
  return null;
end $$;
create trigger watch after insert on public.profiles for each row execute function public.watch();
"""


@MODES
def test_user_code_meets_what_it_meets_behind_the_api(
    project_db: Db, clock: DatabaseClock, mode: str
) -> None:
    """The role, the claims and our headers. The path is the session's, and nothing stays set."""
    project_db.execute(WATCHED.encode())
    project_db.execute("alter function public.score_prism(uuid, text) reset search_path")
    run_id = approved(project_db, mode=mode, **QUICK)
    project_db.execute("set search_path = public, extensions")
    drive(project_db, clock, run_id)
    seen = project_db.execute("select distinct as_role, claims, path, login from seen").fetchall()
    assert [tuple(row.values()) for row in seen] == [
        ("service_role", "service_role", "public, extensions", "postgres")
    ]
    assert value(project_db, "select bool_and(headers ->> 'x-backfill-run' = %s) from seen", run_id)
    left = project_db.execute(
        "select current_user as who, current_setting('search_path') as path,"
        " current_setting('request.headers', true) as headers,"
        " current_setting('request.jwt.claims', true) as claims"
    ).fetchone()
    assert left is not None
    assert (left["who"], left["path"]) == ("postgres", "public, extensions")
    assert not left["headers"]
    assert not left["claims"]


def test_no_path_of_the_session_reaches_the_procedure(project_db: Db, clock: DatabaseClock) -> None:
    """Neither at its beginning nor in any transaction after: see test_house_rules.py too."""
    project_db.execute(
        "create schema evil; grant usage on schema evil to service_role;"
        "create function evil.bad() returns text language plpgsql as"
        " $$ begin raise exception 'evil was called'; end $$;"
        "create function evil.set_config(text, text, boolean) returns text language sql"
        " as 'select evil.bad()';"
        "create function evil.gen_random_uuid() returns uuid language sql"
        " as 'select evil.bad()::uuid';"
        "create function evil.pg_backend_pid() returns integer language sql"
        " as 'select evil.bad()::integer';"
        "create function evil.jsonb_array_length(jsonb) returns integer language sql"
        " as 'select evil.bad()::integer';"
    )
    run_id = approved(project_db, **QUICK)
    project_db.execute("set search_path = evil, pg_catalog, public")
    drive(project_db, clock, run_id)
    project_db.execute("reset search_path")
    assert counts(project_db, run_id) == {"done": 39}


def test_a_deferred_constraint_fails_its_session_alone(
    project_db: Db, clock: DatabaseClock
) -> None:
    """It would fail the commit, which no procedure can catch."""
    bad = sessions(project_db, 3)[2]
    project_db.execute(
        "create function public.late() returns trigger language plpgsql as $$ begin if"
        f" new.session_id = '{bad}' then raise exception 'too late'; end if; return null; end $$;"
        "create constraint trigger late after insert on public.profiles deferrable initially"
        " deferred for each row execute function public.late()"
    )
    run_id = approved(project_db, **QUICK)
    drive(project_db, clock, run_id)
    assert failures(project_db, run_id) == ({bad: "P0001"} if failures(project_db, run_id) else {})
    assert counts(project_db, run_id)["done"] >= 38


def test_user_code_in_a_postgres_session_is_not_postgres(project_db: Db) -> None:
    """What runs as service_role may take its claims away, and decides nothing all the same."""
    project_db.execute("update backfill_settings set approval_policy = 'second_person'")
    run_id = verbs.planned(project_db, **SEED)
    digest = value(project_db, "select digest from backfill_runs where run_id = %s", run_id)
    project_db.execute("set role service_role")
    with pytest.raises(psycopg.errors.DatabaseError) as refused:
        project_db.execute("select public.backfill_approve(%s, %s, 'Ada')", (run_id, digest))
    assert refused.value.sqlstate == "OB005"


@pytest.mark.parametrize(
    "planted",
    [
        "create function pg_temp.mine() returns trigger language plpgsql as"
        " 'begin return null; end'; create trigger mine after insert on public.profiles"
        " for each row execute function pg_temp.mine()",
        "create function public.length(uuid) returns void language sql as ''",
        "create table public.assessments ()",
    ],
)
def test_nothing_of_an_api_login_runs_in_the_owners_session(
    project_db: Db, project_admin: Db, clock: DatabaseClock, planted: str
) -> None:
    """It could say `reset role` there. So no step begins, and nobody schedules one."""
    run_id = approved(project_db)
    project_admin.execute("grant create on schema public to service_role")
    project_admin.execute("grant trigger on public.profiles to service_role")
    project_admin.execute("set role service_role")
    project_admin.execute(planted.encode())
    project_admin.execute("reset role")
    with pytest.raises(psycopg.errors.DatabaseError, match="service_role") as refused:
        project_db.execute(STEP, (run_id,))
    assert refused.value.sqlstate == "OB010"
    assert state(project_db, run_id) == "approved"


def test_a_call_at_the_time_limit_fails_its_session(project_db: Db) -> None:
    """The statement's one time limit ends the call. The step settles it and ends in time."""
    slow = sessions(project_db, 3)[2]
    misbehave(project_db, {"slow": [slow]})
    run_id = approved(project_db, **QUICK)
    project_db.execute("set statement_timeout = '2s'")
    for _ in range(MOST_STEPS):
        project_db.execute("call public.backfill_drive_step(%s)", (run_id,))
        if state(project_db, run_id) == "completed":
            break
    project_db.execute("reset statement_timeout")
    assert failures(project_db, run_id) == {slow: "57014"}
    assert counts(project_db, run_id) == {"done": 38, "failed": 1}


def test_two_drivers_and_a_worker_share_a_run(
    project: Project, project_copy: Copy, bf: backfill.Backfill
) -> None:
    """Each session is scored once, whoever does it."""
    run_id = approved(project.db, throttle_per_minute="none", batch_size=2)
    work: list[Callable[[Db], Any]] = [
        lambda db: db.execute("call public.backfill_drive_step(%s)", (run_id,)),
        lambda db: db.execute("call public.backfill_drive_step()"),
        lambda db: bf.apply(run_id),
    ]
    dsn = project_copy.server.dsn(project_copy.name)
    with more_connections(dsn, 3) as connections:
        ended = at_once(connections, lambda db, place: work[place](db))
    assert [e for e in ended if isinstance(e, Exception)] == []
    assert counts(project.db, run_id) == {"done": 39}
    assert bf.verify(run_id).verdict == "pass"
    assert value(project.db, "select count(*) from backfill_items where attempts > 1") == 0


# -- scheduling, on a table of the form that pg_cron's has: see test_drive_cron.py for the real one

CRON = """
create schema cron;
create table cron.job (jobid bigint generated always as identity, jobname text, schedule text,
  command text, database text default current_database(), active boolean default true,
  unique (jobname));
create function cron.schedule(text, text, text) returns bigint language sql as $$
  insert into cron.job (jobname, schedule, command) values ($1, $2, $3)
  on conflict (jobname) do update set schedule = $2, command = $3 returning jobid $$;
create function cron.unschedule(bigint) returns boolean language sql as $$
  delete from cron.job where jobid = $1 returning true $$;
"""
NEWER = (
    b"set local allow_system_table_mods = on; insert into pg_extension"
    b" (oid, extname, extowner, extnamespace, extrelocatable, extversion)"
    b" values (1, 'pg_cron', 10, 'cron'::regnamespace, false, '1.6.4')"
)


def test_the_lines_of_the_page(project_db: Db) -> None:
    """In the SQL editor, one after the other."""
    project_db.execute(CRON.encode())
    run_id = approved(project_db)
    enables, *lines = LINES.splitlines()
    assert enables == "create extension if not exists pg_cron;"  # see test_drive_cron.py
    for line in lines:
        project_db.execute(line.replace("RUN", run_id).encode())
    assert value(project_db, "select count(*) from cron.job") == 0


def refusal(db: Db, query: str, *values: object) -> tuple[str | None, str, str]:
    """How a query is refused: SQLSTATE, sentence, next step."""
    with pytest.raises(psycopg.errors.DatabaseError) as refused:
        db.execute(query.encode(), values)
    said = refused.value.diag
    return refused.value.sqlstate, said.message_primary or "", said.message_hint or ""


def test_without_pg_cron_it_says_how_to_enable_it_and_what_works_without(project_db: Db) -> None:
    run_id = approved(project_db)
    code, sentence, step = refusal(project_db, "select backfill_drive(%s)", run_id)
    assert (code, sentence) == ("OB013", "pg_cron is not enabled in this database")
    assert "create extension pg_cron" in step
    assert f"backfill apply {run_id}" in step
    assert f"call backfill_drive_step('{run_id}')" in step
    assert refusal(project_db, "select backfill_drive_every('10 seconds')")[:2] == (code, sentence)
    assert value(project_db, "select backfill_drive_stop()") == {"stopped": []}
    assert state(project_db, run_id) == "approved"


@pytest.mark.parametrize(
    "every",
    [
        "soon",
        "",
        "0 seconds",
        "-1 minute",
        "1.5 seconds",
        "61 seconds",
        "7 minutes",
        "1 year",
        None,
    ],
)
def test_an_interval_that_no_driver_comes_in_is_refused(project_db: Db, every: str | None) -> None:
    project_db.execute(CRON.encode())
    code, sentence, step = refusal(project_db, "select backfill_drive_every(%s::text)", every)
    assert code == "OB013"
    assert sentence.startswith("a driver comes every 1 to 59 seconds, or in whole minutes that")
    assert step == "select backfill_drive_every('10 seconds')"
    assert value(project_db, "select count(*) from cron.job") == 0


def test_a_run_that_no_driver_takes_is_refused(project_db: Db) -> None:
    """Each in a sentence with the next step, and nothing is scheduled."""
    project_db.execute(CRON.encode())
    nowhere = uuid4()
    drives = "select backfill_drive(%s)"
    assert refusal(project_db, drives, nowhere) == (
        "OB001",
        f"there is no run {nowhere}",
        "backfill runs",
    )
    run_id = verbs.planned(project_db, **SEED)
    code, sentence, step = refusal(project_db, drives, run_id)
    assert (code, sentence) == ("OB003", f"run {run_id} is awaiting approval")
    assert step.startswith(f"backfill approve {run_id} --digest ")
    assert refusal(project_db, "call backfill_drive_step(%s)", run_id)[0] == "OB003"
    verbs.approve(project_db, run_id)
    verbs.call(project_db, "backfill_pause", run=run_id, reason="lunch")
    assert refusal(project_db, drives, run_id) == (
        "OB002",
        f"run {run_id} is paused: there is nothing to drive",
        f"backfill resume {run_id}",
    )
    assert value(project_db, "select count(*) from cron.job") == 0


def test_edge_functions_need_a_worker(
    project_db: Db, project_copy: Copy, clock: DatabaseClock
) -> None:
    """Whoever names such a run is told so. The driver of all runs passes it over."""
    project_db.execute(CRON.encode())
    sample.declare(project_copy.server.dsn(project_copy.name), prism_over_edge())
    run_id = approved(project_db)
    told = (
        "OB013",
        f"run {run_id} needs a worker: fc_scores is scored by an Edge Function,"
        " which the database does not call",
        f"backfill apply {run_id}",
    )
    assert refusal(project_db, "select backfill_drive(%s)", run_id) == told
    assert refusal(project_db, "call backfill_drive_step(%s)", run_id) == told
    project_db.execute(STEP, (None,))
    value(project_db, "select backfill_drive_every('10 seconds')")
    waits = "select waits_for from backfill_run_progress"
    assert value(project_db, waits) == f"apply: backfill apply {run_id}"


def test_a_run_is_driven_once(project_db: Db, clock: DatabaseClock) -> None:
    """By its own job or by the one for all. Its own goes once it is over, all go with the stop."""
    project_db.execute(CRON.encode())
    run_id = approved(project_db, **QUICK)
    drives = "select backfill_drive(%s)"
    told = value(project_db, drives, run_id)
    assert told == {
        "run_id": run_id,
        "state": "approved",
        "job": f"backfill_drive {run_id}",
        "schedule": "* * * * *",
        "stop": "select backfill_drive_stop()",
    }
    assert refusal(project_db, drives, run_id) == (
        "OB002",
        f"run {run_id} is driven already, by job backfill_drive {run_id}, every minute",
        "select backfill_drive_stop()",
    )
    waits = "select waits_for from backfill_run_progress"
    assert value(project_db, waits) == f"driver: backfill_drive {run_id}, every minute"
    command = value(project_db, "select command from cron.job")
    # This pg_cron knows minutes alone, so each call looks again within its minute.
    assert command == (f"call public.backfill_drive_step('{run_id}', '50 seconds', '10 seconds')")
    drive(project_db, clock, run_id)
    assert value(project_db, "select count(*) from cron.job") == 0
    code, sentence, _ = refusal(project_db, drives, run_id)
    assert (code, sentence) == ("OB002", f"run {run_id} is completed: there is nothing to drive")
    value(project_db, "select backfill_drive_every(interval '5 minutes')")
    value(project_db, "select backfill_drive_every('5 minutes')")
    project_db.execute("delete from public.profiles")
    second = approved(project_db)
    assert refusal(project_db, drives, second)[1] == (
        f"run {second} is driven already, by job backfill_drive, every 5 minutes"
    )
    assert value(project_db, "select backfill_drive_stop()") == {"stopped": ["backfill_drive"]}
    assert value(project_db, "select backfill_drive_stop()") == {"stopped": []}


@pytest.mark.parametrize(
    ("every", "schedule", "argument"),
    [
        ("10 seconds", "10 seconds", ""),
        ("59 seconds", "59 seconds", ""),
        ("1 minute", "* * * * *", ""),
        ("15 minutes", "*/15 * * * *", ""),
        ("1 hour", "0 * * * *", ""),
    ],
)
def test_a_newer_pg_cron_comes_every_few_seconds(
    project_admin: Db, every: str, schedule: str, argument: str
) -> None:
    with project_admin.transaction(force_rollback=True):
        project_admin.execute(CRON.encode())
        project_admin.execute(NEWER)
        told = project_admin.execute("select backfill_drive_every(%s::text)", (every,)).fetchone()
        assert told is not None
        assert told[0]["schedule"] == schedule
        job = project_admin.execute("select schedule, command from cron.job").fetchone()
        assert job == (schedule, f"call public.backfill_drive_step(null{argument})")


def test_a_pg_cron_that_is_not_ours_to_use_disturbs_nothing(
    project_db: Db, project_admin: Db
) -> None:
    """Somebody else installed it: status and uninstall need no right on it."""
    run_id = approved(project_db)
    project_admin.execute(CRON.encode())
    waits = "select waits_for from backfill_run_progress"
    assert value(project_db, waits) == f"apply: backfill apply {run_id}"
    assert value(project_db, "select backfill_drive_stop()") == {"stopped": []}
    project_db.execute(migrations.uninstall_file().read_bytes())
