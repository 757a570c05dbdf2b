"""An undo takes back what it can and the run says what became of each session."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.moments import once
from tests.kit.seed import CANARY

Db = psycopg.Connection[Any]
SEVEN: dict[str, Any] = {"since": "2025-09-01", "throttle_per_minute": 20, "batch_size": 7}


@once
def completed(db: Db, clock: DatabaseClock) -> str:
    """A run over seven sessions that is done."""
    run_id = verbs.started(db, **SEVEN)
    verbs.work(db, run_id, clock)
    return run_id


def undo(db: Db, run_id: str, *sessions: str) -> Any:
    """Preview and confirm, of all or of some sessions."""
    preview = verbs.call(
        db, "backfill_preview_undo", p_run_id=run_id, p_sessions=list(sessions) or None
    )
    return verbs.call(
        db, "backfill_confirm_undo", p_run_id=run_id, p_digest=preview["digest"], p_reason="a test"
    )


def item_states(db: Db, run_id: str) -> dict[str, str]:
    """Session -> state."""
    rows = db.execute(
        "select session_id, state from public.backfill_items where run_id = %s", (run_id,)
    )
    return {row["session_id"]: row["state"] for row in rows}


def test_a_session_of_which_a_row_was_taken_back_is_not_done(
    project_db: Db, clock: DatabaseClock
) -> None:
    """Its profile was changed by others and stays; its score is gone, so it is rolled back."""
    run_id = completed(project_db, clock)
    project_db.execute("update public.profiles set payload = '{}' where session_id = %s", (CANARY,))
    answer = undo(project_db, run_id, CANARY)
    assert [c["reason"] for c in answer["conflicts"]] == ["the row was changed since"]
    assert answer["deletes"]["fc_scores"] == 1
    assert item_states(project_db, run_id)[CANARY] == "rolled_back"


def test_a_session_whose_rows_are_all_in_conflict_stays_done(
    project_db: Db, clock: DatabaseClock
) -> None:
    """Nothing of it was taken back."""
    run_id = completed(project_db, clock)
    project_db.execute("update public.profiles set payload = '{}'")
    project_db.execute("update public.fc_scores set blocks_answered = 5")
    answer = undo(project_db, run_id, CANARY)
    assert len(answer["conflicts"]) == 2
    assert item_states(project_db, run_id)[CANARY] == "done"


def test_an_undo_takes_back_nothing_of_another_run(project_db: Db, clock: DatabaseClock) -> None:
    """Both count their sessions from one, and both wrote rows of the same tables."""
    kept = completed(project_db, clock)
    other = verbs.started(project_db, throttle_per_minute="none", until="2025-08-10")
    verbs.work(project_db, other, clock)
    assert undo(project_db, other)["state"] == "rolled_back"
    assert set(item_states(project_db, kept).values()) == {"done"}
    assert verbs.verdict(project_db, kept) == "pass"


def with_two_failed(db: Db) -> tuple[str, list[str]]:
    """A completed run of which two sessions failed; its id, these two and two that are done."""
    run_id = verbs.started(db, **SEVEN)
    claim_id = str(uuid4())
    granted = verbs.claim(db, run_id, claim_id)["granted"]
    done = [verbs.score_all(db, run_id, grant) for grant in granted[:-2]]
    failed = [{"ordinal": grant["ordinal"], "outcome": "failed"} for grant in granted[-2:]]
    verbs.settle(db, run_id, claim_id, [*done, *failed])
    assert verbs.claim(db, run_id)["state"] == "completed"
    return run_id, [grant["session_id"] for grant in granted[-4:]]


@pytest.mark.parametrize("at_once", [1, 200], ids=["begun", "ended"])
def test_an_undo_does_not_go_on_to_rows_that_its_preview_never_showed(
    project_db: Db, at_once: int
) -> None:
    """Once the run has run again, the same digest confirms nothing more."""
    clock = DatabaseClock(project_db)
    run_id, sessions = with_two_failed(project_db)
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id, p_sessions=sessions)
    confirm = {"p_run_id": run_id, "p_digest": preview["digest"], "p_reason": "a test"}
    verbs.call(project_db, "backfill_confirm_undo", **confirm, p_sessions=at_once)
    verbs.call(project_db, "backfill_retry", p_run_id=run_id)
    clock.advance(60)
    verbs.work(project_db, run_id, clock)
    with pytest.raises(psycopg.Error) as refused:
        verbs.call(project_db, "backfill_confirm_undo", **confirm)
    assert refused.value.sqlstate == "OB019"


# Ends a transaction that deletes more than ten scores, as the statement timeout ends a long one.
TIRING = b"""
create function public.tire() returns trigger language plpgsql as $$
declare
  v_before text := nullif(current_setting('test.deleted', true), '');
  v_deleted integer := coalesce(v_before, '0')::integer + 1;
begin
  perform set_config('test.deleted', v_deleted::text, true);
  if v_deleted > 10 then
    raise exception 'canceling statement due to statement timeout' using errcode = '57014';
  end if;
  return old;
end $$;
create trigger tire before delete on public.fc_scores for each row execute function public.tire()
"""


def test_a_piece_that_takes_too_long_is_halved_until_it_fits(
    project: Project, timed: backfill.Backfill
) -> None:
    """All 39 sessions are taken back, ten or fewer in a transaction."""
    run_id = verbs.started(project.db, throttle_per_minute="none", batch_size=50)
    timed.apply(run_id)
    project.db.execute(TIRING)
    done = timed.rollback(run_id).confirm(reason="a test")
    assert (done.deletes["fc_scores"], done.conflicts, done.state) == (39, (), "rolled_back")


# Each score that is deleted takes 300 ms of the clock that the test sets.
SLOW = b"""
create function public.dawdle() returns trigger language plpgsql as $$
begin
  update public.test_clock set now_at = now_at + interval '300 ms';
  return old;
end $$;
create trigger dawdle before delete on public.fc_scores for each row
execute function public.dawdle()
"""
REFUSES_LAST = """
create function public.keep_last() returns trigger language plpgsql as $$
begin
  if old.session_id::text = (
    select i.session_id from public.backfill_items as i where i.run_id = '{run}'
    order by i.ordinal desc limit 1
  ) then
    raise exception 'it is last';
  end if;
  return old;
end $$;
create trigger keep_last before delete on public.fc_scores for each row
execute function public.keep_last()
"""
# A score may only go if the profile that came with it goes in the same transaction.
TOGETHER = b"""
create function public.stay_together() returns trigger language plpgsql as $$
begin
  if exists (
    select from public.profiles as p
    join public.backfill_receipts as r on r.session_id = p.session_id::text
    where p.session_id = old.session_id and r.table_name = 'public.profiles' and r.kind = 'score'
  ) then
    raise exception 'its profile stays';
  end if;
  return null;
end $$;
create constraint trigger stay_together after delete on public.fc_scores
deferrable initially deferred for each row execute function public.stay_together()
"""


def test_no_session_is_undone_once_rows_are_locked_for_long(project_db: Db) -> None:
    """Somebody may want to write one of them. One is refused: the call ends after the first half.

    What a half leaves to be checked at the end is deferred for the next one too.
    """
    clock = DatabaseClock(project_db)
    run_id = verbs.started(project_db, throttle_per_minute="none", batch_size=50)
    verbs.work(project_db, run_id, clock)
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id)
    confirm = {"p_run_id": run_id, "p_digest": preview["digest"], "p_reason": "a test"}
    project_db.execute(SLOW)
    project_db.execute(REFUSES_LAST.format(run=run_id).encode())
    first = verbs.call(project_db, "backfill_confirm_undo", **confirm)
    assert (first["sessions"], first["remaining"]) == (19, 20)
    project_db.execute(b"drop trigger dawdle on public.fc_scores")
    project_db.execute(TOGETHER)
    last = verbs.call(project_db, "backfill_confirm_undo", **confirm)
    assert [c["reason"][-10:] for c in last["conflicts"]] == ["it is last"]
    assert last["remaining"] == 0
    assert last["deletes"] == {**preview["deletes"], "fc_scores": 38}


def test_a_row_that_others_have_locked_is_left_to_the_next_call(
    project_db: Db, project_admin: Db
) -> None:
    """The rows before it are free again then. What waits long holds nothing else."""
    run_id = completed(project_db, DatabaseClock(project_db))
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id)
    confirm = {"p_run_id": run_id, "p_digest": preview["digest"], "p_reason": "a test"}
    with project_admin.transaction():
        project_admin.execute(
            "select from public.fc_scores where session_id::text = (select i.session_id"
            " from public.backfill_items as i where i.run_id = %s order by i.ordinal desc limit 1)"
            " for update",
            (run_id,),
        )
        first = verbs.call(project_db, "backfill_confirm_undo", **confirm)
        assert (first["remaining"], first["conflicts"]) == (1, [])
    last = verbs.call(project_db, "backfill_confirm_undo", **confirm)
    assert (last["remaining"], last["conflicts"]) == (0, [])
    assert last["deletes"] == preview["deletes"]


REFUSALS = {
    "a trigger of the user's": """
create function public.keep() returns trigger language plpgsql as
$$ begin raise exception 'a score is never deleted'; end $$;
create trigger keep before delete on public.fc_scores for each row execute function public.keep()
""",
    "a deferred constraint": """
create function public.keep() returns trigger language plpgsql as
$$ begin raise exception 'a score is never deleted' using errcode = '23000'; end $$;
create constraint trigger keep after delete on public.fc_scores deferrable initially deferred
for each row execute function public.keep()
""",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_row_that_the_database_does_not_let_go_is_a_conflict(project_db: Db, what: str) -> None:
    """It is named with the reason and left; the other rows of the run are taken back."""
    run_id = completed(project_db, DatabaseClock(project_db))
    project_db.execute(REFUSALS[what].encode())
    answer = undo(project_db, run_id)
    assert len(answer["conflicts"]) == 7
    assert {c["table"] for c in answer["conflicts"]} == {"public.fc_scores"}
    reasons = {c["reason"] for c in answer["conflicts"]}
    assert all("a score is never deleted" in reason for reason in reasons)
    assert answer["deletes"]["profiles"] > 0
    row = project_db.execute(
        "select count(*) as n from public.fc_scores as f"
        " join public.backfill_items as i on i.session_id = f.session_id::text"
        " where i.run_id = %s and f.version = 'v1.2'",
        (run_id,),
    ).fetchone()
    assert row is not None
    assert row["n"] == 7


def test_an_undo_leaves_a_row_that_another_table_refers_to_in_a_child(
    project_db: Db, clock: DatabaseClock
) -> None:
    """A foreign key may name a child by inheritance: deleting the row would take the note along."""
    run_id = completed(project_db, clock)
    project_db.execute(
        "create table public.old_profiles (primary key (session_id)) inherits (public.profiles);"
        "create table public.notes (session_id uuid references public.old_profiles"
        " on delete cascade);"
        f"with gone as (delete from only public.profiles where session_id = '{CANARY}'"
        " returning *) insert into public.old_profiles select * from gone;"
        "insert into public.notes select session_id from public.old_profiles"
    )
    assert [c["reason"] for c in undo(project_db, run_id)["conflicts"]] == [
        "a row of public.notes refers to it (notes_session_id_fkey)"
    ]
    assert project_db.execute("select from public.notes").rowcount == 1


def test_what_json_keeps_is_compared_and_what_is_computed_when_read_is_not(
    project_db: Db, clock: DatabaseClock
) -> None:
    """The type json keeps a key twice and any order. A virtual column is kept nowhere."""
    is_virtual = project_db.info.server_version >= 180000  # earlier ones know no such column
    project_db.execute(
        "alter table public.fc_scores"
        """ add column extra json default '{"a": 1, "a": 2}',"""
        " add column twice integer generated always as (blocks_answered * 2)"
        + (" virtual" if is_virtual else " stored")
    )
    run_id = completed(project_db, clock)
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id)
    assert preview["conflicts"] == []
    project_db.execute(
        """update public.fc_scores set extra = '{"a": 2}' where session_id = %s""", (CANARY,)
    )
    answer = undo(project_db, run_id)
    assert [c["reason"] for c in answer["conflicts"]] == ["the row was changed since"]
    assert answer["deletes"]["fc_scores"] == 6
