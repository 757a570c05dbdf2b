"""Worker processes, started and ended one by one; none outlives its test."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.faults.clock import forget
from tests.faults.proxy import Call, Strike, does
from tests.faults.scenario import CONCURRENCY, PATIENCE_S, Scene
from tests.faults.worker import run

ROOT = Path(__file__).parents[2]
# Workers are forked from a process that has imported everything, which takes a second each time.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.worker"])


@dataclass
class WorkerProcess:
    """A process that runs one command. said: what it printed, on both streams."""

    scene: Scene = field(repr=False)
    name: str
    process: ForkServerProcess
    printed: Path

    def said(self) -> str:
        """What it has printed so far."""
        return self.printed.read_text()

    def sent(self, number: signal.Signals) -> None:
        """Send a signal, as a terminal or a supervisor does."""
        self.scene.struck()
        self._signalled(number)

    def killed(self) -> None:
        """SIGKILL: nothing is finished and nothing given back."""
        self._signalled(signal.SIGKILL)
        self.scene.struck()

    def ended(self) -> int:
        """Its exit code, once it has ended; nobody's clock waits for it any more."""
        self.process.join(PATIENCE_S)
        code = self.process.exitcode
        assert code is not None
        forget(self.scene.project.db, self.name)
        return code

    def _signalled(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


@contextmanager
def worker(scene: Scene, *words: str, name: str, **environment: str) -> Iterator[WorkerProcess]:
    """A process that runs `backfill WORDS` through the proxy, gone when the block ends."""
    variables = {
        "PATH": os.defpath,
        "SUPABASE_URL": scene.proxy.url,
        "SUPABASE_SERVICE_ROLE_KEY": scene.project.keys.service_role,
        "DATABASE_URL": scene.dsn,
        "WORKER_NAME": name,
        **environment,
    }
    with tempfile.NamedTemporaryFile() as printed:
        process = FORKS.Process(target=run, args=(words, variables, printed.name))
        process.start()
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
