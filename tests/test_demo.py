"""The demonstration shows the seed's figures, ends verified, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.whole import NIGHTLY

SHOWN = (
    "candidates 39, without a profile 13, without FC scores 39, without both 13",
    "profile+fc_scores 13, fc_scores 26",
    "39 + 13 = 52; phases: 2 / 5 / 32",
    "HALTED FOR APPROVAL",
    "39 sessions done, 0 failed",
    "verdict: pass",
    "missing again up to 2025-08-10: 11",
)


# In SQL a push shows the same from the wheel: see test_wheel.
@pytest.fixture(scope="module", params=[pytest.param("rpc", marks=NIGHTLY), "edge"])
def demonstration(request: pytest.FixtureRequest) -> str:
    """What `backfill demo` prints, in SQL and by Edge Functions."""
    ran = subprocess.run(
        [sys.executable, "-m", "backfill", "demo", "--transport", request.param],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("line", SHOWN)
def test_the_demo_shows(demonstration: str, line: str) -> None:
    """Each figure of the plan it was made for, and each step's result."""
    assert line in demonstration


def _data_of(state: Path) -> Path:
    """Where a stack keeps its data, perhaps outside its folder."""
    return Path(json.loads(state.read_text())["kept"]["data_dir"])


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        # While it starts: see the test below.
        pytest.param(signal.SIGTERM, "== A Supabase-like", marks=NIGHTLY),
        (signal.SIGTERM, "== Plan"),
        pytest.param(signal.SIGTERM, "   batch 1", marks=NIGHTLY),
        (signal.SIGINT, "   batch 1"),
    ],
)
def test_a_demo_that_is_asked_to_end_leaves_nothing(
    tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    """Whether it starts, plans or scores: no folder, no process, and the signal's exit code."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "backfill", "demo", "--throttle", "20"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        assert any(line.startswith(moment) for line in demo.stdout)
        data = [_data_of(state) for state in tmp_path.glob("*/stack/stack.json")]
        demo.send_signal(number)
        _, said = demo.communicate(timeout=90)
    assert demo.returncode == 128 + number
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert not any(folder.exists() for folder in data)


# The start has just taken its lock: cut off here, it would stay taken by nobody who knows of it.
ASKED_TO_END_IN_THE_START = """
import os, signal
from backfill.cli import demo
from backfill.local import stack
took = stack.takes
def take(lock):
    taken = took(lock)
    os.kill(os.getpid(), signal.SIGTERM)
    return taken
stack.takes = take
demo.demonstrate(60, tell=print, announce=print)
"""


def test_a_signal_cannot_cut_the_start_in_two(tmp_path: Path) -> None:
    """It is noted, the stack comes up and goes again, and the exit code is the signal's."""
    ended = subprocess.run(
        [sys.executable, "-c", ASKED_TO_END_IN_THE_START],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert [p for p in tmp_path.iterdir() if p.name.startswith("backfill-")] == []
