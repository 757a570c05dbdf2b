"""The servers under a scene, each of which can die and come back on the same port."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from backfill.local.gateway import gateway_in_thread
from backfill.local.keys import ApiKeys
from backfill.local.processes import end_process
from backfill.local.servers import PostgresServer, RestServer, ServerError
from tests.conftest import Project
from tests.faults import measures
from tests.faults.proxy import proxy_in_thread
from tests.faults.scenario import PATIENCE_S, Scene, Undisturbed
from tests.faults.subjects import Subject
from tests.kit.copies import Copies, Copy
from tests.kit.edge import served


@dataclass
class Stack:
    """PostgreSQL, one database of it, and the PostgREST in front of that database."""

    server: PostgresServer
    copy: Copy

    @property
    def dsn(self) -> str:
        """Where the owner of the database logs in."""
        return self.server.dsn(self.copy.name)

    @property
    def rest(self) -> RestServer:
        """The one that runs now, or the last that did."""
        return self.copy.served()

    def connected(self) -> psycopg.Connection[Any]:
        """The owner's connection."""
        return psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)

    def kill_rest(self) -> None:
        """PostgREST is gone, with whatever it had not yet answered."""
        end_process(self.rest.process, signal.SIGKILL)

    def start_rest(self) -> None:
        """PostgREST is back."""
        uri = self.server.authenticator_dsn(self.copy.name)
        self.copy.rest = RestServer.start(uri, self.copy.jwt_secret, port=self.rest.port)

    def rotate_secret(self) -> ApiKeys:
        """PostgREST is started anew and knows another JWT secret; the keys that it signs."""
        self.copy.jwt_secret = secrets.token_urlsafe(48)
        self.kill_rest()
        self.start_rest()
        return ApiKeys.new(self.copy.jwt_secret)

    def end_postgres(self) -> None:
        """PostgreSQL is told to end: what is under way is rolled back, nothing to recover."""
        self.server.stop()

    def kill_postmaster(self) -> None:
        """PostgreSQL's first process is killed; the others notice and end."""
        end_process(self.server.process, signal.SIGKILL)

    def kill_postgres(self) -> None:
        """PostgreSQL stops at once, as after a crash: it will have to recover."""
        end_process(self.server.process, signal.SIGQUIT)

    def start_postgres(self) -> None:
        """PostgreSQL is back, recovered, as soon as no process of the old one is left."""
        old, deadline = self.server, time.monotonic() + PATIENCE_S
        while self.server is old:
            try:
                self.server = PostgresServer.start(old.data_dir, port=old.port, secrets=old.secrets)
            except ServerError:
                if time.monotonic() > deadline:
                    raise


def make_template(server: PostgresServer, sessions: int, subject: Subject) -> str:
    """A database to copy: the sample, the common clock, the counting scorers. Its name."""
    name = f"faults_of_{sessions}_{subject.name}"
    server.create_database(name)
    subject.load(server.dsn(name), sessions)
    with psycopg.connect(server.dsn(name), autocommit=True, row_factory=dict_row) as db:
        measures.prepare(db, subject)
    return name


@contextmanager
def scene_on(
    copies: Copies, subject: Subject, undisturbed: Undisturbed | None = None
) -> Iterator[tuple[Scene, Stack]]:
    """A scene on a copy. undisturbed: None if that is not yet known."""
    with copies.lent() as copy:
        stack = Stack(copy.server, copy)
        keys = ApiKeys.new(copy.jwt_secret)
        with (
            gateway_in_thread(stack.rest.url, keys) as gateway,
            proxy_in_thread(gateway.url) as proxy,
            stack.connected() as db,
            copy.connected(copy.server.superuser_dsn) as admin,
        ):
            project = Project(
                gateway.url, stack.rest.url, keys, copy.jwt_secret, db, admin, gateway
            )
            before = measures.content(db, subject.tables)
            after = undisturbed.after if undisturbed else before
            with scored_by(project, subject):
                yield Scene(project, proxy, stack.dsn, before, after, subject), stack


@contextmanager
def scored_by(project: Project, subject: Subject) -> Iterator[None]:
    """The functions that score, where they are not the database's own."""
    if not subject.served:
        yield
        return
    with served(project, subject.functions):
        yield


def disturb_nothing(copies: Copies, subject: Subject) -> Undisturbed:
    """What a run leaves that nobody disturbs, from a twin database."""
    with scene_on(copies, subject) as (twin, _):
        run_id = twin.planned(throttle_per_minute="none", mode=twin.quickest_mode)
        assert twin.apply(run_id, url=twin.project.url).is_complete
        return Undisturbed(twin.content())
