"""The command line's verbs about targets: draft one, check a file, list them, take one away."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backfill.cli import exit_codes, terminal
from backfill.cli.options import AsJson, connected, end
from backfill.cli.plain import of_others, one_line
from backfill.results.target import InstalledTarget, TargetCheck

if TYPE_CHECKING:
    from backfill.targets.removal import Removal

verbs = typer.Typer()
target = typer.Typer(help="Declare what a backfill is about.", no_args_is_help=True)

verbs.add_typer(target, name="target")

SupabasePath = Annotated[Path, typer.Option(help="The project's folder that holds config.toml.")]
Yes = Annotated[bool, typer.Option("--yes", help="Write without asking.")]


@verbs.command(epilog="Example: backfill targets --json")
def targets(as_json: AsJson = False) -> None:
    """The installed targets: their components, their coverage of all dates, since when."""
    with connected() as bf:
        found = bf.targets()
    if as_json:
        terminal.print_json([t.as_dict() for t in found])
    elif found:
        terminal.out.print(
            terminal.table("target", "components", "coverage", "installed", rows=map(_row, found))
        )
    else:
        terminal.out.print("no target is installed")
        terminal.print_next("backfill target new NAME --source TABLE --derived TABLE")


def _row(one: InstalledTarget) -> tuple[str, ...]:
    coverage = "n/a" if one.coverage is None else f"{one.coverage:.2%}"
    return one.target, ", ".join(one.components), coverage, f"{one.installed_at:%Y-%m-%d %H:%M}"


@target.command(
    epilog="Example: backfill target new orders --source public.orders --derived public.invoices"
)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the target is called.")],
    source: Annotated[
        str | None, typer.Option(metavar="TABLE", help="The table or view of what may lack rows.")
    ] = None,
    derived: Annotated[
        list[str] | None, typer.Option(metavar="TABLE", help="A table of what it may lack.")
    ] = None,
    function: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A function that writes it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where it goes. [NAME.toml]")
    ] = None,
    supabase_path: SupabasePath = Path("supabase"),
    yes: Annotated[
        bool, typer.Option("--yes", help="Take the likeliest, and replace the file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Draft the file of a target from what the project has, and ask what cannot be known."""
    from backfill.cli import asking
    from backfill.cli import draft as drafted
    from backfill.targets.catalog import catalog_of
    from backfill.targets.draft import draft_of
    from backfill.targets.draft_parts import Wanted, likeliest
    from backfill.targets.edge_sources import edge_functions

    file = output or Path(f"{name}.toml")
    asks = asking.is_possible() and not yes
    if file.exists() and not yes:
        drafted.refuse_or_replace(file, asks)
    with connected() as bf:
        catalog = catalog_of(bf.catalog())
    wanted = Wanted(name, source, tuple(derived or ()), tuple(function or ()))
    edge = edge_functions(supabase_path / "functions")
    draft = draft_of(wanted, catalog, edge, drafted.ask if asks else likeliest)
    drafted.write(file, draft)
    if as_json:
        terminal.print_json({"file": str(file), **draft.as_dict()})
        return
    terminal.out.print(f"wrote {file}")
    for note in draft.undecided:
        terminal.out.print(f"  to be looked at: {one_line(note)}")
    terminal.print_next(f"backfill target check {file}")


@target.command(epilog="Example: backfill target check orders.toml")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The TOML file of a target.")],
    supabase_path: SupabasePath = Path("supabase"),
    as_json: AsJson = False,
) -> None:
    """Hold a file against the project, before any migration: every fault at once."""
    with connected() as bf:
        found = bf.check_target(file, functions_dir=supabase_path / "functions")
    if as_json:
        terminal.print_json({"file": str(file), **found.as_dict()})
    else:
        print_check(file, found)
    end(exit_codes.of_target_check(found))


def print_check(file: Path, found: TargetCheck) -> None:
    """One line per fault, as compilers have it, and what to do next."""
    found = of_others(found)
    for error in found.errors:
        where = f" {error.where}:" if error.where else ""
        terminal.out.print(f"{file}:{error.line}:{where} {error.message}")
        if error.next_step:
            terminal.out.print(f"    {error.next_step}")
    for warning in found.warnings:
        told = f"{file}:{warning.line}: warning: {warning.where}: {warning.message}"
        terminal.out.print(told)
    if found.passes:
        terminal.out.print(f"{file}: target {found.target} can be installed")
        terminal.print_next(f"backfill install --target {file}")
    else:
        terminal.print_next(f"correct {file}, then backfill target check {file}")


@target.command(epilog="Example: backfill target remove orders")
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The target, as `targets` has it.")],
    supabase_path: SupabasePath = Path("supabase"),
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Write the migration that takes a target out of the project."""
    from backfill.targets.removal import plan_removal

    _write(plan_removal(supabase_path, datetime.now(UTC), name), yes, as_json)


@verbs.command(epilog="Example: backfill uninstall --supabase-path supabase")
def uninstall(
    supabase_path: SupabasePath = Path("supabase"), yes: Yes = False, as_json: AsJson = False
) -> None:
    """Write the migration that takes all of ours out of the project."""
    from backfill.targets.removal import plan_uninstall

    _write(plan_uninstall(supabase_path, datetime.now(UTC)), yes, as_json)


def _write(planned: Removal, yes: bool, as_json: bool) -> None:
    from backfill.targets.removal import carry_out, removal_text

    if not as_json:
        terminal.out.print(removal_text(planned))
    if not yes:
        terminal.confirm("Write?")
    written = carry_out(planned)
    if as_json:
        terminal.print_json(written.as_dict())
    else:
        terminal.out.print(removal_text(written))
