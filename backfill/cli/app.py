"""The command line. It is thin: every verb is one of the library's.

stdout is the answer, stderr is progress. Every refusal ends with the next command.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast

import typer

import backfill
from backfill.cli import (
    answers,
    completion,
    exit_codes,
    local,
    login,
    signing,
    streams,
    target,
    terminal,
    undo,
)
from backfill.cli import plan as planning
from backfill.cli.group import Verbs
from backfill.cli.options import (
    AsJson,
    Because,
    LogsDir,
    Reason,
    Run,
    connected,
    end,
)
from backfill.cli.progress import ApplyProgress, StepProgress
from backfill.cli.watch import show_changes
from backfill.client import DEFAULT_RUNS
from backfill.errors import BackfillError, BadRequest
from backfill.results.run import Outcome, RunState

app = typer.Typer(
    name="backfill",
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find, plan, approve, apply, verify and undo backfills of a Supabase project.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

Approver = Annotated[
    str | None,
    typer.Option(
        "--approver", metavar="NAME", help="Who decides. [asked for, else git's user.name or $USER]"
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, max=64, help="Sessions scored at a time.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="End instead of waiting.")]
PACKAGE = "supabase-backfill"
DEFAULT_LOGS = Path("backfill_logs")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        terminal.write(f"{PACKAGE} {version(PACKAGE)}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and end."
        ),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: backfill check --verbose")
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


planning.add_to(app)


@app.command(epilog="Example: backfill runs --state running --limit 10")
def runs(
    state: Annotated[
        str | None,
        typer.Option(
            metavar="S", help="Only runs in this state.", autocompletion=completion.states
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only runs of this target.", autocompletion=completion.target_names
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


@app.command(epilog="Example: backfill show 4f2c1b9e")
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


@app.command(epilog="Example: backfill approve 4f2c1b9e --digest D")
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
    _print_status(status, as_json)


@app.command(epilog='Example: backfill reject 4f2c1b9e --reason "the wrong range"')
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
    _print_status(status, as_json)


def _print_status(status: backfill.Status, as_json: bool) -> None:
    if as_json:
        terminal.print_json(status.as_dict())
    else:
        answers.print_status(status)


@app.command(epilog="Example: backfill apply 4f2c1b9e")
def apply(
    run: Run,
    concurrency: Concurrency = 4,
    no_wait: NoWait = False,
    logs_dir: LogsDir = DEFAULT_LOGS,
    as_json: AsJson = False,
) -> None:
    """Score the approved sessions. Safe to run again after any crash."""
    with connected() as bf:
        _work(bf, bf.apply, run, concurrency, no_wait, logs_dir, as_json)


@app.command(epilog="Example: backfill retry 4f2c1b9e")
def retry(
    run: Run,
    concurrency: Concurrency = 4,
    no_wait: NoWait = False,
    logs_dir: LogsDir = DEFAULT_LOGS,
    as_json: AsJson = False,
) -> None:
    """Score the failed sessions again, under the same approval."""
    with connected() as bf:
        _work(bf, bf.retry, run, concurrency, no_wait, logs_dir, as_json)


def _work(
    bf: backfill.Backfill,
    verb: Callable[..., Outcome],
    run: str,
    concurrency: int,
    no_wait: bool,
    logs_dir: Path,
    as_json: bool,
) -> None:
    before = bf.status(run)
    with ApplyProgress(before, lambda: bf.status(before.run_id)) as progress:
        outcome = verb(
            run,
            concurrency=concurrency,
            wait=not no_wait,
            on_event=progress.hear,
            logs_dir=logs_dir,
            should_stop=_stop_on_signals(before.run_id, progress),
        )
    if as_json:
        terminal.print_json(outcome.as_dict())
    else:
        if outcome.retried == 0:
            terminal.out.print("no session of this run has failed: nothing to retry")
        answers.print_outcome(outcome)
    answers.print_missing_files(outcome)
    end(exit_codes.of_apply(outcome))


def _stop_on_signals(run_id: str, progress: ApplyProgress) -> Callable[[], bool]:
    """Ctrl-C, SIGTERM or a closed terminal: finish what is in flight, give the rest back.

    A second signal ends at once. Under nohup a closed terminal is nothing.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            progress.stop()
            terminal.print_prose(
                terminal.err,
                f"ended at once: {progress.so_far()}. What was in flight is looked up by the next "
                "apply. An apply elsewhere goes on. If there is none, take the run up again.",
            )
            terminal.err.print(f"  Next: backfill apply {run_id}")
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


@app.command(epilog='Example: backfill pause 4f2c1b9e --reason "peak hours"')
def pause(run: Run, reason: Reason, as_json: AsJson = False) -> None:
    """Pause a run: no session starts until it is resumed."""
    with connected() as bf:
        status = bf.pause(run, reason=reason)
    _print_status(status, as_json)


@app.command(epilog='Example: backfill resume 4f2c1b9e --because "the nightly job wrote that row"')
def resume(run: Run, because: Because = None, as_json: AsJson = False) -> None:
    """Lift a pause. An apply that is still alive goes on."""
    with connected() as bf:
        status = bf.resume(run, because=because)
    _print_status(status, as_json)


@app.command(epilog='Example: backfill cancel 4f2c1b9e --reason "the wrong version"')
def cancel(run: Run, reason: Reason, as_json: AsJson = False) -> None:
    """Stop a run for good. What it wrote stays."""
    with connected() as bf:
        status = bf.cancel(run, reason=reason)
    _print_status(status, as_json)


@app.command(epilog="Example: backfill status 4f2c1b9e --watch")
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
            _print_status(bf.status(run), as_json)


@app.command(epilog="Example: backfill verify 4f2c1b9e")
def verify(run: Run, as_json: AsJson = False) -> None:
    """Compare the tables with the plan."""
    with connected() as bf, StepProgress("verify") as progress:
        verification = bf.verify(run, on_progress=progress.hear)
    if as_json:
        terminal.print_json(verification.as_dict())
    else:
        answers.print_verification(verification)
    end(exit_codes.of_verify(verification))


undo.add_to(app)


@app.command(epilog="Example: backfill logs 4f2c1b9e --logs-dir backfill_logs")
def logs(run: Run, logs_dir: LogsDir = DEFAULT_LOGS, as_json: AsJson = False) -> None:
    """Write all files of a run from the database. What an apply wrote stays."""
    with connected() as bf:
        folder = bf.write_logs(run, logs_dir)
    if as_json:
        terminal.print_json({"folder": str(folder)})
    else:
        terminal.out.print(str(folder))


login.add_to(app)
local.add_to(app)
completion.add_to(app)
target.add_to(app)


def main() -> None:
    """Run the command line. An error becomes its message and its exit code.

    What cannot be written stops no verb. A full disk under the answer ends it with FAILED, and a
    reader who has gone with the verb's own code.
    """
    with streams.lasting() as lost:
        code = _code_of_verb()
    if lost.answer_is_lost and not code:
        code = int(exit_codes.ExitCode.FAILED)
    sys.exit(code)


def _code_of_verb() -> int:
    refused: BackfillError | typer.TyperException | typer.Abort
    try:
        completion.make_ready()
        return int(app(prog_name=completion.PROGRAM, standalone_mode=False) or 0)
    except typer.Abort as abort:
        refused, code = abort, exit_codes.ExitCode.FAILED
    except BackfillError as error:
        refused, code = error, exit_codes.of_error(type(error))
    except typer.TyperException as error:
        refused, code = error, exit_codes.ExitCode(error.exit_code)
    if "--json" in sys.argv:
        terminal.print_json(terminal.told(refused))
    else:
        terminal.print_refusal(refused, is_refused=code is exit_codes.ExitCode.REFUSED)
    return int(code)
