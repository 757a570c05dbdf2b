"""What stands, counted and in buckets; the criteria and the verdict."""

from __future__ import annotations

import json
from typing import Any

from tests.rules.case import Case, Rule
from tests.rules.world import OTHER_RUN, RUN, item, run_has, stand_in

Stand = tuple[str, str, str, str, bool, bool, str | None, str | None]


def standing(*rows: Stand) -> str:
    """What standing() says in place of a look: session, state, phase, bucket, …"""
    values = ", ".join(
        f"({n}, '{s}', '{state}', '{phase}', '{bucket}', {wanted}, {lost},"
        f" {'null' if operation is None else repr(operation)},"
        f" {'null' if wrote is None else repr(wrote)})"
        for n, (s, state, phase, bucket, wanted, lost, operation, wrote) in enumerate(rows, 1)
    )
    return stand_in(
        "standing(p_run_id uuid, p_component text, p_after integer, p_until integer)",
        "table (ordinal integer, session_id text, item_state text, phase text, bucket text,"
        " is_wanted boolean, is_lost boolean, operation text, wrote text)",
        f"select * from (values {values}) as s"
        if rows
        else "select 1, '', '', '', '', true, true, '', '' limit 0",
    )


FIGURES = (
    "planned",
    "wanted",
    "inserted",
    "updated",
    "written",
    "written_wanted",
    "unexplained",
    "unplanned",
    "priority_incomplete",
)


Beside = tuple[str, str, bool]


def unplanned(*rows: Beside) -> str:
    """What unplanned() says in place of a look: session, operation, whether it is a new row."""
    values = ", ".join(
        f"('{s}', '{{\"k\": {n}}}'::jsonb, '{operation}', {n}::bigint, 'so', {is_new})"
        for n, (s, operation, is_new) in enumerate(rows, 1)
    )
    return stand_in(
        "unplanned(p_run_id uuid, p_component text, p_after integer, p_until integer)",
        "table (session_id text, row_key jsonb, operation text, receipt bigint, why text,"
        " is_new boolean)",
        f"values {values}" if rows else "select '', '{}'::jsonb, '', 1::bigint, '', true limit 0",
    )


def counted(
    name: str,
    figures: tuple[object, ...],
    buckets: Any,
    critical: list[str],
    *rows: Stand,
    beside: tuple[Beside, ...] = (),
) -> Case:
    wanted = {
        "figures": dict(zip(FIGURES, figures, strict=True)),
        "buckets": buckets,
        "critical": critical,
    }
    query = f"select backfill_private.verify_rows('{RUN}', 'score', 0, 9)"
    return Case(name, query, (), wanted, (standing(*rows), unplanned(*beside)))


def besides(receipt: int, session: str, operation: str) -> dict[str, object]:
    """A row besides the plan, as a verification lists it."""
    return {
        "session_id": session,
        "component": "score",
        "row": {"k": receipt},
        "operation": operation,
        "receipt": receipt,
        "why": "so",
    }


VERIFY_ROWS = Rule(
    "what stands, counted",
    ("verify_rows",),
    (
        counted("nothing was planned", (0, 0, 0, 0, 0, 0, 0, 0, []), {}, []),
        counted(
            "as planned",
            (2, 2, 1, 1, 2, 2, 0, 0, []),
            {"as_planned": ["a", "b"]},
            [],
            ("a", "done", "priority", "as_planned", True, False, "insert", None),
            ("b", "done", "recent", "as_planned", True, False, "update", None),
        ),
        counted(
            "failed, and so explained",
            (2, 0, 0, 0, 0, 0, 0, 0, ["a"]),
            {"missing": ["a", "b"]},
            [],
            ("a", "failed", "priority", "missing", False, False, None, None),
            ("b", "failed", "recent", "missing", False, False, None, None),
        ),
        counted(
            "missing without a reason",
            (2, 0, 0, 0, 0, 0, 2, 0, []),
            {"missing": ["a", "b"]},
            [],
            ("a", "done", "recent", "missing", False, False, None, None),
            ("b", "pending", "recent", "missing", False, False, None, None),
        ),
        counted(
            "gone",
            (2, 0, 0, 0, 2, 0, 2, 0, []),
            {"missing": ["a", "b"]},
            ["a: a written row is gone", "b: a written row is gone"],
            ("a", "done", "recent", "missing", False, True, "insert", None),
            ("b", "done", "recent", "missing", False, True, "update", None),
        ),
        counted(
            "of another version",
            (2, 0, 0, 0, 2, 0, 1, 0, []),
            {"missing": ["a", "b"]},
            [
                "a: it wrote version v1 where version v2 was wanted",
                "b: it wrote a row without a version where version v2 was wanted",
            ],
            ("a", "done", "recent", "missing", False, False, "insert", "v1"),
            ("b", "failed", "recent", "missing", False, False, "update", ""),
        ),
        counted(
            "no longer selected, and so not expected",
            (1, 1, 1, 0, 1, 1, 0, 0, []),
            {"as_planned": ["a"], "no_longer_selected": ["b", "c"]},
            [],
            ("a", "done", "recent", "as_planned", True, False, "insert", None),
            ("b", "skipped", "priority", "no_longer_selected", False, False, None, None),
            ("c", "done", "recent", "no_longer_selected", False, False, "insert", None),
        ),
        counted(
            "changed, filled by others",
            (3, 2, 1, 0, 2, 1, 1, 0, ["c"]),
            {"changed_since": ["a", "c"], "filled_elsewhere": ["b"]},
            [],
            ("a", "done", "recent", "changed_since", True, False, "insert", None),
            ("b", "skipped", "priority", "filled_elsewhere", True, False, None, None),
            ("c", "done", "priority", "changed_since", False, False, "insert", None),
        ),
        counted(
            "a row besides the plan",
            (0, 0, 0, 0, 0, 0, 0, 1, []),
            {"unplanned": [besides(1, "a", "update")]},
            [],
            beside=(("a", "update", False),),
        ),
        counted(
            "rows besides the plan, and a new one that somebody else wrote first",
            (1, 1, 1, 0, 1, 1, 0, 2, []),
            {
                "as_planned": ["a"],
                "unplanned": [
                    besides(1, "a", "update"),
                    besides(2, "b", "insert"),
                    besides(3, "c", "update"),
                ],
            },
            [],
            ("a", "done", "priority", "as_planned", True, False, "insert", None),
            beside=(("a", "update", False), ("b", "insert", False), ("c", "update", True)),
        ),
    ),
)


def criterion(name: str, expected: int, actual: int, **more: object) -> dict[str, object]:
    status = "pass" if expected == actual else "fail"
    return {"name": name, "expected": expected, "actual": actual, "status": status, **more}


CRITERION = Rule(
    "whether a criterion passes",
    ("criterion",),
    tuple(
        Case(
            f"{expected} expected, {actual} there",
            "select backfill_private.criterion('rows', %s, %s, %s)",
            (expected, actual, json.dumps(more)),
            criterion("rows", expected, actual, **more),
        )
        for expected, actual, more in (
            (0, 0, {}),
            (3, 3, {"inserted": 2}),
            (3, 2, {}),
            (2, 3, {}),
        )
    ),
)

COMPONENT = """
select jsonb_agg(c order by c ->> 'name') from public.backfill_targets as t
cross join lateral backfill_private.component_criteria(t, %s) as c
where t.target = 'toy' and t.component = %s
"""


def of_component(name: str, component: str, *wanted: object, **figures: int) -> Case:
    return Case(name, COMPONENT, (json.dumps(figures), component), list(wanted))


SCORE_FIGURES = {
    "planned": 9,
    "wanted": 8,
    "inserted": 5,
    "updated": 2,
    "written": 7,
    "written_wanted": 7,
    "legacy": 0,
}
COMPONENT_CRITERIA = Rule(
    "the criteria of a component",
    ("component_criteria",),
    (
        of_component(
            "of which several versions can stand",
            "score",
            criterion("toy_scores_no_legacy_versions", 0, 0),
            criterion("toy_scores_rows", 9, 8, inserted=5, updated=2),
            criterion("toy_scores_version", 7, 7),
            **SCORE_FIGURES,
        ),
        of_component(
            "rows of other versions came",
            "score",
            criterion("toy_scores_no_legacy_versions", 0, 3),
            criterion("toy_scores_rows", 9, 9, inserted=5, updated=2),
            criterion("toy_scores_version", 7, 6),
            **{**SCORE_FIGURES, "wanted": 9, "written_wanted": 6, "legacy": 3},
        ),
        of_component(
            "of which one version stands",
            "profile",
            criterion("toy_profiles_rows", 9, 8, inserted=5, updated=2),
            criterion("toy_profiles_version", 7, 7),
            **{**SCORE_FIGURES, "legacy": 3},
        ),
    ),
)

RUN_CRITERIA_OF = f"select backfill_private.run_criteria('{RUN}', %s, %s)"


def chain(*faults: int) -> str:
    """What chain_faults says in place of a look."""
    values = ", ".join(f"({seq}::bigint, 'wrong')" for seq in faults)
    return stand_in(
        "chain_faults(p_run_id uuid)",
        "table (seq bigint, fault text)",
        f"select * from (values {values}) as f" if faults else "select 1::bigint, '' limit 0",
    )


def event(seq: int, run: str = RUN) -> str:
    return (
        "insert into public.backfill_events"
        " (run_id, seq, at, kind, actor, details, prev_hash, hash)"
        f" values ('{run}', {seq}, backfill_private.clock(), 'x', 'y', '{{}}', '', 'z')"
    )


def of_run(
    name: str,
    priority: tuple[int, int],
    critical: int,
    failed: int,
    audit: tuple[int, int],
    *given: str,
    incomplete: dict[str, list[str]] | None = None,
) -> Case:
    figures = {c: {"priority_incomplete": s} for c, s in (incomplete or {"score": []}).items()}
    wanted = [
        criterion("priority_complete", *priority),
        criterion("critical_errors", 0, critical),
        criterion("failed_sessions", 0, failed),
        criterion("audit_complete", *audit),
    ]
    return Case(name, RUN_CRITERIA_OF, (json.dumps(figures), critical), wanted, given)


CANARY = tuple(item(n, phase="priority", state="done") for n in (1, 2))
EVENTS = (run_has(audit_count=3), *(event(n) for n in (1, 2, 3)), event(1, OTHER_RUN))
RUN_CRITERIA = Rule(
    "the criteria of a run",
    ("run_criteria",),
    (
        of_run("no canary", (0, 0), 0, 0, (0, 0), item(1, state="done"), chain()),
        of_run("the canary is whole", (2, 2), 0, 0, (0, 0), *CANARY, chain()),
        of_run(
            "one of it lacks a row", (2, 1), 0, 0, (0, 0), *CANARY, item(3), chain(),
            incomplete={"score": [], "profile": ["s2", "s3"]},
        ),
        of_run(
            "one of it was rolled back", (1, 1), 0, 0, (0, 0), CANARY[0],
            item(2, phase="priority", state="rolled_back"), chain(),
        ),
        of_run(
            "sessions failed", (0, 0), 2, 2, (0, 0), item(1, state="failed"),
            item(2, state="failed"), item(3), item(4, run=OTHER_RUN, state="failed"), chain(),
        ),
        of_run("the chain is whole", (0, 0), 0, 0, (3, 3), *EVENTS, chain()),
        of_run(
            "events are missing", (0, 0), 0, 0, (4, 3), *EVENTS, run_has(audit_count=4), chain()
        ),
        of_run("it is whole up to a fault", (0, 0), 0, 0, (3, 1), *EVENTS, chain(3, 2)),
        of_run(
            "another run's canary", (0, 0), 1, 0, (0, 0),
            item(1, run=OTHER_RUN, phase="priority"), chain(),
        ),
    ),
)  # fmt: skip


def verdict(
    name: str,
    wanted: str,
    *,
    extra: tuple[int, ...] = (0, 0),
    unexplained: tuple[int, ...] = (0, 0),
    unplanned: tuple[int, ...] = (0, 0),
    criteria: tuple[str, ...] = ("pass", "pass"),
    critical: int = 0,
) -> Case:
    figures = {
        f"c{n}": {"extra": e, "unexplained": u, "unplanned": p}
        for n, (e, u, p) in enumerate(zip(extra, unexplained, unplanned, strict=True))
    }
    values = (json.dumps(figures), json.dumps([{"status": s} for s in criteria]), critical)
    return Case(name, "select backfill_private.verdict(%s, %s, %s)", values, wanted)


VERDICT = Rule(
    "the verdict",
    ("verdict",),
    (
        verdict("all is well", "pass"),
        verdict("no criteria", "pass", criteria=()),
        verdict("something critical", "fail", critical=1),
        verdict("a row that nobody planned", "fail", extra=(0, 1)),
        verdict("a row is missing without a reason", "fail", unexplained=(1, 0)),
        verdict("a row that the run wrote besides", "fail", unplanned=(0, 1)),
        verdict("as many of one as of the other", "fail", extra=(1, 0), unexplained=(1, 0)),
        verdict("a criterion fails", "partial", criteria=("pass", "fail")),
        verdict("all criteria fail", "partial", criteria=("fail", "fail")),
        verdict("a criterion fails, and a row is extra", "fail", extra=(2, 0), criteria=("fail",)),
    ),
)

ADDED = Rule(
    "two parts as one",
    ("added",),
    tuple(
        Case(
            f"{one} and {other}",
            "select backfill_private.added(%s, %s)",
            (json.dumps(one), json.dumps(other)),
            wanted,
        )
        for one, other, wanted in (
            ({}, {}, {}),
            ({"a": 1}, {}, {"a": 1}),
            ({}, {"a": 1}, {"a": 1}),
            ({"a": 1}, {"a": 2}, {"a": 3}),
            ({"a": [1]}, {"a": [2, 1]}, {"a": [1, 2, 1]}),
            ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}, "d": 4}, {"a": {"b": 3, "c": 3}, "d": 4}),
        )
    ),
)

WRAP = 2**32
# xmin of the row, the snapshot it is held against (xmin:xmax:in progress), whether it came after.
CAME = (
    (99, "100:110:", False),
    (100, "100:110:", False),
    (109, "100:110:105", False),
    (105, "100:110:105", True),
    (110, "100:110:", True),
    (111, "100:110:", True),
    (100, "100:110:100", True),
    (5, f"{WRAP - 5}:{WRAP + 2}:", True),
    (1, f"{WRAP - 5}:{WRAP + 2}:", False),
    (WRAP - 6, f"{WRAP - 5}:{WRAP + 2}:", False),
    (110, f"{3 * WRAP + 100}:{3 * WRAP + 110}:", True),
    (109, f"{3 * WRAP + 100}:{3 * WRAP + 110}:", False),
    (100 + 2**31 - 1, "100:110:", True),
    (100 + 2**31, "100:110:", False),
)
CAME_AFTER = Rule(
    "whether a row came after a snapshot",
    ("came_after",),
    tuple(
        Case(
            f"{xmin} in {snapshot}",
            "select backfill_private.came_after(%s::text::xid, %s::text::pg_snapshot)",
            (str(xmin), snapshot),
            wanted,
        )
        for xmin, snapshot, wanted in CAME
    ),
)

RULES = (
    VERIFY_ROWS,
    CRITERION,
    COMPONENT_CRITERIA,
    RUN_CRITERIA,
    VERDICT,
    ADDED,
    CAME_AFTER,
)
