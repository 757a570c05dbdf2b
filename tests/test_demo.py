"""The demonstration shows the seed's figures, ends verified, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

SHOWN = (
    "candidates 39, without a profile 13, without FC scores 39, without both 13",
    "profile+fc_scores 13, fc_scores 26",
    "39 + 13 = 52; phases: 2 / 5 / 32",
    "HALTED FOR APPROVAL",
    "39 sessions done, 0 failed",
    "verdict: pass",
    "missing again up to 2025-08-10: 11",
)


@pytest.fixture(scope="module")
def demonstration() -> str:
    """What `backfill demo` prints."""
    ran = subprocess.run(
        [sys.executable, "-m", "backfill", "demo"], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("line", SHOWN)
def test_the_demo_shows(demonstration: str, line: str) -> None:
    """Each figure of the plan it was made for, and each step's result."""
    assert line in demonstration
