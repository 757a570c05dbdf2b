"""How the command line ends: a code per kind of error, and one per answer of a verb.

A run that the database pauses ends `apply` with `Paused`, which is a `Refused`. A command line that
typer does not understand is USAGE, by typer's own code. A question that is broken off and an answer
that cannot be written are FAILED: see `main` in app.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from backfill.errors import BackfillError, CannotConnect, Refused, UsageError

if TYPE_CHECKING:
    from backfill.results.check import Check
    from backfill.results.coverage import Missing
    from backfill.results.heal import Healed
    from backfill.results.run import Outcome
    from backfill.results.target import TargetCheck
    from backfill.results.undo import UndoEffect
    from backfill.results.verification import Verification
    from backfill.results.watch import Watch


class ExitCode(IntEnum):
    """How the command line ends."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    DIFFERENCE = 4
    UNREACHABLE = 5


# The first class that an error belongs to decides.
OF_ERRORS: Mapping[type[BackfillError], ExitCode] = {
    UsageError: ExitCode.USAGE,
    Refused: ExitCode.REFUSED,
    CannotConnect: ExitCode.UNREACHABLE,
    BackfillError: ExitCode.FAILED,
}


def of_error(error: type[BackfillError]) -> ExitCode:
    """The exit code of a verb that raises an error of this class."""
    return next(code for kind, code in OF_ERRORS.items() if issubclass(error, kind))


def of_signal(number: int) -> int:
    """The exit code of a process that a signal ended, as shells have it."""
    return 128 + number


def of_check(checks: Sequence[Check]) -> ExitCode:
    """DONE if no check fails. A project without our migrations counts as unreachable."""
    if any(check.name == "migrations" and check.status == "fail" for check in checks):
        return ExitCode.UNREACHABLE
    return ExitCode.DIFFERENCE if _has_failed(checks) else ExitCode.DONE


def of_target_check(found: TargetCheck) -> ExitCode:
    """DONE if the file can be installed."""
    return ExitCode.DONE if found.passes else ExitCode.DIFFERENCE


def of_plan(checks: Sequence[Check], *, is_strict: bool) -> ExitCode:
    """DIFFERENCE if a mark of the plan failed and that is to count."""
    return ExitCode.DIFFERENCE if is_strict and _has_failed(checks) else ExitCode.DONE


def _has_failed(checks: Sequence[Check]) -> bool:
    """Whether any check failed. Warnings can wait."""
    return any(check.status == "fail" for check in checks)


def of_missing(found: Missing, min_coverage: float | None) -> ExitCode:
    """DIFFERENCE below the least coverage. Without one, or without sessions, nothing is below.

    But no sessions because no row has a value that selects them is a difference: a gate would be
    green for ever.
    """
    if min_coverage is None:
        return ExitCode.DONE
    is_below = bool(found.notes) if found.coverage is None else found.coverage < min_coverage
    return ExitCode.DIFFERENCE if is_below else ExitCode.DONE


def of_watch(found: Watch) -> ExitCode:
    """DIFFERENCE if a target breaches its service level. Unknown is no breach."""
    return ExitCode.DIFFERENCE if found.is_breached else ExitCode.DONE


def of_apply(outcome: Outcome) -> ExitCode:
    """DONE if every session is done."""
    return ExitCode.DONE if outcome.is_complete else ExitCode.FAILED


def of_heal(healed: Healed) -> ExitCode:
    """REFUSED if it halted, FAILED if sessions failed, DIFFERENCE if verify found one."""
    if healed.is_halted:
        return ExitCode.REFUSED
    if healed.verdict == "partial":
        return ExitCode.FAILED
    return ExitCode.DONE if healed.is_healed else ExitCode.DIFFERENCE


def of_verify(verification: Verification) -> ExitCode:
    """DONE if all that was planned is there."""
    return ExitCode.DONE if verification.verdict == "pass" else ExitCode.DIFFERENCE


def of_rollback(effect: UndoEffect, *, is_confirmed: bool) -> ExitCode:
    """DIFFERENCE if conflicts left rows in place. A preview may name conflicts."""
    return ExitCode.DIFFERENCE if is_confirmed and effect.conflicts else ExitCode.DONE
