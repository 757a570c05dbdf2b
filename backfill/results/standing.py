"""A standing approval: a rule by which runs are approved without a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from backfill.results.run import Json, Moment

StandingState = Literal["proposed", "approved", "ended", "revoked"]


@dataclass(frozen=True, slots=True)
class StandingApproval:
    """A rule, where it stands, and how much it was used.

    why: why it is not in force now, None if it is. until: the first moment at which it no longer
    holds. max_sessions, max_calls: of one run. max_per_day: sessions of the target per UTC day,
    over all its standing approvals. throttle: the highest of a run. None of these: no bound.
    hours, weekdays: UTC, such as 01-05 and mon,tue, None for any. marks: that must be ok.
    replace: rows may be replaced. runs, sessions: that it has approved. today: sessions of the
    target that any has approved on this UTC day. overlaps: ids of others of the target. Of those in
    force the narrowest counts.
    """

    standing_id: str
    state: StandingState
    why: str | None
    digest: str
    target: str
    environment: str | None
    until: Moment
    max_sessions: int
    max_per_day: int | None
    max_calls: int | None
    throttle: int | None
    hours: str | None
    weekdays: str | None
    marks: tuple[str, ...]
    replace: bool
    proposed_via: str
    proposed_at: Moment
    approved_by: str | None
    approved_via: str | None
    approved_at: Moment | None
    note: str | None
    revoked_by: str | None
    revoked_at: Moment | None
    revoked_reason: str | None
    runs: int
    sessions: int
    today: int
    overlaps: tuple[str, ...]

    @property
    def is_in_force(self) -> bool:
        """Whether it may approve a run at this moment."""
        return self.why is None

    @property
    def approval_sql(self) -> str:
        """The line for the SQL editor. The database refuses it until `your name` is replaced."""
        return (
            f"select public.backfill_approve('{self.standing_id}', '{self.digest}', 'your name');"
        )

    def as_dict(self) -> dict[str, Json]:
        """The fields by name. Times are in ISO 8601."""
        times = ("until", "proposed_at", "approved_at", "revoked_at")
        told: dict[str, Json] = asdict(self)
        told |= {name: told[name].isoformat() for name in times if told[name]}
        return told | {"marks": list(self.marks), "overlaps": list(self.overlaps)}
