"""`[watch]` of a target's file: what it may say, and every fault of it with its line."""

from __future__ import annotations

import pytest

from backfill.errors import BadRequest
from backfill.targets.declaration import SHIPPED, Watch, declared, parse
from backfill.targets.file_check import form_of
from backfill.targets.views import target_sql
from tests.kit.songs import DECLARED

SPAN = 'is minutes, hours or days such as "90m", "6h" or "2d", at most ten years, not '
SHARE = "watch: min_coverage is a share, over 0 and up to 1, such as 0.99, not "
# What stands in the table: the sentence, and the line within the table.
FAULTS = {
    'min_coverage = 99\nwithin = "6h"': (f"{SHARE}99", 1),
    'min_coverage = 0\nwithin = "6h"': (f"{SHARE}0", 1),
    'min_coverage = nan\nwithin = "6h"': (f"{SHARE}nan", 1),
    'min_coverage = "all"\nwithin = "6h"': (f"{SHARE}all", 1),
    "min_coverage = 0.99\nwithin = 6": (f"watch: within {SPAN}6", 2),
    'min_coverage = 0.99\nwithin = "0h"': (f"watch: within {SPAN}0h", 2),
    'min_coverage = 0.99\nwithin = "6 hours"': (f"watch: within {SPAN}6 hours", 2),
    'min_coverage = 0.99\nwithin = "99999d"': (f"watch: within {SPAN}99999d", 2),
    "min_coverage = 0.99": ("watch needs within", 0),
    'within = "6h"': ("watch needs min_coverage", 0),
    'min_coverage = 0.99\nwithin = "6h"\nwihtin = "6h"': (
        "watch has no wihtin; the nearest is within",
        3,
    ),
    'min_coverage = 0.99\nwithin = "6h"\nover = "6h"': (
        "the declaration: watch judges no session: over is no longer than within",
        0,
    ),
}


@pytest.mark.parametrize("said", FAULTS)
def test_a_fault_of_the_level_has_its_line(said: str) -> None:
    """And nothing else is told."""
    sentence, line = FAULTS[said]
    text = f"{DECLARED}[watch]\n{said}\n"
    header = text.splitlines().index("[watch]") + 1
    told = [(fault.message, fault.line) for fault in form_of(text).errors]
    assert told == [(sentence, header + line)]
    with pytest.raises(BadRequest) as refused:
        parse(text)
    assert refused.value.message == sentence


def test_no_table_is_a_fault_too() -> None:
    """Where the table is no table."""
    (fault,) = form_of(f'watch = "6h"\n{DECLARED}').errors
    assert (fault.message, fault.line) == ("the declaration: watch is a table of its own", 1)


@pytest.mark.parametrize(
    ("said", "seconds"), [("1m", 60), ("90m", 5_400), ("6h", 21_600), ("2d", 172_800)]
)
def test_a_length_of_time_is_minutes_hours_or_days(said: str, seconds: int) -> None:
    """Kept in seconds."""
    made = parse(f'{DECLARED}[watch]\nmin_coverage = 1\nwithin = "{said}"\n')
    assert made.watch == Watch(min_coverage=1.0, within=seconds)


def test_a_file_without_a_level_makes_the_sql_that_it_made() -> None:
    """So the migrations of earlier files stay the same."""
    assert '"watch"' not in target_sql(parse(DECLARED))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_targets_have_a_level(name: str) -> None:
    """99 of 100 within six hours, over all dates."""
    assert declared(name).watch == Watch(min_coverage=0.99, within=6 * 3600)
