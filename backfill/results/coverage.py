"""What is missing, by UTC day, and the share that is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backfill.render.markdown import SESSION, Called
from backfill.results.run import Json


@dataclass(frozen=True, slots=True)
class DayCoverage:
    """One UTC day. None: the sessions without a date, which no range of days leaves out.

    day: in ISO 8601, or as PostgreSQL writes one that no plan can take, such as infinity. None for
    sessions without a date. completed: selected sessions. complete: those that lack nothing that is
    wanted of them. missing: sessions that can be scored, by the component that they lack.
    missing_all: sessions that can be scored and lack every component. excluded: sessions that lack
    something and cannot be scored. not_wanted: other sessions, by the component that they lack and
    that is not wanted of them. coverage: complete sessions as a share of those that can be scored,
    0 to 1. None if there are none.
    """

    day: str | None
    completed: int
    complete: int
    missing: Mapping[str, int]
    missing_all: int
    excluded: int
    coverage: float | None
    not_wanted: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """{day, completed, complete, missing_<component>…, missing_both, not_wanted_…, …}."""
        return {
            "day": self.day,
            "completed": self.completed,
            "complete": self.complete,
            **_flat(self.missing, self.missing_all),
            **{f"not_wanted_{name}": n for name, n in self.not_wanted.items()},
            "excluded": self.excluded,
            "coverage": self.coverage,
        }


@dataclass(frozen=True, slots=True)
class Missing:
    """What is missing, by day.

    components: the target's, in the order of scoring. undated: sessions that lack something and
    whose date no plan can take: none, infinite, or of a year not in 1 to 9999. date: its column.
    called: how the target's rows are called, one and several.
    reasons: why a component may not be wanted of a session, by component. notes: what somebody
    should know of the declaration, such as a value that no row has.
    """

    days: tuple[DayCoverage, ...]
    components: tuple[str, ...] = ()
    undated: int = 0
    date: str = ""
    called: Called = SESSION
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def scorable(self) -> int:
        """Selected sessions of all days that have what scoring needs."""
        return sum(d.completed - d.excluded for d in self.days)

    @property
    def coverage(self) -> float | None:
        """Share of scorable sessions that lack nothing, 0 to 1. None if there are none."""
        return sum(d.complete for d in self.days) / self.scorable if self.scorable else None

    @property
    def missing(self) -> dict[str, int]:
        """Sessions that can be scored, by the component that they lack."""
        return {name: sum(d.missing[name] for d in self.days) for name in self.components}

    @property
    def missing_all(self) -> int:
        """Sessions that can be scored and lack every component."""
        return sum(d.missing_all for d in self.days)

    @property
    def not_wanted(self) -> tuple[Mapping[str, Json], ...]:
        """[{component, sessions, reason}]: sessions that lack a component not wanted of them."""
        counts = {name: sum(d.not_wanted.get(name, 0) for d in self.days) for name in self.reasons}
        return tuple(
            {"component": name, "sessions": n, "reason": self.reasons[name]}
            for name, n in counts.items()
            if n
        )

    def as_dict(self) -> dict[str, Any]:
        """{called, coverage, completed, missing_<component>…, missing_both, not_wanted, days}."""
        return {
            "called": list(self.called),
            "coverage": None if self.coverage is None else round(self.coverage, 4),
            "completed": sum(d.completed for d in self.days),
            **_flat(self.missing, self.missing_all),
            "not_wanted": list(self.not_wanted),
            "excluded": sum(d.excluded for d in self.days),
            "undated": self.undated,
            "notes": list(self.notes),
            "days": [d.as_dict() for d in self.days],
        }


def all_missing_name(components: int) -> str:
    """The key of the sessions that lack every one of this many components."""
    return "missing_both" if components == 2 else "missing_all"


def _flat(missing: Mapping[str, int], missing_all: int) -> dict[str, int]:
    by_component = {f"missing_{name}": n for name, n in missing.items()}
    return by_component | {all_missing_name(len(missing)): missing_all}
