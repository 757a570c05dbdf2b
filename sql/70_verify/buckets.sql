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
