"""The comments on the views of a declared target, and the names of their columns."""

from __future__ import annotations

from collections.abc import Mapping

from backfill.results.coverage import all_missing_name
from backfill.targets.declaration import Component, Declaration
from backfill.targets.sql import fitted, literal, name_of


def flag(component: Component) -> str:
    """The column that says whether a session lacks a component."""
    return f"missing_{component.name}"


def too(component: Component) -> str:
    """The same in the view of another component."""
    return f"{component.name}_missing_too"


def every(declared: Declaration) -> str:
    """The column of sessions that lack every component."""
    return all_missing_name(len(declared.components))


def not_wanted(component: Component) -> str:
    """The column that says why a component is not wanted of a session, or of how many."""
    return f"not_wanted_{component.name}"


def has_wanted_version(component: Component) -> bool:
    """Whether only rows of one version count."""
    return component.version_column is not None and not component.any_version_counts


SESSION = {"session_id": "The session."}
CREATED = {"created_at": "When the session was created. Every range of dates is about this."}


def candidate_comments(declared: Declaration) -> dict[str, str]:
    """Column, or '' for the view itself -> its comment, in the order of the columns."""
    names = " or ".join(c.name for c in declared.components)
    return {
        "": f"Sessions of target {declared.target} that lack {names} and can be scored.",
        **SESSION,
        "category": "The components that it lacks, the last derived first, joined by +.",
        **CREATED,
        **{flag(c): _lacks(c) for c in declared.components},
    }


def _lacks(component: Component) -> str:
    if component.version_column is None:
        return f"Whether it has no {component.name}."
    version = "any version" if component.any_version_counts else "the wanted version"
    return f"Whether it has no {component.name} of {version}."


def missing_comments(declared: Declaration, component: Component) -> dict[str, str]:
    """The same for the view of one component."""
    wanted = {"wanted_version": "The version that is wanted, from backfill_targets."}
    return {
        "": f"Candidates without {component.name}.",
        **SESSION,
        **CREATED,
        **(wanted if has_wanted_version(component) else {}),
        **{
            too(o): f"Whether it lacks {o.name} too." for o in declared.components if o != component
        },
    }


def coverage_comments(declared: Declaration) -> dict[str, str]:
    """The same for the daily coverage."""
    lacking = {
        flag(c): f"Of these, sessions that lack {c.name} and can be scored."
        for c in declared.components
    }
    whole = {every(declared): "Of these, sessions that lack all and can be scored."}
    return {
        "": f"Sessions of target {declared.target} by UTC day, and which share of those that can "
        "be scored is complete.",
        "day": "UTC day on which the sessions were created. Null: they have no date.",
        "completed": "Sessions of that day.",
        "complete": "Of these, sessions that lack nothing that is wanted of them.",
        **lacking,
        **(whole if len(declared.components) > 1 else {}),
        **{
            not_wanted(c): f"Of these, sessions of which {c.name} is not wanted: they have too few "
            "of the rows that it needs."
            for c in declared.components
            if c.needs
        },
        "excluded": "Of these, sessions that lack something and have too few rows for scoring.",
        "coverage": "Complete share of those that can be scored, 0 to 1. Null if none can.",
    }


def comments_sql(view: str, comments: Mapping[str, str]) -> str:
    """The statements that set these comments. view: its name as SQL writes it."""
    return "\n".join(
        fitted(
            f"comment on column {view}.{name_of(column)}" if column else f"comment on view {view}",
            f"is {literal(text)};",
        )
        for column, text in comments.items()
    )
