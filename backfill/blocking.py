"""The verbs for blocking code: the async core on its own event loop, in a thread."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from backfill.client import AsyncBackfill
from backfill.errors import SaysOtherNames
from backfill.run.undo import AsyncUndo, PreviewedUndo

LONGEST_CLOSING_S = 2.0  # of what nobody closed: an interpreter waits for it to end

Core = TypeVar("Core", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class Face(Generic[Core]):
    """An async object, and the portal into the event loop that runs it."""

    _core: Core
    _portal: BlockingPortal


def waited_for(
    verb: Callable[Concatenate[Core, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Face[Core], P], R]:
    """The blocking form of a verb, with its signature, types and docstring."""

    @wraps(verb)
    def blocking(self: Face[Core], /, *args: P.args, **named: P.kwargs) -> R:
        answer: R = self._portal.call(lambda: verb(self._core, *args, **named))
        return answer

    _name(blocking)
    return blocking


def undo_waited_for(
    verb: Callable[Concatenate[AsyncBackfill, P], Coroutine[Any, Any, AsyncUndo]],
) -> Callable[Concatenate[Face[AsyncBackfill], P], Undo]:
    """The blocking form of a verb that previews an undo. The undo that it returns blocks too."""
    preview = waited_for(verb)

    @wraps(verb)
    def blocking(self: Face[AsyncBackfill], /, *args: P.args, **named: P.kwargs) -> Undo:
        return Undo(preview(self, *args, **named), self._portal)

    _name(blocking)
    blocking.__annotations__ = {**verb.__annotations__, "return": Undo}
    vars(blocking)["__signature__"] = signature(verb).replace(return_annotation="Undo")
    return blocking


def _name(blocking: Callable[..., object]) -> None:
    """Let tracebacks and help() name this module, not that of the async verb."""
    owner, _, name = blocking.__qualname__.removeprefix("Async").rpartition(".")
    blocking.__module__ = __name__
    blocking.__qualname__ = f"{'Undo' if owner == 'Undo' else 'Backfill'}.{name}"


class Undo(PreviewedUndo, Face[AsyncUndo]):
    """A previewed undo. `confirm` carries out exactly what the preview showed."""

    def __init__(self, core: AsyncUndo, portal: BlockingPortal) -> None:
        super().__init__(core.effect)
        self._core = core
        self._portal = portal

    confirm = waited_for(AsyncUndo.confirm)


class Backfill(Face[AsyncBackfill], SaysOtherNames):
    """A project's backfills, for blocking code. Each verb is that of AsyncBackfill."""

    def __init__(self, make: Callable[[], AsyncBackfill]) -> None:
        """make: called once, inside the event loop that will serve it."""
        self._portal = _open_portal()
        try:
            self._core = self._portal.call(make)
        except BaseException:
            self._portal.call(self._portal.stop)
            raise
        # At the latest when it is forgotten, or when the interpreter ends.
        self._forgotten = weakref.finalize(self, _let_go, self._core, self._portal, os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the event loop. What is never closed is closed at exit."""
        if self._forgotten.detach() is not None:
            self._portal.call(self._core.close)
            self._portal.call(self._portal.stop)

    @property
    def host(self) -> str:
        """The host of the project's URL."""
        return self._core.host

    check = waited_for(AsyncBackfill.check)
    missing = waited_for(AsyncBackfill.missing)
    history = waited_for(AsyncBackfill.history)
    plan = waited_for(AsyncBackfill.plan)
    run_id = waited_for(AsyncBackfill.run_id)
    get = waited_for(AsyncBackfill.get)
    page = waited_for(AsyncBackfill.page)
    freshness = waited_for(AsyncBackfill.freshness)
    runs = waited_for(AsyncBackfill.runs)
    approve = waited_for(AsyncBackfill.approve)
    reject = waited_for(AsyncBackfill.reject)
    apply = waited_for(AsyncBackfill.apply)
    retry = waited_for(AsyncBackfill.retry)
    outcome = waited_for(AsyncBackfill.outcome)
    pace = waited_for(AsyncBackfill.pace)
    pause = waited_for(AsyncBackfill.pause)
    resume = waited_for(AsyncBackfill.resume)
    cancel = waited_for(AsyncBackfill.cancel)
    status = waited_for(AsyncBackfill.status)
    verify = waited_for(AsyncBackfill.verify)
    rollback = undo_waited_for(AsyncBackfill.rollback)
    confirm_rollback = waited_for(AsyncBackfill.confirm_rollback)
    write_logs = waited_for(AsyncBackfill.write_logs)
    targets = waited_for(AsyncBackfill.targets)
    watch = waited_for(AsyncBackfill.watch)
    heal = waited_for(AsyncBackfill.heal)
    check_target = waited_for(AsyncBackfill.check_target)
    catalog = waited_for(AsyncBackfill.catalog)
    draft_target = waited_for(AsyncBackfill.draft_target)
    propose_standing = waited_for(AsyncBackfill.propose_standing)
    standings = waited_for(AsyncBackfill.standings)
    standing = waited_for(AsyncBackfill.standing)
    approve_standing = waited_for(AsyncBackfill.approve_standing)
    revoke_standing = waited_for(AsyncBackfill.revoke_standing)
    ask_standing = waited_for(AsyncBackfill.ask_standing)
    standing_page = waited_for(AsyncBackfill.standing_page)


def _let_go(core: AsyncBackfill, portal: BlockingPortal, pid: int) -> None:
    """Close the connections of an object that is gone, without a word whatever happens."""
    if os.getpid() != pid:
        return  # a fork has the object, but not the thread of its event loop
    with suppress(Exception):
        portal.start_task_soon(core.close).result(LONGEST_CLOSING_S)
        portal.start_task_soon(portal.stop).result(LONGEST_CLOSING_S)


def _open_portal() -> BlockingPortal:
    """A portal into an event loop in a daemon thread, so that a forgotten close() never hangs."""
    opened: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            opened.set_result(portal)
            await portal.sleep_until_stopped()

    threading.Thread(target=anyio.run, args=(serve,), name="backfill", daemon=True).start()
    return opened.result()
