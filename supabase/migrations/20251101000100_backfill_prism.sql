-- from sql/30_prism_targets.sql
-- PRISM: what the sessions of this project may lack, and which functions write it.

insert into backfill_private.sources
  (target, source_table, key_column, date_column, gaps_view, quality_function, check_function, defaults)
values (
  'prism', 'public.assessment_sessions', 'id', 'created_at',
  'backfill_private.prism_gaps', 'backfill_private.prism_quality', 'backfill_private.prism_check',
  '{"basis": "functions", "min_responses": 1, "min_fc_responses": 1}');

insert into public.backfill_targets (
  target, component, position, table_name, session_column, key_columns, version_column, version, version_parameter,
  any_version_counts, matches, function_signature, arguments, score_ranges)
values
  ('prism', 'fc_scores', 1, 'public.fc_scores', 'session_id', '{session_id,version,fc_kind}',
   'version', 'v1.2', 'fc_version', false, '{"fc_kind": "basis"}',
   'public.score_fc_session(uuid,text,text)',
   '{"session_id": "session_id", "version": "fc_version", "basis": "basis"}', '{"scores_json": [0, 100]}'),
  ('prism', 'profile', 2, 'public.profiles', 'session_id', '{session_id}',
   'results_version', 'v1.2.1', 'engine_version', true, '{}',
   'public.score_prism(uuid,text)',
   '{"session_id": "session_id", "engine_version": "engine_version"}', '{}');

-- from sql/31_prism_views.sql
-- PRISM: what is missing. Two LEFT JOINs; two NOT EXISTS joined by OR would be eight times slower.

-- Completed sessions, what they lack of the wanted versions, and why those that lack something cannot be scored.
-- The CASE keeps the counting of responses to the sessions that lack something.
create view backfill_private.prism_standing with (security_invoker = true) as
select
  s.id,
  s.created_at,
  p.session_id is null as missing_profile,
  f.session_id is null as missing_fc_scores,
  case
    when p.session_id is not null and f.session_id is not null then null
    when (
      select count(*) from (
        select from public.assessment_responses as r where r.session_id = s.id
        limit (select backfill_private.parameter('prism', 'min_responses')::bigint)) as enough
    ) < (select backfill_private.parameter('prism', 'min_responses')::bigint)
      then format('%s responses, at least %s needed',
        (select count(*) from public.assessment_responses as r where r.session_id = s.id),
        (select backfill_private.parameter('prism', 'min_responses')))
    when f.session_id is null and (
      select count(*) from (
        select from public.fc_responses as r where r.session_id = s.id
        limit (select backfill_private.parameter('prism', 'min_fc_responses')::bigint)) as enough
    ) < (select backfill_private.parameter('prism', 'min_fc_responses')::bigint)
      then format('%s forced-choice responses, at least %s needed',
        (select count(*) from public.fc_responses as r where r.session_id = s.id),
        (select backfill_private.parameter('prism', 'min_fc_responses')))
  end as excluded
from public.assessment_sessions as s
left join public.profiles as p
  on p.session_id = s.id
left join public.fc_scores as f
  on f.session_id = s.id
  and f.version = (select backfill_private.parameter('prism', 'fc_version'))
  and f.fc_kind = (select backfill_private.parameter('prism', 'basis'))
where s.status = 'completed';

-- Those that lack something, as planning reads them.
create view backfill_private.prism_gaps with (security_invoker = true) as
select
  g.id::text as session_id,
  g.created_at as session_at,
  array_remove(array[
    case when g.missing_fc_scores then 'fc_scores' end,
    case when g.missing_profile then 'profile' end], null) as components,
  g.excluded,
  g.missing_profile,
  g.missing_fc_scores
from backfill_private.prism_standing as g
where g.missing_profile or g.missing_fc_scores;

create view public.backfill_candidates with (security_invoker = true) as
select
  g.session_id,
  case
    when g.missing_profile and g.missing_fc_scores then 'profile+fc_scores'
    when g.missing_fc_scores then 'fc_scores'
    else 'profile'
  end as category,
  g.session_at as created_at,
  g.missing_profile,
  g.missing_fc_scores
from backfill_private.prism_gaps as g
where g.excluded is null;

create view public.backfill_missing_profiles with (security_invoker = true) as
select c.session_id, c.created_at, c.missing_fc_scores as fc_scores_missing_too
from public.backfill_candidates as c
where c.missing_profile;

create view public.backfill_missing_fc_scores with (security_invoker = true) as
select
  c.session_id,
  c.created_at,
  (select backfill_private.parameter('prism', 'fc_version')) as wanted_version,
  c.missing_profile as profile_missing_too
from public.backfill_candidates as c
where c.missing_fc_scores;

create view public.backfill_daily_coverage with (security_invoker = true) as
select
  d.day,
  d.completed,
  d.complete,
  d.missing_profile,
  d.missing_fc_scores,
  d.missing_both,
  d.excluded,
  round(d.complete::numeric / nullif(d.completed - d.excluded, 0), 4) as coverage
from (
  select
    (s.created_at at time zone 'UTC')::date as day,
    count(*) as completed,
    count(*) filter (where not s.missing_profile and not s.missing_fc_scores) as complete,
    count(*) filter (where s.missing_profile and s.excluded is null) as missing_profile,
    count(*) filter (where s.missing_fc_scores and s.excluded is null) as missing_fc_scores,
    count(*) filter (where s.missing_profile and s.missing_fc_scores and s.excluded is null) as missing_both,
    count(*) filter (where s.excluded is not null) as excluded
  from backfill_private.prism_standing as s
  group by 1
) as d
order by d.day;

comment on view public.backfill_candidates is
  'Completed sessions that lack a profile or FC scores of the wanted version and have enough responses to be scored.';
comment on column public.backfill_candidates.session_id is 'The session.';
comment on column public.backfill_candidates.category is 'What it lacks: profile+fc_scores, fc_scores or profile.';
comment on column public.backfill_candidates.created_at is 'When the session was created: the date that decides everywhere.';
comment on column public.backfill_candidates.missing_profile is 'It has no profile of any version.';
comment on column public.backfill_candidates.missing_fc_scores is 'It has no FC scores of the wanted version.';
comment on view public.backfill_missing_profiles is 'Candidates without any profile.';
comment on column public.backfill_missing_profiles.session_id is 'The session.';
comment on column public.backfill_missing_profiles.created_at is 'When the session was created.';
comment on column public.backfill_missing_profiles.fc_scores_missing_too is 'It lacks FC scores of the wanted version as well.';
comment on view public.backfill_missing_fc_scores is 'Candidates without FC scores of the wanted version.';
comment on column public.backfill_missing_fc_scores.session_id is 'The session.';
comment on column public.backfill_missing_fc_scores.created_at is 'When the session was created.';
comment on column public.backfill_missing_fc_scores.wanted_version is 'The version that is wanted, from backfill_targets.';
comment on column public.backfill_missing_fc_scores.profile_missing_too is 'It lacks a profile as well.';
comment on view public.backfill_daily_coverage is
  'Completed sessions by UTC day, and what share of those that can be scored has both a profile and FC scores of the wanted version.';
comment on column public.backfill_daily_coverage.coverage is 'Share of the sessions that can be scored, 0 to 1; null on a day that has none.';
comment on column public.backfill_daily_coverage.excluded is 'Sessions that lack something and have too few responses to be scored.';
comment on column public.backfill_daily_coverage.day is 'UTC day on which the sessions were created.';
comment on column public.backfill_daily_coverage.completed is 'Completed sessions of that day.';
comment on column public.backfill_daily_coverage.complete is 'Of these, those that have both.';
comment on column public.backfill_daily_coverage.missing_profile is 'Of these, those without a profile that can be scored.';
comment on column public.backfill_daily_coverage.missing_fc_scores is 'Of these, those without FC scores of the wanted version that can be scored.';
comment on column public.backfill_daily_coverage.missing_both is 'Of these, those that lack both and can be scored.';

-- What every completed session has, with enough responses or not; for service_role and the SQL editor only: under
-- row level security an ordinary user would see present rows as missing.
revoke all on
  backfill_private.prism_standing, backfill_private.prism_gaps,
  public.backfill_candidates, public.backfill_missing_profiles, public.backfill_missing_fc_scores,
  public.backfill_daily_coverage
from public, anon, authenticated, service_role;
grant select on
  backfill_private.prism_standing, backfill_private.prism_gaps,
  public.backfill_candidates, public.backfill_missing_profiles, public.backfill_missing_fc_scores,
  public.backfill_daily_coverage
to service_role;

-- Marks on the data of a plan: status, responses, FC responses.
create function backfill_private.prism_quality(p_run_id uuid)
returns setof jsonb
language sql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
  with planned as (
    select s.id, s.status, i.phase, 'fc_scores' = any (i.components) as lacks_fc
    from public.backfill_items as i
    join public.assessment_sessions as s on s.id = i.session_id::uuid
    where i.run_id = p_run_id
  ), counted as (
    select p.*,
      (select count(*) from public.assessment_responses as r where r.session_id = p.id) as responses,
      (select count(*) from public.fc_responses as r where r.session_id = p.id) as fc_responses
    from planned as p
  ), needed as (
    select (r.request ->> 'min_responses')::bigint as least, (r.request ->> 'min_fc_responses')::bigint as fc_least
    from public.backfill_runs as r where r.run_id = p_run_id
  ), facts as (
    select count(*) as sessions, count(*) filter (where c.status = 'completed') as completed,
      count(*) filter (where c.responses >= n.least) as enough,
      min(c.responses) as least, max(c.responses) as most,
      count(*) filter (where c.lacks_fc) as lacking,
      count(*) filter (where c.lacks_fc and c.fc_responses >= n.fc_least) as fc_enough,
      min(c.fc_responses) filter (where c.lacks_fc) as fc_least,
      max(c.fc_responses) filter (where c.lacks_fc) as fc_most,
      string_agg(format('%s has %s', left(c.id::text, 8), c.fc_responses), ', ' order by c.id)
        filter (where c.phase = 'priority') as named
    from counted as c, needed as n
  )
  select backfill_private.mark('sessions completed', case when completed = sessions then 'ok' else 'fail' end,
    format('%s of %s have status completed', completed, sessions)) from facts
  union all
  select backfill_private.mark('responses', case when enough = sessions then 'ok' else 'fail' end,
    format('%s of %s sessions have enough', enough, sessions)
      || coalesce(', ' || least || ' to ' || most || ' each', '')) from facts
  union all
  select backfill_private.mark('forced-choice responses', case when fc_enough = lacking then 'ok' else 'fail' end,
    format('%s of %s sessions that lack FC scores have enough', fc_enough, lacking)
      || coalesce(', ' || fc_least || ' to ' || fc_most || ' each', '')
      || coalesce('; priority: ' || named, '')) from facts
$$;

revoke all on function backfill_private.prism_quality(uuid) from public;

-- from sql/32_prism_triggers.sql
-- PRISM: the gate and the receipts on the two target tables. The lock is short and is not waited for long.

set local lock_timeout = '3s';

create trigger backfill_receipt
  after insert or update or delete on public.fc_scores
  for each row
  when (nullif(current_setting('request.headers', true), '') like '%x-backfill-run%')
  execute function backfill_private.keep_receipt('prism', 'fc_scores');
create trigger backfill_no_truncate
  before truncate on public.fc_scores
  for each statement
  when (nullif(current_setting('request.headers', true), '') like '%x-backfill-run%')
  execute function backfill_private.refuse_truncate();
alter table public.fc_scores enable always trigger backfill_receipt;
alter table public.fc_scores enable always trigger backfill_no_truncate;

create trigger backfill_receipt
  after insert or update or delete on public.profiles
  for each row
  when (nullif(current_setting('request.headers', true), '') like '%x-backfill-run%')
  execute function backfill_private.keep_receipt('prism', 'profile');
create trigger backfill_no_truncate
  before truncate on public.profiles
  for each statement
  when (nullif(current_setting('request.headers', true), '') like '%x-backfill-run%')
  execute function backfill_private.refuse_truncate();
alter table public.profiles enable always trigger backfill_receipt;
alter table public.profiles enable always trigger backfill_no_truncate;

-- A truncate of a single partition runs no trigger of its parents. A partition made later lacks this guard: then a run
-- holds at its next claim, and check says the SQL.
do $$
declare
  v_partition regclass;
begin
  for v_partition in
    select part.relid
    from (values ('public.fc_scores'::regclass), ('public.profiles')) as t (oid)
    cross join lateral pg_partition_tree(t.oid) as part
    where part.level > 0
  loop
    execute format($sql$create trigger backfill_no_truncate before truncate on %s for each statement
      when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-run%%')
      execute function backfill_private.refuse_truncate()$sql$, v_partition);
    execute format('alter table %s enable always trigger backfill_no_truncate', v_partition);
  end loop;
end
$$;

-- from sql/33_prism_check.sql
-- PRISM: what detection reads beyond the target's rows, and the indexes that make it fast.

-- The index that 40_prism_index_sessions.sql declares: there, whole, and over the completed sessions by date?
create function backfill_private.prism_index_line()
returns jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line('index backfill_completed_sessions',
    case when i.fault is null then 'ok' else 'warn' end,
    coalesce(i.fault || ': detection works, slower', 'there and valid'),
    case when i.is_there
        then backfill_private.beside_writers('drop index', 'public.backfill_completed_sessions') || ' ' else '' end
      || backfill_private.beside_writers('create index', 'backfill_completed_sessions '
        'on public.assessment_sessions (created_at) where status = ''completed'''))
  from (
    select x.indexrelid is not null as is_there,
      case
        when x.indexrelid is null then 'not there'
        when not x.indisvalid then 'not valid, its creation was cut off'
        when x.indrelid is distinct from to_regclass('public.assessment_sessions')
          or a.attname is distinct from 'created_at'
          or coalesce(pg_get_expr(x.indpred, x.indrelid), '') not like '%status%completed%'
          then 'not the one that is meant' end as fault
    from (values (to_regclass('public.backfill_completed_sessions'))) as named (oid)
    left join pg_index as x on x.indexrelid = named.oid
    left join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
  ) as i
$$;

-- The lines of PRISM: the status, the answers, the indexes.
create function backfill_private.prism_check()
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line(format('column %s.%s', c.name, c.attribute),
    case when c.type is null then 'fail' else 'ok' end,
    case when to_regclass(c.name) is null then c.name || ' does not exist'
      else coalesce(c.type, format('%s has no column %s', c.name, c.attribute)) end,
    format('give %s back its name, or change the views of PRISM', c.name))
  from (
    select n.*, backfill_private.column_type(n.name, n.attribute) as type
    from (values
      ('public.assessment_sessions', 'status'),
      ('public.assessment_responses', 'session_id'),
      ('public.fc_responses', 'session_id')
    ) as n (name, attribute)
  ) as c
  union all
  select backfill_private.prism_index_line()
  union all
  select line from backfill_private.index_line('public.assessment_responses', 'session_id') as line
  union all
  select line from backfill_private.index_line('public.fc_responses', 'session_id') as line
$$;

revoke all on function backfill_private.prism_index_line(), backfill_private.prism_check() from public;

notify pgrst, 'reload schema';
