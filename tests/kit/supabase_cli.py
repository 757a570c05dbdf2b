"""The Supabase CLI from npm, for tests that do what a team does with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.npm import installed, run_node

CLI = "supabase@3.1.0"
# Node runs this script, since the program that npm installs has no build for some machines.
SCRIPT = Path("supabase/dist/supabase.js")


@pytest.fixture(scope="session")
def cli_script() -> Path:
    """The Supabase CLI from npm, installed once into the user's cache."""
    return installed(CLI) / SCRIPT


@pytest.fixture
def cli_home(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing of the caller's, for a CLI without telemetry."""
    return home_of_cli(tmp_path)


def home_of_cli(folder: Path) -> dict[str, str]:
    """The same in any folder."""
    return {"HOME": str(folder), "PATH": os.defpath, "DO_NOT_TRACK": "1"}


def run_cli(script: Path, environment: dict[str, str], *words: str) -> str:
    """Run `supabase WORDS` in the environment's HOME. Returns stdout. Asserts success."""
    home = Path(environment["HOME"])
    return run_node(str(script), *words, environment=environment, cwd=home)
