"""A heal: how far the loop of watch, plan, approval, apply and verify came."""

from __future__ import annotations

from dataclasses import dataclass

from backfill.results.run import Json
from backfill.results.verification import Verdict


@dataclass(frozen=True, slots=True)
class Healed:
    """What one heal came to.

    state: empty if nothing is missing, else that of the run. standing: the id of the standing
    approval that approved the run. verdict: what verify said, None before the run is completed.
    reason: why it halted, next_step: what helps. failed: sessions that failed. is_healed: nothing
    is missing, or the run is completed and verified.
    """

    target: str
    state: str
    run_id: str | None = None
    standing: str | None = None
    verdict: Verdict | None = None
    failed: int = 0
    reason: str | None = None
    next_step: str | None = None
    logs_failed: str | None = None

    @property
    def is_halted(self) -> bool:
        """Whether it waits: for a person, for hours, for a pause to end."""
        return self.verdict is None and self.state != "empty"

    @property
    def is_healed(self) -> bool:
        """Whether nothing is missing, or everything planned is there."""
        return self.state == "empty" or self.verdict == "pass"

    def as_dict(self) -> dict[str, Json]:
        """{state, run_id, standing, verdict, target, failed, reason, next, logs_failed}."""
        return {
            "state": self.state,
            "run_id": self.run_id,
            "standing": self.standing,
            "verdict": self.verdict,
            "target": self.target,
            "failed": self.failed,
            "reason": self.reason,
            "next": self.next_step,
            "logs_failed": self.logs_failed,
        }
