"""The verbs, to await. `backfill.connect_async()` gives this; the blocking face runs it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from backfill import checking, logs
from backfill.applying import OnEvent, Worker, work
from backfill.clock import Clock, SystemClock
from backfill.dates import Day, as_text
from backfill.errors import ApprovalNeeded, BackfillError, BadRequest, NotAnApprover, WrongServer
from backfill.gateway import Gateway
from backfill.models import (
    Check,
    Event,
    Json,
    Missing,
    Outcome,
    Plan,
    RunSummary,
    Status,
    UndoEffect,
    Verification,
)
from backfill.planning import full_run_id, load_plan, load_run, make_plan, request_like
from backfill.reading import (
    DAY_COLUMNS,
    FAILURE_COLUMNS,
    PROGRESS_COLUMNS,
    day_of,
    failure_of,
    status_of,
    summary_of,
    undo_of,
    verification_of,
)
from backfill.reporting import summary_markdown
from backfill.rollback_sql import rollback_sql

DEFAULT_THROTTLE_PER_MINUTE = 20
DEFAULT_BATCH_SESSIONS = 5
DEFAULT_CONCURRENCY = 4  # a quarter of a small project's pool is less; more only when told
UNSET: Json = object()


def _ignore(event: Event) -> None:
    """Hear nothing."""


def _never() -> bool:
    return False


class AsyncUndo:
    """A previewed undo; `confirm` carries out exactly what the preview showed."""

    def __init__(self, gateway: Gateway, effect: UndoEffect) -> None:
        self._gateway = gateway
        self.effect = effect

    async def confirm(self, *, reason: str) -> UndoEffect:
        """Take the rows back, in pieces; safe to call again after a crash.

        Raises UndoChanged where the rows are no longer as previewed.
        """
        return await confirm_undo(self._gateway, self.effect.run_id, self.effect.digest, reason)

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


async def confirm_undo(gateway: Gateway, run_id: str, digest: str, reason: str) -> UndoEffect:
    """Carry an undo out until nothing remains."""
    while True:
        answer = await gateway.call(
            "backfill_confirm_undo",
            {"p_run_id": run_id, "p_digest": digest, "p_reason": reason},
        )
        if answer["remaining"] == 0:
            return UndoEffect(
                run_id=run_id,
                digest=digest,
                deletes=answer["deletes"],
                restores=answer["restores"],
                conflicts=tuple(answer["conflicts"]),
                state=answer["state"],
            )


class AsyncBackfill:
    """A project's backfills. Close it, or use it as an async context manager."""

    def __init__(self, gateway: Gateway, *, clock: Clock | None = None) -> None:
        self._gateway = gateway
        self._clock = clock or SystemClock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._gateway.close()

    async def check(self) -> tuple[Check, ...]:
        """Whether this project is ready, a line a thing, each with what to do."""
        return await checking.check(self._gateway)

    async def missing(self, *, since: Day | None = None) -> Missing:
        """What is missing, by UTC day."""
        first = as_text("since", since)
        days = [
            day_of(row)
            async for page in self._gateway.rows(
                "backfill_daily_coverage",
                columns=DAY_COLUMNS,
                key="day",
                at_least={"day": first[:10]} if first else {},
            )
            for row in page
        ]
        return Missing(tuple(days))

    async def plan(
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
        min_responses: int | None = None,
        min_fc_responses: int | None = None,
        like: str | None = None,
    ) -> Plan:
        """Plan what is missing; the run then halts for approval.

        since, until: whole UTC days, both included, or timestamps. throttle_per_minute: session
        starts in any 60 s, 20 unless given, None for none. want: versions by component. like: a
        run whose request fills in what is not given. Omitted versions come from backfill_targets.
        Raises BadRequest, UnknownSession, WrongEnvironment.
        """
        given: dict[str, Json] = {
            "target": target,
            "since": as_text("since", since),
            "until": as_text("until", until),
            "recent_since": as_text("recent_since", recent_since),
            "engine_version": engine_version,
            "fc_version": fc_version,
            "basis": basis,
            "batch_size": batch_size,
            "priority": _listed(priority),
            "environment": environment,
            "want": want,
            "min_responses": min_responses,
            "min_fc_responses": min_fc_responses,
        }
        request: dict[str, Json] = {
            "throttle_per_minute": DEFAULT_THROTTLE_PER_MINUTE,
            "batch_size": DEFAULT_BATCH_SESSIONS,
        }
        if like is not None:
            request |= await request_like(self._gateway, await self.run_id(like))
        request |= {name: value for name, value in given.items() if value is not None}
        _refuse_empty(given)
        if throttle_per_minute is not UNSET:
            request["throttle_per_minute"] = throttle_per_minute
        return await make_plan(self._gateway, request)

    async def run_id(self, run: str) -> str:
        """The full id that an id or a unique prefix names. Raises UnknownRun."""
        return await full_run_id(self._gateway, run)

    async def get(self, run: str) -> Plan:
        """A run's plan, and what became of its sessions. Raises UnknownRun."""
        return await load_plan(self._gateway, await self.run_id(run))

    async def runs(self, *, state: str | None = None, limit: int = 50) -> tuple[RunSummary, ...]:
        """The newest runs first."""
        rows = await self._gateway.newest(
            "backfill_run_progress",
            columns=PROGRESS_COLUMNS,
            order="created_at",
            limit=limit,
            equal={"state": state} if state else {},
        )
        return tuple(summary_of(row) for row in rows)

    async def approve(
        self,
        run: str,
        *,
        digest: str,
        access_token: str | None = None,
        approver: str | None = None,
        note: str | None = None,
    ) -> Status:
        """Approve exactly the plan with this digest, as the Auth user whose token this is.

        Raises ApprovalNeeded with the SQL line where the service key may not approve,
        DigestMismatch, PlanChanged, NotAnApprover.
        """
        run_id = await self.run_id(run)
        arguments = {"run": run_id, "digest": digest, "approver": approver, "note": note}
        try:
            await self._gateway.call("backfill_approve", arguments, access_token=access_token)
        except NotAnApprover as refused:
            if access_token:
                raise
            raise ApprovalNeeded(refused.message, refused.next_step) from refused
        return await self.status(run_id)

    async def reject(
        self,
        run: str,
        *,
        reason: str,
        access_token: str | None = None,
        approver: str | None = None,
    ) -> Status:
        """Reject a plan for good. Raises as approve does."""
        run_id = await self.run_id(run)
        arguments = {"run": run_id, "reason": reason, "approver": approver}
        try:
            await self._gateway.call("backfill_reject", arguments, access_token=access_token)
        except NotAnApprover as refused:
            if access_token:
                raise
            raise ApprovalNeeded(refused.message, refused.next_step) from refused
        return await self.status(run_id)

    async def apply(
        self,
        run: str,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        wait: bool = True,
        on_event: OnEvent = _ignore,
        logs_dir: str | Path | None = None,
        should_stop: Callable[[], bool] = _never,
    ) -> Outcome:
        """Score the approved sessions until none is left; safe to call again after any crash.

        concurrency: sessions scored at a time. wait: False ends instead of waiting for the
        throttle, another worker or a pause. should_stop: asked between sessions; when true, what
        is in flight is finished and the rest given back.
        Raises ApprovalNeeded, Paused, ApprovalExpired, WrongServer.
        """
        run_id = await self.run_id(run)
        await self._refuse_other_host(run_id)
        log = logs.RunLog.open(Path(logs_dir) if logs_dir is not None else None, run_id)
        if logs_dir is not None:
            log.plan(await load_plan(self._gateway, run_id))

        def hear(event: Event) -> None:
            _write_down(log, event)
            on_event(event)

        worker = Worker(
            gateway=self._gateway,
            run_id=run_id,
            name=f"{socket.gethostname()}:{os.getpid()}",
            clock=self._clock,
            concurrency=concurrency,
            waits=wait,
            on_event=hear,
            should_stop=should_stop,
        )
        try:
            await work(worker)
        finally:
            if logs_dir is not None:
                await self.write_ending(log, run_id)
        return await self.outcome(run_id)

    async def retry(self, run: str, **applying: Json) -> Outcome:
        """Score the failed sessions again, under the same approval. Takes what apply takes."""
        run_id = await self.run_id(run)
        await self._refuse_other_host(run_id)
        await self._gateway.call("backfill_retry", {"p_run_id": run_id})
        return await self.apply(run_id, **applying)

    async def outcome(self, run: str) -> Outcome:
        """Where a run stands, with its failed sessions."""
        run_id = await self.run_id(run)
        failures = [
            failure_of(row)
            async for page in self._gateway.rows(
                "backfill_run_failures",
                columns=FAILURE_COLUMNS,
                key="session_id",
                equal={"run_id": run_id},
            )
            for row in page
        ]
        return Outcome(await self.status(run_id), tuple(failures))

    async def pause(self, run: str, *, reason: str) -> Status:
        """Pause a run: no session starts until it is resumed."""
        return await self._move("backfill_pause", run, reason=reason)

    async def resume(self, run: str) -> Status:
        """Lift a pause; an apply that is still alive goes on."""
        return await self._move("backfill_resume", run)

    async def cancel(self, run: str, *, reason: str) -> Status:
        """Stop a run for good. What it wrote stays."""
        return await self._move("backfill_cancel", run, reason=reason)

    async def status(self, run: str) -> Status:
        """Where a run stands, and why it waits. Raises UnknownRun."""
        run_id = await self.run_id(run)
        row = await self._gateway.first(
            "backfill_run_progress", columns=PROGRESS_COLUMNS, equal={"run_id": run_id}
        )
        return status_of(row or {})

    async def verify(self, run: str) -> Verification:
        """What stands in the tables against what was planned."""
        run_id = await self.run_id(run)
        return verification_of(await self._gateway.call("backfill_verify", {"p_run_id": run_id}))

    async def rollback(
        self,
        run: str,
        *,
        sessions: Sequence[str] | None = None,
        since: Day | None = None,
        until: Day | None = None,
    ) -> AsyncUndo:
        """Preview taking back what a run wrote: all, some sessions, or a range of session dates.

        Raises IllegalMove while the run runs, UnknownSession.
        """
        scope = {
            "p_run_id": await self.run_id(run),
            "p_sessions": _listed(sessions),
            "p_since": as_text("since", since),
            "p_until": as_text("until", until),
        }
        return AsyncUndo(
            self._gateway, undo_of(await self._gateway.call("backfill_preview_undo", scope))
        )

    async def confirm_rollback(self, run: str, *, digest: str, reason: str) -> UndoEffect:
        """Confirm the newest preview by its digest, from another process than the preview's."""
        return await confirm_undo(self._gateway, await self.run_id(run), digest, reason)

    async def write_logs(self, run: str, logs_dir: str | Path) -> Path:
        """Write plan, summary and rollback.sql of a run from the database. Returns their folder."""
        run_id = await self.run_id(run)
        log = logs.RunLog.open(Path(logs_dir), run_id)
        log.plan(await load_plan(self._gateway, run_id))
        await self.write_ending(log, run_id)
        if log.failed:
            raise BackfillError(
                f"the files could not be written: {log.failed}", "another --logs-dir"
            )
        return Path(logs_dir) / run_id

    async def write_ending(self, log: logs.RunLog, run_id: str) -> None:
        """Write summary.md and rollback.sql as the database has it now."""
        ended = await self.outcome(run_id)
        verification = await self.verify(run_id)
        receipts = [
            row
            async for page in self._gateway.rows(
                "backfill_receipts",
                columns="receipt_id,ordinal,session_id,kind,operation,table_name,row_key,"
                "before_hash,after_hash,undone_at",
                key="receipt_id",
                equal={"run_id": run_id, "kind": "score"},
            )
            for row in page
            if row["undone_at"] is None
        ]
        log.summary(summary_markdown(ended.status, verification, ended.failures))
        log.rollback(rollback_sql(run_id, receipts))

    async def _move(self, function: str, run: str, **arguments: Json) -> Status:
        run_id = await self.run_id(run)
        await self._gateway.call(function, {"run": run_id, **arguments})
        return await self.status(run_id)

    async def _refuse_other_host(self, run_id: str) -> None:
        planned = (await load_run(self._gateway, run_id))["project_host"]
        if planned and planned != self._gateway.host:
            raise WrongServer(
                f"run {run_id} was planned on {planned}, this is {self._gateway.host}",
                "connect to the project that was planned, or plan here",
            )


def _listed(ids: Sequence[str] | None) -> list[str] | None:
    """Ids as a list; one id alone is not a list of letters."""
    return [ids] if isinstance(ids, str) else list(ids) if ids is not None else None


def _refuse_empty(given: Mapping[str, Json]) -> None:
    """An unset shell variable must not turn a guard off."""
    for name, value in given.items():
        if isinstance(value, str) and not value.strip():
            raise BadRequest(f"{name} is empty", "leave it out, or give a value")


def _write_down(log: logs.RunLog, event: Event) -> None:
    if event.kind == "call":
        log.call(event.as_dict())
    elif event.kind == "batch_settled":
        log.batch(int(event.details["batch"]), event.as_dict())


__all__ = ["AsyncBackfill", "AsyncUndo"]
