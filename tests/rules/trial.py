"""Whether an error is one session's or every session's."""

from __future__ import annotations

import json
from typing import Any

from tests.rules.batches import CLAIM, OF_ANOTHER, STOPPED, WHOLE, call, leased
from tests.rules.case import Case, Rule
from tests.rules.trouble import STEADY, Told, told
from tests.rules.world import OTHER_RUN, RUN, item, run_has, stand_in

LATER = "2025-11-02T12:00:01Z"
SCORE = {"step": "score", "code": "42501", "message": "no right"}


def aside(ordinal: int, code: str = "42501", trial: str = "aside", **more: Any) -> str:
    """An item that is set aside."""
    met: dict[str, Any] = {
        "failed_step": "score",
        "error_code": code,
        "error_message": f"met {code}",
    }
    return item(ordinal, trial=trial, **{**met, **more})


def asked(function: str, name: str, wanted: object, *given: str, values: str = "") -> Case:
    query = f"select backfill_private.{function}('{RUN}'{values})"
    return Case(name, query, (), wanted, given)


IS_ON_TRIAL = Rule(
    "whether a session is set aside",
    ("is_on_trial", "has_done"),
    (
        asked("is_on_trial", "none", False, item(1), item(2, state="failed")),
        asked("is_on_trial", "one", True, item(1), aside(2)),
        asked("is_on_trial", "one that agreed", True, aside(2, trial="agreed")),
        asked("is_on_trial", "one before a resume", False, aside(1, trial="resumed")),
        asked("is_on_trial", "one that was called", False, aside(1, trial="called")),
        asked("is_on_trial", "another run's", False, item(1), aside(2, run=OTHER_RUN)),
        asked("is_on_trial", "none that is pending", False, aside(1, state="leased")),
        asked("has_done", "none is done", False, item(1, state="failed"), item(2)),
        asked("has_done", "one is done", True, item(1), item(2, state="done")),
        asked("has_done", "another run's is", False, item(1, run=OTHER_RUN, state="done")),
    ),
)

NEEDED = f"""
select backfill_private.witnesses_needed(r) from public.backfill_runs as r where r.run_id = '{RUN}'
"""


def needed(name: str, wanted: int, settled: int, failed: int, trials: int = 0) -> Case:
    has = run_has(settled_since=settled, failed_since=failed, trials=trials)
    return Case(name, NEEDED, (), wanted, (has,))


WITNESSES_NEEDED = Rule(
    "how many have to meet the same",
    ("witnesses_needed",),
    (
        needed("none was done", 1, 0, 0),
        needed("all failed", 1, 4, 4, 2),
        needed("one was done", 3, 5, 4),
        needed("one was done, and it was a single session's once", 4, 5, 4, 1),
        needed("and often", 10, 9, 4, 7),
        needed("and very often", 10, 9, 4, 8),
    ),
)


def witness(name: str, wanted: list[int] | None, *given: str) -> Case:
    return asked("next_witness", name, wanted, *given, values=", 'recent'")


NEXT_WITNESS = Rule(
    "which session is tried alone",
    ("next_witness",),
    (
        witness("none is left", None, aside(1), item(2, state="done")),
        witness("the last of the phase", [4], aside(1), item(2), item(3), item(4)),
        witness("no other phase's", [2], aside(1), item(2), item(3, phase="historical")),
        witness("no other run's", [2], aside(1), item(2), item(3, run=OTHER_RUN)),
        witness("none that waits", [2], aside(1), item(2), item(3, not_before=LATER)),
        witness("none that is aside", [2], item(2), aside(1), aside(3), aside(4, trial="agreed")),
        witness(
            "none that another run holds", [2],
            aside(1), item(2), item(3), item(3, run=OTHER_RUN, state="leased"),
        ),
        witness(
            "the second from the middle", [5],
            *(item(n) for n in range(1, 9)), aside(9, trial="agreed"), aside(10),
        ),
        witness(
            "the third from the quarter", [3],
            *(item(n) for n in range(1, 9)), aside(9, trial="agreed"), aside(10, trial="agreed"),
        ),
        witness(
            "the middle of those that may be witnesses", [15],
            *(item(n) for n in range(11, 19)), aside(19, trial="agreed"), aside(20),
            item(30, state="done"), item(40, phase="historical"), item(50, run=OTHER_RUN),
        ),
        witness(
            "another run's agreed", [8],
            *(item(n) for n in range(1, 9)), aside(9, trial="agreed", run=OTHER_RUN), aside(10),
        ),
        witness(
            "rather one without trouble", [2],
            aside(1), item(2), item(3, trial="resumed"), item(4, not_before="2025-11-02T12:00:00Z"),
        ),
        witness("one that had trouble, else", [2], aside(1), item(2, trial="resumed")),
        witness(
            "and no second one", [2],
            aside(1), item(2, trial="resumed"), item(3, trial="resumed"),
        ),
    ),
)  # fmt: skip


def phase(name: str, wanted: str | None, at: str, *given: str) -> Case:
    return asked("witness_phase", name, wanted, *given, values=f", '{at}'")


WITNESS_PHASE = Rule(
    "where a witness may be found",
    ("witness_phase",),
    (
        phase("nowhere", None, "recent", aside(1), item(2, state="leased")),
        phase("in the same phase", "recent", "recent", aside(1), item(2)),
        phase("while it waits", "recent", "recent", aside(1), item(2, not_before=LATER)),
        phase("in the next", "historical", "recent", aside(1), item(2, phase="historical")),
        phase(
            "the same comes first", "historical", "historical",
            aside(1), item(2), item(3, phase="historical"),
        ),
        phase(
            "the canary judges itself", None, "priority",
            aside(1, phase="priority"), item(2),
        ),
        phase("after a resume", "recent", "recent", aside(1), item(2, trial="resumed")),
        phase("in no other run", None, "recent", aside(1), item(2, run=OTHER_RUN)),
    ),
)  # fmt: skip

JUDGED = f"""
select jsonb_build_array(r.state, r.reason, r.trials, (
  select jsonb_agg(i.state order by i.ordinal) from public.backfill_items as i
  where i.run_id = r.run_id))
from public.backfill_runs as r where r.run_id = '{RUN}'
"""
EVERY = "every call would fail: 42501 met 42501"
OTHER_ERROR = "every call would fail: 42P01 met 42P01"
SOME_DONE, NONE_DONE = run_has(settled_since=3), run_has(settled_since=0)
WELL = item(9, state="done", trial="called")


def judged(
    name: str, wanted: list[object], *given: str, settled: dict[int, str] | None, trials: int = 0
) -> Case:
    """A case of a trial. settled: of the batch before. None: no witness is left."""
    told = settled and json.dumps([{"ordinal": n, "state": s} for n, s in settled.items()])
    said = f"'{told}'" if settled else "null"
    ask = f"select backfill_private.judge_trial('{RUN}', {said})"
    return Case(name, JUDGED, (), wanted, (*given, ask))


def agreed(ordinal: int, code: str = "42501") -> str:
    return aside(ordinal, code, trial="agreed")


PP, FAILED = ["pending", "pending"], "failed"
LEFT, MET = None, {2: "pending"}
JUDGE = Rule(
    "what becomes of a trial",
    ("judge_trial", "fail_set_aside", "hold"),
    (
        judged("no session is set aside", ["running", None, 0, ["pending"]], item(1), settled=LEFT),
        judged(
            "a witness met the same, and none was done", ["paused", EVERY, 0, PP],
            NONE_DONE, aside(1), agreed(2), settled=MET,
        ),
        judged(
            "a witness met the same, and some were done", ["running", None, 0, PP],
            SOME_DONE, aside(1), agreed(2), settled=MET,
        ),
        judged(
            "with what helps", ["paused", f"{EVERY}. look", 0, PP],
            NONE_DONE, aside(1), agreed(2),
            stand_in(
                "call_cause(p_target text, p_code text, p_message text)", "text", "select 'look'"
            ),
            settled=MET,
        ),
        judged(
            "three did, and some were done", ["paused", EVERY, 0, [*PP, *PP]],
            SOME_DONE, aside(1), agreed(2), agreed(3), agreed(4), settled=MET,
        ),
        judged(
            "two did, none is left, and none was done", ["paused", EVERY, 0, [*PP, "pending"]],
            NONE_DONE, aside(1), agreed(2), agreed(3), settled=LEFT,
        ),
        judged(
            "two did, none is left, and some were done",
            ["running", None, 1, [FAILED, FAILED, FAILED]],
            SOME_DONE, aside(1), agreed(2), agreed(3), settled=LEFT,
        ),
        judged(
            "one did, none is left, and some were done", ["running", None, 1, [FAILED, FAILED]],
            SOME_DONE, aside(1), agreed(2), settled=LEFT,
        ),
        judged(
            "one did, none is left, and such an error was one session's before",
            ["running", None, 2, [FAILED, FAILED]],
            SOME_DONE, run_has(trials=1), aside(1), agreed(2), settled=LEFT,
        ),
        judged(
            "a witness met one of two errors", ["paused", OTHER_ERROR, 0, [*PP, *PP]],
            NONE_DONE, aside(1), aside(2), aside(3, "42P01"), agreed(4, "42P01"), settled=MET,
        ),
        judged(
            "more sessions met the second of two errors",
            ["paused", OTHER_ERROR, 0, [*PP, *PP, "pending"]],
            NONE_DONE, aside(1), agreed(2), aside(3, "42P01"), aside(4, "42P01"),
            agreed(5, "42P01"), settled=MET,
        ),
        judged(
            "a witness met another error", ["running", None, 0, PP],
            NONE_DONE, aside(1), agreed(2, "42P01"), settled=MET,
        ),
        judged(
            "two met another error, and the same", ["paused", OTHER_ERROR, 0, [*PP, "pending"]],
            NONE_DONE, aside(1), agreed(2, "42P01"), agreed(3, "42P01"),
            settled=MET,
        ),
        judged(
            "another error, and none is left", ["running", None, 1, [FAILED, FAILED]],
            NONE_DONE, aside(1), agreed(2, "42P01"), settled=LEFT,
        ),
        judged(
            "both met it side by side, none is left and none was done", ["paused", EVERY, 0, PP],
            NONE_DONE, aside(1), aside(2), settled=LEFT,
        ),
        judged(
            "both met it side by side, none is left and some were done",
            ["running", None, 1, [FAILED, FAILED]],
            SOME_DONE, aside(1), aside(2), settled=LEFT,
        ),
        judged(
            "both met it side by side, and others are left", ["running", None, 0, PP],
            NONE_DONE, aside(1), aside(2), settled=MET,
        ),
        judged(
            "one is alone", ["running", None, 1, [FAILED]], NONE_DONE, aside(1), settled=LEFT
        ),
        judged(
            "the witness is done", ["running", None, 1, [FAILED, "done"]],
            NONE_DONE, aside(1), WELL, settled={9: "done"},
        ),
        judged(
            "the second witness is done", ["running", None, 1, [FAILED, FAILED, "done"]],
            SOME_DONE, aside(1), agreed(2), WELL, settled={9: "done"},
        ),
        judged(
            "an earlier witness was done", ["running", None, 0, ["pending", "done"]],
            NONE_DONE, aside(1), WELL, settled={8: "done"},
        ),
        judged(
            "one that was no witness is done", ["running", None, 0, ["pending", "done"]],
            NONE_DONE, aside(1), item(9, state="done"), settled={9: "done"},
        ),
        judged(
            "the witness has failed otherwise", ["running", None, 0, ["pending", "failed"]],
            NONE_DONE, aside(1), item(9, state="failed"), settled={9: "failed"},
        ),
        judged(
            "another run's witness is done", ["running", None, 0, ["pending"]],
            NONE_DONE, aside(1), item(9, run=OTHER_RUN, state="done", trial="called"),
            settled={9: "done"},
        ),
        judged(
            "another run's session met the same", ["running", None, 1, [FAILED]],
            NONE_DONE, aside(1), aside(2, run=OTHER_RUN), settled=LEFT,
        ),
        judged(
            "the first of them speaks", ["paused", "every call would fail: 42501 first", 0, PP],
            NONE_DONE, aside(1, error_message="first"), agreed(2), settled=MET,
        ),
        judged(
            "one before a resume keeps waiting", ["running", None, 1, [FAILED, "pending"]],
            NONE_DONE, aside(1), item(2, trial="resumed"), settled=LEFT,
        ),
        judged(
            "the run is held already", ["cancelled", None, 0, PP],
            NONE_DONE, run_has(state="cancelled"), aside(1), agreed(2), settled=MET,
        ),
        Case(
            "and it says which have failed",
            f"select to_jsonb(backfill_private.judge_trial('{RUN}', null))", (), [1, 3],
            (SOME_DONE, aside(1), item(2, state="done"), aside(3)),
        ),
        Case(
            "they count for the breaker",
            f"select jsonb_build_array(settled_since, failed_since, failed_in_row)"
            f" from backfill_private.run_now('{RUN}')", (), [5, 2, 2],
            (SOME_DONE, aside(1), aside(3), f"select backfill_private.judge_trial('{RUN}', null)"),
        ),
        Case(
            "they end with the error that they met",
            "select jsonb_build_array(failed_step, error_code, error_message, trial, settled_at)"
            " from public.backfill_items", (),
            ["score", "42501", "met 42501", None, "2025-11-02T12:00:00+00:00"],
            (aside(1), f"select backfill_private.judge_trial('{RUN}', null)"),
        ),
    ),
)  # fmt: skip

GRANT = (
    "grant_batch(p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer,"
    " p_is_witness boolean default false)"
)


def granted(*ordinals: int) -> str:
    """What grant_batch says in place of a lease, if one witness is asked for."""
    told = json.dumps([{"ordinal": n} for n in ordinals])
    body = f"select case when p_limit = 1 and p_is_witness then '{told}' else '[0]' end::jsonb"
    return stand_in(GRANT, "jsonb", body)


def calls(name: str, wanted: object, *given: str, grants: str, wait_s: int = 0) -> Case:
    """A case of a claim while a session is set aside. The next claim says what the run became."""
    claimed = stand_in(
        "claim_batch(p_run_id uuid, p_claim_id uuid, p_worker text, p_apart boolean)",
        "jsonb",
        "select jsonb_build_object('claimed', jsonb_agg(i.state order by i.ordinal), 'apart',"
        " p_apart) from public.backfill_items as i where i.run_id = p_run_id",
    )
    query = (
        f"select backfill_private.call_witness(r, 'recent', '{CLAIM}', 'w', case when {wait_s} > 0"
        f" then backfill_private.wait_for('throttle', {wait_s}, '20 starts per minute') end)"
        f" from public.backfill_runs as r where r.run_id = '{RUN}'"
    )
    return Case(name, query, (), wanted, (claimed, grants, *given))


def waits(what: str, seconds: float, why: str) -> dict[str, object]:
    return {"granted": [], "wait_for": what, "wait_s": seconds, "why": why}


HOLDERS = stand_in("lease_holders(p_run_id uuid)", "text", "select 'w is busy'")
BUSY = waits("leases", 1, "w is busy")
CALL_WITNESS = Rule(
    "when a witness is called",
    ("call_witness", "wait_for_ready"),
    (
        calls("nothing else is under way", {"granted": [{"ordinal": 2}]}, aside(1), item(2),
              grants=granted(2)),
        calls("another is under way", BUSY, HOLDERS, aside(1), item(2), leased(3),
              grants=granted(2)),
        calls("another run's is", {"granted": [{"ordinal": 2}]}, aside(1), item(2), OF_ANOTHER,
              grants=granted(2)),
        calls("the throttle says no", waits("throttle", 1, "20 starts per minute"), aside(1),
              item(2), grants=granted(2), wait_s=1),
        calls("the throttle says no, and no witness is left",
              {"claimed": ["failed"], "apart": False}, aside(1), grants=granted(), wait_s=7),
        calls("no witness is left", {"claimed": ["failed"], "apart": False}, aside(1),
              grants=granted(2)),
        calls("another run holds the witness", BUSY, HOLDERS, aside(1), item(2),
              grants=granted()),
        calls("the witness backs off", waits("back-off", 1, "session s3 met 429 wait"),
              HOLDERS, aside(1),
              item(2, not_before="2025-11-02T12:00:05Z"),
              item(3, not_before=LATER, error_code="429", error_message="wait"),
              item(4, not_before="2025-11-02T11:00:00Z", phase="historical"),
              item(5, not_before="2025-11-02T11:00:00Z", run=OTHER_RUN),
              item(6, not_before="2025-11-02T11:00:00Z", state="done"),
              aside(7, not_before="2025-11-02T11:00:00Z"),
              grants=granted()),
        calls("the witness has backed off", BUSY, HOLDERS, aside(1),
              item(2, not_before="2025-11-02T12:00:00Z"), grants=granted()),
        calls("one backs off, and one does not", BUSY, HOLDERS, aside(1), item(2),
              item(3, not_before=LATER), grants=granted()),
        calls("it is of the next phase, and it backs off",
              waits("back-off", 1, "session s2 met"), HOLDERS, aside(1),
              item(2, phase="historical", not_before=LATER), grants=granted()),
    ),
)  # fmt: skip

PARTS = "select jsonb_agg(i.trial order by i.ordinal) from public.backfill_items as i"


def part(name: str, wanted: list[str | None], *given: str, told: dict[str, object]) -> Case:
    """A case of a session's part after its batch was settled."""
    return Case(name, PARTS, (), wanted, (STEADY, *given, f"select {call(told)}"))


TRIAL = Rule(
    "a session's part in a trial",
    ("decide_outcomes",),
    (
        part("it met such an error", ["aside"], leased(1), told=STOPPED),
        part("as a witness", ["agreed"], leased(1, trial="called"), told=STOPPED),
        part("after a resume", ["aside"], leased(1, trial="resumed"), told=STOPPED),
        part("without a code", ["aside"], leased(1), told=told("stop", step="score")),
        part("as its run is held", [None], leased(1), told={**STOPPED, "code": "OB012"}),
        part("its row stands", [None], leased(1), *WHOLE, told=STOPPED),
        part(
            "a witness is done",
            ["called"],
            leased(1, trial="called"),
            *WHOLE,
            told=told("answered"),
        ),
        part("another is done", [None], leased(1, trial="resumed"), *WHOLE, told=told("answered")),
        part("a witness failed", [None], leased(1, trial="called"), told=told("answered")),
        part("a witness was lost", [None], leased(1, trial="called"), told=told("lost")),
        part(
            "given back after a resume",
            ["resumed"],
            leased(1, trial="resumed"),
            told=told("released"),
        ),
    ),
)

FREE = "select backfill_private.are_others_free('{}', '{}')"


def free(name: str, wanted: bool, *given: str, told: str = "slow", batches: int = 1) -> Case:
    query = FREE.format(RUN, json.dumps([{"ordinal": 1, "outcome": told}]))
    return Case(name, query, (), wanted, (run_has(troubled_batches=batches), *given))


OTHERS_FREE = Rule(
    "whether the others are not asked to wait",
    ("are_others_free",),
    (
        free("another was answered", True, item(2), told="answered"),
        free("the batch before was", True, item(2), batches=0),
        free("nobody was", False, item(2)),
        free("some were before, and one was not called yet", False, SOME_DONE, item(2)),
        free(
            "some were before, and all that is left was asked to wait",
            True,
            SOME_DONE,
            item(2, error_code="429"),
        ),
        free(
            "none was before, and all that is left was asked to wait",
            False,
            NONE_DONE,
            item(2, error_code="429"),
        ),
        free("nobody is left", True, item(2, state="done")),
        free("another run's is left", True, item(2, run=OTHER_RUN)),
        free("all that are left have a limit too", True, item(2, crowded_out=1)),
        free("one of those that are left has none", False, item(2, crowded_out=1), item(3)),
        free("those that are set aside do not count", True, aside(2)),
    ),
)

REPEATING = "select jsonb_agg(o ->> 'outcome') from jsonb_array_elements({}) as o"


def unheard(name: str, wanted: list[str], outcomes: list[Told], pids: str, *given: str) -> Case:
    """A case of a batch. pids: of the calls that the API repeats, given whether none is beside."""
    looks = stand_in(LOOKS, "integer[]", f"select {pids}")
    said = f"backfill_private.judge_unheard('{RUN}', '{json.dumps(outcomes)}')"
    return Case(name, REPEATING.format(said), (), wanted, (looks, *given))


ALONE = "case when p_is_alone then '{7}' else '{}' end::integer[]"
LOST = told("unknown", step="score", code="transport", message="ReadTimeout")
LOOKS = "repeating_backends(p_target text, p_is_alone boolean)"
REPEATED = stand_in(LOOKS, "integer[]", "select '{7,8}'::integer[]")
HELD = "the API repeats a scoring call without end"
UNHEARD = Rule(
    "whether the API repeats a call that nobody heard of",
    ("judge_unheard", "hold"),
    (
        unheard("no call is repeated", ["unknown"], [LOST], "'{}'::integer[]"),
        unheard("one is", ["failed"], [LOST], "'{7}'::integer[]"),
        unheard("all were heard", ["answered"], [told("answered")], "'{7}'::integer[]"),
        unheard(
            "those that were heard stay", ["answered", "failed"],
            [told("answered"), {**LOST, "ordinal": 2}], "'{7}'::integer[]",
        ),
        unheard("no other call is under way", ["failed"], [LOST], ALONE, leased(1), item(2)),
        unheard("another is under way", ["unknown"], [LOST], ALONE, leased(1), leased(2)),
        unheard("another run's is", ["failed"], [LOST], ALONE, leased(1), OF_ANOTHER),
        unheard(
            "another target's calls are repeated", ["unknown"], [LOST],
            "case p_target when 'prism' then '{7}' else '{}' end::integer[]",
            run_has(OTHER_RUN, target="prism"),
        ),
        Case(
            "and what is kept of the call",
            f"select backfill_private.judge_unheard('{RUN}', '{json.dumps([LOST])}') -> 0",
            (),
            {
                **LOST,
                "outcome": "failed",
                "code": "40001",
                "message": "no answer, while the API repeats such a call without end."
                " It is not called again",
            },
            (REPEATED,),
        ),
        Case(
            "the run is paused, and says how to end it",
            "select concat_ws(' ', state || ':', reason,"
            " backfill_private.helps(r, r.cause) ->> 'lines')"
            f" from public.backfill_runs as r where run_id = '{RUN}'",
            (),
            f"paused: {HELD}, in backends 7, 8: a function raises 40001, which PostgREST before"
            ' version 16 calls again ["select pg_terminate_backend(pid) from'
            f' unnest(array[7, 8]) as pid;", "backfill plan --like {RUN} --mode bulk"]',
            (
                REPEATED,
                f"select backfill_private.judge_unheard('{RUN}', '{json.dumps([LOST])}')",
            ),
        ),
    ),
)  # fmt: skip

RULES = (
    UNHEARD,
    IS_ON_TRIAL,
    WITNESSES_NEEDED,
    NEXT_WITNESS,
    WITNESS_PHASE,
    CALL_WITNESS,
    JUDGE,
    TRIAL,
    OTHERS_FREE,
)
