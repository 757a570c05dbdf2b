-- A driver's turn: claim, score and settle like any worker, from inside the database.
--
-- A run in mode direct is scored call by call: one transaction per scoring call, under the fence of its session, as the
-- API would make it. A run in bulk is scored by public.backfill_bulk, a transaction per call of it.

-- The runs that a driver takes up: approved or running, and scored by SQL functions alone. In no fixed order, so that a
-- run whose turn ends in an error does not keep the same others from theirs each time.
--
-- p_run_id  null: all
create function backfill_private.runs_to_drive(p_run_id uuid)
returns uuid[]
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(r.run_id order by random()), '{}')
  from public.backfill_runs as r
  where r.state in ('approved', 'running')
    and (p_run_id is null or r.run_id = p_run_id)
    and not exists (
      select from public.backfill_targets as t
      where t.target = r.target and t.transport = 'edge')
$$;

-- Start a run if this is its first turn, and claim its next batch. Trouble is an answer: it must not keep the other
-- runs from their turns.
--
-- The first turn of a run claims apart from bulk. So a function that takes longer in bulk than the time limit gives is
-- met alone once per call of the driver, and settled.
--
-- returns  as claim_batch, and each step has its `call` in SQL. {granted: [], state, reason} if the run does not start,
--          {granted: [], trouble: {code, message, hint}} if it or the claim was refused
create function backfill_private.drive_claim(p_run_id uuid, p_claim_id uuid, p_worker text, p_is_first boolean)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim jsonb;
  v_hint text;
begin
  if p_is_first then
    v_claim := backfill_private.start(p_run_id, p_worker);
    if v_claim ->> 'state' <> 'running' then
      return v_claim || '{"granted": []}';
    end if;
  end if;
  v_claim := backfill_private.claim_batch(p_run_id, p_claim_id, p_worker, p_is_first);
  return v_claim || jsonb_build_object('granted', (
    select coalesce(jsonb_agg(g.session || jsonb_build_object('steps', (
        select coalesce(jsonb_agg(s.step || jsonb_build_object(
            'call', backfill_private.call_sql(t.function_signature, s.step -> 'arguments')) order by s.place), '[]')
        from jsonb_array_elements(g.session -> 'steps') with ordinality as s (step, place)
        join public.backfill_runs as r on r.run_id = p_run_id
        join public.backfill_targets as t on t.target = r.target and t.component = s.step ->> 'component'))
      order by g.place), '[]')
    from jsonb_array_elements(v_claim -> 'granted') with ordinality as g (session, place)));
exception when others then
  get stacked diagnostics v_hint = pg_exception_hint;
  return jsonb_build_object('granted', '[]'::jsonb, 'trouble',
    jsonb_build_object('code', sqlstate, 'message', sqlerrm, 'hint', v_hint));
end
$$;

-- Make one scoring call of a leased session, as the caller's role, and check deferred constraints: the commit that
-- follows could fail of them, and no procedure can catch that.
--
-- p_outcome      of the session so far, see backfill_private.decide_outcomes
-- p_search_path  that of the driver's session
-- p_limit_at     when the time limit of the driver's statement comes
-- returns        the outcome with this call
create function backfill_private.drive_call(
  p_run_id uuid, p_session jsonb, p_step jsonb, p_outcome jsonb, p_search_path text, p_limit_at timestamptz
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform set_config('request.headers', jsonb_build_object(
    'x-backfill-run', p_run_id, 'x-backfill-fence', p_session -> 'fence')::text, true);
  perform set_config('search_path', p_search_path, true);
  execute p_step ->> 'call';
  set constraints all immediate;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  return p_outcome || jsonb_build_object('answered', p_outcome -> 'answered' || (p_step -> 'components'));
exception when query_canceled or assert_failure or others then
  -- Somebody asked this backend to stop, and the time limit is still ahead.
  if backfill_private.is_cancel(sqlstate, sqlerrm, p_limit_at) and backfill_private.clock() < p_limit_at then
    raise;
  end if;
  return p_outcome || jsonb_build_object(
    -- What the gate refuses is given back, see backfill_private.outcome. The rest was rolled back here.
    'outcome', case (backfill_private.fault(sqlstate)).direct
      when 'released' then 'failed'
      else backfill_private.bulk_outcome(sqlstate) end,
    'step', p_step -> 'component', 'code', sqlstate, 'message', sqlerrm);
end
$$;

-- Score and settle a granted batch, one transaction per call. It ends early, like a worker's, at an error that every
-- other call may meet, and at the end of the driver's time. The sessions that were not called are given back.
--
-- p_claim  see backfill_private.drive_claim
create procedure backfill_private.drive_batch(
  p_run_id uuid, p_claim_id uuid, p_claim jsonb, p_until timestamptz, p_limit_at timestamptz
)
language plpgsql
as $$
declare
  v_search_path text;
  v_session jsonb;
  v_outcome jsonb;
  v_outcomes jsonb;
  v_is_over boolean;
  v_renew_every interval;
  v_renew_at timestamptz;
begin
  call backfill_private.next_transaction(v_search_path);
  v_outcomes := '[]';
  v_is_over := false;
  v_renew_every := (p_claim ->> 'lease_s')::numeric / 3 * interval '1 s';
  v_renew_at := backfill_private.clock() + v_renew_every;
  for v_place in 0 .. jsonb_array_length(p_claim -> 'granted') - 1 loop
    v_session := p_claim -> 'granted' -> v_place;
    v_outcome := jsonb_build_object('ordinal', v_session -> 'ordinal', 'answered', '[]'::jsonb,
      'outcome', case when v_is_over then 'released' else 'answered' end);
    for v_step in 0 .. jsonb_array_length(v_session -> 'steps') - 1 loop
      exit when v_outcome ->> 'outcome' <> 'answered';
      if backfill_private.clock() >= v_renew_at then
        call backfill_private.next_transaction(v_search_path);
        perform backfill_private.renew(p_run_id, p_claim_id);
        v_renew_at := backfill_private.clock() + v_renew_every;
      end if;
      call backfill_private.next_transaction(v_search_path);
      v_outcome := backfill_private.drive_call(
        p_run_id, v_session, v_session -> 'steps' -> v_step, v_outcome, v_search_path, p_limit_at);
    end loop;
    v_outcomes := v_outcomes || v_outcome;
    v_is_over := v_is_over
      or v_outcome ->> 'outcome' in ('stop', 'slow')
      or coalesce(v_outcome ->> 'code' = 'OB012', false)
      or backfill_private.clock() >= p_until;
  end loop;
  call backfill_private.next_transaction(v_search_path);
  perform backfill_private.settle(p_run_id, p_claim_id, v_outcomes);
end
$$;
