"""Ours beside what one would write or take without it: sessions a second, two calls a session.

    python -m tests.bench
    python -m tests.bench --only gathered bulk --rounds 5 --scorers sleep30

One stack, every way on the same sessions, in turns; between two the rows are deleted. A way runs
in processes of its own. The table goes to stdout, what is under way to stderr. Linux only. With
`pip install -e '.[bench]'` Procrastinate, DBOS, pgmq and Celery are measured too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.bench import tables
from tests.bench.stage import NGINX, SCORERS, Scene, clear, scene
from tests.bench.timing import Figure
from tests.bench.ways import ALL, Way

# With scorers that sleep a session takes 60 ms whatever the machine does.
SESSIONS = {"cheap": 2_000, "sample": 2_000, "sleep30": 200}


def main(words: Sequence[str] | None = None) -> None:
    """Choose, measure, print."""
    wanted = _arguments(words)
    chosen = _chosen(wanted.only)
    missing = [f"{way.name}: {why}" for way in chosen if (why := way.missing())]
    ways = [way for way in chosen if not way.missing()]
    if not ways:
        sys.exit("\n".join(missing))
    counts = _counts(ways, wanted.sessions or SESSIONS[wanted.scorers], wanted.scorers)
    with scene(max(counts.values()), wanted.scorers) as stage:
        figures = _measured(stage, ways, counts, wanted.rounds)
        machine = tables.machine_line(stage, wanted.scorers, wanted.rounds)
        if stage.gateway != NGINX.name:
            missing.append(f"nginx: {stage.gateway} carried the calls: apt-get install nginx-light")
    print(tables.shown(machine, ways, figures, missing))


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    names = ", ".join(way.name for way in ALL)
    parser = argparse.ArgumentParser("python -m tests.bench", description=f"The ways: {names}.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="a way, or how its name begins")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, help="2,000 unless the scorers sleep, then 200")
    parser.add_argument("--scorers", choices=list(SCORERS), default="cheap")
    return parser.parse_args(words)


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
    """How many sessions each way gets: more for a fast one, where the scorers cost nothing."""
    most = 1.0 if scorers != "cheap" else float("inf")
    return {way.name: max(1, int(sessions * min(way.times, most))) for way in ways}


def _measured(
    stage: Scene, ways: Sequence[Way], counts: dict[str, int], rounds: int
) -> dict[str, list[Figure]]:
    figures: dict[str, list[Figure]] = {way.name: [] for way in ways}
    clear(stage)
    for turn in range(rounds):
        for way in ways if turn % 2 else reversed(ways):
            figure = way.measure(stage, counts[way.name])
            figures[way.name].append(figure)
            print(f"{turn + 1}/{rounds} {way.name}: {figure.per_s:.0f}/s", file=sys.stderr)
    return figures


if __name__ == "__main__":
    main()
