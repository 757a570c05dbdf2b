"""Random rules and random plans: the database approves just what an oracle in Python would.

The oracle below knows nothing of the SQL. It says in its own words what a rule covers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.songs import UNKEYED, as_owner, declare, opened, songs, songs_db
from tests.kit.whole import examples
from tests.test_preconditions import Db

__all__ = ["songs", "songs_db"]  # fixtures of another module

BEGIN = datetime(2025, 9, 17, 8, tzinfo=UTC)  # a Wednesday
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# What each plan asks for. Songs 1 and 2 have a red cover where a blue one is wanted.
PLANS: dict[str, dict[str, Any]] = {
    "one, without a throttle": {"ids": ["5"]},
    "two": {"ids": ["4", "5"], "throttle_per_minute": 6},
    "three": {"ids": ["3", "4", "5"], "throttle_per_minute": 20},
    "one that is replaced": {"ids": ["1"], "throttle_per_minute": 5},
    "all": {"throttle_per_minute": 10},
    "one in green": {"ids": ["5"], "throttle_per_minute": 5, "want": {"cover": "green"}},
    "one of another size": {"ids": ["5"], "throttle_per_minute": 5, "parameters": {"size": "m"}},
}


@dataclass(frozen=True)
class Planned:
    """A plan that waits, as the oracle needs to know it."""

    run_id: str
    sessions: int
    throttle: int | None
    replaces: bool
    is_usual: bool
    marks: dict[str, str]


@dataclass(frozen=True)
class Rule:
    """A rule as it is proposed, and whether somebody approved it."""

    max_sessions: int
    max_per_day: int | None
    max_calls: int | None
    throttle: int | None
    hours: tuple[int, int] | None
    weekdays: frozenset[int] | None
    marks: frozenset[str]
    replace: bool
    lasts_h: int
    is_approved: bool

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments that propose it."""
        hours = "-".join(f"{hour:02}" for hour in self.hours) if self.hours else None
        days = ",".join(DAYS[d] for d in sorted(self.weekdays)) if self.weekdays else None
        until = (BEGIN + timedelta(hours=self.lasts_h)).isoformat()
        return {
            "until": until, "max_sessions": self.max_sessions, "max_per_day": self.max_per_day,
            "max_calls": self.max_calls, "throttle": self.throttle, "hours": hours,
            "weekdays": days, "marks": sorted(self.marks), "replace": self.replace,
            "environment": "test",
        }  # fmt: skip

    @property
    def breadth(self) -> tuple[float, ...]:
        """The smaller, the narrower."""
        hours = 24 if self.hours is None else (self.hours[1] - self.hours[0] - 1) % 24 + 1
        return (
            self.max_sessions, self.max_per_day or inf, self.max_calls or inf,
            self.throttle or inf, self.replace, hours, len(self.weekdays or DAYS),
            -len(self.marks), self.lasts_h,
        )  # fmt: skip

    def is_open(self, now: datetime) -> bool:
        """Walk the clock from the first hour, as a person would count."""
        if self.weekdays is not None and now.weekday() not in self.weekdays:
            return False
        if self.hours is None:
            return True
        hour, end = self.hours
        open_hours: set[int] = set()
        while hour != end % 24 or not open_hours:
            open_hours.add(hour)
            hour = (hour + 1) % 24
        return now.hour in open_hours

    def covers(self, plan: Planned, used_today: int) -> bool:
        """One song is one call."""
        named = [
            status
            for mark, status in plan.marks.items()
            for name in self.marks
            if name in ("all", mark) or mark.startswith((f"{name} ", f"{name}:"))
        ]
        return (
            plan.is_usual
            and plan.sessions <= self.max_sessions
            and plan.sessions <= (self.max_calls or inf)
            and used_today + plan.sessions <= (self.max_per_day or inf)
            and (plan.throttle or inf) <= (self.throttle or inf)
            and (self.replace or not plan.replaces)
            and "fail" not in plan.marks.values()
            and set(named) <= {"ok"}
            and bool(named or not self.marks)
        )


@dataclass
class Oracle:
    """What has been approved so far."""

    rules: dict[str, Rule]
    revoked: set[str] = field(default_factory=set)
    used: dict[str, int] = field(default_factory=dict)
    last: datetime = BEGIN

    def counts(self, now: datetime) -> Rule | None:
        """The narrowest of those in force."""
        in_force = [
            rule
            for name, rule in self.rules.items()
            if rule.is_approved
            and name not in self.revoked
            and now <= BEGIN + timedelta(hours=rule.lasts_h)
            and now >= self.last
            and rule.is_open(now)
        ]
        return min(in_force, key=lambda rule: rule.breadth, default=None)

    def ask(self, plan: Planned, now: datetime) -> Rule | None:
        """The rule that approves it."""
        rule, today = self.counts(now), now.date().isoformat()
        if rule is None or not rule.covers(plan, self.used.get(today, 0)):
            return None
        self.used[today] = self.used.get(today, 0) + plan.sessions
        self.last = now
        return rule


HOURS = st.tuples(st.integers(0, 23), st.integers(1, 24)).map(
    lambda h: h if h[0] != h[1] % 24 else (0, 24)
)
NAMED = st.sampled_from(["receipts", "credits", "throttle", "all"])
# What a rule may limit, and what it is where it does not.
LIMITS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "max_sessions": (st.integers(1, 4), 5),
    "max_per_day": (st.integers(1, 8), None),
    "max_calls": (st.integers(1, 5), None),
    "throttle": (st.sampled_from([5, 6, 10, 20]), None),
    "hours": (HOURS, None),
    "weekdays": (st.frozensets(st.integers(0, 6), min_size=1), None),
    "marks": (st.frozensets(NAMED, max_size=2), frozenset()),
    "replace": (st.just(False), True),
    "lasts_h": (st.integers(1, 80), 80),
    "is_approved": (st.just(False), True),
}
# Few limits at once: a rule of which everything is drawn covers next to nothing.
RULES = st.sets(st.sampled_from(sorted(LIMITS)), max_size=3).flatmap(
    lambda names: st.builds(
        Rule,
        **{
            name: drawn if name in names else st.just(usual)
            for name, (drawn, usual) in LIMITS.items()
        },
    )
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(sorted(PLANS)),
        st.sampled_from([0, 0, 1, 3, 8, 16, 24, -1, -20]),
        st.integers(0, 20),  # whether a rule is revoked first, and which
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture
def walked(songs: Db) -> tuple[Db, dict[str, Planned]]:
    """Five songs, and a plan of each kind that waits for a person."""
    songs.execute(f"{UNKEYED} alter table public.covers add primary key (song_id)".encode())
    songs.execute(
        "insert into public.songs values (4, '2025-08-05', 'calm', 4), (5, '2025-08-06', 'calm', 5)"
    )
    declare(songs, 'key = ["song_id", "ink", "size"]', 'key = ["song_id"]')
    songs.execute("insert into public.covers values (1, 'red'), (2, 'red')")
    DatabaseClock(songs)
    return songs, {name: waiting(songs, **request) for name, request in PLANS.items()}


def waiting(db: Db, **request: Any) -> Planned:
    run_id = opened(db, batch_size=1, **request)
    while not verbs.call(db, "backfill_collect", p_run_id=run_id):
        pass
    assert verbs.call(db, "backfill_seal", p_run_id=run_id)["state"] == "awaiting_approval"
    as_owner(db)
    row = db.execute(
        "select plan -> 'checks' as checks,"
        " (select count(*) from public.backfill_items as i where i.run_id = r.run_id) as sessions,"
        " (select bool_or(i.replaces <> '{}') from public.backfill_items as i"
        "  where i.run_id = r.run_id) as replaces"
        " from public.backfill_runs as r where r.run_id = %s",
        (run_id,),
    ).fetchone()
    assert row is not None
    return Planned(
        run_id,
        row["sessions"],
        request.get("throttle_per_minute"),
        row["replaces"],
        not request.keys() & {"want", "parameters"},
        {check["name"]: check["status"] for check in row["checks"]},
    )


def stands(db: Db, rule: Rule) -> str:
    """Propose a rule with the key, and approve it as a person if it is to be."""
    told = verbs.call(db, "backfill_propose_standing", **rule.asked)
    as_owner(db)
    if rule.is_approved:
        named = (told["standing_id"], told["digest"])
        db.execute("select public.backfill_approve(%s, %s, 'Ada')", named)
    return str(told["standing_id"])


@settings(
    max_examples=examples(2000, at_a_push=75),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rules=st.lists(RULES, min_size=1, max_size=3), steps=STEPS)
def test_the_database_and_the_oracle_agree(
    walked: tuple[Db, dict[str, Planned]], rules: list[Rule], steps: list[tuple[str, int, int]]
) -> None:
    """Which plan is approved, by which rule, at which moment, after what was approved before."""
    db, plans = walked
    with db.transaction(force_rollback=True):
        oracle = Oracle({stands(db, rule): rule for rule in rules})
        now = BEGIN
        for name, hours, revoking in steps:
            now += timedelta(hours=hours)
            db.execute("update public.test_clock set now_at = %s", (now,))
            if revoking < len(rules):
                revoked = list(oracle.rules)[revoking]
                if revoked not in oracle.revoked:
                    oracle.revoked.add(revoked)
                    db.execute("select public.backfill_revoke_standing(%s, 'enough')", (revoked,))
            plan = plans[name]
            told, by = asked(db, plan), oracle.ask(plan, now)
            event(f"approved: {by is not None}")
            assert (told["state"] == "approved") == (by is not None), (told, by, plan, now)
            if by is not None:
                used = oracle.rules[told["standing"]["standing_id"]]
                assert used.breadth == by.breadth
                reset(db, plan)


def asked(db: Db, plan: Planned) -> dict[str, Any]:
    told: dict[str, Any] = verbs.call(db, "backfill_ask_standing", run=plan.run_id)
    as_owner(db)
    return told


def reset(db: Db, plan: Planned) -> None:
    """Let an approved run wait again, so that the walk may ask for it once more."""
    db.execute("alter table public.backfill_runs disable trigger backfill_runs_guard")
    db.execute("delete from public.backfill_approvals where run_id = %s", (plan.run_id,))
    db.execute(
        "update public.backfill_runs set state = 'awaiting_approval', approved_via = null"
        " where run_id = %s",
        (plan.run_id,),
    )
    db.execute("alter table public.backfill_runs enable trigger backfill_runs_guard")
