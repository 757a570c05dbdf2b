"""Dates as people give them, as text for the database: UTC days, or timestamps as they are."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from backfill.errors import BadRequest

Day = str | date | datetime
# Other forms of ISO 8601 (20250831, 2025-W35) would be read as a moment, and the last day be lost.
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}")


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
    return _parsed(name, str(value).strip())


def _parsed(name: str, text: str) -> str:
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text).isoformat()
        moment = datetime.fromisoformat(text if TIMESTAMP.match(text) else "")
        return _aware(moment).isoformat()
    except ValueError:
        raise BadRequest(
            f"{name} is no date: {text[:40]}",
            "give a day such as 2025-08-01, or a timestamp with an offset",
        ) from None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
