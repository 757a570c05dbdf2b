-- Tables of undo: previews and how far each was carried out.

create table backfill_private.undos (
  undo_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id),
  -- Null until the look at every row in scope has ended.
  digest text,
  scope jsonb not null,
  state text not null default 'previewed' check (state in ('previewed', 'confirmed', 'finished')),
  previewed_at timestamptz not null default backfill_private.clock(),
  -- The Auth user who asked for it. Null: the service key or the SQL editor.
  asked_by uuid,
  -- Rows that it may write: those of the preview, its conflicts included.
  rows_at_stake bigint,
  approved_by text,
  approver_id uuid,
  approved_via text,
  approved_until timestamptz,
  reason text,
  confirmed_by text,
  confirmed_at timestamptz,
  finished_at timestamptz,
  -- The look, which the preview makes and which is made again before anything is written: how far it is, a hash over
  -- what it saw, and the figures. checked_events: how many events the run had when the second look began.
  -- checked_at: when the second look last went on.
  looked_ordinal integer not null default 0,
  looked_hash text not null default '',
  effect jsonb not null default '{}',
  -- When the preview began, as a snapshot and by the run's events. Null if it found conflicts.
  seen pg_snapshot,
  seen_events bigint,
  checked_events bigint,
  checked_at timestamptz,
  last_ordinal integer not null default 0,
  -- The sessions in scope that have rows, how many of them are done, and what became of their rows.
  sessions_total bigint,
  sessions_seen bigint not null default 0,
  done jsonb not null default '{"deletes": {}, "restores": {}, "sessions": 0, "conflicts_total": 0}'
);

create index backfill_undos_runs on backfill_private.undos (run_id, undo_id);

-- The rows that an undo leaves: as its look sees it, and, once it was confirmed, as it came. There may be as many as
-- the run wrote, so nobody is told all at once.
create table backfill_private.conflicts (
  conflict_id bigint generated always as identity primary key,
  undo_id bigint not null references backfill_private.undos (undo_id) on delete cascade,
  is_left boolean not null,
  session_id text not null,
  table_name text not null,
  row_key jsonb not null,
  reason text not null
);

create index backfill_conflicts_undos on backfill_private.conflicts (undo_id, is_left, conflict_id);

-- A written row. A row that was written several times goes back to before the first write.
--
-- first_before  the image of what the row was before, as the table has its columns now
-- columns       names of the columns that the image has
-- has_before    did it exist before
-- is_forged     its image is not the one that before_hash is of
-- after_hash    what we left, of this shape, and a short hash per column. Null if we deleted it
-- receipts      the receipts that an undo of the row takes back
-- last_receipt  the newest of them, which stands for the row
create type backfill_private.undoable as (
  ordinal integer,
  session_id text,
  component text,
  table_name text,
  row_key jsonb,
  first_before text,
  columns text[],
  has_before boolean,
  is_forged boolean,
  shape bytea,
  after_hash bytea,
  after_columns bigint[],
  receipts bigint[],
  last_receipt bigint,
  is_inferred boolean,
  attempt integer
);

-- The rows of one shape that were written to a table, for SQL over u, a row of unnest($1), and t, a row of the table.
--
-- picks       is u a row of this table and shape
-- joins       is t the row that u names
-- is_as_left  is t as the run left it, see backfill_private.as_left_sql
create type backfill_private.undo_table as (
  tab regclass,
  shape bytea,
  picks text,
  joins text,
  is_as_left text
);

-- How an undo's rows are written.
--
-- path      the search path under which the user's code runs, see backfill_private.undo_path
-- limit_at  when the time limit of the statement comes
-- is_alone  only one session is undone by this statement: a limit that it meets is met by any statement
-- ends_at   no session is begun from then on, except the first. Null: any time
-- is_begun  a session is undone, and its rows are locked
-- undo_id   the undo, which its receipts name. Null in a rehearsal
create type backfill_private.undo_terms as (
  path text,
  limit_at timestamptz,
  is_alone boolean,
  ends_at timestamptz,
  is_begun boolean,
  undo_id bigint
);
