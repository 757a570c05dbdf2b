"""Direct mode beside what one would write without it: sessions a second, two calls a session.

    python -m tests.bench.direct

One server with the sample scorers behind PostgREST and Debian's nginx, which stands for the gateway
of a hosted project. With the extra `fast` or without, as installed. Every way scores the same
sessions; each figure is the median of three rounds, the ways taking turns. Between two rounds the
rows are deleted.

    python -m tests.bench.direct --cheap 20000

takes scorers that insert one constant row, as many sessions, and leaves the slow ways out: what the
machinery itself costs.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import psycopg
from psycopg.rows import dict_row

import backfill
from backfill import sample
from backfill.gateway import Gateway
from backfill.stack_keys import ApiKeys
from backfill.stack_parts import open_temp_root
from backfill.stack_servers import PostgresServer, RestServer, free_port
from supabase import create_client
from tests import verbs

ROUNDS = 3
SESSIONS = 2_000
NGINX = Path("/usr/sbin/nginx")
NGINX_CONFIG = """
daemon off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/a; uwsgi_temp_path {root}/b; scgi_temp_path {root}/c;
  upstream rest {{ server {host}:{port}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{listen};
    location /rest/v1/ {{
      proxy_pass http://rest/; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Scene:
    """A project to score, as postgres sees it and as a client reaches it."""

    url: str
    key: str
    db: psycopg.Connection[Any]
    sessions: list[str]


Way = Callable[[Scene], Awaitable[float]]


def arguments(session_id: str) -> list[tuple[str, dict[str, str]]]:
    """The two calls of a session."""
    return [
        (
            "score_fc_session",
            {"session_id": session_id, "version": "v1.2", "basis": "functions"},
        ),
        ("score_prism", {"session_id": session_id, "engine_version": "v1.2.1"}),
    ]


async def loop(scene: Scene) -> float:
    """The client in a loop, as a script would do it; a tenth of the sessions."""
    client = create_client(scene.url, scene.key)
    began = time.perf_counter()
    few = scene.sessions[: len(scene.sessions) // 10]
    for session_id in few:
        for function, given in arguments(session_id):
            client.rpc(function, given).execute()
    return len(few) / (time.perf_counter() - began)


def gathered(concurrency: int) -> Way:
    """Bare calls over our own transport, so many sessions at a time; nothing else."""

    async def way(scene: Scene) -> float:
        gateway = Gateway(scene.url, scene.key, connections=concurrency)
        limiter = asyncio.Semaphore(concurrency)

        async def score(session_id: str) -> None:
            async with limiter:
                for function, given in arguments(session_id):
                    await gateway.score(function, given, {})

        began = time.perf_counter()
        await asyncio.gather(*map(score, scene.sessions))
        took_s = time.perf_counter() - began
        await gateway.close()
        return len(scene.sessions) / took_s

    return way


def ours(concurrency: int, batch_size: int, mode: str = "direct") -> Way:
    """`apply` with everything it keeps, without a throttle."""

    async def way(scene: Scene) -> float:
        run_id = verbs.planned(
            scene.db,
            since="2020-01-01",
            throttle_per_minute=None,
            batch_size=batch_size,
            priority=[],
            mode=mode,
        )
        verbs.approve(scene.db, run_id)
        async with backfill.connect_async(scene.url, scene.key) as bf:
            began = time.perf_counter()
            outcome = await bf.apply(run_id, concurrency=concurrency)
            took_s = time.perf_counter() - began
        if not outcome.is_complete:
            raise RuntimeError(f"the run ended {outcome.state}: {outcome.failures[:1]}")
        return outcome.status.counts["done"] / took_s

    return way


WAYS: dict[str, Way] = {
    "client in a loop": loop,
    "gathered, 4 at a time": gathered(4),
    "gathered, 16 at a time": gathered(16),
    "apply, 4 at a time, batches of 50": ours(4, 50),
    "apply, 16 at a time, batches of 50": ours(16, 50),
    "apply, 16 at a time, batches of 100": ours(16, 100),
    "apply in bulk, 1 at a time": ours(1, 50, "bulk"),
    "apply in bulk, 4 at a time": ours(4, 50, "bulk"),
}


@contextmanager
def scene(sessions: int) -> Iterator[Scene]:
    """The sample with so many candidates behind PostgREST and a gateway."""
    with ExitStack() as owned:
        root = Path(owned.enter_context(tempfile.TemporaryDirectory(dir=open_temp_root())))
        root.chmod(0o755)
        server = PostgresServer.start(root / "data")
        owned.callback(server.stop)
        sample.load(server.dsn(), sessions)
        db = psycopg.connect(server.dsn(), autocommit=True, row_factory=dict_row)
        owned.callback(db.close)
        secret = secrets.token_urlsafe(48)
        rest = RestServer.start(server.authenticator_dsn(), secret)
        owned.callback(rest.stop)
        url = owned.enter_context(_nginx(root, rest))
        found = db.execute("select session_id from public.backfill_candidates order by created_at")
        named = [row["session_id"] for row in found]
        yield Scene(url, ApiKeys.new(secret).service_role, db, named)


@contextmanager
def _nginx(root: Path, rest: RestServer) -> Iterator[str]:
    listen = free_port()
    config = root / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(root=root, host=rest.host, port=rest.port, listen=listen))
    running = subprocess.Popen([str(NGINX), "-c", str(config), "-p", str(root)])
    try:
        url = f"http://127.0.0.1:{listen}"
        for _ in range(100):
            try:
                httpx.get(f"{url}/rest/v1/")
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        yield url
    finally:
        running.terminate()
        running.wait()


def clear(scene: Scene) -> None:
    """Take every scored row back, without a trace, so that the next way finds the same."""
    for table in ("fc_scores", "profiles"):
        scene.db.execute(
            f"delete from public.{table} where session_id = any (%s::uuid[])".encode(),
            (scene.sessions,),
        )
    scene.db.execute("vacuum analyze")


# Each inserts one constant row.
CHEAP = """
create or replace function public.score_fc_session(session_id uuid, version text, basis text)
returns jsonb language plpgsql set search_path = '' as $$ begin
  insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
  values ($1, $2, $3, '{"Te": 50}', 6)
  on conflict on constraint fc_scores_pkey do update set scores_json = excluded.scores_json;
  return '{"status": "ok"}'; end $$;
create or replace function public.score_prism(session_id uuid, engine_version text)
returns jsonb language plpgsql set search_path = '' as $$ begin
  insert into public.profiles (session_id, results_version, type_code, payload)
  values ($1, $2, 'INTJ', '{}')
  on conflict on constraint profiles_pkey do update set payload = excluded.payload;
  return '{"status": "ok"}'; end $$;
"""
# What is compared where only the machinery counts.
OF_CHEAP = ("gathered, 16 at a time", "apply in bulk, 1 at a time", "apply in bulk, 4 at a time")


def main(cheap: int = 0) -> None:
    """Measure and print. cheap: so many sessions with scorers that cost nothing."""
    if not NGINX.exists():
        sys.exit("apt-get install nginx-light")
    chosen = {name: way for name, way in WAYS.items() if not cheap or name in OF_CHEAP}
    taken: dict[str, list[float]] = {name: [] for name in chosen}
    with scene(cheap or SESSIONS) as stage:
        if cheap:
            stage.db.execute(CHEAP.encode())
        clear(stage)
        for turn in range(ROUNDS):
            ways = list(chosen.items())
            for name, way in ways if turn % 2 else reversed(ways):
                taken[name].append(anyio.run(way, stage))
                clear(stage)
    base = statistics.median(taken["gathered, 16 at a time"])
    print(f"Sessions a second, medians of {ROUNDS}, {os.cpu_count()} processors.")
    for name, found in taken.items():
        middle = statistics.median(found)
        print(f"{name:40}{middle:>10.0f}{middle / base:>8.2f}   {[round(f) for f in found]}")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the client {peak_mb:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[2]) if sys.argv[1:2] == ["--cheap"] else 0)
