"""Measurements as JSON lines, and two files of them side by side.

    python -m tests.bench --raw before.jsonl
    python -m tests.bench --raw after.jsonl
    python -m tests.bench compare before.jsonl after.jsonl

A file takes more lines with each run. Two are compared by the medians of each way under each
setting. Where the machine was busier one day than another, what a way makes of the bare calls
gathered in its own file says more than its seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tests.bench.tables import as_table
from tests.bench.timing import Figure, Setting
from tests.bench.ways import BASES

Taken = dict[tuple[Setting, str], list[Figure]]


def append(file: Path, setting: Setting, way: str, figure: Figure) -> None:
    """One more line."""
    line = {**asdict(setting), "way": way, "per_s": round(figure.per_s, 1), **asdict(figure)}
    with file.open("a") as lines:
        print(json.dumps(line), file=lines)


def read(file: Path) -> Taken:
    """All of a file. Raises ValueError where a line is none of ours."""
    taken: Taken = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            told = json.loads(line)
            setting = Setting(told["postgres"], told["scorers"])
            figure = Figure(**{name: told[name] for name in Figure.__annotations__})
            taken.setdefault((setting, told["way"]), []).append(figure)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}, line {number}: no measurement ({error})") from None
    return taken


def compared(before: Taken, after: Taken) -> str:
    """A row for each way and setting that both have: medians, spreads, and what changed."""
    head = ["PostgreSQL, scorers", "way", "before", "min to max", "after", "min to max"]
    rows = [[*head, "times", "of gathered", "spreads"], [*["---"] * 2, *["--:"] * 7]]
    for setting, way in before:
        if (setting, way) not in after:
            continue
        was, now = _rates(before[setting, way]), _rates(after[setting, way])
        shares = [_share(each, setting, way) for each in (before, after)]
        are_apart = max(was) < min(now) or max(now) < min(was)
        rows.append(
            [
                str(setting),
                way,
                *(text for each in (was, now) for text in (_middle(each), _spread(each))),
                f"{median(now) / median(was):.2f}",
                " to ".join(shares) if all(shares) else "",
                "apart" if are_apart else "overlap",
            ]
        )
    return as_table(rows)


def _rates(figures: Sequence[Figure]) -> list[float]:
    return [each.per_s for each in figures]


def _middle(rates: Sequence[float]) -> str:
    return f"{median(rates):,.0f}"


def _spread(rates: Sequence[float]) -> str:
    return f"{min(rates):,.0f} to {max(rates):,.0f}"


def _share(taken: Taken, setting: Setting, way: str) -> str:
    """What a way makes of the faster of the bare calls gathered beside it."""
    bases = [median(_rates(taken[setting, name])) for name in BASES if (setting, name) in taken]
    return f"{median(_rates(taken[setting, way])) / max(bases):.2f}" if bases else ""


def main(words: Sequence[str]) -> None:
    """Read two files and print what changed."""
    parser = argparse.ArgumentParser("python -m tests.bench compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    wanted = parser.parse_args(words)
    try:
        found = compared(read(wanted.before), read(wanted.after))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(found)
