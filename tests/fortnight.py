"""Leave a project to itself for a fortnight, and print the page about it, a line per day.

python -m tests.fortnight > tests/fortnight.md
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import ExitStack

import psycopg
from psycopg.rows import dict_row

from backfill.local import sample
from backfill.local.servers import PostgresServer, RestServer
from tests.conftest import behind_gateway
from tests.kit.clocks import DatabaseClock
from tests.kit.folders import server_folder
from tests.kit.fortnight import Course, Fortnight, page


def main() -> None:
    """A server of its own, the sample's tables and functions, and the days as they end."""
    folder, jwt_secret = server_folder(), secrets.token_urlsafe(48)
    with ExitStack() as owned:
        owned.callback(shutil.rmtree, folder, ignore_errors=True)
        server = PostgresServer.start(folder / "data")
        owned.callback(server.stop)
        sample.load(server.dsn(), sample.SEED)
        db = owned.enter_context(
            psycopg.connect(server.dsn(), autocommit=True, row_factory=dict_row)
        )
        clock = DatabaseClock(db)
        rest = RestServer.start(server.authenticator_dsn(), jwt_secret)
        owned.callback(rest.stop)
        project = owned.enter_context(behind_gateway(rest, jwt_secret, db, db))
        for line in page(Fortnight(project, clock, Course())):
            print(line, flush=True)


if __name__ == "__main__":
    main()
