"""The proof can fail: a database that does not look at its receipts is told from one that does."""

from __future__ import annotations

import pytest

from tests.faults.proxy import Strike, cut, first_call_of_every
from tests.faults.scenario import SESSIONS, Scene

OUTCOME = (
    "backfill_private.outcome(boolean,boolean,text,text,text,text,text,integer,integer)",
    "if p_is_complete then",
)
STEPS = (
    "backfill_private.steps(public.backfill_runs,integer[])",
    "where e.is_wanted and e.has_receipt",
)
# What each function says, and what it says where an unknown outcome is guessed.
GUESSES = {
    "not done": {
        OUTCOME: "if p_is_complete and p_outcome not in ('unknown', 'lost') then",
        STEPS: "where false",
    },
    "done": {OUTCOME: "if p_is_complete or p_outcome in ('unknown', 'lost') then"},
}


def guess(scene: Scene, what: str) -> None:
    """Replace what looks at the receipts."""
    for (function, said), says in GUESSES[what].items():
        definition = scene.project.value("select pg_get_functiondef(%s::regprocedure)", function)
        assert definition.count(said) == 1
        scene.project.db.execute(definition.replace(said, says).encode())


@pytest.mark.parametrize(("what", "forwards"), [("not done", True), ("done", False)])
def test_without_a_look_at_the_receipts_the_harness_reports_it(
    scene: Scene, what: str, forwards: bool
) -> None:
    """Taken for not done, committed sessions are scored twice; taken for done, others are lost."""
    guess(scene, what)
    scene.proxy.strikes = [Strike(cut(forwards=forwards), first_call_of_every(3))]
    run_id = scene.planned()
    scene.go_on(run_id)
    assert scene.outcomes()["unknown"] > 0
    case = f"without the receipts, unknown is taken for {what}"
    found = scene.measured(case)
    assert (found.twice if forwards else found.lost) > SESSIONS // 4
    with pytest.raises(AssertionError):
        scene.ends_as_undisturbed(case, run_id)
