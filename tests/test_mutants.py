"""The mutator changes what it means to, and nothing beside it."""

from __future__ import annotations

import pytest

from tests.mutants.tokens import changes

MUTANTS = {
    "a < 5": {"a <= 5", "a > 5", "a < 6", "a < 4"},
    "a is null or b": {"a is not null or b", "a is null and b"},
    "a is not null": {"a is null"},
    "not exists (select)": {" exists (select)"},
    "x not in (y)": {"x  in (y)"},
    "s = 'running'": {
        "s <> 'running'",
        "s = 'paused'",
        "s = 'completed'",
        "s = 'cancelled'",
    },
    "interval '60 seconds'": {"interval '61 seconds'", "interval '59 seconds'"},
    "'some text'": {"'some textx'"},
    "declare v integer := 1; begin": {
        "declare v integer := 2; begin",
        "declare v integer := 0; begin",
    },
    "format('select %I where a < $1', t)": {
        "format('select %I where a <= $1', t)",
        "format('select %I where a > $1', t)",
    },
    "'select s = ''pass'''": {
        "'select s <> ''pass'''",
        "'select s = ''fail'''",
        "'select s = ''partial'''",
    },
    "a 'it''s'  -- and or 5": {"a 'it''sx'  -- and or 5"},
}


@pytest.mark.parametrize("text", MUTANTS)
def test_one_thing_changes_at_a_time(text: str) -> None:
    """Operators, words of a vocabulary, numbers; in SQL inside a string too, never in a comment."""
    mutants = [change.of(text) for change in changes(text)]
    assert set(mutants) == MUTANTS[text]
    assert len(mutants) == len(set(mutants))
