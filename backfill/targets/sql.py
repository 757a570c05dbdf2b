"""Pieces of SQL: names quoted if PostgreSQL needs it, texts as literals, JSON to be read."""

from __future__ import annotations

import json
import re

from sqlglot import TokenType, exp
from sqlglot.dialects.postgres import Postgres

from backfill.results.run import Json
from backfill.targets.declaration_values import Table

WIDTH = 120
PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# Keywords of PostgreSQL 15 to 18 that pg_get_keywords() calls other than unreserved. quote_ident
# quotes these.
KEYWORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit
    boolean both case cast char character check coalesce collate collation column concurrently
    constraint create cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user dec decimal default deferrable desc distinct do else end except
    exists extract false fetch float for foreign freeze from full grant greatest group grouping
    having ilike in initially inner inout int integer intersect interval into is isnull join json
    json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar
    json_serialize json_table json_value lateral leading least left like limit localtime
    localtimestamp merge_action national natural nchar none normalize not notnull null nullif
    numeric offset on only or order out outer overlaps overlay placing position precision primary
    real references returning right row select session_user setof similar smallint some substring
    symmetric system_user table tablesample then time timestamp to trailing treat trim true union
    unique user using values varchar variadic verbose when where window with xmlattributes
    xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize
    xmltable
    """.split()  # noqa: SIM905 - words are read across
)
# Words that the parser would not read as names, though PostgreSQL does.
NO_NAMES = frozenset(
    word.lower()
    for word, token in Postgres.Tokenizer.KEYWORDS.items()
    if token not in Postgres.Parser.ID_VAR_TOKENS - {TokenType.DESCRIBE}
)


def name_of(*path: str) -> str:
    """A name as SQL writes it, after its schema or alias if it has one."""
    return ".".join(
        exp.to_identifier(name, quoted=needs_quotes(name)).sql(dialect="postgres") for name in path
    )


def needs_quotes(name: str) -> bool:
    """Whether PostgreSQL (by the rule of quote_ident) or the parser would misread it bare."""
    return PLAIN.fullmatch(name) is None or name in KEYWORDS or name in NO_NAMES


def table_of(table: Table) -> str:
    """A declared table."""
    return name_of(table.schema, table.name)


def literal(text: str) -> str:
    """A text as a literal."""
    return exp.Literal.string(text).sql(dialect="postgres")


def json_text(value: Json, margin: str = "") -> str:
    """JSON in which an object or a list is one line if it fits into one."""
    flat, inner = json.dumps(value, ensure_ascii=False), f"{margin}  "
    if not isinstance(value, dict | list) or len(margin) + len(flat) < WIDTH - 20:
        return flat
    items = (
        [f"{json_text(key)}: {json_text(one, inner)}" for key, one in value.items()]
        if isinstance(value, dict)
        else [json_text(one, inner) for one in value]
    )
    return f"{flat[0]}\n{inner}" + f",\n{inner}".join(items) + f"\n{margin}{flat[-1]}"


def fitted(head: str, tail: str) -> str:
    """A statement in one line, or in two if it is too wide."""
    is_short = len(head) + 1 + len(tail) <= WIDTH
    return f"{head} {tail}" if is_short else f"{head}\n  {tail}"
