"""The verbs that look at runs, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from backfill.cli import answers, offers, terminal
from backfill.cli import plan as planning
from backfill.cli.answers import show_status
from backfill.cli.options import DEFAULT_LOGS, AsJson, LogsDir, Run, connected
from backfill.cli.status_changes import show_changes
from backfill.client import DEFAULT_RUNS
from backfill.errors import BadRequest
from backfill.results.run import RunState

verbs = typer.Typer()


@verbs.command(epilog="Example: backfill runs --state running --limit 10")
def runs(
    state: Annotated[
        str | None,
        typer.Option(metavar="S", help="Only runs in this state.", autocompletion=offers.states),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only runs of this target.", autocompletion=offers.target_names
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """The runs, the newest first."""
    with connected() as bf:
        found = bf.runs(state=cast(RunState | None, state), target=target, limit=limit)
    if as_json:
        terminal.print_json([r.as_dict() for r in found])
    else:
        answers.print_runs(found, state=state, target=target)


@verbs.command(epilog="Example: backfill show 4f2c1b9e")
def show(
    run: Run,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it as a page with charts, whole or not at all."),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="What it writes, how risky that is, how to approve.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The plan, or what became of it."""
    if html is not None and summary:
        raise BadRequest("a page has no summary", "backfill show … --html FILE, or --summary")
    with connected() as bf:
        if html is not None:
            planning.write_page(bf.page(run), html, as_json)
        else:
            planning.show_plan(bf.get(run), as_json, is_summary=summary)


@verbs.command(epilog="Example: backfill status 4f2c1b9e --watch")
def status(
    run: Run,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until the run is over, or Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The status of a run, and why it waits."""
    with connected() as bf:
        if watch:
            show_changes(lambda: bf.status(run), as_json)
        else:
            show_status(bf.status(run), as_json)


@verbs.command(epilog="Example: backfill logs 4f2c1b9e --logs-dir backfill_logs")
def logs(run: Run, logs_dir: LogsDir = DEFAULT_LOGS, as_json: AsJson = False) -> None:
    """Write all files of a run from the database. What an apply wrote stays."""
    with connected() as bf:
        folder = bf.write_logs(run, logs_dir)
    if as_json:
        terminal.print_json({"folder": str(folder)})
    else:
        terminal.out.print(str(folder))
