"""A push leaves out combinations and no case, and the same ones each time."""

from __future__ import annotations

import pytest

from tests.kit.whole import examples, one_of, pair, together

CASES = [f"case {number}" for number in range(60)]
BY_SQL, BY_EDGE_FUNCTIONS = {"rpc", "documents"}, {"edge", "silent"}
ALL = sorted(BY_SQL | BY_EDGE_FUNCTIONS)


@pytest.mark.parametrize(
    "subjects", [ALL, ["rpc", "edge", "documents"], ["rpc", "edge"]], ids=", ".join
)
def test_every_case_meets_one_that_sql_scores_and_one_that_edge_functions_score(
    subjects: list[str],
) -> None:
    """Of those that it has."""
    for case in CASES:
        met = pair(case, subjects)
        assert met <= set(subjects)
        assert met & BY_SQL
        assert met & BY_EDGE_FUNCTIONS


@pytest.mark.parametrize("only", ALL)
def test_a_case_with_one_subject_meets_it(only: str) -> None:
    """It is not about the others, or somebody asked for this one by name."""
    assert all(pair(case, [only]) == {only} for case in CASES)


def test_every_subject_meets_a_third_of_the_cases_at_least() -> None:
    """None is only met when everything is."""
    met = [subject for case in CASES for subject in pair(case, ALL)]
    assert min(met.count(subject) for subject in ALL) > len(CASES) / 3


def test_what_comes_together_is_all_there() -> None:
    """Under its own name where the whole is asked for, under one name at a push."""
    cases = {"one": [1, 2], "other": [3]}
    assert together("all", cases) == examples(cases, at_a_push={"all": [1, 2, 3]})


def test_of_three_cases_about_one_goes_on() -> None:
    """And each where the whole is asked for."""
    going_on = sum(one_of(3, case) for case in CASES)
    assert (
        examples(len(CASES), len(CASES) // 6) <= going_on <= examples(len(CASES), len(CASES) // 2)
    )
