"""Access tokens of Auth users, with and without a second factor."""

from __future__ import annotations

from typing import Any

import jwt

from backfill.local.keys import mint_user_token
from tests.conftest import Project


def token_of(project: Project, role: str | None, email: str, *, aal: str = "aal2") -> str:
    """The token of a user, who is made first if there is none with this address."""
    known = "select id::text from auth.users where email = %s"
    if project.value(known, email) is None:
        project.user(role, email)
    meta = {"backfill_role": role}
    return mint_user_token(project.jwt_secret, project.value(known, email), email, meta, aal=aal)


def changed(project: Project, token: str, *, secret: str = "", **claims: Any) -> str:
    """A token with other claims, signed anew. secret: of another project."""
    told = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode({**told, **claims}, secret or project.jwt_secret, "HS256")
