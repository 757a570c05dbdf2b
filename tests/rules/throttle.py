"""The throttle: how far batches keep from each other, how many sessions may start, and when."""

from __future__ import annotations

import json

from tests.rules.case import Case, Refusal, Rule
from tests.rules.world import NOW, OTHER_RUN, REQUEST, RUN, item, run_has


def pace(throttle: int | None, batch: int, wanted: float) -> Case:
    request = json.dumps({"throttle_per_minute": throttle, "batch_size": batch})
    query = "select backfill_private.batch_spacing_s(%s)::float"
    return Case(f"{batch} of {throttle}", query, (request,), wanted)


SPACING = Rule(
    "how far batches keep from each other",
    ("batch_spacing_s",),
    (
        pace(20, 5, 15),
        pace(60, 1, 1),
        pace(7, 7, 60),
        pace(7, 3, 30),
        pace(7, 1, 8.571429),
        pace(None, 5, 0),
    ),
)

COUNT_FOUR = (
    "select backfill_private.count_starts(r, 4)::text from public.backfill_runs as r"
    f" where r.run_id = '{RUN}'"
)
NO_BOUND = "update public.backfill_settings set max_throttle_per_minute = null"
ALLOWANCE_OF = f"""
select jsonb_build_array(a.wait_s, a.sessions)
from backfill_private.run_now('{RUN}') as r cross join lateral backfill_private.allowance(r) as a
"""


def started(seconds_ago: float, sessions: int, run: str = RUN) -> str:
    return (
        "insert into backfill_private.starts (run_id, started_at, sessions)"
        f" select '{run}', backfill_private.clock() - interval '{seconds_ago} seconds', {sessions}"
    )


def next_in(seconds: float) -> str:
    return (
        "update public.backfill_runs"
        f" set next_batch_at = backfill_private.clock() + interval '{seconds} seconds'"
        f" where run_id = '{RUN}'"
    )


def allowed(name: str, wait_s: float, *given: str) -> Case:
    return Case(name, ALLOWANCE_OF, (), [wait_s, 5], given)


NO_THROTTLE = run_has(request={**REQUEST, "throttle_per_minute": None})
OF_FIVE = run_has(request={**REQUEST, "throttle_per_minute": 5})
ALLOWANCE = Rule(
    "when the next batch may start",
    ("allowance",),
    (
        allowed("nothing started yet", 0),
        allowed("the distance of batches", 10, next_in(10)),
        allowed("the distance is over", 0, next_in(0)),
        allowed("the distance is long over", 0, next_in(-10)),
        allowed("room for one batch more", 0, started(50, 10), started(30, 5)),
        allowed("no room", 10, started(50, 10), started(30, 6)),
        allowed("no room, all at once", 58.5, started(1.5, 16)),
        allowed("the start of 60 seconds ago is over", 0, started(60, 10), started(30, 6)),
        allowed("that of 59.9 seconds ago is not", 0.1, started(59.9, 10), started(30, 6)),
        allowed("it waits a millisecond at least", 0.001, started(59.9995, 16)),
        allowed("another run's starts", 0, started(30, 16, OTHER_RUN)),
        allowed("no throttle", 0, started(30, 500), NO_THROTTLE),
        allowed("no throttle, the distance of batches", 10, next_in(10), NO_THROTTLE),
        allowed("the distance comes first", 0.5, next_in(0.5), started(30, 16)),
        allowed(
            "a batch as large as the throttle",
            0,
            OF_FIVE,
        ),
        allowed(
            "and one start before it",
            40,
            OF_FIVE,
            started(20, 1),
        ),
    ),
)


def bound(starts: int, *used_s_ago: float) -> tuple[str, ...]:
    """The project's bound, and how long ago some of its starts were taken."""
    return (
        f"update public.backfill_settings set max_throttle_per_minute = {starts}",
        *(
            "update backfill_private.slots set used_at = backfill_private.clock()"
            f" - interval '{seconds} seconds' where slot = (select min(slot) + {n}"
            " from backfill_private.slots)"
            for n, seconds in enumerate(used_s_ago)
        ),
    )


def of_project(name: str, wait_s: float, sessions: int, *given: str) -> Case:
    return Case(name, ALLOWANCE_OF, (), [wait_s, sessions], given)


JUST_NOW = (1.5,) * 5
STARTED_NOW = [item(n, started_at=NOW) for n in (1, 2, 3)]
KEPT = """
select jsonb_agg(nullif(extract(epoch from backfill_private.clock() - s.used_at), 1762084800)
  order by s.used_at desc)
from backfill_private.slots as s
"""
BOUND = Rule(
    "when the project's bound lets a batch start",
    ("allowance", "slots_wait_s", "slots_free_at", "free_slots", "take_slots", "fit_slots"),
    (
        of_project("all free", 0, 5, *bound(20)),
        of_project("room for one batch more", 0, 5, *bound(10, *JUST_NOW)),
        of_project("one too few", 58.5, 5, *bound(9, *JUST_NOW)),
        of_project("once enough of them are free", 40, 5, *bound(7, 1, 20, 20, 30, 30)),
        of_project("that of 60 seconds ago is over", 0, 5, *bound(5, 60)),
        of_project("that of 59.9 seconds ago is not", 0.1, 5, *bound(5, 59.9)),
        of_project("no more than the bound, if that is lower", 0, 3, NO_THROTTLE, *bound(3)),
        of_project("the run's own throttle comes first", 30, 5, started(30, 16), *bound(5, 10)),
        of_project("and no batch at all before its time", 10, 5, next_in(10), *bound(5, 10)),
        Case("a start takes a slot", KEPT, (), [0, 0, 0, 0, None], (*bound(5), COUNT_FOUR)),
        Case("a lower bound keeps the newest", KEPT, (), [1, 2], (*bound(4, 3, 1, 2), *bound(2))),
        Case("a higher adds free ones", KEPT, (), [1, None, None], (*bound(1, 1), *bound(3))),
        Case("a first counts what started", KEPT, (), [0, 0], (*STARTED_NOW, *bound(2))),
        Case(
            "the newest of them",
            KEPT,
            (),
            [10, 20],
            (
                item(1, started_at="2025-11-02T11:59:40Z"),
                item(2, started_at="2025-11-02T11:59:50Z"),
                item(3, started_at="2025-11-02T11:59:30Z"),
                *bound(2),
            ),
        ),
        Case(
            "none of 60 seconds ago",
            KEPT,
            (),
            [None],
            (item(1, started_at="2025-11-02T11:59:00Z"), *bound(1)),
        ),
        Case(
            "one of 59.5",
            KEPT,
            (),
            [59.5],
            (item(1, started_at="2025-11-02T11:59:00.5Z"), *bound(1)),
        ),
        Case(
            "a second bound counts none of them",
            KEPT,
            (),
            [0, None, None],
            (*STARTED_NOW, *bound(1), *bound(3)),
        ),
        Case(
            "what is waited for",
            ALLOWANCE_OF.replace("a.wait_s, a.sessions", "a.wait_for, a.why"),
            (),
            ["throttle", "5 starts per minute of all runs and rehearsals of this project"],
            bound(5, 10),
        ),
        Case("and has the rest free", KEPT, (), [0] * 3 + [None], (*STARTED_NOW, *bound(4))),
        Case(
            "what was not asked for is refused",
            COUNT_FOUR,
            (),
            Refusal(
                "OB015",
                "all 4 starts per minute that this project allows are taken until 12:00:50 UTC",
                "backfill runs --state running",
            ),
            bound(4, 10),
        ),
        Case("no bound, no slots", KEPT, (), None, (*bound(4), NO_BOUND, COUNT_FOUR)),
    ),
)

COUNTED = f"""
select jsonb_build_array(
  (select jsonb_agg(jsonb_build_array(
     extract(epoch from backfill_private.clock() - s.started_at), s.sessions) order by s.started_at)
   from backfill_private.starts as s where s.run_id = '{RUN}'),
  extract(epoch from r.next_batch_at - backfill_private.clock()))
from backfill_private.run_now('{RUN}') as r
"""
COUNT_STARTS = Rule(
    "starts are counted",
    ("count_starts",),
    (
        Case("the first", COUNTED, (), [[[0, 4]], 15], (COUNT_FOUR,)),
        Case(
            "beside the row",
            "select count(*) from backfill_private.tallies",
            (),
            1,
            (COUNT_FOUR,),
        ),
        Case("at the same moment", COUNTED, (), [[[0, 8]], 15], (COUNT_FOUR, COUNT_FOUR)),
        Case(
            "those of ten minutes are kept",
            COUNTED,
            (),
            [[[600, 1], [0, 4]], 15],
            (started(600, 1), started(601, 1), COUNT_FOUR),
        ),
        Case(
            "those of twenty minutes go, older ones with their run",
            COUNTED,
            (),
            [[[1201, 1], [0, 4]], 15],
            (started(1201, 1), started(1200, 1), COUNT_FOUR),
        ),
        Case(
            "another run's are kept",
            f"select count(*) from backfill_private.starts where run_id = '{OTHER_RUN}'",
            (),
            1,
            (started(700, 1, OTHER_RUN), COUNT_FOUR),
        ),
        Case(
            "another run waits for nothing",
            f"select next_batch_at from backfill_private.run_now('{OTHER_RUN}')",
            (),
            None,
            (COUNT_FOUR,),
        ),
    ),
)


def share(name: str, wanted: int, *given: str, but: str | None = None) -> Case:
    return Case(name, "select backfill_private.share_taken(%s)", (but,), wanted, given)


MOST = "update public.backfill_settings set max_throttle_per_minute = 30"
SHARE_TAKEN = Rule(
    "what running runs take of the throttle",
    ("share_taken",),
    (
        share("both", 27),
        share("but for one", 7, but=RUN),
        share("none runs", 0, run_has(state="paused"), run_has(OTHER_RUN, state="paused")),
        share("one without a throttle takes all", 37, MOST, run_has(request={})),
        share("if there is no bound", 7, NO_BOUND, run_has(request={})),
    ),
)


def refused(name: str, throttle: int | None, batch: int, message: str, hint: str) -> Case:
    query = "select backfill_private.check_pace(%s, %s)::text"
    return Case(name, query, (throttle, batch), Refusal("OB013", message, hint), (MOST,))


def is_allowed(name: str, throttle: int | None, batch: int, *given: str) -> Case:
    query = "select backfill_private.check_pace(%s, %s)::text"
    return Case(name, query, (throttle, batch), "", given)


CHECK_PACE = Rule(
    "which pace a project allows",
    ("check_pace",),
    (
        is_allowed("at the bound", 30, 30, MOST),
        is_allowed("below it", 20, 5, MOST),
        is_allowed("no bound, no throttle", None, 500, NO_BOUND),
        refused(
            "above the bound",
            31,
            5,
            "throttle_per_minute 31 is above the 30 that this project allows",
            "backfill plan … --throttle 30",
        ),
        refused(
            "no throttle",
            None,
            5,
            "a throttle of none is not allowed here, at most 30 per minute",
            "backfill plan … --throttle 30",
        ),
        refused(
            "a batch that could never start",
            20,
            21,
            "batch_size 21 is above throttle_per_minute 20: no batch could ever start",
            "backfill plan … --batch-size 20",
        ),
    ),
)

RULES = (SPACING, COUNT_STARTS, ALLOWANCE, BOUND, SHARE_TAKEN, CHECK_PACE)
