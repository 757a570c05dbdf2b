-- What a database of a hosted Supabase project holds before its first migration.
--
-- Run once per database by the superuser supabase_admin, after platform_roles.sql. A second run
-- changes nothing. No default privileges are set: since 2026-10-30 a new table in public is not
-- granted to the API roles by itself. For projects before that: platform_old_privileges.sql.

do $$
begin
  -- The owner of the database owns schema public too, through pg_database_owner.
  execute format('alter database %I owner to postgres', current_database());
end
$$;

grant usage on schema public to postgres, anon, authenticated, service_role;

create schema if not exists extensions;
grant usage, create on schema extensions to postgres;
grant usage on schema extensions to anon, authenticated, service_role;

do $$
begin
  -- Some builds of PostgreSQL come without it, and nothing of the platform needs it.
  if exists (select from pg_catalog.pg_available_extensions where name = 'pgcrypto') then
    create extension if not exists pgcrypto with schema extensions;
  end if;
end
$$;

create schema if not exists auth authorization supabase_auth_admin;
grant usage on schema auth to postgres, anon, authenticated, service_role;

-- The users of Supabase Auth: the columns that a policy, a trigger or a foreign key asks for.
create table if not exists auth.users (
  id                 uuid primary key,
  email              text,
  raw_app_meta_data  jsonb,
  raw_user_meta_data jsonb,
  created_at         timestamptz default now(),
  updated_at         timestamptz default now(),
  deleted_at         timestamptz,
  banned_until       timestamptz,
  is_anonymous       boolean not null default false
);
alter table auth.users owner to supabase_auth_admin;
-- With row level security and no policy, as on hosted: postgres reads it because it bypasses that.
alter table auth.users enable row level security;
grant select, insert, update, delete, references, trigger
  on auth.users
  to postgres
  with grant option;

-- The claims of the caller's token, as the REST server left them for this transaction.
--
-- returns  null without a token, also after a reset, when the setting reads as ''
create or replace function auth.jwt()
returns jsonb
language sql
stable
set search_path = ''
as $$
  select nullif(current_setting('request.jwt.claims', true), '')::jsonb
$$;

-- The id of the user who calls. Null for a service key and in the SQL editor.
create or replace function auth.uid()
returns uuid
language sql
stable
set search_path = ''
as $$
  select nullif(auth.jwt() ->> 'sub', '')::uuid
$$;

-- The API role that the caller's token names. Null in the SQL editor.
create or replace function auth.role()
returns text
language sql
stable
set search_path = ''
as $$
  select auth.jwt() ->> 'role'
$$;

alter function auth.jwt() owner to supabase_auth_admin;
alter function auth.uid() owner to supabase_auth_admin;
alter function auth.role() owner to supabase_auth_admin;
grant execute
  on function auth.jwt(), auth.uid(), auth.role()
  to postgres, anon, authenticated, service_role;
