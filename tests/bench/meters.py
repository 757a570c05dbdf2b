"""CPU and memory of processes, read from Linux's /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
KB_PER_MB = 1024
ESTABLISHED = "01"  # in /proc/net/tcp


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes and of all that they started, the ended ones too.

    A process that ends between two readings moves from its own figure to its parent's.
    """
    ticks, started_by = {}, {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and (fields := _stat(place)):
            pid = int(place.name)
            started_by[pid] = int(fields[1])
            ticks[pid] = sum(int(field) for field in fields[11:15])
    tree = set(pids)
    while grown := {pid for pid, parent in started_by.items() if parent in tree} - tree:
        tree |= grown
    return sum(ticks.get(pid, 0) for pid in tree) / TICKS_PER_S


def _stat(place: Path) -> list[str]:
    """The fields of a process from its state on; none where it has just ended."""
    try:
        # The program's name stands in brackets and may hold anything, brackets too.
        return (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def peak_mb() -> float:
    """The most memory that this process had resident.

    Not getrusage's: that one starts with what the process that started this one had.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / KB_PER_MB
    raise RuntimeError("/proc/self/status has no VmHWM")


def memory_gb() -> float:
    """What the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / KB_PER_MB**3


def ports_reached(pid: int) -> set[int]:
    """The remote ports of a process's established TCP connections over IPv4."""
    try:
        sockets = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return set()
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {
        int(row[2].split(":")[1], 16)
        for row in rows
        if row[3] == ESTABLISHED and f"socket:[{row[9]}]" in sockets
    }
