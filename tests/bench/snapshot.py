"""What a claim costs while somebody holds a snapshot: a backup, a replica, an analyst's open tab.

    python -m tests.bench.snapshot
    python -m tests.bench.snapshot --sessions 100000 --batches 5 100 500 --modes direct bulk
    python -m tests.bench.snapshot --modes pgmq procrastinate

PostgreSQL removes no dead row that an open snapshot may still see. So whatever looks for the next
work walks over all that was done since. Here a run goes on beside an idle REPEATABLE READ session,
and beside none, over one connection, by SQL alone. Shown are the medians of the first tenth of the
calls and of the last, in milliseconds and in pages looked at, and what is between them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.bench.snapshot_queues import QUEUES
from tests.bench.stage import Scene, clear, scene
from tests.kit import verbs

CALLS_IN_BULK = 500
TENTHS = 10
CLAIM = (
    "select public.backfill_claim(p_run_id => %(run)s, p_claim_id => %(claim)s, p_worker => 'w')"
)
SETTLE = """
select public.backfill_settle(
  p_run_id => %(run)s, p_claim_id => %(claim)s, p_outcomes => %(outcomes)s)
"""
BULK = """
select public.backfill_bulk(p_run_id => %(run)s, p_worker => 'w', p_sessions => %(sessions)s)
"""
STATUS = "select to_json(p) from public.backfill_run_progress as p where p.run_id = %(run)s"
BYSTANDER = """
select count(*)
from public.assessment_sessions as s
join public.profiles as p on p.session_id = s.id
where s.id = any (%(ids)s::uuid[])
"""
MODES = {"direct": CLAIM, "bulk": BULK}
# Where it is not for the command line to say.
BATCHES = {"bulk": [CALLS_IN_BULK], "procrastinate": [1]}


@dataclass
class Curve:
    """What calls of one kind cost, in their order. pages: what one looked at, now and then."""

    ms: list[float] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)


Curves = dict[str, Curve]


def new_claim() -> str:
    """The id of a claim, as a worker makes it."""
    return str(uuid4())


@contextmanager
def snapshot_held(dsn: str, is_held: bool) -> Iterator[None]:
    """An idle session that has read something and stays in its transaction."""
    if not is_held:
        yield
        return
    with psycopg.connect(dsn) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("select count(*) from public.backfill_runs")
        yield


def answer(db: psycopg.Connection[Any], curve: Curve, query: str, **values: Any) -> Any:
    """The one value of a query with the secret key. Its cost is noted."""
    with verbs.as_service(db):
        began_s = time.perf_counter()
        row = db.execute(query.encode(), values).fetchone()
        curve.ms.append((time.perf_counter() - began_s) * 1000)
    return next(iter(row.values())) if row else None


def note_pages(db: psycopg.Connection[Any], curve: Curve, query: str, **values: Any) -> None:
    """How many pages a query looks at. What it does is rolled back."""
    with verbs.as_service(db), db.transaction(force_rollback=True):
        row = db.execute(
            f"explain (analyze, buffers, format json) {query}".encode(), values
        ).fetchone()
    [explained] = next(iter(row.values())) if row else []
    plan = explained["Plan"]
    curve.pages.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def worked(
    db: psycopg.Connection[Any],
    run_id: str,
    mode: str,
    looks: int,
    bulk_sessions: int = CALLS_IN_BULK,
) -> Curves:
    """Do a run to its end over one connection, and note what its calls cost.

    looks: how often the pages are noted, at equal distances of sessions.
    """
    curves = {name: Curve() for name in ("claim", "settle", "status", "bystander")}
    row = db.execute(
        "select count(*) as n, array_agg(session_id order by ordinal) as ids"
        " from public.backfill_items where run_id = %s",
        (run_id,),
    ).fetchone()
    assert row is not None
    due, done, ids = [row["n"] * part // looks for part in range(looks)], 0, row["ids"]
    while True:
        claim_id, some = new_claim(), ids[done : done + 20]
        asked = {"run": run_id, "claim": claim_id, "sessions": bulk_sessions}
        if is_due := bool(due) and done >= due[0] and done < row["n"]:
            due.pop(0)
            note_pages(db, curves["claim"], MODES[mode], **asked)
            note_pages(db, curves["status"], STATUS, run=run_id)
            note_pages(db, curves["bystander"], BYSTANDER, ids=some)
            answer(db, curves["status"], STATUS, run=run_id)
            answer(db, curves["bystander"], BYSTANDER, ids=some)
        found = answer(db, curves["claim"], MODES[mode], **asked)
        if mode == "direct" and found["granted"]:
            outcomes = [verbs.score_all(db, run_id, grant) for grant in found["granted"]]
            settled = {**asked, "outcomes": Jsonb(outcomes)}
            if is_due:
                note_pages(db, curves["settle"], SETTLE, **settled)
            answer(db, curves["settle"], SETTLE, **settled)
            done += len(outcomes)
        elif mode == "bulk" and not found.get("look"):
            done += found["sessions"]
        elif found.get("look"):
            found = verbs.claim(db, run_id)
        if found.get("state", "running") != "running":
            return curves


def measured(stage: Scene, mode: str, batch: int, *, is_held: bool, looks: int = TENTHS) -> Curves:
    """One run over all sessions."""
    run_id = verbs.planned(
        stage.db,
        since="2020-01-01",
        throttle_per_minute="none",
        priority=[],
        mode=mode,
        rehearse=0,
        **({"batch_size": batch} if mode == "direct" else {}),
    )
    verbs.approve(stage.db, run_id)
    verbs.start(stage.db, run_id)
    stage.db.execute("vacuum analyze")
    with snapshot_held(stage.dsn, is_held):
        return worked(stage.db, run_id, mode, looks)


def queued(stage: Scene, name: str, sessions: int, batch: int, *, is_held: bool) -> Curves:
    """A queue with a message a session, taken to its end over one connection."""
    take, done = QUEUES[name](stage.dsn, sessions, batch)
    curves = {"claim": Curve(), "settle": Curve()}
    with psycopg.connect(stage.dsn, autocommit=True, row_factory=dict_row) as db:
        db.execute("set search_path = procrastinate, public")
        db.execute("vacuum analyze")
        with snapshot_held(stage.dsn, is_held):
            while True:
                began_s = time.perf_counter()
                taken = take(db)
                taken_s = time.perf_counter()
                if not taken:
                    return curves
                done(db, taken)
                curves["claim"].ms.append((taken_s - began_s) * 1000)
                curves["settle"].ms.append((time.perf_counter() - taken_s) * 1000)


def line(name: str, curve: Curve) -> str:
    """First and last tenth, and what is between: ms, and pages."""
    part = max(1, len(curve.ms) // TENTHS)
    first, last = statistics.median(curve.ms[:part]), statistics.median(curve.ms[-part:])
    pages = f"{curve.pages[0]:,} | {curve.pages[-1]:,}" if curve.pages else "|"
    return f"{name} | {first:.2f} | {last:.2f} | {last / first:.2f} | {pages}"


def main(words: Sequence[str] | None = None) -> None:
    """Measure each mode and batch without a held snapshot and with one."""
    parser = argparse.ArgumentParser("python -m tests.bench.snapshot")
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[5, 100, 500])
    parser.add_argument("--modes", nargs="+", choices=[*MODES, *QUEUES], default=list(MODES))
    wanted = parser.parse_args(words)
    print("| mode | snapshot | call | first ms | last ms | times | first pages | last pages |")
    print("|---|---|---|--:|--:|--:|--:|--:|")
    with scene(wanted.sessions, "cheap") as stage:
        clear(stage)
        for mode in wanted.modes:
            for batch in BATCHES.get(mode, wanted.batches):
                for is_held in (False, True):
                    if mode in QUEUES:
                        curves = queued(stage, mode, wanted.sessions, batch, is_held=is_held)
                    else:
                        curves = measured(stage, mode, batch, is_held=is_held)
                    said = f"| {mode}, {batch} | {'held' if is_held else 'none'} | "
                    for name, curve in curves.items():
                        if curve.ms:
                            print(said + line(name, curve) + " |")
                    sys.stdout.flush()
                    clear(stage)


if __name__ == "__main__":
    main()
