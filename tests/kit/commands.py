"""Run the command line in this process, as a shell would see it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from backfill.cli import app as cli
from tests.kit.keyrings import BACKEND_VARIABLE, NONE


@dataclass(frozen=True)
class Ran:
    """The result of a command: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


class Shell:
    """A shell with an environment of its own."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        environment: dict[str, str],
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.environment = environment

    def __call__(self, *words: str, **environment: str) -> Ran:
        """Run `backfill WORDS`. environment: further variables. '' counts as unset."""
        with self._monkeypatch.context() as patch:
            for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
                patch.delenv(name, raising=False)
            patch.setenv(BACKEND_VARIABLE, NONE)  # never that of who runs the tests
            for name, value in {**self.environment, **environment}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["backfill", *words])
            self._capsys.readouterr()
            code = self._run()
        streams = self._capsys.readouterr()
        return Ran(code, streams.out, streams.err)

    def _run(self) -> int:
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0
