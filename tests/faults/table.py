"""Run the fault suite and print what was measured, as a Markdown table.

python -m tests.faults.table
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.faults.measures import Measured
from tests.faults.scenario import REPORT_VARIABLE

HEAD = "| Case | Sessions | Faults | Lost | Twice | Seconds to go on |\n|---|--:|--:|--:|--:|--:|"


def table(measured: Iterable[Measured]) -> str:
    """One line a case."""
    return "\n".join([HEAD, *(line(m) for m in sorted(measured, key=lambda m: m.case))])


def line(m: Measured) -> str:
    """One case; a dash where nothing had to go on."""
    go_on = "-" if m.go_on_s is None else f"{m.go_on_s:.1f}"
    return f"| {m.case} | {m.sessions} | {m.faults} | {m.lost} | {m.twice} | {go_on} |"


def main() -> int:
    """Run every case; the exit code is pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "measured.jsonl"
        suite = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).parent)]
        environment = {**os.environ, "BACKFILL_WHOLE": "1", REPORT_VARIABLE: str(report)}
        code = subprocess.run(suite, env=environment, stdout=sys.stderr, check=False).returncode
        lines = report.read_text().splitlines() if report.exists() else []
    print(table(Measured(**json.loads(line)) for line in lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
