"""Songs under a service level, and what the database says of it at a moment that the test sets."""

from __future__ import annotations

from typing import Any

import pytest

from backfill.targets.declaration import parse
from backfill.targets.views import target_sql
from tests.kit.clocks import DatabaseClock
from tests.kit.songs import DECLARED, Db

LEVEL = '[watch]\nmin_coverage = 0.99\nwithin = "6h"\n'
NOON = "2025-08-04T12:00Z"  # of the third song, the newest


def declare_watched(db: Db, level: str = LEVEL, old: str = "", new: str = "") -> None:
    """Declare the songs with a level, and one thing otherwise."""
    assert old in DECLARED
    text = DECLARED.replace(old, new, 1).replace("[[component]]", f"{level}[[component]]")
    db.execute(target_sql(parse(text)).encode())


@pytest.fixture
def watched(songs: Db) -> Db:
    """The songs under a level, seven hours after the newest."""
    DatabaseClock(songs)
    declare_watched(songs)
    at(songs, NOON, hours=7)
    return songs


def at(db: Db, moment: str, *, hours: float = 0) -> None:
    """Set the database's clock, so many hours after a moment."""
    db.execute(
        "update public.test_clock set now_at = %s::timestamptz + make_interval(secs => %s)",
        (moment, hours * 3600),
    )


def look(db: Db, target: str | None = "songs", **more: Any) -> dict[str, Any]:
    """Look at a target as pg_cron does. Returns what is said of it, or of the first."""
    named = "".join(f", {name} => %({name})s" for name in more)
    row = db.execute(
        f"select public.backfill_watch(%(target)s{named}) as told".encode(),
        {"target": target, **more},
    ).fetchone()
    assert row is not None
    told: dict[str, Any] = row["told"]["targets"][0]
    return told


def history(db: Db) -> dict[str, tuple[int, int, int, int]]:
    """Day -> wanted, there, missing, not due."""
    rows = db.execute(
        "select day::text, wanted, there, missing, not_due from public.backfill_coverage_history"
        " where target = 'songs' order by day"
    )
    return {r["day"]: (r["wanted"], r["there"], r["missing"], r["not_due"]) for r in rows}


def alerts(db: Db) -> list[tuple[bool, str | None]]:
    """Whether each alert is open, and why it was closed."""
    rows = db.execute(
        "select closed_at is null as is_open, closed_because from public.backfill_alerts"
        " order by alert_id"
    )
    return [(r["is_open"], r["closed_because"]) for r in rows]


def paint(db: Db, *songs: int) -> None:
    """Give songs their covers, as the user's own job does."""
    db.execute("insert into public.covers select unnest(%s::int[]), 'blue', 's'", (list(songs),))
