"""The verbs that hold the project, or a run, against what should be."""

from __future__ import annotations

from typing import Annotated

import typer

from backfill.cli import answers, exit_codes, terminal
from backfill.cli.options import AsJson, Run, connected, end
from backfill.cli.progress import StepProgress

verbs = typer.Typer()


@verbs.command(epilog="Example: backfill check --verbose")
def check(
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for what is ok, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Is this project ready? What is not ok comes with what to do."""
    with connected() as bf:
        checks = bf.check()
    if as_json:
        terminal.print_json([c.as_dict() for c in checks])
    else:
        answers.print_checks(checks, is_verbose=verbose)
        if not exit_codes.of_check(checks):
            terminal.print_next("backfill plan --since DATE")
    end(exit_codes.of_check(checks))


@verbs.command(epilog="Example: backfill verify 4f2c1b9e")
def verify(run: Run, as_json: AsJson = False) -> None:
    """Compare the tables with the plan."""
    with connected() as bf, StepProgress("verify") as progress:
        verification = bf.verify(run, on_progress=progress.hear)
    if as_json:
        terminal.print_json(verification.as_dict())
    else:
        answers.print_verification(verification)
    end(exit_codes.of_verify(verification))
