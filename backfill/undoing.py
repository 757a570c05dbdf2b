"""Undo: a preview that can be confirmed, and the confirming, piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backfill.dates import Day, as_text
from backfill.errors import TookTooLong
from backfill.gateway import Gateway
from backfill.models import Json, UndoEffect
from backfill.reading import undo_of, undone_of
from backfill.requesting import checked_ids

PIECE_SESSIONS = 200


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


def undo_scope(
    sessions: Sequence[str] | None, since: Day | None, until: Day | None
) -> dict[str, Json]:
    """What an undo is limited to, as it is sent; nothing where it takes the whole run.

    Raises BadRequest.
    """
    scope = {
        "sessions": checked_ids("sessions", sessions) or None,
        "since": as_text("since", since),
        "until": as_text("until", until),
    }
    return {name: value for name, value in scope.items() if value is not None}


async def preview_undo(gateway: Gateway, run_id: str, scope: Mapping[str, Json]) -> AsyncUndo:
    """Preview an undo of this scope."""
    arguments = {f"p_{name}": value for name, value in scope.items()}
    answer = await gateway.call("backfill_preview_undo", {"p_run_id": run_id, **arguments})
    return AsyncUndo(gateway, undo_of(answer))


async def confirm_undo(
    gateway: Gateway, run_id: str, digest: str, reason: str, scope: Mapping[str, Json] | None = None
) -> UndoEffect:
    """Carry an undo out until nothing remains; one that was carried out before says so.

    In pieces of sessions, each a transaction; a piece that takes longer than the project's
    statement timeout is halved.

    scope: what the caller takes the preview's scope to be; refused where it is another.
    """
    arguments: dict[str, Json] = {"p_run_id": run_id, "p_digest": digest, "p_reason": reason}
    if scope:
        arguments["p_scope"] = dict(scope)
    sessions, first, answer = PIECE_SESSIONS, None, None
    while answer is None or answer["remaining"]:
        try:
            answer = await gateway.call(
                "backfill_confirm_undo", {**arguments, "p_sessions": sessions}
            )
        except TookTooLong:
            if sessions == 1:
                raise
            sessions //= 2
        first = first or answer
    return undone_of(run_id, digest, {**answer, "was_finished": first and first["was_finished"]})
