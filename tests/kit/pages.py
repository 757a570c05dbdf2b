"""The page of one run at five moments of its life: waiting, running, paused, completed, undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import backfill
from tests.conftest import Project
from tests.kit.scorers import misbehave
from tests.kit.seed import CANDIDATES, SEED

PRIORITY = tuple(SEED["priority"])
SEPTEMBER: dict[str, Any] = {
    **SEED,
    "since": "2025-09-01",
    "batch_size": 2,
    "throttle_per_minute": 600,
}


def pages_of_a_run(project: Project, bf: backfill.Backfill, folder: Path) -> dict[str, Path]:
    """Moment -> file. bf: on the shared clock, so that no batch is waited for.

    Of its seven sessions three fail, and one of them is done by a later retry.
    """
    found = [row["session_id"] for row in project.rows(CANDIDATES)]
    *_, one, another, third = [s for s in found if not s.startswith(PRIORITY)]
    misbehave(project.db, {"fail": [one, another], "nothing": [third]})
    project.reload()
    plan = bf.plan(**SEPTEMBER)
    pages = {"waiting": _written(bf, plan, folder / "waiting.html")}
    project.approve(plan)
    heard: list[backfill.Event] = []
    bf.apply(plan.run_id, on_event=heard.append, should_stop=lambda: len(heard) > 6)
    pages["running"] = _written(bf, plan, folder / "running.html")
    bf.pause(plan.run_id, reason="peak hours")
    pages["paused"] = _written(bf, plan, folder / "paused.html")
    bf.resume(plan.run_id)
    bf.apply(plan.run_id)
    project.db.execute("delete from public.misbehaviour where session_id = %s", (one,))
    bf.retry(plan.run_id)
    pages["completed"] = _written(bf, plan, folder / "completed.html")
    bf.rollback(plan.run_id).confirm(reason="the wrong version")
    pages["undone"] = _written(bf, plan, folder / "undone.html")
    return pages


def _written(bf: backfill.Backfill, plan: backfill.Plan, file: Path) -> Path:
    file.write_text(bf.page(plan.run_id), encoding="utf-8")
    return file
