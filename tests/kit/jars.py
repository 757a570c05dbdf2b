"""A small target beside the sample: jars that need a label, named by numbers.

A jar that was thrown away is not selected any more, and a label needs a spoon of jam.
"""

from __future__ import annotations

from typing import Any

from backfill.targets.declaration import Declaration, parse
from tests.conftest import Project
from tests.kit.edge import declare

SCHEMA = """
create table public.jars (id {key} primary key, thrown_away_at timestamptz, filled_at {date});
create table public.spoons (jar_id {key} not null references public.jars on delete cascade);
create table public.labels (
  jar_id {key} primary key {labels}, made_with text not null, words text);
create function public.label_jar(jar_id {key}, made_with text) returns void
language sql set search_path = '' as $$
  insert into public.labels
  select j.id, label_jar.made_with, 'jam' from public.jars as j where j.id = label_jar.jar_id
  on conflict on constraint labels_pkey do update set made_with = excluded.made_with
$$;
grant select, insert, update, delete on public.jars, public.spoons, public.labels to service_role;
"""
TOML = """
target = "jars"

[source]
table = "public.jars"
key = "id"
date = "filled_at"
where = {{ thrown_away_at = {{ is = "null" }} }}
index = "jars_by_day"
{needs}

[[component]]
name = "label"
table = "public.labels"
session = "jar_id"
key = ["jar_id"]
version_column = "made_with"
version = "ink"
function = "public.label_jar({key},text)"
arguments = {{ jar_id = "session_id", made_with = "label_version" }}
"""
NEEDS = """
needs = [
  { name = "spoons", table = "public.spoons", column = "jar_id", at_least = "min_spoons" },
]

[parameters]
min_spoons = 1
"""
PLAN: dict[str, Any] = {
    "target": "jars",
    "since": "2025-08-01",
    "throttle_per_minute": "none",
    "rehearse": 0,
}


def jars(
    project: Project,
    *ids: object,
    key: str = "bigint",
    date: str = "timestamptz",
    labels: str = "",
    needs: bool = False,
) -> None:
    """Declare the target, with these jars, filled on 2025-08-02 one after the other.

    key, date: types of the columns. labels: a constraint. needs: whether spoons are needed.
    """
    project.db.execute(SCHEMA.format(key=key, date=date, labels=labels).encode())
    for place, jar in enumerate(ids):
        project.db.execute(
            "insert into public.jars values"
            " (%s, null, timestamptz '2025-08-02 10:00Z' + %s * interval '1 minute')",
            (jar, place),
        )
    declare(project, _declared(key, needs=needs))


def _declared(key: str, *, needs: bool) -> Declaration:
    return parse(TOML.format(key=key, needs=NEEDS if needs else ""))


def labelled(project: Project) -> set[str]:
    """The jars that have a label."""
    return {row["id"] for row in project.rows("select jar_id::text as id from public.labels")}
