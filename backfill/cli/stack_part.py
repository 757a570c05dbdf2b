"""What the verbs of the embedded stack share: its modules, and the folder of its files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from backfill.errors import BackfillError

DEFAULT_DIR = Path(".backfill-local")

Dir = Annotated[Path, typer.Option("--dir", help="Where the stack keeps its files.")]


def stack_part(module: str) -> ModuleType:
    """A module of the embedded stack. Only the extra [local] brings what it needs."""
    try:
        return import_module(f"backfill.{module}")
    except ModuleNotFoundError as missing:
        raise BackfillError(
            f"the embedded stack needs {missing.name}, which is not installed",
            "pip install 'supabase-backfill[local]'",
        ) from missing
