"""What is disturbed: PostgreSQL, PostgREST, a gateway, and scorers that note their calls."""

from __future__ import annotations

import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from backfill.local import sample
from backfill.local.keys import ApiKeys
from backfill.local.parts import open_temp_root
from backfill.local.processes import end_process
from backfill.local.servers import SUPERUSER, PostgresServer, RestServer
from tests.bench.stage import CHEAP, gateway

FUNCTIONS = ("score_fc_session", "score_prism")
LOG = b"""
create table public.chaos_log (session_id uuid not null, function text not null);
grant insert on public.chaos_log to service_role;
"""
# Both rows of a session, noted in the transactions that wrote them.
SCORED = """
select f.session_id::text as id from public.fc_scores as f
join public.profiles as p on p.session_id = f.session_id
where f.session_id = any (%s::uuid[]) and f.version = 'v1.2'
"""
TWICE = """
select count(distinct session_id) as found from (
  select session_id from public.chaos_log group by session_id, function having count(*) > 1
) as again
"""


def _noting(scorers: str) -> str:
    for name in FUNCTIONS:
        head = f"public.{name}("
        before, after = scorers.split(head)
        note = f"as $$ begin insert into public.chaos_log values ($1, '{name}');"
        scorers = before + head + after.replace("as $$ begin", note, 1)
    return scorers


@dataclass
class Stand:
    """The servers, each of which may go away. `db` is the superuser's, and is never a victim."""

    server: PostgresServer
    url: str
    key: str
    root: Path
    sessions: list[str]
    db: psycopg.Connection[Any]

    @property
    def dsn(self) -> str:
        """Where the owner of the database logs in."""
        return self.server.dsn()

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """What the superuser is answered."""
        return self.db.execute(query.encode(), values).fetchall()

    def value(self, query: str, *values: object) -> Any:
        """The one value of the one row."""
        (row,) = self.rows(query, *values)
        (value,) = row.values()
        return value

    def restart(self, number: signal.Signals) -> None:
        """PostgreSQL ends by this signal and is back: SIGINT is `fast`, SIGQUIT `immediate`."""
        self.db.close()
        old = self.server
        end_process(old.process, number)
        self.server = PostgresServer.start(old.data_dir, port=old.port, secrets=old.secrets)
        self.db = _admin(self.server)

    def kill_backends(self) -> int:
        """End every backend of a client but our own. How many were in a transaction."""
        victims = self.rows(
            "select xact_start is not null as busy, pg_terminate_backend(pid) as ended"
            " from pg_stat_activity where backend_type = 'client backend' and usename <> %s",
            SUPERUSER,
        )
        return sum(victim["busy"] for victim in victims)

    def calls(self) -> int:
        """Committed calls, repeated ones too."""
        return int(self.value("select count(*) from public.chaos_log"))

    def scored(self) -> set[str]:
        """The sessions that have both rows."""
        return {row["id"] for row in self.rows(SCORED, self.sessions)}

    def twice(self) -> int:
        """How many sessions had a call committed more than once."""
        return int(self.value(TWICE))

    def clear(self) -> None:
        """Take every scored row back, without a trace."""
        for table in ("fc_scores", "profiles"):
            self.rows(
                f"delete from public.{table} where session_id = any (%s::uuid[]) returning 1",
                self.sessions,
            )
        self.db.execute("truncate public.chaos_log")


def _admin(server: PostgresServer) -> psycopg.Connection[Any]:
    return psycopg.connect(server.superuser_dsn(), autocommit=True, row_factory=dict_row)


@contextmanager
def stand(sessions: int) -> Iterator[Stand]:
    """So many candidates behind PostgREST and a gateway."""
    with ExitStack() as owned:
        root = Path(owned.enter_context(tempfile.TemporaryDirectory(dir=open_temp_root())))
        root.chmod(0o755)
        server = PostgresServer.start(root / "data")
        owned.callback(lambda: made.server.stop())
        sample.load(server.dsn(), sessions)
        with psycopg.connect(server.dsn(), autocommit=True) as owner:
            owner.execute(LOG)
            owner.execute(_noting(CHEAP).encode())
        secret = secrets.token_urlsafe(48)
        keys = ApiKeys.new(secret)
        made = Stand(server, "", keys.service_role, root, [], _admin(server))
        owned.callback(lambda: made.db.close())
        rest = RestServer.start(server.authenticator_dsn(), secret)
        owned.callback(rest.stop)
        made.url, _ = owned.enter_context(gateway(root, rest, keys))
        with psycopg.connect(server.dsn(), autocommit=True) as owner:
            found = owner.execute(
                "select session_id::text from public.backfill_candidates order by created_at"
            )
            made.sessions = [row[0] for row in found][:sessions]
        yield made
