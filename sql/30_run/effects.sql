-- Effects: which rows the target tables hold for an item, and what its receipts say.

-- For each planned component of some items: does a row that counts as present stand there, does a row of the wanted
-- version, and did this run write one that nothing took back? If receipts are declared exact, one that had to be
-- inferred does not count.
--
-- p_ordinals  the items. Null: all of the run
create function backfill_private.effects(p_run_id uuid, p_ordinals integer[] default null)
returns table (ordinal integer, component text, is_present boolean, is_wanted boolean, has_receipt boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_run public.backfill_runs;
  v_target public.backfill_targets;
  -- For a batch each row is looked up. For a whole run PostgreSQL may read the tables once.
  v_is_there text := case
    when p_ordinals is null then 'exists (select from %s as t where %s)'
    else '(select true from %s as t where %s limit 1) is not null'
  end;
  v_receipt text := 'r.run_id = item.run_id and r.ordinal = item.ordinal and r.component = %L and r.kind = ''score'''
    ' and r.operation <> ''delete'' and r.undone_at is null';
begin
  if p_ordinals = '{}' then
    return;  -- PostgreSQL would take any partial index for it, and walk over all of it.
  end if;
  select * into strict v_run from public.backfill_runs as r where r.run_id = p_run_id;
  for v_target in
    select * from public.backfill_targets as t where t.target = v_run.target order by t.position
  loop
    return query execute format(
      'select item.ordinal, %1$L::text, %2$s, %3$s, %4$s
       from public.backfill_items as item
       where item.run_id = $1 and ($2 is null or item.ordinal = any ($2)) and %1$L = any (item.components)',
      v_target.component,
      format(v_is_there, v_target.table_name::regclass,
        backfill_private.row_condition(v_target, v_run.request, false)),
      format(v_is_there, v_target.table_name::regclass,
        backfill_private.row_condition(v_target, v_run.request, true)),
      replace(
        format(replace(v_is_there, ' as t ', ' as r '), 'public.backfill_receipts',
          v_receipt || case v_target.receipts when 'exact' then ' and not r.is_inferred' else '' end),
        '%L', quote_literal(v_target.component)))
    using p_run_id, p_ordinals;
  end loop;
end
$$;

-- The components for which some items have a row: of the wanted version, or one that counts as present.
create function backfill_private.standing_of(p_run public.backfill_runs, p_ordinals integer[], p_wanted boolean)
returns table (ordinal integer, component text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_target public.backfill_targets;
begin
  if p_ordinals = '{}' then
    return;  -- As above.
  end if;
  for v_target in select * from public.backfill_targets as t where t.target = p_run.target loop
    return query execute format(
      'select item.ordinal, %L::text from public.backfill_items as item
       where item.run_id = $1 and item.ordinal = any ($2) and %1$L = any (item.components)
         and (select true from %s as t where %s limit 1)',
      v_target.component,
      v_target.table_name::regclass,
      backfill_private.row_condition(v_target, p_run.request, p_wanted))
    using p_run.run_id, p_ordinals;
  end loop;
end
$$;
