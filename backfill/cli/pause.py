"""The verbs that slow a run down, halt it, let it go on, or stop it for good."""

from __future__ import annotations

from typing import Annotated

import typer

from backfill.cli.answers import show_status
from backfill.cli.options import AsJson, Because, Reason, Run, connected, throttle_of

verbs = typer.Typer()

PerMinute = Annotated[
    str, typer.Argument(metavar="N", help="Session starts per minute, or none if approved so.")
]


@verbs.command(epilog="Example: backfill pace 4f2c1b9e 10")
def pace(run: Run, per_minute: PerMinute, as_json: AsJson = False) -> None:
    """Lower the rate of a run, or raise it again up to what was approved."""
    rate = throttle_of("the rate", per_minute, f"backfill pace {run} 10")
    with connected() as bf:
        status = bf.pace(run, per_minute=rate)
    show_status(status, as_json)


@verbs.command(epilog='Example: backfill pause 4f2c1b9e --reason "peak hours"')
def pause(run: Run, reason: Reason, as_json: AsJson = False) -> None:
    """Pause a run: no session starts until it is resumed."""
    with connected() as bf:
        status = bf.pause(run, reason=reason)
    show_status(status, as_json)


@verbs.command(
    epilog='Example: backfill resume 4f2c1b9e --because "the nightly job wrote that row"'
)
def resume(run: Run, because: Because = None, as_json: AsJson = False) -> None:
    """Lift a pause. An apply that is still alive goes on."""
    with connected() as bf:
        status = bf.resume(run, because=because)
    show_status(status, as_json)


@verbs.command(epilog='Example: backfill cancel 4f2c1b9e --reason "the wrong version"')
def cancel(run: Run, reason: Reason, as_json: AsJson = False) -> None:
    """Stop a run for good. What it wrote stays."""
    with connected() as bf:
        status = bf.cancel(run, reason=reason)
    show_status(status, as_json)
