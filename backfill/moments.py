"""Moments as the API writes them, read into Python."""

from __future__ import annotations

import re
from datetime import UTC, datetime

# What PostgreSQL writes beside the years 1 to 9999.
BEYOND = re.compile(r"(?P<sign>-)?infinity|\d{5,6}-\d\d-\d\d\S*|\d{4,5}-\d\d-\d\d\S*(?P<era> BC)")
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def moment(text: str | datetime) -> datetime:
    """A timestamp of the API, in UTC whatever the time zone of its session is.

    The database knows moments that Python does not: infinity, and years outside 1 to 9999. They
    are read as the first or the last moment in Python.
    """
    try:
        given = text if isinstance(text, datetime) else datetime.fromisoformat(text)
        return given.astimezone(UTC)
    except (ValueError, OverflowError):
        if found := BEYOND.fullmatch(str(text)):
            is_early = found["sign"] or found["era"]
            return FIRST if is_early else LAST
        raise
