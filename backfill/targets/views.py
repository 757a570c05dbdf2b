"""The SQL of a declared target: its declaration, the views that detect, the index that helps them.

Templates are filled with names and values as targets/sql.py writes them. A parser reads the result
back. Triggers, functions and policies on a target are generic SQL of the core, which reads the
target's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from backfill.results.run import Json
from backfill.targets import templates
from backfill.targets.comments import (
    candidate_comments,
    comments_sql,
    coverage_comments,
    every,
    flag,
    has_wanted_version,
    missing_comments,
    not_wanted,
    too,
)
from backfill.targets.declaration import Component, Declaration
from backfill.targets.filters import AnyOf, Filter
from backfill.targets.sql import WIDTH, fitted, json_text, literal, name_of, table_of
from backfill.targets.sql_check import as_meant

PRIVATE = "backfill_private"


def target_sql(declared: Declaration) -> str:
    """The migration of a target: declare it, create its views, say who may read them.

    The database creates the view with the conditions, since it knows the columns' types.
    Raises BadRequest if it does not read back as it is meant.
    """
    views = [name_of(*view) for view in _view_names(declared)]
    standing, gaps, candidates, *missing, coverage = views
    each = list(zip(declared.components, missing, strict=True))
    comments = {
        candidates: candidate_comments(declared),
        **{view: missing_comments(declared, c) for c, view in each},
        coverage: coverage_comments(declared),
    }
    script = templates.TARGET.format(
        target=declared.target,
        declaration=literal(json_text(declaration_of(declared))),
        standing=standing,
        gaps=gaps,
        candidates=candidates,
        coverage=coverage,
        **_detection(declared),
        candidate_comments=comments_sql(candidates, comments[candidates]),
        missing="\n\n".join(
            f"{_missing(declared, c, view, candidates)}\n\n{comments_sql(view, comments[view])}"
            for c, view in each
        ),
        **_counts(declared),
        coverage_comments=comments_sql(coverage, comments[coverage]),
        rights="\n".join(_rights(view) for view in views),
    )
    rights = dict.fromkeys(("revoke", "grant"), len(views))
    said = sum(map(len, comments.values()))
    kinds = {"set": 1, "select": 1, "comment": said, "create view": len(views) - 1, **rights}
    return as_meant(declared, script, kinds)


def index_sql(declared: Declaration) -> str:
    """The index for detection, by itself: it is built concurrently. Raises BadRequest."""
    script = templates.INDEX.format(
        target=declared.target,
        index=name_of(declared.index_name),
        source=table_of(declared.source.table),
        date=name_of(declared.source.date),
        where=_where([_filter(f) for f in declared.source.where if f.is_plain]),
    )
    return as_meant(declared, script, {"create index": 1})


def declaration_of(declared: Declaration) -> dict[str, Json]:
    """A declaration as the database takes it: backfill_private.declare_target."""
    return declared.as_dict() | {"views": [".".join(n) for n in _view_names(declared)]}


def _view_names(declared: Declaration) -> list[tuple[str, str]]:
    """Schema and name of each view of a target, in the order in which they are made."""
    return [
        (PRIVATE, f"{declared.target}_standing"),
        (PRIVATE, f"{declared.target}_gaps"),
        ("public", declared.views.candidates),
        *(("public", c.view) for c in declared.components),
        ("public", declared.views.coverage),
    ]


# The views --------------------------------------------------------------------------------------


def _detection(declared: Declaration) -> dict[str, str]:
    """The values of a target's template up to the candidates."""
    flags = [f"g.{flag(c)}" for c in declared.components]
    names = [f"case when g.{flag(c)} then {literal(c.name)} end" for c in declared.components]
    return {
        "lacking_first": ",\n    ".join(names),
        "lacking_last": ",\n    ".join(reversed(names)),
        "flags": ",\n  ".join(flags),
        "any_flag": "\n    or ".join(flags),
        "not_wanted": _not_wanted(declared),
    }


def _not_wanted(declared: Declaration) -> str:
    """Why each component is not wanted of a session, {component: reason}, or null."""
    reasons = [f"{literal(c.name)}, g.{not_wanted(c)}" for c in declared.components if c.needs]
    if not reasons:
        return "null::jsonb"
    listed = ",\n    ".join(reasons)
    return f"nullif(jsonb_strip_nulls(jsonb_build_object(\n    {listed}\n  )), '{{}}'::jsonb)"


def _missing(declared: Declaration, component: Component, view: str, candidates: str) -> str:
    columns = [
        "c.session_id",
        "c.created_at",
        *_wanted_version(declared, component),
        *(f"c.{flag(o)} as {too(o)}" for o in declared.components if o != component),
    ]
    return templates.MISSING.format(
        component=component.name,
        view=view,
        columns=",\n  ".join(columns),
        candidates=candidates,
        flag=flag(component),
    )


def _wanted_version(declared: Declaration, component: Component) -> list[str]:
    if component.version_parameter is None or not has_wanted_version(component):
        return []
    return [f"{_parameter(declared, component.version_parameter)} as wanted_version"]


def _counts(declared: Declaration) -> dict[str, str]:
    """The values of the template for the daily coverage."""
    flags, can_be = [f"s.{flag(c)}" for c in declared.components], "s.excluded is null"
    counts = {flag(c): [f"s.{flag(c)}", can_be] for c in declared.components}
    if len(flags) > 1:
        counts[every(declared)] = [*flags, can_be]
    for c in declared.components:
        if c.needs:
            counts[not_wanted(c)] = [f"not s.{not_wanted(c)} is null", can_be]
    complete = {"complete": [*(f"not {one}" for one in flags), can_be]}
    return {
        "counted": ",\n  ".join(f"d.{name}" for name in counts),
        "counts": ",\n    ".join(_count(*one) for one in {**complete, **counts}.items()),
    }


def _count(name: str, conditions: Sequence[str]) -> str:
    """How many rows meet the conditions, each on its own line unless all fit into one."""
    flat = f"count(*) filter (where {' and '.join(conditions)}) as {name}"
    if len(flat) < WIDTH - 4:
        return flat
    lines = "\n        and ".join(conditions)
    return f"count(*) filter (\n      where {lines}\n    ) as {name}"


def _rights(view: str) -> str:
    revoke = fitted(f"revoke all on {view}", "from public, anon, authenticated, service_role;")
    return f"{revoke}\ngrant select on {view} to service_role;"


# Pieces of them ---------------------------------------------------------------------------------


def _where(conditions: Sequence[str]) -> str:
    joined = "\n  and ".join(conditions)
    return f"\nwhere {joined}" if conditions else ""


def _filter(given: Filter | AnyOf) -> str:
    if isinstance(given, AnyOf):
        raise TypeError("an index has no choice as its condition")
    column, values = name_of(given.column), [literal(v) for v in given.values]
    if given.is_null is not None:
        return f"{column} is null" if given.is_null else f"not {column} is null"
    return f"{column} in ({', '.join(values)})" if len(values) > 1 else f"{column} = {values[0]}"


def _parameter(declared: Declaration, name: str) -> str:
    """A request's value of a parameter, in a subquery of its own so that it is read once."""
    return f"(select {PRIVATE}.parameter({literal(declared.target)}, {literal(name)}))"
