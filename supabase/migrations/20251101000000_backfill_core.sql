set check_function_bodies = off;
-- from sql/10_ground/_schema.sql
-- The private schema. public holds what people see. backfill_private holds the rest and is not exposed through the API.
-- Every function that needs the owner's rights lives there. It asks who calls before it does anything.

create schema backfill_private;

-- from sql/10_ground/bounds.sql
-- Bounds: how much one call may be given. What is longer is refused before anything is done with it, so that no caller
-- keeps the project busy with one call, and no constraint answers in PostgreSQL's own words.
--
-- Ids, dates and names that have to be found need no row: what is not found is refused, with the beginning of it.

-- The bounds of everything that the doors are given.
--
-- kind  characters, bytes or entries: of these at most so many. Else it is a number, and kind is its unit
create view backfill_private.bounds with (security_invoker = true) as
select * from (values
  ('the approver''s name', 'characters', 0, 200),
  ('the note', 'characters', 0, 500),
  ('the reason', 'characters', 0, 500),
  ('the digest', 'characters', 0, 200),
  ('the name of the worker', 'characters', 0, 200),
  ('the host of the project', 'characters', 0, 255),
  ('the session', 'characters', 0, 4000),
  ('the request', 'bytes', 0, 1000000),
  ('the declaration', 'bytes', 0, 1000000),
  ('the answers of the API', 'bytes', 0, 1000000),
  ('so_far', 'bytes', 0, 1000000),
  ('the list of migrations', 'entries', 0, 10000),
  ('the list of migrations', 'bytes', 0, 1000000),
  ('the list of sessions', 'entries', 0, 1000),
  ('the list of sessions', 'bytes', 0, 1000000),
  -- One for each session of the largest batch, with a message of 500 characters.
  ('the list of outcomes', 'entries', 0, 1000),
  ('the list of outcomes', 'bytes', 0, 4000000),
  ('the list of marks', 'entries', 0, 100),
  ('a run by standing approval', 'sessions', 1, 1000000),
  ('a run by standing approval', 'calls', 1, 1000000),
  ('a day of standing approval', 'sessions', 1, 1000000),
  ('the throttle of a standing approval', 'starts per minute', 1, 100000),
  ('the round trip', 'milliseconds', 0, 600000),
  -- A look goes on in the next call.
  ('a look', 'milliseconds', 0, 20000),
  -- What a call in bulk has written stays locked until it ends.
  ('a call in bulk', 'milliseconds', 0, 1000),
  ('a call in bulk', 'sessions', 1, 500),
  ('a part of an undo', 'sessions', 1, 10000)
) as bound (what, kind, least, most);

-- Refuse what is more than a call may be given.
--
-- p_given  {what: value}, or {"what, kind": value} if it has several bounds of which one is meant. A text, list or JSON
--          may be null, a number may not
-- raises   OB013 the first that is out of bounds
create function backfill_private.check_bounds(p_given jsonb)
returns void
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_beyond record;
begin
  select b.what, b.kind, b.least, b.most, m.size into v_beyond
  from jsonb_each(p_given) as g
  join backfill_private.bounds as b on g.key in (b.what, concat_ws(', ', b.what, b.kind))
  cross join lateral (
    select case b.kind
      when 'characters' then length(g.value #>> '{}')
      when 'bytes' then octet_length(g.value::text)
      when 'entries' then case when jsonb_typeof(g.value) = 'array' then jsonb_array_length(g.value) end
      else case when jsonb_typeof(g.value) = 'number' then g.value::numeric end
    end as size) as m
  where m.size between b.least and b.most is not true
    and (g.value <> 'null' or b.kind not in ('characters', 'bytes', 'entries'))
  limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      case
        when v_beyond.kind = 'entries'
        then concat(v_beyond.what, ' has at most ', v_beyond.most, ' entries', ', not ' || v_beyond.size)
        when v_beyond.kind in ('characters', 'bytes')
        then format('%s has at most %s %s, not %s', v_beyond.what, v_beyond.most, v_beyond.kind, v_beyond.size)
        else format('%s takes %s to %s %s, not %s',
          v_beyond.what, v_beyond.least, v_beyond.most, v_beyond.kind, coalesce(v_beyond.size::text, 'null'))
      end,
      case
        when v_beyond.kind in ('characters', 'bytes', 'entries') then format('make %s shorter', v_beyond.what)
        else format('give a number from %s to %s', v_beyond.least, v_beyond.most)
      end);
  end if;
end
$$;

-- from sql/10_ground/dates.sql
-- Dates. Those of a request are whole UTC days, both ends included. A timestamp with an offset is taken as it is.

-- The first moment that a session may have, and the first that is too late: the years 1 to 9999. Clients' calendars
-- know no others, and a search that walks from date to date never reaches infinity.
create function backfill_private.first_moment()
returns timestamptz
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select timestamptz '0001-01-01 00:00:00+00'
$$;

create function backfill_private.after_all_moments()
returns timestamptz
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select timestamptz '10000-01-01 00:00:00+00'
$$;

-- Why no plan can take a session of this date. Null: one can.
--
-- p_column  the date's column
create function backfill_private.date_fault(p_column text, p_at timestamptz)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_at is null then format('it has no %s', p_column)
    when not isfinite(p_at) then format('its %s is %s', p_column, p_at)
    -- A date may be later than any moment. Then it is read as the last of these.
    when p_at >= timestamptz '294276-12-31 23:59:59.999999+00' then format('its %s is after the year 294276', p_column)
    when p_at >= backfill_private.after_all_moments()
    then format('its %s is in the year %s, and plans end with 9999',
      p_column, extract(year from p_at at time zone 'UTC'))
    when p_at < backfill_private.first_moment()
    then format('its %s is before the year 1, with which plans begin', p_column)
  end
$$;

-- How many rows no plan can take for their date, in words. Null for none.
--
-- p_called             how people call one of the rows, and several
-- p_without, p_beyond  how many have none, and how many have one that no plan can take
create function backfill_private.no_plan_takes(p_called text[], p_column text, p_without bigint, p_beyond bigint)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    case n.rows
      when 1 then format('1 %s has %s: no plan takes it', p_called[1], n.what)
      else format('%s %s have %s: no plan takes them', n.rows, p_called[2], n.what)
    end,
    '; ' order by n.place)
  from (values
    (1, p_without, 'no ' || p_column),
    (2, p_beyond, format('a %s that is infinite or of a year outside 1 to 9999', p_column))
  ) as n (place, rows, what)
  where n.rows > 0
$$;

-- The first moment that a since includes. A date is the start of its UTC day.
--
-- raises  OB013 the text is neither a date nor a timestamp
create function backfill_private.since_bound(p_name text, p_text text)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
as $$
declare
  v_moment timestamptz;
begin
  v_moment := p_text::timestamptz;
  if p_text is not null and backfill_private.date_fault(p_name, v_moment) is not null then
    raise datetime_field_overflow;
  end if;
  return v_moment;
exception
  when invalid_datetime_format
    or datetime_field_overflow
    or invalid_parameter_value
    or invalid_time_zone_displacement_value
  then
    perform backfill_private.refuse('OB013',
      format('%s is no date: %s', p_name, left(p_text, 40)),
      'give a day such as 2025-08-01, or a timestamp with an offset');
    return null;
end
$$;

-- Does a date name a whole day? If so, it can be given a time, in whatever form it is written.
create function backfill_private.names_day(p_text text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
as $$
begin
  return (p_text || ' 00:00:00')::timestamptz is not null;
exception when data_exception then
  return false;
end
$$;

-- The first moment after what an until includes: the next UTC day for a date, a microsecond later for a timestamp.
-- A day of another zone may have 23 or 25 hours.
create function backfill_private.until_bound(p_name text, p_text text)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select backfill_private.since_bound(p_name, p_text)
    + case when backfill_private.names_day(p_text) then interval '1 day' else interval '1 microsecond' end
$$;

-- from sql/10_ground/identity.sql
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

-- from sql/10_ground/schema.sql
-- What everything stands on: the one clock, how we refuse, small pure functions.

-- The only source of time. Tests replace this function in a database of their own.
-- plpgsql keeps its plan for the session. SQL would be parsed and planned anew in every scoring transaction.
create function backfill_private.clock()
returns timestamptz
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return pg_catalog.clock_timestamp();
end
$$;

-- Refuse: one SQLSTATE of class OB, one sentence, the next thing to do.
create function backfill_private.refuse(p_code text, p_message text, p_hint text default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using
    errcode = p_code,
    message = p_message,
    hint = coalesce(p_hint, '');
end
$$;

-- A reason or a name as somebody gave it, without blanks at its ends. Null if it says nothing, as the "…" of a command
-- that was copied as it is.
create function backfill_private.said(p_text text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when btrim(p_text, e' \t\r\n….<>"''_-') <> '' then btrim(p_text) end
$$;

-- Hex SHA-256 of a text, UTF-8.
create function backfill_private.sha256_hex(p_text text)
returns text
language sql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
  select encode(sha256(convert_to(p_text, 'UTF8')), 'hex')
$$;

-- A digest in a message that names another too: its beginning, or all of it if the two begin alike.
create function backfill_private.told_apart(p_digest text, p_other text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when left(p_digest, 12) is distinct from left(p_other, 12) then left(p_digest, 12) || '…'
    when length(p_digest) > 65 then left(p_digest, 65) || '…'
    else p_digest
  end
$$;

-- One mark of a plan: ok, warn or fail.
create function backfill_private.mark(p_name text, p_status text, p_detail text)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('name', p_name, 'status', p_status, 'detail', p_detail)
$$;

-- Was a row written by a transaction that this snapshot did not see? p_xmin is the row's, 32 bits. The snapshot gives
-- the epoch.
create function backfill_private.came_after(p_xmin xid, p_snapshot pg_snapshot)
returns boolean
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_least bigint := pg_snapshot_xmin(p_snapshot)::text::bigint;
  v_delta bigint := mod(p_xmin::text::bigint - mod(v_least, 4294967296) + 4294967296, 4294967296);
begin
  return v_delta < 2147483648
    and not pg_visible_in_snapshot((v_least + v_delta)::text::xid8, p_snapshot);
end
$$;

-- Join two partial answers: numbers are added, lists joined, objects joined name by name.
create function backfill_private.added(p_one jsonb, p_other jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(
      jsonb_object_agg(key, case
        when one.value is null then other.value
        when other.value is null then one.value
        when jsonb_typeof(one.value) = 'number' then to_jsonb(one.value::numeric + other.value::numeric)
        when jsonb_typeof(one.value) = 'array' then one.value || other.value
        else backfill_private.added(one.value, other.value)
      end),
      '{}')
    from jsonb_each(p_one) as one
    full join jsonb_each(p_other) as other using (key)
  );
end
$$;

-- One line of a check: a mark, and what to do next if it is not ok.
create function backfill_private.line(p_name text, p_status text, p_detail text, p_next text)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(p_name, p_status, p_detail)
    || jsonb_build_object('next', case when p_status = 'ok' then '' else coalesce(p_next, '') end)
$$;

-- How many letters have to be inserted, deleted or changed to get from one text to the other.
create function backfill_private.distance(p_from text, p_to text)
returns integer
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_above integer[] := array(select generate_series(0, length(p_to)));
  v_row integer[];
begin
  for i in 1 .. length(p_from) loop
    v_row := array[i];
    for j in 1 .. length(p_to) loop
      v_row[j + 1] := least(v_row[j] + 1, v_above[j + 1] + 1,
        v_above[j] + (substr(p_from, i, 1) <> substr(p_to, j, 1))::integer);
    end loop;
    v_above := v_row;
  end loop;
  return v_above[length(p_to) + 1];
end
$$;

-- The distance as a share of the longer text, 0 to 1, so that a shortened name is nearer than another of its length.
create function backfill_private.farness(p_from text, p_to text)
returns numeric
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.distance(lower(left(p_from, 200)), lower(left(p_to, 200)))::numeric
    / greatest(length(left(p_from, 200)), length(left(p_to, 200)), 1)
$$;

-- So many of something, in agreement: 1 session, 2 sessions.
create function backfill_private.counted(p_count bigint, p_one text)
returns text
language sql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
  select format('%s %s%s', p_count, p_one, case when p_count = 1 then '' when p_one like '%ch' then 'es' else 's' end)
$$;

-- from sql/10_ground/settings.sql
-- Settings: one row. Only postgres writes it (SQL editor), anyone who may read runs reads it.

create table public.backfill_settings (
  only_row boolean primary key default true check (only_row),
  environment text check (environment <> ''),
  approval_policy text not null default 'second_person'
    check (approval_policy in ('second_person', 'postgres_only', 'any')),
  max_throttle_per_minute integer check (max_throttle_per_minute between 1 and 100000),
  max_sessions integer check (max_sessions > 0),
  approval_ttl interval not null default interval '7 days' check (approval_ttl > interval '0'),
  require_aal2 boolean not null default false,
  undo_policy text not null default 'any' check (undo_policy in ('any', 'second_person')),
  undo_policy_rows integer not null default 100 check (undo_policy_rows >= 0),
  max_waiting_locks integer check (max_waiting_locks >= 0),
  max_transaction_age interval check (max_transaction_age > interval '0'),
  max_replication_lag interval check (max_replication_lag > interval '0'),
  max_connections_percent integer check (max_connections_percent between 1 and 100)
);

insert into public.backfill_settings default values;

comment on table public.backfill_settings is
  'What this project allows backfill runs to do. One row; change it in the SQL editor.';
comment on column public.backfill_settings.only_row is
  'Always true: there is one row.';
comment on column public.backfill_settings.environment is
  'Name of this project''s environment. A plan for another one is refused. Null: not set, plans warn.';
comment on column public.backfill_settings.approval_policy is
  'second_person: an approver who is not the requester. postgres_only: only the SQL editor. any: the service key too.';
comment on column public.backfill_settings.max_throttle_per_minute is
  'Most session starts per minute, over all runs and rehearsals. At most 100000. Null: no bound.';
comment on column public.backfill_settings.max_sessions is
  'Most sessions in one plan. Null: no bound.';
comment on column public.backfill_settings.approval_ttl is
  'How long an approval is valid.';
comment on column public.backfill_settings.require_aal2 is
  'Whether a decision needs an Auth session with a second factor. The SQL editor has no session and decides as ever.';
comment on column public.backfill_settings.undo_policy is
  'any: who may undo confirms alone. second_person: a large undo needs an approver who did not preview it.';
comment on column public.backfill_settings.undo_policy_rows is
  'Under second_person: rows that may be undone without an approver, of one run ever and of all runs in 24 hours.';
comment on column public.backfill_settings.max_waiting_locks is
  'Nothing starts while more connections wait for locks on the target''s tables. Null: not looked at.';
comment on column public.backfill_settings.max_transaction_age is
  'Nothing starts while a transaction of this database is older. Null: not looked at.';
comment on column public.backfill_settings.max_replication_lag is
  'Nothing starts while a replica lags further behind. Null: not looked at.';
comment on column public.backfill_settings.max_connections_percent is
  'Nothing starts while more of the connections that PostgreSQL allows are in use. Null: not looked at.';

-- The settings of this project. Without their row nothing is planned, approved or scored.
--
-- raises  OB013 the row is gone
create function backfill_private.settings()
returns public.backfill_settings
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_settings public.backfill_settings;
begin
  select * into v_settings from public.backfill_settings;
  if not found then
    perform backfill_private.refuse('OB013',
      'the row of backfill_settings is gone: nothing says what this project allows',
      e'put it back in the SQL editor, then set environment, policy and bounds:\n'
        'insert into public.backfill_settings default values;');
  end if;
  return v_settings;
end
$$;

-- The settings of this project, as a plan keeps them, so that later changes show. {name: value}
create function backfill_private.settings_now()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set intervalstyle = 'postgres'
as $$
  select to_jsonb(s) - 'only_row' from public.backfill_settings as s
$$;

-- from sql/20_target/_tables.sql
-- Tables of targets: what a source is, what a component is.
--
-- The core reads these rows and knows no target by name. It uses every identifier in them through %I or regclass.

create table backfill_private.sources (
  target text primary key check (target ~ '^[a-z][a-z0-9_]{0,30}$'),
  source_table text not null,
  key_column text not null,
  date_column text not null,
  -- which rows are sessions, see filters.sql
  filters jsonb not null default '[]',
  -- [{name, table, column, parameter, component: null for all}]: rows that scoring reads, and how many it needs
  needs jsonb not null default '[]',
  views text[] not null,
  index_name text,
  defaults jsonb not null default '{}',
  -- How people call its rows: one of them, and several
  called text[] not null default '{session,sessions}' check (array_length(called, 1) = 2),
  installed_at timestamptz not null default backfill_private.clock()
);

create table public.backfill_targets (
  target text not null references backfill_private.sources (target),
  component text not null check (component ~ '^[a-z][a-z0-9_]{0,30}$'),
  position integer not null check (position > 0),
  table_name text not null,
  session_column text not null,
  key_columns text[] not null,
  version_column text,
  version text,
  version_parameter text,
  any_version_counts boolean not null default false,
  matches jsonb not null default '{}',
  function_signature text not null,
  arguments jsonb not null,
  helpers text[] not null default '{}',
  needs_first text[] not null default '{}',
  score_ranges jsonb not null default '{}' check (
    -- {column: [lowest, highest]}, two numbers each, in their order
    jsonb_typeof(score_ranges) = 'object'
    and not jsonb_path_exists(score_ranges, 'strict $.* ? (!(@.type() == "array"
      && @.size() == 2 && @[0].type() == "number" && @[1].type() == "number" && @[0] <= @[1]))')),
  transport text not null default 'rpc' check (transport in ('rpc', 'edge')),
  function_version text check (function_version <> ''),
  receipts text not null default 'exact' check (receipts in ('exact', 'inferred')),
  check (version_column is null or version is not null),
  check ((version is null) = (version_parameter is null)),
  check (transport = 'edge' or receipts = 'exact'),
  check ((transport = 'edge') = (function_version is not null)),
  primary key (target, component),
  unique (target, position)
);

comment on table public.backfill_targets is
  'What a component is: the table that holds its rows, the version that is wanted, the function that writes it.';
comment on column public.backfill_targets.target is
  'Name of the target.';
comment on column public.backfill_targets.component is
  'Name of the derived thing that a session may lack.';
comment on column public.backfill_targets.position is
  'Order of the scoring steps of one session, from 1.';
comment on column public.backfill_targets.table_name is
  'The table that holds the component''s rows.';
comment on column public.backfill_targets.session_column is
  'Its column that names the session.';
comment on column public.backfill_targets.key_columns is
  'The columns of the key that a scoring call writes by.';
comment on column public.backfill_targets.version_column is
  'Its column that holds the version. Null: its rows have none, and any row counts.';
comment on column public.backfill_targets.version is
  'The version wanted if the request names none. Null: the function takes none either.';
comment on column public.backfill_targets.version_parameter is
  'Name of the request''s parameter that names the version. Components with one call may share it.';
comment on column public.backfill_targets.any_version_counts is
  'True: a row of any version counts as present. False: only a row of the wanted version does.';
comment on column public.backfill_targets.matches is
  'Further columns that make a row the component''s: column name to request parameter.';
comment on column public.backfill_targets.function_signature is
  'The scoring function, with the types of its arguments. For an Edge Function, its name.';
comment on column public.backfill_targets.arguments is
  'Arguments of the scoring function: name to request parameter.';
comment on column public.backfill_targets.helpers is
  'Signatures of the functions that the scoring function calls. Their definitions go into the digest.';
comment on column public.backfill_targets.needs_first is
  'Components whose rows of the same plan must be there before this one''s is written.';
comment on column public.backfill_targets.score_ranges is
  'Columns that hold scores, with the lowest and highest value: {column: [lowest, highest]}. '
  'A number, or all numbers in an array or JSON.';
comment on column public.backfill_targets.transport is
  'How the function is called: rpc, or edge for an Edge Function.';
comment on column public.backfill_targets.function_version is
  'Which version of an Edge Function is deployed, as declared: its definition is not in the database. '
  'Goes into the digest.';
comment on column public.backfill_targets.receipts is
  'exact: the function hands our headers on, so each row leaves a receipt as it is written. '
  'inferred: receipts are worked out from the rows before and after.';

-- What has to be true of a target's tables, and whether it is: see backfill_private.preconditions.
--
-- kind    key, date, session (a component's column for it), column (of a filter or a need) or value (a version, a kind)
-- place   of the component. 0 is the source
-- detail  what is there. Null: nothing to tell while it is well
-- fault   what is wrong. Null: nothing
-- cure    what to do about it
create type backfill_private.precondition as (
  kind text,
  place integer,
  name text,
  detail text,
  fault text,
  cure text
);

-- from sql/20_target/conditions.sql
-- Conditions: how values are compared, and when a row of a component's table counts. Each condition is made once, in
-- the columns' own types. The views, the core, the marks and the undo all use what is made here.
--
-- Every function here that reads or writes a value as text pins the settings that such a text depends on. They look
-- single rows of the catalogs up, which takes less time than planning to, so a session plans each once.

-- The type of a column's values. A domain is looked through, and a length left away: a cast to varchar(3) would cut a
-- value, and the cut value might be another one. Null if there is no such column.
create function backfill_private.value_type(p_table text, p_column text)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_type oid := (
    select a.atttypid
    from pg_attribute as a
    where a.attrelid = to_regclass(p_table)
      and a.attname = p_column
      and not a.attisdropped
  );
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type as t where t.oid = v_type and t.typtype = 'd';
    exit when not found;
    v_type := v_base;
  end loop;
  return v_type;
end
$$;

-- An operator of a type's usual order, that of `distinct` and of a unique index. A type of an extension has it in a
-- schema that is not on our path. Null if two values cannot be compared.
--
-- p_place  1 <, 2 <=, 3 =, 4 >=, 5 >
create function backfill_private.comparison(p_type oid, p_place integer)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_operator oid := (
    -- Most types have an order of their own.
    select o.amopopr
    from pg_opclass as c
    join pg_amop as o
      on o.amopfamily = c.opcfamily
      and o.amoplefttype = p_type
      and o.amoprighttype = p_type
      and o.amopstrategy = p_place
    where c.opcintype = p_type
      and c.opcdefault
      and c.opcmethod = (select m.oid from pg_am as m where m.amname = 'btree')
  );
begin
  return coalesce(v_operator, (
    -- The others have that of the type that they are cast to, or of their kind.
    select o.amopopr
    from pg_opclass as c
    join pg_am as m
      on m.oid = c.opcmethod
      and m.amname = 'btree'
    join pg_amop as o
      on o.amopfamily = c.opcfamily
      and o.amoplefttype = c.opcintype
      and o.amoprighttype = c.opcintype
      and o.amopstrategy = p_place
    join pg_type as t on t.oid = p_type
    left join pg_cast as k
      on k.castsource = p_type
      and k.casttarget = c.opcintype
      and k.castmethod = 'b'
      and k.castcontext = 'i'
    join pg_type as i on i.oid = c.opcintype
    where c.opcdefault
      and (k.oid is not null
        or i.typname = case t.typtype
          when 'e' then 'anyenum'
          when 'r' then 'anyrange'
          when 'm' then 'anymultirange'
          when 'c' then 'record'
          else case when t.typsubscript = 'array_subscript_handler'::regproc then 'anyarray' end
        end)
    order by k.oid is null, i.typispreferred desc
    limit 1));
end
$$;

-- The equality of a type, as above.
create function backfill_private.equality(p_type oid)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select backfill_private.comparison(p_type, 3));
end
$$;

-- The same as SQL writes it between two values.
create function backfill_private.equals(p_type oid)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select backfill_private.compares(p_type, 3));
end
$$;

create function backfill_private.compares(p_type oid, p_place integer)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  -- The usual types need no look into the catalogs.
  if p_place = 3
    and p_type in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'integer'::regtype, 'bigint'::regtype)
  then
    return '=';
  end if;
  return (
    select case
      when n.nspname = 'pg_catalog' then o.oprname::text
      else format('operator(%I.%s)', n.nspname, o.oprname)
    end
    from pg_operator as o
    join pg_namespace as n on n.oid = o.oprnamespace
    where o.oid = backfill_private.comparison(p_type, p_place));
end
$$;

-- A value of a type in the one spelling that its type gives it, under any settings of the session.
--
-- raises  the error of the type's input if it is no value of the type
create function backfill_private.spelled(p_type oid, p_text text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_spelled text;
begin
  if p_type is null or p_type in ('text'::regtype, 'varchar'::regtype) then
    return p_text;
  end if;
  execute format('select %L::%s::text', p_text, format_type(p_type, -1)) into v_spelled;
  return v_spelled;
end
$$;

-- Why a column cannot be compared with these values. Null if it can.
create function backfill_private.value_fault(p_table text, p_column text, p_values text[])
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := backfill_private.value_type(p_table, p_column);
  v_value text;
begin
  if v_type is null then
    return format('%s has no column %s', p_table, quote_ident(p_column));
  elsif backfill_private.equality(v_type) is null then
    return format('%s of %s is %s, and two values of that type cannot be compared',
      quote_ident(p_column), p_table, format_type(v_type, -1));
  end if;
  foreach v_value in array p_values loop
    perform backfill_private.spelled(v_type, v_value);
  end loop;
  return null;
exception when others then  -- a type's input may raise anything
  return format('%s of %s is %s, and %s is no such value%s',
    quote_ident(p_column),
    p_table,
    format_type(v_type, -1),
    case when length(v_value) > 40 then left(v_value, 40) || '…' else v_value end,
    backfill_private.may_stand(v_type));
end
$$;

-- What a session's key is: uuid, number or text. Columns of one kind are compared alike by every part, and each value
-- has one spelling. Null for anything else, also for a text that equals another one (a nondeterministic collation).
create function backfill_private.key_kind(p_table text, p_column text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select case
      when t.type = 'uuid'::regtype then 'uuid'
      when t.type in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype) then 'number'
      when t.type in ('text'::regtype, 'varchar'::regtype) and coalesce(l.collisdeterministic, true) then 'text'
    end
    from (select backfill_private.value_type(p_table, p_column) as type) as t
    left join pg_attribute as a
      on a.attrelid = to_regclass(p_table)
      and a.attname = p_column
    left join pg_collation as l on l.oid = a.attcollation);
end
$$;

-- The moment that a date of the source means, as SQL. A column without a time zone is read as UTC, whatever the
-- session's zone is.
--
-- p_value  SQL: the column, or its greatest value
create function backfill_private.moment(p_table text, p_column text, p_value text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select case
      when t.type = 'timestamp'::regtype then format('(%s at time zone ''UTC'')', p_value)
      when t.type = 'date'::regtype then format(
        -- A date may be later than any moment.
        '(case when %1$s >= ''294277-01-01'' and isfinite(%1$s) then ''294276-12-31 23:59:59.999999'''
        ' else %1$s::timestamp end at time zone ''UTC'')',
        p_value)
      else p_value
    end
    from (select backfill_private.value_type(p_table, p_column) as type) as t);
end
$$;

-- How a date of the source is read, in words. Null if it has a time zone of its own.
create function backfill_private.date_words(p_table text, p_column text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case t.type
    when 'timestamp'::regtype then p_column || ' has no time zone and is read as UTC'
    when 'date'::regtype then p_column || ' is a date and is read as the start of its UTC day'
  end
  from (select backfill_private.value_type(p_table, p_column) as type) as t
$$;

-- The value of a parameter as SQL, of a type: a literal if there is a request, else what holds when the view is read.
create function backfill_private.value_sql(p_target text, p_name text, p_type oid, p_request jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select case
      when p_request is not null then quote_nullable(backfill_private.spelled(p_type, p_request ->> p_name))
      -- In a subquery of its own, so that it is read once.
      when p_type in ('text'::regtype, 'varchar'::regtype)
      then format('(select backfill_private.parameter(%L, %L))', p_target, p_name)
      else format('(select backfill_private.spelled(%L::regtype, backfill_private.parameter(%L, %L))::%s)',
        p_type::regtype, p_target, p_name, format_type(p_type, -1))
    end);
end
$$;

-- The conditions on version and kind under which a row of a component's table counts.
--
-- p_alias    of the table
-- p_request  whose versions are wanted. Null: those that hold when a view is read
-- p_wanted   true: rows of the wanted version. False: any row that counts as present
create function backfill_private.kind_conditions(
  p_target public.backfill_targets, p_alias text, p_request jsonb, p_wanted boolean
)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select array(
      select format('%s.%I %s %s',
        p_alias,
        c.name,
        coalesce(backfill_private.equals(t.type), '='),
        backfill_private.value_sql(p_target.target, c.parameter, t.type, p_request))
      from (
        select 0 as place, p_target.version_column as name, p_target.version_parameter as parameter
        where p_target.version_column is not null and (p_wanted or not p_target.any_version_counts)
        union all
        select 1, m.key, m.value
        from jsonb_each_text(p_target.matches) as m
      ) as c
      cross join lateral (select backfill_private.value_type(p_target.table_name, c.name) as type) as t
      order by c.place, c.name));
end
$$;

-- Do two values of a type mean the same? Both as text.
create function backfill_private.is_same(p_type oid, p_one text, p_other text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
as $$
declare
  v_is_same boolean;
begin
  if p_type in ('text'::regtype, 'varchar'::regtype) then
    return p_one = p_other;
  end if;
  execute format('select %L::%s %s %L::%2$s',
    p_one, format_type(p_type, -1), backfill_private.equals(p_type), p_other)
  into v_is_same;
  return v_is_same;
end
$$;

-- A planned session's key, item.session_id, as SQL of the type that the source's key has. Of the derived column's type
-- it might be cut or out of range.
create function backfill_private.session_key(p_target text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select 'item.session_id::' || coalesce(
      format_type(backfill_private.value_type(s.source_table, s.key_column), -1),
      'text')
    from backfill_private.sources as s
    where s.target = p_target);
end
$$;

-- The condition under which a row t of a component's table belongs to the session item.session_id and counts.
--
-- p_wanted  see backfill_private.kind_conditions
-- returns   SQL text over the aliases t and item, with every name quoted and every value a literal
create function backfill_private.row_condition(
  p_target public.backfill_targets, p_request jsonb, p_wanted boolean
)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select array_to_string(
      format('t.%I = %s', p_target.session_column, backfill_private.session_key(p_target.target))
        || backfill_private.kind_conditions(p_target, 't', p_request, p_wanted),
      ' and '));
end
$$;

-- from sql/20_target/coverage.sql
-- Coverage: what is missing by day, of any target.

-- The view that shows a target's coverage, the target's components in order, the first and the last day meant, the
-- date's column, how people call its rows, why a component may not be wanted: {component: reason}, and what somebody
-- should know: [sentence].
--
-- raises  OB010 not allowed, OB013 no such target, no date, or the first day is after the last
create function backfill_private.coverage_of(
  p_target text, p_since text, p_until text,
  out view_name text, out components text[], out first_day date, out last_day date, out date_column text,
  out called text[], out not_wanted jsonb, out notes jsonb
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  first_day := (backfill_private.since_bound('since', p_since) at time zone 'UTC')::date;
  last_day := ((backfill_private.until_bound('until', p_until) - interval '1 microsecond') at time zone 'UTC')::date;
  if last_day < first_day then
    perform backfill_private.refuse('OB013',
      format('since %s is after until %s', p_since, p_until),
      format('backfill missing … --until …, with a day from %s on', first_day));
  end if;
  select
    s.views[cardinality(s.views)],
    array(
      select t.component
      from public.backfill_targets as t
      where t.target = s.target
      order by t.position),
    s.date_column,
    s.called,
    backfill_private.not_wanted_reasons(s.target),
    (select coalesce(jsonb_agg(u.detail), '[]') from backfill_private.unmatched_values(s.target) as u)
  into view_name, components, date_column, called, not_wanted, notes
  from backfill_private.sources as s
  where s.target = backfill_private.check_target(p_target);
end
$$;

-- from sql/20_target/filters.sql
-- Filters: which rows of a source are its sessions. A filter is what `where` of a declaration says about one column:
--   {column, values: [text]}        one of the values
--   {column, is_null: boolean}
--   {column, op, values: [text]}    op: not, <, <=, > or >=. Only `not` has several values
--   {column, op, other: column}     another column of the row. op: also =
--   {any: [[filter, …], …]}         all filters of one of the lists
--
-- `not` means every other row, also one without a value: (… = …) is not true.

-- The filters of a declaration that are about one column, also those inside of `any`.
create function backfill_private.column_filters(p_filters jsonb)
returns table (place bigint, filter jsonb)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select row_number() over (), f
  from jsonb_path_query(p_filters, 'strict $.** ? (exists (@.column))') as f
$$;

-- What may stand as a value of a type: the end of a sentence.
create function backfill_private.may_stand(p_type oid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when exists (select from pg_enum as e where e.enumtypid = p_type)
    then (
      select '. There are: ' || string_agg(e.enumlabel, ', ' order by e.enumsortorder)
      from pg_enum as e
      where e.enumtypid = p_type
    )
    else '. There may stand ' || case
      when p_type in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype) then 'a whole number'
      when p_type in ('numeric'::regtype, 'real'::regtype, 'double precision'::regtype) then 'a number'
      when p_type = 'boolean'::regtype then 'true or false'
      when p_type = 'date'::regtype then 'a day such as 2025-08-01'
      when p_type in ('timestamp'::regtype, 'timestamptz'::regtype) then 'a moment such as 2025-08-01T12:00:00Z'
      when p_type = 'uuid'::regtype then 'a uuid'
    end
  end
$$;

-- As what two columns of a row are compared: the SQL of their common form, with %s for a column. Null if they cannot
-- be.
--
-- A number is compared with any number, a date with any date or moment.
create function backfill_private.common_form(p_table text, p_column text, p_other text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with kinds as (
    select
      t.type,
      n.name,
      case
        when t.type in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype) then 'numeric'
        when t.type in ('real'::regtype, 'double precision'::regtype) then 'float'
        when t.type in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) then 'moment'
        when t.type in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) then 'text'
      end as kind
    from unnest(array[p_column, p_other]) as n (name)
    cross join lateral (select backfill_private.value_type(p_table, n.name) as type) as t
  )
  select case
    when min(k.type) = max(k.type)
    then case
      when backfill_private.comparison(min(k.type), 3) is not null
        and not exists (select from pg_type as t where t.oid = min(k.type) and t.typcategory = 'A')
      then '%s'
    end
    when count(k.kind) = 2 and min(k.kind) = max(k.kind) and min(k.kind) <> 'moment' then '%s::' || max(k.kind)
    when min(k.kind) = 'float' and max(k.kind) = 'numeric' then '%s::float'
    when min(k.kind) = 'moment' and max(k.kind) = 'moment' and count(k.kind) = 2 then 'moment'
  end
  from kinds as k
$$;

-- One filter about one column, as SQL.
--
-- p_prefix  of the columns: an alias with its dot, or nothing
create function backfill_private.column_condition(p_table text, p_filter jsonb, p_prefix text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := backfill_private.value_type(p_table, p_filter ->> 'column');
  v_column text := p_prefix || quote_ident(p_filter ->> 'column');
  v_op text := coalesce(p_filter ->> 'op', '=');
  v_place integer := coalesce(array_position(array['<', '<=', '=', '>=', '>'], v_op), 3);
  v_form text;
  v_condition text;
begin
  if p_filter ? 'is_null' then
    return v_column || case when (p_filter ->> 'is_null')::boolean then ' is null' else ' is not null' end;
  elsif p_filter ? 'other' then
    v_form := backfill_private.common_form(p_table, p_filter ->> 'column', p_filter ->> 'other');
    v_condition := case v_form
      when '%s' then format('%s %s %s', v_column, backfill_private.compares(v_type, v_place),
        p_prefix || quote_ident(p_filter ->> 'other'))
      when 'moment' then format('%s %s %s',
        backfill_private.moment(p_table, p_filter ->> 'column', v_column),
        (array['<', '<=', '=', '>=', '>'])[v_place],
        backfill_private.moment(p_table, p_filter ->> 'other', p_prefix || quote_ident(p_filter ->> 'other')))
      else format(format('%s %%s %s', v_form, v_form),
        v_column, (array['<', '<=', '=', '>=', '>'])[v_place], p_prefix || quote_ident(p_filter ->> 'other'))
    end;
  elsif jsonb_array_length(p_filter -> 'values') = 1 then
    v_condition := format('%s %s %L',
      v_column,
      backfill_private.compares(v_type, v_place),
      backfill_private.spelled(v_type, p_filter -> 'values' ->> 0));
  else
    v_condition := format('%s %s any (array[%s]::%s[])',
      v_column,
      backfill_private.compares(v_type, v_place),
      (
        select string_agg(quote_literal(backfill_private.spelled(v_type, v)), ', ')
        from jsonb_array_elements_text(p_filter -> 'values') as v
      ),
      format_type(v_type, -1));
  end if;
  return case v_op when 'not' then format('(%s) is not true', v_condition) else v_condition end;
end
$$;

-- One filter as SQL.
create function backfill_private.filter_sql(p_table text, p_filter jsonb, p_prefix text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not p_filter ? 'any' then
    return backfill_private.column_condition(p_table, p_filter, p_prefix);
  end if;
  return (
    select '(' || string_agg(all_of.condition, ' or ' order by all_of.place) || ')'
    from (
      select
        c.place,
        '(' || string_agg(backfill_private.filter_sql(p_table, f.filter, p_prefix), ' and ' order by f.place) || ')'
          as condition
      from jsonb_array_elements(p_filter -> 'any') with ordinality as c (choice, place)
      cross join lateral jsonb_array_elements(c.choice) with ordinality as f (filter, place)
      group by c.place
    ) as all_of);
end
$$;

-- One filter in words.
create function backfill_private.filter_words(p_filter jsonb)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_filter ? 'any' then
    return (
      select string_agg('(' || all_of.words || ')', ' or ' order by all_of.place)
      from (
        select c.place, string_agg(backfill_private.filter_words(f.filter), ', ' order by f.place) as words
        from jsonb_array_elements(p_filter -> 'any') with ordinality as c (choice, place)
        cross join lateral jsonb_array_elements(c.choice) with ordinality as f (filter, place)
        group by c.place
      ) as all_of);
  elsif p_filter ? 'is_null' then
    return format('%s %s',
      p_filter ->> 'column', case when (p_filter ->> 'is_null')::boolean then 'null' else 'not null' end);
  end if;
  return concat_ws(' ',
    p_filter ->> 'column',
    case coalesce(p_filter ->> 'op', '=')
      when 'not' then 'not'
      when '>' then 'over'
      when '>=' then 'at least'
      when '<' then 'under'
      when '<=' then 'at most'
    end,
    case when p_filter ? 'other' and coalesce(p_filter ->> 'op', '=') in ('=', 'not') then 'the same as' end,
    coalesce(
      p_filter ->> 'other',
      (select string_agg(v, ' or ') from jsonb_array_elements_text(p_filter -> 'values') as v)));
end
$$;

-- Is a filter one that an index of ours has as its condition? Only a value, a list of values or null: those an index
-- compares as the view does, under any settings.
create function backfill_private.is_plain(p_filter jsonb)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select p_filter ? 'column' and not p_filter ?| array['op', 'other']
$$;

-- The conditions under which a row of a target's source is selected, in words and as SQL.
--
-- p_prefix  see backfill_private.column_condition
-- is_plain  see above
create function backfill_private.filter_conditions(p_target text, p_prefix text)
returns table (words text, condition text, is_plain boolean)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    backfill_private.filter_words(f.filter),
    backfill_private.filter_sql(o.source_table, f.filter, p_prefix),
    backfill_private.is_plain(f.filter)
  from backfill_private.sources as o
  cross join lateral jsonb_array_elements(o.filters) with ordinality as f (filter, place)
  where o.target = p_target
  order by f.place
$$;

-- Why a filter about one column cannot be: what the column is, and what may stand there. Null if it can.
create function backfill_private.filter_fault(p_table text, p_filter jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text := p_filter ->> 'column';
  v_other text := p_filter ->> 'other';
  v_type oid := backfill_private.value_type(p_table, v_column);
  v_other_type oid := backfill_private.value_type(p_table, v_other);
begin
  if v_type is null or v_other is not null and v_other_type is null then
    return format('%s has no column %s', p_table, quote_ident(case when v_type is null then v_column else v_other end));
  elsif p_filter ? 'is_null' then
    return null;
  elsif exists (select from pg_type as t where t.oid = v_type and t.typcategory = 'A') then
    return format(
      '%s of %s is %s, which holds several values. There may stand { is = "null" } or { is = "not null" }',
      quote_ident(v_column), p_table, format_type(v_type, -1));
  elsif backfill_private.comparison(v_type, 3) is null then
    return format(
      '%s of %s is %s, and two values of that type cannot be compared. There may stand { is = "null" } or '
      '{ is = "not null" }',
      quote_ident(v_column), p_table, format_type(v_type, -1));
  elsif v_other is null then
    return backfill_private.value_fault(p_table, v_column, array(
      select jsonb_array_elements_text(p_filter -> 'values')));
  elsif backfill_private.common_form(p_table, v_column, v_other) is null then
    return format('%s of %s is %s and %s is %s: two columns of these types cannot be compared',
      quote_ident(v_column), p_table, format_type(v_type, -1), quote_ident(v_other), format_type(v_other_type, -1));
  end if;
  return null;
end
$$;

-- Values of filters that no row of the source has, though it has rows: a word in another case, or misspelt. Then
-- nothing is ever missing, and nobody hears of it.
--
-- p_held   the target's preconditions, if the caller has looked at them
-- details  a sentence for each. It names the nearest value that a row has only if that is nearly the same word: what
--          else the rows hold is nobody's business here
create function backfill_private.unmatched_values(
  p_target text, p_held backfill_private.precondition[] default null
)
returns table (column_name text, detail text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
declare
  v_source backfill_private.sources;
  v_value record;
  v_is_met boolean;
  v_rows bigint;
  v_nearest text;
begin
  if not backfill_private.source_is_well(
    coalesce(p_held, array(select p from backfill_private.preconditions(p_target) as p)))
  then
    return;  -- told elsewhere
  end if;
  select * into strict v_source from backfill_private.sources as s where s.target = p_target;
  for v_value in
    select f.filter ->> 'column' as name, v.value, t.type
    from backfill_private.column_filters(v_source.filters) as f
    cross join lateral jsonb_array_elements_text(f.filter -> 'values') with ordinality as v (value, place)
    cross join lateral (select backfill_private.value_type(v_source.source_table, f.filter ->> 'column') as type) as t
    where coalesce(f.filter ->> 'op', '=') in ('=', 'not')
      and backfill_private.filter_fault(v_source.source_table, f.filter) is null
    order by f.place, v.place
  loop
    execute format('select exists (select from %s as s where s.%I %s %L)',
      v_source.source_table::regclass,
      v_value.name,
      backfill_private.equals(v_value.type),
      backfill_private.spelled(v_value.type, v_value.value))
    into v_is_met;
    continue when v_is_met;
    execute format('select count(*) from (select from %s limit 100000) as s', v_source.source_table::regclass)
    into v_rows;
    continue when v_rows = 0;
    execute format(
      'select k.text
       from (select distinct s.%1$I::text as text from (select %1$I from %2$s limit 10000) as s) as k
       where length(k.text) <= 40 and backfill_private.farness($1, k.text) <= 0.5
       order by backfill_private.farness($1, k.text), k.text
       limit 1',
      v_value.name, v_source.source_table::regclass)
    into v_nearest using v_value.value;
    column_name := v_value.name;
    detail := format('none of the %s of %s has %s %s%s',
      case when v_rows = 100000 then 'many rows' else backfill_private.counted(v_rows, 'row') end,
      backfill_private.bare_name(v_source.source_table),
      v_value.name,
      left(v_value.value, 40),
      '; the nearest is ' || v_nearest);
    return next;
  end loop;
end
$$;

-- The marks on values that no row has, of a check and of a plan.
create function backfill_private.unmatched_marks(
  p_target text, p_held backfill_private.precondition[] default null
)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    'where ' || u.column_name,
    'warn',
    u.detail,
    'correct the declaration, then: backfill install --target FILE')
  from backfill_private.unmatched_values(p_target, p_held) as u
$$;

-- from sql/20_target/guards.sql
-- Guards: the triggers on a target's tables. They come with its declaration and go with it.

-- The statements that put our triggers on a relation of a component, always enabled.
--
-- The condition is short on purpose: PostgreSQL reads it anew from the catalog's text for every statement. For one or
-- two rows that costs more than all the rest of the trigger. The name of the row trigger puts it before the user's,
-- which PostgreSQL runs by name: if one of these writes the row again, that receipt comes after the first.
--
-- p_is_partition  of the component's table: its row trigger comes from the table's, so it needs only the guard
create function backfill_private.guard_sql(p_relation regclass, p_target text, p_component text, p_is_partition boolean)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_is_partition then ''
    else format(
$sql$create or replace trigger "000_backfill_receipt" after insert or update or delete on %1$s for each row
  when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-%%')
  execute function backfill_private.keep_receipt(%2$L, %3$L%4$s);
$sql$, p_relation, p_target, p_component, (
      select case when count(*) > 1 then ', ''shared''' else '' end
      from backfill_private.in_table_of(p_target, p_component)))
  end || format(
$sql$create or replace trigger backfill_no_truncate before truncate on %1$s for each statement
  when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-%%')
  execute function backfill_private.refuse_truncate();
alter table %1$s enable always trigger "000_backfill_receipt", enable always trigger backfill_no_truncate;
$sql$, p_relation)
$$;

-- Put our triggers on the tables of a target, and the guard against truncate on their partitions: a truncate of one
-- partition runs no trigger of its parents. A partition made later lacks the guard. Then a run holds at its next claim,
-- and check says the SQL.
create function backfill_private.guard(p_target text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation record;
begin
  for v_relation in
    select
      t.component,
      coalesce(part.relid, to_regclass(t.table_name)) as oid,
      coalesce(part.level, 0) > 0 as is_partition
    from public.backfill_targets as t
    left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
    where t.target = p_target
      and backfill_private.leads_table(t)
    order by t.position, part.level nulls first
  loop
    execute backfill_private.guard_sql(v_relation.oid, p_target, v_relation.component, v_relation.is_partition);
  end loop;
end
$$;

-- Take away what an earlier declaration of a target put there: our triggers on its tables, and its views.
create function backfill_private.withdraw(p_target text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_trigger record;
  v_view text;
begin
  for v_view in
    select v
    from backfill_private.sources as s
    cross join unnest(s.views) with ordinality as named (v, place)
    where s.target = p_target
    order by place desc
  loop
    execute format('drop view if exists %s', v_view);
  end loop;
  for v_trigger in
    select distinct g.tgname, g.tgrelid::regclass as relation
    from public.backfill_targets as t
    left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
    join pg_trigger as g
      on g.tgrelid = coalesce(part.relid, to_regclass(t.table_name))
      and g.tgparentid = 0
    join pg_proc as p
      on p.oid = g.tgfoid
      and p.pronamespace = 'backfill_private'::regnamespace
    where t.target = p_target
  loop
    execute format('drop trigger %I on %s', v_trigger.tgname, v_trigger.relation);
  end loop;
end
$$;

-- The SQL that puts back the receipt triggers missing on a component's table and its partitions. Null: none is missing.
create function backfill_private.trigger_cure(p_target public.backfill_targets)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    backfill_private.guard_sql(
      to_regclass(u.name),
      p_target.target,
      p_target.component,
      to_regclass(u.name) <> to_regclass(p_target.table_name)),
    '' order by u.place)
  from backfill_private.unguarded(p_target.table_name) with ordinality as u (name, place)
$$;

-- from sql/20_target/keys.sql
-- Keys: does a key name one row, always? Asked when a target is declared, checked, planned, claimed and read.

-- A statement about an index of a table that does not block writers, if the table is not partitioned: PostgreSQL has
-- none then. It is put together here, since a tool that finds such a statement in a file may refuse to run the file in
-- a transaction.
create function backfill_private.beside_writers(p_table text, p_command text, p_rest text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(' ',
    p_command,
    case
      when not exists (select from pg_class as c where c.oid = to_regclass(p_table) and c.relkind = 'p')
      then 'concurrently'
    end,
    p_rest) || ';'
$$;

-- Why a relation cannot hold the rows of a source or of a component. Null if it can.
create function backfill_private.table_fault(p_table text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  if to_regclass(p_table) is null then
    return 'it does not exist';
  end if;
  return (
    select case c.relkind
        when 'r' then (
          select format('%s inherits from it, and an index of a table does not cover its children',
            string_agg(i.inhrelid::regclass::text, ', ' order by i.inhrelid::regclass::text))
          from pg_inherits as i
          where i.inhparent = c.oid
          having count(*) > 0
        )
        when 'p' then null
        when 'v' then 'it is a view, and rows are written into a table. Only a source may be a view'
        when 'm' then 'it is a materialized view, which a refresh writes anew. Only a source may be one'
        when 'f' then 'it is a foreign table, and no index here covers its rows'
      end
    from pg_class as c
    where c.oid = to_regclass(p_table));
end
$$;

-- Why a relation cannot hold the rows of a source. Null if it can. A view can: its rows themselves say whether its key
-- names one, see below. A materialized view has none to read before it is filled.
create function backfill_private.source_fault(p_table text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case
      when not backfill_private.is_view(p_table) then backfill_private.table_fault(p_table)
      when not (select c.relispopulated from pg_class as c where c.oid = to_regclass(p_table))
      then 'it was never filled. Refresh it first'
      else backfill_private.view_owner_fault(p_table)
    end);
end
$$;

-- Why a view cannot be read with the owner's rights: it, or a view that it reads, belongs to a role of the API, which
-- could put code of its own in it. Null if none does.
create function backfill_private.view_owner_fault(p_view text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive reads as (
    select to_regclass(p_view)::oid as oid
    union
    select d.refobjid
    from reads as r
    join pg_rewrite as w on w.ev_class = r.oid
    join pg_depend as d
      on d.classid = 'pg_rewrite'::regclass
      and d.objid = w.oid
      and d.refclassid = 'pg_class'::regclass
    join pg_class as b on b.oid = d.refobjid and b.relkind in ('v', 'm')
  )
  select format('%1$s belongs to %2$s, a role of the API, whose code an owner does not run. Let %3$I own it',
    c.oid::regclass, c.relowner::regrole, current_user)
  from reads as r
  join pg_class as c on c.oid = r.oid
  where exists (
    select from pg_roles as a
    where a.rolname in ('anon', 'authenticated', 'service_role', 'authenticator')
      and not a.rolsuper
      and pg_has_role(a.oid, c.relowner, 'member')
      and not pg_has_role(a.oid, current_user, 'member'))
  order by c.oid
  limit 1
$$;

create function backfill_private.is_view(p_table text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select exists (select from pg_class as c where c.oid = to_regclass(p_table) and c.relkind in ('v', 'm')));
end
$$;

-- Why a column is no key of a view's rows. Null if it is: each has a value of its own. A view has no index that would
-- promise it, so all rows are read, unless a materialized view has one. What keeps the view from being read is told,
-- too: the functions that it calls run with our path, under which a name without a schema is not found.
create function backfill_private.view_key_fault(p_view text, p_column text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := backfill_private.value_type(p_view, p_column);
  v_is_null boolean;
  v_is_twice boolean;
begin
  if v_type is null or backfill_private.source_fault(p_view) is not null then
    return null;  -- told elsewhere
  end if;
  execute format('select exists (select from %s as s where s.%I is null)', to_regclass(p_view), p_column)
  into v_is_null;
  if v_is_null then
    return 'a row of the view has none';
  elsif backfill_private.unique_fault(p_view, array[p_column]) is null then
    return null;
  end if;
  execute format(
    'select exists (select from %s as s group by s.%I having count(*) > 1)', to_regclass(p_view), p_column)
  into v_is_twice;
  return case when v_is_twice then 'several rows of the view have the same' end;
exception when syntax_error_or_access_rule_violation then
  return format('reading the view ends with: %s. A function that it calls needs a search_path of its own, or a right',
    sqlerrm);
end
$$;

-- Why no unique index makes columns the key of a table. Null if one does: whole, valid, checked at once, on no
-- expression, with the equality that conditions use.
create function backfill_private.unique_fault(p_table text, p_columns text[])
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan  -- asked at each claim: planning takes longer than looking
as $$
declare
  v_has_one boolean;
  v_why text;
begin
  select
    bool_or(u.why is null),
    string_agg(format('%s %s', u.name, u.why), ', ' order by u.name)
  into v_has_one, v_why
  from (
    select
      (select n.relname from pg_class as n where n.oid = x.indexrelid) as name,
      case
        when not (x.indisvalid and x.indisready) then 'is not valid'
        when x.indexprs is not null then 'is on an expression'
        when not k.columns <@ p_columns then 'is on ' || array_to_string(k.columns, ', ')
        when x.indpred is not null
          then 'covers only rows where ' || btrim(pg_get_expr(x.indpred, x.indrelid), '()')
        when not x.indimmediate then 'is deferrable, so two rows may share a key until the end of a transaction'
        when not k.is_equality then 'compares otherwise than = does'
      end as why
    from pg_index as x
    cross join lateral (
      select
        array_agg(a.attname::text order by i.place) as columns,
        bool_and(
          -- The usual order of the column's own type needs no closer look.
          (c.opcdefault and c.opcintype = a.atttypid and m.amname = 'btree'
            or exists (
              select from pg_amop as o
              where o.amopfamily = c.opcfamily
                and o.amoplefttype = c.opcintype
                and o.amoprighttype = c.opcintype
                and o.amopstrategy = 3
                and m.amname = 'btree'
                and o.amopopr = (
                  select backfill_private.equality(backfill_private.value_type(p_table, a.attname)))))
          and (i.indcollation = a.attcollation or l.collisdeterministic is not false)) as is_equality
      from unnest(x.indkey::smallint[], x.indclass::oid[], x.indcollation::oid[])
        with ordinality as i (attnum, opclass, indcollation, place)
      join pg_attribute as a
        on a.attrelid = x.indrelid
        and a.attnum = i.attnum
      join pg_opclass as c on c.oid = i.opclass
      join pg_am as m on m.oid = c.opcmethod
      left join pg_collation as l on l.oid = a.attcollation
      where i.place <= x.indnkeyatts
    ) as k
    where x.indrelid = to_regclass(p_table)
      and x.indisunique
      and (k.columns && p_columns or x.indexprs is not null)
  ) as u;
  return case when v_has_one is not true then 'no unique index covers it' || coalesce(', ' || v_why, '') end;
end
$$;

-- The keys of a target, the source's at place 0, each with what keeps it from naming one row.
--
-- p_is_read  if the source is a view, read all its rows. Not at each claim: the plan has seen to that
-- fault  null if nothing does
-- cure   what to do about it
create function backfill_private.key_standings(p_target text, p_is_read boolean default true)
returns table (place integer, table_name text, key_columns text[], fault text, cure text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
  -- Materialized, so that each is looked at once.
  with looked_at as materialized (
    select
      named.*,
      case when named.place = 0 then backfill_private.source_fault(named.name)
        else backfill_private.table_fault(named.name) end as table_fault,
      case when kind.is_view and p_is_read
        then backfill_private.view_key_fault(named.name, named.columns[1]) end as view_fault,
      case when not kind.is_view
        then backfill_private.unique_fault(named.name, named.columns) end as unique_fault,
      case when not kind.is_view then (
        select a.attname::text
        from pg_attribute as a
        where a.attrelid = to_regclass(named.name)
          and a.attname = any (named.columns)
          -- No session equals null, so such a row of a component belongs to none.
          and a.attname is distinct from named.session_column
          and not a.attnotnull
        order by a.attnum
        limit 1
      ) end as null_column
    from (
      select 0 as place, s.source_table as name, array[s.key_column] as columns, null as session_column
      from backfill_private.sources as s
      where s.target = p_target
      union all
      select t.position, t.table_name, t.key_columns, t.session_column
      from public.backfill_targets as t
      where t.target = p_target
    ) as named
    cross join lateral (
      select named.place = 0 and backfill_private.is_view(named.name) as is_view
    ) as kind
  )
  select
    k.place,
    k.name,
    k.columns,
    coalesce(k.table_fault, k.view_fault, k.unique_fault, k.null_column || ' may be null'),
    case
      when k.view_fault is not null then 'correct the view, or declare another column.'
      when k.table_fault is not null then 'declare another table, then: backfill install --target FILE.'
      when k.unique_fault is not null
      then backfill_private.beside_writers(k.name, 'create unique index', format('on %s (%s)', to_regclass(k.name), (
        select string_agg(quote_ident(c), ', ')
        from unnest(k.columns) as c)))
      when k.null_column is not null
      then format('alter table %s alter column %I set not null;', to_regclass(k.name), k.null_column)
    end
  from looked_at as k
  order by k.place;
end
$$;

-- What keeps a key of a target from naming one row, in words. Null if each names one.
--
-- p_is_read  as above
create function backfill_private.key_fault(p_target text, p_is_read boolean default true)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select format('%s is no key of %s: %s', array_to_string(k.key_columns, ', '), k.table_name, k.fault)
    from backfill_private.key_standings(p_target, p_is_read) as k
    where k.fault is not null
    order by k.place
    limit 1);
end
$$;

-- True while each key of a target names one row. The view that detects asks it once per query: a session of two rows
-- would be counted twice, by us and by anyone who reads the view. A query that serves a planned request does not read a
-- view as the source for that: the plan has.
--
-- raises  OB013 a key does not
create function backfill_private.keys_hold(p_target text)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fault text := backfill_private.key_fault(
    p_target, coalesce(current_setting('backfill.request', true), '') = '');
begin
  if v_fault is not null then
    perform backfill_private.refuse('OB013', v_fault, 'backfill check');
  end if;
  return true;
end
$$;

-- from sql/20_target/preconditions.sql
-- Preconditions: what has to be true of a target's tables before anything is detected or written. A declaration, a plan
-- and a check ask the same function.

-- The columns of a target that are compared with a session's key: a component's, or a need's.
create function backfill_private.session_columns(p_target text)
returns table (kind text, place integer, table_name text, column_name text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select 'session', t.position, t.table_name, t.session_column
  from public.backfill_targets as t
  where t.target = p_target
  union all
  select 'column', 1000 + n.place::integer, n.need ->> 'table', n.need ->> 'column'
  from backfill_private.sources as s
  cross join lateral jsonb_array_elements(s.needs) with ordinality as n (need, place)
  where s.target = p_target
$$;

-- The columns of a target's components that are compared with values: versions and kinds.
--
-- p_request  whose versions and kinds are wanted. Null: those of the declaration
create function backfill_private.value_columns(p_target text, p_request jsonb)
returns table (kind text, place integer, table_name text, column_name text, given text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select 'value', t.position, t.table_name, c.name, array_remove(array[c.given], null)
  from public.backfill_targets as t
  join backfill_private.sources as s on s.target = t.target
  cross join lateral (
    select t.version_column as name, coalesce(p_request ->> t.version_parameter, t.version) as given
    where t.version_column is not null
    union all
    select m.key, coalesce(p_request ->> m.value, s.defaults ->> m.value)
    from jsonb_each_text(t.matches) as m
  ) as c
  where t.target = p_target
$$;

-- Why no row of a component can have a version or a kind as it is given. Null if one can. The column's type may have no
-- such value, and its length or its precision may change it: then each call would write a row that does not count.
create function backfill_private.held_fault(p_table text, p_column text, p_values text[])
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fault text := backfill_private.value_fault(p_table, p_column, p_values);
  v_type oid := backfill_private.value_type(p_table, p_column);
  v_holds text := backfill_private.column_type(p_table, p_column);
  v_value text;
  v_is_held boolean;
begin
  if v_fault is not null or v_holds = format_type(v_type, -1) then
    return v_fault;
  end if;
  foreach v_value in array p_values loop
    v_value := backfill_private.spelled(v_type, v_value);
    begin
      execute format('select %1$L::%2$s::%3$s %4$s %1$L::%3$s',
        v_value, v_holds, format_type(v_type, -1), backfill_private.equals(v_type))
      into v_is_held;
    exception when data_exception then
      v_is_held := false;  -- such as a number that is too large
    end;
    if not v_is_held then
      return format('%s of %s is %s, which does not hold %s as it is',
        quote_ident(p_column),
        p_table,
        v_holds,
        case when length(v_value) > 40 then left(v_value, 40) || '…' else v_value end);
    end if;
  end loop;
  return null;
end
$$;

-- May a column hold null? False if there is no such column.
create function backfill_private.may_be_null(p_table text, p_column text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select exists (
      select from pg_attribute as a
      where a.attrelid = to_regclass(p_table)
        and a.attname = p_column
        and not a.attnotnull
        and not a.attisdropped));
end
$$;

-- Preconditions on the columns that are compared with a session's key, and on that key: see preconditions().
create function backfill_private.session_preconditions(p_target text)
returns setof backfill_private.precondition
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with source as (
    select
      s.source_table as name,
      s.key_column as key,
      backfill_private.key_kind(s.source_table, s.key_column) as kind,
      backfill_private.column_type(s.source_table, s.key_column) as type
    from backfill_private.sources as s
    where s.target = p_target
  )
  select
    'session',
    0,
    'session of ' || s.name,
    null,
    format('the key %s of %s is %s, but a key is uuid, a whole number or text, and a text that equals no other',
      quote_ident(s.key), s.name, s.type),
    'declare another column that is unique'
  from source as s
  where s.kind is null and s.type is not null
  union all
  select
    c.kind,
    c.place,
    case c.kind
      when 'session' then 'session of ' || c.table_name
      else format('column %s.%s', c.table_name, c.column_name)
    end,
    case c.kind
      when 'session' then format('%s is %s, %s.%s is %s', c.column_name, t.type, s.name, s.key, s.type)
      else t.type
    end,
    case
      when to_regclass(c.table_name) is null then c.table_name || ' does not exist'
      when t.type is null then format('%s has no column %s', c.table_name, quote_ident(c.column_name))
      when t.kind is distinct from s.kind
      then format('%s of %s is %s, but the key %s of %s is %s',
        quote_ident(c.column_name), c.table_name, t.type, quote_ident(s.key), s.name, s.type)
    end,
    case
      when t.type is null
      then format('give %s back its name, or correct the declaration, then: backfill install --target FILE',
        c.table_name)
      else format('alter table %s alter column %I type %s using %2$I::%3$s;',
        to_regclass(c.table_name), c.column_name, s.type)
    end
  from backfill_private.session_columns(p_target) as c
  cross join source as s
  cross join lateral (
    select
      backfill_private.column_type(c.table_name, c.column_name) as type,
      backfill_private.key_kind(c.table_name, c.column_name) as kind
  ) as t
  where s.kind is not null
$$;

-- What has to be true of a target's tables, and whether it is.
create function backfill_private.preconditions(p_target text)
returns setof backfill_private.precondition
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select * from backfill_private.session_preconditions(p_target)
  union all
  select
    'date',
    0,
    'dates of ' || s.source_table,
    coalesce(
      backfill_private.date_words(s.source_table, s.date_column),
      format('%s is %s', s.date_column, t.type))
      || case
           when backfill_private.may_be_null(s.source_table, s.date_column)
           then '; it may be null, and no plan takes a row without it'
           else ''
         end,
    case
      when t.value not in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
      then format('%s is %s: no time', quote_ident(s.date_column), t.type)
    end,
    'declare a column that is a timestamptz, a timestamp or a date, then: backfill install --target FILE'
  from backfill_private.sources as s
  cross join lateral (
    select
      backfill_private.column_type(s.source_table, s.date_column) as type,
      backfill_private.value_type(s.source_table, s.date_column) as value
  ) as t
  where s.target = p_target and t.type is not null
  union all
  select
    'column',
    f.place::integer,
    format('column %s.%s', s.source_table, f.filter ->> 'column'),
    backfill_private.column_type(s.source_table, f.filter ->> 'column'),
    backfill_private.filter_fault(s.source_table, f.filter),
    'correct the declaration, then: backfill install --target FILE'
  from backfill_private.sources as s
  cross join lateral backfill_private.column_filters(s.filters) as f
  where s.target = p_target
  union all
  select
    v.kind,
    v.place,
    'values of ' || format('%s.%s', v.table_name, v.column_name),
    null,
    backfill_private.held_fault(v.table_name, v.column_name, v.given),
    'correct the declaration, then: backfill install --target FILE'
  from backfill_private.value_columns(p_target, null) as v
  union all
  select
    'key',
    k.place,
    'key of ' || k.table_name,
    array_to_string(k.key_columns, ', ') || ' is unique',
    array_to_string(k.key_columns, ', ') || ': ' || k.fault,
    k.cure
  from backfill_private.key_standings(p_target) as k
$$;

-- Can the rows of a target's source be read, and compared as the declaration says? Whoever looks into them asks first.
--
-- p_held  all preconditions of the target
create function backfill_private.source_is_well(p_held backfill_private.precondition[])
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select from unnest(p_held) as p
    where p.fault is not null
      and (p.kind <> 'key' or p.place = 0)
  )
$$;

-- Refuse a target whose tables do not meet what has to be true of them.
--
-- p_request  also its versions and kinds have to be values of their columns. Null: those of the declaration
-- raises     OB013 the first fault, with the table and the columns
create function backfill_private.refuse_faults(p_target text, p_request jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fault record;
begin
  select
    case p.kind when 'key' then backfill_private.key_fault(p_target) else p.fault end as fault,
    p.cure || case p.kind when 'key' then ' Or declare columns that name one row' else '' end as cure
  into v_fault
  from backfill_private.preconditions(p_target) as p
  where p.fault is not null
  order by p.kind = 'key', p.place
  limit 1;
  if found then
    perform backfill_private.refuse('OB013', v_fault.fault, v_fault.cure);
  end if;
  select backfill_private.held_fault(v.table_name, v.column_name, v.given) as fault into v_fault
  from backfill_private.value_columns(p_target, p_request) as v
  where backfill_private.held_fault(v.table_name, v.column_name, v.given) is not null
  limit 1;
  if found then
    perform backfill_private.refuse('OB013', v_fault.fault, 'give one of its values');
  end if;
  select backfill_private.mixed_fault(p_target, p_request) as fault into v_fault;
  if v_fault.fault is not null then
    perform backfill_private.refuse('OB013', v_fault.fault, 'give their parameters different values');
  end if;
end
$$;

-- Every column that a target's rows name, with the statement that corrects the name. The source has place 0.
create function backfill_private.wanted_columns(p_target text)
returns table (place integer, table_name text, column_name text, correct text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    0,
    s.source_table,
    c.name,
    format('update backfill_private.sources set %I = ''…'' where target = %L;', c.field, s.target)
  from backfill_private.sources as s
  cross join lateral (values (s.key_column, 'key_column'), (s.date_column, 'date_column')) as c (name, field)
  where s.target = p_target
  union all
  select
    t.position,
    t.table_name,
    c.name,
    format('update public.backfill_targets set %I = ''…'' where target = %L and component = %L;',
      c.field, t.target, t.component)
  from public.backfill_targets as t
  cross join lateral (
    select t.session_column, 'session_column'
    union all select t.version_column, 'version_column' where t.version_column is not null
    union all select k, 'key_columns' from unnest(t.key_columns) as k
    union all select m, 'matches' from jsonb_object_keys(t.matches) as m
    union all select r, 'score_ranges' from jsonb_object_keys(t.score_ranges) as r
  ) as c (name, field)
  where t.target = p_target
$$;

-- A table of a target, or a column that it names there, that is not there any more, in words. Null if all stand. The
-- source has its view, which a new name does not break.
create function backfill_private.gone(p_target text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan  -- asked at each claim
set enable_hashjoin = off  -- nor are all columns of the database read then
set enable_mergejoin = off
as $$
begin
  return (
    select
      case
        when to_regclass(w.table_name) is null then w.table_name || ' does not exist'
        else format('%s has no column %s', w.table_name, quote_ident(w.column_name))
      end
    from backfill_private.wanted_columns(p_target) as w
    where w.place > 0
      and not exists (
        select from pg_attribute as a
        where a.attrelid = to_regclass(w.table_name)
          and a.attname = w.column_name
          and a.attnum > 0
          and not a.attisdropped)
    order by w.place
    limit 1);
end
$$;

-- from sql/20_target/row_keys.sql
-- Row keys: a row of a component's table by the key that a receipt has, and its version as a text.

-- A column's value in a receipt's key, in the column's type, as SQL. Null if there is no such column.
--
-- p_key       SQL: the key, {column: value}
-- p_old_name  what the key calls the column
create function backfill_private.key_value(p_table text, p_column text, p_key text, p_old_name text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    -- What JSON holds as more than a text.
    when t.oid = 'jsonb'::regtype then format('(%s -> %L)', p_key, p_old_name)
    when t.typcategory in ('A', 'C')
    then format('(jsonb_populate_record(null::%s, jsonb_build_object(%L, %s -> %L))).%I',
      to_regclass(p_table), p_column, p_key, p_old_name, p_column)
    else format('(%s ->> %L)::%s', p_key, p_old_name, format_type(t.oid, -1))
  end
  from pg_type as t
  where t.oid = backfill_private.value_type(p_table, p_column)
$$;

-- The condition under which t, a row of a table, is the row that a receipt's key names.
--
-- p_key    SQL: the key, {column: value}
-- p_names  what the table calls these columns now. Null for one that is gone: then no row is meant
create function backfill_private.key_condition(
  p_table text, p_columns text[], p_key text, p_names text[] default null
)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select string_agg(
      coalesce(
        format('t.%I %s ', c.name, backfill_private.equals(backfill_private.value_type(p_table, c.name)))
          || backfill_private.key_value(p_table, c.name, p_key, c.old_name),
        'false'),
      ' and ' order by c.old_name)
    from unnest(p_columns, coalesce(p_names, p_columns)) as c (old_name, name));
end
$$;

-- The version of a row t of a component, as a text, as SQL. Empty if it has none.
create function backfill_private.version_text(p_target public.backfill_targets)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_target.version_column is null then ''''''
    else format('coalesce(t.%I::text, '''')', p_target.version_column)
  end
$$;

-- Are two texts one version of a component, whose column may spell it in several ways?
create function backfill_private.is_one_version(p_target public.backfill_targets, p_one text, p_other text)
returns boolean
language plpgsql
stable
strict
set search_path = pg_catalog, pg_temp
as $$
begin
  return p_one = p_other or backfill_private.is_same(
    backfill_private.value_type(p_target.table_name, p_target.version_column), p_one, p_other);
exception when others then  -- a type's input may raise anything, and what it refuses is no other spelling
  return false;
end
$$;

-- from sql/20_target/shared_tables.sql
-- Shared tables: several components of a target in one table, told apart by columns that they match to parameters.

-- The components of a target in the table of one of them, itself among them, in their order.
create function backfill_private.in_table_of(p_target text, p_component text)
returns setof public.backfill_targets
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select t.*
  from public.backfill_targets as t
  join public.backfill_targets as mine
    on mine.target = t.target
    and mine.table_name = t.table_name
  where mine.target = p_target
    and mine.component = p_component
  order by t.position
$$;

-- Is a component the first of those in its table? What is said of a table is said once.
create function backfill_private.leads_table(p_target public.backfill_targets)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select from public.backfill_targets as t
    where t.target = p_target.target
      and t.table_name = p_target.table_name
      and t.position < p_target.position)
$$;

-- What a criterion about a component's rows is called after: its table, and itself if it shares that table.
create function backfill_private.rows_name(p_target public.backfill_targets)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.bare_name(p_target.table_name)
    || case when count(*) > 1 then '_' || p_target.component else '' end
  from backfill_private.in_table_of(p_target.target, p_target.component)
$$;

-- The condition under which a row of a component's table is of no other component, as SQL. A row that has nobody's
-- values is of the first.
--
-- p_alias  of the table
create function backfill_private.own_rows_sql(p_target public.backfill_targets, p_alias text, p_request jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when backfill_private.leads_table(p_target)
    then coalesce(string_agg(format('(%s) is not true', k.condition), ' and ')
      filter (where k.component <> p_target.component), 'true')
    else string_agg(k.condition, ' and ') filter (where k.component = p_target.component)
  end
  from (
    select t.component, string_agg(
      format('%s.%I %s %s',
        p_alias,
        m.key,
        coalesce(backfill_private.equals(c.type), '='),
        backfill_private.value_sql(t.target, m.value, c.type, p_request)),
      ' and ' order by m.key) as condition
    from backfill_private.in_table_of(p_target.target, p_target.component) as t
    cross join lateral jsonb_each_text(t.matches) as m
    cross join lateral (select backfill_private.value_type(t.table_name, m.key) as type) as c
    group by t.component
  ) as k
$$;

-- Two components in one table that a request does not tell apart, in words. Null if there are none. A column outside of
-- the key tells nothing: a session could then have the row of one of them only.
--
-- p_request  null: what the target's parameters are by themselves
create function backfill_private.mixed_fault(p_target text, p_request jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s and %s are both in %s, and no column of their keys tells them apart',
    t.component, o.component, t.table_name)
  from public.backfill_targets as t
  join public.backfill_targets as o
    on o.target = t.target
    and o.table_name = t.table_name
    and o.position > t.position
  join backfill_private.sources as s on s.target = t.target
  where t.target = p_target
    and not exists (
      select from jsonb_each_text(t.matches) as m
      join jsonb_each_text(o.matches) as n on n.key = m.key
      where m.key = any (t.key_columns)
        and m.key = any (o.key_columns)
        and backfill_private.is_same(
          backfill_private.value_type(t.table_name, m.key),
          coalesce(p_request, s.defaults) ->> m.value,
          coalesce(p_request, s.defaults) ->> n.value) is false)
  order by t.position, o.position
  limit 1
$$;

-- from sql/20_target/standing.sql
-- Standing: the view on which all detection of a target stands, put together from its rows. No other view of a target
-- and no function has conditions of its own.

-- The view of a target with every selected session: what it lacks of the wanted versions, and why it cannot be scored.
create function backfill_private.standing_view(p_target text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('backfill_private.%I', p_target || '_standing')
$$;

-- A component's rows, joined to the sessions s as SQL: those that count as present.
create function backfill_private.present_join(p_target public.backfill_targets)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    -- Several rows of a session may count. A plain join would then return the session several times.
    when p_target.any_version_counts and p_target.version_column = any (p_target.key_columns)
    then format(
      e'left join (\n  select distinct r.%1$I\n  from %2$s as r%3$s\n) as c%4$s\n  on c%4$s.%1$I = s.%5$I',
      p_target.session_column,
      p_target.table_name,
      e'\n  where ' || nullif(array_to_string(
        backfill_private.kind_conditions(p_target, 'r', null, false), e'\n    and '), ''),
      p_target.position,
      s.key_column)
    else format(
      e'left join %s as c%s\n  on %s',
      p_target.table_name,
      p_target.position,
      array_to_string(
        format('c%s.%I = s.%I', p_target.position, p_target.session_column, s.key_column)
          || backfill_private.kind_conditions(p_target, 'c' || p_target.position, null, false),
        e'\n  and '))
  end
  from backfill_private.sources as s
  where s.target = p_target.target
$$;

-- Whether a session has fewer rows of a need than scoring reads, as SQL.
--
-- p_key  SQL: the session's key
create function backfill_private.lacks_sql(p_target text, p_need jsonb, p_key text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$(
        select true
        from %1$s as n
        where n.%2$I = %3$s
        offset greatest((select backfill_private.parameter(%4$L, %5$L))::bigint - 1, 0)
        limit 1
      ) is null and (select backfill_private.parameter(%4$L, %5$L))::bigint > 0$sql$,
    p_need ->> 'table',
    p_need ->> 'column',
    p_key,
    p_target,
    p_need ->> 'parameter')
$$;

-- Too few rows of a need, in words.
create function backfill_private.too_few(p_name text, p_least text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case p_least when '1' then 'no ' || p_name else format('fewer than %s %s', p_least, p_name) end
$$;

-- The needs of a component, in their order. Null: those that every session has.
create function backfill_private.needs_of(p_target text, p_component text)
returns table (place bigint, need jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select n.place, n.need
  from backfill_private.sources as s
  cross join lateral jsonb_array_elements(s.needs) with ordinality as n (need, place)
  where s.target = p_target
    and n.need ->> 'component' is not distinct from p_component
$$;

-- The components of a target that need something, with the column of its view that says why one is not wanted.
create function backfill_private.conditional_components(p_target text)
returns table ("position" integer, component text, not_wanted text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select t.position, t.component, 'not_wanted_' || t.component
  from public.backfill_targets as t
  where t.target = p_target
    and exists (select from backfill_private.needs_of(t.target, t.component))
$$;

-- The reasons for which a component may not be wanted now, in words: {component: reason}.
create function backfill_private.not_wanted_reasons(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_object_agg(c.component, (
    select string_agg(
      backfill_private.too_few(
        n.need ->> 'name', backfill_private.parameter(p_target, n.need ->> 'parameter')),
      ', or ' order by n.place)
    from backfill_private.needs_of(p_target, c.component) as n)), '{}')
  from backfill_private.conditional_components(p_target) as c
$$;

-- Why a component is not wanted of a session, as SQL: the first of its needs of which the session has too few rows.
-- Null for a component that is there, which keeps the counting to the others. No SQL if the component needs nothing.
create function backfill_private.not_wanted_sql(p_target public.backfill_targets, p_key text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(e'case\n      when not c%s.%I is null then null%s\n    end',
    p_target.position,
    p_target.session_column,
    string_agg(
      format(
        e'\n      when %s\n      then backfill_private.too_few(%L, (select backfill_private.parameter(%L, %L)))',
        backfill_private.lacks_sql(p_target.target, n.need, p_key),
        n.need ->> 'name',
        p_target.target,
        n.need ->> 'parameter'),
      '' order by n.place))
  from backfill_private.needs_of(p_target.target, p_target.component) as n
  having count(*) > 0
$$;

-- Why a session cannot be scored, as SQL: the first need of the source of which it has too few rows, or that none of
-- its components is wanted. Null for one that lacks nothing, which keeps the counting to the others.
create function backfill_private.excluded_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case when needed.cases is null then 'null::text' else format(e'case\n    when not (%s) then null%s\n  end',
    (
      select string_agg('s.absent_' || t.position, ' or ' order by t.position)
      from public.backfill_targets as t
      where t.target = p_target
    ),
    needed.cases) end
  from (
    select string_agg(c.branch, '' order by c.place) as cases
    from (
      select n.place, format(
        $sql$
    when %1$s
    then format(
      %2$L,
      (select count(*) from %3$s as n where n.%4$I = s.id),
      (select backfill_private.parameter(%5$L, %6$L)))$sql$,
        backfill_private.lacks_sql(p_target, n.need, 's.id'),
        format('%%s %s, at least %%s needed', replace(n.need ->> 'name', '%', '%%')),
        n.need ->> 'table',
        n.need ->> 'column',
        p_target,
        n.need ->> 'parameter') as branch
      from backfill_private.needs_of(p_target, null) as n
      union all
      select null, format(
        e'\n    when %s\n    then concat_ws(''; '', %s)',
        string_agg(format('not s.%I is null', c.not_wanted), ' and ' order by c.position),
        string_agg(format('s.%I', c.not_wanted), ', ' order by c.position))
      from backfill_private.conditional_components(p_target) as c
      having count(*) = (select count(*) from public.backfill_targets as t where t.target = p_target)
    ) as c
  ) as needed
$$;

-- The statement that creates the view of a target. Run it under our path, so that each operator is ours.
--
-- A session lacks a component if it has no row of it and the component is wanted of it.
create function backfill_private.standing_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$create view %s with (security_invoker = true) as
select
  s.id,
  s.created_at,
  %s as is_incomplete,
  %s,
  %s as excluded
from (
  select
    s.%I as id,
    %s::timestamptz as created_at,
    %s
  from %s as s
  %s
  where %s
) as s$sql$,
    backfill_private.standing_view(s.target),
    string_agg('s.absent_' || t.position, ' or ' order by t.position),
    string_agg(
      format('s.absent_%s%s as %I%s',
        t.position,
        ' and s.' || quote_ident(c.not_wanted) || ' is null',
        'missing_' || t.component,
        e',\n  s.' || quote_ident(c.not_wanted)),
      e',\n  ' order by t.position),
    backfill_private.excluded_sql(s.target),
    s.key_column,
    backfill_private.moment(s.source_table, s.date_column, format('s.%I', s.date_column)),
    string_agg(
      format('c%1$s.%2$I is null as absent_%1$s%3$s',
        t.position,
        t.session_column,
        e',\n    ' || backfill_private.not_wanted_sql(t, format('s.%I', s.key_column))
          || ' as ' || quote_ident(c.not_wanted)),
      e',\n    ' order by t.position),
    s.source_table,
    string_agg(backfill_private.present_join(t), e'\n  ' order by t.position),
    array_to_string(
      array(select f.condition from backfill_private.filter_conditions(s.target, 's.') as f)
        || format('(select backfill_private.keys_hold(%L))', s.target),
      e'\n    and '))
  from backfill_private.sources as s
  join public.backfill_targets as t on t.target = s.target
  left join backfill_private.conditional_components(s.target) as c on c.component = t.component
  where s.target = p_target
  group by s.target
$$;

-- from sql/20_target/targets.sql
-- Targets: their parameters, functions and conditions, as their rows say.

-- A parameter: the planned request's own if it has one, else the target's default.
create function backfill_private.parameter(p_target text, p_name text)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(
    nullif(current_setting('backfill.request', true), '')::jsonb ->> p_name,
    (
      -- Components with one call may share it.
      select min(t.version)
      from public.backfill_targets as t
      where t.target = p_target and t.version_parameter = p_name
    ),
    (select s.defaults ->> p_name from backfill_private.sources as s where s.target = p_target)
  );
end
$$;

-- The view of a target that planning reads: one row per source row that lacks something.
create function backfill_private.gaps_view(p_target text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('backfill_private.%I', p_target || '_gaps')
$$;

-- The scoring functions of a target: how people name them, and where the database has them.
create function backfill_private.scoring_functions(p_target text)
returns table (component text, "position" integer, transport text, signature text, name text, oid oid)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  return query
  select
    t.component,
    t.position,
    t.transport,
    t.function_signature,
    coalesce(p.proname::text, case t.transport
      when 'rpc' then regexp_replace(split_part(t.function_signature, '(', 1), '^.*\.', '')
      else t.function_signature
    end),
    p.oid
  from public.backfill_targets as t
  -- In a case: before PostgreSQL 16 to_regprocedure() raises an error for an Edge Function's bare name.
  left join pg_proc as p
    on p.oid = case t.transport when 'rpc' then to_regprocedure(t.function_signature) end
  where t.target = p_target;
end
$$;

-- The scoring calls of a target under a request. Components whose calls would be the same share one: it is made once
-- and fills them all.
--
-- call  the first component of those that share a call with this one, itself if none comes before it
create function backfill_private.calls_of(p_target text, p_request jsonb)
returns table (component text, "position" integer, call text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  return query
  select
    t.component,
    t.position,
    first_value(t.component) over (
      partition by t.transport, coalesce(f.oid::text, t.function_signature), a.given
      order by t.position)
  from public.backfill_targets as t
  join backfill_private.scoring_functions(p_target) as f on f.component = t.component
  cross join lateral (
    -- A list stands for the session's key, which is no value of a request.
    select jsonb_object_agg(a.key, case when a.value = 'session_id' then '[]' else p_request -> a.value end) as given
    from jsonb_each_text(t.arguments) as a
  ) as a
  where t.target = p_target;
end
$$;

-- The name of a type. Of a domain, that of the type below: a cast to a domain would run its checks, which are the
-- user's code.
create function backfill_private.base_type(p_type oid, p_typmod integer)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    with recursive below as (
      select t.oid, p_typmod as typmod, t.typtype, t.typbasetype, t.typtypmod
      from pg_type as t
      where t.oid = p_type
      union all
      select t.oid, b.typtypmod, t.typtype, t.typbasetype, t.typtypmod
      from below as b
      join pg_type as t on t.oid = b.typbasetype
      where b.typtype = 'd'
    )
    select format_type(b.oid, b.typmod) from below as b where b.typtype <> 'd');
end
$$;

-- The SQL type of a column, for casts that still let an index serve.
create function backfill_private.column_type(p_table text, p_column text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select backfill_private.base_type(a.atttypid, a.atttypmod)
    from pg_attribute as a
    where a.attrelid = to_regclass(p_table)
      and a.attname = p_column
      and not a.attisdropped);
end
$$;

-- What to do while no target is installed. The names are those of the targets that the package brings.
create function backfill_private.first_target()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'backfill target new, or backfill install --target prism (prism-edge if its scorers are Edge Functions)'
$$;

-- The target meant: the one named, or the only one installed.
--
-- raises  OB013 unknown, none is installed, or none is named and there are several
create function backfill_private.check_target(p_name text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_known text[] := (select array_agg(distinct target order by target) from public.backfill_targets);
begin
  if p_name = any (v_known) then
    return p_name;
  elsif p_name is null and cardinality(v_known) = 1 then
    return v_known[1];
  elsif v_known is null then
    perform backfill_private.refuse('OB013', 'no target is installed', backfill_private.first_target());
  end if;
  perform backfill_private.refuse('OB013',
    case
      when p_name is null then 'several targets are installed'
      else format('no target is named %s', left(p_name, 80))
    end,
    format('backfill plan … --target …, one of: %s', array_to_string(v_known, ', ')));
  return null;
end
$$;

-- The parameters of a target, which a request may set: those with a default, and the versions of its components.
create function backfill_private.parameter_names(p_target text)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select jsonb_object_keys(s.defaults) from backfill_private.sources as s where s.target = p_target
    union
    select t.version_parameter
    from public.backfill_targets as t
    where t.target = p_target and t.version_parameter is not null)
$$;

-- The index that makes detection fast, by the name that the declaration gives it. Is it there, valid, and over the
-- selected sessions by date? No row if none is declared or the source is gone.
--
-- standing  its qualified name, null if it is not there
-- fault     what is wrong with it, null if nothing is
create function backfill_private.detection_index(p_target text)
returns table (standing text, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    case when x.indexrelid is not null then format('%I.%I', n.nspname, s.index_name) end,
    case
      when x.indexrelid is null then 'not there'
      when not x.indisvalid then 'not valid, its creation was cut off'
      when x.indrelid <> c.oid
        or a.attname is distinct from s.date_column
        or (x.indpred is null) <> not exists (
          select from jsonb_array_elements(s.filters) as f where backfill_private.is_plain(f)
        )
        or exists (
          select from jsonb_array_elements(s.filters) as f
          where backfill_private.is_plain(f)
            and strpos(coalesce(pg_get_expr(x.indpred, x.indrelid), ''), f ->> 'column') = 0
        )
        then 'not the one that is meant'
    end
  from backfill_private.sources as s
  join pg_class as c on c.oid = to_regclass(s.source_table)
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_index as x on x.indexrelid = to_regclass(format('%I.%I', n.nspname, s.index_name))
  left join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
  where s.target = p_target
    and s.index_name is not null
    and c.relkind in ('r', 'p')  -- a view has none
$$;

-- The last part of a qualified name, unquoted.
create function backfill_private.bare_name(p_name text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select (parse_ident(p_name))[cardinality(parse_ident(p_name))]
$$;

-- The relations of a target table on which a receipt trigger is missing, is not ours or is not always enabled: the
-- table itself, and its partitions. PostgreSQL clones row triggers to a new partition, but not the guard against
-- truncate, and a truncate of one partition runs no trigger of its parents.
--
-- returns  the names, the table first. Empty if every trigger stands
create function backfill_private.unguarded(p_table text)
returns setof text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
begin
  return query
  with standing as (
    select g.tgrelid
    from pg_trigger as g
    where g.tgenabled = 'A'
      and g.tgattr::text = ''
      -- 29: after insert, update or delete, for each row; 34: before truncate.
      and (g.tgname, g.tgtype, g.tgfoid) in (
        ('000_backfill_receipt', 29, to_regprocedure('backfill_private.keep_receipt()')),
        ('backfill_no_truncate', 34, to_regprocedure('backfill_private.refuse_truncate()')))
      and strpos(
        pg_get_triggerdef(g.oid),
        $when$ WHEN ((NULLIF(current_setting('request.headers'::text, true), ''::text) ~~ '%x-backfill-%'::text)) $when$
      ) > 0
  ), relations as (
    select p_table as name, to_regclass(p_table) as oid, 0 as level
    union all
    select part.relid::text, part.relid, part.level
    from pg_partition_tree(to_regclass(p_table)) as part
    where part.level > 0
  )
  select r.name
  from relations as r
  where (select count(*) from standing as s where s.tgrelid = r.oid) < 2
  order by r.level, r.name;
end
$$;

-- The function that a signature names. Null if there is none. Before PostgreSQL 16 to_regprocedure() raises an error
-- for a text that is no signature.
create function backfill_private.function_named(p_signature text)
returns regprocedure
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return to_regprocedure(p_signature);
exception when syntax_error or invalid_text_representation or undefined_object then
  return null;  -- a text that is not a signature names no function
end
$$;

-- The SQL of a scoring call as the API would make it: arguments by name, each of the type that the function declares.
create function backfill_private.call_sql(p_signature text, p_arguments jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('select %I.%I(%s)', n.nspname, p.proname, (
    select string_agg(
      format('%I => %L::%s', a.key, a.value,
        format_type(p.proargtypes[array_position(p.proargnames, a.key) - 1], null)),
      ', ')
    from jsonb_each_text(p_arguments) as a
  ))
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
  where p.oid = to_regprocedure(p_signature)
$$;

-- Refuse what needs a run's target if that was removed.
--
-- raises  OB013
create function backfill_private.refuse_if_removed(p_target text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from backfill_private.sources as s where s.target = p_target) then
    perform backfill_private.refuse('OB013',
      format('target %s is not installed any more, so its runs can be neither verified nor undone', p_target),
      'backfill install --target FILE, apply the migration, then try again');
  end if;
end
$$;

-- The names of a function's input arguments, and of those without which no call of it is complete.
create function backfill_private.input_names(p_function oid, out names text[], out required text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    coalesce(array_agg(a.name order by a.place) filter (where a.place is not null), '{}'),
    coalesce(array_agg(a.name order by a.place) filter (where a.place <= p.pronargs - p.pronargdefaults), '{}')
  from pg_proc as p
  left join lateral (
    select x.name, row_number() over (order by x.place) as place
    from unnest(p.proargnames, p.proargmodes) with ordinality as x (name, mode, place)
    where coalesce(x.mode, 'i') in ('i', 'b', 'v')
  ) as a on true
  where p.oid = p_function
  group by p.oid
$$;

-- The functions that a call with these arguments fits, besides a function itself. The API chooses by the names of
-- arguments, never by their types, and refuses to choose between two (PGRST203).
create function backfill_private.confused_with(p_function oid, p_arguments text[])
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(other.oid::regprocedure::text, ', ' order by other.oid::regprocedure::text)
  from pg_proc as p
  join pg_proc as other
    on other.proname = p.proname
    and other.pronamespace = p.pronamespace
    and other.oid <> p.oid
    and other.prokind <> 'p'
  cross join lateral backfill_private.input_names(other.oid) as i
  where p.oid = p_function
    and p_arguments <@ i.names
    and i.required <@ p_arguments
$$;

-- from sql/30_run/_tables.sql
-- Tables of runs: one plan and all that happens to it, one row per planned session, the chain of events, the starts.

-- What the keys of our advisory locks are made with, so that nobody can guess them: see lock.sql. One row.
create table backfill_private.lock_secret (
  only_row boolean primary key default true check (only_row),
  secret text not null default gen_random_uuid() || '/' || gen_random_uuid()
);

insert into backfill_private.lock_secret default values;

-- While a run is running, what a batch changes of it stands in backfill_private.tallies: see tally.sql.
create table public.backfill_runs (
  run_id uuid primary key default gen_random_uuid(),
  state text not null default 'planning',
  reason text,
  cause text,
  held_by text,
  target text not null,
  environment text,
  request jsonb not null,
  plan jsonb,
  digest text check (digest ~ '^[0-9a-f]{64}$'),
  requested_by uuid,
  requested_via text not null,
  approved_by text,
  approved_via text,
  approved_at timestamptz,
  approved_until timestamptz,
  created_at timestamptz not null default backfill_private.clock(),
  sealed_at timestamptz,
  started_at timestamptz,
  resumed_at timestamptz,
  finished_at timestamptz,
  next_batch_at timestamptz,
  pace_per_minute integer check (pace_per_minute > 0),
  batches_granted integer not null default 0,
  settled_since integer not null default 0,
  failed_since integer not null default 0,
  failed_in_row integer not null default 0,
  troubled_batches integer not null default 0,
  trials integer not null default 0,
  back_off_until timestamptz,
  back_off_reason text,
  canary text check (canary in ('passed', 'failed', 'overridden')),
  fingerprint jsonb,
  server text,
  project_host text,
  sealed_snapshot text,
  collect_from timestamptz,
  collect_until timestamptz,
  collect_window interval,
  data_marks jsonb,
  rehearse integer,
  loose_settings text[] not null default '{}',
  audit_count bigint not null default 0,
  audit_head text not null default '',
  constraint backfill_runs_pace_approved check (
    pace_per_minute <= coalesce((request ->> 'throttle_per_minute')::integer, pace_per_minute)),
  constraint backfill_runs_state_check check (state in (
    'planning', 'awaiting_approval', 'approved', 'running', 'paused', 'completed',
    'rejected', 'cancelled', 'expired', 'rolled_back'))
);

comment on table public.backfill_runs is
  'One row per run: what was asked, what was planned, who approved it, where it stands.';
comment on column public.backfill_runs.run_id is
  'Id of the run. On the command line its first eight characters are enough if no other begins so.';
comment on column public.backfill_runs.state is
  'Where the run stands. backfill_transitions has every legal move.';
comment on column public.backfill_runs.reason is
  'Why the run is paused, rejected, cancelled or expired.';
comment on column public.backfill_runs.cause is
  'What kind of reason a pause has, as a code. backfill_run_progress says what helps.';
comment on column public.backfill_runs.held_by is
  'Who asked for the pause. Null: the database saw the reason itself.';
comment on column public.backfill_runs.target is
  'What is backfilled: a target of backfill_targets.';
comment on column public.backfill_runs.environment is
  'The environment that the plan is for, as backfill_settings had it.';
comment on column public.backfill_runs.request is
  'Every parameter of the plan, normalised.';
comment on column public.backfill_runs.plan is
  'Figures and checks as measured when the plan was sealed. The sessions are in backfill_items.';
comment on column public.backfill_runs.digest is
  'SHA-256 over the canonical plan. An approval names it.';
comment on column public.backfill_runs.requested_by is
  'Auth user who planned it. Null for the service key and the SQL editor.';
comment on column public.backfill_runs.requested_via is
  'Who asked for it: service_role, user or postgres.';
comment on column public.backfill_runs.approved_by is
  'Who approved it, by the name given or the e-mail address. Null until then.';
comment on column public.backfill_runs.approved_via is
  'How it was approved: sql, auth, service_key or standing.';
comment on column public.backfill_runs.approved_at is
  'When it was approved.';
comment on column public.backfill_runs.approved_until is
  'When the approval runs out. No session starts after that.';
comment on column public.backfill_runs.created_at is
  'When planning began.';
comment on column public.backfill_runs.sealed_at is
  'When the plan was complete and got its digest. Null while it is being made.';
comment on column public.backfill_runs.started_at is
  'When the first worker started it.';
comment on column public.backfill_runs.resumed_at is
  'When it was last started or resumed. Rates count from here.';
comment on column public.backfill_runs.finished_at is
  'When it came to an end.';
comment on column public.backfill_runs.next_batch_at is
  'No batch starts before this, so that the throttle is kept.';
comment on column public.backfill_runs.pace_per_minute is
  'Starts per minute if somebody has lowered them. Null: as approved. Never more than that.';
comment on column public.backfill_runs.batches_granted is
  'How many batches were granted so far.';
comment on column public.backfill_runs.settled_since is
  'Sessions done or failed since the run was started or resumed: what the circuit breaker counts.';
comment on column public.backfill_runs.failed_since is
  'How many of these failed.';
comment on column public.backfill_runs.failed_in_row is
  'How many of the newest of these failed in a row.';
comment on column public.backfill_runs.troubled_batches is
  'How many of the newest batches in a row brought no known outcome.';
comment on column public.backfill_runs.trials is
  'How often an error that could be every session''s proved to be one session''s since the run was started or resumed.';
comment on column public.backfill_runs.back_off_until is
  'No batch starts before this. back_off_reason says why.';
comment on column public.backfill_runs.back_off_reason is
  'The trouble after which the run waits until back_off_until.';
comment on column public.backfill_runs.canary is
  'What the look at the priority sessions said. overridden: somebody resumed after it had failed. '
  'Null: not looked yet.';
comment on column public.backfill_runs.fingerprint is
  'Definitions of the scoring functions when the plan was sealed.';
comment on column public.backfill_runs.server is
  'The server and database that the plan was sealed on. A restored or copied database is another one.';
comment on column public.backfill_runs.project_host is
  'Host of the project as the planning client saw it.';
comment on column public.backfill_runs.sealed_snapshot is
  'PostgreSQL''s snapshot at sealing: tells later rows from earlier ones.';
comment on column public.backfill_runs.collect_from is
  'While planning: how far the search has come.';
comment on column public.backfill_runs.collect_until is
  'While planning: where the search ends.';
comment on column public.backfill_runs.collect_window is
  'While planning: how long a span of dates the next look takes.';
comment on column public.backfill_runs.data_marks is
  'While planning: the marks on the data, until they are in the plan with the others.';
comment on column public.backfill_runs.rehearse is
  'How many sessions to score and roll back while planning, as asked. Null: 5, and none in production.';
comment on column public.backfill_runs.loose_settings is
  'In bulk: settings that functions of this database set by name. They are put back after each call.';
comment on column public.backfill_runs.audit_count is
  'How many audit events the run has.';
comment on column public.backfill_runs.audit_head is
  'Hash of the newest audit event.';

create table public.backfill_items (
  run_id uuid not null references public.backfill_runs (run_id),
  ordinal integer not null check (ordinal > 0),
  source text not null,
  session_id text not null,
  session_at timestamptz not null,
  components text[] not null check (cardinality(components) > 0),
  replaces jsonb not null default '{}',
  category text not null,
  phase text not null check (phase in ('priority', 'recent', 'historical')),
  batch integer not null check (batch > 0),
  state text not null default 'pending',
  attempts integer not null default 0,
  crowded_out integer not null default 0,
  unknown_outcomes integer not null default 0,
  is_alone boolean not null default false,
  not_before timestamptz,
  trial text check (trial in ('aside', 'called', 'agreed', 'resumed')),
  started_at timestamptz,
  settled_at timestamptz,
  failed_step text,
  error_code text,
  error_message text check (length(error_message) <= 500),
  filled text[] not null default '{}',
  unselected text,
  worker text,
  claim_id uuid,
  lease_kind text check (lease_kind in ('score', 'undo')),
  lease_until timestamptz,
  fence_hash bytea,
  primary key (run_id, ordinal),
  -- The session first: verify asks which runs have had it.
  unique (session_id, source, run_id),
  constraint backfill_items_state_check check (state in (
    'pending', 'leased', 'done', 'failed', 'skipped', 'rolled_back'))
);

-- The gate finds an item by its fence. A fence belongs to one item.
create unique index backfill_items_fence on public.backfill_items (fence_hash) where fence_hash is not null;

-- A session is leased once over all runs. The few live leases are found here too, to see which ran out.
create unique index backfill_items_one_lease on public.backfill_items (source, session_id) where state = 'leased';

-- Leases by the moment at which they run out. Only a leased item has one. It is not asked for its state, or the index
-- above would seem as good, in which all leases of before may still stand: see 60_apply/low_water.sql.
create index backfill_items_lease_end on public.backfill_items (lease_until) where lease_until is not null;

-- The few sessions whose error may be every session's.
create index backfill_items_trial on public.backfill_items (run_id, ordinal) where trial is not null;

-- The sessions that are called alone.
create index backfill_items_alone on public.backfill_items (run_id, ordinal) where is_alone;

-- The next batch.
create index backfill_items_pending on public.backfill_items (run_id, ordinal) where state = 'pending';

-- The few that met trouble and are tried again.
create index backfill_items_tired on public.backfill_items (run_id, ordinal)
  where state = 'pending' and (not_before is not null or trial is not null);

comment on table public.backfill_items is
  'One row per planned session: its place in the plan and what became of it.';
comment on column public.backfill_items.run_id is
  'The run.';
comment on column public.backfill_items.ordinal is
  'Place in the plan, from 1.';
comment on column public.backfill_items.source is
  'The target whose session it is.';
comment on column public.backfill_items.session_id is
  'The session, its key as text.';
comment on column public.backfill_items.session_at is
  'The session''s date, by which it is planned, undone and counted.';
comment on column public.backfill_items.components is
  'What the session lacked when the plan was sealed, in the order of the steps.';
comment on column public.backfill_items.replaces is
  'The rows that stood in the place of planned ones when the plan was sealed: {component: version}. '
  'A component that is not named gets a new row.';
comment on column public.backfill_items.category is
  'The components that it lacked, the last derived first, joined by +.';
comment on column public.backfill_items.phase is
  'priority, recent or historical.';
comment on column public.backfill_items.batch is
  'Number of its batch in the plan.';
comment on column public.backfill_items.state is
  'pending, leased, done, failed, skipped (somebody else filled it, or it is no longer selected) or rolled_back.';
comment on column public.backfill_items.attempts is
  'How often the session was leased for scoring.';
comment on column public.backfill_items.crowded_out is
  'Attempts that were rolled back because of what others did at the same time, of which the fifth is a failure, or '
  'that were asked to wait while others were not, of which the sixth is.';
comment on column public.backfill_items.unknown_outcomes is
  'Attempts that ended nobody knows how and left no row. They have a budget of their own, of eight.';
comment on column public.backfill_items.is_alone is
  'True: it was not well beside others, in bulk in one transaction with them, so a call of its own decides.';
comment on column public.backfill_items.not_before is
  'When a session that ran into trouble may be tried again.';
comment on column public.backfill_items.trial is
  'aside: its error may be every session''s, so it waits until another session was tried alone. called: it is or was '
  'that one. agreed: that one met such an error too. resumed: it met one before somebody resumed the run.';
comment on column public.backfill_items.started_at is
  'When its newest attempt was leased.';
comment on column public.backfill_items.settled_at is
  'When it came to an end. Null before.';
comment on column public.backfill_items.failed_step is
  'The component whose scoring call failed.';
comment on column public.backfill_items.error_code is
  'Why it failed. For a pending session, the trouble of its newest attempt.';
comment on column public.backfill_items.error_message is
  'What the error said, 500 characters at most, never a row''s contents.';
comment on column public.backfill_items.filled is
  'Components that somebody else had filled by the time the session was leased.';
comment on column public.backfill_items.unselected is
  'Why the target no longer selected it by the time it was to be leased. Null: it did.';
comment on column public.backfill_items.worker is
  'Who holds it now.';
comment on column public.backfill_items.claim_id is
  'The claim under which it is held.';
comment on column public.backfill_items.lease_kind is
  'What it is held for: score or undo.';
comment on column public.backfill_items.lease_until is
  'When the lease runs out if nobody renews it.';
comment on column public.backfill_items.fence_hash is
  'SHA-256 of the fence of the live attempt. The fence itself is stored nowhere.';

-- What batches have changed of a running run since its row was last written. The newest counts: see tally.sql.
create table backfill_private.tallies (
  run_id uuid not null,
  tally_id bigint generated always as identity,
  audit_count bigint not null,
  audit_head text not null,
  batches_granted integer not null,
  next_batch_at timestamptz,
  settled_since integer not null,
  failed_since integer not null,
  failed_in_row integer not null,
  primary key (run_id, tally_id)
);

-- How many sessions started when: what the throttle counts.
create table backfill_private.starts (
  run_id uuid not null references public.backfill_runs (run_id),
  started_at timestamptz not null,
  sessions integer not null,
  primary key (run_id, started_at)
);

-- What the newest look at the load said of a run: see health.sql.
create table backfill_private.health (
  run_id uuid primary key references public.backfill_runs (run_id) on delete cascade,
  looked_at timestamptz not null,
  reason text
);

-- The starts that the project's bound allows per minute, each with the moment when it was last taken: see throttle.sql.
create table backfill_private.slots (
  slot integer generated always as identity primary key,
  used_at timestamptz not null
);

create table public.backfill_events (
  run_id uuid not null references public.backfill_runs (run_id),
  seq bigint not null,
  at timestamptz not null,
  kind text not null,
  actor text not null,
  details jsonb not null,
  prev_hash text not null,
  hash text not null,
  primary key (run_id, seq)
);

-- What was granted under a claim.
create index backfill_events_claims on public.backfill_events (run_id, (details ->> 'claim'))
  where kind = 'batch_granted';

comment on table public.backfill_events is
  'What happened to a run, a hash chain: every hash covers the event and the hash before it. '
  'Ids, counts, hashes, codes, never contents.';
comment on column public.backfill_events.run_id is
  'The run.';
comment on column public.backfill_events.seq is
  'Place in the run''s chain, from 1 without gaps.';
comment on column public.backfill_events.at is
  'When it happened.';
comment on column public.backfill_events.kind is
  'What happened: a state''s name, or batch_granted, batch_settled, canary, undo_confirmed, …';
comment on column public.backfill_events.actor is
  'Who did it.';
comment on column public.backfill_events.details is
  'Ids, counts, hashes and codes, never contents.';
comment on column public.backfill_events.prev_hash is
  'Hash of the event before. Empty for the first.';
comment on column public.backfill_events.hash is
  'SHA-256 over this event and prev_hash.';

-- The columns that rows of a relation had when a receipt was written: [number, name, type, how it is generated] each,
-- in their order. stamp: the same as the catalog says it, to find the shape by. shape: SHA-256 of relation and stamp.
create table backfill_private.shapes (
  shape bytea primary key,
  relation oid not null,
  stamp text not null,
  columns jsonb not null
);

-- A relation has few shapes, and a stamp may be too long for an index.
create index backfill_shapes_relations on backfill_private.shapes (relation);

-- The batches that bulk calls have settled, until each is noted in the chain and looked at.
create table backfill_private.unnoted (
  unnoted_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  granted jsonb not null,
  trouble jsonb not null,
  settled jsonb not null,
  is_well boolean not null,
  details jsonb not null,
  is_noted boolean not null default false
);

create index backfill_unnoted_runs on backfill_private.unnoted (run_id, unnoted_id);

-- The few in which a session did not end well: no call in bulk begins before a claim has looked at them.
create index backfill_unnoted_troubled on backfill_private.unnoted (run_id) where not is_well;

-- What was written to tables that no component names while a run's first sessions were scored: see elsewhere.sql.
create table backfill_private.elsewhere (
  run_id uuid primary key references public.backfill_runs (run_id) on delete cascade,
  since timestamptz not null,
  before jsonb not null,
  seen jsonb,
  seen_at timestamptz
);

-- from sql/30_run/audit.sql
-- Audit: one hash chain per run. The run remembers its count and its head, so that a cut tail shows: in its row, and
-- between the batches of a running one in its tally.
--
-- An event is appended with the run's row locked, and never inside a scoring transaction: that would make all workers
-- wait for each other.

-- The hash of one event.
create function backfill_private.event_hash(
  p_prev_hash text, p_run_id uuid, p_seq bigint, p_at timestamptz, p_kind text, p_actor text, p_details jsonb
)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select backfill_private.sha256_hex(concat_ws(
    e'\n', p_prev_hash, p_run_id, p_seq, to_jsonb(p_at), p_kind, p_actor, p_details))
$$;

-- Append events to a run's chain, and nothing else. Only record() and note_batches() call this. However many they are,
-- the run is kept once.
--
-- p_kinds, p_details  of each event. A granted batch gets its number here
create function backfill_private.append_events(p_run_id uuid, p_kinds text[], p_details jsonb[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_at timestamptz := backfill_private.clock();
  v_actor text := (select label from backfill_private.caller());
  v_event record;
  v_hash text;
begin
  perform from public.backfill_runs where run_id = p_run_id for no key update;
  v_run := backfill_private.run_now(p_run_id);
  for v_event in
    select e.kind, e.details
    from unnest(p_kinds, p_details) with ordinality as e (kind, details, place)
    order by e.place
  loop
    v_run.audit_count := v_run.audit_count + 1;
    if v_event.kind = 'batch_granted' then
      v_run.batches_granted := v_run.batches_granted + 1;
      v_event.details := v_event.details || jsonb_build_object('number', v_run.batches_granted);
    end if;
    v_hash := backfill_private.event_hash(
      v_run.audit_head, p_run_id, v_run.audit_count, v_at, v_event.kind, v_actor, v_event.details);
    insert into public.backfill_events (run_id, seq, at, kind, actor, details, prev_hash, hash)
    values (p_run_id, v_run.audit_count, v_at, v_event.kind, v_actor, v_event.details, v_run.audit_head, v_hash);
    v_run.audit_head := v_hash;
  end loop;
  perform backfill_private.keep_run(v_run, p_kinds <@ array['batch_granted', 'batch_settled']);
end
$$;

-- Write into the chain what bulk calls have settled since, in their order. See backfill_private.unnoted.
--
-- The run's row is locked first: a caller that settles another run's expired leases locks its row, too, when it comes
-- here.
create function backfill_private.note_batches(p_run_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_noted record;
begin
  perform from public.backfill_runs where run_id = p_run_id for no key update;
  with noted as (
    update backfill_private.unnoted as u
    set is_noted = true
    where u.run_id = p_run_id and not u.is_noted
    returning u.unnoted_id, u.granted, u.details
  )
  select
    array_agg(e.kind order by n.unnoted_id, e.kind) as kinds,
    array_agg(e.details order by n.unnoted_id, e.kind) as details
  into v_noted
  from noted as n
  cross join lateral (values ('batch_granted', n.granted), ('batch_settled', n.details)) as e (kind, details);
  if v_noted.kinds is not null then
    perform backfill_private.append_events(p_run_id, v_noted.kinds, v_noted.details);
  end if;
end
$$;

-- Record an event of a run in its chain. What bulk calls have settled before it comes first.
create function backfill_private.record(p_run_id uuid, p_kind text, p_details jsonb default '{}')
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.note_batches(p_run_id);
  perform backfill_private.append_events(p_run_id, array[p_kind], array[p_details]);
end
$$;

-- A number that an event names. Null if it names none. So is what follows: a forged event may hold anything, and then
-- verify says that it is forged, and does not end in an error.
create function backfill_private.told_number(p_details jsonb, p_name text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select (jsonb_path_query_first(
    p_details -> p_name, 'strict $ ? (@.type() == "number" && @ >= 0 && @ <= 9000000000000000000)'))::bigint
$$;

-- The places in the plan that an event names.
create function backfill_private.told_ordinals(p_details jsonb)
returns integer[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select o::integer
    from jsonb_path_query(
      p_details -> 'ordinals', 'lax $[*] ? (@.type() == "number" && @ >= 0 && @ <= 2147483647)') as o)
$$;

-- What is wrong with a run's chain. No row if it is whole.
create function backfill_private.chain_faults(p_run_id uuid)
returns table (seq bigint, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with chain as (
    select
      e.*,
      lag(e.hash, 1, '') over (order by e.seq) as hash_before,
      row_number() over (order by e.seq) as place
    from public.backfill_events as e
    where e.run_id = p_run_id
  ), ends as (
    select
      count(*) as events,
      coalesce((array_agg(c.hash order by c.seq desc))[1], '') as head
    from chain as c
  )
  select c.seq, 'the event was changed'
  from chain as c
  where c.hash <> backfill_private.event_hash(c.prev_hash, c.run_id, c.seq, c.at, c.kind, c.actor, c.details)
  union all
  select c.seq, 'an event before it is gone or out of place'
  from chain as c
  where c.prev_hash <> c.hash_before or c.seq <> c.place
  union all
  select r.audit_count, 'the newest event is not the one that the run remembers'
  from backfill_private.run_now(p_run_id) as r, ends
  where (r.audit_count, r.audit_head) <> (ends.events, ends.head)
$$;

-- The critical events of a run, each with its answer if somebody has given one.
--
-- answered  {by, at, because}
create function backfill_private.critical_events(p_run_id uuid)
returns table (seq bigint, sessions jsonb, answered jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    c.seq,
    jsonb_path_query_array(c.details, 'lax $.sessions[*]'),
    (
      select jsonb_build_object('by', a.actor, 'at', a.at, 'because', a.details ->> 'because')
      from public.backfill_events as a
      where a.run_id = p_run_id
        and a.kind = 'answered'
        and a.details -> 'events' @> to_jsonb(c.seq)
      order by a.seq
      limit 1)
  from public.backfill_events as c
  where c.run_id = p_run_id and c.kind = 'critical'
$$;

-- from sql/30_run/causes.sql
-- Causes: why a run stands where it stands, and what helps. Progress, verify, refusals and the client take it from
-- here.

-- What helps, by cause. A cause is a state, or the code of a reason that backfill_private.move has noted with a pause,
-- or something that stands beside them: see backfill_private.next_step.
--
-- cause     the longest match wins: of call: the code of the error that every call would meet follows
-- is_seen   the database sees whether it still stands. Once it does not, `mended` takes its place
-- decides   a person has to look or to decide first. False: what follows helps by itself
-- says      what helps, in words. Null: the lines say it
-- lines     to copy: commands, and SQL for the SQL editor
--
-- {run}, {digest}, {want}, {environment}, {again}, {one}, {many}, {pids}, {drop}: see backfill_private.filled_in
create view backfill_private.causes with (security_invoker = true) as
select * from (values
  -- States.
  ('planning', false, false, 'Its client ended before the plan was complete.', array['backfill plan --resume {run}']),
  ('awaiting_approval', false, true, null, array['backfill approve {run} --digest {digest}']),
  ('approved', false, false, null, array['backfill apply {run}']),
  ('running', false, false, null, array['backfill status {run}']),
  ('no_worker', false, false, 'No worker holds a {one} now. If none is alive, start one.',
    array['backfill apply {run}']),
  ('completed', false, false, null, array['backfill verify {run}']),
  ('rejected', false, false, null, array['backfill plan --like {run}']),
  ('cancelled', false, false, null, array['backfill plan --like {run}']),
  ('expired', false, false, 'A new plan takes a new approval.', array['backfill plan --like {run}']),
  ('rolled_back', false, true, 'If they are to be scored again, plan them anew.', array['backfill plan --like {run}']),
  -- Beside a state.
  ('failed', false, false, 'What failed is scored again under the same approval.', array['backfill retry {run}']),
  ('failed_for_good', false, false, 'The approval ran out. What failed takes a new plan.',
    array['backfill plan --like {run}']),
  ('left_behind', false, true, 'Some rows could not be undone. Look at the reasons, then undo what is left.',
    array['backfill rollback {run}']),
  ('unanswered', false, true, 'A critical event waits for an answer: what it was, and why it is harmless.',
    array['backfill resume {run} --because "…"']),
  ('removed', false, true, 'Its target is not installed any more. Install it again, and apply the migration.',
    array['backfill install --target FILE']),
  -- Pauses.
  ('asked', false, false, null, array['backfill resume {run}']),
  ('mended', false, false, 'What paused the run does not stand in its way any more.', array['backfill resume {run}']),
  ('definition', true, false, 'A new plan takes what holds now. This run goes on only once what was approved is put '
    'back. Then {again} it.',
    array['backfill plan --like {run}{want}']),
  ('plan', false, false, 'A new plan takes what stands there now.', array['backfill plan --like {run}{want}']),
  ('environment', true, false, 'A plan for this environment takes the place of this one. If backfill_settings has the '
    'wrong environment, set it right, then {again} the run.',
    array['backfill plan --like {run} --environment {environment}']),
  ('standing', true, true, 'What allowed this run is revoked. To go on, plan it anew and have a person approve it.',
    array['backfill plan --like {run}']),
  ('server', true, false, 'The database was restored, copied or upgraded since. A new plan is for what stands here.',
    array['backfill plan --like {run}']),
  ('settings', true, true, 'Put the row back, and set again what it held: environment, policy, bounds. Then {again} '
    'the run.',
    array['insert into public.backfill_settings default values;']),
  ('view_gone', true, true, 'Create the view again as the target''s migration has it. Then {again} the run.',
    array['backfill check']),
  ('gone', true, true, 'Give it back the name that the target declares, then {again} the run. If the new name stays, '
    'install the target with it and plan anew.',
    array['backfill check', 'backfill install --target FILE', 'backfill plan --like {run}']),
  ('receipt_triggers', true, false, 'The check prints the SQL that puts the triggers back. Then {again} the run.',
    array['backfill check']),
  ('key', true, true, 'Remove the rows that share a key, or make its index again. The check names them. Then {again} '
    'the run.',
    array['backfill check']),
  ('throttle', true, true, 'Wait for the other runs, or pause one. Then {again} this one.',
    array['backfill runs --state running']),
  ('no_headers', true, true, 'Hand our headers on with supabase/functions/_shared/backfill.ts, and declare the new '
    'function_version. Or declare receipts = "inferred". Then plan anew.',
    array['backfill install --functions', 'backfill plan --like {run}']),
  ('canary', false, true, 'Look at the {many} that the reason names, and at their rows. If they are right, resume: the '
    'others go on, and these are not judged again. If not, undo them, mend the function and plan anew.',
    array['backfill show {run}', 'backfill resume {run}', 'backfill rollback {run}']),
  ('breaker', false, true, 'Look at the errors and mend what they name. Then resume. What failed so far is scored '
    'again by a retry once the run is completed.',
    array['backfill show {run}', 'backfill resume {run}']),
  ('breaker:OB017', false, true, 'The function answers and leaves no row of the wanted version. Plan for the version '
    'that it writes, or mend it and resume.',
    array['backfill show {run}', 'backfill plan --like {run}{want}', 'backfill resume {run}']),
  ('no_outcome', false, false, 'Wait until the project answers again. Then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('repeats', false, true, 'End the calls in the SQL editor. Then score inside the database, where nothing repeats '
    'them.',
    array[
      'select pg_terminate_backend(pid) from unnest(array[{pids}]) as pid;',
      'backfill plan --like {run} --mode bulk']),
  ('OB016', false, true, 'verify names the row. Look who wrote it. If it is harmless, say why when you resume.',
    array['backfill verify {run}', 'backfill resume {run} --because "…"']),
  ('OB018', false, true, 'A scoring call wrote rows that are not of its {one}. Mend the function and plan anew. If it '
    'is harmless, say why when you resume.',
    array['backfill verify {run}', 'backfill resume {run} --because "…"']),
  -- Every call would fail.
  ('call:', false, true, 'Mend what the error names. Then resume.', array['backfill check', 'backfill resume {run}']),
  ('call:25006', false, true, 'The database takes no writes: its disk may be full, or it is a replica. Then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:42501', false, false, 'The check prints the grants that are missing. For another object, grant what the error '
    'names. Then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:42883', false, true, 'Create the function that the error names. Then resume.', array['backfill resume {run}']),
  ('call:42P01', false, true, 'Create the table that the error names. Then resume.', array['backfill resume {run}']),
  ('call:PGRST106', false, true, 'Expose the schema in the API settings of the project. Then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:PGRST202', false, false, 'The API does not know the function yet. Let it read the schema again, then resume.',
    array['notify pgrst, ''reload schema'';', 'backfill resume {run}']),
  ('call:PGRST203', false, true, 'A call fits several functions. Drop the other one, or rename it. Then resume.',
    array['{drop}', 'notify pgrst, ''reload schema'';', 'backfill resume {run}']),
  ('call:PGRST205', false, false, 'The API does not know the table yet. Let it read the schema again, then resume.',
    array['notify pgrst, ''reload schema'';', 'backfill resume {run}']),
  ('call:PGRST30', false, true, 'The API refuses the key. Give the project''s secret key, then resume and apply.',
    array['backfill check', 'backfill resume {run}']),
  ('call:3', false, true, 'The API has another address. Set SUPABASE_URL to it, then resume and apply.',
    array['backfill check', 'backfill resume {run}']),
  ('call:401', false, true, 'The key is refused. Give the project''s secret key, then resume and apply.',
    array['backfill check', 'backfill resume {run}']),
  ('call:403', false, true, 'The function may not be called with this key. Mend its check, then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:404', false, true, 'The Edge Function is not deployed. Deploy it, then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:540', false, true, 'The project is paused. Restore it in the dashboard, then resume.',
    array['backfill check', 'backfill resume {run}'])
) as cause (cause, is_seen, decides, says, lines);

-- A word of a command line, in quotes if a shell would take it apart.
create function backfill_private.shell_word(p_text text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_text ~ '^[A-Za-z0-9_./:@%+=-]+$' then p_text
    else '''' || replace(p_text, '''', '''\''''') || ''''
  end
$$;

-- The versions that a run's target declares now, where the run asked for others: ` --want COMPONENT=V`, one per
-- component.
create function backfill_private.versions_now(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(string_agg(
    ' --want ' || backfill_private.shell_word(t.component || '=' || (s.defaults ->> t.version_parameter)),
    '' order by t.position), '')
  from public.backfill_targets as t
  join backfill_private.sources as s on s.target = t.target
  where t.target = p_run.target
    and s.defaults ->> t.version_parameter <> p_run.request ->> t.version_parameter
$$;

-- The functions that the calls of a target fit besides those that it names. Null: none.
create function backfill_private.also_fit(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(distinct backfill_private.confused_with(
    backfill_private.function_named(t.function_signature), array(select jsonb_object_keys(t.arguments))), ', ')
  from public.backfill_targets as t
  where t.target = p_target
$$;

-- A text of backfill_private.causes with what this run has for its names in braces. Null: it has nothing for one.
create function backfill_private.filled_in(p_run public.backfill_runs, p_text text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_called jsonb := coalesce(p_run.plan -> 'called', '["session", "sessions"]');
  v_text text := p_text;
begin
  v_text := replace(v_text, '{run}', p_run.run_id::text);
  v_text := replace(v_text, '{digest}', coalesce(p_run.digest, ''));
  v_text := replace(v_text, '{again}',
    case p_run.state when 'completed' then 'retry' when 'approved' then 'apply' else 'resume' end);
  v_text := replace(v_text, '{one}', v_called ->> 0);
  v_text := replace(v_text, '{many}', v_called ->> 1);
  -- What follows is looked up only where it is named.
  if strpos(v_text, '{want}') > 0 then
    v_text := replace(v_text, '{want}', backfill_private.versions_now(p_run));
  elsif strpos(v_text, '{environment}') > 0 then
    v_text := replace(v_text, '{environment}', backfill_private.shell_word(
      (select s.environment from public.backfill_settings as s)));
  elsif strpos(v_text, '{pids}') > 0 then
    v_text := replace(v_text, '{pids}', coalesce(substring(p_run.reason from 'in backends ([0-9, ]+):'), ''));
  elsif v_text = '{drop}' then
    v_text := 'drop function ' || backfill_private.also_fit(p_run.target) || ';';
  end if;
  return v_text;
end
$$;

-- What helps a run against a cause: its row of backfill_private.causes, in the words of this run.
--
-- returns  {cause, decides, says, lines: [text]}
create function backfill_private.helps(p_run public.backfill_runs, p_cause text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'cause', p_cause,
    'decides', c.decides,
    'says', backfill_private.filled_in(p_run, c.says),
    'lines', (
      select coalesce(jsonb_agg(f.line order by l.place), '[]')
      from unnest(c.lines) with ordinality as l (line, place)
      cross join lateral backfill_private.filled_in(p_run, l.line) as f (line)
      where f.line is not null))
  from backfill_private.causes as c
  where starts_with(p_cause, c.cause)
  order by length(c.cause) desc
  limit 1
$$;

-- What helps, for a refusal's hint: the sentence, then the lines.
--
-- p_cause  null: why the run stands where it stands
create function backfill_private.hint(p_run public.backfill_runs, p_cause text default null)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(e'\n', h ->> 'says', (
    select string_agg(l.line, e'\n' order by l.place)
    from jsonb_array_elements_text(h -> 'lines') with ordinality as l (line, place)))
  from backfill_private.helps(p_run, coalesce(
    p_cause,
    p_run.cause,
    case p_run.state when 'paused' then 'asked' else p_run.state end)) as h
$$;

-- from sql/30_run/digest.sql
-- Digest: what an approval binds. The same request on the same state gives the same digest: no run id, no moment of the
-- planning and no measurement goes in, but the risk that was made of the marks.
--
-- What was measured has a hash of its own, which stands with the approval: see backfill_private.figures_hash.

-- One function's fingerprint: definition, owner and rights. Null if the function does not exist.
create function backfill_private.function_fingerprint(p_signature text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
begin
  return (
    select backfill_private.sha256_hex(concat_ws(
      e'\n',
      pg_get_functiondef(p.oid),
      p.proowner::regrole,
      (select string_agg(acl::text, ',' order by acl::text) from unnest(p.proacl) as acl)))
    from pg_proc as p
    where p.oid = backfill_private.function_named(p_signature));
end
$$;

-- Fingerprints of what a target runs on: its scoring functions, their helpers, and its rows of backfill_targets. For an
-- Edge Function it is that of the declared version: the database does not hold its definition.
-- {name: SHA-256}, null if a function is gone.
create function backfill_private.definitions(p_target text)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select jsonb_build_object('backfill_targets', (
        select backfill_private.sha256_hex(jsonb_agg(to_jsonb(t) order by t.position)::text)
        from public.backfill_targets as t
        where t.target = p_target
      ))
      || coalesce(
        jsonb_object_agg(f.name, case
          when f.version is null then backfill_private.function_fingerprint(f.name)
          else backfill_private.sha256_hex(f.version)
        end),
        '{}')
    from (
      select t.function_signature as name, t.function_version as version
      from public.backfill_targets as t
      where t.target = p_target
      union
      select unnest(t.helpers), null
      from public.backfill_targets as t
      where t.target = p_target
    ) as f);
end
$$;

-- The database this is: a plan made here cannot run there.
create function backfill_private.server_identity()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws('/', s.system_identifier, c.timeline_id, current_database())
  from pg_control_system() as s, pg_control_checkpoint() as c
$$;

-- A run's planned sessions as text, in their order, with all that the plan says of each. Their dates are among it: an
-- undo by dates goes by them.
create function backfill_private.planned_text(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select string_agg(
    jsonb_build_array(
      i.ordinal, i.phase, i.batch, i.category, i.components, i.replaces, i.source, i.session_id, i.session_at)::text,
    e'\n' order by i.ordinal)
  from public.backfill_items as i
  where i.run_id = p_run_id
$$;

-- The digest of a run's plan, computed from the rows as they stand.
create function backfill_private.compute_digest(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(concat_ws(
    e'\n',
    'backfill plan, form 3',
    backfill_private.server_identity(),
    coalesce(r.environment, ''),
    r.request,
    r.plan -> 'risk',
    -- What people call its rows, and when it was installed, changes nothing that is done to them.
    (select to_jsonb(s) - array['called', 'installed_at'] from backfill_private.sources as s where s.target = r.target),
    backfill_private.definitions(r.target),
    backfill_private.planned_text(r.run_id)))
  from public.backfill_runs as r
  where r.run_id = p_run_id
$$;

-- What an approver reads beside the digest, as a hash: the figures, the marks and the risk of a plan.
create function backfill_private.figures_hash(p_plan jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(p_plan::text)
$$;

-- What changed since a plan was sealed, by name, with the fingerprints then and now.
create function backfill_private.what_changed(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    string_agg(
      format('%s was %s, is %s',
        n.key,
        coalesce(left(p_run.fingerprint ->> n.key, 12) || '…', 'not there'),
        coalesce(left(n.value, 12) || '…', 'gone')),
      '; ' order by n.key),
    'the plan''s rows, the environment or the server')
  from jsonb_each_text(backfill_private.definitions(p_run.target)) as n
  where n.value is distinct from p_run.fingerprint ->> n.key
$$;

-- from sql/30_run/effects.sql
-- Effects: which rows the target tables hold for an item, and what its receipts say.

-- For each planned component of some items: does a row that counts as present stand there, does a row of the wanted
-- version, and did this run write one that nothing took back? If receipts are declared exact, one that had to be
-- inferred does not count.
--
-- p_ordinals  the items. Null: all of the run
create function backfill_private.effects(p_run_id uuid, p_ordinals integer[] default null)
returns table (ordinal integer, component text, is_present boolean, is_wanted boolean, has_receipt boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_run public.backfill_runs;
  v_target public.backfill_targets;
  -- For a batch each row is looked up. For a whole run PostgreSQL may read the tables once.
  v_is_there text := case
    when p_ordinals is null then 'exists (select from %s as t where %s)'
    else '(select true from %s as t where %s limit 1) is not null'
  end;
  v_receipt text := 'r.run_id = item.run_id and r.ordinal = item.ordinal and r.component = %L and r.kind = ''score'''
    ' and r.operation <> ''delete'' and r.undone_at is null';
begin
  if p_ordinals = '{}' then
    return;  -- PostgreSQL would take any partial index for it, and walk over all of it.
  end if;
  select * into strict v_run from public.backfill_runs as r where r.run_id = p_run_id;
  for v_target in
    select * from public.backfill_targets as t where t.target = v_run.target order by t.position
  loop
    return query execute format(
      'select item.ordinal, %1$L::text, %2$s, %3$s, %4$s
       from public.backfill_items as item
       where item.run_id = $1 and ($2 is null or item.ordinal = any ($2)) and %1$L = any (item.components)',
      v_target.component,
      format(v_is_there, v_target.table_name::regclass,
        backfill_private.row_condition(v_target, v_run.request, false)),
      format(v_is_there, v_target.table_name::regclass,
        backfill_private.row_condition(v_target, v_run.request, true)),
      replace(
        format(replace(v_is_there, ' as t ', ' as r '), 'public.backfill_receipts',
          v_receipt || case v_target.receipts when 'exact' then ' and not r.is_inferred' else '' end),
        '%L', quote_literal(v_target.component)))
    using p_run_id, p_ordinals;
  end loop;
end
$$;

-- The components for which some items have a row: of the wanted version, or one that counts as present.
create function backfill_private.standing_of(p_run public.backfill_runs, p_ordinals integer[], p_wanted boolean)
returns table (ordinal integer, component text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_target public.backfill_targets;
begin
  if p_ordinals = '{}' then
    return;  -- As above.
  end if;
  for v_target in select * from public.backfill_targets as t where t.target = p_run.target loop
    return query execute format(
      'select item.ordinal, %L::text from public.backfill_items as item
       where item.run_id = $1 and item.ordinal = any ($2) and %1$L = any (item.components)
         and (select true from %s as t where %s limit 1)',
      v_target.component,
      v_target.table_name::regclass,
      backfill_private.row_condition(v_target, p_run.request, p_wanted))
    using p_run.run_id, p_ordinals;
  end loop;
end
$$;

-- from sql/30_run/elsewhere.sql
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

-- from sql/30_run/environment.sql
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

-- from sql/30_run/faults.sql
-- Faults: what an error's code means for a session, and what of its message may be kept.

-- What an error code means. SQL asks this view through backfill_private.fault. The client, which sees the answers of
-- the API, asks its mirror in backfill/api/faults.py. So a new class is a row here, and at the same place of MEANINGS
-- there a line with the same of, class, direct and kept: its kind is session for failed, refused for released, else the
-- same word. tests/test_error_codes.py holds the two equal.
--
-- of      whose code it is: PostgreSQL's (sqlstate), PostgREST's (postgrest) or an HTTP status (http)
-- class   a code, or the beginning of codes. The longest match wins
-- direct  what it means for a session whose call came through the API: see backfill_private.decide_outcomes. stop: it
--         could be every session's, so another one is tried alone, see backfill_private.judge_trial
-- bulk    the same for a call inside the database, in a subtransaction. Null: no such code is seen there
-- kept    what replaces the message, which may hold values of a row. Null: its first 500 characters are kept. The names
--         of relations, functions, types and columns are no contents
-- why     the reason
create view backfill_private.faults with (security_invoker = true) as
select * from (values
  ('sqlstate', '', 'failed', 'failed', null,
    'it is this session''s failure, and would be again. What a function raises by itself is its author''s sentence. '
    'Other messages name objects and constraints alone, for their values are in DETAIL, which nobody keeps'),
  ('sqlstate', '08', 'unknown', 'again', null,
    'a connection broke. Through the API the call may have committed. Inside the database the subtransaction was '
    'rolled back'),
  ('sqlstate', '53', 'unknown', 'again', null,
    'the server lacks memory, disk or connections. Through the API it may be said after the commit. Inside the '
    'database the subtransaction was rolled back'),
  ('sqlstate', '57P', 'unknown', 'again', null,
    'the server stops or starts. Through the API the call may have committed before. Inside the database the '
    'subtransaction was rolled back'),
  ('sqlstate', '40001', 'again', 'again', null, 'rolled back for sure, for what others wrote at the same time'),
  ('sqlstate', '40P01', 'again', 'again', null, 'rolled back for sure, as the victim of a deadlock'),
  ('sqlstate', '55P03', 'again', 'again', null, 'rolled back for sure, for a lock that others held'),
  ('sqlstate', '25P02', 'again', 'failed', null,
    'the API sent the call through a connection on which somebody''s failed call was never ended: it was not even '
    'begun. In bulk only the user''s own code raises it'),
  ('sqlstate', '25006', 'stop', 'stop', null, 'the database takes no writes, maybe of any session'),
  ('sqlstate', '42501', 'stop', 'stop', null, 'a right is missing, maybe for every session'),
  ('sqlstate', '42883', 'stop', 'stop', null, 'a function is missing, maybe for every session'),
  ('sqlstate', '42P01', 'stop', 'stop', null, 'a table is missing, maybe for every session'),
  ('sqlstate', 'PT429', 'slow', 'slow', null, 'the function asks for fewer calls, through the API with status 429'),
  ('sqlstate', 'OB011', 'released', 'again', null,
    'this attempt may no longer write, so the session is given back. In bulk only the user''s own code raises it'),
  ('sqlstate', 'OB012', 'released', 'again', null,
    'the run may no longer write, so the session is given back. In bulk only the user''s own code raises it, or we do '
    'if the approval ran out during the call'),
  ('sqlstate', 'OB018', 'failed', 'failed', null, 'the gate refused a write. It is critical, and pauses the run'),
  ('sqlstate', 'OB020', 'failed', 'failed', null, 'the step before left no row. Settled as OB017, no effect'),
  ('sqlstate', '0A', 'failed', 'failed', 'feature not supported', 'the message may quote the statement'),
  ('sqlstate', '20', 'failed', 'failed', 'case not found', 'the message may hold the value that no case was for'),
  ('sqlstate', '22', 'failed', 'failed', 'data exception', 'the message quotes the value'),
  ('sqlstate', '22001', 'failed', 'failed', null, 'the message names the type that was too short, not the value'),
  ('sqlstate', '22004', 'failed', 'failed', null, 'there is no value to quote'),
  ('sqlstate', '22012', 'failed', 'failed', null, 'the message quotes no operand'),
  ('sqlstate', '26', 'failed', 'failed', 'invalid SQL statement name',
    'the message quotes a name, maybe made of values'),
  ('sqlstate', '2F', 'failed', 'failed', 'SQL routine exception', 'the message may quote the statement'),
  ('sqlstate', '34', 'failed', 'failed', 'invalid cursor name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '38', 'failed', 'failed', 'external routine exception', 'another language puts what it likes in there'),
  ('sqlstate', '39', 'failed', 'failed', 'external routine invocation exception',
    'another language puts what it likes in there'),
  ('sqlstate', '42601', 'failed', 'failed', 'syntax error', 'the message quotes SQL, maybe made of values'),
  ('sqlstate', '42602', 'failed', 'failed', 'invalid name', 'the message quotes a text that is no name'),
  ('sqlstate', '54', 'failed', 'failed', 'program limit exceeded', 'the message may quote the value that was too long'),
  ('sqlstate', '58', 'failed', 'failed', 'system error', 'the message may quote the name of a file'),
  ('sqlstate', 'F0', 'failed', 'failed', 'configuration file error', 'the message may quote the file'),
  ('sqlstate', 'HV', 'failed', 'failed', 'foreign data wrapper error', 'the message may quote the other server''s row'),
  ('sqlstate', 'XX', 'failed', 'failed', 'internal error', 'the message was made for developers and may hold anything'),
  ('postgrest', 'PGRST000', 'unknown', null, null, 'PostgREST does not reach the database'),
  ('postgrest', 'PGRST001', 'unknown', null, null, 'PostgREST lost the database, maybe after the commit'),
  ('postgrest', 'PGRST002', 'unknown', null, null, 'PostgREST could not read the schema yet'),
  ('postgrest', 'PGRST003', 'unknown', null, null, 'PostgREST found no free connection in time'),
  ('postgrest', 'PGRST106', 'stop', null, null, 'the schema is not exposed, maybe for any session'),
  ('postgrest', 'PGRST121', 'failed', null, null,
    'the function raised PGRST, whose message has to be JSON: rolled back for sure'),
  ('postgrest', 'PGRST202', 'stop', null, null, 'the function is not there, maybe for any session'),
  ('postgrest', 'PGRST203', 'stop', null, null, 'several functions have this name, maybe for every session'),
  ('postgrest', 'PGRST205', 'stop', null, null, 'the table is not there, maybe for any session'),
  ('postgrest', 'PGRST301', 'stop', null, null, 'the key is no valid token, maybe for any session'),
  ('postgrest', 'PGRST302', 'stop', null, null, 'a call without a key is not allowed, maybe for any session'),
  ('postgrest', 'PGRST303', 'stop', null, null, 'the claims of the token are refused, maybe for every session'),
  ('http', '3', 'stop', null, null, 'the API has another address, maybe for every session'),
  ('http', '401', 'stop', null, null, 'the key is refused, maybe for every session'),
  ('http', '403', 'stop', null, null, 'the key may not do this, or this session''s owner has not agreed'),
  ('http', '404', 'stop', null, null, 'the function is not there, or it has nothing for this session'),
  ('http', '408', 'unknown', null, null, 'a gateway waited too long. The call may go on behind it'),
  ('http', '425', 'unknown', null, null, 'a gateway would not risk a replay. Another copy of the call may have run'),
  ('http', '429', 'slow', null, null, 'the API asks for fewer calls, of every session or of this one'),
  ('http', '500', 'unknown', null, null, 'something between broke, and nobody says whether before or after the commit'),
  ('http', '502', 'unknown', null, null, 'a gateway got no proper answer. The call may have committed'),
  ('http', '503', 'unknown', null, null, 'a gateway found nobody to answer, maybe after the call had begun'),
  ('http', '504', 'unknown', null, null, 'a gateway waited too long. The call may go on behind it'),
  ('http', '520', 'unknown', null, null, 'Cloudflare got an answer that it did not understand'),
  ('http', '521', 'unknown', null, null, 'Cloudflare was not let in'),
  ('http', '522', 'unknown', null, null, 'Cloudflare''s connection timed out'),
  ('http', '523', 'unknown', null, null, 'Cloudflare does not reach the project'),
  ('http', '524', 'unknown', null, null, 'Cloudflare waited too long. The call may go on behind it'),
  ('http', '530', 'unknown', null, null, 'Cloudflare could not find the project'),
  ('http', '540', 'stop', null, null, 'the project is paused, maybe for every session'),
  ('http', '544', 'unknown', null, null, 'the database took too long for the platform. The call may go on'),
  ('http', '546', 'unknown', null, null, 'an Edge Function was stopped at its limits, maybe after it wrote')
) as fault (of, class, direct, bulk, kept, why);

-- The row of backfill_private.faults that says what a code means. Null if none does.
create function backfill_private.fault(p_code text)
returns backfill_private.faults
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select f.*
  from backfill_private.faults as f
  where starts_with(p_code, f.class)
    and f.of = case
      when length(p_code) = 5 then 'sqlstate'
      when p_code ~ '^PGRST[0-9]{3}$' then 'postgrest'
      when p_code ~ '^[0-9]{3}$' then 'http'
    end
  order by length(f.class) desc
  limit 1
$$;

-- What may be kept of an error's message: 500 characters, and nothing of a row.
create function backfill_private.kept_message(p_code text, p_message text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (backfill_private.fault(p_code)).kept || '; the message stays in the database''s log, it may hold contents',
    left(p_message, 500))
$$;

-- What the failure of a session's calls in bulk means for it: see backfill_private.faults.
create function backfill_private.bulk_outcome(p_code text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select (backfill_private.fault(p_code)).bulk
$$;

-- When the time limit of a statement that begins now will have come. Infinity if there is none.
create function backfill_private.limit_at()
returns timestamptz
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select case
    when s.setting = '0' then 'infinity'
    -- What came before the first look at the clock.
    else backfill_private.clock() + s.setting::integer * interval '1 ms' - interval '100 ms'
  end
  from pg_settings as s
  where s.name = 'statement_timeout'
$$;

-- Was a statement ended from outside, at its time limit or on request? Code of the user's may raise 57014 by itself.
create function backfill_private.is_cancel(p_code text, p_message text, p_limit_at timestamptz)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select p_code = '57014'
    and (starts_with(p_message, 'canceling statement due to') or backfill_private.clock() >= p_limit_at)
$$;

-- from sql/30_run/health.sql
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

-- from sql/30_run/lock.sql
-- Locks: anyone who changes a run holds its row and its advisory lock.
--
-- PostgreSQL lets every role take any advisory lock. So nobody can guess the keys of ours: they are made with a secret
-- of this installation. Anyone who can send SQL still reads in pg_locks the key of a lock that is held at that moment,
-- and may take it afterwards. So a wait for one ends after some seconds, and says who holds it.

-- The key of an advisory lock of ours, with the secret at hand: who needs many keys reads it once.
--
-- p_what  what is locked: run, rehearsal, target or session
create function backfill_private.lock_key_with(p_secret text, p_what text, p_name text)
returns bigint
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return ('x' || encode(substr(sha256(convert_to(p_secret || p_what || ':' || p_name, 'UTF8')), 1, 8), 'hex'))
    ::bit(64)::bigint;
end
$$;

-- The key of an advisory lock of ours.
create function backfill_private.lock_key(p_what text, p_name text)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return backfill_private.lock_key_with(
    (select s.secret from backfill_private.lock_secret as s), p_what, p_name);
end
$$;

-- Take an advisory lock of ours until the transaction ends. It is fair, unlike a row lock: those who share it do not
-- pass anyone who waits for it exclusively.
--
-- p_called  what it locks, in words
-- raises    OB021 somebody else has held it for six seconds. A call of the API has eight
create function backfill_private.take_lock(p_key bigint, p_is_shared boolean, p_called text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '6s'
as $$
declare
  v_holders text;
begin
  if p_is_shared then
    perform pg_advisory_xact_lock_shared(p_key);
  else
    perform pg_advisory_xact_lock(p_key);
  end if;
exception when lock_not_available then
  select string_agg(l.pid::text, ', ' order by l.pid) into v_holders
  from pg_locks as l
  where l.locktype = 'advisory'
    and l.granted
    and l.database = (select d.oid from pg_database as d where d.datname = current_database())
    and l.objsubid = 1
    and (l.classid::bigint << 32) | l.objid::bigint = p_key;
  perform backfill_private.refuse('OB021',
    format('the lock of %s is held by somebody else%s', p_called, coalesce(': process ' || v_holders, '')),
    'try again. If it stays so, in the SQL editor: select pid, usename, state, query from pg_stat_activity'
      || coalesce(format(' where pid in (%s)', v_holders), ''));
end
$$;

-- Take the lock of a run beside its row: verbs take it exclusively, calls in bulk share it.
--
-- raises  OB021 see take_lock
create function backfill_private.take_run_lock(p_run_id uuid, p_is_shared boolean default false)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.take_lock(
    backfill_private.lock_key('run', p_run_id::text), p_is_shared, format('run %s', p_run_id))
$$;

-- Refuse while there is nothing that any verb could be about: no target is installed, and no run was ever planned.
--
-- raises  OB013
create function backfill_private.refuse_untargeted()
returns void
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from public.backfill_targets) and not exists (select from public.backfill_runs) then
    perform backfill_private.refuse('OB013', 'no target is installed', backfill_private.first_target());
  end if;
end
$$;

-- Refuse a run that does not exist.
--
-- raises  OB001, or OB013 while no target is installed
create function backfill_private.refuse_run(p_sentence text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.refuse_untargeted();
  perform backfill_private.refuse('OB001', p_sentence, 'backfill runs');
end
$$;

-- A run, locked against other verbs for this transaction. Its chain holds all that bulk calls have settled.
--
-- raises  OB001 no such run, OB002 its state is none of those given, OB021 somebody else holds it
create function backfill_private.locked_run(p_run_id uuid, p_states text[] default null)
returns public.backfill_runs
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.take_run_lock(p_run_id);
  perform backfill_private.note_batches(p_run_id);
  perform from public.backfill_runs where run_id = p_run_id for no key update;
  if not found then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  end if;
  v_run := backfill_private.run_now(p_run_id);
  if v_run.state <> all (p_states) then
    perform backfill_private.refuse('OB002',
      format('run %s is %s; this needs it to be %s', p_run_id, v_run.state, array_to_string(p_states, ' or ')),
      backfill_private.hint(v_run));
  end if;
  return v_run;
end
$$;

-- Whether a transaction that began its work then holds others up and has had its time: somebody waits for a lock of it,
-- and it is at it for more than 0.8 s. Nobody waits for longer than a second because of what can be left out.
create function backfill_private.gives_way(p_began timestamptz)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.clock() - p_began > interval '0.8 s'
    and exists (select from pg_locks as l where not l.granted and pg_backend_pid() = any (pg_blocking_pids(l.pid)))
$$;

-- from sql/30_run/naming.sql
-- Naming: which sessions some texts name. A session is named by its whole id. If ids are uuids, the first characters of
-- one name it too, eight at least. Of numbers and texts any beginning may be an id itself, so it names nothing.

-- A text as an id of this type, in its normal form, or as the beginning of a uuid. Null: it names nothing.
create function backfill_private.session_name(p_type text, p_given text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_given text := case
    when p_type in ('uuid', 'bigint', 'integer', 'smallint') then lower(btrim(p_given))
    else p_given
  end;
  v_id text;
begin
  begin
    execute format('select %L::%s::text', v_given, p_type) into v_id;
  exception when data_exception then
    null;  -- not of this type
  end;
  return case
    -- 007 is not 7, and a text that is cut to its column's length is another.
    when p_type = 'uuid' or v_id = v_given then coalesce(v_id, substring(v_given, '^[0-9a-f-]{8,35}$'))
  end;
end
$$;

-- The sessions of a run that a name names, three at most.
create function backfill_private.named_in_run(p_run_id uuid, p_type text, p_name text)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found text[] := array(
    select i.session_id from public.backfill_items as i where i.run_id = p_run_id and i.session_id = p_name);
begin
  if v_found = '{}' and p_type = 'uuid' then
    v_found := array(
      select i.session_id
      from public.backfill_items as i
      where i.run_id = p_run_id and starts_with(i.session_id, p_name)
      order by 1
      limit 3);
  end if;
  return v_found;
end
$$;

-- The rows of a source that a name names, three at most. Both ways find them by the key's index.
create function backfill_private.named_in_source(p_source backfill_private.sources, p_type text, p_name text)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found text[];
begin
  execute format(
    'select array(select s.%1$I::text from %2$s as s where %3$s order by s.%1$I limit 3)',
    p_source.key_column,
    p_source.source_table::regclass,
    case
      when p_type = 'uuid'
      then format('s.%1$I between rpad(%2$L, 32, ''0'')::uuid and rpad(%2$L, 32, ''f'')::uuid'
        ' and starts_with(s.%1$I::text, %3$L)',
        p_source.key_column, replace(p_name, '-', ''), p_name)
      else format('s.%I = %L::%s', p_source.key_column, p_name, p_type)
    end)
  into v_found;
  return v_found;
end
$$;

-- Refuse a text that does not name one session.
--
-- p_found  what it names
-- raises   OB014 always
create function backfill_private.refuse_session(p_run_id uuid, p_type text, p_given text, p_found text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_given text := left(p_given, 80);
begin
  perform backfill_private.refuse('OB014',
    case
      when cardinality(p_found) > 1
      then format('%s names more than one session: %s, …', v_given, array_to_string(p_found[1:2], ', '))
      when p_type = 'uuid' and btrim(p_given) ~ '^[0-9a-fA-F-]{1,7}$'
      then format('%s names no session: give its id, or at least 8 characters of its beginning', v_given)
      when p_run_id is not null then format('run %s has no session %s', p_run_id, v_given)
      else format('no session is named %s', v_given)
    end,
    case
      when p_run_id is not null then format('backfill show %s', p_run_id)
      else 'backfill missing --since …, which lists the sessions that lack something'
    end);
end
$$;

-- The sessions that some texts name, in the order given, each once.
--
-- p_run_id  among the sessions of this run. Null: among all rows of the source
-- raises    OB014 one of them names no session, or more than one
create function backfill_private.named_sessions(p_target text, p_given text[], p_run_id uuid default null)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_source backfill_private.sources;
  v_type text;
  v_name text;
  v_given text;
  v_found text[];
  v_ids text[] := array[]::text[];
begin
  select * into strict v_source from backfill_private.sources where target = p_target;
  -- Of a source that is gone, the ids that are left are texts.
  v_type := coalesce(backfill_private.column_type(v_source.source_table, v_source.key_column), 'text');
  foreach v_given in array coalesce(p_given, '{}') loop
    v_name := backfill_private.session_name(v_type, v_given);
    v_found := case
      when v_name is null then '{}'::text[]
      when p_run_id is null then backfill_private.named_in_source(v_source, v_type, v_name)
      else backfill_private.named_in_run(p_run_id, v_type, v_name)
    end;
    if cardinality(v_found) <> 1 then
      perform backfill_private.refuse_session(p_run_id, v_type, v_given, v_found);
    elsif v_found[1] <> all (v_ids) then
      v_ids := v_ids || v_found;
    end if;
  end loop;
  return v_ids;
end
$$;

-- How people call the rows of a run's source: one of them, and several.
create function backfill_private.words_of(p_run_id uuid)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select s.called
      from public.backfill_runs as r
      join backfill_private.sources as s using (target)
      where r.run_id = p_run_id
    ),
    '{session,sessions}')
$$;

-- So many of them: 1 order, 2 orders.
create function backfill_private.called_in(p_run_id uuid, p_count bigint)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s %s', p_count, (backfill_private.words_of(p_run_id))[case p_count when 1 then 1 else 2 end])
$$;

-- from sql/30_run/proof.sql
-- Proof: what the chain tells of receipts, held against the receipts that stand.
--
-- A settled batch and a part of an undo each tell a hash over theirs. Each costs one statement, however many there are.

-- A hash over the receipts of some items, up to the given one.
create function backfill_private.receipts_hash(p_run_id uuid, p_ordinals integer[], p_newest bigint)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(coalesce(
    string_agg(
      jsonb_build_array(
        r.receipt_id,
        r.ordinal,
        r.kind,
        r.operation,
        r.table_name,
        r.row_key,
        encode(r.before_hash, 'hex'),
        encode(r.after_hash, 'hex'))::text,
      e'\n' order by r.receipt_id),
    ''))
  from public.backfill_receipts as r
  where r.run_id = p_run_id
    and r.ordinal = any (p_ordinals)
    and r.receipt_id <= p_newest
$$;

-- The receipts that a part of an undo took back, and those that it wrote: how many, and a hash over them. Of those that
-- it took back only when: what else they say is in the hash of their batch.
--
-- p_after, p_until  the part's places in the plan, the first not included
-- returns           {undo, after, until, taken_back, written, receipts: the hash}
create function backfill_private.undo_trace(p_run_id uuid, p_undo_id bigint, p_after bigint, p_until bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select jsonb_build_object(
    'undo', p_undo_id,
    'after', p_after,
    'until', p_until,
    'taken_back', count(*) filter (where r.kind = 'score'),
    'written', count(*) filter (where r.kind = 'undo'),
    'receipts', backfill_private.sha256_hex(coalesce(
      string_agg(
        case r.kind
          when 'undo' then concat_ws(' ', r.receipt_id, r.ordinal, r.operation, r.table_name, r.row_key,
            encode(r.before_hash, 'hex'), '/', encode(r.after_hash, 'hex'))
          else concat_ws(' ', r.receipt_id, r.undone_at)
        end,
        e'\n' order by r.receipt_id),
      '')))
  from public.backfill_receipts as r
  where r.run_id = p_run_id
    and r.ordinal > p_after
    and r.ordinal <= p_until
    and r.undo_id = p_undo_id
$$;

-- The settled batches and the parts of undos, among some events of a run, whose receipts are no longer those that the
-- chain names. No row if all still are.
create function backfill_private.receipt_faults(p_run_id uuid, p_after bigint, p_until bigint)
returns table (seq bigint, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select e.seq, 'the receipts of this batch are not those that were settled'
  from public.backfill_events as e
  where e.run_id = p_run_id
    and e.seq > p_after
    and e.seq <= p_until
    and e.kind = 'batch_settled'
    and e.details ->> 'receipts' <> backfill_private.batch_hash(p_run_id, e.details)
  union all
  select e.seq, 'the receipts of this part of an undo are not those that it left'
  from public.backfill_events as e
  where e.run_id = p_run_id
    and e.seq > p_after
    and e.seq <= p_until
    and e.kind = 'undo_settled'
    and (e.details @> backfill_private.undo_trace(
      p_run_id,
      backfill_private.told_number(e.details, 'undo'),
      backfill_private.told_number(e.details, 'after'),
      backfill_private.told_number(e.details, 'until'))) is not true
$$;

-- What a settled batch's details name, as a hash over its receipts as they are now.
create function backfill_private.batch_hash(p_run_id uuid, p_details jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.receipts_hash(
    p_run_id,
    backfill_private.told_ordinals(p_details),
    backfill_private.told_number(p_details, 'newest_receipt'))
$$;

-- The batches that calls in bulk have settled and that the chain does not have yet, if their receipts are no longer
-- those that were settled.
create function backfill_private.unnoted_faults(p_run_id uuid)
returns table (claim text, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select u.details ->> 'claim', 'the receipts of this batch are not those that were settled'
  from backfill_private.unnoted as u
  where u.run_id = p_run_id
    and not u.is_noted
    and u.details ->> 'receipts' <> backfill_private.batch_hash(p_run_id, u.details)
$$;

-- The sessions of which something stands that the chain does not tell of, so that somebody has added it or has taken
-- the telling away: a receipt, an undo, an outcome. What is being scored has not been settled yet, and what calls in
-- bulk have settled may not be noted yet.
--
-- A run that has just ended is unknown to PostgreSQL's statistics. So the joins over all of it are hashed, whatever
-- these say: a nested loop takes the square of the run's sessions.
create function backfill_private.untold(p_run_id uuid)
returns table (session_id text, what text)
language sql
stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $$
  with told as materialized (
    select o.ordinal, max(backfill_private.told_number(s.details, 'newest_receipt')) as newest
    from (
      select e.details from public.backfill_events as e where e.run_id = p_run_id and e.kind = 'batch_settled'
      union all
      select u.details from backfill_private.unnoted as u where u.run_id = p_run_id and not u.is_noted
    ) as s
    cross join unnest(backfill_private.told_ordinals(s.details)) as o (ordinal)
    group by 1
  ), undone as materialized (
    select
      backfill_private.told_number(e.details, 'undo') as undo_id,
      min(backfill_private.told_number(e.details, 'after')) as after,
      max(backfill_private.told_number(e.details, 'until')) as until
    from public.backfill_events as e
    where e.run_id = p_run_id
      and e.kind = 'undo_settled'
    group by 1
  )
  select distinct r.session_id, 'it has a receipt that no settled batch tells of'
  from public.backfill_receipts as r
  left join told as t on t.ordinal = r.ordinal
  left join public.backfill_items as i on i.run_id = r.run_id and i.ordinal = r.ordinal
  where r.run_id = p_run_id
    and r.kind = 'score'
    and i.state is distinct from 'leased'
    and (r.receipt_id <= t.newest) is not true
  union all
  select distinct r.session_id, 'an undo of it is noted that the chain does not tell of'
  from public.backfill_receipts as r
  left join undone as u on u.undo_id = r.undo_id and r.ordinal > u.after and r.ordinal <= u.until
  where r.run_id = p_run_id
    and (r.kind = 'undo' or r.undone_at is not null)
    and u.undo_id is null
  union all
  select i.session_id, 'it was settled, and no batch tells of it'
  from public.backfill_items as i
  left join told as t on t.ordinal = i.ordinal
  where i.run_id = p_run_id
    and i.state in ('done', 'failed')
    and t.ordinal is null
$$;

-- from sql/30_run/receipts.sql
-- Receipts: how rows are hashed and named. The gate is the trigger that writes them.

-- The columns that relations have now, in a text that costs little: the gate asks for it with every row.
create view backfill_private.stamps with (security_invoker = true) as
select
  a.attrelid as relation,
  string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), e'\n' order by a.attnum)
    as stamp
from pg_attribute as a
where a.attnum > 0
  and not a.attisdropped
group by a.attrelid;

-- The columns that a relation's rows have now, as a shape. A new one is noted, so that a receipt can name it.
--
-- A shape is known for good: it lets a row be compared and restored when a migration has changed the table since.
create function backfill_private.shape_of(p_relation oid)
returns bytea
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_shape bytea;
begin
  select s.shape into v_shape
  from backfill_private.stamps as now
  join backfill_private.shapes as s using (relation, stamp)
  where now.relation = p_relation;
  if not found then
    insert into backfill_private.shapes (shape, relation, stamp, columns)
    select
      sha256(convert_to(now.relation::text || e'\n' || now.stamp, 'UTF8')),
      now.relation,
      now.stamp,
      (
        select jsonb_agg(
          jsonb_build_array(a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated)
          order by a.attnum)
        from pg_attribute as a
        where a.attrelid = p_relation
          and a.attnum > 0
          and not a.attisdropped
      )
    from backfill_private.stamps as now
    where now.relation = p_relation
    on conflict (shape) do update set shape = excluded.shape
    returning shape into v_shape;
  end if;
  return v_shape;
end
$$;

-- Note the shapes of a target's tables and of their partitions.
create function backfill_private.note_shapes(p_target text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select count(backfill_private.shape_of(coalesce(part.relid, to_regclass(t.table_name))))
  from public.backfill_targets as t
  left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
  where t.target = p_target
$$;

-- The columns of a shape, and what became of each in a table.
--
-- p_table  a table of that shape, or the partitioned table that the shape's relation is a partition of
-- returns  place: in the shape. name: the column's name now, null if it was dropped. was: its type then
--          is_same: it has that type still. is_computed: it is computed when it is read, so no row keeps it
create function backfill_private.shape_columns(p_table regclass, p_shape bytea)
returns table (place integer, old_name text, name text, was text, is_same boolean, is_computed boolean)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    c.place::integer,
    c.kept ->> 1,
    a.attname::text,
    c.kept ->> 2,
    format_type(a.atttypid, a.atttypmod) = c.kept ->> 2,
    a.attgenerated = 'v'
  from backfill_private.shapes as s
  cross join lateral jsonb_array_elements(s.columns) with ordinality as c (kept, place)
  left join pg_class as r on r.oid = s.relation
  left join pg_attribute as n
    on n.attrelid = r.oid
    and n.attnum = (c.kept ->> 0)::integer
    and not n.attisdropped
  left join pg_attribute as a
    on a.attrelid = p_table
    and a.attname = case when r.oid is null then c.kept ->> 1 else n.attname end
    and a.attnum > 0
    and not a.attisdropped
  where s.shape = p_shape
$$;

-- The hash of a row: over its image, the row as text. In an image every column stands as its type writes it, for its
-- type to read it back exactly. No cast of the user's and, with these settings, none of the session's has a part in it.
create function backfill_private.row_hash(p_row record)
returns bytea
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
begin
  return sha256(convert_to(p_row::text, 'UTF8'));
end
$$;

-- A row as JSON, for its key and to compare its columns. What JSON cannot hold, such as a NUL that the type json keeps,
-- stands there as a hash.
create function backfill_private.row_json(p_row anyelement)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_json jsonb := '{}'::jsonb;
  v_column text;
  v_value jsonb;
begin
  return to_jsonb(p_row);
exception when assert_failure or others then
  for v_column in
    select a.attname::text
    from pg_attribute as a
    join pg_type as t on t.typrelid = a.attrelid
    where t.oid = pg_typeof(p_row)
      and a.attnum > 0
      and not a.attisdropped
  loop
    execute format('select backfill_private.value_json(($1).%I)', v_column) into v_value using p_row;
    v_json := v_json || jsonb_build_object(v_column, v_value);
  end loop;
  return v_json;
end
$$;

-- A value as JSON. If JSON cannot hold it, a hash of what its type writes.
create function backfill_private.value_json(p_value anyelement)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(to_jsonb(p_value), 'null');
exception when assert_failure or others then
  return to_jsonb(backfill_private.sha256_hex(format('%s', p_value)));
end
$$;

-- A short hash per column of a row, in the order that jsonb gives their names. When a column is gone, the others can
-- still be compared.
create function backfill_private.column_hashes(p_row jsonb)
returns bigint[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select nullif(array(select hashtextextended(jsonb_path_query(p_row, '$.*')::text, 0)), '{}')
$$;

-- The short hash of one column. p_type: a type that the value had before. Null if it does not convert back.
create function backfill_private.column_hash(p_value anyelement, p_type text default null)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hash bigint;
begin
  if p_type is null then
    return hashtextextended(backfill_private.value_json(p_value)::text, 0);
  end if;
  execute format('select backfill_private.column_hash($1::%s)', p_type) into v_hash using p_value;
  return v_hash;
exception when assert_failure or others then
  return null;
end
$$;

-- The condition under which a row t of a table is as a receipt x left it, as SQL. It is null if that cannot be told: a
-- column has another type since, and its value does not convert back.
--
-- p_shapes  the shapes of the receipts. They have the columns shape, after_hash and after_columns
create function backfill_private.as_left_sql(p_table regclass, p_shapes bytea[])
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('case x.shape %s end', coalesce(string_agg(format('when %L then %s', s.shape, case
    when s.is_same then format('sha256(convert_to(row(%s)::text, ''UTF8'')) = x.after_hash', s.row)
    else s.columns end), ' '), 'when null then null::boolean'))
  from (
    select
      wanted.shape,
      bool_and(coalesce(c.is_same, false)) as is_same,
      string_agg(case when c.is_computed or c.name is null then 'null' else format('t.%I', c.name) end,
        ', ' order by c.place) as row,
      coalesce(string_agg(
        case
          when c.is_same then format('backfill_private.column_hash(t.%I) = x.after_columns[%s]', c.name, j.place)
          else format(
            'nullif(x.after_columns[%2$s] in (backfill_private.column_hash(t.%1$I),'
            ' backfill_private.column_hash(t.%1$I, %3$L)), false)',
            c.name, j.place, c.was)
        end, ' and ') filter (where c.name is not null and not c.is_computed), 'true') as columns
    from unnest(p_shapes) as wanted (shape)
    cross join lateral backfill_private.shape_columns(p_table, wanted.shape) as c
    -- Where jsonb has the column's name among the others.
    join lateral (
      select k.place
      from jsonb_object_keys((
        select jsonb_object_agg(o.kept ->> 1, 0)
        from backfill_private.shapes as of_all
        cross join lateral jsonb_array_elements(of_all.columns) as o (kept)
        where of_all.shape = wanted.shape)) with ordinality as k (name, place)
      where k.name = c.old_name
    ) as j on true
    group by wanted.shape
  ) as s
$$;

-- How the image of a row fits a table: names of its columns now, and if it is not of the table's own shape, for each
-- column of the table its place in the image, null if it has none there.
create function backfill_private.image_fit(p_table regclass, p_shape bytea, out names text[], out places integer[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with kept as materialized (
    select * from backfill_private.shape_columns(p_table, p_shape)
  ), standing as (
    select a.attname::text as name, row_number() over (order by a.attnum) as place
    from pg_attribute as a
    where a.attrelid = p_table
      and a.attnum > 0
      and not a.attisdropped
  )
  select
    array_agg(s.name order by s.place) filter (where k.place is not null),
    case when count(*) <> (select count(*) from kept) or bool_or(k.place is distinct from s.place)
      then array_agg(k.place order by s.place) end
  from standing as s
  left join kept as k using (name)
$$;

-- The image of a row, with its columns put where a table has them now.
--
-- A column of an image is either quoted, with quotes and backslashes doubled, or has none of either and no comma.
-- p_places  see backfill_private.image_fit
create function backfill_private.refitted_image(p_image text, p_places integer[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  with columns as materialized (
    select array_agg(m.part[1] order by m.place) as parts
    from regexp_matches(substr(p_image, 2, length(p_image) - 2) || ',',
      '("(?:[^"\\]|""|\\\\)*"|[^,"]*),', 'g') with ordinality as m (part, place)
  )
  select case
    when p_places is null then p_image
    else (
      select format('(%s)', string_agg(coalesce(c.parts[p.place], ''), ',' order by p.nth))
      from columns as c
      cross join unnest(p_places) with ordinality as p (place, nth))
  end
$$;

-- The columns of a row that are its key. A loop, because an aggregate would cost one query per row.
create function backfill_private.row_key(p_row jsonb, p_columns text[])
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key jsonb := '{}'::jsonb;
  v_column text;
begin
  foreach v_column in array p_columns loop
    v_key := v_key || jsonb_build_object(v_column, p_row -> v_column);
  end loop;
  return v_key;
end
$$;

-- from sql/30_run/selection.sql
-- Selection: which planned sessions their target no longer selects. A plan may be days old when it is applied, and
-- nothing is derived of a person who was deleted meanwhile.

-- The sessions among some items that the target would not select now, each with the reason.
--
-- The target's own view decides, as it did while planning. If one of the planned components is no longer wanted, the
-- session is left to the next plan: this one's digest names what is scored of it.
-- A batch is looked up by key: offset 0 keeps each look apart,
-- so that even a subquery of the view is asked only about this one session. For a whole run PostgreSQL may read the
-- tables once.
--
-- p_ordinals  the items. Null: all of the run
-- p_state     only those in this state
create function backfill_private.unselected(
  p_run public.backfill_runs, p_ordinals integer[] default null, p_state text default 'pending'
)
returns table (ordinal integer, session_id text, why text)
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_source backfill_private.sources;
  v_key text;
  v_not_wanted text := (
    select string_agg(
      format(
        ', case when %1$L = any (item.components) and %1$L <> all (item.filled) then %2$L || g.%3$I end',
        c.component,
        c.component || ' is no longer wanted of it: ',
        c.not_wanted),
      '' order by c.position)
    from backfill_private.conditional_components(p_run.target) as c);
  v_look text := case
    when p_ordinals is null then 'left join %s as g on g.id = %s'
    else 'left join lateral (select g.* from %s as g where g.id = %s offset 0) as g on true'
  end;
begin
  if p_ordinals = '{}' then
    return;  -- As in effects().
  end if;
  select * into strict v_source from backfill_private.sources as o where o.target = p_run.target;
  v_key := backfill_private.session_key(p_run.target);
  perform set_config('backfill.request', p_run.request::text, true);
  return query execute format(
    'select looked.* from (
       select item.ordinal, item.session_id, case
         when g.id is not null then coalesce(g.excluded%8$s)
         when exists (select from %1$s as s where s.%2$I = %3$s) then %6$L
         else %7$L end as why
       from public.backfill_items as item
       %4$s
       where item.run_id = $1
         and item.state = $3
         and %5$s
     ) as looked
     where looked.why is not null',
    v_source.source_table::regclass,
    v_source.key_column,
    v_key,
    format(v_look, backfill_private.standing_view(p_run.target)::regclass, v_key),
    case when p_ordinals is null then 'true' else 'item.ordinal = any ($2)' end,
    'the target no longer selects it',
    'gone from ' || backfill_private.bare_name(v_source.source_table),
    v_not_wanted)
  using p_run.run_id, p_ordinals, p_state;
  perform set_config('backfill.request', '', true);
end
$$;

-- from sql/30_run/states.sql
-- Transitions: every legal move of a run, with its reason, and the trigger that refuses the others.

create view public.backfill_transitions with (security_invoker = true) as
select * from (values
  ('planning',          'awaiting_approval', 'seal',     'the plan is complete and carries its digest'),
  ('planning',          'cancelled',         'cancel',   'somebody gave the plan up'),
  ('awaiting_approval', 'approved',          'approve',  'an approver accepted exactly this digest'),
  ('awaiting_approval', 'rejected',          'reject',   'an approver refused it'),
  ('awaiting_approval', 'cancelled',         'cancel',   'somebody withdrew it'),
  ('approved',          'running',           'apply',    'the first worker started'),
  ('approved',          'paused',            'pause',
    'what was approved is no longer what stands there, or somebody asked'),
  ('approved',          'cancelled',         'cancel',   'somebody withdrew it'),
  ('approved',          'expired',           'expire',   'the approval ran out before the run started'),
  ('running',           'paused',            'pause',    'somebody asked, or the database saw a reason'),
  ('running',           'completed',         'complete', 'every session is settled'),
  ('running',           'cancelled',         'cancel',   'somebody stopped it for good'),
  ('running',           'expired',           'expire',   'the approval ran out'),
  ('paused',            'running',           'resume',   'somebody looked and lifted the pause'),
  ('paused',            'cancelled',         'cancel',   'somebody stopped it for good'),
  ('paused',            'expired',           'expire',   'the approval ran out'),
  ('completed',         'running',           'retry',    'the failed sessions again, under the same approval'),
  ('completed',         'rolled_back',       'undo',     'no session is left done'),
  ('cancelled',         'rolled_back',       'undo',     'no session is left done'),
  ('expired',           'rolled_back',       'undo',     'no session is left done')
) as move (from_state, to_state, event, reason);

comment on view public.backfill_transitions is 'Every legal move of a run. What is not here is refused.';
comment on column public.backfill_transitions.from_state is 'The state before.';
comment on column public.backfill_transitions.to_state is 'The state after.';
comment on column public.backfill_transitions.event is 'What makes the move.';
comment on column public.backfill_transitions.reason is 'Why this move is legal.';

-- Guard a run's row: only legal moves, and a sealed plan does not change.
--
-- raises  OB002 the move is not in backfill_transitions
--         OB007 the sealed plan would change
create function backfill_private.guard_run()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if new.state <> old.state and not exists (
    select from public.backfill_transitions as m
    where m.from_state = old.state and m.to_state = new.state
  ) then
    perform backfill_private.refuse('OB002',
      format('run %s cannot go from %s to %s. Allowed from %s: %s',
        old.run_id,
        old.state,
        new.state,
        old.state,
        (
          select coalesce(string_agg(m.to_state, ', '), 'nothing')
          from public.backfill_transitions as m
          where m.from_state = old.state
        )),
      backfill_private.hint(old));
  end if;
  if old.sealed_at is not null and (
    (new.run_id, new.target, new.environment, new.request, new.plan, new.digest, new.fingerprint, new.server,
      new.sealed_at)
    is distinct from
    (old.run_id, old.target, old.environment, old.request, old.plan, old.digest, old.fingerprint, old.server,
      old.sealed_at)
  ) then
    perform backfill_private.refuse('OB007',
      format('run %s is sealed, its plan does not change', old.run_id),
      format('backfill plan --like %s', old.run_id));
  end if;
  return new;
end
$$;

create trigger backfill_runs_guard
  before update of run_id, state, target, environment, request, plan, digest, fingerprint, server, sealed_at
  on public.backfill_runs
  for each row execute function backfill_private.guard_run();

-- Guard the items: planned columns stay as sealed, and no row is deleted.
--
-- raises  OB007 the sealed plan would change
create function backfill_private.guard_item()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'UPDATE'
    and (
      new.run_id, new.ordinal, new.source, new.session_id, new.session_at,
      new.components, new.replaces, new.category, new.phase, new.batch
    )
    is not distinct from (
      old.run_id, old.ordinal, old.source, old.session_id, old.session_at,
      old.components, old.replaces, old.category, old.phase, old.batch
    )
  then
    return new;
  end if;
  perform backfill_private.refuse('OB007',
    format('run %s is sealed, its plan does not change', old.run_id),
    format('backfill plan --like %s', old.run_id));
  return null;
end
$$;

create trigger backfill_items_guard
  before delete or update of
    run_id, ordinal, source, session_id, session_at, components, replaces, category, phase, batch
  on public.backfill_items
  for each row execute function backfill_private.guard_item();

-- Guard the items: no row is added after sealing. Asked once per statement: a large plan places its sessions in few.
--
-- raises  OB007 the sealed plan would change
create function backfill_private.guard_new_items()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sealed uuid;
begin
  select r.run_id into v_sealed
  from (select distinct n.run_id from new_items as n) as came
  join public.backfill_runs as r on r.run_id = came.run_id
  where r.sealed_at is not null;
  if found then
    perform backfill_private.refuse('OB007',
      format('run %s is sealed, its plan does not change', v_sealed),
      format('backfill plan --like %s', v_sealed));
  end if;
  return null;
end
$$;

create trigger backfill_items_no_more after insert on public.backfill_items
  referencing new table as new_items
  for each statement execute function backfill_private.guard_new_items();

-- Refuse to truncate a table of ours. No verb needs it.
create function backfill_private.guard_truncate()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.refuse('OB007', format('%s is never truncated', tg_table_name),
    'prune a run that is over instead');
  return null;
end
$$;

-- Move a run to another state and say so in its chain.
--
-- p_cause  what kind of reason this is: see backfill_private.causes. Only a pause has one
-- raises  OB002 the move is not in backfill_transitions
create function backfill_private.move(
  p_run_id uuid, p_to text, p_reason text default null, p_details jsonb default '{}', p_cause text default null
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from text := (select state from public.backfill_runs where run_id = p_run_id for no key update);
  v_now timestamptz := backfill_private.clock();
  v_is_over boolean := p_to in ('completed', 'rejected', 'cancelled', 'expired', 'rolled_back');
begin
  update public.backfill_runs
  set state = p_to,
      reason = left(p_reason, 500),
      cause = p_cause,
      held_by = case when p_to = 'paused' then p_details ->> 'by' end,
      started_at = case when p_to = 'running' then coalesce(started_at, v_now) else started_at end,
      resumed_at = case when p_to = 'running' then v_now else resumed_at end,
      settled_since = case when p_to = 'running' then 0 else settled_since end,
      failed_since = case when p_to = 'running' then 0 else failed_since end,
      failed_in_row = case when p_to = 'running' then 0 else failed_in_row end,
      troubled_batches = case when p_to = 'running' then 0 else troubled_batches end,
      trials = case when p_to = 'running' then 0 else trials end,
      back_off_until = case when p_to = 'running' then null else back_off_until end,
      finished_at = case when v_is_over then v_now end
  where run_id = p_run_id;
  if v_is_over then
    delete from backfill_private.low_water where run_id = p_run_id;
    delete from backfill_private.starts where run_id = p_run_id and started_at < v_now - interval '10 minutes';
  end if;
  perform backfill_private.record(p_run_id, p_to,
    p_details || jsonb_strip_nulls(jsonb_build_object('from', v_from, 'reason', left(p_reason, 500))));
end
$$;

-- Pause a running run, for a reason that the database saw.
--
-- p_cause  see backfill_private.causes
create function backfill_private.hold(p_run_id uuid, p_cause text, p_reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.state from public.backfill_runs as r where r.run_id = p_run_id) = 'running' then
    perform backfill_private.move(p_run_id, 'paused', p_reason, p_cause => p_cause);
  end if;
end
$$;

-- from sql/30_run/tally.sql
-- Tally: what each batch changes of a run, kept beside its row.
--
-- Each version of a row is walked over by every look at it for as long as somebody holds a snapshot: a backup, a
-- replica, an analyst's open tab. In sixteen hours at 20 starts per minute a run has thousands of batches. So while it
-- runs, the figures that a batch changes are appended here, and the newest counts: it is found at the end of its index,
-- whatever lies before it. Whatever else happens to a run writes them into its row, and then no tally is left.

-- The newest tally of a run. Null: its row says all.
create function backfill_private.newest_tally(p_run_id uuid)
returns backfill_private.tallies
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return (
    select t
    from backfill_private.tallies as t
    where t.run_id = p_run_id
    order by t.tally_id desc
    limit 1);
end
$$;

-- A run as its row and its newest tally say. Whoever asks for what a batch changes asks this.
create function backfill_private.run_now(p_run_id uuid)
returns public.backfill_runs
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_tally backfill_private.tallies := backfill_private.newest_tally(p_run_id);
begin
  select * into v_run from public.backfill_runs as r where r.run_id = p_run_id;
  if v_tally.run_id is not null then
    v_run.audit_count := v_tally.audit_count;
    v_run.audit_head := v_tally.audit_head;
    v_run.batches_granted := v_tally.batches_granted;
    v_run.next_batch_at := v_tally.next_batch_at;
    v_run.settled_since := v_tally.settled_since;
    v_run.failed_since := v_tally.failed_since;
    v_run.failed_in_row := v_tally.failed_in_row;
  end if;
  return v_run;
end
$$;

-- Keep what has changed of a run. The caller holds its row, and has asked run_now() since.
--
-- p_is_batch  a batch has changed it, and nothing else
create function backfill_private.keep_run(p_run public.backfill_runs, p_is_batch boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  if p_is_batch and p_run.state = 'running' then
    insert into backfill_private.tallies (
      run_id, audit_count, audit_head, batches_granted, next_batch_at, settled_since, failed_since, failed_in_row)
    values (p_run.run_id, p_run.audit_count, p_run.audit_head, p_run.batches_granted, p_run.next_batch_at,
      p_run.settled_since, p_run.failed_since, p_run.failed_in_row);
  else
    update public.backfill_runs
    set audit_count = p_run.audit_count,
        audit_head = p_run.audit_head,
        batches_granted = p_run.batches_granted,
        next_batch_at = p_run.next_batch_at,
        settled_since = p_run.settled_since,
        failed_since = p_run.failed_since,
        failed_in_row = p_run.failed_in_row
    where run_id = p_run.run_id;
    delete from backfill_private.tallies as t where t.run_id = p_run.run_id;
  end if;
end
$$;

-- from sql/30_run/throttle.sql
-- The throttle: how many sessions may start, and when. `allowance` decides it for every claim and every call in bulk.
--
-- Of a run, the starts in the last 60 seconds are counted. The project's bound over all runs and rehearsals,
-- max_throttle_per_minute, is kept by slots. There are as many as starts are allowed per minute. Each start takes one,
-- which is free again 60 seconds later, whatever becomes of its run. So no half-open window of 60 s holds more starts
-- than slots. A slot that another transaction is about to take is passed over: nobody waits for the end of somebody
-- else's scoring. Without a bound there are no slots, and nothing asks for one. Runs that could not keep the bound
-- together are refused before they start.
--
-- An operator may lower the rate of a run and raise it again, never beyond what was approved: 60_apply/pace.sql. All
-- that counts here asks `paced` for the rate in force. At each start, the starts of the 60 seconds up to it are at most
-- that rate.
--
-- A project that asks for less, by a 429, is answered in 60_apply/backoff_and_breaker.sql.

-- Refuse a throttle or a batch size that this project does not allow.
--
-- raises  OB013 a bound is broken. The message names it. Or the settings are gone
create function backfill_private.check_pace(p_throttle integer, p_batch_size integer)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (backfill_private.settings()).max_throttle_per_minute;
begin
  if p_throttle is null and v_most is not null then
    perform backfill_private.refuse('OB013',
      format('a throttle of none is not allowed here, at most %s per minute', v_most),
      format('backfill plan … --throttle %s', v_most));
  elsif p_throttle > v_most then
    perform backfill_private.refuse('OB013',
      format('throttle_per_minute %s is above the %s that this project allows', p_throttle, v_most),
      format('backfill plan … --throttle %s', v_most));
  elsif p_batch_size > p_throttle then
    perform backfill_private.refuse('OB013',
      format('batch_size %s is above throttle_per_minute %s: no batch could ever start', p_batch_size, p_throttle),
      format('backfill plan … --batch-size %s', p_throttle));
  end if;
end
$$;

-- A run's request at the rate in force. A batch above the rate is cut to it, and starts once a minute.
--
-- p_pace  see backfill_runs.pace_per_minute
create function backfill_private.paced(p_request jsonb, p_pace integer)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select p_request || case
    when p_pace is null then '{}'
    else jsonb_build_object(
      'throttle_per_minute', least((p_request ->> 'throttle_per_minute')::integer, p_pace),
      'batch_size', least((p_request ->> 'batch_size')::integer, p_pace))
  end
$$;

-- Starts per minute that are in force for a run. Null: there is no throttle.
create function backfill_private.rate_of(p_run public.backfill_runs)
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select (backfill_private.paced(p_run.request, p_run.pace_per_minute) ->> 'throttle_per_minute')::integer
$$;

-- Seconds between the grants of two batches, 0 without a throttle. Rounded up, so that no window gets one too many.
create function backfill_private.batch_spacing_s(p_request jsonb)
returns numeric
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    ceil(
      60000000.0 / floor((p_request ->> 'throttle_per_minute')::numeric / (p_request ->> 'batch_size')::numeric)
    ) / 1000000.0,
    0)
$$;

-- Seconds until the next batch may start, how many sessions it may hold, and what it waits for: throttle or health.
--
-- Exact over every half-open window of 60 s: batches keep their distance, and the starts of the last 60 s are counted,
-- those of the run and those of the project. The slots of a batch that may start at once are locked.
create function backfill_private.allowance(
  p_run public.backfill_runs, out wait_s numeric, out sessions integer, out why text, out wait_for text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_batch integer := (backfill_private.paced(p_run.request, p_run.pace_per_minute) ->> 'batch_size')::integer;
  v_throttle integer := backfill_private.rate_of(p_run);
  v_most integer := (select s.max_throttle_per_minute from public.backfill_settings as s);
  v_started bigint;
  v_oldest timestamptz;
  v_unwell text;
begin
  wait_for := 'throttle';
  wait_s := greatest(extract(epoch from p_run.next_batch_at - v_now), 0);
  sessions := v_batch;
  why := backfill_private.counted(v_throttle, 'start') || ' per minute';
  if v_throttle is not null and wait_s = 0 then
    select coalesce(sum(s.sessions), 0), min(s.started_at) into v_started, v_oldest
    from backfill_private.starts as s
    where s.run_id = p_run.run_id
      and s.started_at > v_now - interval '60 seconds';
    if v_started + v_batch > v_throttle then
      wait_s := greatest(extract(epoch from v_oldest + interval '60 seconds' - v_now), 0.001);
    end if;
  end if;
  if wait_s = 0 then
    v_unwell := backfill_private.unwell(p_run);
  end if;
  if v_unwell is not null then
    wait_s := 2;
    wait_for := 'health';
    why := v_unwell;
  elsif v_most is not null and wait_s = 0 then
    sessions := least(v_batch, v_most);
    wait_s := backfill_private.slots_wait_s(sessions);
    why := backfill_private.counted(v_most, 'start') || ' per minute of all runs and rehearsals of this project';
  end if;
end
$$;

-- Count starts, and set when the next batch may start.
--
-- raises  OB015 as take_slots
create function backfill_private.count_starts(p_run public.backfill_runs, p_sessions integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.run_now(p_run.run_id);
  v_now timestamptz := backfill_private.clock();
begin
  perform backfill_private.take_slots(p_sessions);
  insert into backfill_private.starts (run_id, started_at, sessions)
  values (p_run.run_id, v_now, p_sessions)
  on conflict (run_id, started_at) do update set sessions = backfill_private.starts.sessions + excluded.sessions;
  -- Old ones go. Not all that are older: what went before may still stand in the index, see tally.sql.
  delete from backfill_private.starts as s
  where s.run_id = p_run.run_id
    and s.started_at >= v_now - interval '20 minutes'
    and s.started_at < v_now - interval '10 minutes';
  if backfill_private.rate_of(p_run) is not null then
    v_run.next_batch_at := v_now
      + backfill_private.batch_spacing_s(backfill_private.paced(v_run.request, v_run.pace_per_minute))
      * interval '1 second';
    perform backfill_private.keep_run(v_run, true);
  end if;
end
$$;

-- How many starts per minute all running runs take together, without the one named. A run without a throttle, from
-- before the project had a bound, takes all of it.
create function backfill_private.share_taken(p_but uuid)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(sum(coalesce(backfill_private.rate_of(r), s.max_throttle_per_minute)), 0)
    from public.backfill_runs as r
    cross join public.backfill_settings as s
    where r.state = 'running'
      and r.run_id is distinct from p_but);
end
$$;

-- The throttles of all running runs together stay under the project's bound.
--
-- p_next  what helps, if that is not to start the run later
-- raises  OB015 they would not
create function backfill_private.check_share(p_run public.backfill_runs, p_next text default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (select max_throttle_per_minute from public.backfill_settings for no key update);
  v_taken bigint := backfill_private.share_taken(p_run.run_id);
begin
  if v_taken + coalesce(backfill_private.rate_of(p_run), v_most + 1) > v_most then
    perform backfill_private.refuse('OB015',
      format('running runs take %s of the %s starts per minute that this project allows', v_taken, v_most),
      coalesce(p_next, backfill_private.hint(p_run, 'throttle')));
  end if;
end
$$;

-- Keep as many slots as the bound says, from the moment that it is set. The ones taken last are kept, so that a lower
-- bound forgets no start of this minute. A first bound counts the sessions that have just started.
create function backfill_private.fit_slots()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most bigint := coalesce(new.max_throttle_per_minute, 0)::bigint;
  v_slots bigint;
begin
  -- What is under way may take some. It is waited for.
  perform from backfill_private.slots for update;
  select count(*) into v_slots from backfill_private.slots;
  delete from backfill_private.slots
  where slot in (
    select s.slot from backfill_private.slots as s order by s.used_at limit greatest(v_slots - v_most, 0));
  insert into backfill_private.slots (used_at)
  select coalesce(i.started_at, 'epoch')
  from generate_series(1, v_most - v_slots) as s (place)
  left join (
    select row_number() over (order by n.started_at desc) as place, n.started_at
    from public.backfill_items as n
    where n.started_at > backfill_private.clock() - interval '60 seconds'
      and v_slots = 0
  ) as i using (place);
  return null;
end
$$;

create trigger backfill_settings_slots after insert or update on public.backfill_settings
  for each row execute function backfill_private.fit_slots();

-- Free slots, at most so many, locked. Asked again in the same transaction, these are still free.
create function backfill_private.free_slots(p_starts bigint)
returns integer[]
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(f.slot), '{}')
  from (
    select s.slot
    from backfill_private.slots as s
    where s.used_at <= backfill_private.clock() - interval '60 seconds'
    limit p_starts
    for update skip locked
  ) as f
$$;

-- When so many slots will be free. Null: never, there are fewer.
create function backfill_private.slots_free_at(p_starts bigint)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select s.used_at + interval '60 seconds'
  from backfill_private.slots as s
  order by s.used_at
  offset p_starts - 1
  limit 1
$$;

-- Seconds until so many sessions may start under the project's bound. 0: at once, and their slots are locked.
create function backfill_private.slots_wait_s(p_starts bigint)
returns numeric
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_wait_s numeric;
begin
  if cardinality(backfill_private.free_slots(p_starts)) = p_starts then
    return 0::numeric;
  end if;
  v_wait_s := extract(epoch from backfill_private.slots_free_at(p_starts) - backfill_private.clock());
  -- If they are free and yet taken, somebody is just taking them.
  return case when v_wait_s > 0 then v_wait_s else 1::numeric end;
end
$$;

-- That the project's starts are taken, and until when, in words. Null: so many are free.
create function backfill_private.slots_taken(p_starts bigint)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select format('all %s starts per minute that this project allows are taken', s.max_throttle_per_minute)
    || coalesce(to_char(f.free_at at time zone 'UTC', '" until "HH24:MI:SS" UTC"'), '')
  from public.backfill_settings as s
  cross join backfill_private.slots_free_at(p_starts) as f (free_at)
  where s.max_throttle_per_minute is not null
    and coalesce(f.free_at > backfill_private.clock(), true)
$$;

-- Take slots for starts of this moment, if the project has a bound.
--
-- raises  OB015 they are not free. Nobody who asked for the wait meets this
create function backfill_private.take_slots(p_starts bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (select s.max_throttle_per_minute from public.backfill_settings as s);
  v_free integer[];
begin
  if v_most is null then
    return;
  end if;
  v_free := backfill_private.free_slots(p_starts);
  if cardinality(v_free) < p_starts then
    perform backfill_private.refuse('OB015',
      coalesce(backfill_private.slots_taken(p_starts), 'others are just taking the starts that this project allows'),
      'backfill runs --state running');
  end if;
  update backfill_private.slots set used_at = backfill_private.clock() where slot = any (v_free);
end
$$;

-- from sql/30_run/transient.sql
-- Transient: what must not outlive its transaction. The run that a rehearsal leases to is rolled back, and a call in
-- bulk is settled before it ends.
--
-- The doors see to that. Anyone who can send SQL could begin either without its door, and commit: a run that nobody
-- approved would be there, and run, and rows in bulk would have no receipt. So the commit is refused. A deferred
-- constraint is the only thing of PostgreSQL's that looks at a transaction's end.

-- Refuse to commit a row. `set constraints all immediate` asks too early, as a check of the user's deferred constraints
-- does: then the question is put off again. Who asks is told by the calls on the stack. At a commit there is none, or
-- the one that commits.
--
-- tg_argv  the row's key, what is said of it
-- raises   OB011 the row is still there
create function backfill_private.refuse_to_commit()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stack text;
  v_is_there boolean;
begin
  execute format('select exists (select from %1$s as t where t.%2$I = ($1).%2$I)', tg_relid::regclass, tg_argv[0])
  into v_is_there using new;
  if not v_is_there then
    return null;
  end if;
  get diagnostics v_stack = pg_context;
  if v_stack !~ '\n' or v_stack ~ ' COMMIT(\n|$)' then
    perform backfill_private.refuse('OB011', tg_argv[1], 'use the doors: backfill plan, backfill apply');
  end if;
  execute format('set constraints %I.%I deferred', tg_table_schema, tg_name);
  execute format('update %1$s as t set %2$I = t.%2$I where t.%2$I = ($1).%2$I', tg_relid::regclass, tg_argv[0])
  using new;
  return null;
end
$$;

create constraint trigger backfill_runs_rehearsed after insert or update on public.backfill_runs
  deferrable initially deferred
  for each row when (new.requested_via = 'rehearsal')
  execute function backfill_private.refuse_to_commit('run_id', 'the run of a rehearsal is rolled back, not committed');

-- from sql/40_plan/_tables.sql
-- Tables of planning: what the search found, and what a rehearsal saw.

-- What planning found, before the plan is sealed. Afterwards only the excluded sessions stay.
--
-- components  what the session lacks and what is wanted of it. Empty: it is found only for what is not wanted
-- not_wanted  {component: reason}, of components that it lacks and that are not wanted of it. Null: there is none
-- is_named    it is in the plan's priority list and needs nothing
create table backfill_private.findings (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  session_id text not null,
  session_at timestamptz,
  components text[] not null,
  not_wanted jsonb,
  excluded text,
  is_named boolean not null default false,
  primary key (run_id, session_id)
);

create table backfill_private.rehearsals (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  ordinal bigint not null,
  session_id text not null,
  session_at timestamptz not null,
  components text[] not null,
  category text not null,
  phase text not null,
  seen jsonb,
  primary key (run_id, session_id)
);

-- The rows of a rehearsed session as they stood at its moments. Written and read in the subtransaction that is rolled
-- back: empty to everyone else.
create table backfill_private.rehearsal_rows (
  scratch uuid not null,
  moment text not null check (moment in ('before', 'first', 'second', 'undone')),
  table_name text not null,
  row_key jsonb not null,
  contents jsonb not null,
  primary key (scratch, moment, table_name, row_key)
);

-- A table that a run writes: how many rows it plans for it, and how many of them replace one. See blast_radius.sql.
create type backfill_private.written_table as (relation regclass, planned_rows bigint, replaced_rows bigint);

-- from sql/40_plan/blast_radius.sql
-- Blast radius: what else a plan's writes set off, read from the catalogs when the plan is sealed.

-- One effect. p_events: how often this plan would cause it, null if that cannot be told.
create function backfill_private.effect(p_kind text, p_name text, p_table regclass, p_detail text, p_events bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'kind', p_kind,
    'name', p_name,
    'table', p_table::text,
    'detail', p_detail,
    'events', p_events)
$$;

-- The tables that a run writes, with their partitions: how many rows it plans for each, and how many of them replace
-- one.
create function backfill_private.written_tables(p_run_id uuid)
returns setof backfill_private.written_table
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    coalesce(part.relid, to_regclass(p.table_name)),
    sum(p.new + p.replaced)::bigint,
    sum(p.replaced)::bigint
  from backfill_private.planned_rows(p_run_id) as p
  left join lateral pg_partition_tree(to_regclass(p.table_name)) as part on true
  where to_regclass(p.table_name) is not null
  group by 1
$$;

-- Triggers of the user's that fire for what a run or its undo does. A webhook is named only by the host that it calls,
-- since its arguments may hold secrets. A trigger that a partition has from its parent is told once, at the parent.
create function backfill_private.trigger_effects(p_written backfill_private.written_table[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.effect(
    case when is_webhook then 'webhook' else 'trigger' end,
    g.tgname,
    w.relation,
    format('%s %s %s, %s; calls %s%s%s',
      case when g.tgtype & 2 <> 0 then 'before' else 'after' end,
      concat_ws(' or ',
        case when g.tgtype & 4 <> 0 then 'insert' end,
        case when g.tgtype & 16 <> 0 then 'update' end,
        case when g.tgtype & 8 <> 0 then 'delete (an undo)' end),
      case when g.tgtype & 1 <> 0 then 'for each row' else 'for each statement' end,
      case when g.tgenabled = 'A' then 'always enabled' else 'enabled' end,
      g.tgfoid::regproc,
      case when g.tgqual is not null then ', under a condition' else '' end,
      coalesce(' at ' || substring(encode(g.tgargs, 'escape') from '://([^/:\\]+)'), '')),
    case when g.tgtype & 4 <> 0 then w.planned_rows - w.replaced_rows else 0 end
      + case when g.tgtype & 16 <> 0 then w.replaced_rows else 0 end)
  from unnest(p_written) as w
  join pg_trigger as g
    on g.tgrelid = w.relation
    and not g.tgisinternal
    and g.tgparentid = 0
    and g.tgenabled in ('O', 'A')
  join pg_proc as p on p.oid = g.tgfoid
  join pg_namespace as n on n.oid = p.pronamespace
  cross join lateral (
    select n.nspname = 'supabase_functions'
      or p.prosrc ~* '\mhttp_(get|post|put|delete|request)\s*\(' as is_webhook
  ) as k
  where n.nspname <> 'backfill_private'
  order by w.relation::text, g.tgname
$$;

-- Who else sees the rows or refers to them: publications, foreign keys, materialized views.
create function backfill_private.listener_effects(p_written backfill_private.written_table[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.effect(
    'publication',
    b.pubname,
    w.relation,
    case
      when b.pubname = 'supabase_realtime' then 'realtime: every subscriber of the table is told'
      else 'every subscriber is sent the rows'
    end,
    case when b.pubinsert then w.planned_rows - w.replaced_rows else 0 end
      + case when b.pubupdate then w.replaced_rows else 0 end)
  from unnest(p_written) as w
  join pg_class as c on c.oid = w.relation
  join pg_publication_tables as t on to_regclass(format('%I.%I', t.schemaname, t.tablename)) = w.relation
  join pg_publication as b on b.pubname = t.pubname
  union all
  select backfill_private.effect(
    'foreign key',
    k.conname,
    w.relation,
    format('%s refers to these rows, on delete %s. An undo leaves a row that is referred to, and names it',
      k.conrelid::regclass,
      case k.confdeltype
        when 'c' then 'cascade'
        when 'n' then 'set null'
        when 'd' then 'set default'
        when 'r' then 'restrict'
        else 'no action'
      end),
    null)
  from unnest(p_written) as w
  join pg_constraint as k
    on k.contype = 'f'
    and k.confrelid = w.relation
    and k.conparentid = 0
  union all
  select distinct backfill_private.effect(
    'materialized view',
    v.oid::regclass::text,
    w.relation,
    'holds what the table held when it was refreshed last',
    null)
  from unnest(p_written) as w
  join pg_depend as d
    on d.refclassid = 'pg_class'::regclass
    and d.refobjid = w.relation
    and d.classid = 'pg_rewrite'::regclass
  join pg_rewrite as r on r.oid = d.objid
  join pg_class as v on v.oid = r.ev_class and v.relkind = 'm'
$$;

-- What the tables do by themselves: generated columns, numbers from sequences, policies that bind even their owner.
create function backfill_private.column_effects(p_written backfill_private.written_table[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.effect(
    case when a.attgenerated <> '' then 'generated column' else 'sequence' end,
    coalesce(q.name, a.attname),
    w.relation,
    case
      when a.attgenerated <> '' then 'computed by the table. An undo does not set it'
      else format('draws %s for each row. The rehearsal and an undo give none back', a.attname)
    end,
    w.planned_rows)
  from unnest(p_written) as w
  join pg_attribute as a
    on a.attrelid = w.relation
    and a.attnum > 0
    and not a.attisdropped
  left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
  -- A default names its sequence, and the sequence of an identity column names the column.
  left join lateral (
    select s.oid::regclass::text as name
    from pg_class as s
    join pg_depend as p
      on p.classid = 'pg_class'::regclass and p.objid = s.oid
        and p.refclassid = 'pg_class'::regclass and p.refobjid = a.attrelid and p.refobjsubid = a.attnum
        and p.deptype = 'i'
      or p.classid = 'pg_attrdef'::regclass and p.objid = d.oid
        and p.refclassid = 'pg_class'::regclass and p.refobjid = s.oid
    where s.relkind = 'S'
      and a.attgenerated = ''
    limit 1
  ) as q on true
  where a.attgenerated <> ''
    or a.attidentity <> ''
    or pg_get_expr(d.adbin, d.adrelid) like 'nextval(%'
  union all
  select backfill_private.effect(
    'policy',
    p.polname,
    w.relation,
    'row level security is forced: functions with their owner''s rights are subject to it',
    null)
  from unnest(p_written) as w
  join pg_class as c on c.oid = w.relation and c.relforcerowsecurity
  join pg_policy as p on p.polrelid = w.relation
$$;

-- Scheduled jobs whose command names one of the tables. None if pg_cron is not installed.
create function backfill_private.cron_effects(p_written backfill_private.written_table[])
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('cron.job') is null then
    return;
  end if;
  return query execute '
    select backfill_private.effect(
      ''cron job'',
      coalesce(j.jobname, j.jobid::text),
      w.relation,
      format(''runs at %s and names the table'', j.schedule),
      null)
    from unnest($1) as w
    join pg_class as c on c.oid = w.relation
    join cron.job as j on j.active and position(lower(c.relname) in lower(j.command)) > 0
    order by j.jobid'
  using p_written;
end
$$;

-- The functions that a function's body names before a parenthesis. SQL that it builds as text and executes is not seen.
create function backfill_private.called_functions(p_function oid)
returns setof oid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select distinct callee.oid
  from pg_proc as caller
  cross join lateral regexp_matches(
    regexp_replace(regexp_replace(caller.prosrc, '--[^\n]*', '', 'g'), '/\*.*?\*/', '', 'g'),
    '(?:("[^"]+"|[a-z_][a-z0-9_$]*)\s*\.\s*)?("[^"]+"|[a-z_][a-z0-9_$]*)\s*\(', 'gi') as named
  join pg_proc as callee
    on callee.proname = case when named[2] like '"%' then btrim(named[2], '"') else lower(named[2]) end
  join pg_namespace as n
    on n.oid = callee.pronamespace
    and n.nspname = coalesce(
      case when named[1] like '"%' then btrim(named[1], '"') else lower(named[1]) end,
      n.nspname)
  where caller.oid = p_function
    and callee.oid <> p_function
    and n.nspname not in ('pg_catalog', 'information_schema', 'backfill_private')
    and not exists (
      select from pg_depend as d
      where d.classid = 'pg_proc'::regclass
        and d.objid = callee.oid
        and d.deptype = 'e'
    )
  union
  select d.refobjid
  from pg_depend as d
  join pg_proc as callee on callee.oid = d.refobjid
  join pg_namespace as n
    on n.oid = callee.pronamespace
    and n.nspname not in ('pg_catalog', 'information_schema')
  where d.classid = 'pg_proc'::regclass
    and d.objid = p_function
    and d.refclassid = 'pg_proc'::regclass
$$;

-- Functions that run when the target is scored: those that no digest covers, and those that build SQL while they run.
create function backfill_private.function_effects(p_run_id uuid)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive covered as (
    select f.oid
    from public.backfill_runs as r
    cross join lateral backfill_private.scoring_functions(r.target) as f
    where r.run_id = p_run_id
      and f.oid is not null
    union
    select backfill_private.function_named(h)::oid
    from public.backfill_runs as r
    join public.backfill_targets as t on t.target = r.target
    cross join lateral unnest(t.helpers) as h
    where r.run_id = p_run_id
      and backfill_private.function_named(h) is not null
  ), reached as (
    select c.oid
    from covered as c
    union
    select f.oid
    from reached as r
    cross join lateral backfill_private.called_functions(r.oid) as f (oid)
  )
  select backfill_private.effect(
    'function',
    r.oid::regprocedure::text,
    null,
    concat_ws('; ',
      case when c.oid is null then 'scoring calls it and no digest covers it: list it in backfill_targets.helpers' end,
      case when p.prosrc ~* '\mexecute\M' and l.lanname = 'plpgsql'
        then 'it builds SQL while it runs, so its calls cannot be told' end),
    null)
  from reached as r
  join pg_proc as p on p.oid = r.oid
  join pg_language as l on l.oid = p.prolang
  left join covered as c on c.oid = r.oid
  where c.oid is null
    or p.prosrc ~* '\mexecute\M' and l.lanname = 'plpgsql'
  order by r.oid::regprocedure::text
$$;

-- All effects: [{kind, name, table, detail, events}].
create function backfill_private.blast_radius(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- The planned rows are counted once: a large plan takes its time.
  with w as materialized (
    select array(select t from backfill_private.written_tables(p_run_id) as t) as tables
  )
  select coalesce(jsonb_agg(e.effect order by e.place, e.number), '[]')
  from (
    select 1 as place, t.*
    from w, backfill_private.trigger_effects(w.tables) with ordinality as t (effect, number)
    union all
    select 2, t.*
    from w, backfill_private.listener_effects(w.tables) with ordinality as t (effect, number)
    union all
    select 3, t.*
    from w, backfill_private.column_effects(w.tables) with ordinality as t (effect, number)
    union all
    select 4, t.*
    from w, backfill_private.cron_effects(w.tables) with ordinality as t (effect, number)
    union all
    select 5, t.*
    from backfill_private.function_effects(p_run_id) with ordinality as t (effect, number)
  ) as e
$$;

-- from sql/40_plan/date_marks.sql
-- The mark on dates: how they are read, and which rows have none that a plan can take.

-- The mark on the dates of a source, of a plan and of a check, if there is something to know: how a column without a
-- time zone is read, how many selected rows have no date, and how many have one that no plan can take.
create function backfill_private.date_marks(p_source backfill_private.sources)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
as $$
declare
  v_words text := backfill_private.date_words(p_source.source_table, p_source.date_column);
  v_moment text := backfill_private.moment(
    p_source.source_table, p_source.date_column, format('s.%I', p_source.date_column));
  v_without bigint;
  v_beyond bigint;
begin
  execute format(
    'select count(*) filter (where s.%1$I is null), count(s.%1$I) from %2$s as s where %3$s',
    p_source.date_column,
    p_source.source_table::regclass,
    array_to_string(
      array(select f.condition from backfill_private.filter_conditions(p_source.target, 's.') as f)
        || format('(s.%1$I is null or %2$s < %3$L or %2$s >= %4$L)',
          p_source.date_column,
          v_moment,
          backfill_private.first_moment(),
          backfill_private.after_all_moments()),
      ' and '))
  into v_without, v_beyond;
  if v_without + v_beyond > 0 or v_words is not null then
    return next backfill_private.line(
      'dates of ' || backfill_private.bare_name(p_source.source_table),
      case when v_without + v_beyond > 0 then 'warn' else 'ok' end,
      concat_ws('; ',
        v_words,
        backfill_private.no_plan_takes(p_source.called, p_source.date_column, v_without, v_beyond)),
      format('give each a %s of the years 1 to 9999', p_source.date_column));
  end if;
end
$$;

-- from sql/40_plan/figures.sql
-- The figures of a plan: sessions, calls, writes, batches, run time.

-- The calls of a plan in their order: {component, components: all that the call fills, calls: how many, function,
-- transport, arguments: [[name, value; null: the session's id]], table, version_column, version, keeps_versions,
-- others: [{table, version_column, version, keeps_versions}] of the other components that it fills}.
create function backfill_private.plan_steps(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with shared as (
    select
      c.call,
      array_agg(c.component order by c.position) as components,
      jsonb_agg(
        jsonb_build_object(
          'component', t.component,
          'table', backfill_private.bare_name(t.table_name),
          'criteria', backfill_private.rows_name(t),
          'version_column', t.version_column,
          'version', r.request ->> t.version_parameter,
          'keeps_versions', coalesce(t.version_column = any (t.key_columns), false))
        order by c.position) as fills
    from public.backfill_runs as r
    cross join lateral backfill_private.calls_of(r.target, r.request) as c
    join public.backfill_targets as t on t.target = r.target and t.component = c.component
    where r.run_id = p_run_id
    group by c.call
  )
  select jsonb_agg(
    jsonb_build_object(
      'component', t.component,
      'components', s.components,
      'calls', (
        select count(*)
        from public.backfill_items as i
        where i.run_id = p_run_id and i.components && s.components
      ),
      'function', f.name,
      'transport', t.transport,
      'arguments', (
        select jsonb_agg(
          jsonb_build_array(a.key, case when a.value <> 'session_id' then r.request -> a.value end)
          order by array_position(p.proargnames, a.key), a.key)
        from jsonb_each_text(t.arguments) as a
      ),
      'others', s.fills - 0)
      || (s.fills -> 0)
    order by t.position)
  from public.backfill_runs as r
  join public.backfill_targets as t on t.target = r.target
  join shared as s on s.call = t.component
  join backfill_private.scoring_functions(r.target) as f on f.component = t.component
  left join pg_proc as p on p.oid = f.oid
  where r.run_id = p_run_id
$$;

-- The figures: candidates, categories, expected calls and writes.
create function backfill_private.plan_figures(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with items as (
    select i.* from public.backfill_items as i where i.run_id = p_run_id
  ), components as (
    select t.*, (select count(*) from items as i where t.component = any (i.components)) as missing
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_run_id
  ), steps as (
    select backfill_private.plan_steps(p_run_id) as told
  ), calls as (
    select s ->> 'function' as name, sum((s ->> 'calls')::bigint) as made
    from steps, jsonb_array_elements(steps.told) as s
    group by 1
  ), writes as (
    select backfill_private.bare_name(p.table_name) as name, p.new, p.replaced, p.versions
    from backfill_private.planned_rows(p_run_id) as p
  )
  select jsonb_build_object(
    'candidates', jsonb_build_object(
      'total', (select count(*) from items),
      'missing', (select jsonb_object_agg(c.component, c.missing) from components as c),
      'missing_all', (
        select count(*)
        from items as i
        where cardinality(i.components) = (select count(*) from components)
      )),
    'categories', (
      select jsonb_object_agg(c.category, (select count(*) from items as i where i.category = c.category))
      from backfill_private.categories((select target from public.backfill_runs where run_id = p_run_id)) as c
    ),
    'phases', (
      select jsonb_object_agg(p.phase, (select count(*) from items as i where i.phase = p.phase))
      from unnest(array['priority', 'recent', 'historical']) as p (phase)
    ),
    'expected_calls',
      (select jsonb_object_agg(c.name, c.made) || jsonb_build_object('total', sum(c.made)) from calls as c),
    'expected_writes', (
      select jsonb_object_agg(w.name, w.new + w.replaced)
        || jsonb_build_object(
          'total', sum(w.new + w.replaced),
          'new', jsonb_object_agg(w.name, w.new),
          'replaced', jsonb_object_agg(w.name, w.replaced))
      from writes as w
    ),
    'replaced_versions', (
      select jsonb_object_agg(w.name, w.versions)
      from writes as w
    ),
    'steps', (select s.told from steps as s),
    'batches', (select max(i.batch) from items as i),
    'oldest', (select min(i.session_at) from items as i),
    'newest', (select max(i.session_at) from items as i))
$$;

-- The excluded sessions of a plan, at most 1,000. What was named comes first. What has no date that a plan can take
-- comes late, and what is beyond a limit last.
--
-- returns  [{session_id, reason}]
create function backfill_private.excluded_figures(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_agg(jsonb_build_object('session_id', e.session_id, 'reason', e.excluded) order by e.place),
    '[]')
  from (
    select
      f.session_id,
      f.excluded,
      row_number() over (
        order by
          f.is_named desc,
          f.excluded is not distinct from backfill_private.beyond_limit(p_run),
          f.session_at desc nulls last, f.session_id) as place
    from backfill_private.findings as f
    where f.run_id = p_run.run_id and f.excluded is not null
    order by place
    limit 1000
  ) as e
$$;

-- Which components are missing and not wanted, of how many sessions, and why.
--
-- returns  [{component, sessions, reason}]
create function backfill_private.not_wanted_figures(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_agg(jsonb_build_object('component', n.component, 'sessions', n.sessions, 'reason', n.reason)
      order by t.position, n.sessions desc, n.reason),
    '[]')
  from (
    select w.key as component, w.value as reason, count(*) as sessions
    from backfill_private.findings as f
    cross join lateral jsonb_each_text(f.not_wanted) as w
    where f.run_id = p_run.run_id and f.session_at is not null and (f.excluded is null or f.is_named)
    group by w.key, w.value
  ) as n
  join public.backfill_targets as t on t.target = p_run.target and t.component = n.component
$$;

-- The sealed plan of a run: figures, pace, excluded sessions, marks.
create function backfill_private.measure_plan(p_run_id uuid, p_round_trip_ms numeric, p_probed jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_figures jsonb := backfill_private.plan_figures(p_run_id);
  v_spacing numeric;
  v_rehearsal jsonb := backfill_private.rehearsal_figures(p_run_id, p_round_trip_ms);
begin
  select * into strict v_run from public.backfill_runs where run_id = p_run_id;
  v_spacing := backfill_private.batch_spacing_s(v_run.request);
  return v_figures || jsonb_build_object(
    'called', (select to_jsonb(s.called) from backfill_private.sources as s where s.target = v_run.target),
    'batch_spacing_s', trim_scale(v_spacing),
    'expected_runtime_s', case
      when v_run.request ->> 'throttle_per_minute' is not null
      then trim_scale(((v_figures ->> 'batches')::integer - 1) * v_spacing)
    end,
    'excluded_total', (
      select count(*)
      from backfill_private.findings
      where run_id = p_run_id and excluded is not null
    ),
    'excluded', backfill_private.excluded_figures(v_run),
    'undated', (
      select count(*)
      from backfill_private.findings as f
      where f.run_id = p_run_id and f.session_at is null and not f.is_named
    ),
    'not_wanted', backfill_private.not_wanted_figures(v_run),
    'settings', backfill_private.settings_now(),
    'rehearsal', v_rehearsal,
    'blast_radius', backfill_private.blast_radius(p_run_id),
    'checks',
      coalesce(
        v_run.data_marks,
        (select coalesce(jsonb_agg(m), '[]') from backfill_private.data_marks(p_run_id) as m))
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.kind_marks(p_run_id) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.table_marks(v_run.target) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.image_marks(v_run.target, p_run_id) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.function_marks(v_run.target, p_probed) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.environment_mark() as m)
      || backfill_private.throttle_mark(v_run.request)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.approval_policy_mark() as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.mode_marks(p_run_id, v_rehearsal) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.rehearsal_marks(p_run_id, v_rehearsal) as m));
end
$$;

-- from sql/40_plan/freshness.sql
-- Freshness: what changed since a plan was sealed, for anyone who approves or applies it later.

-- Sessions that a plan like this would name now and this one does not: candidates by the run's own request, in its
-- range, among the ids to which it limits itself. Those that were beyond its limit are not new. They are named for the
-- next plan. No run is ever widened by them. While a key of the target does not hold, no plan can name any.
--
-- returns  {new_candidates: [session id], the newest first, at most 1,000, new_candidates_total}
create function backfill_private.new_candidates(p_run public.backfill_runs)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_found jsonb;
begin
  if backfill_private.key_fault(p_run.target) is not null then
    return '{"new_candidates": [], "new_candidates_total": 0}'::jsonb;
  end if;
  perform set_config('backfill.request', p_run.request::text, true);
  -- Materialized, so that answers are counted only for what is left after the join, not for every planned session.
  execute format(
    'with unplanned as materialized (
       select g.session_id, g.session_at, g.excluded, g.components
       from %s as g
       left join public.backfill_items as item
         on item.run_id = $1 and item.source = $2 and item.session_id = g.session_id
       left join backfill_private.findings as beyond
         on beyond.run_id = $1 and beyond.session_id = g.session_id and beyond.excluded = $5
       where item.run_id is null
         and beyond.run_id is null
         and g.session_at >= $3
         and g.session_at < $4
         and ($6 is null or g.session_id in (select unnest($6)))
     ), found as (
       select u.session_id, row_number() over (order by u.session_at desc, u.session_id) as place
       from unplanned as u where u.excluded is null and u.components <> ''{}''
     )
     select jsonb_build_object(
       ''new_candidates'', coalesce(jsonb_agg(f.session_id order by f.place) filter (where f.place <= 1000), ''[]''),
       ''new_candidates_total'', count(*))
     from found as f',
    backfill_private.gaps_view(p_run.target)::regclass)
  into v_found
  using p_run.run_id, p_run.target, (p_run.request ->> 'since_at')::timestamptz,
    coalesce((p_run.request ->> 'until_before')::timestamptz, backfill_private.after_all_moments()),
    backfill_private.beyond_limit(p_run), backfill_private.asked_ids(p_run);
  perform set_config('backfill.request', '', true);
  return v_found;
end
$$;

-- The pending sessions of a run that somebody else has filled since. A claim will skip them.
--
-- returns  {filled: [session id], in the plan's order, at most 1,000, filled_total}
create function backfill_private.filled_meanwhile(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'filled', coalesce(jsonb_agg(f.session_id order by f.place) filter (where f.place <= 1000), '[]'),
    'filled_total', count(*))
  from (
    select
      i.session_id,
      row_number() over (order by i.ordinal) as place
    from backfill_private.effects(p_run_id) as e
    join public.backfill_items as i
      on i.run_id = p_run_id
      and i.ordinal = e.ordinal
      and i.state = 'pending'
    group by i.ordinal, i.session_id
    having bool_and(e.is_present and not e.has_receipt)
  ) as f
$$;

-- The pending sessions of a run that its target no longer selects. A claim will skip them.
--
-- returns  {unselected: [{session_id, reason}], in the plan's order, at most 1,000, unselected_total}
create function backfill_private.unselected_meanwhile(p_run public.backfill_runs)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'unselected', coalesce(
      jsonb_agg(jsonb_build_object('session_id', f.session_id, 'reason', f.why) order by f.place)
        filter (where f.place <= 1000),
      '[]'),
    'unselected_total', count(*))
  from (
    select u.session_id, u.why, row_number() over (order by u.ordinal) as place
    from (select p_run as run where backfill_private.key_fault(p_run.target) is null) as k
    cross join lateral backfill_private.unselected(k.run) as u
  ) as f
$$;

-- The pending sessions of a run for which it planned a new row, and a row of another version stands in its place now.
--
-- returns  {replacing: [session id], in the plan's order, at most 1,000, replacing_total}
create function backfill_private.replaced_meanwhile(p_run public.backfill_runs)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_found jsonb;
  v_conditions text;
  v_joins text;
begin
  select
    string_agg(format('(%s is not null and not item.replaces ? %L)', r.version_sql, r.component), ' or '),
    string_agg(r.join_sql, ' ')
  into v_conditions, v_joins
  from backfill_private.replaced_joins(p_run) as r;
  execute format(
    'select jsonb_build_object(
       ''replacing'', coalesce(jsonb_agg(f.session_id order by f.place) filter (where f.place <= 1000), ''[]''),
       ''replacing_total'', count(*))
     from (
       select item.session_id, row_number() over (order by item.ordinal) as place
       from public.backfill_items as item
       %s
       where item.run_id = $1
         and item.state = ''pending''
         and (%s)
     ) as f',
    v_joins,
    coalesce(v_conditions, 'false'))
  into v_found
  using p_run.run_id;
  return v_found;
end
$$;

-- Definitions and settings that are not what they were at sealing, and keys that no longer name one row.
--
-- returns  [{kind: definition | setting | key, name, was, now}]. was and now of a definition are fingerprints, null if
--          it did not exist or is gone
create function backfill_private.changes_since_sealing(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with looked_at (kind, was, now) as (
    values ('definition', p_run.fingerprint, backfill_private.definitions(p_run.target)),
      ('setting', p_run.plan -> 'settings', backfill_private.settings_now())
  )
  select coalesce(jsonb_agg(to_jsonb(c) order by c.kind, c.name), '[]')
  from (
    select l.kind, n.name, l.was ->> n.name as was, l.now ->> n.name as now
    from looked_at as l
    cross join lateral (
      select jsonb_object_keys(l.was)
      union
      select jsonb_object_keys(l.now)
    ) as n (name)
    where l.was ->> n.name is distinct from l.now ->> n.name
    union all
    select 'key', format('of %s (%s)', k.table_name, array_to_string(k.key_columns, ', ')), 'unique', 'not: ' || k.fault
    from backfill_private.key_standings(p_run.target) as k
    where k.fault is not null
  ) as c
$$;

-- What changed since a plan was sealed.
--
-- returns  {run_id, state, filled, filled_total, replacing, replacing_total, unselected, unselected_total,
--          new_candidates, new_candidates_total,
--          changes, digest_matches, approved_until, approval_left_s}. Null if nothing more will come of the plan
-- raises   OB001 no such run, OB010 not allowed
create function backfill_private.freshness(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('read');
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if v_run.run_id is null then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  elsif v_run.state not in ('awaiting_approval', 'approved', 'running', 'paused') then
    return null;
  end if;
  return jsonb_build_object(
      'run_id', p_run_id,
      'state', v_run.state,
      'changes', backfill_private.changes_since_sealing(v_run),
      'digest_matches', backfill_private.compute_digest(p_run_id) = v_run.digest,
      'approved_until', v_run.approved_until,
      'approval_left_s', case
        when v_run.approved_until is not null
        then greatest(extract(epoch from v_run.approved_until - backfill_private.clock()), 0)
      end)
    || backfill_private.filled_meanwhile(p_run_id)
    || backfill_private.replaced_meanwhile(v_run)
    || backfill_private.unselected_meanwhile(v_run)
    || backfill_private.new_candidates(v_run);
end
$$;

-- from sql/40_plan/function_marks.sql
-- The marks on the scoring functions: can the API call them as a run will? The database says what it knows, and a
-- client adds how the API answered, since only the API knows its schema cache and what is deployed.

-- The scoring functions of a target in their order, each with the first thing that is wrong with it.
--
-- fault  null: nothing. edge: an Edge Function, which the database does not hold. gone: it does not exist. procedure:
--        the API calls none. arguments: they have other names. required: the calls leave some out. overload: the calls
--        fit another function too. rights: service_role may not execute it
create function backfill_private.scoring_faults(p_target text)
returns table (component text, name text, function regprocedure, wanted text[], present text[], lacks text[],
  confused_with text, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    t.component,
    f.name,
    p.oid::regprocedure,
    named.wanted,
    inputs.names,
    array(select unnest(inputs.required) except select unnest(named.wanted) order by 1),
    other.name,
    case
      when t.transport = 'edge' then 'edge'
      when p.oid is null then 'gone'
      when p.prokind = 'p' then 'procedure'
      when not coalesce(named.wanted <@ inputs.names, false) then 'arguments'
      when not inputs.required <@ named.wanted then 'required'
      when other.name is not null then 'overload'
      when not has_function_privilege('service_role', p.oid, 'execute') then 'rights'
    end
  from public.backfill_targets as t
  join backfill_private.scoring_functions(p_target) as f on f.component = t.component
  left join pg_proc as p on p.oid = f.oid
  left join lateral backfill_private.input_names(p.oid) as inputs on true
  cross join lateral (
    select array_agg(a order by a) as wanted
    from jsonb_object_keys(t.arguments) as a
  ) as named
  cross join lateral backfill_private.confused_with(p.oid, named.wanted) as other (name)
  where t.target = p_target
  order by t.position
$$;

-- What the database says of the scoring functions, each with what to do about it.
create function backfill_private.function_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    case f.fault when 'edge' then 'Edge Function ' else 'function ' end || f.name,
    case when f.fault is null then 'ok' when f.fault = 'edge' then 'warn' else 'fail' end,
    case f.fault
      when 'edge' then
        format('version %s, as declared: not measured, the database does not hold it', t.function_version)
      when 'gone' then format('%s does not exist', t.function_signature)
      when 'procedure' then format('%s is a procedure, and the API calls only functions', f.function)
      when 'arguments' then format('the arguments are %s, the calls name %s', f.present, f.wanted)
      when 'required' then format('%s needs %s too, and the calls do not name it', f.function,
        array_to_string(f.lacks, ', '))
      when 'overload' then
        format('the API cannot choose between %s and %s: a call fits both (PGRST203)', f.function, f.confused_with)
      when 'rights' then 'service_role may not execute it'
      else format('%s exists, service_role may execute it', f.function)
    end,
    case f.fault
      when 'edge' then 'declare the version anew whenever you deploy it: backfill install --target FILE'
      when 'gone' then
        format('create it, or: update public.backfill_targets set function_signature = ''…'''
        ' where target = %L and component = %L;', t.target, t.component)
      when 'procedure' then 'make it a function that returns void: create function … returns void'
      when 'arguments' then
        format('name its arguments: update public.backfill_targets set arguments = ''{"argument": "parameter", …}'''
        ' where target = %L and component = %L;', t.target, t.component)
      when 'required' then 'give it a default, or declare it under arguments: backfill install --target FILE'
      when 'overload' then
        format('drop %s, or rename one of them or its arguments, then: backfill install --target FILE', f.confused_with)
      when 'rights' then format('grant execute on function %s to service_role;', f.function)
    end)
  from backfill_private.scoring_faults(p_target) with ordinality as f
  join public.backfill_targets as t on t.target = p_target and t.component = f.component
  -- A function that fills several components is told once, unless its calls differ in what is wrong with them.
  where not exists (
    select from backfill_private.scoring_faults(p_target) with ordinality as before
    where before.ordinality < f.ordinality
      and before.name = f.name
      and before.function is not distinct from f.function
      and (before.wanted, before.fault) is not distinct from (f.wanted, f.fault))
  order by f.ordinality
$$;

-- Why the API finds no function for a call, or several, and what to do. Null if this is no such answer about a function
-- of the target: the code of an Edge Function may be that of a call of its own.
--
-- p_code, p_message  as the API answered
create function backfill_private.call_cause(p_target text, p_code text, p_message text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_code = 'PGRST203'
      then format('The target declares %s: drop %s, or rename it', f.function, f.confused_with)
    when f.fault = 'procedure' then format('%s is a procedure: make it a function', f.function)
    when f.fault = 'gone' then format('%s is not there: create it', f.name)
    when f.fault is null
      then format('%s is there, and the API has not seen it: notify pgrst, ''reload schema'';', f.function)
  end
  from backfill_private.scoring_faults(p_target) as f
  where p_code in ('PGRST202', 'PGRST203')
    and f.fault is distinct from 'edge'
    and (p_code = 'PGRST203') = (f.confused_with is not null)
    and strpos(p_message, format('public.%s(', f.name)) > 0
  limit 1
$$;

-- The marks on the scoring functions, of a check and of a plan: what the database says, and how the API answered.
--
-- p_probed  [{mark, status, detail, next}] of the functions that a client has asked the API about. A fault that the
--           database knows goes first, for it knows what to do
create function backfill_private.function_marks(p_target text, p_probed jsonb)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p.detail is null or f.line ->> 'status' = 'fail' then f.line
    when p.status = 'ok' then f.line || jsonb_build_object('detail', concat_ws('; ', f.line ->> 'detail', p.detail))
    else backfill_private.line(f.line ->> 'name', p.status, p.detail, p.next)
  end
  from backfill_private.function_lines(p_target) with ordinality as f (line, place)
  left join lateral (
    select
      case when x.status in ('ok', 'warn') then x.status else 'fail' end as status,
      left(x.detail, 500) as detail,
      left(x.next, 500) as next
    from jsonb_path_query(coalesce(p_probed, '[]'), 'lax $[*] ? (@.type() == "object")') as o
    cross join lateral jsonb_to_record(o) as x (mark text, status text, detail text, next text)
    where x.mark = f.line ->> 'name'
    limit 1
  ) as p on true
  order by f.place
$$;

-- The calls that a client can ask the API about, by their marks. A run in bulk calls inside the database.
--
-- p_run_id  of this run. Null: of every target
-- returns   [{mark, transport, function, arguments: [name]}]
-- raises    OB010 the caller may not read
create function backfill_private.calls_to_probe(p_run_id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  return (
    select coalesce(jsonb_agg(
      jsonb_build_object(
        'mark', case t.transport when 'edge' then 'Edge Function ' else 'function ' end || f.name,
        'transport', t.transport,
        'function', f.name,
        'arguments', (select jsonb_agg(a order by a) from jsonb_object_keys(t.arguments) as a))
      order by t.target, t.position), '[]')
    from public.backfill_targets as t
    cross join lateral backfill_private.scoring_functions(t.target) as f
    where f.component = t.component
      and (p_run_id is null or exists (
        select from public.backfill_runs as r
        where r.run_id = p_run_id
          and r.target = t.target
          and (r.request ->> 'mode' is distinct from 'bulk' or jsonb_array_length(r.request -> 'priority') > 0))));
end
$$;

-- from sql/40_plan/images.sql
-- Before-images: would an undo give back every value that stands in a target's tables now?

-- The columns of a table with a value that does not come back bit by bit from how its type writes it, or not at all.
--
-- Only values can tell, so some rows are looked at. Types of which it is known are left out.
-- p_run_id  null: any 1,000 rows. Else the rows of the run's first 1,000 sessions, which it may overwrite
create function backfill_private.lossy_columns(p_target public.backfill_targets, p_run_id uuid)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
declare
  v_column record;
  v_is_exact boolean;
  v_lossy text[] := array[]::text[];
  v_rows text := case
    when p_run_id is null then format('(select * from %s limit 1000) as t', p_target.table_name::regclass)
    else format(
      '(select i.session_id from public.backfill_items as i where i.run_id = %L order by i.ordinal limit 1000) as item
       join %s as t on t.%I = %s',
      p_run_id,
      p_target.table_name::regclass,
      p_target.session_column,
      backfill_private.session_key(p_target.target))
  end;
begin
  for v_column in
    select
      a.attname as name,
      format_type(a.atttypid, a.atttypmod) as type,
      backfill_private.base_type(a.atttypid, a.atttypmod) as base
    from pg_attribute as a
    where a.attrelid = to_regclass(p_target.table_name)
      and a.attnum > 0
      and not a.attisdropped
      and a.attgenerated = ''
      and a.atttypid <> all (array['boolean', 'smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision',
        'uuid', 'text', 'character varying', 'character', 'date', 'timestamptz', 'timestamp', 'jsonb', 'json',
        'bytea']::regtype[])
    order by a.attnum
  loop
    begin
      execute format(
        'select bool_and(record_image_eq(row(s.was), row(format(''%%s'', s.was)::%1$s)))
         from (select t.%2$I::%1$s as was from %3$s) as s
         where s.was is not null',
        v_column.base,
        v_column.name,
        v_rows)
      into v_is_exact;
    exception when assert_failure or others then
      v_is_exact := false;
    end;
    if not v_is_exact then
      v_lossy := v_lossy || format('%s (%s)', v_column.name, v_column.type);
    end if;
  end loop;
  return v_lossy;
end
$$;

-- The marks on before-images, of a check and of a plan. None if every value comes back.
--
-- p_run_id  null in a check
create function backfill_private.image_marks(p_target text, p_run_id uuid)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    'before-images of ' || t.table_name,
    case when planned.columns <> '{}' then 'fail' else 'warn' end,
    'an undo cannot restore exactly what is overwritten in '
      || array_to_string(coalesce(nullif(planned.columns, '{}'), standing.columns), ', '),
    'keep a copy of these rows before the run, or let the scoring function leave them as they are')
  from public.backfill_targets as t
  cross join lateral (select backfill_private.lossy_columns(t, null) as columns) as standing
  cross join lateral (
    select case when p_run_id is not null then backfill_private.lossy_columns(t, p_run_id) else '{}' end as columns
  ) as planned
  where t.target = p_target
    and to_regclass(t.table_name) is not null
    and backfill_private.leads_table(t)
    and standing.columns || planned.columns <> '{}'
  order by t.position
$$;

-- from sql/40_plan/marks.sql
-- The marks of a plan. Each is a measurement of what the run would meet.

-- Marks on the kinds of rows that a request names beside the versions: a kind that no row has may be a typing error.
-- A target's default needs no row: its scoring functions write it.
create function backfill_private.kind_marks(p_run_id uuid)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind record;
  v_found boolean;
begin
  for v_kind in
    select
      t.table_name::regclass as tab,
      backfill_private.bare_name(t.table_name) as name,
      m.key as matched,
      backfill_private.value_type(t.table_name, m.key) as type,
      m.value as parameter,
      r.request ->> m.value as given,
      s.defaults ->> m.value as usual
    from public.backfill_runs as r
    join backfill_private.sources as s on s.target = r.target
    join public.backfill_targets as t on t.target = r.target
    cross join lateral jsonb_each_text(t.matches) as m
    where r.run_id = p_run_id
      and r.request ->> m.value is distinct from s.defaults ->> m.value
    order by t.position, m.key
  loop
    execute format('select exists (select from %s as t where t.%I %s %L)',
        v_kind.tab, v_kind.matched, backfill_private.equals(v_kind.type),
        backfill_private.spelled(v_kind.type, v_kind.given))
      into v_found;
    return next backfill_private.mark(
      v_kind.parameter,
      case when v_found then 'ok' else 'warn' end,
      case
        when v_found then format('%s has rows of %s %s', v_kind.name, v_kind.matched, v_kind.given)
        else format('no row of %s has %s %s, so it may be misspelt. The usual one is %s',
          v_kind.name, v_kind.matched, v_kind.given, v_kind.usual)
      end);
  end loop;
end
$$;

-- The mark on the throttle of a plan.
create function backfill_private.throttle_mark(p_request jsonb)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_request ->> 'throttle_per_minute' is null
    then backfill_private.mark('throttle', 'warn', 'none: the run goes as fast as the database answers')
    else backfill_private.mark('throttle', 'ok',
      format('at most %s in any 60 s, batches of at most %s start %s s apart',
        backfill_private.counted((p_request ->> 'throttle_per_minute')::bigint, 'start'),
        p_request ->> 'batch_size',
        trim_scale(backfill_private.batch_spacing_s(p_request))))
  end
$$;

-- The mark on the environment, of a check and of a plan. None if the settings have no row.
create function backfill_private.environment_mark()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    'environment',
    case when s.environment is null then 'warn' else 'ok' end,
    coalesce(
      'this project is ' || s.environment,
      'not set: nothing keeps a plan from being applied to the wrong project'),
    'update public.backfill_settings set environment = ''production'' where only_row;  -- or its name, such as staging')
  from public.backfill_settings as s
$$;

-- The mark on the approval policy, of a check and of a plan. None if the settings have no row.
create function backfill_private.approval_policy_mark()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    'approval policy',
    case when s.approval_policy = 'any' and not s.require_aal2 then 'warn' else 'ok' end,
    s.approval_policy
      || case
           when s.require_aal2 then ', with a second factor'
           when s.approval_policy = 'any' then ': the service key may approve its own plan'
           when s.approval_policy = 'second_person'
           then ': the SQL editor, or an approver who did not ask for the plan'
           else ''
         end
      || case
           when s.undo_policy <> 'any'
           then format('. An undo of more than %s needs an approver who did not ask for it',
             backfill_private.counted(s.undo_policy_rows, 'row'))
           else ''
         end,
    'update public.backfill_settings set approval_policy = ''second_person'' where only_row;')
  from public.backfill_settings as s
$$;

-- Marks on the data of a plan: what selects its sessions, and each need of its sessions.
create function backfill_private.data_marks(p_run_id uuid)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_source backfill_private.sources;
  v_need jsonb;
  v_mark jsonb;
  v_words text;
  v_condition text;
begin
  select s.* into strict v_source
  from backfill_private.sources as s
  join public.backfill_runs as r on r.target = s.target
  where r.run_id = p_run_id;
  select string_agg(f.words, ', '), string_agg(f.condition, ' and ')
  into v_words, v_condition
  from backfill_private.filter_conditions(v_source.target, 's.') as f;
  if v_words is not null then
    execute format(
      'select backfill_private.mark(
         %L,
         case when count(*) = count(*) filter (where %s) then ''ok'' else ''fail'' end,
         format(''%%s of %%s %%s %%s'', count(*) filter (where %2$s), count(*),
           case count(*) filter (where %2$s) when 1 then ''has'' else ''have'' end, %L))
       from public.backfill_items as item
       left join %s as s on s.%I = %s
       where item.run_id = $1',
      'rows of ' || backfill_private.bare_name(v_source.source_table),
      v_condition,
      v_words,
      v_source.source_table::regclass,
      v_source.key_column,
      backfill_private.session_key(v_source.target))
    into v_mark
    using p_run_id;
    return next v_mark;
  end if;
  return query select * from backfill_private.unmatched_marks(v_source.target);
  return query select * from backfill_private.date_marks(v_source);
  for v_need in select n from jsonb_array_elements(v_source.needs) as n loop
    return next backfill_private.need_mark(p_run_id, v_need);
  end loop;
end
$$;

-- The mark on one need: how many of the sessions that it concerns have enough rows of it.
create function backfill_private.need_mark(p_run_id uuid, p_need jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_component text := p_need ->> 'component';
  v_sessions bigint;
  v_enough bigint;
  v_least bigint;
  v_most bigint;
  v_named text;
begin
  execute format('
    -- Materialized, or each row would be counted once for every figure.
    with counted as materialized (
      select
        item.session_id,
        item.phase,
        (select count(*) from %s as n where n.%I = %s) as has
      from public.backfill_items as item
      where item.run_id = $1 and ($2 is null or $2 = any (item.components))
    )
    select
      count(*) as sessions,
      count(*) filter (where c.has >= $3) as enough,
      min(c.has) as least,
      max(c.has) as most,
      string_agg(format(''%%s has %%s'', left(c.session_id, 8), c.has), '', '' order by c.session_id)
        filter (where c.phase = ''priority'' and $2 is not null) as named
    from counted as c',
    (p_need ->> 'table')::regclass,
    p_need ->> 'column',
    (select backfill_private.session_key(r.target) from public.backfill_runs as r where r.run_id = p_run_id))
  into v_sessions, v_enough, v_least, v_most, v_named
  using p_run_id, v_component, (
    select (r.request ->> (p_need ->> 'parameter'))::bigint
    from public.backfill_runs as r
    where r.run_id = p_run_id
  );
  return backfill_private.mark(
    p_need ->> 'name',
    case when v_enough = v_sessions then 'ok' else 'fail' end,
    format('%s of %s%s %s enough',
        v_enough,
        backfill_private.called_in(p_run_id, v_sessions),
        coalesce(case v_sessions when 1 then ' that lacks ' else ' that lack ' end || v_component, ''),
        case v_enough when 1 then 'has' else 'have' end)
      || coalesce(', ' || v_least || ' to ' || v_most || ' each', '')
      || coalesce('; priority: ' || v_named, ''));
end
$$;

-- The marks on the tables that exist, of a check and of a plan: rights of service_role, row level security, our
-- triggers. Each says what to do about it.
create function backfill_private.table_marks(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select m.mark
  from public.backfill_targets as t
  join pg_class as c on c.oid = to_regclass(t.table_name)
  join pg_roles as service on service.rolname = 'service_role'
  cross join lateral (
    select
      has_table_privilege(service.oid, c.oid, 'insert') as inserts,
      has_table_privilege(service.oid, c.oid, 'update') as updates,
      (select string_agg(u.name, ', ') from backfill_private.unguarded(t.table_name) as u (name)) as bare
  ) as seen
  cross join lateral (values
    (1, backfill_private.line('service_role writes ' || t.table_name,
      case when seen.inserts and seen.updates then 'ok' else 'fail' end,
      format('insert %s, update %s',
        case when seen.inserts then 'granted' else 'not granted' end,
        case when seen.updates then 'granted' else 'not granted' end),
      format('grant select, insert, update, delete on %s to service_role;', c.oid::regclass))),
    (2, backfill_private.line('row level security of ' || t.table_name,
      case when not c.relrowsecurity then 'warn' when service.rolbypassrls then 'ok' else 'fail' end,
      format('%s, service_role %s',
        case when c.relrowsecurity then 'on' else 'off' end,
        case when service.rolbypassrls then 'passes it by' else 'is subject to it' end),
      case
        when c.relrowsecurity then 'alter role service_role bypassrls;'
        else format('alter table %s enable row level security;', c.oid::regclass)
      end)),
    (3, backfill_private.line('receipts of ' || t.table_name,
      case when seen.bare is not null then 'fail' when t.receipts = 'inferred' then 'warn' else 'ok' end,
      coalesce('triggers are missing or not always enabled on ' || seen.bare, case
        when t.receipts = 'inferred'
        then 'inferred from the rows before and after: gate, leases and receipts hold at claim and settle, '
          'not at the write'
        else 'triggers in place, always enabled'
      end),
      backfill_private.trigger_cure(t)))
  ) as m (place, mark)
  where t.target = p_target
    and backfill_private.leads_table(t)
  order by t.position, m.place
$$;

-- The mark on how a run is scored. If bulk would matter, it says what each mode would take. No mark if nothing was
-- measured or the throttle is the clock.
--
-- p_figures  see backfill_private.rehearsal_figures
create function backfill_private.mode_marks(p_run_id uuid, p_figures jsonb)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(
    'mode',
    'ok',
    case r.request ->> 'mode' when 'bulk' then 'bulk' else 'direct' end
      || format(': about %s s call by call', p_figures ->> 'runtime_s')
      || case
           when t.is_edge then ''
           when (p_figures ->> 'alone')::boolean then ', much the same in bulk: each in a transaction of its own'
           else format(', %s s in bulk, of which one call is made at a time', timed.bulk_s)
         end
      || case
           when not t.is_edge
             and not (p_figures ->> 'alone')::boolean
             and r.request ->> 'mode' = 'direct'
             and timed.bulk_s * 2 < (p_figures ->> 'runtime_s')::numeric
           then format('; backfill plan --like %s --mode bulk --batch-size 500', r.run_id)
           else ''
         end)
  from public.backfill_runs as r
  cross join lateral (
    select bool_or(x.transport = 'edge') as is_edge
    from public.backfill_targets as x
    where x.target = r.target
  ) as t
  cross join lateral (
    select round(count(*) * (p_figures #>> '{took_ms,p50}')::numeric / 1000, 1) as bulk_s
    from public.backfill_items as i
    where i.run_id = r.run_id
  ) as timed
  where r.run_id = p_run_id
    and r.request ->> 'throttle_per_minute' is null
    and p_figures ->> 'runtime_s' is not null
    and timed.bulk_s is not null
$$;

-- from sql/40_plan/rehearsal_marks.sql
-- What a rehearsal says: figures and marks of the plan, from what was seen of the sessions in its sample.

-- The rehearsed sessions of a run, one row each, flat.
create function backfill_private.rehearsed(p_run_id uuid)
returns table (
  ordinal bigint, session_id text, category text, phase text, took_ms numeric, leased_ms numeric, calls jsonb,
  error jsonb, seen jsonb
)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    s.ordinal,
    s.session_id,
    s.category,
    s.phase,
    (select sum((c ->> 'took_ms')::numeric) from jsonb_array_elements(s.seen -> 'calls') as c),
    (s.seen ->> 'leased_ms')::numeric,
    s.seen -> 'calls',
    coalesce(nullif(s.seen -> 'error', 'null'), case
      when s.seen is null
      then '{"step": "the rehearsal", "code": "lost", "message": "no answer came back"}'
      when s.seen ->> 'without_effect' is not null
      then jsonb_build_object(
        'step', s.seen ->> 'without_effect',
        'code', 'OB017',
        'message', 'no effect: the function answered and left no row of the wanted version')
    end),
    s.seen
  from backfill_private.rehearsals as s
  where s.run_id = p_run_id and (s.seen is null or s.seen ? 'calls')
$$;

-- Seconds that a run will take: its throttle's pace, or the calls if they take longer. Four sessions are called at a
-- time, and one batch after the other.
--
-- p_round_trip_ms  what a call takes outside the database, as the client measured it. Null: unknown, not counted
-- returns          null if nothing was measured
create function backfill_private.estimate_s(p_run_id uuid, p_round_trip_ms numeric)
returns numeric
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with measured as (
    select
      percentile_cont(0.5) within group (order by r.took_ms) as session_ms,
      percentile_cont(0.5) within group (order by r.leased_ms) as leased_ms
    from backfill_private.rehearsed(p_run_id) as r
    where r.error is null
      and (r.ordinal > 1 or not exists (
        select from backfill_private.rehearsed(p_run_id) as other
        where other.error is null and other.ordinal > 1
      ))
  ), calls as materialized (
    select c.component, c.call
    from public.backfill_runs as r
    cross join lateral backfill_private.calls_of(r.target, r.request) as c
    where r.run_id = p_run_id
  ), batches as (
    select
      i.batch,
      ceil(count(*) / 4.0) as waves,
      avg((select count(distinct c.call) from calls as c where c.component = any (i.components))) as calls
    from public.backfill_items as i
    where i.run_id = p_run_id
    group by i.batch
  ), timed as (
    select
      b.batch,
      (
        b.waves * (m.session_ms + b.calls * coalesce(p_round_trip_ms, 0))
        + 2 * (m.leased_ms + coalesce(p_round_trip_ms, 0))
      ) / 1000 as batch_s
    from batches as b
    cross join measured as m
  )
  select round(
    (sum(case
      when t.batch < (select max(b.batch) from batches as b)
      then greatest(t.batch_s, backfill_private.batch_spacing_s(r.request)::double precision)
      else t.batch_s
    end))::numeric,
    1)
  from timed as t, public.backfill_runs as r
  where r.run_id = p_run_id
$$;

-- The figures of a rehearsal. Null if there was none.
--
-- returns  {sessions: [{session_id, category, phase, took_ms, calls, error}], rows: {table: {before, after, inserted,
--          updated, deleted}}, took_ms: {p50, p95} of a session's calls without the first session, round_trip_ms,
--          runtime_s, alone: in bulk each session needs a transaction of its own}
create function backfill_private.rehearsal_figures(p_run_id uuid, p_round_trip_ms numeric)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with seen as (
    select * from backfill_private.rehearsed(p_run_id)
  ), timed as (
    select s.took_ms
    from seen as s
    where s.error is null
      and (s.ordinal > 1 or not exists (
        select from seen as other
        where other.error is null and other.ordinal > 1
      ))
  ), counted as (
    select t.key as table_name, c.key as what, sum((c.value #>> '{}')::bigint) as total
    from seen as s
    cross join lateral jsonb_each(s.seen -> 'tables') as t
    cross join lateral jsonb_each(t.value - 'columns') as c
    group by t.key, c.key
  )
  select jsonb_build_object(
    'sessions', (
      select jsonb_agg(to_jsonb(s) - array['ordinal', 'seen', 'leased_ms'] order by s.ordinal)
      from seen as s
    ),
    'rows', (
      select jsonb_object_agg(n.table_name, n.counts)
      from (
        select c.table_name, jsonb_object_agg(c.what, c.total) as counts
        from counted as c
        group by c.table_name
      ) as n
    ),
    'took_ms', (
      select jsonb_build_object(
        'p50', round(percentile_cont(0.5) within group (order by t.took_ms)::numeric, 1),
        'p95', round(percentile_cont(0.95) within group (order by t.took_ms)::numeric, 1))
      from timed as t
      having count(*) > 0
    ),
    'round_trip_ms', round(p_round_trip_ms, 1),
    'runtime_s', backfill_private.estimate_s(p_run_id, p_round_trip_ms),
    'alone', backfill_private.alone_because(p_run_id) is not null)
  where exists (select from seen)
$$;

-- Columns by table in words: table.column, table.column. Null if there are none.
create function backfill_private.named_columns(p_columns jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(t.key || '.' || c.name, ', ' order by t.key, c.name)
  from jsonb_each(p_columns) as t
  cross join lateral jsonb_array_elements_text(t.value) as c (name)
$$;

-- The columns that changed between two moments, over all rehearsed sessions, by table: {table: [column]}.
--
-- p_path  where the tables are in what was seen: {tables}, {second,tables} or {undone,tables}
create function backfill_private.columns_changed(p_run_id uuid, p_path text[])
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_object_agg(n.table_name, n.columns), '{}')
  from (
    select t.key as table_name, jsonb_agg(distinct c.name order by c.name) as columns
    from backfill_private.rehearsed(p_run_id) as r
    cross join lateral jsonb_each(r.seen #> p_path) as t
    cross join lateral jsonb_array_elements_text(t.value -> 'columns') as c (name)
    group by t.key
  ) as n
$$;

-- How many rows of a kind came between two moments, over all rehearsed sessions, in words: 2 of the table. Null: none.
--
-- p_what  inserted, updated or deleted
create function backfill_private.rows_changed(p_run_id uuid, p_path text[], p_what text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(format('%s of %s', n.total, n.table_name), ', ' order by n.table_name)
  from (
    select t.key as table_name, sum((t.value ->> p_what)::bigint) as total
    from backfill_private.rehearsed(p_run_id) as r
    cross join lateral jsonb_each(r.seen #> p_path) as t
    group by t.key
  ) as n
  where n.total > 0
$$;

-- The errors of the rehearsed calls by call and code, each with one of its messages, in words. Null if none failed.
create function backfill_private.rehearsed_errors(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format('%s: %s, %s (%s)',
      e.step,
      case when e.is_limit then 'slower than the limit of a statement' else concat_ws(' ', e.code, e.message) end,
      e.sessions,
      e.categories),
    '; ' order by e.step, e.code)
  from (
    select
      r.error ->> 'step' as step,
      r.error ->> 'code' as code,
      bool_or(r.error ->> 'is_limit' = 'true') as is_limit,
      min(r.error ->> 'message') as message,
      backfill_private.called_in(p_run_id, count(*)) as sessions,
      string_agg(distinct r.category, ', ' order by r.category) as categories
    from backfill_private.rehearsed(p_run_id) as r
    where r.error is not null
    group by 1, 2
  ) as e
$$;

-- Marks on what was rehearsed: calls, time, a second call, another session, overwritten rows, writes elsewhere, undo.
create function backfill_private.rehearsal_marks(p_run_id uuid, p_figures jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query select m from backfill_private.scoring_calls_mark(p_run_id) as m where m is not null;
  return query select m from backfill_private.earlier_writes_mark(p_run_id) as m where m is not null;
  return query select m from backfill_private.repetition_mark(p_run_id) as m where m is not null;
  if p_figures -> 'took_ms' is null or p_figures -> 'took_ms' = 'null' then
    return;  -- a mark that nobody measured would be none
  end if;
  return next backfill_private.mark('rehearsal: scoring time', 'ok',
    format('p50 %s ms, p95 %s ms for the calls of each, the first one left out',
      p_figures #>> '{took_ms,p50}', p_figures #>> '{took_ms,p95}'));
  return next backfill_private.second_call_mark(p_run_id);
  return query select m from backfill_private.one_transaction_mark(p_run_id) as m where m is not null;
  return next backfill_private.existing_rows_mark(p_run_id);
  return next backfill_private.other_tables_mark(p_run_id);
  return next backfill_private.undo_mark(p_run_id);
end
$$;

-- Did the calls succeed? Null: none was to be made.
create function backfill_private.scoring_calls_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(
    'rehearsal: scoring calls',
    case when told.sample = 0 then 'warn' when told.errors is not null then 'fail' else 'ok' end,
    case
      when told.sample = 0
      then coalesce('not measured: ' || told.edge, 'not rehearsed' || coalesce(': ' || told.why, ''))
      when told.errors is not null
      then format('%s of %s failed. %s', told.sample - told.good, told.called, told.errors)
      else format('%s of %s %s scored and rolled back, none failed',
          told.sample,
          (
            select backfill_private.called_in(p_run_id, count(*))
            from public.backfill_items as i
            where i.run_id = p_run_id
          ),
          case told.sample when 1 then 'was' else 'were' end)
        || coalesce('. Not measured: ' || told.edge, '')
    end)
  from (
    select
      count(*) as sample,
      count(*) filter (where r.error is null) as good,
      backfill_private.called_in(p_run_id, count(*)) as called,
      backfill_private.rehearsed_errors(p_run_id) as errors,
      (
        select string_agg(distinct s.seen ->> 'why', ', ')
        from backfill_private.rehearsals as s
        where s.run_id = p_run_id
      ) as why,
      (
        select string_agg(f.name, ', ' order by f.position) || ', which no transaction takes back'
        from public.backfill_runs as run
        cross join lateral backfill_private.scoring_functions(run.target) as f
        where run.run_id = p_run_id and f.transport = 'edge'
      ) as edge
    from backfill_private.rehearsed(p_run_id) as r
  ) as told
  where told.sample > 0 or coalesce(told.edge, told.why) is not null
$$;

-- Would rows that already exist be overwritten or deleted?
create function backfill_private.existing_rows_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when told.text = '' then backfill_private.mark('rehearsal: existing rows', 'ok', 'none is changed')
    else backfill_private.mark('rehearsal: existing rows', 'warn', told.text || '. The receipts keep what they were')
  end
  from (
    select concat_ws('; ',
      'it overwrites ' || backfill_private.rows_changed(p_run_id, '{tables}', 'updated')
        || coalesce(
          ' (' || backfill_private.named_columns(backfill_private.columns_changed(p_run_id, '{tables}')) || ')',
          ''),
      'it deletes ' || backfill_private.rows_changed(p_run_id, '{tables}', 'deleted')) as text
  ) as told
$$;

-- Does scoring write to tables that are not the target's?
create function backfill_private.other_tables_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when w.names is null then backfill_private.mark('rehearsal: other tables', 'ok', 'none is written')
    else backfill_private.mark('rehearsal: other tables', 'warn',
      format('it also writes to %s: without a receipt, so an undo leaves that', w.names))
  end
  from (
    select string_agg(format('%s (%s)', t.name, t.counts), ', ' order by t.name) as names
    from (
      select n.name, string_agg(format('%s %s', n.total, n.what), ', ' order by n.what) as counts
      from (
        select e.key as name, c.key as what, sum(c.value::bigint) as total
        from backfill_private.rehearsed(p_run_id) as r
        cross join lateral jsonb_each(r.seen -> 'elsewhere') as e
        cross join lateral jsonb_each_text(e.value) as c
        group by e.key, c.key
      ) as n
      where n.total > 0
      group by n.name
    ) as t
  ) as w
$$;

-- Was an earlier run of the same target seen to write to tables that no component names? Null if none was.
create function backfill_private.earlier_writes_mark(p_run_id uuid)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark('other tables', 'warn', format(
    'while run %s scored its first sessions, it or somebody else wrote to %s: '
    'without a receipt, so an undo leaves that',
    earlier.run_id,
    (select string_agg(distinct w ->> 'table', ', ') from jsonb_array_elements(earlier.written) as w)))
  from (
    select e.run_id, backfill_private.written_elsewhere(e.run_id) as written
    from backfill_private.elsewhere as e
    join public.backfill_runs as other using (run_id)
    join public.backfill_runs as mine on mine.run_id = p_run_id and mine.target = other.target
    where e.run_id <> p_run_id
    order by e.since desc
    limit 5
  ) as earlier
  where earlier.written <> '[]'
  limit 1
$$;

-- Does an undo give back what was there before?
create function backfill_private.undo_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when told.text <> '' then backfill_private.mark('rehearsal: undo', 'warn', told.text)
    when told.looked_at = 0
    then backfill_private.mark('rehearsal: undo', 'warn',
      'not rehearsed: the time limit came first, or somebody waited for the rows')
    else backfill_private.mark('rehearsal: undo', 'ok', 'gives back every row as it was')
  end
  from (
    select
      (select count(*) from backfill_private.rehearsed(p_run_id) as r where r.seen ? 'undone') as looked_at,
      concat_ws('; ',
        'it leaves a row where ' || (
          select string_agg(distinct c.reason, ', ')
          from backfill_private.rehearsed(p_run_id) as r
          cross join lateral jsonb_array_elements_text(r.seen #> '{undone,conflicts}') as c (reason)
        ),
        'a trigger of the table sets again '
          || backfill_private.named_columns(backfill_private.columns_changed(p_run_id, '{undone,tables}')),
        'it leaves behind ' || backfill_private.rows_changed(p_run_id, '{undone,tables}', 'inserted'),
        'it does not bring back ' || backfill_private.rows_changed(p_run_id, '{undone,tables}', 'deleted')) as text
  ) as told
$$;

-- from sql/40_plan/repetition_mark.sql
-- What the API would call again without end: its version, and the mark on such calls. See also 60_apply/repetition.sql.

-- The version of the API, as it calls itself in this session or in another one. Null if nobody says it.
create function backfill_private.api_version()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    substring(current_setting('application_name') from '^PostgREST ([0-9][0-9.]*)'),
    (
      select max(substring(a.application_name from '^PostgREST ([0-9][0-9.]*)'))
      from pg_stat_activity as a
      where a.datname = current_database()
    ))
$$;

-- Does this API call a function that raises 40001 or 40P01 again without end? True if its version is unknown.
create function backfill_private.api_repeats()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(split_part(backfill_private.api_version(), '.', 1)::integer < 16, true)
$$;

-- The line of a check on the API's version. No line if it is unknown.
create function backfill_private.api_line()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    'PostgREST',
    case when v.repeats and r.names is not null then 'warn' else 'ok' end,
    v.version || case
      when not v.repeats then ''
      else ': before version 16 it calls a function that raises 40001 or 40P01 again without end'
        || coalesce(', as may ' || r.names, '')
    end,
    'raise another code there, or score inside the database: backfill plan --mode bulk')
  from (select backfill_private.api_version() as version, backfill_private.api_repeats() as repeats) as v
  cross join lateral (
    select string_agg(distinct p.oid::regprocedure::text, ', ') as names
    from public.backfill_targets as t
    cross join lateral unnest(t.helpers || case t.transport when 'rpc' then t.function_signature end) as h (signature)
    join pg_proc as p on p.oid = backfill_private.function_named(h.signature)
    where p.prosrc ~* '40001|40P01|serialization_failure|deadlock_detected'
  ) as r
  where v.version is not null
$$;

-- Does a function raise what the API answers by calling it again? Null if none was seen to.
create function backfill_private.repetition_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(
    'rehearsal: calls that the API repeats',
    'fail',
    format('%s raised %s. PostgREST before version 16 calls such a function again without end: direct mode is not safe '
      'here. backfill plan --like %s --mode bulk, without priority sessions, scores inside the database',
      min(r.error ->> 'step'), string_agg(distinct r.error ->> 'code', ' and '), p_run_id))
  from backfill_private.rehearsed(p_run_id) as r
  where r.error ->> 'code' in ('40001', '40P01')
    and backfill_private.api_repeats()
    and exists (
      select from public.backfill_runs as run
      where run.run_id = p_run_id
        and (run.request ->> 'mode' is distinct from 'bulk' or jsonb_array_length(run.request -> 'priority') > 0))
  having count(*) > 0
$$;

-- from sql/40_plan/replaced.sql
-- Replaced: which planned rows take the place of a row that stands, told apart from new ones before anybody approves.

-- The condition under which a row t of a component's table has the key of the row that is planned for item.session_id,
-- as SQL. A table has one row per value of a unique index, so every index counts whose columns a plan knows: session,
-- version and kind. The declared key is one of them, or wider.
--
-- returns  null if a plan knows the columns of no unique index
create function backfill_private.same_key_condition(p_target public.backfill_targets, p_request jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with known as (
    select
      c.name,
      format('t.%I %s %s', c.name, coalesce(backfill_private.equals(v.type), '='), case
        when c.parameter is null then backfill_private.session_key(p_target.target)
        else backfill_private.value_sql(p_target.target, c.parameter, v.type, p_request)
      end) as condition
    from (
      select p_target.session_column as name, null as parameter
      union all
      select p_target.version_column, p_target.version_parameter
      union all
      select m.key, m.value
      from jsonb_each_text(p_target.matches) as m
    ) as c
    cross join lateral (select backfill_private.value_type(p_target.table_name, c.name) as type) as v
    where v.type is not null
  ), of_indexes as (
    select (
      select string_agg(k.condition, ' and ' order by i.place)
      from unnest(x.indkey::smallint[]) with ordinality as i (attnum, place)
      join pg_attribute as a
        on a.attrelid = x.indrelid
        and a.attnum = i.attnum
      join known as k on k.name = a.attname
      where i.place <= x.indnkeyatts
      having count(*) = x.indnkeyatts
        and bool_or(a.attname = p_target.session_column)
    ) as condition
    from pg_index as x
    where x.indrelid = to_regclass(p_target.table_name)
      and x.indisunique
      and x.indisvalid
      and x.indpred is null
  )
  select string_agg(distinct format('(%s)', o.condition), ' or ')
  from of_indexes as o
  where o.condition is not null
$$;

-- For the sessions item of a plan: a join that finds the version of the row which each component's row will replace,
-- and its column, as SQL. A target of which no row can be replaced has none.
create function backfill_private.replaced_joins(p_run public.backfill_runs)
returns table (component text, version_sql text, join_sql text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    t.component,
    format('r%s.version', t.position),
    format(
      'left join lateral (
         select %s as version
         from %s as t
         where (%s)
           and (%s) is not true
         limit 1
       ) as r%s on %L = any (item.components)',
      backfill_private.version_text(t),
      t.table_name::regclass,
      c.condition,
      -- A row that counts as present is left, and never replaced.
      coalesce(
        nullif(array_to_string(backfill_private.kind_conditions(t, 't', p_run.request, false), ' and '), ''),
        'true'),
      t.position,
      t.component)
  from public.backfill_targets as t
  cross join lateral (select backfill_private.same_key_condition(t, p_run.request) as condition) as c
  where t.target = p_run.target
    and c.condition is not null
  order by t.position
$$;

-- How many rows of each table a run plans as new, and how many rows it replaces, by their version.
create function backfill_private.planned_rows(p_run_id uuid)
returns table (place integer, table_name text, new bigint, replaced bigint, versions jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with counted as (
    select p.component, i.replaces ->> p.component as version, count(*) as planned
    from public.backfill_items as i
    cross join lateral unnest(i.components) as p (component)
    where i.run_id = p_run_id
    group by 1, 2
  ), of_tables as (
    select t.position, t.table_name, c.version, c.planned
    from public.backfill_runs as r
    join public.backfill_targets as t on t.target = r.target
    left join counted as c on c.component = t.component
    where r.run_id = p_run_id
  )
  select
    min(o.position),
    o.table_name,
    coalesce(sum(o.planned) filter (where o.version is null), 0)::bigint,
    coalesce(sum(o.planned) filter (where o.version is not null), 0)::bigint,
    coalesce((
      select jsonb_object_agg(v.version, v.planned)
      from (
        select x.version, sum(x.planned) as planned
        from of_tables as x
        where x.table_name = o.table_name
          and x.version is not null
        group by x.version
      ) as v
    ), '{}')
  from of_tables as o
  group by o.table_name
$$;

-- from sql/40_plan/request.sql
-- Request: the parameters of a plan, checked and normalised before anything is collected.

-- Every parameter of a request, and what a request gains when it is normalised. Python's class Request mirrors it, and
-- a test holds the two equal. The parameters of a target are in its own rows.
--
-- kind         moment: a day or a timestamp. number: a whole one. text. ids: a list of ids, see naming.sql.
--              versions: by component. values: by name. derived: from others, never given
-- least, most  bounds: of a number, or of the length of a list or a text. Null: none of its own
-- usual        its value when it is not given
-- is_digested  it is in the normal form, so it goes into the digest. The others are used up while planning
-- is_kept      a plan made like another takes it over
create view backfill_private.request_parameters with (security_invoker = true) as
select * from (values
  ('target',              'text',     null::integer, 200,           null::jsonb, true,  true),
  ('mode',                'text',     null,          200,           '"direct"',  true,  true),
  ('inferred',            'text',     null,          200,           null,        true,  true),
  ('environment',         'text',     null,          200,           null,        true,  true),
  ('since',               'moment',   null,          null,          null,        true,  true),
  ('since_at',            'derived',  null,          null,          null,        true,  false),
  ('until',               'moment',   null,          null,          null,        true,  true),
  ('until_before',        'derived',  null,          null,          null,        true,  false),
  ('recent_since',        'moment',   null,          null,          null,        true,  false),
  ('throttle_per_minute', 'number',   1,             999999999,     null,        true,  true),
  -- In bulk a batch is a call. Without a throttle small batches would cost calls for nothing, so there it is 500.
  -- A claim and a settling of a thousand stay well within the eight seconds of a call.
  ('batch_size',          'number',   1,             1000,          '5',         true,  true),
  ('priority',            'ids',      0,             100,           '[]',        true,  true),
  ('ids',                 'ids',      0,             1000,          null,        true,  true),
  ('limit',               'number',   1,             999999999,     null,        true,  true),
  ('want',                'versions', null,          null,          '{}',        false, false),
  ('parameters',          'values',   null,          null,          '{}',        false, false),
  ('rehearse',            'number',   0,             999999999,     null,        false, false)
) as parameter (name, kind, least, most, usual, is_digested, is_kept);

-- A whole number from a request, within bounds. Null if absent, or if no throttle is asked for by the word none. A
-- parameter of a target may be any number from 0 on.
--
-- raises  OB013 no whole number, or out of bounds
create function backfill_private.whole_number(p_request jsonb, p_name text)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := p_request ->> p_name;
  v_least integer;
  v_most integer;
begin
  if v_text is null or (p_name = 'throttle_per_minute' and v_text = 'none') then
    return null;
  end if;
  select p.least, p.most into v_least, v_most from backfill_private.request_parameters as p where p.name = p_name;
  v_least := coalesce(v_least, 0);
  v_most := coalesce(v_most, 999999999);
  -- Nine digits fit into an integer, under any bounds.
  if v_text !~ '^-?\d{1,9}$' or v_text::integer not between v_least and v_most then
    perform backfill_private.refuse('OB013',
      format('%s is a whole number from %s to %s, not %s', p_name, v_least, v_most,
        case when length(v_text) > 40 then left(v_text, 20) || '…' else v_text end),
      concat('backfill plan …', case p_name
        when 'throttle_per_minute' then ' --throttle 20'
        when 'batch_size' then ' --batch-size 5'
        when 'limit' then ' --limit 10'
        else format(', with a %s of 1', p_name) end));
  end if;
  return v_text::integer;
end
$$;

-- The wanted versions of a request: from --want component=version or the named parameters, else the target's.
--
-- raises  OB013 an unknown component, or two versions of one
create function backfill_private.wanted_versions(p_target text, p_request jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_unknown text;
  v_twice record;
begin
  select w.key into v_unknown
  from jsonb_each_text(coalesce(p_request -> 'want', '{}')) as w
  where not exists (
    select from public.backfill_targets as t
    where t.target = p_target
      and t.component = w.key
      and t.version is not null);
  if found then
    perform backfill_private.refuse('OB013',
      case
        when exists (
          select from public.backfill_targets as t
          where t.target = p_target
            and t.component = v_unknown)
        then format('%s of target %s has no version', v_unknown, p_target)
        else format('target %s has no component %s', p_target, left(v_unknown, 80))
      end,
      coalesce(
        format('backfill plan … --want COMPONENT=V, with one of: ' || (
          select string_agg(t.component, ', ' order by t.position)
          from public.backfill_targets as t
          where t.target = p_target
            and t.version is not null
        )),
        'backfill plan …, without --want'));
  end if;
  select
    t.component,
    t.version_parameter,
    w.wanted,
    w.named,
    case when p_request ->> t.version_parameter is null then 'want of ' || other.component else t.version_parameter end
      as named_by
  into v_twice
  from public.backfill_targets as t
  join public.backfill_targets as other on other.target = t.target and other.version_parameter = t.version_parameter
  cross join lateral (
    select
      p_request -> 'want' ->> t.component as wanted,
      coalesce(p_request ->> t.version_parameter, p_request -> 'want' ->> other.component) as named
  ) as w
  where t.target = p_target
    and (backfill_private.is_one_version(t, w.wanted, w.named)
      and backfill_private.is_one_version(other, w.wanted, w.named)) is false
  limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      format('two versions of %s are wanted: want says %s, %s says %s',
        v_twice.component, left(v_twice.wanted, 40), v_twice.named_by, left(v_twice.named, 40)),
      format('backfill plan … --want %s=V, or --%s V, not both',
        v_twice.component, replace(v_twice.version_parameter, '_', '-')));
  end if;
  return (
    -- Components with one call may share a parameter.
    select coalesce(jsonb_object_agg(v.name, v.version), '{}')
    from (
      select
        t.version_parameter as name,
        coalesce(min(p_request -> 'want' ->> t.component), min(p_request ->> t.version_parameter), min(t.version))
          as version
      from public.backfill_targets as t
      where t.target = p_target
        and t.version is not null
      group by t.version_parameter
    ) as v
  );
end
$$;

-- What a request sets instead of its target's defaults: a number if the default is one, else a name.
--
-- raises  OB013 a number is none
create function backfill_private.given_defaults(p_defaults jsonb, p_request jsonb)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_object_agg(d.key, case
      when jsonb_typeof(d.value) = 'number' then to_jsonb(backfill_private.whole_number(p_request, d.key))
      else p_request -> d.key
    end),
    '{}')
  from jsonb_each(p_defaults) as d where p_request ->> d.key is not null
$$;

-- A request with the parameters of its target that stand under `parameters`. A name given in the request itself wins.
--
-- raises  OB013 the target has no such parameter
create function backfill_private.named_parameters(p_target text, p_request jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_known text[] := backfill_private.parameter_names(p_target);
  v_unknown text := (
    select n
    from jsonb_object_keys(coalesce(nullif(p_request -> 'parameters', 'null'), '{}')) as n
    where n <> all (v_known) limit 1);
begin
  if v_unknown is not null then
    perform backfill_private.refuse('OB013',
      format('target %s has no parameter %s', p_target, left(v_unknown, 80)),
      format('backfill plan … --set NAME=VALUE, with one of: %s', array_to_string(v_known, ', ')));
  end if;
  return coalesce(nullif(p_request -> 'parameters', 'null'), '{}') || jsonb_strip_nulls(p_request);
end
$$;

-- Refuse names that name nothing: versions and kinds that are empty, or longer than those of any row.
--
-- raises  OB013 the first of them
create function backfill_private.check_names(p_names jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name record;
begin
  select n.key, n.value, btrim(n.value) = '' as is_empty into v_name
  from jsonb_each_text(p_names) as n
  where btrim(n.value) = '' or length(n.value) > 200 limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      case
        when v_name.is_empty then format('%s is empty', v_name.key)
        else format('%s is longer than 200 characters: %s…', v_name.key, left(v_name.value, 40))
      end,
      'leave it out, or give a value');
  end if;
end
$$;

-- Refuse a request of the wrong form. It must be an object. Each value has the form of its parameter's kind: a list of
-- texts, versions or values by name, or a single value.
--
-- raises  OB013 the first that has another form
create function backfill_private.check_form(p_request jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_wrong record;
begin
  if jsonb_typeof(p_request) is distinct from 'object' then
    perform backfill_private.refuse('OB013',
      'a request is an object of parameters by name', 'backfill plan --since 2025-08-01 …');
  end if;
  select r.key, p.kind, p.most into v_wrong
  from jsonb_each(p_request) as r
  cross join lateral (select jsonb_typeof(r.value) as form) as t
  left join backfill_private.request_parameters as p on p.name = r.key
  where t.form <> 'null'
    and case
      when p.kind = 'ids'
      then t.form <> 'array'
        or jsonb_path_exists(r.value, 'strict $[*] ? (@.type() != "string")')
        or jsonb_array_length(r.value) > p.most
      when p.kind in ('versions', 'values')
      then t.form <> 'object'
        or jsonb_path_exists(r.value, 'strict $.* ? (@.type() == "object" || @.type() == "array")')
      when p.kind = 'text'
      then t.form in ('object', 'array') or length(r.value #>> '{}') > p.most
      else t.form in ('object', 'array')
    end
  limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      format('%s is %s', left(v_wrong.key, 80), case v_wrong.kind
        when 'ids' then format('a list of at most %s ids', v_wrong.most)
        when 'versions' then 'versions by component'
        when 'values' then 'values by name'
        when 'text' then format('a text of at most %s characters', v_wrong.most)
        else 'a single value' end),
      'backfill plan --help');
  end if;
end
$$;

-- How a run is scored: direct, one call per step, or bulk, one call per batch inside the database.
--
-- raises  OB013 it is neither, or an Edge Function is among the scorers
create function backfill_private.check_mode(p_target text, p_mode text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_edge text := (
    select string_agg(t.function_signature, ', ') from public.backfill_targets as t
    where t.target = p_target and t.transport = 'edge');
begin
  if p_mode not in ('direct', 'bulk') then
    perform backfill_private.refuse('OB013',
      format('mode is direct or bulk, not %s', left(p_mode, 40)), 'backfill plan … --mode bulk');
  elsif p_mode = 'bulk' and v_edge is not null then
    perform backfill_private.refuse('OB013',
      format('bulk calls only SQL functions, target %s has %s', p_target, v_edge),
      'backfill plan …, without --mode');
  end if;
  return p_mode;
end
$$;

-- Every parameter of the list with its value: the one given, or its usual one.
--
-- raises  OB013 a number is none, or is out of bounds
create function backfill_private.listed_parameters(p_request jsonb)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_object_agg(p.name, coalesce(
    case
      when p.kind = 'number' then to_jsonb(backfill_private.whole_number(p_request, p.name))
      when p.kind in ('text', 'moment') then to_jsonb(p_request ->> p.name)
      else nullif(p_request -> p.name, 'null')
    end,
    p.usual))
  from backfill_private.request_parameters as p
  where p.kind <> 'derived'
$$;

-- A request in its normal form: every parameter present, dates as given and as bounds, priority and ids as full ids.
--
-- raises  OB008 another environment, OB013 or OB014 a parameter is not usable
create function backfill_private.normal_request(p_request jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_target text := backfill_private.check_target(p_request ->> 'target');
  v_environment text := backfill_private.check_environment(nullif(p_request ->> 'environment', ''));
  v_since timestamptz := backfill_private.since_bound('since', p_request ->> 'since');
  v_until timestamptz := backfill_private.until_bound('until', p_request ->> 'until');
  v_recent timestamptz := backfill_private.since_bound('recent_since', p_request ->> 'recent_since');
  v_asked jsonb := backfill_private.listed_parameters(p_request);
  v_given jsonb := backfill_private.named_parameters(v_target, p_request);
  v_names jsonb := (select defaults from backfill_private.sources where target = v_target);
begin
  if v_since is null then
    perform backfill_private.refuse('OB013', 'a plan needs a since', 'backfill plan --since 2025-08-01 …');
  elsif v_until <= v_since then
    perform backfill_private.refuse('OB013',
      format('since %s is after until %s', p_request ->> 'since', p_request ->> 'until'),
      format('backfill plan … --until …, with a day from %s on', left(p_request ->> 'since', 10)));
  end if;
  if p_request ->> 'batch_size' is null
    and v_asked ->> 'mode' = 'bulk'
    and v_asked ->> 'throttle_per_minute' is null then
    v_asked := v_asked || '{"batch_size": 500}';
  end if;
  perform backfill_private.check_pace(
    (v_asked ->> 'throttle_per_minute')::integer, (v_asked ->> 'batch_size')::integer);
  v_names := v_names || backfill_private.given_defaults(v_names, v_given)
    || backfill_private.wanted_versions(v_target, v_given);
  perform backfill_private.check_names(v_names);
  v_asked := v_asked || jsonb_build_object(
    'environment', v_environment,
    'target', v_target,
    'mode', backfill_private.check_mode(v_target, v_asked ->> 'mode'),
    'inferred', backfill_private.check_inferred(v_target, v_asked ->> 'inferred'),
    'since_at', v_since,
    'until_before', v_until,
    'recent_since', v_recent,
    'priority', to_jsonb(backfill_private.named_sessions(
      v_target, array(select jsonb_array_elements_text(v_asked -> 'priority')))),
    'ids', case when v_asked ->> 'ids' is not null then to_jsonb(backfill_private.named_sessions(
      v_target, array(select jsonb_array_elements_text(v_asked -> 'ids')))) end);
  return v_names || (
    select jsonb_object_agg(p.name, v_asked -> p.name)
    from backfill_private.request_parameters as p
    where p.is_digested);
end
$$;

-- Refuse a plan for a target whose receipts would be inferred, unless it is accepted by name.
--
-- returns  what was accepted, null if nothing is inferred
-- raises   OB013 it is not accepted
create function backfill_private.check_inferred(p_target text, p_accepted text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_inferred text := (
    select string_agg(t.component, ', ' order by t.position) from public.backfill_targets as t
    where t.target = p_target and t.receipts = 'inferred');
begin
  if v_inferred is not null and p_accepted is distinct from p_target then
    perform backfill_private.refuse('OB013',
      format('target %s has components whose receipts are only inferred: %s', p_target, v_inferred),
      format(
        'hand our headers on in the Edge Function, or accept it by name: backfill plan … --inferred %s', p_target));
  end if;
  return case when v_inferred is not null then p_accepted end;
end
$$;

-- from sql/40_plan/risk.sql
-- Risk: how much can go wrong if a plan is carried out, and why. It is made when the plan is sealed, and the digest
-- covers it: who approves has approved this grade.
--
-- high: a check failed, or an undo would not be exact. medium: there is any other reason. low: there is none.

-- Each reason for the risk of a plan, the gravest first. Nothing that was not measured is one.
--
-- p_plan  as backfill_private.measure_plan makes it
create function backfill_private.risk_reasons(p_run public.backfill_runs, p_plan jsonb)
returns table (grade text, reason text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with marks as (
    select
      c.mark ->> 'name' as name,
      c.mark ->> 'status' as status,
      case
        when starts_with(c.mark ->> 'name', 'before-images of ') and c.mark ->> 'status' = 'fail'
          or c.mark ->> 'name' = 'rehearsal: undo' and not starts_with(c.mark ->> 'detail', 'not rehearsed')
        then 'undo'
        when starts_with(c.mark ->> 'name', 'receipts of ') and c.mark ->> 'status' = 'warn' then 'inferred'
        when c.mark ->> 'name' = 'environment' then 'environment'
        else 'other'
      end as kind
    from jsonb_array_elements(p_plan -> 'checks') as c (mark)
    where c.mark ->> 'status' <> 'ok'
  ), effects as (
    select e.effect ->> 'kind' as kind, e.effect ->> 'name' as name
    from jsonb_array_elements(p_plan -> 'blast_radius') as e (effect)
    where e.effect ->> 'kind' in ('trigger', 'webhook')
      and e.effect ->> 'events' is distinct from '0'
  ), replaced as (
    select sum(r.value::bigint)::bigint as rows
    from jsonb_each_text(p_plan #> '{expected_writes,replaced}') as r
  ), told (place, grade, reason) as (
    select 1, 'high', format('%s: %s', backfill_private.counted(count(*), 'check') || ' failed',
      string_agg(m.name, ', ' order by m.name))
    from marks as m
    where m.status = 'fail' and m.kind <> 'undo'
    having count(*) > 0
    union all
    select 2, 'high', 'an undo would not be exact: ' || string_agg(m.name, ', ' order by m.name)
    from marks as m
    where m.kind = 'undo'
    having count(*) > 0
    union all
    select 3, 'high', 'an undo would not be exact: the '
      || string_agg(m.name, ', ' order by m.name) || ' are inferred from the rows before and after'
    from marks as m
    where m.kind = 'inferred'
    having count(*) > 0
    union all
    select 4, 'medium', format('%s %s replaced',
      backfill_private.counted(r.rows, 'row'), case r.rows when 1 then 'is' else 'are' end)
    from replaced as r
    where r.rows > 0
    union all
    select 5, 'medium', format('%s: %s',
      backfill_private.counted(count(distinct e.name), e.kind) || case count(distinct e.name) when 1 then ' fires'
        else ' fire' end,
      string_agg(distinct e.name, ', ' order by e.name))
    from effects as e
    group by e.kind
    union all
    select 6, 'medium', coalesce('the environment is ' || p_run.environment, 'no environment is set')
    where p_run.environment is null or lower(p_run.environment) in ('production', 'prod', 'live')
    union all
    select 7, 'medium', format('%s: %s',
      backfill_private.counted(count(*), 'check') || case count(*) when 1 then ' warns' else ' warn' end,
      string_agg(m.name, ', ' order by m.name))
    from marks as m
    where m.status = 'warn' and m.kind = 'other'
    having count(*) > 0
  )
  select t.grade, t.reason
  from told as t
  order by t.place, t.reason
$$;

-- The risk of a plan: {grade: low, medium or high, reasons: [sentence]}.
create function backfill_private.risk(p_run public.backfill_runs, p_plan jsonb)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'grade', case when bool_or(r.grade = 'high') then 'high' when count(*) > 0 then 'medium' else 'low' end,
    'reasons', coalesce(jsonb_agg(r.reason), '[]'))
  from backfill_private.risk_reasons(p_run, p_plan) as r
$$;

-- from sql/40_plan/seal.sql
-- Sealing: what was found becomes the run's items, is measured, and gets its digest.

-- The candidates that a run has found, each in its place: phase, order, batch. If its request has a limit, the first.
create function backfill_private.placed(p_run public.backfill_runs)
returns table (
  ordinal bigint, session_id text, session_at timestamptz, components text[], category text, phase text, batch bigint
)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    o.ordinal,
    o.session_id,
    o.session_at,
    o.components,
    o.category,
    (array['priority', 'recent', 'historical'])[o.phase_rank],
    dense_rank() over (order by o.phase_rank, (o.place - 1) / (p_run.request ->> 'batch_size')::integer)
  from (
    select
      f.*,
      c.category,
      row_number() over (order by f.phase_rank, f.session_at desc, f.session_id) as ordinal,
      row_number() over (partition by f.phase_rank order by f.session_at desc, f.session_id) as place
    from (
      select
        found.*,
        case
          when p_run.request -> 'priority' ? found.session_id then 1
          -- A scalar subquery, so that it is asked once and not for every session.
          when found.session_at >= (select backfill_private.recent_from(p_run)) then 2
          else 3
        end as phase_rank
      from backfill_private.findings as found
      where found.run_id = p_run.run_id and found.excluded is null and found.components <> '{}'
    ) as f
    join backfill_private.categories(p_run.target) as c on c.components = f.components
  ) as o
  where p_run.request ->> 'limit' is null
    or o.ordinal <= (p_run.request ->> 'limit')::integer
$$;

-- How many sessions one call places. Even on a slow project that is well within its time limit.
create function backfill_private.most_placed()
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 100000
$$;

-- Turn the next findings of a run into its items, then analyze them: without statistics PostgreSQL takes a new run for
-- small, and would look through all of it for each batch. Findings beyond the request's limit are then left out.
--
-- returns  true when all are placed
create function backfill_private.place_items(p_run public.backfill_runs)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_placed integer := (
    select coalesce(max(i.ordinal), 0)
    from public.backfill_items as i
    where i.run_id = p_run.run_id);
  v_insert text;
  v_came integer;
begin
  select format(
    'insert into public.backfill_items (
       run_id, ordinal, source, session_id, session_at, components, replaces, category, phase, batch)
     select $1.run_id, item.ordinal, $1.target, item.session_id, item.session_at, item.components,
       jsonb_strip_nulls(jsonb_build_object(%s)), item.category, item.phase, item.batch
     from backfill_private.placed($1) as item
     %s
     where item.ordinal > $2
       and item.ordinal <= $3',
    string_agg(format('%L, %s', r.component, r.version_sql), ', '),
    string_agg(r.join_sql, ' '))
  into v_insert
  from backfill_private.replaced_joins(p_run) as r;
  execute v_insert using p_run, v_placed, v_placed + backfill_private.most_placed();
  get diagnostics v_came = row_count;
  if v_came = backfill_private.most_placed() then
    return false;
  end if;
  analyze public.backfill_items;
  update backfill_private.findings as f
  set excluded = backfill_private.beyond_limit(p_run)
  where f.run_id = p_run.run_id
    and f.excluded is null
    and f.components <> '{}'
    and p_run.request ->> 'limit' is not null
    and not exists (
      select from public.backfill_items as i
      where i.run_id = f.run_id and i.session_id = f.session_id);
  return true;
end
$$;

-- Look at the data of a plan whose sessions are placed. For a large plan that is a call of its own.
--
-- returns  false if the run has to be sealed by another call
create function backfill_private.look_at_data(p_run public.backfill_runs)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_run.data_marks is not null then
    return true;
  end if;
  update public.backfill_runs
  set data_marks = (select coalesce(jsonb_agg(m), '[]') from backfill_private.data_marks(p_run.run_id) as m)
  where run_id = p_run.run_id;
  return not exists (
    select from public.backfill_items as i
    where i.run_id = p_run.run_id
      and i.ordinal = backfill_private.most_placed()
  );
end
$$;

-- Exclude what was named and is not found: as priority, or as one of the sessions to which the plan is limited.
create function backfill_private.exclude_named(p_run public.backfill_runs)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into backfill_private.findings (run_id, session_id, components, excluded, is_named)
  select
    p_run.run_id,
    named.session_id,
    '{}',
    case
      when named.session_id <> all (backfill_private.asked_ids(p_run))
      then 'named as priority, but not among the sessions to which the plan is limited'
      else format('named%s, but not completed, outside the dates, or nothing is missing',
        case when p_run.request -> 'priority' ? named.session_id then ' as priority' end)
    end,
    true
  from (
    select jsonb_array_elements_text(p_run.request -> 'priority')
    union
    select unnest(backfill_private.asked_ids(p_run))
  ) as named (session_id)
  -- One of which nothing that it lacks is wanted says why.
  on conflict (run_id, session_id) do update
  set excluded = (select string_agg(w.value, '; ' order by w.key) from jsonb_each_text(findings.not_wanted) as w),
      is_named = true
  where findings.excluded is null and findings.components = '{}';
$$;

-- Seal a run: place its items, measure, compute the digest. A run with nothing to do is removed. A large plan takes
-- several calls. Each goes on from the last one that was committed.
--
-- p_round_trip_ms  what a call takes outside the database, as the client measured it. Only the estimate uses it
-- p_probed         how the API answered about the calls, see backfill_private.function_marks
-- returns          {state: awaiting_approval}, {state: planning} if it has to be called again, or {state: empty,
--                  environment, request, plan} if there was nothing to do and the run is gone
-- raises           OB002 not in planning or windows left, OB013 too large or too long for this project
create function backfill_private.seal(p_run_id uuid, p_round_trip_ms numeric, p_probed jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
set timezone = 'UTC'
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_bounds(jsonb_build_object(
    'the round trip', coalesce(p_round_trip_ms, 0), 'the answers of the API', p_probed));
  v_run := backfill_private.locked_run(p_run_id, array['planning', 'awaiting_approval']);
  if v_run.state = 'awaiting_approval' then
    return jsonb_build_object('state', v_run.state);  -- sealed by a call whose reply was lost
  elsif v_run.collect_from < v_run.collect_until then
    perform backfill_private.refuse('OB002', format('run %s is not collected to its end', p_run_id),
      backfill_private.hint(v_run));
  end if;
  perform backfill_private.exclude_named(v_run);
  if not exists (
    select from backfill_private.findings as f
    where f.run_id = p_run_id
      and f.excluded is null
      and f.components <> '{}'
  ) then
    v_run.plan := backfill_private.measure_plan(p_run_id, p_round_trip_ms, p_probed);
    delete from public.backfill_runs where run_id = p_run_id;
    return jsonb_build_object(
      'state', 'empty',
      'environment', v_run.environment,
      'request', v_run.request,
      'plan', v_run.plan);
  end if;
  v_run.request := v_run.request || jsonb_build_object('recent_since', backfill_private.recent_from(v_run));
  update public.backfill_runs set request = v_run.request where run_id = p_run_id;
  if not backfill_private.place_items(v_run) or not backfill_private.look_at_data(v_run) then
    return jsonb_build_object('state', v_run.state);
  end if;
  update public.backfill_runs
  set fingerprint = backfill_private.definitions(target),
      server = backfill_private.server_identity(),
      sealed_snapshot = pg_current_snapshot()::text
  where run_id = p_run_id;
  perform backfill_private.check_size(p_run_id);
  v_run.plan := backfill_private.measure_plan(p_run_id, p_round_trip_ms, p_probed);
  update public.backfill_runs
  set plan = v_run.plan || jsonb_build_object('risk', backfill_private.risk(v_run, v_run.plan))
  where run_id = p_run_id;
  -- The digest covers the risk.
  update public.backfill_runs
  set digest = backfill_private.compute_digest(p_run_id),
      sealed_at = backfill_private.clock()
  where run_id = p_run_id;
  delete from backfill_private.findings as f where f.run_id = p_run_id and f.excluded is null;
  perform backfill_private.move(p_run_id, 'awaiting_approval', null, (
    select jsonb_build_object(
      'digest', r.digest,
      'sessions', r.plan -> 'candidates' -> 'total',
      'figures_hash', backfill_private.figures_hash(r.plan))
    from public.backfill_runs as r
    where r.run_id = p_run_id
  ));
  return '{"state": "awaiting_approval"}'::jsonb;
end
$$;

-- Refuse a plan that is larger than this project allows, outlives any approval, or names a function that is not there.
create function backfill_private.check_size(p_run_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_sessions bigint;
  v_batches integer;
  v_settings public.backfill_settings := backfill_private.settings();
  v_gone text;
begin
  select * into strict v_run from public.backfill_runs where run_id = p_run_id;
  select count(*), max(batch) into v_sessions, v_batches
  from public.backfill_items
  where run_id = p_run_id;
  select f.key into v_gone
  from jsonb_each_text(v_run.fingerprint) as f
  where f.value is null;
  if found then
    perform backfill_private.refuse('OB013', format('there is no function %s', v_gone), 'backfill check');
  elsif v_sessions > v_settings.max_sessions then
    perform backfill_private.refuse('OB013',
      format('the plan has %s, this project allows %s',
        backfill_private.called_in(p_run_id, v_sessions), v_settings.max_sessions),
      'narrow --since and --until, or give --limit');
  elsif (v_batches - 1) * backfill_private.batch_spacing_s(v_run.request)
      > extract(epoch from v_settings.approval_ttl) then
    perform backfill_private.refuse('OB013',
      format('at this throttle the run would outlive its approval of %s', v_settings.approval_ttl),
      'narrow --since and --until, or raise --throttle');
  end if;
end
$$;

-- from sql/40_plan/transaction_marks.sql
-- What a rehearsal says of calls that share a transaction: the same session again, and one session after another.

-- Why each session needs a transaction of its own, as the rehearsal saw. Null: it does not, or nobody looked.
create function backfill_private.alone_because(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select nullif(concat_ws('; ',
    'it fails: ' || string_agg(
      distinct concat_ws(' ', r.seen #>> '{beside,error,code}', r.seen #>> '{beside,error,message}'), ', ')
      filter (where r.seen #>> '{beside,error,code}' is not null),
    'it leaves others in ' || (
      select string_agg(distinct c.name, ', ')
      from backfill_private.rehearsed(p_run_id) as o
      cross join lateral jsonb_array_elements_text(o.seen #> '{beside,differs}') as c (name)
    )), '')
  from backfill_private.rehearsed(p_run_id) as r
$$;

-- Does a second call change anything?
create function backfill_private.second_call_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when s.fails is not null and backfill_private.alone_because(p_run_id) is not null
    then backfill_private.mark('rehearsal: second call', 'warn',
      'not measured, since no second call works in the same transaction')
    when not exists (select from backfill_private.rehearsed(p_run_id) as r where r.seen ? 'second')
    then backfill_private.mark('rehearsal: second call', 'warn',
      'not measured: the time limit came first, or somebody waited for the rows')
    when s.differences is null
    then backfill_private.mark('rehearsal: second call', 'ok', 'changes nothing' || coalesce(
      '. Not decidable, since they hold the time of the transaction: ' || s.undecidable, ''))
    else backfill_private.mark('rehearsal: second call', 'warn', 'it is not idempotent: ' || s.differences)
  end
  from (
    select
      concat_ws('; ',
        'a second call changes '
          || backfill_private.named_columns(backfill_private.columns_changed(p_run_id, '{second,tables}')),
        'adds rows: ' || backfill_private.rows_changed(p_run_id, '{second,tables}', 'inserted'),
        'removes rows: ' || backfill_private.rows_changed(p_run_id, '{second,tables}', 'deleted'),
        'fails: ' || failing.errors) as text,
      failing.errors,
      (
        select backfill_private.named_columns(jsonb_object_agg(u.key, u.value))
        from (
          select distinct t.key, t.value
          from backfill_private.rehearsed(p_run_id) as r
          cross join lateral jsonb_each(r.seen -> 'undecidable') as t
        ) as u
      ) as undecidable
    from (
      select string_agg(
        distinct concat_ws(' ', r.seen #>> '{second,error,code}', r.seen #>> '{second,error,message}'),
        ', ') as errors
      from backfill_private.rehearsed(p_run_id) as r
      where r.seen #>> '{second,error,code}' is not null
    ) as failing
  ) as told
  cross join lateral (
    select nullif(told.text, '') as differences, told.errors as fails, told.undecidable
  ) as s
$$;

-- Does a session come out the same after another one in the same transaction? Null: none was scored after another.
create function backfill_private.one_transaction_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not exists (select from backfill_private.rehearsed(p_run_id) as r where r.seen ? 'beside') then null
    when told.why is null
    then backfill_private.mark('rehearsal: one transaction', 'ok', 'each comes out the same after another')
    else backfill_private.mark('rehearsal: one transaction', 'warn',
      'not each comes out the same after another: ' || told.why
        || '. In bulk each takes a transaction of its own')
  end
  from (select backfill_private.alone_because(p_run_id) as why) as told
$$;

-- from sql/40_plan/windows.sql
-- Planning: open a run, collect what is missing window by window. What is found is sealed in seal.sql.

-- Open a run for a request.
--
-- p_request       parameters by name, see backfill_private.normal_request
-- p_project_host  host of the project's URL, as the client sees it. The client compares it later
-- p_run_id        made by the client, so that it can repeat a call whose reply was lost: the same caller gets the same
--                 run for the same request. Null: made here
-- returns         the new run's id
-- raises          OB008 another environment, OB010 not allowed, OB013 or OB014 a parameter is not usable, the target's
--                 tables do not meet what has to be true of them, or the run id is taken
create function backfill_private.open_run(p_request jsonb, p_project_host text, p_run_id uuid)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_request jsonb;
  v_source backfill_private.sources;
  v_newest timestamptz;
  v_run_id uuid := coalesce(p_run_id, gen_random_uuid());
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_bounds(jsonb_build_object(
    'the request', p_request, 'the host of the project', p_project_host));
  perform backfill_private.check_form(p_request);
  v_request := backfill_private.normal_request(p_request);
  perform backfill_private.refuse_faults(v_request ->> 'target', v_request);
  select * into strict v_source from backfill_private.sources where target = v_request ->> 'target';
  execute format('select %s from %s as s where s.%I < %L',
    backfill_private.moment(v_source.source_table, v_source.date_column, format('max(s.%I)', v_source.date_column)),
    v_source.source_table::regclass,
    v_source.date_column,
    backfill_private.after_all_moments())
  into v_newest;
  insert into public.backfill_runs (
    run_id, target, environment, request, requested_by, requested_via, project_host,
    collect_from, collect_until, collect_window, rehearse)
  select
    v_run_id,
    v_request ->> 'target',
    v_request ->> 'environment',
    v_request,
    c.user_id,
    c.kind,
    p_project_host,
    (v_request ->> 'since_at')::timestamptz,
    least((v_request ->> 'until_before')::timestamptz, v_newest + interval '1 microsecond'),
    interval '30 days',
    backfill_private.whole_number(p_request, 'rehearse')
  from backfill_private.caller() as c
  on conflict (run_id) do nothing;
  if not found and not exists (
    select from public.backfill_runs as r
    cross join backfill_private.caller() as c
    where r.run_id = v_run_id
      and r.requested_via = c.kind
      and r.requested_by is not distinct from c.user_id
      and r.request - 'recent_since' = v_request - 'recent_since'
  ) then
    perform backfill_private.refuse('OB013',
      format('run %s is another plan', v_run_id),
      'backfill plan …, without a run id');
  end if;
  return v_run_id;
end
$$;

-- What a target's view finds in a window of session dates, read in a subtransaction that PostgreSQL keeps from writing.
--
-- Writing is allowed again only when the subtransaction ends: nothing inside a read-only transaction can allow it. So
-- what was found is carried out of it as a value.
--
-- p_from, p_until  the window. Null: every date that no plan can take, which excludes its session
-- raises           25006 the view, or a function that it calls, tries to write
create function backfill_private.detected(p_target text, p_from timestamptz, p_until timestamptz)
returns backfill_private.findings[]
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_view regclass := backfill_private.gaps_view(p_target)::regclass;
  v_column text := (select s.date_column from backfill_private.sources as s where s.target = p_target);
  v_found backfill_private.findings[];
begin
  begin
    set local transaction_read_only = on;
    if p_from is not null then
      execute format(
        'select array_agg(
           row(null, g.session_id, g.session_at, g.components, g.not_wanted, g.excluded, false)
             ::backfill_private.findings)
         from %s as g
         where g.session_at >= $1 and g.session_at < $2',
        v_view)
      into v_found
      using p_from, p_until;
    else
      execute format(
        'select array_agg(
           row(null, g.session_id, null, g.components, null, backfill_private.date_fault($3, g.session_at), false)
             ::backfill_private.findings)
         from %s as g
         where g.session_at is null or g.session_at < $1 or g.session_at >= $2',
        v_view)
      into v_found
      using backfill_private.first_moment(), backfill_private.after_all_moments(), v_column;
    end if;
  exception when read_only_sql_transaction then
    raise exception using
      errcode = 'read_only_sql_transaction',
      message = format(
        '%s writes while it detects what is missing (%s). Take the write out of the view and of what it calls',
        v_view, sqlerrm),
      hint = 'backfill plan …, after that';
  end;
  return v_found;
end
$$;

-- How long a window is to take: about four seconds, during which the run is locked. Each window costs something by
-- itself, and without the index it reads the whole table, even a short one: then a few long windows are done sooner.
create function backfill_private.window_aim(p_target text)
returns interval
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when exists (select from backfill_private.detection_index(p_target) as i where i.fault is null)
    then interval '4 seconds'
    else interval '20 seconds'
  end
$$;

-- The sessions to which a request limits itself. Null: to none.
create function backfill_private.asked_ids(p_run public.backfill_runs)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_run.request ->> 'ids' is not null
    then array(select jsonb_array_elements_text(p_run.request -> 'ids'))
  end
$$;

-- Why a session that a plan could take is not in it: the request asks for fewer. Null: it asks for all.
create function backfill_private.beyond_limit(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select 'it comes after the first ' || (p_run.request ->> 'limit') || ', to which the plan is limited'
$$;

-- Keep what a window of session dates holds.
--
-- p_from, p_until  see backfill_private.detected
-- returns          how many it holds. Null if a statement's time limit came first, and nothing is kept
create function backfill_private.keep_findings(
  p_run public.backfill_runs, p_from timestamptz, p_until timestamptz
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kept bigint;
  v_ids text[] := backfill_private.asked_ids(p_run);
begin
  perform set_config('backfill.request', p_run.request::text, true);
  insert into backfill_private.findings (run_id, session_id, session_at, components, not_wanted, excluded)
  select p_run.run_id, d.session_id, d.session_at, d.components, d.not_wanted, d.excluded
  from unnest(backfill_private.detected(p_run.target, p_from, p_until)) as d
  where v_ids is null
    or d.session_id in (select unnest(v_ids))
  on conflict do nothing;
  get diagnostics v_kept = row_count;
  perform set_config('backfill.request', '', true);
  return v_kept;
exception when query_canceled then
  -- Half of the shortest window would not be sooner: something else is slow.
  if p_from is null or p_run.collect_window <= interval '1 second' then
    raise;
  end if;
  return null;
end
$$;

-- The date of the next session from a moment on. The end of the search if there is none: nothing is walked through that
-- holds no session, and one of the year 9999 is as near as one of next month.
create function backfill_private.next_session_at(p_run public.backfill_runs, p_from timestamptz)
returns timestamptz
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_next timestamptz;
begin
  perform set_config('backfill.request', p_run.request::text, true);
  execute format(
    'select g.created_at from %s as g where g.created_at >= $1 and g.created_at < $2 order by g.created_at limit 1',
    backfill_private.standing_view(p_run.target)::regclass)
  into v_next
  using p_from, p_run.collect_until;
  perform set_config('backfill.request', '', true);
  return coalesce(v_next, p_run.collect_until);
end
$$;

-- Collect the next window of a run in planning. After the last, the sessions whose dates no plan can take.
--
-- The window grows and shrinks so that one takes about as long as it should. The cursor moves in the same transaction,
-- so a call whose reply was lost is not collected twice. A window that meets the time limit is looked at again, half as
-- long.
--
-- returns  true when all is collected
create function backfill_private.collect_window(p_run_id uuid)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_end timestamptz;
  v_aim interval;
  v_began timestamptz := backfill_private.clock();
  v_took interval;
  v_kept bigint;
begin
  perform backfill_private.authorize('plan');
  v_run := backfill_private.locked_run(p_run_id, array['planning']);
  if v_run.collect_until is null or v_run.collect_from >= v_run.collect_until then
    perform backfill_private.keep_findings(v_run, null, null);
    return true;
  end if;
  v_aim := backfill_private.window_aim(v_run.target);
  v_end := least(v_run.collect_from + v_run.collect_window, v_run.collect_until);
  v_kept := backfill_private.keep_findings(v_run, v_run.collect_from, v_end);
  v_took := backfill_private.clock() - v_began;
  if v_kept = 0 then
    v_end := backfill_private.next_session_at(v_run, v_end);
  end if;
  update public.backfill_runs
  set collect_from = case when v_kept is not null then v_end else collect_from end,
      collect_window = case
        when v_kept is null or v_took > v_aim then greatest(collect_window / 2, interval '1 second')
        when v_took < v_aim / 2 then least(collect_window * 2, interval '10 years')
        else collect_window
      end
  where run_id = p_run_id;
  return false;
end
$$;

-- The categories of a target: every set of missing components with its name, the last derived first.
create function backfill_private.categories(p_target text)
returns table (components text[], category text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    array_agg(t.component order by t.position),
    string_agg(t.component, '+' order by t.position desc)
  from generate_series(
    1,
    (1 << (select count(*)::integer from public.backfill_targets where target = p_target)) - 1
  ) as mask
  join public.backfill_targets as t on t.target = p_target and mask & (1 << (t.position - 1)) <> 0
  group by mask
$$;

-- The first moment of the recent phase: the one asked for, else the first day of the month of the newest candidate.
create function backfill_private.recent_from(p_run public.backfill_runs)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select coalesce(
    (p_run.request ->> 'recent_since')::timestamptz,
    (
      select date_trunc('month', max(f.session_at))
      from backfill_private.findings as f
      where f.run_id = p_run.run_id and f.excluded is null and f.components <> '{}'
    ))
$$;

-- from sql/50_approve/approval.sql
-- Approval: a decision is a row. Its trigger decides whether it counts, and moves the run.

create table public.backfill_approvals (
  approval_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id),
  digest text not null,
  figures_hash text,
  sessions_hash text,
  decision text not null check (decision in ('approved', 'rejected')),
  approver text not null default '' check (length(approver) <= 200),
  approver_id uuid,
  via text not null default '',
  note text check (length(note) <= 500),
  decided_at timestamptz not null default backfill_private.clock(),
  valid_until timestamptz,
  standing_id uuid
);

-- An approval serves one run, and a run has one decision.
create unique index backfill_approvals_one_decision on public.backfill_approvals (run_id);

comment on table public.backfill_approvals is 'Decisions on plans: who, when, how, on which digest, valid until when.';
comment on column public.backfill_approvals.approval_id is 'Id of the decision.';
comment on column public.backfill_approvals.run_id is 'The run that was decided on.';
comment on column public.backfill_approvals.digest is 'The digest that the approver named: exactly this plan.';
comment on column public.backfill_approvals.figures_hash is
  'SHA-256 of the figures, marks and risk that stood beside the digest when it was decided.';
comment on column public.backfill_approvals.sessions_hash is
  'SHA-256 of the planned sessions, with their dates, as they stood when it was decided.';
comment on column public.backfill_approvals.decision is 'approved or rejected.';
comment on column public.backfill_approvals.approver is
  'Who decided: the name given, or the e-mail address of the Auth user.';
comment on column public.backfill_approvals.approver_id is 'The Auth user who decided. Null in the SQL editor.';
comment on column public.backfill_approvals.via is
  'sql: the SQL editor. auth: an Auth user''s token. service_key: the secret key, if the policy is any. standing: a '
  'standing approval, whose approver this is.';
comment on column public.backfill_approvals.note is 'What the approver added. For a rejection, the reason.';
comment on column public.backfill_approvals.decided_at is 'When it was decided.';
comment on column public.backfill_approvals.valid_until is 'When the approval runs out. Null for a rejection.';
comment on column public.backfill_approvals.standing_id is
  'The standing approval that covered the run. Null: a person decided on it.';

-- May the caller decide on what these users asked for?
--
-- p_policy    who decides, see approval_policy. Null, since the settings have no row: as second_person
-- p_asked_by  the Auth users who asked for it
-- p_what      what is decided on, in a sentence
-- p_sql       how it is decided in the SQL editor
-- raises      OB005 no, and why
create function backfill_private.check_approver(p_policy text, p_asked_by uuid[], p_what text, p_sql text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller record;
  v_needs_aal2 boolean := (select require_aal2 from public.backfill_settings) is distinct from false;
begin
  select * into v_caller from backfill_private.caller();
  if v_caller.kind = 'postgres' then
    return;
  elsif p_policy = 'postgres_only' then
    perform backfill_private.refuse('OB005',
      'the policy of this project is postgres_only: only the SQL editor decides', p_sql);
  elsif v_caller.kind = 'service_role' and p_policy is distinct from 'any' then
    perform backfill_private.refuse('OB005', format('the service key does not decide on %ss', p_what), p_sql);
  elsif v_caller.kind = 'user' and coalesce(v_caller.backfill_role, '') <> 'approver' then
    perform backfill_private.refuse('OB005', 'this user does not have the role approver', p_sql);
  elsif v_caller.kind = 'user' and p_policy is distinct from 'any' and v_caller.user_id = any (p_asked_by) then
    perform backfill_private.refuse('OB005',
      format('a second person has to approve this %s, not the one who asked for it', p_what), p_sql);
  elsif v_caller.kind = 'nobody' then
    perform backfill_private.refuse('OB005', format('this caller may not decide on %ss', p_what), p_sql);
  elsif v_needs_aal2
    and (v_caller.kind <> 'user' or backfill_private.claims() ->> 'aal' is distinct from 'aal2') then
    perform backfill_private.refuse('OB005',
      format('this project decides on %ss with a second factor, which this caller has not given', p_what),
      'sign in with it: backfill login, or ' || p_sql);
  end if;
end
$$;

-- Refuse to approve any plan but the one that is there now. Its figures and marks are those of the sealing: the chain
-- has their hash.
--
-- raises  OB004 the digest named is not the plan's
--         OB007 the plan or its surroundings changed, the server among them
create function backfill_private.check_digest(p_run public.backfill_runs, p_digest text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_digest is distinct from p_run.digest then
    perform backfill_private.refuse('OB004',
      format('digest %s is not that of run %s, which is %s',
        backfill_private.told_apart(p_digest, p_run.digest),
        p_run.run_id,
        backfill_private.told_apart(p_run.digest, p_digest)),
      format('backfill show %s', p_run.run_id));
  elsif backfill_private.compute_digest(p_run.run_id) <> p_run.digest then
    perform backfill_private.refuse('OB007',
      format('what run %s planned is no longer what stands there: %s',
        p_run.run_id, backfill_private.what_changed(p_run)),
      backfill_private.hint(p_run, 'plan'));
  elsif backfill_private.figures_hash(p_run.plan) <> (
    select e.details ->> 'figures_hash'
    from public.backfill_events as e
    where e.run_id = p_run.run_id
      and e.kind = 'awaiting_approval'
  ) then
    perform backfill_private.refuse('OB007',
      format('the figures or marks of run %s are not those that were measured', p_run.run_id),
      backfill_private.hint(p_run, 'plan'));
  end if;
end
$$;

-- What says of an approved plan that its figures or marks are not what the approver read. Null if they are, if it was
-- never approved, or if the caller may not read.
create function backfill_private.unlike_approved(p_run_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select 'the figures or marks of this plan are not those that were approved'
  from public.backfill_runs as r
  join public.backfill_approvals as a using (run_id)
  where r.run_id = p_run_id
    and a.decision = 'approved'
    and a.figures_hash is distinct from backfill_private.figures_hash(r.plan)
    and backfill_private.may('read')
$$;

-- What is no longer as an approver decided it, in words. No row if all is.
create function backfill_private.approval_faults(p_run_id uuid)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with decided as (
    select e.seq, e.kind, e.details
    from public.backfill_events as e
    where e.run_id = p_run_id
      and e.kind in ('approved', 'rejected')
  )
  select f.fault
  from decided as d
  left join public.backfill_approvals as a on a.run_id = p_run_id
  cross join lateral (
    values
      (
        (a.decision, a.digest, a.approver, a.via, a.figures_hash, a.sessions_hash) is distinct from
          (d.kind, d.details ->> 'digest', d.details ->> 'approver', d.details ->> 'via',
            d.details ->> 'figures_hash', d.details ->> 'sessions_hash'),
        format('audit event %s: the decision that it tells is not the one in backfill_approvals', d.seq)),
      (
        a.sessions_hash <> backfill_private.sha256_hex(backfill_private.planned_text(p_run_id)),
        'the plan: its sessions or their dates are not those that were approved')
  ) as f (is_so, fault)
  where f.is_so
  union all
  select 'the plan: ' || u from backfill_private.unlike_approved(p_run_id) as u where u is not null
$$;

-- Carry out a decision: fill in what it stands on, and move the run. Its locked row is the one decided on.
--
-- p_until    it is not valid for longer
-- p_details  what else the chain tells
-- returns    the decision as it is kept
create function backfill_private.carried_out(
  p_decision public.backfill_approvals, p_run public.backfill_runs, p_until timestamptz, p_details jsonb
)
returns public.backfill_approvals
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_new public.backfill_approvals := p_decision;
  v_is_approval boolean := p_decision.decision = 'approved';
begin
  v_new.digest := p_run.digest;
  v_new.figures_hash := backfill_private.figures_hash(p_run.plan);
  v_new.sessions_hash := backfill_private.sha256_hex(backfill_private.planned_text(p_run.run_id));
  v_new.decided_at := backfill_private.clock();
  v_new.valid_until := case when v_is_approval
    then least(v_new.decided_at + (backfill_private.settings()).approval_ttl, p_until) end;
  update public.backfill_runs
  set approved_by = case when v_is_approval then v_new.approver end,
      approved_via = case when v_is_approval then v_new.via end,
      approved_at = case when v_is_approval then v_new.decided_at end,
      approved_until = v_new.valid_until
  where run_id = p_run.run_id;
  perform backfill_private.move(p_run.run_id, v_new.decision, v_new.note,
    jsonb_build_object('digest', v_new.digest, 'figures_hash', v_new.figures_hash,
      'sessions_hash', v_new.sessions_hash, 'approver', v_new.approver, 'via', v_new.via) || p_details);
  return v_new;
end
$$;

-- Decide: fills in what the caller cannot choose, refuses what the caller may not do, moves the run. Who may not decide
-- is refused before anything is locked. What a standing approval decides is in 55_standing/use.sql.
--
-- raises  OB001 no such run
--         OB002 nothing to decide
--         OB004, OB005, OB007 as above
--         OB008 another environment
--         OB013 a rejection without a reason, a name that names nobody, no or another decision, something too long, or
--         an approval while the settings are gone
create function backfill_private.decide()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  if new.decision in ('approved', 'rejected') is not true then
    perform backfill_private.refuse('OB013',
      format('a decision is approved or rejected, not %s', coalesce(left(new.decision, 40), 'null')),
      format('backfill approve %s', new.run_id));
  end if;
  perform backfill_private.check_bounds(jsonb_build_object(
    'the approver''s name', new.approver,
    'the digest', new.digest,
    case new.decision when 'rejected' then 'the reason' else 'the note' end, new.note));
  select * into v_run from public.backfill_runs where run_id = new.run_id;
  if not found then
    perform backfill_private.refuse_run(format('there is no run %s', new.run_id));
  end if;
  perform backfill_private.check_name(new.approver);
  perform backfill_private.check_approver(
    (select approval_policy from public.backfill_settings),
    array[v_run.requested_by],
    'plan',
    concat_ws(e'\n', 'in the SQL editor:', format('select public.%I(%L, %L, %L);',
      'backfill_approve', v_run.run_id, v_run.digest, coalesce(nullif(btrim(new.approver), ''), 'your name'))));
  v_run := backfill_private.locked_run(new.run_id, array['awaiting_approval']);
  if new.decision = 'approved' then
    -- A plan made before the project got its name may have been made for another one.
    perform backfill_private.check_environment(coalesce(v_run.environment, 'unnamed'));
    perform backfill_private.check_digest(v_run, new.digest);
  elsif backfill_private.said(new.note) is null then
    perform backfill_private.refuse('OB013', 'a rejection needs a reason',
      format('backfill reject %s --reason "…"', new.run_id));
  end if;
  select y.approver, y.approver_id, y.via into new.approver, new.approver_id, new.via
  from backfill_private.signed_by(new.approver) as y;
  return backfill_private.carried_out(new, v_run, null, '{}');
end
$$;

create trigger backfill_approvals_decide before insert on public.backfill_approvals
  for each row when (new.standing_id is null) execute function backfill_private.decide();

-- from sql/50_approve/names.sql
-- Names: who decides signs with a name that others can read, and how is noted beside it.

-- Refuse a name that names nobody: a placeholder, or a text that is broken over lines.
--
-- p_name  null or blank: none was given, and who called is noted instead
-- raises  OB013
create function backfill_private.check_name(p_name text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Every control character, and what Unicode breaks lines at.
  if p_name ~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]' then
    perform backfill_private.refuse('OB013', 'the approver''s name has a line break or another control character',
      'copy the line whole, or write the name on one line');
  elsif nullif(btrim(p_name), '') is not null
    and lower(regexp_replace(btrim(p_name, ' <>[]{}().…"''_-'), '[ _-]+', ' ', 'g'))
      in ('', 'your name', 'name', 'approver', 'the approver', 'username')
  then
    perform backfill_private.refuse('OB013', format('%s is a placeholder, and names nobody', left(p_name, 80)),
      'write the name of who approves or rejects in its place');
  end if;
end
$$;

-- How the caller signs: an Auth user by the e-mail address, anyone else by the name given, or by what is known of them.
create function backfill_private.signed_by(p_name text, out approver text, out approver_id uuid, out via text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller record;
begin
  select * into v_caller from backfill_private.caller();
  approver := coalesce(
    (select u.email from auth.users as u where u.id = v_caller.user_id),
    nullif(btrim(p_name), ''),
    v_caller.label);
  approver_id := v_caller.user_id;
  via := case v_caller.kind when 'postgres' then 'sql' when 'user' then 'auth' else 'service_key' end;
end
$$;

-- from sql/55_standing/_tables.sql
-- Tables of standing approval: the rules that people approve beforehand, and how much was approved by them per day.

create table public.backfill_standing (
  standing_id uuid primary key default gen_random_uuid(),
  target text not null,
  environment text,
  server text not null,
  fingerprint jsonb not null,
  max_sessions integer not null check (max_sessions > 0),
  max_per_day integer check (max_per_day > 0),
  max_calls integer check (max_calls > 0),
  throttle_per_minute integer check (throttle_per_minute > 0),
  from_hour integer check (from_hour between 0 and 23),
  to_hour integer check (to_hour between 1 and 24),
  weekdays integer[],
  marks text[] not null default '{}',
  replaces boolean not null default false,
  valid_until timestamptz not null check (isfinite(valid_until)),
  digest text not null check (digest ~ '^[0-9a-f]{64}$'),
  proposed_by uuid,
  proposed_via text not null,
  proposed_at timestamptz not null default backfill_private.clock(),
  approved_by text,
  approver_id uuid,
  approved_via text,
  approved_at timestamptz,
  note text check (length(note) <= 500),
  revoked_by text,
  revoked_at timestamptz,
  revoked_reason text check (length(revoked_reason) <= 500),
  check ((from_hour is null) = (to_hour is null)),
  check (from_hour <> to_hour)
);

create index backfill_standing_target on public.backfill_standing (target);

comment on table public.backfill_standing is
  'Standing approvals: rules by which runs are approved without a person. A rule never changes and is never deleted. '
  'It is approved once and revoked once.';
comment on column public.backfill_standing.standing_id is
  'Id of the standing approval. Its first eight characters are enough if no other begins so.';
comment on column public.backfill_standing.target is 'The target whose runs it approves.';
comment on column public.backfill_standing.environment is 'The environment that it is for. Null: none was named.';
comment on column public.backfill_standing.server is 'The server and database that it is for.';
comment on column public.backfill_standing.fingerprint is
  'The target and its scoring functions when it was proposed. It ends when one of them changes.';
comment on column public.backfill_standing.max_sessions is 'Most sessions of one run.';
comment on column public.backfill_standing.max_per_day is
  'Most sessions of the target that standing approvals approve per UTC day. Null: no bound.';
comment on column public.backfill_standing.max_calls is 'Most scoring calls of one run. Null: no bound.';
comment on column public.backfill_standing.throttle_per_minute is
  'Highest throttle of a run. Null: any, also none.';
comment on column public.backfill_standing.from_hour is
  'The UTC hour from which runs are approved and sessions start. Null: at any hour.';
comment on column public.backfill_standing.to_hour is 'The UTC hour at which that ends, 24 for midnight.';
comment on column public.backfill_standing.weekdays is
  'The UTC weekdays on which runs are approved and sessions start, 1 for Monday. Null: every day.';
comment on column public.backfill_standing.marks is
  'Marks of the plan that must be ok, by name or by first word. all: each of them. No mark may ever fail.';
comment on column public.backfill_standing.replaces is 'Whether rows may be replaced. False: new rows only.';
comment on column public.backfill_standing.valid_until is 'The first moment at which it no longer holds.';
comment on column public.backfill_standing.digest is 'SHA-256 over the rule. An approval names it.';
comment on column public.backfill_standing.proposed_by is
  'Auth user who proposed it. Null for the service key and the SQL editor.';
comment on column public.backfill_standing.proposed_via is 'How it was proposed: service_key, auth or sql.';
comment on column public.backfill_standing.proposed_at is 'When it was proposed.';
comment on column public.backfill_standing.approved_by is
  'Who approved it, by the name given or the e-mail address. Null until then.';
comment on column public.backfill_standing.approver_id is 'The Auth user who approved it. Null in the SQL editor.';
comment on column public.backfill_standing.approved_via is 'How it was approved: sql, auth or service_key.';
comment on column public.backfill_standing.approved_at is 'When it was approved.';
comment on column public.backfill_standing.note is 'What the approver added.';
comment on column public.backfill_standing.revoked_by is 'Who revoked it. Null: nobody.';
comment on column public.backfill_standing.revoked_at is 'When it was revoked.';
comment on column public.backfill_standing.revoked_reason is 'Why it was revoked.';

-- The few decisions that one of them made.
create index backfill_approvals_by_standing on public.backfill_approvals (standing_id) where standing_id is not null;

-- How many sessions of a target standing approvals have approved on its newest day of use. Each use writes the row, so
-- that two at once go one after the other. Under a snapshot of before the other one, PostgreSQL refuses the later.
create table backfill_private.standing_days (
  target text primary key,
  day date not null,
  sessions bigint not null,
  last_at timestamptz not null
);

alter table public.backfill_approvals
  add constraint backfill_approvals_standing foreign key (standing_id)
  references public.backfill_standing (standing_id);

-- from sql/55_standing/decide.sql
-- Decisions on standing approvals: approve, revoke. Neither is taken back, and a rule never changes.

-- Guard the rules: a rule stays as proposed, an approval and a revocation as given, and no row is deleted.
--
-- raises  OB007 one of them would change
create function backfill_private.guard_standing()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'UPDATE'
    and (new.standing_id, new.digest, new.proposed_by, new.proposed_via, new.proposed_at, backfill_private.rule_of(new))
      is not distinct from
      (old.standing_id, old.digest, old.proposed_by, old.proposed_via, old.proposed_at, backfill_private.rule_of(old))
    and (old.approved_at is null or (new.approved_by, new.approver_id, new.approved_via, new.approved_at, new.note)
      is not distinct from (old.approved_by, old.approver_id, old.approved_via, old.approved_at, old.note))
    and (old.revoked_at is null or (new.revoked_by, new.revoked_at, new.revoked_reason)
      is not distinct from (old.revoked_by, old.revoked_at, old.revoked_reason))
  then
    return new;
  end if;
  perform backfill_private.refuse('OB007',
    format('%s does not change', backfill_private.standing_name(old.standing_id)),
    format('backfill standing revoke %s --reason "…", and propose another', old.standing_id));
  return null;
end
$$;

create trigger backfill_standing_guard before update or delete on public.backfill_standing
  for each row execute function backfill_private.guard_standing();

-- A standing approval, locked: its uses, its approval and its revocation go one after the other.
--
-- raises  OB001 there is none
create function backfill_private.locked_standing(p_standing_id uuid)
returns public.backfill_standing
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  select * into v_rule from public.backfill_standing where standing_id = p_standing_id for no key update;
  if not found then
    perform backfill_private.refuse('OB001',
      format('there is no standing approval %s', p_standing_id), 'backfill standing list');
  end if;
  return v_rule;
end
$$;

-- Approve a standing approval. Who may not decide is refused before anything is locked.
--
-- returns  as backfill_private.standing_told
-- raises   OB001 there is none, OB002 it was decided already, OB004 another digest, OB005 the caller may not, OB007 it
--          ended, OB008 another environment, OB013 a name that names nobody, something too long, or no settings
create function backfill_private.approve_standing(p_standing_id uuid, p_digest text, p_approver text, p_note text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
  v_stands record;
  v_signed record;
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'the digest', p_digest, 'the approver''s name', p_approver, 'the note', p_note));
  perform backfill_private.check_name(p_approver);
  select * into v_rule from public.backfill_standing where standing_id = p_standing_id;
  perform backfill_private.check_approver(
    (select approval_policy from public.backfill_settings),
    array[v_rule.proposed_by],
    'standing approval',
    concat_ws(e'\n', 'in the SQL editor:', format('select public.%I(%L, %L, %L);',
      'backfill_approve', p_standing_id, v_rule.digest, coalesce(nullif(btrim(p_approver), ''), 'your name'))));
  v_rule := backfill_private.locked_standing(p_standing_id);
  v_stands := backfill_private.standing_state(v_rule);
  if v_stands.state in ('approved', 'revoked') or v_rule.approved_at is not null then
    perform backfill_private.refuse('OB002',
      format('%s is %s already', backfill_private.standing_name(p_standing_id), v_stands.state),
      'backfill standing list');
  elsif p_digest is distinct from v_rule.digest then
    perform backfill_private.refuse('OB004',
      format('digest %s is not that of %s, which is %s',
        backfill_private.told_apart(p_digest, v_rule.digest),
        backfill_private.standing_name(p_standing_id),
        backfill_private.told_apart(v_rule.digest, p_digest)),
      'backfill standing list');
  elsif v_stands.state = 'ended' then
    perform backfill_private.refuse('OB007',
      format('%s cannot be approved: %s', backfill_private.standing_name(p_standing_id), v_stands.why),
      'backfill standing new …');
  end if;
  perform backfill_private.check_environment(coalesce(v_rule.environment, 'unnamed'));
  v_signed := backfill_private.signed_by(p_approver);
  update public.backfill_standing
  set approved_by = v_signed.approver,
      approver_id = v_signed.approver_id,
      approved_via = v_signed.via,
      approved_at = backfill_private.clock(),
      note = p_note
  where standing_id = p_standing_id;
  return backfill_private.standing_told(p_standing_id);
end
$$;

-- Refuse to revoke the narrowest of several rules, unless the caller may decide: a wider one would count then.
--
-- raises  OB005 the caller may not
create function backfill_private.check_revocation(p_rule public.backfill_standing)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_wider uuid := (
    select r.standing_id
    from backfill_private.rules_of(p_rule.target) as r
    where backfill_private.breadth(r) > backfill_private.breadth(p_rule)
      and (backfill_private.standing_state(r)).state = 'approved'
    order by backfill_private.breadth(r)
    limit 1);
begin
  if v_wider is not null and (backfill_private.standing_state(p_rule)).state = 'approved' then
    perform backfill_private.check_approver(
      (select approval_policy from public.backfill_settings),
      '{}',
      'standing approval',
      format(e'a wider one would count then. Revoke that one first:\n'
        'backfill standing revoke %s --reason "…"', v_wider));
  end if;
end
$$;

-- Revoke a standing approval, at once. What it has approved starts no session from then on. As this only narrows what
-- may happen, the service key may do it too.
--
-- raises  OB001 there is none, OB002 it was revoked already, OB005 a wider one would count then, OB010 not allowed,
--         OB013 no reason
create function backfill_private.revoke_standing(p_standing_id uuid, p_reason text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  perform backfill_private.authorize('cancel');
  perform backfill_private.check_bounds(jsonb_build_object('the reason', p_reason));
  if backfill_private.said(p_reason) is null then
    perform backfill_private.refuse('OB013', 'to revoke needs a reason',
      format('backfill standing revoke %s --reason "…"', p_standing_id));
  end if;
  v_rule := backfill_private.locked_standing(p_standing_id);
  if v_rule.revoked_at is not null then
    perform backfill_private.refuse('OB002',
      format('%s is revoked already', backfill_private.standing_name(p_standing_id)), 'backfill standing list');
  end if;
  perform backfill_private.check_revocation(v_rule);
  update public.backfill_standing
  set revoked_by = (backfill_private.signed_by(null)).approver,
      revoked_at = backfill_private.clock(),
      revoked_reason = p_reason
  where standing_id = p_standing_id;
  return backfill_private.standing_told(p_standing_id);
end
$$;

-- from sql/55_standing/fault.sql
-- What a standing approval covers: why it is not in force now, and why it does not cover a run.

-- A rule's name in a sentence.
create function backfill_private.standing_name(p_standing_id uuid)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'standing approval ' || left(p_standing_id::text, 8)
$$;

-- The hours and weekdays of a rule, in words. Null: any time.
create function backfill_private.times_in_words(p_rule public.backfill_standing)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select nullif(concat_ws(' on ',
    lpad(p_rule.from_hour::text, 2, '0') || ':00 to ' || lpad(p_rule.to_hour::text, 2, '0') || ':00 UTC',
    (
      select string_agg((array['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'])[d], ', ' order by d)
      from unnest(p_rule.weekdays) as d
    )), '')
$$;

-- Whether a moment is within a rule's hours and weekdays. Those of a night belong to the day on which each hour is.
create function backfill_private.is_open(p_rule public.backfill_standing, p_at timestamptz)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
      when p_rule.from_hour is null then true
      when p_rule.from_hour < p_rule.to_hour then t.hour >= p_rule.from_hour and t.hour < p_rule.to_hour
      else t.hour >= p_rule.from_hour or t.hour < p_rule.to_hour
    end
    and (p_rule.weekdays is null or t.weekday = any (p_rule.weekdays))
  from (
    select
      extract(hour from p_at at time zone 'UTC')::integer as hour,
      extract(isodow from p_at at time zone 'UTC')::integer as weekday
  ) as t
$$;

-- The next full hour that is within a rule's hours and weekdays.
create function backfill_private.opens_at(p_rule public.backfill_standing, p_after timestamptz)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select date_trunc('hour', p_after, 'UTC') + h * interval '1 hour'
  from generate_series(1, 8 * 24) as h
  where backfill_private.is_open(p_rule, date_trunc('hour', p_after, 'UTC') + h * interval '1 hour')
  order by h
  limit 1
$$;

-- What is no longer as it was when a rule was proposed, by name.
create function backfill_private.rule_changed(p_rule public.backfill_standing)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(key, ', ' order by key)
  from jsonb_each_text(backfill_private.standing_definitions(p_rule.target)) as now
  full join jsonb_each_text(p_rule.fingerprint) as was using (key)
  where now.value is distinct from was.value
$$;

-- Whether a decision that was made so would be possible under this policy too. Null for a policy that is not there.
create function backfill_private.policy_takes(p_policy text, p_via text)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select p_via = any (case p_policy
    when 'postgres_only' then array['sql']
    when 'second_person' then array['sql', 'auth']
    when 'any' then array['sql', 'auth', 'service_key']
  end)
$$;

-- Where a rule stands.
--
-- state  proposed, approved, ended or revoked
-- why    why it is not in force now. Null: it is
create function backfill_private.standing_state(p_rule public.backfill_standing, out state text, out why text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_settings public.backfill_settings;
  v_last timestamptz;
  -- Of a rule that is over nobody asks.
  v_changed text := case
    when p_rule.revoked_at is null and p_rule.valid_until > v_now then backfill_private.rule_changed(p_rule) end;
begin
  select * into v_settings from public.backfill_settings;
  select greatest(p_rule.approved_at, max(d.last_at)) into v_last
  from backfill_private.standing_days as d
  where d.target = p_rule.target;
  state := case
    when p_rule.revoked_at is not null then 'revoked'
    when v_changed is not null
      or p_rule.valid_until <= v_now
      or p_rule.server <> backfill_private.server_identity()
      or p_rule.digest <> backfill_private.standing_digest(p_rule) then 'ended'
    when p_rule.approved_at is null then 'proposed'
    else 'approved'
  end;
  why := case
    when state = 'revoked' then format('%s revoked it: %s', p_rule.revoked_by, p_rule.revoked_reason)
    when p_rule.server <> backfill_private.server_identity() then 'it is for another server and database'
    when p_rule.valid_until <= v_now
      then to_char(p_rule.valid_until at time zone 'UTC', '"it ended at "YYYY-MM-DD HH24:MI" UTC"')
    when not exists (select from public.backfill_targets as t where t.target = p_rule.target)
      then format('target %s is not installed any more', p_rule.target)
    when v_changed is not null then format('it ended, since what it was approved for has changed: %s', v_changed)
    when p_rule.digest <> backfill_private.standing_digest(p_rule) then 'its rule is not the one that was proposed'
    when state = 'proposed' then 'nobody has approved it yet'
    when v_settings.only_row is null then 'the row of backfill_settings is gone'
    when lower(p_rule.environment) is distinct from lower(coalesce(v_settings.environment, p_rule.environment))
      then format('it is for %s, and this project is %s',
        coalesce(p_rule.environment, 'a project without a name'), v_settings.environment)
    when backfill_private.policy_takes(v_settings.approval_policy, p_rule.approved_via) is not true
      then format('it was approved by %s, which the policy %s does not take',
        p_rule.approved_via, v_settings.approval_policy)
    when v_now < v_last
      then to_char(v_last at time zone 'UTC', '"the clock was set back: it is before its last use, at "YYYY-MM-DD '
        'HH24:MI:SS" UTC"')
    when not backfill_private.is_open(p_rule, v_now)
      then format('it is for %s, and it is %s UTC', backfill_private.times_in_words(p_rule),
        to_char(v_now at time zone 'UTC', 'HH24:MI" on "Dy'))
  end;
end
$$;

-- How many sessions of a target standing approvals have approved on this UTC day.
create function backfill_private.approved_today(p_target text)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select d.sessions
    from backfill_private.standing_days as d
    where d.target = p_target
      and d.day >= (backfill_private.clock() at time zone 'UTC')::date), 0)
$$;

-- What a run asks for beyond its target's own versions and parameters: the name of one. A rule covers these alone, for
-- it was approved for what the target declares. Null: nothing.
create function backfill_private.asks_beyond(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(distinct d.name, ', ' order by d.name)
  from (
    select t.version_parameter as name, min(t.version) over (partition by t.version_parameter) as declared
    from public.backfill_targets as t
    where t.target = p_run.target and t.version_parameter is not null
    union all
    select e.key, e.value
    from backfill_private.sources as s
    cross join jsonb_each_text(s.defaults) as e
    where s.target = p_run.target and e.key not in (
      select t.version_parameter
      from public.backfill_targets as t
      where t.target = s.target and t.version_parameter is not null)
  ) as d
  where p_run.request ->> d.name is distinct from d.declared
$$;

-- Why the marks of a plan are not as a rule wants them. Null: they are.
create function backfill_private.marks_fault(p_marks text[], p_checks jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select 'a mark of the plan failed: ' || min(concat_ws(': ', c.mark ->> 'name', c.mark ->> 'detail'))
      from jsonb_array_elements(p_checks) as c (mark)
      where c.mark ->> 'status' not in ('ok', 'warn')
      having count(*) > 0
    ),
    (
      select format('mark %s is %s', min(c.mark ->> 'name'), min(c.mark ->> 'status'))
      from jsonb_array_elements(p_checks) as c (mark)
      join unnest(p_marks) as m (named) on backfill_private.names_mark(m.named, c.mark ->> 'name')
      where c.mark ->> 'status' <> 'ok'
      having count(*) > 0
    ),
    (
      select 'the plan has no mark ' || min(m.named)
      from unnest(p_marks) as m (named)
      where not exists (
        select from jsonb_array_elements(p_checks) as c (mark)
        where backfill_private.names_mark(m.named, c.mark ->> 'name'))
      having count(*) > 0
    ))
$$;

-- The sessions of a target of which anything was taken back by an undo since then.
create function backfill_private.undone_since(p_target text, p_since timestamptz)
returns table (session_id text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select distinct w.session_id
  from public.backfill_runs as r
  join public.backfill_receipts as w using (run_id)
  where r.target = p_target
    and w.undone_at >= p_since
    and exists (
      select from backfill_private.undos as u
      where u.run_id = r.run_id
        and u.confirmed_at is not null)
$$;

-- That a run would score again what somebody has undone since a rule was approved. Null: it would not.
create function backfill_private.undone_fault(p_rule public.backfill_standing, p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('the run has %s undone since it was approved', backfill_private.called_in(p_run.run_id, count(*)))
  from backfill_private.undone_since(p_run.target, p_rule.approved_at) as u
  join public.backfill_items as i using (session_id)
  where i.run_id = p_run.run_id
  having count(*) > 0
$$;

-- Why a rule does not cover a run now, in a sentence. Null: it does.
create function backfill_private.standing_fault(p_rule public.backfill_standing, p_run public.backfill_runs)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sessions integer := (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run.run_id);
  v_calls bigint := (p_run.plan #>> '{expected_calls,total}')::bigint;
  v_throttle integer := (p_run.request ->> 'throttle_per_minute')::integer;
  v_replaced bigint := (
    select count(*)
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.replaces <> '{}');
  v_beyond text := backfill_private.asks_beyond(p_run);
  v_today bigint := backfill_private.approved_today(p_run.target);
begin
  return coalesce((backfill_private.standing_state(p_rule)).why, case
    when p_rule.target is distinct from p_run.target then format('it is for target %s', p_rule.target)
    when p_rule.server is distinct from p_run.server then 'the plan was made on another server and database'
    when lower(p_rule.environment) is distinct from lower(p_run.environment)
      then format('the plan is for %s', coalesce(p_run.environment, 'a project without a name'))
    when p_rule.fingerprint @> p_run.fingerprint is not true
      then 'a definition has changed since the plan was made'
    when p_run.requested_by = p_rule.approver_id
      and (select s.approval_policy <> 'any' from public.backfill_settings as s)
      then format('%s approved it and asked for this run, which takes a second person', p_rule.approved_by)
    when v_beyond is not null then format('the run asks for its own %s', v_beyond)
    when v_sessions <= p_rule.max_sessions is not true
      then format('the run has %s sessions, it allows %s', v_sessions, p_rule.max_sessions)
    when p_rule.max_calls is not null and v_calls <= p_rule.max_calls is not true
      then format('the run makes %s calls, it allows %s', v_calls, p_rule.max_calls)
    when p_rule.throttle_per_minute is not null and v_throttle <= p_rule.throttle_per_minute is not true
      then format('the run starts %s per minute, it allows %s',
        coalesce(v_throttle::text, 'any number'), p_rule.throttle_per_minute)
    when not p_rule.replaces and v_replaced > 0
      then format('the run replaces rows of %s, it allows new rows only',
        backfill_private.called_in(p_run.run_id, v_replaced))
    when p_rule.max_per_day is not null and v_today + v_sessions > p_rule.max_per_day
      then format('the run has %s sessions, %s of its %s per day are left',
        v_sessions, greatest(p_rule.max_per_day - v_today, 0), p_rule.max_per_day)
    else coalesce(
      backfill_private.undone_fault(p_rule, p_run),
      backfill_private.marks_fault(p_rule.marks, p_run.plan -> 'checks'))
  end);
end
$$;

-- How wide a rule is, to be compared: by sessions per run and per day, calls, throttle, replaced rows, hours, weekdays,
-- marks, end. No two are equal.
create function backfill_private.breadth(p_rule public.backfill_standing)
returns numeric[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select array[
    p_rule.max_sessions,
    coalesce(p_rule.max_per_day::numeric, 'infinity'),
    coalesce(p_rule.max_calls::numeric, 'infinity'),
    coalesce(p_rule.throttle_per_minute::numeric, 'infinity'),
    p_rule.replaces::integer,
    coalesce((p_rule.to_hour - p_rule.from_hour + 23) % 24 + 1, 24),
    coalesce(cardinality(p_rule.weekdays), 7),
    -cardinality(p_rule.marks),
    extract(epoch from p_rule.valid_until),
    extract(epoch from p_rule.proposed_at),
    hashtext(p_rule.standing_id::text)]
$$;

-- The rules of a target that are approved and not over, the narrowest first. Those that are over stay in the table.
create function backfill_private.rules_of(p_target text)
returns setof public.backfill_standing
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select s.*
  from public.backfill_standing as s
  where s.target = p_target
    and s.approved_at is not null
    and s.revoked_at is null
    and s.valid_until > backfill_private.clock()
  order by backfill_private.breadth(s)
$$;

-- The rule of a target that counts now: of those that are in force, the narrowest. Null if none is.
create function backfill_private.rule_that_counts(p_target text)
returns public.backfill_standing
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  for v_rule in select r.* from backfill_private.rules_of(p_target) as r loop
    if (backfill_private.standing_state(v_rule)).why is null then
      return v_rule;
    end if;
  end loop;
  return null;
end
$$;

-- from sql/55_standing/rule.sql
-- Rules of standing approvals: what is proposed, in its normal form and with its digest.

-- The hours of a day, from and to, of a text such as 01-05 or 22-04. They are UTC, and the last one is not included.
--
-- raises  OB013 it names no hours
create function backfill_private.hours_of(p_text text, out from_hour integer, out to_hour integer)
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_given text[] := regexp_match(btrim(p_text), '^([0-9]{1,2})(?::00)?-([0-9]{1,2})(?::00)?$');
begin
  from_hour := v_given[1]::integer;
  to_hour := v_given[2]::integer;
  if p_text is not null
    and (from_hour between 0 and 23 and to_hour between 0 and 24 and from_hour <> to_hour) is not true
  then
    perform backfill_private.refuse('OB013',
      format('hours are two different hours of the day, from and to, not %s', left(p_text, 40)),
      'backfill standing new … --hours 01-05');
  end if;
  -- 22-00 ends at midnight.
  to_hour := case to_hour when 0 then 24 else to_hour end;
end
$$;

-- The weekdays of a text such as mon-fri or sat,sun: 1 for Monday, in their order. Null for null.
--
-- raises  OB013 it names none
create function backfill_private.weekdays_of(p_text text)
returns integer[]
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_names text[] := array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
  v_part text;
  v_from integer;
  v_to integer;
  v_days integer[] := array[]::integer[];
begin
  -- An empty text has a part, too, which names no day.
  foreach v_part in array coalesce(string_to_array(nullif(lower(left(p_text, 200)), ''), ','), array[p_text]) loop
    continue when v_part is null;
    v_from := array_position(v_names, btrim(split_part(v_part, '-', 1)));
    v_to := coalesce(array_position(v_names, btrim(nullif(split_part(v_part, '-', 2), ''))),
      case when strpos(v_part, '-') = 0 then v_from end);
    if v_from is null or v_to is null or array_length(string_to_array(v_part, '-'), 1) > 2 then
      perform backfill_private.refuse('OB013',
        format('weekdays are names such as mon-fri or sat,sun, not %s', left(p_text, 40)),
        'backfill standing new … --weekdays mon-fri');
    end if;
    -- From Friday to Monday goes over the week's end.
    v_days := v_days || array(
      select (v_from + d - 1) % 7 + 1 from generate_series(0, (v_to - v_from + 7) % 7) as d);
  end loop;
  return (select array_agg(distinct d order by d) from unnest(v_days) as d);
end
$$;

-- Whether a mark of a plan is one that a rule names: by its name, by what it begins with, or as one of all.
create function backfill_private.names_mark(p_named text, p_mark text)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select p_named in ('all', p_mark)
    or starts_with(p_mark, p_named || ' ')
    or starts_with(p_mark, p_named || ':')
$$;

-- The marks that plans of a target have or may have: those of its tables and functions, those of any plan, and those
-- of former plans of it.
create function backfill_private.known_marks(p_target text)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select m.mark ->> 'name' from backfill_private.table_marks(p_target) as m (mark)
  union
  select m.mark ->> 'name' from backfill_private.function_marks(p_target, null) as m (mark)
  union
  select n ->> 'name'
  from backfill_private.sources as s
  cross join jsonb_array_elements(s.needs) as n
  where s.target = p_target
  union
  select w.word || backfill_private.bare_name(s.source_table)
  from backfill_private.sources as s
  cross join (values ('rows of '), ('dates of ')) as w (word)
  where s.target = p_target
  union
  select 'before-images of ' || t.table_name from public.backfill_targets as t where t.target = p_target
  union
  select unnest(backfill_private.parameter_names(p_target))
  union
  select unnest(array[
    'throttle', 'environment', 'approval policy', 'mode', 'other tables', 'PostgREST', 'rehearsal: scoring time',
    'rehearsal: scoring calls', 'rehearsal: existing rows', 'rehearsal: other tables', 'rehearsal: undo',
    'rehearsal: second call', 'rehearsal: one transaction', 'rehearsal: calls that the API repeats'])
  union
  select c ->> 'name'
  from public.backfill_runs as r
  cross join jsonb_array_elements(r.plan -> 'checks') as c
  where r.target = p_target
$$;

-- Refuse marks that no plan of a target has.
--
-- raises  OB013 the first of them
create function backfill_private.check_marks(p_target text, p_marks text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_known text[] := array(select k from backfill_private.known_marks(p_target) as k order by 1);
  v_unknown text := (
    select coalesce(m.named, 'null')
    from unnest(p_marks) as m (named)
    where not exists (select from unnest(v_known) as k where backfill_private.names_mark(m.named, k))
    limit 1);
begin
  if v_unknown is not null then
    perform backfill_private.refuse('OB013',
      format('no plan of %s has a mark %s', p_target, left(v_unknown, 80)),
      'backfill standing new … --marks all, or one of: ' || array_to_string(v_known, ', '));
  end if;
end
$$;

-- What a standing approval of a target stands on, as fingerprints: what any plan does, and what selects its rows.
-- {name: SHA-256}, null if a function or the target is gone.
create function backfill_private.standing_definitions(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.definitions(p_target) || jsonb_build_object('source', (
    select backfill_private.sha256_hex((to_jsonb(s) - array['called', 'installed_at'])::text)
    from backfill_private.sources as s
    where s.target = p_target))
$$;

-- The rule alone: what a person approves. Everything else in the row is what became of it.
create function backfill_private.rule_of(p_standing public.backfill_standing)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'target', p_standing.target,
    'environment', p_standing.environment,
    'server', p_standing.server,
    'fingerprint', p_standing.fingerprint,
    'max_sessions', p_standing.max_sessions,
    'max_per_day', p_standing.max_per_day,
    'max_calls', p_standing.max_calls,
    'throttle_per_minute', p_standing.throttle_per_minute,
    'from_hour', p_standing.from_hour,
    'to_hour', p_standing.to_hour,
    'weekdays', p_standing.weekdays,
    'marks', p_standing.marks,
    'replaces', p_standing.replaces,
    'valid_until_s', extract(epoch from p_standing.valid_until))
$$;

-- The digest of a rule, as its row stands.
create function backfill_private.standing_digest(p_standing public.backfill_standing)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(
    concat_ws(e'\n', 'backfill standing approval, form 1', backfill_private.rule_of(p_standing)))
$$;

-- Refuse bounds of a rule that are none, or above what this project allows.
--
-- raises  OB013 the first of them
create function backfill_private.check_caps(p_standing public.backfill_standing)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_settings public.backfill_settings := backfill_private.settings();
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'a run by standing approval, sessions', p_standing.max_sessions,
    'a day of standing approval', coalesce(p_standing.max_per_day, 1),
    'a run by standing approval, calls', coalesce(p_standing.max_calls, 1),
    'the throttle of a standing approval', coalesce(p_standing.throttle_per_minute, 1)));
  if p_standing.max_sessions > v_settings.max_sessions then
    perform backfill_private.refuse('OB013',
      format('max_sessions %s is above the %s per plan that this project allows',
        p_standing.max_sessions, v_settings.max_sessions),
      format('backfill standing new … --max-sessions %s', v_settings.max_sessions));
  elsif p_standing.throttle_per_minute > v_settings.max_throttle_per_minute then
    perform backfill_private.refuse('OB013',
      format('throttle %s is above the %s per minute that this project allows',
        p_standing.throttle_per_minute, v_settings.max_throttle_per_minute),
      format('backfill standing new … --throttle %s', v_settings.max_throttle_per_minute));
  end if;
end
$$;

-- The end of a rule: the first moment after what was given.
--
-- raises  OB013 there is none, it is no date, or it is over
create function backfill_private.end_of_rule(p_until text)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := backfill_private.until_bound('until', nullif(btrim(p_until), ''));
begin
  if v_until is null then
    perform backfill_private.refuse('OB013', 'a standing approval needs an end',
      'backfill standing new … --until with its last day');
  elsif v_until <= backfill_private.clock() then
    perform backfill_private.refuse('OB013', format('until %s is over', left(p_until, 40)),
      'backfill standing new … --until with a day to come');
  end if;
  return v_until;
end
$$;

-- Propose a standing approval. It approves nothing before a person has approved it. Proposed again under the same id,
-- since the answer was lost, it is the same.
--
-- p_asked  {target, until, max_sessions, max_per_day, max_calls, throttle, hours, weekdays, marks, replace,
--          environment}
-- raises   OB008 another environment, OB010 not allowed, OB013 a value is not usable
create function backfill_private.propose_standing(p_standing_id uuid, p_asked jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_new public.backfill_standing;
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_bounds(jsonb_build_object(
    'the list of marks', p_asked -> 'marks',
    'the request', p_asked));
  v_new.standing_id := coalesce(p_standing_id, gen_random_uuid());
  v_new.target := backfill_private.check_target(p_asked ->> 'target');
  v_new.environment := backfill_private.check_environment(nullif(p_asked ->> 'environment', ''));
  v_new.server := backfill_private.server_identity();
  v_new.fingerprint := backfill_private.standing_definitions(v_new.target);
  v_new.max_sessions := (p_asked ->> 'max_sessions')::integer;
  v_new.max_per_day := (p_asked ->> 'max_per_day')::integer;
  v_new.max_calls := (p_asked ->> 'max_calls')::integer;
  v_new.throttle_per_minute := (p_asked ->> 'throttle')::integer;
  select h.from_hour, h.to_hour into v_new.from_hour, v_new.to_hour
  from backfill_private.hours_of(p_asked ->> 'hours') as h;
  v_new.weekdays := backfill_private.weekdays_of(p_asked ->> 'weekdays');
  v_new.marks := array(
    select distinct btrim(m)
    from jsonb_array_elements_text(coalesce(nullif(p_asked -> 'marks', 'null'), '[]')) as m
    order by 1);
  v_new.replaces := coalesce((p_asked ->> 'replace')::boolean, false);
  v_new.valid_until := backfill_private.end_of_rule(p_asked ->> 'until');
  perform backfill_private.check_caps(v_new);
  perform backfill_private.check_marks(v_new.target, v_new.marks);
  v_new.digest := backfill_private.standing_digest(v_new);
  select c.user_id, case c.kind when 'postgres' then 'sql' when 'user' then 'auth' else 'service_key' end
  into v_new.proposed_by, v_new.proposed_via
  from backfill_private.caller() as c;
  v_new.proposed_at := backfill_private.clock();
  insert into public.backfill_standing select v_new.* on conflict (standing_id) do nothing;
  if not exists (
    select from public.backfill_standing as s where s.standing_id = v_new.standing_id and s.digest = v_new.digest)
  then
    perform backfill_private.refuse('OB002',
      format('standing approval %s is there already, with another rule', v_new.standing_id), 'backfill standing list');
  end if;
  return backfill_private.standing_told(v_new.standing_id);
end
$$;

-- from sql/55_standing/told.sql
-- Standing approvals as they are told to people and programs.

-- A standing approval: its rule, where it stands, how much it was used. Null: there is none, or the caller may not
-- read.
--
-- returns  {standing_id, state, why, digest, target, environment, until, max_sessions, max_per_day, max_calls,
--          throttle, hours, weekdays, marks, replace, proposed_via, proposed_at, approved_by, approved_via,
--          approved_at, note, revoked_by, revoked_at, revoked_reason, runs, sessions, today, overlaps}
--          state: proposed, approved, ended or revoked. why: why it is not in force now. Null: it is
--          today: sessions of its target that standing approvals have approved on this UTC day
--          overlaps: ids of the others of its target that are proposed or approved. Of those in force the narrowest
--          counts
create function backfill_private.standing_told(p_standing_id uuid)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select jsonb_build_object(
    'standing_id', s.standing_id,
    'state', t.state,
    'why', t.why,
    'digest', s.digest,
    'target', s.target,
    'environment', s.environment,
    'until', s.valid_until,
    'max_sessions', s.max_sessions,
    'max_per_day', s.max_per_day,
    'max_calls', s.max_calls,
    'throttle', s.throttle_per_minute,
    'hours', lpad(s.from_hour::text, 2, '0') || '-' || lpad(s.to_hour::text, 2, '0'),
    'weekdays', (
      select string_agg((array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'])[d], ',' order by d)
      from unnest(s.weekdays) as d),
    'marks', s.marks,
    'replace', s.replaces)
    || jsonb_build_object(
    'proposed_via', s.proposed_via,
    'proposed_at', s.proposed_at,
    'approved_by', s.approved_by,
    'approved_via', s.approved_via,
    'approved_at', s.approved_at,
    'note', s.note,
    'revoked_by', s.revoked_by,
    'revoked_at', s.revoked_at,
    'revoked_reason', s.revoked_reason,
    'runs', u.runs,
    'sessions', coalesce(u.sessions, 0),
    'today', backfill_private.approved_today(s.target),
    'overlaps', backfill_private.overlaps_of(s))
  from public.backfill_standing as s
  cross join lateral backfill_private.standing_state(s) as t
  cross join lateral (
    select count(*) as runs, sum((r.plan #>> '{candidates,total}')::bigint) as sessions
    from public.backfill_approvals as a
    join public.backfill_runs as r using (run_id)
    where a.standing_id = s.standing_id
  ) as u
  where s.standing_id = p_standing_id
    and backfill_private.may('read')
$$;

-- The other standing approvals of the same target, as it is declared, that may count beside this one: not over.
create function backfill_private.overlaps_of(p_rule public.backfill_standing)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(s.standing_id order by s.proposed_at, s.standing_id), '[]')
  from public.backfill_standing as s
  where s.target = p_rule.target
    and s.standing_id <> p_rule.standing_id
    and s.fingerprint = p_rule.fingerprint
    and s.revoked_at is null
    and p_rule.revoked_at is null
    and least(s.valid_until, p_rule.valid_until) > backfill_private.clock()
$$;

-- Every standing approval, the newest first. See backfill_private.standing_told.
create function backfill_private.standings_told()
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  return (
    select coalesce(
      jsonb_agg(backfill_private.standing_told(s.standing_id) order by s.proposed_at desc, s.standing_id), '[]')
    from public.backfill_standing as s);
end
$$;

-- from sql/55_standing/use.sql
-- Use of standing approvals: a run that one covers is approved by it. What stops such a run, and what proves its use.

-- Reserve sessions of a target for today, one run after the other.
create function backfill_private.reserve_today(p_target text, p_sessions bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into backfill_private.standing_days as d (target, day, sessions, last_at)
  values (
    p_target, (backfill_private.clock() at time zone 'UTC')::date, p_sessions, backfill_private.clock())
  on conflict (target) do update
  set sessions = case when d.day >= excluded.day then d.sessions else 0 end + excluded.sessions,
      day = greatest(d.day, excluded.day),
      last_at = greatest(d.last_at, excluded.last_at)
$$;

-- Lock what the standing approvals of a target have approved today, and the rule that counts then.
--
-- returns  the rule. Null if none is in force
create function backfill_private.locked_rule(p_target text)
returns public.backfill_standing
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  perform backfill_private.reserve_today(p_target, 0);
  perform from public.backfill_standing as s
  where s.target = p_target and s.revoked_at is null
  order by s.standing_id
  for share;
  v_rule := backfill_private.rule_that_counts(p_target);
  return v_rule;
end
$$;

-- Decide by standing approval. Whoever inserts such a decision, it counts only if the named rule is the one that counts
-- now and covers the run. All else is filled in here, and the day's sessions are taken.
--
-- raises  OB002 nothing to decide, OB003 it does not cover the run, OB007, OB008 as backfill_private.decide
create function backfill_private.decide_by_standing()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.locked_run(new.run_id, array['awaiting_approval']);
  v_rule public.backfill_standing := backfill_private.locked_rule(v_run.target);
  v_fault text := backfill_private.standing_fault(v_rule, v_run);
begin
  if v_rule.standing_id is distinct from new.standing_id or new.decision is distinct from 'approved' then
    v_fault := 'it is not the one that counts now';
  end if;
  if v_fault is not null then
    perform backfill_private.refuse('OB003',
      format('%s does not cover run %s: %s', backfill_private.standing_name(new.standing_id), new.run_id, v_fault),
      backfill_private.hint(v_run));
  end if;
  perform backfill_private.check_environment(coalesce(v_run.environment, 'unnamed'));
  perform backfill_private.check_digest(v_run, v_run.digest);
  perform backfill_private.reserve_today(v_run.target, (
    select max(i.ordinal) from public.backfill_items as i where i.run_id = new.run_id));
  new.approver := v_rule.approved_by;
  new.approver_id := v_rule.approver_id;
  new.via := 'standing';
  new.note := 'by ' || backfill_private.standing_name(v_rule.standing_id);
  return backfill_private.carried_out(new, v_run, v_rule.valid_until, jsonb_build_object(
    'standing', v_rule.standing_id,
    'standing_digest', v_rule.digest));
end
$$;

create trigger backfill_approvals_decide_by_standing before insert on public.backfill_approvals
  for each row when (new.standing_id is not null) execute function backfill_private.decide_by_standing();

-- Why a run waits for a person, in words: what the rule that counts does not cover, or why none is in force.
--
-- p_rule   the rule that counts. Null: none
-- p_fault  why it does not cover the run
create function backfill_private.why_not_covered(
  p_run public.backfill_runs, p_rule public.backfill_standing, p_fault text
)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_rule.standing_id is not null then format('%s%s: %s',
      backfill_private.standing_name(p_rule.standing_id),
      (
        select ', the narrowest of ' || count(*)
        from backfill_private.rules_of(p_run.target) as r
        where (backfill_private.standing_state(r)).why is null
        having count(*) > 1
      ),
      p_fault)
    else (
      select string_agg(
        format('%s: %s', backfill_private.standing_name((f.rule).standing_id),
          (backfill_private.standing_state(f.rule)).why),
        '; ' order by (f.rule).proposed_at desc)
      from (
        select s as rule
        from public.backfill_standing as s
        where s.target = p_run.target
        order by s.revoked_at is not null, s.approved_at is null, s.proposed_at desc
        limit 3
      ) as f)
  end
$$;

-- What standing approvals say of a run: the one that approved it, or why none covers it. Null: nothing, or the caller
-- may not read.
--
-- returns  {standing_id, covers, reason}
create function backfill_private.standing_of_run(p_run_id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_rule public.backfill_standing;
  v_fault text;
begin
  if not backfill_private.may('read') then
    return null;
  end if;
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if v_run.approved_via = 'standing' then
    return (
      select jsonb_build_object('standing_id', a.standing_id, 'covers', true, 'reason', null)
      from public.backfill_approvals as a
      where a.run_id = p_run_id);
  elsif v_run.state is distinct from 'awaiting_approval'
    or not exists (select from public.backfill_standing as s where s.target = v_run.target)
  then
    return null;
  end if;
  v_rule := backfill_private.rule_that_counts(v_run.target);
  v_fault := case
    when v_rule.standing_id is null then 'none is in force'
    else backfill_private.standing_fault(v_rule, v_run)
  end;
  return jsonb_build_object(
    'standing_id', v_rule.standing_id,
    'covers', v_fault is null,
    'reason', case when v_fault is not null then backfill_private.why_not_covered(v_run, v_rule, v_fault) end);
end
$$;

-- Ask whether a standing approval covers a run. If so, the run is approved by it. Else it waits for a person, and may
-- ask again.
--
-- returns  {run_id, state, digest, approved_by, approved_via, approved_until, standing: see standing_of_run}
-- raises   OB001 no such run, OB007 what was planned is no longer what stands there, OB010 not allowed
create function backfill_private.ask_standing(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_told jsonb;
begin
  perform backfill_private.authorize('plan');
  if not exists (select from public.backfill_runs as r where r.run_id = p_run_id) then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  end if;
  v_told := backfill_private.standing_of_run(p_run_id);
  if (v_told -> 'covers')::boolean
    and (select r.state = 'awaiting_approval' from public.backfill_runs as r where r.run_id = p_run_id)
  then
    begin
      insert into public.backfill_approvals (run_id, digest, decision, standing_id)
      values (p_run_id, '', 'approved', (v_told ->> 'standing_id')::uuid);
    exception when sqlstate 'OB002' or sqlstate 'OB003' then
      null;  -- Somebody else was first: decided on the run, took the day's sessions, or revoked the rule.
    end;
  end if;
  return (
    select jsonb_build_object(
      'run_id', r.run_id,
      'state', r.state,
      'digest', r.digest,
      'approved_by', r.approved_by,
      'approved_via', r.approved_via,
      'approved_until', r.approved_until,
      'standing', backfill_private.standing_of_run(r.run_id))
    from public.backfill_runs as r
    where r.run_id = p_run_id);
end
$$;

-- The rule by which a run was approved. No row if a person approved it.
create function backfill_private.rule_of_run(p_run public.backfill_runs)
returns setof public.backfill_standing
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select s.*
  from public.backfill_approvals as a
  join public.backfill_standing as s using (standing_id)
  where p_run.approved_via = 'standing'
    and a.run_id = p_run.run_id
$$;

-- Why a run that a standing approval allowed may go on no more. Null: it may, or a person approved it.
create function backfill_private.standing_revoked(p_run public.backfill_runs)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_run.approved_via is distinct from 'standing' then
    return null;
  end if;
  return coalesce(
    (
      select case
        when s.revoked_at is not null
        then format('%s, which allowed this run, was revoked by %s: %s',
          backfill_private.standing_name(s.standing_id), s.revoked_by, s.revoked_reason)
        else ''
      end
      from backfill_private.rule_of_run(p_run) as s
    ),
    'the standing approval that allowed this run is gone');
end
$$;

-- When a run may start sessions again, if it is outside the hours of its standing approval. Null: it may now.
--
-- why  its hours, in words
create function backfill_private.standing_wait(p_run public.backfill_runs, out until timestamptz, out why text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  if p_run.approved_via = 'standing' then
    select * into v_rule from backfill_private.rule_of_run(p_run);
    if not backfill_private.is_open(v_rule, backfill_private.clock()) then
      until := backfill_private.opens_at(v_rule, backfill_private.clock());
      why := format('%s is for %s',
        backfill_private.standing_name(v_rule.standing_id), backfill_private.times_in_words(v_rule));
    end if;
  end if;
end
$$;

-- That a run waits for the hours of its standing approval, in words. Null: it does not, or the caller may not read.
create function backfill_private.waits_for_hours(p_run_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select format('hours: until %s UTC, %s', to_char(w.until at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), w.why)
  from public.backfill_runs as r
  cross join lateral backfill_private.standing_wait(r) as w
  where r.run_id = p_run_id
    and w.until is not null
    and backfill_private.may('read')
$$;

-- What no longer proves that a standing approval allowed a run. No row if all does.
create function backfill_private.standing_use_faults(p_run_id uuid)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with used as (
    select
      r.approved_via as run_via,
      a.via,
      a.standing_id,
      a.approver,
      a.approver_id,
      a.decided_at,
      e.seq,
      e.details
    from public.backfill_runs as r
    join public.backfill_approvals as a using (run_id)
    join public.backfill_events as e on e.run_id = r.run_id and e.kind = 'approved'
    where r.run_id = p_run_id
      and a.decision = 'approved'
  )
  select format('audit event %s: %s', u.seq, f.fault)
  from used as u
  left join public.backfill_standing as s using (standing_id)
  cross join lateral (values
    (u.run_via is distinct from u.via, 'the run says another way of its approval'),
    ((u.via = 'standing') <> (u.standing_id is not null)
        or u.standing_id::text is distinct from u.details ->> 'standing',
      'the standing approval that it tells is not the one of the decision'),
    (u.standing_id is not null and (
        u.details ->> 'standing_digest' is distinct from s.digest
        or s.digest is distinct from backfill_private.standing_digest(s)
        or (u.approver, u.approver_id) is distinct from (s.approved_by, s.approver_id)),
      'the standing approval is not the one by which the run was allowed'),
    (u.standing_id is not null and (
        u.decided_at >= s.approved_at and u.decided_at < s.valid_until
        and (s.revoked_at is null or u.decided_at <= s.revoked_at)) is not true,
      'the standing approval did not hold when the run was allowed')
  ) as f (is_so, fault)
  where f.is_so
$$;

-- from sql/60_apply/_tables.sql
-- Tables of a run under way: receipts, looks before a call, calls in bulk.

create table public.backfill_receipts (
  receipt_id bigint generated always as identity primary key,
  run_id uuid not null,
  ordinal integer not null,
  session_id text not null,
  component text not null,
  kind text not null check (kind in ('score', 'undo')),
  operation text not null check (operation in ('insert', 'update', 'delete')),
  table_name text not null,
  row_key jsonb not null,
  shape bytea not null,
  before text,
  before_hash bytea,
  after_hash bytea,
  after_columns bigint[],
  attempt integer not null,
  is_inferred boolean not null default false,
  at timestamptz not null,
  undone_at timestamptz,
  undo_id bigint
);

create index backfill_receipts_items on public.backfill_receipts (run_id, ordinal);

comment on table public.backfill_receipts is
  'One receipt per row that a run wrote, committed with it: key, operation, hashes. '
  'No foreign key, so that scoring locks only its item.';
comment on column public.backfill_receipts.receipt_id is 'Grows with every receipt. Gaps mean nothing.';
comment on column public.backfill_receipts.run_id is 'The run that wrote the row.';
comment on column public.backfill_receipts.ordinal is 'The session''s place in the run''s plan.';
comment on column public.backfill_receipts.session_id is 'The session.';
comment on column public.backfill_receipts.component is 'The component that the row belongs to.';
comment on column public.backfill_receipts.kind is 'score: the run wrote it. undo: an undo did.';
comment on column public.backfill_receipts.operation is 'insert, update or delete.';
comment on column public.backfill_receipts.table_name is 'The table.';
comment on column public.backfill_receipts.row_key is 'The key of the row.';
comment on column public.backfill_receipts.shape is
  'The columns that the row had: see backfill_private.shapes.';
comment on column public.backfill_receipts.before is
  'The row before as text, for undo. No API role reads it. backfill_prune empties it. An undo itself keeps none.';
comment on column public.backfill_receipts.before_hash is 'SHA-256 of the row before. Null if there was none.';
comment on column public.backfill_receipts.after_hash is
  'SHA-256 of the row as it was left. Null if it was deleted.';
comment on column public.backfill_receipts.after_columns is
  'A short hash per column, to compare the others when a migration drops one. No API role reads it.';
comment on column public.backfill_receipts.attempt is 'The number of the session''s attempt.';
comment on column public.backfill_receipts.is_inferred is
  'True: nobody saw the write. The row differed when the session was settled. See backfill_targets.receipts.';
comment on column public.backfill_receipts.at is 'When the row was written.';
comment on column public.backfill_receipts.undone_at is 'When an undo took this write back.';
comment on column public.backfill_receipts.undo_id is
  'The undo that took this write back, or that wrote this receipt. Null: none. The chain names it as undo.';

-- The rows of a leased session as they were when it was leased. Deleted when it is settled.
create table backfill_private.looks (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  ordinal integer not null,
  component text not null,
  row_key jsonb not null,
  shape bytea not null,
  image text not null,
  primary key (run_id, ordinal, component, row_key)
);

-- No session of a run before the newest mark is pending: see low_water.sql.
create table backfill_private.low_water (
  run_id uuid not null,
  mark_id bigint generated always as identity,
  ordinal integer not null,
  primary key (run_id, mark_id)
);

-- Up to when all leases that ran out have been settled, as the newest look says: see low_water.sql.
create table backfill_private.lease_looks (
  look_id bigint generated always as identity primary key,
  until timestamptz not null
);

-- The calls in bulk that are under way, each with its sessions. Keeping and settling are allowed only in the
-- transaction of one. None outlives its transaction, so no log of it is written.
create unlogged table backfill_private.bulk_claims (
  xid xid8 primary key,
  claim_id uuid not null,
  run_id uuid not null,
  ordinals integer[] not null,
  started_at timestamptz not null default backfill_private.clock()
);

create constraint trigger bulk_claims_settled after insert or update on backfill_private.bulk_claims
  deferrable initially deferred
  for each row
  execute function backfill_private.refuse_to_commit('xid', 'a call in bulk ends once it is settled');

-- The rows that a call in bulk has written, as the gate saw them, until their receipts are written. The functions that
-- it calls reach this table with no right. turn is what the setting backfill.bulk said.
create unlogged table backfill_private.bulk_rows (
  xid xid8 not null,
  turn text not null,
  target text not null,
  component text not null,
  operation text not null,
  before jsonb,
  after jsonb,
  relation oid not null,
  image text,
  after_hash bytea,
  nth bigint generated always as identity,
  primary key (xid, nth)
);

-- from sql/60_apply/alone.sql
-- Alone: a session that met a conflict on a table that is no component's is called once more while no other of its run
-- is.
--
-- Two sessions may write the same row of such a table: a day's total, a customer. What one of them met at the same time
-- as the other tells nothing about it. If it meets the conflict alone too, that is its failure.

-- Is this an error about a unique key of a table that is no component's? An Edge Function may pass on the message
-- alone.
create function backfill_private.is_conflict_elsewhere(p_target text, p_code text, p_message text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select (p_code = '23505' or strpos(p_message, 'duplicate key value violates unique constraint') > 0)
    and not exists (
      select from public.backfill_targets as t
      left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
      join pg_index as x on x.indrelid = coalesce(part.relid, to_regclass(t.table_name))
      join pg_class as c on c.oid = x.indexrelid
      where t.target = p_target and c.relname = substring(p_message from 'unique constraint "([^"]+)"'))
$$;

-- Doubt a failure that is such a conflict: its session is called once more alone.
--
-- returns  the outcomes as they are decided
create function backfill_private.doubt_conflicts(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from jsonb_array_elements(p_outcomes) as o where o ->> 'outcome' = 'failed') then
    return p_outcomes;
  end if;
  return (
    select jsonb_agg(
      case
        when o ->> 'outcome' = 'failed'
          and r.request ->> 'mode' is distinct from 'bulk'
          and backfill_private.is_conflict_elsewhere(r.target, o ->> 'code', o ->> 'message')
          and not (
            select i.is_alone
            from public.backfill_items as i
            where i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer)
        then o || jsonb_build_object('outcome', 'beside', 'message', left(o ->> 'message', 300)
          || ': it is tried once more alone. With apply --concurrency 1 each is')
        else o
      end)
    from jsonb_array_elements(p_outcomes) as o
    join public.backfill_runs as r on r.run_id = p_run_id);
end
$$;

-- The places of a run's sessions that were not well beside others. Asked at every claim, so by their index. None in
-- bulk, where a call decides this.
create function backfill_private.places_alone(p_run public.backfill_runs)
returns integer[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return array(
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.is_alone and p_run.request ->> 'mode' is distinct from 'bulk');
end
$$;

-- The session that has to be called alone, or is being called so. Null if there is none.
create function backfill_private.session_alone(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select i.session_id
  from public.backfill_items as i
  where i.run_id = p_run.run_id
    and i.ordinal = any (backfill_private.places_alone(p_run))
    and i.state in ('pending', 'leased')
  order by i.state, i.ordinal
  limit 1
$$;

-- The place of the next session that has to be called alone, locked. Null if none is ready.
create function backfill_private.next_alone(p_run public.backfill_runs)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ordinal integer;
begin
  select i.ordinal into v_ordinal
  from public.backfill_items as i
  where i.run_id = p_run.run_id
    and i.ordinal = any (backfill_private.places_alone(p_run))
    and i.state = 'pending'
    and not backfill_private.is_leased(i.source, i.session_id)
  order by i.ordinal
  limit 1
  for update of i skip locked;
  return case when v_ordinal is not null then array[v_ordinal] end;
end
$$;

-- from sql/60_apply/backoff_and_breaker.sql
-- Trouble: what the database does when calls go wrong. Back-off of a session and of a run, and the circuit breaker.
--
-- A call without a known end is looked up, not guessed: settling takes the fence away, then asks the receipts.
-- This file says only how long to wait before another try, and when to stop trying. How many tries a session has is in
-- outcome.sql, which code or status means slow or unknown in 30_run/faults.sql. The client repeats none of these calls.
-- Its own (start, claim, settle) it asks again with a back-off of the library stamina: backfill/api/retries.py.

-- How long to wait after this many troubles in a row: 1 s, 2 s, 4 s … 60 s. Up to half of it is random, so that
-- sessions and workers that ran into the same trouble do not come back together.
create function backfill_private.back_off(p_troubles integer)
returns interval
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select least(60, power(2, least(p_troubles, 10) - 1)) * (0.5 + random() / 2) * interval '1 second'
$$;

-- When a session that is pending again may be tried. Null: at once.
--
-- p_outcome        see backfill_private.decide_outcomes
-- p_unknowns       how often its outcome was unknown, with this one
-- p_crowded_out    how often it was rolled back or told to wait while others were not, with this one
-- p_retry_after_s  as a 429 said. At most an hour of it is heeded
create function backfill_private.tried_again_at(
  p_outcome text, p_unknowns integer, p_crowded_out integer, p_retry_after_s numeric
)
returns timestamptz
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.clock() + case p_outcome
    when 'unknown' then backfill_private.back_off(p_unknowns)
    when 'again' then backfill_private.back_off(p_crowded_out)
    when 'slow' then greatest(
      backfill_private.back_off(greatest(p_crowded_out, 1)),
      case when p_retry_after_s > 0 then least(p_retry_after_s, 3600) end * interval '1 second')
  end
$$;

-- Note that calls are answered: the run is in no trouble, and does not back off.
create function backfill_private.note_answers(p_run_id uuid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update public.backfill_runs
  set troubled_batches = 0, back_off_until = null
  where run_id = p_run_id
    and (troubled_batches, back_off_until) is distinct from (0, null)
$$;

-- Note what a batch ran into. A run that gets no answer backs off, and is paused after eight batches without one. A run
-- that is told to slow down by a 429 waits as long as it was told: the worker begins no other session of the batch, and
-- no claim and no call in bulk is granted before back_off_until. A session that is told so again while others are not
-- waits by itself, as long as tried_again_at says. Trouble that may hit every session is tried on another one, see
-- trial.sql.
--
-- p_outcomes  as the worker told them
-- p_settled   as decided, see backfill_private.decide_outcomes
create function backfill_private.note_trouble(p_run_id uuid, p_outcomes jsonb, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_trouble record;
  v_is_known boolean := backfill_private.has_known_outcome(p_outcomes)
    or exists (select from jsonb_array_elements(p_settled) as s where s ->> 'state' = 'done');
  v_batches integer;
  v_what text;
begin
  select
    o ->> 'outcome' as kind,
    (o ->> 'retry_after_s')::numeric as retry_after_s,
    concat_ws(' ', left(o ->> 'code', 20), backfill_private.kept_message(o ->> 'code', o ->> 'message')) as what
  into v_trouble
  from jsonb_array_elements(p_outcomes) as o
  where o ->> 'outcome' in ('slow', 'unknown')
    and not (o ->> 'outcome' = 'slow' and exists (
      select from public.backfill_items as i
      where i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer and i.crowded_out > 1))
  order by
    o ->> 'outcome' = 'slow' desc,
    (o ->> 'retry_after_s')::numeric desc nulls last
  limit 1;
  if v_trouble.kind is distinct from 'slow' and v_is_known then
    perform backfill_private.note_answers(p_run_id);
  elsif v_trouble.kind in ('slow', 'unknown') then
    v_what := left(v_trouble.what, 300);
    update public.backfill_runs
    set troubled_batches = troubled_batches + (not v_is_known)::integer,
        back_off_reason = v_what,
        back_off_until = backfill_private.clock() + coalesce(
          case when v_trouble.retry_after_s > 0 then least(v_trouble.retry_after_s, 3600) end * interval '1 second',
          backfill_private.back_off(troubled_batches + 1))
    where run_id = p_run_id
    returning troubled_batches into v_batches;
  end if;
  -- In an `if` of its own: PostgreSQL would look for what is pending each time, through all that is done.
  if v_trouble.kind = 'unknown' and v_batches >= 8 then
    if exists (
      select from public.backfill_items as i
      where i.run_id = p_run_id
        and i.state = 'pending'
        and i.ordinal not in (select (o ->> 'ordinal')::integer from jsonb_array_elements(p_outcomes) as o)
    ) then
      perform backfill_private.hold(p_run_id, 'no_outcome',
        format('no known outcome in %s batches in a row, the last: %s', v_batches, v_what));
    end if;
  end if;
end
$$;

-- The circuit breaker pauses the run if more than half failed after twenty sessions, or five in a row in the canary.
-- It counts since the run was started or resumed, so that a repaired run can finish.
--
-- p_settled  see backfill_private.decide_outcomes
create function backfill_private.break_circuit(p_run_id uuid, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.run_now(p_run_id);
  v_is_canary boolean;
  v_settled integer;
  v_failed integer;
  v_newest_done integer;
  v_failed_after integer;
  v_most text;
begin
  select
    count(*)::integer,
    count(*) filter (where s.state = 'failed')::integer,
    max(s.ordinal) filter (where s.state = 'done')
  into v_settled, v_failed, v_newest_done
  from jsonb_to_recordset(p_settled) as s (ordinal integer, state text)
  where s.state in ('done', 'failed');
  select count(*)::integer into v_failed_after
  from jsonb_to_recordset(p_settled) as s (ordinal integer, state text)
  where s.state = 'failed'
    and s.ordinal > coalesce(v_newest_done, 0);
  v_run.settled_since := v_run.settled_since + v_settled;
  v_run.failed_since := v_run.failed_since + v_failed;
  v_run.failed_in_row := case when v_newest_done is null then v_run.failed_in_row else 0 end + v_failed_after;
  perform backfill_private.keep_run(v_run, true);
  if v_failed = 0 then
    return;
  end if;
  select
    count(*) filter (where i.phase = 'priority') > 0,
    coalesce(mode() within group (order by i.error_code), 'no code')
  into v_is_canary, v_most
  from public.backfill_items as i
  join jsonb_to_recordset(p_settled) as s (ordinal integer, state text) using (ordinal)
  where i.run_id = p_run_id
    and i.state = 'failed';
  if v_is_canary and v_run.failed_in_row >= 5 then
    perform backfill_private.hold(p_run_id, 'breaker:' || v_most,
      format('circuit breaker: %s canary %s failed in a row, most with %s',
        v_run.failed_in_row, (backfill_private.words_of(p_run_id))[2], v_most));
  elsif v_run.settled_since >= 20 and v_run.failed_since * 2 > v_run.settled_since then
    perform backfill_private.hold(p_run_id, 'breaker:' || v_most,
      format('circuit breaker: %s of %s failed since %s UTC, most with %s',
        v_run.failed_since,
        backfill_private.called_in(p_run_id, v_run.settled_since),
        to_char(v_run.resumed_at at time zone 'UTC', 'HH24:MI:SS'),
        v_most));
  end if;
end
$$;

-- Note batches in which nothing went wrong, many at once: what note_trouble and break_circuit would say of each.
--
-- p_done  how many sessions they have done, if any. Null: there were no such batches
create function backfill_private.note_well(p_run_id uuid, p_done bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.run_now(p_run_id);
begin
  if p_done is null then
    return;
  end if;
  perform backfill_private.note_answers(p_run_id);
  v_run.settled_since := (v_run.settled_since + p_done)::integer;
  v_run.failed_in_row := case when p_done > 0 then 0 else v_run.failed_in_row end;
  perform backfill_private.keep_run(v_run, true);
end
$$;

-- Until when a run starts no session by itself: it backs off, or is outside the hours of its standing approval. Null:
-- it does not wait.
create function backfill_private.waits_until(p_run public.backfill_runs)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select greatest(p_run.back_off_until, (backfill_private.standing_wait(p_run)).until)
$$;

-- from sql/60_apply/bulk.sql
-- Bulk: claim, score and settle a batch in one call of the API and one transaction, as the caller's role.
--
-- State, receipts and rows commit together, so a lost reply or a killed worker leaves nothing to look up. Many such
-- calls run side by side, which the lock of the run would not allow. They share an advisory lock that every verb takes
-- exclusively, and leave a note in a table. The next one to hold the run writes the note into the audit chain, see
-- backfill_private.note_batches. The next verb looks at what went wrong, see backfill_private.look_at_bulk.

-- How many batches may wait to be noted. A claim notes them all, and has eight seconds.
create function backfill_private.most_unnoted()
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 500
$$;

-- May this run's sessions be scored in bulk now? If not, a claim finds out why and says so. After a batch in bulk in
-- which a session did not end well, a claim has to look first: at the circuit breaker, at trouble, at critical faults.
create function backfill_private.may_bulk(p_run public.backfill_runs)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p_run.request ->> 'mode' = 'bulk'
    and backfill_private.may_score(p_run)
    and coalesce(backfill_private.waits_until(p_run) <= backfill_private.clock(), true)
    and not backfill_private.is_on_trial(p_run.run_id)
    and not exists (
      select from backfill_private.unnoted as u where u.run_id = p_run.run_id and not u.is_well)
    and (
      select count(*)
      from (
        select from backfill_private.unnoted as u
        where u.run_id = p_run.run_id
        limit backfill_private.most_unnoted()
      ) as waiting
    ) < backfill_private.most_unnoted()
    and (p_run.canary in ('passed', 'overridden') or not exists (
      select from public.backfill_items as i where i.run_id = p_run.run_id and i.ordinal = 1 and i.phase = 'priority'))
$$;

-- Write the receipts of the rows that a call in bulk has written since the last ones. What the gate kept says which.
--
-- p_step   the step, if one step of one session was made. It is refused while a row that it needs first is missing
-- returns  the components that were written, each as its session's place in the plan and its name
-- raises   OB011 no such call is under way in this transaction
--          OB012 the approval ran out meanwhile
--          OB018 a row is another session's or target's
--          OB020 as keep_receipt
create function backfill_private.bulk_keep(p_claim_id uuid, p_step text)
returns text[]
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_mergejoin = off
as $$
declare
  v_call backfill_private.bulk_claims := backfill_private.bulk_call(p_claim_id);
  v_now timestamptz := backfill_private.clock();
  v_seen record;
begin
  if exists (select from public.backfill_runs as r where r.run_id = v_call.run_id and r.approved_until <= v_now) then
    perform backfill_private.refuse_write('expired', v_call.run_id, null, null);
  end if;
  with kept as materialized (
    delete from backfill_private.bulk_rows as k where k.xid = v_call.xid
    returning k.*, case when k.turn ~ '^[0-9]{1,9}$' then k.turn::integer end as place
  ), found as materialized (
    select k.*, i.ordinal, i.session_id, i.attempts + 1 as attempt,
      t.table_name, t.key_columns, t.session_column, coalesce(k.after, k.before) as contents
    from kept as k
    left join public.backfill_items as i
      on i.run_id = v_call.run_id and i.ordinal = k.place and k.place = any (v_call.ordinals)
    left join public.backfill_targets as t
      on t.target = i.source and t.target = k.target and t.component = k.component
  ), shaped as materialized (
    select f.relation, backfill_private.shape_of(f.relation) as shape from found as f group by f.relation
  ), written as (
    insert into public.backfill_receipts (
      run_id, ordinal, session_id, component, kind, operation, table_name,
      row_key, shape, before, before_hash, after_hash, after_columns, attempt, at)
    select v_call.run_id, f.ordinal, f.session_id, f.component, 'score', f.operation, f.table_name,
      backfill_private.row_key(f.contents, f.key_columns), s.shape, f.image,
      sha256(convert_to(f.image, 'UTF8')), f.after_hash,
      nullif(array(select hashtextextended(jsonb_path_query(f.after, '$.*')::text, 0)), '{}'), f.attempt, v_now
    from found as f join shaped as s using (relation)
    where f.table_name is not null
    order by f.nth
  )
  select
    array_agg(distinct concat_ws(' ', f.ordinal, f.component)) filter (where f.operation <> 'delete') as components,
    min(coalesce(f.session_id, f.turn)) filter (where f.table_name is null
      or f.contents ->> f.session_column is distinct from f.session_id
      or f.before is not null and f.before ->> f.session_column is distinct from f.session_id) as foreigner,
    min(f.ordinal) as ordinal
  into v_seen
  from found as f;
  if v_seen.foreigner is not null then
    perform backfill_private.refuse('OB018',
      format('this attempt holds session %s and writes a row of another', v_seen.foreigner),
      'let the function write rows of the session that it is called for alone');
  elsif p_step is not null then
    perform backfill_private.check_order(v_call.run_id, v_seen.ordinal, p_step, (
      select t.needs_first
      from public.backfill_targets as t
      join public.backfill_runs as r on r.run_id = v_call.run_id and r.target = t.target
      where t.component = p_step));
  end if;
  return coalesce(v_seen.components, '{}');
end
$$;

-- The call in bulk that is under way in this transaction.
--
-- raises  OB011 it is not this one
create function backfill_private.bulk_call(p_claim_id uuid)
returns backfill_private.bulk_claims
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_call backfill_private.bulk_claims;
begin
  select * into v_call
  from backfill_private.bulk_claims as b
  where b.xid = pg_current_xact_id()
    and b.claim_id = p_claim_id;
  if not found then
    perform backfill_private.refuse('OB011', 'no call in bulk is under way here', 'stop; claim again');
  end if;
  return v_call;
end
$$;

-- The next sessions for a call in bulk, of one phase, locked. A phase whose rest is all under way is followed by the
-- next. What it gives back after all comes before what is left of that one.
create function backfill_private.next_in_bulk(p_run_id uuid, p_limit integer)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run_id);
  v_next integer[] := backfill_private.next_items(p_run_id, v_phase, p_limit);
begin
  if v_next is null and v_phase = 'recent' then
    v_next := backfill_private.next_items(p_run_id, 'historical', p_limit);
  end if;
  return v_next;
end
$$;

-- Take the next sessions for a call in bulk. Their items are locked until it ends, and so is each session's name: of
-- two runs one gets the session, and the other takes it up later. What somebody has filled by then, or the target no
-- longer selects, is skipped. If other calls hold them all, this one waits for the first.
--
-- A session that was not well beside others in one transaction is taken alone. So is each session of a run whose
-- rehearsal saw that this matters.
--
-- p_limit  at most so many
-- returns  [{ordinal, session_id, attempt, todo: [component]}]
create function backfill_private.bulk_take(p_run public.backfill_runs, p_limit integer)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_secret text := (select s.secret from backfill_private.lock_secret as s);
  v_next integer[];
  v_taken integer[];
begin
  perform backfill_private.take_target_lock(p_run.target, true);
  v_next := backfill_private.next_in_bulk(p_run.run_id,
    case when p_run.plan #>> '{rehearsal,alone}' = 'true' then 1 else p_limit end);
  v_next := v_next[1:(
    select greatest(coalesce(min(n.place) - 1, p_limit), 1)
    from unnest(v_next) with ordinality as n (ordinal, place)
    join public.backfill_items as i on i.run_id = p_run.run_id and i.ordinal = n.ordinal
    where i.is_alone)];
  v_taken := array(
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run.run_id
      and i.ordinal = any (v_next)
      and pg_try_advisory_xact_lock(
        backfill_private.lock_key_with(v_secret, 'session', i.source || '/' || i.session_id)));
  if v_taken = '{}' and v_next is not null then
    perform backfill_private.take_lock(
      backfill_private.lock_key('session', i.source || '/' || i.session_id), false, 'session ' || i.session_id)
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = v_next[1];
    v_taken := v_next[1:1];
  end if;
  perform backfill_private.skip_filled(p_run, v_taken);
  perform backfill_private.skip_unselected(p_run, v_taken);
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
        'ordinal', i.ordinal, 'session_id', i.session_id, 'attempt', i.attempts + 1,
        -- What an earlier attempt has written, when its calls were made one by one, is not scored again.
        'todo', (
          select coalesce(jsonb_agg(c), '[]')
          from unnest(i.components) as c
          where c <> all (i.filled)
            and (i.attempts = 0 or not exists (
              select from public.backfill_receipts as r
              where r.run_id = i.run_id and r.ordinal = i.ordinal and r.component = c
                and r.kind = 'score'
                and r.operation <> 'delete'
                and r.undone_at is null)))) order by i.ordinal), '[]')
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = any (v_taken) and i.state = 'pending');
end
$$;

-- Begin a call in bulk: take its sessions.
--
-- returns  {claim, sessions, until: when the approval runs out, calls: {component: SQL, all of them under ''},
--          settings: see loose_settings, checks: see checks_now}, or {look: true} if a claim has to look first
-- raises   OB001 no such run, OB010 not allowed, OB011 within such a call, OB013 more than 500 sessions
create function backfill_private.bulk_begin(p_run_id uuid, p_sessions integer)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_claim_id uuid := gen_random_uuid();
  v_sessions jsonb := '[]'::jsonb;
  v_pace record;
  v_may boolean := true;
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_bounds(jsonb_build_object('a call in bulk, sessions', p_sessions));
  if exists (select from backfill_private.bulk_claims as b where b.xid = pg_current_xact_id_if_assigned()) then
    perform backfill_private.refuse('OB011', 'a call in bulk is under way here already',
      'let the scoring function call no function of backfill');
  end if;
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if backfill_private.rate_of(v_run) is null then
    perform backfill_private.take_run_lock(p_run_id, true);
    select * into v_run from public.backfill_runs where run_id = p_run_id;
    v_may := backfill_private.rate_of(v_run) is null;  -- given one in between, it takes the whole lock to count
  else
    v_run := backfill_private.caught_up_run(p_run_id);
  end if;
  if not found then
    perform backfill_private.refuse('OB001', format('there is no run %s', p_run_id), 'backfill runs');
  elsif v_may and backfill_private.may_bulk(v_run) then
    v_pace := backfill_private.allowance(v_run);
    if v_pace.wait_s = 0 then
      v_sessions := backfill_private.bulk_take(v_run, least(p_sessions, v_pace.sessions));
    end if;
  end if;
  if v_sessions = '[]' then
    return '{"look": true}'::jsonb;
  elsif backfill_private.rate_of(v_run) is not null then
    perform backfill_private.count_starts(v_run, jsonb_array_length(v_sessions));
  else
    perform backfill_private.take_slots(jsonb_array_length(v_sessions));
  end if;
  insert into backfill_private.bulk_claims (xid, claim_id, run_id, ordinals)
  values (pg_current_xact_id(), v_claim_id, p_run_id,
    array(select (s ->> 'ordinal')::integer from jsonb_array_elements(v_sessions) as s));
  return jsonb_build_object('claim', v_claim_id, 'sessions', v_sessions, 'until', v_run.approved_until,
    'calls', backfill_private.bulk_calls(v_run),
    'settings', v_run.loose_settings, 'checks', backfill_private.checks_now());
end
$$;

-- Settle what a call in bulk has scored well, each row with its receipt. A session whose rows are of the wanted version
-- is done.
--
-- returns  the ordinals of the others
create function backfill_private.bulk_done(p_run_id uuid, p_ordinals integer[], p_started_at timestamptz)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_mergejoin = off
as $$
declare
  v_run public.backfill_runs;
  v_lacking integer[];
  v_now timestamptz := backfill_private.clock();
begin
  select * into strict v_run from public.backfill_runs where run_id = p_run_id;
  v_lacking := array(
    select owed.ordinal from (
      select i.ordinal, c.component
      from public.backfill_items as i
      cross join unnest(i.components) as c (component)
      where i.run_id = p_run_id and i.ordinal = any (p_ordinals) and c.component <> all (i.filled)
      except
      select s.ordinal, s.component from backfill_private.standing_of(v_run, p_ordinals, true) as s) as owed);
  update public.backfill_items as i
  set state = 'done', attempts = i.attempts + 1, started_at = p_started_at, settled_at = v_now,
      failed_step = null, error_code = null, error_message = null, not_before = null
  where i.run_id = p_run_id and i.ordinal = any (p_ordinals) and i.ordinal <> all (v_lacking);
  return v_lacking;
end
$$;

-- Settle the other sessions of a call in bulk like any batch: leased for this moment, decided by their receipts.
--
-- p_outcomes, returns  see backfill_private.decide_outcomes
create function backfill_private.bulk_troubled(
  p_run_id uuid, p_claim_id uuid, p_outcomes jsonb, p_started_at timestamptz
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_outcomes = '[]' then
    return p_outcomes;
  end if;
  update public.backfill_items as i
  set state = 'leased', lease_kind = 'score', attempts = i.attempts + 1, started_at = p_started_at,
      claim_id = p_claim_id, lease_until = p_started_at + backfill_private.lease_ttl()
  from jsonb_to_recordset(p_outcomes) as o (ordinal integer)
  where i.run_id = p_run_id and i.ordinal = o.ordinal and i.state = 'pending';
  return backfill_private.decide_outcomes(p_run_id, p_outcomes);
end
$$;

-- Settle a call in bulk. The audit chain hears of it later. What is told of sessions that the call has not taken is
-- passed over.
--
-- p_answered  ordinals of its sessions whose calls came back well
-- p_outcomes  of those that failed
-- returns     {state: how many}
-- raises      OB011 no such call is under way in this transaction, OB013 outcomes of another form
create function backfill_private.bulk_settle(
  p_claim_id uuid, p_worker text, p_answered integer[], p_outcomes jsonb
)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_call backfill_private.bulk_claims := backfill_private.bulk_call(p_claim_id);
  v_answered integer[] := array(
    select distinct a from unnest(p_answered) as a where a = any (v_call.ordinals) order by a);
  v_outcomes jsonb := coalesce((
    select jsonb_agg(o)
    from jsonb_array_elements(p_outcomes) as o
    where (o ->> 'ordinal')::integer = any (v_call.ordinals)
      and (o ->> 'ordinal')::integer <> all (v_answered)), '[]');
  v_lacking integer[];
  v_settled jsonb;
  v_details jsonb;
  -- Those that wait for a transaction of their own are well.
  v_beside integer[] := array(
    select o.ordinal from jsonb_to_recordset(v_outcomes) as o (ordinal integer, outcome text)
    where o.outcome = 'beside');
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_outcomes(p_outcomes);
  delete from backfill_private.bulk_claims where xid = v_call.xid;
  v_lacking := backfill_private.bulk_done(v_call.run_id, v_answered, v_call.started_at);
  v_settled := backfill_private.bulk_troubled(v_call.run_id, p_claim_id, v_outcomes || coalesce((
      select jsonb_agg(jsonb_build_object('ordinal', i.ordinal, 'outcome', 'answered', 'answered', i.components))
      from public.backfill_items as i
      where i.run_id = v_call.run_id and i.ordinal = any (v_lacking)), '[]'), v_call.started_at)
    || coalesce((
      select jsonb_agg(jsonb_build_object('ordinal', o, 'state', 'done'))
      from unnest(v_answered) as o
      where o <> all (v_lacking)), '[]');
  v_details := backfill_private.settled_details(v_call.run_id, p_claim_id, v_settled);
  insert into backfill_private.unnoted (run_id, granted, trouble, settled, is_well, details)
  select
    v_call.run_id,
    jsonb_build_object('claim', p_claim_id, 'worker', left(p_worker, 200), 'phase', i.phase, 'mode', 'bulk',
      'sessions', jsonb_array_length(v_settled), 'ordinals', v_details -> 'ordinals',
      'started_at', v_call.started_at),
    v_outcomes, v_settled,
    not exists (
      select from jsonb_to_recordset(v_settled) as s (ordinal integer, state text)
      where s.state <> 'done' and s.ordinal <> all (v_beside)),
    v_details
  from public.backfill_items as i
  where i.run_id = v_call.run_id and i.ordinal = (v_settled -> 0 ->> 'ordinal')::integer;
  return coalesce(nullif(v_details -> 'states', 'null'), '{}');
end
$$;

-- from sql/60_apply/bulk_calls.sql
-- The calls of user code in bulk: many sessions in one transaction, each as if it had the transaction to itself.
--
-- A function means one session per transaction. What it leaves in the transaction would meet the next session:
-- settings, temporary tables, deferred constraints, whatever is unique per transaction. Settings and deferral are put
-- back after each call. A temporary table that stays ends the call. Everything else shows as a session that does not
-- come out well beside others. That says nothing about it, so it is rolled back, and the session is called again alone.

-- The settings that functions of this database set by name, in their source. A function's own clause `set` is not among
-- them: PostgreSQL puts those back.
create function backfill_private.loose_settings()
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- PostgreSQL's own bodies and ours go first: to search them takes most of the time.
  with theirs as materialized (
    select lower(p.prosrc) as text
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname not in ('pg_catalog', 'information_schema', 'backfill_private')
      and not (n.nspname = 'public' and starts_with(p.proname, 'backfill_'))
  ), sources as (
    select t.text from theirs as t where t.text ~ '\mset(_config)?\M'
  ), named as (
    select m[1] as name
    from sources as s
    cross join lateral regexp_matches(s.text, 'set_config\s*\(\s*''+([^'']+)''', 'g') as m
    union
    select m[1]
    from sources as s
    cross join lateral regexp_matches(
      s.text, '\mset\s+(?:local\s+|session\s+)?"?([a-z_][a-z0-9_.$]*)"?\s*(?:=|\mto\M)', 'g') as m
    union
    select 'role' from sources as s where s.text ~ '\mset\s+(local\s+|session\s+)?role\M'
    union
    select 'timezone' from sources as s where s.text ~ '\mset\s+(local\s+|session\s+)?time\s+zone\M'
  )
  select coalesce(array_agg(n.name order by n.name), '{}')
  from named as n
  where n.name like '%.%'
    or n.name = 'role'
    or exists (select from pg_settings as g where lower(g.name) = n.name and g.context in ('user', 'superuser'))
$$;

-- Those of some settings that this caller may set, with the values that they have now.
--
-- p_search_path  the path that user code runs under
create function backfill_private.settings_kept(p_names text[], p_search_path text)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text;
  v_kept jsonb := '{}'::jsonb;
begin
  foreach v_name in array p_names loop
    begin
      v_kept := v_kept || jsonb_build_object(
        v_name, set_config(v_name, coalesce(current_setting(v_name, true), ''), true));
    exception when others then
      null;  -- A caller who may not set it calls nothing that does.
    end;
  end loop;
  return v_kept || case when v_kept ? 'search_path' then jsonb_build_object('search_path', p_search_path)
    else '{}' end;
end
$$;

-- The statements that check deferred constraints now and then defer again what was deferred: the next session counts on
-- it. `set constraints` says `all` or names, so those that are checked at once are named.
create function backfill_private.checks_now()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select '["set constraints all immediate"]'::jsonb
    || case when count(*) > 0 then '["set constraints all deferred"]' else '[]' end::jsonb
    || coalesce(
      to_jsonb('set constraints '
        || string_agg(distinct format('%I.%I', n.nspname, c.conname), ', ') filter (where not c.condeferred)
        || ' immediate'),
      '[]')
  from pg_constraint as c
  join pg_namespace as n on n.oid = c.connamespace
  where c.condeferrable
    and has_schema_privilege(coalesce(nullif(current_setting('role'), 'none'), session_user), n.oid, 'usage')
$$;

-- The statements that score sessions one after the other, each in its turn. Each component names the statement that
-- makes its calls, and '' the one that makes all, each only if its row is missing. Components that share a call are
-- filled by that of the first whose row is missing. While a session has its turn, the setting backfill.bulk holds its
-- place in the plan, for the gate. After each call the settings are put back.
--
-- $1       the sessions, see backfill_private.bulk_take
-- $2       the settings, see backfill_private.settings_kept
-- $3       no turn begins from then on
-- selects  how many sessions had their turn
create function backfill_private.bulk_calls(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with parts as (
    select t.position, t.component,
      -- A call in the place of a value costs half of one in the place of a table, which a set needs.
      format(
        case when p.proretset then 'case when x -> ''todo'' ? %L%s then (select count(*) from %I.%I(%s)) end'
          else 'case when x -> ''todo'' ? %L%s then num_nulls(%I.%I(%s)) end' end,
        t.component,
        ' and not x -> ''todo'' ?| ' || quote_literal((
          select array_agg(before.component)
          from backfill_private.calls_of(p_run.target, p_run.request) as mine
          join backfill_private.calls_of(p_run.target, p_run.request) as before
            on before.call = mine.call and before.position < mine.position
          where mine.component = t.component)::text),
        n.nspname, p.proname, (
          select string_agg(format('%I => %s::%s', a.key,
              case a.value
                when 'session_id' then '(x ->> ''session_id'')'
                else quote_nullable(p_run.request ->> a.value) end,
              format_type(p.proargtypes[array_position(p.proargnames, a.key) - 1], null)), ', ')
          from jsonb_each_text(t.arguments) as a))
      || case when p_run.loose_settings <> '{}'
           then ', (select count(set_config(s.key, s.value, true)) from jsonb_each_text($2) as s)'
           else '' end as call
    from public.backfill_targets as t
    join backfill_private.scoring_functions(p_run.target) as f on f.component = t.component
    join pg_proc as p on p.oid = f.oid
    join pg_namespace as n on n.oid = p.pronamespace
    where t.target = p_run.target
  ), named as (
    select p.component as name, p.call from parts as p
    union all
    select '', string_agg(p.call, ', ' order by p.position) from parts as p
  )
  select jsonb_object_agg(n.name, format(
    'select count(*) from (
       select set_config(''backfill.bulk'', x ->> ''ordinal'', true), %s
       from jsonb_array_elements($1) as x
       where backfill_private.clock() < $3) as turn', n.call))
  from named as n
$$;

-- How many sessions the first call in bulk of a worker asks for: as many as the rehearsal would have scored while a
-- call may begin any. Ten if there was none. Whatever it asks for, a call ends in time.
create function backfill_private.first_in_bulk(p_run public.backfill_runs)
returns integer
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when r.p50_ms is null then 10
    else greatest(least(800 / greatest(r.p50_ms, 0.1), b.most), b.least)
  end::integer
  from backfill_private.bounds as b
  cross join (select (p_run.plan #>> '{rehearsal,took_ms,p50}')::numeric as p50_ms) as r
  where (b.what, b.kind) = ('a call in bulk', 'sessions')
$$;

-- Check deferred constraints now, as the end of a session's own transaction would.
create function backfill_private.bulk_check(p_batch jsonb, p_settings jsonb, p_search_path text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_check text;
begin
  perform set_config('search_path', p_search_path, true);
  for v_check in select jsonb_array_elements_text(p_batch -> 'checks') loop
    execute v_check;
  end loop;
  perform set_config(s.key, s.value, true) from jsonb_each_text(p_settings) as s;
end
$$;

-- Has this transaction made a temporary table, or anything else of the kind, that is still there?
create function backfill_private.leaves_behind()
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select pg_my_temp_schema() <> 0 and exists (
    select from pg_class as c
    where c.relnamespace = pg_my_temp_schema() and backfill_private.is_written_here(c.xmin))
$$;

-- Score one session of a call in bulk, in a subtransaction of its own.
--
-- p_batch      see backfill_private.bulk_begin
-- p_settings   see backfill_private.settings_kept
-- p_is_beside  another session was scored before in this transaction. Then only success counts
-- returns      its outcome, see backfill_private.decide_outcomes
create function backfill_private.bulk_one(
  p_batch jsonb, p_session jsonb, p_settings jsonb, p_search_path text, p_is_beside boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step text;
  v_answered jsonb := '[]'::jsonb;
  v_written text[] := array[]::text[];
  v_code text;
begin
  perform set_config('search_path', p_search_path, true);
  foreach v_step in array array(select jsonb_array_elements_text(p_session -> 'todo')) loop
    execute p_batch -> 'calls' ->> v_step
    using jsonb_build_array(p_session), p_settings, 'infinity'::timestamptz;
    perform backfill_private.bulk_check(p_batch, p_settings, p_search_path);
    v_written := v_written || backfill_private.bulk_keep((p_batch ->> 'claim')::uuid, v_step);
    v_answered := v_answered || to_jsonb(v_step);
  end loop;
  perform set_config('backfill.bulk', '', true);
  if p_is_beside and not backfill_private.bulk_owed(jsonb_build_array(p_session), 1) <@ v_written then
    raise exception using message = 'a call answered without effect';
  end if;
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', 'answered', 'answered', v_answered);
exception when assert_failure or others then  -- others leaves assertions out
  if p_is_beside then
    return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', 'beside');
  end if;
  v_code := sqlstate;
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', backfill_private.bulk_outcome(v_code),
    'step', v_step, 'code', v_code, 'message', sqlerrm);
end
$$;

-- What the first sessions of a call in bulk lack: see backfill_private.bulk_keep.
create function backfill_private.bulk_owed(p_sessions jsonb, p_first integer)
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(concat_ws(' ', x.session ->> 'ordinal', c)), '{}')
  from jsonb_array_elements(p_sessions) with ordinality as x (session, place)
  cross join lateral jsonb_array_elements_text(x.session -> 'todo') as c
  where x.place <= p_first
$$;

-- Score sessions of a call in bulk all in one go.
--
-- p_is_beside  see backfill_private.bulk_one
-- p_until      no session starts from then on
-- returns      how many are well, the first ones. Null if something failed, had no effect or stays behind: then nothing
--              is left of it
create function backfill_private.bulk_some(
  p_batch jsonb, p_sessions jsonb, p_settings jsonb, p_search_path text, p_is_beside boolean, p_until timestamptz
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_begun integer;
begin
  perform set_config('search_path', p_search_path, true);
  execute p_batch -> 'calls' ->> '' into v_begun using p_sessions, p_settings, p_until;
  perform set_config('backfill.bulk', '', true);
  perform backfill_private.bulk_check(p_batch, p_settings, p_search_path);
  if exists (
    select unnest(backfill_private.bulk_owed(p_sessions, v_begun))
    except
    select unnest(backfill_private.bulk_keep((p_batch ->> 'claim')::uuid, null))
  ) then
    raise exception using message = 'a call answered without effect';
  elsif (p_is_beside or v_begun > 1) and backfill_private.leaves_behind() then
    raise exception using message = 'a call left a temporary table behind';
  end if;
  return v_begun;
exception when assert_failure or others then  -- others leaves assertions out
  return null;
end
$$;

-- from sql/60_apply/canary.sql
-- The canary: before the next phase starts, the priority sessions are looked at and their scores are checked for range.
--
-- A claim asks `judge_canary` before it grants a session of another phase, and before it completes a run. A call in
-- bulk begins only once that has passed. A resume after the canary failed overrides it: see lifecycle.sql.

-- What is wrong with a value of a score column. Null if nothing is. Never the value itself: it is somebody's score.
create function backfill_private.score_fault(p_value jsonb, p_range jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when p_value is null or p_value = 'null' then 'is null' else (
    select case
        when bool_or(jsonb_typeof(v) = 'null')
          then 'holds a null'
        when bool_or(jsonb_typeof(v) = 'string' and v #>> '{}' in ('NaN', 'Infinity', '-Infinity'))
          then 'holds NaN or infinity'
        when bool_or(jsonb_typeof(v) = 'number' and not v between p_range -> 0 and p_range -> 1)
          then format('holds a number outside %s to %s', p_range -> 0, p_range -> 1) end
    from jsonb_path_query(p_value, 'strict $.**') as v) end
$$;

-- Scores of a run's priority sessions that are null, not a number or outside the range that the target declares.
create function backfill_private.canary_scores(p_run public.backfill_runs)
returns table (ordinal integer, why text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_score record;
begin
  for v_score in
    select t as target, c.key as name, c.value as range
    from public.backfill_targets as t
    cross join jsonb_each(t.score_ranges) as c
    where t.target = p_run.target
    order by t.position, c.key
  loop
    return query execute format(
      'select item.ordinal, %1$L || f.fault
       from public.backfill_items as item
       join %2$s as t on %3$s
       cross join lateral backfill_private.score_fault(backfill_private.value_json(t.%4$I), $2) as f (fault)
       where item.run_id = $1
         and item.phase = ''priority''
         and item.state = ''done''
         and %5$L = any (item.components)
         and %5$L <> all (item.filled)
         and f.fault is not null',
      format('%s.%s ', backfill_private.bare_name((v_score.target).table_name), v_score.name),
      (v_score.target).table_name::regclass,
      backfill_private.row_condition(v_score.target, p_run.request, true),
      v_score.name,
      (v_score.target).component)
    using p_run.run_id, v_score.range;
  end loop;
end
$$;

-- What is wrong with the priority sessions of a run, one row per fault.
create function backfill_private.canary_faults(p_run public.backfill_runs)
returns table (ordinal integer, session_id text, why text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with canary as (
    select i.* from public.backfill_items as i where i.run_id = p_run.run_id and i.phase = 'priority'
  )
  select c.ordinal, c.session_id, f.why
  from canary as c
  join (
    select i.ordinal, i.error_message as why
    from canary as i
    where i.state = 'failed'
    union all
    select e.ordinal, 'lacks its ' || e.component
    from backfill_private.effects(p_run.run_id, array(select i.ordinal from canary as i)) as e
    join canary as i using (ordinal)
    where i.state <> 'failed'
      and i.unselected is null
      and not e.is_wanted
      and e.component <> all (i.filled)
    union all
    select s.ordinal, s.why
    from backfill_private.canary_scores(p_run) as s
  ) as f using (ordinal)
$$;

-- Look at the canary: the priority batch is verified before the next phase starts.
--
-- returns  passed
--          failed: the run is paused with the reason
--          waiting: priority sessions are under way
create function backfill_private.judge_canary(p_run public.backfill_runs)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bad text;
begin
  if p_run.canary in ('passed', 'overridden') then
    return 'passed';
  elsif exists (
    select from public.backfill_items as i
    where i.run_id = p_run.run_id
      and i.phase = 'priority'
      and i.state in ('pending', 'leased')
  ) then
    return 'waiting';
  end if;
  select string_agg(format('session %s: %s', bad.session_id, bad.why), '; ' order by bad.ordinal) into v_bad
  from (select c.* from backfill_private.canary_faults(p_run) as c order by c.ordinal limit 5) as bad;
  update public.backfill_runs
  set canary = case when v_bad is null then 'passed' else 'failed' end
  where run_id = p_run.run_id;
  perform backfill_private.record(p_run.run_id, 'canary',
    jsonb_build_object('result', case when v_bad is null then 'passed' else 'failed' end));
  if v_bad is not null then
    perform backfill_private.move(p_run.run_id, 'paused', 'the canary failed: ' || v_bad,
      p_cause => 'canary');
    return 'failed';
  end if;
  return 'passed';
end
$$;

-- from sql/60_apply/claim.sql
-- Claims: the next batch for a worker, or why it has to wait.

-- Look at what the noted batches of calls in bulk ran into: critical faults, trouble, the circuit breaker. This may
-- pause the run. The caller has locked its row.
--
-- returns  whether there was any such batch
create function backfill_private.look_at_bulk(p_run_id uuid)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch record;
  v_is_any boolean := false;
  v_well bigint;
begin
  for v_batch in
    with looked_at as (
      delete from backfill_private.unnoted as u
      where u.run_id = p_run_id and u.is_noted
      returning u.unnoted_id, u.is_well, u.trouble, u.settled, u.details
    )
    select l.is_well, l.trouble, l.settled, coalesce((l.details #>> '{states,done}')::bigint, 0) as done
    from looked_at as l
    order by l.unnoted_id
  loop
    v_is_any := true;
    if v_batch.is_well then
      v_well := coalesce(v_well, 0) + v_batch.done;
    else
      perform backfill_private.note_well(p_run_id, v_well);
      v_well := null;
      perform backfill_private.record_critical(p_run_id, null, v_batch.settled);
      perform backfill_private.note_trouble(p_run_id, v_batch.trouble, v_batch.settled);
      perform backfill_private.break_circuit(p_run_id, v_batch.settled);
    end if;
  end loop;
  perform backfill_private.note_well(p_run_id, v_well);
  return v_is_any;
end
$$;

-- A run, locked as by backfill_private.locked_run, after a look at what its calls in bulk ran into. A claim takes it,
-- and so does every other verb of a run that may have been running, so that none misses what would have paused the run.
--
-- raises  OB001 no such run, OB002 its state is none of the given
create function backfill_private.caught_up_run(p_run_id uuid, p_states text[] default null)
returns public.backfill_runs
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.locked_run(p_run_id);
begin
  if backfill_private.look_at_bulk(p_run_id) or p_states is not null then
    v_run := backfill_private.locked_run(p_run_id, p_states);
  end if;
  return v_run;
end
$$;

-- Check what must hold whenever a run takes a lease. If it does not hold, the run is paused or expired with the reason.
-- A run whose approval ran out while it was paused is over too.
create function backfill_private.hold_if_changed(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_held record;
begin
  if p_run.approved_until <= backfill_private.clock() then
    perform backfill_private.move(p_run.run_id, 'expired', 'the approval ran out');
  elsif p_run.state = 'running' then
    v_held := backfill_private.in_the_way(p_run);
    if v_held.cause is not null then
      perform backfill_private.move(p_run.run_id, 'paused', v_held.reason, p_cause => v_held.cause);
    end if;
  end if;
end
$$;

-- The sessions that were granted under a claim and are leased under it still, locked. Null: none. What was granted is
-- asked of the chain. An item names its claim only while it is leased. It is not asked for its state, or an index of
-- all leases would seem as good, in which those of before may still stand: see low_water.sql.
create function backfill_private.granted_before(p_run_id uuid, p_claim_id uuid)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_granted integer[] := array(
    select unnest(backfill_private.told_ordinals(e.details))
    from public.backfill_events as e
    where e.run_id = p_run_id
      and e.kind = 'batch_granted'
      and e.details ->> 'claim' = p_claim_id::text);
  v_again integer[];
begin
  if v_granted = '{}' then
    return null;
  end if;
  select array_agg(a.ordinal) into v_again
  from (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.ordinal = any (v_granted)
      and i.claim_id = p_claim_id
    order by i.ordinal
    for update
  ) as a;
  return v_again;
end
$$;

-- Claim the next batch.
--
-- p_apart     also of a run in bulk. Otherwise the answer for such a run says to call backfill_bulk
-- p_claim_id  made by the worker. If the reply of a claim was lost, the worker asks again under the same id. It gets
--             the same items under new fences, and these are no new starts
-- returns     {state, reason, held_by, granted: […], ahead, bulk, sessions, batch, wait_s, wait_for, why, lease_s}
--             ahead: no throttle and no canary decides when, so the next batch may be claimed while this one is scored
--             sessions: beside bulk, how many a first call asks for
--             wait_for: throttle | health | back-off | canary | leases | hours, and why in words
--             a run that is not running grants nothing
-- raises      OB001 no such run, OB010 not allowed, OB013 no claim id
create function backfill_private.claim_batch(p_run_id uuid, p_claim_id uuid, p_worker text, p_apart boolean)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_again integer[];
  v_phase text;
  v_answer jsonb := '{"granted": []}'::jsonb;
  v_hours record;
  v_pace record;
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_bounds(jsonb_build_object('the name of the worker', p_worker));
  if p_claim_id is null then
    perform backfill_private.refuse('OB013', 'a claim needs an id, made by the worker',
      format('backfill apply %s', p_run_id));
  end if;
  v_run := backfill_private.caught_up_run(p_run_id);
  perform backfill_private.release_expired();
  if v_run.state in ('running', 'paused') then
    perform backfill_private.hold_if_changed(v_run);
  end if;
  v_run := backfill_private.run_now(p_run_id);
  v_again := backfill_private.granted_before(p_run_id, p_claim_id);
  v_phase := backfill_private.pending_phase(p_run_id);
  v_hours := backfill_private.standing_wait(v_run);
  if v_run.state <> 'running' then
    null;
  elsif v_again is not null then
    v_answer := jsonb_build_object('granted', backfill_private.grant_fences(v_run, v_again, p_claim_id, p_worker));
    perform backfill_private.stop_unselected(v_run, v_again);
  elsif v_phase is null then
    v_answer := backfill_private.finish_or_wait(v_run);
  elsif v_run.back_off_until > backfill_private.clock() then
    v_answer := backfill_private.wait_until(v_run.back_off_until, 'back-off', v_run.back_off_reason);
  elsif v_hours.until is not null then
    v_answer := backfill_private.wait_until(v_hours.until, 'hours', v_hours.why);
  elsif v_phase <> 'priority' and backfill_private.judge_canary(v_run) <> 'passed' then
    v_answer := backfill_private.wait_for('canary', 1, 'the canary is being scored');
  else
    v_pace := backfill_private.allowance(v_run);
    v_answer := case
      when backfill_private.is_on_trial(p_run_id)
        then backfill_private.call_witness(
          v_run, v_phase, p_claim_id, p_worker,
          case when v_pace.wait_s > 0
            then backfill_private.wait_for(v_pace.wait_for, v_pace.wait_s, v_pace.why) end)
      when not p_apart and v_phase <> 'priority' and v_pace.wait_s = 0 and v_run.request ->> 'mode' = 'bulk'
        and backfill_private.next_in_bulk(p_run_id, 1) is not null
        then jsonb_build_object('granted', '[]'::jsonb, 'bulk', true, 'sessions', backfill_private.first_in_bulk(v_run))
      when v_pace.wait_s > 0
        then backfill_private.wait_for(v_pace.wait_for, v_pace.wait_s, v_pace.why)
      else backfill_private.grant_or_wait(v_run, p_claim_id, p_worker, v_pace.sessions) end;
  end if;
  return v_answer || (
    select jsonb_build_object(
      'state', r.state,
      'reason', r.reason,
      'held_by', r.held_by,
      'batch', r.batches_granted,
      'ahead', backfill_private.rate_of(r) is null and v_phase is distinct from 'priority',
      'lease_s', extract(epoch from backfill_private.lease_ttl()))
    from backfill_private.run_now(p_run_id) as r);
end
$$;

-- Claim the next batch.
create function backfill_private.claim(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.claim_batch(p_run_id, p_claim_id, p_worker, false)
$$;

-- Claim the next batch of a run in bulk, for calls that are made one by one. After a call in bulk has failed, each
-- session then counts its own attempts.
create function backfill_private.claim_apart(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.claim_batch(p_run_id, p_claim_id, p_worker, true)
$$;

-- The answer to a claim that grants nothing: what to wait for, for how many seconds, and why.
create function backfill_private.wait_for(p_what text, p_seconds numeric, p_why text)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('granted', '[]'::jsonb, 'wait_s', p_seconds, 'wait_for', p_what, 'why', p_why)
$$;

-- The same, until a moment.
create function backfill_private.wait_until(p_until timestamptz, p_what text, p_why text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.wait_for(
    p_what, greatest(extract(epoch from p_until - backfill_private.clock()), 0.001), p_why)
$$;

-- Grant a batch. A session that has to be called alone waits until nothing else of the run is under way, and all others
-- wait for it. If all pending sessions of the phase back off, or are leased by other runs, wait for them. If all
-- turned out to be filled or no longer selected, look again: the next phase has a gate of its own.
create function backfill_private.grant_or_wait(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run.run_id);
  v_alone text := backfill_private.session_alone(p_run);
  v_grants jsonb;
begin
  if v_alone is not null and exists (
    select from public.backfill_items as i where i.run_id = p_run.run_id and i.state = 'leased'
  ) then
    return backfill_private.wait_for('leases', 1, format(
      'session %s met a conflict on a table that is no component''s and is tried once more alone. With '
      'apply --concurrency 1 each is', v_alone));
  end if;
  v_grants := backfill_private.grant_batch(p_run, p_claim_id, p_worker, p_limit);
  if jsonb_array_length(v_grants) > 0 then
    return jsonb_build_object('granted', v_grants);
  elsif backfill_private.pending_phase(p_run.run_id) is distinct from v_phase then
    return backfill_private.claim_batch(p_run.run_id, p_claim_id, p_worker, true);
  end if;
  return backfill_private.wait_for_ready(p_run.run_id, v_phase);
end
$$;

-- No pending session of a phase is ready: wait until the first has backed off, or until other runs give theirs back.
create function backfill_private.wait_for_ready(p_run_id uuid, p_phase text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tired record;
begin
  select i.not_before, i.session_id, i.error_code, i.error_message into v_tired
  from public.backfill_items as i
  where i.run_id = p_run_id
    and i.state = 'pending'
    and i.phase = p_phase
    and coalesce(i.trial, 'resumed') = 'resumed'
  order by i.not_before nulls first
  limit 1;
  if v_tired.not_before > backfill_private.clock() then
    return backfill_private.wait_until(v_tired.not_before, 'back-off',
      concat_ws(' ', 'session', v_tired.session_id, 'met', v_tired.error_code, v_tired.error_message));
  end if;
  perform backfill_private.look_for_late_leases();
  return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run_id));
end
$$;

-- Nothing is pending: complete the run, or wait for the sessions that are under way.
create function backfill_private.finish_or_wait(p_run public.backfill_runs)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from public.backfill_items as i where i.run_id = p_run.run_id and i.state = 'leased') then
    perform backfill_private.look_for_late_leases();
    return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run.run_id));
  end if;
  if exists (select from public.backfill_items as i where i.run_id = p_run.run_id and i.phase = 'priority')
    and backfill_private.judge_canary(p_run) = 'failed'
  then
    return '{"granted": []}'::jsonb;
  end if;
  perform backfill_private.move(p_run.run_id, 'completed', null, (
    select jsonb_object_agg(s.state, s.n)
    from (
      select i.state, count(*) as n
      from public.backfill_items as i
      where i.run_id = p_run.run_id
      group by 1) as s));
  return '{"granted": []}'::jsonb;
end
$$;

-- from sql/60_apply/fence_gate.sql
-- The gate: one trigger function on every target table.
--
-- A write under a run's header is allowed only under a live fence, and leaves a receipt in the same transaction. A
-- write without the header is ordinary: the triggers' WHEN does not even call us.

-- The headers of this request if ours is among them. Null for anything else that the setting may hold.
--
-- x-backfill-run   sent by anyone who scores
-- x-backfill-undo  sent by an undo that takes many rows back at once and writes their receipts itself. What the user's
--                  triggers write on top, at a greater depth, is seen and finds no fence
create function backfill_private.run_headers()
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_headers jsonb;
begin
  v_headers := nullif(current_setting('request.headers', true), '')::jsonb;
  return case
    when jsonb_typeof(v_headers) = 'object' and v_headers ?| array['x-backfill-run', 'x-backfill-undo']
      then v_headers end;
exception when data_exception or program_limit_exceeded then
  return null;  -- Not JSON, so nothing that the API has set: an ordinary write.
end
$$;

-- Refuse a row while one that it needs first is missing: a failed step ends the session. What one call fills comes in
-- the order in which the call writes it.
--
-- p_needs_first  of the row's component, see public.backfill_targets
-- raises         OB020 a component that this one needs first has no receipt of this run
create function backfill_private.check_order(p_run_id uuid, p_ordinal integer, p_component text, p_needs_first text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_lacks text;
  v_session_id text;
begin
  -- Asked for with each row, so nothing is asked of the calls unless a receipt lacks.
  for v_lacks, v_session_id in
    select n.component, i.session_id
    from public.backfill_items as i
    cross join unnest(p_needs_first) as n (component)
    where i.run_id = p_run_id
      and i.ordinal = p_ordinal
      and n.component = any (i.components)
      and n.component <> all (i.filled)
      and not exists (
        select from public.backfill_receipts as r
        where r.run_id = i.run_id
          and r.ordinal = i.ordinal
          and r.component = n.component
          and r.kind = 'score'
          and r.undone_at is null)
  loop
    continue when exists (
      select from public.backfill_runs as run
      cross join lateral backfill_private.calls_of(run.target, run.request) as mine
      join backfill_private.calls_of(run.target, run.request) as its on its.call = mine.call
      where run.run_id = p_run_id
        and mine.component = p_component
        and its.component = v_lacks);
    perform backfill_private.refuse('OB020',
      format('%s of session %s is not there, so %s is not written', v_lacks, v_session_id, p_component),
      format('let the function of %s leave its row', v_lacks));
  end loop;
end
$$;

-- Refuse a write at the gate.
--
-- p_why   stale, late, halted, expired or foreign, as keep_receipt found
-- raises  OB011, OB012 or OB018, see keep_receipt
create function backfill_private.refuse_write(p_why text, p_run_id uuid, p_run_state text, p_session_id text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  case p_why
    when 'stale' then
      perform backfill_private.refuse('OB011',
        'the fence is stale: this attempt may no longer write', 'stop; claim again');
    when 'late' then
      perform backfill_private.refuse('OB011',
        'the lease ran out: this attempt may no longer write', 'stop; claim again');
    when 'halted' then
      perform backfill_private.refuse('OB012',
        format('run %s is %s: it does not write', p_run_id, p_run_state), format('backfill status %s', p_run_id));
    when 'expired' then
      perform backfill_private.refuse('OB012',
        format('the approval of run %s ran out', p_run_id), format('backfill plan --like %s', p_run_id));
    when 'foreign' then
      perform backfill_private.refuse('OB018',
        format('this attempt holds session %s and writes a row of another', p_session_id),
        'let the function write rows of the session that it is called for alone');
  end case;
end
$$;

-- The component whose row this is, of those in the table of one of them: the first of which it has the values. That
-- one itself if it has none's.
--
-- p_request  null: that of the run whose call in bulk this transaction is
create function backfill_private.component_of(p_target text, p_component text, p_request jsonb, p_row jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select t.component
      from backfill_private.in_table_of(p_target, p_component) as t
      cross join lateral (
        select coalesce(p_request, (
          select r.request
          from backfill_private.bulk_claims as c
          join public.backfill_runs as r on r.run_id = c.run_id
          where c.xid = pg_current_xact_id())) as request
      ) as run
      where not exists (
        select from jsonb_each_text(t.matches) as m
        where backfill_private.is_same(
          backfill_private.value_type(t.table_name, m.key), p_row ->> m.key, run.request ->> m.value) is not true)
      order by t.position
      limit 1
    ),
    p_component)
$$;

-- Check the fence and write the receipt of one row.
--
-- Claim, settle, retry and undo take the item for update, so the share lock makes them wait for a write in flight. It
-- is only of key share strength, because renewing a lease changes no fence and need not wait. It is nowait, because
-- anyone who holds the item for update is about to change the fence. Nothing is remembered from row to row. Between two
-- rows of one transaction, even of one statement, the headers may be set anew, the lease may run out and the run may be
-- paused. This runs for every row. Hence one query for item, run and target, expressions instead of calls (the JSON is
-- that of row_json(), the hashes are those of row_hash() and column_hashes(), a known shape is looked up here), and no
-- sequential scan: a pooled connection may hold a plan from when the tables were small.
-- Only a refusal makes a call. A call in bulk has locked its sessions and looked at the run, which nobody moves
-- meanwhile. Its row is kept for the receipt, which is written with those of other sessions before the subtransaction
-- ends, see backfill_private.bulk_keep. That this is such a call is known by its transaction. The setting alone, which
-- anyone may set, says nothing.
--
-- tg_argv  target, component, and a third if other components have rows in this table
-- raises   OB011 the fence is stale: someone took the lease over, or it ran out
--          OB012 the run is not allowed to write now
--          OB018 the row belongs to another session than the leased one
--          OB020 as above
create function backfill_private.keep_receipt()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
set enable_seqscan = off
as $$
declare
  v_turn text := current_setting('backfill.bulk', true);
  v_headers jsonb;
  v_before jsonb;
  v_after jsonb;
  v_image text;
  v_after_hash bytea;
  v_now timestamptz;
  v_held record;
  v_why text;
begin
  if coalesce(v_turn, '') = '' then
    v_headers := backfill_private.run_headers();
    if v_headers is null or pg_trigger_depth() = 1 and not v_headers ? 'x-backfill-run' then
      return null;
    end if;
  end if;
  v_image := case when tg_op <> 'INSERT' then old::text end;
  v_after_hash := case when tg_op <> 'DELETE' then sha256(convert_to(new::text, 'UTF8')) end;
  begin
    v_before := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    v_after := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  exception when assert_failure or others then
    v_before := case when tg_op <> 'INSERT' then backfill_private.row_json(old) end;
    v_after := case when tg_op <> 'DELETE' then backfill_private.row_json(new) end;
  end;
  if v_turn <> '' then
    insert into backfill_private.bulk_rows
    select b.xid, v_turn, tg_argv[0], case when tg_argv[2] is null then tg_argv[1]
        else backfill_private.component_of(tg_argv[0], tg_argv[1], null, coalesce(v_after, v_before)) end,
      lower(tg_op), v_before, v_after, tg_relid, v_image, v_after_hash
    from backfill_private.bulk_claims as b where b.xid = pg_current_xact_id();
    if found then
      return null;
    end if;
    v_headers := backfill_private.run_headers();  -- Somebody has set it outside of a call in bulk.
  end if;
  select i.run_id, i.ordinal, i.source, i.session_id, i.state, i.attempts, i.lease_kind, i.lease_until,
    r.state as run_state, r.approved_until,
    t.target, t.component, t.needs_first, t.table_name, t.session_column, t.key_columns
  into v_held
  from public.backfill_items as i
  join public.backfill_runs as r on r.run_id = i.run_id
  left join public.backfill_targets as t on t.target = tg_argv[0] and t.component = case
      when tg_argv[2] is null then tg_argv[1]
      else backfill_private.component_of(tg_argv[0], tg_argv[1], r.request, coalesce(v_after, v_before)) end
  where i.fence_hash = sha256(convert_to(v_headers ->> 'x-backfill-fence', 'UTF8'))
    and i.run_id::text = v_headers ->> 'x-backfill-run'
  for key share of i nowait;
  v_now := backfill_private.clock();
  v_why := case
    when not found or v_held.state <> 'leased' and v_held.lease_kind is distinct from 'undo' then 'stale'
    when v_held.lease_until <= v_now then 'late'
    when v_held.lease_kind = 'score' and v_held.run_state <> 'running' then 'halted'
    when v_held.lease_kind = 'score' and v_held.approved_until <= v_now then 'expired'
    when v_held.source is distinct from v_held.target
      or coalesce(v_before, v_after) ->> v_held.session_column is distinct from v_held.session_id
      or coalesce(v_after, v_before) ->> v_held.session_column is distinct from v_held.session_id then 'foreign' end;
  if v_why is not null then
    perform backfill_private.refuse_write(v_why, v_held.run_id, v_held.run_state, v_held.session_id);
  elsif v_held.lease_kind = 'score' and v_held.needs_first <> '{}' then
    perform backfill_private.check_order(v_held.run_id, v_held.ordinal, v_held.component, v_held.needs_first);
  end if;
  insert into public.backfill_receipts (run_id, ordinal, session_id, component, kind, operation, table_name, row_key,
    shape, before, before_hash, after_hash, after_columns, attempt, at)
  values (v_held.run_id, v_held.ordinal, v_held.session_id, v_held.component, v_held.lease_kind, lower(tg_op),
    v_held.table_name, backfill_private.row_key(coalesce(v_after, v_before), v_held.key_columns),
    coalesce((
      select s.shape from backfill_private.stamps as now join backfill_private.shapes as s using (relation, stamp)
      where now.relation = tg_relid), backfill_private.shape_of(tg_relid)),
    case v_held.lease_kind when 'score' then v_image end,
    sha256(convert_to(v_image, 'UTF8')), v_after_hash,
    nullif(array(select hashtextextended(jsonb_path_query(v_after, '$.*')::text, 0)), '{}'), v_held.attempts, v_now);
  return null;
end
$$;

-- Refuse to truncate a target table under a run's header: no receipt could say which rows were in it.
create function backfill_private.refuse_truncate()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if backfill_private.run_headers() ? 'x-backfill-run'
    or pg_trigger_depth() > 1 and backfill_private.run_headers() is not null
  then
    perform backfill_private.refuse('OB018', format('a run does not truncate %s', tg_table_name),
      'let the function write rows of the session that it is called for alone');
  end if;
  return null;
end
$$;

-- from sql/60_apply/in_the_way.sql
-- In the way: what keeps an approved run from going on, as the database sees it now. Each has its row in causes.sql.

-- What its approval no longer covers, asked whenever a run is started, resumed or retried. Null: all is as approved.
create function backfill_private.no_longer_approved(p_run public.backfill_runs, out cause text, out reason text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_run.server is distinct from backfill_private.server_identity() then
    cause := 'server';
    reason := 'this is not the server and database that the plan was made on';
  elsif not exists (select from public.backfill_settings) then
    cause := 'settings';
    reason := 'the row of backfill_settings is gone';
  elsif backfill_private.is_elsewhere(p_run) then
    cause := 'environment';
    reason := 'this project''s environment is no longer the plan''s';
  elsif p_run.fingerprint is distinct from backfill_private.definitions(p_run.target) then
    cause := 'definition';
    reason := 'what was approved is no longer what stands there: ' || backfill_private.what_changed(p_run);
  elsif backfill_private.compute_digest(p_run.run_id) <> p_run.digest then
    cause := 'plan';
    reason := 'what was approved is no longer what stands there: ' || backfill_private.what_changed(p_run);
  end if;
end
$$;

-- What stands in a run's way, asked by all that starts or prolongs scoring: without a look at the whole plan. Null:
-- nothing.
create function backfill_private.in_the_way(p_run public.backfill_runs, out cause text, out reason text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer;
  v_has_settings boolean;
  v_taken bigint;
  v_bare text := (
    select u.name
    from public.backfill_targets as t, backfill_private.unguarded(t.table_name) as u (name)
    where t.target = p_run.target
    limit 1);
  v_gone text := backfill_private.gone(p_run.target);
  v_key_fault text := backfill_private.key_fault(p_run.target, false);
  v_revoked text := backfill_private.standing_revoked(p_run);
begin
  select s.max_throttle_per_minute into v_most from public.backfill_settings as s;
  v_has_settings := found;
  if v_most is not null and p_run.state = 'running' then
    v_taken := backfill_private.share_taken(null);
  end if;
  if p_run.server is distinct from backfill_private.server_identity() then
    cause := 'server';
    reason := 'this is not the server and database that the plan was made on';
  elsif not v_has_settings then
    cause := 'settings';
    reason := 'the row of backfill_settings is gone';
  elsif p_run.fingerprint is distinct from backfill_private.definitions(p_run.target) then
    cause := 'definition';
    reason := 'a scoring function is not the one that was approved: ' || backfill_private.what_changed(p_run);
  elsif to_regclass(backfill_private.standing_view(p_run.target)) is null then
    cause := 'view_gone';
    reason := format('%s is gone, which says what the target selects', backfill_private.standing_view(p_run.target));
  elsif v_gone is not null then
    cause := 'gone';
    reason := v_gone;
  elsif v_bare is not null then
    cause := 'receipt_triggers';
    reason := format('the receipt triggers of %s are missing or not always enabled', v_bare);
  elsif v_key_fault is not null then
    cause := 'key';
    reason := v_key_fault;
  elsif backfill_private.is_elsewhere(p_run) then
    cause := 'environment';
    reason := 'this project''s environment is no longer the plan''s';
  elsif v_revoked <> '' then
    cause := 'standing';
    reason := v_revoked;
  elsif v_taken > v_most then
    cause := 'throttle';
    reason := format('running runs take %s of the %s starts per minute that this project allows', v_taken, v_most);
  end if;
end
$$;

-- The one look: may sessions of this run be scored now? A claim moves the run if not, and says why.
create function backfill_private.may_score(p_run public.backfill_runs)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p_run.state = 'running'
    and p_run.approved_until > backfill_private.clock()
    and (backfill_private.in_the_way(p_run)).cause is null
$$;

-- Refuse to go on with a run whose approval ran out, or while something stands in its way.
--
-- raises  OB006 the approval ran out, OB007 something stands in its way
create function backfill_private.refuse_if_held(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_held record;
begin
  if p_run.approved_until <= backfill_private.clock() then
    perform backfill_private.refuse('OB006', format('the approval of run %s ran out', p_run.run_id),
      backfill_private.hint(p_run, 'expired'));
  end if;
  v_held := backfill_private.no_longer_approved(p_run);
  if v_held.cause is null then
    v_held := backfill_private.in_the_way(p_run);
  end if;
  if v_held.cause is not null then
    perform backfill_private.refuse('OB007', v_held.reason, backfill_private.hint(p_run, v_held.cause));
  end if;
end
$$;

-- from sql/60_apply/inferred_receipts.sql
-- Inferred receipts: what an Edge Function that does not hand our headers on has written, inferred from the rows before
-- and after.
--
-- Nobody sees such a write. So gate, fence and receipt hold when a session is claimed and when it is settled, and not
-- in between: a row that somebody else writes meanwhile counts as ours, and one that arrives late is nobody's.

-- Are the receipts of a component inferred from the rows before and after? Always if it is declared so. Those of an
-- Edge Function that is declared to hand our headers on are too, until a row of its has come by the gate in this run.
-- So its first writes can be undone even if it does not hand them on.
create function backfill_private.is_watched(p_run public.backfill_runs, p_target public.backfill_targets)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p_target.receipts = 'inferred'
    or p_target.transport = 'edge' and not backfill_private.gate_is_used(p_run, p_target)
$$;

-- The Edge Functions that are declared to hand our headers on and did not in this run, so that it must not go on: a
-- session was scored, its row is there, and none of the component's rows has come by the gate. Null: none.
create function backfill_private.functions_without_headers(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(distinct f.name, ', ')
  from public.backfill_targets as t
  join backfill_private.scoring_functions(p_run.target) as f using (component)
  where t.target = p_run.target
    and t.transport = 'edge'
    and t.receipts = 'exact'
    and not backfill_private.gate_is_used(p_run, t)
    and exists (
      select from public.backfill_receipts as r
      join public.backfill_items as i using (run_id, ordinal)
      where r.run_id = p_run.run_id
        and r.component = t.component
        and r.kind = 'score'
        and (i.error_code = 'OB016' or i.state = 'rolled_back'))
$$;

-- Refuse to go on with a run whose Edge Functions do not hand our headers on: every further row would lack its receipt.
--
-- raises  OB002
create function backfill_private.refuse_without_headers(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_named text := backfill_private.functions_without_headers(p_run);
begin
  if v_named is not null then
    perform backfill_private.refuse('OB002',
      format('run %s cannot go on: %s wrote without our headers, so every further row would have no receipt',
        p_run.run_id, v_named),
      backfill_private.hint(p_run, 'no_headers'));
  end if;
end
$$;

-- The rows of some sessions in the table of a component.
create function backfill_private.rows_of(p_run_id uuid, p_target public.backfill_targets, p_ordinals integer[])
returns table (ordinal integer, row_key jsonb, image text, columns bigint[])
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
begin
  return query execute format(
    'select item.ordinal, backfill_private.row_key(seen.row, $3), t::text, backfill_private.column_hashes(seen.row)
     from public.backfill_items as item
     join %s as t on t.%I = %s
     cross join lateral (select backfill_private.row_json(t) as row) as seen
     where item.run_id = $1 and item.ordinal = any ($2) and %s',
    p_target.table_name::regclass,
    p_target.session_column,
    backfill_private.session_key(p_target.target),
    backfill_private.own_rows_sql(p_target, 't', (
      select r.request from public.backfill_runs as r where r.run_id = p_run_id)))
  using p_run_id, p_ordinals, p_target.key_columns;
end
$$;

-- Remember the rows of leased sessions if receipts will have to be inferred from them.
create function backfill_private.look_before(p_run public.backfill_runs, p_ordinals integer[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into backfill_private.looks (run_id, ordinal, component, row_key, shape, image)
  select p_run.run_id, r.ordinal, t.component, r.row_key, backfill_private.shape_of(to_regclass(t.table_name)), r.image
  from public.backfill_targets as t
  cross join lateral backfill_private.rows_of(p_run.run_id, t, p_ordinals) as r
  where t.target = p_run.target and backfill_private.is_watched(p_run, t)
  on conflict do nothing;
end
$$;

-- Write the receipts of the rows that differ from when the session was leased. The caller has locked the items and
-- taken their fences away.
--
-- p_called  those of these sessions for which a call may have been made
create function backfill_private.infer_receipts(p_run_id uuid, p_ordinals integer[], p_called integer[])
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from backfill_private.looks as l
    where l.run_id = p_run_id and l.ordinal = any (p_ordinals)
    returning l.*
  ), here as (
    select t.component, r.*
    from public.backfill_runs as run
    join public.backfill_targets as t on t.target = run.target and backfill_private.is_watched(run, t)
    cross join lateral backfill_private.rows_of(p_run_id, t, p_called) as r
    where run.run_id = p_run_id
  ), differing as (
    select
      coalesce(h.ordinal, g.ordinal) as ordinal,
      coalesce(h.component, g.component) as component,
      coalesce(h.row_key, g.row_key) as row_key,
      g.shape,
      g.image as before,
      h.image as after,
      h.columns
    from here as h
    full join (
      select gone.*
      from gone
      join public.backfill_runs as run using (run_id)
      join public.backfill_targets as t on t.target = run.target and t.component = gone.component
      where gone.ordinal = any (p_called) and backfill_private.is_watched(run, t)
    ) as g
      on g.ordinal = h.ordinal and g.component = h.component and g.row_key = h.row_key
    where g.image is distinct from h.image
  )
  insert into public.backfill_receipts (
    run_id, ordinal, session_id, component, kind, operation, table_name,
    row_key, shape, before, before_hash, after_hash, after_columns, attempt, is_inferred, at)
  select i.run_id, i.ordinal, i.session_id, d.component, 'score',
    case when d.before is null then 'insert' when d.after is null then 'delete' else 'update' end, t.table_name,
    d.row_key, coalesce(d.shape, backfill_private.shape_of(to_regclass(t.table_name))), d.before,
    sha256(convert_to(d.before, 'UTF8')), sha256(convert_to(d.after, 'UTF8')), d.columns, i.attempts, true,
    backfill_private.clock()
  from differing as d
  join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = d.ordinal
  join public.backfill_targets as t on t.target = i.source and t.component = d.component
  order by i.ordinal, t.position, d.row_key::text
$$;

-- from sql/60_apply/lease.sql
-- Leases: what a worker is granted. The database grants batches one at a time and never more than approved. Which
-- sessions come next is in next_sessions.sql, what else a claim may answer in claim.sql.

-- How long a lease lives unless it is renewed.
create function backfill_private.lease_ttl()
returns interval
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select interval '60 seconds'
$$;

-- A new fence: 244 random bits, hex.
create function backfill_private.new_fence()
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
end
$$;

-- Skip the pending items among these that somebody else has filled. Of the others, note which components are filled.
-- This is rare, so the expensive checks run only for sessions that already have a row.
create function backfill_private.skip_filled(p_run public.backfill_runs, p_ordinals integer[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_skipped integer;
  v_touched integer[] := array(
    select s.ordinal
    from backfill_private.standing_of(p_run, p_ordinals, false) as s
    union
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = any (p_ordinals) and i.filled <> '{}');
begin
  if v_touched = '{}' then
    return 0;
  end if;
  with found as (
    select e.ordinal,
      array_agg(e.component order by e.component) filter (where e.is_present and not e.has_receipt) as filled
    from backfill_private.effects(p_run.run_id, v_touched) as e
    group by e.ordinal
  ), noted as (
    update public.backfill_items as i
    set filled = coalesce(f.filled, '{}'),
        state = case when f.filled @> i.components then 'skipped' else i.state end,
        settled_at = case when f.filled @> i.components then backfill_private.clock() end
    from found as f
    where i.run_id = p_run.run_id
      and i.ordinal = f.ordinal
      and (f.filled is not null or i.filled <> '{}')
    returning i.state
  )
  select count(*) filter (where n.state = 'skipped')::integer into v_skipped from noted as n;
  return v_skipped;
end
$$;

-- Skip the pending items among these that the target no longer selects, and keep the reason.
create function backfill_private.skip_unselected(p_run public.backfill_runs, p_ordinals integer[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_skipped integer;
begin
  update public.backfill_items as i
  set state = 'skipped',
      unselected = u.why,
      settled_at = backfill_private.clock(),
      failed_step = null,
      error_code = null,
      error_message = null,
      not_before = null
  from backfill_private.unselected(p_run, p_ordinals) as u
  where i.run_id = p_run.run_id and i.ordinal = u.ordinal;
  get diagnostics v_skipped = row_count;
  return v_skipped;
end
$$;

-- Take the lock of a target while sessions of it are being leased. A claim takes it exclusively, calls in bulk share
-- it.
--
-- raises  OB021 see backfill_private.take_lock
create function backfill_private.take_target_lock(p_target text, p_is_shared boolean)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.take_lock(
    backfill_private.lock_key('target', p_target), p_is_shared, format('target %s', p_target))
$$;

-- Lease the next items of one phase.
--
-- p_limit       at most so many
-- p_is_witness  one alone, see backfill_private.next_witness
-- returns       the leased items' grants: [{ordinal, session_id, phase, batch, fence, steps}]
create function backfill_private.lease_items(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer, p_is_witness boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run.run_id);
  v_ordinals integer[];
  v_skipped integer;
begin
  -- Claims of two runs may want the same session. They go one at a time, so that the later sees what the earlier
  -- leased, and never beside calls in bulk, whose leases nobody sees.
  perform backfill_private.take_target_lock(p_run.target, false);
  loop
    v_ordinals := case
      when p_is_witness then backfill_private.next_witness(p_run.run_id, v_phase)
      else coalesce(
        backfill_private.next_alone(p_run),
        backfill_private.next_items(p_run.run_id, v_phase, p_limit)) end;
    exit when v_ordinals is null;
    v_skipped := backfill_private.skip_filled(p_run, v_ordinals)
      + backfill_private.skip_unselected(p_run, v_ordinals);
    exit when v_skipped = 0;
  end loop;
  if p_is_witness then
    update public.backfill_items as i
    set trial = 'called'
    where i.run_id = p_run.run_id and i.ordinal = any (v_ordinals);
  end if;
  perform backfill_private.look_before(p_run, v_ordinals);
  return backfill_private.grant_fences(p_run, v_ordinals, p_claim_id, p_worker);
end
$$;

-- Lease these items under new fences. The fences leave the database here and nowhere else.
create function backfill_private.grant_fences(
  p_run public.backfill_runs, p_ordinals integer[], p_claim_id uuid, p_worker text
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_grants jsonb;
begin
  with fences as materialized (
    select o as ordinal, backfill_private.new_fence() as fence from unnest(p_ordinals) as o
  ), leased as (
    update public.backfill_items as i
    set state = 'leased',
        lease_kind = 'score',
        attempts = i.attempts + (i.claim_id is distinct from p_claim_id)::integer,
        fence_hash = sha256(convert_to(f.fence, 'UTF8')),
        lease_until = v_now + backfill_private.lease_ttl(),
        started_at = case when i.claim_id = p_claim_id then i.started_at else v_now end,
        worker = p_worker,
        claim_id = p_claim_id
    from fences as f
    where i.run_id = p_run.run_id and i.ordinal = any (p_ordinals) and i.ordinal = f.ordinal
    returning i.ordinal, i.session_id, i.phase, i.batch, i.attempts, f.fence
  )
  select coalesce(jsonb_agg(jsonb_build_object(
      'ordinal', l.ordinal,
      'session_id', l.session_id,
      'phase', l.phase,
      'batch', l.batch,
      'attempt', l.attempts,
      'fence', l.fence,
      'steps', coalesce(s.steps, '[]'))
    order by l.ordinal), '[]')
  into v_grants
  from leased as l
  left join backfill_private.steps(p_run, p_ordinals) as s using (ordinal);
  return v_grants;
end
$$;

-- Grant a batch: count its starts, set when the next may start, record it in the chain.
--
-- p_is_witness  see backfill_private.lease_items
create function backfill_private.grant_batch(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer, p_is_witness boolean default false
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_grants jsonb := backfill_private.lease_items(p_run, p_claim_id, p_worker, p_limit, p_is_witness);
begin
  if p_run.batches_granted = 0 then
    perform backfill_private.look_elsewhere(p_run);
  end if;
  if jsonb_array_length(v_grants) = 0 then
    return v_grants;
  end if;
  perform backfill_private.count_starts(p_run, jsonb_array_length(v_grants));
  perform backfill_private.record(p_run.run_id, 'batch_granted', jsonb_build_object(
    'claim', p_claim_id,
    'worker', p_worker,
    'phase', v_grants -> 0 ->> 'phase',
    'sessions', jsonb_array_length(v_grants),
    'ordinals', (select jsonb_agg(g -> 'ordinal') from jsonb_array_elements(v_grants) as g)));
  return v_grants;
end
$$;

-- Take the fences of leased sessions that the target no longer selects: their attempts may write no more. Settled, they
-- are pending again, and the next claim skips them. A session that is writing at this moment is passed over.
create function backfill_private.stop_unselected(p_run public.backfill_runs, p_ordinals integer[])
returns void
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  with gone as (
    select i.ordinal
    from backfill_private.unselected(p_run, p_ordinals, 'leased') as u
    join public.backfill_items as i on i.run_id = p_run.run_id and i.ordinal = u.ordinal
    where i.state = 'leased' and i.lease_kind = 'score'
    order by i.ordinal
    for update of i skip locked
  )
  update public.backfill_items as i
  set fence_hash = null
  from gone as g
  where i.run_id = p_run.run_id and i.ordinal = g.ordinal
$$;

-- Renew the leases of a claim that is still under way, if its run may still be scored. A long batch is asked again
-- whether its sessions are selected.
--
-- returns  how many are still ours. If fewer than expected: stop calling for the others at once
create function backfill_private.renew(p_run_id uuid, p_claim_id uuid)
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_renewed integer[];
  v_may_score boolean;
begin
  perform backfill_private.authorize('apply');
  select backfill_private.may_score(r) into v_may_score from public.backfill_runs as r where r.run_id = p_run_id;
  with mine as (
    -- In the order in which settling locks them, or the two would wait for each other.
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.claim_id = p_claim_id
      and i.state = 'leased'
      and i.lease_until > backfill_private.clock()
      and v_may_score
    order by i.ordinal
    for no key update
  ), renewed as (
    update public.backfill_items as i
    -- Never less, even if the clock was set back: see low_water.sql.
    set lease_until = greatest(i.lease_until, backfill_private.clock() + backfill_private.lease_ttl())
    from mine
    where i.run_id = p_run_id and i.ordinal = mine.ordinal
    returning i.ordinal
  )
  select coalesce(array_agg(r.ordinal), '{}') into v_renewed from renewed as r;
  perform backfill_private.stop_unselected(r, v_renewed)
  from public.backfill_runs as r
  where r.run_id = p_run_id and v_renewed <> '{}';
  return cardinality(v_renewed);
end
$$;

-- Who holds the sessions that this run waits for: its own leases, and other runs' leases on its pending sessions.
create function backfill_private.lease_holders(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s %s leased by %s until %s UTC',
    count(*),
    case count(*) when 1 then 'is' else 'are' end,
    string_agg(
      distinct coalesce(held.worker, 'an undo')
        || case when held.run_id <> p_run_id then ' for run ' || held.run_id else '' end,
      ', '),
    to_char(max(held.lease_until) at time zone 'UTC', 'HH24:MI:SS'))
  from public.backfill_items as held
  where held.state = 'leased'
    and (held.run_id = p_run_id or exists (
      select from public.backfill_items as mine
      where mine.run_id = p_run_id
        and mine.state = 'pending'
        and mine.source = held.source
        and mine.session_id = held.session_id
    ))
  having count(*) > 0
$$;

-- from sql/60_apply/lifecycle.sql
-- Lifecycle: start, pause, resume, cancel, retry, prune.

-- Start a run or go on with it: every apply calls this first.
--
-- returns  {state, reason}. A run that holds comes back paused or expired with the reason
-- raises   OB001 no such run, OB002 its state has no way to running, OB003 not approved, OB015 no share left
create function backfill_private.start(p_run_id uuid, p_worker text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_held record;
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_bounds(jsonb_build_object('the name of the worker', p_worker));
  v_run := backfill_private.caught_up_run(p_run_id);
  if v_run.state in ('planning', 'awaiting_approval') then
    perform backfill_private.refuse('OB003',
      format('run %s is %s (digest %s)',
        p_run_id, replace(v_run.state, '_', ' '), coalesce(v_run.digest, 'not yet made')),
      backfill_private.hint(v_run));
  elsif v_run.state not in ('approved', 'running', 'paused', 'completed') then
    perform backfill_private.refuse('OB002', format('run %s is %s: it does not run again', p_run_id, v_run.state),
      backfill_private.hint(v_run));
  elsif v_run.state in ('approved', 'running', 'paused') and v_run.approved_until <= backfill_private.clock() then
    perform backfill_private.move(p_run_id, 'expired', 'the approval ran out');
  elsif v_run.state in ('approved', 'running') then
    v_held := backfill_private.no_longer_approved(v_run);
    if v_held.cause is not null then
      perform backfill_private.move(p_run_id, 'paused', v_held.reason, p_cause => v_held.cause);
    elsif v_run.state = 'approved' then
      perform backfill_private.check_share(v_run);
      perform backfill_private.move(p_run_id, 'running', null, jsonb_build_object('worker', p_worker));
    end if;
    if v_run.request ->> 'mode' = 'bulk' then
      update public.backfill_runs set loose_settings = backfill_private.loose_settings() where run_id = p_run_id;
    end if;
    -- Else the first calls would note them, and the others wait for their commit.
    perform backfill_private.note_shapes(v_run.target);
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'reason', r.reason)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Pause or cancel, as an operator asks, with a reason. If the run is already so, it stays so and keeps its reason: what
-- stopped a run first is what somebody has to look at.
create function backfill_private.halt(p_verb text, p_run_id uuid, p_reason text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_wanted text := case p_verb when 'pause' then 'paused' else 'cancelled' end;
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize(p_verb);
  perform backfill_private.check_bounds(jsonb_build_object('the reason', p_reason));
  if backfill_private.said(p_reason) is null then
    perform backfill_private.refuse('OB013', format('%s needs a reason', p_verb),
      format('backfill %s %s --reason "…"', p_verb, p_run_id));
  end if;
  v_run := backfill_private.caught_up_run(p_run_id);
  if v_run.state <> v_wanted then
    perform backfill_private.move(p_run_id, v_wanted, p_reason,
      jsonb_build_object('by', (select label from backfill_private.caller())),
      case p_verb when 'pause' then 'asked' end);
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'reason', r.reason)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Answer the critical events of a run that nobody has answered yet: somebody has looked at them. Verify then tells them
-- with their answer, and they no longer fail its verdict. What else it finds does.
--
-- p_because  why they are no cause for alarm
-- returns    how many
-- raises     OB013 no reason
create function backfill_private.answer_critical(p_run_id uuid, p_because text)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_open bigint[] := array(select c.seq from backfill_private.critical_events(p_run_id) as c where c.answered is null);
begin
  if backfill_private.said(p_because) is null then
    perform backfill_private.refuse('OB013', 'an answer needs a reason',
      format('backfill resume %s --because "…"', p_run_id));
  elsif v_open <> '{}' then
    perform backfill_private.record(p_run_id, 'answered',
      jsonb_build_object('because', btrim(p_because), 'events', to_jsonb(v_open)));
  end if;
  return cardinality(v_open);
end
$$;

-- Lift a pause. Everything must still be as it was approved. With a reason, answer the run's critical events too. These
-- can be answered in any state, and then a run that is not paused stays as it is.
--
-- p_because  see backfill_private.answer_critical. Null: they stay unanswered
-- returns    {run_id, state, was: the reason of the pause, answered: how many critical events}
-- raises     OB002 not paused and nothing to answer, or Edge Functions write without our headers, OB006 the approval
--            ran out, OB007 something stands in its way, see refuse_if_held, OB013 an empty reason, OB015 no share left
create function backfill_private.resume(p_run_id uuid, p_because text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_answered integer := 0;
begin
  perform backfill_private.authorize('resume');
  perform backfill_private.check_bounds(jsonb_build_object('the reason', p_because));
  v_run := backfill_private.caught_up_run(p_run_id);
  if p_because is not null then
    v_answered := backfill_private.answer_critical(p_run_id, p_because);
  end if;
  if v_run.state = 'paused' or v_answered = 0 then
    v_run := backfill_private.locked_run(p_run_id, array['paused']);
    perform backfill_private.refuse_without_headers(v_run);
    perform backfill_private.refuse_if_held(v_run);
    perform backfill_private.check_share(v_run);
    update public.backfill_runs set canary = 'overridden' where run_id = p_run_id and canary = 'failed';
    update public.backfill_items set trial = 'resumed' where run_id = p_run_id and trial in ('aside', 'agreed');
    perform backfill_private.move(p_run_id, 'running');
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'was', v_run.reason, 'answered', v_answered)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Score the failed sessions again, under the same approval.
--
-- returns  {run_id, state, sessions}. sessions: how many are pending again, each with fresh budgets for trouble
-- raises   OB002 not completed, paused or running, or Edge Functions write without our headers, OB006 the approval ran
--          out, OB007 something stands in its way, see refuse_if_held
create function backfill_private.retry(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_sessions integer;
begin
  perform backfill_private.authorize('apply');
  v_run := backfill_private.caught_up_run(p_run_id, array['completed', 'paused', 'running']);
  perform backfill_private.refuse_if_removed(v_run.target);
  perform backfill_private.refuse_without_headers(v_run);
  perform backfill_private.refuse_if_held(v_run);
  update public.backfill_items
  set state = 'pending',
      settled_at = null,
      failed_step = null,
      error_code = null,
      error_message = null,
      crowded_out = 0,
      unknown_outcomes = 0,
      not_before = null,
      trial = null
  where run_id = p_run_id and state = 'failed';
  get diagnostics v_sessions = row_count;
  perform backfill_private.lower_low_water(p_run_id);
  if v_sessions > 0 and v_run.state = 'completed' then
    perform backfill_private.check_share(v_run);
    perform backfill_private.move(p_run_id, 'running', null, jsonb_build_object('retried', v_sessions));
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'sessions', v_sessions)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Empty the before-images of a run that is over. The rows that it updated can then no longer be restored.
create function backfill_private.prune(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_emptied integer;
begin
  perform backfill_private.authorize('prune');
  perform backfill_private.caught_up_run(p_run_id,
    array['completed', 'rejected', 'cancelled', 'expired', 'rolled_back']);
  update public.backfill_receipts set before = null where run_id = p_run_id and before is not null;
  get diagnostics v_emptied = row_count;
  perform backfill_private.record(p_run_id, 'pruned', jsonb_build_object('receipts', v_emptied));
  return jsonb_build_object('run_id', p_run_id, 'emptied', v_emptied);
end
$$;

-- from sql/60_apply/lost_races.sql
-- Lost races: a row that somebody else wrote while we scored its session, so that the function had nothing to do.
--
-- Such a row has no receipt, and it needs none: it is not ours. But neither has a row that our call wrote round the
-- gate, and nothing in a committed row says who wrote it. So the gate itself is asked: its triggers stand as they stood
-- when the plan was sealed, and calls of this component are known to come by it. A write of this very transaction, as a
-- call in bulk makes it, is known to be ours.

-- Have calls of a component come by the gate? Either this run has a receipt that the gate wrote, or the plan's
-- rehearsal had one, or an earlier run of the same definitions. What an Edge Function does may change without its
-- version, so for it only this run counts.
create function backfill_private.gate_is_used(p_run public.backfill_runs, p_target public.backfill_targets)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.backfill_runs as r
    join public.backfill_receipts as w on w.run_id = r.run_id
    where (r.run_id = p_run.run_id
        or p_target.transport = 'rpc' and r.target = p_run.target and r.fingerprint = p_run.fingerprint)
      and w.component = p_target.component
      and w.kind = 'score'
      and not w.is_inferred)
  or exists (
    select from backfill_private.rehearsals as s
    where s.run_id = p_run.run_id
      and s.seen -> 'receipts' ? p_target.component)
$$;

-- Do the gate's triggers on a table stand, and have they stood since a run was sealed?
create function backfill_private.gate_has_stood(p_run public.backfill_runs, p_table text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (select from backfill_private.unguarded(p_table))
    and not exists (
      select from pg_trigger as g
      where g.tgrelid = to_regclass(p_table)
        and g.tgname = '000_backfill_receipt'
        and backfill_private.came_after(g.xmin, p_run.sealed_snapshot::pg_snapshot))
$$;

-- Are the lost races of a run too many to be believed? Twenty more of them than it has rows of its own: either another
-- job fills the same sessions, or the calls no longer come by the gate. Somebody has to look.
create function backfill_private.races_are_too_many(p_run_id uuid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select (
    select count(*) from (
      select from public.backfill_items as i
      where i.run_id = p_run_id and i.state = 'skipped' and i.attempts > 0
      limit 1000) as raced
  ) >= 20 + (
    select count(*) from (
      select from public.backfill_receipts as r
      where r.run_id = p_run_id and r.kind = 'score'
      limit 1000) as written
  )
$$;

-- Was a row written by this very transaction? p_xmin is the row's, 32 bits. This transaction gives the epoch. Nobody
-- else sees a row of a transaction that is in progress.
create function backfill_private.is_written_here(p_xmin xid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_mine bigint := pg_current_xact_id()::text::bigint;
  v_ahead bigint := mod(p_xmin::text::bigint - mod(v_mine, 4294967296) + 4294967296, 4294967296);
begin
  if v_ahead >= 2147483648 then
    v_ahead := v_ahead - 4294967296;
  end if;
  return v_mine + v_ahead > 0 and pg_xact_status((v_mine + v_ahead)::text::xid8) = 'in progress';
end
$$;

-- The places of these whose row of a component was written by this very transaction.
create function backfill_private.written_here(
  p_run public.backfill_runs, p_target public.backfill_targets, p_ordinals integer[]
)
returns integer[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ordinals integer[];
begin
  execute format(
    'select array(
       select item.ordinal
       from public.backfill_items as item
       join %s as t on %s
       where item.run_id = $1 and item.ordinal = any ($2)
         and backfill_private.is_written_here(t.xmin))',
    p_target.table_name::regclass,
    backfill_private.row_condition(p_target, p_run.request, false))
  into v_ordinals using p_run.run_id, p_ordinals;
  return v_ordinals;
end
$$;

-- Note in leased items which components somebody else has filled during their call.
--
-- p_outcomes  see backfill_private.decide_outcomes
-- p_effects   the rows of backfill_private.effects for these items
-- returns     the ordinals of those items
create function backfill_private.note_races(p_run_id uuid, p_outcomes jsonb, p_effects jsonb)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_target public.backfill_targets;
  v_doubted integer[];
  v_raced integer[] := array[]::integer[];
begin
  if not jsonb_path_exists(p_effects, '$[*] ? (@.is_present == true && @.has_receipt == false)') then
    return v_raced;
  end if;
  select * into strict v_run from public.backfill_runs as r where r.run_id = p_run_id;
  for v_target in
    select * from public.backfill_targets as t where t.target = v_run.target and t.receipts = 'exact'
  loop
    v_doubted := array(
      select e.ordinal
      from jsonb_to_recordset(p_effects)
        as e (ordinal integer, component text, is_present boolean, has_receipt boolean)
      join jsonb_to_recordset(p_outcomes) as o (ordinal integer, outcome text) using (ordinal)
      join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = e.ordinal
      where e.component = v_target.component
        and e.is_present
        and not e.has_receipt
        and e.component <> all (i.filled)
        and o.outcome <> 'released');
    continue when v_doubted = '{}'
      or not backfill_private.gate_has_stood(v_run, v_target.table_name)
      or not backfill_private.gate_is_used(v_run, v_target)
      or backfill_private.races_are_too_many(p_run_id);
    v_doubted := array(
      select d from unnest(v_doubted) as d
      where d <> all (backfill_private.written_here(v_run, v_target, v_doubted)));
    update public.backfill_items as i
    set filled = i.filled || v_target.component
    where i.run_id = p_run_id and i.ordinal = any (v_doubted);
    v_raced := v_raced || v_doubted;
  end loop;
  return v_raced;
end
$$;

-- from sql/60_apply/low_water.sql
-- Low water: where the open work of a run begins, so that nobody walks over what is done.
--
-- A row that was changed stays in its indexes while any snapshot may still see it as it was: that of a backup, a
-- replica, an analyst's open tab. Whoever looks for the first pending session, or for leases that ran out, would meet
-- all that were done since, at each claim. So the looks begin at a mark. Marks are appended, and the newest counts: it
-- is found at the end of its index, whatever lies before it. A mark may stand too low. It never stands too high.

-- The place in the plan before which no session is pending, but those that met trouble: these few have an index of
-- their own.
create function backfill_private.pending_from(p_run_id uuid)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return coalesce(
    (
      select m.ordinal
      from backfill_private.low_water as m
      where m.run_id = p_run_id
      order by m.mark_id desc
      limit 1
    ),
    1);
end
$$;

-- The first such session.
create function backfill_private.first_fresh(p_run_id uuid, p_from integer)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and i.not_before is null
      and i.trial is null
      and i.ordinal >= p_from
    order by i.ordinal
    limit 1);
end
$$;

-- Raise the mark of a run to its first such session, if that is far ahead. The caller holds the run's lock, or shares
-- it: what others are about to settle is still pending to it. The claim of another run may just give back what leases
-- of this one held. It holds the row of the run, so then the mark stays, and afterwards all is looked at again.
create function backfill_private.raise_low_water(p_run_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from integer := backfill_private.pending_from(p_run_id);
  v_first integer := backfill_private.first_fresh(p_run_id, v_from);
begin
  if v_first < v_from + 100 or v_first is null then
    return;
  end if;
  perform from public.backfill_runs as r where r.run_id = p_run_id for share skip locked;
  if found then
    v_from := backfill_private.pending_from(p_run_id);
    insert into backfill_private.low_water (run_id, ordinal)
    select p_run_id, f.ordinal
    from backfill_private.first_fresh(p_run_id, v_from) as f (ordinal)
    where f.ordinal > v_from;
  end if;
end
$$;

-- Lower the mark of a run to the first of some sessions that is pending again. The caller holds the run's lock or its
-- row, or has had these sessions locked since they were pending before.
--
-- p_ordinals  their places. Null: all of the run
create function backfill_private.lower_low_water(p_run_id uuid, p_ordinals integer[] default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
as $$
declare
  v_first integer := (
    select min(i.ordinal)
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and i.not_before is null
      and i.trial is null
      and (p_ordinals is null or i.ordinal = any (p_ordinals)));
begin
  if v_first < backfill_private.pending_from(p_run_id) then
    insert into backfill_private.low_water (run_id, ordinal) values (p_run_id, v_first);
  end if;
end
$$;

-- Up to when all leases that ran out have been settled. A clock that was set back takes the mark away.
create function backfill_private.expired_until()
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_until timestamptz := (
    select l.until
    from backfill_private.lease_looks as l
    order by l.look_id desc
    limit 1);
begin
  return case when v_until <= backfill_private.clock() then v_until else '-infinity' end;
end
$$;

-- Look at all leases again if one stands that ran out before that: its grant was committed later than it ran out. Asked
-- by a claim that waits for leases.
create function backfill_private.look_for_late_leases()
returns void
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
  insert into backfill_private.lease_looks (until)
  select '-infinity'
  where exists (
    select from public.backfill_items as i
    where i.lease_until <= backfill_private.expired_until())
$$;

-- from sql/60_apply/next_sessions.sql
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

-- from sql/60_apply/outcome.sql
-- Outcomes: what a session becomes, a lost reply included. The item first, the fence second, the receipts third: an
-- outcome is decided only when the attempt can no longer commit.
--
-- A reply is lost if the worker says so (unknown: a broken connection, or a code of 30_run/faults.sql after which the
-- call may have committed), or if no worker says anything (lost: the lease ran out or was taken back, see settle.sql).

-- Did any of these calls come to a known end? If so, the API is alive, and an outcome that stays unknown is the
-- session's own trouble.
create function backfill_private.has_known_outcome(p_outcomes jsonb)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from jsonb_array_elements(p_outcomes) as o
    where o ->> 'outcome' in ('answered', 'failed', 'again', 'beside'))
$$;

-- The rule: what an item becomes, from the rows that are there and what the worker saw.
--
-- p_crowded_out  with this one. A call that was rolled back because of others is made five times. One that is asked to
--                wait while others are not is made six times. 0 while nobody knows whether the others are, too
-- p_unknowns     with this one, if it is unknown. An outcome may stay unknown eight times. 0 while nobody knows whether
--                the API is alive, because its trouble is not a session's
create function backfill_private.outcome(
  p_is_complete boolean, p_lacks_receipt boolean, p_without_row text,
  p_outcome text, p_step text, p_code text, p_message text, p_crowded_out integer, p_unknowns integer,
  out state text, out step text, out code text, out message text, out is_critical boolean
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  is_critical := p_lacks_receipt or coalesce(p_code = 'OB018', false);
  if p_is_complete then
    state := 'done';
  elsif p_lacks_receipt then
    state := 'failed'; step := p_step; code := 'OB016';
    message :=
      'the row is there and has no receipt: the triggers were off, the Edge Function does not hand our headers on, '
      'or somebody else wrote it during the call';
  elsif p_outcome = 'answered' or p_code = 'OB020' then
    state := 'failed'; step := p_without_row; code := 'OB017';
    message := 'no effect';
  elsif p_outcome = 'released'
    or p_outcome <> 'again' and (backfill_private.fault(p_code)).direct = 'released'
  then
    state := 'pending';
  else
    step := p_step; code := left(p_code, 20);
    message := backfill_private.kept_message(p_code, p_message);
    state := case
      when p_outcome = 'failed' then 'failed'
      when p_outcome = 'again' and p_crowded_out >= 5 then 'failed'
      when p_outcome = 'slow' and p_crowded_out >= 6 then 'failed'
      when p_outcome in ('unknown', 'lost') and p_unknowns >= 8 then 'failed'
      else 'pending' end;
    if state = 'failed' and p_outcome in ('unknown', 'lost') then
      message := left(format('the outcome stayed unknown %s times: %s', p_unknowns, message), 500);
    elsif state = 'failed' and p_outcome = 'slow' then
      message := left(format('asked to wait %s times while others were not: %s', p_crowded_out, message), 500);
    end if;
  end if;
end
$$;

-- What is said of a session whose function answered and left no row: which function, when, and what to look at.
create function backfill_private.no_effect(p_run_id uuid, p_component text)
returns text
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select format('no effect: %s answered by %s UTC and left no row of the wanted version in %s. Look at %s',
    f.name,
    to_char(backfill_private.clock() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
    t.table_name,
    case f.transport
      when 'edge' then 'its log of that time: it may leave the error of its write unread, or have nothing to score'
      else 'what it does for this session when it is called in the SQL editor' end)
  from public.backfill_runs as r
  join public.backfill_targets as t on t.target = r.target and t.component = p_component
  join backfill_private.scoring_functions(r.target) as f using (component)
  where r.run_id = p_run_id
$$;

-- Doubt a refusal of the gate that the gate had no reason for: the lease lives, and the run may write. Code of the
-- user's may raise the gate's own codes, and always for one session. So such a call counts as rolled back: it is made
-- again, but not without end.
--
-- returns  the outcomes as they are decided
create function backfill_private.doubt_refusals(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
begin
  if not exists (select from jsonb_array_elements(p_outcomes) as o where o ->> 'code' in ('OB011', 'OB012'))
    or not exists (
      select from public.backfill_runs as r
      where r.run_id = p_run_id and r.state = 'running' and r.approved_until > v_now)
  then
    return p_outcomes;
  end if;
  return (
    select jsonb_agg(
      case
        when o ->> 'code' in ('OB011', 'OB012') and (
          select i.lease_until > v_now
          from public.backfill_items as i
          where i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer)
        then o || '{"outcome": "again"}'
        else o
      end)
    from jsonb_array_elements(p_outcomes) as o);
end
$$;

-- What the steps of leased items have come to, from the rows and receipts that are there.
--
-- p_outcomes    as the worker told them
-- p_effects     see backfill_private.effects
-- is_complete   every row that the plan wants is there, and ours have receipts
-- lacks_receipt a step was answered and its row is there without a receipt, though receipts are exact
-- step_is_done  the step that failed has committed all the same
-- without_row   the first step whose row is missing
create function backfill_private.effects_of_steps(
  p_run_id uuid, p_ordinals integer[], p_outcomes jsonb, p_effects jsonb
)
returns table (
  ordinal integer, is_complete boolean, lacks_receipt boolean, step_is_done boolean, without_row text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
  select
    e.ordinal,
    -- If receipts are inferred, a row without one is somebody else's or came late. No receipt of ours is missing.
    bool_and(e.is_wanted and (e.has_receipt or g.receipts = 'inferred')
      or e.component = any (i.filled) and e.is_present) as is_complete,
    bool_or(e.is_wanted and not e.has_receipt and g.receipts = 'exact' and e.component = any (t.answered)
      and e.component <> all (i.filled)) as lacks_receipt,
    bool_or(e.is_wanted and e.has_receipt and e.component = t.step) as step_is_done,
    (array_agg(e.component order by array_position(i.components, e.component))
      filter (where not e.is_wanted and e.component <> all (i.filled)))[1] as without_row
  from jsonb_to_recordset(p_effects)
    as e (ordinal integer, component text, is_present boolean, is_wanted boolean, has_receipt boolean)
  join jsonb_to_recordset(p_outcomes) as t (ordinal integer, answered text[], step text) using (ordinal)
  join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = e.ordinal
  join public.backfill_targets as g on g.target = i.source and g.component = e.component
  where i.ordinal = any (p_ordinals)
  group by e.ordinal;
end
$$;

-- Decide the outcomes of leased items, take their fences and say what is critical. This is only ever a batch of a run
-- that may be large, so its items are named by their places, and are never read with all others of the run.
--
-- p_outcomes  [{ordinal, outcome, answered: [component], step, code, message, retry_after_s}]
--             answered names the calls that came back well, whatever came after them. outcome:
--             answered  every call came back well
--             failed    a call failed, and would fail again
--             again     a call was rolled back, and may well succeed
--             slow      too many requests, of this session or of all
--             unknown   nobody knows whether a call happened
--             lost      the same, and the worker is gone
--             stop      a call failed in a way that all others may: see trial.sql
--             released  not called
--             beside    not well beside others: in bulk after another session in one transaction, else a conflict on a
--                       table that is no component's. It is called again alone
-- returns     the settled items: [{ordinal, session_id, state, failed_step, error_code, error_message, is_critical}]
create function backfill_private.decide_outcomes(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
  v_ordinals integer[] := backfill_private.held_items(p_run_id, p_outcomes);
  v_effects jsonb := (
    select coalesce(jsonb_agg(e), '[]') from backfill_private.effects(p_run_id, v_ordinals) as e);
  v_raced integer[] := backfill_private.note_races(p_run_id, p_outcomes, v_effects);
  v_settled jsonb;
  v_is_alive boolean := backfill_private.has_known_outcome(p_outcomes) or not exists (
    select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'pending');
  v_is_free boolean := backfill_private.are_others_free(p_run_id, p_outcomes);
begin
  with told as (
    select o.*, (o.outcome = 'again' or o.outcome = 'slow' and v_is_free)::integer as is_crowded
    from jsonb_to_recordset(p_outcomes)
      as o (ordinal integer, outcome text, answered text[], step text, code text, message text, retry_after_s numeric)
  ), decided as (
    select t.ordinal, t.outcome, t.retry_after_s, o.*, i.crowded_out + t.is_crowded as crowded_out,
      t.outcome = 'stop' and (backfill_private.fault(t.code)).direct is distinct from 'released' as is_suspect,
      i.unknown_outcomes + (not s.is_complete and t.outcome in ('unknown', 'lost'))::integer as unknowns
    from told as t
    join backfill_private.effects_of_steps(p_run_id, v_ordinals, p_outcomes, v_effects) as s using (ordinal)
    join public.backfill_items as i
      on i.run_id = p_run_id and i.ordinal = t.ordinal and i.ordinal = any (v_ordinals)
    cross join lateral backfill_private.outcome(s.is_complete, coalesce(s.lacks_receipt, false), s.without_row,
      -- An error about a call that committed all the same is no failure: what is left is the next step.
      -- Nor is it the failure of its step if one before it had answered and left no row.
      -- Of a session that somebody else has filled in part, the rest is scored anew: the gate may have refused it.
      case
        when t.ordinal = any (v_raced) and t.code is distinct from 'OB018' then 'released'
        when t.outcome = 'stop' and i.trial = 'resumed' and backfill_private.has_done(p_run_id) then 'failed'
        when t.outcome <> 'failed' then t.outcome
        when s.step_is_done then 'released'
        when s.without_row = any (t.answered) then 'answered'
        else t.outcome end,
      case when t.step = any (i.components) then t.step end,
      nullif(t.code, case when t.ordinal = any (v_raced) then 'OB020' end), t.message,
      case when t.is_crowded = 1 then i.crowded_out + 1 else 0 end,
      case when v_is_alive then i.unknown_outcomes + 1 else 0 end) as o
  ), written as (
    update public.backfill_items as i
    set state = case when d.state = 'done' and i.filled @> i.components then 'skipped' else d.state end,
        failed_step = d.step, error_code = d.code,
        error_message = case d.code when 'OB017' then backfill_private.no_effect(p_run_id, d.step) else d.message end,
        crowded_out = d.crowded_out, unknown_outcomes = d.unknowns, is_alone = d.outcome = 'beside',
        not_before = case when d.state = 'pending' then
          backfill_private.tried_again_at(d.outcome, d.unknowns, d.crowded_out, d.retry_after_s) end,
        trial = case
          when d.state = 'pending' and d.is_suspect
          then case when i.trial = 'called' and not i.is_alone then 'agreed' else 'aside' end
          when i.trial = 'resumed' and d.state = 'pending' or i.trial = 'called' and d.state = 'done' then i.trial end,
        settled_at = case when d.state <> 'pending' then backfill_private.clock() end,
        lease_until = null, lease_kind = null, claim_id = null, worker = null, fence_hash = null
    from decided as d
    where i.run_id = p_run_id and i.ordinal = any (v_ordinals) and i.ordinal = d.ordinal
    returning i.ordinal, i.session_id, i.state, i.failed_step, i.error_code, i.error_message, d.is_critical
  )
  select coalesce(jsonb_agg(to_jsonb(w) order by w.ordinal), '[]') into v_settled from written as w;
  perform backfill_private.lower_low_water(p_run_id, v_ordinals);
  return v_settled;
end
$$;

-- Are the other sessions of a run not asked to wait, so that one that is has a limit of its own? They are not if any of
-- its batch or of the batch before came to a known end, or if every one that is left has a limit of its own. If
-- sessions were done since the run was started or resumed, what is left and was all asked to wait has such limits too.
--
-- p_outcomes  see backfill_private.decide_outcomes
create function backfill_private.are_others_free(p_run_id uuid, p_outcomes jsonb)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return (
    select backfill_private.has_known_outcome(p_outcomes)
      or r.troubled_batches = 0
      or not exists (
        select from public.backfill_items as i
        where i.run_id = p_run_id
          and i.state = 'pending'
          and i.crowded_out = 0
          and i.trial is null
          and (i.error_code is null or r.settled_since = r.failed_since))
    from backfill_private.run_now(p_run_id) as r);
end
$$;

-- Has any session of this run been done?
create function backfill_private.has_done(p_run_id uuid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'done')
$$;

-- Lock leased items for the change of their fences, so that their attempts can no longer commit, and infer receipts if
-- need be.
--
-- p_outcomes  see backfill_private.decide_outcomes
-- returns     the ordinals of those that were leased. Never null, which to effects() would be every item of the run
create function backfill_private.held_items(p_run_id uuid, p_outcomes jsonb)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_ordinals integer[];
begin
  -- Asked for their state afterwards: the index of all leases would seem as good, see low_water.sql.
  select coalesce(array_agg(l.ordinal) filter (where l.state = 'leased'), '{}') into v_ordinals
  from (
    select i.ordinal, i.state
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.ordinal = any (array(select o.ordinal from jsonb_to_recordset(p_outcomes) as o (ordinal integer)))
    order by i.ordinal
    for update of i) as l;
  if exists (
    select from public.backfill_runs as r
    join public.backfill_targets as t on t.target = r.target
    where r.run_id = p_run_id and t.transport = 'edge'
  ) then
    perform backfill_private.infer_receipts(p_run_id, v_ordinals, array(
      select o.ordinal from jsonb_to_recordset(p_outcomes) as o (ordinal integer, outcome text)
      where o.ordinal = any (v_ordinals) and o.outcome <> 'released'));
  end if;
  return v_ordinals;
end
$$;

-- from sql/60_apply/pace.sql
-- Pace: an operator lowers the rate of a run, and raises it again up to what was approved.
--
-- It stands in the run's row and not in the sealed request, so the digest stands. `backfill_private.paced` says what
-- follows from it. It holds from the next batch on, and survives pause, resume and retry.

-- Count the starts of the last minute again, from the chain. Calls in bulk without a throttle count none.
--
-- The caller has locked the run, so no such call is under way, and the chain holds all of them.
create function backfill_private.count_again(p_run_id uuid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  delete from backfill_private.starts as s
  where s.run_id = p_run_id
    and s.started_at > backfill_private.clock() - interval '60 seconds';
  insert into backfill_private.starts (run_id, started_at, sessions)
  select p_run_id, g.started_at, sum(g.sessions)
  from (
    select coalesce((e.details ->> 'started_at')::timestamptz, e.at) as started_at,
      (e.details ->> 'sessions')::integer as sessions
    from public.backfill_events as e
    where e.run_id = p_run_id
      and e.kind = 'batch_granted'
      and e.at > backfill_private.clock() - interval '60 seconds'
  ) as g
  where g.started_at > backfill_private.clock() - interval '60 seconds'
  group by g.started_at
$$;

-- Refuse a rate that is none, or that the approval does not cover.
--
-- raises  OB003 more than approved, OB013 no whole number from 1 on
create function backfill_private.check_rate(p_run public.backfill_runs, p_per_minute numeric)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_approved integer := (p_run.request ->> 'throttle_per_minute')::integer;
begin
  if p_per_minute not between 1 and 999999999 or p_per_minute <> trunc(p_per_minute) then
    perform backfill_private.refuse('OB013',
      format('a rate is a whole number of starts per minute from 1 to 999999999, not %s', left(p_per_minute::text, 40)),
      format(e'To start nothing for a while, pause the run.\nbackfill pause %s --reason "…"', p_run.run_id));
  elsif coalesce(p_per_minute > v_approved, v_approved is not null and p_per_minute is null) then
    perform backfill_private.refuse('OB003',
      format('run %s is approved for %s per minute, and %s is more', p_run.run_id,
        backfill_private.counted(v_approved, 'start'), coalesce(p_per_minute::text, 'no throttle')),
      format(e'A higher rate takes a new plan.\nbackfill pace %1$s %2$s\nbackfill plan --like %1$s --throttle %3$s',
        p_run.run_id, v_approved, coalesce(p_per_minute::text, 'none')));
  end if;
end
$$;

-- Set the rate of a run, and from when its next batch may start. Asked for what is in force, nothing is told.
--
-- p_per_minute  starts per minute. Null: no throttle
-- returns       {run_id, state, was, per_minute, approved}, each rate null if there is no throttle
-- raises        OB001 no such run, OB002 it is neither approved, running nor paused, OB003 more than approved, OB013 no
--               whole number from 1 on, OB015 other runs leave no share of the project's bound for more
create function backfill_private.pace(p_run_id uuid, p_per_minute numeric)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_was integer;
  v_approved integer;
begin
  perform backfill_private.authorize('pace');
  v_run := backfill_private.caught_up_run(p_run_id, array['approved', 'running', 'paused']);
  perform backfill_private.check_rate(v_run, p_per_minute);
  v_was := backfill_private.rate_of(v_run);
  v_approved := (v_run.request ->> 'throttle_per_minute')::integer;
  if v_was is distinct from p_per_minute then
    v_run.pace_per_minute := nullif(p_per_minute::integer, v_approved);
    if v_run.state = 'running' and coalesce(p_per_minute > v_was, p_per_minute is null) then
      perform backfill_private.check_share(v_run,
        e'Wait for the other runs, or lower one.\nbackfill runs --state running');
    elsif v_was is null then
      perform backfill_private.count_again(p_run_id);
    end if;
    update public.backfill_runs set pace_per_minute = v_run.pace_per_minute where run_id = p_run_id;
    v_run.next_batch_at := coalesce(
      (select max(s.started_at) from backfill_private.starts as s where s.run_id = p_run_id)
        + backfill_private.batch_spacing_s(backfill_private.paced(v_run.request, v_run.pace_per_minute))
        * interval '1 second',
      v_run.next_batch_at);
    perform backfill_private.keep_run(v_run, false);
    perform backfill_private.record(p_run_id, 'paced', jsonb_build_object(
      'from', v_was, 'to', p_per_minute, 'approved', v_approved));
  end if;
  return (
    select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'was', v_was,
      'per_minute', backfill_private.rate_of(r), 'approved', v_approved)
    from public.backfill_runs as r
    where r.run_id = p_run_id);
end
$$;

-- from sql/60_apply/repetition.sql
-- The API's own repetition: before version 16 PostgREST calls a function that raises 40001 again and again, without end
-- and after its client has left. A fence that changes ends that only if the function writes a target row. So settling
-- looks whether a call whose end nobody heard is still being made.

-- The backends of the API that call a scoring function of a target over and over. A call that is merely slow has one
-- transaction, a repetition one after the other, and its connection is never at rest. PostgreSQL says of each backend
-- only what it does now, so they are looked at for 0.8 s, and not at all while every connection is at rest.
--
-- p_is_alone  no other call of the run is under way. Else a backend has to be seen between a failure and its rollback
--             in a quarter of the looks, as calls that succeed never are
-- returns     their pids. None if the owner of this function may not see what other roles do
create function backfill_private.repeating_backends(p_target text, p_is_alone boolean)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_calls text[] := array(
    select format('"%s"."%s"(', n.nspname, p.proname)
    from backfill_private.scoring_functions(p_target) as f
    join pg_proc as p on p.oid = f.oid
    join pg_namespace as n on n.oid = p.pronamespace);
  v_seen jsonb := '[]'::jsonb;
begin
  for v_look in 1..40 loop
    perform pg_stat_clear_snapshot();
    v_seen := v_seen || coalesce((
      select jsonb_agg(jsonb_build_object(
        'pid', a.pid,
        'began', case
          when exists (select from unnest(v_calls) as c where strpos(a.query, c) > 0) then a.query_start
        end,
        'state', a.state))
      from pg_stat_activity as a
      where a.datname = current_database()
        and a.usename = session_user
        and a.pid <> pg_backend_pid()
        and a.state <> 'idle'), '[]');
    exit when v_look >= 3 and v_seen = '[]';
    perform pg_sleep(0.02);
  end loop;
  return array(
    select s.pid
    from jsonb_to_recordset(v_seen) as s (pid integer, began timestamptz, state text)
    group by s.pid
    having count(*) >= 24
      and count(distinct s.began) >= 2
      and (p_is_alone or count(s.began) filter (where s.state = 'idle in transaction (aborted)') >= 10)
    order by s.pid);
end
$$;

-- Judge the calls of a batch whose end nobody heard. If the API repeats one, their sessions have failed, so that nobody
-- calls them again, and the run is paused with the cause.
--
-- p_outcomes  see backfill_private.decide_outcomes
-- returns     the same, with what was found
create function backfill_private.judge_unheard(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := (select r.target from public.backfill_runs as r where r.run_id = p_run_id);
  v_pids integer[];
begin
  if not exists (select from jsonb_array_elements(p_outcomes) as o where o ->> 'outcome' = 'unknown') then
    return p_outcomes;
  end if;
  v_pids := backfill_private.repeating_backends(v_target, not exists (
    select from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'leased'
      and i.ordinal not in (select (o ->> 'ordinal')::integer from jsonb_array_elements(p_outcomes) as o)));
  if v_pids = '{}' then
    return p_outcomes;
  end if;
  perform backfill_private.hold(p_run_id, 'repeats', format(
    'the API repeats a scoring call without end, in backends %s: a function raises 40001, which PostgREST before '
    'version 16 calls again',
    array_to_string(v_pids, ', ')));
  return (
    select jsonb_agg(case when o ->> 'outcome' <> 'unknown' then o else o || jsonb_build_object(
      'outcome', 'failed',
      'code', '40001',
      'message', 'no answer, while the API repeats such a call without end. It is not called again') end)
    from jsonb_array_elements(p_outcomes) as o);
end
$$;

-- from sql/60_apply/settle.sql
-- Settling: the outcomes of a batch are taken, noted in the chain, and leases that ran out are given back.

-- What the chain says of a settled batch, with a hash over the receipts that its sessions have by now. The newest
-- receipt says which those are.
create function backfill_private.settled_details(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_ordinals integer[] := array(select (x ->> 'ordinal')::integer from jsonb_array_elements(p_settled) as x);
  v_newest bigint := (
    select max(r.receipt_id)
    from public.backfill_receipts as r
    where r.run_id = p_run_id and r.ordinal = any (v_ordinals));
begin
  return jsonb_build_object(
    'claim', p_claim_id,
    'ordinals', to_jsonb(v_ordinals),
    'states', (
      select jsonb_object_agg(s.state, s.n)
      from (
        select x ->> 'state' as state, count(*) as n
        from jsonb_array_elements(p_settled) as x
        group by 1) as s),
    'failed', (
      select jsonb_agg(jsonb_build_array(x ->> 'session_id', x ->> 'failed_step', x ->> 'error_code'))
      from jsonb_array_elements(p_settled) as x
      where x ->> 'state' = 'failed'),
    'newest_receipt', v_newest,
    'receipts', backfill_private.receipts_hash(p_run_id, v_ordinals, v_newest));
end
$$;

-- Pause the run if anything of a settled batch is critical, and say so in the chain.
create function backfill_private.record_critical(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bad jsonb;
  v_nameless text;
begin
  select jsonb_agg(jsonb_build_array(x ->> 'session_id', x ->> 'error_code')) into v_bad
  from jsonb_array_elements(p_settled) as x where (x ->> 'is_critical')::boolean;
  if v_bad is not null then
    perform backfill_private.record(p_run_id, 'critical', jsonb_build_object('claim', p_claim_id, 'sessions', v_bad));
    if v_bad -> 0 ->> 1 = 'OB016' then
      select backfill_private.functions_without_headers(r) into v_nameless
      from public.backfill_runs as r
      where r.run_id = p_run_id;
    end if;
    perform backfill_private.hold(p_run_id,
      case when v_nameless is null then v_bad -> 0 ->> 1 else 'no_headers' end,
      format('critical: %s %s, %s',
        (backfill_private.words_of(p_run_id))[1], v_bad -> 0 ->> 0,
        case v_bad -> 0 ->> 1
          when 'OB016' then concat_ws(': ', 'a written row has no receipt', v_nameless || ' wrote without our headers')
          else 'a write was refused at the gate' end));
  end if;
end
$$;

-- Record a settled batch in the chain. Pause the run if anything of it is critical.
create function backfill_private.record_batch(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.record(p_run_id, 'batch_settled',
    backfill_private.settled_details(p_run_id, p_claim_id, p_settled));
  perform backfill_private.record_critical(p_run_id, p_claim_id, p_settled);
end
$$;

-- Refuse outcomes that do not have the right form: a list of objects, one per ordinal.
--
-- raises  OB013 another form
create function backfill_private.check_outcomes(p_outcomes jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(p_outcomes) is distinct from 'array'
    or jsonb_path_exists(p_outcomes, 'strict $[*] ? (@.type() != "object")')
    or exists (
      select from jsonb_array_elements(p_outcomes) as o
      where o ->> 'ordinal' is null or jsonb_typeof(o -> 'ordinal') <> 'number' or o ->> 'ordinal' !~ '^\d{1,9}$'
        or coalesce(jsonb_typeof(o -> 'answered'), 'null') not in ('null', 'array')
        or jsonb_path_exists(o, 'lax $.answered[*] ? (@.type() == "object" || @.type() == "array")')
        or coalesce(jsonb_typeof(o -> 'retry_after_s'), 'null') not in ('null', 'number')
        or abs((case when jsonb_typeof(o -> 'retry_after_s') = 'number' then o -> 'retry_after_s' end)::numeric) > 1e9)
    or (select count(*) <> count(distinct o ->> 'ordinal') from jsonb_array_elements(p_outcomes) as o)
  then
    perform backfill_private.refuse('OB013',
      'outcomes are a list of {ordinal, outcome, answered, step, code, message, retry_after_s}, one for each session',
      'backfill apply RUN');
  end if;
end
$$;

-- Settle the outcomes of a claimed batch. Safe to call again: what is settled stays as it was.
--
-- Planned once per connection, as all that has long statements on this way: PostgreSQL would plan them anew at the
-- first five calls of each connection of the pool, which takes longer than a small batch.
--
-- p_outcomes  see backfill_private.decide_outcomes. Only items still leased under this claim are settled
-- returns     {state, reason, settled: […]}, with the sessions that a witness's outcome has settled, see judge_trial
-- raises      OB001 no such run, OB010 not allowed
create function backfill_private.settle(p_run_id uuid, p_claim_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_told integer[];
  v_mine jsonb;
  v_settled jsonb := '[]'::jsonb;
  v_judged integer[];
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_bounds(jsonb_build_object('the list of outcomes', p_outcomes));
  perform backfill_private.check_outcomes(p_outcomes);
  perform backfill_private.caught_up_run(p_run_id);
  v_told := array(select (o -> 'ordinal')::integer from jsonb_array_elements(p_outcomes) as o);
  select jsonb_agg(o || jsonb_build_object('outcome', case
      when o ->> 'outcome' in ('answered', 'failed', 'again', 'slow', 'stop', 'released') then o ->> 'outcome'
      else 'unknown' end)) into v_mine
  from jsonb_array_elements(p_outcomes) as o
  join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer
  -- An item names its claim only while it is leased. It is not asked for its state: see low_water.sql.
  where i.ordinal = any (v_told) and i.claim_id = p_claim_id;
  if v_mine is not null then
    v_mine := backfill_private.doubt_refusals(p_run_id, backfill_private.judge_unheard(p_run_id, v_mine));
    v_mine := backfill_private.doubt_conflicts(p_run_id, v_mine);
    v_settled := backfill_private.decide_outcomes(p_run_id, v_mine);
    perform backfill_private.record_batch(p_run_id, p_claim_id, v_settled);
    perform backfill_private.note_trouble(p_run_id, v_mine, v_settled);
    perform backfill_private.break_circuit(p_run_id, v_settled);
    v_judged := backfill_private.judge_trial(p_run_id, v_settled);
    perform backfill_private.keep_elsewhere(p_run_id);
  end if;
  return (
    select jsonb_build_object('state', r.state, 'reason', r.reason, 'settled', (
      select coalesce(jsonb_agg(jsonb_build_object(
          'ordinal', i.ordinal,
          'session_id', i.session_id,
          'state', i.state,
          'failed_step', i.failed_step,
          'error_code', i.error_code,
          'error_message', i.error_message) order by i.ordinal), '[]')
      from public.backfill_items as i
      where i.run_id = p_run_id
        and i.ordinal = any (v_told || v_judged)))
    from public.backfill_runs as r
    where r.run_id = p_run_id);
end
$$;

-- Settle leased items whose outcome nobody tells: the receipts decide.
create function backfill_private.settle_untold(p_run_id uuid, p_ordinals integer[], p_why text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_ordinals is not null then
    perform backfill_private.record_batch(p_run_id, null, backfill_private.decide_outcomes(p_run_id, (
      select jsonb_agg(jsonb_build_object('ordinal', o, 'outcome', 'lost', 'message', p_why))
      from unnest(p_ordinals) as o)));
  end if;
end
$$;

-- How many leases one call takes back at most. Dead workers may have left any number, and a call has eight seconds.
create function backfill_private.most_taken_back()
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 500
$$;

-- Settle the next leases of a run that does not run. Its attempts may write no more. A write in flight is waited for.
--
-- returns  whether no lease is left
create function backfill_private.take_leases_back(p_run_id uuid)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.settle_untold(p_run_id, (
      select array_agg(l.ordinal)
      from (
        select i.ordinal
        from public.backfill_items as i
        where i.run_id = p_run_id
          and i.state = 'leased'
        order by i.ordinal
        limit backfill_private.most_taken_back()
      ) as l),
    'the lease was taken back');
  return not exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'leased');
end
$$;

-- Settle the next leases that ran out, of any run whose row is free. Their workers are gone. If none is left, the next
-- look begins where this one ended.
create function backfill_private.release_expired()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_id uuid;
  v_ordinals integer[];
  v_left integer := backfill_private.most_taken_back();
  v_from timestamptz := backfill_private.expired_until();
  v_until timestamptz := backfill_private.clock();
  v_look_id bigint;
begin
  for v_run_id in
    select r.run_id
    from public.backfill_runs as r
    where r.run_id in (
      select i.run_id
      from public.backfill_items as i
      where i.lease_until > v_from and i.lease_until <= v_until)
    order by r.run_id
    for no key update skip locked
  loop
    select array_agg(e.ordinal) into v_ordinals
    from (
      select i.ordinal
      from public.backfill_items as i
      where i.run_id = v_run_id
        and i.lease_until > v_from
        and i.lease_until <= v_until
      limit v_left
      for update skip locked) as e;
    perform backfill_private.settle_untold(v_run_id, v_ordinals, 'the lease ran out');
    v_left := v_left - coalesce(cardinality(v_ordinals), 0);
    exit when v_left <= 0;
  end loop;
  if v_until >= v_from + interval '1 second' and not exists (
    select from public.backfill_items as i
    where i.lease_until > v_from and i.lease_until <= v_until)
  then
    insert into backfill_private.lease_looks (until) values (v_until) returning look_id into v_look_id;
    -- Old looks go. Not all that are older: what went before may still stand in the index, too.
    delete from backfill_private.lease_looks as l
    where l.look_id > v_look_id - 200 and l.look_id <= v_look_id - 100;
  end if;
end
$$;

-- from sql/60_apply/steps.sql
-- Steps: the scoring calls that a session still needs.

-- The scoring calls that some items still need, in order: function and arguments for each component that is neither
-- filled nor written by this run, one for those that share a call. What an item's first attempt needs is in its plan,
-- so receipts are read only later.
--
-- steps  [{component: the first that needs the call, components: all that do, transport, function, arguments}]
create function backfill_private.steps(p_run public.backfill_runs, p_ordinals integer[])
returns table (ordinal integer, steps jsonb)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
  with calls as materialized (
    select o.component, o.position, o.call, t.transport, f.name, (
      select jsonb_object_agg(a.key, p_run.request -> a.value) from jsonb_each_text(t.arguments) as a) as arguments, (
      select array_agg(a.key) from jsonb_each_text(t.arguments) as a where a.value = 'session_id') as keyed
    from backfill_private.calls_of(p_run.target, p_run.request) as o
    join public.backfill_targets as t on t.target = p_run.target and t.component = o.call
    join backfill_private.scoring_functions(p_run.target) as f on f.component = o.call
  ), done as materialized (
    select e.ordinal, e.component
    from backfill_private.effects(p_run.run_id, array(
      select again.ordinal
      from public.backfill_items as again
      where again.run_id = p_run.run_id
        and again.ordinal = any (p_ordinals)
        and again.attempts > 0)) as e
    where e.is_wanted and e.has_receipt
  ), needed as (
    select i.ordinal, i.session_id, c.call, array_agg(c.component order by c.position) as components
    from public.backfill_items as i
    join calls as c on c.component = any (i.components) and c.component <> all (i.filled)
    where i.run_id = p_run.run_id
      and i.ordinal = any (p_ordinals)
      and not exists (select from done as d where d.ordinal = i.ordinal and d.component = c.component)
    group by i.ordinal, i.session_id, c.call
  )
  select n.ordinal, jsonb_agg(jsonb_build_object(
      'component', n.components[1],
      'components', n.components,
      'transport', c.transport,
      'function', c.name,
      'arguments', c.arguments || jsonb_object(c.keyed, array_fill(n.session_id, array[cardinality(c.keyed)])))
    order by c.position)
  from needed as n
  join calls as c on c.component = n.call
  group by n.ordinal;
end
$$;

-- from sql/60_apply/trial.sql
-- Trials: is an error one session's, or every session's?
--
-- A table that is missing, a right, a function, a refusal: what a call met may be met by every other, or by its session
-- alone. So the session is set aside, and another, the witness, is tried alone. If the witness meets the same error the
-- run is paused with the cause, and no session has failed. If the witness is done, those that were set aside have
-- failed, each with its own error, and the run goes on. One that was not well in bulk while others beside it were is no
-- witness against all. A session's part in this stands in backfill_items.trial.

-- Is any session of this run set aside? Asked at every claim, so by the index of those on trial: offset 0 keeps the
-- state from leading to all that are pending.
create function backfill_private.is_on_trial(p_run_id uuid)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return exists (
    select from (
      select i.state
      from public.backfill_items as i
      where i.run_id = p_run_id and i.trial in ('aside', 'agreed')
      offset 0
    ) as i
    where i.state = 'pending');
end
$$;

-- How many witnesses have to meet the same error before a run is paused for it. If no session was done since the run
-- was started or resumed, one is enough. Else there is reason to think that it is not every session's: then it is
-- three, and one more for each time that it was not.
create function backfill_private.witnesses_needed(p_run public.backfill_runs)
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when p_run.settled_since > p_run.failed_since then least(3 + p_run.trials, 10) else 1 end
$$;

-- The next witness: a session that is ready and, if possible, has met no trouble. Neighbours in the plan may share a
-- cause, such as a tenant. So the first is the last of the phase, the second from the middle, and so on.
--
-- returns  its ordinal, locked. Null if no session is ready
create function backfill_private.next_witness(p_run_id uuid, p_phase text)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_agreed integer := (
    select count(*)::integer
    from public.backfill_items as i
    where i.run_id = p_run_id and i.trial = 'agreed');
  v_last integer := (
    select min(i.ordinal) + ((max(i.ordinal) - min(i.ordinal)) / power(2, least(v_agreed, 30)))::integer
    from public.backfill_items as i
    where i.run_id = p_run_id and i.state = 'pending' and i.phase = p_phase and i.trial is null);
begin
  return coalesce(
    (
      select array_agg(w.ordinal)
      from (
        select i.ordinal
        from public.backfill_items as i
        where i.run_id = p_run_id
          and i.state = 'pending'
          and i.phase = p_phase
          and i.ordinal <= v_last
          and i.trial is null
          and i.not_before is null
          and not backfill_private.is_leased(i.source, i.session_id)
        order by i.ordinal desc
        limit 1
        for update of i skip locked) as w),
    backfill_private.next_items(p_run_id, p_phase, 1));
end
$$;

-- The phase of a session that may be a witness, now or once it has backed off. The canary judges itself. Null if no
-- other session is left.
create function backfill_private.witness_phase(p_run_id uuid, p_phase text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select i.phase
  from public.backfill_items as i
  where i.run_id = p_run_id
    and i.state = 'pending'
    and coalesce(i.trial, 'resumed') = 'resumed'
    and (i.phase = p_phase or p_phase <> 'priority')
  order by i.phase <> p_phase, i.ordinal
  limit 1
$$;

-- Call the next witness, once nothing else of the run is under way. If no other session is left, judge without one.
--
-- p_phase  of the next batch, see backfill_private.pending_phase
-- p_wait   the answer if nothing may start now. Else null
-- returns  see backfill_private.claim_batch
create function backfill_private.call_witness(
  p_run public.backfill_runs, p_phase text, p_claim_id uuid, p_worker text, p_wait jsonb
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.witness_phase(p_run.run_id, p_phase);
  v_grants jsonb := '[]'::jsonb;
begin
  if exists (select from public.backfill_items as i where i.run_id = p_run.run_id and i.state = 'leased') then
    return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run.run_id));
  elsif v_phase is not null and p_wait is not null then
    return p_wait;
  elsif v_phase is not null then
    v_grants := backfill_private.grant_batch(p_run, p_claim_id, p_worker, 1, true);
    v_phase := backfill_private.witness_phase(p_run.run_id, p_phase);
  end if;
  if v_grants <> '[]' then
    return jsonb_build_object('granted', v_grants);
  elsif v_phase is not null then
    return backfill_private.wait_for_ready(p_run.run_id, v_phase);
  end if;
  perform backfill_private.judge_trial(p_run.run_id, null);
  return backfill_private.claim_batch(p_run.run_id, p_claim_id, p_worker, false);
end
$$;

-- Judge the sessions that are set aside.
--
-- p_settled  the batch that was just settled, see backfill_private.decide_outcomes. Null: no witness is left
-- returns    the ordinals of the sessions that have failed by this
create function backfill_private.judge_trial(p_run_id uuid, p_settled jsonb)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_same record;
begin
  if not backfill_private.is_on_trial(p_run_id) then
    return array[]::integer[];
  end if;
  v_run := backfill_private.run_now(p_run_id);
  select
    i.error_code as code,
    (array_agg(i.error_message order by i.ordinal))[1] as message,
    count(*) filter (where i.trial = 'agreed') as agreed
  into v_same
  from public.backfill_items as i
  where i.run_id = p_run_id and i.state = 'pending' and i.trial in ('aside', 'agreed')
  group by i.error_code
  having count(*) > 1
  order by agreed desc, count(*) desc, i.error_code
  limit 1;
  if found and (v_same.agreed >= backfill_private.witnesses_needed(v_run)
    or p_settled is null and v_run.settled_since = v_run.failed_since)
  then
    perform backfill_private.hold(p_run_id, 'call:' || v_same.code,
      concat_ws('. ',
        concat_ws(' ', 'every call would fail:', v_same.code, v_same.message),
        backfill_private.call_cause(v_run.target, v_same.code, v_same.message)));
  elsif p_settled is null or exists (
    select from public.backfill_items as i
    join jsonb_to_recordset(p_settled) as s (ordinal integer, state text) using (ordinal)
    where i.run_id = p_run_id and i.trial = 'called' and s.state = 'done'
  ) then
    return backfill_private.fail_set_aside(p_run_id);
  end if;
  return array[]::integer[];
end
$$;

-- The sessions that are set aside have failed, each with the error that it met.
--
-- returns  their ordinals
create function backfill_private.fail_set_aside(p_run_id uuid)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_settled jsonb;
begin
  with failed as (
    update public.backfill_items as i
    set state = 'failed', trial = null, settled_at = backfill_private.clock()
    where i.run_id = p_run_id and i.state = 'pending' and i.trial in ('aside', 'agreed')
    returning i.ordinal, i.session_id, i.state, i.failed_step, i.error_code, i.error_message, false as is_critical
  )
  select jsonb_agg(to_jsonb(f) order by f.ordinal) into v_settled from failed as f;
  update public.backfill_runs set trials = trials + 1 where run_id = p_run_id;
  perform backfill_private.record_batch(p_run_id, null, v_settled);
  perform backfill_private.break_circuit(p_run_id, v_settled);
  return array(select (s ->> 'ordinal')::integer from jsonb_array_elements(v_settled) as s);
end
$$;

-- from sql/65_drive/jobs.sql
-- The jobs of pg_cron that drive runs. What is scheduled stands in cron.job and nowhere else.
--
-- One job drives whatever is approved or running, and one per run drives that run alone and goes once it is over.

-- The jobs of ours in this database, as far as the caller sees them: pg_cron shows everybody their own. None if it is
-- not there, or not the caller's to use.
create function backfill_private.drive_jobs()
returns table (job_id bigint, name text, run_id uuid, schedule text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    join pg_attribute as a on a.attrelid = c.oid and a.attname = 'database'  -- else it is not pg_cron's
    where (n.nspname, c.relname) = ('cron', 'job')
      and has_schema_privilege(n.oid, 'usage')
      and has_table_privilege(c.oid, 'select')
  ) then
    return query execute
      'select j.jobid, j.jobname::text, nullif(substr(j.jobname, 16), '''')::uuid, j.schedule
       from cron.job as j
       where j.database = current_database()
         and j.jobname ~ ''^backfill_drive( [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$''
       order by j.jobid';
  end if;
end
$$;

-- The job that drives a run, by its name and how often it comes. Null: none does.
create function backfill_private.driven_by(p_run_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select format('%s, %s', j.name, case
    when j.schedule ~ '^[0-9]+ seconds$' then 'every ' || j.schedule
    when j.schedule ~ '^\*/' then format('every %s minutes', substring(j.schedule from '[0-9]+'))
    when j.schedule ~ '^0' then 'every hour'
    else 'every minute' end)
  from backfill_private.drive_jobs() as j
  where coalesce(j.run_id = p_run_id, p_run_id = any (backfill_private.runs_to_drive(p_run_id)))
  order by j.run_id
  limit 1
$$;

-- Refuse a run that no driver can take up.
--
-- returns  the run
-- raises   OB001 no such run, OB003 not approved, OB013 an Edge Function scores it
create function backfill_private.drivable_run(p_run_id uuid)
returns public.backfill_runs
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_component text := (
    select min(t.component)
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_run_id and t.transport = 'edge');
begin
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if not found then
    perform backfill_private.refuse_run(format('there is no run %s', coalesce(p_run_id::text, 'null')));
  elsif v_run.state in ('planning', 'awaiting_approval') then
    perform backfill_private.refuse('OB003',
      format('run %s is %s', p_run_id, replace(v_run.state, '_', ' ')), backfill_private.hint(v_run));
  elsif v_component is not null then
    perform backfill_private.refuse('OB013',
      format('run %s needs a worker: %s is scored by an Edge Function, which the database does not call',
        p_run_id, v_component),
      format('backfill apply %s', p_run_id));
  end if;
  return v_run;
end
$$;

-- Refuse while pg_cron is not there, and say how to enable it and what works without.
--
-- raises  OB013
create function backfill_private.refuse_without_cron(p_run_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regprocedure('cron.schedule(text, text, text)') is null then
    perform backfill_private.refuse('OB013', 'pg_cron is not enabled in this database',
      format('create extension pg_cron; (on a hosted project also: Integrations, Cron). Without it: '
        'backfill apply %s, or in psql: call backfill_drive_step(%s) \watch 10',
        coalesce(p_run_id::text, 'RUN'), quote_literal(p_run_id)));
  end if;
end
$$;

-- Does the installed pg_cron take schedules in seconds? From 1.5 on it does.
create function backfill_private.cron_has_seconds()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_extension as e
    where e.extname = 'pg_cron'
      and string_to_array(substring(e.extversion from '^[0-9]+(?:\.[0-9]+)*'), '.')::integer[] >= array[1, 5])
$$;

-- The seconds of an interval that a driver may come in: 1 to 59 seconds, or whole minutes that divide an hour.
--
-- raises  OB013 it is none, or none of these
create function backfill_private.drive_seconds(p_every text)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seconds numeric;
begin
  begin
    v_seconds := extract(epoch from p_every::interval);
  exception when data_exception then
    v_seconds := null;
  end;
  if (v_seconds = trunc(v_seconds) and v_seconds between 1 and 3600
    and (v_seconds < 60 or v_seconds % 60 = 0 and 3600 % v_seconds = 0)) is not true then
    perform backfill_private.refuse('OB013',
      format('a driver comes every 1 to 59 seconds, or in whole minutes that divide an hour, not %s',
        coalesce(quote_literal(left(p_every, 80)), 'null')),
      'select backfill_drive_every(''10 seconds'')');
  end if;
  return v_seconds::integer;
end
$$;

-- Schedule a job that drives, in place of one of the same name. An older pg_cron knows whole minutes: there each call
-- looks again after the seconds that were asked for, until the minute is nearly over.
--
-- p_run_id  null: whatever is approved or running
-- returns   {job, schedule, stop: SQL}
create function backfill_private.schedule_driver(p_run_id uuid, p_seconds integer)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job text := concat_ws(' ', 'backfill_drive', p_run_id);
  v_is_within boolean := p_seconds < 60 and not backfill_private.cron_has_seconds();
  v_schedule text := case
    when v_is_within then '* * * * *'
    when p_seconds < 60 then format('%s seconds', p_seconds)
    when p_seconds = 60 then '* * * * *'
    when p_seconds < 3600 then format('*/%s * * * *', p_seconds / 60)
    else '0 * * * *' end;
begin
  -- The path that a session of the job will have.
  perform backfill_private.refuse_outsiders((select s.reset_val from pg_settings as s where s.name = 'search_path'));
  execute 'select cron.schedule($1, $2, $3)'
  using v_job, v_schedule, format('call public.%I(%s%s)', 'backfill_drive_step',
    coalesce(quote_literal(p_run_id), 'null'),
    case when v_is_within then format(', %L, %L', '50 seconds', p_seconds || ' seconds') else '' end);
  return jsonb_build_object('job', v_job, 'schedule', v_schedule, 'stop', 'select backfill_drive_stop()');
end
$$;

-- Take jobs away.
--
-- p_run_id  that of this run. Null: all of ours
-- returns   their names
create function backfill_private.stop_drivers(p_run_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job record;
  v_stopped jsonb := '[]'::jsonb;
begin
  for v_job in
    select j.job_id, j.name from backfill_private.drive_jobs() as j where p_run_id is null or j.run_id = p_run_id
  loop
    execute 'select cron.unschedule($1)' using v_job.job_id;
    v_stopped := v_stopped || to_jsonb(v_job.name);
  end loop;
  return v_stopped;
end
$$;

-- from sql/65_drive/transactions.sql
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

-- from sql/65_drive/turn.sql
-- A driver's turn: claim, score and settle like any worker, from inside the database.
--
-- A run in mode direct is scored call by call: one transaction per scoring call, under the fence of its session, as the
-- API would make it. A run in bulk is scored by public.backfill_bulk, a transaction per call of it.

-- The runs that a driver takes up: approved or running, and scored by SQL functions alone. In no fixed order, so that a
-- run whose turn ends in an error does not keep the same others from theirs each time.
--
-- p_run_id  null: all
create function backfill_private.runs_to_drive(p_run_id uuid)
returns uuid[]
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(r.run_id order by random()), '{}')
  from public.backfill_runs as r
  where r.state in ('approved', 'running')
    and (p_run_id is null or r.run_id = p_run_id)
    and not exists (
      select from public.backfill_targets as t
      where t.target = r.target and t.transport = 'edge')
$$;

-- Start a run if this is its first turn, and claim its next batch. Trouble is an answer: it must not keep the other
-- runs from their turns.
--
-- The first turn of a run claims apart from bulk. So a function that takes longer in bulk than the time limit gives is
-- met alone once per call of the driver, and settled.
--
-- returns  as claim_batch, and each step has its `call` in SQL. {granted: [], state, reason} if the run does not start,
--          {granted: [], trouble: {code, message, hint}} if it or the claim was refused
create function backfill_private.drive_claim(p_run_id uuid, p_claim_id uuid, p_worker text, p_is_first boolean)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim jsonb;
  v_hint text;
begin
  if p_is_first then
    v_claim := backfill_private.start(p_run_id, p_worker);
    if v_claim ->> 'state' <> 'running' then
      return v_claim || '{"granted": []}';
    end if;
  end if;
  v_claim := backfill_private.claim_batch(p_run_id, p_claim_id, p_worker, p_is_first);
  return v_claim || jsonb_build_object('granted', (
    select coalesce(jsonb_agg(g.session || jsonb_build_object('steps', (
        select coalesce(jsonb_agg(s.step || jsonb_build_object(
            'call', backfill_private.call_sql(t.function_signature, s.step -> 'arguments')) order by s.place), '[]')
        from jsonb_array_elements(g.session -> 'steps') with ordinality as s (step, place)
        join public.backfill_runs as r on r.run_id = p_run_id
        join public.backfill_targets as t on t.target = r.target and t.component = s.step ->> 'component'))
      order by g.place), '[]')
    from jsonb_array_elements(v_claim -> 'granted') with ordinality as g (session, place)));
exception when others then
  get stacked diagnostics v_hint = pg_exception_hint;
  return jsonb_build_object('granted', '[]'::jsonb, 'trouble',
    jsonb_build_object('code', sqlstate, 'message', sqlerrm, 'hint', v_hint));
end
$$;

-- Make one scoring call of a leased session, as the caller's role, and check deferred constraints: the commit that
-- follows could fail of them, and no procedure can catch that.
--
-- p_outcome      of the session so far, see backfill_private.decide_outcomes
-- p_search_path  that of the driver's session
-- p_limit_at     when the time limit of the driver's statement comes
-- returns        the outcome with this call
create function backfill_private.drive_call(
  p_run_id uuid, p_session jsonb, p_step jsonb, p_outcome jsonb, p_search_path text, p_limit_at timestamptz
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform set_config('request.headers', jsonb_build_object(
    'x-backfill-run', p_run_id, 'x-backfill-fence', p_session -> 'fence')::text, true);
  perform set_config('search_path', p_search_path, true);
  execute p_step ->> 'call';
  set constraints all immediate;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  return p_outcome || jsonb_build_object('answered', p_outcome -> 'answered' || (p_step -> 'components'));
exception when query_canceled or assert_failure or others then
  -- Somebody asked this backend to stop, and the time limit is still ahead.
  if backfill_private.is_cancel(sqlstate, sqlerrm, p_limit_at) and backfill_private.clock() < p_limit_at then
    raise;
  end if;
  return p_outcome || jsonb_build_object(
    -- What the gate refuses is given back, see backfill_private.outcome. The rest was rolled back here.
    'outcome', case (backfill_private.fault(sqlstate)).direct
      when 'released' then 'failed'
      else backfill_private.bulk_outcome(sqlstate) end,
    'step', p_step -> 'component', 'code', sqlstate, 'message', sqlerrm);
end
$$;

-- Score and settle a granted batch, one transaction per call. It ends early, like a worker's, at an error that every
-- other call may meet, and at the end of the driver's time. The sessions that were not called are given back.
--
-- p_claim  see backfill_private.drive_claim
create procedure backfill_private.drive_batch(
  p_run_id uuid, p_claim_id uuid, p_claim jsonb, p_until timestamptz, p_limit_at timestamptz
)
language plpgsql
as $$
declare
  v_search_path text;
  v_session jsonb;
  v_outcome jsonb;
  v_outcomes jsonb;
  v_is_over boolean;
  v_renew_every interval;
  v_renew_at timestamptz;
begin
  call backfill_private.next_transaction(v_search_path);
  v_outcomes := '[]';
  v_is_over := false;
  v_renew_every := (p_claim ->> 'lease_s')::numeric / 3 * interval '1 s';
  v_renew_at := backfill_private.clock() + v_renew_every;
  for v_place in 0 .. jsonb_array_length(p_claim -> 'granted') - 1 loop
    v_session := p_claim -> 'granted' -> v_place;
    v_outcome := jsonb_build_object('ordinal', v_session -> 'ordinal', 'answered', '[]'::jsonb,
      'outcome', case when v_is_over then 'released' else 'answered' end);
    for v_step in 0 .. jsonb_array_length(v_session -> 'steps') - 1 loop
      exit when v_outcome ->> 'outcome' <> 'answered';
      if backfill_private.clock() >= v_renew_at then
        call backfill_private.next_transaction(v_search_path);
        perform backfill_private.renew(p_run_id, p_claim_id);
        v_renew_at := backfill_private.clock() + v_renew_every;
      end if;
      call backfill_private.next_transaction(v_search_path);
      v_outcome := backfill_private.drive_call(
        p_run_id, v_session, v_session -> 'steps' -> v_step, v_outcome, v_search_path, p_limit_at);
    end loop;
    v_outcomes := v_outcomes || v_outcome;
    v_is_over := v_is_over
      or v_outcome ->> 'outcome' in ('stop', 'slow')
      or coalesce(v_outcome ->> 'code' = 'OB012', false)
      or backfill_private.clock() >= p_until;
  end loop;
  call backfill_private.next_transaction(v_search_path);
  perform backfill_private.settle(p_run_id, p_claim_id, v_outcomes);
end
$$;

-- from sql/70_verify/buckets.sql
-- The buckets of a verification: as_planned, missing, no_longer_selected, filled_elsewhere and changed_since of the
-- planned rows, unplanned of what the run wrote besides, and extra of the others. verdict.sql says what follows.

-- The condition under which a receipt's key is that of a planned row, as SQL. The session is the receipt's own. It is
-- null if the key has other columns by now.
--
-- p_key  SQL: the key, {column: value}
create function backfill_private.planned_key_condition(
  p_target public.backfill_targets, p_request jsonb, p_key text
)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    string_agg(
      format('%s %s %s',
        backfill_private.key_value(p_target.table_name, c.name, p_key, c.name),
        backfill_private.equals(v.type),
        backfill_private.value_sql(p_target.target, c.parameter, v.type, p_request)),
      ' and '),
    'true')
  from (
    select p_target.version_column as name, p_target.version_parameter as parameter
    union all
    select m.key, m.value
    from jsonb_each_text(p_target.matches) as m
  ) as c
  cross join lateral (select backfill_private.value_type(p_target.table_name, c.name) as type) as v
  where c.name = any (p_target.key_columns)
    and v.type is not null
$$;

-- The newest receipt of each session in the places of the plan after $2, up to $3, of the run $1, and how its row was
-- first written, as SQL. What stands is held against the planned row, if the session has receipts of others too.
create function backfill_private.written_sql(p_target public.backfill_targets, p_request jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select r.ordinal,
       (array_agg(r.operation order by (%2$s) is false, r.receipt_id))[1] as operation,
       (array_agg(r.receipt_id order by (%2$s) is false, r.receipt_id desc))[1] as newest
     from public.backfill_receipts as r
     where r.run_id = $1 and r.ordinal > $2 and r.ordinal <= $3
       and r.component = %1$L
       and r.kind = ''score''
       and r.undone_at is null
     group by r.ordinal',
    p_target.component,
    backfill_private.planned_key_condition(p_target, p_request, 'r.row_key'))
$$;

-- The condition under which a row t is as a receipt x left it, for the receipts of a component in some places of a
-- plan.
create function backfill_private.as_left_of(
  p_run_id uuid, p_target public.backfill_targets, p_after integer, p_until integer
)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.as_left_sql(p_target.table_name::regclass, array(
    select distinct r.shape
    from public.backfill_receipts as r
    where r.run_id = p_run_id
      and r.ordinal > p_after
      and r.ordinal <= p_until
      and r.component = p_target.component))
$$;

-- How each planned row stands, for one component and the places of the plan after p_after, up to p_until.
--
-- returns  one row per planned session
--          bucket: as_planned, missing, no_longer_selected, filled_elsewhere or changed_since
--          no_longer_selected: not there and not expected, because the target did not select the session any more, or
--          because the session itself is gone
--          is_wanted: a row of the wanted version is there
--          is_lost: we wrote it and it is gone
--          operation: how we wrote it
--          wrote: the version that we wrote, if it is another one than the wanted one and still stands as we left it
create function backfill_private.standing(p_run_id uuid, p_component text, p_after integer, p_until integer)
returns table (ordinal integer, session_id text, item_state text, phase text, bucket text,
  is_wanted boolean, is_lost boolean, operation text, wrote text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
set plan_cache_mode = force_custom_plan
as $$
declare
  v_run public.backfill_runs;
  v_source backfill_private.sources;
  v_target public.backfill_targets;
begin
  select * into strict v_run from public.backfill_runs as r where r.run_id = p_run_id;
  select * into strict v_source from backfill_private.sources as s where s.target = v_run.target;
  select * into strict v_target from public.backfill_targets as t
  where t.target = v_run.target and t.component = p_component;
  return query execute format(
    'with written as (%11$s)
     select item.ordinal, item.session_id, item.state, item.phase,
       case
         when x.after_hash is not null and wanted.is_as_left then ''as_planned''
         when ours.is_as_left then ''missing''
         when w.ordinal is not null and (present.is_there or ours.is_as_left is not null) then ''changed_since''
         when w.ordinal is null and (wanted.is_there is not null or %1$L = any (item.filled) and present.is_there)
           then ''filled_elsewhere''
         when item.unselected is not null or not source.is_there then ''no_longer_selected''
         else ''missing'' end,
       wanted.is_there is not null or %1$L = any (item.filled) and present.is_there,
       x.after_hash is not null and not present.is_there and ours.is_as_left is null and source.is_there,
       w.operation,
       case when ours.is_as_left then ours.version end
     from public.backfill_items as item
     left join written as w using (ordinal)
     left join public.backfill_receipts as x on x.receipt_id = w.newest
     left join lateral (
       -- What cannot be told of a column that has another type now is no change.
       select true as is_there, (%5$s) is not false as is_as_left
       from %2$s as t
       where %4$s
       limit 1) as wanted on true
     left join lateral (
       -- The row that we wrote. Only if the wanted one is not there is it asked for.
       select %9$s as version, (%5$s) is not false as is_as_left
       from %2$s as t
       where x.after_hash is not null and wanted.is_there is null and %10$s
       limit 1) as ours on true
     cross join lateral (
       select wanted.is_there is not null or exists (select from %2$s as t where %3$s) as is_there) as present
     -- Only of what is not there is it asked whether its session is.
     cross join lateral (
       select present.is_there or exists (
         select from %6$s as s where s.%7$I = %8$s) as is_there) as source
     where item.run_id = $1 and item.ordinal > $2 and item.ordinal <= $3
       and item.state <> ''rolled_back''
       and %1$L = any (item.components)
     order by item.ordinal',
    p_component,
    v_target.table_name::regclass,
    backfill_private.row_condition(v_target, v_run.request, false),
    backfill_private.row_condition(v_target, v_run.request, true),
    backfill_private.as_left_of(p_run_id, v_target, p_after, p_until),
    v_source.source_table::regclass,
    v_source.key_column,
    backfill_private.session_key(v_run.target),
    backfill_private.version_text(v_target),
    backfill_private.key_condition(v_target.table_name, v_target.key_columns, 'x.row_key'),
    backfill_private.written_sql(v_target, v_run.request))
  using p_run_id, p_after, p_until;
end
$$;

-- What a run wrote of one component, for the places of its plan after p_after, up to p_until, that its plan does not
-- say: rows of sessions that did not lack the component, other rows than the planned ones, and rows that stood where
-- the plan has a new one.
--
-- operation  insert, update or delete: what all the run's writes of the row come to
-- receipt    the newest of them
-- is_new     the row was planned, as a new one. Somebody else wrote it first
create function backfill_private.unplanned(p_run_id uuid, p_component text, p_after integer, p_until integer)
returns table (session_id text, row_key jsonb, operation text, receipt bigint, why text, is_new boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_run public.backfill_runs;
  v_target public.backfill_targets;
begin
  select * into strict v_run from public.backfill_runs as r where r.run_id = p_run_id;
  select * into strict v_target from public.backfill_targets as t
  where t.target = v_run.target and t.component = p_component;
  return query execute format(
    'with written as (
       select
         r.ordinal,
         r.row_key,
         array_agg(r.operation order by r.receipt_id) as operations,
         max(r.receipt_id) as newest
       from public.backfill_receipts as r
       where r.run_id = $1 and r.ordinal > $2 and r.ordinal <= $3
         and r.component = %1$L
         and r.kind = ''score''
         and r.undone_at is null
       group by r.ordinal, r.row_key
     )
     select i.session_id, w.row_key, told.operation, w.newest, told.why, told.why = ''it was planned as a new row''
     from (select *, operations[1] as first, operations[cardinality(operations)] as last from written) as w
     join public.backfill_items as i on i.run_id = $1 and i.ordinal = w.ordinal and i.state <> ''rolled_back''
     cross join lateral (
       select
         case when w.last = ''delete'' then ''delete'' when w.first = ''insert'' then ''insert'' else ''update'' end
           as operation,
         case
           when w.first = ''insert'' and w.last = ''delete'' then null
           when %1$L <> all (i.components) then ''the session did not lack it''
           when (%2$s) is false then ''it is another row than the planned one''
           when w.first <> ''insert'' and not i.replaces ? %1$L then ''it was planned as a new row''
         end as why) as told
     where told.why is not null
     order by w.ordinal, w.newest',
    p_component,
    backfill_private.planned_key_condition(v_target, v_run.request, 'w.row_key'))
  using p_run_id, p_after, p_until;
end
$$;

-- Rows that came since the plan was sealed and that nobody planned. Of a planned session, these are rows that do not
-- count as present: another version, another kind. Of any other session they are all rows, unless the session itself
-- has changed since, because that is live traffic. Whether a row came since is told by its transaction id against the
-- snapshot kept at sealing. Rows for which any run has a receipt are not strangers.
create function backfill_private.strangers(p_run_id uuid, p_component text)
returns table (session_id text, row_key jsonb, of_other_version boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set plan_cache_mode = force_custom_plan
as $$
declare
  v_run public.backfill_runs;
  v_source backfill_private.sources;
  v_target public.backfill_targets;
begin
  select * into strict v_run from public.backfill_runs as r where r.run_id = p_run_id;
  select * into strict v_source from backfill_private.sources as s where s.target = v_run.target;
  select * into strict v_target from public.backfill_targets as t
  where t.target = v_run.target and t.component = p_component;
  return query execute format(
    'with came as materialized (
       select
         t.%2$I::text as session_id,
         %3$s as row_key,
         (%4$s) is not true as of_other_version,
         item.ordinal is not null as is_planned,
         (%8$s) is not true as is_unwanted,
         %10$s as session_xmin
       from %1$s as t
       join %5$s as s on s.%6$I = t.%2$I
       left join public.backfill_items as item
         on item.run_id = $1 and item.source = %9$L and item.session_id = t.%2$I::text
         and item.state <> ''rolled_back''
       -- Cheap first: nearly all rows of a large table are older than anything that ran at sealing.
       where age(t.xmin) <= age($3) and backfill_private.came_after(t.xmin, $2) and %11$s
     )
     select c.session_id, c.row_key, c.of_other_version
     from came as c
     where case
       when exists (
         select from public.backfill_items as i
         join public.backfill_receipts as r on r.run_id = i.run_id and r.ordinal = i.ordinal
         where i.session_id = c.session_id
           and r.session_id = i.session_id
           and r.table_name = %7$L
           and r.row_key = c.row_key) then false
       when c.is_planned then c.is_unwanted
       else not backfill_private.came_after(c.session_xmin, $2) end',
    v_target.table_name::regclass, v_target.session_column,
    -- As backfill_private.row_key has it, without a call for each row.
    (select format('jsonb_build_object(%s)', string_agg(format('%L, t.%I', c, c), ', '))
     from unnest(v_target.key_columns) as c),
    -- The first is that on the version.
    case when v_target.version_column is null then 'true'
      else (backfill_private.kind_conditions(v_target, 't', v_run.request, true))[1] end,
    v_source.source_table::regclass, v_source.key_column,
    v_target.table_name, backfill_private.row_condition(v_target, v_run.request, false), v_run.target,
    -- A row of a view has no age: what came of other sessions may be live traffic.
    case when exists (select from pg_class as c where c.oid = to_regclass(v_source.source_table) and c.relkind = 'v')
      then 'null::xid' else 's.xmin' end,
    backfill_private.own_rows_sql(v_target, 't', v_run.request))
  using p_run_id, v_run.sealed_snapshot::pg_snapshot, pg_snapshot_xmin(v_run.sealed_snapshot::pg_snapshot)::xid;
end
$$;

-- What nobody planned, of one component: as above. The bucket `extra` names the rows' keys.
create function backfill_private.verify_strangers(p_run_id uuid, p_component text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'figures', jsonb_build_object('extra', count(*), 'legacy', count(*) filter (where f.of_other_version)),
    'buckets', case
      when count(*) = 0 then '{}'
      else jsonb_build_object('extra', jsonb_agg(
        jsonb_build_object('session_id', f.session_id, 'component', p_component, 'row', f.row_key)
        order by f.session_id, f.row_key::text)) end,
    'critical', '[]'::jsonb)
  from backfill_private.strangers(p_run_id, p_component) as f
$$;

-- from sql/70_verify/so_far.sql
-- How far a verification in parts is. The caller brings what the part before answered, so it is checked and bounded.

-- A figure that the parts before have counted. Others are added to it, and none counts more rows than a table may have.
create function backfill_private.figure_so_far(p_figure text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select least(greatest(coalesce(p_figure::bigint, 0), 0), 1000000000000)
$$;

-- How far a verification is, in its normal form: {stage, after, critical: how many, figures: {component: {…}}}.
--
-- raises  OB013 no part has answered this
create function backfill_private.verify_so_far(p_target text, p_so_far jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- A run has at most a hundred priority sessions.
  if coalesce(p_so_far ->> 'stage', 'rows') not in ('rows', 'strangers', 'chain', 'receipts', 'end')
    or jsonb_path_exists(p_so_far, 'lax $.figures.*.priority_incomplete.size() ? (@ > 100)') then
    raise invalid_parameter_value;
  end if;
  return jsonb_build_object(
    'stage', coalesce(p_so_far ->> 'stage', 'rows'),
    'after', least(greatest((p_so_far ->> 'after')::integer, 0), 1000000000),
    'critical', backfill_private.figure_so_far(p_so_far ->> 'critical'),
    'figures', (
      select jsonb_object_agg(
        t.component,
        jsonb_build_object('priority_incomplete', coalesce((
          select jsonb_agg(i)
          from jsonb_array_elements_text(p_so_far #> array['figures', t.component, 'priority_incomplete']) as i), '[]'))
        || (
          select jsonb_object_agg(n, backfill_private.figure_so_far(p_so_far #>> array['figures', t.component, n]))
          from unnest(array['planned', 'wanted', 'inserted', 'updated', 'written', 'written_wanted', 'unexplained',
            'unplanned', 'extra', 'legacy']) as n))
      from public.backfill_targets as t
      where t.target = p_target));
exception when data_exception then
  perform backfill_private.refuse('OB013', 'a verification goes on with what its last part answered as so_far',
    'backfill verify RUN');
  return null;
end
$$;

-- What some steps of a verification saw, as one. All at once and as text, read once: lists that are joined step by
-- step, or put into an object that goes into another, are copied element by element each time.
--
-- p_steps  see backfill_private.verify_step
-- returns  {buckets, critical}
create function backfill_private.all_seen(p_steps jsonb[])
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  with found as (
    select s.place, b.key as bucket, c.key as component, c.value::text as list
    from unnest(p_steps) with ordinality as s (seen, place)
    cross join jsonb_each(s.seen -> 'buckets') as b
    cross join jsonb_each(b.value) as c
    where c.value <> '[]'
  ), joined as (
    select f.bucket,
      format('%s: [%s]', to_json(f.component),
        string_agg(substr(f.list, 2, length(f.list) - 2), ', ' order by f.place)) as list
    from found as f
    group by f.bucket, f.component
  ), of_buckets as (
    select format('%s: {%s}', to_json(j.bucket), string_agg(j.list, ', ')) as components
    from joined as j
    group by j.bucket
  )
  select format('{"buckets": {%s}, "critical": %s}',
    (select string_agg(o.components, ', ') from of_buckets as o),
    (
      select coalesce(jsonb_agg(c.value order by s.place, c.place), '[]')
      from unnest(p_steps) with ordinality as s (seen, place)
      cross join jsonb_array_elements(s.seen -> 'critical') with ordinality as c (value, place)))::jsonb
$$;

-- from sql/70_verify/verdict.sql
-- Verify: the rows of a whole run counted, its criteria and its verdict.
--
-- This takes one call or several, each its own transaction. A row that changes in between is seen as it was or as it is
-- now, and so is the audit. Nothing of a run that has ended changes by itself.

-- One criterion: expected against actual.
create function backfill_private.criterion(p_name text, p_expected bigint, p_actual bigint, p_more jsonb default '{}')
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('name', p_name, 'expected', p_expected, 'actual', p_actual,
    'status', case when p_expected = p_actual then 'pass' else 'fail' end) || p_more
$$;

-- The version that a run wants of a component.
create function backfill_private.wanted_version(p_run_id uuid, p_component text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select r.request ->> t.version_parameter
  from public.backfill_runs as r
  join public.backfill_targets as t on t.target = r.target and t.component = p_component
  where r.run_id = p_run_id
$$;

-- What a part saw of one component: {figures, buckets: {bucket: [session], unplanned: [row]}, critical: [what]}.
create function backfill_private.verify_rows(p_run_id uuid, p_component text, p_after integer, p_until integer)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with looked_at as materialized (
    select * from backfill_private.standing(p_run_id, p_component, p_after, p_until)
  ), stands as (
    select * from looked_at as l where l.bucket <> 'no_longer_selected'
  ), besides as materialized (
    select * from backfill_private.unplanned(p_run_id, p_component, p_after, p_until)
  )
  select jsonb_build_object(
    'figures', (
      select jsonb_build_object(
        'planned', count(*),
        'wanted', count(*) filter (where s.is_wanted),
        'inserted', count(*) filter (where s.is_wanted and s.operation = 'insert'),
        'updated', count(*) filter (where s.is_wanted and s.operation = 'update'),
        'written', count(*) filter (where s.operation is not null),
        'written_wanted', count(*) filter (where s.operation is not null and s.is_wanted),
        'unexplained', count(*) filter (where not s.is_wanted and s.item_state <> 'failed'),
        'unplanned', (select count(*) from besides as b where not b.is_new),
        'priority_incomplete',
          coalesce(jsonb_agg(s.session_id) filter (where s.phase = 'priority' and not s.is_wanted), '[]'))
      from stands as s),
    'buckets', (
      select coalesce(jsonb_object_agg(b.bucket, b.sessions), '{}')
      from (
        select l.bucket, jsonb_agg(l.session_id) as sessions from looked_at as l group by 1
        union all
        select 'unplanned', jsonb_agg(to_jsonb(u) - 'is_new' - 'row_key'
          || jsonb_build_object('component', p_component, 'row', u.row_key))
        from besides as u
        having count(*) > 0
      ) as b),
    'critical', (
      select coalesce(jsonb_agg(format('%s: %s', s.session_id, case
        when s.is_lost then 'a written row is gone'
        else format('it wrote %s where version %s was wanted',
          coalesce('version ' || nullif(s.wrote, ''), 'a row without a version'),
          backfill_private.wanted_version(p_run_id, p_component))
        end) order by s.ordinal) filter (where s.is_lost or s.wrote is not null), '[]')
      from stands as s))
$$;

-- What is critical about a run's chain: the critical events in it that nobody has answered, its own faults, of what it
-- does not tell, and what no longer is as it was approved.
create function backfill_private.verify_chain(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(c.what), '[]') from (
    select format('%s: %s', f ->> 0, f ->> 1) as what
    from backfill_private.critical_events(p_run_id) as e
    cross join jsonb_array_elements(e.sessions) as f
    where e.answered is null
    union all
    select format('audit event %s: %s', f.seq, f.fault) from backfill_private.chain_faults(p_run_id) as f
    union all
    select format('%s: %s', u.session_id, u.what) from backfill_private.untold(p_run_id) as u
    union all
    select format('claim %s: %s', u.claim, u.fault) from backfill_private.unnoted_faults(p_run_id) as u
    union all
    select f from backfill_private.approval_faults(p_run_id) as f
    union all
    select f from backfill_private.standing_use_faults(p_run_id) as f
  ) as c
$$;

-- The settled batches among some events whose receipts are no longer those that the chain tells, in words.
create function backfill_private.verify_receipts(p_run_id uuid, p_after bigint, p_until bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(format('audit event %s: %s', f.seq, f.fault)), '[]')
  from backfill_private.receipt_faults(p_run_id, p_after, p_until) as f
$$;

-- One step of a verification: 2,000 places of the plan, the strangers of a component, the chain, or the receipts of 200
-- events. After the last of them only the end is left.
--
-- p_so_far  see backfill_private.verify_so_far
-- returns   so_far: the same, one step further
--           buckets {bucket: {component: […]}} and critical: what this step saw
create function backfill_private.verify_step(p_run public.backfill_runs, p_so_far jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stage text := p_so_far ->> 'stage';
  v_after integer := (p_so_far ->> 'after')::integer;
  v_until integer := v_after + case v_stage when 'rows' then 2000 when 'receipts' then 200 else 1 end;
  v_last bigint;
  v_seen jsonb := '{}'::jsonb;
  v_critical jsonb := '[]'::jsonb;
begin
  if v_stage in ('rows', 'strangers') then
    select jsonb_object_agg(t.component, case v_stage
      when 'rows' then backfill_private.verify_rows(p_run.run_id, t.component, v_after, v_until)
      else backfill_private.verify_strangers(p_run.run_id, t.component) end) into v_seen
    from (
      select x.component, row_number() over (order by x.position) as place
      from public.backfill_targets as x
      where x.target = p_run.target) as t
    where v_stage = 'rows' or t.place = v_until;
    select coalesce(jsonb_agg(c.what order by t.position, c.place), '[]') into v_critical
    from public.backfill_targets as t
    cross join jsonb_array_elements(v_seen -> t.component -> 'critical') with ordinality as c (what, place)
    where t.target = p_run.target;
  elsif v_stage = 'chain' then
    v_critical := backfill_private.verify_chain(p_run.run_id);
  else
    v_critical := backfill_private.verify_receipts(p_run.run_id, v_after, v_until);
  end if;
  v_last := case v_stage
    when 'chain' then 1
    when 'receipts' then p_run.audit_count
    when 'rows' then (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run.run_id)
    else (select count(*) from public.backfill_targets as t where t.target = p_run.target) end;
  return jsonb_build_object(
    'so_far', jsonb_build_object(
      'stage', case when v_until < v_last then v_stage else (
        jsonb_build_object('rows', 'strangers', 'strangers', 'chain', 'chain', 'receipts', 'receipts', 'end')
        ) ->> v_stage end,
      'after', case when v_until < v_last then v_until else 0 end,
      'critical', (p_so_far ->> 'critical')::bigint + jsonb_array_length(v_critical),
      'figures', backfill_private.added(p_so_far -> 'figures', (
        select coalesce(jsonb_object_agg(s.key, s.value -> 'figures'), '{}')
        from jsonb_each(v_seen) as s))),
    'buckets', (
      select coalesce(jsonb_object_agg(b.key, b.components), '{}')
      from (
        select b.key, jsonb_object_agg(s.key, b.value) as components
        from jsonb_each(v_seen) as s
        cross join jsonb_each(s.value -> 'buckets') as b
        group by 1) as b),
    'critical', v_critical);
end
$$;

-- What all parts of a verification say: its criteria, its verdict, and the figures that no criterion compares.
create function backfill_private.verify_end(p_run public.backfill_runs, p_so_far jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_figures jsonb := p_so_far -> 'figures';
  v_critical bigint := (p_so_far ->> 'critical')::bigint;
  v_criteria jsonb;
begin
  select jsonb_agg(c.criterion order by t.position, c.place) into v_criteria
  from public.backfill_targets as t
  cross join lateral backfill_private.component_criteria(t, v_figures -> t.component)
    with ordinality as c (criterion, place)
  where t.target = p_run.target;
  v_criteria := v_criteria || backfill_private.run_criteria(p_run.run_id, v_figures, v_critical);
  return jsonb_build_object(
    'run_id', p_run.run_id,
    'state', p_run.state,
    'verdict', backfill_private.verdict(v_figures, v_criteria, v_critical),
    'criteria', v_criteria,
    'inferred', (
      select count(*)
      from public.backfill_receipts as r
      where r.run_id = p_run.run_id and r.is_inferred and r.undone_at is null),
    'answered', (
      select coalesce(jsonb_agg(e.answered || jsonb_build_object(
          'what', format('%s: %s', f.value ->> 0, f.value ->> 1)) order by e.seq, f.place), '[]')
      from backfill_private.critical_events(p_run.run_id) as e
      cross join jsonb_array_elements(e.sessions) with ordinality as f (value, place)
      where e.answered is not null),
    'unanswered', (
      select count(*)
      from backfill_private.critical_events(p_run.run_id) as e
      where e.answered is null),
    'elsewhere', backfill_private.written_elsewhere(p_run.run_id),
    'without_headers', backfill_private.functions_without_headers(p_run),
    'audit', jsonb_build_object('count', p_run.audit_count, 'head', p_run.audit_head))
    || backfill_private.new_candidates(p_run);
end
$$;

-- A sealed run that the caller may read about.
--
-- raises  OB001 no such run, OB007 a table or a column is gone, OB010 not allowed, OB013 its target was removed
create function backfill_private.verifiable(p_run_id uuid)
returns public.backfill_runs
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.run_now(p_run_id);
  v_gone text;
begin
  perform backfill_private.authorize('read');
  if v_run.sealed_at is null then
    perform backfill_private.refuse_run(format('there is no sealed run %s', p_run_id));
  end if;
  perform backfill_private.refuse_if_removed(v_run.target);
  v_gone := backfill_private.gone(v_run.target);
  if v_gone is not null then
    perform backfill_private.refuse('OB007', v_gone, concat_ws(e'\n',
      'Give it back the name that the target declares. The check says which. Then verify again.',
      'backfill check',
      'backfill verify ' || p_run_id));
  end if;
  return v_run;
end
$$;

-- Verify a part of a run against the tables, for about p_budget_ms.
--
-- p_so_far  what the part before answered. Null: from the beginning
-- returns   {so_far, looked_at, to_look_at, components, buckets, critical, verification}
--           looked_at and to_look_at: sessions
--           buckets: {bucket: {component: [session]}}, of extra [{session_id, component, row}], of unplanned also
--           operation, receipt and why
--           verification: null, or after the last part {run_id, state, verdict, criteria, inferred, answered,
--           unanswered, elsewhere, without_headers, audit, new_candidates, new_candidates_total}
--           answered: critical events that somebody has looked at, [{what, by, at, because}]
--           verdict: pass: every planned row is there
--                    partial: each missing one belongs to a session recorded as failed, and nothing is critical
--                    fail: everything else
-- raises    OB001 no such run, OB007 a table or a column is gone, OB010 not allowed, OB013 no part has answered
--           this so_far
create function backfill_private.verify_part(p_run_id uuid, p_so_far jsonb, p_budget_ms integer)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_until timestamptz := backfill_private.clock() + coalesce(p_budget_ms, 2000) * interval '1 ms';
  v_run public.backfill_runs;
  v_so_far jsonb;
  v_sessions bigint := (select count(*) from public.backfill_items as i where i.run_id = p_run_id);
  v_step jsonb;
  v_steps jsonb[] := array[]::jsonb[];
  v_end jsonb;
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'so_far', p_so_far, 'a look', coalesce(p_budget_ms, 2000)));
  v_run := backfill_private.verifiable(p_run_id);
  v_so_far := backfill_private.verify_so_far(v_run.target, p_so_far);
  loop
    if v_so_far ->> 'stage' = 'end' then
      v_end := backfill_private.verify_end(v_run, v_so_far);
      exit;
    end if;
    v_step := backfill_private.verify_step(v_run, v_so_far);
    v_so_far := v_step -> 'so_far';
    v_steps := v_steps || (v_step - 'so_far');
    exit when backfill_private.clock() >= v_until;
  end loop;
  return backfill_private.all_seen(v_steps) || jsonb_build_object(
    'so_far', v_so_far,
    'verification', v_end,
    'to_look_at', v_sessions,
    'components', (
      select jsonb_agg(t.component order by t.position)
      from public.backfill_targets as t
      where t.target = v_run.target),
    'looked_at', case v_so_far ->> 'stage' when 'rows' then (v_so_far ->> 'after')::bigint else v_sessions end);
end
$$;

-- The criteria of one component.
create function backfill_private.component_criteria(p_target public.backfill_targets, p_figures jsonb)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.criterion(
    n.tab || '_rows',
    (p_figures ->> 'planned')::bigint,
    (p_figures ->> 'wanted')::bigint,
    jsonb_build_object('inserted', p_figures -> 'inserted', 'updated', p_figures -> 'updated'))
  from (select backfill_private.rows_name(p_target)) as n (tab)
  union all
  select backfill_private.criterion(backfill_private.rows_name(p_target) || '_version',
    (p_figures ->> 'written')::bigint, (p_figures ->> 'written_wanted')::bigint)
  where p_target.version_column is not null
  union all
  select backfill_private.criterion(backfill_private.rows_name(p_target) || '_no_legacy_versions',
    0, (p_figures ->> 'legacy')::bigint)
  where p_target.version_column = any (p_target.key_columns)
$$;

-- The criteria that look at the whole run.
create function backfill_private.run_criteria(p_run_id uuid, p_figures jsonb, p_critical bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_array(
    backfill_private.criterion('priority_complete',
      count(*) filter (where i.phase = 'priority' and i.state <> 'rolled_back' and i.unselected is null),
      count(*) filter (where i.phase = 'priority' and i.state <> 'rolled_back' and i.unselected is null and not exists (
        select from jsonb_each(p_figures) as x
        where x.value -> 'priority_incomplete' ? i.session_id))),
    backfill_private.criterion('critical_errors', 0, p_critical),
    backfill_private.criterion('failed_sessions', 0, count(*) filter (where i.state = 'failed')),
    backfill_private.criterion('audit_complete',
      (backfill_private.run_now(p_run_id)).audit_count,
      -- The events before the first fault. Without a fault, all that there are.
      (select coalesce(min(f.seq) - 1, (select count(*) from public.backfill_events as e where e.run_id = p_run_id))
       from backfill_private.chain_faults(p_run_id) as f)))
  from public.backfill_items as i
  where i.run_id = p_run_id
$$;

-- pass, partial or fail.
create function backfill_private.verdict(p_figures jsonb, p_criteria jsonb, p_critical bigint)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_critical > 0 or (
      select sum((x.value ->> 'extra')::bigint + (x.value ->> 'unexplained')::bigint
        + (x.value ->> 'unplanned')::bigint)
      from jsonb_each(p_figures) as x) > 0 then 'fail'
    when exists (select from jsonb_array_elements(p_criteria) as c where c ->> 'status' <> 'pass') then 'partial'
    else 'pass' end
$$;

-- from sql/75_watch/_tables.sql
-- Tables of the watch: the service level of a target and its last look, what each day lacked, and the breaches.
--
-- Only counts stand here, no session and no row. No digest covers them: a level changes nothing that a run does.

-- How far a look goes. recent: the days whose sessions can still change, those of runs that wrote meanwhile, and of the
-- other days that lacked something as many as the time allows. all: every day.
create table public.backfill_watches (
  target text primary key,
  min_coverage numeric check (min_coverage > 0 and min_coverage <= 1),
  within interval check (within > interval '0'),
  over interval check (over > interval '0'),
  looked_at timestamptz,
  judged_since date,
  wanted bigint,
  there bigint,
  oldest_missing_at timestamptz,
  undated jsonb not null default '[]',
  fault text,
  look bigint not null default 0,
  reach text not null default 'all' check (reach in ('recent', 'all')),
  is_over boolean not null default true,
  counted_as text,
  whole_as text,
  begun_at timestamptz,
  days date[] not null default '{}',
  below date,
  span integer not null default 30 check (span > 0),
  check ((min_coverage is null) = (within is null)),
  check (min_coverage is not null or over is null)
);

comment on table public.backfill_watches is
  'The service level of each target, and what the last look found. backfill_watch_status says it for people.';
comment on column public.backfill_watches.target is
  'The target.';
comment on column public.backfill_watches.min_coverage is
  'The share of sessions that must have their rows, over 0 to 1. Null: no level is declared.';
comment on column public.backfill_watches.within is
  'How long after its date a session may lack rows.';
comment on column public.backfill_watches.over is
  'Only sessions of the last days are judged, so many. Null: those of all dates, and the last 30 days by themselves.';
comment on column public.backfill_watches.looked_at is
  'When the last look ended. Null: none has.';
comment on column public.backfill_watches.judged_since is
  'The first day of the sessions that it judged. Null: those of all dates.';
comment on column public.backfill_watches.wanted is
  'How many these are: their time is over, and they can be scored.';
comment on column public.backfill_watches.there is
  'Of these, sessions that lack nothing.';
comment on column public.backfill_watches.oldest_missing_at is
  'The date of the oldest session that lacks something.';
comment on column public.backfill_watches.undated is
  'Sessions that lack something and have no date that a plan takes: [{reason, sessions}]. No level judges them.';
comment on column public.backfill_watches.fault is
  'Why the last look says nothing. Null: it does.';
comment on column public.backfill_watches.look is
  'Number of the last look.';
comment on column public.backfill_watches.reach is
  'How far it goes: the days that can have changed, or all days.';
comment on column public.backfill_watches.is_over is
  'Whether it has ended. If not, the next call goes on with it.';
comment on column public.backfill_watches.counted_as is
  'Hash of the declaration that it counts by.';
comment on column public.backfill_watches.whole_as is
  'Hash of the declaration by which all days were counted. Null: they never were.';
comment on column public.backfill_watches.begun_at is
  'When it began.';
comment on column public.backfill_watches.days is
  'The days of runs that it has left.';
comment on column public.backfill_watches.below is
  'A look at all days has those before this one left.';
comment on column public.backfill_watches.span is
  'How many days such a look takes at a time.';

create table public.backfill_coverage_history (
  target text not null,
  day date not null,
  wanted bigint not null,
  there bigint not null,
  missing bigint not null,
  not_due bigint not null,
  lacks jsonb not null default '{}',
  left_out jsonb not null default '[]',
  oldest_missing_at timestamptz,
  looked_at timestamptz not null,
  oldest_missing_age interval generated always as (looked_at - oldest_missing_at) stored,
  look bigint not null,
  primary key (target, day),
  check (wanted = there + missing)
);

comment on table public.backfill_coverage_history is
  'One row per target and UTC day of its sessions: how many have their rows, as a look last counted them.';
comment on column public.backfill_coverage_history.target is
  'The target.';
comment on column public.backfill_coverage_history.day is
  'UTC day on which the sessions were created.';
comment on column public.backfill_coverage_history.wanted is
  'Sessions of that day that can be scored and whose time is over.';
comment on column public.backfill_coverage_history.there is
  'Of these, sessions that lack nothing that is wanted of them.';
comment on column public.backfill_coverage_history.missing is
  'Of these, sessions that lack something.';
comment on column public.backfill_coverage_history.not_due is
  'Further sessions, which can be scored and still have time.';
comment on column public.backfill_coverage_history.lacks is
  'Of the missing ones, how many lack which component: {component: sessions}.';
comment on column public.backfill_coverage_history.left_out is
  'What is not wanted, and why: [{component, reason, sessions}]. Without a component: the sessions as a whole.';
comment on column public.backfill_coverage_history.oldest_missing_at is
  'The date of the oldest missing session.';
comment on column public.backfill_coverage_history.looked_at is
  'When this was counted.';
comment on column public.backfill_coverage_history.oldest_missing_age is
  'How old the oldest missing session was then.';
comment on column public.backfill_coverage_history.look is
  'Number of the look that counted it.';

create table public.backfill_alerts (
  alert_id bigint generated always as identity primary key,
  target text not null,
  opened_at timestamptz not null,
  coverage numeric not null,
  min_coverage numeric not null,
  within interval not null,
  missing bigint not null,
  short_by bigint not null,
  oldest_missing_at timestamptz,
  closed_at timestamptz check (closed_at >= opened_at),
  closed_because text,
  check ((closed_at is null) = (closed_because is null))
);

-- One open breach per target.
create unique index backfill_alerts_open on public.backfill_alerts (target) where closed_at is null;

comment on table public.backfill_alerts is
  'One row per breach of a target''s service level: inserted when a look finds it, closed when a look finds it over.';
comment on column public.backfill_alerts.alert_id is
  'Number of the breach.';
comment on column public.backfill_alerts.target is
  'The target.';
comment on column public.backfill_alerts.opened_at is
  'When a look found it.';
comment on column public.backfill_alerts.coverage is
  'Share of the judged sessions that had their rows then.';
comment on column public.backfill_alerts.min_coverage is
  'The share that was declared.';
comment on column public.backfill_alerts.within is
  'The time that was declared.';
comment on column public.backfill_alerts.missing is
  'Sessions that lacked something.';
comment on column public.backfill_alerts.short_by is
  'How many of these had to have their rows, to reach the level.';
comment on column public.backfill_alerts.oldest_missing_at is
  'The date of the oldest of them.';
comment on column public.backfill_alerts.closed_at is
  'When a look found it over. Null: it is open.';
comment on column public.backfill_alerts.closed_because is
  'Why it was closed.';

-- from sql/75_watch/counts.sql
-- Counting days: how many sessions of a day have their rows. What a session is and what it lacks, the view of standing
-- says. See 20_target/standing.sql.

-- By what a target is counted, as a hash: its source and its components. If that changes, what was counted before says
-- nothing any more.
create function backfill_private.counted_as(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(concat_ws(
    e'\n',
    (
      select to_jsonb(s) - array['called', 'installed_at', 'views', 'index_name']
      from backfill_private.sources as s
      where s.target = p_target
    ),
    (
      select jsonb_agg(to_jsonb(t) order by t.position)
      from public.backfill_targets as t
      where t.target = p_target
    )))
$$;

-- The sessions of a target in a range of dates, in groups that lack the same, as SQL.
--
-- $1, $2  the range, $3 the last date whose time is over
-- gives   day, is_due, lacks, not_wanted: {component: reason}, excluded, sessions, oldest_at
create function backfill_private.standing_groups_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$select
      (s.created_at at time zone 'UTC')::date as day,
      s.created_at <= $3 as is_due,
      s.lacks,
      s.not_wanted,
      s.excluded,
      count(*) as sessions,
      min(s.created_at) as oldest_at
    from (
      -- offset 0: what a session lacks is worked out once, though it is read several times.
      select
        i.created_at,
        i.excluded,
        array_remove(array[%s]::text[], null) as lacks,
        case when i.is_incomplete then nullif(jsonb_strip_nulls(jsonb_build_object(%s)), '{}') end as not_wanted
      from (
        select g.* from %s as g where g.created_at >= $1 and g.created_at < $2 offset 0
      ) as i
    ) as s
    group by 1, 2, 3, 4, 5$sql$,
    string_agg(format('case when i.%I then %L end', 'missing_' || t.component, t.component), ', ' order by t.position),
    (
      select string_agg(format('%L, i.%I', c.component, c.not_wanted), ', ' order by c.position)
      from backfill_private.conditional_components(p_target) as c
    ),
    backfill_private.standing_view(p_target)::regclass)
  from public.backfill_targets as t
  where t.target = p_target
$$;

-- The statement that counts the days of a range of dates. $1 to $3: see standing_groups_sql.
--
-- gives  one value: [{day, selected, wanted, there, missing, not_due, lacks, left_out, oldest_missing_at}]
create function backfill_private.days_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$
    with groups as materialized (
      select
        g.*,
        g.excluded is null and g.is_due as is_wanted,
        g.excluded is null and g.is_due and g.lacks <> '{}' as is_missing
      from (%s) as g
    ), days as (
      select
        g.day,
        sum(g.sessions) as selected,
        coalesce(sum(g.sessions) filter (where g.is_wanted), 0) as wanted,
        coalesce(sum(g.sessions) filter (where g.is_wanted and not g.is_missing), 0) as there,
        coalesce(sum(g.sessions) filter (where g.is_missing), 0) as missing,
        coalesce(sum(g.sessions) filter (where g.excluded is null and not g.is_due), 0) as not_due,
        min(g.oldest_at) filter (where g.is_missing) as oldest_missing_at
      from groups as g
      group by g.day
    ), lacking as (
      select c.day, jsonb_object_agg(c.component, c.sessions) as lacks
      from (
        select g.day, l.component, sum(g.sessions) as sessions
        from groups as g
        cross join unnest(g.lacks) as l (component)
        where g.is_missing
        group by 1, 2
      ) as c
      group by c.day
    ), unwanted as (
      select
        r.day,
        jsonb_agg(to_jsonb(r) - 'day' order by r.component nulls first, r.reason) as left_out
      from (
        select g.day, why.component, why.reason, sum(g.sessions) as sessions
        from groups as g
        cross join lateral (
          select null as component, g.excluded as reason
          where g.excluded is not null
          union all
          select n.key, n.value
          from jsonb_each_text(g.not_wanted) as n
          where g.excluded is null
        ) as why
        group by 1, 2, 3
      ) as r
      group by r.day
    )
    select coalesce(
      jsonb_agg(to_jsonb(d) || jsonb_build_object(
        'lacks', coalesce(l.lacks, '{}'),
        'left_out', coalesce(u.left_out, '[]'))),
      '[]')
    from days as d
    left join lacking as l using (day)
    left join unwanted as u using (day)$sql$,
    backfill_private.standing_groups_sql(p_target))
$$;

-- The days of a range of dates, counted, in a subtransaction that PostgreSQL keeps from writing: see
-- backfill_private.detected. A day without sessions is not among them.
--
-- p_due    sessions up to this date are judged
-- returns  see days_sql
-- raises   25006 the view, or a function that it calls, tries to write
create function backfill_private.counted_days(
  p_target text, p_from timestamptz, p_until timestamptz, p_due timestamptz
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set timezone = 'UTC'
as $$
declare
  v_days jsonb;
begin
  begin
    set local transaction_read_only = on;
    execute backfill_private.days_sql(p_target) into v_days using p_from, p_until, p_due;
  exception when read_only_sql_transaction then
    raise exception using
      errcode = 'read_only_sql_transaction',
      message = format(
        '%s writes while it is counted (%s). Take the write out of the view and of what it calls',
        backfill_private.standing_view(p_target), sqlerrm),
      hint = 'backfill watch after that';
  end;
  return v_days;
end
$$;

-- Keep what was counted of a range of days, in place of what was known of them.
--
-- p_from, p_below  the first day, and the first that is too late
-- returns          how many sessions they have
create function backfill_private.keep_days(
  p_target text, p_look bigint, p_from date, p_below date, p_due timestamptz
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_days jsonb := backfill_private.counted_days(
    p_target,
    greatest(p_from::timestamptz, backfill_private.first_moment()),
    least(p_below::timestamptz, backfill_private.after_all_moments()),
    p_due);
begin
  delete from public.backfill_coverage_history
  where target = p_target
    and day >= p_from
    and day < p_below;
  insert into public.backfill_coverage_history (
    target, day, wanted, there, missing, not_due, lacks, left_out, oldest_missing_at, looked_at, look)
  select
    p_target, d.day, d.wanted, d.there, d.missing, d.not_due, d.lacks, d.left_out, d.oldest_missing_at,
    backfill_private.clock(), p_look
  from jsonb_to_recordset(v_days) as d (
    day date, wanted bigint, there bigint, missing bigint, not_due bigint, lacks jsonb, left_out jsonb,
    oldest_missing_at timestamptz);
  return (select coalesce(sum((d ->> 'selected')::bigint), 0)::bigint from jsonb_array_elements(v_days) as d);
end
$$;

-- The sessions that lack something and have a date that no plan takes. No level judges them: nobody could reach it.
--
-- returns  [{reason, sessions}]
create function backfill_private.counted_undated(p_target text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object('reason', r.reason, 'sessions', r.sessions) order by r.reason), '[]')
  from (
    select d.excluded as reason, count(*) as sessions
    from unnest(backfill_private.detected(p_target, null, null)) as d
    group by d.excluded
  ) as r
$$;

-- from sql/75_watch/heal.sql
-- Heal: the run that `backfill heal` works on, one per target. Two heals at once, or one after a crash, get the same.

-- The newest run that heal asked for, by target. The run stands in backfill_runs once it is opened.
create table backfill_private.heals (
  target text primary key,
  run_id uuid not null default gen_random_uuid(),
  request jsonb not null
);

-- The size of a run that the standing approval which counts can cover: of its sessions a run, of what is left of the
-- day, of its calls. If the day is used up, a whole run waits for the next. Null: no standing approval counts.
create function backfill_private.heal_limit(p_rule public.backfill_standing)
returns integer
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case when p_rule.standing_id is not null then
    greatest(1, least(
      p_rule.max_sessions,
      nullif(greatest(p_rule.max_per_day - backfill_private.approved_today(p_rule.target), 0), 0),
      p_rule.max_calls / (
        select count(*) from public.backfill_targets as t where t.target = p_rule.target)))::integer end
$$;

-- What heal asks for: everything from the oldest day on that lacked something at the last look, or whose sessions still
-- have time, as far and as fast as the standing approval that counts allows. To wait until their time is over would be
-- to miss the level each time. Null: there is no such day.
create function backfill_private.heal_request(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'target', p_target,
    'since', w.since,
    'limit', backfill_private.heal_limit(r),
    'throttle_per_minute', coalesce(r.throttle_per_minute, 20),
    'batch_size', least(r.throttle_per_minute, 5))
  from (
    select min(h.day)::text as since
    from public.backfill_coverage_history as h
    where h.target = p_target
      and (h.missing > 0 or h.not_due > 0)
  ) as w
  cross join backfill_private.rule_that_counts(p_target) as r
  where w.since is not null
$$;

-- How long a plan stands whose marks failed, or of sessions that were undone, so that a person can decide on it: half
-- of the time that the service level gives, and never less than an hour. So scorers that are well again are seen in
-- time, after few plans.
create function backfill_private.heal_patience(p_target text)
returns interval
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select greatest(coalesce(max(w.within), interval '6 hours') / 2, interval '1 hour')
  from public.backfill_watches as w
  where w.target = p_target
$$;

-- Why a run of heal that waits for a person is to be planned anew. Null: it is not.
--
-- Nobody can approve what is no longer as it was planned. A rule that a person approved meanwhile may cover a smaller
-- run. Marks are measured, and another plan may find scorers well again. After one of sessions that were undone,
-- another may find others.
create function backfill_private.heal_anew(p_run public.backfill_runs)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing := backfill_private.rule_that_counts(p_run.target);
begin
  return case
    when backfill_private.compute_digest(p_run.run_id) <> p_run.digest then backfill_private.what_changed(p_run)
    when v_rule.standing_id is null then null
    when v_rule.approved_at > p_run.created_at and backfill_private.standing_fault(v_rule, p_run) is not null
      then format('%s was approved since', backfill_private.standing_name(v_rule.standing_id))
    when p_run.sealed_at <= backfill_private.clock() - backfill_private.heal_patience(p_run.target)
      then coalesce(
        backfill_private.marks_fault(v_rule.marks, p_run.plan -> 'checks'),
        backfill_private.undone_fault(v_rule, p_run))
  end;
end
$$;

-- Is a run of heal over, so that the next one is asked for?
create function backfill_private.heal_is_over(p_run public.backfill_runs)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_anew text := case p_run.state when 'awaiting_approval' then backfill_private.heal_anew(p_run) end;
begin
  if v_anew is not null then
    perform backfill_private.halt('cancel', p_run.run_id, left('planned anew: ' || v_anew, 500));
    return true;
  end if;
  return p_run.state not in ('planning', 'awaiting_approval', 'approved', 'running', 'paused');
end
$$;

-- The sessions that heal leaves to others for now, with the reason.
create function backfill_private.not_for_heal(p_target text)
returns table (session_id text, reason text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with recent as (
    select r.run_id
    from public.backfill_runs as r
    where r.target = p_target
      and r.created_at > backfill_private.clock() - interval '1 day'
  ), failed as (
    select i.run_id, i.session_id
    from recent
    join public.backfill_items as i using (run_id)
    where i.state = 'failed'
    union
    select s.run_id, s.session_id
    from recent
    join backfill_private.rehearsals as s using (run_id)
    where s.seen ->> 'error' is not null
  )
  select f.session_id, 'it failed twice within a day, and is tried again after that'
  from failed as f
  group by f.session_id
  having count(*) > 1
  union all
  select u.session_id, format('it was undone since %s was approved, so a person decides on it',
    backfill_private.standing_name(r.standing_id))
  from backfill_private.rule_that_counts(p_target) as r
  cross join backfill_private.undone_since(p_target, r.approved_at) as u
$$;

-- Leave these out of a run of heal, if there is anything else to score. Else sessions that always fail would take
-- the places of others in each run, and fail each rehearsal. One that was undone would let all others wait for a
-- person.
create function backfill_private.leave_to_others(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_reasons jsonb;
begin
  if not exists (select from backfill_private.heals as h where h.run_id = p_run.run_id) then
    return;
  end if;
  select coalesce(jsonb_object_agg(n.session_id, n.reason), '{}') into v_reasons
  from backfill_private.not_for_heal(p_run.target) as n;
  update backfill_private.findings as f
  set excluded = v_reasons ->> f.session_id
  where f.run_id = p_run.run_id
    and f.excluded is null
    and f.components <> '{}'
    and v_reasons ? f.session_id
    and exists (
      select from backfill_private.findings as other
      where other.run_id = p_run.run_id
        and other.excluded is null
        and other.components <> '{}'
        and not v_reasons ? other.session_id);
end
$$;

-- The run that heal works on.
--
-- returns  {target, run_id, state, request}. state null: it is to be opened with this request. run_id null: nothing is
--          missing
-- raises   OB010 not allowed, OB013 no such target
create function backfill_private.heal_next(p_target text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := backfill_private.check_target(p_target);
  v_request jsonb;
  v_heal backfill_private.heals;
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('plan');
  v_request := backfill_private.heal_request(v_target);
  insert into backfill_private.heals (target, request)
  values (v_target, coalesce(v_request, '{}'))
  on conflict (target) do nothing;
  select * into v_heal from backfill_private.heals as h where h.target = v_target for update;
  select * into v_run from public.backfill_runs as r where r.run_id = v_heal.run_id;
  if found then
    v_run := backfill_private.caught_up_run(v_heal.run_id);
    if not backfill_private.heal_is_over(v_run) then
      return jsonb_build_object(
        'target', v_target, 'run_id', v_run.run_id, 'state', v_run.state, 'request', v_heal.request);
    end if;
    v_heal.run_id := gen_random_uuid();
  end if;
  update backfill_private.heals
  set run_id = v_heal.run_id,
      request = coalesce(v_request, '{}')
  where target = v_target;
  return jsonb_build_object(
    'target', v_target,
    'run_id', case when v_request is not null then v_heal.run_id end,
    'state', null,
    'request', coalesce(v_request, '{}'));
end
$$;

-- from sql/75_watch/level.sql
-- The service level: keep what a target declares, judge what a look has counted, open and close alerts.

-- Keep the level of a declaration. Runs do not depend on it, so a new level leaves their digests as they are.
--
-- p_watch  {min_coverage, within_s, over_s: null for all dates}. Null: none is declared
create function backfill_private.keep_level(p_target text, p_watch jsonb)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into public.backfill_watches (target, min_coverage, within, over)
  values (
    p_target,
    (p_watch ->> 'min_coverage')::numeric,
    make_interval(secs => (p_watch ->> 'within_s')::double precision),
    make_interval(secs => (p_watch ->> 'over_s')::double precision))
  on conflict (target) do update
  set (min_coverage, within, over) = (excluded.min_coverage, excluded.within, excluded.over)
$$;

-- Forget the watch of a target that is taken away, and close its alert. What its days lacked stays.
create function backfill_private.forget_watch(p_target text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.close_alert(p_target, 'the target was removed');
  delete from public.backfill_watches where target = p_target;
end
$$;

-- How many more sessions must have their rows to reach a level. Null: no level.
create function backfill_private.short_by(p_min_coverage numeric, p_wanted bigint, p_there bigint)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when p_min_coverage is not null then greatest(ceil(p_min_coverage * p_wanted)::bigint - p_there, 0) end
$$;

-- Coverage as it is shown. Never rounded up: what misses a level does not look as if it reached it.
create function backfill_private.share(p_there bigint, p_wanted bigint)
returns numeric
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select trunc(p_there::numeric / nullif(p_wanted, 0), 4)
$$;

-- Close the open alert of a target, if there is one.
--
-- returns  its number, else null
create function backfill_private.close_alert(p_target text, p_because text)
returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
  update public.backfill_alerts
  -- A clock that was set back closes nothing before it was opened.
  set closed_at = greatest(backfill_private.clock(), opened_at),
      closed_because = p_because
  where target = p_target
    and closed_at is null
  returning alert_id
$$;

-- The sessions by which a target is judged: since which day, how many are wanted and there. By default those of all
-- dates, or those of the last 30 days if these do worse: a long history would hide a new outage for weeks. By
-- themselves they count only if they are so many that the level lets one be missing.
--
-- since  null: all dates
create function backfill_private.judged(p_watch public.backfill_watches)
returns table (since date, wanted bigint, there bigint)
language sql
volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select r.since, coalesce(sum(h.wanted), 0)::bigint, coalesce(sum(h.there), 0)::bigint
  from (
    select (backfill_private.clock() - coalesce(p_watch.over, interval '30 days'))::date as since
    union all
    select null
    where p_watch.over is null
  ) as r
  left join public.backfill_coverage_history as h
    on h.target = p_watch.target
    and (r.since is null or h.day >= r.since)
  group by r.since
  having r.since is null
    or p_watch.over is not null
    or (1 - p_watch.min_coverage) * sum(h.wanted) >= 1
  order by
    -- If all dates are a breach, their counts say how much there is to do.
    (r.since is null and sum(h.there) < p_watch.min_coverage * sum(h.wanted)) is true desc,
    sum(h.there) / nullif(sum(h.wanted), 0) nulls last,
    r.since nulls first
  limit 1
$$;

-- Judge what is counted of a target, once a look is over, and open or close its alert.
--
-- returns  what happened to the alert: opened or closed. Null: nothing
create function backfill_private.judge(p_target text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches;
  v_alert bigint;
begin
  update public.backfill_watches as w
  set looked_at = backfill_private.clock(),
      (judged_since, wanted, there) = (select j.since, j.wanted, j.there from backfill_private.judged(w) as j),
      oldest_missing_at = (
        select min(h.oldest_missing_at)
        from public.backfill_coverage_history as h
        where h.target = w.target
          and (w.over is null or h.day >= ((backfill_private.clock() - w.over) at time zone 'UTC')::date))
  where w.target = p_target
  returning * into strict v_watch;
  if v_watch.wanted = 0 and exists (select from backfill_private.unmatched_values(p_target)) then
    update public.backfill_watches
    set fault = 'no row has a value that the declaration selects: see which: backfill missing'
    where target = p_target;
  end if;
  if coalesce(backfill_private.short_by(v_watch.min_coverage, v_watch.wanted, v_watch.there), 0) = 0 then
    v_alert := backfill_private.close_alert(p_target, case
      when v_watch.min_coverage is null then 'no service level is declared any more'
      else 'the service level is reached'
    end);
    return case when v_alert is not null then 'closed' end;
  end if;
  insert into public.backfill_alerts (
    target, opened_at, coverage, min_coverage, within, missing, short_by, oldest_missing_at)
  values (
    p_target, v_watch.looked_at, backfill_private.share(v_watch.there, v_watch.wanted), v_watch.min_coverage,
    v_watch.within, v_watch.wanted - v_watch.there,
    backfill_private.short_by(v_watch.min_coverage, v_watch.wanted, v_watch.there), v_watch.oldest_missing_at)
  on conflict (target) where closed_at is null do nothing
  returning alert_id into v_alert;
  return case when v_alert is not null then 'opened' end;
end
$$;

-- from sql/75_watch/look.sql
-- A look: count the days whose sessions can still change, or all days, in parts that are bounded in time. What is not
-- reached in one call, the next goes on with.

-- The first day whose sessions can still change by themselves: they may be completed, scored or deleted some days after
-- their date. Older days are looked at if they lacked something, and in a look at all days.
create function backfill_private.first_recent_day(p_within interval)
returns date
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select ((backfill_private.clock() - coalesce(p_within, interval '0') - interval '7 days') at time zone 'UTC')::date
$$;

-- The older days that runs may have changed since the last look: they scored them, or took them back. The newest first.
--
-- p_first  the first recent day
create function backfill_private.run_days(p_watch public.backfill_watches, p_first date)
returns date[]
language sql
volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select array(
    select i.session_at::date
    from public.backfill_runs as r
    cross join lateral (
      select max(n.at) as at from public.backfill_events as n where n.run_id = r.run_id and n.seq >= r.audit_count
    ) as e
    join public.backfill_items as i on i.run_id = r.run_id
    where r.target = p_watch.target
      and r.started_at is not null
      -- A clock that was set back does not tell.
      and (e.at >= p_watch.begun_at or p_watch.begun_at > backfill_private.clock())
      and i.session_at::date < p_first
    group by 1
    order by 1 desc)
$$;

-- The older days that lacked something, and that a look has not counted. Those that nobody looked at for the longest
-- time come first.
create function backfill_private.lacking_days(p_watch public.backfill_watches, p_first date)
returns date[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select h.day
    from public.backfill_coverage_history as h
    where h.target = p_watch.target
      and h.day < p_first
      and h.look < p_watch.look
      and (h.missing > 0 or h.not_due > 0)
    order by h.looked_at, h.day desc)
$$;

-- The look of a target that is under way, else a new one. Its row is locked.
--
-- p_all  all days are asked for. They are counted too if they never were as the target is declared now
create function backfill_private.look_begun(p_target text, p_all boolean)
returns public.backfill_watches
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches;
  v_counted_as text := backfill_private.counted_as(p_target);
  v_reach text;
begin
  select * into strict v_watch from public.backfill_watches where target = p_target;
  v_reach := case when p_all or v_watch.whole_as is distinct from v_counted_as then 'all' else 'recent' end;
  if v_watch.is_over
    or v_watch.counted_as is distinct from v_counted_as
    or v_reach = 'all' and v_watch.reach <> 'all' then
    update public.backfill_watches
    set look = look + 1,
        reach = v_reach,
        is_over = false,
        begun_at = backfill_private.clock(),
        counted_as = v_counted_as,
        days = case
          when v_reach = 'all' then '{}'
          else backfill_private.run_days(v_watch, backfill_private.first_recent_day(v_watch.within))
        end,
        below = null
    where target = p_target
    returning * into v_watch;
  end if;
  return v_watch;
end
$$;

-- Count days, one after another.
--
-- p_end    no day is begun when this would be passed. One is always counted
-- returns  the days that are left
create function backfill_private.keep_each(
  p_watch public.backfill_watches, p_days date[], p_due timestamptz, p_end timestamptz
)
returns date[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_days date[] := p_days;
  v_began timestamptz;
begin
  while cardinality(v_days) > 0 loop
    v_began := backfill_private.clock();
    perform backfill_private.keep_days(p_watch.target, p_watch.look, v_days[1], v_days[1] + 1, p_due);
    v_days := v_days[2:];
    exit when backfill_private.clock() + (backfill_private.clock() - v_began) >= p_end;
  end loop;
  return v_days;
end
$$;

-- Count the older days that can have changed. Those of runs are all counted before the look is over. Of the others
-- that lacked something, what is not reached is counted in one of the next looks: nothing of ours wrote there.
--
-- p_first  the first day that is counted already
-- p_end    see keep_each
-- returns  whether the look is over
create function backfill_private.look_at_older(
  p_watch public.backfill_watches, p_first date, p_due timestamptz, p_end timestamptz
)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_days date[] := backfill_private.keep_each(p_watch, p_watch.days, p_due, p_end);
begin
  update public.backfill_watches set days = v_days where target = p_watch.target;
  if v_days = '{}' and (p_watch.days = '{}' or backfill_private.clock() < p_end) then
    perform backfill_private.keep_each(p_watch, backfill_private.lacking_days(p_watch, p_first), p_due, p_end);
  end if;
  return v_days = '{}';
end
$$;

-- The day of the newest session before a day. Null if there is none.
create function backfill_private.session_day_before(p_target text, p_day date)
returns date
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set timezone = 'UTC'
as $$
declare
  v_at timestamptz;
begin
  execute format(
    'select g.created_at from %s as g where g.created_at >= $1 and g.created_at < $2
     order by g.created_at desc limit 1',
    backfill_private.standing_view(p_target)::regclass)
  into v_at
  using backfill_private.first_moment(), p_day::timestamptz;
  return v_at::date;
end
$$;

-- Count the next span of days, back from p_watch.below. The span grows and shrinks as the windows of a plan do.
--
-- returns  the watch, with below null when no day is left
create function backfill_private.next_span(p_watch public.backfill_watches, p_due timestamptz)
returns public.backfill_watches
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches := p_watch;
  v_aim interval := backfill_private.window_aim(p_watch.target);
  v_began timestamptz := backfill_private.clock();
  v_took interval;
begin
  if backfill_private.keep_days(
    p_watch.target, p_watch.look, p_watch.below - p_watch.span, p_watch.below, p_due) > 0
  then
    v_watch.below := p_watch.below - p_watch.span;
  else
    v_watch.below := backfill_private.session_day_before(p_watch.target, p_watch.below - p_watch.span) + 1;
  end if;
  v_took := backfill_private.clock() - v_began;
  v_watch.span := case
    when v_took > v_aim then greatest(p_watch.span / 2, 1)
    when v_took < v_aim / 2 then least(p_watch.span * 2, 3650)
    else p_watch.span
  end;
  return v_watch;
exception when query_canceled then
  if p_watch.span = 1 then
    raise;
  end if;
  v_watch := p_watch;
  v_watch.span := p_watch.span / 2;
  return v_watch;
end
$$;

-- Count all days before those that are counted already.
--
-- p_first  the first day that is counted already
-- p_end    no span is begun when this would be passed. One is always counted
-- returns  whether the look is over
create function backfill_private.look_at_all(
  p_watch public.backfill_watches, p_first date, p_due timestamptz, p_end timestamptz
)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches := p_watch;
  v_began timestamptz;
begin
  v_watch.below := least(coalesce(p_watch.below, p_first), p_first);
  loop
    v_began := backfill_private.clock();
    v_watch := backfill_private.next_span(v_watch, p_due);
    exit when v_watch.below is null
      or backfill_private.clock() + (backfill_private.clock() - v_began) >= p_end;
  end loop;
  update public.backfill_watches set below = v_watch.below, span = v_watch.span where target = p_watch.target;
  if v_watch.below is not null then
    return false;
  end if;
  -- Days that no session has any more.
  delete from public.backfill_coverage_history
  where target = p_watch.target
    and look < p_watch.look;
  update public.backfill_watches
  set whole_as = counted_as,
      undated = backfill_private.counted_undated(target)
  where target = p_watch.target;
  return true;
end
$$;

-- Look at a target, as far as the time allows.
--
-- p_all     all days, not only those that can have changed
-- p_began   when the call began
-- p_budget  no further part is begun when this would be passed. One is always done. Null: as long as is usual
-- returns   whether the look is over
create function backfill_private.look(p_target text, p_all boolean, p_began timestamptz, p_budget interval)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_watch public.backfill_watches := backfill_private.look_begun(p_target, p_all);
  v_first date := backfill_private.first_recent_day(v_watch.within);
  v_due timestamptz := backfill_private.clock() - coalesce(v_watch.within, interval '0');
  v_end timestamptz := p_began
    + coalesce(p_budget, case v_watch.reach when 'all' then interval '20 s' else interval '1.5 s' end);
  v_is_over boolean;
begin
  perform backfill_private.keep_days(
    p_target, v_watch.look, v_first, (backfill_private.after_all_moments() at time zone 'UTC')::date, v_due);
  v_is_over := case v_watch.reach
    when 'all' then backfill_private.look_at_all(v_watch, v_first, v_due, v_end)
    else backfill_private.look_at_older(v_watch, v_first, v_due, v_end)
  end;
  update public.backfill_watches set is_over = v_is_over, fault = null where target = p_target;
  return v_is_over;
end
$$;

-- from sql/75_watch/status.sql
-- What the watch says of each target: a view for the dashboard, and the function behind backfill_watch.

create view public.backfill_watch_status with (security_invoker = true) as
select
  w.target,
  case
    when a.alert_id is not null then 'breached'
    when x.unknown_because is not null then 'unknown'
    else 'ok'
  end as status,
  backfill_private.share(w.there, w.wanted) as coverage,
  w.min_coverage,
  w.within,
  w.over,
  a.opened_at as breached_since,
  w.judged_since,
  w.wanted,
  w.wanted - w.there as missing,
  backfill_private.short_by(w.min_coverage, w.wanted, w.there) as short_by,
  w.oldest_missing_at,
  w.undated,
  w.looked_at,
  x.unlooked_hours,
  a.alert_id,
  case
    when a.alert_id is not null
    then concat_ws(
      '; ',
      format('%s of %s%s lack something', w.wanted - w.there, w.wanted, ' since ' || w.judged_since),
      x.unknown_because)
    else x.unknown_because
  end as why
from public.backfill_watches as w
left join public.backfill_alerts as a on a.target = w.target and a.closed_at is null
cross join lateral (
  select floor(greatest(extract(epoch from backfill_private.clock() - w.looked_at), 0) / 3600)::integer
    as unlooked_hours
) as h
cross join lateral (
  select
    h.unlooked_hours,
    case
      when w.min_coverage is null then 'no service level is declared: [watch] in the file of the target'
      when w.fault is not null then w.fault
      when w.looked_at is null and not w.is_over then 'not all days are counted yet: look again'
      when w.looked_at is null then 'nobody has looked yet'
      when w.whole_as is distinct from w.counted_as then 'not all days are counted by the new declaration: look again'
      when h.unlooked_hours > 24 then format('nobody has looked for %s hours', h.unlooked_hours)
    end as unknown_because
) as x;

comment on view public.backfill_watch_status is
  'Whether each target keeps its service level, as the last look found it.';
comment on column public.backfill_watch_status.target is 'The target.';
comment on column public.backfill_watch_status.status is
  'ok, breached or unknown. Unknown: no level is declared, or nobody has looked for a day.';
comment on column public.backfill_watch_status.coverage is
  'Share of the judged sessions that lack nothing, 0 to 1, rounded down. Null if there are none.';
comment on column public.backfill_watch_status.min_coverage is 'The share that is declared.';
comment on column public.backfill_watch_status.within is 'How long after its date a session may lack rows.';
comment on column public.backfill_watch_status.over is 
  'How many last days are judged. Null: all dates, and the last 30 days by themselves.';
comment on column public.backfill_watch_status.breached_since is 'When a look found the level breached.';
comment on column public.backfill_watch_status.judged_since is
  'The first day of the sessions that are judged. Null: those of all dates.';
comment on column public.backfill_watch_status.wanted is
  'Sessions that are judged: their time is over, and they can be scored.';
comment on column public.backfill_watch_status.missing is 'Of these, sessions that lack something.';
comment on column public.backfill_watch_status.short_by is
  'How many of these must have their rows, to reach the level.';
comment on column public.backfill_watch_status.oldest_missing_at is
  'The date of the oldest session that lacks something.';
comment on column public.backfill_watch_status.undated is
  'Sessions that lack something and have no date that a plan takes: [{reason, sessions}]. They are not judged.';
comment on column public.backfill_watch_status.looked_at is 'When somebody last looked.';
comment on column public.backfill_watch_status.unlooked_hours is 'For how many hours nobody has looked.';
comment on column public.backfill_watch_status.alert_id is 'The open breach, in backfill_alerts.';
comment on column public.backfill_watch_status.why is 'Why it is breached or unknown.';

-- Look at one target and judge it. What cannot be looked at is told, and keeps nobody from looking at the others.
--
-- returns  its row of backfill_watch_status as JSON, with is_over: whether the look is, change: opened, closed or null
create function backfill_private.watch_one(p_target text, p_all boolean, p_began timestamptz, p_budget interval)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_is_over boolean := true;
  v_change text;
begin
  insert into public.backfill_watches (target) values (p_target) on conflict do nothing;
  -- Two looks of one target come one after another. Who waits too long is told that, and not that nobody could look.
  perform from public.backfill_watches as w where w.target = p_target for update;
  begin
    v_is_over := backfill_private.look(p_target, p_all, p_began, p_budget);
    if v_is_over then
      v_change := backfill_private.judge(p_target);
    end if;
  exception when others then
    update public.backfill_watches
    set fault = 'nobody could look: ' || backfill_private.kept_message(sqlstate, sqlerrm)
    where target = p_target;
  end;
  return (
    select to_jsonb(s) - array['within', 'over'] || jsonb_build_object(
      'within_s', extract(epoch from s.within)::bigint,
      'over_s', extract(epoch from s.over)::bigint,
      'is_over', v_is_over,
      'change', v_change)
    from public.backfill_watch_status as s
    where s.target = p_target);
end
$$;

-- Look at a target, or at all, as far as the time allows.
--
-- p_all        all days, in parts. Call again until is_over
-- p_budget_ms  see look
-- returns      {targets: [see watch_one]}
-- raises       OB010 not allowed, OB013 no such target or a bound
create function backfill_private.watch(p_target text, p_all boolean, p_budget_ms integer)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_began timestamptz := backfill_private.clock();
  v_budget interval := make_interval(secs => (p_budget_ms / 1000.0)::double precision);
  v_told jsonb := '[]'::jsonb;
  v_target text;
begin
  perform backfill_private.authorize('watch');
  if p_budget_ms is not null then
    perform backfill_private.check_bounds(jsonb_build_object('a look', p_budget_ms));
  end if;
  if p_target is not null or not exists (select from backfill_private.sources) then
    perform backfill_private.check_target(p_target);
  end if;
  perform set_config('backfill.request', '', true);
  for v_target in
    select s.target
    from backfill_private.sources as s
    where s.target = coalesce(p_target, s.target)
    order by s.target
  loop
    v_told := v_told || backfill_private.watch_one(v_target, coalesce(p_all, false), v_began, v_budget);
  end loop;
  return jsonb_build_object('targets', v_told);
end
$$;

-- from sql/80_undo/_tables.sql
-- Tables of undo: previews and how far each was carried out.

create table backfill_private.undos (
  undo_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id),
  -- Null until the look at every row in scope has ended.
  digest text,
  scope jsonb not null,
  state text not null default 'previewed' check (state in ('previewed', 'confirmed', 'finished')),
  previewed_at timestamptz not null default backfill_private.clock(),
  -- The Auth user who asked for it. Null: the service key or the SQL editor.
  asked_by uuid,
  -- Rows that it may write: those of the preview, its conflicts included.
  rows_at_stake bigint,
  approved_by text,
  approver_id uuid,
  approved_via text,
  approved_until timestamptz,
  reason text,
  confirmed_by text,
  confirmed_at timestamptz,
  finished_at timestamptz,
  -- The look, which the preview makes and which is made again before anything is written: how far it is, a hash over
  -- what it saw, and the figures. checked_events: how many events the run had when the second look began.
  -- checked_at: when the second look last went on.
  looked_ordinal integer not null default 0,
  looked_hash text not null default '',
  effect jsonb not null default '{}',
  -- When the preview began, as a snapshot and by the run's events. Null if it found conflicts.
  seen pg_snapshot,
  seen_events bigint,
  checked_events bigint,
  checked_at timestamptz,
  last_ordinal integer not null default 0,
  -- The sessions in scope that have rows, how many of them are done, and what became of their rows.
  sessions_total bigint,
  sessions_seen bigint not null default 0,
  done jsonb not null default '{"deletes": {}, "restores": {}, "sessions": 0, "conflicts_total": 0}'
);

create index backfill_undos_runs on backfill_private.undos (run_id, undo_id);

-- The rows that an undo leaves: as its look sees it, and, once it was confirmed, as it came. There may be as many as
-- the run wrote, so nobody is told all at once.
create table backfill_private.conflicts (
  conflict_id bigint generated always as identity primary key,
  undo_id bigint not null references backfill_private.undos (undo_id) on delete cascade,
  is_left boolean not null,
  session_id text not null,
  table_name text not null,
  row_key jsonb not null,
  reason text not null
);

create index backfill_conflicts_undos on backfill_private.conflicts (undo_id, is_left, conflict_id);

-- A written row. A row that was written several times goes back to before the first write.
--
-- first_before  the image of what the row was before, as the table has its columns now
-- columns       names of the columns that the image has
-- has_before    did it exist before
-- is_forged     its image is not the one that before_hash is of
-- after_hash    what we left, of this shape, and a short hash per column. Null if we deleted it
-- receipts      the receipts that an undo of the row takes back
-- last_receipt  the newest of them, which stands for the row
create type backfill_private.undoable as (
  ordinal integer,
  session_id text,
  component text,
  table_name text,
  row_key jsonb,
  first_before text,
  columns text[],
  has_before boolean,
  is_forged boolean,
  shape bytea,
  after_hash bytea,
  after_columns bigint[],
  receipts bigint[],
  last_receipt bigint,
  is_inferred boolean,
  attempt integer
);

-- The rows of one shape that were written to a table, for SQL over u, a row of unnest($1), and t, a row of the table.
--
-- picks       is u a row of this table and shape
-- joins       is t the row that u names
-- is_as_left  is t as the run left it, see backfill_private.as_left_sql
create type backfill_private.undo_table as (
  tab regclass,
  shape bytea,
  picks text,
  joins text,
  is_as_left text
);

-- How an undo's rows are written.
--
-- path      the search path under which the user's code runs, see backfill_private.undo_path
-- limit_at  when the time limit of the statement comes
-- is_alone  only one session is undone by this statement: a limit that it meets is met by any statement
-- ends_at   no session is begun from then on, except the first. Null: any time
-- is_begun  a session is undone, and its rows are locked
-- undo_id   the undo, which its receipts name. Null in a rehearsal
create type backfill_private.undo_terms as (
  path text,
  limit_at timestamptz,
  is_alone boolean,
  ends_at timestamptz,
  is_begun boolean,
  undo_id bigint
);

-- from sql/80_undo/approval.sql
-- Approval of an undo. If the policy is second_person, a large undo needs an approver who did not ask for it.
--
-- Parts count together, or a large undo would go in small ones: those of one run for ever, those of any run in 24
-- hours.

-- The newest preview of a run, locked.
--
-- raises  OB019 this is not its digest
create function backfill_private.newest_undo(p_run_id uuid, p_digest text)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
begin
  select * into v_undo
  from backfill_private.undos
  where run_id = p_run_id
    and digest is not null
  order by undo_id desc
  limit 1
  for update;
  if v_undo.undo_id is null or v_undo.digest is distinct from p_digest then
    perform backfill_private.refuse('OB019',
      format('%s is not the digest of the newest preview%s',
        backfill_private.told_apart(p_digest, v_undo.digest),
        coalesce(', which is ' || backfill_private.told_apart(v_undo.digest, p_digest), '')),
      format('backfill rollback %s', p_run_id));
  end if;
  return v_undo;
end
$$;

-- How many rows an undo may write, given its effect. Conflicts count: anyone who may write such a row can put it back
-- while the undo goes on.
create function backfill_private.rows_at_stake(p_effect jsonb)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(counted.value::bigint), 0)::bigint + coalesce((p_effect ->> 'conflicts_total')::bigint, 0)
  from (
    select * from jsonb_each_text(p_effect -> 'deletes')
    union all
    select * from jsonb_each_text(p_effect -> 'restores')
  ) as counted
$$;

-- Rows that other undos were confirmed for without an approval: those of the same run, those of any run in 24 hours.
create function backfill_private.rows_unapproved(p_undo backfill_private.undos)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(u.rows_at_stake), 0)::bigint
  from backfill_private.undos as u
  where u.undo_id <> p_undo.undo_id
    and u.state <> 'previewed'
    and u.approved_by is null
    and (u.run_id = p_undo.run_id or u.confirmed_at > backfill_private.clock() - interval '24 hours')
$$;

-- Does the policy ask for an approval of this undo? Without settings it does.
create function backfill_private.needs_approval(p_undo backfill_private.undos)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select s.undo_policy <> 'any'
      and p_undo.rows_at_stake + backfill_private.rows_unapproved(p_undo) > s.undo_policy_rows
    from public.backfill_settings as s
  ), true)
$$;

-- The approval of this undo, or of another preview of just the same rows, while it is valid. None if there is none.
create function backfill_private.undo_approval(p_undo backfill_private.undos)
returns setof backfill_private.undos
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select u.*
  from backfill_private.undos as u
  where u.run_id = p_undo.run_id
    and u.digest = p_undo.digest
    and u.approved_until > backfill_private.clock()
  order by u.undo_id desc
  limit 1
$$;

-- An undo that may be confirmed, with its approval. Under a policy that counts rows the settings are locked, so that
-- parts that are confirmed at the same time are counted one after the other.
--
-- raises  OB003 the policy asks for an approval, and there is none
create function backfill_private.approved_undo(p_undo backfill_private.undos)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_approval backfill_private.undos;
  v_caller record;
begin
  perform from public.backfill_settings where undo_policy <> 'any' for no key update;
  select * into v_approval from backfill_private.undo_approval(p_undo);
  select * into v_caller from backfill_private.caller();
  if v_approval.undo_id is not null then
    p_undo.approved_by := v_approval.approved_by;
    p_undo.approver_id := v_approval.approver_id;
    p_undo.approved_via := v_approval.approved_via;
  elsif v_caller.kind = 'postgres' then
    p_undo.approved_by := v_caller.label;
    p_undo.approved_via := 'sql';
  elsif backfill_private.needs_approval(p_undo) then
    perform backfill_private.refuse('OB003',
      format('an approver who did not ask for it has to confirm this undo of %s',
        backfill_private.counted(p_undo.rows_at_stake, 'row')),
      format('as an approver: backfill login, then backfill rollback %s --confirm %s --reason "…", '
        'or in the SQL editor: select public.backfill_approve_undo(''%1$s'', ''%2$s'', ''your name'');',
        p_undo.run_id, p_undo.digest));
  end if;
  return p_undo;
end
$$;

-- Approve an undo that was previewed. Who carries it out confirms it afterwards. Who may not approve is refused before
-- anything is locked.
--
-- returns  {run_id, digest, rows, approver, via, valid_until}
-- raises   OB001 no such run, OB002 it was confirmed already, OB005 the caller may not, OB013 no name or no settings,
--          OB019 another digest
create function backfill_private.approve_undo(p_run_id uuid, p_digest text, p_approver text, p_note text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
  v_caller record;
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'the digest', p_digest, 'the approver''s name', p_approver, 'the note', p_note));
  if not exists (select from public.backfill_runs as r where r.run_id = p_run_id) then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  end if;
  perform backfill_private.check_name(p_approver);
  perform backfill_private.check_approver(
    (select case approval_policy when 'postgres_only' then approval_policy end from public.backfill_settings),
    array(
      select u.asked_by
      from backfill_private.undos as u
      where u.run_id = p_run_id
        and u.digest = p_digest),
    'undo',
    format('in the SQL editor: select public.backfill_approve_undo(%L, %L, ''your name'');', p_run_id, p_digest));
  perform backfill_private.locked_run(p_run_id);
  v_undo := backfill_private.newest_undo(p_run_id, p_digest);
  if v_undo.state <> 'previewed' then
    perform backfill_private.refuse('OB002', 'this undo has been confirmed already',
      format('backfill status %s', p_run_id));
  end if;
  select * into v_caller from backfill_private.caller();
  update backfill_private.undos
  set approved_by = coalesce(
        (select u.email from auth.users as u where u.id = v_caller.user_id),
        nullif(btrim(p_approver), ''),
        v_caller.label),
      approver_id = v_caller.user_id,
      approved_via = case v_caller.kind when 'user' then 'auth' else 'sql' end,
      approved_until = backfill_private.clock() + (backfill_private.settings()).approval_ttl
  where undo_id = v_undo.undo_id
  returning * into v_undo;
  perform backfill_private.record(p_run_id, 'undo_approved', jsonb_build_object(
    'digest', p_digest,
    'rows', v_undo.rows_at_stake,
    'approver', v_undo.approved_by,
    'via', v_undo.approved_via,
    'note', p_note));
  return jsonb_build_object(
    'run_id', p_run_id,
    'digest', p_digest,
    'rows', v_undo.rows_at_stake,
    'approver', v_undo.approved_by,
    'via', v_undo.approved_via,
    'valid_until', v_undo.approved_until);
end
$$;

-- from sql/80_undo/callers_path.sql
-- The caller of an undo: what of theirs reaches the user's code that an undo sets off with its owner's rights.

-- The search path under which an undo writes: the caller's, without schemas in which somebody without the owner's
-- rights could put a thing of their own in place of what the user's code means. For an undo writes with its owner's
-- rights, and so does every trigger that it sets off.
--
-- Temporary tables of such a caller are dropped: PostgreSQL would look for tables among them, whatever the path. Who
-- has put a trigger with a function of their own on some table is refused. The right TRIGGER and a function in pg_temp
-- are enough to make one, and older projects give TRIGGER to every API role.
-- raises  OB010 a trigger's function belongs to the caller
create function backfill_private.undo_path(p_search_path text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schemas name[];
begin
  perform set_config('search_path', p_search_path, true);
  v_schemas := pg_catalog.current_schemas(false);
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if not pg_has_role(session_user, current_user, 'member') then
    perform backfill_private.refuse_callers_triggers();
    if exists (select from pg_class as c where c.relnamespace = pg_my_temp_schema())
      or exists (select from pg_type as t where t.typnamespace = pg_my_temp_schema()) then
      discard temp;
    end if;
  end if;
  return concat_ws(', ', 'pg_catalog', (
    select string_agg(quote_ident(s.name), ', ' order by s.place)
    from unnest(v_schemas) with ordinality as s (name, place)
    join pg_namespace as n on n.nspname = s.name
    where n.nspname <> 'pg_catalog'
      and n.oid <> pg_my_temp_schema()
      and (pg_has_role(session_user, current_user, 'member') or not exists (
        select from (
          select c.relnamespace as schema, c.relowner as owner from pg_class as c
          union all
          select t.typnamespace, t.typowner from pg_type as t
          union all
          select p.pronamespace, p.proowner from pg_proc as p
          union all
          select o.oprnamespace, o.oprowner from pg_operator as o
        ) as made
        where made.schema = n.oid
          and pg_has_role(session_user, made.owner, 'member')))), 'pg_temp');
end
$$;

-- Refuse a caller who has put a trigger with a function of their own on some table.
--
-- raises  OB010 see undo_path
create function backfill_private.refuse_callers_triggers()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found record;
begin
  select t.tgname, t.tgrelid::regclass as tab, p.proowner::regrole as owner into v_found
  from pg_trigger as t
  join pg_proc as p on p.oid = t.tgfoid
  where not t.tgisinternal
    and pg_has_role(session_user, p.proowner, 'member')
    and not pg_has_role(session_user, current_user, 'member')
  limit 1;
  if found then
    perform backfill_private.refuse('OB010',
      format('trigger %I on %s runs a function of %s, which an undo would run with the rights of %s',
        v_found.tgname, v_found.tab, v_found.owner, current_user),
      format('drop trigger %I on %s', v_found.tgname, v_found.tab));
  end if;
end
$$;

-- from sql/80_undo/confirm.sql
-- Confirm an undo: exactly what the preview showed, piece by piece.

-- Go on with the quick check of an undo's rows by their age. If a row may have changed, the full look starts from the
-- first row.
create function backfill_private.undo_glance(p_undo backfill_private.undos, p_budget interval)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := backfill_private.clock() + p_budget;
  v_last integer := (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_undo.run_id);
begin
  loop
    if backfill_private.undo_is_as_seen(p_undo, backfill_private.undo_next(
      p_undo.run_id, p_undo.scope, p_undo.looked_ordinal, p_undo.looked_ordinal + 1000, null)) is not true then
      p_undo.seen := null;
      p_undo.looked_ordinal := 0;
      p_undo.looked_hash := '';
      p_undo.effect := '{}';
      exit;
    end if;
    p_undo.looked_ordinal := least(p_undo.looked_ordinal + 1000, v_last);
    exit when p_undo.looked_ordinal = v_last or backfill_private.clock() >= v_until;
  end loop;
  update backfill_private.undos as u
  set looked_ordinal = p_undo.looked_ordinal,
      looked_hash = p_undo.looked_hash,
      effect = p_undo.effect,
      seen = p_undo.seen,
      checked_events = p_undo.checked_events,
      checked_at = p_undo.checked_at
  where u.undo_id = p_undo.undo_id;
  return p_undo;
end
$$;

-- Look again before anything is written, for about two seconds per call: is everything as the preview saw it? Usually
-- the age of the rows is enough to tell.
--
-- The look starts again from the first row if the run has a new event, or if nobody continued it for five minutes: what
-- was seen then says little about now.
-- returns  the undo. It is still `previewed` if the next call has to continue the look
-- raises   OB019 the rows have changed since the preview
create function backfill_private.checked_undo(p_undo backfill_private.undos)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_events bigint := (backfill_private.run_now(p_undo.run_id)).audit_count;
begin
  if p_undo.checked_events is distinct from v_events
    or p_undo.checked_at < backfill_private.clock() - interval '5 min' then
    p_undo.looked_ordinal := 0;
    p_undo.checked_events := v_events;
    if p_undo.seen is null or p_undo.seen_events <> v_events then
      p_undo.seen := null;
      p_undo.looked_hash := '';
      p_undo.effect := '{}';
    end if;
  end if;
  p_undo.checked_at := backfill_private.clock();
  if p_undo.seen is not null then
    p_undo := backfill_private.undo_glance(p_undo, interval '2 s');
  end if;
  if p_undo.seen is null then
    p_undo := backfill_private.undo_look(p_undo, interval '2 s');
  end if;
  if backfill_private.undo_digest(p_undo) <> p_undo.digest then
    perform backfill_private.refuse('OB019', 'the rows have changed since the preview',
      format('backfill rollback %s', p_undo.run_id));
  end if;
  return p_undo;
end
$$;

-- The preview that this digest confirms: the newest preview of the run. It must still be true, or already be confirmed
-- with the run not started since. It stays `previewed` until the look has shown that it is still true.
--
-- p_scope  the scope that the caller expects, {sessions, since, until}. Null: any
-- raises   OB003 the policy asks for an approval, OB013 another scope, OB019 another digest, or the rows have changed
--          since the preview
create function backfill_private.confirmed_undo(p_run_id uuid, p_digest text, p_reason text, p_scope jsonb)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos := backfill_private.newest_undo(p_run_id, p_digest);
begin
  if jsonb_typeof(p_scope) = 'object'
    and v_undo.scope <> backfill_private.undo_scope(p_run_id,
      case when p_scope ->> 'sessions' is not null
        then array(select jsonb_array_elements_text(p_scope -> 'sessions')) end,
      p_scope ->> 'since', p_scope ->> 'until') then
    perform backfill_private.refuse('OB013', 'the preview of this digest has another scope than the one given now',
      format('the same command without its scope, or a preview of the other: backfill rollback %s …', p_run_id));
  elsif v_undo.state = 'previewed' then
    v_undo := backfill_private.checked_undo(backfill_private.approved_undo(v_undo));
    if backfill_private.undo_digest(v_undo) is null then
      return v_undo;
    end if;
    update backfill_private.undos
    set state = 'confirmed',
        reason = p_reason,
        confirmed_at = backfill_private.clock(),
        confirmed_by = (select label from backfill_private.caller()),
        approved_by = v_undo.approved_by,
        approver_id = v_undo.approver_id,
        approved_via = v_undo.approved_via
    where undo_id = v_undo.undo_id
    returning * into v_undo;
    perform backfill_private.record(p_run_id, 'undo_confirmed',
      jsonb_build_object(
        'digest', p_digest,
        'reason', p_reason,
        'scope', v_undo.scope,
        'rows', v_undo.rows_at_stake,
        'approved_by', v_undo.approved_by));
  elsif exists (
    select from public.backfill_events as ran
    where ran.run_id = p_run_id
      and ran.kind = 'running'
      and ran.seq > (
        select max(said.seq)
        from public.backfill_events as said
        where said.run_id = p_run_id
          and said.kind = 'undo_confirmed'
      )
  ) then
    perform backfill_private.refuse('OB019', 'the run has gone on since this undo was confirmed',
      format('backfill rollback %s', p_run_id));
  end if;
  return v_undo;
end
$$;

-- Undo the next sessions of a confirmed undo. The chain hears of them with a hash over what was taken back and written.
create function backfill_private.undo_part(
  p_undo backfill_private.undos, p_ordinals integer[], p_terms backfill_private.undo_terms
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_effect jsonb;
  v_taken integer;
  v_until integer;
begin
  perform from public.backfill_items
  where run_id = p_undo.run_id
    and ordinal = any (p_ordinals)
  order by ordinal
  for update;
  update public.backfill_items
  set fence_hash = null
  where run_id = p_undo.run_id
    and ordinal = any (p_ordinals)
    and fence_hash is not null;
  p_terms.is_alone := cardinality(p_ordinals) = 1;
  p_terms.undo_id := p_undo.undo_id;
  p_terms.ends_at := backfill_private.clock() + interval '0.8 s';
  v_effect := backfill_private.undo_sessions(p_undo.run_id, p_ordinals, p_terms);
  v_taken := (v_effect ->> 'taken')::integer;
  v_until := p_ordinals[v_taken];
  update backfill_private.undos
  set last_ordinal = v_until,
      sessions_seen = sessions_seen + v_taken,
      done = backfill_private.added(done, v_effect - array['conflicts', 'inferred', 'sessions_total', 'taken'])
  where undo_id = p_undo.undo_id;
  perform backfill_private.keep_conflicts(p_undo.undo_id, true, v_effect -> 'conflicts');
  perform backfill_private.record(p_undo.run_id, 'undo_settled',
    backfill_private.undo_trace(p_undo.run_id, p_undo.undo_id, p_undo.last_ordinal, v_until)
    || jsonb_build_object('digest', p_undo.digest, 'sessions', v_taken));
end
$$;

-- Confirm an undo, and undo the next sessions, see backfill_private.undo_sessions.
--
-- p_digest    of the newest preview. To continue a killed undo, pass the same digest
-- p_sessions  how many sessions this call undoes at most. Call again until remaining is 0
-- p_scope     the scope that the caller expects. Null: any
-- p_search_path  under which the user's code runs, see backfill_private.undo_path
-- returns     {remaining, sessions_total, sessions, deletes, restores, undo_id, conflicts: the first of the rows that
--             were left, see backfill_private.conflicts_after, conflicts_total, state, confirmed_by, finished_at,
--             was_finished: it was finished before this call; checked and to_check: how far the look before the first
--             row is, in sessions of the plan, null afterwards}
-- raises      OB003 the policy asks for an approval, OB010 not allowed, or the caller has a trigger on some table,
--             OB013 no reason or another scope, OB019 another digest, or the rows have changed since the preview
create function backfill_private.confirm_undo(
  p_run_id uuid, p_digest text, p_reason text, p_sessions integer, p_scope jsonb, p_search_path text
)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
  v_ordinals integer[];
  v_terms backfill_private.undo_terms;
  v_has_leases boolean;
begin
  v_terms.limit_at := backfill_private.limit_at();
  perform backfill_private.authorize('undo');
  if jsonb_typeof(p_scope) not in ('object', 'null')
    or jsonb_typeof(p_scope -> 'sessions') not in ('array', 'null') then
    perform backfill_private.refuse('OB013', 'a scope is {sessions: a list of ids, since, until}, each of them or none',
      format('backfill rollback %s --confirm %s --reason "…"', p_run_id, left(p_digest, 80)));
  end if;
  perform backfill_private.check_bounds(jsonb_build_object(
    'the digest', p_digest, 'the reason', p_reason, 'a part of an undo', p_sessions,
    'the list of sessions', p_scope -> 'sessions'));
  v_terms.path := backfill_private.undo_path(p_search_path);
  if backfill_private.said(p_reason) is null then
    perform backfill_private.refuse('OB013', 'an undo needs a reason',
      format('backfill rollback %s --confirm %s --reason "…"', p_run_id, p_digest));
  end if;
  perform backfill_private.refuse_if_removed(r.target)
  from backfill_private.caught_up_run(
    p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']) as r;
  v_has_leases := not backfill_private.take_leases_back(p_run_id);
  select max(u.undo_id) into v_undo.undo_id
  from backfill_private.undos as u
  where u.run_id = p_run_id
    and u.digest = p_digest
    and v_has_leases;
  if v_undo.undo_id is not null then
    return backfill_private.undo_progress(p_run_id, v_undo.undo_id) || '{"was_finished": false}';
  end if;
  v_undo := backfill_private.confirmed_undo(p_run_id, p_digest, p_reason, p_scope);
  v_ordinals := case v_undo.state
    when 'confirmed' then backfill_private.undo_next(p_run_id, v_undo.scope, v_undo.last_ordinal, null, p_sessions)
  end;
  if v_ordinals is not null then
    perform backfill_private.undo_part(v_undo, v_ordinals, v_terms);
  end if;
  return backfill_private.undo_progress(p_run_id, v_undo.undo_id)
    || jsonb_build_object('was_finished', v_undo.state = 'finished');
end
$$;

-- How far an undo is. When nothing is left, mark it finished and record an event.
create function backfill_private.undo_progress(p_run_id uuid, p_undo_id bigint)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
  v_remaining bigint;
  v_done jsonb;
begin
  select * into strict v_undo from backfill_private.undos where undo_id = p_undo_id;
  -- While the look goes on, nobody knows yet whether anything remains.
  v_remaining := greatest(v_undo.sessions_total - v_undo.sessions_seen, (v_undo.state = 'previewed')::integer);
  v_done := v_undo.done;
  if v_remaining = 0 and v_undo.state = 'confirmed' then
    update backfill_private.undos
    set state = 'finished',
        finished_at = backfill_private.clock()
    where undo_id = p_undo_id
    returning * into v_undo;
    perform backfill_private.record(p_run_id, 'undo_finished',
      v_done - 'conflicts_total'
      || jsonb_build_object('digest', v_undo.digest, 'conflicts', v_done -> 'conflicts_total'));
    perform backfill_private.close_if_empty(p_run_id);
  end if;
  return v_done || jsonb_build_object(
    'remaining', v_remaining,
    'sessions_total', v_undo.sessions_total,
    'checked', case v_undo.state when 'previewed' then v_undo.looked_ordinal end,
    'to_check', case v_undo.state when 'previewed' then
      (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id) end,
    'undo_id', p_undo_id,
    'conflicts', backfill_private.conflicts_after(v_undo, 0) -> 'conflicts',
    'confirmed_by', v_undo.confirmed_by,
    'finished_at', v_undo.finished_at,
    'called', (select r.plan -> 'called' from public.backfill_runs as r where r.run_id = p_run_id),
    'state', (select r.state from public.backfill_runs as r where r.run_id = p_run_id));
end
$$;

-- A run is rolled back when an undo leaves none of its sessions done.
create function backfill_private.close_if_empty(p_run_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.state from public.backfill_runs as r where r.run_id = p_run_id) in ('completed', 'cancelled', 'expired')
    and exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'rolled_back')
    and not exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'done') then
    perform backfill_private.move(p_run_id, 'rolled_back', 'no session is left done');
  end if;
end
$$;

-- from sql/80_undo/conflicts.sql
-- Conflicts of an undo: written rows that are no longer what the run wrote, or to which other rows refer.

-- The written rows of some sessions, the newest first.
create function backfill_private.undo_rows(p_run_id uuid, p_ordinals integer[])
returns setof backfill_private.undoable
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
as $$
begin
  return query
  with written as (
    select
      r.ordinal,
      min(r.session_id) as session_id,
      min(r.component) as component,
      r.table_name,
      r.row_key,
      array_agg(r.receipt_id order by r.receipt_id) as receipts,
      bool_or(r.is_inferred) as is_inferred,
      max(r.attempt) as attempt
    from public.backfill_receipts as r
    where r.run_id = p_run_id
      and r.kind = 'score'
      and r.undone_at is null
      and r.ordinal = any (p_ordinals)
    group by r.ordinal, r.table_name, r.row_key
  ), ended as (
    select w.*, f.before, f.before_hash, f.shape as before_shape, l.receipt_id, l.shape, l.after_hash, l.after_columns
    from written as w
    join public.backfill_receipts as f on f.receipt_id = w.receipts[1]
    join public.backfill_receipts as l on l.receipt_id = w.receipts[cardinality(w.receipts)]
  ), fits as materialized (
    select s.table_name, s.before_shape, i.names, i.places
    from (select distinct e.table_name, e.before_shape from ended as e where e.before is not null) as s
    cross join lateral backfill_private.image_fit(s.table_name::regclass, s.before_shape) as i
  )
  select
    e.ordinal,
    e.session_id,
    e.component,
    e.table_name,
    e.row_key,
    case when e.before is not null then backfill_private.refitted_image(e.before, f.places) end,
    f.names,
    e.before_hash is not null,
    e.before is not null and e.before_hash is distinct from sha256(convert_to(e.before, 'UTF8')),
    e.shape,
    e.after_hash,
    e.after_columns,
    e.receipts,
    e.receipt_id,
    e.is_inferred,
    e.attempt
  from ended as e
  left join fits as f
    on f.table_name = e.table_name
    and f.before_shape = e.before_shape
    and e.before is not null
  order by e.receipt_id desc;
end
$$;

-- The tables of written rows, by key columns. Names are quoted, values are literals. Tables written last come first, so
-- that rows which refer to others go before those others.
create function backfill_private.undo_tables(p_rows backfill_private.undoable[])
returns setof backfill_private.undo_table
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    g.table_name::regclass,
    g.shape,
    format('u.table_name = %L and u.row_key ?& %L::text[] and u.shape = %L', g.table_name, g.keys, g.shape),
    backfill_private.key_condition(g.table_name, g.keys, 'u.row_key', array(
      select c.name
      from unnest(g.keys) with ordinality as k (name, place)
      left join backfill_private.shape_columns(g.table_name::regclass, g.shape) as c on c.old_name = k.name
      order by k.place)),
    backfill_private.as_left_sql(g.table_name::regclass, array[g.shape])
  from (
    select
      u.table_name,
      array(select jsonb_object_keys(u.row_key)) as keys,
      u.shape,
      max(u.last_receipt) as newest
    from unnest(p_rows) as u
    group by 1, 2, 3
  ) as g
  order by g.newest desc
$$;

-- Was t put in place of the row that u was before, as SQL? Then it has another number in a column that is always
-- generated as identity, and no update can give it the former one.
--
-- The number is read out of the image's text. A cast of the image would run the checks of the user's domains, and a
-- preview would end with what one of them raises.
create function backfill_private.replaced_sql(p_table regclass)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when count(*) = 0 then 'false'
    else format('(u.has_before and u.after_hash is not null and (%s))', string_agg(
      format('backfill_private.refitted_image(u.first_before, array[%s]) is distinct from row(t.%I)::text',
        c.place, c.attname),
      ' or '))
  end
  from (
    select a.attname, a.attidentity, row_number() over (order by a.attnum) as place
    from pg_attribute as a
    where a.attrelid = p_table
      and a.attnum > 0
      and not a.attisdropped
  ) as c
  where c.attidentity = 'a'
$$;

-- Which written rows of a table cannot be undone, and why: {newest receipt: reason}. Locks the rows if p_lock.
--
-- Whether a row is as the run left it is asked as verify asks it (as_left_sql in 30_run/receipts.sql): the hash of the
-- whole row against the one in its newest receipt. If the table has other columns since, a hash per column that is
-- left.
--
-- One statement looks at the rows. One per foreign key looks for rows that refer to them, with any ON DELETE.
create function backfill_private.undo_conflicts(
  p_table backfill_private.undo_table, p_rows backfill_private.undoable[], p_lock boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
declare
  v_found jsonb;
  v_free bigint[];
  v_standing jsonb[];
begin
  -- Each row is found by its key. The lateral subquery keeps the planner from joining the whole table.
  execute format(
    'with looked_at as materialized (
       select
         u.last_receipt,
         not u.has_before or standing.is_replaced as goes,
         standing.row,
         case
           when u.is_forged then ''its before-image is not the one that the run kept''
           when u.has_before and u.first_before is null then ''its before-image was pruned''
           -- Its unique index is gone, too. Which of them the run wrote cannot be told.
           when count(standing.is_there) over (partition by u.last_receipt) > 1 then ''several rows have its key''
           when standing.is_there is null and u.after_hash is not null then ''the row is gone''
           when standing.is_there and u.after_hash is null then ''a row has come where the run had deleted one''
           when not standing.is_as_left then ''the row was changed since''
           when standing.is_there and standing.is_as_left is null
             then ''a column has another type now, and what the run wrote cannot be compared with it''
         end as reason
       from unnest($1) as u
       cross join lateral (select u.shape, u.after_hash, u.after_columns) as x
       left join lateral (
         select true as is_there, %s as is_as_left, %s as is_replaced,
            case when $2 then backfill_private.row_json(t) end as row
         from %s as t
         where %s %s) as standing on true
       where %s)
     select
       coalesce(jsonb_object_agg(l.last_receipt, l.reason) filter (where l.reason is not null), ''{}''),
       array_agg(l.last_receipt) filter (where $2 and l.reason is null and l.goes),
       array_agg(l.row) filter (where $2 and l.reason is null and l.goes)
     from looked_at as l',
    p_table.is_as_left,
    backfill_private.replaced_sql(p_table.tab),
    p_table.tab,
    p_table.joins,
    case when p_lock then 'for update of t' else 'offset 0' end,
    p_table.picks)
  into v_found, v_free, v_standing
  using p_rows, exists (select from backfill_private.keys_to(p_table.tab));
  return v_found || backfill_private.referencing(p_table.tab, v_free, v_standing);
end
$$;

-- The foreign keys that refer to a table, or to one of its partitions or children alone.
create function backfill_private.keys_to(p_table regclass)
returns setof oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  with recursive tree as (
    select p_table::oid as oid
    union
    select i.inhrelid
    from tree
    join pg_inherits as i on i.inhparent = tree.oid
  )
  select distinct c.oid
  from tree as r
  -- A foreign key puts triggers on the table that it refers to. An index finds these.
  join pg_trigger as g
    on g.tgrelid = r.oid
    and g.tgisinternal
  join pg_constraint as c
    on c.oid = g.tgconstraint
    and c.contype = 'f'
    and c.confrelid = r.oid
    and c.conparentid = 0;
end
$$;

-- Which of these rows of a table are referred to by other rows: {id: a sentence on the first such foreign key}.
create function backfill_private.referencing(p_table regclass, p_ids bigint[], p_rows jsonb[])
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key record;
  v_found jsonb;
  v_all jsonb := '{}'::jsonb;
begin
  for v_key in
    select
      c.conname,
      c.conrelid::regclass as child,
      (
        select string_agg(
          -- As the foreign key itself compares them: its types may differ, and have an equality of their own.
          format('(it.standing ->> %L)::%s operator(%I.%s) child.%I',
            p.attname, backfill_private.base_type(p.atttypid, p.atttypmod), n.nspname, o.oprname, a.attname),
          ' and ')
        from unnest(c.conkey, c.confkey, c.conpfeqop) as k (child_column, parent_column, equality)
        join pg_operator as o on o.oid = k.equality
        join pg_namespace as n on n.oid = o.oprnamespace
        join pg_attribute as a
          on a.attrelid = c.conrelid
          and a.attnum = k.child_column
        join pg_attribute as p
          on p.attrelid = c.confrelid
          and p.attnum = k.parent_column
      ) as condition
    from backfill_private.keys_to(p_table) as g (oid)
    join pg_constraint as c on c.oid = g.oid
    where p_ids is not null
    order by c.conrelid::regclass::text, c.conname
  loop
    execute format(
      'select jsonb_object_agg(it.id, %L::text)
       from unnest($1, $2) as it (id, standing)
       where exists (select from %s as child where %s)',
      format('a row of %s refers to it (%s)', v_key.child, v_key.conname),
      v_key.child,
      v_key.condition)
    into v_found using p_ids, p_rows;
    v_all := coalesce(v_found, '{}') || v_all;
  end loop;
  return v_all;
end
$$;

-- Does the age of some sessions' rows prove that they are as a preview without conflicts saw them? If not, the rows
-- themselves must be looked at. Always null if other tables refer to the target's tables, or a key column has another
-- name now.
create function backfill_private.undo_is_as_seen(p_undo backfill_private.undos, p_ordinals integer[])
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_target public.backfill_targets;
  v_differs boolean;
begin
  for v_target in
    select t.*
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_undo.run_id
  loop
    if exists (
      select from backfill_private.keys_to(v_target.table_name::regclass)
    ) or exists (
      select from unnest(v_target.key_columns) as k
      where backfill_private.column_type(v_target.table_name, k) is null
    ) then
      return null;
    end if;
    execute format(
      'select exists (
         select from public.backfill_receipts as r
         left join lateral (select t.xmin as born from %s as t where %s offset 0) as standing on true
         where r.run_id = $1
           and r.ordinal = any ($2)
           and r.kind = ''score''
           and r.undone_at is null
           and r.component = %L
           and (r.table_name <> %L
             or r.after_hash is null
             or standing.born is null
             or backfill_private.came_after(standing.born, $3)))',
      v_target.table_name::regclass,
      backfill_private.key_condition(v_target.table_name, v_target.key_columns, 'r.row_key'),
      v_target.component,
      v_target.table_name)
    into v_differs using p_undo.run_id, p_ordinals, p_undo.seen;
    if v_differs then
      return false;
    end if;
  end loop;
  return true;
end
$$;

-- from sql/80_undo/left_behind.sql
-- Left behind: rows that the undos of a run could not take back, and those that a preview says it will not.

-- Keep the rows that an undo leaves.
--
-- p_is_left    false: as its look sees it. True: as it came
-- p_conflicts  see backfill_private.undo_effect
create function backfill_private.keep_conflicts(p_undo_id bigint, p_is_left boolean, p_conflicts jsonb)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into backfill_private.conflicts (undo_id, is_left, session_id, table_name, row_key, reason)
  select p_undo_id, p_is_left, c.value ->> 'session_id', c.value ->> 'table', c.value -> 'row', c.value ->> 'reason'
  from jsonb_array_elements(p_conflicts) with ordinality as c (value, place)
  order by c.place
$$;

-- The next rows that an undo leaves, in the order of the plan: of a preview as its look saw it, of a confirmed one as
-- it came.
--
-- p_after  see after. 0: from the first
-- returns  {conflicts: [{session_id, table, row, reason}], at most 1,000, after: where the next begin, null at the end}
create function backfill_private.conflicts_after(p_undo backfill_private.undos, p_after bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'conflicts', coalesce(jsonb_agg(jsonb_build_object(
      'session_id', c.session_id, 'table', c.table_name, 'row', c.row_key, 'reason', c.reason)
      order by c.conflict_id), '[]'),
    'after', case when count(*) = 1000 then max(c.conflict_id) end)
  from (
    select f.*
    from backfill_private.conflicts as f
    where f.undo_id = p_undo.undo_id
      and f.is_left = (p_undo.state <> 'previewed')
      and f.conflict_id > p_after
    order by f.conflict_id
    limit 1000) as c
$$;

-- The same of a run's undo, for the client.
--
-- raises  OB010 the caller may not preview, OB013 the run has no such undo
create function backfill_private.undo_conflicts_part(p_run_id uuid, p_undo_id bigint, p_after bigint)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
begin
  perform backfill_private.authorize('preview');
  select * into v_undo from backfill_private.undos as u where u.undo_id = p_undo_id and u.run_id = p_run_id;
  if not found then
    perform backfill_private.refuse('OB013', format('run %s has no undo %s', p_run_id, p_undo_id),
      format('backfill rollback %s', p_run_id));
  end if;
  return backfill_private.conflicts_after(v_undo, coalesce(p_after, 0));
end
$$;

-- The rows that an undo left, which still are what no later undo took back, each with the newest reason.
create function backfill_private.left_behind(p_run_id uuid)
returns table (session_id text, table_name text, row_key jsonb, reason text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select l.session_id, l.table_name, l.row_key, l.reason
  from (
    select distinct on (c.session_id, c.table_name, c.row_key) c.session_id, c.table_name, c.row_key, c.reason
    from backfill_private.undos as u
    join backfill_private.conflicts as c using (undo_id)
    where u.run_id = p_run_id
      and c.is_left
    order by c.session_id, c.table_name, c.row_key, c.conflict_id desc
  ) as l
  where exists (
    select from public.backfill_items as i
    join public.backfill_receipts as r using (run_id, ordinal)
    where i.run_id = p_run_id
      and i.session_id = l.session_id
      and r.kind = 'score'
      and r.undone_at is null
      and r.table_name = l.table_name
      and r.row_key = l.row_key)
  order by l.session_id, l.table_name, l.row_key
$$;

-- How many rows the undos of a run left behind. Null if the caller may not read.
create function backfill_private.left_behind_count(p_run_id uuid)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select case when backfill_private.may('read') then (select count(*) from backfill_private.left_behind(p_run_id)) end
$$;

-- The same rows for the client, 1,000 at most: [{session_id, table, row, reason}].
--
-- raises  OB010 the caller may not read
create function backfill_private.left_behind_rows(p_run_id uuid)
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
      'session_id', l.session_id, 'table', l.table_name, 'row', l.row_key, 'reason', l.reason)), '[]')
    from (select b.* from backfill_private.left_behind(p_run_id) as b limit 1000) as l);
end
$$;

-- from sql/80_undo/pieces.sql
-- Pieces of an undo: others wait for what is locked, so a refusal is narrowed down for a short time only.

-- Undo the rows of some sessions at once. If the database or code of the user's refuses one of them, with any error,
-- each half is tried by itself, down to one session, so that one refusal is one conflict.
--
-- No half is begun after the terms' end if there is something to commit. Nobody waits for what is locked already while
-- this waits for a row that others have locked: such a row is left to the next call, which waits for it alone.
-- returns  see backfill_private.undo_effect, and taken: how many sessions were undone, the first ones
-- raises   57014 as refusal_to_undo
create function backfill_private.undo_sessions(
  p_run_id uuid, p_ordinals integer[], p_terms backfill_private.undo_terms
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
  v_half integer := cardinality(p_ordinals) / 2;
  v_is_locked boolean;
  v_first jsonb;
begin
  if p_terms.is_begun and backfill_private.clock() >= p_terms.ends_at then
    return '{"taken": 0}'::jsonb;
  end if;
  if v_half = 0 and p_terms.is_begun is not true then
    perform set_config('lock_timeout', '0', true);
  end if;
  begin
    return backfill_private.undo_at_once(p_run_id, p_ordinals, p_terms)
      || jsonb_build_object('taken', cardinality(p_ordinals));
  exception when query_canceled or assert_failure or others then
    v_is_locked := sqlstate = '55P03';
    if backfill_private.is_cancel(sqlstate, sqlerrm, p_terms.limit_at) then
      if not p_terms.is_alone then
        raise;
      end if;
      p_terms.limit_at := '-infinity';
    end if;
  end;
  if p_terms.is_begun and (backfill_private.clock() >= p_terms.ends_at or v_half = 0 and v_is_locked) then
    return '{"taken": 0}'::jsonb;
  elsif v_half = 0 then
    return backfill_private.undo_item(p_run_id, p_ordinals[1], p_terms) || '{"taken": 1}'::jsonb;
  end if;
  v_first := backfill_private.undo_sessions(p_run_id, p_ordinals[:v_half], p_terms);
  if (v_first ->> 'taken')::integer < v_half then
    return v_first;
  end if;
  p_terms.is_begun := true;
  return backfill_private.added(
    v_first, backfill_private.undo_sessions(p_run_id, p_ordinals[v_half + 1:], p_terms));
end
$$;

-- from sql/80_undo/preview.sql
-- The preview of an undo. Only rows that have a receipt and are still what the run wrote can be undone. confirm.sql
-- carries out exactly what was previewed. write.sql undoes the rows.

-- The normal form of an undo's scope: sessions as full ids, dates as bounds.
--
-- p_sessions  null: all. A list names some, so an empty one is refused: it would name all
-- raises      OB013 not a date, or an empty list, OB014 see backfill_private.named_sessions
create function backfill_private.undo_scope(p_run_id uuid, p_sessions text[], p_since text, p_until text)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_since timestamptz := backfill_private.since_bound('since', p_since);
  v_until timestamptz := backfill_private.until_bound('until', p_until);
  v_ids text[];
begin
  if cardinality(p_sessions) = 0 then
    perform backfill_private.refuse('OB013', 'the list of sessions is empty',
      format('name sessions, or leave the list out for the whole run: backfill rollback %s', p_run_id));
  elsif v_until <= v_since then
    perform backfill_private.refuse('OB013',
      format('since %s is after until %s', p_since, p_until),
      format('backfill rollback %s … --until …, with a day from %s on', p_run_id, left(p_since, 10)));
  end if;
  v_ids := backfill_private.named_sessions(
    (select r.target from public.backfill_runs as r where r.run_id = p_run_id), p_sessions, p_run_id);
  v_ids := (select array_agg(distinct i.id order by i.id) from unnest(v_ids) as i (id));
  return jsonb_build_object('sessions', v_ids, 'since_at', v_since, 'until_before', v_until);
end
$$;

-- The next sessions of a scope that have written rows, in the plan's order.
--
-- p_after, p_until  places of the plan: after the one, up to the other. p_until null: to the end
-- p_sessions        at most this many. Null: all
create function backfill_private.undo_next(
  p_run_id uuid, p_scope jsonb, p_after integer, p_until integer, p_sessions integer
)
returns integer[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  return (select array_agg(n.ordinal order by n.ordinal) from (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.ordinal > p_after
      and (p_until is null or i.ordinal <= p_until)
      and (p_scope ->> 'sessions' is null or p_scope -> 'sessions' ? i.session_id)
      and (p_scope ->> 'since_at' is null or i.session_at >= (p_scope ->> 'since_at')::timestamptz)
      and (p_scope ->> 'until_before' is null or i.session_at < (p_scope ->> 'until_before')::timestamptz)
      and exists (
        select from public.backfill_receipts as r
        where r.run_id = i.run_id
          and r.ordinal = i.ordinal
          and r.kind = 'score'
          and r.undone_at is null
      )
    order by i.ordinal
    limit p_sessions
  ) as n);
end
$$;

-- What an undo of these rows does, given these conflicts: counts per table, conflicts per row.
--
-- returns  {sessions_total: with a row, sessions: with a row to undo, session_ids: the first hundred of these,
--          inferred, deletes, restores, conflicts, conflicts_total}
create function backfill_private.undo_effect(p_rows backfill_private.undoable[], p_conflicts jsonb)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  with looked_at as materialized (
    select
      u.ordinal,
      u.session_id,
      u.table_name,
      u.row_key,
      u.is_inferred,
      u.has_before,
      u.after_hash is not null as stands,
      p_conflicts ->> u.last_receipt::text as conflict
    from unnest(p_rows) as u
  ), counted as (
    select
      backfill_private.bare_name(l.table_name) as tab,
      count(*) filter (where not l.has_before and l.stands and l.conflict is null) as deletes,
      count(*) filter (where l.has_before and l.conflict is null) as restores
    from looked_at as l
    group by l.table_name
  )
  select jsonb_build_object(
    'sessions_total', (select count(distinct l.ordinal) from looked_at as l),
    'sessions', (select count(distinct l.ordinal) from looked_at as l where l.conflict is null),
    'session_ids', (
      select coalesce(jsonb_agg(n.session_id order by n.ordinal), '[]')
      from (
        select distinct l.ordinal, l.session_id
        from looked_at as l
        where l.conflict is null
        order by l.ordinal
        limit 100) as n),
    'inferred', (select count(*) from looked_at as l where l.conflict is null and l.is_inferred),
    'deletes', (select coalesce(jsonb_object_agg(c.tab, c.deletes), '{}') from counted as c),
    'restores', (select coalesce(jsonb_object_agg(c.tab, c.restores), '{}') from counted as c),
    'conflicts_total', (select count(*) from looked_at as l where l.conflict is not null),
    'conflicts', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'session_id', l.session_id,
        'table', l.table_name,
        'row', l.row_key,
        'reason', l.conflict) order by l.ordinal, l.table_name), '[]')
      from looked_at as l
      where l.conflict is not null))
$$;

-- Continue the look at the rows in an undo's scope. It changes no table of the user's.
--
-- It goes in blocks of 1,000 places of the plan, so that the hash does not depend on how many calls the look took.
-- p_budget  how long to look
create function backfill_private.undo_look(p_undo backfill_private.undos, p_budget interval)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := backfill_private.clock() + p_budget;
  v_last integer := (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_undo.run_id);
  v_rows backfill_private.undoable[];
  v_table backfill_private.undo_table;
  v_conflicts jsonb;
  v_effect jsonb;
begin
  if p_undo.looked_ordinal = 0 then
    delete from backfill_private.conflicts as c where c.undo_id = p_undo.undo_id and not c.is_left;
  end if;
  loop
    v_conflicts := '{}';
    v_rows := array(
      select r
      from backfill_private.undo_rows(p_undo.run_id, backfill_private.undo_next(
        p_undo.run_id, p_undo.scope, p_undo.looked_ordinal, p_undo.looked_ordinal + 1000, null)) as r);
    for v_table in select * from backfill_private.undo_tables(v_rows) loop
      v_conflicts := v_conflicts || backfill_private.undo_conflicts(v_table, v_rows, false);
    end loop;
    v_effect := backfill_private.undo_effect(v_rows, v_conflicts);
    perform backfill_private.keep_conflicts(p_undo.undo_id, false, v_effect -> 'conflicts');
    p_undo.effect := backfill_private.added(p_undo.effect, v_effect - 'conflicts');
    p_undo.effect := jsonb_set(
      p_undo.effect, '{session_ids}', jsonb_path_query_array(p_undo.effect, '$.session_ids[0 to 99]'));
    p_undo.looked_hash := backfill_private.sha256_hex(concat_ws(e'\n', p_undo.looked_hash, (
      select string_agg(jsonb_build_array(u.last_receipt, not u.has_before, v_conflicts -> u.last_receipt::text)::text,
        e'\n' order by u.last_receipt)
      from unnest(v_rows) as u)));
    p_undo.looked_ordinal := least(p_undo.looked_ordinal + 1000, v_last);
    exit when p_undo.looked_ordinal = v_last or backfill_private.clock() >= v_until;
  end loop;
  update backfill_private.undos as u
  set looked_ordinal = p_undo.looked_ordinal,
      looked_hash = p_undo.looked_hash,
      effect = p_undo.effect,
      seen = p_undo.seen,
      checked_events = p_undo.checked_events,
      checked_at = p_undo.checked_at
  where u.undo_id = p_undo.undo_id;
  return p_undo;
end
$$;

-- The digest of what a look saw. Null while the look goes on.
create function backfill_private.undo_digest(p_undo backfill_private.undos)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_undo.looked_ordinal = (
      select max(i.ordinal)
      from public.backfill_items as i
      where i.run_id = p_undo.run_id
    )
    then backfill_private.sha256_hex(
      concat_ws(e'\n', 'backfill undo, form 2', p_undo.run_id, p_undo.scope, p_undo.looked_hash))
  end
$$;

-- Preview an undo. It changes no table of the user's. The preview is kept, and only the newest can be confirmed.
--
-- p_budget_ms  look for about this long, 20 seconds at most. The next call, with the answer's undo_id, continues. Null:
--              as long as it may
-- p_undo_id    of a preview to continue. Its scope stays
-- returns      {run_id, scope, undo_id, digest: null until the end, looked_at and to_look_at: sessions of the plan,
--              needs_approval: whether the policy asks for an approval that is not there yet,
--              elsewhere: see backfill_private.written_elsewhere, conflicts: the first, see
--              backfill_private.conflicts_after, … see backfill_private.undo_effect}
-- raises       OB001 no such run, OB002 the run is running or never ran, OB013 OB014 the scope is not usable
create function backfill_private.preview_undo(
  p_run_id uuid, p_sessions text[], p_since text, p_until text, p_budget_ms integer, p_undo_id bigint
)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_undo backfill_private.undos;
  v_asked_by uuid := (select c.user_id from backfill_private.caller() as c);
  v_budget_ms integer := coalesce(p_budget_ms, 20000);
begin
  perform backfill_private.authorize('preview');
  perform backfill_private.check_bounds(jsonb_build_object(
    'the list of sessions', p_sessions, 'a look', v_budget_ms));
  perform backfill_private.refuse_if_removed(r.target)
  from backfill_private.caught_up_run(
    p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']) as r;
  if p_undo_id is null then
    insert into backfill_private.undos (run_id, asked_by, scope, seen, seen_events)
    select
      p_run_id,
      v_asked_by,
      backfill_private.undo_scope(p_run_id, p_sessions, p_since, p_until),
      pg_current_snapshot(),
      r.audit_count
    from backfill_private.run_now(p_run_id) as r
    returning * into v_undo;
  else
    select * into v_undo
    from backfill_private.undos
    where undo_id = p_undo_id
      and run_id = p_run_id
      and asked_by is not distinct from v_asked_by;
    if not found then
      perform backfill_private.refuse('OB013',
        format('run %s has no preview %s of this caller', p_run_id, p_undo_id),
        format('backfill rollback %s', p_run_id));
    end if;
  end if;
  if v_undo.digest is null then
    v_undo := backfill_private.undo_look(v_undo, v_budget_ms * interval '1 ms');
    update backfill_private.undos
    set digest = backfill_private.undo_digest(v_undo),
        sessions_total = (v_undo.effect ->> 'sessions_total')::bigint,
        rows_at_stake = backfill_private.rows_at_stake(v_undo.effect),
        seen = case when v_undo.effect ->> 'conflicts_total' = '0' then seen end
    where undo_id = v_undo.undo_id
    returning * into v_undo;
  end if;
  return v_undo.effect || jsonb_build_object(
    'run_id', p_run_id,
    'called', (select r.plan -> 'called' from public.backfill_runs as r where r.run_id = p_run_id),
    'scope', v_undo.scope,
    'digest', v_undo.digest,
    'undo_id', v_undo.undo_id,
    'conflicts', backfill_private.conflicts_after(v_undo, 0) -> 'conflicts',
    'needs_approval', backfill_private.needs_approval(v_undo)
      and not exists (select from backfill_private.undo_approval(v_undo)),
    'elsewhere', backfill_private.written_elsewhere(p_run_id),
    'looked_at', v_undo.looked_ordinal,
    'to_look_at', (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id));
end
$$;

-- from sql/80_undo/write.sql
-- The writes of an undo: many rows per statement, and row by row if something refuses one of them.
--
-- The user's triggers, checks and generated columns run in here. So what writes does it under the search path and the
-- settings of the caller, as scoring does, and any error of theirs concerns the row alone.

-- Undo written rows of a table: delete what was inserted, put back what was updated or deleted. All rows are written
-- but those in conflict, or an error is raised. Deferred constraints are checked.
--
-- One statement deletes, and one per set of columns updates. Rows that the run had deleted are inserted one by one,
-- since `returning` of an insert cannot name the receipt. So are rows that it had deleted and inserted anew, if no
-- update can give them back their number.
-- p_path   see backfill_private.undo_path
-- returns  the rows that were written, by their newest receipt, and the hash of what stands now. A row that the run
--          both inserted and deleted is not among them
-- raises   P0001 a trigger of the user's suppressed a write, or a row with the same key has come since they were locked
create function backfill_private.undo_write(
  p_table backfill_private.undo_table, p_rows backfill_private.undoable[], p_conflicts jsonb, p_path text
)
returns table (last_receipt bigint, operation text, after_hash bytea)
language plpgsql
set search_path = pg_catalog, pg_temp
set lc_monetary = 'C'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_part record;
  v_picks text := p_table.picks || case p_conflicts when '{}' then '' else ' and not $2 ? u.last_receipt::text' end;
  v_replaced bigint[] := backfill_private.rows_replaced(p_table, p_rows);
  v_rows bigint;
begin
  for v_part in
    select
      w.way,
      w.columns,
      w.one,
      count(*) as rows,
      backfill_private.undo_statement(p_table.tab, v_picks, p_table.joins, w.way, w.columns) as statement
    from unnest(p_rows) as u
    cross join lateral (
      select
        case
          when u.after_hash is null then 'insert'
          when u.last_receipt = any (v_replaced) then 'replace'
          when u.has_before then 'update'
          else 'delete'
        end as way,
        u.columns,
        case when u.after_hash is null or u.last_receipt = any (v_replaced) then u.last_receipt end as one
    ) as w
    where (u.has_before or u.after_hash is not null)
      and u.table_name::regclass = p_table.tab
      and u.shape = p_table.shape
      and (p_conflicts = '{}' or not p_conflicts ? u.last_receipt::text)
    group by 1, 2, 3
  loop
    perform set_config('search_path', p_path, true);
    return query execute v_part.statement using p_rows, p_conflicts, v_part.columns, v_part.one;
    get diagnostics v_rows = row_count;
    if v_rows > v_part.rows then
      raise exception 'several rows of % have the key of one that the run wrote', p_table.tab;
    elsif v_rows < v_part.rows then
      raise exception 'a trigger of % let no % happen', p_table.tab, v_part.way;
    end if;
  end loop;
end
$$;

-- The rows of a table that are deleted and inserted by an undo, by their newest receipt: see replaced_sql.
create function backfill_private.rows_replaced(
  p_table backfill_private.undo_table, p_rows backfill_private.undoable[]
)
returns bigint[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_replaced text := backfill_private.replaced_sql(p_table.tab);
  v_found bigint[] := array[]::bigint[];
begin
  if v_is_replaced <> 'false' then
    execute format(
      'select coalesce(array_agg(u.last_receipt), ''{}'')
       from unnest($1) as u
       join %s as t on %s
       where %s
         and %s',
      p_table.tab, p_table.joins, p_table.picks, v_is_replaced)
    into v_found using p_rows;
  end if;
  return v_found;
end
$$;

-- Check the deferred constraints of what was written so far, as the caller's commit would. They are deferred again:
-- what is undone next counts on it.
create function backfill_private.check_deferred(p_path text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
begin
  perform set_config('search_path', p_path, true);
  for v_statement in select jsonb_array_elements_text(backfill_private.checks_now()) loop
    execute v_statement;
  end loop;
end
$$;

-- The statement that undoes the rows u of $1 that are not in $2.
--
-- $3  the columns of the before-images. All are set but those that the table computes
-- $4  the one row to insert
create function backfill_private.undo_statement(
  p_table regclass, p_picks text, p_joins text, p_way text, p_columns text[]
)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case p_way
    when 'delete' then format(
      'delete from %s as t
       using unnest($1) as u
       where %s
         and %s
         and not u.has_before
         and u.after_hash is not null
       returning u.last_receipt, %L::text, null::bytea',
      p_table, p_picks, p_joins, p_way)
    when 'update' then format(
      'update %1$s as t
       set (%2$s) = (select %3$s from (select u.first_before::%1$s as image offset 0) as b)
       from unnest($1) as u
       where %4$s
         and %5$s
         and u.after_hash is not null
         and u.columns = $3
         and not %7$s
       returning u.last_receipt, %6$L::text, backfill_private.row_hash(t)',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attidentity <> 'a'),
      string_agg('(b.image).' || quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attidentity <> 'a'),
      p_picks, p_joins, p_way,
      backfill_private.replaced_sql(p_table))
    when 'replace' then format(
      'with gone as (
         delete from %1$s as t
         using unnest($1) as u
         where %4$s
           and %5$s
           and u.last_receipt = $4
           and u.columns = $3
         returning u.first_before)
       insert into %1$s as t (%2$s) overriding system value
       select %3$s
       from gone as u
       cross join lateral (select u.first_before::%1$s as image offset 0) as b
       returning $4, ''update''::text, backfill_private.row_hash(t)',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
      string_agg('(b.image).' || quote_ident(a.attname), ', ' order by a.attnum),
      p_picks, p_joins)
    else format(
      'insert into %1$s as t (%2$s) overriding system value
       select %3$s
       from unnest($1) as u
       cross join lateral (select u.first_before::%1$s as image offset 0) as b
       where u.last_receipt = $4
       returning $4, %4$L::text, backfill_private.row_hash(t)',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
      string_agg('(b.image).' || quote_ident(a.attname), ', ' order by a.attnum),
      p_way)
  end
  from pg_attribute as a
  where a.attrelid = p_table
    and a.attnum > 0
    and not a.attisdropped
    and a.attgenerated = ''
    and a.attname = any (p_columns)
$$;

-- Undo all rows of some sessions at once. A row in conflict is left as it is. A session of which a row was undone is no
-- longer done, even if other rows stay. The caller has locked the items.
--
-- The rows are written under a header of the undo's own. Under it the triggers on the target tables let the undo's own
-- statements pass and refuse any row that a trigger of the user's writes on top. The receipts are written here, from
-- what the statements return.
-- returns  see backfill_private.undo_effect
-- raises   any error of the database or of a user's trigger. OB011 a trigger writes further rows
create function backfill_private.undo_at_once(p_run_id uuid, p_ordinals integer[], p_terms backfill_private.undo_terms)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_headers text := current_setting('request.headers', true);
  v_rows backfill_private.undoable[] := array(select r from backfill_private.undo_rows(p_run_id, p_ordinals) as r);
  v_table backfill_private.undo_table;
  v_found jsonb;
  v_conflicts jsonb := '{}'::jsonb;
begin
  for v_table in select * from backfill_private.undo_tables(v_rows) loop
    perform set_config('request.headers', jsonb_build_object('x-backfill-undo', p_run_id)::text, true);
    v_found := backfill_private.undo_conflicts(v_table, v_rows, true);
    v_conflicts := v_conflicts || v_found;
    insert into public.backfill_receipts (
      run_id, ordinal, session_id, component, kind, operation, table_name, row_key, shape, before_hash, after_hash,
      attempt, at, undo_id)
    select
      p_run_id,
      u.ordinal,
      u.session_id,
      u.component,
      'undo',
      w.operation,
      u.table_name,
      u.row_key,
      u.shape,
      u.after_hash,
      w.after_hash,
      u.attempt,
      v_now,
      p_terms.undo_id
    from backfill_private.undo_write(v_table, v_rows, v_found, p_terms.path) as w
    join unnest(v_rows) as u using (last_receipt);
  end loop;
  perform backfill_private.check_deferred(p_terms.path);
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  perform backfill_private.undo_noted(p_run_id, p_ordinals, v_rows, v_conflicts, v_now, p_terms.undo_id);
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;

-- Mark the receipts of the rows that were undone, and the sessions that they belong to.
create function backfill_private.undo_noted(
  p_run_id uuid, p_ordinals integer[], p_rows backfill_private.undoable[], p_conflicts jsonb, p_now timestamptz,
  p_undo_id bigint
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
as $$
declare
  v_left integer[] := array(
    select u.ordinal
    from unnest(p_rows) as u
    where p_conflicts <> '{}'
    group by u.ordinal
    having bool_and(p_conflicts ? u.last_receipt::text));
begin
  update public.backfill_receipts as r
  set undone_at = p_now,
      undo_id = p_undo_id
  where r.receipt_id = any (array(
    select unnest(u.receipts)
    from unnest(p_rows) as u
    where p_conflicts = '{}'
      or not p_conflicts ? u.last_receipt::text));
  update public.backfill_items as i
  set fence_hash = null,
      lease_kind = null,
      lease_until = null,
      claim_id = null,
      worker = null,
      state = case when i.ordinal = any (v_left) then i.state else 'rolled_back' end
  where i.run_id = p_run_id
    and i.ordinal = any (p_ordinals);
end
$$;

-- Undo one written row, if nothing is against it: see undo_conflicts, the database, the user's code.
--
-- returns  null, or why not
-- raises   57014 the statement was ended from outside, and with fewer sessions it may not be
create function backfill_private.refusal_to_undo(
  p_table backfill_private.undo_table, p_row backfill_private.undoable, p_terms backfill_private.undo_terms
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_why text;
  v_is_back boolean;
begin
  v_why := backfill_private.undo_conflicts(p_table, array[p_row], true) ->> p_row.last_receipt::text;
  if v_why is not null then
    return v_why;
  end if;
  perform backfill_private.undo_write(p_table, array[p_row], '{}', p_terms.path);
  perform backfill_private.check_deferred(p_terms.path);
  if not p_row.has_before then
    execute format('select exists (select from unnest($1) as u join %s as t on %s)', p_table.tab, p_table.joins)
    into v_is_back using array[p_row];
    if v_is_back then
      raise exception 'a trigger of % puts the row back', p_table.tab;
    end if;
  end if;
  return null;
exception when query_canceled or assert_failure or others then
  if backfill_private.is_cancel(sqlstate, sqlerrm, p_terms.limit_at) and not p_terms.is_alone then
    raise;
  end if;
  return format('the database refuses it: %s %s', sqlstate, backfill_private.kept_message(sqlstate, sqlerrm));
end
$$;

-- Undo one session's rows one by one, the newest first, through the gate. The fence never leaves this function. Every
-- row gets a receipt, and so does any row of this session that a trigger of the user's writes.
--
-- returns  see backfill_private.undo_effect
-- raises   57014 as refusal_to_undo
create function backfill_private.undo_item(p_run_id uuid, p_ordinal integer, p_terms backfill_private.undo_terms)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fence text := backfill_private.new_fence();
  v_headers text := current_setting('request.headers', true);
  v_rows backfill_private.undoable[];
  v_row backfill_private.undoable;
  v_table backfill_private.undo_table;
  v_why text;
  v_conflicts jsonb := '{}'::jsonb;
  v_newest bigint := (
    select max(r.receipt_id) from public.backfill_receipts as r where r.run_id = p_run_id and r.ordinal = p_ordinal);
begin
  perform from public.backfill_items
  where run_id = p_run_id
    and ordinal = p_ordinal
  for update;
  update public.backfill_items
  set fence_hash = sha256(convert_to(v_fence, 'UTF8')),
      lease_kind = 'undo',
      lease_until = backfill_private.clock() + backfill_private.lease_ttl()
  where run_id = p_run_id
    and ordinal = p_ordinal;
  v_rows := array(select r from backfill_private.undo_rows(p_run_id, array[p_ordinal]) as r);
  foreach v_row in array v_rows loop
    -- For each row anew: code of the user's may have set it otherwise.
    perform set_config('request.headers',
      jsonb_build_object('x-backfill-run', p_run_id, 'x-backfill-fence', v_fence)::text, true);
    select * into strict v_table from backfill_private.undo_tables(array[v_row]);
    -- PostgreSQL ends a statement only once at its time limit. After that nothing more of the user's is run.
    v_why := case
      when backfill_private.clock() >= p_terms.limit_at then 'undoing it meets the time limit of a statement'
      else backfill_private.refusal_to_undo(v_table, v_row, p_terms)
    end;
    if v_why is not null then
      v_conflicts := v_conflicts || jsonb_build_object(v_row.last_receipt, v_why);
    end if;
  end loop;
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  -- The gate, which wrote these, knows of no undo.
  update public.backfill_receipts as r
  set undo_id = p_terms.undo_id
  where r.run_id = p_run_id and r.ordinal = p_ordinal and r.kind = 'undo' and r.receipt_id > v_newest;
  perform backfill_private.undo_noted(
    p_run_id, array[p_ordinal], v_rows, v_conflicts, backfill_private.clock(), p_terms.undo_id);
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;

-- from sql/85_rehearse/beside.sql
-- Two sessions in one transaction, as in bulk: does the second come out as if it were alone?

-- Choose a session to call first, one that lacks the same if there is any, and put it into the sample. Call it in a
-- subtransaction that is rolled back.
--
-- returns  its id. Null if there is none, if such a pair was looked at already, or if the throttle leaves no room
create function backfill_private.beside_session(p_run_id uuid, p_session_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_me backfill_private.rehearsals;
  v_other backfill_private.findings;
  v_room bigint;
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.locked_run(p_run_id, array['planning']);
  select * into strict v_me
  from backfill_private.rehearsals as s
  where s.run_id = p_run_id
    and s.session_id = p_session_id;
  select least(
    (r.request ->> 'throttle_per_minute')::bigint,
    x.max_throttle_per_minute - backfill_private.share_taken(null)) into v_room
  from public.backfill_runs as r, backfill_private.settings() as x
  where r.run_id = p_run_id;
  if exists (
    select from backfill_private.rehearsals as s
    where s.run_id = p_run_id
      and s.components = v_me.components
      and s.seen ? 'beside'
  ) or v_room < (
    select 2 * count(*) + 3 * count(distinct s.components)
    from backfill_private.rehearsals as s
    where s.run_id = p_run_id
  ) then
    return null;
  end if;
  select f.* into v_other
  from backfill_private.findings as f
  where f.run_id = p_run_id
    and f.excluded is null
    and f.session_id <> p_session_id
    and f.components && v_me.components
    and not exists (
      select from public.backfill_targets as t
      join public.backfill_runs as r on r.target = t.target
      where r.run_id = p_run_id
        and t.transport = 'edge'
        and t.component = any (f.components))
    and not exists (
      select from public.backfill_items as i
      where i.session_id = f.session_id
        and i.state = 'leased')
  order by f.components = v_me.components desc
  limit 1;
  if not found then
    return null;
  end if;
  insert into backfill_private.rehearsals (run_id, ordinal, session_id, session_at, components, category, phase)
  values (p_run_id, 0, v_other.session_id, v_other.session_at, v_other.components, v_me.category, v_me.phase)
  on conflict (run_id, session_id) do update set seen = null;
  return v_other.session_id;
end
$$;

-- The rows of a scratch run's session, a hash per column: {table: {key: {column: hash}}}.
create function backfill_private.row_hashes(p_scratch uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.scratch_target(p_scratch);
  perform backfill_private.keep_rows(p_scratch, 'first');
  return (
    select coalesce(jsonb_object_agg(t.table_name, t.by_key), '{}')
    from (
      select r.table_name, jsonb_object_agg(r.row_key::text, (
        select jsonb_object_agg(c.key, md5(c.value::text)) from jsonb_each(r.contents) as c)) as by_key
      from backfill_private.rehearsal_rows as r
      where r.scratch = p_scratch
        and r.moment = 'first'
      group by r.table_name
    ) as t
  );
end
$$;

-- The columns that differ between the rows of two calls, see backfill_private.row_hashes: [table.column].
create function backfill_private.columns_apart(p_one jsonb, p_other jsonb)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  with one as (
    select t.key as table_name, r.key as row_key, c.key as column_name, c.value
    from jsonb_each(p_one) as t
    cross join lateral jsonb_each(t.value) as r
    cross join lateral jsonb_each(r.value) as c
  ), other as (
    select t.key as table_name, r.key as row_key, c.key as column_name, c.value
    from jsonb_each(p_other) as t
    cross join lateral jsonb_each(t.value) as r
    cross join lateral jsonb_each(r.value) as c
  )
  select coalesce(jsonb_agg(distinct table_name || '.' || column_name), '[]')
  from one
  full join other using (table_name, row_key, column_name)
  where one.value is distinct from other.value
$$;

-- Score a session in a transaction of its own, or after another one, as bulk does. Everything is rolled back.
--
-- returns  {error, rows: see backfill_private.row_hashes}. Null if that says nothing about the session
create function backfill_private.rehearse_again(
  p_run_id uuid, p_session_id text, p_search_path text, p_is_beside boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sessions text[] := array[p_session_id];
  v_session text;
  v_lease jsonb;
  v_pass jsonb;
  v_seen jsonb;
  v_is_seen boolean := false;
  v_calls integer := 1 + p_is_beside::integer;
  v_began timestamptz := backfill_private.clock();
begin
  if backfill_private.rehearsal_waits(v_calls) is not null then
    return null;
  end if;
  begin
    if p_is_beside then
      v_sessions := backfill_private.beside_session(p_run_id, p_session_id) || v_sessions;
    end if;
    perform set_config('lock_timeout', '1s', true);
    foreach v_session in array v_sessions loop
      exit when v_session is null;
      v_lease := backfill_private.rehearsal_lease(p_run_id, v_session);
      exit when not v_lease ? 'steps';
      perform set_config('request.headers',
        (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb || (v_lease -> 'headers'))::text,
        true);
      v_pass := backfill_private.rehearse_pass(v_lease -> 'steps', p_search_path, backfill_private.limit_at());
      if v_session = p_session_id then
        v_seen := jsonb_build_object(
          'error', v_pass -> 'error',
          'rows', backfill_private.row_hashes((v_lease ->> 'scratch')::uuid));
      end if;
      exit when v_pass ->> 'error' is not null or backfill_private.gives_way(v_began);
    end loop;
    v_is_seen := true;
    raise exception 'everything is rolled back';
  exception when query_canceled or assert_failure or others then
    v_seen := case when v_is_seen then v_seen end;
  end;
  if v_lease ? 'steps' then
    perform backfill_private.count_rehearsal(v_calls);
  end if;
  return v_seen;
end
$$;

-- What a session comes to after another one in the same transaction. Columns that differ from call to call anyway, such
-- as those with the time or a number of a sequence, do not count.
--
-- p_alone  the rows of its call alone, see backfill_private.row_hashes
-- returns  {beside: {error, differs: [table.column]}}, or {} if that was not looked at
create function backfill_private.seen_beside(p_run_id uuid, p_session_id text, p_search_path text, p_alone jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_beside jsonb := backfill_private.rehearse_again(p_run_id, p_session_id, p_search_path, true);
  v_again jsonb;
  v_differs jsonb := '[]'::jsonb;
begin
  if v_beside is null then
    return '{}'::jsonb;
  elsif v_beside ->> 'error' is null then
    v_differs := backfill_private.columns_apart(p_alone, v_beside -> 'rows');
    if v_differs <> '[]' then
      v_again := backfill_private.rehearse_again(p_run_id, p_session_id, p_search_path, false);
      if v_again is null then
        return '{}'::jsonb;  -- which columns differ anyway is not known then
      end if;
      v_differs := v_differs - array(
        select jsonb_array_elements_text(backfill_private.columns_apart(p_alone, v_again -> 'rows')));
    end if;
  end if;
  return jsonb_build_object('beside', jsonb_build_object('error', v_beside -> 'error', 'differs', v_differs));
end
$$;

-- from sql/85_rehearse/rehearse.sql
-- Rehearsal: the real scoring calls of a few sessions, made while planning and rolled back.
--
-- Each session is one call of the API, with the caller's rights, in a subtransaction that is always rolled back. There
-- a scratch run leases the session, so that gate, receipts and undo are the real ones. A variable keeps what was seen.
-- Numbers drawn from sequences and calls out of the database are not rolled back.

-- How many sessions may be rehearsed: as many as requested, by default 5, or none if the environment is production.
-- Each is scored twice, so at most half of one minute's share of the throttle, and never more than 100.
create function backfill_private.rehearsal_room(p_run public.backfill_runs)
returns integer
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select least(
    coalesce(p_run.rehearse, case when lower(p_run.environment) = 'production' then 0 else 5 end),
    (p_run.request ->> 'throttle_per_minute')::integer / 2,
    case when s.max_throttle_per_minute is not null
      then greatest(s.max_throttle_per_minute - backfill_private.share_taken(null), 0) / 2 end,
    100)
  from backfill_private.settings() as s
$$;

-- Choose the sessions to rehearse: one candidate of each category first, then the priority sessions, then one of each
-- category and phase. None that an Edge Function scores. A second call chooses the same.
--
-- returns  the sessions' ids, in order
-- raises   OB002 not in planning or windows left, OB010 not allowed
create function backfill_private.rehearsal_sample(p_run_id uuid)
returns text[]
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('plan');
  v_run := backfill_private.locked_run(p_run_id, array['planning']);
  if v_run.collect_from < v_run.collect_until then
    perform backfill_private.refuse('OB002', format('run %s is not collected to its end', p_run_id),
      backfill_private.hint(v_run));
  end if;
  perform backfill_private.leave_to_others(v_run);
  insert into backfill_private.rehearsals (run_id, ordinal, session_id, session_at, components, category, phase)
  select
    p_run_id,
    row_number() over (order by c.rank, c.ordinal),
    c.session_id,
    c.session_at,
    c.components,
    c.category,
    c.phase
  from (
    select
      p.*,
      case
        when row_number() over (partition by p.category order by p.ordinal) = 1 then 1
        when p.phase = 'priority' then 2
        when row_number() over (partition by p.category, p.phase order by p.ordinal) = 1 then 3
      end as rank
    from backfill_private.placed(v_run) as p
    -- No transaction takes back what an Edge Function does.
    where not exists (
      select from public.backfill_targets as t
      where t.target = v_run.target
        and t.transport = 'edge'
        and t.component = any (p.components)
    )
  ) as c
  where c.rank is not null
  order by c.rank, c.ordinal
  limit backfill_private.rehearsal_room(v_run)
  on conflict do nothing;
  return (
    select coalesce(array_agg(s.session_id order by s.ordinal), '{}')
    from backfill_private.rehearsals as s
    where s.run_id = p_run_id
  );
end
$$;

-- Why so many calls may not be made now. Null: they may, and their slots are locked, see throttle.sql.
create function backfill_private.rehearsal_waits(p_calls integer)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('plan');
  if not exists (select from public.backfill_settings as s where s.max_throttle_per_minute is not null)
    or backfill_private.slots_wait_s(p_calls) = 0
  then
    return null;
  end if;
  return coalesce(backfill_private.slots_taken(p_calls), 'others are just taking the starts that this project allows');
end
$$;

-- Wait for other clients that rehearse for the same run, until this transaction ends. Two may plan one run, and side by
-- side their calls would wait for each other's rows, and seem to fail. Take it outside of what is rolled back, which
-- gives its locks back: afterwards the session is scored once more beside another.
--
-- raises  OB010 not allowed, OB021 see take_lock
create function backfill_private.take_rehearsal_lock(p_run_id uuid)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.take_lock(
    backfill_private.lock_key('rehearsal', p_run_id::text), false, format('the rehearsal for run %s', p_run_id));
end
$$;

-- Count calls that were made and rolled back. Outside of what is rolled back, or nothing is counted.
create function backfill_private.count_rehearsal(p_calls integer)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.take_slots(p_calls);
end
$$;

-- Lease a session to a scratch run, and keep its rows. Call it in a subtransaction that is rolled back.
--
-- returns  {scratch, headers, steps: [{component, function, call}], writes}, or {why} if it cannot be rehearsed
-- raises   OB002 not in planning, OB010 not allowed, OB014 the session is not in the sample
create function backfill_private.rehearsal_lease(p_run_id uuid, p_session_id text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_grant jsonb;
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_bounds(jsonb_build_object('the session', p_session_id));
  select * into v_run from public.backfill_runs where run_id = p_run_id and state = 'planning';
  if not exists (
    select from backfill_private.rehearsals as s
    where s.run_id = v_run.run_id
      and s.session_id = p_session_id
  ) then
    perform backfill_private.refuse('OB014',
      format('session %s is not to be rehearsed for run %s', left(p_session_id, 80), p_run_id),
      'backfill plan … --rehearse 5');
  elsif exists (
    select from backfill_private.rehearsals as s
    where s.run_id = p_run_id
      and s.session_id = p_session_id
      and s.seen is not null
  ) then
    return jsonb_build_object('why', 'it is rehearsed already');  -- by a call whose reply was lost
  elsif exists (
    select from public.backfill_items as i
    where i.source = v_run.target
      and i.session_id = p_session_id
      and i.state = 'leased'
  ) then
    return jsonb_build_object('why', 'another run is scoring it');
  elsif exists (
    select from backfill_private.rehearsals as s
    where s.run_id = p_run_id
      and s.seen #>> '{error,is_limit}' = 'true'
  ) then
    return jsonb_build_object('why', 'another session was slower than the limit');
  end if;
  v_run := jsonb_populate_record(v_run, jsonb_build_object(
    'run_id', gen_random_uuid(),
    'state', 'running',
    'requested_via', 'rehearsal',
    'approved_until', backfill_private.clock() + backfill_private.lease_ttl()));
  insert into public.backfill_runs select v_run.*;
  insert into public.backfill_items (
    run_id, ordinal, source, session_id, session_at, components, category, phase, batch)
  select v_run.run_id, 1, v_run.target, s.session_id, s.session_at, s.components, s.category, s.phase, 1
  from backfill_private.rehearsals as s
  where s.run_id = p_run_id
    and s.session_id = p_session_id;
  v_grant := backfill_private.grant_fences(v_run, array[1], gen_random_uuid(), 'rehearsal') -> 0;
  perform backfill_private.keep_rows(v_run.run_id, 'before');
  return jsonb_build_object(
    'scratch', v_run.run_id,
    'headers', jsonb_build_object('x-backfill-run', v_run.run_id, 'x-backfill-fence', v_grant ->> 'fence'),
    'steps', (
      select jsonb_agg(
        jsonb_build_object(
          'component', s.step -> 'component',
          'function', s.step -> 'function',
          'call', backfill_private.call_sql(t.function_signature, s.step -> 'arguments'))
        order by t.position)
      from jsonb_array_elements(v_grant -> 'steps') as s (step)
      join public.backfill_targets as t
        on t.target = v_run.target
        and t.component = s.step ->> 'component'),
    'writes', backfill_private.writes_elsewhere(v_run.target));
end
$$;

-- Make a session's calls one by one, and then check deferred constraints, which are deferred again for another pass.
-- The first failed call ends the pass, and its own writes are rolled back. After each call the settings are put back,
-- as the end of its transaction would.
--
-- p_steps        [{component, function, call: SQL}]
-- p_search_path  that of a call through the API, since the scoring functions will run under it
-- p_limit_at     when the time limit of the statement comes
-- returns        {calls: [{component, function, took_ms}], error: null or {step, code, is_limit: it met the time limit,
--                message}}
create function backfill_private.rehearse_pass(p_steps jsonb, p_search_path text, p_limit_at timestamptz)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step jsonb;
  v_began timestamptz;
  v_calls jsonb := '[]'::jsonb;
  v_settings jsonb := backfill_private.settings_kept(backfill_private.loose_settings(), p_search_path);
  v_check text;
begin
  for v_step in
    select s from jsonb_array_elements(p_steps || '{"function": "a deferred constraint"}'::jsonb) as s
  loop
    v_began := backfill_private.clock();
    begin
      perform set_config('search_path', p_search_path, true);
      if v_step ? 'call' then
        execute v_step ->> 'call';
      else
        for v_check in select jsonb_array_elements_text(backfill_private.checks_now()) loop
          execute v_check;
        end loop;
        exit;
      end if;
    exception when query_canceled or assert_failure or others then
      return jsonb_build_object('calls', v_calls, 'error', jsonb_build_object(
        'code', sqlstate,
        'step', v_step ->> 'function',
        'is_limit', backfill_private.is_cancel(sqlstate, sqlerrm, p_limit_at),
        'message', backfill_private.kept_message(sqlstate, sqlerrm)));
    end;
    perform set_config(s.key, s.value, true) from jsonb_each_text(v_settings) as s;
    v_calls := v_calls || jsonb_build_object(
      'component', v_step -> 'component',
      'function', v_step -> 'function',
      'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
  end loop;
  return jsonb_build_object('calls', v_calls, 'error', null);
end
$$;

-- Keep what was seen of a session. What a first call kept stays.
create function backfill_private.keep_rehearsal(p_run_id uuid, p_session_id text, p_seen jsonb)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.locked_run(p_run_id, array['planning']);
  update backfill_private.rehearsals
  set seen = p_seen
  where run_id = p_run_id
    and session_id = p_session_id
    and seen is null;
end
$$;

-- from sql/85_rehearse/rows.sql
-- The rehearsal's rows: before, between and after the calls.

-- Keep the rows that a scratch run's session has in the target tables at this moment. Each column stands as its type
-- writes it.
create function backfill_private.keep_rows(p_scratch uuid, p_moment text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
declare
  v_target public.backfill_targets;
  v_columns text[];
begin
  for v_target in
    select t.*
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_scratch
    order by t.position
  loop
    v_columns := array(
      select a.attname::text
      from pg_attribute as a
      where a.attrelid = v_target.table_name::regclass
        and a.attnum > 0
        and not a.attisdropped);
    execute format(
      'insert into backfill_private.rehearsal_rows (scratch, moment, table_name, row_key, contents)
       select $1, $2, %L, backfill_private.row_key(backfill_private.row_json(t), $3), jsonb_object($4, array[%s])
       from %s as t
       join public.backfill_items as item
         on item.run_id = $1
         and t.%I = %s
       on conflict do nothing',
      backfill_private.bare_name(v_target.table_name),
      (select string_agg(format('row(t.%I)::text', c.name), ', ' order by c.place)
        from unnest(v_columns) with ordinality as c (name, place)),
      v_target.table_name::regclass,
      v_target.session_column,
      backfill_private.session_key(v_target.target))
    using p_scratch, p_moment, v_target.key_columns, v_columns;
  end loop;
end
$$;

-- What this transaction has written so far to tables that are neither the target's nor ours.
--
-- returns  {table: {inserted, updated, deleted}}, as PostgreSQL counts them. Rolled back writes count too
create function backfill_private.writes_elsewhere(p_target text)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  -- The view's counters are volatile, so without a step of its own each table of the project would be looked up.
  with written as materialized (
    select w.relid, w.n_tup_ins, w.n_tup_upd, w.n_tup_del
    from pg_stat_xact_user_tables as w
    where w.n_tup_ins + w.n_tup_upd + w.n_tup_del > 0
  )
  select coalesce(jsonb_object_agg(w.relid::regclass::text, jsonb_build_object(
      'inserted', w.n_tup_ins, 'updated', w.n_tup_upd, 'deleted', w.n_tup_del)), '{}')
  from written as w
  where backfill_private.is_unwatched(p_target, w.relid)
$$;

-- How a session's rows differ between two moments, per table.
--
-- returns  {table: {before, after, inserted, updated, deleted, columns: that differ in an updated row}}
create function backfill_private.rows_between(p_scratch uuid, p_from text, p_to text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with pairs as (
    select coalesce(a.table_name, b.table_name) as table_name, b.contents as was, a.contents as becomes
    from (
      select *
      from backfill_private.rehearsal_rows as r
      where r.scratch = p_scratch
        and r.moment = p_from
    ) as b
    full join (
      select *
      from backfill_private.rehearsal_rows as r
      where r.scratch = p_scratch
        and r.moment = p_to
    ) as a
      on a.table_name = b.table_name
      and a.row_key = b.row_key
  ), columns as (
    select p.table_name, jsonb_agg(distinct c.key order by c.key) as names
    from pairs as p
    cross join lateral jsonb_each(p.becomes) as c
    where p.was is not null
      and p.was -> c.key is distinct from c.value
    group by p.table_name
  ), counted as (
    select
      p.table_name,
      count(p.was) as before,
      count(p.becomes) as after,
      count(*) filter (where p.was is null) as inserted,
      count(*) filter (where p.was <> p.becomes) as updated,
      count(*) filter (where p.becomes is null) as deleted
    from pairs as p
    group by p.table_name
  )
  select coalesce(jsonb_object_agg(c.table_name, to_jsonb(c) - 'table_name'
    || jsonb_build_object('columns', coalesce(n.names, '[]'))), '{}')
  from counted as c
  left join columns as n using (table_name)
$$;

-- The columns of rows that the first pass wrote with the time of the transaction: {table: [column]}. Whether a second
-- call sets such a column again cannot be told within one transaction.
create function backfill_private.columns_of_now(p_scratch uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
as $$
  select coalesce(jsonb_object_agg(n.table_name, n.columns), '{}') from (
    select r.table_name, jsonb_agg(distinct c.key order by c.key) as columns
    from backfill_private.rehearsal_rows as r
    cross join lateral jsonb_each(r.contents) as c
    where r.scratch = p_scratch
      and r.moment = 'first'
      and c.value #>> '{}' in (row(now())::text, row(localtimestamp)::text)
    group by r.table_name
  ) as n
$$;

-- The target of a scratch run. Only such a run's rows may be kept, since they never outlive its transaction.
--
-- raises  OB001 it is not a scratch run
create function backfill_private.scratch_target(p_scratch uuid)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text;
begin
  select r.target into v_target
  from public.backfill_runs as r
  where r.run_id = p_scratch
    and r.requested_via = 'rehearsal';
  if not found then
    perform backfill_private.refuse('OB001', format('there is no rehearsal %s', p_scratch),
      'backfill plan … --rehearse 5');
  end if;
  return v_target;
end
$$;

-- What the first pass left: rows, writes elsewhere, columns with the transaction's time, a component without its row.
create function backfill_private.seen_first(p_scratch uuid, p_writes_before jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := backfill_private.scratch_target(p_scratch);
begin
  perform backfill_private.keep_rows(p_scratch, 'first');
  return jsonb_build_object(
    'tables', backfill_private.rows_between(p_scratch, 'before', 'first'),
    'undecidable', backfill_private.columns_of_now(p_scratch),
    'receipts', (
      select coalesce(jsonb_agg(e.component), '[]')
      from backfill_private.effects(p_scratch) as e
      where e.has_receipt),
    'without_effect', (
      select e.component
      from backfill_private.effects(p_scratch) as e
      where not e.is_wanted
      limit 1),
    'elsewhere', (
      select coalesce(jsonb_object_agg(w.key, backfill_private.counts_since(p_writes_before -> w.key, w.value)), '{}')
      from jsonb_each(backfill_private.writes_elsewhere(v_target)) as w
      where w.value is distinct from p_writes_before -> w.key));
end
$$;

-- How much each count has grown.
create function backfill_private.counts_since(p_before jsonb, p_now jsonb)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_object_agg(n.key, n.value::bigint - coalesce((p_before ->> n.key)::bigint, 0))
  from jsonb_each_text(p_now) as n
$$;

-- What the second pass changed in the rows of the first.
create function backfill_private.seen_second(p_scratch uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.scratch_target(p_scratch);
  perform backfill_private.keep_rows(p_scratch, 'second');
  return jsonb_build_object('tables', backfill_private.rows_between(p_scratch, 'first', 'second'));
end
$$;

-- Undo the scratch run's rows as a real undo does, and compare with before.
--
-- returns  {conflicts: [reason], tables: see backfill_private.rows_between}
create function backfill_private.seen_undone(p_scratch uuid, p_search_path text, p_limit_at timestamptz)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_terms backfill_private.undo_terms;
  v_conflicts jsonb;
begin
  v_terms.limit_at := p_limit_at;
  perform backfill_private.scratch_target(p_scratch);
  v_terms.path := backfill_private.undo_path(p_search_path);
  select coalesce(jsonb_agg(distinct c.value ->> 'reason'), '[]') into v_conflicts
  from jsonb_array_elements(backfill_private.undo_item(p_scratch, 1, v_terms) -> 'conflicts') as c;
  perform backfill_private.keep_rows(p_scratch, 'undone');
  return jsonb_build_object(
    'conflicts', v_conflicts,
    'tables', backfill_private.rows_between(p_scratch, 'before', 'undone'));
end
$$;

-- What was seen of a session until an error ended its rehearsal. It is the error of what came next: the rows that the
-- calls left, the second call, or the undo. A time limit that came after the first call says nothing against those.
create function backfill_private.seen_until(p_seen jsonb, p_code text, p_message text, p_limit_at timestamptz)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_seen ->> 'error' is not null then p_seen
    when not p_seen ? 'tables' then p_seen || jsonb_build_object('error', e.error)
    when backfill_private.is_cancel(p_code, p_message, p_limit_at) then p_seen
    when not p_seen ? 'second' then p_seen || jsonb_build_object('second', jsonb_build_object('error', e.error))
    else p_seen || jsonb_build_object('undone', jsonb_build_object(
      'tables', '{}'::jsonb,
      'conflicts', jsonb_build_array(format('the undo ends with %s %s', p_code, e.error ->> 'message'))))
  end
  from (
    select jsonb_build_object(
      'step', 'what the calls left',
      'code', p_code,
      'message', backfill_private.kept_message(p_code, p_message)) as error
  ) as e
$$;

-- from sql/90_project/catalog.sql
-- The catalog, as a declaration is drafted from it: relations, keys, functions. Only catalogs are read, never a row.

-- The columns of a relation: [{name, type, base_type, not_null, default, labels: of an enum}].
create function backfill_private.catalog_columns(p_relation oid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'name', a.attname,
    'type', format_type(a.atttypid, a.atttypmod),
    'base_type', case t.typtype
      when 'd' then backfill_private.base_type(a.atttypid, -1)
      else format_type(a.atttypid, -1)
    end,
    'not_null', a.attnotnull,
    'default', pg_get_expr(d.adbin, d.adrelid),
    'labels', (select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_enum as e where e.enumtypid = t.oid)
  ) order by a.attnum), '[]')
  from pg_attribute as a
  join pg_type as t on t.oid = a.atttypid
  left join pg_attrdef as d
    on d.adrelid = a.attrelid
    and d.adnum = a.attnum
  where a.attrelid = p_relation
    and a.attnum > 0
    and not a.attisdropped
$$;

-- What names one row of a relation, always: [{columns, is_primary}], the primary key first.
create function backfill_private.catalog_keys(p_relation oid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object('columns', k.columns, 'is_primary', x.indisprimary)
    order by x.indisprimary desc, cardinality(k.columns), k.columns), '[]')
  from pg_index as x
  cross join lateral (
    select array_agg(a.attname::text order by i.place) as columns
    from unnest(x.indkey::smallint[]) with ordinality as i (attnum, place)
    join pg_attribute as a
      on a.attrelid = x.indrelid
      and a.attnum = i.attnum
    where i.place <= x.indnkeyatts
  ) as k
  where x.indrelid = p_relation
    and x.indisunique
    and x.indisvalid
    and x.indimmediate
    and x.indexprs is null
    and x.indpred is null
$$;

-- The foreign keys of a relation: [{columns, schema, table, to_columns}].
create function backfill_private.catalog_references(p_relation oid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'columns', (
      select jsonb_agg(a.attname order by i.place)
      from unnest(f.conkey) with ordinality as i (attnum, place)
      join pg_attribute as a
        on a.attrelid = f.conrelid
        and a.attnum = i.attnum
    ),
    'schema', other_schema.nspname,
    'table', other.relname,
    'to_columns', (
      select jsonb_agg(a.attname order by i.place)
      from unnest(f.confkey) with ordinality as i (attnum, place)
      join pg_attribute as a
        on a.attrelid = f.confrelid
        and a.attnum = i.attnum
    )
  ) order by f.conname), '[]')
  from pg_constraint as f
  join pg_class as other on other.oid = f.confrelid
  join pg_namespace as other_schema on other_schema.oid = other.relnamespace
  where f.conrelid = p_relation
    and f.contype = 'f'
$$;

-- The relations that a declaration may name, each with its columns, keys, foreign keys and checks.
--
-- returns  {schema, name, kind, columns, keys, foreign_keys, checks: [text], indexed: the columns that an index begins
--          with, null if none can be built there beside writers}
create function backfill_private.catalog_relations()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'schema', n.nspname,
    'name', c.relname,
    'kind', case c.relkind when 'v' then 'view' when 'm' then 'materialized view' else 'table' end,
    'columns', backfill_private.catalog_columns(c.oid),
    'keys', backfill_private.catalog_keys(c.oid),
    'foreign_keys', backfill_private.catalog_references(c.oid),
    'checks', (
      select coalesce(jsonb_agg(pg_get_constraintdef(f.oid) order by f.conname), '[]')
      from pg_constraint as f
      where f.conrelid = c.oid
        and f.contype = 'c'
    ),
    'indexed', case when c.relkind = 'r' then (
      select coalesce(jsonb_agg(a.attname order by a.attnum), '[]')
      from pg_attribute as a
      where a.attrelid = c.oid
        and a.attnum > 0
        and not a.attisdropped
        and backfill_private.leads_an_index(c.oid, a.attname)
    ) end
  )
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm')
    and not c.relispartition
    and n.nspname !~ '^pg_'
    and n.nspname not in ('information_schema', 'backfill_private')
    and not (n.nspname = 'public' and starts_with(c.relname, 'backfill_'))
    and not backfill_private.is_of_an_extension('pg_class', c.oid)
  order by n.nspname, c.relname
$$;

-- Does an extension own this object?
create function backfill_private.is_of_an_extension(p_catalog regclass, p_object oid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_depend as d
    where d.classid = p_catalog
      and d.objid = p_object
      and d.deptype = 'e'
  )
$$;

-- The functions in SQL and PL/pgSQL, each with what a call of it has to say.
--
-- returns  {schema, name, signature, arguments: [{name, type, default: null if required}], is_trigger, language, body}
create function backfill_private.catalog_functions()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'schema', n.nspname,
    'name', p.proname,
    'signature', format('%I.%I(%s)', n.nspname, p.proname, (
      select string_agg(format_type(i.type, null), ',' order by i.place)
      from unnest(p.proargtypes::oid[]) with ordinality as i (type, place)
    )),
    'arguments', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'name', a.name,
        'type', format_type(a.type, null),
        'default', case when a.nth > p.pronargs - p.pronargdefaults
          then pg_get_function_arg_default(p.oid, a.place::integer)
        end
      ) order by a.place), '[]')
      from (
        select i.name, i.type, i.place, row_number() over (order by i.place) as nth
        from unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes)
          with ordinality as i (name, type, mode, place)
        where coalesce(i.mode, 'i') in ('i', 'b', 'v')
      ) as a
    ),
    'is_trigger', p.prorettype in ('trigger'::regtype, 'event_trigger'::regtype),
    'language', l.lanname,
    'body', coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)
  )
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
  join pg_language as l on l.oid = p.prolang
  where p.prokind = 'f'
    and l.lanname in ('sql', 'plpgsql')
    and n.nspname !~ '^pg_'
    and n.nspname not in ('information_schema', 'backfill_private')
    and not (n.nspname = 'public' and starts_with(p.proname, 'backfill_'))
    and not backfill_private.is_of_an_extension('pg_proc', p.oid)
  order by n.nspname, p.proname, p.oid
$$;

-- from sql/90_project/check.sql
-- Check: is this project ready? One line per check: what was checked, how it stands, what to do about it.
--
-- A missing object raises no error here: names are looked up in the catalog, never used.

-- Our tables and views.
create function backfill_private.our_relations()
returns table (oid regclass, kind "char", is_public boolean, has_rls boolean)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select c.oid::regclass, c.relkind, n.nspname = 'public', c.relrowsecurity
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'v')
    and (n.nspname = 'backfill_private' or n.nspname = 'public' and c.relname like 'backfill\_%')
$$;

-- The statements that give a role exactly the rights on a table of ours that the migrations give it: revoked and
-- granted in one step, since a right on the whole table goes with those on its columns.
create function backfill_private.rights_cure(p_table regclass, p_role text, p_reads boolean)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(' ',
    format('revoke all on %s from public, %I;', p_table, p_role),
    case when p_reads then format('grant select%s on %s to %I;', hidden.others, p_table, p_role) end,
    case
      when p_reads and p_table = to_regclass('public.backfill_approvals')
      then format('grant insert (run_id, digest, decision, approver, note) on %s to %I;', p_table, p_role)
    end)
  from (
    select case
      when bool_or(a.attname in ('before', 'after_columns', 'fence_hash'))
      then format(' (%s)', string_agg(quote_ident(a.attname), ', ' order by a.attnum)
        filter (where a.attname not in ('before', 'after_columns', 'fence_hash')))
      else ''
    end as others
    from pg_attribute as a
    where a.attrelid = p_table
      and a.attnum > 0
      and not a.attisdropped
  ) as hidden
$$;

-- Rights that an API role has on our tables and should not have, or lacks and should have.
create function backfill_private.relation_faults()
returns table (fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with reach as (
    select
      o.*,
      r.role,
      has_any_column_privilege(r.role, o.oid, 'select') as reads,
      r.role <> 'anon' and o.is_public and (r.role = 'service_role' or o.kind = 'r' or o.oid in (
        to_regclass('public.backfill_run_progress'),
        to_regclass('public.backfill_run_failures'),
        to_regclass('public.backfill_transitions'))) as should_read,
      has_table_privilege(r.role, o.oid, 'insert, update, delete, truncate, trigger')
        or has_any_column_privilege(r.role, o.oid, 'update')
        or has_any_column_privilege(r.role, o.oid, 'insert')
          and o.oid <> to_regclass('public.backfill_approvals') as writes,
      o.oid = to_regclass('backfill_private.faults') and r.role = 'service_role' as reads_faults
    from backfill_private.our_relations() as o
    cross join unnest(array['anon', 'authenticated', 'service_role']) as r (role)
  )
  select f.fault, backfill_private.rights_cure(r.oid, r.role, r.should_read or r.reads_faults)
  from reach as r
  cross join lateral (
    select format('%s may %s %s', r.role, case when r.writes then 'write' else 'read' end, r.oid)
    where r.writes
      or r.reads and r.role = 'anon'
    union all
    select format('%s may not read %s', r.role, r.oid)
    where not r.reads
      and r.should_read
    union all
    select format('%s may read %s.%s', r.role, r.oid, a.attname)
    from pg_attribute as a
    where a.attrelid = r.oid
      and a.attname in ('before', 'after_columns', 'fence_hash')
      and has_column_privilege(r.role, r.oid, a.attnum, 'select')
    union all
    select format('%s may not hand in decisions', r.role)
    from pg_attribute as a
    where a.attrelid = r.oid
      and a.attname = 'decision'
      and r.oid = to_regclass('public.backfill_approvals')
      and r.role <> 'anon'
      and not has_column_privilege(r.role, r.oid, a.attnum, 'insert')
  ) as f (fault)
$$;

-- Functions of ours that an API role may call and should not, or may not call and should. A door is a function in
-- public. A role that may call a door must be able to call the functions that the door names. The doors of drivers are
-- the owner's alone.
create function backfill_private.function_faults()
returns table (fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with ours as (
    select
      p.oid::regprocedure as signature,
      p.proname,
      p.prosrc,
      p.pronamespace = 'public'::regnamespace as is_door,
      p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\_drive%' as is_owners
    from pg_proc as p
    where p.pronamespace = 'backfill_private'::regnamespace
      or p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\_%'
  ), named as (
    select o.signature as door, n.found[1] as name
    from ours as o
    cross join lateral regexp_matches(o.prosrc, 'backfill_private\.(\w+)\(', 'g') as n (found)
    where o.is_door
  )
  select
    format('anon may call %s', o.signature),
    format('revoke all on routine %s from public, anon;', o.signature)
  from ours as o
  where has_function_privilege('anon', o.signature, 'execute')
  union all
  select
    format('service_role may not call %s', o.signature),
    format('grant execute on function %s to service_role;', o.signature)
  from ours as o
  where o.is_door
    and not o.is_owners
    and not has_function_privilege('service_role', o.signature, 'execute')
  union all
  select
    format('%s may call %s', r.role, o.signature),
    format('revoke all on routine %s from public, %I;', o.signature, r.role)
  from ours as o
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where o.is_owners
    and has_function_privilege(r.role, o.signature, 'execute')
  union all
  select distinct
    format('%s may not call %s', r.role, o.signature),
    format('grant execute on function %s to %I;', o.signature, r.role)
  from named as n
  join ours as o
    on o.proname = n.name
    and not o.is_door
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where has_function_privilege(r.role, n.door, 'execute')
    and not has_function_privilege(r.role, o.signature, 'execute')
  union all
  select
    format('anon may use the schema %s', n.nspname),
    format('revoke all on schema %I from public, anon;', n.nspname)
  from pg_namespace as n
  where n.nspname = 'backfill_private'
    and has_schema_privilege('anon', n.oid, 'usage')
  union all
  select
    format('%s may not use the schema %s', r.role, n.nspname),
    format('grant usage on schema %I to %I;', n.nspname, r.role)
  from pg_namespace as n
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where n.nspname = 'backfill_private'
    and not has_schema_privilege(r.role, n.oid, 'usage')
$$;

-- Lines on our own tables and functions: row level security, guards, rights.
create function backfill_private.our_lines()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    f.name,
    case when count(f.fault) = 0 then 'ok' else 'fail' end,
    coalesce(string_agg(f.fault, '; ' order by f.fault), f.well),
    string_agg(distinct f.cure, ' ' order by f.cure))
  from (
    select 1 as place, 'row level security of our tables' as name, 'on for every table' as well, o.fault, o.cure
    from (values (true)) as always
    left join lateral (
      select
        format('off for %s', t.oid) as fault,
        format('alter table %s enable row level security;', t.oid) as cure
      from backfill_private.our_relations() as t
      where t.kind = 'r'
        and not t.has_rls
    ) as o on true
    union all
    select 2, 'guards of our tables', 'every trigger is enabled', o.fault, o.cure
    from (values (true)) as always
    left join lateral (
      select
        format('%s of %s is disabled', g.tgname, t.oid) as fault,
        format('alter table %s enable trigger %I;', t.oid, g.tgname) as cure
      from backfill_private.our_relations() as t
      join pg_trigger as g on g.tgrelid = t.oid
      where not g.tgisinternal
        and g.tgenabled not in ('O', 'A')
    ) as o on true
    union all
    select 3, 'rights on our tables', 'as the migrations grant them', o.fault, o.cure
    from (values (true)) as always
    left join backfill_private.relation_faults() as o on true
    union all
    select 4, 'rights on our functions', 'as the migrations grant them', o.fault, o.cure
    from (values (true)) as always
    left join backfill_private.function_faults() as o on true
  ) as f
  group by f.place, f.name, f.well
  order by f.place
$$;

-- Lines on the settings, even if their one row is missing.
create function backfill_private.setting_lines()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.environment_mark()
  union all
  select backfill_private.approval_policy_mark()
  union all
  select backfill_private.line('limits', 'ok',
    format('%s per minute, %s per plan, approvals valid %s',
      coalesce('at most ' || backfill_private.counted(s.max_throttle_per_minute, 'session start'),
        'any number of session starts'),
      coalesce('at most ' || backfill_private.counted(s.max_sessions, 'session'), 'any number of sessions'),
      s.approval_ttl),
    '')
  from public.backfill_settings as s
  union all
  select backfill_private.line('settings', 'fail',
    'their row is gone',
    'insert into public.backfill_settings default values;')
  where not exists (select from public.backfill_settings)
$$;

-- All checks, in the order in which a person fixes things.
--
-- p_probed  how the API answered about the calls, see backfill_private.function_marks
-- returns   [{name, status: ok | warn | fail, detail, next}]
-- raises    OB010 the caller may not read
create function backfill_private.check_project(p_probed jsonb)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set intervalstyle = 'postgres'
set quote_all_identifiers = off
as $$
declare
  v_target text;
  v_known text := (select string_agg(distinct target, ', ' order by target) from public.backfill_targets);
  v_held backfill_private.precondition[];
  v_lines jsonb;
begin
  perform backfill_private.authorize('read');
  perform backfill_private.check_bounds(jsonb_build_object('the answers of the API', p_probed));
  v_lines := jsonb_build_array(backfill_private.line('targets',
    case when v_known is null then 'fail' else 'ok' end,
    coalesce(v_known, 'no target is installed'),
    backfill_private.first_target()))
    || (select coalesce(jsonb_agg(line), '[]') from backfill_private.api_line() as line);
  for v_target in select distinct t.target from public.backfill_targets as t order by t.target loop
    v_held := array(select p from backfill_private.preconditions(v_target) as p);
    v_lines := v_lines || (
      select coalesce(jsonb_agg(l.line order by l.part, l.place), '[]') from (
        -- What is said of a table that components share is said once.
        select distinct on (a.line) a.* from (
          select 1 as part, row_number() over () as place, line from backfill_private.table_lines(v_target) as line
          union all select 2, row_number() over (), line from backfill_private.source_lines(v_target, v_held) as line
          union all select 3, row_number() over (), line from backfill_private.key_lines(v_target, v_held) as line
          union all select 4, row_number() over (), line from backfill_private.table_marks(v_target) as line
          union all
          select 4, row_number() over () + 1000, line from backfill_private.image_marks(v_target, null) as line
          union all select 5, row_number() over (), line from backfill_private.rights_lines(v_target) as line
          union all
          select 6, row_number() over (), line from backfill_private.function_marks(v_target, p_probed) as line
          union all select 7, row_number() over (), line from backfill_private.helper_lines(v_target) as line
          union all select 8, row_number() over (), line from backfill_private.need_lines(v_target, v_held) as line
          union all select 9, row_number() over (), line from backfill_private.detection_index_line(v_target) as line
        ) as a
        order by a.line, a.part, a.place
      ) as l);
  end loop;
  return v_lines
    || (select jsonb_agg(line) from backfill_private.our_lines() as line)
    || (select jsonb_agg(line) from backfill_private.setting_lines() as line);
end
$$;

-- from sql/90_project/check_target.sql
-- Check of a target: what its declaration names against what the database has. One line per difference, with what to do
-- about it.

-- Lines on the tables: does each exist, with the columns that the target's rows name?
create function backfill_private.table_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line('table ' || w.table_name,
    case when to_regclass(w.table_name) is null or w.gone is not null then 'fail' else 'ok' end,
    case
      when to_regclass(w.table_name) is null then w.table_name || ' does not exist'
      else coalesce('has no column ' || w.gone, w.present)
    end,
    case
      when to_regclass(w.table_name) is not null then w.correct
      when w.place = 0 then
        format('update backfill_private.sources set source_table = ''…'' where target = %L;', p_target)
      else
        format('update public.backfill_targets set table_name = ''…'' where target = %L and position = %s;',
          p_target, w.place)
    end)
  from (
    select
      n.place,
      n.table_name,
      string_agg(distinct n.column_name, ', ') filter (where n.type is null) as gone,
      string_agg(distinct n.column_name || ' ' || n.type, ', ') as present,
      string_agg(distinct n.correct, ' ') filter (where n.type is null) as correct
    from (
      select c.*, backfill_private.column_type(c.table_name, c.column_name) as type
      from backfill_private.wanted_columns(p_target) as c
    ) as n
    group by n.place, n.table_name
  ) as w
  order by w.place
$$;

-- Does a valid index, not a partial one, begin with this column?
create function backfill_private.leads_an_index(p_table regclass, p_column text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_index as x
    join pg_attribute as a
      on a.attrelid = x.indrelid
      and a.attnum = x.indkey[0]
    where x.indrelid = p_table
      and a.attname = p_column
      and x.indisvalid
      and x.indpred is null
  )
$$;

-- The line on an index that begins with a column. Without it everything works, but slower. No line if the column is
-- missing.
create function backfill_private.index_line(p_table text, p_column text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(format('index on %s (%s)', p_table, p_column),
    case when i.leads then 'ok' else 'warn' end,
    case when i.leads then 'there' else format('no index begins with %s: all works, slower', p_column) end,
    backfill_private.beside_writers(p_table, 'create index', format('on %s (%I)', to_regclass(p_table), p_column)))
  from (select backfill_private.leads_an_index(to_regclass(p_table), p_column) as leads) as i
  where backfill_private.column_type(p_table, p_column) is not null
$$;

-- The lines of the preconditions of a kind, of those that hold something to tell.
create function backfill_private.precondition_lines(p_held backfill_private.precondition[], p_kind text)
returns table (place integer, line jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    p.place,
    backfill_private.line(
      p.name,
      case when p.fault is null then 'ok' else 'fail' end,
      coalesce(p.fault, p.detail),
      p.cure)
  from unnest(p_held) as p
  where p.kind = p_kind
    and (p.fault is not null or p.detail is not null)
$$;

-- Lines on the keys of the tables that exist: unique, of one kind, indexed by session. A line on versions and kinds
-- only if a column cannot be compared with one.
create function backfill_private.key_lines(p_target text, p_held backfill_private.precondition[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select l.line
  from (
    select p.place, 1 as rank, p.line from backfill_private.precondition_lines(p_held, 'key') as p
    union all
    select p.place, 2, p.line from backfill_private.precondition_lines(p_held, 'session') as p
    union all
    select p.place, 3, p.line from backfill_private.precondition_lines(p_held, 'value') as p
    union all
    select t.position, 4, i.line
    from public.backfill_targets as t
    cross join lateral backfill_private.index_line(t.table_name, t.session_column) as i (line)
    where t.target = p_target
  ) as l
  order by l.place, l.rank
$$;

-- Further lines on the source: its dates, rows that have none, and the views that find candidates.
create function backfill_private.source_lines(p_target text, p_held backfill_private.precondition[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p.line || case
    when backfill_private.source_is_well(p_held)
    then coalesce((select mark - 'name' from backfill_private.date_marks(s) as mark), '{}')
    else '{}'
  end
  from backfill_private.precondition_lines(p_held, 'date') as p
  join backfill_private.sources as s on s.target = p_target
  union all
  select backfill_private.line('detection of ' || s.target,
    case when o.gone is null then 'ok' else 'fail' end,
    coalesce(o.gone || ' does not exist', o.present),
    format('create it again as the migration of target %s has it: %s', s.target, o.gone))
  from backfill_private.sources as s
  cross join lateral (
    select string_agg(n.name, ', ') filter (where not n.is_there) as gone, string_agg(n.name, ', ') as present
    from (select v, to_regclass(v) is not null from unnest(s.views) as v) as n (name, is_there)
  ) as o
  where s.target = p_target
$$;

-- A relation, and if it is a view, what it reads by the rights of whoever reads it (security_invoker), down to the
-- tables.
create function backfill_private.read_by_caller(p_table text)
returns setof regclass
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive reads as (
    select to_regclass(p_table)::oid as oid
    union
    select b.oid
    from reads as r
    join pg_class as c
      on c.oid = r.oid
      and c.relkind = 'v'
      and exists (
        select from pg_options_to_table(c.reloptions) as o
        where o.option_name = 'security_invoker' and o.option_value::boolean)
    join pg_rewrite as w on w.ev_class = c.oid
    join pg_depend as d
      on d.classid = 'pg_rewrite'::regclass
      and d.objid = w.oid
      and d.refclassid = 'pg_class'::regclass
    join pg_class as b
      on b.oid = d.refobjid
      and b.relkind in ('r', 'p', 'v', 'm', 'f')
  )
  select r.oid::regclass from reads as r where r.oid is not null
$$;

-- Lines on rights that no mark covers: may service_role read the source, the components and what they need, and may an
-- undo write.
create function backfill_private.rights_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line('rights on ' || n.name,
    case when r.missing is null then 'ok' else 'fail' end,
    coalesce(r.missing, format('service_role reads, %s %s', current_user, n.verbs)),
    r.cure)
  from (
    select 0 as place, s.source_table as name, 'reads' as verbs, array['select'] as privileges
    from backfill_private.sources as s
    where s.target = p_target
    union all
    select t.position, t.table_name, 'undoes', array['select', 'insert', 'update', 'delete']
    from public.backfill_targets as t
    where t.target = p_target
      and backfill_private.leads_table(t)
    union all
    select distinct 1000, c.table_name, 'reads', array['select']
    from backfill_private.session_columns(p_target) as c
    where c.kind = 'column'
      and not exists (
        select from public.backfill_targets as t where t.target = p_target and t.table_name = c.table_name)
  ) as n
  cross join lateral (
    select
      string_agg(w.fault, '; ' order by w.place) as missing,
      string_agg(w.cure, ' ' order by w.place) as cure
    from (
      select
        1 as place,
        format('%s may not use the schema %s', u.role, s.nspname) as fault,
        format('grant usage on schema %I to %I;', s.nspname, u.role) as cure
      from pg_class as c
      join pg_namespace as s on s.oid = c.relnamespace
      cross join unnest(array['service_role', current_user]) as u (role)
      where c.oid = to_regclass(n.name)
        and not has_schema_privilege(u.role, s.oid, 'usage')
      union all
      select
        2,
        concat(format('%s lacks %s', p.role, p.privilege), case
          when o.relation <> to_regclass(n.name)
          then format(' on %s, which it reads by the rights of its caller', o.relation)
        end),
        format('grant %s on %s to %I;', p.privilege, o.relation, p.role)
      from (
        select 'service_role' as role, 'select' as privilege
        union all select current_user, unnest(n.privileges)
      ) as p
      cross join backfill_private.read_by_caller(n.name) as o (relation)
      where not has_table_privilege(p.role, o.relation, p.privilege)
    ) as w
  ) as r
  where to_regclass(n.name) is not null
  order by n.place
$$;

-- One line per component that has helpers.
create function backfill_private.helper_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line('helpers of ' || t.component,
    case when h.gone is null then 'ok' else 'fail' end,
    coalesce(h.gone || ' does not exist', h.present),
    format('create it, or: update public.backfill_targets set helpers = ''{…}'' where target = %L and component = %L;',
      t.target, t.component))
  from public.backfill_targets as t
  cross join lateral (
    select
      string_agg(n, ', ') filter (where backfill_private.function_named(n) is null) as gone,
      string_agg(n, ', ') as present
    from unnest(t.helpers) as n
  ) as h
  where t.target = p_target
    and cardinality(t.helpers) > 0
$$;

-- Lines on the columns of a target's filters and needs: does each exist, can it be compared, has any row such a value,
-- is a need's indexed?
create function backfill_private.need_lines(p_target text, p_held backfill_private.precondition[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p.line
  from backfill_private.precondition_lines(p_held, 'column') as p
  union all
  select u
  from backfill_private.unmatched_marks(p_target, p_held) as u
  union all
  select i.line
  from backfill_private.sources as s
  cross join lateral jsonb_array_elements(s.needs) as n
  cross join lateral backfill_private.index_line(n ->> 'table', n ->> 'column') as i (line)
  where s.target = p_target
$$;

-- The line on the index that makes detection fast, under the name that the declaration gives it.
create function backfill_private.detection_index_line(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line('index ' || s.index_name,
    case when i.fault is null then 'ok' else 'warn' end,
    coalesce(i.fault || ': detection works, slower', 'there and valid'),
    case
      when i.standing is null then ''
      else backfill_private.beside_writers(s.source_table, 'drop index', i.standing) || ' '
    end
      || backfill_private.beside_writers(s.source_table, 'create index', format('%I on %s (%I)%s',
        s.index_name,
        to_regclass(s.source_table),
        s.date_column,
        (
          select ' where ' || string_agg(f.condition, ' and ')
          from backfill_private.filter_conditions(p_target, '') as f
          where f.is_plain
        ))))
  from backfill_private.sources as s
  cross join lateral backfill_private.detection_index(p_target) as i
  where s.target = p_target
$$;

-- from sql/90_project/declare.sql
-- Declare a target. The declaration is compared with the catalog before it is kept. The migration of a target calls
-- this first. A file may be checked the same way before any migration of it exists. A refusal's message has the next
-- step too: the Supabase CLI shows no hint of an error in a migration.

-- Keep the rows of a declaration. A new declaration of a target replaces the old one.
create function backfill_private.keep_declaration(p_declaration jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := p_declaration ->> 'target';
  v_source jsonb := p_declaration -> 'source';
begin
  insert into backfill_private.sources (
    target, source_table, key_column, date_column, filters, needs, views, index_name, defaults, called)
  values (
    v_target,
    backfill_private.declared_table(v_source),
    v_source ->> 'key',
    v_source ->> 'date',
    v_source -> 'filters',
    (select coalesce(jsonb_agg(n - 'schema' || jsonb_build_object('table', backfill_private.declared_table(n))), '[]')
     from jsonb_array_elements(v_source -> 'needs') as n),
    array(select jsonb_array_elements_text(p_declaration -> 'views')),
    v_source ->> 'index',
    p_declaration -> 'defaults',
    array(select jsonb_array_elements_text(v_source -> 'called')))
  on conflict (target) do update
  set (source_table, key_column, date_column, filters, needs, views, index_name, defaults, called)
    = (excluded.source_table, excluded.key_column, excluded.date_column, excluded.filters, excluded.needs,
       excluded.views, excluded.index_name, excluded.defaults, excluded.called);
  delete from public.backfill_targets where target = v_target;
  insert into public.backfill_targets (
    target, component, position, table_name,
    session_column, key_columns, version_column, version, version_parameter, any_version_counts,
    matches, function_signature, arguments,
    helpers, needs_first,
    score_ranges, transport, function_version, receipts)
  select
    v_target, c.d ->> 'component', c.place, backfill_private.declared_table(c.d),
    c.d ->> 'session',
    array(select jsonb_array_elements_text(c.d -> 'key')),
    c.d ->> 'version_column', c.d ->> 'version', c.d ->> 'version_parameter', (c.d ->> 'any_version_counts')::boolean,
    c.d -> 'matches', c.d ->> 'function', c.d -> 'arguments',
    array(select jsonb_array_elements_text(c.d -> 'helpers')),
    array(select jsonb_array_elements_text(c.d -> 'needs_first')),
    c.d -> 'score_ranges', c.d ->> 'transport', c.d ->> 'function_version', c.d ->> 'receipts'
  from jsonb_array_elements(p_declaration -> 'components') with ordinality as c (d, place);
  perform backfill_private.keep_level(v_target, p_declaration -> 'watch');
end
$$;

-- Keep a declaration: its rows, our triggers on its tables, and the view with its conditions. A new declaration of a
-- target replaces the old one and drops its views. The migration then makes the others again.
--
-- p_declaration  {target, defaults, views, source: {schema, table, key, date, filters, needs, index,
--                builds_index: a migration of its own follows, called}, components: [{component, schema, table,
--                session, key, version_column, version, version_parameter, any_version_counts, matches, transport,
--                function, function_version, receipts, arguments, helpers, needs_first, score_ranges}], watch:
--                {min_coverage, within_s, over_s}, or none}, components in the order of scoring
-- raises         OB013 it names what the database does not have, its tables do not meet what has to be true of them, or
--                it drops a component that a run has planned
create function backfill_private.keep_target(p_declaration jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := p_declaration ->> 'target';
begin
  perform backfill_private.refuse_names(p_declaration);
  perform backfill_private.withdraw(v_target);
  perform backfill_private.keep_declaration(p_declaration);
  update backfill_private.sources set installed_at = backfill_private.clock() where target = v_target;
  perform backfill_private.refuse_faults(v_target, null);
  perform backfill_private.guard(v_target);
  execute backfill_private.standing_sql(v_target);
end
$$;

-- An error as a migration has to say it: all in the message.
--
-- p_detail, p_hint  of the error. PostgreSQL's own advice to cascade would drop what is not ours
create function backfill_private.told_in_one(p_state text, p_message text, p_detail text, p_hint text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select concat(
    rtrim(p_message, '.'),
    '. ' || rtrim(replace(nullif(p_detail, ''), E'\n', '; '), '.'),
    '. Next: ' || case p_state
      when '55P03' then 'wait until the other session has ended, then apply this migration again'
      when '2BP01' then 'drop what depends on it, apply this migration again, then create that again'
      when '42501' then 'apply this migration as a role that owns the tables, such as postgres'
      else nullif(p_hint, '')
    end)
$$;

-- Declare a target, as its migration does: see keep_target. An error has all that a person must read in its message.
create function backfill_private.declare_target(p_declaration jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
declare
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  perform backfill_private.keep_target(p_declaration);
exception when others then
  get stacked diagnostics
    v_state = returned_sqlstate,
    v_message = message_text,
    v_detail = pg_exception_detail,
    v_hint = pg_exception_hint;
  raise exception using
    errcode = v_state,
    message = backfill_private.told_in_one(v_state, v_message, v_detail, v_hint);
end
$$;

-- Every fault of a declaration, with nothing kept of it: the names, then what has to be true of its tables. For the
-- second the rows are kept, looked at and taken back.
--
-- returns  [{place: [step], message, next, warns}]. A place is the way to a value, see backfill_private.declared_parts
--          warns: it can be declared, and is hardly meant. Only told if there is no fault
-- raises   OB010 the caller may not read, OB013 it is of another form
create function backfill_private.declaration_faults(p_declaration jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
set lock_timeout = '3s'
as $$
declare
  v_names jsonb;
  v_others jsonb;
begin
  perform backfill_private.authorize('read');
  perform backfill_private.check_bounds(jsonb_build_object('the declaration', p_declaration));
  begin
    v_names := (
      select coalesce(
        jsonb_agg(jsonb_build_object('place', f.place, 'message', f.fault, 'next', f.cure) order by f.part, f.rank),
        '[]')
      from backfill_private.name_faults(p_declaration) as f);
  exception when others then  -- JSON of another form may fail anywhere
    perform backfill_private.refuse('OB013', 'this is no declaration', 'backfill target check FILE');
  end;
  if exists (
    select from backfill_private.declared_parts(p_declaration) as p
    where backfill_private.is_callers_own(to_regclass(p.name))
  ) then
    return v_names;
  end if;
  begin
    perform backfill_private.keep_declaration(p_declaration);
    v_others := (
      select coalesce(jsonb_agg(jsonb_build_object('place', f.place, 'message', f.fault, 'next', f.cure)), '[]')
      from backfill_private.standing_faults(p_declaration, v_names) as f);
    if v_names || v_others = '[]' then
      v_others := backfill_private.declared_in_vain(p_declaration ->> 'target');
    end if;
    raise exception 'everything is taken back';
  exception when others then
    if v_others is null then
      v_others := jsonb_build_array(jsonb_build_object('place', array[]::text[], 'message', sqlerrm, 'next', ''));
    end if;
  end;
  return v_names || v_others;
end
$$;

-- What of a kept declaration selects nothing, see backfill_private.declaration_faults. Only of columns that the caller
-- may read: the sentence may hold a value of a row. Of the others it says that nobody looked.
create function backfill_private.declared_in_vain(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with caller as (
    select
      s.source_table,
      s.filters,
      coalesce(nullif(current_setting('role'), 'none'), session_user::text) as role
    from backfill_private.sources as s
    where s.target = p_target
  ), told as (
    select u.column_name, u.detail, '' as cure
    from caller as c
    cross join backfill_private.unmatched_values(p_target) as u
    where has_column_privilege(c.role, c.source_table, u.column_name, 'select')
    union
    select
      f.filter ->> 'column',
      format('%s may not read %s, so nobody looked whether a row has such a value', c.role, c.source_table),
      format('grant select on %s to %I;', to_regclass(c.source_table), c.role)
    from caller as c
    cross join backfill_private.column_filters(c.filters) as f
    where f.filter ? 'values'
      and not has_column_privilege(c.role, c.source_table, f.filter ->> 'column', 'select')
  )
  select coalesce(
    jsonb_agg(jsonb_build_object(
      'place', array['source', 'where', t.column_name],
      'message', t.detail,
      'next', t.cure,
      'warns', true)),
    '[]')
  from told as t
$$;

-- What of a kept declaration's preconditions does not hold, each at its place in the declaration. What a wrong name
-- brings with it is left out: p_names has the faults of names.
create function backfill_private.standing_faults(p_declaration jsonb, p_names jsonb)
returns table (place text[], fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select o.place, o.fault, o.cure
  from (
    select
      case
        when p.kind = 'date' then array['source', 'date']
        when p.kind = 'column' and p.place > 1000
        then array['needs', (p.place - 1001)::text, 'column']
        when p.kind = 'column'
        then array['source', 'where', (
            select f.filter ->> 'column'
            from backfill_private.column_filters(p_declaration #> '{source,filters}') as f
            where f.place = p.place)]
        when p.place = 0 then array['source', 'key']
        else array['component', (p.place - 1)::text]
          || case p.kind
            when 'value' then case
              when starts_with(p.fault, quote_ident(p_declaration
                #>> array['components', (p.place - 1)::text, 'version_column']) || ' of ') then 'version'
              else 'matches'
            end
            else p.kind
          end
      end as place,
      p.fault,
      p.cure
    from backfill_private.preconditions(p_declaration ->> 'target') as p
    where p.fault is not null
  ) as o
  where not exists (
    select from jsonb_array_elements(p_names) as n
    cross join lateral (
      select array(select jsonb_array_elements_text(n -> 'place')) as place
    ) as named
    where named.place = o.place
      or starts_with(n ->> 'message', o.fault)
      or named.place[cardinality(named.place)] = 'table'
      and named.place[:cardinality(named.place) - 1] = o.place[:cardinality(named.place) - 1]
  )
$$;

-- from sql/90_project/history.sql
-- History: which migrations this database has applied, as the Supabase CLI records them.

-- Which of these migrations are applied.
--
-- p_versions  the timestamps with which their names begin
-- returns     {applied: [version], targets: [name]}. applied is null if this database keeps no record
-- raises      OB010 the caller may not read, OB013 too many
create function backfill_private.history(p_versions text[])
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_applied jsonb;
begin
  perform backfill_private.authorize('read');
  perform backfill_private.check_bounds(jsonb_build_object('the list of migrations', p_versions));
  if backfill_private.column_type('supabase_migrations.schema_migrations', 'version') is not null then
    execute $sql$
      select coalesce(jsonb_agg(m.version::text order by m.version), '[]')
      from supabase_migrations.schema_migrations as m
      where m.version::text = any ($1)
    $sql$
    into v_applied
    using p_versions;
  end if;
  return jsonb_build_object(
    'applied', v_applied,
    'targets', (
      select coalesce(jsonb_agg(distinct t.target), '[]')
      from public.backfill_targets as t
    ));
end
$$;

-- from sql/90_project/installed.sql
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

-- from sql/90_project/names.sql
-- Names: what a declaration names, and what of it the database does not have. To declare refuses the first such fault.
-- To check a file tells all of them.

-- The last part of a name or a signature, without arguments.
create function backfill_private.last_part(p_name text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select regexp_replace(split_part(p_name, '(', 1), '^.*\.', '')
$$;

-- The end of a sentence that names what may have been meant. Nothing if no name is near: of its last part two of five
-- letters differ at most, or one holds the other. Functions are compared by name, then by arguments.
create function backfill_private.nearest(p_wanted text, p_known text[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select '; the nearest is ' || k
    from unnest(p_known) as k
    cross join lateral (
      select backfill_private.last_part(p_wanted) as wanted, backfill_private.last_part(k) as known
    ) as part
    where backfill_private.farness(part.wanted, part.known) <= 0.4
      or strpos(lower(part.known), lower(part.wanted)) > 0
      or strpos(lower(part.wanted), lower(part.known)) > 0
    order by
      backfill_private.farness(split_part(p_wanted, '(', 1), split_part(k, '(', 1)),
      backfill_private.farness(p_wanted, k),
      k
    limit 1
  ), '')
$$;

-- A table that a declaration names, quoted for SQL.
--
-- p_part  {schema, table}
create function backfill_private.declared_table(p_part jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
  select format('%I.%I', p_part ->> 'schema', p_part ->> 'table')
$$;

-- The tables that a declaration names.
--
-- part  the way to it: {source}, {needs,N} or {component,N}, from 0. Needs count in the order of the declaration
create function backfill_private.declared_parts(p_declaration jsonb)
returns table (part text[], place integer, name text, given jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select array['source'], 0, backfill_private.declared_table(p_declaration -> 'source'), p_declaration -> 'source'
  union all
  select array['needs', (n.place - 1)::text], n.place::integer, backfill_private.declared_table(n.need), n.need
  from jsonb_array_elements(p_declaration -> 'source' -> 'needs') with ordinality as n (need, place)
  union all
  select array['component', (c.place - 1)::text], 1000 + c.place::integer, backfill_private.declared_table(c.d), c.d
  from jsonb_array_elements(p_declaration -> 'components') with ordinality as c (d, place)
$$;

-- The columns that a part of a declaration names, each with the way to it.
create function backfill_private.declared_columns(p_part text[], p_given jsonb)
returns table (place text[], name text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p_part || c.step, c.name
  from (
    select array[f.name] as step, p_given ->> f.name as name
    from unnest(array['key', 'date', 'column', 'session', 'version_column']) as f (name)
    where jsonb_typeof(p_given -> f.name) = 'string'
    union all
    select array['where', f.filter ->> 'column'], n.name
    from backfill_private.column_filters(p_given -> 'filters') as f
    cross join lateral unnest(array[f.filter ->> 'column', f.filter ->> 'other']) as n (name)
    where n.name is not null
    union all
    select array['key'], k
    from jsonb_array_elements_text(case jsonb_typeof(p_given -> 'key') when 'array' then p_given -> 'key' end) as k
    union all
    select array[f.name, k], k
    from unnest(array['matches', 'score_ranges']) as f (name)
    cross join lateral jsonb_object_keys(p_given -> f.name) as k
  ) as c
$$;

-- The sentence that there is no such function. If none has its name, a scoring function may be an Edge Function.
create function backfill_private.no_function(p_signature text, p_scores boolean)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat(
    format('there is no function %s', p_signature),
    backfill_private.nearest(p_signature, k.names),
    case
      when p_scores and not backfill_private.last_part(p_signature) = any (
        select backfill_private.last_part(name) from unnest(k.names) as name
      ) then '. Is it an Edge Function? transport = "edge"'
    end)
  from (
    select array(
      select p.oid::regprocedure::text
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
      where n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'backfill_private')
        and not starts_with(p.proname, 'backfill_')
        and p.prokind = 'f') as names
  ) as k
$$;

-- What is wrong with a component's scoring function and its helpers.
create function backfill_private.call_faults(p_component jsonb)
returns table (place text[], fault text, cure text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_signature text := p_component ->> 'function';
  v_function regprocedure := backfill_private.function_named(v_signature);
begin
  return query
  select array['helpers'], backfill_private.no_function(h, false), null
  from jsonb_array_elements_text(p_component -> 'helpers') as h
  where backfill_private.function_named(h) is null;
  if p_component ->> 'transport' <> 'rpc' then
    return;
  elsif v_function is null then
    return query select array['function'], backfill_private.no_function(v_signature, true), null;
    return;
  end if;
  return query
  select
    array['arguments', a],
    format('%s has no argument %s', v_function, quote_ident(a))
      || backfill_private.nearest(a, i.names),
    null
  from jsonb_object_keys(p_component -> 'arguments') as a
  cross join backfill_private.input_names(v_function) as i
  where a <> all (array_remove(i.names, null));
  return query
  select array['arguments'], format('%s needs the argument %s', v_function, quote_ident(r)),
    format('arguments = { …, %s = … }, or give it a default in the function', r)
  from backfill_private.input_names(v_function) as i
  cross join lateral unnest(i.required) as r
  where not (p_component -> 'arguments') ? r;
  return query
  select array['function'], format('%s is not in the schema public, where the API calls functions', v_function),
    'a function in public that calls it'
  from pg_proc as p
  where p.oid = v_function
    and p.pronamespace <> 'public'::regnamespace;
end
$$;

-- Is a relation the caller's own, and the caller not the owner's equal? Reading it would run their code with the
-- owner's rights: what a view or a policy calls, what compares a column's type. Tables of a session's own count for
-- anybody.
create function backfill_private.is_callers_own(p_relation regclass)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select not pg_has_role(session_user, current_user, 'member') and exists (
    select from pg_class as c
    where c.oid = p_relation
      and (c.relpersistence = 't' or pg_has_role(session_user, c.relowner, 'member')))
$$;

-- The tables and columns that a declaration names and the database does not have, or that cannot hold its rows.
--
-- rank  the order of the faults of one part
create function backfill_private.table_faults(p_declaration jsonb)
returns table (part integer, rank integer, place text[], fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with parts as (
    select
      p.*,
      c.oid is not null and not backfill_private.is_callers_own(c.oid) as is_there,
      backfill_private.is_callers_own(c.oid) as is_callers_own
    from backfill_private.declared_parts(p_declaration) as p
    left join pg_class as c
      on c.oid = to_regclass(p.name)
      and c.relkind in ('r', 'p', 'v', 'm', 'f')
  )
  select
    p.place,
    1,
    p.part || 'table'::text,
    format('there is no table %s', p.name) || backfill_private.nearest(p.name, array(
      select format('%I.%I', n.nspname, c.relname)
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'v', 'm')
        and n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'backfill_private')
        and not (n.nspname = 'public' and starts_with(c.relname, 'backfill_')))),
    null
  from parts as p
  where not p.is_there and p.is_callers_own is not true
  union all
  select p.place, 1, p.part || 'table'::text,
    format('%s belongs to a role of the API, so only an owner of the project may declare it', p.name), null
  from parts as p
  where p.is_callers_own
  union all
  select p.place, 2, p.part || 'table'::text, format('%s cannot be declared: %s', p.name, t.fault), null
  from parts as p
  cross join lateral (
    select case p.part[1]
      when 'source' then coalesce(
        backfill_private.source_fault(p.name),
        case
          when (p.given ->> 'builds_index')::boolean is not true then null
          when backfill_private.is_view(p.name) then 'it is a view, and no index of ours can be on it. Leave index out'
          when (select c.relkind = 'p' from pg_class as c where c.oid = to_regclass(p.name))
          then 'it is partitioned, and no index of all its parts is built beside writers. Leave index out'
        end)
      else backfill_private.table_fault(p.name)
    end as fault
  ) as t
  where p.is_there
    and p.part[1] <> 'needs'
    and t.fault is not null
  union all
  select
    p.place,
    3,
    c.place,
    format('%s has no column %s', p.name, quote_ident(c.name)) || backfill_private.nearest(c.name, array(
      select a.attname::text
      from pg_attribute as a
      where a.attrelid = to_regclass(p.name)
        and a.attnum > 0
        and not a.attisdropped)),
    null
  from parts as p
  cross join lateral backfill_private.declared_columns(p.part, p.given) as c
  where p.is_there
    and backfill_private.column_type(p.name, c.name) is null
$$;

-- What of a component contradicts its key, other targets, or runs that were planned.
create function backfill_private.component_faults(p_declaration jsonb)
returns table (part integer, rank integer, place text[], fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    p.place,
    4,
    p.part || 'key'::text,
    format('the key of %s has columns that are neither session, version nor matched: %s',
      p.name, string_agg(k, ', ')),
    'a component has one row per session: match the column to a parameter, or leave it out of the key'
  from backfill_private.declared_parts(p_declaration) as p
  cross join lateral jsonb_array_elements_text(p.given -> 'key') as k
  where p.part[1] = 'component'
    and k is distinct from p.given ->> 'session'
    and k is distinct from p.given ->> 'version_column'
    and not (p.given -> 'matches') ? k
    -- A misspelt column of the session is told by itself.
    and not exists (
      select from backfill_private.declared_columns(p.part, p.given) as c
      where c.place[3] <> 'key'
        and backfill_private.column_type(p.name, c.name) is null
    )
  group by p.place, p.part, p.name
  union all
  select p.place, 6, p.part || 'table'::text,
    format('%s holds the rows of %s of target %s already', p.name, t.component, t.target),
    'one component per table'
  from backfill_private.declared_parts(p_declaration) as p
  join public.backfill_targets as t
    on to_regclass(t.table_name) = to_regclass(p.name)
    and t.target <> p_declaration ->> 'target'
  where p.part[1] = 'component'
  union all
  select 2000, 7, array['component'],
    format('runs of target %s have planned %s, which this declaration drops', d.target, d.component),
    'keep it, or declare a target of another name'
  from (
    -- Also if the target was removed since: an undo of its runs goes by what stands here.
    select distinct i.source as target, c.component
    from public.backfill_items as i
    cross join unnest(i.components) as c (component)
    where i.source = p_declaration ->> 'target'
  ) as d
  where d.component not in (select c ->> 'component' from jsonb_array_elements(p_declaration -> 'components') as c)
$$;

-- Every fault of the names in a declaration, in the order of the declaration by part and rank.
--
-- place  the way to the value, see declared_parts
create function backfill_private.name_faults(p_declaration jsonb)
returns table (part integer, rank integer, place text[], fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select f.part, f.rank, f.place, f.fault,
    coalesce(f.cure, 'correct the declaration, then: backfill install --target FILE')
  from (
    select * from backfill_private.table_faults(p_declaration)
    union all
    select * from backfill_private.component_faults(p_declaration)
    union all
    select p.place, 5, p.part || c.place, c.fault, c.cure
    from backfill_private.declared_parts(p_declaration) as p
    cross join lateral backfill_private.call_faults(p.given) as c
    where p.part[1] = 'component'
  ) as f
$$;

-- Refuse a declaration that names what the database does not have.
--
-- raises  OB013 the first fault
create function backfill_private.refuse_names(p_declaration jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
  v_fault record;
begin
  select f.fault, f.cure into v_fault
  from backfill_private.name_faults(p_declaration) as f
  order by f.part, f.rank
  limit 1;
  if found then
    perform backfill_private.refuse('OB013', v_fault.fault, v_fault.cure);
  end if;
end
$$;

-- from sql/95_face/drive.sql
-- The doors of drivers: runs that pg_cron scores, without a client. They are the owner's alone, as pg_cron's jobs are.

-- Have pg_cron drive a run until it is over. Its components are SQL functions.
--
-- returns  {run_id, state, job, schedule, stop: SQL}
-- raises   OB001 no such run, OB002 it is over, or driven already, OB003 not approved, OB010 see refuse_outsiders,
--          OB013 an Edge Function scores it, or there is no pg_cron
create function public.backfill_drive(run uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_by text;
begin
  perform backfill_private.authorize('apply');
  v_run := backfill_private.drivable_run($1);
  v_by := backfill_private.driven_by($1);
  if v_run.state not in ('approved', 'running') then
    perform backfill_private.refuse('OB002',
      format('run %s is %s: there is nothing to drive', $1, replace(v_run.state, '_', ' ')),
      backfill_private.hint(v_run));
  elsif v_by is not null then
    perform backfill_private.refuse('OB002', format('run %s is driven already, by job %s', $1, v_by),
      'select backfill_drive_stop()');
  end if;
  perform backfill_private.refuse_without_cron($1);
  return jsonb_build_object('run_id', $1, 'state', v_run.state) || backfill_private.schedule_driver($1, 10);
end
$$;

comment on function public.backfill_drive(uuid) is
  'Have pg_cron score an approved run until it is over, without a worker. For the SQL editor.';

-- Have pg_cron drive whatever is approved or running and scored by SQL functions, from now on. Another interval takes
-- the place of the one before.
--
-- every    1 to 59 seconds, or whole minutes that divide an hour
-- returns  {job, schedule, stop: SQL}
-- raises   OB010 see refuse_outsiders, OB013 no such interval, or there is no pg_cron
create function public.backfill_drive_every(every text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seconds integer := backfill_private.drive_seconds($1);
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.refuse_without_cron(null);
  return backfill_private.schedule_driver(null, v_seconds);
end
$$;

comment on function public.backfill_drive_every(text) is
  'Have pg_cron score whatever is approved or running, from now on: how often it looks. For the SQL editor.';

-- The same for a value of type interval. Without a name, so that the API has but one form to choose.
create function public.backfill_drive_every(interval)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select public.backfill_drive_every($1::text)
$$;

comment on function public.backfill_drive_every(interval) is
  'Have pg_cron score whatever is approved or running, from now on: how often it looks. For the SQL editor.';

-- Take the jobs of all drivers away. A call that is under way ends within a minute. To stop a run at once: pause it.
--
-- returns  {stopped: [name of a job]}
create function public.backfill_drive_stop()
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('apply');
  return jsonb_build_object('stopped', backfill_private.stop_drivers(null));
end
$$;

comment on function public.backfill_drive_stop() is
  'Let pg_cron drive no run any more. A call under way ends within a minute. For the SQL editor.';

-- What the jobs call, and what psql calls in a loop where there is no pg_cron. Turn by turn for each run, as a worker
-- with the name driver:PID, until nothing is to do or the time is up. It commits after each call, so it has no clause
-- `set` and its caller's rights: see 65_drive/transactions.sql.
--
-- run     null: whatever is approved or running. Once it is over, its job goes
-- budget  no batch is claimed after this time. What is granted and not called by then is given back
-- every   looks again after this time if there is nothing to do. Null: ends then
-- raises  OB001, OB003 and OB013 as backfill_drive, OB010 see refuse_outsiders. What refused a run its start or claim
--         is raised at the end, when the others have had their turns
create procedure public.backfill_drive_step(
  run uuid default null, budget interval default '50 seconds', every interval default null
)
language plpgsql
as $$
declare
  v_search_path text;
  v_worker text;
  v_limit_at timestamptz;
  v_until timestamptz;
  v_run_id uuid;
  v_begun uuid[];
  v_seen jsonb;
  v_wait_s numeric;
  v_trouble jsonb;
begin
  call backfill_private.next_transaction(v_search_path, 'none');
  perform backfill_private.refuse_outsiders(v_search_path);
  v_worker := 'driver:' || pg_backend_pid();
  v_limit_at := backfill_private.limit_at();
  v_until := backfill_private.drive_until(coalesce($2, '50 seconds'), v_limit_at);
  v_begun := '{}';
  loop
    call backfill_private.next_transaction(v_search_path);
    v_wait_s := null;
    foreach v_run_id in array backfill_private.runs_to_drive($1) loop
      call backfill_private.drive_turn(
        v_run_id, v_worker, v_run_id <> all (v_begun), v_until, v_limit_at, v_seen);
      v_begun := v_begun || v_run_id;
      v_trouble := coalesce(v_trouble, v_seen -> 'trouble');
      v_wait_s := least(v_wait_s, (v_seen ->> 'wait_s')::numeric);
    end loop;
    call backfill_private.next_transaction(v_search_path, 'none');
    if $1 is not null and (backfill_private.drivable_run($1)).state not in ('approved', 'running', 'paused') then
      perform backfill_private.stop_drivers($1);
      exit;
    end if;
    v_wait_s := least(v_wait_s, extract(epoch from $3));
    exit when v_wait_s is null or backfill_private.clock() + v_wait_s * interval '1 s' >= v_until;
    -- A pause, and another run, are seen within five seconds.
    perform pg_sleep(least(v_wait_s, 5));
  end loop;
  call backfill_private.next_transaction(v_search_path, 'none');
  if v_trouble is not null then
    perform backfill_private.refuse(v_trouble ->> 'code', v_trouble ->> 'message', v_trouble ->> 'hint');
  end if;
end
$$;

comment on procedure public.backfill_drive_step(uuid, interval, interval) is
  'Score what is approved or running for some time, in a transaction per call. For pg_cron, or psql in a loop.';

-- Make calls in bulk until a claim has to look at the run again, or the driver at its other runs.
create procedure backfill_private.drive_in_bulk(p_run_id uuid, p_worker text, p_sessions integer, p_until timestamptz)
language plpgsql
as $$
declare
  v_search_path text;
  v_answer jsonb;
  v_asked integer;
  v_is_alone boolean;
  v_look_at timestamptz;
begin
  call backfill_private.next_transaction(v_search_path);
  v_asked := p_sessions;
  v_is_alone := false;
  v_look_at := least(backfill_private.clock() + interval '5 s', p_until);
  loop
    call backfill_private.next_transaction(v_search_path);
    v_answer := public.backfill_bulk(p_run_id, p_worker, v_asked, 800, v_search_path);
    exit when coalesce((v_answer ->> 'done')::integer, 0) = 0
      or v_answer ?| array['failed', 'pending']
      or backfill_private.clock() >= v_look_at;
    v_is_alone := v_is_alone or (v_answer ->> 'alone')::boolean;
    v_asked := case
      when v_is_alone then 1
      -- Calls grow as the client's do, see backfill/run/bulk.py.
      when (v_answer ->> 'sessions')::integer = v_asked then least(round(v_asked * 1.3) + 1, 500)::integer
      else v_asked end;
  end loop;
end
$$;

-- One turn of a run: what its claim grants, scored and settled.
--
-- p_seen  gives {wait_s: seconds until the next turn, null if there is nothing to wait for}, and trouble if there was
create procedure backfill_private.drive_turn(
  p_run_id uuid, p_worker text, p_is_first boolean, p_until timestamptz, p_limit_at timestamptz, inout p_seen jsonb
)
language plpgsql
as $$
declare
  v_search_path text;
  v_claim_id uuid;
begin
  call backfill_private.next_transaction(v_search_path);
  v_claim_id := gen_random_uuid();
  p_seen := backfill_private.drive_claim(p_run_id, v_claim_id, p_worker, p_is_first);
  if p_seen -> 'granted' <> '[]' then
    call backfill_private.drive_batch(p_run_id, v_claim_id, p_seen, p_until, p_limit_at);
    p_seen := '{"wait_s": 0}';
  elsif p_seen ? 'bulk' then
    call backfill_private.drive_in_bulk(p_run_id, p_worker, (p_seen ->> 'sessions')::integer, p_until);
    p_seen := '{"wait_s": 0}';
  end if;
end
$$;

-- from sql/95_face/functions.sql
-- The doors: every function that the API offers, in the order of a run's life. Each runs with its caller's rights.

-- Is this project ready? One line per check, each with what to do about it.
create function public.backfill_check(p_probed jsonb default null)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.check_project(p_probed)
$$;

comment on function public.backfill_check(jsonb) is
  'Is this project ready? One line per check, each with what to do.';

create function public.backfill_calls(p_run_id uuid default null)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.calls_to_probe(p_run_id)
$$;

comment on function public.backfill_calls(uuid) is
  'The scoring calls of a run, or of every target, by function and names of arguments. For the client, which asks the '
  'API whether it could make them.';

-- Which migrations this database has applied, and which targets are installed.
create function public.backfill_history(p_versions text[])
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.history(p_versions)
$$;

comment on function public.backfill_history(text[]) is
  'Which of these migrations the database has applied, by the timestamps of their names. For the client.';

-- What is missing of a target, by UTC day.
--
-- p_target  null: the only target
-- p_since   the first day. Days that no plan can take come too: without a date, infinite, of a year not in 1 to 9999
-- p_until   the last day
-- returns   {components, days: [a row of the target's view of daily coverage], not_wanted: {component: why it may not
--           be wanted}, undated: sessions of such days that lack something, date: the date's column, called: its rows,
--           one and several, notes: sentences}
-- raises    OB010 not allowed, OB013 no such target or no date
create function public.backfill_coverage(
  p_target text default null, p_since text default null, p_until text default null
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_asked record;
  v_days jsonb;
  v_undated bigint;
  v_without bigint;
begin
  select * into v_asked from backfill_private.coverage_of(p_target, p_since, p_until);
  execute format(
    'select coalesce(jsonb_agg(to_jsonb(d) order by d.day), ''[]''),
       coalesce(sum(d.completed - d.complete) filter (where d.day between %2$L and %3$L is not true), 0),
       coalesce(sum(d.completed - d.complete) filter (where d.day is null), 0)
     from %1$s as d
     where d.day between %2$L and %3$L is not true
       or (($1 is null or d.day >= $1) and ($2 is null or d.day <= $2))',
    v_asked.view_name::regclass, '0001-01-01', '9999-12-31')
  into v_days, v_undated, v_without
  using v_asked.first_day, v_asked.last_day;
  return jsonb_build_object(
    'components', v_asked.components,
    'days', v_days,
    'not_wanted', v_asked.not_wanted,
    'undated', v_undated,
    'date', v_asked.date_column,
    'called', v_asked.called,
    'notes', v_asked.notes || coalesce(
      to_jsonb(backfill_private.no_plan_takes(
        v_asked.called, v_asked.date_column, v_without, v_undated - v_without)), '[]'));
end
$$;

comment on function public.backfill_coverage(text, text, text) is
  'What is missing of a target, by UTC day: the target, the first day, the last. Sessions without a date count in any '
  'range. For the client.';

-- Look at a target, or at all: whether the sessions have their rows in time.
--
-- target      null: every target
-- full_count  count all days, in parts: call it until is_over is true. By itself it counts the days whose sessions can
--             still change, and all of them the first time and after a new declaration
-- budget_ms   a call begins no further part after this. Null: 1,500, and 20,000 while all days are counted
-- returns     {targets: [{target, status: ok, breached or unknown, coverage, min_coverage, within_s, over_s,
--             breached_since, judged_since, wanted, missing, short_by, oldest_missing_at, undated, looked_at,
--             unlooked_hours, alert_id, why, is_over, change: opened or closed, else null}]}
-- raises      OB010 not allowed, OB013 no such target
create function public.backfill_watch(
  target text default null, full_count boolean default false, budget_ms integer default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.watch($1, $2, $3)
$$;

comment on function public.backfill_watch(text, boolean, integer) is
  'Look whether the sessions of a target, or of all, have their rows in time. For pg_cron, the SQL editor and jobs.';

create function public.backfill_heal_next(target text default null)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.heal_next($1)
$$;

comment on function public.backfill_heal_next(text) is
  'The run that a heal of a target works on, or what it plans next. For the client.';

-- The relations and functions that a declaration may name, from the catalogs alone.
--
-- returns  {relations, functions}, see backfill_private.catalog_relations and catalog_functions
create function public.backfill_catalog()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
  select jsonb_build_object(
    'relations', (select coalesce(jsonb_agg(r), '[]') from backfill_private.catalog_relations() as r),
    'functions', (select coalesce(jsonb_agg(f), '[]') from backfill_private.catalog_functions() as f))
$$;

comment on function public.backfill_catalog() is
  'The tables, views, keys and functions that a declaration may name. Reads only the catalogs. For the client.';

-- Hold a declaration against this project before any migration of it exists. Nothing of it is kept.
--
-- returns  [{place: [step], message, next}], empty if it can be declared
create function public.backfill_check_target(p_declaration jsonb)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.declaration_faults(p_declaration)
$$;

comment on function public.backfill_check_target(jsonb) is
  'Every fault of a declaration, before any migration of it exists. Nothing of it is kept. For the client.';

-- Which targets are installed.
--
-- returns  [{target, components, installed_at}]
create function public.backfill_installed()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.installed_targets()
$$;

comment on function public.backfill_installed() is
  'The installed targets: name, components, since when. For the client.';

-- The doors of planning.
create function public.backfill_open(
  p_request jsonb, p_project_host text default null, p_run_id uuid default null
)
returns uuid
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.open_run(p_request, p_project_host, p_run_id)
$$;

comment on function public.backfill_open(jsonb, text, uuid) is
  'Open a run for a request, as the first step of planning. For the client.';

create function public.backfill_collect(p_run_id uuid)
returns boolean
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.collect_window(p_run_id)
$$;

comment on function public.backfill_collect(uuid) is
  'Look for what is missing in the next span of dates. True when all dates are done. For the client.';

-- The doors of the rehearsal.
create function public.backfill_rehearsal(p_run_id uuid)
returns text[]
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.rehearsal_sample(p_run_id)
$$;

comment on function public.backfill_rehearsal(uuid) is
  'Choose the sessions that are rehearsed while planning. For the client.';

-- Approve an undo that was previewed, if the policy asks for that. Whoever carries it out confirms it afterwards.
create function public.backfill_approve_undo(
  run uuid, digest text, approver text default null, note text default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.approve_undo($1, $2, $3, $4)
$$;

comment on function public.backfill_approve_undo(uuid, text, text, text) is
  'Approve a previewed undo: the run, the digest, your name. For the SQL editor, or an Auth user with the role '
  'approver.';

-- Rehearse one session of the sample: score it, score it again, undo it, and roll everything back. Then score one of
-- each kind after another session, and roll that back too. Once somebody waits for its rows for long, the rest is left.
--
-- The last parameter is the caller's search path: a default is evaluated before this function's own path is set. It has
-- no name, so that no call through the API can give another.
-- returns        {took_ms: of this call in the database, calls, error, tables, …}, or {why} if it was not rehearsed
-- raises         OB002 not in planning, OB010 not allowed, OB014 the session is not in the sample
create function public.backfill_rehearse(
  p_run_id uuid, p_session_id text, text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_search_path alias for $3;
  v_began timestamptz := backfill_private.clock();
  v_lease jsonb;
  v_leased_ms numeric;
  v_alone jsonb;
  v_seen jsonb := '{"calls": [], "error": null}'::jsonb;
  v_is_seen boolean := false;
  v_limit_at timestamptz := backfill_private.limit_at();
  v_waits text := backfill_private.rehearsal_waits(2);
begin
  perform backfill_private.take_rehearsal_lock(p_run_id);
  begin
    v_lease := backfill_private.rehearsal_lease(p_run_id, p_session_id);
    if v_lease ? 'steps' and v_waits is not null then
      v_lease := jsonb_build_object('why', v_waits);
    end if;
    v_leased_ms := extract(epoch from backfill_private.clock() - v_began) * 1000;
    if v_lease ? 'steps' then
      perform set_config('lock_timeout', '1s', true);
      perform set_config('request.headers',
        (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb || (v_lease -> 'headers'))::text,
        true);
      v_seen := backfill_private.rehearse_pass(v_lease -> 'steps', v_search_path, v_limit_at);
      v_seen := v_seen || backfill_private.seen_first((v_lease ->> 'scratch')::uuid, v_lease -> 'writes');
      if v_seen ->> 'error' is null and not backfill_private.gives_way(v_began) then
        v_alone := backfill_private.row_hashes((v_lease ->> 'scratch')::uuid);
        v_seen := v_seen || jsonb_build_object('second',
          backfill_private.rehearse_pass(v_lease -> 'steps', v_search_path, v_limit_at)
            || backfill_private.seen_second((v_lease ->> 'scratch')::uuid));
        if not backfill_private.gives_way(v_began) then
          v_seen := v_seen || jsonb_build_object('undone',
            backfill_private.seen_undone((v_lease ->> 'scratch')::uuid, v_search_path, v_limit_at));
        end if;
      end if;
    else
      v_seen := v_lease;
    end if;
    v_is_seen := true;
    raise exception 'everything is rolled back';
  exception when query_canceled or assert_failure or others then
    if v_lease is null then
      raise;
    elsif not v_is_seen then
      v_seen := backfill_private.seen_until(v_seen, sqlstate, sqlerrm, v_limit_at);
    end if;
  end;
  if v_lease ? 'steps' then
    perform backfill_private.count_rehearsal(2);
  end if;
  if v_alone is not null then
    v_seen := v_seen || backfill_private.seen_beside(p_run_id, p_session_id, v_search_path, v_alone);
  end if;
  v_seen := v_seen || jsonb_build_object(
    'leased_ms', round(v_leased_ms, 1),
    'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
  perform backfill_private.keep_rehearsal(p_run_id, p_session_id, v_seen);
  return v_seen;
end
$$;

comment on function public.backfill_rehearse(uuid, text, text) is
  'Score one session twice, undo it and roll everything back, to see what it would do. For the client.';

-- Complete a plan. If a standing approval covers it, it is approved at once. A call that is repeated after that, since
-- its answer was lost, has the same answer.
create function public.backfill_seal(
  p_run_id uuid, p_round_trip_ms numeric default null, p_probed jsonb default null
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_sealed jsonb := '{"state": "awaiting_approval"}'::jsonb;
begin
  if not exists (
    select from public.backfill_runs as r where r.run_id = p_run_id and r.approved_via = 'standing')
  then
    v_sealed := backfill_private.seal(p_run_id, p_round_trip_ms, p_probed);
  end if;
  return case v_sealed ->> 'state'
    when 'awaiting_approval' then backfill_private.ask_standing(p_run_id)
    else v_sealed
  end;
end
$$;

comment on function public.backfill_seal(uuid, numeric, jsonb) is
  'Complete a plan and compute its digest. The run then awaits approval, unless a standing approval covers it. For the '
  'client.';

-- The sessions of a run's plan in its order, packed. Rows would come 1,000 per page, with a name for every value.
--
-- p_after  after this place
-- returns  at most p_sessions of [ordinal, session_id, session_at, category, components, phase, batch, state, attempts,
--          failed_step, error_code, error_message, started_at, settled_at]
create function public.backfill_plan_sessions(
  p_run_id uuid, p_after integer default 0, p_sessions integer default 10000
)
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select coalesce(json_agg(i.packed order by i.ordinal), '[]')
  from (
    select
      x.ordinal,
      json_build_array(x.ordinal, x.session_id, x.session_at, x.category, x.components, x.phase, x.batch, x.state,
        x.attempts, x.failed_step, x.error_code, coalesce(x.error_message, x.unselected),
        x.started_at, x.settled_at) as packed
    from public.backfill_items as x
    where x.run_id = p_run_id
      and x.ordinal > p_after
    order by x.ordinal
    limit greatest(least(p_sessions, 10000), 0)
  ) as i
$$;

comment on function public.backfill_plan_sessions(uuid, integer, integer) is
  'The next sessions of a run''s plan, packed. For the client.';

create function public.backfill_freshness(p_run_id uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.freshness(p_run_id)
$$;

comment on function public.backfill_freshness(uuid) is
  'What changed since a plan was sealed: sessions filled meanwhile or no longer selected, new candidates, definitions, '
  'settings, approval.';

-- Runs whose id begins with a prefix of at least eight characters, at most two runs. That is enough to tell unique from
-- ambiguous.
--
-- raises  OB013 no target is installed, and there is no run at all
create function public.backfill_find_runs(p_prefix text)
returns setof uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  -- One that is longer than an id is no prefix of it.
  v_prefix text := lower(btrim(left(p_prefix, 100)));
begin
  perform backfill_private.refuse_untargeted();
  return query
    select r.run_id
    from public.backfill_runs as r
    where starts_with(r.run_id::text, v_prefix)
      and length(v_prefix) >= 8
    order by r.run_id
    limit 2;
end
$$;

comment on function public.backfill_find_runs(text) is
  'The runs whose id begins with a prefix of at least eight characters, two at most. For the client.';

-- Approve a plan, or a standing approval.
--
-- run       the run's id, or the standing approval's
-- digest    its digest, as it shows it
-- approver  your name. For an Auth user the email is taken instead
-- note      anything worth keeping with the decision
-- returns   the run's state, and until when the approval is valid. Of a standing approval, as standing_told
create function public.backfill_approve(
  run uuid, digest text, approver text default null, note text default null
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_told jsonb;
begin
  -- Whoever gives a standing approval a run's id gains nothing by that: the run is meant.
  if exists (select from public.backfill_standing as s where s.standing_id = $1)
    and not exists (select from public.backfill_runs as r where r.run_id = $1)
  then
    return backfill_private.approve_standing($1, $2, $3, $4);
  end if;
  insert into public.backfill_approvals as a (run_id, digest, decision, approver, note)
  values ($1, $2, 'approved', coalesce($3, ''), $4)
  returning jsonb_build_object(
    'run_id', a.run_id,
    'state', 'approved',
    'digest', a.digest,
    'approver', a.approver,
    'via', a.via,
    'valid_until', a.valid_until) into v_told;
  return v_told;
end
$$;

comment on function public.backfill_approve(uuid, text, text, text) is
  'Approve a plan or a standing approval: its id, its digest, your name. For the SQL editor, or an Auth user with the '
  'role approver.';

-- Propose a standing approval: a rule by which runs are approved without a person. A person has to approve it first.
--
-- target        null: the only target
-- until         its last day, or a moment
-- max_sessions  of one run
-- max_per_day   sessions that standing approvals approve of the target per UTC day. Null: no bound
-- max_calls     scoring calls of one run. Null: no bound
-- throttle      the highest that a run may have. Null: any
-- hours         UTC hours such as 01-05, in which runs are approved and sessions start. Null: any time
-- weekdays      such as mon-fri. Null: every day
-- marks         marks of the plan that must be ok. None may fail
-- replace       whether rows may be replaced. False: new rows only
-- environment   the project's. Any other is refused
-- standing      an id of the caller's own, so that the call can be repeated
create function public.backfill_propose_standing(
  target text default null, until text default null, max_sessions integer default null,
  max_per_day integer default null, max_calls integer default null, throttle integer default null,
  hours text default null, weekdays text default null, marks text[] default '{}', replace boolean default false,
  environment text default null, standing uuid default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.propose_standing($12, jsonb_build_object(
    'target', $1,
    'until', $2,
    'max_sessions', $3,
    'max_per_day', $4,
    'max_calls', $5,
    'throttle', $6,
    'hours', $7,
    'weekdays', $8,
    'marks', to_jsonb($9),
    'replace', $10,
    'environment', $11))
$$;

comment on function public.backfill_propose_standing(
  text, text, integer, integer, integer, integer, text, text, text[], boolean, text, uuid) is
  'Propose a rule by which runs are approved without a person: target, last day, most sessions of a run, and what else '
  'it allows. A person approves it like a plan.';

create function public.backfill_standings()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.standings_told()
$$;

comment on function public.backfill_standings() is
  'Every standing approval, the newest first: its rule, where it stands and why, how much it was used.';

-- Revoke a standing approval. What it has allowed starts no further session.
create function public.backfill_revoke_standing(standing uuid, reason text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.revoke_standing($1, $2)
$$;

comment on function public.backfill_revoke_standing(uuid, text) is
  'Revoke a standing approval at once: its id, the reason. Runs that it allowed start no further session.';

-- Ask again whether a standing approval covers a run that waits for a person, as when its hours have begun.
create function public.backfill_ask_standing(run uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.ask_standing($1)
$$;

comment on function public.backfill_ask_standing(uuid) is
  'Ask whether a standing approval covers a run that awaits approval. If so, it is approved.';

-- Reject a plan. The reason is kept.
create function public.backfill_reject(run uuid, reason text, approver text default null)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into public.backfill_approvals (run_id, digest, decision, approver, note)
  values ($1, '', 'rejected', coalesce($3, ''), $2)
  returning jsonb_build_object(
    'run_id', run_id,
    'state', 'rejected',
    'approver', approver,
    'via', via,
    'reason', note)
$$;

comment on function public.backfill_reject(uuid, text, text) is
  'Refuse a plan for good: the run, the reason, your name.';

create function public.backfill_start(p_run_id uuid, p_worker text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.start(p_run_id, p_worker)
$$;

comment on function public.backfill_start(uuid, text) is
  'Start an approved run, or continue it. Everything that was approved is compared again. For the client.';

-- Pause a run. No session starts until it is resumed.
create function public.backfill_pause(run uuid, reason text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.halt('pause', $1, $2)
$$;

comment on function public.backfill_pause(uuid, text) is
  'Start no further session of a run until it is resumed: the run, the reason.';

-- Lift a run's pause. A worker that is still alive goes on. If there is none: backfill apply RUN.
--
-- because  if the run has critical events: you have looked at them, and why they need not stop it
create function public.backfill_resume(run uuid, because text default null)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.resume($1, $2)
$$;

comment on function public.backfill_resume(uuid, text) is
  'Lift the pause of a run, and answer its critical events: the run, and why they need not stop it.';

-- Lower the rate of a run, or raise it again up to what was approved. It holds from the next batch on.
--
-- per_minute  session starts per minute. Null: no throttle, if the run was approved without one
create function public.backfill_pace(run uuid, per_minute numeric)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.pace($1, $2)
$$;

comment on function public.backfill_pace(uuid, numeric) is
  'Lower the rate of a run, or raise it again up to what was approved: the run, starts per minute.';

-- Stop a run for good. What it wrote stays. backfill rollback undoes it.
create function public.backfill_cancel(run uuid, reason text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.halt('cancel', $1, $2)
$$;

comment on function public.backfill_cancel(uuid, text) is
  'Stop a run for good: the run, the reason. What it wrote stays.';

create function public.backfill_retry(p_run_id uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.retry(p_run_id)
$$;

comment on function public.backfill_retry(uuid) is
  'Make the failed sessions of a completed run pending again, under the same approval. For the client.';

create function public.backfill_claim(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.claim(p_run_id, p_claim_id, p_worker)
$$;

comment on function public.backfill_claim(uuid, uuid, text) is
  'Claim the next batch of a run, with a fence for each session. For the client.';

create function public.backfill_claim_apart(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.claim_apart(p_run_id, p_claim_id, p_worker)
$$;

comment on function public.backfill_claim_apart(uuid, uuid, text) is
  'Claim a batch of a run in bulk to score it session by session, after a call in bulk has failed. For the client.';

-- Score a batch in bulk, fifty sessions per subtransaction. If one of the fifty fails, each is scored in its own
-- subtransaction, so that only the one fails, and the call ends with these. That makes 59 subtransactions at most, and
-- PostgreSQL keeps up to 64 cheaply. A session that is not well beside others is pending, and a later call takes it
-- alone.
--
-- p_sessions     at most this many, and at most 500
-- p_budget_ms    no session starts after this time, since a row that is written stays locked until the call ends. None
--                starts either once the approval has run out. What was kept until then is done. What was scored
--                together with one that ends later is rolled back and pending
-- The last parameter is the caller's search path: a default is evaluated before this function's own path is set. It has
-- no name, so that no call through the API can give another.
-- returns        {look: true} if a claim has to look first, else {sessions, done, failed, pending, took_ms, alone}
--                alone: no session is well after another in one transaction, so ask for one at a time
create function public.backfill_bulk(
  p_run_id uuid, p_worker text, p_sessions integer, p_budget_ms integer default 800,
  text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_search_path alias for $5;
  v_began timestamptz := backfill_private.clock();
  v_batch jsonb;
  v_budget interval := p_budget_ms * interval '1 ms';
  v_approved_until timestamptz;
  v_until timestamptz;
  v_settings jsonb;
  v_part jsonb;
  v_well integer;
  v_is_alone boolean := false;
  v_answered integer[] := array[]::integer[];
  v_outcomes jsonb := '[]'::jsonb;
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'a call in bulk, milliseconds', p_budget_ms,
    'the name of the worker', p_worker));
  v_batch := backfill_private.bulk_begin(p_run_id, p_sessions);
  if v_batch ? 'look' then
    return v_batch;
  end if;
  v_approved_until := (v_batch ->> 'until')::timestamptz;
  v_until := least(backfill_private.clock() + v_budget, v_approved_until);
  perform set_config('request.headers',
    (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb
      || jsonb_build_object('x-backfill-run', p_run_id))::text,
    true);
  v_settings := backfill_private.settings_kept(
    array(select jsonb_array_elements_text(v_batch -> 'settings')), v_search_path);
  for v_part in
    select jsonb_agg(s.session order by s.place)
    from jsonb_array_elements(v_batch -> 'sessions') with ordinality as s (session, place)
    group by (s.place - 1) / 50
    order by min(s.place)
  loop
    v_well := backfill_private.bulk_some(
      v_batch, v_part, v_settings, v_search_path, v_answered <> '{}', v_until);
    v_answered := v_answered || array(
      select (v_part -> place ->> 'ordinal')::integer from generate_series(0, v_well - 1) as place);
    exit when v_well is distinct from jsonb_array_length(v_part);
  end loop;
  if v_well is null then
    v_well := cardinality(v_answered);
    -- What failed was rolled back. If nothing else was written, no row is locked.
    v_until := case
      when v_well > 0 then v_until
      else least(backfill_private.clock() + v_budget, v_approved_until) end;
    for v_part in select s from jsonb_array_elements(v_part) as s loop
      exit when backfill_private.clock() >= v_until;
      v_outcomes := v_outcomes
        || backfill_private.bulk_one(v_batch, v_part, v_settings, v_search_path, v_well > 0);
      v_well := v_well + (v_outcomes -> -1 ->> 'outcome' = 'answered')::integer;
      v_is_alone := v_well > 0 and backfill_private.leaves_behind();
      exit when v_is_alone;
    end loop;
    v_is_alone := v_is_alone or v_well = 1 and jsonb_path_exists(v_outcomes, '$[*] ? (@.outcome == "beside")');
  end if;
  return backfill_private.bulk_settle((v_batch ->> 'claim')::uuid, p_worker, v_answered, v_outcomes)
    || jsonb_build_object(
      'sessions', cardinality(v_answered) + jsonb_array_length(v_outcomes),
      'alone', v_is_alone,
      'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
end
$$;

comment on function public.backfill_bulk(uuid, text, integer, integer, text) is
  'Claim, score and settle a batch of a run in bulk, in one transaction. For the client.';

create function public.backfill_renew(p_run_id uuid, p_claim_id uuid)
returns integer
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.renew(p_run_id, p_claim_id)
$$;

comment on function public.backfill_renew(uuid, uuid) is
  'Renew the leases of a claim. For the client.';

create function public.backfill_settle(p_run_id uuid, p_claim_id uuid, p_outcomes jsonb)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.settle(p_run_id, p_claim_id, p_outcomes)
$$;

comment on function public.backfill_settle(uuid, uuid, jsonb) is
  'Settle a claimed batch. Each session''s receipts decide what became of it. For the client.';

create function public.backfill_verify_part(
  p_run_id uuid, p_so_far jsonb default null, p_budget_ms integer default 2000
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.verify_part(p_run_id, p_so_far, p_budget_ms)
$$;

comment on function public.backfill_verify_part(uuid, jsonb, integer) is
  'What is in the tables against what a run had planned, one part per call. For the client.';

-- What a run's scoring wrote, packed: the receipts of the last sessions before a place of its plan. All receipts of a
-- session come together.
--
-- p_before  before this place. Null: from the end
-- returns   [receipt_id, ordinal, session_id, component, operation, table_name, row_key, before_hash, after_hash,
--           attempt, at, undone_at] per receipt, hashes in hex
create function public.backfill_written(
  p_run_id uuid, p_before integer default null, p_sessions integer default 2000
)
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(json_agg(
    json_build_array(r.receipt_id, r.ordinal, r.session_id, r.component, r.operation, r.table_name, r.row_key,
      encode(r.before_hash, 'hex'), encode(r.after_hash, 'hex'), r.attempt, r.at, r.undone_at)
    order by r.ordinal desc, r.receipt_id), '[]')
  from (
    select x.run_id, x.ordinal
    from public.backfill_items as x
    where x.run_id = p_run_id
      and (p_before is null or x.ordinal < p_before)
      and exists (
        select from public.backfill_receipts as y
        where y.run_id = x.run_id
          and y.ordinal = x.ordinal
          and y.kind = 'score'
      )
    order by x.ordinal desc
    limit greatest(least(p_sessions, 2000), 0)
  ) as i
  join public.backfill_receipts as r
    on r.run_id = i.run_id
    and r.ordinal = i.ordinal
    and r.kind = 'score'
$$;

comment on function public.backfill_written(uuid, integer, integer) is
  'What a run''s scoring wrote, packed, the last sessions of the plan first. For the client.';

-- The rows that the undos of a run left behind.
create function public.backfill_left_behind(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.left_behind_rows(p_run_id)
$$;

comment on function public.backfill_left_behind(uuid) is
  'The rows that an undo of a run could not take back, each with the reason. For the client.';

create function public.backfill_preview_undo(
  p_run_id uuid, p_sessions text[] default null, p_since text default null, p_until text default null,
  p_budget_ms integer default null, p_undo_id bigint default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.preview_undo(p_run_id, p_sessions, p_since, p_until, p_budget_ms, p_undo_id)
$$;

comment on function public.backfill_preview_undo(uuid, text[], text, text, integer, bigint) is
  'What an undo of a run would take back: counts, conflicts and the digest that confirms it. For the client.';

create function public.backfill_undo_conflicts(p_run_id uuid, p_undo_id bigint, p_after bigint default 0)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.undo_conflicts_part(p_run_id, p_undo_id, p_after)
$$;

comment on function public.backfill_undo_conflicts(uuid, bigint, bigint) is
  'The next thousand rows that a previewed or confirmed undo of a run leaves, each with the reason. For the client.';

-- The last parameter is the caller's search path: a default is evaluated before this function's own path is set. It has
-- no name, so that no call through the API can give another.
create function public.backfill_confirm_undo(
  p_run_id uuid, p_digest text, p_reason text, p_sessions integer default 200, p_scope jsonb default null,
  text default current_setting('search_path')
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.confirm_undo(p_run_id, p_digest, p_reason, p_sessions, p_scope, $6)
$$;

comment on function public.backfill_confirm_undo(uuid, text, text, integer, jsonb, text) is
  'Carry out exactly the undo that was previewed, one part per call. For the client.';

-- Empty the before-images in the receipts of a finished run.
create function public.backfill_prune(run uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.prune($1)
$$;

comment on function public.backfill_prune(uuid) is
  'Empty the before-images that a finished run keeps for undo. What it overwrote cannot be restored afterwards.';

-- from sql/95_face/next_step.sql
-- The next step of a run: its causes as they stand now, and what helps.

-- Why a paused run is paused, as it stands now. What stands in its way goes first, for no resume passes it.
create function backfill_private.pause_now(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (backfill_private.in_the_way(p_run)).cause,
    case when backfill_private.functions_without_headers(p_run) is not null then 'no_headers' end,
    (select 'throttle'
     from public.backfill_settings as s
     where backfill_private.share_taken(p_run.run_id)
       + coalesce(backfill_private.rate_of(p_run), s.max_throttle_per_minute + 1)
       > s.max_throttle_per_minute),
    (select 'mended' from backfill_private.causes as c where c.cause = p_run.cause and c.is_seen),
    p_run.cause,
    'asked')
$$;

-- Every cause of a run, the one that its state has first.
--
-- p_failed   how many of its sessions failed
-- p_is_idle  sessions are pending, and no worker holds one
create function backfill_private.causes_of(p_run public.backfill_runs, p_failed bigint, p_is_idle boolean)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_causes text[] := array[p_run.state];
  v_held text;
begin
  if not exists (select from backfill_private.sources as s where s.target = p_run.target) then
    return array['removed'];
  elsif p_run.state in ('approved', 'running', 'paused') and p_run.approved_until <= backfill_private.clock() then
    v_causes := array['expired'];
  elsif p_run.state = 'paused' then
    v_causes := array[backfill_private.pause_now(p_run)];
  elsif p_run.state = 'running' and p_is_idle then
    v_causes := array['no_worker'];
  elsif p_run.state = 'completed' and p_failed > 0 then
    v_held := case when p_run.approved_until <= backfill_private.clock() then 'failed_for_good' end;
    v_causes := v_causes || coalesce(
      v_held,
      (backfill_private.in_the_way(p_run)).cause,
      case when backfill_private.functions_without_headers(p_run) is not null then 'no_headers' end,
      'failed');
  end if;
  if p_run.state in ('completed', 'cancelled', 'expired') and exists (
    select from backfill_private.critical_events(p_run.run_id) as e where e.answered is null)
  then
    v_causes := v_causes || 'unanswered'::text;
  end if;
  if p_run.state <> 'planning' and exists (select from backfill_private.left_behind(p_run.run_id)) then
    v_causes := v_causes || 'left_behind'::text;
  end if;
  return v_causes;
end
$$;

-- What helps a run now. Null if the caller may not read.
--
-- returns  {causes: that of its state first, decides: a person has to look or decide first, says: sentences or null,
--          lines: to copy}
create function backfill_private.next_step(p_run_id uuid, p_failed bigint, p_is_idle boolean)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'causes', jsonb_agg(h.help ->> 'cause' order by c.place),
    'decides', bool_or((h.help ->> 'decides')::boolean),
    'says', string_agg(h.help ->> 'says', ' ' order by c.place),
    'lines', (
      select coalesce(jsonb_agg(l.line order by l.place), '[]')
      from (
        select a.line, min(a.place) as place
        from jsonb_path_query(jsonb_agg(h.help -> 'lines' order by c.place), '$[*][*]')
        with ordinality as a (line, place)
        group by a.line) as l))
  from public.backfill_runs as r
  cross join lateral unnest(backfill_private.causes_of(r, p_failed, p_is_idle)) with ordinality as c (cause, place)
  cross join lateral backfill_private.helps(r, c.cause) as h (help)
  where r.run_id = p_run_id
    and backfill_private.may('read')
  group by r.run_id
$$;

-- from sql/95_face/progress.sql
-- Views about runs, for people to look at during a run and afterwards.

create view public.backfill_run_progress with (security_invoker = true) as
select
  r.run_id,
  r.target,
  r.state,
  coalesce(c.total, 0) as total,
  coalesce(c.done, 0) as done,
  coalesce(c.failed, 0) as failed,
  coalesce(c.pending, 0) as pending,
  coalesce(c.leased, 0) as leased,
  coalesce(c.skipped, 0) as skipped,
  coalesce(c.unselected, 0) as unselected,
  coalesce(c.rolled_back, 0) as rolled_back,
  -- Seconds after the start a batch would look like many per minute, more than the throttle allows.
  round(
    least(
      coalesce(c.lately * 60.0 / w.watched_s, 0),
      backfill_private.rate_of(r)::numeric),
    1) as rate_per_minute,
  backfill_private.rate_of(r) as pace_per_minute,
  (r.request ->> 'throttle_per_minute')::integer as throttle_per_minute,
  case when r.state in ('approved', 'running') and c.total > 0 and not y.is_idle then
    round(greatest(
      p.batches_left * p.spacing_s
        + coalesce(greatest(extract(epoch from b.next_batch_at - backfill_private.clock()), 0), 0),
      case when p.lags and c.lately > 0 then (c.pending + c.leased) * w.watched_s / c.lately else 0 end))::integer
  end as eta_s,
  y.waits_for,
  r.reason,
  r.environment,
  r.approved_by,
  r.approved_until,
  r.created_at,
  r.started_at,
  r.finished_at,
  case when r.state in ('running', 'paused') and c.pending > 0 then b.next_batch_at end as next_batch_at,
  b.audit_count,
  b.audit_head,
  coalesce(r.plan -> 'called', '["session", "sessions"]') as called,
  r.cause,
  backfill_private.left_behind_count(r.run_id) as left_behind,
  backfill_private.next_step(
    r.run_id,
    coalesce(c.failed, 0),
    c.pending > 0 and c.leased = 0 and backfill_private.driven_by(r.run_id) is null) as next,
  backfill_private.unlike_approved(r.run_id) as unlike_approved,
  r.approved_via,
  backfill_private.standing_of_run(r.run_id) as standing
from public.backfill_runs as r
-- What batches have changed: see backfill_private.tallies.
cross join lateral (
  select
    coalesce(t.audit_count, r.audit_count) as audit_count,
    coalesce(t.audit_head, r.audit_head) as audit_head,
    coalesce(t.next_batch_at, r.next_batch_at) as next_batch_at
  from backfill_private.newest_tally(r.run_id) as t
) as b
left join (
  select
    i.run_id,
    count(*) as total,
    count(*) filter (where i.state = 'pending') as pending,
    count(*) filter (where i.state = 'leased') as leased,
    count(*) filter (where i.state = 'leased' and i.trial = 'called') as witnesses,
    count(*) filter (where i.state = 'leased' and i.lease_until > backfill_private.clock()) as held,
    max(i.lease_until) filter (where i.state = 'leased') as held_until,
    count(*) filter (where i.state = 'done') as done,
    count(*) filter (where i.state = 'failed') as failed,
    count(*) filter (where i.state = 'skipped') as skipped,
    count(*) filter (where i.state = 'skipped' and i.unselected is not null) as unselected,
    count(*) filter (where i.state = 'rolled_back') as rolled_back,
    count(*) filter (
      where i.settled_at > backfill_private.clock() - interval '60 seconds'
        and i.settled_at >= started.resumed_at
        and i.state in ('done', 'failed')) as lately,
    count(*) filter (where i.phase = 'priority' and i.state in ('pending', 'leased')) as canary_open,
    count(*) filter (where i.phase = 'priority' and i.state = 'pending') as pending_priority,
    -- When the next pending session may be tried. One that was never backed off may be tried now.
    min(coalesce(i.not_before, '-infinity')) filter (where i.state = 'pending') as next_try,
    (array_agg(concat_ws(' ', i.error_code, i.error_message) order by i.not_before)
      filter (where i.state = 'pending' and i.not_before is not null))[1] as tried_after
  from public.backfill_items as i
  join public.backfill_runs as started using (run_id)
  group by i.run_id
) as c using (run_id)
-- The rate covers the last 60 s, or the time since the run was started or resumed.
cross join lateral (
  select least(60.0, greatest(extract(epoch from backfill_private.clock() - r.resumed_at), 1.0)) as watched_s,
    coalesce(r.plan #>> '{called,1}', 'sessions') as called_many
) as w
-- While batches start as the throttle allows, the throttle gives the time left. If the run lags behind, its rate does.
cross join lateral (
  select
    s.spacing_s,
    greatest(ceil(c.pending / (s.paced ->> 'batch_size')::numeric) - 1, 0) as batches_left,
    coalesce(b.next_batch_at + make_interval(secs => s.spacing_s::double precision)
      < backfill_private.clock(), false) or s.paced ->> 'throttle_per_minute' is null as lags
  from (select backfill_private.paced(r.request, r.pace_per_minute) as paced) as n
  cross join lateral (select n.paced, backfill_private.batch_spacing_s(n.paced) as spacing_s) as s
) as p
-- In one form: what it waits for, and why. offset 0: worked out once, though it is read twice.
cross join lateral (
  select
    case
      when r.state = 'paused' then
        format('resume: paused by %s: %s', coalesce(r.held_by, 'the database'), coalesce(r.reason, 'no reason given'))
      when r.state = 'awaiting_approval' then 'approval: of digest ' || r.digest
      when r.state = 'approved' then
        coalesce('driver: ' || backfill_private.driven_by(r.run_id), 'apply: backfill apply ' || r.run_id)
      when r.state <> 'running' then null
      when c.leased > 0 and c.held = 0 then
        format('worker: none renews the leases that ran out by %s UTC. If none is alive: backfill apply %s',
          to_char(c.held_until at time zone 'UTC', 'HH24:MI:SS'), r.run_id)
      when c.pending = 0 and c.leased > 0 then
        format('leases: the last %s, ', w.called_many) || backfill_private.lease_holders(r.run_id)
      when r.back_off_until > backfill_private.clock() then
        format('back-off: until %s UTC after %s',
          to_char(r.back_off_until at time zone 'UTC', 'HH24:MI:SS'), r.back_off_reason)
      when r.approved_via = 'standing' and c.pending > 0 and backfill_private.waits_for_hours(r.run_id) is not null then
        backfill_private.waits_for_hours(r.run_id)
      when r.canary is null and c.canary_open > 0 and c.pending_priority = 0 then
        'canary: ' || coalesce(
          backfill_private.lease_holders(r.run_id),
          format('its %s are about to be judged', w.called_many))
      when b.next_batch_at > backfill_private.clock() then
        'throttle: the next batch starts at ' || to_char(b.next_batch_at at time zone 'UTC', 'HH24:MI:SS') || ' UTC'
      when c.pending > 0 and backfill_private.unwell_lately(r.run_id) is not null then
        'health: ' || backfill_private.unwell_lately(r.run_id)
      when c.pending > 0 and c.leased = 0 and backfill_private.slots_taken(1) is not null then
        'throttle: ' || backfill_private.slots_taken(1)
      when c.witnesses > 0 then
        format('trial: whether an error is that of all %s, ', w.called_many) || backfill_private.lease_holders(r.run_id)
      when c.pending > 0 and c.next_try > backfill_private.clock() then
        format('back-off: the next %s is tried again at %s UTC after %s', coalesce(r.plan #>> '{called,0}', 'session'),
          to_char(c.next_try at time zone 'UTC', 'HH24:MI:SS'), c.tried_after)
      when c.leased = 0 then
        coalesce(
          'leases: ' || backfill_private.lease_holders(r.run_id),
          'driver: ' || backfill_private.driven_by(r.run_id),
          'worker: none asks for the next batch. If none is alive: backfill apply ' || r.run_id)
    end as waits_for
  offset 0
) as x
-- Nobody works on it: then nobody knows how long it takes. A call in bulk holds no lease that could be seen.
cross join lateral (
  select x.waits_for,
    coalesce(x.waits_for like 'worker: %' and (c.lately = 0 or r.request ->> 'mode' is distinct from 'bulk'), false)
      as is_idle
) as y;

comment on view public.backfill_run_progress is 'Where each run stands: counts, rate, time left, and why it waits.';
comment on column public.backfill_run_progress.run_id is 'The run.';
comment on column public.backfill_run_progress.target is 'What is backfilled: a target of backfill_targets.';
comment on column public.backfill_run_progress.state is 'Where it stands.';
comment on column public.backfill_run_progress.total is 'Sessions in the plan.';
comment on column public.backfill_run_progress.done is 'Sessions with every planned row.';
comment on column public.backfill_run_progress.failed is 'Sessions that failed. backfill_run_failures says why.';
comment on column public.backfill_run_progress.pending is 'Sessions that wait.';
comment on column public.backfill_run_progress.leased is 'Sessions that a worker holds.';
comment on column public.backfill_run_progress.skipped is
  'Sessions that were not scored: somebody else had filled them first, or the target no longer selected them.';
comment on column public.backfill_run_progress.unselected is
  'Of these, sessions that the target no longer selected.';
comment on column public.backfill_run_progress.rolled_back is 'Sessions whose rows were undone.';
comment on column public.backfill_run_progress.rate_per_minute is
  'Sessions settled per minute, over the last 60 seconds or since the run was started or resumed.';
comment on column public.backfill_run_progress.pace_per_minute is
  'Session starts per minute that are in force, never more than approved. Null: there is no throttle.';
comment on column public.backfill_run_progress.throttle_per_minute is
  'Session starts per minute that were approved. Null: no throttle.';
comment on column public.backfill_run_progress.eta_s is
  'Seconds until the last batch starts: from the throttle, or from the rate if the run lags behind the throttle. '
  'Null if nobody works on the run.';
comment on column public.backfill_run_progress.waits_for is
  'What it waits for right now, and why: throttle: the next batch starts at … Null while sessions are being scored.';
comment on column public.backfill_run_progress.reason is 'Why it is paused, rejected, cancelled or expired.';
comment on column public.backfill_run_progress.environment is 'The environment that the plan is for.';
comment on column public.backfill_run_progress.approved_by is 'Who approved it.';
comment on column public.backfill_run_progress.approved_until is 'When the approval runs out.';
comment on column public.backfill_run_progress.created_at is 'When planning began.';
comment on column public.backfill_run_progress.started_at is 'When the first worker started it.';
comment on column public.backfill_run_progress.finished_at is 'When it came to an end.';
comment on column public.backfill_run_progress.next_batch_at is
  'When the next batch may start. Null if no batch is left.';
comment on column public.backfill_run_progress.audit_count is 'How many audit events it has.';
comment on column public.backfill_run_progress.audit_head is
  'Hash of the newest audit event. Keep it outside the database: it shows whether the history was changed.';
comment on column public.backfill_run_progress.called is 'How the target''s rows are called: one of them, and several.';
comment on column public.backfill_run_progress.cause is 'What kind of reason a pause has, as a code.';
comment on column public.backfill_run_progress.left_behind is 'Rows that an undo could not take back.';
comment on column public.backfill_run_progress.next is
  'What helps now: the causes, whether a person has to decide first, sentences, and the lines to copy.';
comment on column public.backfill_run_progress.unlike_approved is
  'Says so if the figures or marks of the plan are not those that the approver read. Else null.';

comment on column public.backfill_run_progress.approved_via is
  'How it was approved: sql, auth, service_key or standing.';
comment on column public.backfill_run_progress.standing is
  'The standing approval that allowed it, or why none covers it: {standing_id, covers, reason}. Null: there is none.';

create view public.backfill_run_failures with (security_invoker = true) as
select
  i.run_id,
  i.session_id,
  i.failed_step,
  i.error_code,
  i.error_message,
  i.attempts,
  i.settled_at,
  i.phase,
  i.batch
from public.backfill_items as i
where i.state = 'failed'
order by i.run_id, i.ordinal;

comment on view public.backfill_run_failures is 'The sessions that failed, and why.';
comment on column public.backfill_run_failures.run_id is 'The run.';
comment on column public.backfill_run_failures.session_id is 'The session that failed.';
comment on column public.backfill_run_failures.failed_step is 'The component whose scoring call failed.';
comment on column public.backfill_run_failures.error_code is 'SQLSTATE, code of the API or HTTP status.';
comment on column public.backfill_run_failures.error_message is 'What the error said, 500 characters at most.';
comment on column public.backfill_run_failures.attempts is 'How often it was tried.';
comment on column public.backfill_run_failures.settled_at is 'When it failed for good.';
comment on column public.backfill_run_failures.phase is 'priority, recent or historical.';
comment on column public.backfill_run_failures.batch is 'Number of its batch in the plan.';

-- from sql/99_access/policies.sql
-- Row level security: who sees which rows of our tables.

alter table public.backfill_settings enable row level security;
create policy "everybody who may read runs reads the settings" on public.backfill_settings
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads the settings" on public.backfill_settings
  for select to service_role using (true);

alter table public.backfill_targets enable row level security;
create policy "everybody who may read runs reads the targets" on public.backfill_targets
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads the targets" on public.backfill_targets
  for select to service_role using (true);

alter table backfill_private.sources enable row level security;
create policy "the owner alone" on backfill_private.sources
  for select to service_role using (false);

alter table public.backfill_runs enable row level security;
create policy "everybody with a backfill role reads runs" on public.backfill_runs
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads runs" on public.backfill_runs
  for select to service_role using (true);

alter table public.backfill_items enable row level security;
create policy "everybody with a backfill role reads items" on public.backfill_items
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads items" on public.backfill_items
  for select to service_role using (true);

alter table backfill_private.findings enable row level security;
create policy "the owner alone" on backfill_private.findings for select to service_role using (false);

alter table backfill_private.lock_secret enable row level security;
create policy "the owner alone" on backfill_private.lock_secret for select to service_role using (false);
alter table backfill_private.starts enable row level security;
create policy "the owner alone" on backfill_private.starts for select to service_role using (false);

alter table backfill_private.health enable row level security;
create policy "the owner alone" on backfill_private.health for select to service_role using (false);
alter table backfill_private.slots enable row level security;
create policy "the owner alone" on backfill_private.slots for select to service_role using (false);

alter table public.backfill_events enable row level security;
create policy "everybody with a backfill role reads events" on public.backfill_events
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads events" on public.backfill_events
  for select to service_role using (true);

alter table public.backfill_approvals enable row level security;
create policy "everybody with a backfill role reads decisions" on public.backfill_approvals
  for select to authenticated using ((select backfill_private.may('read')));
create policy "who may decide inserts decisions" on public.backfill_approvals
  for insert to authenticated with check ((select backfill_private.may('decide')));
create policy "the service reads decisions" on public.backfill_approvals
  for select to service_role using (true);
create policy "the trigger decides for the service" on public.backfill_approvals
  for insert to service_role with check (true);

alter table public.backfill_standing enable row level security;
create policy "everybody with a backfill role reads standing approvals" on public.backfill_standing
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads standing approvals" on public.backfill_standing
  for select to service_role using (true);

alter table backfill_private.standing_days enable row level security;
create policy "the owner alone" on backfill_private.standing_days for select to service_role using (false);
alter table backfill_private.heals enable row level security;
create policy "the owner alone" on backfill_private.heals for select to service_role using (false);

alter table public.backfill_receipts enable row level security;
create policy "everybody with a backfill role reads receipts" on public.backfill_receipts
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads receipts" on public.backfill_receipts
  for select to service_role using (true);

alter table backfill_private.undos enable row level security;
create policy "the owner alone" on backfill_private.undos for select to service_role using (false);
alter table backfill_private.conflicts enable row level security;
create policy "the owner alone" on backfill_private.conflicts for select to service_role using (false);

alter table backfill_private.rehearsals enable row level security;
create policy "the owner alone" on backfill_private.rehearsals for select to service_role using (false);

alter table backfill_private.rehearsal_rows enable row level security;
create policy "the owner alone" on backfill_private.rehearsal_rows for select to service_role using (false);

alter table backfill_private.shapes enable row level security;
create policy "the owner alone" on backfill_private.shapes for select to service_role using (false);

alter table backfill_private.elsewhere enable row level security;
create policy "the owner alone" on backfill_private.elsewhere for select to service_role using (false);
alter table backfill_private.looks enable row level security;
create policy "the owner alone" on backfill_private.looks for select to service_role using (false);

alter table backfill_private.low_water enable row level security;
create policy "the owner alone" on backfill_private.low_water for select to service_role using (false);
alter table backfill_private.tallies enable row level security;
create policy "the owner alone" on backfill_private.tallies for select to service_role using (false);
alter table backfill_private.lease_looks enable row level security;
create policy "the owner alone" on backfill_private.lease_looks for select to service_role using (false);

alter table backfill_private.unnoted enable row level security;
create policy "the owner alone" on backfill_private.unnoted for select to service_role using (false);

alter table backfill_private.bulk_claims enable row level security;
create policy "the owner alone" on backfill_private.bulk_claims for select to service_role using (false);

alter table backfill_private.bulk_rows enable row level security;
create policy "the owner alone" on backfill_private.bulk_rows for select to service_role using (false);

alter table public.backfill_watches enable row level security;
create policy "everybody with a backfill role reads the watches" on public.backfill_watches
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads the watches" on public.backfill_watches
  for select to service_role using (true);

alter table public.backfill_coverage_history enable row level security;
create policy "everybody with a backfill role reads the history" on public.backfill_coverage_history
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads the history" on public.backfill_coverage_history
  for select to service_role using (true);

alter table public.backfill_alerts enable row level security;
create policy "everybody with a backfill role reads alerts" on public.backfill_alerts
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads alerts" on public.backfill_alerts
  for select to service_role using (true);

-- from sql/99_access/rights.sql
-- Rights: everything is revoked, then granted by name. Row level security is in policies.sql.

-- The private schema. Only the owner may call its functions, unless they are granted below.
revoke all on schema backfill_private from public, anon, authenticated, service_role;
revoke all on all routines in schema backfill_private from public, anon, authenticated, service_role;
revoke all on all tables in schema backfill_private from public, anon, authenticated, service_role;
grant usage on schema backfill_private to authenticated, service_role;

-- Tables and views that people see. Older projects grant everything on new objects in public, so all rights are revoked
-- first.
revoke all on
  public.backfill_settings,
  public.backfill_targets,
  public.backfill_runs,
  public.backfill_items,
  public.backfill_transitions,
  public.backfill_events,
  public.backfill_approvals,
  public.backfill_standing,
  public.backfill_receipts,
  public.backfill_run_progress,
  public.backfill_run_failures,
  public.backfill_watches,
  public.backfill_coverage_history,
  public.backfill_alerts,
  public.backfill_watch_status
from public, anon, authenticated, service_role;
revoke all on sequence
  public.backfill_alerts_alert_id_seq,
  public.backfill_approvals_approval_id_seq,
  public.backfill_receipts_receipt_id_seq
from public, anon, authenticated, service_role;

-- The doors.
revoke all on function
  public.backfill_check(jsonb),
  public.backfill_calls(uuid),
  public.backfill_coverage(text, text, text),
  public.backfill_heal_next(text),
  public.backfill_watch(text, boolean, integer),
  public.backfill_catalog(),
  public.backfill_check_target(jsonb),
  public.backfill_installed(),
  public.backfill_open(jsonb, text, uuid),
  public.backfill_collect(uuid),
  public.backfill_rehearsal(uuid),
  public.backfill_rehearse(uuid, text, text),
  public.backfill_seal(uuid, numeric, jsonb),
  public.backfill_plan_sessions(uuid, integer, integer),
  public.backfill_freshness(uuid),
  public.backfill_find_runs(text),
  public.backfill_history(text[]),
  public.backfill_approve(uuid, text, text, text),
  public.backfill_reject(uuid, text, text),
  public.backfill_propose_standing(
    text, text, integer, integer, integer, integer, text, text, text[], boolean, text, uuid),
  public.backfill_standings(),
  public.backfill_revoke_standing(uuid, text),
  public.backfill_ask_standing(uuid),
  public.backfill_start(uuid, text),
  public.backfill_pace(uuid, numeric),
  public.backfill_pause(uuid, text),
  public.backfill_resume(uuid, text),
  public.backfill_cancel(uuid, text),
  public.backfill_retry(uuid),
  public.backfill_claim(uuid, uuid, text),
  public.backfill_claim_apart(uuid, uuid, text),
  public.backfill_bulk(uuid, text, integer, integer, text),
  public.backfill_renew(uuid, uuid),
  public.backfill_settle(uuid, uuid, jsonb),
  public.backfill_drive(uuid),
  public.backfill_drive_every(text),
  public.backfill_drive_every(interval),
  public.backfill_drive_stop(),
  public.backfill_verify_part(uuid, jsonb, integer),
  public.backfill_written(uuid, integer, integer),
  public.backfill_left_behind(uuid),
  public.backfill_undo_conflicts(uuid, bigint, bigint),
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_approve_undo(uuid, text, text, text),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb, text),
  public.backfill_prune(uuid)
from public, anon, authenticated, service_role;
revoke all on procedure public.backfill_drive_step(uuid, interval, interval)
from public, anon, authenticated, service_role;

-- Everything here is read under row level security.
grant select on
  public.backfill_settings,
  public.backfill_targets,
  public.backfill_runs,
  public.backfill_transitions,
  public.backfill_events,
  public.backfill_approvals,
  public.backfill_standing,
  public.backfill_run_progress,
  public.backfill_run_failures,
  public.backfill_watches,
  public.backfill_coverage_history,
  public.backfill_alerts,
  public.backfill_watch_status
to authenticated, service_role;

-- All columns but the fence's hash, which only the gate needs.
grant select (run_id, ordinal, source, session_id, session_at, components, replaces, category, phase, batch, state,
  attempts, crowded_out, unknown_outcomes, is_alone, not_before, trial, started_at, settled_at, failed_step, error_code,
  error_message, filled, unselected, worker, claim_id, lease_kind, lease_until)
on public.backfill_items to authenticated, service_role;

-- What a decision says. Its trigger decides whether it counts.
grant insert (run_id, digest, decision, approver, note) on public.backfill_approvals to authenticated, service_role;

-- All columns but the row before and the hashes of single columns, which only undo and verify need.
grant select (receipt_id, run_id, ordinal, session_id, component, kind, operation, table_name, row_key, shape,
  undo_id,
  before_hash, after_hash, attempt, is_inferred, at, undone_at) on public.backfill_receipts
to authenticated, service_role;

grant select on backfill_private.faults to service_role;

-- Doors of the service and of users with a backfill role. The function checks the role.
grant execute on function
  public.backfill_check(jsonb),
  public.backfill_calls(uuid),
  public.backfill_open(jsonb, text, uuid),
  public.backfill_collect(uuid),
  public.backfill_seal(uuid, numeric, jsonb),
  public.backfill_plan_sessions(uuid, integer, integer),
  public.backfill_freshness(uuid),
  public.backfill_find_runs(text),
  public.backfill_approve(uuid, text, text, text),
  public.backfill_reject(uuid, text, text),
  public.backfill_propose_standing(
    text, text, integer, integer, integer, integer, text, text, text[], boolean, text, uuid),
  public.backfill_standings(),
  public.backfill_revoke_standing(uuid, text),
  public.backfill_ask_standing(uuid),
  public.backfill_pace(uuid, numeric),
  public.backfill_pause(uuid, text),
  public.backfill_resume(uuid, text),
  public.backfill_cancel(uuid, text),
  public.backfill_verify_part(uuid, jsonb, integer),
  public.backfill_written(uuid, integer, integer),
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_approve_undo(uuid, text, text, text),
  public.backfill_left_behind(uuid),
  public.backfill_undo_conflicts(uuid, bigint, bigint)
to authenticated, service_role;

-- Doors of the service only.
grant execute on function
  public.backfill_coverage(text, text, text),
  public.backfill_heal_next(text),
  public.backfill_watch(text, boolean, integer),
  public.backfill_history(text[]),
  public.backfill_catalog(),
  public.backfill_check_target(jsonb),
  public.backfill_installed(),
  public.backfill_rehearsal(uuid),
  public.backfill_rehearse(uuid, text, text),
  public.backfill_start(uuid, text),
  public.backfill_retry(uuid),
  public.backfill_claim(uuid, uuid, text),
  public.backfill_claim_apart(uuid, uuid, text),
  public.backfill_bulk(uuid, text, integer, integer, text),
  public.backfill_renew(uuid, uuid),
  public.backfill_settle(uuid, uuid, jsonb),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb, text),
  public.backfill_prune(uuid)
to service_role;

-- What the doors of users, their policies and their views call.
grant execute on function
  backfill_private.approve_standing(uuid, text, text, text),
  backfill_private.approve_undo(uuid, text, text, text),
  backfill_private.ask_standing(uuid),
  backfill_private.batch_spacing_s(jsonb),
  backfill_private.calls_to_probe(uuid),
  backfill_private.check_project(jsonb),
  backfill_private.clock(),
  backfill_private.collect_window(uuid),
  backfill_private.driven_by(uuid),
  backfill_private.freshness(uuid),
  backfill_private.halt(text, uuid, text),
  backfill_private.lease_holders(uuid),
  backfill_private.left_behind_count(uuid),
  backfill_private.left_behind_rows(uuid),
  backfill_private.undo_conflicts_part(uuid, bigint, bigint),
  backfill_private.may(text),
  backfill_private.newest_tally(uuid),
  backfill_private.next_step(uuid, bigint, boolean),
  backfill_private.open_run(jsonb, text, uuid),
  backfill_private.pace(uuid, numeric),
  backfill_private.paced(jsonb, integer),
  backfill_private.preview_undo(uuid, text[], text, text, integer, bigint),
  backfill_private.propose_standing(uuid, jsonb),
  backfill_private.rate_of(public.backfill_runs),
  backfill_private.refuse_untargeted(),
  backfill_private.resume(uuid, text),
  backfill_private.revoke_standing(uuid, text),
  backfill_private.seal(uuid, numeric, jsonb),
  backfill_private.share(bigint, bigint),
  backfill_private.short_by(numeric, bigint, bigint),
  backfill_private.slots_taken(bigint),
  backfill_private.standing_of_run(uuid),
  backfill_private.standings_told(),
  backfill_private.unlike_approved(uuid),
  backfill_private.unwell_lately(uuid),
  backfill_private.verify_part(uuid, jsonb, integer),
  backfill_private.waits_for_hours(uuid)
to authenticated, service_role;

-- What the doors of the service call.
grant execute on function
  backfill_private.base_type(oid, integer),
  backfill_private.beside_session(uuid, text),
  backfill_private.bulk_begin(uuid, integer),
  backfill_private.bulk_check(jsonb, jsonb, text),
  backfill_private.bulk_keep(uuid, text),
  backfill_private.bulk_one(jsonb, jsonb, jsonb, text, boolean),
  backfill_private.bulk_outcome(text),
  backfill_private.bulk_owed(jsonb, integer),
  backfill_private.bulk_settle(uuid, text, integer[], jsonb),
  backfill_private.bulk_some(jsonb, jsonb, jsonb, text, boolean, timestamptz),
  backfill_private.catalog_columns(oid),
  backfill_private.catalog_functions(),
  backfill_private.catalog_keys(oid),
  backfill_private.catalog_references(oid),
  backfill_private.catalog_relations(),
  backfill_private.check_bounds(jsonb),
  backfill_private.checks_now(),
  backfill_private.claim(uuid, uuid, text),
  backfill_private.claim_apart(uuid, uuid, text),
  backfill_private.columns_apart(jsonb, jsonb),
  backfill_private.confirm_undo(uuid, text, text, integer, jsonb, text),
  backfill_private.count_rehearsal(integer),
  backfill_private.coverage_of(text, text, text),
  backfill_private.declaration_faults(jsonb),
  backfill_private.drive_call(uuid, jsonb, jsonb, jsonb, text, timestamptz),
  backfill_private.drive_claim(uuid, uuid, text, boolean),
  backfill_private.fault(text),
  backfill_private.gives_way(timestamptz),
  backfill_private.heal_next(text),
  backfill_private.history(text[]),
  backfill_private.installed_targets(),
  backfill_private.is_cancel(text, text, timestamptz),
  backfill_private.is_of_an_extension(regclass, oid),
  backfill_private.is_written_here(xid),
  backfill_private.keep_rehearsal(uuid, text, jsonb),
  backfill_private.keys_hold(text),
  backfill_private.kept_message(text, text),
  backfill_private.leads_an_index(regclass, text),
  backfill_private.leaves_behind(),
  backfill_private.limit_at(),
  backfill_private.loose_settings(),
  backfill_private.no_plan_takes(text[], text, bigint, bigint),
  backfill_private.parameter(text, text),
  backfill_private.prune(uuid),
  backfill_private.rehearsal_lease(uuid, text),
  backfill_private.rehearsal_sample(uuid),
  backfill_private.rehearsal_waits(integer),
  backfill_private.take_rehearsal_lock(uuid),
  backfill_private.rehearse_again(uuid, text, text, boolean),
  backfill_private.rehearse_pass(jsonb, text, timestamptz),
  backfill_private.renew(uuid, uuid),
  backfill_private.retry(uuid),
  backfill_private.row_hashes(uuid),
  backfill_private.runs_to_drive(uuid),
  backfill_private.seen_beside(uuid, text, text, jsonb),
  backfill_private.seen_first(uuid, jsonb),
  backfill_private.seen_second(uuid),
  backfill_private.seen_undone(uuid, text, timestamptz),
  backfill_private.seen_until(jsonb, text, text, timestamptz),
  backfill_private.settings_kept(text[], text),
  backfill_private.settle(uuid, uuid, jsonb),
  backfill_private.spelled(oid, text),
  backfill_private.start(uuid, text),
  backfill_private.too_few(text, text),
  backfill_private.watch(text, boolean, integer)
to service_role;
grant execute on procedure
  backfill_private.drive_batch(uuid, uuid, jsonb, timestamptz, timestamptz),
  backfill_private.drive_in_bulk(uuid, text, integer, timestamptz),
  backfill_private.drive_turn(uuid, text, boolean, timestamptz, timestamptz, jsonb),
  backfill_private.next_transaction(text, text)
to service_role;

-- Nothing of ours truncates these tables, so nobody may.
create trigger backfill_runs_no_truncate before truncate on public.backfill_runs
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_items_no_truncate before truncate on public.backfill_items
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_events_no_truncate before truncate on public.backfill_events
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_approvals_no_truncate before truncate on public.backfill_approvals
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_standing_no_truncate before truncate on public.backfill_standing
  for each statement execute function backfill_private.guard_truncate();
create trigger backfill_receipts_no_truncate before truncate on public.backfill_receipts
  for each statement execute function backfill_private.guard_truncate();

reset check_function_bodies;
notify pgrst, 'reload schema';
