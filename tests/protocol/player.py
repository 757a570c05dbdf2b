"""Play the steps of a counterexample on a real database, up to the one that a safeguard holds up.

Each scoring call and each verb is a transaction on a connection of its own, so the steps come in
the model's order. The sessions of the model are those of the plan, a row is a step of a session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock

CLAIM = "select public.backfill_claim(%s, %s, 'worker')"
SETTLE = "select public.backfill_settle(%s, %s, %s)"
TAKE_BACK = """
select backfill_private.take_leases_back(r.run_id) from backfill_private.caught_up_run(%s) as r
"""
CONFIRM = "select public.backfill_confirm_undo(%s, %s, 'played')"
EDIT = "update public.fc_scores set scores_json = '{\"edited\": 1}' where session_id = %s"
DECIDING = r"(worker (?P<worker>\d) settles|others release|others take back) {}\b"
LONGER_THAN_A_LEASE_S, LONGER_THAN_A_BACK_OFF_S = 61, 2


class HeldUp(Exception):
    """What the database did instead of the step: its error's code, or a word of ours."""


@dataclass
class Verb:
    """A transaction of its own that has been begun and not yet committed."""

    connection: psycopg.Connection[Any]
    answer: Future[Any]


@dataclass
class Worker:
    """What a worker holds, and whether it knows how its call went."""

    claim_id: str = ""
    grant: dict[str, Any] = field(default_factory=dict)
    call: psycopg.Connection[Any] | None = None
    outcome: str = "answered"
    asking: Verb | None = None


class Player:
    """A run of the model's size, and its players."""

    def __init__(
        self, dsn: str, project: Project, timed: backfill.Backfill, clock: DatabaseClock
    ) -> None:
        self._dsn, self._project, self._timed, self._clock = dsn, project, timed, clock
        self._stack, self._pool = ExitStack(), ThreadPoolExecutor(4)
        self._connections: list[psycopg.Connection[Any]] = []
        self._workers = {"1": Worker(), "2": Worker()}
        self._late: psycopg.Connection[Any] | None = None
        self._verb: Verb | None = None
        self._run_id = ""
        self._is_in_parts = False
        self._ahead: Sequence[str] = ()

    def play(self, run_id: str, steps: Sequence[str], *, is_in_parts: bool) -> tuple[str, str]:
        """Play as many steps as happen. Returns the one that does not and why, or ("", "").

        is_in_parts: a row of the model is one step of a session. Else it is all of them
        """
        self._run_id, self._is_in_parts = run_id, is_in_parts
        try:
            for place, step in enumerate(steps):
                self._ahead = steps[place:]
                try:
                    self._play(step)
                except HeldUp as how:
                    return step, str(how)
                except psycopg.Error as error:
                    return step, str(error.sqlstate)
            return "", ""
        finally:
            self._close()

    def _play(self, step: str) -> None:
        for pattern, play in self._plays().items():
            found = re.fullmatch(pattern, step)
            if found:
                play(*found.groups())
                return
        raise AssertionError(f"nobody plays {step!r}")

    def _plays(self) -> dict[str, Callable[..., None]]:
        return {
            r"worker (\d) asks for (\d)": self._ask,
            r"worker (\d) claims (\d)": self._claim,
            r"worker (\d) writes row (\d) of \d": self._write,
            r"worker (\d) commits row \d of \d": self._commit,
            r"worker (\d) hears nothing of \d": self._hear_nothing,
            r"worker (\d) leaves its call of \d": self._leave,
            r"a late call commits row \d of \d": self._commit_late,
            r"receipts of (\d) are read": self._read,
            r"(?:worker \d settles|others release|others take back) (\d): (\w+)": self._settled,
            r"others pause": self._pause,
            r"others look at (\d)": self._look,
            r"others edit (\d)": self._edit,
            r"others undo (\d)": self._undo,
            r"time ends lease \d": self._end_lease,
        }

    # Transactions -----------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[Any]:
        connection = self._stack.enter_context(psycopg.connect(self._dsn, row_factory=dict_row))
        self._connections.append(connection)
        return connection

    def _begin(self, statement: str, *values: object) -> Verb:
        """Execute a statement and keep its transaction open."""
        connection = self._connect()

        def execute() -> Any:
            row = connection.execute(statement.encode(), values)
            return next(iter((row.fetchone() or {"": None}).values())) if row.description else None

        verb = Verb(connection, self._pool.submit(execute))
        pid = connection.info.backend_pid
        while not verb.answer.done():
            if self._project.value("select cardinality(pg_blocking_pids(%s))", pid):
                raise HeldUp("waits")
        verb.answer.result()
        return verb

    def _end(self, verb: Verb | None) -> Any:
        assert verb is not None
        verb.connection.commit()
        return verb.answer.result()

    def _close(self) -> None:
        for connection in self._connections:
            connection.cancel()
        self._pool.shutdown()
        for connection in self._connections:
            connection.rollback()
        self._stack.close()

    # A worker ---------------------------------------------------------------------------------

    def _ask(self, worker: str, _session: str) -> None:
        self._workers[worker] = Worker(claim_id=str(uuid4()))
        self._workers[worker].asking = self._begin(
            CLAIM, self._run_id, self._workers[worker].claim_id
        )

    def _claim(self, worker: str, session: str) -> None:
        granted = self._end(self._workers[worker].asking)["granted"]
        if [g["ordinal"] for g in granted] != [int(session) + 1]:
            raise HeldUp(f"granted {[g['ordinal'] for g in granted]}")
        self._workers[worker].grant = granted[0]

    def _write(self, worker: str, row: str) -> None:
        me = self._workers[worker]
        steps = me.grant["steps"]
        if self._is_in_parts:
            steps = [s for s in steps if s["component"] == self._components()[int(row) - 1]]
        if not steps:
            raise HeldUp("it is no step")
        me.call = self._connect()
        said = {"x-backfill-run": self._run_id, "x-backfill-fence": me.grant["fence"]}
        me.call.execute("select set_config('request.headers', %s, true)", (json.dumps(said),))
        for step in steps:
            names = ", ".join(f"{name} => %({name})s" for name in step["arguments"])
            call = f"select public.{step['function']}({names})"
            me.call.execute(call.encode(), step["arguments"])

    def _components(self) -> list[str]:
        found: list[str] = self._project.value(
            "select components from public.backfill_items where run_id = %s and ordinal = 1",
            self._run_id,
        )
        return found

    def _commit(self, worker: str) -> None:
        call = self._workers[worker].call
        assert call is not None
        call.commit()

    def _hear_nothing(self, worker: str) -> None:
        self._workers[worker].outcome = "unknown"

    def _leave(self, worker: str) -> None:
        self._late = self._workers[worker].call
        self._workers[worker].outcome = "unknown"

    def _commit_late(self) -> None:
        assert self._late is not None
        self._late.commit()

    # Who decides ------------------------------------------------------------------------------

    def _read(self, session: str) -> None:
        """Begin what decides about the session next."""
        decides = next(m for s in self._ahead if (m := re.match(DECIDING.format(session), s)))
        if decides["worker"]:
            me = self._workers[decides["worker"]]
            told = [{"ordinal": int(session) + 1, "outcome": me.outcome}]
            self._verb = self._begin(SETTLE, self._run_id, me.claim_id, json.dumps(told))
        elif "release" in decides[0]:
            other = self._timed.plan(since="2025-08-01", rehearse=0, environment="staging")
            self._verb = self._begin(CLAIM, other.run_id, str(uuid4()))
        else:
            self._verb = self._begin(TAKE_BACK, self._run_id)

    def _settled(self, session: str, state: str) -> None:
        self._end(self._verb)
        found = self._project.value(
            "select state from public.backfill_items where run_id = %s and ordinal = %s",
            self._run_id,
            int(session) + 1,
        )
        if found != state.lower():
            raise HeldUp(f"it is {found}")
        self._clock.advance(LONGER_THAN_A_BACK_OFF_S)

    def _pause(self) -> None:
        self._end(self._begin("select public.backfill_pause(%s, 'played')", self._run_id))

    def _look(self, session: str) -> None:
        effect = self._timed.rollback(self._run_id, sessions=[self._session(session)]).effect
        self._verb = self._begin(CONFIRM, self._run_id, effect.digest)

    def _undo(self, session: str) -> None:
        self._end(self._verb)
        if self._rows(session):
            raise HeldUp("it stays")

    def _edit(self, session: str) -> None:
        self._end(self._begin(EDIT, self._session(session)))

    def _session(self, session: str) -> str:
        found: str = self._project.value(
            "select session_id from public.backfill_items where run_id = %s and ordinal = %s",
            self._run_id,
            int(session) + 1,
        )
        return found

    def _rows(self, session: str) -> int:
        found: int = self._project.value(
            "select count(*) from public.fc_scores where session_id = %s and version = 'v1.2'",
            self._session(session),
        )
        return found

    def _end_lease(self) -> None:
        self._clock.advance(LONGER_THAN_A_LEASE_S)
