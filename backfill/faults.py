"""What a failed call means. Pure: codes in, meaning out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MESSAGE_CHARACTERS = 500
SQLSTATE_CHARACTERS = 5

FaultKind = Literal[
    "session",  # this one session's failure
    "again",  # rolled back by what others did at the same time: the same call may succeed
    "unknown",  # it may have happened: look before trying again
    "slow",  # the API asks for fewer calls: no failure
    "refused",  # this attempt or its run may no longer write: give the session back
    "stop",  # it will hit every session: pause the run
]


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure's kind, its code (SQLSTATE, PGRST code or HTTP status) and a message cut short.

    retry_after_s: what the API asked to wait, where it did.
    """

    kind: FaultKind
    code: str
    message: str
    retry_after_s: float | None = None


# Rolled back for sure, by a neighbour: serialization, deadlock, a lock that could not be had.
CROWDED = frozenset({"40001", "40P01", "55P03"})
# SQLSTATEs and codes of PostgREST whose prefix means: not this session's fault, and who knows.
PASSING = ("PGRST000", "PGRST001", "PGRST002", "PGRST003", "08", "53", "57P")
# The same as an HTTP status, where no better code came with it.
PASSING_STATUSES = frozenset({408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 544, 546})
TOO_MANY = 429
ABSENT, FAILED = 404, 500
MOVED, BAD_REQUEST = 300, 400
STALE = frozenset({"OB011", "OB012"})
# Codes that will hit every session alike.
STOPPING = frozenset(
    {
        "401", "403", "540", "PGRST301", "PGRST302", "PGRST303", "42501", "PGRST106",
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


def fault_of_api(
    code: str | None,
    message: str | None,
    status: int | None,
    retry_after_s: float | None = None,
) -> Fault:
    """What an error of the API means.

    code: None where a gateway answered in JSON of its own; then the HTTP status tells. An error's
    details are never kept, nor every message: they may hold a whole page, or values of the row.
    """
    known = _storable(code or str(status or "no code"))
    kind = _kind(known, status)
    if not code and kind == "session":
        # Neither a function nor PostgreSQL said it: PostgREST answers 400 with empty code and
        # message where its connection broke under a call, which may have committed.
        kind = "unknown"
    kept = _kept_message(known, _storable(message or "no message"))
    return Fault(kind, known[:20], kept, retry_after_s)


def fault_of_edge(
    code: object, message: object, status: int, retry_after_s: float | None = None
) -> Fault:
    """What an error of an Edge Function means.

    code, message: of its JSON, where it is JSON. One that answers with the database's error as it
    got it is told as exactly as the API. 500 is a function's own way to fail; what else the
    platform says about its worker (502 to 504, 546) leaves open whether it wrote.
    """
    known = _storable(code) if isinstance(code, str) and code else str(status)
    kind = _kind(known, status)
    if code == "":
        # An error of PostgREST handed on, as it is where its connection broke under the function's
        # call, which may have committed: see fault_of_api.
        kind = "unknown" if kind == "session" else kind
    elif status == ABSENT:
        kind = "stop" if known == "NOT_FOUND" else "session"
    elif status == FAILED and kind == "unknown" and not known.startswith(PASSING):
        kind = "session"
    said = _storable(message) if isinstance(message, str) and message else f"HTTP {status}"
    return Fault(kind, known[:20], _kept_message(known, said), retry_after_s)


def fault_of_transport(name: str) -> Fault:
    """What a broken connection means: nothing that can be told from its name."""
    return Fault("unknown", "transport", name[:MESSAGE_CHARACTERS])


def _storable(text: str) -> str:
    """A text without NUL, which no database keeps, and half characters, which no request carries.

    JSON can hold both, and the whole batch would be refused for them.
    """
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _kept_message(code: str, message: str) -> str:
    """A message cut short; where it may hold contents, what its class means."""
    meaning = WITHHELD.get(code[:2]) if len(code) == SQLSTATE_CHARACTERS else None
    if meaning is None or code == "42501":
        return message[:MESSAGE_CHARACTERS]
    return f"{meaning}; the message stays in the database's log, it may hold contents"


def _kind(code: str, status: int | None) -> FaultKind:
    if status == TOO_MANY:
        return "slow"
    if code in CROWDED:
        return "again"
    if code in STALE:
        return "refused"
    if code in STOPPING or (status is not None and MOVED <= status < BAD_REQUEST):
        return "stop"
    if code.startswith(PASSING) or (not _is_sqlstate(code) and _is_passing(status)):
        return "unknown"
    return "session"


def _is_sqlstate(code: str) -> bool:
    """Whether PostgreSQL itself spoke: then the transaction is over, whatever the HTTP status."""
    return len(code) == SQLSTATE_CHARACTERS


def _is_passing(status: int | None) -> bool:
    return status is None or status in PASSING_STATUSES
