"""A scorer raises what PostgREST before version 16 answers by calling it again without end."""

from __future__ import annotations

import re

import pytest

import backfill
from tests.faults.scenario import MIDWAY, Scene, wait_until
from tests.faults.subjects import IN_SQL
from tests.kit import verbs

pytestmark = [pytest.mark.usefixtures("at_once"), IN_SQL]

LIMIT_S = 4.0  # how long a worker waits for an answer. It is 70 s outside tests
# The gate is an AFTER trigger of an earlier name.
UNLUCKY = """
create table public.test_unlucky (session_id uuid);
grant select on public.test_unlucky to service_role;
create function public.test_crowd_out() returns trigger language plpgsql as $$ begin
  if exists (select from public.test_unlucky as u where u.session_id = new.session_id) then
    {does};
  end if;
  return new;
end $$;
create trigger zz_crowd_out {moment} insert on public.fc_scores
  for each row execute function public.test_crowd_out();
"""
REPEATING = """
select count(*) from pg_stat_activity
where usename = 'authenticator' and datname = current_database() and state <> 'idle'
"""


def unlucky_run(scene: Scene, moment: str, does: str) -> str:
    """A run in which one session's call does this before its first write, or after it."""
    db = scene.project.db
    db.execute(UNLUCKY.format(moment=moment, does=does).encode())
    run_id = scene.planned()
    db.execute(
        "insert into public.test_unlucky select session_id::uuid from public.backfill_items"
        " where run_id = %s and ordinal = %s",
        (run_id, MIDWAY),
    )
    return run_id


def unlucky(scene: Scene, run_id: str) -> tuple[str, str, int]:
    """State, code and attempts of the session."""
    row = scene.project.rows(
        "select state, error_code, attempts from public.backfill_items"
        " where run_id = %s and ordinal = %s",
        run_id,
        MIDWAY,
    )[0]
    return row["state"], row["error_code"], row["attempts"]


def ends_once_mended(scene: Scene, run_id: str, case: str) -> None:
    """The scorer is mended: the session is retried under the same approval, and all is well."""
    scene.project.db.execute("truncate public.test_unlucky")
    verbs.call(scene.project.db, "backfill_retry", p_run_id=run_id)
    assert scene.go_on(run_id).is_complete
    scene.ends_as_undisturbed(case, run_id)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_repetition_is_noticed_and_ended(scene: Scene, moment: str) -> None:
    """The run is paused with the cause and the SQL that ends it; the session is not called again.

    After a first write the changed fence ends it. Before that only the owner of the database can.
    """
    # Not as fast as it could: it is repeated until somebody notices.
    run_id = unlucky_run(scene, moment, "perform pg_sleep(0.05); raise sqlstate '40001'")
    with pytest.raises(backfill.Paused, match="repeats a scoring call without end") as paused:
        scene.apply(run_id, call_timeout_s=LIMIT_S)
    scene.struck()
    assert unlucky(scene, run_id) == ("failed", "40001", 1)
    if moment == "before":
        # Between two of its transactions the connection is at rest for a moment.
        wait_until(lambda: scene.project.value(REPEATING) == 1)
        said = re.search(r"select pg_terminate_backend.* as pid;", str(paused.value))
        assert said
        scene.project.db.execute(said[0].encode())
    wait_until(lambda: scene.project.value(REPEATING) == 0)
    outcome = scene.go_on(run_id)
    assert outcome.status.counts["failed"] == 1
    assert unlucky(scene, run_id) == ("failed", "40001", 1)
    ends_once_mended(scene, run_id, f"40001 {moment} the first write")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_deadlock_that_comes_each_time_fails_its_session(scene: Scene, moment: str) -> None:
    """40P01 is answered: made again five times, then it is that session's failure."""
    run_id = unlucky_run(scene, moment, "raise sqlstate '40P01'")
    outcome = scene.apply(run_id)
    scene.struck()
    assert outcome.status.counts["failed"] == 1
    assert unlucky(scene, run_id) == ("failed", "40P01", 5)
    ends_once_mended(scene, run_id, f"40P01 {moment} the first write")


def test_a_call_that_is_merely_slow_is_no_repetition(scene: Scene) -> None:
    """It still runs when its worker has given it up: it is refused at its write, and made again."""
    run_id = unlucky_run(scene, "before", f"perform pg_sleep({LIMIT_S} + 2)")

    def mend(event: backfill.Event) -> None:
        scene.events.append(event)
        if event.kind == "call" and event.details["outcome"] == "unknown":
            scene.struck()
            scene.project.db.execute("delete from public.test_unlucky")

    outcome = scene.apply(run_id, call_timeout_s=LIMIT_S, on_event=mend)
    assert outcome.is_complete
    assert scene.outcomes()["unknown"] > 0
    scene.ends_as_undisturbed("slower than the worker waits", run_id)
