"""What was measured, as Markdown that can be pasted into tests/README.md."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from backfill.local.parts import find_postgrest
from tests.bench import meters
from tests.bench.stage import Scene
from tests.bench.timing import Figure, Setting
from tests.bench.ways import BASES, LOOP, SPREAD, Way

PACKAGES = ("supabase", "httpx-aiohttp", "procrastinate", "dbos", "pgmq", "celery")
COLUMNS = [
    "sessions a second",
    "min to max",
    "of gathered",
    "of the loop",
    "sessions",
    "client CPU",
    "servers' CPU",
    "client MB",
]
LEGEND = (
    "`of gathered`: beside the faster of the bare calls gathered. CPU in seconds for 1,000"
    " sessions: of the client's processes; of PostgreSQL, PostgREST and the gateway together."
    " MB: the peak of the client's processes, what they import included. Plans were made, queues"
    " filled and connections opened before the clock started."
)
Figures = Mapping[str, Sequence[Figure]]


def summary(ways: Sequence[Way], taken: Mapping[Setting, Figures], missing: Sequence[str]) -> str:
    """What is said once, whatever was measured under how many settings."""
    absent = "\n".join(f"- {line}" for line in missing or ["nothing"])
    spread = [processes(figures) for figures in taken.values()][:1]
    several = [settings(ways, taken)] if len(taken) > 1 else []
    parts = [LEGEND, *spread, *several, f"Not to be had here:\n\n{absent}"]
    return "\n\n".join(filter(None, parts))


def settings(ways: Sequence[Way], taken: Mapping[Setting, Figures]) -> str:
    """A column a setting: sessions a second, and in brackets of gathered."""
    rows = [["", *map(str, taken)], ["---", *["--:"] * len(taken)]]
    for way in ways:
        rates = [(_rate(figures[way.name]), gathered(figures)) for figures in taken.values()]
        cells = [f"{rate:,.0f}{f' ({rate / base:.2f})' if base else ''}" for rate, base in rates]
        rows.append([way.says, *cells])
    return as_table(rows)


def gathered(figures: Figures) -> float | None:
    """The faster of the bare calls gathered, sessions a second. None where none was measured."""
    return max((_rate(figures[name]) for name in BASES if name in figures), default=None)


def machine_line(scene: Scene, scorers: str, rounds: int) -> str:
    """What it was measured on, and how."""
    asked = [str(find_postgrest()), "--version"]
    postgrest = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[1]
    return (
        f"{os.cpu_count()} processors, {meters.memory_gb():.0f} GB;"
        f" PostgreSQL {postgres_version(scene)}, PostgREST {postgrest}, {scene.gateway},"
        f" Python {platform.python_version()}, {', '.join(_versions())}."
        f" Scorers: {scorers}. Medians of {rounds}, the ways taking turns."
    )


def postgres_version(scene: Scene) -> str:
    """As the server says it, such as 17.10."""
    row = scene.db.execute("show server_version").fetchone()
    assert row is not None
    return str(row["server_version"]).split()[0]


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def comparison(ways: Sequence[Way], figures: Figures) -> str:
    """A row a way."""
    rows = [["", *COLUMNS], ["---", *["--:"] * len(COLUMNS)]]
    base = gathered(figures)
    loop = _rate(figures[LOOP]) if LOOP in figures else None
    for way in ways:
        taken = figures[way.name]
        rates = [each.per_s for each in taken]
        rows.append(
            [
                way.says,
                f"{_rate(taken):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                _ratio(_rate(taken), base),
                _ratio(_rate(taken), loop),
                f"{taken[0].sessions:,}",
                f"{median(each.client_cpu_s / each.sessions for each in taken) * 1000:.2f}",
                f"{median(each.server_cpu_s / each.sessions for each in taken) * 1000:.2f}",
                f"{median(each.peak_mb for each in taken):.0f}" if not way.program else "",
            ]
        )
    return as_table(rows)


def processes(figures: Figures) -> str | None:
    """One apply in 1, 2 and 4 processes; None where not all of it was measured."""
    rows = [["sessions a second", "1 process", "2 processes", "4 processes"]]
    rows.append(["---", "--:", "--:", "--:"])
    for says, names in SPREAD.items():
        if all(name in figures for name in names):
            rows.append([says, *(f"{_rate(figures[name]):,.0f}" for name in names)])
    return as_table(rows) if len(rows) > 2 else None


def _rate(taken: Sequence[Figure]) -> float:
    return median(each.per_s for each in taken)


def _ratio(rate: float, base: float | None) -> str:
    return f"{rate / base:.2f}" if base else ""


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown; the second says how columns stand."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
