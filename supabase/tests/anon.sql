-- anon: somebody with the public key, who wants to know what there is and finds every door closed.

begin;
\ir story.psql
select no_plan();

select pg_temp.planned('2025-09-01') as run \gset
select pg_temp.digest_of(:'run') as digest \gset
select pg_temp.become('anon');

select throws_ok(format('select * from public.%I', name), '42501', null, 'anon does not read ' || name)
from pg_temp.relations() as name;
select throws_ok(format('insert into public.%I select', name), '42501', null, 'anon does not write ' || name)
from pg_temp.relations() as name where name in ('backfill_runs', 'backfill_settings', 'backfill_approvals');
select throws_ok('select backfill_private.clock()', '42501', null, 'anon does not enter the private schema');

select throws_ok('select public.backfill_open(''{"since": "2025-08-01"}'')', '42501', null, 'anon plans nothing');
select throws_ok(format('select public.backfill_approve(%L, %L)', :'run', :'digest'), '42501', null, 'anon approves nothing');
select throws_ok(
  format('insert into public.backfill_approvals (run_id, digest, decision) values (%L, %L, ''approved'')', :'run', :'digest'),
  '42501', null, 'not by writing the decision either');
select is_empty(
  $$ select p.oid::regprocedure::text from pg_proc as p
     where p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\_%'
       and has_function_privilege('anon', p.oid, 'execute') $$,
  'there is no function of ours that anon may call');

-- a forged claim is only text: the rights are those of the role
select set_config('request.jwt.claims', '{"role": "service_role"}', true) is not null as forged \gset
select throws_ok(format('select public.backfill_pause(%L, ''forged'')', :'run'), '42501', null, 'a forged claim opens nothing');

select pg_temp.become('postgres');
select is(pg_temp.state_of(:'run'), 'awaiting_approval', 'and the run is as it was');

select * from finish();
rollback;
