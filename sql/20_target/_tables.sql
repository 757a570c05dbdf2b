-- Tables of targets: what a source is, what a component is.
--
-- The core reads these rows and knows no target by name. It uses every identifier in them through %I or regclass.

create table backfill_private.sources (
  target text primary key check (target ~ '^[a-z][a-z0-9_]{0,30}$'),
  source_table text not null,
  key_column text not null,
  date_column text not null,
  -- which rows are sessions, see filters.sql
  filters jsonb not null default '[]',
  -- [{name, table, column, parameter, component: null for all}]: rows that scoring reads, and how many it needs
  needs jsonb not null default '[]',
  views text[] not null,
  index_name text,
  defaults jsonb not null default '{}',
  -- How people call its rows: one of them, and several
  called text[] not null default '{session,sessions}' check (array_length(called, 1) = 2),
  installed_at timestamptz not null default backfill_private.clock()
);

create table public.backfill_targets (
  target text not null references backfill_private.sources (target),
  component text not null check (component ~ '^[a-z][a-z0-9_]{0,30}$'),
  position integer not null check (position > 0),
  table_name text not null,
  session_column text not null,
  key_columns text[] not null,
  version_column text,
  version text,
  version_parameter text,
  any_version_counts boolean not null default false,
  matches jsonb not null default '{}',
  function_signature text not null,
  arguments jsonb not null,
  helpers text[] not null default '{}',
  needs_first text[] not null default '{}',
  score_ranges jsonb not null default '{}' check (
    -- {column: [lowest, highest]}, two numbers each, in their order
    jsonb_typeof(score_ranges) = 'object'
    and not jsonb_path_exists(score_ranges, 'strict $.* ? (!(@.type() == "array"
      && @.size() == 2 && @[0].type() == "number" && @[1].type() == "number" && @[0] <= @[1]))')),
  transport text not null default 'rpc' check (transport in ('rpc', 'edge')),
  function_version text check (function_version <> ''),
  receipts text not null default 'exact' check (receipts in ('exact', 'inferred')),
  check (version_column is null or version is not null),
  check ((version is null) = (version_parameter is null)),
  check (transport = 'edge' or receipts = 'exact'),
  check ((transport = 'edge') = (function_version is not null)),
  primary key (target, component),
  unique (target, position)
);

comment on table public.backfill_targets is
  'What a component is: the table that holds its rows, the version that is wanted, the function that writes it.';
comment on column public.backfill_targets.target is
  'Name of the target.';
comment on column public.backfill_targets.component is
  'Name of the derived thing that a session may lack.';
comment on column public.backfill_targets.position is
  'Order of the scoring steps of one session, from 1.';
comment on column public.backfill_targets.table_name is
  'The table that holds the component''s rows.';
comment on column public.backfill_targets.session_column is
  'Its column that names the session.';
comment on column public.backfill_targets.key_columns is
  'The columns of the key that a scoring call writes by.';
comment on column public.backfill_targets.version_column is
  'Its column that holds the version. Null: its rows have none, and any row counts.';
comment on column public.backfill_targets.version is
  'The version wanted if the request names none. Null: the function takes none either.';
comment on column public.backfill_targets.version_parameter is
  'Name of the request''s parameter that names the version. Components with one call may share it.';
comment on column public.backfill_targets.any_version_counts is
  'True: a row of any version counts as present. False: only a row of the wanted version does.';
comment on column public.backfill_targets.matches is
  'Further columns that make a row the component''s: column name to request parameter.';
comment on column public.backfill_targets.function_signature is
  'The scoring function, with the types of its arguments. For an Edge Function, its name.';
comment on column public.backfill_targets.arguments is
  'Arguments of the scoring function: name to request parameter.';
comment on column public.backfill_targets.helpers is
  'Signatures of the functions that the scoring function calls. Their definitions go into the digest.';
comment on column public.backfill_targets.needs_first is
  'Components whose rows of the same plan must be there before this one''s is written.';
comment on column public.backfill_targets.score_ranges is
  'Columns that hold scores, with the lowest and highest value: {column: [lowest, highest]}. '
  'A number, or all numbers in an array or JSON.';
comment on column public.backfill_targets.transport is
  'How the function is called: rpc, or edge for an Edge Function.';
comment on column public.backfill_targets.function_version is
  'Which version of an Edge Function is deployed, as declared: its definition is not in the database. '
  'Goes into the digest.';
comment on column public.backfill_targets.receipts is
  'exact: the function hands our headers on, so each row leaves a receipt as it is written. '
  'inferred: receipts are worked out from the rows before and after.';

-- What has to be true of a target's tables, and whether it is: see backfill_private.preconditions.
--
-- kind    key, date, session (a component's column for it), column (of a filter or a need) or value (a version, a kind)
-- place   of the component. 0 is the source
-- detail  what is there. Null: nothing to tell while it is well
-- fault   what is wrong. Null: nothing
-- cure    what to do about it
create type backfill_private.precondition as (
  kind text,
  place integer,
  name text,
  detail text,
  fault text,
  cure text
);
