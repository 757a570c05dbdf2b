-- Measures: the figures and the marks of a plan, every one from a query when the plan is sealed.

-- One mark of a plan: ok, warn or fail.
create function backfill_private.mark(p_name text, p_status text, p_detail text)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('name', p_name, 'status', p_status, 'detail', p_detail)
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

-- The calls of a plan in their order: {component, function, arguments: [[name, value; null: the session's id]], table,
-- version_column, version, keeps_versions}.
create function backfill_private.plan_steps(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(jsonb_build_object(
      'component', t.component,
      'function', f.name,
      'transport', t.transport,
      'arguments', (
        select jsonb_agg(jsonb_build_array(a.key, case when a.value <> 'session_id' then r.request -> a.value end)
          order by array_position(p.proargnames, a.key), a.key)
        from jsonb_each_text(t.arguments) as a),
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
    select c.position, c.missing, f.name as function_name, backfill_private.bare_name(c.table_name) as table_name, c.component
    from components as c
    join backfill_private.scoring_functions(c.target) as f on f.component = c.component
  )
  select jsonb_build_object(
    'candidates', jsonb_build_object(
      'total', (select count(*) from items),
      'missing', (select jsonb_object_agg(n.component, n.missing) from names as n),
      'missing_all', (select count(*) from items as i
                      where cardinality(i.components) = (select count(*) from components))),
    'categories', (select jsonb_object_agg(c.category, (select count(*) from items as i where i.category = c.category))
                   from backfill_private.categories((select target from public.backfill_runs where run_id = p_run_id)) as c),
    'phases', (select jsonb_object_agg(p.phase, (select count(*) from items as i where i.phase = p.phase))
               from unnest(array['priority', 'recent', 'historical']) as p (phase)),
    'expected_calls', (select jsonb_object_agg(n.function_name, n.missing) from names as n)
      || jsonb_build_object('total', (select sum(n.missing) from names as n)),
    'expected_writes', (select jsonb_object_agg(n.table_name, n.missing) from names as n)
      || jsonb_build_object('total', (select sum(n.missing) from names as n)),
    'steps', backfill_private.plan_steps(p_run_id),
    'batches', (select max(i.batch) from items as i),
    'oldest', (select min(i.session_at) from items as i),
    'newest', (select max(i.session_at) from items as i))
$$;

-- Marks on the functions: signature, argument names, right of service_role to call. Of an Edge Function nothing is here
-- to be measured, and the mark says so.
create function backfill_private.function_marks(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(case t.transport when 'edge' then 'Edge Function ' else 'function ' end || f.name,
    case when t.transport = 'edge' then 'warn'
      when p.oid is null or not named.fits or not callable.by_service then 'fail' else 'ok' end,
    case
      when t.transport = 'edge' then format('version %s, as declared: not measured, the database does not hold it', t.function_version)
      when p.oid is null then format('%s does not exist', t.function_signature)
      when not named.fits then format('the arguments are %s, the calls name %s', p.proargnames, named.wanted)
      when not callable.by_service then 'service_role may not execute it'
      else format('%s exists, service_role may execute it', p.oid::regprocedure) end)
  from public.backfill_targets as t
  join backfill_private.scoring_functions(t.target) as f on f.component = t.component
  left join pg_proc as p on p.oid = f.oid
  cross join lateral (
    select coalesce(array_agg(a.key order by a.key) <@ p.proargnames, false) as fits,
      array_agg(a.key order by a.key) as wanted
    from jsonb_object_keys(t.arguments) as a (key)
  ) as named
  cross join lateral (
    select coalesce(has_function_privilege('service_role', p.oid, 'execute'), false) as by_service
  ) as callable
  where t.target = p_target
  order by t.position
$$;

-- The relations of a target table on which a receipt trigger is missing, is not ours or is not always enabled: the
-- table itself, and its partitions. PostgreSQL clones the triggers of rows to a new partition, but not the guard
-- against truncate, and a truncate of one partition runs no trigger of its parents.
--
-- returns  the names, the table first; empty where all stand
create function backfill_private.unguarded(p_table text)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with standing as (
    select g.tgrelid
    from pg_trigger as g
    where g.tgenabled = 'A' and g.tgattr::text = ''
      -- 29: after insert, update or delete, for each row; 34: before truncate.
      and (g.tgname, g.tgtype, g.tgfoid) in (
        ('backfill_receipt', 29, to_regprocedure('backfill_private.keep_receipt()')),
        ('backfill_no_truncate', 34, to_regprocedure('backfill_private.refuse_truncate()')))
      and strpos(pg_get_triggerdef(g.oid),
        $when$ WHEN ((NULLIF(current_setting('request.headers'::text, true), ''::text) ~~ '%x-backfill-%'::text)) $when$) > 0
  ), relations as (
    select p_table as name, to_regclass(p_table) as oid, 0 as level
    union all
    select part.relid::text, part.relid, part.level
    from pg_partition_tree(to_regclass(p_table)) as part where part.level > 0
  )
  select r.name from relations as r
  where (select count(*) from standing as s where s.tgrelid = r.oid) < 2
  order by r.level, r.name
$$;

-- Marks on the tables: rights of service_role, row level security, our triggers.
create function backfill_private.table_marks(p_target text)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select t.position, to_regclass(t.table_name) as oid, t.table_name as name, t.receipts = 'inferred' as infers
    from public.backfill_targets as t where t.target = p_target
  )
  select m.mark from tables as t
  cross join lateral (
    select string_agg(u.name, ', ') as names from backfill_private.unguarded(t.name) as u (name)) as bare
  cross join lateral (values
    (1, backfill_private.mark('service_role writes ' || t.name,
      case when has_table_privilege('service_role', t.oid, 'insert')
        and has_table_privilege('service_role', t.oid, 'update') then 'ok' else 'fail' end,
      format('insert %s, update %s',
        case when has_table_privilege('service_role', t.oid, 'insert') then 'granted' else 'not granted' end,
        case when has_table_privilege('service_role', t.oid, 'update') then 'granted' else 'not granted' end))),
    (2, (select backfill_private.mark('row level security of ' || t.name,
        case when not c.relrowsecurity then 'warn' when r.rolbypassrls then 'ok' else 'fail' end,
        format('%s, service_role %s',
          case when c.relrowsecurity then 'on' else 'off' end,
          case when r.rolbypassrls then 'passes it by' else 'is subject to it' end))
      from pg_class as c, pg_roles as r where c.oid = t.oid and r.rolname = 'service_role')),
    (3, backfill_private.mark('receipts of ' || t.name,
      case when bare.names is not null then 'fail' when t.infers then 'warn' else 'ok' end,
      coalesce('triggers are missing or not always enabled on ' || bare.names, case when t.infers
        then 'inferred from the rows before and after: gate, leases and receipts hold at claim and settle, not at the write'
        else 'triggers in place, always enabled' end)))
  ) as m (place, mark)
  order by t.position, m.place
$$;

-- Marks on the kinds of rows that a request names beside the versions: a kind that no row has may be a typing error.
-- A target's default needs no row: it is what its scoring functions write.
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
    select t.table_name::regclass as tab, backfill_private.bare_name(t.table_name) as name, m.key as matched,
      m.value as parameter, r.request ->> m.value as given, s.defaults ->> m.value as usual
    from public.backfill_runs as r
    join backfill_private.sources as s on s.target = r.target
    join public.backfill_targets as t on t.target = r.target
    cross join lateral jsonb_each_text(t.matches) as m
    where r.run_id = p_run_id and r.request ->> m.value is distinct from s.defaults ->> m.value
    order by t.position, m.key
  loop
    execute format('select exists (select from %s as t where t.%I::text = $1)', v_kind.tab, v_kind.matched)
      into v_found using v_kind.given;
    return next backfill_private.mark(v_kind.parameter, case when v_found then 'ok' else 'warn' end,
      case when v_found then format('%s has rows of %s %s', v_kind.name, v_kind.matched, v_kind.given)
        else format('no row of %s has %s %s, so it may be misspelt; the usual one is %s',
          v_kind.name, v_kind.matched, v_kind.given, v_kind.usual) end);
  end loop;
end
$$;

-- Marks on the project: environment, throttle, approval policy.
create function backfill_private.setting_marks(p_run_id uuid)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark('environment', case when s.environment is null then 'warn' else 'ok' end,
    coalesce('this project is ' || s.environment,
      'not set; in the SQL editor: update public.backfill_settings set environment = ''staging'' where only_row;'))
  from public.backfill_settings as s
  union all
  select backfill_private.mark('throttle', case when r.request ->> 'throttle_per_minute' is null then 'warn' else 'ok' end,
    case when r.request ->> 'throttle_per_minute' is null then 'none: the run goes as fast as the database answers'
      else format('at most %s session starts in any 60 s, batches of at most %s start %s s apart',
        r.request ->> 'throttle_per_minute', r.request ->> 'batch_size',
        trim_scale(backfill_private.batch_spacing_s(r.request))) end)
  from public.backfill_runs as r where r.run_id = p_run_id
  union all
  select backfill_private.mark('approval policy', case when s.approval_policy = 'any' then 'warn' else 'ok' end,
    s.approval_policy || case when s.approval_policy = 'any' then ': the service key may approve its own plan' else '' end)
  from public.backfill_settings as s
$$;

-- The settings of this project, as a plan keeps them to tell later what changed. {name: value}
create function backfill_private.settings_now()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select to_jsonb(s) - 'only_row' from public.backfill_settings as s
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
    'expected_runtime_s', case when v_run.request ->> 'throttle_per_minute' is not null
      then trim_scale(((v_figures ->> 'batches')::integer - 1) * v_spacing) end,
    'excluded_total', (select count(*) from backfill_private.findings where run_id = p_run_id and excluded is not null),
    'excluded', (
      select coalesce(jsonb_agg(jsonb_build_object('session_id', e.session_id, 'reason', e.excluded)
        order by e.session_at desc nulls first, e.session_id), '[]')
      from (select f.* from backfill_private.findings as f
            where f.run_id = p_run_id and f.excluded is not null
            order by f.session_at desc nulls first, f.session_id limit 1000) as e),
    'settings', backfill_private.settings_now(),
    'rehearsal', v_rehearsal,
    'blast_radius', backfill_private.blast_radius(p_run_id),
    'checks', coalesce(v_run.data_marks,
        (select coalesce(jsonb_agg(m), '[]') from backfill_private.data_marks(p_run_id) as m))
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.kind_marks(p_run_id) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.table_marks(v_run.target) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.function_marks(v_run.target) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.setting_marks(p_run_id) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.mode_marks(p_run_id, v_rehearsal) as m)
      || (select coalesce(jsonb_agg(m), '[]') from backfill_private.rehearsal_marks(p_run_id, v_rehearsal) as m));
end
$$;

revoke all on function
  backfill_private.mark(text, text, text),
  backfill_private.plan_figures(uuid),
  backfill_private.plan_steps(uuid),
  backfill_private.bare_name(text),
  backfill_private.function_marks(text),
  backfill_private.table_marks(text),
  backfill_private.unguarded(text),
  backfill_private.kind_marks(uuid),
  backfill_private.setting_marks(uuid),
  backfill_private.settings_now(),
  backfill_private.measure_plan(uuid, numeric)
from public;
