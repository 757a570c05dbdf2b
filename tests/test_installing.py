"""Installing copies our migrations into a project, and touches nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from backfill.errors import UsageError
from backfill.targets.install import Installation, carry_out, installation_text, plan_install
from backfill.targets.migrations import our_files

NOW = datetime(2026, 11, 23, 20, 7, 58, tzinfo=UTC)
# Of a target the name says no more than which it is: a later declaration has the same.
ORIGINALS = [f.name if "_core" in f.name else f.name[15:] for f in our_files()]
INDEX_FILE = "backfill_prism_index_sessions.sql"


@pytest.fixture
def supabase_path(tmp_path: Path) -> Path:
    """A Supabase project with one migration of its own."""
    folder = tmp_path / "supabase"
    (folder / "migrations").mkdir(parents=True)
    (folder / "config.toml").write_text('project_id = "mine"\n')
    (folder / "migrations" / "20260101000000_mine.sql").write_text("select 1;\n")
    return folder


def install(path: Path, now: datetime = NOW) -> Installation:
    return carry_out(plan_install(path, now))


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_planning_an_install_writes_nothing(supabase_path: Path) -> None:
    """It only says what would be copied."""
    before = contents(supabase_path)
    planned = plan_install(supabase_path, NOW)
    assert [m.original_name for m in planned.missing] == ORIGINALS
    assert contents(supabase_path) == before


def test_the_copies_are_ours_word_for_word_and_nothing_else_is_touched(supabase_path: Path) -> None:
    """New files only, equal to ours, under a timestamp and their own name."""
    before = contents(supabase_path)
    install(supabase_path)
    after = contents(supabase_path)
    new = sorted(after.keys() - before.keys())
    assert [name.split("_", 1)[1] for name in new] == ORIGINALS
    assert [after[name] for name in new] == [f.read_bytes() for f in our_files()]
    assert {name: after[name] for name in before} == before


def test_the_new_names_keep_the_order_and_come_after_everything(supabase_path: Path) -> None:
    """A second apart from now on, over the end of a minute too."""
    names = [m.name for m in plan_install(supabase_path, NOW).migrations]
    assert [name[:14] for name in names] == ["20261123200758", "20261123200759", "20261123200800"]


def test_the_timestamps_are_utc(supabase_path: Path) -> None:
    """A moment is the same in every time zone."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-7)))
    assert plan_install(supabase_path, elsewhere) == plan_install(supabase_path, NOW)


def test_a_migration_of_the_future_is_still_before_ours(supabase_path: Path) -> None:
    """Somebody's clock was wrong; the order is kept all the same."""
    (supabase_path / "migrations" / "20270228235959_later.sql").touch()
    names = [m.name for m in plan_install(supabase_path, NOW).migrations]
    assert names[0].startswith("20270301000000_")


def test_a_name_that_is_no_moment_is_refused_when_nothing_can_follow_it(
    supabase_path: Path,
) -> None:
    """Better no install than one in the wrong order."""
    (supabase_path / "migrations" / "99999999999999_last.sql").touch()
    with pytest.raises(UsageError, match="99999999999999_last"):
        plan_install(supabase_path, NOW)


def test_installing_again_does_nothing(supabase_path: Path) -> None:
    """A day later everything is there already."""
    install(supabase_path)
    before = contents(supabase_path)
    again = install(supabase_path, NOW + timedelta(days=1))
    assert again.missing == ()
    assert contents(supabase_path) == before
    assert "Everything is there already." in installation_text(again)


def test_an_install_that_was_cut_off_is_completed(supabase_path: Path) -> None:
    """What is there stays; what is missing comes after it."""
    first, *rest = install(supabase_path).migrations
    for migration in rest:
        (supabase_path / "migrations" / migration.name).unlink()
    completed = install(supabase_path, NOW)
    assert completed.migrations[0] == plan_install(supabase_path, NOW).migrations[0]
    assert [m.name > first.name for m in completed.migrations[1:]] == [True] * len(rest)
    assert all(m.is_same and m.is_there for m in plan_install(supabase_path, NOW).migrations)


def test_a_file_changed_by_hand_is_refused_and_left_as_it_is(supabase_path: Path) -> None:
    """Nothing else is copied either: half of an install is none."""
    changed = supabase_path / "migrations" / f"20260202000000_{ORIGINALS[0]}"
    changed.write_text("select 'mine';\n")
    before = contents(supabase_path)
    planned = plan_install(supabase_path, NOW)
    assert f"left    {changed.name}" in installation_text(planned)
    with pytest.raises(UsageError, match="changed by hand") as refusal:
        carry_out(planned)
    assert changed.name in refusal.value.message
    assert contents(supabase_path) == before


def test_windows_line_ends_are_no_change(supabase_path: Path) -> None:
    """Git may have turned them; the SQL is the same."""
    for migration in install(supabase_path).migrations:
        path = supabase_path / "migrations" / migration.name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert plan_install(supabase_path, NOW).changed == ()


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    """It is no Supabase project: supabase init makes one."""
    with pytest.raises(UsageError, match="no Supabase project folder") as refusal:
        plan_install(tmp_path, NOW)
    assert refusal.value.next_step == "supabase init"
    assert contents(tmp_path) == {}


def test_the_folder_above_the_project_is_refused_with_the_right_path(supabase_path: Path) -> None:
    """Who names the repository means the folder in it."""
    with pytest.raises(UsageError) as refusal:
        plan_install(supabase_path.parent, NOW)
    assert refusal.value.next_step == f"backfill install --supabase-path {supabase_path}"


def test_a_project_without_migrations_gets_the_folder(supabase_path: Path) -> None:
    """`supabase init` does not make it."""
    (supabase_path / "migrations" / "20260101000000_mine.sql").unlink()
    (supabase_path / "migrations").rmdir()
    install(supabase_path)
    assert len(list((supabase_path / "migrations").iterdir())) == len(ORIGINALS)


def test_a_folder_that_cannot_be_written_is_a_usage_error(supabase_path: Path) -> None:
    """A file stands where the folder should be."""
    planned = plan_install(supabase_path, NOW)
    (supabase_path / "migrations" / "20260101000000_mine.sql").unlink()
    (supabase_path / "migrations").rmdir()
    (supabase_path / "migrations").touch()
    with pytest.raises(UsageError, match="cannot write into"):
        carry_out(planned)


def test_the_text_shows_what_will_be_copied_and_then_how_to_apply_it(supabase_path: Path) -> None:
    """How to apply comes once there is something to apply; the index file has no transaction."""
    planned = plan_install(supabase_path, NOW)
    assert f"copy    20261123200758_{ORIGINALS[0]}" in installation_text(planned)
    assert "supabase db push" not in installation_text(planned)
    done = installation_text(carry_out(planned)).splitlines()
    assert "  supabase db push" in done
    psql = [line for line in done if line.startswith("  psql")]
    assert ["--single-transaction" in line for line in psql] == [
        INDEX_FILE not in line for line in psql
    ]
    assert any(INDEX_FILE in line for line in psql)
    assert done[-1] == "  backfill check"


def test_our_own_project_has_everything_already() -> None:
    """The checkout's own supabase folder holds the originals."""
    ours = Path(__file__).parent.parent / "supabase"
    assert plan_install(ours, NOW).missing == ()
