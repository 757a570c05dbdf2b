-- Leases: what a worker is granted. The database grants batches one at a time and never more than approved. Which
-- sessions come next is in next_sessions.sql, what else a claim may answer in claim.sql.

-- How long a lease lives unless it is renewed.
create function backfill_private.lease_ttl()
returns interval
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select interval '60 seconds'
$$;

-- A new fence: 244 random bits, hex.
create function backfill_private.new_fence()
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
end
$$;

-- Skip the pending items among these that somebody else has filled. Of the others, note which components are filled.
-- This is rare, so the expensive checks run only for sessions that already have a row.
create function backfill_private.skip_filled(p_run public.backfill_runs, p_ordinals integer[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_skipped integer;
  v_touched integer[] := array(
    select s.ordinal
    from backfill_private.standing_of(p_run, p_ordinals, false) as s
    union
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = any (p_ordinals) and i.filled <> '{}');
begin
  if v_touched = '{}' then
    return 0;
  end if;
  with found as (
    select e.ordinal,
      array_agg(e.component order by e.component) filter (where e.is_present and not e.has_receipt) as filled
    from backfill_private.effects(p_run.run_id, v_touched) as e
    group by e.ordinal
  ), noted as (
    update public.backfill_items as i
    set filled = coalesce(f.filled, '{}'),
        state = case when f.filled @> i.components then 'skipped' else i.state end,
        settled_at = case when f.filled @> i.components then backfill_private.clock() end
    from found as f
    where i.run_id = p_run.run_id
      and i.ordinal = f.ordinal
      and (f.filled is not null or i.filled <> '{}')
    returning i.state
  )
  select count(*) filter (where n.state = 'skipped')::integer into v_skipped from noted as n;
  return v_skipped;
end
$$;

-- Skip the pending items among these that the target no longer selects, and keep the reason.
create function backfill_private.skip_unselected(p_run public.backfill_runs, p_ordinals integer[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_skipped integer;
begin
  update public.backfill_items as i
  set state = 'skipped',
      unselected = u.why,
      settled_at = backfill_private.clock(),
      failed_step = null,
      error_code = null,
      error_message = null,
      not_before = null
  from backfill_private.unselected(p_run, p_ordinals) as u
  where i.run_id = p_run.run_id and i.ordinal = u.ordinal;
  get diagnostics v_skipped = row_count;
  return v_skipped;
end
$$;

-- Take the lock of a target while sessions of it are being leased. A claim takes it exclusively, calls in bulk share
-- it.
--
-- raises  OB021 see backfill_private.take_lock
create function backfill_private.take_target_lock(p_target text, p_is_shared boolean)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.take_lock(
    backfill_private.lock_key('target', p_target), p_is_shared, format('target %s', p_target))
$$;

-- Lease the next items of one phase.
--
-- p_limit       at most so many
-- p_is_witness  one alone, see backfill_private.next_witness
-- returns       the leased items' grants: [{ordinal, session_id, phase, batch, fence, steps}]
create function backfill_private.lease_items(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer, p_is_witness boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run.run_id);
  v_ordinals integer[];
  v_skipped integer;
begin
  -- Claims of two runs may want the same session. They go one at a time, so that the later sees what the earlier
  -- leased, and never beside calls in bulk, whose leases nobody sees.
  perform backfill_private.take_target_lock(p_run.target, false);
  loop
    v_ordinals := case
      when p_is_witness then backfill_private.next_witness(p_run.run_id, v_phase)
      else coalesce(
        backfill_private.next_alone(p_run),
        backfill_private.next_items(p_run.run_id, v_phase, p_limit)) end;
    exit when v_ordinals is null;
    v_skipped := backfill_private.skip_filled(p_run, v_ordinals)
      + backfill_private.skip_unselected(p_run, v_ordinals);
    exit when v_skipped = 0;
  end loop;
  if p_is_witness then
    update public.backfill_items as i
    set trial = 'called'
    where i.run_id = p_run.run_id and i.ordinal = any (v_ordinals);
  end if;
  perform backfill_private.look_before(p_run, v_ordinals);
  return backfill_private.grant_fences(p_run, v_ordinals, p_claim_id, p_worker);
end
$$;

-- Lease these items under new fences. The fences leave the database here and nowhere else.
create function backfill_private.grant_fences(
  p_run public.backfill_runs, p_ordinals integer[], p_claim_id uuid, p_worker text
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_grants jsonb;
begin
  with fences as materialized (
    select o as ordinal, backfill_private.new_fence() as fence from unnest(p_ordinals) as o
  ), leased as (
    update public.backfill_items as i
    set state = 'leased',
        lease_kind = 'score',
        attempts = i.attempts + (i.claim_id is distinct from p_claim_id)::integer,
        fence_hash = sha256(convert_to(f.fence, 'UTF8')),
        lease_until = v_now + backfill_private.lease_ttl(),
        started_at = case when i.claim_id = p_claim_id then i.started_at else v_now end,
        worker = p_worker,
        claim_id = p_claim_id
    from fences as f
    where i.run_id = p_run.run_id and i.ordinal = any (p_ordinals) and i.ordinal = f.ordinal
    returning i.ordinal, i.session_id, i.phase, i.batch, i.attempts, f.fence
  )
  select coalesce(jsonb_agg(jsonb_build_object(
      'ordinal', l.ordinal,
      'session_id', l.session_id,
      'phase', l.phase,
      'batch', l.batch,
      'attempt', l.attempts,
      'fence', l.fence,
      'steps', coalesce(s.steps, '[]'))
    order by l.ordinal), '[]')
  into v_grants
  from leased as l
  left join backfill_private.steps(p_run, p_ordinals) as s using (ordinal);
  return v_grants;
end
$$;

-- Grant a batch: count its starts, set when the next may start, record it in the chain.
--
-- p_is_witness  see backfill_private.lease_items
create function backfill_private.grant_batch(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer, p_is_witness boolean default false
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_grants jsonb := backfill_private.lease_items(p_run, p_claim_id, p_worker, p_limit, p_is_witness);
begin
  if p_run.batches_granted = 0 then
    perform backfill_private.look_elsewhere(p_run);
  end if;
  if jsonb_array_length(v_grants) = 0 then
    return v_grants;
  end if;
  perform backfill_private.count_starts(p_run, jsonb_array_length(v_grants));
  perform backfill_private.record(p_run.run_id, 'batch_granted', jsonb_build_object(
    'claim', p_claim_id,
    'worker', p_worker,
    'phase', v_grants -> 0 ->> 'phase',
    'sessions', jsonb_array_length(v_grants),
    'ordinals', (select jsonb_agg(g -> 'ordinal') from jsonb_array_elements(v_grants) as g)));
  return v_grants;
end
$$;

-- Take the fences of leased sessions that the target no longer selects: their attempts may write no more. Settled, they
-- are pending again, and the next claim skips them. A session that is writing at this moment is passed over.
create function backfill_private.stop_unselected(p_run public.backfill_runs, p_ordinals integer[])
returns void
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  with gone as (
    select i.ordinal
    from backfill_private.unselected(p_run, p_ordinals, 'leased') as u
    join public.backfill_items as i on i.run_id = p_run.run_id and i.ordinal = u.ordinal
    where i.state = 'leased' and i.lease_kind = 'score'
    order by i.ordinal
    for update of i skip locked
  )
  update public.backfill_items as i
  set fence_hash = null
  from gone as g
  where i.run_id = p_run.run_id and i.ordinal = g.ordinal
$$;

-- Renew the leases of a claim that is still under way, if its run may still be scored. A long batch is asked again
-- whether its sessions are selected.
--
-- returns  how many are still ours. If fewer than expected: stop calling for the others at once
create function backfill_private.renew(p_run_id uuid, p_claim_id uuid)
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_renewed integer[];
  v_may_score boolean;
begin
  perform backfill_private.authorize('apply');
  select backfill_private.may_score(r) into v_may_score from public.backfill_runs as r where r.run_id = p_run_id;
  with mine as (
    -- In the order in which settling locks them, or the two would wait for each other.
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.claim_id = p_claim_id
      and i.state = 'leased'
      and i.lease_until > backfill_private.clock()
      and v_may_score
    order by i.ordinal
    for no key update
  ), renewed as (
    update public.backfill_items as i
    -- Never less, even if the clock was set back: see low_water.sql.
    set lease_until = greatest(i.lease_until, backfill_private.clock() + backfill_private.lease_ttl())
    from mine
    where i.run_id = p_run_id and i.ordinal = mine.ordinal
    returning i.ordinal
  )
  select coalesce(array_agg(r.ordinal), '{}') into v_renewed from renewed as r;
  perform backfill_private.stop_unselected(r, v_renewed)
  from public.backfill_runs as r
  where r.run_id = p_run_id and v_renewed <> '{}';
  return cardinality(v_renewed);
end
$$;

-- Who holds the sessions that this run waits for: its own leases, and other runs' leases on its pending sessions.
create function backfill_private.lease_holders(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s %s leased by %s until %s UTC',
    count(*),
    case count(*) when 1 then 'is' else 'are' end,
    string_agg(
      distinct coalesce(held.worker, 'an undo')
        || case when held.run_id <> p_run_id then ' for run ' || held.run_id else '' end,
      ', '),
    to_char(max(held.lease_until) at time zone 'UTC', 'HH24:MI:SS'))
  from public.backfill_items as held
  where held.state = 'leased'
    and (held.run_id = p_run_id or exists (
      select from public.backfill_items as mine
      where mine.run_id = p_run_id
        and mine.state = 'pending'
        and mine.source = held.source
        and mine.session_id = held.session_id
    ))
  having count(*) > 0
$$;
