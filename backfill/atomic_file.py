"""Files that we write: whole or not at all, and never where a link leads.

A file is written beside its place and then renamed. What is appended to is opened as it is.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import IO

PRIVATE = 0o600
AS_ANY = 0o666  # less the umask

# Windows has neither.
_AS_IT_IS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_FILE = {errno.ELOOP: "it is a symbolic link", errno.ENXIO: "it is no regular file"}


def open_regular(path: str | Path, flags: int, mode: int = PRIVATE) -> int:
    """Open a regular file, as os.open. Follows no link, and waits for nobody at a pipe.

    Raises OSError, also for whatever is no regular file.
    """
    try:
        handle = os.open(path, flags | _AS_IT_IS, mode)
    except OSError as error:
        if said := _NO_FILE.get(error.errno or 0):
            raise OSError(error.errno, said, str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, _NO_FILE[errno.ENXIO], str(path))
    return handle


def read_regular(path: Path) -> str:
    """The text of a regular file, with what is no UTF-8 replaced. Raises OSError as above."""
    with open(path, encoding="utf-8", errors="replace", opener=open_regular) as file:
        return file.read()


class Draft:
    """A file that is being written.

    Its methods raise OSError, except discard(), which leaves a finished file as it is.
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
        """Append text."""
        _, file = self._opened()
        file.write(text.encode(errors="backslashreplace"))

    def finish(self) -> None:
        """Move the file into its place."""
        beside, file = self._opened()
        file.close()
        os.replace(beside, self._path)
        self._begun = None

    def discard(self) -> None:
        """Remove an unfinished file."""
        if self._begun is not None:
            beside, file = self._begun
            with suppress(OSError):  # a full disk raises again
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
