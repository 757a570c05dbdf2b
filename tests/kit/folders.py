"""Where a test's PostgreSQL keeps its data: in memory if there is room.

A copy of a database is some seven hundred files.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from backfill.local.parts import is_reachable, open_temp_root

MEMORY = Path("/dev/shm")  # noqa: S108 - no name in it is guessed
ENOUGH_BYTES = 6 * 2**30  # a worker's server takes less than one GiB


def server_folder() -> Path:
    """A new folder that the server's account may enter when the tests run as root."""
    folder = _root() / f"backfill-tests-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o755)
    return folder


def _root() -> Path:
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH_BYTES
    return MEMORY if roomy and is_reachable(MEMORY) else open_temp_root()
