"""Targets of every kind that a declaration can say live through a whole run, and back."""

from __future__ import annotations

import pytest

from backfill.errors import BadRequest
from backfill.targets.declaration import parse
from tests.kit import verbs
from tests.kit.kinds import declare_text, lived, planned
from tests.kit.songs import Db, songs, songs_db

__all__ = ["songs", "songs_db"]  # fixtures of another module

SOURCE = """
target = "kinds"
[source]
table = "public.songs"
key = "id"
date = "cut_at"
"""
MODES = pytest.mark.parametrize("mode", ["direct", "bulk"])


def count(db: Db, query: str) -> int:
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return int(next(iter(row.values())))


# -- one call that fills several components


TWO_TABLES = """
create table public.lyrics (song_id bigint primary key, v text not null);
create table public.chords (song_id bigint primary key, v text not null, lyric bigint);
create table public.heard (song_id bigint);
create function public.listen(song_id bigint, v text) returns void language sql
set search_path = '' as $$
  insert into public.heard values (listen.song_id);
  insert into public.lyrics values (listen.song_id, listen.v) on conflict do nothing;
  insert into public.chords values (listen.song_id, listen.v, 0) on conflict do nothing;
$$;
grant select, insert, update, delete on public.lyrics, public.chords, public.heard to service_role;
"""
LYRICS = """
[[component]]
name = "lyrics"
table = "public.lyrics"
session = "song_id"
key = ["song_id"]
version_column = "v"
version = "v1"
"""
CALL = """
function = "public.listen(bigint,text)"
arguments = { song_id = "session_id", v = "lyrics_version" }
"""
CHORDS = LYRICS.replace("lyrics", "chords")
UNVERSIONED_CHORDS = CHORDS.replace('version = "v1"\n', "")
SAME_CALL = {
    "fills": LYRICS + CALL + 'fills = ["chords"]' + CHORDS,
    "after the other": LYRICS + CALL + 'fills = ["chords"]' + CHORDS + 'after = ["lyrics"]',
    "fills itself, too": LYRICS + CALL + 'fills = ["lyrics", "chords"]' + UNVERSIONED_CHORDS,
    "declared before": CHORDS + 'fills = ["lyrics"]' + CALL.replace("lyrics", "chords") + LYRICS,
    "its parameter is shared": LYRICS
    + CALL
    + CHORDS
    + 'version_parameter = "lyrics_version"'
    + CALL,
    "each with its own": LYRICS + CALL + CHORDS + CALL.replace("lyrics", "chords"),
    "and after it": LYRICS
    + CALL
    + CHORDS
    + CALL.replace("lyrics", "chords")
    + 'after = ["lyrics"]',
}


@MODES
@pytest.mark.parametrize("said", SAME_CALL)
def test_a_call_that_fills_two_components_is_made_once(songs: Db, said: str, mode: str) -> None:
    """It is declared by name, or told by function and arguments being the same."""
    songs.execute(TWO_TABLES)
    declare_text(songs, SOURCE + SAME_CALL[said])
    run = lived(songs, "kinds", mode=mode)
    assert run.plan["expected_calls"] == {"listen": 3, "total": 3}
    assert run.plan["expected_writes"]["new"] == {"lyrics": 3, "chords": 3}
    assert [step["calls"] for step in run.plan["steps"]] == [3]
    assert (run.states, run.verdict) == ({"done": 3}, "pass")
    # The rehearsal is not asked for here, and what the call wrote elsewhere nobody took back.
    assert count(songs, "select count(*) from public.heard") == 3
    assert count(songs, "select count(*) from public.lyrics") == 0
    assert count(songs, "select count(*) from public.chords") == 0


@MODES
def test_a_call_is_made_for_the_one_component_that_lacks_its_row(songs: Db, mode: str) -> None:
    """The other's row stands, and is left as it is."""
    songs.execute(TWO_TABLES)
    songs.execute("insert into public.lyrics select id, 'v1' from public.songs where id < 3")
    declare_text(songs, SOURCE + SAME_CALL["fills"])
    run = lived(songs, "kinds", mode=mode)
    assert run.plan["candidates"]["missing"] == {"lyrics": 1, "chords": 3}
    assert run.plan["expected_calls"] == {"listen": 3, "total": 3}
    assert (run.states, run.verdict) == ({"done": 3}, "pass")
    assert count(songs, "select count(*) from public.lyrics") == 2
    assert count(songs, "select count(*) from public.heard") == 3


def test_two_versions_make_two_calls(songs: Db) -> None:
    """The same function with other arguments is another call, told once per name."""
    songs.execute(TWO_TABLES)
    declare_text(songs, SOURCE + SAME_CALL["each with its own"])
    _, plan = planned(songs, "kinds", want={"lyrics": "v2"})
    assert plan["expected_calls"] == {"listen": 6, "total": 6}
    assert [step["component"] for step in plan["steps"]] == ["lyrics", "chords"]
    names = [mark["name"] for mark in plan["checks"] if mark["name"].startswith("function")]
    assert names == ["function listen"]


def test_a_shared_version_is_wanted_once(songs: Db) -> None:
    """Named by either component; by both only if they agree."""
    songs.execute(TWO_TABLES)
    declare_text(songs, SOURCE + SAME_CALL["fills"])
    _, plan = planned(songs, "kinds", want={"chords": "v2"})
    assert [step["version"] for step in plan["steps"]] == ["v2"]
    with pytest.raises(Exception, match="two versions of"):
        planned(songs, "kinds", want={"chords": "v2", "lyrics": "v3"})


# A type of both columns, and two texts: are they one version?
SPELLED = {
    "numeric": ("numeric", "1.0", "1.00", True),
    "a day": ("date", "2025-08-01", "20250801", True),
    "an enum": ("public.pigment", "red", "Red", False),
    "no value of it": ("integer", "1", "one", False),
    "text": ("text", "1.0", "1.00", False),
}


@pytest.mark.parametrize("case", SPELLED)
def test_a_shared_version_may_be_spelled_in_two_ways(songs: Db, case: str) -> None:
    """As the type of its column has it."""
    kind, one, other, is_one = SPELLED[case]
    tables = TWO_TABLES.replace("v text not null", f"v {kind} not null")
    tables = tables.replace("listen(song_id bigint, v text)", f"listen(song_id bigint, v {kind})")
    songs.execute(f"create type public.pigment as enum ('red', 'blue'); {tables}".encode())
    first = {"public.pigment": "red", "date": "2025-01-01"}.get(kind, "0")
    said = SAME_CALL["fills"].replace('"v1"', f'"{first}"')
    declare_text(songs, SOURCE + said.replace("bigint,text", f"bigint,{kind}"))
    want = {"lyrics": one, "chords": other}
    if is_one:
        assert planned(songs, "kinds", want=want)[1]["expected_calls"] == {"listen": 3, "total": 3}
        named = planned(songs, "kinds", want={"chords": other}, parameters={"lyrics_version": one})
        assert named[1]["expected_calls"]["total"] == 3
    else:
        with pytest.raises(Exception, match="two versions of"):
            planned(songs, "kinds", want=want)


BETWEEN = LYRICS.replace("lyrics", "middle") + CALL.replace("lyrics", "middle")
FAULTS = {
    "fills what is none": (
        LYRICS + CALL + 'fills = ["chord"]' + CHORDS + CALL,
        "component lyrics fills chord, which is no component; the nearest is chords",
    ),
    "fills what has another function": (
        LYRICS + CALL + 'fills = ["chords"]' + CHORDS + 'function = "public.f(bigint)"',
        "component lyrics fills chords, which has another function or other arguments",
    ),
    "after what comes after its call": (
        LYRICS + CALL + 'fills = ["chords"]' + BETWEEN + CHORDS + 'after = ["middle"]',
        "component chords comes after middle, but the call of lyrics fills it, and that is made"
        " first",
    ),
    "no version for its column": (
        UNVERSIONED_CHORDS + CALL,
        "component chords needs version",
    ),
    "no version for its parameter": (
        UNVERSIONED_CHORDS.replace('version_column = "v"', 'version_parameter = "x"') + CALL,
        "component chords has a version_parameter and no version",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_or_a_version_that_cannot_be_is_refused(fault: str) -> None:
    """With one sentence, before a migration exists."""
    text, said = FAULTS[fault]
    with pytest.raises(BadRequest) as refused:
        parse(SOURCE + text)
    assert refused.value.message == said


# -- no version


UNVERSIONED = """
[[component]]
name = "cover"
table = "public.sleeves"
session = "song_id"
key = ["song_id"]
function = "public.sleeve(bigint)"
arguments = { song_id = "session_id" }
"""
SLEEVES = """
create table public.sleeves (song_id bigint primary key, colour text not null default 'red');
create function public.sleeve(song_id bigint) returns void language sql set search_path = '' as
  'insert into public.sleeves values ($1)';
create function public.sleeve(song_id bigint, tool text) returns void language sql
set search_path = '' as
  'insert into public.sleeves values ($1, $2)';
grant select, insert, update, delete on public.sleeves to service_role;
"""
WITH_A_TOOL = (
    UNVERSIONED.replace("(bigint)", "(bigint,text)").replace(
        '"session_id"', '"session_id", tool = "cover_version"'
    )
    + 'version = "t1"'
)


@MODES
@pytest.mark.parametrize("component", [UNVERSIONED, WITH_A_TOOL], ids=["none", "only an argument"])
def test_a_component_without_a_version_column(songs: Db, component: str, mode: str) -> None:
    """Any row counts, and nothing about versions is promised or counted."""
    # One transaction holds the whole test, so song and row come together, as live traffic does.
    songs.execute(
        SLEEVES + "insert into public.sleeves values (1); update public.songs set plays = 0"
    )
    declare_text(songs, SOURCE + component)
    run = lived(songs, "kinds", mode=mode)
    assert run.plan["candidates"]["total"] == 2
    assert (run.states, run.verdict) == ({"done": 2}, "pass")
    criteria = verbs.call(songs, "backfill_verify_part", p_run_id=run.run_id)["verification"]
    assert not [c["name"] for c in criteria["criteria"] if "version" in c["name"]]
    assert count(songs, "select count(*) from public.sleeves") == 1


def test_no_version_can_be_asked_for_where_there_is_none(songs: Db) -> None:
    songs.execute(SLEEVES)
    declare_text(songs, SOURCE + UNVERSIONED)
    with pytest.raises(Exception, match="cover of target kinds has no version"):
        planned(songs, "kinds", want={"cover": "v2"})


# -- a view as the source


VIEWS = {
    "a view": "create view public.paid as select id, cut_at from public.songs where plays < 3;",
    "a view over two tables": (
        "create table public.bands (song_id bigint primary key);"
        "insert into public.bands select id from public.songs where id < 3;"
        "create view public.paid as select s.* from public.songs as s"
        " join public.bands as b on b.song_id = s.id;"
    ),
    "a materialized view": (
        "create materialized view public.paid as select * from public.songs where plays < 3;"
    ),
    "one with an index": (
        "create materialized view public.paid as select * from public.songs where plays < 3;"
        "create unique index on public.paid (id);"
    ),
}
PAID = SOURCE.replace("public.songs", "public.paid") + UNVERSIONED
READ = "grant select on public.paid to service_role;"


@MODES
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_a_source(songs: Db, view: str, mode: str) -> None:
    """It has no index, no age of its rows, and what it selects are the sessions."""
    songs.execute((SLEEVES + VIEWS[view] + READ).encode())
    declare_text(songs, PAID)
    run = lived(songs, "kinds", mode=mode)
    assert run.plan["candidates"]["total"] == 2
    assert (run.states, run.verdict) == ({"done": 2}, "pass")
    rows = songs.execute(
        "select line ->> 'name' as name, line ->> 'status' as status"
        " from jsonb_array_elements(backfill_private.check_project(null)) as line"
    )
    failing = [row["name"] for row in rows if row["status"] == "fail"]
    assert [name for name in failing if "paid" in name or "kinds" in name] == []


TWICE = {
    "the same": ("select id % 2 as id, cut_at from public.songs", "several rows of the view have"),
    "none": ("select nullif(id, 2) as id, cut_at from public.songs", "a row of the view has none"),
}


@pytest.mark.parametrize("kind", TWICE)
def test_a_view_whose_key_names_no_row_is_refused(songs: Db, kind: str) -> None:
    """When it is declared, and later by plan and coverage."""
    select, said = TWICE[kind]
    songs.execute((SLEEVES + f"create view public.paid as {select};" + READ).encode())
    with pytest.raises(Exception, match=said), songs.transaction():
        declare_text(songs, PAID)
    songs.execute(b"create or replace view public.paid as select id, cut_at from public.songs")
    declare_text(songs, PAID)
    songs.execute(f"create or replace view public.paid as {select}".encode())
    with pytest.raises(Exception, match=said), songs.transaction():
        planned(songs, "kinds")
    with pytest.raises(Exception, match=said), songs.transaction():
        songs.execute("select public.backfill_coverage('kinds')")


def test_a_view_holds_no_rows_of_a_component(songs: Db) -> None:
    """It is said that it is one, not that it does not exist."""
    songs.execute((SLEEVES + VIEWS["a view"] + READ).encode())
    with pytest.raises(Exception, match=r"public\.paid cannot be declared: it is a view, and rows"):
        declare_text(songs, SOURCE + UNVERSIONED.replace("public.sleeves", "public.paid"))


def test_the_views_have_the_keys_own_type(songs: Db) -> None:
    """So they join with the tables that they are about."""
    songs.execute(SLEEVES)
    declare_text(songs, SOURCE + UNVERSIONED)
    for view in ("backfill_kinds_candidates", "backfill_kinds_missing_cover"):
        joined = (
            f"select count(*) from public.{view} as v join public.songs as s on s.id = v.session_id"
        )
        assert count(songs, joined) == 3


# -- two components in one table


SHARED = """
create table public.notes (
  song_id bigint not null, kind text not null, v text not null, note text,
  primary key (song_id, kind));
create function public.note(song_id bigint, kind text, v text) returns void language sql
set search_path = '' as 'insert into public.notes values ($1, $2, $3) on conflict do nothing';
grant select, insert, update, delete on public.notes to service_role;
insert into public.notes values (1, 'long', 'v1');
"""
PARAMETERS = """
[parameters]
short_kind = "short"
long_kind = "long"
"""
NOTE = """
[[component]]
name = "short"
table = "public.notes"
session = "song_id"
key = ["song_id", "kind"]
matches = { kind = "short_kind" }
version_column = "v"
version = "v1"
function = "public.note(bigint,text,text)"
arguments = { song_id = "session_id", kind = "short_kind", v = "short_version" }
"""
NOTES = SOURCE + PARAMETERS + NOTE + NOTE.replace("short", "long")


@MODES
def test_two_components_in_one_table_are_told_apart_by_a_column(songs: Db, mode: str) -> None:
    """Each with rows, receipts, figures and criteria of its own."""
    songs.execute(SHARED)
    declare_text(songs, NOTES)
    run = lived(songs, "kinds", mode=mode)
    assert run.plan["candidates"]["missing"] == {"short": 3, "long": 2}
    assert run.plan["expected_writes"]["new"] == {"notes": 5}
    assert run.plan["expected_calls"] == {"note": 5, "total": 5}
    assert (run.states, run.verdict) == ({"done": 3}, "pass")
    receipts = songs.execute(
        "select component, count(*) as n from public.backfill_receipts"
        " where kind = 'score' group by 1 order by 1"
    ).fetchall()
    assert [(row["component"], row["n"]) for row in receipts] == [("long", 2), ("short", 3)]
    left = songs.execute("select kind from public.notes").fetchall()
    assert [row["kind"] for row in left] == ["long"]
    criteria = verbs.call(songs, "backfill_verify_part", p_run_id=run.run_id)["verification"]
    names = {c["name"] for c in criteria["criteria"]}
    assert names >= {"notes_short_rows", "notes_long_rows", "notes_long_version"}


def test_components_that_nothing_tells_apart_are_refused(songs: Db) -> None:
    """In the file, and in a request that makes their parameters the same."""
    mixed = NOTES.replace('long_kind = "long"', 'long_kind = "short"')
    with pytest.raises(BadRequest) as refused:
        parse(mixed)
    assert refused.value.message == (
        "components short and long are both in public.notes, and no column of their keys tells"
        " them apart"
    )
    with pytest.raises(BadRequest, match="no column of their keys tells them apart"):
        parse(NOTES.replace(', "kind"]', "]"))
    songs.execute(SHARED)
    declare_text(songs, NOTES)
    with pytest.raises(Exception, match=r"short and long are both in public\.notes"):
        planned(songs, "kinds", parameters={"long_kind": "short"})


def test_a_kind_that_the_column_does_not_have_is_refused_as_that(songs: Db) -> None:
    """Before it is asked whether the components are told apart. Each table is told of once."""
    songs.execute(SHARED)
    songs.execute(
        "create type public.kinds as enum ('short', 'long');"
        "alter table public.notes alter column kind type public.kinds using kind::public.kinds;"
        "create or replace function public.note(song_id bigint, kind text, v text) returns void"
        " language sql set search_path = '' as"
        " 'insert into public.notes values ($1, $2::public.kinds, $3) on conflict do nothing'"
    )
    declare_text(songs, NOTES)
    with pytest.raises(Exception, match="lnog is no such value"):
        planned(songs, "kinds", parameters={"long_kind": "lnog"})
    run = lived(songs, "kinds")
    assert (run.states, run.verdict) == ({"done": 3}, "pass")
    lines = songs.execute(
        "select line ->> 'name' as name, count(*) as n"
        " from jsonb_array_elements(backfill_private.check_project(null)) as line"
        " where line ->> 'name' like '%notes%' group by 1"
    )
    assert {line["name"] for line in lines if line["n"] > 1} == set()


@MODES
def test_a_row_of_no_components_kind_has_one_receipt(songs: Db, mode: str) -> None:
    """The first's, and the undo takes it back. Nobody planned it, so the verdict is no pass."""
    songs.execute(SHARED)
    songs.execute(
        "create or replace function public.note(song_id bigint, kind text, v text) returns void"
        " language sql set search_path = '' as $$"
        " insert into public.notes values ($1, $2, $3), ($1, 'draft', $3) on conflict do nothing $$"
    )
    declare_text(songs, NOTES)
    run = lived(songs, "kinds", mode=mode)
    drafts = "select count(*) from public.backfill_receipts where row_key ->> 'kind' = 'draft'"
    assert count(songs, drafts + " and kind = 'score'") == 3
    assert (run.states, run.verdict) == ({"done": 3}, "fail")
    assert count(songs, "select count(*) from public.notes") == 1
