-- Transactions of a driver: pg_cron calls a procedure, which scores with a COMMIT after each call.
--
-- A procedure that commits can have no clause `set` and no owner's rights: PostgreSQL refuses COMMIT there. So each of
-- its transactions begins here, which sets what a clause would. A test holds that nothing else of ours commits, and
-- that each procedure begins with a call of this.

-- Commit, and begin the next transaction as the API would begin a call with the secret key. Everything is set for this
-- one transaction, so user code finds the role, the claims and the lock timeout that it finds behind the API.
--
-- p_search_path  gives the session's own path, under which user code runs
-- p_role         none: the login itself, for what pg_cron lets only the owner of a job do
create procedure backfill_private.next_transaction(
  inout p_search_path text, p_role text default 'service_role'
)
language plpgsql
as $$
begin
  commit;
  p_search_path := pg_catalog.current_setting('search_path');
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  perform
    set_config('role', p_role, true),
    set_config('lock_timeout', '8s', true),
    set_config('request.jwt.claims', case p_role when 'none' then '' else '{"role": "service_role"}' end, true);
end
$$;

-- Until when a driver claims: its budget, and at most half of what the time limit of its one statement leaves. So a
-- call that begins last has as long again.
create function backfill_private.drive_until(p_budget interval, p_limit_at timestamptz)
returns timestamptz
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_limit_at = 'infinity' then n.now_at + p_budget
    else least(n.now_at + p_budget, n.now_at + (p_limit_at - n.now_at) / 2) end
  from (select backfill_private.clock() as now_at) as n
$$;

-- Something that a login of the API owns and user code would run: a trigger's function, or what lies on the search
-- path. A driver's session is the login's that scheduled it, so such code could say `reset role` there and be that
-- login, who approves. Null: there is none.
create function backfill_private.outsiders_thing(p_search_path text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schemas oid[];
begin
  perform set_config('search_path', p_search_path, true);
  v_schemas := array(
    select n.oid
    from pg_catalog.pg_namespace as n
    -- "$user" is another one for whoever scores.
    where n.nspname operator(pg_catalog.=) any (pg_catalog.current_schemas(false))
      or n.nspname operator(pg_catalog.=) 'service_role');
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  return (
    with outsiders as (
      select r.oid
      from pg_roles as r
      where (r.rolname in ('anon', 'authenticated', 'authenticator') or pg_has_role(r.oid, 'service_role', 'member'))
        and not r.rolsuper
        and not pg_has_role(r.oid, 'postgres', 'member')
        and not starts_with(r.rolname, 'supabase_')  -- of the platform
    ), things as (
      select p.proowner as owner,
        format('trigger %I on %s runs a function of %s', t.tgname, t.tgrelid::regclass, p.proowner::regrole) as said
      from pg_trigger as t
      join pg_proc as p on p.oid = t.tgfoid
      where not t.tgisinternal
      union all
      select p.proowner, format('%s belongs to %s', p.oid::regprocedure, p.proowner::regrole)
      from pg_proc as p
      where p.pronamespace = any (v_schemas)
      union all
      select c.relowner, format('%s belongs to %s', c.oid::regclass, c.relowner::regrole)
      from pg_class as c
      where c.relnamespace = any (v_schemas)
    )
    select min(t.said)
    from things as t
    join outsiders as o on o.oid = t.owner
  );
end
$$;

-- Refuse to drive while code of somebody with fewer rights than the session's would run in it.
--
-- raises  OB010 see outsiders_thing
create function backfill_private.refuse_outsiders(p_search_path text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_said text := backfill_private.outsiders_thing(p_search_path);
begin
  if v_said is not null then
    perform backfill_private.refuse('OB010',
      format('%s, and a run that the database drives would run it in a session of %s', v_said, session_user),
      'give it to postgres with alter … owner to postgres, or score with a worker: backfill apply RUN');
  end if;
end
$$;
