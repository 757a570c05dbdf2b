"""Whatever a team calls its tables: declared, planned, applied, verified, undone all the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from backfill.local.servers import PostgresServer
from backfill.targets.declaration import Declaration, parse
from backfill.targets.views import index_sql, target_sql
from tests.conftest import SERVER
from tests.kit import verbs
from tests.kit.copies import copy_database
from tests.kit.whole import examples

Db = psycopg.Connection[Any]
# What trips a quoting that is nearly right, beside whatever else a name may hold.
AWKWARD = (
    'a"b', "it's", "select", "Order", "x y", "a.b", "100%", "%s", "%I", "$1", "{}", "\\", "--", ";",
    "t", "s", "item", "session_id", "state", "run_id", "phase", "ordinal", "n", "c1", "группа",
    "id::text", "(", "backfill_x", " ", "x\ny", "'", ":name", "key", "$$", "é",
)  # fmt: skip
# PostgreSQL has columns of these names in every table.
SYSTEM = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "oid"}
KEYS = {
    "uuid": lambda n: str(UUID(int=n + 2**80)),
    "bigint": lambda n: str(n + 2**40),
    "integer": lambda n: str(n),
    "smallint": lambda n: str(n),
    "text": lambda n: f'Key {n}\'s "name"',
    "character varying(40)": lambda n: f"k{n:03}",
}
VERSIONS = {
    "text": "v 1'\"%",
    "character varying(20)": "v1",
    "integer": "7",
    "uuid": str(UUID(int=9)),
}
DATES = ("timestamptz", "timestamp", "date")


def fits(name: str) -> bool:
    """Whether PostgreSQL keeps it as it is."""
    return len(name.encode()) <= 63 and name not in SYSTEM


LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
NAMES = (st.sampled_from(AWKWARD) | st.text(LETTERS, min_size=1, max_size=20)).filter(fits)
# A declaration's texts are not empty; a blank one would be taken for that.
COLUMNS = NAMES.filter(lambda name: name.strip() != "")


@dataclass(frozen=True)
class Library:
    """How a team calls what it has. Columns of one table differ, and so do tables of one schema."""

    schema: str
    tables: tuple[str, str, str]
    source: tuple[str, str, str, str]
    need: str
    derived: tuple[str, str, str, str]
    function: str
    arguments: tuple[str, str]
    key_type: str
    version_type: str
    date_type: str
    status: str
    where: str
    is_view: bool
    needs_of: str


# The same rows, said in every way: {} are the columns of status and of a boolean, and the status.
WHERES = {
    "values": "{status} = {is}, {flag} = true",
    "lists": '{status} = [{is}, "nobody\'s"], {flag} = {{ is = "not null" }}',
    "not": '{status} = {{ not = "another" }}',
    "any": 'any = [{{ {status} = "another", {flag} = false }}, {{ {status} = {is} }}]',
    "columns": '{key} = {{ column = {key} }}, {status} = {{ not = ["another"] }}',
    "bounds": "{date} = {{ ge = 2025-08-02, lt = 2025-09-01 }}",
}


def distinct(count: int, names: st.SearchStrategy[str] = COLUMNS) -> st.SearchStrategy[Any]:
    """So many names, all different."""
    return st.lists(names, min_size=count, max_size=count, unique=True).map(tuple)


LIBRARIES = st.builds(
    Library,
    schema=COLUMNS.filter(lambda n: not n.startswith("pg_")),
    tables=distinct(3),
    source=distinct(4),
    need=COLUMNS,
    derived=distinct(4),
    function=COLUMNS.map(lambda n: f"f {n}"[:30]).filter(fits),
    arguments=distinct(2),
    key_type=st.sampled_from(sorted(KEYS)),
    version_type=st.sampled_from(sorted(VERSIONS)),
    date_type=st.sampled_from(DATES),
    status=st.text(LETTERS, min_size=1, max_size=10).filter(
        lambda s: s.strip() not in ("", "another")
    ),
    where=st.sampled_from(sorted(WHERES)),
    is_view=st.booleans(),
    needs_of=st.sampled_from(["source", "component"]),
)


def make(db: Db, library: Library) -> None:
    """Its tables with five sessions, of which one is another's, one has nothing to score."""
    names = {
        "schema": sql.Identifier(library.schema),
        "source": sql.Identifier(library.schema, library.tables[0]),
        "needed": sql.Identifier(library.schema, library.tables[1]),
        "derived": sql.Identifier(library.schema, library.tables[2]),
        **{f"s{n}": sql.Identifier(c) for n, c in enumerate(library.source)},
        **{f"d{n}": sql.Identifier(c) for n, c in enumerate(library.derived)},
        "need": sql.Identifier(library.need),
        "function": sql.Identifier("public", library.function),
        **{f"a{n}": sql.Identifier(a) for n, a in enumerate(library.arguments)},
        "key_type": sql.SQL(library.key_type),
        "version_type": sql.SQL(library.version_type),
        "date_type": sql.SQL(library.date_type),
    }
    db.execute(
        sql.SQL(
            "create schema if not exists {schema}; grant usage on schema {schema} to service_role;"
            "create table {source}"
            " ({s0} {key_type} primary key, {s1} {date_type}, {s2} text, {s3} boolean);"
            "create table {needed} ({need} {key_type});"
            "create table {derived} ({d0} {key_type}, {d1} {version_type}, {d2} real, {d3} text,"
            " primary key ({d0}, {d1}));"
            "grant select on {source}, {needed} to service_role;"
            "grant select, insert, update, delete on {derived} to service_role;"
            "create function {function}({a0} {key_type}, {a1} text) returns text language sql"
            " as $body$ insert into {derived} values ($1, $2::{version_type}, 0.5, 'done')"
            " returning 'ok' $body$;"
            "grant execute on function {function} to service_role"
        ).format(**names)
    )
    if library.is_view:
        view = "create view {schema}.weird as select * from {source};"
        db.execute(sql.SQL(view + "grant select on {schema}.weird to service_role").format(**names))
    keys = [KEYS[library.key_type](n) for n in range(1, 6)]
    for place, key in enumerate(keys):
        status = "another" if place == 0 else library.status
        db.execute(
            sql.SQL("insert into {source} values ({key}, {day}, {status}, true)").format(
                **names,
                key=sql.Literal(key),
                day=sql.Literal(f"2025-08-0{place + 1}"),
                status=sql.Literal(status),
            )
        )
        if place > 1:
            needed = sql.SQL("insert into {needed} values ({key})")
            db.execute(needed.format(**names, key=sql.Literal(key)))


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def text_of(value: str) -> str:
    """A basic string of TOML, with everything but plain letters escaped."""
    escaped = "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value)
    return f'"{escaped}"'


def file_of(library: Library) -> str:
    """The declaration that a team would write."""
    tables = [text_of(f"{quoted(library.schema)}.{quoted(t)}") for t in library.tables]
    s, d = [text_of(c) for c in library.source], [text_of(c) for c in library.derived]
    signature = f"public.{quoted(library.function)}({library.key_type},text)"
    a = [text_of(name) for name in library.arguments]
    where = WHERES[library.where].format(
        **{"key": s[0], "date": s[1], "status": s[2], "flag": s[3], "is": text_of(library.status)}
    )
    need = f'name = "100% of it\'s", table = {tables[1]}, column = {text_of(library.need)}'
    needs = f'needs = [{{ {need}, at_least = "least" }}]'
    return f"""
target = "weird"
[source]
table = {text_of(f"{quoted(library.schema)}.weird") if library.is_view else tables[0]}
key = {s[0]}
date = {s[1]}
where = {{ {where} }}
{needs if library.needs_of == "source" else ""}
[parameters]
least = 1
[[component]]
name = "derived"
table = {tables[2]}
session = {d[0]}
key = [{d[0]}, {d[1]}]
version_column = {d[1]}
version = {text_of(VERSIONS[library.version_type])}
function = {text_of(signature)}
arguments = {{ {a[0]} = "session_id", {a[1]} = "derived_version" }}
score_ranges = {{ {d[2]} = [0, 1] }}
{needs if library.needs_of == "component" else ""}
"""


@pytest.fixture(scope="module")
def template(postgres_server: PostgresServer) -> Iterator[str]:
    """A project with the core alone."""
    from backfill.targets import migrations

    name = f"core_{uuid4().hex}"
    postgres_server.create_database(name)
    with psycopg.connect(postgres_server.dsn(name), autocommit=True) as db:
        for file in migrations.core_files():
            db.execute(file.read_text().encode())
    yield name
    postgres_server.drop_database(name)


def score(db: Db, library: Library, run_id: str, grant: dict[str, Any]) -> dict[str, Any]:
    """Make a grant's call as the API does, by the names of its arguments."""
    (step,) = grant["steps"]
    assert step["function"] == library.function
    assert set(step["arguments"]) == set(library.arguments)
    call = sql.SQL("select {}({})").format(
        sql.Identifier("public", step["function"]),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in step["arguments"].items()
        ),
    )
    with verbs.as_service(db, {"x-backfill-run": run_id, "x-backfill-fence": grant["fence"]}):
        db.execute(call)
    return {"ordinal": grant["ordinal"], "outcome": "answered", "answered": [step["component"]]}


def live(db: Db, library: Library, made: Declaration) -> None:
    """The whole way, as the client goes it."""
    db.execute(target_sql(made).encode())
    if not library.is_view:
        db.execute(index_sql(made).encode())
    checked = db.execute("select public.backfill_check() as lines").fetchone()
    assert checked is not None
    failing = [line for line in checked["lines"] if line["status"] == "fail"]
    assert failing == []
    keys = [KEYS[library.key_type](n) for n in (3, 4, 5)]
    request = {"since": "2025-08-01", "target": "weird", "priority": [keys[0]], "environment": "x"}
    run_id = str(verbs.call(db, "backfill_open", p_request=Jsonb(request)))
    while not verbs.call(db, "backfill_collect", p_run_id=run_id):
        pass
    for session_id in verbs.call(db, "backfill_rehearsal", p_run_id=run_id):
        seen = verbs.call(db, "backfill_rehearse", p_run_id=run_id, p_session_id=session_id)
        assert seen["error"] is None, seen
    assert verbs.call(db, "backfill_seal", p_run_id=run_id)["state"] == "awaiting_approval"
    run = db.execute("select plan from public.backfill_runs").fetchone()
    assert run is not None
    plan = run["plan"]
    assert plan["candidates"]["total"] == 3
    assert [e["reason"] for e in plan["excluded"]] == [
        "0 100% of it's, at least 1 needed" if library.needs_of == "source" else "no 100% of it's"
    ]
    marks = {c["name"]: c["status"] for c in plan["checks"]}
    assert "fail" not in marks.values(), plan["checks"]
    verbs.approve(db, run_id)
    assert verbs.start(db, run_id)["state"] == "running"
    while True:
        claim_id = str(uuid4())
        answer = verbs.claim(db, run_id, claim_id)
        if answer["granted"]:
            outcomes = [score(db, library, run_id, grant) for grant in answer["granted"]]
            settled = verbs.settle(db, run_id, claim_id, outcomes)
            assert {s["state"] for s in settled["settled"]} == {"done"}, settled
        elif answer["state"] != "running":
            break
    assert answer["state"] == "completed", answer
    assert verbs.verdict(db, run_id) == "pass"
    coverage = verbs.call(db, "backfill_coverage", p_target="weird")
    assert sum(day["complete"] for day in coverage["days"]) == 3
    preview = verbs.call(db, "backfill_preview_undo", p_run_id=run_id)
    assert (sum(preview["deletes"].values()), preview["conflicts"]) == (3, [])
    verbs.call(
        db, "backfill_confirm_undo", p_run_id=run_id, p_digest=preview["digest"], p_reason="test"
    )
    assert verbs.verdict(db, run_id) == "pass"


# A column that is called as our alias of its table: the row is meant, not the column.
ALIASED = Library(
    schema="s",
    tables=("t", "item", "n"),
    source=("s", "t", "item", "g"),
    need="n",
    derived=("t", "child", "item", "r"),
    function="f t",
    arguments=("t", "session_id"),
    key_type="text",
    version_type="text",
    date_type="timestamptz",
    status="t",
    where="any",
    is_view=False,
    needs_of="component",
)
# Its column of versions is called as the files call the session.
LIKE_OURS = replace(ALIASED, derived=("t", "session_id", "item", "r"))


@example(library=LIKE_OURS)
@example(library=ALIASED)
@settings(
    max_examples=examples(40, at_a_push=8),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(library=LIBRARIES)
def test_a_project_of_any_names_and_types_lives(template: str, library: Library) -> None:
    """Quotes, reserved words, other alphabets, our own aliases; keys and dates of any type."""
    server, name = SERVER["it"], f"weird_{uuid4().hex}"
    copy_database(server, name, template)
    try:
        with psycopg.connect(server.dsn(name), autocommit=True, row_factory=dict_row) as db:
            make(db, library)
            live(db, library, parse(file_of(library)))
    finally:
        server.drop_database(name)
