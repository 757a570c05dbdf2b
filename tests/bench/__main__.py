"""Ours beside what one would write or take without it: sessions a second, two calls a session.

    python -m tests.bench
    python -m tests.bench --only gathered bulk --rounds 5 --scorers sleep30
    python -m tests.bench --scorers cheap sample --postgres-bin wheel /usr/lib/postgresql/15/bin
    python -m tests.bench --raw after.jsonl
    python -m tests.bench compare before.jsonl after.jsonl

One stack, every way on the same sessions, in turns; between two the rows are deleted. A way runs
in processes of its own. The tables go to stdout, what is under way to stderr. Linux only. With
`pip install -e '.[bench]'` Procrastinate, DBOS, pgmq and Celery are measured too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backfill.local.parts import POSTGRES_BIN_VARIABLE
from tests.bench import records, tables
from tests.bench.stage import NGINX, SCORERS, Scene, clear, scene
from tests.bench.timing import Figure, Setting
from tests.bench.ways import ALL, Way

# With scorers that sleep a session takes 60 ms whatever the machine does. Of a way that is faster
# than a loop so many times as many: what a run costs at its start and its end weighs little then.
SESSIONS = {"cheap": 2_000, "sample": 2_000, "sleep30": 200}
MOST_TIMES = {"cheap": 15.0, "sample": 5.0, "sleep30": 1.0}
WHEEL = "wheel"


def main(words: Sequence[str] | None = None) -> None:
    """Choose, measure, print; or compare what was measured before."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["compare"]:
        records.main(words[1:])
        return
    wanted = _arguments(words)
    chosen = _chosen(wanted.only)
    missing = [f"{way.name}: {why}" for way in chosen if (why := way.missing())]
    ways = [way for way in chosen if not way.missing()]
    if not ways:
        sys.exit("\n".join(missing))
    if not NGINX.exists():
        missing.append("nginx: the stack's own gateway stands for it: apt-get install nginx-light")
    taken: dict[Setting, tables.Figures] = {}
    for bin_dir in wanted.postgres_bin or [None]:
        for scorers in wanted.scorers:
            with _built(bin_dir):
                setting, machine, figures = _under(ways, scorers, wanted)
            taken[setting] = figures
            print(f"{machine}\n\n{tables.comparison(ways, figures)}\n")
    print(tables.summary(ways, taken, missing))


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    names = ", ".join(way.name for way in ALL)
    parser = argparse.ArgumentParser("python -m tests.bench", description=f"The ways: {names}.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="a way, or how its name begins")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, help="2,000 unless the scorers sleep, then 200")
    parser.add_argument("--scorers", nargs="+", choices=list(SCORERS), default=["cheap"])
    parser.add_argument(
        "--postgres-bin", nargs="+", metavar="DIR", help=f"builds to measure on; {WHEEL!r} is one"
    )
    parser.add_argument("--raw", type=Path, metavar="FILE", help="append each measurement to it")
    return parser.parse_args(words)


@contextmanager
def _built(bin_dir: str | None) -> Iterator[None]:
    """With that build of PostgreSQL. None: the one that the environment names."""
    before = dict(os.environ)
    if bin_dir == WHEEL:
        os.environ.pop(POSTGRES_BIN_VARIABLE, None)
    elif bin_dir is not None:
        os.environ[POSTGRES_BIN_VARIABLE] = bin_dir
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _under(
    ways: Sequence[Way], scorers: str, wanted: argparse.Namespace
) -> tuple[Setting, str, tables.Figures]:
    """All ways under one setting; what the machine is called; what each way took."""
    counts = _counts(ways, wanted.sessions or SESSIONS[scorers], scorers)
    with scene(max(counts.values()), scorers) as stage:
        machine = tables.machine_line(stage, scorers, wanted.rounds)
        setting = Setting(tables.postgres_version(stage), scorers)
        return setting, machine, _measured(stage, ways, counts, setting, wanted)


def _chosen(only: Sequence[str] | None) -> list[Way]:
    if only is None:
        return ALL
    named: set[str] = set()
    for word in only:
        found = {way.name for way in ALL if way.name.startswith(word)}
        if not found:
            sys.exit(f"No way begins with {word!r}: {', '.join(way.name for way in ALL)}.")
        named |= {word} if word in found else found
    return [way for way in ALL if way.name in named]


def _counts(ways: Sequence[Way], sessions: int, scorers: str) -> dict[str, int]:
    """How many sessions each way gets: more for a fast one, where the scorers cost little."""
    most = MOST_TIMES[scorers]
    return {way.name: max(1, int(sessions * min(way.times, most))) for way in ways}


def _measured(
    stage: Scene,
    ways: Sequence[Way],
    counts: dict[str, int],
    setting: Setting,
    wanted: argparse.Namespace,
) -> tables.Figures:
    figures: dict[str, list[Figure]] = {way.name: [] for way in ways}
    clear(stage)
    for turn in range(wanted.rounds):
        for way in ways if turn % 2 else reversed(ways):
            figure = way.measure(stage, counts[way.name])
            figures[way.name].append(figure)
            if wanted.raw is not None:
                records.append(wanted.raw, setting, way.name, figure)
            said = f"{setting}, {turn + 1}/{wanted.rounds} {way.name}: {figure.per_s:.0f}/s"
            print(said, file=sys.stderr)
    return figures


if __name__ == "__main__":
    main()
