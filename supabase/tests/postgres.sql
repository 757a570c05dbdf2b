-- postgres: the SQL editor. It approves, it sets the policy, and still a sealed plan does not change under it unseen.

begin;
\ir story.psql
select no_plan();

-- plans and approves: without a token it is nobody's requester
select pg_temp.planned('2025-09-01') as run \gset
select pg_temp.digest_of(:'run') as digest \gset
select throws_ok(format('select public.backfill_approve(%L, repeat(''0'', 64), ''Ada'')', :'run'), 'OB004', null, 'not any digest');
select is(public.backfill_approve(:'run', :'digest', 'Ada') - 'valid_until',
  jsonb_build_object('run_id', :'run', 'state', 'approved', 'digest', :'digest', 'approver', 'Ada', 'via', 'sql'),
  'the SQL editor approves, under the name that is given');

-- a session that carries somebody's claims is not the SQL editor
select pg_temp.planned('2025-09-01') as second \gset
select set_config('request.jwt.claims', '{"role": "service_role"}', true) is not null as carried \gset
select throws_ok(format('select public.backfill_approve(%L, %L)', :'second', pg_temp.digest_of(:'second')), 'OB005', null,
  'under the claims of a token even the owner approves nothing');
select pg_temp.become('postgres');

-- a sealed plan does not change
select throws_ok('update public.backfill_runs set digest = repeat(''0'', 64)', 'OB007', null, 'a sealed digest does not change');
select throws_ok('update public.backfill_runs set request = request || ''{"batch_size": 500}''', 'OB007', null, 'nor a parameter');
select throws_ok('update public.backfill_items set session_id = session_id || ''x''', 'OB007', null, 'nor a session');
select throws_ok(format('delete from public.backfill_items where run_id = %L and ordinal = 1', :'run'), 'OB007', null, 'no session goes');
select throws_ok(
  format('insert into public.backfill_items (run_id, ordinal, source, session_id, session_at, components, category, phase, batch)
    select run_id, 999, source, ''x'', session_at, components, category, phase, batch
    from public.backfill_items where run_id = %L and ordinal = 1', :'run'),
  'OB007', null, 'and none comes');
select throws_ok(format('update public.backfill_runs set state = ''completed'' where run_id = %L', :'run'), 'OB002', null,
  'a run makes legal moves only');
select throws_ok('truncate public.' || name, 'OB007', null, name || ' is never truncated')
from unnest(array['backfill_items', 'backfill_receipts', 'backfill_approvals', 'backfill_events']) as name;

-- where a guard was off, the digest tells
alter table public.backfill_items disable trigger backfill_items_guard;
update public.backfill_items set phase = 'priority' where run_id = :'run' and ordinal = 1;
alter table public.backfill_items enable trigger backfill_items_guard;
select results_eq(
  format('select s ->> ''state'', s ->> ''reason'' from public.backfill_start(%L, ''worker'') as s', :'run'),
  $$ values ('paused',
    'what was approved is no longer what stands there: the plan''s rows, the environment or the server') $$,
  'a plan that was changed under the guard is held when it starts');
select throws_ok(format('select public.backfill_resume(%L)', :'run'), 'OB007', null, 'and is not resumed');

-- and where the chain was cut, verify tells
select is(
  (select c ->> 'status' from jsonb_array_elements(public.backfill_verify_part(:'run') -> 'verification' -> 'criteria') as c
   where c ->> 'name' = 'audit_complete'), 'pass', 'the chain is whole');
delete from public.backfill_events where run_id = :'run' and seq = (select max(seq) from public.backfill_events where run_id = :'run');
select is(
  (select c ->> 'status' from jsonb_array_elements(public.backfill_verify_part(:'run') -> 'verification' -> 'criteria') as c
   where c ->> 'name' = 'audit_complete'), 'fail', 'a tail that was cut shows');

-- the settings are postgres' alone
select lives_ok('update public.backfill_settings set environment = ''production'' where only_row', 'the SQL editor sets the environment');
select throws_ok('select public.backfill_open(''{"since": "2025-08-01", "environment": "staging"}'')', 'OB008', null,
  'and a plan for another one is refused');
select throws_ok('insert into public.backfill_settings default values', '23505', null, 'there is one row of settings');

select * from finish();
rollback;
