"""The command line's verbs about the Auth users of the embedded stack."""

from __future__ import annotations

from typing import Annotated

import typer

from backfill.cli import asking, terminal
from backfill.cli.options import AsJson
from backfill.cli.stack_part import DEFAULT_DIR, Dir, stack_part

user = typer.Typer(help="The people who sign in there.", no_args_is_help=True)

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The user's e-mail address.")]


@user.command(epilog="Example: backfill local user add ada@example.org --role approver")
def add(
    email: Email,
    role: Annotated[
        str | None,
        typer.Option(metavar="viewer|operator|approver", help="The backfill role. None without."),
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from the first line.")
    ] = False,
    second_factor: Annotated[
        bool, typer.Option("--second-factor", help="With a second factor, by TOTP.")
    ] = False,
    directory: Dir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Add a user who can sign in, or give one another role and password."""
    users = stack_part("local.users")
    users.checked_role(role)
    password = asking.secret("Password", is_piped=password_stdin, option="--password-stdin")
    made = users.add_user(directory, email, password, role, has_second_factor=second_factor)
    if as_json:
        terminal.print_json(made.as_dict())
        return
    what = "added" if made.is_new else "changed, and signed out everywhere"
    terminal.out.print(f"{made.email} {what}: {made.role or 'no role'}")
    if made.second_factor:
        terminal.write(made.second_factor)
        terminal.err.print("Give this to an authenticator app. It is shown once.")
    terminal.print_next(f"backfill login {made.email}")


@user.command(epilog="Example: backfill local user code ada@example.org")
def code(email: Email, directory: Dir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Print the one-time code that a mail to a user would hold. The stack sends none."""
    found = stack_part("local.users").code_of(directory, email)
    if as_json:
        terminal.print_json({"email": email, "code": found})
    else:
        terminal.write(found)
