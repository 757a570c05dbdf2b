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
