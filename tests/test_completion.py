"""The printed scripts complete in the shells themselves: bash, zsh and fish, if they are there."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SEES_WITHIN_S
from tests.kit.commands import Shell
from tests.kit.readme import ROOT

# A line, and what is offered for its last word.
VALUE = ("backfill runs --state pau", "paused")
FILE = ("backfill target check ord", "orders.toml")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of a shell that finds the program, in a folder with a target's file and no project."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "bin" / "backfill"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m backfill "$@"\n')
    program.chmod(0o755)
    (tmp_path / "orders.toml").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE")}
    path = f"{program.parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "TERM": "dumb"}


@pytest.fixture
def script(request: pytest.FixtureRequest, plain_shell: Shell, tmp_path: Path) -> Path:
    """The script of the test's shell."""
    shell = request.getfixturevalue("shell_name")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    file = tmp_path / "script"
    file.write_text(plain_shell("completion", shell).out)
    return file


@pytest.mark.parametrize(
    ("shell_name", "asked"), [("bash", VALUE), ("fish", VALUE), ("fish", FILE)]
)
def test_a_shell_completes(
    shell_name: str, asked: tuple[str, str], script: Path, environment: dict[str, str]
) -> None:
    """As it does at its prompt. A file is left to the shell itself."""
    line, wanted = asked
    by_bash = (
        f"source {script}; COMP_WORDS=({line}) COMP_CWORD={line.count(' ')};"
        ' _backfill_completion backfill; echo "${COMPREPLY[*]}"'
    )
    asking = {"bash": by_bash, "fish": f"source {script}; complete -C '{line}'"}[shell_name]
    ran = subprocess.run(
        [shell_name, "-c", asking], env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.stdout.split(), ran.stderr) == ([wanted], "")


@pytest.mark.parametrize("shell_name", ["zsh"])
@pytest.mark.parametrize("asked", [VALUE, FILE])
def test_zsh_completes(
    shell_name: str, asked: tuple[str, str], script: Path, environment: dict[str, str]
) -> None:
    """It does so only on a terminal, once Tab is pressed."""
    line, wanted = asked
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [shell_name, "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )  # fmt: skip
    os.close(theirs)
    try:
        os.write(ours, f"autoload -Uz compinit; compinit -u -D; source {script}\n".encode())
        os.write(ours, b'echo rea""dy\n')
        wait_for(ours, b"ready\r")
        os.write(ours, f"{line}\t".encode())
        wait_for(ours, wanted.encode())
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def wait_for(terminal: int, wanted: bytes) -> None:
    """Until something stands on a terminal."""
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], SEES_WITHIN_S)
        assert ready, seen
        seen += os.read(terminal, 65536)
