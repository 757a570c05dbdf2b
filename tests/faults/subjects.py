"""What a scene's runs are over: whose rows, scored by whom, and how its calls are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from backfill.local import sample
from backfill.targets.declaration import Declaration, declared
from tests.kit.edge import SILENT, prism_over_edge
from tests.kit.seed import SEED

DOCUMENTS = Path(__file__).parents[2] / "supabase" / "examples" / "documents"

# Who scores PRISM: SQL functions; Edge Functions; Edge Functions that hand our headers not on.
# And the other example: documents, by a SQL function and an Edge Function.
Scoring = Literal["rpc", "edge", "silent", "documents"]
# Marks of tests that are not for all: the fence has to stand at the write; nobody scores.
AT_THE_WRITE = pytest.mark.parametrize("scoring", ["rpc", "edge", "documents"], indirect=True)
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
    hands_on: bool = True

    def load(self, dsn: str, sessions: int) -> None:
        """Fill an empty database with so many candidates."""
        sample.load(dsn, sessions if self.key == "session_id" else 1)
        if self.key != "session_id":
            with psycopg.connect(dsn) as db:
                db.execute((DOCUMENTS / "schema.sql").read_bytes())
                db.execute(MORE_DOCUMENTS.format(sessions=sessions).encode())
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
