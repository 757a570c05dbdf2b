"""The processes of the embedded stack: how they start, how they are told apart, how they end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from backfill.errors import BackfillError
from backfill.local.parts import server_account

STOP_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 5.0
POLL_S = 0.02
PR_SET_PDEATHSIG = 1

# A process is named by its number and the moment it started, since numbers are reused.
ProcessName = tuple[int, str]


class StackError(BackfillError):
    """The embedded stack did not start or end, or one is needed and none is running."""


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: IO[bytes],
    *,
    death_signal: signal.Signals,
    as_server_account: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a program, in a process group that Ctrl-C does not reach.

    as_server_account: as PostgreSQL wants it, else as the caller.
    """
    account = server_account() if as_server_account else None
    return subprocess.Popen(
        command,
        env=dict(environment),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=0,
        user=account.user_id if account else None,
        group=account.group_id if account else None,
        extra_groups=[] if account else None,
        preexec_fn=dies_with_parent(death_signal),
    )


def dies_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """What a child runs before its program, so that the kernel ends it when its parent ends.

    None if the kernel cannot. Then the supervisor's closed stdin has to do.
    """
    if sys.platform != "linux":
        return None
    # Loaded before the fork: a lock that another thread holds would never be released after it.
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            # It ended between the fork and the call above, too early for the kernel to tell us.
            os._exit(1)

    return tie


def end_process(process: subprocess.Popen[bytes], *signals: signal.Signals) -> None:
    """Send one signal after the other until the process is gone, and reap it."""
    for each in signals:
        if process.poll() is not None:
            return
        process.send_signal(each)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)


def process_of(stored: Sequence[Any]) -> ProcessName:
    """The name of a process, from `stack.json`."""
    return int(stored[0]), str(stored[1])


def name_of(pid: int) -> ProcessName:
    """The name of a process that runs now."""
    return pid, _started_at(pid) or ""


def is_alive(process: ProcessName) -> bool:
    """Whether exactly this process still runs. A zombie does not."""
    pid, started_at = process
    return _started_at(pid) == started_at


def _started_at(pid: int) -> str | None:
    """When a process started, in a form that compares. None without one, and for a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            # The program's name is in brackets and may hold anything, brackets too.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    asked = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    status, _, started = answer.partition(" ")
    return None if status.startswith("Z") else started.strip() or None


def wait_until_gone(processes: Sequence[ProcessName], *, patience_s: float) -> None:
    """Wait, then kill what is left of them. Raises StackError when even that does not help."""
    for wait_s in (patience_s, KILL_TIMEOUT_S):
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not any(is_alive(process) for process in processes):
                return
            time.sleep(POLL_S)
        for pid, _ in filter(is_alive, processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    pids = ",".join(str(pid) for pid, _ in processes)
    raise StackError(f"Processes of the stack do not end: {pids}.", f"ps -fp {pids}")
