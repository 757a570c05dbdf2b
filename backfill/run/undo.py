"""Undo: preview it, then confirm it piece by piece."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from backfill.api import answers
from backfill.api.gateway import Gateway
from backfill.api.rows import undo_of, undone_of
from backfill.errors import ApprovalNeeded, BadRequest, TookTooLong
from backfill.request import Day, as_text, checked_ids
from backfill.results.event import OnProgress, ignore
from backfill.results.run import Json
from backfill.results.undo import UndoEffect

LOOK_MS = 2_000  # how long one call of the preview examines rows
PIECE_SESSIONS = 200
MOST_SESSIONS = 10_000
PIECE_S = 0.8  # aim for one piece, in which the database begins no session later than that


class PreviewedUndo:
    """What a preview of an undo showed."""

    def __init__(self, effect: UndoEffect) -> None:
        self.effect = effect

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


class AsyncUndo(PreviewedUndo):
    """A previewed undo. `confirm` carries out exactly what the preview showed."""

    def __init__(self, gateway: Gateway, effect: UndoEffect) -> None:
        super().__init__(effect)
        self._gateway = gateway

    async def confirm(
        self, *, reason: str, access_token: str | None = None, on_progress: OnProgress = ignore
    ) -> UndoEffect:
        """Take the rows back in pieces. Safe to call again after a crash.

        access_token: of an approver who did not ask for the undo, if the project wants one.
        on_progress: called with (done, total) sessions, first while they are checked once more,
        then while they are taken back. Raises UndoChanged if the rows are no longer as previewed,
        ApprovalNeeded, NotAnApprover.
        """
        effect = self.effect
        return await confirm_undo(
            self._gateway,
            effect.run_id,
            effect.digest,
            reason,
            on_progress=on_progress,
            access_token=access_token,
        )


def undo_scope(
    sessions: Sequence[str] | None, since: Day | None, until: Day | None
) -> dict[str, Json]:
    """The limits of an undo as they are sent, empty for the whole run.

    sessions: None for all. Raises BadRequest, also for an empty list: it names none of them.
    """
    named = checked_ids("sessions", sessions)
    if named == []:
        raise BadRequest("sessions is empty", "name sessions, or leave it out for the whole run")
    scope = {
        "sessions": named,
        "since": as_text("since", since),
        "until": as_text("until", until),
    }
    return {name: value for name, value in scope.items() if value is not None}


def next_piece(sessions: int, *, took_s: float, most: int) -> int:
    """How many sessions the next piece takes, at most twice as many as the last.

    sessions, took_s: of the last piece. most: the limit, lowered once a piece timed out.
    """
    return min(max(int(sessions * min(PIECE_S / max(took_s, 0.001), 2.0)), 1), most)


async def preview_undo(
    gateway: Gateway,
    run_id: str,
    scope: Mapping[str, Json],
    on_progress: OnProgress = ignore,
    access_token: str | None = None,
) -> AsyncUndo:
    """Preview an undo of this scope, in several calls if there are many rows.

    Each call is a transaction, so a row may change after it was examined. Confirming checks again.
    """
    arguments = {f"p_{name}": value for name, value in scope.items()}
    asked: dict[str, Json] = {"p_run_id": run_id, "p_budget_ms": LOOK_MS}
    verb, by = "backfill_preview_undo", access_token
    answer = await gateway.call(verb, {**asked, **arguments}, answers.PREVIEW, access_token=by)
    while answer["digest"] is None:
        on_progress(answer["looked_at"], answer["to_look_at"])
        asked["p_undo_id"] = answer["undo_id"]
        answer = await gateway.call(verb, asked, answers.PREVIEW, access_token=by)
    return AsyncUndo(gateway, undo_of(await _with_all_conflicts(gateway, run_id, answer)))


async def confirm_undo(
    gateway: Gateway,
    run_id: str,
    digest: str,
    reason: str,
    scope: Mapping[str, Json] | None = None,
    on_progress: OnProgress = ignore,
    access_token: str | None = None,
) -> UndoEffect:
    """Carry an undo out until nothing remains. One that was carried out before says so.

    Each piece is a transaction of about a second. A piece that exceeds the project's statement
    timeout is halved.

    scope: the scope that the caller expects. The undo is refused if the preview had another.
    access_token: approves the undo if the project's policy asks for that.
    """
    arguments: dict[str, Json] = {"p_run_id": run_id, "p_digest": digest, "p_reason": reason}
    if scope:
        arguments["p_scope"] = dict(scope)
    sessions, most, first, answer = PIECE_SESSIONS, MOST_SESSIONS, None, None
    while answer is None or answer["remaining"]:
        began = time.monotonic()
        try:
            answer = await gateway.call(
                "backfill_confirm_undo", {**arguments, "p_sessions": sessions}, answers.UNDONE
            )
        except ApprovalNeeded:
            if access_token is None:
                raise
            named = {"run": run_id, "digest": digest}
            await gateway.call(
                "backfill_approve_undo", named, answers.RUN, access_token=access_token
            )
            access_token = None  # what it could do is done
            continue
        except TookTooLong:
            if sessions == 1:
                raise
            sessions = most = sessions // 2
            continue
        first = first or answer
        if answer["to_check"] is None:
            took_s = time.monotonic() - began
            sessions = next_piece(sessions, took_s=took_s, most=most)
        on_progress(*_how_far(answer))
    answer = await _with_all_conflicts(gateway, run_id, answer)
    return undone_of(run_id, digest, {**answer, "was_finished": first and first["was_finished"]})


async def _with_all_conflicts(
    gateway: Gateway, run_id: str, answer: Mapping[str, Json]
) -> dict[str, Json]:
    """An answer names the first rows that are left. There may be as many as the run wrote."""
    conflicts: list[Json] = []
    asked: dict[str, Json] = {"p_run_id": run_id, "p_undo_id": answer["undo_id"], "p_after": 0}
    if len(answer["conflicts"]) == answer["conflicts_total"]:
        return dict(answer)
    while asked["p_after"] is not None:
        part = await gateway.call("backfill_undo_conflicts", asked, answers.CONFLICTS)
        conflicts += part["conflicts"]
        asked["p_after"] = part["after"]
    return {**answer, "conflicts": conflicts}


def _how_far(answer: Mapping[str, Json]) -> tuple[int, int]:
    if answer["to_check"] is not None:
        return answer["checked"], answer["to_check"]
    return answer["sessions_total"] - answer["remaining"], answer["sessions_total"]
