-- The doors of drivers: runs that pg_cron scores, without a client. They are the owner's alone, as pg_cron's jobs are.

-- Have pg_cron drive a run until it is over. Its components are SQL functions.
--
-- returns  {run_id, state, job, schedule, stop: SQL}
-- raises   OB001 no such run, OB002 it is over, or driven already, OB003 not approved, OB010 see refuse_outsiders,
--          OB013 an Edge Function scores it, or there is no pg_cron
create function public.backfill_drive(run uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_by text;
begin
  perform backfill_private.authorize('apply');
  v_run := backfill_private.drivable_run($1);
  v_by := backfill_private.driven_by($1);
  if v_run.state not in ('approved', 'running') then
    perform backfill_private.refuse('OB002',
      format('run %s is %s: there is nothing to drive', $1, replace(v_run.state, '_', ' ')),
      backfill_private.hint(v_run));
  elsif v_by is not null then
    perform backfill_private.refuse('OB002', format('run %s is driven already, by job %s', $1, v_by),
      'select backfill_drive_stop()');
  end if;
  perform backfill_private.refuse_without_cron($1);
  return jsonb_build_object('run_id', $1, 'state', v_run.state) || backfill_private.schedule_driver($1, 10);
end
$$;

comment on function public.backfill_drive(uuid) is
  'Have pg_cron score an approved run until it is over, without a worker. For the SQL editor.';

-- Have pg_cron drive whatever is approved or running and scored by SQL functions, from now on. Another interval takes
-- the place of the one before.
--
-- every    1 to 59 seconds, or whole minutes that divide an hour
-- returns  {job, schedule, stop: SQL}
-- raises   OB010 see refuse_outsiders, OB013 no such interval, or there is no pg_cron
create function public.backfill_drive_every(every text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seconds integer := backfill_private.drive_seconds($1);
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.refuse_without_cron(null);
  return backfill_private.schedule_driver(null, v_seconds);
end
$$;

comment on function public.backfill_drive_every(text) is
  'Have pg_cron score whatever is approved or running, from now on: how often it looks. For the SQL editor.';

-- The same for a value of type interval. Without a name, so that the API has but one form to choose.
create function public.backfill_drive_every(interval)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select public.backfill_drive_every($1::text)
$$;

comment on function public.backfill_drive_every(interval) is
  'Have pg_cron score whatever is approved or running, from now on: how often it looks. For the SQL editor.';

-- Take the jobs of all drivers away. A call that is under way ends within a minute. To stop a run at once: pause it.
--
-- returns  {stopped: [name of a job]}
create function public.backfill_drive_stop()
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('apply');
  return jsonb_build_object('stopped', backfill_private.stop_drivers(null));
end
$$;

comment on function public.backfill_drive_stop() is
  'Let pg_cron drive no run any more. A call under way ends within a minute. For the SQL editor.';

-- What the jobs call, and what psql calls in a loop where there is no pg_cron. Turn by turn for each run, as a worker
-- with the name driver:PID, until nothing is to do or the time is up. It commits after each call, so it has no clause
-- `set` and its caller's rights: see 65_drive/transactions.sql.
--
-- run     null: whatever is approved or running. Once it is over, its job goes
-- budget  no batch is claimed after this time. What is granted and not called by then is given back
-- every   looks again after this time if there is nothing to do. Null: ends then
-- raises  OB001, OB003 and OB013 as backfill_drive, OB010 see refuse_outsiders. What refused a run its start or claim
--         is raised at the end, when the others have had their turns
create procedure public.backfill_drive_step(
  run uuid default null, budget interval default '50 seconds', every interval default null
)
language plpgsql
as $$
declare
  v_search_path text;
  v_worker text;
  v_limit_at timestamptz;
  v_until timestamptz;
  v_run_id uuid;
  v_begun uuid[];
  v_seen jsonb;
  v_wait_s numeric;
  v_trouble jsonb;
begin
  call backfill_private.next_transaction(v_search_path, 'none');
  perform backfill_private.refuse_outsiders(v_search_path);
  v_worker := 'driver:' || pg_backend_pid();
  v_limit_at := backfill_private.limit_at();
  v_until := backfill_private.drive_until(coalesce($2, '50 seconds'), v_limit_at);
  v_begun := '{}';
  loop
    call backfill_private.next_transaction(v_search_path);
    v_wait_s := null;
    foreach v_run_id in array backfill_private.runs_to_drive($1) loop
      call backfill_private.drive_turn(
        v_run_id, v_worker, v_run_id <> all (v_begun), v_until, v_limit_at, v_seen);
      v_begun := v_begun || v_run_id;
      v_trouble := coalesce(v_trouble, v_seen -> 'trouble');
      v_wait_s := least(v_wait_s, (v_seen ->> 'wait_s')::numeric);
    end loop;
    call backfill_private.next_transaction(v_search_path, 'none');
    if $1 is not null and (backfill_private.drivable_run($1)).state not in ('approved', 'running', 'paused') then
      perform backfill_private.stop_drivers($1);
      exit;
    end if;
    v_wait_s := least(v_wait_s, extract(epoch from $3));
    exit when v_wait_s is null or backfill_private.clock() + v_wait_s * interval '1 s' >= v_until;
    -- A pause, and another run, are seen within five seconds.
    perform pg_sleep(least(v_wait_s, 5));
  end loop;
  call backfill_private.next_transaction(v_search_path, 'none');
  if v_trouble is not null then
    perform backfill_private.refuse(v_trouble ->> 'code', v_trouble ->> 'message', v_trouble ->> 'hint');
  end if;
end
$$;

comment on procedure public.backfill_drive_step(uuid, interval, interval) is
  'Score what is approved or running for some time, in a transaction per call. For pg_cron, or psql in a loop.';

-- Make calls in bulk until a claim has to look at the run again, or the driver at its other runs.
create procedure backfill_private.drive_in_bulk(p_run_id uuid, p_worker text, p_sessions integer, p_until timestamptz)
language plpgsql
as $$
declare
  v_search_path text;
  v_answer jsonb;
  v_asked integer;
  v_is_alone boolean;
  v_look_at timestamptz;
begin
  call backfill_private.next_transaction(v_search_path);
  v_asked := p_sessions;
  v_is_alone := false;
  v_look_at := least(backfill_private.clock() + interval '5 s', p_until);
  loop
    call backfill_private.next_transaction(v_search_path);
    v_answer := public.backfill_bulk(p_run_id, p_worker, v_asked, 800, v_search_path);
    exit when coalesce((v_answer ->> 'done')::integer, 0) = 0
      or v_answer ?| array['failed', 'pending']
      or backfill_private.clock() >= v_look_at;
    v_is_alone := v_is_alone or (v_answer ->> 'alone')::boolean;
    v_asked := case
      when v_is_alone then 1
      -- Calls grow as the client's do, see backfill/run/bulk.py.
      when (v_answer ->> 'sessions')::integer = v_asked then least(round(v_asked * 1.3) + 1, 500)::integer
      else v_asked end;
  end loop;
end
$$;

-- One turn of a run: what its claim grants, scored and settled.
--
-- p_seen  gives {wait_s: seconds until the next turn, null if there is nothing to wait for}, and trouble if there was
create procedure backfill_private.drive_turn(
  p_run_id uuid, p_worker text, p_is_first boolean, p_until timestamptz, p_limit_at timestamptz, inout p_seen jsonb
)
language plpgsql
as $$
declare
  v_search_path text;
  v_claim_id uuid;
begin
  call backfill_private.next_transaction(v_search_path);
  v_claim_id := gen_random_uuid();
  p_seen := backfill_private.drive_claim(p_run_id, v_claim_id, p_worker, p_is_first);
  if p_seen -> 'granted' <> '[]' then
    call backfill_private.drive_batch(p_run_id, v_claim_id, p_seen, p_until, p_limit_at);
    p_seen := '{"wait_s": 0}';
  elsif p_seen ? 'bulk' then
    call backfill_private.drive_in_bulk(p_run_id, p_worker, (p_seen ->> 'sessions')::integer, p_until);
    p_seen := '{"wait_s": 0}';
  end if;
end
$$;
