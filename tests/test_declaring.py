"""A declared target: what its file may say, and what the database refuses to hear."""

# ruff: noqa: E501 - the tables of cases are read across.

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import backfill
from backfill.local import sample
from backfill.targets import install as installing
from backfill.targets.declaration import (
    FILE,
    KEYS,
    PRISM,
    Declaration,
    Views,
    declared,
    parse,
    read,
)
from backfill.targets.declaration_faults import faults
from backfill.targets.views import index_sql, target_sql
from tests.kit.commands import Shell
from tests.kit.verbs import planned

Db = psycopg.Connection[Any]
TEXT = (files("backfill.targets") / "prism.toml").read_text()
NEEDS = TEXT[TEXT.index("needs = [") : TEXT.index("]", TEXT.index("needs = [")) + 1]


def changed(old: str, new: str) -> str:
    """PRISM's file with one thing otherwise."""
    assert TEXT.count(old) >= 1
    return TEXT.replace(old, new, 1)


# What the file itself says ----------------------------------------------------------------------

# What stands there, what instead, and what is said about it.
FORMS = {
    "no TOML": ("[source]", "[source", "the declaration is not TOML"),
    "a key that means nothing": ('date = "', 'dates = "', "source needs date"),
    "a misspelt key": ("version_parameter", "version_paramter", "component fc_scores has no version_paramter; the nearest is version_parameter"),
    "a key too many": ('target = "prism"', 'target = "prism"\nowner = "me"', "the declaration has no owner"),
    "a name that is none": ('target = "prism"', 'target = "Prism 2"', "target is small letters"),
    "no table": ('table = "public.profiles"', 'table = "public.profiles; drop"', "table is schema.table"),
    "an open quote": ('table = "public.profiles"', "table = \"public.'profiles\"", "table is schema.table, as SQL writes it, not public.'profiles"),
    "no component": (TEXT[TEXT.index("[[component]]") :], "", "the declaration: component is a list of tables"),
    "a component that is none": (TEXT[TEXT.index("[[component]]") :], "[component]", "the declaration: component is a list of tables"),
    "a component of another name": ('[[component]]\nname = "p', '[[components]]\nname = "p', "the declaration has no components; the nearest is component"),
    "a source that is none": (TEXT[TEXT.index("[source]"):TEXT.index("# What")], "source = 1", "the declaration: source is a table of its own"),
    "needs of another form": (NEEDS, "needs = [1]", "source: needs is a list of tables"),
    "a need without a name": ('name = "responses", ', "", "source, needs 1 needs name"),
    "a component without a name": ('name = "profile"', "", "the declaration, component 2 needs name"),
    "no key": ('key = ["session_id"]', "", "component profile needs key"),
    "an empty key": ('key = ["session_id"]', "key = []", "component profile: key is a list of columns"),
    "an argument of nothing": ('version = "fc_version"', "version = 1", "component fc_scores: arguments.version is the name of a parameter"),
    "a version of edge over rpc": ("after = [", 'function_version = "1"\nafter = [', "component profile has no function_version"),
    "a database's name too": ('table = "public.profiles"', 'table = "a.public.profiles"', "table is schema.table"),
    "a version that is a list": ('version = "v1.2"', "version = [1.2]", "version is a text"),
    "a flag that is none": ("any_version_counts = true", 'any_version_counts = "yes"', "any_version_counts is true or false"),
    "a filter without a value": ('where = { status = "completed" }', "where = { status = [] }", "where: status is a value"),
    "a range that is none": ("[0, 100]", "[100, 0]", r"score_ranges.scores_json is .lowest, highest."),
    "a range without end": (
        "[0, 100]",
        "[0, inf]",
        r"score_ranges.scores_json is .lowest, highest.",
    ),
    "a range beyond all numbers": (
        "[0, 100]",
        f"[0, 1{'0' * 400}]",
        r"score_ranges.scores_json is .lowest, highest.",
    ),
    "a range of truths": ("[0, 100]", "[false, true]", r"score_ranges.scores_json is .lowest, highest."),
    "an unknown parameter": ('basis = "basis" }\nscore', 'basis = "bases" }\nscore', "there is no parameter bases; the nearest is basis"),
    "a need that nothing sets": ('at_least = "min_responses"', 'at_least = "min_resp"', "min_resp is no number of .parameters.; the nearest is min_responses"),
    "a parameter of a request's own": ('basis = "functions"', 'since = "functions"', "since cannot be the name of a parameter"),
    "after what comes later": ("score_ranges", 'after = ["profile"]\nscore_ranges', "comes after profile, which is not declared before it"),
    "twice the same component": ('name = "profile"', 'name = "fc_scores"', "two components have the component fc_scores"),
    "a view that is not ours": ('"backfill_missing_profiles"', '"profiles_missing"', "view begins with backfill_"),
    "a transport of its own": ("after = [", 'transport = "grpc"\nafter = [', "transport is rpc or edge, not grpc"),
    "inferred over rpc": ("after = [", 'receipts = "inferred"\nafter = [', "receipts of rpc are exact"),
    "edge without a version": ("after = [", 'transport = "edge"\nafter = [', "component profile needs function_version"),
    "edge with a signature": ("after = [", 'transport = "edge"\nfunction_version = "1"\nafter = [', "is no name of an Edge Function"),
    "no argument takes the session": ('arguments = { session_id = "session_id", engine', "arguments = { engine", "no argument takes the session_id"),
    "one word for its rows": ('index = "', 'called = ["order"]\nindex = "', "source: called is two words, one and several"),
    "a word that is none": ('index = "', 'called = ["order", "or|ders"]\nindex = "', "source: called is two words, one and several"),
    "no words for its rows": ('index = "', 'called = "orders"\nindex = "', "source: called is two words, one and several"),
    "a name too long": ('index = "', 'index = "' + "x" * 60, "index is longer than the 63 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_a_declaration_of_another_form_is_refused(case: str) -> None:
    """One sentence that names the place, and what to do."""
    old, new, said = FORMS[case]
    with pytest.raises(backfill.BadRequest, match=said) as refused:
        parse(changed(old, new))
    assert refused.value.next_step
    assert "\n" not in refused.value.message


ANYTHING = st.recursive(
    st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from(["", "x", "a.b", "edge", "'"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each table or list within, with each of its keys."""
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):  # fmt: skip
        yield value, key
        yield from places(inner)


def refusal(file: Mapping[str, Any]) -> backfill.BadRequest | None:
    """What is said of a file, None if it is a declaration."""
    try:
        read(file)
    except backfill.BadRequest as refused:
        return refused
    return None


@given(data=st.data())
def test_whatever_stands_in_a_file_a_sentence_says_what_is_wrong(data: st.DataObject) -> None:
    """Anything in the place of anything: a declaration, or one sentence, and none of pydantic's."""
    file = tomllib.loads(TEXT)
    holder, key = data.draw(st.sampled_from(list(places(file))))
    holder[key] = data.draw(ANYTHING)
    refused = refusal(file)
    assert refused is None or refused.next_step
    assert refused is None or not re.search("\n|pydantic|Value error", refused.message)


def test_every_fault_of_a_file_can_be_told() -> None:
    """In the order of the classes, though the first alone is raised."""
    file = {"target": 1, "source": {"key": "id"}, "component": [{"name": "a"}], "views": [], "x": 1}
    with pytest.raises(ValidationError) as found:
        FILE.validate_python(file)
    told = [fault.message for fault in faults(found.value, file, KEYS)]
    assert told[:3] == [
        "the declaration: target is a text",
        "source needs table",
        "source needs date",
    ]
    assert "component a needs table" in told
    assert told[-1] == "the declaration has no x"


def test_names_are_taken_as_sql_takes_them() -> None:
    """A table as in SQL: folded unless quoted; a column as it is called."""
    made = parse(changed('table = "public.profiles"', 'table = \'Archive."Pro""files"\''))
    table = made.components[1].table
    assert (table.schema, table.name) == ("archive", 'Pro"files')
    assert parse(changed('"public.profiles"', '"profiles"')).components[1].table.schema == "public"


def test_a_file_that_is_not_there_is_named(plain_shell: Shell, tmp_path: Path) -> None:
    """Usage, and nothing is written."""
    (tmp_path / "config.toml").touch()
    answer = plain_shell("install", "--supabase-path", str(tmp_path), "--target", "none.toml")
    assert (answer.code, "none.toml cannot be read" in answer.err) == (2, True)
    assert [f.name for f in tmp_path.iterdir()] == ["config.toml"]


# What the database does not have ----------------------------------------------------------------

NAMES = {
    "the source": ("assessment_sessions", "asessment_sessions", "there is no table public.asessment_sessions; the nearest is public.assessment_sessions"),
    "its schema": ('"public.profiles"', '"pubic.profiles"', "there is no table pubic.profiles; the nearest is public.profiles"),
    "the key": ('key = "id"', 'key = "uid"', "public.assessment_sessions has no column uid; the nearest is id"),
    "the date": ('date = "created_at"', 'date = "created"', "has no column created; the nearest is created_at"),
    "a filter": ("where = { status", "where = { state", "has no column state; the nearest is status"),
    "a need's table": ("public.fc_responses", "public.fc_response", "there is no table public.fc_response; the nearest is public.fc_responses"),
    "a need's column": ('table = "public.fc_responses", column = "session_id"', 'table = "public.fc_responses", column = "sesion"', "public.fc_responses has no column sesion; the nearest is session_id"),
    "the session": ('session = "session_id"', 'session = "session"', "public.fc_scores has no column session; the nearest is"),
    "the version": ('version_column = "results_version"', 'version_column = "result_version"', "the nearest is results_version"),
    "a match": ('matches = { fc_kind', 'matches = { kind', "has no column kind; the nearest is fc_kind"),
    "a score": ("score_ranges = { scores_json", "score_ranges = { scores", "has no column scores; the nearest is scores_json"),
    "a function": ("public.score_prism(uuid,text)", "public.score_prims(uuid,text)", "there is no function public.score_prims.uuid,text.; the nearest is public.score_prism"),
    "what is no signature": ("public.score_prism(uuid,text)", "public.score_prism", "there is no function public.score_prism; the nearest is"),
    "another signature": ("public.score_prism(uuid,text)", "public.score_prism(text,uuid)", "the nearest is public.score_prism"),
    "an argument": ("engine_version = \"engine_version\" }", "engine = \"engine_version\" }", "has no argument engine; the nearest is engine_version"),
    "a helper": ("after = [", 'helpers = ["public.fc_typ(jsonb)"]\nafter = [', "there is no function public.fc_typ.jsonb.; the nearest is public.fc_type"),
    "a table like none": ('table = "public.profiles"', 'table = "public.wxyz"', "there is no table public.wxyz. Next"),
    "a column like none": ('version_column = "results_version"', 'version_column = "quux"', "public.profiles has no column quux. Next"),
    "an Edge Function": ("public.score_prism(uuid,text)", "public.grade_visit(uuid,text)", 'there is no function public.grade_visit.uuid,text.. Is it an Edge Function. transport = "edge". Next'),
    "its bare name": ("public.score_prism(uuid,text)", "grade_visit", 'no function grade_visit. Is it an Edge Function. transport = "edge". Next'),
    "the arguments of another": ("public.score_prism(uuid,text)", "public.score_prism(uuid)", "there is no function public.score_prism.uuid.; the nearest is public.score_prism.uuid,text.. Next"),
    "a function with the same end": ("public.score_prism(uuid,text)", "public.bill_prism(uuid,text)", "no function public.bill_prism.uuid,text.. Is it an Edge"),
    "a key of no kind": ('key = "id"', 'key = "created_at"', "a key is uuid, a whole number or text"),
    "several rows per session": ('key = ["session_id"]', 'key = ["session_id", "type_code"]', "neither session, version nor matched: type_code"),
    "a view": ('table = "public.fc_scores"', 'table = "public.backfill_candidates"', "public.backfill_candidates cannot be declared: it is a view"),
    "a function elsewhere": ("public.score_prism(uuid,text)", "auth.uid()", "has no argument"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_a_name_that_the_database_does_not_have_is_refused(project_db: Db, case: str) -> None:
    """With the nearest that it has; what was declared before stands as it was."""
    old, new, said = NAMES[case]
    before = _declared_rows(project_db)
    script = target_sql(parse(changed(old, new)))
    with pytest.raises(psycopg.Error, match=said) as refused, project_db.transaction():
        project_db.execute(script.encode())
    assert refused.value.sqlstate == "OB013"
    assert ". Next: " in str(refused.value.diag.message_primary)
    assert refused.value.diag.message_hint is None
    assert _declared_rows(project_db) == before


def _declared_rows(db: Db) -> list[Any]:
    return [
        *db.execute("select * from backfill_private.sources order by 1").fetchall(),
        *db.execute("select * from public.backfill_targets order by 1, 2").fetchall(),
        *db.execute(
            "select tgrelid::regclass::text, tgname from pg_trigger where tgname like 'backfill%%'"
            " order by 1, 2"
        ).fetchall(),
    ]


def test_what_depends_on_a_former_view_is_named_without_the_advice_to_cascade(
    project_db: Db,
) -> None:
    """PostgreSQL's hint would drop the user's view, and the CLI does not show its detail."""
    project_db.execute("create view public.report as select * from public.backfill_candidates")
    said = "view public.report depends on view public.backfill_candidates. Next: drop what depends on it"
    with pytest.raises(psycopg.Error, match=said) as refused:
        project_db.execute(target_sql(declared(PRISM)).encode())
    assert "CASCADE" not in str(refused.value)


def test_a_table_that_somebody_holds_says_to_wait(
    project_db: Db, project_admin: psycopg.Connection[Any]
) -> None:
    """After three seconds a migration gives up, so that it does not stop the writers behind it."""
    quicker = target_sql(declared(PRISM)).replace("lock_timeout = '3s'", "lock_timeout = '1ms'")
    with project_admin.transaction():
        project_admin.execute("lock table public.profiles")
        project_db.execute(
            "alter function backfill_private.declare_target set lock_timeout = '1ms'"
        )
        with pytest.raises(psycopg.Error, match=r"lock timeout\. Next: wait") as late:
            project_db.execute(quicker.encode())
    assert late.value.sqlstate == "55P03"


def test_a_table_has_one_component(project_db: Db) -> None:
    """Its receipt names it, so a second target cannot have it too."""
    other = replace(declared(PRISM), target="other", views=Views("backfill_o", "backfill_p"))
    with pytest.raises(psycopg.Error, match="holds the rows of fc_scores of target prism already"):
        project_db.execute(target_sql(other).encode())


def test_a_declaration_said_again_takes_the_place_of_the_former(project_db: Db) -> None:
    """Rows, triggers and views are those of the newer one; the tables of the former are free."""
    short = replace(declared(PRISM), components=declared(PRISM).components[:1])
    project_db.execute(target_sql(short).encode())
    assert _guarded(project_db) == {"fc_scores"}
    names = {
        r["relname"]
        for r in project_db.execute(
            "select relname from pg_class where relname like 'backfill_missing%'"
        )
    }
    assert names == {"backfill_missing_fc_scores"}
    project_db.execute(target_sql(declared(PRISM)).encode())
    assert _guarded(project_db) == {"fc_scores", "profiles"}
    assert planned(project_db)


def _guarded(db: Db) -> set[str]:
    rows = db.execute(
        "select tgrelid::regclass::text as t from pg_trigger where tgname = '000_backfill_receipt'"
    )
    return {row["t"] for row in rows}


def test_a_component_that_was_planned_is_not_dropped(project_db: Db) -> None:
    """Its runs could no longer be verified."""
    planned(project_db)
    short = replace(declared(PRISM), components=declared(PRISM).components[:1])
    with pytest.raises(psycopg.Error, match="runs of target prism have planned profile"):
        project_db.execute(target_sql(short).encode())


# Detection --------------------------------------------------------------------------------------


def test_a_component_of_any_version_is_not_counted_twice(project_db: Db) -> None:
    """Several rows of a session, any of which counts, are one session without a gap."""
    project_db.execute(
        "alter table public.profiles drop constraint profiles_pkey,"
        " add primary key (session_id, results_version);"
        "insert into public.profiles select session_id, 'v0', type_code from public.profiles"
    )
    with pytest.raises(psycopg.Error, match="session_id is no key of public"):
        project_db.execute("select from public.backfill_daily_coverage")
    prism = declared(PRISM)
    several = replace(prism.components[1], key=("session_id", "results_version"))
    project_db.execute(
        target_sql(replace(prism, components=(prism.components[0], several))).encode()
    )
    after = project_db.execute(
        "select sum(completed) as n from public.backfill_daily_coverage"
    ).fetchone()
    completed = project_db.execute(
        "select count(*) as n from public.assessment_sessions where status = 'completed'"
    ).fetchone()
    assert after == completed


FILTERS: dict[str, tuple[str, Callable[[str], bool]]] = {
    'where = { status = ["completed", "abandoned"] }': ("two values", lambda s: s != "in_progress"),
    'where = { completed_at = { is = "not null" } }': ("set", lambda s: s == "completed"),
}


@pytest.mark.parametrize("where", FILTERS)
def test_filters_are_values_lists_and_nulls(project_db: Db, where: str) -> None:
    """Each selects what it says; the detection index is the one that check expects."""
    text = changed('where = { status = "completed" }', where)
    made = parse(text.replace("backfill_completed_sessions", "backfill_other_sessions"))
    project_db.execute(target_sql(made).encode())
    project_db.execute(index_sql(made).encode())
    row = project_db.execute(
        "select sum(completed) as n from public.backfill_daily_coverage"
    ).fetchone()
    condition = where[where.index("{") + 2 : where.rindex("}") - 1]
    sql_condition = (
        "status in ('completed', 'abandoned')" if "[" in condition else "completed_at is not null"
    )
    wanted = project_db.execute(
        f"select count(*) as n from public.assessment_sessions where {sql_condition}".encode()
    ).fetchone()
    assert row == wanted
    found = {line["name"]: line for line in _check(project_db)}
    assert found["index backfill_other_sessions"]["status"] == "ok", found[
        "index backfill_other_sessions"
    ]


def _check(db: Db) -> list[dict[str, Any]]:
    row = db.execute("select public.backfill_check() as lines").fetchone()
    assert row is not None
    lines: list[dict[str, Any]] = row["lines"]
    return lines


# Installing -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Supabase project."""
    path = tmp_path / "supabase"
    path.mkdir()
    (path / "config.toml").touch()
    return path


def installed(path: Path, *targets: Declaration) -> list[str]:
    """Install; the names of our files there, without their timestamps."""
    now = datetime(2026, 11, 24, tzinfo=UTC)
    installing.carry_out(installing.plan_install(path, now, targets))
    return [f.name[15:] for f in sorted((path / "migrations").iterdir())]


def test_a_target_is_installed_in_the_place_of_prism(folder: Path) -> None:
    """Its declaration and its index, after the core; said again, nothing is new."""
    other = replace(declared(PRISM), target="other")
    names = [
        "20251101000000_backfill_core.sql",
        "backfill_other.sql",
        "backfill_other_index_sessions.sql",
    ]
    assert installed(folder, other) == names
    assert installed(folder, other) == names


def test_a_target_that_is_declared_otherwise_gets_a_new_migration(folder: Path) -> None:
    """The former stays: it may be applied already. So does one that comes back."""
    first = declared(PRISM)
    second = replace(first, parameters={**first.parameters, "min_responses": 5})
    installed(folder, first)
    assert installed(folder, second).count("backfill_prism.sql") == 2
    assert installed(folder, second).count("backfill_prism.sql") == 2
    assert installed(folder, first).count("backfill_prism.sql") == 3
    assert installed(folder, first).count("backfill_prism_index_sessions.sql") == 1


def test_the_command_installs_several(plain_shell: Shell, folder: Path, tmp_path: Path) -> None:
    """PRISM by name beside a file of one's own."""
    file = tmp_path / "mine.toml"
    file.write_text(changed('target = "prism"', 'target = "mine"'))
    answer = plain_shell(
        "install", "--supabase-path", str(folder), "--yes", "--json",
        "--target", "prism", "--target", str(file),
    )  # fmt: skip
    names = [m["original_name"] for m in json.loads(answer.out)["migrations"]]
    assert names[1::2] == ["backfill_prism.sql", "backfill_mine.sql"]


def test_what_the_generator_makes_can_be_declared_from_the_library(bare_db: Db) -> None:
    """Without the core there is nothing to declare to, and the script changes nothing."""
    info = bare_db.info
    dsn = f"postgresql://{info.user}:{info.password}@{info.host}:{info.port}/{info.dbname}"
    with pytest.raises(psycopg.Error, match="backfill_private"):
        sample.declare(dsn, declared(PRISM))
