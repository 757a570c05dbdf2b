"""Installing copies our migrations into a project, and touches nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from backfill.errors import UsageError
from backfill.results.history import History
from backfill.targets.declaration import (
    PRISM,
    Declaration,
    declared,
    over_edge_functions,
    parse,
)
from backfill.targets.install import Installation, carry_out, installation_text, plan_install
from backfill.targets.migrations import our_files

NOW = datetime(2026, 11, 23, 20, 7, 58, tzinfo=UTC)
# Of a target the name says no more than which it is: a later declaration has the same.
ORIGINALS = [f.name if "_core" in f.name else f.name[15:] for f in our_files()]
INDEX_FILE = "backfill_prism_index_sessions.sql"
LATER = NOW + timedelta(hours=1)
MINE = """
target = "mine"
[source]
table = "visits"
key = "id"
date = "done_at"
[parameters]
least = 1
[[component]]
name = "grade"
table = "grades"
session = "visit_id"
key = ["visit_id"]
version_column = "version"
version = "1"
function = "public.grade_visit(uuid)"
arguments = { visit = "session_id" }
"""
FIRST = parse(MINE)
SECOND = replace(FIRST, parameters={"least": 2})


@pytest.fixture
def supabase_path(tmp_path: Path) -> Path:
    """A Supabase project with one migration of its own."""
    folder = tmp_path / "supabase"
    (folder / "migrations").mkdir(parents=True)
    (folder / "config.toml").write_text('project_id = "mine"\n')
    (folder / "migrations" / "20260101000000_mine.sql").write_text("select 1;\n")
    return folder


def planned(path: Path, now: datetime = NOW) -> Installation:
    """An install of PRISM."""
    return plan_install(path, now, [declared(PRISM)])


def install(path: Path, now: datetime = NOW) -> Installation:
    return carry_out(planned(path, now))


def told(
    path: Path, target: Declaration, history: History | None, now: datetime = NOW
) -> Installation:
    """An install of a target, carried out, once the project was asked."""
    return carry_out(plan_install(path, now, [target], history))


def names_there(path: Path) -> list[str]:
    """Our files in a project."""
    return sorted(f.name for f in (path / "migrations").glob("*_backfill_*"))


def history(*applied: str, targets: tuple[str, ...] = ()) -> History:
    """A project that has applied these files."""
    return History(frozenset(name[:14] for name in applied), frozenset(targets))


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_planning_an_install_writes_nothing(supabase_path: Path) -> None:
    """It only says what would be copied."""
    before = contents(supabase_path)
    install_of_prism = planned(supabase_path)
    assert [m.original_name for m in install_of_prism.missing] == ORIGINALS
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
    names = [m.name for m in planned(supabase_path).migrations]
    assert [name[:14] for name in names] == ["20261123200758", "20261123200759", "20261123200800"]


def test_the_timestamps_are_utc(supabase_path: Path) -> None:
    """A moment is the same in every time zone."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-7)))
    assert planned(supabase_path, elsewhere) == planned(supabase_path)


def test_a_migration_of_the_future_is_still_before_ours(supabase_path: Path) -> None:
    """Somebody's clock was wrong; the order is kept all the same."""
    (supabase_path / "migrations" / "20270228235959_later.sql").touch()
    names = [m.name for m in planned(supabase_path).migrations]
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
    assert completed.migrations[0] == planned(supabase_path).migrations[0]
    assert [m.name > first.name for m in completed.migrations[1:]] == [True] * len(rest)
    assert all(m.is_same and m.is_there for m in planned(supabase_path).migrations)


def test_a_file_changed_by_hand_is_refused_and_left_as_it_is(supabase_path: Path) -> None:
    """Nothing else is copied either: half of an install is none."""
    changed = supabase_path / "migrations" / f"20260202000000_{ORIGINALS[0]}"
    changed.write_text("select 'mine';\n")
    before = contents(supabase_path)
    to_come = planned(supabase_path)
    assert f"left    {changed.name}" in installation_text(to_come)
    with pytest.raises(UsageError, match="changed by hand") as refusal:
        carry_out(to_come)
    assert changed.name in refusal.value.message
    assert contents(supabase_path) == before


def test_windows_line_ends_are_no_change(supabase_path: Path) -> None:
    """Git may have turned them; the SQL is the same."""
    for migration in install(supabase_path).migrations:
        path = supabase_path / "migrations" / migration.name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert planned(supabase_path).changed == ()


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
    to_come = planned(supabase_path)
    (supabase_path / "migrations" / "20260101000000_mine.sql").unlink()
    (supabase_path / "migrations").rmdir()
    (supabase_path / "migrations").touch()
    with pytest.raises(UsageError, match="cannot write into"):
        carry_out(to_come)


def test_the_text_shows_what_will_be_copied_and_then_how_to_apply_it(supabase_path: Path) -> None:
    """How to apply comes once there is something to apply; the index file has no transaction."""
    to_come = planned(supabase_path)
    assert f"copy    20261123200758_{ORIGINALS[0]}" in installation_text(to_come)
    assert "supabase db push" not in installation_text(to_come)
    done = installation_text(carry_out(to_come)).splitlines()
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
    assert planned(ours).missing == ()


# -- the core alone


def test_without_a_target_the_core_alone_is_copied_and_the_next_step_is_a_target(
    supabase_path: Path,
) -> None:
    """Nobody's tables are taken for PRISM's. Installed again, the next step is said again."""
    done = carry_out(plan_install(supabase_path, NOW))
    assert names_there(supabase_path) == [f"20261123200758_{ORIGINALS[0]}"]
    again = plan_install(supabase_path, NOW)
    for text in (installation_text(done), installation_text(again)):
        assert "  backfill target new" in text.splitlines()
        assert "  backfill install --target prism" in text.splitlines()
        assert "backfill check" not in text


def test_an_upgrade_beside_a_target_ends_with_the_check(supabase_path: Path) -> None:
    """A target is there, so no other is asked for."""
    install(supabase_path)
    assert installation_text(plan_install(supabase_path, NOW)).endswith("\n  backfill check")


# -- PRISM over Edge Functions


def test_prism_over_edge_functions_is_prism_but_for_how_it_is_scored() -> None:
    """The same rows under the same names: views, parameters, needs, versions, order."""
    edge, sql = declared("prism-edge"), declared(PRISM)
    assert [c.transport for c in edge.components] == ["edge", "edge"]
    assert edge == over_edge_functions(sql, "1", "inferred")


def test_prism_says_what_to_do_if_its_scorers_are_edge_functions(supabase_path: Path) -> None:
    """The refusal knows no target by name, so the command says it before."""
    assert "backfill install --target prism-edge" in installation_text(planned(supabase_path))
    edge = plan_install(supabase_path, NOW, [declared("prism-edge")])
    assert edge.notes == ()


def test_a_scorer_that_is_an_edge_function_of_the_project_is_named(supabase_path: Path) -> None:
    """Its folder is there, and the declaration says SQL."""
    mine = parse(MINE)
    assert plan_install(supabase_path, NOW, [mine]).notes == ()
    (supabase_path / "functions" / "grade_visit").mkdir(parents=True)
    (note,) = plan_install(supabase_path, NOW, [mine]).notes
    assert note.startswith("grade_visit is declared as a SQL function")
    assert note.endswith('transport = "edge"')


# -- a file that was refused


def test_an_earlier_file_that_is_not_applied_is_replaced(supabase_path: Path) -> None:
    """It would be refused again, and everything behind it with it."""
    core, *refused = (m.name for m in told(supabase_path, FIRST, None).migrations)
    done = told(supabase_path, SECOND, history(core), LATER)
    assert done.replaced == (refused[0],)
    assert names_there(supabase_path) == sorted(m.name for m in done.migrations)
    assert f"removed {refused[0]}" in installation_text(done)
    assert told(supabase_path, SECOND, history(core), LATER).replaced == ()


def test_the_file_of_an_install_that_was_cut_off_is_removed_the_next_time(
    supabase_path: Path,
) -> None:
    """Copied, then killed before the former file was removed: nothing is left to copy."""
    core, *refused = (m.name for m in told(supabase_path, FIRST, None).migrations)
    told(supabase_path, SECOND, None, LATER)
    planned = plan_install(supabase_path, LATER, [SECOND], history(core))
    assert (planned.missing, planned.replaced, planned.has_work) == ((), (refused[0],), True)


def test_a_file_that_is_applied_stays(supabase_path: Path) -> None:
    """Other projects know it by its name, so a new one comes after it."""
    first = [m.name for m in told(supabase_path, FIRST, None).migrations]
    third = replace(SECOND, parameters={"least": 3})
    second = told(supabase_path, SECOND, history(*first, targets=("mine",)), LATER)
    assert second.replaced == ()
    assert told(supabase_path, third, history(*first, targets=("mine",)), LATER).replaced == (
        second.missing[0].name,
    )
    assert set(first) < set(names_there(supabase_path))


UNKNOWN = {
    "not asked": None,
    "no record": History(None, frozenset()),
    "installed by other means": History(frozenset(), frozenset({"mine"})),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_without_an_answer_nothing_is_removed_and_a_person_decides(
    supabase_path: Path, case: str
) -> None:
    """Which file, when to delete it, and when not to."""
    first = [m.name for m in told(supabase_path, FIRST, None).migrations]
    done = told(supabase_path, SECOND, UNKNOWN[case], LATER)
    assert (done.replaced, done.undecided) == ((), (first[1],))
    text = installation_text(done)
    assert f"  {first[1]}\n  If supabase db push refused it, delete it" in text
    assert "Keep it if any project has applied it" in text
    again = plan_install(supabase_path, LATER, [SECOND], UNKNOWN[case])
    assert "delete it" not in installation_text(again)


def test_another_targets_files_are_left(supabase_path: Path) -> None:
    """It may wait for its own push."""
    other = replace(FIRST, target="other")
    core, *files = (m.name for m in told(supabase_path, other, None).migrations)
    assert told(supabase_path, SECOND, history(core), LATER).replaced == ()
    assert set(files) < set(names_there(supabase_path))
