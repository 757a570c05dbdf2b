"""Mutants of the functions of the database that decide something, against the tables of rules.

Each mutant is made in a transaction, asked every case of every rule that names its function until
one notices, and rolled back: some milliseconds for each.
"""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from backfill.local import sample
from backfill.local.parts import open_temp_root
from backfill.local.servers import PostgresServer
from tests.mutants.equivalent import SURVIVORS
from tests.mutants.tokens import changes
from tests.rules import RULES, Db, Rule, holds, prepare

LEAST_KILLED = 0.9
# A mutant that never ends is noticed too.
TIMEOUT = "set local statement_timeout = '5s'"


@dataclass(frozen=True)
class Mutant:
    """A function's definition with one change in its body, and the line before and after it."""

    function: str
    definition: str
    before: str
    after: str

    @property
    def why_it_lives(self) -> str | None:
        """The reason, if it is known."""
        whys = (s.why for s in SURVIVORS if s.is_it(self.function, self.before, self.after))
        return next(whys, None)


@contextmanager
def scratch_database() -> Iterator[Db]:
    """A database made from the migrations, with the small world of the rules, as its owner."""
    folder = open_temp_root() / f"backfill-mutants-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o755)
    server = PostgresServer.start(folder / "data")
    try:
        server.create_database("mutants")
        server.install_platform("mutants")
        with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as admin:
            admin.execute("alter database mutants owner to postgres")
        sample.load(server.dsn("mutants"), "seed")
        with psycopg.connect(
            server.dsn("mutants"), autocommit=True, row_factory=dict_row
        ) as connection:
            prepare(connection)
            yield connection
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def mutants_of(db: Db, function: str) -> Iterator[Mutant]:
    """Every mutant of one function. One of two that are called alike would be forgotten."""
    rows = db.execute(
        "select pg_get_functiondef(p.oid) as definition, p.prosrc as body from pg_proc as p"
        " where p.pronamespace = 'backfill_private'::regnamespace and p.proname = %s",
        (function,),
    ).fetchall()
    assert len(rows) == 1, f"{len(rows)} functions are named {function}"
    definition, body = rows[0]["definition"], rows[0]["body"]
    assert definition.count(body) == 1
    for change in changes(body):
        yield Mutant(function, definition.replace(body, change.of(body)), *change.lines(body))


def is_killed(db: Db, mutant: Mutant, rules: Sequence[Rule]) -> bool | None:
    """Whether a case notices; None if PostgreSQL does not take it for a function."""
    try:
        with db.transaction(force_rollback=True):
            db.execute(TIMEOUT)
            db.execute(mutant.definition.encode())
            return not all_hold(db, rules)
    except psycopg.DatabaseError:
        return None


def all_hold(db: Db, rules: Sequence[Rule]) -> bool:
    """Whether every case of these rules has its answer."""
    return all(holds(db, case) for rule in rules for case in rule.cases)


def main() -> int:
    """Kill all that can be killed, name the rest; 1 if too many live or one has no reason."""
    made, survivors = Counter[str](), list[Mutant]()
    with scratch_database() as db:
        assert all_hold(db, RULES), "the rules fail without mutants: see tests/test_rules_sql.py"
        for function in sorted({name for rule in RULES for name in rule.functions}):
            rules = [rule for rule in RULES if function in rule.functions]
            for mutant in mutants_of(db, function):
                killed = is_killed(db, mutant, rules)
                made[function] += killed is not None
                if killed is False:
                    survivors.append(mutant)
    return _told(made, survivors)


def _told(made: Counter[str], survivors: Sequence[Mutant]) -> int:
    lived, total = Counter(mutant.function for mutant in survivors), made.total()
    for function, count in sorted(made.items()):
        print(f"{function:24} {count - lived[function]:4} of {count:4} killed")
    for mutant in survivors:
        print(f"survived  {mutant.function}: {mutant.before}\n      as  {mutant.after}")
        print(f" because  {mutant.why_it_lives or 'NO REASON GIVEN'}")
    stale = [
        known
        for known in SURVIVORS
        if not any(known.is_it(m.function, m.before, m.after) for m in survivors)
    ]
    for known in stale:
        print(f"no longer survives  {known.function}: {known.new}")
    killed = total - len(survivors)
    print(f"SQL: {killed} of {total} mutants killed, {killed / total:.1%}")
    has_reasons = all(mutant.why_it_lives for mutant in survivors)
    return int(killed < LEAST_KILLED * total or not has_reasons or bool(stale))
