"""One worker process: the real command line, on the clock that all workers share.

python -m tests.faults.worker WORDS, with DATABASE_URL, WORKER_NAME and what the command line reads.
MOST_FILE_BYTES: no file of this process grows longer, as on a disk that is full.
"""

from __future__ import annotations

import os
import resource

from backfill import client
from backfill.cli import app as cli
from tests.faults.clock import CommonClock


def main() -> None:
    """Run the command line."""
    most = os.environ.get("MOST_FILE_BYTES")
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    with CommonClock(os.environ["DATABASE_URL"], os.environ["WORKER_NAME"]) as clock:
        vars(client)["SystemClock"] = lambda: clock
        cli.main()


if __name__ == "__main__":
    main()
