"""What a webhook is sent: the body, the sentence in it, the headers that sign it. Pure.

No contents and no keys: of an event's details only plain values go out, none that names a session,
and no list. The signature is HMAC-SHA256 over `<timestamp>.<body>`.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from backfill.results.event import Event
    from backfill.results.run import Json

Form = Literal["slack", "json"]

ID, TIMESTAMP, SIGNATURE = "X-Backfill-Id", "X-Backfill-Timestamp", "X-Backfill-Signature"
TEST = "test"
LONGEST_CHARS = 500
# What a webhook hears unless it is asked for others. No event of a single session.
KINDS = frozenset(
    {
        "awaiting_approval", "run_paused", "run_completed", "run_cancelled", "run_expired",
        "coverage_breached", "coverage_restored", "critical",
    }
)  # fmt: skip
_SAID = {
    "awaiting_approval": "awaits approval",
    "run_paused": "is paused",
    "run_completed": "is completed",
    "run_cancelled": "is cancelled",
    "run_expired": "is over, its approval ran out",
    "critical": "met what somebody has to look at",
    "coverage_breached": "is below its service level",
    "coverage_restored": "is within its service level again",
    TEST: "this is a test, nothing has happened",
}
_NAMES_SESSIONS = frozenset({"session_id", "claim", "error"})
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def body_of(event: Event, form: Form) -> bytes:
    """What is sent of an event.

    slack: {text}. json: {text, kind, run_id, at, details}.
    """
    text = text_of(event)
    told: dict[str, Json] = {"text": text.translate(_ESCAPES) if form == "slack" else text}
    if form == "json":
        told |= {"kind": event.kind, "run_id": event.run_id, "at": event.at.isoformat()}
        told["details"] = kept(event.details)
    return json.dumps(told).encode()


def text_of(event: Event) -> str:
    """A sentence, why, and the line that approves, each on its own line."""
    details = kept(event.details)
    what = f"run {event.run_id}" if event.run_id else str(details.get("target") or "")
    said = _SAID.get(event.kind, event.kind.replace("_", " "))
    sentence = f"backfill: {what} {said}" if what else f"backfill: {said}"
    lines = [sentence, _level(details), details.get("reason"), details.get("approval_sql")]
    return "\n".join(str(line) for line in lines if line)


def _level(details: Mapping[str, Json]) -> str:
    """How a target's coverage stands against its service level. Empty for any other event."""
    found, wanted = details.get("coverage"), details.get("min_coverage")
    if found is None or wanted is None:
        return ""
    return f"coverage {found:.2%}, at least {wanted:.2%} wanted, {details.get('missing')} missing"


def kept(details: Mapping[str, Json]) -> dict[str, Json]:
    """The details that go out: plain values that name no session, texts cut to 500 characters."""
    plain = {
        name: value[:LONGEST_CHARS] if isinstance(value, str) else value
        for name, value in details.items()
        if value is None or isinstance(value, str | int | float)
    }
    return {name: value for name, value in plain.items() if name not in _NAMES_SESSIONS}


def headers_of(body: bytes, message_id: str, secret: str | None, now_s: int) -> dict[str, str]:
    """The headers of a try. Each message keeps its id, each try has its own timestamp."""
    headers = {"Content-Type": "application/json", "User-Agent": "supabase-backfill"}
    headers |= {ID: message_id, TIMESTAMP: str(now_s)}
    if secret:
        headers[SIGNATURE] = f"sha256={signature_of(body, secret, now_s)}"
    return headers


def signature_of(body: bytes, secret: str, now_s: int) -> str:
    """HMAC-SHA256 over `<timestamp>.<body>`, in hex."""
    return hmac.new(secret.encode(), f"{now_s}.".encode() + body, "sha256").hexdigest()
