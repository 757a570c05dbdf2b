"""A project that is left to itself for a fortnight, with `heal` by standing approval every hour."""

from __future__ import annotations

import pytest

from tests.conftest import Project
from tests.kit.checkout import ROOT
from tests.kit.clocks import DatabaseClock
from tests.kit.fortnight import Course, Fortnight, page
from tests.kit.whole import WHOLE, examples

# At a push three days with a heal every six hours.
SHORT = Course(
    days=3, every_h=6, sessions=1, within_h=12, broken=range(2, 3), changed=3,
    max_sessions=20, max_per_day=50,
)  # fmt: skip
PAGE = ROOT / "tests" / "fortnight.md"
COURSE = examples(Course(), at_a_push=SHORT)
RUNS = """
select r.approved_via, count(*) as sessions
from public.backfill_runs as r
join public.backfill_items as i using (run_id)
where r.state = 'completed'
group by r.run_id
"""
# Rows without a receipt of a completed run that a person's rule allowed. Nobody else writes here.
UNPROVEN = """
select t.session_id
from (
  select session_id::text, 'fc_scores' as component from public.fc_scores
  union all
  select session_id::text, 'profile' from public.profiles
) as t
left join public.backfill_receipts as w using (session_id, component)
left join public.backfill_runs as r on r.run_id = w.run_id and r.state = 'completed'
left join public.backfill_approvals as a on a.run_id = r.run_id and a.decision = 'approved'
left join public.backfill_standing as s using (standing_id)
where s.approved_by is distinct from 'Ada'
"""
PER_DAY = """
select max(sessions) from (
  select count(*) as sessions
  from public.backfill_runs as r
  join public.backfill_items as i using (run_id)
  where r.approved_via = 'standing'
  group by date_trunc('day', r.approved_at, 'UTC')) as day
"""


@pytest.mark.timeout(1800)
def test_a_project_left_to_itself_keeps_its_service_level(
    project: Project, clock: DatabaseClock
) -> None:
    """Outside the broken days. Each row has a run, an approval and a receipt, each run verifies."""
    life = Fortnight(project, clock, COURSE)
    told = "\n".join(page(life))
    assert not WHOLE or told == PAGE.read_text().strip()
    days = life.past
    assert life.late() <= {*COURSE.broken, COURSE.broken.start - 1}
    assert {day.came for day in days.values()} == {24 * COURSE.sessions}
    broken = [days.pop(number) for number in COURSE.broken]
    changed = days.pop(COURSE.changed)
    assert {(day.runs, day.halts) for day in broken} == {(0, 24 // COURSE.every_h)}
    assert {day.halts for day in days.values()} <= {0, 1}  # one more, until it is planned anew
    assert changed.halts > 0
    halts = [str(found.reason) for found in life.healed if found.is_halted]
    assert any("rehearsal: scoring calls" in reason for reason in halts)
    assert any("score_prism" in reason for reason in halts)

    alerts = project.rows("select closed_at is null as is_open from public.backfill_alerts")
    assert alerts == [{"is_open": False}]
    assert {found.verdict for found in life.healed} == {"pass", None}
    runs = project.rows(RUNS)
    assert {run["approved_via"] for run in runs} == {"standing"}
    assert max(run["sessions"] for run in runs) <= COURSE.max_sessions
    assert project.value(PER_DAY) <= COURSE.max_per_day
    assert project.rows(UNPROVEN) == []
