"""What the reference says of each key of a target's file."""

# ruff: noqa: E501 - the tables are read across.

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Told:
    """What is said of a key. default: in words, if it is made from something else."""

    what: str
    example: str
    default: str | None = None


FILE: dict[str, Told] = {
    "target": Told("what the target is called", '"orders"'),
    "source": Told("the rows that may lack something", "[source]"),
    "views": Told("the names of the views about all components", "[views]", "made from `target`"),
    "component": Told("what a row may lack, in the order of scoring", "[[component]]"),
    "parameters": Told("what a request may set, with the defaults", "min_lines = 1"),
    "watch": Told("the service level that `backfill watch` looks after", "[watch]", "none"),
}
SOURCE: dict[str, Told] = {
    "table": Told("where the rows are: a table or a view", '"public.orders"'),
    "key": Told("the column that names a row: uuid, a whole number or text", '"id"'),
    "date": Told("the column that dates a row: it decides on `--since`", '"paid_at"'),
    "index": Told("the name of an index that we build for the dates", '"backfill_orders_sessions"', "none"),
    "where": Told("which rows count", '{ status = ["paid", "shipped"] }', "all rows"),
    "needs": Told("rows without which nothing is wanted of it", "see `needs`", "none"),
    "called": Told("how people call one of the rows, and several", '["order", "orders"]'),
}  # fmt: skip
NEEDS: dict[str, Told] = {
    "name": Told("what they are called in a reason", '"lines"'),
    "table": Told("where they are", '"public.order_lines"'),
    "column": Told("their column that names the source's row", '"order_id"'),
    "at_least": Told("the parameter that says how many are needed", '"min_lines"'),
}
VIEWS: dict[str, Told] = {
    "candidates": Told("the view of what can be scored", '"backfill_open_orders"', "`backfill_<target>_candidates`"),
    "coverage": Told("the view of what is complete, by day", '"backfill_order_days"', "`backfill_<target>_daily_coverage`"),
}  # fmt: skip
COMPONENT: dict[str, Told] = {
    "name": Told("what the component is called", '"invoice"'),
    "table": Told("where its rows are", '"public.invoices"'),
    "session": Told("its column that names the source's row", '"order_id"'),
    "key": Told("the columns that name one row", '["order_id", "version"]'),
    "version_column": Told("its column that says which version wrote the row", '"version"', "none"),
    "version": Told("the version that is wanted: needed with a version_column", '"v3"', "none"),
    "version_parameter": Told("the parameter that holds it", '"invoice_version"', "`<name>_version`, with a version"),
    "function": Told("the function that writes it: a signature, or an Edge Function's name", '"public.make_invoice(bigint,text)"', "that of the component that fills it"),
    "view": Told("the view of the rows that lack it", '"backfill_no_invoice"', "`backfill_<target>_missing_<name>`"),
    "any_version_counts": Told("whether a row of another version will do", "true"),
    "matches": Told("further columns of the key, each with its parameter", '{ kind = "kind" }', "none"),
    "transport": Told("how the function is called", '"edge"'),
    "function_version": Told("which version of an Edge Function is deployed: needed there, and only there", '"2026-11-24"', "none"),
    "receipts": Told("`inferred` for an Edge Function that does not hand our headers on", '"inferred"'),
    "arguments": Told("what the function is given: `session_id`, or a parameter", '{ p_order_id = "session_id", p_version = "invoice_version" }', "none"),
    "helpers": Told("functions whose definitions belong into the digest", '["public.tax(numeric)"]', "none"),
    "after": Told("components whose rows have to be there first", '["invoice"]', "none"),
    "fills": Told("components that the same call fills, declared after it without a function of their own", '["summary"]', "none"),
    "score_ranges": Told("columns of scores: the canary looks at them", "{ risk = [0, 1] }", "none"),
    "needs": Told("rows without which this component is not wanted", "see `needs`", "none"),
}  # fmt: skip
WATCH: dict[str, Told] = {
    "min_coverage": Told("the share of rows that must lack nothing", "0.99"),
    "within": Told("how long after its date a row may lack something", '"6h"'),
    "over": Told(
        "only rows of the last days are judged, so many",
        '"30d"',
        "all dates, and the last 30 days by themselves",
    ),
}
# By the kind of table, "" for the file itself.
TOLD = {"": FILE, "source": SOURCE, "needs": NEEDS, "views": VIEWS, "component": COMPONENT, "watch": WATCH}  # fmt: skip
