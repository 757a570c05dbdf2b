-- The figures of a plan: sessions, calls, writes, batches, run time.

-- The calls of a plan in their order: {component, components: all that the call fills, calls: how many, function,
-- transport, arguments: [[name, value; null: the session's id]], table, version_column, version, keeps_versions,
-- others: [{table, version_column, version, keeps_versions}] of the other components that it fills}.
create function backfill_private.plan_steps(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with shared as (
    select
      c.call,
      array_agg(c.component order by c.position) as components,
      jsonb_agg(
        jsonb_build_object(
          'component', t.component,
          'table', backfill_private.bare_name(t.table_name),
          'criteria', backfill_private.rows_name(t),
          'version_column', t.version_column,
          'version', r.request ->> t.version_parameter,
          'keeps_versions', coalesce(t.version_column = any (t.key_columns), false))
        order by c.position) as fills
    from public.backfill_runs as r
    cross join lateral backfill_private.calls_of(r.target, r.request) as c
    join public.backfill_targets as t on t.target = r.target and t.component = c.component
    where r.run_id = p_run_id
    group by c.call
  )
  select jsonb_agg(
    jsonb_build_object(
      'component', t.component,
      'components', s.components,
      'calls', (
        select count(*)
        from public.backfill_items as i
        where i.run_id = p_run_id and i.components && s.components
      ),
      'function', f.name,
      'transport', t.transport,
      'arguments', (
        select jsonb_agg(
          jsonb_build_array(a.key, case when a.value <> 'session_id' then r.request -> a.value end)
          order by array_position(p.proargnames, a.key), a.key)
        from jsonb_each_text(t.arguments) as a
      ),
      'others', s.fills - 0)
      || (s.fills -> 0)
    order by t.position)
  from public.backfill_runs as r
  join public.backfill_targets as t on t.target = r.target
  join shared as s on s.call = t.component
  join backfill_private.scoring_functions(r.target) as f on f.component = t.component
  left join pg_proc as p on p.oid = f.oid
  where r.run_id = p_run_id
$$;

-- The figures: candidates, categories, expected calls and writes.
create function backfill_private.plan_figures(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with items as (
    select i.* from public.backfill_items as i where i.run_id = p_run_id
  ), components as (
    select t.*, (select count(*) from items as i where t.component = any (i.components)) as missing
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_run_id
  ), steps as (
    select backfill_private.plan_steps(p_run_id) as told
  ), calls as (
    select s ->> 'function' as name, sum((s ->> 'calls')::bigint) as made
    from steps, jsonb_array_elements(steps.told) as s
    group by 1
  ), writes as (
    select backfill_private.bare_name(p.table_name) as name, p.new, p.replaced, p.versions
    from backfill_private.planned_rows(p_run_id) as p
  )
  select jsonb_build_object(
    'candidates', jsonb_build_object(
      'total', (select count(*) from items),
      'missing', (select jsonb_object_agg(c.component, c.missing) from components as c),
      'missing_all', (
        select count(*)
        from items as i
        where cardinality(i.components) = (select count(*) from components)
      )),
    'categories', (
      select jsonb_object_agg(c.category, (select count(*) from items as i where i.category = c.category))
      from backfill_private.categories((select target from public.backfill_runs where run_id = p_run_id)) as c
    ),
    'phases', (
      select jsonb_object_agg(p.phase, (select count(*) from items as i where i.phase = p.phase))
      from unnest(array['priority', 'recent', 'historical']) as p (phase)
    ),
    'expected_calls',
      (select jsonb_object_agg(c.name, c.made) || jsonb_build_object('total', sum(c.made)) from calls as c),
    'expected_writes', (
      select jsonb_object_agg(w.name, w.new + w.replaced)
        || jsonb_build_object(
          'total', sum(w.new + w.replaced),
          'new', jsonb_object_agg(w.name, w.new),
          'replaced', jsonb_object_agg(w.name, w.replaced))
      from writes as w
    ),
    'replaced_versions', (
      select jsonb_object_agg(w.name, w.versions)
      from writes as w
    ),
    'steps', (select s.told from steps as s),
    'batches', (select max(i.batch) from items as i),
    'oldest', (select min(i.session_at) from items as i),
    'newest', (select max(i.session_at) from items as i))
$$;

-- The excluded sessions of a plan, at most 1,000. What was named comes first. What has no date that a plan can take
-- comes late, and what is beyond a limit last.
--
-- returns  [{session_id, reason}]
create function backfill_private.excluded_figures(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_agg(jsonb_build_object('session_id', e.session_id, 'reason', e.excluded) order by e.place),
    '[]')
  from (
    select
      f.session_id,
      f.excluded,
      row_number() over (
        order by
          f.is_named desc,
          f.excluded is not distinct from backfill_private.beyond_limit(p_run),
          f.session_at desc nulls last, f.session_id) as place
    from backfill_private.findings as f
    where f.run_id = p_run.run_id and f.excluded is not null
    order by place
    limit 1000
  ) as e
$$;

-- Which components are missing and not wanted, of how many sessions, and why.
--
-- returns  [{component, sessions, reason}]
create function backfill_private.not_wanted_figures(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_agg(jsonb_build_object('component', n.component, 'sessions', n.sessions, 'reason', n.reason)
      order by t.position, n.sessions desc, n.reason),
    '[]')
  from (
    select w.key as component, w.value as reason, count(*) as sessions
    from backfill_private.findings as f
    cross join lateral jsonb_each_text(f.not_wanted) as w
    where f.run_id = p_run.run_id and f.session_at is not null and (f.excluded is null or f.is_named)
    group by w.key, w.value
  ) as n
  join public.backfill_targets as t on t.target = p_run.target and t.component = n.component
$$;

-- The sealed plan of a run: figures, pace, excluded sessions, marks.
create function backfill_private.measure_plan(p_run_id uuid, p_round_trip_ms numeric, p_probed jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_figures jsonb := backfill_private.plan_figures(p_run_id);
  v_spacing numeric;
  v_rehearsal jsonb := backfill_private.rehearsal_figures(p_run_id, p_round_trip_ms);
begin
  select * into strict v_run from public.backfill_runs where run_id = p_run_id;
  v_spacing := backfill_private.batch_spacing_s(v_run.request);
  return v_figures || jsonb_build_object(
    'called', (select to_jsonb(s.called) from backfill_private.sources as s where s.target = v_run.target),
    'batch_spacing_s', trim_scale(v_spacing),
    'expected_runtime_s', case
      when v_run.request ->> 'throttle_per_minute' is not null
      then trim_scale(((v_figures ->> 'batches')::integer - 1) * v_spacing)
    end,
    'excluded_total', (
      select count(*)
      from backfill_private.findings
      where run_id = p_run_id and excluded is not null
    ),
    'excluded', backfill_private.excluded_figures(v_run),
    'undated', (
      select count(*)
      from backfill_private.findings as f
      where f.run_id = p_run_id and f.session_at is null and not f.is_named
    ),
    'not_wanted', backfill_private.not_wanted_figures(v_run),
    'settings', backfill_private.settings_now(),
    'rehearsal', v_rehearsal,
    'blast_radius', backfill_private.blast_radius(p_run_id),
    'checks',
      coalesce(
        v_run.data_marks,
        (select coalesce(jsonb_agg(m), '[]') from backfill_private.data_marks(p_run_id) as m))
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.kind_marks(p_run_id) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.table_marks(v_run.target) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.image_marks(v_run.target, p_run_id) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.function_marks(v_run.target, p_probed) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.environment_mark() as m)
      || backfill_private.throttle_mark(v_run.request)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.approval_policy_mark() as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.mode_marks(p_run_id, v_rehearsal) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.rehearsal_marks(p_run_id, v_rehearsal) as m));
end
$$;
