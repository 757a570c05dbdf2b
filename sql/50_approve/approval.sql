-- Approval: a decision is a row. Its trigger decides whether it counts, and moves the run.

create table public.backfill_approvals (
  approval_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id),
  digest text not null,
  figures_hash text,
  sessions_hash text,
  decision text not null check (decision in ('approved', 'rejected')),
  approver text not null default '' check (length(approver) <= 200),
  approver_id uuid,
  via text not null default '',
  note text check (length(note) <= 500),
  decided_at timestamptz not null default backfill_private.clock(),
  valid_until timestamptz,
  standing_id uuid
);

-- An approval serves one run, and a run has one decision.
create unique index backfill_approvals_one_decision on public.backfill_approvals (run_id);

comment on table public.backfill_approvals is 'Decisions on plans: who, when, how, on which digest, valid until when.';
comment on column public.backfill_approvals.approval_id is 'Id of the decision.';
comment on column public.backfill_approvals.run_id is 'The run that was decided on.';
comment on column public.backfill_approvals.digest is 'The digest that the approver named: exactly this plan.';
comment on column public.backfill_approvals.figures_hash is
  'SHA-256 of the figures, marks and risk that stood beside the digest when it was decided.';
comment on column public.backfill_approvals.sessions_hash is
  'SHA-256 of the planned sessions, with their dates, as they stood when it was decided.';
comment on column public.backfill_approvals.decision is 'approved or rejected.';
comment on column public.backfill_approvals.approver is
  'Who decided: the name given, or the e-mail address of the Auth user.';
comment on column public.backfill_approvals.approver_id is 'The Auth user who decided. Null in the SQL editor.';
comment on column public.backfill_approvals.via is
  'sql: the SQL editor. auth: an Auth user''s token. service_key: the secret key, if the policy is any. standing: a '
  'standing approval, whose approver this is.';
comment on column public.backfill_approvals.note is 'What the approver added. For a rejection, the reason.';
comment on column public.backfill_approvals.decided_at is 'When it was decided.';
comment on column public.backfill_approvals.valid_until is 'When the approval runs out. Null for a rejection.';
comment on column public.backfill_approvals.standing_id is
  'The standing approval that covered the run. Null: a person decided on it.';

-- May the caller decide on what these users asked for?
--
-- p_policy    who decides, see approval_policy. Null, since the settings have no row: as second_person
-- p_asked_by  the Auth users who asked for it
-- p_what      what is decided on, in a sentence
-- p_sql       how it is decided in the SQL editor
-- raises      OB005 no, and why
create function backfill_private.check_approver(p_policy text, p_asked_by uuid[], p_what text, p_sql text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller record;
  v_needs_aal2 boolean := (select require_aal2 from public.backfill_settings) is distinct from false;
begin
  select * into v_caller from backfill_private.caller();
  if v_caller.kind = 'postgres' then
    return;
  elsif p_policy = 'postgres_only' then
    perform backfill_private.refuse('OB005',
      'the policy of this project is postgres_only: only the SQL editor decides', p_sql);
  elsif v_caller.kind = 'service_role' and p_policy is distinct from 'any' then
    perform backfill_private.refuse('OB005', format('the service key does not decide on %ss', p_what), p_sql);
  elsif v_caller.kind = 'user' and coalesce(v_caller.backfill_role, '') <> 'approver' then
    perform backfill_private.refuse('OB005', 'this user does not have the role approver', p_sql);
  elsif v_caller.kind = 'user' and p_policy is distinct from 'any' and v_caller.user_id = any (p_asked_by) then
    perform backfill_private.refuse('OB005',
      format('a second person has to approve this %s, not the one who asked for it', p_what), p_sql);
  elsif v_caller.kind = 'nobody' then
    perform backfill_private.refuse('OB005', format('this caller may not decide on %ss', p_what), p_sql);
  elsif v_needs_aal2
    and (v_caller.kind <> 'user' or backfill_private.claims() ->> 'aal' is distinct from 'aal2') then
    perform backfill_private.refuse('OB005',
      format('this project decides on %ss with a second factor, which this caller has not given', p_what),
      'sign in with it: backfill login, or ' || p_sql);
  end if;
end
$$;

-- Refuse to approve any plan but the one that is there now. Its figures and marks are those of the sealing: the chain
-- has their hash.
--
-- raises  OB004 the digest named is not the plan's
--         OB007 the plan or its surroundings changed, the server among them
create function backfill_private.check_digest(p_run public.backfill_runs, p_digest text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_digest is distinct from p_run.digest then
    perform backfill_private.refuse('OB004',
      format('digest %s is not that of run %s, which is %s',
        backfill_private.told_apart(p_digest, p_run.digest),
        p_run.run_id,
        backfill_private.told_apart(p_run.digest, p_digest)),
      format('backfill show %s', p_run.run_id));
  elsif backfill_private.compute_digest(p_run.run_id) <> p_run.digest then
    perform backfill_private.refuse('OB007',
      format('what run %s planned is no longer what stands there: %s',
        p_run.run_id, backfill_private.what_changed(p_run)),
      backfill_private.hint(p_run, 'plan'));
  elsif backfill_private.figures_hash(p_run.plan) <> (
    select e.details ->> 'figures_hash'
    from public.backfill_events as e
    where e.run_id = p_run.run_id
      and e.kind = 'awaiting_approval'
  ) then
    perform backfill_private.refuse('OB007',
      format('the figures or marks of run %s are not those that were measured', p_run.run_id),
      backfill_private.hint(p_run, 'plan'));
  end if;
end
$$;

-- What says of an approved plan that its figures or marks are not what the approver read. Null if they are, if it was
-- never approved, or if the caller may not read.
create function backfill_private.unlike_approved(p_run_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select 'the figures or marks of this plan are not those that were approved'
  from public.backfill_runs as r
  join public.backfill_approvals as a using (run_id)
  where r.run_id = p_run_id
    and a.decision = 'approved'
    and a.figures_hash is distinct from backfill_private.figures_hash(r.plan)
    and backfill_private.may('read')
$$;

-- What is no longer as an approver decided it, in words. No row if all is.
create function backfill_private.approval_faults(p_run_id uuid)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with decided as (
    select e.seq, e.kind, e.details
    from public.backfill_events as e
    where e.run_id = p_run_id
      and e.kind in ('approved', 'rejected')
  )
  select f.fault
  from decided as d
  left join public.backfill_approvals as a on a.run_id = p_run_id
  cross join lateral (
    values
      (
        (a.decision, a.digest, a.approver, a.via, a.figures_hash, a.sessions_hash) is distinct from
          (d.kind, d.details ->> 'digest', d.details ->> 'approver', d.details ->> 'via',
            d.details ->> 'figures_hash', d.details ->> 'sessions_hash'),
        format('audit event %s: the decision that it tells is not the one in backfill_approvals', d.seq)),
      (
        a.sessions_hash <> backfill_private.sha256_hex(backfill_private.planned_text(p_run_id)),
        'the plan: its sessions or their dates are not those that were approved')
  ) as f (is_so, fault)
  where f.is_so
  union all
  select 'the plan: ' || u from backfill_private.unlike_approved(p_run_id) as u where u is not null
$$;

-- Carry out a decision: fill in what it stands on, and move the run. Its locked row is the one decided on.
--
-- p_until    it is not valid for longer
-- p_details  what else the chain tells
-- returns    the decision as it is kept
create function backfill_private.carried_out(
  p_decision public.backfill_approvals, p_run public.backfill_runs, p_until timestamptz, p_details jsonb
)
returns public.backfill_approvals
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_new public.backfill_approvals := p_decision;
  v_is_approval boolean := p_decision.decision = 'approved';
begin
  v_new.digest := p_run.digest;
  v_new.figures_hash := backfill_private.figures_hash(p_run.plan);
  v_new.sessions_hash := backfill_private.sha256_hex(backfill_private.planned_text(p_run.run_id));
  v_new.decided_at := backfill_private.clock();
  v_new.valid_until := case when v_is_approval
    then least(v_new.decided_at + (backfill_private.settings()).approval_ttl, p_until) end;
  update public.backfill_runs
  set approved_by = case when v_is_approval then v_new.approver end,
      approved_via = case when v_is_approval then v_new.via end,
      approved_at = case when v_is_approval then v_new.decided_at end,
      approved_until = v_new.valid_until
  where run_id = p_run.run_id;
  perform backfill_private.move(p_run.run_id, v_new.decision, v_new.note,
    jsonb_build_object('digest', v_new.digest, 'figures_hash', v_new.figures_hash,
      'sessions_hash', v_new.sessions_hash, 'approver', v_new.approver, 'via', v_new.via) || p_details);
  return v_new;
end
$$;

-- Decide: fills in what the caller cannot choose, refuses what the caller may not do, moves the run. Who may not decide
-- is refused before anything is locked. What a standing approval decides is in 55_standing/use.sql.
--
-- raises  OB001 no such run
--         OB002 nothing to decide
--         OB004, OB005, OB007 as above
--         OB008 another environment
--         OB013 a rejection without a reason, a name that names nobody, no or another decision, something too long, or
--         an approval while the settings are gone
create function backfill_private.decide()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  if new.decision in ('approved', 'rejected') is not true then
    perform backfill_private.refuse('OB013',
      format('a decision is approved or rejected, not %s', coalesce(left(new.decision, 40), 'null')),
      format('backfill approve %s', new.run_id));
  end if;
  perform backfill_private.check_bounds(jsonb_build_object(
    'the approver''s name', new.approver,
    'the digest', new.digest,
    case new.decision when 'rejected' then 'the reason' else 'the note' end, new.note));
  select * into v_run from public.backfill_runs where run_id = new.run_id;
  if not found then
    perform backfill_private.refuse_run(format('there is no run %s', new.run_id));
  end if;
  perform backfill_private.check_name(new.approver);
  perform backfill_private.check_approver(
    (select approval_policy from public.backfill_settings),
    array[v_run.requested_by],
    'plan',
    concat_ws(e'\n', 'in the SQL editor:', format('select public.%I(%L, %L, %L);',
      'backfill_approve', v_run.run_id, v_run.digest, coalesce(nullif(btrim(new.approver), ''), 'your name'))));
  v_run := backfill_private.locked_run(new.run_id, array['awaiting_approval']);
  if new.decision = 'approved' then
    -- A plan made before the project got its name may have been made for another one.
    perform backfill_private.check_environment(coalesce(v_run.environment, 'unnamed'));
    perform backfill_private.check_digest(v_run, new.digest);
  elsif backfill_private.said(new.note) is null then
    perform backfill_private.refuse('OB013', 'a rejection needs a reason',
      format('backfill reject %s --reason "…"', new.run_id));
  end if;
  select y.approver, y.approver_id, y.via into new.approver, new.approver_id, new.via
  from backfill_private.signed_by(new.approver) as y;
  return backfill_private.carried_out(new, v_run, null, '{}');
end
$$;

create trigger backfill_approvals_decide before insert on public.backfill_approvals
  for each row when (new.standing_id is null) execute function backfill_private.decide();
