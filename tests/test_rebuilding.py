"""A run's files come again from the database: the same names, the same shape, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_postgresql import factories

import backfill
from backfill.files.records import CALL_KEY
from backfill.local import sample
from tests.conftest import SERVER, Project, _as_postgres, _load_platform, _served
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.scorers import misbehave
from tests.kit.seed import CANARY, CANDIDATES, SEED

Record = dict[str, Any]
# What nobody but the worker knows, and what tells a rebuilt record from the worker's own.
OF_THE_WORKER = {"at", "took_ms", "rebuilt"}


def calls_in(folder: Path) -> list[Record]:
    """The lines of calls.jsonl, in order."""
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def batches_in(folder: Path) -> dict[str, Record]:
    """The batch files by name."""
    return {p.name: json.loads(p.read_text()) for p in sorted(folder.glob("batch-*.json"))}


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def known(record: Record) -> Record:
    """A record without what the database cannot know."""
    return {name: value for name, value in record.items() if name not in OF_THE_WORKER}


def by_key(calls: list[Record]) -> dict[tuple[Any, ...], Record]:
    """Calls by what tells them apart; no two may share that."""
    keyed = {tuple(call[name] for name in CALL_KEY): known(call) for call in calls}
    assert len(keyed) == len(calls)
    return keyed


def approved(project: Project, bf: backfill.Backfill, **request: Any) -> backfill.Plan:
    plan = bf.plan(**SEED | request)
    project.approve(plan)
    return plan


def test_a_lost_folder_comes_again_with_every_batch_and_every_call(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """Failed and effectless sessions too; of these alone the database knows a code more."""
    five = [r["session_id"] for r in project.rows(CANDIDATES)][:5]
    misbehave(project.db, {"fail": five[:3], "nothing": five[3:]})
    plan = approved(project, timed)
    timed.apply(plan.run_id, logs_dir=tmp_path / "live")
    live, rebuilt = tmp_path / "live" / plan.run_id, timed.write_logs(plan.run_id, tmp_path / "new")

    assert rebuilt == tmp_path / "new" / plan.run_id
    assert names_in(rebuilt) == names_in(live)
    told, found = batches_in(live), batches_in(rebuilt)
    assert {n: known(b) for n, b in found.items()} == {n: known(b) for n, b in told.items()}
    seen, evident = by_key(calls_in(live)), by_key(calls_in(rebuilt))
    without_effect = [key for key, call in evident.items() if call["code"] == "OB017"]
    for key in without_effect:
        assert evident[key].pop("error").startswith("no effect")
        assert (evident[key].pop("code"), seen[key].pop("code"), seen[key].pop("error")) == (
            "OB017", None, None,
        )  # fmt: skip
    assert len(without_effect) == 2
    assert evident == seen


def test_a_rebuilt_record_has_the_fields_of_a_workers_and_says_what_it_is(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """Durations are null: the database keeps none."""
    plan = approved(project, timed)
    timed.apply(plan.run_id, logs_dir=tmp_path / "live")
    live, rebuilt = tmp_path / "live" / plan.run_id, timed.write_logs(plan.run_id, tmp_path / "new")
    pairs = [
        (calls_in(live)[0], calls_in(rebuilt)[0]),
        (batches_in(live)["batch-0001.json"], batches_in(rebuilt)["batch-0001.json"]),
    ]
    for told, found in pairs:
        assert list(found) == [*told, "rebuilt"]
        assert (found["rebuilt"], found["took_ms"]) == (True, None)
        assert told["took_ms"] is not None


def test_what_a_worker_wrote_stays_and_only_what_is_missing_is_added(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """A line nobody else knows, a torn line, a worker's batch file: all as they were."""
    plan = approved(project, timed)
    timed.apply(plan.run_id, logs_dir=tmp_path)
    folder = tmp_path / plan.run_id
    lines = (folder / "calls.jsonl").read_text().splitlines()
    kept = [*lines[:20], '{"session_id": "seen by nobody else", "outcome": "unknown"}']
    (folder / "calls.jsonl").write_text("\n".join([*kept, lines[20][:40]]))
    (folder / "batch-0002.json").unlink()
    (folder / "batch-0003.json").write_text('{"batch": ')
    others = {n: b for n, b in batches_in_text(folder).items() if n[9] not in "23"}
    timed.write_logs(plan.run_id, tmp_path)

    after = (folder / "calls.jsonl").read_text().splitlines()
    assert after[:22] == [*kept, lines[20][:40]]
    added = [json.loads(line) for line in after[22:]]
    assert set(by_key(added)) == set(by_key([json.loads(line) for line in lines[20:]]))
    assert all(call["rebuilt"] for call in added)
    assert batches_in(folder)["batch-0002.json"]["rebuilt"]
    assert batches_in(folder)["batch-0003.json"]["rebuilt"]
    assert others.items() <= batches_in_text(folder).items()


def batches_in_text(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.glob("batch-*.json")}


def test_rebuilding_again_adds_nothing(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """Rebuilt files are replaced by the same."""
    plan = approved(project, timed)
    timed.apply(plan.run_id)
    folder = timed.write_logs(plan.run_id, tmp_path)
    first = {p.name: p.read_text() for p in folder.iterdir()}
    timed.write_logs(plan.run_id, tmp_path)
    assert {p.name: p.read_text() for p in folder.iterdir()} == first


def test_a_retried_session_is_told_by_both_its_attempts(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """The first batch goes on to say that it failed, with the code that the chain keeps."""
    victim = project.rows(CANDIDATES)[0]["session_id"]
    misbehave(project.db, {"fail": [victim]})
    plan = approved(project, timed)
    timed.apply(plan.run_id)
    project.db.execute("delete from public.misbehaviour")
    assert timed.retry(plan.run_id).is_complete
    folder = timed.write_logs(plan.run_id, tmp_path)
    calls = [c for c in calls_in(folder) if c["session_id"] == victim]
    first, second = (c for c in calls if c["component"] == "fc_scores")
    assert (first["attempt"], first["outcome"], first["code"]) == (1, "session", "P0001")
    assert (second["attempt"], second["outcome"], second["code"]) == (2, "answered", None)
    states = [
        entry["state"]
        for batch in batches_in(folder).values()
        for entry in batch["settled"]
        if entry["session_id"] == victim
    ]
    assert states == ["failed", "done"]


def test_the_batch_of_a_worker_that_died_is_told_by_what_it_left(
    project: Project, clock: DatabaseClock, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """Its lease ran out: one session has its rows and is done, the other was given back."""
    run = verbs.started(project.db, priority=[])
    lost = verbs.claim(project.db, run)["granted"]
    verbs.score_all(project.db, run, lost[0])
    folder = timed.write_logs(run, tmp_path)
    assert not batches_in(folder), "nobody has settled it yet"
    assert {c["session_id"] for c in calls_in(folder)} == {lost[0]["session_id"]}
    clock.advance(61)
    verbs.work(project.db, run, clock)
    timed.write_logs(run, tmp_path)
    first = batches_in(folder)["batch-0001.json"]
    assert [entry["state"] for entry in first["settled"]] == ["done"] + ["pending"] * 4
    attempts = {c["session_id"]: c["attempt"] for c in calls_in(folder)}
    assert [attempts[grant["session_id"]] for grant in lost] == [1, 2, 2, 2, 2]


def test_a_paused_run_has_the_files_of_what_it_did(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """The canary failed: one batch, its calls, a summary with the reason."""
    misbehave(project.db, {"fail": [CANARY]})
    plan = approved(project, timed)
    with pytest.raises(backfill.Paused):
        timed.apply(plan.run_id)
    folder = timed.write_logs(plan.run_id, tmp_path)
    assert list(batches_in(folder)) == ["batch-0001.json"]
    failed = [c for c in calls_in(folder) if c["outcome"] == "session"]
    assert [(c["session_id"], c["error"]) for c in failed] == [(CANARY, "no score for this one")]
    assert "PAUSED" in (folder / "summary.md").read_text()


def test_a_forged_chain_that_names_no_session_of_the_run_stops_no_file(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """The files come, and the summary says that the chain is broken."""
    plan = approved(project, timed)
    timed.apply(plan.run_id)
    for change in (
        """update public.backfill_events set details = details || '{"ordinals": [1, 1000, "one"]}'
           where kind = 'batch_granted'""",
        """update public.backfill_events set details = details || '{"failed": [["who", "x", "y"]]}'
           where kind = 'batch_settled'""",
        """insert into public.backfill_receipts (run_id, ordinal, session_id, component, kind,
             operation, table_name, row_key, shape, attempt, at)
           select run_id, -ordinal, session_id, component, kind, operation, table_name, row_key,
             shape, -attempt, at
           from public.backfill_receipts limit 1""",
    ):
        assert project.admin.execute(change).rowcount > 0
    folder = timed.write_logs(plan.run_id, tmp_path)
    assert len(calls_in(folder)) == len(plan.sessions) + 13
    assert "FAIL" in (folder / "summary.md").read_text()


def test_a_run_that_never_started_has_no_batch_and_no_call(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """Sealed, or still being planned: what there is comes, and nothing else."""
    sealed = timed.write_logs(timed.plan(**SEED).run_id, tmp_path)
    assert names_in(sealed) == ["plan.json", "plan.md", "rollback.sql", "summary.md"]
    unsealed = timed.write_logs(verbs.collected(project.db), tmp_path)
    assert names_in(unsealed) == ["plan.json", "plan.md", "rollback.sql"]
    assert json.loads((unsealed / "plan.json").read_text())["state"] == "planning"


def test_a_pruned_and_undone_run_still_tells_its_calls(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """Prune empties the rows before, and an undone write was a call all the same."""
    plan = approved(project, timed)
    timed.apply(plan.run_id, logs_dir=tmp_path / "live")
    timed.rollback(plan.run_id, until="2025-08-10").confirm(reason="a test")
    project.db.execute("select public.backfill_prune(%s)", (plan.run_id,))
    folder = timed.write_logs(plan.run_id, tmp_path / "new")
    assert by_key(calls_in(folder)) == by_key(calls_in(tmp_path / "live" / plan.run_id))
    states = {e["state"] for b in batches_in(folder).values() for e in b["settled"]}
    assert states == {"done"}


SESSIONS = 1010  # a page of the API holds 1,000 rows


def _load_large(*, dbname: str, **_: Any) -> None:
    _load_platform(dbname=dbname)
    sample.load(SERVER["it"].dsn(dbname), SESSIONS)


large_template = factories.postgresql_noproc(
    depends_on="cluster", dbname="large", load=[_load_large]
)
large_admin = factories.postgresql("large_template")


@pytest.fixture
def large(postgres_server: Any, large_admin: Any) -> Iterator[Project]:
    """A project with more sessions to score than a page of the API holds."""
    with (
        _as_postgres(postgres_server, large_admin) as db,
        _served(postgres_server, db, large_admin) as served,
    ):
        yield served


def test_more_than_a_page_of_sessions_events_and_receipts_is_rebuilt_whole(
    large: Project, tmp_path: Path
) -> None:
    """1,010 sessions, 1,100 events before the first batch, a receipt for every call."""
    with large.connect() as bf:
        plan = bf.plan(**{**SEED, "priority": [], "throttle_per_minute": "none", "batch_size": 100})
        large.db.execute(
            "select backfill_private.record(%s, 'note', '{}') from generate_series(1, 1100)",
            (plan.run_id,),
        )
        large.approve(plan)
        bf.apply(plan.run_id, concurrency=16, logs_dir=tmp_path / "live")
        live, rebuilt = tmp_path / "live" / plan.run_id, bf.write_logs(plan.run_id, tmp_path)
    assert len(calls_in(rebuilt)) == plan.expected_calls["total"] > 1000
    assert by_key(calls_in(rebuilt)) == by_key(calls_in(live))
    assert sum(len(b["settled"]) for b in batches_in(rebuilt).values()) == SESSIONS
    assert names_in(rebuilt) == names_in(live)
