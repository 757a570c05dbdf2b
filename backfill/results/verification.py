"""A verification: criteria, verdict, and buckets that stay small with many rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Literal, overload

from backfill.results.run import Json, NextStep

Verdict = Literal["pass", "partial", "fail"]


@dataclass(frozen=True, slots=True)
class Criterion:
    """A number that was expected, and the number that was counted."""

    name: str
    expected: int
    actual: int
    status: Literal["pass", "fail"]
    inserted: int | None = None
    updated: int | None = None

    def as_dict(self) -> dict[str, Json]:
        """{name, expected, actual, status}, and inserted and updated if rows are counted."""
        return {k: v for k, v in asdict(self).items() if v is not None}


@dataclass(frozen=True, slots=True)
class Answered:
    """A critical event that somebody has looked at. It no longer fails the verdict."""

    what: str
    by: str
    at: datetime
    because: str

    def as_dict(self) -> dict[str, Json]:
        """{what, by, at, because}."""
        return {**asdict(self), "at": self.at.isoformat()}

    def __str__(self) -> str:
        return f"{self.what}, by {self.by} at {self.at:%Y-%m-%d %H:%M} UTC: {self.because}"


@dataclass(frozen=True, slots=True)
class Verification:
    """The rows in the tables compared with the plan.

    buckets: as_planned, missing, unplanned, extra, filled_elsewhere, changed_since,
    no_longer_selected. Each is a sequence of {session_id, component}, made as it is read. unplanned
    and extra also name the row: its key, and of unplanned the operation, the receipt and why it
    was not planned. new_candidates: sessions in the
    plan's range that lack something now and are not in the plan, newest first, at most 1,000. They
    do not affect the verdict. inferred: rows with a receipt that was inferred when the session was
    settled.
    answered: critical events that somebody has looked at. They are no longer among the critical.
    unanswered: how many `backfill resume RUN --because …` would answer.
    elsewhere: what the run was seen to write, or somebody else at that time, to tables that no
    component names: {table, inserted, updated, deleted, seen}. seen: rehearsal, or first sessions.
    without_headers: Edge Functions that do not hand our headers on, though declared so.
    left_behind: rows that an undo could not take back, {session_id, table, row, reason}, 1,000 at
    most. next_step: what helps the run now.
    """

    run_id: str
    state: str
    verdict: Verdict
    criteria: tuple[Criterion, ...]
    buckets: Mapping[str, Sequence[Mapping[str, Json]]]
    critical: tuple[str, ...]
    audit_count: int
    audit_head: str
    new_candidates: tuple[str, ...] = ()
    new_candidates_total: int = 0
    inferred: int = 0
    answered: tuple[Answered, ...] = ()
    unanswered: int = 0
    elsewhere: tuple[Mapping[str, Json], ...] = ()
    without_headers: str | None = None
    next_step: NextStep | None = None
    left_behind: tuple[Mapping[str, object], ...] = ()

    def as_dict(self) -> dict[str, Json]:
        """The shape of `backfill verify --json`."""
        return {
            "run_id": self.run_id,
            "state": self.state,
            "verdict": self.verdict,
            "criteria": [c.as_dict() for c in self.criteria],
            "buckets": {name: list(rows) for name, rows in self.buckets.items()},
            "critical": list(self.critical),
            "audit": {"count": self.audit_count, "head": self.audit_head},
            "new_candidates": list(self.new_candidates),
            "new_candidates_total": self.new_candidates_total,
            "inferred": self.inferred,
            "answered": [a.as_dict() for a in self.answered],
            "unanswered": self.unanswered,
            "elsewhere": [dict(written) for written in self.elsewhere],
            "without_headers": self.without_headers,
            "left_behind": [dict(row) for row in self.left_behind],
            "next": self.next_step.as_dict() if self.next_step else None,
        }


def elsewhere_in_words(elsewhere: Iterable[Mapping[str, Json]]) -> str:
    """The tables and what was written there: public.days (3 inserted). Empty if there is none."""
    return ", ".join(
        f"{written['table']} ("
        + ", ".join(
            f"{written[kind]} {kind}"
            for kind in ("inserted", "updated", "deleted")
            if written[kind]
        )
        + ")"
        for written in elsewhere
    )


Row = Mapping[str, Any]
CHUNK_SESSIONS = 1_000
BETWEEN = "\0"  # PostgreSQL's text cannot hold it


def packed(ids: Sequence[str]) -> list[str]:
    """Ids as texts of a thousand each."""
    starts = range(0, len(ids), CHUNK_SESSIONS)
    return [BETWEEN.join(ids[start : start + CHUNK_SESSIONS]) for start in starts]


class Bucket(Sequence[Row]):
    """Rows {session_id, component}, made when they are read.

    An id takes its characters and one more.
    """

    def __init__(self, sessions: Mapping[str, Iterable[str]]) -> None:
        """sessions: component -> ids as `packed` returns them."""
        self._pieces = [(component, ids) for component, some in sessions.items() for ids in some]
        self._ends = list(accumulate(ids.count(BETWEEN) + 1 for _, ids in self._pieces))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Row]:
        for component, ids in self._pieces:
            for session_id in ids.split(BETWEEN):
                yield {"session_id": session_id, "component": component}

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        at = place + len(self) if place < 0 else place
        if not 0 <= at < len(self):
            raise IndexError(place)
        number = bisect_right(self._ends, at)
        component, ids = self._pieces[number]
        begins = self._ends[number - 1] if number else 0
        return {"session_id": ids.split(BETWEEN)[at - begins], "component": component}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        )

    def __repr__(self) -> str:
        return f"Bucket of {len(self)}"
