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
