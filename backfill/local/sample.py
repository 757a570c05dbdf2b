"""Fill an empty project on this machine with the sample: every migration, then the data."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from backfill.errors import BadRequest
from backfill.targets import migrations
from backfill.targets.declaration import Declaration
from backfill.targets.views import target_sql

if TYPE_CHECKING:
    import psycopg

SEED = "seed"
SEED_CANDIDATES = 39
MOST_DIGITS = 7


def load(dsn: str, sample: str | int) -> None:
    """Migrate an empty database and load the sample into it.

    dsn: logs in as postgres, the role that owns what migrations make.
    sample: "seed", or the wanted number of sessions that need a backfill.
    Raises BadRequest before anything is touched, psycopg.Error with the file's name in a note.
    A file that fails leaves nothing behind. The files before it stay.
    """
    candidates = candidates_of(sample)
    import psycopg  # only the extra [local] brings it

    with psycopg.connect(dsn, autocommit=True) as connection:
        for migration in migrations.all_files():
            _execute(connection, migration)
        connection.execute("select set_config('sample.candidates', %s, false)", [str(candidates)])
        _execute(connection, migrations.seed_file())
        _execute(connection, files("backfill.local") / "settings.sql")


def declare(dsn: str, declared: Declaration) -> None:
    """Declare a target, or declare it anew, in a database on this machine.

    dsn: logs in as postgres. Raises psycopg.Error if the declaration names what is not there.
    """
    import psycopg

    with psycopg.connect(dsn) as connection:
        connection.execute((target_sql(declared) + migrations.RELOAD).encode())


def candidates_of(sample: str | int) -> int:
    """How many sessions of a sample need a backfill: 39 in "seed", else the number itself.

    Raises BadRequest.
    """
    wanted = str(sample).strip()
    if wanted == SEED:
        return SEED_CANDIDATES
    is_number = wanted.isascii() and wanted.isdigit() and len(wanted) <= MOST_DIGITS
    if not is_number or int(wanted) == 0:
        sentence = f"A sample is 'seed' or a number of sessions above 0, not {str(sample)[:40]!r}."
        raise BadRequest(sentence, "backfill local start --sample seed")
    return int(wanted)


def _execute(connection: psycopg.Connection, file: Traversable) -> None:
    """Execute a file in one transaction, or statement by statement if that is impossible."""
    script = file.read_text(encoding="utf-8")
    try:
        if migrations.builds_index_concurrently(script):
            for statement in migrations.statements(script):
                connection.execute(statement.encode())
        else:
            with connection.transaction():
                # one call takes all statements of a file because it passes no parameters
                connection.execute(script.encode())
    except Exception as failure:
        failure.add_note(f"while executing {file.name}")
        raise
