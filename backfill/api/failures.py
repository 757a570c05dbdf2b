"""What a failed call of ours means for who made it: the BackfillError, with what to do next."""

from __future__ import annotations

from typing import Protocol

from backfill.api import keys
from backfill.api.faults import Fault, is_of_ours_missing
from backfill.errors import (
    BY_SQLSTATE,
    BackfillError,
    BadKey,
    CannotConnect,
    NotAllowed,
    NotInstalled,
    OutcomeUnknown,
    TakesNoWrites,
    TookTooLong,
)

TRY_AGAIN = "try again: nothing is lost"
LOOK_AT_URL = "check SUPABASE_URL"
# Of a table, a column, a function or a schema that a target declares: the check says which.
_NAMES_GONE = {"42P01", "42703", "42883", "3F000"}


class Said(Protocol):
    """What an error of the API says."""

    message: str | None
    hint: str | None


def refused(host: str, said: Said, fault: Fault) -> BackfillError:
    """The BackfillError for an error of the API. fault: what it means for a scoring call."""
    kind = BY_SQLSTATE.get(fault.code)
    if kind is not None:
        return kind(said.message or "", said.hint or "")
    if fault.code in {"401", "PGRST301", "PGRST302", "PGRST303"}:
        return BadKey(f"{host} does not accept this key", keys.WHERE)
    if is_of_ours_missing(fault.code, said.message or ""):
        return NotInstalled(
            f"the backfill migrations are not installed in {host}",
            "backfill install, apply the migrations, then backfill check",
        )
    if fault.code == "42501":
        return NotAllowed(f"not allowed: {fault.message}", "backfill check")
    if fault.code == "540":
        return CannotConnect(f"the project {host} is paused", "restore it in the dashboard")
    if fault.kind in {"unknown", "again", "slow"}:
        trouble = OutcomeUnknown(f"{host} is in trouble: {fault.code} {fault.message}", TRY_AGAIN)
        trouble.retry_after_s = fault.retry_after_s
        return trouble
    if fault.code == "57014":
        return TookTooLong(f"{host} ended a call at its time limit", TRY_AGAIN)
    if fault.code == "25006" and not said.hint:
        return TakesNoWrites(
            f"{host} takes no writes: {fault.code} {fault.message}",
            "see whether its disk is full or it is a replica, then try again",
        )
    look = "backfill check" if fault.code in _NAMES_GONE else ""
    return BackfillError(f"{fault.code}: {fault.message}", said.hint or look)


def not_reached(host: str, address: str, why: str | None, kind: str) -> CannotConnect:
    """The error for any transport error: the call may or may not have happened.

    why: there was no connection. None if there was one. kind: of the transport error.
    """
    if why is not None:
        return OutcomeUnknown(f"cannot reach {address}: {why}", f"{LOOK_AT_URL} and the network")
    return OutcomeUnknown(f"no answer from {host} ({kind})", TRY_AGAIN)


def no_answer(host: str, what: str, was_reached: bool) -> OutcomeUnknown:
    """The error for an answer that no project gives. what: came instead, in words.

    was_reached: it has answered as a project before. If not, the address may be another's.
    """
    if not was_reached:
        return OutcomeUnknown(
            f"{host} does not answer like a Supabase project", "check SUPABASE_URL"
        )
    return OutcomeUnknown(f"{host} answered with {what}, as no project does", TRY_AGAIN)
