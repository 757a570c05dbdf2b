"""Under `--json` an error is an answer: one shape, on stdout, with the same exit code."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from backfill.cli.exit_codes import ExitCode
from backfill.errors import BadRequest, CannotConnect, TookTooLong
from tests.kit.commands import Ran, Shell
from tests.test_help import ROOT, VERBS

# What each verb needs, so that it comes to its project.
WORDS = {
    "target new": ("orders", "--output", "none.toml"),
    "target check": ("target.toml",),
    "approve": ("--digest", "0"),
    "reject": ("--reason", "no"),
    "pace": ("5",),
    "standing new": ("--until", "2999-12-31", "--max-sessions", "5"),
    "standing revoke": ("12345678", "--reason", "no"),
    "pause": ("--reason", "no"),
    "cancel": ("--reason", "no"),
}
OF_THE_SHELL = "completion"  # prints a script, so it has no --json
IN_FOLDERS = ("install", "demo", "target remove", "uninstall", OF_THE_SHELL)
ELSEWHERE = (*IN_FOLDERS, "notify")  # to a webhook
TO_A_PROJECT = [v for v in VERBS if not v.startswith("local ") and v not in ELSEWHERE]


def told(ran: Ran, code: ExitCode) -> dict[str, Any]:
    """The error on stdout. stderr is empty."""
    assert (ran.code, ran.err) == (code, ""), ran
    error = json.loads(ran.out)["error"]
    assert list(error) == ["code", "message", "next"]
    return dict(error)


@pytest.mark.parametrize("verb", [v for v in VERBS if v != OF_THE_SHELL])
def test_a_usage_error_of_every_verb_is_json(plain_shell: Shell, verb: str) -> None:
    """An option that it does not have."""
    error = told(plain_shell(*verb.split(), "--json", "--nope"), ExitCode.USAGE)
    assert error["code"] == "UsageError"
    assert error["message"].startswith("No such option: --nope")
    assert error["next"] == f"backfill {verb} --help"


@pytest.mark.parametrize("verb", TO_A_PROJECT)
def test_an_error_of_every_verb_is_json(plain_shell: Shell, verb: str) -> None:
    """None knows which project is meant."""
    run = ["12345678"] if any(p.name == "run" for p in VERBS[verb].params) else []
    error = told(
        plain_shell(*verb.split(), *run, *WORDS.get(verb, ()), "--json"), ExitCode.UNREACHABLE
    )
    assert error == {
        "code": "BadKey",
        "message": "SUPABASE_URL is not set",
        "next": "export SUPABASE_URL=https://<project>.supabase.co",
    }


@pytest.mark.parametrize(
    "words", [("install", "--functions"), ("install",), ("uninstall",)], ids=" ".join
)
def test_a_no_is_json_too(
    words: tuple[str, ...], plain_shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The question is on stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "supabase").mkdir()
    (tmp_path / "supabase" / "config.toml").touch()
    monkeypatch.setattr(sys, "stdin", StringIO("n\n"))
    ran = plain_shell(*words, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (ExitCode.FAILED, "Abort"), ran
    assert "[y/N]" in ran.err


@pytest.mark.parametrize("words", [("chek",), ("--nope", "check"), ("local", "strat")])
def test_what_is_no_verb_is_json_too(plain_shell: Shell, words: tuple[str, ...]) -> None:
    assert told(plain_shell(*words, "--json"), ExitCode.USAGE)["code"] == "UsageError"


def test_without_json_the_same_is_a_sentence_on_stderr(plain_shell: Shell) -> None:
    ran = plain_shell("check", "--nope")
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert "No such option: --nope" in ran.err


def test_the_library_says_the_same() -> None:
    """code: the SQLSTATE, or the class where it has none. Notes come along."""
    assert BadRequest("no", "yes").as_dict() == {
        "error": {"code": "OB013", "message": "no", "next": "yes"}
    }
    assert CannotConnect("no").as_dict() == {
        "error": {"code": "CannotConnect", "message": "no", "next": ""}
    }
    noted = TookTooLong("no")
    noted.add_note("go on")
    assert noted.as_dict()["error"]["notes"] == ["go on"]  # type: ignore[index]


def test_help_has_a_short_name() -> None:
    """For every verb and every group."""
    names = ROOT.context_settings["help_option_names"]
    assert names == ["-h", "--help"]


@pytest.mark.parametrize("words", [(), ("plan",), ("local",), ("local", "start")])
def test_help_is_the_same_under_both_names(plain_shell: Shell, words: tuple[str, ...]) -> None:
    short, long = plain_shell(*words, "-h"), plain_shell(*words, "--help")
    assert short == long
    assert short.code == ExitCode.DONE
