"""Where the SQL lives: in the wheel beside this module, in a checkout at the top."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

OURS = "_backfill_"
CORE = "_backfill_core"
RELOAD = "notify pgrst, 'reload schema';\n"  # how every migration of ours ends


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
