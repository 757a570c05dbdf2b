-- Tables of a run under way: receipts, looks before a call, calls in bulk.

create table public.backfill_receipts (
  receipt_id bigint generated always as identity primary key,
  run_id uuid not null,
  ordinal integer not null,
  session_id text not null,
  component text not null,
  kind text not null check (kind in ('score', 'undo')),
  operation text not null check (operation in ('insert', 'update', 'delete')),
  table_name text not null,
  row_key jsonb not null,
  shape bytea not null,
  before text,
  before_hash bytea,
  after_hash bytea,
  after_columns bigint[],
  attempt integer not null,
  is_inferred boolean not null default false,
  at timestamptz not null,
  undone_at timestamptz,
  undo_id bigint
);

create index backfill_receipts_items on public.backfill_receipts (run_id, ordinal);

comment on table public.backfill_receipts is
  'One receipt per row that a run wrote, committed with it: key, operation, hashes. '
  'No foreign key, so that scoring locks only its item.';
comment on column public.backfill_receipts.receipt_id is 'Grows with every receipt. Gaps mean nothing.';
comment on column public.backfill_receipts.run_id is 'The run that wrote the row.';
comment on column public.backfill_receipts.ordinal is 'The session''s place in the run''s plan.';
comment on column public.backfill_receipts.session_id is 'The session.';
comment on column public.backfill_receipts.component is 'The component that the row belongs to.';
comment on column public.backfill_receipts.kind is 'score: the run wrote it. undo: an undo did.';
comment on column public.backfill_receipts.operation is 'insert, update or delete.';
comment on column public.backfill_receipts.table_name is 'The table.';
comment on column public.backfill_receipts.row_key is 'The key of the row.';
comment on column public.backfill_receipts.shape is
  'The columns that the row had: see backfill_private.shapes.';
comment on column public.backfill_receipts.before is
  'The row before as text, for undo. No API role reads it. backfill_prune empties it. An undo itself keeps none.';
comment on column public.backfill_receipts.before_hash is 'SHA-256 of the row before. Null if there was none.';
comment on column public.backfill_receipts.after_hash is
  'SHA-256 of the row as it was left. Null if it was deleted.';
comment on column public.backfill_receipts.after_columns is
  'A short hash per column, to compare the others when a migration drops one. No API role reads it.';
comment on column public.backfill_receipts.attempt is 'The number of the session''s attempt.';
comment on column public.backfill_receipts.is_inferred is
  'True: nobody saw the write. The row differed when the session was settled. See backfill_targets.receipts.';
comment on column public.backfill_receipts.at is 'When the row was written.';
comment on column public.backfill_receipts.undone_at is 'When an undo took this write back.';
comment on column public.backfill_receipts.undo_id is
  'The undo that took this write back, or that wrote this receipt. Null: none. The chain names it as undo.';

-- The rows of a leased session as they were when it was leased. Deleted when it is settled.
create table backfill_private.looks (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  ordinal integer not null,
  component text not null,
  row_key jsonb not null,
  shape bytea not null,
  image text not null,
  primary key (run_id, ordinal, component, row_key)
);

-- No session of a run before the newest mark is pending: see low_water.sql.
create table backfill_private.low_water (
  run_id uuid not null,
  mark_id bigint generated always as identity,
  ordinal integer not null,
  primary key (run_id, mark_id)
);

-- Up to when all leases that ran out have been settled, as the newest look says: see low_water.sql.
create table backfill_private.lease_looks (
  look_id bigint generated always as identity primary key,
  until timestamptz not null
);

-- The calls in bulk that are under way, each with its sessions. Keeping and settling are allowed only in the
-- transaction of one. None outlives its transaction, so no log of it is written.
create unlogged table backfill_private.bulk_claims (
  xid xid8 primary key,
  claim_id uuid not null,
  run_id uuid not null,
  ordinals integer[] not null,
  started_at timestamptz not null default backfill_private.clock()
);

create constraint trigger bulk_claims_settled after insert or update on backfill_private.bulk_claims
  deferrable initially deferred
  for each row
  execute function backfill_private.refuse_to_commit('xid', 'a call in bulk ends once it is settled');

-- The rows that a call in bulk has written, as the gate saw them, until their receipts are written. The functions that
-- it calls reach this table with no right. turn is what the setting backfill.bulk said.
create unlogged table backfill_private.bulk_rows (
  xid xid8 not null,
  turn text not null,
  target text not null,
  component text not null,
  operation text not null,
  before jsonb,
  after jsonb,
  relation oid not null,
  image text,
  after_hash bytea,
  nth bigint generated always as identity,
  primary key (xid, nth)
);
