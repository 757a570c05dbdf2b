"""Worker processes, started and ended one by one; none outlives its test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backfill.local.processes import dies_with_parent
from tests.faults.clock import forget
from tests.faults.proxy import Call, Strike, does
from tests.faults.scenario import CONCURRENCY, PATIENCE_S, Scene

ROOT = Path(__file__).parents[2]


@dataclass
class WorkerProcess:
    """A process that runs one command. said: what it printed, on both streams."""

    scene: Scene = field(repr=False)
    name: str
    process: subprocess.Popen[bytes]
    printed: Path

    def said(self) -> str:
        """What it has printed so far."""
        return self.printed.read_text()

    def sent(self, number: signal.Signals) -> None:
        """Send a signal, as a terminal or a supervisor does."""
        self.scene.struck()
        self.process.send_signal(number)

    def killed(self) -> None:
        """SIGKILL: nothing is finished and nothing given back."""
        self.process.send_signal(signal.SIGKILL)
        self.scene.struck()

    def ended(self) -> int:
        """Its exit code, once it has ended; nobody's clock waits for it any more."""
        code = self.process.wait(PATIENCE_S)
        forget(self.scene.project.db, self.name)
        return code


@contextmanager
def worker(scene: Scene, *words: str, name: str, **environment: str) -> Iterator[WorkerProcess]:
    """A process that runs `backfill WORDS` through the proxy, gone when the block ends."""
    variables = {
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "SUPABASE_URL": scene.proxy.url,
        "SUPABASE_SERVICE_ROLE_KEY": scene.project.keys.service_role,
        "DATABASE_URL": scene.dsn,
        "WORKER_NAME": name,
        **environment,
    }
    with tempfile.NamedTemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker", *words],
            env=variables,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
        started = WorkerProcess(scene, name, process, Path(printed.name))
        try:
            yield started
        finally:
            process.kill()
            started.ended()


@contextmanager
def applying(scene: Scene, run_id: str, name: str, **environment: str) -> Iterator[WorkerProcess]:
    """A process that applies a run; its files go beside what it prints, and with it."""
    with ExitStack() as owned:
        folder = environment.pop("LOGS_DIR", "") or owned.enter_context(
            tempfile.TemporaryDirectory()
        )
        words = ("apply", run_id, "--concurrency", str(CONCURRENCY), "--logs-dir", folder)
        yield owned.enter_context(worker(scene, *words, name=name, **environment))


def kill_at(started: WorkerProcess, picks: Callable[[Call], bool], *, forwards: bool) -> Strike:
    """The process is killed while this call is under way: before it is sent on, or committed."""
    return Strike(does(started.killed, forwards=forwards), picks)
