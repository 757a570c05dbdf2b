"""A view as the source, as people write them: over its own gaps, by its reader's rights."""

from __future__ import annotations

import psycopg
import pytest

from tests.kit import verbs
from tests.kit.kinds import declare_text, lived, planned
from tests.kit.songs import Db, as_owner, songs, songs_db
from tests.test_kinds import MODES, PAID, READ, SLEEVES

__all__ = ["songs", "songs_db"]  # fixtures of another module

LACKING = (
    "create view public.paid as select s.id, s.cut_at from public.songs as s"
    " where not exists (select from public.sleeves as v where v.song_id = s.id);"
)


NO_PATH = 'reading the view ends with: relation "songs" does not exist'
CALM = 'where = { mood = "calm" }\n[[component]]'


@MODES
def test_a_view_may_hold_only_what_is_missing(songs: Db, mode: str) -> None:
    """A session leaves the view with its row, and comes back with the undo."""
    songs.execute((SLEEVES + LACKING + READ).encode())
    declare_text(songs, PAID)
    run = lived(songs, "kinds", mode=mode)
    assert run.plan["candidates"]["total"] == 3
    assert (run.states, run.verdict) == ({"done": 3}, "pass")
    assert run.undone["deletes"] == {"sleeves": 3}
    _, plan = planned(songs, "kinds")
    assert plan["candidates"]["total"] == 3


def test_an_index_on_a_view_is_refused(songs: Db) -> None:
    """When it is declared, not by the migration that would build it."""
    songs.execute((SLEEVES + LACKING + READ).encode())
    with pytest.raises(psycopg.Error, match="it is a view, and no index of ours"):
        declare_text(songs, PAID.replace("[source]", '[source]\nindex = "paid_by_day"'))


def test_an_index_on_a_partitioned_table_is_refused(songs: Db) -> None:
    """PostgreSQL builds none of all its parts beside writers: its migration would fail."""
    songs.execute(
        SLEEVES.encode()
        + b"create table public.paid (like public.songs, primary key (id)) partition by hash (id);"
    )
    declare_text(songs, PAID)
    with pytest.raises(psycopg.Error, match="it is partitioned, and no index of all its parts"):
        declare_text(songs, PAID.replace("[source]", '[source]\nindex = "paid_by_day"'))


def test_a_view_that_was_never_filled_is_refused(songs: Db) -> None:
    songs.execute(
        (
            SLEEVES
            + "create materialized view public.paid as select * from public.songs with no data;"
            + READ
        ).encode()
    )
    with pytest.raises(psycopg.Error, match=r"public\.paid cannot be declared: it was never"):
        declare_text(songs, PAID)


@pytest.mark.parametrize("owned", ["paid", "inner_paid"])
def test_a_view_of_an_api_role_is_refused(songs: Db, owned: str) -> None:
    """Whoever holds its key could put a function in it that then ran with the owner's rights."""
    songs.execute(
        (
            SLEEVES
            + LACKING.replace("public.paid", "public.inner_paid")
            + "create view public.paid as select * from public.inner_paid;"
            + READ
            + "grant create on schema public to service_role;"
            + f"alter view public.{owned} owner to service_role"
        ).encode()
    )
    with pytest.raises(psycopg.Error, match=f"{owned} belongs to service_role, a role of the API"):
        declare_text(songs, PAID)


def test_check_says_which_rights_a_view_needs_of_its_reader(songs: Db) -> None:
    """One with security_invoker reads its tables by the rights of whoever reads it."""
    invoker = LACKING.replace(" as select s.id", " with (security_invoker) as select s.id", 1)
    songs.execute(
        (
            SLEEVES
            + "create view public.tunes with (security_invoker) as select * from public.songs;"
            + invoker.replace("public.songs", "public.tunes")
            + READ
            + "revoke all on public.songs, public.tunes from service_role"
        ).encode()
    )
    declare_text(songs, PAID)
    as_owner(songs)
    row = songs.execute(
        "select line from jsonb_array_elements(backfill_private.check_project(null)) as line"
        " where line ->> 'name' = 'rights on public.paid'"
    ).fetchone()
    assert row is not None
    assert row["line"]["status"] == "fail"
    songs.execute(row["line"]["next"].encode())
    songs.execute("set local role service_role")
    songs.execute("select public.backfill_coverage('kinds')")


def test_a_view_whose_functions_need_a_path_is_told_so(songs: Db) -> None:
    """One sentence with what to do, when it is declared and whenever it is read later."""
    songs.execute(
        (
            SLEEVES
            + "create function public.is_calm(song bigint) returns boolean language plpgsql as"
            " 'begin return (select mood = ''calm'' from songs where id = song); end';"
            "create view public.paid as select * from public.songs where public.is_calm(id);" + READ
        ).encode()
    )
    with (
        pytest.raises(
            psycopg.Error,
            match=NO_PATH,
        ) as refused,
        songs.transaction(),
    ):
        declare_text(songs, PAID)
    assert refused.value.sqlstate == "OB013"
    songs.execute("alter function public.is_calm(bigint) set search_path = public")
    declare_text(songs, PAID.replace("[[component]]", CALM, 1))
    assert planned(songs, "kinds")[1]["candidates"]["total"] == 3
    songs.execute("alter function public.is_calm(bigint) reset search_path")
    with (
        pytest.raises(psycopg.Error, match=NO_PATH) as refused,
        songs.transaction(),
    ):
        verbs.call(songs, "backfill_coverage", p_target="kinds")
    assert refused.value.sqlstate == "OB013"
    as_owner(songs)
    lines = songs.execute(
        "select line ->> 'name' as name, line ->> 'detail' as detail"
        " from jsonb_array_elements(backfill_private.check_project(null)) as line"
        " where line ->> 'status' = 'fail'"
    )
    found = {line["name"]: line["detail"] for line in lines}
    assert "reading the view ends with" in found["key of public.paid"]
