"""What the project's owner does while a run is under way, again and again: the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, cycle
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

import backfill
from backfill.local import sample
from backfill.local.gateway import gateway_in_thread
from backfill.local.keys import ApiKeys
from backfill.targets.declaration import PRISM, declared
from tests.faults.processes import applying
from tests.faults.proxy import SCORING, Call, Nth, Strike, meanwhile
from tests.faults.scenario import MIDWAY, Scene
from tests.faults.stack import Stack
from tests.faults.subjects import IN_SQL
from tests.kit.whole import NIGHTLY, examples

Db = psycopg.Connection[Any]
EVERY = examples(6, at_a_push=20)  # scoring calls from one act to the next
OURS = ("backfill_runs", "backfill_items", "backfill_receipts", "backfill_events")
TABLES = ("fc_scores", "profiles", *OURS)
SCORERS = "select pg_get_functiondef(p.oid) as text from pg_proc as p where p.proname like 'score%'"
READ_ONLY = "alter database {0} set default_transaction_read_only = on"
WRITABLE = "alter database {0} reset default_transaction_read_only"
# For the owner's own work in between.
WRITES = "?options=-c%20default_transaction_read_only%3Doff"
END = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where datname = current_database() and usename = 'authenticator' and state = 'idle'"
)


def rewrite(scene: Scene, db: Db) -> None:
    """Targets and our tables get new files, frozen and in the order of their keys."""
    for table in TABLES:
        db.execute(f"vacuum (full, freeze, analyze) public.{table}".encode())
        db.execute(f"cluster public.{table} using {table}_pkey".encode())
        db.execute(f"reindex table public.{table}".encode())


def push(scene: Scene, db: Db) -> None:
    """The migration of the target and its functions, as they stand."""
    for row in db.execute(SCORERS.encode()).fetchall():
        db.execute(row["text"].encode())
    sample.declare(scene.dsn + WRITES, declared(PRISM))


def reload(scene: Scene, db: Db) -> None:
    """The API reads the schema, and its settings."""
    db.execute(b"notify pgrst, 'reload schema'")
    db.execute(b"notify pgrst, 'reload config'")


def read_only(scene: Scene, db: Db) -> None:
    """Transactions are read-only by default, in new connections too."""
    db.execute(READ_ONLY.format(db.info.dbname).encode())
    db.execute(END.encode())


ACTS: dict[str, Callable[[Scene, Db], None]] = {
    "tables are rewritten": rewrite,
    "the target's migration is pushed": push,
    "the API reads its schema": reload,
    "transactions are read-only by default": read_only,
}


def every(number: int) -> Callable[[Call], bool]:
    """Each scoring call whose place among them divides."""
    places = count(1)
    return lambda call: call.function in SCORING and next(places) % number == 0


@contextmanager
def acting(scene: Scene, *acts: Callable[[Scene, Db], None]) -> Iterator[list[str]]:
    """The owner acts at each of some scoring calls, in turn; the names of what was done."""
    turns, done = cycle(acts), list[str]()

    def act() -> None:
        with psycopg.connect(scene.dsn + WRITES, autocommit=True, row_factory=dict_row) as db:
            chosen = next(turns)
            chosen(scene, db)
        done.append(chosen.__name__)
        scene.struck()

    scene.proxy.strikes = [Strike(meanwhile(act), every(EVERY))]
    try:
        yield done
    finally:
        scene.proxy.strikes = []
        scene.project.db.execute(WRITABLE.format(scene.project.db.info.dbname).encode())


@IN_SQL
def test_a_run_goes_on_whatever_the_owner_does(scene: Scene) -> None:
    """One after the other, beside the calls: no session fails, and nobody applies again."""
    run_id = scene.planned()
    with acting(scene, *ACTS.values()) as done:
        assert scene.apply(run_id).is_complete
    assert set(done) == {act.__name__ for act in ACTS.values()}
    assert scene.outcomes()["session"] == 0
    scene.ends_as_undisturbed("the owner at work", run_id)


@NIGHTLY
@IN_SQL
@pytest.mark.parametrize("act", ACTS)
def test_a_run_goes_on_while_the_owner_does_one_thing(scene: Scene, act: str) -> None:
    """The same thing thirty times and more, one by one and in bulk."""
    run_id = scene.planned()
    with acting(scene, ACTS[act]) as done:
        assert scene.apply(run_id).is_complete
    assert len(done) > 30
    scene.ends_as_undisturbed(f"again and again: {act}", run_id)


@IN_SQL
def test_a_run_goes_on_with_the_new_key_after_its_secret_was_changed(
    scene: Scene, stack: Stack
) -> None:
    """The old key is refused in the middle, with where the new one is and how to go on."""
    run_id = scene.planned()
    made: list[ApiKeys] = []

    def rotate() -> None:
        made.append(stack.rotate_secret())
        scene.struck()

    scene.proxy.strikes = [Strike(meanwhile(rotate), Nth(SCORING, MIDWAY))]
    with applying(scene, run_id, "with the old key") as worker:
        assert worker.ended() == 5
        assert worker.said().endswith(
            "127.0.0.1 does not accept this key\n"
            "  Next: take the secret key from the project's settings, API keys, into"
            f" SUPABASE_SECRET_KEY, then: backfill apply {run_id}\n"
        )
    [keys] = made
    with gateway_in_thread(stack.rest.url, keys) as gateway:
        scene.proxy.upstream = gateway.url
        with pytest.raises(backfill.BadKey):
            scene.apply(run_id)
        scene.project = replace(scene.project, url=gateway.url, keys=keys)
        assert scene.apply(run_id).is_complete
        found = scene.recorded("the JWT secret changed")
        assert (found.lost, found.twice) == (0, 0)
        with scene.project.connect() as bf:
            assert bf.verify(run_id).verdict == "pass"
