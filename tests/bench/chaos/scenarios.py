"""The five disturbances, each at set shares of the work, whoever does it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg

from tests.bench.chaos.crew import Crew
from tests.bench.chaos.stand import Stand

EXHAUSTED_S = 5.0
Strike = Callable[[Stand, Crew, int], None]


@dataclass(frozen=True)
class Scenario:
    """at: the shares of all calls that were committed when it strikes.

    of_one: it strikes the worker in turn, once that one is at work.
    """

    name: str
    says: str
    strike: Strike
    at: Sequence[float]
    of_one: bool = False


def _restart(stand: Stand, _crew: Crew, _number: int) -> None:
    stand.restart(signal.SIGINT)


def _kill_backends(stand: Stand, _crew: Crew, _number: int) -> None:
    stand.kill_backends()


def _exhaust(stand: Stand, _crew: Crew, _number: int) -> None:
    """Others take what is free, then what the workers and the API had, and keep all of it."""
    with ExitStack() as taken:
        ends_at, has_struck = time.monotonic() + EXHAUSTED_S, False
        while time.monotonic() < ends_at:
            try:
                taken.enter_context(psycopg.connect(stand.dsn))
            except psycopg.OperationalError:
                if has_struck:
                    time.sleep(0.01)
                else:
                    _kick_out(stand)
                    has_struck = True


def _kick_out(stand: Stand) -> None:
    """End the workers' and the API's backends, so that they need connections that nobody has."""
    stand.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where backend_type = 'client backend' and usename <> 'supabase_admin'"
        " and (usename = 'authenticator' or query <> '')"
    )


def _crash(stand: Stand, crew: Crew, _number: int) -> None:
    crew.kill_all()
    stand.restart(signal.SIGQUIT)


def _kill_a_worker(_stand: Stand, crew: Crew, number: int) -> None:
    crew.kill(number)


def _shares(times: int) -> list[float]:
    return [number / (times + 1) for number in range(1, times + 1)]


UNDISTURBED = Scenario("undisturbed", "undisturbed", _kill_backends, ())
SCENARIOS = [
    Scenario("restart", "PostgreSQL restarted", _restart, _shares(3)),
    Scenario("backends", "all backends killed", _kill_backends, _shares(5)),
    Scenario("exhausted", "no connection left for 5 s", _exhaust, _shares(1)),
    Scenario("crash", "PostgreSQL and workers killed", _crash, _shares(3)),
    Scenario("again", "a worker killed, again and again", _kill_a_worker, _shares(20), True),
]
