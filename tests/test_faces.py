"""The blocking and the async face are one core; the library leaves its surroundings alone."""

from __future__ import annotations

import inspect
import json
import logging
import sys
import typing
from pathlib import Path
from typing import Any

import anyio
import pytest

import backfill
from supabase import create_client
from tests.conftest import Project
from tests.kit.seed import SEED

FAST: dict[str, Any] = {**SEED, "throttle_per_minute": 60_000, "batch_size": 20}


def test_the_async_face_goes_the_whole_way(project: Project) -> None:
    """The same verbs, awaited in the caller's own event loop."""

    async def whole_way() -> tuple[int, str, dict[str, int]]:
        async with backfill.connect_async(project.url, project.keys.service_role) as bf:
            plan = await bf.plan(**FAST)
            await bf.approve(plan.run_id, digest=plan.digest)
            outcome = await bf.apply(plan.run_id)
            verdict = (await bf.verify(plan.run_id)).verdict
            undo = await bf.rollback(plan.run_id)
            effect = await undo.confirm(reason="test")
            return outcome.status.counts["done"], verdict, dict(effect.deletes)

    assert anyio.run(whole_way) == (39, "pass", {"fc_scores": 39, "profiles": 13})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_client_lends_its_address_and_stays_as_it_is(project: Project) -> None:
    """connect(client=…) takes url and key; the client's own transport is not used."""
    client = create_client(project.url, project.keys.service_role)
    before = dict(client.options.headers)
    with backfill.connect(client=client) as bf:
        assert len(bf.plan(**FAST).sessions) == 39
    assert dict(client.options.headers) == before
    assert client._postgrest is None


def test_it_prints_nothing_and_logs_by_name(
    project: Project, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """stdout and stderr stay empty; the events are the logger's."""
    caplog.set_level(logging.INFO, logger="backfill")
    with project.connect() as bf:
        plan = bf.plan(**FAST)
        bf.approve(plan.run_id, digest=plan.digest)
        bf.apply(plan.run_id)
    assert capfd.readouterr() == ("", "")
    assert {"backfill.run_started", "backfill.batch_settled", "backfill.run_completed"} <= {
        record.message for record in caplog.records
    }


def test_the_files_hold_what_the_run_did(bf: backfill.Backfill, tmp_path: Path) -> None:
    """A file a batch, a line a call, a summary, and a rollback.sql of every written row."""
    plan = bf.plan(**FAST)
    bf.approve(plan.run_id, digest=plan.digest)
    bf.apply(plan.run_id, logs_dir=tmp_path)
    folder = tmp_path / plan.run_id
    calls = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    assert len(calls) == 52
    assert len(list(folder.glob("batch-*.json"))) == len(plan.batches)
    assert (folder / "rollback.sql").read_text().count("\n-- insert ") == 52
    assert "PASS" in (folder / "summary.md").read_text()
    assert json.loads((folder / "plan.json").read_text())["digest"] == plan.digest


def test_a_folder_that_cannot_be_written_stops_nothing(
    bf: backfill.Backfill, tmp_path: Path
) -> None:
    """The run matters more than its files."""
    in_the_way = tmp_path / "logs"
    in_the_way.write_text("a file where the folder should be")
    plan = bf.plan(**FAST)
    bf.approve(plan.run_id, digest=plan.digest)
    assert bf.apply(plan.run_id, logs_dir=in_the_way).is_complete


def test_without_logs_dir_nothing_is_written(
    bf: backfill.Backfill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library writes files only where it is told to."""
    monkeypatch.chdir(tmp_path)
    plan = bf.plan(**FAST)
    bf.approve(plan.run_id, digest=plan.digest)
    bf.apply(plan.run_id)
    assert list(tmp_path.iterdir()) == []


def test_like_takes_over_a_request(bf: backfill.Backfill) -> None:
    """A plan like another has its request but for what is given."""
    first = bf.plan(**{**SEED, "until": "2025-09-10"})
    second = bf.plan(like=first.run_id, batch_size=2)
    assert second.request["until"] == "2025-09-10"
    assert second.request["batch_size"] == 2
    assert len(second.sessions) == len(first.sessions)


def test_the_markdown_begins_with_the_line_that_approves(bf: backfill.Backfill) -> None:
    """Copied into the SQL editor, with a name, it approves exactly this plan."""
    plan = bf.plan(**SEED)
    assert plan.approval_sql in plan.markdown().splitlines()[:25]
    assert "HALTED FOR APPROVAL" in plan.markdown()


def test_every_session_is_named_in_the_plan(bf: backfill.Backfill) -> None:
    """A count without ids once ran any 32 sessions."""
    plan = bf.plan(**SEED)
    text = plan.markdown()
    assert all(session.session_id in text for session in plan.sessions)
    named = [s for batch in plan.as_dict()["batches"] for s in batch["sessions"]]
    assert sorted(named) == sorted(s.session_id for s in plan.sessions)


def test_a_run_of_another_host_is_not_applied(project: Project, bf: backfill.Backfill) -> None:
    """Approved on one project, it does not run on another."""
    plan = bf.plan(**SEED)
    project.approve(plan)
    project.db.execute("update public.backfill_runs set project_host = 'other.supabase.co'")
    with pytest.raises(backfill.WrongServer, match=r"other\.supabase\.co"):
        bf.apply(plan.run_id)


VERBS = [name for name in dir(backfill.AsyncBackfill) if not name.startswith("_")]


@pytest.mark.parametrize("name", [name for name in VERBS if name not in ("host", "close")])
def test_a_blocking_verb_is_the_awaited_one_to_whoever_asks(name: str) -> None:
    """inspect, help() and a type checker see the same parameters, types and docstring."""
    blocking, awaited = getattr(backfill.Backfill, name), getattr(backfill.AsyncBackfill, name)
    own, its = inspect.signature(blocking), inspect.signature(awaited)
    assert list(own.parameters.values()) == list(its.parameters.values())
    assert own.return_annotation == its.return_annotation.removeprefix("Async")
    names = vars(sys.modules[awaited.__module__])
    hints = typing.get_type_hints(awaited, names)
    if name == "rollback":
        hints["return"] = backfill.Undo
    assert typing.get_type_hints(blocking, names) == hints
    assert inspect.getdoc(blocking) == inspect.getdoc(awaited)
    assert (blocking.__module__, blocking.__qualname__) == ("backfill.blocking", f"Backfill.{name}")
    assert not inspect.iscoroutinefunction(blocking)


def test_a_previewed_undo_is_the_same_in_both_faces() -> None:
    """`confirm` too has its parameters, types and docstring; the rest is one class."""
    blocking, awaited = backfill.Undo.confirm, backfill.AsyncUndo.confirm
    assert inspect.signature(blocking) == inspect.signature(awaited)
    assert inspect.getdoc(blocking) == inspect.getdoc(awaited)
    assert backfill.Undo.deletes is backfill.AsyncUndo.deletes


def test_the_blocking_face_has_every_verb() -> None:
    """And none of its own."""
    assert {n for n in vars(backfill.Backfill) if not n.startswith("_")} == {*VERBS}
