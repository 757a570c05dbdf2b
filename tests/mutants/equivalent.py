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
        "when s.step_is_done then 'released'",
        "when s.step_is_done then 'slow'",
        "the rule of one item makes the same of released, slow and stop",
    ),
    Survivor(
        "decide_outcomes",
        "when s.step_is_done then 'released'",
        "when s.step_is_done then 'stop'",
        "the rule of one item makes the same of released, slow and stop",
    ),
    Survivor(
        "decide_outcomes",
        "i.unknown_outcomes + 1 else 0 end",
        "i.unknown_outcomes + 1 else 1 end",
        "only the eighth fails a session",
    ),
    Survivor(
        "fault", "limit 1", "limit 2", "the function returns one row, and takes the first of two"
    ),
    Survivor(
        "may",
        "bool_or(",
        "bool_and(",
        "there is one caller, and one row of rights for each verb",
    ),
    Survivor("note_trouble", "limit 1;", "limit 2;", "select into takes the first row of two"),
    Survivor(
        "pending_phase",
        "'pending' order by i.ordinal limit 1",
        "'pending' order by i.ordinal limit 2",
        "the function returns one row, and takes the first of two",
    ),
    Survivor(
        "standing",
        "r.ordinal > $2 and r.ordinal <= $3",
        "r.ordinal >= $2 and r.ordinal <= $3",
        "receipts are joined to items, and no item has this ordinal",
    ),
)
