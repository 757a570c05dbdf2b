"""The calls and the writes that a plan expects, as Markdown: new rows and replaced ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from backfill.render.markdown import MARKS, NONE, code, section, table

if TYPE_CHECKING:
    from backfill.results.plan import Plan
    from backfill.results.run import Json


def largest_first(figures: Mapping[str, int]) -> list[tuple[str, int]]:
    """The figures by name, without their total."""
    named = [(name, count) for name, count in figures.items() if name != "total"]
    return sorted(named, key=lambda item: (-item[1], item[0]))


def planned_steps(plan: Plan) -> Sequence[Mapping[str, Json]]:
    """The calls in order, empty if the plan has none.

    [{component, transport, function, arguments: [[name, value or null for the session's id]],
    table, version_column, version, keeps_versions, calls, others}]
    """
    return plan.figures.get("steps") or ()


def filled(plan: Plan) -> list[Mapping[str, Json]]:
    """What the calls fill: {table, version_column, version, keeps_versions}."""
    return [one for step in planned_steps(plan) for one in (step, *step.get("others", ()))]


def calls_and_writes(plan: Plan) -> str:
    """The section on what is called, in which order, and what is written."""
    calls, writes = plan.figures["expected_calls"], plan.figures["expected_writes"]
    versions = wanted_versions(plan)
    order = (
        f"In each {plan.called.one} the calls are made in this order, each only if its row is "
        f"missing. A call that fails ends the {plan.called.one}."
        if planned_steps(plan)
        else "Each call is made only if its row is missing, with the parameters named above."
    )
    return section(
        "Expected calls and writes",
        "Counted from what is missing."
        + ("" if plan.rehearsal else " No call was made for this plan."),
        table(
            ("Function call", "Calls"),
            [*((code(c), n) for c, n in _calls(plan)), ("**total**", calls["total"])],
        ),
        order,
        table(
            ("Table", "Rows", "Version"),
            [
                *((code(n), _rows(plan, n), versions.get(n, NONE)) for n in written_tables(plan)),
                ("**total**", _all_rows(writes), ""),
            ],
        ),
    )


def _calls(plan: Plan) -> list[tuple[str, int]]:
    calls = plan.figures["expected_calls"]
    steps = [(_pattern(s), s.get("calls", calls[s["function"]])) for s in planned_steps(plan)]
    return steps or [(f"{name}(…)", count) for name, count in largest_first(calls)]


def _pattern(step: Mapping[str, Json]) -> str:
    shown = (name if value is None else f"{name}='{value}'" for name, value in step["arguments"])
    kind = "Edge Function " if step.get("transport") == "edge" else ""
    return f"{kind}{step['function']}({', '.join(shown)})"


def written_tables(plan: Plan) -> list[str]:
    """The written tables, in the order of the calls if that is known."""
    writes = plan.expected_writes
    names = list(dict.fromkeys(f["table"] for f in filled(plan)))
    return names or sorted(writes["new"], key=lambda name: (-writes[name], name))


def _rows(plan: Plan, table_name: str) -> str:
    """The planned rows of a table: +5 new, 1 replaces version `r1`."""
    new = plan.expected_writes["new"].get(table_name, 0)
    replaced = _replaced(plan, table_name)
    shown = [f"+{new:,} new"] if new or not replaced else []
    return ", ".join([*shown, *replaced])


def new_and_replaced(plan: Plan) -> str:
    """What is written, table by table: +5 new in `scores`, 1 replaces version `r1` in `scores`."""
    told = (f"{_rows(plan, name)} in {code(name)}" for name in written_tables(plan))
    return "; ".join(told) or NONE


def _all_rows(writes: Mapping[str, Json]) -> str:
    new, replaced = (sum(writes[kind].values()) for kind in ("new", "replaced"))
    return f"+{new:,} new" + (f", {replaced:,} replaced" if replaced else "")


def _replaced(plan: Plan, table_name: str) -> list[str]:
    """The rows of a table that are replaced, by their version."""
    versions = plan.replaced_versions.get(table_name, {})
    return [
        f"{count:,} {'replaces' if count == 1 else 'replace'} "
        + (f"version {code(version)}" if version else "a row without a version")
        for version, count in sorted(versions.items(), key=lambda item: (-item[1], item[0]))
    ]


def wanted_versions(plan: Plan) -> dict[str, str]:
    """Table: the version its rows will carry, as Markdown. None for tables without versions."""
    return {
        f["table"]: f"{code(f['version_column'])} = {code(f['version'])}"
        for f in filled(plan)
        if f["version_column"] is not None
    }


def overwriting(plan: Plan) -> str:
    """The risk of losing what stands in a row: how many are replaced, and what keeps them."""
    replaced = [
        f"in {code(name)} {', '.join(rows)}"
        for name in written_tables(plan)
        if (rows := _replaced(plan, name))
    ]
    kept = "the receipt keeps its former contents"
    if replaced:
        return (
            f"{MARKS['warn']} **Overwriting**: {'; '.join(replaced)}. For each {kept}, and an undo "
            "gives them back. Every other planned row was missing when the plan was sealed"
        )
    return (
        "**Overwriting**: every planned row was missing when the plan was sealed. A row that "
        f"someone else has filled by then is skipped. If a call does change a row, {kept}"
    )
