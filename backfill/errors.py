"""What can go wrong: one class per SQLSTATE of class OB.

An error says what happened and what to do next. `str(error)` gives both, the next step as a command
and as the call of a connection `bf`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NoReturn

from backfill.calls import python_calls

# Verbs that the command line calls otherwise than the library.
OTHER_NAMES = {
    "show": "get(run) is the plan, page(run) its page",
    "logs": "write_logs(run, folder) writes the files",
    "undo": "rollback(run) previews, and its confirm() undoes",
    **dict.fromkeys(
        ("install", "uninstall", "demo", "local", "completion"), "only the command line has it"
    ),
    "notify": "connect(on_event=backfill.Webhook(url)) tells a webhook",
    "target": "check_target(file), draft_target(name), targets()",
}


class BackfillError(Exception):
    """Anything this library refuses or cannot do."""

    code: ClassVar[str | None] = None

    def __init__(self, message: str, next_step: str = "") -> None:
        """message: one sentence for a person. next_step: what to type or do now, or ''.

        A next step of several lines begins with a sentence. Lines to copy follow.
        """
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        calls = [f"In Python: {call}" for call in self.calls]
        return "\n  ".join([self.typed(), *calls])

    @property
    def calls(self) -> tuple[str, ...]:
        """The next step's commands as Python calls."""
        return python_calls(self.next_step)

    def typed(self) -> str:
        """The same for whoever types commands: the message, and what to type now."""
        step = self.next_step.replace("\n", "\n    ")
        return f"{self.message}\n  Next: {step}" if step else self.message

    def as_dict(self) -> dict[str, object]:
        """For machines: {error: {code, message, next}}, and notes if it has any.

        code: the SQLSTATE, or the class's name where it has none.
        """
        told: dict[str, object] = {
            "code": self.code or type(self).__name__,
            "message": self.message,
            "next": self.next_step,
        }
        if notes := getattr(self, "__notes__", None):
            told["notes"] = notes
        return {"error": told}


class UsageError(BackfillError):
    """The request makes no sense."""


class UnknownRun(UsageError):
    """There is no such run, or what was given names more than one."""

    code = "OB001"


class BadRequest(UsageError):
    """A parameter is not usable."""

    code = "OB013"


class UnknownSession(UsageError):
    """What was given names no session, or more than one."""

    code = "OB014"


class Refused(BackfillError):
    """The database refused the request."""


class IllegalMove(Refused):
    """The run cannot go from its state to the wanted one."""

    code = "OB002"


class ApprovalNeeded(Refused):
    """The run, or its undo, is not approved."""

    code = "OB003"


class DigestMismatch(Refused):
    """The given digest is not the plan's."""

    code = "OB004"


class NotAnApprover(Refused):
    """The caller may not decide on this plan."""

    code = "OB005"


class ApprovalExpired(Refused):
    """The approval has expired."""

    code = "OB006"


class PlanChanged(Refused):
    """The plan no longer matches the database."""

    code = "OB007"


class WrongEnvironment(Refused):
    """The plan is for another environment."""

    code = "OB008"


class WrongServer(Refused):
    """The run belongs to another project than the one connected to."""

    code = "OB009"


class StaleFence(Refused):
    """The attempt may no longer write."""

    code = "OB011"


class WriteRefused(Refused):
    """The run is not allowed to write now."""

    code = "OB012"


class ThrottleTaken(Refused):
    """Running runs leave no share of the project's throttle."""

    code = "OB015"


class ForeignWrite(Refused):
    """A scoring call touched rows that its lease does not cover."""

    code = "OB018"


class OutOfOrder(Refused):
    """A later step wrote although an earlier one had left no row."""

    code = "OB020"


class UndoChanged(Refused):
    """The digest is not that of the newest preview, or the rows have changed since."""

    code = "OB019"


class Paused(Refused):
    """The run is paused. The message says why."""


class MissingReceipt(BackfillError):
    """A written row has no receipt. Recorded on the item, never raised."""

    code = "OB016"


class NoEffect(BackfillError):
    """A scoring function answered but left no row. Recorded on the item, never raised."""

    code = "OB017"


class CannotConnect(BackfillError):
    """The project cannot be reached."""


class BadKey(CannotConnect):
    """The key is missing, of the wrong kind, or not this project's."""


class NotInstalled(CannotConnect):
    """The project lacks our migrations, or the API has not seen them yet."""


class NotAllowed(CannotConnect):
    """The caller lacks the right."""

    code = "OB010"


class Busy(BackfillError):
    """Somebody else holds a lock that the call needs. Nothing of it stays, and it is repeated."""

    code = "OB021"


class TookTooLong(BackfillError):
    """The database ended a call of ours at its statement timeout. Nothing of the call stays."""


class TakesNoWrites(CannotConnect):
    """The database is read-only. Nothing of the call stays."""


class OutcomeUnknown(CannotConnect):
    """A call was sent, but no answer came. It may have taken effect."""

    # The wait before the next try that the API asked for, in seconds. None if it did not.
    retry_after_s: float | None = None


def _family(base: type[BackfillError]) -> list[type[BackfillError]]:
    return [base, *(c for child in base.__subclasses__() for c in _family(child))]


BY_SQLSTATE: dict[str, type[BackfillError]] = {
    c.code: c for c in _family(BackfillError) if c.code is not None
}


class SaysOtherNames:
    """A connection that says how a verb of the command line is called here."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            hint = f": {OTHER_NAMES[name]}" if name in OTHER_NAMES else ""
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}{hint}",
                name=name,
                obj=self,
            )
