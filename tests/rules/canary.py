"""The look at the priority sessions before the next phase."""

from __future__ import annotations

import json
from typing import Any

from tests.rules.case import Case, Rule
from tests.rules.world import OTHER_RUN, RUN, insert, item, run_has, stand_in

RANGE = "[0, 100]"
OUTSIDE = "holds a number outside 0 to 100"
# What a score column may hold, and what is wrong with it.
SCORES: tuple[tuple[object, str | None], ...] = (
    (None, "is null"),
    ("null", "is null"),
    ("0", None),
    ("100", None),
    ("50.5", None),
    ("-0.1", OUTSIDE),
    ("100.1", OUTSIDE),
    ('"NaN"', "holds NaN or infinity"),
    ('"Infinity"', "holds NaN or infinity"),
    ('"-Infinity"', "holds NaN or infinity"),
    ('"high"', None),
    ("true", None),
    ("{}", None),
    ('{"a": [1, {"b": 100}]}', None),
    ('{"a": [1, {"b": 101}]}', OUTSIDE),
    ('{"a": [1, null]}', "holds a null"),
    ('["NaN", 101]', "holds NaN or infinity"),
    ('["NaN", null]', "holds a null"),
)
SCORE_FAULT = Rule(
    "what is wrong with a score",
    ("score_fault",),
    tuple(
        Case(
            f"{value}",
            "select backfill_private.score_fault(%s::jsonb, %s::jsonb)",
            (value, RANGE),
            fault,
        )
        for value, fault in SCORES
    ),
)


def score(ordinal: int, value: object, version: str = "v2") -> str:
    return insert(
        "public.toy_scores",
        session_id=f"s{ordinal}",
        version=version,
        points=json.dumps(value) if value is not None else None,
    )


def profile(ordinal: int, version: str = "v2", level: int = 3) -> str:
    return insert("public.toy_profiles", session_id=f"s{ordinal}", version=version, level=level)


def in_canary(ordinal: int, state: str = "done", **columns: Any) -> str:
    return item(ordinal, phase="priority", state=state, **columns)


FAULTS_OF = f"""
select coalesce(jsonb_agg(jsonb_build_array(f.ordinal, f.session_id, f.why)
  order by f.ordinal, f.why), '[]')
from public.backfill_runs as r cross join lateral backfill_private.canary_faults(r) as f
where r.run_id = '{RUN}'
"""


def faults(name: str, wanted: list[list[object]], *given: str) -> Case:
    return Case(name, FAULTS_OF, (), wanted, given)


WRONG_SCORE = [1, "s1", "toy_scores.points " + OUTSIDE]
CANARY_FAULTS = Rule(
    "what is wrong with the canary",
    ("canary_faults", "canary_scores"),
    (
        faults("no canary", [], item(1, state="failed", error_message="no")),
        faults("all is well", [], in_canary(1), score(1, 50), profile(1)),
        faults(
            "one failed, and only that is said",
            [[1, "s1", "no score"]],
            in_canary(1, "failed", error_message="no score"),
        ),
        faults("a row is missing", [[1, "s1", "lacks its profile"]], in_canary(1), score(1, 5)),
        faults(
            "both are missing",
            [[1, "s1", "lacks its profile"], [1, "s1", "lacks its score"]],
            in_canary(1),
        ),
        faults(
            "a row of another version",
            [[1, "s1", "lacks its profile"], [1, "s1", "lacks its score"]],
            in_canary(1),
            score(1, 50, "v1"),
            profile(1, "v1"),
        ),
        faults(
            "somebody else filled it, and took it away",
            [],
            in_canary(1, filled=["score"], components=["score"]),
        ),
        faults("it was not planned", [], in_canary(1, components=["profile"]), profile(1)),
        faults("a score out of range", [WRONG_SCORE], in_canary(1), score(1, 101), profile(1)),
        faults(
            "a level out of range",
            [[1, "s1", "toy_profiles.level holds a number outside 1 to 5"]],
            in_canary(1),
            score(1, 50),
            profile(1, level=6),
        ),
        faults(
            "a level of another version",
            [[1, "s1", "lacks its profile"]],
            in_canary(1),
            score(1, 50),
            profile(1, "v1", level=6),
        ),
        faults(
            "no score at all",
            [[1, "s1", "toy_scores.points is null"]],
            in_canary(1),
            score(1, None),
            profile(1),
        ),
        faults(
            "a wrong score that somebody else wrote",
            [],
            in_canary(1, filled=["score"]),
            score(1, 101),
            profile(1),
        ),
        faults(
            "a wrong score that was not planned",
            [],
            in_canary(1, components=["profile"]),
            score(1, 101),
            profile(1),
        ),
        faults(
            "a wrong score of another version",
            [],
            in_canary(1),
            score(1, 50),
            score(1, 101, "v1"),
            profile(1),
        ),
        faults(
            "a wrong score after the canary",
            [],
            item(1, state="done"),
            score(1, 101),
            profile(1),
        ),
        faults(
            "a wrong score of a session that is not done",
            [],
            in_canary(1, "skipped"),
            score(1, 101),
            profile(1),
        ),
        faults(
            "another run's canary",
            [],
            item(1, run=OTHER_RUN, phase="priority", state="done"),
            score(1, 101),
        ),
    ),
)


def found(*rows: tuple[int, str | None]) -> str:
    """What canary_faults says in place of a look."""
    values = ", ".join(f"({n}, 's{n}', {'null' if why is None else repr(why)})" for n, why in rows)
    return stand_in(
        "canary_faults(p_run public.backfill_runs)",
        "table (ordinal integer, session_id text, why text)",
        f"select * from (values {values}) as f" if rows else "select 1, '', '' limit 0",
    )


JUDGED = f"""
with judged as materialized (
  select backfill_private.judge_canary(r) as said
  from public.backfill_runs as r where r.run_id = '{RUN}')
select jsonb_build_array((select said from judged), state_now, reason_now, canary_now, events_now)
from judged, lateral public.rule_state(said) as s (state_now, reason_now, canary_now, events_now)
"""
# What the run is after the look: a function, so that it sees what the look wrote.
STATE = f"""
create function public.rule_state(p_said text, out text, out text, out text, out jsonb)
language plpgsql volatile as $$
begin
  select r.state, r.reason, r.canary, (
    select jsonb_agg(jsonb_build_array(e.kind, e.details ->> 'result') order by e.seq)
    from public.backfill_events as e where e.run_id = r.run_id)
  into $2, $3, $4, $5 from public.backfill_runs as r where r.run_id = '{RUN}';
end $$
"""


def judged(name: str, wanted: list[object], *given: str) -> Case:
    return Case(name, JUDGED, (), wanted, (STATE, *given))


WAITING: list[object] = ["waiting", "running", None, None, None]
PASSED = [["canary", "passed"]]
FAILED = [["canary", "failed"], ["paused", None]]
BAD = found((1, "lacks its score"))
JUDGE_CANARY = Rule(
    "whether the next phase may start",
    ("judge_canary",),
    (
        judged("it is well", ["passed", "running", None, "passed", PASSED], found()),
        judged(
            "it is not",
            [
                "failed",
                "paused",
                "the canary failed: session s1: lacks its score",
                "failed",
                FAILED,
            ],
            BAD,
        ),
        judged(
            "it was not, when somebody looked before",
            [
                "failed",
                "paused",
                "the canary failed: session s1: lacks its score",
                "failed",
                FAILED,
            ],
            BAD,
            run_has(canary="failed"),
        ),
        judged(
            "it was well before",
            ["passed", "running", None, "passed", None],
            BAD,
            run_has(canary="passed"),
        ),
        judged(
            "somebody resumed after it had failed",
            ["passed", "running", None, "overridden", None],
            BAD,
            run_has(canary="overridden"),
        ),
        judged(
            "one of it is pending",
            ["waiting", "running", None, None, None],
            BAD,
            in_canary(1, "pending"),
        ),
        judged(
            "one of it is leased",
            ["waiting", "running", None, None, None],
            BAD,
            in_canary(1, "leased"),
        ),
        judged(
            "others are pending",
            ["passed", "running", None, "passed", PASSED],
            found(),
            in_canary(1),
            item(2),
            item(3, run=OTHER_RUN, phase="priority"),
        ),
        judged(
            "the first five are named",
            [
                "failed",
                "paused",
                "the canary failed: "
                "session s1: no; session s2: no; session s3: no; session s4: no; session s5: no",
                "failed",
                FAILED,
            ],
            found(*((n, "no") for n in (6, 3, 2, 5, 1, 4))),
        ),
        Case(
            "another run is not judged",
            f"select canary from public.backfill_runs where run_id = '{OTHER_RUN}'",
            (),
            None,
            (
                found(),
                "select backfill_private.judge_canary(r) from public.backfill_runs as r"
                f" where r.run_id = '{RUN}'",
            ),
        ),
    ),
)

RULES = (SCORE_FAULT, CANARY_FAULTS, JUDGE_CANARY)
