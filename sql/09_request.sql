-- Request: the parameters of a plan, checked and normalised before anything is collected.

-- The first moment that a since includes. A date is the start of its UTC day.
--
-- raises  OB013 the text is no date and no timestamp
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
  -- Planning walks from one to the other, window by window: it would never leave an infinity.
  if v_moment not between '0001-01-01' and '9999-12-31' then
    raise datetime_field_overflow;
  end if;
  return v_moment;
exception
  when invalid_datetime_format or datetime_field_overflow or invalid_parameter_value or invalid_time_zone_displacement_value then
  perform backfill_private.refuse('OB013', format('%s is no date: %s', p_name, left(p_text, 40)),
    'give a day such as 2025-08-01, or a timestamp with an offset');
  return null;
end
$$;

-- The first moment after what an until includes: the next UTC day for a date, a microsecond later for a timestamp.
create function backfill_private.until_bound(p_name text, p_text text)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.since_bound(p_name, p_text)
    + case when p_text ~ '^\s*\d{4}-\d{2}-\d{2}\s*$' then interval '1 day' else interval '1 microsecond' end
$$;

-- A whole number out of a request, within bounds; null where absent.
--
-- raises  OB013 no whole number, or out of bounds
create function backfill_private.whole_number(p_request jsonb, p_name text, p_least integer)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := p_request ->> p_name;
begin
  if v_text is null then
    return null;
  end if;
  if v_text !~ '^-?\d{1,9}$' or v_text::integer < p_least then
    perform backfill_private.refuse('OB013',
      format('%s is a whole number from %s to 999999999, not %s', p_name, p_least,
        case when length(v_text) > 40 then left(v_text, 20) || '…' else v_text end),
      format('backfill plan … %s', case p_name when 'throttle_per_minute' then '--throttle 20'
        when 'batch_size' then '--batch-size 5' else format('with a %s of 1', p_name) end));
  end if;
  return v_text::integer;
end
$$;

-- The ids that a list of ids and prefixes of ids names, in the order given.
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
    execute format('select array_agg(id) from (select s.%1$I::text as id from %2$s as s
        where starts_with(s.%1$I::text, $1) order by s.%1$I::text limit 3) as found',
      v_source.key_column, v_source.source_table::regclass) into v_found
    using case when backfill_private.column_type(v_source.source_table, v_source.key_column) = 'uuid' then lower(btrim(v_given))
      else btrim(v_given) end;
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

-- Refuse a throttle or a batch size that this project does not allow.
--
-- raises  OB013 a bound is broken; the message names it
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
    perform backfill_private.refuse('OB013', format('a throttle of none is not allowed here, at most %s a minute', v_most),
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

-- Refuse a plan for another environment than this one.
--
-- returns  the environment of the plan; null where neither the request nor the settings name one
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
    perform backfill_private.refuse('OB008', format('this project is %s, not %s', v_here, left(p_wanted, 80)),
      format('backfill plan … --environment %s, or connect to the project that is meant', v_here));
  end if;
  return coalesce(v_here, lower(p_wanted));
end
$$;

-- The target meant: the one named, or the only one there is.
--
-- raises  OB013 unknown, or several and none named
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
    case when p_name is null then 'several targets are installed' else format('no target is named %s', left(p_name, 80)) end,
    format('backfill plan … --target one of: %s', coalesce(array_to_string(v_known, ', '), 'none is installed')));
  return null;
end
$$;

-- The wanted versions of a request: --want component=version or the named parameters, else the target's.
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
  select w.key into v_unknown from jsonb_each_text(coalesce(p_request -> 'want', '{}')) as w
  where not exists (select from public.backfill_targets as t where t.target = p_target and t.component = w.key);
  if found then
    perform backfill_private.refuse('OB013', format('target %s has no component %s', p_target, left(v_unknown, 80)),
      format('backfill plan … --want COMPONENT=V with one of: %s',
        (select string_agg(t.component, ', ' order by t.position) from public.backfill_targets as t where t.target = p_target)));
  end if;
  select t.component, t.version_parameter, p_request -> 'want' ->> t.component as wanted,
    p_request ->> t.version_parameter as named into v_twice
  from public.backfill_targets as t
  where t.target = p_target and p_request -> 'want' ->> t.component <> p_request ->> t.version_parameter limit 1;
  if found then
    perform backfill_private.refuse('OB013', format('two versions of %s are wanted: want says %s, %s says %s',
        v_twice.component, left(v_twice.wanted, 40), v_twice.version_parameter, left(v_twice.named, 40)),
      format('backfill plan … --want %s=V, or --%s V, not both', v_twice.component,
        replace(v_twice.version_parameter, '_', '-')));
  end if;
  return (
    select jsonb_object_agg(t.version_parameter,
      coalesce(p_request -> 'want' ->> t.component, p_request ->> t.version_parameter, t.version))
    from public.backfill_targets as t where t.target = p_target
  );
end
$$;

-- What a request sets instead of its target's defaults: numbers where the default is one, else names.
--
-- raises  OB013 of another kind
create function backfill_private.given_defaults(p_defaults jsonb, p_request jsonb)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_object_agg(d.key, case
      when jsonb_typeof(d.value) = 'number' then to_jsonb(backfill_private.whole_number(p_request, d.key, 0))
      else p_request -> d.key end), '{}')
  from jsonb_each(p_defaults) as d where p_request ->> d.key is not null
$$;

-- A request with the parameters of its target that stand under `parameters`; what it names itself comes before those.
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
    select n from jsonb_object_keys(coalesce(nullif(p_request -> 'parameters', 'null'), '{}')) as n where n <> all (v_known) limit 1);
begin
  if v_unknown is not null then
    perform backfill_private.refuse('OB013', format('target %s has no parameter %s', p_target, left(v_unknown, 80)),
      format('backfill plan … --set NAME=VALUE with one of: %s', array_to_string(v_known, ', ')));
  end if;
  return coalesce(nullif(p_request -> 'parameters', 'null'), '{}') || jsonb_strip_nulls(p_request);
end
$$;

-- Refuse names that name nothing: versions and kinds that are empty or longer than any of a row's.
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
  from jsonb_each_text(p_names) as n where btrim(n.value) = '' or length(n.value) > 200 limit 1;
  if found then
    perform backfill_private.refuse('OB013', case when v_name.is_empty then format('%s is empty', v_name.key)
      else format('%s is longer than 200 characters: %s…', v_name.key, left(v_name.value, 40)) end,
      'leave it out, or give a value');
  end if;
end
$$;

-- Refuse a request that has not the form of one: an object; priority a list of at most 100 texts, want versions by
-- component, parameters values by name, all else single values.
--
-- raises  OB013 the first that has another
create function backfill_private.check_form(p_request jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text;
begin
  if jsonb_typeof(p_request) is distinct from 'object' then
    perform backfill_private.refuse('OB013', 'a request is an object of parameters by name', 'backfill plan --since 2025-08-01 …');
  end if;
  select r.key into v_name
  from jsonb_each(p_request) as r
  cross join lateral (select jsonb_typeof(r.value) as kind) as t
  where t.kind <> 'null' and case r.key
    when 'priority' then t.kind <> 'array' or jsonb_path_exists(r.value, 'strict $[*] ? (@.type() != "string")')
      or jsonb_array_length(r.value) > 100
    when 'parameters' then t.kind <> 'object' or jsonb_path_exists(r.value, 'strict $.* ? (@.type() == "object" || @.type() == "array")')
    when 'want' then t.kind <> 'object' or jsonb_path_exists(r.value, 'strict $.* ? (@.type() == "object" || @.type() == "array")')
    else t.kind in ('object', 'array') end
  limit 1;
  if found then
    perform backfill_private.refuse('OB013', format('%s is %s', left(v_name, 80), case v_name
        when 'priority' then 'a list of at most 100 ids or prefixes' when 'want' then 'versions by component'
        when 'parameters' then 'values by name'
        else 'a single value' end), 'backfill plan --help');
  end if;
end
$$;

-- How a run is scored: direct, a call a step, or bulk, a call a batch inside the database.
--
-- raises  OB013 neither, or an Edge Function is among the scorers
create function backfill_private.check_mode(p_target text, p_mode text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_edge text := (select string_agg(t.function_signature, ', ') from public.backfill_targets as t
    where t.target = p_target and t.transport = 'edge');
begin
  if coalesce(p_mode, 'direct') not in ('direct', 'bulk') then
    perform backfill_private.refuse('OB013', format('mode is direct or bulk, not %s', left(p_mode, 40)), 'backfill plan … --mode bulk');
  elsif p_mode = 'bulk' and v_edge is not null then
    perform backfill_private.refuse('OB013', format('bulk calls SQL functions alone; target %s has %s', p_target, v_edge),
      'backfill plan … without --mode');
  end if;
  return coalesce(p_mode, 'direct');
end
$$;

-- A request in its normal form: every parameter present, dates as given and as bounds, priority as full ids.
--
-- raises  OB013, OB014 a parameter is not usable
create function backfill_private.normal_request(p_request jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_target text := backfill_private.check_target(p_request ->> 'target');
  v_since timestamptz := backfill_private.since_bound('since', p_request ->> 'since');
  v_until timestamptz := backfill_private.until_bound('until', p_request ->> 'until');
  v_recent timestamptz := backfill_private.since_bound('recent_since', p_request ->> 'recent_since');
  v_throttle integer := backfill_private.whole_number(p_request, 'throttle_per_minute', 1);
  -- In bulk a batch is a call, so that without a throttle small ones would cost for nothing.
  v_batch integer := coalesce(backfill_private.whole_number(p_request, 'batch_size', 1),
    case when p_request ->> 'mode' = 'bulk' and v_throttle is null then 500 else 5 end);
  v_defaults jsonb := (select defaults from backfill_private.sources where target = v_target);
  v_given jsonb := backfill_private.named_parameters(v_target, p_request);
  v_names jsonb;
begin
  if v_since is null then
    perform backfill_private.refuse('OB013', 'a plan needs a since', 'backfill plan --since 2025-08-01 …');
  elsif v_until <= v_since then
    perform backfill_private.refuse('OB013',
      format('since %s is after until %s', p_request ->> 'since', p_request ->> 'until'),
      format('backfill plan … --until with a day from %s on', left(p_request ->> 'since', 10)));
  end if;
  perform backfill_private.check_pace(v_throttle, v_batch);
  v_names := v_defaults || backfill_private.given_defaults(v_defaults, v_given)
    || backfill_private.wanted_versions(v_target, v_given);
  perform backfill_private.check_names(v_names);
  return v_names
    || jsonb_build_object(
      'target', v_target, 'mode', backfill_private.check_mode(v_target, p_request ->> 'mode'), 'inferred', backfill_private.check_inferred(v_target, p_request ->> 'inferred'),
      'since', p_request ->> 'since', 'since_at', v_since,
      'until', p_request ->> 'until', 'until_before', v_until,
      'recent_since', v_recent,
      'throttle_per_minute', v_throttle, 'batch_size', v_batch,
      'priority', to_jsonb(backfill_private.resolve_sessions(v_target,
        array(select jsonb_array_elements_text(coalesce(nullif(p_request -> 'priority', 'null'), '[]'))))));
end
$$;

revoke all on function
  backfill_private.since_bound(text, text),
  backfill_private.until_bound(text, text),
  backfill_private.whole_number(jsonb, text, integer),
  backfill_private.resolve_sessions(text, text[]),
  backfill_private.check_pace(integer, integer),
  backfill_private.check_environment(text),
  backfill_private.check_target(text),
  backfill_private.wanted_versions(text, jsonb),
  backfill_private.given_defaults(jsonb, jsonb),
  backfill_private.named_parameters(text, jsonb),
  backfill_private.check_names(jsonb),
  backfill_private.check_mode(text, text),
  backfill_private.check_form(jsonb),
  backfill_private.normal_request(jsonb)
from public;
