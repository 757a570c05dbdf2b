-- operator: somebody who plans, cannot approve what he planned, and holds the run when it must be held.

begin;
\ir story.psql
select no_plan();

-- plans
select pg_temp.become('omar', 'operator');
select pg_temp.planned('2025-09-01') as run \gset
select pg_temp.digest_of(:'run') as digest \gset
select is(pg_temp.state_of(:'run'), 'awaiting_approval', 'an operator''s plan waits for an approval');
select is((select requested_by from public.backfill_runs where run_id = :'run'),
  (current_setting('request.jwt.claims')::jsonb ->> 'sub')::uuid, 'and says who asked');

-- tries to approve
select throws_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), 'OB005', null, 'an operator approves nothing');
select throws_ok(
  format('insert into public.backfill_approvals (run_id, digest, decision) values (%L, %L, ''approved'')', :'run', :'digest'),
  'OB005', null, 'not by writing the decision either');
select throws_ok(
  format('insert into public.backfill_approvals (run_id, digest, decision, valid_until) values (%L, %L, ''approved'', ''infinity'')',
    :'run', :'digest'),
  '42501', null, 'and fills in nothing that the database fills in');
select throws_ok('update public.backfill_runs set state = ''approved''', '42501', null, 'moves no run by hand');
select throws_ok('update public.backfill_settings set approval_policy = ''any''', '42501', null, 'changes no policy');
select throws_ok(format('select public.backfill_start(%L, ''omar'')', :'run'), '42501', null, 'starts nothing: that takes the secret key');

-- somebody else approves, a worker starts
select pg_temp.become('ada', 'approver');
select lives_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), 'an approver approves');
select pg_temp.become('service_role');
select is(public.backfill_start(:'run', 'worker') ->> 'state', 'running', 'a worker starts the run');

-- holds it, lets it go, stops it
select pg_temp.become('omar');
select throws_ok(format('select public.backfill_pause(%L, '' '')', :'run'), 'OB013', null, 'a pause needs a reason');
select is(public.backfill_pause(:'run', 'the dashboard is red') ->> 'state', 'paused', 'an operator pauses');
select matches((select waits_for from public.backfill_run_progress where run_id = :'run'), '^resume: paused by user:.*: the dashboard is red$',
  'and everybody reads why');
select pg_temp.become('service_role');
select is(public.backfill_claim(:'run', gen_random_uuid(), 'worker') -> 'granted', '[]', 'a paused run grants nothing');
select pg_temp.become('omar');
select is(public.backfill_resume(:'run') ->> 'state', 'running', 'an operator resumes, under the same approval');
select is(public.backfill_cancel(:'run', 'the wrong week') ->> 'state', 'cancelled', 'an operator cancels');
select throws_ok(format('select public.backfill_resume(%L)', :'run'), 'OB002', null, 'what is cancelled does not come back');
select results_eq(
  format('select kind, split_part(actor, '':'', 1) from public.backfill_events where run_id = %L order by seq', :'run'),
  $$ values ('awaiting_approval', 'user'), ('approved', 'user'), ('running', 'service_role'), ('paused', 'user'),
       ('running', 'user'), ('cancelled', 'user') $$,
  'the chain has every move, and who made it');

select * from finish();
rollback;
