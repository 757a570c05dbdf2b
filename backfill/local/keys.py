"""Access to the API of the embedded stack: the project's keys, and the tokens of its users."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt

KEY_LIFETIME_S = 10 * 365 * 24 * 3600


@dataclass(frozen=True)
class ApiKeys:
    """The keys of one project: the two legacy JWTs and the two of the new style."""

    anon: str = field(repr=False)
    service_role: str = field(repr=False)
    publishable: str = field(repr=False)
    secret: str = field(repr=False)

    @classmethod
    def new(cls, jwt_secret: str) -> ApiKeys:
        """The keys of a new project, which nobody can guess."""
        return cls(
            anon=mint_api_key(jwt_secret, "anon"),
            service_role=mint_api_key(jwt_secret, "service_role"),
            publishable=f"sb_publishable_{secrets.token_urlsafe(24)}",
            secret=f"sb_secret_{secrets.token_urlsafe(24)}",
        )

    def knows(self, key: str) -> bool:
        """Whether the key is one of this project's."""
        return key in (self.anon, self.service_role, self.publishable, self.secret)

    def token_for(self, key: str) -> str | None:
        """The JWT that a key of the new style stands for. None for a legacy key."""
        return {self.publishable: self.anon, self.secret: self.service_role}.get(key)


def mint_api_key(jwt_secret: str, role: str) -> str:
    """A legacy API key: a JWT for one API role, valid for ten years."""
    now = int(time.time())
    claims = {"iss": "supabase", "ref": "local", "role": role}
    return jwt.encode({**claims, "iat": now, "exp": now + KEY_LIFETIME_S}, jwt_secret, "HS256")


def mint_user_token(
    jwt_secret: str,
    user_id: str,
    email: str,
    app_metadata: Mapping[str, Any],
    *,
    ttl_s: int = 3600,
    session_id: str | None = None,
    aal: str = "aal1",
    methods: Sequence[str] = ("password",),
) -> str:
    """An access token as Supabase Auth gives it to a user who signed in.

    aal: "aal2" with a second factor. methods: how the user signed in, the latest first.
    """
    now = int(time.time())
    claims = {
        "iss": "local",
        "sub": user_id,
        "aud": "authenticated",
        "iat": now,
        "exp": now + ttl_s,
        "email": email,
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"], **app_metadata},
        "user_metadata": {},
        "role": "authenticated",
        "aal": aal,
        "amr": [{"method": method, "timestamp": now} for method in methods],
        "session_id": session_id or str(uuid.uuid4()),
        "is_anonymous": False,
    }
    return jwt.encode(claims, jwt_secret, "HS256")
