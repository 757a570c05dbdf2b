"""The verbs that score the sessions of a run, and how a signal stops them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from backfill.api.gateway import CONNECTIONS
from backfill.blocking import Backfill
from backfill.cli import answers, exit_codes, terminal
from backfill.cli.notify import Notify, telling
from backfill.cli.options import DEFAULT_LOGS, AsJson, LogsDir, Run, connected, end
from backfill.cli.progress import ApplyProgress
from backfill.results.run import Outcome

verbs = typer.Typer()

Concurrency = Annotated[int, typer.Option(min=1, max=64, help="Sessions scored at a time.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="End instead of waiting.")]


@verbs.command(epilog="Example: backfill apply 4f2c1b9e")
def apply(
    run: Run,
    concurrency: Concurrency = 4,
    no_wait: NoWait = False,
    logs_dir: LogsDir = DEFAULT_LOGS,
    notify: Notify = None,
    as_json: AsJson = False,
) -> None:
    """Score the approved sessions. Safe to run again after any crash."""
    with connected(CONNECTIONS) as bf:
        _work(bf, bf.apply, run, concurrency, no_wait, logs_dir, notify, as_json)


@verbs.command(epilog="Example: backfill retry 4f2c1b9e")
def retry(
    run: Run,
    concurrency: Concurrency = 4,
    no_wait: NoWait = False,
    logs_dir: LogsDir = DEFAULT_LOGS,
    notify: Notify = None,
    as_json: AsJson = False,
) -> None:
    """Score the failed sessions again, under the same approval."""
    with connected(CONNECTIONS) as bf:
        _work(bf, bf.retry, run, concurrency, no_wait, logs_dir, notify, as_json)


def _work(
    bf: Backfill,
    verb: Callable[..., Outcome],
    run: str,
    concurrency: int,
    no_wait: bool,
    logs_dir: Path,
    notify: str | None,
    as_json: bool,
) -> None:
    before = bf.status(run)
    with (
        ApplyProgress(before, lambda: bf.status(before.run_id)) as progress,
        telling(notify, progress.hear) as hear,
    ):
        outcome = verb(
            run,
            concurrency=concurrency,
            wait=not no_wait,
            on_event=hear,
            logs_dir=logs_dir,
            should_stop=stop_on_signals(partial(_tell_end, before.run_id, progress)),
        )
    if as_json:
        terminal.print_json(outcome.as_dict())
    else:
        if outcome.retried == 0:
            terminal.out.print("no session of this run has failed: nothing to retry")
        answers.print_outcome(outcome)
    answers.print_missing_files(outcome)
    end(exit_codes.of_apply(outcome))


def stop_on_signals(told: Callable[[], None]) -> Callable[[], bool]:
    """Ctrl-C, SIGTERM or a closed terminal: finish what is in flight, give the rest back.

    A second signal ends at once, after `told`. Under nohup a closed terminal is nothing.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            told()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked.append(number)
        terminal.err.print("finishing what is in flight. A second signal ends at once")

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and (
            name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
        ):
            signal.signal(number, ask)
    return lambda: bool(asked)


def _tell_end(run_id: str, progress: ApplyProgress) -> None:
    progress.stop()
    terminal.print_prose(
        terminal.err,
        f"ended at once: {progress.so_far()}. What was in flight is looked up by the next "
        "apply. An apply elsewhere goes on. If there is none, take the run up again.",
    )
    terminal.err.print(f"  Next: backfill apply {run_id}")
