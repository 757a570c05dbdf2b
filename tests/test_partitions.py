"""Receipts of a partitioned target: each partition has its guard, or the run is held."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from backfill.local.servers import PostgresServer
from backfill.targets import migrations
from backfill.targets.migrations import builds_index_concurrently
from tests.conftest import Project, _served
from tests.kit.outsider import Outsider, running
from tests.kit.receipts import receipts

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


def test_an_undo_leaves_a_row_that_another_table_refers_to_in_its_partition(
    parted: Project,
) -> None:
    """A foreign key may name the partition alone: deleting the row would take the note along."""
    parted.db.execute(
        "create table public.notes (session_id uuid, version text, fc_kind text, note text,"
        " foreign key (session_id, version, fc_kind) references public.fc_scores_wanted"
        " on delete cascade)"
    )
    with parted.connect() as bf:
        run = running(parted, bf)
        assert bf.apply(run).is_complete
        (noted,) = parted.rows(
            "insert into public.notes select distinct session_id::uuid, 'v1.2', 'functions', 'kept'"
            " from public.backfill_receipts where run_id = %s and component = 'fc_scores'"
            " order by 1 limit 1 returning session_id::text",
            run,
        )
        undone = bf.rollback(run).confirm(reason="a test")
    assert [(c["session_id"], c["reason"]) for c in undone.conflicts] == [
        (
            noted["session_id"],
            "a row of public.notes refers to it (notes_session_id_version_fc_kind_fkey)",
        )
    ]
    assert parted.value("select count(*) from public.notes") == 1


def test_the_advice_on_an_index_is_one_that_a_partitioned_table_takes(parted: Project) -> None:
    """PostgreSQL builds none of a partitioned table beside writers."""
    parted.db.execute("alter table public.fc_scores drop constraint fc_scores_pkey")
    with parted.connect() as bf:
        told = {c.name: c for c in bf.check()}["key of public.fc_scores"]
        assert told.status == "fail"
        parted.db.execute(told.next_step.encode())
        assert {c.name: c for c in bf.check()}["key of public.fc_scores"].status == "ok"


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
