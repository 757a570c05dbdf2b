-- Transient: what must not outlive its transaction. The run that a rehearsal leases to is rolled back, and a call in
-- bulk is settled before it ends.
--
-- The doors see to that. Anyone who can send SQL could begin either without its door, and commit: a run that nobody
-- approved would be there, and run, and rows in bulk would have no receipt. So the commit is refused. A deferred
-- constraint is the only thing of PostgreSQL's that looks at a transaction's end.

-- Refuse to commit a row. `set constraints all immediate` asks too early, as a check of the user's deferred constraints
-- does: then the question is put off again. Who asks is told by the calls on the stack. At a commit there is none, or
-- the one that commits.
--
-- tg_argv  the row's key, what is said of it
-- raises   OB011 the row is still there
create function backfill_private.refuse_to_commit()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stack text;
  v_is_there boolean;
begin
  execute format('select exists (select from %1$s as t where t.%2$I = ($1).%2$I)', tg_relid::regclass, tg_argv[0])
  into v_is_there using new;
  if not v_is_there then
    return null;
  end if;
  get diagnostics v_stack = pg_context;
  if v_stack !~ '\n' or v_stack ~ ' COMMIT(\n|$)' then
    perform backfill_private.refuse('OB011', tg_argv[1], 'use the doors: backfill plan, backfill apply');
  end if;
  execute format('set constraints %I.%I deferred', tg_table_schema, tg_name);
  execute format('update %1$s as t set %2$I = t.%2$I where t.%2$I = ($1).%2$I', tg_relid::regclass, tg_argv[0])
  using new;
  return null;
end
$$;

create constraint trigger backfill_runs_rehearsed after insert or update on public.backfill_runs
  deferrable initially deferred
  for each row when (new.requested_via = 'rehearsal')
  execute function backfill_private.refuse_to_commit('run_id', 'the run of a rehearsal is rolled back, not committed');
