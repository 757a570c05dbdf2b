"""The command line's verbs that look for what is missing and plan it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
from typer.core import TyperCommand

from backfill.atomic_file import replace_file
from backfill.cli import answers, exit_codes, terminal
from backfill.cli.notify import Notify, telling
from backfill.cli.offers import modes, run_ids
from backfill.cli.options import AsJson, Since, Target, Until, connected, end, throttle_of
from backfill.cli.signing import own_name
from backfill.errors import BadRequest
from backfill.render.plan import plan_pieces
from backfill.request import Throttle
from backfill.results.event import ignore
from backfill.results.plan import Plan
from backfill.results.run import Mode

verbs = typer.Typer()

T = TypeVar("T")
PRISM = "PRISM alone"  # the heading in the help of what only that target has


class Panelled(TyperCommand):
    """A verb whose help has options under headings, which Typer does in colour only."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options of each panel under its name, those of none first."""
        panels: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(ctx):
            title = getattr(option, "rich_help_panel", None) or "Options"
            record = option.get_help_record(ctx)
            panels.setdefault(title, []).extend([record] if record else [])
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)


@verbs.command(epilog="Example: backfill missing --since 2025-08-01 --min-coverage 0.95")
def missing(
    since: Since = None,
    until: Until = None,
    min_coverage: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 4 below this share.")
    ] = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """What is missing per UTC day."""
    with connected() as bf:
        found = bf.missing(since=since, until=until, target=target)
    if as_json:
        terminal.print_json(found.as_dict())
    else:
        answers.print_missing(found)
    end(exit_codes.of_missing(found, min_coverage))


@verbs.command(cls=Panelled, epilog="Example: backfill plan --since 2025-08-01 --throttle 20")
def plan(
    ctx: typer.Context,
    since: Since = None,
    until: Until = None,
    recent_since: Annotated[
        str | None, typer.Option(metavar="D", help="First UTC day of the recent phase.")
    ] = None,
    engine_version: Annotated[
        str | None,
        typer.Option(metavar="V", help="Wanted version of profile.", rich_help_panel=PRISM),
    ] = None,
    fc_version: Annotated[
        str | None,
        typer.Option(metavar="V", help="Wanted version of fc_scores.", rich_help_panel=PRISM),
    ] = None,
    basis: Annotated[
        str | None, typer.Option(help="Kind of the fc_scores. [functions]", rich_help_panel=PRISM)
    ] = None,
    throttle: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            envvar="BACKFILL_THROTTLE",
            help="Session starts in any 60 s, or none. [20]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            envvar="BACKFILL_BATCH_SIZE",
            help="Sessions per batch. [5, or 500 in bulk without a throttle]",
        ),
    ] = None,
    priority: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Goes first, by its id.")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Only the sessions of this file, one id a line. - for stdin."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N sessions of the plan.")
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            metavar="E",
            envvar="BACKFILL_ENVIRONMENT",
            help="The project's environment. Any other is refused.",
        ),
    ] = None,
    target: Target = None,
    want: Annotated[
        list[str] | None, typer.Option(metavar="COMPONENT=V", help="A version by component.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="A request to start from.", autocompletion=run_ids),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the target."),
    ] = None,
    inferred: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Accept inferred receipts of this target."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="direct|bulk",
            help="One call per step, or per batch. [direct]",
            autocompletion=modes,
        ),
    ] = None,
    rehearse: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Sessions to score and roll back, 0 for none. [5, or 0 in production]",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a plan that was cut off. Takes nothing else.",
            autocompletion=run_ids,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 4 if a mark of the plan failed.")
    ] = False,
    notify: Notify = None,
    as_json: AsJson = False,
) -> None:
    """Plan what is missing, and halt for approval."""
    if like or resume:
        # Another run's request fills in what the command line leaves out.
        throttle = _typed(ctx, "throttle", throttle)
        batch_size = _typed(ctx, "batch_size", batch_size)
        environment = _typed(ctx, "environment", environment)
        target = _typed(ctx, "target", target)
    with telling(notify, ignore) as hear, connected(on_event=hear) as bf:
        made = bf.plan(
            since=since,
            until=until,
            recent_since=recent_since,
            engine_version=engine_version,
            fc_version=fc_version,
            basis=basis,
            batch_size=batch_size,
            priority=priority,
            ids=None if ids is None else _ids_of(ids),
            limit=limit,
            environment=environment,
            target=target,
            want=_pairs(want, "--want is COMPONENT=VERSION", "--want invoice=v3"),
            parameters=_pairs(parameters, "--set is NAME=VALUE", "--set min_lines=2"),
            inferred=inferred,
            mode=cast(Mode | None, mode),
            like=like,
            rehearse=rehearse,
            resume=resume,
            throttle_per_minute=None if throttle is None else _throttle(throttle),
        )
    show_plan(made, as_json)
    end(exit_codes.of_plan(made.checks, is_strict=strict))


def _typed(ctx: typer.Context, option: str, value: T) -> T | None:
    """The value of an option if it was typed, None if a variable or a file gave it."""
    source = ctx.get_parameter_source(option)
    return value if source is not None and source.name == "COMMANDLINE" else None


def _ids_of(file: Path) -> list[str]:
    """The ids of a file, one a line, without empty lines. Raises BadRequest."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as failed:
        why = getattr(failed, "strerror", None) or "it is not in UTF-8"
        raise BadRequest(f"{file} cannot be read: {why}", "backfill plan … --ids FILE") from failed
    ids = [line for line in text.splitlines() if line.strip()]
    if not ids:
        raise BadRequest(f"{file} names no session", "write one id a line")
    return ids


def _throttle(text: str) -> Throttle:
    return throttle_of("--throttle", text, "backfill plan … --throttle 20")


def _pairs(given: list[str] | None, form: str, example: str) -> dict[str, str] | None:
    pairs: dict[str, str] = {}
    for item in given or []:
        name, _, value = item.partition("=")
        if not (name and value) or pairs.get(name, value) != value:
            raise BadRequest(
                f"{form}, once for each, not {item[:40]}", f"backfill plan … {example}"
            )
        pairs[name] = value
    return pairs or None


def write_page(page: str, file: Path, as_json: bool) -> None:
    """Write a page, and say where it is. Raises BadRequest if it cannot be written."""
    try:
        replace_file(file, [page])
    except OSError as failed:
        raise BadRequest(
            f"{file} could not be written: {failed.strerror}", "backfill show … --html FILE"
        ) from failed
    if as_json:
        terminal.print_json({"file": str(file)})
    else:
        terminal.out.print(str(file))


def show_plan(shown: Plan, as_json: bool, *, is_summary: bool = False) -> None:
    """Print a plan. is_summary: without what names each session."""
    if as_json:
        terminal.print_json(shown.summary() if is_summary else shown.as_dict())
    else:
        # Whoever reads it on a terminal may copy its lines. What is piped, others read.
        reader = own_name() if terminal.out.is_terminal else None
        terminal.print_markdown(plan_pieces(shown, is_summary=is_summary, approver=reader))
