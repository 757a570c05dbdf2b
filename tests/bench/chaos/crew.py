"""Worker processes and who starts them again, as a service manager would."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from backfill.local.processes import dies_with_parent
from tests.bench import meters
from tests.bench.chaos.stand import Stand

ROOT = Path(__file__).parents[3]
AGAIN_S = 0.2  # between an end and the next start
END_S = 10.0


class Crew:
    """So many processes of one command, each started again whenever it ended."""

    def __init__(self, stand: Stand, command: Sequence[str], count: int) -> None:
        self._command, self._log = list(command), stand.root / "workers.log"
        self._port = urlsplit(stand.url).port
        self._environment = os.environ | {
            "SUPABASE_URL": stand.url,
            "SUPABASE_SERVICE_ROLE_KEY": stand.key,
            "DATABASE_URL": stand.dsn,
            "PYTHONPATH": str(ROOT),
        }
        self._folders = [stand.root / f"worker-{number}" for number in range(count)]
        self._running: list[subprocess.Popen[bytes]] = []
        self._ended_at: dict[int, float] = {}
        self.starts = 0

    def __enter__(self) -> Self:
        for folder in self._folders:
            folder.mkdir(exist_ok=True)
            self._running.append(self._start(folder))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def tend(self) -> None:
        """Start again whoever ended a moment ago."""
        now = time.monotonic()
        for place, process in enumerate(self._running):
            if process.poll() is None:
                self._ended_at.pop(place, None)
            elif now - self._ended_at.setdefault(place, now) >= AGAIN_S:
                self._running[place] = self._start(self._folders[place])

    def is_at_work(self, number: int) -> bool:
        """Whether the worker in turn holds a connection to the API."""
        process = self._in_turn(number)
        return process.poll() is None and self._port in meters.ports_reached(process.pid)

    def kill(self, number: int) -> None:
        """SIGKILL the worker in turn."""
        self._in_turn(number).send_signal(signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL every worker."""
        for process in self._running:
            process.send_signal(signal.SIGKILL)

    def _in_turn(self, number: int) -> subprocess.Popen[bytes]:
        return self._running[number % len(self._running)]

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dies_with_parent(signal.SIGKILL),
            )
