"""The watch: whether each target keeps its service level, as a look found it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Literal

from backfill.results.run import Json

WatchState = Literal["ok", "breached", "unknown"]


@dataclass(frozen=True, slots=True)
class TargetWatch:
    """A target and its service level.

    status: unknown if no level is declared, or if a look says nothing: why has the reason.
    coverage: share of the judged sessions that lack nothing, 0 to 1, rounded down. None without
    any. Judged are sessions that can be scored and whose date is at least within_s ago: those of
    all dates, or of the last 30 days if these do worse. If over_s is declared, only those whose
    date is no longer ago. judged_since: their first day, None for all dates. short_by: how many
    more must have their rows to reach min_coverage. oldest_missing_at: the date of the oldest
    session that lacks something.
    """

    target: str
    status: WatchState
    coverage: float | None
    min_coverage: float | None
    within_s: int | None
    oldest_missing_at: datetime | None
    looked_at: datetime | None
    over_s: int | None = None
    judged_since: date | None = None
    wanted: int | None = None
    missing: int | None = None
    short_by: int | None = None
    alert_id: int | None = None
    breached_since: datetime | None = None
    why: str | None = None

    def as_dict(self) -> dict[str, Json]:
        """{target, status, coverage, min_coverage, within_s, oldest_missing_at, looked_at, …}."""
        return {
            "target": self.target,
            "status": self.status,
            "coverage": self.coverage,
            "min_coverage": self.min_coverage,
            "within_s": self.within_s,
            "oldest_missing_at": _iso(self.oldest_missing_at),
            "looked_at": _iso(self.looked_at),
            "over_s": self.over_s,
            "judged_since": self.judged_since and self.judged_since.isoformat(),
            "wanted": self.wanted,
            "missing": self.missing,
            "short_by": self.short_by,
            "alert_id": self.alert_id,
            "breached_since": _iso(self.breached_since),
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Watch:
    """What a look found, by target."""

    targets: tuple[TargetWatch, ...]

    @property
    def is_breached(self) -> bool:
        """Whether any target breaches its level."""
        return any(t.status == "breached" for t in self.targets)

    def as_dict(self) -> dict[str, Json]:
        """{targets: [TargetWatch]}."""
        return {"targets": [t.as_dict() for t in self.targets]}


@dataclass(frozen=True, slots=True)
class DayTrend:
    """A UTC day of sessions, as a look last counted it: how many are wanted, there and missing."""

    day: date
    wanted: int
    there: int
    missing: int

    @property
    def coverage(self) -> float:
        """Share of the judged sessions that lack nothing, 0 to 1."""
        return self.there / self.wanted

    def as_dict(self) -> dict[str, Json]:
        """{day, wanted, there, missing}."""
        return {**asdict(self), "day": self.day.isoformat()}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
