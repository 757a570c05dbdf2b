"""The ways that are measured, and what each needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from backfill.local.parts import find_postgres
from tests.bench import alternatives, clients, timing
from tests.bench.stage import Scene, clear, scored
from tests.bench.timing import Client, Figure, Task
from tests.kit import verbs

EXTRA = "pip install 'supabase-backfill[bench]'"


@dataclass(frozen=True)
class Way:
    """One way to score. times: what its sessions are multiplied by, so that it takes seconds."""

    name: str
    says: str
    client: Client
    times: float = 1.0
    plan: Mapping[str, Any] | None = None  # of the run it applies; the rest of the request
    processes: int = 1
    package: str | None = None
    program: str | None = None  # beside PostgreSQL's own

    def missing(self) -> str | None:
        """What it would need; None where all is there."""
        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed: {EXTRA}"
        if self.program and not (find_postgres() / self.program).is_file():
            return f"there is no {self.program} in {find_postgres()}"
        return None

    def measure(self, scene: Scene, sessions: int) -> Figure:
        """Score so many sessions once, all of them, and delete the rows again."""
        some, until = _oldest(scene, sessions)
        run_id = _approved(scene, until, self.plan) if self.plan is not None else None
        task = Task(scene.url, scene.key, scene.dsn, some, run_id)
        figure = timing.measure(self.client, task, processes=self.processes, servers=scene.servers)
        if (found := scored(scene, some)) != len(some):
            raise RuntimeError(f"{self.name} scored {found} of {len(some)} sessions")
        clear(scene)
        return figure


def _oldest(scene: Scene, sessions: int) -> tuple[list[str], str]:
    """So many sessions, and when the last of them was created: a plan names its sessions so."""
    some = scene.sessions[:sessions]
    row = scene.db.execute(
        "select created_at from public.assessment_sessions where id = %s", (some[-1],)
    ).fetchone()
    assert row is not None
    return some, row["created_at"].isoformat()


def _approved(scene: Scene, until: str, plan: Mapping[str, Any]) -> str:
    """An approved run over all sessions up to that moment, without a throttle."""
    run_id = verbs.planned(
        scene.db, since="2020-01-01", until=until, throttle_per_minute="none", priority=[], **plan
    )
    verbs.approve(scene.db, run_id)
    return run_id


DIRECT = {"mode": "direct", "batch_size": 50}
WIDE = {"mode": "direct", "batch_size": 100}
BULK = {"mode": "bulk"}


def _apply(name: str, says: str, concurrency: int, **more: Any) -> Way:
    client = partial(clients.apply, concurrency=concurrency)
    return Way(name, says, client, **{"times": 5, **more})


def _gathered(concurrency: int) -> Way:
    client = partial(clients.gathered, concurrency=concurrency)
    says = f"bare calls gathered, {concurrency} at a time"
    return Way(f"gathered-{concurrency}", says, client, times=5)


def _dbos(name: str, says: str, step_sessions: int) -> Way:
    client = partial(alternatives.dbos, step_sessions=step_sessions)
    return Way(name, says, client, times=0.5, package="dbos")


def _pgbench(count: int) -> Way:
    says = f"pgbench, {count} connection{'s' if count > 1 else ''}, no API: the limit"
    client = partial(clients.pgbench, clients=count)
    return Way(f"pgbench-{count}", says, client, times=15, program="pgbench")


BASES = ("gathered-4", "gathered-16")
LOOP = "loop"
# One apply, spread: what is measured with 1, 2 and 4 processes.
SPREAD = {
    "apply, 4 at a time in each": ("apply-4", "apply-4-in-2", "apply-4-in-4"),
    "apply in bulk, 1 call at a time in each": ("bulk-1", "bulk-1-in-2", "bulk-1-in-4"),
}
ALL = [
    Way(LOOP, "the client in a loop", clients.loop, times=0.5),
    _gathered(4),
    _gathered(16),
    _apply("apply-4", "`apply`, 4 at a time", 4, plan=DIRECT),
    _apply("apply-16", "`apply`, 16 at a time, batches of 100", 16, plan=WIDE),
    _apply("apply-4-in-2", "`apply`, 4 at a time, 2 processes", 4, plan=DIRECT, processes=2),
    _apply("apply-4-in-4", "`apply`, 4 at a time, 4 processes", 4, plan=DIRECT, processes=4),
    _apply("bulk-1", "`apply` in bulk, 1 call at a time", 1, plan=BULK, times=8),
    _apply("bulk-4", "`apply` in bulk, 4 calls at a time", 4, plan=BULK, times=15),
    _apply("bulk-1-in-2", "`apply` in bulk, 2 processes", 1, plan=BULK, times=15, processes=2),
    _apply("bulk-1-in-4", "`apply` in bulk, 4 processes", 1, plan=BULK, times=15, processes=4),
    Way(
        "procrastinate",
        "Procrastinate, a task a session",
        alternatives.procrastinate,
        times=0.5,
        package="procrastinate",
    ),
    _dbos("dbos", "DBOS, a step a session", 1),
    _dbos("dbos-50", "DBOS, a step of 50 sessions", 50),
    Way("pgmq", "pgmq, a message a session", alternatives.pgmq, times=0.5, package="pgmq"),
    Way(
        "celery",
        "Celery over pgmq, a task a session",
        alternatives.celery,
        times=0.5,
        package="kombu_pgmq",
    ),
    _pgbench(1),
    _pgbench(4),
]
