"""When each caller of one `apply` in bulk worked and when it waited, with phases and without.

    python -m tests.bench.timeline
    python -m tests.bench.timeline --sessions 30000 --concurrency 4 --rounds 3

The same sessions in the phases `recent` and `historical`, and all in one, in turns. A lane holds
the calls that were under way beside others, each as wide as it took: an idle caller is a gap.
Linux only, for the CPU seconds of the servers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from tests.bench import clients, timing
from tests.bench.stage import SCORERS, Scene, clear, scene, scored
from tests.bench.timing import Figure, Task, Work
from tests.kit import verbs

WIDTH = 100
IDLE = "."
MARKS = {"backfill_bulk": "#", "backfill_claim": "c", "backfill_start": "s"}
OTHER = "o"
PHASES: dict[str, dict[str, Any]] = {"two phases": {}, "one phase": {"recent_since": "2020-01-01"}}


@dataclass(frozen=True)
class Call:
    """One call of ours under way, in seconds from the start of the work."""

    function: str
    began_s: float
    ended_s: float


def lanes(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls in as few lanes as hold them, none beside another in one lane."""
    found: list[list[Call]] = []
    for call in sorted(calls, key=lambda c: c.began_s):
        free = (lane for lane in found if lane[-1].ended_s <= call.began_s)
        lane = next(free, None)
        if lane is None:
            found.append([call])
        else:
            lane.append(call)
    return found


def drawn(lane: Sequence[Call], took_s: float) -> str:
    """A lane as a line, with how much of the time it worked."""
    line = [IDLE] * WIDTH
    for call in lane:
        first = int(call.began_s / took_s * WIDTH)
        for place in range(first, min(int(call.ended_s / took_s * WIDTH) + 1, WIDTH)):
            if line[place] == IDLE:
                line[place] = MARKS.get(call.function, OTHER)
    busy = sum(call.ended_s - call.began_s for call in lane) / took_s
    return f"{''.join(line)} {busy:4.0%} {len(lane)} calls"


async def watched(task: Task, owned: AsyncExitStack, *, concurrency: int, told: str) -> Work:
    """`apply`, which tells when each call began and ended."""
    from backfill.api.gateway import Gateway

    calls: list[tuple[str, float, float]] = []
    original: Callable[..., Awaitable[Any]] = Gateway.call

    async def call(self: Gateway, function: str, *given: Any, **named: Any) -> Any:
        began_s = time.monotonic()
        try:
            return await original(self, function, *given, **named)
        finally:
            calls.append((function, began_s, time.monotonic()))

    setattr(Gateway, "call", call)  # noqa: B010 - this process measures nothing else
    apply = await clients.apply(task, owned, concurrency=concurrency)

    async def work() -> None:
        began_s = time.monotonic()
        await apply()
        seen = json.dumps([(f, b - began_s, e - began_s) for f, b, e in calls])
        await anyio.Path(told).write_text(seen)

    return work


def _measured(
    stage: Scene, sessions: int, concurrency: int, phases: dict[str, Any]
) -> tuple[Figure, list[Call]]:
    run_id = verbs.planned(
        stage.db, since="2020-01-01", throttle_per_minute="none", priority=[], mode="bulk", **phases
    )
    verbs.approve(stage.db, run_id)
    task = Task(stage.url, stage.key, stage.dsn, stage.sessions[:sessions], run_id)
    with tempfile.NamedTemporaryFile() as told:
        client = partial(watched, concurrency=concurrency, told=told.name)
        figure = timing.measure(client, task, processes=1, servers=stage.servers)
        calls = [Call(*each) for each in json.load(told)]
    if (found := scored(stage, stage.sessions)) != len(stage.sessions):
        raise RuntimeError(f"{found} of {len(stage.sessions)} sessions were scored")
    clear(stage)
    return figure, calls


def main(words: Sequence[str] | None = None) -> None:
    """Measure both ways in turns, and draw the last round."""
    parser = argparse.ArgumentParser("python -m tests.bench.timeline")
    parser.add_argument("--sessions", type=int, default=8_000)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scorers", choices=list(SCORERS), default="cheap")
    wanted = parser.parse_args(words)
    with scene(wanted.sessions, wanted.scorers) as stage:
        clear(stage)
        for turn in range(wanted.rounds):
            for name, phases in PHASES.items():
                figure, calls = _measured(stage, wanted.sessions, wanted.concurrency, phases)
                cpu_us = figure.server_cpu_s / figure.sessions * 1e6
                client_us = figure.client_cpu_s / figure.sessions * 1e6
                print(
                    f"{turn + 1}/{wanted.rounds} {name}: {figure.per_s:.0f}/s in"
                    f" {figure.took_s:.2f} s, CPU a session: servers {cpu_us:.0f} µs, client"
                    f" {client_us:.0f} µs, calls {len(calls)}"
                )
                if turn + 1 == wanted.rounds:
                    for lane in lanes(calls):
                        print(drawn(lane, figure.took_s))
                sys.stdout.flush()


if __name__ == "__main__":
    main()
