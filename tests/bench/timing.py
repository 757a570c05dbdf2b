"""One way, once, in processes of its own: nothing is shared with what was measured before it.

A client prepares (imports, connects, fills its queue), and says so; only then the clock runs, in
the clients. Memory is of the whole process, what it imports included.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any

from tests.bench import meters

PREPARING_S = 120.0
END_S = 30.0


@dataclass(frozen=True)
class Task:
    """What a client has to do, and with what."""

    url: str
    key: str
    dsn: str
    sessions: Sequence[str]
    run_id: str | None = None  # of the run that was approved for it


Work = Callable[[], Awaitable[None]]
# Opens what the work needs, and returns the work; what is on the stack is closed afterwards.
Client = Callable[[Task, AsyncExitStack], Awaitable[Work]]


@dataclass(frozen=True)
class Spent:
    """What one client process spent on its work; the moments are comparable between processes."""

    began_s: float
    ended_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Figure:
    """A way's one measurement: memory and the clients' CPU are over all its processes."""

    sessions: int
    took_s: float
    client_cpu_s: float
    server_cpu_s: float
    peak_mb: float

    @property
    def per_s(self) -> float:
        """Sessions a second."""
        return self.sessions / self.took_s


@dataclass(frozen=True)
class Setting:
    """What a measurement was made under: the major version of PostgreSQL, and the scorers."""

    postgres: str
    scorers: str

    def __str__(self) -> str:
        return f"{self.postgres}, {self.scorers}"


class ClientFailed(RuntimeError):
    """A client process ended with an error; the message is its traceback."""


def measure(client: Client, task: Task, *, processes: int, servers: Sequence[int]) -> Figure:
    """Let so many processes do the work together. servers: pids. Raises ClientFailed."""
    with _clients(client, task, processes) as (gate, answers):
        try:
            gate.wait(PREPARING_S)
            before_s = meters.cpu_s(servers)
            gate.wait(PREPARING_S)
        except BrokenBarrierError:
            gate.abort()
            _spent(answers)
            raise
        spent = _spent(answers)
        server_cpu_s = meters.cpu_s(servers) - before_s
    return Figure(
        sessions=len(task.sessions),
        took_s=max(each.ended_s for each in spent) - min(each.began_s for each in spent),
        client_cpu_s=sum(each.cpu_s for each in spent),
        server_cpu_s=server_cpu_s,
        peak_mb=sum(each.peak_mb for each in spent),
    )


@contextmanager
def _clients(
    client: Client, task: Task, processes: int
) -> Iterator[tuple[Barrier, list[Connection]]]:
    spawning = get_context("spawn")
    gate = spawning.Barrier(processes + 1)
    pipes = [spawning.Pipe(duplex=False) for _ in range(processes)]
    started = [
        spawning.Process(target=_live, args=(client, task, gate, told), daemon=True)
        for _, told in pipes
    ]
    for process, (_, told) in zip(started, pipes, strict=True):
        process.start()
        told.close()
    try:
        yield gate, [heard for heard, _ in pipes]
    finally:
        for process in started:
            process.join(END_S)
            process.kill()


def _spent(answers: Sequence[Connection]) -> list[Spent]:
    heard: list[Any] = []
    for answer in answers:
        try:
            heard.append(answer.recv())
        except EOFError:
            heard.append("A client process ended without an answer.")
    failures = [each for each in heard if isinstance(each, str)]
    # The others only say that the gate broke.
    failures.sort(key=lambda told: BrokenBarrierError.__name__ in told)
    if failures:
        raise ClientFailed(failures[0])
    return heard


def _live(client: Client, task: Task, gate: Barrier, told: Connection) -> None:
    """A client process, from its start to its answer."""
    try:
        told.send(asyncio.run(_work(client, task, gate)))
    except BaseException:
        gate.abort()
        told.send(traceback.format_exc())
        raise


async def _work(client: Client, task: Task, gate: Barrier) -> Spent:
    async with AsyncExitStack() as owned:
        work = await client(task, owned)
        gate.wait(PREPARING_S)  # ready
        gate.wait(PREPARING_S)  # go
        began_s, cpu_s = time.monotonic(), _cpu_s()
        await work()
        return Spent(began_s, time.monotonic(), _cpu_s() - cpu_s, meters.peak_mb())


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
