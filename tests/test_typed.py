"""A service that imports us is typed to its edges: mypy --strict, and no Any but where JSON is."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import backfill

ROOT = Path(__file__).parent.parent
# What PostgreSQL's jsonb holds, and what `--json` prints: their docstrings name the keys.
JSON = re.compile(
    r"\.(as_dict|told|candidates|conflicts|details|request|figures|audit|buckets)$"
    r"|\.(Plan|Verification|UndoEffect|Event|Undo)$"  # constructors: a verb makes these
)


def mypy(folder: Path, source: str) -> list[str]:
    """What mypy --strict says of a stranger's module that imports the package: "line: …"."""
    module = folder / "stranger.py"
    module.write_text(source)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", module],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    return [line.removeprefix("stranger.py:") for line in ran.stdout.splitlines()]


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


def test_the_package_says_that_it_is_typed() -> None:
    """Without the marker a type checker ignores an installed package's annotations."""
    assert (Path(backfill.__file__).parent / "py.typed").is_file()


def test_no_public_name_is_any(tmp_path: Path) -> None:
    """Every function, class, method and field is revealed; Any only where the value is JSON."""
    lines = ["import backfill"]
    for n, expression in enumerate(public()):
        owner, _, member = expression.removeprefix("backfill.").partition(".")
        lines.append(
            f"def _{n}(it: backfill.{owner}) -> None: reveal_type(it.{member})"
            if member
            else f"reveal_type({expression})"
        )
    said = mypy(tmp_path, "\n".join(lines))
    revealed = {
        public()[int(line.split(":")[0]) - 2]: line.replace("Coroutine[Any, Any, ", "Coroutine[")
        for line in said
        if "Revealed type" in line
    }
    assert [line for line in said if "Revealed type" not in line] == []
    assert sorted(revealed) == sorted(public())
    vague = {name: line for name, line in revealed.items() if re.search(r"\bAny\b", line)}
    assert {name: line for name, line in vague.items() if not JSON.search(name)} == {}


MISTAKES = {
    "bf.plan(since=3)": "arg-type",
    "bf.apply('r', concurency=2)": "call-arg",
    "backfill.connect(on_event=print if bf else bf.check)": "arg-type",
    "backfill.connect(on_event=lambda e: print(e.kind == 'finished'))": "comparison-overlap",
    "print(bf.verify('r').verdict == 'ok')": "comparison-overlap",
    "print(bf.status('r').state.done)": "attr-defined",
    "bf.get('r').digest = 'd'": "misc",
}


def test_mistakes_are_seen_before_they_run(tmp_path: Path) -> None:
    """What types are for: a misspelt parameter, an event or a verdict that there is not."""
    lines = ["import backfill", "def f(bf: backfill.Backfill) -> None:"]
    said = mypy(tmp_path, "\n".join([*lines, *(f"    {mistake}" for mistake in MISTAKES)]))
    errors = [line for line in said if " error: " in line]
    seen = [(int(line.split(":")[0]) - 3, line.rpartition("[")[2].rstrip("]")) for line in errors]
    assert seen == list(enumerate(MISTAKES.values())), said
