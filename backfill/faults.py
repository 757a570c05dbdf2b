"""What a failed call means. Pure: codes in, meaning out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MESSAGE_CHARACTERS = 500

FaultKind = Literal[
    "session",  # this one session's failure
    "unknown",  # it may have happened: look before trying again
    "stop",  # it will hit every session: pause the run
]


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure's kind, its code (SQLSTATE, PGRST code or HTTP status) and a message cut short."""

    kind: FaultKind
    code: str
    message: str


# Codes whose prefix means: not this session's fault, look and try again later.
PASSING = (
    "PGRST000", "PGRST001", "PGRST002", "PGRST003",
    "08", "53", "40001", "40P01", "55P03", "57P",
    "408", "425", "429", "500", "502", "503", "504", "520", "521", "522", "523", "524", "544", "546",
)  # fmt: skip
# Codes that will hit every session alike.
STOPPING = frozenset(
    {
        "401", "403", "PGRST301", "PGRST302", "PGRST303", "42501", "PGRST106",
        "PGRST202", "PGRST203", "PGRST205", "42883", "42P01", "25006",
    }
)  # fmt: skip


def fault_of_api(code: str | None, message: str | None, status: int | None) -> Fault:
    """What an error of the API means.

    code: None where a gateway answered in JSON of its own; then the HTTP status tells. An error's
    details are never kept: they may hold a whole page, or values of the row.
    """
    known = code or str(status or "no code")
    return Fault(_kind(known), known[:20], (message or "no message")[:MESSAGE_CHARACTERS])


def fault_of_transport(name: str) -> Fault:
    """What a broken connection means: nothing that can be told from its name."""
    return Fault("unknown", "transport", name[:MESSAGE_CHARACTERS])


def _kind(code: str) -> FaultKind:
    if code in STOPPING:
        return "stop"
    if code == "no code" or code.startswith(PASSING):
        return "unknown"
    return "session"
