"""Which kind of key it is, and whether we may use it. Keys are never printed, logged or stored."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from typing import Any

from backfill.errors import BadKey

URL_VARIABLE = "SUPABASE_URL"
KEY_VARIABLES = ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
WHERE = "take the secret key from the project's settings, API keys, into SUPABASE_SECRET_KEY"


def from_environment(environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """URL and key of the project that the environment names.

    Raises BadKey if one is missing.
    """
    url = environ.get(URL_VARIABLE, "").strip()
    key = next(
        (environ[name].strip() for name in KEY_VARIABLES if environ.get(name, "").strip()), ""
    )
    if not url:
        raise BadKey(
            f"{URL_VARIABLE} is not set", f"export {URL_VARIABLE}=https://<project>.supabase.co"
        )
    if not key:
        raise BadKey(
            "no key: neither SUPABASE_SECRET_KEY nor SUPABASE_SERVICE_ROLE_KEY is set", WHERE
        )
    return url, key


def checked(key: str) -> str:
    """The key, if it is a secret key or a service_role JWT.

    Raises BadKey for publishable and anon keys, and for anything that is no key.
    """
    if key.startswith("sb_secret_"):
        return key
    if key.startswith("sb_publishable_"):
        raise BadKey("this is a publishable key, but backfill needs the secret key", WHERE)
    role = _role(key)
    if role is None:
        raise BadKey("this is no Supabase key", WHERE)
    if role != "service_role":
        raise BadKey(f"this key has the role {role}, but backfill needs service_role", WHERE)
    return key


def is_legacy(key: str) -> bool:
    """Whether the key is a legacy JWT, which Supabase retires by the end of 2026."""
    return not key.startswith("sb_")


def claims_of(jwt: str) -> dict[str, Any]:
    """The claims of a JWT, unverified: the server verifies them. {} if it is no JWT."""
    parts = jwt.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _role(jwt: str) -> str | None:
    """The role claim of a JWT. None if it has none, or is no JWT."""
    role = claims_of(jwt).get("role")
    return role if isinstance(role, str) else None
