-- What Supabase Auth keeps of sign-ins, as far as the stack's own /auth/v1 needs it. backfill/local/auth.py decides with
-- the functions below. Only postgres calls them.
--
-- Run once per database by the superuser supabase_admin, after platform.sql. A second run changes nothing.

alter table auth.users
  add column if not exists encrypted_password text,
  add column if not exists email_confirmed_at timestamptz,
  add column if not exists last_sign_in_at timestamptz;

create table if not exists auth.sessions (
  id         uuid primary key default gen_random_uuid(),
  user_id    uuid not null references auth.users (id) on delete cascade,
  aal        text not null default 'aal1',
  methods    text[] not null,
  created_at timestamptz not null default now()
);
create table if not exists auth.refresh_tokens (
  token      text primary key default encode(uuid_send(gen_random_uuid()), 'hex'),
  session_id uuid not null references auth.sessions (id) on delete cascade,
  revoked    boolean not null default false
);
create table if not exists auth.mfa_factors (
  id          uuid primary key default gen_random_uuid(),
  user_id     uuid not null references auth.users (id) on delete cascade,
  factor_type text not null default 'totp',
  status      text not null default 'verified',
  secret      text not null,
  last_step   bigint not null default 0,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now()
);
-- The code that a mail would hold. No mail is sent.
create table if not exists auth.one_time_tokens (
  user_id    uuid primary key references auth.users (id) on delete cascade,
  token      text not null,
  tries      integer not null default 0,
  created_at timestamptz not null default now()
);

do $$
declare
  v_table text;
begin
  foreach v_table in array array['sessions', 'refresh_tokens', 'mfa_factors', 'one_time_tokens']
  loop
    execute format('alter table auth.%I owner to supabase_auth_admin', v_table);
    execute format('alter table auth.%I enable row level security', v_table);
    execute format('grant select, insert, update, delete on auth.%I to postgres', v_table);
  end loop;
end
$$;

-- Add a user, or give one another role and password, and with a secret a second factor. All its sessions end.
--
-- p_password  null: only one-time codes sign in
-- p_secret    of the TOTP factor, in base 32. Null: none
-- returns     {id, email, role, is_new}
create or replace function auth.local_add_user(p_email text, p_password text, p_role text, p_secret text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := (select u.id from auth.users as u where lower(u.email) = lower(p_email));
  v_is_new boolean := v_id is null;
begin
  v_id := coalesce(v_id, gen_random_uuid());
  insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data)
  values (v_id, lower(p_email), now(), '{}')
  on conflict (id) do nothing;
  update auth.users
  set encrypted_password = extensions.crypt(p_password, extensions.gen_salt('bf', 10)),
      raw_app_meta_data = coalesce(raw_app_meta_data, '{}') || jsonb_build_object('backfill_role', p_role),
      updated_at = now()
  where id = v_id;
  delete from auth.sessions where user_id = v_id;
  delete from auth.mfa_factors where user_id = v_id;
  insert into auth.mfa_factors (user_id, secret)
  select v_id, p_secret
  where p_secret is not null;
  return jsonb_build_object('id', v_id, 'email', lower(p_email), 'role', p_role, 'is_new', v_is_new);
end
$$;

-- A user as Supabase Auth tells of one.
create or replace function auth.local_user(p_user_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'id', u.id,
    'aud', 'authenticated',
    'role', 'authenticated',
    'email', coalesce(u.email, ''),
    'phone', '',
    'email_confirmed_at', u.email_confirmed_at,
    'confirmed_at', u.email_confirmed_at,
    'last_sign_in_at', u.last_sign_in_at,
    'app_metadata', jsonb_build_object('provider', 'email', 'providers', '["email"]'::jsonb)
      || coalesce(u.raw_app_meta_data, '{}'),
    'user_metadata', coalesce(u.raw_user_meta_data, '{}'),
    'identities', '[]'::jsonb,
    'factors', (
      select jsonb_agg(jsonb_build_object(
        'id', f.id,
        'factor_type', f.factor_type,
        'status', f.status,
        'created_at', f.created_at,
        'updated_at', f.updated_at) order by f.created_at)
      from auth.mfa_factors as f
      where f.user_id = u.id),
    'created_at', u.created_at,
    'updated_at', u.updated_at,
    'is_anonymous', u.is_anonymous)
  from auth.users as u
  where u.id = p_user_id
$$;

-- Whom an address and a password, or the code that the last mail held, name. A code is good for one hour, one sign-in and
-- five tries.
--
-- returns  {id, is_banned}, null if they name nobody
create or replace function auth.local_known(p_email text, p_password text, p_code text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user auth.users;
begin
  select * into v_user
  from auth.users as u
  where lower(u.email) = lower(p_email)
    and u.deleted_at is null;
  if p_code is not null then
    update auth.one_time_tokens set tries = tries + 1 where user_id = v_user.id;
    delete from auth.one_time_tokens
    where user_id = v_user.id
      and token = p_code
      and tries <= 5
      and created_at > now() - interval '1 hour';
    if not found then
      return null;
    end if;
  elsif v_user.encrypted_password = extensions.crypt(p_password, v_user.encrypted_password) is not true then
    return null;
  end if;
  return jsonb_build_object('id', v_user.id, 'is_banned', coalesce(v_user.banned_until > now(), false));
end
$$;

-- Keep a new one-time code for a user. Returns whether there is one with this address.
create or replace function auth.local_new_code(p_email text, p_code text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into auth.one_time_tokens (user_id, token)
  select u.id, p_code
  from auth.users as u
  where lower(u.email) = lower(p_email)
    and u.deleted_at is null
  on conflict (user_id) do update
  set token = excluded.token, tries = 0, created_at = now();
  return found;
end
$$;

-- The code that the last mail to this address would hold. Null if none was asked for, or it was used.
create or replace function auth.local_code(p_email text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select t.token
  from auth.one_time_tokens as t
  join auth.users as u on u.id = t.user_id
  where lower(u.email) = lower(p_email)
$$;

-- A refresh token for a session, with what goes into its access token.
--
-- returns  {user, session_id, aal, methods, refresh_token}
create or replace function auth.local_grant(p_session_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session auth.sessions;
  v_token text;
begin
  select * into strict v_session from auth.sessions where id = p_session_id;
  insert into auth.refresh_tokens (session_id) values (p_session_id) returning token into v_token;
  return jsonb_build_object(
    'user', auth.local_user(v_session.user_id),
    'session_id', v_session.id,
    'aal', v_session.aal,
    'methods', v_session.methods,
    'refresh_token', v_token);
end
$$;

-- Begin a session. Returns as local_grant does.
create or replace function auth.local_sign_in(p_user_id uuid, p_method text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
begin
  update auth.users set last_sign_in_at = now() where id = p_user_id;
  insert into auth.sessions (user_id, methods) values (p_user_id, array[p_method]) returning id into v_id;
  return auth.local_grant(v_id);
end
$$;

-- Go on with a session. A refresh token serves once: one that comes again was stolen, and its session ends.
--
-- returns  as local_grant does, or {refused: not_found | already_used | banned}
create or replace function auth.local_refresh(p_token text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token auth.refresh_tokens;
  v_user auth.users;
begin
  select * into v_token from auth.refresh_tokens where token = p_token for update;
  if v_token.token is null then
    return '{"refused": "not_found"}';
  elsif v_token.revoked then
    delete from auth.sessions where id = v_token.session_id;
    return '{"refused": "already_used"}';
  end if;
  select u.* into v_user
  from auth.users as u
  join auth.sessions as s on s.user_id = u.id
  where s.id = v_token.session_id;
  if v_user.deleted_at is not null or v_user.banned_until > now() then
    return '{"refused": "banned"}';
  end if;
  update auth.refresh_tokens set revoked = true where token = p_token;
  return auth.local_grant(v_token.session_id);
end
$$;

-- The user of a session. Null once it has ended.
create or replace function auth.local_user_of(p_session_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select auth.local_user(s.user_id) from auth.sessions as s where s.id = p_session_id
$$;

-- End a session, all sessions of its user, or all others.
create or replace function auth.local_sign_out(p_session_id uuid, p_scope text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  delete from auth.sessions as s
  using auth.sessions as this
  where this.id = p_session_id
    and s.user_id = this.user_id
    and case p_scope when 'local' then s.id = this.id when 'others' then s.id <> this.id else true end
$$;

-- The secret of a factor of this session's user. Null if there is none.
create or replace function auth.local_secret(p_session_id uuid, p_factor_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select f.secret
  from auth.mfa_factors as f
  join auth.sessions as s on s.user_id = f.user_id
  where s.id = p_session_id
    and f.id = p_factor_id
$$;

-- Give a session its second factor, unless the code of this step of time was used. Returns as local_grant does, or null.
create or replace function auth.local_raise(p_session_id uuid, p_factor_id uuid, p_step bigint)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  update auth.mfa_factors set last_step = p_step, updated_at = now() where id = p_factor_id and last_step < p_step;
  if not found then
    return null;
  end if;
  update auth.sessions set aal = 'aal2', methods = array_prepend('totp', methods) where id = p_session_id;
  update auth.refresh_tokens set revoked = true where session_id = p_session_id;
  return auth.local_grant(p_session_id);
end
$$;

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'auth'::regnamespace
      and p.proname like 'local\_%'
  loop
    execute format('revoke all on function %s from public', v_function);
    execute format('grant execute on function %s to postgres', v_function);
    execute format('alter function %s owner to supabase_auth_admin', v_function);
  end loop;
end
$$;
