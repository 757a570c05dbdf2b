-- The next step of a run: its causes as they stand now, and what helps.

-- Why a paused run is paused, as it stands now. What stands in its way goes first, for no resume passes it.
create function backfill_private.pause_now(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (backfill_private.in_the_way(p_run)).cause,
    case when backfill_private.functions_without_headers(p_run) is not null then 'no_headers' end,
    (select 'throttle'
     from public.backfill_settings as s
     where backfill_private.share_taken(p_run.run_id)
       + coalesce(backfill_private.rate_of(p_run), s.max_throttle_per_minute + 1)
       > s.max_throttle_per_minute),
    (select 'mended' from backfill_private.causes as c where c.cause = p_run.cause and c.is_seen),
    p_run.cause,
    'asked')
$$;

-- Every cause of a run, the one that its state has first.
--
-- p_failed   how many of its sessions failed
-- p_is_idle  sessions are pending, and no worker holds one
create function backfill_private.causes_of(p_run public.backfill_runs, p_failed bigint, p_is_idle boolean)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_causes text[] := array[p_run.state];
  v_held text;
begin
  if not exists (select from backfill_private.sources as s where s.target = p_run.target) then
    return array['removed'];
  elsif p_run.state in ('approved', 'running', 'paused') and p_run.approved_until <= backfill_private.clock() then
    v_causes := array['expired'];
  elsif p_run.state = 'paused' then
    v_causes := array[backfill_private.pause_now(p_run)];
  elsif p_run.state = 'running' and p_is_idle then
    v_causes := array['no_worker'];
  elsif p_run.state = 'completed' and p_failed > 0 then
    v_held := case when p_run.approved_until <= backfill_private.clock() then 'failed_for_good' end;
    v_causes := v_causes || coalesce(
      v_held,
      (backfill_private.in_the_way(p_run)).cause,
      case when backfill_private.functions_without_headers(p_run) is not null then 'no_headers' end,
      'failed');
  end if;
  if p_run.state in ('completed', 'cancelled', 'expired') and exists (
    select from backfill_private.critical_events(p_run.run_id) as e where e.answered is null)
  then
    v_causes := v_causes || 'unanswered'::text;
  end if;
  if p_run.state <> 'planning' and exists (select from backfill_private.left_behind(p_run.run_id)) then
    v_causes := v_causes || 'left_behind'::text;
  end if;
  return v_causes;
end
$$;

-- What helps a run now. Null if the caller may not read.
--
-- returns  {causes: that of its state first, decides: a person has to look or decide first, says: sentences or null,
--          lines: to copy}
create function backfill_private.next_step(p_run_id uuid, p_failed bigint, p_is_idle boolean)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'causes', jsonb_agg(h.help ->> 'cause' order by c.place),
    'decides', bool_or((h.help ->> 'decides')::boolean),
    'says', string_agg(h.help ->> 'says', ' ' order by c.place),
    'lines', (
      select coalesce(jsonb_agg(l.line order by l.place), '[]')
      from (
        select a.line, min(a.place) as place
        from jsonb_path_query(jsonb_agg(h.help -> 'lines' order by c.place), '$[*][*]')
        with ordinality as a (line, place)
        group by a.line) as l))
  from public.backfill_runs as r
  cross join lateral unnest(backfill_private.causes_of(r, p_failed, p_is_idle)) with ordinality as c (cause, place)
  cross join lateral backfill_private.helps(r, c.cause) as h (help)
  where r.run_id = p_run_id
    and backfill_private.may('read')
  group by r.run_id
$$;
