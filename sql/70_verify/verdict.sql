-- Verify: the rows of a whole run counted, its criteria and its verdict.
--
-- This takes one call or several, each its own transaction. A row that changes in between is seen as it was or as it is
-- now, and so is the audit. Nothing of a run that has ended changes by itself.

-- One criterion: expected against actual.
create function backfill_private.criterion(p_name text, p_expected bigint, p_actual bigint, p_more jsonb default '{}')
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('name', p_name, 'expected', p_expected, 'actual', p_actual,
    'status', case when p_expected = p_actual then 'pass' else 'fail' end) || p_more
$$;

-- The version that a run wants of a component.
create function backfill_private.wanted_version(p_run_id uuid, p_component text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select r.request ->> t.version_parameter
  from public.backfill_runs as r
  join public.backfill_targets as t on t.target = r.target and t.component = p_component
  where r.run_id = p_run_id
$$;

-- What a part saw of one component: {figures, buckets: {bucket: [session], unplanned: [row]}, critical: [what]}.
create function backfill_private.verify_rows(p_run_id uuid, p_component text, p_after integer, p_until integer)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with looked_at as materialized (
    select * from backfill_private.standing(p_run_id, p_component, p_after, p_until)
  ), stands as (
    select * from looked_at as l where l.bucket <> 'no_longer_selected'
  ), besides as materialized (
    select * from backfill_private.unplanned(p_run_id, p_component, p_after, p_until)
  )
  select jsonb_build_object(
    'figures', (
      select jsonb_build_object(
        'planned', count(*),
        'wanted', count(*) filter (where s.is_wanted),
        'inserted', count(*) filter (where s.is_wanted and s.operation = 'insert'),
        'updated', count(*) filter (where s.is_wanted and s.operation = 'update'),
        'written', count(*) filter (where s.operation is not null),
        'written_wanted', count(*) filter (where s.operation is not null and s.is_wanted),
        'unexplained', count(*) filter (where not s.is_wanted and s.item_state <> 'failed'),
        'unplanned', (select count(*) from besides as b where not b.is_new),
        'priority_incomplete',
          coalesce(jsonb_agg(s.session_id) filter (where s.phase = 'priority' and not s.is_wanted), '[]'))
      from stands as s),
    'buckets', (
      select coalesce(jsonb_object_agg(b.bucket, b.sessions), '{}')
      from (
        select l.bucket, jsonb_agg(l.session_id) as sessions from looked_at as l group by 1
        union all
        select 'unplanned', jsonb_agg(to_jsonb(u) - 'is_new' - 'row_key'
          || jsonb_build_object('component', p_component, 'row', u.row_key))
        from besides as u
        having count(*) > 0
      ) as b),
    'critical', (
      select coalesce(jsonb_agg(format('%s: %s', s.session_id, case
        when s.is_lost then 'a written row is gone'
        else format('it wrote %s where version %s was wanted',
          coalesce('version ' || nullif(s.wrote, ''), 'a row without a version'),
          backfill_private.wanted_version(p_run_id, p_component))
        end) order by s.ordinal) filter (where s.is_lost or s.wrote is not null), '[]')
      from stands as s))
$$;

-- What is critical about a run's chain: the critical events in it that nobody has answered, its own faults, of what it
-- does not tell, and what no longer is as it was approved.
create function backfill_private.verify_chain(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(c.what), '[]') from (
    select format('%s: %s', f ->> 0, f ->> 1) as what
    from backfill_private.critical_events(p_run_id) as e
    cross join jsonb_array_elements(e.sessions) as f
    where e.answered is null
    union all
    select format('audit event %s: %s', f.seq, f.fault) from backfill_private.chain_faults(p_run_id) as f
    union all
    select format('%s: %s', u.session_id, u.what) from backfill_private.untold(p_run_id) as u
    union all
    select format('claim %s: %s', u.claim, u.fault) from backfill_private.unnoted_faults(p_run_id) as u
    union all
    select f from backfill_private.approval_faults(p_run_id) as f
    union all
    select f from backfill_private.standing_use_faults(p_run_id) as f
  ) as c
$$;

-- The settled batches among some events whose receipts are no longer those that the chain tells, in words.
create function backfill_private.verify_receipts(p_run_id uuid, p_after bigint, p_until bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(format('audit event %s: %s', f.seq, f.fault)), '[]')
  from backfill_private.receipt_faults(p_run_id, p_after, p_until) as f
$$;

-- One step of a verification: 2,000 places of the plan, the strangers of a component, the chain, or the receipts of 200
-- events. After the last of them only the end is left.
--
-- p_so_far  see backfill_private.verify_so_far
-- returns   so_far: the same, one step further
--           buckets {bucket: {component: […]}} and critical: what this step saw
create function backfill_private.verify_step(p_run public.backfill_runs, p_so_far jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stage text := p_so_far ->> 'stage';
  v_after integer := (p_so_far ->> 'after')::integer;
  v_until integer := v_after + case v_stage when 'rows' then 2000 when 'receipts' then 200 else 1 end;
  v_last bigint;
  v_seen jsonb := '{}'::jsonb;
  v_critical jsonb := '[]'::jsonb;
begin
  if v_stage in ('rows', 'strangers') then
    select jsonb_object_agg(t.component, case v_stage
      when 'rows' then backfill_private.verify_rows(p_run.run_id, t.component, v_after, v_until)
      else backfill_private.verify_strangers(p_run.run_id, t.component) end) into v_seen
    from (
      select x.component, row_number() over (order by x.position) as place
      from public.backfill_targets as x
      where x.target = p_run.target) as t
    where v_stage = 'rows' or t.place = v_until;
    select coalesce(jsonb_agg(c.what order by t.position, c.place), '[]') into v_critical
    from public.backfill_targets as t
    cross join jsonb_array_elements(v_seen -> t.component -> 'critical') with ordinality as c (what, place)
    where t.target = p_run.target;
  elsif v_stage = 'chain' then
    v_critical := backfill_private.verify_chain(p_run.run_id);
  else
    v_critical := backfill_private.verify_receipts(p_run.run_id, v_after, v_until);
  end if;
  v_last := case v_stage
    when 'chain' then 1
    when 'receipts' then p_run.audit_count
    when 'rows' then (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run.run_id)
    else (select count(*) from public.backfill_targets as t where t.target = p_run.target) end;
  return jsonb_build_object(
    'so_far', jsonb_build_object(
      'stage', case when v_until < v_last then v_stage else (
        jsonb_build_object('rows', 'strangers', 'strangers', 'chain', 'chain', 'receipts', 'receipts', 'end')
        ) ->> v_stage end,
      'after', case when v_until < v_last then v_until else 0 end,
      'critical', (p_so_far ->> 'critical')::bigint + jsonb_array_length(v_critical),
      'figures', backfill_private.added(p_so_far -> 'figures', (
        select coalesce(jsonb_object_agg(s.key, s.value -> 'figures'), '{}')
        from jsonb_each(v_seen) as s))),
    'buckets', (
      select coalesce(jsonb_object_agg(b.key, b.components), '{}')
      from (
        select b.key, jsonb_object_agg(s.key, b.value) as components
        from jsonb_each(v_seen) as s
        cross join jsonb_each(s.value -> 'buckets') as b
        group by 1) as b),
    'critical', v_critical);
end
$$;

-- What all parts of a verification say: its criteria, its verdict, and the figures that no criterion compares.
create function backfill_private.verify_end(p_run public.backfill_runs, p_so_far jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_figures jsonb := p_so_far -> 'figures';
  v_critical bigint := (p_so_far ->> 'critical')::bigint;
  v_criteria jsonb;
begin
  select jsonb_agg(c.criterion order by t.position, c.place) into v_criteria
  from public.backfill_targets as t
  cross join lateral backfill_private.component_criteria(t, v_figures -> t.component)
    with ordinality as c (criterion, place)
  where t.target = p_run.target;
  v_criteria := v_criteria || backfill_private.run_criteria(p_run.run_id, v_figures, v_critical);
  return jsonb_build_object(
    'run_id', p_run.run_id,
    'state', p_run.state,
    'verdict', backfill_private.verdict(v_figures, v_criteria, v_critical),
    'criteria', v_criteria,
    'inferred', (
      select count(*)
      from public.backfill_receipts as r
      where r.run_id = p_run.run_id and r.is_inferred and r.undone_at is null),
    'answered', (
      select coalesce(jsonb_agg(e.answered || jsonb_build_object(
          'what', format('%s: %s', f.value ->> 0, f.value ->> 1)) order by e.seq, f.place), '[]')
      from backfill_private.critical_events(p_run.run_id) as e
      cross join jsonb_array_elements(e.sessions) with ordinality as f (value, place)
      where e.answered is not null),
    'unanswered', (
      select count(*)
      from backfill_private.critical_events(p_run.run_id) as e
      where e.answered is null),
    'elsewhere', backfill_private.written_elsewhere(p_run.run_id),
    'without_headers', backfill_private.functions_without_headers(p_run),
    'audit', jsonb_build_object('count', p_run.audit_count, 'head', p_run.audit_head))
    || backfill_private.new_candidates(p_run);
end
$$;

-- A sealed run that the caller may read about.
--
-- raises  OB001 no such run, OB007 a table or a column is gone, OB010 not allowed, OB013 its target was removed
create function backfill_private.verifiable(p_run_id uuid)
returns public.backfill_runs
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.run_now(p_run_id);
  v_gone text;
begin
  perform backfill_private.authorize('read');
  if v_run.sealed_at is null then
    perform backfill_private.refuse_run(format('there is no sealed run %s', p_run_id));
  end if;
  perform backfill_private.refuse_if_removed(v_run.target);
  v_gone := backfill_private.gone(v_run.target);
  if v_gone is not null then
    perform backfill_private.refuse('OB007', v_gone, concat_ws(e'\n',
      'Give it back the name that the target declares. The check says which. Then verify again.',
      'backfill check',
      'backfill verify ' || p_run_id));
  end if;
  return v_run;
end
$$;

-- Verify a part of a run against the tables, for about p_budget_ms.
--
-- p_so_far  what the part before answered. Null: from the beginning
-- returns   {so_far, looked_at, to_look_at, components, buckets, critical, verification}
--           looked_at and to_look_at: sessions
--           buckets: {bucket: {component: [session]}}, of extra [{session_id, component, row}], of unplanned also
--           operation, receipt and why
--           verification: null, or after the last part {run_id, state, verdict, criteria, inferred, answered,
--           unanswered, elsewhere, without_headers, audit, new_candidates, new_candidates_total}
--           answered: critical events that somebody has looked at, [{what, by, at, because}]
--           verdict: pass: every planned row is there
--                    partial: each missing one belongs to a session recorded as failed, and nothing is critical
--                    fail: everything else
-- raises    OB001 no such run, OB007 a table or a column is gone, OB010 not allowed, OB013 no part has answered
--           this so_far
create function backfill_private.verify_part(p_run_id uuid, p_so_far jsonb, p_budget_ms integer)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_until timestamptz := backfill_private.clock() + coalesce(p_budget_ms, 2000) * interval '1 ms';
  v_run public.backfill_runs;
  v_so_far jsonb;
  v_sessions bigint := (select count(*) from public.backfill_items as i where i.run_id = p_run_id);
  v_step jsonb;
  v_steps jsonb[] := array[]::jsonb[];
  v_end jsonb;
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'so_far', p_so_far, 'a look', coalesce(p_budget_ms, 2000)));
  v_run := backfill_private.verifiable(p_run_id);
  v_so_far := backfill_private.verify_so_far(v_run.target, p_so_far);
  loop
    if v_so_far ->> 'stage' = 'end' then
      v_end := backfill_private.verify_end(v_run, v_so_far);
      exit;
    end if;
    v_step := backfill_private.verify_step(v_run, v_so_far);
    v_so_far := v_step -> 'so_far';
    v_steps := v_steps || (v_step - 'so_far');
    exit when backfill_private.clock() >= v_until;
  end loop;
  return backfill_private.all_seen(v_steps) || jsonb_build_object(
    'so_far', v_so_far,
    'verification', v_end,
    'to_look_at', v_sessions,
    'components', (
      select jsonb_agg(t.component order by t.position)
      from public.backfill_targets as t
      where t.target = v_run.target),
    'looked_at', case v_so_far ->> 'stage' when 'rows' then (v_so_far ->> 'after')::bigint else v_sessions end);
end
$$;

-- The criteria of one component.
create function backfill_private.component_criteria(p_target public.backfill_targets, p_figures jsonb)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.criterion(
    n.tab || '_rows',
    (p_figures ->> 'planned')::bigint,
    (p_figures ->> 'wanted')::bigint,
    jsonb_build_object('inserted', p_figures -> 'inserted', 'updated', p_figures -> 'updated'))
  from (select backfill_private.rows_name(p_target)) as n (tab)
  union all
  select backfill_private.criterion(backfill_private.rows_name(p_target) || '_version',
    (p_figures ->> 'written')::bigint, (p_figures ->> 'written_wanted')::bigint)
  where p_target.version_column is not null
  union all
  select backfill_private.criterion(backfill_private.rows_name(p_target) || '_no_legacy_versions',
    0, (p_figures ->> 'legacy')::bigint)
  where p_target.version_column = any (p_target.key_columns)
$$;

-- The criteria that look at the whole run.
create function backfill_private.run_criteria(p_run_id uuid, p_figures jsonb, p_critical bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_array(
    backfill_private.criterion('priority_complete',
      count(*) filter (where i.phase = 'priority' and i.state <> 'rolled_back' and i.unselected is null),
      count(*) filter (where i.phase = 'priority' and i.state <> 'rolled_back' and i.unselected is null and not exists (
        select from jsonb_each(p_figures) as x
        where x.value -> 'priority_incomplete' ? i.session_id))),
    backfill_private.criterion('critical_errors', 0, p_critical),
    backfill_private.criterion('failed_sessions', 0, count(*) filter (where i.state = 'failed')),
    backfill_private.criterion('audit_complete',
      (backfill_private.run_now(p_run_id)).audit_count,
      -- The events before the first fault. Without a fault, all that there are.
      (select coalesce(min(f.seq) - 1, (select count(*) from public.backfill_events as e where e.run_id = p_run_id))
       from backfill_private.chain_faults(p_run_id) as f)))
  from public.backfill_items as i
  where i.run_id = p_run_id
$$;

-- pass, partial or fail.
create function backfill_private.verdict(p_figures jsonb, p_criteria jsonb, p_critical bigint)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_critical > 0 or (
      select sum((x.value ->> 'extra')::bigint + (x.value ->> 'unexplained')::bigint
        + (x.value ->> 'unplanned')::bigint)
      from jsonb_each(p_figures) as x) > 0 then 'fail'
    when exists (select from jsonb_array_elements(p_criteria) as c where c ->> 'status' <> 'pass') then 'partial'
    else 'pass' end
$$;
