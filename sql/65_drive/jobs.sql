-- The jobs of pg_cron that drive runs. What is scheduled stands in cron.job and nowhere else.
--
-- One job drives whatever is approved or running, and one per run drives that run alone and goes once it is over.

-- The jobs of ours in this database, as far as the caller sees them: pg_cron shows everybody their own. None if it is
-- not there, or not the caller's to use.
create function backfill_private.drive_jobs()
returns table (job_id bigint, name text, run_id uuid, schedule text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    join pg_attribute as a on a.attrelid = c.oid and a.attname = 'database'  -- else it is not pg_cron's
    where (n.nspname, c.relname) = ('cron', 'job')
      and has_schema_privilege(n.oid, 'usage')
      and has_table_privilege(c.oid, 'select')
  ) then
    return query execute
      'select j.jobid, j.jobname::text, nullif(substr(j.jobname, 16), '''')::uuid, j.schedule
       from cron.job as j
       where j.database = current_database()
         and j.jobname ~ ''^backfill_drive( [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$''
       order by j.jobid';
  end if;
end
$$;

-- The job that drives a run, by its name and how often it comes. Null: none does.
create function backfill_private.driven_by(p_run_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select format('%s, %s', j.name, case
    when j.schedule ~ '^[0-9]+ seconds$' then 'every ' || j.schedule
    when j.schedule ~ '^\*/' then format('every %s minutes', substring(j.schedule from '[0-9]+'))
    when j.schedule ~ '^0' then 'every hour'
    else 'every minute' end)
  from backfill_private.drive_jobs() as j
  where coalesce(j.run_id = p_run_id, p_run_id = any (backfill_private.runs_to_drive(p_run_id)))
  order by j.run_id
  limit 1
$$;

-- Refuse a run that no driver can take up.
--
-- returns  the run
-- raises   OB001 no such run, OB003 not approved, OB013 an Edge Function scores it
create function backfill_private.drivable_run(p_run_id uuid)
returns public.backfill_runs
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_component text := (
    select min(t.component)
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_run_id and t.transport = 'edge');
begin
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if not found then
    perform backfill_private.refuse_run(format('there is no run %s', coalesce(p_run_id::text, 'null')));
  elsif v_run.state in ('planning', 'awaiting_approval') then
    perform backfill_private.refuse('OB003',
      format('run %s is %s', p_run_id, replace(v_run.state, '_', ' ')), backfill_private.hint(v_run));
  elsif v_component is not null then
    perform backfill_private.refuse('OB013',
      format('run %s needs a worker: %s is scored by an Edge Function, which the database does not call',
        p_run_id, v_component),
      format('backfill apply %s', p_run_id));
  end if;
  return v_run;
end
$$;

-- Refuse while pg_cron is not there, and say how to enable it and what works without.
--
-- raises  OB013
create function backfill_private.refuse_without_cron(p_run_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regprocedure('cron.schedule(text, text, text)') is null then
    perform backfill_private.refuse('OB013', 'pg_cron is not enabled in this database',
      format('create extension pg_cron; (on a hosted project also: Integrations, Cron). Without it: '
        'backfill apply %s, or in psql: call backfill_drive_step(%s) \watch 10',
        coalesce(p_run_id::text, 'RUN'), quote_literal(p_run_id)));
  end if;
end
$$;

-- Does the installed pg_cron take schedules in seconds? From 1.5 on it does.
create function backfill_private.cron_has_seconds()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_extension as e
    where e.extname = 'pg_cron'
      and string_to_array(substring(e.extversion from '^[0-9]+(?:\.[0-9]+)*'), '.')::integer[] >= array[1, 5])
$$;

-- The seconds of an interval that a driver may come in: 1 to 59 seconds, or whole minutes that divide an hour.
--
-- raises  OB013 it is none, or none of these
create function backfill_private.drive_seconds(p_every text)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seconds numeric;
begin
  begin
    v_seconds := extract(epoch from p_every::interval);
  exception when data_exception then
    v_seconds := null;
  end;
  if (v_seconds = trunc(v_seconds) and v_seconds between 1 and 3600
    and (v_seconds < 60 or v_seconds % 60 = 0 and 3600 % v_seconds = 0)) is not true then
    perform backfill_private.refuse('OB013',
      format('a driver comes every 1 to 59 seconds, or in whole minutes that divide an hour, not %s',
        coalesce(quote_literal(left(p_every, 80)), 'null')),
      'select backfill_drive_every(''10 seconds'')');
  end if;
  return v_seconds::integer;
end
$$;

-- Schedule a job that drives, in place of one of the same name. An older pg_cron knows whole minutes: there each call
-- looks again after the seconds that were asked for, until the minute is nearly over.
--
-- p_run_id  null: whatever is approved or running
-- returns   {job, schedule, stop: SQL}
create function backfill_private.schedule_driver(p_run_id uuid, p_seconds integer)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job text := concat_ws(' ', 'backfill_drive', p_run_id);
  v_is_within boolean := p_seconds < 60 and not backfill_private.cron_has_seconds();
  v_schedule text := case
    when v_is_within then '* * * * *'
    when p_seconds < 60 then format('%s seconds', p_seconds)
    when p_seconds = 60 then '* * * * *'
    when p_seconds < 3600 then format('*/%s * * * *', p_seconds / 60)
    else '0 * * * *' end;
begin
  -- The path that a session of the job will have.
  perform backfill_private.refuse_outsiders((select s.reset_val from pg_settings as s where s.name = 'search_path'));
  execute 'select cron.schedule($1, $2, $3)'
  using v_job, v_schedule, format('call public.%I(%s%s)', 'backfill_drive_step',
    coalesce(quote_literal(p_run_id), 'null'),
    case when v_is_within then format(', %L, %L', '50 seconds', p_seconds || ' seconds') else '' end);
  return jsonb_build_object('job', v_job, 'schedule', v_schedule, 'stop', 'select backfill_drive_stop()');
end
$$;

-- Take jobs away.
--
-- p_run_id  that of this run. Null: all of ours
-- returns   their names
create function backfill_private.stop_drivers(p_run_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job record;
  v_stopped jsonb := '[]'::jsonb;
begin
  for v_job in
    select j.job_id, j.name from backfill_private.drive_jobs() as j where p_run_id is null or j.run_id = p_run_id
  loop
    execute 'select cron.unschedule($1)' using v_job.job_id;
    v_stopped := v_stopped || to_jsonb(v_job.name);
  end loop;
  return v_stopped;
end
$$;
