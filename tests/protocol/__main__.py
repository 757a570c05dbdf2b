"""Check the model of the protocol in every configuration: `poe model [PART OF A NAME]`.

Prints a table, and the steps of each counterexample that is not the kept one. Exit code 0: each
configuration comes to what is expected of it. 1: one does not. 2: spin or gcc is missing.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.protocol.configurations import CONFIGURATIONS, Configuration
from tests.protocol.spin import Finding, check, missing

CORES = 2
HEAD = "| Configuration | Expected | Found | States | Depth | Seconds |\n|---|---|---|--:|--:|--:|"


def main(words: list[str]) -> int:
    """Check those that are named, or all. Returns the exit code."""
    packages = missing()
    wanted = [c for c in CONFIGURATIONS if " ".join(words) in c.name]
    if packages:
        print(f"The model needs {' and '.join(packages)}: apt-get install {' '.join(packages)}")
        return 2
    if not wanted:
        names = ", ".join(c.name for c in CONFIGURATIONS)
        print(f"No configuration is named like {' '.join(words)!r}. There are: {names}")
        return 2
    findings = {}
    print(HEAD, flush=True)
    with ThreadPoolExecutor(CORES) as pool:
        for configuration, finding in zip(wanted, pool.map(_check, wanted), strict=True):
            findings[configuration] = finding
            print(row(configuration, finding), flush=True)
    troubles = [*_surprises(findings), *_unreached(findings)]
    if troubles:
        print(*troubles, sep="\n")
    return 1 if troubles else 0


def _check(configuration: Configuration) -> Finding:
    with TemporaryDirectory(prefix="backfill-model-") as folder:
        return check(configuration, Path(folder))


def row(configuration: Configuration, finding: Finding) -> str:
    """A line of the table."""
    expected = configuration.breaks or "holds"
    figures = f"{finding.states:,} | {finding.depth} | {finding.seconds:.0f}"
    return f"| {configuration.name} | {expected} | {finding.found} | {figures} |"


def _surprises(findings: dict[Configuration, Finding]) -> list[str]:
    """What is not as expected: a result, or the steps to it."""
    return [
        "\n".join([f"{c.name}: {f.found}, after", *(f'    "{step}",' for step in f.trace)])
        for c, f in findings.items()
        if f.found != (c.breaks or "holds") or f.trace != c.trace
    ]


def _unreached(findings: dict[Configuration, Finding]) -> list[str]:
    """Lines of the model that no search of a whole one got to: they say nothing."""
    whole = [f.unreached for c, f in findings.items() if c.breaks is None]
    lines = sorted(frozenset.intersection(*whole)) if len(whole) > 1 else []
    return [f"protocol.pml:{line} is never reached" for line in lines]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
