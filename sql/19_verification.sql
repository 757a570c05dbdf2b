-- Verification: planned against present, every figure counted from the tables.

-- Where each planned row stands, for one component.
--
-- returns  one row a planned session: bucket as_planned, missing, filled_elsewhere or changed_since; is_wanted: a row of
--          the wanted version is there; is_lost: we wrote it and it is gone; operation: how we wrote it
create function backfill_private.standing(p_run_id uuid, p_component text)
returns table (ordinal integer, session_id text, item_state text, phase text, bucket text,
  is_wanted boolean, is_lost boolean, operation text)
language plpgsql
stable
set search_path = ''
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
       select r.ordinal, (array_agg(r.operation order by r.receipt_id))[1] as operation,
         (array_agg(r.after_hash order by r.receipt_id desc))[1] as after_hash
       from public.backfill_receipts as r
       where r.run_id = $1 and r.component = %1$L and r.kind = ''score'' and r.undone_at is null
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
     left join lateral (select backfill_private.row_hash(to_jsonb(t.*)) as hash from %2$s as t where %4$s limit 1)
       as wanted on true
     cross join lateral (select exists (select from %2$s as t where %3$s) as is_there) as present
     where item.run_id = $1 and item.state <> ''rolled_back'' and %1$L = any (item.components)',
    p_component, v_target.table_name::regclass,
    backfill_private.row_condition(v_target, v_run.request, false),
    backfill_private.row_condition(v_target, v_run.request, true))
  using p_run_id;
end
$$;

-- Rows that came since the plan was sealed and that nobody planned: of planned sessions, rows that are not what counts
-- as present (another version, another kind); of other sessions any row, unless the session has changed itself since:
-- that is live traffic. Told by the rows' transaction ids against the snapshot kept at sealing;
-- rows that any run has a receipt for are not strangers.
create function backfill_private.strangers(p_run_id uuid, p_component text)
returns table (session_id text, row_key jsonb, of_other_version boolean)
language plpgsql
stable
set search_path = ''
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
    'select t.%2$I::text, backfill_private.row_key(to_jsonb(t.*), %3$L), t.%4$I is distinct from %5$L
     from %1$s as t
     join %6$s as s on s.%7$I = t.%2$I
     left join public.backfill_items as item
       on item.run_id = $1 and item.session_id = t.%2$I::text and item.state <> ''rolled_back''
     cross join lateral (
       select count(*) filter (where r.run_id = $1 and r.kind = ''score'' and r.undone_at is null) as ours, count(*) as all
       from public.backfill_receipts as r
       where r.session_id = t.%2$I::text and r.table_name = %8$L
         and r.row_key = backfill_private.row_key(to_jsonb(t.*), %3$L)) as receipts
     where backfill_private.came_after(t.xmin, $2)
       and case
         when receipts.ours > 0 then item.ordinal is not null and %9$L <> all (item.components)
         when receipts.all > 0 then false
         when item.ordinal is not null then not (%10$s)
         else not backfill_private.came_after(s.xmin, $2) end',
    v_target.table_name::regclass, v_target.session_column, v_target.key_columns, v_target.version_column,
    v_run.request ->> v_target.version_parameter, v_source.source_table::regclass, v_source.key_column,
    v_target.table_name, p_component, backfill_private.row_condition(v_target, v_run.request, false))
  using p_run_id, v_run.sealed_snapshot::pg_snapshot;
end
$$;

-- Was a row written by a transaction that this snapshot did not see? p_xmin is the row's, 32 bits; the snapshot
-- gives the epoch.
create function backfill_private.came_after(p_xmin xid, p_snapshot pg_snapshot)
returns boolean
language sql
immutable
set search_path = ''
as $$
  select case
    when x.delta >= 2147483648 then false
    else not pg_visible_in_snapshot((x.least + x.delta)::text::xid8, p_snapshot) end
  from (
    select l.least, mod(p_xmin::text::bigint - mod(l.least, 4294967296) + 4294967296, 4294967296) as delta
    from (select pg_snapshot_xmin(p_snapshot)::text::bigint as least) as l
  ) as x
$$;

-- One criterion: expected against actual.
create function backfill_private.criterion(p_name text, p_expected bigint, p_actual bigint, p_more jsonb default '{}')
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select jsonb_build_object('name', p_name, 'expected', p_expected, 'actual', p_actual,
    'status', case when p_expected = p_actual then 'pass' else 'fail' end) || p_more
$$;

-- The criteria, buckets and figures of one component.
create function backfill_private.verify_component(p_run_id uuid, p_target public.backfill_targets)
returns jsonb
language sql
stable
set search_path = ''
as $$
  with stands as (
    select * from backfill_private.standing(p_run_id, p_target.component)
  ), foreigners as (
    select * from backfill_private.strangers(p_run_id, p_target.component)
  ), named as (
    select backfill_private.bare_name(p_target.table_name) as tab
  )
  select jsonb_build_object(
    'criteria', jsonb_build_array(
      backfill_private.criterion(n.tab || '_rows',
        (select count(*) from stands), (select count(*) from stands as s where s.is_wanted),
        jsonb_build_object(
          'inserted', (select count(*) from stands as s where s.is_wanted and s.operation = 'insert'),
          'updated', (select count(*) from stands as s where s.is_wanted and s.operation = 'update'))),
      backfill_private.criterion(n.tab || '_version',
        (select count(*) from stands as s where s.operation is not null),
        (select count(*) from stands as s where s.operation is not null and s.is_wanted)))
      || case when p_target.version_column = any (p_target.key_columns) then jsonb_build_array(
        backfill_private.criterion(n.tab || '_no_legacy_versions', 0,
          (select count(*) from foreigners as f where f.of_other_version))) else '[]' end,
    'buckets', (
      select jsonb_object_agg(b.bucket, (
        select coalesce(jsonb_agg(jsonb_build_object('session_id', s.session_id, 'component', p_target.component)
          order by s.ordinal), '[]')
        from stands as s where s.bucket = b.bucket))
      from unnest(array['as_planned', 'missing', 'filled_elsewhere', 'changed_since']) as b (bucket))
      || jsonb_build_object('extra', (
        select coalesce(jsonb_agg(jsonb_build_object('session_id', f.session_id, 'component', p_target.component,
          'row', f.row_key) order by f.session_id, f.row_key::text), '[]') from foreigners as f)),
    'lost', (select coalesce(jsonb_agg(s.session_id), '[]') from stands as s where s.is_lost),
    'unexplained', (select count(*) from stands as s where not s.is_wanted and s.item_state <> 'failed'),
    'missing', (select count(*) from stands as s where not s.is_wanted),
    'priority_incomplete', (select coalesce(jsonb_agg(s.session_id), '[]')
      from stands as s where s.phase = 'priority' and not s.is_wanted))
  from named as n
$$;

-- What is critical about a run, by name.
create function backfill_private.critical_errors(p_run_id uuid, p_components jsonb)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(c.what), '[]') from (
    select format('%s: a written row is gone', lost.id) as what
    from jsonb_array_elements(p_components) as x cross join jsonb_array_elements_text(x -> 'lost') as lost (id)
    union all
    select format('%s: %s', f ->> 0, f ->> 1)
    from public.backfill_events as e cross join jsonb_array_elements(e.details -> 'sessions') as f
    where e.run_id = p_run_id and e.kind = 'critical'
    union all
    select format('audit event %s: %s', f.seq, f.fault) from backfill_private.chain_faults(p_run_id) as f
    union all
    select format('audit event %s: %s', f.seq, f.fault) from backfill_private.receipt_faults(p_run_id) as f
  ) as c
$$;

-- Sessions that a plan like this would name now and this one does not: candidates by the run's own request, in its range.
-- Named for whoever plans again; no run is ever widened by them.
--
-- returns  {new_candidates: [session id], the newest first, at most 1,000; new_candidates_total}
create function backfill_private.new_candidates(p_run public.backfill_runs)
returns jsonb
language plpgsql
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  v_found jsonb;
begin
  perform set_config('backfill.request', p_run.request::text, true);
  -- Materialized, so that answers are counted for what is left after the join, not for every planned session.
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

-- Verify a run against the tables.
--
-- returns  {run_id, verdict, criteria, buckets, critical, audit, new_candidates, new_candidates_total}
--          pass: every planned row is there; partial: each missing one belongs to a session recorded as failed and
--          nothing is critical; fail: everything else
-- raises   OB001 no such run, OB010 not allowed
create function backfill_private.verify(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
  v_components jsonb;
  v_critical jsonb;
  v_criteria jsonb;
  v_buckets jsonb;
begin
  perform backfill_private.authorize('read');
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if v_run.sealed_at is null then
    perform backfill_private.refuse('OB001', format('there is no sealed run %s', p_run_id), 'backfill runs');
  end if;
  select jsonb_agg(backfill_private.verify_component(p_run_id, t) order by t.position) into v_components
  from public.backfill_targets as t where t.target = v_run.target;
  v_critical := backfill_private.critical_errors(p_run_id, v_components);
  select jsonb_agg(c.criterion) into v_criteria
  from jsonb_array_elements(v_components) as x cross join jsonb_array_elements(x -> 'criteria') as c (criterion);
  v_criteria := v_criteria || backfill_private.run_criteria(p_run_id, v_components, v_critical);
  select jsonb_object_agg(b.name, b.rows) into v_buckets from (
    select k.key as name, jsonb_agg(r.r) filter (where r.r is not null) as rows
    from jsonb_array_elements(v_components) as x
    cross join jsonb_each(x -> 'buckets') as k
    left join lateral jsonb_array_elements(k.value) as r (r) on true
    group by k.key) as b;
  return jsonb_build_object('run_id', p_run_id, 'state', v_run.state,
    'verdict', backfill_private.verdict(v_components, v_criteria, v_critical, v_buckets),
    'criteria', v_criteria, 'critical', v_critical,
    'buckets', (select jsonb_object_agg(key, coalesce(nullif(value, 'null'), '[]')) from jsonb_each(v_buckets)),
    'inferred', (select count(*) from public.backfill_receipts as r
      where r.run_id = p_run_id and r.is_inferred and r.undone_at is null),
    'audit', jsonb_build_object('count', v_run.audit_count, 'head', v_run.audit_head))
    || backfill_private.new_candidates(v_run);
end
$$;

-- The criteria that look at the whole run.
create function backfill_private.run_criteria(p_run_id uuid, p_components jsonb, p_critical jsonb)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_array(
    backfill_private.criterion('priority_complete', count(*) filter (where i.phase = 'priority' and i.state <> 'rolled_back'),
      count(*) filter (where i.phase = 'priority' and i.state <> 'rolled_back' and not exists (
        select from jsonb_array_elements(p_components) as x where x -> 'priority_incomplete' ? i.session_id))),
    backfill_private.criterion('critical_errors', 0, jsonb_array_length(p_critical)),
    backfill_private.criterion('failed_sessions', 0, count(*) filter (where i.state = 'failed')),
    backfill_private.criterion('audit_complete',
      (select r.audit_count from public.backfill_runs as r where r.run_id = p_run_id),
      -- whole up to the first fault; without one, as many as there are
      (select coalesce(min(f.seq) - 1, (select count(*) from public.backfill_events as e where e.run_id = p_run_id))
       from backfill_private.chain_faults(p_run_id) as f)))
  from public.backfill_items as i
  where i.run_id = p_run_id
$$;

-- pass, partial or fail.
create function backfill_private.verdict(p_components jsonb, p_criteria jsonb, p_critical jsonb, p_buckets jsonb)
returns text
language sql
immutable
set search_path = ''
as $$
  select case
    when jsonb_array_length(p_critical) > 0
      or coalesce(jsonb_array_length(nullif(p_buckets -> 'extra', 'null')), 0) > 0
      or (select sum((x ->> 'unexplained')::integer) from jsonb_array_elements(p_components) as x) > 0 then 'fail'
    when exists (select from jsonb_array_elements(p_criteria) as c where c ->> 'status' <> 'pass') then 'partial'
    else 'pass' end
$$;

revoke all on function
  backfill_private.standing(uuid, text),
  backfill_private.strangers(uuid, text),
  backfill_private.came_after(xid, pg_snapshot),
  backfill_private.criterion(text, bigint, bigint, jsonb),
  backfill_private.verify_component(uuid, public.backfill_targets),
  backfill_private.critical_errors(uuid, jsonb),
  backfill_private.new_candidates(public.backfill_runs),
  backfill_private.verify(uuid),
  backfill_private.run_criteria(uuid, jsonb, jsonb),
  backfill_private.verdict(jsonb, jsonb, jsonb, jsonb)
from public;
grant execute on function backfill_private.verify(uuid) to authenticated, service_role;

create function public.backfill_verify(p_run_id uuid)
returns jsonb
language sql
set search_path = ''
set statement_timeout = '55s'
as $$
  select backfill_private.verify(p_run_id)
$$;

revoke all on function public.backfill_verify(uuid) from public, anon, authenticated, service_role;
grant execute on function public.backfill_verify(uuid) to authenticated, service_role;

comment on function public.backfill_verify(uuid) is
  'What stands in the tables against what a run had planned.';
