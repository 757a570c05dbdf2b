"""An undo that is killed in the middle is confirmed again and ends as one that nobody disturbed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from backfill.run import undo
from tests.faults.conftest import Prepared
from tests.faults.processes import kill_at, worker
from tests.faults.proxy import Nth
from tests.faults.scenario import SESSIONS as OF_OTHERS
from tests.faults.scenario import Scene
from tests.faults.stack import scene_on
from tests.faults.subjects import Scoring, subject
from tests.kit.whole import examples

# Three pieces of an undo.
SESSIONS = examples(410, at_a_push=OF_OTHERS)
PIECE_SESSIONS = examples(undo.PIECE_SESSIONS, at_a_push=SESSIONS * 2 // 5)
CONFIRM = ("backfill_confirm_undo",)


@pytest.fixture
def completed(prepared: Prepared, scoring: Scoring) -> Iterator[tuple[Scene, str]]:
    """A completed run over several hundred sessions, which nobody disturbed."""
    with scene_on(prepared.copies(scoring, SESSIONS), subject(scoring)) as (scene, _):
        run_id = scene.planned(throttle_per_minute="none", batch_size=50, mode=scene.quickest_mode)
        assert scene.apply(run_id, url=scene.project.url).is_complete
        scene.after = scene.content()
        yield scene, run_id


def undone(scene: Scene, run_id: str) -> int:
    """Sessions that were taken back."""
    count: int = scene.project.value(
        "select count(*) from public.backfill_items where run_id = %s and state = 'rolled_back'",
        run_id,
    )
    return count


def killed_twice(scene: Scene, run_id: str, digest: str) -> None:
    """Two processes confirm, killed after their first piece and before their second."""
    piece = {"PIECE_SESSIONS": str(PIECE_SESSIONS)}
    words = ("rollback", run_id, "--confirm", digest, "--reason", "a test")
    for name, number, forwards in (("first", 1, True), ("second", 2, False)):
        with worker(scene, *words, name=name, **piece) as confirming:
            picks = Nth(CONFIRM, number)
            scene.proxy.strikes = [kill_at(confirming, picks, forwards=forwards)]
            assert confirming.ended() == -signal.SIGKILL
    assert len(scene.proxy.hits) == 2
    assert 0 < undone(scene, run_id) < SESSIONS
    scene.proxy.strikes = []


def undo_receipts(scene: Scene, run_id: str) -> int:
    """Rows that the undo wrote, by its own receipts."""
    count: int = scene.project.value(
        "select count(*) from public.backfill_receipts where run_id = %s and kind = 'undo'", run_id
    )
    return count


def test_a_killed_undo_is_confirmed_again_with_the_same_digest(
    completed: tuple[Scene, str],
) -> None:
    """The rows are as before the run, each taken back once; then a new run completes."""
    scene, run_id = completed
    with scene.project.connect() as bf:
        digest = bf.rollback(run_id).digest
        killed_twice(scene, run_id, digest)
        effect = bf.confirm_rollback(run_id, digest=digest, reason="a test")
        assert (effect.conflicts, effect.state) == ((), "rolled_back")
        assert sum(effect.deletes.values()) == len(scene.owed) == undo_receipts(scene, run_id)
        assert scene.content() == scene.before
        assert bf.verify(run_id).verdict == "pass"
    assert scene.recorded("undo, SIGKILL twice", scene.before).lost == 0
    scene.completes_undisturbed()


def test_a_killed_undo_names_its_conflicts_and_leaves_these_rows(
    completed: tuple[Scene, str],
) -> None:
    """A row that was changed and one that others refer to stay, whichever piece they are in."""
    scene, run_id = completed
    changed, referenced = scene.project.rows(
        "select session_id::text from public.backfill_items where run_id = %s"
        " and ordinal in (1, %s) order by ordinal",
        run_id,
        SESSIONS,
    )
    creates, fills = scene.subject.refers
    db = scene.project.db
    db.execute(scene.subject.changes.encode(), (changed["session_id"],))
    db.execute(creates.encode())
    db.execute(fills.encode(), (referenced["session_id"],))
    with scene.project.connect() as bf:
        digest = bf.rollback(run_id).digest
        killed_twice(scene, run_id, digest)
        conflicts = bf.confirm_rollback(run_id, digest=digest, reason="a test").conflicts
    named = {row["session_id"]: row["reason"] for row in conflicts}
    assert "was changed" in named.pop(changed["session_id"])
    assert "refers to it" in named.pop(referenced["session_id"])
    assert named == {}
    left = scene.content()
    kept = {table: len(left[table] - scene.before[table]) for table in left}
    assert sorted(kept.values()) == [0, 2]
