"""How the command line ends: a code per kind of error, and one per answer of a verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from backfill.errors import BackfillError, CannotConnect, Refused, UsageError
from backfill.results.check import Check
from backfill.results.coverage import Missing
from backfill.results.run import Outcome
from backfill.results.undo import UndoEffect
from backfill.results.verification import Verification
from backfill.run.check import ready


class ExitCode(IntEnum):
    """How the command line ends."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    DIFFERENCE = 4
    UNREACHABLE = 5


# The first that an error is one of decides.
OF_ERRORS: Mapping[type[BackfillError], ExitCode] = {
    UsageError: ExitCode.USAGE,
    Refused: ExitCode.REFUSED,
    CannotConnect: ExitCode.UNREACHABLE,
    BackfillError: ExitCode.FAILED,
}


def of_error(error: type[BackfillError]) -> ExitCode:
    """How a verb ends that raises an error of this class."""
    return next(code for kind, code in OF_ERRORS.items() if issubclass(error, kind))


def of_check(checks: Sequence[Check]) -> ExitCode:
    """A project without our migrations is as good as not there."""
    if any(check.name == "migrations" and check.status == "fail" for check in checks):
        return ExitCode.UNREACHABLE
    return ExitCode.DONE if ready(checks) else ExitCode.DIFFERENCE


def of_missing(found: Missing, min_coverage: float | None) -> ExitCode:
    """Without a least coverage nothing is below it; nor is what there is no session of."""
    is_below = found.coverage is not None and found.coverage < (min_coverage or 0)
    return ExitCode.DIFFERENCE if is_below else ExitCode.DONE


def of_apply(outcome: Outcome) -> ExitCode:
    """Done where every session is."""
    return ExitCode.DONE if outcome.is_complete else ExitCode.FAILED


def of_verify(verification: Verification) -> ExitCode:
    """Done where all that was planned is there."""
    return ExitCode.DONE if verification.verdict == "pass" else ExitCode.DIFFERENCE


def of_rollback(effect: UndoEffect, *, is_confirmed: bool) -> ExitCode:
    """A preview may name conflicts; where it is carried out they are rows that stay."""
    return ExitCode.DIFFERENCE if is_confirmed and effect.conflicts else ExitCode.DONE
