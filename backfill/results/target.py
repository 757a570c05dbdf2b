"""Targets: which are installed, and what is wrong with a file that declares one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backfill.results.run import Json


@dataclass(frozen=True, slots=True)
class InstalledTarget:
    """A target that this project has.

    components: in the order of scoring. coverage: the share of its sessions that lack nothing, 0 to
    1. None if it has none, or if it cannot be asked: `backfill check` says why.
    """

    target: str
    components: tuple[str, ...]
    coverage: float | None
    installed_at: datetime

    def as_dict(self) -> dict[str, Json]:
        """{target, components, coverage, installed_at}."""
        return {
            "target": self.target,
            "components": list(self.components),
            "coverage": None if self.coverage is None else round(self.coverage, 4),
            "installed_at": self.installed_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class FileFault:
    """One fault of a file. line: from 1. where: the way to the value, such as component[0].key."""

    line: int
    where: str
    message: str
    next_step: str = ""

    def as_dict(self) -> dict[str, Json]:
        """{line, where, message}, and next if there is more to do than to correct it."""
        shown: dict[str, Json] = {"line": self.line, "where": self.where, "message": self.message}
        return {**shown, "next": self.next_step} if self.next_step else shown


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """A file held against a project. target: the name that it declares, "" if it has none.

    warnings: what can be installed, but is hardly meant.
    """

    target: str
    errors: tuple[FileFault, ...]
    warnings: tuple[FileFault, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether it can be installed."""
        return not self.errors

    def as_dict(self) -> dict[str, Json]:
        """{target, errors: [{line, where, message}], warnings: the same}."""
        return {
            "target": self.target,
            "errors": [e.as_dict() for e in self.errors],
            "warnings": [w.as_dict() for w in self.warnings],
        }


@dataclass(frozen=True, slots=True)
class TargetDraft:
    """A file to be. undecided: what a person has to look at, as the file's comments say it."""

    target: str
    text: str
    undecided: tuple[str, ...]

    def as_dict(self) -> dict[str, Json]:
        """{target, text, undecided}."""
        return {"target": self.target, "text": self.text, "undecided": list(self.undecided)}
