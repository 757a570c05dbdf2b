"""Every view of ours is plain SQL that a parser reads, and finds its gaps with joins."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlglot
from sqlglot import exp

from backfill.targets.migrations import MIGRATIONS, built, declared_files

CREATE_VIEW = re.compile(r"^create (?:or replace )?view (\S+).*?;$", re.DOTALL | re.MULTILINE)
FILES = [*declared_files(), *(MIGRATIONS / name for name in built())]


def views(script: str) -> dict[str, str]:
    """Name -> statement of every view that a script makes."""
    return {found[1]: found[0] for found in CREATE_VIEW.finditer(script)}


VIEWS = {
    f"{file.name}: {name}": statement
    for file in FILES
    for name, statement in views(file.read_text()).items()
}


def parsed(statement: str) -> exp.Create:
    """The tree of a statement that makes a view."""
    tree = sqlglot.parse_one(statement, dialect="postgres")
    assert isinstance(tree, exp.Create), f"not understood: {statement[:60]}"
    assert tree.kind == "VIEW"
    assert isinstance(tree.expression, exp.Query)
    return tree


def not_exists_under_or(tree: exp.Expr) -> Iterator[exp.Or]:
    """Each OR with a NOT EXISTS on both of its sides: eight times slower than two joins."""
    for either in tree.find_all(exp.Or):
        sides = [list(side.find_all(exp.Not)) for side in (either.left, either.right)]
        if all(any(n.find(exp.Exists) for n in found) for found in sides):
            yield either


def test_the_views_of_ours_are_looked_at() -> None:
    """Each in its own file and in the migration: none is missed by the way it is written."""
    made = [
        line
        for file in FILES
        for line in file.read_text().splitlines()
        if re.match(r"\s*create .*\bview\b", line)
    ]
    assert len(VIEWS) == len(made) > 0


@pytest.mark.parametrize("statement", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_parses(statement: str) -> None:
    """As a query, not as text that the parser hands through."""
    assert parsed(statement).expression.find(exp.Select)


@pytest.mark.parametrize("statement", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_does_not_join_not_exists_by_or(statement: str) -> None:
    """What is missing is found by outer joins."""
    assert list(not_exists_under_or(parsed(statement))) == []


@pytest.mark.parametrize(
    "condition",
    [
        "not exists (select from p) or not exists (select from f)",
        "a and (not exists (select from p) or b or not exists (select from f))",
        "(not exists (select from p)) or (c and not exists (select from f))",
    ],
)
def test_not_exists_joined_by_or_is_seen(condition: str) -> None:
    """The shape that the test above looks for, however it is put in brackets."""
    tree = parsed(f"create view public.v as select * from s where {condition};")
    assert list(not_exists_under_or(tree))
