-- Slots: what keeps the starts of all runs and rehearsals together under the project's bound, max_throttle_per_minute.
--
-- There are as many slots as starts are allowed per minute. Each start takes one, which is free again 60 seconds later,
-- whatever becomes of its run. So no half-open window of 60 s holds more starts than slots. A slot that another
-- transaction is about to take is passed over: nobody waits for the end of somebody else's scoring. Without a bound
-- there are no slots, and nothing asks for one.

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
  select s.used_at + interval '60 seconds' from backfill_private.slots as s order by s.used_at offset p_starts - 1 limit 1
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
