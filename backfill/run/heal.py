"""Heal: look, plan what is missing, wait for nobody, score what is approved, verify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from backfill.api import answers
from backfill.api.queries import load_outcome, load_plan, load_status, load_verification
from backfill.api.retries import never
from backfill.errors import IllegalMove, Refused, UnknownRun
from backfill.results.event import Event, OnEvent, ignore
from backfill.results.heal import Healed
from backfill.results.run import Outcome, Status
from backfill.results.verification import Verification
from backfill.run.apply import refuse_other_host, work_and_keep
from backfill.run.listeners import Listeners
from backfill.run.plan import finish_plan, make_plan, tell_sealed
from backfill.run.standing import StandingVerbs
from backfill.run.watch import WatchVerbs
from backfill.run.worker import DEFAULT_CONCURRENCY, Worker, own_name

# What a scheduler's job does not wait out: its next one goes on then.
NOT_WAITED_OUT = frozenset({"hours", "pause"})


@dataclass(slots=True)
class _Patience:
    """Waits for a throttle, and not for what may take until tomorrow."""

    should_stop: Callable[[], bool]
    is_over: bool = field(default=False, init=False)

    def hear(self, event: Event) -> None:
        """An event of the run."""
        if event.kind == "waiting" and event.details["wait_for"] in NOT_WAITED_OUT:
            self.is_over = True

    def ends(self) -> bool:
        """Whether no more sessions start."""
        return self.is_over or self.should_stop()


class HealVerbs(WatchVerbs, StandingVerbs):
    """What a connection can do in one go, for a scheduler."""

    async def heal(
        self,
        target: str | None = None,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        on_event: OnEvent = ignore,
        logs_dir: str | Path | None = None,
        should_stop: Callable[[], bool] = never,
    ) -> Healed:
        """Look what is missing, plan it, score it if a standing approval covers it, and verify.

        target: needed if several are installed. The plan is as large and as fast as the standing
        approval that counts allows. Without one that covers it, the run halts for a person. Once it
        is approved the next heal scores it. Safe to call twice at once, and again after any crash:
        a target has one such run at a time. A pause and the hours of a standing approval are not
        waited out. The rest as in apply.
        Raises BadRequest, CannotConnect.
        """
        await self.watch(target)
        found = await self._gateway.call("backfill_heal_next", {"target": target}, answers.HEAL)
        run_id = found.run_id
        if run_id is None or not await self._is_planned(run_id, found):
            return Healed(found.target, "empty")
        status = await self._asked(run_id)
        if status.state not in ("approved", "running"):
            return _halted(found.target, status)
        patience = _Patience(should_stop)
        worker = Worker(
            gateway=self._gateway,
            run_id=run_id,
            name=own_name(),
            clock=self._clock,
            concurrency=concurrency,
            waits=True,
            listeners=Listeners([self._on_event, on_event, patience.hear]),
            should_stop=patience.ends,
        )
        return await self._scored(
            found.target, worker, None if logs_dir is None else Path(logs_dir)
        )

    async def _is_planned(self, run_id: str, found: answers.HealNext) -> bool:
        """Plan it unless it is. Another heal may do so at the same time. False: nothing to do."""
        try:
            if found.state is None:
                plan = await make_plan(self._gateway, self._clock, found.request, run_id)
            elif found.state == "planning":
                plan = await finish_plan(self._gateway, self._clock, run_id)
            else:
                return True
        except IllegalMove:
            return True  # sealed by the other one
        except UnknownRun:
            return False  # found empty by the other one
        return not plan.is_empty

    async def _asked(self, run_id: str) -> Status:
        """The status after the standing approvals were asked. Tells what awaits a person."""
        status = await load_status(self._gateway, run_id)
        if status.state == "awaiting_approval":
            status = await self.ask_standing(run_id)
        if status.state == "awaiting_approval":
            plan = await load_plan(self._gateway, run_id)
            tell_sealed(plan, self._clock, Listeners([self._on_event]))
        return status

    async def _scored(self, target: str, worker: Worker, logs_dir: Path | None) -> Healed:
        run_id = worker.run_id
        await refuse_other_host(self._gateway, run_id)
        halted: Refused | None = None
        failed: str | None = None
        try:
            failed = await work_and_keep(worker, logs_dir)
        except Refused as refused:
            halted = refused
        outcome = await load_outcome(self._gateway, run_id)
        if outcome.state != "completed":
            found = _halted(target, outcome.status, halted)
        else:
            verification = await load_verification(self._gateway, run_id)
            await self.watch(target)
            found = _verified(target, outcome, verification)
        return replace(found, logs_failed=failed)


def _halted(target: str, status: Status, refused: Refused | None = None) -> Healed:
    """Why it goes no further, and what helps."""
    why = status.reason or status.waits_for
    step = status.next_step.text if status.next_step else None
    return Healed(
        target=target,
        state=status.state,
        run_id=status.run_id,
        standing=_approved_by(status),
        reason=refused.message if refused else _not_covered(status) or why,
        next_step=refused.next_step if refused else step,
    )


def _verified(target: str, outcome: Outcome, verification: Verification) -> Healed:
    status = outcome.status
    step = None if verification.verdict == "pass" else verification.next_step
    return Healed(
        target=target,
        state=status.state,
        run_id=status.run_id,
        standing=_approved_by(status),
        verdict=verification.verdict,
        failed=len(outcome.failures),
        reason=verification.critical[0] if verification.critical else None,
        next_step=step.text if step else None,
    )


def _not_covered(status: Status) -> str | None:
    """Why no standing approval covers the run."""
    told = (status.standing or {}).get("reason")
    return None if told is None else str(told)


def _approved_by(status: Status) -> str | None:
    """The standing approval that approved the run."""
    if status.approved_via != "standing" or status.standing is None:
        return None
    return str(status.standing["standing_id"])
