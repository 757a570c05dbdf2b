-- Views about runs: what people look at while a run runs and after it.

create view public.backfill_run_progress with (security_invoker = true) as
select
  r.run_id,
  r.state,
  coalesce(c.total, 0) as total,
  coalesce(c.done, 0) as done,
  coalesce(c.failed, 0) as failed,
  coalesce(c.pending, 0) as pending,
  coalesce(c.leased, 0) as leased,
  coalesce(c.skipped, 0) as skipped,
  coalesce(c.rolled_back, 0) as rolled_back,
  round(coalesce(c.lately * 60.0 / w.watched_s, 0), 1) as rate_per_minute,
  case when r.state in ('approved', 'running') and c.total > 0 then round(greatest(
    p.batches_left * p.spacing_s + coalesce(greatest(extract(epoch from r.next_batch_at - backfill_private.clock()), 0), 0),
    case when p.lags and c.lately > 0 then (c.pending + c.leased) * w.watched_s / c.lately else 0 end))::integer end as eta_s,
  case
    when r.state = 'paused' then format('paused by %s: %s', coalesce(r.held_by, 'the database'), coalesce(r.reason, 'no reason given'))
    when r.state = 'awaiting_approval' then 'waits for an approval of digest ' || r.digest
    when r.state = 'approved' then 'waits for backfill apply ' || r.run_id
    when r.state <> 'running' then null
    when c.pending = 0 and c.leased > 0 then 'the last sessions: ' || backfill_private.lease_holders(r.run_id)
    when r.back_off_until > backfill_private.clock() then
      format('back-off until %s UTC after %s', to_char(r.back_off_until at time zone 'UTC', 'HH24:MI:SS'), r.back_off_reason)
    when r.canary is null and c.canary_open > 0 and c.pending_priority = 0
      then 'canary: ' || coalesce(backfill_private.lease_holders(r.run_id), 'its sessions are about to be judged')
    when r.next_batch_at > backfill_private.clock()
      then 'throttle: the next batch starts at ' || to_char(r.next_batch_at at time zone 'UTC', 'HH24:MI:SS') || ' UTC'
    when c.pending > 0 and c.next_try > backfill_private.clock()
      then format('back-off: the next session is tried again at %s UTC after %s', to_char(c.next_try at time zone 'UTC', 'HH24:MI:SS'),
        c.tried_after)
    when c.leased = 0 then coalesce('lease: ' || backfill_private.lease_holders(r.run_id),
      'for a worker to ask for the next batch; where none is alive: backfill apply ' || r.run_id)
  end as waits_for,
  r.reason,
  r.environment,
  r.approved_by,
  r.approved_until,
  r.created_at,
  r.started_at,
  r.finished_at,
  case when r.state in ('running', 'paused') and c.pending > 0 then r.next_batch_at end as next_batch_at,
  r.audit_count,
  r.audit_head
from public.backfill_runs as r
left join (
  select i.run_id,
    count(*) as total,
    count(*) filter (where i.state = 'pending') as pending,
    count(*) filter (where i.state = 'leased') as leased,
    count(*) filter (where i.state = 'done') as done,
    count(*) filter (where i.state = 'failed') as failed,
    count(*) filter (where i.state = 'skipped') as skipped,
    count(*) filter (where i.state = 'rolled_back') as rolled_back,
    count(*) filter (where i.settled_at > backfill_private.clock() - interval '60 seconds'
      and i.settled_at >= started.resumed_at and i.state in ('done', 'failed')) as lately,
    count(*) filter (where i.phase = 'priority' and i.state in ('pending', 'leased')) as canary_open,
    count(*) filter (where i.phase = 'priority' and i.state = 'pending') as pending_priority,
    -- When the first pending session may be tried; one that never met trouble at once.
    min(coalesce(i.not_before, '-infinity')) filter (where i.state = 'pending') as next_try,
    (array_agg(concat_ws(' ', i.error_code, i.error_message) order by i.not_before)
      filter (where i.state = 'pending' and i.not_before is not null))[1] as tried_after
  from public.backfill_items as i
  join public.backfill_runs as started using (run_id)
  group by i.run_id
) as c using (run_id)
-- The rate is over the last 60 s, or since the run was started or resumed.
cross join lateral (
  select least(60.0, greatest(extract(epoch from backfill_private.clock() - r.resumed_at), 1.0)) as watched_s
) as w
-- While batches start as the throttle allows, it tells the time left; a run that lags behind it is told by its rate.
cross join lateral (
  select backfill_private.batch_spacing_s(r.request) as spacing_s,
    greatest(ceil(c.pending / (r.request ->> 'batch_size')::numeric) - 1, 0) as batches_left,
    coalesce(r.next_batch_at + make_interval(secs => backfill_private.batch_spacing_s(r.request)::double precision)
      < backfill_private.clock(), false) or r.request ->> 'throttle_per_minute' is null as lags
) as p;

comment on view public.backfill_run_progress is 'Where each run stands: counts, rate, time left, and why it waits.';
comment on column public.backfill_run_progress.rate_per_minute is 'Sessions settled a minute, over the last 60 seconds or since the run was started or resumed.';
comment on column public.backfill_run_progress.eta_s is 'Seconds until the last batch starts: from the throttle, or from the rate where the run lags behind it.';
comment on column public.backfill_run_progress.run_id is 'The run.';
comment on column public.backfill_run_progress.state is 'Where it stands.';
comment on column public.backfill_run_progress.reason is 'Why it is paused, rejected, cancelled or expired.';
comment on column public.backfill_run_progress.environment is 'The environment that the plan is for.';
comment on column public.backfill_run_progress.total is 'Sessions in the plan.';
comment on column public.backfill_run_progress.pending is 'Sessions that wait.';
comment on column public.backfill_run_progress.leased is 'Sessions that a worker holds.';
comment on column public.backfill_run_progress.done is 'Sessions with every planned row.';
comment on column public.backfill_run_progress.failed is 'Sessions that failed; backfill_run_failures says why.';
comment on column public.backfill_run_progress.skipped is 'Sessions that somebody else had filled first.';
comment on column public.backfill_run_progress.rolled_back is 'Sessions whose rows an undo took back.';
comment on column public.backfill_run_progress.next_batch_at is 'When the next batch may start; null where none is to come.';
comment on column public.backfill_run_progress.approved_by is 'Who approved it.';
comment on column public.backfill_run_progress.approved_until is 'When the approval runs out.';
comment on column public.backfill_run_progress.created_at is 'When planning began.';
comment on column public.backfill_run_progress.started_at is 'When the first worker started it.';
comment on column public.backfill_run_progress.finished_at is 'When it came to an end.';
comment on column public.backfill_run_progress.audit_count is 'How many audit events it has.';
comment on column public.backfill_run_progress.audit_head is 'Hash of the newest audit event. Keep it elsewhere: a changed history shows against it.';
comment on column public.backfill_run_progress.waits_for is 'Why nothing happens right now; null while sessions are being scored.';

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
comment on column public.backfill_run_failures.phase is 'priority, recent or historical.';
comment on column public.backfill_run_failures.batch is 'Number of its batch in the plan.';
comment on column public.backfill_run_failures.failed_step is 'The component whose scoring call failed.';
comment on column public.backfill_run_failures.error_code is 'SQLSTATE, code of the API or HTTP status.';
comment on column public.backfill_run_failures.error_message is 'What the error said, 500 characters at most.';
comment on column public.backfill_run_failures.attempts is 'How often it was tried.';
comment on column public.backfill_run_failures.settled_at is 'When it failed for good.';

grant execute on function backfill_private.lease_holders(uuid) to authenticated, service_role;
revoke all on public.backfill_run_progress, public.backfill_run_failures from public, anon, authenticated, service_role;
grant select on public.backfill_run_progress, public.backfill_run_failures to authenticated, service_role;

-- The sessions of a run's plan in its order, packed: rows would come a thousand a page and with a name for every value.
--
-- p_after   after this place
-- returns   at most p_sessions of [ordinal, session_id, session_at, category, components, phase, batch, state, attempts,
--           failed_step, error_code, error_message, started_at, settled_at]
create function public.backfill_plan_sessions(p_run_id uuid, p_after integer default 0, p_sessions integer default 10000)
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(json_agg(i.packed order by i.ordinal), '[]')
  from (
    select x.ordinal, json_build_array(x.ordinal, x.session_id, x.session_at, x.category, x.components, x.phase, x.batch,
      x.state, x.attempts, x.failed_step, x.error_code, x.error_message, x.started_at, x.settled_at) as packed
    from public.backfill_items as x
    where x.run_id = p_run_id and x.ordinal > p_after order by x.ordinal limit greatest(least(p_sessions, 10000), 0)) as i
$$;

-- What a run's scoring wrote, packed: the receipts of so many sessions before a place of its plan, all of a session together.
--
-- p_before  before this place; null: from the end
-- returns   [receipt_id, ordinal, session_id, component, operation, table_name, row_key, before_hash, after_hash, attempt,
--           at, undone_at]; hashes in hex
create function public.backfill_written(p_run_id uuid, p_before integer default null, p_sessions integer default 2000)
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(json_agg(json_build_array(r.receipt_id, r.ordinal, r.session_id, r.component, r.operation, r.table_name,
    r.row_key, encode(r.before_hash, 'hex'), encode(r.after_hash, 'hex'), r.attempt, r.at, r.undone_at)
    order by r.ordinal desc, r.receipt_id), '[]')
  from (
    select x.run_id, x.ordinal from public.backfill_items as x
    where x.run_id = p_run_id and (p_before is null or x.ordinal < p_before) and exists (
      select from public.backfill_receipts as y where y.run_id = x.run_id and y.ordinal = x.ordinal and y.kind = 'score')
    order by x.ordinal desc limit greatest(least(p_sessions, 2000), 0)) as i
  join public.backfill_receipts as r on r.run_id = i.run_id and r.ordinal = i.ordinal and r.kind = 'score'
$$;

revoke all on function public.backfill_plan_sessions(uuid, integer, integer), public.backfill_written(uuid, integer, integer)
from public, anon, authenticated, service_role;
grant execute on function public.backfill_plan_sessions(uuid, integer, integer), public.backfill_written(uuid, integer, integer)
to authenticated, service_role;

comment on function public.backfill_plan_sessions(uuid, integer, integer) is
  'The next sessions of a run''s plan, packed. For the client.';
comment on function public.backfill_written(uuid, integer, integer) is
  'What a run''s scoring wrote, packed, the plan''s last sessions first. For the client.';
