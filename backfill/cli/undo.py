"""The verb that takes back what a run wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from backfill.cli import answers, exit_codes, login, terminal
from backfill.cli.options import AsJson, Run, Since, Until, connected, end
from backfill.cli.progress import StepProgress

verbs = typer.Typer()


@verbs.command(epilog="Example: backfill rollback 4f2c1b9e --until 2025-08-10")
def rollback(
    run: Run,
    session: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this session, by its id.")
    ] = None,
    since: Since = None,
    until: Until = None,
    confirm: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Carry out the preview with this digest.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="T", help="Why, with --confirm.")] = None,
    as_json: AsJson = False,
) -> None:
    """Preview taking back what a run wrote, or confirm the preview, as who is signed in."""
    token = login.token()
    doing = "look at rows" if confirm is None else "roll back"
    with connected() as bf, StepProgress(doing) as progress:
        if confirm is None:
            effect = bf.rollback(
                run,
                sessions=session or None,
                since=since,
                until=until,
                access_token=token,
                on_progress=progress.hear,
            ).effect
        else:
            effect = bf.confirm_rollback(
                run,
                digest=confirm,
                reason=reason or "",
                sessions=session or None,
                since=since,
                until=until,
                access_token=token,
                on_progress=progress.hear,
            )
    if as_json:
        terminal.print_json(effect.as_dict())
    else:
        answers.print_undo(effect)
    end(exit_codes.of_rollback(effect, is_confirmed=confirm is not None))
