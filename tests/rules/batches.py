"""What the items of a batch become: the rule of one item, on what stands in the tables."""

from __future__ import annotations

import json
from typing import Any

from tests.rules.canary import profile, score
from tests.rules.case import Case, Rule
from tests.rules.settling import NO_RECEIPT
from tests.rules.standing import receipt
from tests.rules.trouble import STEADY, told
from tests.rules.world import OTHER_RUN, RUN, item, run_has, stand_in

CLAIM = "22222222-2222-4222-8222-222222222222"
ITEMS = """
select jsonb_agg(jsonb_build_array(i.ordinal, i.state, i.failed_step, i.error_code, i.crowded_out,
    i.unknown_outcomes, extract(epoch from i.not_before - backfill_private.clock()))
  order by i.run_id, i.ordinal)
from public.backfill_items as i
"""
LEFT_OF_THE_LEASE = """
select jsonb_build_array(i.settled_at = backfill_private.clock(), i.lease_until, i.lease_kind,
  i.claim_id, i.worker, i.fence_hash)
from public.backfill_items as i where i.ordinal = 1
"""


def leased(ordinal: int, **columns: Any) -> str:
    """An item that is being scored."""
    lease: dict[str, Any] = {
        "lease_kind": "score",
        "claim_id": CLAIM,
        "worker": "w",
        "fence_hash": f"f{ordinal}",
    }
    until = {"lease_until": "2025-11-02T12:01:00Z"}
    return item(ordinal, state="leased", **{**lease, **until, **columns})


def call(*outcomes: dict[str, Any]) -> str:
    said = json.dumps(outcomes).replace("'", "''")
    return f"backfill_private.decide_outcomes('{RUN}', '{said}')"


def after(
    name: str, wanted: list[list[object]], outcomes: tuple[dict[str, Any], ...], *given: str
) -> Case:
    """A case: every item after the batch was settled."""
    return Case(name, ITEMS, (), wanted, (STEADY, *given, "select " + call(*outcomes)))


WRITTEN = (score(1, 5), receipt(1))
WHOLE = (*WRITTEN, profile(1), receipt(1, component="profile", table="toy_profiles"))
WAITS = item(2)
WAITING = [2, "pending", None, None, 0, 0, None]
BOTH = ["score", "profile"]


def fail(step: str, code: str = "P0001", **more: Any) -> dict[str, Any]:
    return told("failed", step=step, code=code, message="no", **more)


SLOW = told("slow", step="score", code="429", message="x")
STOPPED = told("stop", step="score", code="42501", message="x")
UNKNOWN = told("unknown", step="score", code="transport", message="x")
DONE = [1, "done", None, None, 0, 0, None]
OF_ANOTHER = leased(1, run=OTHER_RUN, session_id="x", fence_hash="x")
FENCES = """
select jsonb_agg(i.fence_hash is null order by i.run_id, i.ordinal) from public.backfill_items as i
"""
INFERRED = """
update public.backfill_targets set transport = 'edge', function_version = '1', receipts = 'inferred'
where target = 'toy' and component = 'score'
"""
INFERS = (
    "create table public.rule_inferred (ordinals integer[], called integer[])",
    stand_in(
        "infer_receipts(p_run_id uuid, p_ordinals integer[], p_called integer[])",
        "void",
        "insert into public.rule_inferred values (p_ordinals, p_called)",
    ),
)
INFERRED_FOR = """
select jsonb_agg(jsonb_build_array(to_jsonb(r.ordinals), to_jsonb(r.called)))
from public.rule_inferred as r
"""
# What the gate is asked is given. A case writes its rows in its own transaction.
GATE_WORKS = (
    stand_in("gate_has_stood(p_run public.backfill_runs, p_table text)", "boolean", "select true"),
    stand_in(
        "gate_is_used(p_run public.backfill_runs, p_target public.backfill_targets)",
        "boolean",
        "select true",
    ),
    stand_in("is_written_here(p_xmin xid)", "boolean", "select false"),
)
SKIPPED = [1, "skipped", None, None, 0, 0, None]
LOST_RACES = Rule(
    "a row that somebody else wrote during the call",
    ("note_races", "races_are_too_many"),
    (
        after(
            "the only component", [SKIPPED], (told("answered", answered=["score"]),),
            *GATE_WORKS, leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "the call failed for it", [SKIPPED], (fail("score", "23505"),),
            *GATE_WORKS, leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "nobody knows of the call", [SKIPPED], (UNKNOWN,),
            *GATE_WORKS, leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "no call was made", [[1, "pending", None, None, 0, 0, None]], (told("released"),),
            *GATE_WORKS, leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "one of two, the other is ours", [DONE], (told("answered", answered=BOTH),),
            *GATE_WORKS, leased(1), score(1, 5), *WHOLE[2:],
        ),
        after(
            "one of two, the other was refused for it", [[1, "pending", None, None, 0, 0, None]],
            (fail("profile", "OB020", answered=["score"]),), *GATE_WORKS, leased(1), score(1, 5),
        ),
        after(
            "the gate refused another session's row", [[1, "skipped", None, None, 0, 0, None]],
            (fail("score", "OB018"),), *GATE_WORKS, leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "written by this very transaction", [[1, "failed", None, "OB016", 0, 0, None]],
            (told("answered", answered=["score"]),), *GATE_WORKS,
            stand_in("is_written_here(p_xmin xid)", "boolean", "select true"),
            leased(1, components=["score"]), score(1, 5),
        ),
        *(
            Case(
                f"after {lost} of them beside {written} rows",
                f"select backfill_private.races_are_too_many('{RUN}')",
                (),
                lost >= 20 + written,
                (
                    *(item(n, state="skipped", attempts=1) for n in range(2, 2 + lost)),
                    *(item(n, state="skipped") for n in range(50, 60)),
                    *(receipt(n) for n in range(60, 60 + written)),
                ),
            )
            for lost, written in ((19, 0), (20, 0), (20, 1), (21, 1))
        ),
    ),
)  # fmt: skip
DUPLICATE = 'duplicate key value violates unique constraint "{}"'


def in_conflict(name: str, wanted: bool, code: str, message: str) -> Case:
    return Case(
        name,
        "select backfill_private.is_conflict_elsewhere('toy', %s, %s)",
        (code, message),
        wanted,
        ("create table public.days (day date primary key)",),
    )


def doubted(name: str, outcome: str, wanted: str, *given: str, index: str = "days_pkey") -> Case:
    conflict: dict[str, Any] = {
        "step": "score",
        "code": "23505",
        "message": DUPLICATE.format(index),
    }
    told_of = json.dumps([told(outcome, **conflict)])
    query = f"select backfill_private.doubt_conflicts('{RUN}', %s) -> 0 ->> 'outcome'"
    return Case(name, query, (told_of,), wanted, given or (leased(1),))


CONFLICTS = Rule(
    "a conflict on a table that is no component's",
    ("is_conflict_elsewhere", "doubt_conflicts"),
    (
        in_conflict("of another table", True, "23505", DUPLICATE.format("days_pkey")),
        in_conflict("of a table that is gone", True, "23505", DUPLICATE.format("nothing")),
        in_conflict("in words of its own", True, "23505", "schon da"),
        in_conflict("passed on as a text", True, "500", DUPLICATE.format("days_pkey")),
        in_conflict("of a component's", False, "23505", DUPLICATE.format("toy_scores_pkey")),
        in_conflict("a text on a component's", False, "500", DUPLICATE.format("toy_scores_pkey")),
        in_conflict("another error", False, "P0001", "no"),
        doubted("it failed beside others", "failed", "beside"),
        doubted("it failed alone", "failed", "failed", leased(1, is_alone=True)),
        doubted("it was well", "answered", "answered"),
        doubted("the component's own", "failed", "failed", index="toy_scores_pkey"),
        doubted("in bulk", "failed", "failed", leased(1), run_has(request={"mode": "bulk"})),
    ),
)  # fmt: skip
ALONE = Rule(
    "who is called alone",
    ("next_alone", "session_alone", "places_alone"),
    tuple(
        Case(
            name,
            "select jsonb_build_array("
            "backfill_private.session_alone(r), backfill_private.next_alone(r))"
            f" from public.backfill_runs as r where r.run_id = '{RUN}'",
            (),
            wanted,
            given,
        )
        for name, wanted, given in (
            ("nobody", [None, None], (item(1), item(2))),
            ("the first that waits", ["s2", [2]], (item(1), item(2, is_alone=True))),
            ("one that is called", ["s1", None], (leased(1, is_alone=True), item(2))),
            ("one that is done", [None, None], (item(1, state="done", is_alone=True),)),
        )
    ),
)
BATCHES = Rule(
    "what the items of a batch become",
    ("decide_outcomes", "take_fences"),
    (
        after("all rows stand", [DONE], (told("answered", answered=BOTH),), leased(1), *WHOLE),
        after("all rows stand, and nobody knows", [DONE], (UNKNOWN,), leased(1), *WHOLE),
        after(
            "no row stands", [[1, "failed", "score", "OB017", 0, 0, None]],
            (told("answered", answered=BOTH),), leased(1),
        ),
        after(
            "the second is missing", [[1, "failed", "profile", "OB017", 0, 0, None]],
            (told("answered", answered=BOTH),), leased(1), *WRITTEN,
        ),
        after(
            "a row without receipt", [[1, "failed", None, "OB016", 0, 0, None]],
            (told("answered", answered=BOTH),), leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "one row without receipt, one with", [[1, "failed", None, "OB016", 0, 0, None]],
            (told("answered", answered=BOTH),), leased(1), score(1, 5), *WHOLE[2:],
        ),
        after(
            "the only row, that nobody says was written", [[1, "pending", None, None, 0, 0, None]],
            (told("released"),), leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "a row without receipt, if receipts are inferred", [DONE],
            (told("answered", answered=BOTH),), *INFERS, INFERRED, leased(1), score(1, 5),
            *WHOLE[2:],
        ),
        after(
            "if those of the other component are",
            [[1, "failed", None, "OB016", 0, 0, None]],
            (told("answered", answered=BOTH),), *INFERS, INFERRED, leased(1), *WRITTEN, profile(1),
        ),
        Case(
            "receipts are inferred of what may have been called", INFERRED_FOR, (),
            [[[1, 2, 3], [2, 3]]],
            (
                *INFERS, INFERRED, leased(1), leased(2), leased(3), leased(4), item(5),
                "select " + call(
                    told("released"), told("lost", 2), told("answered", 3), told("lost", 5)),
            ),
        ),
        *(
            Case(
                f"receipts are inferred of what is {outcome}", INFERRED_FOR, (), [[[1], [1]]],
                (*INFERS, INFERRED, leased(1), "select " + call(told(outcome))),
            )
            for outcome in ("answered", "failed", "again", "slow", "stop", "unknown", "lost")
        ),
        Case(
            "no receipt is inferred of an exact target", INFERRED_FOR, (), None,
            (*INFERS, leased(1), "select " + call(told("lost"))),
        ),
        Case(
            "another target's receipts are inferred", INFERRED_FOR, (), None,
            (
                *INFERS, INFERRED, f"update public.backfill_runs set target = 'prism'"
                f" where run_id = '{RUN}'", leased(1, components=["fc_scores"], source="prism",
                session_id="618c5ea6-3f0d-4b8e-9a41-5d2c7e90b1f4"), "select " + call(told("lost")),
            ),
        ),
        Case(
            "the fences of a batch end, and no other", FENCES, (), [True, True, False, False],
            (leased(1), leased(2), leased(3), OF_ANOTHER,
             "select " + call(told("lost"), told("lost", 2))),
        ),
        after(
            "a row that nobody says was written", [[1, "pending", None, None, 0, 0, None]],
            (told("released"),), leased(1), score(1, 5),
        ),
        after(
            "the second step failed", [[1, "failed", "profile", "P0001", 0, 0, None]],
            (fail("profile", answered=["score"]),), leased(1), *WRITTEN,
        ),
        after(
            "an error after the commit", [[1, "pending", None, None, 0, 0, None]],
            (fail("score"),), leased(1), *WRITTEN,
        ),
        after(
            "the step before had no effect", [[1, "failed", "score", "OB017", 0, 0, None]],
            (fail("profile", answered=["score", "elsewhere"]),), leased(1),
        ),
        after(
            "a step that the session has not", [[1, "failed", None, "P0001", 0, 0, None]],
            (fail("elsewhere"),), leased(1),
        ),
        after(
            "crowded out", [[1, "pending", "score", "40001", 1, 0, 1]],
            (told("again", step="score", code="40001"),), leased(1),
        ),
        after(
            "crowded out the fourth time", [[1, "pending", "score", "40001", 4, 0, 4]],
            (told("again", step="score", code="40001"),), leased(1, crowded_out=3),
        ),
        after(
            "crowded out the fifth time", [[1, "failed", "score", "40001", 5, 0, None]],
            (told("again", step="score", code="40001"),), leased(1, crowded_out=4),
        ),
        after(
            "asked to wait, as others were not", [[1, "pending", "score", "429", 3, 0, 3]],
            (SLOW,), leased(1, crowded_out=2),
        ),
        after(
            "asked to wait for a while", [[1, "pending", "score", "429", 3, 0, 30]],
            ({**SLOW, "retry_after_s": 30},), leased(1, crowded_out=2),
        ),
        after(
            "asked to wait for too long", [[1, "pending", "score", "429", 3, 0, 3600]],
            ({**SLOW, "retry_after_s": 7200},), leased(1, crowded_out=2),
        ),
        after(
            "asked to wait, as others are", [[1, "pending", "score", "429", 2, 0, 2], WAITING],
            (SLOW,), run_has(troubled_batches=1), leased(1, crowded_out=2), WAITS,
        ),
        after(
            "asked to wait for the first time, as others are",
            [[1, "pending", "score", "429", 0, 0, 1], WAITING],
            (SLOW,), run_has(troubled_batches=1), leased(1), WAITS,
        ),
        after(
            "asked to wait the sixth time, as others were not",
            [[1, "failed", "score", "429", 6, 0, None]],
            (SLOW,), leased(1, crowded_out=5),
        ),
        after(
            "asked to wait the sixth time, as others are",
            [[1, "pending", "score", "429", 5, 0, 5], WAITING],
            (SLOW,), run_has(troubled_batches=1), leased(1, crowded_out=5), WAITS,
        ),
        after(
            "what may hit every session", [[1, "pending", "score", "42501", 0, 0, None]],
            (STOPPED,), leased(1),
        ),
        after(
            "the same after a resume", [[1, "pending", "score", "42501", 0, 0, None]],
            (STOPPED,), leased(1, trial="resumed"),
        ),
        after(
            "the same after a resume, and another was done",
            [[1, "failed", "score", "42501", 0, 0, None], [2, "done", None, None, 0, 0, None]],
            (STOPPED,), leased(1, trial="resumed"), item(2, state="done"),
        ),
        after(
            "the same, and another was done",
            [[1, "pending", "score", "42501", 0, 0, None], [2, "done", None, None, 0, 0, None]],
            (STOPPED,), leased(1), item(2, state="done"),
        ),
        after(
            "unknown, while others wait",
            [[1, "pending", "score", "transport", 0, 8, 8], WAITING],
            (UNKNOWN,), leased(1, unknown_outcomes=7), WAITS,
        ),
        after(
            "unknown, and nobody waits", [[1, "failed", "score", "transport", 0, 8, None]],
            (UNKNOWN,), leased(1, unknown_outcomes=7),
        ),
        after(
            "unknown the seventh time, and nobody waits",
            [[1, "pending", "score", "transport", 0, 7, 7]],
            (UNKNOWN,), leased(1, unknown_outcomes=6),
        ),
        after(
            "unknown, another one's is known",
            [
                [1, "failed", "score", "transport", 0, 8, None],
                [2, "failed", "score", "P0001", 0, 0, None],
                [3, "pending", None, None, 0, 0, None],
            ],
            (UNKNOWN, {**fail("score"), "ordinal": 2}),
            leased(1, unknown_outcomes=7), leased(2), item(3),
        ),
        after(
            "lost", [[1, "pending", None, None, 0, 3, None]],
            (told("lost"),), leased(1, unknown_outcomes=2),
        ),
        after(
            "lost, and the rows stand", [[1, "done", None, None, 0, 2, None]],
            (told("lost"),), leased(1, unknown_outcomes=2), *WHOLE,
        ),
        after(
            "given back", [[1, "pending", None, None, 1, 2, None]],
            (told("released"),), leased(1, unknown_outcomes=2, crowded_out=1),
        ),
        after(
            "somebody else had filled the rest", [DONE, WAITING],
            (told("answered", answered=["profile"]),), leased(1, filled=["score"]),
            score(1, 5), *WHOLE[2:], WAITS,
        ),
        after(
            "somebody else had filled the rest, and took it away",
            [[1, "failed", None, "OB017", 0, 0, None]],
            (told("answered", answered=["profile"]),), leased(1, filled=["score"]), *WHOLE[2:],
        ),
        after(
            "one that is not leased", [[1, "pending", None, None, 0, 0, None]],
            (fail("score"),), item(1),
        ),
        after(
            "one that nobody told of", [[1, "leased", None, None, 0, 0, None]],
            ({**fail("score"), "ordinal": 2},), leased(1),
        ),
        after(
            "another run's",
            [[1, "failed", "score", "P0001", 0, 0, None], [1, "pending", None, None, 0, 0, None]],
            (fail("score"),), leased(1), item(1, run=OTHER_RUN),
        ),
        Case(
            "a lease ends when its session is done", LEFT_OF_THE_LEASE, (), [True] + [None] * 5,
            (leased(1), *WHOLE, "select " + call(told("answered"))),
        ),
        Case(
            "a lease ends when its session goes on", LEFT_OF_THE_LEASE, (), [None] * 6,
            (leased(1), "select " + call(told("released"))),
        ),
        Case(
            "and all of it is said, in the plan's order",
            "select " + call(
                {**fail("score", "OB018"), "ordinal": 2}, told("answered", answered=["score"])),
            (),
            [
                {
                    "ordinal": 1, "session_id": "s1", "state": "failed", "failed_step": None,
                    "error_code": "OB016", "error_message": NO_RECEIPT, "is_critical": True,
                },
                {
                    "ordinal": 2, "session_id": "s2", "state": "failed", "failed_step": "score",
                    "error_code": "OB018", "error_message": "no", "is_critical": True,
                },
            ],
            (leased(2), leased(1), score(1, 5)),
        ),
        Case(
            "nothing is settled", "select " + call(fail("score")), (), [], (item(1),)
        ),
        Case(
            "without effect",
            "select " + call(told("answered", answered=BOTH)) + " -> 0 ->> 'error_message'",
            (),
            "no effect: x answered by 2025-11-02 12:00:00 UTC and left no row of the wanted version"
            " in public.toy_scores. Look at what it does for this session when it is called in the"
            " SQL editor",
            (leased(1),),
        ),
    ),
)  # fmt: skip

RULES = (
    LOST_RACES,
    CONFLICTS,
    ALONE,
    BATCHES,
)
