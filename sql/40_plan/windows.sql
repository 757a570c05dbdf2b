-- Planning: open a run, collect what is missing window by window. What is found is sealed in seal.sql.

-- Open a run for a request.
--
-- p_request       parameters by name, see backfill_private.normal_request
-- p_project_host  host of the project's URL, as the client sees it. The client compares it later
-- p_run_id        made by the client, so that it can repeat a call whose reply was lost: the same caller gets the same
--                 run for the same request. Null: made here
-- returns         the new run's id
-- raises          OB008 another environment, OB010 not allowed, OB013 or OB014 a parameter is not usable, the target's
--                 tables do not meet what has to be true of them, or the run id is taken
create function backfill_private.open_run(p_request jsonb, p_project_host text, p_run_id uuid)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_request jsonb;
  v_source backfill_private.sources;
  v_newest timestamptz;
  v_run_id uuid := coalesce(p_run_id, gen_random_uuid());
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_bounds(jsonb_build_object(
    'the request', p_request, 'the host of the project', p_project_host));
  perform backfill_private.check_form(p_request);
  v_request := backfill_private.normal_request(p_request);
  perform backfill_private.refuse_faults(v_request ->> 'target', v_request);
  select * into strict v_source from backfill_private.sources where target = v_request ->> 'target';
  execute format('select %s from %s as s where s.%I < %L',
    backfill_private.moment(v_source.source_table, v_source.date_column, format('max(s.%I)', v_source.date_column)),
    v_source.source_table::regclass,
    v_source.date_column,
    backfill_private.after_all_moments())
  into v_newest;
  insert into public.backfill_runs (
    run_id, target, environment, request, requested_by, requested_via, project_host,
    collect_from, collect_until, collect_window, rehearse)
  select
    v_run_id,
    v_request ->> 'target',
    v_request ->> 'environment',
    v_request,
    c.user_id,
    c.kind,
    p_project_host,
    (v_request ->> 'since_at')::timestamptz,
    least((v_request ->> 'until_before')::timestamptz, v_newest + interval '1 microsecond'),
    interval '30 days',
    backfill_private.whole_number(p_request, 'rehearse')
  from backfill_private.caller() as c
  on conflict (run_id) do nothing;
  if not found and not exists (
    select from public.backfill_runs as r
    cross join backfill_private.caller() as c
    where r.run_id = v_run_id
      and r.requested_via = c.kind
      and r.requested_by is not distinct from c.user_id
      and r.request - 'recent_since' = v_request - 'recent_since'
  ) then
    perform backfill_private.refuse('OB013',
      format('run %s is another plan', v_run_id),
      'backfill plan …, without a run id');
  end if;
  return v_run_id;
end
$$;

-- What a target's view finds in a window of session dates, read in a subtransaction that PostgreSQL keeps from writing.
--
-- Writing is allowed again only when the subtransaction ends: nothing inside a read-only transaction can allow it. So
-- what was found is carried out of it as a value.
--
-- p_from, p_until  the window. Null: every date that no plan can take, which excludes its session
-- raises           25006 the view, or a function that it calls, tries to write
create function backfill_private.detected(p_target text, p_from timestamptz, p_until timestamptz)
returns backfill_private.findings[]
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_view regclass := backfill_private.gaps_view(p_target)::regclass;
  v_column text := (select s.date_column from backfill_private.sources as s where s.target = p_target);
  v_found backfill_private.findings[];
begin
  begin
    set local transaction_read_only = on;
    if p_from is not null then
      execute format(
        'select array_agg(
           row(null, g.session_id, g.session_at, g.components, g.not_wanted, g.excluded, false)
             ::backfill_private.findings)
         from %s as g
         where g.session_at >= $1 and g.session_at < $2',
        v_view)
      into v_found
      using p_from, p_until;
    else
      execute format(
        'select array_agg(
           row(null, g.session_id, null, g.components, null, backfill_private.date_fault($3, g.session_at), false)
             ::backfill_private.findings)
         from %s as g
         where g.session_at is null or g.session_at < $1 or g.session_at >= $2',
        v_view)
      into v_found
      using backfill_private.first_moment(), backfill_private.after_all_moments(), v_column;
    end if;
  exception when read_only_sql_transaction then
    raise exception using
      errcode = 'read_only_sql_transaction',
      message = format(
        '%s writes while it detects what is missing (%s). Take the write out of the view and of what it calls',
        v_view, sqlerrm),
      hint = 'backfill plan …, after that';
  end;
  return v_found;
end
$$;

-- How long a window is to take: about four seconds, during which the run is locked. Each window costs something by
-- itself, and without the index it reads the whole table, even a short one: then a few long windows are done sooner.
create function backfill_private.window_aim(p_target text)
returns interval
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when exists (select from backfill_private.detection_index(p_target) as i where i.fault is null)
    then interval '4 seconds'
    else interval '20 seconds'
  end
$$;

-- The sessions to which a request limits itself. Null: to none.
create function backfill_private.asked_ids(p_run public.backfill_runs)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_run.request ->> 'ids' is not null
    then array(select jsonb_array_elements_text(p_run.request -> 'ids'))
  end
$$;

-- Why a session that a plan could take is not in it: the request asks for fewer. Null: it asks for all.
create function backfill_private.beyond_limit(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select 'it comes after the first ' || (p_run.request ->> 'limit') || ', to which the plan is limited'
$$;

-- Keep what a window of session dates holds.
--
-- p_from, p_until  see backfill_private.detected
-- returns          how many it holds. Null if a statement's time limit came first, and nothing is kept
create function backfill_private.keep_findings(
  p_run public.backfill_runs, p_from timestamptz, p_until timestamptz
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kept bigint;
  v_ids text[] := backfill_private.asked_ids(p_run);
begin
  perform set_config('backfill.request', p_run.request::text, true);
  insert into backfill_private.findings (run_id, session_id, session_at, components, not_wanted, excluded)
  select p_run.run_id, d.session_id, d.session_at, d.components, d.not_wanted, d.excluded
  from unnest(backfill_private.detected(p_run.target, p_from, p_until)) as d
  where v_ids is null
    or d.session_id in (select unnest(v_ids))
  on conflict do nothing;
  get diagnostics v_kept = row_count;
  perform set_config('backfill.request', '', true);
  return v_kept;
exception when query_canceled then
  -- Half of the shortest window would not be sooner: something else is slow.
  if p_from is null or p_run.collect_window <= interval '1 second' then
    raise;
  end if;
  return null;
end
$$;

-- The date of the next session from a moment on. The end of the search if there is none: nothing is walked through that
-- holds no session, and one of the year 9999 is as near as one of next month.
create function backfill_private.next_session_at(p_run public.backfill_runs, p_from timestamptz)
returns timestamptz
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_next timestamptz;
begin
  perform set_config('backfill.request', p_run.request::text, true);
  execute format(
    'select g.created_at from %s as g where g.created_at >= $1 and g.created_at < $2 order by g.created_at limit 1',
    backfill_private.standing_view(p_run.target)::regclass)
  into v_next
  using p_from, p_run.collect_until;
  perform set_config('backfill.request', '', true);
  return coalesce(v_next, p_run.collect_until);
end
$$;

-- Collect the next window of a run in planning. After the last, the sessions whose dates no plan can take.
--
-- The window grows and shrinks so that one takes about as long as it should. The cursor moves in the same transaction,
-- so a call whose reply was lost is not collected twice. A window that meets the time limit is looked at again, half as
-- long.
--
-- returns  true when all is collected
create function backfill_private.collect_window(p_run_id uuid)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_end timestamptz;
  v_aim interval;
  v_began timestamptz := backfill_private.clock();
  v_took interval;
  v_kept bigint;
begin
  perform backfill_private.authorize('plan');
  v_run := backfill_private.locked_run(p_run_id, array['planning']);
  if v_run.collect_until is null or v_run.collect_from >= v_run.collect_until then
    perform backfill_private.keep_findings(v_run, null, null);
    return true;
  end if;
  v_aim := backfill_private.window_aim(v_run.target);
  v_end := least(v_run.collect_from + v_run.collect_window, v_run.collect_until);
  v_kept := backfill_private.keep_findings(v_run, v_run.collect_from, v_end);
  v_took := backfill_private.clock() - v_began;
  if v_kept = 0 then
    v_end := backfill_private.next_session_at(v_run, v_end);
  end if;
  update public.backfill_runs
  set collect_from = case when v_kept is not null then v_end else collect_from end,
      collect_window = case
        when v_kept is null or v_took > v_aim then greatest(collect_window / 2, interval '1 second')
        when v_took < v_aim / 2 then least(collect_window * 2, interval '10 years')
        else collect_window
      end
  where run_id = p_run_id;
  return false;
end
$$;

-- The categories of a target: every set of missing components with its name, the last derived first.
create function backfill_private.categories(p_target text)
returns table (components text[], category text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    array_agg(t.component order by t.position),
    string_agg(t.component, '+' order by t.position desc)
  from generate_series(
    1,
    (1 << (select count(*)::integer from public.backfill_targets where target = p_target)) - 1
  ) as mask
  join public.backfill_targets as t on t.target = p_target and mask & (1 << (t.position - 1)) <> 0
  group by mask
$$;

-- The first moment of the recent phase: the one asked for, else the first day of the month of the newest candidate.
create function backfill_private.recent_from(p_run public.backfill_runs)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select coalesce(
    (p_run.request ->> 'recent_since')::timestamptz,
    (
      select date_trunc('month', max(f.session_at))
      from backfill_private.findings as f
      where f.run_id = p_run.run_id and f.excluded is null and f.components <> '{}'
    ))
$$;
