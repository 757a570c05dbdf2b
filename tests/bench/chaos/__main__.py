"""Ours beside Procrastinate and pgmq while things die: what comes back, what is lost, what twice.

    python -m tests.bench.chaos
    python -m tests.bench.chaos --sessions 200 --only crash again --systems ours --json FILE

One stack, every system under every scenario in turn, by two worker processes of four sessions at a
time that are started again whenever they end. A table goes to stdout, what is under way to stderr.
Needs `pip install -e '.[bench]'` for the others; what is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.bench.chaos.scenarios import SCENARIOS, UNDISTURBED
from tests.bench.chaos.stand import stand
from tests.bench.chaos.systems import SYSTEMS
from tests.bench.chaos.trial import Trial, tried

HEAD = """\
| | | recovered | lost | twice | left | kills, hits, held | times undisturbed |
|---|---|--:|--:|--:|--:|--:|--:|"""


def main(words: Sequence[str] | None = None) -> None:
    """Choose, try, print."""
    wanted = _arguments(words)
    systems = [each for each in SYSTEMS if each.name in wanted.systems and find_spec(each.package)]
    scenarios = [each for each in SCENARIOS if each.name in wanted.only]
    trials = []
    with stand(wanted.sessions) as place:
        for system in systems:
            for scenario in (UNDISTURBED, *scenarios):
                trial = tried(place, system, scenario)
                trials.append(trial)
                print(trial, file=sys.stderr, flush=True)
                if wanted.json:
                    rows = [dataclasses.asdict(each) for each in trials]
                    wanted.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(shown(trials))
    for name in sorted(set(wanted.systems) - {each.name for each in systems}):
        print(f"{name} is not installed: pip install 'supabase-backfill[bench]'")


def shown(trials: Sequence[Trial]) -> str:
    """The table, scenario by scenario."""
    alone = {each.system: each.seconds for each in trials if each.scenario == UNDISTURBED.name}
    says = {each.name: each.says for each in SYSTEMS}
    lines = [HEAD]
    for scenario in (UNDISTURBED, *SCENARIOS):
        for each in (trial for trial in trials if trial.scenario == scenario.name):
            cells = [scenario.says, says[each.system]]
            cells += [f"{n:,}" for n in (each.recovered, each.lost, each.twice, each.left)]
            cells += [f"{each.strikes}, {each.hits}, {each.held}"]
            cells += [f"{each.seconds / alone[each.system]:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    scenarios = [each.name for each in SCENARIOS]
    systems = [each.name for each in SYSTEMS]
    parser = argparse.ArgumentParser("python -m tests.bench.chaos")
    parser.add_argument("--sessions", type=int, default=2_000)
    parser.add_argument("--only", nargs="+", choices=scenarios, default=scenarios)
    parser.add_argument("--systems", nargs="+", choices=systems, default=systems)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
