-- A look: count the days whose sessions can still change, or all days, in parts that are bounded in time. What is not
-- reached in one call, the next goes on with.

-- The first day whose sessions can still change by themselves: they may be completed, scored or deleted some days after
-- their date. Older days are looked at if they lacked something, and in a look at all days.
create function backfill_private.first_recent_day(p_within interval)
returns date
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select ((backfill_private.clock() - coalesce(p_within, interval '0') - interval '7 days') at time zone 'UTC')::date
$$;

-- The older days that runs may have changed since the last look: they scored them, or took them back. The newest first.
--
-- p_first  the first recent day
create function backfill_private.run_days(p_watch public.backfill_watches, p_first date)
returns date[]
language sql
volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select array(
    select i.session_at::date
    from public.backfill_runs as r
    cross join lateral (
      select max(n.at) as at from public.backfill_events as n where n.run_id = r.run_id and n.seq >= r.audit_count
    ) as e
    join public.backfill_items as i on i.run_id = r.run_id
    where r.target = p_watch.target
      and r.started_at is not null
      -- A clock that was set back does not tell.
      and (e.at >= p_watch.begun_at or p_watch.begun_at > backfill_private.clock())
      and i.session_at::date < p_first
    group by 1
    order by 1 desc)
$$;

-- The older days that lacked something, and that a look has not counted. Those that nobody looked at for the longest
-- time come first.
create function backfill_private.lacking_days(p_watch public.backfill_watches, p_first date)
returns date[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select h.day
    from public.backfill_coverage_history as h
    where h.target = p_watch.target
      and h.day < p_first
      and h.look < p_watch.look
      and (h.missing > 0 or h.not_due > 0)
    order by h.looked_at, h.day desc)
$$;

-- The look of a target that is under way, else a new one. Its row is locked.
--
-- p_all  all days are asked for. They are counted too if they never were as the target is declared now
create function backfill_private.look_begun(p_target text, p_all boolean)
returns public.backfill_watches
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches;
  v_counted_as text := backfill_private.counted_as(p_target);
  v_reach text;
begin
  select * into strict v_watch from public.backfill_watches where target = p_target;
  v_reach := case when p_all or v_watch.whole_as is distinct from v_counted_as then 'all' else 'recent' end;
  if v_watch.is_over
    or v_watch.counted_as is distinct from v_counted_as
    or v_reach = 'all' and v_watch.reach <> 'all' then
    update public.backfill_watches
    set look = look + 1,
        reach = v_reach,
        is_over = false,
        begun_at = backfill_private.clock(),
        counted_as = v_counted_as,
        days = case
          when v_reach = 'all' then '{}'
          else backfill_private.run_days(v_watch, backfill_private.first_recent_day(v_watch.within))
        end,
        below = null
    where target = p_target
    returning * into v_watch;
  end if;
  return v_watch;
end
$$;

-- Count days, one after another.
--
-- p_end    no day is begun when this would be passed. One is always counted
-- returns  the days that are left
create function backfill_private.keep_each(
  p_watch public.backfill_watches, p_days date[], p_due timestamptz, p_end timestamptz
)
returns date[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_days date[] := p_days;
  v_began timestamptz;
begin
  while cardinality(v_days) > 0 loop
    v_began := backfill_private.clock();
    perform backfill_private.keep_days(p_watch.target, p_watch.look, v_days[1], v_days[1] + 1, p_due);
    v_days := v_days[2:];
    exit when backfill_private.clock() + (backfill_private.clock() - v_began) >= p_end;
  end loop;
  return v_days;
end
$$;

-- Count the older days that can have changed. Those of runs are all counted before the look is over. Of the others
-- that lacked something, what is not reached is counted in one of the next looks: nothing of ours wrote there.
--
-- p_first  the first day that is counted already
-- p_end    see keep_each
-- returns  whether the look is over
create function backfill_private.look_at_older(
  p_watch public.backfill_watches, p_first date, p_due timestamptz, p_end timestamptz
)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_days date[] := backfill_private.keep_each(p_watch, p_watch.days, p_due, p_end);
begin
  update public.backfill_watches set days = v_days where target = p_watch.target;
  if v_days = '{}' and (p_watch.days = '{}' or backfill_private.clock() < p_end) then
    perform backfill_private.keep_each(p_watch, backfill_private.lacking_days(p_watch, p_first), p_due, p_end);
  end if;
  return v_days = '{}';
end
$$;

-- The day of the newest session before a day. Null if there is none.
create function backfill_private.session_day_before(p_target text, p_day date)
returns date
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set timezone = 'UTC'
as $$
declare
  v_at timestamptz;
begin
  execute format(
    'select g.created_at from %s as g where g.created_at >= $1 and g.created_at < $2
     order by g.created_at desc limit 1',
    backfill_private.standing_view(p_target)::regclass)
  into v_at
  using backfill_private.first_moment(), p_day::timestamptz;
  return v_at::date;
end
$$;

-- Count the next span of days, back from p_watch.below. The span grows and shrinks as the windows of a plan do.
--
-- returns  the watch, with below null when no day is left
create function backfill_private.next_span(p_watch public.backfill_watches, p_due timestamptz)
returns public.backfill_watches
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches := p_watch;
  v_aim interval := backfill_private.window_aim(p_watch.target);
  v_began timestamptz := backfill_private.clock();
  v_took interval;
begin
  if backfill_private.keep_days(
    p_watch.target, p_watch.look, p_watch.below - p_watch.span, p_watch.below, p_due) > 0
  then
    v_watch.below := p_watch.below - p_watch.span;
  else
    v_watch.below := backfill_private.session_day_before(p_watch.target, p_watch.below - p_watch.span) + 1;
  end if;
  v_took := backfill_private.clock() - v_began;
  v_watch.span := case
    when v_took > v_aim then greatest(p_watch.span / 2, 1)
    when v_took < v_aim / 2 then least(p_watch.span * 2, 3650)
    else p_watch.span
  end;
  return v_watch;
exception when query_canceled then
  if p_watch.span = 1 then
    raise;
  end if;
  v_watch := p_watch;
  v_watch.span := p_watch.span / 2;
  return v_watch;
end
$$;

-- Count all days before those that are counted already.
--
-- p_first  the first day that is counted already
-- p_end    no span is begun when this would be passed. One is always counted
-- returns  whether the look is over
create function backfill_private.look_at_all(
  p_watch public.backfill_watches, p_first date, p_due timestamptz, p_end timestamptz
)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches := p_watch;
  v_began timestamptz;
begin
  v_watch.below := least(coalesce(p_watch.below, p_first), p_first);
  loop
    v_began := backfill_private.clock();
    v_watch := backfill_private.next_span(v_watch, p_due);
    exit when v_watch.below is null
      or backfill_private.clock() + (backfill_private.clock() - v_began) >= p_end;
  end loop;
  update public.backfill_watches set below = v_watch.below, span = v_watch.span where target = p_watch.target;
  if v_watch.below is not null then
    return false;
  end if;
  -- Days that no session has any more.
  delete from public.backfill_coverage_history
  where target = p_watch.target
    and look < p_watch.look;
  update public.backfill_watches
  set whole_as = counted_as,
      undated = backfill_private.counted_undated(target)
  where target = p_watch.target;
  return true;
end
$$;

-- Look at a target, as far as the time allows.
--
-- p_all     all days, not only those that can have changed
-- p_began   when the call began
-- p_budget  no further part is begun when this would be passed. One is always done. Null: as long as is usual
-- returns   whether the look is over
create function backfill_private.look(p_target text, p_all boolean, p_began timestamptz, p_budget interval)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches := backfill_private.look_begun(p_target, p_all);
  v_first date := backfill_private.first_recent_day(v_watch.within);
  v_due timestamptz := backfill_private.clock() - coalesce(v_watch.within, interval '0');
  v_end timestamptz := p_began
    + coalesce(p_budget, case v_watch.reach when 'all' then interval '20 s' else interval '1.5 s' end);
  v_is_over boolean;
begin
  perform backfill_private.keep_days(
    p_target, v_watch.look, v_first, (backfill_private.after_all_moments() at time zone 'UTC')::date, v_due);
  v_is_over := case v_watch.reach
    when 'all' then backfill_private.look_at_all(v_watch, v_first, v_due, v_end)
    else backfill_private.look_at_older(v_watch, v_first, v_due, v_end)
  end;
  update public.backfill_watches set is_over = v_is_over, fault = null where target = p_target;
  return v_is_over;
end
$$;
