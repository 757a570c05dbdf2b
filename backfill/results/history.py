"""Which migrations a project has applied, and which targets it has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class History:
    """What a project says about migrations that were asked for.

    applied: those that it records as applied, by the timestamps of their names. None if it keeps no
    record, as when migrations are applied without the Supabase CLI. targets: those installed.
    """

    applied: frozenset[str] | None
    targets: frozenset[str]
