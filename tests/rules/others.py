"""What others do meanwhile: the rows they write, the conflicts with them, who is called alone."""

from __future__ import annotations

import json

from tests.rules.batches import (
    BOTH,
    DONE,
    INFERRED,
    INFERS,
    UNKNOWN,
    WAITING,
    WAITS,
    WHOLE,
    after,
    fail,
    leased,
)
from tests.rules.canary import score
from tests.rules.case import Case, Rule
from tests.rules.standing import receipt
from tests.rules.trouble import told
from tests.rules.world import OTHER_RUN, RUN, item, run_has, stand_in

HAS_STOOD = "gate_has_stood(p_run public.backfill_runs, p_table text)"
IS_USED = "gate_is_used(p_run public.backfill_runs, p_target public.backfill_targets)"
TOO_MANY = "races_are_too_many(p_run_id uuid)"
# What the gate is asked is given. A case writes its rows in its own transaction.
GATE_WORKS = (
    stand_in(HAS_STOOD, "boolean", "select true"),
    stand_in(IS_USED, "boolean", "select true"),
    stand_in("is_written_here(p_xmin xid)", "boolean", "select false"),
)
SKIPPED = [1, "skipped", None, None, 0, 0, None]
LOST_RACES = Rule(
    "a row that somebody else wrote during the call",
    ("note_races", "races_are_too_many", "decide_outcomes"),
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
            "two sessions of a batch",
            [[n, "pending", None, None, 0, 0, None] for n in (1, 2)],
            tuple({**fail("profile", "OB020", answered=["score"]), "ordinal": n} for n in (1, 2)),
            *GATE_WORKS, leased(1), leased(2), score(1, 5), score(2, 5),
        ),
        after(
            "the gate refused another session's row", [[1, "skipped", None, None, 0, 0, None]],
            (fail("score", "OB018"),), *GATE_WORKS, leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "the gate refused another session's row of the other component",
            [[1, "failed", "profile", "OB018", 0, 0, None]],
            (fail("profile", "OB018", answered=["score"]),), *GATE_WORKS, leased(1), score(1, 5),
        ),
        after(
            "written by this very transaction", [[1, "failed", None, "OB016", 0, 0, None]],
            (told("answered", answered=["score"]),), *GATE_WORKS,
            stand_in("is_written_here(p_xmin xid)", "boolean", "select true"),
            leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "receipts are inferred", [DONE], (told("answered", answered=["score"]),),
            *INFERS, INFERRED, *GATE_WORKS, leased(1, components=["score"]), score(1, 5),
        ),
        after(
            "it was there before", [[1, "failed", "profile", "P0001", 0, 0, None], WAITING],
            (fail("profile"),), *GATE_WORKS, leased(1, filled=["score"]), score(1, 5), WAITS,
        ),
        *(
            after(
                f"{why}, so it may be ours", [[1, "failed", None, "OB016", 0, 0, None]],
                (told("answered", answered=["score"]),), *GATE_WORKS, doubt,
                leased(1, components=["score"]), score(1, 5),
            )
            for why, doubt in (
                ("the gate has not stood", stand_in(HAS_STOOD, "boolean", "select false")),
                ("nothing came by the gate", stand_in(IS_USED, "boolean", "select false")),
                ("there are too many", stand_in(TOO_MANY, "boolean", "select true")),
            )
        ),
        Case(
            "other runs' receipts are no rows of its own",
            f"select backfill_private.races_are_too_many('{RUN}')",
            (),
            True,
            (
                *(item(n, state="skipped", attempts=1) for n in range(2, 22)),
                receipt(60, run=OTHER_RUN), receipt(60, kind="undo"),
            ),
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


def in_conflict(name: str, wanted: bool, code: str, message: str, *given: str) -> Case:
    return Case(
        name,
        "select backfill_private.is_conflict_elsewhere('toy', %s, %s)",
        (code, message),
        wanted,
        ("create table public.days (day date primary key)", *given),
    )


OF_DAYS = DUPLICATE.format("days_pkey")
OF_PARTS = (
    "create table public.parts (id text, year integer, primary key (id, year))"
    " partition by list (year)",
    "create table public.parts_of_2025 partition of public.parts for values in (2025)",
    "update public.backfill_targets set table_name = 'public.parts'"
    " where target = 'toy' and component = 'score'",
)
ONCE_MORE = ": it is tried once more alone. With apply --concurrency 1 each is"


def doubted(
    name: str, outcome: str, wanted: str, *given: str, message: str = OF_DAYS, kept: str = ""
) -> Case:
    """A case of a call that met a conflict. kept: of its message, if it becomes another one."""
    conflict = told(outcome, step="score", code="23505", message=message)
    become = {**conflict, "outcome": wanted, "message": kept or message}
    query = f"select backfill_private.doubt_conflicts('{RUN}', %s)"
    return Case(name, query, (json.dumps([conflict]),), [become], given or (leased(1),))


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
        in_conflict(
            "of a component's partition", False, "23505", DUPLICATE.format("parts_of_2025_pkey"),
            *OF_PARTS,
        ),
        in_conflict(
            "of a component's partitioned table", False, "23505", DUPLICATE.format("parts_pkey"),
            *OF_PARTS,
        ),
        doubted("it failed beside others", "failed", "beside", kept=OF_DAYS + ONCE_MORE),
        doubted(
            "it says so in words of its own", "failed", "beside",
            leased(1), item(2, is_alone=True), item(1, run=OTHER_RUN, is_alone=True),
            message="schon da", kept="schon da" + ONCE_MORE,
        ),
        doubted(
            "a long message is cut", "failed", "beside",
            message=OF_DAYS + "m" * 300, kept=(OF_DAYS + "m" * 300)[:300] + ONCE_MORE,
        ),
        doubted("it failed alone", "failed", "failed", leased(1, is_alone=True)),
        doubted("it was well", "answered", "answered"),
        doubted(
            "the component's own", "failed", "failed",
            message=DUPLICATE.format("toy_scores_pkey"),
        ),
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
            (
                "two that wait",
                ["s1", [1]],
                (item(2, is_alone=True), item(1, is_alone=True)),
            ),
            (
                "one that another run holds",
                ["s1", None],
                (item(1, is_alone=True), item(1, run=OTHER_RUN, state="leased")),
            ),
            (
                "while another run holds others",
                ["s1", [1]],
                (
                    item(1, is_alone=True),
                    item(1, run=OTHER_RUN, state="leased", source="prism"),
                    item(2, run=OTHER_RUN, state="leased"),
                ),
            ),
            (
                "nobody in bulk",
                [None, None],
                (run_has(request={"mode": "bulk"}), item(1, is_alone=True)),
            ),
        )
    ),
)

RULES = (LOST_RACES, CONFLICTS, ALONE)
