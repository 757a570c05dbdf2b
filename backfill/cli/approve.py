"""The verbs that decide on a plan."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

from backfill.blocking import Backfill
from backfill.cli import login, signing
from backfill.cli.answers import show_status
from backfill.cli.options import AsJson, Reason, Run, connected
from backfill.cli.standing import show_standing
from backfill.errors import BadRequest, UnknownRun
from backfill.results.standing import StandingApproval

verbs = typer.Typer()

Approver = Annotated[
    str | None,
    typer.Option(
        "--approver", metavar="NAME", help="Who decides. [asked for, else git's user.name or $USER]"
    ),
]


class Given(TypedDict):
    """What a decision takes beside its digest."""

    access_token: str | None
    approver: str | None
    note: str | None


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

    RUN may be a standing approval, by its id and its digest.

    BACKFILL_ACCESS_TOKEN may hold an Auth user's token. It wins over the session of login.
    """
    token = login.token(email)
    given: Given = {
        "access_token": token,
        "approver": signing.signed(approver, token),
        "note": note,
    }
    with connected() as bf:
        try:
            status = bf.approve(
                run, digest=digest or login.digest_by_sight(bf, run, token, as_json), **given
            )
        except UnknownRun as unknown:
            # It names no run, so it may name a standing approval.
            show_standing(_approve_standing(bf, run, digest, given, unknown), as_json)
        else:
            show_status(status, as_json)


def _approve_standing(
    bf: Backfill, standing: str, digest: str | None, given: Given, unknown: UnknownRun
) -> StandingApproval:
    """Approve a standing approval. Raises `unknown` if there is none."""
    try:
        proposed = bf.standing(standing)
    except UnknownRun:
        raise unknown from None
    if digest is None:
        raise BadRequest(
            "a standing approval is approved by its digest",
            f"backfill approve {proposed.standing_id} --digest {proposed.digest}",
        )
    return bf.approve_standing(proposed.standing_id, digest=digest, **given)


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
