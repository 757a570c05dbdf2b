"""The SQL of a declared target as templates, each piece indented as in the whole.

Names and values are inserted as SQL writes them.
"""

TARGET = """\
-- Target {target}, made from its declaration: backfill install --target FILE.

set local lock_timeout = '3s';

-- This also creates the view {standing}:
-- every selected session, what it lacks of the wanted versions, and why it cannot be scored.
-- Its conditions compare in the columns' types, which only the database knows.
select backfill_private.declare_target({declaration}::jsonb);

-- The sessions without a row of some component, as planning reads them.
create view {gaps} with (security_invoker = true) as
select
  g.id::text as session_id,
  g.created_at as session_at,
  array_remove(array[
    {lacking_first}
  ]::text[], null) as components,
  {not_wanted} as not_wanted,
  g.excluded,
  {flags},
  g.id
from {standing} as g
where g.is_incomplete;

-- The candidates: sessions that lack something and can be scored.
create view {candidates} with (security_invoker = true) as
select
  g.id as session_id,
  array_to_string(array_remove(array[
    {lacking_last}
  ]::text[], null), '+') as category,
  g.session_at as created_at,
  {flags}
from {gaps} as g
where g.excluded is null
  and ({any_flag});

{candidate_comments}

{missing}

-- Sessions by UTC day, and which share of those that can be scored is complete.
create view {coverage} with (security_invoker = true) as
select
  d.day,
  d.completed,
  d.complete,
  {counted},
  d.excluded,
  round(d.complete::numeric / nullif(d.completed - d.excluded, 0), 4) as coverage
from (
  select
    (s.created_at at time zone 'UTC')::date as day,
    count(*) as completed,
    {counts},
    count(*) filter (where not s.excluded is null) as excluded
  from {standing} as s
  group by 1
) as d
order by d.day;

{coverage_comments}

-- Only for service_role: row level security would show ordinary users present rows as missing.
{rights}
"""

INDEX = """\
-- The sessions of target {target} by date, for detection.
-- Everything works without it, but slower.
create index concurrently if not exists {index}
  on {source} ({date}){where};
"""

MISSING = """\
-- The candidates that lack {component}.
create view {view} with (security_invoker = true) as
select
  {columns}
from {candidates} as c
where c.{flag};"""
