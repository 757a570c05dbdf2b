-- What the watch says of each target: a view for the dashboard, and the function behind backfill_watch.

create view public.backfill_watch_status with (security_invoker = true) as
select
  w.target,
  case
    when a.alert_id is not null then 'breached'
    when x.unknown_because is not null then 'unknown'
    else 'ok'
  end as status,
  backfill_private.share(w.there, w.wanted) as coverage,
  w.min_coverage,
  w.within,
  w.over,
  a.opened_at as breached_since,
  w.judged_since,
  w.wanted,
  w.wanted - w.there as missing,
  backfill_private.short_by(w.min_coverage, w.wanted, w.there) as short_by,
  w.oldest_missing_at,
  w.undated,
  w.looked_at,
  x.unlooked_hours,
  a.alert_id,
  case
    when a.alert_id is not null
    then concat_ws(
      '; ',
      format('%s of %s%s lack something', w.wanted - w.there, w.wanted, ' since ' || w.judged_since),
      x.unknown_because)
    else x.unknown_because
  end as why
from public.backfill_watches as w
left join public.backfill_alerts as a on a.target = w.target and a.closed_at is null
cross join lateral (
  select floor(greatest(extract(epoch from backfill_private.clock() - w.looked_at), 0) / 3600)::integer
    as unlooked_hours
) as h
cross join lateral (
  select
    h.unlooked_hours,
    case
      when w.min_coverage is null then 'no service level is declared: [watch] in the file of the target'
      when w.fault is not null then w.fault
      when w.looked_at is null and not w.is_over then 'not all days are counted yet: look again'
      when w.looked_at is null then 'nobody has looked yet'
      when w.whole_as is distinct from w.counted_as then 'not all days are counted by the new declaration: look again'
      when h.unlooked_hours > 24 then format('nobody has looked for %s hours', h.unlooked_hours)
    end as unknown_because
) as x;

comment on view public.backfill_watch_status is
  'Whether each target keeps its service level, as the last look found it.';
comment on column public.backfill_watch_status.target is 'The target.';
comment on column public.backfill_watch_status.status is
  'ok, breached or unknown. Unknown: no level is declared, or nobody has looked for a day.';
comment on column public.backfill_watch_status.coverage is
  'Share of the judged sessions that lack nothing, 0 to 1, rounded down. Null if there are none.';
comment on column public.backfill_watch_status.min_coverage is 'The share that is declared.';
comment on column public.backfill_watch_status.within is 'How long after its date a session may lack rows.';
comment on column public.backfill_watch_status.over is 
  'How many last days are judged. Null: all dates, and the last 30 days by themselves.';
comment on column public.backfill_watch_status.breached_since is 'When a look found the level breached.';
comment on column public.backfill_watch_status.judged_since is
  'The first day of the sessions that are judged. Null: those of all dates.';
comment on column public.backfill_watch_status.wanted is
  'Sessions that are judged: their time is over, and they can be scored.';
comment on column public.backfill_watch_status.missing is 'Of these, sessions that lack something.';
comment on column public.backfill_watch_status.short_by is
  'How many of these must have their rows, to reach the level.';
comment on column public.backfill_watch_status.oldest_missing_at is
  'The date of the oldest session that lacks something.';
comment on column public.backfill_watch_status.undated is
  'Sessions that lack something and have no date that a plan takes: [{reason, sessions}]. They are not judged.';
comment on column public.backfill_watch_status.looked_at is 'When somebody last looked.';
comment on column public.backfill_watch_status.unlooked_hours is 'For how many hours nobody has looked.';
comment on column public.backfill_watch_status.alert_id is 'The open breach, in backfill_alerts.';
comment on column public.backfill_watch_status.why is 'Why it is breached or unknown.';

-- Look at one target and judge it. What cannot be looked at is told, and keeps nobody from looking at the others.
--
-- returns  its row of backfill_watch_status as JSON, with is_over: whether the look is, change: opened, closed or null
create function backfill_private.watch_one(p_target text, p_all boolean, p_began timestamptz, p_budget interval)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_is_over boolean := true;
  v_change text;
begin
  insert into public.backfill_watches (target) values (p_target) on conflict do nothing;
  -- Two looks of one target come one after another. Who waits too long is told that, and not that nobody could look.
  perform from public.backfill_watches as w where w.target = p_target for update;
  begin
    v_is_over := backfill_private.look(p_target, p_all, p_began, p_budget);
    if v_is_over then
      v_change := backfill_private.judge(p_target);
    end if;
  exception when others then
    update public.backfill_watches
    set fault = 'nobody could look: ' || backfill_private.kept_message(sqlstate, sqlerrm)
    where target = p_target;
  end;
  return (
    select to_jsonb(s) - array['within', 'over'] || jsonb_build_object(
      'within_s', extract(epoch from s.within)::bigint,
      'over_s', extract(epoch from s.over)::bigint,
      'is_over', v_is_over,
      'change', v_change)
    from public.backfill_watch_status as s
    where s.target = p_target);
end
$$;

-- Look at a target, or at all, as far as the time allows.
--
-- p_all        all days, in parts. Call again until is_over
-- p_budget_ms  see look
-- returns      {targets: [see watch_one]}
-- raises       OB010 not allowed, OB013 no such target or a bound
create function backfill_private.watch(p_target text, p_all boolean, p_budget_ms integer)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_began timestamptz := backfill_private.clock();
  v_budget interval := make_interval(secs => (p_budget_ms / 1000.0)::double precision);
  v_told jsonb := '[]'::jsonb;
  v_target text;
begin
  perform backfill_private.authorize('watch');
  if p_budget_ms is not null then
    perform backfill_private.check_bounds(jsonb_build_object('a look', p_budget_ms));
  end if;
  if p_target is not null or not exists (select from backfill_private.sources) then
    perform backfill_private.check_target(p_target);
  end if;
  perform set_config('backfill.request', '', true);
  for v_target in
    select s.target
    from backfill_private.sources as s
    where s.target = coalesce(p_target, s.target)
    order by s.target
  loop
    v_told := v_told || backfill_private.watch_one(v_target, coalesce(p_all, false), v_began, v_budget);
  end loop;
  return jsonb_build_object('targets', v_told);
end
$$;
