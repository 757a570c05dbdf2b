-- Freshness: what changed since a plan was sealed, for whoever approves or applies it later.

-- The pending sessions of a run that somebody else has filled since: a claim will skip them.
--
-- returns  {filled: [session id], in the plan's order, at most 1,000; filled_total}
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
    select i.session_id, row_number() over (order by i.ordinal) as place
    from backfill_private.effects(p_run_id) as e
    join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = e.ordinal and i.state = 'pending'
    group by i.ordinal, i.session_id
    having bool_and(e.is_present and not e.has_receipt)
  ) as f
$$;

-- Definitions and settings that are not what they were at the sealing.
--
-- returns  [{kind: definition | setting, name, was, now}]; of a definition the fingerprint, null where it was or is gone
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
  select coalesce(jsonb_agg(jsonb_build_object('kind', l.kind, 'name', n.name, 'was', l.was ->> n.name, 'now', l.now ->> n.name)
    order by l.kind, n.name), '[]')
  from looked_at as l
  cross join lateral (select jsonb_object_keys(l.was) union select jsonb_object_keys(l.now)) as n (name)
  where l.was ->> n.name is distinct from l.now ->> n.name
$$;

-- What changed since a plan was sealed.
--
-- returns  {run_id, state, filled, filled_total, new_candidates, new_candidates_total, changes, digest_matches,
--          approved_until, approval_left_s}; null where nothing is to come of the plan any more
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
    perform backfill_private.refuse('OB001', format('there is no run %s', p_run_id), 'backfill runs');
  elsif v_run.state not in ('awaiting_approval', 'approved', 'running', 'paused') then
    return null;
  end if;
  return jsonb_build_object('run_id', p_run_id, 'state', v_run.state,
      'changes', backfill_private.changes_since_sealing(v_run),
      'digest_matches', backfill_private.compute_digest(p_run_id) = v_run.digest,
      'approved_until', v_run.approved_until,
      'approval_left_s', case when v_run.approved_until is not null
        then greatest(extract(epoch from v_run.approved_until - backfill_private.clock()), 0) end)
    || backfill_private.filled_meanwhile(p_run_id)
    || backfill_private.new_candidates(v_run);
end
$$;

revoke all on function
  backfill_private.filled_meanwhile(uuid),
  backfill_private.changes_since_sealing(public.backfill_runs),
  backfill_private.freshness(uuid)
from public;
grant execute on function backfill_private.freshness(uuid) to authenticated, service_role;

create function public.backfill_freshness(p_run_id uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.freshness(p_run_id)
$$;

revoke all on function public.backfill_freshness(uuid) from public, anon, authenticated, service_role;
grant execute on function public.backfill_freshness(uuid) to authenticated, service_role;

comment on function public.backfill_freshness(uuid) is
  'What changed since a plan was sealed: sessions filled meanwhile, new candidates, definitions, settings, the approval''s remaining life.';
