"""The command line. It is thin: every verb is one of the library's.

stdout is the answer, stderr is progress. Every refusal ends with the next command. What a verb
needs is loaded with its own module: see verbs.py.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import backfill
from backfill.cli import completion, exit_codes, streams, terminal
from backfill.cli.group import Verbs
from backfill.errors import BackfillError

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


def _print_version(is_asked: bool) -> None:
    if is_asked:
        terminal.write(f"supabase-backfill {backfill.__version__}")
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
