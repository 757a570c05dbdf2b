"""A key names one row, and what is compared can be: asked at declaration, plan, claim, reading."""

# ruff: noqa: E501 - the tables of cases are read across.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.kit import verbs
from tests.kit.songs import (
    UNKEYED,
    UNSONGED,
    as_owner,
    declare,
    gaps,
    opened,
    run_of,
    songs,
    songs_db,
)

__all__ = ["songs", "songs_db"]  # fixtures of another module

Db = psycopg.Connection[Any]


@contextmanager
def refused(songs: Db, said: str) -> Iterator[None]:
    """A refusal in one sentence, with the next step. Nothing is left of what was tried."""
    with pytest.raises(psycopg.Error, match=said) as refusal, songs.transaction():
        yield
    assert refusal.value.sqlstate == "OB013"
    message = str(refusal.value.diag.message_primary)
    assert refusal.value.diag.message_hint or ". Next: " in message
    assert "\n" not in message


# What is done to the tables, what stands otherwise in the declaration, and what is said.
KEYS = {
    "no index": (UNKEYED, "", "", "song_id, ink, size is no key of public.covers: no unique index covers it. Next"),
    "an index that is not unique": (UNKEYED + "create index on public.covers (song_id, ink, size)", "", "", "no unique index covers it. Next"),
    "a partial index": (UNKEYED + "create unique index one on public.covers (song_id, ink, size) where size <> 'x'", "", "", "no unique index covers it, one covers only rows where size <> 'x'"),
    "an index on an expression": (UNKEYED + "create unique index one on public.covers (song_id, lower(ink), size)", "", "", "one is on an expression"),
    "a deferrable constraint": (UNKEYED + "alter table public.covers add constraint one unique (song_id, ink, size) deferrable", "", "", "one is deferrable"),
    "a wider index": ("alter table public.covers add part text not null;" + UNKEYED + "create unique index one on public.covers (song_id, ink, size, part)", "", "", "one is on song_id, ink, size, part"),
    "a column that may be null": (UNKEYED + "alter table public.covers alter column ink drop not null, add unique (song_id, ink, size)", "", "", "ink may be null"),
    "null as one value": (UNKEYED + "alter table public.covers alter column ink drop not null; create unique index on public.covers (song_id, ink, size) nulls not distinct", "", "", "ink may be null"),
    "a source of two columns": (UNSONGED + "alter table public.songs add primary key (id, cut_at)", "", "", "id is no key of public.songs: no unique index covers it, songs_pkey is on id, cut_at"),
    "a source without a key": (UNSONGED, "", "", "id is no key of public.songs"),
    "a source whose key may be null": (UNSONGED + "alter table public.songs alter column id drop not null, add unique (id)", "", "", "id is no key of public.songs: id may be null"),
    "children by inheritance": ("create table public.rarities () inherits (public.songs)", "", "", "public.songs cannot be declared: public.rarities inherits from it"),
    "children of a component": ("create table public.rarities () inherits (public.covers)", "", "", "public.covers cannot be declared: public.rarities inherits from it"),
    "a view of which no key is one": ("create view public.calm as select s.* from public.songs as s, generate_series(1, 2)", "public.songs", "public.calm", "id is no key of public.calm: several rows of the view have the same"),
    "a view beside it": ("create view public.sleeves as select * from public.covers", "public.covers", "public.sleeves", "public.sleeves cannot be declared: it is a view"),
    "a materialized view beside it": ("create materialized view public.calm as select * from public.covers", "public.covers", "public.calm", "it is a materialized view"),
    "a sequence": ("create sequence public.calm", "public.songs", "public.calm", "there is no table public.calm"),
    "partitions": (
        "create table public.parted (id bigint, cut_at timestamptz not null, mood text, primary key (id, cut_at)) partition by range (cut_at);"
        "create table public.parted_1 partition of public.parted default", "public.songs", "public.parted",
        "id is no key of public.parted: no unique index covers it, parted_pkey is on id, cut_at"),
}  # fmt: skip
TYPES = {
    "text beside a number": ("alter table public.covers alter column song_id type text", "", "", "song_id of public.covers is text, but the key id of public.songs is bigint"),
    "numeric beside a number": ("alter table public.covers alter column song_id type numeric", "", "", "song_id of public.covers is numeric, but the key"),
    "a need of another type": ("alter table public.credits alter column song_id type text", "", "", "song_id of public.credits is text, but the key id of public.songs is bigint"),
    "a key that has several spellings": (UNSONGED + "alter table public.songs alter column id type numeric, add primary key (id)", "", "", "the key id of public.songs is numeric, but a key is uuid, a whole number or text"),
    "padded text": ("alter table public.songs alter column id type text; alter table public.covers alter column song_id type char(9)", "", "", "song_id of public.covers is character.9., but"),
    "a date that is none": ("", 'date = "cut_at"', 'date = "plays"', "plays is integer: no time"),
    "a filter that no value meets": ("", 'mood = "calm"', 'plays = "many"', "plays of public.songs is integer, and many is no such value"),
    "a filter that cannot be compared": ("alter table public.songs add notes json", 'mood = "calm"', 'notes = "[]"', "notes of public.songs is json, and two values of that type cannot be compared"),
    "an array": ("alter table public.songs add tags text[]", 'mood = "calm"', 'tags = ["a"]', r"tags of public.songs is text\[\], which holds several values"),
    "a version that is none of an enum's": (
        UNKEYED + "create type public.inks as enum ('red', 'green');"
        "alter table public.covers alter column ink type public.inks using 'red', add primary key (song_id, ink, size)", "", "",
        "ink of public.covers is public.inks, and blue is no such value. There are: red, green"),
    "a version that is longer than its column": (UNKEYED + "alter table public.covers alter column ink type varchar(3), add primary key (song_id, ink, size)", "", "", "ink of public.covers is character varying.3., which does not hold blue as it is"),
    "a version that is finer than its column": (UNKEYED + "alter table public.covers alter ink type numeric(4,1) using 1, add primary key (song_id, ink, size)", '"blue"', '"1.25"', "ink of public.covers is numeric.4,1., which does not hold 1.25 as it is"),
    "a version that is too large for its column": (UNKEYED + "alter table public.covers alter ink type numeric(4,1) using 1, add primary key (song_id, ink, size)", '"blue"', '"20250101"', "which does not hold 20250101 as it is"),
    "a version that is longer than its domain": (UNKEYED + "create domain public.ink as varchar(3); alter table public.covers alter ink type public.ink, add primary key (song_id, ink, size)", "", "", "does not hold blue as it is"),
    "a kind that is none": (UNKEYED + "alter table public.covers alter size drop default, alter size type integer using 1, add primary key (song_id, ink, size)", "", "", "size of public.covers is integer, and s is no such value"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS | TYPES)
def test_a_target_is_refused_when_it_is_declared(songs: Db, case: str) -> None:
    """With the table, the columns and the reason. What was declared before stands."""
    done, old, new, said = (KEYS | TYPES)[case]
    songs.execute(done.encode())
    with refused(songs, said):
        declare(songs, old, new)
    assert songs.execute("select from public.backfill_targets").fetchall() == []


def test_an_index_with_another_equality_makes_no_key(songs: Db) -> None:
    """Two rows may differ for the index, and yet both be equal to one value."""
    try:
        songs.execute(
            "create collation public.any_case"
            " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL has no ICU")
    songs.execute(
        f"{UNKEYED} alter table public.covers alter column ink type text collate public.any_case;"
        'create unique index one on public.covers (song_id, ink collate "C", size)'.encode()
    )
    with refused(songs, "one compares otherwise than = does"):
        declare(songs)


FINE = {
    "as it is": "",
    "a narrower unique index": UNKEYED + "create unique index on public.covers (song_id)",
    "an index with more in it": UNKEYED + "create unique index on public.covers (song_id, ink) include (size)",
    "a session that may be null": UNKEYED + "alter table public.covers alter column song_id drop not null, add unique (song_id, ink, size)",
    "a need that is a view": "alter table public.credits rename to who; create view public.credits as select * from public.who;"
    "grant select on public.credits to service_role",
    "a smaller number": UNKEYED + "alter table public.covers alter column song_id type integer, add primary key (song_id, ink, size)",
    "domains": UNKEYED + "create domain public.song as bigint check (value > 0); create domain public.ink as text check (value <> '');"
    "alter table public.covers alter song_id type public.song, alter ink type public.ink, add primary key (song_id, ink, size)",
    "another class of operators with the same equality": UNKEYED + "create unique index on public.covers (song_id, ink text_pattern_ops, size)",
    "another collation that is deterministic": UNKEYED + 'create unique index on public.covers (song_id, ink collate "C", size)',
}  # fmt: skip


@pytest.mark.parametrize("case", FINE)
def test_a_key_that_names_one_row_is_taken(songs: Db, case: str) -> None:
    """And the detection finds what is missing."""
    songs.execute(FINE[case].encode())
    declare(songs)
    songs.execute("insert into public.covers values (2, 'blue'), (3, 'red')")
    assert gaps(songs) == ["1", "3"]
    lines = songs.execute("select public.backfill_check() as lines").fetchone()
    assert lines is not None
    found = {line["name"]: line for line in lines["lines"]}
    assert found["key of public.covers"]["status"] == "ok"
    assert found["session of public.covers"]["status"] == "ok"


LATER = {
    "the index is dropped": (UNKEYED, "song_id, ink, size is no key of public.covers: no unique index"),
    "the source's is dropped": (UNSONGED, "id is no key of public.songs: no unique index"),
    "null is allowed": (UNKEYED + "alter table public.covers alter ink drop not null, add unique (song_id, ink, size)", "ink may be null"),
    "a child is added": ("create table public.rarities () inherits (public.covers)", "public.rarities inherits from it"),
}  # fmt: skip


@pytest.mark.parametrize("case", LATER)
def test_what_no_longer_holds_is_refused_by_plan_and_views(songs: Db, case: str) -> None:
    """The same sentence from each. Nobody is shown a session twice."""
    declare(songs)
    songs.execute(LATER[case][0].encode())
    said = LATER[case][1]
    with refused(songs, said):
        opened(songs)
    with refused(songs, said):
        gaps(songs)
    with refused(songs, said):
        verbs.call(songs, "backfill_coverage", p_target="songs")


def test_a_version_that_no_row_can_have_is_refused(songs: Db) -> None:
    """By the plan that asks for it, with the values that there are."""
    songs.execute(
        "create type public.inks as enum ('blue', 'green');"
        f"{UNKEYED} alter table public.covers alter column ink type public.inks using 'blue',"
        " add primary key (song_id, ink, size)"
    )
    declare(songs)
    with refused(
        songs, "ink of public.covers is public.inks, and pink is no such value. There are"
    ):
        opened(songs, cover_version="pink")
    assert opened(songs, cover_version="green")


def test_a_claim_pauses_a_run_whose_key_is_gone(songs: Db) -> None:
    """Nothing is scored into a table in which an undo could not tell the rows apart."""
    declare(songs)
    run_id = run_of(songs)
    as_owner(songs)
    songs.execute(UNKEYED.encode())
    said = {
        "kind": "key",
        "name": "of public.covers (song_id, ink, size)",
        "was": "unique",
        "now": "not: no unique index covers it",
    }
    assert verbs.call(songs, "backfill_freshness", p_run_id=run_id)["changes"] == [said]
    answer = verbs.claim(songs, run_id)
    assert (answer["granted"], answer["state"]) == ([], "paused")
    assert "song_id, ink, size is no key of public.covers" in answer["reason"]
    assert verbs.verdict(songs, run_id) == "fail"


@pytest.mark.parametrize("twin", ["the same", "another", "the same, beside one that is kept"])
def test_an_undo_never_reaches_a_twin(songs: Db, twin: str) -> None:
    """The index is gone and a second row has the key: a conflict, and both rows stay."""
    songs.execute("alter table public.covers add note text")
    declare(songs)
    run_id, claim_id = run_of(songs), str(uuid4())
    granted = verbs.claim(songs, run_id, claim_id)["granted"]
    outcomes = [verbs.score_all(songs, run_id, grant) for grant in granted]
    verbs.settle(songs, run_id, claim_id, outcomes)
    as_owner(songs)
    songs.execute(UNKEYED.encode())
    note = "'mine'" if twin == "another" else "note"
    songs.execute(
        f"insert into public.covers select song_id, ink, size, {note} from public.covers"
        " where song_id = 2".encode()
    )
    if twin == "the same, beside one that is kept":
        songs.execute(
            "create function public.keep() returns trigger language plpgsql as"
            " 'begin return case when old.song_id <> 1 then old end; end';"
            "create trigger keep before delete on public.covers for each row"
            " execute function public.keep()"
        )
    verbs.claim(songs, run_id)
    preview = verbs.call(songs, "backfill_preview_undo", p_run_id=run_id)
    assert [(c["session_id"], c["reason"]) for c in preview["conflicts"]] == [
        ("2", "several rows have its key")
    ]
    done = verbs.call(
        songs, "backfill_confirm_undo", p_run_id=run_id, p_digest=preview["digest"], p_reason="test"
    )
    left = [r["song_id"] for r in songs.execute("select song_id from public.covers order by 1")]
    assert left == ([1, 2, 2] if "kept" in twin else [2, 2]), done


def test_what_is_selected_is_asked_again_of_each_session(songs: Db) -> None:
    """By the same view that planned it: the filter, and the rows that scoring needs."""
    declare(songs, "least = 0", "least = 1")
    songs.execute("insert into public.credits values (1), (2), (3)")
    run_id = run_of(songs)
    as_owner(songs)
    songs.execute(
        "update public.songs set mood = 'loud' where id = 1; delete from public.credits where song_id = 2"
    )
    rows = songs.execute(
        "select u.session_id, u.why from public.backfill_runs as r"
        " cross join lateral backfill_private.unselected(r, array[1, 2, 3]) as u"
        " where r.run_id = %s order by 1",
        (run_id,),
    )
    assert [tuple(row.values()) for row in rows] == [
        ("1", "the target no longer selects it"),
        ("2", "0 credits, at least 1 needed"),
    ]


def test_a_helper_that_is_no_signature_does_not_exist(project_db: Db) -> None:
    """An owner lists it by hand. Before PostgreSQL 16 such a text is an error to the server."""
    project_db.execute("update public.backfill_targets set helpers = '{public.nobody}'")
    row = project_db.execute("select public.backfill_check() as lines").fetchone()
    assert row is not None
    said = {line["name"]: (line["status"], line["detail"]) for line in row["lines"]}
    assert said["helpers of profile"] == ("fail", "public.nobody does not exist")
    with refused(project_db, "there is no function public.nobody"):
        verbs.planned(project_db)


def test_no_other_function_fits_the_call_of_an_edge_function(project_db: Db) -> None:
    """Its name is no signature either. Asked for what helps a run that is paused."""
    project_db.execute(
        "update public.backfill_targets set transport = 'edge', function_signature = 'score',"
        " function_version = '1', receipts = 'inferred'"
    )
    row = project_db.execute("select backfill_private.also_fit('prism') as others").fetchone()
    assert row == {"others": None}
