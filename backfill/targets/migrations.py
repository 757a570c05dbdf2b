"""The migrations: where they are in a wheel or a checkout, how one is split, how they are made."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from backfill.targets.declaration import PRISM, declared
from backfill.targets.views import index_sql, target_sql

TOP = Path(__file__).parents[2]  # of a checkout
SQL = TOP / "sql"
MIGRATIONS = TOP / "supabase" / "migrations"
OURS = "_backfill_"
CORE = "_backfill_core"
RELOAD = "notify pgrst, 'reload schema';\n"  # how every migration of ours ends

# A string, a dollar-quoted body, a quoted name or a comment may hold a semicolon that ends nothing.
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|(\$\w*\$).*?\1|;|[^-/'\"$;]+|.", re.DOTALL
)
_INDEX_BESIDE_WRITERS = re.compile(r"create\s+(unique\s+)?index\s+concurrently\b", re.IGNORECASE)


def project_folder() -> Traversable:
    """The folder that holds `migrations/` and `seed.sql`: the wheel's copy, else the checkout's."""
    shipped = files("backfill") / "project"
    return shipped if shipped.is_dir() else TOP / "supabase"


def all_files() -> list[Traversable]:
    """Every migration of the sample project, including ours, in the order in which they apply."""
    folder = project_folder() / "migrations"
    return sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)


def our_files() -> list[Traversable]:
    """Our migrations in the sample project, including its target's, in order."""
    return [f for f in all_files() if OURS in f.name]


def core_files() -> list[Traversable]:
    """The migrations that every project needs with any targets, in order."""
    return [f for f in our_files() if CORE in f.name]


def functions_folder() -> Path:
    """The sample's scorers as Edge Functions. A wheel is installed as files, so this is a path."""
    return Path(str(project_folder() / "functions"))


def headers_file() -> Path:
    """What Edge Functions hand our headers on with."""
    return functions_folder() / "_shared" / "backfill.ts"


def seed_file() -> Traversable:
    """The sample's data."""
    return project_folder() / "seed.sql"


def uninstall_file() -> Traversable:
    """The script that removes all of ours and leaves the user's tables as they were."""
    shipped = files("backfill") / "project" / "uninstall.sql"
    return shipped if shipped.is_file() else SQL / "uninstall.sql"


def statements(script: str) -> list[str]:
    """The statements of a script without its comments, as psql sends them one by one."""
    pieces = [""]
    for token in _TOKEN.finditer(script):
        if token[0] == ";":
            pieces.append("")
        elif not token[0].startswith(("--", "/*")):
            pieces[-1] += token[0]
    return [piece.strip() for piece in pieces if piece.strip()]


def builds_index_concurrently(script: str) -> bool:
    """Whether any statement builds an index concurrently, which no transaction may."""
    return any(_INDEX_BESIDE_WRITERS.match(statement) for statement in statements(script))


# Made in a checkout --------------------------------------------------------------------------


# Files are sorted for readers, so a function may call one that is created later. Tests check every
# body.
UNCHECKED = "set check_function_bodies = off;"
CHECKED = "reset check_function_bodies;"


def declared_files() -> list[Path]:
    """The files of `sql/` that declare the core: folders by number, tables first in each."""
    folders = sorted(SQL.glob("[0-9][0-9]_*"))
    return [
        file
        for folder in folders
        for file in sorted(folder.glob("*.sql"), key=lambda f: (not f.name.startswith("_"), f.name))
    ]


def generated() -> dict[Path, str]:
    """Path -> text of what is made from PRISM's declaration."""
    prism = declared(PRISM)
    return {
        SQL / "prism" / "views.sql": target_sql(prism),
        SQL / "prism" / "index.sql": index_sql(prism),
    }


def built() -> dict[str, str]:
    """Name -> text of every migration, made from `sql/` as it is now.

    The index has a migration of its own: it cannot share a transaction.
    """
    views, index = (path.read_text() for path in generated())
    core = [f"-- from {f.relative_to(TOP)}\n{f.read_text()}" for f in declared_files()]
    return {
        "20251101000000_backfill_core.sql": "\n".join([UNCHECKED, *core, CHECKED, RELOAD]),
        "20251101000100_backfill_prism.sql": "\n".join([views, RELOAD]),
        "20251101000200_backfill_prism_index_sessions.sql": "\n".join([index, RELOAD]),
    }


def make() -> None:
    """Write the files that differ and print their names: generated SQL first, then migrations."""
    _write(generated())
    _write({MIGRATIONS / name: text for name, text in built().items()})


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"written: {path.relative_to(TOP)}")


if __name__ == "__main__":
    make()
