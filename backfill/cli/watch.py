"""The verb that looks after service levels."""

from __future__ import annotations

from typing import Annotated

import typer

from backfill.cli import exit_codes, terminal
from backfill.cli.notify import Notify, telling
from backfill.cli.offers import target_names
from backfill.cli.options import AsJson, connected, end
from backfill.cli.plain import one_line
from backfill.results.event import ignore
from backfill.results.watch import TargetWatch

verbs = typer.Typer()
COLOURS = {"ok": "ok", "breached": "fail", "unknown": "warn"}


@verbs.command(epilog="Example: backfill watch --target prism --json")
def watch(
    target: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only this target.", autocompletion=target_names),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Count all days, not only those that can have changed.")
    ] = False,
    notify: Notify = None,
    as_json: AsJson = False,
) -> None:
    """Look whether each target keeps its service level. Ends with 4 if one does not."""
    with telling(notify, ignore) as hear, connected(on_event=hear) as bf:
        found = bf.watch(target, full=full)
    if as_json:
        terminal.print_json(found.as_dict())
    else:
        for one in found.targets:
            _print(one)
    end(exit_codes.of_watch(found))


def _print(one: TargetWatch) -> None:
    level = "no level" if one.min_coverage is None else f"at least {one.min_coverage:.2%}"
    share = "n/a" if one.coverage is None else f"{one.coverage:.2%}"
    terminal.print_marked(COLOURS[one.status], f": {one.target} is {one.status}: {share}, {level}")
    if one.why:
        since = f", since {one.breached_since:%Y-%m-%d %H:%M} UTC" if one.breached_since else ""
        terminal.print_prose(terminal.out, f"  {one_line(one.why)}{since}")
    if one.status == "breached" and one.oldest_missing_at:
        day = f"{one.oldest_missing_at:%Y-%m-%d}"
        terminal.print_next(f"backfill plan --target {one.target} --since {day}")
