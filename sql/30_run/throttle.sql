-- The throttle: how many sessions of a run may start, and when. It counts starts in the last 60 seconds. The project's
-- bound over all runs is in slots.sql. Here runs that could not keep it together are refused before they start.
-- A project that asks for less, by a 429, is answered in 60_apply/backoff_and_breaker.sql.

-- Refuse a throttle or a batch size that this project does not allow.
--
-- raises  OB013 a bound is broken. The message names it. Or the settings are gone
create function backfill_private.check_pace(p_throttle integer, p_batch_size integer)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (backfill_private.settings()).max_throttle_per_minute;
begin
  if p_throttle is null and v_most is not null then
    perform backfill_private.refuse('OB013',
      format('a throttle of none is not allowed here, at most %s per minute', v_most),
      format('backfill plan … --throttle %s', v_most));
  elsif p_throttle > v_most then
    perform backfill_private.refuse('OB013',
      format('throttle_per_minute %s is above the %s that this project allows', p_throttle, v_most),
      format('backfill plan … --throttle %s', v_most));
  elsif p_batch_size > p_throttle then
    perform backfill_private.refuse('OB013',
      format('batch_size %s is above throttle_per_minute %s: no batch could ever start', p_batch_size, p_throttle),
      format('backfill plan … --batch-size %s', p_throttle));
  end if;
end
$$;

-- Seconds between the grants of two batches, 0 without a throttle. Rounded up, so that no window gets one too many.
create function backfill_private.batch_spacing_s(p_request jsonb)
returns numeric
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    ceil(
      60000000.0 / floor((p_request ->> 'throttle_per_minute')::numeric / (p_request ->> 'batch_size')::numeric)
    ) / 1000000.0,
    0)
$$;

-- Seconds until the next batch may start, how many sessions it may hold, and which starts per minute it waits for.
--
-- Exact over every half-open window of 60 s: batches keep their distance, and the starts of the last 60 s are counted,
-- those of the run and those of the project. The slots of a batch that may start at once are locked.
create function backfill_private.allowance(
  p_run public.backfill_runs, out wait_s numeric, out sessions integer, out why text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_batch integer := (p_run.request ->> 'batch_size')::integer;
  v_throttle integer := (p_run.request ->> 'throttle_per_minute')::integer;
  v_most integer := (select s.max_throttle_per_minute from public.backfill_settings as s);
  v_started bigint;
  v_oldest timestamptz;
begin
  wait_s := greatest(extract(epoch from p_run.next_batch_at - v_now), 0);
  sessions := v_batch;
  why := backfill_private.counted(v_throttle, 'start') || ' per minute';
  if v_throttle is not null and wait_s = 0 then
    select coalesce(sum(s.sessions), 0), min(s.started_at) into v_started, v_oldest
    from backfill_private.starts as s
    where s.run_id = p_run.run_id
      and s.started_at > v_now - interval '60 seconds';
    if v_started + v_batch > v_throttle then
      wait_s := greatest(extract(epoch from v_oldest + interval '60 seconds' - v_now), 0.001);
    end if;
  end if;
  if v_most is not null and wait_s = 0 then
    sessions := least(v_batch, v_most);
    wait_s := backfill_private.slots_wait_s(sessions);
    why := backfill_private.counted(v_most, 'start') || ' per minute of all runs and rehearsals of this project';
  end if;
end
$$;

-- Count starts, and set when the next batch may start.
--
-- raises  OB015 as take_slots
create function backfill_private.count_starts(p_run public.backfill_runs, p_sessions integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
begin
  perform backfill_private.take_slots(p_sessions);
  insert into backfill_private.starts (run_id, started_at, sessions)
  values (p_run.run_id, v_now, p_sessions)
  on conflict (run_id, started_at) do update set sessions = backfill_private.starts.sessions + excluded.sessions;
  delete from backfill_private.starts where run_id = p_run.run_id and started_at < v_now - interval '10 minutes';
  update public.backfill_runs
  set next_batch_at = v_now + backfill_private.batch_spacing_s(request) * interval '1 second'
  where run_id = p_run.run_id;
end
$$;

-- How many starts per minute all running runs take together, without the one named. A run without a throttle, from
-- before the project had a bound, takes all of it.
create function backfill_private.share_taken(p_but uuid)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(sum(coalesce((r.request ->> 'throttle_per_minute')::integer, s.max_throttle_per_minute)), 0)
    from public.backfill_runs as r
    cross join public.backfill_settings as s
    where r.state = 'running'
      and r.run_id is distinct from p_but);
end
$$;

-- The throttles of all running runs together stay under the project's bound.
--
-- raises  OB015 they would not
create function backfill_private.check_share(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (select max_throttle_per_minute from public.backfill_settings for no key update);
  v_taken bigint := backfill_private.share_taken(p_run.run_id);
begin
  if v_taken + coalesce((p_run.request ->> 'throttle_per_minute')::integer, v_most + 1) > v_most then
    perform backfill_private.refuse('OB015',
      format('running runs take %s of the %s starts per minute that this project allows', v_taken, v_most),
      backfill_private.hint(p_run, 'throttle'));
  end if;
end
$$;
