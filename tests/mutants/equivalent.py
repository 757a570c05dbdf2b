"""Mutants of SQL that live on, each with the reason why no case of a rule notices."""

from __future__ import annotations

from typing import NamedTuple


class Survivor(NamedTuple):
    """In the body of a function `was` becomes `new`, and nothing tells the two apart."""

    function: str
    was: str
    new: str
    why: str

    def is_it(self, function: str, before: str, after: str) -> bool:
        """Whether it is the mutant whose line was before and is after."""
        return function == self.function and before.replace(self.was, self.new) == after != before


# They return one row, or select one into a variable.
FIRST_OF_TWO = (
    "fault",
    "judge_trial",
    "next_alone",
    "note_trouble",
    "session_alone",
    "witness_phase",
)

SURVIVORS = (
    Survivor(
        "back_off",
        "least(p_troubles, 10)",
        "least(p_troubles, 11)",
        "the bound keeps power() from overflowing; from seven troubles on the wait is 60 s anyway",
    ),
    Survivor(
        "back_off",
        "least(p_troubles, 10)",
        "least(p_troubles, 9)",
        "the bound keeps power() from overflowing; from seven troubles on the wait is 60 s anyway",
    ),
    Survivor(
        "break_circuit",
        "s.ordinal > coalesce(v_newest_done, 0)",
        "s.ordinal >= coalesce(v_newest_done, 0)",
        "the newest that is done has not failed, and no ordinal is 0",
    ),
    Survivor(
        "caller",
        "'request.jwt.claim.role', true",
        "'request.jwt.claim.role', false",
        "an error only while nobody has set it in the session; a case before has",
    ),
    Survivor(
        "caller",
        "pg_has_role(session_user, 'postgres', 'member')",
        "pg_has_role(session_user, 'service_role', 'member')",
        "the login of the cases is a member of both; tests/test_rules_sql.py has another one",
    ),
    Survivor(
        "decide_outcomes",
        "i.unknown_outcomes + 1 else 0 end",
        "i.unknown_outcomes + 1 else 1 end",
        "only the eighth fails a session",
    ),
    Survivor(
        "decide_outcomes",
        "i.crowded_out + 1 else 0 end",
        "i.crowded_out + 1 else 1 end",
        "only the fifth or the sixth fails a session",
    ),
    Survivor(
        "decide_outcomes",
        "when d.retry_after_s > 0",
        "when d.retry_after_s >= 0",
        "the back-off is longer than no time",
    ),
    Survivor(
        "may",
        "bool_or(",
        "bool_and(",
        "there is one caller, and one row of rights for each verb",
    ),
    Survivor(
        "next_items",
        "0) < p_limit",
        "0) <= p_limit",
        "a second look for no session finds none",
    ),
    *(
        Survivor(
            "next_witness",
            "least(v_agreed, 30)",
            f"least(v_agreed, {bound})",
            "the bound keeps power() from overflowing; no run has so many witnesses",
        )
        for bound in (29, 31)
    ),
    *(
        Survivor(
            "races_are_too_many",
            f"limit 1000) as {counted}",
            f"limit {bound}) as {counted}",
            "a bound on the work",
        )
        for counted in ("raced", "written")
        for bound in (999, 1001)
    ),
    Survivor(
        "standing",
        "select true as is_there",
        "select false as is_there",
        "only whether it is null is asked",
    ),
    *(
        Survivor(function, "limit 1", "limit 2", "the first row of two is taken")
        for function in FIRST_OF_TWO
    ),
)
