-- The doors: every function that the API offers, in the order of a run's life. Each runs with its caller's rights.

-- Is this project ready? One line per check, each with what to do about it.
create function public.backfill_check(p_probed jsonb default null)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.check_project(p_probed)
$$;

comment on function public.backfill_check(jsonb) is
  'Is this project ready? One line per check, each with what to do.';

create function public.backfill_calls(p_run_id uuid default null)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.calls_to_probe(p_run_id)
$$;

comment on function public.backfill_calls(uuid) is
  'The scoring calls of a run, or of every target, by function and names of arguments. For the client, which asks the '
  'API whether it could make them.';

-- Which migrations this database has applied, and which targets are installed.
create function public.backfill_history(p_versions text[])
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.history(p_versions)
$$;

comment on function public.backfill_history(text[]) is
  'Which of these migrations the database has applied, by the timestamps of their names. For the client.';

-- What is missing of a target, by UTC day.
--
-- p_target  null: the only target
-- p_since   the first day. Days that no plan can take come too: without a date, infinite, of a year not in 1 to 9999
-- p_until   the last day
-- returns   {components, days: [a row of the target's view of daily coverage], not_wanted: {component: why it may not
--           be wanted}, undated: sessions of such days that lack something, date: the date's column, called: its rows,
--           one and several, notes: sentences}
-- raises    OB010 not allowed, OB013 no such target or no date
create function public.backfill_coverage(
  p_target text default null, p_since text default null, p_until text default null
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_asked record;
  v_days jsonb;
  v_undated bigint;
  v_without bigint;
begin
  select * into v_asked from backfill_private.coverage_of(p_target, p_since, p_until);
  execute format(
    'select coalesce(jsonb_agg(to_jsonb(d) order by d.day), ''[]''),
       coalesce(sum(d.completed - d.complete) filter (where d.day between %2$L and %3$L is not true), 0),
       coalesce(sum(d.completed - d.complete) filter (where d.day is null), 0)
     from %1$s as d
     where d.day between %2$L and %3$L is not true
       or (($1 is null or d.day >= $1) and ($2 is null or d.day <= $2))',
    v_asked.view_name::regclass, '0001-01-01', '9999-12-31')
  into v_days, v_undated, v_without
  using v_asked.first_day, v_asked.last_day;
  return jsonb_build_object(
    'components', v_asked.components,
    'days', v_days,
    'not_wanted', v_asked.not_wanted,
    'undated', v_undated,
    'date', v_asked.date_column,
    'called', v_asked.called,
    'notes', v_asked.notes || coalesce(
      to_jsonb(backfill_private.no_plan_takes(
        v_asked.called, v_asked.date_column, v_without, v_undated - v_without)), '[]'));
end
$$;

comment on function public.backfill_coverage(text, text, text) is
  'What is missing of a target, by UTC day: the target, the first day, the last. Sessions without a date count in any '
  'range. For the client.';

-- Look at a target, or at all: whether the sessions have their rows in time.
--
-- target      null: every target
-- full_count  count all days, in parts: call it until is_over is true. By itself it counts the days whose sessions can
--             still change, and all of them the first time and after a new declaration
-- budget_ms   a call begins no further part after this. Null: 1,500, and 20,000 while all days are counted
-- returns     {targets: [{target, status: ok, breached or unknown, coverage, min_coverage, within_s, over_s,
--             breached_since, judged_since, wanted, missing, short_by, oldest_missing_at, undated, looked_at,
--             unlooked_hours, alert_id, why, is_over, change: opened or closed, else null}]}
-- raises      OB010 not allowed, OB013 no such target
create function public.backfill_watch(
  target text default null, full_count boolean default false, budget_ms integer default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.watch($1, $2, $3)
$$;

comment on function public.backfill_watch(text, boolean, integer) is
  'Look whether the sessions of a target, or of all, have their rows in time. For pg_cron, the SQL editor and jobs.';

create function public.backfill_heal_next(target text default null)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.heal_next($1)
$$;

comment on function public.backfill_heal_next(text) is
  'The run that a heal of a target works on, or what it plans next. For the client.';

-- The relations and functions that a declaration may name, from the catalogs alone.
--
-- returns  {relations, functions}, see backfill_private.catalog_relations and catalog_functions
create function public.backfill_catalog()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
  select jsonb_build_object(
    'relations', (select coalesce(jsonb_agg(r), '[]') from backfill_private.catalog_relations() as r),
    'functions', (select coalesce(jsonb_agg(f), '[]') from backfill_private.catalog_functions() as f))
$$;

comment on function public.backfill_catalog() is
  'The tables, views, keys and functions that a declaration may name. Reads only the catalogs. For the client.';

-- Hold a declaration against this project before any migration of it exists. Nothing of it is kept.
--
-- returns  [{place: [step], message, next}], empty if it can be declared
create function public.backfill_check_target(p_declaration jsonb)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.declaration_faults(p_declaration)
$$;

comment on function public.backfill_check_target(jsonb) is
  'Every fault of a declaration, before any migration of it exists. Nothing of it is kept. For the client.';

-- Which targets are installed.
--
-- returns  [{target, components, installed_at}]
create function public.backfill_installed()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.installed_targets()
$$;

comment on function public.backfill_installed() is
  'The installed targets: name, components, since when. For the client.';

-- The doors of planning.
create function public.backfill_open(
  p_request jsonb, p_project_host text default null, p_run_id uuid default null
)
returns uuid
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.open_run(p_request, p_project_host, p_run_id)
$$;

comment on function public.backfill_open(jsonb, text, uuid) is
  'Open a run for a request, as the first step of planning. For the client.';

create function public.backfill_collect(p_run_id uuid)
returns boolean
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.collect_window(p_run_id)
$$;

comment on function public.backfill_collect(uuid) is
  'Look for what is missing in the next span of dates. True when all dates are done. For the client.';

-- The doors of the rehearsal.
create function public.backfill_rehearsal(p_run_id uuid)
returns text[]
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.rehearsal_sample(p_run_id)
$$;

comment on function public.backfill_rehearsal(uuid) is
  'Choose the sessions that are rehearsed while planning. For the client.';

-- Approve an undo that was previewed, if the policy asks for that. Whoever carries it out confirms it afterwards.
create function public.backfill_approve_undo(
  run uuid, digest text, approver text default null, note text default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.approve_undo($1, $2, $3, $4)
$$;

comment on function public.backfill_approve_undo(uuid, text, text, text) is
  'Approve a previewed undo: the run, the digest, your name. For the SQL editor, or an Auth user with the role '
  'approver.';

-- Rehearse one session of the sample: score it, score it again, undo it, and roll everything back. Then score one of
-- each kind after another session, and roll that back too. Once somebody waits for its rows for long, the rest is left.
--
-- The last parameter is the caller's search path: a default is evaluated before this function's own path is set. It has
-- no name, so that no call through the API can give another.
-- returns        {took_ms: of this call in the database, calls, error, tables, …}, or {why} if it was not rehearsed
-- raises         OB002 not in planning, OB010 not allowed, OB014 the session is not in the sample
create function public.backfill_rehearse(
  p_run_id uuid, p_session_id text, text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_search_path alias for $3;
  v_began timestamptz := backfill_private.clock();
  v_lease jsonb;
  v_leased_ms numeric;
  v_alone jsonb;
  v_seen jsonb := '{"calls": [], "error": null}'::jsonb;
  v_is_seen boolean := false;
  v_limit_at timestamptz := backfill_private.limit_at();
  v_waits text := backfill_private.rehearsal_waits(2);
begin
  perform backfill_private.take_rehearsal_lock(p_run_id);
  begin
    v_lease := backfill_private.rehearsal_lease(p_run_id, p_session_id);
    if v_lease ? 'steps' and v_waits is not null then
      v_lease := jsonb_build_object('why', v_waits);
    end if;
    v_leased_ms := extract(epoch from backfill_private.clock() - v_began) * 1000;
    if v_lease ? 'steps' then
      perform set_config('lock_timeout', '1s', true);
      perform set_config('request.headers',
        (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb || (v_lease -> 'headers'))::text,
        true);
      v_seen := backfill_private.rehearse_pass(v_lease -> 'steps', v_search_path, v_limit_at);
      v_seen := v_seen || backfill_private.seen_first((v_lease ->> 'scratch')::uuid, v_lease -> 'writes');
      if v_seen ->> 'error' is null and not backfill_private.gives_way(v_began) then
        v_alone := backfill_private.row_hashes((v_lease ->> 'scratch')::uuid);
        v_seen := v_seen || jsonb_build_object('second',
          backfill_private.rehearse_pass(v_lease -> 'steps', v_search_path, v_limit_at)
            || backfill_private.seen_second((v_lease ->> 'scratch')::uuid));
        if not backfill_private.gives_way(v_began) then
          v_seen := v_seen || jsonb_build_object('undone',
            backfill_private.seen_undone((v_lease ->> 'scratch')::uuid, v_search_path, v_limit_at));
        end if;
      end if;
    else
      v_seen := v_lease;
    end if;
    v_is_seen := true;
    raise exception 'everything is rolled back';
  exception when query_canceled or assert_failure or others then
    if v_lease is null then
      raise;
    elsif not v_is_seen then
      v_seen := backfill_private.seen_until(v_seen, sqlstate, sqlerrm, v_limit_at);
    end if;
  end;
  if v_lease ? 'steps' then
    perform backfill_private.count_rehearsal(2);
  end if;
  if v_alone is not null then
    v_seen := v_seen || backfill_private.seen_beside(p_run_id, p_session_id, v_search_path, v_alone);
  end if;
  v_seen := v_seen || jsonb_build_object(
    'leased_ms', round(v_leased_ms, 1),
    'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
  perform backfill_private.keep_rehearsal(p_run_id, p_session_id, v_seen);
  return v_seen;
end
$$;

comment on function public.backfill_rehearse(uuid, text, text) is
  'Score one session twice, undo it and roll everything back, to see what it would do. For the client.';

-- Complete a plan. If a standing approval covers it, it is approved at once. A call that is repeated after that, since
-- its answer was lost, has the same answer.
create function public.backfill_seal(
  p_run_id uuid, p_round_trip_ms numeric default null, p_probed jsonb default null
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_sealed jsonb := '{"state": "awaiting_approval"}'::jsonb;
begin
  if not exists (
    select from public.backfill_runs as r where r.run_id = p_run_id and r.approved_via = 'standing')
  then
    v_sealed := backfill_private.seal(p_run_id, p_round_trip_ms, p_probed);
  end if;
  return case v_sealed ->> 'state'
    when 'awaiting_approval' then backfill_private.ask_standing(p_run_id)
    else v_sealed
  end;
end
$$;

comment on function public.backfill_seal(uuid, numeric, jsonb) is
  'Complete a plan and compute its digest. The run then awaits approval, unless a standing approval covers it. For the '
  'client.';

-- The sessions of a run's plan in its order, packed. Rows would come 1,000 per page, with a name for every value.
--
-- p_after  after this place
-- returns  at most p_sessions of [ordinal, session_id, session_at, category, components, phase, batch, state, attempts,
--          failed_step, error_code, error_message, started_at, settled_at]
create function public.backfill_plan_sessions(
  p_run_id uuid, p_after integer default 0, p_sessions integer default 10000
)
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select coalesce(json_agg(i.packed order by i.ordinal), '[]')
  from (
    select
      x.ordinal,
      json_build_array(x.ordinal, x.session_id, x.session_at, x.category, x.components, x.phase, x.batch, x.state,
        x.attempts, x.failed_step, x.error_code, coalesce(x.error_message, x.unselected),
        x.started_at, x.settled_at) as packed
    from public.backfill_items as x
    where x.run_id = p_run_id
      and x.ordinal > p_after
    order by x.ordinal
    limit greatest(least(p_sessions, 10000), 0)
  ) as i
$$;

comment on function public.backfill_plan_sessions(uuid, integer, integer) is
  'The next sessions of a run''s plan, packed. For the client.';

create function public.backfill_freshness(p_run_id uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.freshness(p_run_id)
$$;

comment on function public.backfill_freshness(uuid) is
  'What changed since a plan was sealed: sessions filled meanwhile or no longer selected, new candidates, definitions, '
  'settings, approval.';

-- Runs whose id begins with a prefix of at least eight characters, at most two runs. That is enough to tell unique from
-- ambiguous.
--
-- raises  OB013 no target is installed, and there is no run at all
create function public.backfill_find_runs(p_prefix text)
returns setof uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  -- One that is longer than an id is no prefix of it.
  v_prefix text := lower(btrim(left(p_prefix, 100)));
begin
  perform backfill_private.refuse_untargeted();
  return query
    select r.run_id
    from public.backfill_runs as r
    where starts_with(r.run_id::text, v_prefix)
      and length(v_prefix) >= 8
    order by r.run_id
    limit 2;
end
$$;

comment on function public.backfill_find_runs(text) is
  'The runs whose id begins with a prefix of at least eight characters, two at most. For the client.';

-- Approve a plan, or a standing approval.
--
-- run       the run's id, or the standing approval's
-- digest    its digest, as it shows it
-- approver  your name. For an Auth user the email is taken instead
-- note      anything worth keeping with the decision
-- returns   the run's state, and until when the approval is valid. Of a standing approval, as standing_told
create function public.backfill_approve(
  run uuid, digest text, approver text default null, note text default null
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_told jsonb;
begin
  -- Whoever gives a standing approval a run's id gains nothing by that: the run is meant.
  if exists (select from public.backfill_standing as s where s.standing_id = $1)
    and not exists (select from public.backfill_runs as r where r.run_id = $1)
  then
    return backfill_private.approve_standing($1, $2, $3, $4);
  end if;
  insert into public.backfill_approvals as a (run_id, digest, decision, approver, note)
  values ($1, $2, 'approved', coalesce($3, ''), $4)
  returning jsonb_build_object(
    'run_id', a.run_id,
    'state', 'approved',
    'digest', a.digest,
    'approver', a.approver,
    'via', a.via,
    'valid_until', a.valid_until) into v_told;
  return v_told;
end
$$;

comment on function public.backfill_approve(uuid, text, text, text) is
  'Approve a plan or a standing approval: its id, its digest, your name. For the SQL editor, or an Auth user with the '
  'role approver.';

-- Propose a standing approval: a rule by which runs are approved without a person. A person has to approve it first.
--
-- target        null: the only target
-- until         its last day, or a moment
-- max_sessions  of one run
-- max_per_day   sessions that standing approvals approve of the target per UTC day. Null: no bound
-- max_calls     scoring calls of one run. Null: no bound
-- throttle      the highest that a run may have. Null: any
-- hours         UTC hours such as 01-05, in which runs are approved and sessions start. Null: any time
-- weekdays      such as mon-fri. Null: every day
-- marks         marks of the plan that must be ok. None may fail
-- replace       whether rows may be replaced. False: new rows only
-- environment   the project's. Any other is refused
-- standing      an id of the caller's own, so that the call can be repeated
create function public.backfill_propose_standing(
  target text default null, until text default null, max_sessions integer default null,
  max_per_day integer default null, max_calls integer default null, throttle integer default null,
  hours text default null, weekdays text default null, marks text[] default '{}', replace boolean default false,
  environment text default null, standing uuid default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.propose_standing($12, jsonb_build_object(
    'target', $1,
    'until', $2,
    'max_sessions', $3,
    'max_per_day', $4,
    'max_calls', $5,
    'throttle', $6,
    'hours', $7,
    'weekdays', $8,
    'marks', to_jsonb($9),
    'replace', $10,
    'environment', $11))
$$;

comment on function public.backfill_propose_standing(
  text, text, integer, integer, integer, integer, text, text, text[], boolean, text, uuid) is
  'Propose a rule by which runs are approved without a person: target, last day, most sessions of a run, and what else '
  'it allows. A person approves it like a plan.';

create function public.backfill_standings()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.standings_told()
$$;

comment on function public.backfill_standings() is
  'Every standing approval, the newest first: its rule, where it stands and why, how much it was used.';

-- Revoke a standing approval. What it has allowed starts no further session.
create function public.backfill_revoke_standing(standing uuid, reason text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.revoke_standing($1, $2)
$$;

comment on function public.backfill_revoke_standing(uuid, text) is
  'Revoke a standing approval at once: its id, the reason. Runs that it allowed start no further session.';

-- Ask again whether a standing approval covers a run that waits for a person, as when its hours have begun.
create function public.backfill_ask_standing(run uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.ask_standing($1)
$$;

comment on function public.backfill_ask_standing(uuid) is
  'Ask whether a standing approval covers a run that awaits approval. If so, it is approved.';

-- Reject a plan. The reason is kept.
create function public.backfill_reject(run uuid, reason text, approver text default null)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into public.backfill_approvals (run_id, digest, decision, approver, note)
  values ($1, '', 'rejected', coalesce($3, ''), $2)
  returning jsonb_build_object(
    'run_id', run_id,
    'state', 'rejected',
    'approver', approver,
    'via', via,
    'reason', note)
$$;

comment on function public.backfill_reject(uuid, text, text) is
  'Refuse a plan for good: the run, the reason, your name.';

create function public.backfill_start(p_run_id uuid, p_worker text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.start(p_run_id, p_worker)
$$;

comment on function public.backfill_start(uuid, text) is
  'Start an approved run, or continue it. Everything that was approved is compared again. For the client.';

-- Pause a run. No session starts until it is resumed.
create function public.backfill_pause(run uuid, reason text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.halt('pause', $1, $2)
$$;

comment on function public.backfill_pause(uuid, text) is
  'Start no further session of a run until it is resumed: the run, the reason.';

-- Lift a run's pause. A worker that is still alive goes on. If there is none: backfill apply RUN.
--
-- because  if the run has critical events: you have looked at them, and why they need not stop it
create function public.backfill_resume(run uuid, because text default null)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.resume($1, $2)
$$;

comment on function public.backfill_resume(uuid, text) is
  'Lift the pause of a run, and answer its critical events: the run, and why they need not stop it.';

-- Lower the rate of a run, or raise it again up to what was approved. It holds from the next batch on.
--
-- per_minute  session starts per minute. Null: no throttle, if the run was approved without one
create function public.backfill_pace(run uuid, per_minute numeric)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.pace($1, $2)
$$;

comment on function public.backfill_pace(uuid, numeric) is
  'Lower the rate of a run, or raise it again up to what was approved: the run, starts per minute.';

-- Stop a run for good. What it wrote stays. backfill rollback undoes it.
create function public.backfill_cancel(run uuid, reason text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.halt('cancel', $1, $2)
$$;

comment on function public.backfill_cancel(uuid, text) is
  'Stop a run for good: the run, the reason. What it wrote stays.';

create function public.backfill_retry(p_run_id uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.retry(p_run_id)
$$;

comment on function public.backfill_retry(uuid) is
  'Make the failed sessions of a completed run pending again, under the same approval. For the client.';

create function public.backfill_claim(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.claim(p_run_id, p_claim_id, p_worker)
$$;

comment on function public.backfill_claim(uuid, uuid, text) is
  'Claim the next batch of a run, with a fence for each session. For the client.';

create function public.backfill_claim_apart(p_run_id uuid, p_claim_id uuid, p_worker text)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.claim_apart(p_run_id, p_claim_id, p_worker)
$$;

comment on function public.backfill_claim_apart(uuid, uuid, text) is
  'Claim a batch of a run in bulk to score it session by session, after a call in bulk has failed. For the client.';

-- Score a batch in bulk, fifty sessions per subtransaction. If one of the fifty fails, each is scored in its own
-- subtransaction, so that only the one fails, and the call ends with these. That makes 59 subtransactions at most, and
-- PostgreSQL keeps up to 64 cheaply. A session that is not well beside others is pending, and a later call takes it
-- alone.
--
-- p_sessions     at most this many, and at most 500
-- p_budget_ms    no session starts after this time, since a row that is written stays locked until the call ends. None
--                starts either once the approval has run out. What was kept until then is done. What was scored
--                together with one that ends later is rolled back and pending
-- The last parameter is the caller's search path: a default is evaluated before this function's own path is set. It has
-- no name, so that no call through the API can give another.
-- returns        {look: true} if a claim has to look first, else {sessions, done, failed, pending, took_ms, alone}
--                alone: no session is well after another in one transaction, so ask for one at a time
create function public.backfill_bulk(
  p_run_id uuid, p_worker text, p_sessions integer, p_budget_ms integer default 800,
  text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_search_path alias for $5;
  v_began timestamptz := backfill_private.clock();
  v_batch jsonb;
  v_budget interval := p_budget_ms * interval '1 ms';
  v_approved_until timestamptz;
  v_until timestamptz;
  v_settings jsonb;
  v_part jsonb;
  v_well integer;
  v_is_alone boolean := false;
  v_answered integer[] := array[]::integer[];
  v_outcomes jsonb := '[]'::jsonb;
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'a call in bulk, milliseconds', p_budget_ms,
    'the name of the worker', p_worker));
  v_batch := backfill_private.bulk_begin(p_run_id, p_sessions);
  if v_batch ? 'look' then
    return v_batch;
  end if;
  v_approved_until := (v_batch ->> 'until')::timestamptz;
  v_until := least(backfill_private.clock() + v_budget, v_approved_until);
  perform set_config('request.headers',
    (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb
      || jsonb_build_object('x-backfill-run', p_run_id))::text,
    true);
  v_settings := backfill_private.settings_kept(
    array(select jsonb_array_elements_text(v_batch -> 'settings')), v_search_path);
  for v_part in
    select jsonb_agg(s.session order by s.place)
    from jsonb_array_elements(v_batch -> 'sessions') with ordinality as s (session, place)
    group by (s.place - 1) / 50
    order by min(s.place)
  loop
    v_well := backfill_private.bulk_some(
      v_batch, v_part, v_settings, v_search_path, v_answered <> '{}', v_until);
    v_answered := v_answered || array(
      select (v_part -> place ->> 'ordinal')::integer from generate_series(0, v_well - 1) as place);
    exit when v_well is distinct from jsonb_array_length(v_part);
  end loop;
  if v_well is null then
    v_well := cardinality(v_answered);
    -- What failed was rolled back. If nothing else was written, no row is locked.
    v_until := case
      when v_well > 0 then v_until
      else least(backfill_private.clock() + v_budget, v_approved_until) end;
    for v_part in select s from jsonb_array_elements(v_part) as s loop
      exit when backfill_private.clock() >= v_until;
      v_outcomes := v_outcomes
        || backfill_private.bulk_one(v_batch, v_part, v_settings, v_search_path, v_well > 0);
      v_well := v_well + (v_outcomes -> -1 ->> 'outcome' = 'answered')::integer;
      v_is_alone := v_well > 0 and backfill_private.leaves_behind();
      exit when v_is_alone;
    end loop;
    v_is_alone := v_is_alone or v_well = 1 and jsonb_path_exists(v_outcomes, '$[*] ? (@.outcome == "beside")');
  end if;
  return backfill_private.bulk_settle((v_batch ->> 'claim')::uuid, p_worker, v_answered, v_outcomes)
    || jsonb_build_object(
      'sessions', cardinality(v_answered) + jsonb_array_length(v_outcomes),
      'alone', v_is_alone,
      'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
end
$$;

comment on function public.backfill_bulk(uuid, text, integer, integer, text) is
  'Claim, score and settle a batch of a run in bulk, in one transaction. For the client.';

create function public.backfill_renew(p_run_id uuid, p_claim_id uuid)
returns integer
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.renew(p_run_id, p_claim_id)
$$;

comment on function public.backfill_renew(uuid, uuid) is
  'Renew the leases of a claim. For the client.';

create function public.backfill_settle(p_run_id uuid, p_claim_id uuid, p_outcomes jsonb)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.settle(p_run_id, p_claim_id, p_outcomes)
$$;

comment on function public.backfill_settle(uuid, uuid, jsonb) is
  'Settle a claimed batch. Each session''s receipts decide what became of it. For the client.';

create function public.backfill_verify_part(
  p_run_id uuid, p_so_far jsonb default null, p_budget_ms integer default 2000
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.verify_part(p_run_id, p_so_far, p_budget_ms)
$$;

comment on function public.backfill_verify_part(uuid, jsonb, integer) is
  'What is in the tables against what a run had planned, one part per call. For the client.';

-- What a run's scoring wrote, packed: the receipts of the last sessions before a place of its plan. All receipts of a
-- session come together.
--
-- p_before  before this place. Null: from the end
-- returns   [receipt_id, ordinal, session_id, component, operation, table_name, row_key, before_hash, after_hash,
--           attempt, at, undone_at] per receipt, hashes in hex
create function public.backfill_written(
  p_run_id uuid, p_before integer default null, p_sessions integer default 2000
)
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(json_agg(
    json_build_array(r.receipt_id, r.ordinal, r.session_id, r.component, r.operation, r.table_name, r.row_key,
      encode(r.before_hash, 'hex'), encode(r.after_hash, 'hex'), r.attempt, r.at, r.undone_at)
    order by r.ordinal desc, r.receipt_id), '[]')
  from (
    select x.run_id, x.ordinal
    from public.backfill_items as x
    where x.run_id = p_run_id
      and (p_before is null or x.ordinal < p_before)
      and exists (
        select from public.backfill_receipts as y
        where y.run_id = x.run_id
          and y.ordinal = x.ordinal
          and y.kind = 'score'
      )
    order by x.ordinal desc
    limit greatest(least(p_sessions, 2000), 0)
  ) as i
  join public.backfill_receipts as r
    on r.run_id = i.run_id
    and r.ordinal = i.ordinal
    and r.kind = 'score'
$$;

comment on function public.backfill_written(uuid, integer, integer) is
  'What a run''s scoring wrote, packed, the last sessions of the plan first. For the client.';

-- The rows that the undos of a run left behind.
create function public.backfill_left_behind(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.left_behind_rows(p_run_id)
$$;

comment on function public.backfill_left_behind(uuid) is
  'The rows that an undo of a run could not take back, each with the reason. For the client.';

create function public.backfill_preview_undo(
  p_run_id uuid, p_sessions text[] default null, p_since text default null, p_until text default null,
  p_budget_ms integer default null, p_undo_id bigint default null
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
  select backfill_private.preview_undo(p_run_id, p_sessions, p_since, p_until, p_budget_ms, p_undo_id)
$$;

comment on function public.backfill_preview_undo(uuid, text[], text, text, integer, bigint) is
  'What an undo of a run would take back: counts, conflicts and the digest that confirms it. For the client.';

create function public.backfill_undo_conflicts(p_run_id uuid, p_undo_id bigint, p_after bigint default 0)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.undo_conflicts_part(p_run_id, p_undo_id, p_after)
$$;

comment on function public.backfill_undo_conflicts(uuid, bigint, bigint) is
  'The next thousand rows that a previewed or confirmed undo of a run leaves, each with the reason. For the client.';

-- The last parameter is the caller's search path: a default is evaluated before this function's own path is set. It has
-- no name, so that no call through the API can give another.
create function public.backfill_confirm_undo(
  p_run_id uuid, p_digest text, p_reason text, p_sessions integer default 200, p_scope jsonb default null,
  text default current_setting('search_path')
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.confirm_undo(p_run_id, p_digest, p_reason, p_sessions, p_scope, $6)
$$;

comment on function public.backfill_confirm_undo(uuid, text, text, integer, jsonb, text) is
  'Carry out exactly the undo that was previewed, one part per call. For the client.';

-- Empty the before-images in the receipts of a finished run.
create function public.backfill_prune(run uuid)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.prune($1)
$$;

comment on function public.backfill_prune(uuid) is
  'Empty the before-images that a finished run keeps for undo. What it overwrote cannot be restored afterwards.';
