"""Songs, and the cover that each may lack: a small project whose tables a test may change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from backfill.local.servers import PostgresServer
from backfill.targets import migrations
from backfill.targets.declaration import parse
from backfill.targets.views import target_sql
from tests.kit import verbs

Db = psycopg.Connection[Any]
TABLES = """
create table public.songs (
  id bigint primary key, cut_at timestamptz not null, mood text, plays integer);
create table public.credits (song_id bigint not null);
create table public.covers (
  song_id bigint not null, ink text not null, size text not null default 's',
  primary key (song_id, ink, size));
create function public.paint(song_id bigint, ink text) returns void language sql as
  'insert into public.covers values ($1, $2)';
insert into public.songs
select n, timestamptz '2025-08-01 12:00+00' + n * interval '1 day', 'calm', n
from generate_series(1, 3) as n;
grant select on public.songs, public.credits to service_role;
grant select, insert, update, delete on public.covers to service_role;
"""
DECLARED = """
target = "songs"
[source]
table = "public.songs"
key = "id"
date = "cut_at"
where = { mood = "calm" }
needs = [{ name = "credits", table = "public.credits", column = "song_id", at_least = "least" }]
[parameters]
least = 0
size = "s"
[[component]]
name = "cover"
table = "public.covers"
session = "song_id"
key = ["song_id", "ink", "size"]
version_column = "ink"
version = "blue"
matches = { size = "size" }
function = "public.paint(bigint,text)"
arguments = { song_id = "session_id", ink = "cover_version" }
"""
UNKEYED = "alter table public.covers drop constraint covers_pkey;"
UNSONGED = "alter table public.songs drop constraint songs_pkey;"


@pytest.fixture(scope="module")
def songs_db(postgres_server: PostgresServer) -> Iterator[Db]:
    """A project with the core and the songs."""
    name = f"songs_{uuid4().hex}"
    postgres_server.create_database(name)
    with psycopg.connect(postgres_server.dsn(name), autocommit=True, row_factory=dict_row) as db:
        for file in migrations.core_files():
            db.execute(file.read_text().encode())
        db.execute(TABLES.encode())
        yield db
    postgres_server.drop_database(name)


@pytest.fixture
def songs(songs_db: Db) -> Iterator[Db]:
    """The same for one test: what it does is taken back."""
    with songs_db.transaction(force_rollback=True):
        yield songs_db


def declare(db: Db, old: str = "", new: str = "") -> None:
    """Declare the songs, with one thing otherwise."""
    assert old in DECLARED
    db.execute(target_sql(parse(DECLARED.replace(old, new, 1))).encode())


def gaps(db: Db) -> list[str]:
    """The sessions that lack something."""
    rows = db.execute("select session_id::text from public.backfill_songs_candidates order by 1")
    return [row["session_id"] for row in rows.fetchall()]


def opened(db: Db, **more: Any) -> str:
    """Open a run for the songs."""
    request = {"since": "2025-08-01", "target": "songs", "environment": "test", **more}
    return str(verbs.call(db, "backfill_open", p_request=Jsonb(request)))


def as_owner(db: Db) -> None:
    """Leave the role and the claims that the last call has set for this transaction."""
    db.execute(
        "select set_config(name, '', true)"
        " from unnest(array['request.jwt.claims', 'request.headers']) as s (name);"
        "reset role"
    )


def run_of(db: Db) -> str:
    """An approved, started run over the songs."""
    run_id = opened(db)
    while not verbs.call(db, "backfill_collect", p_run_id=run_id):
        pass
    verbs.call(db, "backfill_seal", p_run_id=run_id)
    as_owner(db)
    verbs.approve(db, run_id)
    assert verbs.start(db, run_id)["state"] == "running"
    return run_id
