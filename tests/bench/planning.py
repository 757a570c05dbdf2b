"""Planning a large project through the API: each stage, the client's memory, the views.

    python -m tests.bench.planning [SESSIONS] [CANDIDATES]

5,000,000 sessions and 250,000 candidates unless told. The client is a process of its own, so that
its peak memory is its own. The same windows are then inserted bare, from the same view, on the same
server: what planning costs beside finding is the ratio of the two.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg

from backfill.local import sample
from backfill.local.gateway import gateway_in_thread
from backfill.local.keys import ApiKeys
from backfill.local.parts import open_temp_root
from backfill.local.servers import PostgresServer, RestServer

SESSIONS = 5_000_000
CANDIDATES = 250_000
FEW = 1_000  # the smaller plan that the client's memory is compared with
FIRST_DAY = "2021-01-01"
LAST_DAY = date(2026, 1, 1)

# Five years of sessions, a candidate now and then; of three candidates one lacks its profile, of
# a thousand one has no responses. Without triggers: the rows refer to each other as they should.
DATA = """
set session_replication_role = replica;
truncate public.assessment_sessions, public.assessment_responses, public.fc_responses,
  public.fc_scores, public.profiles;
create temporary table made as
select n, md5('bench ' || n)::uuid as id,
  timestamptz '2021-01-01' + n * (interval '1826 days' / {sessions}) as at,
  n % {every} = 0 as lacks
from generate_series(0, {sessions} - 1) as n;
insert into public.assessment_sessions (id, user_id, status, created_at, completed_at)
select m.id, m.id, 'completed', m.at, m.at from made as m;
insert into public.assessment_responses (session_id, question_id, answer_value, created_at)
select m.id, q, 3, m.at from made as m cross join generate_series(1, 2) as q
where not (m.lacks and m.n / {every} % 1000 = 7);
insert into public.fc_responses (session_id, block_id, option_id, created_at)
select m.id, 1, 1, m.at from made as m;
insert into public.fc_scores (session_id, version, scores_json, blocks_answered, created_at)
select m.id, 'v1.2', '{{"Te": 50}}', 1, m.at from made as m where not m.lacks;
insert into public.profiles (session_id, results_version, type_code, payload, created_at)
select m.id, 'v1.2.1', 'INTJ', '{{"scores": [1, 2, 3, 4]}}', m.at from made as m
where not (m.lacks and m.n / {every} % 3 = 0);
"""
VIEWS_OF_SESSIONS = (
    "backfill_candidates",
    "backfill_missing_fc_scores",
    "backfill_missing_profiles",
    "backfill_daily_coverage",
)
VIEWS_OF_RUNS = (
    "backfill_run_progress",
    "backfill_run_failures",
)


@dataclass(frozen=True)
class Scene:
    """A large project, as its owner sees it and as a client reaches it."""

    db: psycopg.Connection[Any]
    environment: Mapping[str, str]


@contextmanager
def scene(sessions: int, candidates: int) -> Iterator[Scene]:
    """A project of so many sessions behind PostgREST and the stack's gateway."""
    with ExitStack() as owned:
        root = Path(owned.enter_context(tempfile.TemporaryDirectory(dir=open_temp_root())))
        root.chmod(0o755)
        server = PostgresServer.start(root / "data")
        owned.callback(server.stop)
        sample.load(server.dsn(), 39)
        admin = owned.enter_context(psycopg.connect(server.superuser_dsn(), autocommit=True))
        admin.execute(DATA.format(sessions=sessions, every=sessions // candidates).encode())
        admin.execute("vacuum analyze")
        secret = secrets.token_urlsafe(48)
        keys = ApiKeys.new(secret)
        rest = RestServer.start(server.authenticator_dsn(), secret)
        owned.callback(rest.stop)
        gateway = owned.enter_context(gateway_in_thread(rest.url, keys))
        db = owned.enter_context(psycopg.connect(server.dsn(), autocommit=True))
        named = {"SUPABASE_URL": gateway.url, "SUPABASE_SECRET_KEY": keys.secret}
        yield Scene(db, {**os.environ, **named})


# The client -------------------------------------------------------------------------------------


async def plan_here(since: str) -> dict[str, Any]:
    """Plan in this process. {took_s: {function: s}, calls, windows, sessions, peak_mb}"""
    import backfill
    from backfill.api.gateway import Gateway

    took_s: dict[str, float] = defaultdict(float)
    windows: list[Any] = []

    class Timed(Gateway):
        async def call(self, function: str, arguments: Any, shape: Any, **given: Any) -> Any:
            began = time.perf_counter()
            try:
                return await super().call(function, arguments, shape, **given)
            finally:
                took_s[function] += time.perf_counter() - began
                if function == "backfill_collect":
                    run = {"run_id": arguments["p_run_id"]}
                    row = await self.first("backfill_runs", columns="collect_from", equal=run)
                    windows.append((row or {})["collect_from"])
                    calls.append(time.perf_counter() - began)

    calls: list[float] = []
    imported_mb = peak_mb()
    gateway = Timed(os.environ["SUPABASE_URL"], os.environ["SUPABASE_SECRET_KEY"])
    async with backfill.AsyncBackfill(gateway) as bf:
        began = time.perf_counter()
        plan = await bf.plan(since=since, throttle_per_minute="none", mode="bulk")
        total_s = time.perf_counter() - began
    took_s["loading"] = total_s - sum(took_s.values())
    return {
        "run_id": plan.run_id,
        "total_s": total_s,
        "took_s": took_s,
        "windows": windows,
        "longest_window_s": max(calls),
        "sessions": len(plan.sessions),
        "imported_mb": imported_mb,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def apply_here(run_id: str) -> dict[str, Any]:
    """Apply in this process, in bulk, with every file. {sessions, took_s, peak_mb}"""
    import backfill

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        async with backfill.connect_async() as bf:
            outcome = await bf.apply(run_id, concurrency=4, logs_dir=folder)
    took_s = time.perf_counter() - began
    return {"sessions": outcome.status.counts["done"], "took_s": took_s, "peak_mb": peak_mb()}


async def verify_here(run_id: str) -> dict[str, Any]:
    """Verify in this process. {sessions, took_s, peak_mb}"""
    import backfill

    began = time.perf_counter()
    async with backfill.connect_async() as bf:
        verification = await bf.verify(run_id)
    assert verification.verdict == "pass", verification
    sessions = sum(len(rows) for rows in verification.buckets.values())
    return {"sessions": sessions, "took_s": time.perf_counter() - began, "peak_mb": peak_mb()}


async def logs_here(run_id: str) -> dict[str, Any]:
    """Write all files of a run anew in this process. {sessions, took_s, peak_mb}"""
    import backfill

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        async with backfill.connect_async() as bf:
            written = await bf.write_logs(run_id, folder)
        calls = lines_in(written / "calls.jsonl")
    return {"sessions": calls, "took_s": time.perf_counter() - began, "peak_mb": peak_mb()}


def lines_in(path: Path) -> int:
    """How many lines a file has, read one at a time."""
    with open(path, encoding="utf-8") as lines:
        return sum(1 for _ in lines)


async def page_here(run_id: str) -> dict[str, Any]:
    """Make the page of a run in this process. {sessions, took_s, peak_mb}"""
    import backfill

    began = time.perf_counter()
    async with backfill.connect_async() as bf:
        page = await bf.page(run_id)
    return {"sessions": len(page), "took_s": time.perf_counter() - began, "peak_mb": peak_mb()}


CLIENTS = {
    "plan": plan_here,
    "apply": apply_here,
    "verify": verify_here,
    "logs": logs_here,
    "page": page_here,
}


def beside(stage: Scene, verb: str, argument: str) -> dict[str, Any]:
    """What a client says that runs in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.planning", verb, argument]
    done = subprocess.run(command, env=stage.environment, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# The measures -----------------------------------------------------------------------------------


def bare_s(stage: Scene, windows: list[str]) -> float:
    """Seconds that the same windows take as an insert from the same view, and nothing else."""
    stage.db.execute("create temporary table bare (like backfill_private.findings including all)")
    began = time.perf_counter()
    since = FIRST_DAY
    for until in windows:
        stage.db.execute(
            "insert into bare (run_id, session_id, session_at, components, not_wanted, excluded)"
            " select gen_random_uuid(), session_id, session_at, components, not_wanted, excluded"
            " from backfill_private.prism_gaps"
            " where session_at >= %s::text::timestamptz and session_at < %s::text::timestamptz",
            (since, until),
        )
        since = until
    took_s = time.perf_counter() - began
    stage.db.execute("drop table bare")
    return took_s


def asked_s(stage: Scene, statement: str) -> float:
    """Seconds of one statement."""
    began = time.perf_counter()
    stage.db.execute(statement.encode()).fetchall()
    return time.perf_counter() - began


def timed(stage: Scene, what: str, statement: str) -> None:
    """Print how long a statement takes."""
    print(f"{what:50}{asked_s(stage, statement):8.2f} s", flush=True)


def main(sessions: int, candidates: int) -> None:
    """Measure and print."""
    began = time.perf_counter()
    with scene(sessions, candidates) as stage:
        print(f"{sessions:,} sessions loaded in {time.perf_counter() - began:.0f} s", flush=True)
        few_since = LAST_DAY - timedelta(days=1826 * FEW // candidates)
        few = beside(stage, "plan", few_since.isoformat())
        seen = beside(stage, "plan", FIRST_DAY)
        run_id = seen["run_id"]
        print(f"planned {seen['sessions']:,} sessions in {seen['total_s']:.1f} s")
        for name, took_s in seen["took_s"].items():
            print(f"  {name:48}{took_s:8.2f} s")
        windows = f"{len(seen['windows'])} windows, the longest"
        print(f"  {windows:48}{seen['longest_window_s']:8.2f} s", flush=True)
        bare = bare_s(stage, seen["windows"])
        print(f"{'the same windows bare':50}{bare:8.2f} s: ratio {seen['total_s'] / bare:.2f}")
        timed(stage, "digest", f"select backfill_private.compute_digest('{run_id}')")
        stage.db.execute(
            "select public.backfill_approve(run_id, digest, 'Ada')"
            " from public.backfill_runs where run_id = %s",
            (run_id,),
        )
        applied = beside(stage, "apply", run_id)
        verified = beside(stage, "verify", run_id)
        logged, page = beside(stage, "logs", run_id), beside(stage, "page", run_id)
        for verb, told in (
            ("applied in bulk, with files", applied),
            ("verified", verified),
            ("all files written anew", logged),
            ("the page", page),
        ):
            print(f"{verb:50}{told['took_s']:8.2f} s", flush=True)
        for view in VIEWS_OF_RUNS:
            timed(stage, f"all of {view}", f"select * from public.{view}")
        for view in VIEWS_OF_SESSIONS:
            timed(stage, f"count(*) of {view}", f"select count(*) from public.{view}")
    print(f"memory of the client: imported {few['imported_mb']:.0f} MB")
    clients = (("planning", few), ("planning", seen), ("applying", applied))
    for verb, client in (*clients, ("verifying", verified)):
        print(f"  {verb} {client['sessions']:,} sessions, at most {client['peak_mb']:.0f} MB")
    print(f"  writing {logged['sessions']:,} calls anew, at most {logged['peak_mb']:.0f} MB")
    print(f"  a page of {page['sessions']:,} characters, at most {page['peak_mb']:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CLIENTS:
        print(json.dumps(asyncio.run(CLIENTS[sys.argv[1]](sys.argv[2]))))
    else:
        given = [int(number) for number in sys.argv[1:]]
        main(*given, *(SESSIONS, CANDIDATES)[len(given) :])
