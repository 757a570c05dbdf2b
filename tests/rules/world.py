"""The small world of the rules: a clock that stands, a toy target, a run that runs.

Everything is written by the owner past every verb, so that each case can begin anywhere.
"""

from __future__ import annotations

import json

from tests.rules.case import Db

RUN = "00000000-0000-0000-0000-000000000001"
OTHER_RUN = "00000000-0000-0000-0000-000000000002"
NOW = "2025-11-02T12:00:00+00:00"
REQUEST = {
    "batch_size": 5,
    "throttle_per_minute": 20,
    "score_version": "v2",
    "profile_version": "v2",
}

OTHER_REQUEST = {**REQUEST, "score_version": "v1", "throttle_per_minute": 7}

WORLD = f"""
create or replace function backfill_private.clock() returns timestamptz
language plpgsql volatile set search_path = pg_catalog, pg_temp
as 'begin return ''{NOW}''::timestamptz; end';

create table public.toy_sessions (id text primary key, at timestamptz not null);
create table public.toy_scores (
  session_id text, version text, points jsonb, primary key (session_id, version));
create table public.toy_profiles (session_id text primary key, version text, level numeric);

create view backfill_private.toy_standing as
select s.id, s.at as created_at, null::text as excluded from public.toy_sessions as s;
insert into public.toy_sessions select 's' || n, '2025-10-01' from generate_series(1, 600) as n;

insert into backfill_private.sources (target, source_table, key_column, date_column, views)
values ('toy', 'public.toy_sessions', 'id', 'at', '{{}}');
insert into public.backfill_targets (target, component, position, table_name, session_column,
  key_columns, version_column, version, version_parameter, any_version_counts,
  function_signature, arguments, score_ranges)
values
  ('toy', 'score', 1, 'public.toy_scores', 'session_id', '{{session_id,version}}', 'version',
   'v2', 'score_version', false, 'public.x(text)', '{{}}', '{{"points": [0, 100]}}'),
  ('toy', 'profile', 2, 'public.toy_profiles', 'session_id', '{{session_id}}', 'version',
   'v2', 'profile_version', true, 'public.x(text)', '{{}}', '{{"level": [1, 5]}}');

insert into public.backfill_runs (run_id, state, target, request, requested_via, resumed_at)
values ('{RUN}', 'running', 'toy', '{json.dumps(REQUEST)}', 'sql', '2025-11-02T11:58:07Z'),
  ('{OTHER_RUN}', 'running', 'toy', '{json.dumps(OTHER_REQUEST)}', 'sql', '2025-11-02T11:58:07Z');
"""


def prepare(db: Db) -> None:
    """Make the world in a database with the migrations."""
    db.execute(WORLD.encode())


def literal(value: object) -> str:
    """A value as SQL. A dict is JSON, a list an array of texts."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        value = json.dumps(value)
    if isinstance(value, list):
        value = "{" + ",".join(str(part) for part in value) + "}"
    return "'" + str(value).replace("'", "''") + "'"


def insert(table: str, **columns: object) -> str:
    """An insert of one row."""
    names, values = ", ".join(columns), ", ".join(literal(v) for v in columns.values())
    return f"insert into {table} ({names}) values ({values})"


def item(ordinal: int, *, run: str = RUN, **columns: object) -> str:
    """An item of the run: session s1, s2, …, which lacks both components, pending."""
    usual = {
        "session_at": "2025-10-01",
        "components": ["score", "profile"],
        "category": "profile+score",
        "phase": "recent",
        "batch": 1,
    }
    fixed = {"run_id": run, "ordinal": ordinal, "source": "toy", "session_id": f"s{ordinal}"}
    return insert("public.backfill_items", **{**usual, **fixed, **columns})


def run_has(run: str = RUN, **columns: object) -> str:
    """Change the run's row."""
    values = ", ".join(f"{name} = {literal(value)}" for name, value in columns.items())
    return f"update public.backfill_runs set {values} where run_id = '{run}'"


def stand_in(signature: str, returns: str, body: str) -> str:
    """Another function in place of one that a rule asks: what it says is given."""
    return (
        f"create or replace function backfill_private.{signature} returns {returns}"
        f" language sql set search_path = pg_catalog, pg_temp as $stand_in$ {body} $stand_in$"
    )
