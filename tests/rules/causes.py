"""The cause that a pause has: what helps then is looked up by it."""

from __future__ import annotations

from tests.rules.canary import BAD
from tests.rules.case import Case, Rule
from tests.rules.trial import JUDGE, UNHEARD
from tests.rules.trouble import BREAK_CIRCUIT, NOTE_TROUBLE
from tests.rules.world import RUN

CAUSE = f"select r.cause from public.backfill_runs as r where r.run_id = '{RUN}'"
LOOK = "select backfill_private.judge_canary(r) from public.backfill_runs as r"


def caused(rule: Rule, name: str, wanted: str) -> Case:
    """A case of a rule by its name, asked for the cause."""
    (case,) = (case for case in rule.cases if case.name == name)
    return Case(f"of {name}", CAUSE, (), wanted, case.given)


CAUSES = Rule(
    "the cause of a pause",
    ("break_circuit", "judge_trial", "judge_unheard", "note_trouble", "judge_canary"),
    (
        caused(BREAK_CIRCUIT, "more than a half of twenty", "breaker:P0001"),
        caused(BREAK_CIRCUIT, "five in a row in the canary", "breaker:P0001"),
        caused(JUDGE, "a witness met the same, and none was done", "call:42501"),
        caused(NOTE_TROUBLE, "the eighth batch, and others wait", "no_outcome"),
        caused(UNHEARD, "the run is paused, and says how to end it", "repeats"),
        Case("of a canary", CAUSE, (), "canary", (BAD, f"{LOOK} where r.run_id = '{RUN}'")),
    ),
)
RULES = (CAUSES,)
