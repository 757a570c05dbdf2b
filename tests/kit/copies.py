"""Databases to test in: copies of a template, each used again once its rows are put back.

A new copy and its PostgREST take a third of a second, putting rows back some hundredths. A test
always finds a copy equal to the template. A copy is dropped, and the next test gets a new one, if a
test changed what cannot be taken back (see definitions.py), if PostgREST has read what it defined,
or if a session is still busy in it. A session of a test serves the next one too, since PostgreSQL
compiles our functions anew in each session, which is slower than to use them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from backfill.local.servers import PostgresServer, RestServer
from tests.kit import definitions
from tests.kit.definitions import Definitions

# Each connection of PostgREST compiles our functions anew, which takes it longer than to use them.
CONNECTIONS = 2
HOSTED = 10
# What `discard all` does, but for the plans: a session keeps the functions that it compiled.
RESET = b"""
close all; set session authorization default; reset role; reset all; unlisten *;
select pg_advisory_unlock_all(); discard temp; discard sequences; deallocate all
"""
# Dead rows of earlier uses would make later ones slow.
USES_PER_VACUUM = 50
IDLE_WITHIN_S = 2.0
LOOK_S = 0.01

# Catalogs that ANALYZE and autovacuum write by themselves, or that only mirror others.
NOT_COMPARED = ("pg_statistic", "pg_statistic_ext_data", "pg_depend", "pg_shdepend")
# Of the catalogs that all databases share, only the rows about this database.
SHARED = {
    "pg_database": "datname = current_database()",
    "pg_db_role_setting": "setdatabase in (0, (select oid from pg_database"
    " where datname = current_database()))",
}
TEMPORARY = {"pg_namespace": definitions.TEMPORARY}

TABLES = """
select c.oid::regclass::text as name, c.relnamespace = 'pg_catalog'::regnamespace as is_catalog
from pg_class as c
where c.relkind = 'r'
  and c.relpersistence <> 't'
  and not c.relisshared
  and c.relnamespace <> 'information_schema'::regnamespace
  and c.relname <> all(%s)
"""
COLUMNS = """
select attname
from pg_attribute
where attrelid = %s::regclass and attnum > 0 and not attisdropped and attgenerated = ''
order by attnum
"""
SEQUENCES = "select oid::regclass::text from pg_class where relkind = 'S'"
# Sessions that a test left open are ended. PostgREST's own stay and have to become idle. %s: those
# that the copy keeps.
BUSY = """
select count(case when usename = 'authenticator' then 1 else pg_terminate_backend(pid)::int end)
from pg_stat_activity
where datname = current_database()
  and pid <> all(%s)
  and backend_type = 'client backend'
  and (usename <> 'authenticator' or state <> 'idle')
"""

Admin = psycopg.Connection[Any]
# Name, last value, and whether it was given.
Sequence = tuple[str, int, bool]


class Spoilt(Exception):
    """Putting rows back cannot make this copy equal to the template."""


@dataclass(frozen=True)
class Mark:
    """A moment of a database. xid: its transaction. counts: rows by table, catalogs included."""

    xid: str
    counts: dict[str, int]


@dataclass
class Copy:
    """A database that belongs to one test while the test has it.

    keeper: a superuser's session that lasts as long as the copy. counting: its query about the
    tables of the template. fresh: when the copy last equalled the template. connections: of its
    PostgREST, at most. sessions: of earlier tests, by login, each as good as new. reloads: what
    PostgREST was told. read: the PostgREST that read the definitions of the template. moments: what
    tests/kit/moments.py remembers.
    """

    lent: ClassVar[dict[str, Copy]] = {}

    server: PostgresServer
    name: str
    keeper: Admin = field(repr=False)
    counting: str = field(repr=False)
    fresh: Mark = field(repr=False)
    connections: int = CONNECTIONS
    jwt_secret: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    content: Content = field(init=False, repr=False)
    rest: RestServer | None = None
    read: RestServer | None = None
    uses: int = 0
    sessions: dict[str, list[Admin]] = field(default_factory=dict, repr=False)
    reloads: list[psycopg.Notify] = field(default_factory=list, repr=False)
    moments: dict[str, object] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, server: PostgresServer, template: str, connections: int) -> Copy:
        """A new copy."""
        name = f"{template}_{uuid4().hex}"
        copy_database(server, name, template)
        keeper = psycopg.connect(server.superuser_dsn(name), autocommit=True)
        counting = _counting([table for table, _ in _tables(keeper)])
        copy = cls(server, name, keeper, counting, _marked(keeper, counting), connections)
        keeper.add_notify_handler(copy.reloads.append)
        keeper.execute("listen pgrst")
        return copy

    def served(self) -> RestServer:
        """The PostgREST in front of it, started at first use."""
        if self.rest is None:
            self.rest = RestServer.start(
                self.server.authenticator_dsn(self.name),
                self.jwt_secret,
                extra_env={"PGRST_DB_POOL": str(self.connections)},
            )
            if not self.changed(self.fresh):
                self.read = self.rest
        return self.rest

    @contextmanager
    def connected(self, dsn: Callable[[str], str]) -> Iterator[Admin]:
        """A session that nobody else has. dsn: a method of the server, which decides the role."""
        login = dsn(self.name)
        free = self.sessions.get(login)
        session = free.pop() if free else psycopg.connect(login, autocommit=True)
        try:
            yield session
        finally:
            if Copy.lent.get(self.name) is self:
                self.sessions.setdefault(login, []).append(session)
            else:
                session.close()  # it outlasted the test, so nobody has made it as good as new

    def reset_sessions(self) -> list[int]:
        """Make each session as good as new, or close it. Returns the processes of those kept."""
        kept = [self.keeper]
        for login, free in self.sessions.items():
            self.sessions[login] = [session for session in free if _reset(session)]
            kept += self.sessions[login]
        return [session.info.backend_pid for session in kept]

    def marked(self) -> Mark:
        """This moment."""
        return _marked(self.keeper, self.counting)

    def changed(self, since: Mark) -> set[str]:
        """The tables whose rows changed since, catalogs included. An update leaves a newer row.

        A new table shows as a change of the catalog.
        """
        counted = self.keeper.execute(self.counting.encode(), (since.xid,), prepare=True)
        return {name for name, rows, newer in counted if newer or rows != since.counts[name]}

    def is_alive(self) -> bool:
        """Whether its servers are: a test may have killed PostgreSQL since, which all share."""
        with suppress(psycopg.OperationalError):
            self.keeper.execute("select")
            return self.rest is None or self.rest.process.poll() is None
        return False

    def drop(self) -> None:
        """Drop the database and stop its PostgREST."""
        for session in chain([self.keeper], *self.sessions.values()):
            session.close()
        if self.rest is not None:
            self.rest.stop()
        self.server.drop_database(self.name)


def copy_database(server: PostgresServer, name: str, template: str) -> None:
    """Copy a template's files, which is several times faster here than to log every page."""
    create = sql.SQL("create database {} owner postgres template {} strategy file_copy")
    with psycopg.connect(server.superuser_dsn(), autocommit=True) as admin:
        admin.execute(create.format(sql.Identifier(name), sql.Identifier(template)))


@dataclass(frozen=True)
class Content:
    """What the tables of a template hold."""

    rows: dict[str, bytes]
    sequences: list[Sequence]
    definitions: Definitions

    @classmethod
    def read(cls, admin: Admin) -> Content:
        """Read it from an unused copy."""
        tables = _tables(admin)
        rows = {name: read_rows(admin, name) for name, is_catalog in tables if not is_catalog}
        catalogs = [name for name, is_catalog in tables if is_catalog]
        return cls(rows, sequences(admin), Definitions.read(admin, catalogs))


class Copies:
    """The copies of one template."""

    def __init__(
        self, server: PostgresServer, template: str, connections: int = CONNECTIONS
    ) -> None:
        self._server = server
        self._connections = connections
        self._name = template
        self._content: Content | None = None
        self._free: list[Copy] = []

    @contextmanager
    def lent(self) -> Iterator[Copy]:
        """Lend a copy that equals the template."""
        while self._free and not self._free[-1].is_alive():
            self._free.pop().drop()
        copy = self._free.pop() if self._free else self._new()
        Copy.lent[copy.name] = copy
        try:
            yield copy
        finally:
            del Copy.lent[copy.name]
            self._take_back(copy)

    def close(self) -> None:
        """Drop every copy."""
        while self._free:
            self._free.pop().drop()

    def _new(self) -> Copy:
        copy = Copy.of(self._server, self._name, self._connections)
        self._content = self._content or Content.read(copy.keeper)
        copy.content = self._content
        return copy

    def _take_back(self, copy: Copy) -> None:
        copy.uses += 1
        try:
            _restore(copy)
        except (Spoilt, psycopg.Error):
            copy.drop()
        else:
            self._free.append(copy)


def _restore(copy: Copy) -> None:
    """Make a used copy equal to the template. Raises Spoilt or psycopg.Error if it cannot."""
    admin, content = copy.keeper, copy.content
    if copy.rest is not None and copy.rest.process.poll() is not None:
        raise Spoilt
    _wait_until_idle(admin, copy.reset_sessions())
    changed = copy.changed(copy.fresh)
    if not changed <= content.rows.keys():
        _put_definitions_back(copy)
    with admin.transaction():
        admin.execute("set local session_replication_role = replica; set local lock_timeout = '2s'")
        for table in changed & content.rows.keys():
            admin.execute(f"delete from {table}".encode())
            write_rows(admin, table, content.rows[table])
        for sequence in content.sequences:
            admin.execute("select setval(%s, %s, %s)", sequence)
        # The counts still hold: there are as many rows as before.
        copy.fresh = Mark(_current_xid(admin), copy.fresh.counts)
    if copy.uses % USES_PER_VACUUM == 0:
        admin.execute("vacuum")


def _put_definitions_back(copy: Copy) -> None:
    """Raises Spoilt if they cannot be, or PostgREST has read the test's."""
    if copy.reloads or copy.rest is not copy.read:
        raise Spoilt
    admin, content = copy.keeper, copy.content
    with admin.transaction():
        admin.execute("set local session_replication_role = replica; set local lock_timeout = '2s'")
        content.definitions.put_back(admin, copy.fresh.xid)
    if not content.definitions.are_in(admin, copy.changed(copy.fresh) - content.rows.keys()):
        raise Spoilt


def _current_xid(admin: Admin) -> str:
    return str(_value(admin, "select pg_current_xact_id()::xid::text"))


def _marked(admin: Admin, counting: str) -> Mark:
    xid = _current_xid(admin)
    counted = admin.execute(counting.encode(), (xid,), prepare=True)
    return Mark(xid, {name: rows for name, rows, _ in counted})


def _tables(admin: Admin) -> list[tuple[str, bool]]:
    """Every table, and whether it is one of the catalog's."""
    return admin.execute(TABLES, (list(NOT_COMPARED),)).fetchall()


def _counting(tables: list[str]) -> str:
    """The query for each table: its rows, and how many are newer than a transaction."""
    conditions = {**dict.fromkeys(tables, "true"), **TEMPORARY, **SHARED}
    counts = [
        f"select '{name}', count(*), count(*) filter (where age(xmin) < (select age from since))"
        f" from {name} where {condition}"
        for name, condition in conditions.items()
    ]
    since = "with since as materialized (select age(%s::xid) as age) "
    return since + " union all ".join(counts)


def _reset(session: Admin) -> bool:
    """Make it as good as new. False if that cannot be, and it is closed."""
    if session.info.transaction_status != TransactionStatus.IDLE:
        session.close()
        return False
    session.autocommit, session.row_factory = True, tuple_row
    session.execute(RESET)
    return True


def _wait_until_idle(admin: Admin, kept: list[int]) -> None:
    deadline = time.monotonic() + IDLE_WITHIN_S
    while _value(admin, BUSY, kept):
        if time.monotonic() > deadline:
            raise Spoilt
        time.sleep(LOOK_S)


def _copied_columns(admin: Admin, table: str) -> str:
    names = [row[0] for row in admin.execute(COLUMNS, (table,)).fetchall()]
    return ", ".join(f'"{name}"' for name in names)


def read_rows(admin: Admin, table: str) -> bytes:
    """A table's rows, in PostgreSQL's binary form."""
    command = f"copy {table} ({_copied_columns(admin, table)}) to stdout (format binary)"
    with admin.cursor() as cursor, cursor.copy(command.encode()) as copied:
        return b"".join(bytes(block) for block in copied)


def write_rows(admin: Admin, table: str, rows: bytes) -> None:
    """Add rows to a table."""
    command = f"copy {table} ({_copied_columns(admin, table)}) from stdin (format binary)"
    with admin.cursor() as cursor, cursor.copy(command.encode()) as copied:
        copied.write(rows)


def sequences(admin: Admin) -> list[Sequence]:
    """Where each sequence stands."""
    found = []
    for (name,) in admin.execute(SEQUENCES).fetchall():
        row = admin.execute(f"select last_value, is_called from {name}".encode()).fetchone()
        assert row is not None
        found.append((name, *row))
    return found


def _value(admin: Admin, query: str, *values: object) -> Any:
    row = admin.execute(query.encode(), values).fetchone()
    assert row is not None
    return row[0]
