"""stdout and stderr that outlast their reader: a closed pipe, a full disk, a terminal that is gone.

Python would end the verb midway, or with a traceback after it has ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO, cast

from backfill.cli import terminal


class _Lasting:
    """A stream that drops what cannot be written. why: the first error, if there was one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.why: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.why is not None:
            return
        try:
            act()
        except OSError as error:
            self.why = error
            self._drain()

    def _drain(self) -> None:
        """Let what the stream still holds go nowhere, when Python flushes it at the end."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@dataclass
class Lost:
    """answer_is_lost: stdout could not be written, though somebody wants it."""

    answer_is_lost: bool = False


@contextlib.contextmanager
def lasting() -> Iterator[Lost]:
    """Let stdout and stderr outlast their reader until the block ends."""
    out, err, lost = _Lasting(sys.stdout), _Lasting(sys.stderr), Lost()
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield lost
    finally:
        out.flush()
        if out.why is not None and not isinstance(out.why, BrokenPipeError):
            lost.answer_is_lost = True
            terminal.err.print(f"the answer could not be written: {out.why.strerror}")
        err.flush()
        sys.stdout, sys.stderr = out._stream, err._stream
