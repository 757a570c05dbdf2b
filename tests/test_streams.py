"""An answer that nobody reads, or that no disk takes, is no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRINTS = [sys.executable, "-m", "backfill", "completion", "bash"]
FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_an_answer_that_no_disk_takes_is_a_failure_in_one_sentence() -> None:
    """Exit 1, since somebody wants the answer and does not have it."""
    with FULL.open("w") as full:
        ran = subprocess.run(PRINTS, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "the answer could not be written: No space left on device\n"


def test_a_reader_who_has_gone_changes_nothing() -> None:
    """As with `| head`: the verb ends as ever, and stderr says nothing."""
    with subprocess.Popen(PRINTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_a_terminal_that_is_gone_changes_nothing() -> None:
    """Progress and refusals have nowhere to go. The exit code says the same."""
    with FULL.open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "backfill", "nope"], stdout=full, stderr=full, check=False
        )
    assert ran.returncode == 2
