-- Rehearsal: the real scoring calls of a few sessions, made while planning and rolled back.
--
-- Each is one call of the API, with the caller's rights, in a subtransaction that never stays: a scratch run leases the
-- session there, so that gate, receipts and undo are the real ones. What was seen is carried out of it in a variable.
-- What no transaction takes back stays: numbers drawn from sequences, and calls out of the database.

create table backfill_private.rehearsals (
  run_id uuid not null references public.backfill_runs (run_id) on delete cascade,
  ordinal bigint not null,
  session_id text not null,
  session_at timestamptz not null,
  components text[] not null,
  category text not null,
  phase text not null,
  seen jsonb,
  primary key (run_id, session_id)
);

-- The rows of a rehearsed session as they stood at its moments. Written and read in the subtransaction that is rolled
-- back: empty to everybody else.
create table backfill_private.rehearsal_rows (
  scratch uuid not null,
  moment text not null check (moment in ('before', 'first', 'second', 'undone')),
  table_name text not null,
  row_key jsonb not null,
  contents jsonb not null,
  primary key (scratch, moment, table_name, row_key)
);

alter table backfill_private.rehearsals enable row level security;
alter table backfill_private.rehearsal_rows enable row level security;
revoke all on backfill_private.rehearsals, backfill_private.rehearsal_rows from public, anon, authenticated, service_role;
create policy "the owner alone" on backfill_private.rehearsals for select to service_role using (false);
create policy "the owner alone" on backfill_private.rehearsal_rows for select to service_role using (false);

-- How many sessions may be rehearsed: each is scored twice, within one minute's share of the throttle, and 100 at most.
-- As asked, else 5, and none where the environment is production.
create function backfill_private.rehearsal_room(p_run public.backfill_runs)
returns integer
language sql
stable
set search_path = ''
as $$
  select least(
    coalesce(p_run.rehearse, case when lower(p_run.environment) = 'production' then 0 else 5 end),
    (p_run.request ->> 'throttle_per_minute')::integer / 2,
    case when s.max_throttle_per_minute is not null
      then greatest(s.max_throttle_per_minute - backfill_private.share_taken(null), 0) / 2 end,
    100)
  from public.backfill_settings as s
$$;

-- Choose what to rehearse, of what no Edge Function scores: one candidate of each category first, then the priority sessions, then one of each category
-- and phase. Asked again, the same.
--
-- returns  the sessions' ids, in order
-- raises   OB002 not in planning or windows left, OB010 not allowed
create function backfill_private.rehearsal_sample(p_run_id uuid)
returns text[]
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('plan');
  v_run := backfill_private.locked_run(p_run_id, array['planning']);
  if v_run.collect_from < v_run.collect_until then
    perform backfill_private.refuse('OB002', format('run %s is not collected to its end', p_run_id));
  end if;
  insert into backfill_private.rehearsals (run_id, ordinal, session_id, session_at, components, category, phase)
  select p_run_id, row_number() over (order by c.rank, c.ordinal), c.session_id, c.session_at, c.components, c.category, c.phase
  from (
    select p.*, case
        when row_number() over (partition by p.category order by p.ordinal) = 1 then 1
        when p.phase = 'priority' then 2
        when row_number() over (partition by p.category, p.phase order by p.ordinal) = 1 then 3 end as rank
    from backfill_private.placed(v_run) as p
    -- No transaction takes back what an Edge Function does.
    where not exists (select from public.backfill_targets as t
      where t.target = v_run.target and t.transport = 'edge' and t.component = any (p.components))
  ) as c
  where c.rank is not null
  order by c.rank, c.ordinal
  limit backfill_private.rehearsal_room(v_run)
  on conflict do nothing;
  return (select coalesce(array_agg(s.session_id order by s.ordinal), '{}')
    from backfill_private.rehearsals as s where s.run_id = p_run_id);
end
$$;

-- The SQL of a scoring call as the API would make it: by name, each argument of the type that the function declares.
create function backfill_private.call_sql(p_signature text, p_arguments jsonb)
returns text
language sql
stable
set search_path = ''
as $$
  select format('select %I.%I(%s)', n.nspname, p.proname, (
    select string_agg(format('%I => %L::%s', a.key, a.value,
      format_type(p.proargtypes[array_position(p.proargnames, a.key) - 1], null)), ', ')
    from jsonb_each_text(p_arguments) as a))
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
  where p.oid = to_regprocedure(p_signature)
$$;

-- Lease a session to a scratch run, and look at its rows. To be called in a subtransaction that is rolled back.
--
-- returns  {scratch, headers, steps: [{component, function, call}], writes}; {why} where it cannot be rehearsed
-- raises   OB002 not in planning, OB010 not allowed, OB014 the session is not in the sample
create function backfill_private.rehearsal_lease(p_run_id uuid, p_session_id text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_run public.backfill_runs;
  v_grant jsonb;
begin
  perform backfill_private.authorize('plan');
  select * into v_run from public.backfill_runs where run_id = p_run_id and state = 'planning';
  if not exists (select from backfill_private.rehearsals as s where s.run_id = v_run.run_id and s.session_id = p_session_id) then
    perform backfill_private.refuse('OB014', format('session %s is not to be rehearsed for run %s', left(p_session_id, 80), p_run_id),
      'backfill plan … --rehearse 5');
  elsif exists (select from backfill_private.rehearsals as s
      where s.run_id = p_run_id and s.session_id = p_session_id and s.seen is not null) then
    return jsonb_build_object('why', 'it is rehearsed already');  -- by a call whose reply was lost
  elsif exists (select from public.backfill_items as i
      where i.source = v_run.target and i.session_id = p_session_id and i.state = 'leased') then
    return jsonb_build_object('why', 'another run is scoring it');
  elsif exists (select from backfill_private.rehearsals as s where s.run_id = p_run_id and s.seen #>> '{error,code}' = '57014') then
    return jsonb_build_object('why', 'another session was slower than the limit');
  end if;
  v_run := jsonb_populate_record(v_run, jsonb_build_object('run_id', gen_random_uuid(), 'state', 'running',
    'requested_via', 'rehearsal', 'approved_until', backfill_private.clock() + backfill_private.lease_ttl()));
  insert into public.backfill_runs select v_run.*;
  insert into public.backfill_items (
    run_id, ordinal, source, session_id, session_at, components, category, phase, batch)
  select v_run.run_id, 1, v_run.target, s.session_id, s.session_at, s.components, s.category, s.phase, 1
  from backfill_private.rehearsals as s where s.run_id = p_run_id and s.session_id = p_session_id;
  v_grant := backfill_private.grant_fences(v_run, array[1], gen_random_uuid(), 'rehearsal') -> 0;
  perform backfill_private.keep_rows(v_run.run_id, 'before');
  return jsonb_build_object(
    'scratch', v_run.run_id,
    'headers', jsonb_build_object('x-backfill-run', v_run.run_id, 'x-backfill-fence', v_grant ->> 'fence'),
    'steps', (select jsonb_agg(jsonb_build_object('component', s.step -> 'component', 'function', s.step -> 'function',
        'call', backfill_private.call_sql(t.function_signature, s.step -> 'arguments')) order by t.position)
      from jsonb_array_elements(v_grant -> 'steps') as s (step)
      join public.backfill_targets as t on t.target = v_run.target and t.component = s.step ->> 'component'),
    'writes', backfill_private.writes_elsewhere(v_run.target));
end
$$;

-- Keep the rows that a scratch run's session has in the target tables, as they stand at this moment.
create function backfill_private.keep_rows(p_scratch uuid, p_moment text)
returns void
language plpgsql
set search_path = ''
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_target public.backfill_targets;
begin
  for v_target in
    select t.* from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target
    where r.run_id = p_scratch order by t.position
  loop
    execute format(
      'insert into backfill_private.rehearsal_rows (scratch, moment, table_name, row_key, contents)
       select $1, $2, %L, backfill_private.row_key(to_jsonb(t.*), $3), to_jsonb(t.*)
       from %s as t
       join public.backfill_items as item on item.run_id = $1 and t.%I = item.session_id::%s
       on conflict do nothing',
      backfill_private.bare_name(v_target.table_name), v_target.table_name::regclass, v_target.session_column,
      backfill_private.column_type(v_target.table_name, v_target.session_column))
    using p_scratch, p_moment, v_target.key_columns;
  end loop;
end
$$;

-- What this transaction has written so far to tables that are neither the target's nor ours.
--
-- returns  {table: {inserted, updated, deleted}}, as PostgreSQL counts them; rows written and taken back count too
create function backfill_private.writes_elsewhere(p_target text)
returns jsonb
language sql
volatile
set search_path = ''
as $$
  select coalesce(jsonb_object_agg(w.relid::regclass::text, jsonb_build_object(
      'inserted', w.n_tup_ins, 'updated', w.n_tup_upd, 'deleted', w.n_tup_del)), '{}')
  from pg_stat_xact_user_tables as w
  where w.n_tup_ins + w.n_tup_upd + w.n_tup_del > 0
    and w.schemaname <> 'backfill_private' and not (w.schemaname = 'public' and starts_with(w.relname, 'backfill_'))
    and not exists (
      select from public.backfill_targets as t
      where t.target = p_target
        and (w.relid = to_regclass(t.table_name)
          or w.relid in (select p.relid from pg_partition_tree(to_regclass(t.table_name)) as p)))
$$;

-- How a session's rows differ between two moments, table by table.
--
-- returns  {table: {before, after, inserted, updated, deleted, columns: those that an updated row has otherwise}}
create function backfill_private.rows_between(p_scratch uuid, p_from text, p_to text)
returns jsonb
language sql
stable
set search_path = ''
as $$
  with pairs as (
    select coalesce(a.table_name, b.table_name) as table_name, b.contents as was, a.contents as becomes
    from (select * from backfill_private.rehearsal_rows as r where r.scratch = p_scratch and r.moment = p_from) as b
    full join (select * from backfill_private.rehearsal_rows as r where r.scratch = p_scratch and r.moment = p_to) as a
      on a.table_name = b.table_name and a.row_key = b.row_key
  ), columns as (
    select p.table_name, jsonb_agg(distinct c.key order by c.key) as names
    from pairs as p
    cross join lateral jsonb_each(p.becomes) as c
    where p.was is not null and p.was -> c.key is distinct from c.value
    group by p.table_name
  ), counted as (
    select p.table_name,
      count(p.was) as before, count(p.becomes) as after,
      count(*) filter (where p.was is null) as inserted,
      count(*) filter (where p.was <> p.becomes) as updated,
      count(*) filter (where p.becomes is null) as deleted
    from pairs as p group by p.table_name
  )
  select coalesce(jsonb_object_agg(c.table_name, to_jsonb(c) - 'table_name'
    || jsonb_build_object('columns', coalesce(n.names, '[]'))), '{}')
  from counted as c left join columns as n using (table_name)
$$;

-- The columns of the rows that a pass wrote which hold the time of its transaction: {table: [column]}. Whether a call
-- sets such a column again cannot be told within one transaction.
create function backfill_private.columns_of_now(p_scratch uuid)
returns jsonb
language sql
stable
set search_path = ''
set timezone = 'UTC'
as $$
  select coalesce(jsonb_object_agg(n.table_name, n.columns), '{}') from (
    select r.table_name, jsonb_agg(distinct c.key order by c.key) as columns
    from backfill_private.rehearsal_rows as r
    cross join lateral jsonb_each(r.contents) as c
    where r.scratch = p_scratch and r.moment = 'first' and c.value in (to_jsonb(now()), to_jsonb(localtimestamp))
    group by r.table_name) as n
$$;

-- The target of a scratch run. Only such a run's rows may be kept: they never outlive its transaction.
--
-- raises  OB001 it is none
create function backfill_private.scratch_target(p_scratch uuid)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  v_target text;
begin
  select r.target into v_target from public.backfill_runs as r
  where r.run_id = p_scratch and r.requested_via = 'rehearsal';
  if not found then
    perform backfill_private.refuse('OB001', format('there is no rehearsal %s', p_scratch));
  end if;
  return v_target;
end
$$;

-- What the first pass left: rows, writes elsewhere, columns that hold the transaction's time, a component without its row.
create function backfill_private.seen_first(p_scratch uuid, p_writes_before jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_target text := backfill_private.scratch_target(p_scratch);
begin
  perform backfill_private.keep_rows(p_scratch, 'first');
  return jsonb_build_object(
    'tables', backfill_private.rows_between(p_scratch, 'before', 'first'),
    'undecidable', backfill_private.columns_of_now(p_scratch),
    'without_effect', (
      select e.component from backfill_private.effects(p_scratch) as e where not e.is_wanted limit 1),
    'elsewhere', (
      select coalesce(jsonb_object_agg(w.key, backfill_private.counts_since(p_writes_before -> w.key, w.value)), '{}')
      from jsonb_each(backfill_private.writes_elsewhere(v_target)) as w
      where w.value is distinct from p_writes_before -> w.key));
end
$$;

-- Counts less those of before.
create function backfill_private.counts_since(p_before jsonb, p_now jsonb)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select jsonb_object_agg(n.key, n.value::bigint - coalesce((p_before ->> n.key)::bigint, 0)) from jsonb_each_text(p_now) as n
$$;

-- What the second pass changed of what the first one left.
create function backfill_private.seen_second(p_scratch uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform backfill_private.scratch_target(p_scratch);
  perform backfill_private.keep_rows(p_scratch, 'second');
  return jsonb_build_object('tables', backfill_private.rows_between(p_scratch, 'first', 'second'));
end
$$;

-- Take the scratch run's rows back as an undo does, and look what differs from before.
--
-- returns  {conflicts: [reason], tables: see backfill_private.rows_between}
create function backfill_private.seen_undone(p_scratch uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_conflicts jsonb;
begin
  perform backfill_private.scratch_target(p_scratch);
  select coalesce(jsonb_agg(distinct c.value ->> 'reason'), '[]') into v_conflicts
  from jsonb_array_elements(backfill_private.undo_item(p_scratch, 1) -> 'conflicts') as c;
  perform backfill_private.keep_rows(p_scratch, 'undone');
  return jsonb_build_object('conflicts', v_conflicts, 'tables', backfill_private.rows_between(p_scratch, 'before', 'undone'));
end
$$;

-- Make a session's calls one after the other, and then let deferred constraints speak. A call that fails ends them, and
-- takes back what it did itself.
--
-- p_steps        [{component, function, call: SQL}]
-- p_search_path  that of a call through the API: the scoring functions must meet it
-- returns        {calls: [{component, function, took_ms}], error: null or {step, code, message}}
create function backfill_private.rehearse_pass(p_steps jsonb, p_search_path text)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_step jsonb;
  v_began timestamptz;
  v_calls jsonb := '[]'::jsonb;
begin
  perform set_config('search_path', p_search_path, true);
  for v_step in
    select s from jsonb_array_elements(p_steps || '{"function": "a deferred constraint"}'::jsonb) as s
  loop
    v_began := backfill_private.clock();
    begin
      if v_step ? 'call' then
        execute v_step ->> 'call';
      else
        set constraints all immediate;
        raise sqlstate 'RB001';  -- or a second pass would find no constraint deferred
      end if;
    exception
      when sqlstate 'RB001' then exit;
      when query_canceled or assert_failure or others then
        return jsonb_build_object('calls', v_calls, 'error', jsonb_build_object('code', sqlstate,
          'step', v_step ->> 'function', 'message', backfill_private.kept_message(sqlstate, sqlerrm)));
    end;
    v_calls := v_calls || jsonb_build_object('component', v_step -> 'component', 'function', v_step -> 'function',
      'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
  end loop;
  return jsonb_build_object('calls', v_calls, 'error', null);
end
$$;

-- Keep what was seen of a session: what was seen first.
create function backfill_private.keep_rehearsal(p_run_id uuid, p_session_id text, p_seen jsonb)
returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.locked_run(p_run_id, array['planning']);
  update backfill_private.rehearsals set seen = p_seen
  where run_id = p_run_id and session_id = p_session_id and seen is null;
end
$$;

revoke all on function
  backfill_private.rehearsal_room(public.backfill_runs),
  backfill_private.rehearsal_sample(uuid),
  backfill_private.call_sql(text, jsonb),
  backfill_private.rehearsal_lease(uuid, text),
  backfill_private.keep_rows(uuid, text),
  backfill_private.writes_elsewhere(text),
  backfill_private.rows_between(uuid, text, text),
  backfill_private.columns_of_now(uuid),
  backfill_private.scratch_target(uuid),
  backfill_private.seen_first(uuid, jsonb),
  backfill_private.counts_since(jsonb, jsonb),
  backfill_private.seen_second(uuid),
  backfill_private.seen_undone(uuid),
  backfill_private.rehearse_pass(jsonb, text),
  backfill_private.keep_rehearsal(uuid, text, jsonb)
from public;
grant execute on function
  backfill_private.rehearsal_sample(uuid),
  backfill_private.rehearsal_lease(uuid, text),
  backfill_private.seen_first(uuid, jsonb),
  backfill_private.seen_second(uuid),
  backfill_private.seen_undone(uuid),
  backfill_private.rehearse_pass(jsonb, text),
  backfill_private.kept_message(text, text),
  backfill_private.keep_rehearsal(uuid, text, jsonb)
to service_role;

-- The doors of the rehearsal.
create function public.backfill_rehearsal(p_run_id uuid)
returns text[]
language sql
set search_path = ''
set statement_timeout = '55s'
as $$
  select backfill_private.rehearsal_sample(p_run_id)
$$;

-- Rehearse one session of the sample: score it, score it again, undo it, and roll everything back.
--
-- p_search_path  left out, it is the caller's: a default is evaluated before this function's own path is set
-- returns        {took_ms: of this call in the database, calls, error, tables, …}, or {why} where it was not rehearsed
-- raises         OB002 not in planning, OB010 not allowed, OB014 the session is not in the sample
create function public.backfill_rehearse(
  p_run_id uuid, p_session_id text, p_search_path text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_began timestamptz := backfill_private.clock();
  v_lease jsonb;
  v_leased_ms numeric;
  v_seen jsonb;
begin
  begin
    v_lease := backfill_private.rehearsal_lease(p_run_id, p_session_id);
    v_leased_ms := extract(epoch from backfill_private.clock() - v_began) * 1000;
    v_seen := v_lease - array['scratch', 'headers', 'steps', 'writes'];
    if v_lease ? 'steps' then
      perform set_config('lock_timeout', '1s', true);
      perform set_config('request.headers', (
        coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb || (v_lease -> 'headers'))::text, true);
      v_seen := backfill_private.rehearse_pass(v_lease -> 'steps', p_search_path);
      v_seen := v_seen || backfill_private.seen_first((v_lease ->> 'scratch')::uuid, v_lease -> 'writes');
      if v_seen ->> 'error' is null then
        v_seen := v_seen || jsonb_build_object('second',
          backfill_private.rehearse_pass(v_lease -> 'steps', p_search_path) || backfill_private.seen_second((v_lease ->> 'scratch')::uuid));
        v_seen := v_seen || jsonb_build_object('undone', backfill_private.seen_undone((v_lease ->> 'scratch')::uuid));
      end if;
    end if;
    raise sqlstate 'RB001';
  exception
    when sqlstate 'RB001' then null;  -- the end that was meant: nothing stays
    when query_canceled then
      if v_seen is null then
        raise;
      end if;
  end;
  v_seen := v_seen || jsonb_build_object('leased_ms', round(v_leased_ms, 1),
    'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
  perform backfill_private.keep_rehearsal(p_run_id, p_session_id, v_seen);
  return v_seen;
end
$$;

revoke all on function public.backfill_rehearsal(uuid), public.backfill_rehearse(uuid, text, text)
from public, anon, authenticated, service_role;
grant execute on function public.backfill_rehearsal(uuid), public.backfill_rehearse(uuid, text, text) to service_role;

comment on function public.backfill_rehearsal(uuid) is
  'Choose the sessions that are rehearsed while planning. For the client.';
comment on function public.backfill_rehearse(uuid, text, text) is
  'Score one session twice, undo it and roll everything back, to see what it would do. For the client.';
