"""Verify and undo of a run that one call is not enough for: in parts that say the same as one."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

import backfill
from backfill.api.rows import BUCKETS, WITH_ROWS
from backfill.results.verification import Bucket, packed
from backfill.run import undo as undo_module
from tests.bench.undo import done_run
from tests.conftest import Project
from tests.kit import verbs

SESSIONS = 2_500  # three blocks of a preview, two of a verification


@pytest.fixture
def run(project: Project) -> str:
    """A completed run over 2,500 sessions."""
    return done_run(project.db, SESSIONS)


def parts_of(project: Project, run_id: str) -> list[dict[str, Any]]:
    """A verification in the smallest parts."""
    parts: list[dict[str, Any]] = []
    so_far = None
    while not parts or parts[-1]["verification"] is None:
        rpc = project.rows(
            "select public.backfill_verify_part(%s, %s::jsonb, 0) as part",
            run_id,
            so_far and json.dumps(so_far),
        )
        parts.append(rpc[0]["part"])
        so_far = parts[-1]["so_far"]
    return parts


def disturb(project: Project, run_id: str) -> None:
    """Some rows changed, some gone, one that nobody planned, a receipt that was touched."""
    named = "select session_id::uuid from public.backfill_items where run_id = %s"
    for statement in (
        f"delete from public.profiles where session_id in ({named} and ordinal % 97 = 0)",
        f"update public.fc_scores set blocks_answered = 5 where session_id in"
        f" ({named} and ordinal in (7, 2400))",
        "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
        f" select session_id, 'v0', 'functions', '{{}}', 1 from ({named} and ordinal = 9) as s",
        "update public.backfill_receipts set attempt = 1, operation = 'update'"
        " where run_id = %s and ordinal = 20",
    ):
        project.db.execute(statement.replace("% 97", "%% 97").encode(), (run_id,))


def by_bucket(part: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a part as a verification lists them: component after component."""
    return {
        bucket: [
            row if bucket in WITH_ROWS else {"session_id": row, "component": component}
            for component in part["components"]
            for row in part["buckets"].get(bucket, {}).get(component, [])
        ]
        for bucket in BUCKETS
    }


@pytest.mark.parametrize("is_disturbed", [False, True], ids=["whole", "disturbed"])
def test_a_verification_in_parts_says_the_same_as_one(
    project: Project, run: str, is_disturbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's, which asks for parts, and one call in the SQL editor; whatever is found."""
    monkeypatch.setattr("backfill.api.queries.LOOK_MS", 0)
    if is_disturbed:
        disturb(project, run)
    whole = project.value("select public.backfill_verify_part(%s, null, 20000)", run)
    parts = parts_of(project, run)
    assert len(parts) > 6
    assert parts[-1]["verification"] == whole["verification"]
    assert [what for part in parts for what in part["critical"]] == whole["critical"]
    with project.connect() as bf:
        seen = bf.verify(run)
    expected = {**whole, **whole["verification"], "buckets": by_bucket(whole)}
    told = seen.as_dict()
    assert told.pop("left_behind") == []  # asked for apart, as the next step is
    assert told.pop("next") is not None
    assert told == {name: expected[name] for name in told}
    assert seen.verdict == ("fail" if is_disturbed else "pass")


def test_a_verification_tells_how_far_it_is(
    project: Project, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions looked at, of how many; and it does not go back."""
    heard: list[tuple[int, int]] = []
    monkeypatch.setattr("backfill.api.queries.LOOK_MS", 0)
    with project.connect() as bf:
        bf.verify(run, on_progress=lambda done, total: heard.append((done, total)))
    assert heard[0] == (2_000, SESSIONS)
    assert heard == sorted(heard)
    assert heard[-1] == (SESSIONS, SESSIONS)


def test_a_preview_in_parts_has_the_digest_of_one(
    project: Project, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was parted; and it tells how far it is."""
    whole = verbs.call(project.db, "backfill_preview_undo", p_run_id=run)
    heard: list[tuple[int, int]] = []
    monkeypatch.setattr(undo_module, "LOOK_MS", 0)
    with project.connect() as bf:
        undo = bf.rollback(run, on_progress=lambda done, total: heard.append((done, total)))
        assert undo.digest == whole["digest"]
        assert undo.deletes == whole["deletes"]
        assert heard == [(1_000, SESSIONS), (2_000, SESSIONS)]
        done = undo.confirm(reason="a test", on_progress=lambda *far: heard.append(far))
    assert (done.deletes, done.conflicts, done.state) == (whole["deletes"], (), "rolled_back")
    assert heard[-1] == (SESSIONS, SESSIONS)
    left = project.value(
        "select count(*) from public.backfill_receipts where kind = 'score' and undone_at is null"
    )
    assert left == 0


def test_a_row_that_changed_since_the_preview_is_seen_before_anything_is_written(
    project: Project, run: str
) -> None:
    """The last session of the plan is looked at before the first is taken back."""
    with project.connect() as bf:
        undo = bf.rollback(run)
        project.db.execute(
            b"update public.fc_scores set blocks_answered = 5 where session_id ="
            b" (select session_id::uuid from public.backfill_items where run_id = %s"
            b" and ordinal = 2500)",
            (run,),
        )
        with pytest.raises(backfill.UndoChanged):
            undo.confirm(reason="a test")
        undone = "select count(*) from public.backfill_receipts where kind = 'undo'"
        assert project.value(undone) == 0
        again = bf.rollback(run).confirm(reason="a test")
    assert len(again.conflicts) == 1


def test_of_many_conflicts_none_is_lost_and_no_answer_holds_all(
    project: Project, bf: backfill.Backfill, run: str
) -> None:
    """A thousand in an answer; the preview, the undo and what it leaves tell the same rows."""
    project.db.execute("update public.profiles set payload = '{\"mean\": 4}'")
    changed = project.value(
        "select count(*) from public.backfill_items"
        " where run_id = %s and 'profile' = any (components)",
        run,
    )
    project.db.execute("update public.fc_scores set blocks_answered = 5")
    answer = project.value("select public.backfill_preview_undo(%s)", run)
    everything = SESSIONS + changed
    assert (answer["conflicts_total"], len(answer["conflicts"])) == (everything, 1_000)
    preview = bf.rollback(run)
    assert len(preview.conflicts) == everything
    assert preview.conflicts[:1_000] == tuple(answer["conflicts"])
    places = {(c["session_id"], c["table"]) for c in preview.conflicts}
    assert len(places) == everything
    done = preview.confirm(reason="all of it")
    assert (done.conflicts, done.state) == (preview.conflicts, "completed")
    left = project.value("select count(*) from backfill_private.left_behind(%s)", run)
    assert left == everything


def test_a_look_that_begins_again_tells_each_conflict_once(
    project: Project, bf: backfill.Backfill, run: str
) -> None:
    """Before the first row all is looked at anew: what the preview saw is forgotten by then."""
    project.db.execute("update public.fc_scores set blocks_answered = 5")
    preview = bf.rollback(run)
    done = preview.confirm(reason="the profiles")
    assert [c["table"] for c in done.conflicts] == ["public.fc_scores"] * SESSIONS
    kept = "select count(*) from backfill_private.conflicts where not is_left"
    assert project.value(kept) == SESSIONS


def test_an_unfinished_preview_confirms_nothing_and_hides_none(project: Project, run: str) -> None:
    """The newest that came to its end is what a digest confirms."""
    whole = verbs.call(project.db, "backfill_preview_undo", p_run_id=run)
    begun = verbs.call(project.db, "backfill_preview_undo", p_run_id=run, p_budget_ms=0)
    assert (begun["digest"], begun["looked_at"]) == (None, 1_000)
    with project.connect() as bf:
        assert bf.confirm_rollback(run, digest=whole["digest"], reason="t").state == "rolled_back"


def test_what_is_no_part_of_a_verification_is_refused(project: Project, run: str) -> None:
    """With a sentence."""
    for bad in ('{"stage": "x"}', '{"after": "x"}', '{"figures": {"profile": {"extra": "x"}}}'):
        with pytest.raises(psycopg.Error, match="so_far") as refused:
            project.value("select public.backfill_verify_part(%s, %s::jsonb, 0)", run, bad)
        assert refused.value.sqlstate == "OB013"


def test_a_bucket_is_a_sequence_of_rows() -> None:
    """Of any length, by place, by slice, from the end; component after component."""
    ids = {"fc": [f"s{n}" for n in range(2_345)], "p": ["x", ""], "none": []}
    bucket = Bucket({component: packed(some) for component, some in ids.items()})
    rows = [{"session_id": s, "component": c} for c, some in ids.items() for s in some]
    assert (len(bucket), list(bucket)) == (len(rows), rows)
    assert bucket == rows
    assert [bucket[at] for at in (0, 999, 1_000, -1)] == [rows[at] for at in (0, 999, 1_000, -1)]
    assert bucket[998:1_002] == rows[998:1_002]
    assert bucket != rows[1:]
    assert not Bucket({})
    with pytest.raises(IndexError):
        bucket[len(rows)]


@pytest.mark.parametrize(
    ("took_s", "following"), [(0.1, 400), (0.4, 400), (1.6, 100), (400.0, 1), (0.0, 400)]
)
def test_a_piece_takes_under_a_second(took_s: float, following: int) -> None:
    """It at most doubles, and shrinks where the last took longer."""
    assert undo_module.next_piece(200, took_s=took_s, most=10_000) == following


def test_a_piece_never_takes_more_than_what_was_too_much() -> None:
    """Where a larger one ran into the time limit."""
    assert undo_module.next_piece(200, took_s=0.1, most=300) == 300
