"""The verbs that decide on a plan."""

from __future__ import annotations

from typing import Annotated

import typer

from backfill.cli import login, signing
from backfill.cli.answers import show_status
from backfill.cli.options import AsJson, Reason, Run, connected

verbs = typer.Typer()

Approver = Annotated[
    str | None,
    typer.Option(
        "--approver", metavar="NAME", help="Who decides. [asked for, else git's user.name or $USER]"
    ),
]


@verbs.command(epilog="Example: backfill approve 4f2c1b9e --digest D")
def approve(
    run: Run,
    digest: Annotated[
        str | None, typer.Option(metavar="D", help="The plan's digest. Without it you are asked.")
    ] = None,
    email: login.As = None,
    approver: Approver = None,
    note: Annotated[str | None, typer.Option(metavar="T", help="Kept with the decision.")] = None,
    as_json: AsJson = False,
) -> None:
    """Approve exactly this plan, as who is signed in. Without --digest it shows it and asks.

    BACKFILL_ACCESS_TOKEN may hold an Auth user's token. It wins over the session of login.
    """
    token = login.token(email)
    approver = signing.signed(approver, token)
    with connected() as bf:
        status = bf.approve(
            run,
            digest=digest or login.digest_by_sight(bf, run, token, as_json),
            access_token=token,
            approver=approver,
            note=note,
        )
    show_status(status, as_json)


@verbs.command(epilog='Example: backfill reject 4f2c1b9e --reason "the wrong range"')
def reject(
    run: Run,
    reason: Reason,
    email: login.As = None,
    approver: Approver = None,
    as_json: AsJson = False,
) -> None:
    """Reject a plan for good, as who is signed in."""
    token = login.token(email)
    approver = signing.signed(approver, token)
    with connected() as bf:
        status = bf.reject(run, reason=reason, access_token=token, approver=approver)
    show_status(status, as_json)
