"""Keyrings for tests: one in a file, for processes, and one that is locked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

FILE_VARIABLE = "BACKFILL_TEST_KEYRING"
BACKEND_VARIABLE = "PYTHON_KEYRING_BACKEND"
IN_A_FILE = "tests.kit.keyrings.FileKeyring"
NONE = "keyring.backends.fail.Keyring"


class FileKeyring(KeyringBackend):
    """Keeps its secrets in the file that a variable names. Never the keyring of who runs tests."""

    priority: Any = 1

    def _file(self) -> Path:
        return Path(os.environ[FILE_VARIABLE])

    def _kept(self) -> dict[str, str]:
        kept: dict[str, str] = json.loads(self._file().read_text()) if self._file().exists() else {}
        return kept

    def get_password(self, service: str, username: str) -> str | None:
        """The secret, if there is one."""
        return self._kept().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep a secret."""
        kept = {**self._kept(), f"{service} {username}": password}
        self._file().touch(0o600)
        self._file().write_text(json.dumps(kept))

    def delete_password(self, service: str, username: str) -> None:
        """Forget a secret."""
        kept = self._kept()
        if kept.pop(f"{service} {username}", None) is None:
            raise PasswordDeleteError
        self._file().write_text(json.dumps(kept))


class LockedKeyring(FileKeyring):
    """Tells nothing until somebody unlocks it."""

    def get_password(self, service: str, username: str) -> str | None:
        """Refuse."""
        raise KeyringLocked(f"locked: {service} {username}")
