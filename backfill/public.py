"""Every public name of the package, from wherever it lives. `backfill` hands them on."""

from __future__ import annotations

import os

from backfill.api import keys
from backfill.api.gateway import Gateway
from backfill.api.url import SupabaseClient, address_of
from backfill.blocking import Backfill, Undo
from backfill.cli.exit_codes import ExitCode
from backfill.client import AsyncBackfill
from backfill.errors import (
    ApprovalExpired,
    ApprovalNeeded,
    BackfillError,
    BadKey,
    BadRequest,
    Busy,
    CannotConnect,
    DigestMismatch,
    ForeignWrite,
    IllegalMove,
    MissingReceipt,
    NoEffect,
    NotAllowed,
    NotAnApprover,
    NotInstalled,
    OutcomeUnknown,
    OutOfOrder,
    Paused,
    PlanChanged,
    Refused,
    StaleFence,
    TakesNoWrites,
    ThrottleTaken,
    TookTooLong,
    UndoChanged,
    UnknownRun,
    UnknownSession,
    UsageError,
    WriteRefused,
    WrongEnvironment,
    WrongServer,
)
from backfill.notify import Webhook
from backfill.results.check import Check
from backfill.results.coverage import DayCoverage, Missing
from backfill.results.event import Event, EventKind, OnEvent, ignore
from backfill.results.heal import Healed
from backfill.results.plan import (
    Approval,
    Batch,
    Change,
    Effect,
    Freshness,
    Plan,
    Risk,
)
from backfill.results.rehearsal import Rehearsal, RehearsedSession
from backfill.results.run import FailedSession, NextStep, Outcome, RunSummary, Status
from backfill.results.sessions import PlannedSession
from backfill.results.standing import StandingApproval
from backfill.results.target import FileFault, InstalledTarget, TargetCheck, TargetDraft
from backfill.results.undo import UndoEffect
from backfill.results.verification import Answered, Criterion, Verification
from backfill.results.watch import DayTrend, TargetWatch, Watch
from backfill.run.clock import Clock
from backfill.run.undo import AsyncUndo


def connect(
    url: str | None = None,
    key: str | None = None,
    *,
    client: SupabaseClient | None = None,
    clock: Clock | None = None,
    call_timeout_s: float | None = None,
    on_event: OnEvent = ignore,
) -> Backfill:
    """Connect to a project, for blocking code.

    url, key: by default SUPABASE_URL, and SUPABASE_SECRET_KEY or SUPABASE_SERVICE_ROLE_KEY.
    client: a Supabase client to take url and key from. It is neither used nor changed.
    call_timeout_s: the longest a call may take, 70 s by default, 410 s for an Edge Function.
    If your slowest scorer takes longer, its outcome is looked up.
    on_event: hears every Event of this connection's work, called from the thread that does it.
    Raises BadKey, CannotConnect if these are not usable. Nothing is sent yet.
    """
    address = _address(url, key, client)
    return Backfill(
        lambda: AsyncBackfill(
            Gateway(*address, call_timeout_s=call_timeout_s), clock=clock, on_event=on_event
        )
    )


def connect_async(
    url: str | None = None,
    key: str | None = None,
    *,
    client: SupabaseClient | None = None,
    clock: Clock | None = None,
    call_timeout_s: float | None = None,
    on_event: OnEvent = ignore,
) -> AsyncBackfill:
    """Connect to a project, with the same verbs to await. See connect."""
    gateway = Gateway(*_address(url, key, client), call_timeout_s=call_timeout_s)
    return AsyncBackfill(gateway, clock=clock, on_event=on_event)


def _address(url: str | None, key: str | None, client: SupabaseClient | None) -> tuple[str, str]:
    if client is not None:
        return address_of(client)
    if url is not None and key is not None:
        return url, key
    given = {keys.URL_VARIABLE: url, keys.KEY_VARIABLES[0]: key}
    return keys.from_environment({**os.environ, **{k: v for k, v in given.items() if v}})


__all__ = [
    "Answered",
    "Approval",
    "ApprovalExpired",
    "ApprovalNeeded",
    "AsyncBackfill",
    "AsyncUndo",
    "Backfill",
    "BackfillError",
    "BadKey",
    "BadRequest",
    "Batch",
    "Busy",
    "CannotConnect",
    "Change",
    "Check",
    "Clock",
    "Criterion",
    "DayCoverage",
    "DayTrend",
    "DigestMismatch",
    "Effect",
    "Event",
    "EventKind",
    "ExitCode",
    "FailedSession",
    "FileFault",
    "ForeignWrite",
    "Freshness",
    "Healed",
    "IllegalMove",
    "InstalledTarget",
    "Missing",
    "MissingReceipt",
    "NextStep",
    "NoEffect",
    "NotAllowed",
    "NotAnApprover",
    "NotInstalled",
    "OnEvent",
    "OutOfOrder",
    "Outcome",
    "OutcomeUnknown",
    "Paused",
    "Plan",
    "PlanChanged",
    "PlannedSession",
    "Refused",
    "Rehearsal",
    "RehearsedSession",
    "Risk",
    "RunSummary",
    "StaleFence",
    "StandingApproval",
    "Status",
    "TakesNoWrites",
    "TargetCheck",
    "TargetDraft",
    "TargetWatch",
    "ThrottleTaken",
    "TookTooLong",
    "Undo",
    "UndoChanged",
    "UndoEffect",
    "UnknownRun",
    "UnknownSession",
    "UsageError",
    "Verification",
    "Watch",
    "Webhook",
    "WriteRefused",
    "WrongEnvironment",
    "WrongServer",
    "connect",
    "connect_async",
]
