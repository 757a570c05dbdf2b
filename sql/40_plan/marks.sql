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
