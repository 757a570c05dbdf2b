"""A run watched from outside, a plan without its sessions, and a plan that has to be sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from backfill.cli import answers, exit_codes, terminal
from backfill.cli.exit_codes import ExitCode
from backfill.cli.status_changes import show_changes
from backfill.errors import OutcomeUnknown, UnknownRun
from backfill.results.check import Check
from backfill.results.run import Status
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.seed import SEED
from tests.test_terminal import screen, status

FIRST = status(30.0)
SECOND = replace(FIRST, counts={**FIRST.counts, "pending": 29, "done": 10})
LAST = replace(SECOND, state="completed", eta_s=None)


def looks(*seen: Status | Exception) -> Callable[[], Status]:
    """What each look sees, in turn."""
    answers: Iterator[Status | Exception] = iter(seen)

    def look() -> Status:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return look


def test_each_change_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What has not changed is not said again, and the end of the run ends it."""
    waits: list[int] = []
    show_changes(
        looks(FIRST, FIRST, SECOND, OutcomeUnknown("cannot reach x"), SECOND, LAST),
        as_json=True,
        wait=lambda: waits.append(1),
    )
    shown = capsys.readouterr()
    assert [json.loads(line) for line in shown.out.splitlines()] == [
        s.as_dict() for s in (FIRST, SECOND, LAST)
    ]
    assert shown.err == "cannot reach x. Asked again\n"
    assert len(waits) == 5


def test_a_pipe_gets_each_change_below_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    show_changes(looks(FIRST, LAST), as_json=False, wait=lambda: None)
    assert capsys.readouterr().out == "".join(f"{answers.status_text(s)}\n" for s in (FIRST, LAST))


def test_a_terminal_shows_it_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change takes the place of the former."""
    console, shown = screen(80)
    monkeypatch.setattr(terminal, "out", console)
    show_changes(looks(FIRST, LAST), as_json=False, wait=lambda: None)
    assert "\x1b[1A" in shown.getvalue()
    assert "run r is completed" in shown.getvalue()


def test_ctrl_c_ends_watching_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    show_changes(looks(FIRST), as_json=False, wait=interrupted)
    said = capsys.readouterr()
    assert "run r is running" in said.out
    assert said.err == "no longer watched: the run itself goes on as before\n"


def test_what_the_first_look_raises_is_raised() -> None:
    """A run that is none is not waited for."""
    with pytest.raises(UnknownRun):
        show_changes(looks(UnknownRun("there is no run x")), as_json=False)


def test_a_mark_that_failed_ends_a_strict_plan_with_4() -> None:
    marks = [Check("a", "ok", ""), Check("b", "warn", "")]
    failed = [*marks, Check("c", "fail", "")]
    assert exit_codes.of_plan(marks, is_strict=True) is ExitCode.DONE
    assert exit_codes.of_plan(failed, is_strict=False) is ExitCode.DONE
    assert exit_codes.of_plan(failed, is_strict=True) is ExitCode.DIFFERENCE


def test_a_plan_is_strict_watched_and_summed_up(project: Project, shell: Shell) -> None:
    """On a real project: a mark that failed, the figures without the sessions, one status."""
    project.db.execute("alter table public.profiles disable trigger user")
    words = ("plan", "--since", str(SEED["since"]), "--environment", "staging", "--rehearse", "0")
    ran = shell(*words, "--strict", "--json")
    failed = [check["name"] for check in ran.json["checks"] if check["status"] == "fail"]
    assert (ran.code, bool(failed)) == (ExitCode.DIFFERENCE, True), ran
    run_id = ran.json["run_id"]
    whole, summary = (shell("show", run_id, *more, "--json").json for more in ((), ("--summary",)))
    assert whole.keys() - summary.keys() == {"batches", "excluded"}
    assert summary["candidates"] == ran.json["candidates"]
    session = ran.json["batches"][0]["sessions"][-1]
    whole_text, text = shell("show", run_id).out, shell("show", run_id, "--summary").out
    assert (session in whole_text, session in text) == (True, False)
    assert "HALTED FOR APPROVAL" in text
    both = shell("show", run_id, "--summary", "--html", "x.html")
    assert (both.code, both.err.splitlines()[0]) == (ExitCode.USAGE, "a page has no summary")
    assert shell("cancel", run_id, "--reason", "a test").code == ExitCode.DONE
    watched = shell("status", run_id, "--watch", "--json")
    assert (watched.code, watched.json["state"]) == (ExitCode.DONE, "cancelled")
