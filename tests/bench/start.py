"""Starting: CPU of the command line's short answers, beside an interpreter that does nothing.

    python -m tests.bench.start [ROUNDS]

The least of six rounds unless told, in which each program runs once: what a busy machine adds is
never less than nothing. `status` asks an address where nobody listens, so it loads and prepares
all that one question needs. The last row is what its libraries take alone.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence

from backfill.local.servers import free_port

ROUNDS = 6
NOTHING = "python -c pass"
BACKFILL = (sys.executable, "-m", "backfill")
PROGRAMS: dict[str, Sequence[str]] = {
    NOTHING: (sys.executable, "-c", "pass"),
    "import backfill": (sys.executable, "-c", "import backfill"),
    "backfill --version": (*BACKFILL, "--version"),
    "backfill --help": (*BACKFILL, "--help"),
    "backfill completion bash": (*BACKFILL, "completion", "bash"),
    "backfill status": (*BACKFILL, "status", "4f2c1b9e"),
    "its libraries": (sys.executable, "-c", "import typer, rich.console, stamina, postgrest"),
}


def measured(rounds: int) -> dict[str, float]:
    """The least CPU seconds of each program, user and system."""
    address = f"http://127.0.0.1:{free_port()}"
    variables = {**os.environ, "SUPABASE_URL": address, "SUPABASE_SECRET_KEY": "sb_secret_x"}
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, words in PROGRAMS.items():
            before_s = _cpu_of_ended_s()
            subprocess.run(words, env=variables, capture_output=True, check=False)
            taken[name].append(_cpu_of_ended_s() - before_s)
    return {name: min(times) for name, times in taken.items()}


def _cpu_of_ended_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def shown(least_s: dict[str, float]) -> str:
    """A table in Markdown."""
    rows = [f"| {n} | {s:.3f} | {s / least_s[NOTHING]:.1f} |" for n, s in least_s.items()]
    return "\n".join(["| program | CPU s | to nothing |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(shown(measured(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)))
