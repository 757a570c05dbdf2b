-- Rehearsal: the real scoring calls of a few sessions, made while planning and rolled back.
--
-- Each session is one call of the API, with the caller's rights, in a subtransaction that is always rolled back. There
-- a scratch run leases the session, so that gate, receipts and undo are the real ones. A variable keeps what was seen.
-- Numbers drawn from sequences and calls out of the database are not rolled back.

-- How many sessions may be rehearsed: as many as requested, by default 5, or none if the environment is production.
-- Each is scored twice, so at most half of one minute's share of the throttle, and never more than 100.
create function backfill_private.rehearsal_room(p_run public.backfill_runs)
returns integer
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select least(
    coalesce(p_run.rehearse, case when lower(p_run.environment) = 'production' then 0 else 5 end),
    (p_run.request ->> 'throttle_per_minute')::integer / 2,
    case when s.max_throttle_per_minute is not null
      then greatest(s.max_throttle_per_minute - backfill_private.share_taken(null), 0) / 2 end,
    100)
  from backfill_private.settings() as s
$$;

-- Choose the sessions to rehearse: one candidate of each category first, then the priority sessions, then one of each
-- category and phase. None that an Edge Function scores. A second call chooses the same.
--
-- returns  the sessions' ids, in order
-- raises   OB002 not in planning or windows left, OB010 not allowed
create function backfill_private.rehearsal_sample(p_run_id uuid)
returns text[]
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('plan');
  v_run := backfill_private.locked_run(p_run_id, array['planning']);
  if v_run.collect_from < v_run.collect_until then
    perform backfill_private.refuse('OB002', format('run %s is not collected to its end', p_run_id),
      backfill_private.hint(v_run));
  end if;
  perform backfill_private.leave_to_others(v_run);
  insert into backfill_private.rehearsals (run_id, ordinal, session_id, session_at, components, category, phase)
  select
    p_run_id,
    row_number() over (order by c.rank, c.ordinal),
    c.session_id,
    c.session_at,
    c.components,
    c.category,
    c.phase
  from (
    select
      p.*,
      case
        when row_number() over (partition by p.category order by p.ordinal) = 1 then 1
        when p.phase = 'priority' then 2
        when row_number() over (partition by p.category, p.phase order by p.ordinal) = 1 then 3
      end as rank
    from backfill_private.placed(v_run) as p
    -- No transaction takes back what an Edge Function does.
    where not exists (
      select from public.backfill_targets as t
      where t.target = v_run.target
        and t.transport = 'edge'
        and t.component = any (p.components)
    )
  ) as c
  where c.rank is not null
  order by c.rank, c.ordinal
  limit backfill_private.rehearsal_room(v_run)
  on conflict do nothing;
  return (
    select coalesce(array_agg(s.session_id order by s.ordinal), '{}')
    from backfill_private.rehearsals as s
    where s.run_id = p_run_id
  );
end
$$;

-- Why so many calls may not be made now. Null: they may, and their slots are locked, see throttle.sql.
create function backfill_private.rehearsal_waits(p_calls integer)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('plan');
  if not exists (select from public.backfill_settings as s where s.max_throttle_per_minute is not null)
    or backfill_private.slots_wait_s(p_calls) = 0
  then
    return null;
  end if;
  return coalesce(backfill_private.slots_taken(p_calls), 'others are just taking the starts that this project allows');
end
$$;

-- Wait for other clients that rehearse for the same run, until this transaction ends. Two may plan one run, and side by
-- side their calls would wait for each other's rows, and seem to fail. Take it outside of what is rolled back, which
-- gives its locks back: afterwards the session is scored once more beside another.
--
-- raises  OB010 not allowed, OB021 see take_lock
create function backfill_private.take_rehearsal_lock(p_run_id uuid)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.take_lock(
    backfill_private.lock_key('rehearsal', p_run_id::text), false, format('the rehearsal for run %s', p_run_id));
end
$$;

-- Count calls that were made and rolled back. Outside of what is rolled back, or nothing is counted.
create function backfill_private.count_rehearsal(p_calls integer)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.take_slots(p_calls);
end
$$;

-- Lease a session to a scratch run, and keep its rows. Call it in a subtransaction that is rolled back.
--
-- returns  {scratch, headers, steps: [{component, function, call}], writes}, or {why} if it cannot be rehearsed
-- raises   OB002 not in planning, OB010 not allowed, OB014 the session is not in the sample
create function backfill_private.rehearsal_lease(p_run_id uuid, p_session_id text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_grant jsonb;
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_bounds(jsonb_build_object('the session', p_session_id));
  select * into v_run from public.backfill_runs where run_id = p_run_id and state = 'planning';
  if not exists (
    select from backfill_private.rehearsals as s
    where s.run_id = v_run.run_id
      and s.session_id = p_session_id
  ) then
    perform backfill_private.refuse('OB014',
      format('session %s is not to be rehearsed for run %s', left(p_session_id, 80), p_run_id),
      'backfill plan … --rehearse 5');
  elsif exists (
    select from backfill_private.rehearsals as s
    where s.run_id = p_run_id
      and s.session_id = p_session_id
      and s.seen is not null
  ) then
    return jsonb_build_object('why', 'it is rehearsed already');  -- by a call whose reply was lost
  elsif exists (
    select from public.backfill_items as i
    where i.source = v_run.target
      and i.session_id = p_session_id
      and i.state = 'leased'
  ) then
    return jsonb_build_object('why', 'another run is scoring it');
  elsif exists (
    select from backfill_private.rehearsals as s
    where s.run_id = p_run_id
      and s.seen #>> '{error,is_limit}' = 'true'
  ) then
    return jsonb_build_object('why', 'another session was slower than the limit');
  end if;
  v_run := jsonb_populate_record(v_run, jsonb_build_object(
    'run_id', gen_random_uuid(),
    'state', 'running',
    'requested_via', 'rehearsal',
    'approved_until', backfill_private.clock() + backfill_private.lease_ttl()));
  insert into public.backfill_runs select v_run.*;
  insert into public.backfill_items (
    run_id, ordinal, source, session_id, session_at, components, category, phase, batch)
  select v_run.run_id, 1, v_run.target, s.session_id, s.session_at, s.components, s.category, s.phase, 1
  from backfill_private.rehearsals as s
  where s.run_id = p_run_id
    and s.session_id = p_session_id;
  v_grant := backfill_private.grant_fences(v_run, array[1], gen_random_uuid(), 'rehearsal') -> 0;
  perform backfill_private.keep_rows(v_run.run_id, 'before');
  return jsonb_build_object(
    'scratch', v_run.run_id,
    'headers', jsonb_build_object('x-backfill-run', v_run.run_id, 'x-backfill-fence', v_grant ->> 'fence'),
    'steps', (
      select jsonb_agg(
        jsonb_build_object(
          'component', s.step -> 'component',
          'function', s.step -> 'function',
          'call', backfill_private.call_sql(t.function_signature, s.step -> 'arguments'))
        order by t.position)
      from jsonb_array_elements(v_grant -> 'steps') as s (step)
      join public.backfill_targets as t
        on t.target = v_run.target
        and t.component = s.step ->> 'component'),
    'writes', backfill_private.writes_elsewhere(v_run.target));
end
$$;

-- Make a session's calls one by one, and then check deferred constraints, which are deferred again for another pass.
-- The first failed call ends the pass, and its own writes are rolled back. After each call the settings are put back,
-- as the end of its transaction would.
--
-- p_steps        [{component, function, call: SQL}]
-- p_search_path  that of a call through the API, since the scoring functions will run under it
-- p_limit_at     when the time limit of the statement comes
-- returns        {calls: [{component, function, took_ms}], error: null or {step, code, is_limit: it met the time limit,
--                message}}
create function backfill_private.rehearse_pass(p_steps jsonb, p_search_path text, p_limit_at timestamptz)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step jsonb;
  v_began timestamptz;
  v_calls jsonb := '[]'::jsonb;
  v_settings jsonb := backfill_private.settings_kept(backfill_private.loose_settings(), p_search_path);
  v_check text;
begin
  for v_step in
    select s from jsonb_array_elements(p_steps || '{"function": "a deferred constraint"}'::jsonb) as s
  loop
    v_began := backfill_private.clock();
    begin
      perform set_config('search_path', p_search_path, true);
      if v_step ? 'call' then
        execute v_step ->> 'call';
      else
        for v_check in select jsonb_array_elements_text(backfill_private.checks_now()) loop
          execute v_check;
        end loop;
        exit;
      end if;
    exception when query_canceled or assert_failure or others then
      return jsonb_build_object('calls', v_calls, 'error', jsonb_build_object(
        'code', sqlstate,
        'step', v_step ->> 'function',
        'is_limit', backfill_private.is_cancel(sqlstate, sqlerrm, p_limit_at),
        'message', backfill_private.kept_message(sqlstate, sqlerrm)));
    end;
    perform set_config(s.key, s.value, true) from jsonb_each_text(v_settings) as s;
    v_calls := v_calls || jsonb_build_object(
      'component', v_step -> 'component',
      'function', v_step -> 'function',
      'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
  end loop;
  return jsonb_build_object('calls', v_calls, 'error', null);
end
$$;

-- Keep what was seen of a session. What a first call kept stays.
create function backfill_private.keep_rehearsal(p_run_id uuid, p_session_id text, p_seen jsonb)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.locked_run(p_run_id, array['planning']);
  update backfill_private.rehearsals
  set seen = p_seen
  where run_id = p_run_id
    and session_id = p_session_id
    and seen is null;
end
$$;
