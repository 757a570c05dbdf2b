"""Lost races: somebody else writes a row while its session is scored. The gate is not broken."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.commands import Shell
from tests.kit.seed import SEED

Db = psycopg.Connection[Any]
UNHURRIED: dict[str, Any] = {"throttle_per_minute": "none", "batch_size": 20}
INSERT = (
    "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
    " values ($1, $2, $3, '{}', 6)"
)
# What a function does about a row that is there already.
LOSERS = {
    "does nothing on conflict": INSERT + " on conflict do nothing",
    "looks first": "if not exists (select from public.fc_scores as s where s.session_id = $1"
    f" and s.version = $2) then {INSERT}; end if",
    "fails on conflict": INSERT,
}


def scorer(db: Db, body: str) -> None:
    """Another scoring function under the name that the target calls."""
    db.execute(
        "create or replace function public.score_fc_session("
        "session_id uuid, version text, basis text) returns jsonb language plpgsql"
        f" set search_path = '' as $score$ begin {body}; return '{{}}'; end $score$".encode()
    )


def live(db: Db, session_id: str) -> None:
    """An ordinary write of the wanted row."""
    db.execute(
        "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
        " values (%s, 'v1.2', 'functions', '{}', 6) on conflict do nothing",
        (session_id,),
    )


def outcome(db: Db, run_id: str, grant: dict[str, Any]) -> dict[str, Any]:
    """Make the calls of a grant up to the first that fails. Returns what a worker would tell."""
    answered: list[str] = []
    for step in grant["steps"]:
        try:
            verbs.score(db, run_id, grant["fence"], step)
        except psycopg.Error as error:
            failed = {"step": step["component"], "code": error.sqlstate, "message": "no"}
            return {
                "ordinal": grant["ordinal"], "outcome": "failed", "answered": answered, **failed,
            }  # fmt: skip
        answered.append(step["component"])
    return {"ordinal": grant["ordinal"], "outcome": "answered", "answered": answered}


def raced(db: Db, run_id: str, *, every: bool = False) -> dict[str, Any]:
    """Claim and score a batch whose first session, or each, is written by live traffic first.

    Returns the answer to its settlement.
    """
    claim_id = str(uuid4())
    granted = verbs.claim(db, run_id, claim_id)["granted"]
    for grant in granted if every else granted[:1]:
        live(db, grant["session_id"])
    answer: dict[str, Any] = verbs.settle(
        db, run_id, claim_id, [outcome(db, run_id, grant) for grant in granted]
    )
    return answer


def finish(db: Db, run_id: str) -> None:
    """Claim, score and settle until the run has ended."""
    while True:
        claim_id = str(uuid4())
        answer = verbs.claim(db, run_id, claim_id)
        if not answer["granted"]:
            assert answer["state"] == "completed", answer
            return
        outcomes = [outcome(db, run_id, grant) for grant in answer["granted"]]
        verbs.settle(db, run_id, claim_id, outcomes)


def item(db: Db, run_id: str, ordinal: int = 1) -> tuple[str, list[str], str | None]:
    """State, filled and error of a session."""
    row = db.execute(
        "select state, filled, error_code from public.backfill_items"
        " where run_id = %s and ordinal = %s",
        (run_id, ordinal),
    ).fetchone()
    assert row is not None
    return row["state"], row["filled"], row["error_code"]


@pytest.mark.parametrize("loser", LOSERS)
def test_a_row_that_somebody_else_wrote_during_the_call_is_filled_elsewhere(
    project_db: Db, loser: str
) -> None:
    """The run goes on, the other component of the session is scored, and the verdict is pass."""
    scorer(project_db, LOSERS[loser])
    run_id = verbs.started(project_db, **UNHURRIED)
    assert raced(project_db, run_id)["state"] == "running"
    finish(project_db, run_id)
    state, filled, error = item(project_db, run_id)
    assert (state in ("done", "skipped"), filled, error) == (True, ["fc_scores"], None)
    assert verbs.verdict(project_db, run_id) == "pass"


def test_one_component_of_two_is_filled_and_the_other_is_scored(project_db: Db) -> None:
    """The gate refuses the second while the first has no receipt, so it is tried again."""
    scorer(project_db, LOSERS["does nothing on conflict"])
    run_id = verbs.started(project_db, **UNHURRIED)
    claim_id = str(uuid4())
    granted = verbs.claim(project_db, run_id, claim_id)["granted"]
    both = next(grant for grant in granted if len(grant["steps"]) == 2)
    live(project_db, both["session_id"])
    told = [outcome(project_db, run_id, grant) for grant in granted]
    refused = next(t for t in told if t["ordinal"] == both["ordinal"])
    assert refused["code"] == "OB020"
    verbs.settle(project_db, run_id, claim_id, told)
    assert item(project_db, run_id, both["ordinal"]) == ("pending", ["fc_scores"], None)
    finish(project_db, run_id)
    assert item(project_db, run_id, both["ordinal"]) == ("done", ["fc_scores"], None)
    assert verbs.verdict(project_db, run_id) == "pass"


@pytest.mark.parametrize(
    ("loser", "settled"),
    [
        ("does nothing on conflict", ("paused", "OB016")),
        ("fails on conflict", ("running", "23505")),
    ],
)
def test_while_no_call_has_come_by_the_gate_it_may_be_broken(
    project_db: Db, loser: str, settled: tuple[str, str]
) -> None:
    """No row of the batch has a receipt: nothing shows that the function's writes leave any."""
    scorer(project_db, LOSERS[loser])
    run_id = verbs.started(project_db, **UNHURRIED)
    answer = raced(project_db, run_id, every=True)
    assert {(answer["state"], s["error_code"]) for s in answer["settled"]} == {settled}


def test_a_rehearsal_shows_that_calls_come_by_the_gate(project: Project) -> None:
    """Then a lost race in the first batch is no more than that, for all of its sessions."""
    scorer(project.db, LOSERS["does nothing on conflict"])
    with project.connect() as bf:
        plan = bf.plan(**{**SEED, **UNHURRIED, "priority": [], "rehearse": 1})
    project.approve(plan)
    verbs.start(project.db, plan.run_id)
    assert raced(project.db, plan.run_id, every=True)["state"] == "running"
    finish(project.db, plan.run_id)
    assert verbs.verdict(project.db, plan.run_id) == "pass"


def test_triggers_that_were_off_meanwhile_are_a_broken_gate(project_db: Db) -> None:
    """They stand again when the batch is settled, and others of it have receipts."""
    scorer(project_db, LOSERS["does nothing on conflict"])
    run_id = verbs.started(project_db, **UNHURRIED)
    claim_id = str(uuid4())
    granted = verbs.claim(project_db, run_id, claim_id)["granted"]
    told = [outcome(project_db, run_id, grant) for grant in granted[1:]]
    project_db.execute('alter table public.fc_scores disable trigger "000_backfill_receipt"')
    told.append(outcome(project_db, run_id, granted[0]))
    project_db.execute('alter table public.fc_scores enable always trigger "000_backfill_receipt"')
    assert verbs.settle(project_db, run_id, claim_id, told)["state"] == "paused"
    assert item(project_db, run_id)[2] == "OB016"


def test_races_without_end_are_looked_at(project_db: Db) -> None:
    """Twenty more of them than rows of our own: the calls may no longer come by the gate."""
    scorer(project_db, LOSERS["does nothing on conflict"])
    run_id = verbs.started(project_db, throttle_per_minute="none", batch_size=4)
    assert raced(project_db, run_id)["state"] == "running"
    project_db.execute(
        "update public.backfill_items set state = 'skipped', attempts = 1"
        " where run_id = %s and ordinal > 8",
        (run_id,),
    )
    assert raced(project_db, run_id, every=True)["state"] == "paused"


# Answers ------------------------------------------------------------------------------------------


def paused_for(project: Project) -> str:
    """A run that is paused because all rows of its first batch have no receipt."""
    scorer(project.db, LOSERS["does nothing on conflict"])
    run_id = verbs.started(project.db, **UNHURRIED)
    assert raced(project.db, run_id, every=True)["state"] == "paused"
    return run_id


def test_an_answered_event_fails_no_verdict(project: Project, bf: backfill.Backfill) -> None:
    """It stands in the chain: who, when and why. Verify tells it, and other runs do not care."""
    run_id = paused_for(project)
    with pytest.raises(backfill.BadRequest, match="needs a reason"):
        bf.resume(run_id, because=" ")
    assert bf.verify(run_id).unanswered == 1
    assert bf.resume(run_id, because="the nightly job").state == "running"
    verbs.call(project.db, "backfill_retry", p_run_id=run_id)
    finish(project.db, run_id)
    seen = bf.verify(run_id)
    assert (seen.verdict, seen.critical, seen.unanswered) == ("pass", (), 0)
    assert {(a.by, a.because) for a in seen.answered} == {("service_role", "the nightly job")}
    assert {a.what.split(": ")[1] for a in seen.answered} == {"OB016"}
    event = "select details ->> 'because' from public.backfill_events where kind = 'answered'"
    assert project.value(event) == "the nightly job"
    assert project.rows("select * from backfill_private.chain_faults(%s)", run_id) == []
    with pytest.raises(backfill.IllegalMove):
        bf.resume(run_id, because="again")


def test_a_run_that_has_ended_is_answered_and_stays(project: Project, shell: Shell) -> None:
    """The command line says the way, and the run keeps its state."""
    run_id = paused_for(project)
    project.db.execute("select public.backfill_resume(%s)", (run_id,))
    verbs.call(project.db, "backfill_retry", p_run_id=run_id)
    finish(project.db, run_id)
    told = shell("verify", run_id)
    assert (told.code, "verdict: fail" in told.out) == (4, True)
    assert f'backfill resume {run_id} --because "…"' in told.out
    assert "completed" in shell("resume", run_id, "--because", "the nightly job").out
    told = shell("verify", run_id)
    assert (told.code, "answered" in told.out, "the nightly job" in told.out) == (0, True, True)


def test_what_is_wrong_with_the_chain_has_no_answer(
    project: Project, bf: backfill.Backfill
) -> None:
    """Only critical events are answered: a receipt that is gone still fails the verdict."""
    run_id = verbs.started(project.db, **UNHURRIED)
    finish(project.db, run_id)
    project.admin.execute(
        "set session_replication_role = replica; delete from public.backfill_receipts"
        " where ordinal = 1; reset session_replication_role"
    )
    with pytest.raises(backfill.IllegalMove):
        bf.resume(run_id, because="never mind")
    assert bf.verify(run_id).verdict == "fail"
