"""What our triggers cost the writes of a target table, beside the same tables without them.

    python -m tests.bench.triggers

Two databases with the same rows on one server, one with ours installed. Every figure is the median
of five rounds, the two sides taking turns. The server does not wait for the disk, so what a write
costs besides the triggers is small and their share of it large.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from backfill.local import sample
from backfill.local.keys import ApiKeys
from backfill.local.parts import find_postgres, open_temp_root
from backfill.local.servers import PostgresServer, RestServer
from backfill.targets import migrations
from tests.kit import verbs

ROUNDS = 5
REQUESTS = 1_000
PGBENCH_S = 3
CLIENTS = 4
ROWS = 50_000
# As a browser's request through the API leaves them: about 1 kB, none of them ours.
HEADERS = json.dumps({"user-agent": "Mozilla/5.0", "apikey": "k" * 440, "authorization": "b" * 480})

BULK = """
insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
select %(session)s::uuid, 'v1.2', 'bench ' || n, '{"Te": 100.0, "Ti": 41.7}', 6
from generate_series(1, %(rows)s) as n
"""
UPSERT = b"""
insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
values (%(session)s::uuid, 'v0', 'bench', '{"Te": 100.0, "Ti": 41.7}', %(place)s)
on conflict (session_id, version, fc_kind) do update set blocks_answered = excluded.blocks_answered
"""
PGBENCH = f"""
\\set n random(1, 1000)
begin;
select set_config('request.headers', '{HEADERS}', true);
insert into public.profiles (session_id, results_version, type_code, payload)
select b.id, 'v1.2.1', 'INTJ', '{{"mean": 3.1}}' from public.bench_sessions as b where b.n = :n
on conflict (session_id) do update set payload = excluded.payload;
commit;
"""


@dataclass(frozen=True)
class Side:
    """One of the two databases."""

    name: str
    server: PostgresServer
    rest: RestServer
    db: psycopg.Connection[Any]
    sessions: Sequence[str]
    token: str


Measure = Callable[[Side], float]


@dataclass(frozen=True)
class Compared:
    """A median without and with ours, in microseconds a row."""

    what: str
    without_us: float
    with_us: float


def compare(
    what: str, sides: Sequence[Side], measure: Measure, other: Measure | None = None
) -> Compared:
    """Measure both sides in turn, the first turn changing; `other` is the second side's measure."""
    taken: dict[str, list[float]] = {side.name: [] for side in sides}
    measures = dict(zip(taken, (measure, other or measure), strict=True))
    for turn in range(ROUNDS):
        for side in sides if turn % 2 else reversed(sides):
            taken[side.name].append(measures[side.name](side))
    without_us, with_us = (statistics.median(figures) * 1e6 for figures in taken.values())
    return Compared(what, without_us, with_us)


def upserts_through_the_api(side: Side) -> float:
    """Seconds of the median request: one row each, over a connection that is kept."""
    connection = http.client.HTTPConnection(side.rest.host, side.rest.port)
    headers = {
        "Authorization": f"Bearer {side.token}",
        "Content-Type": "application/json",
        "Prefer": "resolution=merge-duplicates,return=minimal",
    }
    took_s = []
    for place in range(REQUESTS):
        row = {
            "session_id": side.sessions[place % len(side.sessions)],
            "results_version": "v1.2.1",
            "type_code": "INTJ",
            "payload": {"mean": place},
        }
        began = time.perf_counter()
        connection.request("POST", "/profiles?on_conflict=session_id", json.dumps(row), headers)
        answer = connection.getresponse()
        answer.read()
        took_s.append(time.perf_counter() - began)
        if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.CREATED):
            raise RuntimeError(f"the upsert was answered with {answer.status}")
    connection.close()
    return statistics.median(took_s)


def pgbench(side: Side) -> float:
    """Seconds a transaction of one upsert under 1 kB of headers, by pgbench."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(PGBENCH)
        script.flush()
        command = [str(find_postgres() / "pgbench"), "-n", "-M", "prepared", "-f", script.name]
        command += ["-c", str(CLIENTS), "-j", "2", "-T", str(PGBENCH_S)]
        info = side.db.info
        place = {"PGHOST": side.server.host, "PGPORT": str(side.server.port), "PGUSER": info.user}
        login = {"PGDATABASE": info.dbname, "PGPASSWORD": side.server.secrets.postgres}
        ran = subprocess.run(
            command,
            env={**os.environ, **place, **login},
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"tps = ([\d.]+)", ran.stdout)
    assert found is not None
    return 1 / float(found[1])


def bulk(headers: str) -> Measure:
    """Seconds a row of one statement of 50,000, under these headers."""

    def measure(side: Side) -> float:
        return insert_rows(side.db, headers, side.sessions[0])

    return measure


def insert_rows(db: psycopg.Connection[Any], headers: str, session_id: str) -> float:
    """Seconds a row; nothing stays of it."""
    with db.transaction(force_rollback=True):
        db.execute("select set_config('request.headers', %s, true)", (headers,))
        began = time.perf_counter()
        db.execute(BULK.encode(), {"session": session_id, "rows": ROWS})
        return (time.perf_counter() - began) / ROWS


def upsert_rows(db: psycopg.Connection[Any], headers: str, session_id: str) -> float:
    """Seconds a transaction of one upsert each, the headers set in it as the API does."""
    began = time.perf_counter()
    for place in range(REQUESTS):
        with db.transaction(), db.pipeline():
            db.execute("select set_config('request.headers', %s, true)", (headers,))
            db.execute(UPSERT, {"session": session_id, "place": place})
    return (time.perf_counter() - began) / REQUESTS


def one_by_one(side: Side) -> float:
    """Seconds a transaction of one row, under other headers."""
    return upsert_rows(side.db, HEADERS, side.sessions[0])


def one_by_one_under_a_lease(side: Side) -> float:
    """The same, each with its receipt."""
    with lease(side) as (headers, session_id):
        return upsert_rows(side.db, headers, session_id)


def bulk_under_a_lease(side: Side) -> float:
    """The rows of `bulk`, each with its receipt: a run writes them for the session it leased."""
    with lease(side) as (headers, session_id):
        return insert_rows(side.db, headers, session_id)


@contextmanager
def lease(side: Side) -> Iterator[tuple[str, str]]:
    """The headers under which a run writes, and the session that it leased."""
    run_id = verbs.planned(side.db, throttle_per_minute="none", batch_size=1)
    verbs.approve(side.db, run_id)
    verbs.start(side.db, run_id)
    (grant,) = verbs.claim(side.db, run_id)["granted"]
    ours = {"x-backfill-run": run_id, "x-backfill-fence": grant["fence"]}
    yield json.dumps({**json.loads(HEADERS), **ours}), grant["session_id"]
    verbs.call(side.db, "backfill_cancel", run=run_id, reason="measured")
    side.db.execute(
        "update public.backfill_items set state = 'failed', fence_hash = null"
        " where state = 'leased'"
    )


@contextmanager
def two_sides() -> Iterator[list[Side]]:
    """Without ours and with, on one server, each behind its own PostgREST."""
    with ExitStack() as owned:
        root = owned.enter_context(tempfile.TemporaryDirectory(dir=open_temp_root()))
        Path(root).chmod(0o755)
        server = PostgresServer.start(Path(root) / "data")
        owned.callback(server.stop)
        sides = []
        for name in ("without", "with"):
            server.create_database(name)
            load(server.dsn(name), name == "with")
            db = psycopg.connect(server.dsn(name), autocommit=True, row_factory=dict_row)
            owned.callback(db.close)
            secret = secrets.token_urlsafe(48)
            rest = RestServer.start(server.authenticator_dsn(name), secret)
            owned.callback(rest.stop)
            found = db.execute("select id::text as id from public.bench_sessions order by n")
            sessions = [row["id"] for row in found]
            token = ApiKeys.new(secret).service_role
            sides.append(Side(name, server, rest, db, sessions, token))
        yield sides


def load(dsn: str, with_ours: bool) -> None:
    """The sample, ours where wanted, and 1,000 more sessions in both."""
    if with_ours:
        sample.load(dsn, "seed")
    with psycopg.connect(dsn, autocommit=True) as db:
        if not with_ours:
            db.execute(migrations.all_files()[0].read_text().encode())
            db.execute(migrations.seed_file().read_text().encode())
        db.execute(
            "create table public.bench_sessions as"
            " select n, gen_random_uuid() as id from generate_series(1, 1000) as n;"
            "alter table public.bench_sessions add primary key (n);"
            "insert into public.assessment_sessions (id) select id from public.bench_sessions"
        )
        db.execute("vacuum analyze")


def shown(found: Sequence[Compared]) -> str:
    """The table."""
    lines = [f"{'':52}{'without':>10}{'with':>10}{'ratio':>8}{'added':>10}"]
    lines += [
        f"{c.what:52}{c.without_us:>10.2f}{c.with_us:>10.2f}"
        f"{c.with_us / c.without_us:>8.3f}{c.with_us - c.without_us:>10.2f}"
        for c in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print, in microseconds a row, with the number of processors."""
    with two_sides() as sides:
        for side in sides:
            upserts_through_the_api(side)
        found = [
            compare("upsert of a row through PostgREST", sides, upserts_through_the_api),
            compare("pgbench, upsert under 1 kB of headers", sides, pgbench),
            compare("a row a transaction, 1 kB of headers", sides, one_by_one),
            compare(
                "the same under a lease, a receipt each",
                sides,
                one_by_one,
                one_by_one_under_a_lease,
            ),
            compare(f"{ROWS:,} rows in one statement, no headers", sides, bulk("")),
            compare(f"{ROWS:,} rows, 1 kB of headers", sides, bulk(HEADERS)),
            compare(
                "the same under a lease, a receipt each", sides, bulk(HEADERS), bulk_under_a_lease
            ),
        ]
    print(f"Microseconds a row, medians of {ROUNDS}, {os.cpu_count()} processors.\n{shown(found)}")


if __name__ == "__main__":
    main()
