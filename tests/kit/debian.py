"""Debian's PostgreSQL 15 with pgTAP, plpgsql_check and the sample project with ours."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest

from backfill.local import sample
from backfill.local.parts import open_temp_root
from backfill.local.servers import PostgresServer

BIN = Path("/usr/lib/postgresql/15/bin")
EXTENSIONS = Path("/usr/share/postgresql/15/extension")
# A file that has to be there -> the package that brings it.
NEEDED = {
    BIN / "postgres": "postgresql-15",
    BIN / "psql": "postgresql-client-15",
    EXTENSIONS / "pgtap.control": "postgresql-15-pgtap",
    EXTENSIONS / "plpgsql_check.control": "postgresql-15-plpgsql-check",
}


def absent(what: str, way_out: str) -> NoReturn:
    """Skip, and say what is missing and how to get it. In CI all has to be there: fail."""
    reason = f"{what}; {way_out}"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI skips nothing")
    pytest.skip(reason)


@contextmanager
def running_project() -> Iterator[PostgresServer]:
    """A server with the sample project, ours and plpgsql_check in its database postgres."""
    packages = [package for place, package in NEEDED.items() if not place.exists()]
    if packages:
        absent("Debian's PostgreSQL 15 is not whole here", f"apt-get install {' '.join(packages)}")
    folder = open_temp_root() / f"backfill-debian-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o755)
    server = PostgresServer.start(folder / "data", postgres_bin=BIN)
    try:
        sample.load(server.dsn(), sample.SEED)
        with psycopg.connect(server.superuser_dsn(), autocommit=True) as connection:
            connection.execute("create extension plpgsql_check with schema extensions")
        yield server
    finally:
        server.stop()
