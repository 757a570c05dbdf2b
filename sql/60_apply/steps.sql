-- Steps: the scoring calls that a session still needs.

-- The scoring calls that some items still need, in order: function and arguments for each component that is neither
-- filled nor written by this run, one for those that share a call. What an item's first attempt needs is in its plan,
-- so receipts are read only later.
--
-- steps  [{component: the first that needs the call, components: all that do, transport, function, arguments}]
create function backfill_private.steps(p_run public.backfill_runs, p_ordinals integer[])
returns table (ordinal integer, steps jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with needed as (
    select i.ordinal, i.session_id, o.call, array_agg(t.component order by t.position) as components
    from public.backfill_items as i
    cross join unnest(i.components) as c (component)
    join public.backfill_targets as t on t.target = p_run.target and t.component = c.component
    join backfill_private.calls_of(p_run.target, p_run.request) as o on o.component = c.component
    left join backfill_private.effects(p_run.run_id, array(
        select again.ordinal
        from public.backfill_items as again
        where again.run_id = p_run.run_id
          and again.ordinal = any (p_ordinals)
          and again.attempts > 0)) as e
      on e.ordinal = i.ordinal and e.component = c.component
    where i.run_id = p_run.run_id
      and i.ordinal = any (p_ordinals)
      and c.component <> all (i.filled)
      and (e.is_wanted and e.has_receipt) is not true
    group by i.ordinal, i.session_id, o.call
  )
  select n.ordinal, jsonb_agg(jsonb_build_object(
      'component', n.components[1],
      'components', n.components,
      'transport', t.transport,
      'function', f.name,
      'arguments', (
        select jsonb_object_agg(a.key,
          case a.value when 'session_id' then to_jsonb(n.session_id) else p_run.request -> a.value end)
        from jsonb_each_text(t.arguments) as a))
    order by t.position)
  from needed as n
  join public.backfill_targets as t on t.target = p_run.target and t.component = n.call
  join backfill_private.scoring_functions(p_run.target) as f on f.component = n.call
  group by n.ordinal
$$;
