"""One SQLSTATE, one class, one exit code: what the database raises and what Python knows agree."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import backfill
from backfill import errors
from backfill.cli.exit_codes import ExitCode, of_error
from backfill.errors import BY_SQLSTATE, BackfillError
from backfill.targets.migrations import declared_files

# Refused by a gate, or set as an item's outcome; a comparison raises nothing.
RAISED = re.compile(r"refuse\(\s*'(OB\d{3})'|\bcode := '(OB\d{3})'")
ANY_CODE = re.compile(r"'(OB\d{3})'")
# The host of the project's URL is the client's to compare.
OF_THE_CLIENT = {"OB009": "WrongServer"}

EXIT_CODES = {
    "OB001": ExitCode.USAGE,
    "OB002": ExitCode.REFUSED,
    "OB003": ExitCode.REFUSED,
    "OB004": ExitCode.REFUSED,
    "OB005": ExitCode.REFUSED,
    "OB006": ExitCode.REFUSED,
    "OB007": ExitCode.REFUSED,
    "OB008": ExitCode.REFUSED,
    "OB009": ExitCode.REFUSED,
    "OB010": ExitCode.UNREACHABLE,
    "OB011": ExitCode.REFUSED,
    "OB012": ExitCode.REFUSED,
    "OB013": ExitCode.USAGE,
    "OB014": ExitCode.USAGE,
    "OB015": ExitCode.REFUSED,
    "OB016": ExitCode.FAILED,
    "OB017": ExitCode.FAILED,
    "OB018": ExitCode.REFUSED,
    "OB019": ExitCode.REFUSED,
    "OB020": ExitCode.REFUSED,
    "OB021": ExitCode.FAILED,
}


def code_of(script: str) -> str:
    """A script without its comments."""
    return re.sub(r"--[^\n]*", "", script)


def raised_in_sql() -> set[str]:
    """Every code that the declared state raises or records."""
    scripts = [code_of(file.read_text()) for file in declared_files()]
    return {a or b for script in scripts for a, b in RAISED.findall(script)}


def family(base: type[BackfillError] = BackfillError) -> list[type[BackfillError]]:
    """The class and everything below it."""
    return [base, *(child for below in base.__subclasses__() for child in family(below))]


# Not those of the embedded stack, which are imported with it.
CLASSES = [c for c in dict.fromkeys(family()) if c.__module__ == errors.__name__]


def test_every_code_of_the_database_has_a_class_and_the_reverse() -> None:
    """A code without a class reaches people as a bare number; a class without one is dead."""
    assert raised_in_sql() | OF_THE_CLIENT.keys() == BY_SQLSTATE.keys()


def test_no_code_that_the_database_compares_with_is_unknown() -> None:
    """A comparison with a code that nothing raises would never be true."""
    scripts = [code_of(file.read_text()) for file in declared_files()]
    named = {code for script in scripts for code in ANY_CODE.findall(script)}
    assert named - raised_in_sql() == set()


def test_the_codes_of_the_client_are_raised_there_alone() -> None:
    """What the database never raises, some module of the library does."""
    modules = [ast.parse(f.read_text()) for f in Path(backfill.__file__).parent.rglob("*.py")]
    raised = {
        node.exc.func.id
        for module in modules
        for node in ast.walk(module)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    assert set(OF_THE_CLIENT.values()) <= raised
    assert OF_THE_CLIENT.keys().isdisjoint(raised_in_sql())


def test_a_code_belongs_to_one_class() -> None:
    """Two classes of one code: which is raised would depend on the order of the file."""
    codes = Counter(c.__dict__.get("code") for c in CLASSES)
    del codes[None]
    assert [code for code, classes in codes.items() if classes > 1] == []
    assert codes.keys() == BY_SQLSTATE.keys()


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_a_class_says_what_it_means(error: type[BackfillError]) -> None:
    """Its own sentence, not its parent's."""
    sentence = (error.__dict__["__doc__"] or "").strip()
    assert sentence.endswith(".")
    assert len(sentence.splitlines()[0]) > len(error.__name__)


def test_each_code_ends_the_command_line_as_the_contract_says() -> None:
    """1 failed, 2 usage, 3 refused by a gate or paused, 5 cannot reach or not allowed."""
    assert {code: of_error(error) for code, error in BY_SQLSTATE.items()} == EXIT_CODES


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (errors.Paused, 3),
        (errors.CannotConnect, 5),
        (errors.BadKey, 5),
        (errors.NotInstalled, 5),
        (errors.OutcomeUnknown, 5),
        (errors.UsageError, 2),
        (errors.Refused, 3),
        (errors.BackfillError, 1),
    ],
)
def test_an_error_without_a_code_has_an_exit_code(error: type[BackfillError], ends: int) -> None:
    """What no SQLSTATE stands for ends the command line as its kind does."""
    assert error.__dict__.get("code") is None
    assert int(of_error(error)) == ends


def test_the_exit_codes_are_those_of_the_contract() -> None:
    """Scripts branch on these numbers."""
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "REFUSED": 3,
        "DIFFERENCE": 4,
        "UNREACHABLE": 5,
    }


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_a_class_is_exported(error: type[BackfillError]) -> None:
    """`except backfill.PlanChanged` needs no look into a module."""
    assert getattr(backfill, error.__name__) is error
    assert error.__name__ in backfill.__all__
