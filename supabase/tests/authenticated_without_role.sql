-- authenticated without a backfill role: a customer who signed in to the app and looks around.

begin;
\ir story.psql
select no_plan();

select pg_temp.planned('2025-09-01') as run \gset
select pg_temp.digest_of(:'run') as digest \gset
select pg_temp.become('customer');

-- the tables are there, the rows are not
select is_empty('select * from public.backfill_runs', 'a customer sees no run');
select is_empty('select run_id from public.backfill_items', 'no planned session');
select is_empty('select run_id from public.backfill_receipts', 'no receipt');
select is_empty('select * from public.backfill_events', 'no event');
select is_empty('select * from public.backfill_approvals', 'no decision');
select is_empty('select * from public.backfill_settings', 'no setting');
select is_empty('select * from public.backfill_targets', 'no target');
select is_empty('select * from public.backfill_run_progress', 'no progress');
select is_empty('select * from public.backfill_run_failures', 'no failure');
select is_empty(format('select public.backfill_find_runs(%L)', left(:'run', 8)), 'and finds no run by its id');
select throws_ok('select * from public.' || name, '42501', null, 'what sessions lack is not a customer''s to see: ' || name)
from unnest(array['backfill_candidates', 'backfill_missing_profiles', 'backfill_missing_fc_scores', 'backfill_daily_coverage']) as name;

-- nothing is done for one who has no role
select throws_ok('select public.backfill_open(''{"since": "2025-08-01"}'')', 'OB010', null, 'a customer plans nothing');
select throws_ok(format('select public.backfill_verify_part(%L)', :'run'), 'OB010', null, 'verifies nothing');
select throws_ok('select public.backfill_check()', 'OB010', null, 'checks nothing');
select throws_ok(format('select public.backfill_pause(%L, ''why not'')', :'run'), 'OB010', null, 'pauses nothing');
select throws_ok(format('select public.backfill_cancel(%L, ''why not'')', :'run'), 'OB010', null, 'cancels nothing');
select throws_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), 'OB005', null, 'approves nothing');
select throws_ok(format('select public.backfill_reject(%L, ''why not'')', :'run'), 'OB005', null, 'rejects nothing');

-- the role is read from auth.users, not from the token
select set_config('request.jwt.claims', (
  current_setting('request.jwt.claims')::jsonb
    || '{"app_metadata": {"backfill_role": "approver"}, "user_metadata": {"backfill_role": "approver"}}')::text, true) is not null
  as forged \gset
select throws_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), 'OB005', null, 'a role in the token alone is none');
select is_empty('select * from public.backfill_runs', 'and shows no run');

select pg_temp.become('postgres');
select is(pg_temp.state_of(:'run'), 'awaiting_approval', 'and the run is as it was');

select * from finish();
rollback;
