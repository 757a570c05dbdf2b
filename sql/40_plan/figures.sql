-- The figures of a plan: sessions, calls, writes, batches, run time.

-- The calls of a plan in their order: {component, function, transport, arguments: [[name, value; null: the session's
-- id]], table, version_column, version, keeps_versions}.
create function backfill_private.plan_steps(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(
    jsonb_build_object(
      'component', t.component,
      'function', f.name,
      'transport', t.transport,
      'arguments', (
        select jsonb_agg(
          jsonb_build_array(a.key, case when a.value <> 'session_id' then r.request -> a.value end)
          order by array_position(p.proargnames, a.key), a.key)
        from jsonb_each_text(t.arguments) as a
      ),
      'table', backfill_private.bare_name(t.table_name),
      'version_column', t.version_column,
      'version', r.request ->> t.version_parameter,
      'keeps_versions', t.version_column = any (t.key_columns))
    order by t.position)
  from public.backfill_runs as r
  join public.backfill_targets as t on t.target = r.target
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
  ), names as (
    select
      c.position,
      c.missing,
      f.name as function_name,
      c.component
    from components as c
    join backfill_private.scoring_functions(c.target) as f on f.component = c.component
  ), writes as (
    select backfill_private.bare_name(p.table_name) as name, p.new, p.replaced, p.versions
    from backfill_private.planned_rows(p_run_id) as p
  )
  select jsonb_build_object(
    'candidates', jsonb_build_object(
      'total', (select count(*) from items),
      'missing', (select jsonb_object_agg(n.component, n.missing) from names as n),
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
      (select jsonb_object_agg(n.function_name, n.missing) from names as n)
      || jsonb_build_object('total', (select sum(n.missing) from names as n)),
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
    'steps', backfill_private.plan_steps(p_run_id),
    'batches', (select max(i.batch) from items as i),
    'oldest', (select min(i.session_at) from items as i),
    'newest', (select max(i.session_at) from items as i))
$$;

-- The sealed plan of a run: figures, pace, excluded sessions, marks.
create function backfill_private.measure_plan(p_run_id uuid, p_round_trip_ms numeric)
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
    -- What was named comes first, and what has no date that a plan can take comes last.
    'excluded', (
      select coalesce(
        jsonb_agg(jsonb_build_object('session_id', e.session_id, 'reason', e.excluded) order by e.place),
        '[]')
      from (
        select
          f.session_id,
          f.excluded,
          row_number() over (
            order by f.is_named desc, f.session_at desc nulls last, f.session_id) as place
        from backfill_private.findings as f
        where f.run_id = p_run_id and f.excluded is not null
        order by place
        limit 1000
      ) as e
    ),
    'undated', (
      select count(*)
      from backfill_private.findings as f
      where f.run_id = p_run_id and f.session_at is null and not f.is_named
    ),
    'not_wanted', (
      select coalesce(
        jsonb_agg(jsonb_build_object('component', n.component, 'sessions', n.sessions, 'reason', n.reason)
          order by t.position, n.sessions desc, n.reason),
        '[]')
      from (
        select w.key as component, w.value as reason, count(*) as sessions
        from backfill_private.findings as f
        cross join lateral jsonb_each_text(f.not_wanted) as w
        where f.run_id = p_run_id and f.session_at is not null and (f.excluded is null or f.is_named)
        group by w.key, w.value
      ) as n
      join public.backfill_targets as t on t.target = v_run.target and t.component = n.component
    ),
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
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.function_marks(v_run.target) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.environment_mark() as m)
      || backfill_private.throttle_mark(v_run.request)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.approval_policy_mark() as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.mode_marks(p_run_id, v_rehearsal) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.rehearsal_marks(p_run_id, v_rehearsal) as m));
end
$$;
