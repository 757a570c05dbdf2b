"""What a start loads: no library that takes long, before something asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What takes longest to load: Supabase's client, and what it or we need to make and read calls.
HEAVY = {"aiohttp", "asyncio", "httpx", "postgrest", "pydantic", "sqlglot", "stamina", "supabase"}
TOLD_AT_THE_END = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\n" + " ".join(sys.modules)))
"""
COMMAND_LINE = "from backfill.cli.app import main; main()"


def loaded_by(script: str, **environment: str) -> set[str]:
    """The modules that a Python program has loaded when it ends."""
    ran = subprocess.run(
        [sys.executable, "-c", TOLD_AT_THE_END + script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return {*ran.stderr.splitlines()[-1].split()}


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_library_loads_nothing_until_a_name_is_asked_for() -> None:
    """Whoever imports us for one of many jobs pays when that job comes."""
    loaded = loaded_by("import backfill, logging; assert backfill.__version__")
    assert "backfill" in loaded
    assert not loaded & {*HEAVY, "backfill.public"}


def test_what_was_loaded_at_once_before_is_still_there() -> None:
    """Packages as attributes too, and nothing that somebody has replaced is put back."""
    script = (
        "import backfill; assert backfill.errors.Refused is backfill.Refused;"
        "from backfill import *; assert Plan is backfill.Plan;"
        "backfill.connect = None; assert not hasattr(backfill, 'conect');"
        "assert backfill.connect is None; assert 'Plan' in dir(backfill)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("words", [["--version"], ["--help"], []])
def test_what_the_list_of_verbs_answers_loads_no_verb(words: list[str]) -> None:
    """It says in a line what each does."""
    loaded = loaded_by(f"sys.argv[1:] = {words}; {COMMAND_LINE}")
    assert "backfill.cli.verbs" in loaded
    assert not loaded & {*HEAVY, "backfill.cli.options"}


@pytest.mark.parametrize("words", [["stauts"], ["completion", "bash"]])
def test_a_word_on_the_command_line_loads_what_reads_it_and_no_more(words: list[str]) -> None:
    """Typer reads each with pydantic."""
    assert HEAVY & loaded_by(f"sys.argv[1:] = {words}; {COMMAND_LINE}") == {"pydantic"}


def test_a_shell_completes_a_verb_without_loading_any() -> None:
    """Somebody waits at the prompt."""
    asked = {"_BACKFILL_COMPLETE": "complete_bash", "COMP_WORDS": "backfill st", "COMP_CWORD": "1"}
    loaded = loaded_by(COMMAND_LINE, **asked)
    assert loaded & {*HEAVY, "backfill.cli.verbs", "backfill.cli.options"} == {
        "pydantic",
        "backfill.cli.verbs",
    }


def test_status_loads_of_the_client_what_asks() -> None:
    """Only a scoring call needs the rest of it, and aiohttp carries calls side by side."""
    nobody = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_x"}
    loaded = loaded_by(f"sys.argv[1:] = ['status', '4f2c1b9e']; {COMMAND_LINE}", **nobody)
    assert "postgrest" in loaded
    needless = {"supabase", "supabase_auth", "supabase_functions", "storage3", "realtime"}
    assert not loaded & {*needless, "aiohttp", "sqlglot"}


def test_what_is_looked_for_is_seen_if_it_is_loaded() -> None:
    """Without this the test above could look for names that no library has."""
    assert loaded_by("import backfill; backfill.connect") >= {"pydantic", "asyncio"}
