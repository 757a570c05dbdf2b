"""The table of faults fits the checkout: the tests that it names are there."""

from __future__ import annotations

from tests.faults.faced import FACED
from tests.kit.checkout import ROOT
from tests.kit.named import missing


def test_each_test_of_the_table_is_there() -> None:
    """By file and name: a test that gets another name takes its line along."""
    named = [test.partition("::") for tests in FACED.values() for test in tests]
    assert [fault for fault, tests in FACED.items() if not tests] == []
    assert missing([(ROOT / "tests" / file, name) for file, _, name in named]) == []
