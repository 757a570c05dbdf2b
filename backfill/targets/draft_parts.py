"""What a draft is made of: its questions, and the file to be before it is text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backfill.targets import likely
from backfill.targets.catalog import Argument, Relation
from backfill.targets.edge_sources import EdgeFunction
from backfill.targets.function_bodies import Touched

ALL = "all"
UNKNOWN = "undecided"


@dataclass(frozen=True, slots=True)
class Question:
    """What has to be decided. options: the likeliest first. takes_many: several may be meant.

    takes_any: an answer that is no option is taken too. guess: what is written if nothing fits and
    nobody is asked. It is never offered to a person, who might take it for something known.
    """

    text: str
    options: tuple[str, ...]
    takes_many: bool = False
    takes_any: bool = False
    guess: str = ""


Ask = Callable[[Question], Sequence[str]]


def likeliest(question: Question) -> Sequence[str]:
    """The answer if nobody is asked."""
    return question.options[:1] or ((question.guess,) if question.guess else ())


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for. None or empty: to be decided."""

    target: str
    source: str | None = None
    derived: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Writer:
    """A function that may write a component: in SQL or at the edge."""

    name: str
    arguments: tuple[Argument, ...]
    touches: Touched
    edge: EdgeFunction | None = None

    def session_argument(self, names: Sequence[str], kind: str) -> str | None:
        """The argument that takes the session's key."""
        if self.edge is None:
            return likely.session_argument(self.arguments, names, kind)
        return next((n for n in names if n in self.edge.body), None)

    def unknown_arguments(self, relation: Relation) -> int:
        """How many arguments every call has to give, and no parameter can."""
        return sum(
            a.default is None
            and (likely.is_composed(a.type) or not likely.is_known(a.name, relation))
            for a in self.arguments
        )


@dataclass(slots=True)
class Need:
    """Rows that a function reads by the session's key."""

    relation: Relation
    column: str
    parameter: str


@dataclass(slots=True)
class Part:
    """A component to be. notes: a comment by key.

    fills: the components that its call fills too. filled_by: the one whose call fills this.
    """

    relation: Relation
    name: str
    session: str
    key: tuple[str, ...]
    version_column: str | None = None
    version: str = ""
    matches: dict[str, str] = field(default_factory=dict)
    writer: Writer | None = None
    arguments: dict[str, str] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)
    fills: list[str] = field(default_factory=list)
    filled_by: Part | None = None
    needs: list[Need] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def version_parameter(self) -> str:
        """The parameter that names its version."""
        return f"{self.name}_version"


@dataclass(slots=True)
class Plan:
    """A file to be, before it is text. where: a column with the values that count.

    called: how one row is called, and several. index: the name of one that we build.
    """

    target: str
    source: Relation
    key: str
    date: str
    parts: list[Part] = field(default_factory=list)
    where: dict[str, list[str]] = field(default_factory=dict)
    parameters: dict[str, str | int] = field(default_factory=dict)
    called: tuple[str, str] | None = None
    index: str | None = None
    notes: dict[str, str] = field(default_factory=dict)
