"""The sessions of a plan, held compactly: a quarter of a million in some twenty megabytes."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Literal, overload

Phase = Literal["priority", "recent", "historical"]

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = -(2**63)  # before any moment that a datetime can be


@dataclass(frozen=True, slots=True)
class PlannedSession:
    """One session's place in a plan, and what became of it.

    error_message: why it failed, or why the target no longer selected it.
    started_at: when its last attempt was leased. settled_at: when it was done, failed or skipped.
    """

    ordinal: int
    session_id: str
    session_at: datetime
    category: str
    components: tuple[str, ...]
    phase: Phase
    batch: int
    state: str = "pending"
    attempts: int = 0
    failed_step: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    started_at: datetime | None = None
    settled_at: datetime | None = None


def in_place(sessions: Sequence[PlannedSession], ordinal: int) -> PlannedSession | None:
    """The session in this place of a plan, the first of which is 1. None where there is none."""
    return sessions[ordinal - 1] if 1 <= ordinal <= len(sessions) else None


class PlannedSessions(Sequence[PlannedSession]):
    """Sessions in the order of their plan, each made when it is read. Moments are in UTC.

    Equal to any sequence of the same sessions. Numbers, moments and ids are kept in columns. Values
    that many sessions share, such as a category or a state, are kept once.
    """

    __slots__ = (
        "_batches", "_fates", "_id_ends", "_ids", "_kinds", "_numbers", "_ordinals", "_session_ats",
        "_settled_ats", "_shared", "_started_ats",
    )  # fmt: skip

    def __init__(self, sessions: Iterable[PlannedSession] = ()) -> None:
        self._ordinals, self._batches = array("I"), array("I")
        self._ids, self._id_ends = bytearray(), array("Q", [0])
        self._session_ats, self._started_ats, self._settled_ats = (array("q") for _ in range(3))
        # Shared values, and the number of each.
        self._shared: list[tuple[Any, ...]] = []
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._kinds, self._fates = array("I"), array("I")
        self.extend(sessions)

    def extend(self, sessions: Iterable[PlannedSession]) -> None:
        """Add the next sessions, while a plan is read page by page."""
        for s in sessions:
            self._ordinals.append(s.ordinal)
            self._batches.append(s.batch)
            self._ids += s.session_id.encode()
            self._id_ends.append(len(self._ids))
            self._session_ats.append(_microseconds(s.session_at))
            self._started_ats.append(_microseconds(s.started_at))
            self._settled_ats.append(_microseconds(s.settled_at))
            self._kinds.append(self._number_of((s.category, s.components, s.phase)))
            error = (s.failed_step, s.error_code, s.error_message)
            self._fates.append(self._number_of((s.state, s.attempts, *error)))

    def _number_of(self, shared: tuple[Any, ...]) -> int:
        number = self._numbers.setdefault(shared, len(self._shared))
        if number == len(self._shared):
            self._shared.append(shared)
        return number

    def __len__(self) -> int:
        return len(self._ordinals)

    @overload
    def __getitem__(self, place: int) -> PlannedSession: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[PlannedSession, ...]: ...
    def __getitem__(self, place: int | slice) -> PlannedSession | tuple[PlannedSession, ...]:
        places = range(len(self))[place]
        return self._at(places) if isinstance(places, int) else tuple(map(self._at, places))

    def _at(self, place: int) -> PlannedSession:
        category, components, phase = self._shared[self._kinds[place]]
        state, attempts, failed_step, code, message = self._shared[self._fates[place]]
        return PlannedSession(
            ordinal=self._ordinals[place],
            session_id=self._ids[self._id_ends[place] : self._id_ends[place + 1]].decode(),
            session_at=_EPOCH + self._session_ats[place] * _MICROSECOND,
            category=category,
            components=components,
            phase=phase,
            batch=self._batches[place],
            state=state,
            attempts=attempts,
            failed_step=failed_step,
            error_code=code,
            error_message=message,
            started_at=_moment(self._started_ats[place]),
            settled_at=_moment(self._settled_ats[place]),
        )

    def kinds(self) -> Counter[tuple[str, tuple[str, ...], Phase]]:
        """How many sessions there are of each (category, components, phase), first met first."""
        return self._tallied(self._kinds)

    def states(self) -> Counter[str]:
        """How many sessions there are in each state."""
        states: Counter[str] = Counter()
        for (state, *_), count in self._tallied(self._fates).items():
            states[state] += count
        return states

    def have_begun(self) -> bool:
        """Whether any was ever leased, skipped or settled."""
        return any(fate[:2] != ("pending", 0) for fate in self._tallied(self._fates))

    def _tallied(self, numbers: array[int]) -> Counter[Any]:
        return Counter({self._shared[n]: count for n, count in Counter(numbers).items()})

    def in_state(self, state: str) -> Iterator[PlannedSession]:
        """The sessions in a state."""
        return self._where(self._fates, lambda fate: fate[0] == state)

    def in_phase(self, phase: Phase) -> Iterator[PlannedSession]:
        """The sessions of a phase."""
        return self._where(self._kinds, lambda kind: kind[2] == phase)

    def _where(
        self, numbers: array[int], is_one: Callable[[tuple[Any, ...]], bool]
    ) -> Iterator[PlannedSession]:
        found = {n for n in Counter(numbers) if is_one(self._shared[n])}
        return (self._at(place) for place, n in enumerate(numbers) if n in found)

    def batches(self) -> Iterator[tuple[int, Phase, range]]:
        """Each batch: its number, its phase, and the places of its sessions here."""
        phases = {n: self._shared[n][2] for n in Counter(self._kinds)}
        after = 0
        alike = groupby(zip(self._batches, map(phases.__getitem__, self._kinds), strict=True))
        for (number, phase), members in alike:
            places = range(after, after + sum(1 for _ in members))
            after = places.stop
            yield number, phase, places

    def ids(self, places: Iterable[int]) -> Iterator[str]:
        """The ids of the sessions in some places."""
        return (self._ids[self._id_ends[p] : self._id_ends[p + 1]].decode() for p in places)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} planned sessions>"


def _microseconds(moment: datetime | None) -> int:
    """Since 1970."""
    return _NEVER if moment is None else (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds: int) -> datetime | None:
    return None if microseconds == _NEVER else _EPOCH + microseconds * _MICROSECOND
