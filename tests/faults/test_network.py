"""Whatever happens between client and project, a run ends as one that nobody disturbed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import backfill
from tests.faults.clock import forget
from tests.faults.proxy import (
    OWN,
    SCORING,
    Call,
    Fault,
    Nth,
    Strike,
    cut,
    deaf,
    first_call_of_every,
    half_a_body,
    held,
    in_turn,
    numbered,
    says,
)
from tests.faults.scenario import (
    CONCURRENCY,
    MIDWAY,
    SESSIONS,
    Scene,
    hits_of,
    wait_until,
)
from tests.faults.subjects import AT_THE_WRITE, IN_SQL
from tests.kit.whole import together

pytestmark = pytest.mark.usefixtures("at_once")

PAGE = "<html><head><title>Bad gateway</title></head><body>It will be back.</body></html>"


def on_own_calls(call: Call) -> bool:
    """Some of the calls that are ours and not the project's: each of them once in a row."""
    return numbered("backfill_claim", 1, 4, 9)(call) or numbered("backfill_settle", 2, 7)(call)


BREAKS: dict[str, list[Fault]] = {
    "reply dropped after commit": [cut(forwards=True)],
    "connection cut before the request is forwarded": [cut(forwards=False)],
    "half a body, then the connection closes": [half_a_body()],
}
ANSWERS: dict[str, list[Fault]] = {
    "502 with an HTML page": [says(502, PAGE), says(502, PAGE, forwards=True)],
    "200 with an HTML page": [says(200, PAGE), says(200, PAGE, forwards=True)],
    "504 after the call committed": [says(504, PAGE, forwards=True)],
    "520 without a body": [says(520, ""), says(520, "", forwards=True)],
}
UNKNOWN = {
    **together("a connection that breaks in every way", BREAKS),
    **together("every answer of somebody else's", ANSWERS),
}


def two_thirds(call: Call) -> bool:
    """The first calls of two thirds of the sessions."""
    return any(first_call_of_every(3, beginning_with=nth)(call) for nth in (0, 1))


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_outcome_is_looked_up_and_not_guessed(scene: Scene, case: str) -> None:
    """Two thirds of the sessions and five calls of ours lose their answer; nothing else changes."""
    faults = UNKNOWN[case]
    scene.proxy.strikes = [*in_turn(faults, two_thirds), *in_turn(faults, on_own_calls)]
    run_id = scene.planned()
    assert scene.apply(run_id).is_complete
    assert scene.outcomes()["unknown"] >= hits_of(scene.proxy.hits, *SCORING) > SESSIONS // 2
    assert hits_of(scene.proxy.hits, *OWN) == 5
    assert {hit.fault for hit in scene.proxy.hits} == {fault.name for fault in faults}
    scene.ends_as_undisturbed(case, run_id)


# What a gateway and newer releases of PostgREST say -----------------------------------------------

LOST = "Lost connection to the database"
NEWER: list[Fault] = [
    says(503, {"code": "PGRST000", "message": LOST, "details": "no route", "hint": None}),
    says(503, {"code": "PGRST001", "message": LOST, "details": None, "hint": None}),
    says(503, {"code": "PGRST002", "message": "Could not query the schema", "details": None}),
    says(504, {"code": "PGRST003", "message": "Timed out acquiring connection from the pool"}),
    says(503, {"code": "53300", "message": "too many connections", "details": None, "hint": None}),
    says(503, {"code": "57P01", "message": "terminating connection", "details": None}),
    says(409, {"code": "40001", "message": "could not serialize access", "details": None}),
    # A connection of the pool on which a failed call was never ended.
    says(500, {"code": "25P02", "message": "current transaction is aborted", "details": None}),
    says(503, {"message": "name resolution failed"}),
    says(500, {"error": "internal", "request_id": "00000000"}, forwards=True),
    says(524, {"code": None, "message": "A timeout occurred"}, forwards=True),
    # PostgREST, where its connection to the database breaks under a call.
    says(400, {"code": "", "message": "", "details": None, "hint": None}, forwards=True),
    says(400, {"code": "", "message": "", "details": "", "hint": None}),
    says(544, [], forwards=True),
    says(546, "null", forwards=True),
    # What no database can keep, what no request can carry, and what is no text at all.
    says(503, {"code": "PGRST000", "message": "a \x00 in it", "details": None}, forwards=True),
    says(503, {"code": "PGRST\x00", "message": "half a character: \ud800"}),
    says(503, {"code": ["x"], "message": {"detail": 1}}),
]
AFTER_COMMIT_ONLY: list[Fault] = [
    says(406, {"code": "PGRST116", "message": "Cannot coerce", "details": "0 rows"}, forwards=True),
    says(405, {"code": "PGRST117", "message": "Unsupported HTTP method"}, forwards=True),
]


def share(faults: list[Fault]) -> list[Strike]:
    """On every second session that comes, one fault after the other."""
    came: dict[str, int] = {}

    def turn(nth: int) -> Callable[[Call], bool]:
        def picks(call: Call) -> bool:
            if call.function not in SCORING or call.nth > 1:
                return False
            return came.setdefault(call.session_id, len(came)) % (2 * len(faults)) == 2 * nth

        return picks

    return [Strike(fault, turn(nth)) for nth, fault in enumerate(faults)]


def test_whatever_an_error_is_called_the_receipts_decide(scene: Scene) -> None:
    """Codes of newer releases and gateways without one: nothing is taken from what they say."""
    scene.proxy.strikes = share(NEWER)
    run_id = scene.planned()
    assert scene.go_on(run_id).is_complete
    assert {hit.fault for hit in scene.proxy.hits} == {fault.name for fault in NEWER}
    assert scene.outcomes()["unknown"] > SESSIONS // 3
    scene.ends_as_undisturbed("newer error codes, JSON without a code", run_id)


def test_an_error_about_a_committed_call_is_no_second_call(scene: Scene) -> None:
    """The receipt outweighs the error: the session is done, or goes on with its next step."""
    scene.proxy.strikes = share(AFTER_COMMIT_ONLY * 2)
    run_id = scene.planned()
    assert scene.go_on(run_id).is_complete
    assert scene.outcomes()["session"] == len(scene.proxy.hits) > 0
    scene.ends_as_undisturbed("an error after the call committed", run_id)


# Silence and haste --------------------------------------------------------------------------------


def test_a_project_that_goes_deaf_for_a_while_is_waited_for(scene: Scene) -> None:
    """It accepts connections and answers nothing, to scoring calls and to ours; then it does."""
    scene.proxy.strikes = [Strike(deaf(), Nth(SCORING, 41, 60)), Strike(deaf(), Nth(OWN, 5, 6))]
    run_id = scene.planned()
    assert scene.go_on(run_id, call_timeout_s=1.0).is_complete
    assert scene.outcomes()["unknown"] >= hits_of(scene.proxy.hits, *SCORING) == 20
    assert hits_of(scene.proxy.hits, *OWN) == 2
    scene.ends_as_undisturbed("deaf for 20 scoring calls and 2 of ours", run_id)


def test_too_many_requests_is_no_session_s_failure(scene: Scene) -> None:
    """429 with Retry-After: nothing fails, nothing is lost, and the run goes on by itself."""
    many = {"message": "Too many requests"}
    scene.proxy.strikes = [
        Strike(says(429, many, Retry_After="7"), first_call_of_every(2)),
        Strike(says(429, many, Retry_After="0"), on_own_calls),
    ]
    run_id = scene.planned()
    assert scene.go_on(run_id).is_complete
    assert hits_of(scene.proxy.hits, *SCORING) == scene.outcomes()["slow"] > SESSIONS // 3
    assert (scene.outcomes()["session"], scene.outcomes()["unknown"]) == (0, 0)
    scene.ends_as_undisturbed("429 with Retry-After", run_id)


@AT_THE_WRITE
def test_a_network_cut_for_longer_than_a_lease_lets_nobody_write_twice(scene: Scene) -> None:
    """A second worker takes over and ends the run; what the first had sent arrives, and is refused.

    Its calls are held on the way for longer than its leases live, then they reach the project.
    """
    proxy = scene.proxy
    proxy.strikes = [
        Strike(held(), Nth(SCORING, MIDWAY)),
        Strike(held(), lambda call: bool(proxy.hits) and not proxy.healed.is_set()),
    ]
    run_id = scene.planned()
    with scene.beside(run_id, worker="cut off") as cut_off:
        wait_until(lambda: hits_of(proxy.hits, *SCORING) >= CONCURRENCY)
        forget(scene.project.db, "cut off")
        assert scene.apply(run_id, url=scene.project.url, worker="second").is_complete
        proxy.heal()
        assert cut_off.result().is_complete
    assert scene.codes()["OB011"] + scene.codes()["OB012"] >= CONCURRENCY
    scene.ends_as_undisturbed("network cut for longer than a lease", run_id)


# Planning ---------------------------------------------------------------------------------------

PLANNING = ("backfill_open", "backfill_collect", "backfill_rehearsal", "backfill_seal")


@IN_SQL
@pytest.mark.parametrize(("since", "sessions"), [("2025-08-01", SESSIONS), ("2031-01-01", 0)])
@pytest.mark.parametrize("forwards", [True, False], ids=["reply dropped", "cut"])
@pytest.mark.parametrize("function", PLANNING)
def test_a_plan_is_made_once_whatever_answer_is_lost(
    scene: Scene, function: str, since: str, sessions: int, *, forwards: bool
) -> None:
    """Every call of planning is asked again; nothing to do stays nothing to do."""
    scene.proxy.strikes = [Strike(cut(forwards=forwards), numbered(function, 1))]
    key = scene.project.keys.service_role
    with backfill.connect(scene.proxy.url, key) as bf:
        assert bf.runs() == ()  # a project that was never reached is not asked again
        plan = bf.plan(since=since)
        assert (len(plan.sessions), len(scene.proxy.hits)) == (sessions, 1)
        assert [r.run_id for r in bf.runs()] == ([plan.run_id] if sessions else [])


@IN_SQL
@pytest.mark.parametrize("forwards", [True, False], ids=["reply dropped", "cut"])
def test_a_rehearsal_counts_once_whatever_answer_is_lost(scene: Scene, *, forwards: bool) -> None:
    """A session whose rehearsal was kept is not scored again."""
    scene.proxy.strikes = [Strike(cut(forwards=forwards), numbered("backfill_rehearse", 2))]
    key = scene.project.keys.service_role
    with backfill.connect(scene.proxy.url, key) as bf:
        rehearsal = bf.plan(since="2025-08-01").rehearsal
    assert rehearsal is not None
    assert len(rehearsal.sessions) == len({(s.category, s.phase) for s in rehearsal.sessions}) > 1


@IN_SQL
@pytest.mark.parametrize("forwards", [True, False], ids=["reply dropped", "cut"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_large_plan_is_placed_once_whatever_answer_is_lost(
    scene: Scene, nth: int, *, forwards: bool
) -> None:
    """Its sealing takes three calls; each goes on where the last that was committed ended."""
    scene.project.db.execute(
        "create or replace function backfill_private.most_placed() returns integer"
        f" language sql immutable set search_path = '' as 'select {SESSIONS // 2 + 1}'".encode()
    )
    scene.proxy.strikes = [Strike(cut(forwards=forwards), numbered("backfill_seal", nth))]
    with backfill.connect(scene.proxy.url, scene.project.keys.service_role) as bf:
        assert bf.runs() == ()  # a project that was never reached is not asked again
        plan = bf.plan(since="2025-08-01")
        assert len(scene.proxy.hits) == 1
        assert [s.ordinal for s in plan.sessions] == list(range(1, SESSIONS + 1))
        assert plan.candidates["total"] == SESSIONS
