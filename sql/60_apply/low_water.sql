-- Low water: where the open work of a run begins, so that nobody walks over what is done.
--
-- A row that was changed stays in its indexes while any snapshot may still see it as it was: that of a backup, a
-- replica, an analyst's open tab. Whoever looks for the first pending session, or for leases that ran out, would meet
-- all that were done since, at each claim. So the looks begin at a mark. Marks are appended, and the newest counts: it
-- is found at the end of its index, whatever lies before it. A mark may stand too low. It never stands too high.

-- The place in the plan before which no session is pending, but those that met trouble: these few have an index of
-- their own.
create function backfill_private.pending_from(p_run_id uuid)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return coalesce(
    (
      select m.ordinal
      from backfill_private.low_water as m
      where m.run_id = p_run_id
      order by m.mark_id desc
      limit 1
    ),
    1);
end
$$;

-- The first such session.
create function backfill_private.first_fresh(p_run_id uuid, p_from integer)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and i.not_before is null
      and i.trial is null
      and i.ordinal >= p_from
    order by i.ordinal
    limit 1);
end
$$;

-- Raise the mark of a run to its first such session, if that is far ahead. The caller holds the run's lock, or shares
-- it: what others are about to settle is still pending to it. The claim of another run may just give back what leases
-- of this one held. It holds the row of the run, so then the mark stays, and afterwards all is looked at again.
create function backfill_private.raise_low_water(p_run_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from integer := backfill_private.pending_from(p_run_id);
  v_first integer := backfill_private.first_fresh(p_run_id, v_from);
begin
  if v_first < v_from + 100 or v_first is null then
    return;
  end if;
  perform from public.backfill_runs as r where r.run_id = p_run_id for share skip locked;
  if found then
    v_from := backfill_private.pending_from(p_run_id);
    insert into backfill_private.low_water (run_id, ordinal)
    select p_run_id, f.ordinal
    from backfill_private.first_fresh(p_run_id, v_from) as f (ordinal)
    where f.ordinal > v_from;
  end if;
end
$$;

-- Lower the mark of a run to the first of some sessions that is pending again. The caller holds the run's lock or its
-- row, or has had these sessions locked since they were pending before.
--
-- p_ordinals  their places. Null: all of the run
create function backfill_private.lower_low_water(p_run_id uuid, p_ordinals integer[] default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
as $$
declare
  v_first integer := (
    select min(i.ordinal)
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and i.not_before is null
      and i.trial is null
      and (p_ordinals is null or i.ordinal = any (p_ordinals)));
begin
  if v_first < backfill_private.pending_from(p_run_id) then
    insert into backfill_private.low_water (run_id, ordinal) values (p_run_id, v_first);
  end if;
end
$$;

-- Up to when all leases that ran out have been settled. A clock that was set back takes the mark away.
create function backfill_private.expired_until()
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_until timestamptz := (
    select l.until
    from backfill_private.lease_looks as l
    order by l.look_id desc
    limit 1);
begin
  return case when v_until <= backfill_private.clock() then v_until else '-infinity' end;
end
$$;

-- Look at all leases again if one stands that ran out before that: its grant was committed later than it ran out. Asked
-- by a claim that waits for leases.
create function backfill_private.look_for_late_leases()
returns void
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
  insert into backfill_private.lease_looks (until)
  select '-infinity'
  where exists (
    select from public.backfill_items as i
    where i.lease_until <= backfill_private.expired_until())
$$;
