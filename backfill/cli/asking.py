"""Whether a person can be asked, and what nobody else may see."""

from __future__ import annotations

import sys

from backfill.cli import terminal
from backfill.errors import BadRequest


def is_possible() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def secret(what: str, *, is_piped: bool, option: str) -> str:
    """A password or a code, which no argument and no variable may hold.

    is_piped: it is the next line of stdin, as `option` says. Raises BadRequest, Abort.
    """
    if not is_piped and not is_possible():
        raise BadRequest(
            f"nobody is there to type the {what.lower()}", f"the same command with {option} < FILE"
        )
    if not is_piped:
        return terminal.ask(what, is_hidden=True)
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise BadRequest(f"stdin has no {what.lower()}", "a line with it on stdin")
    return given
