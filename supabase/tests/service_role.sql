-- service_role: the secret key. It plans and does the work, and tries to do it without an approval.

begin;
\ir story.psql
select no_plan();

-- plans
select pg_temp.become('service_role');
select pg_temp.planned('2025-09-01') as run \gset
select pg_temp.digest_of(:'run') as digest \gset
select is(pg_temp.state_of(:'run'), 'awaiting_approval', 'the service plans, and the run halts');
select throws_ok(format('select public.backfill_start(%L, ''worker'')', :'run'), 'OB003', null, 'without an approval it does not start');
select is(public.backfill_claim(:'run', gen_random_uuid(), 'worker') -> 'granted', '[]', 'and grants nothing');

-- tries to approve
select throws_ok(format('select public.backfill_approve(%L, %L, ''Ada'')', :'run', :'digest'), 'OB005', null, 'the service approves nothing');
select throws_ok(
  format('insert into public.backfill_approvals (run_id, digest, decision) values (%L, %L, ''approved'')', :'run', :'digest'),
  'OB005', null, 'not by writing the decision either');
select throws_ok(
  format('insert into public.backfill_approvals (run_id, digest, decision, via) values (%L, %L, ''approved'', ''sql'')', :'run', :'digest'),
  '42501', null, 'nor by saying how it was made');
select throws_ok(format('select public.backfill_reject(%L, ''no'')', :'run'), 'OB005', null, 'and rejects nothing');
select throws_ok('update public.backfill_runs set state = ''approved'', approved_until = ''infinity''', '42501', null, 'moves no run by hand');
select throws_ok('update public.backfill_settings set approval_policy = ''any''', '42501', null, 'changes no policy');
select throws_ok('update public.backfill_targets set function_signature = ''public.other(uuid)''', '42501', null, 'changes no target');
select throws_ok('alter table public.backfill_approvals disable trigger all', '42501', null, 'switches no trigger off');
select throws_ok('set session_replication_role = replica', '42501', null, 'not that way either');
select throws_ok(format('select backfill_private.move(%L, ''approved'')', :'run'), '42501', null, 'calls nothing behind the doors');
select set_config('request.jwt.claims', jsonb_build_object('role', 'authenticated', 'sub', gen_random_uuid(),
  'app_metadata', jsonb_build_object('backfill_role', 'approver'))::text, true) is not null as forged \gset
select throws_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), 'OB005', null, 'a forged user approves nothing');

-- somebody approves, the work begins
select pg_temp.become('ada', 'approver');
select lives_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), 'an approver approves');
select pg_temp.become('service_role');
select is(public.backfill_start(:'run', 'worker') ->> 'state', 'running', 'now it starts');
select gen_random_uuid() as claim \gset
select public.backfill_claim(:'run', :'claim', 'worker') as answer \gset
select is(jsonb_array_length(:'answer'::jsonb -> 'granted'), 5, 'a batch is granted');
select is(public.backfill_claim(:'run', gen_random_uuid(), 'worker') ->> 'wait_for', 'throttle', 'and the next one has to wait');

-- writes under the fence, and only there
select throws_ok(
  format('select pg_temp.score(%L, %L)', :'run', jsonb_set(:'answer'::jsonb #> '{granted,0}', '{fence}', '"guessed"')),
  'OB011', null, 'a guessed fence writes nothing');
select throws_ok(
  format('select pg_temp.score(%L, %L)', :'run',
    jsonb_set(:'answer'::jsonb #> '{granted,0}', '{fence}', :'answer'::jsonb #> '{granted,1,fence}')),
  'OB018', null, 'the fence of one session writes no row of another');
select lives_ok(
  format('select pg_temp.score(%L, g) from jsonb_array_elements(%L::jsonb -> ''granted'') as g', :'run', :'answer'),
  'the granted sessions are scored');
select is(
  (select count(*) from public.backfill_receipts where run_id = :'run'),
  (select sum(jsonb_array_length(g -> 'steps')) from jsonb_array_elements(:'answer'::jsonb -> 'granted') as g)::bigint,
  'every written row has its receipt');
select throws_ok('select before from public.backfill_receipts', '42501', null, 'whose contents the service does not read');
select is(
  (select count(*) from jsonb_array_elements(public.backfill_settle(:'run', :'claim', (
    select jsonb_agg(jsonb_build_object('ordinal', g -> 'ordinal', 'outcome', 'answered'))
    from jsonb_array_elements(:'answer'::jsonb -> 'granted') as g)) -> 'settled') as s where s ->> 'state' = 'done'),
  5::bigint, 'and settled');
select throws_ok(
  format('select pg_temp.score(%L, %L)', :'run', :'answer'::jsonb #> '{granted,0}'),
  'OB011', null, 'after that the fence is stale');

-- and takes it back, with a reason
select throws_ok(format('select public.backfill_preview_undo(%L)', :'run'), 'OB002', null, 'a running run is not undone');
select is(public.backfill_cancel(:'run', 'enough') ->> 'state', 'cancelled', 'the service cancels');
select public.backfill_preview_undo(:'run') ->> 'digest' as preview \gset
select throws_ok(format('select public.backfill_confirm_undo(%L, repeat(''0'', 64), ''why'')', :'run'), 'OB019', null,
  'only the digest just previewed is undone');
select throws_ok(format('select public.backfill_confirm_undo(%L, %L, '''')', :'run', :'preview'), 'OB013', null, 'and only with a reason');
select is(public.backfill_confirm_undo(:'run', :'preview', 'a story') ->> 'remaining', '0', 'then it is undone');
select is(pg_temp.state_of(:'run'), 'rolled_back', 'no session is left done');
select throws_ok('delete from public.backfill_events', '42501', null, 'what happened stays in the chain');
select throws_ok('truncate public.backfill_events', '42501', null, 'all of it');

select * from finish();
rollback;
