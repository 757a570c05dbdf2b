"""The verb for a scheduler: look, plan, score what is approved, verify."""

from __future__ import annotations

from typing import Annotated

import typer

from backfill.api.gateway import CONNECTIONS
from backfill.cli import exit_codes, terminal
from backfill.cli.apply import Concurrency, stop_on_signals
from backfill.cli.notify import Notify, telling
from backfill.cli.offers import target_names
from backfill.cli.options import DEFAULT_LOGS, AsJson, LogsDir, connected, end
from backfill.cli.plain import one_line
from backfill.files.folder import files_are_missing
from backfill.results.event import ignore
from backfill.results.heal import Healed

verbs = typer.Typer()


@verbs.command(epilog="Example: backfill heal --target prism --json")
def heal(
    target: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What to heal.", autocompletion=target_names),
    ] = None,
    concurrency: Concurrency = 4,
    logs_dir: LogsDir = DEFAULT_LOGS,
    notify: Notify = None,
    as_json: AsJson = False,
) -> None:
    """Watch, plan, score what a standing approval covers, verify.

    What none covers halts for a person, with 3. Safe to start twice, and again after any crash.
    """
    with telling(notify, ignore) as hear, connected(CONNECTIONS, on_event=hear) as bf:
        healed = bf.heal(
            target,
            concurrency=concurrency,
            logs_dir=logs_dir,
            should_stop=stop_on_signals(_tell_end),
        )
    if as_json:
        terminal.print_json(healed.as_dict())
    else:
        _print(healed)
    if healed.run_id and healed.logs_failed:
        terminal.err.print(files_are_missing(healed.run_id, healed.logs_failed))
    end(exit_codes.of_heal(healed))


def _print(healed: Healed) -> None:
    """What it came to, why it halted, what helps."""
    if healed.state == "empty":
        terminal.print_marked("ok", f": nothing is missing of {healed.target}")
        return
    kind = "ok" if healed.is_healed else "warn" if healed.is_halted else "fail"
    said = f"{healed.verdict}, " if healed.verdict else ""
    terminal.print_marked(kind, f": {healed.target}: {said}run {healed.run_id} is {healed.state}")
    if healed.standing:
        terminal.print_prose(terminal.out, f"  approved by standing approval {healed.standing[:8]}")
    if healed.reason:
        terminal.print_prose(terminal.out, f"  {one_line(healed.reason)}")
    if healed.next_step:
        terminal.print_next(healed.next_step)


def _tell_end() -> None:
    terminal.err.print("ended at once. The next heal looks up what was in flight, and goes on")
