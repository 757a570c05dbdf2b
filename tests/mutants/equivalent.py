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
    "pending_phase",
    "session_alone",
    "slots_free_at",
    "wait_for_ready",
    "witness_phase",
)

FIRST_EPOCH = "the transactions of a new database are of the first epoch"
SAME = "the two are the same here"
WHOLE_ORDER = "a type has all operators of an order, or none"
ONE_LETTER = 'a "char" keeps one letter'
TAKEN_MEANWHILE = "only while another transaction takes what is free"
NO_LENGTH = "no length, or of a type that has none"

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
        "first_in_bulk",
        "greatest(r.p50_ms, 0.1)",
        "greatest(r.p50_ms, 0.2)",
        "either asks for more than the most",
    ),
    *(
        Survivor("slots_wait_s", was, new, TAKEN_MEANWHILE)
        for was, new in (
            ("v_wait_s > 0", "v_wait_s >= 0"),
            ("else 1::", "else 2::"),
            ("else 1::", "else 0::"),
        )
    ),
    Survivor("pace", "p_per_minute > v_was", "p_per_minute >= v_was", "what it was is no change"),
    Survivor("take_slots", "project allows'", "project allowsx'", TAKEN_MEANWHILE),
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
    *(
        Survivor("is_written_here", was, new, why)
        for was, new, why in (
            ("mod(v_mine, 4294967296)", "mod(v_mine, 4294967297)", FIRST_EPOCH),
            ("mod(v_mine, 4294967296)", "mod(v_mine, 4294967295)", FIRST_EPOCH),
            (">= 2147483648", "> 2147483648", "no row is so far from who reads it"),
            (">= 2147483648", ">= 2147483649", "no row is so far from who reads it"),
            (">= 2147483648", ">= 2147483647", "no row is so far from who reads it"),
            ("- 4294967296;", "- 4294967297;", "of two transactions before, both have ended"),
            ("v_ahead > 0", "v_ahead > 1", "transaction 1 made the database"),
        )
    ),
    *(
        Survivor("common_form", f"comparison(min(k.type), {was}", f"comparison({new}", why)
        for was, new, why in (
            ("3", "max(k.type), 3", SAME),
            ("3", "min(k.type), 2", WHOLE_ORDER),
            ("3", "min(k.type), 4", WHOLE_ORDER),
        )
    ),
    Survivor("common_form", "t.oid = min(k.type)", "t.oid = max(k.type)", SAME),
    Survivor("common_form", "min(k.kind) <> 'moment'", "max(k.kind) <> 'moment'", SAME),
    Survivor("common_form", "'%s::' || max(k.kind)", "'%s::' || min(k.kind)", SAME),
    Survivor("filter_words", "'op', '=')", "'op', '=x')", "neither has a word here"),
    *(
        Survivor(function, "'A'", "'Ax'", ONE_LETTER)
        for function in ("common_form", "filter_fault")
    ),
    *(
        Survivor(
            "filter_fault", "comparison(v_type, 3)", f"comparison(v_type, {place})", WHOLE_ORDER
        )
        for place in (2, 4)
    ),
    *(
        Survivor(
            "filter_fault", f"format_type({of}, -1)", f"format_type({of}, {length})", NO_LENGTH
        )
        for of, length in (
            ("v_type", "-2"),
            ("v_other_type", "-2"),
            ("v_type", "-0"),
            ("v_type", "+1"),
        )
    ),
    Survivor(
        "standing",
        "select true as is_there",
        "select false as is_there",
        "only whether it is null is asked",
    ),
    Survivor(
        "tried_again_at",
        "when p_retry_after_s > 0",
        "when p_retry_after_s >= 0",
        "the back-off is longer than no time",
    ),
    *(
        Survivor(function, "limit 1", "limit 2", "the first row of two is taken")
        for function in FIRST_OF_TWO
    ),
)
