-- Installed targets: which there are, and how one is taken away. The migrations of `target remove` call the latter.

-- The installed targets, by name.
--
-- returns  [{target, components, parameters: their names, installed_at}]
-- raises   OB010 the caller may not read
create function backfill_private.installed_targets()
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'target', s.target,
      'components', (
        select jsonb_agg(t.component order by t.position)
        from public.backfill_targets as t
        where t.target = s.target
      ),
      'parameters', backfill_private.parameter_names(s.target),
      'installed_at', s.installed_at
    ) order by s.target), '[]')
    from backfill_private.sources as s);
end
$$;

-- Refuse to take away a target while a run of it is not over.
--
-- raises  OB002
create function backfill_private.refuse_while_running(p_target text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run record;
begin
  select r.run_id, r.state into v_run
  from public.backfill_runs as r
  where r.target = p_target
    and r.state in ('planning', 'awaiting_approval', 'approved', 'running', 'paused')
  order by r.created_at
  limit 1;
  if found then
    perform backfill_private.refuse('OB002',
      format('run %s of target %s is %s, so the target stays. Cancel the run first: backfill cancel %s --reason "…"',
        v_run.run_id, p_target, v_run.state, left(v_run.run_id::text, 8)),
      format('backfill cancel %s', left(v_run.run_id::text, 8)));
  end if;
end
$$;

-- Drop the index that helps to detect what a target lacks.
--
-- raises  OB002 a run of the target is not over
create function backfill_private.remove_index(p_target text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
declare
  v_index text := (select i.standing from backfill_private.detection_index(p_target) as i);
begin
  perform backfill_private.refuse_while_running(p_target);
  if v_index is not null then
    execute format('drop index if exists %s', v_index);
  end if;
end
$$;

-- Take a target away: its triggers, its views, its rows. Runs, receipts and audit stay. A name that is not installed is
-- no error, since a migration may be applied to a new database.
--
-- raises  OB002 a run of the target is not over
create function backfill_private.remove_target(p_target text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
begin
  perform backfill_private.refuse_while_running(p_target);
  perform backfill_private.withdraw(p_target);
  perform backfill_private.forget_watch(p_target);
  delete from public.backfill_targets where target = p_target;
  delete from backfill_private.sources where target = p_target;
end
$$;
