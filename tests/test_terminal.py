"""What a person sees at 80 columns, and while a run runs."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from backfill.cli import answers, progress, terminal
from backfill.errors import BackfillError
from backfill.render.markdown import document, joined, table
from backfill.results.check import Check
from backfill.results.event import Event
from backfill.results.run import RunState, RunSummary, Status
from tests.kit.commands import Shell

RUNS = [
    RunSummary(
        run_id="6fdb277e-dcd2-4ad6-a4b1-3cb23afa55a8",
        target="prism",
        state="awaiting_approval",
        environment="production",
        created_at=datetime(2025, 9, 16, 12, 30, tzinfo=UTC),
        total=1234,
        done=1230,
        failed=5,
        approved_by="somebody.with.a.long.address@example.org",
    ),
    RunSummary(
        run_id="6fdb277e-0000-4ad6-a4b1-3cb23afa55a8",
        target="a_long_name_of_a_target",
        state="completed",
        environment=None,
        created_at=datetime(2025, 9, 15, tzinfo=UTC),
        total=39,
        done=39,
        failed=0,
    ),
]
BEGAN = datetime(2025, 9, 16, tzinfo=UTC)


def screen(columns: int) -> tuple[Console, io.StringIO]:
    """A terminal of this width, and what it shows."""
    shown = io.StringIO()
    console = terminal.PlainConsole(
        file=shown, width=columns, force_terminal=True, color_system=None
    )
    return console, shown


def status(eta_s: float | None, state: RunState = "running") -> Status:
    counts = {"pending": 30, "leased": 0, "done": 9, "failed": 0, "skipped": 0, "rolled_back": 0}
    return Status("r", state, None, counts, 20.0, eta_s, 1, "head")


def test_the_runs_fit_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a run, nothing broken; the id is cut to what still names one of those shown."""
    console, shown = screen(80)
    monkeypatch.setattr(terminal, "out", console)
    answers.print_runs(RUNS)
    header, first, second = shown.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in (header, first, second))
    assert header.split() == [
        "run",
        "target",
        "state",
        "created",
        "done",
        "failed",
        "approved",
        "by",
    ]
    assert first.split()[:6] == [
        "6fdb277e-d", "prism", "awaiting", "approval", "2025-09-16", "1230/1234",
    ]  # fmt: skip
    assert second.split() == ["6fdb277e-0", "a_long_n…", "completed", "2025-09-15", "39/39", "0"]


def test_the_runs_are_whole_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wide terminal, and in a pipe."""
    console, shown = screen(180)
    monkeypatch.setattr(terminal, "out", console)
    answers.print_runs(RUNS)
    assert RUNS[0].run_id in shown.getvalue()
    assert RUNS[0].approved_by is not None
    assert RUNS[0].approved_by in shown.getvalue()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "no runs yet"),
        ({"state": "awaiting_approval"}, "no run is awaiting approval"),
        ({"target": "songs"}, "no runs of target songs yet"),
        ({"target": "songs", "state": "running"}, "no run of target songs is running"),
    ],
)
def test_no_runs_are_what_was_asked_for(
    capsys: pytest.CaptureFixture[str], asked: dict[str, Any], said: str
) -> None:
    """Not that there are none where others were not asked for."""
    answers.print_runs([], **asked)
    assert capsys.readouterr().out == f"{said}\n"


def test_a_status_says_what_it_waits_for_and_what_ended_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One form for each."""
    answers.print_status(replace(status(None), waits_for="canary: 2 sessions", reason="x"))
    answers.print_status(replace(status(None, "cancelled"), reason="NaN"))
    out = capsys.readouterr().out
    assert "\n  waits for canary: 2 sessions\n" in out
    assert "\n  reason: NaN\n" in out
    assert "x" not in out.split()


@pytest.mark.parametrize(
    ("eta_s", "said"),
    [(None, "not known"), (0, "about 0 s"), (75, "about 1 min 15 s"), (7_200, "about 2 h")],
)
def test_a_status_says_how_long_it_takes(eta_s: float | None, said: str) -> None:
    """If anyone knows."""
    assert f"\n  20 sessions/min, time left {said}\n" in answers.status_text(status(eta_s))


CHECKS = [
    Check("reachable", "ok", "127.0.0.1 answers"),
    Check("key of public.orders", "ok", "id is unique"),
    Check("limits", "fail", "[bold]none", "set one"),
    Check('index on public."odd. Name" (a, b)', "ok", "there"),
    Check("column public.orders.paid_at", "ok", "date"),
    Check("table public.orders", "warn", "no rows"),
    Check("rights on our tables", "ok", "as the migrations grant them"),
]


def test_what_is_ok_is_a_line_per_table(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not ok stands below it, whole, and with what to do."""
    answers.print_checks(CHECKS)
    assert capsys.readouterr().out == (
        "ok  project: reachable, rights on our tables\n"
        "ok  public.orders: key, column paid_at\n"
        'ok  public."odd. Name": index (a, b)\n'
        "fail  limits: [bold]none\n"
        "        Next: set one\n"
        "warn  table public.orders: no rows\n"
        "5 of 7 are ok: --verbose lists them\n"
    )


def test_what_is_ok_is_wrapped_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where the terminal ends."""
    console, shown = screen(60)
    monkeypatch.setattr(terminal, "out", console)
    names = [f"function score_{number}" for number in range(9)]
    answers.print_checks([Check(name, "ok", "") for name in names])
    *lines, _ = shown.getvalue().splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert " ".join(" ".join(lines).split()) == f"ok project: {', '.join(names)}"


def test_each_check_is_a_line_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """In the order in which they were made. If nothing is ok, there is nothing more to list."""
    answers.print_checks(CHECKS, is_verbose=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "Next:" not in line]
    assert lines == [f"{c.status}  {c.name}: {c.detail}" for c in CHECKS]
    answers.print_checks([CHECKS[2]])
    assert capsys.readouterr().out == "fail  limits: [bold]none\n        Next: set one\n"


def test_a_long_plan_is_rendered_at_its_beginning_and_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tables between are text: all is there, and what has to be done now stands out."""
    console, shown = screen(80)
    monkeypatch.setattr(terminal, "out", console)
    batch = table(("#", "Session"), ((n, f"`session {n}`") for n in range(600)))
    parts = ["# Plan", *(part for n in range(4) for part in (f"### Batch {n}", batch))]
    terminal.print_markdown(document([*parts, "## Status", "**HALTED FOR APPROVAL**"]))
    text = shown.getvalue()
    assert text.count("| 599 | `session 599` |") == 2
    assert text.count("session 599") == 4
    assert "### Batch 1" not in text
    assert "### Batch 3\n\n| # | Session |\n" in text
    assert "**" not in text
    assert text.rstrip().endswith("HALTED FOR APPROVAL")


def test_a_pipe_gets_the_document_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Piece by piece is the same text."""
    monkeypatch.setattr(terminal, "out", terminal.PlainConsole(force_terminal=False))
    parts = ["# Plan", "", "| a |\n| --- |", "end"]
    terminal.print_markdown(document(parts))
    assert capsys.readouterr().out == joined(*parts) + "\n"


def test_the_time_left_is_the_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows the throttle; between two looks at it the time runs on."""
    console, shown = screen(120)
    monkeypatch.setattr(terminal, "err", console)
    bar = progress.ApplyProgress(status(75))
    console.print(bar.renderable())
    assert "left 0:01:15" in shown.getvalue()
    assert progress.time_left(75, seconds_ago=10) == "0:01:05"
    assert progress.time_left(75, seconds_ago=100) == "0:00:00"
    assert progress.time_left(None, seconds_ago=0) == "not known"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_bar_is_legible_at_any_width(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Counts, failures, rate and time left are whole; what it waits for has lines of its own."""
    console, shown = screen(columns)
    monkeypatch.setattr(terminal, "err", console)
    counts = {**status(75).counts, "pending": 120_000, "done": 123_456, "failed": 1_234}
    bar = progress.ApplyProgress(replace(status(75), counts=counts))
    why = "the next session is tried again at 08:00:03 UTC after 57014 canceling statement"
    waiting = {"wait_for": "back-off", "why": why, "wait_s": 12.0}
    bar.hear(Event("waiting", "r", BEGAN, waiting))
    settled = [{"state": state, "error_message": None} for state in ("done", "failed")]
    console.print(bar.renderable())
    first, *others = shown.getvalue().splitlines()
    assert "124690/244690  1234 failed  20/min  left 0:01:15" in first
    assert first.startswith("apply ━")
    assert " ".join(" ".join(others).split()) == f"waits for back-off: {why}, 12 s"
    assert all(len(line) <= columns for line in (first, *others))
    bar.hear(Event("batch_settled", "r", BEGAN, {"batch": 7, "settled": settled}))
    console.print(bar.renderable())
    assert "124692/244690  1235 failed" in shown.getvalue()
    assert "\n  batch 7: 1 done, 1 failed\n" in shown.getvalue()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_steps_of_a_verb_are_legible_at_any_width(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Counts and time stay; the bar gives way."""
    console, shown = screen(columns)
    monkeypatch.setattr(terminal, "err", console)
    monkeypatch.setattr(progress, "SHOW_AFTER_S", 0.0)
    with progress.StepProgress("look at rows") as steps:
        steps.hear(123_456, 250_000)
    assert "123456/250000 sessions 0:00:0" in shown.getvalue()
    assert re.search("look at rows ━", shown.getvalue())


def test_it_looks_again_while_somebody_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that fails changes nothing."""
    console, shown = screen(120)
    monkeypatch.setattr(terminal, "err", console)
    monkeypatch.setattr(progress, "LOOK_EVERY_S", 0.01)
    answers: Iterator[Status | BackfillError] = iter([status(3600), BackfillError("no answer")])
    looked: list[object] = []

    def look() -> Status:
        answer = next(answers, status(7200))
        looked.append(answer)
        if isinstance(answer, BackfillError):
            raise answer
        return answer

    with progress.ApplyProgress(status(75), look) as bar:
        while len(looked) < 4:
            time.sleep(0.01)
        console.print(bar.renderable())
    assert "20/min" in shown.getvalue()
    assert "left 2:00:00" in shown.getvalue() or "left 1:59:59" in shown.getvalue()


def test_the_version_is_the_packages(shell: Shell) -> None:
    """With its name, and without a project."""
    ran = shell("--version", SUPABASE_URL="")
    assert (ran.code, ran.out) == (0, "supabase-backfill 0.1.0\n")
