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
