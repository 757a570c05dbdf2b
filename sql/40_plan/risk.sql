-- Risk: how much can go wrong if a plan is carried out, and why. It is made when the plan is sealed, and the digest
-- covers it: who approves has approved this grade.
--
-- high: a check failed, or an undo would not be exact. medium: there is any other reason. low: there is none.

-- Each reason for the risk of a plan, the gravest first. Nothing that was not measured is one.
--
-- p_plan  as backfill_private.measure_plan makes it
create function backfill_private.risk_reasons(p_run public.backfill_runs, p_plan jsonb)
returns table (grade text, reason text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with marks as (
    select
      c.mark ->> 'name' as name,
      c.mark ->> 'status' as status,
      case
        when starts_with(c.mark ->> 'name', 'before-images of ') and c.mark ->> 'status' = 'fail'
          or c.mark ->> 'name' = 'rehearsal: undo' and not starts_with(c.mark ->> 'detail', 'not rehearsed')
        then 'undo'
        when starts_with(c.mark ->> 'name', 'receipts of ') and c.mark ->> 'status' = 'warn' then 'inferred'
        when c.mark ->> 'name' = 'environment' then 'environment'
        else 'other'
      end as kind
    from jsonb_array_elements(p_plan -> 'checks') as c (mark)
    where c.mark ->> 'status' <> 'ok'
  ), effects as (
    select e.effect ->> 'kind' as kind, e.effect ->> 'name' as name
    from jsonb_array_elements(p_plan -> 'blast_radius') as e (effect)
    where e.effect ->> 'kind' in ('trigger', 'webhook')
      and e.effect ->> 'events' is distinct from '0'
  ), replaced as (
    select sum(r.value::bigint)::bigint as rows
    from jsonb_each_text(p_plan #> '{expected_writes,replaced}') as r
  ), told (place, grade, reason) as (
    select 1, 'high', format('%s: %s', backfill_private.counted(count(*), 'check') || ' failed',
      string_agg(m.name, ', ' order by m.name))
    from marks as m
    where m.status = 'fail' and m.kind <> 'undo'
    having count(*) > 0
    union all
    select 2, 'high', 'an undo would not be exact: ' || string_agg(m.name, ', ' order by m.name)
    from marks as m
    where m.kind = 'undo'
    having count(*) > 0
    union all
    select 3, 'high', 'an undo would not be exact: the '
      || string_agg(m.name, ', ' order by m.name) || ' are inferred from the rows before and after'
    from marks as m
    where m.kind = 'inferred'
    having count(*) > 0
    union all
    select 4, 'medium', format('%s %s replaced',
      backfill_private.counted(r.rows, 'row'), case r.rows when 1 then 'is' else 'are' end)
    from replaced as r
    where r.rows > 0
    union all
    select 5, 'medium', format('%s: %s',
      backfill_private.counted(count(distinct e.name), e.kind) || case count(distinct e.name) when 1 then ' fires'
        else ' fire' end,
      string_agg(distinct e.name, ', ' order by e.name))
    from effects as e
    group by e.kind
    union all
    select 6, 'medium', coalesce('the environment is ' || p_run.environment, 'no environment is set')
    where p_run.environment is null or lower(p_run.environment) in ('production', 'prod', 'live')
    union all
    select 7, 'medium', format('%s: %s',
      backfill_private.counted(count(*), 'check') || case count(*) when 1 then ' warns' else ' warn' end,
      string_agg(m.name, ', ' order by m.name))
    from marks as m
    where m.status = 'warn' and m.kind = 'other'
    having count(*) > 0
  )
  select t.grade, t.reason
  from told as t
  order by t.place, t.reason
$$;

-- The risk of a plan: {grade: low, medium or high, reasons: [sentence]}.
create function backfill_private.risk(p_run public.backfill_runs, p_plan jsonb)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'grade', case when bool_or(r.grade = 'high') then 'high' when count(*) > 0 then 'medium' else 'low' end,
    'reasons', coalesce(jsonb_agg(r.reason), '[]'))
  from backfill_private.risk_reasons(p_run, p_plan) as r
$$;
