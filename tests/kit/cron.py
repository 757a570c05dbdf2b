"""Debian's PostgreSQL 15 with the real pg_cron, and a sample project with ours in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from backfill.local import sample, servers
from backfill.local.servers import PostgresServer
from tests.kit.debian import BIN, EXTENSIONS, absent
from tests.kit.folders import server_folder

Db = psycopg.Connection[Any]
# Its workers log in without a password, as on a hosted project.
SETTINGS = {"shared_preload_libraries": "pg_cron", "cron.use_background_workers": "on"}
# As a hosted project has it for postgres.
ENABLED = (
    b"create extension pg_cron; grant usage on schema cron to postgres;"
    b"grant select on cron.job, cron.job_run_details to postgres"
)


@contextmanager
def cron_project(sessions: int | str) -> Iterator[PostgresServer]:
    """A server whose database postgres has the sample, ours and pg_cron. Skips without pg_cron."""
    if not (BIN / "postgres").exists() or not (EXTENSIONS / "pg_cron.control").exists():
        absent("Debian's pg_cron is not here", "apt-get install postgresql-15-cron")
    folder = server_folder()
    with pytest.MonkeyPatch.context() as patch:
        for name, given in SETTINGS.items():
            patch.setitem(servers.SETTINGS, name, given)
        server = PostgresServer.start(folder / "data", postgres_bin=BIN)
    try:
        sample.load(server.dsn(), sessions)
        with psycopg.connect(server.superuser_dsn(), autocommit=True) as admin:
            admin.execute(ENABLED)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def connected(server: PostgresServer) -> Db:
    """The owner's connection."""
    return psycopg.connect(server.dsn(), autocommit=True, row_factory=dict_row)
