"""The throttle's oracle: starts, and the fullest window of 60 s among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

MINUTE = timedelta(seconds=60)


@dataclass(frozen=True)
class Start:
    """A number of sessions leased at one moment."""

    at: datetime
    sessions: int


def most_in_a_minute(starts: Sequence[Start]) -> int:
    """The most sessions in any half-open window of 60 s, with either end open.

    The fullest [t, t+60) begins at a start, the fullest (t, t+60] ends at one.
    """
    forward = [sum(s.sessions for s in starts if b.at <= s.at < b.at + MINUTE) for b in starts]
    backward = [sum(s.sessions for s in starts if b.at - MINUTE < s.at <= b.at) for b in starts]
    return max([*forward, *backward], default=0)


def closest_batches(starts: Sequence[Start]) -> timedelta:
    """The shortest time between two batches, a minute if there are not two."""
    moments = sorted(s.at for s in starts)
    return min((after - before for before, after in pairwise(moments)), default=MINUTE)
