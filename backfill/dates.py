"""Dates as people give them, to text that the database reads: whole UTC days, or timestamps as they are."""

from __future__ import annotations

from datetime import UTC, date, datetime

from backfill.errors import BadRequest

Day = str | date | datetime


def as_text(name: str, value: Day | None) -> str | None:
    """A day as `2025-08-01`, a timestamp with its offset (UTC where it has none); None stays None.

    Raises BadRequest where the text is no date.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        return _aware(value).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return _parsed(name, value.strip())


def _parsed(name: str, text: str) -> str:
    try:
        if len(text) == len("2025-08-01"):
            return date.fromisoformat(text).isoformat()
        return _aware(datetime.fromisoformat(text)).isoformat()
    except ValueError:
        raise BadRequest(
            f"{name} is no date: {text[:40]}",
            "give a day such as 2025-08-01, or a timestamp with an offset",
        ) from None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
