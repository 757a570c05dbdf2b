"""The servers of the embedded stack: PostgreSQL and PostgREST, each one child process.

Both listen only on the loopback, and end when their parent ends in any way. Linux ties a child to
the thread that started it, so start them from a thread that lives as long as they should.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.resources
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar, Protocol, TypeVar

import psycopg
from psycopg import sql

from backfill.errors import BackfillError
from backfill.local.parts import find_postgres, find_postgrest, open_temp_root, server_account
from backfill.local.processes import end_process, spawn

HOST = "127.0.0.1"
SUPERUSER = "supabase_admin"
START_TIMEOUT_S = 60.0
POLL_S = 0.02
# A free port can be taken between our look and the server's bind.
PORT_ATTEMPTS = 3
LOG_TAIL_BYTES = 2000


class _Answering(Protocol):
    """A server that says whether it answers."""

    @property
    def program(self) -> str: ...
    @property
    def process(self) -> subprocess.Popen[bytes]: ...
    def answers(self) -> bool: ...
    def stop(self) -> None: ...


Server = TypeVar("Server", bound=_Answering)

# A throw-away stack has to survive a killed server, not a power cut. So nothing waits for the
# disk, while every commit still leaves the server's memory (synchronous_commit stays on).
FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
}
SETTINGS = {
    "listen_addresses": HOST,
    # A path for a socket could be too long or closed. TCP works everywhere.
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # Compiling the plans of small tables takes ten times as long as running them.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A failed statement may carry a password or a row.
    "log_min_error_statement": "panic",
}
REST_LIMITS = {
    "PGRST_DB_SCHEMAS": "public",
    "PGRST_DB_EXTRA_SEARCH_PATH": "public, extensions",
    "PGRST_DB_ANON_ROLE": "anon",
    "PGRST_DB_MAX_ROWS": "1000",
    "PGRST_DB_POOL": "10",
    "PGRST_DB_CHANNEL_ENABLED": "true",
    "PGRST_LOG_LEVEL": "error",
    "PGRST_SERVER_HOST": HOST,
    "LC_ALL": "C.UTF-8",
}


class ServerError(BackfillError):
    """A server of the stack did not start. The end of its log is in the message."""


@dataclass(frozen=True)
class DatabaseSecrets:
    """The passwords of the roles that log in, random for each cluster."""

    supabase_admin: str = field(default_factory=secrets.token_urlsafe, repr=False)
    postgres: str = field(default_factory=secrets.token_urlsafe, repr=False)
    authenticator: str = field(default_factory=secrets.token_urlsafe, repr=False)


@dataclass(frozen=True)
class PostgresServer:
    """A running PostgreSQL with the platform of a hosted project in database `postgres`."""

    program: ClassVar[str] = "PostgreSQL"
    process: subprocess.Popen[bytes] = field(repr=False)
    data_dir: Path
    port: int
    secrets: DatabaseSecrets
    host: str = HOST

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        port: int | None = None,
        fast: bool = True,
        secrets: DatabaseSecrets | None = None,
        old_privileges: bool = False,
        postgres_bin: Path | None = None,
        log: IO[bytes] | None = None,
    ) -> PostgresServer:
        """Start on `data_dir`, which is made if it is absent, and wait until it answers.

        secrets: needed again to restart on a `data_dir` that was made before.
        old_privileges: open new tables to the API roles, as projects before 2026-10-30 do.
        Raises PartMissing, ServerError, and ValueError for existing data without its secrets.
        """
        bin_dir = postgres_bin or find_postgres()
        is_new = not (data_dir / "PG_VERSION").exists()
        if secrets is None and not is_new:
            raise ValueError(f"{data_dir} holds a cluster: pass the secrets it was made with")
        passwords = secrets or DatabaseSecrets()
        if is_new:
            _make_cluster(bin_dir, data_dir, passwords.supabase_admin)
        settings = SETTINGS | (FAST_SETTINGS if fast else {})

        def launch(chosen_port: int, server_log: IO[bytes]) -> PostgresServer:
            options = {**settings, "port": str(chosen_port)}
            arguments = [f"--{name}={value}" for name, value in options.items()]
            command = [str(bin_dir / "postgres"), "-D", str(data_dir), *arguments]
            environment = _server_environment(bin_dir)
            process = spawn(command, environment, server_log, death_signal=signal.SIGQUIT)
            return cls(process, data_dir, chosen_port, passwords)

        server = start_answering(launch, port, log)
        if is_new:
            with _stopped_on_error(server):
                server._set_up_cluster()
                server.install_platform("postgres", old_privileges=old_privileges)
        return server

    def superuser_dsn(self, dbname: str = "postgres") -> str:
        """The URL for `supabase_admin`, the superuser that users of a hosted project lack."""
        return self._dsn(SUPERUSER, self.secrets.supabase_admin, dbname)

    def authenticator_dsn(self, dbname: str = "postgres") -> str:
        """The URL for PostgREST."""
        return self._dsn("authenticator", self.secrets.authenticator, dbname)

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """The URL for a role with a password: postgres, authenticator or supabase_admin."""
        password: str = getattr(self.secrets, user)
        return self._dsn(user, password, dbname)

    def create_database(
        self, name: str, template: str | None = None, *, old_privileges: bool = False
    ) -> None:
        """Make a database that `postgres` owns: a copy of `template`, else a bare platform."""
        create = sql.SQL("create database {} owner postgres template {}")
        self._run(create.format(sql.Identifier(name), sql.Identifier(template or "template1")))
        if template is None:
            self.install_platform(name, old_privileges=old_privileges)

    def drop_database(self, name: str) -> None:
        """Drop the database if it is there, even if anyone is connected to it."""
        drop = sql.SQL("drop database if exists {} with (force)")
        self._run(drop.format(sql.Identifier(name)))

    def install_platform(self, dbname: str, *, old_privileges: bool = False) -> None:
        """Put into the database what a hosted project has before its first migration."""
        self._run(_platform_sql("platform.sql"), dbname)
        self._run(_platform_sql("auth.sql"), dbname)
        if old_privileges:
            self._run(_platform_sql("platform_old_privileges.sql"), dbname)

    def stop(self) -> None:
        """End the server and its sessions. Safe to call twice. The data stay."""
        end_process(self.process, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    def _set_up_cluster(self) -> None:
        self._run(_platform_sql("platform_roles.sql"))
        for role in ("postgres", "authenticator"):
            password = sql.Literal(getattr(self.secrets, role))
            change = sql.SQL("alter role {} password {}")
            self._run(change.format(sql.Identifier(role), password))

    def _run(self, statement: bytes | sql.Composed, dbname: str = "postgres") -> None:
        with psycopg.connect(self.superuser_dsn(dbname), autocommit=True) as connection:
            connection.execute(statement)

    def _dsn(self, user: str, password: str, dbname: str) -> str:
        return f"postgresql://{user}:{password}@{self.host}:{self.port}/{dbname}"

    def answers(self) -> bool:
        """Whether the superuser can log in."""
        try:
            psycopg.connect(self.superuser_dsn(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@dataclass(frozen=True)
class RestServer:
    """A running PostgREST under the limits of a hosted project."""

    program: ClassVar[str] = "PostgREST"
    process: subprocess.Popen[bytes] = field(repr=False)
    port: int
    admin_port: int
    host: str = HOST

    @classmethod
    def start(
        cls,
        db_uri: str,
        jwt_secret: str,
        *,
        port: int | None = None,
        extra_env: Mapping[str, str] | None = None,
        postgrest: Path | None = None,
        log: IO[bytes] | None = None,
    ) -> RestServer:
        """Start on the database, logging in as `authenticator`, and wait until it is ready.

        jwt_secret: at least 32 characters. extra_env: PGRST_… settings that win over the limits.
        Raises PartMissing, ServerError.
        """
        program = postgrest or find_postgrest()
        settings = REST_LIMITS | {"PGRST_DB_URI": db_uri, "PGRST_JWT_SECRET": jwt_secret}

        def launch(chosen_port: int, server_log: IO[bytes]) -> RestServer:
            admin_port = free_port()
            ports = {
                "PGRST_SERVER_PORT": str(chosen_port),
                "PGRST_ADMIN_SERVER_PORT": str(admin_port),
            }
            environment = {**settings, **ports, **(extra_env or {})}
            process = spawn([str(program)], environment, server_log, death_signal=signal.SIGKILL)
            return cls(process, chosen_port, admin_port)

        return start_answering(launch, port, log)

    @property
    def url(self) -> str:
        """The root of the API, without the gateway."""
        return f"http://{self.host}:{self.port}"

    def stop(self) -> None:
        """End the server. Safe to call twice."""
        end_process(self.process, signal.SIGTERM, signal.SIGKILL)

    def answers(self) -> bool:
        """Whether it is connected and knows the schema."""
        connection = http.client.HTTPConnection(self.host, self.admin_port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/ready")
                return connection.getresponse().status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False


def free_port(preferred: int | None = None) -> int:
    """A free loopback TCP port: the preferred one if it is free. Raises ServerError."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError(f"No TCP port is free on {HOST}.", "end what holds the ports, then try again")


def start_answering(
    launch: Callable[[int, IO[bytes]], Server], port: int | None, log: IO[bytes] | None
) -> Server:
    """Launch until the server answers. If it loses a port that we chose, we choose another.

    Raises ServerError with the end of its log.
    """
    with contextlib.ExitStack() as owned:
        server_log = log or owned.enter_context(tempfile.TemporaryFile())
        for _ in range(1 if port else PORT_ATTEMPTS):
            server = launch(port or free_port(), server_log)
            with _stopped_on_error(server):
                if _answers_in_time(server):
                    return server
        raise ServerError(f"{server.program} ended at once:\n{_tail(server_log)}")


def _answers_in_time(server: Server) -> bool:
    """Wait until the server answers. False if it ended instead. Raises ServerError when late."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            return False
        if server.answers():
            return True
        time.sleep(POLL_S)
    raise ServerError(
        f"{server.program} did not answer within {START_TIMEOUT_S:.0f} s.", "try again"
    )


@contextlib.contextmanager
def _stopped_on_error(server: Server) -> Iterator[Server]:
    try:
        yield server
    except BaseException:
        server.stop()
        raise


def _make_cluster(bin_dir: Path, data_dir: Path, superuser_password: str) -> None:
    """Run initdb beside the final place and rename, so that a half-made cluster is never used."""
    making = data_dir.with_name(f"{data_dir.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True, mode=0o700)
    _give_to_server_account(making)
    with tempfile.NamedTemporaryFile(dir=open_temp_root()) as password_file:
        password_file.write(superuser_password.encode())
        password_file.flush()
        _give_to_server_account(Path(password_file.name))
        _initdb(bin_dir, making, Path(password_file.name))
    making.rename(data_dir)


def _initdb(bin_dir: Path, data_dir: Path, password_file: Path) -> None:
    command = [str(bin_dir / "initdb"), "-D", str(data_dir), "-U", SUPERUSER, "-E", "UTF8"]
    command += ["--auth=scram-sha-256", f"--pwfile={password_file}"]
    command += ["--no-sync", "--no-instructions"]
    # Not every system has the first one.
    for locale in ("C.UTF-8", "C"):
        with tempfile.TemporaryFile() as log:
            full_command = [*command, f"--locale={locale}"]
            environment = _server_environment(bin_dir)
            process = spawn(full_command, environment, log, death_signal=signal.SIGKILL)
            if process.wait() == 0:
                return
            failure = _tail(log)
    raise ServerError(f"The program initdb failed:\n{failure}")


def _server_environment(bin_dir: Path) -> dict[str, str]:
    """Nothing of the caller's environment, which may hold PG… variables or a key."""
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    # If the wheel brings its own ICU data, its build does not find them by itself.
    icu_data = bin_dir.parent / "share" / "icu"
    return environment | ({"ICU_DATA": str(icu_data)} if icu_data.is_dir() else {})


def _give_to_server_account(place: Path) -> None:
    account = server_account()
    if account:
        os.chown(place, account.user_id, account.group_id)


def _platform_sql(name: str) -> bytes:
    return (importlib.resources.files("backfill.local") / name).read_bytes()


def _tail(log: IO[bytes]) -> str:
    """The last lines of a server's log."""
    log.seek(0)
    return log.read()[-LOG_TAIL_BYTES:].decode(errors="replace")
