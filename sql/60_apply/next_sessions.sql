-- Which sessions of a run come next: by phase, in the order of the plan, those that met trouble behind the others.

-- The phase of the next batch. Null if no session is pending. The canary comes first, even if it has to wait. After it
-- a session that backs off holds nobody up.
create function backfill_private.pending_phase(p_run_id uuid)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from integer := backfill_private.pending_from(p_run_id);
begin
  return (
    with fresh as (
      select i.ordinal, i.phase
      from public.backfill_items as i
      where i.run_id = p_run_id
        and i.state = 'pending'
        and i.not_before is null
        and i.trial is null
        and i.ordinal >= v_from
      order by i.ordinal
      limit 1
    ), tired as (
      select i.ordinal, i.phase
      from public.backfill_items as i
      where i.run_id = p_run_id
        and i.state = 'pending'
        and (i.not_before is not null or i.trial is not null)
      order by i.ordinal
      limit 1
    ), rested as (
      select i.ordinal, i.phase
      from public.backfill_items as i
      where i.run_id = p_run_id
        and i.state = 'pending'
        and (i.not_before is not null or i.trial is not null)
        and (i.not_before is null or i.not_before <= backfill_private.clock())
        and coalesce(i.trial, 'resumed') = 'resumed'
      order by i.ordinal
      limit 1
    ), first as (
      select p.phase from (table fresh union all table tired) as p order by p.ordinal limit 1
    ), ready as (
      select p.phase from (table fresh union all table rested) as p order by p.ordinal limit 1
    )
    select case when f.phase = 'priority' then f.phase else coalesce((select r.phase from ready as r), f.phase) end
    from first as f);
end
$$;

-- Is a session leased, by whatever run?
create function backfill_private.is_leased(p_target text, p_session_id text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from public.backfill_items as i
    where i.source = p_target
      and i.session_id = p_session_id
      and i.state = 'leased');
end
$$;

-- Pending items of a phase that met no trouble, in the order of the plan, locked. Those that another run has leased are
-- passed over.
create function backfill_private.fresh_items(p_run_id uuid, p_phase text, p_limit integer)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_next integer[];
  v_from integer := backfill_private.pending_from(p_run_id);
begin
  select array_agg(n.ordinal order by n.ordinal) into v_next
  from (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and i.phase = p_phase
      and i.not_before is null
      and i.trial is null
      and i.ordinal >= v_from
      and not backfill_private.is_leased(i.source, i.session_id)
    order by i.ordinal
    limit p_limit
    for update of i skip locked
  ) as n;
  return v_next;
end
$$;

-- Pending items of a phase that met trouble before and are ready again, in the order of the plan, locked. Those that
-- another run has leased, and those that back off or are set aside, are passed over. A function of its own: PostgreSQL
-- takes the index of these few only for its own condition, word by word.
create function backfill_private.rested_items(p_run_id uuid, p_phase text, p_limit integer)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_next integer[];
begin
  select array_agg(n.ordinal order by n.ordinal) into v_next
  from (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and (i.not_before is not null or i.trial is not null)
      and i.phase = p_phase
      and (i.not_before is null or i.not_before <= backfill_private.clock())
      and coalesce(i.trial, 'resumed') = 'resumed'
      and not backfill_private.is_leased(i.source, i.session_id)
    order by i.ordinal
    limit p_limit
    for update of i skip locked
  ) as n;
  return v_next;
end
$$;

-- The next pending items of a phase, locked. One that ran into trouble gives way: it goes behind the others.
create function backfill_private.next_items(p_run_id uuid, p_phase text, p_limit integer)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_next integer[];
begin
  perform backfill_private.raise_low_water(p_run_id);
  v_next := backfill_private.fresh_items(p_run_id, p_phase, p_limit);
  if coalesce(cardinality(v_next), 0) < p_limit then
    v_next := v_next
      || backfill_private.rested_items(p_run_id, p_phase, p_limit - coalesce(cardinality(v_next), 0));
  end if;
  return v_next;
end
$$;
