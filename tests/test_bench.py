"""The measurements still run, and each way does its work; how fast is never asserted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench import start, tables, timeline
from tests.bench.timing import Figure
from tests.bench.ways import ALL
from tests.faults.processes import ROOT
from tests.kit.whole import examples

# What needs nothing beyond the extras [local] and [test], one of a kind.
ONLY = examples(
    ["loop", "gathered-4", "apply-16", "bulk-1-in-2", "pgbench-4"],
    at_a_push=["loop", "bulk-1-in-2", "pgbench-4"],
)
SESSIONS = 40
WAYS = {way.name: way for way in ALL}


def rows(report: str) -> dict[str, list[str]]:
    """The cells of a report's table by what their way is called."""
    lines = [line.strip("| ").split(" | ") for line in report.splitlines() if line[:1] == "|"]
    return {name: cells for name, *cells in lines}


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="CPU and memory are read from /proc")
def test_every_way_scores_every_session_and_has_its_row() -> None:
    """The command refuses a way that left a session unscored; here it ends well."""
    command = [sys.executable, "-m", "tests.bench", "--only", *ONLY, "--rounds", "1"]
    ran = subprocess.run(
        [*command, "--sessions", str(SESSIONS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr
    found = rows(ran.stdout)
    sessions = tables.COLUMNS.index("sessions")
    for way in (WAYS[name] for name in ONLY if not WAYS[name].missing()):
        assert found[way.says][sessions] == str(int(SESSIONS * way.times))


def test_ratios_are_to_the_faster_of_the_gathered_ways() -> None:
    """And to the loop; each figure is a median."""
    took_s = {"loop": (2, 4, 9), "gathered-4": (1, 1, 1), "gathered-16": (2, 2, 2)}
    figures = {
        name: [Figure(8, took, client_cpu_s=0.1, server_cpu_s=0.2, peak_mb=50) for took in times]
        for name, times in took_s.items()
    }
    found = rows(tables.comparison([WAYS[name] for name in took_s], figures))
    assert found["the client in a loop"][:4] == ["2", "1 to 4", "0.25", "1.00"]
    assert found["bare calls gathered, 16 at a time"][:4] == ["4", "4 to 4", "0.50", "2.00"]


def test_a_lane_holds_what_was_not_under_way_at_once() -> None:
    """So a gap in a lane is a caller that waited."""
    first, beside, after = (
        timeline.Call("backfill_bulk", began_s, ended_s)
        for began_s, ended_s in ((0.0, 2.0), (1.0, 3.0), (8.0, 10.0))
    )
    lanes = timeline.lanes([after, beside, first])
    assert lanes == [[first, after], [beside]]
    assert timeline.drawn(lanes[1], 10.0).startswith("." * 10 + "#" * 21 + "." * 69)


def test_starting_has_a_row_for_each_program() -> None:
    """Of which each took some CPU."""
    least_s = start.measured(rounds=1)
    assert min(least_s.values()) > 0
    assert {*rows(start.shown(least_s))} > {*start.PROGRAMS}
