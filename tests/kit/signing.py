"""A project whose gateway answers /auth/v1, and its users."""

from __future__ import annotations

import os
import time
from typing import Any

import psycopg
import pytest

from backfill.local.auth import TOTP_STEP_S, Auth, calling, totp
from backfill.local.parts import POSTGRES_BIN_VARIABLE
from tests.conftest import Project
from tests.kit.copies import Copy

ADA, PASSWORD = "ada@example.org", "correct horse"


def needs_pgcrypto(db: psycopg.Connection[Any]) -> None:
    """Skip if this PostgreSQL lacks the module in which the stack's Auth keeps passwords.

    Hosted projects and Debian's packages have it. The wheel of the newest major does not, so only
    a server that somebody chose may do without.
    """
    known = "select 1 from pg_available_extensions where name = 'pgcrypto'"
    if db.execute(known).fetchone() is None:
        assert POSTGRES_BIN_VARIABLE in os.environ, "the suite's own PostgreSQL has no pgcrypto"
        pytest.skip("this PostgreSQL has no pgcrypto")


def with_auth(project: Project, copy: Copy) -> Project:
    """The project, with Auth and with the approver Ada."""
    needs_pgcrypto(project.db)
    project.gateway.auth = Auth(copy.server.dsn(copy.name), project.jwt_secret)
    add_user(project)
    return project


def add_user(
    project: Project,
    email: str = ADA,
    *,
    password: str = PASSWORD,
    role: str | None = "approver",
    secret: str | None = None,
) -> None:
    """Add a user, or change one. secret: of a second factor."""
    values = (email, password, role, secret)
    project.db.execute(calling("local_add_user", values), values)


def code_now(secret: str) -> str:
    """The code that an authenticator app shows."""
    return totp(secret, int(time.time()) // TOTP_STEP_S)
