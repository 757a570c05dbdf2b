"""What is missing, by UTC day, and the share that is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DayCoverage:
    """One UTC day: completed sessions, how many lack something, how many cannot be scored.

    coverage: share of those that can be scored, 0 to 1; None where none can.
    """

    day: str
    completed: int
    complete: int
    missing_profile: int
    missing_fc_scores: int
    missing_both: int
    excluded: int
    coverage: float | None


@dataclass(frozen=True, slots=True)
class Missing:
    """What is missing, by day."""

    days: tuple[DayCoverage, ...]

    @property
    def scorable(self) -> int:
        """Completed sessions of all days that have what scoring needs."""
        return sum(d.completed - d.excluded for d in self.days)

    @property
    def coverage(self) -> float | None:
        """Share of scorable sessions that lack nothing, 0 to 1; None where there are none."""
        return sum(d.complete for d in self.days) / self.scorable if self.scorable else None

    def as_dict(self) -> dict[str, Any]:
        """{coverage, completed, excluded, days, missing_profile, …_fc_scores, …_both}."""
        return {
            "coverage": None if self.coverage is None else round(self.coverage, 4),
            "completed": sum(d.completed for d in self.days),
            "missing_profile": sum(d.missing_profile for d in self.days),
            "missing_fc_scores": sum(d.missing_fc_scores for d in self.days),
            "missing_both": sum(d.missing_both for d in self.days),
            "excluded": sum(d.excluded for d in self.days),
            "days": [asdict(d) for d in self.days],
        }
