-- viewer: somebody who follows a run and does nothing to it.

begin;
\ir story.psql
select no_plan();

select pg_temp.planned('2025-09-01') as run \gset
select pg_temp.digest_of(:'run') as digest \gset
select pg_temp.become('vera', 'viewer');

-- follows
select is(pg_temp.state_of(:'run'), 'awaiting_approval', 'a viewer sees the run');
select is(pg_temp.digest_of(:'run'), :'digest', 'its digest');
select isnt_empty('select ordinal, session_id, state from public.backfill_items', 'its sessions');
select isnt_empty('select kind, actor from public.backfill_events', 'its events');
select is((select waits_for from public.backfill_run_progress where run_id = :'run'),
  'approval: of digest ' || :'digest', 'and what it waits for');
select lives_ok(format('select public.backfill_verify_part(%L)', :'run'), 'a viewer verifies');
select lives_ok('select public.backfill_check()', 'and checks the project');
select throws_ok('select before from public.backfill_receipts', '42501', null, 'a viewer does not see people''s rows');
select throws_ok('select fence_hash from public.backfill_items', '42501', null, 'nor the hash of a fence');
select throws_ok('select * from public.backfill_candidates', '42501', null, 'nor what sessions lack: that takes the service''s sight');

-- and does nothing
select throws_ok('select public.backfill_open(''{"since": "2025-08-01"}'')', 'OB010', null, 'a viewer plans nothing');
select throws_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), 'OB005', null, 'approves nothing');
select throws_ok(
  format('insert into public.backfill_approvals (run_id, digest, decision) values (%L, %L, ''approved'')', :'run', :'digest'),
  'OB005', null, 'not by writing the decision either');
select throws_ok(format('select public.backfill_reject(%L, ''no'')', :'run'), 'OB005', null, 'rejects nothing');
select throws_ok(format('select public.backfill_pause(%L, ''no'')', :'run'), 'OB010', null, 'pauses nothing');
select throws_ok(format('select public.backfill_resume(%L)', :'run'), 'OB010', null, 'resumes nothing');
select throws_ok(format('select public.backfill_cancel(%L, ''no'')', :'run'), 'OB010', null, 'cancels nothing');
select throws_ok(format('select public.backfill_start(%L, ''vera'')', :'run'), '42501', null, 'starts nothing');
select throws_ok(format('select public.backfill_claim(%L, gen_random_uuid(), ''vera'')', :'run'), '42501', null, 'takes no lease');
select throws_ok(format('select public.backfill_prune(%L)', :'run'), '42501', null, 'prunes nothing');
select throws_ok('update public.backfill_runs set state = ''approved''', '42501', null, 'and moves no run by hand');

select is(pg_temp.state_of(:'run'), 'awaiting_approval', 'the run is as it was');

select * from finish();
rollback;
