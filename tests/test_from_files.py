"""Env files and settings files: who wins, what is refused, and that no value is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill.cli import from_files
from backfill.cli.exit_codes import ExitCode
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.readme import claim
from tests.test_help import VERBS

EXAMPLE = claim("Settings in files", "environment =", "executed")
SECRET = "sb_secret_that_nobody_sees"
SETTINGS = "the settings are environment, throttle, batch_size, target, logs_dir"


@pytest.fixture
def folder(plain_shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """The command line without any project, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return plain_shell


@pytest.fixture
def there(
    shared_project: Project,
    folder: Shell,
    nothing_changes: None,
) -> Shell:
    """The same, where `.env` names a project that no test changes."""
    Path(".env").write_text(
        f"SUPABASE_URL={shared_project.url}\n"
        f"SUPABASE_SERVICE_ROLE_KEY='{shared_project.keys.service_role}'\n"
    )
    return folder


# A line of each file that is wrong, what is said of it, and what to do.
WRONG = {
    "unknown": (
        "backfill.toml",
        "throtle = 5",
        "line 1: there is no setting throtle, the nearest is throttle",
        SETTINGS,
    ),
    "far from any": ("backfill.toml", "\n\nurl = 'x'", "line 3: there is no setting url", SETTINGS),
    "a secret": (
        "backfill.toml",
        f"key = '{SECRET}'",
        "line 1: there is no setting key",
        SETTINGS,
    ),
    "no number": (
        "backfill.toml",
        f"target = 'a'\nbatch_size = '{SECRET}'",
        "line 2: batch_size is a whole number",
        "batch_size = 5",
    ),
    "true is no number": (
        "backfill.toml",
        "throttle = true",
        'line 1: throttle is a whole number or "none"',
        "throttle = 5",
    ),
    "no text": ("backfill.toml", "environment = 5", "line 1: environment is a text", None),
    "empty": ("backfill.toml", "target = ' '", "line 1: target is empty", None),
    "over lines": (
        "backfill.toml",
        "target = '''\na\n'''\nlogs_dir = [\n 5,\n]\n",
        "line 6: logs_dir is a text",
        None,
    ),
    "no TOML": ("backfill.toml", "target =", "is no TOML: Invalid value", "correct it"),
    "in a project": (
        "pyproject.toml",
        "[project]\nname = 'x'\n[tool.backfill]\ntarget = 5\n",
        "line 4: target is a text",
        None,
    ),
    "dotted": ("pyproject.toml", "\ntool.backfill.target = 5\n", "line 2: target is a text", None),
    "no table": ("pyproject.toml", "[tool]\nbackfill = 5\n", "line 2: this is no table", None),
    "a variable": (
        ".env",
        f"# ours\n\nBACKFILL_BATCH_SIZE={SECRET}\n",
        "line 3: BACKFILL_BATCH_SIZE is a whole number",
        "BACKFILL_BATCH_SIZE=5",
    ),
    "an open quote": (
        ".env",
        f"A=1\nSUPABASE_SECRET_KEY='{SECRET}\n",
        "line 2: this is no NAME=value",
        "write NAME=value",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_wrong_is_refused_with_its_line(folder: Shell, case: str) -> None:
    file, text, said, advice = WRONG[case]
    Path(file).write_text(text)
    ran = folder("check")
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert ran.err.startswith(f"{file}{',' if 'line' in said else ''} {said}"), ran.err
    assert advice is None or f"Next: {advice}\n" in ran.err
    assert ran.err.count("\n") == 2
    assert SECRET not in ran.err


@pytest.mark.parametrize("words", [("check", "--env-file", "no"), ("--env-file", "no", "check")])
def test_an_env_file_that_is_named_has_to_be_there(folder: Shell, words: tuple[str, ...]) -> None:
    """The option stands before the verb or after it."""
    ran = folder(*words)
    assert (ran.code, ran.err.splitlines()[0]) == (
        ExitCode.USAGE,
        "no cannot be read: No such file or directory",
    )


def test_help_needs_no_file_to_be_right(folder: Shell) -> None:
    """Somebody who has a fault in one may look for its cause."""
    Path("backfill.toml").write_text("nonsense")
    assert folder("plan", "-h").code == ExitCode.DONE


def test_lines_of_other_programs_are_not_looked_at(there: Shell) -> None:
    """Whatever they are: an open quote, other names, names like ours."""
    with Path(".env").open("a") as file:
        file.write("OTHER='open\n\nBACKFILL_THROTTLES=many\nBACKFILL_POSTGREST=/nowhere\n")
    Path("pyproject.toml").write_text("[tool.other]\nbackfill = 5\n")
    ran = there("runs", "--json")
    assert (ran.code, ran.out) == (ExitCode.DONE, "[]\n"), ran


@pytest.mark.parametrize("name", ["SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"])
def test_the_processs_key_wins_whatever_its_name(there: Shell, name: str) -> None:
    """The file's stands under the other name, which is looked at first."""
    Path(".env").write_text(
        Path(".env").read_text().replace("SERVICE_ROLE_KEY", "SECRET_KEY")
        + "SUPABASE_SERVICE_ROLE_KEY=x\n"
    )
    assert there("runs").code == ExitCode.DONE
    ran = there("runs", **{name: "sb_publishable_x"})
    assert ran.code == ExitCode.UNREACHABLE
    assert "this is a publishable key" in ran.err


def test_a_named_file_takes_the_place_of_the_other(there: Shell) -> None:
    """Nothing is taken from `.env` then."""
    Path(".env").rename(".env.staging")
    Path(".env").write_text("SUPABASE_URL=https://other.supabase.co\nSUPABASE_SECRET_KEY=x\n")
    assert there("runs", "--env-file", ".env.staging").code == ExitCode.DONE


def test_the_command_line_wins_over_the_environment_and_that_over_files(there: Shell) -> None:
    """Each names an environment that is not this one's. The refusal says which was taken."""

    def taken(*words: str, **variables: str) -> str:
        ran = there("plan", "--since", "2025-08-01", *words, **variables)
        assert ran.code == ExitCode.REFUSED, ran
        return ran.err.partition("staging, not ")[2].split()[0]

    Path("pyproject.toml").write_text("[tool.backfill]\nenvironment = 'of the project'\n")
    assert taken() == "of"
    Path("backfill.toml").write_text("environment = 'settings'\n")
    assert taken() == "settings"
    with Path(".env").open("a") as file:
        file.write("BACKFILL_ENVIRONMENT=variables\n")
    assert taken() == "variables"
    assert taken(BACKFILL_ENVIRONMENT="process") == "process"
    assert taken("--environment", "typed", BACKFILL_ENVIRONMENT="process") == "typed"


def test_settings_reach_the_verbs_that_have_their_options(there: Shell) -> None:
    """Every one of them, and `none` as a throttle."""
    Path("backfill.toml").write_text(
        "environment = 'nowhere'\ntarget = 'prisms'\nlogs_dir = 'kept'\nthrottle = 'none'\n"
    )
    assert "no target is named prisms" in there("missing").err
    assert there("missing", "--target", "prism").code == ExitCode.DONE
    ran = there("plan", "--since", "2026-01-01", "--environment", "staging", "--target", "prism")
    assert ran.code == ExitCode.DONE, ran
    Path("backfill.toml").write_text("throttle = 3\nbatch_size = 5\n")
    ran = there("plan", "--since", "2026-01-01")
    assert "batch_size 5" in ran.err


def test_what_another_run_asked_for_is_not_replaced_by_a_setting(there: Shell) -> None:
    """A plan like another, or one that goes on, takes what was typed alone."""
    Path("backfill.toml").write_text("throttle = 3\nbatch_size = 5\ntarget = 'x'\n")
    for option in ("--like", "--resume"):
        ran = there("plan", option, "12345678")
        assert ran.err.startswith("there is no run 12345678"), ran
    ran = there("plan", "--resume", "12345678", "--batch-size", "5")
    assert "batch_size is not taken" in ran.err


def test_the_page_s_settings_are_all_of_them(folder: Shell) -> None:
    """Each with its variable and its option."""
    Path("backfill.toml").write_text(EXAMPLE)
    taken = from_files.read_files(None)
    assert [*taken] == [line.split("# ")[1].split(",")[0] for line in EXAMPLE.splitlines()]
    assert {*taken} == {*from_files.SETTINGS.values()}
    option = {p.envvar: p.opts[0] for verb in VERBS.values() for p in verb.params if p.envvar}
    for line, variable in zip(EXAMPLE.splitlines(), taken, strict=True):
        assert option[variable] in line
