"""The SQL of a declared target: its declaration, the views that detect, the index that helps them.

sqlglot builds the queries, so every name is quoted and every value a literal. What acts on a
target, triggers and functions and policies, is generic SQL of the core that reads its rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from sqlglot import exp

from backfill.declaring import Component, Declaration, Filter, Need
from backfill.generating_comments import (
    candidate_comments,
    comments_sql,
    coverage_comments,
    every,
    flag,
    missing_comments,
    too,
)
from backfill.models import Json
from backfill.sql_pieces import (
    as_sql,
    cast_to,
    column,
    is_null,
    literal,
    name_of,
    named,
    quoted,
    table_of,
)

PRIVATE = "backfill_private"


def target_sql(declared: Declaration) -> str:
    """The migration of a target: declare it, make its views anew, say who may read them."""
    names, declaration = _view_names(declared), quoted(_json(declaration_of(declared)))
    parts = [
        f"-- Target {declared.target}, made from its declaration: backfill install --target FILE.",
        "set local lock_timeout = '3s';",
        f"select {PRIVATE}.declare_target({declaration}::jsonb);",
        *_views(declared),
        _rights(names),
    ]
    return "\n\n".join(parts) + "\n"


def index_sql(declared: Declaration) -> str:
    """The index of detection, by itself: it is built beside writers."""
    index = exp.Create(
        this=exp.Index(
            this=name_of(declared.index),
            table=table_of(declared.table),
            params=exp.IndexParameters(
                columns=[exp.Ordered(this=exp.column(name_of(declared.date)), nulls_first=False)],
                where=exp.Where(this=exp.and_(*_filters(declared, None)))
                if declared.filters
                else None,
            ),
        ),
        kind="INDEX",
        exists=True,
        concurrently=True,
    )
    return (
        f"-- The sessions of target {declared.target} by date: what detection reads. "
        f"Everything works without it, slower.\n{as_sql(index)};\n"
    )


def declaration_of(declared: Declaration) -> dict[str, Json]:
    """A declaration as the database takes it: backfill_private.declare_target."""
    return declared.as_dict() | {"views": [".".join(n) for n in _view_names(declared)]}


# The views --------------------------------------------------------------------------------------


def _json(value: Json) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _view_names(declared: Declaration) -> list[tuple[str, str]]:
    """Schema and name of each view of a target, in the order in which they are made."""
    return [
        (PRIVATE, f"{declared.target}_standing"),
        (PRIVATE, f"{declared.target}_gaps"),
        ("public", declared.candidates_view),
        *(("public", c.view) for c in declared.components),
        ("public", declared.coverage_view),
    ]


def _views(declared: Declaration) -> list[str]:
    standing, gaps, candidates, *missing, coverage = _view_names(declared)
    return [
        _view(standing, _standing(declared)),
        _view(gaps, _gaps(declared, standing)),
        _view(candidates, _candidates(declared, gaps)),
        comments_sql(candidates, candidate_comments(declared)),
        *(
            piece
            for name, component in zip(missing, declared.components, strict=True)
            for piece in (
                _view(name, _missing(declared, component, candidates)),
                comments_sql(name, missing_comments(declared, component)),
            )
        ),
        _view(coverage, _coverage(declared, standing)),
        comments_sql(coverage, coverage_comments(declared)),
    ]


def _view(name: tuple[str, str], query: exp.Select) -> str:
    return f"create view {as_sql(named(name))} with (security_invoker = true) as\n{as_sql(query)};"


def _standing(declared: Declaration) -> exp.Select:
    """Every selected session: what it lacks of the wanted versions, and why it cannot be scored."""
    query = exp.select(
        column("s", declared.key).as_("id"),
        cast_to(column("s", declared.date), "timestamptz").as_("created_at"),
        *(
            is_null(column(f"c{place}", c.session)).as_(flag(c))
            for place, c in enumerate(declared.components, 1)
        ),
        _excluded(declared).as_("excluded"),
    ).from_(table_of(declared.table, "s"))
    for place, component in enumerate(declared.components, 1):
        alias = f"c{place}"
        query = query.join(
            _rows_of(declared, component, alias),
            on=exp.and_(
                column(alias, component.session).eq(column("s", declared.key)),
                *([] if _is_folded(component) else _wanted(declared, component, alias)),
            ),
            join_type="left",
        )
    return query.where(*_filters(declared, "s")) if declared.filters else query


def _is_folded(component: Component) -> bool:
    """Whether a session may have several rows that count, which a join would multiply."""
    return component.any_version_counts and component.version_column in component.key


def _rows_of(declared: Declaration, component: Component, alias: str) -> exp.Expression:
    if not _is_folded(component):
        return table_of(component.table, alias)
    rows = (
        exp.select(column("r", component.session)).distinct().from_(table_of(component.table, "r"))
    )
    conditions = _wanted(declared, component, "r")
    return (rows.where(*conditions) if conditions else rows).subquery(alias)


def _wanted(declared: Declaration, component: Component, alias: str) -> list[exp.Expression]:
    """What makes a row of the component's table count as present."""
    versions = (
        []
        if component.any_version_counts
        else [(component.version_column, component.version_parameter)]
    )
    # As text: a version or a kind may be of any type, and what a request names is a text.
    return [
        cast_to(column(alias, name), "text").eq(_parameter(declared, parameter))
        for name, parameter in [*versions, *sorted(component.matches.items())]
    ]


def _filters(declared: Declaration, alias: str | None) -> list[exp.Expression]:
    return [_filter(f, alias) for f in declared.filters]


def _filter(given: Filter, alias: str | None) -> exp.Expression:
    filtered = column(alias, given.column)
    if given.is_null is not None:
        return is_null(filtered) if given.is_null else exp.not_(is_null(filtered))
    values = [literal(v) for v in given.values]
    return filtered.isin(*values) if len(values) > 1 else filtered.eq(values[0])


def _excluded(declared: Declaration) -> exp.Expression:
    """Null where nothing is missing or all is there that scoring reads, else the reason.

    The CASE keeps the counting to the sessions that lack something.
    """
    lacks = {
        c.name: is_null(column(f"c{n}", c.session)) for n, c in enumerate(declared.components, 1)
    }
    case = exp.Case().when(exp.and_(*(exp.not_(x) for x in lacks.values())), exp.null())
    for component, need in declared.all_needs:
        few = _enough(declared, need)
        concerned = few if component is None else exp.and_(lacks[component].copy(), few)
        case = case.when(concerned, _reason(declared, need))
    return case if len(case.args["ifs"]) > 1 else cast_to(exp.null(), "text")


def _enough(declared: Declaration, need: Need) -> exp.Expression:
    """Fewer rows than it takes, counted no further than that."""
    least = cast_to(_parameter(declared, need.parameter), "bigint")
    rows = (
        _needed(declared, need)
        .select(exp.Literal.number(1).as_("one"))
        .limit(exp.paren(least.copy()))
    )
    counted = exp.select(exp.Count(this=exp.Star())).from_(rows.subquery("enough"))
    return exp.LT(this=counted.subquery(), expression=least)


def _reason(declared: Declaration, need: Need) -> exp.Func:
    counted = _needed(declared, need).select(exp.Count(this=exp.Star()))
    sentence = f"%s {need.name.replace('%', '%%')}, at least %s needed"
    return exp.func(
        "format", literal(sentence), counted.subquery(), _parameter(declared, need.parameter)
    )


def _needed(declared: Declaration, need: Need) -> exp.Select:
    return (
        exp.Select()
        .from_(table_of(need.table, "n"))
        .where(column("n", need.column).eq(column("s", declared.key)))
    )


def _gaps(declared: Declaration, standing: tuple[str, str]) -> exp.Select:
    """Those that lack something, as planning reads them."""
    missing = [exp.Case().when(column("g", flag(c)), literal(c.name)) for c in declared.components]
    return (
        exp.select(
            cast_to(column("g", "id"), "text").as_("session_id"),
            column("g", "created_at").as_("session_at"),
            _present(missing).as_("components"),
            column("g", "excluded"),
            *(column("g", flag(c)) for c in declared.components),
        )
        .from_(named(standing, "g"))
        .where(exp.or_(*(column("g", flag(c)) for c in declared.components)))
    )


def _present(values: Iterable[exp.Expression]) -> exp.Func:
    return exp.func(
        "array_remove", cast_to(exp.Array(expressions=list(values)), "text[]"), exp.null()
    )


def _candidates(declared: Declaration, gaps: tuple[str, str]) -> exp.Select:
    names = [
        exp.Case().when(column("g", flag(c)), literal(c.name))
        for c in reversed(declared.components)
    ]
    return (
        exp.select(
            column("g", "session_id"),
            exp.func("array_to_string", _present(names), literal("+")).as_("category"),
            column("g", "session_at").as_("created_at"),
            *(column("g", flag(c)) for c in declared.components),
        )
        .from_(named(gaps, "g"))
        .where(is_null(column("g", "excluded")))
    )


def _missing(
    declared: Declaration, component: Component, candidates: tuple[str, str]
) -> exp.Select:
    wanted = (
        []
        if component.any_version_counts
        else [_parameter(declared, component.version_parameter).as_("wanted_version")]
    )
    return (
        exp.select(
            column("c", "session_id"),
            column("c", "created_at"),
            *wanted,
            *(column("c", flag(o)).as_(too(o)) for o in declared.components if o != component),
        )
        .from_(named(candidates, "c"))
        .where(column("c", flag(component)))
    )


def _coverage(declared: Declaration, standing: tuple[str, str]) -> exp.Select:
    """By UTC day, and the share of the sessions that can be scored and lack nothing."""
    flags = [column("s", flag(c)) for c in declared.components]
    can_be = is_null(column("s", "excluded"))
    day = cast_to(exp.AtTimeZone(this=column("s", "created_at"), zone=literal("UTC")), "date")
    counts: dict[str, exp.Condition | None] = {
        "completed": None,
        "complete": exp.and_(*(exp.not_(f.copy()) for f in flags)),
        **{
            flag(c): exp.and_(lacks.copy(), can_be.copy())
            for c, lacks in zip(declared.components, flags, strict=True)
        },
        **({every(declared): exp.and_(*flags, can_be.copy())} if len(flags) > 1 else {}),
        "excluded": exp.not_(can_be.copy()),
    }
    by_day = (
        exp.select(day.as_("day"), *(_count(where).as_(name) for name, where in counts.items()))
        .from_(named(standing, "s"))
        .group_by(exp.Literal.number(1))
    )
    scorable = exp.func(
        "nullif",
        exp.paren(exp.Sub(this=column("d", "completed"), expression=column("d", "excluded"))),
        exp.Literal.number(0),
    )
    share = exp.Div(this=cast_to(column("d", "complete"), "numeric"), expression=scorable)
    return (
        exp.select(
            column("d", "day"),
            *(column("d", name) for name in counts),
            exp.func("round", share, exp.Literal.number(4)).as_("coverage"),
        )
        .from_(by_day.subquery("d"))
        .order_by(exp.Ordered(this=column("d", "day"), nulls_first=False))
    )


def _count(where: exp.Condition | None) -> exp.Expression:
    counted = exp.Count(this=exp.Star())
    return exp.Filter(this=counted, expression=exp.Where(this=where)) if where else counted


def _parameter(declared: Declaration, name: str) -> exp.Expression:
    """What a request says of a parameter; a query of its own, so that it is asked once."""
    asked = exp.Dot(
        this=name_of(PRIVATE),
        expression=exp.Anonymous(
            this="parameter", expressions=[literal(declared.target), literal(name)]
        ),
    )
    return exp.select(asked).subquery()


def _rights(names: Sequence[tuple[str, str]]) -> str:
    """For service_role and the SQL editor only: an ordinary user would see rows as missing."""
    views = ", ".join(as_sql(named(n)) for n in names)
    return (
        "-- Under row level security an ordinary user would see present rows as missing.\n"
        f"revoke all on {views}\nfrom public, anon, authenticated, service_role;\n"
        f"grant select on {views}\nto service_role;"
    )
