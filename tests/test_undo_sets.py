"""An undo takes many rows back at once, and what the database has against one concerns that one."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.seed import CANARY
from tests.test_undo import SEVEN, Db, completed, item_states, undo


def rows(db: Db, query: str, *values: object) -> list[dict[str, Any]]:
    return db.execute(query.encode(), values).fetchall()


def receipts(db: Db, run_id: str, kind: str = "undo") -> list[dict[str, Any]]:
    """Of one kind, in their order."""
    return rows(
        db,
        "select * from public.backfill_receipts where run_id = %s and kind = %s"
        " order by receipt_id",
        run_id,
        kind,
    )


def overwriting(db: Db, clock: DatabaseClock) -> str:
    """A completed run that overwrote a row of live traffic with each of its calls."""
    run_id = verbs.started(db, **SEVEN)
    claim_id = str(uuid4())
    granted = verbs.claim(db, run_id, claim_id)["granted"]
    outcomes = []
    for grant in granted:
        with verbs.as_service(db):
            for step in grant["steps"]:
                named = ", ".join(f"{name} => %({name})s" for name in step["arguments"])
                db.execute(f"select public.{step['function']}({named})".encode(), step["arguments"])
            db.execute(
                "update public.profiles set type_code = 'LIVE' where session_id = %s",
                (grant["session_id"],),
            )
            db.execute(
                "update public.fc_scores set blocks_answered = 1 where session_id = %s",
                (grant["session_id"],),
            )
        outcomes.append(verbs.score_all(db, run_id, grant))
    verbs.settle(db, run_id, claim_id, outcomes)
    clock.advance(60)
    verbs.claim(db, run_id)
    return run_id


REFUSES_ONE = """
create function public.keep() returns trigger language plpgsql as $$
begin
  if old.session_id = '%s' then raise exception 'this score stays'; end if;
  return old;
end $$;
create trigger keep before delete on public.fc_scores for each row execute function public.keep()
"""


def test_one_refused_row_of_a_set_is_one_conflict(project_db: Db) -> None:
    """The others are taken back, each with a receipt; the refused one has none."""
    run_id = completed(project_db, DatabaseClock(project_db))
    written = receipts(project_db, run_id, "score")
    project_db.execute((REFUSES_ONE % CANARY).encode())
    answer = undo(project_db, run_id)
    assert [(c["session_id"], c["table"]) for c in answer["conflicts"]] == [
        (CANARY, "public.fc_scores")
    ]
    assert "this score stays" in answer["conflicts"][0]["reason"]
    undone = receipts(project_db, run_id)
    assert len(undone) == len(written) - 1 == sum(answer["deletes"].values())
    assert set(item_states(project_db, run_id).values()) == {"rolled_back"}


LETS_NOTHING_HAPPEN = {
    "a trigger": (
        "create function public.keep() returns trigger language plpgsql as"
        " $$ begin return null; end $$;"
        "create trigger keep before delete on public.fc_scores for each row"
        " execute function public.keep()",
        "let no delete happen",
    ),
    "a rule": ("create rule keep as on delete to public.fc_scores do instead nothing", "0A000"),
}


@pytest.mark.parametrize("what", LETS_NOTHING_HAPPEN)
def test_a_row_that_is_silently_kept_is_a_conflict(project_db: Db, what: str) -> None:
    """It is not taken for undone."""
    keeps, reason = LETS_NOTHING_HAPPEN[what]
    run_id = completed(project_db, DatabaseClock(project_db))
    project_db.execute(keeps.encode())
    answer = undo(project_db, run_id)
    assert len(answer["conflicts"]) == 7
    assert all(reason in c["reason"] for c in answer["conflicts"])
    assert {r["table_name"] for r in receipts(project_db, run_id)} == {"public.profiles"}


SECOND_KEY = """
create table public.reports (session_id uuid references public.profiles on delete cascade);
create table public.badges (
  session_id uuid, version text, fc_kind text,
  constraint badges_of_a_score foreign key (session_id, version, fc_kind)
    references public.fc_scores on delete set null);
alter table public.profiles add constraint profiles_code unique (session_id, type_code);
create table public.cards (
  session_id uuid, type_code text,
  constraint cards_second foreign key (session_id, type_code)
    references public.profiles (session_id, type_code) on delete cascade);
insert into public.badges values ('{0}', 'v1.2', 'functions');
insert into public.cards select session_id, type_code from public.profiles where session_id = '{0}'
"""


def test_a_row_that_any_foreign_key_refers_to_is_left_and_the_key_is_named(project_db: Db) -> None:
    """Whatever its ON DELETE: neither cascade nor set null ever happens."""
    run_id = completed(project_db, DatabaseClock(project_db))
    project_db.execute(SECOND_KEY.format(CANARY).encode())
    answer = undo(project_db, run_id)
    assert {c["table"]: c["reason"] for c in answer["conflicts"]} == {
        "public.fc_scores": "a row of public.badges refers to it (badges_of_a_score)",
        "public.profiles": "a row of public.cards refers to it (cards_second)",
    }
    assert len(rows(project_db, "select from public.cards")) == 1
    assert rows(project_db, "select version from public.badges") == [{"version": "v1.2"}]
    assert item_states(project_db, run_id)[CANARY] == "done"


WRITES_ON = """
create function public.write_on() returns trigger language plpgsql as $$
begin
  insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
  values (old.session_id, 'v0', 'functions', '{}', 0);
  return null;
end $$;
create trigger write_on after delete on public.fc_scores for each row
when (old.version = 'v1.2') execute function public.write_on()
"""


def test_what_a_trigger_of_the_users_writes_on_top_has_its_receipt_too(project_db: Db) -> None:
    """A row of a target table that the undo itself does not write is seen all the same."""
    run_id = completed(project_db, DatabaseClock(project_db))
    project_db.execute(WRITES_ON.encode())
    assert undo(project_db, run_id)["conflicts"] == []
    undone = receipts(project_db, run_id)
    assert [r["operation"] for r in undone].count("insert") == 7
    assert {r["row_key"]["version"] for r in undone if r["operation"] == "insert"} == {"v0"}


COMPUTED = """
alter table public.profiles add column number bigint generated always as identity,
  add column loud text generated always as (upper(type_code)) stored
"""


def test_overwritten_rows_are_restored_with_what_the_table_computes_left_to_it(
    project_db: Db,
) -> None:
    """Identity and generated columns are not set; each receipt has the hash of what stands."""
    project_db.execute(COMPUTED.encode())
    run_id = overwriting(project_db, DatabaseClock(project_db))
    answer = undo(project_db, run_id)
    assert (answer["conflicts"], sum(answer["deletes"].values())) == ([], 0)
    restored = rows(
        project_db,
        "select p.type_code, p.loud, p.number, r.before_hash, r.after_hash,"
        " backfill_private.row_hash(p) as stands, s.after_hash as was"
        " from public.backfill_receipts as r"
        " join public.backfill_receipts as s using (run_id, ordinal, table_name)"
        " join public.profiles as p on p.session_id = r.session_id::uuid"
        " where r.run_id = %s and r.kind = 'undo' and s.kind = 'score'"
        " and r.operation = 'update' and r.table_name = 'public.profiles'",
        run_id,
    )
    assert len(restored) == answer["restores"]["profiles"] > 0
    assert {row["type_code"] for row in restored} == {row["loud"] for row in restored} == {"LIVE"}
    assert all(row["after_hash"] == row["stands"] for row in restored)
    assert all(row["before_hash"] == row["was"] for row in restored)


CHANGES_AGAIN = """
create function public.mark() returns trigger language plpgsql as $$
begin new.type_code := 'MINE'; return new; end $$;
create trigger a_mark before update on public.profiles for each row execute function public.mark()
"""


def test_a_restored_row_that_a_trigger_changes_has_the_hash_of_what_stands(project_db: Db) -> None:
    """The receipt tells the truth about the row, whoever had the last word."""
    run_id = overwriting(project_db, DatabaseClock(project_db))
    project_db.execute(CHANGES_AGAIN.encode())
    assert undo(project_db, run_id)["conflicts"] == []
    differ = rows(
        project_db,
        "select p.type_code from public.backfill_receipts as r"
        " join public.profiles as p on p.session_id = r.session_id::uuid"
        " where r.run_id = %s and r.kind = 'undo' and r.table_name = 'public.profiles'"
        " and (r.after_hash <> backfill_private.row_hash(p) or p.type_code <> 'MINE')",
        run_id,
    )
    assert differ == []


def test_an_undo_confirmed_again_goes_on_where_it_stopped(project_db: Db) -> None:
    """As after a kill between two pieces: each row is taken back once."""
    run_id = completed(project_db, DatabaseClock(project_db))
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id)
    confirm = {"p_run_id": run_id, "p_digest": preview["digest"], "p_reason": "a test"}
    first = verbs.call(project_db, "backfill_confirm_undo", **confirm, p_sessions=3)
    assert (first["remaining"], first["sessions"]) == (4, 3)
    last = verbs.call(project_db, "backfill_confirm_undo", **confirm)
    assert (last["remaining"], last["sessions"], last["state"]) == (0, 7, "rolled_back")
    assert len(receipts(project_db, run_id)) == sum(preview["deletes"].values())
    assert last["deletes"] == preview["deletes"]


def test_an_undos_header_lets_nobody_write_unseen(project_db: Db) -> None:
    """Sent by somebody else it makes no receipt, and what a trigger writes under it is refused."""
    run_id = completed(project_db, DatabaseClock(project_db))
    before = len(receipts(project_db, run_id))
    delete = b"delete from public.fc_scores where session_id = %s and version = 'v1.2'"
    with verbs.as_service(project_db, {"x-backfill-undo": run_id}):
        project_db.execute(delete, (CANARY,))
    assert len(receipts(project_db, run_id)) == before
    assert verbs.verdict(project_db, run_id) == "fail"
    project_db.execute(WRITES_ON.encode())
    with (
        pytest.raises(psycopg.Error) as refused,
        verbs.as_service(project_db, {"x-backfill-undo": run_id}),
    ):
        project_db.execute(b"delete from public.fc_scores where version = 'v1.2'")
    assert refused.value.sqlstate == "OB011"


def test_an_image_that_was_changed_since_is_not_written_back(project_db: Db) -> None:
    """Its hash stands beside it. Its row is named and left, and the others are restored."""
    run_id = overwriting(project_db, DatabaseClock(project_db))
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id)
    assert preview["conflicts"] == []
    project_db.execute(
        "update public.backfill_receipts set before = replace(before, 'v1.2', 'v9.9')"
        " where receipt_id = (select min(receipt_id) from public.backfill_receipts"
        " where before is not null and component = 'fc_scores')"
    )
    answer = verbs.call(
        project_db,
        "backfill_confirm_undo",
        p_run_id=run_id,
        p_digest=preview["digest"],
        p_reason="a test",
    )
    assert [c["reason"] for c in answer["conflicts"]] == [
        "its before-image is not the one that the run kept"
    ]
    assert answer["restores"]["fc_scores"] > 0
