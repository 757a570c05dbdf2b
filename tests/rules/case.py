"""A rule of the database as a table: what is given, what is asked, what is the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

Db = psycopg.Connection[Any]


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error of the database."""

    code: str | None
    message: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class Case:
    """One line of a rule's table.

    given: statements before, which are rolled back with the case. query: has one value.
    """

    name: str
    query: str
    values: tuple[object, ...]
    wanted: object
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """Functions of the database that decide something, and the cases that say what.

    functions: by name, without the schema backfill_private.
    """

    name: str
    functions: tuple[str, ...]
    cases: tuple[Case, ...]


def answer(db: Db, case: Case) -> object:
    """What the database says in a case. Nothing of it stays."""
    try:
        with db.transaction(force_rollback=True):
            for statement in case.given:
                db.execute(statement.encode())
            row = db.execute(case.query.encode(), case.values or None).fetchone()
            return None if row is None else next(iter(row.values()))
    except psycopg.DatabaseError as error:
        told = error.diag.message_primary
        return Refusal(error.sqlstate, told, error.diag.message_hint)


def holds(db: Db, case: Case) -> bool:
    """Whether the database says in a case what is wanted."""
    return answer(db, case) == case.wanted
