"""A file that is written beside its place, and is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import IO

PRIVATE = 0o600
AS_ANY = 0o666  # what the umask leaves of it


class Draft:
    """Such a file in the making.

    Its methods raise OSError; discard() does not, and leaves a finished file alone.
    """

    def __init__(self, path: Path, mode: int = PRIVATE) -> None:
        self._path = path
        self._mode = mode
        self._begun: tuple[Path, IO[bytes]] | None = None

    def _opened(self) -> tuple[Path, IO[bytes]]:
        if self._begun is None:
            beside = self._path.with_name(f".{self._path.name}.{token_hex(4)}")
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
            self._begun = beside, os.fdopen(handle, "wb")
        return self._begun

    def write(self, text: str) -> None:
        """Add a piece."""
        _, file = self._opened()
        file.write(text.encode(errors="backslashreplace"))

    def finish(self) -> None:
        """Put it in its place."""
        beside, file = self._opened()
        file.close()
        os.replace(beside, self._path)
        self._begun = None

    def discard(self) -> None:
        """Take away what is not finished."""
        if self._begun is not None:
            beside, file = self._begun
            with suppress(OSError):  # a full disk says so once more
                file.close()
            beside.unlink(missing_ok=True)


def replace_file(path: Path, pieces: Iterable[str], mode: int = PRIVATE) -> None:
    """Write a file whole or not at all. Raises OSError."""
    draft = Draft(path, mode)
    try:
        for piece in pieces:
            draft.write(piece)
        draft.finish()
    finally:
        draft.discard()
