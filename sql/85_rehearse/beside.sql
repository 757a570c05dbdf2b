-- Two sessions in one transaction, as in bulk: does the second come out as if it were alone?

-- Choose a session to call first, one that lacks the same if there is any, and put it into the sample. Call it in a
-- subtransaction that is rolled back.
--
-- returns  its id. Null if there is none, if such a pair was looked at already, or if the throttle leaves no room
create function backfill_private.beside_session(p_run_id uuid, p_session_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_me backfill_private.rehearsals;
  v_other backfill_private.findings;
  v_room bigint;
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.locked_run(p_run_id, array['planning']);
  select * into strict v_me
  from backfill_private.rehearsals as s
  where s.run_id = p_run_id
    and s.session_id = p_session_id;
  select least(
    (r.request ->> 'throttle_per_minute')::bigint,
    x.max_throttle_per_minute - backfill_private.share_taken(null)) into v_room
  from public.backfill_runs as r, backfill_private.settings() as x
  where r.run_id = p_run_id;
  if exists (
    select from backfill_private.rehearsals as s
    where s.run_id = p_run_id
      and s.components = v_me.components
      and s.seen ? 'beside'
  ) or v_room < (
    select 2 * count(*) + 3 * count(distinct s.components)
    from backfill_private.rehearsals as s
    where s.run_id = p_run_id
  ) then
    return null;
  end if;
  select f.* into v_other
  from backfill_private.findings as f
  where f.run_id = p_run_id
    and f.excluded is null
    and f.session_id <> p_session_id
    and f.components && v_me.components
    and not exists (
      select from public.backfill_targets as t
      join public.backfill_runs as r on r.target = t.target
      where r.run_id = p_run_id
        and t.transport = 'edge'
        and t.component = any (f.components))
    and not exists (
      select from public.backfill_items as i
      where i.session_id = f.session_id
        and i.state = 'leased')
  order by f.components = v_me.components desc
  limit 1;
  if not found then
    return null;
  end if;
  insert into backfill_private.rehearsals (run_id, ordinal, session_id, session_at, components, category, phase)
  values (p_run_id, 0, v_other.session_id, v_other.session_at, v_other.components, v_me.category, v_me.phase)
  on conflict (run_id, session_id) do update set seen = null;
  return v_other.session_id;
end
$$;

-- The rows of a scratch run's session, a hash per column: {table: {key: {column: hash}}}.
create function backfill_private.row_hashes(p_scratch uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.scratch_target(p_scratch);
  perform backfill_private.keep_rows(p_scratch, 'first');
  return (
    select coalesce(jsonb_object_agg(t.table_name, t.by_key), '{}')
    from (
      select r.table_name, jsonb_object_agg(r.row_key::text, (
        select jsonb_object_agg(c.key, md5(c.value::text)) from jsonb_each(r.contents) as c)) as by_key
      from backfill_private.rehearsal_rows as r
      where r.scratch = p_scratch
        and r.moment = 'first'
      group by r.table_name
    ) as t
  );
end
$$;

-- The columns that differ between the rows of two calls, see backfill_private.row_hashes: [table.column].
create function backfill_private.columns_apart(p_one jsonb, p_other jsonb)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  with one as (
    select t.key as table_name, r.key as row_key, c.key as column_name, c.value
    from jsonb_each(p_one) as t
    cross join lateral jsonb_each(t.value) as r
    cross join lateral jsonb_each(r.value) as c
  ), other as (
    select t.key as table_name, r.key as row_key, c.key as column_name, c.value
    from jsonb_each(p_other) as t
    cross join lateral jsonb_each(t.value) as r
    cross join lateral jsonb_each(r.value) as c
  )
  select coalesce(jsonb_agg(distinct table_name || '.' || column_name), '[]')
  from one
  full join other using (table_name, row_key, column_name)
  where one.value is distinct from other.value
$$;

-- Score a session in a transaction of its own, or after another one, as bulk does. Everything is rolled back.
--
-- returns  {error, rows: see backfill_private.row_hashes}. Null if that says nothing about the session
create function backfill_private.rehearse_again(
  p_run_id uuid, p_session_id text, p_search_path text, p_is_beside boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sessions text[] := array[p_session_id];
  v_session text;
  v_lease jsonb;
  v_pass jsonb;
  v_seen jsonb;
  v_is_seen boolean := false;
  v_calls integer := 1 + p_is_beside::integer;
  v_began timestamptz := backfill_private.clock();
begin
  if backfill_private.rehearsal_waits(v_calls) is not null then
    return null;
  end if;
  begin
    if p_is_beside then
      v_sessions := backfill_private.beside_session(p_run_id, p_session_id) || v_sessions;
    end if;
    perform set_config('lock_timeout', '1s', true);
    foreach v_session in array v_sessions loop
      exit when v_session is null;
      v_lease := backfill_private.rehearsal_lease(p_run_id, v_session);
      exit when not v_lease ? 'steps';
      perform set_config('request.headers',
        (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb || (v_lease -> 'headers'))::text,
        true);
      v_pass := backfill_private.rehearse_pass(v_lease -> 'steps', p_search_path, backfill_private.limit_at());
      if v_session = p_session_id then
        v_seen := jsonb_build_object(
          'error', v_pass -> 'error',
          'rows', backfill_private.row_hashes((v_lease ->> 'scratch')::uuid));
      end if;
      exit when v_pass ->> 'error' is not null or backfill_private.gives_way(v_began);
    end loop;
    v_is_seen := true;
    raise exception 'everything is rolled back';
  exception when query_canceled or assert_failure or others then
    v_seen := case when v_is_seen then v_seen end;
  end;
  if v_lease ? 'steps' then
    perform backfill_private.count_rehearsal(v_calls);
  end if;
  return v_seen;
end
$$;

-- What a session comes to after another one in the same transaction. Columns that differ from call to call anyway, such
-- as those with the time or a number of a sequence, do not count.
--
-- p_alone  the rows of its call alone, see backfill_private.row_hashes
-- returns  {beside: {error, differs: [table.column]}}, or {} if that was not looked at
create function backfill_private.seen_beside(p_run_id uuid, p_session_id text, p_search_path text, p_alone jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_beside jsonb := backfill_private.rehearse_again(p_run_id, p_session_id, p_search_path, true);
  v_again jsonb;
  v_differs jsonb := '[]'::jsonb;
begin
  if v_beside is null then
    return '{}'::jsonb;
  elsif v_beside ->> 'error' is null then
    v_differs := backfill_private.columns_apart(p_alone, v_beside -> 'rows');
    if v_differs <> '[]' then
      v_again := backfill_private.rehearse_again(p_run_id, p_session_id, p_search_path, false);
      if v_again is null then
        return '{}'::jsonb;  -- which columns differ anyway is not known then
      end if;
      v_differs := v_differs - array(
        select jsonb_array_elements_text(backfill_private.columns_apart(p_alone, v_again -> 'rows')));
    end if;
  end if;
  return jsonb_build_object('beside', jsonb_build_object('error', v_beside -> 'error', 'differs', v_differs));
end
$$;
