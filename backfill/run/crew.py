"""What is under way beside the claims: how many, what of it has changed, and what it raised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from backfill.errors import BackfillError


class Crew:
    """Tasks of one kind. They end by themselves.

    A task group raises an exception group. Callers expect one of our errors, so it is kept and
    raised to whoever waits.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self.size = 0
        self._tasks = tasks
        self._changed = anyio.Event()
        self._failed: list[BackfillError] = []

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have one more at work."""
        self.size += 1
        self._tasks.start_soon(self._do, work)

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except BackfillError as error:
            self._failed.append(error)
        finally:
            self.size -= 1
            self.look()

    def look(self) -> None:
        """Something has changed: whoever waits looks whether it now holds."""
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds. Raises what the first that failed has raised."""
        while not (self._failed or holds()):
            self._changed = anyio.Event()
            await self._changed.wait()
        if self._failed:
            raise self._failed[0]

    async def land(self) -> bool:
        """Wait until all have ended. Returns whether any was at work. Raises as `until`."""
        was_at_work = self.size > 0
        await self.until(lambda: self.size == 0)
        return was_at_work
