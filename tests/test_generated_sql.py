"""The SQL of a declared target: to be read, and as PostgreSQL reads names and values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import tuple_row
from sqlglot.dialects.postgres import Postgres

from backfill.errors import BadRequest
from backfill.local.servers import PostgresServer
from backfill.targets.declaration import PRISM, Declaration, declared
from backfill.targets.declaration_values import Table
from backfill.targets.filters import Filter
from backfill.targets.sql import KEYWORDS, NO_NAMES, WIDTH, json_text, literal, name_of
from backfill.targets.sql_check import as_meant
from backfill.targets.views import index_sql, target_sql
from tests.test_declared_names import AWKWARD, COLUMNS, LETTERS

DOCUMENTS = Path(__file__).parent.parent / "supabase" / "examples" / "documents" / "documents.toml"
QUOTED = re.compile(r"'(?:[^']|'')*'|--[^\n]*")
WORDS = sorted({w.lower() for w in Postgres.Tokenizer.KEYWORDS if w.isidentifier()} | KEYWORDS)


@pytest.fixture(scope="module")
def server(postgres_server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """A connection for questions to PostgreSQL itself."""
    dsn = postgres_server.superuser_dsn()
    with psycopg.connect(dsn, autocommit=True, row_factory=tuple_row) as connection:
        yield connection


# How it looks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [PRISM, str(DOCUMENTS)])
def test_it_is_read_like_the_rest_of_sql(target: str) -> None:
    """Lower case, no name quoted without need, no line too wide."""
    made = declared(target)
    script = target_sql(made) + index_sql(made)
    bare = QUOTED.sub("", script)
    assert (bare, '"' in bare) == (bare.lower(), False)
    assert [line for line in script.splitlines() if len(line) > WIDTH] == []


def test_a_long_statement_is_broken() -> None:
    """With names of ours at their longest, only one comment or its column is wider."""
    made = declared(PRISM)
    long = tuple(
        replace(c, name=f"{c.name:x<31}", view=f"backfill_{c.name:x<50}", needs=())
        for c in made.components
    )
    script = target_sql(replace(made, components=long))
    wide = [line for line in script.splitlines() if len(line) > WIDTH]
    assert [line for line in wide if not line.startswith(("comment on column ", "  is '"))] == []
    assert "count(*) filter (\n" in script


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=JSON)
def test_json_says_the_same_in_lines(value: Any) -> None:
    """Wherever it is broken."""
    assert json.loads(json_text(value)) == value


# As PostgreSQL reads it -------------------------------------------------------------------------


def test_a_name_is_quoted_as_quote_ident_quotes_it(server: psycopg.Connection[Any]) -> None:
    """Asked for every keyword. What another major or the parser reserves is quoted besides."""
    words = [*AWKWARD, "a_1", "_a", "1a", "a$b", "Ä", *WORDS]
    rows = server.execute(
        "select w, quote_ident(w) from unnest(%s::text[]) as w"
        " union all select word, quote_ident(word) from pg_get_keywords()",
        [words],
    ).fetchall()
    assert len(rows) > len(words) + 400
    ours = KEYWORDS | NO_NAMES
    others = [(word, quoted) for word, quoted in rows if word not in ours]
    assert [(word, name_of(word)) for word, _ in others] == others
    assert all(name_of(word) == f'"{word}"' for word in ours if word.isidentifier())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=COLUMNS, value=st.text(LETTERS))
def test_the_server_reads_what_was_meant(
    server: psycopg.Connection[Any], name: str, value: str
) -> None:
    """Any name, any value, in one query."""
    cursor = server.execute(f"select {literal(value)} as {name_of(name)}".encode())
    assert cursor.description is not None
    assert (cursor.fetchone(), cursor.description[0].name) == ((value,), name)


# Read back --------------------------------------------------------------------------------------


def named(words: list[str]) -> Declaration:
    """PRISM's declaration with other names in every place that takes any."""
    word = cycle(words)
    made = declared(PRISM)
    components = [
        replace(
            c,
            table=Table(next(word), next(word)),
            session=next(word),
            key=(next(word), next(word)),
            version_column=next(word),
            matches={next(word): "basis"},
        )
        for c in made.components
    ]
    return replace(
        made,
        source=replace(
            made.source,
            table=Table(next(word), next(word)),
            key=next(word),
            date=next(word),
            index=next(word),
            where=(Filter(next(word), ("a", "b\nc")), Filter(next(word), is_null=False)),
        ),
        components=tuple(components),
    )


@pytest.mark.parametrize("start", range(0, len(WORDS), 20))
def test_a_keyword_is_a_name_like_others(start: int) -> None:
    """PostgreSQL's and the parser's, bare or quoted: each is found again as what it is."""
    for first in range(start, start + 20, 5):
        made = named(list(islice(cycle(WORDS), first, first + 18)))
        assert target_sql(made)
        assert index_sql(made)


# What becomes another thing in the script of an index, and what is said of it.
TAMPERED = {
    "a statement more": ("-- The", "drop table x;\n-- The", "'drop': 1"),
    "no statement": ("create", "-- create", "the parser says"),
    "another statement": ("index concurrently", "table", "'command': 1"),
    "another name": ("created_at", "made_at", "nothing declared is called made_at"),
    "a function": ("status =", "upper(status) =", "nothing declared is called upper"),
    "a function unknown to the parser": ("status =", "f(status) =", "nothing declared is called f"),
    "an open quote": ("'completed'", "'comp'leted'", "the parser says"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_not_meant_is_not_handed_out(case: str) -> None:
    """One sentence that says what was found."""
    old, new, said = TAMPERED[case]
    made = declared(PRISM)
    script = index_sql(made)
    assert as_meant(made, script, {"create index": 1}) == script
    with pytest.raises(BadRequest, match=said) as refused:
        as_meant(made, script.replace(old, new), {"create index": 1})
    assert "\n" not in refused.value.message
