-- What a rehearsal says: figures and marks of the plan, from what was seen of the sessions in its sample.

-- The rehearsed sessions of a run, one row each, flat.
create function backfill_private.rehearsed(p_run_id uuid)
returns table (
  ordinal bigint, session_id text, category text, phase text, took_ms numeric, leased_ms numeric, calls jsonb,
  error jsonb, seen jsonb
)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    s.ordinal,
    s.session_id,
    s.category,
    s.phase,
    (select sum((c ->> 'took_ms')::numeric) from jsonb_array_elements(s.seen -> 'calls') as c),
    (s.seen ->> 'leased_ms')::numeric,
    s.seen -> 'calls',
    coalesce(nullif(s.seen -> 'error', 'null'), case
      when s.seen is null
      then '{"step": "the rehearsal", "code": "lost", "message": "no answer came back"}'
      when s.seen ->> 'without_effect' is not null
      then jsonb_build_object(
        'step', s.seen ->> 'without_effect',
        'code', 'OB017',
        'message', 'no effect: the function answered and left no row of the wanted version')
    end),
    s.seen
  from backfill_private.rehearsals as s
  where s.run_id = p_run_id and (s.seen is null or s.seen ? 'calls')
$$;

-- Seconds that a run will take: its throttle's pace, or the calls if they take longer. Four sessions are called at a
-- time, and one batch after the other.
--
-- p_round_trip_ms  what a call takes outside the database, as the client measured it. Null: unknown, not counted
-- returns          null if nothing was measured
create function backfill_private.estimate_s(p_run_id uuid, p_round_trip_ms numeric)
returns numeric
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with measured as (
    select
      percentile_cont(0.5) within group (order by r.took_ms) as session_ms,
      percentile_cont(0.5) within group (order by r.leased_ms) as leased_ms
    from backfill_private.rehearsed(p_run_id) as r
    where r.error is null
      and (r.ordinal > 1 or not exists (
        select from backfill_private.rehearsed(p_run_id) as other
        where other.error is null and other.ordinal > 1
      ))
  ), calls as materialized (
    select c.component, c.call
    from public.backfill_runs as r
    cross join lateral backfill_private.calls_of(r.target, r.request) as c
    where r.run_id = p_run_id
  ), batches as (
    select
      i.batch,
      ceil(count(*) / 4.0) as waves,
      avg((select count(distinct c.call) from calls as c where c.component = any (i.components))) as calls
    from public.backfill_items as i
    where i.run_id = p_run_id
    group by i.batch
  ), timed as (
    select
      b.batch,
      (
        b.waves * (m.session_ms + b.calls * coalesce(p_round_trip_ms, 0))
        + 2 * (m.leased_ms + coalesce(p_round_trip_ms, 0))
      ) / 1000 as batch_s
    from batches as b
    cross join measured as m
  )
  select round(
    (sum(case
      when t.batch < (select max(b.batch) from batches as b)
      then greatest(t.batch_s, backfill_private.batch_spacing_s(r.request)::double precision)
      else t.batch_s
    end))::numeric,
    1)
  from timed as t, public.backfill_runs as r
  where r.run_id = p_run_id
$$;

-- The figures of a rehearsal. Null if there was none.
--
-- returns  {sessions: [{session_id, category, phase, took_ms, calls, error}], rows: {table: {before, after, inserted,
--          updated, deleted}}, took_ms: {p50, p95} of a session's calls without the first session, round_trip_ms,
--          runtime_s, alone: in bulk each session needs a transaction of its own}
create function backfill_private.rehearsal_figures(p_run_id uuid, p_round_trip_ms numeric)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with seen as (
    select * from backfill_private.rehearsed(p_run_id)
  ), timed as (
    select s.took_ms
    from seen as s
    where s.error is null
      and (s.ordinal > 1 or not exists (
        select from seen as other
        where other.error is null and other.ordinal > 1
      ))
  ), counted as (
    select t.key as table_name, c.key as what, sum((c.value #>> '{}')::bigint) as total
    from seen as s
    cross join lateral jsonb_each(s.seen -> 'tables') as t
    cross join lateral jsonb_each(t.value - 'columns') as c
    group by t.key, c.key
  )
  select jsonb_build_object(
    'sessions', (
      select jsonb_agg(to_jsonb(s) - array['ordinal', 'seen', 'leased_ms'] order by s.ordinal)
      from seen as s
    ),
    'rows', (
      select jsonb_object_agg(n.table_name, n.counts)
      from (
        select c.table_name, jsonb_object_agg(c.what, c.total) as counts
        from counted as c
        group by c.table_name
      ) as n
    ),
    'took_ms', (
      select jsonb_build_object(
        'p50', round(percentile_cont(0.5) within group (order by t.took_ms)::numeric, 1),
        'p95', round(percentile_cont(0.95) within group (order by t.took_ms)::numeric, 1))
      from timed as t
      having count(*) > 0
    ),
    'round_trip_ms', round(p_round_trip_ms, 1),
    'runtime_s', backfill_private.estimate_s(p_run_id, p_round_trip_ms),
    'alone', backfill_private.alone_because(p_run_id) is not null)
  where exists (select from seen)
$$;

-- Columns by table in words: table.column, table.column. Null if there are none.
create function backfill_private.named_columns(p_columns jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(t.key || '.' || c.name, ', ' order by t.key, c.name)
  from jsonb_each(p_columns) as t
  cross join lateral jsonb_array_elements_text(t.value) as c (name)
$$;

-- The columns that changed between two moments, over all rehearsed sessions, by table: {table: [column]}.
--
-- p_path  where the tables are in what was seen: {tables}, {second,tables} or {undone,tables}
create function backfill_private.columns_changed(p_run_id uuid, p_path text[])
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_object_agg(n.table_name, n.columns), '{}')
  from (
    select t.key as table_name, jsonb_agg(distinct c.name order by c.name) as columns
    from backfill_private.rehearsed(p_run_id) as r
    cross join lateral jsonb_each(r.seen #> p_path) as t
    cross join lateral jsonb_array_elements_text(t.value -> 'columns') as c (name)
    group by t.key
  ) as n
$$;

-- How many rows of a kind came between two moments, over all rehearsed sessions, in words: 2 of the table. Null: none.
--
-- p_what  inserted, updated or deleted
create function backfill_private.rows_changed(p_run_id uuid, p_path text[], p_what text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(format('%s of %s', n.total, n.table_name), ', ' order by n.table_name)
  from (
    select t.key as table_name, sum((t.value ->> p_what)::bigint) as total
    from backfill_private.rehearsed(p_run_id) as r
    cross join lateral jsonb_each(r.seen #> p_path) as t
    group by t.key
  ) as n
  where n.total > 0
$$;

-- The errors of the rehearsed calls by call and code, each with one of its messages, in words. Null if none failed.
create function backfill_private.rehearsed_errors(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format('%s: %s, %s (%s)',
      e.step,
      case when e.is_limit then 'slower than the limit of a statement' else concat_ws(' ', e.code, e.message) end,
      e.sessions,
      e.categories),
    '; ' order by e.step, e.code)
  from (
    select
      r.error ->> 'step' as step,
      r.error ->> 'code' as code,
      bool_or(r.error ->> 'is_limit' = 'true') as is_limit,
      min(r.error ->> 'message') as message,
      backfill_private.called_in(p_run_id, count(*)) as sessions,
      string_agg(distinct r.category, ', ' order by r.category) as categories
    from backfill_private.rehearsed(p_run_id) as r
    where r.error is not null
    group by 1, 2
  ) as e
$$;

-- Marks on what was rehearsed: calls, time, a second call, another session, overwritten rows, writes elsewhere, undo.
create function backfill_private.rehearsal_marks(p_run_id uuid, p_figures jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query select m from backfill_private.scoring_calls_mark(p_run_id) as m where m is not null;
  return query select m from backfill_private.earlier_writes_mark(p_run_id) as m where m is not null;
  return query select m from backfill_private.repetition_mark(p_run_id) as m where m is not null;
  if p_figures -> 'took_ms' is null or p_figures -> 'took_ms' = 'null' then
    return;  -- a mark that nobody measured would be none
  end if;
  return next backfill_private.mark('rehearsal: scoring time', 'ok',
    format('p50 %s ms, p95 %s ms for the calls of each, the first one left out',
      p_figures #>> '{took_ms,p50}', p_figures #>> '{took_ms,p95}'));
  return next backfill_private.second_call_mark(p_run_id);
  return query select m from backfill_private.one_transaction_mark(p_run_id) as m where m is not null;
  return next backfill_private.existing_rows_mark(p_run_id);
  return next backfill_private.other_tables_mark(p_run_id);
  return next backfill_private.undo_mark(p_run_id);
end
$$;

-- Did the calls succeed? Null: none was to be made.
create function backfill_private.scoring_calls_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(
    'rehearsal: scoring calls',
    case when told.sample = 0 then 'warn' when told.errors is not null then 'fail' else 'ok' end,
    case
      when told.sample = 0
      then coalesce('not measured: ' || told.edge, 'not rehearsed' || coalesce(': ' || told.why, ''))
      when told.errors is not null
      then format('%s of %s failed. %s', told.sample - told.good, told.called, told.errors)
      else format('%s of %s %s scored and rolled back, none failed',
          told.sample,
          (
            select backfill_private.called_in(p_run_id, count(*))
            from public.backfill_items as i
            where i.run_id = p_run_id
          ),
          case told.sample when 1 then 'was' else 'were' end)
        || coalesce('. Not measured: ' || told.edge, '')
    end)
  from (
    select
      count(*) as sample,
      count(*) filter (where r.error is null) as good,
      backfill_private.called_in(p_run_id, count(*)) as called,
      backfill_private.rehearsed_errors(p_run_id) as errors,
      (
        select string_agg(distinct s.seen ->> 'why', ', ')
        from backfill_private.rehearsals as s
        where s.run_id = p_run_id
      ) as why,
      (
        select string_agg(f.name, ', ' order by f.position) || ', which no transaction takes back'
        from public.backfill_runs as run
        cross join lateral backfill_private.scoring_functions(run.target) as f
        where run.run_id = p_run_id and f.transport = 'edge'
      ) as edge
    from backfill_private.rehearsed(p_run_id) as r
  ) as told
  where told.sample > 0 or coalesce(told.edge, told.why) is not null
$$;

-- Would rows that already exist be overwritten or deleted?
create function backfill_private.existing_rows_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when told.text = '' then backfill_private.mark('rehearsal: existing rows', 'ok', 'none is changed')
    else backfill_private.mark('rehearsal: existing rows', 'warn', told.text || '. The receipts keep what they were')
  end
  from (
    select concat_ws('; ',
      'it overwrites ' || backfill_private.rows_changed(p_run_id, '{tables}', 'updated')
        || coalesce(
          ' (' || backfill_private.named_columns(backfill_private.columns_changed(p_run_id, '{tables}')) || ')',
          ''),
      'it deletes ' || backfill_private.rows_changed(p_run_id, '{tables}', 'deleted')) as text
  ) as told
$$;

-- Does scoring write to tables that are not the target's?
create function backfill_private.other_tables_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when w.names is null then backfill_private.mark('rehearsal: other tables', 'ok', 'none is written')
    else backfill_private.mark('rehearsal: other tables', 'warn',
      format('it also writes to %s: without a receipt, so an undo leaves that', w.names))
  end
  from (
    select string_agg(format('%s (%s)', t.name, t.counts), ', ' order by t.name) as names
    from (
      select n.name, string_agg(format('%s %s', n.total, n.what), ', ' order by n.what) as counts
      from (
        select e.key as name, c.key as what, sum(c.value::bigint) as total
        from backfill_private.rehearsed(p_run_id) as r
        cross join lateral jsonb_each(r.seen -> 'elsewhere') as e
        cross join lateral jsonb_each_text(e.value) as c
        group by e.key, c.key
      ) as n
      where n.total > 0
      group by n.name
    ) as t
  ) as w
$$;

-- Was an earlier run of the same target seen to write to tables that no component names? Null if none was.
create function backfill_private.earlier_writes_mark(p_run_id uuid)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark('other tables', 'warn', format(
    'while run %s scored its first sessions, it or somebody else wrote to %s: '
    'without a receipt, so an undo leaves that',
    earlier.run_id,
    (select string_agg(distinct w ->> 'table', ', ') from jsonb_array_elements(earlier.written) as w)))
  from (
    select e.run_id, backfill_private.written_elsewhere(e.run_id) as written
    from backfill_private.elsewhere as e
    join public.backfill_runs as other using (run_id)
    join public.backfill_runs as mine on mine.run_id = p_run_id and mine.target = other.target
    where e.run_id <> p_run_id
    order by e.since desc
    limit 5
  ) as earlier
  where earlier.written <> '[]'
  limit 1
$$;

-- Does an undo give back what was there before?
create function backfill_private.undo_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when told.text <> '' then backfill_private.mark('rehearsal: undo', 'warn', told.text)
    when told.looked_at = 0
    then backfill_private.mark('rehearsal: undo', 'warn',
      'not rehearsed: the time limit came first, or somebody waited for the rows')
    else backfill_private.mark('rehearsal: undo', 'ok', 'gives back every row as it was')
  end
  from (
    select
      (select count(*) from backfill_private.rehearsed(p_run_id) as r where r.seen ? 'undone') as looked_at,
      concat_ws('; ',
        'it leaves a row where ' || (
          select string_agg(distinct c.reason, ', ')
          from backfill_private.rehearsed(p_run_id) as r
          cross join lateral jsonb_array_elements_text(r.seen #> '{undone,conflicts}') as c (reason)
        ),
        'a trigger of the table sets again '
          || backfill_private.named_columns(backfill_private.columns_changed(p_run_id, '{undone,tables}')),
        'it leaves behind ' || backfill_private.rows_changed(p_run_id, '{undone,tables}', 'inserted'),
        'it does not bring back ' || backfill_private.rows_changed(p_run_id, '{undone,tables}', 'deleted')) as text
  ) as told
$$;
