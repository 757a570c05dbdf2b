"""Targets go as they came: by a migration, while no run of them is at work."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

import backfill
from backfill.targets import install as installing
from backfill.targets.declaration import PRISM, declared
from backfill.targets.migrations import statements
from backfill.targets.removal import carry_out, plan_removal, plan_uninstall
from tests.conftest import Project
from tests.kit.catalog import differences, snapshot
from tests.kit.commands import Shell
from tests.kit.seed import SEED

NOW = datetime(2026, 11, 28, tzinfo=UTC)
Db = psycopg.Connection[Any]


@pytest.fixture
def supabase_path(tmp_path: Path) -> Path:
    """A Supabase project."""
    path = tmp_path / "supabase"
    path.mkdir()
    (path / "config.toml").touch()
    return path


def install(path: Path, now: datetime = NOW) -> list[str]:
    """Install PRISM. The names of the files that are new."""
    planned = installing.plan_install(path, now, [declared(PRISM)])
    installing.carry_out(planned)
    return [m.name for m in planned.missing]


def apply(db: Db, path: Path, names: list[str]) -> None:
    """What `supabase db push` does with these files."""
    for name in names:
        script = (path / "migrations" / name).read_text()
        for statement in statements(script):
            db.execute(statement.encode())


def remove(db: Db, path: Path, now: datetime = NOW) -> None:
    """Write PRISM's removal, and apply it."""
    written = carry_out(plan_removal(path, now, "prism"))
    apply(db, path, list(written.texts))


def guards(db: Db) -> int:
    """How many of our triggers are on the sample's tables."""
    row = db.execute(
        "select count(*) as n from pg_trigger where tgname like '%backfill%'"
    ).fetchone()
    assert row is not None
    return int(row["n"])


def test_a_target_goes_and_comes_back(
    project_db: Db, supabase_path: Path, project_copy: Any
) -> None:
    """Nothing of it stays on the user's tables. A later install sees that it is gone."""
    first = install(supabase_path)
    before, of_ours = snapshot(project_db), guards(project_db)
    remove(project_db, supabase_path)
    assert guards(project_db) < of_ours
    gone = differences(before, snapshot(project_db))
    assert any("backfill_candidates" in line for line in gone)
    assert any("backfill_completed_sessions" in line for line in gone)
    rows = project_db.execute("select * from public.backfill_targets").fetchall()
    assert rows == []
    again = install(supabase_path, NOW + timedelta(days=1))
    assert [n[15:] for n in again] == ["backfill_prism.sql", "backfill_prism_index_sessions.sql"]
    assert set(again).isdisjoint(first)
    apply(project_db, supabase_path, again)
    assert differences(before, snapshot(project_db)) == []


def test_a_target_of_a_live_run_stays(
    bf: backfill.Backfill, project: Project, supabase_path: Path
) -> None:
    """The migration is refused with the run and what to do, in the message itself."""
    plan = bf.plan(since=SEED["since"])
    said = f"run {plan.run_id} of target prism is awaiting_approval"
    with pytest.raises(psycopg.Error, match=said) as refused:
        remove(project.db, supabase_path)
    assert f"backfill cancel {plan.run_id[:8]}" in str(refused.value.diag.message_primary)
    bf.cancel(plan.run_id, reason="no longer wanted")
    remove(project.db, supabase_path)
    assert bf.targets() == ()


def test_the_record_of_former_runs_stays(
    timed: backfill.Backfill, project: Project, supabase_path: Path, shell: Shell
) -> None:
    """Status, plan, files, page and audit can be read. Verify and undo say what they lack."""
    plan = timed.plan(since=SEED["since"])
    project.approve(plan)
    timed.apply(plan.run_id)
    before = timed.status(plan.run_id)
    remove(project.db, supabase_path)
    after = timed.status(plan.run_id)
    assert replace(after, next_step=before.next_step) == before
    assert after.next_step is not None
    assert "backfill install --target FILE" in after.next_step.lines
    assert [r.run_id for r in timed.runs()] == [plan.run_id]
    assert timed.get(plan.run_id).digest == plan.digest
    for asked in (timed.verify, timed.rollback):
        with pytest.raises(backfill.BackfillError, match="target prism is not installed any more"):
            asked(plan.run_id)
    page = ("show", "--html", "run.html")
    for verb, *more in ("status",), ("show",), ("logs",), page, ("retry",), ("apply",):
        answer = shell(verb, plan.run_id, *more)
        assert (answer.code, answer.err.strip()) == (0, ""), answer
    folder = Path("backfill_logs") / plan.run_id
    assert "Not verified." in (folder / "summary.md").read_text()
    assert len((folder / "calls.jsonl").read_text().splitlines()) == 52
    assert "What happened" in Path("run.html").read_text()
    for verb, *more in (
        ("verify",), ("rollback",), ("rollback", "--until", "2025-08-31"),
        ("rollback", "--confirm", "0", "--reason", "no"),
    ):  # fmt: skip
        answer = shell(verb, plan.run_id, *more, "--json")
        assert answer.code == 2, answer
        assert answer.json["error"]["next"].startswith("backfill install --target FILE")


def test_the_commands_write_it(plain_shell: Shell, supabase_path: Path) -> None:
    """They say what is lost, what is written, and what to do with the former files."""
    former = install(supabase_path)
    told = ("--supabase-path", str(supabase_path))
    answer = plain_shell("target", "remove", "prism", *told, "--yes")
    assert answer.code == 0
    assert "can no longer be verified or undone" in answer.out
    assert all(name in answer.out for name in former if "prism" in name)
    assert not any(name in answer.out for name in former if "core" in name)
    answer = plain_shell("uninstall", *told, "--yes", "--json")
    assert sorted(answer.json["former"])[: len(former)] == sorted(former)
    files = sorted(f.name for f in (supabase_path / "migrations").iterdir())
    assert files[-1:] == answer.json["migrations"]
    assert files[-1].endswith("_backfill_uninstall.sql")


@pytest.mark.parametrize("name", ["Prism", "a'; drop", ""])
def test_what_is_no_name_is_refused(plain_shell: Shell, supabase_path: Path, name: str) -> None:
    """And nothing is written."""
    answer = plain_shell("target", "remove", name, "--supabase-path", str(supabase_path), "--yes")
    assert (answer.code, "is no name of a target" in answer.err) == (2, True)
    assert not (supabase_path / "migrations").exists()


def test_all_of_ours_goes(project_db: Db, sample_db: Db, supabase_path: Path) -> None:
    """The migration leaves what the user had, and no more."""
    written = carry_out(plan_uninstall(supabase_path, NOW))
    apply(project_db, supabase_path, list(written.texts))
    assert differences(snapshot(sample_db), snapshot(project_db)) == []
