"""What others wrote reaches no terminal as it is, and no pipe either.

Names of environments, reasons, approvers, errors and ids may hold whatever a text of PostgreSQL
may: an escape sequence that moves the cursor, a character that turns the order of those after it, a
line that looks like one of ours, the markup of our own printing.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer

import backfill
from backfill.cli import answers, draft, progress, status_changes, terminal
from backfill.errors import BackfillError
from backfill.render.markdown import Called
from backfill.results.check import Check
from backfill.results.coverage import DayCoverage, Missing
from backfill.results.event import Event
from backfill.results.run import FailedSession, NextStep, Outcome, RunSummary, Status
from backfill.results.undo import UndoEffect
from backfill.results.verification import Answered, Criterion, Verification
from backfill.targets.draft_parts import Question
from tests.kit.commands import Shell
from tests.kit.hostile_text import HOSTILE, KEPT, harmful

AT = datetime(2025, 9, 16, tzinfo=UTC)
COUNTS = {"pending": 1, "leased": 0, "done": 1, "failed": 1, "skipped": 0, "rolled_back": 0}
PACKAGE = Path(backfill.__file__).parent
# Beside the one place: what a developer runs, and a server's own log.
PRINTS_TOO = {"targets/migrations.py", "local/auth.py"}
PRINTING = re.compile(
    r"^(print|(typer|click)\.(echo|secho|prompt|confirm)|sys\.std(out|err)\.write)$"
)


def status(**changed: Any) -> Status:
    step = NextStep((HOSTILE,), True, HOSTILE, (f"backfill resume {HOSTILE}",))
    said = {"reason": HOSTILE, "next_step": step, **changed}
    return replace(Status(HOSTILE, "paused", None, COUNTS, 20.0, 9.0, 1, HOSTILE), **said)


FAILED = FailedSession(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
RUN = RunSummary(
    run_id=HOSTILE, target=HOSTILE, state="completed", environment=HOSTILE, created_at=AT,
    total=1, done=1, failed=0, approved_by=HOSTILE,
)  # fmt: skip
CHECKS = [
    Check(f"column {HOSTILE}", "ok", HOSTILE),
    Check(HOSTILE, "fail", HOSTILE, HOSTILE),
]
LEFT = {"session_id": HOSTILE, "table": HOSTILE, "row": HOSTILE, "reason": HOSTILE}
ELSEWHERE = ({"table": HOSTILE, "inserted": 1, "updated": 0, "deleted": 0},)
VERIFICATION = Verification(
    run_id=HOSTILE, state="paused", verdict="fail",
    criteria=(Criterion(HOSTILE, 1, 0, "fail", 1, 0),),
    buckets={"missing": [{"session_id": HOSTILE, "component": HOSTILE}]},
    critical=(HOSTILE,), audit_count=1, audit_head=HOSTILE,
    new_candidates=(HOSTILE,), new_candidates_total=3,
    answered=(Answered(HOSTILE, HOSTILE, AT, HOSTILE),), without_headers=HOSTILE,
    left_behind=(LEFT,), next_step=status().next_step,
)  # fmt: skip
UNDO = UndoEffect(
    HOSTILE, HOSTILE, {HOSTILE: 1}, {HOSTILE: 2}, (LEFT,), 2, "previewed", HOSTILE, AT, True,
    session_ids=(HOSTILE,),
)  # fmt: skip
MISSING = Missing(
    (DayCoverage(HOSTILE, 1, 0, {HOSTILE: 1}, 1, 0, 0.5, {HOSTILE: 1}),),
    (HOSTILE,), called=Called(HOSTILE, HOSTILE), reasons={HOSTILE: HOSTILE}, notes=(HOSTILE,),
)  # fmt: skip
OUTCOME = Outcome(status(), (FAILED,), logs_failed=HOSTILE)


def refused() -> BackfillError:
    error = BackfillError(HOSTILE, "backfill status R")
    error.add_note(HOSTILE.replace("\n", " "))
    return error


def hear(kind: Any, **details: Any) -> None:
    with progress.ApplyProgress(status(reason=None)) as bar:
        bar.hear(Event(kind, HOSTILE, AT, details))
        terminal.err.print(bar.renderable())


SETTLED = {"state": "pending", "session_id": HOSTILE}
SETTLED |= {"error_message": f"{HOSTILE} {progress.ALONE}"}
SHOWS: dict[str, Callable[[], object]] = {
    "print_checks": lambda: answers.print_checks(CHECKS),
    "print_checks, each": lambda: answers.print_checks(CHECKS, is_verbose=True),
    "print_missing": lambda: answers.print_missing(MISSING),
    "print_runs": lambda: answers.print_runs([RUN, RUN]),
    "print_runs, none": lambda: answers.print_runs([], state=HOSTILE, target=HOSTILE),
    "print_status": lambda: answers.print_status(status()),
    "print_status, waiting": lambda: answers.print_status(status(waits_for=HOSTILE)),
    "print_failures": lambda: answers.print_failures([FAILED], Called(HOSTILE, HOSTILE)),
    "print_outcome": lambda: answers.print_outcome(OUTCOME),
    "print_missing_files": lambda: answers.print_missing_files(OUTCOME),
    "print_verification": lambda: answers.print_verification(VERIFICATION),
    "print_undo": lambda: answers.print_undo(UNDO),
    "print_left_as_it_is": lambda: answers.print_left_as_it_is(LEFT),
    "a refusal": lambda: terminal.print_refusal(refused(), is_refused=True),
    "a usage": lambda: terminal.print_refusal(
        typer.BadParameter(HOSTILE.replace("\n", " ")), is_refused=False
    ),
    "a note of the bar": lambda: hear("waiting", wait_for=HOSTILE, why=HOSTILE, wait_s=1),
    "a batch": lambda: hear("batch_settled", batch=1, settled=[SETTLED]),
    "watching": lambda: status_changes.show_changes(
        iter([status(), replace(status(), state="cancelled")]).__next__,
        as_json=False,
        wait=lambda: None,
    ),
    "a question": lambda: draft.ask(Question(HOSTILE, (HOSTILE,))),
    "a name to sign with": lambda: terminal.ask("Approver", default=HOSTILE),
    "a question of yes or no": lambda: terminal.confirm(f"Approve as {HOSTILE}?"),
    "a document": lambda: terminal.print_markdown([HOSTILE.replace("\n", " ")]),
    "a line for a shell": lambda: terminal.write(HOSTILE.replace("\n", " ")),
}


@pytest.fixture(params=["a terminal", "a narrow terminal", "a pipe"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both streams, to be read by capsys."""
    width = {"a terminal": 200, "a narrow terminal": 60, "a pipe": 250}[request.param]
    for name in ("out", "err"):
        is_terminal = request.param != "a pipe"
        made = terminal.PlainConsole(
            stderr=name == "err", force_terminal=is_terminal, color_system=None, width=width
        )
        monkeypatch.setattr(terminal, name, made)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))


@pytest.mark.parametrize("shown", SHOWS)
def test_what_others_wrote_is_shown_as_text(
    shown: str, streams: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of it moves a cursor, turns the order of letters or begins a line of its own."""
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n" if shown == "a question" else "y\n"))
    SHOWS[shown]()
    read = capsys.readouterr()
    assert harmful(read.out + read.err) == []
    assert "x" in read.out + read.err


def test_every_answer_is_asked() -> None:
    """A new one is not forgotten."""
    there = {name for name in vars(answers) if name.startswith("print_")}
    imported = {"print_marked", "print_next", "print_next_step", "print_prose"}
    assert there - imported == {name.split(",")[0] for name in SHOWS if name.startswith("print_")}


def test_the_markup_of_our_printing_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and the names of emoji stay what they were."""
    answers.print_status(status())
    said = capsys.readouterr().out
    assert all(text in said for text in KEPT)
    assert "\\x1b[31;5my\\x1b]0;owned\\x07\\x9b2J\\x7f\\u202eabc" in said


def test_json_says_the_same_without_a_raw_character(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads it as JSON gets what was written, whoever looks at it is safe."""
    said = {"reason": HOSTILE, HOSTILE: ["\U000e0041", "\ud800", "größer 数"]}
    for indent in (2, None):
        terminal.print_json(said, indent=indent)
        shown = capsys.readouterr().out
        assert harmful(shown) == []
        assert json.loads(shown) == said
        assert "größer 数" in shown


def test_what_comes_back_from_the_database_is_harmless(
    shell: Shell, project_db: psycopg.Connection[Any]
) -> None:
    """From the command line to the database and back: reason, approver, environment, ids."""
    ran = shell("pause", HOSTILE, "--reason", HOSTILE)
    assert (ran.code, harmful(ran.out + ran.err)) == (2, [])
    refused = shell("plan", "--since", "2025-08-01", "--environment", HOSTILE)
    assert (refused.code, harmful(refused.out + refused.err)) == (3, [])
    project_db.execute("update public.backfill_settings set environment = %s", (HOSTILE[:60],))
    planned = shell("plan", "--since", "2025-08-01", "--environment", HOSTILE[:60], "--json")
    assert (planned.code, harmful(planned.out + planned.err)) == (0, []), planned.err
    run = planned.json["run_id"]
    for words in (
        ("show", run), ("runs",), ("status", run), ("missing", "--since", "2025-08-01"),
        ("reject", run, "--reason", HOSTILE, "--approver", HOSTILE), ("show", run), ("runs",),
        ("status", run), ("status", run, "--json"), ("apply", run), ("verify", run),
        ("rollback", run), ("check",), ("targets",), ("logs", run), ("runs", "--state", HOSTILE),
        ("runs", "--target", HOSTILE), ("retry", run), ("resume", run), ("cancel", run),
    ):  # fmt: skip
        ran = shell(*words)
        assert harmful(ran.out + ran.err) == [], words


def printing(file: Path) -> list[str]:
    """Each place of a module that puts text on a terminal by itself."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return [
        f"{file.name}:{call.lineno}" for call in calls if PRINTING.match(ast.unparse(call.func))
    ] + [
        f"{file.name}:{call.lineno} makes a console"
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] == "Console"
    ]


def test_there_is_one_place_that_prints() -> None:
    """What does not go through it would not be made harmless."""
    one = PACKAGE / "cli" / "terminal.py"
    others = (f for f in PACKAGE.rglob("*.py") if str(f.relative_to(PACKAGE)) not in PRINTS_TOO)
    assert [place for file in others if file != one for place in printing(file)] == []
    assert len(printing(one)) == 4
