"""The table of safeguards fits the checkout. `poe safeguards` tries them: no test here does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.checkout import ROOT
from tests.kit.named import missing, named_tests
from tests.safeguards.__main__ import main
from tests.safeguards.table import SAFEGUARDS, Safeguard, table, taken_out

PAGE = ROOT / "tests" / "README.md"


def sql_of(safeguard: Safeguard) -> str:
    return (ROOT / "sql" / safeguard.file).read_text()


def test_each_safeguard_stands_once_and_goes() -> None:
    """Else the command would try something else, or nothing."""
    left = [s.name for s in SAFEGUARDS if taken_out(s, sql_of(s)) == sql_of(s)]
    assert left == []
    assert len({s.name for s in SAFEGUARDS}) == len(SAFEGUARDS) >= 25


@pytest.mark.parametrize(("text", "found"), [("no such text", 0), ("p_run_id", 9)])
def test_a_safeguard_that_is_not_there_once_is_not_taken_out(text: str, found: int) -> None:
    """It says which, and in which file."""
    gone = replace(SAFEGUARDS[0], text=text)
    with pytest.raises(ValueError, match=rf"{gone.name}: found {found} times in {gone.file}"):
        taken_out(gone, "p_run_id " * 9)


def test_a_name_of_no_safeguard_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """None of none would be caught, and look like all of them."""
    with pytest.raises(SystemExit) as refused:
        main(["no such safeguard"])
    assert refused.value.code == 2
    assert "no safeguard is named so: no such safeguard" in capsys.readouterr().err


def test_the_page_shows_the_table_as_it_is() -> None:
    """`python -m tests.safeguards --table` prints it."""
    assert table(SAFEGUARDS) in PAGE.read_text()


def test_each_test_that_the_table_names_is_there() -> None:
    """A safeguard of a test that is gone would be missed by nobody."""
    named = named_tests(PAGE, table(SAFEGUARDS))
    assert len(named) == len(SAFEGUARDS)
    assert missing(named) == []


def test_a_test_that_is_not_there_is_seen() -> None:
    """A page that names nothing, or what is gone, would always pass."""
    named = named_tests(PAGE, "[it flies](test_gate.py), [it swims](test_no_such_file.py)")
    assert [(Path(f).name, n) for f, n in missing(named)] == [
        ("test_gate.py", "test_it_flies"),
        ("test_no_such_file.py", "test_it_swims"),
    ]
