"""User code does anything at any point, and means one order by it: the promises hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, note, seed, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

import backfill
from backfill.local.gateway import gateway_in_thread
from backfill.local.keys import ApiKeys
from backfill.results.run import Mode
from backfill.targets.declaration import parse
from backfill.targets.views import target_sql
from tests.conftest import Project
from tests.kit import habits
from tests.kit.clocks import DatabaseClock
from tests.kit.copies import Copies
from tests.kit.habits import CODES, ORDERS, REPEATED, SCORING, UNDOING, WITH_ROWS, Habit
from tests.kit.whole import examples

MOST_RESUMES = 4
TO_DO = [order for order in ORDERS if order not in WITH_ROWS]
DOES = (
    "raise", "raise", "raise", "nothing", "write elsewhere", "change it again", "delete it",
    "change another", "delete another", "owe", "lock", "another path", "another role",
    "no statement", "a temporary table",
)  # fmt: skip
# After these a row that a run wrote may be gone or another without a person's doing.
MEDDLING = {"delete it", "change it again", "change another", "delete another"}


def of_points(points: tuple[str, ...], codes: tuple[str, ...]) -> st.SearchStrategy[Habit]:
    """A habit of one order at one of these points."""
    raises = st.sampled_from(codes)
    return st.builds(
        lambda order, point, does, code: Habit(
            order, point, does, code if does == "raise" else None
        ),
        st.sampled_from(TO_DO),
        st.sampled_from(points),
        st.sampled_from(DOES),
        raises,
    )


# One habit per order and point, as the table keeps it.
HABITS = st.lists(
    of_points(SCORING, CODES) | of_points(UNDOING, CODES + REPEATED),
    max_size=5,
    unique_by=lambda habit: (habit.order_id, habit.point),
)


@dataclass(frozen=True)
class Shop:
    """The project, a superuser's connection that restores it, and the clock of all."""

    project: Project
    admin: psycopg.Connection[Any]
    clock: DatabaseClock

    @contextmanager
    def connected(self) -> Iterator[backfill.Backfill]:
        """Its backfills, where waiting takes no time."""
        with self.project.connect(clock=self.clock) as bf:
            yield bf

    def orders(self, query: str, *values: object) -> set[int]:
        """The orders that a query names, as the owner sees them."""
        return {int(order) for (order,) in self.admin.execute(query.encode(), values).fetchall()}


@pytest.fixture(scope="module")
def shop(clocked_copies: Copies) -> Iterator[Shop]:
    """A shop with our core and its target, for every example of this module."""
    with (
        clocked_copies.lent() as copy,
        copy.connected(copy.server.superuser_dsn) as admin,
        copy.connected(copy.server.dsn) as db,
    ):
        db.execute(habits.SHOP)
        db.execute(target_sql(parse(habits.DECLARED)).encode())
        db.row_factory = dict_row
        admin.execute(habits.WITNESS)
        keys = ApiKeys.new(copy.jwt_secret)
        with gateway_in_thread(copy.served().url, keys) as gateway:
            rest, secret = copy.served(), copy.jwt_secret
            project = Project(gateway.url, rest.url, keys, secret, db, admin, gateway)
            project.reload()
            yield Shop(project, admin, DatabaseClock(db))


def applied(bf: backfill.Backfill, run_id: str) -> tuple[str, str]:
    """Apply as an operator does, resumed after a pause. Returns the state and what paused it."""
    cause = ""
    for _ in range(MOST_RESUMES):
        try:
            return bf.apply(run_id).state, cause
        except backfill.Paused as paused:
            cause = str(paused)
            bf.resume(run_id)
    return bf.pause(run_id, reason="a test").state, cause


def undone(bf: backfill.Backfill, run_id: str) -> set[int]:
    """Take a run back. Returns the orders whose rows were named as conflicts."""
    effect = bf.rollback(run_id).confirm(reason="a test")
    return {int(conflict["session_id"]) for conflict in effect.conflicts}


WROTE = "select order_id from public.witnessed where header = 'x-backfill-run' and what <> 'delete'"
RECEIPTED = "select session_id from public.backfill_receipts where run_id = %s and kind <> 'undo'"
IN_STATE = "select session_id from public.backfill_items where run_id = %s and state = %s"


# Code that says what only the gate has to say is not called without end.
LIARS = [
    Habit(1, "scorer begins", "raise", "OB011"),
    Habit(2, "after insert", "raise", "OB012"),
]


@seed(1)
@settings(
    max_examples=examples(400, at_a_push=6),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.parametrize("mode", ["direct", "bulk"])
@pytest.mark.timeout(examples(3600, at_a_push=240))
@example(given=LIARS, rehearse=0, concurrency=4)
@given(given=HABITS, rehearse=st.sampled_from([0, 2]), concurrency=st.sampled_from([1, 4]))
def test_the_promises_hold_under_code_of_any_habits(
    shop: Shop, mode: Mode, given: list[Habit], rehearse: int, concurrency: int
) -> None:
    """The plan is made, the run ends or says why, every row has a receipt, undo gives all back."""
    habits.begin_again(shop.admin, given)
    meddles = any(habit.does in MEDDLING for habit in given)
    before = habits.totals(shop.admin)
    with shop.connected() as bf:
        plan = bf.plan(
            target="shop",
            since="2025-08-01",
            environment="staging",
            mode=mode,
            rehearse=rehearse,
            throttle_per_minute="none",
        )
        assert {int(s.session_id) for s in plan.sessions} == set(TO_DO)
        shop.project.approve(plan)
        state, cause = applied(bf, plan.run_id)
        note(f"{state}: {cause}")
        after = habits.totals(shop.admin)

        # What was written has a receipt, what is done is there, what is live is untouched.
        assert shop.orders(WROTE) <= shop.orders(RECEIPTED, plan.run_id)
        if not meddles:
            assert shop.orders(IN_STATE, plan.run_id, "done") == after.keys() - before.keys()
        assert {order: after.get(order) for order in WITH_ROWS} == before
        assert state == "completed" or any(h.code and h.code in cause for h in given), cause
        criteria = {c.name: c.status for c in bf.verify(plan.run_id).criteria}
        assert criteria["audit_complete"] == "pass"

        if state != "completed":
            bf.cancel(plan.run_id, reason="a test")
        conflicts = undone(bf, plan.run_id)
        left = habits.totals(shop.admin)
        assert {order: left.get(order) for order in WITH_ROWS} == before
        assert left.keys() - before.keys() <= conflicts
        if not meddles:
            assert {order: left[order] for order in conflicts} == {o: after[o] for o in conflicts}
        habits.forget_habits(shop.admin)
        assert undone(bf, plan.run_id) == set() or meddles
        assert habits.totals(shop.admin) == before or meddles
