-- PRISM: the gate and the receipts on the two target tables. The lock is short and is not waited for long.

set local lock_timeout = '3s';

create trigger backfill_receipt
  after insert or update or delete on public.fc_scores
  for each row
  when (nullif(current_setting('request.headers', true), '') like '%x-backfill-run%')
  execute function backfill_private.keep_receipt('prism', 'fc_scores');
create trigger backfill_no_truncate
  before truncate on public.fc_scores
  for each statement
  when (nullif(current_setting('request.headers', true), '') like '%x-backfill-run%')
  execute function backfill_private.refuse_truncate();
alter table public.fc_scores enable always trigger backfill_receipt;
alter table public.fc_scores enable always trigger backfill_no_truncate;

create trigger backfill_receipt
  after insert or update or delete on public.profiles
  for each row
  when (nullif(current_setting('request.headers', true), '') like '%x-backfill-run%')
  execute function backfill_private.keep_receipt('prism', 'profile');
create trigger backfill_no_truncate
  before truncate on public.profiles
  for each statement
  when (nullif(current_setting('request.headers', true), '') like '%x-backfill-run%')
  execute function backfill_private.refuse_truncate();
alter table public.profiles enable always trigger backfill_receipt;
alter table public.profiles enable always trigger backfill_no_truncate;

-- A truncate of a single partition runs no trigger of its parents. A partition made later lacks this guard: then a run
-- holds at its next claim, and check says the SQL.
do $$
declare
  v_partition regclass;
begin
  for v_partition in
    select part.relid
    from (values ('public.fc_scores'::regclass), ('public.profiles')) as t (oid)
    cross join lateral pg_partition_tree(t.oid) as part
    where part.level > 0
  loop
    execute format($sql$create trigger backfill_no_truncate before truncate on %s for each statement
      when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-run%%')
      execute function backfill_private.refuse_truncate()$sql$, v_partition);
    execute format('alter table %s enable always trigger backfill_no_truncate', v_partition);
  end loop;
end
$$;
