"""What a scene's runs are over: whose rows, scored by whom, and how its calls are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from backfill.local import sample
from backfill.targets.declaration import Declaration, declared, parse
from tests.kit.edge import SILENT, prism_over_edge
from tests.kit.seed import SEED

DOCUMENTS = Path(__file__).parents[2] / "supabase" / "examples" / "documents"

# Who scores PRISM: SQL functions; Edge Functions; Edge Functions that hand our headers not on.
# And the other example: documents, by a SQL function and an Edge Function.
# And kinds: a view as the source, one call for two components without versions in one table.
Scoring = Literal["rpc", "edge", "silent", "documents", "kinds"]
# Marks of tests that are not for all: the fence has to stand at the write; nobody scores.
AT_THE_WRITE = pytest.mark.parametrize("scoring", ["rpc", "edge", "documents"], indirect=True)
OF_KINDS = pytest.mark.parametrize("scoring", ["kinds"], indirect=True)
IN_SQL = pytest.mark.parametrize("scoring", ["rpc"], indirect=True)


@dataclass(frozen=True)
class Subject:
    """One target, and who scores it.

    tables: what is compared. key: its column that names the session. writers: by component, the
    SQL function that commits its row. arguments: of these functions, as (declared, passed on).
    served: whether Edge Functions score, and from which folder where not the sample's. hands_on:
    whether our headers reach the database. changes: makes another row of a written one.
    refers: makes a table (session) whose rows keep a written row from going.
    """

    name: Scoring
    tables: tuple[str, ...]
    key: str
    request: Mapping[str, Any]
    writers: Mapping[str, str]
    arguments: Mapping[str, tuple[str, str]]
    changes: str
    refers: Sequence[str]
    declaration: Declaration | None = field(default=None, repr=False)
    served: bool = False
    functions: Path | None = None
    schema: str = ""
    hands_on: bool = True

    def load(self, dsn: str, sessions: int) -> None:
        """Fill an empty database with so many candidates."""
        sample.load(dsn, sessions if self.key == "session_id" else 1)
        if self.key != "session_id":
            with psycopg.connect(dsn) as db:
                db.execute((DOCUMENTS / "schema.sql").read_bytes())
                db.execute(MORE_DOCUMENTS.format(sessions=sessions).encode())
        if self.schema:
            with psycopg.connect(dsn) as db:
                db.execute(self.schema.encode())
        if self.declaration:
            sample.declare(dsn, self.declaration)


# The example comes with 40 candidates; these are the others, every third without a plain text.
MORE_DOCUMENTS = """
with more as (
  insert into library.documents (title, state, published_at)
  select 'More', 'published', timestamptz '2025-10-01 00:00+00' + n * interval '1 hour'
  from generate_series(1, {sessions} - 40) as n
  returning id)
insert into library.paragraphs (document_id, position, html)
select id, 1, '<p>One paragraph of ' || id || '</p>' from more;
select public.clean_document(id, 'c1') from library.documents where id > 63 and id % 3 > 0;
"""

PRISM: dict[str, Any] = {
    "tables": ("public.fc_scores", "public.profiles"),
    "key": "session_id",
    "request": SEED,
    "writers": {"fc_scores": "score_fc_session", "profile": "score_prism"},
    "arguments": {
        "score_fc_session": ("session_id uuid, version text, basis text", "$1, $2, $3"),
        "score_prism": ("session_id uuid, engine_version text", "$1, $2"),
    },
    "changes": "update public.fc_scores set blocks_answered = 5"
    " where version = 'v1.2' and session_id = %s",
    "refers": (
        "create table public.reports (session_id uuid, version text, fc_kind text,"
        " foreign key (session_id, version, fc_kind) references public.fc_scores)",
        "insert into public.reports values (%s, 'v1.2', 'functions')",
    ),
}


def subject(scoring: Scoring) -> Subject:
    """The subject of a name."""
    match scoring:
        case "rpc":
            return Subject("rpc", **PRISM)
        case "edge":
            return Subject("edge", **PRISM, declaration=prism_over_edge(), served=True)
        case "silent":
            asks = {**PRISM, "request": {**SEED, "inferred": "prism"}}
            said = prism_over_edge("inferred")
            return Subject(
                "silent", **asks, declaration=said, served=True, functions=SILENT, hands_on=False
            )
        case "documents":
            return documents()
        case "kinds":
            return kinds()


KINDS_SCHEMA = """
create view public.finished as
select s.id, s.created_at, s.status from public.assessment_sessions as s;
create table public.letters (
  session_id uuid not null, kind text not null, words text not null,
  primary key (session_id, kind));
create function public.write_letters(session_id uuid) returns void language sql
set search_path = '' as $$
  insert into public.letters
  select write_letters.session_id, k, k || ' for ' || write_letters.session_id
  from unnest(array['short', 'long']) as k
  on conflict do nothing
$$;
grant select on public.finished to service_role;
grant select, insert, update, delete on public.letters to service_role;
"""
KINDS = """
target = "kinds"
[source]
table = "public.finished"
key = "id"
date = "created_at"
where = { status = { not = ["in_progress", "abandoned"] }, created_at = { ge = 2025-08-01 } }
[parameters]
short = "short"
long = "long"
least = 1
[[component]]
name = "short"
table = "public.letters"
session = "session_id"
key = ["session_id", "kind"]
matches = { kind = "short" }
function = "public.write_letters(uuid)"
arguments = { session_id = "session_id" }
fills = ["long"]
needs = [{ name = "answers", table = "public.assessment_responses", column = "session_id", at_least = "least" }]
[[component]]
name = "long"
table = "public.letters"
session = "session_id"
key = ["session_id", "kind"]
matches = { kind = "long" }
needs = [{ name = "answers", table = "public.assessment_responses", column = "session_id", at_least = "least" }]
"""  # noqa: E501 - a need is one line


def kinds() -> Subject:
    """What a declaration can say beside PRISM's."""
    return Subject(
        "kinds",
        tables=("public.letters",),
        key="session_id",
        request={"since": "2025-08-01", "target": "kinds", "rehearse": 0},
        writers={"short": "write_letters", "long": "write_letters"},
        arguments={"write_letters": ("session_id uuid", "$1")},
        changes="update public.letters set words = 'mine' where kind = 'long' and session_id = %s",
        refers=(
            "create table public.stamps (session_id uuid, kind text,"
            " foreign key (session_id, kind) references public.letters)",
            "insert into public.stamps values (%s, 'short')",
        ),
        schema=KINDS_SCHEMA,
        declaration=parse(KINDS),
    )


def documents() -> Subject:
    """The second example."""
    return Subject(
        "documents",
        tables=("library.plain_texts", "library.embeddings"),
        key="document_id",
        request={"since": "2025-08-01", "target": "documents", "rehearse": 0},
        writers={"plain_text": "clean_document", "embedding": "save_embedding"},
        arguments={
            "clean_document": ("document_id bigint, cleaner text", "$1, $2"),
            "save_embedding": ("document_id bigint, model text, vector real[]", "$1, $2, $3"),
        },
        changes="update library.embeddings set vector = '{1}'"
        " where model = 'small-1' and document_id = %s",
        refers=(
            "create table library.uses (document_id bigint, model text,"
            " foreign key (document_id, model) references library.embeddings)",
            "insert into library.uses values (%s, 'small-1')",
        ),
        declaration=declared(str(DOCUMENTS / "documents.toml")),
        served=True,
    )
