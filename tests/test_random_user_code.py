"""User code at random: whatever a scorer and its triggers do, the run ends and nothing is lost.

A scorer and a trigger are made of acts, each for some of the sessions. The oracles are our own: the
rows of the target tables before and after, and a log that the user code writes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.whole import examples

Db = psycopg.Connection[Any]
EXAMPLES = examples(2_000, at_a_push=150)
MOST_TURNS = 100
# Seven sessions lack something since then.
REQUEST: dict[str, Any] = {"since": "2025-09-01", "throttle_per_minute": "none", "batch_size": 4}

SET_UP = """
create table public.acted (session_id uuid, place text);
create table public.locked (id integer);
create table public.code (part text, body text);
create function public.act(part text, session_id uuid) returns void language plpgsql as $act$
declare
  v_body text := (
    select replace(c.body, '{id}', quote_literal(act.session_id) || '::uuid')
    from public.code as c where c.part = act.part);
begin
  if v_body is not null then execute v_body; end if;
end $act$;
create or replace function public.score_fc_session(session_id uuid, version text, basis text)
returns jsonb language plpgsql as $score$
begin
  perform public.act('before', $1);
  insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
  values ($1, $2, $3, '{}', 6) on conflict do nothing;
  perform public.act('after', $1);
  return '{}';
end $score$;
create function public.acts() returns trigger language plpgsql as $trigger$
begin
  if pg_trigger_depth() < 4 then
    perform public.act(lower(tg_when) || ' insert', new.session_id);
  end if;
  return new;
end $trigger$;
create trigger acts_before before insert on public.fc_scores
  for each row execute function public.acts();
create trigger acts_after after insert on public.fc_scores
  for each row execute function public.acts();
create table public.parents (session_id uuid);
create table public.children (session_id uuid);
alter table public.parents add primary key (session_id);
alter table public.children add foreign key (session_id) references public.parents
  deferrable initially deferred;
grant all on public.acted, public.locked, public.code, public.parents, public.children
  to service_role;
"""
# Codes of every class that PostgreSQL has, those that might stop everything, some of nobody's.
CODES = (
    "00000", "02000", "08006", "0A000", "21000", "22012", "22P02", "23502", "23503", "23505",
    "23514", "23P01", "25001", "25006", "25P02", "28000", "2F005", "39P01", "3D000", "3F000",
    "40001", "40002", "40P01", "42501", "42601", "42703", "42710", "42883", "42P01", "42P07",
    "53100", "53200", "54001", "55006", "55P03", "57P01", "58030", "P0001", "P0002",
    "P0004", "PT409", "PT429", "XX000", "XX001", "ZZZZZ", "99999",
)  # fmt: skip
# Why a run may pause.
CAUSES = ("every call would fail", "circuit breaker", "critical", "no known outcome")
# What an act does to the session {id}, in plpgsql. {place} says which of the acts it is.
ACTS = {
    "write elsewhere": "insert into public.acted values ({id}, '{place}')",
    "write elsewhere by a bare name": "insert into acted values ({id}, '{place}')",
    "write the row again": "update public.fc_scores as f set blocks_answered = 7"
    " where f.session_id = {id} and f.version = 'v1.2'",
    "delete the row": "delete from public.fc_scores as f"
    " where f.session_id = {id} and f.version = 'v1.2'",
    "write another's row": "update public.fc_scores as f set blocks_answered = 8"
    " where f.session_id <> {id}",
    "a child first": "insert into public.children values ({id});"
    " insert into public.parents values ({id}) on conflict do nothing",
    "a child alone": "insert into public.children values ({id})",
    "defer": "set constraints all deferred",
    "do not defer": "set constraints all immediate",
    "lock a table": "lock table public.locked in share row exclusive mode",
    "take a lock": "perform pg_advisory_xact_lock(1)",
    "another path": "set local search_path = nowhere",
    "a zone": "set local time zone 'Asia/Tokyo'",
    "a flag": "if current_setting('app.flag', true) = 'on' then raise 'it leaked'; end if;"
    " perform set_config('app.flag', 'on', true)",
    "a temporary table": "create temp table parts on commit drop as select 1",
    "another role": "set local role anon",
}
# A zone that leaks into another act changes nothing. Nor may one that reads what another leaves.
EVENTS = ("before insert", "after insert")


@dataclass(frozen=True)
class Act:
    """What is done for the sessions whose id begins so."""

    what: str
    code: str
    begins: str
    place: str

    def sql(self) -> str:
        """The act as a statement of plpgsql, for the session {id}."""
        body = (
            f"raise exception 'as it likes' using errcode = '{self.code}'"
            if self.what == "raise"
            else ACTS[self.what].replace("{place}", self.place)
        )
        return f"if {{id}}::text ~ '^[{self.begins}]' then {body}; end if; "


@dataclass(frozen=True)
class Code:
    """A scorer and a trigger on what it writes."""

    before: tuple[Act, ...]
    after: tuple[Act, ...]
    trigger: tuple[Act, ...]
    event: str
    mode: str

    def install(self, db: Db) -> None:
        """Hand it to the functions that do as they are told."""
        parts = {"before": self.before, "after": self.after, self.event: self.trigger}
        db.execute("delete from public.code")
        for part, some in parts.items():
            body = "do $act$ begin " + "".join(act.sql() for act in some) + " end $act$"
            if some:
                db.execute("insert into public.code values (%s, %s)", (part, body))


def acts(where: str) -> st.SearchStrategy[tuple[Act, ...]]:
    """Up to three acts, each for an eighth to all of the sessions."""
    what = st.sampled_from(["raise", "raise", *ACTS])
    begins = st.sampled_from(["01", "0123", "89ab", "cdef", "01234567", "0123456789abcdef"])
    made = st.lists(st.tuples(what, st.sampled_from(CODES[1:]), begins), max_size=3)
    return made.map(
        lambda some: tuple(Act(*one, place=f"{where} {at}") for at, one in enumerate(some))
    )


CODE = st.builds(
    Code,
    before=acts("before"),
    after=acts("after"),
    trigger=acts("trigger"),
    event=st.sampled_from(EVENTS),
    mode=st.sampled_from(["direct", "bulk"]),
)


# What an example may change, and is put back after it, with our guards off.
TOUCHED = (
    "public.backfill_runs", "public.backfill_items", "public.backfill_events", "public.fc_scores",
    "public.profiles", "public.test_clock",
)  # fmt: skip
EMPTIED = (
    "public.backfill_receipts", "public.acted", "public.parents", "public.children",
    "backfill_private.undos", "backfill_private.starts", "backfill_private.unnoted",
    "backfill_private.bulk_claims", "backfill_private.bulk_rows",
)  # fmt: skip


class Stage:
    """A started run of each mode, brought back to its start again and again."""

    def __init__(self, db: Db, admin: psycopg.Connection[Any]) -> None:
        self.db, self.clock, self._admin = db, DatabaseClock(db), admin
        db.execute(SET_UP.encode())
        self.runs = {m: verbs.started(db, **REQUEST, mode=m) for m in ("direct", "bulk")}
        self.before = rows_of(db)
        for number, table in enumerate(TOUCHED):
            admin.execute(f"create table public.kept_{number} as table {table}".encode())

    def reset(self) -> None:
        """Bring everything back."""
        # A row that stands as it stood stays: verify would take one that comes anew for a stranger.
        back = [f"delete from {table};" for table in EMPTIED]
        for number, table in enumerate(TOUCHED):
            kept = f"public.kept_{number}"
            back += [
                f"delete from {table} as t where not exists (",
                f"select from {kept} as k where k.* is not distinct from t.*);",
                f"insert into {table} table {kept} except table {table};",
            ]
        begin = "begin; set local session_replication_role = replica;"
        self._admin.execute("".join([begin, *back, "commit"]).encode())


def rows_of(db: Db) -> dict[tuple[str, str], str]:
    """Every row of the target tables by table and key."""
    found = db.execute(
        "select 'public.fc_scores' as name, jsonb_build_object('session_id', t.session_id,"
        " 'version', t.version, 'fc_kind', t.fc_kind)::text as key, to_jsonb(t)::text as contents"
        " from public.fc_scores as t union all"
        " select 'public.profiles', jsonb_build_object('session_id', t.session_id)::text,"
        " to_jsonb(t)::text from public.profiles as t"
    )
    return {(row["name"], row["key"]): row["contents"] for row in found}


def changed(one: dict[Any, str], other: dict[Any, str]) -> set[Any]:
    """The keys whose rows differ."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def direct(db: Db, run_id: str) -> float | None:
    """Claim, score and settle a batch. Returns for how long to wait, None at the end."""
    claim_id = str(uuid4())
    claim = verbs.claim(db, run_id, claim_id)
    if not claim["granted"]:
        return float(claim.get("wait_s", 0)) if claim["state"] == "running" else None
    outcomes = [_outcome(db, run_id, grant) for grant in claim["granted"]]
    verbs.settle(db, run_id, claim_id, outcomes)
    return 0.0


def _outcome(db: Db, run_id: str, grant: dict[str, Any]) -> dict[str, Any]:
    answered: list[str] = []
    for step in grant["steps"]:
        try:
            verbs.score(db, run_id, grant["fence"], step)
        except psycopg.Error as error:
            row = db.execute(
                "select (backfill_private.fault(%s)).direct as kind", (error.sqlstate,)
            ).fetchone()
            assert row is not None
            return {
                "ordinal": grant["ordinal"], "outcome": row["kind"], "answered": answered,
                "step": step["component"], "code": error.sqlstate, "message": "as it likes",
            }  # fmt: skip
        answered.append(step["component"])
    return {"ordinal": grant["ordinal"], "outcome": "answered", "answered": answered}


def bulk(db: Db, run_id: str, sessions: int) -> float | None:
    """Make a call in bulk, or what a claim says instead."""
    answer = verbs.call(db, "backfill_bulk", p_run_id=run_id, p_worker="test", p_sessions=sessions)
    return direct(db, run_id) if answer.get("look") or not answer.get("done") else 0.0


def run_to_its_end(db: Db, clock: DatabaseClock, run_id: str, mode: str) -> None:
    """Work on a run until it is completed or paused."""
    for _ in range(MOST_TURNS):
        wait_s = bulk(db, run_id, 7) if mode == "bulk" else direct(db, run_id)
        if wait_s is None:
            return
        clock.advance(wait_s)
    raise AssertionError("it does not end")


def undo_all(db: Db, run_id: str) -> list[dict[str, Any]]:
    """Take everything back. Returns the conflicts."""
    preview = verbs.call(db, "backfill_preview_undo", p_run_id=run_id)
    confirmed = verbs.call(
        db, "backfill_confirm_undo",
        p_run_id=run_id, p_digest=preview["digest"], p_reason="a test", p_sessions=200,
    )  # fmt: skip
    assert confirmed["remaining"] == 0
    conflicts: list[dict[str, Any]] = confirmed["conflicts"]
    return conflicts


@pytest.mark.timeout(1800)
def test_the_promises_hold_whatever_user_code_does(
    project_db: Db, project_admin: psycopg.Connection[Any]
) -> None:
    """It ends, rows have receipts, nothing is done twice, and an undo takes all of it back."""
    stage = Stage(project_db, project_admin)
    seen: Counter[str] = Counter()

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(CODE)
    def holds(code: Code) -> None:
        stage.reset()
        code.install(project_db)
        seen[_one_run(stage, code)] += 1

    holds()
    print(dict(seen))
    assert {"completed", "paused"} <= seen.keys()


def _one_run(stage: Stage, code: Code) -> str:
    db, before, run_id = stage.db, stage.before, stage.runs[code.mode]
    run_to_its_end(db, stage.clock, run_id, code.mode)
    row = db.execute(
        "select state, reason from public.backfill_runs where run_id = %s", (run_id,)
    ).fetchone()
    assert row is not None
    assert row["state"] in ("completed", "paused")
    if row["state"] == "paused":
        assert row["reason"].startswith(CAUSES)
    assert db.execute("select * from backfill_private.chain_faults(%s)", (run_id,)).fetchall() == []
    _rows_have_receipts(db, changed(before, rows_of(db)))
    twice = "select 1 from public.acted group by session_id, place having count(*) > 1"
    assert db.execute(twice.encode()).fetchall() == []
    verdict = verbs.verdict(db, run_id)
    assert (verdict == "fail") == (row["state"] == "paused") or verdict == "partial"
    if row["state"] == "paused":
        verbs.call(db, "backfill_cancel", run=run_id, reason="a test")
    conflicts = {(c["table"], str(c["session_id"])) for c in undo_all(db, run_id)}
    left = changed(before, rows_of(db))
    assert {key for key in left if not any(id_ in key[1] for _, id_ in conflicts)} == set()
    return str(row["state"])


def _rows_have_receipts(db: Db, keys: set[tuple[str, str]]) -> None:
    found = db.execute(
        "select distinct table_name, row_key::text as key from public.backfill_receipts"
    )
    assert keys <= {(row["table_name"], row["key"]) for row in found}
