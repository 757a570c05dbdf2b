-- Tables of runs: one plan and all that happens to it, one row per planned session, the chain of events, the starts.

-- What the keys of our advisory locks are made with, so that nobody can guess them: see lock.sql. One row.
create table backfill_private.lock_secret (
  only_row boolean primary key default true check (only_row),
  secret text not null default gen_random_uuid() || '/' || gen_random_uuid()
);

insert into backfill_private.lock_secret default values;

-- While a run is running, what a batch changes of it stands in backfill_private.tallies: see tally.sql.
create table public.backfill_runs (
  run_id uuid primary key default gen_random_uuid(),
  state text not null default 'planning',
  reason text,
  cause text,
  held_by text,
  target text not null,
  environment text,
  request jsonb not null,
  plan jsonb,
  digest text check (digest ~ '^[0-9a-f]{64}$'),
  requested_by uuid,
  requested_via text not null,
  approved_by text,
  approved_via text,
  approved_at timestamptz,
  approved_until timestamptz,
  created_at timestamptz not null default backfill_private.clock(),
  sealed_at timestamptz,
  started_at timestamptz,
  resumed_at timestamptz,
  finished_at timestamptz,
  next_batch_at timestamptz,
  pace_per_minute integer check (pace_per_minute > 0),
  batches_granted integer not null default 0,
  settled_since integer not null default 0,
  failed_since integer not null default 0,
  failed_in_row integer not null default 0,
  troubled_batches integer not null default 0,
  trials integer not null default 0,
  back_off_until timestamptz,
  back_off_reason text,
  canary text check (canary in ('passed', 'failed', 'overridden')),
  fingerprint jsonb,
  server text,
  project_host text,
  sealed_snapshot text,
  collect_from timestamptz,
  collect_until timestamptz,
  collect_window interval,
  data_marks jsonb,
  rehearse integer,
  loose_settings text[] not null default '{}',
  audit_count bigint not null default 0,
  audit_head text not null default '',
  constraint backfill_runs_pace_approved check (
    pace_per_minute <= coalesce((request ->> 'throttle_per_minute')::integer, pace_per_minute)),
  constraint backfill_runs_state_check check (state in (
    'planning', 'awaiting_approval', 'approved', 'running', 'paused', 'completed',
    'rejected', 'cancelled', 'expired', 'rolled_back'))
);

comment on table public.backfill_runs is
  'One row per run: what was asked, what was planned, who approved it, where it stands.';
comment on column public.backfill_runs.run_id is
  'Id of the run. On the command line its first eight characters are enough if no other begins so.';
comment on column public.backfill_runs.state is
  'Where the run stands. backfill_transitions has every legal move.';
comment on column public.backfill_runs.reason is
  'Why the run is paused, rejected, cancelled or expired.';
comment on column public.backfill_runs.cause is
  'What kind of reason a pause has, as a code. backfill_run_progress says what helps.';
comment on column public.backfill_runs.held_by is
  'Who asked for the pause. Null: the database saw the reason itself.';
comment on column public.backfill_runs.target is
  'What is backfilled: a target of backfill_targets.';
comment on column public.backfill_runs.environment is
  'The environment that the plan is for, as backfill_settings had it.';
comment on column public.backfill_runs.request is
  'Every parameter of the plan, normalised.';
comment on column public.backfill_runs.plan is
  'Figures and checks as measured when the plan was sealed. The sessions are in backfill_items.';
comment on column public.backfill_runs.digest is
  'SHA-256 over the canonical plan. An approval names it.';
comment on column public.backfill_runs.requested_by is
  'Auth user who planned it. Null for the service key and the SQL editor.';
comment on column public.backfill_runs.requested_via is
  'Who asked for it: service_role, user or postgres.';
comment on column public.backfill_runs.approved_by is
  'Who approved it, by the name given or the e-mail address. Null until then.';
comment on column public.backfill_runs.approved_via is
  'How it was approved: sql, auth, service_key or standing.';
comment on column public.backfill_runs.approved_at is
  'When it was approved.';
comment on column public.backfill_runs.approved_until is
  'When the approval runs out. No session starts after that.';
comment on column public.backfill_runs.created_at is
  'When planning began.';
comment on column public.backfill_runs.sealed_at is
  'When the plan was complete and got its digest. Null while it is being made.';
comment on column public.backfill_runs.started_at is
  'When the first worker started it.';
comment on column public.backfill_runs.resumed_at is
  'When it was last started or resumed. Rates count from here.';
comment on column public.backfill_runs.finished_at is
  'When it came to an end.';
comment on column public.backfill_runs.next_batch_at is
  'No batch starts before this, so that the throttle is kept.';
comment on column public.backfill_runs.pace_per_minute is
  'Starts per minute if somebody has lowered them. Null: as approved. Never more than that.';
comment on column public.backfill_runs.batches_granted is
  'How many batches were granted so far.';
comment on column public.backfill_runs.settled_since is
  'Sessions done or failed since the run was started or resumed: what the circuit breaker counts.';
comment on column public.backfill_runs.failed_since is
  'How many of these failed.';
comment on column public.backfill_runs.failed_in_row is
  'How many of the newest of these failed in a row.';
comment on column public.backfill_runs.troubled_batches is
  'How many of the newest batches in a row brought no known outcome.';
comment on column public.backfill_runs.trials is
  'How often an error that could be every session''s proved to be one session''s since the run was started or resumed.';
comment on column public.backfill_runs.back_off_until is
  'No batch starts before this. back_off_reason says why.';
comment on column public.backfill_runs.back_off_reason is
  'The trouble after which the run waits until back_off_until.';
comment on column public.backfill_runs.canary is
  'What the look at the priority sessions said. overridden: somebody resumed after it had failed. '
  'Null: not looked yet.';
comment on column public.backfill_runs.fingerprint is
  'Definitions of the scoring functions when the plan was sealed.';
comment on column public.backfill_runs.server is
  'The server and database that the plan was sealed on. A restored or copied database is another one.';
comment on column public.backfill_runs.project_host is
  'Host of the project as the planning client saw it.';
comment on column public.backfill_runs.sealed_snapshot is
  'PostgreSQL''s snapshot at sealing: tells later rows from earlier ones.';
comment on column public.backfill_runs.collect_from is
  'While planning: how far the search has come.';
comment on column public.backfill_runs.collect_until is
  'While planning: where the search ends.';
comment on column public.backfill_runs.collect_window is
  'While planning: how long a span of dates the next look takes.';
comment on column public.backfill_runs.data_marks is
  'While planning: the marks on the data, until they are in the plan with the others.';
comment on column public.backfill_runs.rehearse is
  'How many sessions to score and roll back while planning, as asked. Null: 5, and none in production.';
comment on column public.backfill_runs.loose_settings is
  'In bulk: settings that functions of this database set by name. They are put back after each call.';
comment on column public.backfill_runs.audit_count is
  'How many audit events the run has.';
comment on column public.backfill_runs.audit_head is
  'Hash of the newest audit event.';

create table public.backfill_items (
  run_id uuid not null references public.backfill_runs (run_id),
  ordinal integer not null check (ordinal > 0),
  source text not null,
  session_id text not null,
  session_at timestamptz not null,
  components text[] not null check (cardinality(components) > 0),
  replaces jsonb not null default '{}',
  category text not null,
  phase text not null check (phase in ('priority', 'recent', 'historical')),
  batch integer not null check (batch > 0),
  state text not null default 'pending',
  attempts integer not null default 0,
  crowded_out integer not null default 0,
  unknown_outcomes integer not null default 0,
  is_alone boolean not null default false,
  not_before timestamptz,
  trial text check (trial in ('aside', 'called', 'agreed', 'resumed')),
  started_at timestamptz,
  settled_at timestamptz,
  failed_step text,
  error_code text,
  error_message text check (length(error_message) <= 500),
  filled text[] not null default '{}',
  unselected text,
  worker text,
  claim_id uuid,
  lease_kind text check (lease_kind in ('score', 'undo')),
  lease_until timestamptz,
  fence_hash bytea,
  primary key (run_id, ordinal),
  -- The session first: verify asks which runs have had it.
  unique (session_id, source, run_id),
  constraint backfill_items_state_check check (state in (
    'pending', 'leased', 'done', 'failed', 'skipped', 'rolled_back'))
);

-- The gate finds an item by its fence. A fence belongs to one item.
create unique index backfill_items_fence on public.backfill_items (fence_hash) where fence_hash is not null;

-- A session is leased once over all runs. The few live leases are found here too, to see which ran out.
create unique index backfill_items_one_lease on public.backfill_items (source, session_id) where state = 'leased';

-- Leases by the moment at which they run out. Only a leased item has one. It is not asked for its state, or the index
-- above would seem as good, in which all leases of before may still stand: see 60_apply/low_water.sql.
create index backfill_items_lease_end on public.backfill_items (lease_until) where lease_until is not null;

-- The few sessions whose error may be every session's.
create index backfill_items_trial on public.backfill_items (run_id, ordinal) where trial is not null;

-- The sessions that are called alone.
create index backfill_items_alone on public.backfill_items (run_id, ordinal) where is_alone;

-- The next batch.
create index backfill_items_pending on public.backfill_items (run_id, ordinal) where state = 'pending';

-- The few that met trouble and are tried again.
create index backfill_items_tired on public.backfill_items (run_id, ordinal)
  where state = 'pending' and (not_before is not null or trial is not null);

comment on table public.backfill_items is
  'One row per planned session: its place in the plan and what became of it.';
comment on column public.backfill_items.run_id is
  'The run.';
comment on column public.backfill_items.ordinal is
  'Place in the plan, from 1.';
comment on column public.backfill_items.source is
  'The target whose session it is.';
comment on column public.backfill_items.session_id is
  'The session, its key as text.';
comment on column public.backfill_items.session_at is
  'The session''s date, by which it is planned, undone and counted.';
comment on column public.backfill_items.components is
  'What the session lacked when the plan was sealed, in the order of the steps.';
comment on column public.backfill_items.replaces is
  'The rows that stood in the place of planned ones when the plan was sealed: {component: version}. '
  'A component that is not named gets a new row.';
comment on column public.backfill_items.category is
  'The components that it lacked, the last derived first, joined by +.';
comment on column public.backfill_items.phase is
  'priority, recent or historical.';
comment on column public.backfill_items.batch is
  'Number of its batch in the plan.';
comment on column public.backfill_items.state is
  'pending, leased, done, failed, skipped (somebody else filled it, or it is no longer selected) or rolled_back.';
comment on column public.backfill_items.attempts is
  'How often the session was leased for scoring.';
comment on column public.backfill_items.crowded_out is
  'Attempts that were rolled back because of what others did at the same time, of which the fifth is a failure, or '
  'that were asked to wait while others were not, of which the sixth is.';
comment on column public.backfill_items.unknown_outcomes is
  'Attempts that ended nobody knows how and left no row. They have a budget of their own, of eight.';
comment on column public.backfill_items.is_alone is
  'True: it was not well beside others, in bulk in one transaction with them, so a call of its own decides.';
comment on column public.backfill_items.not_before is
  'When a session that ran into trouble may be tried again.';
comment on column public.backfill_items.trial is
  'aside: its error may be every session''s, so it waits until another session was tried alone. called: it is or was '
  'that one. agreed: that one met such an error too. resumed: it met one before somebody resumed the run.';
comment on column public.backfill_items.started_at is
  'When its newest attempt was leased.';
comment on column public.backfill_items.settled_at is
  'When it came to an end. Null before.';
comment on column public.backfill_items.failed_step is
  'The component whose scoring call failed.';
comment on column public.backfill_items.error_code is
  'Why it failed. For a pending session, the trouble of its newest attempt.';
comment on column public.backfill_items.error_message is
  'What the error said, 500 characters at most, never a row''s contents.';
comment on column public.backfill_items.filled is
  'Components that somebody else had filled by the time the session was leased.';
comment on column public.backfill_items.unselected is
  'Why the target no longer selected it by the time it was to be leased. Null: it did.';
comment on column public.backfill_items.worker is
  'Who holds it now.';
comment on column public.backfill_items.claim_id is
  'The claim under which it is held.';
comment on column public.backfill_items.lease_kind is
  'What it is held for: score or undo.';
comment on column public.backfill_items.lease_until is
  'When the lease runs out if nobody renews it.';
comment on column public.backfill_items.fence_hash is
  'SHA-256 of the fence of the live attempt. The fence itself is stored nowhere.';

-- What batches have changed of a running run since its row was last written. The newest counts: see tally.sql.
create table backfill_private.tallies (
  run_id uuid not null,
  tally_id bigint generated always as identity,
  audit_count bigint not null,
  audit_head text not null,
  batches_granted integer not null,
  next_batch_at timestamptz,
  settled_since integer not null,
  failed_since integer not null,
  failed_in_row integer not null,
  primary key (run_id, tally_id)
);

-- How many sessions started when: what the throttle counts.
create table backfill_private.starts (
  run_id uuid not null references public.backfill_runs (run_id),
  started_at timestamptz not null,
  sessions integer not null,
  primary key (run_id, started_at)
);

-- What the newest look at the load said of a run: see health.sql.
create table backfill_private.health (
  run_id uuid primary key references public.backfill_runs (run_id) on delete cascade,
  looked_at timestamptz not null,
  reason text
);

-- The starts that the project's bound allows per minute, each with the moment when it was last taken: see throttle.sql.
create table backfill_private.slots (
  slot integer generated always as identity primary key,
  used_at timestamptz not null
);

create table public.backfill_events (
  run_id uuid not null references public.backfill_runs (run_id),
  seq bigint not null,
  at timestamptz not null,
  kind text not null,
  actor text not null,
  details jsonb not null,
  prev_hash text not null,
  hash text not null,
  primary key (run_id, seq)
);

-- What was granted under a claim.
create index backfill_events_claims on public.backfill_events (run_id, (details ->> 'claim'))
  where kind = 'batch_granted';

comment on table public.backfill_events is
  'What happened to a run, a hash chain: every hash covers the event and the hash before it. '
  'Ids, counts, hashes, codes, never contents.';
comment on column public.backfill_events.run_id is
  'The run.';
comment on column public.backfill_events.seq is
  'Place in the run''s chain, from 1 without gaps.';
comment on column public.backfill_events.at is
  'When it happened.';
comment on column public.backfill_events.kind is
  'What happened: a state''s name, or batch_granted, batch_settled, canary, undo_confirmed, …';
comment on column public.backfill_events.actor is
  'Who did it.';
comment on column public.backfill_events.details is
  'Ids, counts, hashes and codes, never contents.';
comment on column public.backfill_events.prev_hash is
  'Hash of the event before. Empty for the first.';
comment on column public.backfill_events.hash is
  'SHA-256 over this event and prev_hash.';

-- The columns that rows of a relation had when a receipt was written: [number, name, type, how it is generated] each,
-- in their order. stamp: the same as the catalog says it, to find the shape by. shape: SHA-256 of relation and stamp.
create table backfill_private.shapes (
  shape bytea primary key,
  relation oid not null,
  stamp text not null,
  columns jsonb not null
);

-- A relation has few shapes, and a stamp may be too long for an index.
create index backfill_shapes_relations on backfill_private.shapes (relation);

-- The batches that bulk calls have settled, until each is noted in the chain and looked at.
create table backfill_private.unnoted (
  unnoted_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  granted jsonb not null,
  trouble jsonb not null,
  settled jsonb not null,
  is_well boolean not null,
  details jsonb not null,
  is_noted boolean not null default false
);

create index backfill_unnoted_runs on backfill_private.unnoted (run_id, unnoted_id);

-- The few in which a session did not end well: no call in bulk begins before a claim has looked at them.
create index backfill_unnoted_troubled on backfill_private.unnoted (run_id) where not is_well;

-- What was written to tables that no component names while a run's first sessions were scored: see elsewhere.sql.
create table backfill_private.elsewhere (
  run_id uuid primary key references public.backfill_runs (run_id) on delete cascade,
  since timestamptz not null,
  before jsonb not null,
  seen jsonb,
  seen_at timestamptz
);
