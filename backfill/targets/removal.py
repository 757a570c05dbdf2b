"""The migrations that take a target, or all of ours, out of a project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from backfill.atomic_file import AS_ANY, replace_file
from backfill.errors import BadRequest, UsageError
from backfill.results.run import Json
from backfill.targets.declaration_values import NAME
from backfill.targets.install import _stamps, check_project
from backfill.targets.migrations import RELOAD, uninstall_file
from backfill.targets.sql import literal

UNINSTALL = "backfill_uninstall.sql"
TAKES_AWAY = "-- Take target {target} out of this project: backfill target remove {target}\n"
INDEX = TAKES_AWAY + "select backfill_private.remove_index({name});\n\n" + RELOAD
TARGET = TAKES_AWAY + "select backfill_private.remove_target({name});\n\n" + RELOAD


@dataclass(frozen=True, slots=True)
class Removal:
    """Migrations that take something away.

    what: in words. texts: of each new file by its name, in order. former: the names of the files
    that brought it, which stay. is_written: whether the new files are there.
    """

    what: str
    folder: Path
    texts: dict[str, str]
    former: tuple[str, ...]
    is_written: bool = False

    def as_dict(self) -> dict[str, Json]:
        """{folder, written, migrations, former}."""
        return {
            "folder": str(self.folder),
            "written": self.is_written,
            "migrations": list(self.texts),
            "former": list(self.former),
        }


def plan_removal(supabase_path: Path, now: datetime, target: str) -> Removal:
    """What takes a target away. Writes nothing.

    The new files have the former ones' names, so that a later `install` sees that they no longer
    hold. Raises BadRequest for what is no target's name, UsageError without a Supabase project.
    """
    if not NAME.fullmatch(target):
        raise BadRequest(f"{target[:40]} is no name of a target", "backfill targets")
    name = literal(target)
    texts = {
        f"backfill_{target}_index_sessions.sql": INDEX.format(target=target, name=name),
        f"backfill_{target}.sql": TARGET.format(target=target, name=name),
    }
    return _removal(f"target {target}", supabase_path, now, texts, tuple(texts))


def plan_uninstall(supabase_path: Path, now: datetime) -> Removal:
    """What takes all of ours away. Writes nothing. Raises UsageError without a Supabase project."""
    texts = {UNINSTALL: uninstall_file().read_text(encoding="utf-8")}
    return _removal("all of backfill", supabase_path, now, texts, ("backfill_",))


def carry_out(removal: Removal) -> Removal:
    """Write the migrations, each atomically. Raises UsageError if the folder cannot be written."""
    try:
        removal.folder.mkdir(exist_ok=True)
        for name, text in removal.texts.items():
            replace_file(removal.folder / name, [text], AS_ANY)
    except OSError as error:
        raise UsageError(
            f"cannot write into {removal.folder}: {error.strerror}", "backfill target remove NAME"
        ) from error
    return replace(removal, is_written=True)


def removal_text(removal: Removal) -> str:
    """What is written, what stays of it, and what to do with the former files."""
    verb = "wrote" if removal.is_written else "write"
    lines = [f"{removal.folder}:", *(f"  {verb} {name}" for name in removal.texts)]
    if not removal.is_written:
        return "\n".join([*lines, *_what_is_lost(removal)])
    return "\n".join([*lines, "Apply it:", "  supabase db push", *_of_the_former(removal)])


def _what_is_lost(removal: Removal) -> list[str]:
    if UNINSTALL in removal.texts or any(n.endswith(UNINSTALL) for n in removal.texts):
        return [
            "Plans, receipts and audit are lost with it, and no run can be undone any more.",
            "Export what you need first: backfill logs RUN",
        ]
    return [
        f"Runs, receipts and audit of {removal.what} stay."
        " They can no longer be verified or undone.",
        "While a run of it is not over, the database refuses.",
    ]


def _of_the_former(removal: Removal) -> list[str]:
    if not removal.former:
        return ["No former files of it are here."]
    return [
        "The former files stay: the project has them in its history, and a new database needs them",
        "before these.",
        *(f"  {name}" for name in removal.former),
        "Only if no project has applied them yet: delete them and the new ones instead.",
    ]


def _removal(
    what: str, supabase_path: Path, now: datetime, texts: dict[str, str], names: Sequence[str]
) -> Removal:
    check_project(supabase_path)
    folder = supabase_path / "migrations"
    present = sorted(f.name for f in folder.glob("*.sql"))
    stamps = _stamps(present, now)
    stamped = {f"{next(stamps)}_{name}": text for name, text in texts.items()}
    former = tuple(n for n in present if any(_is_of(n[15:], name) for name in names))
    return Removal(what, folder, stamped, former)


def _is_of(original: str, name: str) -> bool:
    """Whether a file is of this name, or begins so if the name is no file's."""
    if name.endswith(".sql"):
        return original == name
    # The core's own files keep their stamp behind ours.
    return original.startswith(name) or f"_{name}core" in original
