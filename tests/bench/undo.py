"""Verify and undo of a large run over the API, rows a second, beside a bare delete.

    python -m tests.bench.undo [SESSIONS]

24,000 sessions unless told, four rows for every three. The run is planned, approved and started as
any other; then its rows, their receipts, the items' states and the chain are written by SQL, set by
set, as bulk mode would leave them: here only what comes after counts. The bare delete goes over the
same rows by their sessions, a thousand at a time, and is rolled back. One server behind PostgREST;
the gateway is a process of its own, so that the peak memory is the client's.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

import backfill
from backfill.local import sample
from backfill.local.gateway import gateway_in_thread
from backfill.local.keys import ApiKeys
from backfill.local.parts import open_temp_root
from backfill.local.servers import PostgresServer, RestServer
from tests.kit import verbs

SESSIONS = 24_000
PIECE = 1_000  # sessions a bare delete
CHAINED = 50  # sessions a settled batch in the chain

# Sessions with one answer of each kind; two of three have a profile already.
SOURCE = """
with made as (
  insert into public.assessment_sessions (id, status, created_at, completed_at)
  select gen_random_uuid(), 'completed', timestamptz '2030-01-01' + n * interval '1 s', now()
  from generate_series(1, %(sessions)s) as n
  returning id, created_at
), answered as (
  insert into public.assessment_responses (session_id, question_id, answer_value)
  select id, 1, 3 from made
), chosen as (
  insert into public.fc_responses (session_id, block_id, option_id)
  select m.id, o.block_id, o.id from made as m
  cross join (select block_id, id from public.fc_options order by id limit 1) as o
)
insert into public.profiles (session_id, results_version, type_code, payload)
select id, 'v1.2.1', 'INTJ', '{}' from made where extract(epoch from created_at)::bigint %% 3 <> 0
"""
ROWS = {
    "fc_scores": """
insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
select session_id::uuid, 'v1.2', 'functions', '{"Te": 50, "Ti": 50, "Fe": 50, "Fi": 50}', 6
from public.backfill_items where run_id = %(run)s and 'fc_scores' = any (components)
""",
    "profile": """
insert into public.profiles (session_id, results_version, type_code, payload)
select session_id::uuid, 'v1.2.1', 'INTJ', '{"mean": 3.1}'
from public.backfill_items where run_id = %(run)s and 'profile' = any (components)
""",
}
RECEIPTS = """
insert into public.backfill_receipts
  (run_id, ordinal, session_id, component, kind, operation, table_name, row_key, shape,
   after_hash, attempt, at)
select i.run_id, i.ordinal, i.session_id, t.component, 'score', 'insert', t.table_name,
  backfill_private.row_key(r.row, t.key_columns),
  backfill_private.shape_of(to_regclass(t.table_name)), r.hash, 1, now()
from public.backfill_items as i
cross join public.backfill_targets as t
join lateral (
  select to_jsonb(f.*) as row, backfill_private.row_hash(f) as hash from public.fc_scores as f
  where t.component = 'fc_scores' and f.session_id = i.session_id::uuid and f.version = 'v1.2'
  union all
  select to_jsonb(p.*), backfill_private.row_hash(p) from public.profiles as p
  where t.component = 'profile' and p.session_id = i.session_id::uuid) as r on true
where i.run_id = %(run)s and t.target = i.source and t.component = any (i.components)
order by i.ordinal, t.position
"""
DONE = """
do $do$
declare
  v_run uuid := '{run}';
  v_ordinals integer[];
begin
  update public.backfill_items
  set state = 'done', attempts = 1, settled_at = now(), started_at = now() where run_id = v_run;
  for v_ordinals in
    select array_agg(ordinal) from public.backfill_items
    where run_id = v_run group by (ordinal - 1) / {chained}
  loop
    perform backfill_private.record(v_run, 'batch_settled', backfill_private.settled_details(
      v_run, null, (select jsonb_agg(jsonb_build_object('ordinal', o, 'state', 'done'))
        from unnest(v_ordinals) as o)));
  end loop;
  perform backfill_private.move(v_run, 'completed');
end
$do$
"""


def _serve(rest_url: str, keys: ApiKeys, told: Connection) -> None:
    with gateway_in_thread(rest_url, keys) as gateway:
        told.send(gateway.url)
        told.recv()


@contextmanager
def served(rest_url: str, keys: ApiKeys) -> Iterator[str]:
    """A gateway in a process of its own; its URL."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(rest_url, keys, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def done_run(db: psycopg.Connection[Any], sessions: int) -> str:
    """A completed run over so many sessions; its id."""
    db.execute(SOURCE.encode(), {"sessions": sessions})
    db.execute("update public.backfill_settings set max_sessions = 1000000")
    db.execute("analyze")
    run_id = verbs.started(
        db, since="2030-01-01", throttle_per_minute="none", batch_size=50, mode="bulk", priority=[]
    )
    for statement in (*ROWS.values(), RECEIPTS):
        db.execute(statement.encode(), {"run": run_id})
    db.execute(DONE.format(run=run_id, chained=CHAINED).encode())
    db.execute("vacuum analyze")
    return run_id


BARE = """
delete from public.{table} where session_id = any (array(
  select session_id::uuid from public.backfill_items
  where run_id = %(run)s and ordinal > %(after)s::int and ordinal <= %(after)s::int + %(piece)s
    and %(component)s = any (components)))
"""


def bare_delete(db: psycopg.Connection[Any], run_id: str, sessions: int) -> tuple[int, float]:
    """Rows, and the seconds that deleting them took; rolled back."""
    rows = 0
    began = time.perf_counter()
    with db.transaction(force_rollback=True):
        for table, component in (("fc_scores", "fc_scores"), ("profiles", "profile")):
            for after in range(0, sessions, PIECE):
                given = {"run": run_id, "after": after, "piece": PIECE, "component": component}
                rows += db.execute(BARE.format(table=table).encode(), given).rowcount
    return rows, time.perf_counter() - began


def measured(bf: backfill.Backfill, run_id: str) -> dict[str, float]:
    """Seconds of verify, preview and undo."""
    took: dict[str, float] = {}
    began = time.perf_counter()
    verification = bf.verify(run_id)
    took["verify"] = time.perf_counter() - began
    if verification.verdict != "pass":
        raise RuntimeError(f"the run is no pass: {verification.criteria}")
    began = time.perf_counter()
    undo = bf.rollback(run_id)
    took["preview of the undo"] = time.perf_counter() - began
    began = time.perf_counter()
    effect = undo.confirm(reason="a bench")
    took["undo"] = time.perf_counter() - began
    if effect.conflicts or effect.state != "rolled_back":
        raise RuntimeError(f"the undo ended {effect.state}: {effect.conflicts[:1]}")
    return took


def main(sessions: int = SESSIONS) -> None:
    """Measure and print."""
    with ExitStack() as owned:
        root = Path(owned.enter_context(tempfile.TemporaryDirectory(dir=open_temp_root())))
        root.chmod(0o755)
        server = PostgresServer.start(root / "data")
        owned.callback(server.stop)
        sample.load(server.dsn(), "seed")
        db = psycopg.connect(server.dsn(), autocommit=True, row_factory=dict_row)
        owned.callback(db.close)
        keys = ApiKeys.new(secret := secrets.token_urlsafe(48))
        rest = RestServer.start(server.authenticator_dsn(), secret)
        owned.callback(rest.stop)
        url = owned.enter_context(served(rest.url, keys))
        run_id = done_run(db, sessions)
        rows, bare_s = bare_delete(db, run_id, sessions)
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with backfill.connect(url, keys.service_role) as bf:
            took = measured(bf, run_id)
    print(f"{sessions} sessions, {rows} rows, {os.cpu_count()} processors; rows a second.")
    for name, took_s in {"bare delete": bare_s, **took}.items():
        print(f"{name:24}{rows / took_s:>10.0f}{bare_s / took_s:>8.2f}   {took_s:.1f} s")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the client {peak_mb:.0f} MB, {before_mb:.0f} before")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else SESSIONS)
