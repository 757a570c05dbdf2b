"""The async verbs. `backfill.connect_async()` returns them, and the blocking face runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Self

from backfill.api import answers
from backfill.api.gateway import Gateway
from backfill.api.queries import (
    full_run_id,
    load_fresh_plan,
    load_freshness,
    load_outcome,
    load_runs,
    load_status,
    load_verification,
)
from backfill.api.retries import never
from backfill.errors import ApprovalNeeded, BadRequest, NotAnApprover, SaysOtherNames
from backfill.files import keeper
from backfill.request import Day, Request, Throttle, checked_number
from backfill.results.check import Check
from backfill.results.event import OnEvent, OnProgress, ignore
from backfill.results.plan import Freshness, Plan
from backfill.results.run import Json, Mode, Outcome, RunState, RunSummary, Status
from backfill.results.undo import UndoEffect
from backfill.results.verification import Verification
from backfill.run.apply import refuse_other_host, work_and_keep
from backfill.run.check import check_project
from backfill.run.clock import Clock, SystemClock
from backfill.run.heal import HealVerbs
from backfill.run.listeners import Listeners
from backfill.run.move import move
from backfill.run.pace import PaceVerbs
from backfill.run.page import run_page
from backfill.run.plan import finish_plan, plan_asked, tell_sealed
from backfill.run.shards import spread
from backfill.run.targets import TargetVerbs
from backfill.run.undo import AsyncUndo, confirm_undo, preview_undo, undo_scope
from backfill.run.worker import DEFAULT_CONCURRENCY, Worker, own_name

DEFAULT_RUNS = 50


class AsyncBackfill(HealVerbs, TargetVerbs, PaceVerbs, SaysOtherNames):
    """A project's backfills. Close it, or use it as an async context manager."""

    def __init__(
        self, gateway: Gateway, *, clock: Clock | None = None, on_event: OnEvent = ignore
    ) -> None:
        self._gateway = gateway
        self._clock = clock or SystemClock()
        self._on_event = on_event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def host(self) -> str:
        """The host of the project's URL."""
        return self._gateway.host

    async def close(self) -> None:
        """Close the connections."""
        await self._gateway.close()

    async def check(self) -> tuple[Check, ...]:
        """Whether this project is ready: one Check per item, each with what to do."""
        return await check_project(self._gateway)

    async def plan(
        self,
        *,
        since: Day | None = None,
        until: Day | None = None,
        recent_since: Day | None = None,
        engine_version: str | None = None,
        fc_version: str | None = None,
        basis: str | None = None,
        throttle_per_minute: Throttle | None = None,
        batch_size: int | None = None,
        priority: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        limit: int | None = None,
        environment: str | None = None,
        target: str | None = None,
        want: dict[str, str] | None = None,
        parameters: Mapping[str, str | int] | None = None,
        inferred: str | None = None,
        mode: Mode | None = None,
        min_responses: int | None = None,
        min_fc_responses: int | None = None,
        like: str | None = None,
        rehearse: int | None = None,
        resume: str | None = None,
    ) -> Plan:
        """Plan what is missing. The run then halts for approval.

        since, until: whole UTC days, both included, or moments, in UTC if they have no offset.
        throttle_per_minute: starts in any 60 s, 20 by default, "none" for no limit.
        ids: only these sessions, at most 1,000. limit: only the first so many, in the plan's order.
        want: versions by component. parameters: of the target, by name.
        PRISM's own words, for that target alone: engine_version and fc_version are the wanted
        versions of profile and fc_scores, basis the kind of the fc_scores (functions by default),
        min_responses and min_fc_responses how many answers scoring needs.
        inferred: the target's name. Accepts inferred receipts, which an Edge Function needs if it
        does not pass our headers on.
        mode: "direct" makes one call per step. "bulk" makes one call per batch and scores inside
        the database.
        batch_size: sessions, 5 by default. In bulk at most 500, the default without a throttle.
        like: a run whose request fills in what is not given. backfill_targets fills in the rest.
        rehearse: at most so many sessions are scored twice and rolled back. 5 by default, 0 if the
        environment is production.
        resume: a run that is still planning because its client ended. It goes on as requested
        then, so nothing else may be given.
        The connection's on_event hears awaiting_approval. If it raises, the plan is sealed first,
        and a note of the exception names the run.
        Raises BadRequest, UnknownSession, WrongEnvironment.
        """
        asked = Request(
            since=since, until=until, recent_since=recent_since, engine_version=engine_version,
            fc_version=fc_version, basis=basis, throttle_per_minute=throttle_per_minute,
            batch_size=batch_size, priority=priority, environment=environment, target=target,
            ids=ids, limit=limit, want=want, parameters=parameters, inferred=inferred, mode=mode,
            min_responses=min_responses, min_fc_responses=min_fc_responses, like=like,
            rehearse=rehearse, resume=resume,
        )  # fmt: skip
        if resume:
            return await self._go_on_planning(resume, asked)
        return self._told(await plan_asked(self._gateway, self._clock, asked))

    async def _go_on_planning(self, run: str, asked: Request) -> Plan:
        if others := sorted(asked.given().keys() - {"resume"}):
            raise BadRequest(
                f"resume goes on as requested before: {others[0]} is not taken",
                f"backfill plan --resume {run}",
            )
        return self._told(await finish_plan(self._gateway, self._clock, await self.run_id(run)))

    def _told(self, plan: Plan) -> Plan:
        return tell_sealed(plan, self._clock, Listeners([self._on_event]))

    async def run_id(self, run: str) -> str:
        """The full id that an id or eight characters of it name. Raises UnknownRun."""
        return await full_run_id(self._gateway, run)

    async def get(self, run: str) -> Plan:
        """A run's plan, the state of its sessions, what changed since. Raises UnknownRun."""
        return await load_fresh_plan(self._gateway, await self.run_id(run))

    async def page(self, run: str) -> str:
        """A run's plan as one HTML page with charts. After its start, also what happened.

        Raises BadRequest, with the command to install it, if the extra `page` is missing.
        """
        return await run_page(self._gateway, await self.run_id(run))

    async def freshness(self, run: str) -> Freshness | None:
        """What changed since a plan was sealed. None if its run is over. Raises UnknownRun."""
        return await load_freshness(self._gateway, await self.run_id(run))

    async def runs(
        self, *, state: RunState | None = None, target: str | None = None, limit: int = DEFAULT_RUNS
    ) -> tuple[RunSummary, ...]:
        """At most `limit` runs, newest first. state, target: only runs in it, only runs of it.

        Raises BadRequest.
        """
        return await load_runs(self._gateway, state=state, target=target, limit=limit)

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

        Raises ApprovalNeeded with the SQL line if the service key may not approve,
        DigestMismatch, PlanChanged, NotAnApprover.
        """
        given = {"digest": digest, "approver": approver, "note": note}
        return await self._decide("backfill_approve", run, access_token, given)

    async def reject(
        self,
        run: str,
        *,
        reason: str,
        access_token: str | None = None,
        approver: str | None = None,
    ) -> Status:
        """Reject a plan for good. Raises as approve does."""
        given = {"reason": reason, "approver": approver}
        return await self._decide("backfill_reject", run, access_token, given)

    async def _decide(
        self, function: str, run: str, access_token: str | None, given: Mapping[str, Json]
    ) -> Status:
        run_id = await self.run_id(run)
        try:
            return await move(self._gateway, function, run_id, given, access_token)
        except NotAnApprover as refused:
            if access_token:
                raise
            raise ApprovalNeeded(refused.message, refused.next_step) from refused

    async def apply(
        self,
        run: str,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        wait: bool = True,
        on_event: OnEvent = ignore,
        logs_dir: str | Path | None = None,
        should_stop: Callable[[], bool] = never,
        executor: Executor | None = None,
        shards: int = 4,
    ) -> Outcome:
        """Score the approved sessions until none is left. Safe to call again after any crash.

        concurrency: sessions scored at a time. wait: False returns instead of waiting for the
        throttle, another worker or a pause. should_stop: asked between sessions. Once it returns
        True, sessions in flight are finished and the rest given back.
        logs_dir: parent of the run's folder of files. A file that cannot be written stops nothing
        and is named by the outcome's logs_failed.
        on_event: hears every Event, one at a time in the event loop, which the blocking face runs
        in its own thread. Be brief. If it raises, it hears no more and no session starts. Sessions
        in flight are settled, then its exception is raised. A second apply goes on.
        executor: any of concurrent.futures. It runs `shards` workers in other processes, each with
        SUPABASE_URL and the key in its environment, without on_event and should_stop.
        Raises ApprovalNeeded, Paused, ApprovalExpired, WrongServer.
        """
        checked_number("concurrency", concurrency, least=1)
        run_id = await self.run_id(run)
        await refuse_other_host(self._gateway, run_id)
        if executor is not None:
            checked_number("shards", shards, least=1)
            outcome = await spread(executor, shards, self._gateway, run_id, concurrency, wait)
            if logs_dir is not None:
                await self.write_logs(run_id, logs_dir)
            return outcome
        worker = Worker(
            gateway=self._gateway,
            run_id=run_id,
            name=own_name(),
            clock=self._clock,
            concurrency=concurrency,
            waits=wait,
            listeners=Listeners([self._on_event, on_event]),
            should_stop=should_stop,
        )
        failed = await work_and_keep(worker, None if logs_dir is None else Path(logs_dir))
        return replace(await self.outcome(run_id), logs_failed=failed)

    async def retry(
        self,
        run: str,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        wait: bool = True,
        on_event: OnEvent = ignore,
        logs_dir: str | Path | None = None,
        should_stop: Callable[[], bool] = never,
    ) -> Outcome:
        """Score the failed sessions again, under the same approval. Takes and raises as apply does.

        The outcome's `retried` is their number. If it is 0, nothing is applied.
        """
        run_id = await self.run_id(run)
        await refuse_other_host(self._gateway, run_id)
        before = await self.outcome(run_id)
        if before.state == "completed" and not before.failures:
            return replace(before, retried=0)
        answer = await self._gateway.call("backfill_retry", {"p_run_id": run_id}, answers.RETRIED)
        outcome = await self.apply(
            run_id,
            concurrency=concurrency,
            wait=wait,
            on_event=on_event,
            logs_dir=logs_dir,
            should_stop=should_stop,
        )
        # None if an answer was lost: the call that was asked again found none left.
        return replace(outcome, retried=answer["sessions"] or len(before.failures))

    async def outcome(self, run: str) -> Outcome:
        """The status of a run, with its failed sessions. Raises UnknownRun."""
        return await load_outcome(self._gateway, await self.run_id(run))

    async def pause(self, run: str, *, reason: str) -> Status:
        """Pause a run: no session starts until it is resumed. Raises IllegalMove."""
        return await self._move("backfill_pause", run, reason=reason)

    async def resume(self, run: str, *, because: str | None = None) -> Status:
        """Lift a pause. `because` answers critical events. Raises IllegalMove, PlanChanged."""
        return await self._move("backfill_resume", run, because=because)

    async def cancel(self, run: str, *, reason: str) -> Status:
        """Stop a run for good. What it wrote stays. Raises IllegalMove."""
        return await self._move("backfill_cancel", run, reason=reason)

    async def status(self, run: str) -> Status:
        """The status of a run, and why it waits. Raises UnknownRun."""
        return await load_status(self._gateway, await self.run_id(run))

    async def verify(self, run: str, *, on_progress: OnProgress = ignore) -> Verification:
        """Compare the tables with the plan. Raises UnknownRun.

        A large run takes several calls, each its own transaction. A row that changes in between is
        reported as it was or as it is now.
        on_progress: hears (sessions compared, sessions in all) after each call but the last.
        """
        return await load_verification(self._gateway, await self.run_id(run), on_progress)

    async def rollback(
        self,
        run: str,
        *,
        sessions: Sequence[str] | None = None,
        since: Day | None = None,
        until: Day | None = None,
        access_token: str | None = None,
        on_progress: OnProgress = ignore,
    ) -> AsyncUndo:
        """Preview taking back what a run wrote: all, some sessions, or a range of session dates.

        access_token: of the Auth user who asks, an operator or an approver.
        on_progress: hears (sessions looked at, sessions of the run) if it takes several calls.
        Raises IllegalMove while the run runs, UnknownSession.
        """
        scope = undo_scope(sessions, since, until)
        run_id = await self.run_id(run)
        return await preview_undo(self._gateway, run_id, scope, on_progress, access_token)

    async def confirm_rollback(
        self,
        run: str,
        *,
        digest: str,
        reason: str,
        sessions: Sequence[str] | None = None,
        since: Day | None = None,
        until: Day | None = None,
        access_token: str | None = None,
        on_progress: OnProgress = ignore,
    ) -> UndoEffect:
        """Confirm the newest preview by its digest, even one of another process.

        sessions, since, until: if given, those of the preview, else BadRequest is raised.
        access_token, on_progress: see AsyncUndo.confirm.
        """
        scope = undo_scope(sessions, since, until)
        return await confirm_undo(
            self._gateway, await self.run_id(run), digest, reason, scope, on_progress, access_token
        )

    async def write_logs(self, run: str, logs_dir: str | Path) -> Path:
        """Write all files of a run from the database. Returns their folder.

        What an apply wrote into them stays. Raises BackfillError if one cannot be written.
        """
        run_id = await self.run_id(run)
        return await keeper.write_all(Path(logs_dir), self._gateway, run_id)

    async def _move(self, function: str, run: str, **arguments: Json) -> Status:
        return await move(self._gateway, function, await self.run_id(run), arguments)
