-- Tables of standing approval: the rules that people approve beforehand, and how much was approved by them per day.

create table public.backfill_standing (
  standing_id uuid primary key default gen_random_uuid(),
  target text not null,
  environment text,
  server text not null,
  fingerprint jsonb not null,
  max_sessions integer not null check (max_sessions > 0),
  max_per_day integer check (max_per_day > 0),
  max_calls integer check (max_calls > 0),
  throttle_per_minute integer check (throttle_per_minute > 0),
  from_hour integer check (from_hour between 0 and 23),
  to_hour integer check (to_hour between 1 and 24),
  weekdays integer[],
  marks text[] not null default '{}',
  replaces boolean not null default false,
  valid_until timestamptz not null check (isfinite(valid_until)),
  digest text not null check (digest ~ '^[0-9a-f]{64}$'),
  proposed_by uuid,
  proposed_via text not null,
  proposed_at timestamptz not null default backfill_private.clock(),
  approved_by text,
  approver_id uuid,
  approved_via text,
  approved_at timestamptz,
  note text check (length(note) <= 500),
  revoked_by text,
  revoked_at timestamptz,
  revoked_reason text check (length(revoked_reason) <= 500),
  check ((from_hour is null) = (to_hour is null)),
  check (from_hour <> to_hour)
);

create index backfill_standing_target on public.backfill_standing (target);

comment on table public.backfill_standing is
  'Standing approvals: rules by which runs are approved without a person. A rule never changes and is never deleted. '
  'It is approved once and revoked once.';
comment on column public.backfill_standing.standing_id is
  'Id of the standing approval. Its first eight characters are enough if no other begins so.';
comment on column public.backfill_standing.target is 'The target whose runs it approves.';
comment on column public.backfill_standing.environment is 'The environment that it is for. Null: none was named.';
comment on column public.backfill_standing.server is 'The server and database that it is for.';
comment on column public.backfill_standing.fingerprint is
  'The target and its scoring functions when it was proposed. It ends when one of them changes.';
comment on column public.backfill_standing.max_sessions is 'Most sessions of one run.';
comment on column public.backfill_standing.max_per_day is
  'Most sessions of the target that standing approvals approve per UTC day. Null: no bound.';
comment on column public.backfill_standing.max_calls is 'Most scoring calls of one run. Null: no bound.';
comment on column public.backfill_standing.throttle_per_minute is
  'Highest throttle of a run. Null: any, also none.';
comment on column public.backfill_standing.from_hour is
  'The UTC hour from which runs are approved and sessions start. Null: at any hour.';
comment on column public.backfill_standing.to_hour is 'The UTC hour at which that ends, 24 for midnight.';
comment on column public.backfill_standing.weekdays is
  'The UTC weekdays on which runs are approved and sessions start, 1 for Monday. Null: every day.';
comment on column public.backfill_standing.marks is
  'Marks of the plan that must be ok, by name or by first word. all: each of them. No mark may ever fail.';
comment on column public.backfill_standing.replaces is 'Whether rows may be replaced. False: new rows only.';
comment on column public.backfill_standing.valid_until is 'The first moment at which it no longer holds.';
comment on column public.backfill_standing.digest is 'SHA-256 over the rule. An approval names it.';
comment on column public.backfill_standing.proposed_by is
  'Auth user who proposed it. Null for the service key and the SQL editor.';
comment on column public.backfill_standing.proposed_via is 'How it was proposed: service_key, auth or sql.';
comment on column public.backfill_standing.proposed_at is 'When it was proposed.';
comment on column public.backfill_standing.approved_by is
  'Who approved it, by the name given or the e-mail address. Null until then.';
comment on column public.backfill_standing.approver_id is 'The Auth user who approved it. Null in the SQL editor.';
comment on column public.backfill_standing.approved_via is 'How it was approved: sql, auth or service_key.';
comment on column public.backfill_standing.approved_at is 'When it was approved.';
comment on column public.backfill_standing.note is 'What the approver added.';
comment on column public.backfill_standing.revoked_by is 'Who revoked it. Null: nobody.';
comment on column public.backfill_standing.revoked_at is 'When it was revoked.';
comment on column public.backfill_standing.revoked_reason is 'Why it was revoked.';

-- The few decisions that one of them made.
create index backfill_approvals_by_standing on public.backfill_approvals (standing_id) where standing_id is not null;

-- How many sessions of a target standing approvals have approved on its newest day of use. Each use writes the row, so
-- that two at once go one after the other. Under a snapshot of before the other one, PostgreSQL refuses the later.
create table backfill_private.standing_days (
  target text primary key,
  day date not null,
  sessions bigint not null,
  last_at timestamptz not null
);

alter table public.backfill_approvals
  add constraint backfill_approvals_standing foreign key (standing_id)
  references public.backfill_standing (standing_id);
