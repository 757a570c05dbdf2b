"""The gate at the write: under a header only a live attempt writes; every row leaves a receipt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

import backfill
from backfill.local.servers import PostgresServer
from backfill.targets import migrations
from backfill.targets.migrations import builds_index_concurrently
from tests.conftest import Project, _served
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.outsider import Attempt, Outsider, code_of, running

SCORER = "public.score_fc_session(session_id uuid, version text, basis text)"
INSERT = (
    "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
    " values ($1, $2, $3, '{}', 6)"
)


def receipts(project: Project, *columns: str) -> list[tuple[Any, ...]]:
    """The receipts in the order of the writes."""
    wanted = columns or ("operation", "session_id", "component")
    rows = project.rows(
        f"select {', '.join(wanted)} from public.backfill_receipts order by receipt_id"
    )
    return [tuple(row.values()) for row in rows]


def open_to_everybody(project: Project) -> dict[str, Outsider]:
    """Every API role may write scores, so that nothing but the gate stops it."""
    project.db.execute(
        "grant insert on public.fc_scores to anon, authenticated;"
        "create policy everybody on public.fc_scores for insert to anon, authenticated"
        " with check (true)"
    )
    return {
        "anon": Outsider(project, project.keys.anon),
        "authenticated": Outsider(project, project.user(None)),
        "service_role": Outsider(project),
    }


def expired_lease(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
    clock.advance(61)
    return attempt.headers


def expired_approval(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
    project.db.execute(
        "update public.backfill_runs set approved_until = backfill_private.clock()"
        " where run_id = %s",
        (attempt.run_id,),
    )
    return attempt.headers


def in_state(function: str) -> Callable[[Project, DatabaseClock, Attempt], dict[str, str]]:
    def move(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
        Outsider(project).rpc(function, run=attempt.run_id, reason="forgery")
        return attempt.headers

    return move


def settled(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
    Outsider(project).settle(attempt, outcome="released")
    return attempt.headers


def taken_over(project: Project, clock: DatabaseClock, attempt: Attempt) -> dict[str, str]:
    """The same claim asked again hands out new fences."""
    Outsider(project).claim(attempt.run_id, attempt.claim_id)
    return attempt.headers


# what is forged: the headers, and what the gate says to them
FORGED: dict[str, tuple[Callable[[Project, DatabaseClock, Attempt], dict[str, str]], str]] = {
    "an unknown run": (lambda p, c, a: {**a.headers, "x-backfill-run": str(uuid4())}, "OB011"),
    "a run that is no id": (lambda p, c, a: {**a.headers, "x-backfill-run": "'"}, "OB011"),
    "an empty run": (lambda p, c, a: {**a.headers, "x-backfill-run": ""}, "OB011"),
    "the right run with a wrong fence": (
        lambda p, c, a: {**a.headers, "x-backfill-fence": "0" * 64},
        "OB011",
    ),
    "the right run without a fence": (lambda p, c, a: {"x-backfill-run": a.run_id}, "OB011"),
    "the hash in the place of the fence": (
        lambda p, c, a: {
            **a.headers,
            "x-backfill-fence": p.value(
                "select encode(fence_hash, 'hex') from public.backfill_items"
                " where run_id = %s and ordinal = %s",
                a.run_id,
                a.ordinal,
            ),
        },
        "OB011",
    ),
    "a lease that ran out": (expired_lease, "OB011"),
    "a settled attempt": (settled, "OB011"),
    "an attempt that was taken over": (taken_over, "OB011"),
    "a paused run": (in_state("backfill_pause"), "OB012"),
    "a cancelled run": (in_state("backfill_cancel"), "OB012"),
    "an approval that ran out": (expired_approval, "OB012"),
}


@pytest.mark.parametrize("what", FORGED)
def test_no_role_writes_under_forged_headers(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock, what: str
) -> None:
    """Every API role is refused alike, and neither row nor receipt is left."""
    everybody = open_to_everybody(project)
    attempt = Outsider(project).claim(running(project, timed))[0]
    forge, code = FORGED[what]
    headers = forge(project, clock, attempt)
    answers = {
        role: code_of(api.write(attempt.session_id, headers)) for role, api in everybody.items()
    }
    assert answers == dict.fromkeys(everybody, code)
    assert receipts(project) == []
    assert (
        project.value(
            "select count(*) from public.fc_scores where session_id = %s and version = 'v1.2'",
            attempt.session_id,
        )
        == 0
    )


def test_a_live_fence_lets_its_holder_write_whatever_the_role(
    project: Project, timed: backfill.Backfill
) -> None:
    """The refusals of the other tests are the gate's: the right headers open it."""
    everybody = open_to_everybody(project)
    attempts = Outsider(project).claim(running(project, timed))
    for api, attempt in zip(everybody.values(), attempts, strict=False):
        assert api.write(attempt.session_id, attempt.headers).status_code == 201
        assert receipts(project)[-1] == ("insert", attempt.session_id, "fc_scores")


def test_the_fence_of_one_run_opens_no_other(project: Project, timed: backfill.Backfill) -> None:
    """Run and fence belong together, even where both are live."""
    first, second = running(project, timed), running(project, timed)
    api = Outsider(project)
    mine, theirs = api.claim(first)[0], api.claim(second)[0]
    crossed = {"x-backfill-run": mine.run_id, "x-backfill-fence": theirs.fence}
    assert [code_of(api.write(a.session_id, crossed)) for a in (mine, theirs)] == ["OB011"] * 2
    assert receipts(project) == []


def test_the_fence_of_one_session_opens_no_other(
    project: Project, timed: backfill.Backfill
) -> None:
    """An attempt writes its own session alone, by insert, update and delete."""
    api = Outsider(project)
    mine, other = api.claim(running(project, timed))[:2]
    assert code_of(api.write(other.session_id, mine.headers)) == "OB018"
    assert api.score(other)["status"] == "ok"
    row = f"/fc_scores?session_id=eq.{other.session_id}&version=eq.v1.2"
    assert code_of(api.send("PATCH", row, {"blocks_answered": 1}, mine.headers)) == "OB018"
    assert code_of(api.send("DELETE", row, None, mine.headers)) == "OB018"
    moved = {"session_id": mine.session_id}
    assert code_of(api.send("PATCH", row, moved, mine.headers)) == "OB018"
    assert code_of(api.send("PATCH", row, moved, other.headers)) == "OB018"
    assert receipts(project) == [("insert", other.session_id, "fc_scores")]


ORDINARY = {
    "empty": "",
    "an empty object": "{}",
    "null": "null",
    "another header": '{"x-client-info": "x"}',
    "a header whose name goes on": '{"x-backfill-run-of-mine": "1"}',
    "our name in a value": '{"user-agent": "x-backfill-run"}',
    "our name as a text": '"x-backfill-run"',
    "our name in a list": '["x-backfill-run"]',
    "our name deeper": '{"a": {"x-backfill-run": 1}}',
    "no JSON": "x-backfill-run",
    "JSON cut off": '{"x-backfill-run": "',
    "no character of a text": '{"a": "\\u0000", "b": "x-backfill-run"}',
    "a number too large": '{"a": 1e999999, "b": "x-backfill-run"}',
    "nested too deep": "[" * 50_000 + '"x-backfill-run"',
}


@pytest.mark.parametrize("what", ORDINARY)
def test_an_ordinary_write_never_fails_for_us_and_leaves_no_receipt(
    project_db: psycopg.Connection[Any], what: str
) -> None:
    """Whatever stands in request.headers: without our header every statement on a target passes."""
    run = project_db.execute
    run("select set_config('request.headers', %s, false)", (ORDINARY[what],))
    session = run(
        "insert into public.assessment_sessions (status) values ('completed') returning id"
    ).fetchone()
    assert session is not None
    key = {"id": session["id"]}
    run(
        "insert into public.fc_scores (session_id, version, scores_json, blocks_answered)"
        " values (%(id)s, 'v1.2', '{}', 1)",
        key,
    )
    assert (
        run(
            "update public.fc_scores set blocks_answered = 2 where session_id = %(id)s", key
        ).rowcount
        == 1
    )
    assert run("delete from public.fc_scores where session_id = %(id)s", key).rowcount == 1
    run("truncate public.fc_scores, public.profiles")
    left = run("select count(*) as receipts from public.backfill_receipts").fetchone()
    assert left == {"receipts": 0}


def test_a_write_without_request_headers_at_all_is_ordinary(
    project_db: psycopg.Connection[Any],
) -> None:
    """A connection that never heard of the setting writes as it always did."""
    project_db.execute("update public.profiles set type_code = type_code")
    row = project_db.execute("select count(*) as receipts from public.backfill_receipts").fetchone()
    assert row == {"receipts": 0}


def replace_scorer(project: Project, body: str, options: str = "") -> None:
    """Another scoring function under the name that the target calls."""
    project.db.execute(
        f"create or replace function {SCORER}"
        f" returns jsonb language plpgsql {options} set search_path = '' as $score$ begin {body};"
        " return '{}'; end $score$".encode()
    )
    project.reload()


# what the scorer does: its body, its options, and the operations that its receipts tell
SCORERS = {
    "is security definer": (INSERT, "security definer", ["insert"]),
    "upserts with do update": (
        INSERT + " on conflict on constraint fc_scores_pkey do update set blocks_answered = 7",
        "",
        ["insert"],
    ),
    "upserts with do nothing": (
        INSERT + " on conflict on constraint fc_scores_pkey do nothing",
        "",
        ["insert"],
    ),
    "upserts twice": (
        "for n in 1..2 loop "
        + INSERT
        + " on conflict on constraint fc_scores_pkey do update set blocks_answered = 7; end loop",
        "",
        ["insert", "update"],
    ),
    "writes several rows": (
        INSERT + "; insert into public.fc_scores select f.session_id, 'v0.9', k, '{}', 6"
        " from public.fc_scores as f, unnest(array['functions', 'other']) as k"
        " where f.session_id = $1 and f.version = $2",
        "",
        ["insert", "insert", "insert"],
    ),
    "deletes and writes anew": (
        INSERT
        + "; delete from public.fc_scores as f where f.session_id = $1 and f.version = $2; "
        + INSERT,
        "",
        ["insert", "delete", "insert"],
    ),
    "writes in a block that it undoes": (
        "begin "
        + INSERT
        + "; raise exception 'back'; exception when raise_exception then null; end; "
        + INSERT,
        "",
        ["insert"],
    ),
    "merges": (
        "merge into public.fc_scores as f using (values ($1)) as s (id)"
        " on f.session_id = s.id and f.version = $2 and f.fc_kind = $3"
        " when not matched then insert (session_id, version, fc_kind, scores_json, blocks_answered)"
        " values ($1, $2, $3, '{}', 6)",
        "",
        ["insert"],
    ),
}


@pytest.mark.parametrize("what", SCORERS)
def test_every_row_that_a_scorer_writes_has_its_receipt(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """However the function goes about it, the receipts tell each row's way; the session is done."""
    body, options, operations = SCORERS[what]
    replace_scorer(project, body, options)
    api = Outsider(project)
    attempt = next(a for a in api.claim(running(project, bf)) if len(a.steps) == 1)
    answer = api.score(attempt)
    assert answer == {}, answer
    assert receipts(project) == [(o, attempt.session_id, "fc_scores") for o in operations]
    assert [s["state"] for s in api.settle(attempt)["settled"]] == ["done"]


def test_a_receipt_keeps_what_stood_there_before(project: Project, bf: backfill.Backfill) -> None:
    """An update's receipt holds the row before, and hashes of both; an insert's has no before."""
    replace_scorer(
        project,
        INSERT + " on conflict on constraint fc_scores_pkey do update set blocks_answered = 7",
    )
    api = Outsider(project)
    attempt = next(a for a in api.claim(running(project, bf)) if len(a.steps) == 1)
    api.score(attempt)
    api.score(attempt)
    inserted, updated = project.rows("select * from public.backfill_receipts order by receipt_id")
    assert (inserted["before"], inserted["before_hash"]) == (None, None)
    assert updated["before"].startswith(f"({attempt.session_id},v1.2,functions,")
    assert updated["before_hash"] == inserted["after_hash"] != updated["after_hash"]
    assert updated["row_key"] == {
        "session_id": attempt.session_id, "version": "v1.2", "fc_kind": "functions",
    }  # fmt: skip


REFUSED = {
    "writes another session": (
        INSERT + "; update public.fc_scores as f set blocks_answered = 1 where f.session_id <> $1",
        "OB018",
    ),
    "deletes another session's rows": (
        INSERT + "; delete from public.fc_scores as f where f.session_id <> $1",
        "OB018",
    ),
    "deletes another session": (
        INSERT + "; delete from public.assessment_sessions as s where s.id ="
        " (select f.session_id from public.fc_scores as f where f.session_id <> $1 limit 1)",
        "OB018",
    ),
    "truncates a target": ("truncate public.fc_scores", "OB018"),
    "truncates through a cascade": ("truncate public.assessment_sessions cascade", "OB018"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_scorer_that_reaches_beyond_its_session_is_refused_and_pauses_the_run(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """The call fails as a whole and the run holds with a critical event."""
    body, code = REFUSED[what]
    replace_scorer(project, body, "security definer")
    api = Outsider(project)
    attempt = api.claim(running(project, bf))[0]
    before = project.rows("select * from public.fc_scores order by session_id, version, fc_kind")
    assert api.score(attempt)["code"] == code
    assert (
        project.rows("select * from public.fc_scores order by session_id, version, fc_kind")
        == before
    )
    assert receipts(project) == []
    ended = api.settle(attempt, outcome="failed", step="fc_scores", code=code, message="refused")
    assert ended["state"] == "paused"
    assert "critical" in ended["reason"]
    assert bf.verify(attempt.run_id).verdict == "fail"


def test_a_row_and_its_receipt_commit_together_or_not_at_all(
    project: Project, bf: backfill.Backfill
) -> None:
    """A scorer that raises after it wrote leaves neither row nor receipt."""
    replace_scorer(project, INSERT + "; raise exception 'after the write'")
    api = Outsider(project)
    attempt = api.claim(running(project, bf))[0]
    assert api.score(attempt)["code"] == "P0001"
    assert receipts(project) == []
    assert (
        project.value(
            "select count(*) from public.fc_scores where session_id = %s and version = 'v1.2'",
            attempt.session_id,
        )
        == 0
    )


@pytest.mark.parametrize(
    ("again", "told"),
    [
        ("update public.fc_scores as f set blocks_answered = 7", ["insert", "update"]),
        ("delete from public.fc_scores as f", ["insert", "delete"]),
    ],
)
def test_a_trigger_that_writes_the_row_again_leaves_its_receipt_second(
    project_db: psycopg.Connection[Any], again: str, told: list[str]
) -> None:
    """PostgreSQL runs triggers by name, and ours comes first. The undo then knows the row."""
    project_db.execute(
        "create function public.again() returns trigger language plpgsql as $$ begin"
        f" {again} where (f.session_id, f.version) = (new.session_id, new.version);"
        " return null; end $$;"
        "create trigger again after insert on public.fc_scores"
        " for each row execute function public.again()".encode()
    )
    run_id = verbs.started(project_db, throttle_per_minute="none")
    claim_id = str(uuid4())
    grant = verbs.claim(project_db, run_id, claim_id)["granted"][0]
    verbs.score(project_db, run_id, grant["fence"], grant["steps"][0])
    found = project_db.execute(
        "select array_agg(operation order by receipt_id) as told from public.backfill_receipts"
    ).fetchone()
    assert found is not None
    assert found["told"] == told
    answered = {"ordinal": grant["ordinal"], "outcome": "answered", "answered": ["fc_scores"]}
    verbs.settle(project_db, run_id, claim_id, [answered])
    verbs.call(project_db, "backfill_pause", run=run_id, reason="a test")
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id)
    assert preview["conflicts"] == []


def test_a_scorer_that_hides_its_header_pauses_the_run(
    project: Project, bf: backfill.Backfill
) -> None:
    """A call of ours that leaves its row without a receipt is critical."""
    replace_scorer(project, "perform set_config('request.headers', '', true); " + INSERT)
    api = Outsider(project)
    attempt = next(a for a in api.claim(running(project, bf)) if len(a.steps) == 1)
    assert api.score(attempt) == {}
    ended = api.settle(attempt)
    assert ended["settled"][0]["error_code"] == "OB016"
    assert ended["state"] == "paused"


def test_a_row_without_a_session_is_not_the_leased_sessions(
    project: Project, bf: backfill.Backfill
) -> None:
    """Where the session column may be null, a null is another session than the leased one."""
    project.db.execute(
        "alter table public.fc_scores drop constraint fc_scores_pkey;"
        "alter table public.fc_scores alter session_id drop not null;"
        "create unique index on public.fc_scores (session_id, version, fc_kind)"
    )
    project.reload()
    api = Outsider(project)
    attempt = api.claim(running(project, bf))[0]
    refused = api.send(
        "POST",
        "/fc_scores",
        {"session_id": None, "version": "v1.2", "scores_json": {}, "blocks_answered": 1},
        attempt.headers,
    )
    assert code_of(refused) == "OB018"


PARTITIONED = b"""
alter table public.fc_scores rename to fc_scores_whole;
alter table public.fc_scores_whole rename constraint fc_scores_pkey to fc_scores_whole_pkey;
create table public.fc_scores (
  session_id uuid not null references public.assessment_sessions (id) on delete cascade,
  version text not null,
  fc_kind text not null default 'functions',
  scores_json jsonb not null,
  blocks_answered integer not null,
  created_at timestamptz not null default now(),
  constraint fc_scores_pkey primary key (session_id, version, fc_kind)
) partition by list (version);
create table public.fc_scores_wanted partition of public.fc_scores for values in ('v1.2');
create table public.fc_scores_others partition of public.fc_scores default;
insert into public.fc_scores select * from public.fc_scores_whole;
drop table public.fc_scores_whole;
grant select, insert, update, delete on public.fc_scores, public.fc_scores_wanted to service_role;
"""


@pytest.fixture
def parted(
    postgres_server: PostgresServer,
    sample_db: psycopg.Connection[Any],
    sample_admin: psycopg.Connection[Any],
) -> Iterator[Project]:
    """A project whose scores are partitioned by version, with ours on top."""
    sample_db.row_factory = dict_row
    sample_db.execute(PARTITIONED)
    for migration in migrations.our_files():
        if not builds_index_concurrently(migration.read_text()):
            sample_db.execute(migration.read_text().encode())
    with _served(postgres_server, sample_db, sample_admin) as project:
        yield project


def test_a_partitioned_target_leaves_receipts_whichever_way_its_rows_are_written(
    parted: Project,
) -> None:
    """By the parent, by the partition, from one partition to another; and the run verifies."""
    api = Outsider(parted)
    with parted.connect() as bf:
        run = running(parted, bf)
        attempts = api.claim(run)
        first, second = attempts[:2]
        assert api.score(first)["status"] == "ok"
        with parted.db.transaction():  # a partition's own door: PostgREST does not offer it
            parted.value(
                "select set_config('request.headers', %s, true)", json.dumps(second.headers)
            )
            parted.db.execute(
                "insert into public.fc_scores_wanted"
                " (session_id, version, scores_json, blocks_answered) values (%s, 'v1.2', '{}', 6)",
                (second.session_id,),
            )
        moved = f"/fc_scores?session_id=eq.{second.session_id}&version=eq.v1.2"
        for there, back in (("v0.9", "v1.2"), ("v1.2", "v0.9")):
            path = moved.replace("v1.2", back)
            assert api.send("PATCH", path, {"version": there}, second.headers).status_code == 204
        assert receipts(parted, "operation", "session_id") == [
            ("insert", first.session_id),
            *[(o, second.session_id) for o in ("insert", "delete", "insert", "delete", "insert")],
        ]
        for attempt in attempts:
            for step in range(len(attempt.steps)):
                assert api.score(attempt, step)["status"] == "ok"
        assert {i["state"] for i in api.settle(*attempts)["settled"]} == {"done"}
        assert bf.apply(run).is_complete
        verification = bf.verify(run)
        assert verification.verdict == "pass", verification.as_dict()


def test_a_partition_whose_receipts_are_off_pauses_the_run_at_its_next_claim(
    parted: Project,
) -> None:
    """The parent's triggers stand, the partition's clone does not: that would be a hole."""
    with parted.connect() as bf:
        run = running(parted, bf)
        parted.db.execute(
            'alter table public.fc_scores_wanted disable trigger "000_backfill_receipt"'
        )
        assert Outsider(parted).claim(run) == []
        assert "receipt triggers of public.fc_scores" in (bf.status(run).reason or "")


def truncate_under(project: Project, headers: dict[str, str], table: str) -> None:
    """As a scoring function could: in a transaction with a run's headers."""
    with project.db.transaction():
        project.value("select set_config('request.headers', %s, true)", json.dumps(headers))
        project.db.execute(f"truncate public.{table}".encode())


def test_a_run_truncates_no_partition(parted: Project) -> None:
    """A truncate of one partition runs none of the parent's triggers: it has a guard of its own."""
    with parted.connect() as bf:
        attempt = Outsider(parted).claim(running(parted, bf))[0]
    before = parted.value("select count(*) from public.fc_scores")
    for table in ("fc_scores_wanted", "fc_scores_others", "fc_scores"):
        with pytest.raises(psycopg.errors.DatabaseError, match="does not truncate") as refused:
            truncate_under(parted, attempt.headers, table)
        assert refused.value.sqlstate == "OB018"
    assert parted.value("select count(*) from public.fc_scores") == before > 0


def test_rows_truncated_in_a_partition_without_its_guard_fail_the_verification(
    parted: Project,
) -> None:
    """Between the making of a partition and the next claim only verify can tell."""
    api = Outsider(parted)
    with parted.connect() as bf:
        run = running(parted, bf)
        attempt = api.claim(run)[0]
        assert api.score(attempt)["status"] == "ok"
        parted.db.execute("drop trigger backfill_no_truncate on public.fc_scores_wanted")
        truncate_under(parted, attempt.headers, "fc_scores_wanted")
        verification = bf.verify(run)
        assert verification.verdict == "fail"
        assert f"{attempt.session_id}: a written row is gone" in str(verification.as_dict())


NEW_PARTITIONS = {
    "made later": (
        "create table public.fc_scores_later partition of public.fc_scores for values in ('v3')"
    ),
    "attached later": (
        "create table public.fc_scores_later (like public.fc_scores);"
        "alter table public.fc_scores attach partition public.fc_scores_later for values in ('v3')"
    ),
    "made later, with partitions of its own": (
        "create table public.fc_scores_later partition of public.fc_scores for values in ('v3')"
        " partition by list (fc_kind);"
        "create table public.fc_scores_deep partition of public.fc_scores_later default"
    ),
}


@pytest.mark.parametrize("what", NEW_PARTITIONS)
def test_a_partition_without_its_guard_holds_the_run_until_check_has_cured_it(
    parted: Project, what: str
) -> None:
    """PostgreSQL gives it the receipts, not the guard against truncate; check says the SQL."""
    api = Outsider(parted)
    with parted.connect() as bf:
        run = running(parted, bf)
        parted.db.execute(NEW_PARTITIONS[what].encode())
        assert api.claim(run) == []
        assert "the receipt triggers of public.fc_scores_later" in (bf.status(run).reason or "")
        (line,) = (c for c in bf.check() if c.name == "receipts of public.fc_scores")
        assert line.status == "fail"
        assert "public.fc_scores_later" in line.detail
        parted.db.execute(line.next_step.encode())
        bf.resume(run)
        assert api.claim(run) != []
        assert all(c.status == "ok" for c in bf.check() if c.name == line.name)


def test_session_replication_role_does_not_get_around_the_receipts(
    project: Project, bf: backfill.Backfill
) -> None:
    """A superuser who switches ordinary triggers off still meets the gate and leaves receipts."""
    attempt = Outsider(project).claim(running(project, bf))[0]
    write = project.admin.execute
    write("set session_replication_role = replica")
    write("select set_config('request.headers', %s, false)", (json.dumps(attempt.headers),))
    write(
        "insert into public.fc_scores (session_id, version, scores_json, blocks_answered)"
        " values (%s, 'v1.2', '{}', 6)",
        (attempt.session_id,),
    )
    assert receipts(project) == [("insert", attempt.session_id, "fc_scores")]
    forged = json.dumps({**attempt.headers, "x-backfill-fence": "0"})
    write("select set_config('request.headers', %s, false)", (forged,))
    with pytest.raises(psycopg.errors.DatabaseError) as refused:
        write("delete from public.fc_scores")
    assert refused.value.sqlstate == "OB011"


DISABLED = {
    "disabled": 'alter table public.fc_scores disable trigger "000_backfill_receipt"',
    "no longer always enabled": (
        'alter table public.fc_scores enable trigger "000_backfill_receipt"'
    ),
    "enabled for replicas alone": (
        'alter table public.fc_scores enable replica trigger "000_backfill_receipt"'
    ),
    "dropped": 'drop trigger "000_backfill_receipt" on public.profiles',
    "without its guard against truncate": "drop trigger backfill_no_truncate on public.profiles",
    "another function under its name": (
        'drop trigger "000_backfill_receipt" on public.profiles;'
        'create trigger "000_backfill_receipt" after insert or update or delete on public.profiles'
        " for each row execute function backfill_private.refuse_truncate();"
        'alter table public.profiles enable always trigger "000_backfill_receipt"'
    ),
    "blind to updates": (
        'drop trigger "000_backfill_receipt" on public.profiles;'
        'create trigger "000_backfill_receipt" after insert or delete on public.profiles'
        " for each row execute function backfill_private.keep_receipt('prism', 'profile');"
        'alter table public.profiles enable always trigger "000_backfill_receipt"'
    ),
    "blind by its condition": (
        'drop trigger "000_backfill_receipt" on public.profiles;'
        'create trigger "000_backfill_receipt" after insert or update or delete on public.profiles'
        " for each row when (current_setting('request.headers', true) = 'x-backfill-run')"
        " execute function backfill_private.keep_receipt('prism', 'profile');"
        'alter table public.profiles enable always trigger "000_backfill_receipt"'
    ),
    "blind to most columns": (
        'drop trigger "000_backfill_receipt" on public.profiles;'
        'create trigger "000_backfill_receipt" after insert or update of type_code or delete'
        " on public.profiles"
        " for each row execute function backfill_private.keep_receipt('prism', 'profile');"
        'alter table public.profiles enable always trigger "000_backfill_receipt"'
    ),
}


@pytest.mark.parametrize("what", DISABLED)
def test_a_trigger_that_does_not_stand_pauses_the_run_at_its_next_claim(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """No session starts while a written row could be without a receipt."""
    run = running(project, bf)
    project.db.execute(DISABLED[what].encode())
    assert Outsider(project).claim(run) == []
    status = bf.status(run)
    assert status.state == "paused"
    assert "receipt triggers" in (status.reason or "")
