"""The measurements still run, and each way does its work; how fast is never asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import records, start, tables, timeline
from tests.bench.timing import Figure, Setting
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
def test_every_way_scores_every_session_and_has_its_row(tmp_path: Path) -> None:
    """The command refuses a way that left a session unscored; here it ends well."""
    command = [sys.executable, "-m", "tests.bench", "--only", *ONLY, "--rounds", "1"]
    command += ["--raw", str(tmp_path / "raw.jsonl")]
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
    kept = records.read(tmp_path / "raw.jsonl")
    assert {way: [f.sessions for f in taken] for (_, way), taken in kept.items()} == {
        name: [int(SESSIONS * WAYS[name].times)] for name in ONLY if not WAYS[name].missing()
    }


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


CHEAP = Setting("17.10", "cheap")
SAMPLE = Setting("15.20", "sample")


def measured(*took_s: float) -> list[Figure]:
    return [Figure(8, took, client_cpu_s=0.1, server_cpu_s=0.2, peak_mb=50) for took in took_s]


def test_several_settings_stand_side_by_side() -> None:
    """A column each: the median, and in brackets what it makes of gathered under the same."""
    taken = {
        CHEAP: {"loop": measured(4), "gathered-4": measured(1)},
        SAMPLE: {"loop": measured(8), "gathered-4": measured(4)},
    }
    report = tables.settings([WAYS["loop"], WAYS["gathered-4"]], taken)
    assert report.splitlines()[0] == "|  | 17.10, cheap | 15.20, sample |"
    assert rows(report)[WAYS["loop"].says] == ["2 (0.25)", "1 (0.50)"]


def test_two_files_are_compared_way_by_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Medians, spreads, whether those overlap, and what is in only one of them is left out."""
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    for file, way, took_s in (
        *((before, "loop", took_s) for took_s in (4, 2, 8)),
        *((after, "loop", took_s) for took_s in (1, 2, 1)),
        *((file, "gathered-4", 1.0) for file in (before, after)),
        (before, "pgbench-4", 1.0),
    ):
        records.append(file, CHEAP, way, measured(took_s)[0])
    records.main([str(before), str(after)])
    found = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()][2:]
    assert found == [
        ["17.10, cheap", "loop", "2", "1 to 4", "8", "4 to 8", "4.00", "0.25 to 1.00", "overlap"],
        [
            *("17.10, cheap", "gathered-4", "8", "8 to 8", "8", "8 to 8"),
            *("1.00", "1.00 to 1.00", "overlap"),
        ],
    ]


def test_a_line_that_is_no_measurement_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its number; nothing is compared."""
    file = tmp_path / "raw.jsonl"
    records.append(file, CHEAP, "loop", measured(1)[0])
    with file.open("a") as lines:
        lines.write('{"way": "loop"}\n')
    with pytest.raises(SystemExit):
        records.main([str(file), str(file)])
    assert f"{file}, line 2: no measurement" in capsys.readouterr().err


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
