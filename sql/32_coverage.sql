-- Coverage: what is missing by day, of any target.

-- The view of a target that tells its coverage, its components in order, and the first day meant.
--
-- raises  OB013 no such target, no date; OB010 not allowed
create function backfill_private.coverage_of(
  p_target text, p_since text, out view_name text, out components text[], out first_day date
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  first_day := (backfill_private.since_bound('since', p_since) at time zone 'UTC')::date;
  select s.views[cardinality(s.views)], array(
      select t.component from public.backfill_targets as t where t.target = s.target order by t.position)
  into view_name, components
  from backfill_private.sources as s where s.target = backfill_private.check_target(p_target);
end
$$;

-- What is missing of a target, by UTC day.
--
-- p_target  null: the only one
-- returns   {components, days: [a row of the target's view of daily coverage]}
create function public.backfill_coverage(p_target text default null, p_since text default null)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_view text;
  v_components text[];
  v_since date;
  v_days jsonb;
begin
  select c.view_name, c.components, c.first_day into v_view, v_components, v_since
  from backfill_private.coverage_of(p_target, p_since) as c;
  execute format('select coalesce(jsonb_agg(to_jsonb(d) order by d.day), ''[]'') from %s as d where $1 is null or d.day >= $1',
    v_view::regclass) into v_days using v_since;
  return jsonb_build_object('components', v_components, 'days', v_days);
end
$$;

revoke all on function backfill_private.coverage_of(text, text) from public;
grant execute on function backfill_private.coverage_of(text, text) to service_role;
revoke all on function public.backfill_coverage(text, text) from public, anon, authenticated, service_role;
grant execute on function public.backfill_coverage(text, text) to service_role;

comment on function public.backfill_coverage(text, text) is
  'What is missing of a target, by UTC day: the target, the first day. For the client.';
