"""A command on a terminal of its own, which is read and typed at step by step."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


class AtTerminal:
    """`backfill WORDS`, with what its terminal has shown so far."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *words: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backfill", *words],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
            env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def until(self, text: str) -> None:
        """Read until the terminal has shown a text.

        What is typed before the space after a hidden prompt is dropped: wait for that, too.
        """
        while text not in self.shown:
            piece = self._piece()
            assert piece, f"{text!r} never came: {self.shown}"

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._ours, f"{line}\n".encode())

    def ended(self) -> int:
        """Read to the end. Returns the exit code."""
        while self._piece():
            pass
        os.close(self._ours)
        return self._process.wait()

    def _piece(self) -> str:
        try:
            piece = os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # the other side is closed
            return ""
        self.shown += piece
        return piece
