-- Target prism, made from its declaration: backfill install --target FILE.

set local lock_timeout = '3s';

-- This also creates the view backfill_private.prism_standing:
-- every selected session, what it lacks of the wanted versions, and why it cannot be scored.
-- Its conditions compare in the columns' types, which only the database knows.
select backfill_private.declare_target('{
  "target": "prism",
  "source": {
    "schema": "public",
    "table": "assessment_sessions",
    "key": "id",
    "date": "created_at",
    "filters": [{"column": "status", "values": ["completed"]}],
    "needs": [
      {
        "name": "responses",
        "schema": "public",
        "table": "assessment_responses",
        "column": "session_id",
        "parameter": "min_responses",
        "component": null
      },
      {
        "name": "forced-choice responses",
        "schema": "public",
        "table": "fc_responses",
        "column": "session_id",
        "parameter": "min_fc_responses",
        "component": "fc_scores"
      }
    ],
    "index": "backfill_completed_sessions",
    "called": ["session", "sessions"],
    "builds_index": true
  },
  "defaults": {"basis": "functions", "min_responses": 1, "min_fc_responses": 1},
  "components": [
    {
      "component": "fc_scores",
      "schema": "public",
      "table": "fc_scores",
      "session": "session_id",
      "key": ["session_id", "version", "fc_kind"],
      "version_column": "version",
      "version": "v1.2",
      "version_parameter": "fc_version",
      "any_version_counts": false,
      "matches": {"fc_kind": "basis"},
      "transport": "rpc",
      "function": "public.score_fc_session(uuid,text,text)",
      "function_version": null,
      "receipts": "exact",
      "arguments": {"session_id": "session_id", "version": "fc_version", "basis": "basis"},
      "helpers": [],
      "needs_first": [],
      "score_ranges": {"scores_json": [0, 100]}
    },
    {
      "component": "profile",
      "schema": "public",
      "table": "profiles",
      "session": "session_id",
      "key": ["session_id"],
      "version_column": "results_version",
      "version": "v1.2.1",
      "version_parameter": "engine_version",
      "any_version_counts": true,
      "matches": {},
      "transport": "rpc",
      "function": "public.score_prism(uuid,text)",
      "function_version": null,
      "receipts": "exact",
      "arguments": {"session_id": "session_id", "engine_version": "engine_version"},
      "helpers": [],
      "needs_first": ["fc_scores"],
      "score_ranges": {}
    }
  ],
  "watch": {"min_coverage": 0.99, "within_s": 21600, "over_s": null},
  "views": [
    "backfill_private.prism_standing",
    "backfill_private.prism_gaps",
    "public.backfill_candidates",
    "public.backfill_missing_fc_scores",
    "public.backfill_missing_profiles",
    "public.backfill_daily_coverage"
  ]
}'::jsonb);

-- The sessions without a row of some component, as planning reads them.
create view backfill_private.prism_gaps with (security_invoker = true) as
select
  g.id::text as session_id,
  g.created_at as session_at,
  array_remove(array[
    case when g.missing_fc_scores then 'fc_scores' end,
    case when g.missing_profile then 'profile' end
  ]::text[], null) as components,
  nullif(jsonb_strip_nulls(jsonb_build_object(
    'fc_scores', g.not_wanted_fc_scores
  )), '{}'::jsonb) as not_wanted,
  g.excluded,
  g.missing_fc_scores,
  g.missing_profile,
  g.id
from backfill_private.prism_standing as g
where g.is_incomplete;

-- The candidates: sessions that lack something and can be scored.
create view public.backfill_candidates with (security_invoker = true) as
select
  g.id as session_id,
  array_to_string(array_remove(array[
    case when g.missing_profile then 'profile' end,
    case when g.missing_fc_scores then 'fc_scores' end
  ]::text[], null), '+') as category,
  g.session_at as created_at,
  g.missing_fc_scores,
  g.missing_profile
from backfill_private.prism_gaps as g
where g.excluded is null
  and (g.missing_fc_scores
    or g.missing_profile);

comment on view public.backfill_candidates
  is 'Sessions of target prism that lack fc_scores or profile and can be scored.';
comment on column public.backfill_candidates.session_id is 'The session.';
comment on column public.backfill_candidates.category
  is 'The components that it lacks, the last derived first, joined by +.';
comment on column public.backfill_candidates.created_at
  is 'When the session was created. Every range of dates is about this.';
comment on column public.backfill_candidates.missing_fc_scores is 'Whether it has no fc_scores of the wanted version.';
comment on column public.backfill_candidates.missing_profile is 'Whether it has no profile of any version.';

-- The candidates that lack fc_scores.
create view public.backfill_missing_fc_scores with (security_invoker = true) as
select
  c.session_id,
  c.created_at,
  (select backfill_private.parameter('prism', 'fc_version')) as wanted_version,
  c.missing_profile as profile_missing_too
from public.backfill_candidates as c
where c.missing_fc_scores;

comment on view public.backfill_missing_fc_scores is 'Candidates without fc_scores.';
comment on column public.backfill_missing_fc_scores.session_id is 'The session.';
comment on column public.backfill_missing_fc_scores.created_at
  is 'When the session was created. Every range of dates is about this.';
comment on column public.backfill_missing_fc_scores.wanted_version
  is 'The version that is wanted, from backfill_targets.';
comment on column public.backfill_missing_fc_scores.profile_missing_too is 'Whether it lacks profile too.';

-- The candidates that lack profile.
create view public.backfill_missing_profiles with (security_invoker = true) as
select
  c.session_id,
  c.created_at,
  c.missing_fc_scores as fc_scores_missing_too
from public.backfill_candidates as c
where c.missing_profile;

comment on view public.backfill_missing_profiles is 'Candidates without profile.';
comment on column public.backfill_missing_profiles.session_id is 'The session.';
comment on column public.backfill_missing_profiles.created_at
  is 'When the session was created. Every range of dates is about this.';
comment on column public.backfill_missing_profiles.fc_scores_missing_too is 'Whether it lacks fc_scores too.';

-- Sessions by UTC day, and which share of those that can be scored is complete.
create view public.backfill_daily_coverage with (security_invoker = true) as
select
  d.day,
  d.completed,
  d.complete,
  d.missing_fc_scores,
  d.missing_profile,
  d.missing_both,
  d.not_wanted_fc_scores,
  d.excluded,
  round(d.complete::numeric / nullif(d.completed - d.excluded, 0), 4) as coverage
from (
  select
    (s.created_at at time zone 'UTC')::date as day,
    count(*) as completed,
    count(*) filter (where not s.missing_fc_scores and not s.missing_profile and s.excluded is null) as complete,
    count(*) filter (where s.missing_fc_scores and s.excluded is null) as missing_fc_scores,
    count(*) filter (where s.missing_profile and s.excluded is null) as missing_profile,
    count(*) filter (where s.missing_fc_scores and s.missing_profile and s.excluded is null) as missing_both,
    count(*) filter (where not s.not_wanted_fc_scores is null and s.excluded is null) as not_wanted_fc_scores,
    count(*) filter (where not s.excluded is null) as excluded
  from backfill_private.prism_standing as s
  group by 1
) as d
order by d.day;

comment on view public.backfill_daily_coverage
  is 'Sessions of target prism by UTC day, and which share of those that can be scored is complete.';
comment on column public.backfill_daily_coverage.day
  is 'UTC day on which the sessions were created. Null: they have no date.';
comment on column public.backfill_daily_coverage.completed is 'Sessions of that day.';
comment on column public.backfill_daily_coverage.complete
  is 'Of these, sessions that lack nothing that is wanted of them.';
comment on column public.backfill_daily_coverage.missing_fc_scores
  is 'Of these, sessions that lack fc_scores and can be scored.';
comment on column public.backfill_daily_coverage.missing_profile
  is 'Of these, sessions that lack profile and can be scored.';
comment on column public.backfill_daily_coverage.missing_both is 'Of these, sessions that lack all and can be scored.';
comment on column public.backfill_daily_coverage.not_wanted_fc_scores
  is 'Of these, sessions of which fc_scores is not wanted: they have too few of the rows that it needs.';
comment on column public.backfill_daily_coverage.excluded
  is 'Of these, sessions that lack something and have too few rows for scoring.';
comment on column public.backfill_daily_coverage.coverage
  is 'Complete share of those that can be scored, 0 to 1. Null if none can.';

-- Only for service_role: row level security would show ordinary users present rows as missing.
revoke all on backfill_private.prism_standing from public, anon, authenticated, service_role;
grant select on backfill_private.prism_standing to service_role;
revoke all on backfill_private.prism_gaps from public, anon, authenticated, service_role;
grant select on backfill_private.prism_gaps to service_role;
revoke all on public.backfill_candidates from public, anon, authenticated, service_role;
grant select on public.backfill_candidates to service_role;
revoke all on public.backfill_missing_fc_scores from public, anon, authenticated, service_role;
grant select on public.backfill_missing_fc_scores to service_role;
revoke all on public.backfill_missing_profiles from public, anon, authenticated, service_role;
grant select on public.backfill_missing_profiles to service_role;
revoke all on public.backfill_daily_coverage from public, anon, authenticated, service_role;
grant select on public.backfill_daily_coverage to service_role;
