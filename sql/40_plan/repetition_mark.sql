-- What the API would call again without end: its version, and the mark on such calls. See also 60_apply/repetition.sql.

-- The version of the API, as it calls itself in this session or in another one. Null if nobody says it.
create function backfill_private.api_version()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    substring(current_setting('application_name') from '^PostgREST ([0-9][0-9.]*)'),
    (
      select max(substring(a.application_name from '^PostgREST ([0-9][0-9.]*)'))
      from pg_stat_activity as a
      where a.datname = current_database()
    ))
$$;

-- Does this API call a function that raises 40001 or 40P01 again without end? True if its version is unknown.
create function backfill_private.api_repeats()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(split_part(backfill_private.api_version(), '.', 1)::integer < 16, true)
$$;

-- The line of a check on the API's version. No line if it is unknown.
create function backfill_private.api_line()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    'PostgREST',
    case when v.repeats and r.names is not null then 'warn' else 'ok' end,
    v.version || case
      when not v.repeats then ''
      else ': before version 16 it calls a function that raises 40001 or 40P01 again without end'
        || coalesce(', as may ' || r.names, '')
    end,
    'raise another code there, or score inside the database: backfill plan --mode bulk')
  from (select backfill_private.api_version() as version, backfill_private.api_repeats() as repeats) as v
  cross join lateral (
    select string_agg(distinct p.oid::regprocedure::text, ', ') as names
    from public.backfill_targets as t
    cross join lateral unnest(t.helpers || case t.transport when 'rpc' then t.function_signature end) as h (signature)
    join pg_proc as p on p.oid = backfill_private.function_named(h.signature)
    where p.prosrc ~* '40001|40P01|serialization_failure|deadlock_detected'
  ) as r
  where v.version is not null
$$;

-- Does a function raise what the API answers by calling it again? Null if none was seen to.
create function backfill_private.repetition_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(
    'rehearsal: calls that the API repeats',
    'fail',
    format('%s raised %s. PostgREST before version 16 calls such a function again without end: direct mode is not safe '
      'here. backfill plan --like %s --mode bulk, without priority sessions, scores inside the database',
      min(r.error ->> 'step'), string_agg(distinct r.error ->> 'code', ' and '), p_run_id))
  from backfill_private.rehearsed(p_run_id) as r
  where r.error ->> 'code' in ('40001', '40P01')
    and backfill_private.api_repeats()
    and exists (
      select from public.backfill_runs as run
      where run.run_id = p_run_id
        and (run.request ->> 'mode' is distinct from 'bulk' or jsonb_array_length(run.request -> 'priority') > 0))
  having count(*) > 0
$$;
