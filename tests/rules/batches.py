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
BATCHES = Rule(
    "what the items of a batch become",
    ("decide_outcomes", "held_items", "effects_of_steps", "no_effect", "tried_again_at"),
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
            "asked to wait for a second", [[1, "pending", "score", "429", 3, 0, 1]],
            ({**SLOW, "retry_after_s": 1},), leased(1, crowded_out=2),
            stand_in("back_off(p_troubles integer)", "interval", "select interval '0.5 second'"),
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
            "somebody else had filled the rest of one, and nothing of another",
            [DONE, [2, "failed", "score", "OB017", 0, 0, None]],
            (told("answered", answered=BOTH), told("answered", 2, answered=BOTH)),
            leased(1, filled=["score"]), leased(2), score(1, 5), *WHOLE[2:],
        ),
        after(
            "somebody else had filled the rest, and took it away",
            [[1, "failed", None, "OB017", 0, 0, None]],
            (told("answered", answered=["profile"]),), leased(1, filled=["score"]), *WHOLE[2:],
        ),
        after(
            "somebody else had filled the first, and the second failed",
            [[1, "failed", "profile", "P0001", 0, 0, None]],
            (fail("profile", answered=["score"]),), leased(1, filled=["score"]), score(1, 5),
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
        *(
            Case(
                f"it is called alone after {told_of}",
                "select i.is_alone from public.backfill_items as i", (), told_of == "beside",
                (leased(1, is_alone=True), "select " + call(told(told_of, step="score"))),
            )
            for told_of in ("beside", "released", "again")
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
        Case(
            "without effect, by an Edge Function",
            f"select backfill_private.no_effect('{RUN}', 'profile')",
            (),
            "no effect: x answered by 2025-11-02 12:00:00 UTC and left no row of the wanted version"
            " in public.toy_profiles. Look at its log of that time: it may leave the error of its"
            " write unread, or have nothing to score",
            (
                INFERRED.replace("'score'", "'profile'"),
                "update public.backfill_targets set function_signature = 'x'"
                " where component = 'profile'",
                run_has(OTHER_RUN, target="prism"),
            ),
        ),
    ),
)  # fmt: skip

RULES = (BATCHES,)
