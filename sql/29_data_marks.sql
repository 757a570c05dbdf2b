-- Data marks: is what a plan names still what its target selects, and has it what scoring reads.

-- The conditions under which a row of a target's source is one of its sessions, in words and as SQL.
--
-- p_prefix  of the columns: an alias with its dot, or nothing
create function backfill_private.filter_conditions(p_target text, p_prefix text)
returns table (words text, condition text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    case when f ? 'is_null' then format('%s %s', f ->> 'column', case when (f ->> 'is_null')::boolean then 'null' else 'not null' end)
      else format('%s %s', f ->> 'column', (select string_agg(v, ' or ') from jsonb_array_elements_text(f -> 'values') as v)) end,
    p_prefix || quote_ident(f ->> 'column') || case
      when f ? 'is_null' then case when (f ->> 'is_null')::boolean then ' is null' else ' is not null' end
      when jsonb_array_length(f -> 'values') = 1 then format(' = %L', f -> 'values' ->> 0)
      else (select format(' in (%s)', string_agg(quote_literal(v), ', ')) from jsonb_array_elements_text(f -> 'values') as v) end
  from backfill_private.sources as o
  cross join lateral jsonb_array_elements(o.filters) as f
  where o.target = p_target
$$;

-- Marks on the data of a plan: what selects its sessions, and each need of theirs.
create function backfill_private.data_marks(p_run_id uuid)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_source backfill_private.sources;
  v_need jsonb;
  v_mark jsonb;
  v_words text;
  v_condition text;
begin
  select s.* into strict v_source from backfill_private.sources as s
  join public.backfill_runs as r on r.target = s.target where r.run_id = p_run_id;
  select string_agg(f.words, ', '), string_agg(f.condition, ' and ') into v_words, v_condition
  from backfill_private.filter_conditions(v_source.target, 's.') as f;
  if v_words is not null then
    execute format('select backfill_private.mark(%L, case when count(*) = count(*) filter (where %s) then ''ok'' else ''fail'' end,
        format(''%%s of %%s have %%s'', count(*) filter (where %2$s), count(*), %L))
      from public.backfill_items as item left join %s as s on s.%I = item.session_id::%s where item.run_id = $1',
      'rows of ' || backfill_private.bare_name(v_source.source_table), v_condition, v_words, v_source.source_table::regclass,
      v_source.key_column, backfill_private.column_type(v_source.source_table, v_source.key_column))
    into v_mark using p_run_id;
    return next v_mark;
  end if;
  for v_need in select n from jsonb_array_elements(v_source.needs) as n loop
    return next backfill_private.need_mark(p_run_id, v_need);
  end loop;
end
$$;

-- The mark on one need: how many of the sessions that it concerns have enough rows of it.
create function backfill_private.need_mark(p_run_id uuid, p_need jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_component text := p_need ->> 'component';
  v_sessions bigint;
  v_enough bigint;
  v_least bigint;
  v_most bigint;
  v_named text;
begin
  execute format('
    with counted as (
      select item.session_id, item.phase, (select count(*) from %s as n where n.%I = item.session_id::%s) as has
      from public.backfill_items as item
      where item.run_id = $1 and ($2 is null or $2 = any (item.components))
    )
    select count(*) as sessions, count(*) filter (where c.has >= $3) as enough, min(c.has) as least, max(c.has) as most,
      string_agg(format(''%%s has %%s'', left(c.session_id, 8), c.has), '', '' order by c.session_id)
        filter (where c.phase = ''priority'' and $2 is not null) as named
    from counted as c', (p_need ->> 'table')::regclass, p_need ->> 'column',
    backfill_private.column_type(p_need ->> 'table', p_need ->> 'column'))
  into v_sessions, v_enough, v_least, v_most, v_named using p_run_id, v_component,
    (select (r.request ->> (p_need ->> 'parameter'))::bigint from public.backfill_runs as r where r.run_id = p_run_id);
  return backfill_private.mark(p_need ->> 'name', case when v_enough = v_sessions then 'ok' else 'fail' end,
    format('%s of %s sessions%s have enough', v_enough, v_sessions, coalesce(' that lack ' || v_component, ''))
      || coalesce(', ' || v_least || ' to ' || v_most || ' each', '') || coalesce('; priority: ' || v_named, ''));
end
$$;

revoke all on function
  backfill_private.filter_conditions(text, text),
  backfill_private.data_marks(uuid),
  backfill_private.need_mark(uuid, jsonb)
from public;
