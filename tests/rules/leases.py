"""Which sessions come next, and whether in bulk."""

from __future__ import annotations

from typing import Any

from tests.rules.case import Case, Rule
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


RULES = (PENDING_PHASE, NEXT_ITEMS, NEXT_IN_BULK, FIRST_IN_BULK, MAY_BULK)
