"""What a run overwrites comes back bit by bit, whatever the types of the columns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.kit import verbs
from tests.kit.whole import examples
from tests.rules.world import RUN
from tests.test_undo import Db

FENCE = "a fence of a test"
OURS = f"""
create extension if not exists hstore schema extensions;
create extension if not exists citext schema extensions;
create extension if not exists ltree schema extensions;
create type public.mood as enum ('sad', 'so, "so"', '');
create type public.pair as (a text, b integer[]);
create domain public.small as integer check (value < 10);
insert into backfill_private.sources (target, source_table, key_column, date_column, views)
values ('kept', 'public.things', 'id', 'at', '{{}}');
insert into public.backfill_targets (target, component, position, table_name, session_column,
  key_columns, version_column, version, version_parameter, function_signature, arguments)
values ('kept', 'thing', 1, 'public.thing', 'id', '{{id}}', 'version', 'new', 'v', 'x', '{{}}');
insert into public.backfill_runs (run_id, state, target, request, requested_via)
values ('{RUN}', 'running', 'kept', '{{}}', 'sql');
insert into public.backfill_items (run_id, ordinal, source, session_id, session_at, components,
  category, phase, batch, state, attempts, lease_kind, lease_until, fence_hash)
values ('{RUN}', 1, 'kept', '1', now(), '{{thing}}', 'thing', 'recent', 1, 'leased', 1, 'score',
  now() + interval '1 h', sha256('{FENCE}'));
update public.backfill_runs set approved_until = now() + interval '1 h' where run_id = '{RUN}';
"""
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
BITS = st.text("01", min_size=3, max_size=3)
MOMENTS = st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "2025-03-30 02:30:00.000001", "epoch"]
)


def quoted(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """As an element of an array, a record, a range or an hstore stands in its text."""
    return words.map(lambda w: '"' + w.replace("\\", "\\\\").replace('"', '\\"') + '"')


# Type -> texts that it reads.
VALUES: dict[str, st.SearchStrategy[str]] = {
    "boolean": st.sampled_from(["t", "f"]),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": st.one_of(
        st.decimals(allow_nan=True, allow_infinity=True).map(str).filter(lambda t: "sNaN" not in t),
        st.sampled_from(["1.500", "0.0", "-0.00", "1e100", "NaN", "-Infinity"]),
    ).map(lambda text: text.replace("-NaN", "NaN")),
    "numeric(10, 2)": st.decimals(-(10**7), 10**7, places=2).map(str),
    "real": st.floats(width=32).map(str),
    "double precision": st.floats().map(str) | st.sampled_from(["-0", "5e-324", "NaN"]),
    "text": WORDS,
    "varchar(12)": WORDS,
    "character(7)": st.text("ab ", max_size=7),
    "bpchar": st.text("ab ", max_size=7),
    '"char"': st.sampled_from(["", "x", " ", "\\"]),
    "name": st.text("ab \"'\\", max_size=9),
    "bytea": st.binary(max_size=9).map(lambda b: "\\x" + b.hex()),
    "json": st.sampled_from(
        ['{"b": 1,  "a": 2, "a": 3}', '"Bo\\u0000b"', "null", "1e400000", '"\\ud800"', " [1 ,2]"]
    ),
    "jsonb": st.sampled_from(["null", '{"a": 1.500, "b": [null, "\\""]}', "[]", '"x"']),
    "uuid": st.uuids().map(str),
    "date": MOMENTS,
    "timestamp": MOMENTS,
    "timestamptz": MOMENTS,
    "time": st.sampled_from(["24:00", "00:00:00.000001"]),
    "timetz": st.sampled_from(["24:00+15:59", "00:00:00.000001-15:59:59"]),
    "interval": st.sampled_from(
        ["-1 mon +2 days -00:00:00.000001", "1 year -1 mon", "-178000000 years", "2 days -3:00"]
    ),
    "money": st.sampled_from(["-12.34", "92233720368547758.07"]),
    "bit(3)": BITS,
    "bit varying": BITS,
    "inet": st.sampled_from(["10.1.2.3/8", "::1"]),
    "cidr": st.sampled_from(["10.0.0.0/8", "::/0"]),
    "macaddr": st.just("08:00:2b:01:02:03"),
    "pg_lsn": st.just("16/B374D848"),
    "xid8": st.just("18446744073709551615"),
    "regclass": st.sampled_from(["public.backfill_runs", "pg_class"]),
    "point": st.sampled_from(["(-0,NaN)", "(1e-300,0.1)"]),
    "line": st.just("{1,-2,0.1}"),
    "lseg": st.just("[(1,2),(0.1,4)]"),
    "box": st.just("(3,4),(0.1,2)"),
    "path": st.sampled_from(["[(1,2),(3,0.1)]", "((1,2),(3,4))"]),
    "polygon": st.just("((1,2),(3,4),(0.1,6))"),
    "circle": st.just("<(1,0.1),3>"),
    "integer[]": st.sampled_from(["[0:2]={7,8,9}", "[-1:0][5:6]={{1,2},{3,NULL}}", "{}", "{NULL}"]),
    "text[]": st.lists(quoted(WORDS) | st.just("NULL"), max_size=3).map(
        lambda parts: "{" + ",".join(parts) + "}"
    ),
    "json[]": st.just('{"{\\"a\\":  1}"}'),
    "int4range": st.sampled_from(["empty", "(,)", "[1,5)", "(,7]"]),
    "tstzrange": st.sampled_from(["[2025-01-01,infinity)", "[2025-01-01,)", "(,)"]),
    "nummultirange": st.sampled_from(["{}", "{[1.50,2.0),(3,]}"]),
    "tsvector": st.sampled_from(["'a b':1A,3 c", ""]),
    "tsquery": st.sampled_from(["'a b' & !c:*A", ""]),
    "jsonpath": st.just('strict $."a b"[*] ? (@ > 1.50)'),
    "public.mood": st.sampled_from(["sad", 'so, "so"', ""]),
    "public.pair": st.tuples(quoted(WORDS), st.sampled_from(["", "[0:1]={1,2}", "{}"])).map(
        lambda pair: f'({pair[0]},"{pair[1]}")' if pair[1] else f"({pair[0]},)"
    ),
    "public.pair[]": st.sampled_from(['{"(\\"a,\\\\\\"b\\",{1})",NULL,"(,)"}', '[2:2]={"(,)"}']),
    "public.small": st.integers(-5, 9).map(str),
    "public.small[]": st.just("[3:4]={1,NULL}"),
    "extensions.hstore": st.dictionaries(
        quoted(WORDS), quoted(WORDS) | st.just("NULL"), max_size=3
    ).map(lambda pairs: ", ".join(f"{k}=>{v}" for k, v in pairs.items())),
    "extensions.citext": WORDS,
    "extensions.ltree": st.sampled_from(["", "Top.Child_1"]),
}
COLUMN = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.tuples(st.just(name), st.none() | VALUES[name], st.none() | VALUES[name])
)
LOSSY = """
select backfill_private.lossy_columns(t, null) as columns
from public.backfill_targets as t where t.target = 'kept'
"""
# Settings of a session under which values are written and read otherwise.
ODD_SETTINGS = """
set local timezone = 'Asia/Kathmandu'; set local datestyle = 'German';
set local intervalstyle = 'sql_standard'; set local extra_float_digits = -15;
set local bytea_output = 'escape'; set local search_path = extensions, public
"""
WAYS = ["update", "update twice", "delete", "delete and insert"]


@pytest.fixture
def kept_db(project_db: Db) -> Db:
    """A leased session of a run that has scored nothing yet."""
    project_db.execute(OURS.encode())
    return project_db


def written(db: Db, columns: list[tuple[str, str | None, str | None]], way: str) -> None:
    """Make the table with an old row, and write it anew as the leased session's scorer."""
    named = [f"c{place}" for place in range(len(columns))]
    kinds = [kind for kind, _, _ in columns]
    declared = "".join(f", {n} {k}" for n, k in zip(named, kinds, strict=True))
    given = "".join(f", %s::{k}" for k in kinds)
    old, new = [was for _, was, _ in columns], [becomes for _, _, becomes in columns]
    db.execute(
        f"create table public.thing (id integer primary key, version text{declared},"
        " number bigint generated always as identity,"
        " loud text generated always as (upper(version)) stored)".encode()
    )
    listed = ", ".join(["id", "version", *named])
    insert = f"insert into public.thing ({listed}) values (1, %s{given})"
    db.execute(insert.encode(), ["old", *old])
    db.execute(b"create table public.was as table public.thing")
    db.execute(b"grant all on public.thing to service_role")
    db.execute(b"select backfill_private.guard('kept')")
    with verbs.as_service(db, {"x-backfill-run": RUN, "x-backfill-fence": FENCE}):
        sets = ", ".join(
            f"{n} = %s::{k}" for n, k in zip(["version", *named], ["text", *kinds], strict=True)
        )
        for _ in range({"update": 1, "update twice": 2}.get(way, 0)):
            db.execute(f"update public.thing set {sets}".encode(), ["new", *new])
        if way.startswith("delete"):
            db.execute(b"delete from public.thing where id = 1")
        if way == "delete and insert":
            db.execute(insert.encode(), ["new", *new])
    # The settings of the request outlive it in the transaction of the example.
    db.execute(b"select set_config('role', 'none', true), set_config('request.headers', '', true)")
    db.execute(
        "update public.backfill_items set state = 'done', fence_hash = null, lease_kind = null"
        " where run_id = %s",
        (RUN,),
    )


def undone(db: Db) -> list[dict[str, Any]]:
    """The conflicts of taking it back."""
    row = db.execute(
        "select backfill_private.undo_sessions(%s, '{1}', row('pg_catalog, public, pg_temp',"
        " 'infinity', true, null, null, 1)::backfill_private.undo_terms) -> 'conflicts'"
        " as conflicts",
        (RUN,),
    ).fetchone()
    assert row is not None
    return list(row["conflicts"])


@given(
    columns=st.lists(COLUMN, min_size=1, max_size=6),
    way=st.sampled_from(WAYS),
    is_odd=st.booleans(),
)
@settings(
    max_examples=examples(200, at_a_push=40),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@example(
    [("json", '"Bo\\u0000b"', None), ("jsonb", "null", None), ("text", "", None)], "update", True
)
@example([(kind, None, None) for kind in sorted(VALUES)], "delete", False)
def test_an_overwritten_row_comes_back_bit_by_bit(
    kept_db: Db, columns: list[tuple[str, str | None, str | None]], way: str, is_odd: bool
) -> None:
    """Columns of random types with random values, updated or deleted, then taken back."""
    with kept_db.transaction(force_rollback=True):
        written(kept_db, columns, way)
        if is_odd:
            kept_db.execute(ODD_SETTINGS.encode())
        assert undone(kept_db) == []
        [row] = kept_db.execute(
            b"select count(*) as rows, bool_and(record_image_eq(t, w)) as same"
            b" from public.was as w left join public.thing as t using (id)"
        ).fetchall()
        assert row == {"rows": 1, "same": True}
        assert kept_db.execute(LOSSY.encode()).fetchall() == [{"columns": []}]


# It reads text and writes bytes as hex, so that what it writes is another value when it is read.
ODD = """
create type public.odd;
create function public.odd_in(cstring) returns public.odd
language internal immutable strict as 'textin';
create function public.odd_out(public.odd) returns cstring
language internal immutable strict as 'byteaout';
create type public.odd (input = public.odd_in, output = public.odd_out);
alter table public.profiles add column odd public.odd;
update public.profiles set odd = 'a value';
"""


def test_a_type_that_does_not_come_back_is_told_before_anything_is_overwritten(
    project_admin: Db, project_db: Db
) -> None:
    """By the check as a warning, by a plan whose sessions have such rows as a failure."""
    project_admin.execute(ODD.encode())
    name, detail = (
        "before-images of public.profiles",
        "an undo cannot restore exactly what is overwritten in odd (public.odd)",
    )
    lines = verbs.call(project_db, "backfill_check")
    assert [(m["status"], m["detail"]) for m in lines if m["name"] == name] == [("warn", detail)]
    run_id = verbs.planned(project_db)
    row = project_db.execute(
        "select plan -> 'checks' as checks from public.backfill_runs where run_id = %s", (run_id,)
    ).fetchone()
    assert row is not None
    told = [(m["status"], m["detail"]) for m in row["checks"] if m["name"] == name]
    assert told == [("fail", detail)]
    assert not [m for m in row["checks"] if m["name"] == "before-images of public.fc_scores"]
