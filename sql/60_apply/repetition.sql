-- The API's own repetition: before version 16 PostgREST calls a function that raises 40001 again and again, without end
-- and after its client has left. A fence that changes ends that only if the function writes a target row. So settling
-- looks whether a call whose end nobody heard is still being made.

-- The backends of the API that call a scoring function of a target over and over. A call that is merely slow has one
-- transaction, a repetition one after the other, and its connection is never at rest. PostgreSQL says of each backend
-- only what it does now, so they are looked at for 0.8 s, and not at all while every connection is at rest.
--
-- p_is_alone  no other call of the run is under way. Else a backend has to be seen between a failure and its rollback
--             in a quarter of the looks, as calls that succeed never are
-- returns     their pids. None if the owner of this function may not see what other roles do
create function backfill_private.repeating_backends(p_target text, p_is_alone boolean)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_calls text[] := array(
    select format('"%s"."%s"(', n.nspname, p.proname)
    from backfill_private.scoring_functions(p_target) as f
    join pg_proc as p on p.oid = f.oid
    join pg_namespace as n on n.oid = p.pronamespace);
  v_seen jsonb := '[]'::jsonb;
begin
  for v_look in 1..40 loop
    perform pg_stat_clear_snapshot();
    v_seen := v_seen || coalesce((
      select jsonb_agg(jsonb_build_object(
        'pid', a.pid,
        'began', case
          when exists (select from unnest(v_calls) as c where strpos(a.query, c) > 0) then a.query_start
        end,
        'state', a.state))
      from pg_stat_activity as a
      where a.datname = current_database()
        and a.usename = session_user
        and a.pid <> pg_backend_pid()
        and a.state <> 'idle'), '[]');
    exit when v_look >= 3 and v_seen = '[]';
    perform pg_sleep(0.02);
  end loop;
  return array(
    select s.pid
    from jsonb_to_recordset(v_seen) as s (pid integer, began timestamptz, state text)
    group by s.pid
    having count(*) >= 24
      and count(distinct s.began) >= 2
      and (p_is_alone or count(s.began) filter (where s.state = 'idle in transaction (aborted)') >= 10)
    order by s.pid);
end
$$;

-- Judge the calls of a batch whose end nobody heard. If the API repeats one, their sessions have failed, so that nobody
-- calls them again, and the run is paused with the cause.
--
-- p_outcomes  see backfill_private.decide_outcomes
-- returns     the same, with what was found
create function backfill_private.judge_unheard(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target text := (select r.target from public.backfill_runs as r where r.run_id = p_run_id);
  v_pids integer[];
begin
  if not exists (select from jsonb_array_elements(p_outcomes) as o where o ->> 'outcome' = 'unknown') then
    return p_outcomes;
  end if;
  v_pids := backfill_private.repeating_backends(v_target, not exists (
    select from public.backfill_items as i
    where i.run_id = p_run_id
      and i.state = 'leased'
      and i.ordinal not in (select (o ->> 'ordinal')::integer from jsonb_array_elements(p_outcomes) as o)));
  if v_pids = '{}' then
    return p_outcomes;
  end if;
  perform backfill_private.hold(p_run_id, 'repeats', format(
    'the API repeats a scoring call without end, in backends %s: a function raises 40001, which PostgREST before '
    'version 16 calls again',
    array_to_string(v_pids, ', ')));
  return (
    select jsonb_agg(case when o ->> 'outcome' <> 'unknown' then o else o || jsonb_build_object(
      'outcome', 'failed',
      'code', '40001',
      'message', 'no answer, while the API repeats such a call without end. It is not called again') end)
    from jsonb_array_elements(p_outcomes) as o);
end
$$;
