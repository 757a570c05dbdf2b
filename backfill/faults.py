"""What a failed call means. Pure: codes in, meaning out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MESSAGE_CHARACTERS = 500
SQLSTATE_CHARACTERS = 5

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
    "408", "425", "429", "500", "502", "503", "504", "520", "521", "522", "523", "524", "544",
    "546",
)  # fmt: skip
# Codes that will hit every session alike.
STOPPING = frozenset(
    {
        "401", "403", "PGRST301", "PGRST302", "PGRST303", "42501", "PGRST106",
        "PGRST202", "PGRST203", "PGRST205", "42883", "42P01", "25006",
    }
)  # fmt: skip
# Classes of PostgreSQL whose messages hold values of a row, or pieces of SQL made of them: what the
# class means stands for the message. 42501 names objects alone. backfill_private.kept_message has
# the same table.
WITHHELD = {
    "0A": "feature not supported",
    "20": "case not found",
    "22": "data exception",
    "26": "invalid SQL statement name",
    "2F": "SQL routine exception",
    "34": "invalid cursor name",
    "38": "external routine exception",
    "39": "external routine invocation exception",
    "3D": "invalid catalog name",
    "3F": "invalid schema name",
    "42": "syntax error or unknown name",
    "54": "program limit exceeded",
    "58": "system error",
    "F0": "configuration file error",
    "HV": "foreign data wrapper error",
    "XX": "internal error",
}


def fault_of_api(code: str | None, message: str | None, status: int | None) -> Fault:
    """What an error of the API means.

    code: None where a gateway answered in JSON of its own; then the HTTP status tells. An error's
    details are never kept, nor every message: they may hold a whole page, or values of the row.
    """
    known = code or str(status or "no code")
    return Fault(_kind(known), known[:20], _kept_message(known, message or "no message"))


def fault_of_transport(name: str) -> Fault:
    """What a broken connection means: nothing that can be told from its name."""
    return Fault("unknown", "transport", name[:MESSAGE_CHARACTERS])


def _kept_message(code: str, message: str) -> str:
    """A message cut short; where it may hold contents, what its class means."""
    meaning = WITHHELD.get(code[:2]) if len(code) == SQLSTATE_CHARACTERS else None
    if meaning is None or code == "42501":
        return message[:MESSAGE_CHARACTERS]
    return f"{meaning}; the message stays in the database's log, it may hold contents"


def _kind(code: str) -> FaultKind:
    if code in STOPPING:
        return "stop"
    if code == "no code" or code.startswith(PASSING):
        return "unknown"
    return "session"
