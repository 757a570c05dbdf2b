"""The list of runs: which of them, how many, of which target."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from psycopg.types.json import Jsonb

import backfill
from backfill.cli.exit_codes import ExitCode
from backfill.results.run import RunState
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.commands import Shell

MINE = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")


@pytest.fixture(scope="module")
def three(shared_project: Project) -> list[str]:
    """Three runs, the newest first: of another target, cancelled, in planning."""
    ids = [
        str(verbs.call(shared_project.db, "backfill_open", p_request=Jsonb(verbs.REQUEST)))
        for _ in range(3)
    ][::-1]
    verbs.call(shared_project.db, "backfill_cancel", run=ids[1], reason="a test")
    shared_project.db.execute(
        "update public.backfill_runs set target = 'songs' where run_id = %s", (ids[0],)
    )
    return ids


@pytest.fixture
def there(shared_project: Project, plain_shell: Shell, three: list[str]) -> Shell:
    """The command line on the project with three runs."""
    values = (shared_project.url, shared_project.keys.service_role)
    plain_shell.environment.update(zip(MINE, values, strict=True))
    return plain_shell


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ((), [0, 1, 2]),
        (("--limit", "2"), [0, 1]),
        (("--target", "prism"), [1, 2]),
        (("--target", "prism", "--limit", "1"), [1]),
        (("--state", "cancelled"), [1]),
        (("--state", "planning", "--target", "prism"), [2]),
        (("--state", "running"), []),
        (("--target", "nope"), []),
    ],
)
def test_runs_are_those_asked_for(
    there: Shell, three: list[str], words: tuple[str, ...], places: list[int]
) -> None:
    found = there("runs", "--json", *words).json
    assert [run["run_id"] for run in found] == [three[place] for place in places]


def test_each_run_names_its_target(there: Shell) -> None:
    """For people and for machines."""
    assert [run["target"] for run in there("runs", "--json").json] == ["songs", "prism", "prism"]
    header, first, *_ = there("runs").out.splitlines()
    assert header.split()[:3] == ["run", "target", "state"]
    assert first.split()[1] == "songs"


def test_none_in_a_state_is_not_none_at_all(there: Shell) -> None:
    assert there("runs", "--state", "running").out == "no run is running\n"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"state": "ended"}, "no run is ever ended"),
        ({"state": 5}, "no run is ever 5"),
        ({"limit": 0}, "limit is at least 1, not 0"),
        ({"limit": True}, "limit is a whole number, not the bool 'True'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    shared_project: Project, asked: dict[str, Any], said: str
) -> None:
    with shared_project.connect() as bf, pytest.raises(backfill.BadRequest) as refused:
        bf.runs(**asked)
    assert refused.value.message == said


def test_a_state_that_is_none_is_refused_with_those_there_are(there: Shell) -> None:
    ran = there("runs", "--state", "ended")
    assert (ran.code, ran.err) == (
        ExitCode.USAGE,
        f"no run is ever ended\n  Next: one of: {', '.join(get_args(RunState))}\n",
    )


# Completion --------------------------------------------------------------------------------------


def completed(shell: Shell, line: str, **variables: str) -> list[str]:
    """What bash is offered for the last word of a line."""
    words = line.split(" ")
    ran = shell(
        _BACKFILL_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        **variables,
    )
    assert (ran.code, ran.err) == (ExitCode.DONE, ""), ran
    return ran.out.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("backfill re", {"reject", "retry", "resume"}),
        ("backfill local st", {"start", "stop"}),
        ("backfill runs --st", {"--state"}),
        ("backfill plan --env", {"--environment", "--env-file"}),
        ("backfill runs --state pa", {"paused"}),
        ("backfill plan --mode ", {"direct", "bulk"}),
        ("backfill completion ", {"bash", "zsh", "fish"}),
        ("backfill plan --target pr", {"prism"}),
        ("backfill missing --target x", set()),
        ("backfill runs --target ", {"prism"}),
    ],
)
def test_verbs_options_and_targets_complete(there: Shell, line: str, wanted: set[str]) -> None:
    assert set(completed(there, line)) == wanted


@pytest.mark.parametrize("verb", ["show", "apply", "plan --like", "plan --resume", "status"])
def test_runs_complete(there: Shell, three: list[str], verb: str) -> None:
    """By any beginning."""
    assert completed(there, f"backfill {verb} ") == three
    assert completed(there, f"backfill {verb} {three[2][:8]}") == [three[2]]


def test_zsh_says_what_a_run_is(there: Shell, three: list[str]) -> None:
    ran = there(_BACKFILL_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="backfill show ")
    assert f'"{three[1]}":"prism, cancelled"' in ran.out


def test_without_a_project_nothing_is_offered_and_nothing_said(plain_shell: Shell) -> None:
    """A prompt is no place for an error."""
    assert completed(plain_shell, "backfill show ") == []
    nobody = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_x"}
    assert completed(plain_shell, "backfill show ", **nobody) == []


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o default -F _backfill_completion backfill"),
        ("zsh", "compdef _backfill_completion backfill"),
        ("fish", "complete --command backfill "),
    ],
)
def test_each_shell_has_its_script(plain_shell: Shell, shell: str, line: str) -> None:
    ran = plain_shell("completion", shell)
    assert ran.code == ExitCode.DONE
    assert line in ran.out


def test_another_shell_is_refused(plain_shell: Shell) -> None:
    ran = plain_shell("completion", "csh")
    assert (ran.code, ran.err) == (
        ExitCode.USAGE,
        "there is no completion for csh\n  Next: backfill completion bash | zsh | fish\n",
    )
