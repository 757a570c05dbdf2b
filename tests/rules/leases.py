"""Which sessions come next, at what pace, and whether in bulk."""

from __future__ import annotations

import json
from typing import Any

from tests.rules.case import Case, Refusal, Rule
from tests.rules.world import NOW, OTHER_RUN, REQUEST, RUN, item, run_has, stand_in

LATER, EARLIER = "2025-11-02T12:00:01Z", "2025-11-02T11:59:59Z"


def phase(name: str, wanted: str | None, *given: str) -> Case:
    return Case(name, f"select backfill_private.pending_phase('{RUN}')", (), wanted, given)


FIRST = item(1, phase="priority", not_before=LATER)
PENDING_PHASE = Rule(
    "the phase of the next batch",
    ("pending_phase",),
    (
        phase("nothing is left", None, item(1, state="done"), item(2, run=OTHER_RUN)),
        phase("the canary", "priority", item(1, phase="priority"), item(2)),
        phase("the canary, whatever it waits for", "priority", FIRST, item(2)),
        phase(
            "the canary is set aside",
            "priority",
            item(1, phase="priority", trial="aside"),
            item(2),
        ),
        phase(
            "the canary of another run backs off",
            "recent",
            item(1, run=OTHER_RUN, phase="priority", not_before=LATER),
            item(2),
        ),
        phase(
            "the canary is done and had backed off",
            "recent",
            item(1, phase="priority", state="done", not_before=LATER),
            item(2),
        ),
        phase("the canary is done", "recent", item(1, phase="priority", state="done"), item(2)),
        phase(
            "a session that backs off holds nobody up",
            "historical",
            item(1, not_before=LATER),
            item(2, phase="historical"),
        ),
        phase(
            "all back off",
            "recent",
            item(1, not_before=LATER),
            item(2, phase="historical", not_before=LATER),
        ),
        phase(
            "the wait is over",
            "recent",
            item(1, not_before=NOW),
            item(2, phase="historical"),
        ),
        phase(
            "the first of those that wait",
            "recent",
            item(3, phase="historical"),
            item(2),
            item(1, state="leased", phase="priority"),
        ),
        phase(
            "and the first of those that are ready",
            "recent",
            item(4, phase="historical"),
            item(3),
            item(2, phase="historical", not_before=LATER),
            item(1, run=OTHER_RUN, phase="priority"),
        ),
        *(
            phase(
                f"the first is {trial}",
                "recent" if trial == "resumed" else "historical",
                item(1, trial=trial),
                item(2, phase="historical"),
            )
            for trial in ("aside", "agreed", "resumed")
        ),
    ),
)


def following(name: str, wanted: list[int] | None, *given: str, most: int = 9) -> Case:
    query = f"select backfill_private.next_items('{RUN}', 'recent', %s)"
    return Case(name, query, (most,), wanted, given)


NEXT_ITEMS = Rule(
    "the next sessions",
    ("next_items", "fresh_items", "rested_items"),
    (
        following("nothing is left", None, item(1, state="done"), item(2, run=OTHER_RUN)),
        following("in the order of the plan", [1, 2, 3], item(3), item(1), item(2)),
        following("so many at most", [1, 2], item(3), item(1), item(2), most=2),
        following("of one phase", [2], item(1, phase="priority"), item(2)),
        following(
            "none that backs off", [2, 3],
            item(1, not_before=LATER), item(2), item(3, not_before=NOW),
        ),
        following(
            "none that is set aside", [2, 3],
            item(1, trial="aside"), item(2), item(3, trial="resumed"), item(4, trial="agreed"),
        ),
        following(
            "what ran into trouble gives way", [2, 4, 1],
            item(1, not_before=NOW), item(2), item(3, trial="resumed"), item(4), most=3,
        ),
        following("and comes when alone", [1], item(1, not_before=NOW), item(2, state="done")),
        following("and comes alone when one is wanted", [1], item(1, not_before=NOW), most=1),
        following("and no more than wanted", [2], item(1, not_before=NOW), item(2), most=1),
        following(
            "none that another run holds",
            [2, 3],
            item(1),
            item(2),
            item(3),
            item(1, run=OTHER_RUN, state="leased"),
            item(2, run=OTHER_RUN, state="pending"),
            item(3, run=OTHER_RUN, source="prism", state="leased"),
        ),
    ),
)  # fmt: skip


def taken(name: str, wanted: list[int] | None, *given: str) -> Case:
    return Case(name, f"select backfill_private.next_in_bulk('{RUN}', 9)", (), wanted, given)


HELD = item(1, run=OTHER_RUN, state="leased")
OLD, OLDER = item(2, phase="historical"), item(3, phase="historical")
NEXT_IN_BULK = Rule(
    "the next sessions in bulk",
    ("next_in_bulk",),
    (
        taken("nothing is left", None, item(1, state="done")),
        taken("of one phase", [1], item(1), OLD),
        taken("all that is left of a phase is under way", [2, 3], item(1), HELD, OLD, OLDER),
        taken("some of it is not", [4], item(1), HELD, item(4), OLD, OLDER),
        taken("all is under way", None, OLD, item(2, run=OTHER_RUN, state="leased")),
        taken("the canary is under way", None, item(1, phase="priority"), HELD, OLD),
        taken("the canary is done", [2], item(1, phase="priority", state="done"), OLD),
    ),
)


def first(name: str, wanted: int, **took_ms: float | None) -> Case:
    plan = {"rehearsal": {"took_ms": took_ms}} if took_ms else {}
    query = (
        "select backfill_private.first_in_bulk(r) from public.backfill_runs as r"
        f" where r.run_id = '{RUN}'"
    )
    # A run that is past its plan keeps it.
    kept = "alter table public.backfill_runs disable trigger backfill_runs_guard"
    return Case(name, query, (), wanted, (kept, run_has(plan=plan)))


FIRST_IN_BULK = Rule(
    "the size of a first call in bulk",
    ("first_in_bulk",),
    (
        first("nobody rehearsed", 10),
        first("nobody came out well", 10, p50=None),
        first("as many as fit", 160, p50=5.0),
        first("500 at most", 500, p50=0.0),
        first("one at least", 1, p50=9000.0),
        first("as many as fit into 800 ms", 497, p50=1.61),
    ),
)


STAGING = "update public.backfill_settings set environment = 'STAGING'"
NAMELESS = "update public.backfill_settings set environment = null"
BOUND_OF_26, BOUND_OF_27 = (
    f"update public.backfill_settings set environment = null, max_throttle_per_minute = {most}"
    for most in (26, 27)
)


def bulk(name: str, wanted: bool, settings: str = NAMELESS, **columns: Any) -> Case:
    """A case of a run to which nothing speaks against bulk but what is said here."""
    well: dict[str, object] = {
        "request": {**REQUEST, "mode": "bulk"},
        "approved_until": LATER,
        "canary": "passed",
        "fingerprint": {"a": 1},
        "server": "here",
    }
    given = (
        settings,
        stand_in("server_identity()", "text", "select 'here'"),
        stand_in("unguarded(p_table text)", "setof text", "select ''::text where false"),
        stand_in("key_fault(p_target text, p_is_read boolean default true)", "text", "select null"),
        stand_in("definitions(p_target text)", "jsonb", """select '{"a": 1}'::jsonb"""),
        "alter table public.backfill_runs disable trigger backfill_runs_guard",
        run_has(**{**well, **columns}),
    )
    query = (
        "select backfill_private.may_bulk(r) is true from public.backfill_runs as r"
        f" where r.run_id = '{RUN}'"
    )
    return Case(name, query, (), wanted, given)


def canary_of(name: str, wanted: bool, *items: str, said: str | None = None) -> Case:
    case = bulk(name, wanted, canary=said)
    return Case(name, case.query, (), wanted, (*case.given, *items))


def settled_before(count: int, *, is_well: bool, run: str = RUN) -> str:
    """Batches in bulk that no verb has looked at."""
    return (
        "insert into backfill_private.unnoted (run_id, granted, trouble, settled, is_well, details)"
        f" select '{run}', '{{}}', '[]', '[]', {is_well}, '{{}}' from generate_series(1, {count})"
    )


def after_batches(name: str, wanted: bool, *batches: str) -> Case:
    case = bulk(name, wanted)
    return Case(name, case.query, (), wanted, (*case.given, *batches))


def guarded_otherwise(name: str, *given: str) -> Case:
    case = bulk(name, False)
    return Case(name, case.query, (), False, (*case.given, *given))


MAY_BULK = Rule(
    "whether sessions are scored in bulk now",
    ("may_bulk", "may_score", "is_elsewhere"),
    (
        bulk("sealed on another server", False, server="there"),
        bulk("sealed nobody knows where", False, server=None),
        bulk("the settings are gone", False, "delete from public.backfill_settings"),
        bulk("the bound was lowered", False, BOUND_OF_26),
        bulk("the bound is just what runs", True, BOUND_OF_27),
        guarded_otherwise(
            "a receipt trigger is gone",
            stand_in("unguarded(p_table text)", "setof text", "select 'toy_scores'::text"),
        ),
        guarded_otherwise(
            "a key does not hold",
            stand_in(
                "key_fault(p_target text, p_is_read boolean default true)",
                "text",
                "select 'no key'",
            ),
        ),
        after_batches("a batch before went well", True, settled_before(1, is_well=True)),
        after_batches("one did not", False, settled_before(1, is_well=False)),
        after_batches(
            "one of another run did not", True, settled_before(1, is_well=False, run=OTHER_RUN)
        ),
        after_batches("as many wait as may", False, settled_before(500, is_well=True)),
        after_batches("one fewer waits", True, settled_before(499, is_well=True)),
        bulk("nothing speaks against it", True),
        bulk("the run is held", False, state="paused"),
        bulk("call by call was approved", False, request={**REQUEST, "mode": "direct"}),
        bulk("the approval runs out now", False, approved_until=NOW),
        bulk("the run backs off", False, back_off_until=LATER),
        bulk("the run has backed off", True, back_off_until=NOW),
        bulk("a function was replaced", False, fingerprint={"a": 2}),
        bulk("somebody resumed after a failed canary", True, canary="overridden"),
        bulk("the canary failed", True, canary="failed"),
        canary_of("no look at the canary yet", False, item(1, phase="priority")),
        *(
            canary_of(f"the canary is {said}", can, item(1, phase="priority"), said=said)
            for said, can in (("passed", True), ("overridden", True), ("failed", False))
        ),
        canary_of("there is no canary", True, item(1), item(2, phase="priority")),
        canary_of("another run has one", True, item(1, run=OTHER_RUN, phase="priority")),
        canary_of("a session is set aside", False, item(1, trial="aside"), said="passed"),
        canary_of("one was before a resume", True, item(1, trial="resumed"), said="passed"),
        bulk("planned for another project", False, STAGING, environment="production"),
        bulk("planned for no project by name", False, STAGING),
        bulk("planned for this one", True, STAGING, environment="Staging"),
        bulk("this project has no name", True, environment="production"),
    ),
)


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

RULES = (
    ALLOWANCE,
    BOUND,
    PENDING_PHASE,
    NEXT_ITEMS,
    NEXT_IN_BULK,
    FIRST_IN_BULK,
    MAY_BULK,
    SPACING,
    COUNT_STARTS,
    SHARE_TAKEN,
    CHECK_PACE,
)
