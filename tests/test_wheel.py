"""The package as people get it: sdist, the wheel of that sdist, and the demonstration from it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import Distribution, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs
import pytest
from packaging.requirements import Requirement

import backfill
from backfill.local.parts import open_temp_root
from tests.kit.readme import ROOT, claim
from tests.test_demo import SHOWN

NAME = f"supabase_backfill-{backfill.__version__}"
WHEEL = f"{NAME}-py3-none-any.whl"
PAGE = claim("Install", "pip wheel --no-deps --wheel-dir vendor .", "built without pip")


def built(source: Path, kind: str, into: Path) -> Path:
    """What hatchling, the build backend, makes of a source tree. No network is asked."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind]
    command += ["--directory", str(into)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    [made] = into.glob(f"{NAME}*")
    return made


def needed(wheel: Path, extra: str) -> dict[str, Distribution]:
    """The distributions that a wheel with this extra asks for, and those that these ask for."""
    metadata = zipfile.ZipFile(wheel).read(f"{NAME}.dist-info/METADATA")
    asked = [(text, extra) for text in message_from_bytes(metadata).get_all("Requires-Dist", [])]
    found: dict[str, Distribution] = {}
    while asked:
        text, wanted = asked.pop()
        one = Requirement(text)
        if one.marker and not one.marker.evaluate({"extra": wanted}):
            continue
        if one.name not in found:
            found[one.name] = distribution(one.name)
            assert one.specifier.contains(found[one.name].version, prereleases=True), text
        asked += [(more, e) for e in (*one.extras, "") for more in found[one.name].requires or []]
    return found


def linked(into: Path, distributions: dict[str, Distribution]) -> None:
    """Put distributions into an environment as links to this one's files: pip takes 40 s for it."""
    for one in distributions.values():
        for file in one.files or []:
            top = Path(file.parts[0])
            if ".." not in file.parts and not (into / top).exists():
                (into / top).symlink_to(Path(str(one.locate_file(top))))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's account may enter when the tests run as root."""
    with TemporaryDirectory(prefix="backfill-wheel-", dir=open_temp_root()) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_demonstration_runs_from_the_wheel_in_an_empty_environment(folder: Path) -> None:
    """The sdist is whole, the wheel carries all of it, and names every package that it needs.

    The wheel is built from the sdist. The environment has the wheel, and what its metadata asks
    for: nothing of the checkout and none of the test's other packages.
    """
    sdist = built(ROOT, "sdist", folder / "sdist")
    with tarfile.open(sdist) as archive:
        # Without a filter: Debian 12's own Python, 3.11.2, has none yet.
        archive.extractall(folder)  # noqa: S202 - our own
    wheel = built(folder / NAME, "wheel", folder / "wheel")
    assert wheel.name == WHEEL
    assert f"vendor/{WHEEL}" in PAGE
    assert all((folder / NAME / page).exists() for page in (".github/plan.png", "tests/kit"))
    venv.create(folder / "venv", with_pip=False)
    packages = next((folder / "venv" / "lib").iterdir()) / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".md")] == []
        archive.extractall(packages)  # noqa: S202 - our own
    linked(packages, needed(wheel, "local"))
    assert not (packages / "pytest").exists()
    ran = subprocess.run(
        [folder / "venv" / "bin" / "python", "-m", "backfill", "demo"],
        cwd=folder,
        env={
            "PATH": os.defpath,
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(platformdirs.user_cache_path()),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert [line for line in SHOWN if line not in ran.stdout] == []
