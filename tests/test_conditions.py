"""One meaning of a condition: what a view shows, a plan selects and a mark counts is the same."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.kit import verbs
from tests.kit.kinds import declare_text
from tests.kit.songs import (
    DECLARED,
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
REKEYED = "add primary key (song_id, ink, size);"


def with_citext(db: Db) -> None:
    """Where Supabase has its extensions: a schema that is not on our path."""
    try:
        db.execute("create extension citext schema extensions")
    except psycopg.errors.UndefinedFile:
        pytest.skip("this PostgreSQL has no citext")


def marks(db: Db, run_id: str) -> dict[str, str]:
    """The details of a plan's marks by name."""
    row = db.execute(
        "select plan -> 'checks' as checks from public.backfill_runs where run_id = %s", (run_id,)
    ).fetchone()
    assert row is not None
    return {mark["name"]: mark["detail"] for mark in row["checks"]}


@pytest.mark.parametrize("where", ["calm", "CALM", ["Calm", "loud"]])
def test_what_a_plan_selects_its_mark_counts(songs: Db, where: str | list[str]) -> None:
    """Of a column that is read in any case, one value or several."""
    with_citext(songs)
    songs.execute(
        "alter table public.songs alter column mood type extensions.citext;"
        "update public.songs set mood = (array['calm', 'Calm', 'blue'])[id]"
    )
    declare(songs, 'mood = "calm"', f"mood = {where!r}".replace("'", '"'))
    assert gaps(songs) == ["1", "2"]
    assert marks(songs, run_of(songs))["rows of songs"].startswith("2 of 2 have mood")


# How the versions' column is declared, which version stands there, and which is asked for.
SPELLINGS = {
    "numbers": ("numeric", "2.00", "2.0"),
    "padding": ("char(5)", "ab", "ab"),
    "uuids": (
        "uuid",
        "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b",
        "6EC0BD7F11C043DA975E2A8AD9EBAE0B",
    ),
    "moments": ("timestamptz", "2025-01-01 00:00+00", "2025-01-01T05:00:00+05:00"),
    "truths": ("boolean", "true", "yes"),
    "days": ("date", "2025-01-01", "2025-1-1"),
    "bare numbers": ("numeric", "2.00", 2.0),
    "bare truths": ("boolean", "true", True),
    "choices": ("public.pigment", "blue", "blue"),
    "any case": ("extensions.citext", "Blue", "bLUE"),
    "arrays": ("integer[]", "{1,2}", "{1, 2}"),
    "documents": ("jsonb", '"a"', ' "a"'),
    "ranges": ("int4range", "[1,3)", "[1,2]"),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_one_value_has_several_spellings(songs: Db, case: str) -> None:
    """A row counts as present for the view, the plan, the claim and the verification."""
    kind, stands, asked = SPELLINGS[case]
    if "citext" in kind:
        with_citext(songs)
    songs.execute(
        "create type public.pigment as enum ('red', 'blue');"
        f"{UNKEYED} alter table public.covers alter column ink type {kind} using null, {REKEYED}"
        "create or replace function public.paint(song_id bigint, ink text) returns void"
        f" language sql as 'insert into public.covers values ($1, $2::{kind})';"
        f"insert into public.covers values (1, '{stands}')".encode()
    )
    declare(songs, 'version = "blue"', f"version = {json.dumps(asked)}")
    assert gaps(songs) == ["2", "3"]
    run_id, claim_id = run_of(songs), str(uuid4())
    as_owner(songs)
    songs.execute(f"insert into public.covers values (2, '{stands}')".encode())
    (grant,) = verbs.claim(songs, run_id, claim_id)["granted"]
    outcome = verbs.score_all(songs, run_id, grant)
    (settled,) = verbs.settle(songs, run_id, claim_id, [outcome])["settled"]
    assert (settled["session_id"], settled["state"]) == ("3", "done")
    assert verbs.claim(songs, run_id)["state"] == "completed"
    part = verbs.call(songs, "backfill_verify_part", p_run_id=run_id, p_budget_ms=20_000)
    found = {bucket: part["buckets"].get(bucket) for bucket in ("as_planned", "filled_elsewhere")}
    assert found == {"as_planned": {"cover": ["3"]}, "filled_elsewhere": {"cover": ["2"]}}
    preview = verbs.call(songs, "backfill_preview_undo", p_run_id=run_id)
    assert (preview["conflicts"], preview["deletes"]) == ([], {"covers": 1})


def test_a_cut_value_is_not_the_value(songs: Db) -> None:
    """A key that is longer than the column is another one. Such a version is refused."""
    songs.execute(
        f"{UNSONGED} alter table public.songs alter column id type text, add primary key (id);"
        "alter table public.credits alter column song_id type text;"
        f"{UNKEYED} alter table public.covers alter column song_id type varchar(3),"
        f" alter column ink type varchar(3), {REKEYED}"
        "insert into public.covers values ('lon', 'blu'), ('1', 'blu');"
        "update public.songs set id = 'long' where id = '2';"
        "create function public.paint(song_id text, ink text) returns void language sql as ''"
    )
    text = DECLARED.replace("public.paint(bigint,text)", "public.paint(text,text)")
    declare_text(songs, text.replace('version = "blue"', 'version = "blu"'))
    assert gaps(songs) == ["3", "long"]
    assert states(songs, "blu") == {"3": False, "long": False}
    with pytest.raises(psycopg.Error, match="which does not hold blue as it is"):
        states(songs, "blue")


def test_a_key_beyond_a_smaller_column_is_missing(songs: Db) -> None:
    """It cannot be there, and nothing fails for asking."""
    songs.execute(
        f"{UNKEYED} alter table public.covers alter column song_id type smallint, {REKEYED}"
        "update public.songs set id = 70000 where id = 2"
    )
    declare(songs)
    assert states(songs, "blue") == {"1": False, "3": False, "70000": False}


def states(db: Db, version: str) -> dict[str, bool]:
    """Whether each session has a row of a version, as settling and verifying ask."""
    run_id = opened(db, cover_version=version)
    while not verbs.call(db, "backfill_collect", p_run_id=run_id):
        pass
    verbs.call(db, "backfill_seal", p_run_id=run_id)
    as_owner(db)
    rows = db.execute(
        "select i.session_id, e.is_wanted from backfill_private.effects(%s) as e"
        " join public.backfill_items as i on i.run_id = %s and i.ordinal = e.ordinal order by 1",
        (run_id, run_id),
    )
    return {row["session_id"]: row["is_wanted"] for row in rows}


def test_an_undo_sees_who_refers_to_a_row_as_the_foreign_key_does(songs: Db) -> None:
    """In any case: deleting the row would take the other along."""
    with_citext(songs)
    songs.execute(
        f"{UNKEYED} alter table public.covers alter column ink type extensions.citext, {REKEYED}"
        "create table public.prints (song_id bigint, ink extensions.citext, size text,"
        " foreign key (song_id, ink, size) references public.covers on delete cascade)"
    )
    declare(songs)
    run_id, claim_id = run_of(songs), str(uuid4())
    granted = verbs.claim(songs, run_id, claim_id)["granted"]
    outcomes = [verbs.score_all(songs, run_id, grant) for grant in granted]
    verbs.settle(songs, run_id, claim_id, outcomes)
    verbs.claim(songs, run_id)
    as_owner(songs)
    songs.execute("insert into public.prints values (2, 'BLUE', 's')")
    preview = verbs.call(songs, "backfill_preview_undo", p_run_id=run_id)
    assert [c["session_id"] for c in preview["conflicts"]] == ["2"]
