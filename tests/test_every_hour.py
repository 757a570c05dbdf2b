"""The systemd units and the jobs of pg_cron that supabase/README.md offers beside the workflow."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import Project
from tests.kit import verbs
from tests.kit.checkout import ROOT
from tests.kit.cron import connected, cron_project
from tests.kit.debian import absent
from tests.kit.readme import claim
from tests.kit.seed import SEED

BY = "tests/test_every_hour.py"
JOBS = claim("Every hour", "select cron.schedule", BY)
SYSTEMD = ROOT / "supabase" / "examples" / "systemd"
INSTALLED = "/opt/backfill/bin/backfill"
NAMES = ("backfill-heal.service", "backfill-heal.timer")


def read(unit: Path) -> configparser.ConfigParser:
    """A unit's sections. Their names keep their case."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser


def units(folder: Path) -> list[Path]:
    """The units as they are installed, with this checkout's command in place of the wheel's."""
    command = folder / "backfill"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m backfill "$@"\n')
    command.chmod(0o755)
    for name in NAMES:
        (folder / name).write_text((SYSTEMD / name).read_text().replace(INSTALLED, str(command)))
    return [folder / name for name in NAMES]


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Without a word, and the timer starts the service of its own name."""
    if not shutil.which("systemd-analyze"):
        absent("no systemd-analyze", "apt-get install systemd")
    command = ["systemd-analyze", "verify", *map(str, units(tmp_path))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    mine = [line for line in (ran.stdout + ran.stderr).splitlines() if "backfill-heal" in line]
    assert (ran.returncode, mine) == (0, [])


def test_the_service_heals_with_nothing_but_its_file_of_variables(
    project: Project, tmp_path: Path
) -> None:
    """As systemd starts it: no shell, no other variable, and 3 while a person has to decide."""
    service = read(units(tmp_path)[0])["Service"]
    assert (service["Type"], service["EnvironmentFile"]) == ("oneshot", "/etc/backfill.env")
    key = project.keys.service_role
    ran = subprocess.run(
        shlex.split(service["ExecStart"]),
        env={"SUPABASE_URL": project.url, "SUPABASE_SECRET_KEY": key},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ran.returncode == 3, ran.stderr
    assert "is awaiting_approval" in ran.stdout
    assert project.value("select state from public.backfill_runs") == "awaiting_approval"


def test_pg_cron_takes_the_jobs_and_they_look_and_score() -> None:
    """Each command is executed as pg_cron would, without the wait for the full minute."""
    with cron_project("seed") as server, connected(server) as db:
        run_id = verbs.planned(db, **{**SEED, "throttle_per_minute": 6000, "mode": "bulk"})
        verbs.approve(db, run_id)
        db.execute(JOBS.encode())
        jobs = db.execute("select jobname, command from cron.job order by jobid").fetchall()
        assert [job["jobname"] for job in jobs] == ["backfill-watch", "backfill_drive"]
        for job in jobs:
            db.execute(job["command"].encode())
        (status,) = db.execute("select looked_at from backfill_watch_status").fetchall()
        assert status["looked_at"] is not None
        (run,) = db.execute("select state from backfill_runs").fetchall()
        assert run["state"] == "completed"
