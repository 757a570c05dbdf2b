"""What on_event hears: a documented vocabulary, one callback, and no run is lost by it."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from typing import Any, get_args

import anyio
import pytest

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.scorers import misbehave
from tests.kit.seed import CANARY, SEED

FAST: dict[str, Any] = {**SEED, "throttle_per_minute": 60_000, "batch_size": 20}


@pytest.fixture
def timed_listening(
    project: Project, clock: DatabaseClock
) -> Iterator[tuple[backfill.Backfill, list[backfill.Event]]]:
    """A connection on the shared clock, and what its callback hears."""
    heard: list[backfill.Event] = []
    with project.connect(clock=clock, on_event=heard.append) as bf:
        yield bf, heard


def documented() -> dict[str, set[str]]:
    """The keys of each kind's details, as Event's docstring has them."""
    told = re.sub(r",\n", ", ", inspect.getdoc(backfill.Event) or "")
    lines = re.findall(r"^([a-z_]+): ([a-z_, ]+)$", told, re.M)
    return {kind: set(keys.split(", ")) for kind, keys in lines}


def shapes(events: list[backfill.Event]) -> dict[str, set[str]]:
    """The keys of each kind's details, as they were told."""
    told: dict[str, set[str]] = {}
    for event in events:
        assert told.setdefault(event.kind, set(event.details)) == set(event.details)
    return told


def test_the_documented_kinds_are_the_typed_ones() -> None:
    """A caller's type checker and a caller's eyes see the same vocabulary."""
    assert set(documented()) == set(get_args(backfill.EventKind))


def newest(events: list[backfill.Event]) -> str:
    """The kind of the last event."""
    return events[-1].kind


def test_runs_tell_the_documented_kinds_and_keys_and_no_others(
    project: Project, timed_listening: tuple[backfill.Backfill, list[backfill.Event]]
) -> None:
    """One run that completes, one that pauses itself, one cancelled, one whose approval ran out.

    And a service level that is breached, then reached.
    """
    bf, heard = timed_listening
    bf.watch()
    project.db.execute("update public.backfill_watches set min_coverage = 0.01")
    bf.watch()
    assert newest(heard) == "coverage_restored"
    plan = _approved(project, bf)
    bf.apply(plan.run_id)
    assert newest(heard) == "run_completed"
    _undo_all(bf, plan)

    misbehave(project.db, {"fail": [CANARY]})
    paused = _approved(project, bf)
    with pytest.raises(backfill.Paused):
        bf.apply(paused.run_id)
    assert newest(heard) == "run_paused"
    assert heard[-1].details["reason"]
    bf.cancel(paused.run_id, reason="test")

    cancelled = _approved(project, bf, priority=[])

    def cancel(event: backfill.Event) -> None:
        if event.kind == "batch_settled":
            project.db.execute("select public.backfill_cancel(%s, 'test')", (cancelled.run_id,))

    bf.apply(cancelled.run_id, on_event=cancel)
    assert newest(heard) == "run_cancelled"

    bf.apply(_approved(project, bf, priority=[], throttle_per_minute="none", mode="bulk").run_id)
    assert "bulk_settled" in {e.kind for e in heard}

    expired = _approved(project, bf, priority=[])
    project.db.execute("update public.test_clock set now_at = now_at + interval '8 days'")
    with pytest.raises(backfill.ApprovalExpired):
        bf.apply(expired.run_id)
    assert newest(heard) == "run_expired"
    assert shapes(heard) == documented()


def test_a_sealed_plan_is_told_with_the_line_that_approves_it(project: Project) -> None:
    """What somebody needs who is asked to approve."""
    heard: list[backfill.Event] = []
    with project.connect(on_event=heard.append) as bf:
        plan = bf.plan(**FAST)
        nothing = bf.plan(**{**FAST, "since": "2031-01-01", "priority": []})
    assert nothing.is_empty
    assert [(e.kind, e.run_id) for e in heard] == [("awaiting_approval", plan.run_id)]
    assert heard[0].details["approval_sql"] == plan.approval_sql
    assert (heard[0].details["sessions_total"], heard[0].details["digest"]) == (39, plan.digest)


def test_both_callbacks_hear_an_apply_and_the_log_says_the_same(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection's, the apply's, and `backfill.<kind>` under the logger `backfill`."""
    caplog.set_level(logging.INFO, logger="backfill")
    all_of_it: list[backfill.Event] = []
    of_apply: list[backfill.Event] = []
    with project.connect(on_event=all_of_it.append) as bf:
        plan = _approved(project, bf, **FAST)
        bf.apply(plan.run_id, on_event=of_apply.append)
    assert all_of_it[1:] == of_apply
    logged = [(r.getMessage(), getattr(r, "run", None)) for r in caplog.records]
    told = [(f"backfill.{e.kind}", e.run_id) for e in all_of_it]
    assert [line for line in logged if line[0] != "backfill.renew_failed"] == told


def test_the_async_face_tells_too(project: Project) -> None:
    """connect_async(on_event=…) is the same callback."""
    kinds: list[str] = []

    async def whole_way() -> None:
        async with backfill.connect_async(
            project.url, project.keys.service_role, on_event=lambda e: kinds.append(e.kind)
        ) as bf:
            plan = await bf.plan(**FAST)
            await bf.approve(plan.run_id, digest=plan.digest)
            await bf.apply(plan.run_id)

    anyio.run(whole_way)
    assert (kinds[0], kinds[1], kinds[-1]) == ("awaiting_approval", "run_started", "run_completed")


@pytest.mark.parametrize("kind", ["run_started", "batch_started", "call", "batch_settled"])
def test_a_callback_that_raises_loses_no_session(project: Project, kind: str) -> None:
    """Everything in flight is settled, nothing is leased, and a second apply completes."""

    def break_at(event: backfill.Event) -> None:
        if event.kind == kind:
            raise LookupError(kind)

    heard: list[backfill.Event] = []
    with project.connect(on_event=heard.append) as bf:
        plan = _approved(project, bf, **FAST)
        with pytest.raises(LookupError, match=kind) as raised:
            bf.apply(plan.run_id, on_event=break_at)
        assert plan.run_id in raised.value.__notes__[0]
        counts = bf.status(plan.run_id).counts
        assert (counts["leased"], counts["failed"]) == (0, 0)
        if kind == "call":  # the other listener heard how the batch ended
            assert heard[-1].kind == "batch_settled"
            assert counts["done"] >= 1
        assert bf.apply(plan.run_id).is_complete
        assert bf.verify(plan.run_id).verdict == "pass"
    assert project.value("select count(*) from public.backfill_receipts") == 52


def test_a_callback_that_raises_at_the_plan_loses_no_plan(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sealed before anybody hears of it; the note names it, and the log the trouble."""

    def break_it(event: backfill.Event) -> None:
        raise LookupError("no such channel")

    with project.connect(on_event=break_it) as bf:
        with pytest.raises(LookupError) as raised:
            bf.plan(**FAST)
        (run,) = bf.runs(state="awaiting_approval")
    assert run.run_id in raised.value.__notes__[0]
    assert "backfill.on_event_failed" in {r.getMessage() for r in caplog.records}


def test_a_refusal_outweighs_what_a_callback_raised(project: Project) -> None:
    """Whoever applies has to know that the run is paused; the callback's trouble is logged."""

    def break_it(event: backfill.Event) -> None:
        raise LookupError

    with project.connect() as bf:
        plan = _approved(project, bf, **FAST)
        bf.pause(plan.run_id, reason="looking")
        with pytest.raises(backfill.Paused, match="looking"):
            bf.apply(plan.run_id, on_event=break_it, wait=False)


def _approved(project: Project, bf: backfill.Backfill, **request: Any) -> backfill.Plan:
    plan = bf.plan(**SEED | request)
    project.approve(plan)
    return plan


def _undo_all(bf: backfill.Backfill, plan: backfill.Plan) -> None:
    bf.rollback(plan.run_id).confirm(reason="test")
