"""A project whose gateway answers /auth/v1, and its users."""

from __future__ import annotations

import time

from backfill.local.auth import TOTP_STEP_S, Auth, calling, totp
from tests.conftest import Project
from tests.kit.copies import Copy

ADA, PASSWORD = "ada@example.org", "correct horse"


def with_auth(project: Project, copy: Copy) -> Project:
    """The project, with Auth and with the approver Ada."""
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
