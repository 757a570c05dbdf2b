"""A bucket of a verification: a row a session and component, kept small however many there are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, overload

Row = Mapping[str, Any]
CHUNK_SESSIONS = 1_000
BETWEEN = "\0"  # PostgreSQL's text cannot hold it


def packed(ids: Sequence[str]) -> list[str]:
    """Ids as text, a thousand in one piece."""
    starts = range(0, len(ids), CHUNK_SESSIONS)
    return [BETWEEN.join(ids[start : start + CHUNK_SESSIONS]) for start in starts]


class Bucket(Sequence[Row]):
    """Rows {session_id, component}, made when they are asked for.

    An id takes its characters and one more.
    """

    def __init__(self, sessions: Mapping[str, Iterable[str]]) -> None:
        """sessions: by component, as `packed` has them."""
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
