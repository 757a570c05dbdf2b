"""A mark of a check or a plan: one thing that was examined, and its status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backfill.results.run import Json

MarkStatus = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One mark: what was examined, its status, what was seen, what to do next."""

    name: str
    status: MarkStatus
    detail: str
    next_step: str = ""

    def as_dict(self) -> dict[str, Json]:
        """{name, status, detail} and next if there is something to do."""
        shown = {"name": self.name, "status": self.status, "detail": self.detail}
        return {**shown, "next": self.next_step} if self.next_step else shown
