"""One worker process: the real command line, on the clock that all workers share."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from backfill import client
from backfill.cli import app as cli
from backfill.cli.verbs import VERBS
from backfill.local.processes import dies_with_parent
from backfill.run import undo
from tests.faults.clock import CommonClock

# What a verb loads when it is called is loaded once, by the process that forks the workers.
for module in {"supabase", *(f"backfill.cli.{listed.module}" for listed in VERBS.values())}:
    import_module(module)

# Made by the process that forks the workers, whose end is theirs too.
TIE = dies_with_parent(signal.SIGKILL)


def run(words: Sequence[str], environment: Mapping[str, str], printed: str) -> None:
    """Run `backfill WORDS` in a process that was forked for it, and exit as it does.

    environment: all of it, with DATABASE_URL and WORKER_NAME. MOST_FILE_BYTES: no file of this
    process grows longer, as on a disk that is full. PIECE_SESSIONS: so many are taken back at a
    time. printed: the file that both streams go to.
    """
    if TIE is not None:
        TIE()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["backfill", *words]
    _print_to(printed)
    most = environment.get("MOST_FILE_BYTES")
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    if piece := environment.get("PIECE_SESSIONS"):
        vars(undo)["PIECE_SESSIONS"] = int(piece)
    with CommonClock(environment["DATABASE_URL"], environment["WORKER_NAME"]) as clock:
        vars(client)["SystemClock"] = lambda: clock
        cli.main()


def _print_to(path: str) -> None:
    written = os.open(path, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(written, stream.fileno())
