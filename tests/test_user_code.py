"""Code of the user's runs inside an undo and a rehearsal as it runs everywhere else.

It has the caller's search path and settings, and any error that it raises concerns one row.
"""

from __future__ import annotations

from typing import Any

import pytest

import backfill
from backfill.api.retries import Patience
from backfill.run import plan
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.seed import CANARY, REHEARSED
from tests.test_undo import Db, completed, undo
from tests.test_undo_sets import overwriting, rows

# As most people write a trigger: no path of its own, no schema before a table.
LOG = """
create table public.change_log (what text, zone text default current_setting('timezone'));
create function public.log_change() returns trigger language plpgsql as
$$ begin insert into change_log (what) values (tg_op); return null; end $$;
"""
UNQUALIFIED = {
    "a trigger": "create trigger log_change after delete on public.fc_scores for each row"
    " execute function public.log_change()",
    "a deferred trigger": "create constraint trigger log_change after delete on public.fc_scores"
    " deferrable initially deferred for each row execute function public.log_change()",
    "a rule": "create rule log_change as on delete to public.fc_scores do also"
    " insert into public.change_log (what) values ('DELETE')",
}


@pytest.mark.parametrize("what", UNQUALIFIED)
def test_what_writes_a_log_without_naming_its_schema_lets_an_undo_through(
    project_db: Db, what: str
) -> None:
    """It finds its table as it does for every other write, and has the caller's settings."""
    run_id = completed(project_db, DatabaseClock(project_db))
    project_db.execute((LOG + UNQUALIFIED[what]).encode())
    project_db.execute(b"set timezone = 'Asia/Tokyo'")
    answer = undo(project_db, run_id)
    assert (answer["conflicts"], answer["deletes"]["fc_scores"]) == ([], 7)
    assert rows(project_db, "select what, zone from public.change_log") == 7 * [
        {"what": "DELETE", "zone": "Asia/Tokyo"}
    ]


COMPUTES = """
create function public.is_code(c text) returns boolean language sql immutable as
$$ select c <> '' $$;
create function public.is_known(c text) returns boolean language plpgsql immutable as
$$ begin return is_code(c); end $$;
alter table public.profiles
  add constraint known check (public.is_known(type_code)),
  add column is_good boolean generated always as (public.is_known(type_code)) stored;
create domain public.code as text check (public.is_known(value));
alter table public.profiles alter column results_version type public.code;
"""


def test_checks_domains_and_generated_columns_of_a_restored_row_find_their_functions(
    project_db: Db,
) -> None:
    """They call a function of the user's that calls another without naming its schema."""
    run_id = overwriting(project_db, DatabaseClock(project_db))
    project_db.execute(COMPUTES.encode())
    answer = undo(project_db, run_id)
    assert (answer["conflicts"], answer["restores"]) == ([], {"profiles": 3, "fc_scores": 7})


NUMBERED = """
create domain public.code as text;
alter table public.profiles add column number bigint generated always as identity,
  alter column type_code type public.code
"""
FORBIDS = """
create function public.is_code(c text) returns boolean language plpgsql immutable as
$$ begin raise exception 'no such code' using errcode = '40001'; end $$;
alter domain public.code add constraint known check (public.is_code(value)) not valid
"""


def test_a_domain_that_has_come_to_refuse_a_value_makes_its_row_a_conflict(project_db: Db) -> None:
    """The preview reads the number of such a row, to see whether it was replaced, and no more."""
    project_db.execute(NUMBERED.encode())
    run_id = overwriting(project_db, DatabaseClock(project_db))
    project_db.execute(FORBIDS.encode())
    answer = undo(project_db, run_id)
    assert [c["reason"] for c in answer["conflicts"]] == [
        "the database refuses it: 40001 no such code"
    ] * 3
    assert answer["restores"] == {"profiles": 0, "fc_scores": 7}


RAISES = """
create table public.codes as
select session_id, (array{codes})[row_number() over (order by ordinal)] as code
from public.backfill_items where run_id = '{run}';
create function public.raise_some() returns trigger language plpgsql as $$
declare
  v_code text := (select c.code from codes as c where c.session_id = old.session_id::text);
begin
  if v_code is not null then
    raise exception 'this score stays' using errcode = v_code;
  end if;
  return old;
end $$;
create {kind}trigger raise_some {moment} delete on public.fc_scores {when} for each row
execute function public.raise_some()
"""
AT_ONCE = {"kind": "", "moment": "before", "when": ""}
DEFERRED = {"kind": "constraint ", "moment": "after", "when": "deferrable initially deferred"}
# Those of raise and assert, of HTTP answers, of the user's own kind. Those that we raise ourselves.
# Those that make a call worth another try. Those that would mean any row.
CODES = (
    *("P0001", "P0002", "P0004", "PT403", "PT409", "PT429", "45000", "RB001"),
    *("OB001", "OB003", "OB011", "OB012", "OB018", "OB019", "OB021"),
    *("40001", "40P01", "55P03", "57014", "57P01", "53300", "08006", "25P02", "25006"),
    *("42P01", "42883", "42501", "55000", "0A000", "XX000"),
)


@pytest.mark.parametrize("when", [AT_ONCE, DEFERRED], ids=["at once", "deferred"])
def test_a_row_that_raises_any_code_is_a_conflict_and_the_others_are_taken_back(
    project: Project, timed: backfill.Backfill, when: dict[str, str]
) -> None:
    """Of 39 scores 30 raise a code each. Each is named with its code, and no call is refused."""
    run_id = verbs.started(project.db, throttle_per_minute="none", batch_size=50)
    timed.apply(run_id)
    project.db.execute(RAISES.format(codes=list(CODES), run=run_id, **when).encode())
    preview = timed.rollback(run_id)
    done = preview.confirm(reason="a test")
    reasons = [str(c["reason"]) for c in done.conflicts]
    told = [r.removeprefix("the database refuses it: ").split(" ", 1) for r in reasons]
    assert sorted(code for code, _ in told) == sorted(CODES)
    hidden = {code for code, message in told if message != "this score stays"}
    assert hidden == {"0A000", "XX000"}  # of such a code no message is kept
    assert done.deletes == {**preview.deletes, "fc_scores": 39 - len(CODES)}


MEDDLES = {
    "puts the row back": (
        "insert into public.fc_scores select old.*; return null;",
        "a trigger of public.fc_scores puts the row back",
    ),
    "deletes another session's row": (
        "delete from public.fc_scores as f where f.session_id::text not in"
        " (select i.session_id from public.backfill_items as i); return null;",
        "OB018",
    ),
}


@pytest.mark.parametrize("what", MEDDLES)
def test_a_trigger_that_meddles_makes_its_row_a_conflict(project_db: Db, what: str) -> None:
    """What it did on top is rolled back with the row."""
    body, reason = MEDDLES[what]
    run_id = completed(project_db, DatabaseClock(project_db))
    project_db.execute(
        "create function public.meddle() returns trigger language plpgsql as"
        f" $$ begin {body} end $$;"
        "create trigger meddle after delete on public.fc_scores for each row"
        f" when (old.session_id <> '{CANARY}') execute function public.meddle()".encode()
    )
    answer = undo(project_db, run_id)
    told = {c["session_id"]: c["reason"] for c in answer["conflicts"]}
    assert len(told) == 6
    assert all(reason in t for t in told.values()), told


SLOW = f"""
create function public.dawdle() returns trigger language plpgsql as
$$ begin perform pg_sleep(60); return old; end $$;
create trigger dawdle before delete on public.fc_scores for each row
when (old.session_id = '{CANARY}') execute function public.dawdle()
"""


def test_a_row_that_alone_is_slower_than_the_limit_is_a_conflict(project_db: Db) -> None:
    """Among others it ends the call, which is then made with fewer sessions. Alone it is named."""
    run_id = completed(project_db, DatabaseClock(project_db))
    project_db.execute(SLOW.encode())
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id, p_sessions=[CANARY])
    project_db.execute(b"set statement_timeout = '1500ms'")
    answer = verbs.call(
        project_db,
        "backfill_confirm_undo",
        p_run_id=run_id,
        p_digest=preview["digest"],
        p_reason="a test",
    )
    assert {c["reason"] for c in answer["conflicts"]} == {
        "undoing it meets the time limit of a statement"
    }
    assert answer["remaining"] == 0


SCORES_WITH = """
create function public.raise_it() returns trigger language plpgsql as
$$ begin {body} return null; end $$;
create trigger raise_it after {event} on public.fc_scores for each row
execute function public.raise_it()
"""


def rehearsed(db: Db, event: str, body: str) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
    """What is seen of one session, with a trigger on its scores, and the plan's marks."""
    db.execute(SCORES_WITH.format(event=event, body=body).encode())
    run_id = verbs.collected(db)
    for session in verbs.call(db, "backfill_rehearsal", p_run_id=run_id):
        seen = verbs.call(db, "backfill_rehearse", p_run_id=run_id, p_session_id=session)
    plan = verbs.call(db, "backfill_seal", p_run_id=run_id)
    assert plan["state"] == "awaiting_approval"
    marks = rows(
        db,
        "select m ->> 'name' as name, m ->> 'status' as status, m ->> 'detail' as detail"
        " from public.backfill_runs as r cross join jsonb_array_elements(r.plan -> 'checks') as m"
        " where r.run_id = %s",
        run_id,
    )
    return seen, {m["name"].removeprefix("rehearsal: "): (m["status"], m["detail"]) for m in marks}


def test_a_rehearsal_meets_a_log_trigger_as_a_run_would(project_db: Db) -> None:
    """It names its table without a schema."""
    project_db.execute(
        b"create table public.change_log (what text); grant insert on"
        b" public.change_log to service_role"
    )
    _, marks = rehearsed(project_db, "delete", "insert into change_log values (tg_op);")
    assert [marks[name][0] for name in ("scoring calls", "undo")] == ["ok", "ok"], marks[
        "scoring calls"
    ]


@pytest.mark.parametrize("code", ["P0004", "57014", "OB019", "RB001", "42P01"])
def test_whatever_a_rehearsed_undo_raises_is_a_mark(project_db: Db, code: str) -> None:
    """The plan is made, and says that the row would stay."""
    body = f"raise exception 'it stays' using errcode = '{code}';"
    _, marks = rehearsed(project_db, "delete", body)
    assert marks["scoring calls"][0] == "ok"
    assert marks["undo"][0] == "warn"
    assert f"the database refuses it: {code}" in marks["undo"][1]


@pytest.mark.parametrize("code", ["P0004", "57014", "OB002", "RB001"])
def test_whatever_a_rehearsed_call_raises_is_a_mark(project_db: Db, code: str) -> None:
    """A code that we use ourselves, or that says a time limit, is the call's failure as any."""
    body = f"raise exception 'no score' using errcode = '{code}';"
    seen, marks = rehearsed(project_db, "insert", body)
    assert (seen["error"]["code"], seen["error"]["is_limit"]) == (code, False)
    assert marks["scoring calls"][0] == "fail"
    assert f"{code} no score" in marks["scoring calls"][1]


ENDS_ITSELF = """
create function public.end_itself() returns trigger language plpgsql as
$$ begin
  perform set_config('transaction_timeout', '1ms', true);
  perform pg_sleep(1);
  return null;
end $$;
create trigger end_itself after insert on public.fc_scores for each row
execute function public.end_itself()
"""


def test_a_rehearsed_call_that_ends_its_own_connection_is_a_mark(
    project: Project, bf: backfill.Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer comes back. The plan is made, and says so."""
    monkeypatch.setattr(plan, "REHEARSING", Patience(timeout_s=0.1, longest_wait_s=0.1))
    project.db.execute(ENDS_ITSELF.encode())
    [mark] = [
        c for c in bf.plan(**REHEARSED, rehearse=1).checks if c.name == "rehearsal: scoring calls"
    ]
    assert mark.status == "fail"
    # PostgreSQL 17 brought this limit. Before, the function fails in another way.
    assert "no answer came back" in mark.detail or "42704" in mark.detail
