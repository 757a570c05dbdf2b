-- Elsewhere: what is written to tables that no component names while a run's first sessions are scored.
--
-- Such a write has no receipt, so no undo takes it back. A rehearsal sees those of SQL functions in its transaction. An
-- Edge Function writes in transactions of its own. So PostgreSQL's counters are read before the first batch and after
-- each batch of the first minute. They count for everybody: what somebody else writes at that time is named too.

-- Is this a table in which nothing of ours sees a write? None of the target, of ours, of an extension or of one
-- session.
create function backfill_private.is_unwatched(p_target text, p_table oid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = p_table
      and n.nspname <> 'backfill_private'
      and n.nspname !~ '^pg_'
      and not (n.nspname = 'public' and starts_with(c.relname, 'backfill_')))
    and not exists (
      select from pg_depend as d
      where d.classid = 'pg_class'::regclass and d.objid = p_table and d.deptype = 'e')
    and not exists (
      select from public.backfill_targets as t
      where t.target = p_target
        and (p_table = to_regclass(t.table_name)
          or p_table in (select p.relid from pg_partition_tree(to_regclass(t.table_name)) as p)))
$$;

-- PostgreSQL's counters of these tables now, without the platform's own (auth, storage), to which people write at any
-- time: {oid: [inserted, updated, deleted]}.
create function backfill_private.counters(p_target text)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_object_agg(w.relid, jsonb_build_array(w.n_tup_ins, w.n_tup_upd, w.n_tup_del)), '{}')
  from pg_stat_user_tables as w
  join pg_class as c on c.oid = w.relid
  where w.n_tup_ins + w.n_tup_upd + w.n_tup_del > 0
    and not starts_with(pg_get_userbyid(c.relowner), 'supabase_')
    and backfill_private.is_unwatched(p_target, w.relid)
$$;

-- Look at the counters before a run's first batch.
create function backfill_private.look_elsewhere(p_run public.backfill_runs)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into backfill_private.elsewhere (run_id, since, before)
  values (p_run.run_id, backfill_private.clock(), backfill_private.counters(p_run.target))
  on conflict do nothing
$$;

-- What was written elsewhere since the first batch: as kept, or as the counters say while they are still looked at.
create function backfill_private.counted_elsewhere(p_run_id uuid)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select case
    when e.seen is not null and backfill_private.clock() > e.since + interval '60 seconds' then e.seen
    else (
      select coalesce(jsonb_object_agg(c.key, jsonb_build_array(
          greatest((c.value ->> 0)::bigint - coalesce((e.before #>> array[c.key, '0'])::bigint, 0), 0),
          greatest((c.value ->> 1)::bigint - coalesce((e.before #>> array[c.key, '1'])::bigint, 0), 0),
          greatest((c.value ->> 2)::bigint - coalesce((e.before #>> array[c.key, '2'])::bigint, 0), 0))), '{}')
      from jsonb_each(backfill_private.counters(r.target)) as c
      where c.value is distinct from e.before -> c.key)
    end
  from backfill_private.elsewhere as e
  join public.backfill_runs as r using (run_id)
  where e.run_id = p_run_id
$$;

-- Keep what was written elsewhere so far, if it is still looked at. Asked after each batch, and done once per second.
create function backfill_private.keep_elsewhere(p_run_id uuid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update backfill_private.elsewhere as e
  set seen = backfill_private.counted_elsewhere(p_run_id),
      seen_at = backfill_private.clock()
  where e.run_id = p_run_id
    and (e.seen is null
      or backfill_private.clock() <= e.since + interval '60 seconds'
      and backfill_private.clock() >= e.seen_at + interval '1 second')
$$;

-- What a run was seen to write, or somebody else at that time, to tables that no component names.
--
-- returns  [{table, inserted, updated, deleted, seen}]. seen: rehearsal, or first sessions
create function backfill_private.written_elsewhere(p_run_id uuid)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
      'table', w.name, 'inserted', w.inserted, 'updated', w.updated, 'deleted', w.deleted, 'seen', w.seen)
    order by w.seen, w.name), '[]')
  from (
    select c.key::oid::regclass::text as name, (c.value ->> 0)::bigint as inserted, (c.value ->> 1)::bigint as updated,
      (c.value ->> 2)::bigint as deleted, 'first sessions' as seen
    from jsonb_each(backfill_private.counted_elsewhere(p_run_id)) as c
    where to_regclass(c.key::oid::regclass::text) is not null
    union all
    select e.key, sum((e.value ->> 'inserted')::bigint), sum((e.value ->> 'updated')::bigint),
      sum((e.value ->> 'deleted')::bigint), 'rehearsal'
    from backfill_private.rehearsals as r
    cross join lateral jsonb_each(r.seen -> 'elsewhere') as e
    where r.run_id = p_run_id and jsonb_typeof(r.seen -> 'elsewhere') = 'object'
    group by e.key
  ) as w
  where w.inserted + w.updated + w.deleted > 0
$$;
