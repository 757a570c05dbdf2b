"""The command line's verbs about standing approvals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backfill.cli import login, terminal
from backfill.cli import plan as planning
from backfill.cli.answers import show_status
from backfill.cli.options import AsJson, Run, Target, connected
from backfill.cli.plain import of_others
from backfill.render.standing import standing_section
from backfill.results.standing import StandingApproval

verbs = typer.Typer()
standing = typer.Typer(help="Let a rule approve runs: standing approvals.", no_args_is_help=True)

verbs.add_typer(standing, name="standing")

Standing = Annotated[
    str, typer.Argument(metavar="ID", help="Its id, or at least 8 characters of it.")
]


@standing.command(
    epilog="Example: backfill standing new --target prism --until 2026-12-31 --max-sessions 50"
)
def new(
    max_sessions: Annotated[int, typer.Option(metavar="N", help="Most sessions of one run.")],
    until: Annotated[
        str | None, typer.Option("--until", metavar="D", help="Its last UTC day. It needs one.")
    ] = None,
    target: Target = None,
    max_per_day: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most sessions of the target per UTC day. [no bound]"),
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(metavar="N", help="Most scoring calls of one run. [no bound]")
    ] = None,
    throttle: Annotated[
        int | None, typer.Option(metavar="N", help="Highest throttle of a run. [any]")
    ] = None,
    hours: Annotated[
        str | None, typer.Option(metavar="H-H", help="UTC hours, such as 01-05. [any]")
    ] = None,
    weekdays: Annotated[
        str | None, typer.Option(metavar="DAYS", help="UTC weekdays, such as mon-fri. [any]")
    ] = None,
    marks: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A mark that must be ok, or all. None may ever fail."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Rows may be replaced, too. [new rows only]")
    ] = False,
    environment: Annotated[
        str | None,
        typer.Option(
            metavar="E",
            envvar="BACKFILL_ENVIRONMENT",
            help="The project's environment. Any other is refused.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Propose a rule by which runs are approved. A person approves it like a plan."""
    with connected() as bf:
        proposed = bf.propose_standing(
            until=until,
            max_sessions=max_sessions,
            target=target,
            max_per_day=max_per_day,
            max_calls=max_calls,
            throttle=throttle,
            hours=hours,
            weekdays=weekdays,
            marks=_names(marks),
            replace=replace,
            environment=environment,
        )
    show_standing(proposed, as_json)


def _names(given: list[str] | None) -> list[str]:
    """Names, some of which may stand in one option with commas between them."""
    return [name.strip() for part in given or () for name in part.split(",")]


@standing.command("list", epilog="Example: backfill standing list --html standing.html")
def list_(
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them as a page.")] = None,
    as_json: AsJson = False,
) -> None:
    """The standing approvals, the newest first."""
    with connected() as bf:
        if html is not None:
            planning.write_page(bf.standing_page(), html, as_json)
            return
        found = bf.standings()
    if as_json:
        terminal.print_json([s.as_dict() for s in found])
    elif found:
        terminal.out.print(
            terminal.table(
                "id", "target", "state", "until", "runs", "sessions", "why not in force",
                rows=map(_row, map(of_others, found)),
            )
        )  # fmt: skip
    else:
        terminal.out.print("there is no standing approval")
        terminal.print_next("backfill standing new --until D --max-sessions N")


def _row(one: StandingApproval) -> tuple[object, ...]:
    until = f"{one.until:%Y-%m-%d %H:%M}"
    return (
        one.standing_id[:8], one.target, one.state, until, one.runs, one.sessions, one.why or "",
    )  # fmt: skip


@standing.command(epilog='Example: backfill standing revoke 4f2c1b9e --reason "scorers changed"')
def revoke(
    standing_id: Standing,
    reason: Annotated[str, typer.Option("--reason", help="Why. Kept with it.")],
    email: login.As = None,
    as_json: AsJson = False,
) -> None:
    """Revoke one at once: runs that it allowed start no further session."""
    with connected() as bf:
        revoked = bf.revoke_standing(standing_id, reason=reason, access_token=login.token(email))
    show_standing(revoked, as_json)


@standing.command(epilog="Example: backfill standing ask 4f2c1b9e")
def ask(run: Run, as_json: AsJson = False) -> None:
    """Ask whether one covers a run that awaits approval, as once its hours have begun."""
    with connected() as bf:
        show_status(bf.ask_standing(run), as_json)


def show_standing(one: StandingApproval, as_json: bool) -> None:
    """A standing approval, for machines or for people."""
    if as_json:
        terminal.print_json(one.as_dict())
    else:
        terminal.print_markdown([standing_section(one)])
