"""The rate of a run: what is in force, what the approval covers, what was started already."""

from __future__ import annotations

import json

from tests.rules.case import Case, Refusal, Rule
from tests.rules.throttle import ALLOWANCE_OF, NO_THROTTLE, next_in, share, started
from tests.rules.world import OTHER_RUN, REQUEST, RUN, insert, run_has

HINT = "A higher rate takes a new plan.\nbackfill pace {0} 20\nbackfill plan --like {0} --throttle "


def in_force(name: str, throttle: int | None, pace: int | None, wanted: list[int | None]) -> Case:
    """A case: starts per minute and sessions per batch of a run in batches of five."""
    request = json.dumps({**REQUEST, "throttle_per_minute": throttle})
    query = (
        "select jsonb_build_array((p ->> 'throttle_per_minute')::integer,"
        " (p ->> 'batch_size')::integer) from backfill_private.paced(%s, %s) as p"
    )
    return Case(name, query, (request, pace), wanted)


PACED = Rule(
    "the rate that is in force",
    ("paced",),
    (
        in_force("as approved", 20, None, [20, 5]),
        in_force("lowered", 20, 12, [12, 5]),
        in_force("to one batch a minute", 20, 5, [5, 5]),
        in_force("below a batch, which is cut", 20, 4, [4, 4]),
        in_force("to one", 20, 1, [1, 1]),
        in_force("above what was approved", 20, 21, [20, 5]),
        in_force("approved without a throttle", None, None, [None, 5]),
        in_force("and given one", None, 600, [600, 5]),
        in_force("below a batch", None, 2, [2, 2]),
        Case(
            "the rest of the request stays",
            "select backfill_private.paced(%s, 4)",
            (json.dumps(REQUEST),),
            {**REQUEST, "throttle_per_minute": 4, "batch_size": 4},
        ),
        Case(
            "of a run",
            "select jsonb_agg(backfill_private.rate_of(r) order by r.run_id)"
            " from public.backfill_runs as r",
            (),
            [12, 7],
            (run_has(pace_per_minute=12),),
        ),
        Case(
            "a row cannot have more than was approved",
            "select 1",
            (),
            Refusal(
                "23514",
                'new row for relation "backfill_runs" violates check constraint'
                ' "backfill_runs_pace_approved"',
            ),
            (run_has(pace_per_minute=21),),
        ),
    ),
)


def allowed(name: str, wait_s: float, sessions: int, pace: int, *given: str) -> Case:
    given = (*given, run_has(pace_per_minute=pace))
    return Case(name, ALLOWANCE_OF, (), [wait_s, sessions], given)


ALLOWANCE = Rule(
    "when the next batch may start at a lower rate",
    ("allowance",),
    (
        allowed("nothing started yet", 0, 5, 10),
        allowed("room for one batch more", 0, 5, 10, started(30, 5)),
        allowed("no room", 30, 5, 10, started(30, 6)),
        allowed("what started at the higher rate counts", 10, 5, 10, started(50, 10)),
        allowed("a batch is cut to the rate", 0, 3, 3),
        allowed("and waits for a whole minute", 40, 3, 3, started(20, 1)),
        allowed("the distance of batches", 12, 3, 3, next_in(12)),
        allowed("given to a run without a throttle", 30, 5, 10, NO_THROTTLE, started(30, 6)),
    ),
)
SHARE = Rule(
    "what running runs take of the throttle at a lower rate",
    ("share_taken",),
    (
        share("one is lowered", 15, run_has(pace_per_minute=8)),
        share("one without a throttle is given one", 15, NO_THROTTLE, run_has(pace_per_minute=8)),
    ),
)


def check(name: str, pace: int | None, wanted: object, *given: str) -> Case:
    query = (
        "select backfill_private.check_rate(r, %s)::text from public.backfill_runs as r"
        f" where r.run_id = '{RUN}'"
    )
    return Case(name, query, (pace,), wanted, given)


def below_one(pace: int) -> Refusal:
    return Refusal(
        "OB013",
        f"a rate is a whole number of starts per minute from 1 to 999999999, not {pace}",
        f'To start nothing for a while, pause the run.\nbackfill pause {RUN} --reason "…"',
    )


def beyond(asked: str, throttle: str) -> Refusal:
    return Refusal(
        "OB003",
        f"run {RUN} is approved for 20 starts per minute, and {asked} is more",
        HINT.format(RUN) + throttle,
    )


CHECK_RATE = Rule(
    "which rate an approval covers",
    ("check_rate",),
    (
        check("as approved", 20, ""),
        check("lower", 19, ""),
        check("one", 1, ""),
        check("one more than approved", 21, beyond("21", "21")),
        check("no throttle", None, beyond("no throttle", "none")),
        check("none", 0, below_one(0)),
        check("less", -1, below_one(-1)),
        check("as many as a plan may have", 10**9 - 1, "", NO_THROTTLE),
        check("one that is cut", 10**49, below_one(10**39), NO_THROTTLE),
        check("more than a plan may have", 10**9, below_one(10**9), NO_THROTTLE),
        check("approved without a throttle, any", 100_000, "", NO_THROTTLE),
        check("approved without a throttle, and back", None, "", NO_THROTTLE),
        check("approved without a throttle, but none at all", 0, below_one(0), NO_THROTTLE),
    ),
)


def granted(
    seq: int, seconds_ago: float, sessions: int, run: str = RUN, noted_ago: float = 0
) -> str:
    """An event of the chain: a batch in bulk, which the chain hears of later."""
    at = f"2025-11-02T12:00:00Z'::timestamptz - interval '{seconds_ago} seconds"
    event = insert(
        "public.backfill_events", run_id=run, seq=seq, kind="batch_granted", actor="x",
        details={"sessions": sessions}, prev_hash="", hash=str(seq), at="NOTED",
    )  # fmt: skip
    noted = f"'2025-11-02T12:00:00Z'::timestamptz - interval '{noted_ago} seconds'"
    started_at = f"jsonb_build_object('sessions', {sessions}, 'started_at', '{at}')"
    told = f"'{json.dumps({'sessions': sessions})}'"
    return event.replace("'NOTED'", noted).replace(told, started_at)


COUNT_AGAIN = (
    f"select backfill_private.count_again('{RUN}')",
    "select coalesce(jsonb_agg(jsonb_build_array("
    "extract(epoch from backfill_private.clock() - s.started_at), s.sessions) order by s.started_at"
    "), '[]') from backfill_private.starts as s",
)


def counted(name: str, wanted: list[list[float]], *given: str) -> Case:
    return Case(name, COUNT_AGAIN[1], (), wanted, (*given, COUNT_AGAIN[0]))


COUNTED = Rule(
    "starts of a run without a throttle are counted from its chain",
    ("count_again",),
    (
        counted("none", []),
        counted(
            "each batch at its start", [[50, 3], [10, 4]], granted(1, 50, 3), granted(2, 10, 4)
        ),
        counted("two at one moment", [[10, 7]], granted(1, 10, 3), granted(2, 10, 4)),
        counted("one of 60 seconds ago is over", [], granted(1, 60, 3)),
        counted("one of 59.5 seconds ago is not", [[59.5, 3]], granted(1, 59.5, 3, noted_ago=59.5)),
        counted("nor is one that was noted 60 seconds ago", [], granted(1, 10, 3, noted_ago=60)),
        counted("what was counted is counted anew", [], started(59.5, 2)),
        counted("but what is over", [[60, 2]], started(60, 2)),
        counted("one that was noted long ago", [], granted(1, 70, 3, noted_ago=65)),
        counted("another run's", [], granted(1, 10, 3, OTHER_RUN)),
        counted("none is counted twice", [[10, 3]], started(10, 3), granted(1, 10, 3)),
        counted("older ones are kept", [[90, 2], [10, 3]], started(90, 2), granted(1, 10, 3)),
        counted("another run's are kept", [[10, 2]], started(10, 2, OTHER_RUN)),
        counted(
            "a batch call by call has its own time",
            [[0, 3]],
            granted(1, 10, 3),
            "alter table public.backfill_events disable trigger user",
            "update public.backfill_events set details = details - 'started_at'",
        ),
    ),
)


def pace(name: str, asked: int | None, wanted: object, *given: str) -> Case:
    return Case(
        name, "select backfill_private.pace(%s, %s) - 'run_id'", (RUN, asked), wanted, given
    )


def left(name: str, asked: int | None, wanted: object, *given: str) -> Case:
    """A case: the rate of its own that the run has, and the seconds to its next batch."""
    query = (
        "select jsonb_build_array(r.pace_per_minute, extract(epoch from r.next_batch_at"
        f" - backfill_private.clock())) from backfill_private.run_now('{RUN}') as r"
    )
    return Case(name, query, (), wanted, (*given, _paced(asked)))


def told(name: str, asked: int | None, wanted: object, *given: str) -> Case:
    """A case: what the chain tells of it."""
    query = (
        "select jsonb_agg(jsonb_build_array(e.kind, e.details)) from public.backfill_events as e"
    )
    return Case(name, query, (), wanted, (*given, _paced(asked)))


def _paced(asked: int | None) -> str:
    return f"select backfill_private.pace('{RUN}', {'null' if asked is None else asked})"


def said(
    was: int | None, now: int | None, approved: int | None = 20, state: str = "running"
) -> object:
    return {"state": state, "was": was, "per_minute": now, "approved": approved}


LOWERED = run_has(pace_per_minute=10)
BEYOND = "update public.backfill_settings set max_throttle_per_minute = 8"
PACE = Rule(
    "the rate of a run is set",
    ("pace",),
    (
        pace("lowered", 10, said(20, 10)),
        pace("raised again", 20, said(10, 20), LOWERED),
        pace("raised in part", 15, said(10, 15), LOWERED),
        pace("to what it is", 10, said(10, 10), LOWERED),
        pace(
            "before it starts", 10, said(20, 10, state="approved"),
            "alter table public.backfill_runs disable trigger user", run_has(state="approved"),
        ),
        pace("to what it is, beyond the bound", 10, said(10, 10), LOWERED, BEYOND),
        pace("given to one, beyond the bound", 10, said(None, 10, None), NO_THROTTLE, BEYOND),
        pace("while it is paused", 10, said(20, 10, state="paused"), run_has(state="paused")),
        pace("given to one without", 10, said(None, 10, None), NO_THROTTLE),
        pace("and taken back", None, said(10, None, None), NO_THROTTLE, LOWERED),
        pace(
            "raised beyond the project's bound",
            20,
            Refusal(
                "OB015",
                "running runs take 7 of the 20 starts per minute that this project allows",
                "Wait for the other runs, or lower one.\nbackfill runs --state running",
            ),
            LOWERED,
            "update public.backfill_settings set max_throttle_per_minute = 20",
        ),
        pace(
            "lowered while the runs are beyond it",
            18,
            said(20, 18),
            "update public.backfill_settings set max_throttle_per_minute = 20",
        ),
        left("as approved is no rate of its own", 20, [None, None], LOWERED),
        left("the distance of a lower rate", 10, [10, 20], started(10, 5), next_in(5)),
        left("of a higher", 20, [None, 5], LOWERED, started(10, 5), next_in(20)),
        left("of the last of several", 5, [5, 50], started(25, 5), started(10, 5)),
        left("no start, no distance", 10, [10, 5], next_in(5)),
        told("who is told", 10, [["paced", {"from": 20, "to": 10, "approved": 20}]]),
        told(
            "without a throttle", None,
            [["paced", {"from": 10, "to": None, "approved": None}]], NO_THROTTLE, LOWERED,
        ),
        told("nothing changed, nothing told", 10, None, LOWERED),
    ),
)  # fmt: skip

RULES = (PACED, ALLOWANCE, SHARE, CHECK_RATE, COUNTED, PACE)
