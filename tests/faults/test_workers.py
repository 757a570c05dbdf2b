"""Several workers, several runs, halts, drift and bad surroundings: the same end every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from psycopg.types.json import Jsonb

import backfill
from tests.faults import measures
from tests.faults.clock import wake_next
from tests.faults.processes import WorkerProcess, applying
from tests.faults.proxy import SCORING, Call, Nth, Strike, cut, does, first_call_of_every, held
from tests.faults.scenario import LATE, MIDWAY, SESSIONS, Scene, wait_until
from tests.faults.subjects import AT_THE_WRITE

HOUR_S = 3600.0
SOON_S = 5.0  # a call that is given up this soon


@contextmanager
def workers(scene: Scene, *run_ids: str) -> Iterator[list[WorkerProcess]]:
    """A process for each of these runs, all at work at once."""
    with ExitStack() as owned:
        yield [
            owned.enter_context(applying(scene, run_id, f"worker {number}"))
            for number, run_id in enumerate(run_ids, 1)
        ]


def batches(scene: Scene) -> dict[str, int]:
    """Granted batches by worker."""
    rows = scene.project.rows(
        "select details ->> 'worker' as worker, count(*) as batches from public.backfill_events"
        " where kind = 'batch_granted' group by 1"
    )
    return {row["worker"]: row["batches"] for row in rows}


def test_three_processes_share_a_run(scene: Scene) -> None:
    """Each takes batches of its own; a third of the sessions lose a reply besides.

    After a canary calls are held until each has a batch: a slow one might get none.
    """
    proxy = scene.proxy
    canary = tuple(scene.subject.request.get("priority", ()))
    third = first_call_of_every(3)

    def later(call: Call) -> bool:
        return call.function in SCORING and not call.session_id.startswith(canary)

    proxy.strikes = [
        Strike(held(), lambda call: later(call) and not proxy.healed.is_set()),
        Strike(cut(forwards=True), lambda call: later(call) and third(call)),
    ]
    run_id = scene.planned()
    with workers(scene, run_id, run_id, run_id) as started:
        wait_until(lambda: sum(batches(scene).values()) > bool(canary))
        while len(batches(scene)) < len(started):
            wake_next(scene.project.db)
        proxy.heal()
        assert [worker.ended() for worker in started] == [0, 0, 0]
    scene.ends_as_undisturbed("three worker processes on one run", run_id)


def test_two_runs_over_the_same_sessions_score_each_once(scene: Scene) -> None:
    """What one run has written the other skips; replies are lost in both."""
    scene.proxy.strikes = [Strike(cut(forwards=True), first_call_of_every(3))]
    runs = [scene.planned() for _ in range(2)]
    with workers(scene, *runs) as started:
        ended = [worker.ended() for worker in started]
        assert ended == [0, 0], [worker.said() for worker in started]
    with scene.project.connect() as bf:
        counts = [bf.status(run_id).counts for run_id in runs]
    # Done in both: one run wrote the score, lost the reply, and the other wrote the profile.
    assert [c["done"] + c["skipped"] for c in counts] == [SESSIONS, SESSIONS]
    assert all(0 < c["done"] < SESSIONS for c in counts)
    scene.ends_as_undisturbed("two runs at once over the same sessions", *runs)


# Halts --------------------------------------------------------------------------------------------


def granted_after(scene: Scene, run_id: str, kind: str) -> int:
    """Batches granted between a halt and the next start."""
    granted: int = scene.project.value(
        "with halt as (select min(seq) as seq from public.backfill_events"
        "  where run_id = %s and kind = %s)"
        " select count(*) from public.backfill_events as e, halt where e.run_id = %s"
        " and e.kind = 'batch_granted' and e.seq > halt.seq and e.seq < coalesce("
        "  (select min(r.seq) from public.backfill_events as r where r.run_id = e.run_id"
        "   and r.kind = 'running' and r.seq > halt.seq), e.seq + 1)",
        run_id,
        kind,
        run_id,
    )
    return granted


class Halt:
    """Pauses or cancels a run in the middle of a call."""

    def __init__(self, scene: Scene, run_id: str, verb: str) -> None:
        self._scene, self._run_id, self._verb = scene, run_id, verb
        scene.proxy.strikes = [Strike(does(self._halt, forwards=False), Nth(SCORING, LATE))]

    def _halt(self) -> None:
        with self._scene.project.connect() as bf:
            getattr(bf, self._verb)(self._run_id, reason="a test")
        self._scene.struck()

    def written_since(self) -> int:
        """Calls that wrote after it was acknowledged."""
        return sum(
            call.at > self._scene.struck_at[0] for call in measures.scorings(self._scene.project.db)
        )


@AT_THE_WRITE
def test_a_pause_reaches_every_worker_within_a_batch(scene: Scene) -> None:
    """Once it is said nothing is written, nothing granted; resumed, both workers end the run."""
    run_id = scene.planned()
    pause = Halt(scene, run_id, "pause")
    with workers(scene, run_id, run_id) as started:
        wait_until(lambda: all("a test" in worker.said() for worker in started))
        assert (pause.written_since(), granted_after(scene, run_id, "paused")) == (0, 0)
        with scene.project.connect() as bf:
            assert bf.status(run_id).counts["leased"] == 0
            bf.resume(run_id)
        assert [worker.ended() for worker in started] == [0, 0]
    scene.ends_as_undisturbed("paused and resumed under two workers", run_id)


@AT_THE_WRITE
def test_a_cancel_reaches_every_worker_within_a_batch(scene: Scene) -> None:
    """Both workers end; what the run wrote stays, and a new run scores what is left."""
    run_id = scene.planned()
    cancel = Halt(scene, run_id, "cancel")
    with workers(scene, run_id, run_id) as started:
        assert [worker.ended() for worker in started] == [1, 1]
    assert (cancel.written_since(), granted_after(scene, run_id, "cancelled")) == (0, 0)
    rest = scene.planned(like=run_id)
    assert scene.apply(rest).is_complete
    scene.ends_as_undisturbed("cancelled under two workers, the rest anew", run_id, rest)


# Surroundings -------------------------------------------------------------------------------------


@AT_THE_WRITE
def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(scene: Scene) -> None:
    """One worker lives an hour ago and another in an hour: only the database's clock counts.

    A call of the first is held until the second has made calls of its own, or until the first
    gives it up because the next phase waits for it. Then it arrives behind its second try.
    """
    proxy = scene.proxy
    proxy.strikes = [
        Strike(held(), Nth(SCORING, MIDWAY)),
        Strike(does(proxy.heal, forwards=False), Nth(SCORING, LATE)),
    ]
    run_id = scene.planned()
    with scene.beside(run_id, worker="late", wrong_by_s=-HOUR_S, call_timeout_s=SOON_S) as late:
        wait_until(lambda: proxy.hits)
        assert scene.apply(run_id, worker="early", wrong_by_s=HOUR_S).is_complete
        assert late.result().is_complete
    # Which of them calls for what is left depends on who comes first. Both ask the database.
    assert len({event.at.hour for event in scene.events}) == 2
    scene.ends_as_undisturbed("clocks wrong by an hour, before and after", run_id)


def test_a_full_disk_under_the_logs_stops_nothing(scene: Scene, tmp_path: Path) -> None:
    """No file grows beyond 4 kB, and a link is not followed. They are written anew by `logs`."""
    run_id = scene.planned()
    folder = tmp_path / run_id
    folder.mkdir()
    (folder / "calls.jsonl").symlink_to("/dev/full")
    limits = {"LOGS_DIR": str(tmp_path), "MOST_FILE_BYTES": "4096"}
    with applying(scene, run_id, "on a full disk", **limits) as worker:
        assert worker.ended() == 0
    scene.struck()
    assert not (folder / "plan.json").exists()
    with scene.project.connect() as bf:
        rebuilt = bf.write_logs(run_id, tmp_path / "elsewhere")
    assert (rebuilt / "plan.json").stat().st_size > 4096
    assert (rebuilt / "rollback.sql").stat().st_size > 4096
    scene.ends_as_undisturbed("disk full in the logs folder", run_id)


# Drift --------------------------------------------------------------------------------------------


def fill(scene: Scene, plan: backfill.Plan) -> int:
    """Others write the rows of every third session. How many these are."""
    filled = {session.session_id for session in plan.sessions[::3]}
    scene.owed = {(session, writer) for session, writer in scene.owed if session not in filled}
    scene.rows = {
        (session, component) for session, component in scene.rows if session not in filled
    }
    for table in scene.subject.tables:
        scene.project.db.execute(
            f"insert into {table}"
            f" select (jsonb_populate_record(null::{table}, r || %s)).*"
            f" from unnest(%s::jsonb[]) as r where r ->> %s = any (%s)".encode(),
            (
                Jsonb({"created_at": "2025-11-24", "updated_at": "2025-11-24"}),
                list(scene.after[table] - scene.before[table]),
                scene.subject.key,
                list(filled),
            ),
        )
    return len(filled)


def test_what_others_filled_since_the_plan_is_skipped_and_counted(scene: Scene) -> None:
    """A third of the sessions, filled after sealing: nobody scores or takes them back."""
    run_id = scene.planned()
    with scene.project.connect() as bf:
        filled = fill(scene, bf.get(run_id))
    scene.before = scene.content()
    scene.struck()
    outcome = scene.apply(run_id)
    assert outcome.status.counts["skipped"] == filled
    assert outcome.status.counts["done"] == SESSIONS - filled
    with scene.project.connect() as bf:
        elsewhere = bf.verify(run_id).buckets["filled_elsewhere"]
    assert len({row["session_id"] for row in elsewhere}) == filled
    scene.ends_as_undisturbed("a third filled by others since the plan", run_id)
