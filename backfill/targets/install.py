"""Copy our migrations into a user's Supabase project, shown first. Nothing else is touched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backfill.atomic_file import AS_ANY, replace_file
from backfill.errors import UsageError
from backfill.results.history import History
from backfill.results.run import Json
from backfill.targets.declaration import PRISM, Declaration
from backfill.targets.migrations import OURS, RELOAD, builds_index_concurrently, core_files
from backfill.targets.views import index_sql, target_sql

STAMP = "%Y%m%d%H%M%S"
STAMPED = re.compile(r"(\d{14})_.+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One of our migrations and its place in a user's project.

    name: of the file there, `<14 digits>_<original_name>` if it is new. is_same: whether the file
    that is there equals ours, True if there is none.
    """

    original_name: str
    name: str
    text: str
    is_there: bool
    is_same: bool

    @property
    def stands_alone(self) -> bool:
        """Whether its statements cannot share a transaction."""
        return builds_index_concurrently(self.text)

    def as_dict(self) -> dict[str, Json]:
        """{original_name, name, is_there, is_same}."""
        return {
            "original_name": self.original_name,
            "name": self.name,
            "is_there": self.is_there,
            "is_same": self.is_same,
        }


@dataclass(frozen=True, slots=True)
class Installation:
    """What an install would do, or did once carried out. folder: the project's `migrations`.

    replaced: files of an earlier declaration that the project has not applied, to be removed.
    undecided: the same, if it is not known whether the project has applied them. They stay.
    ours: the timestamps of our files that were there. notes: sentences about the targets.
    has_target: whether the folder then declares any.
    """

    folder: Path
    migrations: tuple[Migration, ...]
    replaced: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    has_target: bool = True
    is_carried_out: bool = False

    @property
    def missing(self) -> tuple[Migration, ...]:
        """The migrations that are not there yet, in order."""
        return tuple(m for m in self.migrations if not m.is_there)

    @property
    def changed(self) -> tuple[Migration, ...]:
        """The migrations that are there under our name with another text."""
        return tuple(m for m in self.migrations if not m.is_same)

    @property
    def has_work(self) -> bool:
        """Whether there is a file to copy or to remove."""
        return bool(self.missing or self.replaced)

    def as_dict(self) -> dict[str, Json]:
        """{folder, carried_out, migrations, replaced, undecided, notes}."""
        return {
            "folder": str(self.folder),
            "carried_out": self.is_carried_out,
            "migrations": [m.as_dict() for m in self.migrations],
            "replaced": list(self.replaced),
            "undecided": list(self.undecided),
            "notes": list(self.notes),
        }


def plan_install(
    supabase_path: Path,
    now: datetime,
    targets: Sequence[Declaration] = (),
    history: History | None = None,
) -> Installation:
    """What an install into this Supabase folder would copy. Writes nothing.

    supabase_path: the folder with `config.toml`. now: with a time zone. New names begin with it in
    UTC, or with the second after the newest migration that is there. targets: each becomes a
    migration of its own and one for its index if it is declared, and a new one if its declaration
    changed. history: what the project says of the files that are `undecided` without it.
    Raises UsageError if this is not a Supabase project.
    """
    check_project(supabase_path)
    folder = supabase_path / "migrations"
    present = sorted(f.name for f in folder.glob("*.sql"))
    stamps = _stamps(present, now)
    core = [_placed(f.name, f.read_text("utf-8"), folder, present, stamps) for f in core_files()]
    placed = [_placed_target(t, folder, present, stamps, history) for t in targets]
    return Installation(
        folder,
        (*core, *(m for migrations, _, _ in placed for m in migrations)),
        replaced=tuple(n for _, replaced, _ in placed for n in replaced),
        undecided=tuple(n for _, _, undecided in placed for n in undecided),
        ours=tuple(n[:14] for n in present if OURS in n),
        notes=tuple(note for t in targets for note in _notes(t, supabase_path / "functions")),
        has_target=bool(targets) or any(OURS in n and "_core" not in n for n in present),
    )


def carry_out(installation: Installation) -> Installation:
    """Copy what is missing, each file atomically, then remove what is replaced.

    Safe to call again. Returns the installation, carried out. Raises UsageError before anything is
    copied if a file of ours was changed by hand, and UsageError if the folder cannot be written.
    """
    if installation.changed:
        names = ", ".join(m.name for m in installation.changed)
        raise UsageError(
            f"changed by hand, or of another version of backfill, and left as is: {names}",
            "compare it with ours, or move it away to have ours copied",
        )
    try:
        installation.folder.mkdir(exist_ok=True)
        for migration in installation.missing:
            replace_file(installation.folder / migration.name, [migration.text], AS_ANY)
        for name in installation.replaced:
            (installation.folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write into {installation.folder}: {error.strerror}", "backfill install"
        ) from error
    return replace(installation, is_carried_out=True)


def installation_text(installation: Installation) -> str:
    """What is copied where and what is skipped. Once carried out, also how to apply it."""
    lines = [f"{installation.folder}:", *(_line(m, installation) for m in installation.migrations)]
    removed = "removed" if installation.is_carried_out else "remove "
    lines += [
        f"  {removed} {name} (not applied: this takes its place)" for name in installation.replaced
    ]
    lines += installation.notes
    lines += _undecided(installation.undecided) if installation.missing else []
    is_done = not installation.has_work and not installation.changed
    if is_done:
        lines.append("Everything is there already.")
    if installation.is_carried_out:
        lines += _how_to_apply(installation)
    if is_done or installation.is_carried_out:
        lines += _next_step(installation)
    return "\n".join(lines)


def check_project(path: Path) -> None:
    """Raise UsageError if this is no folder of a Supabase project."""
    if (path / "config.toml").is_file():
        return
    inner = path / "supabase"
    is_one_up = (inner / "config.toml").is_file()
    raise UsageError(
        f"{path} is no Supabase project folder: there is no config.toml in it",
        f"backfill install --supabase-path {inner}" if is_one_up else "supabase init",
    )


def _texts_of(target: Declaration) -> list[tuple[str, str]]:
    """Name and text of a target's migrations. A later one of the same name replaces it."""
    declared = (f"backfill_{target.target}.sql", f"{target_sql(target)}\n{RELOAD}")
    # Unasked for it might be on a view, which only the database can tell.
    if target.source.index is None:
        return [declared]
    index = (f"backfill_{target.target}_index_sessions.sql", f"{index_sql(target)}\n{RELOAD}")
    return [declared, index]


def _placed(
    name: str, text: str, folder: Path, present: Sequence[str], stamps: Iterator[str]
) -> Migration:
    found = [n for n in present if n == name or n.endswith(f"_{name}")]
    if not found:
        return Migration(name, f"{next(stamps)}_{name}", text, False, True)
    return Migration(name, found[0], text, True, _read(folder / found[0]) == text)


def _placed_target(
    target: Declaration,
    folder: Path,
    present: Sequence[str],
    stamps: Iterator[str],
    history: History | None,
) -> tuple[list[Migration], list[str], list[str]]:
    """The target's migrations, the files that they replace, and those of which it is not known."""
    texts = dict(_texts_of(target))
    found = {n: [p for p in present if STAMPED.fullmatch(p) and p[15:] == n] for n in texts}
    placed = [_declared(name, text, folder, found[name], stamps) for name, text in texts.items()]
    applied = _applied(target.target, [n for names in found.values() for n in names], history)
    former = [n for m in placed for n in found[m.original_name] if n != m.name]
    if applied is None:
        return placed, [], former
    return placed, [name for name in former if name[:14] not in applied], []


def _declared(
    name: str, text: str, folder: Path, found: Sequence[str], stamps: Iterator[str]
) -> Migration:
    """The newest migration of this name if its text is the same, else a new one."""
    if found and _read(folder / found[-1]) == text:
        return Migration(name, found[-1], text, True, True)
    return Migration(name, f"{next(stamps)}_{name}", text, False, True)


def _applied(target: str, files: Sequence[str], history: History | None) -> frozenset[str] | None:
    """The timestamps of a target's files that are applied. None if that is not known.

    A target that is there without any of its files on record was installed by other means.
    """
    if history is None or history.applied is None:
        return None
    is_recorded = any(name[:14] in history.applied for name in files)
    return history.applied if is_recorded or target not in history.targets else None


def _notes(target: Declaration, functions: Path) -> list[str]:
    """Whether the scoring functions may be Edge Functions, though SQL functions are declared."""
    called = {c.bare_function for c in target.components if c.transport == "rpc"}
    beside = sorted(name for name in called if (functions / name).is_dir())
    if target.target == PRISM and called:
        wrong = "backfill install --target prism-edge"
        return [f"The scorers of prism are SQL functions. If yours are Edge Functions: {wrong}"]
    return [
        f"{name} is declared as a SQL function, and {functions / name} is an Edge Function. "
        'If that is the scorer: transport = "edge"'
        for name in beside
    ]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _stamps(present: Sequence[str], now: datetime) -> Iterator[str]:
    """Timestamps one second apart, from now on and after every migration that is there."""
    at = now.astimezone(UTC)
    last = max((name for name in present if STAMPED.fullmatch(name)), default="")
    if last[:14] >= at.strftime(STAMP):
        at = _moment_of(last) + timedelta(seconds=1)
    while True:
        yield at.strftime(STAMP)
        at += timedelta(seconds=1)


def _moment_of(name: str) -> datetime:
    try:
        return datetime.strptime(name[:14], STAMP).replace(tzinfo=UTC)
    except ValueError as error:
        raise UsageError(
            f"{name} begins with no timestamp, and nothing can be put after it", "rename it"
        ) from error


def _line(migration: Migration, installation: Installation) -> str:
    if not migration.is_same:
        return f"  left    {migration.name} (changed by hand, or of another version)"
    if migration.is_there:
        return f"  skipped {migration.name} (there already)"
    return f"  {'copied ' if installation.is_carried_out else 'copy   '} {migration.name}"


def _how_to_apply(installation: Installation) -> list[str]:
    new = installation.missing or installation.migrations
    return [
        "Apply what this project does not have yet:",
        "  supabase db push",
        "or, without the CLI, in this order:",
        *(_psql(installation.folder, m) for m in new),
        *(_alone(m) for m in new if m.stands_alone),
    ]


def _next_step(installation: Installation) -> list[str]:
    if installation.has_target:
        return ["Then:", "  backfill check"]
    return [
        "Then say which rows may be missing, and which functions write them:",
        "  backfill target new",
        "or install one that comes with the package:",
        "  backfill install --target prism",
        "  backfill install --target prism-edge    # its scorers are Edge Functions",
    ]


def _undecided(names: Sequence[str]) -> list[str]:
    """What to do about files of an earlier declaration that may be applied or not."""
    if not names:
        return []
    return [
        "An earlier declaration is there too, and it is not known whether it is applied:",
        *(f"  {name}" for name in names),
        "  If supabase db push refused it, delete it: it would be refused again, and stop every",
        "  later push. Keep it if any project has applied it: supabase migration list shows that.",
    ]


def _psql(folder: Path, migration: Migration) -> str:
    together = "" if migration.stands_alone else " --single-transaction"
    file = (folder / migration.name).as_posix()
    return f'  psql "$DATABASE_URL" -v ON_ERROR_STOP=1{together} -f "{file}"'


def _alone(migration: Migration) -> str:
    return (
        f"{migration.name} is applied by itself:\n"
        "  create index concurrently cannot run inside a transaction. A supabase CLI before 2.109\n"
        "  cannot push it: apply it with psql, then\n"
        f"  supabase migration repair --status applied {migration.name[:14]}"
    )
