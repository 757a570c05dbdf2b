"""What a caller may ask for, as tables. Pure: no project, no clock.

`python -m tests.mutants` changes these rules one operator at a time, and these must notice.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from backfill.errors import BadRequest
from backfill.request import as_text, checked_ids, checked_number

MIDNIGHT = datetime(2025, 8, 1, tzinfo=UTC)


FORMS = "give a day such as 2025-08-01, or a timestamp with an offset"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, None),
        ("2025-08-01", "2025-08-01"),
        (" 2025-08-01 ", "2025-08-01"),
        ("2025-08-01T10", "2025-08-01T10:00:00+00:00"),
        ("2025-08-01 10:30", "2025-08-01T10:30:00+00:00"),
        ("2025-08-01T10:30:00+02:00", "2025-08-01T10:30:00+02:00"),
        (date(2025, 8, 1), "2025-08-01"),
        (datetime(2025, 8, 1, 10), "2025-08-01T10:00:00+00:00"),  # noqa: DTZ001 - the case
        (datetime(2025, 8, 1, tzinfo=timezone(timedelta(hours=2))), "2025-08-01T00:00:00+02:00"),
    ],
)
def test_a_date_is_a_day_or_a_moment_with_an_offset(given: Any, text: str | None) -> None:
    assert as_text("since", given) == text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("20250831", "since is no date: 20250831"),
        ("2025-W35", "since is no date: 2025-W35"),
        ("2025-02-30", "since is no date: 2025-02-30"),
        ("2025-08-01T25", "since is no date: 2025-08-01T25"),
        ("2025-08-01x10", "since is no date: 2025-08-01x10"),
        ("x" * 50, f"since is no date: {'x' * 40}"),
        (5, "since is a date, not the int '5'"),
        (["x" * 50], f"since is a date, not the list {str(['x' * 50])[:40]!r}"),
    ],
)
def test_what_is_no_date_is_refused(given: Any, sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        as_text("since", given)
    assert (refused.value.message, refused.value.next_step) == (sentence, FORMS)


@pytest.mark.parametrize(("given", "least"), [(5, None), (-5, None), (1, 1), (2, 1), (0, 0)])
def test_a_number_is_a_whole_one(given: int, least: int | None) -> None:
    assert checked_number("n", given, least=least) == given


@pytest.mark.parametrize(
    ("given", "least", "sentence", "next_step"),
    [
        (True, None, "n is a whole number, not the bool 'True'", "give n as a number such as 5"),
        (5.0, None, "n is a whole number, not the float '5.0'", "give n as a number such as 5"),
        ("5", 1, "n is a whole number, not the str '5'", "give n as a number such as 5"),
        ("5" * 50, 1, f"n is a whole number, not the str {'5' * 40!r}", None),
        (0, 1, "n is at least 1, not 0", "give n as 1"),
        (-1, 0, "n is at least 0, not -1", "give n as 0"),
    ],
)
def test_what_is_no_number_is_refused(
    given: Any, least: int | None, sentence: str, next_step: str | None
) -> None:
    with pytest.raises(BadRequest) as refused:
        checked_number("n", given, least=least)
    assert refused.value.message == sentence
    assert next_step in (None, refused.value.next_step)


@pytest.mark.parametrize(
    ("given", "ids"), [(None, None), ("ab", ["ab"]), ([], []), (("a", "b"), ["a", "b"])]
)
def test_ids_are_a_list(given: Any, ids: list[str] | None) -> None:
    assert checked_ids("priority", given) == ids


@pytest.mark.parametrize("given", [4, ["a", 4]])
def test_what_are_no_ids_is_refused(given: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        checked_ids("priority", given)
    assert refused.value.message == "priority is a list of ids, not of the int '4'"
    assert refused.value.next_step == "give each id as a text"
