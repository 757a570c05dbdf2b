"""An undo, previewed or done: the rows that it takes back, and those in conflict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backfill.render.markdown import SESSION, Called
from backfill.results.run import Json, Moment


@dataclass(frozen=True, slots=True)
class UndoEffect:
    """What an undo would do, or did: rows by table, and the rows in conflict that are left.

    conflicts: {session_id, table, row, reason}. sessions: how many lose a row. session_ids: in a
    preview, the first hundred of these, in the order of the plan. inferred: in a preview, how many
    rows have inferred receipts. elsewhere: in a preview, writes to tables that no component names,
    see Verification. An undo leaves them. was_finished: whether it had been carried out before this
    confirmation, by `confirmed_by` at `finished_at`. called: how the target's
    rows are called. needs_approval: in a preview, whether an approver who did not ask for it has to
    confirm.
    """

    run_id: str
    digest: str
    deletes: Mapping[str, int]
    restores: Mapping[str, int]
    conflicts: tuple[Mapping[str, Json], ...]
    sessions: int = 0
    state: str = "previewed"
    confirmed_by: str | None = None
    finished_at: Moment | None = None
    was_finished: bool = False
    inferred: int = 0
    session_ids: tuple[str, ...] = ()
    called: Called = SESSION
    elsewhere: tuple[Mapping[str, Json], ...] = ()
    needs_approval: bool = False

    @property
    def is_preview(self) -> bool:
        """Whether nothing has been done yet."""
        return self.state == "previewed"

    @property
    def is_empty(self) -> bool:
        """Whether no row can be taken back."""
        return not any((*self.deletes.values(), *self.restores.values()))

    @property
    def confirming(self) -> str | None:
        """The command that carries this preview out, None if there is nothing to undo."""
        if not self.is_preview or self.is_empty:
            return None
        return f'backfill rollback {self.run_id} --confirm {self.digest} --reason "…"'

    def as_dict(self) -> dict[str, Json]:
        """The shape of `backfill rollback --json`. A preview's `next` is the command to confirm."""
        carried_out = {
            "was_finished": self.was_finished,
            "confirmed_by": self.confirmed_by,
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
        }
        preview = {"needs_approval": self.needs_approval, "next": self.confirming}
        return {
            "run_id": self.run_id,
            "state": self.state,
            "digest": self.digest,
            "called": list(self.called),
            "sessions": self.sessions,
            **({"session_ids": list(self.session_ids)} if self.is_preview else {}),
            "deletes": dict(self.deletes),
            "restores": dict(self.restores),
            "inferred": self.inferred,
            "conflicts": [dict(c) for c in self.conflicts],
            "elsewhere": [dict(written) for written in self.elsewhere],
            **(preview if self.is_preview else carried_out),
        }
