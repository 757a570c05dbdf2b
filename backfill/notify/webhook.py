"""A webhook as a listener. A thread of its own sends, so that one that hangs delays nothing."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Full, Queue
from types import TracebackType
from typing import Self
from uuid import uuid4

from backfill.notify.message import KINDS, Form, body_of
from backfill.notify.sending import Answer, address_of, deliver
from backfill.results.event import Event

MOST_WAITING = 100  # messages. What comes beyond that is dropped, and counted
CLOSING_S = 5.0


@dataclass(slots=True)
class Delivered:
    """What became of the messages of a webhook.

    sent: it took them. failed: it did not, after every try. dropped: never tried to the end, since
    too many waited or the time was over. why: of the newest that failed, or None.
    """

    host: str
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    why: str | None = None

    @property
    def in_words(self) -> str | None:
        """One line if a message is missing, without the address. None if none is."""
        missing = self.failed + self.dropped
        if not missing:
            return None
        messages = "1 message" if missing == 1 else f"{missing} messages"
        why = f": {self.why}" if self.why else ""
        return f"the webhook at {self.host} did not get {messages}{why}"


@dataclass(slots=True)
class _Message:
    body: bytes
    id: str = field(default_factory=lambda: str(uuid4()))


class Webhook:
    """A listener that tells a webhook: `backfill.connect(on_event=Webhook(url))`.

    It never raises and never waits. `close`, or the end of a `with` or of the program, waits some
    seconds for what is on its way.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        kinds: Collection[str] = KINDS,
        form: Form | None = None,
    ) -> None:
        """url: http or https. It is never shown. secret: signs each message.

        kinds: of the events that are told. form: `slack` sends {text}, `json` {text, kind, run_id,
        at, details}, by default what suits the host. Raises BadRequest.
        """
        self._address = address_of(url, form)
        self._secret = secret
        self._kinds = frozenset(kinds)
        self._queue: Queue[_Message | None] = Queue(MOST_WAITING)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._accepted = 0
        self._told = Delivered(self._address.host)
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Webhook(host={self._address.host!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Tell an event, if its kind is told."""
        if event.kind in self._kinds:
            self.send(event)

    def send(self, event: Event) -> None:
        """Tell an event, whatever its kind."""
        with self._lock:
            if self._over.is_set():
                self._told.dropped += 1
                return
            self._begin()
            try:
                self._queue.put_nowait(_Message(body_of(event, self._address.form)))
                self._accepted += 1
            except Full:
                self._told.dropped += 1

    def close(self, *, wait_s: float = CLOSING_S) -> Delivered:
        """Wait for what is on its way, at most so long. What is left then is dropped."""
        ends_at = time.monotonic() + wait_s
        thread = self._thread
        if thread is not None and not self._over.is_set():
            self._end_after_the_last(ends_at)
            thread.join(max(ends_at - time.monotonic(), 0))
        with self._lock:
            self._over.set()
            told = self._told
            left = self._accepted - told.sent - told.failed
        atexit.unregister(self.close)
        return Delivered(told.host, told.sent, told.failed, told.dropped + left, told.why)

    def _end_after_the_last(self, ends_at: float) -> None:
        with suppress(Full):  # nothing of so many goes out in time
            self._queue.put(None, timeout=max(ends_at - time.monotonic(), 0))

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="backfill-notify", daemon=True)
            self._thread.start()
            atexit.register(self.close)  # a program may end without closing it

    def _work(self) -> None:
        while not self._over.is_set() and (message := self._queue.get()) is not None:
            answer = self._deliver(message)
            with self._lock:
                if not self._over.is_set():
                    self._count(answer)

    def _deliver(self, message: _Message) -> Answer:
        return deliver(
            self._address,
            message.body,
            message.id,
            self._secret,
            now_s=lambda: int(time.time()),
            wait=self._over.wait,
        )

    def _count(self, answer: Answer) -> None:
        if answer.is_taken:
            self._told.sent += 1
        else:
            self._told.failed += 1
            self._told.why = answer.said
