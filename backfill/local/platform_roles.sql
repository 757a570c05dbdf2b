-- The roles of a hosted Supabase project, as far as a migration or an API call can tell.
--
-- Run once per cluster by the superuser supabase_admin. A second run changes nothing. The program
-- sets the passwords afterwards, so that no file holds one.

do $$
declare
  v_role text;
begin
  foreach v_role in array array[
    'postgres', 'anon', 'authenticated', 'service_role', 'authenticator', 'supabase_auth_admin'
  ]
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
      execute format('create role %I', v_role);
    end if;
  end loop;
end
$$;

-- The role of migrations: strong, but no superuser.
alter role postgres
  with login nosuperuser bypassrls createrole createdb noreplication inherit;
alter role postgres set search_path to "$user", public, extensions;

alter role anon with nologin noinherit;
alter role authenticated with nologin noinherit;
alter role service_role with nologin noinherit bypassrls;
alter role supabase_auth_admin with nologin noinherit;

-- The role that the REST server logs in as, before it switches to one of the three API roles.
alter role authenticator with login noinherit nosuperuser;
grant anon, authenticated, service_role to authenticator;

grant anon, authenticated, service_role to postgres with admin option;
grant authenticator to postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

-- The limits of the hosted API. service_role has none of its own, so the authenticator's apply.
alter role anon set statement_timeout to '3s';
alter role authenticated set statement_timeout to '8s';
alter role authenticator set statement_timeout to '8s';
alter role authenticator set lock_timeout to '8s';
