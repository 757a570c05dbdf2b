-- Steps: the scoring calls that a session still needs.

-- The scoring calls that some items still need, in order: function and arguments for each component that is neither
-- filled nor written by this run, one for those that share a call. What an item's first attempt needs is in its plan,
-- so receipts are read only later.
--
-- steps  [{component: the first that needs the call, components: all that do, transport, function, arguments}]
create function backfill_private.steps(p_run public.backfill_runs, p_ordinals integer[])
returns table (ordinal integer, steps jsonb)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
  with calls as materialized (
    select o.component, o.position, o.call, t.transport, f.name, (
      select jsonb_object_agg(a.key, p_run.request -> a.value) from jsonb_each_text(t.arguments) as a) as arguments, (
      select array_agg(a.key) from jsonb_each_text(t.arguments) as a where a.value = 'session_id') as keyed
    from backfill_private.calls_of(p_run.target, p_run.request) as o
    join public.backfill_targets as t on t.target = p_run.target and t.component = o.call
    join backfill_private.scoring_functions(p_run.target) as f on f.component = o.call
  ), done as materialized (
    select e.ordinal, e.component
    from backfill_private.effects(p_run.run_id, array(
      select again.ordinal
      from public.backfill_items as again
      where again.run_id = p_run.run_id
        and again.ordinal = any (p_ordinals)
        and again.attempts > 0)) as e
    where e.is_wanted and e.has_receipt
  ), needed as (
    select i.ordinal, i.session_id, c.call, array_agg(c.component order by c.position) as components
    from public.backfill_items as i
    join calls as c on c.component = any (i.components) and c.component <> all (i.filled)
    where i.run_id = p_run.run_id
      and i.ordinal = any (p_ordinals)
      and not exists (select from done as d where d.ordinal = i.ordinal and d.component = c.component)
    group by i.ordinal, i.session_id, c.call
  )
  select n.ordinal, jsonb_agg(jsonb_build_object(
      'component', n.components[1],
      'components', n.components,
      'transport', c.transport,
      'function', c.name,
      'arguments', c.arguments || jsonb_object(c.keyed, array_fill(n.session_id, array[cardinality(c.keyed)])))
    order by c.position)
  from needed as n
  join calls as c on c.component = n.call
  group by n.ordinal;
end
$$;
