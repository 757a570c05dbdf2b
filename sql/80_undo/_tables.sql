-- Tables of undo: previews and how far each was carried out.

create table backfill_private.undos (
  undo_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id),
  -- Null until the look at every row in scope has come to its end.
  digest text,
  scope jsonb not null,
  state text not null default 'previewed' check (state in ('previewed', 'confirmed', 'finished')),
  previewed_at timestamptz not null default backfill_private.clock(),
  reason text,
  confirmed_by text,
  confirmed_at timestamptz,
  finished_at timestamptz,
  -- The look, of the preview and once more before anything is written: how far it is, a hash over what it saw, and that
  -- in figures. checked_events: how many events the run had when the second began; checked_at: when it last went on.
  looked_ordinal integer not null default 0,
  looked_hash text not null default '',
  effect jsonb not null default '{}',
  -- When the preview began, as a snapshot and by the run's events; null where it found conflicts.
  seen pg_snapshot,
  seen_events bigint,
  checked_events bigint,
  checked_at timestamptz,
  last_ordinal integer not null default 0,
  -- The sessions in scope that have rows, how many were gone through, and what became of their rows.
  sessions_total bigint,
  sessions_seen bigint not null default 0,
  done jsonb not null default '{"deletes": {}, "restores": {}, "sessions": 0}',
  conflicts jsonb not null default '[]'
);

create index backfill_undos_runs on backfill_private.undos (run_id, undo_id);

-- A written row, folded: one that was written several times goes back to before the first write.
--
-- first_before, has_before  what it was before, and whether it was at all; last_hash: what we left, null where we deleted it
-- receipts, last_receipt    the receipts that an undo of the row takes back; the newest stands for the row
create type backfill_private.undoable as (
  ordinal integer, session_id text, component text, table_name text, row_key jsonb, first_before jsonb, has_before boolean,
  last_hash bytea, receipts bigint[], last_receipt bigint, is_inferred boolean, attempt integer
);
