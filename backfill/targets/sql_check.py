"""Read a generated script back with a parser: only the intended statements, only known names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from backfill.errors import BadRequest
from backfill.targets.comments import every, flag, not_wanted, too
from backfill.targets.declaration import Declaration

# What the templates name: aliases, columns, roles, and functions as the parser calls them.
OWN_NAMES = """
    s r n g c d id one enough lock_timeout backfill_private public declare_target parameter
    session_id created_at session_at components excluded category wanted_version
    is_incomplete not_wanted jsonb_build_object jsonb_strip_nulls
    day completed complete coverage anon authenticated service_role
    and or if case cast array arrayremove arraytostring count format nullif round
"""


def as_meant(declared: Declaration, script: str, kinds: Mapping[str, int]) -> str:
    """The script, once it is known to have these statements and no unknown name.

    kinds: how many statements of each kind, such as `create view` or `grant`. Raises BadRequest.
    """
    fault = _fault(script, kinds, {*OWN_NAMES.split(), *_names(declared)})
    if fault:
        raise BadRequest(
            f"the SQL of target {declared.target} does not read as it is meant: {fault}",
            "backfill wrote a name or a value of it wrongly: report it with the declaration",
        )
    return script


def _fault(script: str, kinds: Mapping[str, int], names: set[str]) -> str | None:
    try:
        trees = [tree for tree in sqlglot.parse(script, dialect="postgres") if tree is not None]
    except SqlglotError as error:
        return f"the parser says {str(error).splitlines()[0]}"
    found = Counter(_kind(tree) for tree in trees)
    if found != Counter(kinds):
        return f"its statements are {dict(found)}, not {dict(kinds)}"
    strange = {name for tree in trees for name in _names_in(tree)} - names
    return f"nothing declared is called {', '.join(sorted(strange))}" if strange else None


def _kind(tree: exp.Expr) -> str:
    return f"create {tree.kind}".lower() if isinstance(tree, exp.Create) else tree.key


def _names_in(tree: exp.Expr) -> Iterator[str]:
    for found in tree.find_all(exp.Identifier, exp.Func):
        yield found.name if isinstance(found, exp.Identifier | exp.Anonymous) else found.key


def _names(declared: Declaration) -> Iterator[str]:
    """Every name that a declaration brings into its SQL."""
    tables = [declared.source.table, *(c.table for c in declared.components)]
    needs = [need for _, need in declared.needs]
    for table in (*tables, *(need.table for need in needs)):
        yield from (table.schema, table.name)
    yield from (declared.source.key, declared.source.date, declared.index_name, every(declared))
    yield from (name for f in declared.source.where for name in f.columns)
    yield from (need.column for need in needs)
    yield from (f"{declared.target}_standing", f"{declared.target}_gaps")
    yield from (declared.views.candidates, declared.views.coverage)
    for place, c in enumerate(declared.components, 1):
        yield from (f"c{place}", c.view, c.session, *c.matches, flag(c), too(c))
        yield not_wanted(c)
        yield from () if c.version_column is None else (c.version_column,)
