"""The verbs about standing approvals: propose, list, approve, revoke, ask whether one covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

from backfill.api import answers
from backfill.api.gateway import Gateway
from backfill.api.queries import LEAST_PREFIX_CHARS, full_run_id, load_status
from backfill.api.retries import BRIEF
from backfill.api.rows import standing_of
from backfill.errors import (
    ApprovalNeeded,
    BackfillError,
    BadRequest,
    IllegalMove,
    NotAnApprover,
    UnknownRun,
)
from backfill.request import Day, as_text, checked_number
from backfill.results.run import Json, Status
from backfill.results.standing import StandingApproval, StandingState


class StandingVerbs:
    """What a connection can do about standing approvals."""

    _gateway: Gateway

    async def propose_standing(
        self,
        *,
        until: Day | None = None,
        max_sessions: int,
        target: str | None = None,
        max_per_day: int | None = None,
        max_calls: int | None = None,
        throttle: int | None = None,
        hours: str | None = None,
        weekdays: str | None = None,
        marks: Sequence[str] = (),
        replace: bool = False,
        environment: str | None = None,
        access_token: str | None = None,
    ) -> StandingApproval:
        """Propose a rule by which runs are approved. It counts once a person has approved it.

        until: its last UTC day, or a moment. max_sessions, max_calls: of one run. max_per_day:
        sessions of the target per UTC day. throttle: the highest of a run. hours: such as 01-05,
        UTC. weekdays: such as mon-fri. marks: that must be ok, by name or first word, or all. None
        may fail. replace: rows may be replaced. What is not given sets no bound.
        access_token: of the Auth user who proposes it.
        Raises BadRequest, WrongEnvironment.
        """
        numbers = {"max_sessions": max_sessions, "max_per_day": max_per_day}
        numbers |= {"max_calls": max_calls, "throttle": throttle}
        asked: dict[str, Json] = {
            "target": target,
            "until": as_text("until", until),
            **{name: checked_number(name, n) for name, n in numbers.items() if n is not None},
            "hours": hours,
            "weekdays": weekdays,
            "marks": _checked_marks(marks),
            "replace": replace,
            "environment": environment,
            "standing": str(uuid4()),
        }
        told = await self._gateway.call(
            "backfill_propose_standing", asked, answers.STANDING, access_token=access_token
        )
        return standing_of(told)

    async def standings(self) -> tuple[StandingApproval, ...]:
        """Every standing approval, the newest first."""
        found = await self._gateway.call("backfill_standings", {}, answers.ROWS)
        return tuple(map(standing_of, found))

    async def standing(self, standing: str) -> StandingApproval:
        """The one that an id or eight characters of it name. Raises UnknownRun."""
        given = standing.strip().lower()
        is_long = len(given) >= LEAST_PREFIX_CHARS
        found = [s for s in await self.standings() if is_long and s.standing_id.startswith(given)]
        if len(found) == 1:
            return found[0]
        what = "names several standing approvals" if found else "names no standing approval"
        raise UnknownRun(f"{standing[:40]} {what}", "backfill standing list")

    async def approve_standing(
        self,
        standing: str,
        *,
        digest: str,
        access_token: str | None = None,
        approver: str | None = None,
        note: str | None = None,
    ) -> StandingApproval:
        """Approve exactly the rule with this digest. Takes and raises as approve does."""
        standing_id = (await self.standing(standing)).standing_id
        asked = {"run": standing_id, "digest": digest, "approver": approver, "note": note}
        try:
            return await self._decided("backfill_approve", standing_id, asked, access_token)
        except NotAnApprover as refused:
            if access_token:
                raise
            raise ApprovalNeeded(refused.message, refused.next_step) from refused

    async def revoke_standing(
        self, standing: str, *, reason: str, access_token: str | None = None
    ) -> StandingApproval:
        """Revoke one at once. Runs that it allowed start no further session. Raises IllegalMove."""
        standing_id = (await self.standing(standing)).standing_id
        asked = {"standing": standing_id, "reason": reason}
        return await self._decided("backfill_revoke_standing", standing_id, asked, access_token)

    async def ask_standing(self, run: str) -> Status:
        """Ask whether one covers a run that awaits approval now. If so, the run is approved.

        Sealing has asked once. The status says why none covers it. Raises UnknownRun, PlanChanged.
        """
        run_id = await full_run_id(self._gateway, run)
        await self._gateway.call("backfill_ask_standing", {"run": run_id}, answers.RUN)
        return await load_status(self._gateway, run_id)

    async def standing_page(self) -> str:
        """Every standing approval as one HTML page. Raises BadRequest without the extra `page`."""
        try:
            from backfill.render.page.standing import standing_page
        except ModuleNotFoundError as missing:
            raise BadRequest(
                f"a page needs {missing.name}, which is not installed",
                "pip install 'supabase-backfill[page]'",
            ) from missing
        return standing_page(await self.standings())

    async def _decided(
        self, function: str, standing_id: str, asked: Mapping[str, Json], access_token: str | None
    ) -> StandingApproval:
        """A decision whose answer was lost has happened all the same."""
        lost: list[BackfillError] = []
        patience = replace(BRIEF, on_wait=lambda error, _: lost.append(error))
        try:
            told = await self._gateway.call(
                function, asked, answers.STANDING, access_token=access_token, patience=patience
            )
        except IllegalMove:
            now = await self.standing(standing_id)
            if not lost or now.state != BECOMES[function]:
                raise
            return now
        return standing_of(told)


BECOMES: Mapping[str, StandingState] = {
    "backfill_approve": "approved",
    "backfill_revoke_standing": "revoked",
}


def _checked_marks(marks: Sequence[str]) -> list[str]:
    if isinstance(marks, str) or not all(isinstance(mark, str) for mark in marks):
        raise BadRequest("marks is a list of names", 'marks=["receipts"]')
    return list(marks)
