"""Real PostgreSQL, real PostgREST, the real client: a database of its own for every test.

One server per session. pytest-postgresql makes each template once. A copy and its PostgREST are
used again by the next test once the rows are put back.
"""

from __future__ import annotations

import secrets
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pytest_postgresql import factories

import backfill
from backfill.local import sample
from backfill.local.gateway import Gateway, gateway_in_thread
from backfill.local.keys import ApiKeys, mint_user_token
from backfill.local.servers import PostgresServer, RestServer
from backfill.targets import migrations
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.copies import Copies, Copy
from tests.kit.folders import server_folder
from tests.kit.supabase_cli import cli_home, cli_script

__all__ = ["cli_home", "cli_script"]  # fixtures of another module

SEES_WITHIN_S = 30.0  # a machine may be busy with other tests
LOOK_S = 0.03
SERVER: dict[str, PostgresServer] = {}


@pytest.fixture(scope="session", autouse=True)
def _certificates_read_once() -> Iterator[None]:
    """Without this every client reads the CA certificates again, which takes it 50 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole session. BACKFILL_POSTGRES_BIN chooses another major."""
    folder = server_folder()
    server = PostgresServer.start(folder / "data")
    SERVER["it"] = server
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(postgres_server: PostgresServer) -> SimpleNamespace:
    """The server in the form that pytest-postgresql expects."""
    return SimpleNamespace(
        host=postgres_server.host,
        port=postgres_server.port,
        user="supabase_admin",
        password=postgres_server.secrets.supabase_admin,
        options="",
        maintenance_dbname="postgres",
        template_dbname=None,
    )


# PostgREST reads them at each start and reload, which opens six hundred files.
FEW_TIME_ZONES = b"""
set allow_system_table_mods = on;
create or replace view pg_catalog.pg_timezone_names as
select 'UTC'::text as name, 'UTC'::text as abbrev, interval '0' as utc_offset, false as is_dst
"""


def _load_platform(*, dbname: str, **_: Any) -> None:
    server = SERVER["it"]
    server.install_platform(dbname)
    with psycopg.connect(server.superuser_dsn(dbname), autocommit=True) as connection:
        connection.execute(FEW_TIME_ZONES)
    with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute(f'alter database "{dbname}" owner to postgres'.encode())


def _load_sample_only(*, dbname: str, **_: Any) -> None:
    _load_platform(dbname=dbname)
    with psycopg.connect(SERVER["it"].dsn(dbname), autocommit=True) as connection:
        connection.execute(migrations.all_files()[0].read_text().encode())
        connection.execute(migrations.seed_file().read_text().encode())


def _load_project(*, dbname: str, **_: Any) -> None:
    _load_platform(dbname=dbname)
    sample.load(SERVER["it"].dsn(dbname), "seed")


def _load_clocked_project(*, dbname: str, **_: Any) -> None:
    _load_project(dbname=dbname)
    with psycopg.connect(SERVER["it"].dsn(dbname), autocommit=True) as connection:
        DatabaseClock(connection)


bare_template = factories.postgresql_noproc(
    depends_on="cluster", dbname="bare", load=[_load_platform]
)
sample_template = factories.postgresql_noproc(
    depends_on="cluster", dbname="sample", load=[_load_sample_only]
)
project_template = factories.postgresql_noproc(
    depends_on="cluster", dbname="project", load=[_load_project]
)
clocked_template = factories.postgresql_noproc(
    depends_on="cluster", dbname="clocked", load=[_load_clocked_project]
)
bare_admin = factories.postgresql("bare_template")


def _as_postgres(server: PostgresServer, admin: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The copy as its owner sees it: role postgres, autocommit, rows as dicts."""
    admin.autocommit = True
    name = admin.info.dbname
    admin.execute(f'alter database "{name}" owner to postgres'.encode())
    return psycopg.connect(server.dsn(name), autocommit=True, row_factory=dict_row)


@pytest.fixture
def bare_db(
    postgres_server: PostgresServer, bare_admin: psycopg.Connection[Any]
) -> Iterator[psycopg.Connection[Any]]:
    """A platform without tables, as role postgres."""
    with _as_postgres(postgres_server, bare_admin) as connection:
        yield connection


@pytest.fixture(scope="session")
def sample_copies(
    postgres_server: PostgresServer, sample_template: SimpleNamespace
) -> Iterator[Copies]:
    """Copies of the sample project without ours."""
    with closing(Copies(postgres_server, sample_template.template_dbname)) as copies:
        yield copies


@pytest.fixture
def sample_copy(sample_copies: Copies) -> Iterator[Copy]:
    """A database for one test."""
    with sample_copies.lent() as copy:
        yield copy


@pytest.fixture
def sample_admin(sample_copy: Copy) -> Iterator[psycopg.Connection[Any]]:
    """The sample project without ours, as the superuser."""
    with sample_copy.connected(sample_copy.server.superuser_dsn) as connection:
        yield connection


@pytest.fixture
def sample_db(sample_copy: Copy) -> Iterator[psycopg.Connection[Any]]:
    """The sample project without ours, as role postgres."""
    with sample_copy.connected(sample_copy.server.dsn) as connection:
        yield connection


@pytest.fixture(scope="session")
def project_copies(
    postgres_server: PostgresServer, project_template: SimpleNamespace
) -> Iterator[Copies]:
    """Copies of the sample project with ours."""
    with closing(Copies(postgres_server, project_template.template_dbname)) as copies:
        yield copies


@pytest.fixture(scope="session")
def clocked_copies(
    postgres_server: PostgresServer, clocked_template: SimpleNamespace
) -> Iterator[Copies]:
    """Copies of the sample project with ours, on the shared clock."""
    with closing(Copies(postgres_server, clocked_template.template_dbname)) as copies:
        yield copies


@pytest.fixture
def project_copy(request: pytest.FixtureRequest) -> Iterator[Copy]:
    """A database for one test, on the shared clock if the test asks for `clock`."""
    wanted = "clocked_copies" if "clock" in request.fixturenames else "project_copies"
    copies: Copies = request.getfixturevalue(wanted)
    with copies.lent() as copy:
        yield copy


@pytest.fixture
def project_admin(project_copy: Copy) -> Iterator[psycopg.Connection[Any]]:
    """The sample project with ours, as the superuser."""
    with project_copy.connected(project_copy.server.superuser_dsn) as connection:
        yield connection


@pytest.fixture
def project_db(project_copy: Copy) -> Iterator[psycopg.Connection[Any]]:
    """The sample project with ours, as role postgres."""
    with project_copy.connected(project_copy.server.dsn) as connection:
        connection.row_factory = dict_row
        yield connection


@dataclass
class Project:
    """A sample project that answers over HTTP, and its owner's connection."""

    url: str
    rest_url: str
    keys: ApiKeys = field(repr=False)
    jwt_secret: str = field(repr=False)
    db: psycopg.Connection[Any] = field(repr=False)
    admin: psycopg.Connection[Any] = field(repr=False)
    gateway: Gateway = field(repr=False)

    def connect(self, **options: Any) -> backfill.Backfill:
        """The blocking face, with the service key."""
        return backfill.connect(self.url, self.keys.service_role, **options)

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """The rows of a query, as the owner sees them."""
        return self.db.execute(query.encode(), values).fetchall()

    def value(self, query: str, *values: object) -> Any:
        """The one value of a query."""
        row = self.db.execute(query.encode(), values).fetchone()
        return next(iter(row.values())) if row else None

    def reload(self) -> None:
        """Tell PostgREST that the schema changed, and wait until it knows."""
        marker = f"reloaded_{uuid4().hex}"
        self.db.execute(
            f"create function public.{marker}() returns int language sql as 'select 1';"
            "notify pgrst, 'reload schema'".encode()
        )
        self.wait_for_function(marker)

    def wait_for_function(self, name: str) -> None:
        """Wait until PostgREST offers a function."""
        import httpx

        headers = {
            "apikey": self.keys.service_role,
            "Authorization": f"Bearer {self.keys.service_role}",
        }
        ends = time.monotonic() + SEES_WITHIN_S
        with httpx.Client(base_url=self.rest_url, headers=headers) as api:
            while time.monotonic() < ends:
                if api.post(f"/rpc/{name}", json={}).status_code != 404:
                    return
                # It compares the name with every function's, to propose another.
                time.sleep(LOOK_S)
        raise AssertionError(f"PostgREST never saw {name}")

    def user(self, role: str | None, email: str = "") -> str:
        """Add an Auth user with a backfill role. Returns the user's access token."""
        user_id = str(uuid4())
        meta: dict[str, Any] = {"backfill_role": role} if role else {}
        address = email or f"{role or 'nobody'}-{user_id[:8]}@example.org"
        self.db.execute(
            "insert into auth.users (id, email, raw_app_meta_data) values (%s, %s, %s)",
            (user_id, address, Jsonb(meta)),
        )
        return mint_user_token(self.jwt_secret, user_id, address, meta)

    def approve(self, plan: backfill.Plan) -> None:
        """Approve as a person does in the SQL editor."""
        self.db.execute("select public.backfill_approve(%s, %s, 'Ada')", (plan.run_id, plan.digest))


@pytest.fixture
def project(
    project_copy: Copy,
    project_db: psycopg.Connection[Any],
    project_admin: psycopg.Connection[Any],
) -> Iterator[Project]:
    """A sample project for one test, behind PostgREST and the gateway."""
    rest, jwt_secret = project_copy.served(), project_copy.jwt_secret
    with behind_gateway(rest, jwt_secret, project_db, project_admin) as project:
        yield project


@pytest.fixture(scope="module")
def shared_copy(project_copies: Copies) -> Iterator[Copy]:
    """A database for the tests of a module that change nothing."""
    with project_copies.lent() as copy:
        yield copy


@pytest.fixture(scope="module")
def shared_project(shared_copy: Copy) -> Iterator[Project]:
    """A sample project for the tests of a module that change nothing: see `nothing_changes`."""
    server, jwt_secret = shared_copy.server, shared_copy.jwt_secret
    with (
        shared_copy.connected(server.dsn) as db,
        shared_copy.connected(server.superuser_dsn) as admin,
        behind_gateway(shared_copy.served(), jwt_secret, db, admin) as project,
    ):
        db.row_factory = dict_row
        yield project


@pytest.fixture
def nothing_changes(shared_copy: Copy) -> Iterator[None]:
    """After the test every table, catalogs included, holds the same rows as before."""
    before = shared_copy.marked()
    yield
    assert shared_copy.changed(before) == set()


@contextmanager
def behind_gateway(
    rest: RestServer,
    jwt_secret: str,
    db: psycopg.Connection[Any],
    admin: psycopg.Connection[Any],
) -> Iterator[Project]:
    keys = ApiKeys.new(jwt_secret)
    with gateway_in_thread(rest.url, keys) as gateway:
        yield Project(gateway.url, rest.url, keys, jwt_secret, db, admin, gateway)


@contextmanager
def _served(
    server: PostgresServer, db: psycopg.Connection[Any], admin: psycopg.Connection[Any]
) -> Iterator[Project]:
    """A database that is not one of the copies, behind a PostgREST of its own."""
    jwt_secret = secrets.token_urlsafe(48)
    rest = RestServer.start(server.authenticator_dsn(db.info.dbname), jwt_secret)
    try:
        with behind_gateway(rest, jwt_secret, db, admin) as project:
            yield project
    finally:
        rest.stop()


@pytest.fixture
def bf(project: Project) -> Iterator[backfill.Backfill]:
    """The project's backfills, with the service key."""
    with project.connect() as connected:
        yield connected


@pytest.fixture
def clock(project_db: psycopg.Connection[Any]) -> DatabaseClock:
    """A clock that client and database share. It moves only when someone sleeps."""
    return DatabaseClock(project_db)


@pytest.fixture
def timed(project: Project, clock: DatabaseClock) -> Iterator[backfill.Backfill]:
    """The project's backfills on the shared clock: waiting takes no time."""
    with project.connect(clock=clock) as connected:
        yield connected


@pytest.fixture
def shell(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Shell:
    """The command line on the project, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    environment = {
        "SUPABASE_URL": project.url,
        "SUPABASE_SERVICE_ROLE_KEY": project.keys.service_role,
    }
    return Shell(monkeypatch, capsys, environment)


@pytest.fixture
def plain_shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line without any project."""
    return Shell(monkeypatch, capsys, {})
