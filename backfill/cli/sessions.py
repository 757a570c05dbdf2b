"""Sessions of signed-in users, one per project, kept by the system's keyring.

Nothing of one is ever written elsewhere. No message shows a token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from types import ModuleType

from backfill.api.auth import Session
from backfill.errors import BackfillError

SERVICE = "backfill"
INSTEAD = "for one decision alone: backfill approve RUN --email EMAIL"


class NoKeyring(BackfillError):
    """No keyring can keep a session here."""


def check_keyring() -> None:
    """Is there a keyring? Raises NoKeyring."""
    with _keyring() as keyring:
        if keyring.get_keyring().priority <= 0:
            raise _none("this system has none")


def kept(url: str) -> Session | None:
    """The session that is kept for a project. None without one, and without a keyring."""
    try:
        with _keyring() as keyring:
            told = keyring.get_password(SERVICE, url)
    except NoKeyring:
        return None
    try:
        return Session(**json.loads(told)) if told else None
    except (ValueError, TypeError):
        return None  # of another version of ours


def keep(url: str, session: Session) -> None:
    """Keep a session for a project, instead of the one before. Raises NoKeyring."""
    with _keyring() as keyring:
        keyring.set_password(SERVICE, url, json.dumps(asdict(session)))


def forget(url: str) -> None:
    """Keep none for a project. There must be one. Raises NoKeyring."""
    with _keyring() as keyring:
        keyring.delete_password(SERVICE, url)


@contextmanager
def _keyring() -> Iterator[ModuleType]:
    """The library. Raises NoKeyring if it is not installed, or can do nothing on this system."""
    try:
        keyring, errors = import_module("keyring"), import_module("keyring.errors")
    except ModuleNotFoundError:
        raise NoKeyring(
            "a session is kept by the keyring, which is not installed",
            f"pip install 'supabase-backfill[login]', or {INSTEAD}",
        ) from None
    try:
        yield keyring
    except BackfillError:
        raise
    except errors.NoKeyringError:
        raise _none("this system has none") from None
    except Exception as failed:
        # A backend is anyone's code, and its words may hold what it was given.
        raise BackfillError(
            f"the keyring did not answer ({type(failed).__name__})",
            f"unlock it and try again, or {INSTEAD}",
        ) from None


def _none(why: str) -> NoKeyring:
    return NoKeyring(f"a session is kept by the keyring, and {why}", INSTEAD)
