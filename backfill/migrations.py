"""The migrations: where they live, in the wheel or the checkout, and how one is executed."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

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
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / "supabase"


def all_files() -> list[Traversable]:
    """Every migration of the sample project, ours among them, in the order in which they apply."""
    folder = project_folder() / "migrations"
    return sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)


def our_files() -> list[Traversable]:
    """The migrations of ours in the sample project, its target's among them, in order."""
    return [f for f in all_files() if OURS in f.name]


def core_files() -> list[Traversable]:
    """Those that every project needs, whatever its targets, in order."""
    return [f for f in our_files() if CORE in f.name]


def functions_folder() -> Path:
    """The sample's scorers as Edge Functions. A wheel is installed as files, so this is a path."""
    return Path(str(project_folder() / "functions"))


def seed_file() -> Traversable:
    """The sample's data."""
    return project_folder() / "seed.sql"


def uninstall_file() -> Traversable:
    """What removes all of ours and leaves the user's tables as they were."""
    shipped = files("backfill") / "project" / "uninstall.sql"
    return shipped if shipped.is_file() else Path(__file__).parent.parent / "sql" / "uninstall.sql"


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
    """Whether PostgreSQL would refuse the script inside a transaction: it goes by statements."""
    return any(_INDEX_BESIDE_WRITERS.match(statement) for statement in statements(script))
