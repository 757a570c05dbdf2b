"""A drafted file: over tables of every kind it can be declared as it stands."""

# ruff: noqa: E501 - the tables of cases are read across.

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from backfill.results.target import TargetDraft
from backfill.targets import likely
from backfill.targets.catalog import catalog_of
from backfill.targets.declaration import with_names
from backfill.targets.declaration_values import WORD
from backfill.targets.draft import draft_of
from backfill.targets.draft_parts import Question, Wanted, likeliest
from backfill.targets.edge_sources import edge_function
from backfill.targets.file_check import form_of
from backfill.targets.function_bodies import touched
from backfill.targets.views import declaration_of, target_sql
from backfill.targets.words import called
from tests.conftest import Project
from tests.kit import verbs

Db = psycopg.Connection[Any]


@dataclass(frozen=True)
class Schema:
    """Tables and functions of a team, what is asked for, and what has to come of it.

    expected: a value by its place in the file.
    """

    sql: str
    source: str
    derived: tuple[str, ...]
    expected: Mapping[str, Any]
    edge: Mapping[str, str] = field(default_factory=dict)


UUID = Schema(
    """
    create table public.trips (id uuid primary key, state text, created_at timestamptz not null);
    create table public.pings (trip_id uuid references public.trips, at timestamptz);
    create table public.routes (trip_id uuid not null references public.trips, version text not null, primary key (trip_id, version));
    create function public.draw_route(trip_id uuid, version text) returns void language plpgsql as
    $$ begin perform 1 from pings as p where p.trip_id = draw_route.trip_id;
      insert into routes values (draw_route.trip_id, draw_route.version) on conflict do nothing; end $$;
    """,
    "public.trips",
    ("public.routes",),
    {
        "source.key": "id",
        "source.date": "created_at",
        "source.called": ["trip", "trips"],
        "source.index": "backfill_mine_sessions",
        "component.0.name": "route",
        "component.0.key": ["trip_id", "version"],
        "component.0.function": "public.draw_route(uuid,text)",
        "component.0.arguments": {"trip_id": "session_id", "version": "route_version"},
        "component.0.needs.0.table": "public.pings",
        "parameters.min_pings": 1,
    },
)
BIGINT = Schema(
    """
    create table public.sales (id bigint generated always as identity primary key, status text not null check (status in ('open', 'paid')), paid_at timestamptz, created_at timestamptz not null default now());
    create table public.bills (sale_id bigint not null references public.sales, version text not null, cents bigint, primary key (sale_id, version));
    create table public.sale_risks (sale_id bigint not null references public.sales, model text not null, risk numeric, primary key (sale_id, model));
    create function public.rate_sale(p_sale_id bigint, p_model text default 'm-2') returns numeric language plpgsql as
    $$ declare c bigint; begin select b.cents into c from bills b where b.sale_id = p_sale_id; -- insert into sales
      insert into sale_risks values (p_sale_id, p_model, c) on conflict (sale_id, model) do update set risk = excluded.risk; return c; end $$;
    create function public.bill_sale(p_sale_id bigint, p_version text) returns void language sql as
    'insert into public.bills values (p_sale_id, p_version, 1)';
    """,
    "sales",
    ("sale_risks", "bills"),
    {
        "component.0.name": "bill",
        "component.1.name": "sale_risk",
        "component.1.after": ["bill"],
        "component.1.version": "m-2",
        "component.1.arguments": {"p_sale_id": "session_id", "p_model": "sale_risk_version"},
    },
)
TEXT = Schema(
    """
    create table public.books (isbn text primary key, printed_on date not null);
    create table public.book_facts (isbn varchar(20) primary key references public.books, ruleset integer not null);
    create function public.find_facts(isbn text, ruleset integer) returns void language sql as
    $$ insert into public.book_facts values (find_facts.isbn, find_facts.ruleset) $$;
    """,
    "public.books",
    ("public.book_facts",),
    {
        "source.key": "isbn",
        "source.date": "printed_on",
        "component.0.version_column": "ruleset",
        "component.0.version": "1",
    },
)
COMPOSITE = Schema(
    """
    create type public.side as enum ('left', 'right');
    create table public.scans (scan_id integer primary key, taken_at timestamp not null, note text);
    create table public.scan_marks (scan integer not null references public.scans, side public.side not null, version text not null default 'k1', primary key (scan, side, version));
    create function public.mark_scan(_scan integer, _side public.side, _version text) returns void language sql as
    'insert into public.scan_marks values (_scan, _side, _version)';
    """,
    "public.scans",
    ("public.scan_marks",),
    {
        "component.0.session": "scan",
        "component.0.version": "k1",
        "component.0.matches": {"side": "side"},
        "component.0.arguments": {"_scan": "session_id", "_side": "side", "_version": "scan_mark_version"},
        "parameters.side": "left",
    },
)  # fmt: skip
ENUM = Schema(
    """
    create type public.paper as enum ('a4', 'letter');
    create type public.step as enum ('new', 'sent');
    create table public.parcels (id uuid primary key, step public.step not null, created_at timestamptz not null);
    create table public.labels (parcel_id uuid primary key references public.parcels, version public.paper not null);
    create function public.print_label(parcel_id uuid, version text) returns void language sql as
    $$ insert into public.labels values (print_label.parcel_id, print_label.version::public.paper) $$;
    """,
    "public.parcels",
    ("public.labels",),
    {"component.0.key": ["parcel_id"], "component.0.version": "letter"},
)
VIEW = Schema(
    """
    create table public.calls (id uuid primary key, ended_at timestamptz not null, ok boolean);
    create view public.good_calls as select id, ended_at from public.calls where ok;
    create table public.transcripts (call_id uuid primary key, version text not null);
    create function public.transcribe(call_id uuid, version text) returns void language sql as
    'insert into public.transcripts values ($1, $2)';
    """,
    "public.good_calls",
    ("public.transcripts",),
    {
        "source.key": "id",
        "source.date": "ended_at",
        "source.called": ["good call", "good calls"],
        "source.index": None,
        "component.0.session": "call_id",
    },
)
QUOTED = Schema(
    """
    create table public."Order" ("Id" uuid primary key, "Created At" timestamptz not null);
    create table public."Order Score" ("orderId" uuid not null references public."Order", "user" text not null, primary key ("orderId", "user"));
    create function public."Score Order"("orderId" uuid, "user" text) returns void language sql as
    $$ insert into "Order Score" values ($1, $2) $$;
    """,
    'public."Order"',
    ('"Order Score"',),
    {
        "source.key": "Id",
        "source.date": "Created At",
        "source.called": ["order", "orders"],
        "component.0.table": 'public."Order Score"',
        "component.0.version_column": "user",
        "component.0.function": 'public."Score Order"(uuid,text)',
    },
)
ELSEWHERE = Schema(
    """
    create schema lab; grant usage on schema lab to service_role;
    create table lab.samples (id bigint primary key, taken_at timestamptz not null);
    create table lab.results (sample_id bigint not null references lab.samples, model text not null, primary key (sample_id, model));
    create function lab.keep(s bigint, m text) returns void language sql as 'insert into lab.results values (s, m)';
    create function public.analyse_sample(sample_id bigint, model text) returns void language sql as 'select lab.keep($1, $2)';
    """,
    "lab.samples",
    ("lab.results",),
    {"source.table": "lab.samples", "component.0.function": "public.analyse_sample(bigint,text)"},
)
NO_VERSION = Schema(
    """
    create table public.photos (id uuid primary key, created_at timestamptz not null);
    create table public.thumbnails (photo_id uuid primary key references public.photos, width integer);
    create function public.shrink(photo_id uuid) returns void language sql as 'insert into public.thumbnails values ($1, 1)';
    """,
    "public.photos",
    ("public.thumbnails",),
    {"source.called": ["photo", "photos"], "component.0.arguments": {"photo_id": "session_id"}},
)
PARTITIONED = Schema(
    """
    create table public.events (id bigint primary key, at timestamptz not null) partition by hash (id);
    create table public.events_0 partition of public.events for values with (modulus 1, remainder 0);
    create table public.digests (event_id bigint not null, version text not null, primary key (event_id, version)) partition by hash (event_id);
    create table public.digests_0 partition of public.digests for values with (modulus 1, remainder 0);
    create function public.digest_event(p_event bigint, p_version text) returns void language sql as
    'insert into public.digests values (p_event, p_version)';
    """,
    "public.events",
    ("public.digests",),
    {
        "source.index": None,
        "component.0.arguments": {"p_event": "session_id", "p_version": "digest_version"},
    },
)
TWO_TABLES = Schema(
    """
    create table public.visits (id uuid primary key, created_at timestamptz not null);
    create table public.reports (visit_id uuid primary key, version text not null);
    create table public.report_copies (visit_id uuid primary key, version text not null);
    create function public.report(p_visit uuid, p_version text) returns void language plpgsql as
    $$ begin insert into reports values (p_visit, p_version); execute 'insert into report_copies values ($1, $2)' using p_visit, p_version; end $$;
    """,
    "public.visits",
    ("public.reports", "public.report_copies"),
    {
        "component.0.fills": ["report_copy"],
        "component.1.fills": None,
        "component.0.function": "public.report(uuid,text)",
        "component.1.function": "public.report(uuid,text)",
        "component.0.arguments": {"p_visit": "session_id", "p_version": "report_version"},
        "component.1.arguments": {"p_visit": "session_id", "p_version": "report_version"},
    },
)
ONE_KIND = Schema(
    """
    create table public.people (id uuid primary key, born_on date not null);
    create index on public.people (born_on);
    create table public.photos (person_id uuid not null references public.people, side text not null check (side in ('left', 'right')), version text not null, primary key (person_id, side, version));
    create table public.prints (like public.photos including all);
    create function public.shoot(p_person_id uuid, p_side text, p_version text) returns void language sql as
    'insert into public.photos values ($1, $2, $3); insert into public.prints values ($1, $2, $3)';
    """,
    "public.people",
    ("public.photos", "public.prints"),
    {
        "source.called": ["person", "people"],
        "source.index": None,
        "parameters": {"side": "left"},
        "component.0.fills": ["print"],
        "component.1.matches": {"side": "side"},
        "component.1.arguments": {
            "p_person_id": "session_id",
            "p_side": "side",
            "p_version": "photo_version",
        },
    },
)
SECOND_HAS_A_VERSION = Schema(
    """
    create table public.staff (id uuid primary key, created_at timestamptz not null);
    create index on public.staff (created_at) where id is not null;
    create table public.badges (member uuid primary key references public.staff, width integer);
    create table public.passes (member uuid primary key references public.staff, version text not null);
    create table public.doors (member uuid primary key references public.staff, version text not null);
    create function public.badge(p_member uuid, p_version text) returns void language plpgsql as
    $$ begin insert into badges values (p_member, 1); perform from doors where member = p_member; insert into passes values (p_member, p_version); end $$;
    create function public.open_door(p_member uuid, p_version text) returns void language plpgsql as
    $$ begin perform from badges where member = p_member; insert into doors values (p_member, p_version); end $$;
    """,
    "public.staff",
    ("public.badges", "public.doors", "public.passes"),
    {
        "source.called": None,  # a comment: nothing says how one is called
        "source.index": "backfill_mine_sessions",
        "component.0.name": "badge",
        "component.1.name": "pass",
        "component.1.fills": ["badge"],
        "component.0.arguments": {"p_member": "session_id", "p_version": "pass_version"},
        "component.2.after": ["badge"],
    },
)
EDGE = Schema(
    """
    create table public.essays (id uuid primary key, created_at timestamptz not null);
    create table public.paragraphs (essay_id uuid references public.essays, text text);
    create table public.grades (essay_id uuid not null references public.essays, version text not null, primary key (essay_id, version));
    """,
    "public.essays",
    ("public.grades",),
    {
        "component.0.transport": "edge",
        "component.0.receipts": "inferred",
        "component.0.function": "grade-essay",
        "component.0.version": "g7",
        "component.0.arguments": {"essay_id": "session_id"},
        "component.0.needs.0.table": "public.paragraphs",
    },
    {
        "grade-essay": """
        // await db.from("essays").update({}) is history
        Deno.serve(async (request) => {
          const { essay_id }: { essay_id: string } = await request.json();
          const { data } = await db.from('paragraphs').select("text").eq("essay_id", essay_id);
          await db.from("grades")
            .upsert({ essay_id, version: "g7", score: data.length });
          return Response.json({});
        });
        """,
        "show-grade": 'await db.from("grades").select("*")',
    },
)

SCHEMAS = {
    "uuid": UUID,
    "bigint": BIGINT,
    "text": TEXT,
    "composite": COMPOSITE,
    "enum": ENUM,
    "quoted": QUOTED,
    "another schema": ELSEWHERE,
    "partitioned": PARTITIONED,
    "one function for two tables": TWO_TABLES,
    "one function for two kinds": ONE_KIND,
    "one function for a version and none": SECOND_HAS_A_VERSION,
    "edge": EDGE,
    "view": VIEW,
    "no version": NO_VERSION,
}


def drafted(db: Db, schema: Schema, *functions: str) -> TargetDraft:
    """The draft of a schema whose tables are there."""
    edge = {name: edge_function(name, source) for name, source in schema.edge.items()}
    answer = verbs.call(db, "backfill_catalog")
    wanted = Wanted("mine", schema.source, schema.derived, functions)
    return draft_of(wanted, catalog_of(answer), edge)


def faults(db: Db, text: str) -> list[str]:
    """What is wrong with a file, as `target check` tells it."""
    form = form_of(text)
    if form.made is None:
        return [e.message for e in form.errors]
    answer = verbs.call(db, "backfill_check_target", p_declaration=Jsonb(declaration_of(form.made)))
    return [e.message for e in (*form.errors, *form.found(answer))]


def value_at(file: Any, place: str) -> Any:
    for step in place.split("."):
        file = file[int(step)] if step.isdigit() else file.get(step)
    return file


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_draft_says_what_the_tables_say(
    name: str, shared_project: Project, nothing_changes: None
) -> None:
    """The likeliest key, date, version, function, arguments and order."""
    schema = SCHEMAS[name]
    with shared_project.db.transaction(force_rollback=True):
        shared_project.db.execute(schema.sql.encode())
        file = with_names(tomllib.loads(drafted(shared_project.db, schema).text))
    assert {place: value_at(file, place) for place in schema.expected} == dict(schema.expected)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_draft_passes_at_once_and_can_be_declared(
    name: str, shared_project: Project, nothing_changes: None
) -> None:
    """`target check` finds nothing, and the migration that install makes of it applies."""
    db, schema = shared_project.db, SCHEMAS[name]
    with db.transaction(force_rollback=True):
        db.execute(schema.sql.encode())
        text = drafted(db, schema).text
        assert faults(db, text) == [], text
        made = form_of(text).made
        assert made is not None
        db.execute(b"reset role; " + target_sql(made).encode())


# How its rows are called ------------------------------------------------------------------------

# The name of a table and the columns that name its rows: one row, several, whether that is sure.
CALLED = {
    ("orders", ""): ("order", "orders", True),
    ("assessment_sessions", "session_id"): ("assessment session", "assessment sessions", True),
    ("OrderLine", "orderLineId"): ("order line", "order lines", True),
    ("companies", ""): ("company", "companies", True),
    ("movies", ""): ("movie", "movies", True),
    ("people", ""): ("person", "people", True),
    ("statuses", ""): ("status", "statuses", True),
    ("warehouses", ""): ("warehouse", "warehouses", True),
    ("responses", ""): ("response", "responses", True),
    ("boxes", ""): ("box", "boxes", True),
    ("v_orders", ""): ("order", "orders", True),
    ("orders_v2", "orders_id"): ("order", "orders", True),
    ("Bestellungen", "bestellung_id"): ("bestellung", "bestellungen", True),
    ("Bestellungen", ""): ("bestellungen", "bestellungens", False),
    ("bus", "bus_id"): ("bus", "buses", True),
    ("customer", "id"): ("customer", "customers", False),
    ("users", "author_id"): ("user", "users", True),
    ("staff", ""): ("staff", "staff", False),
    ("orders_archive", "order_id"): ("orders archive", "orders archives", False),
}


@pytest.mark.parametrize("name", CALLED, ids=" ".join)
def test_rows_are_called_as_their_table_is(name: tuple[str, str]) -> None:
    """One and several, each of a form that a declaration takes."""
    table, column = name
    found = called(table, [column])
    assert found is not None
    assert (found.one, found.several, found.is_sure) == CALLED[name]
    assert WORD.fullmatch(found.one)
    assert WORD.fullmatch(found.several)


@pytest.mark.parametrize("table", ["2024", "_", "a" * 40])
def test_a_table_without_words_says_nothing(table: str) -> None:
    """The default holds."""
    assert called(table, []) is None


def test_words_that_nothing_says_are_a_comment(
    shared_project: Project, nothing_changes: None
) -> None:
    """With a guess to begin from, and they are to be looked at."""
    with shared_project.db.transaction(force_rollback=True):
        shared_project.db.execute(SECOND_HAS_A_VERSION.sql.encode())
        draft = drafted(shared_project.db, SECOND_HAS_A_VERSION)
    assert '# called = ["staff", "staff"]' in draft.text
    assert [note for note in draft.undecided if note.startswith("source.called")]


def test_words_that_nothing_says_are_asked_for(
    shared_project: Project, nothing_changes: None
) -> None:
    """If somebody is there: several of what one is called is the likeliest."""
    asked = []

    def ask(question: Question) -> Sequence[str]:
        asked.append(question.text)
        return ["Staff_member"] if "one row" in question.text else likeliest(question)

    with shared_project.db.transaction(force_rollback=True):
        shared_project.db.execute(SECOND_HAS_A_VERSION.sql.encode())
        catalog = catalog_of(verbs.call(shared_project.db, "backfill_catalog"))
        wanted = Wanted("mine", "public.staff", SECOND_HAS_A_VERSION.derived)
        draft = draft_of(wanted, catalog, {}, ask)
    assert 'called = ["staff member", "staff members"]' in draft.text.splitlines()
    assert "And several?" in asked


def test_no_version_is_offered_that_nothing_knows(
    shared_project: Project, nothing_changes: None
) -> None:
    """A person who takes the first of one would plan for a version of nobody's."""
    versions = []

    def ask(question: Question) -> Sequence[str]:
        if not question.text.startswith("Which release of"):
            return likeliest(question)
        versions.append(question)
        return ["v7"]

    with shared_project.db.transaction(force_rollback=True):
        shared_project.db.execute(
            "create table public.films (id uuid primary key, seen_at timestamptz not null);"
            "create table public.ratings (film_id uuid, release text, primary key (film_id, release))"
        )
        catalog = catalog_of(verbs.call(shared_project.db, "backfill_catalog"))
        wanted = Wanted("films", "public.films", ("public.ratings",))
        draft = draft_of(wanted, catalog, {}, ask)
    assert [(q.options, q.guess) for q in versions] == [((), "v1")]
    assert 'version = "v7"' in draft.text.splitlines()


def test_a_value_may_be_given_as_a_condition() -> None:
    """What somebody means is the value alone."""
    given = ("done", "state = done", "state='done'", '"state" = "done"', "'done'")
    assert {likely.bare_value("state", answer) for answer in given} == {"done"}
    assert likely.bare_value("state", "stated = x") == "stated = x"


# What a function writes -------------------------------------------------------------------------

TABLES = (
    "create table public.kept (id uuid primary key, version text, at timestamptz not null);"
    "create table public.read (id uuid primary key);"
    'create table public."Odd one" (id uuid primary key);'
)
# A body in PL/pgSQL, what it writes, what it reads.
BODIES = {
    "insert into kept select id from read": (["kept"], ["read"]),
    'insert into public."Odd one" (id) values (a)': (["Odd one"], []),
    "-- insert into kept\n/* update kept set id = a */ perform 'insert into other'": ([], []),
    "insert into read values (a) on conflict (id) do update set id = excluded.id": (["read"], []),
    "update only kept k set version = r.id from read r where r.id = k.id": (["kept"], ["read"]),
    "merge into kept using read on true when not matched then insert values (a)": (["kept"], ["read"]),
    "perform from kept for update; delete from read": ([], ["kept"]),
    "with w as (insert into kept values (a) returning 1) select from w join read on true": (["kept"], ["read"]),
    "execute format('insert into %I values (1)', 'x'); execute 'update kept set id = $1' using a": (["kept"], []),
    "if a is null then insert into pg_temp.kept values (a); end if": ([], []),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_what_a_function_writes_is_read_from_its_body(
    body: str, shared_project: Project, nothing_changes: None
) -> None:
    """Also by a function that only calls it."""
    db = shared_project.db
    with db.transaction(force_rollback=True):
        db.execute(
            f"{TABLES} create function public.f(a uuid) returns void language plpgsql as"
            f" $f$ begin {body}; end $f$; create function public.g(a uuid) returns void"
            " language sql begin atomic select public.f(a); end".encode()
        )
        catalog = catalog_of(verbs.call(db, "backfill_catalog"))
    for name in ("f", "g"):
        (function,) = (f for f in catalog.functions if f.name == name)
        found = touched(function, catalog)
        assert ([r.name for r in found.writes], [r.name for r in found.reads]) == BODIES[body]


def test_an_edge_function_is_read_from_its_source() -> None:
    """Comments are none of it; a verb may stand on the next line; a schema may come before."""
    read = edge_function(
        "f",
        """
        /* await db.from("no").insert() */
        const body = await request.json();
        const { a, b: renamed, c = 1 } = await req.json() as Body;
        await db
          .from("one")
          .upsert({ version: "v9" });
        await db.schema("lab").from('two').insert({}); // .from("no").update()
        await db.from(`three`).select(); await db.from(table).insert({}); await db.from("four").delete();
        """,
    )
    assert (read.writes, read.reads) == (("public.one", "lab.two"), ("public.three",))
    assert (read.body, read.literal_of("version")) == (("a", "b", "c"), "v9")
