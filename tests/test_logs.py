"""The files of a run: private, whole, and never in the way of the run."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backfill.atomic_file import open_regular
from backfill.files.folder import MESSAGE_CHARS, RunLog
from backfill.results.plan import Plan

RUN = "22dc9d26-0e85-4a2c-9bdc-1b92db031930"
PLAN = Plan("", "empty", "", "staging", datetime(2025, 9, 17, tzinfo=UTC), {"since": "2025-08-01"})


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _failures(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [r for r in caplog.records if r.getMessage() == "backfill.logs_failed"]


def test_a_run_has_a_folder_of_its_own_with_all_its_files(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path / "backfill_logs", RUN)
    log.plan(PLAN)
    log.call({"session_id": "s1"})
    log.batch(1, {"batch": 1})
    log.summary("# summary\n")
    with log.rollback() as write:
        write("BEGIN;\nCOMMIT;\n")
    folder = tmp_path / "backfill_logs" / RUN
    assert sorted(p.name for p in folder.iterdir()) == [
        "batch-0001.json",
        "calls.jsonl",
        "plan.json",
        "plan.md",
        "rollback.sql",
        "summary.md",
    ]
    assert (folder / "plan.md").read_text() == PLAN.markdown()
    assert json.loads((folder / "plan.json").read_text()) == PLAN.as_dict()
    assert log.failed is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_nobody_else_reads_the_files(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path / "logs", RUN)
    log.call({})
    log.summary("")
    folder = tmp_path / "logs" / RUN
    assert _mode(tmp_path / "logs") == 0o700
    assert _mode(folder) == 0o700
    assert {_mode(p) for p in folder.iterdir()} == {0o600}


def test_every_call_is_a_line_that_stands_at_once(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path, RUN)
    for number in range(3):
        log.call({"session_id": f"s{number}", "at": datetime(2025, 9, 17, tzinfo=UTC)})
        lines = (tmp_path / RUN / "calls.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["session_id"] == f"s{number}"
    assert len(lines) == 3


def test_a_second_apply_appends_to_the_calls_of_the_first(tmp_path: Path) -> None:
    RunLog.open(tmp_path, RUN).call({"n": 1})
    RunLog.open(tmp_path, RUN).call({"n": 2})
    lines = (tmp_path / RUN / "calls.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [1, 2]


def test_half_a_line_left_by_a_full_disk_does_not_swallow_the_next(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path, RUN)
    calls = tmp_path / RUN / "calls.jsonl"
    calls.write_text('{"n": 1}\n{"n": ')
    log.call({"n": 3})
    assert calls.read_text().splitlines() == ['{"n": 1}', '{"n": ', '{"n": 3}']


def test_a_message_is_cut_wherever_it_stands(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path, RUN)
    log.batch(1, {"sessions": [{"error_message": "x" * 5000}]})
    written = json.loads((tmp_path / RUN / "batch-0001.json").read_text())
    assert len(written["sessions"][0]["error_message"]) == MESSAGE_CHARS


def test_a_batch_file_is_replaced_whole_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog.open(tmp_path, RUN)
    log.batch(1, {"n": 1})

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    log.batch(1, {"n": 2})
    assert json.loads((tmp_path / RUN / "batch-0001.json").read_text()) == {"n": 1}
    assert [p.name for p in (tmp_path / RUN).iterdir()] == ["batch-0001.json"]


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = RunLog.open(None, RUN)
    log.plan(PLAN)
    log.call({})
    log.batch(1, {})
    log.summary("")
    with log.rollback() as write:
        write("")
    assert list(tmp_path.iterdir()) == []
    assert log.failed is None


def test_a_file_where_the_folder_should_be_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("in the way")
    with caplog.at_level(logging.WARNING, logger="backfill"):
        log = RunLog.open(tmp_path / "logs", RUN)
        log.plan(PLAN)
        log.call({"secret": "contents"})
        log.summary("text")
    assert log.failed is not None
    assert str(tmp_path / "logs" / RUN) in log.failed
    assert len(_failures(caplog)) == 1
    assert "contents" not in caplog.text


def test_the_first_failure_of_a_kind_is_told_once_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog.open(tmp_path, RUN)
    calls = tmp_path / RUN / "calls.jsonl"
    calls.mkdir()
    with caplog.at_level(logging.WARNING, logger="backfill"):
        log.call({"n": 1})
        log.call({"n": 2})
        log.summary("still written")
    told = _failures(caplog)
    assert [(r.path, r.errno) for r in told] == [(str(calls), errno.EISDIR)]
    assert log.failed == f"{calls} could not be written: Is a directory"
    assert (tmp_path / RUN / "summary.md").read_text() == "still written"


def test_a_folder_that_vanishes_stops_nothing(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path / "logs", RUN)
    (tmp_path / "logs" / RUN).rmdir()
    log.summary("text")
    log.call({})
    assert log.failed is not None


def test_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    log = RunLog.open(tmp_path, RUN)
    monkeypatch.setattr(
        "backfill.files.folder.open_regular", lambda _, flags: os.open("/dev/full", flags)
    )
    log.call({"n": 1})
    assert log.failed is not None
    assert "No space left on device" in log.failed


def test_a_run_id_cannot_leave_the_folder(tmp_path: Path) -> None:
    RunLog.open(tmp_path / "logs", "../../elsewhere").summary("text")
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


RECORD = {"session_id": "s1", "component": "a", "attempt": 1}


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("somebody's")
    path.symlink_to(path.parent / "elsewhere")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize(
    ("put", "said"), [(_link, "it is a symbolic link"), (_pipe, "it is no regular file")]
)
def test_a_link_is_not_followed_and_a_pipe_not_waited_for(
    tmp_path: Path, put: Callable[[Path], None], said: str
) -> None:
    """What is appended to or looked at. What is replaced takes the place of either."""
    log = RunLog.open(tmp_path, RUN)
    folder = tmp_path / RUN
    for name in ("calls.jsonl", "batch-0001.json", "summary.md"):
        (folder / "elsewhere").unlink(missing_ok=True)
        put(folder / name)
    log.call(RECORD)
    assert log.failed == f"{folder / 'calls.jsonl'} could not be written: {said}"
    again = RunLog.open(tmp_path, RUN)
    again.rebuilt_calls([RECORD])
    assert again.failed == log.failed
    again.rebuilt_batch(1, {"batch": 1})
    again.summary("# ours")
    assert (folder / "summary.md").read_text() == "# ours"
    assert not (folder / "batch-0001.json").is_symlink()
    if put is _link:
        assert (folder / "elsewhere").read_text() == "somebody's"
    with pytest.raises(OSError, match=said):
        open_regular(folder / "calls.jsonl", os.O_WRONLY | os.O_CREAT)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_link_in_place_of_a_runs_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / RUN).symlink_to(tmp_path / "elsewhere")
    log = RunLog.open(tmp_path, RUN)
    log.summary("# ours")
    assert log.failed == f"{tmp_path / RUN} could not be written: it is a symbolic link"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_many_calls_are_appended_once_each_and_in_their_order(tmp_path: Path) -> None:
    """More than one write takes; what has a line already is passed over, whoever wrote it."""
    log = RunLog.open(tmp_path, "r")
    every = [{**RECORD, "session_id": f"s{number}"} for number in range(2_500)]
    log.call(every[1_700])
    log.rebuilt_calls(iter(every))
    log.rebuilt_calls(iter(every))
    assert log.folder is not None
    lines = (log.folder / "calls.jsonl").read_text().splitlines()
    written = [json.loads(line)["session_id"] for line in lines]
    rest = [call["session_id"] for call in every if call is not every[1_700]]
    assert written == ["s1700", *rest]


def test_without_a_call_no_file_of_calls_is_made(tmp_path: Path) -> None:
    """A run of which nothing was scored."""
    log = RunLog.open(tmp_path, "r")
    log.rebuilt_calls(iter(()))
    assert log.folder is not None
    assert not (log.folder / "calls.jsonl").exists()
