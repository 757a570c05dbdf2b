-- Pace: an operator lowers the rate of a run, and raises it again up to what was approved.
--
-- It stands in the run's row and not in the sealed request, so the digest stands. `backfill_private.paced` says what
-- follows from it. It holds from the next batch on, and survives pause, resume and retry.

-- Count the starts of the last minute again, from the chain. Calls in bulk without a throttle count none.
--
-- The caller has locked the run, so no such call is under way, and the chain holds all of them.
create function backfill_private.count_again(p_run_id uuid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  delete from backfill_private.starts as s
  where s.run_id = p_run_id
    and s.started_at > backfill_private.clock() - interval '60 seconds';
  insert into backfill_private.starts (run_id, started_at, sessions)
  select p_run_id, g.started_at, sum(g.sessions)
  from (
    select coalesce((e.details ->> 'started_at')::timestamptz, e.at) as started_at,
      (e.details ->> 'sessions')::integer as sessions
    from public.backfill_events as e
    where e.run_id = p_run_id
      and e.kind = 'batch_granted'
      and e.at > backfill_private.clock() - interval '60 seconds'
  ) as g
  where g.started_at > backfill_private.clock() - interval '60 seconds'
  group by g.started_at
$$;

-- Refuse a rate that is none, or that the approval does not cover.
--
-- raises  OB003 more than approved, OB013 no whole number from 1 on
create function backfill_private.check_rate(p_run public.backfill_runs, p_per_minute numeric)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_approved integer := (p_run.request ->> 'throttle_per_minute')::integer;
begin
  if p_per_minute not between 1 and 999999999 or p_per_minute <> trunc(p_per_minute) then
    perform backfill_private.refuse('OB013',
      format('a rate is a whole number of starts per minute from 1 to 999999999, not %s', left(p_per_minute::text, 40)),
      format(e'To start nothing for a while, pause the run.\nbackfill pause %s --reason "…"', p_run.run_id));
  elsif coalesce(p_per_minute > v_approved, v_approved is not null and p_per_minute is null) then
    perform backfill_private.refuse('OB003',
      format('run %s is approved for %s per minute, and %s is more', p_run.run_id,
        backfill_private.counted(v_approved, 'start'), coalesce(p_per_minute::text, 'no throttle')),
      format(e'A higher rate takes a new plan.\nbackfill pace %1$s %2$s\nbackfill plan --like %1$s --throttle %3$s',
        p_run.run_id, v_approved, coalesce(p_per_minute::text, 'none')));
  end if;
end
$$;

-- Set the rate of a run, and from when its next batch may start. Asked for what is in force, nothing is told.
--
-- p_per_minute  starts per minute. Null: no throttle
-- returns       {run_id, state, was, per_minute, approved}, each rate null if there is no throttle
-- raises        OB001 no such run, OB002 it is neither approved, running nor paused, OB003 more than approved, OB013 no
--               whole number from 1 on, OB015 other runs leave no share of the project's bound for more
create function backfill_private.pace(p_run_id uuid, p_per_minute numeric)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_was integer;
  v_approved integer;
begin
  perform backfill_private.authorize('pace');
  v_run := backfill_private.caught_up_run(p_run_id, array['approved', 'running', 'paused']);
  perform backfill_private.check_rate(v_run, p_per_minute);
  v_was := backfill_private.rate_of(v_run);
  v_approved := (v_run.request ->> 'throttle_per_minute')::integer;
  if v_was is distinct from p_per_minute then
    v_run.pace_per_minute := nullif(p_per_minute::integer, v_approved);
    if v_run.state = 'running' and coalesce(p_per_minute > v_was, p_per_minute is null) then
      perform backfill_private.check_share(v_run,
        e'Wait for the other runs, or lower one.\nbackfill runs --state running');
    elsif v_was is null then
      perform backfill_private.count_again(p_run_id);
    end if;
    update public.backfill_runs set pace_per_minute = v_run.pace_per_minute where run_id = p_run_id;
    v_run.next_batch_at := coalesce(
      (select max(s.started_at) from backfill_private.starts as s where s.run_id = p_run_id)
        + backfill_private.batch_spacing_s(backfill_private.paced(v_run.request, v_run.pace_per_minute))
        * interval '1 second',
      v_run.next_batch_at);
    perform backfill_private.keep_run(v_run, false);
    perform backfill_private.record(p_run_id, 'paced', jsonb_build_object(
      'from', v_was, 'to', p_per_minute, 'approved', v_approved));
  end if;
  return (
    select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'was', v_was,
      'per_minute', backfill_private.rate_of(r), 'approved', v_approved)
    from public.backfill_runs as r
    where r.run_id = p_run_id);
end
$$;
