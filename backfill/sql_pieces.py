"""Pieces of SQL out of sqlglot: names are always quoted, values always literals."""

from __future__ import annotations

from sqlglot import exp

from backfill.toml_parts import Table


def as_sql(expression: exp.Expression) -> str:
    """An expression as PostgreSQL reads it, every name quoted."""
    return expression.sql(dialect="postgres", pretty=True, identify=True)


def quoted(text: str) -> str:
    """A text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def name_of(name: str) -> exp.Identifier:
    """A name, to be quoted."""
    return exp.to_identifier(name, quoted=True)


def column(alias: str | None, name: str) -> exp.Column:
    """A column, of an alias where one is given."""
    return exp.column(name_of(name), table=name_of(alias) if alias else None)


def table_of(table: Table, alias: str | None = None) -> exp.Table:
    """A declared table."""
    return named((table.schema, table.name), alias)


def named(name: tuple[str, str], alias: str | None = None) -> exp.Table:
    """A relation by schema and name."""
    named = exp.Table(this=name_of(name[1]), db=name_of(name[0]))
    if alias:
        named.set("alias", exp.TableAlias(this=name_of(alias)))
    return named


def literal(text: str) -> exp.Literal:
    """A text as a literal, within an expression."""
    return exp.Literal.string(text)


def cast_to(value: exp.Expression, kind: str) -> exp.Cast:
    """A value cast to a type of PostgreSQL."""
    return exp.cast(value, kind, dialect="postgres")


def is_null(column: exp.Expression) -> exp.Expression:
    """Whether a column is null."""
    return exp.Is(this=column, expression=exp.null())
