"""The verbs for blocking code: the same core on an event loop of its own, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from backfill.client import (
    DEFAULT_CONCURRENCY,
    UNSET,
    AsyncBackfill,
    _never,
)
from backfill.coverage import Missing
from backfill.dates import Day
from backfill.models import (
    Check,
    Freshness,
    Json,
    Outcome,
    RunSummary,
    Status,
    UndoEffect,
    Verification,
)
from backfill.plans import Plan
from backfill.telling import OnEvent, OnProgress, ignore, untold
from backfill.undoing import AsyncUndo

T = TypeVar("T")


def _open_portal() -> BlockingPortal:
    """A portal into an event loop in a daemon thread: a forgotten close() must not hang."""
    opened: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            opened.set_result(portal)
            await portal.sleep_until_stopped()

    threading.Thread(target=anyio.run, args=(serve,), name="backfill", daemon=True).start()
    return opened.result()


class Undo:
    """A previewed undo; `confirm` carries out exactly what the preview showed."""

    def __init__(self, undo: AsyncUndo, run: Callable[..., Any]) -> None:
        self._undo = undo
        self._run = run
        self.effect = undo.effect

    def confirm(self, *, reason: str, on_progress: OnProgress = untold) -> UndoEffect:
        """Take the rows back; safe to call again after a crash. See AsyncUndo.confirm."""
        effect: UndoEffect = self._run(self._undo.confirm, reason=reason, on_progress=on_progress)
        return effect

    @property
    def digest(self) -> str:
        """What confirms this preview."""
        return self.effect.digest

    @property
    def deletes(self) -> Mapping[str, int]:
        """Rows that would be deleted, by table."""
        return self.effect.deletes

    @property
    def restores(self) -> Mapping[str, int]:
        """Rows that would get their former contents back, by table."""
        return self.effect.restores

    @property
    def conflicts(self) -> tuple[Mapping[str, Json], ...]:
        """Rows that are no longer what the run wrote: {session_id, table, row, reason}."""
        return self.effect.conflicts

    def as_dict(self) -> dict[str, Json]:
        """The shape of `backfill rollback --json`."""
        return self.effect.as_dict()


class Backfill:
    """A project's backfills, blocking. Each verb is that of AsyncBackfill."""

    def __init__(self, make: Callable[[], AsyncBackfill]) -> None:
        """make: called once, inside the event loop that will serve it."""
        self._portal = _open_portal()
        try:
            self._core: AsyncBackfill = self._portal.call(make)
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the event loop."""
        self._run(self._core.close)
        self._stop()

    def _stop(self) -> None:
        self._portal.call(self._portal.stop)

    def _run(self, verb: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return self._portal.call(partial(verb, *args, **named))

    @property
    def host(self) -> str:
        """The host of the project's URL."""
        return self._core.host

    def check(self) -> tuple[Check, ...]:
        """Whether this project is ready, a line a thing, each with what to do."""
        checks: tuple[Check, ...] = self._run(self._core.check)
        return checks

    def missing(self, *, since: Day | None = None, target: str | None = None) -> Missing:
        """What is missing, by UTC day. target: where several are installed."""
        missing: Missing = self._run(self._core.missing, since=since, target=target)
        return missing

    def plan(
        self,
        *,
        since: Day | None = None,
        until: Day | None = None,
        recent_since: Day | None = None,
        engine_version: str | None = None,
        fc_version: str | None = None,
        basis: str | None = None,
        throttle_per_minute: int | None = UNSET,
        batch_size: int | None = None,
        priority: Sequence[str] | None = None,
        environment: str | None = None,
        target: str | None = None,
        want: dict[str, str] | None = None,
        parameters: Mapping[str, str | int] | None = None,
        inferred: str | None = None,
        mode: str | None = None,
        min_responses: int | None = None,
        min_fc_responses: int | None = None,
        like: str | None = None,
        rehearse: int | None = None,
        resume: str | None = None,
    ) -> Plan:
        """Plan what is missing; the run then halts for approval. See AsyncBackfill.plan."""
        plan: Plan = self._run(
            self._core.plan,
            since=since,
            until=until,
            recent_since=recent_since,
            engine_version=engine_version,
            fc_version=fc_version,
            basis=basis,
            throttle_per_minute=throttle_per_minute,
            batch_size=batch_size,
            priority=priority,
            environment=environment,
            target=target,
            want=want,
            parameters=parameters,
            inferred=inferred,
            mode=mode,
            min_responses=min_responses,
            min_fc_responses=min_fc_responses,
            like=like,
            rehearse=rehearse,
            resume=resume,
        )
        return plan

    def run_id(self, run: str) -> str:
        """The full id that an id or a unique prefix names. Raises UnknownRun."""
        return str(self._run(self._core.run_id, run))

    def get(self, run: str) -> Plan:
        """A run's plan, what became of its sessions, what changed since. Raises UnknownRun."""
        plan: Plan = self._run(self._core.get, run)
        return plan

    def page(self, run: str) -> str:
        """A run's plan as one HTML file, with charts. See AsyncBackfill.page."""
        return str(self._run(self._core.page, run))

    def freshness(self, run: str) -> Freshness | None:
        """What changed since a plan was sealed; None where nothing is to come of it any more."""
        seen: Freshness | None = self._run(self._core.freshness, run)
        return seen

    def runs(self, *, state: str | None = None, limit: int = 50) -> tuple[RunSummary, ...]:
        """The newest runs first."""
        runs: tuple[RunSummary, ...] = self._run(self._core.runs, state=state, limit=limit)
        return runs

    def approve(
        self,
        run: str,
        *,
        digest: str,
        access_token: str | None = None,
        approver: str | None = None,
        note: str | None = None,
    ) -> Status:
        """Approve exactly the plan with this digest. See AsyncBackfill.approve."""
        status: Status = self._run(
            self._core.approve,
            run,
            digest=digest,
            access_token=access_token,
            approver=approver,
            note=note,
        )
        return status

    def reject(
        self,
        run: str,
        *,
        reason: str,
        access_token: str | None = None,
        approver: str | None = None,
    ) -> Status:
        """Reject a plan for good."""
        status: Status = self._run(
            self._core.reject, run, reason=reason, access_token=access_token, approver=approver
        )
        return status

    def apply(
        self,
        run: str,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        wait: bool = True,
        on_event: OnEvent = ignore,
        logs_dir: str | Path | None = None,
        should_stop: Callable[[], bool] = _never,
        executor: Executor | None = None,
        shards: int = 4,
    ) -> Outcome:
        """Score the approved sessions until none is left. See AsyncBackfill.apply.

        on_event is called from the thread that does the work.
        """
        outcome: Outcome = self._run(
            self._core.apply,
            run,
            concurrency=concurrency,
            wait=wait,
            on_event=on_event,
            logs_dir=logs_dir,
            should_stop=should_stop,
            executor=executor,
            shards=shards,
        )
        return outcome

    def retry(
        self,
        run: str,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        wait: bool = True,
        on_event: OnEvent = ignore,
        logs_dir: str | Path | None = None,
        should_stop: Callable[[], bool] = _never,
    ) -> Outcome:
        """Score the failed sessions again, under the same approval."""
        outcome: Outcome = self._run(
            self._core.retry,
            run,
            concurrency=concurrency,
            wait=wait,
            on_event=on_event,
            logs_dir=logs_dir,
            should_stop=should_stop,
        )
        return outcome

    def outcome(self, run: str) -> Outcome:
        """Where a run stands, with its failed sessions."""
        outcome: Outcome = self._run(self._core.outcome, run)
        return outcome

    def pause(self, run: str, *, reason: str) -> Status:
        """Pause a run: no session starts until it is resumed."""
        status: Status = self._run(self._core.pause, run, reason=reason)
        return status

    def resume(self, run: str) -> Status:
        """Lift a pause; an apply that is still alive goes on."""
        status: Status = self._run(self._core.resume, run)
        return status

    def cancel(self, run: str, *, reason: str) -> Status:
        """Stop a run for good. What it wrote stays."""
        status: Status = self._run(self._core.cancel, run, reason=reason)
        return status

    def status(self, run: str) -> Status:
        """Where a run stands, and why it waits. Raises UnknownRun."""
        status: Status = self._run(self._core.status, run)
        return status

    def verify(self, run: str, *, on_progress: OnProgress = untold) -> Verification:
        """What stands in the tables against what was planned. See AsyncBackfill.verify."""
        verification: Verification = self._run(self._core.verify, run, on_progress=on_progress)
        return verification

    def rollback(
        self,
        run: str,
        *,
        sessions: Sequence[str] | None = None,
        since: Day | None = None,
        until: Day | None = None,
        on_progress: OnProgress = untold,
    ) -> Undo:
        """Preview taking back what a run wrote. See AsyncBackfill.rollback."""
        undo = self._run(
            self._core.rollback,
            run,
            sessions=sessions,
            since=since,
            until=until,
            on_progress=on_progress,
        )
        return Undo(undo, self._run)

    def confirm_rollback(
        self,
        run: str,
        *,
        digest: str,
        reason: str,
        sessions: Sequence[str] | None = None,
        since: Day | None = None,
        until: Day | None = None,
        on_progress: OnProgress = untold,
    ) -> UndoEffect:
        """Confirm the newest preview by its digest. See AsyncBackfill.confirm_rollback."""
        effect: UndoEffect = self._run(
            self._core.confirm_rollback,
            run,
            digest=digest,
            reason=reason,
            sessions=sessions,
            since=since,
            until=until,
            on_progress=on_progress,
        )
        return effect

    def write_logs(self, run: str, logs_dir: str | Path) -> Path:
        """Write all files of a run from the database. See AsyncBackfill.write_logs."""
        folder: Path = self._run(self._core.write_logs, run, logs_dir)
        return folder
