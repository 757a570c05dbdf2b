"""Back-off, and the circuit breaker."""

from __future__ import annotations

import json
from typing import Any

from tests.rules.case import Case, Rule
from tests.rules.settling import WITHHELD
from tests.rules.world import OTHER_RUN, RUN, item, run_has, stand_in

Told = dict[str, Any]

# 400 draws come within a fiftieth of both ends, but once in ten million times.
SPREAD = """
select min(w.s) between %(base)s * 0.5 and %(base)s * 0.52
  and max(w.s) between %(base)s * 0.98 and %(base)s
from (select extract(epoch from backfill_private.back_off(%(troubles)s)) as s
      from generate_series(1, 400)) as w
"""
WAITS = {1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 6: 32, 7: 60, 8: 60, 11: 60, 1_000_000: 60}
BACK_OFF = Rule(
    "how long to wait",
    ("back_off",),
    tuple(
        Case(
            f"after {troubles} troubles",
            SPREAD % {"base": base, "troubles": troubles},
            (),
            True,
        )
        for troubles, base in WAITS.items()
    ),
)


def told(outcome: str, ordinal: int = 1, **more: object) -> Told:
    return {"ordinal": ordinal, "outcome": outcome, **more}


TROUBLE = f"""
select jsonb_build_array(r.state, r.reason, r.troubled_batches,
  extract(epoch from r.back_off_until - backfill_private.clock()), r.back_off_reason)
from public.backfill_runs as r where r.run_id = '{RUN}'
"""
# As the run was before: three batches in trouble, waiting for a minute.
BEFORE = run_has(
    troubled_batches=3, back_off_until="2025-11-02T12:01:00Z", back_off_reason="earlier"
)
EARLIER = ("running", None, 3, 60, "earlier")
FORGOTTEN = ("running", None, 0, None, "earlier")
STEADY = stand_in(
    "back_off(p_troubles integer)", "interval", "select p_troubles * interval '1 second'"
)


def trouble(
    name: str,
    outcomes: list[Told],
    wanted: tuple[object, ...],
    *,
    settled: tuple[str, ...] = (),
    given: tuple[str, ...] = (BEFORE,),
) -> Case:
    """A case of a batch: what was told, what it was settled to."""
    states = json.dumps([{"state": state} for state in settled])
    call = f"select backfill_private.note_trouble('{RUN}', '{json.dumps(outcomes)}', '{states}')"
    return Case(name, TROUBLE, (), list(wanted), (STEADY, *given, call))


def slow(seconds: float | None, ordinal: int = 1, code: str = "429") -> Told:
    return told("slow", ordinal, code=code, message="wait", retry_after_s=seconds)


UNKNOWN = told("unknown", code="transport", message="ReadTimeout")
ANSWERED = json.dumps([told("answered")])
SEVEN = run_has(troubled_batches=7)
SIX = run_has(troubled_batches=6)
NO_ANSWER = "no known outcome in 8 batches in a row, the last: transport ReadTimeout"
STOP = told("stop", 2, code="42501", message="no right")

NOTE_TROUBLE = Rule(
    "what a batch ran into",
    ("note_trouble", "hold"),
    (
        Case(
            "without trouble nobody looks at what is pending",
            f"select backfill_private.note_trouble('{RUN}', %s, '[]')::text",
            ('[{"ordinal": "none that could be compared", "outcome": "answered"}]',),
            "",
            (item(1),),
        ),
        trouble("all answered", [told("answered")], FORGOTTEN),
        trouble("one failed", [told("failed")], FORGOTTEN),
        trouble(
            "answered after one batch in trouble",
            [told("answered")],
            ("running", None, 0, None, None),
            given=(run_has(troubled_batches=1),),
        ),
        trouble("all given back", [told("released")], EARLIER),
        trouble("lost", [told("lost")], EARLIER),
        trouble("lost, and the row stands", [told("lost")], FORGOTTEN, settled=("done",)),
        trouble("lost, and no row stands", [told("lost")], EARLIER, settled=("pending", "failed")),
        trouble("unknown", [UNKNOWN], ("running", None, 4, 4, "transport ReadTimeout")),
        trouble(
            "the first unknown",
            [UNKNOWN],
            ("running", None, 1, 1, "transport ReadTimeout"),
            given=(),
        ),
        trouble("unknown beside answered", [UNKNOWN, told("answered", 2)], FORGOTTEN),
        trouble("unknown, and the row stands", [UNKNOWN], FORGOTTEN, settled=("done",)),
        trouble("slow", [slow(None)], ("running", None, 4, 4, "429 wait")),
        trouble("slow, for so long", [slow(30)], ("running", None, 4, 30, "429 wait")),
        trouble("slow, for half a second", [slow(0.5)], ("running", None, 4, 0.5, "429 wait")),
        trouble("slow, for a second", [slow(1)], ("running", None, 4, 1, "429 wait")),
        trouble("slow, for an hour", [slow(3600)], ("running", None, 4, 3600, "429 wait")),
        trouble("slow, for too long", [slow(7200)], ("running", None, 4, 3600, "429 wait")),
        trouble("slow, for no time", [slow(0)], ("running", None, 4, 4, "429 wait")),
        trouble("slow, for less than none", [slow(-5)], ("running", None, 4, 4, "429 wait")),
        trouble(
            "slow beside answered",
            [slow(30), told("answered", 2)],
            ("running", None, 3, 30, "429 wait"),
        ),
        trouble(
            "slow beside answered, for a while",
            [slow(None), told("answered", 2)],
            ("running", None, 3, 4, "429 wait"),
        ),
        trouble(
            "the longest wait counts",
            [slow(10, 1, "a"), slow(30, 2, "b"), slow(None, 3, "c"), slow(20, 4, "d")],
            ("running", None, 4, 30, "b wait"),
        ),
        trouble(
            "slow before unknown",
            [{**UNKNOWN, "retry_after_s": 50}, slow(10, 2)],
            ("running", None, 4, 10, "429 wait"),
        ),
        trouble("what may hit every session", [STOP], EARLIER),
        trouble(
            "slow before the rest",
            [slow(10), UNKNOWN, STOP, {**UNKNOWN, "ordinal": 3, "retry_after_s": 50}],
            ("running", None, 4, 10, "429 wait"),
        ),
        trouble("the same beside answered", [told("answered"), STOP], FORGOTTEN),
        trouble(
            "slow, a session's first time",
            [slow(30)],
            ("running", None, 4, 30, "429 wait"),
            given=(BEFORE, item(1, crowded_out=1)),
        ),
        trouble(
            "slow, a session's second time",
            [slow(30)],
            EARLIER,
            given=(BEFORE, item(1, crowded_out=2)),
        ),
        trouble(
            "slow again, beside one that is slow",
            [slow(30), slow(20, 2)],
            ("running", None, 4, 20, "429 wait"),
            given=(BEFORE, item(1, crowded_out=2), item(2, crowded_out=1)),
        ),
        trouble(
            "slow again, beside one that is answered",
            [slow(30), told("answered", 2)],
            FORGOTTEN,
            given=(BEFORE, item(1, crowded_out=2)),
        ),
        trouble(
            "slow, another run's second time",
            [slow(30)],
            ("running", None, 4, 30, "429 wait"),
            given=(BEFORE, item(1, crowded_out=1), item(1, run=OTHER_RUN, crowded_out=2)),
        ),
        trouble(
            "unknown, and often crowded out",
            [UNKNOWN],
            ("running", None, 4, 4, "transport ReadTimeout"),
            given=(BEFORE, item(1, crowded_out=2)),
        ),
        trouble(
            "contents are kept out",
            [told("unknown", code="22P02", message="secret")],
            (
                "running",
                None,
                4,
                4,
                f"22P02 {WITHHELD}",
            ),
        ),
        trouble(
            "a long message is cut",
            [told("unknown", code="c" * 30, message="m" * 400)],
            ("running", None, 4, 4, ("c" * 20 + " " + "m" * 400)[:300]),
        ),
        trouble(
            "the eighth batch, and others wait",
            [UNKNOWN],
            ("paused", NO_ANSWER, 8, 8, "transport ReadTimeout"),
            given=(SEVEN, item(2)),
        ),
        trouble(
            "the ninth batch, and others wait",
            [UNKNOWN],
            ("paused", NO_ANSWER.replace("8", "9"), 9, 9, "transport ReadTimeout"),
            given=(run_has(troubled_batches=8), item(2)),
        ),
        trouble(
            "the seventh batch, and others wait",
            [UNKNOWN],
            ("running", None, 7, 7, "transport ReadTimeout"),
            given=(SIX, item(2)),
        ),
        trouble(
            "the eighth batch, and nobody else waits",
            [UNKNOWN],
            ("running", None, 8, 8, "transport ReadTimeout"),
            given=(SEVEN, item(1), item(2, state="done"), item(3, run=OTHER_RUN)),
        ),
        trouble(
            "the eighth slow batch, and others wait",
            [slow(5)],
            ("running", None, 8, 5, "429 wait"),
            given=(SEVEN, item(2)),
        ),
        trouble(
            "another run keeps its own",
            [UNKNOWN],
            ("running", None, 1, 1, "transport ReadTimeout"),
            given=(run_has(OTHER_RUN, troubled_batches=7),),
        ),
        Case(
            "and loses nothing",
            f"select troubled_batches from public.backfill_runs where run_id = '{OTHER_RUN}'",
            (),
            5,
            (
                run_has(OTHER_RUN, troubled_batches=5),
                f"select backfill_private.note_trouble('{RUN}', '{ANSWERED}', '[]')",
            ),
        ),
    ),
)

CIRCUIT = f"""
select jsonb_build_array(r.settled_since, r.failed_since, r.failed_in_row, r.state, r.reason)
from backfill_private.run_now('{RUN}') as r
"""


def counted(settled: int, failed: int, in_row: int) -> str:
    return run_has(settled_since=settled, failed_since=failed, failed_in_row=in_row)


def circuit(
    name: str,
    settled: str,
    wanted: tuple[object, ...],
    *,
    before: tuple[int, int, int] = (0, 0, 0),
    phase: str = "recent",
    codes: tuple[str | None, ...] = ("P0001",),
    given: tuple[str, ...] = (),
) -> Case:
    """A case of a settled batch.

    settled: a letter per session in order: done, failed, pending, skipped. codes: of the sessions,
    in turn.
    """
    states = {"d": "done", "f": "failed", "p": "pending", "s": "skipped"}
    rows = [{"ordinal": n, "state": states[s]} for n, s in enumerate(settled, 1)]
    items = [
        item(
            n,
            state=states[s],
            phase=phase,
            error_code=codes[(n - 1) % len(codes)] if s == "f" else "XX000",
        )
        for n, s in enumerate(settled, 1)
    ]
    call = f"select backfill_private.break_circuit('{RUN}', '{json.dumps(rows)}')"
    return Case(name, CIRCUIT, (), list(wanted), (counted(*before), *items, *given, call))


def broken(failed: int, settled: int, code: str = "P0001") -> str:
    return (
        f"circuit breaker: {failed} of {settled} sessions failed since 11:58:07 UTC,"
        f" most with {code}"
    )


def in_canary(failed: int, code: str = "P0001") -> str:
    return f"circuit breaker: {failed} canary sessions failed in a row, most with {code}"


BREAK_CIRCUIT = Rule(
    "when a run is paused for its failures",
    ("break_circuit", "hold"),
    (
        circuit("all done", "ddd", (3, 0, 0, "running", None)),
        Case(
            "a batch's figures stand beside the row",
            "select count(*) from backfill_private.tallies",
            (),
            1,
            (f"select backfill_private.break_circuit('{RUN}', '[]')",),
        ),
        circuit("nothing settled", "ps", (5, 4, 3, "running", None), before=(5, 4, 3)),
        circuit("done ends a row of failures", "d", (6, 4, 0, "running", None), before=(5, 4, 3)),
        circuit("failed lengthens it", "ff", (7, 6, 5, "running", None), before=(5, 4, 3)),
        circuit(
            "failed after the newest that is done", "fdff", (9, 7, 2, "running", None),
            before=(5, 4, 3),
        ),
        circuit("the newest of several that are done", "dfdf", (4, 2, 1, "running", None)),
        circuit("failed before it", "ffd", (8, 6, 0, "running", None), before=(5, 4, 3)),
        circuit("pending is neither", "pfsp", (6, 5, 4, "running", None), before=(5, 4, 3)),
        circuit("a half of twenty", "f", (20, 10, 1, "running", None), before=(19, 9, 0)),
        circuit(
            "more than a half of twenty", "f", (20, 11, 1, "paused", broken(11, 20)),
            before=(19, 10, 0),
        ),
        circuit(
            "more than a half of 21", "f", (21, 11, 1, "paused", broken(11, 21)),
            before=(20, 10, 0),
        ),
        circuit("a half of 22", "f", (22, 11, 1, "running", None), before=(21, 10, 0)),
        circuit("all of nineteen", "f", (19, 19, 19, "running", None), before=(18, 18, 18)),
        circuit("a batch without a failure", "d", (30, 29, 0, "running", None), before=(29, 29, 9)),
        circuit(
            "five in a row in the canary", "f", (5, 5, 5, "paused", in_canary(5)),
            before=(4, 4, 4), phase="priority",
        ),
        circuit(
            "six in a row in the canary", "ff", (6, 6, 6, "paused", in_canary(6)),
            before=(4, 4, 4), phase="priority",
        ),
        circuit(
            "four in a row in the canary", "f", (4, 4, 4, "running", None),
            before=(3, 3, 3), phase="priority",
        ),
        circuit("five in a row after it", "f", (5, 5, 5, "running", None), before=(4, 4, 4)),
        circuit(
            "five in a row, the canary's done", "f", (5, 5, 5, "running", None), before=(4, 4, 4),
            given=(item(8, phase="priority", state="failed", error_code="P0001"),),
        ),
        circuit(
            "more than a half, in the canary", "f", (20, 11, 1, "paused", broken(11, 20)),
            before=(19, 10, 0), phase="priority",
        ),
        circuit(
            "the commonest code is named", "fff", (22, 22, 3, "paused", broken(22, 22, "23505")),
            before=(19, 19, 0), codes=("P0001", "23505", "23505"),
        ),
        circuit(
            "without a code", "f", (20, 20, 1, "paused", broken(20, 20, "no code")),
            before=(19, 19, 0), codes=(None,),
        ),
        circuit(
            "another run's failures", "f", (20, 20, 1, "paused", broken(20, 20)),
            before=(19, 19, 0),
            given=(
                item(1, run=OTHER_RUN, state="failed", phase="priority", error_code="XX000"),
            ),
        ),
        circuit(
            "five in a row, another run's canary", "f", (5, 5, 5, "running", None),
            before=(4, 4, 4),
            given=(
                item(1, run=OTHER_RUN, state="failed", phase="priority", error_code="XX000"),
            ),
        ),
        circuit(
            "a run that is held already", "f", (20, 20, 1, "cancelled", "enough"),
            before=(19, 19, 0), given=(run_has(state="cancelled", reason="enough"),),
        ),
    ),
)  # fmt: skip

WELL = f"""
select jsonb_build_array(r.settled_since, r.failed_since, r.failed_in_row, r.troubled_batches,
  extract(epoch from r.back_off_until - backfill_private.clock()))
from backfill_private.run_now('{RUN}') as r
"""
# Nine were settled, of which six failed, the newest four.
FAILING = counted(9, 6, 4)


def well(name: str, done: str, wanted: tuple[object, ...]) -> Case:
    """A case of so many sessions that batches without trouble have done."""
    call = f"select backfill_private.note_well('{RUN}', {done})"
    return Case(name, WELL, (), list(wanted), (FAILING, BEFORE, call))


NOTE_WELL = Rule(
    "what batches without trouble say",
    ("note_well",),
    (
        well("some done", "7", (16, 6, 0, 0, None)),
        well("one done", "1", (10, 6, 0, 0, None)),
        well("none done: all wait for a call of their own", "0", (9, 6, 4, 0, None)),
        well("no such batch", "null", (9, 6, 4, 3, 60)),
        Case(
            "it stands beside the row",
            "select count(*) from backfill_private.tallies",
            (),
            1,
            (f"select backfill_private.note_well('{RUN}', 5)",),
        ),
        Case(
            "another run keeps its own",
            "select jsonb_build_array(r.settled_since, r.troubled_batches)"
            f" from backfill_private.run_now('{OTHER_RUN}') as r",
            (),
            [4, 2],
            (
                run_has(OTHER_RUN, settled_since=4, troubled_batches=2),
                f"select backfill_private.note_well('{RUN}', 5)",
            ),
        ),
    ),
)

RULES = (BACK_OFF, NOTE_TROUBLE, BREAK_CIRCUIT, NOTE_WELL)
