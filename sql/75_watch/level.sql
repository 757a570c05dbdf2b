-- The service level: keep what a target declares, judge what a look has counted, open and close alerts.

-- Keep the level of a declaration. Runs do not depend on it, so a new level leaves their digests as they are.
--
-- p_watch  {min_coverage, within_s, over_s: null for all dates}. Null: none is declared
create function backfill_private.keep_level(p_target text, p_watch jsonb)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into public.backfill_watches (target, min_coverage, within, over)
  values (
    p_target,
    (p_watch ->> 'min_coverage')::numeric,
    make_interval(secs => (p_watch ->> 'within_s')::double precision),
    make_interval(secs => (p_watch ->> 'over_s')::double precision))
  on conflict (target) do update
  set (min_coverage, within, over) = (excluded.min_coverage, excluded.within, excluded.over)
$$;

-- Forget the watch of a target that is taken away, and close its alert. What its days lacked stays.
create function backfill_private.forget_watch(p_target text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.close_alert(p_target, 'the target was removed');
  delete from public.backfill_watches where target = p_target;
end
$$;

-- How many more sessions must have their rows to reach a level. Null: no level.
create function backfill_private.short_by(p_min_coverage numeric, p_wanted bigint, p_there bigint)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when p_min_coverage is not null then greatest(ceil(p_min_coverage * p_wanted)::bigint - p_there, 0) end
$$;

-- Coverage as it is shown. Never rounded up: what misses a level does not look as if it reached it.
create function backfill_private.share(p_there bigint, p_wanted bigint)
returns numeric
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select trunc(p_there::numeric / nullif(p_wanted, 0), 4)
$$;

-- Close the open alert of a target, if there is one.
--
-- returns  its number, else null
create function backfill_private.close_alert(p_target text, p_because text)
returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
  update public.backfill_alerts
  -- A clock that was set back closes nothing before it was opened.
  set closed_at = greatest(backfill_private.clock(), opened_at),
      closed_because = p_because
  where target = p_target
    and closed_at is null
  returning alert_id
$$;

-- The sessions by which a target is judged: since which day, how many are wanted and there. By default those of all
-- dates, or those of the last 30 days if these do worse: a long history would hide a new outage for weeks. By
-- themselves they count only if they are so many that the level lets one be missing.
--
-- since  null: all dates
create function backfill_private.judged(p_watch public.backfill_watches)
returns table (since date, wanted bigint, there bigint)
language sql
volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select r.since, coalesce(sum(h.wanted), 0)::bigint, coalesce(sum(h.there), 0)::bigint
  from (
    select (backfill_private.clock() - coalesce(p_watch.over, interval '30 days'))::date as since
    union all
    select null
    where p_watch.over is null
  ) as r
  left join public.backfill_coverage_history as h
    on h.target = p_watch.target
    and (r.since is null or h.day >= r.since)
  group by r.since
  having r.since is null
    or p_watch.over is not null
    or (1 - p_watch.min_coverage) * sum(h.wanted) >= 1
  order by
    -- If all dates are a breach, their counts say how much there is to do.
    (r.since is null and sum(h.there) < p_watch.min_coverage * sum(h.wanted)) is true desc,
    sum(h.there) / nullif(sum(h.wanted), 0) nulls last,
    r.since nulls first
  limit 1
$$;

-- Judge what is counted of a target, once a look is over, and open or close its alert.
--
-- returns  what happened to the alert: opened or closed. Null: nothing
create function backfill_private.judge(p_target text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches;
  v_alert bigint;
begin
  update public.backfill_watches as w
  set looked_at = backfill_private.clock(),
      (judged_since, wanted, there) = (select j.since, j.wanted, j.there from backfill_private.judged(w) as j),
      oldest_missing_at = (
        select min(h.oldest_missing_at)
        from public.backfill_coverage_history as h
        where h.target = w.target
          and (w.over is null or h.day >= ((backfill_private.clock() - w.over) at time zone 'UTC')::date))
  where w.target = p_target
  returning * into strict v_watch;
  if v_watch.wanted = 0 and exists (select from backfill_private.unmatched_values(p_target)) then
    update public.backfill_watches
    set fault = 'no row has a value that the declaration selects: see which: backfill missing'
    where target = p_target;
  end if;
  if coalesce(backfill_private.short_by(v_watch.min_coverage, v_watch.wanted, v_watch.there), 0) = 0 then
    v_alert := backfill_private.close_alert(p_target, case
      when v_watch.min_coverage is null then 'no service level is declared any more'
      else 'the service level is reached'
    end);
    return case when v_alert is not null then 'closed' end;
  end if;
  insert into public.backfill_alerts (
    target, opened_at, coverage, min_coverage, within, missing, short_by, oldest_missing_at)
  values (
    p_target, v_watch.looked_at, backfill_private.share(v_watch.there, v_watch.wanted), v_watch.min_coverage,
    v_watch.within, v_watch.wanted - v_watch.there,
    backfill_private.short_by(v_watch.min_coverage, v_watch.wanted, v_watch.there), v_watch.oldest_missing_at)
  on conflict (target) where closed_at is null do nothing
  returning alert_id into v_alert;
  return case when v_alert is not null then 'opened' end;
end
$$;
