"""A service that imports us is typed to its edges: mypy --strict, and no Any but where JSON is."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

import backfill

ROOT = Path(__file__).parent.parent
# What mypy keeps of a package is used again if its files are the same.
KEPT = ("--cache-dir", str(platformdirs.user_cache_path("backfill") / "mypy"))
# What PostgreSQL's jsonb holds, and what `--json` prints: their docstrings name the keys.
JSON = re.compile(
    r"\.(as_dict|told|candidates|conflicts|details|request|figures|audit|buckets|not_wanted)$"
    r"|\.(expected_writes|summary|elsewhere)$"
    r"|\.(Plan|Verification|UndoEffect|Event|Undo)$"  # constructors: a verb makes these
)


MISTAKES = {
    "bf.plan(since=3)": "arg-type",
    "backfill.conect()": "attr-defined",
    "bf.apply('r', concurency=2)": "call-arg",
    "backfill.connect(on_event=print if bf else bf.check)": "arg-type",
    "backfill.connect(on_event=lambda e: print(e.kind == 'finished'))": "comparison-overlap",
    "print(bf.verify('r').verdict == 'ok')": "comparison-overlap",
    "print(bf.status('r').state.done)": "union-attr",
    "bf.get('r').digest = 'd'": "misc",
}


def public() -> list[str]:
    """Every public name, and every public member of the classes among them, as expressions."""
    names = []
    for name in backfill.__all__:
        names.append(f"backfill.{name}")
        found = getattr(backfill, name)
        if inspect.isclass(found):
            members = {*dir(found), *getattr(found, "__annotations__", {})} - set(dir(Exception))
            names += [f"backfill.{name}.{m}" for m in sorted(members) if not m.startswith("_")]
    return names


def revealing(n: int, expression: str) -> str:
    """A line that asks for the type of an expression."""
    owner, _, member = expression.removeprefix("backfill.").partition(".")
    if not member:
        return f"reveal_type({expression})"
    return f"def _{n}(it: backfill.{owner}) -> None: reveal_type(it.{member})"


# The lines of each of the stranger's modules.
STRANGER = {
    "reveals": ["import backfill", *(revealing(n, name) for n, name in enumerate(public()))],
    "mistakes": [
        "import backfill",
        "def f(bf: backfill.Backfill) -> None:",
        *(f"    {mistake}" for mistake in MISTAKES),
    ],
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy --strict says of each of a stranger's modules, by its name: "line: …"."""
    folder = tmp_path_factory.mktemp("stranger")
    for name, lines in STRANGER.items():
        (folder / f"{name}.py").write_text("\n".join(lines))
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *KEPT, "."],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    found = [line.partition(".py:") for line in ran.stdout.splitlines()]
    return {name: [line for of, _, line in found if of == name] for name in STRANGER}


def test_the_package_says_that_it_is_typed() -> None:
    """Without the marker a type checker ignores an installed package's annotations."""
    assert (Path(backfill.__file__).parent / "py.typed").is_file()


def test_no_public_name_is_any(said: dict[str, list[str]]) -> None:
    """Every function, class, method and field is revealed; Any only where the value is JSON."""
    revealed = {
        public()[int(line.split(":")[0]) - 2]: line.replace("Coroutine[Any, Any, ", "Coroutine[")
        for line in said["reveals"]
        if "Revealed type" in line
    }
    assert [line for line in said["reveals"] if "Revealed type" not in line] == []
    assert sorted(revealed) == sorted(public())
    vague = {name: line for name, line in revealed.items() if re.search(r"\bAny\b", line)}
    assert {name: line for name, line in vague.items() if not JSON.search(name)} == {}


def test_mistakes_are_seen_before_they_run(said: dict[str, list[str]]) -> None:
    """What types are for: a misspelt parameter, an event or a verdict that there is not."""
    errors = [line for line in said["mistakes"] if " error: " in line]
    seen = [(int(line.split(":")[0]) - 3, line.rpartition("[")[2].rstrip("]")) for line in errors]
    assert seen == list(enumerate(MISTAKES.values())), said["mistakes"]
