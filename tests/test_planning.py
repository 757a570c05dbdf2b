"""Planning goes on: over windows too slow for a statement, over many calls, over a dead client."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.seed import SEED

# A detection that takes 20 ms a session, beside a limit that 39 of them exceed.
SLOW_VIEW = """
create function public.dawdle() returns boolean language plpgsql volatile as $$
begin
  perform pg_sleep(0.02);
  return true;
end
$$;
grant execute on function public.dawdle() to service_role;
alter view backfill_private.prism_gaps rename to prism_gaps_at_once;
create view backfill_private.prism_gaps with (security_invoker = true) as
select * from backfill_private.prism_gaps_at_once where public.dawdle();
alter function public.backfill_collect(uuid) set statement_timeout = '{limit}';
"""
FEW_A_CALL = """
create or replace function backfill_private.most_placed() returns integer
language sql immutable set search_path = '' as $$ select {most} $$
"""


def in_planning(project: Project) -> tuple[str, Any]:
    """A run whose client ended after it had collected one window; where the search stands."""
    run_id = str(verbs.call(project.db, "backfill_open", p_request=Jsonb(verbs.REQUEST)))
    project.db.execute("update public.backfill_runs set collect_window = '10 days'")
    verbs.call(project.db, "backfill_collect", p_run_id=run_id)
    stands_at = project.value("select collect_from from public.backfill_runs")
    assert project.value("select collect_from < collect_until from public.backfill_runs")
    return run_id, stands_at


def test_a_window_that_meets_the_time_limit_is_looked_at_again_half_as_long(
    project: Project, bf: backfill.Backfill
) -> None:
    """The plan is the one that an undisturbed search makes."""
    expected = bf.plan(**SEED)
    project.db.execute(SLOW_VIEW.format(limit="400ms").encode())
    project.reload()
    assert bf.plan(**SEED).digest == expected.digest


def test_a_window_that_met_the_time_limit_has_found_nothing_yet(project: Project) -> None:
    """The search stands where it stood, and the next look is at half of the window."""
    project.db.execute(SLOW_VIEW.format(limit="400ms").encode())
    run_id = str(verbs.call(project.db, "backfill_open", p_request=Jsonb(verbs.REQUEST)))
    where = (
        "select collect_from, collect_window,"
        " coalesce(current_setting('backfill.request', true), '') as request,"
        " (select count(*) from backfill_private.findings) from public.backfill_runs"
    )
    before = project.rows(where)[0]
    project.db.execute("set statement_timeout = '300ms'")
    assert verbs.call(project.db, "backfill_collect", p_run_id=run_id) is False
    assert project.rows(where)[0] == {**before, "collect_window": timedelta(days=15)}


def test_where_no_window_is_short_enough_the_plan_ends_and_says_how_to_go_on(
    project: Project, bf: backfill.Backfill
) -> None:
    """Not an endless search; when the project is quick again the same run is planned on."""
    project.db.execute(SLOW_VIEW.format(limit="10ms").encode())
    project.reload()
    with pytest.raises(backfill.TookTooLong) as ended:
        bf.plan(**SEED)
    (run,) = bf.runs(state="planning")
    assert ended.value.__notes__ == [
        f"To go on where it stopped: backfill plan --resume {run.run_id}"
    ]
    project.db.execute("alter function public.backfill_collect(uuid) reset statement_timeout")
    project.reload()
    assert bf.plan(resume=run.run_id).digest == bf.plan(**SEED).digest


def test_without_its_index_windows_may_take_longer(project: Project) -> None:
    """Each reads the whole table then, so short ones would only be more of them."""
    aim = "select extract(epoch from backfill_private.window_aim('prism'))"
    assert project.value(aim) == 4
    project.db.execute("drop index public.backfill_completed_sessions")
    assert project.value(aim) == 20
    project.db.execute(
        "create index backfill_completed_sessions on public.assessment_sessions (user_id)"
    )
    assert project.value(aim) == 20, "the name alone makes no window shorter"


def test_a_plan_whose_client_died_goes_on_where_it_stopped(
    project: Project, bf: backfill.Backfill
) -> None:
    """What was collected is not looked at again, and the plan is that of a client that lived."""
    run_id, stands_at = in_planning(project)
    # What a second look at the first window would find is not found.
    project.db.execute(
        "delete from public.fc_scores where session_id in ("
        " select id from public.assessment_sessions"
        "  where created_at >= '2025-08-01' and created_at < %s)",
        (stands_at,),
    )
    plan = bf.plan(resume=run_id[:8])
    assert (plan.run_id, plan.state) == (run_id, "awaiting_approval")
    assert len(plan.sessions) == 39
    with pytest.raises(backfill.IllegalMove):
        bf.plan(resume=run_id)


def test_a_plan_goes_on_as_it_was_asked_for(bf: backfill.Backfill) -> None:
    """Nothing else can be given, not even what it was."""
    with pytest.raises(backfill.BadRequest, match="since is not taken"):
        bf.plan(resume="00000000", since="2025-08-01")


@pytest.mark.parametrize("most", [1, 13, 38, 39, 40])
def test_a_plan_placed_in_many_calls_is_the_same_plan(
    project: Project, bf: backfill.Backfill, most: int
) -> None:
    """The digest binds every session and its place."""
    expected = bf.plan(**SEED)
    project.db.execute(FEW_A_CALL.format(most=most).encode())
    plan = bf.plan(**SEED)
    assert (plan.digest, plan.sessions) == (expected.digest, expected.sessions)
    assert (
        project.value("select count(*) from backfill_private.findings where excluded is null") == 0
    )


def test_no_session_is_added_to_a_sealed_plan(project: Project, bf: backfill.Backfill) -> None:
    """The guard is asked once a statement, however many rows come."""
    plan = bf.plan(**SEED)
    with pytest.raises(Exception, match="is sealed, its plan does not change"):
        project.db.execute(
            "insert into public.backfill_items (run_id, ordinal, source, session_id, session_at,"
            " components, category, phase, batch)"
            " select run_id, ordinal + 100, source, session_id || 'x', session_at,"
            " components, category, phase, batch from public.backfill_items"
        )
    assert bf.get(plan.run_id).sessions == plan.sessions
