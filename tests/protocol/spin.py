"""Check one configuration with spin: make its verifier, run it, read what it found."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from tests.protocol.configurations import Configuration

MODEL = Path(__file__).parent / "protocol.pml"
MOST_MB = 1900
# A program -> the Debian package that brings it.
NEEDED = {"spin": "spin", "gcc": "gcc"}


@dataclass(frozen=True)
class Finding:
    """What the search of a configuration came to.

    found: holds, an invariant's name, or what spin says else, for instance about a deadlock
    trace: the steps to it
    unreached: lines of the model that no state got to
    """

    found: str
    states: int
    depth: int
    seconds: float
    trace: tuple[str, ...]
    unreached: frozenset[int]


def missing() -> list[str]:
    """The Debian packages of the programs that are not there."""
    return [package for program, package in NEEDED.items() if which(program) is None]


def check(configuration: Configuration, folder: Path) -> Finding:
    """Search all states, or as far as the shortest counterexample. folder: an empty one."""
    (folder / MODEL.name).write_bytes(MODEL.read_bytes())
    macros = configuration.macros
    begun = time.monotonic()
    # Breadth first finds the shortest. It is found before an optimised verifier would be compiled.
    search = ["-O2", "-DCOLLAPSE"] if configuration.breaks is None else ["-O0", "-DBFS"]
    _run(folder, "spin", *macros, "-a", MODEL.name)
    _run(folder, "gcc", "-w", "-DSAFETY", f"-DMEMLIM={MOST_MB}", *search, "-opan", "pan.c")
    said = _run(folder, "./pan", "-m100000", "-w25")
    seconds = time.monotonic() - begun
    is_broken = (folder / f"{MODEL.name}.trail").exists()
    return Finding(
        found=_found(configuration, said),
        states=_number(r"(\d+) states, stored", said),
        depth=_number(r"depth reached (\d+)", said),
        seconds=seconds,
        trace=_steps(_run(folder, "spin", *macros, "-t", "-T", "-B", MODEL.name))
        if is_broken
        else (),
        unreached=frozenset(
            int(line)
            for line, what in re.findall(r'protocol\.pml:(\d+), state \d+, "(.*)"', said)
            if what != "-end-"
        ),
    )


def _run(folder: Path, program: str, *arguments: str) -> str:
    """Run a program in the folder. Returns what it printed."""
    found = which(program) or program
    done = subprocess.run(
        [found, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def _found(configuration: Configuration, said: str) -> str:
    trouble = re.search(r"^pan:1: (.*) \(at depth", said, re.MULTILINE)
    if trouble and trouble[1].startswith("assertion violated"):
        return configuration.breaks or trouble[1]
    if trouble:
        return trouble[1]
    return "holds" if "errors: 0" in said and "not completed" not in said else "cut short"


def _number(pattern: str, said: str) -> int:
    found = re.search(pattern, said)
    return int(found[1]) if found else 0


def _steps(said: str) -> tuple[str, ...]:
    """The lines that the model prints, without spin's own."""
    lines = [line.strip() for line in said.splitlines()]
    return tuple(line for line in lines if line and not line.startswith(("spin:", "#", "-")))
