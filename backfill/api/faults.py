"""What a failed call means. Pure: codes in, meaning out."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

MESSAGE_CHARACTERS = 500
SQLSTATE_CHARACTERS = 5

FaultKind = Literal[
    "session",  # this one session's failure
    "again",  # rolled back because of concurrent work: the same call may succeed
    "unknown",  # it may have happened: look before trying again
    "slow",  # no failure yet: the API asks for fewer calls
    "refused",  # this attempt or its run may no longer write: give the session back
    "stop",  # it may hit every session: the database tries another one alone
]


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure's kind, its code (SQLSTATE, PGRST code or HTTP status) and its shortened message.

    retry_after_s: the wait that the API asked for, if it did.
    """

    kind: FaultKind
    code: str
    message: str
    retry_after_s: float | None = None


# The outcome that sql/60_apply/outcome.sql takes for a fault of a scoring call.
OUTCOMES: dict[FaultKind, str] = {
    "session": "failed",
    "again": "again",
    "unknown": "unknown",
    "slow": "slow",
    "refused": "released",
    "stop": "stop",
}


class Meaning(NamedTuple):
    """A row of the view backfill_private.faults, which says why.

    of: sqlstate, postgrest or http. starts: a code or its beginning. The longest match wins.
    kept: replaces a message that may hold contents of a row.
    """

    of: str
    starts: str
    kind: FaultKind
    kept: str | None = None


MEANINGS = (
    Meaning("sqlstate", "", "session"),
    Meaning("sqlstate", "08", "unknown"),
    Meaning("sqlstate", "53", "unknown"),
    Meaning("sqlstate", "57P", "unknown"),
    Meaning("sqlstate", "40001", "again"),
    Meaning("sqlstate", "40P01", "again"),
    Meaning("sqlstate", "55P03", "again"),
    Meaning("sqlstate", "25P02", "again"),
    Meaning("sqlstate", "25006", "stop"),
    Meaning("sqlstate", "42501", "stop"),
    Meaning("sqlstate", "42883", "stop"),
    Meaning("sqlstate", "42P01", "stop"),
    Meaning("sqlstate", "PT429", "slow"),
    Meaning("sqlstate", "OB011", "refused"),
    Meaning("sqlstate", "OB012", "refused"),
    Meaning("sqlstate", "OB018", "session"),
    Meaning("sqlstate", "OB020", "session"),
    Meaning("sqlstate", "0A", "session", "feature not supported"),
    Meaning("sqlstate", "20", "session", "case not found"),
    Meaning("sqlstate", "22", "session", "data exception"),
    Meaning("sqlstate", "22001", "session"),
    Meaning("sqlstate", "22004", "session"),
    Meaning("sqlstate", "22012", "session"),
    Meaning("sqlstate", "26", "session", "invalid SQL statement name"),
    Meaning("sqlstate", "2F", "session", "SQL routine exception"),
    Meaning("sqlstate", "34", "session", "invalid cursor name"),
    Meaning("sqlstate", "38", "session", "external routine exception"),
    Meaning("sqlstate", "39", "session", "external routine invocation exception"),
    Meaning("sqlstate", "42601", "session", "syntax error"),
    Meaning("sqlstate", "42602", "session", "invalid name"),
    Meaning("sqlstate", "54", "session", "program limit exceeded"),
    Meaning("sqlstate", "58", "session", "system error"),
    Meaning("sqlstate", "F0", "session", "configuration file error"),
    Meaning("sqlstate", "HV", "session", "foreign data wrapper error"),
    Meaning("sqlstate", "XX", "session", "internal error"),
    Meaning("postgrest", "PGRST000", "unknown"),
    Meaning("postgrest", "PGRST001", "unknown"),
    Meaning("postgrest", "PGRST002", "unknown"),
    Meaning("postgrest", "PGRST003", "unknown"),
    Meaning("postgrest", "PGRST106", "stop"),
    Meaning("postgrest", "PGRST121", "session"),
    Meaning("postgrest", "PGRST202", "stop"),
    Meaning("postgrest", "PGRST203", "stop"),
    Meaning("postgrest", "PGRST205", "stop"),
    Meaning("postgrest", "PGRST301", "stop"),
    Meaning("postgrest", "PGRST302", "stop"),
    Meaning("postgrest", "PGRST303", "stop"),
    Meaning("http", "3", "stop"),
    Meaning("http", "401", "stop"),
    Meaning("http", "403", "stop"),
    Meaning("http", "404", "stop"),
    Meaning("http", "408", "unknown"),
    Meaning("http", "425", "unknown"),
    Meaning("http", "429", "slow"),
    Meaning("http", "500", "unknown"),
    Meaning("http", "502", "unknown"),
    Meaning("http", "503", "unknown"),
    Meaning("http", "504", "unknown"),
    Meaning("http", "520", "unknown"),
    Meaning("http", "521", "unknown"),
    Meaning("http", "522", "unknown"),
    Meaning("http", "523", "unknown"),
    Meaning("http", "524", "unknown"),
    Meaning("http", "530", "unknown"),
    Meaning("http", "540", "stop"),
    Meaning("http", "544", "unknown"),
    Meaning("http", "546", "unknown"),
)
_BY_START = {(meaning.of, meaning.starts): meaning for meaning in MEANINGS}
# Statuses that apply to every call, so they win over the code: too many calls, moved.
_SAID_BY_THE_STATUS = ("429", "3")
# What the platform itself answers instead of an Edge Function, whatever code comes with a 401.
_ABSENT, _REFUSED, _FAILED = re.compile(r"function\b.{0,20}\bnot found", re.IGNORECASE), 401, 500
# With a JSON body of its own a function says these of its session.
_OF_ONE = (403, 404)
# Codes of PostgREST about what was asked for, which is always ours, and of PostgreSQL about any
# name. Code of the user's raises the latter too, about names of its own.
_ASKED_IN_VAIN = {"PGRST202", "PGRST205"}
_NAMES_NOTHING = {"42883", "42P01", "3F000"}
_OURS = re.compile(
    r"\bbackfill_private\b|\bpublic\.backfill_(?:settings|targets|runs|items|receipts|approvals"
    r"|events|transitions|run_progress|run_failures)\b"
)


def fault_of_api(
    code: str | None,
    message: str | None,
    status: int | None,
    retry_after_s: float | None = None,
) -> Fault:
    """What an error of the API means.

    code: None if a gateway answered with its own JSON. Then the HTTP status decides. An error's
    details are never kept, and not every message: they may hold a whole page, or values of the row.
    """
    known = _storable(code or str(status or "no code"))
    kind = _kind(known, status)
    if not code and kind == "session":
        # Neither a function nor PostgreSQL said it: PostgREST answers 400 with empty code and
        # message if its connection broke during a call, which may have committed.
        kind = "unknown"
    kept = _kept_message(known, _storable(message or "no message"))
    return Fault(kind, known[:20], kept, retry_after_s)


def fault_of_edge(body: object, status: int, retry_after_s: float | None = None) -> Fault:
    """What an error of an Edge Function means.

    body: what it answered, as JSON or a text. A function that passes on the database's error
    is judged as precisely as the API. A code of the function's own is about its session, and so is
    a 403 or 404 with a JSON body of its own. 500 is how a function itself fails. The platform's
    other statuses about its worker (502 to 504, 546) leave open whether it wrote.
    """
    code, message = said_in(body)
    known = _storable(code) if code else str(status)
    kind = _kind(known, status)
    if code == "":
        # The function passed on an error of PostgREST, whose connection broke during the call.
        # The call may have committed: see fault_of_api.
        kind = "slow" if kind == "slow" else "unknown"
    elif _is_told(_meaning(known)):
        pass
    elif status in _OF_ONE:
        kind = "session" if _is_of_the_function(body, message) else "stop"
    elif status == _REFUSED:
        kind = "stop"
    elif status == _FAILED and kind == "unknown":
        kind = "session"
    said = _storable(message or f"HTTP {status}")
    return Fault(kind, known[:20], _kept_message(known, said), retry_after_s)


def _is_of_the_function(body: object, message: str | None) -> bool:
    """Whether a JSON body is a deployed function's own, not the platform's or a gateway's.

    These have a text alone, or say that the function is not there.
    """
    if not isinstance(body, Mapping) or _ABSENT.search(message or ""):
        return False
    told = {name for name, value in body.items() if value is not None}
    return bool(told - {"message", "msg"})


def said_in(body: object, levels: int = 3) -> tuple[str | None, str | None]:
    """Code and message of an error's body, in any of the forms that functions answer in.

    {code, message}, {error: {code, message}}, {error: text}, {errors: [one of these]}, a text, a
    page. None for what is not there. Of a page the title. levels: how deep to look.
    """
    if isinstance(body, str):
        return None, _text_of(body)
    if isinstance(body, list) and body and levels:
        return said_in(body[0], levels - 1)
    if not isinstance(body, Mapping) or not levels:
        return None, None
    inner = next(
        (body[name] for name in _HOLDING if isinstance(body.get(name), (dict, list))), None
    )
    code, message = said_in(inner, levels - 1)
    texts = (body.get(name) for name in _SPEAKING)
    own = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    given = body.get("code")
    return given if isinstance(given, str) else code, message or own


_HOLDING = ("error", "errors", "detail", "details")
_SPEAKING = ("message", "error", "msg", "detail", "error_description", "reason", "title")


def _text_of(body: str) -> str | None:
    """The text in one line. Of a page its title: the rest may hold anything."""
    if re.search(r"<(!doctype|html|head|body|title)\b", body, re.IGNORECASE):
        title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
        body = html.unescape(title[1]) if title else ""
    return " ".join(body.split()) or None


def is_of_ours_missing(code: str, message: str) -> bool:
    """Whether an error of a call of ours says that something of our migrations is missing."""
    return code in _ASKED_IN_VAIN or (code in _NAMES_NOTHING and bool(_OURS.search(message)))


def fault_of_transport(name: str) -> Fault:
    """What a broken connection means: unknown, since the error's name tells nothing."""
    return Fault("unknown", "transport", name[:MESSAGE_CHARACTERS])


def _storable(text: str) -> str:
    """A text without NUL, which no database keeps, and half characters, which no request carries.

    JSON can hold both, and the whole batch would be refused because of them.
    """
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _kept_message(code: str, message: str) -> str:
    """A shortened message, or the meaning of its class if it may hold contents of a row."""
    meaning = _meaning(code)
    if meaning is None or meaning.kept is None:
        return message[:MESSAGE_CHARACTERS]
    return f"{meaning.kept}; the message stays in the database's log, it may hold contents"


def _kind(code: str, status: int | None) -> FaultKind:
    """What a code and a status mean together. The code decides if it is known."""
    said, answered = _meaning(code), _meaning(str(status))
    if answered is not None and answered.starts in _SAID_BY_THE_STATUS:
        return answered.kind
    if said is not None and (_is_told(said) or said == Meaning("http", code, "stop")):
        return said.kind
    if status is None or (answered is not None and answered.kind == "unknown"):
        return "unknown"
    return "session"


def _is_told(said: Meaning | None) -> bool:
    """Whether the database or PostgREST said it, not something in between."""
    return said is not None and said.of != "http"


def _meaning(code: str) -> Meaning | None:
    """The row of the longest match, or None."""
    of = _of(code)
    if of is None:
        return None
    starts = (code[:length] for length in range(len(code), -1, -1))
    return next((_BY_START[of, s] for s in starts if (of, s) in _BY_START), None)


def _of(code: str) -> str | None:
    """Whose code it is. With one of PostgreSQL, the transaction is over, at any status."""
    if len(code) == SQLSTATE_CHARACTERS:
        return "sqlstate"
    if re.fullmatch(r"PGRST[0-9]{3}", code):
        return "postgrest"
    return "http" if re.fullmatch(r"[0-9]{3}", code) else None
