-- approver: the second person, who accepts exactly one digest of somebody else's plan.

begin;
\ir story.psql
select no_plan();

-- an operator plans twice, the approver once
select pg_temp.become('omar', 'operator');
select pg_temp.planned('2025-09-01') as run \gset
select pg_temp.planned('2025-08-01', '2025-08-31') as other \gset
select pg_temp.become('ada', 'approver');
select pg_temp.planned('2025-09-01') as own \gset
select pg_temp.digest_of(:'run') as digest \gset
select pg_temp.digest_of(:'own') as own_digest \gset

-- the own plan, the wrong digest
select throws_ok(format('select public.backfill_approve(%L, %L)', :'own', :'own_digest'),
  'OB005', 'a second person has to approve this plan, not the one who asked for it', 'nobody approves the own plan');
select throws_ok(format('select public.backfill_approve(%L, %L)', :'run', pg_temp.digest_of(:'other')),
  'OB004', null, 'the digest of another plan approves nothing');
select throws_ok(format('select public.backfill_approve(%L, repeat(''0'', 64))', :'run'), 'OB004', null, 'nor does any other');
select is(pg_temp.state_of(:'run'), 'awaiting_approval', 'the run still waits');

-- the right one
select is(public.backfill_approve(:'run', :'digest', 'somebody else', 'seen with Omar') ->> 'approver', 'ada@example.org',
  'an approver approves, under the own name');
select results_eq(
  format('select state, approved_by, approved_via, approved_until - approved_at from public.backfill_runs where run_id = %L', :'run'),
  $$ values ('approved', 'ada@example.org', 'auth', interval '7 days') $$, 'who, how, and until when stand in the run');
select throws_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), 'OB002', null, 'a run is decided once');
select throws_ok('update public.backfill_approvals set valid_until = ''infinity''', '42501', null, 'a decision does not change');
select throws_ok('delete from public.backfill_approvals', '42501', null, 'and does not go');
select throws_ok(format('select public.backfill_start(%L, ''ada'')', :'run'), '42501', null, 'an approver starts nothing');
select throws_ok(format('select public.backfill_confirm_undo(%L, repeat(''0'', 64), ''x'')', :'run'), '42501', null,
  'and undoes nothing');
select throws_ok(format('select public.backfill_approve_undo(%L, repeat(''0'', 64))', :'run'), 'OB019', null,
  'nor approves an undo that nobody previewed');

-- and no to the other
select is(public.backfill_reject(:'other', 'August was scored by hand') ->> 'state', 'rejected', 'an approver rejects');
select is((select reason from public.backfill_runs where run_id = :'other'), 'August was scored by hand', 'with a reason');
select pg_temp.become('service_role');
select throws_ok(format('select public.backfill_start(%L, ''worker'')', :'other'), 'OB002', null, 'what is rejected does not start');

-- the policy may ask for more
select pg_temp.become('postgres');
update public.backfill_settings set approval_policy = 'postgres_only' where only_row;
select pg_temp.become('omar');
select pg_temp.planned('2025-09-01') as third \gset
select pg_temp.become('ada');
select throws_ok(format('select public.backfill_approve(%L, %L)', :'third', pg_temp.digest_of(:'third')),
  'OB005', null, 'under postgres_only an approver approves nothing');

select pg_temp.become('postgres');
update public.backfill_settings set approval_policy = 'second_person', require_aal2 = true where only_row;
select pg_temp.become('ada');
select throws_ok(format('select public.backfill_approve(%L, %L)', :'third', pg_temp.digest_of(:'third')),
  'OB005', null, 'nor without the second factor that the project asks for');

-- and a role that is taken away is gone at once
select pg_temp.become('postgres');
update public.backfill_settings set require_aal2 = false where only_row;
update auth.users set raw_app_meta_data = '{}' where email = 'ada@example.org';
select pg_temp.become('ada');
select throws_ok(format('select public.backfill_approve(%L, repeat(''0'', 64))', :'third'), 'OB005', null,
  'without the role the same token approves nothing');

select * from finish();
rollback;
