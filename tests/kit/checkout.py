"""Copies of the checkout, for what changes files before it runs tests."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("backfill", "tests", "supabase", "sql")
FILES = ("pyproject.toml", "README.md")


def copy_checkout(copy: Path) -> None:
    """What tests that read no other page need of the checkout, into a new folder."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
