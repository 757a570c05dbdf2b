"""What the database decides, asked as tables: each function by itself, on a clock that stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import psycopg
import pytest
from psycopg.rows import dict_row

from backfill.local.servers import PostgresServer
from tests import rules
from tests.rules import RULES, Db, Rule, answer, prepare


@pytest.fixture(scope="module")
def world(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[Db]:
    """One project for all cases: nothing of a case stays."""
    name, template = "rules", request.getfixturevalue("project_template").template_dbname
    postgres_server.create_database(name, template)
    with psycopg.connect(
        postgres_server.dsn(name), autocommit=True, row_factory=dict_row
    ) as connection:
        prepare(connection)
        yield connection
    postgres_server.drop_database(name)


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_a_rule_says_what_its_table_says(world: Db, rule: Rule) -> None:
    """Every case of one rule: those that are answered otherwise, with what is wanted instead."""
    answers = [(case.name, answer(world, case), case.wanted) for case in rule.cases]
    assert [(name, said, wanted) for name, said, wanted in answers if said != wanted] == []


def test_no_table_is_left_out() -> None:
    """One that no list names would be asked by nobody."""
    modules = [import_module(m.name) for m in iter_modules(rules.__path__, f"{rules.__name__}.")]
    made = {id(v): v.name for m in modules for v in vars(m).values() if isinstance(v, Rule)}
    assert [name for rule, name in made.items() if rule not in set(map(id, RULES))] == []


def test_a_case_is_named_once() -> None:
    """A table with two lines for one case would say two things about it."""
    names = Counter((rule.name, case.name) for rule in RULES for case in rule.cases)
    assert [name for name, count in names.items() if count > 1] == []


def test_a_login_that_is_no_member_of_postgres_is_nobody_without_claims(
    world: Db, postgres_server: PostgresServer
) -> None:
    """PostgREST's login may take API roles; that alone lets it do nothing."""
    with psycopg.connect(
        postgres_server.authenticator_dsn(world.info.dbname), row_factory=dict_row
    ) as connection:
        connection.execute("set role authenticated")
        row = connection.execute("select backfill_private.may('read') as may").fetchone()
    assert row == {"may": False}
