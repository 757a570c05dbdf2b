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
