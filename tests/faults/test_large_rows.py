"""Rows of a megabyte that do not compress: overwritten, kept as they were, and put back."""

from __future__ import annotations

from typing import Literal

import pytest

import backfill
from tests.conftest import Project
from tests.kit.jars import PLAN, jars
from tests.kit.whole import examples

HASHES = examples(131_072, at_a_push=32_768)  # of 32 letters each: 4 MB, 1 MB
# Half of the rows are overwritten, by rows that are as large.
OVERWRITES = """
create function public.noise() returns text language sql as $$
  select string_agg(md5(random()::text), '') from generate_series(1, {hashes})
$$;
grant execute on function public.noise() to service_role;
insert into public.labels select id, 'chalk', public.noise() from public.jars where id <= 2;
create or replace function public.label_jar(jar_id bigint, made_with text) returns void
language sql set search_path = '' as $$
  insert into public.labels values ($1, $2, public.noise())
  on conflict on constraint labels_pkey
  do update set made_with = excluded.made_with, words = excluded.words
$$;
"""
ROWS = "select jar_id, made_with, md5(words) as words from public.labels order by jar_id"


@pytest.mark.parametrize("mode", ["direct", "bulk"])
def test_large_rows_are_overwritten_and_put_back(
    project: Project, bf: backfill.Backfill, mode: Literal["direct", "bulk"]
) -> None:
    """Byte by byte, though each receipt keeps the former row beside the new one."""
    jars(project, 1, 2, 3, 4)
    project.db.execute(OVERWRITES.format(hashes=HASHES).encode())
    before = project.rows(ROWS)
    plan = bf.plan(**PLAN, mode=mode)
    project.approve(plan)
    assert bf.apply(plan.run_id).is_complete
    assert bf.verify(plan.run_id).verdict == "pass"
    kept = "select min(length(before)) from public.backfill_receipts where before is not null"
    assert project.value(kept) > HASHES * 32
    undone = bf.rollback(plan.run_id).confirm(reason="a test")
    assert (undone.restores, undone.deletes) == ({"labels": 2}, {"labels": 2})
    assert undone.conflicts == ()
    assert project.rows(ROWS) == before
    assert bf.verify(plan.run_id).critical == ()
