"""Dates: as people give them, as text for the database, and as the database answers them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import BeforeValidator

from backfill.errors import BadRequest

Day = str | date | datetime
# Other forms of ISO 8601 (20250831, 2025-W35) would be read as a moment, and the last day be lost.
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
FORMS = "give a day such as 2025-08-01, or a timestamp with an offset"
TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}")


def as_text(name: str, value: Day | None) -> str | None:
    """A day as `2025-08-01`, a moment with its offset; None stays None.

    A moment without an offset is in UTC, as the days are, whatever zone this machine is in.
    Raises BadRequest where it is no date.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        return _aware(value).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return _parsed(name, value.strip())
    raise BadRequest(f"{name} is a date, not the {type(value).__name__} {str(value)[:40]!r}", FORMS)


def _parsed(name: str, text: str) -> str:
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text).isoformat()
        moment = datetime.fromisoformat(text if TIMESTAMP.match(text) else "")
        return _aware(moment).isoformat()
    except ValueError:
        raise BadRequest(
            f"{name} is no date: {text[:40]}",
            FORMS,
        ) from None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def moment(text: str | datetime) -> datetime:
    """A timestamp as the API writes it, in a zone of the standard library's."""
    return text if isinstance(text, datetime) else datetime.fromisoformat(text)


Moment = Annotated[datetime, BeforeValidator(moment)]
