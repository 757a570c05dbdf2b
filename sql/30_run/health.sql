-- Health: before a grant the database looks at its own load, and starts nothing while that is beyond what the settings
-- allow. Thresholds are columns of backfill_settings, each off where null. Without any of them nothing is looked at.
--
-- `allowance` asks it for every claim and every call in bulk. At most one look per second and run is taken, and what it
-- said is kept for the others. A look that fails says nothing: no error of it stops a claim.
--
-- It sees what the owner of these functions may see. Ages of others' transactions and the lag of replicas take the
-- right pg_read_all_stats, which `postgres` has on a hosted project. Without it these two say nothing.

-- The tables that a target reads and writes, with their partitions.
create function backfill_private.tables_of(p_target text)
returns setof regclass
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with named as (
    select to_regclass(t.table_name) as relation
    from public.backfill_targets as t
    where t.target = p_target
    union
    select to_regclass(s.source_table)
    from backfill_private.sources as s
    where s.target = p_target
  )
  select n.relation from named as n where n.relation is not null
  union
  select p.relid from named as n cross join lateral pg_partition_tree(n.relation) as p
$$;

-- How many others wait for a lock while they hold or want one of these tables. Waits for advisory locks, such as ours,
-- are none.
create function backfill_private.waiting_locks(p_target text)
returns bigint
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  with locks as materialized (
    select l.pid, l.relation, l.locktype, l.granted, l.database from pg_locks as l
  )
  select count(distinct w.pid)
  from locks as w
  join locks as t on t.pid = w.pid
  where not w.granted
    and w.locktype <> 'advisory'
    and t.database = (select d.oid from pg_database as d where d.datname = current_database())
    and t.relation in (select r from backfill_private.tables_of(p_target) as r)
$$;

-- What is seen of the load: {waiting_locks, transaction_s: age of the oldest transaction of this database but this one,
-- replication_s: the largest lag of what replicates, null if nothing does, connections_percent: of all that may be}.
create function backfill_private.load_seen(p_target text)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'waiting_locks', backfill_private.waiting_locks(p_target),
    'transaction_s', (
      select extract(epoch from backfill_private.clock() - min(x.began))
      from (
        select a.xact_start as began
        from pg_stat_activity as a
        where a.datname = current_database()
          and a.backend_type = 'client backend'
          and a.pid <> pg_backend_pid()
        union all
        select p.prepared from pg_prepared_xacts as p where p.database = current_database()
      ) as x),
    'replication_s', (
      select extract(epoch from max(coalesce(r.replay_lag, r.flush_lag, r.write_lag)))
      from pg_stat_replication as r),
    'connections_percent', (
      select 100.0 * sum(d.numbackends) / current_setting('max_connections')::integer
      from pg_stat_database as d))
$$;

-- Why nothing should start now. Null: nothing speaks against it.
--
-- p_seen  see backfill_private.load_seen. What is null there was not seen, and speaks against nothing
create function backfill_private.too_much(p_settings public.backfill_settings, p_seen jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select nullif(concat_ws('; ',
    case when (p_seen ->> 'waiting_locks')::bigint > p_settings.max_waiting_locks then
      format('%s for locks on its tables, at most %s may',
        case when (p_seen ->> 'waiting_locks')::bigint = 1 then '1 connection waits'
          else (p_seen ->> 'waiting_locks') || ' connections wait' end,
        p_settings.max_waiting_locks) end,
    case when (p_seen ->> 'transaction_s')::numeric > extract(epoch from p_settings.max_transaction_age) then
      format('a transaction has been open for %s s, at most %s s are allowed',
        round((p_seen ->> 'transaction_s')::numeric, 1),
        trim_scale(extract(epoch from p_settings.max_transaction_age))) end,
    case when (p_seen ->> 'replication_s')::numeric > extract(epoch from p_settings.max_replication_lag) then
      format('a replica lags %s s behind, at most %s s are allowed',
        round((p_seen ->> 'replication_s')::numeric, 1),
        trim_scale(extract(epoch from p_settings.max_replication_lag))) end,
    case when (p_seen ->> 'connections_percent')::numeric > p_settings.max_connections_percent then
      format('%s %% of the connections are in use, at most %s %% may be',
        round((p_seen ->> 'connections_percent')::numeric, 1), p_settings.max_connections_percent) end), '')
$$;

-- Why nothing of a run should start now, as the newest look says. Null: nothing speaks against it, or nobody can tell.
create function backfill_private.unwell(p_run public.backfill_runs)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
declare
  v_settings public.backfill_settings;
  v_now timestamptz := backfill_private.clock();
  v_last backfill_private.health;
begin
  select * into v_settings from public.backfill_settings;
  if num_nonnulls(v_settings.max_waiting_locks, v_settings.max_transaction_age, v_settings.max_replication_lag,
    v_settings.max_connections_percent) = 0
  then
    return null;
  end if;
  if not exists (select from backfill_private.health as h where h.run_id = p_run.run_id) then
    insert into backfill_private.health (run_id, looked_at) values (p_run.run_id, '-infinity') on conflict do nothing;
  end if;
  -- Calls in bulk come side by side. One of them looks, and the others take what the look before said.
  select * into v_last
  from backfill_private.health as h
  where h.run_id = p_run.run_id
    and h.looked_at not between v_now - interval '1 second' and v_now
  for update skip locked;
  if found then
    begin
      v_last.reason := backfill_private.too_much(v_settings, backfill_private.load_seen(p_run.target));
    exception when others then
      v_last.reason := null;
    end;
    update backfill_private.health as h
    set looked_at = v_now, reason = v_last.reason
    where h.run_id = p_run.run_id;
  end if;
  return (select h.reason from backfill_private.health as h where h.run_id = p_run.run_id);
exception when others then
  return null;
end
$$;

-- The same for whoever reads, from the look that a worker took in the last seconds. Null if none did.
create function backfill_private.unwell_lately(p_run_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select h.reason
  from backfill_private.health as h
  where h.run_id = p_run_id
    and h.looked_at > backfill_private.clock() - interval '10 seconds'
$$;
