"""A project means the same under any settings: its plan, its digest, its verification, its undo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from backfill.local.servers import PostgresServer
from backfill.moments import moment
from backfill.targets import migrations
from backfill.targets.declaration import parse
from backfill.targets.views import target_sql
from tests.kit import verbs

Db = psycopg.Connection[Any]
# What `alter database … set` may have changed, or `alter role`.
SETTINGS = {
    "as it comes": {},
    "west": {
        "timezone": "America/New_York",
        "datestyle": "SQL, DMY",
        "intervalstyle": "sql_standard",
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "search_path": "nowhere",
        "quote_all_identifiers": "on",
    },
    "east": {
        "timezone": "Pacific/Kiritimati",
        "datestyle": "German",
        "intervalstyle": "postgres_verbose",
        "extra_float_digits": "3",
        "bytea_output": "hex",
        "search_path": "shadow, public, extensions",
        "quote_all_identifiers": "off",
    },
}
# Readings, and the dose that each may lack. The key of a dose has a column of each type whose text
# depends on settings, or that has several texts for one value. `shadow` has an equality of its own.
TABLES = """
create schema shadow;
create function shadow.never(bigint, bigint) returns boolean language sql as 'select false';
create operator shadow.= (leftarg = bigint, rightarg = bigint, function = shadow.never);
create type public.states as enum ('open', 'done');
create table public.readings
  (id bigint primary key, state public.states not null, since_day date not null, is_whole boolean, taken {date});
create table public.doses (
  reading_id bigint, version numeric, as_of timestamptz, seen_at timestamp, span interval, share float8, mark bytea,
  label char(4), is_sure boolean, code uuid, note text,
  primary key (reading_id, version, as_of, seen_at, span, share, mark, label, is_sure, code));
create function public.give(reading_id bigint, version text, as_of text, seen_at text, span text, share text,
  mark text, label text, is_sure text, code text)
returns void language sql as $$
  insert into public.doses values ($1, $2::numeric + 0.00, $3::timestamptz, $4::timestamp, $5::interval,
    $6::float8, $7::bytea, $8, $9::boolean, $10::uuid)
$$;
insert into public.readings values
  (1, 'done', '2025-01-01', true, '2025-08-01 00:00'), (2, 'done', '2025-01-01', true, '2025-08-01 23:59:59'),
  (3, 'done', '2025-01-01', true, '2025-08-02 00:00'), (4, 'done', '2025-01-01', true, '2025-07-31 23:59:59'),
  (5, 'open', '2025-01-01', true, '2025-08-01 12:00'), (6, 'done', '2025-01-02', true, '2025-08-01 12:00'),
  (7, 'done', '2025-01-01', true, null);
grant select on public.readings to service_role;
grant select, insert, update, delete on public.doses to service_role;
"""  # noqa: E501
KINDS = {
    "as_of": "2025-01-01 05:00+05",
    "seen_at": "2025-02-03T04:05:06",
    "span": "P1DT2H",
    "share": "0.1",
    "mark": r"\\x00FF",
    "label": "ab",
    "is_sure": "yes",
    "code": "6EC0BD7F-11C0-43DA-975E-2A8AD9EBAE0B",
}
DECLARED = f"""
target = "readings"
[source]
table = "public.readings"
key = "id"
date = "taken"
where = {{ state = "done", since_day = ["2025-01-01", "1 January 2024"], is_whole = "yes" }}
[parameters]
{chr(10).join(f'{name} = "{value}"' for name, value in KINDS.items())}
[[component]]
name = "dose"
table = "public.doses"
session = "reading_id"
key = {json.dumps(["reading_id", "version", *KINDS])}
version_column = "version"
version = "1.0"
matches = {{ {", ".join(f"{name} = {name!r}" for name in KINDS)} }}
function = "public.give(bigint,text,text,text,text,text,text,text,text,text)"
arguments = {{ reading_id = "session_id", version = "dose_version", {", ".join(f"{name} = {name!r}" for name in KINDS)} }}
"""  # noqa: E501
REQUEST = {"since": "2025-08-01", "until": "2025-08-01", "target": "readings", "environment": "x"}
WITHOUT = "1 session has no taken: no plan takes it"
READ_AS = {
    "timestamptz": WITHOUT,
    "timestamp": f"taken has no time zone and is read as UTC; {WITHOUT}",
    "date": f"taken is a date and is read as the start of its UTC day; {WITHOUT}",
}


@pytest.fixture(scope="module")
def core_db(postgres_server: PostgresServer) -> Iterator[Db]:
    """A project with the core alone."""
    name = f"readings_{uuid4().hex}"
    postgres_server.create_database(name)
    with psycopg.connect(postgres_server.dsn(name), autocommit=True, row_factory=dict_row) as db:
        for file in migrations.core_files():
            db.execute(file.read_text().encode())
        yield db
    postgres_server.drop_database(name)


@pytest.fixture
def db(core_db: Db) -> Iterator[Db]:
    """The same for one test: what it does is taken back."""
    with core_db.transaction(force_rollback=True):
        yield core_db


def under(db: Db, settings: str) -> None:
    """Come back as the owner, in a session of other settings."""
    as_owner = {"request.jwt.claims": "", "request.headers": "", "role": "none"}
    db.execute("reset all")
    db.execute(
        "select set_config(key, value, true) from jsonb_each_text(%s)",
        (Jsonb({**SETTINGS[settings], **as_owner}),),
    )


def made(db: Db, date: str) -> None:
    """Make the tables, with dates of this type."""
    db.execute("set local timezone = 'UTC'")
    db.execute(TABLES.replace("{date}", date).encode())


def planned(db: Db) -> dict[str, Any]:
    """Seal a plan. Returns its row."""
    run_id = str(verbs.call(db, "backfill_open", p_request=Jsonb(REQUEST)))
    while not verbs.call(db, "backfill_collect", p_run_id=run_id):
        pass
    verbs.call(db, "backfill_seal", p_run_id=run_id)
    row = db.execute(
        "select run_id::text, digest, plan, request from public.backfill_runs where run_id = %s",
        (run_id,),
    ).fetchone()
    assert row is not None
    return dict(row)


def seen(db: Db) -> list[Any]:
    """What is planned, and what views and check say."""
    run = planned(db)
    verbs.call(db, "backfill_freshness", p_run_id=run["run_id"])
    coverage = verbs.call(db, "backfill_coverage", p_target="readings")
    missing = db.execute(
        "select session_id::text from public.backfill_readings_candidates order by 1"
    )
    sessions = [row["session_id"] for row in missing.fetchall()]
    checked = db.execute("select public.backfill_check() as lines").fetchone()
    return [run["digest"], run["plan"], run["request"], coverage, sessions, checked]


@pytest.mark.parametrize("date", READ_AS)
def test_a_plan_is_the_same_under_any_settings(db: Db, date: str) -> None:
    """Digest, plan, coverage and days. The plan says how a date without a time zone is read."""
    made(db, date)
    found = {}
    for settings in SETTINGS:
        with db.transaction(force_rollback=True):
            under(db, settings)
            db.execute(target_sql(parse(DECLARED)).encode())
            found[settings] = seen(db)
    assert found["west"] == found["as it comes"]
    assert found["east"] == found["as it comes"]
    _, plan, _, coverage, sessions, _ = found["west"]
    assert plan["candidates"]["total"] == 2
    marks = {mark["name"]: mark for mark in plan["checks"]}
    assert marks["dates of readings"]["detail"] == READ_AS[date]
    assert marks["rows of readings"]["status"] == "ok"
    assert sessions == ["1", "2", "3", "4", "7"]
    assert [day["day"] for day in coverage["days"]] == [
        "2025-07-31",
        "2025-08-01",
        "2025-08-02",
        None,
    ]


def test_a_run_goes_on_under_other_settings(db: Db) -> None:
    """Planned, scored, verified and undone, each under others: every row is found, and goes."""
    made(db, "timestamp")
    db.execute(target_sql(parse(DECLARED)).encode())
    under(db, "west")
    run = planned(db)
    under(db, "east")
    verbs.approve(db, run["run_id"])
    assert verbs.start(db, run["run_id"])["state"] == "running"
    under(db, "west")
    claim_id = str(uuid4())
    granted = verbs.claim(db, run["run_id"], claim_id)["granted"]
    under(db, "east")
    outcomes = [verbs.score_all(db, run["run_id"], grant) for grant in granted]
    under(db, "west")
    settled = verbs.settle(db, run["run_id"], claim_id, outcomes)["settled"]
    assert [s["state"] for s in settled] == ["done", "done"], settled
    under(db, "as it comes")
    assert verbs.claim(db, run["run_id"])["state"] == "completed"
    for settings in SETTINGS:
        under(db, settings)
        assert verbs.verdict(db, run["run_id"]) == "pass"
    preview = verbs.call(db, "backfill_preview_undo", p_run_id=run["run_id"])
    assert (preview["conflicts"], preview["deletes"]) == ([], {"doses": 2})
    under(db, "west")
    answer = verbs.call(
        db,
        "backfill_confirm_undo",
        p_run_id=run["run_id"],
        p_digest=preview["digest"],
        p_reason="test",
    )
    assert (answer["conflicts"], answer["deletes"]) == ([], {"doses": 2})


def test_a_moment_of_another_time_zone_is_shown_in_utc() -> None:
    """As the API answers in a session whose zone is another one."""
    assert moment("2025-08-01T14:00:00+14:00").isoformat() == "2025-08-01T00:00:00+00:00"
