-- Tables of planning: what the search found, and what a rehearsal saw.

-- What planning found, before the plan is sealed. Afterwards only the excluded sessions stay.
--
-- components  what the session lacks and what is wanted of it. Empty: it is found only for what is not wanted
-- not_wanted  {component: reason}, of components that it lacks and that are not wanted of it. Null: there is none
-- is_named    it is in the plan's priority list and needs nothing
create table backfill_private.findings (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  session_id text not null,
  session_at timestamptz,
  components text[] not null,
  not_wanted jsonb,
  excluded text,
  is_named boolean not null default false,
  primary key (run_id, session_id)
);

create table backfill_private.rehearsals (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  ordinal bigint not null,
  session_id text not null,
  session_at timestamptz not null,
  components text[] not null,
  category text not null,
  phase text not null,
  seen jsonb,
  primary key (run_id, session_id)
);

-- The rows of a rehearsed session as they stood at its moments. Written and read in the subtransaction that is rolled
-- back: empty to everyone else.
create table backfill_private.rehearsal_rows (
  scratch uuid not null,
  moment text not null check (moment in ('before', 'first', 'second', 'undone')),
  table_name text not null,
  row_key jsonb not null,
  contents jsonb not null,
  primary key (scratch, moment, table_name, row_key)
);

-- A table that a run writes: how many rows it plans for it, and how many of them replace one. See blast_radius.sql.
create type backfill_private.written_table as (relation regclass, planned_rows bigint, replaced_rows bigint);
