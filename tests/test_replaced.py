"""New rows and rows that take another's place are told apart, before approval and afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from tests.kit import verbs
from tests.kit.songs import DECLARED, UNKEYED, as_owner, declare, opened, run_of, songs, songs_db
from tests.test_preconditions import Db

__all__ = ["songs", "songs_db"]  # fixtures of another module

KEY = 'key = ["song_id", "ink", "size"]'
BY_SONG = 'key = ["song_id"]'
ONE_PER_SONG = UNKEYED + "alter table public.covers add primary key (song_id);"
# Each song's cover as live traffic left it: song, ink.
RED = "insert into public.covers values (1, 'red'), (2, 'red')"


def sealed(db: Db, **request: Any) -> Mapping[str, Any]:
    """The row of a run over the songs that awaits approval."""
    run_id = opened(db, **request)
    while not verbs.call(db, "backfill_collect", p_run_id=run_id):
        pass
    assert verbs.call(db, "backfill_seal", p_run_id=run_id)["state"] == "awaiting_approval"
    as_owner(db)
    found = db.execute("select * from public.backfill_runs where run_id = %s", (run_id,))
    row: Mapping[str, Any] | None = found.fetchone()
    assert row is not None
    return row


# What is done to the tables, the key that is declared, and how many covers are new and replaced.
PLANS = {
    "the version is no part of the key": (ONE_PER_SONG, BY_SONG, 1, {"red": 2}),
    "the version is part of the key": ("", KEY, 3, {}),
    "an index is narrower than the declared key": (ONE_PER_SONG, KEY, 1, {"red": 2}),
    "an index beside the key": (
        "create unique index on public.covers (size, song_id);", KEY, 1, {"red": 2},
    ),
    "an index that only some rows meet": (
        "create unique index on public.covers (song_id) where size = 'x';", KEY, 3, {},
    ),
    "an index whose columns no plan knows": (
        "alter table public.covers add id integer generated always as identity unique,"
        " add part text;"
        "create unique index on public.covers (song_id, part);", KEY, 3, {},
    ),
    "a row of another kind": (
        UNKEYED + "alter table public.covers add primary key (song_id, size);"
        "insert into public.covers values (3, 'blue', 'm');",
        'key = ["song_id", "size"]', 1, {"red": 2},
    ),
    "versions of another type": (
        ONE_PER_SONG + "alter table public.covers alter column ink type numeric using 1.50;"
        "create or replace function public.paint(song_id bigint, ink text) returns void"
        " language sql as 'insert into public.covers values ($1, $2::numeric)';",
        BY_SONG, 1, {"1.50": 2},
    ),
    "a row without a version": (
        ONE_PER_SONG + "alter table public.covers alter column ink drop not null;"
        "update public.covers set ink = null where song_id = 1;",
        BY_SONG, 1, {"": 1, "red": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_counts_new_rows_and_replaced_ones(songs: Db, case: str) -> None:
    """By table, and the replaced ones by their version."""
    done, key, new, versions = PLANS[case]
    songs.execute(RED)
    songs.execute(done.encode())
    _declare(songs, key, "2" if "type" in case else "blue")
    plan = sealed(songs)["plan"]
    replaced = sum(versions.values())
    assert plan["expected_writes"] == {
        "covers": new + replaced,
        "total": new + replaced,
        "new": {"covers": new},
        "replaced": {"covers": replaced},
    }
    assert plan["replaced_versions"] == {"covers": versions}


def _declare(db: Db, key: str, version: str = "blue") -> None:
    from backfill.targets.declaration import parse
    from backfill.targets.views import target_sql

    text = DECLARED.replace(KEY, key).replace('version = "blue"', f'version = "{version}"')
    db.execute(target_sql(parse(text)).encode())


def test_the_digest_covers_what_is_replaced(songs: Db) -> None:
    """The same sessions lack the same, and yet another plan is approved."""
    songs.execute(ONE_PER_SONG.encode())
    declare(songs, KEY, BY_SONG)
    new = sealed(songs)["digest"]
    assert sealed(songs)["digest"] == new
    songs.execute(RED)
    replacing = sealed(songs)["digest"]
    songs.execute("update public.covers set ink = 'green' where song_id = 1")
    assert len({new, replacing, sealed(songs)["digest"]}) == 3


def test_a_sealed_plan_replaces_what_it_replaced(songs: Db) -> None:
    """Nobody turns a new row into a replaced one after the approval."""
    songs.execute(ONE_PER_SONG + RED)
    declare(songs, KEY, BY_SONG)
    sealed(songs)
    with pytest.raises(Exception, match="its plan does not change"), songs.transaction():
        songs.execute("update public.backfill_items set replaces = '{}'")


def test_the_blast_radius_counts_inserts_and_updates(songs: Db) -> None:
    """A trigger fires for the rows that its event meets, and a sequence has its own name."""
    songs.execute(ONE_PER_SONG + RED)
    songs.execute(
        "create function public.note() returns trigger language plpgsql as"
        " 'begin return new; end';"
        "create trigger on_insert after insert on public.covers for each row"
        " execute function public.note();"
        "create trigger on_update after update on public.covers for each row"
        " execute function public.note();"
        "create trigger on_both after insert or update on public.covers for each row"
        " execute function public.note();"
        "create publication inserts for table public.covers with (publish = 'insert');"
        "create publication updates for table public.covers with (publish = 'update');"
        "create sequence public.numbers;"
        "alter table public.covers add number integer default nextval('public.numbers'),"
        " add place integer generated always as identity"
    )
    declare(songs, KEY, BY_SONG)
    found = {e["name"]: e["events"] for e in sealed(songs)["plan"]["blast_radius"]}
    assert found.items() >= {
        "on_insert": 1, "on_update": 2, "on_both": 3, "inserts": 1, "updates": 2,
        "public.numbers": 3, "public.covers_place_seq": 3,
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    ("key", "late", "named"),
    [
        (BY_SONG, "insert into public.covers values (3, 'red')", ["3"]),
        (BY_SONG, "insert into public.covers values (3, 'blue')", []),
        (BY_SONG, "update public.covers set ink = 'green'", []),
        (KEY, "insert into public.covers values (3, 'red')", []),
    ],
)
def test_what_would_be_replaced_by_now_is_told_before_it_is(
    songs: Db, key: str, late: str, named: list[str]
) -> None:
    """A row that came after the plan was sealed, where the plan has a new one."""
    songs.execute(((ONE_PER_SONG if key == BY_SONG else "") + RED).encode())
    declare(songs, KEY, key)
    run_id = str(sealed(songs)["run_id"])
    songs.execute(late.encode())
    fresh = verbs.call(songs, "backfill_freshness", p_run_id=run_id)
    assert (fresh["replacing"], fresh["replacing_total"]) == (named, len(named))
    assert fresh["digest_matches"]


# What the scorer writes, the rows that stand before, and what `verify` says of song 1.
WRITES = {
    "another version, under the key of the wanted one": (
        ONE_PER_SONG,
        "insert into public.covers values ($1, ''green'')"
        " on conflict (song_id) do update set ink = excluded.ink",
        ["1: it wrote version green where version blue was wanted"], {"2": "update"}, "missing",
    ),
    "another version beside it": (
        "",
        "insert into public.covers values ($1, $2), ($1, ''green'')",
        [], {"1": "insert", "2": "insert", "3": "insert"}, "as_planned",
    ),
    "a row of another version changed": (
        "",
        "update public.covers set size = ''l'' where song_id = $1;"
        "insert into public.covers values ($1, $2)",
        [], {"2": "update"}, "as_planned",
    ),
    "a row of another version taken away": (
        "",
        "delete from public.covers where song_id = $1; insert into public.covers values ($1, $2)",
        [], {"2": "delete"}, "as_planned",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITES)
def test_verify_names_what_the_run_wrote_besides_its_plan(songs: Db, case: str) -> None:
    """With the receipt, and apart from the rows of others."""
    done, body, critical, unplanned, bucket = WRITES[case]
    songs.execute(done.encode())
    if "where song_id" in body:
        songs.execute("insert into public.covers values (2, 'red')")
    songs.execute(
        "create or replace function public.paint(song_id bigint, ink text) returns void"
        f" language sql as '{body}'".encode()
    )
    _declare(songs, BY_SONG if done else KEY)
    run_id, claim_id = run_of(songs), str(uuid4())
    if done:
        as_owner(songs)
        songs.execute("insert into public.covers values (2, 'red')")
    granted = verbs.claim(songs, run_id, claim_id)["granted"]
    verbs.settle(
        songs, run_id, claim_id, [verbs.score_all(songs, run_id, grant) for grant in granted]
    )
    part = verbs.call(songs, "backfill_verify_part", p_run_id=run_id, p_budget_ms=20_000)
    assert part["verification"]["verdict"] == "fail"
    assert [c for c in part["critical"] if c.startswith("1: ")] == critical
    rows = part["buckets"]["unplanned"]["cover"]
    assert {row["session_id"]: row["operation"] for row in rows} == unplanned
    as_owner(songs)
    kept = songs.execute("select receipt_id from public.backfill_receipts").fetchall()
    assert {row["receipt"] for row in rows} <= {row["receipt_id"] for row in kept}
    assert "1" in part["buckets"][bucket]["cover"]
    assert "extra" not in part["buckets"]
