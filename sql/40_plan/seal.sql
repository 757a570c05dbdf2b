-- Sealing: what was found becomes the run's items, is measured, and gets its digest.

-- The candidates that a run has found, each in its place: phase, order, batch. If its request has a limit, the first.
create function backfill_private.placed(p_run public.backfill_runs)
returns table (
  ordinal bigint, session_id text, session_at timestamptz, components text[], category text, phase text, batch bigint
)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    o.ordinal,
    o.session_id,
    o.session_at,
    o.components,
    o.category,
    (array['priority', 'recent', 'historical'])[o.phase_rank],
    dense_rank() over (order by o.phase_rank, (o.place - 1) / (p_run.request ->> 'batch_size')::integer)
  from (
    select
      f.*,
      c.category,
      row_number() over (order by f.phase_rank, f.session_at desc, f.session_id) as ordinal,
      row_number() over (partition by f.phase_rank order by f.session_at desc, f.session_id) as place
    from (
      select
        found.*,
        case
          when p_run.request -> 'priority' ? found.session_id then 1
          -- A scalar subquery, so that it is asked once and not for every session.
          when found.session_at >= (select backfill_private.recent_from(p_run)) then 2
          else 3
        end as phase_rank
      from backfill_private.findings as found
      where found.run_id = p_run.run_id and found.excluded is null and found.components <> '{}'
    ) as f
    join backfill_private.categories(p_run.target) as c on c.components = f.components
  ) as o
  where p_run.request ->> 'limit' is null
    or o.ordinal <= (p_run.request ->> 'limit')::integer
$$;

-- How many sessions one call places. Even on a slow project that is well within its time limit.
create function backfill_private.most_placed()
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 100000
$$;

-- Turn the next findings of a run into its items, then analyze them: without statistics PostgreSQL takes a new run for
-- small, and would look through all of it for each batch. Findings beyond the request's limit are then left out.
--
-- returns  true when all are placed
create function backfill_private.place_items(p_run public.backfill_runs)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_placed integer := (
    select coalesce(max(i.ordinal), 0)
    from public.backfill_items as i
    where i.run_id = p_run.run_id);
  v_insert text;
  v_came integer;
begin
  select format(
    'insert into public.backfill_items (
       run_id, ordinal, source, session_id, session_at, components, replaces, category, phase, batch)
     select $1.run_id, item.ordinal, $1.target, item.session_id, item.session_at, item.components,
       jsonb_strip_nulls(jsonb_build_object(%s)), item.category, item.phase, item.batch
     from backfill_private.placed($1) as item
     %s
     where item.ordinal > $2
       and item.ordinal <= $3',
    string_agg(format('%L, %s', r.component, r.version_sql), ', '),
    string_agg(r.join_sql, ' '))
  into v_insert
  from backfill_private.replaced_joins(p_run) as r;
  execute v_insert using p_run, v_placed, v_placed + backfill_private.most_placed();
  get diagnostics v_came = row_count;
  if v_came = backfill_private.most_placed() then
    return false;
  end if;
  analyze public.backfill_items;
  update backfill_private.findings as f
  set excluded = backfill_private.beyond_limit(p_run)
  where f.run_id = p_run.run_id
    and f.excluded is null
    and f.components <> '{}'
    and p_run.request ->> 'limit' is not null
    and not exists (
      select from public.backfill_items as i
      where i.run_id = f.run_id and i.session_id = f.session_id);
  return true;
end
$$;

-- Look at the data of a plan whose sessions are placed. For a large plan that is a call of its own.
--
-- returns  false if the run has to be sealed by another call
create function backfill_private.look_at_data(p_run public.backfill_runs)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_run.data_marks is not null then
    return true;
  end if;
  update public.backfill_runs
  set data_marks = (select coalesce(jsonb_agg(m), '[]') from backfill_private.data_marks(p_run.run_id) as m)
  where run_id = p_run.run_id;
  return not exists (
    select from public.backfill_items as i
    where i.run_id = p_run.run_id
      and i.ordinal = backfill_private.most_placed()
  );
end
$$;

-- Exclude what was named and is not found: as priority, or as one of the sessions to which the plan is limited.
create function backfill_private.exclude_named(p_run public.backfill_runs)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into backfill_private.findings (run_id, session_id, components, excluded, is_named)
  select
    p_run.run_id,
    named.session_id,
    '{}',
    case
      when named.session_id <> all (backfill_private.asked_ids(p_run))
      then 'named as priority, but not among the sessions to which the plan is limited'
      else format('named%s, but not completed, outside the dates, or nothing is missing',
        case when p_run.request -> 'priority' ? named.session_id then ' as priority' end)
    end,
    true
  from (
    select jsonb_array_elements_text(p_run.request -> 'priority')
    union
    select unnest(backfill_private.asked_ids(p_run))
  ) as named (session_id)
  -- One of which nothing that it lacks is wanted says why.
  on conflict (run_id, session_id) do update
  set excluded = (select string_agg(w.value, '; ' order by w.key) from jsonb_each_text(findings.not_wanted) as w),
      is_named = true
  where findings.excluded is null and findings.components = '{}';
$$;

-- Seal a run: place its items, measure, compute the digest. A run with nothing to do is removed. A large plan takes
-- several calls. Each goes on from the last one that was committed.
--
-- p_round_trip_ms  what a call takes outside the database, as the client measured it. Only the estimate uses it
-- p_probed         how the API answered about the calls, see backfill_private.function_marks
-- returns          {state: awaiting_approval}, {state: planning} if it has to be called again, or {state: empty,
--                  environment, request, plan} if there was nothing to do and the run is gone
-- raises           OB002 not in planning or windows left, OB013 too large or too long for this project
create function backfill_private.seal(p_run_id uuid, p_round_trip_ms numeric, p_probed jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
set timezone = 'UTC'
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_bounds(jsonb_build_object(
    'the round trip', coalesce(p_round_trip_ms, 0), 'the answers of the API', p_probed));
  v_run := backfill_private.locked_run(p_run_id, array['planning', 'awaiting_approval']);
  if v_run.state = 'awaiting_approval' then
    return jsonb_build_object('state', v_run.state);  -- sealed by a call whose reply was lost
  elsif v_run.collect_from < v_run.collect_until then
    perform backfill_private.refuse('OB002', format('run %s is not collected to its end', p_run_id),
      backfill_private.hint(v_run));
  end if;
  perform backfill_private.exclude_named(v_run);
  if not exists (
    select from backfill_private.findings as f
    where f.run_id = p_run_id
      and f.excluded is null
      and f.components <> '{}'
  ) then
    v_run.plan := backfill_private.measure_plan(p_run_id, p_round_trip_ms, p_probed);
    delete from public.backfill_runs where run_id = p_run_id;
    return jsonb_build_object(
      'state', 'empty',
      'environment', v_run.environment,
      'request', v_run.request,
      'plan', v_run.plan);
  end if;
  v_run.request := v_run.request || jsonb_build_object('recent_since', backfill_private.recent_from(v_run));
  update public.backfill_runs set request = v_run.request where run_id = p_run_id;
  if not backfill_private.place_items(v_run) or not backfill_private.look_at_data(v_run) then
    return jsonb_build_object('state', v_run.state);
  end if;
  update public.backfill_runs
  set fingerprint = backfill_private.definitions(target),
      server = backfill_private.server_identity(),
      sealed_snapshot = pg_current_snapshot()::text
  where run_id = p_run_id;
  perform backfill_private.check_size(p_run_id);
  v_run.plan := backfill_private.measure_plan(p_run_id, p_round_trip_ms, p_probed);
  update public.backfill_runs
  set plan = v_run.plan || jsonb_build_object('risk', backfill_private.risk(v_run, v_run.plan))
  where run_id = p_run_id;
  -- The digest covers the risk.
  update public.backfill_runs
  set digest = backfill_private.compute_digest(p_run_id),
      sealed_at = backfill_private.clock()
  where run_id = p_run_id;
  delete from backfill_private.findings as f where f.run_id = p_run_id and f.excluded is null;
  perform backfill_private.move(p_run_id, 'awaiting_approval', null, (
    select jsonb_build_object(
      'digest', r.digest,
      'sessions', r.plan -> 'candidates' -> 'total',
      'figures_hash', backfill_private.figures_hash(r.plan))
    from public.backfill_runs as r
    where r.run_id = p_run_id
  ));
  return '{"state": "awaiting_approval"}'::jsonb;
end
$$;

-- Refuse a plan that is larger than this project allows, outlives any approval, or names a function that is not there.
create function backfill_private.check_size(p_run_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_sessions bigint;
  v_batches integer;
  v_settings public.backfill_settings := backfill_private.settings();
  v_gone text;
begin
  select * into strict v_run from public.backfill_runs where run_id = p_run_id;
  select count(*), max(batch) into v_sessions, v_batches
  from public.backfill_items
  where run_id = p_run_id;
  select f.key into v_gone
  from jsonb_each_text(v_run.fingerprint) as f
  where f.value is null;
  if found then
    perform backfill_private.refuse('OB013', format('there is no function %s', v_gone), 'backfill check');
  elsif v_sessions > v_settings.max_sessions then
    perform backfill_private.refuse('OB013',
      format('the plan has %s, this project allows %s',
        backfill_private.called_in(p_run_id, v_sessions), v_settings.max_sessions),
      'narrow --since and --until, or give --limit');
  elsif (v_batches - 1) * backfill_private.batch_spacing_s(v_run.request)
      > extract(epoch from v_settings.approval_ttl) then
    perform backfill_private.refuse('OB013',
      format('at this throttle the run would outlive its approval of %s', v_settings.approval_ttl),
      'narrow --since and --until, or raise --throttle');
  end if;
end
$$;
