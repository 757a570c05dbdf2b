-- Tables of the watch: the service level of a target and its last look, what each day lacked, and the breaches.
--
-- Only counts stand here, no session and no row. No digest covers them: a level changes nothing that a run does.

-- How far a look goes. recent: the days whose sessions can still change, those of runs that wrote meanwhile, and of the
-- other days that lacked something as many as the time allows. all: every day.
create table public.backfill_watches (
  target text primary key,
  min_coverage numeric check (min_coverage > 0 and min_coverage <= 1),
  within interval check (within > interval '0'),
  over interval check (over > interval '0'),
  looked_at timestamptz,
  judged_since date,
  wanted bigint,
  there bigint,
  oldest_missing_at timestamptz,
  undated jsonb not null default '[]',
  fault text,
  look bigint not null default 0,
  reach text not null default 'all' check (reach in ('recent', 'all')),
  is_over boolean not null default true,
  counted_as text,
  whole_as text,
  begun_at timestamptz,
  days date[] not null default '{}',
  below date,
  span integer not null default 30 check (span > 0),
  check ((min_coverage is null) = (within is null)),
  check (min_coverage is not null or over is null)
);

comment on table public.backfill_watches is
  'The service level of each target, and what the last look found. backfill_watch_status says it for people.';
comment on column public.backfill_watches.target is
  'The target.';
comment on column public.backfill_watches.min_coverage is
  'The share of sessions that must have their rows, over 0 to 1. Null: no level is declared.';
comment on column public.backfill_watches.within is
  'How long after its date a session may lack rows.';
comment on column public.backfill_watches.over is
  'Only sessions of the last days are judged, so many. Null: those of all dates, and the last 30 days by themselves.';
comment on column public.backfill_watches.looked_at is
  'When the last look ended. Null: none has.';
comment on column public.backfill_watches.judged_since is
  'The first day of the sessions that it judged. Null: those of all dates.';
comment on column public.backfill_watches.wanted is
  'How many these are: their time is over, and they can be scored.';
comment on column public.backfill_watches.there is
  'Of these, sessions that lack nothing.';
comment on column public.backfill_watches.oldest_missing_at is
  'The date of the oldest session that lacks something.';
comment on column public.backfill_watches.undated is
  'Sessions that lack something and have no date that a plan takes: [{reason, sessions}]. No level judges them.';
comment on column public.backfill_watches.fault is
  'Why the last look says nothing. Null: it does.';
comment on column public.backfill_watches.look is
  'Number of the last look.';
comment on column public.backfill_watches.reach is
  'How far it goes: the days that can have changed, or all days.';
comment on column public.backfill_watches.is_over is
  'Whether it has ended. If not, the next call goes on with it.';
comment on column public.backfill_watches.counted_as is
  'Hash of the declaration that it counts by.';
comment on column public.backfill_watches.whole_as is
  'Hash of the declaration by which all days were counted. Null: they never were.';
comment on column public.backfill_watches.begun_at is
  'When it began.';
comment on column public.backfill_watches.days is
  'The days of runs that it has left.';
comment on column public.backfill_watches.below is
  'A look at all days has those before this one left.';
comment on column public.backfill_watches.span is
  'How many days such a look takes at a time.';

create table public.backfill_coverage_history (
  target text not null,
  day date not null,
  wanted bigint not null,
  there bigint not null,
  missing bigint not null,
  not_due bigint not null,
  lacks jsonb not null default '{}',
  left_out jsonb not null default '[]',
  oldest_missing_at timestamptz,
  looked_at timestamptz not null,
  oldest_missing_age interval generated always as (looked_at - oldest_missing_at) stored,
  look bigint not null,
  primary key (target, day),
  check (wanted = there + missing)
);

comment on table public.backfill_coverage_history is
  'One row per target and UTC day of its sessions: how many have their rows, as a look last counted them.';
comment on column public.backfill_coverage_history.target is
  'The target.';
comment on column public.backfill_coverage_history.day is
  'UTC day on which the sessions were created.';
comment on column public.backfill_coverage_history.wanted is
  'Sessions of that day that can be scored and whose time is over.';
comment on column public.backfill_coverage_history.there is
  'Of these, sessions that lack nothing that is wanted of them.';
comment on column public.backfill_coverage_history.missing is
  'Of these, sessions that lack something.';
comment on column public.backfill_coverage_history.not_due is
  'Further sessions, which can be scored and still have time.';
comment on column public.backfill_coverage_history.lacks is
  'Of the missing ones, how many lack which component: {component: sessions}.';
comment on column public.backfill_coverage_history.left_out is
  'What is not wanted, and why: [{component, reason, sessions}]. Without a component: the sessions as a whole.';
comment on column public.backfill_coverage_history.oldest_missing_at is
  'The date of the oldest missing session.';
comment on column public.backfill_coverage_history.looked_at is
  'When this was counted.';
comment on column public.backfill_coverage_history.oldest_missing_age is
  'How old the oldest missing session was then.';
comment on column public.backfill_coverage_history.look is
  'Number of the look that counted it.';

create table public.backfill_alerts (
  alert_id bigint generated always as identity primary key,
  target text not null,
  opened_at timestamptz not null,
  coverage numeric not null,
  min_coverage numeric not null,
  within interval not null,
  missing bigint not null,
  short_by bigint not null,
  oldest_missing_at timestamptz,
  closed_at timestamptz check (closed_at >= opened_at),
  closed_because text,
  check ((closed_at is null) = (closed_because is null))
);

-- One open breach per target.
create unique index backfill_alerts_open on public.backfill_alerts (target) where closed_at is null;

comment on table public.backfill_alerts is
  'One row per breach of a target''s service level: inserted when a look finds it, closed when a look finds it over.';
comment on column public.backfill_alerts.alert_id is
  'Number of the breach.';
comment on column public.backfill_alerts.target is
  'The target.';
comment on column public.backfill_alerts.opened_at is
  'When a look found it.';
comment on column public.backfill_alerts.coverage is
  'Share of the judged sessions that had their rows then.';
comment on column public.backfill_alerts.min_coverage is
  'The share that was declared.';
comment on column public.backfill_alerts.within is
  'The time that was declared.';
comment on column public.backfill_alerts.missing is
  'Sessions that lacked something.';
comment on column public.backfill_alerts.short_by is
  'How many of these had to have their rows, to reach the level.';
comment on column public.backfill_alerts.oldest_missing_at is
  'The date of the oldest of them.';
comment on column public.backfill_alerts.closed_at is
  'When a look found it over. Null: it is open.';
comment on column public.backfill_alerts.closed_because is
  'Why it was closed.';
