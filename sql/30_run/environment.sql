-- Environment: a plan is for one environment, and runs in no other.

-- Refuse a plan for another environment than this one.
--
-- returns  the environment of the plan, null if neither the request nor the settings name one
-- raises   OB008 the two differ, OB013 the settings are gone
create function backfill_private.check_environment(p_wanted text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_here text := (backfill_private.settings()).environment;
begin
  if lower(p_wanted) <> lower(v_here) then
    perform backfill_private.refuse('OB008',
      format('this project is %s, not %s', v_here, left(p_wanted, 80)),
      format('connect to the project that is meant, or: backfill plan … --environment %s', v_here));
  end if;
  return coalesce(v_here, lower(p_wanted));
end
$$;

-- Is this project another one than the run was planned for? If the project has no name, nobody can tell.
create function backfill_private.is_elsewhere(p_run public.backfill_runs)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce((
    select lower(s.environment) is distinct from lower(p_run.environment)
    from public.backfill_settings as s
    where s.environment is not null
  ), false);
end
$$;
