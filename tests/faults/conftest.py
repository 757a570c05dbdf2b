"""A sample of 200 sessions with counting scorers, a copy for every test, a proxy in front."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
import stamina
from psycopg.rows import dict_row

from backfill import sample
from backfill.stack_servers import PostgresServer
from tests.conftest import Project, _served
from tests.faults import measures
from tests.faults.proxy import Proxy, proxy_in_thread
from tests.faults.scenario import SESSIONS, Scene, Undisturbed

TEMPLATE = "faults"


def make_template(server: PostgresServer, sessions: int = SESSIONS) -> str:
    """A database to copy: the sample, the common clock, the counting scorers. Its name."""
    name = f"{TEMPLATE}_{sessions}"
    server.create_database(name)
    sample.load(server.dsn(name), sessions)
    with psycopg.connect(server.dsn(name), autocommit=True, row_factory=dict_row) as db:
        measures.prepare(db)
    return name


@contextmanager
def copied(server: PostgresServer, template: str) -> Iterator[Project]:
    """A project on a copy of the template, behind PostgREST and the gateway."""
    name = f"faults_{uuid4().hex}"
    server.create_database(name, template)
    owner = psycopg.connect(server.dsn(name), autocommit=True, row_factory=dict_row)
    admin = psycopg.connect(server.superuser_dsn(name), autocommit=True, row_factory=dict_row)
    try:
        with owner, admin, _served(server, owner, admin) as project:
            yield project
    finally:
        server.drop_database(name)


@contextmanager
def scene_on(
    server: PostgresServer, template: str, undisturbed: Undisturbed | None = None
) -> Iterator[Scene]:
    """A scene on a copy of the template; without what an undisturbed run leaves, none is known."""
    with copied(server, template) as project, proxy_in_thread(project.url) as proxy:
        before = measures.content(project.db)
        yield Scene(
            project=project,
            proxy=proxy,
            dsn=server.dsn(project.db.info.dbname),
            before=before,
            after=undisturbed.after if undisturbed else before,
        )


def disturb_nothing(server: PostgresServer, template: str) -> Undisturbed:
    """What a run leaves that nobody disturbs, from a twin database."""
    with scene_on(server, template) as twin:
        run_id = twin.planned()
        assert twin.apply(run_id, url=twin.project.url).is_complete
        return Undisturbed(twin.before, measures.content(twin.project.db))


@pytest.fixture(scope="session")
def template(postgres_server: PostgresServer) -> str:
    """The database that every test of a worker copies."""
    return make_template(postgres_server)


@pytest.fixture(scope="session")
def undisturbed(postgres_server: PostgresServer, template: str) -> Undisturbed:
    """Run once a session."""
    return disturb_nothing(postgres_server, template)


@pytest.fixture
def scene(
    postgres_server: PostgresServer, template: str, undisturbed: Undisturbed
) -> Iterator[Scene]:
    """A project of the test's own, and a proxy in front of it that passes everything on."""
    with scene_on(postgres_server, template, undisturbed) as made:
        yield made


@pytest.fixture
def proxy(scene: Scene) -> Proxy:
    """What stands between client and project."""
    return scene.proxy


@pytest.fixture
def at_once() -> Iterator[None]:
    """Our own calls are made again at once: what passes between two tries is not looked at."""
    stamina.set_testing(True, attempts=6, cap=True)
    yield
    stamina.set_testing(False)
