-- The throttle: how many sessions may start, and when. `allowance` decides it for every claim and every call in bulk.
--
-- Of a run, the starts in the last 60 seconds are counted. The project's bound over all runs and rehearsals,
-- max_throttle_per_minute, is kept by slots. There are as many as starts are allowed per minute. Each start takes one,
-- which is free again 60 seconds later, whatever becomes of its run. So no half-open window of 60 s holds more starts
-- than slots. A slot that another transaction is about to take is passed over: nobody waits for the end of somebody
-- else's scoring. Without a bound there are no slots, and nothing asks for one. Runs that could not keep the bound
-- together are refused before they start.
--
-- An operator may lower the rate of a run and raise it again, never beyond what was approved: 60_apply/pace.sql. All
-- that counts here asks `paced` for the rate in force. At each start, the starts of the 60 seconds up to it are at most
-- that rate.
--
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

-- A run's request at the rate in force. A batch above the rate is cut to it, and starts once a minute.
--
-- p_pace  see backfill_runs.pace_per_minute
create function backfill_private.paced(p_request jsonb, p_pace integer)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select p_request || case
    when p_pace is null then '{}'
    else jsonb_build_object(
      'throttle_per_minute', least((p_request ->> 'throttle_per_minute')::integer, p_pace),
      'batch_size', least((p_request ->> 'batch_size')::integer, p_pace))
  end
$$;

-- Starts per minute that are in force for a run. Null: there is no throttle.
create function backfill_private.rate_of(p_run public.backfill_runs)
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select (backfill_private.paced(p_run.request, p_run.pace_per_minute) ->> 'throttle_per_minute')::integer
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

-- Seconds until the next batch may start, how many sessions it may hold, and what it waits for: throttle or health.
--
-- Exact over every half-open window of 60 s: batches keep their distance, and the starts of the last 60 s are counted,
-- those of the run and those of the project. The slots of a batch that may start at once are locked.
create function backfill_private.allowance(
  p_run public.backfill_runs, out wait_s numeric, out sessions integer, out why text, out wait_for text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_batch integer := (backfill_private.paced(p_run.request, p_run.pace_per_minute) ->> 'batch_size')::integer;
  v_throttle integer := backfill_private.rate_of(p_run);
  v_most integer := (select s.max_throttle_per_minute from public.backfill_settings as s);
  v_started bigint;
  v_oldest timestamptz;
  v_unwell text;
begin
  wait_for := 'throttle';
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
  if wait_s = 0 then
    v_unwell := backfill_private.unwell(p_run);
  end if;
  if v_unwell is not null then
    wait_s := 2;
    wait_for := 'health';
    why := v_unwell;
  elsif v_most is not null and wait_s = 0 then
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
  v_run public.backfill_runs := backfill_private.run_now(p_run.run_id);
  v_now timestamptz := backfill_private.clock();
begin
  perform backfill_private.take_slots(p_sessions);
  insert into backfill_private.starts (run_id, started_at, sessions)
  values (p_run.run_id, v_now, p_sessions)
  on conflict (run_id, started_at) do update set sessions = backfill_private.starts.sessions + excluded.sessions;
  -- Old ones go. Not all that are older: what went before may still stand in the index, see tally.sql.
  delete from backfill_private.starts as s
  where s.run_id = p_run.run_id
    and s.started_at >= v_now - interval '20 minutes'
    and s.started_at < v_now - interval '10 minutes';
  if backfill_private.rate_of(p_run) is not null then
    v_run.next_batch_at := v_now
      + backfill_private.batch_spacing_s(backfill_private.paced(v_run.request, v_run.pace_per_minute))
      * interval '1 second';
    perform backfill_private.keep_run(v_run, true);
  end if;
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
    select coalesce(sum(coalesce(backfill_private.rate_of(r), s.max_throttle_per_minute)), 0)
    from public.backfill_runs as r
    cross join public.backfill_settings as s
    where r.state = 'running'
      and r.run_id is distinct from p_but);
end
$$;

-- The throttles of all running runs together stay under the project's bound.
--
-- p_next  what helps, if that is not to start the run later
-- raises  OB015 they would not
create function backfill_private.check_share(p_run public.backfill_runs, p_next text default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (select max_throttle_per_minute from public.backfill_settings for no key update);
  v_taken bigint := backfill_private.share_taken(p_run.run_id);
begin
  if v_taken + coalesce(backfill_private.rate_of(p_run), v_most + 1) > v_most then
    perform backfill_private.refuse('OB015',
      format('running runs take %s of the %s starts per minute that this project allows', v_taken, v_most),
      coalesce(p_next, backfill_private.hint(p_run, 'throttle')));
  end if;
end
$$;

-- Keep as many slots as the bound says, from the moment that it is set. The ones taken last are kept, so that a lower
-- bound forgets no start of this minute. A first bound counts the sessions that have just started.
create function backfill_private.fit_slots()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most bigint := coalesce(new.max_throttle_per_minute, 0)::bigint;
  v_slots bigint;
begin
  -- What is under way may take some. It is waited for.
  perform from backfill_private.slots for update;
  select count(*) into v_slots from backfill_private.slots;
  delete from backfill_private.slots
  where slot in (
    select s.slot from backfill_private.slots as s order by s.used_at limit greatest(v_slots - v_most, 0));
  insert into backfill_private.slots (used_at)
  select coalesce(i.started_at, 'epoch')
  from generate_series(1, v_most - v_slots) as s (place)
  left join (
    select row_number() over (order by n.started_at desc) as place, n.started_at
    from public.backfill_items as n
    where n.started_at > backfill_private.clock() - interval '60 seconds'
      and v_slots = 0
  ) as i using (place);
  return null;
end
$$;

create trigger backfill_settings_slots after insert or update on public.backfill_settings
  for each row execute function backfill_private.fit_slots();

-- Free slots, at most so many, locked. Asked again in the same transaction, these are still free.
create function backfill_private.free_slots(p_starts bigint)
returns integer[]
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(f.slot), '{}')
  from (
    select s.slot
    from backfill_private.slots as s
    where s.used_at <= backfill_private.clock() - interval '60 seconds'
    limit p_starts
    for update skip locked
  ) as f
$$;

-- When so many slots will be free. Null: never, there are fewer.
create function backfill_private.slots_free_at(p_starts bigint)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select s.used_at + interval '60 seconds'
  from backfill_private.slots as s
  order by s.used_at
  offset p_starts - 1
  limit 1
$$;

-- Seconds until so many sessions may start under the project's bound. 0: at once, and their slots are locked.
create function backfill_private.slots_wait_s(p_starts bigint)
returns numeric
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_wait_s numeric;
begin
  if cardinality(backfill_private.free_slots(p_starts)) = p_starts then
    return 0::numeric;
  end if;
  v_wait_s := extract(epoch from backfill_private.slots_free_at(p_starts) - backfill_private.clock());
  -- If they are free and yet taken, somebody is just taking them.
  return case when v_wait_s > 0 then v_wait_s else 1::numeric end;
end
$$;

-- That the project's starts are taken, and until when, in words. Null: so many are free.
create function backfill_private.slots_taken(p_starts bigint)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select format('all %s starts per minute that this project allows are taken', s.max_throttle_per_minute)
    || coalesce(to_char(f.free_at at time zone 'UTC', '" until "HH24:MI:SS" UTC"'), '')
  from public.backfill_settings as s
  cross join backfill_private.slots_free_at(p_starts) as f (free_at)
  where s.max_throttle_per_minute is not null
    and coalesce(f.free_at > backfill_private.clock(), true)
$$;

-- Take slots for starts of this moment, if the project has a bound.
--
-- raises  OB015 they are not free. Nobody who asked for the wait meets this
create function backfill_private.take_slots(p_starts bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (select s.max_throttle_per_minute from public.backfill_settings as s);
  v_free integer[];
begin
  if v_most is null then
    return;
  end if;
  v_free := backfill_private.free_slots(p_starts);
  if cardinality(v_free) < p_starts then
    perform backfill_private.refuse('OB015',
      coalesce(backfill_private.slots_taken(p_starts), 'others are just taking the starts that this project allows'),
      'backfill runs --state running');
  end if;
  update backfill_private.slots set used_at = backfill_private.clock() where slot = any (v_free);
end
$$;
