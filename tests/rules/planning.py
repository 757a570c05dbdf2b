"""What a plan selects, and what it replaces."""

from __future__ import annotations

import json
from typing import Any

from tests.rules.case import Case, Rule
from tests.rules.world import OTHER_RUN, RUN, item, run_has

Filter = dict[str, Any]
KINDS = (
    "create type public.mood as enum ('low', 'high')",
    "create table public.kinds (small smallint, int integer, big bigint, num numeric, real real,"
    " float double precision, day date, local timestamp, moment timestamptz, text text,"
    " short varchar(3), fixed char(3), id uuid, flag boolean, doc json, list integer[],"
    " moments timestamptz[], mood public.mood, ints int4range, other_mood public.mood)",
)
ONE_FORM, NONE = "%s", None
# Two columns, and as what they are compared.
FORMS: dict[tuple[str, str], str | None] = {
    ("int", "int"): ONE_FORM,
    ("moment", "moment"): ONE_FORM,
    ("id", "id"): ONE_FORM,
    ("mood", "other_mood"): ONE_FORM,
    ("doc", "doc"): NONE,
    ("list", "list"): NONE,
    **{("num", other): "%s::numeric" for other in ("small", "int", "big")},
    ("small", "big"): "%s::numeric",
    ("real", "float"): "%s::float",
    **{(n, f): "%s::float" for n in ("small", "int", "big", "num") for f in ("real", "float")},
    ("text", "short"): "%s::text",
    ("text", "fixed"): "%s::text",
    ("day", "local"): "moment",
    ("day", "moment"): "moment",
    ("local", "moment"): "moment",
    ("day", "int"): NONE,
    ("day", "text"): NONE,
    ("float", "text"): NONE,
    ("int", "text"): NONE,
    ("id", "text"): NONE,
    ("id", "day"): NONE,
    ("id", "float"): NONE,
    ("float", "day"): NONE,
    ("id", "int"): NONE,
    ("id", "flag"): NONE,
}
FORMS |= {(other, one): form for (one, other), form in FORMS.items()}
COMMON_FORM = Rule(
    "as what two columns are compared",
    ("common_form",),
    tuple(
        Case(
            f"{one} and {other}",
            "select backfill_private.common_form('public.kinds', %s, %s)",
            (one, other),
            wanted,
            KINDS,
        )
        for (one, other), wanted in FORMS.items()
    ),
)


def of(column: str, *values: str, **more: object) -> Filter:
    return {"column": column, **({"values": list(values)} if values else {}), **more}


EITHER = {"any": [[of("a", "x"), of("b", "y")], [of("c", is_null=True)]]}
WORDS: tuple[tuple[Filter, str], ...] = (
    (of("a", "x"), "a x"),
    (of("a", "x", "y"), "a x or y"),
    (of("a", is_null=True), "a null"),
    (of("a", is_null=False), "a not null"),
    (of("a", "x", "y", op="not"), "a not x or y"),
    (of("a", "1", op=">"), "a over 1"),
    (of("a", "1", op=">="), "a at least 1"),
    (of("a", "1", op="<"), "a under 1"),
    (of("a", "1", op="<="), "a at most 1"),
    (of("a", op="=", other="b"), "a the same as b"),
    (of("a", other="b"), "a the same as b"),
    (of("a", op="not", other="b"), "a not the same as b"),
    (of("a", op="<", other="b"), "a under b"),
    (EITHER, "(a x, b y) or (c null)"),
)
PLAIN: tuple[tuple[Filter, bool], ...] = (
    (of("a", "x"), True),
    (of("a", "x", "y"), True),
    (of("a", is_null=True), True),
    (of("a", "x", op="not"), False),
    (of("a", other="b"), False),
    (EITHER, False),
)
READING = Rule(
    "what a filter says",
    ("filter_words", "is_plain", "column_filters"),
    (
        *(
            Case(
                f"in words: {words}, {len(json.dumps(told))}",
                "select backfill_private.filter_words(%s)",
                (json.dumps(told),),
                words,
            )
            for told, words in WORDS
        ),
        *(
            Case(
                f"an index of ours may have it: {json.dumps(told)}",
                "select backfill_private.is_plain(%s)",
                (json.dumps(told),),
                wanted,
            )
            for told, wanted in PLAIN
        ),
        Case(
            "those about a column, in their order",
            "select jsonb_agg(f.filter ->> 'column' order by f.place)"
            " from backfill_private.column_filters(%s) as f",
            (json.dumps([of("z", "x"), EITHER, of("b", other="q")]),),
            ["z", "a", "b", "c", "b"],
        ),
    ),
)

NULLS = 'There may stand { is = "null" } or { is = "not null" }'
NO_VALUE = "{} of public.kinds is {}, and x is no such value"
FAULTY: tuple[tuple[str, Filter, str | None], ...] = (
    ("a value", of("int", "1"), None),
    ("no value of its type", of("int", "1", "x"), NO_VALUE.format('"int"', "integer")
     + ". There may stand a whole number"),
    ("no such column", of("gone", "1"), "public.kinds has no column gone"),
    ("no such column, and null", of("gone", is_null=True), "public.kinds has no column gone"),
    ("no such other column", of("big", other="gone"), "public.kinds has no column gone"),
    ("neither column", of("lost", other="gone"), "public.kinds has no column lost"),
    ("null of several values", of("list", is_null=True), None),
    ("null of what cannot be compared", of("doc", is_null=False), None),
    ("several values", of("moments", "1"),
     "moments of public.kinds is timestamp with time zone[], which holds several values. " + NULLS),
    ("what cannot be compared", of("doc", "1"),
     "doc of public.kinds is json, and two values of that type cannot be compared. " + NULLS),
    ("two columns", of("num", op="<", other="float"), None),
    ("two columns of different kinds", of("moment", other="num"),
     "moment of public.kinds is timestamp with time zone and num is numeric: two columns of these"
     " types cannot be compared"),
    ("the same, the other way round", of("num", other="moment"),
     "num of public.kinds is numeric and moment is timestamp with time zone: two columns of these"
     " types cannot be compared"),
)  # fmt: skip
MAY_STAND = {
    "small": "There may stand a whole number",
    "int": "There may stand a whole number",
    "big": "There may stand a whole number",
    "num": "There may stand a number",
    "real": "There may stand a number",
    "float": "There may stand a number",
    "flag": "There may stand true or false",
    "day": "There may stand a day such as 2025-08-01",
    "local": "There may stand a moment such as 2025-08-01T12:00:00Z",
    "moment": "There may stand a moment such as 2025-08-01T12:00:00Z",
    "id": "There may stand a uuid",
    "mood": "There are: low, high",
    "text": None,
    "ints": None,
}
FAULTS = Rule(
    "why a filter cannot be",
    ("filter_fault", "may_stand"),
    (
        *(
            Case(
                name,
                "select backfill_private.filter_fault('public.kinds', %s)",
                (json.dumps(told),),
                wanted,
                KINDS,
            )
            for name, told, wanted in FAULTY
        ),
        *(
            Case(
                f"what may stand in {column}",
                "select backfill_private.may_stand("
                "backfill_private.value_type('public.kinds', %s))",
                (column,),
                wanted and f". {wanted}",
                KINDS,
            )
            for column, wanted in MAY_STAND.items()
        ),
    ),
)

PLANNED = f"""
select jsonb_agg(to_jsonb(p) order by p.place)
from backfill_private.planned_rows('{RUN}') as p
"""


def rows(table: str, new: int, replaced: int, **versions: int) -> dict[str, object]:
    return {
        "place": 1 if table == "toy_scores" else 2,
        "table_name": f"public.{table}",
        "new": new,
        "replaced": replaced,
        "versions": versions,
    }


def planned(name: str, wanted: list[dict[str, object]], *given: str) -> Case:
    return Case(name, PLANNED, (), wanted, given)


IN_ONE_TABLE = (
    "update public.backfill_targets set table_name = 'public.toy_scores' where target = 'toy'"
)
PLANNED_ROWS = Rule(
    "how many rows are new, and how many replace one",
    ("planned_rows",),
    (
        planned("nothing is planned", [rows("toy_scores", 0, 0), rows("toy_profiles", 0, 0)]),
        planned(
            "all are new", [rows("toy_scores", 2, 0), rows("toy_profiles", 1, 0)],
            item(1), item(2, components=["score"]),
        ),
        planned(
            "some replace a row",
            [rows("toy_scores", 1, 3, v0=1, v1=2), rows("toy_profiles", 4, 0)],
            item(1, replaces={"score": "v1"}), item(2, replaces={"score": "v1"}),
            item(3, replaces={"score": "v0"}), item(4),
        ),
        planned(
            "of a table that two components share",
            [rows("toy_scores", 1, 3, v0=1, v1=2)],
            IN_ONE_TABLE, item(1, replaces={"score": "v1", "profile": "v1"}),
            item(2, replaces={"profile": "v0"}),
        ),
        planned(
            "another run's", [rows("toy_scores", 1, 0), rows("toy_profiles", 0, 1, v1=1)],
            item(1, replaces={"profile": "v1"}), item(2, run=OTHER_RUN),
            run_has(OTHER_RUN, target="prism"),
        ),
    ),
)  # fmt: skip

RULES = (COMMON_FORM, READING, FAULTS, PLANNED_ROWS)
