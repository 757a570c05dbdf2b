-- Standing approvals as they are told to people and programs.

-- A standing approval: its rule, where it stands, how much it was used. Null: there is none, or the caller may not
-- read.
--
-- returns  {standing_id, state, why, digest, target, environment, until, max_sessions, max_per_day, max_calls,
--          throttle, hours, weekdays, marks, replace, proposed_via, proposed_at, approved_by, approved_via,
--          approved_at, note, revoked_by, revoked_at, revoked_reason, runs, sessions, today, overlaps}
--          state: proposed, approved, ended or revoked. why: why it is not in force now. Null: it is
--          today: sessions of its target that standing approvals have approved on this UTC day
--          overlaps: ids of the others of its target that are proposed or approved. Of those in force the narrowest
--          counts
create function backfill_private.standing_told(p_standing_id uuid)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select jsonb_build_object(
    'standing_id', s.standing_id,
    'state', t.state,
    'why', t.why,
    'digest', s.digest,
    'target', s.target,
    'environment', s.environment,
    'until', s.valid_until,
    'max_sessions', s.max_sessions,
    'max_per_day', s.max_per_day,
    'max_calls', s.max_calls,
    'throttle', s.throttle_per_minute,
    'hours', lpad(s.from_hour::text, 2, '0') || '-' || lpad(s.to_hour::text, 2, '0'),
    'weekdays', (
      select string_agg((array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'])[d], ',' order by d)
      from unnest(s.weekdays) as d),
    'marks', s.marks,
    'replace', s.replaces)
    || jsonb_build_object(
    'proposed_via', s.proposed_via,
    'proposed_at', s.proposed_at,
    'approved_by', s.approved_by,
    'approved_via', s.approved_via,
    'approved_at', s.approved_at,
    'note', s.note,
    'revoked_by', s.revoked_by,
    'revoked_at', s.revoked_at,
    'revoked_reason', s.revoked_reason,
    'runs', u.runs,
    'sessions', coalesce(u.sessions, 0),
    'today', backfill_private.approved_today(s.target),
    'overlaps', backfill_private.overlaps_of(s))
  from public.backfill_standing as s
  cross join lateral backfill_private.standing_state(s) as t
  cross join lateral (
    select count(*) as runs, sum((r.plan #>> '{candidates,total}')::bigint) as sessions
    from public.backfill_approvals as a
    join public.backfill_runs as r using (run_id)
    where a.standing_id = s.standing_id
  ) as u
  where s.standing_id = p_standing_id
    and backfill_private.may('read')
$$;

-- The other standing approvals of the same target, as it is declared, that may count beside this one: not over.
create function backfill_private.overlaps_of(p_rule public.backfill_standing)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(s.standing_id order by s.proposed_at, s.standing_id), '[]')
  from public.backfill_standing as s
  where s.target = p_rule.target
    and s.standing_id <> p_rule.standing_id
    and s.fingerprint = p_rule.fingerprint
    and s.revoked_at is null
    and p_rule.revoked_at is null
    and least(s.valid_until, p_rule.valid_until) > backfill_private.clock()
$$;

-- Every standing approval, the newest first. See backfill_private.standing_told.
create function backfill_private.standings_told()
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.authorize('read');
  return (
    select coalesce(
      jsonb_agg(backfill_private.standing_told(s.standing_id) order by s.proposed_at desc, s.standing_id), '[]')
    from public.backfill_standing as s);
end
$$;
