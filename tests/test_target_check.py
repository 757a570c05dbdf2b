"""A file held against a project: every fault at once, each with its line, and nothing is kept."""

# ruff: noqa: E501 - the tables of cases are read across.

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from backfill.errors import BadRequest
from backfill.local.servers import PostgresServer
from backfill.targets.declaration import Declaration, parse
from backfill.targets.draft_text import value_text
from backfill.targets.file_check import form_of, where_of
from backfill.targets.lines import Place, lines_of
from backfill.targets.views import declaration_of
from tests.conftest import Project
from tests.kit.commands import Ran, Shell
from tests.kit.whole import examples

SCHEMA = """
create type public.paper as enum ('a4', 'letter');
create table public.parcels (id bigint primary key, state text, sent_at timestamptz, weight text);
create view public.sent_parcels as select * from public.parcels where state = 'sent';
create table public.stamps (parcel_id bigint not null, print text not null, primary key (parcel_id, print));
create table public.slips (parcel_id text primary key, print text not null);
create table public.labels (parcel_id bigint primary key, print public.paper not null);
create table public.scans (parcel_id bigint, print text);
grant select on public.parcels to service_role;
create function public.stamp(p_parcel bigint, p_print text) returns void language sql
  as 'insert into public.stamps values (p_parcel, p_print)';
"""
FILE = """\
target = "parcels"

[source]
table = "public.parcels"
key = "id"
date = "sent_at"
where = { state = ["sent", "lost"] }

[[component]]
name = "stamp"
table = "public.stamps"
session = "parcel_id"
key = ["parcel_id", "print"]
version_column = "print"
version = "p1"
function = "public.stamp(bigint,text)"
arguments = { p_parcel = "session_id", p_print = "stamp_version" }
"""


@pytest.fixture(scope="module")
def parcels(shared_project: Project) -> Project:
    """The shared project, with tables of a team's own."""
    shared_project.db.execute(SCHEMA.encode())
    return shared_project


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "parcels.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def parcels_shell(
    parcels: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Shell:
    monkeypatch.chdir(tmp_path)
    environment = {
        "SUPABASE_URL": parcels.url,
        "SUPABASE_SERVICE_ROLE_KEY": parcels.keys.service_role,
    }
    return Shell(monkeypatch, capsys, environment)


def checked(shell: Shell, file: Path, *changes: tuple[str, str]) -> Ran:
    """What `target check` says of the file with some things otherwise."""
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    file.write_text(text)
    return shell("target", "check", str(file), "--json")


def test_a_file_that_can_be_declared_passes(parcels_shell: Shell, file: Path) -> None:
    """And says what to do with it."""
    answer = parcels_shell("target", "check", str(file))
    assert (answer.code, answer.err) == (0, "")
    assert "target parcels can be installed" in answer.out
    assert f"backfill install --target {file}" in answer.out.replace("\n", "")


# What is wrong, the line, the way to it, what is said. One each: none brings another with it.
FAULTS: dict[str, tuple[tuple[str, str], int, str, str]] = {
    "no TOML": (("[source]", "[source"), 3, "", "the file is not TOML"),
    "a table": (('"public.stamps"', '"public.stamsp"'), 11, "component[0].table", "there is no table public.stamsp; the nearest is public.stamps"),
    "no table near it": (('"public.stamps"', '"public.zzzzzzzz"'), 11, "component[0].table", "there is no table public.zzzzzzzz"),
    "a view that holds rows": (('"public.stamps"', '"public.sent_parcels"'), 11, "component[0].table", "public.sent_parcels cannot be declared: it is a view"),
    "a column": (('date = "sent_at"', 'date = "sended_at"'), 6, "source.date", "public.parcels has no column sended_at; the nearest is sent_at"),
    "no column near it": (('date = "sent_at"', 'date = "opening"'), 6, "source.date", "public.parcels has no column opening"),
    "a column of a condition": (("{ state", "{ stat"), 7, "source.where.stat", "public.parcels has no column stat; the nearest is state"),
    "a text that is no date": (('date = "sent_at"', 'date = "weight"'), 6, "source.date", "weight is text: no time"),
    "a bare name": (('"public.stamp(bigint,text)"', '"stamp"'), 16, "component[0].function", 'there is no function stamp; the nearest is public.stamp(bigint,text)'),
    "other arguments": (("(bigint,text)", "(text,bigint)"), 16, "component[0].function", "there is no function public.stamp(text,bigint); the nearest is public.stamp(bigint,text)"),
    "an argument": (("p_print = ", "p_prnt = \"session_id\", p_print = "), 17, "component[0].arguments.p_prnt", "public.stamp(bigint,text) has no argument p_prnt; the nearest is p_print"),
    "an argument that is needed": ((', p_print = "stamp_version"', ""), 17, "component[0].arguments", "public.stamp(bigint,text) needs the argument p_print"),
    "the version by its own name": (('"stamp_version"', '"version"'), 17, "component[0].arguments.p_print", "component stamp: arguments.p_print: there is no parameter version; it is called stamp_version here"),
    "the version by its column": (('"stamp_version"', '"print"'), 17, "component[0].arguments.p_print", "component stamp: arguments.p_print: there is no parameter print; it is called stamp_version here"),
    "the session by its column": (('= "session_id"', '= "session_id", p_other = "id"'), 17, "component[0].arguments.p_other", "component stamp: arguments.p_other: there is no parameter id; it is called session_id here"),
    "no argument takes the session": (('p_parcel = "session_id", ', ""), 9, "component[0]", "component stamp: no argument takes the session_id"),
    "another type of key": (('"public.stamps"', '"public.slips"'), 12, "component[0].session", "parcel_id of public.slips is text, but the key id of public.parcels is bigint"),
    "a version that an enum lacks": (('"public.stamps"', '"public.labels"'), 15, "component[0].version", "print of public.labels is public.paper, and p1 is no such value. There are: a4, letter"),
    "a key that is not unique": (('"public.stamps"', '"public.scans"'), 13, "component[0].key", "no unique index covers it"),
    "a key of more": (('["parcel_id", "print"]', '["parcel_id", "weight"]'), 13, "component[0].key", "public.stamps has no column weight"),
    "a form": (('version = "p1"', 'version = ["p1"]'), 15, "component[0].version", "component stamp: version is a text"),
    "a key too many": (('name = "stamp"', 'name = "stamp"\ncolour = "red"'), 11, "component[0].colour", "component stamp has no colour"),
    "no version": (('version = "p1"\n', ""), 9, "component[0]", "component stamp needs version"),
    "what is missing": (('session = "parcel_id"\n', ""), 9, "component[0].session", "component stamp needs session"),
    "a transport that is none": (("version = ", 'transport = "grpc"\nversion = '), 15, "component[0].transport", "transport is rpc or edge, not grpc"),
}  # fmt: skip


@pytest.mark.usefixtures("parcels")
@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_told_with_its_line(
    case: str, parcels_shell: Shell, file: Path, nothing_changes: None
) -> None:
    """Its line, the way to it, a sentence. What follows from it is not told."""
    change, line, where, said = FAULTS[case]
    answer = checked(parcels_shell, file, change)
    assert answer.code == 4
    told = [(e["line"], e["where"]) for e in answer.json["errors"] if said in e["message"]]
    assert (line, where) in told, answer.out


@pytest.mark.parametrize(
    "case", ["a table", "a column", "a form", "another type of key", "what is missing"]
)
def test_what_follows_from_a_fault_is_not_told(case: str, parcels_shell: Shell, file: Path) -> None:
    """One cause, one line."""
    answer = checked(parcels_shell, file, FAULTS[case][0])
    assert len(answer.json["errors"]) == 1, answer.out


def test_a_file_with_ten_faults_gets_ten_lines(parcels_shell: Shell, file: Path) -> None:
    """Of form, of names, of types and of contradictions: none hides another."""
    changes = [
        ('target = "parcels"', 'target = "Parcels"'),
        ('key = "id"', 'key = "idd"'),
        ('date = "sent_at"', 'date = "sent"'),
        ("{ state", "{ stat"),
        ('name = "stamp"', 'name = "stamp"\ncolour = "red"'),
        ('session = "parcel_id"', 'session = "parcel"'),
        ('version_column = "print"', 'version_column = "printt"'),
        ('version = "p1"', 'version = ["p1"]'),
        ("(bigint,text)", "(bigint)"),
        ('"stamp_version"', '"version"'),
    ]
    answer = checked(parcels_shell, file, *changes)
    assert [e["line"] for e in answer.json["errors"]] == [1, 5, 6, 7, 11, 13, 15, 16, 17, 18]
    assert [sorted(e.keys() - {"next"}) for e in answer.json["errors"]] == [["line", "message", "where"]] * 10  # fmt: skip
    shown = parcels_shell("target", "check", str(file))
    assert (shown.code, shown.out.count(f"{file}:")) == (4, 10)
    assert "Next: correct" in shown.out


def test_an_edge_function_of_the_working_folder_is_known(
    parcels_shell: Shell, file: Path, tmp_path: Path
) -> None:
    """A near name in the folder is told. A folder with other functions says nothing."""
    change = (
        'function = "public.stamp(bigint,text)"',
        'transport = "edge"\nfunction_version = "1"\nfunction = "print_stmap"',
    )
    assert checked(parcels_shell, file, change).code == 0
    folder = tmp_path / "supabase" / "functions" / "print_stamp"
    folder.mkdir(parents=True)
    (folder / "index.ts").write_text("")
    answer = checked(parcels_shell, file, change)
    assert [(e["line"], "the nearest is print_stamp" in e["message"]) for e in answer.json["errors"]] == [(18, True)]  # fmt: skip


SEEN = {
    "in another case": ("Sent", "none of the 3 rows of parcels has state Sent; the nearest is sent"),
    "no row": ("gone", "none of the 3 rows of parcels has state gone"),
}  # fmt: skip


@pytest.mark.parametrize("case", SEEN)
def test_a_value_that_no_row_has_is_a_warning(
    case: str, parcels: Project, parcels_shell: Shell, file: Path
) -> None:
    """It can be installed, and is hardly meant. An empty table says nothing."""
    value, said = SEEN[case]
    change = ('"sent", "lost"', f'"sent", "{value}"')
    assert checked(parcels_shell, file, change).json["warnings"] == []
    parcels.db.execute(
        "insert into public.parcels (id, state) values (1, 'sent'), (2, 'lost'), (3, null)"
    )
    try:
        answer = checked(parcels_shell, file, change)
        assert answer.code == 0
        (warning,) = answer.json["warnings"]
        assert (warning["line"], warning["where"]) == (7, "source.where.state")
        assert warning["message"] == said
        assert said in parcels_shell("target", "check", str(file)).out
        assert checked(parcels_shell, file).json["warnings"] == []
    finally:
        parcels.db.execute("delete from public.parcels")


def test_a_value_is_looked_for_with_the_rights_of_the_caller(
    parcels: Project, parcels_shell: Shell, file: Path
) -> None:
    """Without them neither a value is said nor that there is none, but that nobody looked."""
    parcels.db.execute("insert into public.parcels (id, state) values (1, 'secret')")
    parcels.db.execute("revoke select on public.parcels from service_role")
    try:
        (warning,) = checked(parcels_shell, file).json["warnings"]
        assert warning["message"] == (
            "service_role may not read public.parcels, so nobody looked whether a row has such a value"
        )
        assert warning["next"] == "grant select on public.parcels to service_role;"
    finally:
        parcels.db.execute(
            "grant select on public.parcels to service_role; delete from public.parcels"
        )


def test_a_file_that_is_not_there_is_usage(parcels_shell: Shell) -> None:
    """No fault of a file."""
    answer = parcels_shell("target", "check", "none.toml")
    assert (answer.code, "none.toml cannot be read" in answer.err) == (2, True)


def test_an_installed_target_is_held_against_itself(parcels_shell: Shell, file: Path) -> None:
    """PRISM's file passes where PRISM is. Another target of its tables does not."""
    import backfill.targets

    prism = (Path(backfill.targets.__file__).parent / "prism.toml").read_text()
    file.write_text(prism)
    assert parcels_shell("target", "check", str(file)).code == 0
    file.write_text(prism.replace('target = "prism"', 'target = "other"'))
    answer = parcels_shell("target", "check", str(file), "--json")
    assert [e["message"] for e in answer.json["errors"]] == [
        "public.fc_scores holds the rows of fc_scores of target prism already",
        "public.profiles holds the rows of profile of target prism already",
    ]


def test_the_installed_targets_are_listed(parcels_shell: Shell) -> None:
    """Name, components in their order, coverage of all dates, since when."""
    (prism,) = parcels_shell("targets", "--json").json
    assert (prism["target"], prism["components"]) == ("prism", ["fc_scores", "profile"])
    assert 0 < prism["coverage"] < 1
    assert prism["installed_at"].startswith("20")
    shown = parcels_shell("targets").out
    assert "prism" in shown
    assert "fc_scores, profile" in shown


# The lines of a file ----------------------------------------------------------------------------

LINES = """\
# a comment = 1
a = 1
"b c".d = [ 1, # one ]
  { e = "]", f = '#' },
]
text = \"\"\"
not = "this"
\"\"\"
[[t]]
x = { y = [1, 2], z.w = 2025-01-01T00:00:00Z }
[[t]]
[t.inner]
q = 1.5
[[t.list]]
r = ''
"""


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every place of a file."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*place, key)
            yield from leaves(inner, (*place, key))


def test_every_place_of_a_file_has_its_line() -> None:
    """Whatever TOML allows: comments, quotes, several lines, tables in lists."""
    lines = lines_of(LINES)
    assert set(leaves(tomllib.loads(LINES))) <= set(lines)
    told = {where_of(place): line for place, line in lines.items()}
    assert told["b c.d[1].f"] == 4
    assert (told["text"], told["t[0].x.y[1]"], told["t[0].x.z.w"]) == (6, 10, 10)
    assert (told["t[1].inner.q"], told["t[1].list[0].r"]) == (13, 15)


VALUES = st.recursive(
    st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", "a.b", "edge", "'", "id"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["", "x", "is", "name"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=examples(100, at_a_push=25), deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_file_every_fault_has_a_line(data: st.DataObject) -> None:
    """Anything in the places of anything: a declaration, or faults, and never a traceback."""
    file = tomllib.loads(FILE)
    for _ in range(data.draw(st.integers(1, 3))):
        *around, last = data.draw(st.sampled_from(list(leaves(file))))
        holder: Any = file
        for step in around:
            holder = holder[step]
        holder[last] = data.draw(VALUES)
    text = "\n".join(f"{key} = {value_text(value)}" for key, value in file.items())
    form = form_of(text)
    read = declared_by(text)
    if isinstance(read, BadRequest):
        assert read.message in {e.message for e in form.errors}
        assert all(1 <= e.line <= len(file) for e in form.errors)
    else:
        assert (form.made, form.errors) == (read, ())


def declared_by(text: str) -> Declaration | BadRequest:
    """What a file declares, or the first of its faults."""
    try:
        return parse(text)
    except BadRequest as refused:
        return refused


def test_a_form_is_read_as_far_as_it_can_be() -> None:
    """What is wrong in one place leaves the rest to be looked at."""
    form = form_of(FILE.replace('key = "id"', "key = 7").replace("[[component]]", "[component]"))
    assert [e.where for e in form.errors] == ["source.key", "component"]
    assert form.made is not None
    assert form.made.source.date == "sent_at"
    assert json.dumps([e.as_dict() for e in form.errors])


CALLERS_OWN = """
create function pg_temp.told() returns bigint language plpgsql as
  $$ begin raise exception 'read as %', current_user; end $$;
create temporary view parcels as
  select pg_temp.told() as id, now() as sent_at, 'sent'::text as state;
"""


def test_a_relation_of_the_caller_s_is_not_read_with_the_owner_s_rights(
    parcels: Project, postgres_server: PostgresServer
) -> None:
    """Whoever can run SQL as service_role could put a function behind what a declaration names."""
    dsn = postgres_server.authenticator_dsn(parcels.db.info.dbname)
    with psycopg.connect(dsn, autocommit=True) as caller:
        caller.execute("set role service_role")
        caller.execute(CALLERS_OWN)
        schema = caller.execute("select pg_my_temp_schema()::regnamespace::text").fetchone()
        assert schema is not None
        given = declaration_of(parse(FILE.replace("public.parcels", f"{schema[0]}.parcels")))
        answer = caller.execute("select public.backfill_check_target(%s)::text", [Jsonb(given)])
        told = str(answer.fetchone())
    assert "read as" not in told
    assert "belongs to a role of the API" in told


def test_install_copies_nothing_that_the_project_would_refuse(
    parcels_shell: Shell, file: Path, tmp_path: Path
) -> None:
    """Where the environment names a project with the core, each fault is told before any file."""
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder.parent / "config.toml").write_text('project_id = "parcels"\n')
    file.write_text(FILE.replace('key = "id"', 'key = "idd"').replace("p1", "p2"))
    refused = parcels_shell("install", "--target", str(file), "--yes")
    assert (refused.code, list(folder.iterdir())) == (4, [])
    assert f"{file}:5: source.key: public.parcels has no column idd" in refused.out
    told = parcels_shell("install", "--target", str(file), "--yes", "--json")
    assert [error["line"] for error in told.json["errors"]] == [5]
    file.write_text(FILE)
    assert parcels_shell("install", "--target", str(file), "--yes").code == 0
    assert any("parcels" in migration.name for migration in folder.iterdir())
