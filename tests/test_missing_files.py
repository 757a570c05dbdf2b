"""A run whose files cannot be written runs to its end, and says at the end what is missing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import backfill
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.scorers import misbehave
from tests.kit.seed import CANARY
from tests.test_faces import FAST


def in_the_way(folder: Path) -> Path:
    """A file stands where the folder should be."""
    logs = folder / "logs"
    logs.write_text("a file")
    return logs


def unwritable(folder: Path) -> Path:
    """Nobody may make a folder there: root neither, so not by its mode alone."""
    if os.geteuid() == 0:
        return Path("/proc/backfill_logs")
    folder.chmod(0o500)
    return folder / "logs"


def linked(folder: Path, run_id: str) -> Path:
    """In place of the file of calls there is a link, which is not followed."""
    (folder / "logs" / run_id).mkdir(parents=True)
    (folder / "logs" / run_id / "calls.jsonl").symlink_to(folder / "elsewhere")
    return folder / "logs"


@pytest.fixture
def plan(project: Project, bf: backfill.Backfill) -> backfill.Plan:
    """The seed's plan, approved, with little to wait for."""
    made = bf.plan(**FAST)
    project.approve(made)
    return made


@pytest.mark.parametrize("hindered", [in_the_way, unwritable])
def test_a_folder_that_cannot_be_made_is_told_at_the_end_and_changes_nothing(
    shell: Shell, plan: backfill.Plan, tmp_path: Path, hindered: Callable[[Path], Path]
) -> None:
    """Exit 0; one sentence on stderr with the next command; stdout is the answer alone."""
    logs = hindered(tmp_path)
    ran = shell("apply", plan.run_id, "--logs-dir", str(logs))
    assert ran.code == 0
    *_, said, step = ran.err.splitlines()
    assert said.startswith(f"not all files were written: {logs / plan.run_id} could not be written")
    assert step == f"  Next: backfill logs {plan.run_id} --logs-dir …"
    assert "not all files" not in ran.out


def test_the_json_of_an_apply_names_the_file_that_is_missing(
    shell: Shell, plan: backfill.Plan, tmp_path: Path
) -> None:
    """The first that failed; stderr has the sentence here too."""
    logs = linked(tmp_path, plan.run_id)
    ran = shell("apply", plan.run_id, "--logs-dir", str(logs), "--json")
    assert ran.code == 0
    assert ran.json["logs_failed"] == (
        f"{logs / plan.run_id / 'calls.jsonl'} could not be written: it is a symbolic link"
    )
    assert f"Next: backfill logs {plan.run_id}" in ran.err
    assert (logs / plan.run_id / "batch-0001.json").exists(), "the other files are written"
    assert not (tmp_path / "elsewhere").exists()


def test_where_every_file_was_written_nothing_is_said(
    shell: Shell, plan: backfill.Plan, tmp_path: Path
) -> None:
    """logs_failed is null."""
    ran = shell("apply", plan.run_id, "--logs-dir", str(tmp_path), "--json")
    assert (ran.code, ran.json["logs_failed"]) == (0, None)
    assert "not all files" not in ran.err


def test_an_apply_that_ends_with_an_error_says_it_too(
    project: Project, shell: Shell, bf: backfill.Backfill, tmp_path: Path
) -> None:
    """A failed canary pauses the run: the exit code is 3, the sentence follows the refusal."""
    misbehave(project.db, {"fail": [CANARY]})
    made = bf.plan(**FAST)
    project.approve(made)
    ran = shell("apply", made.run_id, "--logs-dir", str(in_the_way(tmp_path)))
    assert ran.code == 3
    assert ran.err.index("Refused:") < ran.err.index("not all files were written")


def test_an_ending_that_the_database_does_not_tell_fails_no_apply(
    project: Project, shell: Shell, plan: backfill.Plan, tmp_path: Path
) -> None:
    """The look at the end of a large run met the time limit: the run is done all the same."""
    project.db.execute(
        """
        create or replace function backfill_private.verify_part(
          p_run_id uuid, p_so_far jsonb, p_budget_ms integer
        ) returns jsonb language plpgsql as $$ begin
          raise exception 'canceling statement due to statement timeout' using errcode = '57014';
        end $$
        """
    )
    ran = shell("apply", plan.run_id, "--logs-dir", str(tmp_path))
    assert ran.code == 0
    *_, said, step = ran.err.splitlines()
    assert said.startswith("not all files were written: what ")
    assert step == f"  Next: backfill logs {plan.run_id} --logs-dir …"
    assert (tmp_path / plan.run_id / "calls.jsonl").exists()


def test_the_outcome_says_what_could_not_be_written(
    bf: backfill.Backfill, plan: backfill.Plan, tmp_path: Path
) -> None:
    """In a program; the run is complete all the same, and its files come from the database."""
    outcome = bf.apply(plan.run_id, logs_dir=in_the_way(tmp_path))
    assert outcome.is_complete
    assert outcome.logs_failed is not None
    assert outcome.as_dict()["logs_failed"] == outcome.logs_failed
    folder = bf.write_logs(plan.run_id, tmp_path / "elsewhere")
    assert len((folder / "calls.jsonl").read_text().splitlines()) == 52


def test_a_disk_that_fills_up_while_the_run_runs_stops_nothing(
    project: Project, bf: backfill.Backfill, plan: backfill.Plan, tmp_path: Path
) -> None:
    """No file may grow beyond eight blocks: some calls stand, half a line, and the run is done."""
    command = shlex.join([sys.executable, "-m", "backfill", "apply", plan.run_id, "--json"])
    ran = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -f 8; exec {command}"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(backfill.__file__).parent.parent),
            "SUPABASE_URL": project.url,
            "SUPABASE_SERVICE_ROLE_KEY": project.keys.service_role,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "could not be written: File too large" in ran.stderr
    assert f"Next: backfill logs {plan.run_id}" in ran.stderr
    assert bf.status(plan.run_id).counts["done"] == 39
    calls = tmp_path / "backfill_logs" / plan.run_id / "calls.jsonl"
    assert 0 < calls.stat().st_size <= 8 * 1024

    bf.write_logs(plan.run_id, calls.parent.parent)
    lines = calls.read_text().splitlines()
    assert sum(line.endswith("}") for line in lines) == 52
