"""Mutants of the rules in Python, by mutmut: tests/test_rules_*.py must notice nine of ten.

Each that it does not notice is named below, with the reason. mutmut works in a copy of the
checkout: it writes the mutants into the modules. It leaves properties and tables alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from backfill import request
from backfill.api import faults, retries
from backfill.cli import exit_codes, progress
from backfill.render.page import charts, figures
from backfill.results import coverage, verification
from backfill.run import bulk, undo
from tests.kit.checkout import copy_checkout

TESTS = [
    f"tests/test_rules_{of}.py" for of in ("faults", "figures", "requests", "results", "sizes")
]
LEAST_KILLED = 0.9
# Modules that decide and do nothing else, and the functions that decide in others.
RULES: tuple[ModuleType | Callable[..., Any], ...] = (
    verification.Bucket,
    verification.packed,
    coverage,
    exit_codes,
    faults,
    figures,
    bulk.next_sessions,
    charts.label_every,
    charts.on_axis_of_time,
    charts.steps,
    retries.ask_patiently,
    retries.asked_wait,
    progress.settled_states,
    progress.time_left,
    request._aware,
    request._parsed,
    request.as_text,
    request.checked_ids,
    request.checked_number,
    undo._how_far,
    undo.next_piece,
    undo.undo_scope,
)
_ZIPPED = "as long as each other: the one is made from the other, or they were compared before"
_DAYS = "(s.category, _first_of(unit, day)) for s, day in zip(plan.sessions, days, "
_NOT_THERE = "if not isinstance(body, Mapping) or _ABSENT.search(message or "
_YEAR_ALONE = "a bar of years shows its year alone"
_HTML = r'r"<(!DOCTYPE|HTML|HEAD|BODY|TITLE)\b"'
_TITLE = r'r"<TITLE[^>]*>(.*?)</TITLE>"'
_ANY_CASE = "it is read in any case"
_LAST = "last = max((points[-1][0] for points in series.values() if points), default="
_NO_POINTS = "no line without points is carried on"
_ROWS = "and all(mine == theirs for mine, theirs in zip(self, other, "
# Mutants that nothing can notice, or nobody needs to: the function, what it became, and why.
SURVIVORS = {
    ("Bucket.__eq__", f"{_ROWS}strict=None))"): _ZIPPED,
    ("Bucket.__eq__", f"{_ROWS}strict=False))"): _ZIPPED,
    ("Bucket.__eq__", f"{_ROWS}))"): _ZIPPED,
    ("_first_of", "return date(max(day.year // 100 * 100, 1), 1, 2)"): _YEAR_ALONE,
    ("_first_of", "return date(max(day.year // 100 * 100, 1), 2, 1)"): _YEAR_ALONE,
    ("_first_of", "return day.replace(day=2)"): "a month's bar shows its month alone",
    ("_first_of", "return day.replace(month=1, day=2)"): _YEAR_ALONE,
    ("_first_of", "return day.replace(month=2, day=1)"): _YEAR_ALONE,
    ("_is_of_the_function", f'{_NOT_THERE}"XXXX"):'): "no text says nothing either",
    ("_meaning", "starts = (code[:length] for length in range(len(code), -2, -1))"): (
        "the code without its last character was tried before"
    ),
    ("_parsed", 'moment = datetime.fromisoformat(text if TIMESTAMP.match(text) else "XXXX")'): (
        "no date either"
    ),
    ("_text_of", f"if re.search({_HTML}, body, re.IGNORECASE):"): _ANY_CASE,
    ("_text_of", f"title = re.search({_TITLE}, body, re.IGNORECASE | re.DOTALL)"): _ANY_CASE,
    ("candidates_by_day", f"{_DAYS}strict=None)"): _ZIPPED,
    ("candidates_by_day", f"{_DAYS}strict=False)"): _ZIPPED,
    ("candidates_by_day", f"{_DAYS})"): _ZIPPED,
    ("carried_to_the_end", f"{_LAST}None)"): _NO_POINTS,
    ("carried_to_the_end", f"{_LAST}1.0)"): _NO_POINTS,
    ("on_axis_of_time", 'return f"{value:,.0f}" if value > FINE_BELOW else f"{value:.2g}"'): (
        "10 has two digits either way"
    ),
}
SURVIVED, UNTESTED = 0, 33  # what mutmut keeps as the end of a mutant's tests


def main() -> int:
    """Mutate, and print what survived. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="backfill-mutants-") as folder:
        copy = Path(folder) / "checkout"
        _copy(copy)
        ran = subprocess.run(
            [sys.executable, "-m", "mutmut", "run", *map(_pattern, RULES)],
            cwd=copy,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        ends = _ends(copy)
        if ran.returncode or not ends:
            print(ran.stdout[-5_000:])
            return 1
        survived = {_shown(copy, name) for name, end in ends.items() if end in (SURVIVED, UNTESTED)}
    return _told(len(ends), survived)


def _copy(copy: Path) -> None:
    """The checkout, with mutmut's settings."""
    copy_checkout(copy)
    mutated = {_module(rule).replace(".", "/") + ".py" for rule in RULES}
    lines = ["[mutmut]", "source_paths=backfill"]
    lines += ["pytest_add_cli_args_test_selection=", *(f"    {path}" for path in TESTS)]
    lines += ["pytest_add_cli_args=", "    -n0", "    -pno:cacheprovider"]
    lines += ["also_copy=", "    supabase", "    sql", "    README.md"]
    lines += ["only_mutate=", *(f"    {path}" for path in sorted(mutated))]
    (copy / "setup.cfg").write_text("\n".join(lines) + "\n")


def _module(rule: ModuleType | Callable[..., Any]) -> str:
    return rule.__name__ if isinstance(rule, ModuleType) else rule.__module__


def _pattern(rule: ModuleType | Callable[..., Any]) -> str:
    """What mutmut calls the mutants of a module, a class or a function."""
    if isinstance(rule, ModuleType):
        own = "*"
    else:
        own = f"xǁ{rule.__name__}ǁ*" if isinstance(rule, type) else f"x_{rule.__name__}__mutmut_*"
    return f"{_module(rule)}.{own}"


def _ends(copy: Path) -> dict[str, int]:
    """How the tests of each mutant that was run ended."""
    kept = (json.loads(f.read_text()) for f in (copy / "mutants").rglob("*.py.meta"))
    return {
        name: end
        for ends in kept
        for name, end in ends["exit_code_by_key"].items()
        if end is not None
    }


def _shown(copy: Path, mutant: str) -> tuple[str, str]:
    """The function of a mutant, and its lines that are no longer what they were."""
    said = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", mutant],
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    added = [line[1:].strip() for line in said if line.startswith("+") and line[:3] != "+++"]
    function = mutant.rpartition("__mutmut_")[0].rpartition(".")[2].removeprefix("x")
    return function.removeprefix("_").replace("ǁ", ".").removeprefix("."), " ".join(added)


def _told(total: int, survived: set[tuple[str, str]]) -> int:
    print(f"python: {total - len(survived)} of {total} mutants killed")
    for line in _lines(survived):
        print(line)
    is_enough = total - len(survived) >= LEAST_KILLED * total
    return 0 if is_enough and survived <= SURVIVORS.keys() else 1


def _lines(survived: set[tuple[str, str]]) -> Iterator[str]:
    for name, line in sorted(survived):
        yield f"  {name}: {line}\n    {SURVIVORS.get((name, line), 'NOT EXPLAINED')}"
    for name, line in sorted(SURVIVORS.keys() - survived):
        yield f"  no longer survives: {name}: {line}"


if __name__ == "__main__":
    sys.exit(main())
