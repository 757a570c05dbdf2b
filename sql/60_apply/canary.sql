-- The canary: before the next phase starts, the priority sessions are looked at and their scores are checked for range.
--
-- A claim asks `judge_canary` before it grants a session of another phase, and before it completes a run. A call in
-- bulk begins only once that has passed. A resume after the canary failed overrides it: see lifecycle.sql.

-- What is wrong with a value of a score column. Null if nothing is. Never the value itself: it is somebody's score.
create function backfill_private.score_fault(p_value jsonb, p_range jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when p_value is null or p_value = 'null' then 'is null' else (
    select case
        when bool_or(jsonb_typeof(v) = 'null')
          then 'holds a null'
        when bool_or(jsonb_typeof(v) = 'string' and v #>> '{}' in ('NaN', 'Infinity', '-Infinity'))
          then 'holds NaN or infinity'
        when bool_or(jsonb_typeof(v) = 'number' and not v between p_range -> 0 and p_range -> 1)
          then format('holds a number outside %s to %s', p_range -> 0, p_range -> 1) end
    from jsonb_path_query(p_value, 'strict $.**') as v) end
$$;

-- Scores of a run's priority sessions that are null, not a number or outside the range that the target declares.
create function backfill_private.canary_scores(p_run public.backfill_runs)
returns table (ordinal integer, why text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_score record;
begin
  for v_score in
    select t as target, c.key as name, c.value as range
    from public.backfill_targets as t
    cross join jsonb_each(t.score_ranges) as c
    where t.target = p_run.target
    order by t.position, c.key
  loop
    return query execute format(
      'select item.ordinal, %1$L || f.fault
       from public.backfill_items as item
       join %2$s as t on %3$s
       cross join lateral backfill_private.score_fault(backfill_private.value_json(t.%4$I), $2) as f (fault)
       where item.run_id = $1
         and item.phase = ''priority''
         and item.state = ''done''
         and %5$L = any (item.components)
         and %5$L <> all (item.filled)
         and f.fault is not null',
      format('%s.%s ', backfill_private.bare_name((v_score.target).table_name), v_score.name),
      (v_score.target).table_name::regclass,
      backfill_private.row_condition(v_score.target, p_run.request, true),
      v_score.name,
      (v_score.target).component)
    using p_run.run_id, v_score.range;
  end loop;
end
$$;

-- What is wrong with the priority sessions of a run, one row per fault.
create function backfill_private.canary_faults(p_run public.backfill_runs)
returns table (ordinal integer, session_id text, why text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with canary as (
    select i.* from public.backfill_items as i where i.run_id = p_run.run_id and i.phase = 'priority'
  )
  select c.ordinal, c.session_id, f.why
  from canary as c
  join (
    select i.ordinal, i.error_message as why
    from canary as i
    where i.state = 'failed'
    union all
    select e.ordinal, 'lacks its ' || e.component
    from backfill_private.effects(p_run.run_id, array(select i.ordinal from canary as i)) as e
    join canary as i using (ordinal)
    where i.state <> 'failed'
      and i.unselected is null
      and not e.is_wanted
      and e.component <> all (i.filled)
    union all
    select s.ordinal, s.why
    from backfill_private.canary_scores(p_run) as s
  ) as f using (ordinal)
$$;

-- Look at the canary: the priority batch is verified before the next phase starts.
--
-- returns  passed
--          failed: the run is paused with the reason
--          waiting: priority sessions are under way
create function backfill_private.judge_canary(p_run public.backfill_runs)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bad text;
begin
  if p_run.canary in ('passed', 'overridden') then
    return 'passed';
  elsif exists (
    select from public.backfill_items as i
    where i.run_id = p_run.run_id
      and i.phase = 'priority'
      and i.state in ('pending', 'leased')
  ) then
    return 'waiting';
  end if;
  select string_agg(format('session %s: %s', bad.session_id, bad.why), '; ' order by bad.ordinal) into v_bad
  from (select c.* from backfill_private.canary_faults(p_run) as c order by c.ordinal limit 5) as bad;
  update public.backfill_runs
  set canary = case when v_bad is null then 'passed' else 'failed' end
  where run_id = p_run.run_id;
  perform backfill_private.record(p_run.run_id, 'canary',
    jsonb_build_object('result', case when v_bad is null then 'passed' else 'failed' end));
  if v_bad is not null then
    perform backfill_private.move(p_run.run_id, 'paused', 'the canary failed: ' || v_bad,
      p_cause => 'canary');
    return 'failed';
  end if;
  return 'passed';
end
$$;
