-- Audit: one hash chain per run. The run remembers its count and its head, so that a cut tail shows: in its row, and
-- between the batches of a running one in its tally.
--
-- An event is appended with the run's row locked, and never inside a scoring transaction: that would make all workers
-- wait for each other.

-- The hash of one event.
create function backfill_private.event_hash(
  p_prev_hash text, p_run_id uuid, p_seq bigint, p_at timestamptz, p_kind text, p_actor text, p_details jsonb
)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select backfill_private.sha256_hex(concat_ws(
    e'\n', p_prev_hash, p_run_id, p_seq, to_jsonb(p_at), p_kind, p_actor, p_details))
$$;

-- Append events to a run's chain, and nothing else. Only record() and note_batches() call this. However many they are,
-- the run is kept once.
--
-- p_kinds, p_details  of each event. A granted batch gets its number here
create function backfill_private.append_events(p_run_id uuid, p_kinds text[], p_details jsonb[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_at timestamptz := backfill_private.clock();
  v_actor text := (select label from backfill_private.caller());
  v_event record;
  v_hash text;
begin
  perform from public.backfill_runs where run_id = p_run_id for no key update;
  v_run := backfill_private.run_now(p_run_id);
  for v_event in
    select e.kind, e.details
    from unnest(p_kinds, p_details) with ordinality as e (kind, details, place)
    order by e.place
  loop
    v_run.audit_count := v_run.audit_count + 1;
    if v_event.kind = 'batch_granted' then
      v_run.batches_granted := v_run.batches_granted + 1;
      v_event.details := v_event.details || jsonb_build_object('number', v_run.batches_granted);
    end if;
    v_hash := backfill_private.event_hash(
      v_run.audit_head, p_run_id, v_run.audit_count, v_at, v_event.kind, v_actor, v_event.details);
    insert into public.backfill_events (run_id, seq, at, kind, actor, details, prev_hash, hash)
    values (p_run_id, v_run.audit_count, v_at, v_event.kind, v_actor, v_event.details, v_run.audit_head, v_hash);
    v_run.audit_head := v_hash;
  end loop;
  perform backfill_private.keep_run(v_run, p_kinds <@ array['batch_granted', 'batch_settled']);
end
$$;

-- Write into the chain what bulk calls have settled since, in their order. See backfill_private.unnoted.
--
-- The run's row is locked first: a caller that settles another run's expired leases locks its row, too, when it comes
-- here.
create function backfill_private.note_batches(p_run_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_noted record;
begin
  perform from public.backfill_runs where run_id = p_run_id for no key update;
  with noted as (
    update backfill_private.unnoted as u
    set is_noted = true
    where u.run_id = p_run_id and not u.is_noted
    returning u.unnoted_id, u.granted, u.details
  )
  select
    array_agg(e.kind order by n.unnoted_id, e.kind) as kinds,
    array_agg(e.details order by n.unnoted_id, e.kind) as details
  into v_noted
  from noted as n
  cross join lateral (values ('batch_granted', n.granted), ('batch_settled', n.details)) as e (kind, details);
  if v_noted.kinds is not null then
    perform backfill_private.append_events(p_run_id, v_noted.kinds, v_noted.details);
  end if;
end
$$;

-- Record an event of a run in its chain. What bulk calls have settled before it comes first.
create function backfill_private.record(p_run_id uuid, p_kind text, p_details jsonb default '{}')
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.note_batches(p_run_id);
  perform backfill_private.append_events(p_run_id, array[p_kind], array[p_details]);
end
$$;

-- A number that an event names. Null if it names none. So is what follows: a forged event may hold anything, and then
-- verify says that it is forged, and does not end in an error.
create function backfill_private.told_number(p_details jsonb, p_name text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select (jsonb_path_query_first(
    p_details -> p_name, 'strict $ ? (@.type() == "number" && @ >= 0 && @ <= 9000000000000000000)'))::bigint
$$;

-- The places in the plan that an event names.
create function backfill_private.told_ordinals(p_details jsonb)
returns integer[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select o::integer
    from jsonb_path_query(
      p_details -> 'ordinals', 'lax $[*] ? (@.type() == "number" && @ >= 0 && @ <= 2147483647)') as o)
$$;

-- What is wrong with a run's chain. No row if it is whole.
create function backfill_private.chain_faults(p_run_id uuid)
returns table (seq bigint, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with chain as (
    select
      e.*,
      lag(e.hash, 1, '') over (order by e.seq) as hash_before,
      row_number() over (order by e.seq) as place
    from public.backfill_events as e
    where e.run_id = p_run_id
  ), ends as (
    select
      count(*) as events,
      coalesce((array_agg(c.hash order by c.seq desc))[1], '') as head
    from chain as c
  )
  select c.seq, 'the event was changed'
  from chain as c
  where c.hash <> backfill_private.event_hash(c.prev_hash, c.run_id, c.seq, c.at, c.kind, c.actor, c.details)
  union all
  select c.seq, 'an event before it is gone or out of place'
  from chain as c
  where c.prev_hash <> c.hash_before or c.seq <> c.place
  union all
  select r.audit_count, 'the newest event is not the one that the run remembers'
  from backfill_private.run_now(p_run_id) as r, ends
  where (r.audit_count, r.audit_head) <> (ends.events, ends.head)
$$;

-- The critical events of a run, each with its answer if somebody has given one.
--
-- answered  {by, at, because}
create function backfill_private.critical_events(p_run_id uuid)
returns table (seq bigint, sessions jsonb, answered jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    c.seq,
    jsonb_path_query_array(c.details, 'lax $.sessions[*]'),
    (
      select jsonb_build_object('by', a.actor, 'at', a.at, 'because', a.details ->> 'because')
      from public.backfill_events as a
      where a.run_id = p_run_id
        and a.kind = 'answered'
        and a.details -> 'events' @> to_jsonb(c.seq)
      order by a.seq
      limit 1)
  from public.backfill_events as c
  where c.run_id = p_run_id and c.kind = 'critical'
$$;
