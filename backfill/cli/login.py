"""Deciding as oneself: login, logout, and the token of who is signed in."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer

import backfill
from backfill.api import keys
from backfill.api.auth import Auth, Session, SessionEnded
from backfill.api.url import project_url
from backfill.cli import asking, sessions, terminal
from backfill.cli import plan as planning
from backfill.cli.from_files import ACCESS_TOKEN, environ
from backfill.cli.options import AsJson
from backfill.cli.plain import one_line
from backfill.errors import BadRequest

As = Annotated[
    str | None,
    typer.Option("--email", metavar="EMAIL", help="Sign in as this user for this once."),
]
Piped = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line.")
]


verbs = typer.Typer()


@verbs.command(epilog="Example: backfill login ada@example.org")
def login(
    email: Annotated[
        str | None,
        typer.Argument(metavar="[EMAIL]", help="Your e-mail address. Asked for if not given."),
    ] = None,
    code: Annotated[
        bool, typer.Option("--code", help="With a one-time code, sent to that address.")
    ] = False,
    password_stdin: Piped = False,
    as_json: AsJson = False,
) -> None:
    """Sign in to decide as oneself. The system's keyring keeps the session.

    A second factor is asked for if the user has one. BACKFILL_ACCESS_TOKEN, where it is set, wins.
    """
    url, key = keys.from_environment(environ())
    sessions.check_keyring()
    with Auth(url, key) as auth:
        session = _signed_in(auth, email, with_code=code, is_piped=password_stdin)
        sessions.keep(auth.url, session)
    if environ().get(ACCESS_TOKEN):
        terminal.err.print(f"{ACCESS_TOKEN} is set and wins over this session")
    if as_json:
        terminal.print_json(_told(session))
        return
    role = session.role or "no backfill role"
    factors = "two factors" if session.level == "aal2" else "one factor"
    terminal.out.print(one_line(f"signed in as {session.email}: {role}, {factors}"))
    if session.role != "approver":
        terminal.err.print("only a user with the role approver decides on plans")
    terminal.print_next("backfill approve RUN")


def _told(session: Session) -> dict[str, object]:
    until = datetime.fromtimestamp(session.expires_at, UTC)
    return {
        "email": session.email,
        "role": session.role,
        "aal": session.level,
        "expires_at": until.isoformat(),
        "kept": "keyring",
    }


@verbs.command(epilog="Example: backfill logout")
def logout(as_json: AsJson = False) -> None:
    """End the session of `login`, here and at Auth."""
    url, key = keys.from_environment(environ())
    session = sessions.kept(project_url(url))
    if session is not None:
        sessions.forget(project_url(url))
        with Auth(url, key) as auth, suppress(SessionEnded):
            # Auth ends a session for nobody whose token ran out.
            auth.sign_out(session if session.is_current else auth.refreshed(session))
    email = session.email if session else None
    if as_json:
        terminal.print_json({"signed_out": email})
    else:
        said = f"signed out: {email}" if email else "nobody was signed in"
        terminal.out.print(one_line(said))


def token(email: str | None = None) -> str | None:
    """The access token to decide with. None decides with the service key.

    That of BACKFILL_ACCESS_TOKEN wins. email: sign in as this user for this once, which keeps
    nothing. Else that of the session that `login` kept. Raises NotAllowed, CannotConnect.
    """
    if given := environ().get(ACCESS_TOKEN):
        return given
    url, key = keys.from_environment(environ())
    if email is not None:
        with Auth(url, key) as auth:
            return _signed_in(auth, email).access_token
    session = sessions.kept(project_url(url))
    if session is None or session.is_current:
        return session.access_token if session else None
    with Auth(url, key) as auth:
        return _refreshed(auth, session).access_token


def _refreshed(auth: Auth, session: Session) -> Session:
    try:
        refreshed = auth.refreshed(session)
    except SessionEnded:
        sessions.forget(auth.url)
        raise SessionEnded(
            f"the session of {session.email} has ended", f"backfill login {session.email}"
        ) from None
    sessions.keep(auth.url, refreshed)
    return refreshed


def _signed_in(
    auth: Auth, email: str | None, *, with_code: bool = False, is_piped: bool = False
) -> Session:
    """Ask for what Auth needs. Raises NotAllowed, CannotConnect, BadRequest, Abort."""
    if email is None:
        if not asking.is_possible():
            raise BadRequest("login needs an e-mail address", "backfill login EMAIL …")
        email = terminal.ask("E-mail")
    if with_code:
        if not asking.is_possible():
            raise BadRequest("nobody is there to type the code", "backfill login EMAIL --code")
        auth.send_code(email)
        terminal.err.print(one_line(f"A code was sent to {email}."))
        session = auth.sign_in_with_code(email, terminal.ask("Code"))
    else:
        password = asking.secret("Password", is_piped=is_piped, option="--password-stdin")
        session = auth.sign_in(email, password)
    factor = auth.factor()
    if factor is None:
        return session
    second = asking.secret(
        "Code of the second factor", is_piped=is_piped, option="--password-stdin"
    )
    return auth.give_factor(factor, second)


def digest_by_sight(bf: backfill.Backfill, run: str, who: str | None, as_json: bool) -> str:
    """The digest of a plan that a person has seen and said yes to.

    who: the token to decide with. Raises BadRequest if nobody can be asked, Abort.
    """
    if as_json or not asking.is_possible():
        raise BadRequest(
            "nobody is asked here, so approve needs the digest of the plan that was looked at",
            f"backfill show {run[:36]} --summary, then backfill approve {run[:36]} --digest D",
        )
    plan = bf.get(run)
    planning.show_plan(plan, as_json=False, is_summary=True)
    terminal.err.print(f"digest {plan.digest}")
    name = keys.claims_of(who).get("email") if who else "the service key"
    terminal.confirm(f"Approve exactly this plan as {name}?")
    return plan.digest
