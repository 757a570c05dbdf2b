-- Views about runs, for people to look at during a run and afterwards.

create view public.backfill_run_progress with (security_invoker = true) as
select
  r.run_id,
  r.target,
  r.state,
  coalesce(c.total, 0) as total,
  coalesce(c.done, 0) as done,
  coalesce(c.failed, 0) as failed,
  coalesce(c.pending, 0) as pending,
  coalesce(c.leased, 0) as leased,
  coalesce(c.skipped, 0) as skipped,
  coalesce(c.unselected, 0) as unselected,
  coalesce(c.rolled_back, 0) as rolled_back,
  -- Seconds after the start a batch would look like many per minute, more than the throttle allows.
  round(
    least(
      coalesce(c.lately * 60.0 / w.watched_s, 0),
      backfill_private.rate_of(r)::numeric),
    1) as rate_per_minute,
  backfill_private.rate_of(r) as pace_per_minute,
  (r.request ->> 'throttle_per_minute')::integer as throttle_per_minute,
  case when r.state in ('approved', 'running') and c.total > 0 and not y.is_idle then
    round(greatest(
      p.batches_left * p.spacing_s
        + coalesce(greatest(extract(epoch from b.next_batch_at - backfill_private.clock()), 0), 0),
      case when p.lags and c.lately > 0 then (c.pending + c.leased) * w.watched_s / c.lately else 0 end))::integer
  end as eta_s,
  y.waits_for,
  r.reason,
  r.environment,
  r.approved_by,
  r.approved_until,
  r.created_at,
  r.started_at,
  r.finished_at,
  case when r.state in ('running', 'paused') and c.pending > 0 then b.next_batch_at end as next_batch_at,
  b.audit_count,
  b.audit_head,
  coalesce(r.plan -> 'called', '["session", "sessions"]') as called,
  r.cause,
  backfill_private.left_behind_count(r.run_id) as left_behind,
  backfill_private.next_step(
    r.run_id,
    coalesce(c.failed, 0),
    c.pending > 0 and c.leased = 0 and backfill_private.driven_by(r.run_id) is null) as next,
  backfill_private.unlike_approved(r.run_id) as unlike_approved,
  r.approved_via,
  backfill_private.standing_of_run(r.run_id) as standing
from public.backfill_runs as r
-- What batches have changed: see backfill_private.tallies.
cross join lateral (
  select
    coalesce(t.audit_count, r.audit_count) as audit_count,
    coalesce(t.audit_head, r.audit_head) as audit_head,
    coalesce(t.next_batch_at, r.next_batch_at) as next_batch_at
  from backfill_private.newest_tally(r.run_id) as t
) as b
left join (
  select
    i.run_id,
    count(*) as total,
    count(*) filter (where i.state = 'pending') as pending,
    count(*) filter (where i.state = 'leased') as leased,
    count(*) filter (where i.state = 'leased' and i.trial = 'called') as witnesses,
    count(*) filter (where i.state = 'leased' and i.lease_until > backfill_private.clock()) as held,
    max(i.lease_until) filter (where i.state = 'leased') as held_until,
    count(*) filter (where i.state = 'done') as done,
    count(*) filter (where i.state = 'failed') as failed,
    count(*) filter (where i.state = 'skipped') as skipped,
    count(*) filter (where i.state = 'skipped' and i.unselected is not null) as unselected,
    count(*) filter (where i.state = 'rolled_back') as rolled_back,
    count(*) filter (
      where i.settled_at > backfill_private.clock() - interval '60 seconds'
        and i.settled_at >= started.resumed_at
        and i.state in ('done', 'failed')) as lately,
    count(*) filter (where i.phase = 'priority' and i.state in ('pending', 'leased')) as canary_open,
    count(*) filter (where i.phase = 'priority' and i.state = 'pending') as pending_priority,
    -- When the next pending session may be tried. One that was never backed off may be tried now.
    min(coalesce(i.not_before, '-infinity')) filter (where i.state = 'pending') as next_try,
    (array_agg(concat_ws(' ', i.error_code, i.error_message) order by i.not_before)
      filter (where i.state = 'pending' and i.not_before is not null))[1] as tried_after
  from public.backfill_items as i
  join public.backfill_runs as started using (run_id)
  group by i.run_id
) as c using (run_id)
-- The rate covers the last 60 s, or the time since the run was started or resumed.
cross join lateral (
  select least(60.0, greatest(extract(epoch from backfill_private.clock() - r.resumed_at), 1.0)) as watched_s,
    coalesce(r.plan #>> '{called,1}', 'sessions') as called_many
) as w
-- While batches start as the throttle allows, the throttle gives the time left. If the run lags behind, its rate does.
cross join lateral (
  select
    s.spacing_s,
    greatest(ceil(c.pending / (s.paced ->> 'batch_size')::numeric) - 1, 0) as batches_left,
    coalesce(b.next_batch_at + make_interval(secs => s.spacing_s::double precision)
      < backfill_private.clock(), false) or s.paced ->> 'throttle_per_minute' is null as lags
  from (select backfill_private.paced(r.request, r.pace_per_minute) as paced) as n
  cross join lateral (select n.paced, backfill_private.batch_spacing_s(n.paced) as spacing_s) as s
) as p
-- In one form: what it waits for, and why. offset 0: worked out once, though it is read twice.
cross join lateral (
  select
    case
      when r.state = 'paused' then
        format('resume: paused by %s: %s', coalesce(r.held_by, 'the database'), coalesce(r.reason, 'no reason given'))
      when r.state = 'awaiting_approval' then 'approval: of digest ' || r.digest
      when r.state = 'approved' then
        coalesce('driver: ' || backfill_private.driven_by(r.run_id), 'apply: backfill apply ' || r.run_id)
      when r.state <> 'running' then null
      when c.leased > 0 and c.held = 0 then
        format('worker: none renews the leases that ran out by %s UTC. If none is alive: backfill apply %s',
          to_char(c.held_until at time zone 'UTC', 'HH24:MI:SS'), r.run_id)
      when c.pending = 0 and c.leased > 0 then
        format('leases: the last %s, ', w.called_many) || backfill_private.lease_holders(r.run_id)
      when r.back_off_until > backfill_private.clock() then
        format('back-off: until %s UTC after %s',
          to_char(r.back_off_until at time zone 'UTC', 'HH24:MI:SS'), r.back_off_reason)
      when r.approved_via = 'standing' and c.pending > 0 and backfill_private.waits_for_hours(r.run_id) is not null then
        backfill_private.waits_for_hours(r.run_id)
      when r.canary is null and c.canary_open > 0 and c.pending_priority = 0 then
        'canary: ' || coalesce(
          backfill_private.lease_holders(r.run_id),
          format('its %s are about to be judged', w.called_many))
      when b.next_batch_at > backfill_private.clock() then
        'throttle: the next batch starts at ' || to_char(b.next_batch_at at time zone 'UTC', 'HH24:MI:SS') || ' UTC'
      when c.pending > 0 and backfill_private.unwell_lately(r.run_id) is not null then
        'health: ' || backfill_private.unwell_lately(r.run_id)
      when c.pending > 0 and c.leased = 0 and backfill_private.slots_taken(1) is not null then
        'throttle: ' || backfill_private.slots_taken(1)
      when c.witnesses > 0 then
        format('trial: whether an error is that of all %s, ', w.called_many) || backfill_private.lease_holders(r.run_id)
      when c.pending > 0 and c.next_try > backfill_private.clock() then
        format('back-off: the next %s is tried again at %s UTC after %s', coalesce(r.plan #>> '{called,0}', 'session'),
          to_char(c.next_try at time zone 'UTC', 'HH24:MI:SS'), c.tried_after)
      when c.leased = 0 then
        coalesce(
          'leases: ' || backfill_private.lease_holders(r.run_id),
          'driver: ' || backfill_private.driven_by(r.run_id),
          'worker: none asks for the next batch. If none is alive: backfill apply ' || r.run_id)
    end as waits_for
  offset 0
) as x
-- Nobody works on it: then nobody knows how long it takes. A call in bulk holds no lease that could be seen.
cross join lateral (
  select x.waits_for,
    coalesce(x.waits_for like 'worker: %' and (c.lately = 0 or r.request ->> 'mode' is distinct from 'bulk'), false)
      as is_idle
) as y;

comment on view public.backfill_run_progress is 'Where each run stands: counts, rate, time left, and why it waits.';
comment on column public.backfill_run_progress.run_id is 'The run.';
comment on column public.backfill_run_progress.target is 'What is backfilled: a target of backfill_targets.';
comment on column public.backfill_run_progress.state is 'Where it stands.';
comment on column public.backfill_run_progress.total is 'Sessions in the plan.';
comment on column public.backfill_run_progress.done is 'Sessions with every planned row.';
comment on column public.backfill_run_progress.failed is 'Sessions that failed. backfill_run_failures says why.';
comment on column public.backfill_run_progress.pending is 'Sessions that wait.';
comment on column public.backfill_run_progress.leased is 'Sessions that a worker holds.';
comment on column public.backfill_run_progress.skipped is
  'Sessions that were not scored: somebody else had filled them first, or the target no longer selected them.';
comment on column public.backfill_run_progress.unselected is
  'Of these, sessions that the target no longer selected.';
comment on column public.backfill_run_progress.rolled_back is 'Sessions whose rows were undone.';
comment on column public.backfill_run_progress.rate_per_minute is
  'Sessions settled per minute, over the last 60 seconds or since the run was started or resumed.';
comment on column public.backfill_run_progress.pace_per_minute is
  'Session starts per minute that are in force, never more than approved. Null: there is no throttle.';
comment on column public.backfill_run_progress.throttle_per_minute is
  'Session starts per minute that were approved. Null: no throttle.';
comment on column public.backfill_run_progress.eta_s is
  'Seconds until the last batch starts: from the throttle, or from the rate if the run lags behind the throttle. '
  'Null if nobody works on the run.';
comment on column public.backfill_run_progress.waits_for is
  'What it waits for right now, and why: throttle: the next batch starts at … Null while sessions are being scored.';
comment on column public.backfill_run_progress.reason is 'Why it is paused, rejected, cancelled or expired.';
comment on column public.backfill_run_progress.environment is 'The environment that the plan is for.';
comment on column public.backfill_run_progress.approved_by is 'Who approved it.';
comment on column public.backfill_run_progress.approved_until is 'When the approval runs out.';
comment on column public.backfill_run_progress.created_at is 'When planning began.';
comment on column public.backfill_run_progress.started_at is 'When the first worker started it.';
comment on column public.backfill_run_progress.finished_at is 'When it came to an end.';
comment on column public.backfill_run_progress.next_batch_at is
  'When the next batch may start. Null if no batch is left.';
comment on column public.backfill_run_progress.audit_count is 'How many audit events it has.';
comment on column public.backfill_run_progress.audit_head is
  'Hash of the newest audit event. Keep it outside the database: it shows whether the history was changed.';
comment on column public.backfill_run_progress.called is 'How the target''s rows are called: one of them, and several.';
comment on column public.backfill_run_progress.cause is 'What kind of reason a pause has, as a code.';
comment on column public.backfill_run_progress.left_behind is 'Rows that an undo could not take back.';
comment on column public.backfill_run_progress.next is
  'What helps now: the causes, whether a person has to decide first, sentences, and the lines to copy.';
comment on column public.backfill_run_progress.unlike_approved is
  'Says so if the figures or marks of the plan are not those that the approver read. Else null.';

comment on column public.backfill_run_progress.approved_via is
  'How it was approved: sql, auth, service_key or standing.';
comment on column public.backfill_run_progress.standing is
  'The standing approval that allowed it, or why none covers it: {standing_id, covers, reason}. Null: there is none.';

create view public.backfill_run_failures with (security_invoker = true) as
select
  i.run_id,
  i.session_id,
  i.failed_step,
  i.error_code,
  i.error_message,
  i.attempts,
  i.settled_at,
  i.phase,
  i.batch
from public.backfill_items as i
where i.state = 'failed'
order by i.run_id, i.ordinal;

comment on view public.backfill_run_failures is 'The sessions that failed, and why.';
comment on column public.backfill_run_failures.run_id is 'The run.';
comment on column public.backfill_run_failures.session_id is 'The session that failed.';
comment on column public.backfill_run_failures.failed_step is 'The component whose scoring call failed.';
comment on column public.backfill_run_failures.error_code is 'SQLSTATE, code of the API or HTTP status.';
comment on column public.backfill_run_failures.error_message is 'What the error said, 500 characters at most.';
comment on column public.backfill_run_failures.attempts is 'How often it was tried.';
comment on column public.backfill_run_failures.settled_at is 'When it failed for good.';
comment on column public.backfill_run_failures.phase is 'priority, recent or historical.';
comment on column public.backfill_run_failures.batch is 'Number of its batch in the plan.';
