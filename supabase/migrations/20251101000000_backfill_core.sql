set check_function_bodies = off;
-- from sql/10_ground/_schema.sql
-- The private schema. public holds what people see. backfill_private holds the rest and is not exposed through the API.
-- Every function that needs the owner's rights lives there. It asks who calls before it does anything.

create schema backfill_private;

-- from sql/10_ground/dates.sql
-- Dates of a request: whole UTC days, both ends included. A timestamp with an offset is taken as it is.

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
  -- Planning walks from one to the other, window by window. It would never get past an infinity.
  if v_moment not between '0001-01-01' and '9999-12-31' then
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
    + case when p_text ~ '^\s*\d{4}-\d{2}-\d{2}\s*$' then interval '1 day' else interval '1 microsecond' end
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
-- kind  postgres: a login that is a member of postgres and carries no claims (SQL editor, direct connection)
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
    and pg_has_role(session_user, 'postgres', 'member') then
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
  ('resume',  2,    true),
  ('cancel',  2,    true),
  ('decide',  3,    true),   -- service_role only if the policy is any: the approval's trigger says so
  ('apply',   null, true),
  ('undo',    null, true),
  ('prune',   null, true)
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
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_or(
    c.kind = 'postgres'
    or c.kind = 'service_role' and r.service_role
    or c.kind = 'user' and backfill_private.rank(c.backfill_role) >= r.least_rank
  ), false)
  from backfill_private.caller() as c
  cross join backfill_private.rights as r
  where r.verb = p_verb
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

-- from sql/10_ground/settings.sql
-- Settings: one row. Only postgres writes it (SQL editor), anyone who may read runs reads it.

create table public.backfill_settings (
  only_row boolean primary key default true check (only_row),
  environment text check (environment <> ''),
  approval_policy text not null default 'second_person'
    check (approval_policy in ('second_person', 'postgres_only', 'any')),
  max_throttle_per_minute integer check (max_throttle_per_minute > 0),
  max_sessions integer check (max_sessions > 0),
  approval_ttl interval not null default interval '7 days' check (approval_ttl > interval '0')
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
  'Most session starts per minute, summed over running runs. Null: no bound.';
comment on column public.backfill_settings.max_sessions is
  'Most sessions in one plan. Null: no bound.';
comment on column public.backfill_settings.approval_ttl is
  'How long an approval is valid.';

-- The settings of this project, as a plan keeps them, so that later changes show. {name: value}
create function backfill_private.settings_now()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set intervalstyle = 'iso_8601'
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
  -- [{column, values: [text]}] or, for nulls, [{column, is_null: boolean}]
  filters jsonb not null default '[]',
  -- [{name, table, column, parameter, component: null for all}]: rows that scoring reads, and how many it needs
  needs jsonb not null default '[]',
  views text[] not null,
  index_name text,
  defaults jsonb not null default '{}'
);

create table public.backfill_targets (
  target text not null references backfill_private.sources (target),
  component text not null check (component ~ '^[a-z][a-z0-9_]{0,30}$'),
  position integer not null check (position > 0),
  table_name text not null,
  session_column text not null,
  key_columns text[] not null,
  version_column text not null,
  version text not null,
  version_parameter text not null,
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
  'Its column that holds the version.';
comment on column public.backfill_targets.version is
  'The version wanted if the request names none.';
comment on column public.backfill_targets.version_parameter is
  'Name of the request''s parameter that names the version.';
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

-- from sql/20_target/conditions.sql
-- Conditions: when a row of the source is selected, and when a row of a component's table counts. Each is made here,
-- once, in the columns' own types. The views, the core, the marks and the undo all use what is made here.
--
-- Every function here that reads or writes a value as text pins the settings that such a text depends on.

-- The type of a column's values. A domain is looked through, and a length left away: a cast to varchar(3) would cut a
-- value, and the cut value might be another one. Null if there is no such column.
create function backfill_private.value_type(p_table text, p_column text)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
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

-- The equality of a type: that of its usual order, as `distinct` and a unique index have it. A type of an extension has
-- it in a schema that is not on our path. Null if two values cannot be compared.
create function backfill_private.equality(p_type oid)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select o.amopopr
    from pg_opclass as c
    join pg_am as m
      on m.oid = c.opcmethod
      and m.amname = 'btree'
    join pg_amop as o
      on o.amopfamily = c.opcfamily
      and o.amoplefttype = c.opcintype
      and o.amoprighttype = c.opcintype
      and o.amopstrategy = 3
    join pg_type as t on t.oid = p_type
    left join pg_cast as k
      on k.castsource = p_type
      and k.casttarget = c.opcintype
      and k.castmethod = 'b'
      and k.castcontext = 'i'
    join pg_type as i on i.oid = c.opcintype
    where c.opcdefault
      and (c.opcintype = p_type
        or k.oid is not null
        or i.typname = case t.typtype
          when 'e' then 'anyenum'
          when 'r' then 'anyrange'
          when 'm' then 'anymultirange'
          when 'c' then 'record'
          else case when t.typsubscript = 'array_subscript_handler'::regproc then 'anyarray' end
        end)
    order by c.opcintype = p_type desc, k.oid is null, i.typispreferred desc
    limit 1);
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
  -- The usual types need no look into the catalogs.
  if p_type in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'integer'::regtype, 'bigint'::regtype) then
    return '=';
  end if;
  return (
    select case
      when o.oprname = '=' and n.nspname = 'pg_catalog' then '='
      else format('operator(%I.%s)', n.nspname, o.oprname)
    end
    from pg_operator as o
    join pg_namespace as n on n.oid = o.oprnamespace
    where o.oid = backfill_private.equality(p_type));
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
    (select '. There are: ' || string_agg(e.enumlabel, ', ' order by e.enumsortorder)
     from pg_enum as e
     where e.enumtypid = v_type));
end
$$;

-- What a session's key is: uuid, number or text. Columns of one kind are compared alike by every part, and each value
-- has one spelling. Null for anything else, also for a text that equals another one (a nondeterministic collation).
create function backfill_private.key_kind(p_table text, p_column text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
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
as $$
begin
  return (
    select case
      when t.type = 'timestamp'::regtype then format('(%s at time zone ''UTC'')', p_value)
      when t.type = 'date'::regtype then format('(%s::timestamp at time zone ''UTC'')', p_value)
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

-- The conditions under which a row of a target's source is selected, in words and as SQL.
--
-- p_prefix  of the columns: an alias with its dot, or nothing
create function backfill_private.filter_conditions(p_target text, p_prefix text)
returns table (words text, condition text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    case
      when f ? 'is_null'
      then format('%s %s', f ->> 'column', case when (f ->> 'is_null')::boolean then 'null' else 'not null' end)
      else format('%s %s', f ->> 'column', (
        select string_agg(v, ' or ')
        from jsonb_array_elements_text(f -> 'values') as v
      ))
    end,
    p_prefix || quote_ident(f ->> 'column') || case
      when f ? 'is_null' then case when (f ->> 'is_null')::boolean then ' is null' else ' is not null' end
      when jsonb_array_length(f -> 'values') = 1
      then format(' %s %L', backfill_private.equals(t.type), backfill_private.spelled(t.type, f -> 'values' ->> 0))
      else format(' %s any (array[%s]::%s[])',
        backfill_private.equals(t.type),
        (
          select string_agg(quote_literal(backfill_private.spelled(t.type, v)), ', ')
          from jsonb_array_elements_text(f -> 'values') as v
        ),
        format_type(t.type, -1))
    end
  from backfill_private.sources as o
  cross join lateral jsonb_array_elements(o.filters) as f
  cross join lateral (select backfill_private.value_type(o.source_table, f ->> 'column') as type) as t
  where o.target = p_target
$$;

-- The value of a parameter as SQL, of a type: a literal if there is a request, else what holds when the view is read.
create function backfill_private.value_sql(p_target text, p_name text, p_type oid, p_request jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
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
        where p_wanted or not p_target.any_version_counts
        union all
        select 1, m.key, m.value
        from jsonb_each_text(p_target.matches) as m
      ) as c
      cross join lateral (select backfill_private.value_type(p_target.table_name, c.name) as type) as t
      order by c.place, c.name));
end
$$;

-- A planned session's key, item.session_id, as SQL of the type that the source's key has. Of the derived column's type
-- it might be cut or out of range.
create function backfill_private.session_key(p_target text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
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
as $$
begin
  return (
    select array_to_string(
      format('t.%I = %s', p_target.session_column, backfill_private.session_key(p_target.target))
        || backfill_private.kind_conditions(p_target, 't', p_request, p_wanted),
      ' and '));
end
$$;

-- The condition under which t, a row of a table, is the row that a receipt's key names.
--
-- p_key  SQL: the key, {column: value}
create function backfill_private.key_condition(p_table text, p_columns text[], p_key text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select string_agg(
      format('t.%I %s ', c, backfill_private.equals(t.oid)) || case
        -- What JSON holds as more than a text.
        when t.oid = 'jsonb'::regtype then format('(%s -> %L)', p_key, c)
        when t.typcategory in ('A', 'C')
        then format('(jsonb_populate_record(null::%s, %s)).%I', to_regclass(p_table), p_key, c)
        else format('(%s ->> %L)::%s', p_key, c, format_type(t.oid, -1))
      end,
      ' and ' order by c)
    from unnest(p_columns) as c
    join pg_type as t on t.oid = backfill_private.value_type(p_table, c));
end
$$;

-- from sql/20_target/coverage.sql
-- Coverage: what is missing by day, of any target.

-- The view that shows a target's coverage, the target's components in order, and the first day meant.
--
-- raises  OB010 not allowed, OB013 no such target or no date
create function backfill_private.coverage_of(
  p_target text, p_since text, out view_name text, out components text[], out first_day date
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  first_day := (backfill_private.since_bound('since', p_since) at time zone 'UTC')::date;
  select
    s.views[cardinality(s.views)],
    array(
      select t.component
      from public.backfill_targets as t
      where t.target = s.target
      order by t.position)
  into view_name, components
  from backfill_private.sources as s
  where s.target = backfill_private.check_target(p_target);
end
$$;

-- from sql/20_target/guards.sql
-- Guards: the triggers on a target's tables. They come with its declaration and go with it.

-- The statements that put our triggers on a relation of a component, always enabled.
--
-- The condition is short on purpose: PostgreSQL reads it anew from the catalog's text for every statement. For one or
-- two rows that costs more than all the rest of the trigger.
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
$sql$create or replace trigger backfill_receipt after insert or update or delete on %1$s for each row
  when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-%%')
  execute function backfill_private.keep_receipt(%2$L, %3$L);
$sql$, p_relation, p_target, p_component)
  end || format(
$sql$create or replace trigger backfill_no_truncate before truncate on %1$s for each statement
  when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-%%')
  execute function backfill_private.refuse_truncate();
alter table %1$s enable always trigger backfill_receipt, enable always trigger backfill_no_truncate;
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
    select g.tgname, g.tgrelid::regclass as relation
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

-- A statement about an index that does not block writers. It is put together here, since a tool that finds such a
-- statement in a file may refuse to run the file in a transaction.
create function backfill_private.beside_writers(p_command text, p_rest text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(' ', p_command, 'concurrently', p_rest) || ';'
$$;

-- Why a relation cannot hold the rows of a source or of a component. Null if it can.
create function backfill_private.table_fault(p_table text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
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
        when 'v' then 'it is a view, and a view has no key. Name the table that it reads'
        when 'm' then 'it is a materialized view, which a refresh writes anew. Name the table that it reads'
        when 'f' then 'it is a foreign table, and no index here covers its rows'
      end
    from pg_class as c
    where c.oid = to_regclass(p_table));
end
$$;

-- Why no unique index makes columns the key of a table. Null if one does: whole, valid, checked at once, on no
-- expression, with the equality that conditions use.
create function backfill_private.unique_fault(p_table text, p_columns text[])
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
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
-- fault  null if nothing does
-- cure   what to do about it
create function backfill_private.key_standings(p_target text)
returns table (place integer, table_name text, key_columns text[], fault text, cure text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  select
    k.place,
    k.name,
    k.columns,
    coalesce(k.table_fault, k.unique_fault, k.null_column || ' may be null'),
    case
      when k.table_fault is not null then 'declare another table, then: backfill install --target FILE.'
      when k.unique_fault is not null
      then backfill_private.beside_writers('create unique index', format('on %s (%s)', to_regclass(k.name), (
        select string_agg(quote_ident(c), ', ')
        from unnest(k.columns) as c)))
      when k.null_column is not null
      then format('alter table %s alter column %I set not null;', to_regclass(k.name), k.null_column)
    end
  from (
    select
      named.*,
      backfill_private.table_fault(named.name) as table_fault,
      backfill_private.unique_fault(named.name, named.columns) as unique_fault,
      (
        select a.attname::text
        from pg_attribute as a
        where a.attrelid = to_regclass(named.name)
          and a.attname = any (named.columns)
          -- No session equals null, so such a row of a component belongs to none.
          and a.attname is distinct from named.session_column
          and not a.attnotnull
        order by a.attnum
        limit 1
      ) as null_column
    from (
      select 0 as place, s.source_table as name, array[s.key_column] as columns, null as session_column
      from backfill_private.sources as s
      where s.target = p_target
      union all
      select t.position, t.table_name, t.key_columns, t.session_column
      from public.backfill_targets as t
      where t.target = p_target
    ) as named
  ) as k
  order by k.place;
end
$$;

-- What keeps a key of a target from naming one row, in words. Null if each names one.
create function backfill_private.key_fault(p_target text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select format('%s is no key of %s: %s', array_to_string(k.key_columns, ', '), k.table_name, k.fault)
    from backfill_private.key_standings(p_target) as k
    where k.fault is not null
    order by k.place
    limit 1);
end
$$;

-- True while each key of a target names one row. The view that detects asks it once per query: a session of two rows
-- would be counted twice, by us and by anyone who reads the view.
--
-- raises  OB013 a key does not
create function backfill_private.keys_hold(p_target text)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.refuse('OB013', k.fault, 'backfill check')
  from (select backfill_private.key_fault(p_target) as fault) as k
  where k.fault is not null;
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

-- The columns of a target that are compared with values: what selects its sessions, and versions and kinds.
--
-- p_request  whose versions and kinds are wanted. Null: those of the declaration
create function backfill_private.value_columns(p_target text, p_request jsonb)
returns table (kind text, place integer, table_name text, column_name text, given text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select 'column', f.place::integer, s.source_table, f.filter ->> 'column',
    array(select jsonb_array_elements_text(coalesce(f.filter -> 'values', '[]')))
  from backfill_private.sources as s
  cross join lateral jsonb_array_elements(s.filters) with ordinality as f (filter, place)
  where s.target = p_target
  union all
  select 'value', t.position, t.table_name, c.name, array_remove(array[c.given], null)
  from public.backfill_targets as t
  join backfill_private.sources as s on s.target = t.target
  cross join lateral (
    select t.version_column as name, coalesce(p_request ->> t.version_parameter, t.version) as given
    union all
    select m.key, coalesce(p_request ->> m.value, s.defaults ->> m.value)
    from jsonb_each_text(t.matches) as m
  ) as c
  where t.target = p_target
$$;

-- Preconditions on the columns that are compared with a session's key, and on that key: see preconditions().
create function backfill_private.session_preconditions(p_target text)
returns table (kind text, place integer, name text, detail text, fault text, cure text)
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
--
-- kind    key, date, session (a component's column for it), column (of a filter or a need) or value (a version, a kind)
-- place   of the component. 0 is the source
-- detail  what is there. Null: nothing to tell while it is well
-- fault   what is wrong. Null: nothing
-- cure    what to do about it
create function backfill_private.preconditions(p_target text)
returns table (kind text, place integer, name text, detail text, fault text, cure text)
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
      format('%s is %s', s.date_column, t.type)),
    case
      when t.value not in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
      then format('%s is %s: no time', quote_ident(s.date_column), t.type)
    end,
    format('alter table %s alter column %I type timestamptz using %2$I::timestamptz;',
      to_regclass(s.source_table), s.date_column)
  from backfill_private.sources as s
  cross join lateral (
    select
      backfill_private.column_type(s.source_table, s.date_column) as type,
      backfill_private.value_type(s.source_table, s.date_column) as value
  ) as t
  where s.target = p_target and t.type is not null
  union all
  select
    v.kind,
    v.place,
    case v.kind when 'value' then 'values of ' else 'column ' end || format('%s.%s', v.table_name, v.column_name),
    case v.kind when 'column' then backfill_private.column_type(v.table_name, v.column_name) end,
    backfill_private.value_fault(v.table_name, v.column_name, v.given),
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
  select backfill_private.value_fault(v.table_name, v.column_name, v.given) as fault into v_fault
  from backfill_private.value_columns(p_target, p_request) as v
  where backfill_private.value_fault(v.table_name, v.column_name, v.given) is not null
  limit 1;
  if found then
    perform backfill_private.refuse('OB013', v_fault.fault, 'give one of its values');
  end if;
end
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

-- Why a session cannot be scored, as SQL: the first need of which it has fewer rows than scoring reads. Null for one
-- that lacks nothing, which keeps the counting to the others.
create function backfill_private.excluded_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case when s.needs = '[]' then 'null::text' else format(e'case\n    when %s then null%s\n  end',
    (
      select string_agg(format('not c%s.%I is null', t.position, t.session_column), ' and ' order by t.position)
      from public.backfill_targets as t
      where t.target = s.target
    ),
    (
      select string_agg(
        format($sql$
    when %1$s(
        select count(*)
        from (
          select 1 as one
          from %2$s as n
          where n.%3$I = s.%4$I
          limit (select backfill_private.parameter(%5$L, %6$L))::bigint
        ) as enough
      ) < (select backfill_private.parameter(%5$L, %6$L))::bigint
    then format(
      %7$L,
      (select count(*) from %2$s as n where n.%3$I = s.%4$I),
      (select backfill_private.parameter(%5$L, %6$L)))$sql$,
          (
            select format('c%s.%I is null and ', t.position, t.session_column)
            from public.backfill_targets as t
            where t.target = s.target and t.component = n.need ->> 'component'
          ),
          n.need ->> 'table',
          n.need ->> 'column',
          s.key_column,
          s.target,
          n.need ->> 'parameter',
          format('%%s %s, at least %%s needed', replace(n.need ->> 'name', '%', '%%'))),
        '' order by n.place)
      from jsonb_array_elements(s.needs) with ordinality as n (need, place)
    )) end
  from backfill_private.sources as s
  where s.target = p_target
$$;

-- The statement that creates the view of a target. Run it under our path, so that each operator is ours.
create function backfill_private.standing_sql(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $sql$create view %s with (security_invoker = true) as
select
  s.%I as id,
  %s::timestamptz as created_at,
  %s,
  %s as excluded
from %s as s
%s
where %s$sql$,
    backfill_private.standing_view(s.target),
    s.key_column,
    backfill_private.moment(s.source_table, s.date_column, format('s.%I', s.date_column)),
    string_agg(
      format('c%s.%I is null as %I', t.position, t.session_column, 'missing_' || t.component),
      e',\n  ' order by t.position),
    backfill_private.excluded_sql(s.target),
    s.source_table,
    string_agg(backfill_private.present_join(t), e'\n' order by t.position),
    array_to_string(
      array(select f.condition from backfill_private.filter_conditions(s.target, 's.') as f)
        || format('(select backfill_private.keys_hold(%L))', s.target),
      e'\n  and '))
  from backfill_private.sources as s
  join public.backfill_targets as t on t.target = s.target
  where s.target = p_target
  group by s.target
$$;

-- from sql/20_target/targets.sql
-- Targets: their parameters, functions and conditions, as their rows say.

-- A parameter: the planned request's own if it has one, else the target's default.
create function backfill_private.parameter(p_target text, p_name text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    nullif(current_setting('backfill.request', true), '')::jsonb ->> p_name,
    (
      select t.version
      from public.backfill_targets as t
      where t.target = p_target and t.version_parameter = p_name
    ),
    (select s.defaults ->> p_name from backfill_private.sources as s where s.target = p_target)
  )
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
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    t.component,
    t.position,
    t.transport,
    t.function_signature,
    coalesce(p.proname, case t.transport
      when 'rpc' then regexp_replace(split_part(t.function_signature, '(', 1), '^.*\.', '')
      else t.function_signature
    end),
    p.oid
  from public.backfill_targets as t
  -- In a case: before PostgreSQL 16 to_regprocedure() raises an error for an Edge Function's bare name.
  left join pg_proc as p
    on p.oid = case t.transport when 'rpc' then to_regprocedure(t.function_signature) end
  where t.target = p_target
$$;

-- The SQL type of a column, for casts that still let an index serve.
create function backfill_private.column_type(p_table text, p_column text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format_type(a.atttypid, a.atttypmod)
  from pg_attribute as a
  where a.attrelid = to_regclass(p_table)
    and a.attname = p_column
    and not a.attisdropped
$$;

-- The target meant: the one named, or the only one installed.
--
-- raises  OB013 unknown, or none is named and there are several
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
  end if;
  perform backfill_private.refuse('OB013',
    case
      when p_name is null then 'several targets are installed'
      else format('no target is named %s', left(p_name, 80))
    end,
    format('backfill plan … --target one of: %s', coalesce(array_to_string(v_known, ', '), 'none is installed')));
  return null;
end
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
        or (x.indpred is null) <> (s.filters = '[]')
        or exists (
          select from jsonb_array_elements(s.filters) as f
          where strpos(coalesce(pg_get_expr(x.indpred, x.indrelid), ''), f ->> 'column') = 0
        )
        then 'not the one that is meant'
    end
  from backfill_private.sources as s
  join pg_class as c on c.oid = to_regclass(s.source_table)
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_index as x on x.indexrelid = to_regclass(format('%I.%I', n.nspname, s.index_name))
  left join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
  where s.target = p_target and s.index_name is not null
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
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
  with standing as (
    select g.tgrelid
    from pg_trigger as g
    where g.tgenabled = 'A'
      and g.tgattr::text = ''
      -- 29: after insert, update or delete, for each row; 34: before truncate.
      and (g.tgname, g.tgtype, g.tgfoid) in (
        ('backfill_receipt', 29, to_regprocedure('backfill_private.keep_receipt()')),
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
  order by r.level, r.name
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

-- from sql/30_run/_tables.sql
-- Tables of runs: one plan and all that happens to it, one row per planned session, the chain of events, the starts.

create table public.backfill_runs (
  run_id uuid primary key default gen_random_uuid(),
  state text not null default 'planning',
  reason text,
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
  batches_granted integer not null default 0,
  settled_since integer not null default 0,
  failed_since integer not null default 0,
  failed_in_row integer not null default 0,
  troubled_batches integer not null default 0,
  back_off_until timestamptz,
  back_off_reason text,
  canary text check (canary in ('passed', 'failed', 'overridden')),
  fingerprint jsonb,
  project_host text,
  sealed_snapshot text,
  collect_from timestamptz,
  collect_until timestamptz,
  collect_window interval,
  data_marks jsonb,
  rehearse integer,
  audit_count bigint not null default 0,
  audit_head text not null default '',
  constraint backfill_runs_state_check check (state in (
    'planning', 'awaiting_approval', 'approved', 'running', 'paused', 'completed',
    'rejected', 'cancelled', 'expired', 'rolled_back'))
);

comment on table public.backfill_runs is
  'One row per run: what was asked, what was planned, who approved it, where it stands.';
comment on column public.backfill_runs.run_id is
  'Id of the run. A unique prefix is enough on the command line.';
comment on column public.backfill_runs.state is
  'Where the run stands. backfill_transitions has every legal move.';
comment on column public.backfill_runs.reason is
  'Why the run is paused, rejected, cancelled or expired.';
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
  'How it was asked for: service_key, auth or sql.';
comment on column public.backfill_runs.approved_by is
  'Who approved it, by the name given or the e-mail address. Null until then.';
comment on column public.backfill_runs.approved_via is
  'How it was approved: sql, auth or service_key.';
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
comment on column public.backfill_runs.back_off_until is
  'No batch starts before this. back_off_reason says why.';
comment on column public.backfill_runs.back_off_reason is
  'The trouble after which the run waits until back_off_until.';
comment on column public.backfill_runs.canary is
  'What the look at the priority sessions said. overridden: somebody resumed after it had failed. '
  'Null: not looked yet.';
comment on column public.backfill_runs.fingerprint is
  'Definitions of the scoring functions when the plan was sealed.';
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
  category text not null,
  phase text not null check (phase in ('priority', 'recent', 'historical')),
  batch integer not null check (batch > 0),
  state text not null default 'pending',
  attempts integer not null default 0,
  crowded_out integer not null default 0,
  unknown_outcomes integer not null default 0,
  not_before timestamptz,
  started_at timestamptz,
  settled_at timestamptz,
  failed_step text,
  error_code text,
  error_message text check (length(error_message) <= 500),
  filled text[] not null default '{}',
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

-- The next batch.
create index backfill_items_pending on public.backfill_items (run_id, ordinal) where state = 'pending';

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
comment on column public.backfill_items.category is
  'The components that it lacked, the last derived first, joined by +.';
comment on column public.backfill_items.phase is
  'priority, recent or historical.';
comment on column public.backfill_items.batch is
  'Number of its batch in the plan.';
comment on column public.backfill_items.state is
  'pending, leased, done, failed, skipped (somebody else filled it) or rolled_back.';
comment on column public.backfill_items.attempts is
  'How often the session was leased for scoring.';
comment on column public.backfill_items.crowded_out is
  'Attempts that were rolled back because of what others did at the same time. The fifth is a failure.';
comment on column public.backfill_items.unknown_outcomes is
  'Attempts that ended nobody knows how and left no row. They have a budget of their own, of eight.';
comment on column public.backfill_items.not_before is
  'When a session that ran into trouble may be tried again.';
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

-- How many sessions started when: what the throttle counts.
create table backfill_private.starts (
  run_id uuid not null references public.backfill_runs (run_id),
  started_at timestamptz not null,
  sessions integer not null,
  primary key (run_id, started_at)
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

-- The batches that bulk calls have settled, until each is noted in the chain and looked at.
create table backfill_private.unnoted (
  unnoted_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  granted jsonb not null,
  trouble jsonb not null,
  settled jsonb not null,
  details jsonb not null,
  is_noted boolean not null default false
);

create index backfill_unnoted_runs on backfill_private.unnoted (run_id, unnoted_id);

-- from sql/30_run/audit.sql
-- Audit: one hash chain per run. The run's row holds its count and its head, so that a cut tail shows.
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

-- Append one event to a run's chain, and nothing else. Only record() and note_batches() call this.
create function backfill_private.append_event(p_run_id uuid, p_kind text, p_details jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_at timestamptz := backfill_private.clock();
  v_actor text := (select label from backfill_private.caller());
  v_hash text;
begin
  select * into strict v_run from public.backfill_runs where run_id = p_run_id for no key update;
  v_hash := backfill_private.event_hash(
    v_run.audit_head, p_run_id, v_run.audit_count + 1, v_at, p_kind, v_actor, p_details);
  insert into public.backfill_events (run_id, seq, at, kind, actor, details, prev_hash, hash)
  values (p_run_id, v_run.audit_count + 1, v_at, p_kind, v_actor, p_details, v_run.audit_head, v_hash);
  update public.backfill_runs
  set audit_count = v_run.audit_count + 1, audit_head = v_hash
  where run_id = p_run_id;
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
  v_batch record;
  v_number integer;
begin
  perform from public.backfill_runs where run_id = p_run_id for no key update;
  for v_batch in
    with noted as (
      update backfill_private.unnoted as u
      set is_noted = true
      where u.run_id = p_run_id and not u.is_noted
      returning u.unnoted_id, u.granted, u.details
    )
    select n.granted, n.details from noted as n order by n.unnoted_id
  loop
    update public.backfill_runs
    set batches_granted = batches_granted + 1
    where run_id = p_run_id
    returning batches_granted into v_number;
    perform backfill_private.append_event(
      p_run_id, 'batch_granted', v_batch.granted || jsonb_build_object('number', v_number));
    perform backfill_private.append_event(p_run_id, 'batch_settled', v_batch.details);
  end loop;
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
  perform backfill_private.append_event(p_run_id, p_kind, p_details);
end
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
  from public.backfill_runs as r, ends
  where r.run_id = p_run_id
    and (r.audit_count, r.audit_head) <> (ends.events, ends.head)
$$;

-- from sql/30_run/digest.sql
-- Digest: what an approval binds. The same request on the same state gives the same digest: no time, no run id and no
-- measurement goes in.

-- One function's fingerprint: definition, owner and rights. Null if the function does not exist.
create function backfill_private.function_fingerprint(p_signature text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
  select backfill_private.sha256_hex(concat_ws(
    e'\n',
    pg_get_functiondef(p.oid),
    p.proowner::regrole,
    (select string_agg(acl::text, ',' order by acl::text) from unnest(p.proacl) as acl)))
  from pg_proc as p
  where p.oid = to_regprocedure(p_signature)
$$;

-- Fingerprints of what a target runs on: its scoring functions, their helpers, and its rows of backfill_targets. For an
-- Edge Function it is that of the declared version: the database does not hold its definition.
-- {name: SHA-256}, null if a function is gone.
create function backfill_private.definitions(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
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
  ) as f
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

-- The digest of a run's plan, computed from the rows as they stand.
create function backfill_private.compute_digest(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(concat_ws(
    e'\n',
    'backfill plan, form 1',
    backfill_private.server_identity(),
    coalesce(r.environment, ''),
    r.request,
    (select to_jsonb(s) from backfill_private.sources as s where s.target = r.target),
    backfill_private.definitions(r.target),
    (
      select string_agg(
        jsonb_build_array(i.ordinal, i.phase, i.batch, i.category, i.components, i.source, i.session_id)::text,
        e'\n' order by i.ordinal)
      from public.backfill_items as i
      where i.run_id = r.run_id
    )))
  from public.backfill_runs as r
  where r.run_id = p_run_id
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
-- version, and did this run write one that nothing took back?
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
        format(replace(v_is_there, ' as t ', ' as r '), 'public.backfill_receipts', v_receipt),
        '%L', quote_literal(v_target.component)))
    using p_run_id, p_ordinals;
  end loop;
end
$$;

-- Which of some items are still selected: what the view that plans them says of each now.
--
-- returns  one row per item that is. excluded: why it cannot be scored, null if it can or lacks nothing
create function backfill_private.selected(p_run public.backfill_runs, p_ordinals integer[])
returns table (ordinal integer, excluded text)
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
  perform set_config('backfill.request', p_run.request::text, true);
  return query execute format(
    'select item.ordinal, s.excluded
     from public.backfill_items as item
     join %s as s on s.id = %s
     where item.run_id = $1 and item.ordinal = any ($2)',
    backfill_private.standing_view(p_run.target)::regclass,
    backfill_private.session_key(p_run.target))
  using p_run.run_id, p_ordinals;
  perform set_config('backfill.request', '', true);
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

-- from sql/30_run/environment.sql
-- Environment: a plan is for one environment, and runs in no other.

-- Refuse a plan for another environment than this one.
--
-- returns  the environment of the plan, null if neither the request nor the settings name one
-- raises   OB008 the two differ
create function backfill_private.check_environment(p_wanted text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_here text := (select environment from public.backfill_settings);
begin
  if lower(p_wanted) <> lower(v_here) then
    perform backfill_private.refuse('OB008',
      format('this project is %s, not %s', v_here, left(p_wanted, 80)),
      format('backfill plan … --environment %s, or connect to the project that is meant', v_here));
  end if;
  return coalesce(v_here, lower(p_wanted));
end
$$;

-- Is this project another one than the run was planned for? If the project has no name, nobody can tell.
create function backfill_private.is_elsewhere(p_run public.backfill_runs)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select lower(s.environment) is distinct from lower(p_run.environment)
    from public.backfill_settings as s
    where s.environment is not null
  ), false)
$$;

-- from sql/30_run/faults.sql
-- Faults: what an error's code means for a session, and what of its message may be kept.

-- What an error code means. SQL asks this view through backfill_private.fault. The client, which sees the answers of the
-- API, asks its mirror in backfill/api/faults.py. A test holds the two equal.
--
-- of      whose code it is: PostgreSQL's (sqlstate), PostgREST's (postgrest) or an HTTP status (http)
-- class   a code, or the beginning of codes. The longest match wins
-- direct  what it means for a session whose call came through the API: see backfill_private.decide_outcomes
-- bulk    the same for a call inside the database, in a subtransaction. Null: no such code is seen there
-- kept    what replaces the message, which may hold values of a row. Null: its first 500 characters are kept
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
  ('sqlstate', '25006', 'stop', 'stop', null, 'the database takes no writes, of any session'),
  ('sqlstate', '42501', 'stop', 'stop', null, 'a right is missing for every session. The message names objects alone'),
  ('sqlstate', '42883', 'stop', 'stop', 'syntax error or unknown name', 'a function is missing for every session'),
  ('sqlstate', '42P01', 'stop', 'stop', 'syntax error or unknown name', 'a table is missing for every session'),
  ('sqlstate', 'OB011', 'released', 'released', null, 'this attempt may no longer write, so the session is given back'),
  ('sqlstate', 'OB012', 'released', 'released', null, 'the run may no longer write, so the session is given back'),
  ('sqlstate', 'OB018', 'failed', 'failed', null, 'the gate refused a write. It is critical, and pauses the run'),
  ('sqlstate', 'OB020', 'failed', 'failed', null, 'the step before left no row. Settled as OB017, no effect'),
  ('sqlstate', '0A', 'failed', 'failed', 'feature not supported', 'the message may quote the statement'),
  ('sqlstate', '20', 'failed', 'failed', 'case not found', 'the message may hold the value that no case was for'),
  ('sqlstate', '22', 'failed', 'failed', 'data exception', 'the message quotes the value'),
  ('sqlstate', '26', 'failed', 'failed', 'invalid SQL statement name',
    'the message quotes a name, maybe made of values'),
  ('sqlstate', '2F', 'failed', 'failed', 'SQL routine exception', 'the message may quote the statement'),
  ('sqlstate', '34', 'failed', 'failed', 'invalid cursor name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '38', 'failed', 'failed', 'external routine exception', 'another language puts what it likes in there'),
  ('sqlstate', '39', 'failed', 'failed', 'external routine invocation exception',
    'another language puts what it likes in there'),
  ('sqlstate', '3D', 'failed', 'failed', 'invalid catalog name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '3F', 'failed', 'failed', 'invalid schema name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '42', 'failed', 'failed', 'syntax error or unknown name',
    'the message quotes SQL, maybe made of values'),
  ('sqlstate', '54', 'failed', 'failed', 'program limit exceeded', 'the message may quote the value that was too long'),
  ('sqlstate', '58', 'failed', 'failed', 'system error', 'the message may quote the name of a file'),
  ('sqlstate', 'F0', 'failed', 'failed', 'configuration file error', 'the message may quote the file'),
  ('sqlstate', 'HV', 'failed', 'failed', 'foreign data wrapper error', 'the message may quote the other server''s row'),
  ('sqlstate', 'XX', 'failed', 'failed', 'internal error', 'the message was made for developers and may hold anything'),
  ('postgrest', 'PGRST000', 'unknown', null, null, 'PostgREST does not reach the database'),
  ('postgrest', 'PGRST001', 'unknown', null, null, 'PostgREST lost the database, maybe after the commit'),
  ('postgrest', 'PGRST002', 'unknown', null, null, 'PostgREST could not read the schema yet'),
  ('postgrest', 'PGRST003', 'unknown', null, null, 'PostgREST found no free connection in time'),
  ('postgrest', 'PGRST106', 'stop', null, null, 'the schema is not exposed, for any session'),
  ('postgrest', 'PGRST202', 'stop', null, null, 'the function is not there, for any session'),
  ('postgrest', 'PGRST203', 'stop', null, null, 'several functions have this name, for every session'),
  ('postgrest', 'PGRST205', 'stop', null, null, 'the table is not there, for any session'),
  ('postgrest', 'PGRST301', 'stop', null, null, 'the key is no valid token, for any session'),
  ('postgrest', 'PGRST302', 'stop', null, null, 'a call without a key is not allowed, for any session'),
  ('postgrest', 'PGRST303', 'stop', null, null, 'the claims of the token are refused, for every session'),
  ('http', '3', 'stop', null, null, 'the API has another address, for every session'),
  ('http', '401', 'stop', null, null, 'the key is refused, for every session'),
  ('http', '403', 'stop', null, null, 'the key may not do this, for any session'),
  ('http', '408', 'unknown', null, null, 'a gateway waited too long. The call may go on behind it'),
  ('http', '425', 'unknown', null, null, 'a gateway would not risk a replay. Another copy of the call may have run'),
  ('http', '429', 'slow', null, null, 'the API asks for fewer calls, which is no failure'),
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
  ('http', '540', 'stop', null, null, 'the project is paused, for every session'),
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

-- from sql/30_run/lock.sql
-- The lock of a run: anyone who changes a run holds its row and its advisory lock.

-- The key of the advisory lock that is taken beside a run's row: verbs take it exclusively, bulk calls share it. It is
-- fair, unlike a row lock: those who share it do not pass anyone who waits for it exclusively.
create function backfill_private.run_lock(p_run_id uuid)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended(p_run_id::text, 20251101)
$$;

-- A run, locked against other verbs for this transaction. Its chain holds all that bulk calls have settled.
--
-- raises  OB001 no such run, OB002 its state is none of those given
create function backfill_private.locked_run(p_run_id uuid, p_states text[] default null)
returns public.backfill_runs
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  perform pg_advisory_xact_lock(backfill_private.run_lock(p_run_id));
  perform backfill_private.note_batches(p_run_id);
  select * into v_run from public.backfill_runs where run_id = p_run_id for no key update;
  if not found then
    perform backfill_private.refuse('OB001', format('there is no run %s', p_run_id), 'backfill runs');
  elsif v_run.state <> all (p_states) then
    perform backfill_private.refuse('OB002',
      format('run %s is %s; this needs it to be %s', p_run_id, v_run.state, array_to_string(p_states, ' or ')),
      format('backfill status %s', p_run_id));
  end if;
  return v_run;
end
$$;

-- from sql/30_run/receipts.sql
-- Receipts: how rows are hashed and named, and how the chain proves them. The gate is the trigger that writes them.

-- The hash of a row: over its columns by name, rendered alike under any settings of the session.
-- p_row comes from to_jsonb() under the same settings, so call this only from functions that pin them too.
create function backfill_private.row_hash(p_row jsonb)
returns bytea
language sql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
  select sha256(convert_to(p_row::text, 'UTF8'))
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

-- The settled batches among some events of a run whose receipts are no longer those that the chain names. No row if all
-- still are.
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
    and e.details ->> 'receipts' <> backfill_private.receipts_hash(
      p_run_id,
      array(select o::integer from jsonb_array_elements_text(e.details -> 'ordinals') as o),
      (e.details ->> 'newest_receipt')::bigint)
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
      format('backfill status %s', old.run_id));
  end if;
  if old.sealed_at is not null and (
    (new.run_id, new.target, new.environment, new.request, new.plan, new.digest, new.fingerprint, new.sealed_at)
    is distinct from
    (old.run_id, old.target, old.environment, old.request, old.plan, old.digest, old.fingerprint, old.sealed_at)
  ) then
    perform backfill_private.refuse('OB007',
      format('run %s is sealed, its plan does not change', old.run_id),
      'make a new plan');
  end if;
  return new;
end
$$;

create trigger backfill_runs_guard before update on public.backfill_runs
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
      new.components, new.category, new.phase, new.batch
    )
    is not distinct from (
      old.run_id, old.ordinal, old.source, old.session_id, old.session_at,
      old.components, old.category, old.phase, old.batch
    )
  then
    return new;
  end if;
  perform backfill_private.refuse('OB007',
    format('run %s is sealed, its plan does not change', old.run_id),
    'make a new plan');
  return null;
end
$$;

create trigger backfill_items_guard before update or delete on public.backfill_items
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
      'make a new plan');
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
  perform backfill_private.refuse('OB007', format('%s is never truncated', tg_table_name));
  return null;
end
$$;

-- Move a run to another state and say so in its chain.
--
-- raises  OB002 the move is not in backfill_transitions
create function backfill_private.move(
  p_run_id uuid, p_to text, p_reason text default null, p_details jsonb default '{}'
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from text := (select state from public.backfill_runs where run_id = p_run_id for no key update);
  v_now timestamptz := backfill_private.clock();
begin
  update public.backfill_runs
  set state = p_to,
      reason = left(p_reason, 500),
      held_by = case when p_to = 'paused' then p_details ->> 'by' end,
      started_at = case when p_to = 'running' then coalesce(started_at, v_now) else started_at end,
      resumed_at = case when p_to = 'running' then v_now else resumed_at end,
      settled_since = case when p_to = 'running' then 0 else settled_since end,
      failed_since = case when p_to = 'running' then 0 else failed_since end,
      failed_in_row = case when p_to = 'running' then 0 else failed_in_row end,
      troubled_batches = case when p_to = 'running' then 0 else troubled_batches end,
      back_off_until = case when p_to = 'running' then null else back_off_until end,
      finished_at = case when p_to in ('completed', 'rejected', 'cancelled', 'expired', 'rolled_back') then v_now end
  where run_id = p_run_id;
  perform backfill_private.record(p_run_id, p_to,
    p_details || jsonb_strip_nulls(jsonb_build_object('from', v_from, 'reason', left(p_reason, 500))));
end
$$;

-- Pause a running run, for a reason that the database saw.
create function backfill_private.hold(p_run_id uuid, p_reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.state from public.backfill_runs as r where r.run_id = p_run_id) = 'running' then
    perform backfill_private.move(p_run_id, 'paused', p_reason);
  end if;
end
$$;

-- from sql/30_run/throttle.sql
-- The throttle: how many sessions may start, and when. All of it counts starts in the last 60 seconds.

-- Refuse a throttle or a batch size that this project does not allow.
--
-- raises  OB013 a bound is broken. The message names it
create function backfill_private.check_pace(p_throttle integer, p_batch_size integer)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (select max_throttle_per_minute from public.backfill_settings);
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

-- Seconds until the next batch may start, and how many sessions it may hold.
--
-- Exact over every half-open window of 60 s: batches keep their distance, and the starts of the last 60 s are counted.
create function backfill_private.allowance(
  p_run public.backfill_runs, out wait_s numeric, out sessions integer
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_batch integer := (p_run.request ->> 'batch_size')::integer;
  v_throttle integer := (p_run.request ->> 'throttle_per_minute')::integer;
  v_started bigint;
  v_oldest timestamptz;
begin
  wait_s := greatest(extract(epoch from p_run.next_batch_at - v_now), 0);
  sessions := v_batch;
  if v_throttle is null or wait_s > 0 then
    return;
  end if;
  select coalesce(sum(s.sessions), 0), min(s.started_at) into v_started, v_oldest
  from backfill_private.starts as s
  where s.run_id = p_run.run_id
    and s.started_at > v_now - interval '60 seconds';
  if v_started + v_batch > v_throttle then
    wait_s := greatest(extract(epoch from v_oldest + interval '60 seconds' - v_now), 0.001);
  end if;
end
$$;

-- Count starts, and set when the next batch may start.
create function backfill_private.count_starts(p_run public.backfill_runs, p_sessions integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
begin
  insert into backfill_private.starts (run_id, started_at, sessions)
  values (p_run.run_id, v_now, p_sessions)
  on conflict (run_id, started_at) do update set sessions = backfill_private.starts.sessions + excluded.sessions;
  delete from backfill_private.starts where run_id = p_run.run_id and started_at < v_now - interval '10 minutes';
  update public.backfill_runs
  set next_batch_at = v_now + backfill_private.batch_spacing_s(request) * interval '1 second'
  where run_id = p_run.run_id;
end
$$;

-- How many starts per minute all running runs take together, without the one named. A run without a throttle, from
-- before the project had a bound, takes all of it.
create function backfill_private.share_taken(p_but uuid)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(coalesce((r.request ->> 'throttle_per_minute')::integer, s.max_throttle_per_minute)), 0)
  from public.backfill_runs as r
  cross join public.backfill_settings as s
  where r.state = 'running'
    and r.run_id is distinct from p_but
$$;

-- The throttles of all running runs together stay under the project's bound.
--
-- raises  OB015 they would not
create function backfill_private.check_share(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (select max_throttle_per_minute from public.backfill_settings for no key update);
  v_taken bigint := backfill_private.share_taken(p_run.run_id);
begin
  if v_taken + coalesce((p_run.request ->> 'throttle_per_minute')::integer, v_most + 1) > v_most then
    perform backfill_private.refuse('OB015',
      format('running runs take %s of the %s starts per minute that this project allows', v_taken, v_most),
      'wait for them, or pause one: backfill runs --state running');
  end if;
end
$$;

-- from sql/40_plan/_tables.sql
-- Tables of planning: what the search found, and what a rehearsal saw.

-- What planning found, before the plan is sealed. Afterwards only the excluded sessions stay.
create table backfill_private.findings (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  session_id text not null,
  session_at timestamptz,
  components text[] not null,
  excluded text,
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

-- The tables that a run writes, with their partitions, and how many rows it plans for each.
create function backfill_private.written_tables(p_run_id uuid)
returns table (relation regclass, planned_rows bigint)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    coalesce(part.relid, to_regclass(t.table_name)),
    sum((
      select count(*)
      from public.backfill_items as i
      where i.run_id = p_run_id and t.component = any (i.components)
    ))::bigint
  from public.backfill_targets as t
  join public.backfill_runs as r on r.target = t.target
  left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
  where r.run_id = p_run_id
    and to_regclass(t.table_name) is not null
  group by 1
$$;

-- Triggers of the user's that fire for what a run or its undo does. A webhook is named only by the host that it calls,
-- since its arguments may hold secrets. A trigger that a partition has from its parent is told once, at the parent.
create function backfill_private.trigger_effects(p_run_id uuid)
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
    case when g.tgtype & 4 <> 0 then w.planned_rows else 0 end)
  from backfill_private.written_tables(p_run_id) as w
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
create function backfill_private.listener_effects(p_run_id uuid)
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
    case when b.pubinsert then w.planned_rows else 0 end)
  from backfill_private.written_tables(p_run_id) as w
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
  from backfill_private.written_tables(p_run_id) as w
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
  from backfill_private.written_tables(p_run_id) as w
  join pg_depend as d
    on d.refclassid = 'pg_class'::regclass
    and d.refobjid = w.relation
    and d.classid = 'pg_rewrite'::regclass
  join pg_rewrite as r on r.oid = d.objid
  join pg_class as v on v.oid = r.ev_class and v.relkind = 'm'
$$;

-- What the tables do by themselves: generated columns, numbers from sequences, policies that bind even their owner.
create function backfill_private.column_effects(p_run_id uuid)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.effect(
    case when a.attgenerated <> '' then 'generated column' else 'sequence' end,
    a.attname,
    w.relation,
    case
      when a.attgenerated <> '' then 'computed by the table. An undo does not set it'
      else 'draws a number for each row. The rehearsal and an undo give none back'
    end,
    w.planned_rows)
  from backfill_private.written_tables(p_run_id) as w
  join pg_attribute as a
    on a.attrelid = w.relation
    and a.attnum > 0
    and not a.attisdropped
  left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
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
  from backfill_private.written_tables(p_run_id) as w
  join pg_class as c on c.oid = w.relation and c.relforcerowsecurity
  join pg_policy as p on p.polrelid = w.relation
$$;

-- Scheduled jobs whose command names one of the tables. None if pg_cron is not installed.
create function backfill_private.cron_effects(p_run_id uuid)
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
    from backfill_private.written_tables($1) as w
    join pg_class as c on c.oid = w.relation
    join cron.job as j on j.active and position(lower(c.relname) in lower(j.command)) > 0
    order by j.jobid'
  using p_run_id;
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
    select to_regprocedure(h)::oid
    from public.backfill_runs as r
    join public.backfill_targets as t on t.target = r.target
    cross join lateral unnest(t.helpers) as h
    where r.run_id = p_run_id
      and to_regprocedure(h) is not null
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
  select coalesce(jsonb_agg(e.effect order by e.place, e.number), '[]')
  from (
    select 1 as place, t.*
    from backfill_private.trigger_effects(p_run_id) with ordinality as t (effect, number)
    union all
    select 2, t.*
    from backfill_private.listener_effects(p_run_id) with ordinality as t (effect, number)
    union all
    select 3, t.*
    from backfill_private.column_effects(p_run_id) with ordinality as t (effect, number)
    union all
    select 4, t.*
    from backfill_private.cron_effects(p_run_id) with ordinality as t (effect, number)
    union all
    select 5, t.*
    from backfill_private.function_effects(p_run_id) with ordinality as t (effect, number)
  ) as e
$$;

-- from sql/40_plan/figures.sql
-- The figures of a plan: sessions, calls, writes, batches, run time.

-- The calls of a plan in their order: {component, function, transport, arguments: [[name, value; null: the session's
-- id]], table, version_column, version, keeps_versions}.
create function backfill_private.plan_steps(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(
    jsonb_build_object(
      'component', t.component,
      'function', f.name,
      'transport', t.transport,
      'arguments', (
        select jsonb_agg(
          jsonb_build_array(a.key, case when a.value <> 'session_id' then r.request -> a.value end)
          order by array_position(p.proargnames, a.key), a.key)
        from jsonb_each_text(t.arguments) as a
      ),
      'table', backfill_private.bare_name(t.table_name),
      'version_column', t.version_column,
      'version', r.request ->> t.version_parameter,
      'keeps_versions', t.version_column = any (t.key_columns))
    order by t.position)
  from public.backfill_runs as r
  join public.backfill_targets as t on t.target = r.target
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
  ), names as (
    select
      c.position,
      c.missing,
      f.name as function_name,
      backfill_private.bare_name(c.table_name) as table_name,
      c.component
    from components as c
    join backfill_private.scoring_functions(c.target) as f on f.component = c.component
  )
  select jsonb_build_object(
    'candidates', jsonb_build_object(
      'total', (select count(*) from items),
      'missing', (select jsonb_object_agg(n.component, n.missing) from names as n),
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
      (select jsonb_object_agg(n.function_name, n.missing) from names as n)
      || jsonb_build_object('total', (select sum(n.missing) from names as n)),
    'expected_writes',
      (select jsonb_object_agg(n.table_name, n.missing) from names as n)
      || jsonb_build_object('total', (select sum(n.missing) from names as n)),
    'steps', backfill_private.plan_steps(p_run_id),
    'batches', (select max(i.batch) from items as i),
    'oldest', (select min(i.session_at) from items as i),
    'newest', (select max(i.session_at) from items as i))
$$;

-- The sealed plan of a run: figures, pace, excluded sessions, marks.
create function backfill_private.measure_plan(p_run_id uuid, p_round_trip_ms numeric)
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
    'excluded', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object('session_id', e.session_id, 'reason', e.excluded)
          order by e.session_at desc nulls first, e.session_id),
        '[]')
      from (
        select f.*
        from backfill_private.findings as f
        where f.run_id = p_run_id and f.excluded is not null
        order by f.session_at desc nulls first, f.session_id
        limit 1000
      ) as e
    ),
    'settings', backfill_private.settings_now(),
    'rehearsal', v_rehearsal,
    'blast_radius', backfill_private.blast_radius(p_run_id),
    'checks',
      coalesce(
        v_run.data_marks,
        (select coalesce(jsonb_agg(m), '[]') from backfill_private.data_marks(p_run_id) as m))
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.kind_marks(p_run_id) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.table_marks(v_run.target) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.function_marks(v_run.target) as m)
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
-- range. They are named for the next plan. No run is ever widened by them. While a key of the target does not hold, no
-- plan can name any.
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
       select g.session_id, g.session_at, g.excluded
       from %s as g
       left join public.backfill_items as item
         on item.run_id = $1 and item.source = $2 and item.session_id = g.session_id
       where item.run_id is null and g.session_at >= $3 and g.session_at < $4
     ), found as (
       select u.session_id, row_number() over (order by u.session_at desc, u.session_id) as place
       from unplanned as u where u.excluded is null
     )
     select jsonb_build_object(
       ''new_candidates'', coalesce(jsonb_agg(f.session_id order by f.place) filter (where f.place <= 1000), ''[]''),
       ''new_candidates_total'', count(*))
     from found as f',
    backfill_private.gaps_view(p_run.target)::regclass)
  into v_found
  using p_run.run_id, p_run.target, (p_run.request ->> 'since_at')::timestamptz,
    coalesce((p_run.request ->> 'until_before')::timestamptz, 'infinity');
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
-- returns  {run_id, state, filled, filled_total, new_candidates, new_candidates_total, changes, digest_matches,
--          approved_until, approval_left_s}. Null if nothing more will come of the plan
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
    perform backfill_private.refuse('OB001', format('there is no run %s', p_run_id), 'backfill runs');
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
    || backfill_private.new_candidates(v_run);
end
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
      format('at most %s session starts in any 60 s, batches of at most %s start %s s apart',
        p_request ->> 'throttle_per_minute',
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
    'update public.backfill_settings set environment = ''staging'' where only_row;')
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
    case when s.approval_policy = 'any' then 'warn' else 'ok' end,
    s.approval_policy
      || case when s.approval_policy = 'any' then ': the service key may approve its own plan' else '' end,
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
         format(''%%s of %%s have %%s'', count(*) filter (where %2$s), count(*), %L))
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
  return query select * from backfill_private.date_marks(v_source);
  for v_need in select n from jsonb_array_elements(v_source.needs) as n loop
    return next backfill_private.need_mark(p_run_id, v_need);
  end loop;
end
$$;

-- The mark on the dates of a source, if there is something to know: how a column without a time zone is read, and how
-- many selected rows have no date. No range of dates holds these.
create function backfill_private.date_marks(p_source backfill_private.sources)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_words text := backfill_private.date_words(p_source.source_table, p_source.date_column);
  v_without bigint;
begin
  execute format('select count(*) from %s as s where %s',
    p_source.source_table::regclass,
    array_to_string(
      array(select f.condition from backfill_private.filter_conditions(p_source.target, 's.') as f)
        || format('s.%I is null', p_source.date_column),
      ' and '))
  into v_without;
  if v_without > 0 or v_words is not null then
    return next backfill_private.mark(
      'dates of ' || backfill_private.bare_name(p_source.source_table),
      case when v_without > 0 then 'warn' else 'ok' end,
      concat_ws('; ',
        v_words,
        format('%s selected %s no %s, so no plan takes %s',
          nullif(v_without, 0),
          case v_without when 1 then 'row has' else 'rows have' end,
          p_source.date_column,
          case v_without when 1 then 'it' else 'them' end)));
  end if;
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
    with counted as (
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
    format('%s of %s sessions%s have enough', v_enough, v_sessions, coalesce(' that lack ' || v_component, ''))
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
  order by t.position, m.place
$$;

-- The scoring functions of a target in their order, each with the first thing that is wrong with it.
--
-- fault  null: nothing. edge: an Edge Function, which cannot be measured here. gone: it does not exist. arguments: they
--        have other names. rights: service_role may not execute it
create function backfill_private.scoring_faults(p_target text)
returns table (component text, name text, function regprocedure, wanted text[], present text[], fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    t.component,
    f.name,
    p.oid::regprocedure,
    named.wanted,
    p.proargnames,
    case
      when t.transport = 'edge' then 'edge'
      when p.oid is null then 'gone'
      when not coalesce(named.wanted <@ p.proargnames, false) then 'arguments'
      when not has_function_privilege('service_role', p.oid, 'execute') then 'rights'
    end
  from public.backfill_targets as t
  join backfill_private.scoring_functions(p_target) as f on f.component = t.component
  left join pg_proc as p on p.oid = f.oid
  cross join lateral (
    select array_agg(a order by a) as wanted
    from jsonb_object_keys(t.arguments) as a
  ) as named
  where t.target = p_target
  order by t.position
$$;

-- The marks on the scoring functions, of a check and of a plan. Each says what to do about it.
create function backfill_private.function_marks(p_target text)
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
      when 'arguments' then format('the arguments are %s, the calls name %s', f.present, f.wanted)
      when 'rights' then 'service_role may not execute it'
      else format('%s exists, service_role may execute it', f.function)
    end,
    case f.fault
      when 'edge' then 'declare the version anew whenever you deploy it: backfill install --target FILE'
      when 'gone' then
        format('create it, or: update public.backfill_targets set function_signature = ''…'''
        ' where target = %L and component = %L;', t.target, t.component)
      when 'arguments' then
        format('name its arguments: update public.backfill_targets set arguments = ''{"argument": "parameter", …}'''
        ' where target = %L and component = %L;', t.target, t.component)
      when 'rights' then format('grant execute on function %s to service_role;', f.function)
    end)
  from backfill_private.scoring_faults(p_target) with ordinality as f
  join public.backfill_targets as t on t.target = p_target and t.component = f.component
  order by f.ordinality
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
           else format(', %s s in bulk, of which one call is made at a time', timed.bulk_s)
         end
      || case
           when not t.is_edge
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
      when s.seen ->> 'without_effect' is not null
      then jsonb_build_object(
        'step', s.seen ->> 'without_effect',
        'code', 'OB017',
        'message', 'no effect: the function answered and left no row of the wanted version')
    end),
    s.seen
  from backfill_private.rehearsals as s
  where s.run_id = p_run_id and s.seen ? 'calls'
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
  ), batches as (
    select i.batch, ceil(count(*) / 4.0) as waves, avg(cardinality(i.components)) as calls
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
--          runtime_s}
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
    'runtime_s', backfill_private.estimate_s(p_run_id, p_round_trip_ms))
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
      case
        when e.code = '57014' then 'slower than the limit of a statement'
        else concat_ws(' ', e.code, e.message)
      end,
      e.sessions,
      e.categories),
    '; ' order by e.step, e.code)
  from (
    select
      r.error ->> 'step' as step,
      r.error ->> 'code' as code,
      min(r.error ->> 'message') as message,
      count(*) || case count(*) when 1 then ' session' else ' sessions' end as sessions,
      string_agg(distinct r.category, ', ' order by r.category) as categories
    from backfill_private.rehearsed(p_run_id) as r
    where r.error is not null
    group by 1, 2
  ) as e
$$;

-- Marks on what was rehearsed: calls, time, a second call, overwritten rows, writes elsewhere, undo.
create function backfill_private.rehearsal_marks(p_run_id uuid, p_figures jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text;
begin
  return next backfill_private.scoring_calls_mark(p_run_id);
  if p_figures -> 'took_ms' is null or p_figures -> 'took_ms' = 'null' then
    foreach v_name in array array['scoring time', 'second call', 'existing rows', 'other tables', 'undo'] loop
      return next backfill_private.mark('rehearsal: ' || v_name, 'warn', 'not rehearsed');
    end loop;
    return;
  end if;
  return next backfill_private.mark('rehearsal: scoring time', 'ok',
    format('p50 %s ms, p95 %s ms for the calls of a session, the first one left out',
      p_figures #>> '{took_ms,p50}', p_figures #>> '{took_ms,p95}'));
  return next backfill_private.second_call_mark(p_run_id);
  return next backfill_private.existing_rows_mark(p_run_id);
  return next backfill_private.other_tables_mark(p_run_id);
  return next backfill_private.undo_mark(p_run_id);
end
$$;

-- Did the calls succeed?
create function backfill_private.scoring_calls_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(
    'rehearsal: scoring calls',
    case
      when told.sample = 0 then 'warn'
      when told.errors is not null then 'fail'
      else 'ok'
    end,
    case
      when told.sample = 0
      then coalesce('not measured: ' || told.edge, 'not rehearsed' || coalesce(': ' || told.why, ''))
      when told.errors is not null
      then format('%s of %s sessions failed. %s', told.sample - told.good, told.sample, told.errors)
      else format('%s of %s sessions were scored and rolled back, none failed',
          told.sample,
          (select count(*) from public.backfill_items as i where i.run_id = p_run_id))
        || coalesce('. Not measured: ' || told.edge, '')
    end)
  from (
    select
      count(*) as sample,
      count(*) filter (where r.error is null) as good,
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
$$;

-- Does a second call change anything?
create function backfill_private.second_call_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
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
        'fails: ' || (
          select string_agg(
            distinct concat_ws(' ', r.seen #>> '{second,error,code}', r.seen #>> '{second,error,message}'),
            ', ')
          from backfill_private.rehearsed(p_run_id) as r
          where r.seen #>> '{second,error,code}' is not null
        )) as text,
      (
        select backfill_private.named_columns(jsonb_object_agg(u.key, u.value))
        from (
          select distinct t.key, t.value
          from backfill_private.rehearsed(p_run_id) as r
          cross join lateral jsonb_each(r.seen -> 'undecidable') as t
        ) as u
      ) as undecidable
  ) as told
  cross join lateral (select nullif(told.text, '') as differences, told.undecidable) as s
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
    then backfill_private.mark('rehearsal: undo', 'warn', 'not rehearsed: the time limit came first')
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

-- from sql/40_plan/request.sql
-- Request: the parameters of a plan, checked and normalised before anything is collected.

-- Every parameter of a request, and what a request gains when it is normalised. Python's class Request mirrors it, and
-- a test holds the two equal. The parameters of a target are in its own rows.
--
-- kind         moment: a day or a timestamp. number: a whole one. text. ids: a list of ids or prefixes of ids.
--              versions: by component. values: by name. derived: from others, never given
-- least, most  bounds: of a number, or of the length of a list. Null: none of its own
-- usual        its value when it is not given
-- is_digested  it is in the normal form, so it goes into the digest. The others are used up while planning
-- is_kept      a plan made like another takes it over
create view backfill_private.request_parameters with (security_invoker = true) as
select * from (values
  ('target',              'text',     null::integer, null::integer, null::jsonb, true,  true),
  ('mode',                'text',     null,          null,          '"direct"',  true,  true),
  ('inferred',            'text',     null,          null,          null,        true,  true),
  ('environment',         'text',     null,          null,          null,        true,  true),
  ('since',               'moment',   null,          null,          null,        true,  true),
  ('since_at',            'derived',  null,          null,          null,        true,  false),
  ('until',               'moment',   null,          null,          null,        true,  true),
  ('until_before',        'derived',  null,          null,          null,        true,  false),
  ('recent_since',        'moment',   null,          null,          null,        true,  false),
  ('throttle_per_minute', 'number',   1,             999999999,     null,        true,  true),
  -- In bulk a batch is a call. Without a throttle small batches would cost calls for nothing, so there it is 500.
  ('batch_size',          'number',   1,             999999999,     '5',         true,  true),
  ('priority',            'ids',      0,             100,           '[]',        true,  true),
  ('want',                'versions', null,          null,          '{}',        false, false),
  ('parameters',          'values',   null,          null,          '{}',        false, false),
  ('rehearse',            'number',   0,             999999999,     null,        false, false)
) as parameter (name, kind, least, most, usual, is_digested, is_kept);

-- A whole number from a request, within bounds. Null if absent. A parameter of a target may be any number from 0 on.
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
  if v_text is null then
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
      format('backfill plan … %s', case p_name
        when 'throttle_per_minute' then '--throttle 20'
        when 'batch_size' then '--batch-size 5'
        else format('with a %s of 1', p_name) end));
  end if;
  return v_text::integer;
end
$$;

-- The ids that a list of ids and prefixes names, in the order given.
--
-- raises  OB014 one of them names no session, or more than one
create function backfill_private.resolve_sessions(p_target text, p_given text[])
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_source backfill_private.sources;
  v_given text;
  v_found text[];
  v_ids text[] := array[]::text[];
begin
  select * into strict v_source from backfill_private.sources where target = p_target;
  foreach v_given in array p_given loop
    execute format(
      'select array_agg(id)
       from (
         select s.%1$I::text as id from %2$s as s
         where starts_with(s.%1$I::text, $1)
         order by s.%1$I::text limit 3
       ) as found',
      v_source.key_column, v_source.source_table::regclass)
    into v_found
    using case
      when backfill_private.column_type(v_source.source_table, v_source.key_column) = 'uuid' then lower(btrim(v_given))
      else btrim(v_given)
    end;
    if v_found is null or btrim(v_given) = '' then
      perform backfill_private.refuse('OB014', format('no session is named %s', left(v_given, 80)),
        'backfill missing --since … lists the sessions that lack something');
    elsif cardinality(v_found) > 1 and v_found[1] <> v_given then
      perform backfill_private.refuse('OB014',
        format('%s names more than one session: %s, …', left(v_given, 80), array_to_string(v_found[1:2], ', ')),
        'give more of the id');
    end if;
    if v_found[1] <> all (v_ids) then
      v_ids := v_ids || v_found[1];
    end if;
  end loop;
  return v_ids;
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
  where not exists (select from public.backfill_targets as t where t.target = p_target and t.component = w.key);
  if found then
    perform backfill_private.refuse('OB013',
      format('target %s has no component %s', p_target, left(v_unknown, 80)),
      format('backfill plan … --want COMPONENT=V with one of: %s', (
        select string_agg(t.component, ', ' order by t.position)
        from public.backfill_targets as t
        where t.target = p_target
      )));
  end if;
  select t.component, t.version_parameter,
    p_request -> 'want' ->> t.component as wanted, p_request ->> t.version_parameter as named
  into v_twice
  from public.backfill_targets as t
  where t.target = p_target
    and p_request -> 'want' ->> t.component <> p_request ->> t.version_parameter
  limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      format('two versions of %s are wanted: want says %s, %s says %s',
        v_twice.component, left(v_twice.wanted, 40), v_twice.version_parameter, left(v_twice.named, 40)),
      format('backfill plan … --want %s=V, or --%s V, not both',
        v_twice.component, replace(v_twice.version_parameter, '_', '-')));
  end if;
  return (
    select jsonb_object_agg(
      t.version_parameter,
      coalesce(p_request -> 'want' ->> t.component, p_request ->> t.version_parameter, t.version))
    from public.backfill_targets as t
    where t.target = p_target
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
  v_known text[] := array(
    select jsonb_object_keys(s.defaults) from backfill_private.sources as s where s.target = p_target
    union select t.version_parameter from public.backfill_targets as t where t.target = p_target);
  v_unknown text := (
    select n
    from jsonb_object_keys(coalesce(nullif(p_request -> 'parameters', 'null'), '{}')) as n
    where n <> all (v_known) limit 1);
begin
  if v_unknown is not null then
    perform backfill_private.refuse('OB013',
      format('target %s has no parameter %s', p_target, left(v_unknown, 80)),
      format('backfill plan … --set NAME=VALUE with one of: %s', array_to_string(v_known, ', ')));
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
      else t.form in ('object', 'array')
    end
  limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      format('%s is %s', left(v_wrong.key, 80), case v_wrong.kind
        when 'ids' then format('a list of at most %s ids or prefixes', v_wrong.most)
        when 'versions' then 'versions by component'
        when 'values' then 'values by name'
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
      'backfill plan … without --mode');
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

-- A request in its normal form: every parameter present, dates as given and as bounds, priority as full ids.
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
  v_environment text := backfill_private.check_environment(nullif(p_request ->> 'environment', ''));
  v_target text := backfill_private.check_target(p_request ->> 'target');
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
      format('backfill plan … --until with a day from %s on', left(p_request ->> 'since', 10)));
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
    'priority', to_jsonb(backfill_private.resolve_sessions(
      v_target, array(select jsonb_array_elements_text(v_asked -> 'priority')))));
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

-- from sql/40_plan/seal.sql
-- Sealing: what was found becomes the run's items, is measured, and gets its digest.

-- The candidates that a run has found, each in its place: phase, order, batch.
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
      where found.run_id = p_run.run_id and found.excluded is null
    ) as f
    join backfill_private.categories(p_run.target) as c on c.components = f.components
  ) as o
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
-- small, and would look through all of it for each batch.
--
-- returns  true when all are placed
create function backfill_private.place_items(p_run public.backfill_runs)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_placed integer := (
    select coalesce(max(i.ordinal), 0)
    from public.backfill_items as i
    where i.run_id = p_run.run_id);
  v_came integer;
begin
  insert into public.backfill_items (
    run_id, ordinal, source, session_id, session_at, components, category, phase, batch)
  select p_run.run_id, p.ordinal, p_run.target, p.session_id, p.session_at, p.components, p.category, p.phase, p.batch
  from backfill_private.placed(p_run) as p
  where p.ordinal > v_placed
    and p.ordinal <= v_placed + backfill_private.most_placed();
  get diagnostics v_came = row_count;
  if v_came = backfill_private.most_placed() then
    return false;
  end if;
  analyze public.backfill_items;
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

-- Seal a run: place its items, measure, compute the digest. A run with nothing to do is removed. A large plan takes
-- several calls. Each goes on from the last one that was committed.
--
-- p_round_trip_ms  what a call takes outside the database, as the client measured it. Only the estimate uses it
-- returns          {state: awaiting_approval}, {state: planning} if it has to be called again, or {state: empty,
--                  environment, request, plan} if there was nothing to do and the run is gone
-- raises           OB002 not in planning or windows left, OB013 too large or too long for this project
create function backfill_private.seal(p_run_id uuid, p_round_trip_ms numeric)
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
  v_run := backfill_private.locked_run(p_run_id, array['planning', 'awaiting_approval']);
  if v_run.state = 'awaiting_approval' then
    return jsonb_build_object('state', v_run.state);  -- sealed by a call whose reply was lost
  elsif v_run.collect_from < v_run.collect_until then
    perform backfill_private.refuse('OB002', format('run %s is not collected to its end', p_run_id));
  end if;
  insert into backfill_private.findings (run_id, session_id, components, excluded)
  select
    p_run_id,
    named.session_id,
    '{}',
    'named as priority, but not completed, outside the dates, or nothing is missing'
  from jsonb_array_elements_text(v_run.request -> 'priority') as named (session_id)
  on conflict do nothing;
  if not exists (select from backfill_private.findings as f where f.run_id = p_run_id and f.excluded is null) then
    v_run.plan := backfill_private.measure_plan(p_run_id, p_round_trip_ms);
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
      sealed_snapshot = pg_current_snapshot()::text
  where run_id = p_run_id;
  perform backfill_private.check_size(p_run_id);
  update public.backfill_runs
  set plan = backfill_private.measure_plan(p_run_id, p_round_trip_ms),
      digest = backfill_private.compute_digest(p_run_id),
      sealed_at = backfill_private.clock()
  where run_id = p_run_id;
  delete from backfill_private.findings as f where f.run_id = p_run_id and f.excluded is null;
  perform backfill_private.move(p_run_id, 'awaiting_approval', null, (
    select jsonb_build_object('digest', r.digest, 'sessions', r.plan -> 'candidates' -> 'total')
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
  v_settings public.backfill_settings;
  v_gone text;
begin
  select * into strict v_settings from public.backfill_settings;
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
      format('the plan has %s sessions, this project allows %s', v_sessions, v_settings.max_sessions),
      'narrow --since and --until');
  elsif (v_batches - 1) * backfill_private.batch_spacing_s(v_run.request)
      > extract(epoch from v_settings.approval_ttl) then
    perform backfill_private.refuse('OB013',
      format('at this throttle the run would outlive its approval of %s', v_settings.approval_ttl),
      'narrow --since and --until, or raise --throttle');
  end if;
end
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
as $$
declare
  v_request jsonb;
  v_source backfill_private.sources;
  v_newest timestamptz;
  v_run_id uuid := coalesce(p_run_id, gen_random_uuid());
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_form(p_request);
  v_request := backfill_private.normal_request(p_request);
  perform backfill_private.refuse_faults(v_request ->> 'target', v_request);
  select * into strict v_source from backfill_private.sources where target = v_request ->> 'target';
  execute format('select %s from %s as s',
    backfill_private.moment(v_source.source_table, v_source.date_column, format('max(s.%I)', v_source.date_column)),
    v_source.source_table::regclass)
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
      'backfill plan … without a run id');
  end if;
  return v_run_id;
end
$$;

-- What a target's view finds in a window of session dates, read in a subtransaction that PostgreSQL keeps from writing.
--
-- Writing is allowed again only when the subtransaction ends: nothing inside a read-only transaction can allow it. So
-- what was found is carried out of it as a value.
--
-- raises  25006 the view, or a function that it calls, tries to write
create function backfill_private.detected(p_target text, p_from timestamptz, p_until timestamptz)
returns backfill_private.findings[]
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_view regclass := backfill_private.gaps_view(p_target)::regclass;
  v_found backfill_private.findings[];
begin
  begin
    set local transaction_read_only = on;
    execute format(
      'select array_agg(
         row(null, g.session_id, g.session_at, g.components, g.excluded)::backfill_private.findings)
       from %s as g
       where g.session_at >= $1 and g.session_at < $2',
      v_view)
    into v_found
    using p_from, p_until;
  exception when read_only_sql_transaction then
    raise exception using
      errcode = 'read_only_sql_transaction',
      message = format(
        '%s writes while it detects what is missing (%s). Take the write out of the view and of what it calls',
        v_view, sqlerrm);
  end;
  return v_found;
end
$$;

-- How long a window is to take: about two seconds. Without the index each window reads the whole table, even a short
-- one, so a few long windows are done sooner.
create function backfill_private.window_aim(p_target text)
returns interval
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when exists (select from backfill_private.detection_index(p_target) as i where i.fault is null)
    then interval '2 seconds'
    else interval '20 seconds'
  end
$$;

-- Keep what a window of session dates holds.
--
-- returns  false if a statement's time limit came first, and nothing is kept
create function backfill_private.keep_findings(p_run public.backfill_runs, p_until timestamptz)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform set_config('backfill.request', p_run.request::text, true);
  insert into backfill_private.findings (run_id, session_id, session_at, components, excluded)
  select p_run.run_id, d.session_id, d.session_at, d.components, d.excluded
  from unnest(backfill_private.detected(p_run.target, p_run.collect_from, p_until)) as d;
  perform set_config('backfill.request', '', true);
  return true;
exception when query_canceled then
  -- Half of the shortest window would not be sooner: something else is slow.
  if p_run.collect_window <= interval '1 second' then
    raise;
  end if;
  return false;
end
$$;

-- Collect the next window of a run in planning.
--
-- The window grows and shrinks so that one takes about two seconds. The cursor moves in the same transaction, so a call
-- whose reply was lost is not collected twice. A window that meets the time limit is looked at again, half as long.
--
-- returns  true when all windows are collected
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
  v_is_kept boolean;
begin
  perform backfill_private.authorize('plan');
  v_run := backfill_private.locked_run(p_run_id, array['planning']);
  v_aim := backfill_private.window_aim(v_run.target);
  if v_run.collect_until is null or v_run.collect_from >= v_run.collect_until then
    return true;
  end if;
  v_end := least(v_run.collect_from + v_run.collect_window, v_run.collect_until);
  v_is_kept := backfill_private.keep_findings(v_run, v_end);
  v_took := backfill_private.clock() - v_began;
  update public.backfill_runs
  set collect_from = case when v_is_kept then v_end else collect_from end,
      collect_window = case
        when not v_is_kept or v_took > v_aim then greatest(collect_window / 2, interval '1 second')
        when v_took < v_aim / 2 then least(collect_window * 2, interval '10 years')
        else collect_window
      end
  where run_id = p_run_id;
  return v_is_kept and v_end >= v_run.collect_until;
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
      where f.run_id = p_run.run_id and f.excluded is null
    ))
$$;

-- from sql/50_approve/approval.sql
-- Approval: a decision is a row. Its trigger decides whether it counts, and moves the run.

create table public.backfill_approvals (
  approval_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id),
  digest text not null,
  decision text not null check (decision in ('approved', 'rejected')),
  approver text not null default '' check (length(approver) <= 200),
  approver_id uuid,
  via text not null default '',
  note text check (length(note) <= 500),
  decided_at timestamptz not null default backfill_private.clock(),
  valid_until timestamptz
);

-- An approval serves one run, and a run has one decision.
create unique index backfill_approvals_one_decision on public.backfill_approvals (run_id);

comment on table public.backfill_approvals is 'Decisions on plans: who, when, how, on which digest, valid until when.';
comment on column public.backfill_approvals.approval_id is 'Id of the decision.';
comment on column public.backfill_approvals.run_id is 'The run that was decided on.';
comment on column public.backfill_approvals.digest is 'The digest that the approver named: exactly this plan.';
comment on column public.backfill_approvals.decision is 'approved or rejected.';
comment on column public.backfill_approvals.approver is
  'Who decided: the name given, or the e-mail address of the Auth user.';
comment on column public.backfill_approvals.approver_id is 'The Auth user who decided. Null in the SQL editor.';
comment on column public.backfill_approvals.via is
  'sql: the SQL editor. auth: an Auth user''s token. service_key: the secret key, if the policy is any.';
comment on column public.backfill_approvals.note is 'What the approver added. For a rejection, the reason.';
comment on column public.backfill_approvals.decided_at is 'When it was decided.';
comment on column public.backfill_approvals.valid_until is 'When the approval runs out. Null for a rejection.';

-- May the caller decide on this run?
--
-- raises  OB005 no, and why
create function backfill_private.check_approver(p_run public.backfill_runs)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller record;
  v_policy text := (select approval_policy from public.backfill_settings);
  v_sql text := format('in the SQL editor: select public.backfill_approve(''%s'', ''%s'', ''your name'');',
    p_run.run_id, p_run.digest);
begin
  select * into v_caller from backfill_private.caller();
  if v_caller.kind = 'postgres' then
    return;
  elsif v_policy = 'postgres_only' then
    perform backfill_private.refuse('OB005',
      'the policy of this project is postgres_only: only the SQL editor decides', v_sql);
  elsif v_caller.kind = 'service_role' and v_policy <> 'any' then
    perform backfill_private.refuse('OB005', 'the service key does not decide on plans', v_sql);
  elsif v_caller.kind = 'user' and coalesce(v_caller.backfill_role, '') <> 'approver' then
    perform backfill_private.refuse('OB005', 'this user does not have the role approver', v_sql);
  elsif v_caller.kind = 'user' and v_policy = 'second_person' and v_caller.user_id = p_run.requested_by then
    perform backfill_private.refuse('OB005',
      'a second person has to approve this plan, not the one who asked for it', v_sql);
  elsif v_caller.kind = 'nobody' then
    perform backfill_private.refuse('OB005', 'this caller may not decide on plans', v_sql);
  end if;
end
$$;

-- Refuse to approve any plan but the one that is there now.
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
      format('backfill plan --like %s', p_run.run_id));
  end if;
end
$$;

-- Decide: fills in what the caller cannot choose, refuses what the caller may not do, moves the run.
--
-- raises  OB001 no such run
--         OB002 nothing to decide
--         OB004, OB005, OB007 as above
--         OB008 another environment
--         OB013 a rejection without a reason
create function backfill_private.decide()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_caller record;
begin
  v_run := backfill_private.locked_run(new.run_id);
  perform backfill_private.check_approver(v_run);
  perform backfill_private.locked_run(new.run_id, array['awaiting_approval']);
  if new.decision = 'approved' then
    -- A plan made before the project got its name may have been made for another one.
    perform backfill_private.check_environment(coalesce(v_run.environment, 'unnamed'));
    perform backfill_private.check_digest(v_run, new.digest);
  elsif nullif(btrim(new.note), '') is null then
    perform backfill_private.refuse('OB013', 'a rejection needs a reason',
      format('backfill reject %s --reason "…"', new.run_id));
  end if;
  select * into v_caller from backfill_private.caller();
  new.digest := v_run.digest;
  new.approver_id := v_caller.user_id;
  new.via := case v_caller.kind
    when 'postgres' then 'sql'
    when 'user' then 'auth'
    else 'service_key' end;
  new.approver := coalesce(
    (select u.email from auth.users as u where u.id = v_caller.user_id),
    nullif(btrim(new.approver), ''),
    v_caller.label);
  new.decided_at := backfill_private.clock();
  new.valid_until := case when new.decision = 'approved'
    then new.decided_at + (select approval_ttl from public.backfill_settings) end;
  update public.backfill_runs
  set approved_by = case when new.decision = 'approved' then new.approver end,
      approved_via = case when new.decision = 'approved' then new.via end,
      approved_at = case when new.decision = 'approved' then new.decided_at end,
      approved_until = new.valid_until
  where run_id = new.run_id;
  perform backfill_private.move(new.run_id, new.decision, new.note,
    jsonb_build_object('digest', new.digest, 'approver', new.approver, 'via', new.via));
  return new;
end
$$;

create trigger backfill_approvals_decide before insert on public.backfill_approvals
  for each row execute function backfill_private.decide();

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
  before jsonb,
  before_hash bytea,
  after_hash bytea,
  attempt integer not null,
  is_inferred boolean not null default false,
  at timestamptz not null,
  undone_at timestamptz
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
comment on column public.backfill_receipts.before is
  'The row before, for undo. No API role reads it. backfill_prune empties it. An undo itself keeps none.';
comment on column public.backfill_receipts.before_hash is 'SHA-256 of the row before. Null if there was none.';
comment on column public.backfill_receipts.after_hash is
  'SHA-256 of the row as it was left. Null if it was deleted.';
comment on column public.backfill_receipts.attempt is 'The number of the session''s attempt.';
comment on column public.backfill_receipts.is_inferred is
  'True: nobody saw the write. The row differed when the session was settled. See backfill_targets.receipts.';
comment on column public.backfill_receipts.at is 'When the row was written.';
comment on column public.backfill_receipts.undone_at is 'When an undo took this write back.';

-- The rows of a leased session as they were when it was leased. Deleted when it is settled.
create table backfill_private.looks (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  ordinal integer not null,
  component text not null,
  row_key jsonb not null,
  contents jsonb not null,
  primary key (run_id, ordinal, component, row_key)
);

-- The calls in bulk that are under way. Keeping and settling are allowed only in the transaction of one.
create table backfill_private.bulk_claims (
  claim_id uuid primary key,
  run_id uuid not null,
  xid xid8 not null
);

-- from sql/60_apply/backoff_and_breaker.sql
-- Trouble: what the database does when many calls go wrong. Back-off and the circuit breaker.
--
-- A call without a known end is looked up, not guessed: settling takes the fence away, then asks the receipts.
-- This file says only how long to wait before another try, and when to stop trying. How the client repeats its own calls
-- is in backfill/api/retries.py.

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

-- Note what a batch ran into. A run that gets no answer backs off, and is paused after eight batches without one. A run
-- that is told to slow down waits as long as it was told. Trouble that would hit every session pauses the run at once.
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
  where o ->> 'outcome' in ('stop', 'slow', 'unknown')
  order by
    o ->> 'outcome' = 'stop' desc,
    o ->> 'outcome' = 'slow' desc,
    (o ->> 'retry_after_s')::numeric desc nulls last
  limit 1;
  if v_trouble.kind is distinct from 'slow' and v_is_known then
    update public.backfill_runs
    set troubled_batches = 0, back_off_until = null
    where run_id = p_run_id
      and (troubled_batches, back_off_until) is distinct from (0, null);
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
  if v_trouble.kind = 'stop' then
    perform backfill_private.hold(p_run_id, 'every call would fail: ' || v_trouble.what);
  elsif v_trouble.kind = 'unknown' and v_batches >= 8 and exists (
    select from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and i.ordinal not in (select (o ->> 'ordinal')::integer from jsonb_array_elements(p_outcomes) as o)
  ) then
    perform backfill_private.hold(p_run_id,
      format('no known outcome in %s batches in a row, the last: %s', v_batches, v_what));
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
  v_run public.backfill_runs;
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
  update public.backfill_runs
  set settled_since = settled_since + v_settled,
      failed_since = failed_since + v_failed,
      failed_in_row = case when v_newest_done is null then failed_in_row else 0 end + v_failed_after
  where run_id = p_run_id
  returning * into v_run;
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
    perform backfill_private.hold(p_run_id,
      format('circuit breaker: %s canary sessions failed in a row, most with %s', v_run.failed_in_row, v_most));
  elsif v_run.settled_since >= 20 and v_run.failed_since * 2 > v_run.settled_since then
    perform backfill_private.hold(p_run_id,
      format('circuit breaker: %s of %s sessions failed since %s UTC, most with %s',
        v_run.failed_since, v_run.settled_since, to_char(v_run.resumed_at at time zone 'UTC', 'HH24:MI:SS'), v_most));
  end if;
end
$$;

-- from sql/60_apply/bulk.sql
-- Bulk: claim, score and settle a batch in one call of the API and one transaction, as the caller's role.
--
-- State, receipts and rows commit together. A batch has happened or it has not, so a lost reply or a killed worker
-- leaves nothing to look up. Many such calls run side by side, which the lock of the run would not allow. They share an
-- advisory lock that every verb takes exclusively, and leave a note in a table. The next one to hold the run writes the
-- note into the audit chain, see backfill_private.note_batches. The next verb looks at what went wrong, see
-- backfill_private.look_at_bulk.

-- May this run's sessions be scored in bulk now? If not, a claim finds out why and says so.
create function backfill_private.may_bulk(p_run public.backfill_runs)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p_run.state = 'running'
    and p_run.request ->> 'mode' = 'bulk'
    and p_run.approved_until > backfill_private.clock()
    and coalesce(p_run.back_off_until <= backfill_private.clock(), true)
    and not backfill_private.is_elsewhere(p_run)
    and p_run.fingerprint is not distinct from backfill_private.definitions(p_run.target)
    and (p_run.canary in ('passed', 'overridden') or not exists (
      select from public.backfill_items as i where i.run_id = p_run.run_id and i.ordinal = 1 and i.phase = 'priority'))
$$;

-- Write the receipts of the rows that some sessions of a call in bulk have written.
--
-- p_sessions  see backfill_private.bulk_take
-- p_kept      one text per session, see backfill_private.bulk_calls
-- p_step      the step, if one step of one session was made. It is refused while a row that it needs first is missing
-- returns     whether each component that these sessions lacked was written
-- raises      OB011 no such call is under way in this transaction
--             OB018 a row is another session's or target's
--             OB020 as keep_receipt
create function backfill_private.bulk_keep(
  p_run_id uuid, p_claim_id uuid, p_sessions jsonb, p_kept text[], p_step text
)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := (
    select r.target
    from backfill_private.bulk_claims as b
    join public.backfill_runs as r on r.run_id = b.run_id
    where b.claim_id = p_claim_id and b.run_id = p_run_id and b.xid = pg_current_xact_id());
  v_now timestamptz := backfill_private.clock();
  v_seen record;
begin
  if v_target is null then
    perform backfill_private.refuse('OB011', 'no call in bulk is under way here', 'stop; claim again');
  end if;
  with turns as materialized (
    select y.place, string_to_array(y.kept, e'\n') as lines
    from unnest(p_kept) with ordinality as y (kept, place)
  ), kept as materialized (
    select u.place, w.nth, u.lines[1]::integer as ordinal, string_to_array(w.line, e'\t', '') as parts
    from turns as u
    cross join lateral unnest(u.lines[2:]) with ordinality as w (line, nth)
  ), found as materialized (
    select k.place, k.nth, k.ordinal, s.session_id, s.attempt,
      s.todo ? t.component as is_owed,
      t.position, t.component, t.table_name, t.key_columns, t.session_column,
      k.parts[3] as operation, k.parts[4] as before, k.parts[5] as after,
      coalesce(k.parts[5], k.parts[4])::jsonb as contents
    from kept as k
    join jsonb_to_recordset(p_sessions) as s (ordinal integer, session_id text, attempt integer, todo jsonb)
      using (ordinal)
    left join public.backfill_targets as t
      on t.target = v_target and t.target = k.parts[1] and t.component = k.parts[2]
  ), written as (
    insert into public.backfill_receipts (
      run_id, ordinal, session_id, component, kind, operation, table_name,
      row_key, before, before_hash, after_hash, attempt, at)
    select p_run_id, f.ordinal, f.session_id, f.component, 'score', lower(f.operation), f.table_name,
      backfill_private.row_key(f.contents, f.key_columns), f.before::jsonb,
      sha256(convert_to(f.before, 'UTF8')), sha256(convert_to(f.after, 'UTF8')), f.attempt, v_now
    from found as f
    where f.component is not null
    order by f.place, f.nth
  )
  select
    count(distinct f.ordinal::bigint * 1000 + f.position) filter (where f.is_owed and f.operation <> 'DELETE') as paid,
    min(f.session_id) filter (where f.component is null
      or f.contents ->> f.session_column is distinct from f.session_id
      or f.before is not null and f.before::jsonb ->> f.session_column is distinct from f.session_id) as foreigner,
    min(f.ordinal) as ordinal
  into v_seen
  from found as f;
  if v_seen.foreigner is not null then
    perform backfill_private.refuse('OB018',
      format('this attempt holds session %s and writes a row of another', v_seen.foreigner));
  elsif p_step is not null then
    perform backfill_private.check_order(p_run_id, v_seen.ordinal, p_step, (
      select t.needs_first from public.backfill_targets as t where t.target = v_target and t.component = p_step));
  end if;
  return v_seen.paid = (select sum(jsonb_array_length(s -> 'todo')) from jsonb_array_elements(p_sessions) as s);
end
$$;

-- Take the next sessions for a call in bulk. Their items are locked until it ends, and so is each session's name: of
-- two runs one gets the session, and the other takes it up later. What somebody has filled by then is skipped. If other
-- calls hold them all, this one waits for the first.
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
  v_next integer[];
  v_taken integer[];
begin
  perform pg_advisory_xact_lock_shared(backfill_private.target_lock(p_run.target));
  v_next := backfill_private.next_items(p_run.run_id, backfill_private.pending_phase(p_run.run_id), p_limit);
  v_taken := array(
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run.run_id
      and i.ordinal = any (v_next)
      and pg_try_advisory_xact_lock(hashtextextended(i.source || '/' || i.session_id, 20251103)));
  if v_taken = '{}' and v_next is not null then
    perform pg_advisory_xact_lock(hashtextextended(i.source || '/' || i.session_id, 20251103))
    from public.backfill_items as i
    where i.run_id = p_run.run_id and i.ordinal = v_next[1];
    v_taken := v_next[1:1];
  end if;
  perform backfill_private.skip_filled(p_run, v_taken);
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

-- The statements that score sessions one after the other, each in its turn. Each component names the statement that
-- makes its calls, and '' the one that makes all, each only if its row is missing. While a session has its turn, the
-- setting backfill.bulk holds its place in the plan. The gate adds one line for each row that was written.
--
-- $1       the sessions, see backfill_private.bulk_take
-- selects  what backfill.bulk held at the end of each turn, an array
create function backfill_private.bulk_calls(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with parts as (
    select t.position, t.component,
      format('case when x -> ''todo'' ? %L then (select count(*) from %I.%I(%s)) end',
        t.component, n.nspname, p.proname, (
          select string_agg(format('%I => %s::%s', a.key,
              case a.value
                when 'session_id' then '(x ->> ''session_id'')'
                else quote_nullable(p_run.request ->> a.value) end,
              format_type(p.proargtypes[array_position(p.proargnames, a.key) - 1], null)), ', ')
          from jsonb_each_text(t.arguments) as a)) as call
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
    'select array_agg(turn.kept) from (
       select set_config(''backfill.bulk'', x ->> ''ordinal'', true), %s, current_setting(''backfill.bulk'') as kept
       from jsonb_array_elements($1) as x) as turn', n.call))
  from named as n
$$;

-- Begin a call in bulk: take its sessions.
--
-- returns  {claim, sessions, calls: {component: SQL, all of them under ''}}, or {look: true} if a claim has to look
--          first or nothing is left
-- raises   OB001 no such run, OB010 not allowed, OB013 more than 500 sessions
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
begin
  perform backfill_private.authorize('apply');
  if p_sessions is null or p_sessions not between 1 and 500 then
    perform backfill_private.refuse('OB013', format('a call in bulk takes 1 to 500 sessions, not %s', p_sessions));
  end if;
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if v_run.request ->> 'throttle_per_minute' is null then
    perform pg_advisory_xact_lock_shared(backfill_private.run_lock(p_run_id));
    select * into v_run from public.backfill_runs where run_id = p_run_id;
  else
    v_run := backfill_private.caught_up_run(p_run_id);
  end if;
  if not found then
    perform backfill_private.refuse('OB001', format('there is no run %s', p_run_id), 'backfill runs');
  elsif backfill_private.may_bulk(v_run) then
    v_pace := backfill_private.allowance(v_run);
    if v_pace.wait_s = 0 then
      v_sessions := backfill_private.bulk_take(v_run, least(p_sessions, v_pace.sessions));
    end if;
  end if;
  if v_sessions = '[]' then
    return '{"look": true}'::jsonb;
  elsif v_run.request ->> 'throttle_per_minute' is not null then
    perform backfill_private.count_starts(v_run, jsonb_array_length(v_sessions));
  end if;
  insert into backfill_private.bulk_claims (claim_id, run_id, xid) values (v_claim_id, p_run_id, pg_current_xact_id());
  return jsonb_build_object('claim', v_claim_id, 'sessions', v_sessions, 'calls', backfill_private.bulk_calls(v_run));
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

-- Settle a call in bulk. The audit chain hears of it later.
--
-- p_answered  ordinals of the sessions whose calls came back well
-- p_outcomes  of those that failed
-- returns     {state: how many}
-- raises      OB011 no such call is under way in this transaction
create function backfill_private.bulk_settle(
  p_run_id uuid, p_claim_id uuid, p_worker text, p_answered integer[], p_outcomes jsonb, p_started_at timestamptz
)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_lacking integer[];
  v_settled jsonb;
  v_details jsonb;
begin
  perform backfill_private.authorize('apply');
  delete from backfill_private.bulk_claims
  where claim_id = p_claim_id and run_id = p_run_id and xid = pg_current_xact_id();
  if not found then
    perform backfill_private.refuse('OB011', 'no call in bulk is under way here', 'backfill apply');
  end if;
  v_lacking := backfill_private.bulk_done(p_run_id, p_answered, p_started_at);
  v_settled := backfill_private.bulk_troubled(p_run_id, p_claim_id, p_outcomes || coalesce((
      select jsonb_agg(jsonb_build_object('ordinal', i.ordinal, 'outcome', 'answered', 'answered', i.components))
      from public.backfill_items as i
      where i.run_id = p_run_id and i.ordinal = any (v_lacking)), '[]'), p_started_at)
    || coalesce((
      select jsonb_agg(jsonb_build_object('ordinal', o, 'state', 'done'))
      from unnest(p_answered) as o
      where o <> all (v_lacking)), '[]');
  v_details := backfill_private.settled_details(p_run_id, p_claim_id, v_settled);
  insert into backfill_private.unnoted (run_id, granted, trouble, settled, details)
  select
    p_run_id,
    jsonb_build_object('claim', p_claim_id, 'worker', left(p_worker, 200), 'phase', i.phase, 'mode', 'bulk',
      'sessions', jsonb_array_length(v_settled), 'ordinals', v_details -> 'ordinals', 'started_at', p_started_at),
    p_outcomes, v_settled, v_details
  from public.backfill_items as i
  where i.run_id = p_run_id and i.ordinal = (v_settled -> 0 ->> 'ordinal')::integer;
  return coalesce(v_details -> 'states', '{}');
end
$$;

-- Score one session of a call in bulk, in a subtransaction of its own.
--
-- p_batch  see backfill_private.bulk_begin
-- returns  its outcome, see backfill_private.decide_outcomes
create function backfill_private.bulk_one(p_run_id uuid, p_batch jsonb, p_session jsonb, p_search_path text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step text;
  v_answered jsonb := '[]'::jsonb;
  v_code text;
  v_kept text[];
begin
  perform set_config('search_path', p_search_path, true);
  foreach v_step in array array(select jsonb_array_elements_text(p_session -> 'todo')) loop
    execute p_batch -> 'calls' ->> v_step into v_kept using jsonb_build_array(p_session);
    set constraints all immediate;
    perform backfill_private.bulk_keep(
      p_run_id, (p_batch ->> 'claim')::uuid, jsonb_build_array(p_session), v_kept, v_step);
    v_answered := v_answered || to_jsonb(v_step);
  end loop;
  perform set_config('backfill.bulk', '', true);
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', 'answered', 'answered', v_answered);
exception when others then
  v_code := sqlstate;
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', backfill_private.bulk_outcome(v_code),
    'step', v_step, 'code', v_code, 'message', sqlerrm);
end
$$;

-- Score sessions of a call in bulk all in one go.
--
-- returns  whether all is well. If something failed or had no effect, nothing is left of it
create function backfill_private.bulk_some(p_run_id uuid, p_batch jsonb, p_sessions jsonb, p_search_path text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kept text[];
begin
  perform set_config('search_path', p_search_path, true);
  execute p_batch -> 'calls' ->> '' into v_kept using p_sessions;
  perform set_config('backfill.bulk', '', true);
  set constraints all immediate;
  if not backfill_private.bulk_keep(p_run_id, (p_batch ->> 'claim')::uuid, p_sessions, v_kept, null) then
    raise exception using message = 'a call answered without effect';
  end if;
  return true;
exception when others then
  return false;
end
$$;

-- from sql/60_apply/canary.sql
-- The canary: before the next phase starts, the priority sessions are looked at and their scores are checked for range.

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
       cross join lateral backfill_private.score_fault(to_jsonb(t.%4$I), $2) as f (fault)
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
  select string_agg(format('%s %s', bad.session_id, bad.why), '; ' order by bad.ordinal) into v_bad
  from (select c.* from backfill_private.canary_faults(p_run) as c order by c.ordinal limit 5) as bad;
  update public.backfill_runs
  set canary = case when v_bad is null then 'passed' else 'failed' end
  where run_id = p_run.run_id;
  perform backfill_private.record(p_run.run_id, 'canary',
    jsonb_build_object('result', case when v_bad is null then 'passed' else 'failed' end));
  if v_bad is not null then
    perform backfill_private.move(p_run.run_id, 'paused', 'the canary failed: ' || v_bad);
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
begin
  for v_batch in
    with looked_at as (
      delete from backfill_private.unnoted as u
      where u.run_id = p_run_id and u.is_noted
      returning u.unnoted_id, u.trouble, u.settled
    )
    select l.trouble, l.settled from looked_at as l order by l.unnoted_id
  loop
    perform backfill_private.record_critical(p_run_id, null, v_batch.settled);
    perform backfill_private.note_trouble(p_run_id, v_batch.trouble, v_batch.settled);
    perform backfill_private.break_circuit(p_run_id, v_batch.settled);
  end loop;
  return found;
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
  v_bare text := (
    select u.name
    from public.backfill_targets as t, backfill_private.unguarded(t.table_name) as u (name)
    where t.target = p_run.target
    limit 1);
  v_key_fault text := backfill_private.key_fault(p_run.target);
begin
  if p_run.approved_until <= backfill_private.clock() then
    perform backfill_private.move(p_run.run_id, 'expired', 'the approval ran out');
  elsif p_run.state <> 'running' then
    return;
  elsif p_run.fingerprint is distinct from backfill_private.definitions(p_run.target) then
    perform backfill_private.move(p_run.run_id, 'paused',
      'a scoring function is not the one that was approved: ' || backfill_private.what_changed(p_run));
  elsif v_bare is not null then
    perform backfill_private.move(p_run.run_id, 'paused',
      format('the receipt triggers of %s are missing or not always enabled. backfill check prints the SQL', v_bare));
  elsif v_key_fault is not null then
    perform backfill_private.move(p_run.run_id, 'paused', v_key_fault);
  elsif backfill_private.is_elsewhere(p_run) then
    perform backfill_private.move(p_run.run_id, 'paused', 'this project''s environment is no longer the plan''s');
  elsif backfill_private.share_taken(null) > (select max_throttle_per_minute from public.backfill_settings) then
    perform backfill_private.move(p_run.run_id, 'paused',
      format('running runs take %s of the %s starts per minute that this project allows',
        backfill_private.share_taken(null),
        (select max_throttle_per_minute from public.backfill_settings)));
  end if;
end
$$;

-- Claim the next batch.
--
-- p_apart     also of a run in bulk. Otherwise the answer for such a run says to call backfill_bulk
-- p_claim_id  made by the worker. If the reply of a claim was lost, the worker asks again under the same id. It gets
--             the same items under new fences, and these are no new starts
-- returns     {state, reason, held_by, granted: […], ahead, bulk, batch, wait_s, wait_for, why, lease_s}
--             ahead: no throttle and no canary decides when, so the next batch may be claimed while this one is scored
--             wait_for: throttle | back-off | canary | leases, and why in words
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
  v_pace record;
begin
  perform backfill_private.authorize('apply');
  if p_claim_id is null then
    perform backfill_private.refuse('OB013', 'a claim needs an id, made by the worker');
  end if;
  v_run := backfill_private.caught_up_run(p_run_id);
  perform backfill_private.release_expired();
  if v_run.state in ('running', 'paused') then
    perform backfill_private.hold_if_changed(v_run);
  end if;
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  select array_agg(a.ordinal) into v_again
  from (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id and i.claim_id = p_claim_id and i.state = 'leased'
    order by i.ordinal
    for update) as a;
  v_phase := backfill_private.pending_phase(p_run_id);
  if v_run.state <> 'running' then
    null;
  elsif v_again is not null then
    v_answer := jsonb_build_object('granted', backfill_private.grant_fences(v_run, v_again, p_claim_id, p_worker));
  elsif v_phase is null then
    v_answer := backfill_private.finish_or_wait(v_run);
  elsif v_run.back_off_until > backfill_private.clock() then
    v_answer := backfill_private.wait_until(v_run.back_off_until, 'back-off', v_run.back_off_reason);
  elsif v_phase <> 'priority' and backfill_private.judge_canary(v_run) <> 'passed' then
    v_answer := backfill_private.wait_for('canary', 1, 'the priority sessions are being scored');
  else
    v_pace := backfill_private.allowance(v_run);
    v_answer := case
      when not p_apart and v_phase <> 'priority' and v_pace.wait_s = 0 and v_run.request ->> 'mode' = 'bulk'
        and backfill_private.next_items(p_run_id, v_phase, 1) is not null
        then '{"granted": [], "bulk": true}'
      when v_pace.wait_s > 0
        then backfill_private.wait_for('throttle', v_pace.wait_s,
          format('%s starts per minute', v_run.request ->> 'throttle_per_minute'))
      else backfill_private.grant_or_wait(v_run, p_claim_id, p_worker, v_pace.sessions) end;
  end if;
  return v_answer || (
    select jsonb_build_object(
      'state', r.state,
      'reason', r.reason,
      'held_by', r.held_by,
      'batch', r.batches_granted,
      'ahead', r.request ->> 'throttle_per_minute' is null and v_phase is distinct from 'priority',
      'lease_s', extract(epoch from backfill_private.lease_ttl()))
    from public.backfill_runs as r
    where r.run_id = p_run_id);
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

-- Grant a batch. If all pending sessions of the phase back off, or are leased by other runs, wait for them. If all
-- turned out to be filled, look again: the next phase has a gate of its own.
create function backfill_private.grant_or_wait(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_phase text := backfill_private.pending_phase(p_run.run_id);
  v_grants jsonb := backfill_private.grant_batch(p_run, p_claim_id, p_worker, p_limit);
  v_tired record;
begin
  if jsonb_array_length(v_grants) > 0 then
    return jsonb_build_object('granted', v_grants);
  elsif backfill_private.pending_phase(p_run.run_id) is distinct from v_phase then
    return backfill_private.claim_batch(p_run.run_id, p_claim_id, p_worker, true);
  end if;
  select i.not_before, i.session_id, i.error_code, i.error_message into v_tired
  from public.backfill_items as i
  where i.run_id = p_run.run_id and i.state = 'pending' and i.phase = v_phase
  order by i.not_before nulls first
  limit 1;
  if v_tired.not_before > backfill_private.clock() then
    return backfill_private.wait_until(v_tired.not_before, 'back-off',
      concat_ws(' ', 'session', v_tired.session_id, 'met', v_tired.error_code, v_tired.error_message));
  end if;
  return backfill_private.wait_for('leases', 1, backfill_private.lease_holders(p_run.run_id));
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

-- Refuse a row while one that it needs first is missing: a failed step ends the session.
--
-- p_needs_first  of the row's component, see public.backfill_targets
-- raises         OB020 a component that this one needs first has no receipt of this run
create function backfill_private.check_order(p_run_id uuid, p_ordinal integer, p_component text, p_needs_first text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_lacks record;
begin
  select n.component, i.session_id into v_lacks
  from public.backfill_items as i
  join unnest(p_needs_first) as n (component)
    on n.component = any (i.components) and n.component <> all (i.filled)
  where i.run_id = p_run_id
    and i.ordinal = p_ordinal
    and not exists (
      select from public.backfill_receipts as r
      where r.run_id = i.run_id
        and r.ordinal = i.ordinal
        and r.component = n.component
        and r.kind = 'score'
        and r.undone_at is null)
  limit 1;
  if found then
    perform backfill_private.refuse('OB020',
      format('%s of session %s is not there, so %s is not written',
        v_lacks.component, v_lacks.session_id, p_component));
  end if;
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
        format('this attempt holds session %s and writes a row of another', p_session_id));
  end case;
end
$$;

-- Check the fence and write the receipt of one row.
--
-- Claim, settle, retry and undo take the item for update, so the share lock makes them wait for a write in flight. It
-- is only of key share strength, because renewing a lease changes no fence and need not wait. It is nowait, because
-- anyone who holds the item for update is about to change the fence. Nothing is remembered from row to row. Between two
-- rows of one transaction, even of one statement, the headers may be set anew, the lease may run out and the run may be
-- paused. This runs for every row. Hence one query for item, run and target, expressions instead of calls (the hash is
-- the one of row_hash()), and no sequential scan: a pooled connection may hold a plan from when the tables were small.
-- Only a refusal makes a call. A call in bulk has locked its sessions and looked at the run, which nobody moves
-- meanwhile. Its row is kept for the receipt, which is written with those of other sessions before the subtransaction
-- ends, see backfill_private.bulk_keep.
--
-- tg_argv  target, component
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
set enable_seqscan = off
as $$
declare
  v_turn text := current_setting('backfill.bulk', true);
  v_headers jsonb;
  v_before jsonb;
  v_after jsonb;
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
  v_before := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  v_after := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  if v_turn <> '' then
    -- JSON has no line ends and tabs of its own. An assignment, because perform would wrap it in a query.
    v_turn := set_config('backfill.bulk',
      concat(v_turn, e'\n', tg_argv[0], e'\t', tg_argv[1], e'\t', tg_op, e'\t', v_before, e'\t', v_after), true);
    return null;
  end if;
  select i.run_id, i.ordinal, i.source, i.session_id, i.state, i.attempts, i.lease_kind, i.lease_until,
    r.state as run_state, r.approved_until,
    t.target, t.component, t.needs_first, t.table_name, t.session_column, t.key_columns
  into v_held
  from public.backfill_items as i
  join public.backfill_runs as r on r.run_id = i.run_id
  left join public.backfill_targets as t on t.target = tg_argv[0] and t.component = tg_argv[1]
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
  insert into public.backfill_receipts (
    run_id, ordinal, session_id, component, kind, operation, table_name,
    row_key, before, before_hash, after_hash, attempt, at)
  values (
    v_held.run_id, v_held.ordinal, v_held.session_id, v_held.component, v_held.lease_kind, lower(tg_op),
    v_held.table_name, backfill_private.row_key(coalesce(v_after, v_before), v_held.key_columns),
    case v_held.lease_kind when 'score' then v_before end,
    sha256(convert_to(v_before::text, 'UTF8')), sha256(convert_to(v_after::text, 'UTF8')), v_held.attempts, v_now);
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
    perform backfill_private.refuse('OB018', format('a run does not truncate %s', tg_table_name));
  end if;
  return null;
end
$$;

-- from sql/60_apply/inferred_receipts.sql
-- Inferred receipts: what an Edge Function that does not hand our headers on has written, inferred from the rows before
-- and after.
--
-- Nobody sees such a write. So gate, fence and receipt hold when a session is claimed and when it is settled, and not
-- in between: a row that somebody else writes meanwhile counts as ours, and one that arrives late is nobody's.

-- The rows of some sessions in the table of a component.
create function backfill_private.rows_of(p_run_id uuid, p_target public.backfill_targets, p_ordinals integer[])
returns table (ordinal integer, row_key jsonb, contents jsonb)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
begin
  return query execute format(
    'select item.ordinal, backfill_private.row_key(to_jsonb(t.*), $3), to_jsonb(t.*)
     from public.backfill_items as item
     join %s as t on t.%I = %s
     where item.run_id = $1 and item.ordinal = any ($2)',
    p_target.table_name::regclass,
    p_target.session_column,
    backfill_private.session_key(p_target.target))
  using p_run_id, p_ordinals, p_target.key_columns;
end
$$;

-- Remember the rows of leased sessions if receipts will have to be inferred from them.
create function backfill_private.look_before(p_run public.backfill_runs, p_ordinals integer[])
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into backfill_private.looks (run_id, ordinal, component, row_key, contents)
  select p_run.run_id, r.ordinal, t.component, r.row_key, r.contents
  from public.backfill_targets as t
  cross join lateral backfill_private.rows_of(p_run.run_id, t, p_ordinals) as r
  where t.target = p_run.target and t.receipts = 'inferred'
  on conflict do nothing
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
    join public.backfill_targets as t on t.target = run.target and t.receipts = 'inferred'
    cross join lateral backfill_private.rows_of(p_run_id, t, p_called) as r
    where run.run_id = p_run_id
  ), differing as (
    select
      coalesce(h.ordinal, g.ordinal) as ordinal,
      coalesce(h.component, g.component) as component,
      coalesce(h.row_key, g.row_key) as row_key,
      g.contents as before,
      h.contents as after
    from here as h
    full join (select * from gone where gone.ordinal = any (p_called)) as g
      on g.ordinal = h.ordinal and g.component = h.component and g.row_key = h.row_key
    where g.contents is distinct from h.contents
  )
  insert into public.backfill_receipts (
    run_id, ordinal, session_id, component, kind, operation, table_name,
    row_key, before, before_hash, after_hash, attempt, is_inferred, at)
  select i.run_id, i.ordinal, i.session_id, d.component, 'score',
    case when d.before is null then 'insert' when d.after is null then 'delete' else 'update' end, t.table_name,
    d.row_key, d.before, backfill_private.row_hash(d.before), backfill_private.row_hash(d.after), i.attempts, true,
    backfill_private.clock()
  from differing as d
  join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = d.ordinal
  join public.backfill_targets as t on t.target = i.source and t.component = d.component
  order by i.ordinal, t.position, d.row_key::text
$$;

-- from sql/60_apply/lease.sql
-- Leases: which sessions come next, and what a worker is granted of them. The database grants batches one at a time and
-- never more than approved. What else a claim may answer is in claim.sql.

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
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')
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

-- The lock of a target while sessions of it are being leased. A claim takes it exclusively, calls in bulk share it.
create function backfill_private.target_lock(p_target text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended(p_target, 20251102)
$$;

-- Lease the next items of one phase.
--
-- p_limit  at most so many
-- returns  the leased items' grants: [{ordinal, session_id, phase, batch, fence, steps}]
create function backfill_private.lease_items(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer
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
  perform pg_advisory_xact_lock(backfill_private.target_lock(p_run.target));
  loop
    v_ordinals := backfill_private.next_items(p_run.run_id, v_phase, p_limit);
    exit when v_ordinals is null;
    v_skipped := backfill_private.skip_filled(p_run, v_ordinals);
    exit when v_skipped = 0;
  end loop;
  perform backfill_private.look_before(p_run, v_ordinals);
  return backfill_private.grant_fences(p_run, v_ordinals, p_claim_id, p_worker);
end
$$;

-- The phase of the next batch. Null if no session is pending. The canary comes first, even if it has to wait. After it
-- a session that backs off holds nobody up.
create function backfill_private.pending_phase(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with first as (
    select i.phase
    from public.backfill_items as i
    where i.run_id = p_run_id and i.state = 'pending' order by i.ordinal limit 1
  ), ready as (
    select i.phase
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and (i.not_before is null or i.not_before <= backfill_private.clock())
    order by i.ordinal
    limit 1
  )
  select case when f.phase = 'priority' then f.phase else coalesce((select r.phase from ready as r), f.phase) end
  from first as f
$$;

-- The next pending items of a phase, locked. Those that another run has leased, and those that back off, are passed
-- over.
create function backfill_private.next_items(p_run_id uuid, p_phase text, p_limit integer)
returns integer[]
language sql
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(n.ordinal order by n.ordinal)
  from (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'pending'
      and i.phase = p_phase
      and (i.not_before is null or i.not_before <= backfill_private.clock())
      and not exists (
        select from public.backfill_items as other
        where other.source = i.source and other.session_id = i.session_id and other.state = 'leased')
    order by i.ordinal
    limit p_limit
    for update of i skip locked
  ) as n
$$;

-- Lease these items under new fences. The fences leave the database here and nowhere else.
create function backfill_private.grant_fences(
  p_run public.backfill_runs, p_ordinals integer[], p_claim_id uuid, p_worker text
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  with fences as materialized (
    select o as ordinal, backfill_private.new_fence() as fence from unnest(p_ordinals) as o
  ), leased as (
    update public.backfill_items as i
    set state = 'leased',
        lease_kind = 'score',
        attempts = i.attempts + (i.claim_id is distinct from p_claim_id)::integer,
        fence_hash = sha256(convert_to(f.fence, 'UTF8')),
        lease_until = backfill_private.clock() + backfill_private.lease_ttl(),
        started_at = case when i.claim_id = p_claim_id then i.started_at else backfill_private.clock() end,
        worker = left(p_worker, 200),
        claim_id = p_claim_id
    from fences as f
    where i.run_id = p_run.run_id and i.ordinal = f.ordinal
    returning i, f.fence
  )
  select coalesce(jsonb_agg(jsonb_build_object(
      'ordinal', (l.i).ordinal,
      'session_id', (l.i).session_id,
      'phase', (l.i).phase,
      'batch', (l.i).batch,
      'attempt', (l.i).attempts,
      'fence', l.fence,
      'steps', coalesce(s.steps, '[]'))
    order by (l.i).ordinal), '[]')
  from leased as l
  left join backfill_private.steps(p_run, p_ordinals) as s on s.ordinal = (l.i).ordinal
$$;

-- Grant a batch: count its starts, set when the next may start, record it in the chain.
create function backfill_private.grant_batch(
  p_run public.backfill_runs, p_claim_id uuid, p_worker text, p_limit integer
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_grants jsonb := backfill_private.lease_items(p_run, p_claim_id, p_worker, p_limit);
begin
  if jsonb_array_length(v_grants) = 0 then
    return v_grants;
  end if;
  perform backfill_private.count_starts(p_run, jsonb_array_length(v_grants));
  update public.backfill_runs set batches_granted = batches_granted + 1 where run_id = p_run.run_id;
  perform backfill_private.record(p_run.run_id, 'batch_granted', jsonb_build_object(
    'number', p_run.batches_granted + 1,
    'claim', p_claim_id,
    'worker', left(p_worker, 200),
    'phase', v_grants -> 0 ->> 'phase',
    'sessions', jsonb_array_length(v_grants),
    'ordinals', (select jsonb_agg(g -> 'ordinal') from jsonb_array_elements(v_grants) as g)));
  return v_grants;
end
$$;

-- Renew the leases of a claim that is still under way.
--
-- returns  how many are still ours. If fewer than expected: stop calling for the others at once
create function backfill_private.renew(p_run_id uuid, p_claim_id uuid)
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_renewed integer;
begin
  perform backfill_private.authorize('apply');
  with mine as (
    -- In the order in which settling locks them, or the two would wait for each other.
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.claim_id = p_claim_id
      and i.state = 'leased'
      and i.lease_until > backfill_private.clock()
    order by i.ordinal
    for no key update
  )
  update public.backfill_items as i
  set lease_until = backfill_private.clock() + backfill_private.lease_ttl()
  from mine where i.run_id = p_run_id and i.ordinal = mine.ordinal;
  get diagnostics v_renewed = row_count;
  return v_renewed;
end
$$;

-- Who holds the sessions that this run waits for: its own leases, and other runs' leases on its pending sessions.
create function backfill_private.lease_holders(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s sessions are leased by %s until %s UTC',
    count(*),
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

-- Check again, before a run goes on, what its approval covers.
--
-- returns  null if all is as approved, else the reason
create function backfill_private.reason_to_hold(p_run public.backfill_runs)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if backfill_private.is_elsewhere(p_run) then
    return 'this project''s environment is no longer the plan''s';
  elsif backfill_private.compute_digest(p_run.run_id) <> p_run.digest then
    return 'what was approved is no longer what stands there: ' || backfill_private.what_changed(p_run);
  end if;
  return null;
end
$$;

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
  v_why text;
begin
  perform backfill_private.authorize('apply');
  v_run := backfill_private.caught_up_run(p_run_id);
  if v_run.state in ('planning', 'awaiting_approval') then
    perform backfill_private.refuse('OB003',
      format('run %s is %s (digest %s)',
        p_run_id, replace(v_run.state, '_', ' '), coalesce(v_run.digest, 'not yet made')),
      format('backfill approve %s --digest %s', p_run_id, v_run.digest));
  elsif v_run.state not in ('approved', 'running', 'paused', 'completed') then
    perform backfill_private.refuse('OB002', format('run %s is %s: it does not run again', p_run_id, v_run.state),
      format('backfill plan --like %s', p_run_id));
  elsif v_run.state in ('approved', 'running', 'paused') and v_run.approved_until <= backfill_private.clock() then
    perform backfill_private.move(p_run_id, 'expired', 'the approval ran out');
  elsif v_run.state in ('approved', 'running') then
    v_why := backfill_private.reason_to_hold(v_run);
    if v_why is not null then
      perform backfill_private.move(p_run_id, 'paused', v_why);
    elsif v_run.state = 'approved' then
      perform backfill_private.check_share(v_run);
      perform backfill_private.move(p_run_id, 'running', null, jsonb_build_object('worker', left(p_worker, 200)));
    end if;
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
  if nullif(btrim(p_reason), '') is null then
    perform backfill_private.refuse('OB013', format('%s needs a reason', p_verb),
      format('backfill %s %s --reason "…"', p_verb, p_run_id));
  end if;
  v_run := backfill_private.caught_up_run(p_run_id);
  if v_run.state <> v_wanted then
    perform backfill_private.move(p_run_id, v_wanted, p_reason,
      jsonb_build_object('by', (select label from backfill_private.caller())));
  end if;
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'reason', r.reason)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Lift a pause. Everything must still be as it was approved.
--
-- raises  OB002 not paused, OB006 the approval ran out, OB007 the plan or its surroundings changed, OB015 no share left
create function backfill_private.resume(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_why text;
begin
  perform backfill_private.authorize('resume');
  v_run := backfill_private.caught_up_run(p_run_id, array['paused']);
  v_why := backfill_private.reason_to_hold(v_run);
  if v_run.approved_until <= backfill_private.clock() then
    perform backfill_private.refuse('OB006', format('the approval of run %s ran out', p_run_id),
      format('backfill plan --like %s', p_run_id));
  elsif v_why is not null then
    perform backfill_private.refuse('OB007', v_why, format('backfill plan --like %s', p_run_id));
  end if;
  perform backfill_private.check_share(v_run);
  update public.backfill_runs set canary = 'overridden' where run_id = p_run_id and canary = 'failed';
  perform backfill_private.move(p_run_id, 'running');
  return (select jsonb_build_object('run_id', r.run_id, 'state', r.state, 'was', v_run.reason)
          from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Score the failed sessions again, under the same approval.
--
-- returns  {run_id, state, sessions}. sessions: how many are pending again, each with fresh budgets for trouble
-- raises   OB002 not completed, paused or running, OB006 the approval ran out, OB007 the plan or its surroundings
--          changed
create function backfill_private.retry(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_why text;
  v_sessions integer;
begin
  perform backfill_private.authorize('apply');
  v_run := backfill_private.caught_up_run(p_run_id, array['completed', 'paused', 'running']);
  v_why := backfill_private.reason_to_hold(v_run);
  if v_run.approved_until <= backfill_private.clock() then
    perform backfill_private.refuse('OB006', format('the approval of run %s ran out', p_run_id),
      format('backfill plan --like %s', p_run_id));
  elsif v_why is not null then
    perform backfill_private.refuse('OB007', v_why, format('backfill plan --like %s', p_run_id));
  end if;
  update public.backfill_items
  set state = 'pending',
      settled_at = null,
      failed_step = null,
      error_code = null,
      error_message = null,
      crowded_out = 0,
      unknown_outcomes = 0,
      not_before = null
  where run_id = p_run_id and state = 'failed';
  get diagnostics v_sessions = row_count;
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

-- from sql/60_apply/outcome.sql
-- Outcomes: what a session becomes, a lost reply included. The item first, the fence second, the receipts third: an
-- outcome is decided only when the attempt can no longer commit.

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
    where o ->> 'outcome' in ('answered', 'failed', 'again'))
$$;

-- The rule: what an item becomes, from the rows that are there and what the worker saw.
--
-- p_crowded_out  with this one. A call that was rolled back because of others is made five times
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
    message := 'no effect: the function answered and left no row of the wanted version';
  elsif p_outcome in ('released', 'stop', 'slow') or (backfill_private.fault(p_code)).direct = 'released' then
    state := 'pending';
  else
    step := p_step; code := left(p_code, 20);
    message := backfill_private.kept_message(p_code, p_message);
    state := case
      when p_outcome = 'failed' then 'failed'
      when p_outcome = 'again' and p_crowded_out >= 5 then 'failed'
      when p_outcome in ('unknown', 'lost') and p_unknowns >= 8 then 'failed'
      else 'pending' end;
    if state = 'failed' and p_outcome in ('unknown', 'lost') then
      message := left(format('the outcome stayed unknown %s times: %s', p_unknowns, message), 500);
    end if;
  end if;
end
$$;

-- Decide the outcomes of leased items and say what is critical. This is only ever a batch of a run that may be large,
-- so it is looked up row by row, even if PostgreSQL expects another way to be faster.
--
-- p_outcomes  [{ordinal, outcome, answered: [component], step, code, message, retry_after_s}]
--             answered names the calls that came back well, whatever came after them. outcome:
--             answered  every call came back well
--             failed    a call failed, and would fail again
--             again     a call was rolled back, and may well succeed
--             slow      too many requests
--             unknown   nobody knows whether a call happened
--             lost      the same, and the worker is gone
--             stop      a call failed in a way that all others would
--             released  not called
-- returns     the settled items: [{ordinal, session_id, state, failed_step, error_code, error_message, is_critical}]
create function backfill_private.decide_outcomes(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_ordinals integer[] := backfill_private.take_fences(p_run_id, p_outcomes);
  v_settled jsonb;
  v_is_alive boolean := backfill_private.has_known_outcome(p_outcomes) or not exists (
    select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'pending');
begin
  with told as (
    select o.*
    from jsonb_to_recordset(p_outcomes)
      as o (ordinal integer, outcome text, answered text[], step text, code text, message text)
  ), seen as (
    select e.ordinal,
      -- If receipts are inferred, a row without one is somebody else's or came late. No receipt of ours is missing.
      bool_and(e.is_wanted and (e.has_receipt or g.receipts = 'inferred')
        or e.component = any (i.filled) and e.is_present) as is_complete,
      bool_or(e.is_wanted and not e.has_receipt and g.receipts = 'exact' and e.component = any (t.answered))
        as lacks_receipt,
      bool_or(e.is_wanted and e.has_receipt and e.component = t.step) as step_is_done,
      (array_agg(e.component order by array_position(i.components, e.component))
        filter (where not e.is_wanted and e.component <> all (i.filled)))[1] as without_row
    from backfill_private.effects(p_run_id, v_ordinals) as e
    join told as t using (ordinal)
    join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = e.ordinal
    join public.backfill_targets as g on g.target = i.source and g.component = e.component
    group by e.ordinal
  ), decided as (
    select t.ordinal, t.outcome, o.*, i.crowded_out + (t.outcome = 'again')::integer as crowded_out,
      i.unknown_outcomes + (not s.is_complete and t.outcome in ('unknown', 'lost'))::integer as unknowns
    from told as t
    join seen as s using (ordinal)
    join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = t.ordinal
    cross join lateral backfill_private.outcome(s.is_complete, coalesce(s.lacks_receipt, false), s.without_row,
      -- An error about a call that committed all the same is no failure: what is left is the next step.
      -- Nor is it the failure of its step if one before it had answered and left no row.
      case when t.outcome <> 'failed' then t.outcome when s.step_is_done then 'released'
        when s.without_row = any (t.answered) then 'answered' else t.outcome end,
      case when t.step = any (i.components) then t.step end, t.code, t.message,
      i.crowded_out + 1, case when v_is_alive then i.unknown_outcomes + 1 else 0 end) as o
  ), written as (
    update public.backfill_items as i
    set state = d.state, failed_step = d.step, error_code = d.code, error_message = d.message,
        crowded_out = d.crowded_out, unknown_outcomes = d.unknowns,
        not_before = case when d.state <> 'pending' then null
          when d.outcome = 'unknown' then backfill_private.clock() + backfill_private.back_off(d.unknowns)
          when d.outcome = 'again' then backfill_private.clock() + backfill_private.back_off(d.crowded_out) end,
        settled_at = case when d.state <> 'pending' then backfill_private.clock() end,
        lease_until = null, lease_kind = null, claim_id = null, worker = null
    from decided as d
    where i.run_id = p_run_id and i.ordinal = d.ordinal
    returning i.ordinal, i.session_id, i.state, i.failed_step, i.error_code, i.error_message, d.is_critical
  )
  select coalesce(jsonb_agg(to_jsonb(w) order by w.ordinal), '[]') into v_settled from written as w;
  return v_settled;
end
$$;

-- Take the fences of leased items away, so that their attempts can no longer commit, and infer receipts if need be.
--
-- p_outcomes  see backfill_private.decide_outcomes
-- returns     the ordinals of those that were leased. Never null, which to effects() would be every item of the run
create function backfill_private.take_fences(p_run_id uuid, p_outcomes jsonb)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_ordinals integer[];
begin
  select coalesce(array_agg(l.ordinal), '{}') into v_ordinals
  from (
    select i.ordinal
    from public.backfill_items as i
    join jsonb_to_recordset(p_outcomes) as o (ordinal integer) using (ordinal)
    where i.run_id = p_run_id and i.state = 'leased'
    order by i.ordinal
    for update of i) as l;
  update public.backfill_items as i
  set fence_hash = null
  where i.run_id = p_run_id and i.ordinal = any (v_ordinals);
  if exists (
    select from public.backfill_runs as r
    join public.backfill_targets as t on t.target = r.target
    where r.run_id = p_run_id and t.receipts = 'inferred'
  ) then
    perform backfill_private.infer_receipts(p_run_id, v_ordinals, array(
      select o.ordinal from jsonb_to_recordset(p_outcomes) as o (ordinal integer, outcome text)
      where o.ordinal = any (v_ordinals) and o.outcome <> 'released'));
  end if;
  return v_ordinals;
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
begin
  select jsonb_agg(jsonb_build_array(x ->> 'session_id', x ->> 'error_code')) into v_bad
  from jsonb_array_elements(p_settled) as x where (x ->> 'is_critical')::boolean;
  if v_bad is not null then
    perform backfill_private.record(p_run_id, 'critical', jsonb_build_object('claim', p_claim_id, 'sessions', v_bad));
    perform backfill_private.hold(p_run_id, format('critical: session %s, %s', v_bad -> 0 ->> 0,
      case v_bad -> 0 ->> 1
        when 'OB016' then 'a written row has no receipt'
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
      'outcomes are a list of {ordinal, outcome, answered, step, code, message, retry_after_s}, one for each session');
  end if;
end
$$;

-- Settle the outcomes of a claimed batch. Safe to call again: what is settled stays as it was.
--
-- p_outcomes  see backfill_private.decide_outcomes. Only items still leased under this claim are settled
-- returns     {state, reason, settled: […]}
-- raises      OB001 no such run, OB010 not allowed
create function backfill_private.settle(p_run_id uuid, p_claim_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_mine jsonb;
  v_settled jsonb := '[]'::jsonb;
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_outcomes(p_outcomes);
  perform backfill_private.caught_up_run(p_run_id);
  select jsonb_agg(o || jsonb_build_object('outcome', case
      when o ->> 'outcome' in ('answered', 'failed', 'again', 'slow', 'stop', 'released') then o ->> 'outcome'
      else 'unknown' end)) into v_mine
  from jsonb_array_elements(p_outcomes) as o
  join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer
  where i.claim_id = p_claim_id and i.state = 'leased';
  if v_mine is not null then
    v_settled := backfill_private.decide_outcomes(p_run_id, v_mine);
    perform backfill_private.record_batch(p_run_id, p_claim_id, v_settled);
    perform backfill_private.note_trouble(p_run_id, v_mine, v_settled);
    perform backfill_private.break_circuit(p_run_id, v_settled);
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
      join jsonb_to_recordset(p_outcomes) as o (ordinal integer) using (ordinal)
      where i.run_id = p_run_id))
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

-- Settle every lease of a run that does not run. Its attempts may write no more. A write in flight is waited for.
create function backfill_private.release_all(p_run_id uuid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.settle_untold(p_run_id,
    (select array_agg(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id and i.state = 'leased'),
    'the lease was taken back')
$$;

-- Settle the leases that ran out, of every run whose row is free. Their workers are gone.
create function backfill_private.release_expired()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_id uuid;
  v_ordinals integer[];
begin
  for v_run_id in
    select r.run_id
    from public.backfill_runs as r
    where r.run_id in (
      select i.run_id
      from public.backfill_items as i
      where i.state = 'leased' and i.lease_until <= backfill_private.clock())
    order by r.run_id
    for no key update skip locked
  loop
    select array_agg(e.ordinal) into v_ordinals
    from (
      select i.ordinal
      from public.backfill_items as i
      where i.run_id = v_run_id
        and i.state = 'leased'
        and i.lease_until <= backfill_private.clock()
      for update skip locked) as e;
    perform backfill_private.settle_untold(v_run_id, v_ordinals, 'the lease ran out');
  end loop;
end
$$;

-- from sql/60_apply/steps.sql
-- Steps: the scoring calls that a session still needs.

-- The scoring calls that some items still need, in order: function and arguments for each component that is neither
-- filled nor written by this run. What an item's first attempt needs is in its plan, so receipts are read only later.
create function backfill_private.steps(p_run public.backfill_runs, p_ordinals integer[])
returns table (ordinal integer, steps jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select i.ordinal, jsonb_agg(jsonb_build_object(
      'component', t.component,
      'transport', t.transport,
      'function', f.name,
      'arguments', (
        select jsonb_object_agg(a.key,
          case a.value when 'session_id' then to_jsonb(i.session_id) else p_run.request -> a.value end)
        from jsonb_each_text(t.arguments) as a))
    order by t.position)
  from public.backfill_items as i
  cross join unnest(i.components) as c (component)
  join public.backfill_targets as t on t.target = p_run.target and t.component = c.component
  join backfill_private.scoring_functions(p_run.target) as f on f.component = c.component
  left join backfill_private.effects(p_run.run_id, array(
      select again.ordinal
      from public.backfill_items as again
      where again.run_id = p_run.run_id
        and again.ordinal = any (p_ordinals)
        and again.attempts > 0)) as e
    on e.ordinal = i.ordinal and e.component = c.component
  where i.run_id = p_run.run_id
    and i.ordinal = any (p_ordinals)
    and c.component <> all (i.filled)
    and (e.is_wanted and e.has_receipt) is not true
  group by i.ordinal
$$;

-- from sql/70_verify/buckets.sql
-- The five buckets of a verification: as_planned, missing, filled_elsewhere and changed_since of the planned rows, and
-- extra of the others. verdict.sql says what follows from them.

-- How each planned row stands, for one component and the places of the plan after p_after, up to p_until.
--
-- returns  one row per planned session
--          bucket: as_planned, missing, filled_elsewhere or changed_since
--          is_wanted: a row of the wanted version is there
--          is_lost: we wrote it and it is gone
--          operation: how we wrote it
create function backfill_private.standing(p_run_id uuid, p_component text, p_after integer, p_until integer)
returns table (ordinal integer, session_id text, item_state text, phase text, bucket text,
  is_wanted boolean, is_lost boolean, operation text)
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
  v_target public.backfill_targets;
begin
  select * into strict v_run from public.backfill_runs as r where r.run_id = p_run_id;
  select * into strict v_target from public.backfill_targets as t
  where t.target = v_run.target and t.component = p_component;
  return query execute format(
    'with written as (
       select r.ordinal,
         (array_agg(r.operation order by r.receipt_id))[1] as operation,
         (array_agg(r.after_hash order by r.receipt_id desc))[1] as after_hash
       from public.backfill_receipts as r
       where r.run_id = $1 and r.ordinal > $2 and r.ordinal <= $3
         and r.component = %1$L
         and r.kind = ''score''
         and r.undone_at is null
       group by r.ordinal
     )
     select item.ordinal, item.session_id, item.state, item.phase,
       case
         when w.ordinal is not null and wanted.hash = w.after_hash then ''as_planned''
         when w.ordinal is not null and present.is_there then ''changed_since''
         when w.ordinal is null and (wanted.hash is not null or %1$L = any (item.filled) and present.is_there)
           then ''filled_elsewhere''
         else ''missing'' end,
       wanted.hash is not null or %1$L = any (item.filled) and present.is_there,
       w.after_hash is not null and not present.is_there,
       w.operation
     from public.backfill_items as item
     left join written as w using (ordinal)
     left join lateral (
       select sha256(convert_to(to_jsonb(t.*)::text, ''UTF8'')) as hash
       from %2$s as t
       where %4$s
       limit 1) as wanted on true
     cross join lateral (
       select wanted.hash is not null or exists (select from %2$s as t where %3$s) as is_there) as present
     where item.run_id = $1 and item.ordinal > $2 and item.ordinal <= $3
       and item.state <> ''rolled_back''
       and %1$L = any (item.components)
     order by item.ordinal',
    p_component,
    v_target.table_name::regclass,
    backfill_private.row_condition(v_target, v_run.request, false),
    backfill_private.row_condition(v_target, v_run.request, true))
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
         item.components,
         (%9$s) is not true as is_unwanted,
         s.xmin as session_xmin,
         exists (
           select from public.backfill_receipts as r
           where r.run_id = $1 and r.ordinal = ours.ordinal and r.table_name = %7$L and r.row_key = %3$s
             and r.kind = ''score''
             and r.undone_at is null) as is_ours
       from %1$s as t
       join %5$s as s on s.%6$I = t.%2$I
       left join public.backfill_items as ours
         on ours.run_id = $1 and ours.source = %10$L and ours.session_id = t.%2$I::text
       left join public.backfill_items as item
         on item.run_id = ours.run_id and item.ordinal = ours.ordinal and item.state <> ''rolled_back''
       -- Cheap first: nearly all rows of a large table are older than anything that ran at sealing.
       where age(t.xmin) <= age($3) and backfill_private.came_after(t.xmin, $2)
     )
     select c.session_id, c.row_key, c.of_other_version
     from came as c
     where case
       when c.is_ours then c.is_planned and %8$L <> all (c.components)
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
    (backfill_private.kind_conditions(v_target, 't', v_run.request, true))[1],
    v_source.source_table::regclass, v_source.key_column,
    v_target.table_name, p_component, backfill_private.row_condition(v_target, v_run.request, false), v_run.target)
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

-- What a part saw of one component: {figures, buckets: {bucket: [session]}, critical: [what]}.
create function backfill_private.verify_rows(p_run_id uuid, p_component text, p_after integer, p_until integer)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with stands as materialized (
    select * from backfill_private.standing(p_run_id, p_component, p_after, p_until)
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
        'priority_incomplete',
          coalesce(jsonb_agg(s.session_id) filter (where s.phase = 'priority' and not s.is_wanted), '[]'))
      from stands as s),
    'buckets', (
      select coalesce(jsonb_object_agg(b.bucket, b.sessions), '{}')
      from (select s.bucket, jsonb_agg(s.session_id) as sessions from stands as s group by 1) as b),
    'critical', (
      select coalesce(jsonb_agg(format('%s: a written row is gone', s.session_id)) filter (where s.is_lost), '[]')
      from stands as s))
$$;

-- What is critical about a run's chain: the critical events in it, and its own faults.
create function backfill_private.verify_chain(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(c.what), '[]') from (
    select format('%s: %s', f ->> 0, f ->> 1) as what
    from public.backfill_events as e
    cross join jsonb_array_elements(e.details -> 'sessions') as f
    where e.run_id = p_run_id and e.kind = 'critical'
    union all
    select format('audit event %s: %s', f.seq, f.fault) from backfill_private.chain_faults(p_run_id) as f
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
  if coalesce(p_so_far ->> 'stage', 'rows') not in ('rows', 'strangers', 'chain', 'receipts', 'end') then
    raise invalid_parameter_value;
  end if;
  return jsonb_build_object(
    'stage', coalesce(p_so_far ->> 'stage', 'rows'),
    'after', least(greatest((p_so_far ->> 'after')::integer, 0), 1000000000),
    'critical', coalesce((p_so_far ->> 'critical')::bigint, 0),
    'figures', (
      select jsonb_object_agg(
        t.component,
        jsonb_build_object('priority_incomplete', coalesce((
          select jsonb_agg(i)
          from jsonb_array_elements_text(p_so_far #> array['figures', t.component, 'priority_incomplete']) as i), '[]'))
        || (
          select jsonb_object_agg(n, coalesce((p_so_far #>> array['figures', t.component, n])::bigint, 0))
          from unnest(array['planned', 'wanted', 'inserted', 'updated', 'written', 'written_wanted', 'unexplained',
            'extra', 'legacy']) as n))
      from public.backfill_targets as t
      where t.target = p_target));
exception when data_exception then
  perform backfill_private.refuse('OB013', 'a verification goes on with what its last part answered as so_far');
  return null;
end
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
    'audit', jsonb_build_object('count', p_run.audit_count, 'head', p_run.audit_head))
    || backfill_private.new_candidates(p_run);
end
$$;

-- A sealed run that the caller may read about.
--
-- raises  OB001 no such run, OB010 not allowed
create function backfill_private.verifiable(p_run_id uuid)
returns public.backfill_runs
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('read');
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if v_run.sealed_at is null then
    perform backfill_private.refuse('OB001', format('there is no sealed run %s', p_run_id), 'backfill runs');
  end if;
  return v_run;
end
$$;

-- Verify a part of a run against the tables, for about p_budget_ms.
--
-- p_so_far  what the part before answered. Null: from the beginning
-- returns   {so_far, looked_at, to_look_at, components, buckets, critical, verification}
--           looked_at and to_look_at: sessions
--           buckets: {bucket: {component: [session]}}, of extra [{session_id, component, row}]
--           verification: null, or after the last part {run_id, state, verdict, criteria, inferred, audit,
--           new_candidates, new_candidates_total}
--           verdict: pass: every planned row is there
--                    partial: each missing one belongs to a session recorded as failed, and nothing is critical
--                    fail: everything else
-- raises    OB001 no such run, OB010 not allowed, OB013 no part has answered this so_far
create function backfill_private.verify_part(p_run_id uuid, p_so_far jsonb, p_budget_ms integer)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_until timestamptz := backfill_private.clock() + coalesce(p_budget_ms, 2000) * interval '1 ms';
  v_run public.backfill_runs := backfill_private.verifiable(p_run_id);
  v_so_far jsonb := backfill_private.verify_so_far(v_run.target, p_so_far);
  v_sessions bigint := (select count(*) from public.backfill_items as i where i.run_id = p_run_id);
  v_step jsonb;
  v_seen jsonb := '{"buckets": {}, "critical": []}'::jsonb;
  v_end jsonb;
begin
  loop
    if v_so_far ->> 'stage' = 'end' then
      v_end := backfill_private.verify_end(v_run, v_so_far);
      exit;
    end if;
    v_step := backfill_private.verify_step(v_run, v_so_far);
    v_so_far := v_step -> 'so_far';
    v_seen := backfill_private.added(v_seen, v_step - 'so_far');
    exit when backfill_private.clock() >= v_until;
  end loop;
  return v_seen || jsonb_build_object(
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
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.criterion(
    n.tab || '_rows',
    (p_figures ->> 'planned')::bigint,
    (p_figures ->> 'wanted')::bigint,
    jsonb_build_object('inserted', p_figures -> 'inserted', 'updated', p_figures -> 'updated'))
  from (select backfill_private.bare_name(p_target.table_name)) as n (tab)
  union all
  select backfill_private.criterion(backfill_private.bare_name(p_target.table_name) || '_version',
    (p_figures ->> 'written')::bigint, (p_figures ->> 'written_wanted')::bigint)
  union all
  select backfill_private.criterion(backfill_private.bare_name(p_target.table_name) || '_no_legacy_versions',
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
      count(*) filter (where i.phase = 'priority' and i.state <> 'rolled_back'),
      count(*) filter (where i.phase = 'priority' and i.state <> 'rolled_back' and not exists (
        select from jsonb_each(p_figures) as x
        where x.value -> 'priority_incomplete' ? i.session_id))),
    backfill_private.criterion('critical_errors', 0, p_critical),
    backfill_private.criterion('failed_sessions', 0, count(*) filter (where i.state = 'failed')),
    backfill_private.criterion('audit_complete',
      (select r.audit_count from public.backfill_runs as r where r.run_id = p_run_id),
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
      select sum((x.value ->> 'extra')::bigint + (x.value ->> 'unexplained')::bigint)
      from jsonb_each(p_figures) as x) > 0 then 'fail'
    when exists (select from jsonb_array_elements(p_criteria) as c where c ->> 'status' <> 'pass') then 'partial'
    else 'pass' end
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
  done jsonb not null default '{"deletes": {}, "restores": {}, "sessions": 0}',
  conflicts jsonb not null default '[]'
);

create index backfill_undos_runs on backfill_private.undos (run_id, undo_id);

-- A written row. A row that was written several times goes back to before the first write.
--
-- first_before  what the row was before
-- has_before    did it exist before
-- last_hash     what we left. Null if we deleted it
-- receipts      the receipts that an undo of the row takes back
-- last_receipt  the newest of them, which stands for the row
create type backfill_private.undoable as (
  ordinal integer,
  session_id text,
  component text,
  table_name text,
  row_key jsonb,
  first_before jsonb,
  has_before boolean,
  last_hash bytea,
  receipts bigint[],
  last_receipt bigint,
  is_inferred boolean,
  attempt integer
);

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
  v_events bigint := (select r.audit_count from public.backfill_runs as r where r.run_id = p_undo.run_id);
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
-- raises   OB013 another scope, OB019 another digest, or the rows have changed since the preview
create function backfill_private.confirmed_undo(p_run_id uuid, p_digest text, p_reason text, p_scope jsonb)
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
  elsif p_scope is not null
    and v_undo.scope <> backfill_private.undo_scope(p_run_id,
      array(select jsonb_array_elements_text(p_scope -> 'sessions')), p_scope ->> 'since', p_scope ->> 'until') then
    perform backfill_private.refuse('OB013', 'the preview of this digest has another scope than the one given now',
      format('the same command without its scope, or a preview of the other: backfill rollback %s …', p_run_id));
  elsif v_undo.state = 'previewed' then
    v_undo := backfill_private.checked_undo(v_undo);
    if backfill_private.undo_digest(v_undo) is null then
      return v_undo;
    end if;
    update backfill_private.undos
    set state = 'confirmed',
        reason = left(p_reason, 500),
        confirmed_at = backfill_private.clock(),
        confirmed_by = (select label from backfill_private.caller())
    where undo_id = v_undo.undo_id
    returning * into v_undo;
    perform backfill_private.record(p_run_id, 'undo_confirmed',
      jsonb_build_object('digest', p_digest, 'reason', left(p_reason, 500), 'scope', v_undo.scope));
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

-- Confirm an undo, and undo the next sessions.
--
-- p_digest    of the newest preview. To continue a killed undo, pass the same digest
-- p_sessions  how many sessions this call undoes at most. Call again until remaining is 0
-- p_scope     the scope that the caller expects. Null: any
-- returns     {remaining, sessions_total, sessions, deletes, restores, conflicts, state, confirmed_by, finished_at,
--             was_finished: it was finished before this call; checked and to_check: how far the look before the first
--             row is, in sessions of the plan, null afterwards}
-- raises      OB010 not allowed, or the caller has a trigger on some table, OB013 no reason or another scope, OB019
--             another digest, or the rows have changed since the preview
create function backfill_private.confirm_undo(
  p_run_id uuid, p_digest text, p_reason text, p_sessions integer, p_scope jsonb
)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
  v_ordinals integer[];
  v_effect jsonb := '{}'::jsonb;
begin
  perform backfill_private.authorize('undo');
  perform backfill_private.refuse_callers_triggers();
  if nullif(btrim(p_reason), '') is null then
    perform backfill_private.refuse('OB013', 'an undo needs a reason',
      format('backfill rollback %s --confirm %s --reason "…"', p_run_id, p_digest));
  elsif p_sessions < 1 then
    perform backfill_private.refuse('OB013',
      format('an undo takes one session or more at a time, not %s', p_sessions));
  end if;
  perform backfill_private.caught_up_run(p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']);
  perform backfill_private.release_all(p_run_id);
  v_undo := backfill_private.confirmed_undo(p_run_id, p_digest, p_reason, p_scope);
  v_ordinals := case v_undo.state
    when 'confirmed' then backfill_private.undo_next(p_run_id, v_undo.scope, v_undo.last_ordinal, null, p_sessions)
  end;
  if v_ordinals is not null then
    perform from public.backfill_items
    where run_id = p_run_id
      and ordinal = any (v_ordinals)
    order by ordinal
    for update;
    update public.backfill_items
    set fence_hash = null
    where run_id = p_run_id
      and ordinal = any (v_ordinals)
      and fence_hash is not null;
    v_effect := backfill_private.undo_sessions(p_run_id, v_ordinals);
    update backfill_private.undos
    set last_ordinal = v_ordinals[cardinality(v_ordinals)],
        sessions_seen = sessions_seen + cardinality(v_ordinals),
        conflicts = conflicts || (v_effect -> 'conflicts'),
        done = backfill_private.added(done, v_effect - array['conflicts', 'inferred', 'sessions_total'])
    where undo_id = v_undo.undo_id;
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
      v_done || jsonb_build_object('digest', v_undo.digest, 'conflicts', jsonb_array_length(v_undo.conflicts)));
    perform backfill_private.close_if_empty(p_run_id);
  end if;
  return v_done || jsonb_build_object(
    'remaining', v_remaining,
    'sessions_total', v_undo.sessions_total,
    'checked', case v_undo.state when 'previewed' then v_undo.looked_ordinal end,
    'to_check', case v_undo.state when 'previewed' then
      (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id) end,
    'conflicts', v_undo.conflicts,
    'confirmed_by', v_undo.confirmed_by,
    'finished_at', v_undo.finished_at,
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
  select
    r.ordinal,
    min(r.session_id),
    min(r.component),
    r.table_name,
    r.row_key,
    (array_agg(r.before order by r.receipt_id))[1],
    (array_agg(r.before_hash order by r.receipt_id))[1] is not null,
    (array_agg(r.after_hash order by r.receipt_id))[count(*)],
    array_agg(r.receipt_id order by r.receipt_id),
    max(r.receipt_id),
    bool_or(r.is_inferred),
    max(r.attempt)
  from public.backfill_receipts as r
  where r.run_id = p_run_id
    and r.kind = 'score'
    and r.undone_at is null
    and r.ordinal = any (p_ordinals)
  group by r.ordinal, r.table_name, r.row_key
  order by max(r.receipt_id) desc;
end
$$;

-- The tables of written rows, by key columns, as SQL conditions over u, a row of unnest($1), and t, a row of the table.
-- Names are quoted, values are literals. Tables written last come first, so that rows which refer to others go before
-- those others.
--
-- picks  is u a row of this table
-- joins  is t the row that u names
create function backfill_private.undo_tables(p_rows backfill_private.undoable[])
returns table (tab regclass, picks text, joins text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    g.table_name::regclass,
    format('u.table_name = %L and u.row_key ?& %L::text[]', g.table_name, g.keys),
    backfill_private.key_condition(g.table_name, g.keys, 'u.row_key')
  from (
    select
      u.table_name,
      array(select jsonb_object_keys(u.row_key)) as keys,
      max(u.last_receipt) as newest
    from unnest(p_rows) as u
    group by 1, 2
  ) as g
  order by g.newest desc
$$;

-- Which written rows of a table cannot be undone, and why: {newest receipt: reason}. Locks the rows if p_lock.
--
-- One statement looks at the rows. One per foreign key looks for rows that refer to them, with any ON DELETE.
-- p_picks, p_joins  see backfill_private.undo_tables
create function backfill_private.undo_conflicts(
  p_table regclass, p_picks text, p_joins text, p_rows backfill_private.undoable[], p_lock boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
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
         u.has_before,
         standing.row,
         case
           when u.has_before and u.first_before is null then ''its before-image was pruned''
           -- Its unique index is gone, too. Which of them the run wrote cannot be told.
           when count(standing.row) over (partition by u.last_receipt) > 1 then ''several rows have its key''
           when standing.row is null and u.last_hash is not null then ''the row is gone''
           when standing.row is not null and u.last_hash is null then ''a row has come where the run had deleted one''
           when sha256(convert_to(standing.row::text, ''UTF8'')) is distinct from u.last_hash
             then ''the row was changed since''
         end as reason
       from unnest($1) as u
       left join lateral (select to_jsonb(t.*) as row from %s as t where %s %s) as standing on true
       where %s)
     select
       coalesce(jsonb_object_agg(l.last_receipt, l.reason) filter (where l.reason is not null), ''{}''),
       array_agg(l.last_receipt) filter (where $2 and l.reason is null and not l.has_before),
       array_agg(l.row) filter (where $2 and l.reason is null and not l.has_before)
     from looked_at as l',
    p_table, p_joins, case when p_lock then 'for update of t' else 'offset 0' end, p_picks)
  into v_found, v_free, v_standing
  using p_rows, exists (select from pg_constraint as c where c.contype = 'f' and c.confrelid = p_table);
  return v_found || backfill_private.referencing(p_table, v_free, v_standing);
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
            p.attname, format_type(p.atttypid, p.atttypmod), n.nspname, o.oprname, a.attname),
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
    from (
      -- A foreign key puts triggers on the table that it refers to. An index finds these.
      select distinct g.tgconstraint
      from pg_trigger as g
      where g.tgrelid = p_table
        and g.tgisinternal
    ) as g
    join pg_constraint as c on c.oid = g.tgconstraint
    where c.contype = 'f'
      and c.confrelid = p_table
      and c.conparentid = 0
      and p_ids is not null
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
-- themselves must be looked at. Always null if other tables refer to the target's tables.
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
      select from pg_constraint as c
      where c.contype = 'f'
        and c.confrelid = v_target.table_name::regclass
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

-- Undo one written row, if the database allows it.
--
-- returns  null, or why not: a constraint, deferred or not, or a trigger of the user's refused it
create function backfill_private.refusal_to_undo(
  p_table regclass, p_picks text, p_joins text, p_row backfill_private.undoable
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.undo_write(p_table, p_picks, p_joins, array[p_row], '{}');
  set constraints all immediate;
  return null;
exception when integrity_constraint_violation or data_exception or insufficient_privilege or raise_exception then
  return format('the database refuses it: %s %s', sqlstate, backfill_private.kept_message(sqlstate, sqlerrm));
end
$$;

-- from sql/80_undo/preview.sql
-- The preview of an undo. Only rows that have a receipt and are still what the run wrote can be undone. confirm.sql
-- carries out exactly what was previewed. write.sql undoes the rows.

-- The normal form of an undo's scope: sessions as full ids, dates as bounds.
--
-- raises  OB013 not a date, OB014 a session is not of this run or its prefix is ambiguous
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
  v_given text;
  v_found text[];
  v_ids text[];
begin
  if v_until <= v_since then
    perform backfill_private.refuse('OB013',
      format('since %s is after until %s', p_since, p_until),
      format('backfill rollback %s … --until with a day from %s on', p_run_id, left(p_since, 10)));
  end if;
  if cardinality(p_sessions) > 1000 then
    perform backfill_private.refuse('OB013',
      format('an undo names at most 1000 sessions, not %s', cardinality(p_sessions)),
      format('backfill rollback %s --since D --until D', p_run_id));
  end if;
  foreach v_given in array coalesce(p_sessions, '{}') loop
    select array_agg(i.session_id) into v_found
    from (
      select i.session_id
      from public.backfill_items as i
      where i.run_id = p_run_id
        and (starts_with(i.session_id, btrim(v_given)) or starts_with(i.session_id, lower(btrim(v_given))))
      order by 1
      limit 2
    ) as i;
    if v_found is null or btrim(v_given) = '' or cardinality(v_found) > 1 and v_found[1] <> v_given then
      perform backfill_private.refuse('OB014',
        format('%s names %s session of run %s',
          left(v_given, 80), case when v_found is null then 'no' else 'more than one' end, p_run_id),
        format('backfill show %s', p_run_id));
    end if;
    v_ids := v_ids || v_found[1];
  end loop;
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
-- returns  {sessions_total: with a row, sessions: with a row to undo, inferred, deletes, restores, conflicts}
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
      u.last_hash is not null as stands,
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
    'inferred', (select count(*) from looked_at as l where l.conflict is null and l.is_inferred),
    'deletes', (select coalesce(jsonb_object_agg(c.tab, c.deletes), '{}') from counted as c),
    'restores', (select coalesce(jsonb_object_agg(c.tab, c.restores), '{}') from counted as c),
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
-- p_budget  how long to look. Null: to the end
create function backfill_private.undo_look(p_undo backfill_private.undos, p_budget interval)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := backfill_private.clock() + p_budget;
  v_last integer := (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_undo.run_id);
  v_rows backfill_private.undoable[];
  v_table record;
  v_conflicts jsonb;
begin
  loop
    v_conflicts := '{}';
    v_rows := array(
      select r
      from backfill_private.undo_rows(p_undo.run_id, backfill_private.undo_next(
        p_undo.run_id, p_undo.scope, p_undo.looked_ordinal, p_undo.looked_ordinal + 1000, null)) as r);
    for v_table in select * from backfill_private.undo_tables(v_rows) loop
      v_conflicts := v_conflicts
        || backfill_private.undo_conflicts(v_table.tab, v_table.picks, v_table.joins, v_rows, false);
    end loop;
    p_undo.effect := backfill_private.added(p_undo.effect, backfill_private.undo_effect(v_rows, v_conflicts));
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
-- p_budget_ms  look for about this long. The next call, with the answer's undo_id, continues. Null: to the end
-- p_undo_id    of a preview to continue. Its scope stays
-- returns      {run_id, scope, undo_id, digest: null until the end, looked_at and to_look_at: sessions of the plan, …
--              see backfill_private.undo_effect}
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
begin
  perform backfill_private.authorize('undo');
  perform backfill_private.caught_up_run(p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']);
  if p_undo_id is null then
    insert into backfill_private.undos (run_id, scope, seen, seen_events)
    select
      p_run_id,
      backfill_private.undo_scope(p_run_id, p_sessions, p_since, p_until),
      pg_current_snapshot(),
      r.audit_count
    from public.backfill_runs as r
    where r.run_id = p_run_id
    returning * into v_undo;
  else
    select * into v_undo
    from backfill_private.undos
    where undo_id = p_undo_id
      and run_id = p_run_id;
    if not found then
      perform backfill_private.refuse('OB013',
        format('run %s has no preview %s', p_run_id, p_undo_id),
        format('backfill rollback %s', p_run_id));
    end if;
  end if;
  if v_undo.digest is null then
    v_undo := backfill_private.undo_look(v_undo, p_budget_ms * interval '1 ms');
    update backfill_private.undos
    set digest = backfill_private.undo_digest(v_undo),
        sessions_total = (v_undo.effect ->> 'sessions_total')::bigint,
        seen = case when v_undo.effect -> 'conflicts' = '[]' then seen end
    where undo_id = v_undo.undo_id
    returning * into v_undo;
  end if;
  return v_undo.effect || jsonb_build_object(
    'run_id', p_run_id,
    'scope', v_undo.scope,
    'digest', v_undo.digest,
    'undo_id', v_undo.undo_id,
    'looked_at', v_undo.looked_ordinal,
    'to_look_at', (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id));
end
$$;

-- from sql/80_undo/write.sql
-- The writes of an undo: many rows per statement, and row by row if something refuses one of them.

-- Undo written rows of a table: delete what was inserted, put back what was updated or deleted. All rows are written
-- but those in conflict, or an error is raised.
--
-- One statement deletes, and one per set of columns updates. Rows that the run had deleted are inserted one by one,
-- since `returning` of an insert cannot name the receipt.
-- p_picks, p_joins  see backfill_private.undo_tables
-- returns  the rows that were written, by their newest receipt, and the hash of what stands now. A row that the run
--          both inserted and deleted is not among them
-- raises   P0001 a trigger of the user's suppressed a write
create function backfill_private.undo_write(
  p_table regclass, p_picks text, p_joins text, p_rows backfill_private.undoable[], p_conflicts jsonb
)
returns table (last_receipt bigint, operation text, after_hash bytea)
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_part record;
  v_picks text := p_picks || case p_conflicts when '{}' then '' else ' and not $2 ? u.last_receipt::text' end;
  v_rows bigint;
begin
  for v_part in
    select
      w.way,
      w.columns,
      w.one,
      count(*) as rows
    from unnest(p_rows) as u
    cross join lateral (
      select
        case when u.last_hash is null then 'insert' when u.has_before then 'update' else 'delete' end as way,
        case when u.has_before then array(select jsonb_object_keys(u.first_before)) end as columns,
        case when u.last_hash is null then u.last_receipt end as one
    ) as w
    where (u.has_before or u.last_hash is not null)
      and u.table_name::regclass = p_table
      and (p_conflicts = '{}' or not p_conflicts ? u.last_receipt::text)
    group by 1, 2, 3
  loop
    return query execute backfill_private.undo_statement(p_table, v_picks, p_joins, v_part.way, v_part.columns)
      using p_rows, p_conflicts, v_part.columns, v_part.one;
    get diagnostics v_rows = row_count;
    if v_rows <> v_part.rows then
      raise exception 'a trigger of % let no % happen', p_table, v_part.way;
    end if;
  end loop;
end
$$;

-- The statement that undoes the rows u of $1 that are not in $2.
--
-- A receipt that reaches several rows is left out of what the statement returns. Then the caller misses it, and nothing
-- is written.
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
      'with gone as (
         delete from %s as t
         using unnest($1) as u
         where %s
           and %s
           and not u.has_before
           and u.last_hash is not null
         returning u.last_receipt
       )
       select g.last_receipt, %L::text, null::bytea from gone as g group by g.last_receipt having count(*) = 1',
      p_table, p_picks, p_joins, p_way)
    when 'update' then format(
      'with back as (
         update %1$s as t
         set (%2$s) = (select %2$s from jsonb_populate_record(null::%1$s, u.first_before))
         from unnest($1) as u
         where %3$s
           and %4$s
           and u.last_hash is not null
           and array(select jsonb_object_keys(u.first_before)) = $3
         returning u.last_receipt, sha256(convert_to(to_jsonb(t.*)::text, ''UTF8'')) as hash
       )
       select b.last_receipt, %5$L::text, (array_agg(b.hash))[1]
       from back as b group by b.last_receipt having count(*) = 1',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attidentity <> 'a'),
      p_picks, p_joins, p_way)
    else format(
      'insert into %1$s as t (%2$s) overriding system value
       select %3$s
       from unnest($1) as u
       cross join lateral jsonb_populate_record(null::%1$s, u.first_before) as b
       where u.last_receipt = $4
       returning $4, %4$L::text, sha256(convert_to(to_jsonb(t.*)::text, ''UTF8''))',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
      string_agg('b.' || quote_ident(a.attname), ', ' order by a.attnum),
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
create function backfill_private.undo_at_once(p_run_id uuid, p_ordinals integer[])
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_headers text := current_setting('request.headers', true);
  v_rows backfill_private.undoable[] := array(select r from backfill_private.undo_rows(p_run_id, p_ordinals) as r);
  v_table record;
  v_found jsonb;
  v_conflicts jsonb := '{}'::jsonb;
begin
  perform set_config('request.headers', jsonb_build_object('x-backfill-undo', p_run_id)::text, true);
  for v_table in select * from backfill_private.undo_tables(v_rows) loop
    v_found := backfill_private.undo_conflicts(v_table.tab, v_table.picks, v_table.joins, v_rows, true);
    v_conflicts := v_conflicts || v_found;
    insert into public.backfill_receipts (
      run_id, ordinal, session_id, component, kind, operation, table_name, row_key, before_hash, after_hash,
      attempt, at)
    select
      p_run_id,
      u.ordinal,
      u.session_id,
      u.component,
      'undo',
      w.operation,
      u.table_name,
      u.row_key,
      u.last_hash,
      w.after_hash,
      u.attempt,
      v_now
    from backfill_private.undo_write(v_table.tab, v_table.picks, v_table.joins, v_rows, v_found) as w
    join unnest(v_rows) as u using (last_receipt);
  end loop;
  set constraints all immediate;
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  perform backfill_private.undo_noted(p_run_id, p_ordinals, v_rows, v_conflicts, v_now);
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;

-- Mark the receipts of the rows that were undone, and the sessions that they belong to.
create function backfill_private.undo_noted(
  p_run_id uuid, p_ordinals integer[], p_rows backfill_private.undoable[], p_conflicts jsonb, p_now timestamptz
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
  set undone_at = p_now
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

-- Undo one session's rows one by one, the newest first, through the gate. The fence never leaves this function. Every
-- row gets a receipt, and so does any row of this session that a trigger of the user's writes.
--
-- returns  see backfill_private.undo_effect
create function backfill_private.undo_item(p_run_id uuid, p_ordinal integer)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fence text := backfill_private.new_fence();
  v_headers text := current_setting('request.headers', true);
  v_rows backfill_private.undoable[];
  v_row backfill_private.undoable;
  v_table record;
  v_why text;
  v_conflicts jsonb := '{}'::jsonb;
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
  perform set_config('request.headers',
    jsonb_build_object('x-backfill-run', p_run_id, 'x-backfill-fence', v_fence)::text, true);
  v_rows := array(select r from backfill_private.undo_rows(p_run_id, array[p_ordinal]) as r);
  foreach v_row in array v_rows loop
    select * into strict v_table from backfill_private.undo_tables(array[v_row]);
    v_why := backfill_private.undo_conflicts(v_table.tab, v_table.picks, v_table.joins, array[v_row], true)
      ->> v_row.last_receipt::text;
    v_why := coalesce(v_why, backfill_private.refusal_to_undo(v_table.tab, v_table.picks, v_table.joins, v_row));
    if v_why is not null then
      v_conflicts := v_conflicts || jsonb_build_object(v_row.last_receipt, v_why);
    end if;
  end loop;
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  perform backfill_private.undo_noted(p_run_id, array[p_ordinal], v_rows, v_conflicts, backfill_private.clock());
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;

-- Undo the rows of some sessions at once. If the database or a trigger of the user's refuses one of them, each half is
-- tried by itself, down to one session, so that one refusal is one conflict.
--
-- returns  see backfill_private.undo_effect
create function backfill_private.undo_sessions(p_run_id uuid, p_ordinals integer[])
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_half integer := cardinality(p_ordinals) / 2;
begin
  return backfill_private.undo_at_once(p_run_id, p_ordinals);
exception
  when integrity_constraint_violation
    or data_exception
    or insufficient_privilege
    or raise_exception
    or sqlstate 'OB011' then
    if v_half = 0 then
      return backfill_private.undo_item(p_run_id, p_ordinals[1]);
    end if;
    return backfill_private.added(
      backfill_private.undo_sessions(p_run_id, p_ordinals[:v_half]),
      backfill_private.undo_sessions(p_run_id, p_ordinals[v_half + 1:]));
end
$$;

-- Refuse a caller who has put a trigger with a function of their own on some table. An undo writes with its owner's
-- rights, and such a trigger would run with them. The right TRIGGER and a function in pg_temp are enough to make one,
-- and older projects give TRIGGER to every API role.
--
-- raises  OB010 a trigger's function belongs to the caller, who does not have the owner's rights
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
  from public.backfill_settings as s
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
    perform backfill_private.refuse('OB002', format('run %s is not collected to its end', p_run_id));
  end if;
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
      and s.seen #>> '{error,code}' = '57014'
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

-- Make a session's calls one by one, and then check deferred constraints. The first failed call ends the pass, and its
-- own writes are rolled back.
--
-- p_steps        [{component, function, call: SQL}]
-- p_search_path  that of a call through the API, since the scoring functions will run under it
-- returns        {calls: [{component, function, took_ms}], error: null or {step, code, message}}
create function backfill_private.rehearse_pass(p_steps jsonb, p_search_path text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step jsonb;
  v_began timestamptz;
  v_calls jsonb := '[]'::jsonb;
begin
  perform set_config('search_path', p_search_path, true);
  for v_step in
    select s from jsonb_array_elements(p_steps || '{"function": "a deferred constraint"}'::jsonb) as s
  loop
    v_began := backfill_private.clock();
    begin
      if v_step ? 'call' then
        execute v_step ->> 'call';
      else
        set constraints all immediate;
        raise sqlstate 'RB001';  -- makes them deferred again, for a second pass
      end if;
    exception
      when sqlstate 'RB001' then exit;
      when query_canceled or assert_failure or others then
        return jsonb_build_object('calls', v_calls, 'error', jsonb_build_object(
          'code', sqlstate,
          'step', v_step ->> 'function',
          'message', backfill_private.kept_message(sqlstate, sqlerrm)));
    end;
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

-- Keep the rows that a scratch run's session has in the target tables at this moment.
create function backfill_private.keep_rows(p_scratch uuid, p_moment text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_target public.backfill_targets;
begin
  for v_target in
    select t.*
    from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_scratch
    order by t.position
  loop
    execute format(
      'insert into backfill_private.rehearsal_rows (scratch, moment, table_name, row_key, contents)
       select $1, $2, %L, backfill_private.row_key(to_jsonb(t.*), $3), to_jsonb(t.*)
       from %s as t
       join public.backfill_items as item
         on item.run_id = $1
         and t.%I = %s
       on conflict do nothing',
      backfill_private.bare_name(v_target.table_name),
      v_target.table_name::regclass,
      v_target.session_column,
      backfill_private.session_key(v_target.target))
    using p_scratch, p_moment, v_target.key_columns;
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
  select coalesce(jsonb_object_agg(w.relid::regclass::text, jsonb_build_object(
      'inserted', w.n_tup_ins, 'updated', w.n_tup_upd, 'deleted', w.n_tup_del)), '{}')
  from pg_stat_xact_user_tables as w
  where w.n_tup_ins + w.n_tup_upd + w.n_tup_del > 0
    and w.schemaname <> 'backfill_private'
    and not (w.schemaname = 'public' and starts_with(w.relname, 'backfill_'))
    and not exists (
      select from public.backfill_targets as t
      where t.target = p_target
        and (w.relid = to_regclass(t.table_name)
          or w.relid in (select p.relid from pg_partition_tree(to_regclass(t.table_name)) as p))
    )
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
as $$
  select coalesce(jsonb_object_agg(n.table_name, n.columns), '{}') from (
    select r.table_name, jsonb_agg(distinct c.key order by c.key) as columns
    from backfill_private.rehearsal_rows as r
    cross join lateral jsonb_each(r.contents) as c
    where r.scratch = p_scratch
      and r.moment = 'first'
      and c.value in (to_jsonb(now()), to_jsonb(localtimestamp))
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
    perform backfill_private.refuse('OB001', format('there is no rehearsal %s', p_scratch));
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
create function backfill_private.seen_undone(p_scratch uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_conflicts jsonb;
begin
  perform backfill_private.scratch_target(p_scratch);
  select coalesce(jsonb_agg(distinct c.value ->> 'reason'), '[]') into v_conflicts
  from jsonb_array_elements(backfill_private.undo_item(p_scratch, 1) -> 'conflicts') as c;
  perform backfill_private.keep_rows(p_scratch, 'undone');
  return jsonb_build_object(
    'conflicts', v_conflicts,
    'tables', backfill_private.rows_between(p_scratch, 'before', 'undone'));
end
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
      has_table_privilege(r.role, o.oid, 'insert, update, delete, truncate, trigger')
        or has_any_column_privilege(r.role, o.oid, 'update')
        or has_any_column_privilege(r.role, o.oid, 'insert')
          and o.oid <> to_regclass('public.backfill_approvals') as writes
    from backfill_private.our_relations() as o
    cross join unnest(array['anon', 'authenticated', 'service_role']) as r (role)
  )
  select
    format('%s may %s %s', r.role, case when r.writes then 'write' else 'read' end, r.oid),
    format('revoke %s on %s from public, %I;',
      case when r.role = 'anon' then 'all' else 'insert, update, delete, truncate, trigger' end, r.oid, r.role)
  from reach as r
  where r.writes
    or r.reads and r.role = 'anon'
  union all
  select
    format('%s may not read %s', r.role, r.oid),
    format('grant select%s on %s to %I;',
      (
        select ' (' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) || ')'
        from pg_attribute as a
        where a.attrelid = r.oid
          and a.attnum > 0
          and not a.attisdropped
          and a.attname not in ('before', 'fence_hash')
      ),
      r.oid, r.role)
  from reach as r
  where not r.reads
    and r.is_public
    and (r.role = 'service_role' or r.role = 'authenticated' and r.kind = 'r')
  union all
  select
    format('%s may read %s.%s', r.role, r.oid, a.attname),
    format('revoke select on %s from public, %I;', r.oid, r.role)
  from reach as r
  join pg_attribute as a
    on a.attrelid = r.oid
    and a.attname in ('before', 'fence_hash')
  where has_column_privilege(r.role, r.oid, a.attnum, 'select')
  union all
  select
    format('%s may not hand in decisions', r.role),
    format('grant insert (run_id, digest, decision, approver, note) on public.backfill_approvals to %I;', r.role)
  from reach as r
  join pg_attribute as a
    on a.attrelid = r.oid
    and a.attname = 'decision'
  where r.oid = to_regclass('public.backfill_approvals')
    and r.role <> 'anon'
    and not has_column_privilege(r.role, r.oid, a.attnum, 'insert')
$$;

-- Functions of ours that an API role may call and should not, or may not call and should. A door is a function in
-- public. A role that may call a door must be able to call the functions that the door names.
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
      p.pronamespace = 'public'::regnamespace as is_door
    from pg_proc as p
    where p.pronamespace = 'backfill_private'::regnamespace
      or p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\_%'
  )
  select
    format('anon may call %s', o.signature),
    format('revoke all on function %s from public, anon;', o.signature)
  from ours as o
  where has_function_privilege('anon', o.signature, 'execute')
  union all
  select
    format('service_role may not call %s', o.signature),
    format('grant execute on function %s to service_role;', o.signature)
  from ours as o
  where o.is_door
    and not has_function_privilege('service_role', o.signature, 'execute')
  union all
  select distinct
    format('%s may not call %s', r.role, o.signature),
    format('grant execute on function %s to %I;', o.signature, r.role)
  from ours as door
  join ours as o
    on door.is_door
    and not o.is_door
    and strpos(door.prosrc, format('backfill_private.%I(', o.proname)) > 0
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where has_function_privilege(r.role, door.signature, 'execute')
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
    string_agg(f.cure, ' ' order by f.fault))
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
    format('%s session starts per minute, %s sessions per plan, approvals valid %s',
      coalesce('at most ' || s.max_throttle_per_minute, 'any number of'),
      coalesce('at most ' || s.max_sessions, 'any number of'),
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
-- returns  [{name, status: ok | warn | fail, detail, next}]
-- raises   OB010 the caller may not read
create function backfill_private.check_project()
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
  v_lines jsonb;
begin
  perform backfill_private.authorize('read');
  v_lines := jsonb_build_array(backfill_private.line('targets',
    case when v_known is null then 'fail' else 'ok' end,
    coalesce(v_known, 'no target is installed'),
    'backfill install, apply the migrations, then backfill check'));
  for v_target in select distinct t.target from public.backfill_targets as t order by t.target loop
    v_lines := v_lines || (
      select coalesce(jsonb_agg(l.line order by l.part, l.place), '[]') from (
        select 1 as part, row_number() over () as place, line from backfill_private.table_lines(v_target) as line
        union all select 2, row_number() over (), line from backfill_private.source_lines(v_target) as line
        union all select 3, row_number() over (), line from backfill_private.key_lines(v_target) as line
        union all select 4, row_number() over (), line from backfill_private.table_marks(v_target) as line
        union all select 5, row_number() over (), line from backfill_private.rights_lines(v_target) as line
        union all select 6, row_number() over (), line from backfill_private.function_marks(v_target) as line
        union all select 7, row_number() over (), line from backfill_private.helper_lines(v_target) as line
        union all select 8, row_number() over (), line from backfill_private.need_lines(v_target) as line
        union all select 9, row_number() over (), line from backfill_private.detection_index_line(v_target) as line
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
    union all select t.version_column, 'version_column'
    union all select k, 'key_columns' from unnest(t.key_columns) as k
    union all select m, 'matches' from jsonb_object_keys(t.matches) as m
    union all select r, 'score_ranges' from jsonb_object_keys(t.score_ranges) as r
  ) as c (name, field)
  where t.target = p_target
$$;

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
    backfill_private.beside_writers('create index', format('on %s (%I)', to_regclass(p_table), p_column)))
  from (select backfill_private.leads_an_index(to_regclass(p_table), p_column) as leads) as i
  where backfill_private.column_type(p_table, p_column) is not null
$$;

-- A line of a precondition, see backfill_private.preconditions.
create function backfill_private.precondition_lines(p_target text, p_kind text)
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
  from backfill_private.preconditions(p_target) as p
  where p.kind = p_kind
    and (p.fault is not null or p.detail is not null)
$$;

-- Lines on the keys of the tables that exist: unique, of one kind, indexed by session. A line on versions and kinds
-- only if a column cannot be compared with one.
create function backfill_private.key_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select l.line
  from (
    select p.place, 1 as rank, p.line from backfill_private.precondition_lines(p_target, 'key') as p
    union all
    select p.place, 2, p.line from backfill_private.precondition_lines(p_target, 'session') as p
    union all
    select p.place, 3, p.line from backfill_private.precondition_lines(p_target, 'value') as p
    union all
    select t.position, 4, i.line
    from public.backfill_targets as t
    cross join lateral backfill_private.index_line(t.table_name, t.session_column) as i (line)
    where t.target = p_target
  ) as l
  order by l.place, l.rank
$$;

-- Further lines on the source: its dates, and the views that find candidates.
create function backfill_private.source_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p.line
  from backfill_private.precondition_lines(p_target, 'date') as p
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

-- Lines on rights that no mark covers: may service_role read, and may an undo write.
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
  ) as n
  cross join lateral (
    select
      string_agg(format('%s lacks %s', w.role, w.privilege), '; ') as missing,
      string_agg(format('grant %s on %s to %I;', w.privilege, to_regclass(n.name), w.role), ' ') as cure
    from (
      select 'service_role' as role, 'select' as privilege
      union all select current_user, unnest(n.privileges)
    ) as w
    where not has_table_privilege(w.role, to_regclass(n.name), w.privilege)
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
      string_agg(n, ', ') filter (where to_regprocedure(n) is null) as gone,
      string_agg(n, ', ') as present
    from unnest(t.helpers) as n
  ) as h
  where t.target = p_target
    and cardinality(t.helpers) > 0
$$;

-- Lines on the columns of a target's filters and needs: does each exist, can it be compared, is a need's indexed?
create function backfill_private.need_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p.line
  from backfill_private.precondition_lines(p_target, 'column') as p
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
    case when i.standing is null then '' else backfill_private.beside_writers('drop index', i.standing) || ' ' end
      || backfill_private.beside_writers('create index', format('%I on %s (%I)%s',
        s.index_name,
        to_regclass(s.source_table),
        s.date_column,
        (
          select ' where ' || string_agg(f.condition, ' and ')
          from backfill_private.filter_conditions(p_target, '') as f
        ))))
  from backfill_private.sources as s
  cross join lateral backfill_private.detection_index(p_target) as i
  where s.target = p_target
$$;

-- from sql/90_project/declare.sql
-- Declare a target. The declaration is compared with the catalog before it is kept. The migration of a target calls
-- this first. A name that the database does not have is refused, and the message has the nearest name that exists.

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

-- Refuse a name that does not exist, and say which is nearest. Functions are compared by name, then by arguments.
--
-- raises  OB013 always
create function backfill_private.refuse_name(p_sentence text, p_wanted text, p_known text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_nearest text := (
    select k
    from unnest(p_known) as k
    order by
      backfill_private.farness(split_part(p_wanted, '(', 1), split_part(k, '(', 1)),
      backfill_private.farness(p_wanted, k),
      k
    limit 1);
begin
  perform backfill_private.refuse('OB013', p_sentence || coalesce('; the nearest is ' || v_nearest, ''),
    'correct the declaration, then: backfill install --target FILE');
end
$$;

-- A table that a declaration names.
--
-- p_part   {schema, table}
-- returns  its name, quoted for SQL
-- raises   OB013 there is no such table or view
create function backfill_private.declared_table(p_part jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
  v_name text := format('%I.%I', p_part ->> 'schema', p_part ->> 'table');
begin
  if not exists (
    select from pg_class as c
    where c.oid = to_regclass(v_name)
      and c.relkind in ('r', 'p', 'v', 'm', 'f')
  ) then
    perform backfill_private.refuse_name(format('there is no table %s', v_name), v_name, array(
      select format('%I.%I', n.nspname, c.relname)
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p')
        and n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'backfill_private')
        and not (n.nspname = 'public' and starts_with(c.relname, 'backfill_'))));
  end if;
  return v_name;
end
$$;

-- Refuse a table in which no key can hold.
--
-- raises  OB013
create function backfill_private.check_table(p_table text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.refuse('OB013',
    format('%s cannot be declared: %s', p_table, t.fault),
    'correct the declaration, then: backfill install --target FILE')
  from (select backfill_private.table_fault(p_table) as fault) as t
  where t.fault is not null;
end
$$;

-- Refuse columns that a table does not have.
--
-- raises  OB013 the first of them
create function backfill_private.check_columns(p_table text, p_columns text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_gone text := (
    select c
    from unnest(p_columns) with ordinality as named (c, place)
    where backfill_private.column_type(p_table, c) is null
    order by place
    limit 1);
begin
  if v_gone is not null then
    perform backfill_private.refuse_name(format('%s has no column %s', p_table, quote_ident(v_gone)), v_gone, array(
      select a.attname::text
      from pg_attribute as a
      where a.attrelid = p_table::regclass
        and a.attnum > 0
        and not a.attisdropped));
  end if;
end
$$;

-- Refuse a scoring function or a helper that does not exist, or that lacks one of the arguments.
--
-- p_arguments  names of arguments. Null: do not check them
-- raises       OB013
create function backfill_private.check_function(p_signature text, p_arguments text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
  v_names text[];
  v_gone text;
begin
  begin
    v_function := to_regprocedure(p_signature);
  exception when syntax_error or invalid_text_representation or undefined_object then
    null;  -- a text that is not a signature names no function
  end;
  if v_function is null then
    perform backfill_private.refuse_name(format('there is no function %s', p_signature), p_signature, array(
      select p.oid::regprocedure::text
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
      where n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'backfill_private')
        and not starts_with(p.proname, 'backfill_')
        and p.prokind = 'f'));
  end if;
  select p.proargnames into v_names from pg_proc as p where p.oid = v_function;
  v_gone := (select a from unnest(p_arguments) as a where a <> all (coalesce(v_names, '{}')) limit 1);
  if v_gone is not null then
    perform backfill_private.refuse_name(
      format('%s has no argument %s', v_function, quote_ident(v_gone)), v_gone, v_names);
  elsif p_arguments is not null and not exists (
    select from pg_proc as p
    where p.oid = v_function
      and p.pronamespace = 'public'::regnamespace
  ) then
    perform backfill_private.refuse('OB013',
      format('%s is not in the schema public, where the API calls functions', v_function),
      'a function in public that calls it');
  end if;
end
$$;

-- Refuse a source that names what does not exist.
create function backfill_private.check_source(p_source jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text := backfill_private.declared_table(p_source);
  v_need jsonb;
begin
  perform backfill_private.check_table(v_table);
  perform backfill_private.check_columns(v_table, array[p_source ->> 'key', p_source ->> 'date']
    || array(select f ->> 'column' from jsonb_array_elements(p_source -> 'filters') as f));
  for v_need in select n from jsonb_array_elements(p_source -> 'needs') as n loop
    perform backfill_private.check_columns(backfill_private.declared_table(v_need), array[v_need ->> 'column']);
  end loop;
end
$$;

-- Refuse a component that names what does not exist, or that could have several rows per session.
create function backfill_private.check_component(p_target text, p_component jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text := backfill_private.declared_table(p_component);
  v_told text[] := array[p_component ->> 'session', p_component ->> 'version_column']
    || array(select jsonb_object_keys(p_component -> 'matches'));
  v_key text[] := array(select jsonb_array_elements_text(p_component -> 'key'));
  v_other record;
begin
  perform backfill_private.check_table(v_table);
  perform backfill_private.check_columns(v_table,
    v_told || v_key || array(select jsonb_object_keys(p_component -> 'score_ranges')));
  if not v_key <@ v_told then
    perform backfill_private.refuse('OB013',
      format('the key of %s has columns that are neither session, version nor matched: %s',
        v_table, (select string_agg(k, ', ') from unnest(v_key) as k where k <> all (v_told))),
      'a component has one row per session: match the column to a parameter, or leave it out of the key');
  end if;
  if p_component ->> 'transport' = 'rpc' then
    perform backfill_private.check_function(p_component ->> 'function',
      array(select jsonb_object_keys(p_component -> 'arguments')));
  end if;
  perform backfill_private.check_function(h, null) from jsonb_array_elements_text(p_component -> 'helpers') as h;
  select t.target, t.component into v_other
  from public.backfill_targets as t
  where to_regclass(t.table_name) = v_table::regclass
    and t.target <> p_target
  limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      format('%s holds the rows of %s of target %s already', v_table, v_other.component, v_other.target),
      'one component per table');
  end if;
end
$$;

-- Keep a declaration: its rows, our triggers on its tables, and the view with its conditions. A new declaration of a
-- target replaces the old one and drops its views. The migration then makes the others again.
--
-- p_declaration  {target, defaults, views, source: {schema, table, key, date, filters, needs, index}, components:
--                [{component, schema, table, session, key, version_column, version, version_parameter,
--                any_version_counts, matches, transport, function, function_version, receipts, arguments, helpers,
--                needs_first, score_ranges}]}, components in the order of scoring
-- raises         OB013 it names what the database does not have, its tables do not meet what has to be true of them, or
--                it drops a component that a run has planned
create function backfill_private.declare_target(p_declaration jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
declare
  v_target text := p_declaration ->> 'target';
  v_source jsonb := p_declaration -> 'source';
  v_dropped text;
begin
  perform backfill_private.check_source(v_source);
  perform backfill_private.check_component(v_target, c) from jsonb_array_elements(p_declaration -> 'components') as c;
  select t.component into v_dropped
  from public.backfill_targets as t
  where t.target = v_target
    and t.component <> all (
      array(select c ->> 'component' from jsonb_array_elements(p_declaration -> 'components') as c))
    and exists (select from public.backfill_items as i where i.source = v_target and t.component = any (i.components));
  if found then
    perform backfill_private.refuse('OB013',
      format('runs of target %s have planned %s, which this declaration drops', v_target, v_dropped),
      'keep it, or declare a target of another name');
  end if;
  perform backfill_private.withdraw(v_target);
  insert into backfill_private.sources (
    target, source_table, key_column, date_column, filters, needs, views, index_name, defaults)
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
    p_declaration -> 'defaults')
  on conflict (target) do update
  set (source_table, key_column, date_column, filters, needs, views, index_name, defaults)
    = (excluded.source_table, excluded.key_column, excluded.date_column, excluded.filters, excluded.needs,
       excluded.views, excluded.index_name, excluded.defaults);
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
  perform backfill_private.refuse_faults(v_target, null);
  perform backfill_private.guard(v_target);
  execute backfill_private.standing_sql(v_target);
end
$$;

-- from sql/95_face/functions.sql
-- The doors: every function that the API offers, in the order of a run's life. Each runs with its caller's rights.

-- Is this project ready? One line per check, each with what to do about it.
create function public.backfill_check()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.check_project()
$$;

comment on function public.backfill_check() is
  'Is this project ready? One line per check, each with what to do.';

-- What is missing of a target, by UTC day.
--
-- p_target  null: the only target
-- returns   {components, days: [a row of the target's view of daily coverage]}
create function public.backfill_coverage(p_target text default null, p_since text default null)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_view text;
  v_components text[];
  v_since date;
  v_days jsonb;
begin
  select c.view_name, c.components, c.first_day into v_view, v_components, v_since
  from backfill_private.coverage_of(p_target, p_since) as c;
  execute format(
    'select coalesce(jsonb_agg(to_jsonb(d) order by d.day), ''[]'')
     from %s as d
     where $1 is null or d.day >= $1 or d.day is null',
    v_view::regclass)
  into v_days using v_since;
  return jsonb_build_object('components', v_components, 'days', v_days);
end
$$;

comment on function public.backfill_coverage(text, text) is
  'What is missing of a target, by UTC day: the target, the first day. Sessions without a date count in any range. '
  'For the client.';

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

-- Rehearse one session of the sample: score it, score it again, undo it, and roll everything back.
--
-- p_search_path  by default the caller's, since a default is evaluated before this function's own path is set
-- returns        {took_ms: of this call in the database, calls, error, tables, …}, or {why} if it was not rehearsed
-- raises         OB002 not in planning, OB010 not allowed, OB014 the session is not in the sample
create function public.backfill_rehearse(
  p_run_id uuid, p_session_id text, p_search_path text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_began timestamptz := backfill_private.clock();
  v_lease jsonb;
  v_leased_ms numeric;
  v_seen jsonb;
begin
  begin
    v_lease := backfill_private.rehearsal_lease(p_run_id, p_session_id);
    v_leased_ms := extract(epoch from backfill_private.clock() - v_began) * 1000;
    v_seen := v_lease - array['scratch', 'headers', 'steps', 'writes'];
    if v_lease ? 'steps' then
      perform set_config('lock_timeout', '1s', true);
      perform set_config('request.headers',
        (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb || (v_lease -> 'headers'))::text,
        true);
      v_seen := backfill_private.rehearse_pass(v_lease -> 'steps', p_search_path);
      v_seen := v_seen || backfill_private.seen_first((v_lease ->> 'scratch')::uuid, v_lease -> 'writes');
      if v_seen ->> 'error' is null then
        v_seen := v_seen || jsonb_build_object('second',
          backfill_private.rehearse_pass(v_lease -> 'steps', p_search_path)
            || backfill_private.seen_second((v_lease ->> 'scratch')::uuid));
        v_seen := v_seen || jsonb_build_object('undone',
          backfill_private.seen_undone((v_lease ->> 'scratch')::uuid));
      end if;
    end if;
    raise sqlstate 'RB001';
  exception
    when sqlstate 'RB001' then null;  -- the intended end: everything is rolled back
    when query_canceled then
      if v_seen is null then
        raise;
      end if;
  end;
  v_seen := v_seen || jsonb_build_object(
    'leased_ms', round(v_leased_ms, 1),
    'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
  perform backfill_private.keep_rehearsal(p_run_id, p_session_id, v_seen);
  return v_seen;
end
$$;

comment on function public.backfill_rehearse(uuid, text, text) is
  'Score one session twice, undo it and roll everything back, to see what it would do. For the client.';

create function public.backfill_seal(p_run_id uuid, p_round_trip_ms numeric default null)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.seal(p_run_id, p_round_trip_ms)
$$;

comment on function public.backfill_seal(uuid, numeric) is
  'Complete a plan and compute its digest. The run then awaits approval. For the client.';

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
as $$
  select coalesce(json_agg(i.packed order by i.ordinal), '[]')
  from (
    select
      x.ordinal,
      json_build_array(x.ordinal, x.session_id, x.session_at, x.category, x.components, x.phase, x.batch, x.state,
        x.attempts, x.failed_step, x.error_code, x.error_message, x.started_at, x.settled_at) as packed
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
  'What changed since a plan was sealed: sessions filled meanwhile, new candidates, definitions, settings, approval.';

-- Runs whose id begins with a prefix, at most two. That is enough to tell unique from ambiguous.
create function public.backfill_find_runs(p_prefix text)
returns setof uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select r.run_id
  from public.backfill_runs as r
  where starts_with(r.run_id::text, lower(btrim(p_prefix)))
    and btrim(p_prefix) <> ''
  order by r.run_id
  limit 2
$$;

comment on function public.backfill_find_runs(text) is
  'The runs whose id begins with a prefix, two at most. For the client.';

-- Approve a plan.
--
-- run       the run's id
-- digest    the plan's digest, as the plan shows it
-- approver  your name. For an Auth user the email is taken instead
-- note      anything worth keeping with the decision
-- returns   the run's state, and until when the approval is valid
create function public.backfill_approve(
  run uuid, digest text, approver text default null, note text default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into public.backfill_approvals (run_id, digest, decision, approver, note)
  values ($1, $2, 'approved', coalesce($3, ''), left($4, 500))
  returning jsonb_build_object(
    'run_id', run_id,
    'state', 'approved',
    'digest', digest,
    'approver', approver,
    'via', via,
    'valid_until', valid_until)
$$;

comment on function public.backfill_approve(uuid, text, text, text) is
  'Approve a plan: the run, its digest, your name. For the SQL editor, or an Auth user with the role approver.';

-- Reject a plan. The reason is kept.
create function public.backfill_reject(run uuid, reason text, approver text default null)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into public.backfill_approvals (run_id, digest, decision, approver, note)
  values ($1, '', 'rejected', coalesce($3, ''), left($2, 500))
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
create function public.backfill_resume(run uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.resume($1)
$$;

comment on function public.backfill_resume(uuid) is
  'Lift the pause of a run.';

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
-- PostgreSQL keeps up to 64 cheaply.
--
-- p_sessions     at most this many, and at most 500
-- p_budget_ms    no session starts after this time
-- p_search_path  by default the caller's, since a default is evaluated before this function's own path is set
-- returns        {look: true} if a claim has to look first, else {sessions, done, failed, pending, took_ms}
create function public.backfill_bulk(
  p_run_id uuid, p_worker text, p_sessions integer, p_budget_ms integer default 4000,
  p_search_path text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_began timestamptz := backfill_private.clock();
  v_batch jsonb := backfill_private.bulk_begin(p_run_id, p_sessions);
  v_part jsonb;
  v_is_well boolean;
  v_answered integer[] := array[]::integer[];
  v_outcomes jsonb := '[]'::jsonb;
begin
  if v_batch ? 'look' then
    return v_batch;
  end if;
  perform set_config('request.headers',
    (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb
      || jsonb_build_object('x-backfill-run', p_run_id))::text,
    true);
  for v_part in
    select jsonb_agg(s.session order by s.place)
    from jsonb_array_elements(v_batch -> 'sessions') with ordinality as s (session, place)
    group by (s.place - 1) / 50
    order by min(s.place)
  loop
    exit when extract(epoch from backfill_private.clock() - v_began) * 1000 >= p_budget_ms;
    v_is_well := backfill_private.bulk_some(p_run_id, v_batch, v_part, p_search_path);
    exit when not v_is_well;
    v_answered := v_answered || array(select (s ->> 'ordinal')::integer from jsonb_array_elements(v_part) as s);
  end loop;
  if not v_is_well then
    for v_part in select s from jsonb_array_elements(v_part) as s loop
      exit when extract(epoch from backfill_private.clock() - v_began) * 1000 >= p_budget_ms;
      v_outcomes := v_outcomes || backfill_private.bulk_one(p_run_id, v_batch, v_part, p_search_path);
    end loop;
  end if;
  return backfill_private.bulk_settle(p_run_id, (v_batch ->> 'claim')::uuid, p_worker, v_answered, v_outcomes, v_began)
    || jsonb_build_object(
      'sessions', cardinality(v_answered) + jsonb_array_length(v_outcomes),
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

create function public.backfill_confirm_undo(
  p_run_id uuid, p_digest text, p_reason text, p_sessions integer default 200, p_scope jsonb default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.confirm_undo(p_run_id, p_digest, p_reason, p_sessions, p_scope)
$$;

comment on function public.backfill_confirm_undo(uuid, text, text, integer, jsonb) is
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

-- from sql/95_face/progress.sql
-- Views about runs, for people to look at during a run and afterwards.

create view public.backfill_run_progress with (security_invoker = true) as
select
  r.run_id,
  r.state,
  coalesce(c.total, 0) as total,
  coalesce(c.done, 0) as done,
  coalesce(c.failed, 0) as failed,
  coalesce(c.pending, 0) as pending,
  coalesce(c.leased, 0) as leased,
  coalesce(c.skipped, 0) as skipped,
  coalesce(c.rolled_back, 0) as rolled_back,
  round(coalesce(c.lately * 60.0 / w.watched_s, 0), 1) as rate_per_minute,
  case when r.state in ('approved', 'running') and c.total > 0 then
    round(greatest(
      p.batches_left * p.spacing_s
        + coalesce(greatest(extract(epoch from r.next_batch_at - backfill_private.clock()), 0), 0),
      case when p.lags and c.lately > 0 then (c.pending + c.leased) * w.watched_s / c.lately else 0 end))::integer
  end as eta_s,
  case
    when r.state = 'paused' then
      format('paused by %s: %s', coalesce(r.held_by, 'the database'), coalesce(r.reason, 'no reason given'))
    when r.state = 'awaiting_approval' then 'waits for an approval of digest ' || r.digest
    when r.state = 'approved' then 'waits for backfill apply ' || r.run_id
    when r.state <> 'running' then null
    when c.pending = 0 and c.leased > 0 then 'the last sessions: ' || backfill_private.lease_holders(r.run_id)
    when r.back_off_until > backfill_private.clock() then
      format('back-off until %s UTC after %s',
        to_char(r.back_off_until at time zone 'UTC', 'HH24:MI:SS'), r.back_off_reason)
    when r.canary is null and c.canary_open > 0 and c.pending_priority = 0 then
      'canary: ' || coalesce(backfill_private.lease_holders(r.run_id), 'its sessions are about to be judged')
    when r.next_batch_at > backfill_private.clock() then
      'throttle: the next batch starts at ' || to_char(r.next_batch_at at time zone 'UTC', 'HH24:MI:SS') || ' UTC'
    when c.pending > 0 and c.next_try > backfill_private.clock() then
      format('back-off: the next session is tried again at %s UTC after %s',
        to_char(c.next_try at time zone 'UTC', 'HH24:MI:SS'), c.tried_after)
    when c.leased = 0 then
      coalesce(
        'lease: ' || backfill_private.lease_holders(r.run_id),
        'for a worker to ask for the next batch. If none is alive: backfill apply ' || r.run_id)
  end as waits_for,
  r.reason,
  r.environment,
  r.approved_by,
  r.approved_until,
  r.created_at,
  r.started_at,
  r.finished_at,
  case when r.state in ('running', 'paused') and c.pending > 0 then r.next_batch_at end as next_batch_at,
  r.audit_count,
  r.audit_head
from public.backfill_runs as r
left join (
  select
    i.run_id,
    count(*) as total,
    count(*) filter (where i.state = 'pending') as pending,
    count(*) filter (where i.state = 'leased') as leased,
    count(*) filter (where i.state = 'done') as done,
    count(*) filter (where i.state = 'failed') as failed,
    count(*) filter (where i.state = 'skipped') as skipped,
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
  select least(60.0, greatest(extract(epoch from backfill_private.clock() - r.resumed_at), 1.0)) as watched_s
) as w
-- While batches start as the throttle allows, the throttle gives the time left. If the run lags behind, its rate does.
cross join lateral (
  select
    backfill_private.batch_spacing_s(r.request) as spacing_s,
    greatest(ceil(c.pending / (r.request ->> 'batch_size')::numeric) - 1, 0) as batches_left,
    coalesce(r.next_batch_at + make_interval(secs => backfill_private.batch_spacing_s(r.request)::double precision)
      < backfill_private.clock(), false) or r.request ->> 'throttle_per_minute' is null as lags
) as p;

comment on view public.backfill_run_progress is 'Where each run stands: counts, rate, time left, and why it waits.';
comment on column public.backfill_run_progress.run_id is 'The run.';
comment on column public.backfill_run_progress.state is 'Where it stands.';
comment on column public.backfill_run_progress.total is 'Sessions in the plan.';
comment on column public.backfill_run_progress.done is 'Sessions with every planned row.';
comment on column public.backfill_run_progress.failed is 'Sessions that failed. backfill_run_failures says why.';
comment on column public.backfill_run_progress.pending is 'Sessions that wait.';
comment on column public.backfill_run_progress.leased is 'Sessions that a worker holds.';
comment on column public.backfill_run_progress.skipped is 'Sessions that somebody else had filled first.';
comment on column public.backfill_run_progress.rolled_back is 'Sessions whose rows were undone.';
comment on column public.backfill_run_progress.rate_per_minute is
  'Sessions settled per minute, over the last 60 seconds or since the run was started or resumed.';
comment on column public.backfill_run_progress.eta_s is
  'Seconds until the last batch starts: from the throttle, or from the rate if the run lags behind the throttle.';
comment on column public.backfill_run_progress.waits_for is
  'Why nothing happens right now. Null while sessions are being scored.';
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

alter table backfill_private.starts enable row level security;
create policy "the owner alone" on backfill_private.starts for select to service_role using (false);

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

alter table public.backfill_receipts enable row level security;
create policy "everybody with a backfill role reads receipts" on public.backfill_receipts
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads receipts" on public.backfill_receipts
  for select to service_role using (true);

alter table backfill_private.undos enable row level security;
create policy "the owner alone" on backfill_private.undos for select to service_role using (false);

alter table backfill_private.rehearsals enable row level security;
create policy "the owner alone" on backfill_private.rehearsals for select to service_role using (false);

alter table backfill_private.rehearsal_rows enable row level security;
create policy "the owner alone" on backfill_private.rehearsal_rows for select to service_role using (false);

alter table backfill_private.looks enable row level security;
create policy "the owner alone" on backfill_private.looks for select to service_role using (false);

alter table backfill_private.unnoted enable row level security;
create policy "the owner alone" on backfill_private.unnoted for select to service_role using (false);

alter table backfill_private.bulk_claims enable row level security;
create policy "the owner alone" on backfill_private.bulk_claims for select to service_role using (false);

-- from sql/99_access/rights.sql
-- Rights: everything is revoked, then granted by name. Row level security is in policies.sql.

-- The private schema. Only the owner may call its functions, unless they are granted below.
revoke all on schema backfill_private from public, anon, authenticated, service_role;
revoke all on all functions in schema backfill_private from public, anon, authenticated, service_role;
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
  public.backfill_receipts,
  public.backfill_run_progress,
  public.backfill_run_failures
from public, anon, authenticated, service_role;
revoke all on sequence
  public.backfill_approvals_approval_id_seq,
  public.backfill_receipts_receipt_id_seq
from public, anon, authenticated, service_role;

-- The doors.
revoke all on function
  public.backfill_check(),
  public.backfill_coverage(text, text),
  public.backfill_open(jsonb, text, uuid),
  public.backfill_collect(uuid),
  public.backfill_rehearsal(uuid),
  public.backfill_rehearse(uuid, text, text),
  public.backfill_seal(uuid, numeric),
  public.backfill_plan_sessions(uuid, integer, integer),
  public.backfill_freshness(uuid),
  public.backfill_find_runs(text),
  public.backfill_approve(uuid, text, text, text),
  public.backfill_reject(uuid, text, text),
  public.backfill_start(uuid, text),
  public.backfill_pause(uuid, text),
  public.backfill_resume(uuid),
  public.backfill_cancel(uuid, text),
  public.backfill_retry(uuid),
  public.backfill_claim(uuid, uuid, text),
  public.backfill_claim_apart(uuid, uuid, text),
  public.backfill_bulk(uuid, text, integer, integer, text),
  public.backfill_renew(uuid, uuid),
  public.backfill_settle(uuid, uuid, jsonb),
  public.backfill_verify_part(uuid, jsonb, integer),
  public.backfill_written(uuid, integer, integer),
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb),
  public.backfill_prune(uuid)
from public, anon, authenticated, service_role;

-- Everything here is read under row level security.
grant select on
  public.backfill_settings,
  public.backfill_targets,
  public.backfill_runs,
  public.backfill_transitions,
  public.backfill_events,
  public.backfill_approvals,
  public.backfill_run_progress,
  public.backfill_run_failures
to authenticated, service_role;

-- All columns but the fence's hash, which only the gate needs.
grant select (run_id, ordinal, source, session_id, session_at, components, category, phase, batch, state, attempts,
  crowded_out, unknown_outcomes, not_before, started_at, settled_at, failed_step, error_code, error_message, filled,
  worker, claim_id, lease_kind, lease_until) on public.backfill_items to authenticated, service_role;

-- What a decision says. Its trigger decides whether it counts.
grant insert (run_id, digest, decision, approver, note) on public.backfill_approvals to authenticated, service_role;

-- All columns but the row before, which only undo needs.
grant select (receipt_id, run_id, ordinal, session_id, component, kind, operation, table_name, row_key, before_hash,
  after_hash, attempt, is_inferred, at, undone_at) on public.backfill_receipts to authenticated, service_role;

grant select on backfill_private.faults to service_role;

-- Doors of the service and of users with a backfill role. The function checks the role.
grant execute on function
  public.backfill_check(),
  public.backfill_open(jsonb, text, uuid),
  public.backfill_collect(uuid),
  public.backfill_seal(uuid, numeric),
  public.backfill_plan_sessions(uuid, integer, integer),
  public.backfill_freshness(uuid),
  public.backfill_find_runs(text),
  public.backfill_approve(uuid, text, text, text),
  public.backfill_reject(uuid, text, text),
  public.backfill_pause(uuid, text),
  public.backfill_resume(uuid),
  public.backfill_cancel(uuid, text),
  public.backfill_verify_part(uuid, jsonb, integer),
  public.backfill_written(uuid, integer, integer)
to authenticated, service_role;

-- Doors of the service only.
grant execute on function
  public.backfill_coverage(text, text),
  public.backfill_rehearsal(uuid),
  public.backfill_rehearse(uuid, text, text),
  public.backfill_start(uuid, text),
  public.backfill_retry(uuid),
  public.backfill_claim(uuid, uuid, text),
  public.backfill_claim_apart(uuid, uuid, text),
  public.backfill_bulk(uuid, text, integer, integer, text),
  public.backfill_renew(uuid, uuid),
  public.backfill_settle(uuid, uuid, jsonb),
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb),
  public.backfill_prune(uuid)
to service_role;

-- What the doors of users, their policies and their views call.
grant execute on function
  backfill_private.batch_spacing_s(jsonb),
  backfill_private.check_project(),
  backfill_private.clock(),
  backfill_private.collect_window(uuid),
  backfill_private.freshness(uuid),
  backfill_private.halt(text, uuid, text),
  backfill_private.lease_holders(uuid),
  backfill_private.may(text),
  backfill_private.open_run(jsonb, text, uuid),
  backfill_private.resume(uuid),
  backfill_private.seal(uuid, numeric),
  backfill_private.verify_part(uuid, jsonb, integer)
to authenticated, service_role;

-- What the doors of the service call.
grant execute on function
  backfill_private.bulk_begin(uuid, integer),
  backfill_private.bulk_keep(uuid, uuid, jsonb, text[], text),
  backfill_private.bulk_one(uuid, jsonb, jsonb, text),
  backfill_private.bulk_outcome(text),
  backfill_private.bulk_settle(uuid, uuid, text, integer[], jsonb, timestamptz),
  backfill_private.bulk_some(uuid, jsonb, jsonb, text),
  backfill_private.claim(uuid, uuid, text),
  backfill_private.claim_apart(uuid, uuid, text),
  backfill_private.confirm_undo(uuid, text, text, integer, jsonb),
  backfill_private.coverage_of(text, text),
  backfill_private.fault(text),
  backfill_private.keep_rehearsal(uuid, text, jsonb),
  backfill_private.keys_hold(text),
  backfill_private.kept_message(text, text),
  backfill_private.parameter(text, text),
  backfill_private.preview_undo(uuid, text[], text, text, integer, bigint),
  backfill_private.prune(uuid),
  backfill_private.rehearsal_lease(uuid, text),
  backfill_private.rehearsal_sample(uuid),
  backfill_private.rehearse_pass(jsonb, text),
  backfill_private.renew(uuid, uuid),
  backfill_private.retry(uuid),
  backfill_private.seen_first(uuid, jsonb),
  backfill_private.seen_second(uuid),
  backfill_private.seen_undone(uuid),
  backfill_private.settle(uuid, uuid, jsonb),
  backfill_private.spelled(oid, text),
  backfill_private.start(uuid, text)
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
create trigger backfill_receipts_no_truncate before truncate on public.backfill_receipts
  for each statement execute function backfill_private.guard_truncate();

reset check_function_bodies;
notify pgrst, 'reload schema';
