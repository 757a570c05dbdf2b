"""The stage of every measurement: the sample behind PostgREST and a gateway, and its scorers.

Debian's nginx (`apt-get install nginx-light`) stands for the gateway of a hosted project; where it
is not installed, the embedded stack's own does, which is slower and says so in the table.
"""

from __future__ import annotations

import secrets
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from backfill.local import sample
from backfill.local.gateway import gateway_in_thread
from backfill.local.keys import ApiKeys
from backfill.local.parts import open_temp_root
from backfill.local.processes import end_process, spawn
from backfill.local.servers import PostgresServer, RestServer, free_port

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
SCORERS = {
    "cheap": CHEAP,
    "sample": "",
    "sleep30": CHEAP.replace("as $$ begin", "as $$ begin perform pg_catalog.pg_sleep(0.03);"),
}


@dataclass(frozen=True)
class Scene:
    """A project to score, as postgres sees it and as a client reaches it."""

    url: str
    key: str
    db: psycopg.Connection[Any]
    sessions: list[str]
    dsn: str
    servers: tuple[int, ...]  # pids; what they started belongs to them
    gateway: str


@contextmanager
def scene(sessions: int, scorers: str = "sample") -> Iterator[Scene]:
    """The sample with so many candidates behind PostgREST and a gateway, oldest first."""
    with ExitStack() as owned:
        root = Path(owned.enter_context(tempfile.TemporaryDirectory(dir=open_temp_root())))
        root.chmod(0o755)
        server = PostgresServer.start(root / "data")
        owned.callback(server.stop)
        sample.load(server.dsn(), sessions)
        db = psycopg.connect(server.dsn(), autocommit=True, row_factory=dict_row)
        owned.callback(db.close)
        if SCORERS[scorers]:
            db.execute(SCORERS[scorers].encode())
        secret = secrets.token_urlsafe(48)
        keys = ApiKeys.new(secret)
        rest = RestServer.start(server.authenticator_dsn(), secret)
        owned.callback(rest.stop)
        url, pid = owned.enter_context(gateway(root, rest, keys))
        found = db.execute(
            "select session_id::text from public.backfill_candidates order by created_at"
        )
        yield Scene(
            url=url,
            key=keys.service_role,
            db=db,
            sessions=[row["session_id"] for row in found],
            dsn=server.dsn(),
            servers=(server.process.pid, rest.process.pid, pid),
            gateway=NGINX.name if NGINX.exists() else "the stack's own gateway",
        )


def gateway(root: Path, rest: RestServer, keys: ApiKeys) -> AbstractContextManager[tuple[str, int]]:
    """A process in front of PostgREST: its address and its pid."""
    return _nginx(root, rest) if NGINX.exists() else _own_gateway(rest, keys)


def clear(scene: Scene) -> None:
    """Take every scored row back, without a trace, so that the next way finds the same."""
    for table in ("fc_scores", "profiles"):
        scene.db.execute(
            f"delete from public.{table} where session_id = any (%s::uuid[])".encode(),
            (scene.sessions,),
        )
    scene.db.execute("vacuum analyze")


def scored(scene: Scene, sessions: Sequence[str]) -> int:
    """How many of these sessions have both rows."""
    row = scene.db.execute(
        "select count(*) as found from public.fc_scores as f"
        " join public.profiles as p on p.session_id = f.session_id"
        " where f.session_id = any (%s::uuid[]) and f.version = 'v1.2'",
        (list(sessions),),
    ).fetchone()
    assert row is not None
    return int(row["found"])


@contextmanager
def _nginx(root: Path, rest: RestServer) -> Iterator[tuple[str, int]]:
    """Its address and its pid."""
    listen = free_port()
    config = root / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(root=root, host=rest.host, port=rest.port, listen=listen))
    command = [str(NGINX), "-c", str(config), "-p", str(root)]
    with (root / "nginx.log").open("wb") as log:
        running = spawn(command, {}, log, death_signal=signal.SIGTERM, as_server_account=False)
    try:
        url = f"http://127.0.0.1:{listen}"
        _wait_for(url)
        yield url, running.pid
    finally:
        end_process(running, signal.SIGTERM, signal.SIGKILL)


def _wait_for(url: str) -> None:
    for _ in range(100):
        try:
            httpx.get(f"{url}/rest/v1/")
        except httpx.ConnectError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing answers at {url}")


@contextmanager
def _own_gateway(rest: RestServer, keys: ApiKeys) -> Iterator[tuple[str, int]]:
    """The stack's gateway in a process of its own, so that its CPU counts as a server's."""
    spawning = get_context("spawn")
    ours, its = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(rest.url, keys, its), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield ours.recv(), process.pid
    finally:
        ours.send("end")
        process.join()


def _serve(rest_url: str, keys: ApiKeys, told: Connection) -> None:
    with gateway_in_thread(rest_url, keys) as gateway:
        told.send(gateway.url)
        told.recv()
