"""Take each safeguard out of a copy of the checkout: which of them does no test miss?

python -m tests.safeguards [--table] [--jobs N] [NAME …]. It prints the table of tests/README.md.
With --table it does nothing else. NAME: part of a safeguard's name, to try those alone.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from tests.kit.checkout import copy_checkout
from tests.safeguards.table import SAFEGUARDS, Safeguard, table, taken_out

# Without a safeguard the rest must still be SQL, or its test would fail for another reason.
BODIES = "tests/test_house.py::test_every_body_is_one_that_postgresql_accepts"
PYTEST = ("-m", "pytest", "-n0", "-q", "-rfEp", "--tb=line", "-pno:cacheprovider")
SHOWN = 3_000  # characters of what pytest said about one that was not caught


def main(words: Sequence[str]) -> int:
    """Try all safeguards, or those named; 1 if one of them is missed by no test."""
    reader = argparse.ArgumentParser(prog="python -m tests.safeguards")
    reader.add_argument("names", nargs="*")
    reader.add_argument("--table", action="store_true")
    reader.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = reader.parse_args(words)
    if asked.table:
        print(table(SAFEGUARDS))
        return 0
    wanted = [s for s in SAFEGUARDS if any(name in s.name for name in asked.names or [""])]
    if not wanted:
        reader.error(f"no safeguard is named so: {', '.join(asked.names)}")
    return _told(wanted, *tried(wanted, asked.jobs))


def tried(wanted: Sequence[Safeguard], jobs: int) -> tuple[str, list[str]]:
    """What fails though nothing is taken out, and for each safeguard why it was not caught."""
    with tempfile.TemporaryDirectory(prefix="backfill-safeguards-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(Path(folder) / f"checkout{number}")

        def in_a_copy(look: Callable[[Path], str]) -> str:
            copy = copies.get()
            try:
                return look(copy)
            finally:
                copies.put(copy)

        looks = [partial(_fails_whole, wanted), *(partial(_not_caught, s) for s in wanted)]
        with ThreadPoolExecutor(jobs) as threads:
            whole, *found = threads.map(in_a_copy, looks)
    return whole, found


def _fails_whole(wanted: Sequence[Safeguard], copy: Path) -> str:
    """The tests that fail in a whole copy; '' if none does."""
    said = _pytest(copy, [*dict.fromkeys(s.test for s in wanted)])
    passed = re.search(r"^\d+ passed", said.splitlines()[-1])
    return "" if passed else re.sub(r"^PASSED .*\n", "", said, flags=re.MULTILINE)[-SHOWN:]


def _not_caught(safeguard: Safeguard, copy: Path) -> str:
    """What pytest says of a copy without a safeguard; '' if its test fails and all is SQL still."""
    _fresh(copy)
    file = copy / "sql" / safeguard.file
    whole = file.read_text()
    file.write_text(taken_out(safeguard, whole))
    _python(copy, "-m", "backfill.targets.migrations")
    said = _pytest(copy, [BODIES, safeguard.test])
    file.write_text(whole)
    failed = re.findall(r"^FAILED (.+?)(?: - .*)?$", said, re.MULTILINE)
    is_missed = any(f"{name}[".startswith(f"{safeguard.test}[") for name in failed)
    is_caught = is_missed and f"\nPASSED {BODIES}" in said
    print("caught    " if is_caught else "NOT CAUGHT", safeguard.name, file=sys.stderr, flush=True)
    return "" if is_caught else said[-SHOWN:]


def _fresh(copy: Path) -> None:
    if not copy.exists():
        copy_checkout(copy)


def _pytest(copy: Path, tests: Sequence[str]) -> str:
    """What pytest says of some tests in a copy."""
    _fresh(copy)
    return _python(copy, *PYTEST, *tests)


def _python(copy: Path, *words: str) -> str:
    return subprocess.run(
        [sys.executable, *words],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "500"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout


def _told(wanted: Sequence[Safeguard], whole: str, found: Sequence[str]) -> int:
    print(f"\n{table(wanted)}")
    if whole:
        print(f"\nFAILS WITH ALL SAFEGUARDS\n{whole}")
    for safeguard, said in zip(wanted, found, strict=True):
        if said:
            print(f"\nNOT CAUGHT  {safeguard.name}\n{said}")
    print(f"\n{found.count('')} of {len(wanted)} caught")
    return int(bool(whole) or any(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
