"""The name that a decision is signed with: given, asked for, or known to this machine."""

from __future__ import annotations

import subprocess

from backfill.cli import asking, terminal
from backfill.cli.from_files import environ

GIT_ANSWERS_WITHIN_S = 2.0


def own_name() -> str | None:
    """Who types here, as git knows them, else the login. None if neither says."""
    asked = ("git", "config", "--get", "user.name")
    try:
        told = subprocess.run(
            asked, capture_output=True, text=True, check=False, timeout=GIT_ANSWERS_WITHIN_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        told = ""
    return " ".join(told.split()) or environ().get("USER") or None


def signed(given: str | None, token: str | None) -> str | None:
    """The name of who decides. None if a token says who it is: its user's e-mail is taken."""
    if given is not None or token is not None:
        return given
    name = own_name()
    if not asking.is_possible():
        return name
    return terminal.ask("Approver", default=name)
