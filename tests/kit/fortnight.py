"""A project that is left to itself for days: sessions come, `heal` runs by the clock, nobody looks.

Scorers break for some days. On a later day a definition changes, and a person approves a new rule
some hours after. Nobody does anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import backfill
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.scorers import misbehave

FIRST = datetime(2025, 10, 1, tzinfo=UTC)
HEALED_AT_MINUTE = 17
CHANGED_AT_HOUR, PERSON_COMES_AFTER_H = 10, 3
PAGE = """
# A project left to itself for a fortnight

`python -m tests.fortnight` prints this page. {sessions} sessions come per hour, and `backfill heal`
runs every hour. A person has approved a rule: at most {max_sessions} sessions per run, and
{max_per_day} per day. From day {first} to day {last} each scoring call fails. On day {changed} a
scoring function is replaced. Three hours later a person approves a new rule. That is all that
anyone does.

| Day | Sessions that came | Approved by rule | Missing at its end | Runs | Halts | Alerts open |
|--:|--:|--:|--:|--:|--:|--:|
""".strip()
LATER = """
Within {within_h} hours, as the service level says, each session had its rows, but for those of the
days {late}.
""".rstrip()
RULE: dict[str, Any] = {"until": "2999-12-31", "throttle": 600}
# Sessions of ten minutes, with as many answers as a score needs.
COME = b"""
with came as (
  insert into public.assessment_sessions (status, created_at, completed_at)
  select 'completed', moment.at, moment.at
  from (
    select %(now)s::timestamptz + n * interval '10 minutes' / %(sessions)s as at
    from generate_series(0, %(sessions)s - 1) as n
  ) as moment
  returning id
), answered as (
  insert into public.assessment_responses (session_id, question_id, answer_value)
  select came.id, n, 1 + n
  from came
  cross join generate_series(1, 4) as n
), chosen as (
  insert into public.fc_responses (session_id, block_id, option_id)
  select came.id, o.block_id, min(o.id)
  from came
  cross join public.fc_options as o
  group by 1, 2
)
select came.id::text as id from came
"""
LEVEL = "update public.backfill_watches set within = make_interval(hours => %s)"
BREAK = "insert into public.misbehaviour values (%s, 'fail')"
MEND = "delete from public.misbehaviour"
CHANGE = "alter function public.score_prism(uuid, text) set work_mem = '8MB'"
MISSING = "select count(*) from public.backfill_candidates"
OPEN_ALERTS = "select count(*) from public.backfill_alerts where closed_at is null"
BY_STANDING = """
select coalesce(sum((select count(*) from public.backfill_items as i where i.run_id = r.run_id)), 0)
from public.backfill_runs as r
where r.approved_via = 'standing'
  and r.approved_at >= %s
  and r.approved_at < %s + interval '1 day'
"""
# Sessions before a moment whose last row did not come within so many hours.
LATE = """
select s.created_at
from public.assessment_sessions as s
left join lateral (
  select max(r.at) as at
  from public.backfill_receipts as r
  where r.session_id = s.id::text
) as scored on true
where s.created_at < %s
  and (scored.at <= s.created_at + make_interval(hours => %s)) is not true
"""


@dataclass(frozen=True)
class Course:
    """What happens. broken: the days whose sessions no scorer scores. changed: that of the change.

    Days count from 1. every_h: hours between two heals. sessions: so many come per hour. within_h:
    the time of the service level. What a run and a day may hold is more than a day brings, and less
    than the broken days leave.
    """

    days: int = 14
    every_h: int = 1
    sessions: int = 2
    within_h: int = 6
    broken: range = range(5, 7)
    changed: int = 9
    max_sessions: int = 40
    max_per_day: int = 160


@dataclass(frozen=True)
class Day:
    """What the day brought, and how it stands at its end.

    halts: heals that waited for a person. by_standing: sessions of the runs that it approved.
    """

    number: int
    came: int
    missing: int
    runs: int
    halts: int
    alerts: int
    by_standing: int


@dataclass
class Fortnight:
    """A project, its clock, and what its heals told."""

    project: Project
    clock: DatabaseClock
    course: Course
    healed: list[backfill.Healed] = field(default_factory=list)
    past: dict[int, Day] = field(default_factory=dict)

    def days(self) -> Iterator[Day]:
        """Each day once it is over."""
        self.project.db.execute("delete from public.assessment_sessions")
        self.project.db.execute(LEVEL, (self.course.within_h,))
        misbehave(self.project.db, {})
        self._at(FIRST)
        with self.project.connect(clock=self.clock) as bf:
            self._approve_a_rule(bf)
            for number in range(1, self.course.days + 1):
                self.past[number] = self._day(bf, number)
                yield self.past[number]

    def late(self) -> set[int]:
        """The days on which sessions came that had their rows too late, or have none."""
        over = FIRST + timedelta(days=self.course.days, hours=-self.course.within_h)
        rows = self.project.rows(LATE, over, self.course.within_h)
        return {(row["created_at"] - FIRST).days + 1 for row in rows}

    def _day(self, bf: backfill.Backfill, number: int) -> Day:
        came: list[str] = []
        told: list[backfill.Healed] = []
        begins = FIRST + timedelta(days=number - 1)
        for hour in range(24):
            now = begins + timedelta(hours=hour)
            self._at(now)
            self._happens(bf, number, hour)
            came += self._come(now, is_broken=number in self.course.broken)
            if hour % self.course.every_h == 0:
                self._at(now + timedelta(minutes=HEALED_AT_MINUTE))
                told.append(bf.heal())
        self.healed += told
        by_standing = self.project.value(BY_STANDING, begins, begins)
        return Day(
            number,
            len(came),
            self.project.value(MISSING),
            sum(found.verdict is not None for found in told),
            sum(found.is_halted for found in told),
            self.project.value(OPEN_ALERTS),
            int(by_standing),
        )

    def _happens(self, bf: backfill.Backfill, number: int, hour: int) -> None:
        """What somebody does at the full hour."""
        if (number, hour) == (self.course.broken.stop, 0):
            self.project.db.execute(MEND)
        if (number, hour) == (self.course.changed, CHANGED_AT_HOUR):
            self.project.db.execute(CHANGE)
        if (number, hour) == (self.course.changed, CHANGED_AT_HOUR + PERSON_COMES_AFTER_H):
            self._approve_a_rule(bf)

    def _approve_a_rule(self, bf: backfill.Backfill) -> None:
        caps = {name: getattr(self.course, name) for name in ("max_sessions", "max_per_day")}
        proposed = bf.propose_standing(**RULE, **caps)
        bf.approve_standing(proposed.standing_id, digest=proposed.digest, approver="Ada")

    def _come(self, now: datetime, *, is_broken: bool) -> list[str]:
        rows = self.project.db.execute(COME, {"now": now, "sessions": self.course.sessions})
        came = [row["id"] for row in rows]
        if is_broken:
            self.project.db.cursor().executemany(BREAK, [(it,) for it in came])
        return came

    def _at(self, moment: datetime) -> None:
        """The time is this one, unless waiting has taken it further."""
        self.clock.advance(max((moment - self.clock.now()).total_seconds(), 0))


def page(life: Fortnight) -> Iterator[str]:
    """The page about it, line by line. The days are a table."""
    course = life.course
    yield PAGE.format(first=course.broken.start, last=course.broken.stop - 1, **asdict(course))
    for d in life.days():
        cells = (d.number, d.came, d.by_standing, d.missing, d.runs, d.halts, d.alerts)
        yield f"| {' | '.join(map(str, cells))} |"
    late = " and ".join(map(str, sorted(life.late())))
    yield LATER.format(within_h=course.within_h, late=late)
