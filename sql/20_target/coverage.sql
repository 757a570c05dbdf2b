-- Coverage: what is missing by day, of any target.

-- The view that shows a target's coverage, the target's components in order, the first and the last day meant, the
-- date's column, how people call its rows, why a component may not be wanted: {component: reason}, and what somebody
-- should know: [sentence].
--
-- raises  OB010 not allowed, OB013 no such target, no date, or the first day is after the last
create function backfill_private.coverage_of(
  p_target text, p_since text, p_until text,
  out view_name text, out components text[], out first_day date, out last_day date, out date_column text,
  out called text[], out not_wanted jsonb, out notes jsonb
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  first_day := (backfill_private.since_bound('since', p_since) at time zone 'UTC')::date;
  last_day := ((backfill_private.until_bound('until', p_until) - interval '1 microsecond') at time zone 'UTC')::date;
  if last_day < first_day then
    perform backfill_private.refuse('OB013',
      format('since %s is after until %s', p_since, p_until),
      format('backfill missing … --until …, with a day from %s on', first_day));
  end if;
  select
    s.views[cardinality(s.views)],
    array(
      select t.component
      from public.backfill_targets as t
      where t.target = s.target
      order by t.position),
    s.date_column,
    s.called,
    backfill_private.not_wanted_reasons(s.target),
    (select coalesce(jsonb_agg(u.detail), '[]') from backfill_private.unmatched_values(s.target) as u)
  into view_name, components, date_column, called, not_wanted, notes
  from backfill_private.sources as s
  where s.target = backfill_private.check_target(p_target);
end
$$;
