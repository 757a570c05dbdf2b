-- Settling: the outcomes of a batch are taken, noted in the chain, and leases that ran out are given back.

-- What the chain says of a settled batch, with a hash over the receipts that its sessions have by now. The newest
-- receipt says which those are.
create function backfill_private.settled_details(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_ordinals integer[] := array(select (x ->> 'ordinal')::integer from jsonb_array_elements(p_settled) as x);
  v_newest bigint := (
    select max(r.receipt_id)
    from public.backfill_receipts as r
    where r.run_id = p_run_id and r.ordinal = any (v_ordinals));
begin
  return jsonb_build_object(
    'claim', p_claim_id,
    'ordinals', to_jsonb(v_ordinals),
    'states', (
      select jsonb_object_agg(s.state, s.n)
      from (
        select x ->> 'state' as state, count(*) as n
        from jsonb_array_elements(p_settled) as x
        group by 1) as s),
    'failed', (
      select jsonb_agg(jsonb_build_array(x ->> 'session_id', x ->> 'failed_step', x ->> 'error_code'))
      from jsonb_array_elements(p_settled) as x
      where x ->> 'state' = 'failed'),
    'newest_receipt', v_newest,
    'receipts', backfill_private.receipts_hash(p_run_id, v_ordinals, v_newest));
end
$$;

-- Pause the run if anything of a settled batch is critical, and say so in the chain.
create function backfill_private.record_critical(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bad jsonb;
  v_nameless text;
begin
  select jsonb_agg(jsonb_build_array(x ->> 'session_id', x ->> 'error_code')) into v_bad
  from jsonb_array_elements(p_settled) as x where (x ->> 'is_critical')::boolean;
  if v_bad is not null then
    perform backfill_private.record(p_run_id, 'critical', jsonb_build_object('claim', p_claim_id, 'sessions', v_bad));
    if v_bad -> 0 ->> 1 = 'OB016' then
      select backfill_private.functions_without_headers(r) into v_nameless
      from public.backfill_runs as r
      where r.run_id = p_run_id;
    end if;
    perform backfill_private.hold(p_run_id,
      case when v_nameless is null then v_bad -> 0 ->> 1 else 'no_headers' end,
      format('critical: %s %s, %s',
        (backfill_private.words_of(p_run_id))[1], v_bad -> 0 ->> 0,
        case v_bad -> 0 ->> 1
          when 'OB016' then concat_ws(': ', 'a written row has no receipt', v_nameless || ' wrote without our headers')
          else 'a write was refused at the gate' end));
  end if;
end
$$;

-- Record a settled batch in the chain. Pause the run if anything of it is critical.
create function backfill_private.record_batch(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.record(p_run_id, 'batch_settled',
    backfill_private.settled_details(p_run_id, p_claim_id, p_settled));
  perform backfill_private.record_critical(p_run_id, p_claim_id, p_settled);
end
$$;

-- Refuse outcomes that do not have the right form: a list of objects, one per ordinal.
--
-- raises  OB013 another form
create function backfill_private.check_outcomes(p_outcomes jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(p_outcomes) is distinct from 'array'
    or jsonb_path_exists(p_outcomes, 'strict $[*] ? (@.type() != "object")')
    or exists (
      select from jsonb_array_elements(p_outcomes) as o
      where o ->> 'ordinal' is null or jsonb_typeof(o -> 'ordinal') <> 'number' or o ->> 'ordinal' !~ '^\d{1,9}$'
        or coalesce(jsonb_typeof(o -> 'answered'), 'null') not in ('null', 'array')
        or jsonb_path_exists(o, 'lax $.answered[*] ? (@.type() == "object" || @.type() == "array")')
        or coalesce(jsonb_typeof(o -> 'retry_after_s'), 'null') not in ('null', 'number')
        or abs((case when jsonb_typeof(o -> 'retry_after_s') = 'number' then o -> 'retry_after_s' end)::numeric) > 1e9)
    or (select count(*) <> count(distinct o ->> 'ordinal') from jsonb_array_elements(p_outcomes) as o)
  then
    perform backfill_private.refuse('OB013',
      'outcomes are a list of {ordinal, outcome, answered, step, code, message, retry_after_s}, one for each session',
      'backfill apply RUN');
  end if;
end
$$;

-- Settle the outcomes of a claimed batch. Safe to call again: what is settled stays as it was.
--
-- Planned once per connection, as all that has long statements on this way: PostgreSQL would plan them anew at the
-- first five calls of each connection of the pool, which takes longer than a small batch.
--
-- p_outcomes  see backfill_private.decide_outcomes. Only items still leased under this claim are settled
-- returns     {state, reason, settled: […]}, with the sessions that a witness's outcome has settled, see judge_trial
-- raises      OB001 no such run, OB010 not allowed
create function backfill_private.settle(p_run_id uuid, p_claim_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_told integer[];
  v_mine jsonb;
  v_settled jsonb := '[]'::jsonb;
  v_judged integer[];
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_bounds(jsonb_build_object('the list of outcomes', p_outcomes));
  perform backfill_private.check_outcomes(p_outcomes);
  perform backfill_private.caught_up_run(p_run_id);
  v_told := array(select (o -> 'ordinal')::integer from jsonb_array_elements(p_outcomes) as o);
  select jsonb_agg(o || jsonb_build_object('outcome', case
      when o ->> 'outcome' in ('answered', 'failed', 'again', 'slow', 'stop', 'released') then o ->> 'outcome'
      else 'unknown' end)) into v_mine
  from jsonb_array_elements(p_outcomes) as o
  join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer
  -- An item names its claim only while it is leased. It is not asked for its state: see low_water.sql.
  where i.ordinal = any (v_told) and i.claim_id = p_claim_id;
  if v_mine is not null then
    v_mine := backfill_private.doubt_refusals(p_run_id, backfill_private.judge_unheard(p_run_id, v_mine));
    v_mine := backfill_private.doubt_conflicts(p_run_id, v_mine);
    v_settled := backfill_private.decide_outcomes(p_run_id, v_mine);
    perform backfill_private.record_batch(p_run_id, p_claim_id, v_settled);
    perform backfill_private.note_trouble(p_run_id, v_mine, v_settled);
    perform backfill_private.break_circuit(p_run_id, v_settled);
    v_judged := backfill_private.judge_trial(p_run_id, v_settled);
    perform backfill_private.keep_elsewhere(p_run_id);
  end if;
  return (
    select jsonb_build_object('state', r.state, 'reason', r.reason, 'settled', (
      select coalesce(jsonb_agg(jsonb_build_object(
          'ordinal', i.ordinal,
          'session_id', i.session_id,
          'state', i.state,
          'failed_step', i.failed_step,
          'error_code', i.error_code,
          'error_message', i.error_message) order by i.ordinal), '[]')
      from public.backfill_items as i
      where i.run_id = p_run_id
        and i.ordinal = any (v_told || v_judged)))
    from public.backfill_runs as r
    where r.run_id = p_run_id);
end
$$;

-- Settle leased items whose outcome nobody tells: the receipts decide.
create function backfill_private.settle_untold(p_run_id uuid, p_ordinals integer[], p_why text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_ordinals is not null then
    perform backfill_private.record_batch(p_run_id, null, backfill_private.decide_outcomes(p_run_id, (
      select jsonb_agg(jsonb_build_object('ordinal', o, 'outcome', 'lost', 'message', p_why))
      from unnest(p_ordinals) as o)));
  end if;
end
$$;

-- How many leases one call takes back at most. Dead workers may have left any number, and a call has eight seconds.
create function backfill_private.most_taken_back()
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 500
$$;

-- Settle the next leases of a run that does not run. Its attempts may write no more. A write in flight is waited for.
--
-- returns  whether no lease is left
create function backfill_private.take_leases_back(p_run_id uuid)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.settle_untold(p_run_id, (
      select array_agg(l.ordinal)
      from (
        select i.ordinal
        from public.backfill_items as i
        where i.run_id = p_run_id
          and i.state = 'leased'
        order by i.ordinal
        limit backfill_private.most_taken_back()
      ) as l),
    'the lease was taken back');
  return not exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'leased');
end
$$;

-- Settle the next leases that ran out, of any run whose row is free. Their workers are gone. If none is left, the next
-- look begins where this one ended.
create function backfill_private.release_expired()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_id uuid;
  v_ordinals integer[];
  v_left integer := backfill_private.most_taken_back();
  v_from timestamptz := backfill_private.expired_until();
  v_until timestamptz := backfill_private.clock();
  v_look_id bigint;
begin
  for v_run_id in
    select r.run_id
    from public.backfill_runs as r
    where r.run_id in (
      select i.run_id
      from public.backfill_items as i
      where i.lease_until > v_from and i.lease_until <= v_until)
    order by r.run_id
    for no key update skip locked
  loop
    select array_agg(e.ordinal) into v_ordinals
    from (
      select i.ordinal
      from public.backfill_items as i
      where i.run_id = v_run_id
        and i.lease_until > v_from
        and i.lease_until <= v_until
      limit v_left
      for update skip locked) as e;
    perform backfill_private.settle_untold(v_run_id, v_ordinals, 'the lease ran out');
    v_left := v_left - coalesce(cardinality(v_ordinals), 0);
    exit when v_left <= 0;
  end loop;
  if v_until >= v_from + interval '1 second' and not exists (
    select from public.backfill_items as i
    where i.lease_until > v_from and i.lease_until <= v_until)
  then
    insert into backfill_private.lease_looks (until) values (v_until) returning look_id into v_look_id;
    -- Old looks go. Not all that are older: what went before may still stand in the index, too.
    delete from backfill_private.lease_looks as l
    where l.look_id > v_look_id - 200 and l.look_id <= v_look_id - 100;
  end if;
end
$$;
