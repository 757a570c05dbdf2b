"""Whether the API could make the scoring calls is asked before anybody approves. None is made."""

# ruff: noqa: E501 - the tables of cases are read across.

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

import backfill
from backfill.results.check import Check
from backfill.targets.declaration import parse
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.edge import declare as declare_in
from tests.kit.edge import served
from tests.kit.jars import PLAN, jars
from tests.kit.songs import as_owner, declare, opened, songs, songs_db
from tests.test_preconditions import Db

__all__ = ["songs", "songs_db"]  # fixtures of another module

PAINT = "function public.paint(song_id bigint, ink text"
AS = " language sql as 'select 1'"
# What is done to the functions, what is said of the scorer, and what to do.
FUNCTIONS = {
    "an overload with the same argument names": (
        f"create function public.paint(song_id text, ink text) returns integer{AS}",
        "the API cannot choose between public.paint(bigint,text) and public.paint(text,text)",
        "rename one of them",
    ),
    "an overload with a default": (
        f"create {PAINT}, force boolean default false) returns integer{AS}",
        "and public.paint(bigint,text,boolean): a call fits both (PGRST203)",
        "rename one of them",
    ),
    "an overload whose further argument is asked for": (
        f"create {PAINT}, force boolean) returns integer{AS}", None, "",
    ),
    "an overload with other names": (
        f"create function public.paint(song text, ink text) returns integer{AS}", None, "",
    ),
    "an overload in another schema": (
        "create schema other;"
        f"create function other.paint(song_id text, ink text) returns integer{AS}", None, "",
    ),
    "an overload that is a procedure": (
        "create procedure public.paint(song_id text, ink text) language sql as 'select 1'",
        None, "",
    ),
    "a procedure": (
        "drop function public.paint;"
        "create procedure public.paint(song_id bigint, ink text) language sql as 'select 1'",
        "public.paint(bigint,text) is a procedure, and the API calls only functions",
        "make it a function",
    ),
    "what it returns has the name of an argument": (
        "drop function public.paint;"
        "create function public.paint(bigint, text, out song_id integer, out ink integer)"
        " language sql as 'select 1, 1'",
        "the arguments are {\"\",\"\"}, the calls name {ink,song_id}",
        "name its arguments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FUNCTIONS)
def test_what_the_catalog_says_of_a_call(songs: Db, case: str) -> None:
    """The API chooses by the names of arguments, never by their types."""
    done, said, to_do = FUNCTIONS[case]
    declare(songs)
    songs.execute(done.encode())
    line = scorer(verbs.call(songs, "backfill_check"))
    assert line["status"] == ("ok" if said is None else "fail")
    assert said is None or said in line["detail"]
    assert to_do in line["next"]


def scorer(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The line on the songs' scoring function."""
    return next(line for line in lines if line["name"] == "function paint")


def test_an_argument_that_the_calls_leave_out(songs: Db) -> None:
    """With a default it may be left out."""
    declare(songs)
    songs.execute(
        f"drop function public.paint; create {PAINT}, force boolean) returns integer{AS};"
        "update public.backfill_targets"
        " set function_signature = 'public.paint(bigint,text,boolean)'".encode()
    )
    line = scorer(verbs.call(songs, "backfill_check"))
    assert line["detail"].endswith("needs force too, and the calls do not name it")
    as_owner(songs)
    songs.execute(
        f"drop function public.paint;"
        f"create {PAINT}, force boolean default true) returns integer{AS};"
        "grant execute on function public.paint to service_role".encode()
    )
    assert scorer(verbs.call(songs, "backfill_check"))["status"] == "ok"


# An answer of the API about a call of a run, and what of it is a cause that the database knows.
CAUSES = {
    "another overload": ("PGRST203", "between: public.paint(a), public.paint(b)", "drop public.paint(text,text)"),
    "an overload of another function": ("PGRST203", "between: public.frame(a), public.frame(b)", None),
    "not found, though it is there": ("PGRST202", "Could not find public.paint(ink) in the cache", None),
    "another error": ("PGRST204", "public.paint(ink)", None),
}  # fmt: skip


@pytest.mark.parametrize("case", CAUSES)
def test_a_cause_is_said_only_of_the_target_s_own_function(songs: Db, case: str) -> None:
    """An Edge Function may pass on what a call of its own met."""
    code, message, said = CAUSES[case]
    declare(songs)
    songs.execute(
        f"create function public.paint(song_id text, ink text) returns integer{AS}".encode()
    )
    row = songs.execute(
        "select backfill_private.call_cause('songs', %s, %s) as cause", (code, message)
    ).fetchone()
    assert row is not None
    assert (said is None) == (row["cause"] is None)
    assert (said or "") in (row["cause"] or "")


ANSWERS = {
    "well": ({"status": "ok", "detail": "the API can call it"}, "ok", "it; the API"),
    "no": ({"status": "fail", "detail": "not at all", "next": "do this"}, "fail", "not at all"),
    "who knows": ({"status": "x", "detail": "y"}, "fail", "y"),
    "of another": ({"mark": "function x", "status": "fail", "detail": "y"}, "ok", "execute it"),
    "nothing": ({}, "ok", "execute it"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_the_api_says_of_a_call_stands_in_check_and_plan(songs: Db, case: str) -> None:
    """Alike, and beside what the database knows."""
    answer, status, said = ANSWERS[case]
    declare(songs)
    told = Jsonb([{"mark": "function paint", **answer}])
    line = scorer(verbs.call(songs, "backfill_check", p_probed=told))
    assert (line["status"], said in line["detail"]) == (status, True)
    run_id = opened(songs)
    while not verbs.call(songs, "backfill_collect", p_run_id=run_id):
        pass
    verbs.call(songs, "backfill_seal", p_run_id=run_id, p_probed=told)
    as_owner(songs)
    row = songs.execute("select plan -> 'checks' as checks from public.backfill_runs").fetchone()
    assert row is not None
    assert scorer(row["checks"]) == line


@pytest.mark.parametrize(("mode", "priority", "asked"), [
    ("direct", [], 1), ("bulk", [], 0), ("bulk", ["1"], 1),
])  # fmt: skip
def test_what_is_scored_inside_the_database_is_not_asked_of_the_api(
    songs: Db, mode: str, priority: list[str], asked: int
) -> None:
    """The priority sessions are called one by one in either mode."""
    declare(songs)
    run_id = opened(songs, mode=mode, priority=priority)
    calls = verbs.call(songs, "backfill_calls", p_run_id=run_id)
    assert len(calls) == asked
    assert verbs.call(songs, "backfill_calls") == [
        {
            "mark": "function paint", "transport": "rpc", "function": "paint",
            "arguments": ["ink", "song_id"],
        }
    ]  # fmt: skip


def renamed_and_back(project: Project, bf: backfill.Backfill) -> tuple[Check, Check]:
    """The marks of check and plan on the function, of which the API has seen another name.

    An earlier reload may still be on its way, and see the function under its own name again.
    """
    for _ in range(5):
        project.db.execute(b"alter function public.label_jar rename to label_a_jar")
        project.reload()
        project.db.execute(b"alter function public.label_a_jar rename to label_jar")
        checked = {c.name: c for c in bf.check()}["function label_jar"]
        planned = {c.name: c for c in bf.plan(**PLAN).checks}["function label_jar"]
        if "ok" not in (checked.status, planned.status):
            break
    return checked, planned


def test_a_function_that_the_api_does_not_know_yet(project: Project, bf: backfill.Backfill) -> None:
    """Its schema cache is older. The question calls nothing, and the plan says it too."""
    jars(project, 1)
    marks = {c.name: c for c in bf.check()}
    assert marks["function label_jar"].detail.endswith("may execute it; the API can call it")
    assert marks["PostgREST"].status == "ok"
    assert marks["PostgREST"].detail[0].isdigit()
    assert project.value("select count(*) from public.labels") == 0
    told, planned = renamed_and_back(project, bf)
    assert (told.status, told.next_step) == ("fail", "notify pgrst, 'reload schema';")
    assert told.detail.startswith("the API cannot call it: PGRST202")
    assert planned == told


def test_a_pause_says_what_keeps_the_api_from_the_function(
    project: Project, bf: backfill.Backfill
) -> None:
    """Which other function to drop, or that its cache is older. Then the same run goes on."""
    jars(project, 1, 2, 3)
    plan = bf.plan(**PLAN)
    project.approve(plan)
    project.db.execute(
        b"create function public.label_jar(jar_id text, made_with text) returns void"
        b" language sql as ''"
    )
    project.reload()
    with pytest.raises(backfill.Paused, match="every call would fail: PGRST203 ") as paused:
        bf.apply(plan.run_id)
    assert (
        str(paused.value)
        .partition("\n")[0]
        .endswith(
            ". The target declares public.label_jar(bigint,text):"
            " drop public.label_jar(text,text), or rename it"
        )
    )
    project.db.execute(b"drop function public.label_jar(text, text)")
    project.db.execute(b"alter function public.label_jar rename to label_a_jar")
    project.reload()
    project.db.execute(b"alter function public.label_a_jar rename to label_jar")
    bf.resume(plan.run_id)
    with pytest.raises(backfill.Paused, match="every call would fail: PGRST202 ") as paused:
        bf.apply(plan.run_id)
    assert "is there, and the API has not seen it: notify pgrst, 'reload" in str(paused.value)
    project.reload()
    bf.resume(plan.run_id)
    assert bf.apply(plan.run_id).is_complete


def test_a_function_that_raises_what_the_api_repeats_is_named(
    project: Project, bf: backfill.Backfill
) -> None:
    """Before it does so."""
    jars(project, 1)
    project.db.execute(
        b"create or replace function public.label_jar(jar_id bigint, made_with text) returns void"
        b" language plpgsql as 'begin raise exception using errcode = ''40001''; end'"
    )
    told = {c.name: c for c in bf.check()}["PostgREST"]
    assert told.status == "warn"
    assert told.detail.endswith("again without end, as may public.label_jar(bigint,text)")
    assert "--mode bulk" in told.next_step


EDGE = """
target = "jars"
[source]
table = "public.jars"
key = "id"
date = "filled_at"
[[component]]
name = "label"
table = "public.labels"
session = "jar_id"
key = ["jar_id"]
version_column = "made_with"
version = "ink"
function = "there"
transport = "edge"
function_version = "1"
arguments = { jar_id = "session_id" }
"""
HANDLER = "Deno.serve(() => new Response('is this a call?', { status: 405 }));"


def test_an_edge_function_is_asked_whether_it_is_there(
    project: Project, bf: backfill.Backfill, tmp_path: Path
) -> None:
    """One that is not deployed or does not start fails the check. One that answers is warned of."""
    jars(project, 1)
    declare_in(project, parse(EDGE))
    for name, text in (("there", HANDLER), ("broken", "import './none.ts';")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.ts").write_text(text)
    with served(project, tmp_path):
        seen = {}
        for name in ("there", "broken", "absent"):
            project.db.execute(
                "update public.backfill_targets set function_signature = %s where target = 'jars'",
                (name,),
            )
            line = {c.name: c for c in bf.check()}[f"Edge Function {name}"]
            seen[name] = (line.status, line.detail, line.next_step)
    assert seen["there"][0] == "warn"
    assert seen["there"][1].endswith("does not hold it; it is deployed and answers")
    assert seen["broken"][0] == "fail"
    assert seen["broken"][1].startswith("it does not start: BOOT_ERROR")
    assert seen["absent"][:2] == (
        "fail", "it is not deployed: NOT_FOUND Requested function was not found",
    )  # fmt: skip
    assert seen["absent"][2] == "supabase functions deploy absent"
