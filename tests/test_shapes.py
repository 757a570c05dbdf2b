"""A migration that changes a table after a run is no change of the rows that the run wrote."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.seed import CANARY
from tests.test_undo import Db, completed, undo
from tests.test_undo_sets import overwriting, rows

# One after the other: later ones meet the table as the earlier ones left it.
MIGRATIONS = {
    "a column is added": "add column note text",
    "a column is added and the table rewritten": "add column born timestamptz default"
    " clock_timestamp()",
    "a column is renamed": "rename column scores_json to scores",
    "a column of the key is renamed": "rename column fc_kind to kind",
    "a column gets a wider type": "alter column blocks_answered type bigint",
    "a column becomes text": "alter column blocks_answered type text",
    "a moment loses its zone": "alter column created_at type timestamp using created_at at time"
    " zone 'UTC'",
    "a column is dropped": "drop column blocks_answered",
    "a dropped column comes again": "add column blocks_answered integer default 9",
}


def buckets(db: Db, run_id: str) -> dict[str, int]:
    """How the planned scores stand, counted."""
    found = rows(db, "select bucket from backfill_private.standing(%s, 'fc_scores', 0, 99)", run_id)
    return dict(Counter(row["bucket"] for row in found))


def conflicts(db: Db, run_id: str) -> list[str]:
    """The reasons of a preview."""
    preview = verbs.call(db, "backfill_preview_undo", p_run_id=run_id)
    return [c["reason"] for c in preview["conflicts"]]


def test_rows_are_as_planned_and_can_be_taken_back_whatever_a_migration_did(
    project_db: Db,
) -> None:
    """What somebody changed in one of them is seen all the same."""
    run_id = completed(project_db, DatabaseClock(project_db))
    for what, migration in MIGRATIONS.items():
        project_db.execute(f"alter table public.fc_scores {migration}".encode())
        assert conflicts(project_db, run_id) == [], what
        if "kind" not in migration:
            continue
        # The declaration follows the key's new name, as its owner would have it do.
        project_db.execute(
            b"update public.backfill_targets set key_columns = '{session_id,version,kind}',"
            b" matches = '{\"kind\": \"basis\"}' where component = 'fc_scores'"
        )
    assert buckets(project_db, run_id) == {"as_planned": 7}
    project_db.execute(
        "update public.fc_scores set scores = '{}' where session_id = %s and version = 'v1.2'",
        (CANARY,),
    )
    assert buckets(project_db, run_id) == {"as_planned": 6, "changed_since": 1}
    answer = undo(project_db, run_id)
    assert [c["reason"] for c in answer["conflicts"]] == ["the row was changed since"]
    assert answer["deletes"]["fc_scores"] == 6


def test_a_value_that_does_not_convert_back_is_no_change_and_is_not_taken_back_blindly(
    project_db: Db,
) -> None:
    """The row stays, and the reason is not that somebody changed it."""
    run_id = completed(project_db, DatabaseClock(project_db))
    project_db.execute(
        b"alter table public.fc_scores alter column scores_json type boolean using true"
    )
    assert buckets(project_db, run_id) == {"as_planned": 7}
    assert set(conflicts(project_db, run_id)) == {
        "a column has another type now, and what the run wrote cannot be compared with it"
    }


@pytest.mark.parametrize("deletes", [False, True], ids=["updated", "deleted"])
def test_a_row_is_restored_in_the_columns_that_the_table_has_now(
    project_db: Db, deletes: bool
) -> None:
    """What was overwritten is put where it belongs; a newer column keeps or gets its own value."""
    if deletes:
        project_db.execute(
            b"create function public.drop_it() returns trigger language plpgsql as"
            b" $$ begin delete from public.profiles as p where p.session_id = new.session_id;"
            b" return null; end $$;"
            b"create trigger drop_it after update on public.profiles for each row"
            b" when (new.type_code <> 'LIVE') execute function public.drop_it()"
        )
    run_id = overwriting(project_db, DatabaseClock(project_db))
    project_db.execute(
        b"drop trigger if exists drop_it on public.profiles;"
        b"alter table public.profiles add column extra integer not null default 8;"
        b"alter table public.profiles alter column extra set default 7;"
        b"alter table public.profiles drop column payload;"
        b"alter table public.profiles rename column type_code to kind"
    )
    answer = undo(project_db, run_id)
    assert answer["conflicts"] == []
    assert answer["restores"]["profiles"] == 3
    live = rows(project_db, "select extra from public.profiles where kind = 'LIVE'")
    # Four profiles stood there and nobody wrote them.
    assert Counter(row["extra"] for row in live) == ({7: 3, 8: 4} if deletes else {8: 7})


PARTITIONED = """
create table public.parts (session_id uuid, at date, code text, primary key (session_id, at))
partition by range (at);
create table public.parts_2025 (code text, at date not null, gone int, session_id uuid not null);
alter table public.parts_2025 drop column gone;
alter table public.parts attach partition public.parts_2025
  for values from ('2025-01-01') to ('2026-01-01');
"""


def test_a_partition_may_have_its_columns_in_another_order(project_db: Db) -> None:
    """A receipt is of the partition's shape, the row is read through the whole table."""
    project_db.execute(PARTITIONED.encode())
    image = '("a,""b\\\\",2025-05-05,00000000-0000-0000-0000-000000000001)'
    [part] = rows(
        project_db, "select backfill_private.shape_of('public.parts_2025'::regclass) as shape"
    )
    [row] = rows(
        project_db,
        "select f.names, backfill_private.refitted_image(%s, f.places) as image"
        " from backfill_private.image_fit('public.parts', %s) as f",
        image,
        part["shape"],
    )
    assert row["names"] == ["session_id", "at", "code"]
    [back] = rows(project_db, "select (%s::public.parts).*", row["image"])
    assert (back["code"], str(back["at"])) == ('a,"b\\', "2025-05-05")
