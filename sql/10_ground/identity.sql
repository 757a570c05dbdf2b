-- Identity: who calls, and what that caller may do.
--
-- Never current_user: inside SECURITY DEFINER it is the owner for every caller. A caller cannot change the login
-- (session_user), the role that PostgREST set (the setting "role") or its JWT claims by calling us.

-- The JWT claims of this request. Null if there are none.
create function backfill_private.claims()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select nullif(current_setting('request.jwt.claims', true), '')::jsonb
$$;

-- The backfill role of an Auth user, read live: a token from before the role was taken away does not help.
create function backfill_private.role_of(p_user_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select u.raw_app_meta_data ->> 'backfill_role'
  from auth.users as u
  where u.id = p_user_id
    and u.deleted_at is null
    and (u.banned_until is null or u.banned_until <= backfill_private.clock())
$$;

-- Who calls.
--
-- kind  postgres: a login that is a member of postgres, has taken no other role and carries no claims (SQL editor,
--       direct connection). What runs as service_role inside such a session, as a driver's scoring functions do, may
--       take its claims away, and is not the login for that
--       service_role: the API with the secret key
--       user: the API with an Auth user's token. user_id and backfill_role are this user's
--       nobody: everything else, also a third party's token, whose subject may be anything
create function backfill_private.caller(
  out kind text, out user_id uuid, out backfill_role text, out label text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_claims jsonb := backfill_private.claims();
  v_role text := current_setting('role');
begin
  kind := 'nobody';
  if v_claims is null
    and nullif(current_setting('request.jwt.claim.role', true), '') is null
    and pg_has_role(session_user, 'postgres', 'member')
    and (case when v_role = 'none' then true else pg_has_role(v_role, 'postgres', 'member') end) then
    kind := 'postgres';
  elsif v_role = 'service_role' then
    kind := 'service_role';
  elsif v_role = 'authenticated'
    and v_claims ->> 'role' = 'authenticated'
    and v_claims ->> 'sub' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    kind := 'user';
    user_id := (v_claims ->> 'sub')::uuid;
    backfill_role := backfill_private.role_of(user_id);
  end if;
  label := case kind
    when 'postgres' then 'postgres:' || session_user
    when 'user' then 'user:' || user_id
    else kind
  end;
end
$$;

-- What each kind of caller may do. A right includes those of the roles before it: viewer, operator, approver.
create view backfill_private.rights with (security_invoker = true) as
select * from (values
  ('read',    1,    true),
  ('plan',    2,    true),
  ('pause',   2,    true),
  ('pace',    2,    true),
  ('resume',  2,    true),
  ('cancel',  2,    true),
  ('decide',  3,    true),   -- service_role only if the policy is any: the approval's trigger says so
  ('apply',   null, true),
  ('preview', 2,    true),   -- of an undo
  ('undo',    null, true),
  ('prune',   null, true),
  ('watch',   null, true)
) as allowed (verb, least_rank, service_role);

create function backfill_private.rank(p_backfill_role text)
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case p_backfill_role when 'viewer' then 1 when 'operator' then 2 when 'approver' then 3 else 0 end
$$;

-- May the caller do this?
create function backfill_private.may(p_verb text)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(bool_or(
      c.kind = 'postgres'
      or c.kind = 'service_role' and r.service_role
      or c.kind = 'user' and backfill_private.rank(c.backfill_role) >= r.least_rank
    ), false)
    from backfill_private.caller() as c
    cross join backfill_private.rights as r
    where r.verb = p_verb);
end
$$;

-- Refuse a caller who may not do this.
--
-- raises  OB010 the caller lacks the right that the message names
create function backfill_private.authorize(p_verb text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not backfill_private.may(p_verb) then
    perform backfill_private.refuse('OB010',
      format('%s may not %s backfill runs', (select label from backfill_private.caller()), p_verb),
      'ask somebody with the role, or have app_metadata.backfill_role set to viewer, operator or approver');
  end if;
end
$$;
