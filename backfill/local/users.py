"""The Auth users of an embedded stack that is running."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from backfill.errors import BadRequest
from backfill.local.auth import calling, new_secret
from backfill.local.stack import env

ROLES = ("viewer", "operator", "approver")
ISSUER = "backfill local"


@dataclass(frozen=True)
class User:
    """A user. second_factor: the address that an authenticator app takes, shown this once."""

    id: str
    email: str
    role: str | None
    is_new: bool
    second_factor: str | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The shape of `backfill local user add --json`."""
        return {
            "id": self.id,
            "email": self.email,
            "role": self.role,
            "is_new": self.is_new,
            "second_factor": self.second_factor,
        }


def checked_role(role: str | None) -> str | None:
    """A backfill role, None for none. Raises BadRequest."""
    if role is not None and role not in ROLES:
        raise BadRequest(
            f"a role is {', '.join(ROLES[:-1])} or {ROLES[-1]}, not {role[:40]}",
            "backfill local user add EMAIL --role approver",
        )
    return role


def add_user(
    home: Path, email: str, password: str, role: str | None, *, has_second_factor: bool = False
) -> User:
    """Add a user who can sign in, or give an existing one another role and password.

    Sessions of an existing user end. Raises BadRequest, StackError if no stack is running.
    """
    checked_role(role)
    if "@" not in email.strip("@ "):
        raise BadRequest(
            f"{email[:80]} is no e-mail address", "backfill local user add ada@example.org …"
        )
    # As Auth does: bcrypt looks at no more than 72 bytes.
    if not 6 <= len(password.encode()) <= 72:
        raise BadRequest("a password has 6 to 72 characters", "the same command with another one")
    secret = new_secret() if has_second_factor else None
    made = _ask(home, "local_add_user", email.strip(), password, role, secret)
    address = None if secret is None else _address_of(made["email"], secret)
    return User(**made, second_factor=address)


def code_of(home: Path, email: str) -> str:
    """The one-time code that a mail to this address would hold. Raises BadRequest, StackError."""
    code: str | None = _ask(home, "local_code", email.strip())
    if code is None:
        raise BadRequest(
            f"no code waits for {email[:80]}", f"backfill login {email[:80]} --code, for a new one"
        )
    return code


def _address_of(email: str, secret: str) -> str:
    label = quote(f"{ISSUER}:{email}")
    return f"otpauth://totp/{label}?secret={secret}&issuer={quote(ISSUER)}"


def _ask(home: Path, function: str, *values: object) -> Any:
    with psycopg.connect(env(home)["DATABASE_URL"], autocommit=True) as connection:
        row = connection.execute(calling(function, values), values).fetchone()
    return row[0] if row else None
