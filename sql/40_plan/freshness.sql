-- Freshness: what changed since a plan was sealed, for anyone who approves or applies it later.

-- Sessions that a plan like this would name now and this one does not: candidates by the run's own request, in its
-- range, among the ids to which it limits itself. Those that were beyond its limit are not new. They are named for the
-- next plan. No run is ever widened by them. While a key of the target does not hold, no plan can name any.
--
-- returns  {new_candidates: [session id], the newest first, at most 1,000, new_candidates_total}
create function backfill_private.new_candidates(p_run public.backfill_runs)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_found jsonb;
begin
  if backfill_private.key_fault(p_run.target) is not null then
    return '{"new_candidates": [], "new_candidates_total": 0}'::jsonb;
  end if;
  perform set_config('backfill.request', p_run.request::text, true);
  -- Materialized, so that answers are counted only for what is left after the join, not for every planned session.
  execute format(
    'with unplanned as materialized (
       select g.session_id, g.session_at, g.excluded, g.components
       from %s as g
       left join public.backfill_items as item
         on item.run_id = $1 and item.source = $2 and item.session_id = g.session_id
       left join backfill_private.findings as beyond
         on beyond.run_id = $1 and beyond.session_id = g.session_id and beyond.excluded = $5
       where item.run_id is null
         and beyond.run_id is null
         and g.session_at >= $3
         and g.session_at < $4
         and ($6 is null or g.session_id in (select unnest($6)))
     ), found as (
       select u.session_id, row_number() over (order by u.session_at desc, u.session_id) as place
       from unplanned as u where u.excluded is null and u.components <> ''{}''
     )
     select jsonb_build_object(
       ''new_candidates'', coalesce(jsonb_agg(f.session_id order by f.place) filter (where f.place <= 1000), ''[]''),
       ''new_candidates_total'', count(*))
     from found as f',
    backfill_private.gaps_view(p_run.target)::regclass)
  into v_found
  using p_run.run_id, p_run.target, (p_run.request ->> 'since_at')::timestamptz,
    coalesce((p_run.request ->> 'until_before')::timestamptz, backfill_private.after_all_moments()),
    backfill_private.beyond_limit(p_run), backfill_private.asked_ids(p_run);
  perform set_config('backfill.request', '', true);
  return v_found;
end
$$;

-- The pending sessions of a run that somebody else has filled since. A claim will skip them.
--
-- returns  {filled: [session id], in the plan's order, at most 1,000, filled_total}
create function backfill_private.filled_meanwhile(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'filled', coalesce(jsonb_agg(f.session_id order by f.place) filter (where f.place <= 1000), '[]'),
    'filled_total', count(*))
  from (
    select
      i.session_id,
      row_number() over (order by i.ordinal) as place
    from backfill_private.effects(p_run_id) as e
    join public.backfill_items as i
      on i.run_id = p_run_id
      and i.ordinal = e.ordinal
      and i.state = 'pending'
    group by i.ordinal, i.session_id
    having bool_and(e.is_present and not e.has_receipt)
  ) as f
$$;

-- The pending sessions of a run that its target no longer selects. A claim will skip them.
--
-- returns  {unselected: [{session_id, reason}], in the plan's order, at most 1,000, unselected_total}
create function backfill_private.unselected_meanwhile(p_run public.backfill_runs)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'unselected', coalesce(
      jsonb_agg(jsonb_build_object('session_id', f.session_id, 'reason', f.why) order by f.place)
        filter (where f.place <= 1000),
      '[]'),
    'unselected_total', count(*))
  from (
    select u.session_id, u.why, row_number() over (order by u.ordinal) as place
    from (select p_run as run where backfill_private.key_fault(p_run.target) is null) as k
    cross join lateral backfill_private.unselected(k.run) as u
  ) as f
$$;

-- The pending sessions of a run for which it planned a new row, and a row of another version stands in its place now.
--
-- returns  {replacing: [session id], in the plan's order, at most 1,000, replacing_total}
create function backfill_private.replaced_meanwhile(p_run public.backfill_runs)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_found jsonb;
  v_conditions text;
  v_joins text;
begin
  select
    string_agg(format('(%s is not null and not item.replaces ? %L)', r.version_sql, r.component), ' or '),
    string_agg(r.join_sql, ' ')
  into v_conditions, v_joins
  from backfill_private.replaced_joins(p_run) as r;
  execute format(
    'select jsonb_build_object(
       ''replacing'', coalesce(jsonb_agg(f.session_id order by f.place) filter (where f.place <= 1000), ''[]''),
       ''replacing_total'', count(*))
     from (
       select item.session_id, row_number() over (order by item.ordinal) as place
       from public.backfill_items as item
       %s
       where item.run_id = $1
         and item.state = ''pending''
         and (%s)
     ) as f',
    v_joins,
    coalesce(v_conditions, 'false'))
  into v_found
  using p_run.run_id;
  return v_found;
end
$$;

-- Definitions and settings that are not what they were at sealing, and keys that no longer name one row.
--
-- returns  [{kind: definition | setting | key, name, was, now}]. was and now of a definition are fingerprints, null if
--          it did not exist or is gone
create function backfill_private.changes_since_sealing(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with looked_at (kind, was, now) as (
    values ('definition', p_run.fingerprint, backfill_private.definitions(p_run.target)),
      ('setting', p_run.plan -> 'settings', backfill_private.settings_now())
  )
  select coalesce(jsonb_agg(to_jsonb(c) order by c.kind, c.name), '[]')
  from (
    select l.kind, n.name, l.was ->> n.name as was, l.now ->> n.name as now
    from looked_at as l
    cross join lateral (
      select jsonb_object_keys(l.was)
      union
      select jsonb_object_keys(l.now)
    ) as n (name)
    where l.was ->> n.name is distinct from l.now ->> n.name
    union all
    select 'key', format('of %s (%s)', k.table_name, array_to_string(k.key_columns, ', ')), 'unique', 'not: ' || k.fault
    from backfill_private.key_standings(p_run.target) as k
    where k.fault is not null
  ) as c
$$;

-- What changed since a plan was sealed.
--
-- returns  {run_id, state, filled, filled_total, replacing, replacing_total, unselected, unselected_total,
--          new_candidates, new_candidates_total,
--          changes, digest_matches, approved_until, approval_left_s}. Null if nothing more will come of the plan
-- raises   OB001 no such run, OB010 not allowed
create function backfill_private.freshness(p_run_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.authorize('read');
  select * into v_run from public.backfill_runs where run_id = p_run_id;
  if v_run.run_id is null then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  elsif v_run.state not in ('awaiting_approval', 'approved', 'running', 'paused') then
    return null;
  end if;
  return jsonb_build_object(
      'run_id', p_run_id,
      'state', v_run.state,
      'changes', backfill_private.changes_since_sealing(v_run),
      'digest_matches', backfill_private.compute_digest(p_run_id) = v_run.digest,
      'approved_until', v_run.approved_until,
      'approval_left_s', case
        when v_run.approved_until is not null
        then greatest(extract(epoch from v_run.approved_until - backfill_private.clock()), 0)
      end)
    || backfill_private.filled_meanwhile(p_run_id)
    || backfill_private.replaced_meanwhile(v_run)
    || backfill_private.unselected_meanwhile(v_run)
    || backfill_private.new_candidates(v_run);
end
$$;
