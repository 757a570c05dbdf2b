"""What load of the database lets nothing start."""

from __future__ import annotations

import json

from tests.rules.case import Case, Rule
from tests.rules.throttle import ALLOWANCE_OF, bound, next_in, started
from tests.rules.world import OTHER_RUN, RUN, insert, stand_in

FINE = {
    "waiting_locks": 0,
    "transaction_s": 1.5,
    "replication_s": None,
    "connections_percent": 12.5,
}
SETTINGS = """update public.backfill_settings set max_waiting_locks = 2,
  max_transaction_age = '1 minute', max_replication_lag = '2.5 seconds',
  max_connections_percent = 80"""
OFF = """update public.backfill_settings set max_waiting_locks = null,
  max_transaction_age = null, max_replication_lag = null, max_connections_percent = null"""
ONE = "update public.backfill_settings set max_waiting_locks = 2"
LOCKS = "3 connections wait for locks on its tables, at most 2 may"
OLD = "a transaction has been open for 60.1 s, at most 60 s are allowed"
LAGS = "a replica lags 2.6 s behind, at most 2.5 s are allowed"
FULL = "80.1 % of the connections are in use, at most 80 % may be"


def seen(name: str, wanted: str | None, *given: str, **load: float | None) -> Case:
    query = "select backfill_private.too_much(s, %s) from public.backfill_settings as s"
    return Case(name, query, (json.dumps({**FINE, **load}),), wanted, given or (SETTINGS,))


TOO_MUCH = Rule(
    "which load is too much",
    ("too_much",),
    (
        seen("none", None),
        seen("as many locks as may wait", None, waiting_locks=2),
        seen("one more", LOCKS, waiting_locks=3),
        seen(
            "one where none may",
            "1 connection waits for locks on its tables, at most 0 may",
            "update public.backfill_settings set max_waiting_locks = 0",
            waiting_locks=1,
        ),
        seen("a transaction as old as it may be", None, transaction_s=60),
        seen("an older one", OLD, transaction_s=60.1),
        seen("no transaction", None, transaction_s=None),
        seen("a lag as long as it may be", None, replication_s=2.5),
        seen("a longer one", LAGS, replication_s=2.6),
        seen("as many connections as may be", None, connections_percent=80),
        seen("more", FULL, connections_percent=80.1),
        seen(
            "all of it", "; ".join((LOCKS, OLD, LAGS, FULL)), waiting_locks=3, transaction_s=60.1,
            replication_s=2.6, connections_percent=80.1,
        ),
        seen(
            "no threshold", None, OFF, waiting_locks=999, transaction_s=9e9, replication_s=9e9,
            connections_percent=100,
        ),
    ),
)  # fmt: skip


def load(**much: float) -> str:
    """A stand-in for the look, which says this."""
    said = json.dumps({**FINE, **much})
    return stand_in("load_seen(p_target text)", "jsonb", f"select '{said}'::jsonb")


BROKEN = stand_in("load_seen(p_target text)", "jsonb", "select (1 / 0)::text::jsonb")
BUSY = load(waiting_locks=3)


def looked(seconds_ago: float, reason: str | None, run: str = RUN) -> str:
    at = f"backfill_private.clock() - interval '{seconds_ago} seconds'"
    row = insert("backfill_private.health", run_id=run, looked_at="AT", reason=reason)
    return row.replace("'AT'", at)


def unwell(name: str, wanted: str | None, *given: str) -> Case:
    query = (
        f"select backfill_private.unwell(r) from public.backfill_runs as r where r.run_id = '{RUN}'"
    )
    return Case(name, query, (), wanted, (SETTINGS, *given))


UNWELL = Rule(
    "whether the database is well enough to start anything",
    ("unwell",),
    (
        unwell("it is", None, load()),
        unwell("it is not", LOCKS, BUSY),
        unwell("nothing is looked at", None, BUSY, OFF),
        unwell("one thing is", LOCKS, BUSY, OFF, ONE),
        unwell("the look of a second ago is another", LOCKS, BUSY, looked(1.001, None)),
        unwell("a younger one counts", "x", BUSY, looked(1, "x")),
        unwell("and if it was well", None, BUSY, looked(0, None)),
        unwell("one of a clock that was set back does not", LOCKS, BUSY, looked(-0.001, None)),
        unwell("another run's does not", LOCKS, BUSY, looked(0, None, OTHER_RUN)),
        unwell("a look that fails says nothing", None, BROKEN, looked(5, "x")),
        Case(
            "what it said is kept",
            "select jsonb_build_array(h.reason, h.looked_at = backfill_private.clock())"
            " from backfill_private.health as h",
            (),
            [LOCKS, True],
            (SETTINGS, BUSY, "select backfill_private.unwell(r) from public.backfill_runs as r"
             f" where r.run_id = '{RUN}'"),
        ),
        Case(
            "one that fails is kept too",
            "select jsonb_build_array(h.reason, h.looked_at = backfill_private.clock())"
            " from backfill_private.health as h",
            (),
            [None, True],
            (SETTINGS, BROKEN, "select backfill_private.unwell(r) from public.backfill_runs as r"
             f" where r.run_id = '{RUN}'"),
        ),
        *(
            Case(
                f"one of {ago} s ago is {'not ' if told is None else ''}told",
                "select backfill_private.unwell_lately(%s)", (RUN,), told, (looked(ago, "x"),),
            )
            for ago, told in ((9.9, "x"), (10, None))
        ),
    ),
)  # fmt: skip
ALLOWED = ALLOWANCE_OF.replace("a.sessions", "a.wait_for, a.why")


def allowed(name: str, wanted: list[object], *given: str) -> Case:
    return Case(name, ALLOWED, (), wanted, (SETTINGS, *given))


THROTTLE = "20 starts per minute"
ALLOWANCE = Rule(
    "health comes between the throttle and the project's bound",
    ("allowance",),
    (
        allowed("well", [0, "throttle", THROTTLE], load()),
        allowed("not well", [2, "health", LOCKS], BUSY),
        allowed("not yet", [10, "throttle", THROTTLE], BUSY, next_in(10)),
        allowed("no room", [30, "throttle", THROTTLE], BUSY, started(30, 16)),
        allowed("before slots are taken", [2, "health", LOCKS], BUSY, *bound(20, *[1.0] * 20)),
    ),
)

RULES = (TOO_MUCH, UNWELL, ALLOWANCE)
