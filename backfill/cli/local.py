"""The command line's verbs that need no project: install, demo, and the embedded stack."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backfill.cli import exit_codes, terminal
from backfill.cli.local_users import user
from backfill.cli.options import AsJson, connected
from backfill.cli.plain import one_line
from backfill.cli.stack_part import DEFAULT_DIR, Dir, stack_part
from backfill.cli.target import print_check
from backfill.errors import BackfillError, BadRequest
from backfill.results.history import History
from backfill.results.run import Json

if TYPE_CHECKING:
    from backfill.targets.declaration import Declaration

verbs = typer.Typer()
local = typer.Typer(help="A Supabase-like project on this machine.", no_args_is_help=True)

verbs.add_typer(local, name="local")
local.add_typer(user, name="user")


def _announce(message: str) -> None:
    terminal.err.print(message)


@verbs.command(epilog="Example: backfill install --supabase-path supabase")
def install(
    supabase_path: Annotated[
        Path, typer.Option(help="The project's folder that holds config.toml.")
    ] = Path("supabase"),
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A declared target: a TOML file, prism, or prism-edge. Without it the core alone.",
        ),
    ] = None,
    functions: Annotated[
        bool,
        typer.Option(
            "--functions", help="Add the file with which Edge Functions hand our headers on."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Copy without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy our migrations into a Supabase project: shows, asks, skips what is there.

    A file of an earlier declaration that the project has not applied is replaced. A target's file
    is held against the project first, if the environment names one that has the core.
    """
    # Reading SQL takes a while to import, and no other verb needs it.
    from backfill.targets.install import check_project

    check_project(supabase_path)
    told: dict[str, Json] = {}
    if functions and not target:
        told = _install_headers_file(supabase_path, yes, as_json)
    else:
        declared = _declared(target or [], supabase_path, as_json)
        if functions:
            told = _install_headers_file(supabase_path, yes, as_json)
        told = {**_install_migrations(supabase_path, declared, yes, as_json), **told}
    if as_json:
        terminal.print_json(told)


def _declared(given: list[str], supabase_path: Path, as_json: bool) -> list[Declaration]:
    """The declared targets. Ends with the faults of the first file that has any."""
    from backfill.targets import declaration

    declared = [declaration.declared(one) for one in given]
    for one in given:
        if one not in declaration.SHIPPED:
            _hold_against_project(Path(one), supabase_path, as_json)
    return declared


def _install_migrations(
    supabase_path: Path, declared: Sequence[Declaration], yes: bool, as_json: bool
) -> dict[str, Json]:
    """Copy the migrations of the core and of these targets. Returns what to tell of it."""
    from backfill.targets.install import carry_out, installation_text, plan_install

    planned = plan_install(supabase_path, datetime.now(UTC), declared)
    if planned.undecided:
        history = _history(planned.ours)
        planned = plan_install(supabase_path, datetime.now(UTC), declared, history)
    if not as_json:
        terminal.out.print(installation_text(planned))
    if planned.has_work and not yes:
        terminal.confirm("Copy?")
    carried = carry_out(planned)
    if planned.has_work and not as_json:
        terminal.out.print(installation_text(carried))
    return carried.as_dict()


def _hold_against_project(file: Path, supabase_path: Path, as_json: bool) -> None:
    """End with a file's faults, if the environment names a project that has the core."""
    try:
        with connected() as bf:
            found = bf.check_target(file, functions_dir=supabase_path / "functions")
    except BackfillError:
        return  # no project, or none yet that could tell: the migration refuses what is wrong
    if found.passes:
        return
    if as_json:
        terminal.print_json({"file": str(file), **found.as_dict()})
    else:
        print_check(file, found)
    raise typer.Exit(exit_codes.of_target_check(found))


def _history(versions: Sequence[str]) -> History | None:
    """What the project says about these migrations. None if it cannot be asked, and why."""
    try:
        with connected() as bf:
            return bf.history(versions)
    except BackfillError as unknown:
        why = one_line(unknown.message)
        _announce(f"the project was not asked which migrations it has applied: {why}")
        return None


def _install_headers_file(supabase_path: Path, yes: bool, as_json: bool) -> dict[str, Json]:
    """Copy the file with which Edge Functions hand our headers on. Returns what to tell of it."""
    from backfill.targets.headers_file import HOW_TO_USE, copy_headers_file, plan_headers_file

    planned = plan_headers_file(supabase_path)
    if planned.state == "missing" and not yes:
        _announce(str(planned))
        terminal.confirm("Copy?")
    copied = copy_headers_file(planned)
    if not as_json:
        terminal.out.print(f"{copied}\n{HOW_TO_USE}", soft_wrap=True)
    return {"functions": copied.as_dict()}


@verbs.command(epilog="Example: backfill demo --throttle 20")
def demo(
    throttle: Annotated[int, typer.Option(min=1, help="Session starts in any 60 s.")] = 600,
    transport: Annotated[
        str, typer.Option(metavar="rpc|edge", help="Score in SQL, or by Edge Functions.")
    ] = "rpc",
    as_json: AsJson = False,
) -> None:
    """Start a project, plan, halt, approve, apply, verify, undo a date range, stop."""
    if transport not in ("rpc", "edge"):
        raise BadRequest(f"a transport is rpc or edge, not {transport[:40]}", "backfill demo")
    demonstration = stack_part("cli.demo")
    tell = _announce if as_json else demonstration.print_line
    shown = demonstration.demonstrate(
        throttle, over_edge=transport == "edge", tell=tell, announce=_announce
    )
    if as_json:
        terminal.print_json(shown)


@local.command(epilog="Example: backfill local start --sample none")
def start(
    directory: Dir = DEFAULT_DIR,
    sample: Annotated[
        str | None,
        typer.Option(metavar="seed|N|none", help="The sample project with its data. [seed]"),
    ] = None,
    functions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Serve the Edge Functions of this folder."),
    ] = None,
    privileges: Annotated[
        str | None,
        typer.Option(
            metavar="2025|2026",
            help="2025: new tables are open to the API roles, as before 2026-10-30. [2026]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start PostgreSQL, PostgREST and the gateway."""
    if functions is not None and not functions.is_dir():
        raise BadRequest(f"{functions} is no folder", "backfill local start --functions DIR")
    running = stack_part("local.stack").start(
        directory, sample=sample, functions=functions, privileges=privileges, announce=_announce
    )
    if as_json:
        served = {"served": running.functions, "failed": running.failed}
        terminal.print_json({"url": running.url, "dir": str(directory), "functions": served})
        return
    terminal.out.print(f"running at {running.url}")
    if running.functions:
        named = ", ".join(running.functions)
        terminal.out.print(f"Edge Functions: {named}", soft_wrap=True)
    for name, why in running.failed.items():
        terminal.out.print(f"{name} did not start: {one_line(why)}", soft_wrap=True)
    if running.failed:
        terminal.print_next(f"backfill local logs{_named(directory)}")
    terminal.print_next(f'eval "$(backfill local env{_named(directory)})"')


def _named(directory: Path) -> str:
    """The option that names the folder, if it needs naming."""
    return "" if directory == DEFAULT_DIR else f" --dir {shlex.quote(str(directory))}"


@local.command(epilog="Example: backfill local logs score_order --lines 50")
def logs(
    name: Annotated[
        str | None, typer.Argument(metavar="[FUNCTION]", help="Of this Edge Function alone.")
    ] = None,
    directory: Dir = DEFAULT_DIR,
    lines: Annotated[int, typer.Option(min=1, help="So many of the last lines.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Show what the Edge Functions have printed since the last start."""
    file, shown = stack_part("local.stack").function_lines(directory, name, lines)
    if as_json:
        terminal.print_json({"file": str(file), "lines": shown})
        return
    for line in shown:
        terminal.write(line)
    _announce(f"The whole log: {file}")


@local.command(epilog="Example: backfill local stop")
def stop(directory: Dir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Stop it. The data stay for the next start."""
    was_running = stack_part("local.stack").stop(directory)
    if as_json:
        terminal.print_json({"stopped": was_running})
    else:
        terminal.out.print("stopped" if was_running else "nothing was running")


@local.command(epilog="Example: backfill local env --json")
def env(directory: Dir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Print export lines for a shell."""
    variables = stack_part("local.stack").env(directory)
    if as_json:
        terminal.print_json(variables)
        return
    for name, value in variables.items():
        terminal.write(f"export {name}={shlex.quote(value)}")
